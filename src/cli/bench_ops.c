/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori bench ops: the operations of a training step, each timed alone with the sizes that the step gives it; multiplied by how often a
 * step calls it they say where its time goes. What is not in the table is what overlaps or falls between two operations. With FP8 weights
 * rounding an activation belongs to the norm or activation that writes it, as in a step; the final norm is counted like the others. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/engine.h"
#include "train/lora.h"
#include "train/variants.h"

struct options {
	const char *model, *device, *base_dtype;
	uint64_t batch, seq, rank, threads;
	bool json;
};

typedef void operation_call(void *work);

enum group { QKV, O, GATE_UP, DOWN, GROUPS };
static const char *const group_names[GROUPS] = {"qkv", "o", "gate_up", "down"};

/* A step's widths, buffers and weights. N tokens; act unless float. */
struct work {
	struct bench bench;
	struct device *device;
	const struct model_shape *shape;
	enum weight_storage storage;
	size_t n, rows, seq, rank;
	size_t hidden, query, key, ffn, vocabulary;
	struct tokens tokens;
	uint32_t *ids, *positions, *offsets; /* (N), (N), (rows + 1) */
	int32_t *labels;                     /* (N) */
	float *cosine, *sine;
	float *norm_weight, *inverse_rms, *log_sum_exp, *gradient_scale;
	double *loss;
	float *parameters, *gradient, *first, *second; /* the whole adapter */
	size_t parameter_count;
	void *x;                     /* (N, hidden), with room where the device joins: see room_of */
	void *delta, *y, *d_y;       /* (N, hidden) */
	void *qkv, *d_qkv;           /* (N, query + 2 key) */
	void *attended, *d_attended; /* (N, query) */
	void *gate_up, *d_gate_up;   /* (N, 2 ffn) */
	void *h, *d_h;               /* (N, ffn) */
	void *s, *ds;                /* (N, 3 rank) */
	struct weight *linear[GROUPS], *head, *embedding;
	enum group group;                /* of the call that is timed, or that reads next what it writes */
	operation_call *writer, *reader; /* of two that are timed together */
};

/* One line of the table. flops and bytes are those of a call: model FLOPs, and what has to pass the memory at least. */
struct operation {
	char name[40];
	operation_call *call;
	enum group group;
	double calls; /* a step */
	double flops, bytes;
	double seconds; /* of a call */
};

static const void *input_of(const struct work *w)
{
	return w->group == O ? w->attended : w->group == DOWN ? w->h : w->x;
}

static void *output_of(const struct work *w)
{
	return w->group == QKV ? w->qkv : w->group == GATE_UP ? w->gate_up : w->delta;
}

static const void *d_output_of(const struct work *w)
{
	return w->group == QKV ? w->d_qkv : w->group == GATE_UP ? w->d_gate_up : w->d_y;
}

static void *d_input_of(const struct work *w)
{
	return w->group == O ? w->d_attended : w->group == DOWN ? w->d_h : w->y;
}

static size_t columns(const struct work *w, enum group g)
{
	return g == O ? w->query : g == DOWN ? w->ffn : w->hidden;
}

static size_t outputs(const struct work *w, enum group g)
{
	return g == QKV ? w->query + 2 * w->key : g == GATE_UP ? 2 * w->ffn : w->hidden;
}

static size_t parts(enum group g)
{
	return g == QKV ? 3 : g == GATE_UP ? 2 : 1;
}

/* As the model plans it (train/weights.c): elements behind the weight's rows. */
static size_t room_of(const struct work *w, enum group g)
{
	const size_t ranks[] = {w->rank, w->rank, w->rank};
	return w->device->joins && g != O ? variants_room(ranks, parts(g)) : 0;
}

/* Behind the tokens of x, for both groups that read it. */
static size_t x_room(const struct work *w)
{
	size_t qkv = room_of(w, QKV), gate_up = room_of(w, GATE_UP);
	return qkv > gate_up ? qkv : gate_up;
}

