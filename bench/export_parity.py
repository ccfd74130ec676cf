#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Do other programs make of what `sakiori export` writes what sakiori makes of base and adapter?

    export_parity.py SAKIORI [--model MODEL.gguf] [--count 2000]       (needs torch, transformers, peft, gguf; llama-cpp-python where it is there)

Without --model the tiny model of the tests. An adapter is trained for some steps and exported in every form; arithmetic is in float32 unless said:
  transformers + peft    the trained and the exported folder: logits of each other (1e-4), the loss of sakiori (1e-5)
  transformers           the merged folder without peft: weights beside peft's own merge, the loss (1e-5), and the logits of base and adapter, both
                         computed in float64 (1e-4). In float32 those are told without a bound, with what float32 and peft's own merge do to
                         them: on SmolLM2-135M each is above 1e-4
  tokenizers             the merged folder's tokenizer: --count strings as the original, for the model and for every family
  llama.cpp              the base in F32 with the GGUF adapter, and the merged GGUF: the 50 tokens that sakiori writes greedily
Exits 1 when one of them is not.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
os.environ["TQDM_DISABLE"] = "1"
HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "tests", "golden")
sys.path[:0] = [HERE, GOLDEN]
import numpy as np  # noqa: E402
import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from safetensors.torch import load_file as load_torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, logging  # noqa: E402

import make_tiny_model  # noqa: E402
import tokenizer_families  # noqa: E402
from peft_parity import evaluate, load_base, read_rows, sakiori  # noqa: E402
from tokenizer_parity import Strings, reference  # noqa: E402

TRAIN, EVAL = os.path.join(GOLDEN, "rows.jsonl"), os.path.join(GOLDEN, "rows_eval.jsonl")
PROMPTS = ["The capital of France is", "Definition: a large cat\nTopic:", "The cloth", "def answer(question):"]
TOKENS = 50
failed = False


def report(what, figure, most=None):
    global failed
    bad = most is not None and not figure <= most
    failed = failed or bad
    print(f"{'FAIL' if bad else 'ok  '}  {what}: {figure:.3g}" + (f" (at most {most:g})" if most is not None else ""), flush=True)


def count(what, good, all_of):
    global failed
    failed = failed or good != all_of
    print(f"{'ok  ' if good == all_of else 'FAIL'}  {what}: {good} of {all_of}", flush=True)


def logits_of(model, rows):
    model.eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0].double() for ids, _ in rows]


def difference(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b))


def check_merged(work, theirs):
    """The weights themselves: F32 beside peft's own merge, BF16 beside torch's rounding of them."""
    whole, half = load_torch(f"{work}/f32/model.safetensors"), load_torch(f"{work}/bf16/model.safetensors")
    values = sum(v.numel() for v in whole.values())
    report("merged weights (F32) beside peft's own merge", max((theirs[k] - v).abs().max().item() for k, v in whole.items()), 1e-6)
    count("merged weights (BF16) as torch rounds the F32 ones", sum(int((v.bfloat16() == half[k]).sum()) for k, v in whole.items()), values)


def check_weights(o, work, adapter):
    tokenizer = AutoTokenizer.from_pretrained(f"{work}/bf16")
    rows = read_rows(tokenizer, EVAL)
    base = load_base(o.model)
    plain = logits_of(base, rows)
    tuned = PeftModel.from_pretrained(base, adapter)
    wanted, loss = logits_of(tuned, rows), evaluate(tuned, rows)
    options = ["--data", EVAL, "--base-dtype", "f32", "--json"]
    ours = sakiori(o.sakiori, "eval", "--model", o.model, "--adapter", adapter, *options)[0]["loss"]
    merged = sakiori(o.sakiori, "eval", "--model", f"{work}/f32.gguf", *options)[0]["loss"]
    exact = logits_of(tuned.double(), rows)
    tuned.float()
    report("what the adapter does to the logits", difference(plain, wanted))
    report("what float32 does to them", difference(exact, wanted))
    report("trained folder in peft, loss beside sakiori's", abs(loss - ours), 1e-5)
    report("merged GGUF (F32) in sakiori, loss beside base and adapter", abs(merged - ours), 1e-5)
    theirs = tuned.merge_and_unload()
    check_merged(work, theirs.state_dict())
    report("peft's own merge (F32), logits", difference(wanted, logits_of(theirs, rows)))
    report("peft's own merge rounded to BF16, loss beside sakiori's", abs(evaluate(theirs.bfloat16().float(), rows) - ours))
    del tuned, base, theirs
    robust = PeftModel.from_pretrained(load_base(o.model), f"{work}/peft")
    report("exported folder in peft, logits", difference(wanted, logits_of(robust, rows)), 1e-4)
    del robust
    folder = AutoModelForCausalLM.from_pretrained(f"{work}/f32", dtype=torch.float32, attn_implementation="sdpa")
    report("merged folder (F32) in transformers, logits", difference(wanted, logits_of(folder, rows)))
    report("merged folder (F32) in transformers, loss beside sakiori's", abs(evaluate(folder, rows) - ours), 1e-5)
    report("merged folder (F32) in transformers, logits, both computed in float64", difference(exact, logits_of(folder.double(), rows)), 1e-4)
    del folder
    half = AutoModelForCausalLM.from_pretrained(f"{work}/bf16", dtype=torch.float32, attn_implementation="sdpa")
    report("merged folder (BF16 weights) in transformers, logits", difference(wanted, logits_of(half, rows)))
    report("merged folder (BF16 weights) in transformers, loss beside sakiori's", abs(evaluate(half, rows) - ours))


