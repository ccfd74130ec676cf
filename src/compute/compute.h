/* SPDX-License-Identifier: Apache-2.0 */
/* The compute seam: one table of operations, implemented by the CPU backend (compute/cpu/) and by sakiori-cuda.so (gpu/).
 * One thread at a time uses a device: the thread that opened it, or the one it was handed to. Different devices are independent.
 *
 * Rules that hold for every operation:
 * - Operations run in the order of the calls and return nothing. The first failure sticks to the device, every later operation
 *   does nothing, and device_sync() returns the failure with its sentence.
 * - Pointers are device memory (from ops->alloc), unless the comment says "host". On the CPU both are the same.
 * - "act" memory holds activations in the device's activation type (device->act): f32, bf16, or f64 for an oracle whose finite
 *   differences are clean. Adapters, their gradients, moments, biases, norm weights and losses are f32 (float *) always.
 * - Matrices are row-major, tokens first: `(N, C)` is N tokens of C features. Where a stride is given it counts elements.
 * - Inputs are borrowed until the operation has run; the caller keeps them unchanged until device_sync() or until an operation
 *   issued later has overwritten them in order. Structs that describe a call are read before the call returns.
 * - Same seed, machine, thread count and calls: the same bits (CPU always, CUDA under `deterministic`). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Raised whenever anything in this header changes; a module built for another number is refused. */
#define DEVICE_ABI 5

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F64 };

struct device_ops;

/* A backend embeds this as its first member. Read-only for callers. */
struct device {
	const struct device_ops *ops;
	enum dtype act;  /* type of activations */
	size_t act_size; /* bytes of one activation element */
	unsigned threads;
	bool records;       /* replay() pays: callers pad micro-batches to few shapes and record them */
	bool joins;         /* room behind inputs and weights pays: see struct lora_linear, x_stride */
	bool geglu;         /* knows ACTIVATION_GEGLU */
	struct fault fault; /* the first failure; code 0 while there is none */
};

/* What a device is opened with. */
struct device_config {
	const char *name;   /* "cpu", "cuda" or "cuda:N" */
	unsigned threads;   /* CPU threads; 0 = as many as the process may use */
	enum dtype act;     /* type of activations and of the big products */
	bool deterministic; /* CUDA: no float atomics, pinned plans; the CPU always is */
	const char *cache;  /* CUDA: folder where measured plans are kept from run to run; NULL: none is kept */
};

/* The one symbol a backend module exports is a function of this type, named sakiori_backend. It refuses an `abi` that is not its
 * own DEVICE_ABI with SAKIORI_EMISMATCH. On success *out is closed with device_close(). */
typedef int sakiori_backend(uint32_t abi, const struct device_config *config, struct device **out, struct fault *f);

/* Opens a device. "cpu" is built in; "cuda[:N]" loads sakiori-cuda.so from the package's library folder, or the
 * module that the environment variable SAKIORI_CUDA_MODULE names. A device that is not there
 * is refused (SAKIORI_EDEVICE); nothing ever falls back to another device. bf16 on a CPU without it: SAKIORI_EUNSUPPORTED.
 * Opening the CPU is cheap (no library is started before the first product), so a codec may open one for itself. */
