/* SPDX-License-Identifier: Apache-2.0 */
/* The maths of a Llama decoder with low-rank adapters, forward and backward, over the table of operations in compute.h.
 * Each layer: x += Wo attention(rope(Wq n), rope(Wk n), Wv n) with n = norm(x); x += Wdown (silu(Wgate m) * Wup m) with
 * m = norm(x). Only the adapters get gradients: frozen weights only pass them on, and nothing passes below the lowest
 * adapter. */
#include "train/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* One run over some tokens. */
struct pass {
	struct tokens tokens;
	const float *adapter; /* NULL: base model alone */
	float *gradient;      /* NULL: nobody differentiates */
	size_t past;          /* generating: tokens before these, in the cache */
};

/* The description of linears first .. first+count-1 of a layer. */
static void describe(const struct model *m, const struct pass *p, size_t layer, enum lora_target first, size_t count,
	struct lora_linear *out)
{
	for (size_t i = 0; i < count; i++) {
		enum lora_target target = first + (enum lora_target)i;
		const struct lora_entry *e = p->adapter ? lora_find(m->layout, layer, target) : NULL;
		out[i] = (struct lora_linear){.weight = m->weights->blocks[layer].linear[target]};
		if (!e)
			continue;
		out[i].a = p->adapter + e->a;
		out[i].b = p->adapter + e->b;
		out[i].rank = e->rank;
		out[i].scale = lora_scale(m->layout);
		if (p->gradient) {
			out[i].s = m->activations.layers[layer].s[target];
			out[i].grad_a = p->gradient + e->a;
			out[i].grad_b = p->gradient + e->b;
		}
	}
}

static struct attention attention_of(const struct model *m)
{
	const struct model_shape *shape = &m->weights->shape;
	return (struct attention){
		.heads = shape->heads,
		.kv_heads = shape->kv_heads,
		.head_dim = shape->head_size,
		.mask = MASK_CAUSAL,
		.scale = 1.0f / sqrtf((float)shape->head_size),
		.q_stride = (size_t)shape->heads * shape->head_size,
		.kv_stride = (size_t)shape->kv_heads * shape->head_size,
		.kv_offsets = m->activations.kv_offsets,
	};
}

static struct rope rope_of(const struct model *m)
{
	const struct activations *a = &m->activations;
	return (struct rope){
		.cosine = a->cosine,
		.sine = a->sine,
		.half = m->weights->shape.head_size / 2,
		.head_dim = m->weights->shape.head_size,
	};
}

/* y = norm(x) * weight, x being kept where it is. */
static void norm(struct model *m, size_t n, const void *x, const float *weight)
{
	struct activations *a = &m->activations;
	const struct model_shape *shape = &m->weights->shape;
	m->device->ops->norm_forward(m->device, NORM_RMS, n, shape->hidden, x, NULL, NULL, weight, shape->norm_epsilon,
		a->normed, a->inverse_rms);
}

/* sum = x + delta; normed = norm(sum) * weight. */
static void add_and_norm(struct model *m, size_t n, const void *x, void *sum, const float *weight)
{
	struct activations *a = &m->activations;
	const struct model_shape *shape = &m->weights->shape;
	m->device->ops->norm_forward(m->device, NORM_RMS, n, shape->hidden, x, a->delta, sum, weight,
		shape->norm_epsilon, a->normed, a->inverse_rms);
}

/* normed -> delta = what attention adds to the residual stream. */
static void attention_forward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	struct attention attention = attention_of(m);
	struct rope rope = rope_of(m);
	size_t n = p->tokens.count;
	void *k = act_at(d, saved->k, p->past * attention.kv_stride);
	void *v = act_at(d, saved->v, p->past * attention.kv_stride);

	struct lora_linear qkv[3], o;
	describe(m, p, layer, LORA_Q, 3, qkv);
	qkv[0].y = saved->q;
	qkv[1].y = k;
	qkv[2].y = v;
	d->ops->lora_forward(d, &p->tokens, a->normed, qkv, 3);
	d->ops->rope_forward(d, &rope, n, a->positions_of, saved->q, attention.heads, attention.q_stride);
	d->ops->rope_forward(d, &rope, n, a->positions_of, k, attention.kv_heads, attention.kv_stride);
	d->ops->attention_forward(d, &attention, &p->tokens, saved->q, saved->k, saved->v, saved->attended,
		p->gradient ? saved->log_sum_exp : NULL);
	describe(m, p, layer, LORA_O, 1, &o);
	o.y = a->delta;
	d->ops->lora_forward(d, &p->tokens, saved->attended, &o, 1);
}

