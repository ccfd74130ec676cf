/* SPDX-License-Identifier: Apache-2.0 */
/* The head and the cross-entropy, a chunk of tokens at a time: logits, softmax and their gradient in place, gradient of the hidden states.
 * The chunk's logits are all of (tokens, V) that ever exists, and LOGITS_BYTES at most.
 *
 * On a bf16 device that wants the gradient, logits are rounded to bf16, as every trainer on such a device does. f32 logits would double the
 * chunk, and cost 0.23 ms more for 1024 tokens and 128,256 logits on an H100 (2.6 ms with bf16). The loss alone (evaluation, which asks for
 * the argmax) is taken from f32 logits. */
#include "gpu/elementwise.cuh"

#define LOGITS_BYTES ((size_t)256 << 20)
#define TOKENS_MULTIPLE 128 /* of a chunk, for the product's sake */
#define LONG_ROW 16384      /* logits; shorter rows have smaller blocks */
#define IN_FLIGHT 4         /* vectors that a thread asks for at once */
#define ROW_BLOCK 128
#define SUM_BLOCK 1024
#define NO_TOKEN UINT32_MAX

struct loss_call {
	const int32_t *labels;
	const float *weights, *gradient_scale;
	const uint32_t *index;  /* of the whole operation; NULL: every token in turn */
	size_t first, count;    /* the chunk's places */
	size_t vocabulary, row; /* logits; distance of their rows */
	float softcap;
	double *weighted; /* (places): weight * loss */
	float *losses;    /* by token; NULL: not wanted */
	uint8_t *correct;
	uint32_t *trouble;
	unsigned kept; /* vectors of a row that fit in the block's shared memory */
};

static __device__ __forceinline__ uint32_t token_at(const uint32_t *index, size_t place)
{
	return index ? index[place] : (uint32_t)place;
}

#define LOG2_E 1.4426950408889634f

/* e^(x - most) is exponential<T>(x, origin<T>(most)). f32 takes the exact one. For bf16 it is the hardware's power of two of one multiply-add:
 * within 2^-21 where it counts, and an error of the origin is the same for all logits of a row. */
template <typename T> __device__ __forceinline__ float origin(float most)
{
	return std::is_same_v<T, float> ? most : most * LOG2_E;
}

template <typename T> __device__ __forceinline__ float exponential(float x, float origin)
{
	if constexpr (std::is_same_v<T, float>)
		return expf(x - origin);
	float power;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(fmaf(x, LOG2_E, -origin)));
	return power;
}

template <bool CAPPED> static __device__ __forceinline__ float capped(float logit, float softcap)
{
	return CAPPED ? softcap * tanhf(logit / softcap) : logit;
}

/* Below every logit, and times LOG2_E exactly a float. */
#define LEAST -0x1p100f

/* The largest logit seen, and the sum of e^(logit - most). */
struct softmax {
	float most, sum;
};

template <typename T> static __device__ __forceinline__ softmax joined(softmax a, softmax b)
{
	float most = fmaxf(a.most, b.most), zero = origin<T>(most);
	return {most, a.sum * exponential<T>(a.most, zero) + b.sum * exponential<T>(b.most, zero)};
}

template <typename T, int THREADS> static __device__ __forceinline__ softmax block_softmax(softmax s)
{
	__shared__ softmax of_warp[THREADS / WARP];
	unsigned lane = threadIdx.x % WARP;
#pragma unroll
	for (int distance = WARP / 2; distance > 0; distance /= 2)
		s = joined<T>(s, {__shfl_xor_sync(0xffffffffu, s.most, distance),
					 __shfl_xor_sync(0xffffffffu, s.sum, distance)});
	if (lane == 0)
		of_warp[threadIdx.x / WARP] = s;
	__syncthreads();
	s = lane < THREADS / WARP ? of_warp[lane] : softmax{LEAST, 0};
#pragma unroll
	for (int distance = WARP / 2; distance > 0; distance /= 2)
		s = joined<T>(s, {__shfl_xor_sync(0xffffffffu, s.most, distance),
					 __shfl_xor_sync(0xffffffffu, s.sum, distance)});
	return s;
}

