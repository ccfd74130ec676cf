/* SPDX-License-Identifier: Apache-2.0 */
/* Products by cuBLASLt. It knows column-major matrices, and a row-major matrix read so is its transpose: out^T = op(b)^T op(a)^T, thus b is its
 * first operand and a its second.
 *
 * y += a b on a bf16 y in place must round once, where y holds an adapter's share of an output. cuBLASLt (13.1, Hopper), told by the host that
 * beta is 1, rounds the product to bf16 and lets the memory add it: whatever y held below half a unit of the product's last place is lost
 * (measured: 34 to 89 % of small addends). With beta in device memory it cannot know, and adds in f32: so that is where these products have
 * it. That takes more time: 2 to 10 % in bf16, 4 to 9 % in FP8 (H200, shapes of Llama-3-8B, 4096 tokens). Gradients of inputs do without (linear.cu).
 *
 * A plan is made when a product comes first: cuBLASLt's candidates are timed on the product's own operands, the fastest is kept. Schemes that
 * add up in place are never asked for: their order is not fixed. What cuBLASLt does not offer at all (some odd row distances) runs on a
 * plain kernel. */
#include "gpu/gemm.cuh"

#include <stdlib.h>
#include <string.h>

#define PLANS_MAX 2048                /* beyond that all are dropped and made again as they come */
#define PLAN_SLOTS 4096               /* of the hash table; a power of two */
#define CANDIDATES_MAX 12             /* of cuBLASLt for a product */
#define FINALISTS_MAX 4               /* of those, timed longer */
#define MEASURED_MAX 1024             /* products measured in the life of a device, should no shape ever come twice */
#define TILE 32                       /* of the plain kernel */
#define TRIAL_BYTES (size_t)(8 << 20) /* outputs up to this have a place where measuring spoils nothing */
#define WORKSPACE_BYTES (size_t)(32 << 20) /* what NVIDIA recommends for Hopper */

struct plan {
	struct gemm_key key;
	cublasLtMatmulDesc_t operation; /* NULL: the plain kernel */
	cublasLtMatrixLayout_t first, second, out;
	cublasLtMatmulAlgo_t algo;
	bool unmeasured; /* made while nothing could be measured: chosen again when something can */
};

struct gemm_plans {
	struct plan *slot[PLAN_SLOTS];
	size_t count, measured;
	struct gemm_kept_list kept;
	cublasLtMatmulPreference_t preference;
	cudaEvent_t begin, end;
	float *ones; /* device: two, an alpha and a beta */
};

/* A product and where its operands are. */
struct call {
	struct cuda_device *c;
	const struct gemm *g;
	const void *a, *b, *add;
	void *out;
};

static size_t type_size(enum gemm_type t)
{
	return t == GEMM_F32 ? 4 : t == GEMM_BF16 ? 2 : 1;
}

static cudaDataType_t lt_type(enum gemm_type t)
{
	return t == GEMM_F32 ? CUDA_R_32F : t == GEMM_BF16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
}

static uint8_t alignment(const void *p)
{
	uintptr_t low = (uintptr_t)p & 255;
	return (uint8_t)(low ? __builtin_ctzll(low) : 8);
}

/* Whether a sum in place must be rounded once: beta then lies in device memory. */
static bool rounds_once(const struct gemm *g, const void *add, const void *out)
{
	return g->out_type == GEMM_BF16 && g->alpha == 1 && g->beta == 1 && add == out && !g->rounds_twice;
}

static struct gemm_key key_of(const struct gemm *g, const void *a, const void *b, const void *add, const void *out)
{
	struct gemm_key k = {};
	k.m = g->m;
	k.n = g->n;
	k.k = g->k;
	k.a_row = g->a_row;
	k.b_row = g->b_row;
	k.out_row = g->out_row;
	k.a_transposed = g->a_transposed;
	k.b_transposed = g->b_transposed;
	k.in_type = (uint8_t)g->a_type;
	k.out_type = (uint8_t)g->out_type;
	if (g->beta != 0)
		k.adds = rounds_once(g, add, out) ? GEMM_ADDS_ONCE : add == out ? GEMM_ADDS_ITSELF : GEMM_ADDS_OTHER;
	k.a_align = alignment(a);
	k.b_align = alignment(b);
	k.out_align = alignment(out);
	k.add_align = k.adds ? alignment(add) : 0;
	return k;
}

