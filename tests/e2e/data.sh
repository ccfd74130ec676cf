#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `sakiori data`: what it shows is what training learns, and its figures are those of the rows.
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

cat >"$work/rows.jsonl" <<'END'
{"prompt": "warp", "completion": " weft"}
{"text": "old cloth"}
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "assistant", "content": "No", "train": false}]}
{"text": "old cloth"}
END
"$sakiori" data inspect --model "$model" --data "$work/rows.jsonl" --rows 4 --json >"$work/rows"
"$sakiori" data stats --model "$model" --data "$work/rows.jsonl" --json >"$work/stats"
short=$(python3 -c 'import json, sys; print(len(json.loads(sys.stdin.readlines()[1])["input_ids"]) - 1)' <"$work/rows")
"$sakiori" data stats --model "$model" --data "$work/rows.jsonl" --seq "$short" --json >"$work/cut"
python3 - "$work" <<'END'
import json
import sys

folder = sys.argv[1]
rows = [json.loads(line) for line in open(f"{folder}/rows", encoding="utf-8")]
stats = json.load(open(f"{folder}/stats", encoding="utf-8"))
cut = json.load(open(f"{folder}/cut", encoding="utf-8"))
assert [row["row"] for row in rows] == [1, 2, 3, 4], rows


def text(row, learned):
    return "".join(t for t, label in zip(row["tokens"], row["labels"]) if (label != -100) == learned)


assert (text(rows[0], False), text(rows[0], True)) == ("warp", " weft<|im_end|>"), rows[0]
assert (text(rows[1], False), text(rows[1], True)) == ("", "old cloth<|im_end|>"), rows[1]
assert text(rows[2], True) == "Yes<|im_end|>" and "No<|im_end|>" in text(rows[2], False), rows[2]
sizes = sorted(len(row["input_ids"]) for row in rows)
assert all(label in (-100, token) for row in rows for token, label in zip(row["input_ids"], row["labels"]))
assert stats["rows"] == 4 and stats["tokens"] == sum(sizes) and stats["duplicate_rows"] == 1, stats
assert (stats["shortest"], stats["median"], stats["longest"], stats["p99"]) == (sizes[0], sizes[1], sizes[3], sizes[3]), stats
assert stats["truncated_rows"] == 0 and stats["skipped_rows"] == 0, stats
# The two texts lose a token; what has nothing left to learn is skipped.
assert cut["truncated_rows"] >= 2 and cut["longest"] == len(rows[1]["input_ids"]) - 1, cut
assert cut["rows"] + cut["skipped_rows"] == 4 and cut["skipped_rows"] >= 1, cut
# A row whose own tokens and labels come back in is the same row.
with open(f"{folder}/again.jsonl", "w", encoding="utf-8") as out:
    for row in rows:
        out.write(json.dumps({"input_ids": row["input_ids"], "labels": row["labels"]}) + "\n")
END
"$sakiori" data inspect --model "$model" --data "$work/again.jsonl" --rows 4 --json >"$work/again"
cmp "$work/rows" "$work/again" || fail "rows made of the tokens shown are other rows"

"$sakiori" data inspect --model "$model" --data "$work/rows.jsonl" --first 2 --rows 1 >"$work/shown"
grep -q '^row 2: ' "$work/shown" && grep -q '^+ .*"<|im_end|>"$' "$work/shown" || fail "row 2 is not shown: $(cat "$work/shown")"
"$sakiori" data stats --model "$model" --data "$work/rows.jsonl" | grep -q '^4 rows, ' || fail "no figures for people"

expect 2 'expected inspect or stats' "$sakiori" data
expect 2 '\-\-data is missing' "$sakiori" data stats --model "$model"
expect 1 '\-\-first 9 is beyond' "$sakiori" data inspect --model "$model" --data "$work/rows.jsonl" --first 9
echo '{"text": "secret' >"$work/bad.jsonl"
expect 1 'bad.jsonl:1:' "$sakiori" data stats --model "$model" --data "$work/bad.jsonl"
if grep -q secret "$work/stderr"; then fail "an error quotes the row"; fi

# A large file is tokenized once; what is learned of it is the same from the cache, out of a damaged one, and without.
export XDG_CACHE_HOME="$work/cache"
tokens=$XDG_CACHE_HOME/sakiori/tokens
awk 'BEGIN { for (i = 0; i < 40000; i++) printf "{\"prompt\": \"warp %d of the old cloth that was torn\", \"completion\": \" weft %d and another strip of it\"}\n", i, i * 7 }' >"$work/large.jsonl"
train() {
	out=$1
	shift
	"$sakiori" train --model "$model" --data "$work/large.jsonl" --out "$work/$out" --base-dtype f32 --seq 64 --steps 2 --threads 1 --json "$@" >"$work/$out.json" 2>"$work/$out.log" ||
		fail "$out: $(cat "$work/$out.log")"
	grep '"step"' "$work/$out.json" | grep '"loss"' | sed 's/"tokens_per_second":[^,]*,//' >"$work/$out.steps"
	cmp -s "$work/$out.steps" "$work/without.steps" || fail "$out: another training than without a cache"
}
train without --no-token-cache
[ ! -e "$tokens" ] || fail "--no-token-cache left $tokens"
train first
file=$(ls "$tokens"/*.tokens)
[ "$(stat -c %a "$file")" = 600 ] || fail "$file is not private"
train second
[ "$(ls "$tokens"/*)" = "$file" ] || fail "not the same file: $(ls "$tokens")"
printf 'x' | dd of="$file" bs=1 seek=5000 conv=notrunc 2>/dev/null
train damaged
grep -q 'token_cache_refused.*its tokens do not have the digest\|token_cache_refused.*outside the vocabulary' "$work/damaged.log" || fail "no word of the damage: $(cat "$work/damaged.log")"
