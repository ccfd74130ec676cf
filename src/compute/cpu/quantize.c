/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/quantize.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/bytes.h"
#include "base/rng.h"
#include "compute/compute.h"

/* Philox blocks that one quantization block draws from, computed side by side. */
#define LANES (QUANTIZE_BLOCK / 4)
/* Largest magnitude whose scale still is a finite f16. */
#define LARGEST (65504.0f * 127.0f)

/* The 64 numbers of one quantization block: rng_block for counter .. counter + 15; counter is a multiple of 16. */
typedef void draw_function(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[static QUANTIZE_BLOCK]);

static inline __attribute__((always_inline)) void draw_plain(
	uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[static QUANTIZE_BLOCK])
{
	for (unsigned lane = 0; lane < LANES; lane++)
		rng_block(seed, stream, counter + lane, out + 4 * lane);
}

/* The smallest f16 that is not below `scale`, which is positive and at most 65504. */
static inline uint16_t f16_above(float scale)
{
	uint16_t half = f32_to_f16(scale);
	return half + (f16_to_f32(half) < scale);
}

/* x has 64 elements here, also for the short block at the end. */
static inline __attribute__((always_inline)) uint16_t quantize_block(int8_t values[static QUANTIZE_BLOCK],
	const float x[static QUANTIZE_BLOCK], uint64_t seed, uint64_t stream, uint64_t counter, draw_function *draw)
{
	/* As integers, magnitudes order like the numbers and NaN lies above them all. */
	uint32_t top = 0;
#pragma omp simd reduction(max : top)
	for (unsigned i = 0; i < QUANTIZE_BLOCK; i++) {
		uint32_t bits;
		memcpy(&bits, &x[i], sizeof bits);
		bits &= 0x7fffffffu;
		top = bits > top ? bits : top;
	}
	float largest;
	memcpy(&largest, &top, sizeof largest);
	float step = largest / 127.0f; /* 0 also for a few of the smallest subnormal numbers */
	if (step == 0 || !(largest <= LARGEST)) {
		memset(values, 0, QUANTIZE_BLOCK);
		return step == 0 ? 0 : QUANTIZE_BAD_SCALE;
	}
	uint16_t scale = f16_above(step);
	float inverse = 1.0f / f16_to_f32(scale);
	uint32_t random[QUANTIZE_BLOCK];
	draw(seed, stream, counter, random);
#pragma omp simd
	for (unsigned i = 0; i < QUANTIZE_BLOCK; i++) {
		float z = x[i] * inverse;
		int32_t below = (int32_t)z;
		below -= z < (float)below;
		below += (float)(int32_t)(random[i] >> 8) * 0x1p-24f < z - (float)below;
		below = below > 127 ? 127 : below;
		below = below < -127 ? -127 : below;
		values[i] = (int8_t)below;
	}
	return scale;
}

static inline __attribute__((always_inline)) void quantize_all(int8_t *values, uint16_t *scales, const float *x,
	size_t n, uint64_t seed, uint64_t stream, uint64_t first, draw_function *draw)
{
	size_t whole = n / QUANTIZE_BLOCK, rest = n % QUANTIZE_BLOCK;
	for (size_t b = 0; b < whole; b++)
		scales[b] = quantize_block(
			values + b * QUANTIZE_BLOCK, x + b * QUANTIZE_BLOCK, seed, stream, first / 4 + b * LANES, draw);
	if (rest > 0) {
		float padded[QUANTIZE_BLOCK] = {0};
		int8_t padded_values[QUANTIZE_BLOCK];
		memcpy(padded, x + whole * QUANTIZE_BLOCK, rest * sizeof *x);
		scales[whole] = quantize_block(padded_values, padded, seed, stream, first / 4 + whole * LANES, draw);
		memcpy(values + whole * QUANTIZE_BLOCK, padded_values, rest);
	}
}

static inline __attribute__((always_inline)) void dequantize_all(
	float *out, const int8_t *values, const uint16_t *scales, size_t n)
{
	for (size_t start = 0; start < n; start += QUANTIZE_BLOCK) {
		size_t count = n - start < QUANTIZE_BLOCK ? n - start : QUANTIZE_BLOCK;
		float scale = f16_to_f32(scales[start / QUANTIZE_BLOCK]);
#pragma omp simd
		for (size_t i = 0; i < count; i++)
			out[start + i] = (float)values[start + i] * scale;
	}
}

/* The results of all instruction sets are the same bits. */
#if defined(__x86_64__)
#define FOR_AVX2 __attribute__((target("avx2")))
#define FOR_AVX512 __attribute__((target("avx512f,avx512bw")))

