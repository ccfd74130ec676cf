/* SPDX-License-Identifier: Apache-2.0 */
/* Linears with adapters. Measured with oneDNN on AVX-512 at 2048 tokens, the rank-16 products reach 60 to 95 % of the rate of the
 * large ones, so nothing is written by hand here; what is shared is joined: all parts have one product with the base weight, one dx and
 * one grad_a. */
#include "base/bytes.h"
#include "compute/cpu/cpu.h"
#include "compute/cpu/simd.h"
#include "compute/cpu/weight.h"

/* The tokens of a call, made contiguous when there is an index list. */
struct lora_call {
	struct device *d;
	const struct tokens *t;
	const struct lora_linear *l;
	size_t n;           /* tokens computed */
	size_t rows, cols;  /* of the weight */
	size_t ranks;       /* of all parts */
	const void *x;      /* (n, cols); NULL: not there */
	size_t x_row;       /* elements from token to token of x */
	const void *down_x; /* what the adapter reads, down_row apart */
	size_t down_row;
	double *row_squares;
};

struct move_args {
	const uint32_t *index;
	char *compact, *full;
	size_t bytes; /* of one token */
	size_t step;  /* from token to token of full */
	bool scatter;
};

static void move_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct move_args *m = args;
	(void)thread;
	for (size_t i = begin; i < end; i++) {
		char *full = m->full + m->index[i] * m->step;
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
		.step = width * c->d->act_size,
		.scatter = true};
	if (c->t->index && full && !c->d->fault.code)
		cpu_run(c->d, c->n, 64, move_body, &m);
}

/* The listed tokens of `full` (N, width), `row` elements apart, in a row; `full` itself without a list. */
static void *gather_rows(
	struct lora_call *c, enum cpu_scratch_slot slot, const void *full, size_t width, size_t row, bool fetch)
{
	if (!c->t->index || !full)
		return (void *)(uintptr_t)full;
	struct move_args m = {.index = c->t->index,
		.full = (void *)(uintptr_t)full,
		.bytes = width * c->d->act_size,
		.step = row * c->d->act_size};
	m.compact = cpu_scratch(c->d, slot, c->n * m.bytes);
	if (m.compact && fetch)
		cpu_run(c->d, c->n, 64, move_body, &m);
	return m.compact;
}

static void *gather(struct lora_call *c, enum cpu_scratch_slot slot, const void *full, size_t width, bool fetch)
{
	return gather_rows(c, slot, full, width, width, fetch);
}

static struct lora_call call_begin(
	struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l, double *row_squares)
{
	struct lora_call c = {.d = d,
		.t = t,
		.l = l,
		.n = t->index ? t->index_count : t->count,
		.rows = l->weight->rows,
		.cols = l->weight->cols,
		.row_squares = row_squares};
	size_t rows = 0;
	if (l->parts > LORA_PARTS_MAX)
		device_fail(d, SAKIORI_EINVAL, "a linear of %zu parts; at most %d", l->parts, LORA_PARTS_MAX);
	for (size_t i = 0; i < l->parts && !d->fault.code; i++) {
		rows += l->part[i].rows;
		c.ranks += l->part[i].rank;
		if (l->part[i].rank && !l->part[i].rows)
			device_fail(d, SAKIORI_EINVAL, "part %zu of a linear has an adapter of rank %zu and no outputs",
				i, l->part[i].rank);
	}
	if (l->parts && rows != c.rows)
		device_fail(d, SAKIORI_EINVAL, "the parts of a linear have %zu outputs, its weight %zu", rows, c.rows);
	size_t full_row = l->x_stride ? l->x_stride : c.cols;
	if (full_row < c.cols)
		device_fail(d, SAKIORI_EINVAL, "tokens of %zu inputs lie %zu elements apart", c.cols, full_row);
	c.x_row = t->index ? c.cols : full_row;
	if (!d->fault.code)
		c.x = gather_rows(&c, SCRATCH_TOKENS_X, x, c.cols, full_row, true);
	c.down_x = c.x;
	c.down_row = c.x_row;
	return c;
}

