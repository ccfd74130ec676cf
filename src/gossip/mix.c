/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled with -ffp-contract=off: a fused multiply-add would round the term differently on different machines. */
#include "gossip/mix.h"

#include <math.h>

void mix_edge(
	float *target, const float *low_replica, const float *high_replica, float weight, enum mix_end end, size_t n)
{
	/* -t is exact, so x - t and x + (-t) are the same bits */
	float sign = end == MIX_LOW ? 1.0f : -1.0f;
#pragma omp simd
	for (size_t i = 0; i < n; i++) {
		float term = weight * (high_replica[i] - low_replica[i]);
		target[i] += sign * term;
	}
}

void mix_merge(float *x, float *pending, size_t n)
{
#pragma omp simd
	for (size_t i = 0; i < n; i++) {
		x[i] += pending[i];
		pending[i] = 0.0f;
	}
}

double mix_distance(const float *a, const float *b, size_t n)
{
	double sum = 0.0;
#pragma omp simd reduction(+ : sum)
	for (size_t i = 0; i < n; i++) {
		double d = (double)a[i] - (double)b[i];
		sum += d * d;
	}
	return sqrt(sum);
}
