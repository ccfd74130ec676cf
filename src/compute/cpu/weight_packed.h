/* SPDX-License-Identifier: Apache-2.0 */
/* Weights kept in blocks of 4 or 8 bits, unpacked a panel at a time for each product. The device's thread; weight_packed_row from any of the
 * device's threads. */
#pragma once
#include "compute/compute.h"

struct gemm_shape;

/* How the elements of a row are packed. Every block has a scale d in f16 before its elements. */
enum weight_packing {
	PACKING_NONE, /* not in blocks */
	PACKING_NF4,  /* 64 elements: d, then 32 bytes, low nibble first; d * (one of 16 values) */
	PACKING_Q4_0, /* enum weight_blocks */
	PACKING_Q4_1,
	PACKING_Q8_0,
};

struct packed_rows {
	enum weight_packing packing;
	size_t row_bytes;
	unsigned char *data; /* (rows, row_bytes) */
};

/* The packing of a storage; PACKING_NONE with a failure recorded where rows of `cols` elements or the file's blocks are not made for it. */
enum weight_packing weight_packing_of(
	struct device *d, enum weight_storage storage, enum weight_blocks blocks, size_t cols);
/* Fills *out from the source: stored blocks as they are, others packed now. False after recording the failure. The caller frees it. */
bool weight_packed_new(struct device *d, size_t rows, size_t cols, enum weight_packing packing,
	const struct weight_source *source, struct packed_rows *out);
void weight_packed_free(struct device *d, struct packed_rows *p);
/* out (count): elements first .. first+count-1 of a row; both multiples of 64, but for the last elements of the row. */
void weight_packed_row(const struct packed_rows *p, size_t row, size_t first, size_t count, float *out);
/* y (n, rows) = x W^T + bias, or dx (n, cols) = dy W when backward: `s` says the product as if W were a plain operand, b apart. */
void weight_packed_product(struct device *d, const struct packed_rows *p, bool backward, const struct gemm_shape *s,
	const void *a, const float *bias, void *c);
