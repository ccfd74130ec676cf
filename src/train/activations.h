/* SPDX-License-Identifier: Apache-2.0 */
/* The memory plan of a model: one device allocation, cut up once when the model is opened; a step allocates nothing.
 * What is kept between forward and backward is only what the backward cannot recompute cheaply: the residual stream
 * before attention and before the MLP, q, k, v after rotation (before it, where heads are normalized), the attention's output and log-sum-exp, gate and up, and
 * x A^T of each adapter; a memory mode keeps less of it on the device (train/memory.h). Both normed inputs and the MLP's
 * inner product are always recomputed, and so is what dropout leaves of an adapter's input. The thread that owns the device. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "compute/compute.h"
#include "formats/model_file.h"
#include "train/lora.h"
#include "train/memory.h"
#include "train/variants.h"

/* What the memory is for. */
enum activations_use {
	ACTIVATIONS_TRAIN,    /* every layer keeps its own */
	ACTIVATIONS_EVALUATE, /* layers share one set */
	ACTIVATIONS_GENERATE, /* layers share one set, but keep their keys and values */
};

/* Layers that take turns with their buffers when these are kept in host memory: one computes, one is copied. */
#define ACTIVATIONS_TURNS 2

/* Of one layer, N tokens; act types unless float. What every layer has of its own lies together, in this order. */
struct saved {
	void *residual; /* (N, hidden) entering the layer */
	/* (N, query + 2 key): q and k rotated, v; (positions, ...) when generating. Training where heads are normalized: q and k as
	 * the linear put them out. */
	void *qkv;
	void *attended;     /* (N, query) */
	float *log_sum_exp; /* (N, heads) */
	void *middle;       /* (N, hidden): residual stream between attention and MLP */
	/* (N, hidden) and (N): what attention and the MLP put out before their post norms, and the norms' statistic; NULL where the
	 * architecture has none. */
	void *attention_out, *mlp_out;
	float *attention_out_rms, *mlp_out_rms;
	void *gate_up;            /* (N, 2 ffn) */
	void *s[VARIANTS_GROUPS]; /* (N, ranks): x A^T; NULL where not adapted or not differentiated */
	void *host; /* page-locked copy of all that is kept, offloading modes; NULL: stays on the device */
};

/* Bytes by what they are for. */
struct activations_bytes {
	size_t layer;     /* kept of one layer */
	size_t kept;      /* of all layers on the device */
	size_t shared;    /* what layers take turns with, tables and the batch */
	size_t offloaded; /* kept in host memory */
};

struct activations {
	struct device *device;
	enum activations_use use;
	enum memory_mode mode;
	void *memory;
	void *host; /* offloading modes */
	size_t bytes;
	struct activations_bytes parts;
	size_t tokens;    /* N: most tokens of one pass */
	size_t positions; /* rows of the rotation tables; most tokens of one row */
	struct saved *layers;
	void *residual_out; /* (N, hidden) after the last layer */
	float *inverse_rms; /* (N) of the norm computed last */
	void *normed; /* (N, hidden) what a norm put out; tokens normed_stride apart while a linear reads it, else dense */
	size_t normed_stride; /* elements, room for s of the linears included where the device joins */
	void *delta; /* (N, hidden or query): what attention or MLP add to the residual stream; backward: gradient of
			     * normed, and of what attention put out */
	void *h; /* (N, ffn): silu(gate) * up, tokens h_stride apart; backward, dense: first its gradient, then those of q, k, v */
	float *embedded; /* (N, hidden) where the embedding is scaled, else NULL */
	/* Training where heads are normalized, else NULL: q and k normalized and rotated, in rows as long as qkv's, (N, query + 2 key); floats
	 * (N, heads) and (N, kv heads). */
	void *turned;
	float *query_inverse_rms, *key_inverse_rms;
	size_t h_stride;  /* elements, room for s included where the device joins */
	void *d_residual; /* (N, hidden); only for ACTIVATIONS_TRAIN, as is ds */
	void *ds;      /* (N, ranks of the MLP's last linear; with dropout the most of any group): its scale * dy B */
	void *dropped; /* dropout: (N, widest input): what an adapter reads; backward: first its gradient. NULL: none */
	uint64_t *dropout_at;   /* (2): struct dropout. NULL: none */
	uint32_t *ids;          /* (N) */
	uint32_t *positions_of; /* (N): place of each token in its row */
	uint32_t *row_offsets;  /* (N + 1) */
	uint32_t *kv_offsets;   /* (2) when generating */
	int32_t *labels;        /* (N) */
	uint32_t *labelled;     /* (N): tokens that have a label */
	float *gradient_scale;  /* (1) */
	uint8_t *correct;       /* (N) */
	double *loss;           /* (1) */
	float *logits;          /* (V) when generating */
	float *cosine, *sine;   /* (positions, head_size / 2) */
};

/* What a plan is made for. */
struct activations_plan {
	enum activations_use use;
	enum memory_mode mode; /* ACTIVATIONS_TRAIN */
	size_t tokens, positions;
	bool dropout; /* ACTIVATIONS_TRAIN */
};

/* What a plan takes, without a device; joins as struct device has it. layout NULL: no adapter. */
void activations_count(const struct model_shape *shape, const struct lora_layout *layout, size_t act_size, bool joins,
	const struct activations_plan *plan, struct activations_bytes *out);

/* layout NULL: no adapter. On failure (not enough memory) nothing is left to free. */
int activations_plan(struct activations *a, struct device *d, const struct model_shape *shape,
	const struct lora_layout *layout, const struct activations_plan *plan, struct fault *f);
/* Before device_close. Safe on a zeroed struct and twice. */
void activations_free(struct activations *a);

/* The offloading modes: around a layer's forward and its backward. Its buffers are free to be written; it is kept; it is there
 * to be read; it is needed no more. In the other modes they do nothing. */
void activations_open_layer(struct activations *a, size_t layer);
void activations_keep_layer(struct activations *a, size_t layer);
void activations_recall_layer(struct activations *a, size_t layer);
void activations_drop_layer(struct activations *a, size_t layer);
