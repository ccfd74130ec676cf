/* SPDX-License-Identifier: Apache-2.0 */
/* SwiGLU over (N, 2 * width): a token's gate and behind it its up. */
#include "gpu/elementwise.cuh"

#define BLOCK 256

template <typename T> struct activation_call {
	size_t n, width;
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
		store_floats(a.h + token * a.width + feature, up);
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
		for (int i = 0; i < WIDTH; i++) {
			float g = gate[i], u = up[i], s = sigmoid<T>(g);
			float silu = g * s;
			h[i] = silu * u;
			up[i] = d[i] * silu;
			gate[i] = d[i] * u * s * (1 + g - silu);
		}
		store_floats(at, gate);
		store_floats(at + a.width, up);
		if (a.h)
			store_floats(a.h + place, h);
	}
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
	if (a.width % width == 0 && cuda_aligned(a.gate_up) && cuda_aligned(a.dh) && cuda_aligned(a.h))
		issue<T, width>(c, forward, a);
	else
		issue<T, 1>(c, forward, a);
}

static void activation(struct cuda_device *c, enum activation_kind kind, bool forward, size_t n, size_t width,
	const void *dh, const void *gate_up, void *h)
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
		activation_typed<__nv_bfloat16>(c, forward,
			{n, width, (__nv_bfloat16 *)gate_up, (const __nv_bfloat16 *)dh, (__nv_bfloat16 *)h});
	else
		activation_typed<float>(c, forward, {n, width, (float *)gate_up, (const float *)dh, (float *)h});
}

void cuda_activation_forward(
	struct device *d, enum activation_kind kind, size_t n, size_t width, const void *gate_up, void *h)
{
	activation(cuda_device(d), kind, true, n, width, NULL, gate_up, h);
}

void cuda_activation_backward(
	struct device *d, enum activation_kind kind, size_t n, size_t width, const void *dh, void *gate_up, void *h)
{
	activation(cuda_device(d), kind, false, n, width, dh, gate_up, h);
}
