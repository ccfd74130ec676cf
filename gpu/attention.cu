/* SPDX-License-Identifier: Apache-2.0 */
/* Attention: checks a call and hands it to the way that serves it (attention.cuh). */
#include "gpu/attention.cuh"

#include <stdlib.h>
#include <string.h>

static struct attention_plans *plans_of(struct cuda_device *c)
{
	if (c->attention)
		return c->attention;
	c->attention = (struct attention_plans *)calloc(1, sizeof *c->attention);
	if (!c->attention) {
		cuda_fail(c, SAKIORI_ENOMEM, "attention: out of memory");
		return NULL;
	}
	/* For tests and comparisons: cuDNN however small the call, and a failure where it refuses; or never; or no tensor cores either. */
	const char *way = secure_getenv("SAKIORI_CUDA_ATTENTION");
	if (way && !strcmp(way, "cudnn"))
		c->attention->cudnn_always = true;
	else if (way && !strcmp(way, "own"))
		c->attention->fastest = ATTENTION_FLASH;
	else if (way && !strcmp(way, "general"))
		c->attention->fastest = ATTENTION_GENERAL;
	return c->attention;
}

void cuda_attention_plans_free(struct cuda_device *c)
{
	if (!c->attention)
		return;
	attention_cudnn_free(c);
	free(c->attention);
	c->attention = NULL;
}

/* The ragged layout that cuDNN wants, from row offsets that only the device knows; rows behind the last are empty.
 * One block; n = rows + 1 threads' worth of numbers. */
static __global__ void offsets_fill(const uint32_t *row_offsets, int rows, int padded, struct attention_offsets to,
	int q_stride, int kv_stride, int dense, int heads)
{
	for (int i = (int)threadIdx.x; i <= padded; i += (int)blockDim.x) {
		int first = (int)row_offsets[min(i, rows)], next = (int)row_offsets[min(i + 1, rows)];
		to.q[i] = first * q_stride;
		to.kv[i] = first * kv_stride;
		to.out[i] = first * dense;
		to.log_sum_exp[i] = first * heads;
		if (i < padded)
			to.lengths[i] = next - first;
	}
}

bool attention_offsets(
	struct cuda_device *c, const struct attention_call *call, size_t padded, struct attention_offsets *to)
{
	const struct attention *a = call->a;
	size_t each = (padded + 1 + 63) / 64 * 64;
	int32_t *all = (int32_t *)cuda_scratch(c, SCRATCH_OFFSETS, each * 5 * sizeof *all);
	if (!all)
		return false;
	*to = (struct attention_offsets){all, all + each, all + 2 * each, all + 3 * each, all + 4 * each};
	offsets_fill<<<1, 256, 0, c->stream>>>(call->t->row_offsets, (int)call->t->rows, (int)padded, *to,
		(int)a->q_stride, (int)a->kv_stride, (int)(a->heads * a->head_dim), (int)a->heads);
	return cuda_launched(c, "attention offsets");
}

/* delta (N, heads) = sum of d_out * out over a head: what the softmax's gradient takes away. A warp takes one head of one token. */
template <typename T>
static __global__ void __launch_bounds__(256)
	delta_sum(size_t n, int features, const T *out, const T *d_out, float *delta)
{
	size_t warp = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / 32, step = (size_t)gridDim.x * blockDim.x / 32;
	int lane = threadIdx.x % 32;
	for (; warp < n; warp += step) {
		float sum = 0;
		for (int i = lane; i < features; i += 32)
			sum = fmaf(act_load(out[warp * features + i]), act_load(d_out[warp * features + i]), sum);
		for (int other = 16; other; other /= 2)
			sum += __shfl_xor_sync(~0u, sum, other);
		if (lane == 0)
			delta[warp] = sum;
	}
}

/* The same for heads of 8 P features, P a power of two: 16 bytes a thread, P threads a head, two heads at a time. */
template <int P>
static __global__ void __launch_bounds__(256)
	delta_sum_wide(size_t n, const __nv_bfloat16 *out, const __nv_bfloat16 *d_out, float *delta)
{
	typedef act_vector<__nv_bfloat16> vector;
	size_t all = n * P, step = (size_t)gridDim.x * blockDim.x;
	/* Whole warps go round together: the shuffles need every lane. */
	size_t rounds = (all + 2 * step - 1) / (2 * step);
	size_t at = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
	for (size_t round = 0; round < rounds; round++, at += 2 * step) {
		vector x[2], y[2];
#pragma unroll
		for (int k = 0; k < 2; k++) {
			size_t here = at + k * step < all ? at + k * step : 0;
			x[k] = ((const vector *)out)[here];
			y[k] = ((const vector *)d_out)[here];
		}
#pragma unroll
		for (int k = 0; k < 2; k++) {
			float sum = 0;
#pragma unroll
			for (int i = 0; i < vector::count; i++)
				sum = fmaf(act_load(x[k].at[i]), act_load(y[k].at[i]), sum);
#pragma unroll
			for (int other = P / 2; other; other /= 2)
				sum += __shfl_xor_sync(~0u, sum, other);
			size_t here = at + k * step;
			if (here < all && here % P == 0)
				delta[here / P] = sum;
		}
	}
}

