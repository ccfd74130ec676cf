/* SPDX-License-Identifier: Apache-2.0 */
/* An adapter's products where one side is a few ranks wide. They do almost no arithmetic: what counts is that each wide matrix is read or written
 * once, at the memory's rate. bf16 operands on the tensor cores (mma.sync, sm_80 and later), f32 sums in a fixed order: where
 * several blocks share a sum, each leaves its own partial sum and a second kernel adds them up. */
#include "gpu/elementwise.cuh"
#include "gpu/lora.cuh"
#include "gpu/mma.cuh"

typedef __nv_bfloat16 bf16;

#define RANK_MAX 32  /* of one part */
#define RANKS_MAX 96 /* of all parts */

bool lora_skinny_takes(const struct lora_call *call, const void *out)
{
	const struct lora_linear *l = call->l;
	uintptr_t places = (uintptr_t)call->x | (uintptr_t)call->down_x | (uintptr_t)call->dy | (uintptr_t)call->s |
			   (uintptr_t)call->ds | (uintptr_t)out;
	size_t sizes = call->cols | call->x_row | call->down_row;
	for (size_t i = 0; i < l->parts; i++) {
		sizes |= l->part[i].rows | l->part[i].rank;
		if (l->part[i].rank > RANK_MAX || (uintptr_t)l->part[i].a % 16 || (uintptr_t)l->part[i].b % 8)
			return false;
	}
	/* The first product's tiles of A grow with the ranks. */
	size_t most = lora_skinny_shared(call->c) < (120 << 10) ? 64 : RANKS_MAX;
	return call->c->base.act == DTYPE_BF16 && call->ranks && call->ranks <= most && sizes % 8 == 0 &&
	       places % 16 == 0;
}

/* ---- factors ---- */

struct factor_args {
	const float *a[LORA_PARTS_MAX];
	unsigned rank[LORA_PARTS_MAX], at[LORA_PARTS_MAX];
	unsigned ranks;
	size_t cols;
};

/* The parts' A one above the other, (ranks, cols). Grid: (blocks, parts); a thread makes 8 columns of a rank. */
__global__ void factor_a(const __grid_constant__ struct factor_args f, bf16 *out)
{
	const float *from = f.a[blockIdx.y];
	const size_t all = f.rank[blockIdx.y] * f.cols;
	out += f.at[blockIdx.y] * f.cols;
	for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8; i < all;
		i += (size_t)gridDim.x * blockDim.x * 8) {
		float v[8];
		load_floats<8>(v, from + i);
		store_8(out + i, v);
	}
}

/* The same transposed, (cols, ranks). A thread makes 8 ranks of a column. */
__global__ void factor_a_transposed(const __grid_constant__ struct factor_args f, bf16 *out)
{
	const float *from = f.a[blockIdx.y];
	const size_t all = f.rank[blockIdx.y] / 8 * f.cols;
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (size_t)gridDim.x * blockDim.x) {
		size_t col = i % f.cols, first = i / f.cols * 8;
		float v[8];
#pragma unroll
		for (unsigned r = 0; r < 8; r++)
			v[r] = from[(first + r) * f.cols + col];
		store_8(out + col * f.ranks + f.at[blockIdx.y] + first, v);
	}
}

static bf16 *factors(const struct lora_call *call, bool transposed)
{
	struct cuda_device *c = call->c;
	struct factor_args f = {.ranks = (unsigned)call->ranks, .cols = call->cols};
	unsigned at = 0, most = 0;
	for (size_t i = 0; i < call->l->parts; i++) {
		f.a[i] = call->l->part[i].a;
		f.rank[i] = (unsigned)call->l->part[i].rank;
		f.at[i] = at;
		at += f.rank[i];
		most = f.rank[i] > most ? f.rank[i] : most;
	}
	bf16 *out = (bf16 *)cuda_scratch(c, SCRATCH_LORA_A, call->ranks * call->cols * sizeof *out);
	if (!out)
		return NULL;
	dim3 blocks(cuda_blocks(c, call->cols * most / 8, 256), (unsigned)call->l->parts);
	if (transposed)
		factor_a_transposed<<<blocks, 256, 0, c->stream>>>(f, out);
	else
		factor_a<<<blocks, 256, 0, c->stream>>>(f, out);
	return cuda_launched(c, "adapter factors") ? out : NULL;
}

/* ---- s = x A^T ---- */

#define DOWN_TOKENS 128
#define DOWN_STAGES 4

