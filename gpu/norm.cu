/* SPDX-License-Identifier: Apache-2.0 */
/* RMSNorm with the residual sum before it, and of each head by itself. A row lies in the registers of a warp (C up to 1024 in bf16) or of a block, so that everything is
 * read and written once; rows of any other kind (unaligned, C not whole vectors, very long) are read twice by a block. */
#include "gpu/elementwise.cuh"

template <typename T> struct norm_call {
	size_t n, c, y_row;
	const T *x, *delta, *dy;
	T *sum, *y, *dx;
	const float *weight;
	float epsilon;
	const float *inverse_of; /* backward */
	float *inverse_rms;      /* forward; NULL: not kept */
	struct fp8_place fp8;    /* of y or dx, dense; only where rows are packed */
};

/* A short row has a warp, four of them a block. */
template <int THREADS> struct row_place {
	static constexpr int block = THREADS < 128 ? 128 : THREADS;
	static constexpr int rows = block / THREADS;
};

/* The E4M3 form of a row that lies in `kept`. */
template <typename T, int THREADS, int VECTORS>
__device__ __forceinline__ void store_fp8(
	const norm_call<T> &a, size_t row, int lane, int vectors, const act_vector<T> (&kept)[VECTORS])
{
	if constexpr (std::is_same_v<T, __nv_bfloat16>) {
		if (!a.fp8.values)
			return;
		float most = 0;
#pragma unroll
		for (int v = 0; v < VECTORS; v++)
			if (lane + v * THREADS < vectors)
				most = e4m3_most(kept[v], most);
		most = block_most(most, THREADS);
		float factor = e4m3_factor(most);
#pragma unroll
		for (int v = 0; v < VECTORS; v++)
			if (lane + v * THREADS < vectors)
				e4m3_store(
					a.fp8.values + row * a.c + (size_t)(lane + v * THREADS) * 8, kept[v], factor);
		if (lane == 0)
			a.fp8.scales[row] = most / E4M3_MAX;
	}
}

/* Grid: row_place::rows rows a block, THREADS threads and VECTORS 16-byte vectors a thread for each. The bound of one block leaves enough
 * registers for all of a thread's loads to be in flight; that is worth more here than more threads. */
template <typename T, int THREADS, int VECTORS>
__global__ void __launch_bounds__(row_place<THREADS>::block, 1) norm_forward_rows(norm_call<T> a)
{
	constexpr int each = act_vector<T>::count;
	size_t row = (size_t)blockIdx.x * row_place<THREADS>::rows + threadIdx.x / THREADS;
	if (row >= a.n)
		return;
	int lane = threadIdx.x % THREADS, vectors = (int)(a.c / each);
	const act_vector<T> *x = (const act_vector<T> *)(a.x + row * a.c);
	act_vector<T> kept[VECTORS];
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		int at = lane + v * THREADS;
		if (at < vectors)
			kept[v] = x[at];
	}
	if (a.delta) {
		const act_vector<T> *delta = (const act_vector<T> *)(a.delta + row * a.c);
		act_vector<T> added[VECTORS];
#pragma unroll
		for (int v = 0; v < VECTORS; v++) {
			int at = lane + v * THREADS;
			if (at < vectors)
				added[v] = delta[at];
		}
#pragma unroll
		for (int v = 0; v < VECTORS; v++) {
			float sum[each];
#pragma unroll
			for (int i = 0; i < each; i++)
				sum[i] = act_load(kept[v].at[i]) + act_load(added[v].at[i]);
			kept[v] = pack_floats<T>(sum);
		}
	}
	float squares = 0;
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		int at = lane + v * THREADS;
		if (at >= vectors)
			continue;
