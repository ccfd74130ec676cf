#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A training run with everything on that is killed, stopped and resumed ends in the same bytes as one that was not: adapters, log, samples, TensorBoard's
events; the best adapter and patience survive; and other settings and files are refused by name."""
import glob
import json
import math
import os
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tensorboard  # noqa: E402

SAKIORI = os.path.join(os.environ.get("BUILDDIR", "."), "sakiori")
GOLDEN = os.path.join(os.environ.get("SRCDIR", "."), "tests/golden")
PROMPT = "The indigo cloth remembers"
os.environ["OMP_WAIT_POLICY"] = "passive"


def command(out, *options):
    return [SAKIORI, "train", "--model", f"{GOLDEN}/tiny.gguf", "--data", f"{GOLDEN}/rows.jsonl", "--eval", f"{GOLDEN}/rows_eval.jsonl",
            "--eval-rows", "4", "--out", out, "--base-dtype", "f32", "--threads", "1", "--seq", "128", "--rank", "4", "--json", *options]


def everything(name):
    return command(name, "--steps", "120", "--eval-every", "5", "--save-every", "7", "--patience", "100", "--lr", "3e-3", "--dropout", "0.1",
                   "--rslora", "--rank-pattern", "q=8,down=2", "--alpha-pattern", "v=16", "--lora-plus", "4", "--weight-decay", "0.01",
                   "--schedule", "wsd", "--decay-share", "0.3", "--warmup", "5", "--log", f"{name}.jsonl", "--tensorboard", f"{name}.events",
                   "--samples", f"{name}.samples", "--sample-prompt", PROMPT, "--sample-prompt", "A river", "--sample-tokens", "4")


def lines(output):
    return [json.loads(line) for line in output.splitlines()]


def run(words, code=0):
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == code, f"{' '.join(words)}: exit code {done.returncode}, expected {code}: {done.stderr}"
    assert PROMPT not in done.stdout + done.stderr, "a prompt where it does not belong"
    return done


def refused(words, code, sentence):
    said = run(words, code).stderr
    assert sentence in said, f"no '{sentence}' in: {said}"


def interrupt(words, step, how):
    """Runs until the step has been taken, then sends the signal. Returns the lines that came out."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line) if line.endswith("}\n") else {})
        if seen[-1].get("event") == "step" and seen[-1]["step"] >= step and how:
            process.send_signal(how)
            how = None
    process.wait()
    return seen


def content(path):
    with open(path, "rb") as file:
        return file.read()


def events(name):
    files = glob.glob(f"{name}.events/*tfevents*")
    assert len(files) == 1, files
    return [(step, values) for _, step, values in tensorboard.events(files[0])]


def check_logs():
    whole = lines(run(everything("whole")).stdout)
    log = lines(content("whole.jsonl"))
    steps = [x for x in log if "loss" in x]
    evals = [x for x in log if "eval_loss" in x]
    assert [x["global_step"] for x in steps] == list(range(1, 121))
    assert [x["global_step"] for x in evals] == list(range(5, 121, 5))
    assert set(steps[0]) == {"loss", "grad_norm", "learning_rate", "num_tokens", "epoch", "global_step"}
    assert steps[0]["epoch"] == 4 / 80 and steps[0]["learning_rate"] == 0 and steps[20]["learning_rate"] == 3e-3, steps[20]
    spoken = [x for x in whole if x["event"] == "step"]
    assert [x["loss"] for x in spoken] == [x["loss"] for x in steps]
    total = 0
    for one, x in zip(spoken, steps):
        total += one["tokens"]
        assert x["num_tokens"] == total
    for x in evals:
        assert abs(x["eval_perplexity"] / math.exp(x["eval_loss"]) - 1) < 1e-6 and 0 <= x["eval_accuracy"] <= 1
    best = min(evals, key=lambda x: x["eval_loss"])
    assert whole[-1]["best_step"] == best["global_step"] and whole[-1]["best_loss"] == best["eval_loss"] and not whole[-1]["stopped_early"]
    assert [x["best"] for x in whole if x["event"] == "eval"][0]
    again = lines(run([SAKIORI, "eval", "--model", f"{GOLDEN}/tiny.gguf", "--adapter", "whole.best", "--data", f"{GOLDEN}/rows_eval.jsonl", "--rows", "4",
                       "--base-dtype", "f32", "--threads", "1", "--seq", "128", "--json"]).stdout)
    assert abs(again[0]["loss"] - best["eval_loss"]) < 1e-4, (again, best)
    samples = lines(content("whole.samples"))
    assert [x["step"] for x in samples] == [s for s in range(5, 121, 5) for _ in range(2)]
    assert samples[0]["prompt"] == PROMPT and samples[1]["prompt"] == "A river" and all(x["text"] for x in samples)
    assert os.stat("whole.samples").st_mode & 0o777 == 0o600
    # TensorBoard has the same numbers, as floats
    found = events("whole")
    assert len(found) == len(log)
    for (step, values), x in zip(found, log):
        pairs = {f"eval/{k[5:]}" if k.startswith("eval_") else f"train/{k}": v for k, v in x.items() if k not in ("global_step",)}
        pairs.pop("train/epoch", None) if "eval_loss" in x else None
        assert step == x["global_step"] and set(values) == set(pairs), (values, pairs)
        assert all(abs(values[k] - v) <= 1e-6 * abs(v) for k, v in pairs.items())