/* The softmax of a thread's vectors of the row, of which the first are kept in shared memory. */
template <typename T, bool KEEP, bool CAPPED, int THREADS>
static __device__ __forceinline__ softmax read_row(const loss_call &a, const act_vector<T> *row, act_vector<T> *kept)
{
	constexpr unsigned each = act_vector<T>::count;
	unsigned vectors = (unsigned)((a.vocabulary + each - 1) / each), last = (unsigned)a.vocabulary % each;
	softmax s = {LEAST, 0};
	for (unsigned start = threadIdx.x; start < vectors; start += THREADS * IN_FLIGHT) {
		act_vector<T> read[IN_FLIGHT];
#pragma unroll
		for (unsigned f = 0; f < IN_FLIGHT; f++)
			if (start + f * THREADS < vectors)
				read[f] = row[start + f * THREADS];
#pragma unroll
		for (unsigned f = 0; f < IN_FLIGHT; f++) {
			unsigned at = start + f * THREADS;
			if (at >= vectors)
				break;
			if (KEEP && at < a.kept)
				kept[at] = read[f];
			float logit[each], most = s.most, sum = 0;
#pragma unroll
			for (unsigned i = 0; i < each; i++)
				logit[i] = capped<CAPPED>(act_load(read[f].at[i]), a.softcap);
			if (last && at == vectors - 1) /* behind the row's end is anything */
#pragma unroll
				for (unsigned i = 0; i < each; i++)
					logit[i] = i < last ? logit[i] : -INFINITY;
#pragma unroll
			for (unsigned i = 0; i < each; i++)
				most = fmaxf(most, logit[i]);
			float zero = origin<T>(most);
#pragma unroll
			for (unsigned i = 0; i < each; i++)
				sum += exponential<T>(logit[i], zero);
			s.sum = s.sum * exponential<T>(s.most, zero) + sum;
			s.most = most;
		}
	}
	return s;
}

/* logits = factor * (e^(logit - most) / sum - [label]), through the softcap. */
template <typename T, bool CAPPED, int THREADS>
static __device__ __forceinline__ void write_gradient(
	const loss_call &a, act_vector<T> *row, const act_vector<T> *kept, softmax s, uint32_t label, float factor)
{
	constexpr unsigned each = act_vector<T>::count;
	unsigned vectors = (unsigned)((a.vocabulary + each - 1) / each);
	float scale = factor / s.sum, zero = origin<T>(s.most), cap = a.softcap;
	for (unsigned at = threadIdx.x; at < vectors; at += THREADS) {
		act_vector<T> logits = at < a.kept ? kept[at] : row[at];
		float logit[each], gradient[each];
#pragma unroll
		for (unsigned i = 0; i < each; i++) {
			logit[i] = capped<CAPPED>(act_load(logits.at[i]), cap);
			gradient[i] = exponential<T>(logit[i], zero) * scale;
		}
		if (at == label / each)
#pragma unroll
			for (unsigned i = 0; i < each; i++)
				gradient[i] -= i == label % each ? factor : 0;
		if (CAPPED)
#pragma unroll
			for (unsigned i = 0; i < each; i++)
				gradient[i] *= 1 - logit[i] * logit[i] / (cap * cap);
		row[at] = pack_floats<T>(gradient);
	}
}

/* Grid: a block for each place of the chunk. The row is read once as far as shared memory goes, and written once: 4 bytes a logit
 * (bf16), at 86% of the rate of a copy for 128,256 logits and 93% for 49,152 (H100). */
