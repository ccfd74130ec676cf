#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `sakiori train`, `eval` and `plan` over folders of each architecture; the same weights in GGUF give the same numbers; what needs a tokenizer says so.
set -eu
sakiori=${BUILDDIR:-.}/sakiori
golden=${SRCDIR:-.}/tests/golden/architectures
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

# Rows of tokens that count upwards from different places: easy to learn.
i=0
while [ $i -lt 16 ]; do
	first=$((i * 11 % 200))
	ids=$first n=1
	while [ $n -lt 12 ]; do ids="$ids, $((first + n))" n=$((n + 1)); done
	echo "{\"input_ids\": [$ids]}"
	i=$((i + 1))
done >"$work/rows.jsonl"

train() { # MODEL NAME
	"$sakiori" train --model "$1" --data "$work/rows.jsonl" --eval "$work/rows.jsonl" --out "$work/$2" --steps 12 --batch 8 --seq 32 \
		--lr 1e-2 --rank 4 --base-dtype f32 --json >"$work/$2.log" || fail "training $1"
	"$sakiori" eval --model "$1" --adapter "$work/$2" --data "$work/rows.jsonl" --base-dtype f32 --json >"$work/$2.after"
	"$sakiori" eval --model "$1" --data "$work/rows.jsonl" --base-dtype f32 --json >"$work/$2.before"
	python3 - "$work/$2" <<'END' || fail "$1 learns nothing"
import json
import sys

before, after = (json.load(open(f"{sys.argv[1]}.{when}", encoding="utf-8"))["loss"] for when in ("before", "after"))
assert after < before - 0.5, (before, after)
END
}
for folder in "$golden"/*/; do
	name=$(basename "$folder")
	train "$folder" "$name"
	"$sakiori" plan --model "$folder" --memory-limit 1GiB --base-dtype f32 --seq 32 --json >"$work/plan" || fail "planning $name"
	if [ "$name" != mistral ]; then # whose window a GGUF file leaves out
		train "$golden/$name.gguf" "$name-gguf"
		for when in before after; do cmp "$work/$name.$when" "$work/$name-gguf.$when" || fail "$name: other numbers in GGUF"; done
	fi
done

echo '{"text": "old cloth"}' >"$work/text.jsonl"
expect 1 'text.jsonl:1: expected "input_ids", since the model brings no tokenizer' \
	"$sakiori" train --model "$golden/llama" --data "$work/text.jsonl" --out "$work/none" --steps 1
expect 1 'brings no tokenizer: use a GGUF file' "$sakiori" generate --model "$golden/llama" --prompt x
expect 1 'brings no tokenizer' "$sakiori" tokenize --model "$golden/llama" --text x
expect 1 'brings no tokenizer' "$sakiori" data stats --model "$golden/llama" --data "$work/rows.jsonl"
echo '{"input_ids": [1, 256]}' >"$work/far.jsonl"
expect 1 'far.jsonl:1: item 2 of "input_ids" is no token of this model, which has 256' \
	"$sakiori" train --model "$golden/llama" --data "$work/far.jsonl" --out "$work/none" --steps 1
expect 1 'is not the folder of a model: it holds no config.json' "$sakiori" plan --model "$work"
