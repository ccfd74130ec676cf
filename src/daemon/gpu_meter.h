/* SPDX-License-Identifier: Apache-2.0 */
/* What the NVIDIA driver says of the GPU that trains: memory, load, temperature, power, and the energy that a token costs. The
 * driver is asked on libuv's pool, because its answer may take long. Loop thread only. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>
#include <uv.h>

#include "daemon/metrics.h"

struct gpu_meter;

struct gpu_meter_options {
	const char *library;  /* NULL: libnvidia-ml.so.1 */
	uint64_t interval_ms; /* 0: 5 s */
};

/* Sets the gauges sakiori_gpu_* of m every few seconds, and sakiori_train_joules_per_token each time `tokens` has grown.
 * device: "cuda" or "cuda:N", counted as nvidia-smi counts, within CUDA_VISIBLE_DEVICES where that is set. Where the library or
 * the GPU is not there one log line says so, and there are no gauges; what the driver cannot tell has none either. */
struct gpu_meter *gpu_meter_start(uv_loop_t *loop, const char *device, const _Atomic uint64_t *tokens,
	struct metrics *m, const struct gpu_meter_options *options);
/* Sets nothing any more; frees itself on the loop, once a reading under way is over. NULL is fine. */
void gpu_meter_stop(struct gpu_meter *g);
