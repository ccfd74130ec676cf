/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/cpu.h"

struct rope_args {
	const struct rope *rope;
	const uint32_t *positions;
	void *x;
	size_t heads, stride;
	float direction; /* 1 forward, -1 backward: the transposed rotation */
};

#define ACT_TEMPLATE "compute/cpu/rope.inc"
#include "compute/cpu/each_act.h"

static void turn(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *x, size_t heads,
	size_t stride, float direction)
{
	if (d->fault.code)
		return;
	if (2 * r->half > r->head_dim || stride < heads * r->head_dim) {
		device_fail(d, SAKIORI_EINVAL, "rotary embedding of %zu features in heads of %zu, stride %zu",
			2 * r->half, r->head_dim, stride);
		return;
	}
	struct rope_args a = {
		.rope = r, .positions = positions, .x = x, .heads = heads, .stride = stride, .direction = direction};
	cpu_run(d, n, 64, CPU_PICK(d, rope_body), &a);
}

void cpu_rope_forward(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *x,
	size_t heads, size_t stride)
{
	turn(d, r, n, positions, x, heads, stride, 1);
}

void cpu_rope_backward(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *dx,
	size_t heads, size_t stride)
{
	turn(d, r, n, positions, dx, heads, stride, -1);
}
