/* SPDX-License-Identifier: Apache-2.0 */
/* How weights lie in model files: plain floats and the blocked formats of ggml. Pure functions; any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Q formats hold 32 values of one row a block: f16 scale (and f16 minimum for Q4_1 and Q5_1), then the integers. K formats hold 256, in
 * sub-blocks with integer scales of their own. */
enum stored_type {
	STORED_F32,
	STORED_F16,
	STORED_BF16,
	STORED_Q8_0,
	STORED_Q4_0,
	STORED_Q4_1,
	STORED_Q5_0,
	STORED_Q5_1,
	STORED_Q4_K,
	STORED_Q5_K,
	STORED_Q6_K,
	STORED_TYPES
};
/* The names of them all, for sentences. */
#define STORED_TYPE_NAMES "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K"

/* "F32", "Q4_1", ...; goes into the base fingerprint, so it never changes. */
const char *stored_type_name(enum stored_type type);
/* Values a block (1 for plain floats) and its bytes. */
size_t stored_type_block(enum stored_type type);
size_t stored_type_block_bytes(enum stored_type type);
/* Bytes of `values` values; values must be a multiple of the block. */
size_t stored_type_bytes(enum stored_type type, size_t values);
/* Whether all of them are finite numbers: whole floats, or the scales and minima of blocks. */
bool stored_type_finite(enum stored_type type, const void *in, size_t values);
/* Decodes `values` values (a multiple of the block) of little-endian `in` into out; exact for every type.
 * `in` need not be aligned. */
void stored_type_decode(enum stored_type type, const void *in, size_t values, float *out);

/* The inverse, rounded to nearest, for F32, F16, BF16 and Q8_0 alone (bit for bit what the gguf package's quantize gives). False, with `out`
 * undefined, where a value is not finite or too large for the type. */
bool stored_type_encode(enum stored_type type, const float *in, size_t values, void *out);
