/* SPDX-License-Identifier: Apache-2.0 */
#include "train/activations.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* What the walk over all buffers needs to know. */
struct walk {
	const struct model_shape *shape;
	const struct lora_layout *layout;
	size_t act; /* bytes of an activation */
	bool joins; /* as struct device */
	bool dropout;
	size_t layers;
};

/* Cuts `n` elements off the plan. The first walk, with memory NULL, only counts bytes; the second hands out pointers.
 */
static void *take(struct activations *a, size_t n, size_t element)
{
	size_t at = a->bytes;
	a->bytes += (n * element + 255) / 256 * 256;
	return a->memory ? (char *)a->memory + at : NULL;
}

static size_t query_of(const struct model_shape *shape)
{
	return (size_t)shape->heads * shape->head_size;
}

static size_t qkv_of(const struct model_shape *shape)
{
	return query_of(shape) + 2 * (size_t)shape->kv_heads * shape->head_size;
}

static size_t larger(size_t x, size_t y)
{
	return x > y ? x : y;
}

static void place_gate_up(struct activations *a, const struct walk *w, struct saved *saved)
{
	saved->gate_up = take(a, a->tokens * 2 * w->shape->intermediate, w->act);
	if (a->use == ACTIVATIONS_TRAIN)
		saved->s[VARIANTS_GATE_UP] = take(a, a->tokens * variants_ranks(w->layout, VARIANTS_GATE_UP), w->act);
}

/* What attention leaves behind and all else of the layer but gate and up. */
static void place_inner(struct activations *a, const struct walk *w, struct saved *saved)
{
	size_t n = a->tokens, kept = a->use == ACTIVATIONS_GENERATE ? a->positions : n;
	saved->qkv = take(a, kept * qkv_of(w->shape), w->act);
	saved->attended = take(a, n * query_of(w->shape), w->act);
	saved->log_sum_exp = take(a, n * w->shape->heads, sizeof(float));
	saved->middle = take(a, n * w->shape->hidden, w->act);
	if (w->shape->post_norms) {
		saved->attention_out = take(a, n * w->shape->hidden, w->act);
		saved->attention_out_rms = take(a, n, sizeof(float));
	}
	static const enum variants_group groups[] = {VARIANTS_QKV, VARIANTS_O};
	for (size_t i = 0; a->use == ACTIVATIONS_TRAIN && i < 2; i++)
		saved->s[groups[i]] = take(a, n * variants_ranks(w->layout, groups[i]), w->act);
}

/* What no mode computes again: the last product of a layer is none of its backward's, and where a norm's backward reads it, it is kept. */
static void place_ends(struct activations *a, const struct walk *w, struct saved *saved)
{
	saved->residual = take(a, a->tokens * w->shape->hidden, w->act);
	if (a->use == ACTIVATIONS_TRAIN)
		saved->s[VARIANTS_DOWN] = take(a, a->tokens * variants_ranks(w->layout, VARIANTS_DOWN), w->act);
	if (w->shape->post_norms) {
		saved->mlp_out = take(a, a->tokens * w->shape->hidden, w->act);
		saved->mlp_out_rms = take(a, a->tokens, sizeof(float));
	}
}

/* Layers that share all, and keep only keys and values when they generate. */
static void place_shared_layers(struct activations *a, const struct walk *w)
{
	struct saved first = {0};
	place_ends(a, w, &first);
	place_inner(a, w, &first);
	place_gate_up(a, w, &first);
	for (size_t layer = 0; layer < w->layers; layer++) {
		a->layers[layer] = first;
		if (layer > 0 && a->use == ACTIVATIONS_GENERATE)
			a->layers[layer].qkv = take(a, a->positions * qkv_of(w->shape), w->act);
	}
}

static void share(struct saved *to, const struct saved *from, bool inner)
{
	to->gate_up = from->gate_up;
	to->s[VARIANTS_GATE_UP] = from->s[VARIANTS_GATE_UP];
	if (!inner)
		return;
	to->qkv = from->qkv;
	to->attended = from->attended;
	to->log_sum_exp = from->log_sum_exp;
	to->middle = from->middle;
	to->attention_out = from->attention_out;
	to->attention_out_rms = from->attention_out_rms;
	to->s[VARIANTS_QKV] = from->s[VARIANTS_QKV];
	to->s[VARIANTS_O] = from->s[VARIANTS_O];
}

