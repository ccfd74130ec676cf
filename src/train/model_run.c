/* SPDX-License-Identifier: Apache-2.0 */
/* What is done with a model: batches are differentiated, recorded where the device records, and evaluated; a text is
 * continued. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "train/model_pass.h"

/* Streams of one step's dropout: groups of all layers. */
#define DROPOUT_STEP ((uint64_t)1 << 16)

uint32_t model_dropout_keep(double share)
{
	return share > 0 ? (uint32_t)lround((1 - share) * DROPOUT_ALL) : 0;
}

int model_open(struct model *m, struct device *d, const struct weights *weights, const struct lora_layout *layout,
	const struct model_options *options, struct fault *f)
{
	*m = (struct model){.device = d, .weights = weights, .layout = layout, .variants = options->variants};
	m->dropout.keep = model_dropout_keep(options->dropout);
	m->dropout.seed = options->dropout_seed;
	struct activations_plan plan = {.use = options->use,
		.mode = options->memory,
		.tokens = options->micro_tokens,
		.positions = options->positions,
		.dropout = m->dropout.keep};
	int rc = activations_plan(&m->activations, d, &weights->shape, layout, &plan, f);
	if (!rc) {
		input_init(&m->input, &m->activations);
		m->positions = must_calloc(options->micro_tokens, sizeof *m->positions);
	}
	return rc;
}

void model_close(struct model *m)
{
	activations_free(&m->activations);
	input_fini(&m->input);
	free(m->positions);
	memset(m, 0, sizeof *m);
}

void model_begin_step(struct model *m, uint64_t step)
{
	m->dropout_at[0] = step * DROPOUT_STEP;
	m->dropout_at[1] = 0;
}

void model_reset_loss(struct model *m)
{
	m->device->ops->zero(m->device, m->activations.loss, sizeof(double));
}

int model_read_loss(struct model *m, double *sum, struct fault *f)
{
	m->device->ops->download(m->device, sum, m->activations.loss, sizeof *sum);
	int rc = device_sync(m->device, f);
	input_arrived(&m->input);
	return rc;
}

static uint64_t hash_bytes_in(uint64_t h, const void *data, size_t size)
{
	const unsigned char *bytes = data;
	for (size_t i = 0; i < size; i++)
		h = (h ^ bytes[i]) * 1099511628211u; /* FNV-1a */
	return h;
}

/* All that the operations of a step get from the host: sizes, orders of the products, and where things lie. */
static uint64_t recording_key(const struct model *m, const struct pass *p, size_t labelled)
{
	const struct activations *a = &m->activations;
	const void *places[] = {a->memory, a->host, m->weights->blocks, m->layout, p->adapter, p->gradient};
	const size_t sizes[] = {p->tokens.count, p->tokens.rows, p->tokens.longest, labelled, (size_t)a->mode,
		a->tokens, a->positions, m->dropout.keep};
	uint64_t h = hash_bytes_in(14695981039346656037u, places, sizeof places);
	h = hash_bytes_in(h, sizes, sizeof sizes);
	h = hash_bytes_in(h, m->layout->hash, sizeof m->layout->hash);
	for (enum variants_group group = 0; group < VARIANTS_GROUPS; group++)
		for (int dx = 0; dx < 2; dx++) {
			struct variants_choice c = variants_at(m->variants, group, p->tokens.count, dx);
			const int words[] = {(int)c.forward, (int)c.backward, c.s};
			h = hash_bytes_in(h, words, sizeof words);
		}
	return h;
}

/* Forward, loss, backward: nothing in it depends on what the batch holds beside its size. */
static void differentiate(struct model *m, const struct pass *p, const struct tokens *labelled)
{
	struct activations *a = &m->activations;
	struct cross_entropy loss = {.labels = a->labels,
		.gradient_scale = a->gradient_scale,
		.softcap = m->weights->shape.logit_softcap,
		.sum = a->loss};
	pass_forward(m, p);
	m->device->ops->cross_entropy(m->device, &loss, labelled, a->normed, m->weights->head, a->normed);
	pass_backward(m, p);
}

