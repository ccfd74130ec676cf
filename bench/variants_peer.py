#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The linears of one layer with PEFT's adapters, forward and backward, at the shapes of `sakiori bench variants`: one JSON line a rank.

Usage: variants_peer.py [--model shape:smollm2-135m] [--device cpu|cuda] [--tokens 2048] [--ranks 8,16,...] [--base-dtype bf16|f32] [--threads N]
Needs torch and peft. PEFT's own adapters over frozen torch.nn.Linear, without dropout; adapters are f32, as PEFT keeps them.
The gradient goes on to the inputs, as in every layer above the first. Medians of repeated runs, as the other side takes them.
"""
import argparse
import json
import statistics
import time

# hidden, query, key, ffn
SHAPES = {
    "smollm2-135m": (576, 576, 192, 1536),
    "smollm2-360m": (960, 960, 320, 2560),
    "llama-3.2-1b": (2048, 2048, 512, 8192),
    "llama-3-8b": (4096, 4096, 1024, 14336),
}


def seconds(call, synchronize, clock):
    """Median of samples of a millisecond or more, after two calls that warm up: five, or three of long ones."""
    call()
    synchronize()
    start = clock()
    call()
    synchronize()
    once = clock() - start
    calls = max(1, min(64, int(1e-3 / once) + 1))
    samples = []
    for _ in range(5 if once < 20e-3 else 3):
        start = clock()
        for _ in range(calls):
            call()
        synchronize()
        samples.append((clock() - start) / calls)
    return statistics.median(samples)


def adapted(inputs, outputs, rank, options, dtype):
    """Linears that read the same input, each with an adapter that is not zero."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    module = torch.nn.ModuleDict({
        f"part{i}": torch.nn.Linear(inputs, rows, bias=False, device=options.device, dtype=dtype) for i, rows in enumerate(outputs)})
    module = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(module)), module)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            parameter.data = 0.01 * torch.randn(parameter.shape, dtype=torch.float32, device=options.device)
    return list(module.values())


def measure(groups, rank, options):
    import torch
    dtype = torch.bfloat16 if options.base_dtype == "bf16" else torch.float32
    synchronize = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None
    # One thread's own time on a CPU, as the other side: work beside it disturbs that less.
    clock = time.thread_time if options.device == "cpu" and options.threads == 1 else time.perf_counter
    forward = both = 0.0
    for inputs, outputs in groups:
        layers = adapted(inputs, outputs, rank, options, dtype)
        x = torch.randn(options.tokens, inputs, device=options.device, dtype=dtype, requires_grad=True)
        gradients = [torch.randn(options.tokens, rows, device=options.device, dtype=dtype) for rows in outputs]
        forward += seconds(lambda: [layer(x) for layer in layers], synchronize, clock)
        both += seconds(lambda: torch.autograd.backward([layer(x) for layer in layers], gradients), synchronize, clock)
    backward = both - forward
    print(json.dumps({
        "event": "variants", "model": options.model, "device": options.device, "base_dtype": options.base_dtype,
        "tokens": options.tokens, "rank": rank, "variants": "peft", "forward_ms": forward * 1e3,
        "backward_ms": backward * 1e3, "layer_ms": (forward + backward) * 1e3}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shape:smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--ranks", default="8,16,32,64,128,256")
    parser.add_argument("--base-dtype", default="bf16", choices=["bf16", "f32"])
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    import torch
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    hidden, query, key, ffn = SHAPES[options.model.removeprefix("shape:")]
    groups = [(hidden, [query, key, key]), (query, [hidden]), (hidden, [ffn, ffn]), (ffn, [hidden])]
    for rank in options.ranks.split(","):
        measure(groups, int(rank), options)


if __name__ == "__main__":
    main()
