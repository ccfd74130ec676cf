/* SPDX-License-Identifier: Apache-2.0 */
/* What one site sends its neighbours of its adapter: the CHOCO update Q(x - replica) in int8, or a snapshot of the
 * replica. Pure: no thread, socket, file or clock. Any thread, on vectors that the caller owns for the length of the
 * call.
 *
 * Every site keeps a public replica of itself and of each neighbour. Whoever encodes moves its own replica by exactly
 * what the receivers will add to theirs, so after the same updates all copies are the same bits, on every machine and
 * backend: a value times a scale is exact in f32 (7 + 11 bits), so there is one rounding, that of the addition. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Consecutive elements that share a scale. */
#define CODEC_BLOCK 64
/* No element of a replica is ever larger than this; an update or snapshot that would make one so is refused. */
#define CODEC_LIMIT 1e4f
/* An encoder refuses a model beyond this, so that rounding cannot take its own replica past CODEC_LIMIT. */
#define CODEC_ENCODE_LIMIT 9e3f

/* Payload of an update of n elements: ceil(n / 64) scales (f16, little endian), then n values (int8, two's complement,
 * -127..127). Element i stands for value[i] * scale[i / 64]. There is no header: n is agreed on by both sites before.
 * 0 when the size does not fit size_t. */
size_t codec_payload_bytes(size_t n);

/* Encodes x - replica into out (codec_payload_bytes(n) bytes) and adds what the payload says to replica, in one pass.
 * Scale = max |x - replica| / 127 of the block, rounded up to f16; stochastic rounding, unbiased, drawn from
 * Philox(seed, sequence, index): the same arguments give the same bytes. `seed` belongs to the site (a hash of its
 * NodeID), `sequence` counts its updates. x and replica: (n,), not overlapping.
 * SAKIORI_ELIMIT when an element of x is not finite or beyond CODEC_ENCODE_LIMIT, or one of replica not finite or
 * beyond CODEC_LIMIT; out and replica are then untouched. */
int codec_encode(
	const float *x, float *replica, size_t n, uint64_t seed, uint64_t sequence, uint8_t *out, struct fault *f);

/* The receiver's side: adds the update to its replica (n,) of the sender. Checks everything before it changes anything.
 * SAKIORI_EMISMATCH: size is not codec_payload_bytes(n). SAKIORI_EFORMAT: a scale that is negative, infinite or NaN, or
 * the value -128, which no encoder writes. SAKIORI_ELIMIT: an element of the result would be beyond CODEC_LIMIT. In
 * each case the replica is untouched. */
int codec_apply(const uint8_t *payload, size_t size, float *replica, size_t n, struct fault *f);

/* A snapshot is the replica itself: n f32, little endian. 0 when the size does not fit size_t. */
size_t codec_snapshot_bytes(size_t n);
/* out has codec_snapshot_bytes(n) bytes. */
void codec_snapshot_encode(const float *replica, size_t n, uint8_t *out);
/* Replaces the replica (n,) bit for bit. SAKIORI_EMISMATCH (size) or SAKIORI_ELIMIT (an element not finite or beyond
 * CODEC_LIMIT): the replica is untouched. */
int codec_snapshot_apply(const uint8_t *payload, size_t size, float *replica, size_t n, struct fault *f);