/* Elements from token to token of h. */
static size_t h_row(const struct work *w)
{
	return w->ffn + room_of(w, DOWN);
}

/* The group's linear, its adapters cut out of the head of the parameter buffer. */
static struct lora_linear linear_of(const struct work *w, enum group g)
{
	struct lora_linear l = {
		.weight = w->linear[g],
		.scale = 2,
		.parts = parts(g),
		.forward = LORA_F1,
		.backward = LORA_B1,
		.x_stride = g == O      ? 0
			    : g == DOWN ? h_row(w)
					: w->hidden + x_room(w),
		.y = output_of(w),
		.s = w->s,
		.dy = d_output_of(w),
		.ds = w->ds,
	};
	size_t at = 0;
	for (size_t i = 0; i < l.parts; i++) {
		struct lora_part *p = &l.part[i];
		p->rows = g == QKV ? (i == 0 ? w->query : w->key) : outputs(w, g) / l.parts;
		p->rank = w->rank;
		p->a = w->parameters + at;
		p->grad_a = w->gradient + at;
		at += w->rank * columns(w, g);
	}
	for (size_t i = 0; i < l.parts; i++) {
		l.part[i].b = w->parameters + at;
		l.part[i].grad_b = w->gradient + at;
		at += w->rank * l.part[i].rows;
	}
	return l;
}

static void call_lora_forward(void *work)
{
	const struct work *w = work;
	const struct lora_linear l = linear_of(w, w->group);
	w->device->ops->lora_forward(w->device, &w->tokens, input_of(w), &l);
}

static void call_lora_backward(void *work)
{
	const struct work *w = work;
	const struct lora_linear l = linear_of(w, w->group);
	w->device->ops->lora_backward(w->device, &w->tokens, input_of(w), &l, d_input_of(w), false, NULL);
}

static void call_embedding(void *work)
{
	const struct work *w = work;
	w->device->ops->embedding(w->device, w->n, w->ids, w->embedding, w->y);
}

/* As the model tells of the linear that reads x next (train/model.c): the pass that follows makes the E4M3 form that an FP8 product wants. */
static void next_reader(const struct work *w, const void *x, enum weight_use use)
{
	w->device->ops->next_reader(w->device, x, w->linear[w->group], use);
}

static void call_norm_forward(void *work)
{
	const struct work *w = work;
	next_reader(w, w->x, WEIGHT_FORWARD);
	w->device->ops->norm_forward(w->device, NORM_RMS, w->n, w->hidden, w->d_y, w->delta, w->y, w->norm_weight,
		1e-5f, w->x, w->hidden + x_room(w), w->inverse_rms);
}

static void call_norm_again(void *work)
{
	const struct work *w = work;
	w->device->ops->norm_forward(w->device, NORM_RMS, w->n, w->hidden, w->y, NULL, NULL, w->norm_weight, 1e-5f,
		w->x, w->hidden + x_room(w), w->inverse_rms);
}

static void call_norm_backward(void *work)
{
	const struct work *w = work;
	next_reader(w, w->d_y, WEIGHT_BACKWARD);
	w->device->ops->norm_backward(
		w->device, NORM_RMS, w->n, w->hidden, w->delta, w->y, w->norm_weight, w->inverse_rms, w->d_y);
}

static struct rope rope_of(const struct work *w)
{
	return (struct rope){w->cosine, w->sine, w->shape->head_size / 2, w->shape->head_size};
}

static void call_rope_forward(void *work)
{
	const struct work *w = work;
	const struct rope r = rope_of(w);
	w->device->ops->rope_forward(w->device, &r, w->n, w->positions, w->qkv,
		(size_t)w->shape->heads + w->shape->kv_heads, w->query + 2 * w->key);
}

static void call_rope_backward(void *work)
{
	const struct work *w = work;
	const struct rope r = rope_of(w);
	w->device->ops->rope_backward(w->device, &r, w->n, w->positions, w->d_qkv,
		(size_t)w->shape->heads + w->shape->kv_heads, w->query + 2 * w->key);
}

