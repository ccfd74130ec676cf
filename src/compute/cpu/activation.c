/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/cpu.h"

#define GRAIN 8192 /* elements */

struct activation_args {
	void *gate, *up, *h;
	const void *dh;
};

#define ACT_TEMPLATE "compute/cpu/activation.inc"
#include "compute/cpu/each_act.h"

static bool known_kind(struct device *d, enum activation_kind kind)
{
	if (!d->fault.code && kind != ACTIVATION_SWIGLU)
		device_fail(d, SAKIORI_EUNSUPPORTED, "activation kind %d is not implemented on the CPU", (int)kind);
	return !d->fault.code;
}

void cpu_activation_forward(
	struct device *d, enum activation_kind kind, size_t n, const void *gate, const void *up, void *h)
{
	struct activation_args a = {.gate = (void *)(uintptr_t)gate, .up = (void *)(uintptr_t)up, .h = h};
	if (known_kind(d, kind))
		cpu_run(d, n, GRAIN, CPU_PICK(d, swiglu_forward), &a);
}

void cpu_activation_backward(
	struct device *d, enum activation_kind kind, size_t n, const void *dh, void *gate, void *up, void *h)
{
	struct activation_args a = {.gate = gate, .up = up, .h = h, .dh = dh};
	if (known_kind(d, kind))
		cpu_run(d, n, GRAIN, CPU_PICK(d, swiglu_backward), &a);
}
