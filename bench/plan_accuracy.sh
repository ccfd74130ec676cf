#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What `sakiori plan` says of memory against the peak that `sakiori bench train` measures, over ten configurations.
# Usage: plan_accuracy.sh [--device cpu|cuda] [--sakiori PROGRAM] [--small]
# One JSON line each, with the ratio of plan to measurement, and a last line with the worst. Exits 1 when one is off by more than 5 %.
# --small leaves out what needs more than 2 GiB. On the CPU the configurations are small ones.
set -eu
device=cpu sakiori=sakiori small=
while [ $# -gt 0 ]; do
	case $1 in
	--device) device=$2; shift ;;
	--sakiori) sakiori=$2; shift ;;
	--small) small=1 ;;
	*) echo "usage: plan_accuracy.sh [--device cpu|cuda] [--sakiori PROGRAM] [--small]" >&2; exit 2 ;;
	esac
	shift
done

# model batch seq rank base-dtype and further options
cpu='smollm2-135m 1 128 16 bf16
smollm2-135m 4 512 16 bf16
smollm2-135m 2 256 64 bf16 --memory selective
smollm2-135m 3 100 8 bf16 --targets q,v
smollm2-135m 1 512 128 f32
smollm2-135m 2 128 16 f32
smollm2-135m 8 64 256 bf16
smollm2-360m 1 512 16 bf16 --memory blocks
smollm2-360m 2 128 32 f32 --targets gate,up,down
smollm2-360m 1 1024 8 bf16 --targets o'
cuda='smollm2-135m 16 1024 16 bf16
smollm2-135m 4 512 128 f32
smollm2-135m 3 1000 8 bf16 --targets q,v
smollm2-360m 2 2048 64 q4
llama-3.2-1b 4 2048 16 bf16
llama-3.2-1b 2 1024 256 bf16 --memory blocks
llama-3-8b 2 2048 16 bf16
llama-3-8b 2 2048 16 fp8
llama-3-8b 4 2048 16 bf16 --memory offload
llama-3-8b 4 2048 16 q4 --memory selective'

case $device in cpu) list=$cpu warmup=0 ;; *) list=$cuda warmup=1 ;; esac
[ -z "$small" ] || list=$(grep -v 'smollm2-360m\|llama\|512 128 f32\|4 512 16' <<<"$list")
field() { python3 -c 'import json, sys; print(json.loads(sys.stdin.readlines()[-1])[sys.argv[1]])' "$1"; }
worst=1
while read -r model batch seq rank dtype options; do
	# shellcheck disable=SC2086
	set -- --model "shape:$model" --device "$device" --batch "$batch" --seq "$seq" --rank "$rank" --base-dtype "$dtype" $options
	planned=$("$sakiori" plan "$@" --micro-tokens $((batch * seq)) --json | field peak_bytes)
	measured=$("$sakiori" bench train "$@" --steps 1 --warmup $warmup --no-ceiling --json </dev/null | field peak_bytes)
	ratio=$(awk "BEGIN { printf \"%.4f\", $planned / $measured }")
	echo "{\"event\":\"plan_accuracy\",\"arguments\":\"$*\",\"planned_bytes\":$planned,\"measured_bytes\":$measured,\"ratio\":$ratio}"
	worst=$(awk "BEGIN { a = $worst - 1; b = $ratio - 1; if (b < 0 ? -b > (a < 0 ? -a : a) : b > (a < 0 ? -a : a)) print $ratio; else print $worst }")
done <<<"$list"
echo "{\"event\":\"plan_accuracy_end\",\"worst_ratio\":$worst}"
awk "BEGIN { exit !($worst >= 0.95 && $worst <= 1.05) }"
