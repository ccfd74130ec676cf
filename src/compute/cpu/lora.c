/* SPDX-License-Identifier: Apache-2.0 */
/* Linears with adapters. Measured with oneDNN on AVX-512 at 2048 tokens, the rank-16 products reach 60 to 95 % of the rate of the
 * large ones, so nothing is written by hand here; what is shared is joined: one dx and one grad_a product for all linears of a call. */
#include "base/bytes.h"
#include "compute/cpu/cpu.h"
#include "compute/cpu/simd.h"
#include "compute/cpu/weight.h"

#define LINEARS_MAX 8

/* The tokens of a call, made contiguous when there is an index list. */
struct lora_call {
	struct device *d;
	const struct tokens *t;
	size_t n;      /* tokens computed */
	const void *x; /* (n, cols) */
	size_t cols;
};

struct move_args {
	const uint32_t *index;
	char *compact, *full;
	size_t bytes; /* of one token */
	bool scatter;
};

static void move_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct move_args *m = args;
	(void)thread;
	for (size_t i = begin; i < end; i++) {
		char *full = m->full + m->index[i] * m->bytes;
		char *compact = m->compact + i * m->bytes;
		memcpy(m->scatter ? full : compact, m->scatter ? compact : full, m->bytes);
	}
}

static void scatter(struct lora_call *c, void *compact, void *full, size_t width)
{
	struct move_args m = {.index = c->t->index,
		.compact = compact,
		.full = full,
		.bytes = width * c->d->act_size,
		.scatter = true};
	if (c->t->index && full && !c->d->fault.code)
		cpu_run(c->d, c->n, 64, move_body, &m);
}

/* The listed tokens of `full` (N, width) in a row; `full` itself without a list. */
static void *gather(struct lora_call *c, enum cpu_scratch_slot slot, const void *full, size_t width, bool fetch)
{
	if (!c->t->index || !full)
		return (void *)(uintptr_t)full;
	struct move_args m = {.index = c->t->index, .full = (void *)(uintptr_t)full, .bytes = width * c->d->act_size};
	m.compact = cpu_scratch(c->d, slot, c->n * m.bytes);
	if (m.compact && fetch)
		cpu_run(c->d, c->n, 64, move_body, &m);
	return m.compact;
}

static struct lora_call call_begin(
	struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l, size_t count)
{
	struct lora_call c = {.d = d, .t = t, .n = t->index ? t->index_count : t->count, .cols = l[0].weight->cols};
	if (count > LINEARS_MAX)
		device_fail(d, SAKIORI_EINVAL, "%zu linears in one call; at most %d", count, LINEARS_MAX);
	for (size_t i = 1; i < count; i++)
		if (l[i].weight->cols != c.cols)
			device_fail(d, SAKIORI_EINVAL, "linears that share an input need as many columns");
	if (!d->fault.code)
		c.x = gather(&c, SCRATCH_TOKENS_X, x, c.cols, true);
	return c;
}

/* The adapter factor in the activation type. */
static void *factor(struct device *d, enum cpu_scratch_slot slot, const float *values, size_t n)
{
	void *p = cpu_scratch(d, slot, n * d->act_size);
	if (p)
		cpu_to_act(d, p, values, n);
	return p;
}

