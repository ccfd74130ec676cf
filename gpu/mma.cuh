/* SPDX-License-Identifier: Apache-2.0 */
/* The tensor cores of sm_80 and later, a warp at a time, and copies to shared memory that run beside the computation. Device code.
 *
 * A product of a warp: sum (16, 8) += left (16, 16) right (16, 8). Of sum a lane holds row lane/4 (and in [2], [3] row lane/4 + 8), columns
 * 2 (lane%4) and the next; of left in [0]..[3] the pairs at rows lane/4 + 8 (q%2), columns 2 (lane%4) + 8 (q/2); of right the pairs down
 * column lane/4, rows 2 (lane%4) + 8 q. */
#pragma once
#include <cuda_bf16.h>
#include <stdint.h>

__device__ __forceinline__ unsigned shared_address(const void *p)
{
	return (unsigned)__cvta_generic_to_shared(p);
}

/* 16 bytes to shared memory, zeros instead when not real. `from` must be a valid address either way. */
__device__ __forceinline__ void copy_16(void *to, const void *from, bool real)
{
	asm volatile(
		"cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(real ? 16 : 0)
		: "memory");
}
/* Closes a group of copies. */
__device__ __forceinline__ void copies_close(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most `pending` of this thread's groups are under way. */
template <int pending> __device__ __forceinline__ void copies_wait(void)
{
	asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* Four matrices of 8 x 8, row i of matrix q at the address that lane 8 q + i gives. */
__device__ __forceinline__ void matrices(uint32_t out[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
		     : "r"(shared_address(row))
		     : "memory");
}
/* The same, each matrix transposed. */
__device__ __forceinline__ void matrices_transposed(uint32_t out[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
		     : "r"(shared_address(row))
		     : "memory");
}

__device__ __forceinline__ void multiply_add(float sum[4], const uint32_t left[4], const uint32_t right[2])
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
		     "{%0,%1,%2,%3};"
		     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
		     : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

/* 64 columns of bf16 are 128 bytes: eight pieces of 16, stored so that ldmatrix meets no bank twice. */
__device__ __forceinline__ unsigned swizzled(unsigned row, unsigned piece)
{
	return row * 128 + ((piece ^ (row & 7)) << 4);
}

/* 8 floats rounded to bf16, in one 16-byte access. */
__device__ __forceinline__ void store_8(__nv_bfloat16 *to, const float x[8])
{
	uint32_t packed[4];
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__nv_bfloat162 two = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
		packed[i] = *(uint32_t *)&two;
	}
	/* The compiler takes a plain store of uint4 apart where nothing else shows it the alignment. */
	asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(to)), "r"(packed[0]),
		     "r"(packed[1]), "r"(packed[2]), "r"(packed[3])
		     : "memory");
}
