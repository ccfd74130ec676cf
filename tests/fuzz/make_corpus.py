# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of tests/fuzz/corpus/gguf, safetensors, peft, model_config and tokenizer_json: small valid files and one of each lie. No packages
needed.

    make_corpus.py tests/fuzz/corpus
"""
import json
import pathlib
import struct
import sys

root = pathlib.Path(sys.argv[1])


def put(kind, name, data):
    (root / kind).mkdir(parents=True, exist_ok=True)
    (root / kind / name).write_bytes(data)


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(keys=(), tensors=(), data=b"", version=3, counts=None, alignment=32):
    counts = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def tensor(name, dims, kind, offset):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def array(kind, count, data):
    return struct.pack("<IQ", kind, count) + data


arch = key("general.architecture", 8, text("llama"))
every = [arch, key("general.alignment", 4, struct.pack("<I", 32)), key("a", 9, array(8, 2, text("x") + text(""))),
         key("b", 9, array(5, 2, struct.pack("<2i", -1, 7))), key("c", 6, struct.pack("<f", 1.5)), key("d", 7, b"\1"),
         key("e", 10, struct.pack("<Q", 1 << 40)), key("f", 12, struct.pack("<d", 2.5)), key("g", 0, b"\7"), key("h", 3, b"\7\0")]
put("gguf", "valid-keys", gguf(every))
put("gguf", "valid-version-2", gguf([arch], version=2))
kinds = {"F32": (0, 128), "F16": (1, 64), "BF16": (30, 64), "Q8_0": (8, 34), "Q4_0": (2, 18), "Q4_1": (3, 20)}
table, body = [], b""
for name, (number, size) in kinds.items():
    table.append(tensor(name, [32], number, len(body)))
    body += bytes(range(size)) + b"\0" * (-size % 32)
put("gguf", "valid-types", gguf([arch], table, body))
put("gguf", "four-dimensions", gguf([], [tensor("a", [2, 1, 2, 2], 0, 0)], b"\0" * 32))
put("gguf", "empty", b"")
put("gguf", "magic-only", b"GGUF")
put("gguf", "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
put("gguf", "counts", gguf(counts=(1 << 60, 1 << 60)))
put("gguf", "long-key", gguf([struct.pack("<Q", 1 << 63)]))
put("gguf", "long-string", gguf([text("a") + struct.pack("<IQ", 8, (1 << 64) - 8)]))
put("gguf", "long-array", gguf([key("a", 9, array(8, 1 << 61, b""))]))
put("gguf", "nested-array", gguf([key("a", 9, array(9, 1, array(0, 0, b"")))]))
put("gguf", "duplicate-key", gguf([arch, arch]))
put("gguf", "alignment-24", gguf([key("general.alignment", 4, struct.pack("<I", 24))]))
put("gguf", "alignment-0", gguf([key("general.alignment", 4, struct.pack("<I", 0))]))
put("gguf", "duplicate-tensor", gguf([], [tensor("a", [8], 0, 0), tensor("a", [8], 0, 32)], b"\0" * 64))
put("gguf", "overlap", gguf([], [tensor("a", [8], 0, 0), tensor("b", [8], 0, 0)], b"\0" * 64))
put("gguf", "hole", gguf([], [tensor("a", [8], 0, 0), tensor("b", [8], 0, 64)], b"\0" * 96))
put("gguf", "trailing", gguf([], [tensor("a", [8], 0, 0)], b"\0" * 96))
put("gguf", "truncated", gguf([], [tensor("a", [8], 0, 0)], b"\0" * 31))
put("gguf", "far-offset", gguf([], [tensor("a", [8], 0, (1 << 64) - 32)], b"\0" * 32))
put("gguf", "overflow-values", gguf([], [tensor("a", [1 << 33, 1 << 33], 0, 0)], b"\0" * 32))
put("gguf", "overflow-bytes", gguf([], [tensor("a", [1 << 31, 1 << 31], 0, 0)], b"\0" * 32))
put("gguf", "zero-dimension", gguf([], [tensor("a", [0, 8], 0, 0)], b"\0" * 32))
put("gguf", "five-dimensions", gguf([], [tensor("a", [1] * 5, 0, 0)], b"\0" * 32))
put("gguf", "unknown-type", gguf([], [tensor("a", [32], 6, 0)], b"\0" * 32))
put("gguf", "negative-type", gguf([], [tensor("a", [32], 0xFFFFFFFF, 0)], b"\0" * 32))
put("gguf", "escape-in-name", gguf([], [tensor("a\x1b[2J", [8], 0, 0)], b"\0" * 32))


def safetensors(header, data=b""):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


put("safetensors", "valid", safetensors({"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 2], 0, 16),
                                         "b": entry("BF16", [3], 16, 22), "s": entry("U8", [], 22, 23)}, b"\0" * 23))
put("safetensors", "valid-empty-tensor", safetensors({"a": entry("I8", [0, 7], 0, 0), "b": entry("I64", [1], 0, 8)}, b"\0" * 8))
put("safetensors", "valid-nothing", safetensors({}))
put("safetensors", "empty", b"")
put("safetensors", "length", struct.pack("<Q", (1 << 64) - 1) + b"{}")
put("safetensors", "no-json", safetensors(b"{\"a\":"))
put("safetensors", "deep", safetensors(b"[" * 100))
put("safetensors", "duplicate", safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],'
                                            b'"data_offsets":[1,2]}}', b"\0\0"))
put("safetensors", "hole", safetensors({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, b"\0" * 3))
put("safetensors", "overlap", safetensors({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, b"\0" * 3))
put("safetensors", "trailing", safetensors({"a": entry("U8", [1], 0, 1)}, b"\0" * 3))
put("safetensors", "overflow", safetensors({"a": entry("F32", [1 << 32, 1 << 32], 0, 0)}))
put("safetensors", "backwards", safetensors({"a": entry("U8", [1], 1, 0)}, b"\0"))
put("safetensors", "negative", safetensors({"a": entry("U8", [-1], 0, 1)}, b"\0"))
put("safetensors", "dtype", safetensors({"a": entry("F8_E4M3", [1], 0, 1)}, b"\0"))
put("safetensors", "metadata-number", safetensors({"__metadata__": {"a": 7}}))


def pair(name, rank, wide, high):
    stem = f"base_model.model.model.layers.0.{name}"
    return {f"{stem}.lora_A.weight": [rank, wide], f"{stem}.lora_B.weight": [high, rank]}


def adapter(config, shapes, kind="F32"):
    """An adapter's folder as tests/fuzz/fuzz_peft.c takes it."""
    header, body = {}, b""
    for name, shape in shapes.items():
        n = shape[0] * shape[1]
        size = n * (4 if kind == "F32" else 2)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + size]}
        body += struct.pack(f"<{n}f", *range(n)) if kind == "F32" else struct.pack(f"<{n}H", *([0x3C00] * n))
    words = json.dumps(header).encode()
    return json.dumps(config).encode() + b"\0" + struct.pack("<Q", len(words)) + words + body


