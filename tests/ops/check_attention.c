/* SPDX-License-Identifier: Apache-2.0 */
#include "ops/fixture.h"

/* Everything in doubles, naively. */
struct problem {
	struct attention a;
	const uint32_t *offsets;
	size_t rows;
	double *q, *k, *v, *d_out;
};

static double score(const struct problem *p, size_t token, size_t head, size_t key)
{
	const struct attention *a = &p->a;
	double s = 0;
	for (size_t i = 0; i < a->head_dim; i++)
		s += p->q[token * a->q_stride + head * a->head_dim + i] *
		     p->k[key * a->kv_stride + head / (a->heads / a->kv_heads) * a->head_dim + i];
	s *= (double)a->scale;
	return a->softcap > 0 ? (double)a->softcap * tanh(s / (double)a->softcap) : s;
}

static bool visible(const struct attention *a, size_t position, size_t key)
{
	if (a->mask == MASK_BIDIRECTIONAL)
		return true;
	return key <= position && (a->mask == MASK_CAUSAL || position - key < a->window);
}

/* out (N, heads, head_dim), log_sum_exp (N, heads) */
static void naive(const struct problem *p, double *out, double *log_sum_exp)
{
	const struct attention *a = &p->a;
	const uint32_t *kv = a->kv_offsets ? a->kv_offsets : p->offsets;
	for (size_t row = 0; row < p->rows; row++)
		for (size_t token = p->offsets[row]; token < p->offsets[row + 1]; token++)
			for (size_t head = 0; head < a->heads; head++) {
				size_t keys = kv[row + 1] - kv[row];
				size_t position = keys - (p->offsets[row + 1] - token);
				double sum = 0, *o = out + (token * a->heads + head) * a->head_dim;
				memset(o, 0, a->head_dim * sizeof *o);
				for (size_t j = 0; j < keys; j++) {
					if (!visible(a, position, j))
						continue;
					double e = exp(score(p, token, head, kv[row] + j));
					sum += e;
					for (size_t i = 0; i < a->head_dim; i++)
						o[i] += e * p->v[(kv[row] + j) * a->kv_stride +
								    head / (a->heads / a->kv_heads) * a->head_dim + i];
				}
				for (size_t i = 0; i < a->head_dim; i++)
					o[i] /= sum;
				if (log_sum_exp)
					log_sum_exp[token * a->heads + head] = log(sum);
			}
}

static double loss(void *self)
{
	const struct problem *p = self;
	size_t n = p->offsets[p->rows] * p->a.heads * p->a.head_dim;
	double *out = fixture_doubles(n), sum = 0;
	naive(p, out, NULL);
	for (size_t i = 0; i < n; i++)
		sum += out[i] * p->d_out[i];
	free(out);
	return sum;
}

static void near_act(struct device *d, const void *act, const double *expected, size_t n, const char *what)
{
	double *found = fixture_read(d, act, n);
	fixture_near(found, expected, n, d->act == DTYPE_BF16 ? 1.5e-2 : d->act == DTYPE_F32 ? 1e-5 : 2e-6, what);
	free(found);
}

