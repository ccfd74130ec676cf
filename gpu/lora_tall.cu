/* SPDX-License-Identifier: Apache-2.0 */
/* An adapter's sums over tokens, few ranks wide: grad_b += scale * dy^T s, together with ds = scale * dy B from the same read of dy, and
 * grad_a += ds^T x. */
#include "gpu/lora.cuh"
#include "gpu/mma.cuh"

typedef __nv_bfloat16 bf16;

#define STAGES 3
#define TILE_TOKENS 32
#define WARP_COLS 64
#define TILE_BYTES (TILE_TOKENS * WARP_COLS * 2)
#define WARPS_MAX 8
#define CHUNK_MAX 64 /* ranks of one pass */

/* For each part the sums over tokens of wide (n, width) with z (n, rank); parts lie side by side in wide and in z. */
struct tall_args {
	size_t n, wide_row, tokens_each; /* tokens_each: of one split, a multiple of 32 */
	unsigned z_row, parts;
	unsigned first_block[LORA_PARTS_MAX + 1]; /* of the grid's first dimension */
	unsigned rank[LORA_PARTS_MAX], z_at[LORA_PARTS_MAX];
	size_t width[LORA_PARTS_MAX], at[LORA_PARTS_MAX];
	const float *b[LORA_PARTS_MAX];  /* (width, rank) */
	float *ds[LORA_PARTS_MAX];       /* partial: (blocks of the part, n, rank) */
	float *gradient[LORA_PARTS_MAX]; /* partial: (splits, width, rank); without ds (splits, rank, width) */
	const bf16 *wide, *z;
};

/* What a block works on. */
struct tall_place {
	unsigned part, rank, lane, warp, warps;
	size_t width, col, begin, end; /* col: the warp's first, within the part */
};

template <int NT> __host__ __device__ constexpr unsigned z_pitch(void)
{
	return NT * 16 + 16; /* bytes; no bank twice in ldmatrix */
}

template <int NT> __host__ __device__ constexpr unsigned stage_bytes(unsigned warps)
{
	return warps * TILE_BYTES + TILE_TOKENS * z_pitch<NT>();
}

/* Floats from token to token of a warp's share of ds. */
template <int NT> __host__ __device__ constexpr unsigned share_row(void)
{
	return NT * 8 + 8;
}

template <int NT, bool DS> static size_t tall_bytes(unsigned warps)
{
	return STAGES * stage_bytes<NT>(warps) + (DS ? 2 * warps * TILE_TOKENS * share_row<NT>() * sizeof(float) : 0);
}

template <int NT>
__device__ __forceinline__ void tall_load(
	const struct tall_args &t, const struct tall_place &p, unsigned char *stage, size_t token)
{
#pragma unroll
	for (unsigned i = 0; i < TILE_TOKENS / 4; i++) {
		unsigned row = i * 4 + p.lane / 8, piece = p.lane % 8;
		bool real = token + row < p.end && p.col + piece * 8 < p.width;
		copy_16(stage + p.warp * TILE_BYTES + swizzled(row, piece),
			t.wide + (real ? (token + row) * t.wide_row + t.at[p.part] + p.col + piece * 8 : 0), real);
	}
	for (unsigned i = threadIdx.x; i < TILE_TOKENS * NT; i += blockDim.x) {
		unsigned row = i / NT, piece = i % NT;
		bool real = token + row < p.end && piece * 8 < p.rank;
		copy_16(stage + p.warps * TILE_BYTES + row * z_pitch<NT>() + piece * 16,
			t.z + (real ? (token + row) * t.z_row + t.z_at[p.part] + piece * 8 : 0), real);
	}
}

/* The rows of B that belong to the warp's columns, as right operands. */
template <int NT>
__device__ __forceinline__ void tall_factor(
	const struct tall_args &t, const struct tall_place &p, uint32_t right[4][NT][2])
{
	const float *b = t.b[p.part];
#pragma unroll
	for (unsigned k = 0; k < 4; k++)
#pragma unroll
		for (unsigned j = 0; j < NT; j++)
#pragma unroll
			for (unsigned q = 0; q < 2; q++) {
				size_t col = p.col + k * 16 + q * 8 + p.lane % 4 * 2;
				unsigned r = j * 8 + p.lane / 4;
				bool real = col < p.width && r < p.rank;
				__nv_bfloat162 both =
					real ? __floats2bfloat162_rn(b[col * p.rank + r], b[(col + 1) * p.rank + r])
					     : __floats2bfloat162_rn(0, 0);
				right[k][j][q] = *(uint32_t *)&both;
			}
}

