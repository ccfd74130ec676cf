#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes architectures/: a tiny model of random weights for each architecture, as transformers saves it and as llama.cpp's converter
would convert it, and architectures.safetensors: what transformers makes of it in float32 (logits, loss, adapter gradient by PEFT).

Usage: make_architectures.py (needs torch, transformers, peft, gguf, safetensors). tests/check_architectures.c compares with it.
"""
import copy
import json
import os
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, GgufConfig

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import adapter  # noqa: E402
from make_tiny_model import permute  # noqa: E402

OUT = os.path.join(HERE, "architectures")
RANK, ALPHA, SEED = 2, 4, 77
LENGTHS = [23, 4, 17]  # rows of the batch, in tokens: longer and shorter than the windows

SIZES = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "bos_token_id": 1}

# dtype: of the weights in the files. gguf: llama.cpp's name of the architecture, and gguf_of the variant that
# the GGUF file is: the converter leaves out the window of a Mistral. four: changes to config.json as
# transformers 4 spelled it. variants: further configurations of the same weights.
MODELS = {
    "llama": {
        "config": {"model_type": "llama", "head_dim": None, "num_key_value_heads": 2, "eos_token_id": [2, 3], "tie_word_embeddings": False,
                   "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                       "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
        "dtype": torch.bfloat16, "gguf": "llama"},
    "smollm2": {
        "config": {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 2, "eos_token_id": 2, "tie_word_embeddings": True,
                   "rope_parameters": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 2.0}},
        "dtype": torch.float16, "gguf": "llama", "four": {"num_key_value_heads": None, "head_dim": None}},
    "mistral": {
        "config": {"model_type": "mistral", "eos_token_id": 2, "head_dim": 16, "sliding_window": 6, "tie_word_embeddings": False,
                   "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        "dtype": torch.float32, "gguf": "llama", "gguf_of": "full", "variants": {"full": {"sliding_window": None}}},
    "qwen2": {
        "config": {"model_type": "qwen2", "eos_token_id": 2, "tie_word_embeddings": True, "use_sliding_window": False,
                   "sliding_window": 5, "max_window_layers": 3, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        "dtype": torch.bfloat16, "gguf": "qwen2", "shards": "12KB",
        "four": {"sliding_window": 5},
        "variants": {"late": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
                             "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}}},
    "qwen3": {
        "config": {"model_type": "qwen3", "head_dim": 24, "eos_token_id": 2, "tie_word_embeddings": False,
                   "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        "dtype": torch.bfloat16, "gguf": "qwen3"},
    "gemma2": {
        "config": {"model_type": "gemma2", "head_dim": 12, "query_pre_attn_scalar": 12, "eos_token_id": 1, "bos_token_id": 2,
                   "sliding_window": 6, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 8.0, "tie_word_embeddings": True,
                   "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        "dtype": torch.bfloat16, "gguf": "gemma2",
        "variants": {"scalar": {"query_pre_attn_scalar": 40}, "plain": {"attn_logit_softcapping": None, "final_logit_softcapping": None}}},
}


def build(config):
    """A model in float32 whose weights leave their mark on the logits; norms and biases too."""
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for name, w in model.named_parameters():
            if name.endswith("bias"):
                w.normal_(0, 0.5)
            elif w.ndim == 1:
                w.add_(torch.randn_like(w) * 0.2)
            elif "embed_tokens" in name:
                w.normal_(0, 0.5)
            else:
                w.normal_(0, w.shape[1] ** -0.5)
    return model


def older_spelling(config, changes):
    """config.json as transformers 4 wrote it."""
    c = {k: v for k, v in copy.deepcopy(config).items() if k not in ("dtype", "rope_parameters", "layer_types")}
    rope = dict(config["rope_parameters"])
    kind = rope.pop("rope_type")
    c |= {"torch_dtype": config["dtype"], "rope_theta": rope.pop("rope_theta"), "transformers_version": "4.46.0"}
    # the key of the kind was once just "type"
    c["rope_scaling"] = None if kind == "default" else rope | {"type" if kind == "linear" else "rope_type": kind}
    return c | changes


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=1, sort_keys=True)
        f.write("\n")


def as_numbers(w, dtype):
    """A tensor as the bytes of a GGUF file: vectors are widened, as the converter does."""
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    number = gguf.GGMLQuantizationType["F32" if w.ndim == 1 else kind]
    return gguf.quants.quantize(w, number), number


# Head size and configuration of scaling of the real ones.
LLAMA3 = {"llama-3.1-8b": (128, 8.0), "llama-3.2-1b": (64, 32.0), "llama-3.2-3b": (128, 32.0)}


def rope_factors(rope, dim):
    """The factors of llama3 scaling, as the converter computes them."""
    frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    trained, factor, out = rope["original_max_position_embeddings"], rope["factor"], []
    for frequency in frequencies:
        length = 2 * np.pi / frequency
        smooth = (trained / length - low) / (high - low)
        out.append(1 if length < trained / high else factor if length > trained / low else 1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(out, dtype=torch.float32).numpy()


def write_gguf(path, name, model, dtype):
    c = model.config
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    names = gguf.get_tensor_name_map(next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == name), c.num_hidden_layers)
    out = gguf.GGUFWriter(path, name)
    out.add_type("model")
    out.add_name(os.path.basename(path))
    out.add_block_count(c.num_hidden_layers)
    out.add_context_length(c.max_position_embeddings)
    out.add_embedding_length(c.hidden_size)
    out.add_feed_forward_length(c.intermediate_size)
    out.add_head_count(c.num_attention_heads)
    out.add_head_count_kv(c.num_key_value_heads)
    out.add_key_length(head)
    out.add_value_length(head)
    out.add_layer_norm_rms_eps(c.rms_norm_eps)
    out.add_rope_freq_base(c.rope_parameters["rope_theta"])
    out.add_vocab_size(c.vocab_size)
    if c.rope_parameters["rope_type"] == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(c.rope_parameters["factor"])
    if c.rope_parameters["rope_type"] == "llama3":
        out.add_tensor("rope_freqs.weight", rope_factors(c.rope_parameters, head))
    if name == "gemma2":
        out.add_attn_logit_softcapping(c.attn_logit_softcapping)
        out.add_final_logit_softcapping(c.final_logit_softcapping)
        out.add_sliding_window(c.sliding_window)
    for key, w in model.state_dict().items():
        if key == "lm_head.weight" and c.tie_word_embeddings:
            continue
        w = w.float().numpy()
        if name == "gemma2" and key.endswith("norm.weight"):
            w = w + 1
        if name == "llama" and "q_proj" in key:
            w = permute(w, c.num_attention_heads)
        if name == "llama" and "k_proj" in key:
            w = permute(w, c.num_key_value_heads)
        data, number = as_numbers(w, dtype)
        out.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), data, raw_dtype=number)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def make_batch(vocabulary):
    """Random rows; each token's label is the next token of its row, one in four left out."""
    rng = np.random.default_rng(SEED)
    ids, labels, offsets = [], [], [0]
    for n in LENGTHS:
        row = rng.integers(0, vocabulary, n)
        label = np.append(row[1:], -1)
        label[rng.random(n) < 0.25] = -1
        ids.append(row)
        labels.append(label)
        offsets.append(offsets[-1] + n)
    return np.concatenate(ids).astype(np.int32), np.concatenate(labels).astype(np.int32), np.array(offsets, np.int32)