/* ---- the plain kernel ---- */

struct plain_args {
	size_t m, n, k;
	size_t a_row, a_col, b_row, b_col, out_row; /* distances of a(i, p) and b(p, j) */
	float alpha, beta;
};

/* Grid: one block of (32, 8) a tile of 32 x 32 outputs, tiles of a row of tiles side by side. For shapes that nothing better takes. */
template <typename In, typename Out>
__global__ void gemm_plain(struct plain_args g, const In *a, const In *b, const Out *add, Out *out)
{
	__shared__ float as[TILE][TILE + 1], bs[TILE][TILE + 1];
	size_t across = (g.n + TILE - 1) / TILE;
	size_t row = blockIdx.x / across * TILE, col = blockIdx.x % across * TILE;
	float sum[TILE / 8] = {};
	for (size_t p = 0; p < g.k; p += TILE) {
		for (unsigned i = threadIdx.y; i < TILE; i += 8) {
			size_t ar = row + i, ap = p + threadIdx.x, br = p + i, bc = col + threadIdx.x;
			as[i][threadIdx.x] = ar < g.m && ap < g.k ? act_load(a[ar * g.a_row + ap * g.a_col]) : 0;
			bs[i][threadIdx.x] = br < g.k && bc < g.n ? act_load(b[br * g.b_row + bc * g.b_col]) : 0;
		}
		__syncthreads();
		for (unsigned q = 0; q < TILE; q++)
			for (unsigned i = 0; i < TILE / 8; i++)
				sum[i] += as[threadIdx.y + 8 * i][q] * bs[q][threadIdx.x];
		__syncthreads();
	}
	for (unsigned i = 0; i < TILE / 8; i++) {
		size_t r = row + threadIdx.y + 8 * i, at = r * g.out_row + col + threadIdx.x;
		if (r < g.m && col + threadIdx.x < g.n) {
			float before = g.beta != 0 ? g.beta * act_load(add[at]) : 0;
			out[at] = act_store<Out>(g.alpha * sum[i] + before);
		}
	}
}

static void run_plain(const struct call *p)
{
	const struct gemm *g = p->g;
	struct plain_args args = {
		.m = g->m, .n = g->n, .k = g->k, .out_row = g->out_row, .alpha = g->alpha, .beta = g->beta};
	args.a_row = g->a_transposed ? 1 : g->a_row;
	args.a_col = g->a_transposed ? g->a_row : 1;
	args.b_row = g->b_transposed ? 1 : g->b_row;
	args.b_col = g->b_transposed ? g->b_row : 1;
	unsigned blocks = (unsigned)((g->m + TILE - 1) / TILE * ((g->n + TILE - 1) / TILE));
	dim3 threads(TILE, 8);
	cudaStream_t stream = p->c->stream;
	if (g->a_type == GEMM_F32 && g->out_type == GEMM_F32)
		gemm_plain<<<blocks, threads, 0, stream>>>(
			args, (const float *)p->a, (const float *)p->b, (const float *)p->add, (float *)p->out);
	else if (g->a_type == GEMM_BF16 && g->out_type == GEMM_F32)
		gemm_plain<<<blocks, threads, 0, stream>>>(args, (const __nv_bfloat16 *)p->a,
			(const __nv_bfloat16 *)p->b, (const float *)p->add, (float *)p->out);
	else if (g->a_type == GEMM_BF16 && g->out_type == GEMM_BF16)
		gemm_plain<<<blocks, threads, 0, stream>>>(args, (const __nv_bfloat16 *)p->a,
			(const __nv_bfloat16 *)p->b, (const __nv_bfloat16 *)p->add, (__nv_bfloat16 *)p->out);
	else if (g->a_type == GEMM_E4M3)
		cuda_fail(p->c, SAKIORI_EUNSUPPORTED,
			"%s: cuBLASLt has no FP8 product of (%zu, %zu) by (%zu, %zu) with a scale a row; use bf16 base "
			"weights on this card",
			p->c->name, g->m, g->k, g->k, g->n);
	else
		cuda_fail(p->c, SAKIORI_EUNSUPPORTED, "no product of this combination of types");
	cuda_launched(p->c, "product");
}

/* ---- cuBLASLt ---- */

