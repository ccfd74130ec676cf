/* SPDX-License-Identifier: Apache-2.0 */
/* Attention in f32 arithmetic for every shape: the parity mode, odd head sizes, and cards or machines where nothing faster serves. A block of
 * 8 warps holds a tile of rows and passes over the row's other side in steps of 32, one a lane; a warp owns `R` of the tile's rows. Bound by
 * shared memory: a score costs 1 + 1/R 16-byte reads for 4 multiplications. Nothing is added in an order that could change. */
#include "gpu/attention.cuh"

#define WARPS 8
#define LANES 32

/* Rows first .. first+rows-1 of a (count, head_dim) matrix as floats, zero behind its ends; `width` is a multiple of 32. */
template <typename T>
__device__ void general_load(
	float *to, int pitch, int rows, const T *from, size_t stride, int first, int count, int features, int width)
{
	int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
	for (int row = warp; row < rows; row += WARPS) {
		bool there = first + row < count;
		const T *source = from + (size_t)(first + row) * stride;
		for (int i = lane; i < width; i += LANES)
			to[row * pitch + i] = there && i < features ? act_load(source[i]) : 0;
	}
}

/* out[i] = row i . the lane's own row, in steps of four features. */
template <int R, int WIDTH>
__device__ __forceinline__ void general_dots(const float *rows, const float *own, float *out)
{
#pragma unroll
	for (int i = 0; i < R; i++)
		out[i] = 0;
#pragma unroll 4
	for (int at = 0; at < WIDTH; at += 4) {
		float4 y = *(const float4 *)(own + at);
#pragma unroll
		for (int i = 0; i < R; i++) {
			float4 x = *(const float4 *)(rows + i * WIDTH + at);
			out[i] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, out[i]))));
		}
	}
}

/* sum[i][c] += sum over j of p (R, 32) times feature lane + 32 c of row j. */
template <int R, int C>
__device__ __forceinline__ void general_gather(const float *p, const float *rows, int pitch, int lane, float (*sum)[C])
{
	for (int j = 0; j < LANES; j += 4) {
		float y[4][C];
#pragma unroll
		for (int k = 0; k < 4; k++)
#pragma unroll
			for (int c = 0; c < C; c++)
				y[k][c] = rows[(j + k) * pitch + lane + c * LANES];
#pragma unroll
		for (int i = 0; i < R; i++) {
			float4 x = *(const float4 *)(p + i * LANES + j);
#pragma unroll
			for (int c = 0; c < C; c++)
				sum[i][c] = fmaf(x.x, y[0][c],
					fmaf(x.y, y[1][c], fmaf(x.z, y[2][c], fmaf(x.w, y[3][c], sum[i][c]))));
		}
	}
}

template <int R, int C> struct general_forward_tiles {
	float q[WARPS * R][C * LANES];
	float k[LANES][C * LANES + 4]; /* the 4 keep 16-byte reads of 8 lanes on different banks */
	float v[LANES][C * LANES + 4];
	float p[WARPS][R][LANES];
};

