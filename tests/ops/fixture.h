/* SPDX-License-Identifier: Apache-2.0 */
/* What the operation tests share: a device of each activation type, random tensors seen as doubles, comparison, finite differences. */
#pragma once
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "compute/compute.h"

/* Opens a device; `threads` 0 = 2. */
struct device *fixture_open(enum dtype act, unsigned threads);
/* Fails the test when the device has failed; closes it. */
void fixture_close(struct device *d);

/* n random values in (-1, 1) on a grid of 2^-12, so that adding a power of two not below 2^-12 is exact in f32. Free with free(). */
float *fixture_values(uint64_t seed, size_t n);
/* The same as activations in device memory (rounded to its type), and the rounded values as doubles when out is not NULL. */
void *fixture_act(struct device *d, uint64_t seed, size_t n, double *out);
void *fixture_act_from(struct device *d, const double *values, size_t n);
/* Activations as doubles; free with free(). */
double *fixture_read(struct device *d, const void *act, size_t n);
double *fixture_doubles(size_t n);

/* A weight with the given values (rows, cols); room that it was not asked to use changes nothing. */
struct weight *fixture_weight(struct device *d, const float *values, size_t rows, size_t cols);
/* The values as the device stores them, as doubles. */
double *fixture_weight_values(struct device *d, const struct weight *w, size_t rows, size_t cols);

/* |found - expected| / |expected| over all n (norms), and the test fails above `limit`. */
void fixture_near(const double *found, const double *expected, size_t n, double limit, const char *what);
/* The limit that suits the device's type. */
double fixture_limit(const struct device *d);
/* All three types in turn for a looped test. */
static const enum dtype fixture_types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F64};

/* Finite differences: d(loss)/d(values[i]) of n values for a function that evaluates the loss from scratch. */
typedef double fixture_loss(void *self);
void fixture_differences(fixture_loss *loss, void *self, double *values, size_t n, double *gradient);

/* Runs the suite of one program. */
int fixture_run(const char *name, const TTest *const *tests, size_t count, int loops);
