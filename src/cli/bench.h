/* SPDX-License-Identifier: Apache-2.0 */
/* What the benches of `sakiori bench` share: random weights and activations on a device, time, and the rate of a plain product, by
 * which everything else is judged. Main thread only. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "compute/compute.h"
#include "formats/model_file.h"

/* What a bench works with; bench_open, then bench_close. */
struct bench {
	struct device *device;
	struct model_file *normals; /* lends the table of random values */
	struct model_random random;
	uint64_t weights; /* made so far: a stream of random numbers each */
};

int bench_open(struct bench *b, const struct device_config *config, struct fault *f);
/* Safe on a zeroed struct. Memory and weights made with it must be gone. */
void bench_close(struct bench *b);

/* A bf16 weight (on an f32 device an f32 one) of N(0, 0.02). NULL after a failure, which sticks to the device. */
struct weight *bench_weight(
	struct bench *b, size_t rows, size_t cols, enum weight_storage storage, unsigned uses, size_t room);
/* act (n) of N(0, 1); f32 likewise. NULL after a failure. */
void *bench_act(struct bench *b, size_t n);
float *bench_floats(struct bench *b, size_t n, float deviation);

double bench_now(void); /* seconds */
/* Median seconds of one call: `call` runs until it was measured for about `budget` seconds, at least 3 times. */
int bench_time(struct device *d, void (*call)(void *self), void *self, double budget, double *seconds, struct fault *f);

/* FLOP/s of ops->matmul: 8192 x 8192 x 8192 on a GPU, 512 tokens through 2048 x 2048 on a CPU, with a bf16 weight where the device has
 * bf16 activations. */
int bench_ceiling(struct bench *b, double *flops, struct fault *f);

/* The subcommands; argv[0] is their name. Return the exit code. */
int bench_train(int argc, char **argv);
int bench_ops(int argc, char **argv);
int bench_variants(int argc, char **argv);