static void check_case(enum dtype act, struct attention a, const uint32_t *offsets, size_t rows, bool backward)
{
	struct device *d = fixture_open(act, 0);
	const struct device_ops *ops = d->ops;
	size_t n = offsets[rows], keys = a.kv_offsets ? a.kv_offsets[rows] : n;
	size_t q_size = n * a.q_stride, kv_size = keys * a.kv_stride, out_size = n * a.heads * a.head_dim;
	struct problem p = {.a = a,
		.offsets = offsets,
		.rows = rows,
		.q = fixture_doubles(q_size),
		.k = fixture_doubles(kv_size),
		.v = fixture_doubles(kv_size),
		.d_out = fixture_doubles(out_size)};
	void *q = fixture_act(d, 1, q_size, p.q), *k = fixture_act(d, 2, kv_size, p.k),
	     *v = fixture_act(d, 3, kv_size, p.v);
	void *d_out = fixture_act(d, 4, out_size, p.d_out), *out = ops->alloc(d, out_size * d->act_size);
	float *log_sum_exp = ops->alloc(d, n * a.heads * sizeof *log_sum_exp);
	struct tokens t = {.count = n, .row_offsets = offsets, .rows = rows};
	ops->attention_forward(d, &a, &t, q, k, v, out, log_sum_exp);
	double *expected = fixture_doubles(out_size), *expected_lse = fixture_doubles(n * a.heads),
	       *lse = fixture_doubles(n * a.heads);
	naive(&p, expected, expected_lse);
	near_act(d, out, expected, out_size, "out");
	for (size_t i = 0; i < n * a.heads; i++)
		lse[i] = (double)log_sum_exp[i];
	fixture_near(lse, expected_lse, n * a.heads, act == DTYPE_BF16 ? 1e-2 : 1e-6, "log-sum-exp");
	if (backward) {
		void *dq = ops->alloc(d, q_size * d->act_size), *dk = ops->alloc(d, kv_size * d->act_size),
		     *dv = ops->alloc(d, kv_size * d->act_size);
		double *gradient = fixture_doubles(q_size > kv_size ? q_size : kv_size);
		ops->attention_backward(d, &a, &t, q, k, v, out, log_sum_exp, d_out, dq, dk, dv);
		fixture_differences(loss, &p, p.q, q_size, gradient);
		near_act(d, dq, gradient, q_size, "dq");
		fixture_differences(loss, &p, p.k, kv_size, gradient);
		near_act(d, dk, gradient, kv_size, "dk");
		fixture_differences(loss, &p, p.v, kv_size, gradient);
		near_act(d, dv, gradient, kv_size, "dv");
		ops->release(d, dq);
		ops->release(d, dk);
		ops->release(d, dv);
		free(gradient);
	}
	void *device[] = {q, k, v, d_out, out, log_sum_exp};
	for (int i = 0; i < 6; i++)
		ops->release(d, device[i]);
	double *host[] = {p.q, p.k, p.v, p.d_out, expected, expected_lse, lse};
	for (int i = 0; i < 7; i++)
		free(host[i]);
	fixture_close(d);
}

static struct attention shape(size_t heads, size_t kv_heads, size_t head_dim)
{
	return (struct attention){.heads = heads,
		.kv_heads = kv_heads,
		.head_dim = head_dim,
		.scale = 1 / sqrtf((float)head_dim),
		.q_stride = heads * head_dim,
		.kv_stride = kv_heads * head_dim};
}

static const uint32_t packed[] = {0, 1, 6, 6, 17};

START_TEST(packed_rows_with_grouped_heads_match_finite_differences)
{
	check_case(fixture_types[_i], shape(4, 2, 6), packed, 4, true);
	check_case(fixture_types[_i], shape(3, 3, 5), packed, 4, true);
}
END_TEST

START_TEST(one_token_attends_to_itself)
{
	const uint32_t one[] = {0, 1};
	check_case(fixture_types[_i], shape(6, 2, 8), one, 1, true);
}
END_TEST

START_TEST(a_window_hides_what_lies_further_back)
{
	struct attention a = shape(2, 1, 4);
	a.mask = MASK_WINDOW;
	a.window = 3;
	check_case(fixture_types[_i], a, packed, 4, true);
}
END_TEST

START_TEST(both_directions_see_the_whole_row)
{
	struct attention a = shape(2, 2, 4);
	a.mask = MASK_BIDIRECTIONAL;
	check_case(fixture_types[_i], a, packed, 4, true);
}
END_TEST

START_TEST(scores_are_capped_softly)
{
	struct attention a = shape(2, 1, 4);
	a.softcap = 0.7f;
	a.scale = 1;
	check_case(fixture_types[_i], a, packed, 4, true);
}
END_TEST

