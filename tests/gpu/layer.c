/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu/layer.h"

static int fill_rows(void *self, size_t first, size_t count, float *out)
{
	const struct both_weights *shape = self; /* at[] is not looked at: the number of columns alone counts */
	float *values = pair_random(shape->rows + first, count * shape->cols);
	for (size_t i = 0; i < count * shape->cols; i++)
		out[i] = values[i] * sqrtf(3.0f / (float)shape->cols);
	free(values);
	return 0;
}

/* Row by row, so that the values do not depend on how many rows a device asks for at once. */
static int fill_each(void *self, size_t first, size_t count, float *out)
{
	const struct both_weights *shape = self;
	for (size_t i = 0; i < count; i++)
		fill_rows(self, first + i, 1, out + i * shape->cols);
	return 0;
}

static struct weight *make_weight(struct device *d, size_t rows, size_t cols, unsigned uses, size_t room)
{
	struct both_weights shape = {.rows = rows, .cols = cols};
	struct weight_source source = {.fill = fill_each, .self = &shape};
	return d->ops->weight_new(d, rows, cols, d->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32, uses, room, &source);
}

static float *make_floats(struct device *d, const float *values, size_t n)
{
	float *at = d->ops->alloc(d, n * sizeof *at);
	if (values && at)
		d->ops->upload(d, at, values, n * sizeof *at);
	return at;
}

static void *make_act(struct device *d, size_t n)
{
	return d->ops->alloc(d, LAYER_TOKENS * n * d->act_size);
}

static void make_rotation(struct layer *l)
{
	enum { HALF = LAYER_HEAD_DIM / 2 };
	float cosine[LAYER_POSITIONS * HALF], sine[LAYER_POSITIONS * HALF];
	for (int i = 0; i < LAYER_POSITIONS * HALF; i++) {
		double angle = (double)(i / HALF) / pow(10000, (double)(i % HALF) / HALF);
		cosine[i] = (float)cos(angle);
		sine[i] = (float)sin(angle);
	}
	l->cosine = make_floats(l->device, cosine, LAYER_POSITIONS * HALF);
	l->sine = make_floats(l->device, sine, LAYER_POSITIONS * HALF);
}

void layer_open(struct layer *l, struct device *d)
{
	static const unsigned both = WEIGHT_FORWARD | WEIGHT_BACKWARD;
	memset(l, 0, sizeof *l);
	l->device = d;
	l->embedding = make_weight(d, LAYER_VOCABULARY, LAYER_HIDDEN, both | WEIGHT_ROWS, 0);
	l->qkv = make_weight(d, LAYER_QKV, LAYER_HIDDEN, both, LAYER_ROOM);
	l->o = make_weight(d, LAYER_HIDDEN, LAYER_QUERY, both, 0);
	l->up = make_weight(d, 2 * LAYER_FFN, LAYER_HIDDEN, both, LAYER_ROOM);
	l->down = make_weight(d, LAYER_HIDDEN, LAYER_FFN, both, 0);
	l->ids = d->ops->alloc(d, LAYER_TOKENS * sizeof *l->ids);
	l->positions = d->ops->alloc(d, LAYER_TOKENS * sizeof *l->positions);
	l->row_offsets = d->ops->alloc(d, (LAYER_ROWS + 1) * sizeof *l->row_offsets);
	l->labels = d->ops->alloc(d, LAYER_TOKENS * sizeof *l->labels);
	float *norm = pair_random(20, LAYER_HIDDEN);
	l->norm = make_floats(d, norm, LAYER_HIDDEN);
	free(norm);
	make_rotation(l);
	l->scale = make_floats(d, &(float){1.0f / LAYER_TOKENS}, 1);
	float **floats[] = {&l->adapter, &l->gradient, &l->first, &l->second};
	for (int i = 0; i < 4; i++)
		*floats[i] = make_floats(d, NULL, LAYER_ADAPTER);
	for (int i = 0; i < 3; i++) {
		l->inverse[i] = make_floats(d, NULL, LAYER_TOKENS);
		l->residual[i] = make_act(d, LAYER_HIDDEN);
	}
	l->sums = make_floats(d, NULL, LAYER_TOKENS * 2);
	l->loss = d->ops->alloc(d, sizeof *l->loss);
	l->squares = d->ops->alloc(d, sizeof *l->squares);
	struct {
		void **at;
		size_t width;
	} acts[] = {{&l->normed, LAYER_HIDDEN + LAYER_ROOM}, {&l->qkv_out, LAYER_QKV}, {&l->attended, LAYER_QUERY},
		{&l->delta, LAYER_HIDDEN}, {&l->gate_up, 2 * LAYER_FFN}, {&l->h, LAYER_FFN}, {&l->s[0], 3 * LAYER_RANK},
		{&l->s[1], LAYER_RANK}, {&l->s[2], 2 * LAYER_RANK}, {&l->s[3], LAYER_RANK}, {&l->ds, 3 * LAYER_RANK},
		{&l->d_residual, LAYER_HIDDEN}, {&l->d_wide, LAYER_HIDDEN}, {&l->d_qkv, LAYER_QKV},
		{&l->d_attended, LAYER_QUERY}};
	for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
		*acts[i].at = make_act(d, acts[i].width);
	layer_reset(l);
	layer_upload(l, 1);
}