def run(model, batch):
    """Logits (N, V), each row on its own; mean loss over the labelled tokens."""
    ids, labels, offsets = (torch.from_numpy(x.astype(np.int64)) for x in batch)
    logits = torch.cat([model(input_ids=ids[a:b][None], use_cache=False).logits[0] for a, b in zip(offsets[:-1], offsets[1:])])
    return logits, torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1)


def golden(directory, batch, changes=None):
    """-> logits of the base, the adapter, and with it loss and gradient, all as transformers loads the folder."""
    config = transformers.AutoConfig.from_pretrained(directory)
    if changes is not None:
        config = type(config)(**(json.load(open(os.path.join(directory, "config.json"))) | changes))
    model = AutoModelForCausalLM.from_pretrained(
        directory, config=config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = run(model, batch)[0]
    entries, size = adapter.model_layout(config, RANK)
    vector = adapter.initialise(entries, size, RANK, SEED)
    rng = np.random.default_rng(SEED)
    for _, _, _, fan_out, _, b in entries:
        vector[b:b + RANK * fan_out] = rng.normal(0, 0.05, RANK * fan_out).astype(np.float32)
    modules = [m.split(".")[1] for m in adapter.MODULES.values()]
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=modules)).float()
    adapter.put(model, entries, vector)
    loss = run(model, batch)[1]
    loss.backward()
    gradient = adapter.get(model, entries, size, gradient=True).astype(np.float32)
    return {"logits": logits.numpy(), "adapter": vector, "gradient": gradient, "loss": np.array([loss.item()], np.float32)}


