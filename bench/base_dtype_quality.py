#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a packed base costs in quality: the same training, seed by seed, on a bf16 base and on an fp8 (q4, as-stored) one.

  bench/base_dtype_quality.py MODEL.gguf TASK [--types fp8,q4] [--seeds 5] [--steps 200] [--device cuda]

TASK is a folder of bench/wordnet_task.py (pooled.jsonl, eval.jsonl). Each adapter is evaluated on the base it was trained on, and on the
bf16 base, where it may be used later. One JSON line a run, then one a type: the mean over the seeds of (its loss / bf16's - 1) and the 95 %
interval of that mean (Student's t), for both evaluations. Exit code 1 when the mean on its own base is above --limit.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

# Two-sided 95 % points of Student's t by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def read_arguments():
    a = argparse.ArgumentParser()
    a.add_argument("model")
    a.add_argument("task")
    a.add_argument("--types", default="fp8")
    a.add_argument("--seeds", type=int, default=5)
    a.add_argument("--steps", type=int, default=200)
    a.add_argument("--batch", type=int, default=16)
    a.add_argument("--seq", type=int, default=128)
    a.add_argument("--rank", type=int, default=16)
    a.add_argument("--lr", default="2e-3")
    a.add_argument("--device", default="cuda")
    a.add_argument("--limit", type=float, default=0.005)
    a.add_argument("--sakiori", default=os.environ.get("SAKIORI", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "sakiori")))
    o = a.parse_args()
    if not 2 <= o.seeds <= 10:
        a.error("--seeds: expected 2 to 10")
    return o


def last_line(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def train(o, folder, kind, seed):
    """Losses on the rows of eval.jsonl: on its own base, and on a bf16 one."""
    adapter = os.path.join(folder, f"{kind}-{seed}")
    common = ["--model", o.model, "--device", o.device, "--seq", str(o.seq), "--json"]
    lines = last_line(o.sakiori, "train", *common, "--data", f"{o.task}/pooled.jsonl", "--eval", f"{o.task}/eval.jsonl", "--out", adapter,
                      "--base-dtype", kind, "--steps", str(o.steps), "--batch", str(o.batch), "--rank", str(o.rank), "--lr", o.lr,
                      "--warmup", "5", "--seed", str(seed))
    own = [line for line in lines if line.get("event") == "eval"][-1]["loss"]
    plain = own if kind == "bf16" else last_line(o.sakiori, "eval", *common, "--adapter", adapter, "--data", f"{o.task}/eval.jsonl")[-1]["loss"]
    print(json.dumps(dict(event="run", base_dtype=kind, seed=seed, loss=own, loss_on_bf16=plain)), flush=True)
    return own, plain


def interval(differences):
    half = STUDENT[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
    mean = statistics.fmean(differences)
    return dict(mean=mean, low=mean - half, high=mean + half)


def main():
    o = read_arguments()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        reference = [train(o, folder, "bf16", seed)[0] for seed in range(o.seeds)]
        for kind in o.types.split(","):
            runs = [train(o, folder, kind, seed) for seed in range(o.seeds)]
            own = interval([run[0] / plain - 1 for run, plain in zip(runs, reference)])
            moved = interval([run[1] / plain - 1 for run, plain in zip(runs, reference)])
            good = good and own["mean"] <= o.limit
            print(json.dumps(dict(event="difference", base_dtype=kind, seeds=o.seeds, steps=o.steps, own_base=own, on_bf16=moved)), flush=True)
    return 0 if good else 1


sys.exit(main())
