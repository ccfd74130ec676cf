#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Is `sakiori tokenize` equal to Hugging Face's tokenizers for every family of tokenizer that it knows?

    tokenizer_families.py SAKIORI [--count 50000] [FAMILY...]        (needs tokenizers, transformers and gguf; default: all families)

For each family a vocabulary is trained on the spot, with the family's own normalizer, pre-tokenizer and decoder, and written as a GGUF file
that has a tokenizer and nothing else, and as a folder with a tokenizer.json; "steps" and "jamo" are no model's, but hold what else a
tokenizer.json may say. Then `--count` other strings are tokenized by both programs, with control tokens taken out of the text and without,
and the tokens, as well as random ones, are turned back into text, with control tokens and without.

The strings hold only characters of this Python's Unicode (14 in Debian 12): what later versions assign, PCRE2 and utf8proc do not know.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import unicodedata

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import generate_merges

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tokenizer_parity import Strings  # noqa: E402

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# of the vocabularies: tokens of byte-level ones, tokens and characters of others, and the texts that they are trained on
SIZES = {"bytes": 3000, "tokens": 3000, "characters": 600, "texts": 20000}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER = ["<tool_call>", "</tool_call>", "[INST]", "<\u043a\u043b\u044e\u0447>", "\n\n\n"]
ASSIGNED = [chr(c) for c in range(0x80, 0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
MARKS = [c for c in ASSIGNED if unicodedata.combining(c)]
COMPOSED = [c for c in ASSIGNED if unicodedata.decomposition(c)]
JAMO = [(0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2), (0xAC00, 0xD7A3)]
EMOJI = ["\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\u2764\ufe0f\u200d\U0001f525", "\U0001f1ef\U0001f1f5", "1\ufe0f\u20e3"]


class Texts(Strings):
    """tokenizer_parity.py's strings with random Unicode, what normalizers act on, and the names of added tokens."""

    def __init__(self, seed, names):
        super().__init__(seed)
        self.names = names

    def piece(self):
        kind = self.below(24)
        if kind == 0:
            return "".join(self.of(ASSIGNED) for _ in range(1 + self.below(6)))
        if kind == 1:
            return self.of(["e", "A", "\u03b1", "\u05d0", " ", "q"]) + "".join(self.of(MARKS) for _ in range(1 + self.below(4)))
        if kind == 2:
            return unicodedata.normalize(self.of(["NFD", "NFC", "NFKD"]), "".join(self.of(COMPOSED) for _ in range(1 + self.below(3))))
        if kind == 3:
            return self.chars(JAMO, 6)
        if kind == 4:
            return self.of(["\r\n", "\r\n\r\n", "\n\r", " \r\n\t", "\n\n\n", "\n\n\n\n"])
        if kind == 5:
            return self.of(EMOJI)
        if kind == 6:
            return self.of(["", " ", "  ", "\t", "x", "\u2581"]) + self.of(self.names) + self.of(["", " ", " \n", "y", "9", "\u0301"])
        return super().piece()


def training():
    """Texts without the names of control tokens: no vocabulary in use has merges that lead to one."""
    draw = Texts(1, USER)
    for _ in range(SIZES["texts"]):
        text = draw.string()
        for name in CONTROL:
            text = text.replace(name, "")
        yield text


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(pattern, behavior=behavior, invert=invert)


def byte_level(*before):
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def bytes_family(normalizer, pre_tokenizer, whole_words=False, bos=None):
    """Byte-level BPE: tokens of all bytes, and a few words that no merge leads to where they come first."""
    t = Tokenizer(models.BPE())
    t.normalizer, t.pre_tokenizer = normalizer, pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=SIZES["bytes"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator(training(), trainer)
    state = json.loads(t.to_str())["model"]
    vocabulary = dict(state["vocab"])
    if whole_words:
        for word in ["\u0120antidisestablishmentarianism", "rock", "\u0120coo\u00cc\u012aper", "###", "123", "'LL", "\u010a\u010a\u010a"]:
            vocabulary.setdefault(word, len(vocabulary))
    own = Tokenizer(models.BPE(vocabulary, [tuple(m) for m in state["merges"]], ignore_merges=whole_words))
    own.normalizer, own.pre_tokenizer, own.decoder = normalizer, pre_tokenizer, decoders.ByteLevel()
    add_tokens(own, [bos] * (bos is not None))
    parts = [processors.ByteLevel(trim_offsets=False)]
    if bos:
        parts.append(processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, own.token_to_id(bos))]))
    own.post_processor = processors.Sequence(parts) if bos else parts[0]
    return own