#pragma unroll
		for (int i = 0; i < each; i++)
			squares += act_load(kept[v].at[i]) * act_load(kept[v].at[i]);
	}
	float inverse = 1 / sqrtf(block_sum<THREADS>(squares) / (float)a.c + a.epsilon);
	act_vector<T> *y = (act_vector<T> *)(a.y + row * a.y_row);
	act_vector<T> *sum = a.sum ? (act_vector<T> *)(a.sum + row * a.c) : NULL;
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		int at = lane + v * THREADS;
		if (at >= vectors)
			continue;
		float weight[each], out[each];
		load_floats(weight, a.weight + (size_t)at * each);
#pragma unroll
		for (int i = 0; i < each; i++)
			out[i] = act_load(kept[v].at[i]) * inverse * weight[i];
		if (sum && (a.delta || sum != x))
			sum[at] = kept[v];
		kept[v] = pack_floats<T>(out);
		y[at] = kept[v];
	}
	store_fp8<T, THREADS>(a, row, lane, vectors, kept);
	if (a.inverse_rms && lane == 0)
		a.inverse_rms[row] = inverse;
}

#define ANY_THREADS 256

/* Grid: a block a row. */
template <typename T> __global__ void __launch_bounds__(ANY_THREADS) norm_forward_any(norm_call<T> a)
{
	size_t row = blockIdx.x, first = row * a.c;
	const T *x = a.x + first;
	float squares = 0;
	for (size_t i = threadIdx.x; i < a.c; i += ANY_THREADS) {
		T value = x[i];
		if (a.delta)
			value = act_store<T>(act_load(value) + act_load(a.delta[first + i]));
		if (a.sum)
			a.sum[first + i] = value;
		squares += act_load(value) * act_load(value);
	}
	float inverse = 1 / sqrtf(block_sum<ANY_THREADS>(squares) / (float)a.c + a.epsilon);
	/* a thread reads again what it wrote itself */
	const T *kept = a.sum ? a.sum + first : x;
	for (size_t i = threadIdx.x; i < a.c; i += ANY_THREADS)
		a.y[row * a.y_row + i] = act_store<T>(act_load(kept[i]) * inverse * a.weight[i]);
	if (a.inverse_rms && threadIdx.x == 0)
		a.inverse_rms[row] = inverse;
}

/* dx += inverse * (w dy - x * inverse^2 * mean(w dy x)). Grid as norm_forward_rows. 86% to 99% of the rate of a copy (H100). */
template <typename T, int THREADS, int VECTORS>
__global__ void __launch_bounds__(row_place<THREADS>::block, 1) norm_backward_rows(norm_call<T> a)
{
	constexpr int each = act_vector<T>::count;
	size_t row = (size_t)blockIdx.x * row_place<THREADS>::rows + threadIdx.x / THREADS;
	if (row >= a.n)
		return;
	int lane = threadIdx.x % THREADS, vectors = (int)(a.c / each);
	const act_vector<T> *x = (const act_vector<T> *)(a.x + row * a.c);
	act_vector<T> *dx = (act_vector<T> *)(a.dx + row * a.c);
	act_vector<T> kept[VECTORS], onto[VECTORS];
	float scaled[VECTORS][each]; /* w dy */
	float inverse = a.inverse_of[row], along = 0;
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		int at = lane + v * THREADS;
		if (at >= vectors)
			continue;
		kept[v] = x[at];
		onto[v] = dx[at];
		load_floats(scaled[v], a.dy + row * a.c + (size_t)at * each);
	}
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		int at = lane + v * THREADS;
		if (at >= vectors)
			continue;
		float weight[each];
		load_floats(weight, a.weight + (size_t)at * each);
#pragma unroll
		for (int i = 0; i < each; i++) {
			scaled[v][i] *= weight[i];
			along += scaled[v][i] * act_load(kept[v].at[i]);
		}
	}
	float back = block_sum<THREADS>(along) * inverse * inverse * inverse / (float)a.c;
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		int at = lane + v * THREADS;
		if (at >= vectors)
			continue;
		float out[each];
#pragma unroll
		for (int i = 0; i < each; i++)
			out[i] = act_load(onto[v].at[i]) + scaled[v][i] * inverse - act_load(kept[v].at[i]) * back;
		onto[v] = pack_floats<T>(out);
		dx[at] = onto[v];
	}
	store_fp8<T, THREADS>(a, row, lane, vectors, onto);
}

