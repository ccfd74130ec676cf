#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The real model on the GPU against the CPU, from the same start on the same rows.

  bench/gpu_parity.py MODEL.gguf ROWS.jsonl [--steps 50] [--device cuda]

1. f32 on the GPU (no TF32) against f32 on the CPU: the largest difference of the losses of all steps, at most 2e-3.
2. bf16 on the GPU: the mean of its last ten losses lies within the range of those of three f32 runs with seeds of their own for the adapter's
   first values and the order of the rows. One JSON line a run, one with the verdicts; exit code 1 when one is missed.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

SAKIORI = os.environ.get("SAKIORI", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "sakiori"))


def losses(o, device, dtype, seed):
    """Of every step, as `sakiori train --json` prints them."""
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run([SAKIORI, "train", "--model", o.model, "--data", o.rows, "--out", os.path.join(out, "adapter"), "--device", device,
                               "--base-dtype", dtype, "--steps", str(o.steps), "--batch", str(o.batch), "--seq", str(o.seq), "--lr", "2e-4",
                               "--seed", str(seed), "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"gpu_parity.py: training on {device} in {dtype} ended with {done.returncode}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [line["loss"] for line in found if line.get("event") == "step"]
    print(json.dumps({"event": "run", "device": device, "base_dtype": dtype, "seed": seed, "losses": steps}), flush=True)
    return steps


def end(values):
    return sum(values[-10:]) / len(values[-10:])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model")
    a.add_argument("rows")
    a.add_argument("--steps", type=int, default=50)
    a.add_argument("--batch", type=int, default=4)
    a.add_argument("--seq", type=int, default=128)
    a.add_argument("--device", default="cuda")
    o = a.parse_args()
    cpu = losses(o, "cpu", "f32", 1)
    f32 = [losses(o, o.device, "f32", seed) for seed in (1, 2, 3)]
    bf16 = losses(o, o.device, "bf16", 1)
    worst = max(abs(x - y) for x, y in zip(cpu, f32[0]))
    ends = [end(x) for x in f32]
    verdict = {"event": "parity", "steps": len(cpu), "worst_difference": worst, "f32_ends": ends, "bf16_end": end(bf16),
               "f32_agrees": worst <= 2e-3, "bf16_in_range": min(ends) <= end(bf16) <= max(ends)}
    print(json.dumps(verdict))
    return 0 if verdict["f32_agrees"] and verdict["bf16_in_range"] else 1


if __name__ == "__main__":
    sys.exit(main())
