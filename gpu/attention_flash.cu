/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on tensor cores for heads of 64 and 128 features in bf16, with the instructions every card from sm_80 on has
 * (mma.m16n8k16 with f32 sums, ldmatrix, cp.async). Scores and probabilities stay in registers: the sums of one product are laid out as the
 * next one's left operand. What passes by is fetched one tile ahead into the other half of a double buffer, so that one barrier a tile is
 * enough. The backward runs twice, once over tiles of keys (dk, dv) and once over tiles of queries (dq): 7 products instead of 5, and in return
 * no atomics and no order that could change. Measured on an H100, 4 rows of 2048, 32/8 heads of 128, causal: 276 TFLOP/s forward and 192
 * backward (counted as 5 products); cuDNN in the same run: 547 and 369.
 *
 * Tiles in shared memory: rows of D bf16 in pieces of 16 bytes, piece i of row r at i ^ (r & 7), so that ldmatrix's 8 rows lie on
 * different banks. */
#include "gpu/attention.cuh"

#define TILE 128    /* queries, or keys, of a block */
#define KEYS 64     /* that pass at once in the forward */
#define VISITORS 32 /* rows that pass at once in the backward */
#define LOG2_E 1.4426950408889634f

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float flash_exp2(float x)
{
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

__device__ __forceinline__ uint32_t flash_pack(float low, float high)
{
	__nv_bfloat162 both = __floats2bfloat162_rn(low, high);
	return *(uint32_t *)&both;
}

/* Address of piece `piece` of row `row`. */
template <int D> __device__ __forceinline__ uint32_t flash_at(uint32_t tile, int row, int piece)
{
	return tile + (uint32_t)(row * D * 2 + ((piece ^ (row & 7)) << 4));
}

__device__ __forceinline__ void flash_matrices(uint32_t *r, uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(at)
		     : "memory");
}

__device__ __forceinline__ void flash_matrices_turned(uint32_t *r, uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(at)
		     : "memory");
}

/* sum (16, 8) += a (16, 16) b (16, 8). Thread 4 g + t holds rows g and g + 8, columns 2 t and 2 t + 1 of sum. */
__device__ __forceinline__ void flash_multiply(float *sum, const uint32_t *a, uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
	    "%1, %2, %3};"
		: "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Left operand: rows row .. row+15, features 16 step .. 16 step + 15. */
template <int D> __device__ __forceinline__ void flash_left(uint32_t *a, uint32_t tile, int row, int step)
{
	int lane = threadIdx.x % 32;
	flash_matrices(a, flash_at<D>(tile, row + lane % 16, step * 2 + lane / 16));
}

/* Right operands of two products: the tile's rows row .. row+7 (r[0], r[1]) and row+8 .. row+15 (r[2], r[3]) are the columns, features add up. */
template <int D> __device__ __forceinline__ void flash_columns(uint32_t *r, uint32_t tile, int row, int step)
{
	int lane = threadIdx.x % 32;
	flash_matrices(r, flash_at<D>(tile, row + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
}

/* Right operands of two products: features 16 step .. + 7 (r[0], r[1]) and + 8 .. + 15 (r[2], r[3]) are the columns, rows row .. row+15 add up. */
template <int D> __device__ __forceinline__ void flash_rows(uint32_t *r, uint32_t tile, int row, int step)
{
	int lane = threadIdx.x % 32;
	flash_matrices_turned(r, flash_at<D>(tile, row + lane % 16, step * 2 + lane / 16));
}

/* Starts fetching rows first .. first+ROWS-1 of a (count, D) matrix; zero behind its end. */
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void flash_fetch(uint32_t tile, const bf16 *from, size_t stride, int first, int count)
{
	constexpr int pieces = D / 8;
#pragma unroll
	for (int i = 0; i < ROWS * pieces / THREADS; i++) {
		int at = i * THREADS + (int)threadIdx.x, row = at / pieces, piece = at % pieces;
		bool there = first + row < count;
		const bf16 *source = from + (size_t)(there ? first + row : 0) * stride + piece * 8;
		asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
			     :
			     : "r"(flash_at<D>(tile, row, piece)), "l"(source), "r"(there ? 16 : 0)
			     : "memory");
	}
}

/* The same of VISITORS single floats, `heads` apart. */
__device__ __forceinline__ void flash_fetch_floats(uint32_t to, const float *from, int heads, int first, int count)
{
	int row = (int)threadIdx.x % VISITORS;
	bool there = first + row < count;
	const float *source = from + (size_t)(there ? first + row : 0) * heads;
	asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
		     :
		     : "r"(to + row * 4), "l"(source), "r"(there ? 4 : 0)
		     : "memory");
}

__device__ __forceinline__ void flash_fetched(void)
{
	asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
	__syncthreads();
}

/* Writes a warp's rows (16, D) of sums, times factor of rows g and g + 8, through its own rows of a tile in shared memory. */
template <int D>
__device__ __forceinline__ void flash_store(
	const float (*sum)[4], float factor, float factor_8, uint32_t tile, int row, bf16 *to, size_t stride, int rows)
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	__syncwarp();
#pragma unroll
	for (int n = 0; n < D / 8; n++) {
		asm volatile("st.shared.b32 [%0], %1;" ::"r"(flash_at<D>(tile, row + g, n) + t * 4),
			     "r"(flash_pack(sum[n][0] * factor, sum[n][1] * factor))
			     : "memory");
		asm volatile("st.shared.b32 [%0], %1;" ::"r"(flash_at<D>(tile, row + g + 8, n) + t * 4),
			     "r"(flash_pack(sum[n][2] * factor_8, sum[n][3] * factor_8))
			     : "memory");
	}
	__syncwarp();
	constexpr int pieces = D / 8;
#pragma unroll
	for (int i = 0; i < 16 * pieces / 32; i++) {
		int at = i * 32 + lane, own = at / pieces, piece = at % pieces;
		uint4 x;
		asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
			     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
			     : "r"(flash_at<D>(tile, row + own, piece))
			     : "memory");
		if (own < rows)
			asm volatile(
				"st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to + (size_t)own * stride + piece * 8),
				"r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
				: "memory");
	}
}

