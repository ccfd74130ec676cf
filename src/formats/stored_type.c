/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/stored_type.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"

#define BLOCK 32
#define SUPER 256 /* of the K formats */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "floats are copied from little-endian files as they are");

/* Layouts: ggml's block_q8_0, block_q4_0, block_q4_1 and so on. */
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
	[STORED_Q5_0] = {"Q5_0", BLOCK, 2 + 4 + BLOCK / 2},
	[STORED_Q5_1] = {"Q5_1", BLOCK, 4 + 4 + BLOCK / 2},
	[STORED_Q4_K] = {"Q4_K", SUPER, 4 + 12 + SUPER / 2},
	[STORED_Q5_K] = {"Q5_K", SUPER, 4 + 12 + SUPER / 8 + SUPER / 2},
	[STORED_Q6_K] = {"Q6_K", SUPER, SUPER / 2 + SUPER / 4 + SUPER / 16 + 2},
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

/* Nibbles as above, each with a fifth bit: bit i of the 32 at `high` is value i's. */
static void decode_five(const uint8_t *high, float scale, int centre, float minimum, float *out)
{
	const uint8_t *q = high + 4;
	for (int i = 0; i < BLOCK / 2; i++) {
		int low = (q[i] & 15) | (high[i / 8] >> i % 8 & 1) << 4;
		int above = (q[i] >> 4) | (high[2 + i / 8] >> i % 8 & 1) << 4;
		out[i] = scale * (float)(low - centre) + minimum;
		out[i + BLOCK / 2] = scale * (float)(above - centre) + minimum;
	}
}

/* The 6-bit scale and minimum of sub-block j < 8: the first four pairs lie whole in 12 bytes, the others in the bits left over. */
static void sub_block_scale(const uint8_t *s, int j, float *scale, float *minimum)
{
	if (j < 4) {
		*scale = (float)(s[j] & 63);
		*minimum = (float)(s[j + 4] & 63);
	} else {
		*scale = (float)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
		*minimum = (float)((s[j + 4] >> 4) | (s[j] >> 6) << 4);
	}
}

/* Q4_K and Q5_K (`high`: its 32 bytes of fifth bits, bit j of byte i for value i of sub-block j; else NULL). */
static void decode_k(const uint8_t *in, const uint8_t *high, const uint8_t *q, float *out)
{
	float d = f16_to_f32(load_u16(in)), least = f16_to_f32(load_u16(in + 2));
	for (int j = 0; j < SUPER / BLOCK; j++) {
		const uint8_t *nibbles = q + j / 2 * BLOCK;
		float scale, minimum;
		sub_block_scale(in + 4, j, &scale, &minimum);
		scale *= d;
		minimum *= least;
		for (int i = 0; i < BLOCK; i++) {
			int value = j % 2 ? nibbles[i] >> 4 : nibbles[i] & 15;
			if (high)
				value |= (high[i] >> j & 1) << 4;
			out[j * BLOCK + i] = scale * (float)value - minimum;
		}
	}
}

/* Two halves of 128 values: in each, value 32 k + i has its low bits in nibble k / 2 of byte i (or 32 + i for odd k), two high ones in byte i. */
static void decode_q6_k(const uint8_t *in, float *out)
{
	const uint8_t *low = in, *high = in + SUPER / 2;
	const int8_t *scales = (const int8_t *)high + SUPER / 4;
	float d = f16_to_f32(load_u16((const uint8_t *)scales + SUPER / 16));
	for (int v = 0; v < SUPER; v++) {
		int half = v / 128, k = v / 32 % 4, i = v % 32;
		int nibble = low[half * 64 + k % 2 * 32 + i] >> k / 2 * 4 & 15;
		int value = (nibble | (high[half * 32 + i] >> 2 * k & 3) << 4) - 32;
		out[v] = d * (float)scales[v / 16] * (float)value;
	}
}