/* Four counters side by side, one to a 64-bit lane. Only the low halves count: the product ignores the high ones. */
FOR_AVX2 static inline void draw_avx2(
	uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[static QUANTIZE_BLOCK])
{
	const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57),
		      low = _mm256_set1_epi64x(0xffffffff);
	__m256i c0[LANES / 4], c1[LANES / 4], c2[LANES / 4], c3[LANES / 4];
	for (unsigned v = 0; v < LANES / 4; v++) {
		c0[v] = _mm256_add_epi64(
			_mm256_set1_epi64x((long long)(counter + 4 * v)), _mm256_set_epi64x(3, 2, 1, 0));
		c1[v] = _mm256_set1_epi64x((long long)(counter >> 32));
		c2[v] = _mm256_set1_epi64x((long long)stream);
		c3[v] = _mm256_set1_epi64x((long long)(stream >> 32));
	}
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	for (int round = 0; round < 10; round++) {
		const __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
		for (unsigned v = 0; v < LANES / 4; v++) {
			__m256i p0 = _mm256_mul_epu32(c0[v], m0), p1 = _mm256_mul_epu32(c2[v], m1);
			c0[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1[v]), key0);
			c2[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3[v]), key1);
			c1[v] = p1;
			c3[v] = p0;
		}
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	for (unsigned v = 0; v < LANES / 4; v++) {
		__m256i first = _mm256_or_si256(_mm256_and_si256(c0[v], low), _mm256_slli_epi64(c1[v], 32));
		__m256i second = _mm256_or_si256(_mm256_and_si256(c2[v], low), _mm256_slli_epi64(c3[v], 32));
		__m256i even = _mm256_unpacklo_epi64(first, second), odd = _mm256_unpackhi_epi64(first, second);
		_mm256_storeu_si256((__m256i *)(out + 16 * v), _mm256_permute2x128_si256(even, odd, 0x20));
		_mm256_storeu_si256((__m256i *)(out + 16 * v + 8), _mm256_permute2x128_si256(even, odd, 0x31));
	}
}

/* The same with eight counters to a vector. */
FOR_AVX512 static inline void draw_avx512(
	uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[static QUANTIZE_BLOCK])
{
	enum { VECTORS = LANES / 8, XOR_OF_THREE = 0x96 };
	const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57),
		      low = _mm512_set1_epi64(0xffffffff);
	__m512i c0[VECTORS], c1[VECTORS], c2[VECTORS], c3[VECTORS];
	for (unsigned v = 0; v < VECTORS; v++) {
		c0[v] = _mm512_add_epi64(
			_mm512_set1_epi64((long long)(counter + 8 * v)), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
		c1[v] = _mm512_set1_epi64((long long)(counter >> 32));
		c2[v] = _mm512_set1_epi64((long long)stream);
		c3[v] = _mm512_set1_epi64((long long)(stream >> 32));
	}
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	for (int round = 0; round < 10; round++) {
		const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
		for (unsigned v = 0; v < VECTORS; v++) {
			__m512i p0 = _mm512_mul_epu32(c0[v], m0), p1 = _mm512_mul_epu32(c2[v], m1);
			c0[v] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c1[v], key0, XOR_OF_THREE);
			c2[v] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3[v], key1, XOR_OF_THREE);
			c1[v] = p1;
			c3[v] = p0;
		}
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	const __m512i front = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0),
		      back = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
	for (unsigned v = 0; v < VECTORS; v++) {
		__m512i first = _mm512_or_si512(_mm512_and_si512(c0[v], low), _mm512_slli_epi64(c1[v], 32));
		__m512i second = _mm512_or_si512(_mm512_and_si512(c2[v], low), _mm512_slli_epi64(c3[v], 32));
		_mm512_storeu_si512(out + 32 * v, _mm512_permutex2var_epi64(first, front, second));
		_mm512_storeu_si512(out + 32 * v + 16, _mm512_permutex2var_epi64(first, back, second));
	}
}

FOR_AVX512 static void quantize_avx512(
	int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed, uint64_t stream, uint64_t first)
{
	quantize_all(values, scales, x, n, seed, stream, first, draw_avx512);
}

FOR_AVX2 static void quantize_avx2(
	int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed, uint64_t stream, uint64_t first)
{
	quantize_all(values, scales, x, n, seed, stream, first, draw_avx2);
}

FOR_AVX2 static void dequantize_avx2(float *out, const int8_t *values, const uint16_t *scales, size_t n)
{
	dequantize_all(out, values, scales, n);
}
#endif

void quantize_host(
	int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed, uint64_t stream, uint64_t first)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
		quantize_avx512(values, scales, x, n, seed, stream, first);
		return;
	}
	if (__builtin_cpu_supports("avx2")) {
		quantize_avx2(values, scales, x, n, seed, stream, first);
		return;
	}
#endif
	quantize_all(values, scales, x, n, seed, stream, first, draw_plain);
}

void dequantize_host(float *out, const int8_t *values, const uint16_t *scales, size_t n)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2")) {
		dequantize_avx2(out, values, scales, n);
		return;
	}
#endif
	dequantize_all(out, values, scales, n);
}