struct down_args {
	size_t n, cols, x_row, behind_row;
	unsigned ranks;
	size_t cols_each; /* columns of one split, a multiple of 64 */
	const bf16 *x, *a;
	bf16 *s;        /* without splits; NULL: not wanted */
	bf16 *behind;   /* the same again, behind_row apart; NULL: not wanted */
	float *partial; /* (splits, n, ranks) */
};

template <int NT>
__device__ __forceinline__ void down_load(const struct down_args &d, unsigned char *stage, size_t token, size_t col)
{
	for (unsigned i = threadIdx.x; i < DOWN_TOKENS * 8; i += 256) {
		unsigned row = i / 8, piece = i % 8;
		bool real = token + row < d.n && col + piece * 8 < d.cols;
		copy_16(stage + swizzled(row, piece), d.x + (real ? (token + row) * d.x_row + col + piece * 8 : 0),
			real);
	}
	for (unsigned i = threadIdx.x; i < NT * 64; i += 256) {
		unsigned row = i / 8, piece = i % 8;
		bool real = row < d.ranks && col + piece * 8 < d.cols;
		copy_16(stage + DOWN_TOKENS * 128 + swizzled(row, piece),
			d.a + (real ? row * d.cols + col + piece * 8 : 0), real);
	}
}

/* Grid: (blocks of 128 tokens, splits of the columns). A warp sums 16 tokens by 8 NT ranks. Reads x once and A once a block, from L2. */
template <int NT> __global__ void __launch_bounds__(256) lora_down(const __grid_constant__ struct down_args d)
{
	extern __shared__ __align__(128) unsigned char shared[];
	const unsigned stage_bytes = (DOWN_TOKENS + NT * 8) * 128;
	const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	const size_t token = (size_t)blockIdx.x * DOWN_TOKENS, begin = blockIdx.y * d.cols_each;
	const size_t end = begin + d.cols_each < d.cols ? begin + d.cols_each : d.cols;
	const unsigned tiles = (unsigned)((end - begin + 63) / 64);
	float sum[NT][4] = {};
	for (unsigned t = 0; t < DOWN_STAGES - 1; t++) {
		if (t < tiles)
			down_load<NT>(d, shared + t * stage_bytes, token, begin + t * 64);
		copies_close();
	}
	for (unsigned t = 0; t < tiles; t++) {
		copies_wait<DOWN_STAGES - 2>();
		__syncthreads();
		unsigned ahead = t + DOWN_STAGES - 1;
		if (ahead < tiles)
			down_load<NT>(d, shared + ahead % DOWN_STAGES * stage_bytes, token, begin + ahead * 64);
		copies_close();
		const unsigned char *x = shared + t % DOWN_STAGES * stage_bytes, *a = x + DOWN_TOKENS * 128;
#pragma unroll
		for (unsigned k = 0; k < 4; k++) {
			uint32_t left[4], right[4];
			matrices(left, x + swizzled(warp * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
			for (unsigned j = 0; j < NT; j += 2) {
				matrices(right, a + swizzled(j * 8 + lane % 8 + lane / 16 * 8, k * 2 + (lane / 8 & 1)));
				multiply_add(sum[j], left, right);
				multiply_add(sum[j + 1], left, right + 2);
			}
		}
	}
	for (unsigned j = 0; j < NT; j++)
		for (unsigned half = 0; half < 2; half++) {
			size_t row = token + warp * 16 + lane / 4 + half * 8;
			unsigned rank = j * 8 + lane % 4 * 2;
			if (row >= d.n || rank >= d.ranks)
				continue;
			float2 v = make_float2(sum[j][half * 2], sum[j][half * 2 + 1]);
			if (gridDim.y == 1 && d.s)
				*(__nv_bfloat162 *)(d.s + row * d.ranks + rank) = __float22bfloat162_rn(v);
			if (gridDim.y == 1 && d.behind)
				*(__nv_bfloat162 *)(d.behind + row * d.behind_row + rank) = __float22bfloat162_rn(v);
			if (gridDim.y > 1)
				*(float2 *)(d.partial + (blockIdx.y * d.n + row) * d.ranks + rank) = v;
		}
}

/* ---- the second stage of sums over columns ---- */

/* Grid: (blocks, parts); a thread sums two ranks of a token. */
__global__ void sum_token_partials(const __grid_constant__ struct token_sums t)
{
	const unsigned part = blockIdx.y, rank = t.rank[part], halves = rank / 2;
	const float *partial = t.partial[part];
	const size_t all = t.n * halves, step = t.n * rank;
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (size_t)gridDim.x * blockDim.x) {
		float2 sum = make_float2(0, 0);
#pragma unroll 8
		for (unsigned b = 0; b < t.blocks[part]; b++) {
			float2 v = *(const float2 *)(partial + b * step + i * 2);
			sum.x += v.x;
			sum.y += v.y;
		}
		const size_t token = i / halves, at = t.at[part] + i % halves * 2;
		const __nv_bfloat162 rounded = __floats2bfloat162_rn(sum.x * t.scale[part], sum.y * t.scale[part]);
		if (t.out)
			*(__nv_bfloat162 *)(t.out + token * t.ranks + at) = rounded;
		if (t.behind)
			*(__nv_bfloat162 *)(t.behind + token * t.behind_row + at) = rounded;
	}
}

void lora_skinny_sum_tokens(struct cuda_device *c, const struct token_sums *t)
{
	dim3 blocks(cuda_blocks(c, t->n * t->ranks / 2, 256), t->parts);
	sum_token_partials<<<blocks, 256, 0, c->stream>>>(*t);
	cuda_launched(c, "an adapter's sums over columns");
}

size_t lora_skinny_shared(const struct cuda_device *c)
{
	/* CUDA programming guide, technical specifications by compute capability */
	if (c->architecture == 80 || c->architecture == 87)
		return 163 << 10;
	return c->architecture >= 90 && c->architecture < 120 ? 227 << 10 : 99 << 10;
}

bool lora_skinny_grant(struct cuda_device *c, const void *kernel)
{
	const int most = (int)lora_skinny_shared(c);
	return cuda_well(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
		"shared memory of an adapter's product");
}

template <int NT> static void down_launch(struct cuda_device *c, const struct down_args *d, dim3 blocks)
{
	size_t bytes = (DOWN_TOKENS + NT * 8) * 128 * DOWN_STAGES;
	if (!lora_skinny_grant(c, (const void *)lora_down<NT>))
		return;
	lora_down<NT><<<blocks, 256, bytes, c->stream>>>(*d);
	cuda_launched(c, "an adapter's first product");
}

void lora_skinny_down(const struct lora_call *call)
{
	struct cuda_device *c = call->c;
	struct down_args d = {.n = call->n, .cols = call->cols, .x_row = call->down_row, .behind_row = call->x_row};
	d.ranks = (unsigned)call->ranks;
	d.x = (const bf16 *)call->down_x;
	d.s = (bf16 *)call->s;
	/* What lies between the tokens is the operation's own (compute.h). */
	d.behind = call->joins ? (bf16 *)call->x + call->cols : NULL;
	d.a = factors(call, false);
	size_t blocks = (call->n + DOWN_TOKENS - 1) / DOWN_TOKENS, tiles = (call->cols + 63) / 64;
	/* One wave of blocks with four tiles under way each keeps the memory busy; more splits only make more partial sums. */
	size_t splits = (size_t)c->multiprocessors / blocks;
	splits = splits > tiles / 4 ? tiles / 4 : splits;
	splits = splits < 1 ? 1 : splits > 32 ? 32 : splits;
	d.cols_each = (tiles + splits - 1) / splits * 64;
	splits = (call->cols + d.cols_each - 1) / d.cols_each;
	if (splits > 1)
		d.partial = (float *)cuda_scratch(c, SCRATCH_PARTIAL, splits * call->n * call->ranks * sizeof(float));
	if (!d.a || (splits > 1 && !d.partial))
		return;
	dim3 grid((unsigned)blocks, (unsigned)splits);
	if (call->ranks <= 16)
		down_launch<2>(c, &d, grid);
	else if (call->ranks <= 32)
		down_launch<4>(c, &d, grid);
	else if (call->ranks <= 48)
		down_launch<6>(c, &d, grid);
	else if (call->ranks <= 64)
		down_launch<8>(c, &d, grid);
	else
		down_launch<12>(c, &d, grid);
	if (splits == 1 || c->base.fault.code)
		return;
	struct token_sums t = {.n = call->n, .ranks = d.ranks, .parts = 1, .scale = {1}, .out = d.s};
	t.behind = d.behind;
	t.behind_row = d.behind_row;
	t.rank[0] = d.ranks;
	t.blocks[0] = (unsigned)splits;
	t.partial[0] = d.partial;
	lora_skinny_sum_tokens(c, &t);
}

/* ---- the weight's room ---- */

struct room_args {
	const float *b[LORA_PARTS_MAX];
	unsigned rank[LORA_PARTS_MAX], at[LORA_PARTS_MAX]; /* at: of the part's ranks */
	size_t first[LORA_PARTS_MAX + 1];                  /* of the parts' rows */
	unsigned ranks;
	float scale[LORA_PARTS_MAX];
	bf16 *out; /* (rows, ranks), row apart */
	size_t row;
};

/* A thread makes 8 ranks of a row. */
__global__ void fill_room(const __grid_constant__ struct room_args r)
{
	const unsigned pieces = r.ranks / 8;
	const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / pieces;
	const unsigned rank = i % pieces * 8;
	unsigned part = 0;
	if (row >= r.first[LORA_PARTS_MAX])
		return;
	while (row >= r.first[part + 1])
		part++;
	float v[8] = {};
	if (rank >= r.at[part] && rank < r.at[part] + r.rank[part]) {
		const float *from = r.b[part] + (row - r.first[part]) * r.rank[part] + rank - r.at[part];
#pragma unroll
		for (unsigned k = 0; k < 8; k += 2) {
			float2 both = *(const float2 *)(from + k);
			v[k] = r.scale[part] * both.x;
			v[k + 1] = r.scale[part] * both.y;
		}
	}
	store_8(r.out + row * r.row + rank, v);
}

void lora_skinny_room(const struct lora_call *call)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	struct room_args r = {.ranks = (unsigned)call->ranks, .row = l->weight->row};
	unsigned at = 0;
	if (c->base.fault.code)
		return;
	for (size_t i = 0; i < LORA_PARTS_MAX; i++) {
		const struct lora_part *p = i < l->parts ? &l->part[i] : NULL;
		r.b[i] = p ? p->b : NULL;
		r.rank[i] = p ? (unsigned)p->rank : 0;
		r.scale[i] = p ? lora_part_scale(l, i) : 0;
		r.at[i] = at;
		r.first[i + 1] = r.first[i] + (p ? p->rows : 0);
		at += r.rank[i];
	}
	r.out = (bf16 *)l->weight->data + call->cols;
	size_t threads = call->rows * (call->ranks / 8);
	fill_room<<<(unsigned)((threads + 255) / 256), 256, 0, c->stream>>>(r);
	cuda_launched(c, "an adapter beside its weight");
}

