#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How fast rows become tokens, and in how much memory, over made-up text (bench/zipf_rows.py).
# Usage: tokenize_speed.sh --model FILE [--sakiori PROGRAM] [--megabytes N] [--data FILE] [--threads N]
# One JSON line each: tokenized into the cache, read from the cache, held in memory without it. A rate is megabytes of the file by seconds of CPU, system and
# the figures of `sakiori data stats` included, so other work on the machine counts little. Exits 1 when the first is below 50.
set -eu
sakiori=sakiori model='' megabytes=1000 data='' threads=1
while [ $# -gt 0 ]; do
	case $1 in
	--model) model=$2; shift ;;
	--sakiori) sakiori=$2; shift ;;
	--megabytes) megabytes=$2; shift ;;
	--data) data=$2; shift ;;
	--threads) threads=$2; shift ;;
	*) model=; break ;;
	esac
	shift
done
[ -n "$model" ] || { echo "usage: tokenize_speed.sh --model FILE [--sakiori PROGRAM] [--megabytes N] [--data FILE] [--threads N]" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache
if [ -z "$data" ]; then
	data=$work/rows.jsonl
	python3 "$(dirname "$0")/zipf_rows.py" "$megabytes" >"$data"
fi
bytes=$(stat -c %s "$data")
first=
for run in tokenized cached in-memory; do
	option=
	[ $run = in-memory ] && option=--no-token-cache
	# shellcheck disable=SC2086
	/usr/bin/time -f '%U %S %e %M' -o "$work/time" "$sakiori" data stats --model "$model" --data "$data" --threads "$threads" --json $option >"$work/stats" 2>/dev/null
	line=$(awk -v bytes="$bytes" -v run=$run -v threads="$threads" '{
		printf "{\"run\":\"%s\",\"bytes\":%d,\"threads\":%d,\"cpu_seconds\":%.2f,\"seconds\":%.2f,\"megabytes_per_cpu_second\":%.1f,\"peak_rss_bytes\":%d}\n",
			run, bytes, threads, $1 + $2, $3, bytes / 1e6 / ($1 + $2), $4 * 1024 }' "$work/time")
	echo "$line"
	[ -n "$first" ] || first=$line
	# the same rows, whichever way they came
	[ -f "$work/expected" ] || cp "$work/stats" "$work/expected"
	cmp "$work/stats" "$work/expected"
done
echo "$first" | awk -F'"megabytes_per_cpu_second":' '{ exit $2 + 0 < 50 }'