static struct attention attention_of(const struct work *w)
{
	return (struct attention){
		.heads = w->shape->heads,
		.kv_heads = w->shape->kv_heads,
		.head_dim = w->shape->head_size,
		.mask = MASK_CAUSAL,
		.scale = 1 / sqrtf((float)w->shape->head_size),
		.q_stride = w->query + 2 * w->key,
		.kv_stride = w->query + 2 * w->key,
	};
}

static void call_attention_forward(void *work)
{
	const struct work *w = work;
	struct device *d = w->device;
	const struct attention a = attention_of(w);
	d->ops->attention_forward(d, &a, &w->tokens, w->qkv, act_at(d, w->qkv, w->query),
		act_at(d, w->qkv, w->query + w->key), w->attended, w->log_sum_exp);
}

static void call_attention_backward(void *work)
{
	const struct work *w = work;
	struct device *d = w->device;
	const struct attention a = attention_of(w);
	d->ops->attention_backward(d, &a, &w->tokens, w->qkv, act_at(d, w->qkv, w->query),
		act_at(d, w->qkv, w->query + w->key), w->attended, w->log_sum_exp, w->d_attended, w->d_qkv,
		act_at(d, w->d_qkv, w->query), act_at(d, w->d_qkv, w->query + w->key));
}

static void call_activation_forward(void *work)
{
	const struct work *w = work;
	next_reader(w, w->h, WEIGHT_FORWARD);
	w->device->ops->activation_forward(w->device, ACTIVATION_SWIGLU, w->n, w->ffn, w->gate_up, w->h, h_row(w));
}

static void call_activation_backward(void *work)
{
	const struct work *w = work;
	next_reader(w, w->d_gate_up, WEIGHT_BACKWARD);
	w->device->ops->activation_backward(w->device, ACTIVATION_SWIGLU, w->n, w->ffn, w->d_h, w->d_gate_up, w->h);
}

static void call_cross_entropy(void *work)
{
	const struct work *w = work;
	const struct cross_entropy c = {.labels = w->labels, .gradient_scale = w->gradient_scale, .sum = w->loss};
	w->device->ops->cross_entropy(w->device, &c, &w->tokens, w->x, w->head, w->y);
}

static void call_optimizer(void *work)
{
	const struct work *w = work;
	const struct adamw a = {1e-4f, 0.9f, 0.999f, 1e-8f, 0, 1, 1};
	w->device->ops->sum_squares(w->device, w->gradient, w->parameter_count, w->loss);
	w->device->ops->adamw(w->device, &a, w->parameters, w->gradient, w->first, w->second, w->parameter_count);
}

static void call_copy(void *work)
{
	const struct work *w = work;
	w->device->ops->copy(w->device, w->d_gate_up, w->gate_up, w->n * 2 * w->ffn * w->device->act_size);
}

/* In place, so from fresh values: gradients of gradients would vanish. */
static void write_d_gate_up(void *work)
{
	call_copy(work);
	call_activation_backward(work);
}

static void call_writer_and_reader(void *work)
{
	const struct work *w = work;
	w->writer(work);
	w->reader(work);
}

/* ---- the table ---- */

/* What writes a linear's input and rounds it to E4M3 in the same pass. NULL: nobody does; what attention and rotations leave is rounded by
 * the linear. */
static operation_call *writer_of(const struct work *w, const struct operation *e)
{
	if (w->storage != WEIGHT_FP8)
		return NULL;
	if (e->call == call_lora_forward)
		return e->group == O ? NULL : e->group == DOWN ? call_activation_forward : call_norm_forward;
	if (e->call == call_lora_backward)
		return e->group == QKV ? NULL : e->group == GATE_UP ? write_d_gate_up : call_norm_backward;
	return NULL;
}