static uint32_t sum_type(const struct device *d)
{
	return d->act == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}

/* The adapter factor in the activation type. */
static void *factor(struct device *d, enum cpu_scratch_slot slot, const float *values, size_t n)
{
	void *p = cpu_scratch(d, slot, n * d->act_size);
	if (p)
		cpu_to_act(d, p, values, n);
	return p;
}

/* A of all parts, one above the other: (ranks, cols). */
static void *all_a(struct lora_call *c)
{
	struct device *d = c->d;
	void *a = cpu_scratch(d, SCRATCH_LORA_A, c->ranks * c->cols * d->act_size);
	for (size_t i = 0, at = 0; a && i < c->l->parts; at += c->l->part[i++].rank)
		if (c->l->part[i].rank)
			cpu_to_act(d, act_at(d, a, at * c->cols), c->l->part[i].a, c->l->part[i].rank * c->cols);
	return a;
}

/* c (m, n) of activations, k being summed over; rows of a and c lie a_row and c_row apart, b as it is told. */
static struct gemm_shape act_shape(const struct device *d, size_t m, size_t n, size_t k, size_t a_row, size_t c_row)
{
	return (struct gemm_shape){.m = m,
		.n = n,
		.k = k,
		.a_row = a_row,
		.a_col = 1,
		.c_row = c_row,
		.a_type = d->act,
		.b_type = d->act,
		.c_type = d->act,
		.scale = 1};
}

/* s = x A^T, for l->s when that is wanted. */
static const void *down(struct lora_call *c)
{
	struct device *d = c->d;
	void *s = c->t->index || !c->l->s ? cpu_scratch(d, SCRATCH_TOKENS_S, c->n * c->ranks * d->act_size) : c->l->s;
	const void *a = all_a(c);
	struct gemm_shape shape = act_shape(d, c->n, c->ranks, c->cols, c->down_row, c->ranks);
	shape.b_row = 1;
	shape.b_col = c->cols;
	if (s && a)
		gemm_tokens(d, &shape, c->down_x, a, NULL, s);
	return s;
}

static void zero_columns(struct lora_call *c, void *y, size_t first, size_t count)
{
	for (size_t t = 0; t < c->n; t++)
		memset(act_at(c->d, y, t * c->rows + first), 0, count * c->d->act_size);
}

/* y = scale * s B^T, part by part. */
static void up(struct lora_call *c, const void *s, void *y)
{
	struct device *d = c->d;
	const struct lora_part *part = c->l->part;
	for (size_t i = 0, row = 0, at = 0; i < c->l->parts && !d->fault.code;
		row += part->rows, at += part->rank, i++) {
		part = &c->l->part[i];
		if (!part->rank) {
			zero_columns(c, y, row, part->rows);
			continue;
		}
		struct gemm_shape shape = act_shape(d, c->n, part->rows, part->rank, c->ranks, c->rows);
		shape.b_row = 1;
		shape.b_col = part->rank;
		shape.scale = lora_part_scale(c->l, i);
		const void *b = factor(d, SCRATCH_LORA_B, part->b, part->rows * part->rank);
		if (b)
			gemm_tokens(d, &shape, act_at(d, s, at), b, NULL, act_at(d, y, row));
	}
}

/* W + scale B A in the activation type, (rows, cols). */
static const void *merged(struct lora_call *c)
{
	void *w = cpu_scratch(c->d, SCRATCH_LORA_MERGED, c->rows * c->cols * c->d->act_size);
	if (w)
		weight_with_adapter(c->d, c->l, w);
	return w;
}

