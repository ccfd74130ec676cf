/* SPDX-License-Identifier: Apache-2.0 */
/* The memory plan of a model: one device allocation, cut up once when the model is opened; a step allocates nothing.
 * Kept between forward and backward is only what the backward cannot recompute cheaply: the residual stream before
 * attention and before the MLP, q, k, v after rotation, the attention's output and log-sum-exp, gate, up, and x A^T of
 * each adapter. Both normed inputs and the MLP's inner product are recomputed. The thread that owns the device. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "compute/compute.h"
#include "formats/model_file.h"
#include "train/lora.h"

/* What the memory is for. */
enum activations_use {
	ACTIVATIONS_TRAIN,    /* every layer keeps its own */
	ACTIVATIONS_EVALUATE, /* layers share one set */
	ACTIVATIONS_GENERATE, /* layers share one set, but keep their keys and values */
};

/* Of one layer, N tokens; act types unless float. */
struct saved {
	void *residual;  /* (N, hidden) entering the layer */
	void *q, *k, *v; /* (N, query), (N, key), (N, key), q and k rotated; k and v (positions, key) when generating */
	void *attended;  /* (N, query) */
	float *log_sum_exp;    /* (N, heads) */
	void *middle;          /* (N, hidden): residual stream between attention and MLP */
	void *gate, *up;       /* (N, ffn) */
	void *s[LORA_TARGETS]; /* (N, rank): x A^T; NULL where not adapted or not differentiated */
};

struct activations {
	struct device *device;
	void *memory;
	size_t bytes;
	size_t tokens;    /* N: most tokens of one pass */
	size_t positions; /* rows of the rotation tables; most tokens of one row */
	struct saved *layers;
	void *residual_out; /* (N, hidden) after the last layer */
	float *inverse_rms; /* (N) of the norm computed last */
	void *normed;       /* (N, hidden) what a norm put out */
	void *delta; /* (N, hidden) what attention or MLP add to the residual stream; backward: gradient of normed */
	void *h;     /* (N, ffn): silu(gate) * up */
	void *d_residual; /* (N, hidden); this and the rest only for ACTIVATIONS_TRAIN */
	void *d_h;        /* (N, ffn) */
	void *d_attended; /* (N, query) */
	void *d_q, *d_k, *d_v;
	uint32_t *ids;          /* (N) */
	uint32_t *positions_of; /* (N): place of each token in its row */
	uint32_t *row_offsets;  /* (N + 1) */
	uint32_t *kv_offsets;   /* (2) when generating */
	int32_t *labels;        /* (N) */
	uint8_t *correct;       /* (N) */
	double *loss;           /* (1) */
	float *logits;          /* (V) when generating */
	float *cosine, *sine;   /* (positions, head_size / 2) */
};

/* layout NULL: no adapter. `positions` is the longest row. On failure (not enough memory) nothing is left to free. */
int activations_plan(struct activations *a, struct device *d, const struct model_shape *shape,
	const struct lora_layout *layout, enum activations_use use, size_t tokens, size_t positions, struct fault *f);
/* Before device_close. Safe on a zeroed struct and twice. */
void activations_free(struct activations *a);
