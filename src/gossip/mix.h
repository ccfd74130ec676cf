/* SPDX-License-Identifier: Apache-2.0 */
/* The edge term of a round, and the two norms that are reported about it. Pure. Any thread, on vectors that the caller
 * owns for the length of the call. All vectors are (n,) f32 and do not overlap. */
#pragma once
#include <stddef.h>

/* An edge has a lower and a higher end, by NodeID. */
enum mix_end { MIX_LOW, MIX_HIGH };

/* One counted edge: d = high - low, t = weight * d, each rounded to f32 once; the lower end does target += t, the
 * higher target -= t. Both ends call this with the same two replicas and the same weight, so what one gains is bit for
 * bit what the other gives up. target is the model, or the vector of pending terms while the trainer holds the model.
 */
void mix_edge(
	float *target, const float *low_replica, const float *high_replica, float weight, enum mix_end end, size_t n);

/* x += pending, pending = 0. */
void mix_merge(float *x, float *pending, size_t n);

/* Euclidean norm of a - b, summed in double: the distance of two replicas (consensus distance), or of the model from
 * where its local steps began (displacement). */
double mix_distance(const float *a, const float *b, size_t n);