static void forward_one(struct lora_call *c, const struct lora_linear *l)
{
	struct device *d = c->d;
	size_t out = l->weight->rows, r = l->rank;
	void *y = gather(c, SCRATCH_TOKENS_Y, l->y, out, false);
	if (!r) {
		cpu_matmul(d, c->n, c->x, l->weight, l->bias, y);
	} else if (!d->fault.code) {
		void *s = c->t->index || !l->s ? cpu_scratch(d, SCRATCH_TOKENS_S, c->n * r * d->act_size) : l->s;
		const void *a = factor(d, SCRATCH_LORA_A, l->a, r * c->cols);
		const void *b = factor(d, SCRATCH_LORA_B, l->b, out * r);
		if (!s || !a || !b)
			return;
		struct gemm_shape down = {.m = c->n,
			.n = r,
			.k = c->cols,
			.a_row = c->cols,
			.a_col = 1,
			.b_row = 1,
			.b_col = c->cols,
			.c_row = r,
			.a_type = d->act,
			.b_type = d->act,
			.c_type = d->act,
			.scale = 1};
		gemm_tokens(d, &down, c->x, a, NULL, s);
		struct gemm_shape up = {.m = c->n,
			.n = out,
			.k = r,
			.a_row = r,
			.a_col = 1,
			.b_row = 1,
			.b_col = r,
			.c_row = out,
			.a_type = d->act,
			.b_type = d->act,
			.c_type = d->act,
			.scale = l->scale};
		gemm_tokens(d, &up, s, b, NULL, y);
		/* The adapter's part first, the base's onto it: in bf16 an addition the other way round loses whatever is below
		 * half a unit of the base's last place, which early in training is most of the adapter. */
		cpu_matmul_add(d, c->n, c->x, l->weight, l->bias, y);
		scatter(c, s, l->s, r);
	}
	scatter(c, y, l->y, out);
}

void cpu_lora_forward(
	struct device *d, const struct tokens *t, const void *x, const struct lora_linear *linears, size_t count)
{
	if (d->fault.code || !count)
		return;
	gemm_plans_trim(d);
	struct lora_call c = call_begin(d, t, x, linears, count);
	for (size_t i = 0; i < count && !d->fault.code; i++)
		forward_one(&c, &linears[i]);
}

/* gradient (rows, cols) += g, or += g (cols, rows) transposed; returns the sum of g's squares. */
static double gradient_add(
	const struct device *d, float *gradient, const void *g, size_t rows, size_t cols, bool transposed)
{
	double squares = 0;
	for (size_t i = 0; i < rows; i++)
		for (size_t j = 0; j < cols; j++) {
			size_t at = transposed ? j * rows + i : i * cols + j;
			double value = d->act == DTYPE_F64 ? ((const double *)g)[at] : (double)((const float *)g)[at];
			gradient[i * cols + j] += (float)value;
			squares += value * value;
		}
	return squares;
}

static uint32_t sum_type(const struct device *d)
{
	return d->act == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}

/* First computed token of row `row`, by its place among the computed ones. */
static size_t row_begin(const struct lora_call *c, size_t row, size_t from)
{
	size_t bound = c->t->row_offsets[row];
	if (!c->t->index)
		return bound;
	while (from < c->n && c->t->index[from] < bound)
		from++;
	return from;
}

/* g (m, n) = scale * left^T right over the tokens [begin, end); left (tokens, m) with rows left_row apart, right (tokens, n). */
static void token_product(struct lora_call *c, size_t begin, size_t end, const void *left, size_t left_row, size_t m,
	const void *right, size_t n, float scale, uint32_t flags, void *g)
{
	struct device *d = c->d;
	struct gemm_shape s = {.m = m,
		.n = n,
		.k = end - begin,
		.a_row = 1,
		.a_col = left_row,
		.b_row = n,
		.b_col = 1,
		.c_row = n,
		.a_type = d->act,
		.b_type = d->act,
		.c_type = sum_type(d),
		.flags = flags,
		.scale = scale};
	gemm_over_tokens(d, &s, act_at(d, left, begin * left_row), act_at(d, right, begin * n), g);
}

/* What a factor's gradient is made of: scale * left^T right, row by row when the rows' norms are wanted. */
typedef double gradient_sink(void *self, const void *g);