/* Grid: slots of 8 R queries x heads, heads fastest. */
template <typename T, int R, int C>
__global__ void __launch_bounds__(WARPS *LANES)
	general_forward(struct attention_shape s, const T *q, const T *k, const T *v, T *out, float *log_sum_exp)
{
	constexpr int width = C * LANES, pitch = width + 4;
	extern __shared__ float4 shared[];
	struct general_forward_tiles<R, C> *tiles = (struct general_forward_tiles<R, C> *)shared;
	int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
	int head = blockIdx.x % s.heads, kv_head = head / (s.heads / s.kv_heads);
	struct attention_tile t;
	if (!attention_locate(s, WARPS * R, blockIdx.x / s.heads, true, &t))
		return;
	q += t.q_first * s.q_stride + (size_t)head * s.head_dim;
	k += t.kv_first * s.kv_stride + (size_t)kv_head * s.head_dim;
	v += t.kv_first * s.kv_stride + (size_t)kv_head * s.head_dim;
	general_load(tiles->q[0], width, WARPS * R, q, s.q_stride, t.start, t.q_count, s.head_dim, width);

	int end = min(t.start + WARPS * R, t.q_count);
	int first = max(t.start + t.shift - s.before, 0) / LANES * LANES;
	int last = min(end + t.shift + s.after, t.kv_count);
	int position = t.start + warp * R + t.shift; /* of the warp's first query */
	float most[R], sum[R], o[R][C];
#pragma unroll
	for (int i = 0; i < R; i++) {
		most[i] = -INFINITY;
		sum[i] = 0;
#pragma unroll
		for (int c = 0; c < C; c++)
			o[i][c] = 0;
	}
	for (int block = first; block < last; block += LANES) {
		__syncthreads();
		general_load(tiles->k[0], pitch, LANES, k, s.kv_stride, block, t.kv_count, s.head_dim, width);
		general_load(tiles->v[0], pitch, LANES, v, s.kv_stride, block, t.kv_count, s.head_dim, width);
		__syncthreads();
		float score[R];
		general_dots<R, width>(tiles->q[warp * R], tiles->k[lane], score);
		int key = block + lane;
#pragma unroll
		for (int i = 0; i < R; i++) {
			float x = score[i] * s.scale;
			if (s.softcap > 0)
				x = s.softcap * tanhf(x / s.softcap);
			bool seen = key < t.kv_count && key <= position + i + s.after && key >= position + i - s.before;
			x = seen ? x : -INFINITY;
			float top = x;
			for (int other = LANES / 2; other; other /= 2)
				top = fmaxf(top, __shfl_xor_sync(~0u, top, other));
			top = fmaxf(top, most[i]);
			float back = top == -INFINITY ? 1 : expf(most[i] - top), e = seen ? expf(x - top) : 0;
			most[i] = top;
			sum[i] = sum[i] * back + e;
			tiles->p[warp][i][lane] = e;
#pragma unroll
			for (int c = 0; c < C; c++)
				o[i][c] *= back;
		}
		__syncwarp();
		general_gather<R, C>(tiles->p[warp][0], tiles->v[0], pitch, lane, o);
		__syncwarp();
	}
#pragma unroll
	for (int i = 0; i < R; i++) {
		int query = t.start + warp * R + i;
		float total = sum[i];
		for (int other = LANES / 2; other; other /= 2)
			total += __shfl_xor_sync(~0u, total, other);
		if (query >= t.q_count)
			continue;
		size_t at = (size_t)(t.q_first + query) * s.heads + head;
		for (int c = 0; c < C; c++)
			if (lane + c * LANES < s.head_dim)
				out[at * s.head_dim + lane + c * LANES] = act_store<T>(o[i][c] / total);
		if (log_sum_exp && lane == 0)
			log_sum_exp[at] = most[i] + logf(total);
	}
}

template <int R, int C> struct general_backward_tiles {
	float x[2][WARPS * R][C * LANES]; /* the tile's rows: K and V, or Q and dO */
	float y[2][LANES][C * LANES + 4]; /* what passes: Q and dO, or K and V */
	float p[WARPS][R][LANES];
};

/* What both backward kernels are given. */
template <typename T> struct general_backward_call {
	const T *q, *k, *v, *d_out;
	const float *log_sum_exp, *delta; /* (N, heads) */
	T *dq, *dk, *dv;
};

/* KEYS: the tile's rows are keys, what passes are the queries of all heads of the group: writes dk and dv. Grid: slots of 8 R keys x
 * kv_heads. Else the rows are queries and keys pass: writes dq; slots x heads. In both dS = P (dO V^T - delta). */
