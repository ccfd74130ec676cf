/* SPDX-License-Identifier: Apache-2.0 */
/* Linears without adapters, whatever the storage of their weights. bf16 and f32 weights lie once: cuBLASLt reads a row-major W as it is, forward
 * and backward. E4M3 products want both operands with the summed dimension in a row, so FP8 weights bring W^T along. Packed weights are
 * unpacked before each product. */
#include "gpu/elementwise.cuh"

#define TOKEN_VECTORS 8 /* 16-byte pieces of a token that a thread holds in registers; twice as many of the widest */

/* ---- E4M3 activations ---- */

/* `each` lanes (a warp, or a block of 256) a token; its values stay in registers between the maximum and the rounding. Reads 2 and writes 1 byte
 * an element. width is a multiple of 8 and at most each * 8 * V. */
template <int each, int V>
__global__ void fp8_round(
	size_t n, unsigned width, const __nv_bfloat16 *x, size_t x_row, __nv_fp8_e4m3 *values, float *scales)
{
	const unsigned lane = threadIdx.x % each;
	const size_t token = (size_t)blockIdx.x * (256 / each) + threadIdx.x / each;
	const bool real = token < n;
	act_vector<__nv_bfloat16> piece[V];
	float most = 0;
#pragma unroll
	for (int v = 0; v < V; v++) {
		unsigned at = (v * each + lane) * 8;
		if (real && at < width)
			piece[v] = *(const act_vector<__nv_bfloat16> *)(x + token * x_row + at);
		else
			for (int i = 0; i < 8; i++)
				piece[v].at[i] = act_store<__nv_bfloat16>(0);
	}
#pragma unroll
	for (int v = 0; v < V; v++)
		most = e4m3_most(piece[v], most);
	most = block_most(most, each);
	if (!real)
		return;
	float factor = e4m3_factor(most);
	if (!lane)
		scales[token] = most / E4M3_MAX;
#pragma unroll
	for (int v = 0; v < V; v++) {
		unsigned at = (v * each + lane) * 8;
		if (at < width)
			e4m3_store(values + token * width + at, piece[v], factor);
	}
}

/* Any width and alignment: a block a token, which is read twice. */
__global__ void fp8_round_any(
	size_t n, size_t width, const __nv_bfloat16 *x, size_t x_row, __nv_fp8_e4m3 *values, float *scales)
{
	__shared__ float best[8];
	for (size_t token = blockIdx.x; token < n; token += gridDim.x) {
		const __nv_bfloat16 *row = x + token * x_row;
		float most = 0;
		for (size_t i = threadIdx.x; i < width; i += blockDim.x)
			most = fmaxf(most, fabsf(act_load(row[i])));
		for (int step = 16; step; step /= 2)
			most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
		__syncthreads();
		if (threadIdx.x % 32 == 0)
			best[threadIdx.x / 32] = most;
		__syncthreads();
		for (int i = 0; i < 8; i++)
			most = fmaxf(most, best[i]);
		float factor = e4m3_factor(most);
		for (size_t i = threadIdx.x; i < width; i += blockDim.x)
			values[token * width + i] = __nv_fp8_e4m3(act_load(row[i]) * factor);
		if (!threadIdx.x)
			scales[token] = most / E4M3_MAX;
	}
}

template <int each, int V>
static void fp8_launch(
	struct cuda_device *c, size_t n, size_t width, const void *x, size_t x_row, const struct fp8_place *to)
{
	unsigned blocks = (unsigned)((n + 256 / each - 1) / (256 / each));
	fp8_round<each, V><<<blocks, 256, 0, c->stream>>>(
		n, (unsigned)width, (const __nv_bfloat16 *)x, x_row, to->values, to->scales);
}

/* The place for the form of an activation (n, width), whatever it held. */
static struct fp8_place fp8_place(struct cuda_device *c, size_t n, size_t width)
{
	size_t first = (n * width + 255) / 256 * 256;
	struct fp8_place place = {};
	c->fp8_ready = (struct fp8_form){};
	if (!c->base.fault.code && n)
		place.values = (__nv_fp8_e4m3 *)cuda_scratch(c, SCRATCH_FP8, first + n * sizeof(float));
	if (place.values)
		place.scales = (float *)((char *)place.values + first);
	return place;
}

