/* SPDX-License-Identifier: Apache-2.0 */
/* What the CPU's operations reach at the shapes of SmolLM2-135M: one JSON line each. Usage: bench_ops [TOKENS [THREADS [f32|bf16]]].
 * "product" is one large product of the base model; the best of them is the ceiling that the last line gives, together with the time of a whole
 * layer made of the operations in the order in which the model calls them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "compute/compute.h"

enum { HIDDEN = 576, INNER = 1536, HEADS = 9, KV_HEADS = 3, HEAD_DIM = 64, VOCABULARY = 49152, RANK = 16, ROW = 512 };
enum { QKV, O, GATE_UP, DOWN, LINEARS };
enum { KEY = KV_HEADS * HEAD_DIM, WIDE = HIDDEN + 2 * KEY };

static const struct {
	const char *name;
	size_t in, parts, out[3];
} shapes[LINEARS] = {
	{"qkv", HIDDEN, 3, {HIDDEN, KEY, KEY}},
	{"o", HIDDEN, 1, {HIDDEN}},
	{"gate_up", HIDDEN, 2, {INNER, INNER}},
	{"down", INNER, 1, {HIDDEN}},
};

struct bench {
	struct device *d;
	struct tokens t;
	size_t n;
	struct weight *weight[LINEARS], *head;
	struct lora_linear linear[LINEARS];
	void *x, *wide, *wide2, *gate_up, *y, *y2, *qkv, *d_qkv, *out, *dout;
	float *norm, *inverse, *lse, *flat[4];
	int32_t *labels;
	uint32_t *positions, *ids;
	struct rope rope;
	struct attention attention;
	double ceiling; /* GF/s */
	int which;      /* linear under test */
};

