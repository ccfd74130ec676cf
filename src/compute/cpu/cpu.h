/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU backend from inside: the device, how its threads share work, and the operations that its table lists.
 * Shapes and meanings are documented in compute/compute.h. Same threads as there. */
#pragma once
#include "compute/compute.h"

struct gemm_engine;

/* Buffers that live as long as the device and only grow, one a purpose, so that a step allocates nothing after its first run. */
enum cpu_scratch_slot {
	SCRATCH_TOKENS_X,
	SCRATCH_TOKENS_DX,
	SCRATCH_TOKENS_Y,
	SCRATCH_TOKENS_S,
	SCRATCH_TOKENS_ADAPTER,
	SCRATCH_LORA_A,
	SCRATCH_LORA_B,
	SCRATCH_LORA_DS,
	SCRATCH_LORA_GRADIENT,
	SCRATCH_LORA_DENSE,  /* dW */
	SCRATCH_LORA_MERGED, /* W + scale B A */
	SCRATCH_HOOK,
	SCRATCH_ATTENTION,
	SCRATCH_LOGITS,
	SCRATCH_LOGITS_GRADIENT,
	SCRATCH_HIDDEN,
	SCRATCH_INDEX,
	SCRATCH_PARTIAL,
	SCRATCH_PANEL, /* of a packed weight */
	SCRATCH_GEMM,  /* oneDNN's own */
	SCRATCH_COUNT,
};

struct cpu_device {
	struct device base;
	struct gemm_engine *gemm; /* NULL until the first product */
	void *scratch[SCRATCH_COUNT];
	size_t scratch_bytes[SCRATCH_COUNT];
	size_t used, peak; /* bytes of all that cpu_memory_new gave */
};

static inline struct cpu_device *cpu_device(struct device *d)
{
	return (struct cpu_device *)d;
}

sakiori_backend cpu_open;

/* 64-byte aligned, not zeroed; NULL after recording SAKIORI_ENOMEM. The content is lost when the buffer grows. */
void *cpu_scratch(struct device *d, enum cpu_scratch_slot slot, size_t bytes);
void *cpu_memory_new(struct device *d, size_t bytes); /* zeroed, 64-byte aligned, counted; or NULL */
void cpu_memory_free(struct device *d, void *p);      /* NULL is fine */

/* Runs body over [0, n) on the device's threads: contiguous ranges that depend on n, grain and the thread count alone; no
 * thread gets less than about `grain` items. `thread` numbers the range, from 0. */
typedef void cpu_body(void *args, size_t begin, size_t end, unsigned thread);
void cpu_run(struct device *d, size_t n, size_t grain, cpu_body *body, void *args);