def add_tokens(t, more=()):
    t.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in [*more, *CONTROL]])
    t.add_tokens([AddedToken(name, normalized=False) for name in USER])


def spm_vocabulary():
    """As SentencePiece numbers them: what is no text, the bytes, merged tokens by their scores, characters."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.train_from_iterator(training(), trainers.BpeTrainer(vocab_size=SIZES["tokens"], limit_alphabet=SIZES["characters"], max_token_length=20, show_progress=False))
    merges = [a + b for a, b in json.loads(t.to_str())["model"]["merges"]]
    merged = list(dict.fromkeys(merges + ["\u2581" * n for n in range(2, 17)]))
    characters = [token for token in sorted(t.get_vocab(), key=t.token_to_id) if len(token) == 1]
    return ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + merged + characters


def spm_family(legacy):
    tokens = spm_vocabulary()
    scores = {token: -float(i) for i, token in enumerate(tokens)}
    vocabulary = {token: i for i, token in enumerate(tokens)}
    own = Tokenizer(models.BPE(vocabulary, generate_merges(vocabulary, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    if legacy:
        own.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    own.decoder = decoders.Sequence(steps)
    add_tokens(own, ["<unk>", "<s>", "</s>"])
    own.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    own.scores = [scores.get(own.id_to_token(i), -1000.0) for i in range(own.get_vocab_size())]
    return own


def gemma():
    """Blanks end words, a character without a token is bytes, no prefix."""
    own = spm_family(True)
    own.normalizer = normalizers.Replace(" ", "\u2581")
    own.pre_tokenizer = split(" ", "merged_with_previous")
    own.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    own.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return own


def steps():
    """Normalizers, behaviours and flags of added tokens that no model has all at once."""
    own = bytes_family(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace(Regex(r"\s{3,}"), "  "),
                              normalizers.Replace("``", '"')]),
        pre_tokenizers.Sequence([
            split(Regex(r"\p{Han}+|[\u3040-\u30ff]+")), split("the", "merged_with_next"), split(Regex(r"[.,;]"), "merged_with_previous"),
            split("-", "removed"), split(Regex(r"[\w\s'\"<>|_.,;]+"), "contiguous", True), pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)]))
    own.add_special_tokens([AddedToken("<MASK>", lstrip=True, rstrip=True, normalized=True, special=True)])
    own.add_tokens([AddedToken("Indigo", single_word=True, normalized=True), AddedToken("[LEFT]", lstrip=True, normalized=False),
                    AddedToken("[RIGHT]", rstrip=True, normalized=False), AddedToken("over", single_word=True, normalized=False),
                    AddedToken("[LEFTIST]", normalized=False), AddedToken("\u01c6\u00e9", normalized=True)])
    return own


def jamo():
    """Characters instead of bytes, unknown ones one by one, decomposed; Metaspace all the way."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Strip(left=False, right=True)])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    t.train_from_iterator(training(), trainers.BpeTrainer(vocab_size=SIZES["tokens"], limit_alphabet=SIZES["characters"] // 2, special_tokens=["<unk>"], show_progress=False))
    add_tokens(t)
    return t


# what GGUF calls it (None: GGUF cannot say it), and the tokenizer
FAMILIES = {
    "gpt-2": ("gpt-2", lambda: bytes_family(None, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))),
    "smollm": ("smollm", lambda: bytes_family(None, pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]))),
    "llama-bpe": ("llama-bpe", lambda: bytes_family(None, byte_level(split(Regex(LLAMA3))), True, "<|begin_of_text|>")),
    "qwen2": ("qwen2", lambda: bytes_family(normalizers.NFC(), byte_level(split(Regex(QWEN2))))),
    "llama-2": ("llama", lambda: spm_family(True)),
    "mistral": (None, lambda: spm_family(False)),
    "gemma": (None, gemma),
    "steps": (None, steps),
    "jamo": (None, jamo),
}


