/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products: c (m, n) = scale * a (m, k) b (k, n) + bias, or c += scale * a b. One door to oneDNN; the oracle's doubles are
 * multiplied by plain loops. Plans are made and cached on the device's thread; gemm_run of a solo plan may be called by each of the device's
 * threads with its own number. */
#pragma once
#include "compute/compute.h"

struct gemm_plan;
struct gemm_engine;

enum gemm_flag {
	GEMM_ACCUMULATE = 1, /* c += */
	GEMM_PACKED = 2,     /* b has the layout of gemm_layout() */
	GEMM_BIAS = 4,       /* + bias (n), f32 */
	GEMM_SOLO = 8,       /* runs on the calling thread alone, inside cpu_run */
};

/* Compared as bytes: no padding, zero what is not used. A transposed operand swaps its strides. */
struct gemm_shape {
	uint64_t m, n, k;
	uint64_t a_row, a_col, b_row, b_col, c_row; /* strides in elements; c's columns lie together */
	uint32_t a_type, b_type,
		c_type; /* enum dtype; f64 in c_type selects the plain loops, where a and b may be any */
	uint32_t flags;
	float scale;
	uint32_t zero;
};

/* Where element (k, n) of a packed b lies: k_offset[k] + n_offset[n], in elements. */
struct gemm_layout {
	size_t bytes; /* the padding inside must be zero */
	size_t *k_offset, *n_offset;
};

/* Whether this CPU multiplies bf16. */
bool gemm_has_bf16(void);
/* Fills the layout for b (k, n) of `type`; true, or false after recording the failure. Free both tables with free(). */
bool gemm_layout(struct device *d, size_t k, size_t n, enum dtype type, struct gemm_layout *out);
/* The plan for a shape; NULL after recording the failure. Valid until the next gemm_plan() call that is not in the same operation:
 * call gemm_plans_trim() at the start of an operation. */
const struct gemm_plan *gemm_plan(struct device *d, const struct gemm_shape *shape);
/* Drops all plans when there are very many. */
void gemm_plans_trim(struct device *d);
void gemm_run(struct device *d, const struct gemm_plan *plan, unsigned thread, const void *a, const void *b,
	const float *bias, void *c);
/* Plan and run on all threads, with m (and, for sum_over_k, k) cut into powers of two so that any number of tokens needs few plans. */
void gemm_tokens(
	struct device *d, const struct gemm_shape *shape, const void *a, const void *b, const float *bias, void *c);
void gemm_over_tokens(struct device *d, const struct gemm_shape *shape, const void *a, const void *b, void *c);
void gemm_engine_free(struct device *d, struct gemm_engine *e);
