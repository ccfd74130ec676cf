/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/compute.h"
#include "train/optim.h"

static const struct optim_config plain = {
	.lr = 1e-2, .schedule = SCHEDULE_CONSTANT, .total_steps = 100, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};

static struct device *open_device(void)
{
	struct device_config config = {.name = "cpu", .threads = 2, .act = DTYPE_F32};
	struct device *d;
	ck_assert_int_eq(device_open(&config, &d, NULL), 0);
	return d;
}

START_TEST(schedules_are_those_of_hugging_face)
{
	struct optim_config c = plain;
	c.lr = 2;
	c.warmup = 4;
	c.total_steps = 12;
	ck_assert_double_eq(optim_rate(&c, 0), 0);
	ck_assert_double_eq(optim_rate(&c, 1), 0.5);
	ck_assert_double_eq(optim_rate(&c, 4), 2);
	ck_assert_double_eq(optim_rate(&c, 1000), 2);
	c.schedule = SCHEDULE_LINEAR;
	ck_assert_double_eq(optim_rate(&c, 3), 1.5);
	ck_assert_double_eq(optim_rate(&c, 4), 2);
	ck_assert_double_eq(optim_rate(&c, 10), 0.5);
	ck_assert_double_eq(optim_rate(&c, 12), 0);
	ck_assert_double_eq(optim_rate(&c, 1000), 0);
	c.schedule = SCHEDULE_WSD;
	c.decay = 0.5; /* six of twelve steps */
	ck_assert_double_eq(optim_rate(&c, 3), 1.5);
	ck_assert_double_eq(optim_rate(&c, 6), 2);
	ck_assert_double_eq_tol(optim_rate(&c, 9), 1, 1e-12);
	ck_assert_double_eq_tol(optim_rate(&c, 8), 1.5, 1e-12);
	ck_assert_double_eq(optim_rate(&c, 12), 0);
	c.decay = 1; /* what warm-up leaves of it */
	ck_assert_double_eq_tol(optim_rate(&c, 8), 1, 1e-12);
	c.schedule = SCHEDULE_COSINE;
	ck_assert_double_eq(optim_rate(&c, 4), 2);
	ck_assert_double_eq_tol(optim_rate(&c, 8), 1, 1e-12);
	ck_assert_double_eq_tol(optim_rate(&c, 10), 1 - sqrt(0.5), 1e-12);
	ck_assert_double_eq(optim_rate(&c, 12), 0);
}
END_TEST

START_TEST(a_warmup_longer_than_the_run_divides_by_nothing)
{
	struct optim_config c = plain;
	c.schedule = SCHEDULE_COSINE;
	c.warmup = 20;
	c.total_steps = 10;
	c.decay = 0.2;
	for (uint64_t step = 0; step < 60; step++) {
		c.schedule = step < 30 ? SCHEDULE_COSINE : SCHEDULE_WSD;
		ck_assert(isfinite(optim_rate(&c, step % 30)));
	}
}
END_TEST

/* One element by the formulas of Loshchilov and Hutter, as torch.optim.AdamW writes them. */
static void reference(
	const struct optim_config *c, uint64_t step, double rate, double g, double *x, double *m, double *v)
{
	*x *= 1 - rate * c->weight_decay;
	*m = c->beta1 * *m + (1 - c->beta1) * g;
	*v = c->beta2 * *v + (1 - c->beta2) * g * g;
	double corrected = sqrt(*v) / sqrt(1 - pow(c->beta2, (double)step)) + c->epsilon;
	*x -= rate / (1 - pow(c->beta1, (double)step)) * *m / corrected;
}

static void compare_with_reference(double clip)
{
	enum { SIZE = 1000, STEPS = 20 };
	struct optim_config c = plain;
	c.weight_decay = 0.1;
	c.schedule = SCHEDULE_COSINE;
	c.warmup = 3;
	c.clip = clip;
	struct device *d = open_device();
	struct optim o;
	ck_assert_int_eq(optim_init(&o, d, &c, SIZE, NULL), 0);
	float *x = d->ops->alloc(d, SIZE * sizeof *x), g[SIZE], got[SIZE];
	double rx[SIZE], rm[SIZE] = {0}, rv[SIZE] = {0};
	for (int i = 0; i < SIZE; i++)
		rx[i] = got[i] = (float)sin(i);
	d->ops->upload(d, x, got, sizeof got);
	for (uint64_t step = 1; step <= STEPS; step++) {
		double norm, rate, squares = 0;
		for (int i = 0; i < SIZE; i++) {
			g[i] = (float)cos((double)i * (double)step);
			squares += (double)g[i] * (double)g[i];
		}
		optim_begin(&o);
		d->ops->axpy(d, o.gradient, 1, g, SIZE);
		ck_assert_int_eq(optim_update(&o, x, &norm, &rate, NULL), 0);
		ck_assert_double_eq_tol(norm, sqrt(squares), 1e-6 * norm);
		ck_assert_double_eq(rate, optim_rate(&c, step - 1));
		double factor = clip > 0 && clip < norm ? clip / norm : 1;
		for (int i = 0; i < SIZE; i++)
			reference(&c, step, rate, factor * (double)g[i], &rx[i], &rm[i], &rv[i]);
	}
	d->ops->download(d, got, x, sizeof got);
	for (int i = 0; i < SIZE; i++)
		ck_assert_double_eq_tol((double)got[i], rx[i], 2e-6);
	ck_assert_uint_eq(o.step, STEPS);
	d->ops->release(d, x);
	optim_fini(&o);
	device_close(d);
}

START_TEST(updates_are_those_of_adamw)
{
	compare_with_reference(0);
}
END_TEST

START_TEST(a_long_gradient_is_clipped)
{
	compare_with_reference(3);
}
END_TEST

START_TEST(a_gradient_that_is_not_finite_changes_nothing)
{
	enum { SIZE = 100 };
	struct device *d = open_device();
	struct optim o;
	struct fault f;
	float zeros[SIZE] = {0}, got[SIZE];
	double norm, rate;
	ck_assert_int_eq(optim_init(&o, d, &plain, SIZE, NULL), 0);
	float *x = d->ops->alloc(d, sizeof zeros);
	float bad[SIZE] = {0};
	bad[17] = NAN;
	optim_begin(&o);
	d->ops->axpy(d, o.gradient, 1, bad, SIZE);
	ck_assert_int_eq(optim_update(&o, x, &norm, &rate, &f), SAKIORI_EDEVICE);
	ck_assert_ptr_nonnull(strstr(f.text, "step 1"));
	ck_assert_uint_eq(o.step, 0);
	d->ops->download(d, got, x, sizeof got);
	ck_assert_mem_eq(got, zeros, sizeof got);
	d->ops->download(d, got, o.second, sizeof got);
	ck_assert_mem_eq(got, zeros, sizeof got);
	d->ops->release(d, x);
	optim_fini(&o);
	device_close(d);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("optim");
	TCase *tests = tcase_create("optim");
	tcase_add_test(tests, schedules_are_those_of_hugging_face);
	tcase_add_test(tests, a_warmup_longer_than_the_run_divides_by_nothing);
	tcase_add_test(tests, updates_are_those_of_adamw);
	tcase_add_test(tests, a_long_gradient_is_clipped);
	tcase_add_test(tests, a_gradient_that_is_not_finite_changes_nothing);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