def same(folder, encode, texts):
    """Strings that the folder's tokenizer encodes as `encode` does, and decodes back where it is reversible."""
    own = AutoTokenizer.from_pretrained(folder)
    found = [own(t).input_ids for t in texts]
    return sum(f == e for f, e in zip(found, encode(texts)))


def check_tokenizers(o, work):
    draw = Strings(3)
    texts = [draw.string() for _ in range(o.count)]
    count("strings as the model's tokenizer encodes them", same(f"{work}/bf16", reference(o.model)[0], texts), len(texts))
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]
    folder, name = os.path.split(os.path.abspath(o.model))
    original = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    written = AutoTokenizer.from_pretrained(f"{work}/bf16")
    count("conversation rendered as by the model's template",
          int(original.apply_chat_template(chat, tokenize=False) == written.apply_chat_template(chat, tokenize=False)), 1)
    names = ["bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"]
    count("special tokens as the model's", sum(getattr(original, n) == getattr(written, n) for n in names), len(names))
    for family in tokenizer_families.FAMILIES:
        for add_bos in (False, True):
            own, tokens, merges = tokenizer_families.train(family)
            special = make_tiny_model.SPECIAL
            path = f"{work}/{family}-{add_bos}"
            make_tiny_model.write(f"{path}.gguf", pre=family, vocabulary=(special + tokens, merges), add_bos=add_bos)
            zero = write_zero_adapter(f"{path}.adapter", o, f"{path}.gguf")
            sakiori(o.sakiori, "export", "--adapter", zero, "--model", f"{path}.gguf", "--format", "merged", "--out", path, "--json")

            def encode(some, own=own, first=[special.index("<|im_start|>")] if add_bos else []):
                return [first + [i + len(special) for i in e.ids] for e in own.encode_batch(some)]
            plain = [t for t in texts if not any(s in t for s in special)]
            count(f"strings of family {family}{', BOS first' if add_bos else ''}", same(path, encode, plain), len(plain))


def write_zero_adapter(path, o, model):
    """An adapter that changes nothing: B is 0."""
    if not os.path.exists(path):
        sakiori(o.sakiori, "train", "--model", model, "--data", TRAIN, "--out", path, "--steps", "1", "--rank", "1", "--base-dtype", "f32", "--json")
    tensors = load_file(f"{path}/adapter_model.safetensors")
    save_file({k: np.zeros_like(v) if "lora_B" in k else v for k, v in tensors.items()}, f"{path}/adapter_model.safetensors")
    return path


def check_llama_cpp(o, work, adapter):
    try:
        from llama_cpp import Llama
    except ImportError:
        print("skip  llama.cpp: llama-cpp-python is not there")
        return
    zero = write_zero_adapter(f"{work}/zero", o, o.model)
    sakiori(o.sakiori, "export", "--adapter", zero, "--model", o.model, "--format", "merged", "--type", "f32", "--out", f"{work}/base.gguf", "--json")
    wanted = [sakiori(o.sakiori, "generate", "--model", o.model, "--adapter", adapter, "--prompt", p, "--max-tokens", str(TOKENS),
                      "--base-dtype", "f32", "--json")[0] for p in PROMPTS]
    plain = [sakiori(o.sakiori, "generate", "--model", o.model, "--prompt", p, "--max-tokens", str(TOKENS), "--base-dtype", "f32", "--json")[0]
             for p in PROMPTS]
    report("prompts of four that the adapter writes on otherwise", sum(a["ids"] != b["ids"] for a, b in zip(wanted, plain)))
    for what, model, lora in [("base (F32) with the GGUF adapter", "base.gguf", f"{work}/lora.gguf"), ("merged GGUF (F32)", "f32.gguf", None)]:
        # A cache in F32 (type 0) and no flash attention, as the arithmetic here is.
        llama = Llama(model_path=f"{work}/{model}", lora_path=lora, n_ctx=512, n_gpu_layers=0, type_k=0, type_v=0, flash_attn=False, verbose=False)
        good = 0
        for prompt, want in zip(PROMPTS, wanted):
            llama.reset()
            ids = llama.tokenize(prompt.encode(), add_bos=False, special=True)
            found = []
            for token in llama.generate(ids, temp=0):
                if token == llama.token_eos() or len(found) == TOKENS:
                    break
                found.append(token)
            good += found == want["ids"]
            if found != want["ids"]:
                print(f"  {prompt!r}: sakiori {want['ids']}, llama.cpp {found}")
        count(f"prompts that llama.cpp, {what}, writes on as sakiori does", good, len(PROMPTS))
        llama.close()


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sakiori")
    parser.add_argument("--model", default=os.path.join(GOLDEN, "tiny.gguf"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--steps", default="30")
    parser.add_argument("--lr", default="3e-4")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        adapter = f"{work}/adapter"
        sakiori(o.sakiori, "train", "--model", o.model, "--data", TRAIN, "--out", adapter, "--base-dtype", "f32", "--steps", o.steps, "--rank", "8",
                "--alpha", "12", "--lr", o.lr, "--json")
        for out, *options in [("peft", "peft"), ("lora.gguf", "gguf"), ("f32", "merged", "--type", "f32"), ("bf16", "merged"),
                              ("f32.gguf", "merged", "--type", "f32")]:
            said = sakiori(o.sakiori, "export", "--adapter", adapter, "--model", o.model, "--format", *options, "--out", f"{work}/{out}", "--json")
            print(json.dumps({k: said[0][k] for k in ("format", "type", "bytes", "base_quantized", "base_matches")}))
        check_weights(o, work, adapter)
        check_tokenizers(o, work)
        check_llama_cpp(o, work, adapter)
    print("FAIL" if failed else "PASS")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
