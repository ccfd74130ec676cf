/* SPDX-License-Identifier: Apache-2.0 */
#include "text/batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"

/* Streams of Philox that belong to the order of rows: "rows", then the epoch. */
#define ORDER_STREAM 0x726f777300000000u

struct sampler {
	const struct dataset *dataset;
	struct sampler_options options;
	size_t rows;     /* of the dataset */
	uint32_t *order; /* (rows) of epoch `epoch` */
	uint64_t epoch;
	uint32_t *picked;      /* (batch_rows) */
	struct batch *batches; /* (batch_rows) at most one a row */
	uint32_t *row_offsets; /* (2 * batch_rows) */
	uint8_t *labelled;     /* (longest row) */
	uint32_t *ids;         /* (token_capacity) */
	int32_t *labels;       /* (token_capacity) */
	size_t token_capacity;
};

static void set_epoch(struct sampler *s, uint64_t epoch)
{
	if (s->epoch == epoch)
		return;
	for (size_t i = 0; i < s->rows; i++)
		s->order[i] = (uint32_t)i;
	if (s->options.shuffle) {
		struct rng rng;
		rng_init(&rng, s->options.seed, ORDER_STREAM + epoch);
		rng_shuffle(&rng, s->order, s->rows);
	}
	s->epoch = epoch;
}

int sampler_new(struct sampler **out, const struct dataset *d, const struct sampler_options *options, struct fault *f)
{
	*out = NULL;
	const struct dataset_counts *counts = dataset_counts(d);
	size_t tokens;
	if (options->batch_rows == 0)
		return fault_set(f, SAKIORI_EINVAL, "a step of 0 rows; expected at least 1");
	if (!size_mul(options->batch_rows, counts->longest_row, &tokens) || tokens > INT32_MAX)
		return fault_set(f, SAKIORI_ELIMIT,
			"a step of %zu rows of up to %zu tokens is over 2^31 tokens; take fewer rows",
			options->batch_rows, counts->longest_row);
	if (options->micro_tokens != 0 && counts->longest_row > options->micro_tokens)
		return fault_set(f, SAKIORI_ELIMIT,
			"the longest row has %zu tokens, a micro-batch at most %zu; shorten rows or allow more",
			counts->longest_row, options->micro_tokens);
	struct sampler *s = must_calloc(1, sizeof *s);
	*s = (struct sampler){.dataset = d, .options = *options, .rows = counts->rows, .epoch = UINT64_MAX};
	s->order = must_calloc(s->rows, sizeof *s->order);
	s->picked = must_calloc(options->batch_rows, sizeof *s->picked);
	s->batches = must_calloc(options->batch_rows, sizeof *s->batches);
	s->row_offsets = must_calloc(2 * options->batch_rows, sizeof *s->row_offsets);
	s->labelled = must_calloc(counts->longest_row, sizeof *s->labelled);
	set_epoch(s, 0);
	*out = s;
	return 0;
}

void sampler_free(struct sampler *s)
{
	if (s == NULL)
		return;
	free(s->order);
	free(s->picked);
	free(s->batches);
	free(s->row_offsets);
	free(s->labelled);
	free(s->ids);
	free(s->labels);
	free(s);
}

static void reserve(struct sampler *s, size_t tokens)
{
	if (tokens <= s->token_capacity)
		return;
	s->ids = must_realloc(s->ids, tokens * sizeof *s->ids);
	s->labels = must_realloc(s->labels, tokens * sizeof *s->labels);
	s->token_capacity = tokens;
}

/* Writes the row behind the batch's tokens so far. */
static void add_row(struct sampler *s, struct batch *b, size_t row, size_t size)
{
	uint32_t *ids = b->ids + b->tokens;
	int32_t *labels = b->labels + b->tokens;
	dataset_row(s->dataset, row, ids, s->labelled);
	for (size_t i = 0; i + 1 < size; i++) {
		labels[i] = s->labelled[i + 1] ? (int32_t)ids[i + 1] : -1;
		b->labelled += s->labelled[i + 1];
	}
	labels[size - 1] = -1;
	b->tokens += size;
	b->row_offsets[++b->rows] = (uint32_t)b->tokens;
	if (size > b->longest_row)
		b->longest_row = size;
}

/* The first `count` picked rows, in their order, into as few batches as that order allows. */
static void pack(struct sampler *s, size_t count, struct batch_list *out)
{
	*out = (struct batch_list){.batches = s->batches, .rows = count};
	for (size_t i = 0; i < count; i++)
		out->tokens += dataset_row_size(s->dataset, s->picked[i]);
	reserve(s, out->tokens);
	struct batch *b = NULL;
	uint32_t *offsets = s->row_offsets;
	size_t used = 0;
	for (size_t i = 0; i < count; i++) {
		size_t size = dataset_row_size(s->dataset, s->picked[i]);
		if (b == NULL || (s->options.micro_tokens != 0 && b->tokens + size > s->options.micro_tokens)) {
			offsets += b != NULL ? b->rows + 1 : 0;
			b = &s->batches[out->count++];
			*b = (struct batch){.ids = s->ids + used, .labels = s->labels + used, .row_offsets = offsets};
			b->row_offsets[0] = 0;
		}
		add_row(s, b, s->picked[i], size);
		used += size;
	}
	for (size_t i = 0; i < out->count; i++)
		out->labelled += s->batches[i].labelled;
}

void sampler_step(struct sampler *s, uint64_t step, struct batch_list *out)
{
	/* wider than a step number, so that no step is too late */
	unsigned __int128 first = (unsigned __int128)step * s->options.batch_rows;
	uint64_t epoch = (uint64_t)(first / s->rows);
	size_t at = (size_t)(first % s->rows);
	for (size_t i = 0; i < s->options.batch_rows; i++) {
		set_epoch(s, epoch);
		s->picked[i] = s->order[at];
		if (++at == s->rows) {
			at = 0;
			epoch++;
		}
	}
	pack(s, s->options.batch_rows, out);
}

uint64_t sampler_parts(const struct sampler *s)
{
	return (s->rows + s->options.batch_rows - 1) / s->options.batch_rows;
}

void sampler_part(struct sampler *s, uint64_t part, struct batch_list *out)
{
	size_t first = (size_t)part * s->options.batch_rows, left = s->rows - first;
	size_t count = left < s->options.batch_rows ? left : s->options.batch_rows;
	for (size_t i = 0; i < count; i++)
		s->picked[i] = (uint32_t)(first + i);
	pack(s, count, out);
}
