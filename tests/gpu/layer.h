/* SPDX-License-Identifier: Apache-2.0 */
/* One decoder layer with embedding, head, loss and optimizer on one device: about every operation a training step issues, for tests of
 * what holds for sequences of them. The main thread. */
#pragma once
#include "gpu/pair.h"

enum {
	LAYER_TOKENS = 37,
	LAYER_ROWS = 4,
	LAYER_HIDDEN = 128,
	LAYER_HEAD_DIM = 64,
	LAYER_QUERY = 2 * LAYER_HEAD_DIM,
	LAYER_KEY = LAYER_HEAD_DIM,
	LAYER_QKV = LAYER_QUERY + 2 * LAYER_KEY,
	LAYER_FFN = 96,
	LAYER_VOCABULARY = 131,
	LAYER_RANK = 8,
	LAYER_ROOM = 3 * LAYER_RANK, /* behind what the norms put out for linears, and behind these linears' rows */
	LAYER_POSITIONS = 64,
};

/* The adapter's factors one after another: A and B of q, k, v, then of o, of gate and up, of down. */
enum {
	LAYER_QKV_SIZE = 3 * LAYER_RANK * LAYER_HIDDEN + LAYER_QKV * LAYER_RANK,
	LAYER_O_SIZE = LAYER_RANK * LAYER_QUERY + LAYER_HIDDEN * LAYER_RANK,
	LAYER_UP_SIZE = 2 * LAYER_RANK * LAYER_HIDDEN + 2 * LAYER_FFN * LAYER_RANK,
	LAYER_DOWN_SIZE = LAYER_RANK * LAYER_FFN + LAYER_HIDDEN * LAYER_RANK,
	LAYER_ADAPTER = LAYER_QKV_SIZE + LAYER_O_SIZE + LAYER_UP_SIZE + LAYER_DOWN_SIZE,
};

struct layer {
	struct device *device;
	struct weight *embedding, *qkv, *o, *up, *down;
	uint32_t *ids, *positions, *row_offsets;
	int32_t *labels;
	float *cosine, *sine, *norm, *adapter, *gradient, *first, *second, *inverse[3], *sums, *scale;
	double *loss, *squares;
	void *residual[3], *normed, *qkv_out, *attended, *delta, *gate_up, *h, *s[4], *ds;
	void *d_residual, *d_wide, *d_qkv, *d_attended;
};

/* The same values on every device; act as the device has it. */
void layer_open(struct layer *l, struct device *d);
void layer_close(struct layer *l);
/* Another batch: ids, labels and row lengths. */
void layer_upload(struct layer *l, uint64_t seed);
/* The first values of the adapter and its moments. */
void layer_reset(struct layer *l);
/* Forward, backward and one step of the optimizer. */
void layer_step(struct layer *l);

/* Everything a step leaves, as bytes. */
enum { LAYER_RESULT = 2 * LAYER_ADAPTER * 4 + LAYER_TOKENS * LAYER_HIDDEN * 4 + 16 };
void layer_download(struct layer *l, unsigned char out[static LAYER_RESULT]);