/* ds of a tile over the warp's columns, into its share (32, 8 NT). */
template <int NT>
__device__ __forceinline__ void tall_ds(
	const struct tall_place &p, const unsigned char *tile, const uint32_t right[4][NT][2], float *share)
{
#pragma unroll
	for (unsigned m = 0; m < TILE_TOKENS / 16; m++) {
		float sum[NT][4] = {};
#pragma unroll
		for (unsigned k = 0; k < 4; k++) {
			uint32_t left[4];
			matrices(left, tile + swizzled(m * 16 + p.lane % 16, k * 2 + p.lane / 16));
#pragma unroll
			for (unsigned j = 0; j < NT; j++)
				multiply_add(sum[j], left, right[k][j]);
		}
#pragma unroll
		for (unsigned j = 0; j < NT; j++)
#pragma unroll
			for (unsigned half = 0; half < 2; half++)
				*(float2 *)(share + (m * 16 + p.lane / 4 + half * 8) * share_row<NT>() + j * 8 +
					    p.lane % 4 * 2) = make_float2(sum[j][half * 2], sum[j][half * 2 + 1]);
	}
}

/* The warps' shares of a tile added up, in the order of the warps. */
template <int NT>
__device__ __forceinline__ void tall_fold(
	const struct tall_args &t, const struct tall_place &p, const float *shares, size_t token)
{
	float *out = t.ds[p.part] + (blockIdx.x - t.first_block[p.part]) * t.n * p.rank;
	for (unsigned i = threadIdx.x; i < TILE_TOKENS * NT * 4; i += blockDim.x) {
		unsigned row = i / (NT * 4), r = i % (NT * 4) * 2;
		float2 sum = make_float2(0, 0);
		for (unsigned w = 0; w < p.warps; w++) {
			float2 v = *(const float2 *)(shares + (w * TILE_TOKENS + row) * share_row<NT>() + r);
			sum.x += v.x;
			sum.y += v.y;
		}
		if (token + row < p.end && r < p.rank)
			*(float2 *)(out + (token + row) * p.rank + r) = sum;
	}
}

/* sum (64, 8 NT) += tile^T z */
template <int NT>
__device__ __forceinline__ void tall_gradient(
	const struct tall_place &p, const unsigned char *tile, const unsigned char *z, float sum[4][NT][4])
{
	const unsigned q = p.lane / 8, row = p.lane % 8;
#pragma unroll
	for (unsigned k = 0; k < TILE_TOKENS / 16; k++) {
		uint32_t right[NT][2];
#pragma unroll
		for (unsigned j = 0; j < NT; j += 2)
			matrices_transposed(
				&right[j][0], z + (k * 16 + (q & 1) * 8 + row) * z_pitch<NT>() + (j + q / 2) * 16);
#pragma unroll
		for (unsigned m = 0; m < 4; m++) {
			uint32_t left[4];
			matrices_transposed(left, tile + swizzled(k * 16 + q / 2 * 8 + row, m * 2 + (q & 1)));
#pragma unroll
			for (unsigned j = 0; j < NT; j++)
				multiply_add(sum[m][j], left, right[j]);
		}
	}
}

template <int NT, bool DS>
__device__ __forceinline__ void tall_store(
	const struct tall_args &t, const struct tall_place &p, const float sum[4][NT][4])
{
	float *out = t.gradient[p.part] + blockIdx.y * p.width * p.rank;
#pragma unroll
	for (unsigned m = 0; m < 4; m++)
#pragma unroll
		for (unsigned j = 0; j < NT; j++)
#pragma unroll
			for (unsigned half = 0; half < 2; half++) {
				size_t col = p.col + m * 16 + p.lane / 4 + half * 8;
				unsigned r = j * 8 + p.lane % 4 * 2;
				float2 v = make_float2(sum[m][j][half * 2], sum[m][j][half * 2 + 1]);
				if (col >= p.width || r >= p.rank)
					continue;
				if (DS) {
					*(float2 *)(out + col * p.rank + r) = v;
				} else {
					out[r * p.width + col] = v.x;
					out[(r + 1) * p.width + col] = v.y;
				}
			}
}

