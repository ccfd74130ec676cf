# SPDX-License-Identifier: Apache-2.0
"""Writes OUT.gguf: for each stored type a tensor stored.TYPE of random blocks, and expected.TYPE, what the gguf package decodes it to.

    make_dequantize.py tests/golden/dequantize.gguf
"""
import sys

import gguf
import numpy as np

ROWS, COLS = 3, 64


def scales(rng, n):
    """Any finite f16, denormals and negative ones among them."""
    bits = rng.integers(0, 65536, n).astype(np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] = 0x3C00
    bits[:2] = 0x0001, 0x8000
    return bits.view(np.uint8).reshape(n, 2)


def blocks(rng, kind):
    n = ROWS * COLS // 32
    raw = rng.integers(0, 256, (n, {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind])).astype(np.uint8)
    raw[:, :2] = scales(rng, n)
    if kind == "Q4_1":
        raw[:, 2:4] = scales(rng, n)
    return raw.reshape(ROWS, -1)


out = gguf.GGUFWriter(sys.argv[1], "dequantize")
rng = np.random.default_rng(0)
for kind in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]:
    number = gguf.GGMLQuantizationType[kind]
    if kind.startswith("Q"):
        raw = blocks(rng, kind)
    else:
        raw = gguf.quants.quantize(rng.standard_normal((ROWS, COLS)).astype(np.float32), number)
    out.add_tensor("stored." + kind, raw, raw_dtype=number)
    out.add_tensor("expected." + kind, gguf.quants.dequantize(raw, number).astype(np.float32))
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