/* With one thread its own time, which a busy machine disturbs less. */
static double now(const struct bench *b)
{
	struct timespec t;
	clock_gettime(b->d->threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of the best of several runs, after one that warms up. */
static double best(void (*f)(struct bench *), struct bench *b)
{
	double least = 1e9, spent = 0;
	f(b);
	for (int i = 0; i < 50 && (i < 3 || spent < 0.3); i++) {
		double start = now(b);
		f(b);
		double t = now(b) - start;
		spent += t;
		least = t < least ? t : least;
	}
	return least;
}

static int random_rows(void *self, size_t first, size_t count, float *out)
{
	struct rng r;
	size_t cols = *(size_t *)self;
	rng_init(&r, 1, first);
	for (size_t i = 0; i < count * cols; i++)
		out[i] = 0.05f * (rng_uniform(&r) - 0.5f);
	return 0;
}

static void *random_act(struct bench *b, size_t n)
{
	struct rng r;
	rng_init(&r, 2, n);
	float *values = must_alloc(n * sizeof *values);
	for (size_t i = 0; i < n; i++)
		values[i] = rng_uniform(&r) - 0.5f;
	void *act = b->d->ops->alloc(b->d, n * b->d->act_size);
	b->d->ops->to_act(b->d, act, values, n);
	free(values);
	return act;
}

static float *random_floats(struct bench *b, size_t n)
{
	struct rng r;
	rng_init(&r, 3, n);
	float *values = b->d->ops->alloc(b->d, n * sizeof *values);
	for (size_t i = 0; values && i < n; i++)
		values[i] = 0.1f * (rng_uniform(&r) - 0.5f);
	return values;
}

static size_t outputs(int l)
{
	size_t rows = 0;
	for (size_t i = 0; i < shapes[l].parts; i++)
		rows += shapes[l].out[i];
	return rows;
}

static struct weight *random_weight(struct bench *b, size_t rows, size_t cols)
{
	struct weight_source source = {.fill = random_rows, .self = &cols};
	enum weight_storage storage = b->d->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
	return b->d->ops->weight_new(b->d, rows, cols, storage, WEIGHT_FORWARD | WEIGHT_BACKWARD, 0, &source);
}

static void init_linears(struct bench *b)
{
	for (int l = 0; l < LINEARS; l++) {
		size_t rows = outputs(l), in = shapes[l].in, parts = shapes[l].parts;
		b->weight[l] = random_weight(b, rows, in);
		b->linear[l] = (struct lora_linear){.weight = b->weight[l],
			.scale = 2,
			.parts = parts,
			.s = random_act(b, b->n * parts * RANK),
			.ds = random_act(b, b->n * parts * RANK),
			.y = random_act(b, b->n * rows)};
		b->linear[l].dy = b->linear[l].y;
		for (size_t i = 0; i < parts; i++)
			b->linear[l].part[i] = (struct lora_part){.rows = shapes[l].out[i],
				.rank = RANK,
				.a = random_floats(b, RANK * in),
				.b = random_floats(b, RANK * shapes[l].out[i]),
				.grad_a = random_floats(b, RANK * in),
				.grad_b = random_floats(b, RANK * shapes[l].out[i])};
	}
	b->head = random_weight(b, VOCABULARY, HIDDEN);
}

static void init(struct bench *b, enum dtype act, size_t n, unsigned threads)
{
	struct device_config config = {.name = "cpu", .threads = threads, .act = act};
	struct fault f;
	if (device_open(&config, &b->d, &f)) {
		fprintf(stderr, "bench_ops: %s\n", f.text);
		exit(EXIT_FAILURE);
	}
	b->n = n;
	init_linears(b);
	void **hidden[] = {&b->x, &b->y, &b->y2, &b->out, &b->dout};
	for (int i = 0; i < 5; i++)
		*hidden[i] = random_act(b, n * HIDDEN);
	b->wide = random_act(b, n * INNER);
	b->wide2 = random_act(b, n * INNER);
	b->gate_up = random_act(b, n * 2 * INNER);
	b->qkv = random_act(b, n * WIDE);
	b->d_qkv = random_act(b, n * WIDE);
	for (int i = 0; i < 4; i++)
		b->flat[i] = random_floats(b, 5000000);
	b->norm = random_floats(b, HIDDEN);
	b->inverse = random_floats(b, n);
	b->lse = random_floats(b, n * HEADS);
	b->labels = must_calloc(n, sizeof *b->labels);
	b->positions = must_calloc(n, sizeof *b->positions);
	b->ids = must_calloc(n, sizeof *b->ids);
	uint32_t *offsets = must_calloc(n / ROW + 2, sizeof *offsets);
	size_t rows = 0;
	for (size_t i = 0; i < n; i++) {
		b->labels[i] = (int32_t)(i * 7 % VOCABULARY);
		b->ids[i] = (uint32_t)(i * 13 % VOCABULARY);
		b->positions[i] = (uint32_t)(i % ROW);
		if (i % ROW == 0)
			offsets[rows++] = (uint32_t)i;
	}
	offsets[rows] = (uint32_t)n;
	b->t = (struct tokens){.count = n, .row_offsets = offsets, .rows = rows, .longest = n < ROW ? n : ROW};
	b->rope = (struct rope){.cosine = random_floats(b, ROW * 32),
		.sine = random_floats(b, ROW * 32),
		.half = 32,
		.head_dim = HEAD_DIM};
	b->attention = (struct attention){.heads = HEADS,
		.kv_heads = KV_HEADS,
		.head_dim = HEAD_DIM,
		.scale = 0.125f,
		.q_stride = WIDE,
		.kv_stride = WIDE};
}

static void *input_of(struct bench *b, int l)
{
	return l == DOWN ? b->wide : b->x;
}

static void product(struct bench *b)
{
	b->d->ops->matmul(b->d, b->n, input_of(b, b->which), b->weight[b->which], NULL, b->linear[b->which].y);
}

static void product_back(struct bench *b)
{
	b->d->ops->matmul_backward(
		b->d, b->n, b->linear[b->which].dy, b->weight[b->which], b->which == DOWN ? b->wide2 : b->y, false);
}

static void forward(struct bench *b)
{
	b->d->ops->lora_forward(b->d, &b->t, input_of(b, b->which), &b->linear[b->which]);
}

static void backward(struct bench *b)
{
	b->d->ops->lora_backward(b->d, &b->t, input_of(b, b->which), &b->linear[b->which],
		b->which == DOWN ? b->wide2 : b->y, false, NULL);
}

static void norm_forward(struct bench *b)
{
	b->d->ops->norm_forward(b->d, NORM_RMS, b->n, HIDDEN, b->x, b->y, b->y2, b->norm, 1e-5f, b->out, 0, b->inverse);
}

static void norm_backward(struct bench *b)
{
	b->d->ops->norm_backward(b->d, NORM_RMS, b->n, HIDDEN, b->y, b->x, b->norm, b->inverse, b->dout);
}

static void rope(struct bench *b)
{
	b->d->ops->rope_forward(b->d, &b->rope, b->n, b->positions, b->d_qkv, HEADS + KV_HEADS, WIDE);
}

static void swiglu(struct bench *b)
{
	b->d->ops->activation_forward(b->d, ACTIVATION_SWIGLU, b->n, INNER, b->gate_up, b->wide, 0);
}

static void swiglu_backward(struct bench *b)
{
	b->d->ops->activation_backward(b->d, ACTIVATION_SWIGLU, b->n, INNER, b->wide2, b->gate_up, b->wide2);
}

static void attention(struct bench *b)
{
	b->d->ops->attention_forward(b->d, &b->attention, &b->t, b->qkv, act_at(b->d, b->qkv, HIDDEN),
		act_at(b->d, b->qkv, HIDDEN + KEY), b->out, b->lse);
}

static void attention_backward(struct bench *b)
{
	b->d->ops->attention_backward(b->d, &b->attention, &b->t, b->qkv, act_at(b->d, b->qkv, HIDDEN),
		act_at(b->d, b->qkv, HIDDEN + KEY), b->out, b->lse, b->dout, b->d_qkv, act_at(b->d, b->d_qkv, HIDDEN),
		act_at(b->d, b->d_qkv, HIDDEN + KEY));
}

static void loss(struct bench *b)
{
	const float each = 1.0f / (float)b->n;
	struct cross_entropy c = {.labels = b->labels, .gradient_scale = &each};
	b->d->ops->cross_entropy(b->d, &c, &b->t, b->x, b->head, b->y);
}

static void adamw(struct bench *b)
{
	struct adamw a = {
		.lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .step = 3, .gradient_scale = 1};
	b->d->ops->adamw(b->d, &a, b->flat[0], b->flat[1], b->flat[2], b->flat[3], 4884480);
}

static void embedding(struct bench *b)
{
	b->d->ops->embedding(b->d, b->n, b->ids, b->head, b->y);
}

static void layer_forward(struct bench *b)
{
	const struct device_ops *o = b->d->ops;
	struct lora_linear *l = b->linear;
	norm_forward(b);
	o->lora_forward(b->d, &b->t, b->x, &l[QKV]);
	o->rope_forward(b->d, &b->rope, b->n, b->positions, l[QKV].y, HEADS + KV_HEADS, WIDE);
	attention(b);
	o->lora_forward(b->d, &b->t, b->x, &l[O]);
	norm_forward(b);
	o->lora_forward(b->d, &b->t, b->x, &l[GATE_UP]);
	swiglu(b);
	o->lora_forward(b->d, &b->t, b->wide, &l[DOWN]);
}

static void layer_backward(struct bench *b)
{
	const struct device_ops *o = b->d->ops;
	struct lora_linear *l = b->linear;
	o->lora_backward(b->d, &b->t, NULL, &l[DOWN], b->wide2, false, NULL);
	swiglu_backward(b);
	o->lora_gradient_a(b->d, &b->t, b->wide2, &l[DOWN]);
	norm_forward(b);
	o->lora_backward(b->d, &b->t, b->x, &l[GATE_UP], b->y, false, NULL);
	norm_backward(b);
	o->lora_backward(b->d, &b->t, b->x, &l[O], b->y, false, NULL);
	attention_backward(b);
	o->rope_backward(b->d, &b->rope, b->n, b->positions, b->d_qkv, HEADS + KV_HEADS, WIDE);
	norm_forward(b);
	o->lora_backward(b->d, &b->t, b->x, &l[QKV], b->y, false, NULL);
	norm_backward(b);
}

/* flops or bytes of one run; 0: not told */
static double report(
	struct bench *b, const char *op, const char *shape, void (*f)(struct bench *), double flops, double bytes)
{
	double t = best(f, b);
	printf("{\"op\":\"%s\"", op);
	if (shape)
		printf(",\"shape\":\"%s\"", shape);
	printf(",\"tokens\":%zu,\"ms\":%.3f", b->n, t * 1e3);
	if (flops > 0)
		printf(",\"gflops\":%.1f", flops / t * 1e-9);
	if (bytes > 0)
		printf(",\"gigabytes_per_second\":%.1f", bytes / t * 1e-9);
	puts("}");
	return t;
}

static void linears(struct bench *b)
{
	for (b->which = 0; b->which < LINEARS; b->which++) {
		const char *name = shapes[b->which].name;
		double base = 2.0 * (double)(b->n * shapes[b->which].in * outputs(b->which));
		double pair = 2.0 * (double)(b->n * RANK *
					     (shapes[b->which].parts * shapes[b->which].in + outputs(b->which)));
		double rate = base / report(b, "product", name, product, base, 0) * 1e-9;
		b->ceiling = rate > b->ceiling ? rate : b->ceiling;
		rate = base / report(b, "product_backward", name, product_back, base, 0) * 1e-9;
		b->ceiling = rate > b->ceiling ? rate : b->ceiling;
		report(b, "lora_forward", name, forward, base + pair, 0);
		report(b, "lora_backward", name, backward, base + 2 * pair, 0);
	}
}

/* FLOPs of the model's maths, attention halved by the causal mask. */
static void summary(struct bench *b)
{
	double base = 0, pair = 0, n = (double)b->n;
	for (int l = 0; l < LINEARS; l++) {
		base += 2.0 * n * (double)(shapes[l].in * outputs(l));
		pair += 2.0 * n * RANK * (double)(shapes[l].parts * shapes[l].in + outputs(l));
	}
	double attended = 4.0 * n * (ROW / 2.0) * HIDDEN;
	double f = report(b, "layer_forward", NULL, layer_forward, base + pair + attended, 0);
	double k = report(b, "layer_backward", NULL, layer_backward, base + 2 * pair + 2 * attended, 0);
	double c = report(b, "cross_entropy", NULL, loss, 4.0 * n * HIDDEN * VOCABULARY, 0);
	double step = 30 * (f + k) + c;
	double flops = 30 * (2 * base + 3 * pair + 3 * attended) + 4.0 * n * HIDDEN * VOCABULARY;
	printf("{\"op\":\"summary\",\"act\":\"%s\",\"threads\":%u,\"ceiling_gflops\":%.1f,\"step_seconds\":%.3f,"
	       "\"tokens_per_second\":%.0f,"
	       "\"share_of_ceiling\":%.3f}\n",
		dtype_name(b->d->act), b->d->threads, b->ceiling, step, n / step, flops / step * 1e-9 / b->ceiling);
}

int main(int argc, char **argv)
{
	static struct bench b;
	size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 2048;
	unsigned threads = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
	if (n < 1 || n > 65536) {
		fprintf(stderr, "usage: bench_ops [TOKENS [THREADS [f32|bf16]]]\n");
		return 2;
	}
	init(&b, argc > 3 && !strcmp(argv[3], "f32") ? DTYPE_F32 : DTYPE_BF16, n, threads);
	double size = (double)b.d->act_size, hidden = (double)(n * HIDDEN) * size, inner = (double)(n * INNER) * size;
	linears(&b);
	report(&b, "norm_forward", NULL, norm_forward, 0, 4 * hidden);
	report(&b, "norm_backward", NULL, norm_backward, 0, 4 * hidden);
	report(&b, "rope", NULL, rope, 0, 2 * hidden * (HEADS + KV_HEADS) / HEADS);
	report(&b, "swiglu", NULL, swiglu, 0, 3 * inner);
	report(&b, "swiglu_backward", NULL, swiglu_backward, 0, 6 * inner);
	report(&b, "embedding", NULL, embedding, 0, 2 * hidden);
	report(&b, "adamw", NULL, adamw, 0, 7 * 4884480.0 * 4);
	double attended = 4.0 * (double)n * (ROW / 2.0) * HIDDEN;
	report(&b, "attention", NULL, attention, attended, 0);
	report(&b, "attention_backward", NULL, attention_backward, 2 * attended, 0);
	summary(&b);
	struct fault f;
	if (device_sync(b.d, &f)) {
		fprintf(stderr, "bench_ops: %s\n", f.text);
		return 1;
	}
	return 0;
}
