/* SPDX-License-Identifier: Apache-2.0 */
/* What runs over flat buffers: conversions, sums, the optimizer. */
#include <math.h>

#include "gpu/elementwise.cuh"

#define BLOCK 256
#define WIDTH 8 /* elements a thread takes at once where everything is aligned */

/* Grid-stride; each operation below computes WIDTH elements, or one of the rest. AdamW: 28 bytes an element at 95% of the rate of a copy (H100). */
template <int EACH, typename OPERATION> __global__ void __launch_bounds__(BLOCK) flat(OPERATION operation, size_t n)
{
	size_t first = (size_t)blockIdx.x * BLOCK + threadIdx.x, step = (size_t)gridDim.x * BLOCK;
	for (size_t i = first; i < n / EACH; i += step)
		operation.template run<EACH>(i * EACH);
	if constexpr (EACH > 1)
		for (size_t i = n / EACH * EACH + first; i < n; i += step)
			operation.template run<1>(i);
}

template <typename OPERATION>
static void issue(struct cuda_device *c, const OPERATION &operation, size_t n, bool aligned, const char *what)
{
	if (c->base.fault.code || !n)
		return;
	if (aligned)
		flat<WIDTH><<<cuda_blocks(c, n, BLOCK * WIDTH), BLOCK, 0, c->stream>>>(operation, n);
	else
		flat<1><<<cuda_blocks(c, n, BLOCK), BLOCK, 0, c->stream>>>(operation, n);
	cuda_launched(c, what);
}

template <typename TO, typename FROM> struct convert {
	TO *y;
	const FROM *x;
	template <int EACH> __device__ void run(size_t i) const
	{
		float value[EACH];
		load_floats(value, x + i);
		store_floats(y + i, value);
	}
};

/* y += factor * x */
template <typename T> struct accumulate {
	T *y;
	const T *x;
	float factor;
	template <int EACH> __device__ void run(size_t i) const
	{
		float to[EACH], from[EACH];
		load_floats(to, y + i);
		load_floats(from, x + i);
#pragma unroll
		for (int e = 0; e < EACH; e++)
			to[e] += factor * from[e];
		store_floats(y + i, to);
	}
};

struct multiply {
	float *x, factor;
	template <int EACH> __device__ void run(size_t i) const
	{
		float value[EACH];
		load_floats(value, x + i);
#pragma unroll
		for (int e = 0; e < EACH; e++)
			value[e] *= factor;
		store_floats(x + i, value);
	}
};

void cuda_to_act(struct device *d, void *act, const float *x, size_t n)
{
	bool aligned = cuda_aligned(act) && cuda_aligned(x);
	if (d->act == DTYPE_BF16)
		issue(cuda_device(d), convert<__nv_bfloat16, float>{(__nv_bfloat16 *)act, x}, n, aligned, "conversion");
	else
		issue(cuda_device(d), convert<float, float>{(float *)act, x}, n, aligned, "conversion");
}

void cuda_from_act(struct device *d, float *x, const void *act, size_t n)
{
	bool aligned = cuda_aligned(act) && cuda_aligned(x);
	if (d->act == DTYPE_BF16)
		issue(cuda_device(d), convert<float, __nv_bfloat16>{x, (const __nv_bfloat16 *)act}, n, aligned,
			"conversion");
	else
		issue(cuda_device(d), convert<float, float>{x, (const float *)act}, n, aligned, "conversion");
}

void cuda_axpy(struct device *d, float *y, float factor, const float *x, size_t n)
{
	issue(cuda_device(d), accumulate<float>{y, x, factor}, n, cuda_aligned(y) && cuda_aligned(x), "axpy");
}

void cuda_scale(struct device *d, float *x, float factor, size_t n)
{
	issue(cuda_device(d), multiply{x, factor}, n, cuda_aligned(x), "scale");
}

void cuda_add(struct device *d, void *y, const void *x, size_t n)
{
	bool aligned = cuda_aligned(y) && cuda_aligned(x);
	if (d->act == DTYPE_BF16)
		issue(cuda_device(d), accumulate<__nv_bfloat16>{(__nv_bfloat16 *)y, (const __nv_bfloat16 *)x, 1}, n,
			aligned, "add");
	else
		issue(cuda_device(d), accumulate<float>{(float *)y, (const float *)x, 1}, n, aligned, "add");
}