/* Grid: (blocks of 64 columns a warp, of all parts; splits of the tokens). The block walks its tokens 32 at a time; a warp keeps the sums of its
 * 64 columns in registers. Reads wide once; writes 4 rank bytes a column and split, and with DS 4 rank bytes a token and block. */
template <int NT, bool DS>
__global__ void __launch_bounds__(WARPS_MAX * 32) lora_tall(const __grid_constant__ struct tall_args t)
{
	extern __shared__ __align__(128) unsigned char shared[];
	struct tall_place p = {.part = 0, .lane = threadIdx.x % 32, .warp = threadIdx.x / 32, .warps = blockDim.x / 32};
	while (blockIdx.x >= t.first_block[p.part + 1])
		p.part++;
	p.rank = t.rank[p.part];
	p.width = t.width[p.part];
	p.col = ((blockIdx.x - t.first_block[p.part]) * p.warps + p.warp) * WARP_COLS;
	p.begin = blockIdx.y * t.tokens_each;
	p.end = p.begin + t.tokens_each < t.n ? p.begin + t.tokens_each : t.n;
	const unsigned bytes = stage_bytes<NT>(p.warps), share = TILE_TOKENS * share_row<NT>();
	float *shares = (float *)(shared + STAGES * bytes);
	const unsigned tiles = (unsigned)((p.end - p.begin + TILE_TOKENS - 1) / TILE_TOKENS);
	for (unsigned i = 0; i < STAGES - 1; i++) {
		if (i < tiles)
			tall_load<NT>(t, p, shared + i * bytes, p.begin + i * TILE_TOKENS);
		copies_close();
	}
	uint32_t right[4][NT][2];
	if (DS)
		tall_factor<NT>(t, p, right);
	float sum[4][NT][4] = {};
	for (unsigned i = 0; i < tiles; i++) {
		copies_wait<STAGES - 2>();
		__syncthreads();
		unsigned ahead = i + STAGES - 1;
		if (ahead < tiles)
			tall_load<NT>(t, p, shared + ahead % STAGES * bytes, p.begin + ahead * TILE_TOKENS);
		copies_close();
		/* The shares of the tile before are complete; those of two before are free. */
		if (DS && i)
			tall_fold<NT>(t, p, shares + (i - 1) % 2 * p.warps * share, p.begin + (i - 1) * TILE_TOKENS);
		const unsigned char *stage = shared + i % STAGES * bytes, *tile = stage + p.warp * TILE_BYTES;
		if (DS)
			tall_ds<NT>(p, tile, right, shares + (i % 2 * p.warps + p.warp) * share);
		tall_gradient<NT>(p, tile, stage + p.warps * TILE_BYTES, sum);
	}
	__syncthreads();
	if (DS)
		tall_fold<NT>(t, p, shares + (tiles - 1) % 2 * p.warps * share, p.begin + (tiles - 1) * TILE_TOKENS);
	tall_store<NT, DS>(t, p, sum);
}

/* gradient += the part's scale * the sum of the splits' partial sums. */
struct gradient_sums {
	float *out[LORA_PARTS_MAX]; /* NULL: not wanted */
	const float *partial[LORA_PARTS_MAX];
	size_t count[LORA_PARTS_MAX], step[LORA_PARTS_MAX]; /* step: from split to split */
	unsigned splits;
	float scale[LORA_PARTS_MAX];
};

/* Grid: (blocks, parts). */
__global__ void sum_gradient_partials(const __grid_constant__ struct gradient_sums g)
{
	const unsigned part = blockIdx.y;
	if (!g.out[part])
		return;
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < g.count[part];
		i += (size_t)gridDim.x * blockDim.x) {
		float sum = 0;
#pragma unroll 8
		for (unsigned s = 0; s < g.splits; s++)
			sum += g.partial[part][s * g.step[part] + i];
		g.out[part][i] += g.scale[part] * sum;
	}
}

