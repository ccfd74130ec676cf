/* SPDX-License-Identifier: Apache-2.0 */
#include "ops/fixture.h"

enum { IN = 23, LINEARS = 2 };
static const size_t OUT[LINEARS] = {17, 8};
static const size_t RANK[LINEARS] = {3, 5};
static const float SCALE[LINEARS] = {1.5f, 0.25f};

/* Two linears with one input, everything in doubles as the device holds it. */
struct problem {
	struct device *d;
	size_t n;
	void *x_act;
	double *x;
	struct weight *weight[LINEARS];
	void *y_act[LINEARS], *s_act[LINEARS], *dy_act[LINEARS];
	float *a_values[LINEARS], *b_values[LINEARS], *bias[LINEARS], *grad_a[LINEARS], *grad_b[LINEARS];
	double *w[LINEARS], *a[LINEARS], *b[LINEARS], *dy[LINEARS];
	bool used[64]; /* tokens that count in loss() */
	struct lora_linear linears[LINEARS];
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
	for (size_t l = 0; l < LINEARS; l++) {
		float *values = fixture_values(10 + l, OUT[l] * IN);
		p->weight[l] = fixture_weight(p->d, values, OUT[l], IN);
		free(values);
		p->w[l] = fixture_weight_values(p->d, p->weight[l], OUT[l], IN);
		p->a_values[l] = fixture_values(20 + l, RANK[l] * IN);
		p->b_values[l] = fixture_values(30 + l, OUT[l] * RANK[l]);
		p->bias[l] = fixture_values(40 + l, OUT[l]);
		p->a[l] = widen(p->a_values[l], RANK[l] * IN);
		p->b[l] = widen(p->b_values[l], OUT[l] * RANK[l]);
		p->dy[l] = fixture_doubles(n * OUT[l]);
		p->dy_act[l] = fixture_act(p->d, 50 + l, n * OUT[l], p->dy[l]);
		p->y_act[l] = fixture_act(p->d, 60 + l, n * OUT[l], NULL);
		p->s_act[l] = fixture_act(p->d, 70 + l, n * RANK[l], NULL);
		p->grad_a[l] = must_calloc(RANK[l] * IN, sizeof(float));
		p->grad_b[l] = must_calloc(OUT[l] * RANK[l], sizeof(float));
		p->linears[l] = (struct lora_linear){.weight = p->weight[l],
			.bias = p->bias[l],
			.a = p->a_values[l],
			.b = p->b_values[l],
			.rank = RANK[l],
			.scale = SCALE[l],
			.y = p->y_act[l],
			.s = p->s_act[l],
			.dy = p->dy_act[l],
			.grad_a = p->grad_a[l],
			.grad_b = p->grad_b[l]};
	}
}

static void problem_fini(struct problem *p)
{
	const struct device_ops *ops = p->d->ops;
	for (size_t l = 0; l < LINEARS; l++) {
		ops->weight_free(p->d, p->weight[l]);
		ops->release(p->d, p->y_act[l]);
		ops->release(p->d, p->s_act[l]);
		ops->release(p->d, p->dy_act[l]);
		float *floats[] = {p->a_values[l], p->b_values[l], p->bias[l], p->grad_a[l], p->grad_b[l]};
		double *doubles[] = {p->w[l], p->a[l], p->b[l], p->dy[l]};
		for (int i = 0; i < 5; i++)
			free(floats[i]);
		for (int i = 0; i < 4; i++)
			free(doubles[i]);
	}
	ops->release(p->d, p->x_act);
	free(p->x);
	fixture_close(p->d);
}

static double output(const struct problem *p, size_t l, size_t t, size_t o)
{
	double y = (double)p->bias[l][o];
	for (size_t i = 0; i < IN; i++)
		y += p->x[t * IN + i] * p->w[l][o * IN + i];
	for (size_t k = 0; k < RANK[l]; k++) {
		double s = 0;
		for (size_t i = 0; i < IN; i++)
			s += p->x[t * IN + i] * p->a[l][k * IN + i];
		y += (double)SCALE[l] * s * p->b[l][o * RANK[l] + k];
	}
	return y;
}

static double loss(void *self)
{
	const struct problem *p = self;
	double sum = 0;
	for (size_t l = 0; l < LINEARS; l++)
		for (size_t t = 0; t < p->n; t++)
			for (size_t o = 0; p->used[t] && o < OUT[l]; o++)
				sum += output(p, l, t, o) * p->dy[l][t * OUT[l] + o];
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
	for (size_t l = 0; l < LINEARS; l++) {
		double *expected = fixture_doubles(p->n * OUT[l]);
		for (size_t i = 0; i < p->n * OUT[l]; i++)
			expected[i] = output(p, l, i / OUT[l], i % OUT[l]);
		near_act(p, p->y_act[l], expected, p->n * OUT[l], "y");
		free(expected);
	}
}

