# SPDX-License-Identifier: Apache-2.0
"""Writes a tiny Llama of SmolLM2's kind as GGUF: its metadata keys, a real byte-level BPE, llama's q/k row order, seeded weights.

    make_tiny_model.py OUT.gguf [--type f32|f16|bf16|q8_0|q4_0|q4_1] [--untied] [--seed N]

Needs numpy and gguf. tests/golden/tiny.gguf is what it writes without options. Other golden scripts import weights() and SHAPE.
"""
import argparse
import re
from collections import Counter

import gguf
import numpy as np

SHAPE = {"hidden": 32, "intermediate": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 8, "vocabulary": 512,
         "context": 2048, "norm_epsilon": 1e-5, "rope_theta": 100000.0}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# The template of SmolLM2-135M-Instruct, as its file has it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}")

# What the merges are learned from.
TEXT = """In the north the winters were long and cotton was dear, so the people of the villages bought old cloth from the
harbours, washed it, tore it into strips and wove the strips again. The warp was hemp or new thread, the weft was whatever the
town had worn out: indigo work clothes, a sleeve, the lining of a coat. Nothing of the old garment could be recognised in the
new one, and yet the new one was warmer and stronger than any of the old. Each house kept its own scraps and gave away only what
it could spare. A weaver would say that the cloth remembers all of its givers and belongs to none of them. What is the capital of
France? The capital of France is Paris. Name the topic of the word: a dog is an animal, a rose is a plant, a chair is an object,
running is an act, sorrow is a feeling, rain is a phenomenon. You are a helpful assistant. The user asks a question and the
assistant answers the question. There are 10 questions, 25 answers and 100 words. def answer(question): return words[question]
When the weaving was done, they washed the cloth in the river again, and the children counted the colours: one, two, three,
four, five, six, seven. Training together is like this weaving: every site gives a strip, and keeps the rest of what it has.
"""


def byte_letters():
    """GPT-2's table: every byte as one printable letter."""
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table = {b: chr(b) for b in kept}
    for b in range(256):
        table.setdefault(b, chr(256 + len(table) - len(kept)))
    return table


def tokenizer(size):
    """-> tokens, merges: the special tokens, the 256 bytes, then one token a merge, learned from TEXT by pair counts."""
    letters = byte_letters()
    words = Counter(re.findall(r" ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s", TEXT))
    pieces = {w: [letters[b] for b in w.encode()] for w in words}
    order = sorted(letters.values(), key=lambda c: (ord(c) > 126, ord(c)))
    tokens, merges = SPECIAL + order, []
    while len(tokens) < size:
        pairs = Counter()
        for w, p in pieces.items():
            for pair in zip(p, p[1:]):
                pairs[pair] += words[w]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(" ".join(best))
        tokens.append("".join(best))
        for w, p in pieces.items():
            i = 0
            while i + 1 < len(p):
                if (p[i], p[i + 1]) == best:
                    p[i:i + 2] = ["".join(best)]
                i += 1
    assert len(set(tokens)) == size
    return tokens, merges


def weights(seed=0, tied=True, shape=SHAPE):
    """-> {Hugging Face name: float32 array}, in Hugging Face row order."""
    rng = np.random.default_rng(seed)
    s = shape

    def linear(rows, cols):
        return (rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)

    def norm():
        return (1 + 0.1 * rng.standard_normal(s["hidden"])).astype(np.float32)

    w = {"model.embed_tokens.weight": (0.5 * rng.standard_normal((s["vocabulary"], s["hidden"]))).astype(np.float32)}
    for n in range(s["layers"]):
        p = f"model.layers.{n}."
        w[p + "input_layernorm.weight"] = norm()
        w[p + "self_attn.q_proj.weight"] = linear(s["heads"] * s["head_size"], s["hidden"])
        w[p + "self_attn.k_proj.weight"] = linear(s["kv_heads"] * s["head_size"], s["hidden"])
        w[p + "self_attn.v_proj.weight"] = linear(s["kv_heads"] * s["head_size"], s["hidden"])
        w[p + "self_attn.o_proj.weight"] = linear(s["hidden"], s["heads"] * s["head_size"])
        w[p + "post_attention_layernorm.weight"] = norm()
        w[p + "mlp.gate_proj.weight"] = linear(s["intermediate"], s["hidden"])
        w[p + "mlp.up_proj.weight"] = linear(s["intermediate"], s["hidden"])
        w[p + "mlp.down_proj.weight"] = linear(s["hidden"], s["intermediate"])
    w["model.norm.weight"] = norm()
    if not tied:
        w["lm_head.weight"] = linear(s["vocabulary"], s["hidden"])
    return w


GGUF_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
              "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
              "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    if name.startswith("model.layers."):
        _, _, n, rest = name.split(".", 3)
        return f"blk.{n}.{GGUF_NAMES[rest.removesuffix('.weight')]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight"}[name]


def permute(w, heads):
    """The row order that the Llama conversion of llama.cpp gives q and k."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def write(path, kind="f32", tied=True, seed=0, pre="smollm", vocabulary=None, add_bos=False):
    """`vocabulary`: (tokens, merges), the special tokens first, in the place of a learned one."""
    tokens, merges = vocabulary or tokenizer(SHAPE["vocabulary"])
    s = SHAPE | {"vocabulary": len(tokens)}
    out = gguf.GGUFWriter(path, "llama")
    out.add_type("model")
    out.add_name("Tiny SmolLM2 for tests")
    out.add_size_label("25K")
    out.add_license("apache-2.0")
    out.add_languages(["en"])
    out.add_block_count(s["layers"])
    out.add_context_length(s["context"])
    out.add_embedding_length(s["hidden"])
    out.add_feed_forward_length(s["intermediate"])
    out.add_head_count(s["heads"])
    out.add_head_count_kv(s["kv_heads"])
    out.add_rope_freq_base(s["rope_theta"])
    out.add_layer_norm_rms_eps(s["norm_epsilon"])
    out.add_file_type({"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "bf16": 32}[kind])
    out.add_vocab_size(s["vocabulary"])
    out.add_rope_dimension_count(s["head_size"])
    out.add_add_space_prefix(False)
    out.add_add_bos_token(add_bos)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(tokens)
    out.add_token_types([3 if t in SPECIAL else 1 for t in tokens])
    out.add_token_merges(merges)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_pad_token_id(2)
    out.add_chat_template(CHAT_TEMPLATE)
    out.add_quantization_version(2)
    for name, w in weights(seed, tied, s).items():
        if "q_proj" in name:
            w = permute(w, s["heads"])
        if "k_proj" in name:
            w = permute(w, s["kv_heads"])
        kept = kind
        if w.ndim == 1:
            kept = "f32"
        elif "embed_tokens" in name and kind in ("q4_0", "q4_1"):
            kept = "q8_0"  # as the real files have it
        number = gguf.GGMLQuantizationType[kept.upper()]
        out.add_tensor(gguf_name(name), gguf.quants.quantize(w, number), raw_dtype=number)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--type", default="f32", choices=["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"])
    p.add_argument("--untied", action="store_true")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    write(a.out, a.type, not a.untied, a.seed)