bool stored_type_finite(enum stored_type type, const void *in, size_t values)
{
	/* where a block's f16 scale lies, and whether an f16 minimum follows it */
	size_t block = types[type].bytes, at = type == STORED_Q6_K ? block - 2 : 0;
	bool minimum = type == STORED_Q4_1 || type == STORED_Q5_1 || type == STORED_Q4_K || type == STORED_Q5_K;
	const uint8_t *p = in, *end = p + stored_type_bytes(type, values);
	bool finite = true;
	for (; p < end; p += block) {
		if (type == STORED_F32)
			finite &= (load_u16(p + 2) & 0x7f80) != 0x7f80;
		else if (type == STORED_BF16)
			finite &= (load_u16(p) & 0x7f80) != 0x7f80;
		else
			finite &= (load_u16(p + at) & 0x7c00) != 0x7c00 &&
				  (!minimum || (load_u16(p + at + 2) & 0x7c00) != 0x7c00);
	}
	return finite;
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
	case STORED_Q5_0:
		for (size_t i = 0; i < blocks; i++, p += bytes)
			decode_five(p + 2, f16_to_f32(load_u16(p)), 16, 0.0f, out + i * BLOCK);
		break;
	case STORED_Q5_1:
		for (size_t i = 0; i < blocks; i++, p += bytes)
			decode_five(p + 4, f16_to_f32(load_u16(p)), 0, f16_to_f32(load_u16(p + 2)), out + i * BLOCK);
		break;
	case STORED_Q4_K:
		for (size_t i = 0; i < blocks; i++, p += bytes)
			decode_k(p, NULL, p + 16, out + i * SUPER);
		break;
	case STORED_Q5_K:
		for (size_t i = 0; i < blocks; i++, p += bytes)
			decode_k(p, p + 16, p + 16 + SUPER / 8, out + i * SUPER);
		break;
	case STORED_Q6_K:
		for (size_t i = 0; i < blocks; i++, p += bytes)
			decode_q6_k(p, out + i * SUPER);
		break;
	case STORED_TYPES:
		break;
	}
}

static void store_u16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static float largest_magnitude(const float *in, size_t n)
{
	float most = 0;
	for (size_t i = 0; i < n; i++)
		most = fabsf(in[i]) > most ? fabsf(in[i]) : most;
	return most;
}

static void encode_q8_0(const float *in, uint8_t *out)
{
	float scale = largest_magnitude(in, BLOCK) / 127, inverse = scale == 0 ? 0 : 1 / scale;
	store_u16(out, f32_to_f16(scale));
	for (int i = 0; i < BLOCK;
		i++) /* a block so small that the inverse is infinite is zero: its scale is 0 in f16 */
		out[2 + i] = isinf(inverse) ? 0 : (uint8_t)(int8_t)roundf(in[i] * inverse);
}

/* Below these every value is finite in the type; halfway between its largest value and the next power of two. */
static bool all_fit(enum stored_type type, const float *in, size_t n)
{
	static const float limits[STORED_TYPES] = {[STORED_F32] = INFINITY,
		[STORED_F16] = 65520.0f,
		[STORED_BF16] = 0x1.ffp127f,
		[STORED_Q8_0] = 65504.0f * 127};
	bool fit = true;
	for (size_t i = 0; i < n; i++)
		fit &= fabsf(in[i]) < limits[type]; /* false for NaN */
	return fit;
}

bool stored_type_encode(enum stored_type type, const float *in, size_t values, void *out)
{
	uint8_t *p = out;
	if (!all_fit(type, in, values))
		return false;
	if (type == STORED_F32)
		memcpy(out, in, 4 * values);
	else if (type == STORED_Q8_0)
		for (size_t i = 0; i < values / BLOCK; i++)
			encode_q8_0(in + i * BLOCK, p + i * (2 + BLOCK));
	else
		for (size_t i = 0; i < values; i++)
			store_u16(p + 2 * i, type == STORED_F16 ? f32_to_f16(in[i]) : f32_to_bf16(in[i]));
	return true;
}