void cpu_lora_forward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l)
{
	if (d->fault.code || !weight_may(d, l->weight, WEIGHT_FORWARD))
		return;
	gemm_plans_trim(d);
	struct lora_call c = call_begin(d, t, x, l, NULL);
	if (d->fault.code)
		return;
	if (l->adapter_x) {
		c.down_x = gather(&c, SCRATCH_TOKENS_ADAPTER, l->adapter_x, c.cols, true);
		c.down_row = c.cols;
		if (l->forward != LORA_F1)
			device_fail(d, SAKIORI_EINVAL, "an adapter that reads another input cannot be merged");
	}
	void *y = gather(&c, SCRATCH_TOKENS_Y, l->y, c.rows, false);
	const void *s = c.ranks && (l->forward == LORA_F1 || l->s) ? down(&c) : NULL;
	if (!c.ranks) {
		cpu_linear(d, c.n, c.x, c.x_row, l->weight, l->bias, y, false);
	} else if (l->forward == LORA_F1) {
		/* The adapter's part first, the base's onto it: in bf16 an addition the other way round loses whatever is below
		 * half a unit of the base's last place, which early in training is most of the adapter. */
		up(&c, s, y);
		cpu_linear(d, c.n, c.x, c.x_row, l->weight, l->bias, y, true);
	} else {
		struct gemm_shape shape = act_shape(d, c.n, c.rows, c.cols, c.x_row, c.rows);
		shape.b_row = 1;
		shape.b_col = c.cols;
		shape.flags = l->bias ? GEMM_BIAS : 0;
		const void *w = merged(&c);
		if (w)
			gemm_tokens(d, &shape, c.x, w, l->bias, y);
	}
	scatter(&c, (void *)(uintptr_t)s, l->s, c.ranks);
	scatter(&c, y, l->y, c.rows);
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

/* Two matrices of activations (tokens, m) and (tokens, n), their rows left_row and right_row apart. */
struct pair {
	const void *left, *right;
	size_t m, left_row, n, right_row;
	float scale;
};

/* g (m, n) = scale * left^T right over the tokens [begin, end). */
static void token_product(struct lora_call *c, const struct pair *p, size_t begin, size_t end, uint32_t flags, void *g)
{
	struct device *d = c->d;
	struct gemm_shape s = {.m = p->m,
		.n = p->n,
		.k = end - begin,
		.a_row = 1,
		.a_col = p->left_row,
		.b_row = p->right_row,
		.b_col = 1,
		.c_row = p->n,
		.a_type = d->act,
		.b_type = d->act,
		.c_type = sum_type(d),
		.flags = flags,
		.scale = p->scale};
	gemm_over_tokens(d, &s, act_at(d, p->left, begin * p->left_row), act_at(d, p->right, begin * p->right_row), g);
}

/* What is done with a product over tokens; returns what it adds to the squared norm. */
typedef double gradient_sink(struct lora_call *c, size_t part, const void *g);

/* g = scale * left^T right, row by row when the rows' norms are wanted. */
static void token_gradient(
	struct lora_call *c, const struct pair *p, enum cpu_scratch_slot slot, gradient_sink *sink, size_t part)
{
	struct device *d = c->d;
	void *g = cpu_scratch(d, slot, p->m * p->n * dtype_size((enum dtype)sum_type(d)));
	size_t pieces = c->row_squares ? c->t->rows : 1;
	size_t begin = 0;
	for (size_t piece = 0; piece < pieces && g && !d->fault.code; piece++) {
		size_t end = c->row_squares ? row_begin(c, piece + 1, begin) : c->n;
		if (begin < end) {
			token_product(c, p, begin, end, 0, g);
			double squares = d->fault.code ? 0 : sink(c, part, g);
			if (c->row_squares)
				c->row_squares[piece] += squares;
		}
		begin = end;
	}
}

/* g (rank, rows of the part): grad_b transposed. */
static double sink_b(struct lora_call *c, size_t part, const void *g)
{
	const struct lora_part *p = &c->l->part[part];
	return gradient_add(c->d, p->grad_b, g, p->rows, p->rank, true);
}

/* g (ranks, cols) holds all the parts' grad_a one above the other. */
static double sink_a(struct lora_call *c, size_t part, const void *g)
{
	size_t each = dtype_size((enum dtype)sum_type(c->d));
	double squares = 0;
	(void)part;
	for (size_t i = 0; i < c->l->parts; i++) {
		const struct lora_part *p = &c->l->part[i];
		if (p->rank && p->grad_a)
			squares += gradient_add(c->d, p->grad_a, g, p->rank, c->cols, false);
		g = (const char *)g + p->rank * c->cols * each;
	}
	return squares;
}

static bool wants_a(const struct lora_call *c)
{
	for (size_t i = 0; i < c->l->parts; i++)
		if (c->l->part[i].rank && c->l->part[i].grad_a)
			return true;
	return false;
}

static bool wants_b(const struct lora_call *c)
{
	for (size_t i = 0; i < c->l->parts; i++)
		if (c->l->part[i].rank && c->l->part[i].grad_b)
			return true;
	return false;
}

/* grad_a += ds^T x of all parts at once. */
static void gradient_a(struct lora_call *c, const void *ds)
{
	struct pair p = {.left = ds,
		.m = c->ranks,
		.left_row = c->ranks,
		.right = c->x,
		.n = c->cols,
		.right_row = c->x_row,
		.scale = 1};
	if (wants_a(c) && !c->d->fault.code)
		token_gradient(c, &p, SCRATCH_LORA_GRADIENT, sink_a, 0);
}

/* grad_b += scale dy^T s, part by part; s is computed again when nobody kept it. */
static void gradient_b(struct lora_call *c, const void *dy)
{
	struct device *d = c->d;
	const struct lora_part *part = c->l->part;
	if (!wants_b(c) || d->fault.code)
		return;
	const void *s = c->l->s ? gather(c, SCRATCH_TOKENS_S, c->l->s, c->ranks, true) : down(c);
	for (size_t i = 0, row = 0, at = 0; i < c->l->parts && !d->fault.code;
		row += part->rows, at += part->rank, i++) {
		part = &c->l->part[i];
		struct pair p = {.left = act_at(d, s, at),
			.m = part->rank,
			.left_row = c->ranks,
			.right = act_at(d, dy, row),
			.n = part->rows,
			.right_row = c->rows,
			.scale = lora_part_scale(c->l, i)};
		if (part->rank && part->grad_b)
			token_gradient(c, &p, SCRATCH_LORA_GRADIENT, sink_b, i);
	}
}

/* g (m, n) of sums = scale of the part * left right; one of them is the dense gradient, the other a factor. Strides as gemm_shape's. */
static const void *dense_product(
	struct lora_call *c, size_t part, struct gemm_shape s, const void *left, const void *right)
{
	struct device *d = c->d;
	void *g = cpu_scratch(d, SCRATCH_LORA_GRADIENT, s.m * s.n * dtype_size((enum dtype)sum_type(d)));
	s.c_type = sum_type(d);
	s.c_row = s.n;
	s.scale = lora_part_scale(c->l, part);
	if (g)
		gemm_tokens(d, &s, left, right, NULL, g);
	return d->fault.code ? NULL : g;
}

/* LORA_B4: g (rows, cols) = dy^T x; grad_a = scale B^T g and grad_b = scale g A^T, part by part. */
static double sink_dense(struct lora_call *c, size_t unused, const void *g)
{
	struct device *d = c->d;
	const struct lora_part *part = c->l->part;
	double squares = 0;
	(void)unused;
	for (size_t i = 0; i < c->l->parts && !d->fault.code; i++) {
		part = &c->l->part[i];
		struct gemm_shape a = {.m = part->rank,
			.n = c->cols,
			.k = part->rows,
			.a_row = 1,
			.a_col = part->rank,
			.b_row = c->cols,
			.b_col = 1,
			.a_type = DTYPE_F32,
			.b_type = sum_type(d)};
		struct gemm_shape b = {.m = part->rows,
			.n = part->rank,
			.k = c->cols,
			.a_row = c->cols,
			.a_col = 1,
			.b_row = 1,
			.b_col = c->cols,
			.a_type = sum_type(d),
			.b_type = DTYPE_F32};
		const void *product = part->rank && part->grad_a ? dense_product(c, i, a, part->b, g) : NULL;
		if (product)
			squares += gradient_add(d, part->grad_a, product, part->rank, c->cols, false);
		product = part->rank && part->grad_b ? dense_product(c, i, b, g, part->a) : NULL;
		if (product)
			squares += gradient_add(d, part->grad_b, product, part->rows, part->rank, false);
		g = (const char *)g + part->rows * c->cols * dtype_size((enum dtype)sum_type(d));
	}
	return squares;
}

struct indexed_args {
	const struct weight_gradient *hook;
	const void *x, *dy;
	size_t n, rows, cols, x_row;
};

#define ACT_TEMPLATE "compute/cpu/lora.inc"
#include "compute/cpu/each_act.h"

/* out (rows, n) += dy^T right, tokens of right being right_row apart; exactly in f64. */
static void hook_product(struct lora_call *c, const void *dy, const void *right, size_t right_row, size_t n, float *out)
{
	struct device *d = c->d;
	struct pair p = {.left = dy,
		.m = c->rows,
		.left_row = c->rows,
		.right = right,
		.n = n,
		.right_row = right_row,
		.scale = 1};
	if (d->act != DTYPE_F64) {
		token_product(c, &p, 0, c->n, GEMM_ACCUMULATE, out);
		return;
	}
	void *g = cpu_scratch(d, SCRATCH_LORA_GRADIENT, c->rows * n * sizeof(double));
	if (!g)
		return;
	token_product(c, &p, 0, c->n, 0, g);
	gradient_add(d, out, g, c->rows, n, false);
}

static void weight_gradient(struct lora_call *c, const void *dy)
{
	struct device *d = c->d;
	const struct weight_gradient *hook = c->l->gradient;
	if (!hook || d->fault.code || !c->n)
		return;
	if (hook->kind == WEIGHT_GRADIENT_DENSE)
		hook_product(c, dy, c->x, c->x_row, c->cols, hook->out);
	if (hook->kind == WEIGHT_GRADIENT_SKETCHED) {
		void *omega = factor(d, SCRATCH_LORA_A, hook->omega, c->cols * hook->k);
		void *sketch = cpu_scratch(d, SCRATCH_HOOK, c->n * hook->k * d->act_size);
		if (!omega || !sketch)
			return;
		struct gemm_shape s = act_shape(d, c->n, hook->k, c->cols, c->x_row, hook->k);
		s.b_row = hook->k;
		s.b_col = 1;
		gemm_tokens(d, &s, c->x, omega, NULL, sketch);
		hook_product(c, dy, sketch, hook->k, hook->k, hook->out);
	}
	if (hook->kind == WEIGHT_GRADIENT_INDEXED) {
		struct indexed_args args = {.hook = hook,
			.x = c->x,
			.dy = dy,
			.n = c->n,
			.rows = c->rows,
			.cols = c->cols,
			.x_row = c->x_row};
		cpu_run(d, hook->k, 16, CPU_PICK(d, indexed_body), &args);
	}
}

/* dx = (or +=) dy (W + scale B A). */
static void merged_backward(struct lora_call *c, const void *dy, void *dx, bool accumulate)
{
	struct gemm_shape s = act_shape(c->d, c->n, c->cols, c->rows, c->rows, c->cols);
	s.b_row = c->cols;
	s.b_col = 1;
	s.flags = accumulate ? GEMM_ACCUMULATE : 0;
	const void *w = merged(c);
	if (w)
		gemm_tokens(c->d, &s, dy, w, NULL, dx);
}

/* ds = scale dy B, part by part, for l->ds when that is wanted. */
static void *output_gradient(struct lora_call *c, const void *dy)
{
	struct device *d = c->d;
	const struct lora_part *part = c->l->part;
	void *ds = c->t->index || !c->l->ds ? cpu_scratch(d, SCRATCH_LORA_DS, c->n * c->ranks * d->act_size) : c->l->ds;
	for (size_t i = 0, row = 0, at = 0; ds && i < c->l->parts && !d->fault.code;
		row += part->rows, at += part->rank, i++) {
		part = &c->l->part[i];
		if (!part->rank)
			continue;
		struct gemm_shape s = act_shape(d, c->n, part->rank, part->rows, c->rows, c->ranks);
		s.b_row = part->rank;
		s.b_col = 1;
		s.scale = lora_part_scale(c->l, i);
		const void *b = factor(d, SCRATCH_LORA_B, part->b, part->rows * part->rank);
		if (b)
			gemm_tokens(d, &s, act_at(d, dy, row), b, NULL, act_at(d, ds, at));
	}
	return ds;
}

/* dx = (or +=) ds A of all parts at once. */
static void input_gradient(struct lora_call *c, const void *ds, void *dx, bool accumulate)
{
	struct gemm_shape s = act_shape(c->d, c->n, c->cols, c->ranks, c->ranks, c->cols);
	s.b_row = c->cols;
	s.b_col = 1;
	s.flags = accumulate ? GEMM_ACCUMULATE : 0;
	const void *a = all_a(c);
	if (a)
		gemm_tokens(c->d, &s, ds, a, NULL, dx);
}

static bool backward_may(const struct lora_call *c)
{
	struct device *d = c->d;
	const struct lora_linear *l = c->l;
	bool hook = l->gradient && l->gradient->kind != WEIGHT_GRADIENT_NONE;
	if (c->row_squares && !c->t->row_offsets)
		device_fail(d, SAKIORI_EINVAL, "the rows' norms are wanted, but there are no row offsets");
	if (!c->x && c->ranks && (l->backward == LORA_B4 || !l->s || !l->ds))
		device_fail(d, SAKIORI_EINVAL, "a backward without x needs s and ds, and another order than B4");
	if (!c->x && (hook || c->row_squares))
		device_fail(d, SAKIORI_EINVAL, "a backward without x gives no weight's gradient and no rows' norms");
	if (l->adapter_dx && c->ranks && l->backward != LORA_B1)
		device_fail(d, SAKIORI_EINVAL, "the adapter's own share of dx is wanted of a merged weight");
	return !d->fault.code;
}

void cpu_lora_backward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l, void *dx,
	bool accumulate, double *row_squares)
{
	if (d->fault.code)
		return;
	gemm_plans_trim(d);
	struct lora_call c = call_begin(d, t, x, l, row_squares);
	if (!backward_may(&c))
		return;
	bool merges = c.ranks && l->backward != LORA_B1, dense = c.ranks && l->backward == LORA_B4;
	const void *dy = gather(&c, SCRATCH_TOKENS_Y, l->dy, c.rows, true);
	void *compact_dx = gather(&c, SCRATCH_TOKENS_DX, dx, c.cols, accumulate);
	if (dx && merges)
		merged_backward(&c, dy, compact_dx, accumulate);
	else if (dx)
		cpu_matmul_backward(d, c.n, dy, l->weight, compact_dx, accumulate);
	weight_gradient(&c, dy);
	if (c.ranks && (!dense || l->ds) && !d->fault.code) {
		void *ds = output_gradient(&c, dy);
		scatter(&c, ds, l->ds, c.ranks);
		if (l->adapter_dx) {
			void *own = gather(&c, SCRATCH_TOKENS_ADAPTER, l->adapter_dx, c.cols, false);
			input_gradient(&c, ds, own, false);
			scatter(&c, own, l->adapter_dx, c.cols);
		} else if (dx && !merges) {
			input_gradient(&c, ds, compact_dx, true);
		}
		if (x && !dense)
			gradient_a(&c, ds);
	}
	if (!dense)
		gradient_b(&c, dy);
	struct pair p = {.left = dy,
		.m = c.rows,
		.left_row = c.rows,
		.right = c.x,
		.n = c.cols,
		.right_row = c.x_row,
		.scale = 1};
	if (dense && (wants_a(&c) || wants_b(&c)) && !d->fault.code)
		token_gradient(&c, &p, SCRATCH_LORA_DENSE, sink_dense, 0);
	scatter(&c, compact_dx, dx, c.cols);
}

void cpu_lora_gradient_a(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l)
{
	if (d->fault.code)
		return;
	gemm_plans_trim(d);
	struct lora_call c = call_begin(d, t, x, l, NULL);
	if (c.ranks && !l->ds)
		device_fail(d, SAKIORI_EINVAL, "the gradient of A is wanted, but no backward left its ds");
	if (!d->fault.code && c.ranks)
		gradient_a(&c, gather(&c, SCRATCH_LORA_DS, l->ds, c.ranks, true));
}