static void factor_gradient(struct lora_call *c, const void *left, size_t left_row, size_t m, const void *right,
	size_t n, float scale, gradient_sink *sink, void *self, double *row_squares)
{
	struct device *d = c->d;
	void *g = cpu_scratch(d, SCRATCH_LORA_GRADIENT, m * n * dtype_size((enum dtype)sum_type(d)));
	size_t parts = row_squares ? c->t->rows : 1;
	size_t begin = 0;
	for (size_t part = 0; part < parts && g && !d->fault.code; part++) {
		size_t end = row_squares ? row_begin(c, part + 1, begin) : c->n;
		if (begin < end) {
			token_product(c, begin, end, left, left_row, m, right, n, scale, 0, g);
			double squares = d->fault.code ? 0 : sink(self, g);
			if (row_squares)
				row_squares[part] += squares;
		}
		begin = end;
	}
}

struct sink_args {
	struct device *d;
	const struct lora_linear *linears;
	size_t count;
	size_t cols;
};

static double sink_b(void *self, const void *g)
{
	const struct sink_args *s = self;
	return gradient_add(s->d, s->linears->grad_b, g, s->linears->weight->rows, s->linears->rank, true);
}

/* g holds all the linears' grad_a one above the other. */
static double sink_a(void *self, const void *g)
{
	const struct sink_args *s = self;
	size_t each = dtype_size((enum dtype)sum_type(s->d));
	double squares = 0;
	for (size_t i = 0; i < s->count; i++) {
		const struct lora_linear *l = &s->linears[i];
		if (l->grad_a)
			squares += gradient_add(s->d, l->grad_a, g, l->rank, s->cols, false);
		g = (const char *)g + l->rank * s->cols * each;
	}
	return squares;
}

struct indexed_args {
	const struct weight_gradient *hook;
	const void *x, *dy;
	size_t n, rows, cols;
};

#define ACT_TEMPLATE "compute/cpu/lora.inc"
#include "compute/cpu/each_act.h"

/* out (rows, n) += dy^T right, exactly in f64. */
static void hook_product(struct lora_call *c, const void *dy, size_t rows, const void *right, size_t n, float *out)
{
	struct device *d = c->d;
	if (d->act != DTYPE_F64) {
		token_product(c, 0, c->n, dy, rows, rows, right, n, 1, GEMM_ACCUMULATE, out);
		return;
	}
	void *g = cpu_scratch(d, SCRATCH_LORA_GRADIENT, rows * n * sizeof(double));
	if (!g)
		return;
	token_product(c, 0, c->n, dy, rows, rows, right, n, 1, 0, g);
	gradient_add(d, out, g, rows, n, false);
}

static void weight_gradient(struct lora_call *c, const struct lora_linear *l, const void *dy)
{
	struct device *d = c->d;
	const struct weight_gradient *hook = l->gradient;
	size_t rows = l->weight->rows;
	if (!hook || d->fault.code || !c->n)
		return;
	if (hook->kind == WEIGHT_GRADIENT_DENSE)
		hook_product(c, dy, rows, c->x, c->cols, hook->out);
	if (hook->kind == WEIGHT_GRADIENT_SKETCHED) {
		void *omega = factor(d, SCRATCH_LORA_A, hook->omega, c->cols * hook->k);
		void *sketch = cpu_scratch(d, SCRATCH_HOOK, c->n * hook->k * d->act_size);
		if (!omega || !sketch)
			return;
		struct gemm_shape s = {.m = c->n,
			.n = hook->k,
			.k = c->cols,
			.a_row = c->cols,
			.a_col = 1,
			.b_row = hook->k,
			.b_col = 1,
			.c_row = hook->k,
			.a_type = d->act,
			.b_type = d->act,
			.c_type = d->act,
			.scale = 1};
		gemm_tokens(d, &s, c->x, omega, NULL, sketch);
		hook_product(c, dy, rows, sketch, hook->k, hook->out);
	}
	if (hook->kind == WEIGHT_GRADIENT_INDEXED) {
		struct indexed_args args = {
			.hook = hook, .x = c->x, .dy = dy, .n = c->n, .rows = rows, .cols = c->cols};
		cpu_run(d, hook->k, 16, CPU_PICK(d, indexed_body), &args);
	}
}