/* ---- y = scale * s B^T, and dx = ds A ---- */

#define WIDE_COLS 512 /* outputs of a block */

/* out (n, width) = scale * z (n, rank) f (width, rank)^T, for each part its own columns and scale. */
struct wide_args {
	size_t n, out_row;
	unsigned parts, z_row;
	unsigned first_block[LORA_PARTS_MAX + 1]; /* of the grid's second dimension */
	unsigned rank[LORA_PARTS_MAX], z_at[LORA_PARTS_MAX];
	size_t width[LORA_PARTS_MAX], out_at[LORA_PARTS_MAX];
	const void *f[LORA_PARTS_MAX];
	const bf16 *z;
	float scale[LORA_PARTS_MAX];
	bf16 *out;
};

__device__ __forceinline__ uint32_t pair(const float *p)
{
	float2 v = *(const float2 *)p;
	__nv_bfloat162 both = __float22bfloat162_rn(v);
	return *(uint32_t *)&both;
}
__device__ __forceinline__ uint32_t pair(const bf16 *p)
{
	return *(const uint32_t *)p;
}

/* Grid: (blocks of 16 MT tokens, blocks of 512 columns of the parts), 4 warps, each of which makes 32 columns at a time: four products of 8
 * columns, dealt out so that a lane ends up with 8 columns in a row and writes 16 bytes. KS: steps of 16 ranks. */
