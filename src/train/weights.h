/* SPDX-License-Identifier: Apache-2.0 */
/* The frozen base model on a device: every matrix behind a weight handle, filled row by row from the model file, so
 * that no whole tensor ever exists as floats; and the base fingerprint of the bytes that passed. The thread that owns
 * the device. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"
#include "compute/compute.h"
#include "formats/model_file.h"
#include "train/lora.h"
#include "train/variants.h"

struct block_weights {
	/* Linears that read the same input are one weight, one above the other: q, k, v; gate, up. */
	struct weight *linear[VARIANTS_GROUPS];
	float *input_norm;                          /* (hidden), before attention */
	float *attention_norm;                      /* (hidden), after attention, before the MLP */
	float *post_attention_norm, *post_mlp_norm; /* (hidden), of what they put out; NULL: none */
	float *qkv_bias;                            /* (query + 2 key); NULL: none */
	float *query_norm, *key_norm;               /* (head size), of each head; NULL: none */
};

struct weights {
	struct device *device;
	struct model_shape shape;
	struct block_weights *blocks; /* shape.layers of them */
	struct weight *embedding;     /* (V, hidden) */
	struct weight *head;          /* (V, hidden); the embedding itself when tied */
	float *final_norm;            /* (hidden) */
	uint8_t fingerprint[HASH_SIZE];
	size_t bytes; /* of all layouts of all weights */
};

struct weights_config {
	/* Of the linears. Embedding and head are floats: bf16, or f32 under WEIGHT_F32; and so are linears whose stored
	 * blocks are of no kind, or of several kinds, that a device unpacks. */
	enum weight_storage storage;
	bool backward;                    /* gradients will be taken: keep the transposed layouts too */
	const struct lora_layout *layout; /* of the adapter for which a device that joins keeps room; NULL: none */
	void (*progress)(
		void *self, const char *what, size_t done, size_t total); /* "model", in bytes as read; may be NULL */
	void *progress_self;
};

/* The widths that an adapter's layout needs. */
void weights_widths(const struct model_shape *shape, struct lora_widths *out);

/* Reads the whole file. On failure nothing is left to free. */
int weights_load(struct weights *w, struct device *d, struct model_file *mf, const struct weights_config *config,
	struct fault *f);
/* Before device_close. Safe on a zeroed struct and twice. */
void weights_free(struct weights *w);
