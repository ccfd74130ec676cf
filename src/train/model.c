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
	struct lora_linear linear = {.weight = m->weights->blocks[layer].linear[group]};
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
/* Streams of one step: groups of all layers. */
#define DROPOUT_STEP ((uint64_t)1 << 16)

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

static struct attention attention_of(const struct model *m)
{
	const struct model_shape *shape = &m->weights->shape;
	return (struct attention){
		.heads = shape->heads,
		.kv_heads = shape->kv_heads,
		.head_dim = shape->head_size,
		.mask = MASK_CAUSAL,
		.scale = 1.0f / sqrtf((float)shape->head_size),
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

/* normed -> attended = what attention makes of it. */
static void attend(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	struct attention attention = attention_of(m);
	struct rope rope = rope_of(m);
	struct lora_linear qkv = describe(m, p, layer, VARIANTS_QKV);
	void *new = act_at(d, saved->qkv, p->past * qkv_width(m));
	qkv.y = new;
	linear_forward(m, p, layer, VARIANTS_QKV, a->normed, &qkv);
	d->ops->rope_forward(
		d, &rope, p->tokens.count, a->positions_of, new, attention.heads + attention.kv_heads, qkv_width(m));
	d->ops->attention_forward(d, &attention, &p->tokens, new, act_at(d, saved->qkv, query_width(m)),
		act_at(d, saved->qkv, query_width(m) + key_width(m)), saved->attended,
		p->gradient ? saved->log_sum_exp : NULL);
}

/* normed -> delta = what attention adds to the residual stream. */
static void attention_forward(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	attend(m, p, layer);
	struct lora_linear o = describe(m, p, layer, VARIANTS_O);
	o.y = a->delta;
	linear_forward(m, p, layer, VARIANTS_O, a->layers[layer].attended, &o);
}

/* normed -> gate, up. */
static void gate_up_forward(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	struct lora_linear gate_up = describe(m, p, layer, VARIANTS_GATE_UP);
	gate_up.y = a->layers[layer].gate_up;
	linear_forward(m, p, layer, VARIANTS_GATE_UP, a->normed, &gate_up);
}

static void activate(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	m->device->ops->activation_forward(m->device, ACTIVATION_SWIGLU, p->tokens.count,
		m->weights->shape.intermediate, a->layers[layer].gate_up, a->h, a->h_stride);
}

/* normed -> delta = what the MLP adds to the residual stream. */
static void mlp_forward(struct model *m, const struct pass *p, size_t layer)
{
	struct activations *a = &m->activations;
	gate_up_forward(m, p, layer);
	next_reader(m, a->h, layer, VARIANTS_DOWN, WEIGHT_FORWARD);
	activate(m, p, layer);
	struct lora_linear down = describe(m, p, layer, VARIANTS_DOWN);
	down.y = a->delta;
	linear_forward(m, p, layer, VARIANTS_DOWN, a->h, &down);
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

/* The MLP's inner part: from d_residual to the gradients of gate and up, in their place. The inner product h is made
 * again in the same pass that reads its gradient, and lies where that lay. */
static void down_backward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct lora_linear down = describe(m, p, layer, VARIANTS_DOWN);
	down.dy = a->d_residual;
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
	d->ops->activation_backward(d, ACTIVATION_SWIGLU, p->tokens.count, m->weights->shape.intermediate, a->h,
		a->layers[layer].gate_up, a->h);
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
		next_reader(m, a->d_residual, layer, VARIANTS_O, WEIGHT_BACKWARD);
	d->ops->norm_backward(d, NORM_RMS, p->tokens.count, m->weights->shape.hidden, a->delta, saved->middle,
		m->weights->blocks[layer].attention_norm, a->inverse_rms, a->d_residual);
}

/* delta, the gradient of what attention put out -> h, the gradients of q, k and v side by side. */
static void attend_backward(struct model *m, const struct pass *p, size_t layer)
{
	struct device *d = m->device;
	struct activations *a = &m->activations;
	struct saved *saved = &a->layers[layer];
	struct attention attention = attention_of(m);
	struct rope rope = rope_of(m);
	size_t k = query_width(m), v = query_width(m) + key_width(m);
	d->ops->attention_backward(d, &attention, &p->tokens, saved->qkv, act_at(d, saved->qkv, k),
		act_at(d, saved->qkv, v), saved->attended, saved->log_sum_exp, a->delta, a->h, act_at(d, a->h, k),
		act_at(d, a->h, v));
	d->ops->rope_backward(
		d, &rope, p->tokens.count, a->positions_of, a->h, attention.heads + attention.kv_heads, qkv_width(m));
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
	o.dy = a->d_residual;
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
		next_reader(m, a->d_residual, layer - 1, VARIANTS_DOWN, WEIGHT_BACKWARD);
	d->ops->norm_backward(d, NORM_RMS, n, m->weights->shape.hidden, a->delta, saved->residual,
		m->weights->blocks[layer].input_norm, a->inverse_rms, a->d_residual);
}

/* normed holds the gradient of the final norm's output. */
static void backward(struct model *m, const struct pass *p)
{
	struct activations *a = &m->activations;
	const struct model_shape *shape = &m->weights->shape;
	size_t n = p->tokens.count;
	m->device->ops->zero(m->device, a->d_residual, n * shape->hidden * m->device->act_size);
	next_reader(m, a->d_residual, shape->layers - 1, VARIANTS_DOWN, WEIGHT_BACKWARD);
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
	struct cross_entropy loss = {.labels = a->labels, .gradient_scale = a->gradient_scale, .sum = a->loss};
	forward(m, p);
	m->device->ops->cross_entropy(m->device, &loss, labelled, a->normed, m->weights->head, a->normed);
	backward(m, p);
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
	struct cross_entropy loss = {.labels = a->labels, .sum = a->loss, .correct = correct ? a->correct : NULL};
	struct tokens labelled;
	input_upload(&m->input, batch, NULL, 0, NULL, &p.tokens, &labelled);
	forward(m, &p);
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
