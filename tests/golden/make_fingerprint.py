# SPDX-License-Identifier: Apache-2.0
"""Prints the base fingerprint of a make_tiny_model.py model (F32) straight from its Hugging Face weights and configuration, as doc/FORMATS.md defines it.
check_model_file has the figures.
"""
import hashlib
import struct

from make_tiny_model import SHAPE, weights


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def scalars():
    counts = struct.pack("<3Q", *(SHAPE[k] for k in ("heads", "kv_heads", "head_size")))
    reals = b"".join(struct.pack("<fI", SHAPE[k], 0) for k in ("norm_epsilon", "rope_theta"))
    return hashlib.blake2b(text("llama") + counts + reals, digest_size=32, person=b"sakiori-scalars").digest()


def fingerprint(tensors):
    root = hashlib.blake2b(struct.pack("<Q", len(tensors)), digest_size=32, person=b"sakiori-base")
    for name in sorted(tensors):
        w = tensors[name]
        head = text(name) + text("F32") + struct.pack(f"<{1 + w.ndim}Q", w.ndim, *w.shape)
        root.update(hashlib.blake2b(head + w.tobytes(), digest_size=32, person=b"sakiori-leaf").digest())
    root.update(scalars())
    return root.hexdigest()


for tied in (True, False):
    print("tied" if tied else "untied", fingerprint(weights(0, tied)))
