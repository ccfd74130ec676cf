/* SPDX-License-Identifier: Apache-2.0 */
/* How weights lie in model files: plain floats and the blocked formats of ggml. Pure functions; any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Q formats hold 32 values of one row a block: f16 scale (and f16 minimum for Q4_1), then the integers. */
enum stored_type { STORED_F32, STORED_F16, STORED_BF16, STORED_Q8_0, STORED_Q4_0, STORED_Q4_1 };
#define STORED_TYPES 6

/* "F32", "Q4_1", ...; goes into the base fingerprint, so it never changes. */
const char *stored_type_name(enum stored_type type);
/* Values a block (1 for plain floats) and its bytes. */
size_t stored_type_block(enum stored_type type);
size_t stored_type_block_bytes(enum stored_type type);
/* Bytes of `values` values; values must be a multiple of the block. */
size_t stored_type_bytes(enum stored_type type, size_t values);
/* Decodes `values` values (a multiple of the block) of little-endian `in` into out; exact for every type.
 * `in` need not be aligned. */
void stored_type_decode(enum stored_type type, const void *in, size_t values, float *out);