def make(name, m, batch, tensors):
    directory = os.path.join(OUT, name)
    kind = m["config"]["model_type"]
    config = transformers.AutoConfig.for_model(kind, **{k: v for k, v in (SIZES | m["config"]).items() if k != "model_type"})
    model = build(config).to(m["dtype"])
    model.save_pretrained(directory, **({"max_shard_size": m["shards"]} if "shards" in m else {}))
    os.remove(os.path.join(directory, "generation_config.json"))
    path = os.path.join(directory, "config.json")
    written = json.load(open(path))
    write_json(path, written)
    write_json(os.path.join(directory, "config.4.json"), older_spelling(written, m.get("four", {})))
    results = {"": golden(directory, batch)}
    for variant, changes in m.get("variants", {}).items():
        write_json(os.path.join(directory, f"config.{variant}.json"), written | changes)
        write_json(os.path.join(directory, f"config.{variant}4.json"), older_spelling(written | changes, {}))
        results["." + variant] = golden(directory, batch, changes)
        assert np.abs(results["." + variant]["logits"] - results[""]["logits"]).max() > 0.1, "it changes nothing"
    for variant, result in results.items():
        tensors |= {f"{name}{variant}.{k}": v for k, v in result.items()}
    write_gguf(os.path.join(OUT, f"{name}.gguf"), m["gguf"], model, m["dtype"])
    same = written | m["variants"][m["gguf_of"]] if "gguf_of" in m else written
    config = transformers.AutoConfig.for_model(m["gguf"], **{k: v for k, v in same.items() if k not in ("model_type", "architectures")})
    check_gguf(f"{name}.gguf", config, results["." + m["gguf_of"] if "gguf_of" in m else ""]["logits"], batch)


def check_gguf(name, config, expected, batch):
    """transformers' own reader of GGUF must find the same tensors in it (of the configuration it only reads what it knows)."""
    model = AutoModelForCausalLM.from_pretrained(
        OUT, gguf_file=name, config=config, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32,
        attn_implementation="eager").eval()
    with torch.no_grad():
        worst = np.abs(run(model, batch)[0].numpy() - expected).max()
    assert worst < 1e-4, f"{name}: {worst}"


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    batch = make_batch(SIZES["vocab_size"])
    tensors = dict(zip(("ids", "labels", "offsets"), batch))
    for name, (dim, factor) in LLAMA3.items():
        rope = {"rope_theta": 500000.0, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192}
        tensors[f"rope.{name}"] = rope_factors(rope, dim)
    for name, m in MODELS.items():
        make(name, m, batch, tensors)
    notes = {"rank": str(RANK), "alpha": str(ALPHA)}
    save_file(tensors, os.path.join(HERE, "architectures.safetensors"), metadata=notes)
    for root, _, files in os.walk(OUT):
        for f in sorted(files):
            print(os.path.getsize(os.path.join(root, f)), os.path.relpath(os.path.join(root, f), HERE))


if __name__ == "__main__":
    main()
