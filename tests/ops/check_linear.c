/* SPDX-License-Identifier: Apache-2.0 */
#include "ops/fixture.h"

/* A linear of three parts, the last of them without an adapter. */
enum { IN = 23, PARTS = 3, ROWS = 30, RANKS = 8 };
static const size_t OUT[PARTS] = {17, 8, 5};
static const size_t RANK[PARTS] = {3, 5, 0};
static const float SCALE = 1.5f;

/* Everything in doubles as the device holds it. */
struct problem {
	struct device *d;
	size_t n;
	void *x_act, *y_act, *s_act, *ds_act, *dy_act;
	double *x, *w, *dy;
	struct weight *weight;
	float *bias, *a_values[PARTS], *b_values[PARTS], *grad_a[PARTS], *grad_b[PARTS];
	double *a[PARTS], *b[PARTS];
	bool used[64]; /* tokens that count in loss() */
	struct lora_linear linear;
};

static double *widen(const float *values, size_t n)
{
	double *out = fixture_doubles(n);
	for (size_t i = 0; i < n; i++)
		out[i] = (double)values[i];
	return out;
}

static void problem_init(struct problem *p, enum dtype act, size_t n)
{
	memset(p, 0, sizeof *p);
	p->d = fixture_open(act, 0);
	p->n = n;
	p->x = fixture_doubles(n * IN);
	p->x_act = fixture_act(p->d, 1, n * IN, p->x);
	for (size_t t = 0; t < n; t++)
		p->used[t] = true;
	float *values = fixture_values(10, ROWS * IN);
	p->weight = fixture_weight(p->d, values, ROWS, IN);
	free(values);
	p->w = fixture_weight_values(p->d, p->weight, ROWS, IN);
	p->bias = fixture_values(40, ROWS);
	p->dy = fixture_doubles(n * ROWS);
	p->dy_act = fixture_act(p->d, 50, n * ROWS, p->dy);
	p->y_act = fixture_act(p->d, 60, n * ROWS, NULL);
	p->s_act = fixture_act(p->d, 70, n * RANKS, NULL);
	p->ds_act = fixture_act(p->d, 71, n * RANKS, NULL);
	p->linear = (struct lora_linear){.weight = p->weight,
		.bias = p->bias,
		.scale = SCALE,
		.parts = PARTS,
		.y = p->y_act,
		.s = p->s_act,
		.dy = p->dy_act};
	for (size_t l = 0; l < PARTS; l++) {
		p->a_values[l] = fixture_values(20 + l, RANK[l] * IN);
		p->b_values[l] = fixture_values(30 + l, OUT[l] * RANK[l]);
		p->a[l] = widen(p->a_values[l], RANK[l] * IN);
		p->b[l] = widen(p->b_values[l], OUT[l] * RANK[l]);
		p->grad_a[l] = must_calloc(RANK[l] * IN + 1, sizeof(float));
		p->grad_b[l] = must_calloc(OUT[l] * RANK[l] + 1, sizeof(float));
		p->linear.part[l] = (struct lora_part){.rows = OUT[l],
			.rank = RANK[l],
			.a = p->a_values[l],
			.b = p->b_values[l],
			.grad_a = p->grad_a[l],
			.grad_b = p->grad_b[l]};
	}
}

static void problem_fini(struct problem *p)
{
	const struct device_ops *ops = p->d->ops;
	void *device[] = {p->x_act, p->y_act, p->s_act, p->ds_act, p->dy_act};
	for (int i = 0; i < 5; i++)
		ops->release(p->d, device[i]);
	ops->weight_free(p->d, p->weight);
	for (size_t l = 0; l < PARTS; l++) {
		void *host[] = {p->a_values[l], p->b_values[l], p->grad_a[l], p->grad_b[l], p->a[l], p->b[l]};
		for (int i = 0; i < 6; i++)
			free(host[i]);
	}
	void *host[] = {p->x, p->w, p->dy, p->bias};
	for (int i = 0; i < 4; i++)
		free(host[i]);
	fixture_close(p->d);
}