/* normed -> delta = what the MLP adds to the residual stream. */
static void mlp_forward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	struct lora_linear gate_up[2], down;
	describe(m, p, layer, LORA_GATE, 2, gate_up);
	gate_up[0].y = saved->gate;
	gate_up[1].y = saved->up;
	d->ops->lora_forward(d, &p->tokens, a->normed, gate_up, 2);
	d->ops->activation_forward(
		d, ACTIVATION_SWIGLU, p->tokens.count * m->weights->shape.intermediate, saved->gate, saved->up, a->h);
	describe(m, p, layer, LORA_DOWN, 1, &down);
	down.y = a->delta;
	d->ops->lora_forward(d, &p->tokens, a->h, &down, 1);
}

/* ids -> normed = the final norm's output, residual_out before it. */
static void forward(struct model *m, const struct pass *p)
{
	struct activations *a = &m->activations;
	const struct weights *w = m->weights;
	size_t n = p->tokens.count, last = w->shape.layers - 1;
	m->device->ops->embedding(m->device, n, a->ids, w->embedding, a->layers[0].residual);
	for (size_t layer = 0; layer <= last; layer++) {
		const struct block_weights *block = &w->blocks[layer];
		struct saved *saved = &a->layers[layer];
		if (layer == 0)
			norm(m, n, saved->residual, block->input_norm);
		else
			add_and_norm(m, n, a->layers[layer - 1].middle, saved->residual, block->input_norm);
		attention_forward(m, p, layer);
		add_and_norm(m, n, saved->residual, saved->middle, block->attention_norm);
		mlp_forward(m, p, layer);
	}
	add_and_norm(m, n, a->layers[last].middle, a->residual_out, w->final_norm);
}

/* d_residual holds the gradient of the layer's output; it becomes that of the stream before the MLP. below: something
 * under the MLP's inner product still wants a gradient. */
static void mlp_backward(struct model *m, const struct pass *p, size_t layer, enum lora_target lowest)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	const struct model_shape *shape = &m->weights->shape;
	size_t n = p->tokens.count, inner = n * shape->intermediate;
	struct lora_linear down, gate_up[2];

	d->ops->activation_forward(d, ACTIVATION_SWIGLU, inner, saved->gate, saved->up, a->h);
	describe(m, p, layer, LORA_DOWN, 1, &down);
	down.dy = a->d_residual;
	d->ops->lora_backward(d, &p->tokens, a->h, &down, 1, lowest < LORA_DOWN ? a->d_h : NULL, false, NULL);
	if (lowest >= LORA_DOWN)
		return;
	d->ops->activation_backward(d, ACTIVATION_SWIGLU, inner, a->d_h, saved->gate, saved->up, NULL);
	norm(m, n, saved->middle, m->weights->blocks[layer].attention_norm);
	describe(m, p, layer, LORA_GATE, 2, gate_up);
	gate_up[0].dy = saved->gate;
	gate_up[1].dy = saved->up;
	d->ops->lora_backward(d, &p->tokens, a->normed, gate_up, 2, lowest < LORA_GATE ? a->delta : NULL, false, NULL);
	if (lowest >= LORA_GATE)
		return;
	d->ops->norm_backward(d, NORM_RMS, n, shape->hidden, a->delta, saved->middle,
		m->weights->blocks[layer].attention_norm, a->inverse_rms, a->d_residual);
}

/* d_residual: from the gradient of the stream after attention to that of the stream before it. */
static void attention_backward(struct model *m, const struct pass *p, size_t layer, enum lora_target lowest, bool below)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	const struct model_shape *shape = &m->weights->shape;
	struct attention attention = attention_of(m);
	struct rope rope = rope_of(m);
	size_t n = p->tokens.count;
	struct lora_linear o, qkv[3];

	describe(m, p, layer, LORA_O, 1, &o);
	o.dy = a->d_residual;
	d->ops->lora_backward(
		d, &p->tokens, saved->attended, &o, 1, lowest < LORA_O ? a->d_attended : NULL, false, NULL);
	if (lowest >= LORA_O)
		return;
	d->ops->attention_backward(d, &attention, &p->tokens, saved->q, saved->k, saved->v, saved->attended,
		saved->log_sum_exp, a->d_attended, a->d_q, a->d_k, a->d_v);
	d->ops->rope_backward(d, &rope, n, a->positions_of, a->d_q, attention.heads, attention.q_stride);
	d->ops->rope_backward(d, &rope, n, a->positions_of, a->d_k, attention.kv_heads, attention.kv_stride);
	norm(m, n, saved->residual, m->weights->blocks[layer].input_norm);
	describe(m, p, layer, LORA_Q, 3, qkv);
	qkv[0].dy = a->d_q;
	qkv[1].dy = a->d_k;
	qkv[2].dy = a->d_v;
	d->ops->lora_backward(d, &p->tokens, a->normed, qkv, 3, below ? a->delta : NULL, false, NULL);
	if (below)
		d->ops->norm_backward(d, NORM_RMS, n, shape->hidden, a->delta, saved->residual,
			m->weights->blocks[layer].input_norm, a->inverse_rms, a->d_residual);
}