static void linears(const struct work *w, struct operation *table, size_t *count)
{
	static const double element[] = {[WEIGHT_F32] = 4, [WEIGHT_BF16] = 2, [WEIGHT_FP8] = 1, [WEIGHT_NF4] = 0.5};
	double act = (double)w->device->act_size, n = (double)w->n, layers = w->shape->layers;
	for (int backward = 0; backward < 2; backward++)
		for (int g = 0; g < GROUPS; g++) {
			double rows = (double)outputs(w, g), cols = (double)columns(w, g), many = (double)parts(g);
			double base = 2 * n * rows * cols, lora = 2 * n * (double)w->rank * (many * cols + rows);
			double weight = rows * cols * element[w->storage]; /* whatever is packed beside it */
			struct operation *o = &table[(*count)++];
			*o = (struct operation){.call = backward ? call_lora_backward : call_lora_forward,
				.group = (enum group)g,
				.calls = layers,
				.flops = base + (backward ? 2 : 1) * lora,
				.bytes = weight + act * n * (rows + (backward ? 2 : 1) * cols)};
			snprintf(o->name, sizeof o->name, "linear_%s %s", backward ? "backward" : "forward",
				group_names[g]);
		}
}

static size_t make_table(const struct work *w, struct operation *table)
{
	double act = (double)w->device->act_size, n = (double)w->n, layers = w->shape->layers;
	double hidden = n * (double)w->hidden * act, qk = n * (double)(w->query + w->key) * act;
	double qkv = n * (double)(w->query + 2 * w->key) * act, query = n * (double)w->query * act;
	double ffn = n * (double)w->ffn * act, vocabulary = (double)w->vocabulary * (double)w->hidden;
	double labelled = n * (1 - 1 / (double)w->seq);
	double scores = 4 * (double)w->seq / 2 * (double)w->query * n, floats = 4 * (double)w->parameter_count;
	const struct operation others[] = {
		{"embedding", call_embedding, 0, 1, 0, 2 * hidden, 0},
		{"norm_forward", call_norm_forward, QKV, 2 * layers + 1, 0, 4 * hidden, 0},
		{"norm_again", call_norm_again, 0, 2 * layers, 0, 2 * hidden, 0}, /* for the backward */
		{"norm_backward", call_norm_backward, O, 2 * layers, 0, 4 * hidden, 0},
		{"rope_forward", call_rope_forward, 0, layers, 0, 2 * qk, 0},
		{"rope_backward", call_rope_backward, 0, layers, 0, 2 * qk, 0},
		{"attention_forward", call_attention_forward, 0, layers, scores, qkv + query, 0},
		{"attention_backward", call_attention_backward, 0, layers, 2 * scores, 2 * qkv + 2 * query, 0},
		{"activation_forward", call_activation_forward, DOWN, layers, 0, 3 * ffn, 0},
		{"activation_backward", call_activation_backward, GATE_UP, layers, 0, 6 * ffn, 0},
		{"cross_entropy", call_cross_entropy, 0, 1, 4 * labelled * vocabulary,
			2 * hidden + 2 * act * vocabulary, 0},
		{"optimizer", call_optimizer, 0, 1, 0, 8 * floats, 0},
	};
	size_t count = 0;
	linears(w, table, &count);
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		table[count++] = others[i];
	return count;
}

/* ---- preparing ---- */

static void *upload(struct device *d, void *take_host, size_t bytes)
{
	void *out = d->ops->alloc(d, bytes);
	if (out != NULL)
		d->ops->upload(d, out, take_host, bytes);
	device_sync(d, NULL);
	free(take_host);
	return out;
}