void layer_close(struct layer *l)
{
	struct device *d = l->device;
	struct weight *weights[] = {l->embedding, l->qkv, l->o, l->up, l->down};
	for (int i = 0; i < 5; i++)
		d->ops->weight_free(d, weights[i]);
	void *memory[] = {l->ids, l->positions, l->row_offsets, l->labels, l->cosine, l->sine, l->norm, l->adapter,
		l->gradient, l->first, l->second, l->inverse[0], l->inverse[1], l->inverse[2], l->sums, l->scale,
		l->loss, l->squares, l->residual[0], l->residual[1], l->residual[2], l->normed, l->qkv_out, l->attended,
		l->delta, l->gate_up, l->h, l->s[0], l->s[1], l->s[2], l->s[3], l->ds, l->d_residual, l->d_wide,
		l->d_qkv, l->d_attended};
	for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
		d->ops->release(d, memory[i]);
}

void layer_reset(struct layer *l)
{
	struct device *d = l->device;
	float *values = pair_random(30, LAYER_ADAPTER);
	for (int i = 0; i < LAYER_ADAPTER; i++)
		values[i] *= 0.1f;
	d->ops->upload(d, l->adapter, values, LAYER_ADAPTER * sizeof *values);
	d->ops->zero(d, l->first, LAYER_ADAPTER * sizeof *values);
	d->ops->zero(d, l->second, LAYER_ADAPTER * sizeof *values);
	free(values);
}

void layer_upload(struct layer *l, uint64_t seed)
{
	struct device *d = l->device;
	float *draw = pair_random(seed + 1000, 2 * LAYER_TOKENS);
	uint32_t ids[LAYER_TOKENS], positions[LAYER_TOKENS], offsets[LAYER_ROWS + 1] = {0, 1, 8, 8, LAYER_TOKENS};
	int32_t labels[LAYER_TOKENS];
	offsets[1] = (uint32_t)(seed % 5);
	offsets[3] = offsets[2] + (uint32_t)(seed % 7);
	for (uint32_t t = 0, row = 0; t < LAYER_TOKENS; t++) {
		while (t >= offsets[row + 1])
			row++;
		positions[t] = t - offsets[row];
		ids[t] = (uint32_t)((draw[t] + 1) / 2 * (LAYER_VOCABULARY - 1));
		labels[t] = t % 5 == 2 ? -1 : (int32_t)((draw[LAYER_TOKENS + t] + 1) / 2 * (LAYER_VOCABULARY - 1));
	}
	d->ops->upload(d, l->ids, ids, sizeof ids);
	d->ops->upload(d, l->positions, positions, sizeof positions);
	d->ops->upload(d, l->row_offsets, offsets, sizeof offsets);
	d->ops->upload(d, l->labels, labels, sizeof labels);
	free(draw);
}