lora = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
q, down = pair("self_attn.q_proj", 2, 3, 4), pair("mlp.down_proj", 1, 5, 2)
put("peft", "valid", adapter(lora, q))
put("peft", "valid-half", adapter(lora | {"use_rslora": True}, q, "F16"))
put("peft", "patterns", adapter(lora | {"rank_pattern": {"down_proj": 1}, "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3}}, q | down))
put("peft", "pattern-escaped", adapter(lora | {"rank_pattern": {"0\\.mlp.down_proj": 1}}, q | down))
put("peft", "pattern-regex", adapter(lora | {"rank_pattern": {".*down_proj": 1}}, q | down))
put("peft", "pattern-empty-key", adapter(lora | {"alpha_pattern": {"": 1, "^": 2, "\\.": 3}}, q))
put("peft", "pattern-fraction", adapter(lora | {"rank_pattern": {"q_proj": 2.5}}, q))
put("peft", "pattern-zero", adapter(lora | {"rank_pattern": {"q_proj": 0}}, q))
put("peft", "padding", adapter(lora | {"r": 1, "rank_pattern": {"q_proj": 600}}, pair("self_attn.q_proj", 600, 1, 1) | pair("mlp.down_proj", 1, 600, 600)))
put("peft", "half-a-pair", adapter(lora, {k: v for k, v in q.items() if "lora_B" in k}))
put("peft", "other-rank", adapter(lora | {"r": 3}, q))
put("peft", "no-tensors", json.dumps(lora).encode())


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": None, "head_dim": None, "vocab_size": 256, "max_position_embeddings": 64,
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "eos_token_id": [1, 2], "tie_word_embeddings": True}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}


def model(name, changes=None, index=None, config=None, raw_index=None):
    put("model_config", name, (config or json.dumps(LLAMA | (changes or {})).encode()) +
        (b"" if index is None and raw_index is None else b"\0" + (raw_index or json.dumps(index).encode())))


model("valid", index=INDEX)
model("valid-llama3", {"rope_parameters": LLAMA3})
model("valid-linear", {"rope_scaling": {"type": "linear", "factor": 2}})
model("valid-mistral", {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8})
model("valid-mistral-without-key", {"model_type": "mistral", "architectures": None})
model("valid-qwen2-late", {"model_type": "qwen2", "architectures": None, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1})
model("valid-qwen3-types", {"model_type": "qwen3", "architectures": None, "use_sliding_window": True, "sliding_window": 4,
                            "layer_types": ["full_attention", "sliding_attention"]})
model("types-too-few", {"model_type": "qwen3", "architectures": None, "layer_types": ["full_attention"]})
model("types-no-window", {"model_type": "qwen3", "architectures": None, "layer_types": ["sliding_attention"] * 2})
model("layers", {"model_type": "qwen3", "architectures": None, "num_hidden_layers": 4294967295, "layer_types": []})
model("heads", {"num_attention_heads": 4294967295, "head_dim": 4294967295})
model("head-size", {"head_dim": 65536, "rope_parameters": LLAMA3})
model("odd-head", {"head_dim": 3})
model("zero", {"hidden_size": 0})
model("negative", {"vocab_size": -1})
model("text", {"hidden_size": "32"})
model("fraction", {"hidden_size": 32.5})
model("huge", {"rms_norm_eps": 1e300})
model("scaling-zero", {"rope_parameters": LLAMA3 | {"factor": 0}})
model("scaling-equal", {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}})
model("scaling-list", {"rope_parameters": []})
model("other", {"model_type": "falcon\x1b[2J"})
model("class", {"architectures": [7]})
model("quantized", {"quantization_config": {"quant_method": "gptq"}})
model("quantized-list", {"quantization_config": [1]})
model("array", config=b"[]")
model("empty", config=b" ")
model("duplicate", config=b'{"model_type":"llama","model_type":"mistral"}')
for name, file in {"parent": "../m.safetensors", "absolute": "/etc/passwd.safetensors", "hidden": ".m.safetensors", "other": "m.bin",
                   "escape": "m\x1b.safetensors", "number": 7, "none": None, "nothing": ".safetensors"}.items():
    model("index-" + name, index={"weight_map": {"a": file}})