static double output(const struct problem *p, size_t t, size_t o)
{
	size_t part = 0, own = o;
	for (; own >= OUT[part]; part++)
		own -= OUT[part];
	double y = (double)p->bias[o];
	for (size_t i = 0; i < IN; i++)
		y += p->x[t * IN + i] * p->w[o * IN + i];
	for (size_t k = 0; k < RANK[part]; k++) {
		double s = 0;
		for (size_t i = 0; i < IN; i++)
			s += p->x[t * IN + i] * p->a[part][k * IN + i];
		y += (double)SCALE * s * p->b[part][own * RANK[part] + k];
	}
	return y;
}

static double loss(void *self)
{
	const struct problem *p = self;
	double sum = 0;
	for (size_t t = 0; t < p->n; t++)
		for (size_t o = 0; p->used[t] && o < ROWS; o++)
			sum += output(p, t, o) * p->dy[t * ROWS + o];
	return sum;
}

static void near_act(struct problem *p, const void *act, const double *expected, size_t n, const char *what)
{
	double *found = fixture_read(p->d, act, n);
	fixture_near(found, expected, n, fixture_limit(p->d), what);
	free(found);
}

static void near_floats(struct problem *p, const float *found, const double *expected, size_t n, const char *what)
{
	double *wide = widen(found, n);
	fixture_near(wide, expected, n, fixture_limit(p->d), what);
	free(wide);
}

static void check_forward(struct problem *p)
{
	double *expected = fixture_doubles(p->n * ROWS);
	for (size_t i = 0; i < p->n * ROWS; i++)
		expected[i] = output(p, i / ROWS, i % ROWS);
	near_act(p, p->y_act, expected, p->n * ROWS, "y");
	free(expected);
}

static void check_factors(struct problem *p, double times)
{
	for (size_t l = 0; l < PARTS; l++) {
		double *expected = fixture_doubles(OUT[l] * IN);
		fixture_differences(loss, p, p->a[l], RANK[l] * IN, expected);
		for (size_t i = 0; i < RANK[l] * IN; i++)
			expected[i] *= times;
		near_floats(p, p->grad_a[l], expected, RANK[l] * IN, "grad_a");
		fixture_differences(loss, p, p->b[l], OUT[l] * RANK[l], expected);
		for (size_t i = 0; i < OUT[l] * RANK[l]; i++)
			expected[i] *= times;
		near_floats(p, p->grad_b[l], expected, OUT[l] * RANK[l], "grad_b");
		free(expected);
	}
}

static void forget_gradients(struct problem *p)
{
	for (size_t l = 0; l < PARTS; l++) {
		memset(p->grad_a[l], 0, RANK[l] * IN * sizeof(float));
		memset(p->grad_b[l], 0, OUT[l] * RANK[l] * sizeof(float));
	}
}

static void forward(struct problem *p, const struct tokens *t)
{
	p->d->ops->lora_forward(p->d, t, p->x_act, &p->linear);
}

static void backward(struct problem *p, const struct tokens *t, void *dx, bool accumulate)
{
	p->d->ops->lora_backward(p->d, t, p->x_act, &p->linear, dx, accumulate, NULL);
}

/* All three ways of asking for gradients, in one order of the products. */
static void check_order(struct problem *p)
{
	struct tokens t = {.count = p->n};
	forward(p, &t);
	check_forward(p);
	double *expected = fixture_doubles(p->n * IN);
	fixture_differences(loss, p, p->x, p->n * IN, expected);
	void *dx = fixture_act(p->d, 90, p->n * IN, NULL);
	backward(p, &t, dx, false);
	near_act(p, dx, expected, p->n * IN, "dx");
	check_factors(p, 1);
	/* a second call adds to dx when asked to, and to the factors' gradients always */
	backward(p, &t, dx, true);
	for (size_t i = 0; i < p->n * IN; i++)
		expected[i] *= 2;
	near_act(p, dx, expected, p->n * IN, "dx twice");
	check_factors(p, 2);
	backward(p, &t, NULL, false);
	check_factors(p, 3);
	p->d->ops->release(p->d, dx);
	free(expected);
}

static const enum lora_backward_order backward_orders[] = {LORA_B1, LORA_B4, LORA_B5};

