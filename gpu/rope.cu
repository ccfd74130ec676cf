/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary embedding in place. A block has all heads of a token (or several tokens), so that cosines and sines come from memory once. */
#include "gpu/elementwise.cuh"

#define BLOCK 256

template <typename T> struct rope_call {
	const float *cosine, *sine; /* (positions, half) */
	const uint32_t *positions;  /* (n) */
	T *x;
	size_t n, heads, stride, half, head_dim;
	float direction; /* 1 forward, -1 backward: the transposed rotation */
};

/* Block: (WIDTH features of a half, heads, tokens); grid: tokens. 85% of the rate of a copy (H100, 8192 tokens, 40 heads of 128). */
template <typename T, int WIDTH> __global__ void __launch_bounds__(BLOCK) rope_turn(rope_call<T> a)
{
	size_t token = (size_t)blockIdx.x * blockDim.z + threadIdx.z;
	if (token >= a.n)
		return;
	size_t position = a.positions[token];
	for (size_t feature = threadIdx.x * WIDTH; feature < a.half; feature += blockDim.x * WIDTH) {
		float cosine[WIDTH], sine[WIDTH];
		load_floats(cosine, a.cosine + position * a.half + feature);
		load_floats(sine, a.sine + position * a.half + feature);
		for (size_t head = threadIdx.y; head < a.heads; head += blockDim.y) {
			T *low = a.x + token * a.stride + head * a.head_dim + feature, *high = low + a.half;
			float x[WIDTH], y[WIDTH], turned_x[WIDTH], turned_y[WIDTH];
			load_floats(x, low);
			load_floats(y, high);
#pragma unroll
			for (int i = 0; i < WIDTH; i++) {
				turned_x[i] = x[i] * cosine[i] - y[i] * (a.direction * sine[i]);
				turned_y[i] = y[i] * cosine[i] + x[i] * (a.direction * sine[i]);
			}
			store_floats(low, turned_x);
			store_floats(high, turned_y);
		}
	}
}

template <typename T, int WIDTH> static void issue(struct cuda_device *c, const rope_call<T> &a)
{
	size_t pieces = a.half / WIDTH;
	unsigned x = (unsigned)(pieces < BLOCK ? pieces : BLOCK);
	unsigned y = (unsigned)(a.heads < BLOCK / x ? a.heads : BLOCK / x);
	unsigned z = BLOCK / (x * y);
	if (z > 64) /* CUDA's limit */
		z = 64;
	rope_turn<T, WIDTH><<<(unsigned)((a.n + z - 1) / z), dim3(x, y, z), 0, c->stream>>>(a);
	cuda_launched(c, "rotary embedding");
}

template <typename T>
static void rope_typed(struct cuda_device *c, const struct rope *r, size_t n, const uint32_t *positions, void *x,
	size_t heads, size_t stride, float direction)
{
	constexpr size_t width = act_vector<T>::count;
	rope_call<T> a = {r->cosine, r->sine, positions, (T *)x, n, heads, stride, r->half, r->head_dim, direction};
	bool whole = r->half % width == 0 && r->head_dim % width == 0 && stride % width == 0 && cuda_aligned(x) &&
		     cuda_aligned(r->cosine) && cuda_aligned(r->sine);
	if (whole)
		issue<T, width>(c, a);
	else
		issue<T, 1>(c, a);
}

static void rope(struct cuda_device *c, const struct rope *r, size_t n, const uint32_t *positions, void *x,
	size_t heads, size_t stride, float direction)
{
	if (c->base.fault.code)
		return;
	if (2 * r->half > r->head_dim || stride < heads * r->head_dim) {
		cuda_fail(c, SAKIORI_EINVAL, "rotary embedding of %zu features in heads of %zu, stride %zu",
			2 * r->half, r->head_dim, stride);
		return;
	}
	if (!n || !heads || !r->half)
		return;
	if (c->base.act == DTYPE_BF16)
		rope_typed<__nv_bfloat16>(c, r, n, positions, x, heads, stride, direction);
	else
		rope_typed<float>(c, r, n, positions, x, heads, stride, direction);
}

void cuda_rope_forward(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *x,
	size_t heads, size_t stride)
{
	rope(cuda_device(d), r, n, positions, x, heads, stride, 1);
}

void cuda_rope_backward(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *dx,
	size_t heads, size_t stride)
{
	rope(cuda_device(d), r, n, positions, dx, heads, stride, -1);
}