template <typename T, bool GRADIENT, bool CAPPED, int THREADS>
__global__ void __launch_bounds__(THREADS) loss_rows(loss_call a, T *logits)
{
	extern __shared__ __align__(16) unsigned char shared[];
	size_t place = a.first + blockIdx.x;
	uint32_t token = token_at(a.index, place);
	int32_t label = token == NO_TOKEN ? -1 : a.labels[token];
	bool known = label < 0 || (uint32_t)label < a.vocabulary;
	act_vector<T> *row = (act_vector<T> *)(logits + blockIdx.x * a.row), *kept = (act_vector<T> *)shared;
	if (label < 0 || !known) {
		if (GRADIENT && token != NO_TOKEN)
			for (size_t at = threadIdx.x; at < a.row / act_vector<T>::count; at += THREADS)
				row[at] = act_vector<T>{};
		if (threadIdx.x == 0) {
			a.weighted[place] = 0;
			if (!known)
				a.trouble[TROUBLE_LABEL] = 1;
			if (a.losses && token != NO_TOKEN)
				a.losses[token] = 0;
			if (a.correct && token != NO_TOKEN)
				a.correct[token] = 1;
		}
		return;
	}
	float own = capped<CAPPED>(act_load(logits[blockIdx.x * a.row + (uint32_t)label]), a.softcap);
	float weight = a.weights ? a.weights[token] : 1;
	/* everybody has read the label's logit before anybody writes: block_softmax waits */
	softmax s = block_softmax<T, THREADS>(read_row<T, GRADIENT, CAPPED, THREADS>(a, row, kept));
	if (GRADIENT)
		write_gradient<T, CAPPED, THREADS>(a, row, kept, s, (uint32_t)label, *a.gradient_scale * weight);
	if (threadIdx.x == 0) {
		double loss = log((double)s.sum) + (double)s.most - (double)own;
		a.weighted[place] = (double)weight * loss;
		if (a.losses)
			a.losses[token] = (float)loss;
		if (a.correct)
			a.correct[token] = own >= s.most;
	}
}

/* One block: *out += the sum, in an order that follows from n alone. */
static __global__ void __launch_bounds__(SUM_BLOCK) loss_sum(const double *weighted, size_t n, double *out)
{
	double sum = 0;
	for (size_t i = threadIdx.x; i < n; i += SUM_BLOCK)
		sum += weighted[i];
	sum = block_sum<SUM_BLOCK>(sum);
	if (threadIdx.x == 0)
		*out += sum;
}

/* Rows of the listed tokens side by side (TO_PLACES), zero for an empty place, or back to their tokens. Grid: a block a place. V: what a
 * thread moves at once; width counts it. */
template <typename V, bool TO_PLACES>
static __global__ void __launch_bounds__(ROW_BLOCK) move_rows(const uint32_t *index, size_t width, V *places, V *tokens)
{
	uint32_t token = index[blockIdx.x];
	V *place = places + blockIdx.x * width;
	if (token == NO_TOKEN) {
		for (size_t i = threadIdx.x; TO_PLACES && i < width; i += ROW_BLOCK)
			place[i] = V{};
		return;
	}
	V *row = tokens + (size_t)token * width;
	for (size_t i = threadIdx.x; i < width; i += ROW_BLOCK) {
		if constexpr (TO_PLACES)
			place[i] = row[i];
		else
			row[i] = place[i];
	}
}

static __global__ void mark_listed(const uint32_t *index, size_t n, uint8_t *listed)
{
	size_t i = (size_t)blockIdx.x * ROW_BLOCK + threadIdx.x;
	if (i < n && index[i] != NO_TOKEN)
		listed[index[i]] = 1;
}

template <typename V>
static __global__ void __launch_bounds__(ROW_BLOCK) zero_unlisted(const uint8_t *listed, size_t width, V *tokens)
{
	if (!listed[blockIdx.x])
		for (size_t i = threadIdx.x; i < width; i += ROW_BLOCK)
			tokens[blockIdx.x * width + i] = V{};
}

/* A call from the host's side. */
struct loss_plan {
	struct cuda_device *c;
	const struct tokens *tokens;
	const struct weight *head;
	const void *matrix; /* the head's (V, C) */
	const void *hidden;
	void *d_hidden;
	enum gemm_type type, logits_type;
	size_t places;
	void *logits, *compact; /* compact: (chunk, C), with an index */
	unsigned shared;        /* bytes that a block may have */
};

static void *act_row(const struct loss_plan *p, const void *x, size_t row)
{
	return act_at(&p->c->base, x, row * p->head->cols);
}

template <bool TO_PLACES> static void move(const struct loss_plan *p, const loss_call *a, void *tokens)
{
	size_t bytes = p->head->cols * p->c->base.act_size;
	const uint32_t *index = a->index + a->first;
	unsigned grid = (unsigned)a->count;
	cudaStream_t stream = p->c->stream;
	if (bytes % sizeof(uint4) == 0 && cuda_aligned(tokens))
		move_rows<uint4, TO_PLACES><<<grid, ROW_BLOCK, 0, stream>>>(
			index, bytes / sizeof(uint4), (uint4 *)p->compact, (uint4 *)tokens);
	else
		move_rows<uint16_t, TO_PLACES><<<grid, ROW_BLOCK, 0, stream>>>(
			index, bytes / sizeof(uint16_t), (uint16_t *)p->compact, (uint16_t *)tokens);
	cuda_launched(p->c, "gathering of labelled tokens");
}

