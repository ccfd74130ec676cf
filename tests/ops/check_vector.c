/* SPDX-License-Identifier: Apache-2.0 */
/* Conversions, sums, the optimizer, and that nothing depends on when it runs. */
#include "ops/fixture.h"

START_TEST(conversions_round_to_nearest_even_and_keep_what_is_not_finite)
{
	enum { N = 70000 };
	struct device *d = fixture_open(fixture_types[_i], 0);
	float *x = must_calloc(N, sizeof *x), *back = must_calloc(N, sizeof *back);
	struct rng r;
	rng_init(&r, 1, 2);
	for (int i = 0; i < N; i++) {
		uint32_t bits = rng_u32(&r);
		memcpy(&x[i], &bits, sizeof bits);
	}
	x[0] = INFINITY;
	x[1] = -0.0f;
	x[2] = 3.3961775e38f; /* rounds up to infinity in bf16 */
	void *act = d->ops->alloc(d, N * d->act_size);
	d->ops->to_act(d, act, x, N);
	d->ops->from_act(d, back, act, N);
	for (int i = 0; i < N; i++) {
		float expected = d->act == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(x[i])) : x[i];
		ck_assert(isnan(expected) ? isnan(back[i]) : !memcmp(&expected, &back[i], sizeof expected));
	}
	d->ops->release(d, act);
	free(x);
	free(back);
	fixture_close(d);
}
END_TEST

START_TEST(sums_and_factors_are_applied_to_every_element)
{
	enum { N = 40003 };
	struct device *d = fixture_open(fixture_types[_i], 0);
	float *x = fixture_values(1, N), *y = fixture_values(2, N), *z = fixture_values(2, N);
	d->ops->axpy(d, y, 0.5f, x, N);
	d->ops->scale(d, y, 2, N);
	for (int i = 0; i < N; i++)
		ck_assert(y[i] == 2 * (z[i] + 0.5f * x[i]));
	double *a = fixture_doubles(N), *b = fixture_doubles(N);
	void *left = fixture_act(d, 3, N, a), *right = fixture_act(d, 4, N, b);
	d->ops->add(d, left, right, N);
	for (int i = 0; i < N; i++)
		a[i] += b[i];
	double *found = fixture_read(d, left, N);
	fixture_near(found, a, N, fixture_limit(d), "sum");
	float kept = y[7];
	d->ops->reduce(d, y, N);
	ck_assert(y[7] == kept);
	d->ops->release(d, left);
	d->ops->release(d, right);
	void *host[] = {x, y, z, a, b, found};
	for (int i = 0; i < 6; i++)
		free(host[i]);
	fixture_close(d);
}
END_TEST

START_TEST(the_sum_of_squares_is_the_same_for_every_thread_count)
{
	enum { N = 100001 };
	float *x = fixture_values(1, N);
	double sums[3], exact = 0;
	for (int i = 0; i < N; i++)
		exact += (double)x[i] * (double)x[i];
	for (unsigned threads = 1; threads <= 3; threads++) {
		struct device *d = fixture_open(fixture_types[_i], threads);
		d->ops->sum_squares(d, x, N, &sums[threads - 1]);
		fixture_close(d);
	}
	ck_assert(sums[0] == sums[1] && sums[1] == sums[2]);
	ck_assert_double_le(fabs(sums[0] - exact), 1e-9 * exact);
	free(x);
}
END_TEST

