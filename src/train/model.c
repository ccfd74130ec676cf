/* SPDX-License-Identifier: Apache-2.0 */
/* The maths of a decoder with low-rank adapters, forward and backward, over the table of operations in compute.h.
 * Each layer: x += Wo attention(rope(q), rope(k), v) with q, k, v = Wq n + bq, Wk n + bk, Wv n + bv and n = norm(x);
 * x += Wdown (silu(Wgate m) * Wup m) with m = norm(x). The shape says what of it an architecture has: biases, a norm of each
 * head of q and k before rope, a norm of what is added to x, layers whose attention sees a window, softcaps, gelu for silu. Only the adapters get gradients: frozen weights only
 * pass them on, and nothing passes below the lowest adapter. */
#include "train/model_pass.h"

#include <math.h>

/* Whether something below this group's input still wants a gradient. */
static bool passes_on(const struct model *m, size_t layer, enum variants_group group)
{
	enum lora_target first;
	variants_targets(group, &first);
	return layer > 0 || (m->layout && m->layout->settings.targets & ((1u << first) - 1));
}

/* The adapter of a group's linears, part by part. */
static void describe_parts(
	const struct model *m, const struct pass *p, size_t layer, enum variants_group group, struct lora_linear *out)
{
	enum lora_target first;
	size_t count = variants_targets(group, &first), ranks = 0;
	for (size_t i = 0; i < count; i++) {
		const struct lora_entry *e = lora_find(m->layout, layer, first + (enum lora_target)i);
		struct lora_part *part = &out->part[i];
		*part = (struct lora_part){.rows = lora_rows(&m->layout->widths, first + (enum lora_target)i)};
		if (!e)
			continue;
		part->a = p->adapter + e->a;
		part->b = p->adapter + e->b;
		part->rank = e->rank;
		part->scale = e->scale;
		part->grad_a = p->gradient ? p->gradient + e->a : NULL;
		part->grad_b = p->gradient ? p->gradient + e->b : NULL;
		ranks += e->rank;
	}
	out->parts = ranks ? count : 0;
}

static struct lora_linear describe(const struct model *m, const struct pass *p, size_t layer, enum variants_group group)
{
	const struct block_weights *block = &m->weights->blocks[layer];
	struct lora_linear linear = {
		.weight = block->linear[group], .bias = group == VARIANTS_QKV ? block->qkv_bias : NULL};
	if (group == VARIANTS_QKV || group == VARIANTS_GATE_UP)
		linear.x_stride = m->activations.normed_stride;
	else if (group == VARIANTS_DOWN)
		linear.x_stride = m->activations.h_stride;
	if (!p->adapter)
		return linear;
	describe_parts(m, p, layer, group, &linear);
	if (!p->gradient || !linear.parts)
		return linear;
	struct variants_choice choice = variants_at(m->variants, group, p->tokens.count, passes_on(m, layer, group));
	linear.forward = choice.forward;
	linear.backward = choice.backward;
	linear.s = choice.s ? m->activations.layers[layer].s[group] : NULL;
	linear.ds = group == VARIANTS_DOWN ? m->activations.ds : NULL; /* for lora_gradient_a */
	return linear;
}

/* ---- linears whose adapters read a dropped input ---- */

/* Which of Philox's streams are dropout's: first values and the order of the rows have those below. */
#define DROPOUT_STREAMS ((uint64_t)1 << 63)

static bool drops(const struct model *m, const struct pass *p, const struct lora_linear *linear)
{
	return p->gradient && linear->parts && m->dropout.keep;
}

static struct dropout dropout_of(const struct model *m, size_t layer, enum variants_group group)
{
	struct dropout r = m->dropout;
	r.stream = DROPOUT_STREAMS | (layer * VARIANTS_GROUPS + group);
	r.at = m->activations.dropout_at;
	return r;
}

static size_t inputs_of(const struct model *m, enum variants_group group)
{
	enum lora_target first;
	variants_targets(group, &first);
	return lora_cols(&m->layout->widths, first);
}

