/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/cpu.h"

#define GRAIN 8192 /* elements */
#define BLOCKS 64  /* of random numbers, made at a time */
#define PIECES (BLOCKS * 8)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half of a random number lies first");

struct dropout_args {
	const struct dropout *r;
	size_t width, x_row;
	const void *x;
	void *y;
};

/* The numbers that rng_block (base/rng.h) gives for a run of counters, several of them at once. */
static inline void make_blocks(uint64_t seed, uint64_t stream, uint64_t first, uint32_t out[static 4 * BLOCKS])
{
#pragma omp simd
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint64_t counter = first + i;
		uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
		uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
		uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
		for (int round = 0; round < 10; round++) {
			uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
			c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
			c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
			c1 = (uint32_t)p1;
			c3 = (uint32_t)p0;
			k0 += 0x9E3779B9u;
			k1 += 0xBB67AE85u;
		}
		out[4 * i] = c0;
		out[4 * i + 1] = c1;
		out[4 * i + 2] = c2;
		out[4 * i + 3] = c3;
	}
}

#define ACT_TEMPLATE "compute/cpu/dropout.inc"
#include "compute/cpu/each_act.h"

static bool sensible(struct device *d, const struct dropout *r)
{
	if (!d->fault.code && (r->keep < 1 || r->keep > DROPOUT_ALL))
		device_fail(d, SAKIORI_EINVAL, "dropout keeps %u of %u", (unsigned)r->keep, (unsigned)DROPOUT_ALL);
	return !d->fault.code;
}

void cpu_dropout_forward(
	struct device *d, const struct dropout *r, size_t n, size_t width, const void *x, size_t x_stride, void *y)
{
	struct dropout_args a = {.r = r, .width = width, .x_row = x_stride ? x_stride : width, .x = x, .y = y};
	if (sensible(d, r) && width)
		cpu_run(d, n, GRAIN / width + 1, CPU_PICK(d, dropout_forward), &a);
}

void cpu_dropout_backward(struct device *d, const struct dropout *r, size_t n, size_t width, const void *dy, void *dx)
{
	struct dropout_args a = {.r = r, .width = width, .x_row = width, .x = dy, .y = dx};
	if (sensible(d, r) && width)
		cpu_run(d, n, GRAIN / width + 1, CPU_PICK(d, dropout_backward), &a);
}
