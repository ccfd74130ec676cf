#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `sakiori export`: what it writes evaluates like base and adapter, comes out the same each time, and takes nobody's place.
set -eu
sakiori=${BUILDDIR:-.}/sakiori
golden=${SRCDIR:-.}/tests/golden
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive

fail() { echo "FAIL: $*" >&2; exit 1; }
expect() {
	want=$1 pattern=$2
	shift 2
	code=0
	"$@" >"$work/stdout" 2>"$work/stderr" || code=$?
	[ "$code" = "$want" ] || fail "$*: exit code $code, expected $want: $(cat "$work/stderr")"
	grep -q -e "$pattern" "$work/stderr" || fail "$*: no '$pattern' in: $(cat "$work/stderr")"
}
model=$golden/tiny.gguf
"$sakiori" train --model "$model" --data "$golden/rows.jsonl" --out "$work/adapter" --base-dtype f32 --threads 1 --seq 128 --rank 4 --alpha 6 \
	--lr 1e-2 --steps 60 --json >/dev/null
export_to() { # FORMAT OUT OPTION...
	format=$1 out=$2
	shift 2
	"$sakiori" export --adapter "$work/adapter" --model "$model" --format "$format" --out "$out" --json "$@"
}
loss() { "$sakiori" eval "$@" --data "$golden/rows_eval.jsonl" --base-dtype f32 --threads 1 --json | sed 's/.*"loss":\([0-9.]*\).*/\1/'; }
near() { # A B TOLERANCE WHAT
	[ "$(echo "$1 $2 $3" | awk '{ d = $1 - $2; print (d < 0 ? -d : d) <= $3 }')" = 1 ] || fail "$4: loss $1, expected $2"
}
both=$(loss --model "$model" --adapter "$work/adapter")

# Merged models evaluate as base and adapter do, as near as their type allows.
for case in f32:1e-5 f16:2e-3 bf16:1e-2 q8_0:5e-2; do
	type=${case%%:*}
	export_to merged "$work/$type.gguf" --type "$type" >"$work/$type.json"
	near "$(loss --model "$work/$type.gguf")" "$both" "${case##*:}" "merged as $type"
done
[ "$(loss --model "$model")" != "$both" ] || fail "the adapter changes nothing"
export_to peft "$work/peft" >"$work/peft.json"
near "$(loss --model "$model" --adapter "$work/peft")" "$both" 1e-5 "the adapter with its scale in B"
export_to gguf "$work/lora.gguf" >"$work/lora.json"
export_to merged "$work/folder" --base-name someone/base >"$work/folder.json"

# The same again is the same, and so is the export of an export.
export_to gguf "$work/again.gguf" >/dev/null
cmp "$work/lora.gguf" "$work/again.gguf" || fail "the adapter as GGUF comes out otherwise"
export_to merged "$work/merged-again.gguf" --type q8_0 >/dev/null
cmp "$work/q8_0.gguf" "$work/merged-again.gguf" || fail "the merged GGUF comes out otherwise"
export_to merged "$work/folder-again" --base-name someone/base >/dev/null
diff -r "$work/folder" "$work/folder-again" || fail "the merged folder comes out otherwise"
"$sakiori" export --adapter "$work/peft" --model "$model" --format peft --out "$work/peft-again" >/dev/null
diff -r "$work/peft" "$work/peft-again" || fail "the robust form of the robust form is another one"
"$sakiori" export --adapter "$work/peft" --model "$model" --format gguf --out "$work/of-peft.gguf" >/dev/null
cmp "$work/lora.gguf" "$work/of-peft.gguf" || fail "the robust form is another adapter"

python3 - "$work" "$golden" <<'END'
import json
import os
import sys

work = sys.argv[1]


def read(name):
    with open(f"{work}/{name}", encoding="utf-8") as file:
        return json.load(file)


said = {name: read(f"{name}.json") for name in ("f32", "peft", "lora", "folder")}
assert [said[n]["type"] for n in ("f32", "peft", "lora", "folder")] == ["F32", "F32", "F32", "BF16"], said
for name in ("f32", "folder"):
    assert said[name]["base_matches"] is True and said[name]["base_quantized"] is False, said[name]
