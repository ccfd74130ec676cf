/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/cpu.h"

struct norm_args {
	size_t c;
	size_t y_row;
	const void *x, *delta, *dy;
	void *sum, *y, *dx;
	const float *weight;
	float epsilon;
	float *inverse_rms;
};

#define ACT_TEMPLATE "compute/cpu/norm.inc"
#include "compute/cpu/each_act.h"

static bool known_kind(struct device *d, enum norm_kind kind)
{
	if (!d->fault.code && kind != NORM_RMS)
		device_fail(d, SAKIORI_EUNSUPPORTED, "norm kind %d is not implemented on the CPU", (int)kind);
	return !d->fault.code;
}

void cpu_norm_forward(struct device *d, enum norm_kind kind, size_t n, size_t c, const void *x, const void *delta,
	void *sum, const float *weight, float epsilon, void *y, size_t y_stride, float *inverse_rms)
{
	if (!known_kind(d, kind))
		return;
	struct norm_args a = {.c = c,
		.y_row = y_stride ? y_stride : c,
		.x = x,
		.delta = delta,
		.sum = sum,
		.weight = weight,
		.epsilon = epsilon,
		.y = y,
		.inverse_rms = inverse_rms};
	if (delta && !sum)
		device_fail(d, SAKIORI_EINVAL, "a norm with a residual needs a place for the sum");
	else
		cpu_run(d, n, 16, CPU_PICK(d, norm_forward_body), &a);
}

void cpu_norm_backward(struct device *d, enum norm_kind kind, size_t n, size_t c, const void *dy, const void *x,
	const float *weight, const float *inverse_rms, void *dx)
{
	if (!known_kind(d, kind))
		return;
	struct norm_args a = {
		.c = c, .x = x, .dy = dy, .weight = weight, .inverse_rms = (float *)(uintptr_t)inverse_rms, .dx = dx};
	cpu_run(d, n, 16, CPU_PICK(d, norm_backward_body), &a);
}
