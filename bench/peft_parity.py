#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same training by Hugging Face PEFT and by sakiori, in float32: 20 losses, and the exported adapter's evaluation loss.

Usage: peft_parity.py --model MODEL.gguf --sakiori PATH/TO/sakiori [--write]
Needs torch, transformers, peft, gguf. Exits 1 when a loss differs by more than 1e-3. --write stores PEFT's figures in
tests/golden/real_losses.json, against which tests/e2e/real_parity.sh compares without torch.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden")
sys.path.insert(0, GOLDEN)
import adapter  # noqa: E402

RANK, ALPHA, LR, BATCH, STEPS, SEED, TOLERANCE = 16, 32, 2e-4, 4, 20, 0, 1e-3
TRAIN, EVAL = os.path.join(GOLDEN, "rows.jsonl"), os.path.join(GOLDEN, "rows_eval.jsonl")


def encode(tokenizer, row):
    """(ids, labels): what counts are completions, assistant turns with their end, and whole texts; the end token is appended."""
    def plain(text):
        return tokenizer(text, add_special_tokens=False).input_ids
    end = tokenizer.eos_token_id
    if "text" in row:
        ids = plain(row["text"]) + [end]
        return ids, ids
    if "prompt" in row:
        prompt, completion = plain(row["prompt"]), plain(row["completion"]) + [end]
        return prompt + completion, [-100] * len(prompt) + completion
    turns = row["messages"]
    header = plain(tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True))
    answer = plain(turns[-1]["content"]) + plain("<|im_end|>")
    tail = plain("\n")
    return header + answer + tail, [-100] * len(header) + answer + [-100] * len(tail)


def read_rows(tokenizer, path):
    with open(path, encoding="utf8") as file:
        return [encode(tokenizer, json.loads(line)) for line in file]


def loss_of(model, rows):
    """Sum of the loss over labelled tokens, and their number; padded at the end, where causal attention cannot look."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([i + [0] * (longest - len(i)) for i, _ in rows])
    labels = torch.tensor([l + [-100] * (longest - len(l)) for _, l in rows])
    logits = model(input_ids=ids).logits[:, :-1]
    labels = labels[:, 1:]
    total = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100, reduction="sum")
    return total, int((labels >= 0).sum())


def load_base(gguf):
    return AutoModelForCausalLM.from_pretrained(
        os.path.dirname(os.path.abspath(gguf)), gguf_file=os.path.basename(gguf),
        quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, attn_implementation="sdpa")


def evaluate(model, rows):
    model.eval()
    with torch.no_grad():
        parts = [loss_of(model, rows[i:i + 8]) for i in range(0, len(rows), 8)]
    return sum(p[0].item() for p in parts) / sum(p[1] for p in parts)


def train_with_peft(gguf, rows):
    base = load_base(gguf)
    entries, size = adapter.model_layout(base.config, RANK)
    model = get_peft_model(base, LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=[m.split(".")[1] for m in adapter.MODULES.values()]))
    adapter.put(model, entries, adapter.initialise(entries, size, RANK, SEED))
    model.config.use_cache = False
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * (STEPS - step) / STEPS
        total, count = loss_of(model, rows[step * BATCH:(step + 1) * BATCH])
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(total.item() / count)
    return losses


def sakiori(*words):
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(words)}: {result.stderr}")
    return [json.loads(line) for line in result.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--sakiori", required=True)
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(os.path.dirname(os.path.abspath(a.model)), gguf_file=os.path.basename(a.model))
    rows, eval_rows = read_rows(tokenizer, TRAIN), read_rows(tokenizer, EVAL)

    with tempfile.TemporaryDirectory() as work:
        out = os.path.join(work, "adapter")
        steps = sakiori(a.sakiori, "train", "--model", a.model, "--data", TRAIN, "--out", out, "--base-dtype", "f32", "--no-shuffle",
                        "--steps", str(STEPS), "--batch", str(BATCH), "--rank", str(RANK), "--alpha", str(ALPHA), "--lr", str(LR),
                        "--seed", str(SEED), "--json")
        ours = [s["loss"] for s in steps if s["event"] == "step"]
        options = ["--model", a.model, "--data", EVAL, "--base-dtype", "f32", "--json"]
        ours_base = sakiori(a.sakiori, "eval", *options)[0]
        ours_eval = sakiori(a.sakiori, "eval", "--adapter", out, *options)[0]
        exported = PeftModel.from_pretrained(load_base(a.model), out)
        theirs_eval = evaluate(exported, eval_rows)
        with exported.disable_adapter():
            theirs_base = evaluate(exported, eval_rows)
        del exported
    theirs = train_with_peft(a.model, rows)

    for step, (x, y) in enumerate(zip(ours, theirs), 1):
        print(f"step {step:2}  sakiori {x:.6f}  PEFT {y:.6f}  difference {x - y:+.1e}")
    print(f"eval, base      sakiori {ours_base['loss']:.6f}  transformers {theirs_base:.6f}  difference {ours_base['loss'] - theirs_base:+.1e}")
    print(f"eval, exported  sakiori {ours_eval['loss']:.6f}  transformers+PEFT {theirs_eval:.6f}  difference {ours_eval['loss'] - theirs_eval:+.1e}")
    worst = max([abs(x - y) for x, y in zip(ours, theirs)] + [abs(ours_eval["loss"] - theirs_eval), abs(ours_base["loss"] - theirs_base)])
    good = len(ours) == STEPS and worst <= TOLERANCE
    print(f"{'PASS' if good else 'FAIL'}: {len(ours)} steps, worst difference {worst:.1e}, allowed {TOLERANCE}")
    if a.write:
        with open(os.path.join(GOLDEN, "real_losses.json"), "w", encoding="utf8") as file:
            json.dump({"rank": RANK, "alpha": ALPHA, "lr": LR, "batch": BATCH, "steps": STEPS, "seed": SEED,
                       "base_eval_loss": round(theirs_base, 6), "trained_eval_loss": round(theirs_eval, 6), "losses": [round(x, 6) for x in theirs]}, file, indent=1)
            file.write("\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