START_TEST(linears_with_adapters_match_finite_differences)
{
	static const size_t counts[] = {1, 2, 37};
	for (int k = 0; k < 3; k++)
		for (int order = 0; order < 3; order++) {
			struct problem p;
			problem_init(&p, fixture_types[_i], counts[k]);
			p.linear.backward = backward_orders[order];
			check_order(&p);
			problem_fini(&p);
		}
}
END_TEST

START_TEST(a_merged_forward_and_an_x_a_that_nobody_kept_give_the_same)
{
	for (int order = 0; order < 3; order++)
		for (int kept = 0; kept < 2; kept++) {
			struct problem p;
			problem_init(&p, fixture_types[_i], 19);
			p.linear.forward = LORA_F2;
			p.linear.backward = backward_orders[order];
			p.linear.s = kept ? p.s_act : NULL;
			check_order(&p);
			problem_fini(&p);
		}
}
END_TEST

/* Puts the tokens of x apart. What lies between them is NaN, which nothing may read. */
static void put_apart(struct problem *p, size_t gap)
{
	size_t stride = IN + gap;
	double *wide = fixture_doubles(p->n * stride);
	for (size_t i = 0; i < p->n * stride; i++)
		wide[i] = i % stride < IN ? p->x[i / stride * IN + i % stride] : (double)NAN;
	p->d->ops->release(p->d, p->x_act);
	p->x_act = fixture_act_from(p->d, wide, p->n * stride);
	p->linear.x_stride = stride;
	free(wide);
}

START_TEST(the_gradient_of_a_may_come_later)
{
	const uint32_t index[] = {0, 3, 4, 11};
	for (int order = 0; order < 3; order += 2)
		for (int listed = 0; listed < 2; listed++) {
			struct problem p;
			problem_init(&p, fixture_types[_i], 12);
			put_apart(&p, 5);
			struct tokens t = {.count = p.n, .index = listed ? index : NULL, .index_count = 4};
			memset(p.used, !listed, sizeof p.used);
			for (int i = 0; i < 4; i++)
				p.used[index[i]] = true;
			p.linear.backward = backward_orders[order];
			p.linear.ds = p.ds_act;
			double *before = fixture_doubles(p.n * IN), *expected = fixture_doubles(p.n * IN);
			void *dx = fixture_act(p.d, 90, p.n * IN, before);
			forward(&p, &t);
			p.d->ops->lora_backward(p.d, &t, NULL, &p.linear, dx, true, NULL);
			for (size_t i = 0; i < RANK[0] * IN; i++)
				ck_assert(p.grad_a[0][i] == 0);
			fixture_differences(loss, &p, p.x, p.n * IN, expected);
			for (size_t i = 0; i < p.n * IN; i++)
				expected[i] += before[i];
			near_act(&p, dx, expected, p.n * IN, "dx");
			p.d->ops->lora_gradient_a(p.d, &t, p.x_act, &p.linear);
			check_factors(&p, 1);
			p.d->ops->release(p.d, dx);
			free(before);
			free(expected);
			problem_fini(&p);
		}
}
END_TEST

START_TEST(tokens_of_x_may_lie_apart)
{
	static const size_t gaps[] = {1, 8, 64};
	for (int order = 0; order < 3; order++)
		for (int merged = 0; merged < 2; merged++)
			for (int k = 0; k < 3; k++) {
				struct problem p;
				problem_init(&p, fixture_types[_i], 19);
				put_apart(&p, gaps[k]);
				p.linear.forward = merged ? LORA_F2 : LORA_F1;
				p.linear.backward = backward_orders[order];
				p.linear.s = merged ? NULL : p.s_act;
				check_order(&p);
				double *x = fixture_read(p.d, p.x_act, p.n * p.linear.x_stride);
				for (size_t i = 0; i < p.n * IN; i++)
					ck_assert(x[i / IN * p.linear.x_stride + i % IN] == p.x[i]);
				free(x);
				problem_fini(&p);
			}
}
END_TEST