model("index-empty", index={"weight_map": {}})
model("index-array", index=[])
model("index-many", index={"weight_map": {str(i): f"m{i}.safetensors" for i in range(600)}})
model("index-duplicate", raw_index=b'{"weight_map":{"a":"m.safetensors","a":"n.safetensors"}}')


def tokenizer(config=None, added=({"id": 6, "content": "<s>", "special": True},), **parts):
    model = {"type": "BPE", "unk_token": None, "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3, "\u0120": 4, "<0x41>": 5},
             "merges": ["a b", ["ab", "a"]]}
    model.update({k[6:]: v for k, v in parts.items() if k.startswith("model_")})
    root = {"added_tokens": list(added), "model": model}
    root.update({k: v for k, v in parts.items() if not k.startswith("model_")})
    return json.dumps(root, ensure_ascii=False).encode() + (b"\0" + json.dumps(config).encode() if config is not None else b"")


def step(kind, **parts):
    return {"type": kind, **parts}


def split(pattern, behavior="Isolated", **parts):
    return step("Split", pattern={"Regex": pattern}, behavior=behavior, **parts)


kind = "tokenizer_json"
byte_level = step("ByteLevel", add_prefix_space=True, use_regex=True)
put(kind, "valid", tokenizer())
put(kind, "valid-byte-level", tokenizer(pre_tokenizer=byte_level, decoder=step("ByteLevel"), post_processor=step("ByteLevel"), model_ignore_merges=True))
put(kind, "valid-config", tokenizer({"bos_token": "<s>", "eos_token": {"content": "ab"}, "add_bos_token": True}))
put(kind, "valid-llama", tokenizer(
    model_byte_fallback=True, model_unk_token="b", model_fuse_unk=True,
    normalizer=step("Sequence", normalizers=[step("Prepend", prepend="\u2581"), step("Replace", pattern={"String": " "}, content="\u2581")]),
    decoder=step("Sequence", decoders=[step("Replace", pattern={"String": "\u2581"}, content=" "), step("ByteFallback"), step("Fuse"),
                                       step("Strip", content=" ", start=1, stop=1)])))