template <int KS, int MT, bool ADD, typename F>
__global__ void __launch_bounds__(128) lora_wide(const __grid_constant__ struct wide_args w)
{
	const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	unsigned part = 0;
	while (blockIdx.y >= w.first_block[part + 1])
		part++;
	const unsigned rank = w.rank[part];
	const size_t width = w.width[part], token = (size_t)blockIdx.x * (16 * MT) + lane / 4;
	const F *f = (const F *)w.f[part];
	const float scale = w.scale[part];
	uint32_t left[MT][KS][4];
#pragma unroll
	for (unsigned m = 0; m < MT; m++)
#pragma unroll
		for (unsigned k = 0; k < KS; k++)
#pragma unroll
			for (unsigned q = 0; q < 4; q++) {
				size_t row = token + m * 16 + (q & 1) * 8;
				unsigned r = k * 16 + q / 2 * 8 + lane % 4 * 2;
				left[m][k][q] = row < w.n && r < rank
							? *(const uint32_t *)(w.z + row * w.z_row + w.z_at[part] + r)
							: 0;
			}
	size_t first = (size_t)(blockIdx.y - w.first_block[part]) * WIDE_COLS;
	const size_t last = first + WIDE_COLS < width ? first + WIDE_COLS : width;
	for (first += warp * 32; first < last; first += 128) {
		uint32_t right[4][KS][2];
#pragma unroll
		for (unsigned j = 0; j < 4; j++) {
			size_t col = first + lane / 8 * 8 + j * 2 + (lane / 4 & 1);
#pragma unroll
			for (unsigned k = 0; k < KS; k++)
#pragma unroll
				for (unsigned q = 0; q < 2; q++) {
					unsigned r = k * 16 + q * 8 + lane % 4 * 2;
					right[j][k][q] = col < width && r < rank ? pair(f + col * rank + r) : 0;
				}
		}
		const size_t col = first + lane % 4 * 8;
#pragma unroll
		for (unsigned m = 0; m < MT; m++) {
			float sum[4][4] = {};
#pragma unroll
			for (unsigned k = 0; k < KS; k++)
#pragma unroll
				for (unsigned j = 0; j < 4; j++)
					multiply_add(sum[j], left[m][k], right[j][k]);
#pragma unroll
			for (unsigned half = 0; half < 2; half++) {
				size_t row = token + m * 16 + half * 8;
				if (row >= w.n || col >= width)
					continue;
				bf16 *at = w.out + row * w.out_row + w.out_at[part] + col;
				float value[8], before[8] = {};
				if (ADD)
					load_floats<8>(before, at);
#pragma unroll
				for (unsigned i = 0; i < 8; i++)
					value[i] = scale * sum[i / 2][half * 2 + i % 2] + before[i];
				store_8(at, value);
			}
		}
	}
}