void model_differentiate(
	struct model *m, const struct batch *batch, const float *adapter, float *gradient, float gradient_scale)
{
	struct device *d = m->device;
	struct pass p = {.adapter = adapter, .gradient = gradient};
	struct tokens labelled;
	const uint64_t at[] = {m->dropout_at[0], m->dropout_at[1]};
	m->dropout_at[1] += batch->tokens;
	if (!d->records) {
		input_upload(&m->input, batch, NULL, gradient_scale, at, &p.tokens, &labelled);
		differentiate(m, &p, &labelled);
		return;
	}
	struct input_size size = input_padded(batch, m->activations.tokens, m->activations.positions);
	input_upload(&m->input, batch, &size, gradient_scale, at, &p.tokens, &labelled);
	uint64_t key = recording_key(m, &p, size.labelled);
	if (d->ops->replay(d, key))
		return;
	d->ops->record(d, key);
	differentiate(m, &p, &labelled);
	d->ops->record_end(d);
}

void model_evaluate(struct model *m, const struct batch *batch, const float *adapter, uint8_t *correct)
{
	struct activations *a = &m->activations;
	struct pass p = {.adapter = adapter};
	struct cross_entropy loss = {.labels = a->labels,
		.softcap = m->weights->shape.logit_softcap,
		.sum = a->loss,
		.correct = correct ? a->correct : NULL};
	struct tokens labelled;
	input_upload(&m->input, batch, NULL, 0, NULL, &p.tokens, &labelled);
	pass_forward(m, &p);
	m->device->ops->cross_entropy(m->device, &loss, &labelled, a->normed, m->weights->head, NULL);
	if (correct)
		m->device->ops->download(m->device, correct, a->correct, batch->tokens);
}

/* Appends n tokens (at most activations.tokens) to the cache; normed then holds their final hidden states. */
static void extend(struct model *m, const uint32_t *ids, size_t n, const float *adapter)
{
	struct activations *a = &m->activations;
	const struct device_ops *ops = m->device->ops;
	struct pass p = {
		.tokens = {.count = n, .row_offsets = a->row_offsets, .rows = 1, .longest = n},
		.adapter = adapter,
		.past = m->cached,
	};
	uint32_t offsets[2] = {0, (uint32_t)n}, kv_offsets[2] = {0, (uint32_t)(m->cached + n)};
	for (size_t i = 0; i < n; i++)
		m->positions[i] = (uint32_t)(m->cached + i);
	ops->upload(m->device, a->ids, ids, n * sizeof *ids);
	ops->upload(m->device, a->positions_of, m->positions, n * sizeof *m->positions);
	ops->upload(m->device, a->row_offsets, offsets, sizeof offsets);
	ops->upload(m->device, a->kv_offsets, kv_offsets, sizeof kv_offsets);
	device_sync(m->device, NULL);
	pass_forward(m, &p);
	m->cached += n;
}

int model_continue(struct model *m, const uint32_t *ids, size_t n, const float *adapter, float *logits, struct fault *f)
{
	struct activations *a = &m->activations;
	if (!n || n > a->positions - m->cached)
		return fault_set(f, SAKIORI_ELIMIT, "the text would have %zu tokens; there is room for %zu",
			m->cached + n, a->positions);
	size_t last = 0;
	for (size_t at = 0; at < n; at += last) {
		last = n - at < a->tokens ? n - at : a->tokens;
		extend(m, ids + at, last, adapter);
	}
	const struct model_shape *shape = &m->weights->shape;
	const void *hidden = act_at(m->device, a->normed, (last - 1) * shape->hidden);
	m->device->ops->head_logits(m->device, 1, hidden, m->weights->head, a->logits);
	m->device->ops->download(m->device, logits, a->logits, shape->vocabulary * sizeof *logits);
	float cap = shape->logit_softcap;
	for (size_t i = 0; cap > 0 && i < shape->vocabulary; i++)
		logits[i] = cap * tanhf(logits[i] / cap);
	return device_sync(m->device, f);
}

void model_forget(struct model *m)
{
	m->cached = 0;
}
