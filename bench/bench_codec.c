/* SPDX-License-Identifier: Apache-2.0 */
/* How fast an update is encoded, applied and mixed, against memcpy in the same run:
 *   make bench/bench_codec && bench/bench_codec [ELEMENTS]
 * Bytes are those that an operation must move at least, each vector once a pass: encode reads the model and the replica to
 * check them, then reads both, writes the replica and a byte an element. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "gossip/codec.h"
#include "gossip/mix.h"

#define RUNS 15

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum operation { MEMCPY, ENCODE, APPLY, EDGE, DISTANCE, SNAPSHOT, OPERATIONS };
/* bytes an element */
static const struct {
	const char *name;
	double bytes;
} table[OPERATIONS] = {[MEMCPY] = {"memcpy", 8},
	[ENCODE] = {"encode", 8 + 8 + 4 + 1},
	[APPLY] = {"apply", 2 * (1 + 4) + 4},
	[EDGE] = {"mix_edge", 16},
	[DISTANCE] = {"mix_distance", 8},
	[SNAPSHOT] = {"snapshot_apply", 4 + 8}};

static void run(enum operation o, float *x, float *replica, float *other, uint8_t *payload, size_t n, uint64_t sequence)
{
	volatile double sink;
	int rc = 0;
	switch (o) {
	case MEMCPY:
		memcpy(other, replica, n * sizeof *x);
		break;
	case ENCODE:
		rc = codec_encode(x, replica, n, 1, sequence, payload, NULL);
		break;
	case APPLY:
		rc = codec_apply(payload, codec_payload_bytes(n), other, n, NULL);
		break;
	case EDGE:
		mix_edge(x, replica, other, 1e-6f, MIX_LOW, n);
		break;
	case DISTANCE:
		sink = mix_distance(x, replica, n);
		(void)sink;
		break;
	default:
		rc = codec_snapshot_apply((uint8_t *)x, codec_snapshot_bytes(n), other, n, NULL);
		break;
	}
	if (rc != 0)
		abort();
}

int main(int argc, char **argv)
{
	/* SmolLM2-135M, rank 16 on all seven linears */
	size_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 4884480;
	float *x = must_alloc(n * sizeof *x), *replica = must_calloc(n, sizeof *x), *other = must_calloc(n, sizeof *x);
	uint8_t *payload = must_alloc(codec_payload_bytes(n));
	struct rng r;
	rng_init(&r, 1, 1);
	for (size_t i = 0; i < n; i++)
		x[i] = 0.01f * rng_normal(&r);
	double ceiling = 0;
	printf("%zu elements, update of %zu bytes, one thread, best of %d\n", n, codec_payload_bytes(n), RUNS);
	for (enum operation o = MEMCPY; o < OPERATIONS; o++) {
		double best = 1e9;
		for (uint64_t k = 0; k < RUNS; k++) {
			double start = seconds();
			run(o, x, replica, other, payload, n, k);
			double took = seconds() - start;
			best = took < best ? took : best;
		}
		double rate = table[o].bytes * (double)n / best / 1e9;
		if (o == MEMCPY)
			ceiling = rate;
		printf("%-15s %7.2f ms  %6.1f GB/s  %3.0f %% of memcpy\n", table[o].name, best * 1e3, rate,
			100 * rate / ceiling);
	}
	free(payload);
	free(other);
	free(replica);
	free(x);
	return 0;
}
