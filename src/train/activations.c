/* SPDX-License-Identifier: Apache-2.0 */
#include "train/activations.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* Cuts `n` elements off the plan. The first walk, with memory NULL, only counts bytes; the second hands out pointers.
 */
static void *take(struct activations *a, size_t n, size_t element)
{
	size_t at = a->bytes;
	a->bytes += (n * element + 63) / 64 * 64;
	return a->memory ? (char *)a->memory + at : NULL;
}

static void place_layer(struct activations *a, const struct model_shape *shape, const struct lora_layout *layout,
	enum activations_use use, size_t layer)
{
	struct saved *saved = &a->layers[layer];
	size_t act = a->device->act_size, n = a->tokens;
	size_t query = (size_t)shape->heads * shape->head_size, key = (size_t)shape->kv_heads * shape->head_size;
	if (layer > 0 && use != ACTIVATIONS_TRAIN) {
		*saved = a->layers[0];
	} else {
		saved->residual = take(a, n * shape->hidden, act);
		saved->q = take(a, n * query, act);
		saved->attended = take(a, n * query, act);
		saved->log_sum_exp = take(a, n * shape->heads, sizeof(float));
		saved->middle = take(a, n * shape->hidden, act);
		saved->gate = take(a, n * shape->intermediate, act);
		saved->up = take(a, n * shape->intermediate, act);
	}
	if (layer == 0 || use != ACTIVATIONS_EVALUATE) {
		size_t kept = use == ACTIVATIONS_GENERATE ? a->positions : n;
		saved->k = take(a, kept * key, act);
		saved->v = take(a, kept * key, act);
	}
	for (enum lora_target target = 0; target < LORA_TARGETS; target++)
		saved->s[target] = use == ACTIVATIONS_TRAIN && lora_find(layout, layer, target)
					   ? take(a, n * layout->rank, act)
					   : NULL;
}

static void place_all(struct activations *a, const struct model_shape *shape, const struct lora_layout *layout,
	enum activations_use use)
{
	size_t act = a->device->act_size, n = a->tokens;
	size_t query = (size_t)shape->heads * shape->head_size, key = (size_t)shape->kv_heads * shape->head_size;
	size_t rotations = a->positions * (shape->head_size / 2);
	a->bytes = 0;
	for (size_t layer = 0; layer < shape->layers; layer++)
		place_layer(a, shape, layout, use, layer);
	a->residual_out = take(a, n * shape->hidden, act);
	a->inverse_rms = take(a, n, sizeof(float));
	a->normed = take(a, n * shape->hidden, act);
	a->delta = take(a, n * shape->hidden, act);
	a->h = take(a, n * shape->intermediate, act);
	if (use == ACTIVATIONS_TRAIN) {
		a->d_residual = take(a, n * shape->hidden, act);
		a->d_h = take(a, n * shape->intermediate, act);
		a->d_attended = take(a, n * query, act);
		a->d_q = take(a, n * query, act);
		a->d_k = take(a, n * key, act);
		a->d_v = take(a, n * key, act);
	}
	a->ids = take(a, n, sizeof *a->ids);
	a->positions_of = take(a, n, sizeof *a->positions_of);
	a->row_offsets = take(a, n + 1, sizeof *a->row_offsets);
	a->labels = take(a, n, sizeof *a->labels);
	a->correct = take(a, n, sizeof *a->correct);
	a->loss = take(a, 1, sizeof *a->loss);
	a->cosine = take(a, rotations, sizeof *a->cosine);
	a->sine = take(a, rotations, sizeof *a->sine);
	if (use == ACTIVATIONS_GENERATE) {
		a->kv_offsets = take(a, 2, sizeof *a->kv_offsets);
		a->logits = take(a, shape->vocabulary, sizeof *a->logits);
	}
}

/* Angle of pair i at position p: p * theta^(-2i / head_size), as Hugging Face's default rotary embedding. */
static void fill_rotations(struct activations *a, const struct model_shape *shape)
{
	size_t half = shape->head_size / 2, n = a->positions * half;
	float *cosine = must_calloc(n, sizeof *cosine), *sine = must_calloc(n, sizeof *sine);
	for (size_t i = 0; i < half; i++) {
		double frequency = pow((double)shape->rope_theta, -2.0 * (double)i / (double)shape->head_size);
		for (size_t p = 0; p < a->positions; p++) {
			cosine[p * half + i] = (float)cos((double)p * frequency);
			sine[p * half + i] = (float)sin((double)p * frequency);
		}
	}
	a->device->ops->upload(a->device, a->cosine, cosine, n * sizeof *cosine);
	a->device->ops->upload(a->device, a->sine, sine, n * sizeof *sine);
	device_sync(a->device, NULL);
	free(cosine);
	free(sine);
}

int activations_plan(struct activations *a, struct device *d, const struct model_shape *shape,
	const struct lora_layout *layout, enum activations_use use, size_t tokens, size_t positions, struct fault *f)
{
	static const struct lora_layout no_adapter;
	*a = (struct activations){.device = d, .tokens = tokens, .positions = positions};
	a->layers = must_calloc(shape->layers, sizeof *a->layers);
	place_all(a, shape, layout ? layout : &no_adapter, use);
	a->memory = d->ops->alloc(d, a->bytes);
	int rc = device_sync(d, f);
	if (rc) {
		fault_wrap(f, "%.1f MiB of activations for %zu tokens at once", (double)a->bytes / 0x1p20, tokens);
		activations_free(a);
		return rc;
	}
	place_all(a, shape, layout ? layout : &no_adapter, use);
	fill_rotations(a, shape);
	rc = device_sync(d, f);
	if (rc)
		activations_free(a);
	return rc;
}

void activations_free(struct activations *a)
{
	if (a->device && a->memory)
		a->device->ops->release(a->device, a->memory);
	free(a->layers);
	memset(a, 0, sizeof *a);
}
