/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers that are the CPU's, bit for bit. Device code. */
#pragma once
#include <stdint.h>

/* Philox4x32-10: rng_block of base/rng.c. */
__device__ __forceinline__ void philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t (&out)[4])
{
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
	uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
#pragma unroll
	for (int round = 0; round < 10; round++) {
		uint32_t n0 = __umulhi(0xCD9E8D57u, c2) ^ c1 ^ k0;
		uint32_t n2 = __umulhi(0xD2511F53u, c0) ^ c3 ^ k1;
		c1 = 0xCD9E8D57u * c2;
		c3 = 0xD2511F53u * c0;
		c0 = n0;
		c2 = n2;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	out[0] = c0;
	out[1] = c1;
	out[2] = c2;
	out[3] = c3;
}