/* The form of x, whose tokens are x_row apart: what the operation that wrote x left, or made now. */
static struct fp8_place fp8_tokens(struct cuda_device *c, size_t n, size_t width, const void *x, size_t x_row)
{
	const struct fp8_form ready = c->fp8_ready;
	struct fp8_place to = fp8_place(c, n, width);
	if (!to.values)
		return to;
	if (ready.x == x && ready.n == n && ready.width == width)
		return to;
	bool pieces = width % 8 == 0 && x_row % 8 == 0 && (uintptr_t)x % 16 == 0;
	if (pieces && width <= 32 * 8 * 2)
		fp8_launch<32, 2>(c, n, width, x, x_row, &to);
	else if (pieces && width <= 32 * 8 * TOKEN_VECTORS)
		fp8_launch<32, TOKEN_VECTORS>(c, n, width, x, x_row, &to);
	else if (pieces && width <= 256 * 8 * 2)
		fp8_launch<256, 2>(c, n, width, x, x_row, &to);
	else if (pieces && width <= 256 * 8 * TOKEN_VECTORS)
		fp8_launch<256, TOKEN_VECTORS>(c, n, width, x, x_row, &to);
	else if (pieces && width <= 256 * 8 * TOKEN_VECTORS * 2)
		fp8_launch<256, TOKEN_VECTORS * 2>(c, n, width, x, x_row, &to);
	else
		fp8_round_any<<<cuda_blocks(c, n, 1), 256, 0, c->stream>>>(
			n, width, (const __nv_bfloat16 *)x, x_row, to.values, to.scales);
	cuda_launched(c, "rounding activations to E4M3");
	return to;
}

/* Whether products with w are E4M3's: they want multiples of 16; other sizes are unpacked like a packed weight. */
static bool fp8_multiplies(const struct cuda_device *c, const struct weight *w)
{
	return w->storage == WEIGHT_FP8 && c->base.act == DTYPE_BF16 && w->rows % 16 == 0 && w->cols % 16 == 0;
}

void cuda_next_reader(struct device *d, const void *x, const struct weight *w, enum weight_use use)
{
	struct cuda_device *c = cuda_device(d);
	c->fp8_wanted = (struct fp8_form){};
	if (fp8_multiplies(c, w))
		c->fp8_wanted = {.x = x, .width = use == WEIGHT_BACKWARD ? w->rows : w->cols};
}

void cuda_fp8_forget(struct cuda_device *c, const void *x)
{
	if (c->fp8_ready.x == x)
		c->fp8_ready = (struct fp8_form){};
}

struct fp8_place cuda_fp8_wanted(struct cuda_device *c, size_t n, size_t width, const void *x)
{
	const struct fp8_form wanted = c->fp8_wanted;
	c->fp8_wanted = (struct fp8_form){};
	cuda_fp8_forget(c, x);
	if (wanted.x != x || wanted.width != width)
		return (struct fp8_place){};
	struct fp8_place place = fp8_place(c, n, width);
	if (place.values)
		c->fp8_ready = {.x = x, .n = n, .width = width};
	return place;
}

/* ---- products with a weight ---- */

enum product_kind {
	PRODUCT_WRITE,
	PRODUCT_ADD,
	PRODUCT_PLAN, /* of PRODUCT_ADD: nothing is computed that counts */
};

/* Where memory of the device will be, as far as its alignment goes. */
#define ALIGNED ((const void *)256)

static void issue(
	struct cuda_device *c, const struct gemm *g, const void *a, const void *b, void *out, enum product_kind kind)
{
	if (kind == PRODUCT_PLAN)
		cuda_gemm_plan(c, g, a, b, out);
	else
		cuda_gemm(c, g, a, b, out);
}

static void product_fp8(struct cuda_device *c, const struct gemm *like, const void *in, const struct weight *w,
	bool backward, void *out, enum product_kind kind)
{
	struct gemm g = *like;
	g.a_type = g.b_type = GEMM_E4M3;
	g.b_transposed = true;
	g.a_row = g.b_row = g.k;
	if (kind == PRODUCT_PLAN && cuda_gemm_planned(c, &g, ALIGNED, ALIGNED, out))
		return;
	const struct fp8_place x = fp8_tokens(c, g.m, g.k, in, like->a_row);
	if (c->base.fault.code)
		return;
	/* A plan is made for the product that follows, before anybody changes x. */
	if (kind == PRODUCT_PLAN)
		c->fp8_ready = {.x = in, .n = g.m, .width = g.k};
	g.a_scale = x.scales;
	g.b_scale = backward ? w->col_scale : w->row_scale;
	issue(c, &g, x.values, backward ? w->transposed : w->data, out, kind);
}