def check_resume():
    seen = interrupt(everything("parts"), 30, signal.SIGKILL)
    assert seen[-1].get("event") != "done", "the run was over before it could be killed"
    assert len(content("parts.jsonl").splitlines()) >= 30
    seen = interrupt([*everything("parts"), "--resume"], 70, signal.SIGTERM)
    assert seen[0]["step"] % 7 == 0 and 28 <= seen[0]["step"] < 120, seen[0]
    done = lines(run([*everything("parts"), "--resume"]).stdout)
    assert done[-1]["event"] == "done"
    for name in ("", ".best"):
        assert content(f"whole{name}/adapter_model.safetensors") == content(f"parts{name}/adapter_model.safetensors"), name
    for name in ("jsonl", "samples"):
        assert content(f"whole.{name}") == content(f"parts.{name}"), name
    assert events("whole") == events("parts")
    # once more: nothing is left to do, and nothing is written twice
    done = lines(run([*everything("parts"), "--resume"]).stdout)
    assert done[-1]["steps"] == 120 and done[-1]["loss"] is None and done[-1]["best_loss"] > 0
    assert content("whole.jsonl") == content("parts.jsonl") and events("whole") == events("parts")


def check_patience():
    level = ["--lr", "0", "--eval-every", "1", "--save-every", "1", "--steps", "400"]
    # a learning rate of nothing: the first evaluation stays the best
    done = lines(run(command("short", *level, "--patience", "2")).stdout)
    assert done[-1]["stopped_early"] and done[-1]["steps"] == 3 and done[-1]["best_step"] == 1, done[-1]
    done = lines(run([*command("short", *level, "--patience", "2"), "--resume"]).stdout)
    assert [x["event"] for x in done] == ["start", "done"] and done[-1]["steps"] == 3
    seen = interrupt(command("long", *level, "--patience", "100"), 20, signal.SIGKILL)
    assert seen[-1].get("event") != "done"
    done = lines(run([*command("long", *level, "--patience", "100"), "--resume"]).stdout)
    assert done[-1]["stopped_early"] and done[-1]["steps"] == 101 and done[-1]["best_step"] == 1, done[-1]
    # what is hardly lower is not lower
    done = lines(run(command("delta", "--lr", "1e-3", "--eval-every", "1", "--steps", "50", "--patience", "3", "--min-delta", "100")).stdout)
    assert done[-1]["stopped_early"] and done[-1]["steps"] == 4 and done[-1]["best_step"] == 4, done[-1]


def check_refusals():
    refused(everything("whole"), 1, "whole.jsonl is there already")
    refused([*everything("whole"), "--resume", "--patience", "3"], 1, "was made with patience 100, this run has 3")
    refused([*everything("whole"), "--resume", "--eval-every", "6"], 1, "eval-every 5")
    refused([*everything("whole"), "--resume", "--eval-rows", "5"], 1, "was made with eval ")
    refused([*everything("whole"), "--resume", "--dropout", "0"], 1, "was made with dropout 0.1")
    refused([*everything("whole"), "--resume", "--rank-pattern", "q=4,k=8,down=2"], 1, "this run has")
    with open("whole.jsonl", "r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"x")
    before = content("whole.jsonl")
    refused([*everything("whole"), "--resume"], 1, "whole.jsonl is not the file that this run was writing")
    assert content("whole.jsonl") == before
    refused(command("x", "--patience", "3"), 2, "--eval-every")
    refused(command("x", "--samples", "s"), 2, "--sample-prompt")
    refused(command("x", "--sample-prompt", "s"), 2, "--samples")
    refused(command("x", "--rank-pattern", "w=3"), 2, "--rank-pattern: ")
    refused(command("x", "--rank-pattern", "q=3.5"), 2, "rank 3.5")
    refused(command("x", "--dropout", "1"), 2, "dropout 1")
    refused(command("x", "--schedule", "wsb"), 2, "constant, linear, cosine or wsd")
    refused(command("x", "--samples", "s", "--sample-prompt", "a", "--sample-tokens", "999999"), 1, "exceeds the model's")
    with open("prompts", "w") as file:
        file.write("one\n\r\n\ntwo")
    run(command("filed", "--steps", "2", "--samples", "filed.samples", "--sample-prompts", "prompts", "--sample-tokens", "2"))
    assert [(x["step"], x["prompt"]) for x in lines(content("filed.samples"))] == [(2, "one"), (2, "two")]


def main():
    global SAKIORI, GOLDEN
    SAKIORI, GOLDEN = os.path.abspath(SAKIORI), os.path.abspath(GOLDEN)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        check_logs()
        check_resume()
        check_patience()
        check_refusals()
        os.chdir("/")


main()