/* The linear that begins at `at` of the flat vectors: all A, then all B. */
static struct lora_linear linear_of(const struct layer *l, const struct weight *w, size_t cols, size_t at, void *s,
	size_t parts, const size_t *rows)
{
	struct lora_linear out = {.weight = w, .scale = 2, .parts = parts, .s = s, .ds = l->ds};
	size_t a = at, b = at + parts * LAYER_RANK * cols;
	for (size_t i = 0; i < parts; i++) {
		out.part[i] = (struct lora_part){.rows = rows[i],
			.rank = LAYER_RANK,
			.a = l->adapter + a,
			.b = l->adapter + b,
			.grad_a = l->gradient + a,
			.grad_b = l->gradient + b};
		a += LAYER_RANK * cols;
		b += rows[i] * LAYER_RANK;
	}
	return out;
}

struct call {
	struct tokens tokens;
	struct attention attention;
	struct rope rope;
	struct lora_linear qkv, o, up, down;
	void *k, *v;
};

static void prepare(struct layer *l, struct call *c)
{
	static const size_t qkv_rows[] = {LAYER_QUERY, LAYER_KEY, LAYER_KEY}, o_rows[] = {LAYER_HIDDEN},
			    up_rows[] = {LAYER_FFN, LAYER_FFN};
	size_t at = 0;
	*c = (struct call){.tokens = {.count = LAYER_TOKENS,
				   .row_offsets = l->row_offsets,
				   .rows = LAYER_ROWS,
				   .longest = LAYER_TOKENS},
		.attention = {.heads = 2,
			.kv_heads = 1,
			.head_dim = LAYER_HEAD_DIM,
			.scale = 0.125f,
			.q_stride = LAYER_QKV,
			.kv_stride = LAYER_QKV},
		.rope = {.cosine = l->cosine, .sine = l->sine, .half = LAYER_HEAD_DIM / 2, .head_dim = LAYER_HEAD_DIM}};
	c->qkv = linear_of(l, l->qkv, LAYER_HIDDEN, at, l->s[0], 3, qkv_rows);
	c->qkv.y = l->qkv_out;
	c->qkv.x_stride = LAYER_HIDDEN + LAYER_ROOM;
	at += LAYER_QKV_SIZE;
	c->o = linear_of(l, l->o, LAYER_QUERY, at, l->s[1], 1, o_rows);
	c->o.y = l->delta;
	at += LAYER_O_SIZE;
	c->up = linear_of(l, l->up, LAYER_HIDDEN, at, l->s[2], 2, up_rows);
	c->up.y = l->gate_up;
	c->up.x_stride = LAYER_HIDDEN + LAYER_ROOM;
	at += LAYER_UP_SIZE;
	c->down = linear_of(l, l->down, LAYER_FFN, at, l->s[3], 1, o_rows);
	c->down.y = l->delta;
	c->k = act_at(l->device, l->qkv_out, LAYER_QUERY);
	c->v = act_at(l->device, l->qkv_out, LAYER_QUERY + LAYER_KEY);
}

static void norm(struct layer *l, int which, const void *x, const void *delta)
{
	struct device *d = l->device;
	d->ops->norm_forward(d, NORM_RMS, LAYER_TOKENS, LAYER_HIDDEN, x, delta, l->residual[which], l->norm, 1e-5f,
		l->normed, which < 2 ? LAYER_HIDDEN + LAYER_ROOM : 0, l->inverse[which]);
}

static void run_forward(struct layer *l, struct call *c)
{
	struct device *d = l->device;
	d->ops->embedding(d, LAYER_TOKENS, l->ids, l->embedding, l->residual[0]);
	norm(l, 0, l->residual[0], NULL);
	d->ops->lora_forward(d, &c->tokens, l->normed, &c->qkv);
	/* q and k lie side by side and turn alike */
	d->ops->rope_forward(d, &c->rope, LAYER_TOKENS, l->positions, l->qkv_out, 3, LAYER_QKV);
	d->ops->attention_forward(d, &c->attention, &c->tokens, l->qkv_out, c->k, c->v, l->attended, l->sums);
	d->ops->lora_forward(d, &c->tokens, l->attended, &c->o);
	norm(l, 1, l->residual[0], l->delta);
	d->ops->lora_forward(d, &c->tokens, l->normed, &c->up);
	d->ops->activation_forward(d, ACTIVATION_SWIGLU, LAYER_TOKENS, LAYER_FFN, l->gate_up, l->h, 0);
	d->ops->lora_forward(d, &c->tokens, l->h, &c->down);
	norm(l, 2, l->residual[1], l->delta);
}

