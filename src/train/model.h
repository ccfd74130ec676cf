/* SPDX-License-Identifier: Apache-2.0 */
/* A decoder with an adapter: loss and adapter gradient of one micro-batch, and next-token logits. The thread that
 * owns the device. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "compute/compute.h"
#include "text/batch.h"
#include "train/activations.h"
#include "train/input.h"
#include "train/lora.h"
#include "train/weights.h"

/* Weights and layout are borrowed for the model's life. */
struct model {
	struct device *device;
	const struct weights *weights;
	const struct lora_layout *layout; /* NULL: base model alone */
	const struct variants *variants;  /* borrowed; NULL: fixed */
	struct activations activations;
	size_t cached; /* generating: tokens whose keys and values are kept */
	struct input input;
	uint32_t *positions;    /* (N), host: generating, places of the tokens in the text */
	struct dropout dropout; /* keep 0: none */
	uint64_t dropout_at[2]; /* of the next micro-batch */
};

/* What a model is opened for. */
struct model_options {
	enum activations_use use;
	enum memory_mode memory;         /* ACTIVATIONS_TRAIN: what is kept for the backward */
	size_t micro_tokens;             /* most tokens of one pass */
	size_t positions;                /* longest row (or, generating, longest text) */
	const struct variants *variants; /* orders of the adapter's products; NULL: fixed. Read at every pass */
	/* ACTIVATIONS_TRAIN: share of the elements that an adapter reads which model_differentiate takes as 0, the others being that much
	 * larger; linears of one group read the same. The orders must be fixed. */
	double dropout;
	uint64_t dropout_seed;
};

int model_open(struct model *m, struct device *d, const struct weights *weights, const struct lora_layout *layout,
	const struct model_options *options, struct fault *f);
/* Safe on a zeroed struct and twice. */
void model_close(struct model *m);

/* Elements kept of DROPOUT_ALL; 0: no dropout. */
uint32_t model_dropout_keep(double share);

/* The micro-batches from here on are those of step `step`: what dropout leaves out is a pure function of seed, step, the token's place among the
 * step's tokens and the element, whatever the micro-batches are cut like. */
void model_begin_step(struct model *m, uint64_t step);

/* Starts a sum of losses. */
void model_reset_loss(struct model *m);
/* Waits, and gives the sum (nats) since model_reset_loss over all labelled tokens. */
int model_read_loss(struct model *m, double *sum, struct fault *f);

/* Batches have at most activations.tokens tokens and ids below the vocabulary.
 * Adds the batch's loss to the sum and the gradient of gradient_scale * (that loss) to `gradient`. adapter and
 * gradient: device vectors of the layout. A device that records gets padded batches (train/input.h), which have the same
 * gradient. Failures show in model_read_loss. Needs ACTIVATIONS_TRAIN. */
void model_differentiate(
	struct model *m, const struct batch *batch, const float *adapter, float *gradient, float gradient_scale);
/* Adds the batch's loss to the sum; adapter NULL: base model alone. correct (N), host, may be NULL: 1 where the label
 * is the argmax or there is none. */
void model_evaluate(struct model *m, const struct batch *batch, const float *adapter, uint8_t *correct);

/* Appends n ids to the text so far and gives the logits (V), host, of what comes next. The text may grow to `positions`
 * tokens (SAKIORI_ELIMIT). Needs ACTIVATIONS_GENERATE; starts empty, and again after model_forget. */
int model_continue(
	struct model *m, const uint32_t *ids, size_t n, const float *adapter, float *logits, struct fault *f);
void model_forget(struct model *m);