static void check_factors(struct problem *p, double times)
{
	for (size_t l = 0; l < LINEARS; l++) {
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

START_TEST(linears_with_adapters_match_finite_differences)
{
	static const size_t counts[] = {1, 2, 37};
	for (int k = 0; k < 3; k++) {
		struct problem p;
		problem_init(&p, fixture_types[_i], counts[k]);
		struct tokens t = {.count = p.n};
		p.d->ops->lora_forward(p.d, &t, p.x_act, p.linears, LINEARS);
		check_forward(&p);
		double *expected = fixture_doubles(p.n * IN), *before = fixture_doubles(p.n * IN);
		fixture_differences(loss, &p, p.x, p.n * IN, expected);
		void *dx = fixture_act(p.d, 90, p.n * IN, before);
		p.d->ops->lora_backward(p.d, &t, p.x_act, p.linears, LINEARS, dx, false, NULL);
		near_act(&p, dx, expected, p.n * IN, "dx");
		check_factors(&p, 1);
		/* a second call adds to dx when asked to, and to the factors' gradients always */
		p.d->ops->lora_backward(p.d, &t, p.x_act, p.linears, LINEARS, dx, true, NULL);
		for (size_t i = 0; i < p.n * IN; i++)
			expected[i] *= 2;
		near_act(&p, dx, expected, p.n * IN, "dx twice");
		check_factors(&p, 2);
		p.d->ops->lora_backward(p.d, &t, p.x_act, p.linears, LINEARS, NULL, false, NULL);
		check_factors(&p, 3);
		p.d->ops->release(p.d, dx);
		free(expected);
		free(before);
		problem_fini(&p);
	}
}
END_TEST

START_TEST(without_an_adapter_it_is_the_plain_product)
{
	struct problem p;
	problem_init(&p, fixture_types[_i], 9);
	struct tokens t = {.count = p.n};
	for (size_t l = 0; l < LINEARS; l++) {
		p.linears[l].rank = 0;
		p.linears[l].a = p.linears[l].b = NULL;
		memset(p.b[l], 0, OUT[l] * RANK[l] * sizeof(double));
	}
	p.d->ops->lora_forward(p.d, &t, p.x_act, p.linears, LINEARS);
	check_forward(&p);
	p.d->ops->matmul(p.d, p.n, p.x_act, p.weight[0], p.bias[0], p.y_act[0]);
	check_forward(&p);
	double *expected = fixture_doubles(p.n * IN);
	fixture_differences(loss, &p, p.x, p.n * IN, expected);
	void *dx = p.d->ops->alloc(p.d, p.n * IN * p.d->act_size);
	p.d->ops->lora_backward(p.d, &t, p.x_act, p.linears, LINEARS, dx, false, NULL);
	near_act(&p, dx, expected, p.n * IN, "dx");
	p.d->ops->zero(p.d, dx, p.n * IN * p.d->act_size);
	for (size_t l = 0; l < LINEARS; l++)
		p.d->ops->matmul_backward(p.d, p.n, p.dy_act[l], p.weight[l], dx, true);
	near_act(&p, dx, expected, p.n * IN, "dx of matmul");
	p.d->ops->release(p.d, dx);
	free(expected);
	problem_fini(&p);
}
END_TEST

START_TEST(listed_tokens_are_computed_and_the_others_left_alone)
{
	struct problem p;
	problem_init(&p, fixture_types[_i], 12);
	const uint32_t index[] = {0, 3, 4, 11};
	struct tokens t = {.count = p.n, .index = index, .index_count = 4};
	double *y = fixture_read(p.d, p.y_act[1], p.n * OUT[1]);
	double *before = fixture_doubles(p.n * IN), *expected = fixture_doubles(p.n * IN);
	void *dx = fixture_act(p.d, 90, p.n * IN, before);
	memset(p.used, 0, sizeof p.used);
	for (int i = 0; i < 4; i++) {
		p.used[index[i]] = true;
		for (size_t o = 0; o < OUT[1]; o++)
			y[index[i] * OUT[1] + o] = output(&p, 1, index[i], o);
	}
	p.d->ops->lora_forward(p.d, &t, p.x_act, p.linears, LINEARS);
	near_act(&p, p.y_act[1], y, p.n * OUT[1], "y of listed tokens");
	p.d->ops->lora_backward(p.d, &t, p.x_act, p.linears, LINEARS, dx, true, NULL);
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
END_TEST

START_TEST(each_rows_gradient_norm_is_told)
{
	struct problem p;
	problem_init(&p, fixture_types[_i], 13);
	const uint32_t offsets[] = {0, 1, 6, 6, 13}, index[] = {0, 1, 5, 6, 8, 12};
	struct tokens t = {.count = p.n, .row_offsets = offsets, .rows = 4};
	for (int listed = 0; listed < 2; listed++) {
		double squares[4] = {100, 100, 100, 100}, expected[4] = {100, 100, 100, 100};
		t.index = listed ? index : NULL;
		t.index_count = 6;
		for (size_t l = 0; l < LINEARS; l++) {
			memset(p.grad_a[l], 0, RANK[l] * IN * sizeof(float));
			memset(p.grad_b[l], 0, OUT[l] * RANK[l] * sizeof(float));
		}
		p.d->ops->lora_forward(p.d, &t, p.x_act, p.linears, LINEARS);
		p.d->ops->lora_backward(p.d, &t, p.x_act, p.linears, LINEARS, NULL, false, squares);
		bool counted[64];
		for (size_t i = 0; i < 64; i++) {
			counted[i] = !listed && i < p.n;
			for (int k = 0; listed && k < 6; k++)
				counted[i] |= index[k] == i;
		}
		for (size_t row = 0; row < 4; row++) {
			for (size_t i = 0; i < 64; i++)
				p.used[i] = counted[i] && i >= offsets[row] && i < offsets[row + 1];
			for (size_t l = 0; l < LINEARS; l++) {
				double g[17 * 23];
				fixture_differences(loss, &p, p.a[l], RANK[l] * IN, g);
				for (size_t i = 0; i < RANK[l] * IN; i++)
					expected[row] += g[i] * g[i];
				fixture_differences(loss, &p, p.b[l], OUT[l] * RANK[l], g);
				for (size_t i = 0; i < OUT[l] * RANK[l]; i++)
					expected[row] += g[i] * g[i];
			}
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
	struct tokens t = {.count = p.n};
	double *expected = fixture_doubles(OUT[0] * IN), *sketch = fixture_doubles(OUT[0] * K);
	fixture_differences(loss, &p, p.w[0], OUT[0] * IN, expected);
	float *omega = fixture_values(95, IN * K);
	float *out = must_calloc(OUT[0] * IN, sizeof *out), *sketched = must_calloc(OUT[0] * K, sizeof *sketched),
	      at[INDICES] = {1, 1, 1};
	const uint64_t indices[INDICES] = {0, 5 * IN + 7, 16 * IN + 22};
	const struct weight_gradient hooks[] = {
		{.kind = WEIGHT_GRADIENT_DENSE, .out = out},
		{.kind = WEIGHT_GRADIENT_SKETCHED, .out = sketched, .omega = omega, .k = K},
		{.kind = WEIGHT_GRADIENT_INDEXED, .out = at, .indices = indices, .k = INDICES},
		{.kind = WEIGHT_GRADIENT_NONE},
	};
	p.d->ops->lora_forward(p.d, &t, p.x_act, p.linears, LINEARS);
	for (int i = 0; i < 4; i++) {
		p.linears[0].gradient = &hooks[i];
		p.d->ops->lora_backward(p.d, &t, p.x_act, p.linears, LINEARS, NULL, false, NULL);
	}
	near_floats(&p, out, expected, OUT[0] * IN, "dense");
	for (size_t o = 0; o < OUT[0]; o++)
		for (size_t k = 0; k < K; k++)
			for (size_t i = 0; i < IN; i++)
				sketch[o * K + k] += expected[o * IN + i] * (double)omega[i * K + k];
	near_floats(&p, sketched, sketch, OUT[0] * K, "sketched");
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
	float *once = must_calloc(p.n * OUT[0], sizeof *once), *twice = must_calloc(p.n * OUT[0], sizeof *twice);
	p.d->ops->head_logits(p.d, p.n, p.x_act, p.weight[0], once);
	p.d->ops->head_logits(p.d, p.n, p.x_act, p.weight[0], twice);
	ck_assert_mem_eq(once, twice, p.n * OUT[0] * sizeof *once);
	double *expected = fixture_doubles(p.n * OUT[0]);
	for (size_t i = 0; i < p.n * OUT[0]; i++)
		for (size_t k = 0; k < IN; k++)
			expected[i] += p.x[i / OUT[0] * IN + k] * p.w[0][i % OUT[0] * IN + k];
	double *found = widen(once, p.n * OUT[0]);
	fixture_near(found, expected, p.n * OUT[0], 2e-6, "logits");
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
	struct lora_linear l = {.weight = fixture_weight(d, w, O, C), .a = a, .b = b, .scale = 1e-3f};
	l.y = d->ops->alloc(d, N * O * d->act_size);
	d->ops->lora_forward(d, &t, x_act, &l, 1);
	double *without = fixture_read(d, l.y, N * O);
	l.rank = R;
	d->ops->lora_forward(d, &t, x_act, &l, 1);
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
		without_an_adapter_it_is_the_plain_product,
		listed_tokens_are_computed_and_the_others_left_alone,
		each_rows_gradient_norm_is_told,
		the_frozen_weights_gradient_comes_dense_sketched_or_at_indices,
		logits_are_f32_and_the_same_call_gives_the_same_bits,
		an_adapter_far_smaller_than_the_base_still_counts,
	};
	return fixture_run("linear", tests, sizeof tests / sizeof *tests, 3);
}