/* x, its tokens x_stride apart, -> dropped, dense. */
static void drop(
	struct model *m, const struct pass *p, size_t layer, enum variants_group group, const void *x, size_t x_stride)
{
	struct dropout r = dropout_of(m, layer, group);
	m->device->ops->dropout_forward(
		m->device, &r, p->tokens.count, inputs_of(m, group), x, x_stride, m->activations.dropped);
}

/* y of the layer. */
static void linear_forward(struct model *m, const struct pass *p, size_t layer, enum variants_group group,
	const void *x, struct lora_linear *linear)
{
	if (drops(m, p, linear)) {
		drop(m, p, layer, group, x, linear->x_stride);
		linear->adapter_x = m->activations.dropped;
	}
	m->device->ops->lora_forward(m->device, &p->tokens, x, linear);
}

/* dx and grad_b; the adapter's share of dx goes through its dropout, the base's does not. grad_a is left to linear_gradient_a. */
static void dropped_backward(struct model *m, const struct pass *p, size_t layer, enum variants_group group,
	struct lora_linear *linear, void *dx)
{
	struct dropout r = dropout_of(m, layer, group);
	linear->ds = m->activations.ds;
	linear->adapter_dx = m->activations.dropped;
	m->device->ops->lora_backward(m->device, &p->tokens, NULL, linear, dx, false, NULL);
	m->device->ops->dropout_backward(
		m->device, &r, p->tokens.count, inputs_of(m, group), m->activations.dropped, dx);
}

/* grad_a of a layer whose backward had no x yet. */
static void linear_gradient_a(struct model *m, const struct pass *p, size_t layer, enum variants_group group,
	const void *x, struct lora_linear *linear)
{
	if (drops(m, p, linear)) {
		drop(m, p, layer, group, x, linear->x_stride);
		x = m->activations.dropped;
		linear->x_stride = 0;
	}
	m->device->ops->lora_gradient_a(m->device, &p->tokens, x, linear);
}

/* The layer's gradients; dx NULL: not wanted. */
static void linear_backward(struct model *m, const struct pass *p, size_t layer, enum variants_group group,
	const void *x, struct lora_linear *linear, void *dx)
{
	bool dropped = drops(m, p, linear);
	if (dropped && dx) {
		dropped_backward(m, p, layer, group, linear, dx);
		linear_gradient_a(m, p, layer, group, x, linear);
		return;
	}
	if (dropped) {
		drop(m, p, layer, group, x, linear->x_stride);
		x = m->activations.dropped;
		linear->x_stride = 0;
	}
	m->device->ops->lora_backward(m->device, &p->tokens, x, linear, dx, false, NULL);
}

static size_t query_width(const struct model *m)
{
	return (size_t)m->weights->shape.heads * m->weights->shape.head_size;
}

static size_t key_width(const struct model *m)
{
	return (size_t)m->weights->shape.kv_heads * m->weights->shape.head_size;
}

/* Elements from token to token where q, k and v lie side by side. */
static size_t qkv_width(const struct model *m)
{
	return query_width(m) + 2 * key_width(m);
}

