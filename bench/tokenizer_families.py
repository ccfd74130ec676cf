#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Is `sakiori tokenize` equal to Hugging Face's tokenizers for every family of byte-level BPE that it knows?

    tokenizer_families.py SAKIORI [--count 50000] [FAMILY...]        (needs tokenizers and gguf; default: all families)

For each family a vocabulary is trained on the spot, with the family's own pre-tokenizer, on some of tokenizer_parity.py's strings, and
written as a GGUF file that has a tokenizer and nothing else. Where the family takes whole words before merges (ignore_merges), a few words
are added that no merge leads to. Then `--count` other strings are tokenized by both.
"""
import argparse
import json
import os
import sys
import tempfile

import gguf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tokenizer_parity import Strings, ours  # noqa: E402

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# GGUF's name: what tokenizer.json says, and whether whole words come before merges
FAMILIES = {
    "gpt-2": (lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), False),
    "llama-bpe": (lambda: split(LLAMA3), True),
    "smollm": (lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]), False),
}


def train(family):
    """-> the tokenizer, its tokens in order of their ids, its merges"""
    make, whole_words = FAMILIES[family]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = make()
    draw = Strings(1)
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator((draw.string() for _ in range(20000)), trainer)
    state = json.loads(t.to_str())["model"]
    vocabulary = dict(state["vocab"])
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    if whole_words:
        for word in ["Ġantidisestablishmentarianism", "rock", "Ġcoöper", "###", "123", "'LL", "ĊĊĊ"]:
            vocabulary.setdefault(word, len(vocabulary))
    own = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=whole_words))
    own.pre_tokenizer = make()
    own.decoder = decoders.ByteLevel()
    return own, sorted(vocabulary, key=vocabulary.get), [" ".join(m) for m in merges]


def write(path, family, tokens, merges):
    out = gguf.GGUFWriter(path, "llama")
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(family)
    out.add_token_list(tokens)
    out.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    out.add_token_merges(merges)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("sakiori")
    a.add_argument("families", nargs="*", metavar="FAMILY")
    a.add_argument("--count", type=int, default=50000)
    o = a.parse_args()
    failed = False
    for family in o.families or FAMILIES:
        own, tokens, merges = train(family)
        draw = Strings(2)
        texts = [draw.string() for _ in range(o.count)]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tokenizer.gguf")
            write(path, family, tokens, merges)
            found = ours(o.sakiori, path, texts)
        expected = [e.ids for e in own.encode_batch(texts)]
        wrong = [i for i in range(len(texts)) if expected[i] != found[i]]
        for i in wrong[:5]:
            print(f"string {i}: {texts[i][:200]!r}\n  expected {expected[i][:60]}\n  found    {found[i][:60]}")
        print(f"{family}: {len(texts) - len(wrong)} of {len(texts)} strings as Hugging Face tokenizes them")
        failed = failed or bool(wrong) or len(found) != len(texts)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
