/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include <math.h>

void rng_block(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[static 4])
{
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
	uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xD2511F53u * c0;
		uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
		uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c1 = (uint32_t)p1;
		c3 = (uint32_t)p0;
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

void rng_init(struct rng *r, uint64_t seed, uint64_t stream)
{
	*r = (struct rng){.seed = seed, .stream = stream, .used = 4};
}

uint32_t rng_u32(struct rng *r)
{
	if (r->used == 4) {
		rng_block(r->seed, r->stream, r->counter++, r->block);
		r->used = 0;
	}
	return r->block[r->used++];
}

uint64_t rng_u64(struct rng *r)
{
	uint64_t high = rng_u32(r);
	return high << 32 | rng_u32(r);
}

float rng_uniform(struct rng *r)
{
	return (float)(rng_u32(r) >> 8) * 0x1p-24f;
}

float rng_normal(struct rng *r)
{
	/* (0, 1], so that the logarithm is finite */
	double u = ((double)rng_u32(r) + 1.0) * 0x1p-32;
	double v = (double)rng_u32(r) * 0x1p-32;
	return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

uint64_t rng_below(struct rng *r, uint64_t bound)
{
	uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
	uint64_t value;
	do
		value = rng_u64(r);
	while (value >= limit);
	return value % bound;
}

void rng_shuffle(struct rng *r, uint32_t *indices, size_t n)
{
	for (size_t i = n; i > 1; i--) {
		size_t j = (size_t)rng_below(r, i);
		uint32_t swap = indices[i - 1];
		indices[i - 1] = indices[j];
		indices[j] = swap;
	}
}
