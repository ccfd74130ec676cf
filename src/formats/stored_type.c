/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/stored_type.h"

#include <string.h>

#include "base/bytes.h"

#define BLOCK 32

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "floats are copied from little-endian files as they are");

/* Layouts: ggml's block_q8_0, block_q4_0 and block_q4_1. */
static const struct {
	const char *name;
	size_t block, bytes;
} types[STORED_TYPES] = {
	[STORED_F32] = {"F32", 1, 4},
	[STORED_F16] = {"F16", 1, 2},
	[STORED_BF16] = {"BF16", 1, 2},
	[STORED_Q8_0] = {"Q8_0", BLOCK, 2 + BLOCK},
	[STORED_Q4_0] = {"Q4_0", BLOCK, 2 + BLOCK / 2},
	[STORED_Q4_1] = {"Q4_1", BLOCK, 4 + BLOCK / 2},
};

const char *stored_type_name(enum stored_type type)
{
	return types[type].name;
}

size_t stored_type_block(enum stored_type type)
{
	return types[type].block;
}

size_t stored_type_block_bytes(enum stored_type type)
{
	return types[type].bytes;
}

size_t stored_type_bytes(enum stored_type type, size_t values)
{
	return values / types[type].block * types[type].bytes;
}

static uint16_t load_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

/* As bf16_to_f32, but inlined into the loop over a whole model. */
static inline float widen_bf16(uint16_t h)
{
	uint32_t bits = (uint32_t)h << 16;
	float f;
	memcpy(&f, &bits, sizeof f);
	return f;
}

static void decode_q8_0(const uint8_t *in, float *out)
{
	float scale = f16_to_f32(load_u16(in));
	const int8_t *q = (const int8_t *)in + 2;
	for (int i = 0; i < BLOCK; i++)
		out[i] = scale * (float)q[i];
}

/* Low nibbles are values 0..15, high nibbles 16..31. */
static void decode_nibbles(const uint8_t *q, float scale, int centre, float minimum, float *out)
{
	for (int i = 0; i < BLOCK / 2; i++) {
		out[i] = scale * (float)((q[i] & 15) - centre) + minimum;
		out[i + BLOCK / 2] = scale * (float)((q[i] >> 4) - centre) + minimum;
	}
}

void stored_type_decode(enum stored_type type, const void *in, size_t values, float *out)
{
	const uint8_t *p = in;
	size_t blocks = values / types[type].block, bytes = types[type].bytes;
	switch (type) {
	case STORED_F32:
		memcpy(out, in, 4 * values);
		break;
	case STORED_F16:
		for (size_t i = 0; i < values; i++)
			out[i] = f16_to_f32(load_u16(p + 2 * i));
		break;
	case STORED_BF16:
		for (size_t i = 0; i < values; i++)
			out[i] = widen_bf16(load_u16(p + 2 * i));
		break;
	case STORED_Q8_0:
		for (size_t i = 0; i < blocks; i++)
			decode_q8_0(p + i * bytes, out + i * BLOCK);
		break;
	case STORED_Q4_0:
		for (size_t i = 0; i < blocks; i++, p += bytes)
			decode_nibbles(p + 2, f16_to_f32(load_u16(p)), 8, 0.0f, out + i * BLOCK);
		break;
	case STORED_Q4_1:
		for (size_t i = 0; i < blocks; i++, p += bytes)
			decode_nibbles(p + 4, f16_to_f32(load_u16(p)), 0, f16_to_f32(load_u16(p + 2)), out + i * BLOCK);
		break;
	}
}
