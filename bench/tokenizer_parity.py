#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Is `sakiori tokenize` equal to Hugging Face's tokenizers on 10,000 strings?

    tokenizer_parity.py SAKIORI MODEL.gguf           compares with the digest in tests/golden/ (python3 alone)
    tokenizer_parity.py SAKIORI MODEL.gguf --hf      compares every string with tokenizers (needs transformers and gguf)
    tokenizer_parity.py SAKIORI MODEL.gguf --hf --write   and writes the digest anew

The strings come from a fixed seed: many scripts, emoji, combining marks, runs of white space, digits, code, control characters,
long words, names of control tokens. Only characters that Unicode 14 knows or nobody ever will: PCRE2 of Debian 12 does not know later ones.

The reference is the model's own tokenizer: transformers leaves SmolLM2's digit splitting out when it reads a GGUF file, so it is
put back (pre-tokenizer Sequence[Digits(individual), ByteLevel], as in the model's tokenizer.json). --hf also says on how many
strings transformers' own reading of the file differs from that.
"""
import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden", "tokenizer_parity.json")
COUNT = 10000
SEED = 20260

SCRIPTS = {
    "latin": [(0x20, 0x7E), (0xC0, 0x24F)], "greek": [(0x391, 0x3A1), (0x3A3, 0x3A9), (0x3B1, 0x3C9)],
    "cyrillic": [(0x410, 0x44F), (0x450, 0x45F)], "armenian": [(0x531, 0x556), (0x561, 0x586)],
    "hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5BD)], "arabic": [(0x621, 0x63A), (0x641, 0x652), (0x660, 0x669)],
    "devanagari": [(0x905, 0x939), (0x93E, 0x94D), (0x966, 0x96F)], "bengali": [(0x995, 0x9A8), (0x9E6, 0x9EF)],
    "tamil": [(0xBAE, 0xBB9), (0xBBE, 0xBC2)], "thai": [(0xE01, 0xE3A), (0xE40, 0xE5B)],
    "georgian": [(0x10D0, 0x10F0)], "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x1112)], "kana": [(0x3041, 0x3096), (0x30A1, 0x30FA)],
    "cjk": [(0x4E00, 0x9FA5), (0x3400, 0x4DB5), (0x20000, 0x2A6D6), (0x3001, 0x3011)], "ethiopic": [(0x1200, 0x1246)],
    "cherokee": [(0x13A0, 0x13F4)], "mongolian": [(0x1820, 0x1842), (0x180B, 0x180E), (0x1810, 0x1819)],
    "gothic": [(0x10330, 0x1034A)], "mathematical": [(0x1D400, 0x1D454), (0x1D7CE, 0x1D7FF)],
}
EMOJI = [(0x1F600, 0x1F64F), (0x1F300, 0x1F5FF), (0x1F680, 0x1F6C5), (0x2600, 0x26FF), (0x1F3FB, 0x1F3FF), (0x1F1E6, 0x1F1FF),
         (0x200D, 0x200D), (0xFE0F, 0xFE0F), (0x20E3, 0x20E3)]
NUMBERS = [(0x30, 0x39), (0x660, 0x669), (0x966, 0x96F), (0xB2, 0xB3), (0xBC, 0xBE), (0x2160, 0x2188), (0x2460, 0x249B),
           (0xFF10, 0xFF19), (0x3021, 0x3029), (0x1D7CE, 0x1D7FF)]
BLANKS = [" "] * 12 + list("\t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff")
ODD = [(0x01, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x202A, 0x202E), (0xE000, 0xE010), (0xFFF9, 0xFFFD), (0x10FFF0, 0x10FFFF),
       (0xFDD0, 0xFDD8), (0xF0000, 0xF0010), (0x300, 0x36F)]
WORDS = """the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not what
all were we when your can said there use an each which she do how their if will up other about out many then them these so some
her would make like him into time has look two more write go see number no way could people my than first water been call who oil
sit now find long down day did get come made may part over naïve café Straße coöperate fjord señor déjà Übung weave cloth
indigo warp weft antidisestablishmentarianism don't we'll I'm you've he'd it's they're DON'T I'M o'clock 'tis rock'n'roll""".split()
CODE = """def f(x): return x**2\n|    for (int i = 0; i < n; i++) {|\t\tif (a[i] != NULL && *p++ == '\\0')|#include <stdio.h>|</div>|
=> {...props}|0xDEADBEEF|3.14159e-10|a->b->c|SELECT * FROM t WHERE id=42;|git commit -m "x"|\\frac{1}{2}|// --------|/* ==== */|
http://example.org/a?b=c&d=%20e#f|user.name+tag@example.com|C:\\Windows\\|{"k": [1, 2, null]}|lambda: None|!!@@##$$|...|<<<>>>|
x_i^{2n+1}|#!/bin/sh|$HOME/.config|1,234,567.89|2026-11-22T10:00:00Z|(555) 010-9999|std::vector<std::unique_ptr<T>>""".split("|")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<jupyter_code>",
           "<empty_output>", "<|im_start|", "|im_end|>", "<|im_start|>user\n", "<<|im_end|>>"]


