/* SPDX-License-Identifier: Apache-2.0 */
/* A micro-batch on its way to the device. For a device that records, batches are padded to a few sizes, so that the same recording serves
 * many of them: added tokens form rows of their own that learn nothing, and added rows are empty. The thread that owns the device. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/compute.h"
#include "text/batch.h"
#include "train/activations.h"

/* What an operation's launch depends on. */
struct input_size {
	size_t tokens, labelled, rows, longest;
};

/* The size that a batch is padded to; `tokens` and `positions` are the most there is memory for. Tokens come in steps of a sixteenth,
 * labelled ones in eighths of them, rows and the longest row as powers of two: a batch grows by at most a sixteenth (below 256 tokens by at
 * most 15), and one whose rows are all full not at all. Pure. */
struct input_size input_padded(const struct batch *batch, size_t tokens, size_t positions);

/* Batches that wait for the device while the host goes on. */
#define INPUT_SETS 2

struct input {
	struct device *device;
	const struct activations *activations; /* where batches go; borrowed */
	/* Host: what is not the batch's own, padded; one set a batch that may still be on its way. */
	struct input_set {
		float gradient_scale;
		uint64_t dropout_at[2];
		uint32_t *ids, *positions, *row_offsets, *labelled;
		int32_t *labels;
	} set[INPUT_SETS];
	size_t waiting; /* batches issued since the device was last waited for */
};

void input_init(struct input *in, const struct activations *a);
/* Safe on a zeroed struct and twice. */
void input_fini(struct input *in);
/* Issues the copies; the batch is not looked at afterwards. Gives the tokens of a pass over it and those that the loss looks at.
 * size NULL: as it is. dropout_at (2) goes to the device where there is dropout; NULL: none. */
void input_upload(struct input *in, const struct batch *batch, const struct input_size *size, float gradient_scale,
	const uint64_t *dropout_at, struct tokens *all, struct tokens *labelled);
/* The device was waited for. */
void input_arrived(struct input *in);