static void sum_gradients(struct cuda_device *c, const struct gradient_sums *g, unsigned parts)
{
	size_t most = 0;
	for (unsigned i = 0; i < parts; i++)
		most = g->count[i] > most ? g->count[i] : most;
	sum_gradient_partials<<<dim3(cuda_blocks(c, most, 256), parts), 256, 0, c->stream>>>(*g);
	cuda_launched(c, "an adapter's sums over tokens");
}

template <int NT, bool DS> static void tall_launch(struct cuda_device *c, const struct tall_args *t, unsigned warps)
{
	size_t bytes = tall_bytes<NT, DS>(warps);
	if (!lora_skinny_grant(c, (const void *)lora_tall<NT, DS>))
		return;
	dim3 blocks(t->first_block[t->parts], (unsigned)((t->n + t->tokens_each - 1) / t->tokens_each));
	lora_tall<NT, DS><<<blocks, warps * 32, bytes, c->stream>>>(*t);
	cuda_launched(c, "an adapter's gradients");
}

/* Warps a block: few of them idle, yet many share a sum. `most`: what shared memory allows. */
static unsigned choose_warps(const struct tall_args *t, unsigned most)
{
	unsigned best = 1;
	float best_score = 0;
	for (unsigned warps = 1; warps <= most; warps++) {
		size_t busy = 0, all = 0;
		for (unsigned i = 0; i < t->parts; i++) {
			size_t each = (t->width[i] + WARP_COLS - 1) / WARP_COLS;
			busy += t->rank[i] ? each : 0;
			all += t->rank[i] ? (each + warps - 1) / warps * warps : 0;
		}
		float score = all ? (float)busy / (float)all * (float)warps / (float)(warps + 1) : 0;
		if (score >= best_score) {
			best_score = score;
			best = warps;
		}
	}
	return best;
}

/* Cuts the widths into blocks and the tokens into as many splits as fill the card once. Returns the splits. */
static unsigned choose_grid(const struct cuda_device *c, struct tall_args *t, unsigned warps, size_t bytes)
{
	for (unsigned i = 0; i < t->parts; i++) {
		size_t blocks = t->rank[i] ? (t->width[i] + warps * WARP_COLS - 1) / (warps * WARP_COLS) : 0;
		t->first_block[i + 1] = t->first_block[i] + (unsigned)blocks;
	}
	unsigned fit = (unsigned)(lora_skinny_shared(c) / (bytes + 1024)), busy = (WARPS_MAX + warps - 1) / warps;
	unsigned each = fit < 1 ? 1 : fit < busy ? fit : busy;
	size_t splits = (size_t)c->multiprocessors * each / t->first_block[t->parts];
	splits = splits < 1 ? 1 : splits;
	t->tokens_each = ((t->n + splits - 1) / splits + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
	if (t->tokens_each < 4 * TILE_TOKENS)
		t->tokens_each = 4 * TILE_TOKENS;
	return (unsigned)((t->n + t->tokens_each - 1) / t->tokens_each);
}

void lora_skinny_ds(const struct lora_call *call)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	struct tall_args t = {
		.n = call->n, .wide_row = call->rows, .z_row = (unsigned)call->ranks, .parts = (unsigned)l->parts};
	struct token_sums sums = {.n = call->n, .ranks = (unsigned)call->ranks, .parts = t.parts};
	struct gradient_sums gradients = {};
	unsigned rank = 0, warps = WARPS_MAX;
	for (size_t i = 0, row = 0, at = 0; i < l->parts; i++) {
		const struct lora_part *p = &l->part[i];
		t.rank[i] = sums.rank[i] = (unsigned)p->rank;
		sums.scale[i] = gradients.scale[i] = lora_part_scale(l, i);
		t.z_at[i] = sums.at[i] = (unsigned)at;
		t.width[i] = p->rows;
		t.at[i] = row;
		t.b[i] = p->b;
		rank = t.rank[i] > rank ? t.rank[i] : rank;
		row += p->rows;
		at += p->rank;
	}
	bool narrow = rank <= 16;
	while (warps > 1 && (narrow ? tall_bytes<2, true>(warps) : tall_bytes<4, true>(warps)) > lora_skinny_shared(c))
		warps--;
	warps = choose_warps(&t, warps);
	unsigned splits = choose_grid(c, &t, warps, narrow ? tall_bytes<2, true>(warps) : tall_bytes<4, true>(warps));
	size_t total = 0;
	for (unsigned i = 0; i < t.parts; i++)
		total += t.rank[i] * ((t.first_block[i + 1] - t.first_block[i]) * t.n + splits * t.width[i]);
	float *partial = (float *)cuda_scratch(c, SCRATCH_PARTIAL, total * sizeof *partial);
	if (!partial)
		return;
	for (unsigned i = 0; i < t.parts; i++) {
		sums.blocks[i] = t.first_block[i + 1] - t.first_block[i];
		sums.partial[i] = t.ds[i] = partial;
		partial += t.rank[i] * sums.blocks[i] * t.n;
		gradients.partial[i] = t.gradient[i] = partial;
		gradients.count[i] = gradients.step[i] = t.rank[i] * t.width[i];
		partial += t.rank[i] * splits * t.width[i];
		gradients.out[i] = l->part[i].grad_b;
	}
	t.wide = (const bf16 *)call->dy;
	t.z = (const bf16 *)call->s;
	if (narrow)
		tall_launch<2, true>(c, &t, warps);
	else
		tall_launch<4, true>(c, &t, warps);
	gradients.splits = splits;
	sums.out = (bf16 *)call->ds;
	if (c->base.fault.code)
		return;
	lora_skinny_sum_tokens(c, &sums);
	sum_gradients(c, &gradients, t.parts);
}

