#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Three daemons share one GPU on loopback and train one task together; one of them, and then all three, are killed with -9 and go on
where they were. Skipped (exit code 77) where there is no GPU or no CUDA module.

  BUILDDIR               where sakiori and sakiorid are
  SAKIORI_GPU_MODEL      a real GGUF model in the place of the tiny one of tests/golden (bf16 instead of f32)
  SAKIORI_GPU_TASK       a folder of bench/wordnet_task.py (site-N.jsonl, eval.jsonl) in the place of a few generated rows
"""
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from cluster import SAKIORI, TINY, Cluster, check_replicas, run, until  # noqa: E402

MODEL = os.environ.get("SAKIORI_GPU_MODEL", TINY)
TASK = os.environ.get("SAKIORI_GPU_TASK")
REAL = MODEL != TINY
DTYPE = "bf16" if REAL else "f32"
ROUNDS = int(os.environ.get("SAKIORI_GPU_ROUNDS", "12"))
SEQ, BATCH = (128, 16) if TASK else (64, 4)


def gpu_there():
    """One step on the GPU; says why not."""
    if not os.path.exists("/dev/nvidiactl"):
        return "no NVIDIA driver"
    done = subprocess.run([SAKIORI, "bench", "train", "--model", "shape:smollm2-135m", "--device", "cuda", "--batch", "1", "--seq", "16",
                           "--steps", "1", "--warmup", "0", "--no-ceiling", "--json"], capture_output=True, text=True, timeout=120)
    if done.returncode != 0 and "cannot load the CUDA backend" in done.stderr:
        return done.stderr.strip()
    assert done.returncode == 0, done.stderr
    print(done.stdout.strip())
    return None


def evaluate(cluster, adapter=None):
    more = ["--adapter", adapter] if adapter else []
    out = run(SAKIORI, "eval", "--model", MODEL, *more, "--data", cluster.eval_file(), "--rows", "64", "--seq", str(SEQ), "--base-dtype", DTYPE,
              "--device", "cuda", "--json")
    return json.loads(out.splitlines()[-1])


def round_of(site):
    return site.status()["round"]


def main():
    why = gpu_there()
    if why:
        print(f"skipped: {why}")
        return 77
    start = time.monotonic()
    with Cluster(sites=3, rounds=ROUNDS, deadline="20s", min_deadline="2s", model=MODEL, task=TASK, lr=0.004,
                 model_keys={"base_dtype": DTYPE, "device": "cuda"},
                 data_keys={"max_seq": SEQ, "batch_rows": BATCH, "micro_tokens": 2048}) as cluster:
        cluster.write_configs()
        cluster.start()
        victim = cluster.sites[1]
        until("the victim has done two rounds", lambda: victim.answers() and round_of(victim) >= 2)
        victim.kill()
        rows = victim.round_rows()
        assert rows == list(range(1, len(rows) + 1)), rows
        victim.check_objects()
        print(f"{victim.name} killed after {len(rows)} rounds, {time.monotonic() - start:.1f} s")
        victim.start(wait=False)
        until("the victim goes on", lambda: victim.answers() and round_of(victim) > len(rows))
        if min(round_of(site) for site in cluster.sites) < ROUNDS:
            for site in cluster.sites:
                site.kill()
            print(f"all killed after {[len(site.round_rows()) for site in cluster.sites]} rounds, {time.monotonic() - start:.1f} s")
            cluster.start()
        for site in cluster.sites:
            until(f"{site.name} has finished", site.finished)
        until("the last updates have arrived everywhere", lambda: all(
            peer["state"] in ("up", "finished") and peer["round"] == ROUNDS for site in cluster.sites for peer in site.peers()))
        for site in cluster.sites:
            gauges = [line for line in site.metrics().splitlines() if line.startswith(("sakiori_gpu_", "sakiori_train_joules"))]
            print(f"{site.name}: {site.status()['tokens']} tokens since its last start; " + "; ".join(gauges))
        for site in cluster.sites:
            site.stop()
            assert site.round_rows() == list(range(1, ROUNDS + 1)), site.round_rows()
            site.check_objects()
        check_replicas(cluster.sites)
        base = evaluate(cluster)
        print(f"base: loss {base['loss']:.3f}, accuracy {base['accuracy']:.3f}")
        for site in cluster.sites:
            tuned = evaluate(cluster, f"{site.state}/adapters/latest")
            print(f"{site.name}: loss {tuned['loss']:.3f}, accuracy {tuned['accuracy']:.3f}")
            assert tuned["loss"] < base["loss"], (base, tuned)
    print(f"three sites on one GPU: {ROUNDS} rounds in {time.monotonic() - start:.1f} s, kills and evaluation included")
    return 0


sys.exit(main())
