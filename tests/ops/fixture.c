/* SPDX-License-Identifier: Apache-2.0 */
#include "ops/fixture.h"

struct device *fixture_open(enum dtype act, unsigned threads)
{
	struct device_config config = {.name = "cpu", .threads = threads ? threads : 2, .act = act};
	struct device *d = NULL;
	struct fault f = {0};
	if (device_open(&config, &d, &f))
		ck_abort_msg("%s", f.text);
	return d;
}

void fixture_close(struct device *d)
{
	struct fault f = {0};
	if (device_sync(d, &f))
		ck_abort_msg("%s", f.text);
	device_close(d);
}

float *fixture_values(uint64_t seed, size_t n)
{
	struct rng r;
	rng_init(&r, seed, 7);
	float *values = must_calloc(n + 1, sizeof *values);
	for (size_t i = 0; i < n; i++)
		values[i] = (float)((double)rng_below(&r, 8192) / 4096 - 1);
	return values;
}

void *fixture_act(struct device *d, uint64_t seed, size_t n, double *out)
{
	float *values = fixture_values(seed, n);
	void *act = d->ops->alloc(d, n * d->act_size);
	d->ops->to_act(d, act, values, n);
	if (out) {
		double *read = fixture_read(d, act, n);
		memcpy(out, read, n * sizeof *out);
		free(read);
	}
	free(values);
	return act;
}

void *fixture_act_from(struct device *d, const double *values, size_t n)
{
	void *act = d->ops->alloc(d, n * d->act_size);
	for (size_t i = 0; i < n; i++) {
		if (d->act == DTYPE_F64)
			((double *)act)[i] = values[i];
		else if (d->act == DTYPE_F32)
			((float *)act)[i] = (float)values[i];
		else
			((uint16_t *)act)[i] = f32_to_bf16((float)values[i]);
	}
	return act;
}

double *fixture_doubles(size_t n)
{
	return must_calloc(n + 1, sizeof(double));
}

double *fixture_read(struct device *d, const void *act, size_t n)
{
	double *out = fixture_doubles(n);
	for (size_t i = 0; i < n; i++)
		out[i] = d->act == DTYPE_F64   ? ((const double *)act)[i]
			 : d->act == DTYPE_F32 ? (double)((const float *)act)[i]
					       : (double)bf16_to_f32(((const uint16_t *)act)[i]);
	return out;
}

struct fill {
	const float *values;
	size_t cols;
};

static int fill_rows(void *self, size_t first, size_t count, float *out)
{
	const struct fill *s = self;
	memcpy(out, s->values + first * s->cols, count * s->cols * sizeof *out);
	return 0;
}

struct weight *fixture_weight(struct device *d, const float *values, size_t rows, size_t cols)
{
	struct fill s = {values, cols};
	struct weight_source source = {.fill = fill_rows, .self = &s};
	enum weight_storage storage = d->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
	return d->ops->weight_new(d, rows, cols, storage, WEIGHT_FORWARD | WEIGHT_BACKWARD, 8, &source);
}

double *fixture_weight_values(struct device *d, const struct weight *w, size_t rows, size_t cols)
{
	float *values = must_calloc(rows * cols, sizeof *values);
	double *out = fixture_doubles(rows * cols);
	d->ops->weight_read(d, w, 0, rows, values);
	for (size_t i = 0; i < rows * cols; i++)
		out[i] = (double)values[i];
	free(values);
	return out;
}

void fixture_near(const double *found, const double *expected, size_t n, double limit, const char *what)
{
	double difference = 0, norm = 0;
	for (size_t i = 0; i < n; i++) {
		difference += (found[i] - expected[i]) * (found[i] - expected[i]);
		norm += expected[i] * expected[i];
	}
	difference = sqrt(difference);
	norm = sqrt(norm);
	if (!(difference <= limit * norm + 1e-12))
		ck_abort_msg("%s: differs by %g of %g (limit %g), n %zu", what, difference, norm, limit, n);
}

double fixture_limit(const struct device *d)
{
	return d->act == DTYPE_F64 ? 1e-6 : d->act == DTYPE_F32 ? 2e-6 : 1e-2;
}

void fixture_differences(fixture_loss *loss, void *self, double *values, size_t n, double *gradient)
{
	const double step = 0x1p-12;
	for (size_t i = 0; i < n; i++) {
		double before = values[i];
		values[i] = before + step;
		double above = loss(self);
		values[i] = before - step;
		double below = loss(self);
		values[i] = before;
		gradient[i] = (above - below) / (2 * step);
	}
}

int fixture_run(const char *name, const TTest *const *tests, size_t count, int loops)
{
	Suite *suite = suite_create(name);
	TCase *all = tcase_create(name);
	tcase_set_timeout(all, 120);
	for (size_t i = 0; i < count; i++)
		tcase_add_loop_test(all, tests[i], 0, loops);
	suite_add_tcase(suite, all);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
