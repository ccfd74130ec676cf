/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/cpu.h"

#define GRAIN 8192 /* elements */

struct activation_args {
	size_t width, h_row;
	void *gate_up, *h;
	const void *dh;
};

/* The inner derivative's constants of gelu's tanh form: 2 sqrt(2/pi), and that times 0.044715. */
#define GELU_SLOPE 1.5957691216057308
#define GELU_CUBIC 0.07135481627159

#define ACT_TEMPLATE "compute/cpu/activation.inc"
#include "compute/cpu/each_act.h"

static bool known_kind(struct device *d, enum activation_kind kind)
{
	if (!d->fault.code && kind != ACTIVATION_SWIGLU && kind != ACTIVATION_GEGLU)
		device_fail(d, SAKIORI_EUNSUPPORTED, "activation kind %d is not implemented on the CPU", (int)kind);
	return !d->fault.code;
}

void cpu_activation_forward(struct device *d, enum activation_kind kind, size_t n, size_t width, const void *gate_up,
	void *h, size_t h_stride)
{
	struct activation_args a = {
		.width = width, .h_row = h_stride ? h_stride : width, .gate_up = (void *)(uintptr_t)gate_up, .h = h};
	if (known_kind(d, kind))
		cpu_run(d, n, GRAIN / width + 1,
			kind == ACTIVATION_GEGLU ? CPU_PICK(d, geglu_forward) : CPU_PICK(d, swiglu_forward), &a);
}

void cpu_activation_backward(
	struct device *d, enum activation_kind kind, size_t n, size_t width, const void *dh, void *gate_up, void *h)
{
	struct activation_args a = {.width = width, .gate_up = gate_up, .h = h, .dh = dh};
	if (known_kind(d, kind))
		cpu_run(d, n, GRAIN / width + 1,
			kind == ACTIVATION_GEGLU ? CPU_PICK(d, geglu_backward) : CPU_PICK(d, swiglu_backward), &a);
}
