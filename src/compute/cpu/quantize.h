/* SPDX-License-Identifier: Apache-2.0 */
/* Blockwise int8 with stochastic rounding, on host memory: the one implementation behind the CPU's quantize and
 * dequantize operations and the gossip codec. Pure; any thread. A block is QUANTIZE_BLOCK (64) elements; the contract
 * is compute.h's. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* The scale of a block that has an element that is not finite, or too large for an f16 scale. */
#define QUANTIZE_BAD_SCALE 0x7e00

/* Quantizes elements first .. first + n - 1 of a longer vector, given as x[0 .. n-1]; first is a multiple of 64. The
 * numbers drawn depend on (seed, stream, index in the longer vector) alone, so a vector may be done in pieces. values
 * (n), scales (ceil(n / 64)), f16 bits. */
void quantize_host(
	int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed, uint64_t stream, uint64_t first);
/* out[i] = values[i] * scale of its block: exact. */
void dequantize_host(float *out, const int8_t *values, const uint16_t *scales, size_t n);
