#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A real labelled task out of Debian's wordnet-base: name the topic of a noun from its gloss.

usage: wordnet_task.py OUTDIR [SITES] [ALPHA]

Writes site-K.jsonl (label skew: each class is dealt out by a Dirichlet draw with parameter ALPHA), pooled.jsonl, eval.jsonl
(500 rows), test.jsonl (1000 rows) and sample.jsonl (the first 64 rows of eval). Rows: {"prompt": "Definition: ...\\nTopic:",
"completion": " animal"}; 25 classes. The seed is fixed and the splits are disjoint by synset. Needs only Python's standard library.
"""
import json
import os
import random
import sys

CLASSES = ("act animal artifact attribute body cognition communication event feeling food group location motive object person "
           "phenomenon plant possession process quantity relation shape state substance time").split()
SOURCE = "/usr/share/wordnet/data.noun"
MOST_PER_CLASS = 900  # so that the skew comes from the split and not from WordNet
SEED = 7


def read_rows():
    """(class, gloss) of every common noun whose gloss has 20 to 160 characters."""
    try:
        lines = open(SOURCE, encoding="utf8")
    except FileNotFoundError:
        sys.exit(f"wordnet_task: {SOURCE} not found: install Debian's wordnet-base")
    rows = []
    with lines:
        for line in lines:
            if line.startswith("  "):
                continue  # the licence text at the top
            head, gloss = line.rstrip().split(" | ", 1)
            fields = head.split()
            topic = int(fields[1]) - 4  # lexicographer files 4..28 are the noun classes; 3 is "Tops"
            gloss = gloss.split('; "')[0].strip()
            if topic >= 0 and not fields[4][0].isupper() and 20 <= len(gloss) <= 160:
                rows.append((CLASSES[topic], gloss))
    return rows


def balanced(rows):
    count = dict.fromkeys(CLASSES, 0)
    kept = []
    for topic, gloss in rows:
        if count[topic] < MOST_PER_CLASS:
            count[topic] += 1
            kept.append((topic, gloss))
    return kept


def deal(rows, sites, alpha, rng):
    """Every class is cut into `sites` pieces whose sizes are one Dirichlet(alpha) draw."""
    parts = [[] for _ in range(sites)]
    for topic in CLASSES:
        members = [row for row in rows if row[0] == topic]
        draw = [rng.gammavariate(alpha, 1.0) for _ in range(sites)]
        start, seen = 0, 0.0
        for site in range(sites):
            seen += draw[site] / sum(draw)
            end = len(members) if site == sites - 1 else int(seen * len(members))
            parts[site] += members[start:end]
            start = end
    for part in parts:
        rng.shuffle(part)
    return parts


def write(path, rows):
    with open(path, "w", encoding="utf8") as out:
        for topic, gloss in rows:
            out.write(json.dumps({"prompt": f"Definition: {gloss}\nTopic:", "completion": f" {topic}"}) + "\n")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out = sys.argv[1]
    sites = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    alpha = float(sys.argv[3]) if len(sys.argv) > 3 else 0.3
    rng = random.Random(SEED)
    rows = read_rows()
    rng.shuffle(rows)
    rows = balanced(rows)
    test, evaluation, train = rows[:1000], rows[1000:1500], rows[1500:]
    parts = deal(train, sites, alpha, rng)
    os.makedirs(out, exist_ok=True)
    for number, part in enumerate(parts):
        write(f"{out}/site-{number}.jsonl", part)
    for name, part in (("pooled", train), ("eval", evaluation), ("test", test), ("sample", evaluation[:64])):
        write(f"{out}/{name}.jsonl", part)
    print(json.dumps({"rows": len(rows), "sites": [len(part) for part in parts], "classes": len(CLASSES)}))


main()