/* The variant of a template's function for the device's activation type. */
#define CPU_PICK(d, function)                                                                                          \
	((d)->act == DTYPE_F32 ? function##_f32 : (d)->act == DTYPE_BF16 ? function##_bf16 : function##_f64)

/* device.c */
void cpu_zero(struct device *d, void *p, size_t bytes);
void cpu_copy(struct device *d, void *to, const void *from, size_t bytes);

/* vector.c */
void cpu_to_act(struct device *d, void *act, const float *x, size_t n);
void cpu_from_act(struct device *d, float *x, const void *act, size_t n);
void cpu_axpy(struct device *d, float *y, float factor, const float *x, size_t n);
void cpu_scale(struct device *d, float *x, float factor, size_t n);
void cpu_add(struct device *d, void *y, const void *x, size_t n);
void cpu_adamw(struct device *d, const struct adamw *a, float *parameters, const float *gradients, float *first,
	float *second, size_t n);
void cpu_sum_squares(struct device *d, const float *x, size_t n, double *out);
void cpu_reduce(struct device *d, float *x, size_t n);
void cpu_quantize(
	struct device *d, int8_t *values, uint16_t *scales, const float *x, size_t n, uint64_t seed, uint64_t stream);
void cpu_dequantize(struct device *d, float *out, const int8_t *values, const uint16_t *scales, size_t n);

/* weight.c */
struct weight *cpu_weight_new(struct device *d, size_t rows, size_t cols, enum weight_storage storage, unsigned uses,
	size_t room, const struct weight_source *source);
void cpu_weight_free(struct device *d, struct weight *w);
struct weight *cpu_weight_slice(
	struct device *d, const struct weight *w, enum weight_axis axis, const uint32_t *indices, size_t n);
void cpu_weight_write(struct device *d, struct weight *w, const uint64_t *indices, const float *values, size_t n);
struct weight *cpu_weight_merged(
	struct device *d, const struct weight *w, const float *a, const float *b, size_t rank, float scale);
void cpu_weight_repack(struct device *d, struct weight *w);
void cpu_weight_read(struct device *d, const struct weight *w, size_t first, size_t count, float *out);
size_t cpu_weight_bytes(const struct weight *w);
void cpu_embedding(struct device *d, size_t n, const uint32_t *ids, const struct weight *w, void *out);

/* linear.c */
void cpu_matmul(struct device *d, size_t n, const void *x, const struct weight *w, const float *bias, void *y);
/* As cpu_matmul, tokens of x being x_row apart. add: added to what y holds, in one rounding, so that what is far smaller than the product
 * still counts. */
void cpu_linear(struct device *d, size_t n, const void *x, size_t x_row, const struct weight *w, const float *bias,
	void *y, bool add);
void cpu_matmul_backward(struct device *d, size_t n, const void *dy, const struct weight *w, void *dx, bool accumulate);
void cpu_head_logits(struct device *d, size_t n, const void *hidden, const struct weight *head, float *logits);

/* lora.c */
void cpu_lora_forward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l);
void cpu_lora_backward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l, void *dx,
	bool accumulate, double *row_squares);
void cpu_lora_gradient_a(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l);

/* dropout.c */
void cpu_dropout_forward(
	struct device *d, const struct dropout *r, size_t n, size_t width, const void *x, size_t x_stride, void *y);
void cpu_dropout_backward(struct device *d, const struct dropout *r, size_t n, size_t width, const void *dy, void *dx);

/* norm.c */
void cpu_norm_forward(struct device *d, enum norm_kind kind, size_t n, size_t c, const void *x, const void *delta,
	void *sum, const float *weight, float epsilon, void *y, size_t y_stride, float *inverse_rms);
void cpu_norm_backward(struct device *d, enum norm_kind kind, size_t n, size_t c, const void *dy, const void *x,
	const float *weight, const float *inverse_rms, void *dx);

void cpu_head_norm_forward(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
	const void *x, size_t x_stride, const float *weight, float epsilon, void *y, size_t y_stride,
	float *inverse_rms);
void cpu_head_norm_backward(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
	const void *x, size_t x_stride, const float *weight, const float *inverse_rms, void *dx, size_t dx_stride);

/* rope.c */
void cpu_rope_forward(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *x,
	size_t heads, size_t stride);
void cpu_rope_backward(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *dx,
	size_t heads, size_t stride);

/* attention.c */
void cpu_attention_forward(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
	const void *k, const void *v, void *out, float *log_sum_exp);
void cpu_attention_backward(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
	const void *k, const void *v, const void *out, const float *log_sum_exp, const void *d_out, void *dq, void *dk,
	void *dv);

/* activation.c */
void cpu_activation_forward(struct device *d, enum activation_kind kind, size_t n, size_t width, const void *gate_up,
	void *h, size_t h_stride);
void cpu_activation_backward(
	struct device *d, enum activation_kind kind, size_t n, size_t width, const void *dh, void *gate_up, void *h);

/* loss.c */
void cpu_cross_entropy(struct device *d, const struct cross_entropy *c, const struct tokens *t, const void *hidden,
	const struct weight *head, void *d_hidden);