/* out = (+=) in W^T, or in W when backward. Tokens of `in` are in_row apart. */
static void product(struct cuda_device *c, size_t n, const void *in, size_t in_row, const struct weight *w,
	bool backward, void *out, enum product_kind kind)
{
	if (!n || !cuda_weight_may(c, w, backward ? WEIGHT_BACKWARD : WEIGHT_FORWARD))
		return;
	struct gemm g = {.m = n,
		.n = backward ? w->cols : w->rows,
		.k = backward ? w->rows : w->cols,
		.b_transposed = !backward,
		.a_row = in_row,
		.b_row = w->row,
		.a_type = gemm_act(c),
		.b_type = gemm_act(c),
		.out_type = gemm_act(c),
		.alpha = 1,
		.beta = kind == PRODUCT_WRITE ? 0.0f : 1.0f,
		.rounds_twice = backward};
	g.out_row = g.n;
	if (fp8_multiplies(c, w)) {
		product_fp8(c, &g, in, w, backward, out, kind);
		return;
	}
	if (kind == PRODUCT_PLAN && cuda_gemm_planned(c, &g, in, ALIGNED, out))
		return;
	const void *plain = cuda_weight_plain(c, w);
	if (plain)
		issue(c, &g, in, plain, out, kind);
}

/* y (n, rows) = (+=) bias in every token. A block takes a token at a time. */
template <typename T> __global__ void bias_rows(size_t n, size_t rows, const float *bias, T *y, bool add)
{
	for (size_t token = blockIdx.x; token < n; token += gridDim.x)
		for (size_t j = threadIdx.x; j < rows; j += blockDim.x) {
			T *at = y + token * rows + j;
			*at = act_store<T>(bias[j] + (add ? act_load(*at) : 0));
		}
}

void cuda_bias(struct cuda_device *c, size_t n, size_t rows, const float *bias, void *y, bool add)
{
	if (c->base.fault.code || !n)
		return;
	unsigned blocks = cuda_blocks(c, n, 1);
	if (c->base.act == DTYPE_BF16)
		bias_rows<<<blocks, 256, 0, c->stream>>>(n, rows, bias, (__nv_bfloat16 *)y, add);
	else
		bias_rows<<<blocks, 256, 0, c->stream>>>(n, rows, bias, (float *)y, add);
	cuda_launched(c, "bias");
}

void cuda_linear(struct cuda_device *c, size_t n, const void *x, size_t x_row, const struct weight *w,
	const float *bias, void *y, bool add)
{
	if (bias) {
		if (!add)
			cuda_linear_plan(c, n, x, x_row, w, y);
		cuda_bias(c, n, w->rows, bias, y, add);
	}
	product(c, n, x, x_row, w, false, y, add || bias ? PRODUCT_ADD : PRODUCT_WRITE);
}

void cuda_linear_plan(struct cuda_device *c, size_t n, const void *x, size_t x_row, const struct weight *w, void *y)
{
	if (!c->deterministic && !c->capturing)
		product(c, n, x, x_row, w, false, y, PRODUCT_PLAN);
}

void cuda_linear_backward(struct cuda_device *c, size_t n, const void *dy, const struct weight *w, void *dx, bool add)
{
	product(c, n, dy, w->rows, w, true, dx, add ? PRODUCT_ADD : PRODUCT_WRITE);
}

void cuda_linear_backward_plan(struct cuda_device *c, size_t n, const void *dy, const struct weight *w, void *dx)
{
	if (!c->deterministic && !c->capturing)
		product(c, n, dy, w->rows, w, true, dx, PRODUCT_PLAN);
}

void cuda_matmul(struct device *d, size_t n, const void *x, const struct weight *w, const float *bias, void *y)
{
	cuda_linear(cuda_device(d), n, x, w->cols, w, bias, y, false);
}

void cuda_matmul_backward(struct device *d, size_t n, const void *dy, const struct weight *w, void *dx, bool accumulate)
{
	cuda_linear_backward(cuda_device(d), n, dy, w, dx, accumulate);
}

void cuda_head_logits(struct device *d, size_t n, const void *hidden, const struct weight *head, float *logits)
{
	struct cuda_device *c = cuda_device(d);
	if (!n || !cuda_weight_may(c, head, WEIGHT_FORWARD))
		return;
	const void *plain = cuda_weight_plain(c, head);
	struct gemm g = {.m = n,
		.n = head->rows,
		.k = head->cols,
		.b_transposed = true,
		.a_row = head->cols,
		.b_row = head->row,
		.out_row = head->rows,
		.a_type = gemm_act(c),
		.b_type = gemm_act(c),
		.out_type = GEMM_F32,
		.alpha = 1};
	if (plain)
		cuda_gemm(c, &g, hidden, plain, logits);
}