/* The sums with x of `ranks` columns of ds from the first on, to partial (splits, ranks, cols). Returns the splits. */
static unsigned tall_a(
	const struct lora_call *call, unsigned first, unsigned ranks, unsigned warps, struct tall_args *t)
{
	struct cuda_device *c = call->c;
	unsigned splits = choose_grid(c, t, warps, tall_bytes<8, false>(warps));
	t->gradient[0] = (float *)cuda_scratch(c, SCRATCH_PARTIAL, splits * ranks * call->cols * sizeof(float));
	t->z_at[0] = first;
	if (!t->gradient[0])
		return 0;
	if (ranks <= 16)
		tall_launch<2, false>(c, t, warps);
	else if (ranks <= 32)
		tall_launch<4, false>(c, t, warps);
	else if (ranks <= 48)
		tall_launch<6, false>(c, t, warps);
	else
		tall_launch<8, false>(c, t, warps);
	return splits;
}

void lora_skinny_gradient_a(const struct lora_call *call)
{
	const struct lora_linear *l = call->l;
	struct tall_args t = {.n = call->n, .wide_row = call->x_row, .z_row = (unsigned)call->ranks, .parts = 1};
	t.width[0] = call->cols;
	t.wide = (const bf16 *)call->x;
	t.z = (const bf16 *)call->ds;
	size_t at = 0;
	/* As many parts a pass as its sums have registers for. */
	for (size_t i = 0, next; i < l->parts && !call->c->base.fault.code; i = next) {
		unsigned ranks = 0;
		struct gradient_sums g = {.scale = {1, 1, 1, 1}};
		for (next = i; next < l->parts && ranks + l->part[next].rank <= CHUNK_MAX; next++) {
			g.out[next - i] = l->part[next].rank ? l->part[next].grad_a : NULL;
			g.count[next - i] = l->part[next].rank * call->cols;
			ranks += (unsigned)l->part[next].rank;
		}
		t.rank[0] = ranks;
		if (ranks)
			g.splits = tall_a(call, (unsigned)at, ranks, choose_warps(&t, WARPS_MAX / 2), &t);
		const float *partial = t.gradient[0];
		for (size_t j = i; j < next; j++) {
			g.partial[j - i] = partial;
			g.step[j - i] = ranks * call->cols;
			partial += g.count[j - i];
		}
		if (g.splits && !call->c->base.fault.code)
			sum_gradients(call->c, &g, (unsigned)(next - i));
		at += ranks;
	}
}