template <typename T, bool GRADIENT, bool CAPPED, int THREADS>
static void rows_of(const struct loss_plan *p, loss_call *a, unsigned shared)
{
	a->kept = (unsigned)(shared / sizeof(act_vector<T>));
	if (!cuda_well(p->c,
		    cudaFuncSetAttribute(loss_rows<T, GRADIENT, CAPPED, THREADS>,
			    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
		    "the loss's shared memory"))
		return;
	loss_rows<T, GRADIENT, CAPPED, THREADS>
		<<<(unsigned)a->count, THREADS, shared, p->c->stream>>>(*a, (T *)p->logits);
	cuda_launched(p->c, "loss");
}

template <typename T, bool GRADIENT, bool CAPPED> static void rows_sized(const struct loss_plan *p, loss_call *a)
{
	size_t row_bytes = a->row * sizeof(T);
	unsigned shared = !GRADIENT ? 0 : row_bytes < p->shared ? (unsigned)row_bytes : p->shared;
	if (a->vocabulary <= LONG_ROW)
		rows_of<T, GRADIENT, CAPPED, 256>(p, a, shared);
	else if (2 * shared <= p->shared) /* two blocks at a time: one reads while the other writes */
		rows_of<T, GRADIENT, CAPPED, 512>(p, a, shared);
	else
		rows_of<T, GRADIENT, CAPPED, 1024>(p, a, shared);
}

template <typename T, bool GRADIENT> static void rows_typed(const struct loss_plan *p, loss_call *a)
{
	if (a->softcap > 0)
		rows_sized<T, GRADIENT, true>(p, a);
	else
		rows_sized<T, GRADIENT, false>(p, a);
}

static void chunk(const struct loss_plan *p, loss_call *a)
{
	size_t width = p->head->cols;
	const void *x = p->compact;
	if (a->index)
		move<true>(p, a, (void *)p->hidden);
	else
		x = act_row(p, p->hidden, a->first);
	struct gemm product = {};
	product.m = a->count;
	product.n = a->vocabulary;
	product.k = width;
	product.b_transposed = true;
	product.a_row = width;
	product.b_row = p->head->row;
	product.out_row = a->row;
	product.a_type = product.b_type = p->type;
	product.out_type = p->logits_type;
	product.alpha = 1;
	cuda_gemm(p->c, &product, x, p->matrix, p->logits);
	if (p->c->base.fault.code)
		return;
	if (!p->d_hidden)
		rows_typed<float, false>(p, a);
	else if (p->logits_type == GEMM_BF16)
		rows_typed<__nv_bfloat16, true>(p, a);
	else
		rows_typed<float, true>(p, a);
	if (p->c->base.fault.code || !p->d_hidden)
		return;
	struct gemm back = {};
	back.m = a->count;
	back.n = width;
	back.k = a->vocabulary;
	back.a_row = a->row;
	back.b_row = p->head->row;
	back.out_row = width;
	back.a_type = back.b_type = back.out_type = p->type;
	back.alpha = 1;
	cuda_gemm(p->c, &back, p->logits, p->matrix, a->index ? p->compact : act_row(p, p->d_hidden, a->first));
	if (a->index && !p->c->base.fault.code)
		move<false>(p, a, p->d_hidden);
}

/* Tokens of a chunk; only the last has fewer. Chunks as large as may be: alike, they would shrink when one more begins, and a plan could
 * not tell how many tokens fit by halving (src/train/memory_backend.c, cuda_chunk, counts the same). */
static size_t chunk_tokens(size_t places, size_t row_bytes)
{
	size_t most = LOGITS_BYTES / row_bytes / TOKENS_MULTIPLE * TOKENS_MULTIPLE;
	if (most < TOKENS_MULTIPLE)
		most = TOKENS_MULTIPLE;
	return places < most ? places : most;
}

/* d_hidden of tokens that are not listed. */
static void zero_others(const struct loss_plan *p)
{
	size_t n = p->tokens->count, bytes = p->head->cols * p->c->base.act_size;
	uint8_t *listed = (uint8_t *)cuda_scratch(p->c, SCRATCH_PARTIAL, n);
	if (!listed || !cuda_well(p->c, cudaMemsetAsync(listed, 0, n, p->c->stream), "marks of labelled tokens"))
		return;
	if (p->places)
		mark_listed<<<(unsigned)((p->places + ROW_BLOCK - 1) / ROW_BLOCK), ROW_BLOCK, 0, p->c->stream>>>(
			p->tokens->index, p->places, listed);
	if (bytes % sizeof(uint4) == 0 && cuda_aligned(p->d_hidden))
		zero_unlisted<<<(unsigned)n, ROW_BLOCK, 0, p->c->stream>>>(
			listed, bytes / sizeof(uint4), (uint4 *)p->d_hidden);
	else
		zero_unlisted<<<(unsigned)n, ROW_BLOCK, 0, p->c->stream>>>(
			listed, bytes / sizeof(uint16_t), (uint16_t *)p->d_hidden);
	cuda_launched(p->c, "gradient of unlabelled tokens");
}

/* What the tokens that are not listed give: no loss, and right. */
static bool fill_others(const struct loss_plan *p, const struct cross_entropy *c)
{
	size_t n = p->tokens->count;
	cudaStream_t stream = p->c->stream;
	return (!c->losses || cuda_well(p->c, cudaMemsetAsync(c->losses, 0, n * sizeof(float), stream), "losses")) &&
	       (!c->correct || cuda_well(p->c, cudaMemsetAsync(c->correct, 1, n, stream), "correct tokens"));
}

static bool make_room(struct loss_plan *p, loss_call *a, size_t most)
{
	size_t logit = p->logits_type == GEMM_BF16 ? 2 : 4;
	int shared = 0;
	if (!cuda_well(p->c, cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, p->c->ordinal),
		    "the size of shared memory"))
		return false;
	p->shared = (unsigned)shared - 1024; /* what the kernel has besides */
	p->logits =
		cuda_scratch(p->c, p->matrix == p->head->data ? SCRATCH_LARGE : SCRATCH_LOGITS, most * a->row * logit);
	a->weighted = (double *)cuda_scratch(p->c, SCRATCH_LOSS, p->places * sizeof(double));
	if (a->index)
		p->compact = cuda_scratch(p->c, SCRATCH_HIDDEN, most * p->head->cols * p->c->base.act_size);
	return p->logits && a->weighted && (!a->index || p->compact);
}

