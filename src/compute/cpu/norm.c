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

struct head_norm_args {
	size_t heads, c, x_row, y_row, dx_row;
	const void *x;
	void *y, *dx;
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

static bool heads_fit(struct device *d, size_t heads, size_t head_dim, size_t x_stride, size_t other_stride)
{
	size_t width = heads * head_dim;
	if (!d->fault.code && (!head_dim || x_stride < width || other_stride < width))
		device_fail(d, SAKIORI_EINVAL, "norms of %zu heads of %zu features, strides %zu and %zu", heads,
			head_dim, x_stride, other_stride);
	return !d->fault.code;
}

void cpu_head_norm_forward(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
	const void *x, size_t x_stride, const float *weight, float epsilon, void *y, size_t y_stride,
	float *inverse_rms)
{
	struct head_norm_args a = {.heads = heads,
		.c = head_dim,
		.x_row = x_stride,
		.y_row = y_stride,
		.x = x,
		.weight = weight,
		.epsilon = epsilon,
		.y = y,
		.inverse_rms = inverse_rms};
	if (known_kind(d, kind) && heads_fit(d, heads, head_dim, x_stride, y_stride))
		cpu_run(d, n, 16, CPU_PICK(d, head_norm_forward_body), &a);
}

void cpu_head_norm_backward(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
	const void *x, size_t x_stride, const float *weight, const float *inverse_rms, void *dx, size_t dx_stride)
{
	struct head_norm_args a = {.heads = heads,
		.c = head_dim,
		.x_row = x_stride,
		.dx_row = dx_stride,
		.x = x,
		.weight = weight,
		.inverse_rms = (float *)(uintptr_t)inverse_rms,
		.dx = dx};
	if (known_kind(d, kind) && heads_fit(d, heads, head_dim, x_stride, dx_stride))
		cpu_run(d, n, 16, CPU_PICK(d, head_norm_backward_body), &a);
}
