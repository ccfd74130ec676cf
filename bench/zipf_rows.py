#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""zipf_rows.py MEGABYTES [WORDS]: plain-text rows in JSON Lines on standard output, made up: words of syllables, drawn by Zipf's law from
a list of 50,000 or WORDS, in sentences with capitals, commas, numbers, quotes, line breaks and now and then a letter outside ASCII. The same arguments
give the same bytes. Only the standard library."""
import itertools
import json
import random
import sys

ONSETS = "b c d f g h l m n p r s t w c d l m n r s t ch pr st th".split() + [""] * 5
VOWELS = "a e i o u a e i o a e ea ou é ü".split()
CODAS = [""] * 10 + "n r s t l d nd st".split()
SENTENCES = 4096  # drawn at once: what a call costs does not count then


def make_words(count, rng):
    words = {}
    while len(words) < count:
        # the frequent words are the short ones
        syllables = 1 if len(words) < count // 200 else rng.choice((1, 2, 2, 3, 3, 4))
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS[:-2] if rng.random() < 0.97 else VOWELS) + rng.choice(CODAS) for _ in range(syllables))
        words[word] = None
    return list(words)


def sentence(words, rng):
    kind = rng.random()
    text = " ".join(words)
    text = text[:1].upper() + text[1:]
    if kind < 0.3:
        middle = text.find(" ", len(text) // 2)
        text = text[:middle] + "," + text[middle:] if middle > 0 else text
    elif kind < 0.4:
        text += f" {rng.randrange(10000)}"
    elif kind < 0.5:
        text = f'"{text}"'
    return text + rng.choice(("." * 12) + "?!") + (" " if rng.random() < 0.9 else "\n")


def main():
    left = int(float(sys.argv[1]) * 1e6)
    rng = random.Random(7)
    words = make_words(int(sys.argv[2]) if len(sys.argv) > 2 else 50000, rng)
    weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    while left > 0:
        drawn = iter(rng.choices(words, cum_weights=weights, k=SENTENCES * 16))
        out = []
        for _ in range(SENTENCES // 8):
            text = "".join(sentence(list(itertools.islice(drawn, rng.randrange(4, 28))), rng) for _ in range(rng.randrange(1, 16)))
            out.append(json.dumps({"text": text.rstrip()}, ensure_ascii=False))
        block = "\n".join(out) + "\n"
        sys.stdout.write(block)
        left -= len(block.encode())


main()