static void place_rows(struct work *w)
{
	uint32_t *ids = must_calloc(w->n, sizeof *ids), *positions = must_calloc(w->n, sizeof *positions);
	uint32_t *offsets = must_calloc(w->rows + 1, sizeof *offsets);
	int32_t *labels = must_calloc(w->n, sizeof *labels);
	struct rng r;
	rng_init(&r, 1, 1ull << 34);
	for (size_t i = 0; i < w->n; i++) {
		ids[i] = (uint32_t)rng_below(&r, w->vocabulary);
		positions[i] = (uint32_t)(i % w->seq);
	}
	for (size_t i = 0; i < w->n; i++)
		labels[i] = (i + 1) % w->seq == 0 ? -1 : (int32_t)ids[i + 1];
	for (size_t row = 0; row <= w->rows; row++)
		offsets[row] = (uint32_t)(row * w->seq);
	w->ids = upload(w->device, ids, w->n * sizeof *ids);
	w->positions = upload(w->device, positions, w->n * sizeof *positions);
	w->offsets = upload(w->device, offsets, (w->rows + 1) * sizeof *offsets);
	w->labels = upload(w->device, labels, w->n * sizeof *labels);
	w->tokens = (struct tokens){.count = w->n, .row_offsets = w->offsets, .rows = w->rows, .longest = w->seq};
}

/* True rotations: turned again and again, what is timed later must neither vanish nor grow. */
static void place_rotations(struct work *w)
{
	size_t half = w->shape->head_size / 2, n = w->seq * half;
	float *cosine = must_calloc(n, sizeof *cosine), *sine = must_calloc(n, sizeof *sine);
	for (size_t i = 0; i < n; i++) {
		double angle = (double)(i / half) * pow(10000, -(double)(i % half) / (double)half);
		cosine[i] = (float)cos(angle);
		sine[i] = (float)sin(angle);
	}
	w->cosine = upload(w->device, cosine, n * sizeof *cosine);
	w->sine = upload(w->device, sine, n * sizeof *sine);
}

static void place_weights(struct work *w)
{
	enum weight_storage plain = w->device->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
	for (int g = 0; g < GROUPS; g++)
		w->linear[g] = bench_weight(&w->bench, outputs(w, g), columns(w, g), w->storage,
			WEIGHT_FORWARD | WEIGHT_BACKWARD, room_of(w, (enum group)g));
	w->head = bench_weight(
		&w->bench, w->vocabulary, w->hidden, plain, WEIGHT_FORWARD | WEIGHT_BACKWARD | WEIGHT_ROWS, 0);
	w->embedding = w->head;
}

static int prepare(struct work *w, struct fault *f)
{
	struct device *d = w->device;
	struct bench *b = &w->bench;
	size_t n = w->n;
	float one = 1.0f / (float)n;
	place_rows(w);
	place_rotations(w);
	w->norm_weight = bench_floats(b, w->hidden, 1);
	w->inverse_rms = bench_floats(b, n, 1);
	w->log_sum_exp = d->ops->alloc(d, n * w->shape->heads * sizeof(float));
	w->gradient_scale = d->ops->alloc(d, sizeof one);
	w->loss = d->ops->alloc(d, sizeof *w->loss);
	w->parameters = bench_floats(b, w->parameter_count, 0.02f);
	w->gradient = d->ops->alloc(d, w->parameter_count * sizeof(float));
	w->first = d->ops->alloc(d, w->parameter_count * sizeof(float));
	w->second = d->ops->alloc(d, w->parameter_count * sizeof(float));
	void **const buffers[] = {&w->x, &w->delta, &w->y, &w->d_y, &w->qkv, &w->d_qkv, &w->attended, &w->d_attended,
		&w->gate_up, &w->d_gate_up, &w->h, &w->d_h, &w->s, &w->ds};
	const size_t widths[] = {w->hidden + x_room(w), w->hidden, w->hidden, w->hidden, outputs(w, QKV),
		outputs(w, QKV), w->query, w->query, 2 * w->ffn, 2 * w->ffn, h_row(w), w->ffn, 3 * w->rank,
		3 * w->rank};
	for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
		*buffers[i] = bench_act(b, n * widths[i]);
	if (w->gradient_scale != NULL)
		d->ops->upload(d, w->gradient_scale, &one, sizeof one);
	place_weights(w);
	return device_sync(d, f);
}

