# SPDX-License-Identifier: Apache-2.0
"""Prints the tables of src/text/jinja_case.c: how Python's str.upper, str.lower and str.isprintable see each character.

    unicode_case.py            (Python 3.11: Unicode 14)
"""
import unicodedata

CHARACTERS = [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000]


def ranges(change):
    """-> [first, last, step, delta] for characters that become one other"""
    out = []
    for c in CHARACTERS:
        to = change(chr(c))
        if len(to) != 1 or to == chr(c):
            continue
        delta = ord(to) - c
        if out and out[-1][3] == delta and c - out[-1][1] in ((1, 2) if out[-1][0] == out[-1][1] else (out[-1][2],)):
            out[-1] = [out[-1][0], c, c - out[-1][1], delta]
        else:
            out.append([c, c, 1, delta])
    return out


def table(kind, name, rows):
    print(f"static const struct {kind} {name}[] = {{")
    line = ""
    for row in rows:
        item = "{" + ", ".join(hex(v) if i < 2 or kind == "expansion" else str(v) for i, v in enumerate(row)) + "},"
        if len(line) + len(item) > 108:
            print("\t" + line.strip())
            line = ""
        line += " " + item
    print("\t" + line.strip() + "\n};\n")


def hidden():
    """-> [first, last] of characters that repr() escapes; what is not assigned yet counts as printable"""
    out = []
    for c in CHARACTERS:
        if unicodedata.category(chr(c)) not in ("Cc", "Cf", "Zs", "Zl", "Zp", "Co"):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


table("mapping", "to_upper", ranges(str.upper))
table("mapping", "to_lower", ranges(str.lower))
table("expansion", "upper_expansions", [([c] + [ord(u) for u in chr(c).upper()] + [0])[:4] for c in CHARACTERS if len(chr(c).upper()) > 1])
table("span", "hidden", hidden())
