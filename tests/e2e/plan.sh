#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `sakiori plan`: what it says holds together, what does not fit is refused with what would, and no weight is read for it.
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
plan() { "$sakiori" plan --memory-limit "$@"; }

# A model far larger than this machine: only arithmetic.
plan 80GiB --device cuda:3 --model shape:llama-3-70b --base-dtype q4 --seq 2048 --json >"$work/large.json"
plan 80GiB --device cuda --model shape:llama-3-8b --batch 4 --seq 2048 --micro-tokens 8192 --json >"$work/8b.json"
plan 18GiB --device cuda --model shape:llama-3-8b --batch 4 --seq 2048 --micro-tokens 8192 --json >"$work/8b-small.json"
plan 1GiB --model "$golden/tiny.gguf" --base-dtype f32 --seq 128 --json >"$work/tiny.json"
python3 - "$work" <<'END'
import json
import sys

def read(name):
    with open(f"{sys.argv[1]}/{name}.json", encoding="utf-8") as file:
        return json.loads(file.read())

for name in ("large", "8b", "8b-small", "tiny"):
    plan = read(name)
    modes = {mode["mode"]: mode for mode in plan["modes"]}
    assert ("offload" in modes) == plan["device"].startswith("cuda"), plan["device"]
    for mode in modes.values():
        assert sum(mode["bytes"].values()) == mode["device_bytes"], mode
        assert mode["fits"] == (mode["device_bytes"] <= plan["limit_bytes"]), mode
        held = plan["tokens_at_once"] // plan["seq"]
        assert mode["fits"] == (mode["largest_batch"] >= held), mode
        assert (mode["host_bytes"] > 0) == mode["mode"].endswith("offload"), mode
    fitting = [mode["mode"] for mode in plan["modes"] if mode["fits"]]
    assert plan["mode"] == fitting[0] and plan["peak_bytes"] == modes[plan["mode"]]["device_bytes"], fitting
    assert modes["keep"]["bytes"]["kept"] > modes["selective"]["bytes"]["kept"] > modes["blocks"]["bytes"]["kept"]
    assert plan["update_bytes"]["f32"] == 4 * plan["parameters"]
    assert list(plan["orders"]) == ["qkv", "o", "gate_up", "down"]

# The figures of a model that everybody knows.
plan = read("8b")
keep = plan["modes"][0]
weights = sum(keep["bytes"][key] for key in ("attention_weights", "mlp_weights", "embedding", "head"))
# Behind the rows of q, k, v, gate, up and down there is room for their adapters.
room = 64 * (4096 + 2 * 1024 + 2 * 14336 + 4096)
assert weights == 2 * (32 * (218103808 + room) + 2 * 128256 * 4096), weights
assert plan["parameters"] == 41943040 and plan["mode"] == "keep"
assert abs(plan["flops_per_token"] - 31.881e9) < 1e6, plan["flops_per_token"]
# A block's forward once more, but for its last linear: 2 (q, k, v, o, gate, up) and their adapters, half the attention.
again = 2 * 32 * (218103808 - 4096 * 14336) + 2 * (41943040 - 32 * 16 * (4096 + 14336)) + 32 * 2 * 2048 * 4096
blocks = next(mode for mode in plan["modes"] if mode["mode"] == "blocks")
assert abs(blocks["flops_again_per_token"] - again) < 1e4, (blocks["flops_again_per_token"], again)
assert keep["layer_bytes"] == 8192 * 94560, keep["layer_bytes"]
assert read("8b-small")["mode"] == "offload"
END

# Without a limit this machine's own memory counts, on a CPU too: terabytes are refused.
expect 1 'MiB of [0-9]* MiB' \
	"$sakiori" plan --model shape:llama-3-70b --base-dtype f32 --batch 128 --seq 8192 --micro-tokens 1048576

# The table for people has a line for each of the same figures.
plan 80GiB --device cuda --model shape:llama-3-8b --batch 4 --seq 2048 >"$work/table"
for word in 'weights: MLP' 'on the device' 'largest batch' 'order of the products' 'a round sends'; do
	grep -q "^$word" "$work/table" || fail "no line '$word'"
done

# What does not fit, with what would.
expect 1 'rows of 2048 tokens would fit (mode .*use --micro-tokens' \
	plan 20GiB --device cuda --model shape:llama-3-8b --batch 64 --seq 2048 --micro-tokens 131072 --memory blocks
expect 1 'use --seq' plan 16500MiB --device cuda --model shape:llama-3-8b --seq 8192 --memory keep
expect 1 'use a smaller --base-dtype' plan 8GiB --device cuda --model shape:llama-3-8b
grep -q '^memory mode *none' "$work/stdout" || fail "the table does not say that nothing fits"
expect 1 'no memory mode offload' plan 8GiB --model shape:smollm2-135m --memory offload

# Words and files that are wrong.
expect 2 'expected auto, keep' plan 8GiB --model shape:smollm2-135m --memory all
expect 2 'expected fixed, cost' plan 8GiB --model shape:smollm2-135m --variants best
expect 2 '--model is missing' plan 8GiB
expect 2 'expected bf16' plan 8GiB --model shape:smollm2-135m --base-dtype int8
expect 1 'expected "cpu", "cuda"' plan 8GiB --model shape:smollm2-135m --device gpu
expect 1 'set --seq' plan 8GiB --model shape:smollm2-135m --seq 100000
expect 1 'no shape of the name' plan 8GiB --model shape:nothing

# Nothing but the header is read: the same plan comes from a file whose weights are all zero.
python3 - "$golden/tiny.gguf" "$work/hollow.gguf" <<'END'
import sys
with open(sys.argv[1], "rb") as file:
    data = file.read()
at = data.rindex(b"weight")
kept = min(len(data), (at + 4096))
with open(sys.argv[2], "wb") as file:
    file.write(data[:kept])
    file.truncate(len(data))
END
plan 1GiB --model "$work/hollow.gguf" --base-dtype f32 --seq 128 --json | sed 's/"model":"[^"]*"//' >"$work/hollow.json"
sed 's/"model":"[^"]*"//' "$work/tiny.json" | cmp - "$work/hollow.json" || fail "the weights were looked at"