template <typename T, int R, int C, bool KEYS>
__global__ void __launch_bounds__(WARPS *LANES)
	general_backward(struct attention_shape s, struct general_backward_call<T> b)
{
	constexpr int width = C * LANES, pitch = width + 4;
	extern __shared__ float4 shared[];
	struct general_backward_tiles<R, C> *tiles = (struct general_backward_tiles<R, C> *)shared;
	int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
	int group = s.heads / s.kv_heads, tile_heads = KEYS ? s.kv_heads : s.heads;
	int tile_head = blockIdx.x % tile_heads, kv_head = KEYS ? tile_head : tile_head / group;
	struct attention_tile t;
	if (!attention_locate(s, WARPS * R, blockIdx.x / tile_heads, !KEYS, &t))
		return;
	int count = t.q_count, own = t.start + warp * R;
	const T *k = b.k + t.q_first * s.kv_stride + (size_t)kv_head * s.head_dim;
	const T *v = b.v + t.q_first * s.kv_stride + (size_t)kv_head * s.head_dim;
	size_t dense = (size_t)s.heads * s.head_dim;
	if (KEYS) {
		general_load(tiles->x[0][0], width, WARPS * R, k, s.kv_stride, t.start, count, s.head_dim, width);
		general_load(tiles->x[1][0], width, WARPS * R, v, s.kv_stride, t.start, count, s.head_dim, width);
	}
	float sums[2][R][C]; /* dk, dv; or dq */
#pragma unroll
	for (int i = 0; i < R; i++)
#pragma unroll
		for (int c = 0; c < C; c++)
			sums[0][i][c] = sums[1][i][c] = 0;
	int end = min(t.start + WARPS * R, count);
	int first = max(t.start - (KEYS ? s.after : s.before), 0) / LANES * LANES;
	int last = min(end + (KEYS ? s.before : s.after), count);
	for (int head = KEYS ? kv_head * group : tile_head; head < (KEYS ? (kv_head + 1) * group : tile_head + 1);
		head++) {
		const T *q = b.q + t.q_first * s.q_stride + (size_t)head * s.head_dim;
		const T *d_out = b.d_out + t.q_first * dense + (size_t)head * s.head_dim;
		const float *lse = b.log_sum_exp + (size_t)t.q_first * s.heads + head;
		const float *delta = b.delta + (size_t)t.q_first * s.heads + head;
		if (!KEYS) {
			general_load(
				tiles->x[0][0], width, WARPS * R, q, s.q_stride, t.start, count, s.head_dim, width);
			general_load(tiles->x[1][0], width, WARPS * R, d_out, dense, t.start, count, s.head_dim, width);
		}
		for (int block = first; block < last; block += LANES) {
			__syncthreads();
			general_load(tiles->y[0][0], pitch, LANES, KEYS ? q : k, KEYS ? s.q_stride : s.kv_stride, block,
				count, s.head_dim, width);
			general_load(tiles->y[1][0], pitch, LANES, KEYS ? d_out : v, KEYS ? dense : s.kv_stride, block,
				count, s.head_dim, width);
			__syncthreads();
			float score[R], dp[R];
			general_dots<R, width>(tiles->x[0][warp * R], tiles->y[0][lane], score);
			general_dots<R, width>(tiles->x[1][warp * R], tiles->y[1][lane], dp);
#pragma unroll
			for (int i = 0; i < R; i++) {
				int query = KEYS ? block + lane : own + i, key = KEYS ? own + i : block + lane;
				bool seen = query < count && key < count && key <= query + s.after &&
					    key >= query - s.before;
				float x = score[i] * s.scale, slope = s.scale, p = 0;
				if (s.softcap > 0) {
					float bent = tanhf(x / s.softcap);
					x = s.softcap * bent;
					slope *= 1 - bent * bent;
				}
				if (seen) {
					p = expf(x - lse[(size_t)query * s.heads]);
					dp[i] = p * (dp[i] - delta[(size_t)query * s.heads]) * slope;
				} else {
					dp[i] = 0;
				}
				tiles->p[warp][i][lane] = KEYS ? p : dp[i];
			}
			__syncwarp();
			if (KEYS) {
				general_gather<R, C>(tiles->p[warp][0], tiles->y[1][0], pitch, lane, sums[1]);
				__syncwarp();
#pragma unroll
				for (int i = 0; i < R; i++)
					tiles->p[warp][i][lane] = dp[i];
				__syncwarp();
			}
			general_gather<R, C>(tiles->p[warp][0], tiles->y[0][0], pitch, lane, sums[0]);
			__syncwarp();
		}
	}
	T *to = KEYS ? b.dk : b.dq;
	size_t stride = KEYS ? s.kv_stride : s.q_stride;
#pragma unroll
	for (int i = 0; i < R; i++)
		for (int c = 0; c < C; c++) {
			int feature = lane + c * LANES;
			if (own + i >= count || feature >= s.head_dim)
				continue;
			size_t at = (t.q_first + own + i) * stride + (size_t)tile_head * s.head_dim + feature;
			to[at] = act_store<T>(sums[0][i][c]);
			if (KEYS)
				b.dv[at] = act_store<T>(sums[1][i][c]);
		}
}

