#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Many short trainings at once on one GPU, each with an empty cache of its own, so that products are measured all the time.
# Usage: gpu_stress.sh MODEL TASK [SECONDS] [WORKERS]      TASK: a folder of bench/wordnet_task.py (pooled.jsonl)
# Each failure is said at once, with its last words; the last line counts. Exits 1 when one failed.
# SAKIORI  the program (build/sakiori)      TYPE  of the base weights (bf16)      STEPS  of a training (40)
set -u
here=$(cd "$(dirname "$0")" && pwd)
sakiori=${SAKIORI:-$here/../build/sakiori}
[ $# -ge 2 ] || { sed -n 4p "$0" >&2; exit 2; }
model=$1 task=$2 seconds=${3:-120} workers=${4:-6}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=2

worker() {
	local seed=$(($1 * 1000)) end=$((SECONDS + seconds)) here
	while [ $SECONDS -lt $end ]; do
		seed=$((seed + 1)) here=$folder/$seed
		if XDG_CACHE_HOME=$here/cache timeout 120 "$sakiori" train --model "$model" --device cuda --data "$task/pooled.jsonl" \
			--out "$here/adapter" --base-dtype "${TYPE:-bf16}" --steps "${STEPS:-40}" --batch 64 --seq 128 --lr 1e-3 \
			--seed $seed --json >"$folder/$seed.log" 2>&1; then
			echo ok >>"$folder/count"
		else
			echo "FAILED: exit $?, seed $seed, after $(grep -c '"step"' "$folder/$seed.log") lines: $(tail -n 1 "$folder/$seed.log")"
			echo failed >>"$folder/count"
		fi
		rm -rf "$here"
	done
}

for ((w = 1; w <= workers; w++)); do worker $w & done
wait
failed=$(grep -c failed "$folder/count")
echo "$(grep -c ok "$folder/count") trainings well, $failed failed"
[ "$failed" = 0 ]
