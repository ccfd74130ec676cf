/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a dataset -> packed micro-batches, as a pure function of (seed, step): a resumed run needs no state from
 * here. A sampler belongs to one thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/dataset.h"

/* Whole rows, one after the other without padding. Attention never crosses a row, and neither does a label. */
struct batch {
	size_t tokens;         /* T */
	size_t rows;           /* R */
	uint32_t *ids;         /* (T) */
	int32_t *labels;       /* (T) the next token of the same row where it is learned, else -1 */
	uint32_t *row_offsets; /* (R + 1) first token of each row; row_offsets[R] = T */
	size_t labelled;       /* labels that are not -1 */
	size_t longest_row;    /* tokens */
};

/* The micro-batches of one optimizer step; memory belongs to the sampler and holds until its next call. */
struct batch_list {
	const struct batch *batches;
	size_t count;
	size_t rows; /* of all of them */
	size_t tokens;
	size_t labelled; /* what a mean loss over the step divides by */
};

struct sampler_options {
	uint64_t seed;
	size_t batch_rows;   /* rows an optimizer step */
	size_t micro_tokens; /* most tokens of a micro-batch; at least the dataset's longest row. 0: a step is one batch
			      */
	bool shuffle;        /* else file order, every epoch */
};

struct sampler;

/* Borrows d until sampler_free. SAKIORI_ELIMIT where a row is longer than micro_tokens. The caller owns *out. */
int sampler_new(struct sampler **out, const struct dataset *d, const struct sampler_options *options, struct fault *f);
void sampler_free(struct sampler *s);

/* Step k takes rows k*batch_rows ... of the endless sequence of epochs; epoch e is a shuffle by Philox(seed, stream of
 * e). Which rows a step holds, and their order, does not depend on micro_tokens. */
void sampler_step(struct sampler *s, uint64_t step, struct batch_list *out);

/* Every row once, in file order: part `part` of sampler_parts(), the last one perhaps smaller. Ignores seed and
 * shuffle. */
uint64_t sampler_parts(const struct sampler *s);
void sampler_part(struct sampler *s, uint64_t part, struct batch_list *out);