static cublasStatus_t lt_run(const struct call *p, const struct plan *plan, const cublasLtMatmulAlgo_t *algo)
{
	const struct gemm *g = p->g;
	struct cuda_device *c = p->c;
	cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
	if (g->a_scale) {
		s = cublasLtMatmulDescSetAttribute(
			plan->operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &g->b_scale, sizeof g->b_scale);
		if (s == CUBLAS_STATUS_SUCCESS)
			s = cublasLtMatmulDescSetAttribute(
				plan->operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &g->a_scale, sizeof g->a_scale);
	}
	if (s != CUBLAS_STATUS_SUCCESS)
		return s;
	bool device = plan->key.adds == GEMM_ADDS_ONCE;
	const float *alpha = device ? c->plans->ones : &g->alpha, *beta = device ? c->plans->ones + 1 : &g->beta;
	return cublasLtMatmul(c->lt, plan->operation, alpha, p->b, plan->first, p->a, plan->second, beta,
		g->beta != 0 ? p->add : p->out, plan->out, p->out, plan->out, algo, c->scratch[SCRATCH_GEMM],
		WORKSPACE_BYTES, c->stream);
}

static void plan_free(struct plan *p)
{
	if (!p)
		return;
	if (p->operation)
		cublasLtMatmulDescDestroy(p->operation);
	if (p->first)
		cublasLtMatrixLayoutDestroy(p->first);
	if (p->second)
		cublasLtMatrixLayoutDestroy(p->second);
	if (p->out)
		cublasLtMatrixLayoutDestroy(p->out);
	free(p);
}

static bool set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, const void *value, size_t bytes)
{
	return cublasLtMatmulDescSetAttribute(d, what, value, bytes) == CUBLAS_STATUS_SUCCESS;
}

/* cuBLASLt's description of the product; false if it does not take it. */
static bool describe(const struct gemm *g, struct plan *p)
{
	cublasOperation_t first = g->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
	cublasOperation_t second = g->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
	cublasComputeType_t compute = g->a_type == GEMM_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
	bool well = cublasLtMatmulDescCreate(&p->operation, compute, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
		    set(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first) &&
		    set(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
	int32_t device = CUBLASLT_POINTER_MODE_DEVICE;
	if (p->key.adds == GEMM_ADDS_ONCE)
		well = well && set(p->operation, CUBLASLT_MATMUL_DESC_POINTER_MODE, &device, sizeof device);
	if (well && g->a_type == GEMM_E4M3) {
		/* Sums of a few products are kept in fewer bits inside the tensor cores: an error of 2^-13 beside E4M3's own of 2^-4. */
		int8_t fast = 1;
		int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
		well = set(p->operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast) &&
		       set(p->operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode) &&
		       set(p->operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode) &&
		       set(p->operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &g->b_scale, sizeof g->b_scale) &&
		       set(p->operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &g->a_scale, sizeof g->a_scale);
	}
	return well &&
	       cublasLtMatrixLayoutCreate(&p->first, lt_type(g->b_type), g->b_transposed ? g->k : g->n,
		       g->b_transposed ? g->n : g->k, (int64_t)g->b_row) == CUBLAS_STATUS_SUCCESS &&
	       cublasLtMatrixLayoutCreate(&p->second, lt_type(g->a_type), g->a_transposed ? g->m : g->k,
		       g->a_transposed ? g->k : g->m, (int64_t)g->a_row) == CUBLAS_STATUS_SUCCESS &&
	       cublasLtMatrixLayoutCreate(&p->out, lt_type(g->out_type), g->n, g->m, (int64_t)g->out_row) ==
		       CUBLAS_STATUS_SUCCESS;
}

/* What cuBLASLt offers, its favourite first; none if it does not take the product, or after a failure. `found` must be zero: cuBLASLt does not
 * write every byte of an algorithm, and reads them all. */
static int candidates(const struct call *p, const struct plan *plan, cublasLtMatmulHeuristicResult_t *found)
{
	cublasLtMatmulPreference_t preference = p->c->plans->preference;
	const struct gemm_key *k = &plan->key;
	const struct {
		cublasLtMatmulPreferenceAttributes_t what;
		uint32_t bytes;
	} aligned[] = {
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 1u << k->b_align},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 1u << k->a_align},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 1u << (k->adds ? k->add_align : k->out_align)},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 1u << k->out_align},
	};
	cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
	for (size_t i = 0; i < sizeof aligned / sizeof *aligned && s == CUBLAS_STATUS_SUCCESS; i++)
		s = cublasLtMatmulPreferenceSetAttribute(
			preference, aligned[i].what, &aligned[i].bytes, sizeof(uint32_t));
	int count = 0;
	if (s == CUBLAS_STATUS_SUCCESS)
		s = cublasLtMatmulAlgoGetHeuristic(p->c->lt, plan->operation, plan->first, plan->second, plan->out,
			plan->out, preference, CANDIDATES_MAX, found, &count);
	if (s != CUBLAS_STATUS_SUCCESS && s != CUBLAS_STATUS_NOT_SUPPORTED && s != CUBLAS_STATUS_INVALID_VALUE)
		cuda_fail(p->c, SAKIORI_EDEVICE, "the plan of a product: cuBLASLt failed: %s",
			cublasLtGetStatusString(s));
	if (s != CUBLAS_STATUS_SUCCESS)
		return 0;
	int usable = 0;
	for (int i = 0; i < count; i++)
		if (found[i].state == CUBLAS_STATUS_SUCCESS && found[i].workspaceSize <= WORKSPACE_BYTES)
			found[usable++] = found[i];
	return usable;
}

