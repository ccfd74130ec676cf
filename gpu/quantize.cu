/* SPDX-License-Identifier: Apache-2.0 */
/* Blockwise int8 with stochastic rounding: the same bits as compute/cpu/quantize.c, so every product, quotient and difference is rounded by
 * itself, and nothing is contracted. A thread has 4 elements, whose random numbers are one Philox block; 16 threads have a quantization block. */
#include "gpu/elementwise.cuh"
#include "gpu/philox.cuh"

#define BLOCK 256
#define EACH 4
#define LANES (QUANTIZE_BLOCK / EACH)
#define LARGEST (65504.0f * 127.0f) /* whose scale still is a finite f16 */
#define BAD_SCALE 0x7e00

/* The smallest f16 that is not below `scale`, which is positive and at most 65504. */
static __device__ __forceinline__ uint16_t f16_above(float scale)
{
	uint16_t half = __half_as_ushort(__float2half_rn(scale));
	return (uint16_t)(half + (__half2float(__ushort_as_half(half)) < scale));
}

static __device__ __forceinline__ int8_t rounded(float x, float inverse, uint32_t random)
{
	float z = __fmul_rn(x, inverse);
	int below = __float2int_rz(z);
	below -= z < (float)below;
	below += __fmul_rn((float)(int)(random >> 8), 0x1p-24f) < __fsub_rn(z, (float)below);
	below = below > 127 ? 127 : below;
	return (int8_t)(below < -127 ? -127 : below);
}

/* Grid: BLOCK threads of EACH elements. ALIGNED: x to 16 bytes, values to 4. 95% of the rate of a copy (H100). */
template <bool ALIGNED>
__global__ void __launch_bounds__(BLOCK)
	quantize_blocks_of(int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed, uint64_t stream)
{
	size_t counter = (size_t)blockIdx.x * BLOCK + threadIdx.x, first = counter * EACH;
	float own[EACH] = {}; /* what is missing behind the last element counts as 0 */
	bool whole = ALIGNED && first + EACH <= n;
	if (whole)
		load_floats(own, x + first);
	else
		for (int i = 0; i < EACH && first + i < n; i++)
			own[i] = x[first + i];
	/* as integers, magnitudes order like the numbers and NaN lies above them all */
	uint32_t top = 0;
#pragma unroll
	for (int i = 0; i < EACH; i++)
		top = max(top, __float_as_uint(own[i]) & 0x7fffffffu);
#pragma unroll
	for (int distance = LANES / 2; distance > 0; distance /= 2)
		top = max(top, __shfl_xor_sync(0xffffffffu, top, distance));
	if (first >= n)
		return;
	float largest = __uint_as_float(top);
	float step = __fdiv_rn(largest, 127.0f); /* 0 also for a few of the smallest subnormal numbers */
	int8_t out[EACH] = {};
	uint16_t scale = step == 0 ? 0 : BAD_SCALE;
	if (step != 0 && largest <= LARGEST) {
		scale = f16_above(step);
		float inverse = __fdiv_rn(1.0f, __half2float(__ushort_as_half(scale)));
		uint32_t random[4];
		philox(seed, stream, counter, random);
#pragma unroll
		for (int i = 0; i < EACH; i++)
			out[i] = rounded(own[i], inverse, random[i]);
	}
	if (whole)
		*(char4 *)(values + first) = make_char4(out[0], out[1], out[2], out[3]);
	else
		for (int i = 0; i < EACH && first + i < n; i++)
			values[first + i] = out[i];
	if (counter % LANES == 0)
		scales[counter / LANES] = scale;
}

/* value * scale with the bits that x86 gives also where the scale is no number. */
static __device__ __forceinline__ float times(int8_t value, uint16_t scale)
{
	uint32_t sign = (uint32_t)(scale & 0x8000) << 16, mantissa = scale & 0x3ff;
	if ((scale & 0x7c00) != 0x7c00)
		return __fmul_rn((float)value, __half2float(__ushort_as_half(scale)));
	if (mantissa)
		return __uint_as_float(sign | 0x7fc00000u | mantissa << 13);
	if (value == 0)
		return __uint_as_float(0xffc00000u);
	return __uint_as_float(0x7f800000u | (value < 0 ? sign ^ 0x80000000u : sign));
}

template <bool ALIGNED>
__global__ void __launch_bounds__(BLOCK)
	dequantize_blocks_of(float *out, const int8_t *values, const uint16_t *scales, size_t n)
{
	size_t first = ((size_t)blockIdx.x * BLOCK + threadIdx.x) * EACH;
	if (first >= n)
		return;
	uint16_t scale = scales[first / QUANTIZE_BLOCK];
	if (ALIGNED && first + EACH <= n) {
		char4 four = *(const char4 *)(values + first);
		float result[EACH] = {
			times(four.x, scale), times(four.y, scale), times(four.z, scale), times(four.w, scale)};
		store_floats(out + first, result);
	} else {
		for (int i = 0; i < EACH && first + i < n; i++)
			out[first + i] = times(values[first + i], scale);
	}
}

/* Blocks for n elements. */
static unsigned grid(size_t n)
{
	return (unsigned)((n + BLOCK * EACH - 1) / (BLOCK * EACH));
}

void cuda_quantize(
	struct device *d, int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed, uint64_t stream)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code || !n)
		return;
	if (cuda_aligned(x) && (uintptr_t)values % EACH == 0)
		quantize_blocks_of<true><<<grid(n), BLOCK, 0, c->stream>>>(values, scales, x, n, seed, stream);
	else
		quantize_blocks_of<false><<<grid(n), BLOCK, 0, c->stream>>>(values, scales, x, n, seed, stream);
	cuda_launched(c, "quantization");
}

void cuda_dequantize(struct device *d, float *out, const int8_t *values, const uint16_t *scales, size_t n)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code || !n)
		return;
	if (cuda_aligned(out) && (uintptr_t)values % EACH == 0)
		dequantize_blocks_of<true><<<grid(n), BLOCK, 0, c->stream>>>(out, values, scales, n);
	else
		dequantize_blocks_of<false><<<grid(n), BLOCK, 0, c->stream>>>(out, values, scales, n);
	cuda_launched(c, "dequantization");
}
