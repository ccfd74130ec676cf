#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unsloth (or PEFT) and sakiori on the same GPU in one call: the table of README. One JSON line a run on stdout, a table at the end on
# stderr. Needs a GPU, sakiori with its CUDA module, and for the rival torch, transformers, peft and unsloth (PYTHONPATH).
#
#   bench/rivals_gpu.sh [CASE...]       default: 8b 8b-fp8 8b-offload 8b-q4 1b 135m
#   bench/rivals_gpu.sh ranks           the order of the adapter's products: fixed, cost, timed and PEFT, for r = 8 ... 256
#
# SAKIORI  the program (build/sakiori)      PYTHON  for the rival (python3)      OURS_ONLY=1, RIVAL_ONLY=1  one side alone
# STEPS    measured steps (10)              DEVICE  cuda[:N] (cuda)
set -u
here=$(cd "$(dirname "$0")" && pwd)
sakiori=${SAKIORI:-$here/../build/sakiori}
python=${PYTHON:-python3}
steps=${STEPS:-10}
device=${DEVICE:-cuda}
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
failed=0

# run CASE COMMAND...: the JSON line of the command, with the case in it; of a failure the last line it said.
run() {
	local name=$1 out
	shift
	if out=$("$@" 2>"$lines.err"); then
		out=$(tail -n 1 <<<"$out")
		printf '{"case": "%s", %s\n' "$name" "${out#\{}" | tee -a "$lines"
	else
		failed=1
		tail -n 5 "$lines.err" >&2
		printf '{"case": "%s", "command": "%s", "error": true}\n' "$name" "$(basename "$1") $2" | tee -a "$lines"
	fi
	rm -f "$lines.err"
}

# ours CASE MODEL BATCH SEQ RANK [OPTION...]
ours() {
	[ -z "${RIVAL_ONLY:-}" ] || return 0
	local name=$1 model=$2 batch=$3 seq=$4 rank=$5
	shift 5
	run "$name" "$sakiori" bench train --model "shape:$model" --device "$device" --batch "$batch" --seq "$seq" --rank "$rank" --steps "$steps" --json "$@"
}

# rival CASE TRAINER MODEL BATCH SEQ RANK [OPTION...]
rival() {
	[ -z "${OURS_ONLY:-}" ] || return 0
	local name=$1 trainer=$2 model=$3 batch=$4 seq=$5 rank=$6
	shift 6
	run "$name" "$python" "$here/peers_gpu.py" "$trainer" --model "$model" --batch "$batch" --seq "$seq" --rank "$rank" --steps "$steps" "$@"
}

one() {
	case $1 in
	8b) rival 8b unsloth llama-3-8b 2 2048 16; ours 8b llama-3-8b 2 2048 16 --memory keep ;;
	8b-fp8) ours 8b-fp8 llama-3-8b 2 2048 16 --base-dtype fp8 --memory keep ;; # the rival has no such thing: compare with 8b
	8b-offload) rival 8b-offload unsloth llama-3-8b 4 2048 16 --recompute; ours 8b-offload llama-3-8b 4 2048 16 --memory "${OFFLOAD:-offload}" ;;
	8b-q4) rival 8b-q4 unsloth llama-3-8b 4 2048 16 --recompute --base nf4; ours 8b-q4 llama-3-8b 4 2048 16 --base-dtype q4 --memory "${OFFLOAD:-offload}" ;;
	1b) rival 1b unsloth llama-3.2-1b 4 2048 16; ours 1b llama-3.2-1b 4 2048 16 --memory keep ;;
	135m) rival 135m unsloth smollm2-135m 16 1024 16; ours 135m smollm2-135m 16 1024 16 --memory keep ;;
	ranks)
		for rank in 8 16 32 64 128 256; do
			rival "r$rank" peft llama-3.2-1b 4 2048 "$rank"
			for variants in fixed cost timed; do ours "r$rank-$variants" llama-3.2-1b 4 2048 "$rank" --variants "$variants"; done
		done
		;;
	*) echo "rivals_gpu.sh: unknown case $1; there are 8b 8b-fp8 8b-offload 8b-q4 1b 135m ranks" >&2; exit 2 ;;
	esac
}

[ $# -gt 0 ] || set -- 8b 8b-fp8 8b-offload 8b-q4 1b 135m
for case in "$@"; do one "$case"; done

"$python" - "$lines" >&2 <<'TABLE'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
rivals = {r["case"]: r for r in rows if "trainer" in r}
failed = {r["case"] for r in rows if "error" in r}
print(f"{'case':14}{'who':10}{'tok/s':>10}{'ms':>9}{'GiB':>8}{'TFLOP/s':>9}{'share':>7}{'against':>9}")
for r in rows:
    if "error" in r:
        print(f"{r['case']:14}{'failed':10}")
        continue
    # A case without a rival of its own is held against its model's; one whose rival failed against nothing.
    other = rivals.get(r["case"]) or (None if r["case"] in failed else rivals.get(r["case"].split("-")[0]))
    against = "" if "trainer" in r or other is None else f"{r['tokens_per_second'] / other['tokens_per_second']:.2f}x"
    print(f"{r['case']:14}{r.get('trainer', 'sakiori'):10}{r['tokens_per_second']:10.0f}{r['step_ms']:9.2f}{r['peak_bytes'] / 2**30:8.2f}"
          f"{r['tflops']:9.1f}{r.get('share_of_ceiling', float('nan')):7.3f}{against:>9}")
TABLE
exit $failed
