/* SPDX-License-Identifier: Apache-2.0 */
/* Between gemm.cu and gemm_kept.cu: what tells products apart, and the measured plans that outlive the process. The device's thread. */
#pragma once
#include "gpu/gpu.cuh"

/* What a product is added to. */
enum gemm_adds {
	GEMM_ADDS_NOTHING,
	GEMM_ADDS_OTHER,  /* what lies in another place than the output */
	GEMM_ADDS_ITSELF, /* the output, by beta of the host */
	GEMM_ADDS_ONCE,   /* a bf16 output, rounded once, by beta in device memory */
};

/* All that the choice of an algorithm depends on. Compared and kept as bytes, so there is no padding. */
struct gemm_key {
	uint64_t m, n, k;
	uint64_t a_row, b_row, out_row;
	uint8_t a_transposed, b_transposed;
	uint8_t in_type, out_type;                      /* enum gemm_type */
	uint8_t adds;                                   /* enum gemm_adds */
	uint8_t add_align, a_align, b_align, out_align; /* log2 of bytes, at most 8 */
	uint8_t unused[7];
};
static_assert(sizeof(struct gemm_key) == 64, "a key has no padding");

struct gemm_kept {
	struct gemm_key key;
	cublasLtMatmulAlgo_t algo;
	float microseconds;
	uint32_t unused;
};

/* The plans of the cache folder and those measured since. */
struct gemm_kept_list {
	struct gemm_kept *at;
	size_t count;
	bool changed;
};

/* Reads the cache folder's file for this card and this cuBLASLt. A file that is absent, foreign or damaged counts as empty. */
void gemm_kept_load(const struct cuda_device *c, struct gemm_kept_list *list);
/* Writes the file if something changed: whole or not at all. A folder that cannot be written costs measuring again, nothing else. */
void gemm_kept_save(const struct cuda_device *c, struct gemm_kept_list *list);
/* `near`: m and k may be off by an eighth, as token counts are that come and go. */
const struct gemm_kept *gemm_kept_find(const struct gemm_kept_list *list, const struct gemm_key *key, bool near);
/* Adds or replaces a plan. The list is bounded: beyond that nothing is added. */
void gemm_kept_add(struct gemm_kept_list *list, const struct gemm_kept *plan);
void gemm_kept_free(struct gemm_kept_list *list);
