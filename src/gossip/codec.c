/* SPDX-License-Identifier: Apache-2.0 */
#include "gossip/codec.h"

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "compute/compute.h"
#include "compute/cpu/quantize.h"

_Static_assert(CODEC_BLOCK == QUANTIZE_BLOCK, "the payload's blocks are the kernel's");

/* Elements that are worked on at a time, so that what lies between two kernels stays in the first-level cache. */
#define PIECE 1024
#define PIECE_BLOCKS (PIECE / CODEC_BLOCK)
/* Largest f16 that is finite and not negative. */
#define LARGEST_SCALE 0x7bff

static size_t piece_at(size_t start, size_t n)
{
	return n - start < PIECE ? n - start : PIECE;
}

/* The first of n elements that is not finite or beyond the limit; n if there is none. */
static size_t first_beyond(const float *v, size_t n, float limit)
{
	/* first without leaving early, which is what vectorizes; NaN is neither below nor above */
	int bad = 0;
#pragma omp simd reduction(| : bad)
	for (size_t i = 0; i < n; i++)
		bad |= !(v[i] <= limit) | !(v[i] >= -limit);
	for (size_t i = 0; bad && i < n; i++)
		if (!(v[i] <= limit && v[i] >= -limit))
			return i;
	return n;
}

static int refuse_beyond(struct fault *f, const char *what, size_t index, float limit)
{
	return fault_set(f, SAKIORI_ELIMIT, "%s: element %zu is not a finite number of at most %g in magnitude", what,
		index, (double)limit);
}

size_t codec_payload_bytes(size_t n)
{
	size_t blocks = n / CODEC_BLOCK + (n % CODEC_BLOCK > 0), scales, total;
	return size_mul(blocks, 2, &scales) && size_add(scales, n, &total) ? total : 0;
}

static void add_to(float *v, const float *term, size_t n)
{
#pragma omp simd
	for (size_t i = 0; i < n; i++)
		v[i] += term[i];
}

int codec_encode(
	const float *x, float *replica, size_t n, uint64_t seed, uint64_t sequence, uint8_t *out, struct fault *f)
{
	size_t bad = first_beyond(x, n, CODEC_ENCODE_LIMIT);
	if (bad < n)
		return refuse_beyond(f, "encode: the model", bad, CODEC_ENCODE_LIMIT);
	bad = first_beyond(replica, n, CODEC_LIMIT);
	if (bad < n)
		return refuse_beyond(f, "encode: the replica", bad, CODEC_LIMIT);
	uint8_t *scale_out = out;
	int8_t *values = (int8_t *)(out + (codec_payload_bytes(n) - n));
	for (size_t start = 0; start < n; start += PIECE) {
		size_t count = piece_at(start, n), blocks = quantize_blocks(count);
		float step[PIECE];
		uint16_t scales[PIECE_BLOCKS];
#pragma omp simd
		for (size_t i = 0; i < count; i++)
			step[i] = x[start + i] - replica[start + i];
		quantize_host(values + start, scales, step, count, seed, sequence, start);
		dequantize_host(step, values + start, scales, count);
		add_to(replica + start, step, count);
		for (size_t b = 0; b < blocks; b++) {
			*scale_out++ = (uint8_t)scales[b];
			*scale_out++ = (uint8_t)(scales[b] >> 8);
		}
	}
	return 0;
}

/* Terms start .. start + count - 1 of a payload of n elements into step; false if they are none that an encoder writes.
 */
static bool read_piece(const uint8_t *payload, size_t n, size_t start, size_t count, float *step)
{
	const uint8_t *scale_in = payload + start / CODEC_BLOCK * 2;
	const int8_t *values = (const int8_t *)(payload + (codec_payload_bytes(n) - n)) + start;
	uint16_t scales[PIECE_BLOCKS];
	bool valid = true;
	for (size_t b = 0; b < quantize_blocks(count); b++) {
		scales[b] = (uint16_t)(scale_in[2 * b] | scale_in[2 * b + 1] << 8);
		valid &= scales[b] <= LARGEST_SCALE;
	}
	int8_t least = 0;
#pragma omp simd reduction(min : least)
	for (size_t i = 0; i < count; i++)
		least = values[i] < least ? values[i] : least;
	if (!valid || least == INT8_MIN)
		return false;
	dequantize_host(step, values, scales, count);
	return true;
}

int codec_apply(const uint8_t *payload, size_t size, float *replica, size_t n, struct fault *f)
{
	if (size != codec_payload_bytes(n))
		return fault_set(f, SAKIORI_EMISMATCH, "update: %zu bytes, expected %zu for %zu elements", size,
			codec_payload_bytes(n), n);
	float step[PIECE];
	for (size_t start = 0; start < n; start += PIECE) {
		size_t count = piece_at(start, n);
		if (!read_piece(payload, n, start, count, step))
			return fault_set(f, SAKIORI_EFORMAT,
				"update: elements %zu..%zu hold a scale that is negative or not finite, or the value "
				"-128",
				start, start + count - 1);
		add_to(step, replica + start, count);
		size_t bad = first_beyond(step, count, CODEC_LIMIT);
		if (bad < count)
			return refuse_beyond(f, "update: the result", start + bad, CODEC_LIMIT);
	}
	for (size_t start = 0; start < n; start += PIECE) {
		size_t count = piece_at(start, n);
		if (read_piece(payload, n, start, count, step))
			add_to(replica + start, step, count);
	}
	return 0;
}

size_t codec_snapshot_bytes(size_t n)
{
	size_t total;
	return size_mul(n, sizeof(float), &total) ? total : 0;
}

static void load_piece(const uint8_t *bytes, float *out, size_t n)
{
#pragma omp simd
	for (size_t i = 0; i < n; i++) {
		const uint8_t *b = bytes + 4 * i;
		uint32_t bits = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
		memcpy(out + i, &bits, sizeof bits);
	}
}

void codec_snapshot_encode(const float *replica, size_t n, uint8_t *out)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t bits;
		memcpy(&bits, replica + i, sizeof bits);
		for (unsigned byte = 0; byte < 4; byte++)
			out[4 * i + byte] = (uint8_t)(bits >> 8 * byte);
	}
}

int codec_snapshot_apply(const uint8_t *payload, size_t size, float *replica, size_t n, struct fault *f)
{
	if (size != codec_snapshot_bytes(n))
		return fault_set(f, SAKIORI_EMISMATCH, "snapshot: %zu bytes, expected %zu for %zu elements", size,
			codec_snapshot_bytes(n), n);
	for (size_t start = 0; start < n; start += PIECE) {
		float piece[PIECE];
		size_t count = piece_at(start, n);
		load_piece(payload + 4 * start, piece, count);
		size_t bad = first_beyond(piece, count, CODEC_LIMIT);
		if (bad < count)
			return refuse_beyond(f, "snapshot", start + bad, CODEC_LIMIT);
	}
	load_piece(payload, replica, n);
	return 0;
}
