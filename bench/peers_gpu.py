#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Unsloth or PEFT does on this GPU: the same work as `sakiori bench train`, and the same JSON keys. bench/rivals_gpu.sh runs both.

The model has random weights of a real shape; a folder with them is written once (beside it stays for the next run), where Unsloth, which
only takes a folder, reads them. One batch of random tokens, every token a label, AdamW fused, times between two synchronizations.
Memory is torch's own peak of allocated bytes: neither the CUDA context nor what its allocator holds without using it.
"""
import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import struct
import sys
import tempfile
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1", TOKENIZERS_PARALLELISM="false")

# hidden, intermediate, layers, heads, key and value heads, vocabulary, rope base, tied; as src/formats/model_random.c
SHAPES = {
    "smollm2-135m": (576, 1536, 30, 9, 3, 49152, 100000.0, True),
    "smollm2-360m": (960, 2560, 32, 15, 5, 49152, 100000.0, True),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 128256, 500000.0, True),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128256, 500000.0, True),
    "llama-3-8b": (4096, 14336, 32, 32, 8, 128256, 500000.0, False),
}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def read_arguments():
    a = argparse.ArgumentParser()
    a.add_argument("trainer", choices=["unsloth", "peft"])
    a.add_argument("--model", required=True, choices=sorted(SHAPES))
    a.add_argument("--batch", type=int, default=2)
    a.add_argument("--seq", type=int, default=2048)
    a.add_argument("--rank", type=int, default=16)
    a.add_argument("--steps", type=int, default=10)
    a.add_argument("--warmup", type=int, default=4)
    a.add_argument("--base", choices=["bf16", "nf4"], default="bf16")
    a.add_argument("--recompute", action="store_true", help="checkpoint every block; Unsloth's, which offloads, or PyTorch's")
    a.add_argument("--compile", action="store_true", help="torch.compile (PEFT)")
    return a.parse_args()


def llama_config(name):
    from transformers import LlamaConfig
    hidden, middle, layers, heads, kv_heads, vocabulary, theta, tied = SHAPES[name]
    return LlamaConfig(hidden_size=hidden, intermediate_size=middle, num_hidden_layers=layers, num_attention_heads=heads,
                       num_key_value_heads=kv_heads, vocab_size=vocabulary, max_position_embeddings=8192, rope_theta=theta,
                       tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=3, torch_dtype="bfloat16",
                       architectures=["LlamaForCausalLM"])


def tensors(name):
    """Names and shapes of the checkpoint, in the order of the file."""
    hidden, middle, layers, heads, kv_heads, vocabulary, _, tied = SHAPES[name]
    key = hidden // heads * kv_heads
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for n in range(layers):
        block = f"model.layers.{n}."
        yield block + "input_layernorm.weight", (hidden,)
        for linear, rows, columns in (("q", hidden, hidden), ("k", key, hidden), ("v", key, hidden), ("o", hidden, hidden)):
            yield f"{block}self_attn.{linear}_proj.weight", (rows, columns)
        yield block + "post_attention_layernorm.weight", (hidden,)
        for linear, rows, columns in (("gate", middle, hidden), ("up", middle, hidden), ("down", hidden, middle)):
            yield f"{block}mlp.{linear}_proj.weight", (rows, columns)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (vocabulary, hidden)


def write_weights(path, name):
    """A safetensors file by hand: pieces of one block of random values, over and over, at the speed of the page cache."""
    import torch
    header, at = {}, 0
    for tensor, shape in tensors(name):
        size = 2 * math.prod(shape)
        header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = (0.02 * torch.randn(1 << 25)).to(torch.bfloat16).view(torch.uint8).numpy()
    one = torch.ones(1 << 14, dtype=torch.bfloat16).view(torch.uint8).numpy()
    with open(path, "wb", buffering=0) as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor, shape in tensors(name):
            left, source = 2 * math.prod(shape), one if len(shape) == 1 else block
            while left > 0:
                left -= out.write(memoryview(source)[:min(left, len(source))])


def model_folder(name):
    """Where the model lies; in memory where there is room for it."""
    need = 2 * sum(math.prod(shape) for _, shape in tensors(name))
    place = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > need + (8 << 30) else tempfile.gettempdir()
    folder = os.path.join(place, f"sakiori-rival-{name}")
    if os.path.exists(f"{folder}/complete"):
        return folder
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    os.makedirs(folder, exist_ok=True)
    llama_config(name).save_pretrained(folder)
    write_weights(f"{folder}/model.safetensors", name)
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    words = {word: i for i, word in enumerate(special + [f"w{i}" for i in range(len(special), SHAPES[name][5])])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(folder)
    open(f"{folder}/complete", "w").close()
    return folder


def open_unsloth(o):
    import torch
    from unsloth import FastLanguageModel
    model, _ = FastLanguageModel.from_pretrained(model_folder(o.model), max_seq_length=o.seq, dtype=torch.bfloat16, load_in_4bit=o.base == "nf4",
                                                 local_files_only=True)
    return FastLanguageModel.get_peft_model(model, r=o.rank, lora_alpha=2 * o.rank, lora_dropout=0, bias="none", target_modules=LINEARS,
                                            use_gradient_checkpointing="unsloth" if o.recompute else False, max_seq_length=o.seq)


def open_peft(o):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM
    if o.base != "bf16":
        sys.exit("peers_gpu.py: PEFT is measured with a bf16 base only")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(llama_config(o.model))
    torch.set_default_dtype(torch.float32)
    model = get_peft_model(model, LoraConfig(r=o.rank, lora_alpha=2 * o.rank, lora_dropout=0.0, target_modules=LINEARS))
    if o.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return torch.compile(model) if o.compile else model


def model_flops(o):
    """Model FLOPs a token; the same sum as in src/cli/bench_train.c."""
    hidden, middle, layers, heads, kv_heads, vocabulary, _, _ = SHAPES[o.model]
    key = hidden // heads * kv_heads
    linears = layers * (2 * hidden * hidden + 2 * hidden * key + 3 * hidden * middle)
    adapter = layers * o.rank * (2 * 2 * hidden + 2 * (hidden + key) + 3 * (hidden + middle))
    head = hidden * vocabulary * (o.seq - 1) / o.seq
    return 4 * linears + 4 * head + 6 * adapter + 3 * 4 * (o.seq / 2) * hidden * layers


def ceiling():
    """FLOP/s of a bf16 product of 8192 x 8192 matrices, as bench_ceiling measures it."""
    import torch
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for part in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(30):
            a @ b
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 30)
    return 2 * 8192**3 / statistics.median(times[1:])


def run_steps(o, model):
    import torch
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    tokens = torch.randint(4, SHAPES[o.model][5], (o.batch, o.seq), device="cuda")
    # PEFT keeps adapters of a bf16 base in f32, and its users train them under autocast: without it their products would be f32 ones.
    # Unsloth's own functions cast by themselves.
    precision = torch.autocast("cuda", torch.bfloat16) if o.trainer == "peft" else contextlib.nullcontext()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for step in range(o.warmup + o.steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with precision:
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        if step >= o.warmup:
            times.append(time.perf_counter() - start)
    return statistics.median(times), loss.item(), str(trained[0].dtype).removeprefix("torch.")


def main():
    o = read_arguments()
    sys.stdout.flush()
    keep = os.dup(1)
    os.dup2(2, 1)  # what the libraries print is no result
    if o.trainer == "unsloth":
        import unsloth  # noqa: F401  patches what is imported after it
    import torch
    torch.manual_seed(0)
    model = open_unsloth(o) if o.trainer == "unsloth" else open_peft(o)
    model.config.use_cache = False
    seconds, loss, adapter_dtype = run_steps(o, model)
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    del model
    torch.cuda.empty_cache()
    best, speed = ceiling(), o.batch * o.seq / seconds
    rate = speed * model_flops(o)
    line = dict(event="bench", trainer=o.trainer + ("+compile" if o.compile else ""), model=o.model, base_dtype=o.base,
                adapter_dtype=adapter_dtype, recompute=o.recompute, batch=o.batch, seq=o.seq, rank=o.rank, steps=o.steps, tokens_per_second=speed, step_ms=seconds * 1e3, peak_bytes=peak,
                reserved_bytes=reserved, flops_per_token=model_flops(o), tflops=rate / 1e12, loss=loss, ceiling_tflops=best / 1e12,
                share_of_ceiling=rate / best, gpu=torch.cuda.get_device_name())
    os.write(keep, (json.dumps(line) + "\n").encode())
    sys.stdout.flush()
    os._exit(0)  # compiled helpers of the trainers may wait for each other at the end


main()