void cuda_cross_entropy(struct device *d, const struct cross_entropy *c, const struct tokens *t, const void *hidden,
	const struct weight *head, void *d_hidden)
{
	struct loss_plan p = {cuda_device(d), t, head, NULL, hidden, d_hidden};
	if (!cuda_weight_may(p.c, head, WEIGHT_FORWARD) || (d_hidden && !cuda_weight_may(p.c, head, WEIGHT_BACKWARD)))
		return;
	p.places = t->index ? t->index_count : t->count;
	p.type = d->act == DTYPE_BF16 ? GEMM_BF16 : GEMM_F32;
	p.logits_type = d_hidden ? p.type : GEMM_F32;
	loss_call a = {c->labels, c->weights, c->gradient_scale, t->index};
	a.vocabulary = head->rows;
	a.row = (head->rows + 7) / 8 * 8; /* rows begin at multiples of 16 bytes */
	a.softcap = c->softcap;
	a.losses = c->losses;
	a.correct = c->correct;
	a.trouble = p.c->trouble;
	if (!t->count || (t->index && !fill_others(&p, c)))
		return;
	size_t most = chunk_tokens(p.places, a.row * (p.logits_type == GEMM_BF16 ? 2 : 4));
	p.matrix = cuda_weight_plain(p.c, head);
	if (!p.matrix || (p.places && !make_room(&p, &a, most)))
		return;
	for (; a.first < p.places && !d->fault.code; a.first += a.count) {
		a.count = p.places - a.first < most ? p.places - a.first : most;
		chunk(&p, &a);
	}
	if (d->fault.code)
		return;
	if (c->sum && p.places) {
		loss_sum<<<1, SUM_BLOCK, 0, p.c->stream>>>(a.weighted, p.places, c->sum);
		cuda_launched(p.c, "sum of losses");
	}
	if (d_hidden && t->index)
		zero_others(&p);
}
