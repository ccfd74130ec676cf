# SPDX-License-Identifier: Apache-2.0
"""The adapter's flat vector and first values as src/train/lora.c defines them, for the scripts that compare with PyTorch."""
import numpy as np

TARGETS = ["q", "k", "v", "o", "gate", "up", "down"]
MODULES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}


def philox(seed, stream, blocks):
    """Philox4x32-10: `blocks` blocks of four numbers, (blocks, 4) uint32."""
    mask = np.uint64(0xFFFFFFFF)
    counter = np.arange(blocks, dtype=np.uint64)
    c0, c1 = counter & mask, counter >> np.uint64(32)
    c2 = np.full(blocks, stream & 0xFFFFFFFF, np.uint64)
    c3 = np.full(blocks, stream >> 32, np.uint64)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = ((p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & mask,
                          (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & mask)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], 1).astype(np.uint32)


def uniform(seed, stream, n):
    """n numbers in [0, 1), 24 bits."""
    return ((philox(seed, stream, (n + 3) // 4).reshape(-1)[:n] >> 8) * np.float32(2.0 ** -24)).astype(np.float32)


def rank_of(rank, target):
    """rank: one for all, or by target."""
    return rank[target] if isinstance(rank, dict) else rank


def layout(layers, hidden, query, key, ffn, rank, targets=TARGETS):
    """[(layer, target, in, out, offset of A, offset of B)] and the vector's size."""
    inputs = {t: hidden for t in TARGETS} | {"o": query, "down": ffn}
    outputs = {"q": query, "k": key, "v": key, "o": hidden, "gate": ffn, "up": ffn, "down": hidden}
    entries, at = [], 0
    for layer in range(layers):
        block = [[layer, t, inputs[t], outputs[t], 0, 0] for t in TARGETS if t in targets]
        for e in block:
            e[4], at = at, at + rank_of(rank, e[1]) * e[2]
        for e in block:
            e[5], at = at, at + rank_of(rank, e[1]) * e[3]
        entries += block
    return entries, at


def initialise(entries, size, rank, seed):
    vector = np.zeros(size, np.float32)
    for i, (_, target, fan_in, _, a, _) in enumerate(entries):
        bound = np.float32(1) / np.sqrt(np.float32(fan_in))
        n = rank_of(rank, target) * fan_in
        vector[a:a + n] = bound * (np.float32(2) * uniform(seed, i, n) - np.float32(1))
    return vector


def model_layout(config, rank, targets=TARGETS):
    """layout() of a transformers Llama configuration."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return layout(config.num_hidden_layers, config.hidden_size, config.num_attention_heads * head,
                  config.num_key_value_heads * head, config.intermediate_size, rank, targets)


def factors(model, entries):
    """PEFT's parameters in the layout's order: [(A, B)] torch parameters, A (rank, in), B (out, rank)."""
    named = dict(model.named_parameters())
    result = []
    for layer, target, *_ in entries:
        stem = f"base_model.model.model.layers.{layer}.{MODULES[target]}"
        result.append((named[f"{stem}.lora_A.default.weight"], named[f"{stem}.lora_B.default.weight"]))
    return result


def put(model, entries, vector):
    """Writes the flat vector into PEFT's parameters."""
    import torch
    with torch.no_grad():
        for (_, _, _, _, a, b), (pa, pb) in zip(entries, factors(model, entries)):
            pa.copy_(torch.from_numpy(vector[a:a + pa.numel()].reshape(pa.shape).copy()))
            pb.copy_(torch.from_numpy(vector[b:b + pb.numel()].reshape(pb.shape).copy()))


def get(model, entries, size, gradient=False):
    """PEFT's parameters, or their gradients, as a flat float64 vector."""
    vector = np.zeros(size, np.float64)
    for (_, _, _, _, a, b), pair in zip(entries, factors(model, entries)):
        for at, p in zip((a, b), pair):
            vector[at:at + p.numel()] = (p.grad if gradient else p.detach()).double().numpy().reshape(-1)
    return vector
