#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes rows.jsonl (80 training rows) and rows_eval.jsonl (16): small sentences out of a word list, in every kind of row that SmolLM2's
template and tokenizer take. Python's standard library alone; the same bytes each time."""
import json
import os
import random

HERE = os.path.dirname(os.path.abspath(__file__))
THINGS = "loom shuttle warp weft thread needle bobbin spindle harbour lantern kettle ladder anchor barrel candle hammer".split()
PLACES = "the village, the harbour, a mountain hut, the weaving room, the market, an old ship, the mill".split(", ")
ACTS = "washed, torn into strips, woven again, dyed with indigo, carried home, sold for rice, kept for the winter".split(", ")
QUESTIONS = ["What happened to the {t}?", "Where is the {t} now?", "Tell me about the {t} in {p}."]


def sentence(rng):
    return f"In {rng.choice(PLACES)} the {rng.choice(THINGS)} was {rng.choice(ACTS)}, and then {rng.choice(ACTS)}."


def row(rng, i):
    t, p, a = rng.choice(THINGS), rng.choice(PLACES), rng.choice(ACTS)
    if i % 4 == 0:
        return {"text": " ".join(sentence(rng) for _ in range(rng.randint(1, 3)))}
    if i % 4 == 1:
        return {"messages": [
            {"role": "user", "content": rng.choice(QUESTIONS).format(t=t, p=p)},
            {"role": "assistant", "content": f"The {t} was {a} in {p}."}]}
    return {"prompt": f"Thing: {t}\nPlace: {p}\nSentence:", "completion": f" The {t} was {a} {rng.randint(2, 900)} times in {p}."}


def main():
    rng = random.Random(20)
    for name, count in (("rows.jsonl", 80), ("rows_eval.jsonl", 16)):
        with open(os.path.join(HERE, name), "w", encoding="utf8", newline="\n") as file:
            for i in range(count):
                file.write(json.dumps(row(rng, i)) + "\n")


if __name__ == "__main__":
    main()