def write_gguf(path, pre, own):
    added = {i: t.special for i, t in own.get_added_tokens_decoder().items()}
    tokens = [own.id_to_token(i) for i in range(own.get_vocab_size())]
    kinds = [gguf.TokenType.CONTROL if added.get(i) else gguf.TokenType.USER_DEFINED if i in added else gguf.TokenType.NORMAL
             for i in range(len(tokens))]
    out = gguf.GGUFWriter(path, "llama")
    out.add_tokenizer_model("llama" if pre == "llama" else "gpt2")
    if pre == "llama":
        kinds[0] = gguf.TokenType.UNKNOWN
        kinds[3:259] = [gguf.TokenType.BYTE] * 256
        out.add_token_scores(own.scores)
        out.add_bos_token_id(1)
        out.add_eos_token_id(2)
        out.add_unk_token_id(0)
    else:
        out.add_tokenizer_pre(pre)
        out.add_token_merges([" ".join(m) for m in json.loads(own.to_str())["model"]["merges"]])
        if own.token_to_id("<|begin_of_text|>"):
            out.add_bos_token_id(own.token_to_id("<|begin_of_text|>"))
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def write_folder(path, own, old_merges):
    os.mkdir(path)
    state = json.loads(own.to_str())
    if old_merges:
        state["model"]["merges"] = [" ".join(m) for m in state["model"]["merges"]]
    with open(os.path.join(path, "tokenizer.json"), "w") as f:
        json.dump(state, f, ensure_ascii=old_merges)


def run(command, model, option, rows, plain):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        out = subprocess.run([command, "tokenize", "--model", model, option, file.name, "--json"] + ["--plain"] * plain, check=True,
                             stdout=subprocess.PIPE).stdout
    return [json.loads(line) for line in out.splitlines()]


def differences(what, inputs, expected, found):
    wrong = [i for i in range(len(inputs)) if i >= len(found) or expected[i] != found[i]]
    for i in wrong[:3]:
        print(f"{what} {i}: {str(inputs[i])[:300]!r}\n  expected {str(expected[i])[:600]!r}\n  found    {str(found[i] if i < len(found) else None)[:600]!r}")
    return len(wrong)


def oracles(own):
    """-> the tokenizer that leaves control tokens in the text, the one that decodes"""
    plain = Tokenizer.from_str(own.to_str())
    plain.encode_special_tokens = True
    # tokenizers 0.23 decodes an added token to its normalized name ("<mask>" for "<MASK>"), earlier ones and we to its name
    state = json.loads(own.to_str())
    for token in state["added_tokens"]:
        token["normalized"] = False
    return plain, Tokenizer.from_str(json.dumps(state))


def compare(command, model, own, texts, draw):
    """-> how many strings, and how many lists of ids, come out otherwise"""
    encode = decode = 0
    plain, named = oracles(own)
    size = own.get_vocab_size()
    for t in own, plain:
        expected = [e.ids for e in t.encode_batch(texts)]
        encode += differences("string", texts, expected, [r["ids"] for r in run(command, model, "--rows", [{"text": t} for t in texts], t is plain)])
        ids = expected + [[draw.below(size) for _ in range(1 + draw.below(12))] for _ in range(len(texts) // 5)]
        back = named.decode_batch(ids, skip_special_tokens=t is plain)
        decode += differences("ids", ids, back, [r["text"] for r in run(command, model, "--decode", [{"ids": i} for i in ids], t is plain)])
    return encode, decode


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("sakiori")
    a.add_argument("families", nargs="*", metavar="FAMILY")
    a.add_argument("--count", type=int, default=50000)
    o = a.parse_args()
    failed = False
    for number, family in enumerate(o.families or FAMILIES):
        pre, make = FAMILIES[family]
        own = make()
        names = [t.content for t in own.get_added_tokens_decoder().values()]
        draw = Texts(2, names + [n[:-1] for n in names] + [n.upper() for n in names])
        texts = [draw.string() for _ in range(o.count)]
        with tempfile.TemporaryDirectory() as folder:
            forms = {"tokenizer.json": os.path.join(folder, "model")}
            write_folder(forms["tokenizer.json"], own, number % 2 == 1)
            if pre:
                forms["GGUF"] = os.path.join(folder, "tokenizer.gguf")
                write_gguf(forms["GGUF"], pre, own)
            results = {form: compare(o.sakiori, path, own, texts, draw) for form, path in forms.items()}
        for form, (encode, decode) in results.items():
            print(f"{family}, {form}: {2 * len(texts)} encodings of {len(texts)} strings, {encode} otherwise than Hugging Face; "
                  f"{2 * (len(texts) + len(texts) // 5)} decodings, {decode} otherwise", flush=True)
            failed = failed or encode + decode > 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
