/* SPDX-License-Identifier: Apache-2.0 */
/* The orders of an adapter's products on the CPU: all give the same numbers, and each multiplies what train/variants says. Linked so that every
 * product of the backend passes through the counters below. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "compute/compute.h"
#include "compute/cpu/gemm.h"
#include "train/variants.h"

static uint64_t counted;

void __real_gemm_tokens(
	struct device *d, const struct gemm_shape *shape, const void *a, const void *b, const float *bias, void *c);
void __wrap_gemm_tokens(
	struct device *d, const struct gemm_shape *shape, const void *a, const void *b, const float *bias, void *c);
void __real_gemm_over_tokens(struct device *d, const struct gemm_shape *shape, const void *a, const void *b, void *c);
void __wrap_gemm_over_tokens(struct device *d, const struct gemm_shape *shape, const void *a, const void *b, void *c);

void __wrap_gemm_tokens(
	struct device *d, const struct gemm_shape *shape, const void *a, const void *b, const float *bias, void *c)
{
	counted += 2 * shape->m * shape->n * shape->k;
	__real_gemm_tokens(d, shape, a, b, bias, c);
}

void __wrap_gemm_over_tokens(struct device *d, const struct gemm_shape *shape, const void *a, const void *b, void *c)
{
	counted += 2 * shape->m * shape->n * shape->k;
	__real_gemm_over_tokens(d, shape, a, b, c);
}

enum { TOKENS = 37, COLS = 24, ROWS = 40, RANKS = 12 };

/* Two adapters above each other, a part without one between them. */
static const struct variants_shape shape = {
	.tokens = TOKENS, .rows = ROWS, .cols = COLS, .parts = 3, .part = {{16, 4}, {8, 0}, {16, 8}}, .dx = true};

struct linear {
	struct device *d;
	struct weight *w;
	void *x, *y, *dy, *dx, *s;
	float *factors, *gradients; /* A and B of the parts, one behind the other */
	struct lora_linear l;
};

enum { FACTORS = 4 * COLS + 16 * 4 + 8 * COLS + 16 * 8 };

static int fill(void *self, size_t first, size_t count, float *out)
{
	(void)self;
	for (size_t i = 0; i < count * COLS; i++)
		out[i] = sinf((float)(first * COLS + i));
	return 0;
}

static void *filled(struct device *d, size_t n, uint64_t stream)
{
	float values[TOKENS * ROWS];
	struct rng r;
	ck_assert_uint_le(n, sizeof values / sizeof *values);
	rng_init(&r, 5, stream);
	for (size_t i = 0; i < n; i++)
		values[i] = rng_normal(&r);
	void *act = d->ops->alloc(d, n * d->act_size);
	d->ops->to_act(d, act, values, n);
	return act;
}

static void linear_open(struct linear *t, enum dtype act)
{
	struct device_config config = {.name = "cpu", .threads = 1, .act = act};
	struct fault f;
	*t = (struct linear){0};
	ck_assert_msg(device_open(&config, &t->d, &f) == 0, "%s", f.text);
	struct device *d = t->d;
	const struct weight_source source = {.fill = fill};
	t->w = d->ops->weight_new(d, ROWS, COLS, WEIGHT_F32, WEIGHT_FORWARD | WEIGHT_BACKWARD, 0, &source);
	t->x = filled(d, TOKENS * COLS, 1);
	t->y = d->ops->alloc(d, TOKENS * ROWS * d->act_size);
	t->dy = filled(d, TOKENS * ROWS, 2);
	t->dx = d->ops->alloc(d, TOKENS * COLS * d->act_size);
	t->s = d->ops->alloc(d, TOKENS * RANKS * d->act_size);
	t->factors = d->ops->alloc(d, FACTORS * sizeof(float));
	t->gradients = d->ops->alloc(d, FACTORS * sizeof(float));
	struct rng r;
	rng_init(&r, 5, 3);
	for (size_t i = 0; i < FACTORS; i++)
		t->factors[i] = rng_normal(&r);
	t->l = (struct lora_linear){.weight = t->w, .scale = 0.5f, .parts = 3, .y = t->y, .dy = t->dy};
	for (size_t i = 0, at = 0; i < 3; i++) {
		struct lora_part *p = &t->l.part[i];
		p->rows = shape.part[i].rows;
		p->rank = shape.part[i].rank;
		p->a = t->factors + at;
		p->grad_a = t->gradients + at;
		at += p->rank * COLS;
		p->b = t->factors + at;
		p->grad_b = t->gradients + at;
		at += p->rank * p->rows;
	}
}

static void linear_close(struct linear *t)
{
	const struct device_ops *ops = t->d->ops;
	ck_assert_msg(device_sync(t->d, NULL) == 0, "%s", t->d->fault.text);
	void *all[] = {t->x, t->y, t->dy, t->dx, t->s, t->factors, t->gradients};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		ops->release(t->d, all[i]);
	ops->weight_free(t->d, t->w);
	device_close(t->d);
}

