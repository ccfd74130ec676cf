#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The benches run on the CPU, say what they promise, and refuse what makes no sense.
set -eu
sakiori=${BUILDDIR:-.}/sakiori
golden=${SRCDIR:-.}/tests/golden
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive

fail() { echo "FAIL: $*" >&2; exit 1; }
# expect CODE PATTERN COMMAND...: the exit code, and a sentence on stderr that matches.
expect() {
	want=$1 pattern=$2
	shift 2
	code=0
	"$@" >"$work/stdout" 2>"$work/stderr" || code=$?
	[ "$code" = "$want" ] || fail "$*: exit code $code, expected $want: $(cat "$work/stderr")"
	grep -q -e "$pattern" "$work/stderr" || fail "$*: no '$pattern' in: $(cat "$work/stderr")"
}

small="--model $golden/tiny.gguf --base-dtype f32 --batch 2 --seq 16 --rank 4 --threads 1"
# shellcheck disable=SC2086
"$sakiori" bench train $small --steps 3 --warmup 1 --json >"$work/train.json"
python3 - "$work/train.json" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
assert r["event"] == "bench" and r["steps"] == 3 and r["batch"] == 2 and r["seq"] == 16, r
assert abs(r["tokens_per_second"] * r["step_ms"] / 1e3 - 32) < 1e-5, r
assert abs(r["tflops"] * 1e12 / r["tokens_per_second"] - r["flops_per_token"]) < 1, r
assert abs(r["share_of_ceiling"] - r["tflops"] / r["ceiling_tflops"]) < 1e-6 and r["loss"] > 0, r  # nine digits are printed
assert r["peak_bytes"] >= r["weight_bytes"] + r["adapter_bytes"] + r["activation_bytes"] > 0, r
PY
# Model FLOPs of a known shape, counted by hand in performance.md: 31.88 GFLOP a token of Llama-3-8B at 2048; here SmolLM2-135M at 32.
"$sakiori" bench train --model shape:smollm2-135m --batch 1 --seq 32 --steps 1 --warmup 0 --no-ceiling --base-dtype f32 --json >"$work/flops.json"
python3 - "$work/flops.json" <<'PY'
import json, sys
layers, hidden, ffn, key, vocabulary, rank, seq = 30, 576, 1536, 192, 49152, 16, 32
linears = layers * (2 * hidden * hidden + 2 * hidden * key + 3 * hidden * ffn)
adapter = layers * rank * (4 * hidden + 2 * (hidden + key) + 3 * (hidden + ffn))
expected = 4 * linears + 4 * hidden * vocabulary * (seq - 1) / seq + 6 * adapter + 12 * seq / 2 * hidden * layers
found = json.load(open(sys.argv[1]))["flops_per_token"]
assert abs(found / expected - 1) < 1e-9, (found, expected)
PY
# shellcheck disable=SC2086
"$sakiori" bench train $small --steps 1 --warmup 0 --no-ceiling | grep -q 'tokens/s' || fail 'nothing for people'
# shellcheck disable=SC2086
"$sakiori" bench ops $small --json >"$work/ops.json"
for name in 'linear_forward qkv' 'linear_backward down' attention_backward cross_entropy optimizer; do
	grep -q "\"name\":\"$name\"" "$work/ops.json" || fail "no $name in the table"
done
tail -n 1 "$work/ops.json" | grep -q '"event":"step"' || fail 'no sum'

expect 2 'nearest known one is train' "$sakiori" bench trains
expect 2 '--model is missing' "$sakiori" bench train
expect 2 'at least 2 tokens' "$sakiori" bench ops --model shape:smollm2-135m --seq 1
expect 2 'base-dtype: expected bf16' "$sakiori" bench train --model shape:smollm2-135m --base-dtype int3
expect 2 'memory: expected auto' "$sakiori" bench train --model shape:smollm2-135m --memory less
expect 1 'no shape of the name' "$sakiori" bench train --model shape:none
expect 1 'device cuda' env SAKIORI_CUDA_MODULE=/nowhere.so "$sakiori" bench train --model shape:smollm2-135m --device cuda
