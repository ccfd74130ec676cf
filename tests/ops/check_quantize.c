/* SPDX-License-Identifier: Apache-2.0 */
#include "ops/fixture.h"

#include "base/rng.h"

static void quantize(const float *x, size_t n, uint64_t stream, int8_t *values, uint16_t *scales, unsigned threads)
{
	struct device *d = fixture_open(DTYPE_F32, threads);
	d->ops->quantize(d, values, scales, x, n, 42, stream);
	fixture_close(d);
}

START_TEST(quantizing_is_unbiased_and_contracts)
{
	enum { N = 2 * 64 + 17, DRAWS = 10000 };
	float *x = fixture_values(1, N);
	x[3] = 0;
	x[5] *= 30;
	int8_t values[N];
	uint16_t scales[3];
	float back[N];
	double *mean = fixture_doubles(N);
	struct device *d = fixture_open(DTYPE_F32, 1);
	for (int draw = 0; draw < DRAWS; draw++) {
		d->ops->quantize(d, values, scales, x, N, 42, (uint64_t)draw);
		d->ops->dequantize(d, back, values, scales, N);
		double error = 0, norm = 0;
		for (int i = 0; i < N; i++) {
			double scale = (double)f16_to_f32(scales[i / 64]);
			mean[i] += (double)back[i];
			error += ((double)back[i] - (double)x[i]) * ((double)back[i] - (double)x[i]);
			norm += (double)x[i] * (double)x[i];
			ck_assert(fabs((double)back[i] - (double)x[i]) <= scale * 1.00001);
		}
		ck_assert_double_le(error, norm * 64 / (4.0 * 127 * 127) * 2);
	}
	for (int i = 0; i < N; i++) {
		double scale = (double)f16_to_f32(scales[i / 64]);
		/* the variance of one draw is at most scale^2 / 4 */
		ck_assert_double_le(fabs(mean[i] / DRAWS - (double)x[i]), 4 * scale / 2 / sqrt(DRAWS) + 1e-7);
	}
	fixture_close(d);
	free(mean);
	free(x);
}
END_TEST

START_TEST(the_scale_is_rounded_up_so_that_nothing_is_clamped_short)
{
	for (uint64_t seed = 0; seed < 200; seed++) {
		float *x = fixture_values(seed, 64);
		for (int i = 0; i < 64; i++)
			x[i] *= (float)(1 + seed) * 0.0137f;
		int8_t values[64];
		uint16_t scale;
		quantize(x, 64, seed, values, &scale, 1);
		float most = 0;
		for (int i = 0; i < 64; i++)
			most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
		ck_assert(f16_to_f32(scale) * 127 >= most);
		ck_assert(f16_to_f32((uint16_t)(scale - 1)) * 127 < most);
		free(x);
	}
}
END_TEST

START_TEST(a_zero_block_has_scale_zero)
{
	float x[70] = {0};
	x[69] = 1;
	int8_t values[70];
	uint16_t scales[2] = {1, 1};
	quantize(x, 70, 0, values, scales, 1);
	ck_assert_uint_eq(scales[0], 0);
	for (int i = 0; i < 69; i++)
		ck_assert_int_eq(values[i], 0);
	ck_assert_int_ge(values[69], 126);
}
END_TEST

/* 1e-45 is the least subnormal number: divided by 127 it is 0, and nothing may be divided by that. */
START_TEST(a_block_whose_scale_would_vanish_is_a_zero_block)
{
	float x[64] = {[3] = 1e-45f, [7] = -1e-44f};
	int8_t values[64];
	uint16_t scale = 1;
	quantize(x, 64, 0, values, &scale, 1);
	ck_assert_uint_eq(scale, 0);
	for (int i = 0; i < 64; i++)
		ck_assert_int_eq(values[i], 0);
}
END_TEST

/* compute.h's definition, element by element: whatever instructions the machine has, the draws are Philox's. */
START_TEST(every_value_is_the_definition_s)
{
	enum { N = 5 * 64 + 17 };
	float *x = fixture_values(4, N);
	int8_t values[N];
	uint16_t scales[6];
	quantize(x, N, 1ull << 40 | 9, values, scales, 1);
	for (uint64_t i = 0; i < N; i++) {
		uint32_t random[4];
		rng_block(42, 1ull << 40 | 9, i / 4, random);
		float inverse = 1.0f / f16_to_f32(scales[i / 64]);
		volatile float z = x[i] * inverse; /* rounded, never fused into what follows */
		float below = floorf(z);
		int expected = (int)below + ((float)(random[i % 4] >> 8) * 0x1p-24f < z - below);
		ck_assert_int_eq(values[i], expected > 127 ? 127 : expected < -127 ? -127 : expected);
	}
	free(x);
}
END_TEST

START_TEST(what_is_not_finite_or_too_large_marks_its_block)
{
	const float bad[] = {NAN, INFINITY, -INFINITY, 1e8f, 3e38f};
	for (int i = 0; i < 5; i++) {
		float x[128];
		for (int j = 0; j < 128; j++)
			x[j] = 1;
		x[77] = bad[i];
		int8_t values[128];
		uint16_t scales[2];
		quantize(x, 128, 0, values, scales, 1);
		ck_assert_uint_eq(scales[1], 0x7e00);
		ck_assert(isfinite(f16_to_f32(scales[0])) && values[127] == 0);
	}
}
END_TEST

START_TEST(tiny_values_survive)
{
	float x[64];
	for (int i = 0; i < 64; i++)
		x[i] = 1e-10f;
	int8_t values[64];
	uint16_t scale;
	quantize(x, 64, 3, values, &scale, 1);
	ck_assert_uint_eq(scale, 1);
	for (int i = 0; i < 64; i++)
		ck_assert(values[i] == 0 || values[i] == 1);
}
END_TEST

START_TEST(the_bits_do_not_depend_on_the_threads)
{
	enum { N = 64 * 1000 + 3 };
	float *x = fixture_values(9, N);
	int8_t *one = must_calloc(N, 1), *two = must_calloc(N, 1);
	uint16_t *scales = must_calloc(2 * quantize_blocks(N), sizeof *scales);
	quantize(x, N, 5, one, scales, 1);
	quantize(x, N, 5, two, scales + quantize_blocks(N), 2);
	ck_assert_mem_eq(one, two, N);
	ck_assert_mem_eq(scales, scales + quantize_blocks(N), quantize_blocks(N) * sizeof *scales);
	quantize(x, N, 6, two, scales, 1);
	ck_assert(memcmp(one, two, N));
	free(x);
	free(one);
	free(two);
	free(scales);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		quantizing_is_unbiased_and_contracts,
		the_scale_is_rounded_up_so_that_nothing_is_clamped_short,
		a_zero_block_has_scale_zero,
		a_block_whose_scale_would_vanish_is_a_zero_block,
		every_value_is_the_definition_s,
		what_is_not_finite_or_too_large_marks_its_block,
		tiny_values_survive,
		the_bits_do_not_depend_on_the_threads,
	};
	return fixture_run("quantize", tests, sizeof tests / sizeof *tests, 1);
}
