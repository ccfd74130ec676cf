#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training speed and memory of sakiori and of Hugging Face PEFT on this CPU, in turns, and sakiori's share of the oneDNN ceiling of the same run.

Usage: speed_vs_peft.py --model SmolLM2-135M.gguf --build BUILD_DIRECTORY [--turns 2] [--steps 4] [--threads N]
SmolLM2-135M's shapes, bf16, rank 16 on all seven linears, 4 rows of 512 tokens a step. Needs torch, transformers, peft, gguf, and
`make bench/bench_ops`. Each side counts with its best step after a first one that warms up (other work on the machine only ever slows a
step down), and its median is printed beside it. Exits 1 below 1.5 times PEFT's speed or above 2 GiB.
"""
import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

ROWS, LENGTH, RANK = 4, 512, 16


def flops_per_token(layers=30, hidden=576, ffn=1536, key=192, vocabulary=49152):
    """Model FLOPs: frozen products forward and back to their input, the head likewise, the adapters with both their gradients, and causal
    attention (half a square) with a backward of twice its forward. Nothing recomputed is counted."""
    linears = [(hidden, hidden), (hidden, key), (hidden, key), (hidden, hidden), (hidden, ffn), (hidden, ffn), (ffn, hidden)]
    frozen = layers * sum(i * o for i, o in linears) + vocabulary * hidden
    adapters = layers * sum(RANK * (i + o) for i, o in linears)
    attention = 4 * (LENGTH / 2) * hidden * layers
    return 4 * frozen + 6 * adapters + 3 * attention


def run_peft(gguf, steps, threads):
    import warnings
    warnings.filterwarnings("ignore")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GgufConfig
    if threads:
        torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(os.path.abspath(gguf)), gguf_file=os.path.basename(gguf), quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16, attn_implementation="sdpa")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=targets))
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    torch.manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (ROWS, LENGTH))
    for _ in range(steps + 1):
        start = time.time()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps({"event": "step", "tokens": ROWS * LENGTH, "tokens_per_second": ROWS * LENGTH / (time.time() - start)}), flush=True)
    print(json.dumps({"peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def write_rows(path):
    """Every row is longer than a row may be, so that each is cut to exactly LENGTH tokens."""
    rng = random.Random(1)
    words = "cloth river indigo winter thread harbour sleeve lantern kettle weaver mountain village".split()
    with open(path, "w", encoding="utf8") as file:
        for _ in range(64):
            file.write(json.dumps({"text": " ".join(rng.choice(words) for _ in range(LENGTH))}) + "\n")


def run(words, threads):
    """JSON lines and peak resident KiB of a program that is given one thread a core."""
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(words, stdout=out, stderr=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{' '.join(words)}: exit code {child.returncode}")
        out.seek(0)
        return [json.loads(line) for line in out], usage.ru_maxrss


class Side:
    def __init__(self):
        self.speeds, self.peak = [], 0

    def add(self, lines, peak):
        steps = [s for s in lines if s.get("event") == "step"]
        if any(s["tokens"] != ROWS * LENGTH for s in steps):
            sys.exit("a step did not have 4 rows of 512 tokens")
        self.speeds += [s["tokens_per_second"] for s in steps[1:]]
        self.peak = max(self.peak, peak)

    def report(self):
        middle = sorted(self.speeds)[len(self.speeds) // 2]
        return {"tokens_per_second": round(max(self.speeds)), "median": round(middle), "peak_gib": round(self.peak / 2**20, 2)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--build", default=".")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--peft", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peft:
        run_peft(a.model, a.steps, a.threads)
        return 0
    ours, theirs, ceiling = Side(), Side(), 0
    with tempfile.TemporaryDirectory() as work:
        rows = os.path.join(work, "rows.jsonl")
        write_rows(rows)
        for _ in range(a.turns):
            lines, _ = run([os.path.join(a.build, "bench", "bench_ops"), str(ROWS * LENGTH), str(a.threads)], a.threads)
            ceiling = max(ceiling, lines[-1]["ceiling_gflops"])
            ours.add(*run([os.path.join(a.build, "sakiori"), "train", "--model", a.model, "--data", rows, "--out", os.path.join(work, "out"),
                           "--batch", str(ROWS), "--seq", str(LENGTH), "--rank", str(RANK), "--steps", str(a.steps + 1),
                           "--threads", str(a.threads), "--json"], a.threads))
            theirs.add(*run([sys.executable, os.path.abspath(__file__), "--peft", "--model", a.model, "--steps", str(a.steps),
                             "--threads", str(a.threads)], a.threads))
    mine, peft = ours.report(), theirs.report()
    share = mine["tokens_per_second"] * flops_per_token() / (ceiling * 1e9)
    ratio = mine["tokens_per_second"] / peft["tokens_per_second"]
    print(json.dumps({"trainer": "sakiori", **mine, "ceiling_gflops": round(ceiling), "share_of_ceiling": round(share, 3)}))
    print(json.dumps({"trainer": "peft", **peft}))
    print(json.dumps({"ratio": round(ratio, 2), "ratio_of_medians": round(mine["median"] / peft["median"], 2)}))
    return 0 if ratio >= 1.5 and mine["peak_gib"] <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