START_TEST(strides_may_leave_room_between_tokens)
{
	struct attention a = shape(2, 1, 4);
	a.q_stride = 11;
	a.kv_stride = 7;
	check_case(fixture_types[_i], a, packed, 4, true);
}
END_TEST

START_TEST(rows_longer_than_a_tile_match)
{
	const uint32_t longer[] = {0, 300, 429};
	check_case(fixture_types[_i], shape(3, 1, 16), longer, 2, false);
	struct attention a = shape(3, 1, 16);
	a.mask = MASK_WINDOW;
	a.window = 150;
	check_case(fixture_types[_i], a, longer, 2, false);
	a.mask = MASK_BIDIRECTIONAL;
	check_case(fixture_types[_i], a, longer, 2, false);
}
END_TEST

/* Finite differences over rows of several tiles would take minutes; the oracle's own backward, checked above, stands in. */
START_TEST(the_backward_over_several_tiles_agrees_with_the_oracle)
{
	const uint32_t longer[] = {0, 300, 429};
	struct attention a = shape(3, 1, 16);
	if (_i == 1)
		a.mask = MASK_WINDOW, a.window = 170;
	size_t n = 429, q_size = n * a.q_stride, kv_size = n * a.kv_stride;
	double *gradient[2][3];
	for (int exact = 0; exact < 2; exact++) {
		struct device *d = fixture_open(exact ? DTYPE_F64 : fixture_types[_i], 0);
		void *q = fixture_act(d, 1, q_size, NULL), *k = fixture_act(d, 2, kv_size, NULL),
		     *v = fixture_act(d, 3, kv_size, NULL);
		void *d_out = fixture_act(d, 4, q_size, NULL), *out = d->ops->alloc(d, q_size * d->act_size);
		void *dq = d->ops->alloc(d, q_size * d->act_size), *dk = d->ops->alloc(d, kv_size * d->act_size),
		     *dv = d->ops->alloc(d, kv_size * d->act_size);
		float *lse = d->ops->alloc(d, n * a.heads * sizeof *lse);
		struct tokens t = {.count = n, .row_offsets = longer, .rows = 2};
		d->ops->attention_forward(d, &a, &t, q, k, v, out, lse);
		d->ops->attention_backward(d, &a, &t, q, k, v, out, lse, d_out, dq, dk, dv);
		gradient[exact][0] = fixture_read(d, dq, q_size);
		gradient[exact][1] = fixture_read(d, dk, kv_size);
		gradient[exact][2] = fixture_read(d, dv, kv_size);
		void *all[] = {q, k, v, d_out, out, dq, dk, dv, lse};
		for (int i = 0; i < 9; i++)
			d->ops->release(d, all[i]);
		fixture_close(d);
	}
	for (int i = 0; i < 3; i++) {
		fixture_near(gradient[0][i], gradient[1][i], i ? kv_size : q_size,
			fixture_types[_i] == DTYPE_BF16 ? 2e-2 : 1e-5, "gradient");
		free(gradient[0][i]);
		free(gradient[1][i]);
	}
}
END_TEST

START_TEST(queries_at_the_end_of_a_cache_see_all_of_it)
{
	const uint32_t queries[] = {0, 1, 4}, keys[] = {0, 200, 207};
	struct attention a = shape(6, 2, 8);
	a.kv_offsets = keys;
	check_case(fixture_types[_i], a, queries, 2, false);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		packed_rows_with_grouped_heads_match_finite_differences,
		one_token_attends_to_itself,
		a_window_hides_what_lies_further_back,
		both_directions_see_the_whole_row,
		scores_are_capped_softly,
		strides_may_leave_room_between_tokens,
		rows_longer_than_a_tile_match,
		the_backward_over_several_tiles_agrees_with_the_oracle,
		queries_at_the_end_of_a_cache_see_all_of_it,
	};
	return fixture_run("attention", tests, sizeof tests / sizeof *tests, 3);
}
