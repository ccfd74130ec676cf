/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "gossip/mix.h"

#define N 1003

static void fill(float *v, uint64_t stream)
{
	struct rng r;
	rng_init(&r, 21, stream);
	for (size_t i = 0; i < N; i++)
		v[i] = rng_normal(&r) * expf(3 * rng_normal(&r));
}

START_TEST(what_one_end_gains_the_other_gives_up_bit_for_bit)
{
	static float low[N], high[N], gained[N], given[N];
	fill(low, 1);
	fill(high, 2);
	const float weights[] = {0.5f, 1.0f / 3, 0.1f};
	for (size_t w = 0; w < sizeof weights / sizeof *weights; w++) {
		memset(gained, 0, sizeof gained);
		memset(given, 0, sizeof given);
		mix_edge(gained, low, high, weights[w], MIX_LOW, N);
		mix_edge(given, low, high, weights[w], MIX_HIGH, N);
		for (size_t i = 0; i < N; i++) {
			float negated = -given[i];
			ck_assert_mem_eq(&gained[i], &negated, sizeof negated);
			ck_assert_float_ne(gained[i], 0);
		}
	}
}
END_TEST

START_TEST(every_step_of_the_term_is_rounded_once)
{
	static float x[N], low[N], high[N], lower[N], higher[N];
	fill(x, 3);
	fill(low, 4);
	fill(high, 5);
	const float weight = 0.2f;
	memcpy(lower, x, sizeof x);
	memcpy(higher, x, sizeof x);
	mix_edge(lower, low, high, weight, MIX_LOW, N);
	mix_edge(higher, low, high, weight, MIX_HIGH, N);
	for (size_t i = 0; i < N; i++) {
		volatile float d = high[i] - low[i], t = weight * d, up = x[i] + t, down = x[i] - t;
		ck_assert_float_eq(lower[i], up);
		ck_assert_float_eq(higher[i], down);
	}
}
END_TEST

START_TEST(pending_terms_are_merged_once)
{
	static float x[N], before[N], pending[N], low[N], high[N], zero[N];
	fill(x, 6);
	fill(low, 7);
	fill(high, 8);
	memcpy(before, x, sizeof x);
	mix_edge(pending, low, high, 0.25f, MIX_HIGH, N);
	mix_edge(pending, high, low, 0.5f, MIX_HIGH, N);
	static float expected[N];
	for (size_t i = 0; i < N; i++) {
		expected[i] = before[i] + pending[i];
		ck_assert_float_ne(pending[i], 0);
	}
	mix_merge(x, pending, N);
	ck_assert_mem_eq(x, expected, sizeof x);
	ck_assert_mem_eq(pending, zero, sizeof zero);
	mix_merge(x, pending, N);
	ck_assert_mem_eq(x, expected, sizeof x);
}
END_TEST

START_TEST(a_distance_is_the_euclidean_norm_in_double)
{
	static float a[N], b[N];
	fill(a, 9);
	fill(b, 10);
	double sum = 0;
	for (size_t i = 0; i < N; i++)
		sum += pow((double)a[i] - (double)b[i], 2);
	ck_assert_double_eq_tol(mix_distance(a, b, N), sqrt(sum), 1e-12 * sqrt(sum));
	ck_assert_double_eq(mix_distance(a, a, N), 0);
	ck_assert_double_eq(mix_distance(a, b, 0), 0);
	float large = 3e30f, none = 0; /* its square overflows f32 */
	ck_assert_double_eq(mix_distance(&large, &none, 1), (double)large);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("mix");
	TCase *t = tcase_create("mix");
	tcase_add_test(t, what_one_end_gains_the_other_gives_up_bit_for_bit);
	tcase_add_test(t, every_step_of_the_term_is_rounded_once);
	tcase_add_test(t, pending_terms_are_merged_once);
	tcase_add_test(t, a_distance_is_the_euclidean_norm_in_double);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