static void release(struct work *w)
{
	const struct device_ops *ops = w->device->ops;
	void *const buffers[] = {w->x, w->delta, w->y, w->d_y, w->qkv, w->d_qkv, w->attended, w->d_attended, w->gate_up,
		w->d_gate_up, w->h, w->d_h, w->s, w->ds, w->ids, w->positions, w->offsets, w->labels, w->cosine,
		w->sine, w->norm_weight, w->inverse_rms, w->log_sum_exp, w->gradient_scale, w->loss, w->parameters,
		w->gradient, w->first, w->second};
	for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
		ops->release(w->device, buffers[i]);
	for (int g = 0; g < GROUPS; g++)
		ops->weight_free(w->device, w->linear[g]);
	ops->weight_free(w->device, w->head);
}

/* ---- running and showing ---- */

static void show(const struct options *o, const struct operation *table, size_t count, double ceiling, double copy)
{
	double step = 0;
	for (size_t i = 0; i < count; i++)
		step += table[i].calls * table[i].seconds;
	if (!o->json)
		printf("%-26s %6s %10s %10s %6s %9s %6s %8s %6s\n", "operation", "calls", "us a call", "ms a step",
			"share", "TFLOP/s", "of max", "GB/s", "of max");
	for (size_t i = 0; i < count; i++) {
		const struct operation *e = &table[i];
		double total = e->calls * e->seconds, rate = e->flops / e->seconds, bytes = e->bytes / e->seconds;
		if (o->json)
			cli_print_json(json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "event",
				"operation", "name", e->name, "calls", e->calls, "seconds", e->seconds, "share_of_step",
				total / step, "flops", e->flops, "bytes", e->bytes, "tflops", rate / 1e12,
				"share_of_ceiling", rate / ceiling, "share_of_copy", bytes / copy));
		else
			printf("%-26s %6.0f %10.1f %10.3f %6.3f %9.3f %6.3f %8.1f %6.3f\n", e->name, e->calls,
				e->seconds * 1e6, total * 1e3, total / step, rate / 1e12, rate / ceiling, bytes / 1e9,
				bytes / copy);
	}
	double tokens = (double)(o->batch * o->seq);
	if (o->json)
		cli_print_json(json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f}", "event", "step", "model", o->model,
			"device", o->device, "seconds", step, "tokens_per_second", tokens / step, "ceiling_tflops",
			ceiling / 1e12, "copy_bytes_per_second", copy));
	else
		printf("together %.3f ms, %.0f tokens/s; a plain product %.3f TFLOP/s, a copy %.1f GB/s\n", step * 1e3,
			tokens / step, ceiling / 1e12, copy / 1e9);
}

/* A linear whose input was rounded where it was written is timed behind that pass, which is then taken off: alone it would round the input
 * itself, and the sum of the table would hold that twice. */
static int time_one(struct work *w, struct operation *e, double budget, struct fault *f)
{
	double writing = 0;
	w->group = e->group;
	w->writer = writer_of(w, e);
	w->reader = e->call;
	if (!w->writer)
		return bench_time(w->device, e->call, w, budget, &e->seconds, f);
	int rc = bench_time(w->device, w->writer, w, budget, &writing, f);
	if (!rc)
		rc = bench_time(w->device, call_writer_and_reader, w, budget, &e->seconds, f);
	e->seconds -= writing;
	return rc;
}

static int measure(const struct options *o, struct work *w, struct fault *f)
{
	struct operation table[2 * GROUPS + 16];
	double ceiling = 0, copy = 0, budget = strcmp(w->device->ops->name, "cpu") == 0 ? 0.5 : 0.1;
	size_t count = make_table(w, table);
	int rc = bench_ceiling(&w->bench, &ceiling, f);
	for (size_t i = 0; i < count && !rc; i++) {
		cli_progress("%s", table[i].name);
		rc = time_one(w, &table[i], budget, f);
		if (rc)
			fault_wrap(f, "%s", table[i].name);
	}
	if (!rc)
		rc = bench_time(w->device, call_copy, w, budget, &copy, f);
	if (rc)
		return rc;
	cli_progress_end();
	/* Read and written. */
	copy = 2 * (double)(w->n * 2 * w->ffn * w->device->act_size) / copy;
	show(o, table, count, ceiling, copy);
	return 0;
}