/* Microseconds of one run, the mean over about `span` of them; negative if the algorithm does not run. */
static float measure(const struct call *p, const struct plan *plan, const cublasLtMatmulAlgo_t *algo, float span)
{
	struct gemm_plans *plans = p->c->plans;
	float milliseconds = 0;
	int runs = 1;
	for (int round = 0; round < 2; round++) {
		if (!cuda_well(p->c, cudaEventRecord(plans->begin, p->c->stream), "measuring a product"))
			return -1;
		for (int i = 0; i < runs; i++)
			if (lt_run(p, plan, algo) != CUBLAS_STATUS_SUCCESS)
				return -1;
		if (!cuda_well(p->c, cudaEventRecord(plans->end, p->c->stream), "measuring a product") ||
			!cuda_well(p->c, cudaEventSynchronize(plans->end), "measuring a product") ||
			!cuda_well(p->c, cudaEventElapsedTime(&milliseconds, plans->begin, plans->end),
				"measuring a product"))
			return -1;
		if (round)
			break;
		float one = milliseconds > 1e-3f ? milliseconds : 1e-3f;
		runs = (int)(span * 1e-3f / one) + 1;
		if (runs > 100)
			runs = 100;
	}
	return milliseconds * 1e3f / (float)runs;
}

/* So small that measuring takes longer than the best plan would ever save: one for a neighbouring token count does, too. */
static bool is_small(const struct gemm *g)
{
	return 2.0 * (double)g->m * (double)g->n * (double)g->k < 2e9;
}

/* Index of the fastest candidate: all are timed briefly, the best of them once more. */
static int fastest(const struct call *p, const struct plan *plan, const cublasLtMatmulHeuristicResult_t *found,
	int count, float *microseconds)
{
	const float span = is_small(p->g) ? 40 : 200;
	float time[CANDIDATES_MAX];
	bool tried[CANDIDATES_MAX] = {};
	int best = -1;
	for (int i = 0; i < count; i++)
		time[i] = measure(p, plan, &found[i].algo, span);
	for (int turn = 0; turn < FINALISTS_MAX; turn++) {
		int next = -1;
		for (int i = 0; i < count; i++)
			if (!tried[i] && time[i] >= 0 && (next < 0 || time[i] < time[next]))
				next = i;
		if (next < 0)
			break;
		tried[next] = true;
		float again = measure(p, plan, &found[next].algo, 5 * span);
		if (again >= 0 && (best < 0 || again < *microseconds)) {
			best = next;
			*microseconds = again;
		}
	}
	return best;
}

/* Where a trial's output may go: NULL if it would spoil something. */
static void *trial_place(const struct call *p, bool spoil)
{
	const struct gemm *g = p->g;
	if (spoil || g->beta == 0)
		return p->out;
	if (((g->m - 1) * g->out_row + g->n) * type_size(g->out_type) > TRIAL_BYTES)
		return NULL;
	return (char *)p->c->scratch[SCRATCH_GEMM] + WORKSPACE_BYTES;
}

