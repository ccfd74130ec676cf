#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# real_parity.sh BUILD MODEL: trains the real model 20 steps in float32 and compares every loss, and the loss on other rows before and
# after, with what Hugging Face PEFT gave for the same rows and first adapter (tests/golden/real_losses.json, made by bench/peft_parity.py).
set -eu
sakiori=$1/sakiori
model=$2
golden=$(dirname "$0")/../golden
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
setting() { sed -n "s/^ \"$1\": \([-0-9.e]*\),*\$/\1/p" "$golden/real_losses.json"; }
field() { sed -n "s/.*\"$1\":\([-0-9.e+]*\).*/\1/p"; }

"$sakiori" train --model "$model" --data "$golden/rows.jsonl" --out "$work/adapter" --base-dtype f32 --no-shuffle --json \
	--rank "$(setting rank)" --alpha "$(setting alpha)" --lr "$(setting lr)" --batch "$(setting batch)" --steps "$(setting steps)" \
	--seed "$(setting seed)" >"$work/train.json"
"$sakiori" eval --model "$model" --data "$golden/rows_eval.jsonl" --base-dtype f32 --json >"$work/base.json"
"$sakiori" eval --model "$model" --adapter "$work/adapter" --data "$golden/rows_eval.jsonl" --base-dtype f32 --json >"$work/trained.json"
{
	grep '"event":"step"' "$work/train.json" | field loss
	field loss <"$work/base.json"
	field loss <"$work/trained.json"
} >"$work/ours"
{
	sed -n 's/^  \([0-9.]*\),*$/\1/p' "$golden/real_losses.json"
	setting base_eval_loss
	setting trained_eval_loss
} >"$work/theirs"
paste "$work/ours" "$work/theirs" | awk '
	NF != 2 { print "line " NR ": one of the two has no loss"; bad = 1; next }
	{ d = $1 - $2; if (d < 0) d = -d; if (d > worst) worst = d; if (d > 1e-3) { print "loss " NR ": " $1 ", PEFT has " $2; bad = 1 } }
	END { if (NR != 22) { print NR " losses, expected 22"; bad = 1 } printf "%d losses, the worst %.1e from PEFT\n", NR, worst; exit bad }'
