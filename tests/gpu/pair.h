/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the CUDA backend share: every case runs the same calls with the same values on two devices, an exact one (the CPU
 * in f64) and the one under test (CUDA in f32 or bf16), and compares what they left. The main thread.
 *
 * - A bf16 case rounds its values to bf16 first, and both devices get the rounded ones: what remains is the backend's own rounding.
 * - Outputs hold NaN before the call, so an element that was not written is seen. Every buffer lies between guards that are looked at when
 *   the case ends, so a write out of bounds is seen.
 * - A wrong value is printed and counted, and the case goes on; the test fails when it is closed. One run on a card tells everything.
 * - The devices of a program stay open from test to test; one that failed is replaced.
 *
 * The module is the one that SAKIORI_CUDA_MODULE names, else gpu/sakiori-cuda.so of the build directory, else the installed one. Without a
 * module or without a card a program says so and exits with 77, unless SAKIORI_GPU_REQUIRED is set. SAKIORI_TEST_DEVICE names another
 * device to test: "cuda:1", or "cpu" to try the tests themselves. SAKIORI_GPU_VERBOSE prints how near everything came. */
#pragma once
#include <check.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "compute/compute.h"

enum pair_side { PAIR_CPU, PAIR_GPU, PAIR_SIDES };

enum pair_kind {
	PAIR_ACT,   /* activations, of each device's own type */
	PAIR_F32,   /* float on both */
	PAIR_F64,   /* double on both */
	PAIR_BYTES, /* the same bytes on both */
};

/* n elements of device memory on both sides. */
struct both {
	void *at[PAIR_SIDES];
	enum pair_kind kind;
	size_t n;
};

struct both_weights {
	struct weight *at[PAIR_SIDES];
	size_t rows, cols;
};

/* How far off the device may be: |found - exact| / |exact| of all elements together; no single element by more than 16 times that
 * share of its own size or of the elements' mean size. */
struct pair_limit {
	double f32, bf16;
};

struct pair_memory;

struct pair {
	struct device *device[PAIR_SIDES];
	enum dtype act; /* of the device under test */
	bool deterministic;
	bool cuda;    /* the device under test is a CUDA one */
	size_t shift; /* elements by which buffers made from now on lie off their alignment */
	size_t room;  /* of weights made from now on */
	unsigned failures;
	char label[200];
	struct pair_memory *memory;
	size_t memories, memories_room;
	struct both_weights weights[32];
	size_t weights_count;
};

/* All types in turn for a looped test. */
static const enum dtype pair_types[] = {DTYPE_F32, DTYPE_BF16};
enum { PAIR_TYPES = 2 };

/* Of the device under test. */
const char *pair_device_name(void);
void pair_open(struct pair *p, enum dtype act);
void pair_open_deterministic(struct pair *p, enum dtype act);
/* Ends the case, and fails the test if anything of it went wrong. */
void pair_close(struct pair *p);
/* Ends the case before and names the next: guards are looked at, the device's failures reported, memory and weights freed. */
void pair_case(struct pair *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Something is not as it should be. */
void pair_wrong(struct pair *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends a case in which the device under test must have failed with this code, and opens it again. */
void pair_refused(struct pair *p, int code, const char *what);

/* n values in (-1, 1). Free with free(). */
float *pair_random(uint64_t seed, size_t n);
/* The same multiplied by factor, on both devices; factor 0 gives zeros. */
struct both pair_values(struct pair *p, enum pair_kind kind, uint64_t seed, size_t n, float factor);
struct both pair_host(struct pair *p, enum pair_kind kind, const float *values, size_t n);
/* Full of NaN. */
struct both pair_output(struct pair *p, enum pair_kind kind, size_t n);
struct both pair_bytes(struct pair *p, const void *data, size_t bytes);
/* n elements of a buffer, from element `first` on. */
struct both pair_part(const struct pair *p, struct both whole, size_t first, size_t n);
/* The elements of one side as doubles (PAIR_BYTES: bytes); free with free(). */
double *pair_read(struct pair *p, struct both b, enum pair_side side);
/* The bytes of the device under test; free with free(). */
void *pair_download(struct pair *p, struct both b);
size_t pair_size(const struct pair *p, struct both b); /* bytes on the device under test */

/* The storage of a plain weight: F32 or, on a bf16 device, BF16. */
enum weight_storage pair_storage(const struct pair *p);
/* A random weight of a product that keeps the size of its input. */
struct both_weights pair_weight(struct pair *p, uint64_t seed, size_t rows, size_t cols, unsigned uses);
/* One with these values, or on one side only (the other stays NULL). Freed with the case. */
struct both_weights pair_weight_from(
	struct pair *p, const float *values, size_t rows, size_t cols, enum weight_storage storage, unsigned uses);
struct weight *pair_weight_on(struct pair *p, enum pair_side side, const float *values, size_t rows, size_t cols,
	enum weight_storage storage, unsigned uses);
/* The values that a device draws of a source with these normals, made on the host: a source's `fill`. */
struct pair_drawn {
	const uint16_t *normals;
	uint64_t seed, stream;
	size_t cols;
};
int pair_drawn_rows(void *self, size_t first, size_t count, float *out);
/* 65,536 bf16 that are easily told apart. Free with free(). */
uint16_t *pair_normals(void);
/* Takes a weight over, to be freed with the case. */
void pair_take_weight(struct pair *p, enum pair_side side, struct weight *w);

void pair_near(struct pair *p, struct both b, struct pair_limit limit, const char *what);
void pair_near_doubles(
	struct pair *p, const double *found, const double *exact, size_t n, double limit, const char *what);
/* The same where the order of the elements is the device's own. */
void pair_near_sorted(struct pair *p, struct both b, struct pair_limit limit, const char *what);
double pair_limit_of(const struct pair *p, struct pair_limit limit);
/* Both sides hold the same bytes; floats may be different NaNs. */
void pair_same(struct pair *p, struct both b, const char *what);
void pair_same_bytes(struct pair *p, const void *found, const void *expected, size_t bytes, const char *what);
/* Two buffers of the device under test hold the same bytes. */
void pair_same_again(struct pair *p, struct both again, struct both first, const char *what);

/* Finite differences through the device under test, f32 only: `gradient` (values.n elements) must be the derivative by `values` of what
 * `loss` gives, which evaluates everything from scratch. */
typedef double pair_loss(struct pair *p, void *self);
void pair_differences(struct pair *p, pair_loss *loss, void *self, struct both values, struct both gradient,
	double step, double limit, const char *what);
/* The sum of the products of two buffers of the device under test. */
double pair_dot(struct pair *p, struct both x, struct both y);

/* What a device of its own under test says to `call`, its fault being filled; 0 also where no device opens, which pair_run reports. */
int pair_try(enum dtype act, void (*call)(struct device *d), struct fault *f);
enum { PAIR_SKIPPED = 77 }; /* main's value for a program that could test nothing */
/* Runs the suite of one program: each test `loops` times. Returns what main returns. */
int pair_run(const char *name, const TTest *const *tests, size_t count, int loops);
