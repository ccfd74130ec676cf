/* SPDX-License-Identifier: Apache-2.0 */
/* SwiGLU over (N, 2 * width): a token's gate and behind it its up. */
#include "gpu/elementwise.cuh"

#define BLOCK 256

template <typename T> struct activation_call {
	size_t n, width, h_row;
	T *gate_up;
	const T *dh;
	T *h;
};

/* The hardware's exponential and division are within 2^-21, far below bf16; f32 takes the exact ones. */
template <typename T> __device__ __forceinline__ float sigmoid(float x)
{
	if constexpr (std::is_same_v<T, float>)
		return 1 / (1 + expf(-x));
	else
		return __fdividef(1, 1 + __expf(-x));
}

/* Turns gate and up into their gradients; returns h. */
template <typename T> __device__ __forceinline__ float differentiate(float d, float *gate, float *up)
{
	float g = *gate, u = *up, s = sigmoid<T>(g);
	float silu = g * s;
	*up = d * silu;
	*gate = d * u * s * (1 + g - silu);
	return silu * u;
}

/* h = gate * sigmoid(gate) * up. Grid: (pieces of WIDTH features, tokens). 6 bytes a feature (bf16), at the rate of a copy (H100, 8192 x 14336). */
template <typename T, int WIDTH> __global__ void __launch_bounds__(BLOCK) swiglu_forward(activation_call<T> a)
{
	size_t feature = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
	if (feature >= a.width)
		return;
	for (size_t token = blockIdx.y; token < a.n; token += gridDim.y) {
		const T *at = a.gate_up + token * 2 * a.width + feature;
		float gate[WIDTH], up[WIDTH];
		load_floats(gate, at);
		load_floats(up, at + a.width);
#pragma unroll
		for (int i = 0; i < WIDTH; i++)
			up[i] *= gate[i] * sigmoid<T>(gate[i]);
		store_floats(a.h + token * a.h_row + feature, up);
	}
}

/* h may be dh: a thread has read all that it overwrites. 10 bytes a feature, 12 with h, at the rate of a copy. */
template <typename T, int WIDTH> __global__ void __launch_bounds__(BLOCK) swiglu_backward(activation_call<T> a)
{
	size_t feature = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
	if (feature >= a.width)
		return;
	for (size_t token = blockIdx.y; token < a.n; token += gridDim.y) {
		T *at = a.gate_up + token * 2 * a.width + feature;
		size_t place = token * a.width + feature;
		float gate[WIDTH], up[WIDTH], d[WIDTH], h[WIDTH];
		load_floats(gate, at);
		load_floats(up, at + a.width);
		load_floats(d, a.dh + place);
#pragma unroll
		for (int i = 0; i < WIDTH; i++)
			h[i] = differentiate<T>(d[i], &gate[i], &up[i]);
		store_floats(at, gate);
		store_floats(at + a.width, up);
		if (a.h)
			store_floats(a.h + place, h);
	}
}

/* ---- with the E4M3 form of what is written ---- */

typedef __nv_bfloat16 bf16;

#define FP8_VECTORS_MAX 2048 /* of a token */

/* As swiglu_forward; a block a token, VECTORS vectors of 8 features a thread, which stay in registers until the largest is known. */
template <int VECTORS, int THREADS>
__global__ void __launch_bounds__(THREADS) swiglu_forward_fp8(activation_call<bf16> a, struct fp8_place to)
{
	const size_t token = blockIdx.x;
	const bf16 *at = a.gate_up + token * 2 * a.width;
	act_vector<bf16> h[VECTORS];
	float most = 0;
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		size_t feature = ((size_t)v * blockDim.x + threadIdx.x) * 8;
		if (feature >= a.width)
			continue;
		float gate[8], up[8];
		load_floats(gate, at + feature);
		load_floats(up, at + a.width + feature);
#pragma unroll
		for (int i = 0; i < 8; i++)
			up[i] *= gate[i] * sigmoid<bf16>(gate[i]);
		h[v] = pack_floats<bf16>(up);
		*(act_vector<bf16> *)(a.h + token * a.h_row + feature) = h[v];
		most = e4m3_most(h[v], most);
	}
	most = block_most(most, blockDim.x);
	float factor = e4m3_factor(most);
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		size_t feature = ((size_t)v * blockDim.x + threadIdx.x) * 8;
		if (feature < a.width)
			e4m3_store(to.values + token * a.width + feature, h[v], factor);
	}
	if (!threadIdx.x)
		to.scales[token] = most / E4M3_MAX;
}

/* As swiglu_backward; the form is that of gate_up's gradients. */
template <int VECTORS, int THREADS>
__global__ void __launch_bounds__(THREADS) swiglu_backward_fp8(activation_call<bf16> a, struct fp8_place to)
{
	const size_t token = blockIdx.x;
	bf16 *at = a.gate_up + token * 2 * a.width;
	act_vector<bf16> d_gate[VECTORS], d_up[VECTORS];
	float most = 0;
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		size_t feature = ((size_t)v * blockDim.x + threadIdx.x) * 8, place = token * a.width + feature;
		if (feature >= a.width)
			continue;
		float gate[8], up[8], d[8], h[8];
		load_floats(gate, at + feature);
		load_floats(up, at + a.width + feature);
		load_floats(d, a.dh + place);
#pragma unroll
		for (int i = 0; i < 8; i++)
			h[i] = differentiate<bf16>(d[i], &gate[i], &up[i]);
		d_gate[v] = pack_floats<bf16>(gate);
		d_up[v] = pack_floats<bf16>(up);
		*(act_vector<bf16> *)(at + feature) = d_gate[v];
		*(act_vector<bf16> *)(at + a.width + feature) = d_up[v];
		if (a.h)
			store_floats(a.h + place, h);
		most = e4m3_most(d_up[v], e4m3_most(d_gate[v], most));
	}
	most = block_most(most, blockDim.x);
	float factor = e4m3_factor(most);