static bool may_measure(const struct call *p, bool spoil)
{
	const struct cuda_device *c = p->c;
	return !c->deterministic && !c->capturing && c->plans->measured < MEASURED_MAX && trial_place(p, spoil);
}

/* Chooses the algorithm; false if cuBLASLt has none. */
static bool choose(const struct call *p, struct plan *plan, bool spoil)
{
	struct gemm_plans *plans = p->c->plans;
	cublasLtMatmulHeuristicResult_t found[CANDIDATES_MAX] = {};
	bool settled = p->c->deterministic || p->c->capturing;
	int count = candidates(p, plan, found), best = 0;
	plan->unmeasured = false;
	const struct gemm_kept *kept = settled ? NULL : gemm_kept_find(&plans->kept, &plan->key, is_small(p->g));
	/* A file may say anything: only what cuBLASLt offers for this product, its alignments and the schemes asked for, is taken from it. */
	for (int i = 0; kept && i < count; i++)
		if (!memcmp(&found[i].algo, &kept->algo, sizeof kept->algo)) {
			plan->algo = kept->algo;
			return true;
		}
	if (!count)
		return false;
	if (count > 1 && may_measure(p, spoil)) {
		struct gemm_kept entry = {};
		struct call trial = *p;
		trial.out = trial_place(p, spoil);
		/* What adds to its own output does so in the trial: cuBLASLt may run another kernel where it does not. */
		trial.add = p->add == p->out ? trial.out : p->add;
		best = fastest(&trial, plan, found, count, &entry.microseconds);
		if (best < 0)
			return false;
		plans->measured++;
		entry.key = plan->key;
		entry.algo = found[best].algo;
		gemm_kept_add(&plans->kept, &entry);
	} else {
		plan->unmeasured = count > 1;
	}
	plan->algo = found[best].algo;
	return true;
}

static struct gemm_plans *plans_new(struct cuda_device *c)
{
	struct gemm_plans *p = (struct gemm_plans *)calloc(1, sizeof *p);
	uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
	uint64_t workspace = WORKSPACE_BYTES;
	static const float ones[2] = {1, 1};
	if (!p) {
		cuda_fail(c, SAKIORI_ENOMEM, "no memory for the plans of products");
		return NULL;
	}
	c->plans = p;
	if (cublasLtMatmulPreferenceCreate(&p->preference) ||
		cublasLtMatmulPreferenceSetAttribute(
			p->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace) ||
		cublasLtMatmulPreferenceSetAttribute(
			p->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes))
		cuda_fail(c, SAKIORI_EDEVICE, "cuBLASLt did not start");
	p->ones = (float *)cuda_memory_new(c, sizeof ones, "products' factors");
	if (p->ones &&
		cuda_well(c, cudaMemcpyAsync(p->ones, ones, sizeof ones, cudaMemcpyHostToDevice, c->stream),
			"products' factors") &&
		cuda_well(c, cudaEventCreate(&p->begin), "an event") &&
		cuda_well(c, cudaEventCreate(&p->end), "an event"))
		gemm_kept_load(c, &p->kept);
	return p;
}

static size_t hash(const struct gemm_key *k)
{
	uint64_t words[sizeof *k / 8], h = 0x9e3779b97f4a7c15u;
	memcpy(words, k, sizeof words);
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		h = (h ^ words[i]) * 0xff51afd7ed558ccdu;
		h ^= h >> 32;
	}
	return (size_t)h % PLAN_SLOTS;
}

/* The slot of the key's plan, empty if there is none yet. */
static struct plan **slot_of(struct gemm_plans *plans, const struct gemm_key *key)
{
	size_t at = hash(key);
	while (plans->slot[at] && memcmp(&plans->slot[at]->key, key, sizeof *key))
		at = (at + 1) % PLAN_SLOTS;
	return &plans->slot[at];
}

static void plans_drop(struct gemm_plans *plans)
{
	for (size_t i = 0; i < PLAN_SLOTS; i++) {
		plan_free(plans->slot[i]);
		plans->slot[i] = NULL;
	}
	plans->count = 0;
}

/* Without an operation the plain kernel runs. */
static void make(const struct call *p, struct plan *plan, bool spoil)
{
	if ((plan->operation || describe(p->g, plan)) && choose(p, plan, spoil))
		return;
	if (plan->operation)
		cublasLtMatmulDescDestroy(plan->operation);
	plan->operation = NULL;
}