static bool delta_launch(struct cuda_device *c, const struct attention_call *call, float *delta)
{
	size_t n = call->t->count * call->a->heads, features = call->a->head_dim;
	bool wide = c->base.act == DTYPE_BF16 && (uintptr_t)call->out % 16 == 0 && (uintptr_t)call->d_out % 16 == 0;
	const __nv_bfloat16 *out = (const __nv_bfloat16 *)call->out, *d_out = (const __nv_bfloat16 *)call->d_out;
	if (wide && features == 64)
		delta_sum_wide<8><<<cuda_blocks(c, n * 8, 512), 256, 0, c->stream>>>(n, out, d_out, delta);
	else if (wide && features == 128)
		delta_sum_wide<16><<<cuda_blocks(c, n * 16, 512), 256, 0, c->stream>>>(n, out, d_out, delta);
	else if (c->base.act == DTYPE_BF16)
		delta_sum<<<cuda_blocks(c, n, 8), 256, 0, c->stream>>>(n, (int)features, out, d_out, delta);
	else
		delta_sum<<<cuda_blocks(c, n, 8), 256, 0, c->stream>>>(
			n, (int)features, (const float *)call->out, (const float *)call->d_out, delta);
	return cuda_launched(c, "attention delta");
}

static struct attention_shape shape_of(const struct attention_call *call)
{
	const struct attention *a = call->a;
	const int unlimited = 1 << 30;
	int window = a->mask == MASK_WINDOW && a->window < (size_t)unlimited ? (int)a->window - 1 : unlimited;
	return (struct attention_shape){.rows = call->t->row_offsets,
		.kv_rows = a->kv_offsets ? a->kv_offsets : call->t->row_offsets,
		.row_count = (int)call->t->rows,
		.heads = (int)a->heads,
		.kv_heads = (int)a->kv_heads,
		.head_dim = (int)a->head_dim,
		.before = window,
		.after = a->mask == MASK_BIDIRECTIONAL ? unlimited : 0,
		.scale = a->scale,
		.softcap = a->softcap,
		.q_stride = a->q_stride,
		.kv_stride = a->kv_stride};
}

/* False when there is nothing to do or the call is refused. */
static bool call_check(struct cuda_device *c, const struct attention_call *call)
{
	const struct attention *a = call->a;
	if (c->base.fault.code)
		return false;
	if (!a->kv_heads || a->heads % a->kv_heads || !a->head_dim || a->q_stride < a->heads * a->head_dim ||
		a->kv_stride < a->kv_heads * a->head_dim || (a->mask == MASK_WINDOW && !a->window) ||
		!call->t->row_offsets) {
		cuda_fail(c, SAKIORI_EINVAL, "attention with %zu heads, %zu key/value heads of %zu features", a->heads,
			a->kv_heads, a->head_dim);
		return false;
	}
	if (a->head_dim > ATTENTION_GENERAL_FEATURES) {
		cuda_fail(c, SAKIORI_EUNSUPPORTED, "attention heads of %zu features; CUDA takes up to %d", a->head_dim,
			ATTENTION_GENERAL_FEATURES);
		return false;
	}
	return call->t->count && call->t->rows;
}

void cuda_attention_forward(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
	const void *k, const void *v, void *out, float *log_sum_exp)
{
	struct cuda_device *c = cuda_device(d);
	struct attention_call call = {.a = a, .t = t, .q = q, .k = k, .v = v, .out = out, .log_sum_exp = log_sum_exp};
	struct attention_plans *plans;
	if (!call_check(c, &call) || !(plans = plans_of(c)))
		return;
	if (plans->fastest == ATTENTION_CUDNN && attention_cudnn(c, &call, false))
		return;
	if (c->base.fault.code)
		return;
	struct attention_shape s = shape_of(&call);
	if (plans->fastest <= ATTENTION_FLASH && attention_flash_takes(c, &call))
		attention_flash_forward(c, &call, s);
	else
		attention_general_forward(c, &call, s);
}

void cuda_attention_backward(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
	const void *k, const void *v, const void *out, const float *log_sum_exp, const void *d_out, void *dq, void *dk,
	void *dv)
{
	struct cuda_device *c = cuda_device(d);
	struct attention_call call = {.a = a,
		.t = t,
		.q = q,
		.k = k,
		.v = v,
		.out = out,
		.log_sum_exp = (float *)(uintptr_t)log_sum_exp,
		.d_out = d_out,
		.dq = dq,
		.dk = dk,
		.dv = dv};
	struct attention_plans *plans;
	if (!call_check(c, &call) || !(plans = plans_of(c)))
		return;
	if (a->kv_offsets) {
		cuda_fail(c, SAKIORI_EUNSUPPORTED, "attention over a cache has no backward");
		return;
	}
	if (plans->fastest == ATTENTION_CUDNN && attention_cudnn(c, &call, true))
		return;
	if (c->base.fault.code)
		return;
	float *delta = (float *)cuda_scratch(c, SCRATCH_LARGE, t->count * a->heads * sizeof *delta);
	if (!delta || !delta_launch(c, &call, delta))
		return;
	struct attention_shape s = shape_of(&call);
	if (plans->fastest <= ATTENTION_FLASH && attention_flash_takes(c, &call))
		attention_flash_backward(c, &call, s, delta);
	else
		attention_general_backward(c, &call, s, delta);
}
