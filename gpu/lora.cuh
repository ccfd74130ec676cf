/* SPDX-License-Identifier: Apache-2.0 */
/* Between lora.cu, which knows the order of an adapter's products, and lora_skinny.cu and lora_tall.cu, which have kernels for them where the
 * rank is small. The device's thread. */
#pragma once
#include "gpu/gpu.cuh"

/* One call of a linear with an adapter. Tokens of an index list have been gathered: everything here is dense but x, in whose gaps s may go. */
struct lora_call {
	struct cuda_device *c;
	const struct lora_linear *l;
	size_t n; /* tokens computed */
	size_t rows, cols, ranks;
	size_t x_row;       /* elements from token to token of x */
	const void *x, *dy; /* (n, cols), (n, rows) */
	const void *down_x; /* (n, cols), down_row apart: what the adapter reads */
	size_t down_row;
	void *s, *ds; /* (n, ranks) */
	bool joins;   /* forward: s goes behind each token of x too, where there is room */
};

/* Whether the kernels below take this call, with `out` (or NULL) as its y or dx: bf16, small ranks in multiples of 8, sizes and places that
 * 16-byte accesses reach. A call that is not taken goes to cuBLASLt, with the same results up to the order of sums. */
bool lora_skinny_takes(const struct lora_call *call, const void *out);
/* s = down_x A^T of all parts, one read of it; s NULL with joins: only behind the tokens of x. */
void lora_skinny_down(const struct lora_call *call);
/* The weight's room, column by column of s = scale * B_part in the part's rows, 0 in the others'. */
void lora_skinny_room(const struct lora_call *call);
/* y (n, rows) = scale * s_part B_part^T; 0 where a part has no adapter. One write of y. */
void lora_skinny_up(const struct lora_call *call, void *y);
/* ds = scale * dy B, and grad_b += scale * dy^T s where it is wanted: one read of dy. */
void lora_skinny_ds(const struct lora_call *call);
/* dx (n, cols) = ds A, or += when add. */
void lora_skinny_dx(const struct lora_call *call, void *dx, bool add);
/* grad_a += ds^T x of all parts, one read of x. */
void lora_skinny_gradient_a(const struct lora_call *call);

/* ---- lora_tokens.cu ---- */

/* The listed tokens of `full` (N, width), full_row apart, in a row in `slot`, fetched there when `read`; `full` itself without a list. */
void *lora_gather(struct cuda_device *c, const struct tokens *t, enum cuda_scratch_slot slot, const void *full,
	size_t width, size_t full_row, bool read);
/* The inverse, of dense tokens; does nothing without a list. */
void lora_scatter(struct cuda_device *c, const struct tokens *t, void *compact, void *full, size_t width);

/* ---- of lora_skinny.cu, for lora_tall.cu ---- */

/* (n, ranks) = the part's scale * the sum of its partial sums. */
struct token_sums {
	size_t n;
	unsigned ranks, parts;
	unsigned rank[LORA_PARTS_MAX], at[LORA_PARTS_MAX]; /* at: of the part's ranks in out */
	unsigned blocks[LORA_PARTS_MAX];
	const float *partial[LORA_PARTS_MAX]; /* (blocks, n, rank) */
	float scale[LORA_PARTS_MAX];
	__nv_bfloat16 *out;    /* NULL: not wanted */
	__nv_bfloat16 *behind; /* the same again, tokens behind_row apart; NULL: not wanted */
	size_t behind_row;
};

void lora_skinny_sum_tokens(struct cuda_device *c, const struct token_sums *t);
/* Bytes of shared memory that a block may have on this card, when it asks. */
size_t lora_skinny_shared(const struct cuda_device *c);
/* Asks for all of it: before the launch of a kernel with more than every card grants unasked. Never for less: a launch that was recorded may need more. */
bool lora_skinny_grant(struct cuda_device *c, const void *kernel);