static int read_options(int argc, char **argv, struct options *o)
{
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o->model, "FILE", "GGUF file, folder or shape:NAME; only its shape is used"},
		{"device", CLI_TEXT, &o->device, "NAME", "cpu (default) or cuda[:N]"},
		{"batch", CLI_COUNT, &o->batch, "N", "rows of the micro-batch (2)"},
		{"seq", CLI_COUNT, &o->seq, "N", "tokens of every row (2048)"},
		{"rank", CLI_COUNT, &o->rank, "R", "rank of the adapter (16)"},
		{"base-dtype", CLI_TEXT, &o->base_dtype, "TYPE", "bf16 (default), f32, q4; on a GPU also fp8"},
		{"threads", CLI_COUNT, &o->threads, "N", "default: one a core"},
		{"json", CLI_FLAG, &o->json, NULL, "one JSON object a line: operation, step"},
		{0},
	};
	int code = cli_parse(argc, argv, "--model FILE [OPTION]...", table, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (!o->model)
		return cli_usage(argv[0], "--model is missing");
	if (o->batch < 1 || o->seq < 2 || o->batch > 1 << 20 || o->seq > 1 << 20 || o->batch * o->seq > 1 << 20)
		return cli_usage(
			argv[0], "--batch times --seq: expected rows of at least 2 tokens, at most %d", 1 << 20);
	if (o->rank < 1 || o->rank > LORA_MAX_RANK)
		return cli_usage(argv[0], "--rank: expected 1 to %d", LORA_MAX_RANK);
	return CLI_CONTINUE;
}

static int read_storage(const char *word, enum dtype *act, enum weight_storage *storage, struct fault *f)
{
	enum trainer_dtype type;
	int rc = engine_read_dtype(word, &type, f);
	if (rc)
		return rc;
	if (type == TRAINER_STORED)
		return fault_set(f, SAKIORI_EUSAGE, "--base-dtype as-stored: only a shape is used here; try q4");
	*act = trainer_act(type);
	*storage = trainer_storage(type);
	return 0;
}

static int run(const struct options *o, struct model_file *mf, struct fault *f)
{
	struct device_config device = {
		.name = o->device, .threads = o->threads > 4096 ? 4096 : (unsigned)o->threads, .cache = engine_cache()};
	const struct model_shape *s = model_file_shape(mf);
	struct work w = {.shape = s,
		.n = o->batch * o->seq,
		.rows = o->batch,
		.seq = o->seq,
		.rank = o->rank,
		.hidden = s->hidden,
		.query = (size_t)s->heads * s->head_size,
		.key = (size_t)s->kv_heads * s->head_size,
		.ffn = s->intermediate,
		.vocabulary = s->vocabulary};
	for (int g = 0; g < GROUPS; g++)
		w.parameter_count += s->layers * o->rank * (parts(g) * columns(&w, g) + outputs(&w, g));
	int rc = read_storage(o->base_dtype, &device.act, &w.storage, f);
	if (!rc)
		rc = bench_open(&w.bench, &device, f);
	if (rc)
		return rc;
	w.device = w.bench.device;
	rc = prepare(&w, f);
	if (!rc)
		rc = measure(o, &w, f);
	release(&w);
	bench_close(&w.bench);
	return rc;
}

int bench_ops(int argc, char **argv)
{
	struct options o = {.device = "cpu", .base_dtype = "bf16", .batch = 2, .seq = 2048, .rank = 16};
	struct model_file *mf = NULL;
	struct fault f = {0};
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	int rc = model_file_open(o.model, &mf, &f);
	if (!rc)
		rc = run(&o, mf, &f);
	model_file_close(mf);
	return rc ? cli_fail(&f) : EXIT_CODE_OK;
}