template <typename T> __global__ void __launch_bounds__(ANY_THREADS) norm_backward_any(norm_call<T> a)
{
	size_t first = blockIdx.x * a.c;
	float inverse = a.inverse_of[blockIdx.x], along = 0;
	for (size_t i = threadIdx.x; i < a.c; i += ANY_THREADS)
		along += act_load(a.dy[first + i]) * a.weight[i] * act_load(a.x[first + i]);
	float back = block_sum<ANY_THREADS>(along) * inverse * inverse * inverse / (float)a.c;
	for (size_t i = threadIdx.x; i < a.c; i += ANY_THREADS) {
		float gradient = act_load(a.dy[first + i]) * a.weight[i] * inverse - act_load(a.x[first + i]) * back;
		a.dx[first + i] = act_store<T>(act_load(a.dx[first + i]) + gradient);
	}
}

template <typename T> struct norm_kernel {
	void (*run)(norm_call<T> a);
	unsigned threads, rows; /* of a block */
	bool packs;             /* writes the E4M3 form */
};

template <typename T, bool FORWARD, int THREADS, int VECTORS> static norm_kernel<T> rows_kernel(void)
{
	if constexpr (FORWARD)
		return {norm_forward_rows<T, THREADS, VECTORS>, row_place<THREADS>::block, row_place<THREADS>::rows,
			true};
	else
		return {norm_backward_rows<T, THREADS, VECTORS>, row_place<THREADS>::block, row_place<THREADS>::rows,
			true};
}

/* The fastest of those measured on an H100: forward 84% to 102% of the rate of a copy, 77% with the residual sum of 16384 x 576. */
template <typename T, bool FORWARD> static norm_kernel<T> pick(size_t c, bool aligned)
{
	size_t vectors = c / act_vector<T>::count;
	if (!aligned || c % act_vector<T>::count || vectors > 4096)
		return {FORWARD ? norm_forward_any<T> : norm_backward_any<T>, ANY_THREADS, 1, false};
	if (vectors <= 32)
		return rows_kernel<T, FORWARD, 32, 1>();
	if (vectors <= 64)
		return rows_kernel<T, FORWARD, 32, 2>();
	if (vectors <= 96)
		return rows_kernel<T, FORWARD, 32, 3>();
	if (vectors <= 128)
		return rows_kernel<T, FORWARD, 32, 4>();
	if (vectors <= 256)
		return rows_kernel<T, FORWARD, 128, 2>();
	if (vectors <= 512)
		return rows_kernel<T, FORWARD, 256, 2>();
	if (vectors <= 1024)
		return rows_kernel<T, FORWARD, 256, 4>();
	if (vectors <= 2048)
		return rows_kernel<T, FORWARD, 512, 4>();
	return rows_kernel<T, FORWARD, 1024, 4>();
}

template <typename T, bool FORWARD> static void issue(struct cuda_device *c, norm_call<T> &a)
{
	bool aligned = cuda_aligned(a.x) && cuda_aligned(a.delta) && cuda_aligned(a.dy) && cuda_aligned(a.sum) &&
		       cuda_aligned(a.y) && a.y_row % act_vector<T>::count == 0 && cuda_aligned(a.dx) &&
		       cuda_aligned(a.weight);
	norm_kernel<T> kernel = pick<T, FORWARD>(a.c, aligned);
	/* A kernel that makes no E4M3 form tells nobody of its output, and the product makes it. */
	a.fp8 = cuda_fp8_wanted(c, kernel.packs ? a.n : 0, a.c, FORWARD ? a.y : a.dx);
	kernel.run<<<(unsigned)((a.n + kernel.rows - 1) / kernel.rows), kernel.threads, 0, c->stream>>>(a);
	cuda_launched(c, "norm");
}

