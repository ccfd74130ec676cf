/* SPDX-License-Identifier: Apache-2.0 */
/* A payload has the same bits whichever device made it or opens it. */
#include "gpu/pair.h"

static void check_bits(struct pair *p, const float *x, size_t n, uint64_t seed, uint64_t stream)
{
	size_t blocks = quantize_blocks(n);
	struct both from = pair_host(p, PAIR_F32, x, n), values = pair_output(p, PAIR_BYTES, n),
		    back = pair_output(p, PAIR_F32, n);
	size_t shift = p->shift;
	p->shift = 0; /* scales are whole uint16_t */
	struct both scales = pair_output(p, PAIR_BYTES, 2 * blocks);
	p->shift = shift;
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		d->ops->quantize(d, values.at[side], scales.at[side], from.at[side], n, seed, stream);
		d->ops->dequantize(d, back.at[side], values.at[side], scales.at[side], n);
	}
	pair_same(p, values, "values");
	pair_same(p, scales, "scales");
	pair_same(p, back, "dequantized");
}

START_TEST(quantized_bits_are_those_of_the_cpu)
{
	static const size_t counts[] = {0, 1, 3, 63, 64, 65, 127, 1000, 100001, 1 << 20};
	static const uint64_t streams[] = {0, 5, 1ull << 40 | 9, UINT64_MAX};
	static const float factors[] = {1, 1e-7f, 3e-10f, 6e4f, 1e-38f};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 10; k++)
		for (int j = 0; j < 5; j++) {
			size_t n = counts[k];
			if (n > 100001 && j)
				continue;
			pair_case(&p, "%zu values up to %g", n, (double)factors[j]);
			p.shift = j == 1;
			float *x = pair_random((uint64_t)j, n);
			for (size_t i = 0; i < n; i++)
				x[i] *= factors[j] * (i / 64 % 5 == 4 ? 30.0f : 1.0f);
			check_bits(&p, x, n, 42 + (uint64_t)j, streams[(k + j) % 4]);
			free(x);
		}
	pair_close(&p);
}
END_TEST

START_TEST(special_blocks_are_those_of_the_cpu)
{
	static const float special[] = {0, NAN, INFINITY, -INFINITY, 1e8f, 3e38f, -3e38f, 1e-45f, -1e-44f, 1e-10f,
		65504, 65504 * 127.0f, 65519 * 127.0f, 65520 * 127.0f, 5.9e-8f * 127, 2.9e-8f * 127, -0.0f, 1e-40f};
	enum { COUNT = sizeof special / sizeof *special };
	struct pair p;
	pair_open(&p, pair_types[_i]);
	float x[64 * COUNT * 2];
	for (size_t i = 0; i < 64 * COUNT * 2; i++) {
		size_t block = i / 64;
		float other = block < COUNT ? 0 : special[block % COUNT] * 0.37f;
		x[i] = i % 64 == 13 * block % 64 ? special[block % COUNT] : other;
	}
	pair_case(&p, "special values");
	check_bits(&p, x, 64 * COUNT * 2, 7, 8);
	pair_case(&p, "special values, a short last block");
	check_bits(&p, x + 37, 64 * COUNT * 2 - 37 - 5, 7, 9);
	pair_close(&p);
}
END_TEST

/* Values on the border of two integers and blocks in which the largest value is 127 steps. */
START_TEST(steps_and_halves_are_those_of_the_cpu)
{
	enum { N = 64 * 255 };
	struct pair p;
	pair_open(&p, pair_types[_i]);
	float *x = must_calloc(N, sizeof *x);
	for (int i = 0; i < N; i++)
		x[i] = (i % 64 ? (float)((i * 37) % 255 - 127) * 0.5f : 127) *
		       ldexpf(1.0f + (float)(i / 64 % 7) / 7, i / 64 % 30 - 20);
	pair_case(&p, "steps and halves");
	check_bits(&p, x, N, 1, 2);
	free(x);
	pair_close(&p);
}
END_TEST

/* Every value with every scale there is. */
START_TEST(whatever_comes_is_dequantized_to_the_same_bits)
{
	enum { SCALES = 65536, N = SCALES * 64 };
	struct pair p;
	pair_open(&p, pair_types[_i]);
	unsigned char *bytes = must_calloc(N, 1);
	uint16_t *each = must_calloc(SCALES, sizeof *each);
	for (size_t i = 0; i < N; i++)
		bytes[i] = (unsigned char)(i * 29 + i / 64);
	for (size_t i = 0; i < SCALES; i++)
		each[i] = (uint16_t)i;
	pair_case(&p, "every scale");
	struct both values = pair_bytes(&p, bytes, N), scales = pair_bytes(&p, each, SCALES * sizeof *each),
		    out = pair_output(&p, PAIR_F32, N);
	for (int side = 0; side < PAIR_SIDES; side++)
		p.device[side]->ops->dequantize(p.device[side], out.at[side], values.at[side], scales.at[side], N);
	pair_same(&p, out, "dequantized");
	free(bytes);
	free(each);
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		quantized_bits_are_those_of_the_cpu,
		special_blocks_are_those_of_the_cpu,
		steps_and_halves_are_those_of_the_cpu,
		whatever_comes_is_dequantized_to_the_same_bits,
	};
	/* Nothing here depends on the type of activations. */
	return pair_run("gpu_quantize", tests, sizeof tests / sizeof *tests, 1);
}
