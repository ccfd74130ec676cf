#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tokenizer_families.json: small tokenizers of every family, and what Hugging Face's tokenizers make of strings with them.

    make_tokenizer_families.py            (needs tokenizers, transformers and gguf)

families: name, GGUF's name of the pre-tokenizer or null, the tokenizer.json, and rows of
[text, ids, ids with control tokens left in the text, decoded text of the ids, decoded text of the second ids without control tokens]
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench"))
import tokenizer_families as families  # noqa: E402

STRINGS = 60
LONGEST = 60  # characters: a small vocabulary makes many tokens


def rows(own):
    plain, named = families.oracles(own)
    names = [t.content for t in own.get_added_tokens_decoder().values()]
    draw = families.Texts(3, names + [n[:-1] for n in names])
    for _ in range(STRINGS):
        text = draw.string()[:LONGEST]
        ids, plain_ids = own.encode(text).ids, plain.encode(text).ids
        yield [text, ids, plain_ids, named.decode(ids, skip_special_tokens=False), named.decode(plain_ids, skip_special_tokens=True)]


def main():
    families.SIZES.update({"bytes": 420, "tokens": 420, "characters": 200, "texts": 2000})
    out = []
    for name, (pre, make) in families.FAMILIES.items():
        own = make()
        out.append({"name": name, "pre": pre, "tokenizer": json.loads(own.to_str()), "rows": list(rows(own))})
    with open(os.path.join(HERE, "tokenizer_families.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"), ensure_ascii=False)
        f.write("\n")


if __name__ == "__main__":
    main()
