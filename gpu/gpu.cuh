/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA backend from inside: the device, its memory and working space, products, and the operations that its table lists.
 * Shapes and meanings are documented in compute/compute.h; file for file the mirror of compute/cpu/. The device's thread.
 *
 * Everything is issued on one stream, so operations run in order. What an operation launches depends on host arguments alone, never on
 * device memory, and it neither allocates nor waits once its working space has grown to size and its plans are made: so a
 * sequence that ran once can be captured into a graph. No float atomics of our own (cuDNN's
 * attention backward has them, but under `deterministic`). Activations are bf16 or f32; an f64 device is refused. */
#pragma once
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include <type_traits>

extern "C" {
#include "compute/compute.h"
}

/* Buffers that live as long as the device and only grow, one a purpose. */
enum cuda_scratch_slot {
	/* within one operation: a chunk of logits, an unpacked or merged weight, attention's sums. cuda_gemm never takes it, for its operands
	 * may lie there: a tuning product's output has a place behind SCRATCH_GEMM */
	SCRATCH_LARGE,
	SCRATCH_LOGITS,   /* a chunk of logits of a packed head, which lies unpacked in SCRATCH_LARGE */
	SCRATCH_MERGE,    /* adapter factors of a merged weight, in the activation type */
	SCRATCH_TOKENS_X, /* gathered tokens */
	SCRATCH_TOKENS_DX,
	SCRATCH_TOKENS_Y,
	SCRATCH_TOKENS_ADAPTER,
	SCRATCH_LORA_A, /* adapter factors in the activation type */
	SCRATCH_LORA_B,
	SCRATCH_LORA_S,
	SCRATCH_LORA_DS,
	SCRATCH_LORA_GRADIENT,
	SCRATCH_OFFSETS, /* attention: ragged offsets and lengths */
	SCRATCH_HIDDEN,  /* loss: gathered hidden states, then their gradient */
	SCRATCH_LOSS,    /* losses of a chunk */
	SCRATCH_PARTIAL, /* partial sums of reductions */
	SCRATCH_FP8,     /* an activation in E4M3 and its scales */
	SCRATCH_GEMM,    /* cuBLASLt's working space; of a fixed size */
	SCRATCH_COUNT,
};

/* What only a kernel can find wrong. */
enum cuda_trouble {
	TROUBLE_ID,    /* a token's id is not a row of the embedding */
	TROUBLE_LABEL, /* a label is not a row of the head */
	TROUBLE_COUNT,
};

struct gemm_plans;      /* gemm.cu */
struct attention_plans; /* attention.cu */
struct recordings;      /* record.cu */

struct weight_staging; /* weight.cu */

/* What alloc gave. */
struct allocation {
	void *p;
	size_t bytes;
};

/* Uploads up to a piece go through a ring of page-locked memory, so that they wait for nothing. */
#define UPLOAD_PIECES 8
#define UPLOAD_PIECE_BYTES ((size_t)256 << 10)

/* An activation (n, width) at x, of which SCRATCH_FP8 holds or is to hold the E4M3 form. x NULL: none. */
struct fp8_form {
	const void *x;
	size_t n, width;
};

struct cuda_device {
	struct device base;
	int ordinal;
	int architecture; /* 90 for compute capability 9.0 */
	int multiprocessors;
	size_t l2_bytes;
	bool deterministic;
	char name[256];   /* the card's */
	char cache[4096]; /* folder of kept plans; "" = none */
	cudaStream_t stream;
	cudaStream_t copies; /* send and fetch */
	cudaEvent_t issued, copied[DEVICE_COPY_SLOTS];
	unsigned copies_pending; /* a bit a slot: `stream` has not waited for its latest copy */
	void *upload_ring;       /* page-locked, UPLOAD_PIECES pieces; an event each: the piece was copied */
	cudaEvent_t uploaded[UPLOAD_PIECES];
	unsigned upload_next;
	struct allocation *allocations; /* of alloc: release has to know the bytes */
	size_t allocation_count, allocation_capacity;
	struct weight_staging *staging; /* weight.cu: while weights are made; NULL: none */
	cublasLtHandle_t lt;
	struct gemm_plans *plans;          /* NULL until the first product */
	struct attention_plans *attention; /* NULL until the first attention */
	struct recordings *recordings;     /* NULL until the first recording */
	/* (TROUBLE_COUNT) words of page-locked host memory, 0 at first. A kernel that finds a trouble stores 1 in its word; sync() and download()
	 * look at them once the stream has been waited for, and record the failure. */
	uint32_t *trouble;
	struct fp8_form fp8_wanted; /* told by next_reader; n is not known yet */
	struct fp8_form fp8_ready;  /* until the product it was made for, or until another takes the place */
	bool capturing;             /* between record and record_end of a sequence that is being captured */
	void *scratch[SCRATCH_COUNT];
	size_t scratch_bytes[SCRATCH_COUNT];
	size_t used, peak; /* bytes, see struct device_memory */
};