static struct attention attention_of(const struct model *m, size_t layer)
{
	const struct model_shape *shape = &m->weights->shape;
	return (struct attention){
		.heads = shape->heads,
		.kv_heads = shape->kv_heads,
		.head_dim = shape->head_size,
		.mask = shape->windowed[layer] ? MASK_WINDOW : MASK_CAUSAL,
		.window = shape->window,
		.scale = 1.0f / sqrtf(shape->query_scalar),
		.softcap = shape->score_softcap,
		.q_stride = qkv_width(m),
		.kv_stride = qkv_width(m),
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

/* The linear that reads x next, x being written by the operation that follows. */
static void next_reader(struct model *m, const void *x, size_t layer, enum variants_group group, enum weight_use use)
{
	m->device->ops->next_reader(m->device, x, m->weights->blocks[layer].linear[group], use);
}

/* normed = norm(x) * weight for a linear to read, x being kept where it is. */
static void norm(struct model *m, size_t n, const void *x, const float *weight)
{
	struct activations *a = &m->activations;
	const struct model_shape *shape = &m->weights->shape;
	m->device->ops->norm_forward(m->device, NORM_RMS, n, shape->hidden, x, NULL, NULL, weight, shape->norm_epsilon,
		a->normed, a->normed_stride, a->inverse_rms);
}

/* sum = x + delta; normed = norm(sum) * weight, its tokens stride apart. */
static void add_and_norm(struct model *m, size_t n, const void *x, void *sum, const float *weight, size_t stride)
{
	struct activations *a = &m->activations;
	const struct model_shape *shape = &m->weights->shape;
	m->device->ops->norm_forward(m->device, NORM_RMS, n, shape->hidden, x, a->delta, sum, weight,
		shape->norm_epsilon, a->normed, stride, a->inverse_rms);
}

/* Where q and k lie once they are turned: in their place, or, where heads are normalized and the backward wants them as they were,
 * beside it. */
static void *turned_of(const struct model *m, const struct pass *p, size_t layer)
{
	const struct activations *a = &m->activations;
	return m->weights->shape.head_norms && p->gradient ? a->turned : a->layers[layer].qkv;
}

/* turned = each head of q and k, normalized. */
static void norm_heads(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	const struct activations *a = &m->activations;
	const struct block_weights *block = &m->weights->blocks[layer];
	const struct model_shape *s = &m->weights->shape;
	size_t n = p->tokens.count, width = qkv_width(m), q = p->past * width, k = q + query_width(m);
	const void *from = a->layers[layer].qkv;
	void *to = turned_of(m, p, layer);
	d->ops->head_norm_forward(d, NORM_RMS, n, s->heads, s->head_size, act_at(d, from, q), width, block->query_norm,
		s->norm_epsilon, act_at(d, to, q), width, p->gradient ? a->query_inverse_rms : NULL);
	d->ops->head_norm_forward(d, NORM_RMS, n, s->kv_heads, s->head_size, act_at(d, from, k), width, block->key_norm,
		s->norm_epsilon, act_at(d, to, k), width, p->gradient ? a->key_inverse_rms : NULL);
}

/* q and k as the linear put them out -> turned by their places in the row. */
static void turn(struct model *m, const struct pass *p, size_t layer)
{
	const struct model_shape *s = &m->weights->shape;
	struct rope rope = rope_of(m);
	size_t width = qkv_width(m);
	if (s->head_norms)
		norm_heads(m, p, layer);
	m->device->ops->rope_forward(m->device, &rope, p->tokens.count, m->activations.positions_of,
		act_at(m->device, turned_of(m, p, layer), p->past * width), s->heads + s->kv_heads, width);
}

/* normed -> attended = what attention makes of it. */
static void attend(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	struct attention attention = attention_of(m, layer);
	struct lora_linear qkv = describe(m, p, layer, VARIANTS_QKV);
	const void *turned = turned_of(m, p, layer);
	size_t new = p->past *qkv_width(m), k = query_width(m), v = k + key_width(m);
	qkv.y = act_at(d, saved->qkv, new);
	linear_forward(m, p, layer, VARIANTS_QKV, a->normed, &qkv);
	turn(m, p, layer);
	d->ops->attention_forward(d, &attention, &p->tokens, act_at(d, turned, new), act_at(d, turned, k),
		act_at(d, saved->qkv, v), saved->attended, p->gradient ? saved->log_sum_exp : NULL);
}

/* delta = norm(out) * weight, where the architecture normalizes what is added to the residual stream. */
static void post_norm(struct model *m, const struct pass *p, const void *out, const float *weight, float *inverse_rms)
{
	const struct model_shape *shape = &m->weights->shape;
	m->device->ops->norm_forward(m->device, NORM_RMS, p->tokens.count, shape->hidden, out, NULL, NULL, weight,
		shape->norm_epsilon, m->activations.delta, 0, inverse_rms);
}

/* normed -> delta = what attention adds to the residual stream. */
static void attention_forward(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	bool post = m->weights->shape.post_norms;
	attend(m, p, layer);
	struct lora_linear o = describe(m, p, layer, VARIANTS_O);
	o.y = post ? saved->attention_out : a->delta;
	linear_forward(m, p, layer, VARIANTS_O, saved->attended, &o);
	if (post)
		post_norm(m, p, saved->attention_out, m->weights->blocks[layer].post_attention_norm,
			saved->attention_out_rms);
}

/* normed -> gate, up. */
static void gate_up_forward(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	struct lora_linear gate_up = describe(m, p, layer, VARIANTS_GATE_UP);
	gate_up.y = a->layers[layer].gate_up;
	linear_forward(m, p, layer, VARIANTS_GATE_UP, a->normed, &gate_up);
}

static enum activation_kind gate_of(const struct model *m)
{
	return m->weights->shape.geglu ? ACTIVATION_GEGLU : ACTIVATION_SWIGLU;
}

static void activate(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	m->device->ops->activation_forward(m->device, gate_of(m), p->tokens.count, m->weights->shape.intermediate,
		a->layers[layer].gate_up, a->h, a->h_stride);
}

/* normed -> delta = what the MLP adds to the residual stream. */
static void mlp_forward(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	bool post = m->weights->shape.post_norms;
	gate_up_forward(m, p, layer);
	next_reader(m, a->h, layer, VARIANTS_DOWN, WEIGHT_FORWARD);
	activate(m, p, layer);
	struct lora_linear down = describe(m, p, layer, VARIANTS_DOWN);
	down.y = post ? saved->mlp_out : a->delta;
	linear_forward(m, p, layer, VARIANTS_DOWN, a->h, &down);
	if (post)
		post_norm(m, p, saved->mlp_out, m->weights->blocks[layer].post_mlp_norm, saved->mlp_out_rms);
}

/* ids -> the first layer's residual stream. */
static void embed(struct model *m, size_t n)
{
	const struct device_ops *ops = m->device->ops;
	struct activations *a = &m->activations;
	size_t hidden = m->weights->shape.hidden;
	void *out = a->layers[0].residual;
	ops->embedding(m->device, n, a->ids, m->weights->embedding, out);
	if (!m->weights->shape.scaled_embedding)
		return;
	ops->from_act(m->device, a->embedded, out, n * hidden);
	ops->scale(m->device, a->embedded, sqrtf((float)hidden), n * hidden);
	ops->to_act(m->device, out, a->embedded, n * hidden);
}

void pass_forward(struct model *m, const struct pass *p)
{
	struct activations *a = &m->activations;
	const struct weights *w = m->weights;
	size_t n = p->tokens.count, last = w->shape.layers - 1;
	embed(m, n);
	for (size_t layer = 0; layer <= last; layer++) {
		const struct block_weights *block = &w->blocks[layer];
		struct saved *saved = &a->layers[layer];
		activations_open_layer(a, layer);
		next_reader(m, a->normed, layer, VARIANTS_QKV, WEIGHT_FORWARD);
		if (layer == 0)
			norm(m, n, saved->residual, block->input_norm);
		else
			add_and_norm(m, n, a->layers[layer - 1].middle, saved->residual, block->input_norm,
				a->normed_stride);
		attention_forward(m, p, layer);
		next_reader(m, a->normed, layer, VARIANTS_GATE_UP, WEIGHT_FORWARD);
		add_and_norm(m, n, saved->residual, saved->middle, block->attention_norm, a->normed_stride);
		mlp_forward(m, p, layer);
		activations_keep_layer(a, layer);
	}
	add_and_norm(m, n, a->layers[last].middle, a->residual_out, w->final_norm, 0);
}

/* Brings back what the memory mode did not keep of a layer; normed is then the MLP's input again. */
static void restore(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	const struct block_weights *block = &m->weights->blocks[layer];
	struct saved *saved = &a->layers[layer];
	size_t n = p->tokens.count;
	activations_recall_layer(a, layer);
	if (memory_mode_blocks(a->mode)) {
		next_reader(m, a->normed, layer, VARIANTS_QKV, WEIGHT_FORWARD);
		norm(m, n, saved->residual, block->input_norm);
		attention_forward(m, p, layer);
		next_reader(m, a->normed, layer, VARIANTS_GATE_UP, WEIGHT_FORWARD);
		add_and_norm(m, n, saved->residual, saved->middle, block->attention_norm, a->normed_stride);
	} else {
		if (a->mode != MEMORY_KEEP)
			next_reader(m, a->normed, layer, VARIANTS_GATE_UP, WEIGHT_FORWARD);
		norm(m, n, saved->middle, block->attention_norm);
	}
	if (a->mode != MEMORY_KEEP)
		gate_up_forward(m, p, layer);
}

/* The gradient of what a group's linear put out, given d_residual, that of the stream it was added to: the same, or, through a post norm,
 * in `to`. */
static const void *post_norm_backward(
	struct model *m, const struct pass *p, size_t layer, enum variants_group group, void *to)
{
	struct activations *a = &m->activations;
	const struct model_shape *shape = &m->weights->shape;
	const struct block_weights *block = &m->weights->blocks[layer];
	const struct saved *saved = &a->layers[layer];
	bool mlp = group == VARIANTS_DOWN;
	if (!shape->post_norms)
		return a->d_residual;
	m->device->ops->zero(m->device, to, p->tokens.count * shape->hidden * m->device->act_size);
	next_reader(m, to, layer, group, WEIGHT_BACKWARD);
	m->device->ops->norm_backward(m->device, NORM_RMS, p->tokens.count, shape->hidden, a->d_residual,
		mlp ? saved->mlp_out : saved->attention_out, mlp ? block->post_mlp_norm : block->post_attention_norm,
		mlp ? saved->mlp_out_rms : saved->attention_out_rms, to);
	return to;
}

/* Tells who reads d_residual, written by the operation that follows: nobody's product where a post norm's backward comes first. */
static void next_reader_of_residual(struct model *m, size_t layer, enum variants_group group)
{
	if (!m->weights->shape.post_norms)
		next_reader(m, m->activations.d_residual, layer, group, WEIGHT_BACKWARD);
}

/* The MLP's inner part: from d_residual to the gradients of gate and up, in their place. The inner product h is made
 * again in the same pass that reads its gradient, and lies where that lay. */
static void down_backward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct lora_linear down = describe(m, p, layer, VARIANTS_DOWN);
	down.dy = post_norm_backward(m, p, layer, VARIANTS_DOWN, a->delta);
	if (!passes_on(m, layer, VARIANTS_DOWN)) {
		activate(m, p, layer);
		linear_backward(m, p, layer, VARIANTS_DOWN, a->h, &down, NULL);
		return;
	}
	down.x_stride = 0; /* h lies dense where its gradient lay */
	if (drops(m, p, &down))
		dropped_backward(m, p, layer, VARIANTS_DOWN, &down, a->h);
	else
		d->ops->lora_backward(d, &p->tokens, NULL, &down, a->h, false, NULL);
	if (passes_on(m, layer, VARIANTS_GATE_UP))
		next_reader(m, a->layers[layer].gate_up, layer, VARIANTS_GATE_UP, WEIGHT_BACKWARD);
	d->ops->activation_backward(
		d, gate_of(m), p->tokens.count, m->weights->shape.intermediate, a->h, a->layers[layer].gate_up, a->h);
	linear_gradient_a(m, p, layer, VARIANTS_DOWN, a->h, &down);
}

/* d_residual holds the gradient of the layer's output; it becomes that of the stream before the MLP. normed is the
 * MLP's input. */
static void mlp_backward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	down_backward(m, p, layer);
	if (!passes_on(m, layer, VARIANTS_DOWN))
		return;
	bool below = passes_on(m, layer, VARIANTS_GATE_UP);
	struct lora_linear gate_up = describe(m, p, layer, VARIANTS_GATE_UP);
	gate_up.dy = saved->gate_up;
	linear_backward(m, p, layer, VARIANTS_GATE_UP, a->normed, &gate_up, below ? a->delta : NULL);
	if (!below)
		return;
	if (passes_on(m, layer, VARIANTS_O))
		next_reader_of_residual(m, layer, VARIANTS_O);
	d->ops->norm_backward(d, NORM_RMS, p->tokens.count, m->weights->shape.hidden, a->delta, saved->middle,
		m->weights->blocks[layer].attention_norm, a->inverse_rms, a->d_residual);
}