template <int KS, int MT, bool ADD, typename F>
static void wide_launch(struct cuda_device *c, const struct wide_args *w)
{
	dim3 blocks((unsigned)((w->n + 16 * MT - 1) / (16 * MT)), w->first_block[w->parts]);
	lora_wide<KS, MT, ADD, F><<<blocks, 128, 0, c->stream>>>(*w);
	cuda_launched(c, "an adapter's second product");
}

template <bool ADD> static void wide_dx(struct cuda_device *c, const struct wide_args *w)
{
	if (w->rank[0] <= 16)
		wide_launch<1, 8, ADD, bf16>(c, w);
	else if (w->rank[0] <= 32)
		wide_launch<2, 4, ADD, bf16>(c, w);
	else if (w->rank[0] <= 48)
		wide_launch<3, 4, ADD, bf16>(c, w);
	else if (w->rank[0] <= 64)
		wide_launch<4, 4, ADD, bf16>(c, w);
	else
		wide_launch<6, 4, ADD, bf16>(c, w);
}

void lora_skinny_up(const struct lora_call *call, void *y)
{
	const struct lora_linear *l = call->l;
	struct wide_args w = {
		.n = call->n, .out_row = call->rows, .parts = (unsigned)l->parts, .z_row = (unsigned)call->ranks};
	unsigned most = 0;
	for (size_t i = 0, at = 0, row = 0; i < l->parts; i++) {
		const struct lora_part *p = &l->part[i];
		w.first_block[i + 1] = w.first_block[i] + (unsigned)((p->rows + WIDE_COLS - 1) / WIDE_COLS);
		w.rank[i] = (unsigned)p->rank;
		w.z_at[i] = (unsigned)at;
		w.width[i] = p->rows;
		w.out_at[i] = row;
		w.f[i] = p->b;
		w.scale[i] = lora_part_scale(l, i);
		most = p->rank > most ? (unsigned)p->rank : most;
		at += p->rank;
		row += p->rows;
	}
	w.z = (const bf16 *)call->s;
	w.out = (bf16 *)y;
	if (most <= 16)
		wide_launch<1, 8, false, float>(call->c, &w);
	else
		wide_launch<2, 4, false, float>(call->c, &w);
}

void lora_skinny_dx(const struct lora_call *call, void *dx, bool add)
{
	struct wide_args w = {.n = call->n, .out_row = call->cols, .parts = 1, .z_row = (unsigned)call->ranks};
	w.first_block[1] = (unsigned)((call->cols + WIDE_COLS - 1) / WIDE_COLS);
	w.rank[0] = (unsigned)call->ranks;
	w.width[0] = call->cols;
	w.f[0] = factors(call, true);
	w.z = (const bf16 *)call->ds;
	w.scale[0] = 1;
	w.out = (bf16 *)dx;
	if (w.f[0] && add)
		wide_dx<true>(call->c, &w);
	else if (w.f[0])
		wide_dx<false>(call->c, &w);
}
