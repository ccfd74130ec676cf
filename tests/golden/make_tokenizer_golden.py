#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tokenizer_golden.json: what Hugging Face's tokenizers and jinja2 make of strings and conversations with tiny.gguf.

    make_tokenizer_golden.py            (needs tokenizers, jinja2 and gguf)

strings: [text, ids, ids with control tokens taken out of the text where that differs]
conversations: [messages, answer, rendered text, ids, "01..." of what is learned]; ids are null where an assistant's words begin
with white space: there Sakiori tokenizes them apart from the header, on purpose.
"""
import json
import os
import sys

from gguf import GGUFReader
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench"))
from tokenizer_parity import CODE, WORDS, Strings  # noqa: E402

STRINGS, CONVERSATIONS, CONTROL = 200, 200, 3
LONGEST = 80  # characters: a small vocabulary makes many tokens


def read_tokenizer(path):
    """-> tokenizer that takes control tokens out of a text, one that does not, chat template"""
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]

    def build():
        t = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
        return t
    special = build()
    special.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == CONTROL])
    return special, build(), fields["tokenizer.chat_template"].contents()


def words(draw):
    out = []
    for _ in range(1 + draw.below(5)):
        out.append(draw.of(CODE) if draw.below(6) == 0 else draw.blanks() if draw.below(8) == 0 else draw.of(WORDS))
    return " ".join(out).strip() if draw.below(5) else " ".join(out)


def conversation(draw):
    messages = [{"role": "system", "content": words(draw)}] if draw.below(3) == 0 else []
    for _ in range(1 + draw.below(2)):
        messages.append({"role": "user", "content": words(draw)})
        if draw.below(6) == 0:
            messages.append({"role": "tool", "content": words(draw)})
        messages.append({"role": "assistant", "content": words(draw) if draw.below(20) else ""})
    if draw.below(8) == 0:
        messages.pop()
    return messages


def learned(ids, header, start, end):
    """What follows an assistant's header, up to and with the token that ends the turn."""
    mask, i, inside = [], 0, False
    while i < len(ids):
        if not inside and ids[i:i + 1 + len(header)] == [start] + header:
            mask += [0] * (1 + len(header))
            i += 1 + len(header)
            inside = True
            continue
        mask.append(int(inside))
        inside = inside and ids[i] != end
        i += 1
    return "".join(map(str, mask))


def main():
    special, plain, template = read_tokenizer(os.path.join(HERE, "tiny.gguf"))
    draw = Strings(7)
    texts = [draw.string()[:LONGEST] for _ in range(STRINGS)]
    strings = [[t, plain.encode(t).ids] + [special.encode(t).ids] * (special.encode(t).ids != plain.encode(t).ids) for t in texts]
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    header, start, end = special.encode("assistant\n").ids, special.token_to_id("<|im_start|>"), special.token_to_id("<|im_end|>")
    rows = []
    for _ in range(CONVERSATIONS):
        messages, answer = conversation(draw), draw.below(4) == 0
        text = jinja.render(messages=messages, add_generation_prompt=answer)
        ids = special.encode(text).ids
        labels = learned(ids[:-1 - len(header)], header, start, end) + "0" * (1 + len(header)) if answer else learned(ids, header, start, end)
        if any(m["role"] == "assistant" and m["content"][:1].isspace() for m in messages):
            ids = labels = None
        rows.append([messages, answer, text, ids, labels])
    with open(os.path.join(HERE, "tokenizer_golden.json"), "w") as f:
        json.dump({"strings": strings, "conversations": rows}, f, separators=(",", ":"))
        f.write("\n")
    print(sum(r[3] is not None for r in rows), "of", len(rows), "conversations with ids")


if __name__ == "__main__":
    main()