START_TEST(adamw_takes_the_steps_of_the_formula)
{
	enum { N = 1000 };
	struct device *d = fixture_open(fixture_types[_i], 0);
	float *w = fixture_values(1, N), *m = must_calloc(N, sizeof *m), *v = must_calloc(N, sizeof *v);
	double *exact = fixture_doubles(N), *first = fixture_doubles(N), *second = fixture_doubles(N),
	       *found = fixture_doubles(N);
	for (int i = 0; i < N; i++)
		exact[i] = (double)w[i];
	struct adamw a = {.lr = 0.01f,
		.beta1 = 0.9f,
		.beta2 = 0.999f,
		.epsilon = 1e-8f,
		.weight_decay = 0.1f,
		.gradient_scale = 0.25f};
	for (a.step = 1; a.step <= 20; a.step++) {
		float *g = fixture_values(100 + a.step, N);
		d->ops->adamw(d, &a, w, g, m, v, N);
		for (int i = 0; i < N; i++) {
			double gradient = 0.25 * (double)g[i];
			first[i] = 0.9 * first[i] + 0.1 * gradient;
			second[i] = 0.999 * second[i] + 0.001 * gradient * gradient;
			double m_hat = first[i] / (1 - pow(0.9, (double)a.step)),
			       v_hat = second[i] / (1 - pow(0.999, (double)a.step));
			exact[i] -= 0.01 * 0.1 * exact[i] + 0.01 * m_hat / (sqrt(v_hat) + 1e-8);
		}
		free(g);
	}
	for (int i = 0; i < N; i++)
		found[i] = (double)w[i];
	fixture_near(found, exact, N, 1e-5, "parameters");
	void *host[] = {w, m, v, exact, first, second, found};
	for (int i = 0; i < 7; i++)
		free(host[i]);
	fixture_close(d);
}
END_TEST

/* A layer's worth of operations on fresh devices. */
static void run_layer(enum dtype act, unsigned threads, void *out, size_t *bytes)
{
	enum { N = 150, C = 48, RANK = 4 };
	const uint32_t offsets[] = {0, 70, 150};
	struct device *d = fixture_open(act, threads);
	float *values = fixture_values(1, C * C), *a = fixture_values(2, RANK * C), *b = fixture_values(3, C * RANK);
	float *grad = must_calloc(2 * RANK * C, sizeof *grad), *lse = must_calloc(N * 3, sizeof *lse);
	struct weight *w = fixture_weight(d, values, C, C);
	void *x = fixture_act(d, 4, N * C, NULL), *y = fixture_act(d, 5, N * C, NULL),
	     *s = fixture_act(d, 6, N * RANK, NULL);
	void *dx = fixture_act(d, 7, N * C, NULL), *o = fixture_act(d, 8, N * C, NULL),
	     *dy = fixture_act(d, 9, N * C, NULL);
	struct tokens t = {.count = N, .row_offsets = offsets, .rows = 2};
	struct lora_linear l = {.weight = w,
		.parts = 1,
		.part[0] = {.rows = C, .rank = RANK, .a = a, .b = b, .grad_a = grad, .grad_b = grad + RANK * C},
		.scale = 1,
		.y = y,
		.s = s,
		.dy = dy};
	struct attention at = {
		.heads = 3, .kv_heads = 3, .head_dim = 16, .scale = 0.25f, .q_stride = C, .kv_stride = C};
	d->ops->lora_forward(d, &t, x, &l);
	d->ops->attention_forward(d, &at, &t, y, x, x, o, lse);
	d->ops->lora_backward(d, &t, x, &l, dx, true, NULL);
	*bytes = N * C * d->act_size;
	memcpy(out, o, *bytes);
	memcpy((char *)out + *bytes, dx, *bytes);
	memcpy((char *)out + 2 * *bytes, grad, 2 * RANK * C * sizeof *grad);
	*bytes = 2 * *bytes + 2 * RANK * C * sizeof *grad;
	void *device[] = {x, y, s, dx, o, dy};
	for (int i = 0; i < 6; i++)
		d->ops->release(d, device[i]);
	d->ops->weight_free(d, w);
	float *host[] = {values, a, b, grad, lse};
	for (int i = 0; i < 5; i++)
		free(host[i]);
	fixture_close(d);
}

START_TEST(the_same_calls_give_the_same_bits)
{
	char *once = must_calloc(1, 1 << 20), *twice = must_calloc(1, 1 << 20);
	size_t bytes;
	for (unsigned threads = 1; threads <= 2; threads++) {
		run_layer(fixture_types[_i], threads, once, &bytes);
		run_layer(fixture_types[_i], threads, twice, &bytes);
		ck_assert_mem_eq(once, twice, bytes);
	}
	free(once);
	free(twice);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		conversions_round_to_nearest_even_and_keep_what_is_not_finite,
		sums_and_factors_are_applied_to_every_element,
		the_sum_of_squares_is_the_same_for_every_thread_count,
		adamw_takes_the_steps_of_the_formula,
		the_same_calls_give_the_same_bits,
	};
	return fixture_run("vector", tests, sizeof tests / sizeof *tests, 3);
}