/* Largest and sum over the four threads of a row. */
__device__ __forceinline__ float flash_row_max(float x)
{
	x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
	return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ __forceinline__ float flash_row_sum(float x)
{
	x += __shfl_xor_sync(~0u, x, 1);
	return x + __shfl_xor_sync(~0u, x, 2);
}

/* ---- forward ---- */

template <int D> struct flash_forward_tiles {
	bf16 q[TILE][D];
	bf16 k[2][KEYS][D];
	bf16 v[2][KEYS][D];
};

/* From a warp's raw scores (16, KEYS) to probabilities relative to the running maximum `most` (times `factor` in base 2), with o and sum brought to
 * the new maximum. */
template <int D>
__device__ __forceinline__ void flash_soften(float (*score)[4], float *most, float *sum, float (*o)[4], float factor)
{
#pragma unroll
	for (int half = 0; half < 2; half++) {
		float top = most[half];
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
			top = fmaxf(top, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
		top = flash_row_max(top);
		/* No key seen yet: anything finite, the probabilities are 0 all the same. */
		float base = top == -INFINITY ? 0 : top * factor, back = flash_exp2(most[half] * factor - base),
		      total = 0;
		most[half] = top;
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
			for (int e = 2 * half; e < 2 * half + 2; e++) {
				score[n][e] = flash_exp2(fmaf(score[n][e], factor, -base));
				total += score[n][e];
			}
		sum[half] = sum[half] * back + total;
#pragma unroll
		for (int n = 0; n < D / 8; n++) {
			o[n][2 * half] *= back;
			o[n][2 * half + 1] *= back;
		}
	}
}

/* -infinity where the query does not see the key. position: of the warp's first row; block: first key. */
__device__ __forceinline__ void flash_hide(
	float (*score)[4], const struct attention_shape &s, int position, int block, int kv_count)
{
	int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
	for (int half = 0; half < 2; half++) {
		int here = position + g + 8 * half;
		int low = here - s.before - block - 2 * t, high = min(here + s.after, kv_count - 1) - block - 2 * t;
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
			for (int e = 0; e < 2; e++)
				if (n * 8 + e < low || n * 8 + e > high)
					score[n][2 * half + e] = -INFINITY;
	}
}

/* Grid: slots of TILE queries x heads, heads fastest; 4 warps of 32 queries. */
template <int D>
__global__ void __launch_bounds__(128, 2) flash_forward(
	struct attention_shape s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *log_sum_exp)
{
	extern __shared__ float4 shared[];
	uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
	uint32_t q_tile = base, k_tile = base + (uint32_t)offsetof(struct flash_forward_tiles<D>, k),
		 v_tile = base + (uint32_t)offsetof(struct flash_forward_tiles<D>, v);
	constexpr uint32_t passing = KEYS * D * 2;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int head = blockIdx.x % s.heads, kv_head = head / (s.heads / s.kv_heads);
	struct attention_tile tile;
	if (!attention_locate(s, TILE, blockIdx.x / s.heads, true, &tile))
		return;
	q += tile.q_first * s.q_stride + (size_t)head * D;
	k += tile.kv_first * s.kv_stride + (size_t)kv_head * D;
	v += tile.kv_first * s.kv_stride + (size_t)kv_head * D;
	int end = min(tile.start + TILE, tile.q_count);
	int first = max(tile.start + tile.shift - s.before, 0) / KEYS * KEYS;
	int last = min(end + tile.shift + s.after, tile.kv_count);
	int position = tile.start + warp * 32 + tile.shift; /* of the warp's first query */
	float factor = s.softcap > 0 ? LOG2_E : s.scale * LOG2_E;

	float o[2][D / 8][4], most[2][2], sum[2][2];
#pragma unroll
	for (int m = 0; m < 2; m++) {
		most[m][0] = most[m][1] = -INFINITY;
		sum[m][0] = sum[m][1] = 0;
#pragma unroll
		for (int n = 0; n < D / 8; n++)
			o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0;
	}
	flash_fetch<D, TILE, 128>(q_tile, q, s.q_stride, tile.start, tile.q_count);
	flash_fetch<D, KEYS, 128>(k_tile, k, s.kv_stride, first, tile.kv_count);
	flash_fetch<D, KEYS, 128>(v_tile, v, s.kv_stride, first, tile.kv_count);
	for (int block = first, stage = 0; block < last; block += KEYS, stage ^= 1) {
		flash_fetched();
		if (block + KEYS < last) {
			flash_fetch<D, KEYS, 128>(
				k_tile + (stage ^ 1) * passing, k, s.kv_stride, block + KEYS, tile.kv_count);
			flash_fetch<D, KEYS, 128>(
				v_tile + (stage ^ 1) * passing, v, s.kv_stride, block + KEYS, tile.kv_count);
		}
		if (block > position + 31 + s.after || block + KEYS <= position - s.before)
			continue;
		float score[2][KEYS / 8][4];
#pragma unroll
		for (int m = 0; m < 2; m++)
#pragma unroll
			for (int n = 0; n < KEYS / 8; n++)
				score[m][n][0] = score[m][n][1] = score[m][n][2] = score[m][n][3] = 0;
#pragma unroll
		for (int step = 0; step < D / 16; step++) {
			uint32_t a[2][4];
			flash_left<D>(a[0], q_tile, warp * 32, step);
			flash_left<D>(a[1], q_tile, warp * 32 + 16, step);
#pragma unroll
			for (int n = 0; n < KEYS / 16; n++) {
				uint32_t b[4];
				flash_columns<D>(b, k_tile + stage * passing, n * 16, step);
#pragma unroll
				for (int m = 0; m < 2; m++) {
					flash_multiply(score[m][2 * n], a[m], b[0], b[1]);
					flash_multiply(score[m][2 * n + 1], a[m], b[2], b[3]);
				}
			}
		}
		bool edge = block + KEYS > tile.kv_count || block + KEYS - 1 > position + s.after ||
			    block < position + 31 - s.before;
#pragma unroll
		for (int m = 0; m < 2; m++) {
			if (s.softcap > 0)
#pragma unroll
				for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
					for (int e = 0; e < 4; e++)
						score[m][n][e] =
							s.softcap * tanhf(score[m][n][e] * s.scale / s.softcap);
			if (edge)
				flash_hide(score[m], s, position + 16 * m, block, tile.kv_count);
			flash_soften<D>(score[m], most[m], sum[m], o[m], factor);
		}
#pragma unroll
		for (int step = 0; step < KEYS / 16; step++) {
			uint32_t a[2][4];
#pragma unroll
			for (int m = 0; m < 2; m++)
#pragma unroll
				for (int i = 0; i < 4; i++)
					a[m][i] = flash_pack(score[m][2 * step + i / 2][i % 2 * 2],
						score[m][2 * step + i / 2][i % 2 * 2 + 1]);
#pragma unroll
			for (int n = 0; n < D / 16; n++) {
				uint32_t b[4];
				flash_rows<D>(b, v_tile + stage * passing, step * 16, n);
#pragma unroll
				for (int m = 0; m < 2; m++) {
					flash_multiply(o[m][2 * n], a[m], b[0], b[1]);
					flash_multiply(o[m][2 * n + 1], a[m], b[2], b[3]);
				}
			}
		}
	}
#pragma unroll
	for (int m = 0; m < 2; m++) {
		int row = warp * 32 + m * 16, query = tile.start + row;
		float total[2];
#pragma unroll
		for (int half = 0; half < 2; half++) {
			total[half] = flash_row_sum(sum[m][half]);
			int own = query + lane / 4 + 8 * half;
			if (log_sum_exp && lane % 4 == 0 && own < tile.q_count)
				log_sum_exp[(size_t)(tile.q_first + own) * s.heads + head] =
					most[m][half] * (factor / LOG2_E) + logf(total[half]);
		}
		flash_store<D>(o[m], 1 / total[0], 1 / total[1], q_tile, row,
			out + ((size_t)(tile.q_first + query) * s.heads + head) * D, (size_t)s.heads * D,
			tile.q_count - query);
	}
}

/* ---- backward ---- */

template <int D> struct flash_backward_tiles {
	bf16 x[2][TILE][D];            /* the tile's rows: K and V, or Q and dO */
	bf16 y[2][2][VISITORS][D];     /* what passes: Q and dO, or K and V */
	float numbers[2][2][VISITORS]; /* log-sum-exp and delta of passing queries */
};

struct flash_backward_call {
	const bf16 *q, *k, *v, *d_out;
	const float *log_sum_exp, *delta; /* (N, heads) */
	bf16 *dq, *dk, *dv;
};

/* Raw scores become those whose capped, scaled value is the softmax's; dp becomes what keeps p (dp - delta) right, the cap's slope included. */
template <bool BY_KEYS>
__device__ __forceinline__ void flash_cap(float (*score)[4], float (*dp)[4], float scale, float softcap,
	const float *delta, const float (*numbers)[VISITORS])
{
	int t = threadIdx.x % 4;
#pragma unroll
	for (int n = 0; n < VISITORS / 8; n++)
#pragma unroll
		for (int e = 0; e < 4; e++) {
			float middle = BY_KEYS ? numbers[1][n * 8 + 2 * t + e % 2] : delta[e / 2];
			float bent = tanhf(score[n][e] * scale / softcap);
			score[n][e] = softcap * bent / scale;
			dp[n][e] = middle + (dp[n][e] - middle) * (1 - bent * bent);
		}
}

/* From raw scores and dp to p and ds without the scale, for the warp's 16 rows from own on against VISITORS from block on; those further than
 * `low` back or `high` ahead do not see each other (edge: there may be such). lse (in base 2), delta: of rows g and g + 8 when they are
 * queries. numbers: of the passing queries otherwise. */
template <bool BY_KEYS>
__device__ __forceinline__ void flash_harden(float (*score)[4], float (*dp)[4], float scale, int own, int block,
	int count, int low, int high, bool edge, const float *lse, const float *delta, const float (*numbers)[VISITORS])
{
	int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
	float factor = scale * LOG2_E;
#pragma unroll
	for (int n = 0; n < VISITORS / 8; n++)
#pragma unroll
		for (int e = 0; e < 4; e++) {
			float top = BY_KEYS ? numbers[0][n * 8 + 2 * t + e % 2] * LOG2_E : lse[e / 2];
			score[n][e] = flash_exp2(fmaf(score[n][e], factor, -top));
		}
	if (edge)
#pragma unroll
		for (int half = 0; half < 2; half++) {
			int here = own + g + 8 * half - block - 2 * t;
			int from = here - low, to = min(here + high, count - 1 - block - 2 * t);
#pragma unroll
			for (int n = 0; n < VISITORS / 8; n++)
#pragma unroll
				for (int e = 0; e < 2; e++)
					if (n * 8 + e < from || n * 8 + e > to)
						score[n][2 * half + e] = 0;
		}
#pragma unroll
	for (int n = 0; n < VISITORS / 8; n++)
#pragma unroll
		for (int e = 0; e < 4; e++) {
			float middle = BY_KEYS ? numbers[1][n * 8 + 2 * t + e % 2] : delta[e / 2];
			dp[n][e] = score[n][e] * (dp[n][e] - middle);
		}
}

/* BY_KEYS: the tile's rows are keys, what passes are the queries of all heads of the group: writes dk and dv. Grid: slots of TILE keys x kv_heads.
 * Else the rows are queries and keys pass: writes dq; slots x heads. WARPS * M * 16 = TILE. */
template <int D, int WARPS, int M, bool BY_KEYS>
__global__ void __launch_bounds__(WARPS * 32) flash_backward(struct attention_shape s, struct flash_backward_call b)
{
	static_assert(WARPS * M * 16 == TILE, "the warps share the tile");
	constexpr int threads = WARPS * 32;
	constexpr uint32_t owned = TILE * D * 2, passing = VISITORS * D * 2;
	extern __shared__ float4 shared[];
	struct flash_backward_tiles<D> *tiles = (struct flash_backward_tiles<D> *)shared;
	uint32_t x = (uint32_t)__cvta_generic_to_shared(tiles->x), y = (uint32_t)__cvta_generic_to_shared(tiles->y),
		 numbers = (uint32_t)__cvta_generic_to_shared(tiles->numbers);
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int group = s.heads / s.kv_heads, tile_heads = BY_KEYS ? s.kv_heads : s.heads;
	int tile_head = blockIdx.x % tile_heads, kv_head = BY_KEYS ? tile_head : tile_head / group;
	struct attention_tile tile;
	if (!attention_locate(s, TILE, blockIdx.x / tile_heads, !BY_KEYS, &tile))
		return;
	int count = tile.q_count, own = tile.start + warp * M * 16;
	size_t dense = (size_t)s.heads * D;
	int first_head = BY_KEYS ? kv_head * group : tile_head;
	const bf16 *q = b.q + tile.q_first * s.q_stride + (size_t)first_head * D;
	const bf16 *d_out = b.d_out + tile.q_first * dense + (size_t)first_head * D;
	const bf16 *k = b.k + tile.q_first * s.kv_stride + (size_t)kv_head * D;
	const bf16 *v = b.v + tile.q_first * s.kv_stride + (size_t)kv_head * D;
	const float *lse = b.log_sum_exp + (size_t)tile.q_first * s.heads + first_head;
	const float *delta = b.delta + (size_t)tile.q_first * s.heads + first_head;
	int end = min(tile.start + TILE, count);
	int first = max(tile.start - (BY_KEYS ? s.after : s.before), 0) / VISITORS * VISITORS;
	int last = min(end + (BY_KEYS ? s.before : s.after), count);
	int steps = (last - first + VISITORS - 1) / VISITORS, items = BY_KEYS ? steps * group : steps;

	auto fetch = [&](int item, int stage) {
		int head = item / steps, block = first + item % steps * VISITORS;
		uint32_t to = y + stage * 2 * passing, to_numbers = numbers + stage * 2 * VISITORS * 4;
		flash_fetch<D, VISITORS, threads>(
			to, BY_KEYS ? q + (size_t)head * D : k, BY_KEYS ? s.q_stride : s.kv_stride, block, count);
		flash_fetch<D, VISITORS, threads>(to + passing, BY_KEYS ? d_out + (size_t)head * D : v,
			BY_KEYS ? dense : s.kv_stride, block, count);
		if (BY_KEYS && threadIdx.x < VISITORS)
			flash_fetch_floats(to_numbers, lse + head, s.heads, block, count);
		else if (BY_KEYS && threadIdx.x < 2 * VISITORS)
			flash_fetch_floats(to_numbers + VISITORS * 4, delta + head, s.heads, block, count);
	};
	float own_lse[M][2], own_delta[M][2];
	if (!BY_KEYS)
#pragma unroll
		for (int m = 0; m < M; m++)
#pragma unroll
			for (int half = 0; half < 2; half++) {
				int query = own + m * 16 + lane / 4 + 8 * half;
				bool there = query < count;
				own_lse[m][half] = there ? lse[(size_t)query * s.heads] * LOG2_E : 0;
				own_delta[m][half] = there ? delta[(size_t)query * s.heads] : 0;
			}
	float sums[BY_KEYS ? 2 : 1][M][D / 8][4]; /* dk, dv; or dq */
#pragma unroll
	for (int which = 0; which < (BY_KEYS ? 2 : 1); which++)
#pragma unroll
		for (int m = 0; m < M; m++)
#pragma unroll
			for (int n = 0; n < D / 8; n++)
				sums[which][m][n][0] = sums[which][m][n][1] = sums[which][m][n][2] =
					sums[which][m][n][3] = 0;
	flash_fetch<D, TILE, threads>(x, BY_KEYS ? k : q, BY_KEYS ? s.kv_stride : s.q_stride, tile.start, count);
	flash_fetch<D, TILE, threads>(x + owned, BY_KEYS ? v : d_out, BY_KEYS ? s.kv_stride : dense, tile.start, count);
	fetch(0, 0);
	for (int item = 0; item < items; item++) {
		int stage = item % 2, block = first + item % steps * VISITORS;
		flash_fetched();
		if (item + 1 < items)
			fetch(item + 1, stage ^ 1);
		/* Rows own .. own + 16 M - 1 against block .. block + VISITORS - 1: `low` is how far the other side begins behind. */
		int low = BY_KEYS ? s.after : s.before, high = BY_KEYS ? s.before : s.after;
		if (block > own + M * 16 - 1 + high || block + VISITORS <= own - low)
			continue;
		uint32_t y1 = y + stage * 2 * passing, y2 = y1 + passing;
		float score[M][VISITORS / 8][4], dp[M][VISITORS / 8][4];
#pragma unroll
		for (int m = 0; m < M; m++)
#pragma unroll
			for (int n = 0; n < VISITORS / 8; n++)
#pragma unroll
				for (int e = 0; e < 4; e++)
					score[m][n][e] = dp[m][n][e] = 0;
#pragma unroll
		for (int step = 0; step < D / 16; step++)
#pragma unroll
			for (int which = 0; which < 2; which++) {
				uint32_t left[M][4];
#pragma unroll
				for (int m = 0; m < M; m++)
					flash_left<D>(left[m], x + which * owned, warp * M * 16 + m * 16, step);
#pragma unroll
				for (int n = 0; n < VISITORS / 16; n++) {
					uint32_t right[4];
					flash_columns<D>(right, which ? y2 : y1, n * 16, step);
#pragma unroll
					for (int m = 0; m < M; m++) {
						float(*to)[4] = which ? dp[m] : score[m];
						flash_multiply(to[2 * n], left[m], right[0], right[1]);
						flash_multiply(to[2 * n + 1], left[m], right[2], right[3]);
					}
				}
			}
		bool edge =
			block + VISITORS > count || block + VISITORS - 1 > own + high || block < own + M * 16 - 1 - low;
#pragma unroll
		for (int m = 0; m < M; m++) {
			if (s.softcap > 0)
				flash_cap<BY_KEYS>(
					score[m], dp[m], s.scale, s.softcap, own_delta[m], tiles->numbers[stage]);
			flash_harden<BY_KEYS>(score[m], dp[m], s.scale, own + m * 16, block, count, low, high, edge,
				own_lse[m], own_delta[m], tiles->numbers[stage]);
		}
#pragma unroll
		for (int which = 0; which < (BY_KEYS ? 2 : 1); which++)
#pragma unroll
			for (int step = 0; step < VISITORS / 16; step++) {
				uint32_t left[M][4];
#pragma unroll
				for (int m = 0; m < M; m++)
#pragma unroll
					for (int i = 0; i < 4; i++) {
						const float *from = (which ? score : dp)[m][2 * step + i / 2];
						left[m][i] = flash_pack(from[i % 2 * 2], from[i % 2 * 2 + 1]);
					}
#pragma unroll
				for (int n = 0; n < D / 16; n++) {
					uint32_t right[4];
					flash_rows<D>(right, which ? y2 : y1, step * 16, n);
#pragma unroll
					for (int m = 0; m < M; m++) {
						flash_multiply(sums[which][m][2 * n], left[m], right[0], right[1]);
						flash_multiply(sums[which][m][2 * n + 1], left[m], right[2], right[3]);
					}
				}
			}
	}
	size_t stride = BY_KEYS ? s.kv_stride : s.q_stride;
#pragma unroll
	for (int m = 0; m < M; m++) {
		int row = warp * M * 16 + m * 16, token = tile.start + row;
		size_t at = (size_t)(tile.q_first + token) * stride + (size_t)tile_head * D;
		flash_store<D>(
			sums[0][m], s.scale, s.scale, x, row, (BY_KEYS ? b.dk : b.dq) + at, stride, count - token);
		if constexpr (BY_KEYS)
			flash_store<D>(sums[1][m], 1, 1, x, row, b.dv + at, stride, count - token);
	}
}

/* ---- launches ---- */

static bool aligned(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

bool attention_flash_takes(const struct cuda_device *c, const struct attention_call *call)
{
	const struct attention *a = call->a;
	return c->base.act == DTYPE_BF16 && a->scale > 0 && (a->head_dim == 64 || a->head_dim == 128) &&
	       a->q_stride % 8 == 0 && a->kv_stride % 8 == 0 && aligned(call->q) && aligned(call->k) &&
	       aligned(call->v) && aligned(call->out) && aligned(call->d_out) && aligned(call->dq) &&
	       aligned(call->dk) && aligned(call->dv);
}

template <int D>
static void flash_forward_launch(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s)
{
	size_t bytes = sizeof(struct flash_forward_tiles<D>);
	auto kernel = flash_forward<D>;
	if (!cuda_well(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
		    "attention"))
		return;
	unsigned blocks = attention_slots(call->t->count, call->t->rows, TILE) * (unsigned)s.heads;
	kernel<<<blocks, 128, bytes, c->stream>>>(s, (const bf16 *)call->q, (const bf16 *)call->k,
		(const bf16 *)call->v, (bf16 *)(uintptr_t)call->out, call->log_sum_exp);
	cuda_launched(c, "attention");
}

template <int D, int WARPS, int M, bool BY_KEYS>
static void flash_backward_launch(struct cuda_device *c, const struct attention_call *call,
	const struct attention_shape &s, const struct flash_backward_call &b)
{
	size_t bytes = sizeof(struct flash_backward_tiles<D>);
	auto kernel = flash_backward<D, WARPS, M, BY_KEYS>;
	if (!cuda_well(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
		    "attention"))
		return;
	unsigned slots = attention_slots(call->t->count, call->t->rows, TILE);
	kernel<<<slots *(unsigned)(BY_KEYS ? s.kv_heads : s.heads), WARPS * 32, bytes, c->stream>>>(s, b);
	cuda_launched(c, "attention backward");
}

void attention_flash_forward(struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s)
{
	if (s.head_dim == 64)
		flash_forward_launch<64>(c, call, s);
	else
		flash_forward_launch<128>(c, call, s);
}

void attention_flash_backward(
	struct cuda_device *c, const struct attention_call *call, const struct attention_shape &s, const float *delta)
{
	struct flash_backward_call b = {(const bf16 *)call->q, (const bf16 *)call->k, (const bf16 *)call->v,
		(const bf16 *)call->d_out, call->log_sum_exp, delta, (bf16 *)call->dq, (bf16 *)call->dk,
		(bf16 *)call->dv};
	if (s.head_dim == 64) {
		flash_backward_launch<64, 4, 2, true>(c, call, s, b);
		flash_backward_launch<64, 4, 2, false>(c, call, s, b);
	} else {
		flash_backward_launch<128, 8, 1, true>(c, call, s, b);
		flash_backward_launch<128, 4, 2, false>(c, call, s, b);
	}
}
