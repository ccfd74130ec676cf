/* SPDX-License-Identifier: Apache-2.0 */
#include "train/input.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static size_t power_up(size_t n)
{
	size_t p = 1;
	while (p < n)
		p *= 2;
	return p;
}

static size_t round_up(size_t n, size_t step)
{
	return (n + step - 1) / step * step;
}

static struct input_size exact_size(const struct batch *batch)
{
	struct input_size size = {.tokens = batch->tokens, .rows = batch->rows};
	for (size_t t = 0; t < batch->tokens; t++)
		size.labelled += batch->labels[t] >= 0;
	for (size_t row = 0; row < batch->rows; row++) {
		size_t length = batch->row_offsets[row + 1] - batch->row_offsets[row];
		size.longest = length > size.longest ? length : size.longest;
	}
	return size;
}

struct input_size input_padded(const struct batch *batch, size_t tokens, size_t positions)
{
	struct input_size size = exact_size(batch);
	if (size.tokens < size.rows * positions) {
		size_t step = power_up(size.tokens + 1) / 32; /* of the power of two below, a sixteenth */
		size_t padded = smaller(round_up(size.tokens, step > 16 ? step : 16), tokens);
		size.longest = smaller(power_up(size.longest), positions);
		size_t rows = size.rows + (padded - size.tokens + size.longest - 1) / size.longest;
		size.rows = smaller(power_up(rows), tokens);
		size.tokens = padded;
	}
	size.labelled = smaller(round_up(size.labelled, (size.tokens + 7) / 8), size.tokens);
	return size;
}

void input_init(struct input *in, const struct activations *a)
{
	*in = (struct input){.device = a->device, .activations = a};
	for (int i = 0; i < INPUT_SETS; i++) {
		struct input_set *s = &in->set[i];
		s->ids = must_calloc(a->tokens, sizeof *s->ids);
		s->positions = must_calloc(a->tokens, sizeof *s->positions);
		s->row_offsets = must_calloc(a->tokens + 1, sizeof *s->row_offsets);
		s->labelled = must_calloc(a->tokens, sizeof *s->labelled);
		s->labels = must_calloc(a->tokens, sizeof *s->labels);
	}
}

void input_fini(struct input *in)
{
	for (int i = 0; i < INPUT_SETS; i++) {
		struct input_set *s = &in->set[i];
		free(s->ids);
		free(s->positions);
		free(s->row_offsets);
		free(s->labelled);
		free(s->labels);
	}
	memset(in, 0, sizeof *in);
}

/* The batch, and behind it rows of padding as long as may be, then empty ones. */
static void pad(struct input_set *s, const struct batch *batch, const struct input_size *size)
{
	memcpy(s->ids, batch->ids, batch->tokens * sizeof *s->ids);
	memcpy(s->labels, batch->labels, batch->tokens * sizeof *s->labels);
	memcpy(s->row_offsets, batch->row_offsets, (batch->rows + 1) * sizeof *s->row_offsets);
	for (size_t t = batch->tokens; t < size->tokens; t++) {
		s->ids[t] = 0;
		s->labels[t] = -1;
	}
	for (size_t row = batch->rows; row < size->rows; row++)
		s->row_offsets[row + 1] = (uint32_t)smaller(s->row_offsets[row] + size->longest, size->tokens);
}

/* Each token's place in its row, and the tokens that have a label, behind which places stay empty. */
static void list(struct input_set *s, const struct input_size *size)
{
	size_t count = 0;
	for (size_t row = 0; row < size->rows; row++)
		for (uint32_t t = s->row_offsets[row]; t < s->row_offsets[row + 1]; t++) {
			s->positions[t] = t - s->row_offsets[row];
			if (s->labels[t] >= 0)
				s->labelled[count++] = t;
		}
	while (count < size->labelled)
		s->labelled[count++] = UINT32_MAX;
}

void input_upload(struct input *in, const struct batch *batch, const struct input_size *size, float gradient_scale,
	const uint64_t *dropout_at, struct tokens *all, struct tokens *labelled)
{
	const struct activations *a = in->activations;
	const struct device_ops *ops = in->device->ops;
	struct input_size own = exact_size(batch);
	size = size ? size : &own;
	if (in->waiting == INPUT_SETS) {
		device_sync(in->device, NULL);
		in->waiting = 0;
	}
	struct input_set *s = &in->set[in->waiting++];
	s->gradient_scale = gradient_scale;
	pad(s, batch, size);
	list(s, size);
	ops->upload(in->device, a->gradient_scale, &s->gradient_scale, sizeof s->gradient_scale);
	if (a->dropout_at && dropout_at) {
		memcpy(s->dropout_at, dropout_at, sizeof s->dropout_at);
		ops->upload(in->device, a->dropout_at, s->dropout_at, sizeof s->dropout_at);
	}
	ops->upload(in->device, a->ids, s->ids, size->tokens * sizeof *s->ids);
	ops->upload(in->device, a->labels, s->labels, size->tokens * sizeof *s->labels);
	ops->upload(in->device, a->row_offsets, s->row_offsets, (size->rows + 1) * sizeof *s->row_offsets);
	ops->upload(in->device, a->positions_of, s->positions, size->tokens * sizeof *s->positions);
	ops->upload(in->device, a->labelled, s->labelled, size->labelled * sizeof *s->labelled);
	*all = (struct tokens){
		.count = size->tokens, .row_offsets = a->row_offsets, .rows = size->rows, .longest = size->longest};
	*labelled = *all;
	labelled->index = a->labelled;
	labelled->index_count = size->labelled;
}

void input_arrived(struct input *in)
{
	in->waiting = 0;
}