/* Whether there is something to do. */
static bool may(struct cuda_device *c, enum norm_kind kind, size_t n, size_t width)
{
	if (!c->base.fault.code && kind != NORM_RMS)
		cuda_fail(c, SAKIORI_EUNSUPPORTED, "norm kind %d is not implemented on CUDA", (int)kind);
	return !c->base.fault.code && n && width;
}

template <typename T>
static void forward(struct cuda_device *c, size_t n, size_t width, const void *x, const void *delta, void *sum,
	const float *weight, float epsilon, void *y, size_t y_stride, float *inverse_rms)
{
	norm_call<T> a = {};
	a.n = n;
	a.c = width;
	a.x = (const T *)x;
	a.delta = (const T *)delta;
	a.sum = (T *)sum;
	a.y = (T *)y;
	a.y_row = y_stride ? y_stride : width;
	a.weight = weight;
	a.epsilon = epsilon;
	a.inverse_rms = inverse_rms;
	issue<T, true>(c, a);
}

template <typename T>
static void backward(struct cuda_device *c, size_t n, size_t width, const void *dy, const void *x, const float *weight,
	const float *inverse_rms, void *dx)
{
	norm_call<T> a = {};
	a.n = n;
	a.c = width;
	a.x = (const T *)x;
	a.dy = (const T *)dy;
	a.dx = (T *)dx;
	a.weight = weight;
	a.inverse_of = inverse_rms;
	issue<T, false>(c, a);
}

void cuda_norm_forward(struct device *d, enum norm_kind kind, size_t n, size_t c, const void *x, const void *delta,
	void *sum, const float *weight, float epsilon, void *y, size_t y_stride, float *inverse_rms)
{
	if (!may(cuda_device(d), kind, n, c))
		return;
	if (delta && !sum)
		cuda_fail(cuda_device(d), SAKIORI_EINVAL, "a norm with a residual needs a place for the sum");
	else if (d->act == DTYPE_BF16)
		forward<__nv_bfloat16>(cuda_device(d), n, c, x, delta, sum, weight, epsilon, y, y_stride, inverse_rms);
	else
		forward<float>(cuda_device(d), n, c, x, delta, sum, weight, epsilon, y, y_stride, inverse_rms);
}

void cuda_norm_backward(struct device *d, enum norm_kind kind, size_t n, size_t c, const void *dy, const void *x,
	const float *weight, const float *inverse_rms, void *dx)
{
	if (!may(cuda_device(d), kind, n, c))
		return;
	if (d->act == DTYPE_BF16)
		backward<__nv_bfloat16>(cuda_device(d), n, c, dy, x, weight, inverse_rms, dx);
	else
		backward<float>(cuda_device(d), n, c, dy, x, weight, inverse_rms, dx);
}

/* ---- heads ---- */

#define HEAD_NORM_WARPS 8

template <typename T> struct head_norm_call {
	size_t n, heads, c; /* n heads of all tokens together */
	size_t x_row, y_row;
	const T *x;
	T *y; /* backward: dx */
	const float *weight;
	float epsilon;
	const float *inverse_of; /* backward */
	float *inverse_rms;      /* forward; NULL: not kept */
};

/* Grid: a warp a head. y may be x: a thread writes only where it alone has read. */
template <typename T> __global__ void __launch_bounds__(HEAD_NORM_WARPS *WARP) head_norm_forward(head_norm_call<T> a)
{
	size_t item = (size_t)blockIdx.x * HEAD_NORM_WARPS + threadIdx.x / WARP;
	if (item >= a.n)
		return;
	size_t token = item / a.heads, head = item % a.heads;
	const T *x = a.x + token * a.x_row + head * a.c;
	T *y = a.y + token * a.y_row + head * a.c;
	int lane = threadIdx.x % WARP;
	float squares = 0;
	for (size_t i = lane; i < a.c; i += WARP)
		squares += act_load(x[i]) * act_load(x[i]);
	float inverse = 1 / sqrtf(warp_sum(squares) / (float)a.c + a.epsilon);
	for (size_t i = lane; i < a.c; i += WARP)
		y[i] = act_store<T>(act_load(x[i]) * inverse * a.weight[i]);
	if (a.inverse_rms && lane == 0)
		a.inverse_rms[item] = inverse;
}

