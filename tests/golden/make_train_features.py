#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes train_features.safetensors: six steps of tiny.gguf by PyTorch and PEFT in float64 with rsLoRA, rank_pattern and alpha_pattern, dropout
(its masks drawn as src/compute/compute.h defines them), PEFT's LoRA+ optimizer and transformers' WSD schedule.

Usage: make_train_features.py (needs torch, transformers, peft, gguf, safetensors). tests/check_model.c compares with it; the batches are those of
train_golden.safetensors.
"""
import os
import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, GgufConfig, get_wsd_schedule
from transformers.models.llama import modeling_llama

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import adapter  # noqa: E402
from make_train_golden import norm_in_double, rotary_in_double  # noqa: E402

modeling_llama.LlamaRMSNorm.forward = norm_in_double
modeling_llama.LlamaRotaryEmbedding.forward = rotary_in_double

RANK, ALPHA, SEED = 4, 8, 1234
RANKS = {t: {"q": 8, "down": 2}.get(t, RANK) for t in adapter.TARGETS}
DROPOUT, RATIO = 0.25, 4
LR, DECAY, CLIP, WARMUP, TOTAL, SHARE, STEPS = 1e-3, 0.01, 1.0, 2, 8, 0.5, 6
GROUPS = {"q": 0, "k": 0, "v": 0, "o": 1, "gate": 2, "up": 2, "down": 3}


class Place:
    """Which token of which step a row begins with."""
    step = first = 0


class Dropout(torch.nn.Module):
    def __init__(self, layer, target):
        super().__init__()
        self.stream = (1 << 63) + layer * 4 + GROUPS[target]

    def forward(self, x):
        tokens, width = x.shape[-2:]
        end = (Place.first + tokens) * width
        numbers = adapter.philox(SEED, self.stream + Place.step * 65536, end // 8 + 1).astype("<u4").view("<u2").reshape(-1)
        kept = numbers[Place.first * width:end] < round((1 - DROPOUT) * 65536)
        return x * torch.from_numpy(kept.reshape(tokens, width)) / (1 - DROPOUT)


def mean_loss(model, ids, labels, offsets):
    total = 0
    for start, end in zip(offsets[:-1], offsets[1:]):
        Place.first = int(start)
        logits = model(input_ids=torch.from_numpy(ids[start:end].astype(np.int64))[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(labels[start:end].astype(np.int64)), ignore_index=-1, reduction="sum")
    return total / int((labels >= 0).sum())


def main():
    base = AutoModelForCausalLM.from_pretrained(
        HERE, gguf_file="tiny.gguf", quantization_config=GgufConfig(dequantize=True), dtype=torch.float32,
        attn_implementation="sdpa").double()
    config = base.config
    model = get_peft_model(base, LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, use_rslora=True,
        rank_pattern={"q_proj": 8, "down_proj": 2}, alpha_pattern={"v_proj": 16, "down_proj": 3},
        target_modules=[m.split(".")[1] for m in adapter.MODULES.values()])).double()
    model.config.use_cache = False
    model.train()
    modules = dict(model.named_modules())
    entries, size = adapter.model_layout(config, RANKS)
    for layer, target, *_ in entries:
        modules[f"base_model.model.model.layers.{layer}.{adapter.MODULES[target]}"].lora_dropout["default"] = Dropout(layer, target)
    start = adapter.initialise(entries, size, RANKS, SEED)
    rng = np.random.default_rng(SEED)
    for _, target, _, fan_out, _, b in entries:
        n = RANKS[target] * fan_out
        start[b:b + n] = rng.normal(0, 0.05, n).astype(np.float32)
    adapter.put(model, entries, start)

    golden = load_file(os.path.join(HERE, "train_golden.safetensors"))
    tensors, losses, rates = {"adapter": start}, [], []
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=RATIO, loraplus_weight_decay=DECAY)
    schedule = get_wsd_schedule(optimizer, WARMUP, round(SHARE * TOTAL), num_training_steps=TOTAL)
    for step in range(STEPS):
        Place.step = step
        loss = mean_loss(model, *(golden[f"{name}.{step % 3}"] for name in ("ids", "labels", "offsets")))
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        rates.append(schedule.get_last_lr()[0])
        if step == 0:
            tensors["gradient"] = adapter.get(model, entries, size, gradient=True).astype(np.float32)
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], CLIP)
        optimizer.step()
        schedule.step()
    tensors["adapter_after"] = adapter.get(model, entries, size).astype(np.float32)
    notes = {"losses": " ".join(f"{x:.17g}" for x in losses), "rates": " ".join(f"{x:.17g}" for x in rates)}
    path = os.path.join(HERE, "train_features.safetensors")
    save_file(tensors, path, metadata=notes)
    print(path, os.path.getsize(path), "bytes", notes)


if __name__ == "__main__":
    main()