int device_open(const struct device_config *config, struct device **out, struct fault *f);
/* Frees the device and what it holds, but not memory and weights: free those first. NULL is fine. */
void device_close(struct device *d);
/* Waits for everything issued so far; 0 or the first failure since opening, with its sentence in f (may be NULL). */
int device_sync(struct device *d, struct fault *f);
/* Records a failure if it is the first; for backends and for callers' callbacks. */
void device_fail(struct device *d, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* "f32", "bf16", "f64". */
const char *dtype_name(enum dtype t);
size_t dtype_size(enum dtype t);
/* Pointer to act element number `element`. */
static inline void *act_at(const struct device *d, const void *p, size_t element)
{
	return (char *)p + element * d->act_size;
}

/* ---- tokens --------------------------------------------------------------------------------------------------------- */

/* Which tokens an operation works on. Rows (examples) are packed one after another without padding; row i is the tokens
 * row_offsets[i] .. row_offsets[i+1]-1. */
struct tokens {
	size_t count; /* N: tokens of the buffers */
	const uint32_t *
		row_offsets; /* (rows + 1), first 0, last N; NULL where an operation does not need rows. Rows may be empty */
	size_t rows;
	size_t longest; /* host: no row has more tokens; 0: not known */
	const uint32_t
		*index; /* optional: only these tokens (ascending, each < N) are computed, the others stay untouched */
	size_t index_count;
};

/* ---- weights -------------------------------------------------------------------------------------------------------- */

/* A frozen matrix (rows = outputs, cols = inputs), in layouts that only the backend knows. Made and freed through the ops. */
struct weight;

/* How a weight is kept. F32 and BF16 on every device; a device that lacks another refuses it (SAKIORI_EUNSUPPORTED). */
enum weight_storage {
	WEIGHT_F32,
	WEIGHT_BF16,
	WEIGHT_FP8, /* E4M3, one scale a row (and a column, of the transposed copy); activations are scaled token by token */
	WEIGHT_NF4,    /* 4-bit normal-float blocks, made at load */
	WEIGHT_STORED, /* the blocks of the file (struct weight_source), unpacked when multiplied */
};

/* Block formats of GGUF: 32 elements of a row, little-endian. */
enum weight_blocks {
	WEIGHT_BLOCKS_NONE,
	WEIGHT_BLOCKS_Q4_0, /* f16 d, 16 bytes; element i (i < 16) is the low nibble of byte i, i + 16 its high one: d * (q - 8) */
	WEIGHT_BLOCKS_Q4_1, /* f16 d, f16 m, 16 bytes in the same order: d * q + m */
	WEIGHT_BLOCKS_Q8_0, /* f16 d, 32 int8: d * q */
};

/* What a weight will be used for; each use may cost one packed copy (bf16: 2 bytes an element each). */
enum weight_use {
	WEIGHT_FORWARD = 1,  /* y = x W^T */
	WEIGHT_BACKWARD = 2, /* dx = dy W */
	WEIGHT_ROWS = 4,     /* embedding; free when WEIGHT_FORWARD is there too */
};

/* Writes rows first .. first+count-1 as f32 (count, cols) to the host buffer `out`. Any failure code aborts weight_new and sticks. */
typedef int weight_fill(void *self, size_t first, size_t count, float *out);
/* The same rows as the blocks of the file. */
typedef int weight_fill_stored(void *self, size_t first, size_t count, void *out);

/* Where a weight's values come from. Read for ascending row ranges while weight_new runs; no f32 copy of the whole matrix ever exists. */
struct weight_source {
	weight_fill *fill;
	weight_fill_stored *fill_stored; /* for WEIGHT_STORED; NULL: the file has no blocks that anybody unpacks */
	enum weight_blocks blocks;
	void *self;
	/* Random values that a device may make itself, equal to fill's: element e is normals[h], h being the 16-bit piece number e % 8
	 * (low half first) of rng_block(seed, stream, e / 8). normals: 65536 bf16, host; NULL: only fill knows. */
	const uint16_t *normals;
	uint64_t seed, stream;
};

enum weight_axis { WEIGHT_AXIS_ROWS, WEIGHT_AXIS_COLS };

/* ---- linear layers with adapters ------------------------------------------------------------------------------------ */

/* What is wanted of the gradient dW = dy^T x (rows, cols) of the frozen weight itself. Everything is added to `out` (f32). */
enum weight_gradient_kind {
	WEIGHT_GRADIENT_NONE,
	WEIGHT_GRADIENT_DENSE,    /* out (rows, cols): one layer's scratch */
	WEIGHT_GRADIENT_SKETCHED, /* out (rows, k) += dW Omega, omega (cols, k) */
	WEIGHT_GRADIENT_INDEXED,  /* out (k): dW at indices[i] = row * cols + col */
};

struct weight_gradient {
	enum weight_gradient_kind kind;
	float *out;
	const float *omega;
	const uint64_t *indices;
	size_t k;
};

/* The order of an adapter's products (RunLoRA; algorithms 2.1). The numbers are those of the paper's code. */
enum lora_forward_order {
	LORA_F1, /* y = x W^T + scale (x A^T) B^T */
	LORA_F2, /* y = x (W + scale B A)^T; rounds the adapter away where it is small, unless the merged weight is f32 */
};
enum lora_backward_order {
	LORA_B1, /* dx = dy W + ds A, ds = scale dy B; grad_a = ds^T x; grad_b = scale dy^T s */
	LORA_B4, /* G = dy^T x; grad_a = scale B^T G; grad_b = scale G A^T; dx = dy (W + scale B A) */
	LORA_B5, /* dx = dy (W + scale B A); the gradients as B1 */
};

#define LORA_PARTS_MAX 4

/* The adapter of `rows` consecutive outputs. */
struct lora_part {
	size_t rows;
	size_t rank;    /* 0: no adapter here; a and b are not looked at */
	const float *a; /* (rank, cols) */
	const float *b; /* (rows, rank) */
	float scale;    /* of this part; 0: the linear's */
	float *grad_a;  /* backward: (rank, cols), added to; NULL: not wanted */
	float *grad_b;  /* backward: (rows, rank), added to; NULL: not wanted */
};

/* A linear layer y = x W^T + bias, to whose outputs, part by part, scale * (x A^T) B^T is added. Layers that read the same input are
 * one (q, k, v; gate, up): their weights one above the other, a part each, their outputs side by side. */
struct lora_linear {
	const struct weight *weight; /* (rows, cols) */
	const float *bias;           /* (rows) or NULL */
	float scale;                 /* of the parts that have none of their own */
	size_t parts;                /* 0: no adapter; else the parts' rows add up to the weight's */
	struct lora_part part[LORA_PARTS_MAX];
	enum lora_forward_order forward;
	enum lora_backward_order backward;
	/* Elements from token to token of x; 0: cols. What lies between a token's cols and the next token, and behind the last, is
	 * lora_forward's own to overwrite: a device that joins writes x A^T there and scale * B into the weight's room, and so makes
	 * LORA_F1 one product y = [x | x A^T] [W | scale B]^T where both have room for the ranks. */
	size_t x_stride;
	/* forward (LORA_F1): act (N, cols), dense: what the adapter reads in the place of x; NULL: x */
	const void *adapter_x;
	void *y; /* forward: act (N, rows), written */
	/* act (N, ranks), ranks being the sum of the parts': x A^T, part beside part. Written by forward (NULL: nobody differentiates,
	 * or backward shall compute it again), read by backward. */
	void *s;
	const void *dy; /* backward: act (N, rows) */
	void *ds;       /* backward: act (N, ranks), written: scale * dy B. NULL: not kept */
	/* backward (LORA_B1): act (N, cols), written: the adapter's share ds A of dx, which is then left out of dx. NULL: dx has it */
	void *adapter_dx;
	const struct weight_gradient *gradient; /* backward: NULL: not wanted */
};

static inline float lora_part_scale(const struct lora_linear *l, size_t part)
{
	return l->part[part].scale != 0 ? l->part[part].scale : l->scale;
}

/* ---- dropout -------------------------------------------------------------------------------------------------------- */

#define DROPOUT_ALL 65536u

/* Element c of token t of (N, C) is e = (at[1] + t) * C + c. It stays, DROPOUT_ALL / keep times as large, where the 16-bit piece number e % 8 (low
 * half first) of rng_block(seed, stream + at[0], e / 8) is below keep, and else is 0. */
struct dropout {
	uint32_t keep; /* 1 .. DROPOUT_ALL */
	uint64_t seed, stream;
	const uint64_t *at; /* (2), device memory: so that a recording serves every step */
};

/* ---- norm, activation, rope, attention, loss ------------------------------------------------------------------------- */

enum norm_kind { NORM_RMS }; /* others are refused with SAKIORI_EUNSUPPORTED until they are needed */

/* Gated: h = f(gate) * up. GEGLU is gelu in its tanh form, x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)); a device that lacks it refuses it. */
enum activation_kind { ACTIVATION_SWIGLU, ACTIVATION_GEGLU };

/* Rotary embedding in Hugging Face order: feature i turns with feature i + half, i < half. Features from 2*half on stay. */
struct rope {
	const float *cosine, *sine; /* (positions, half) */
	size_t half;
	size_t head_dim;
};

enum mask_kind {
	MASK_CAUSAL,
	MASK_WINDOW,        /* causal, and only the last `window` keys, the token itself included */
	MASK_BIDIRECTIONAL, /* within the row */
};

/* Grouped-query attention: query head h reads key/value head h / (heads / kv_heads). */
struct attention {
	size_t heads, kv_heads, head_dim;
	enum mask_kind mask;
	size_t window;
	float scale;      /* usually 1/sqrt(head_dim) */
	float softcap;    /* scores become softcap * tanh(scores / softcap); 0 = none */
	size_t q_stride;  /* elements from token to token of q and dq, at least heads * head_dim */
	size_t kv_stride; /* the same of k, v, dk, dv */
	/* Generation with a cache: keys and values have rows of their own, (rows + 1) offsets; the queries of a row are its last
	 * tokens. NULL: the same rows as the queries. Forward only. */
	const uint32_t *kv_offsets;
};

/* The loss over hidden states and an output head, in chunks of tokens. labels[t] is what hidden[t] must predict (already
 * shifted by the caller); -1 is ignored. When tokens->index is given only its tokens are multiplied and all others count as
 * ignored; UINT32_MAX in it is an empty place. */
struct cross_entropy {
	const int32_t *labels;       /* (N) */
	const float *weights;        /* (N): factor of each token's loss and gradient, or NULL for 1 */
	const float *gradient_scale; /* (1): d_hidden is the gradient of gradient_scale * sum(weight * loss) */
	float softcap;               /* of the logits; 0 = none */
	double *sum;                 /* (1), added to: sum of weight * loss, nats; NULL: not wanted */
	float *losses;               /* (N): loss of each labelled token, unweighted, 0 for others; NULL: not wanted */
	uint8_t *correct; /* (N): 1 where the label is the argmax or is ignored, 0 elsewhere; NULL: not wanted */
};

/* ---- optimizer ------------------------------------------------------------------------------------------------------ */

struct adamw {
	float lr, beta1, beta2, epsilon, weight_decay; /* decoupled decay, bias-corrected, as torch.optim.AdamW */
	uint64_t step;                                 /* of this update, from 1 */
	float gradient_scale;                          /* gradients are multiplied by it first (clipping, averaging) */
};

/* ---- quantization (algorithms 6.2) ------------------------------------------------------------------------------------ */

#define QUANTIZE_BLOCK 64
/* Blocks (and scales) of n elements; the last one may be short. */
static inline size_t quantize_blocks(size_t n)
{
	return (n + QUANTIZE_BLOCK - 1) / QUANTIZE_BLOCK;
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

/* Bytes. What the driver keeps for itself (a CUDA context) is not counted in used and peak. */
struct device_memory {
	size_t used,
		peak; /* allocated through this device: buffers, weights, working space; the most since it was opened */
	size_t free, total; /* of the whole device; 0 where nobody knows */
};

/* Copies beside the computation are told apart by a slot below this number. */
#define DEVICE_COPY_SLOTS 8

/* ---- the table ------------------------------------------------------------------------------------------------------ */

struct device_ops {
	uint32_t abi;     /* DEVICE_ABI */
	const char *name; /* "cpu", "cuda" */
	void (*close)(struct device *d);
	void (*sync)(struct device *d);

	/* Memory. alloc: zeroed, at least 64-byte aligned; NULL after a failure (which sticks) and for 0 bytes. */
	void *(*alloc)(struct device *d, size_t bytes);
	void (*release)(struct device *d, void *p); /* NULL is fine */
	/* host -> device and device -> host. download waits for what was issued before it; after a failure it zeroes the host buffer. */
	void (*upload)(struct device *d, void *to, const void *host, size_t bytes);
	void (*download)(struct device *d, void *host, const void *from, size_t bytes);
	void (*zero)(struct device *d, void *p, size_t bytes);
	void (*copy)(struct device *d, void *to, const void *from, size_t bytes); /* not overlapping */
	void (*memory)(struct device *d, struct device_memory *out);

	/* Host memory that the device copies from and to at full speed (CUDA: page-locked). NULL after a failure, which sticks. */
	void *(*host_alloc)(struct device *d, size_t bytes);
	void (*host_release)(struct device *d, void *p); /* NULL is fine */
	/* Copies that run beside the operations. Both begin when everything issued before is done; nothing issued later may touch either end
	 * until copy_wait(slot) was issued, after which operations wait for the slot's latest copy. */
	void (*send)(struct device *d, unsigned slot, void *host, const void *from, size_t bytes);
	void (*fetch)(struct device *d, unsigned slot, void *to, const void *host, size_t bytes);
	void (*copy_wait)(struct device *d, unsigned slot);

	/* A sequence of operations that comes again with the same arguments (pointers, counts, host structs; what lies in device memory may
	 * differ) is recorded under a key of the caller's: if (!replay(key)) { record(key); operations; record_end(); }. replay issues the
	 * sequence and returns true once it is recorded. Between record and record_end nothing may be allocated, uploaded, downloaded or
	 * synchronized. A device that does not record returns false and runs the operations. */
	bool (*replay)(struct device *d, uint64_t key);
	void (*record)(struct device *d, uint64_t key);
	void (*record_end)(struct device *d);

	/* n elements, f32 <-> act; bf16 rounds to nearest even. Both in device memory. */
	void (*to_act)(struct device *d, void *act, const float *x, size_t n);
	void (*from_act)(struct device *d, float *x, const void *act, size_t n);
	void (*axpy)(struct device *d, float *y, float factor, const float *x, size_t n); /* y += factor * x */
	void (*scale)(struct device *d, float *x, float factor, size_t n);
	void (*add)(struct device *d, void *y, const void *x, size_t n); /* act: y += x */

	/* Weights. A bf16 device takes no WEIGHT_F32; other devices round to bf16 when asked to. uses: enum weight_use bits; a weight with
	 * WEIGHT_ROWS is F32 or BF16. room: columns kept free behind each row for adapters (struct lora_linear, x_stride); devices that do
	 * not join ignore it. NULL after a failure. */
	struct weight *(*weight_new)(struct device *d, size_t rows, size_t cols, enum weight_storage storage,
		unsigned uses, size_t room, const struct weight_source *source);
	void (*weight_free)(struct device *d, struct weight *w); /* NULL is fine */
	/* A new weight of the n listed (host indices) rows or columns, in the order of the list; without room. */
	struct weight *(*weight_slice)(
		struct device *d, const struct weight *w, enum weight_axis axis, const uint32_t *indices, size_t n);
	/* Overwrites elements: host indices (row * cols + col) and values. Visible in every layout after weight_repack. */
	void (*weight_write)(
		struct device *d, struct weight *w, const uint64_t *indices, const float *values, size_t n);
	/* A new weight W + scale * B A without room, summed in f32 and rounded once. a (rank, cols), b (rows, rank). */
	struct weight *(*weight_merged)(
		struct device *d, const struct weight *w, const float *a, const float *b, size_t rank, float scale);
	/* Makes all layouts agree after weight_write. */
	void (*weight_repack)(struct device *d, struct weight *w);
	/* host out (count, cols): rows first .. first+count-1 as they are stored. */
	void (*weight_read)(struct device *d, const struct weight *w, size_t first, size_t count, float *out);
	/* Bytes that the weight occupies, all layouts together. */
	size_t (*weight_bytes)(const struct weight *w);

	/* y (N, rows) = x (N, cols) W^T + bias (NULL: none). */
	void (*matmul)(struct device *d, size_t n, const void *x, const struct weight *w, const float *bias, void *y);
	/* dx (N, cols) = dy (N, rows) W, or += when accumulate. */
	void (*matmul_backward)(
		struct device *d, size_t n, const void *dy, const struct weight *w, void *dx, bool accumulate);

	/* y of the layer. Base and adapter are added before the base is rounded to bf16: an adapter of a thousandth of the base must still
	 * count. */
	void (*lora_forward)(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *linear);
	/* dx (N, cols) = (or +=) dy W + scale * (dy B) A; NULL: not wanted (the first layer). A bf16 dx may be rounded after each term: what that
	 * loses is below the rounding of dx itself. grad_a, grad_b and gradient hooks are added to.
	 * dx may not overlap x or dy. x NULL: grad_a is left to lora_gradient_a, for which ds is kept (LORA_B1 and B5 with s; no hook, no
	 * row_squares). With dropout x is what the adapter read. row_squares: NULL, or (rows) doubles to which every row's own squared norm of (grad_a, grad_b) is added; needs
	 * t->row_offsets. */
	void (*lora_backward)(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *linear,
		void *dx, bool accumulate, double *row_squares);
	/* grad_a += ds^T x, ds being what lora_backward left. */
	void (*lora_gradient_a)(
		struct device *d, const struct tokens *t, const void *x, const struct lora_linear *linear);

	/* y (N, C) = x dropped, tokens of x being x_stride elements apart (0: c). */
	void (*dropout_forward)(
		struct device *d, const struct dropout *r, size_t n, size_t c, const void *x, size_t x_stride, void *y);
	/* dx (N, C) += dy dropped. */
	void (*dropout_backward)(
		struct device *d, const struct dropout *r, size_t n, size_t c, const void *dy, void *dx);

	/* A hint, right before the norm or activation that writes x (N, C): the next product to read x, before it changes, is with w, for this use. A
	 * device whose product wants x in another form (WEIGHT_FP8: scaled and rounded token by token) makes that in the pass that writes x. */
	void (*next_reader)(struct device *d, const void *x, const struct weight *w, enum weight_use use);

	/* out (N, C) = rows ids[t] of w (needs WEIGHT_ROWS or WEIGHT_FORWARD). An id outside the matrix is a failure. */
	void (*embedding)(struct device *d, size_t n, const uint32_t *ids, const struct weight *w, void *out);

	/* sum = x + delta (delta NULL: sum = x, and sum may be NULL); y = sum / rms(sum) * weight, tokens of y being y_stride elements apart
	 * (0: c; what lies between stays). sum may be x. inverse_rms (N), kept for the backward. weight (C). Called again with delta NULL it recomputes y from the kept sum. */
	void (*norm_forward)(struct device *d, enum norm_kind kind, size_t n, size_t c, const void *x,
		const void *delta, void *sum, const float *weight, float epsilon, void *y, size_t y_stride,
		float *inverse_rms);
	/* dx (N, C) += gradient through the norm: dx holds the residual stream's gradient already. x is the kept sum. */
	void (*norm_backward)(struct device *d, enum norm_kind kind, size_t n, size_t c, const void *dy, const void *x,
		const float *weight, const float *inverse_rms, void *dx);

	/* Each head of x (N, heads, head_dim) by itself: y = x / rms(x) * weight; tokens lie x_stride and y_stride elements apart, and y may be x.
	 * weight (head_dim). inverse_rms (N, heads), kept for the backward; NULL when nobody differentiates. */
	void (*head_norm_forward)(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
		const void *x, size_t x_stride, const float *weight, float epsilon, void *y, size_t y_stride,
		float *inverse_rms);
	/* dx, tokens dx_stride elements apart, holds the gradient of y and becomes that of x, which is what went in. */
	void (*head_norm_backward)(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
		const void *x, size_t x_stride, const float *weight, const float *inverse_rms, void *dx,
		size_t dx_stride);

	/* In place on x (N, heads, head_dim), tokens `stride` elements apart; positions (N) count from 0 in each row. backward turns back. */
	void (*rope_forward)(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *x,
		size_t heads, size_t stride);
	void (*rope_backward)(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *dx,
		size_t heads, size_t stride);

	/* out (N, heads * head_dim) dense; log_sum_exp (N, heads), natural, NULL when nobody differentiates; a device may order it its own way for a
	 * backward with the same struct attention and host fields of t. t needs row_offsets. */
	void (*attention_forward)(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
		const void *k, const void *v, void *out, float *log_sum_exp);
	/* Writes (does not add) dq, dk, dv; d_out is dense like out. dq, dk, dv may not overlap any input. */
	void (*attention_backward)(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
		const void *k, const void *v, const void *out, const float *log_sum_exp, const void *d_out, void *dq,
		void *dk, void *dv);

	/* h (N, width) = f(gate) * up, tokens of h being h_stride elements apart (0: width; what lies between stays); gate_up (N, 2 * width)
	 * holds a token's gate and behind it its up. */
	void (*activation_forward)(struct device *d, enum activation_kind kind, size_t n, size_t width,
		const void *gate_up, void *h, size_t h_stride);
	/* In place: gate becomes d_gate, up becomes d_up. If h is not NULL the recomputed f(gate) * up is written there; h may be dh. */
	void (*activation_backward)(struct device *d, enum activation_kind kind, size_t n, size_t width, const void *dh,
		void *gate_up, void *h);

	/* hidden (N, C), head (V, C). d_hidden (N, C), NULL for the loss alone, may be hidden: zero for tokens that count nothing. The head
	 * needs WEIGHT_FORWARD, and WEIGHT_BACKWARD for d_hidden. At most one chunk of (tokens, V) exists at a time. */
	void (*cross_entropy)(struct device *d, const struct cross_entropy *c, const struct tokens *t,
		const void *hidden, const struct weight *head, void *d_hidden);
	/* logits (N, V) in f32, for generation. */
	void (*head_logits)(struct device *d, size_t n, const void *hidden, const struct weight *head, float *logits);

	/* One fused update over the flat parameter buffer. */
	void (*adamw)(struct device *d, const struct adamw *a, float *parameters, const float *gradients, float *first,
		float *second, size_t n);
	/* out (1) = sum of squares in a fixed order, accumulated in double. */
	void (*sum_squares)(struct device *d, const float *x, size_t n, double *out);
	/* Sums the flat gradient buffer over the devices that train together. One device: does nothing. */
	void (*reduce)(struct device *d, float *x, size_t n);

	/* Blocks of QUANTIZE_BLOCK consecutive elements: scale = max|x|/127 as f16 rounded up; value = floor(x/scale) + [u < frac],
	 * clamped to +-127; a block where max|x|/127 is 0 in f32 has scale 0 and zero values. u of element i is number i % 4 of
	 * rng_block(seed, stream, i / 4), 24 bits. A block with an element that is not finite, or too large for an f16 scale, gets scale
	 * 0x7e00 (NaN) and zero values: the caller must refuse it. */
	void (*quantize)(struct device *d, int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed,
		uint64_t stream);
	/* out[i] = values[i] * scale of its block, the same bits on every device. */
	void (*dequantize)(struct device *d, float *out, const int8_t *values, const uint16_t *scales, size_t n);
};