/* h: from the gradients of the turned q and k to those of what the linear put out. */
static void turn_backward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	const struct block_weights *block = &m->weights->blocks[layer];
	const struct model_shape *s = &m->weights->shape;
	struct rope rope = rope_of(m);
	size_t n = p->tokens.count, width = qkv_width(m), k = query_width(m);
	const void *qkv = a->layers[layer].qkv;
	d->ops->rope_backward(d, &rope, n, a->positions_of, a->h, s->heads + s->kv_heads, width);
	if (!s->head_norms)
		return;
	d->ops->head_norm_backward(d, NORM_RMS, n, s->heads, s->head_size, qkv, width, block->query_norm,
		a->query_inverse_rms, a->h, width);
	d->ops->head_norm_backward(d, NORM_RMS, n, s->kv_heads, s->head_size, act_at(d, qkv, k), width, block->key_norm,
		a->key_inverse_rms, act_at(d, a->h, k), width);
}

/* delta, the gradient of what attention put out -> h, the gradients of q, k and v side by side. */
static void attend_backward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	struct attention attention = attention_of(m, layer);
	const void *turned = turned_of(m, p, layer);
	size_t k = query_width(m), v = k + key_width(m);
	if (turned != saved->qkv)
		turn(m, p, layer); /* layers take turns with where they lie */
	d->ops->attention_backward(d, &attention, &p->tokens, turned, act_at(d, turned, k), act_at(d, saved->qkv, v),
		saved->attended, saved->log_sum_exp, a->delta, a->h, act_at(d, a->h, k), act_at(d, a->h, v));
	turn_backward(m, p, layer);
}

