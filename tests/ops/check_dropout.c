/* SPDX-License-Identifier: Apache-2.0 */
/* Dropout, and linears whose adapters read what it left. */
#include "ops/fixture.h"

static const uint64_t SEED = 0x123456789abcdef0, STREAM = (uint64_t)1 << 63 | 5;

/* By the words of compute.h. */
static double kept(const struct dropout *r, size_t token, size_t width, size_t column)
{
	uint32_t words[4];
	uint64_t e = (r->at[1] + token) * width + column;
	rng_block(r->seed, r->stream + r->at[0], e / 8, words);
	uint32_t piece = words[e % 8 / 2] >> (e % 2 ? 16 : 0) & 0xffff;
	return piece < r->keep ? (double)DROPOUT_ALL / (double)r->keep : 0;
}

static struct dropout make(struct device *d, uint32_t keep, uint64_t step, uint64_t first)
{
	const uint64_t at[] = {step << 16, first};
	uint64_t *there = d->ops->alloc(d, sizeof at);
	d->ops->upload(d, there, at, sizeof at);
	return (struct dropout){.keep = keep, .seed = SEED, .stream = STREAM, .at = there};
}

START_TEST(elements_are_dropped_by_their_place_alone)
{
	static const size_t shapes[][3] = {{1, 1, 1}, {3, 7, 9}, {5, 64, 64}, {37, 576, 640}, {2, 2000, 2000}};
	struct device *d = fixture_open(fixture_types[_i], 0);
	for (size_t k = 0; k < 5; k++) {
		size_t n = shapes[k][0], c = shapes[k][1], stride = shapes[k][2], dropped = 0;
		struct dropout r = make(d, 45000, 77, 11 * k);
		double *x = fixture_doubles(n * stride), *dx = fixture_doubles(n * c),
		       *expected = fixture_doubles(n * c);
		void *in = fixture_act(d, 1, n * stride, x), *out = d->ops->alloc(d, n * c * d->act_size);
		void *sum = fixture_act(d, 2, n * c, dx);
		d->ops->dropout_forward(d, &r, n, c, in, stride == c ? 0 : stride, out);
		for (size_t t = 0; t < n; t++)
			for (size_t i = 0; i < c; i++) {
				double factor = kept(&r, t, c, i);
				dropped += factor == 0;
				expected[t * c + i] = factor * x[t * stride + i];
			}
		double *found = fixture_read(d, out, n * c);
		for (size_t i = 0; i < n * c; i++)
			ck_assert_int_eq(found[i] == 0, expected[i] == 0);
		fixture_near(found, expected, n * c, fixture_limit(d), "dropped");
		if (n * c > 4000)
			ck_assert_double_eq_tol((double)dropped / (double)(n * c), 1 - 45000 / 65536.0, 0.02);
		/* dx += (what came back) dropped the same way */
		d->ops->dropout_backward(d, &r, n, c, out, sum);
		for (size_t i = 0; i < n * c; i++)
			expected[i] = dx[i] + kept(&r, i / c, c, i % c) * found[i];
		free(found);
		found = fixture_read(d, sum, n * c);
		fixture_near(found, expected, n * c, fixture_limit(d), "added back");
		free(found);
		free(x);
		free(dx);
		free(expected);
		d->ops->release(d, in);
		d->ops->release(d, out);
		d->ops->release(d, sum);
		d->ops->release(d, (void *)(uintptr_t)r.at);
	}
	fixture_close(d);
}
END_TEST

