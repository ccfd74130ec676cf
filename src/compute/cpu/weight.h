/* SPDX-License-Identifier: Apache-2.0 */
/* A frozen matrix and its packed layouts. Read by the files that multiply; made and changed in weight.c alone. The device's thread. */
#pragma once
#include "compute/cpu/gemm.h"

/* One stored copy: element (row, col) lies at row_offset[row] + col_offset[col]. */
struct packed {
	void *data; /* NULL: this use was not asked for */
	size_t bytes;
	size_t *row_offset, *col_offset;
};

struct weight {
	size_t rows, cols;
	enum dtype element; /* type of the copies: bf16 on a bf16 device, else f32 */
	bool round;         /* f32 copies hold values rounded to bf16 */
	unsigned uses;
	struct packed forward;  /* b (cols, rows) of y = x W^T */
	struct packed backward; /* b (rows, cols) of dx = dy W */
	struct packed
		plain; /* row-major, only when neither of them is there (or for the oracle, which multiplies from it) */
};

/* Any copy that is there. */
static inline const struct packed *weight_any(const struct weight *w)
{
	return w->plain.data ? &w->plain : w->forward.data ? &w->forward : &w->backward;
}

/* out (rows, cols), act: W + scale B A of all parts, summed in f32 (f64 for the oracle) and rounded once. */
void weight_with_adapter(struct device *d, const struct lora_linear *l, void *out);
/* Where b of a product lies; adds to the shape how to read it. backward: dy W, else x W^T. */
const void *weight_operand(const struct weight *w, bool backward, struct gemm_shape *s);
/* Whether the device is well and the weight was made for this use; records a failure if not. */
bool weight_may(struct device *d, const struct weight *w, enum weight_use use);
