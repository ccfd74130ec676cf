/* SPDX-License-Identifier: Apache-2.0 */
/* Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011). The same (seed, stream, counter) gives the same
 * numbers on every machine, so training and quantization can be replayed. Never for keys: those come from libsodium. Any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct rng {
	uint64_t seed;
	uint64_t stream;
	uint64_t counter; /* blocks of four numbers used so far */
	uint32_t block[4];
	unsigned used; /* numbers of `block` already given out; 4 = none left */
};

/* The pure function: four numbers for one counter. */
void rng_block(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[static 4]);

void rng_init(struct rng *r, uint64_t seed, uint64_t stream);
uint32_t rng_u32(struct rng *r);
uint64_t rng_u64(struct rng *r);
/* Uniform in [0, 1), 24 bits: exact in float. */
float rng_uniform(struct rng *r);
/* Standard normal (Box-Muller in double). */
float rng_normal(struct rng *r);
/* Uniform in [0, bound) without bias; bound > 0. */
uint64_t rng_below(struct rng *r, uint64_t bound);
/* Fisher-Yates over n indices. */
void rng_shuffle(struct rng *r, uint32_t *indices, size_t n);