/* dx = inverse * (w dy - x * inverse^2 * mean(w dy x)), over the dy that lies there. Grid as the forward's. */
template <typename T> __global__ void __launch_bounds__(HEAD_NORM_WARPS *WARP) head_norm_backward(head_norm_call<T> a)
{
	size_t item = (size_t)blockIdx.x * HEAD_NORM_WARPS + threadIdx.x / WARP;
	if (item >= a.n)
		return;
	size_t token = item / a.heads, head = item % a.heads;
	const T *x = a.x + token * a.x_row + head * a.c;
	T *dx = a.y + token * a.y_row + head * a.c;
	int lane = threadIdx.x % WARP;
	float inverse = a.inverse_of[item], along = 0;
	for (size_t i = lane; i < a.c; i += WARP)
		along += act_load(dx[i]) * a.weight[i] * act_load(x[i]);
	float back = warp_sum(along) * inverse * inverse * inverse / (float)a.c;
	for (size_t i = lane; i < a.c; i += WARP)
		dx[i] = act_store<T>(act_load(dx[i]) * a.weight[i] * inverse - act_load(x[i]) * back);
}

template <typename T>
static void issue_heads(
	struct cuda_device *c, const head_norm_call<void> &call, void (*kernel)(head_norm_call<T>), const char *what)
{
	head_norm_call<T> a = {};
	a.n = call.n;
	a.heads = call.heads;
	a.c = call.c;
	a.x_row = call.x_row;
	a.y_row = call.y_row;
	a.x = (const T *)call.x;
	a.y = (T *)call.y;
	a.weight = call.weight;
	a.epsilon = call.epsilon;
	a.inverse_of = call.inverse_of;
	a.inverse_rms = call.inverse_rms;
	kernel<<<(unsigned)((a.n + HEAD_NORM_WARPS - 1) / HEAD_NORM_WARPS), HEAD_NORM_WARPS * WARP, 0, c->stream>>>(a);
	cuda_launched(c, what);
}

static bool heads_may(struct cuda_device *c, enum norm_kind kind, const head_norm_call<void> &a)
{
	size_t width = a.heads * a.c;
	if (!c->base.fault.code && (!a.c || a.x_row < width || a.y_row < width))
		cuda_fail(c, SAKIORI_EINVAL, "norms of %zu heads of %zu features, strides %zu and %zu", a.heads, a.c,
			a.x_row, a.y_row);
	return may(c, kind, a.n, a.c);
}

void cuda_head_norm_forward(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
	const void *x, size_t x_stride, const float *weight, float epsilon, void *y, size_t y_stride,
	float *inverse_rms)
{
	head_norm_call<void> a = {
		n * heads, heads, head_dim, x_stride, y_stride, x, y, weight, epsilon, NULL, inverse_rms};
	if (!heads_may(cuda_device(d), kind, a))
		return;
	if (d->act == DTYPE_BF16)
		issue_heads(cuda_device(d), a, head_norm_forward<__nv_bfloat16>, "norms of heads");
	else
		issue_heads(cuda_device(d), a, head_norm_forward<float>, "norms of heads");
}

void cuda_head_norm_backward(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
	const void *x, size_t x_stride, const float *weight, const float *inverse_rms, void *dx, size_t dx_stride)
{
	head_norm_call<void> a = {n * heads, heads, head_dim, x_stride, dx_stride, x, dx, weight, 0, inverse_rms, NULL};
	if (!heads_may(cuda_device(d), kind, a))
		return;
	if (d->act == DTYPE_BF16)
		issue_heads(cuda_device(d), a, head_norm_backward<__nv_bfloat16>, "norms of heads, backward");
	else
		issue_heads(cuda_device(d), a, head_norm_backward<float>, "norms of heads, backward");
}
