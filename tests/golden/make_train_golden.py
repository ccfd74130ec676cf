#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes train_golden.safetensors: loss, adapter gradient and ten AdamW steps of tiny.gguf by PyTorch, transformers and PEFT in float64.

Usage: make_train_golden.py (needs torch, transformers, peft, gguf, safetensors). tests/check_model.c compares with it.
"""
import os
import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.models.llama import modeling_llama

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import adapter  # noqa: E402

RANK, ALPHA, SEED = 4, 8, 1234
LR, DECAY, CLIP, WARMUP, TOTAL = 1e-3, 0.01, 1.0, 2, 20
LENGTHS = [[37, 5, 18], [2, 29, 11], [23, 23, 1, 8]]  # rows of three batches, in tokens


def norm_in_double(self, x):
    """transformers computes norms in float32 whatever the model's type."""
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def rotary_in_double(self, x, position_ids):
    """transformers rounds angles to float32."""
    base = self.config.rope_parameters["rope_theta"]
    dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
    frequency = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = position_ids[..., None].double() * frequency
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


modeling_llama.LlamaRMSNorm.forward = norm_in_double
modeling_llama.LlamaRotaryEmbedding.forward = rotary_in_double


def make_batch(rng, vocabulary, lengths):
    """Random rows; each token's label is the next token of its row, one in four left out, at least one a batch."""
    ids, labels, offsets = [], [], [0]
    for n in lengths:
        row = rng.integers(0, vocabulary, n)
        label = np.append(row[1:], -1)
        label[rng.random(n) < 0.25] = -1
        ids.append(row)
        labels.append(label)
        offsets.append(offsets[-1] + n)
    return np.concatenate(ids).astype(np.int32), np.concatenate(labels).astype(np.int32), np.array(offsets, np.int32)


def mean_loss(model, batch):
    """Each row on its own, so that nothing can cross rows; mean over the batch's labelled tokens."""
    ids, labels, offsets = batch
    total = 0
    for start, end in zip(offsets[:-1], offsets[1:]):
        logits = model(input_ids=torch.from_numpy(ids[start:end].astype(np.int64))[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(labels[start:end].astype(np.int64)), ignore_index=-1, reduction="sum")
    return total / int((labels >= 0).sum())


def main():
    model = AutoModelForCausalLM.from_pretrained(
        HERE, gguf_file="tiny.gguf", quantization_config=GgufConfig(dequantize=True), dtype=torch.float32,
        attn_implementation="sdpa").double()
    config = model.config
    model = get_peft_model(model, LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=[m.split(".")[1] for m in adapter.MODULES.values()])).double()
    model.config.use_cache = False
    model.train()
    entries, size = adapter.model_layout(config, RANK)
    start = adapter.initialise(entries, size, RANK, SEED)
    rng = np.random.default_rng(SEED)
    for _, _, _, fan_out, _, b in entries:
        start[b:b + RANK * fan_out] = rng.normal(0, 0.05, RANK * fan_out).astype(np.float32)
    adapter.put(model, entries, start)
    batches = [make_batch(rng, config.vocab_size, lengths) for lengths in LENGTHS]

    tensors = {"adapter": start}
    losses = []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=DECAY)
    for step in range(10):
        batch = batches[step % len(batches)]
        for group in optimizer.param_groups:
            group["lr"] = LR * (step / WARMUP if step < WARMUP else (TOTAL - step) / (TOTAL - WARMUP))
        loss = mean_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            tensors["gradient"] = adapter.get(model, entries, size, gradient=True).astype(np.float32)
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], CLIP)
        optimizer.step()
    tensors["adapter_after"] = adapter.get(model, entries, size).astype(np.float32)
    for i, (ids, labels, offsets) in enumerate(batches):
        tensors |= {f"ids.{i}": ids, f"labels.{i}": labels, f"offsets.{i}": offsets}
    notes = {"losses": " ".join(f"{x:.17g}" for x in losses), "rank": str(RANK), "alpha": str(ALPHA), "seed": str(SEED)}
    path = os.path.join(HERE, "train_golden.safetensors")
    save_file(tensors, path, metadata=notes)
    print(path, os.path.getsize(path), "bytes, losses", notes["losses"])


if __name__ == "__main__":
    main()