START_TEST(without_x_nothing_that_needs_it_is_promised)
{
	for (int i = 0; i < 5; i++) {
		struct problem p;
		problem_init(&p, fixture_types[_i], 4);
		const uint32_t offsets[] = {0, 4};
		const struct weight_gradient hook = {.kind = WEIGHT_GRADIENT_INDEXED};
		struct tokens t = {.count = p.n, .row_offsets = offsets, .rows = 1};
		double squares[1] = {0};
		p.linear.ds = i == 0 ? NULL : p.ds_act;
		p.linear.s = i == 1 ? NULL : p.s_act;
		p.linear.backward = i == 2 ? LORA_B4 : LORA_B1;
		p.linear.gradient = i == 3 ? &hook : NULL;
		p.d->ops->lora_backward(p.d, &t, NULL, &p.linear, NULL, false, i == 4 ? squares : NULL);
		ck_assert_int_eq(device_sync(p.d, NULL), SAKIORI_EINVAL);
		p.d->fault.code = 0;
		problem_fini(&p);
	}
}
END_TEST

START_TEST(without_an_adapter_it_is_the_plain_product)
{
	for (int parts = 0; parts <= PARTS; parts += PARTS) {
		struct problem p;
		problem_init(&p, fixture_types[_i], 9);
		struct tokens t = {.count = p.n};
		p.linear.parts = (size_t)parts;
		for (size_t l = 0; l < PARTS; l++) {
			p.linear.part[l].rank = 0;
			p.linear.part[l].a = p.linear.part[l].b = NULL;
			memset(p.b[l], 0, OUT[l] * RANK[l] * sizeof(double));
		}
		forward(&p, &t);
		check_forward(&p);
		p.d->ops->matmul(p.d, p.n, p.x_act, p.weight, p.bias, p.y_act);
		check_forward(&p);
		double *expected = fixture_doubles(p.n * IN);
		fixture_differences(loss, &p, p.x, p.n * IN, expected);
		void *dx = p.d->ops->alloc(p.d, p.n * IN * p.d->act_size);
		backward(&p, &t, dx, false);
		near_act(&p, dx, expected, p.n * IN, "dx");
		p.d->ops->lora_backward(p.d, &t, NULL, &p.linear, dx, false, NULL);
		p.d->ops->lora_gradient_a(p.d, &t, p.x_act, &p.linear);
		near_act(&p, dx, expected, p.n * IN, "dx without x");
		p.d->ops->zero(p.d, dx, p.n * IN * p.d->act_size);
		p.d->ops->matmul_backward(p.d, p.n, p.dy_act, p.weight, dx, true);
		near_act(&p, dx, expected, p.n * IN, "dx of matmul");
		p.d->ops->release(p.d, dx);
		free(expected);
		problem_fini(&p);
	}
}
END_TEST

START_TEST(listed_tokens_are_computed_and_the_others_left_alone)
{
	for (int order = 0; order < 3; order++) {
		struct problem p;
		problem_init(&p, fixture_types[_i], 12);
		const uint32_t index[] = {0, 3, 4, 11};
		struct tokens t = {.count = p.n, .index = index, .index_count = 4};
		double *y = fixture_read(p.d, p.y_act, p.n * ROWS);
		double *before = fixture_doubles(p.n * IN), *expected = fixture_doubles(p.n * IN);
		void *dx = fixture_act(p.d, 90, p.n * IN, before);
		memset(p.used, 0, sizeof p.used);
		for (int i = 0; i < 4; i++) {
			p.used[index[i]] = true;
			for (size_t o = 0; o < ROWS; o++)
				y[index[i] * ROWS + o] = output(&p, index[i], o);
		}
		p.linear.backward = backward_orders[order];
		forward(&p, &t);
		near_act(&p, p.y_act, y, p.n * ROWS, "y of listed tokens");
		backward(&p, &t, dx, true);
		fixture_differences(loss, &p, p.x, p.n * IN, expected);
		for (size_t i = 0; i < p.n * IN; i++)
			expected[i] += before[i];
		near_act(&p, dx, expected, p.n * IN, "dx of listed tokens");
		check_factors(&p, 1);
		p.d->ops->release(p.d, dx);
		free(y);
		free(before);
		free(expected);
		problem_fini(&p);
	}
}
END_TEST