static void place_trained_layers(struct activations *a, const struct walk *w)
{
	struct saved shared = {0};
	size_t begin = a->bytes,
	       own = memory_mode_offloads(a->mode) && w->layers > ACTIVATIONS_TURNS ? ACTIVATIONS_TURNS : w->layers;
	for (size_t layer = 0; layer < own; layer++) {
		struct saved *saved = &a->layers[layer];
		place_ends(a, w, saved);
		if (!memory_mode_blocks(a->mode))
			place_inner(a, w, saved);
		if (a->mode == MEMORY_KEEP)
			place_gate_up(a, w, saved);
		if (layer == 0)
			a->parts.layer = a->bytes - begin;
	}
	a->parts.kept = a->bytes - begin;
	a->parts.offloaded = (w->layers - own) * a->parts.layer;
	if (memory_mode_blocks(a->mode))
		place_inner(a, w, &shared);
	if (a->mode != MEMORY_KEEP)
		place_gate_up(a, w, &shared);
	for (size_t layer = 0; layer < w->layers; layer++) {
		struct saved *saved = &a->layers[layer];
		if (layer >= own)
			*saved = a->layers[layer % own];
		/* The last ones still lie on the device when the backward begins. */
		saved->host = a->host && layer < w->layers - own ? (char *)a->host + layer * a->parts.layer : NULL;
		if (a->mode != MEMORY_KEEP)
			share(saved, &shared, memory_mode_blocks(a->mode));
	}
}

static void place_batch(struct activations *a, const struct walk *w)
{
	size_t n = a->tokens, rotations = a->positions * (w->shape->head_size / 2);
	a->ids = take(a, n, sizeof *a->ids);
	a->positions_of = take(a, n, sizeof *a->positions_of);
	a->row_offsets = take(a, n + 1, sizeof *a->row_offsets);
	a->labels = take(a, n, sizeof *a->labels);
	a->labelled = take(a, n, sizeof *a->labelled);
	a->gradient_scale = take(a, 1, sizeof *a->gradient_scale);
	a->correct = take(a, n, sizeof *a->correct);
	a->loss = take(a, 1, sizeof *a->loss);
	a->cosine = take(a, rotations, sizeof *a->cosine);
	a->sine = take(a, rotations, sizeof *a->sine);
	if (a->use == ACTIVATIONS_GENERATE) {
		a->kv_offsets = take(a, 2, sizeof *a->kv_offsets);
		a->logits = take(a, w->shape->vocabulary, sizeof *a->logits);
	}
}

/* The two groups that read normed take turns with its room. */
static size_t normed_room(const struct walk *w)
{
	size_t qkv = variants_group_room(w->layout, VARIANTS_QKV);
	return w->joins ? larger(qkv, variants_group_room(w->layout, VARIANTS_GATE_UP)) : 0;
}

static size_t most_ranks(const struct walk *w)
{
	size_t most = 0;
	for (enum variants_group group = 0; group < VARIANTS_GROUPS; group++)
		most = larger(most, variants_ranks(w->layout, group));
	return most;
}

static void place_dropout(struct activations *a, const struct walk *w)
{
	const struct model_shape *shape = w->shape;
	size_t widest = larger(larger(shape->hidden, query_of(shape)), shape->intermediate);
	a->dropped = take(a, a->tokens * widest, w->act);
	a->dropout_at = take(a, 2, sizeof *a->dropout_at);
}

static void place_all(struct activations *a, const struct walk *w)
{
	const struct model_shape *shape = w->shape;
	size_t n = a->tokens;
	a->bytes = 0;
	if (a->use == ACTIVATIONS_TRAIN)
		place_trained_layers(a, w);
	else
		place_shared_layers(a, w);
	a->residual_out = take(a, n * shape->hidden, w->act);
	a->inverse_rms = take(a, n, sizeof(float));
	a->normed_stride = shape->hidden + normed_room(w);
	a->normed = take(a, n * a->normed_stride, w->act);
	a->delta = take(a, n * larger(shape->hidden, query_of(shape)), w->act);
	a->h_stride = shape->intermediate + (w->joins ? variants_group_room(w->layout, VARIANTS_DOWN) : 0);
	a->h = take(a, n * larger(a->h_stride, qkv_of(shape)), w->act);
	if (a->use == ACTIVATIONS_TRAIN) {
		a->d_residual = take(a, n * shape->hidden, w->act);
		a->ds = take(a, n * (w->dropout ? most_ranks(w) : variants_ranks(w->layout, VARIANTS_DOWN)), w->act);
		if (w->dropout)
			place_dropout(a, w);
	}
	if (shape->scaled_embedding)
		a->embedded = take(a, n * shape->hidden, sizeof(float));
	if (a->use == ACTIVATIONS_TRAIN && shape->head_norms) {
		a->turned = take(a, n * qkv_of(shape), w->act);
		a->query_inverse_rms = take(a, n * shape->heads, sizeof(float));
		a->key_inverse_rms = take(a, n * shape->kv_heads, sizeof(float));
	}
	place_batch(a, w);
	a->parts.shared = a->bytes - a->parts.kept;
}

