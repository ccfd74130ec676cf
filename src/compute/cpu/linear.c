/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/cpu.h"
#include "compute/cpu/weight.h"

void weight_product(struct device *d, const struct weight *w, bool backward, const struct gemm_shape *shape,
	const void *a, const float *bias, void *c)
{
	struct gemm_shape s = *shape;
	if (w->packed.packing) {
		weight_packed_product(d, &w->packed, backward, shape, a, bias, c);
		return;
	}
	s.b_type = w->element;
	const void *b = backward ? w->backward.data : w->forward.data;
	if (w->plain.data && !w->forward.data && !w->backward.data) {
		s.b_row = backward ? w->cols : 1;
		s.b_col = backward ? 1 : w->cols;
		b = w->plain.data;
	} else {
		s.flags |= GEMM_PACKED;
	}
	gemm_tokens(d, &s, a, b, bias, c);
}

bool weight_may(struct device *d, const struct weight *w, enum weight_use use)
{
	if (!d->fault.code && !(w->uses & use))
		device_fail(d, SAKIORI_EINVAL, "a weight is multiplied %s, but was not made for it",
			use == WEIGHT_FORWARD ? "forward" : "backward");
	return !d->fault.code;
}

void cpu_linear(struct device *d, size_t n, const void *x, size_t x_row, const struct weight *w, const float *bias,
	void *y, bool add)
{
	if (!weight_may(d, w, WEIGHT_FORWARD))
		return;
	gemm_plans_trim(d);
	struct gemm_shape s = {.m = n,
		.n = w->rows,
		.k = w->cols,
		.a_row = x_row,
		.a_col = 1,
		.c_row = w->rows,
		.a_type = d->act,
		.c_type = d->act,
		.flags = (add ? GEMM_ACCUMULATE : 0) | (bias ? GEMM_BIAS : 0),
		.scale = 1};
	weight_product(d, w, false, &s, x, bias, y);
}

void cpu_matmul(struct device *d, size_t n, const void *x, const struct weight *w, const float *bias, void *y)
{
	cpu_linear(d, n, x, w->cols, w, bias, y, false);
}

void cpu_matmul_backward(struct device *d, size_t n, const void *dy, const struct weight *w, void *dx, bool accumulate)
{
	if (!weight_may(d, w, WEIGHT_BACKWARD))
		return;
	gemm_plans_trim(d);
	struct gemm_shape s = {.m = n,
		.n = w->cols,
		.k = w->rows,
		.a_row = w->rows,
		.a_col = 1,
		.c_row = w->cols,
		.a_type = d->act,
		.c_type = d->act,
		.flags = accumulate ? GEMM_ACCUMULATE : 0,
		.scale = 1};
	weight_product(d, w, true, &s, dy, NULL, dx);
}

void cpu_head_logits(struct device *d, size_t n, const void *hidden, const struct weight *head, float *logits)
{
	if (!weight_may(d, head, WEIGHT_FORWARD))
		return;
	gemm_plans_trim(d);
	struct gemm_shape s = {.m = n,
		.n = head->rows,
		.k = head->cols,
		.a_row = head->cols,
		.a_col = 1,
		.c_row = head->rows,
		.a_type = d->act,
		.c_type = DTYPE_F32,
		.scale = 1};
	if (d->act != DTYPE_F64) {
		weight_product(d, head, false, &s, hidden, NULL, logits);
		return;
	}
	s.c_type = DTYPE_F64;
	double *exact = cpu_scratch(d, SCRATCH_LOGITS, n * head->rows * sizeof *exact);
	if (!exact)
		return;
	weight_product(d, head, false, &s, hidden, NULL, exact);
	cpu_from_act(d, logits, exact, n * head->rows);
}