START_TEST(tokens_cut_elsewhere_and_other_thread_counts_give_the_same)
{
	enum { N = 50, C = 136 };
	struct device *one = fixture_open(DTYPE_F32, 1), *four = fixture_open(DTYPE_F32, 4);
	void *x = fixture_act(one, 3, N * C, NULL);
	float *y = one->ops->alloc(one, N * C * sizeof(float)), *z = four->ops->alloc(four, N * C * sizeof(float));
	struct dropout r = make(one, 40000, 3, 0), rest = make(four, 40000, 3, 19);
	one->ops->dropout_forward(one, &r, N, C, x, 0, y);
	four->ops->dropout_forward(four, &r, 19, C, x, 0, z);
	four->ops->dropout_forward(four, &rest, N - 19, C, act_at(four, x, 19 * C), 0, z + 19 * C);
	ck_assert_mem_eq(y, z, N * C * sizeof(float));
	/* another step drops others */
	struct dropout other = make(one, 40000, 4, 0);
	one->ops->dropout_forward(one, &other, N, C, x, 0, y);
	ck_assert_mem_ne(y, z, N * C * sizeof(float));
	one->ops->release(one, x);
	one->ops->release(one, y);
	four->ops->release(four, z);
	one->ops->release(one, (void *)(uintptr_t)r.at);
	one->ops->release(one, (void *)(uintptr_t)other.at);
	four->ops->release(four, (void *)(uintptr_t)rest.at);
	fixture_close(one);
	fixture_close(four);
}
END_TEST

START_TEST(nothing_kept_is_refused)
{
	struct device *d = fixture_open(DTYPE_F32, 1);
	struct dropout r = {.keep = 0};
	d->ops->dropout_forward(d, &r, 1, 1, NULL, 0, NULL);
	ck_assert_int_eq(device_sync(d, NULL), SAKIORI_EINVAL);
	device_close(d);
}
END_TEST

/* ---- a linear of two parts, one without an adapter, whose adapters read a dropped input; scales differ ---- */

enum { TOKENS = 6, COLS = 24, PARTS = 3, ROWS = 17, RANKS = 5 };
static const size_t part_rows[PARTS] = {8, 4, 5}, part_rank[PARTS] = {3, 0, 2};
static const float part_scale[PARTS] = {0.75f, 0, 0}; /* 0: the linear's, 1.5 */

struct problem {
	const struct dropout *r;
	double *x, *w, *a, *b, *dy; /* (T, C), (R, C), (ranks, C), part by part (rows, rank), (T, R) */
	double *mask;               /* (T, C) */
};

/* The sum of y * dy, from scratch. */
static double linear_loss(void *self)
{
	const struct problem *p = self;
	double sum = 0;
	for (size_t t = 0; t < TOKENS; t++) {
		const double *b = p->b;
		for (size_t part = 0, row = 0, at = 0; part < PARTS; at += part_rank[part++])
			for (size_t i = 0; i < part_rows[part]; i++, row++) {
				double y = 0;
				for (size_t c = 0; c < COLS; c++)
					y += p->x[t * COLS + c] * p->w[row * COLS + c];
				for (size_t k = 0; k < part_rank[part]; k++, b++) {
					double s = 0;
					for (size_t c = 0; c < COLS; c++)
						s += p->mask[t * COLS + c] * p->x[t * COLS + c] *
						     p->a[(at + k) * COLS + c];
					y += (part_scale[part] != 0 ? part_scale[part] : 1.5) * s * *b;
				}
				sum += y * p->dy[t * ROWS + row];
			}
	}
	return sum;
}

static double *doubles_of(const float *values, size_t n)
{
	double *out = fixture_doubles(n);
	for (size_t i = 0; i < n; i++)
		out[i] = (double)values[i];
	return out;
}

static void near_floats(const float *found, const double *expected, size_t n, const char *what)
{
	double *wide = doubles_of(found, n);
	fixture_near(wide, expected, n, 1e-6, what);
	free(wide);
}