put(kind, "valid-metaspace", tokenizer(pre_tokenizer=step("Metaspace", replacement="\u2581", prepend_scheme="first", split=True),
                                       decoder=step("Metaspace", replacement="\u2581", add_prefix_space=True), model_unk_token="a"))
put(kind, "valid-normalizers", tokenizer(normalizer=step("Sequence", normalizers=[
    step("NFKC"), step("NFD"), step("Lowercase"), step("Strip", strip_left=True, strip_right=False), step("NFC"), step("NFKD"),
    step("Replace", pattern={"Regex": "x*"}, content="-")])))
put(kind, "valid-splits", tokenizer(pre_tokenizer=step("Sequence", pretokenizers=[
    split(r"\s+", "Removed"), split("a", "MergedWithPrevious"), split("b", "MergedWithNext"), split(r"\w", "Contiguous", invert=True),
    step("Digits", individual_digits=True), split("")])))
put(kind, "valid-added", tokenizer(added=[
    {"id": 6, "content": "<s>", "special": True, "lstrip": True, "rstrip": True, "normalized": True, "single_word": True},
    {"id": 7, "content": " "}, {"id": 9, "content": "AB", "normalized": True}, {"id": 0, "content": "a"}, {"id": 10, "content": ""}],
    normalizer=step("Lowercase")))
put(kind, "valid-template", tokenizer(post_processor=step(
    "TemplateProcessing", single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    special_tokens={"<s>": {"id": "<s>", "ids": [6], "tokens": ["<s>"]}})))
put(kind, "empty", b"")
put(kind, "no-model", b"{}")
put(kind, "wordpiece", tokenizer(model_type="WordPiece"))
put(kind, "missing-token", tokenizer(model_merges=["a c"]))
put(kind, "duplicate-ids", tokenizer(model_vocab={"a": 0, "b": 0}, model_merges=[]))
put(kind, "duplicate-keys", b'{"model":{"type":"BPE","vocab":{"a":0,"a":1},"merges":[]}}')
put(kind, "far-id", tokenizer(model_vocab={"a": 0, "b": 1 << 19, "ab": 2, "aba": 3}))
put(kind, "id-beyond", tokenizer(model_vocab={"a": 0, "b": 1 << 31}, model_merges=[]))
put(kind, "negative-id", tokenizer(added=[{"id": -1, "content": "x"}]))
put(kind, "id-of-others", tokenizer(added=[{"id": 1, "content": "a"}]))
put(kind, "deep", tokenizer().replace(b'"model"', b'"normalizer":' + b'{"type":"Sequence","normalizers":[' * 40 + b"]}" * 40 + b',"model"'))
put(kind, "sequence-in-sequence", tokenizer(normalizer=step("Sequence", normalizers=[step("Sequence", normalizers=[step("NFC")] * 20)] * 2)))
put(kind, "regex-invalid", tokenizer(pre_tokenizer=split("(a")))
put(kind, "regex-catastrophic", tokenizer(pre_tokenizer=split("(a|aa|a*)+$")))
put(kind, "regex-large", tokenizer(pre_tokenizer=split("(((a{1,99}){1,99}){1,99}){1,99}")))
put(kind, "regex-nested", tokenizer(pre_tokenizer=split("(" * 400 + ")" * 400)))
put(kind, "regex-lookbehind", tokenizer(pre_tokenizer=split(r"(?<=a|ab)\b|(?<!^)(?=b)")))
put(kind, "regex-class", tokenizer(pre_tokenizer=split(r"[^(\s|[.,!?])]+[\S-\]]")))
put(kind, "invalid-utf8", tokenizer().replace(b"aba", b"\xff\xfe"))
put(kind, "huge-added", tokenizer(added=[{"id": 6, "content": "x" * 5000}]))
put(kind, "replace-grows", tokenizer(normalizer=step("Sequence", normalizers=[step("Replace", pattern={"String": "a"}, content="a" * 60)] * 9)))
put(kind, "truncated", tokenizer()[:90])
