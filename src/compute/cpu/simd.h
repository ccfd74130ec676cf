/* SPDX-License-Identifier: Apache-2.0 */
/* Short pieces that vector loops inline, and the attribute that compiles a function once for each x86-64 level. Pure; any thread. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

/* The loader picks the variant, so that one binary runs on any x86-64. OpenMP bodies that the compiler outlines would not be cloned:
 * the attribute belongs on the function that a thread calls (cpu_body). */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(__SANITIZE_THREAD__)
#define SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SIMD_CLONES
#endif

static inline float simd_bits_float(uint32_t bits)
{
	float f;
	memcpy(&f, &bits, sizeof f);
	return f;
}

static inline uint32_t simd_float_bits(float f)
{
	uint32_t bits;
	memcpy(&bits, &f, sizeof bits);
	return bits;
}

static inline float simd_load_bf16(uint16_t h)
{
	return simd_bits_float((uint32_t)h << 16);
}

/* Round to nearest even; a NaN stays one. Branch-free, unlike base/bytes.h, and with the same result. */
static inline uint16_t simd_store_bf16(float f)
{
	uint32_t u = simd_float_bits(f);
	uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
	return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u : rounded);
}

/* e^x within 2 ulp on [-87, 88]; 0 below, finite above. */
static inline float simd_exp(float x)
{
	float c = x > 88.0f ? 88.0f : x;
	c = c < -87.3f ? -87.3f : c;
	/* adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits */
	float shifted = c * 1.44269504088896341f + 12582912.0f;
	float whole = shifted - 12582912.0f;
	float r = (c - whole * 0.693359375f) - whole * -2.12194440e-4f;
	float p = 1.9875691500e-4f;
	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * r * r + r + 1.0f;
	float y = p * simd_bits_float((simd_float_bits(shifted) + 127u) << 23);
	return x < -87.3f ? 0.0f : y;
}
