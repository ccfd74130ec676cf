/* SPDX-License-Identifier: Apache-2.0 */
/* A frozen matrix and its packed layouts. Read by the files that multiply; made and changed in weight.c alone. The device's thread. */
#pragma once
#include "compute/cpu/gemm.h"
#include "compute/cpu/weight_packed.h"

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
	struct packed forward;     /* b (cols, rows) of y = x W^T */
	struct packed backward;    /* b (rows, cols) of dx = dy W */
	struct packed_rows packed; /* with another packing than PACKING_NONE there is no copy of the others */
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
/* out (count): elements first .. first+count-1 of a row, whatever keeps them (weight_packed_row says which ranges of a packed one). */
void weight_row(const struct weight *w, size_t row, size_t first, size_t count, float *out);
/* c = a W^T + bias, or a W when backward. `s` is the product as if W were a plain operand; how to read b is filled in here. */
void weight_product(struct device *d, const struct weight *w, bool backward, const struct gemm_shape *s, const void *a,
	const float *bias, void *c);
/* Whether the device is well and the weight was made for this use; records a failure if not. */
bool weight_may(struct device *d, const struct weight *w, enum weight_use use);