#pragma unroll
	for (int v = 0; v < VECTORS; v++) {
		size_t feature = ((size_t)v * blockDim.x + threadIdx.x) * 8;
		if (feature >= a.width)
			continue;
		e4m3_store(to.values + token * 2 * a.width + feature, d_gate[v], factor);
		e4m3_store(to.values + (token * 2 + 1) * a.width + feature, d_up[v], factor);
	}
	if (!threadIdx.x)
		to.scales[token] = most / E4M3_MAX;
}

template <int VECTORS, int THREADS>
static void fp8_issue(struct cuda_device *c, bool forward, const activation_call<bf16> &a, struct fp8_place to)
{
	size_t threads = (a.width / 8 + VECTORS - 1) / VECTORS;
	unsigned block = (unsigned)((threads + WARP - 1) / WARP * WARP);
	if (forward)
		swiglu_forward_fp8<VECTORS, THREADS><<<(unsigned)a.n, block, 0, c->stream>>>(a, to);
	else
		swiglu_backward_fp8<VECTORS, THREADS><<<(unsigned)a.n, block, 0, c->stream>>>(a, to);
	cuda_launched(c, "activation");
}

/* Whether the pass has made the E4M3 form of its output, too. */
static bool with_fp8(struct cuda_device *c, bool forward, const activation_call<bf16> &a, bool aligned)
{
	size_t vectors = a.width / 8;
	aligned = aligned && a.width % 8 == 0 && vectors <= FP8_VECTORS_MAX;
	const struct fp8_place to = cuda_fp8_wanted(
		c, aligned ? a.n : 0, forward ? a.width : 2 * a.width, forward ? (const void *)a.h : a.gate_up);
	if (!to.values)
		return false;
	if (vectors <= 256)
		fp8_issue<1, 256>(c, forward, a, to);
	else
		fp8_issue<4, FP8_VECTORS_MAX / 4>(c, forward, a, to);
	return true;
}

template <typename T, int WIDTH> static void issue(struct cuda_device *c, bool forward, const activation_call<T> &a)
{
	/* as many blocks a token as its pieces need, all of the same size */
	size_t pieces = a.width / WIDTH, across = (pieces + BLOCK - 1) / BLOCK;
	size_t threads = (pieces + across - 1) / across;
	dim3 grid((unsigned)across, (unsigned)(a.n < 65535 ? a.n : 65535));
	unsigned block = (unsigned)((threads + WARP - 1) / WARP * WARP);
	if (forward)
		swiglu_forward<T, WIDTH><<<grid, block, 0, c->stream>>>(a);
	else
		swiglu_backward<T, WIDTH><<<grid, block, 0, c->stream>>>(a);
	cuda_launched(c, "activation");
}

template <typename T> static void activation_typed(struct cuda_device *c, bool forward, const activation_call<T> &a)
{
	constexpr int width = act_vector<T>::count;
	bool aligned = cuda_aligned(a.gate_up) && cuda_aligned(a.dh) && cuda_aligned(a.h) && a.h_row % width == 0;
	if constexpr (std::is_same_v<T, bf16>)
		if (with_fp8(c, forward, a, aligned))
			return;
	if (a.width % width == 0 && aligned)
		issue<T, width>(c, forward, a);
	else
		issue<T, 1>(c, forward, a);
}

static void activation(struct cuda_device *c, enum activation_kind kind, bool forward, size_t n, size_t width,
	const void *dh, const void *gate_up, void *h, size_t h_row)
{
	if (c->base.fault.code)
		return;
	if (kind != ACTIVATION_SWIGLU) {
		cuda_fail(c, SAKIORI_EUNSUPPORTED, "activation kind %d is not implemented on CUDA", (int)kind);
		return;
	}
	if (!n || !width)
		return;
	if (c->base.act == DTYPE_BF16)
		activation_typed<bf16>(c, forward, {n, width, h_row, (bf16 *)gate_up, (const bf16 *)dh, (bf16 *)h});
	else
		activation_typed<float>(c, forward, {n, width, h_row, (float *)gate_up, (const float *)dh, (float *)h});
}

void cuda_activation_forward(struct device *d, enum activation_kind kind, size_t n, size_t width, const void *gate_up,
	void *h, size_t h_stride)
{
	activation(cuda_device(d), kind, true, n, width, NULL, gate_up, h, h_stride ? h_stride : width);
}

void cuda_activation_backward(
	struct device *d, enum activation_kind kind, size_t n, size_t width, const void *dh, void *gate_up, void *h)
{
	activation(cuda_device(d), kind, false, n, width, dh, gate_up, h, width);
}
