#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A training run that is interrupted and resumed ends in the same bits as one that was not; and bad words and files end as promised.
set -eu
sakiori=${BUILDDIR:-.}/sakiori
golden=${SRCDIR:-.}/tests/golden
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive

fail() { echo "FAIL: $*" >&2; exit 1; }
run_train() { # OUT OPTION...; in place of this shell, so that a signal reaches it
	out=$1
	shift
	exec "$sakiori" train --model "$golden/tiny.gguf" --data "$golden/rows.jsonl" --eval "$golden/rows_eval.jsonl" --out "$work/$out" \
		--base-dtype f32 --threads 1 --seq 128 --rank 4 --steps 400 --json "$@"
}
# expect CODE PATTERN COMMAND...: the exit code, and a sentence on stderr that matches.
expect() {
	want=$1 pattern=$2
	shift 2
	code=0
	"$@" >"$work/stdout" 2>"$work/stderr" || code=$?
	[ "$code" = "$want" ] || fail "$*: exit code $code, expected $want: $(cat "$work/stderr")"
	grep -q -e "$pattern" "$work/stderr" || fail "$*: no '$pattern' in: $(cat "$work/stderr")"
}
train() { (run_train "$@"); }

train whole >"$work/whole.json"
[ "$(grep -c '"event":"step"' "$work/whole.json")" = 400 ] || fail "not 400 steps"
grep -q '"event":"done"' "$work/whole.json" || fail "no summary"

# Interrupted as soon as it has taken some steps: the step in progress is finished and saved, no adapter folder appears.
: >"$work/first.json"
run_train halves >>"$work/first.json" 2>"$work/first.err" &
pid=$!
while [ "$(grep -c '"event":"step"' "$work/first.json")" -lt 5 ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
kill -TERM $pid
code=0
wait $pid || code=$?
[ $code = 1 ] || fail "exit code $code after SIGTERM, expected 1"
grep -q -e '--resume' "$work/first.err" || fail "does not say how to resume: $(cat "$work/first.err")"
[ ! -e "$work/halves" ] || fail "an unfinished run left an adapter"
train halves --resume >"$work/second.json"
done_first=$(grep -c '"event":"step"' "$work/first.json")
done_second=$(grep -c '"event":"step"' "$work/second.json")
[ $((done_first + done_second)) = 400 ] || fail "$done_first and $done_second steps are not 400"
cmp "$work/whole/adapter_model.safetensors" "$work/halves/adapter_model.safetensors" || fail "resumed run ends elsewhere"
cat "$work/first.json" "$work/second.json" | grep '"event":"step"' | sed 's/"tokens_per_second.*//' >"$work/halves.steps"
grep '"event":"step"' "$work/whole.json" | sed 's/"tokens_per_second.*//' | cmp - "$work/halves.steps" || fail "another course of losses"

# The adapter evaluates as the run said, and better than the base.
final=$(grep '"event":"eval"' "$work/whole.json" | sed 's/.*"loss":\([0-9.]*\).*/\1/')
again=$("$sakiori" eval --model "$golden/tiny.gguf" --adapter "$work/whole" --data "$golden/rows_eval.jsonl" --base-dtype f32 --threads 1 --seq 128 --json |
	sed 's/.*"loss":\([0-9.]*\).*/\1/')
[ "$final" = "$again" ] || fail "eval says $again, the run said $final"
base=$("$sakiori" eval --model "$golden/tiny.gguf" --data "$golden/rows_eval.jsonl" --base-dtype f32 --seq 128 --json | sed 's/.*"loss":\([0-9.]*\).*/\1/')
[ "$(echo "$base $final" | awk '{ print ($2 < $1) }')" = 1 ] || fail "training did not help: $base, then $final"
"$sakiori" generate --model "$golden/tiny.gguf" --adapter "$work/whole" --base-dtype f32 --prompt "The cloth" --max-tokens 5 --json | grep -q '"tokens":' ||
	fail "no text generated"

# A run that was finished already has no loss of its own to tell.
train whole --resume | grep '"event":"done"' | grep -q '"loss":null' || fail "a loss without a step"

# The place of the adapter is looked at before the first step, and made where it can be.
mkdir "$work/taken"
touch "$work/taken/something"
expect 1 'taken: holds other files' train taken
[ ! -s "$work/stdout" ] || fail "trained although the adapter could not be written: $(cat "$work/stdout")"
expect 1 'taken/something' train taken/something/adapter
train new/folder/adapter --steps 1 >"$work/new.json"
[ -f "$work/new/folder/adapter/adapter_config.json" ] || fail "no adapter in a new folder"

expect 1 'lr 0' train halves --resume --lr 1e-3
expect 1 'nothing to resume' train nowhere --resume
printf 'x' | dd of="$work/halves.checkpoint" bs=1 seek=9000 conv=notrunc 2>/dev/null
expect 1 'halves.checkpoint is damaged' train halves --resume
expect 1 'No such file' "$sakiori" train --model /nowhere.gguf --data "$golden/rows.jsonl" --out "$work/x"
expect 2 'nearest known one is --targets' "$sakiori" train --targts q
expect 2 'model is missing' "$sakiori" train
expect 2 'unknown "w"' train x --targets q,w
expect 2 'rank 0: expected 1' train x --rank 0
expect 2 'learning rate 7' train x --lr 7
expect 2 '0 rows a step' train x --batch 0
expect 2 'at least 2 are needed' "$sakiori" eval --model "$golden/tiny.gguf" --data "$golden/rows_eval.jsonl" --seq 1
expect 2 'base-dtype' train x --base-dtype f16
echo '{"prompt": "a"' >"$work/broken.jsonl"
expect 1 'broken.jsonl:1' "$sakiori" eval --model "$golden/tiny.gguf" --data "$work/broken.jsonl"
expect 1 'rank 4' train x --init-adapter "$work/whole" --rank 8
echo PASS
