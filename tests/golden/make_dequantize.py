# SPDX-License-Identifier: Apache-2.0
"""Writes OUT.gguf: for each stored type a tensor stored.TYPE of random blocks, and expected.TYPE, what the gguf package decodes it to;
values of many sizes (plain), and quantized.TYPE, what the package makes of them for each type that is written here.

    make_dequantize.py tests/golden/dequantize.gguf
"""
import sys

import gguf
import numpy as np

ROWS, COLS = 3, 256
# Values and bytes of a block, and where its f16 numbers lie.
LAYOUTS = {
    "Q8_0": (32, 34, [0]), "Q4_0": (32, 18, [0]), "Q4_1": (32, 20, [0, 2]), "Q5_0": (32, 22, [0]), "Q5_1": (32, 24, [0, 2]),
    "Q4_K": (256, 144, [0, 2]), "Q5_K": (256, 176, [0, 2]), "Q6_K": (256, 210, [208]),
}


def scales(rng, n):
    """Any finite f16, denormals and negative ones among them."""
    bits = rng.integers(0, 65536, n).astype(np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] = 0x3C00
    bits[:2] = 0x0001, 0x8000
    return bits.view(np.uint8).reshape(n, 2)


def blocks(rng, kind):
    values, size, floats = LAYOUTS[kind]
    n = ROWS * COLS // values
    raw = rng.integers(0, 256, (n, size)).astype(np.uint8)
    for at in floats:
        raw[:, at:at + 2] = scales(rng, n)
    return raw.reshape(ROWS, -1)


out = gguf.GGUFWriter(sys.argv[1], "dequantize")
rng = np.random.default_rng(0)
for kind in ["F32", "F16", "BF16", *LAYOUTS]:
    number = gguf.GGMLQuantizationType[kind]
    if kind.startswith("Q"):
        raw = blocks(rng, kind)
    else:
        raw = gguf.quants.quantize(rng.standard_normal((ROWS, COLS)).astype(np.float32), number)
    out.add_tensor("stored." + kind, raw, raw_dtype=number)
    out.add_tensor("expected." + kind, gguf.quants.dequantize(raw, number).astype(np.float32))
plain = (rng.standard_normal((ROWS, COLS)) * 10.0 ** rng.integers(-9, 4, (ROWS, COLS // 32)).repeat(32, axis=1)).astype(np.float32)
plain[0, :32] = 0
plain[0, 32:64] = np.arange(-16, 16) / 2  # halves, and -8 as the largest
plain[0, 64] = 127  # a scale of 1: the halves beside it are ties
plain[0, 65:96] = np.arange(31) - 15.5
out.add_tensor("plain", plain)
for kind in ["F32", "F16", "BF16", "Q8_0"]:
    number = gguf.GGMLQuantizationType[kind]
    out.add_tensor("quantized." + kind, gguf.quants.quantize(plain, number), raw_dtype=number)
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