/* Everything of one linear but its share of grad_a and the adapter's part of dx, for which ds (n, all ranks) is left behind. */
static void backward_one(struct lora_call *c, const struct lora_linear *l, void *dx, bool accumulate, void *ds,
	size_t ranks, size_t at, double *row_squares)
{
	struct device *d = c->d;
	size_t out = l->weight->rows, r = l->rank;
	const void *dy = gather(c, SCRATCH_TOKENS_Y, l->dy, out, true);
	if (dx)
		cpu_matmul_backward(d, c->n, dy, l->weight, dx, accumulate);
	weight_gradient(c, l, dy);
	if (!r || d->fault.code)
		return;
	void *b = factor(d, SCRATCH_LORA_B, l->b, out * r);
	struct gemm_shape s = {.m = c->n,
		.n = r,
		.k = out,
		.a_row = out,
		.a_col = 1,
		.b_row = r,
		.b_col = 1,
		.c_row = ranks,
		.a_type = d->act,
		.b_type = d->act,
		.c_type = d->act,
		.scale = l->scale};
	if (b)
		gemm_tokens(d, &s, dy, b, NULL, act_at(d, ds, at));
	if (!l->grad_b || d->fault.code)
		return;
	const void *saved = gather(c, SCRATCH_TOKENS_S, l->s, r, true);
	struct sink_args sink = {.d = d, .linears = l};
	factor_gradient(c, saved, r, r, dy, out, l->scale, sink_b, &sink, row_squares);
}

/* dx += ds A and grad_a += ds^T x for all linears at once. */
static void backward_shared(struct lora_call *c, const struct lora_linear *l, size_t count, void *dx, const void *ds,
	size_t ranks, double *row_squares)
{
	struct device *d = c->d;
	bool wanted = false;
	char *a = cpu_scratch(d, SCRATCH_LORA_A, ranks * c->cols * d->act_size);
	for (size_t i = 0, at = 0; a && i < count; at += l[i++].rank) {
		if (l[i].rank)
			cpu_to_act(d, act_at(d, a, at * c->cols), l[i].a, l[i].rank * c->cols);
		wanted |= l[i].rank && l[i].grad_a;
	}
	struct gemm_shape s = {.m = c->n,
		.n = c->cols,
		.k = ranks,
		.a_row = ranks,
		.a_col = 1,
		.b_row = c->cols,
		.b_col = 1,
		.c_row = c->cols,
		.a_type = d->act,
		.b_type = d->act,
		.c_type = d->act,
		.flags = GEMM_ACCUMULATE,
		.scale = 1};
	if (dx && a)
		gemm_tokens(d, &s, ds, a, NULL, dx);
	struct sink_args sink = {.d = d, .linears = l, .count = count, .cols = c->cols};
	if (wanted && !d->fault.code)
		factor_gradient(c, ds, ranks, ranks, c->x, c->cols, 1, sink_a, &sink, row_squares);
}

void cpu_lora_backward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *linears,
	size_t count, void *dx, bool accumulate, double *row_squares)
{
	if (d->fault.code || !count)
		return;
	if (row_squares && !t->row_offsets) {
		device_fail(d, SAKIORI_EINVAL, "the rows' norms are wanted, but there are no row offsets");
		return;
	}
	gemm_plans_trim(d);
	struct lora_call c = call_begin(d, t, x, linears, count);
	size_t ranks = 0;
	for (size_t i = 0; i < count; i++)
		ranks += linears[i].rank;
	void *ds = ranks ? cpu_scratch(d, SCRATCH_LORA_DS, c.n * ranks * d->act_size) : NULL;
	void *compact_dx = gather(&c, SCRATCH_TOKENS_DX, dx, c.cols, accumulate);
	size_t at = 0;
	for (size_t i = 0; i < count && !d->fault.code; at += linears[i++].rank)
		backward_one(&c, &linears[i], compact_dx, accumulate || i, ds, ranks, at, row_squares);
	if (ranks && !d->fault.code)
		backward_shared(&c, linears, count, compact_dx, ds, ranks, row_squares);
	scatter(&c, compact_dx, dx, c.cols);
}