/* Squared norm of the gradient of what counts in loss(). */
static double gradient_squares(struct problem *p)
{
	double g[17 * 23], sum = 0;
	for (size_t l = 0; l < PARTS; l++) {
		fixture_differences(loss, p, p->a[l], RANK[l] * IN, g);
		for (size_t i = 0; i < RANK[l] * IN; i++)
			sum += g[i] * g[i];
		fixture_differences(loss, p, p->b[l], OUT[l] * RANK[l], g);
		for (size_t i = 0; i < OUT[l] * RANK[l]; i++)
			sum += g[i] * g[i];
	}
	return sum;
}

START_TEST(each_rows_gradient_norm_is_told)
{
	struct problem p;
	problem_init(&p, fixture_types[_i], 13);
	const uint32_t offsets[] = {0, 1, 6, 6, 13}, index[] = {0, 1, 5, 6, 8, 12};
	struct tokens t = {.count = p.n, .row_offsets = offsets, .rows = 4};
	for (int k = 0; k < 4; k++) {
		bool listed = k % 2;
		double squares[4] = {100, 100, 100, 100}, expected[4];
		p.linear.backward = k < 2 ? LORA_B1 : LORA_B4;
		t.index = listed ? index : NULL;
		t.index_count = 6;
		forget_gradients(&p);
		forward(&p, &t);
		p.d->ops->lora_backward(p.d, &t, p.x_act, &p.linear, NULL, false, squares);
		bool counted[64];
		for (size_t i = 0; i < 64; i++) {
			counted[i] = !listed && i < p.n;
			for (int at = 0; listed && at < 6; at++)
				counted[i] |= index[at] == i;
		}
		for (size_t row = 0; row < 4; row++) {
			for (size_t i = 0; i < 64; i++)
				p.used[i] = counted[i] && i >= offsets[row] && i < offsets[row + 1];
			expected[row] = 100 + gradient_squares(&p);
		}
		fixture_near(squares, expected, 4, 2 * fixture_limit(p.d), "squares of the rows");
		memcpy(p.used, counted, sizeof counted);
		check_factors(&p, 1);
	}
	problem_fini(&p);
}
END_TEST

START_TEST(the_frozen_weights_gradient_comes_dense_sketched_or_at_indices)
{
	enum { K = 4, INDICES = 3 };
	struct problem p;
	problem_init(&p, fixture_types[_i], 21);
	put_apart(&p, 2);
	struct tokens t = {.count = p.n};
	double *expected = fixture_doubles(ROWS * IN), *sketch = fixture_doubles(ROWS * K);
	fixture_differences(loss, &p, p.w, ROWS * IN, expected);
	float *omega = fixture_values(95, IN * K);
	float *out = must_calloc(ROWS * IN, sizeof *out), *sketched = must_calloc(ROWS * K, sizeof *sketched),
	      at[INDICES] = {1, 1, 1};
	const uint64_t indices[INDICES] = {0, 5 * IN + 7, 29 * IN + 22};
	const struct weight_gradient hooks[] = {
		{.kind = WEIGHT_GRADIENT_DENSE, .out = out},
		{.kind = WEIGHT_GRADIENT_SKETCHED, .out = sketched, .omega = omega, .k = K},
		{.kind = WEIGHT_GRADIENT_INDEXED, .out = at, .indices = indices, .k = INDICES},
		{.kind = WEIGHT_GRADIENT_NONE},
	};
	forward(&p, &t);
	for (int i = 0; i < 4; i++) {
		p.linear.gradient = &hooks[i];
		backward(&p, &t, NULL, false);
	}
	near_floats(&p, out, expected, ROWS * IN, "dense");
	for (size_t o = 0; o < ROWS; o++)
		for (size_t k = 0; k < K; k++)
			for (size_t i = 0; i < IN; i++)
				sketch[o * K + k] += expected[o * IN + i] * (double)omega[i * K + k];
	near_floats(&p, sketched, sketch, ROWS * K, "sketched");
	double wanted[INDICES];
	for (int i = 0; i < INDICES; i++)
		wanted[i] = expected[indices[i]] + 1;
	near_floats(&p, at, wanted, INDICES, "at indices");
	free(expected);
	free(sketch);
	free(omega);
	free(out);
	free(sketched);
	problem_fini(&p);
}
END_TEST