/* normed holds the gradient of the final norm's output. */
static void backward(struct model *m, const struct pass *p)
{
	struct activations *a = &m->activations;
	const struct model_shape *shape = &m->weights->shape;
	size_t n = p->tokens.count;
	m->device->ops->zero(m->device, a->d_residual, n * shape->hidden * m->device->act_size);
	m->device->ops->norm_backward(m->device, NORM_RMS, n, shape->hidden, a->normed, a->residual_out,
		m->weights->final_norm, a->inverse_rms, a->d_residual);
	for (size_t layer = shape->layers; layer-- > 0;) {
		/* Above the first layer every gradient must go on down; in it only as far as its lowest adapter. */
		enum lora_target lowest = layer > 0 ? LORA_Q : (enum lora_target)__builtin_ctz(m->layout->targets);
		mlp_backward(m, p, layer, lowest);
		if (lowest < LORA_GATE)
			attention_backward(m, p, layer, lowest, layer > 0);
	}
}

int model_open(struct model *m, struct device *d, const struct weights *weights, const struct lora_layout *layout,
	enum activations_use use, size_t micro_tokens, size_t positions, struct fault *f)
{
	*m = (struct model){.device = d, .weights = weights, .layout = layout};
	int rc = activations_plan(&m->activations, d, &weights->shape, layout, use, micro_tokens, positions, f);
	if (!rc)
		m->positions = must_calloc(micro_tokens, sizeof *m->positions);
	return rc;
}

void model_close(struct model *m)
{
	activations_free(&m->activations);
	free(m->positions);
	memset(m, 0, sizeof *m);
}

void model_reset_loss(struct model *m)
{
	m->device->ops->zero(m->device, m->activations.loss, sizeof(double));
}

int model_read_loss(struct model *m, double *sum, struct fault *f)
{
	m->device->ops->download(m->device, sum, m->activations.loss, sizeof *sum);
	return device_sync(m->device, f);
}

/* Puts the batch on the device. */
static void upload(struct model *m, const struct batch *batch)
{
	struct activations *a = &m->activations;
	const struct device_ops *ops = m->device->ops;
	for (size_t row = 0; row < batch->rows; row++)
		for (uint32_t t = batch->row_offsets[row]; t < batch->row_offsets[row + 1]; t++)
			m->positions[t] = t - batch->row_offsets[row];
	ops->upload(m->device, a->ids, batch->ids, batch->tokens * sizeof *batch->ids);
	ops->upload(m->device, a->labels, batch->labels, batch->tokens * sizeof *batch->labels);
	ops->upload(m->device, a->row_offsets, batch->row_offsets, (batch->rows + 1) * sizeof *batch->row_offsets);
	ops->upload(m->device, a->positions_of, m->positions, batch->tokens * sizeof *m->positions);
	device_sync(m->device, NULL);
}

void model_differentiate(
	struct model *m, const struct batch *batch, const float *adapter, float *gradient, float gradient_scale)
{
	struct activations *a = &m->activations;
	struct pass p = {
		.tokens = {.count = batch->tokens, .row_offsets = a->row_offsets, .rows = batch->rows},
		.adapter = adapter,
		.gradient = gradient,
	};
	struct cross_entropy loss = {.labels = a->labels, .gradient_scale = gradient_scale, .sum = a->loss};
	upload(m, batch);
	forward(m, &p);
	m->device->ops->cross_entropy(m->device, &loss, &p.tokens, a->normed, m->weights->head, a->normed);
	backward(m, &p);
}

void model_evaluate(struct model *m, const struct batch *batch, const float *adapter, uint8_t *correct)
{
	struct activations *a = &m->activations;
	struct pass p = {
		.tokens = {.count = batch->tokens, .row_offsets = a->row_offsets, .rows = batch->rows},
		.adapter = adapter,
	};
	struct cross_entropy loss = {.labels = a->labels, .sum = a->loss, .correct = correct ? a->correct : NULL};
	upload(m, batch);
	forward(m, &p);
	m->device->ops->cross_entropy(m->device, &loss, &p.tokens, a->normed, m->weights->head, NULL);
	if (correct)
		m->device->ops->download(m->device, correct, a->correct, batch->tokens);
}

/* Appends n tokens (at most activations.tokens) to the cache; normed then holds their final hidden states. */
static void extend(struct model *m, const uint32_t *ids, size_t n, const float *adapter)
{
	struct activations *a = &m->activations;
	const struct device_ops *ops = m->device->ops;
	struct pass p = {
		.tokens = {.count = n, .row_offsets = a->row_offsets, .rows = 1},
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
	forward(m, &p);
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
	return device_sync(m->device, f);
}

void model_forget(struct model *m)
{
	m->cached = 0;
}