template <typename T, int R, int C>
static void general_forward_launch(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s)
{
	size_t bytes = sizeof(struct general_forward_tiles<R, C>);
	auto kernel = general_forward<T, R, C>;
	if (!cuda_well(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
		    "attention"))
		return;
	unsigned blocks = attention_slots(call->t->count, call->t->rows, WARPS * R) * (unsigned)s.heads;
	kernel<<<blocks, WARPS * LANES, bytes, c->stream>>>(s, (const T *)call->q, (const T *)call->k,
		(const T *)call->v, (T *)(uintptr_t)call->out, call->log_sum_exp);
	cuda_launched(c, "attention");
}

template <typename T, int R, int C, bool KEYS>
static void general_backward_launch(struct cuda_device *c, const struct attention_call *call,
	const struct attention_shape &s, const struct general_backward_call<T> &b)
{
	size_t bytes = sizeof(struct general_backward_tiles<R, C>);
	auto kernel = general_backward<T, R, C, KEYS>;
	if (!cuda_well(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
		    "attention"))
		return;
	unsigned slots = attention_slots(call->t->count, call->t->rows, WARPS * R);
	kernel<<<slots *(unsigned)(KEYS ? s.kv_heads : s.heads), WARPS * LANES, bytes, c->stream>>>(s, b);
	cuda_launched(c, "attention backward");
}

template <typename T>
static void general_backward_of(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s, const float *delta)
{
	struct general_backward_call<T> b = {
		(const T *)call->q, (const T *)call->k, (const T *)call->v,
			(const T *)call->d_out, call->log_sum_exp, delta, (T *)call->dq, (T *)call->dk, (T *)call->dv
	};
	if (s.head_dim <= 64) {
		general_backward_launch<T, 4, 2, true>(c, call, s, b);
		general_backward_launch<T, 4, 2, false>(c, call, s, b);
	} else if (s.head_dim <= 128) {
		general_backward_launch<T, 4, 4, true>(c, call, s, b);
		general_backward_launch<T, 4, 4, false>(c, call, s, b);
	} else {
		general_backward_launch<T, 2, 8, true>(c, call, s, b);
		general_backward_launch<T, 2, 8, false>(c, call, s, b);
	}
}

template <typename T>
static void general_forward_of(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s)
{
	if (s.head_dim <= 64)
		general_forward_launch<T, 8, 2>(c, call, s);
	else if (s.head_dim <= 128)
		general_forward_launch<T, 8, 4>(c, call, s);
	else
		general_forward_launch<T, 2, 8>(c, call, s);
}

void attention_general_forward(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s)
{
	if (c->base.act == DTYPE_BF16)
		general_forward_of<__nv_bfloat16>(c, call, s);
	else
		general_forward_of<float>(c, call, s);
}

void attention_general_backward(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s, const float *delta)
{
	if (c->base.act == DTYPE_BF16)
		general_backward_of<__nv_bfloat16>(c, call, s, delta);
	else
		general_backward_of<float>(c, call, s, delta);
}