class Strings:
    """Draws with random() alone, whose sequence Python promises to keep."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def below(self, n):
        return int(self.random() * n)

    def of(self, items):
        return items[self.below(len(items))]

    def char(self, ranges):
        low, high = self.of(ranges)
        return chr(low + self.below(high - low + 1))

    def chars(self, ranges, most):
        return "".join(self.char(ranges) for _ in range(1 + self.below(most)))

    def blanks(self):
        if self.below(2):
            return self.of(BLANKS) * (1 + self.below(9))
        return "".join(self.of(BLANKS) for _ in range(1 + self.below(8)))

    def piece(self):
        kind = self.below(14)
        if kind < 3:
            return self.of(["", " ", " ", "  "]) + self.of(WORDS)
        if kind == 3:
            return self.blanks()
        if kind == 4:
            return self.of(CODE)
        if kind < 7:
            return self.chars(SCRIPTS[self.of(sorted(SCRIPTS))], 12)
        if kind == 7:
            return self.chars(NUMBERS[:1] if self.below(2) else NUMBERS, 10)
        if kind == 8:
            return self.chars(EMOJI, 5)
        if kind == 9:
            return self.chars(ODD, 4)
        if kind == 10:
            return self.of(WORDS).upper() + self.chars([(0x300, 0x36F)], 3) + self.of(WORDS)
        if kind == 11:
            return self.of(["'", "\u2019"]) + self.of(["s", "t", "re", "ve", "m", "ll", "d", "S", "x", "ss"])
        if kind == 12:
            return self.chars([(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)], 8)
        if self.below(20) == 0:
            return self.of(["a", "ab", "é", "-", " ", "漢", "1", "aB3", "\n "]) * (1 + self.below(1500))
        return self.of(SPECIAL) if self.below(3) == 0 else self.char(SCRIPTS["latin"])

    def string(self):
        return "".join(self.piece() for _ in range(1 + self.below(24)))


def strings():
    draw = Strings(SEED)
    return [draw.string() for _ in range(COUNT)]


def digest(lines):
    h = hashlib.sha256()
    for line in lines:
        h.update(line.encode())
        h.update(b"\0")
    return h.hexdigest()


def ours(command, model, texts):
    """-> one list of ids a text"""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as rows:
        rows.writelines(json.dumps({"text": t}) + "\n" for t in texts)
        rows.flush()
        out = subprocess.run([command, "tokenize", "--model", model, "--rows", rows.name, "--json"], check=True,
                             stdout=subprocess.PIPE).stdout
    return [json.loads(line)["ids"] for line in out.splitlines()]


def reference(model):
    """-> tokenize function of the model's own tokenizer, and of what transformers reads from the file"""
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import AutoTokenizer
    folder, name = os.path.split(os.path.abspath(model))
    plain = AutoTokenizer.from_pretrained(folder, gguf_file=name).backend_tokenizer
    own = Tokenizer.from_str(plain.to_str())
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])

    def encoder(t):
        return lambda texts: [e.ids for e in t.encode_batch(texts)]
    return encoder(own), encoder(plain)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("sakiori")
    arguments.add_argument("model")
    arguments.add_argument("--hf", action="store_true")
    arguments.add_argument("--write", action="store_true")
    a = arguments.parse_args()
    texts = strings()
    found = ours(a.sakiori, a.model, texts)
    figures = {"strings": len(texts), "strings_sha256": digest(texts),
               "ids_sha256": digest(" ".join(map(str, ids)) for ids in found), "tokens": sum(map(len, found))}
    if not a.hf:
        with open(GOLDEN) as f:
            golden = json.load(f)
        for key, value in golden.items():
            if figures[key] != value:
                sys.exit(f"tokenizer_parity: {key} is {figures[key]}, expected {value}; --hf shows the strings that differ")
        print(f"{len(texts)} of {len(texts)} strings as Hugging Face tokenizes them (by digest)")
        return
    own, plain = reference(a.model)
    expected = own(texts)
    wrong = [i for i in range(len(texts)) if expected[i] != found[i]]
    for i in wrong[:10]:
        print(f"string {i}: {texts[i]!r}\n  expected {expected[i]}\n  found    {found[i]}")
    print(f"{len(texts) - len(wrong)} of {len(texts)} strings as Hugging Face tokenizes them")
    print(f"transformers' reading of the file, without digit splitting, differs on {sum(p != e for p, e in zip(plain(texts), expected))}")
    if wrong:
        sys.exit(1)
    if a.write:
        with open(GOLDEN, "w") as f:
            json.dump(figures, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