load = said["peft"]["load"]
assert f"peft={work}/peft" in load["vllm"] and "--max-lora-rank 8 " in load["vllm"] and load["llama_cpp"] is None, load
assert said["lora"]["load"]["llama_cpp"].endswith(f" --lora {work}/lora.gguf") and said["lora"]["load"]["vllm"] is None, said["lora"]
assert said["folder"]["load"]["vllm"] == f"vllm serve {work}/folder", said["folder"]
adapter = read("peft/adapter_config.json")
assert (adapter["r"], adapter["lora_alpha"], adapter["use_rslora"], adapter["rank_pattern"]) == (4, 4, False, {}), adapter

assert sorted(os.listdir(f"{work}/folder")) == [
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json"], os.listdir(f"{work}/folder")
config = read("folder/config.json")
assert config["architectures"] == ["LlamaForCausalLM"] and config["tie_word_embeddings"] is True, config
assert (config["hidden_size"], config["head_dim"], config["num_key_value_heads"], config["vocab_size"]) == (32, 8, 2, 512), config
assert (config["rms_norm_eps"], config["rope_theta"], config["rope_scaling"]) == (1e-5, 1e5, None), config
assert read("folder/generation_config.json")["eos_token_id"] == 2
tokenizer = read("folder/tokenizer.json")
assert len(tokenizer["model"]["vocab"]) == 512 and len(tokenizer["model"]["merges"]) == 512 - 256 - 3, "vocabulary"
assert [(t["id"], t["special"]) for t in tokenizer["added_tokens"]] == [(0, True), (1, True), (2, True)], tokenizer["added_tokens"]
with open(f"{work}/folder/README.md", encoding="utf-8") as file:
    card = file.read()
assert 'base_model: "someone/base"' in card and "dequantized" not in card, card
END

# A quantized base is said to be one, here and in the card; the adapter was trained on another file.
if "$sakiori" export --adapter "$work/adapter" --model "$work/q8_0.gguf" --format merged --out "$work/of-quantized" >"$work/said" 2>&1; then
	grep -q 'dequantized weights' "$work/said" || fail "does not say that the base was quantized: $(cat "$work/said")"
	grep -q 'fingerprints differ' "$work/said" || fail "does not say that the base is another one: $(cat "$work/said")"
	grep -q 'dequantized weights' "$work/of-quantized/README.md" || fail "the card does not say that the base was quantized"
else
	fail "a quantized base: $(cat "$work/said")"
fi
"$sakiori" export --adapter "$work/adapter" --model "$model" --format gguf --out "$work/for people.gguf" >"$work/said"
grep -q "llama.cpp .* --lora '.*/for people.gguf'" "$work/said" || fail "no line for llama.cpp: $(cat "$work/said")"

# Refusals, none of which leaves anything behind.
before=$(find "$work" | sort)
expect 2 'adapter is missing' "$sakiori" export --model "$model" --format peft --out "$work/x"
expect 2 'expected peft, gguf or merged' export_to onnx "$work/x"
expect 2 'expected f16, bf16, f32 or q8_0' export_to gguf "$work/x" --type q4_0
expect 2 'written in f32' export_to peft "$work/x" --type bf16
expect 2 'ends in .gguf' export_to merged "$work/x" --type q8_0
expect 1 'lora.gguf: exists already' export_to gguf "$work/lora.gguf"
expect 1 'peft: exists already' export_to peft "$work/peft"
expect 1 'folder: exists already' export_to merged "$work/folder"
expect 1 'No such file' "$sakiori" export --adapter "$work/nowhere" --model "$model" --format peft --out "$work/x"
expect 1 'No such file' "$sakiori" export --adapter "$work/adapter" --model "$work/nowhere.gguf" --format peft --out "$work/x"
for format in peft gguf merged; do
	expect 1 'an adapter of another model' "$sakiori" export --adapter "$work/adapter" --model shape:tiny --format $format --out "$work/x"
done
[ "$(find "$work" ! -name stdout ! -name stderr | sort)" = "$before" ] || fail "a refusal left something: $(find "$work" | sort)"
echo PASS