/* FLOPs of a forward and a backward. */
static void run(struct linear *t, const struct variants_choice *c, bool dx, uint64_t *forward, uint64_t *backward)
{
	const struct device_ops *ops = t->d->ops;
	struct tokens tokens = {.count = TOKENS};
	t->l.forward = c->forward;
	t->l.backward = c->backward;
	t->l.s = c->s ? t->s : NULL;
	ops->zero(t->d, t->gradients, FACTORS * sizeof(float));
	counted = 0;
	ops->lora_forward(t->d, &tokens, t->x, &t->l);
	*forward = counted;
	counted = 0;
	ops->lora_backward(t->d, &tokens, t->x, &t->l, dx ? t->dx : NULL, false, NULL);
	*backward = counted;
	ck_assert_msg(device_sync(t->d, NULL) == 0, "%s", t->d->fault.text);
}

/* What W + scale B A itself takes is summed up without a product on the CPU. */
static uint64_t merging(const struct variants_shape *v)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < v->parts; i++)
		sum += 2 * (uint64_t)v->part[i].rows * v->part[i].rank * v->cols;
	return sum;
}

START_TEST(what_is_multiplied_is_what_was_counted)
{
	struct linear t;
	linear_open(&t, DTYPE_F32);
	for (int dx = 0; dx < 2; dx++)
		for (int keep_s = 0; keep_s < 2; keep_s++) {
			struct variants_choice all[VARIANTS_CANDIDATES];
			struct variants_shape v = shape;
			v.dx = dx;
			size_t count = variants_candidates(&v, keep_s, true, all);
			ck_assert_uint_ge(count, 4);
			for (size_t i = 0; i < count; i++) {
				uint64_t forward, backward;
				const struct variants_choice *c = &all[i];
				run(&t, c, dx, &forward, &backward);
				ck_assert_uint_eq(forward, variants_flops_forward(&v, c->forward, c->s) -
								   (c->forward == LORA_F2 ? merging(&v) : 0));
				ck_assert_uint_eq(backward, variants_flops_backward(&v, c->backward, c->s) -
								    (c->backward != LORA_B1 && dx ? merging(&v) : 0));
			}
		}
	linear_close(&t);
}
END_TEST

static double value(const struct device *d, const void *p, size_t i)
{
	return d->act == DTYPE_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}

/* The largest difference, over the largest value. */
static double difference(const double *a, const double *b, size_t n)
{
	double most = 0, largest = 0;
	for (size_t i = 0; i < n; i++) {
		most = fmax(most, fabs(a[i] - b[i]));
		largest = fmax(largest, fabs(b[i]));
	}
	return most / largest;
}

enum { RESULTS = TOKENS * ROWS + TOKENS * COLS };

static void collect(const struct linear *t, double *out, double *gradients)
{
	for (size_t i = 0; i < TOKENS * ROWS; i++)
		*out++ = value(t->d, t->y, i);
	for (size_t i = 0; i < TOKENS * COLS; i++)
		*out++ = value(t->d, t->dx, i);
	for (size_t i = 0; i < FACTORS; i++)
		gradients[i] = (double)t->gradients[i];
}

START_TEST(all_orders_give_the_same)
{
	static double first[RESULTS], other[RESULTS], first_gradients[FACTORS], other_gradients[FACTORS];
	bool exact = _i == 1;
	struct linear t;
	linear_open(&t, exact ? DTYPE_F64 : DTYPE_F32);
	for (int keep_s = 0; keep_s < 2; keep_s++) {
		struct variants_choice all[VARIANTS_CANDIDATES];
		size_t count = variants_candidates(&shape, keep_s, true, all);
		for (size_t i = 0; i < count; i++) {
			uint64_t unused;
			bool reference = i == 0 && !keep_s;
			run(&t, &all[i], true, &unused, &unused);
			collect(&t, reference ? first : other, reference ? first_gradients : other_gradients);
			if (reference)
				continue;
			ck_assert_double_lt(difference(other, first, RESULTS), exact ? 1e-12 : 1e-5);
			/* Gradients are f32 on every device. */
			ck_assert_double_lt(difference(other_gradients, first_gradients, FACTORS), exact ? 1e-7 : 1e-5);
		}
	}
	linear_close(&t);
}
END_TEST

START_TEST(the_cpu_is_measured_through_its_operations)
{
	struct linear t;
	struct variants v;
	linear_open(&t, DTYPE_F32);
	struct variants_config c = {.mode = VARIANTS_TIMED,
		.widths = {.layers = 2, .hidden = COLS, .query = ROWS, .key = 8, .ffn = ROWS},
		.ranks = {[LORA_Q] = 4},
		.storage = WEIGHT_F32,
		.tokens = TOKENS,
		.keep_s = true};
	/* A group that has no weight here is chosen by cost. */
	c.widths.key = 0;
	c.weight[VARIANTS_QKV] = t.w;
	ck_assert_int_eq(variants_choose(&v, t.d, &c, NULL), 0);
	ck_assert_int_eq(v.mode, VARIANTS_TIMED);
	linear_close(&t);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("orders");
	TCase *c = tcase_create("cpu");
	tcase_set_timeout(c, 60);
	tcase_add_test(c, what_is_multiplied_is_what_was_counted);
	tcase_add_loop_test(c, all_orders_give_the_same, 0, 2);
	tcase_add_test(c, the_cpu_is_measured_through_its_operations);
	suite_add_tcase(suite, c);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