static const struct lora_layout no_adapter;

void activations_count(const struct model_shape *shape, const struct lora_layout *layout, size_t act_size, bool joins,
	const struct activations_plan *plan, struct activations_bytes *out)
{
	struct walk w = {.shape = shape,
		.layout = layout ? layout : &no_adapter,
		.act = act_size,
		.joins = joins,
		.dropout = plan->dropout,
		.layers = shape->layers};
	struct activations a = {
		.use = plan->use, .mode = plan->mode, .tokens = plan->tokens, .positions = plan->positions};
	a.layers = must_calloc(shape->layers, sizeof *a.layers);
	place_all(&a, &w);
	*out = a.parts;
	free(a.layers);
}

/* Angle of pair i at position p: p * theta^(-2i / head_size) / factor i, as Hugging Face's rotary embedding. */
static void fill_rotations(struct activations *a, const struct model_shape *shape)
{
	size_t half = shape->head_size / 2, n = a->positions * half;
	float *cosine = must_calloc(n, sizeof *cosine), *sine = must_calloc(n, sizeof *sine);
	for (size_t i = 0; i < half; i++) {
		double frequency = pow((double)shape->rope_theta, -2.0 * (double)i / (double)shape->head_size) /
				   (double)shape->rope_factors[i];
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
	const struct lora_layout *layout, const struct activations_plan *plan, struct fault *f)
{
	struct walk w = {.shape = shape,
		.layout = layout ? layout : &no_adapter,
		.act = d->act_size,
		.joins = d->joins,
		.dropout = plan->dropout,
		.layers = shape->layers};
	*a = (struct activations){.device = d,
		.use = plan->use,
		.mode = plan->mode,
		.tokens = plan->tokens,
		.positions = plan->positions};
	a->layers = must_calloc(shape->layers, sizeof *a->layers);
	place_all(a, &w);
	a->memory = d->ops->alloc(d, a->bytes);
	if (a->parts.offloaded)
		a->host = d->ops->host_alloc(d, a->parts.offloaded);
	int rc = device_sync(d, f);
	if (rc) {
		fault_wrap(
			f, "%.1f MiB of activations for %zu tokens at once", (double)a->bytes / 0x1p20, plan->tokens);
		activations_free(a);
		return rc;
	}
	place_all(a, &w);
	fill_rotations(a, shape);
	rc = device_sync(d, f);
	if (rc)
		activations_free(a);
	return rc;
}

void activations_free(struct activations *a)
{
	if (a->device) {
		a->device->ops->release(a->device, a->memory);
		a->device->ops->host_release(a->device, a->host);
	}
	free(a->layers);
	memset(a, 0, sizeof *a);
}

/* A layer's turn is also the slot of its copies. */
static unsigned turn(size_t layer)
{
	return (unsigned)(layer % ACTIVATIONS_TURNS);
}

void activations_open_layer(struct activations *a, size_t layer)
{
	if (a->host && layer >= ACTIVATIONS_TURNS)
		a->device->ops->copy_wait(a->device, turn(layer));
}

void activations_keep_layer(struct activations *a, size_t layer)
{
	const struct saved *saved = &a->layers[layer];
	if (saved->host)
		a->device->ops->send(a->device, turn(layer), saved->host, saved->residual, a->parts.layer);
}

void activations_recall_layer(struct activations *a, size_t layer)
{
	if (a->layers[layer].host)
		a->device->ops->copy_wait(a->device, turn(layer));
}

void activations_drop_layer(struct activations *a, size_t layer)
{
	if (!a->host || layer < ACTIVATIONS_TURNS)
		return;
	const struct saved *next = &a->layers[layer - ACTIVATIONS_TURNS];
	a->device->ops->fetch(a->device, turn(layer), next->residual, next->host, a->parts.layer);
}