struct adamw_update {
	float *parameters;
	const float *gradients;
	float *first, *second;
	float gradient_scale, beta1, beta2, epsilon;
	float keep;          /* 1 - lr * weight_decay */
	float rate;          /* lr / (1 - beta1^step) */
	float second_factor; /* 1 / sqrt(1 - beta2^step) */

	template <int EACH> __device__ void run(size_t i) const
	{
		float p[EACH], g[EACH], m[EACH], v[EACH];
		load_floats(p, parameters + i);
		load_floats(g, gradients + i);
		load_floats(m, first + i);
		load_floats(v, second + i);
#pragma unroll
		for (int e = 0; e < EACH; e++) {
			float gradient = g[e] * gradient_scale;
			m[e] = beta1 * m[e] + (1 - beta1) * gradient;
			v[e] = beta2 * v[e] + (1 - beta2) * gradient * gradient;
			p[e] = p[e] * keep - rate * m[e] / (sqrtf(v[e]) * second_factor + epsilon);
		}
		store_floats(parameters + i, p);
		store_floats(first + i, m);
		store_floats(second + i, v);
	}
};

void cuda_adamw(struct device *d, const struct adamw *a, float *parameters, const float *gradients, float *first,
	float *second, size_t n)
{
	double correction1 = 1 - pow((double)a->beta1, (double)a->step);
	double correction2 = 1 - pow((double)a->beta2, (double)a->step);
	adamw_update update = {parameters, gradients, first, second, a->gradient_scale, a->beta1, a->beta2, a->epsilon,
		1 - a->lr * a->weight_decay, (float)((double)a->lr / correction1), (float)(1 / sqrt(correction2))};
	issue(cuda_device(d), update, n,
		cuda_aligned(parameters) && cuda_aligned(gradients) && cuda_aligned(first) && cuda_aligned(second),
		"AdamW");
}

#define SQUARES_BLOCK 16384 /* elements that a block sums: the same on every card */
#define LAST_BLOCK 1024

template <int EACH>
__global__ void __launch_bounds__(BLOCK) sum_squares_partial(const float *x, size_t n, double *partial)
{
	size_t first = (size_t)blockIdx.x * SQUARES_BLOCK;
	size_t count = n - first < SQUARES_BLOCK ? n - first : SQUARES_BLOCK;
	double sum = 0;
	for (size_t i = threadIdx.x * EACH; i < count; i += BLOCK * EACH) {
		float value[EACH] = {};
		if (i + EACH <= count)
			load_floats(value, x + first + i);
		else
			for (size_t e = 0; i + e < count; e++)
				value[e] = x[first + i + e];
#pragma unroll
		for (int e = 0; e < EACH; e++)
			sum += (double)value[e] * (double)value[e];
	}
	sum = block_sum<BLOCK>(sum);
	if (threadIdx.x == 0)
		partial[blockIdx.x] = sum;
}

/* One block. */
__global__ void __launch_bounds__(LAST_BLOCK) sum_squares_last(const double *partial, size_t n, double *out)
{
	double sum = 0;
	for (size_t i = threadIdx.x; i < n; i += LAST_BLOCK)
		sum += partial[i];
	sum = block_sum<LAST_BLOCK>(sum);
	if (threadIdx.x == 0)
		*out = sum;
}

void cuda_sum_squares(struct device *d, const float *x, size_t n, double *out)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code)
		return;
	size_t blocks = (n + SQUARES_BLOCK - 1) / SQUARES_BLOCK;
	double *partial = NULL;
	if (blocks) {
		partial = (double *)cuda_scratch(c, SCRATCH_PARTIAL, blocks * sizeof *partial);
		if (!partial)
			return;
		if (cuda_aligned(x))
			sum_squares_partial<4><<<(unsigned)blocks, BLOCK, 0, c->stream>>>(x, n, partial);
		else
			sum_squares_partial<1><<<(unsigned)blocks, BLOCK, 0, c->stream>>>(x, n, partial);
	}
	sum_squares_last<<<1, LAST_BLOCK, 0, c->stream>>>(partial, blocks, out);
	cuda_launched(c, "sum of squares");
}

/* One card trains alone: its gradient is the sum. */
void cuda_reduce(struct device *d, float *x, size_t n)
{
	(void)d;
	(void)x;
	(void)n;
}