static void norm_backward(struct layer *l, int which, void *dx)
{
	struct device *d = l->device;
	d->ops->norm_backward(
		d, NORM_RMS, LAYER_TOKENS, LAYER_HIDDEN, l->d_wide, l->residual[which], l->norm, l->inverse[which], dx);
}

static void run_backward(struct layer *l, struct call *c)
{
	struct device *d = l->device;
	struct cross_entropy e = {.labels = l->labels, .gradient_scale = l->scale, .sum = l->loss};
	size_t bytes = LAYER_TOKENS * LAYER_HIDDEN * d->act_size;
	d->ops->zero(d, l->loss, sizeof *l->loss);
	d->ops->zero(d, l->gradient, LAYER_ADAPTER * sizeof *l->gradient);
	d->ops->cross_entropy(d, &e, &c->tokens, l->normed, l->embedding, l->d_wide);
	d->ops->zero(d, l->d_residual, bytes);
	norm_backward(l, 2, l->d_residual);
	c->down.dy = l->d_residual;
	/* the gradient of h takes h's place in the attended queries' buffer, which is needed no more before it is computed again */
	d->ops->lora_backward(d, &c->tokens, l->h, &c->down, l->d_attended, false, NULL);
	d->ops->activation_backward(d, ACTIVATION_SWIGLU, LAYER_TOKENS, LAYER_FFN, l->d_attended, l->gate_up, NULL);
	norm(l, 1, l->residual[1], NULL);
	c->up.dy = l->gate_up;
	d->ops->lora_backward(d, &c->tokens, l->normed, &c->up, l->d_wide, false, NULL);
	norm_backward(l, 1, l->d_residual);
	c->o.dy = l->d_residual;
	d->ops->lora_backward(d, &c->tokens, l->attended, &c->o, l->d_attended, false, NULL);
	d->ops->attention_backward(d, &c->attention, &c->tokens, l->qkv_out, c->k, c->v, l->attended, l->sums,
		l->d_attended, l->d_qkv, act_at(d, l->d_qkv, LAYER_QUERY),
		act_at(d, l->d_qkv, LAYER_QUERY + LAYER_KEY));
	d->ops->rope_backward(d, &c->rope, LAYER_TOKENS, l->positions, l->d_qkv, 3, LAYER_QKV);
	norm(l, 0, l->residual[0], NULL);
	c->qkv.dy = l->d_qkv;
	d->ops->lora_backward(d, &c->tokens, l->normed, &c->qkv, l->d_wide, false, NULL);
	norm_backward(l, 0, l->d_residual);
}

void layer_step(struct layer *l)
{
	struct device *d = l->device;
	struct call c;
	/* every recorded step is the first one: what a recording holds of the host does not change */
	struct adamw a = {
		.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .step = 1, .gradient_scale = 1};
	prepare(l, &c);
	run_forward(l, &c);
	run_backward(l, &c);
	d->ops->sum_squares(d, l->gradient, LAYER_ADAPTER, l->squares);
	d->ops->adamw(d, &a, l->adapter, l->gradient, l->first, l->second, LAYER_ADAPTER);
}

void layer_download(struct layer *l, unsigned char out[static LAYER_RESULT])
{
	struct device *d = l->device;
	size_t at = 0, act = LAYER_TOKENS * LAYER_HIDDEN * d->act_size;
	memset(out, 0, LAYER_RESULT);
	d->ops->download(d, out, l->adapter, LAYER_ADAPTER * sizeof(float));
	at += LAYER_ADAPTER * sizeof(float);
	d->ops->download(d, out + at, l->gradient, LAYER_ADAPTER * sizeof(float));
	at += LAYER_ADAPTER * sizeof(float);
	d->ops->download(d, out + at, l->loss, sizeof *l->loss);
	at += sizeof *l->loss;
	d->ops->download(d, out + at, l->squares, sizeof *l->squares);
	at += sizeof *l->squares;
	if (act <= LAYER_RESULT - at)
		d->ops->download(d, out + at, l->d_residual, act);
}