START_TEST(adapters_of_a_dropped_input_match_finite_differences)
{
	enum { B_SIZE = 8 * 3 + 5 * 2 };
	struct device *d = fixture_open(DTYPE_F64, 0);
	struct dropout r = make(d, 40000, 9, 2);
	float *wf = fixture_values(1, ROWS * COLS), *a = fixture_values(2, RANKS * COLS),
	      *b = fixture_values(3, B_SIZE);
	float *grad_a = must_calloc(RANKS * COLS, sizeof *grad_a), *grad_b = must_calloc(B_SIZE, sizeof *grad_b);
	struct problem p = {.r = &r,
		.x = fixture_doubles(TOKENS * COLS),
		.dy = fixture_doubles(TOKENS * ROWS),
		.mask = fixture_doubles(TOKENS * COLS),
		.w = doubles_of(wf, ROWS * COLS),
		.a = doubles_of(a, RANKS * COLS),
		.b = doubles_of(b, B_SIZE)};
	for (size_t i = 0; i < TOKENS * COLS; i++)
		p.mask[i] = kept(&r, i / COLS, COLS, i % COLS);
	double *x = fixture_act(d, 4, TOKENS * COLS, p.x), *dy = fixture_act(d, 5, TOKENS * ROWS, p.dy);
	double *y = d->ops->alloc(d, TOKENS * ROWS * sizeof *y), *s = d->ops->alloc(d, TOKENS * RANKS * sizeof *s),
	       *ds = d->ops->alloc(d, TOKENS * RANKS * sizeof *s), *dx = d->ops->alloc(d, TOKENS * COLS * sizeof *dx),
	       *dropped = d->ops->alloc(d, TOKENS * COLS * sizeof *dx);
	struct weight *w = fixture_weight(d, wf, ROWS, COLS);
	struct lora_linear l = {.weight = w, .scale = 1.5f, .parts = PARTS, .y = y, .s = s, .dy = dy, .ds = ds};
	for (size_t part = 0, ra = 0, rb = 0; part < PARTS; part++) {
		l.part[part] = (struct lora_part){.rows = part_rows[part],
			.rank = part_rank[part],
			.scale = part_scale[part],
			.a = a + ra,
			.b = b + rb,
			.grad_a = grad_a + ra,
			.grad_b = grad_b + rb};
		ra += part_rank[part] * COLS;
		rb += part_rank[part] * part_rows[part];
	}
	struct tokens tokens = {.count = TOKENS};
	d->ops->dropout_forward(d, &r, TOKENS, COLS, x, 0, dropped);
	l.adapter_x = dropped;
	d->ops->lora_forward(d, &tokens, x, &l);
	double loss = 0;
	for (size_t i = 0; i < TOKENS * ROWS; i++)
		loss += y[i] * dy[i];
	ck_assert_double_eq_tol(loss, linear_loss(&p), 1e-9);
	/* as the model does it: the adapter's share of dx by itself, through the mask */
	l.adapter_x = NULL;
	l.adapter_dx = dropped;
	d->ops->lora_backward(d, &tokens, NULL, &l, dx, false, NULL);
	d->ops->dropout_backward(d, &r, TOKENS, COLS, dropped, dx);
	d->ops->dropout_forward(d, &r, TOKENS, COLS, x, 0, dropped);
	d->ops->lora_gradient_a(d, &tokens, dropped, &l);
	ck_assert_int_eq(device_sync(d, NULL), 0);
	double *expected = fixture_doubles(TOKENS * COLS + RANKS * COLS + B_SIZE);
	fixture_differences(linear_loss, &p, p.x, TOKENS * COLS, expected);
	fixture_near(dx, expected, TOKENS * COLS, 1e-6, "dx");
	fixture_differences(linear_loss, &p, p.a, RANKS * COLS, expected);
	near_floats(grad_a, expected, RANKS * COLS, "grad_a");
	fixture_differences(linear_loss, &p, p.b, B_SIZE, expected);
	near_floats(grad_b, expected, B_SIZE, "grad_b");
	d->ops->weight_free(d, w);
	void *mine[] = {x, dy, y, s, ds, dx, dropped, (void *)(uintptr_t)r.at};
	for (size_t i = 0; i < sizeof mine / sizeof *mine; i++)
		d->ops->release(d, mine[i]);
	void *others[] = {wf, a, b, grad_a, grad_b, p.x, p.dy, p.mask, p.w, p.a, p.b, expected};
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		free(others[i]);
	fixture_close(d);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		elements_are_dropped_by_their_place_alone,
		tokens_cut_elsewhere_and_other_thread_counts_give_the_same,
		nothing_kept_is_refused,
		adapters_of_a_dropped_input_match_finite_differences,
	};
	return fixture_run("dropout", tests, sizeof tests / sizeof *tests, 3);
}