static inline struct cuda_device *cuda_device(struct device *d)
{
	return (struct cuda_device *)d;
}

/* ---- device.cu ---- */

/* The first failure sticks. Never called with text of users. */
void cuda_fail(struct cuda_device *c, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* True when e is cudaSuccess and the device is well; else records what failed: out of memory as SAKIORI_ENOMEM, all else SAKIORI_EDEVICE. */
bool cuda_well(struct cuda_device *c, cudaError_t e, const char *what);
/* After a kernel launch: records a launch that was refused. */
static inline bool cuda_launched(struct cuda_device *c, const char *what)
{
	return cuda_well(c, cudaGetLastError(), what);
}
/* Waits for everything issued, and records what went wrong on the device or what its kernels found. False when the device has failed. */
bool cuda_finish(struct cuda_device *c);
/* Blocks for a grid-stride loop over n items, `each` items a block: enough to fill the card, at least 1. */
unsigned cuda_blocks(const struct cuda_device *c, size_t n, size_t each);

/* ---- memory.cu ---- */

/* Device memory, counted in used and peak; not zeroed; NULL after recording the failure (while capturing always a failure). */
void *cuda_memory_new(struct cuda_device *c, size_t bytes, const char *what);
void cuda_memory_free(struct cuda_device *c, void *p, size_t bytes);
/* 256-byte aligned, not zeroed; NULL after recording a failure. The content is lost when the buffer grows, and every recording with it. */
void *cuda_scratch(struct cuda_device *c, enum cuda_scratch_slot slot, size_t bytes);
/* What is issued from now on comes after every copy that send and fetch began. */
void cuda_copies_join(struct cuda_device *c);

/* Activations as floats and back, rounding to nearest even. */
__device__ __forceinline__ float act_load(float x)
{
	return x;
}
__device__ __forceinline__ float act_load(__nv_bfloat16 x)
{
	return __bfloat162float(x);
}
template <typename T> __device__ __forceinline__ T act_store(float x);
template <> __device__ __forceinline__ float act_store<float>(float x)
{
	return x;
}
template <> __device__ __forceinline__ __nv_bfloat16 act_store<__nv_bfloat16>(float x)
{
	return __float2bfloat16_rn(x);
}

/* 16 bytes of activations (8 bf16 or 4 f32), for aligned accesses. */
template <typename T> struct alignas(16) act_vector {
	static constexpr int count = 16 / sizeof(T);
	T at[count];
};

/* ---- record.cu: replay, record, record_end ---- */
/* Forgets every recording: what it points at has moved. */
void cuda_recordings_drop(struct cuda_device *c);
void cuda_recordings_free(struct cuda_device *c);

/* ---- gemm.cu: products by cuBLASLt ---- */

enum gemm_type { GEMM_F32, GEMM_BF16, GEMM_E4M3 };

/* Of activations. */
static inline enum gemm_type gemm_act(const struct cuda_device *c)
{
	return c->base.act == DTYPE_BF16 ? GEMM_BF16 : GEMM_F32;
}

/* out (m, n) = alpha * op(a) op(b) + beta * add, row-major; sums are f32 (TF32 never), rounded once at the end (a bf16 out that adds to itself: with
 * alpha and beta 1 and without rounds_twice, else maybe twice). Distances between rows in elements. */
struct gemm {
	size_t m, n, k;
	bool a_transposed; /* a lies as (k, m), else (m, k) */
	bool b_transposed; /* b lies as (n, k), else (k, n) */
	size_t a_row, b_row, out_row;
	enum gemm_type a_type, b_type, out_type;
	float alpha, beta;
	bool rounds_twice; /* a bf16 out that adds to itself: the product may be rounded before the sum, which is faster */
	const void *add;      /* beta != 0: (m, n) of out_type, out_row apart; NULL: out itself */
	const float *a_scale; /* E4M3: (m), a factor for each row of op(a); both or none */
	const float *b_scale; /* E4M3: (n), for each column of op(b) */
};
/* E4M3 needs a not transposed, b transposed, k and row distances multiples of 16. The plan is the fastest of those that cuBLASLt offers, measured when
 * the shape comes first (not while capturing, not under deterministic), kept in the cache folder. */
void cuda_gemm(struct cuda_device *c, const struct gemm *g, const void *a, const void *b, void *out);
/* Makes the plan of a product that will add to `out` (beta != 0) while out holds nothing yet: measuring spoils it. Without this such a product is
 * measured only if a small output suffices. Does nothing once the plan is made. */
void cuda_gemm_plan(struct cuda_device *c, const struct gemm *g, const void *a, const void *b, void *out);
/* Whether the plan is made, for operands aligned as these pointers are; they are not read. */
bool cuda_gemm_planned(struct cuda_device *c, const struct gemm *g, const void *a, const void *b, const void *out);
void cuda_gemm_plans_free(struct cuda_device *c);

/* ---- weight.cu, weight_packed.cu ---- */

/* All arrays lie in one piece of memory that begins at `data`, each aligned to 256 bytes. */
struct weight {
	size_t rows, cols;
	size_t row; /* elements from row to row of data: cols, and room for adapters behind them in bf16 weights made with it */
	enum weight_storage storage;
	unsigned uses;
	/* F32, BF16: (rows, row) of the activation type (BF16 on an f32 device: values rounded to bf16). FP8: E4M3 (rows, cols). NF4, Q4_0,
	 * Q4_1: elements one after another, two a byte, low nibble first. Q8_0: int8 (rows, cols) */
	void *data;
	float *row_scale; /* FP8: (rows) */
	void *transposed; /* FP8 with WEIGHT_BACKWARD: E4M3 (cols, rows) */
	float *col_scale; /* FP8: (cols), of the transposed copy */
	__half *scale;    /* NF4 and STORED: (rows, cols / block), the blocks' d */
	__half *least;    /* Q4_1: the blocks' m */
	enum weight_blocks blocks;
	size_t block; /* elements a scale: 64 for NF4, 32 for STORED */
	size_t bytes; /* of everything above */
};
/* Whether the device is well and the weight was made for this use; records a failure if not. */
bool cuda_weight_may(struct cuda_device *c, const struct weight *w, enum weight_use use);
/* (rows, cols) in the activation type, rows being w->row apart: w->data itself for F32 and BF16, else unpacked into SCRATCH_LARGE (valid until
 * that slot is used again). */
const void *cuda_weight_plain(struct cuda_device *c, const struct weight *w);
/* The same of W + scale * B A of all parts, in SCRATCH_LARGE; B A may be rounded before the sum, which is rounded anyway. */
const void *cuda_weight_with_adapter(struct cuda_device *c, const struct lora_linear *l);
/* Unpacks rows first .. first+count-1 of an NF4 or STORED weight to out (count, cols) in the activation type. */
void cuda_weight_unpack(struct cuda_device *c, const struct weight *w, size_t first, size_t count, void *out);
/* The same rows of any weight as f32, exactly as they are stored. */
void cuda_weight_values(struct cuda_device *c, const struct weight *w, size_t first, size_t count, float *out);
/* Packs f32 rows (device memory) as NF4 or E4M3 into the weight's arrays (not into the transposed copy). */
void cuda_weight_pack(struct cuda_device *c, struct weight *w, size_t first, size_t count, const float *rows);

/* Fills the transposed copy of an FP8 weight from (rows, cols) in the activation type. */
void cuda_weight_pack_columns(struct cuda_device *c, struct weight *w, const void *plain);
/* Splits rows of GGUF blocks (device memory) into the weight's arrays. */
void cuda_weight_split(struct cuda_device *c, struct weight *w, size_t first, size_t count, const void *blocks);
/* Bytes of one block of the file. */
size_t cuda_weight_block_bytes(enum weight_blocks blocks);
/* Frees what weight_new staged its rows in. */
void cuda_weight_staging_free(struct cuda_device *c);

/* ---- linear.cu ---- */
/* out (n, rows) = x W^T (+ bias) (+ out when add): whatever the storage. Tokens of x are x_row elements apart. */
void cuda_linear(struct cuda_device *c, size_t n, const void *x, size_t x_row, const struct weight *w,
	const float *bias, void *y, bool add);
/* The same with add is about to come, and y holds nothing yet: see cuda_gemm_plan. */
void cuda_linear_plan(struct cuda_device *c, size_t n, const void *x, size_t x_row, const struct weight *w, void *y);
/* dx (n, cols) = dy W (+ dx when add). */
void cuda_linear_backward(struct cuda_device *c, size_t n, const void *dy, const struct weight *w, void *dx, bool add);
void cuda_linear_backward_plan(struct cuda_device *c, size_t n, const void *dy, const struct weight *w, void *dx);
/* y (n, rows) = bias in every token, or += when add. */
void cuda_bias(struct cuda_device *c, size_t n, size_t rows, const float *bias, void *y, bool add);
#define E4M3_MAX 448.0f
/* Where an operation that writes the activation (n, width) at x in bf16 leaves its E4M3 form: for each token the values and a scale.
 * values NULL: nobody wants it. */
struct fp8_place {
	__nv_fp8_e4m3 *values; /* (n, width) */
	float *scales;         /* (n) */
};
struct fp8_place cuda_fp8_wanted(struct cuda_device *c, size_t n, size_t width, const void *x);
/* Whoever was to read x has read it in another form, or x changes. */
void cuda_fp8_forget(struct cuda_device *c, const void *x);

/* ---- the operations, by file: each is declared with the type of its place in the table ---- */
#define CUDA_OPERATION(name) std::remove_pointer<decltype(device_ops::name)>::type cuda_##name

/* memory.cu */
CUDA_OPERATION(alloc);
CUDA_OPERATION(release);
CUDA_OPERATION(upload);
CUDA_OPERATION(download);
CUDA_OPERATION(zero);
CUDA_OPERATION(copy);
CUDA_OPERATION(memory);
CUDA_OPERATION(host_alloc);
CUDA_OPERATION(host_release);
CUDA_OPERATION(send);
CUDA_OPERATION(fetch);
CUDA_OPERATION(copy_wait);
/* record.cu */
CUDA_OPERATION(replay);
CUDA_OPERATION(record);
CUDA_OPERATION(record_end);
/* weight.cu */
CUDA_OPERATION(weight_new);
CUDA_OPERATION(weight_free);
CUDA_OPERATION(weight_slice);
CUDA_OPERATION(weight_write);
CUDA_OPERATION(weight_merged);
CUDA_OPERATION(weight_repack);
CUDA_OPERATION(weight_read);
CUDA_OPERATION(weight_bytes);
CUDA_OPERATION(embedding);
/* linear.cu */
CUDA_OPERATION(next_reader);
CUDA_OPERATION(matmul);
CUDA_OPERATION(matmul_backward);
CUDA_OPERATION(head_logits);
/* lora.cu */
CUDA_OPERATION(lora_forward);
CUDA_OPERATION(lora_backward);
CUDA_OPERATION(lora_gradient_a);
CUDA_OPERATION(dropout_forward);
CUDA_OPERATION(dropout_backward);
/* norm.cu */
CUDA_OPERATION(norm_forward);
CUDA_OPERATION(norm_backward);
CUDA_OPERATION(head_norm_forward);
CUDA_OPERATION(head_norm_backward);
/* rope.cu */
CUDA_OPERATION(rope_forward);
CUDA_OPERATION(rope_backward);
/* attention.cu */
CUDA_OPERATION(attention_forward);
CUDA_OPERATION(attention_backward);
void cuda_attention_plans_free(struct cuda_device *c);
/* activation.cu */
CUDA_OPERATION(activation_forward);
CUDA_OPERATION(activation_backward);
/* loss.cu */
CUDA_OPERATION(cross_entropy);
/* vector.cu */
CUDA_OPERATION(to_act);
CUDA_OPERATION(from_act);
CUDA_OPERATION(axpy);
CUDA_OPERATION(scale);
CUDA_OPERATION(add);
CUDA_OPERATION(adamw);
CUDA_OPERATION(sum_squares);
CUDA_OPERATION(reduce);
/* quantize.cu */
CUDA_OPERATION(quantize);
CUDA_OPERATION(dequantize);
