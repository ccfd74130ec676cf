/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels over rows and flat buffers share: 16-byte accesses, and sums over a warp and a block in a fixed order. Device code. */
#pragma once
#include <float.h>

#include "gpu/gpu.cuh"

#define WARP 32

/* NULL is aligned. */
static inline bool cuda_aligned(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

/* COUNT consecutive elements as floats: a multiple of what 16 bytes hold, p being aligned to 16 bytes, or 1. */
template <int COUNT, typename T> __device__ __forceinline__ void load_floats(float (&out)[COUNT], const T *p)
{
	if constexpr (COUNT == 1) {
		out[0] = act_load(*p);
	} else {
		constexpr int each = act_vector<T>::count;
		static_assert(COUNT % each == 0, "whole vectors");
#pragma unroll
		for (int v = 0; v < COUNT / each; v++) {
			act_vector<T> part = ((const act_vector<T> *)p)[v];
#pragma unroll
			for (int i = 0; i < each; i++)
				out[v * each + i] = act_load(part.at[i]);
		}
	}
}

/* Rounds floats into a vector; two bf16 are rounded by one instruction. */
template <typename T> __device__ __forceinline__ act_vector<T> pack_floats(const float *x)
{
	act_vector<T> packed;
	if constexpr (std::is_same_v<T, __nv_bfloat16>) {
#pragma unroll
		for (int i = 0; i < act_vector<T>::count; i += 2) {
			__nv_bfloat162 pair = __floats2bfloat162_rn(x[i], x[i + 1]);
			packed.at[i] = pair.x;
			packed.at[i + 1] = pair.y;
		}
	} else {
#pragma unroll
		for (int i = 0; i < act_vector<T>::count; i++)
			packed.at[i] = x[i];
	}
	return packed;
}

/* The inverse of load_floats, rounding to nearest even. */
template <int COUNT, typename T> __device__ __forceinline__ void store_floats(T *p, const float (&x)[COUNT])
{
	if constexpr (COUNT == 1) {
		*p = act_store<T>(x[0]);
	} else {
		constexpr int each = act_vector<T>::count;
#pragma unroll
		for (int v = 0; v < COUNT / each; v++)
			((act_vector<T> *)p)[v] = pack_floats<T>(x + v * each);
	}
}

template <typename T> __device__ __forceinline__ T warp_sum(T x)
{
#pragma unroll
	for (int distance = WARP / 2; distance > 0; distance /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, distance);
	return x;
}

/* The sum over THREADS threads that begin at a multiple of THREADS, given to all of them. More than a warp: THREADS is the block,
 * and a kernel calls it once. */
template <int THREADS, typename T> __device__ __forceinline__ T block_sum(T x)
{
	x = warp_sum(x);
	if constexpr (THREADS > WARP) {
		__shared__ T of_warp[THREADS / WARP];
		unsigned lane = threadIdx.x % WARP;
		if (lane == 0)
			of_warp[threadIdx.x / WARP] = x;
		__syncthreads();
		x = warp_sum(lane < THREADS / WARP ? of_warp[lane] : (T)0);
	}
	return x;
}

/* ---- E4M3 ---- */

/* What a token whose largest magnitude is `most` is multiplied with; its scale is most / E4M3_MAX. */
__device__ __forceinline__ float e4m3_factor(float most)
{
	return most > 0 ? fminf(E4M3_MAX / most, FLT_MAX) : 0;
}

/* The largest magnitude of a vector and `most`. */
__device__ __forceinline__ float e4m3_most(const act_vector<__nv_bfloat16> &x, float most)
{
#pragma unroll
	for (int i = 0; i < 8; i++)
		most = fmaxf(most, fabsf(act_load(x.at[i])));
	return most;
}

/* 8 values, out being aligned to 8 bytes. */
__device__ __forceinline__ void e4m3_store(__nv_fp8_e4m3 *out, const act_vector<__nv_bfloat16> &x, float factor)
{
	uint2 packed;
	__nv_fp8_e4m3 *at = (__nv_fp8_e4m3 *)&packed;
#pragma unroll
	for (int i = 0; i < 8; i++)
		at[i] = __nv_fp8_e4m3(act_load(x.at[i]) * factor);
	*(uint2 *)out = packed;
}

/* The largest of `threads` threads that begin at a multiple of it, given to all of them: a warp, or else the block's whole warps, for which a
 * kernel calls it once. */
__device__ __forceinline__ float block_most(float x, unsigned threads)
{
	__shared__ float of_warp[32];
#pragma unroll
	for (int distance = WARP / 2; distance > 0; distance /= 2)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
	if (threads == WARP)
		return x;
	if (threadIdx.x % WARP == 0)
		of_warp[threadIdx.x / WARP] = x;
	__syncthreads();
	for (unsigned i = 0; i < threads / WARP; i++)
		x = fmaxf(x, of_warp[i]);
	return x;
}
