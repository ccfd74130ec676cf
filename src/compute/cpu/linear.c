/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/cpu.h"
#include "compute/cpu/weight.h"

/* A packed copy, or the oracle's plain matrix read with strides. */
const void *weight_operand(const struct weight *w, bool backward, struct gemm_shape *s)
{
	s->b_type = w->element;
	if (w->plain.data && !w->forward.data && !w->backward.data) {
		s->b_row = backward ? w->cols : 1;
		s->b_col = backward ? 1 : w->cols;
		return w->plain.data;
	}
	s->flags |= GEMM_PACKED;
	return backward ? w->backward.data : w->forward.data;
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
	const void *b = weight_operand(w, false, &s);
	gemm_tokens(d, &s, x, b, bias, y);
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
	const void *b = weight_operand(w, true, &s);
	gemm_tokens(d, &s, dy, b, NULL, dx);
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
		const void *b = weight_operand(head, false, &s);
		gemm_tokens(d, &s, hidden, b, NULL, logits);
		return;
	}
	s.c_type = DTYPE_F64;
	double *exact = cpu_scratch(d, SCRATCH_LOGITS, n * head->rows * sizeof *exact);
	if (!exact)
		return;
	const void *b = weight_operand(head, false, &s);
	gemm_tokens(d, &s, hidden, b, NULL, exact);
	cpu_from_act(d, logits, exact, n * head->rows);
}
