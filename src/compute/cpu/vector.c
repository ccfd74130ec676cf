/* SPDX-License-Identifier: Apache-2.0 */
/* What runs over flat buffers: conversions, sums, the optimizer, quantization. */
#include "compute/cpu/cpu.h"
#include "compute/cpu/quantize.h"
#include "compute/cpu/simd.h"

#define GRAIN 16384 /* elements; less is not worth a second thread */

struct vector_args {
	void *y;
	const void *x;
	float factor;
};

#define ACT_TEMPLATE "compute/cpu/vector.inc"
#include "compute/cpu/each_act.h"

void cpu_to_act(struct device *d, void *act, const float *x, size_t n)
{
	struct vector_args v = {.y = act, .x = x};
	if (!d->fault.code)
		cpu_run(d, n, GRAIN, CPU_PICK(d, to_act), &v);
}

void cpu_from_act(struct device *d, float *x, const void *act, size_t n)
{
	struct vector_args v = {.y = x, .x = act};
	if (!d->fault.code)
		cpu_run(d, n, GRAIN, CPU_PICK(d, from_act), &v);
}

void cpu_add(struct device *d, void *y, const void *x, size_t n)
{
	struct vector_args v = {.y = y, .x = x};
	if (!d->fault.code)
		cpu_run(d, n, GRAIN, CPU_PICK(d, add_act), &v);
}

SIMD_CLONES static void axpy_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct vector_args *v = args;
	float *y = v->y;
	const float *x = v->x;
	float factor = v->factor;
	(void)thread;
#pragma omp simd
	for (size_t i = begin; i < end; i++)
		y[i] += factor * x[i];
}

void cpu_axpy(struct device *d, float *y, float factor, const float *x, size_t n)
{
	struct vector_args v = {.y = y, .x = x, .factor = factor};
	if (!d->fault.code)
		cpu_run(d, n, GRAIN, axpy_body, &v);
}

SIMD_CLONES static void scale_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct vector_args *v = args;
	float *y = v->y;
	float factor = v->factor;
	(void)thread;
#pragma omp simd
	for (size_t i = begin; i < end; i++)
		y[i] *= factor;
}

void cpu_scale(struct device *d, float *x, float factor, size_t n)
{
	struct vector_args v = {.y = x, .factor = factor};
	if (!d->fault.code)
		cpu_run(d, n, GRAIN, scale_body, &v);
}

struct adamw_args {
	float *parameters;
	const float *gradients;
	float *first, *second;
	float gradient_scale, beta1, beta2, epsilon;
	float keep;          /* 1 - lr * weight_decay */
	float rate;          /* lr / (1 - beta1^step) */
	float second_factor; /* 1 / sqrt(1 - beta2^step) */
};

SIMD_CLONES static void adamw_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct adamw_args a = *(const struct adamw_args *)args;
	float *parameters = a.parameters, *first = a.first, *second = a.second;
	const float *gradients = a.gradients;
	(void)thread;
#pragma omp simd
	for (size_t i = begin; i < end; i++) {
		float g = gradients[i] * a.gradient_scale;
		float m = a.beta1 * first[i] + (1 - a.beta1) * g;
		float v = a.beta2 * second[i] + (1 - a.beta2) * g * g;
		first[i] = m;
		second[i] = v;
		parameters[i] = parameters[i] * a.keep - a.rate * m / (sqrtf(v) * a.second_factor + a.epsilon);
	}
}

void cpu_adamw(struct device *d, const struct adamw *a, float *parameters, const float *gradients, float *first,
	float *second, size_t n)
{
	if (d->fault.code)
		return;
	double correction1 = 1 - pow((double)a->beta1, (double)a->step);
	double correction2 = 1 - pow((double)a->beta2, (double)a->step);
	struct adamw_args args = {
		.parameters = parameters,
		.gradients = gradients,
		.first = first,
		.second = second,
		.gradient_scale = a->gradient_scale,
		.beta1 = a->beta1,
		.beta2 = a->beta2,
		.epsilon = a->epsilon,
		.keep = 1 - a->lr * a->weight_decay,
		.rate = (float)((double)a->lr / correction1),
		.second_factor = (float)(1 / sqrt(correction2)),
	};
	cpu_run(d, n, GRAIN, adamw_body, &args);
}

#define SQUARES_BLOCK 4096 /* elements summed together, so that the thread count changes nothing */

struct squares_args {
	const float *x;
	double *partial;
	size_t n;
};

SIMD_CLONES static void squares_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct squares_args *s = args;
	(void)thread;
	for (size_t block = begin; block < end; block++) {
		size_t first = block * SQUARES_BLOCK;
		size_t last = s->n - first < SQUARES_BLOCK ? s->n : first + SQUARES_BLOCK;
		double sum = 0;
#pragma omp simd reduction(+ : sum)
		for (size_t i = first; i < last; i++)
			sum += (double)s->x[i] * (double)s->x[i];
		s->partial[block] = sum;
	}
}

void cpu_sum_squares(struct device *d, const float *x, size_t n, double *out)
{
	if (d->fault.code)
		return;
	size_t blocks = (n + SQUARES_BLOCK - 1) / SQUARES_BLOCK;
	struct squares_args s = {.x = x, .n = n, .partial = cpu_scratch(d, SCRATCH_PARTIAL, blocks * sizeof(double))};
	if (!s.partial)
		return;
	cpu_run(d, blocks, 8, squares_body, &s);
	double sum = 0;
	for (size_t i = 0; i < blocks; i++)
		sum += s.partial[i];
	*out = sum;
}

void cpu_reduce(struct device *d, float *x, size_t n)
{
	(void)d;
	(void)x;
	(void)n;
}

struct quantize_args {
	int8_t *values;
	uint16_t *scales;
	const float *x;
	float *out;
	size_t n;
	uint64_t seed, stream;
};

/* begin .. end are blocks. */
static void quantize_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct quantize_args *q = args;
	size_t first = begin * QUANTIZE_BLOCK, last = end * QUANTIZE_BLOCK < q->n ? end * QUANTIZE_BLOCK : q->n;
	(void)thread;
	quantize_host(q->values + first, q->scales + begin, q->x + first, last - first, q->seed, q->stream, first);
}

static void dequantize_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct quantize_args *q = args;
	size_t first = begin * QUANTIZE_BLOCK, last = end * QUANTIZE_BLOCK < q->n ? end * QUANTIZE_BLOCK : q->n;
	(void)thread;
	dequantize_host(q->out + first, q->values + first, q->scales + begin, last - first);
}

void cpu_quantize(
	struct device *d, int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed, uint64_t stream)
{
	struct quantize_args q = {.values = values, .scales = scales, .x = x, .n = n, .seed = seed, .stream = stream};
	if (!d->fault.code)
		cpu_run(d, quantize_blocks(n), 256, quantize_body, &q);
}

void cpu_dequantize(struct device *d, float *out, const int8_t *values, const uint16_t *scales, size_t n)
{
	struct quantize_args q = {
		.values = (int8_t *)(uintptr_t)values, .scales = (uint16_t *)(uintptr_t)scales, .out = out, .n = n};
	if (!d->fault.code)
		cpu_run(d, quantize_blocks(n), 1024, dequantize_body, &q);
}