START_TEST(logits_are_f32_and_the_same_call_gives_the_same_bits)
{
	struct problem p;
	problem_init(&p, fixture_types[_i], 37);
	float *once = must_calloc(p.n * ROWS, sizeof *once), *twice = must_calloc(p.n * ROWS, sizeof *twice);
	p.d->ops->head_logits(p.d, p.n, p.x_act, p.weight, once);
	p.d->ops->head_logits(p.d, p.n, p.x_act, p.weight, twice);
	ck_assert_mem_eq(once, twice, p.n * ROWS * sizeof *once);
	double *expected = fixture_doubles(p.n * ROWS);
	for (size_t i = 0; i < p.n * ROWS; i++)
		for (size_t k = 0; k < IN; k++)
			expected[i] += p.x[i / ROWS * IN + k] * p.w[i % ROWS * IN + k];
	double *found = widen(once, p.n * ROWS);
	fixture_near(found, expected, p.n * ROWS, 2e-6, "logits");
	free(found);
	free(expected);
	free(once);
	free(twice);
	problem_fini(&p);
}
END_TEST

/* An adapter early in training adds about a thousandth of what the base gives, less than half a last place of bf16. Rounded once, the
 * sum still holds it on the average over many elements; rounded before the addition, it would be gone everywhere. */
START_TEST(an_adapter_far_smaller_than_the_base_still_counts)
{
	enum { N = 128, C = 32, O = 64, R = 2 };
	struct device *d = fixture_open(fixture_types[_i], 2);
	float *w = fixture_values(1, O * C), *a = fixture_values(2, R * C), *b = fixture_values(3, O * R);
	double *x = fixture_doubles(N * C);
	void *x_act = fixture_act(d, 4, N * C, x);
	struct tokens t = {.count = N};
	struct lora_linear l = {.weight = fixture_weight(d, w, O, C), .scale = 1e-3f};
	l.part[0] = (struct lora_part){.rows = O, .rank = R, .a = a, .b = b};
	l.y = d->ops->alloc(d, N * O * d->act_size);
	d->ops->lora_forward(d, &t, x_act, &l);
	double *without = fixture_read(d, l.y, N * O);
	l.parts = 1;
	d->ops->lora_forward(d, &t, x_act, &l);
	double *with = fixture_read(d, l.y, N * O);
	double along = 0, squares = 0;
	for (size_t i = 0; i < N * O; i++) {
		double exact = 0;
		for (size_t r = 0; r < R; r++)
			for (size_t k = 0; k < C; k++)
				exact += 1e-3 * (double)b[i % O * R + r] * (double)a[r * C + k] * x[i / O * C + k];
		along += (with[i] - without[i]) * exact;
		squares += exact * exact;
	}
	ck_assert_double_eq_tol(along / squares, 1, 0.15);
	d->ops->weight_free(d, (struct weight *)(uintptr_t)l.weight);
	d->ops->release(d, l.y);
	d->ops->release(d, x_act);
	free(w);
	free(a);
	free(b);
	free(x);
	free(with);
	free(without);
	fixture_close(d);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		linears_with_adapters_match_finite_differences,
		a_merged_forward_and_an_x_a_that_nobody_kept_give_the_same,
		the_gradient_of_a_may_come_later,
		tokens_of_x_may_lie_apart,
		without_x_nothing_that_needs_it_is_promised,
		without_an_adapter_it_is_the_plain_product,
		listed_tokens_are_computed_and_the_others_left_alone,
		each_rows_gradient_norm_is_told,
		the_frozen_weights_gradient_comes_dense_sketched_or_at_indices,
		logits_are_f32_and_the_same_call_gives_the_same_bits,
		an_adapter_far_smaller_than_the_base_still_counts,
	};
	return fixture_run("linear", tests, sizeof tests / sizeof *tests, 3);
}