/* d_residual: from the gradient of the stream after attention to that of the stream before it. */
static void attention_backward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	size_t n = p->tokens.count;
	bool below = passes_on(m, layer, VARIANTS_O);
	struct lora_linear o = describe(m, p, layer, VARIANTS_O);
	o.dy = post_norm_backward(m, p, layer, VARIANTS_O, a->normed);
	linear_backward(m, p, layer, VARIANTS_O, saved->attended, &o, below ? a->delta : NULL);
	if (!below)
		return;
	attend_backward(m, p, layer);
	below = passes_on(m, layer, VARIANTS_QKV);
	norm(m, n, saved->residual, m->weights->blocks[layer].input_norm);
	struct lora_linear qkv = describe(m, p, layer, VARIANTS_QKV);
	qkv.dy = a->h;
	linear_backward(m, p, layer, VARIANTS_QKV, a->normed, &qkv, below ? a->delta : NULL);
	if (!below)
		return;
	if (layer > 0)
		next_reader_of_residual(m, layer - 1, VARIANTS_DOWN);
	d->ops->norm_backward(d, NORM_RMS, n, m->weights->shape.hidden, a->delta, saved->residual,
		m->weights->blocks[layer].input_norm, a->inverse_rms, a->d_residual);
}

void pass_backward(struct model *m, const struct pass *p)
{
	struct activations *a = &m->activations;
	const struct model_shape *shape = &m->weights->shape;
	size_t n = p->tokens.count;
	m->device->ops->zero(m->device, a->d_residual, n * shape->hidden * m->device->act_size);
	next_reader_of_residual(m, shape->layers - 1, VARIANTS_DOWN);
	m->device->ops->norm_backward(m->device, NORM_RMS, n, shape->hidden, a->normed, a->residual_out,
		m->weights->final_norm, a->inverse_rms, a->d_residual);
	for (size_t layer = shape->layers; layer-- > 0;) {
		restore(m, p, layer);
		mlp_backward(m, p, layer);
		if (passes_on(m, layer, VARIANTS_GATE_UP))
			attention_backward(m, p, layer);
		activations_drop_layer(a, layer);
	}
}
