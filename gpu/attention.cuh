/* SPDX-License-Identifier: Apache-2.0 */
/* Attention from inside. One call is served by the first of three ways that can:
 * - cuDNN's fused attention (attention_cudnn.cu): bf16, no softcap, no cache, when libcudnn is there;
 * - own kernels on tensor cores (attention_flash.cu): bf16 and heads of 64 or 128 features;
 * - own kernels in f32 arithmetic (attention_general.cu): everything else.
 * The last two, and cuDNN unless it serves the backward too, keep log_sum_exp as compute.h says; cuDNN's own pair keeps it in the same
 * N * heads floats as (rows, heads, longest) when all rows are full. Which way serves a backward depends on the call's shape alone, so
 * it is known when its forward runs. */
#pragma once
#include "gpu/gpu.cuh"

/* What the operations were called with; the forward has no d_out, dq, dk, dv. */
struct attention_call {
	const struct attention *a;
	const struct tokens *t;
	const void *q, *k, *v, *out;
	float *log_sum_exp; /* forward: NULL when nobody differentiates */
	const void *d_out;
	void *dq, *dk, *dv;
};

/* A query at position p of its row sees the keys p - before .. p + after. */
struct attention_shape {
	const uint32_t *rows, *kv_rows; /* device: (row_count + 1) offsets of queries and of keys */
	int row_count;
	int heads, kv_heads, head_dim;
	int before, after;
	float scale, softcap;
	size_t q_stride, kv_stride;
};

/* One tile of queries (or of keys) within its row. */
struct attention_tile {
	uint32_t q_first, kv_first; /* tokens */
	int q_count, kv_count;
	int start; /* within the row */
	int shift; /* position of query 0 */
};

/* Tiles of `size` tokens over rows that only the device knows: row i gets the slots from rows[i] / size + i on, which are never too few, and
 * the slots of all rows are count / size + row_count. */
static inline unsigned attention_slots(size_t count, size_t rows, unsigned size)
{
	return (unsigned)(count / size + rows);
}

/* The tile of a slot. last_first: a row's last tile comes first; under a causal mask the last queries and the first keys take longest, and the
 * longest had better not come last. False for a slot left over. */
__device__ __forceinline__ bool attention_locate(
	const struct attention_shape &s, unsigned size, unsigned slot, bool last_first, struct attention_tile *tile)
{
	int low = 0, high = s.row_count - 1;
	while (low < high) {
		int middle = (low + high + 1) / 2;
		if (s.rows[middle] / size + middle <= slot)
			low = middle;
		else
			high = middle - 1;
	}
	tile->q_first = s.rows[low];
	tile->q_count = (int)(s.rows[low + 1] - tile->q_first);
	tile->kv_first = s.kv_rows[low];
	tile->kv_count = (int)(s.kv_rows[low + 1] - tile->kv_first);
	tile->shift = tile->kv_count - tile->q_count;
	unsigned tiles = ((unsigned)tile->q_count + size - 1) / size, at = slot - (tile->q_first / size + low);
	tile->start = (int)((last_first ? tiles - 1 - at : at) * size);
	return at < tiles;
}

enum attention_way { ATTENTION_CUDNN, ATTENTION_FLASH, ATTENTION_GENERAL };

struct attention_plans {
	enum attention_way fastest;    /* that may be used */
	bool cudnn_always;             /* also where a plan takes longer than it saves; what it refuses is a failure */
	struct attention_cudnn *cudnn; /* NULL until first asked */
};

/* attention.cu: numbers (padded + 1) in elements, and lengths (padded), of `padded` rows; in SCRATCH_OFFSETS. */
struct attention_offsets {
	int32_t *q, *kv, *out, *log_sum_exp, *lengths;
};
bool attention_offsets(
	struct cuda_device *c, const struct attention_call *call, size_t padded, struct attention_offsets *to);

#ifdef HAVE_CUDNN
/* attention_cudnn.cu. False: not served (no library, or it refuses the shape) and nothing was issued, or the device failed; with cudnn_always
 * both are failures. */
bool attention_cudnn(struct cuda_device *c, const struct attention_call *call, bool backward);
void attention_cudnn_free(struct cuda_device *c);
#else
static inline bool attention_cudnn(struct cuda_device *c, const struct attention_call *call, bool backward)
{
	(void)call, (void)backward;
	if (c->attention->cudnn_always)
		cuda_fail(c, SAKIORI_EDEVICE,
			"attention, SAKIORI_CUDA_ATTENTION=cudnn: there is no cuDNN: this backend was compiled without "
			"it");
	return false;
}
static inline void attention_cudnn_free(struct cuda_device *c)
{
	(void)c;
}
#endif

/* attention_flash.cu. Whether it takes this shape on this card; then all launches. delta: (N, heads) floats for the backward. */
bool attention_flash_takes(const struct cuda_device *c, const struct attention_call *call);
void attention_flash_forward(struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s);
void attention_flash_backward(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s, const float *delta);

/* attention_general.cu: any head of up to 256 features, f32 and bf16. */
#define ATTENTION_GENERAL_FEATURES 256
void attention_general_forward(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s);
void attention_general_backward(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s, const float *delta);
