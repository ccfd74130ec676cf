/* SPDX-License-Identifier: Apache-2.0 */
/* Dropout over (N, width): which elements stay is a pure function of their place, so that nothing is kept for the backward. */
#include "gpu/elementwise.cuh"
#include "gpu/philox.cuh"

#define BLOCK 256
#define PIECES 8 /* of a block of random numbers: 16 bits an element */

template <typename T> struct dropout_call {
	struct dropout r;
	size_t n, width, x_row;
	const T *x;
	T *y;
};

/* y = x kept, or += when ADD. Grid: (pieces of WIDTH elements, tokens). WIDTH is 8 where tokens begin at whole blocks of random numbers, else 1. */
template <typename T, int WIDTH, bool ADD> __global__ void __launch_bounds__(BLOCK) drop(dropout_call<T> a)
{
	const size_t feature = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
	const uint64_t stream = a.r.stream + a.r.at[0], before = a.r.at[1];
	const float factor = (float)DROPOUT_ALL / (float)a.r.keep;
	if (feature >= a.width)
		return;
	for (size_t token = blockIdx.y; token < a.n; token += gridDim.y) {
		const uint64_t element = (before + token) * a.width + feature;
		const unsigned first = WIDTH == PIECES ? 0 : (unsigned)(element % PIECES);
		uint32_t words[4];
		float x[WIDTH], y[WIDTH] = {};
		philox(a.r.seed, stream, element / PIECES, words);
		load_floats(x, a.x + token * a.x_row + feature);
		if constexpr (ADD)
			load_floats(y, a.y + token * a.width + feature);
#pragma unroll
		for (unsigned i = 0; i < WIDTH; i++) {
			unsigned piece = first + i;
			uint32_t number = words[piece / 2] >> (piece % 2 * 16) & 0xffff;
			y[i] += number < a.r.keep ? x[i] * factor : 0;
		}
		store_floats(a.y + token * a.width + feature, y);
	}
}

template <typename T, int WIDTH> static void issue(struct cuda_device *c, bool add, const dropout_call<T> &a)
{
	size_t pieces = a.width / WIDTH, across = (pieces + BLOCK - 1) / BLOCK;
	size_t threads = (pieces + across - 1) / across;
	dim3 grid((unsigned)across, (unsigned)(a.n < 65535 ? a.n : 65535));
	unsigned block = (unsigned)((threads + WARP - 1) / WARP * WARP);
	if (add)
		drop<T, WIDTH, true><<<grid, block, 0, c->stream>>>(a);
	else
		drop<T, WIDTH, false><<<grid, block, 0, c->stream>>>(a);
	cuda_launched(c, "dropout");
}

template <typename T> static void dropout_typed(struct cuda_device *c, bool add, const dropout_call<T> &a)
{
	if (a.width % PIECES == 0 && a.x_row % PIECES == 0 && cuda_aligned(a.x) && cuda_aligned(a.y))
		issue<T, PIECES>(c, add, a);
	else
		issue<T, 1>(c, add, a);
}

static void dropout(struct cuda_device *c, const struct dropout *r, bool add, size_t n, size_t width, const void *x,
	size_t x_row, void *y)
{
	if (c->base.fault.code)
		return;
	if (r->keep < 1 || r->keep > DROPOUT_ALL) {
		cuda_fail(c, SAKIORI_EINVAL, "dropout keeps %u of %u", (unsigned)r->keep, (unsigned)DROPOUT_ALL);
		return;
	}
	if (!n || !width)
		return;
	cuda_fp8_forget(c, y);
	if (c->base.act == DTYPE_BF16)
		dropout_typed<__nv_bfloat16>(
			c, add, {*r, n, width, x_row, (const __nv_bfloat16 *)x, (__nv_bfloat16 *)y});
	else
		dropout_typed<float>(c, add, {*r, n, width, x_row, (const float *)x, (float *)y});
}

void cuda_dropout_forward(
	struct device *d, const struct dropout *r, size_t n, size_t width, const void *x, size_t x_stride, void *y)
{
	dropout(cuda_device(d), r, false, n, width, x, x_stride ? x_stride : width, y);
}

void cuda_dropout_backward(struct device *d, const struct dropout *r, size_t n, size_t width, const void *dy, void *dx)
{
	dropout(cuda_device(d), r, true, n, width, dy, width, dx);
}
