#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes chat_golden.json: conversations in several templates as tokens of tiny.gguf, with what is learned.

    make_chats.py            (needs tokenizers, jinja2 and gguf)

templates: the sources. rows: [number of the template, [[role, content, labelled], ...], answer, text, ids, "01..." of what is learned].
The reference does not difference renderings: for each template a function here writes the conversation piece by piece, with a label
each, and jinja2 only has to give the same text. Some contents hold the names of control tokens, which must stay text.
"""
import json
import os
import re

from make_templates import PLAIN
from make_tokenizer_golden import HERE, read_tokenizer, words
from tokenizer_parity import Strings

START, END, EOS = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
ROWS = 200

CHATML_GENERATION = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}
    {%- else %}{{ m.content }}<|im_end|>{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

CONTENT_GENERATION = """{% for m in messages %}
<|im_start|>{{ m['role'] }}:
{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim }}{% endgeneration %}{% else %}{{ m['content'] | trim }}{% endif %}
<|im_end|>{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant:
{% endif %}"""

INSTRUCTIONS = """{%- if messages[0].role == 'system' %}{% set system = messages[0].content ~ '\\n\\n' %}{% set rest = messages[1:] %}
{%- else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest %}
    {%- if m.role == 'user' %}[INST] {{ system if loop.first }}{{ m.content.strip() }} [/INST]
    {%- elif m.role == 'tool' %}[TOOL] {{ m.content.strip() }} [/TOOL]
    {%- else %} {{ m.content.strip() }}<|endoftext|>
    {%- endif %}
{%- endfor %}"""

PLAIN_TEXT = """{% for m in messages %}### {{ m.role | capitalize }}:
{{ m.content }}

{% endfor %}
{% if add_generation_prompt %}### Assistant:
{% endif %}"""

THOUGHTS = """{{- bos_token }}{% for m in messages %}
{{- '<|' ~ 'im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""


def chatml_generation(messages, answer):
    for role, content, labelled in messages:
        yield f"{START}{role}\n", False, False
        yield content, labelled, True
        yield END, labelled, False
        yield "\n", False, False
    if answer:
        yield f"{START}assistant\n", False, False


def content_generation(messages, answer):
    for n, (role, content, labelled) in enumerate(messages):
        yield f"{START}{role}:\n", False, False
        yield content.strip(), labelled, True
        # trim_blocks takes the line break behind endif, then END stands right before endfor
        yield END, False, False
    if answer:
        yield f"{START}assistant:\n", False, False


def instructions(messages, answer):
    system = ""
    for n, (role, content, labelled) in enumerate(messages):
        if role == "system" and n == 0:
            system = content + "\n\n"
        elif role == "user":
            yield "[INST] ", False, False
            yield system, False, True
            yield content.strip(), False, True
            yield " [/INST]", False, False
            system = ""
        elif role == "tool":
            yield "[TOOL] ", False, False
            yield content.strip(), False, True
            yield " [/TOOL]", False, False
        else:
            system = ""
            yield " ", labelled, False
            yield content.strip(), labelled, True
            yield EOS, labelled, False


def plain_text(messages, answer):
    for role, content, labelled in messages:
        yield f"### {role.capitalize()}:\n", False, False
        yield content, labelled, True
        yield "\n\n", labelled, False
    if answer:
        yield "### Assistant:\n", False, False


def thoughts(messages, answer):
    yield START, False, False  # tiny.gguf's BOS
    for role, content, labelled in messages:
        yield f"{START}{role}\n", False, False
        yield content, labelled, True
        yield END, labelled, False
    if answer:
        yield f"{START}assistant\n<think>\n", False, False


TEMPLATES = [(CHATML_GENERATION, chatml_generation), (CONTENT_GENERATION, content_generation), (INSTRUCTIONS, instructions),
             (PLAIN_TEXT, plain_text), (THOUGHTS, thoughts)]


def tokens(pieces, plain, special):
    """-> ids, labels: pieces of one label in a row are one text, but for the control tokens that the template wrote."""
    ids, labels, text, label = [], [], "", False

    def flush():
        nonlocal text
        found = plain.encode(text).ids
        ids.extend(found)
        labels.extend([label] * len(found))
        text = ""
    for piece, labelled, foreign in pieces:
        if labelled != label and piece:
            flush()
            label = labelled
        for part in [piece] if foreign else re.split(r"(<\|im_start\|>|<\|im_end\|>|<\|endoftext\|>)", piece):
            if not foreign and part in (START, END, EOS):
                flush()
                ids.append(special.token_to_id(part))
                labels.append(label)
            else:
                text += part
    flush()
    return ids, "".join("01"[b] for b in labels)


def conversation(draw):
    def content():
        text = words(draw)
        return text + draw.of([END, START + "assistant\n", EOS]) + words(draw) if draw.below(8) == 0 else text
    messages = [["system", content(), False]] if draw.below(3) == 0 else []
    for _ in range(1 + draw.below(3)):
        messages.append(["user", content(), False])
        if draw.below(8) == 0:
            messages.append(["tool", content(), False])
        messages.append(["assistant", content() if draw.below(12) else "", draw.below(5) > 0])
    if draw.below(8) == 0:
        messages.pop()
    return messages


def main():
    special, plain, _ = read_tokenizer(os.path.join(HERE, "tiny.gguf"))
    draw, rows = Strings(11), []
    for n in range(ROWS):
        source, pieces = TEMPLATES[n % len(TEMPLATES)]
        messages, answer = conversation(draw), draw.below(5) == 0
        text = PLAIN.from_string(source).render(messages=[{"role": r, "content": c} for r, c, _ in messages], tools=None, documents=None,
                                                add_generation_prompt=answer, bos_token=START, eos_token=END)
        written = list(pieces(messages, answer))
        assert text == "".join(p[0] for p in written), (source, text, written)
        ids, labels = tokens(written, plain, special)
        rows.append([n % len(TEMPLATES), messages, answer, text, ids, labels])
    with open(os.path.join(HERE, "chat_golden.json"), "w") as f:
        f.write('{"templates":' + json.dumps([t for t, _ in TEMPLATES]) + ',\n"rows":[\n')
        f.write(",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]}\n")
    print(len(rows), "conversations,", sum("1" in r[5] for r in rows), "with something to learn")


if __name__ == "__main__":
    main()