static struct plan *plan_of(const struct call *p, bool spoil)
{
	struct cuda_device *c = p->c;
	if ((!c->plans && !plans_new(c)) || c->base.fault.code)
		return NULL;
	/* The trial's output lies behind the working space. */
	if (!cuda_scratch(c, SCRATCH_GEMM, WORKSPACE_BYTES + TRIAL_BYTES))
		return NULL;
	struct gemm_key key = key_of(p->g, p->a, p->b, p->add, p->out);
	struct plan **slot = slot_of(c->plans, &key);
	if (*slot) {
		if ((*slot)->unmeasured && may_measure(p, spoil))
			make(p, *slot, spoil);
		return c->base.fault.code ? NULL : *slot;
	}
	if (c->plans->count == PLANS_MAX) {
		plans_drop(c->plans);
		slot = slot_of(c->plans, &key);
	}
	struct plan *plan = (struct plan *)calloc(1, sizeof *plan);
	if (!plan) {
		cuda_fail(c, SAKIORI_ENOMEM, "no memory for the plan of a product");
		return NULL;
	}
	plan->key = key;
	if (p->g->k)
		make(p, plan, spoil);
	if (c->base.fault.code) {
		plan_free(plan);
		return NULL;
	}
	c->plans->count++;
	return *slot = plan;
}

/* Runs the first of the offered algorithms that does run, and keeps it. */
static cublasStatus_t run_another(const struct call *p, struct plan *plan)
{
	cublasLtMatmulHeuristicResult_t found[CANDIDATES_MAX] = {};
	int count = candidates(p, plan, found);
	for (int i = 0; i < count; i++) {
		cublasStatus_t s = lt_run(p, plan, &found[i].algo);
		if (s == CUBLAS_STATUS_NOT_SUPPORTED)
			continue;
		plan->algo = found[i].algo;
		return s;
	}
	return CUBLAS_STATUS_NOT_SUPPORTED;
}

void cuda_gemm(struct cuda_device *c, const struct gemm *g, const void *a, const void *b, void *out)
{
	if (c->base.fault.code || !g->m || !g->n)
		return;
	struct call call = {.c = c, .g = g, .a = a, .b = b, .add = g->add ? g->add : out, .out = out};
	struct plan *plan = plan_of(&call, false);
	if (!plan)
		return;
	cublasStatus_t s = plan->operation ? lt_run(&call, plan, &plan->algo) : CUBLAS_STATUS_NOT_SUPPORTED;
	/* An algorithm that cuBLASLt offers and then does not run. */
	if (s == CUBLAS_STATUS_NOT_SUPPORTED && plan->operation)
		s = run_another(&call, plan);
	if (s == CUBLAS_STATUS_NOT_SUPPORTED)
		run_plain(&call);
	else if (s != CUBLAS_STATUS_SUCCESS)
		cuda_fail(c, SAKIORI_EDEVICE, "a product of (%zu, %zu) by (%zu, %zu): cuBLASLt failed: %s", g->m, g->k,
			g->k, g->n, cublasLtGetStatusString(s));
}

void cuda_gemm_plan(struct cuda_device *c, const struct gemm *g, const void *a, const void *b, void *out)
{
	struct call call = {.c = c, .g = g, .a = a, .b = b, .add = g->add ? g->add : out, .out = out};
	if (!c->base.fault.code && g->m && g->n)
		plan_of(&call, true);
}

bool cuda_gemm_planned(struct cuda_device *c, const struct gemm *g, const void *a, const void *b, const void *out)
{
	struct gemm_key key = key_of(g, a, b, g->add ? g->add : out, out);
	return c->plans && *slot_of(c->plans, &key);
}

void cuda_gemm_plans_free(struct cuda_device *c)
{
	struct gemm_plans *p = c->plans;
	if (!p)
		return;
	gemm_kept_save(c, &p->kept);
	gemm_kept_free(&p->kept);
	plans_drop(p);
	cuda_memory_free(c, p->ones, 2 * sizeof *p->ones);
	if (p->preference)
		cublasLtMatmulPreferenceDestroy(p->preference);
	if (p->begin)
		cudaEventDestroy(p->begin);
	if (p->end)
		cudaEventDestroy(p->end);
	free(p);
	c->plans = NULL;
}
