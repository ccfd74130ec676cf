/* SPDX-License-Identifier: Apache-2.0 */
/* Linears with adapters: the order of their products. Where input and weight have room for it, output and adapter are one product. Elsewhere the
 * adapter's share of an output is written first and the base's product adds itself to it. Either way both are rounded to bf16 once, as
 * compute.h asks. */
#include "gpu/lora.cuh"

#include <stdlib.h>

/* ---- factors in the activation type ---- */

struct factor_args {
	const float *from[LORA_PARTS_MAX];
	size_t at[LORA_PARTS_MAX], count[LORA_PARTS_MAX];
};

template <typename T> __global__ void factors(struct factor_args f, T *out)
{
	const unsigned part = blockIdx.y;
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < f.count[part];
		i += (size_t)gridDim.x * blockDim.x)
		out[f.at[part] + i] = act_store<T>(f.from[part][i]);
}

/* The parts' factors one behind the other: of A the (ranks, cols) matrix of them all, of B the (rows, rank) of one part after another. */
static void *factor(struct cuda_device *c, const struct lora_linear *l, bool b)
{
	struct factor_args f = {};
	size_t total = 0, most = 0;
	for (size_t i = 0; i < l->parts; i++) {
		f.from[i] = b ? l->part[i].b : l->part[i].a;
		f.at[i] = total;
		f.count[i] = l->part[i].rank * (b ? l->part[i].rows : l->weight->cols);
		total += f.count[i];
		most = f.count[i] > most ? f.count[i] : most;
	}
	void *out = cuda_scratch(c, b ? SCRATCH_LORA_B : SCRATCH_LORA_A, total * c->base.act_size);
	if (!out)
		return NULL;
	dim3 blocks(cuda_blocks(c, most, 256), (unsigned)l->parts);
	if (c->base.act == DTYPE_BF16)
		factors<<<blocks, 256, 0, c->stream>>>(f, (__nv_bfloat16 *)out);
	else
		factors<<<blocks, 256, 0, c->stream>>>(f, (float *)out);
	return cuda_launched(c, "adapter factors") ? out : NULL;
}

/* A product of activations; the caller fills in the rest. */
static struct gemm product(const struct cuda_device *c, size_t m, size_t n, size_t k)
{
	struct gemm g = {.m = m, .n = n, .k = k, .a_row = k, .b_row = n, .out_row = n, .alpha = 1};
	g.a_type = g.b_type = g.out_type = gemm_act(c);
	return g;
}

static struct lora_call call_begin(struct cuda_device *c, const struct tokens *t, const struct lora_linear *l)
{
	struct lora_call call = {.c = c, .l = l, .n = t->index ? t->index_count : t->count};
	call.rows = l->weight->rows;
	call.cols = l->weight->cols;
	size_t stride = l->x_stride ? l->x_stride : call.cols, rows = 0;
	call.x_row = call.down_row = t->index ? call.cols : stride;
	for (size_t i = 0; i < l->parts && i < LORA_PARTS_MAX; i++) {
		call.ranks += l->part[i].rank;
		rows += l->part[i].rows;
		if (l->part[i].rank && !l->part[i].rows)
			cuda_fail(c, SAKIORI_EINVAL, "part %zu of a linear has an adapter of rank %zu and no outputs",
				i, l->part[i].rank);
	}
	if (l->parts > LORA_PARTS_MAX || (l->parts && rows != call.rows))
		cuda_fail(c, SAKIORI_EINVAL, "a linear of %zu outputs has %zu parts of %zu in all; at most %d parts",
			call.rows, l->parts, rows, LORA_PARTS_MAX);
	if (stride < call.cols)
		cuda_fail(c, SAKIORI_EINVAL, "tokens of %zu inputs lie %zu elements apart", call.cols, stride);
	return call;
}

static void gather_x(struct lora_call *call, const struct tokens *t, const void *x)
{
	size_t stride = call->l->x_stride ? call->l->x_stride : call->cols;
	call->x = call->down_x = lora_gather(call->c, t, SCRATCH_TOKENS_X, x, call->cols, stride, true);
}

/* What the adapter reads in the place of x. */
static void gather_adapter_x(struct lora_call *call, const struct tokens *t)
{
	call->down_x =
		lora_gather(call->c, t, SCRATCH_TOKENS_ADAPTER, call->l->adapter_x, call->cols, call->cols, true);
	call->down_row = call->cols;
	if (call->l->forward != LORA_F1)
		cuda_fail(call->c, SAKIORI_EINVAL, "an adapter that reads another input cannot be merged");
}

/* ---- forward ---- */

/* s = down_x A^T */
static void down(const struct lora_call *call)
{
	struct cuda_device *c = call->c;
	if (c->base.fault.code)
		return;
	if (lora_skinny_takes(call, NULL)) {
		lora_skinny_down(call);
		return;
	}
	const void *a = factor(c, call->l, false);
	struct gemm g = product(c, call->n, call->ranks, call->cols);
	g.a_row = call->down_row;
	g.b_transposed = true;
	g.b_row = call->cols;
	if (a)
		cuda_gemm(c, &g, call->down_x, a, call->s);
}

/* y = scale * s B^T */
static void up(const struct lora_call *call, void *y)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	if (c->base.fault.code)
		return;
	if (lora_skinny_takes(call, y)) {
		lora_skinny_up(call, y);
		return;
	}
	const char *b = (const char *)factor(c, l, true);
	for (size_t i = 0, row = 0, at = 0; b && i < l->parts; i++) {
		const struct lora_part *p = &l->part[i];
		struct gemm g = product(c, call->n, p->rows, p->rank);
		g.b_transposed = true;
		g.a_row = call->ranks;
		g.b_row = p->rank;
		g.out_row = call->rows;
		g.alpha = lora_part_scale(l, i);
		cuda_gemm(c, &g, act_at(&c->base, call->s, at), b, act_at(&c->base, y, row));
		b += p->rows * p->rank * c->base.act_size;
		row += p->rows;
		at += p->rank;
	}
}

/* out = in (W + scale B A)^T, or in (W + scale B A) when backward. */
static void merged(const struct lora_call *call, bool backward, const void *in, void *out, bool add)
{
	struct cuda_device *c = call->c;
	const void *w = c->base.fault.code ? NULL : cuda_weight_with_adapter(c, call->l);
	cuda_fp8_forget(c, in);
	struct gemm g = product(c, call->n, backward ? call->cols : call->rows, backward ? call->rows : call->cols);
	g.a_row = backward ? call->rows : call->x_row;
	g.b_transposed = !backward;
	g.b_row = call->l->weight->row;
	g.beta = add ? 1.0f : 0.0f;
	if (w)
		cuda_gemm(c, &g, in, w, out);
}

/* Whether input and weight have room for the ranks. */
static bool has_room(const struct lora_call *call, const void *y)
{
	const struct weight *w = call->l->weight;
	bool plain = call->c->base.joins && w->storage == WEIGHT_BF16;
	return plain && w->row - w->cols >= call->ranks && call->x_row - call->cols >= call->ranks && w->row % 8 == 0 &&
	       lora_skinny_takes(call, y);
}

/* y = [x | s] [W | scale B]^T */
static void joined(const struct lora_call *call, void *y)
{
	struct cuda_device *c = call->c;
	lora_skinny_down(call);
	lora_skinny_room(call);
	struct gemm g = product(c, call->n, call->rows, call->cols + call->ranks);
	g.a_row = call->x_row;
	g.b_transposed = true;
	g.b_row = call->l->weight->row;
	if (cuda_weight_may(c, call->l->weight, WEIGHT_FORWARD))
		cuda_gemm(c, &g, call->x, call->l->weight->data, y);
}

void cuda_lora_forward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code)
		return;
	struct lora_call call = call_begin(c, t, l);
	if (!call.n || d->fault.code)
		return;
	gather_x(&call, t, x);
	if (l->adapter_x)
		gather_adapter_x(&call, t);
	void *y = lora_gather(c, t, SCRATCH_TOKENS_Y, l->y, call.rows, call.rows, false);
	bool f1 = call.ranks && l->forward == LORA_F1;
	call.s = t->index ? NULL : l->s;
	call.joins = f1 && has_room(&call, y);
	if (call.ranks && !call.joins && (f1 || l->s)) {
		call.s = l->s && !t->index ? l->s : cuda_scratch(c, SCRATCH_LORA_S, call.n * call.ranks * d->act_size);
		down(&call);
		lora_scatter(c, t, call.s, l->s, call.ranks);
	}
	if (call.joins) {
		joined(&call, y);
	} else if (f1) {
		cuda_linear_plan(c, call.n, call.x, call.x_row, l->weight, y);
		up(&call, y);
		cuda_linear(c, call.n, call.x, call.x_row, l->weight, NULL, y, true);
	} else if (call.ranks) {
		if (l->bias)
			cuda_bias(c, call.n, call.rows, l->bias, y, false);
		merged(&call, false, call.x, y, l->bias);
	} else {
		cuda_linear(c, call.n, call.x, call.x_row, l->weight, l->bias, y, false);
	}
	/* Last: a bias is the same for every token, and would round a small adapter away in all of them. */
	if (f1 && l->bias)
		cuda_bias(c, call.n, call.rows, l->bias, y, true);
	cuda_fp8_forget(c, call.x);
	lora_scatter(c, t, y, l->y, call.rows);
}

/* ---- backward ---- */

/* out (m, n) f32 = alpha * left^T right + beta * out, over `tokens` tokens. */
static void over_tokens(struct cuda_device *c, size_t tokens, const void *left, size_t left_row, size_t m,
	const void *right, size_t right_row, size_t n, float alpha, float beta, float *out)
{
	struct gemm g = product(c, m, n, tokens);
	g.a_transposed = true;
	g.a_row = left_row;
	g.b_row = right_row;
	g.out_type = GEMM_F32;
	g.alpha = alpha;
	g.beta = beta;
	cuda_gemm(c, &g, left, right, out);
}

/* The tokens first .. first+count-1 of a call. */
struct span {
	size_t first, count;
};

/* What a part's gradients are added to, or written to with beta 0. */
static void gradient_b(const struct lora_call *call, struct span s, size_t part, float beta, float *out)
{
	const struct lora_linear *l = call->l;
	const struct device *d = &call->c->base;
	size_t row = 0, at = 0;
	for (size_t i = 0; i < part; i++) {
		row += l->part[i].rows;
		at += l->part[i].rank;
	}
	over_tokens(call->c, s.count, act_at(d, call->dy, s.first * call->rows + row), call->rows, l->part[part].rows,
		act_at(d, call->s, s.first * call->ranks + at), call->ranks, l->part[part].rank,
		lora_part_scale(l, part), beta, out);
}

/* Of `parts` parts whose gradients lie one behind the other. */
static void gradient_a(const struct lora_call *call, struct span s, size_t part, size_t parts, float beta, float *out)
{
	const struct lora_linear *l = call->l;
	const struct device *d = &call->c->base;
	size_t at = 0, ranks = 0;
	for (size_t i = 0; i < part; i++)
		at += l->part[i].rank;
	for (size_t i = 0; i < parts; i++)
		ranks += l->part[part + i].rank;
	over_tokens(call->c, s.count, act_at(d, call->ds, s.first * call->ranks + at), call->ranks, ranks,
		act_at(d, call->x, s.first * call->x_row), call->x_row, call->cols, 1, beta, out);
}

static bool wanted(const struct lora_linear *l, bool b)
{
	bool any = false;
	for (size_t i = 0; i < l->parts; i++)
		any |= l->part[i].rank && (b ? l->part[i].grad_b : l->part[i].grad_a);
	return any;
}

static void all_gradients_a(const struct lora_call *call)
{
	const struct lora_linear *l = call->l;
	if (call->c->base.fault.code || !wanted(l, false))
		return;
	if (lora_skinny_takes(call, NULL)) {
		lora_skinny_gradient_a(call);
		return;
	}
	for (size_t i = 0, next; i < l->parts; i = next) {
		next = i + 1;
		if (!l->part[i].rank || !l->part[i].grad_a)
			continue;
		while (next < l->parts && l->part[next].rank &&
			l->part[next].grad_a == l->part[next - 1].grad_a + l->part[next - 1].rank * call->cols)
			next++;
		gradient_a(call, {0, call->n}, i, next - i, 1, l->part[i].grad_a);
	}
}

/* ds = scale * dy B; grad_b as well when asked. */
static void down_back(const struct lora_call *call, bool gradients)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	if (c->base.fault.code)
		return;
	if (gradients && lora_skinny_takes(call, NULL)) {
		lora_skinny_ds(call);
		return;
	}
	const char *b = (const char *)factor(c, l, true);
	for (size_t i = 0, row = 0, at = 0; b && i < l->parts; i++) {
		const struct lora_part *p = &l->part[i];
		struct gemm g = product(c, call->n, p->rank, p->rows);
		g.a_row = call->rows;
		g.out_row = call->ranks;
		g.alpha = lora_part_scale(l, i);
		if (p->rank)
			cuda_gemm(c, &g, act_at(&c->base, call->dy, row), b, act_at(&c->base, call->ds, at));
		if (gradients && p->rank && p->grad_b)
			gradient_b(call, {0, call->n}, i, 1, p->grad_b);
		b += p->rows * p->rank * c->base.act_size;
		row += p->rows;
		at += p->rank;
	}
}

/* dx = (+=) ds A */
static void adapter_input_gradient(const struct lora_call *call, void *dx, bool accumulate)
{
	struct cuda_device *c = call->c;
	if (c->base.fault.code)
		return;
	if (lora_skinny_takes(call, dx)) {
		lora_skinny_dx(call, dx, accumulate);
		return;
	}
	const void *a = factor(c, call->l, false);
	struct gemm g = product(c, call->n, call->cols, call->ranks);
	g.beta = accumulate ? 1.0f : 0.0f;
	if (a)
		cuda_gemm(c, &g, call->ds, a, dx);
}

/* dx = (+=) dy W + ds A */
static void input_gradient(const struct lora_call *call, void *dx, bool accumulate)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	if (c->base.fault.code)
		return;
	if (!call->ranks || l->adapter_dx) {
		cuda_linear_backward(c, call->n, call->dy, l->weight, dx, accumulate);
		return;
	}
	if (l->backward != LORA_B1) {
		merged(call, true, call->dy, dx, accumulate);
		return;
	}
	if (!accumulate)
		cuda_linear_backward_plan(c, call->n, call->dy, l->weight, dx);
	adapter_input_gradient(call, dx, accumulate);
	cuda_linear_backward(c, call->n, call->dy, l->weight, dx, true);
}

/* G = dy^T x, from which both gradients follow. */
static void gradients_b4(const struct lora_call *call)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	char *all = (char *)cuda_scratch(c, SCRATCH_LARGE, call->rows * call->cols * c->base.act_size);
	const char *a = (const char *)factor(c, l, false), *b = (const char *)factor(c, l, true);
	if (!all || !a || !b)
		return;
	struct gemm g = product(c, call->rows, call->cols, call->n);
	g.a_transposed = true;
	g.a_row = call->rows;
	g.b_row = call->x_row;
	cuda_gemm(c, &g, call->dy, call->x, all);
	for (size_t i = 0; i < l->parts; i++) {
		const struct lora_part *p = &l->part[i];
		if (p->rank && p->grad_a)
			over_tokens(c, p->rows, b, p->rank, p->rank, all, call->cols, call->cols, lora_part_scale(l, i),
				1, p->grad_a);
		struct gemm up = product(c, p->rows, p->rank, call->cols);
		up.b_transposed = true;
		up.b_row = call->cols;
		up.out_type = GEMM_F32;
		up.alpha = lora_part_scale(l, i);
		up.beta = 1;
		if (p->rank && p->grad_b)
			cuda_gemm(c, &up, all, a, p->grad_b);
		all += p->rows * call->cols * c->base.act_size;
		a += p->rank * call->cols * c->base.act_size;
		b += p->rank * p->rows * c->base.act_size;
	}
}

/* ---- every row's own norm ---- */

#define SQUARES_BLOCKS 64

/* gradient += g, and each block's sum of g's squares. */
__global__ void add_squares(size_t n, const float *g, float *gradient, double *partial)
{
	__shared__ double sums[8];
	double sum = 0;
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
		gradient[i] += g[i];
		sum += (double)g[i] * g[i];
	}
	for (int step = 16; step; step /= 2)
		sum += __shfl_xor_sync(~0u, sum, step);
	if (threadIdx.x % 32 == 0)
		sums[threadIdx.x / 32] = sum;
	__syncthreads();
	if (!threadIdx.x) {
		for (int i = 1; i < 8; i++)
			sum += sums[i];
		partial[blockIdx.x] = sum;
	}
}

__global__ void sum_squares_partial(const double *partial, double *out)
{
	double sum = 0;
	for (int i = 0; i < SQUARES_BLOCKS; i++)
		sum += partial[i];
	*out += sum;
}

static void add_counted(struct cuda_device *c, size_t n, const float *g, float *gradient, double *out)
{
	double *partial = (double *)cuda_scratch(c, SCRATCH_PARTIAL, SQUARES_BLOCKS * sizeof *partial);
	if (!partial)
		return;
	add_squares<<<SQUARES_BLOCKS, 256, 0, c->stream>>>(n, g, gradient, partial);
	sum_squares_partial<<<1, 1, 0, c->stream>>>(partial, out);
	cuda_launched(c, "a row's norm");
}

static void row_gradients(const struct lora_call *call, struct span s, double *squares)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	for (size_t i = 0; i < l->parts && s.count; i++) {
		const struct lora_part *p = &l->part[i];
		size_t width = p->rows > call->cols ? p->rows : call->cols;
		float *g = (float *)cuda_scratch(c, SCRATCH_LORA_GRADIENT, p->rank * width * sizeof *g);
		if (!g)
			continue;
		if (p->grad_a) {
			gradient_a(call, s, i, 1, 0, g);
			add_counted(c, p->rank * call->cols, g, p->grad_a, squares);
		}
		if (p->grad_b) {
			gradient_b(call, s, i, 0, g);
			add_counted(c, p->rank * p->rows, g, p->grad_b, squares);
		}
	}
}

static uint32_t *downloaded(struct cuda_device *c, const uint32_t *from, size_t count)
{
	uint32_t *out = (uint32_t *)calloc(count + 1, sizeof *out);
	if (!out)
		cuda_fail(c, SAKIORI_ENOMEM, "no memory for %zu row offsets", count);
	else if (count &&
		 cuda_well(c, cudaMemcpyAsync(out, from, count * sizeof *out, cudaMemcpyDeviceToHost, c->stream),
			 "reading row offsets"))
		cuda_well(c, cudaStreamSynchronize(c->stream), "reading row offsets");
	return out;
}

/* The gradients row by row. Waits for the device: meant for clipping each row's gradient and for tests, not for speed. */
static void all_row_gradients(const struct lora_call *call, const struct tokens *t, double *row_squares)
{
	struct cuda_device *c = call->c;
	uint32_t *offsets = downloaded(c, t->row_offsets, t->rows + 1);
	uint32_t *index = t->index ? downloaded(c, t->index, t->index_count) : NULL;
	size_t begin = 0;
	for (size_t row = 0; row < t->rows && !c->base.fault.code; row++) {
		size_t end = t->index ? begin : offsets[row + 1];
		while (t->index && end < call->n && index[end] < offsets[row + 1])
			end++;
		row_gradients(call, {begin, end - begin}, row_squares + row);
		begin = end;
	}
	free(offsets);
	free(index);
}

/* ---- the frozen weight's own gradient ---- */

/* out[i] += dW at indices[i]; a warp each. */
template <typename T>
__global__ void indexed_gradient(
	struct weight_gradient h, size_t n, size_t rows, size_t cols, const T *dy, const T *x, size_t x_row)
{
	size_t warp = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / 32, warps = (size_t)gridDim.x * blockDim.x / 32;
	for (size_t i = warp; i < h.k; i += warps) {
		size_t row = h.indices[i] / cols, col = h.indices[i] % cols;
		float sum = 0;
		for (size_t t = threadIdx.x % 32; t < n && row < rows; t += 32)
			sum += act_load(dy[t * rows + row]) * act_load(x[t * x_row + col]);
		for (int step = 16; step; step /= 2)
			sum += __shfl_xor_sync(~0u, sum, step);
		if (threadIdx.x % 32 == 0)
			h.out[i] += sum;
	}
}

/* out (rows, k) += dy^T (x Omega) */
static void sketched_gradient(const struct lora_call *call, const struct weight_gradient *h)
{
	struct cuda_device *c = call->c;
	size_t omega_bytes = (call->cols * h->k * c->base.act_size + 255) / 256 * 256;
	char *omega = (char *)cuda_scratch(c, SCRATCH_LORA_GRADIENT, omega_bytes + call->n * h->k * c->base.act_size);
	if (!omega)
		return;
	cuda_to_act(&c->base, omega, h->omega, call->cols * h->k);
	struct gemm g = product(c, call->n, h->k, call->cols);
	g.a_row = call->x_row;
	cuda_gemm(c, &g, call->x, omega, omega + omega_bytes);
	over_tokens(c, call->n, call->dy, call->rows, call->rows, omega + omega_bytes, h->k, h->k, 1, 1, h->out);
}

static void weight_gradient(const struct lora_call *call)
{
	struct cuda_device *c = call->c;
	const struct weight_gradient *h = call->l->gradient;
	if (!h || c->base.fault.code)
		return;
	if (h->kind == WEIGHT_GRADIENT_DENSE)
		over_tokens(
			c, call->n, call->dy, call->rows, call->rows, call->x, call->x_row, call->cols, 1, 1, h->out);
	if (h->kind == WEIGHT_GRADIENT_SKETCHED)
		sketched_gradient(call, h);
	if (h->kind != WEIGHT_GRADIENT_INDEXED || !h->k)
		return;
	unsigned blocks = cuda_blocks(c, h->k, 8);
	if (c->base.act == DTYPE_BF16)
		indexed_gradient<<<blocks, 256, 0, c->stream>>>(*h, call->n, call->rows, call->cols,
			(const __nv_bfloat16 *)call->dy, (const __nv_bfloat16 *)call->x, call->x_row);
	else
		indexed_gradient<<<blocks, 256, 0, c->stream>>>(*h, call->n, call->rows, call->cols,
			(const float *)call->dy, (const float *)call->x, call->x_row);
	cuda_launched(c, "single elements of a weight's gradient");
}

/* ---- backward, all together ---- */

static bool backward_may(const struct lora_call *call, const struct tokens *t, const void *x, const double *row_squares)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	bool hook = l->gradient && l->gradient->kind != WEIGHT_GRADIENT_NONE;
	if (row_squares && !t->row_offsets)
		cuda_fail(c, SAKIORI_EINVAL, "the rows' norms are wanted, but there are no row offsets");
	if (row_squares && c->capturing)
		cuda_fail(c, SAKIORI_EINVAL, "the rows' norms are wanted in a recording; they wait for the device");
	if (!x && call->ranks && (l->backward == LORA_B4 || !l->s || !l->ds))
		cuda_fail(c, SAKIORI_EINVAL,
			"an adapter's backward without its input needs s and ds, and another order than LORA_B4");
	if (!x && (hook || row_squares))
		cuda_fail(c, SAKIORI_EINVAL,
			"a linear's backward without its input gives no weight's gradient and no rows' norms");
	if (l->adapter_dx && call->ranks && l->backward != LORA_B1)
		cuda_fail(c, SAKIORI_EINVAL, "the adapter's own share of dx is wanted of a merged weight");
	return !c->base.fault.code;
}

/* Everything of the adapter but dx. */
static void adapter_gradients(struct lora_call *call, const struct tokens *t, const void *dx, double *row_squares)
{
	struct cuda_device *c = call->c;
	const struct lora_linear *l = call->l;
	size_t bytes = call->n * call->ranks * c->base.act_size;
	bool b4 = l->backward == LORA_B4 && !row_squares;
	bool needs_s = !b4 && wanted(l, true);
	bool needs_ds = l->ds || (!b4 && wanted(l, false)) || ((dx || l->adapter_dx) && l->backward == LORA_B1);
	if (needs_s && l->s) {
		call->s = lora_gather(c, t, SCRATCH_LORA_S, l->s, call->ranks, call->ranks, true);
	} else if (needs_s) {
		call->s = cuda_scratch(c, SCRATCH_LORA_S, bytes);
		down(call);
	}
	if (needs_ds || needs_s) {
		call->ds = l->ds && !t->index ? l->ds : cuda_scratch(c, SCRATCH_LORA_DS, bytes);
		down_back(call, needs_s && !row_squares);
	}
	lora_scatter(c, t, call->ds, l->ds, call->ranks);
	if (row_squares)
		all_row_gradients(call, t, row_squares);
	else if (b4)
		gradients_b4(call);
	else if (call->x)
		all_gradients_a(call);
}

void cuda_lora_backward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l, void *dx,
	bool accumulate, double *row_squares)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code)
		return;
	struct lora_call call = call_begin(c, t, l);
	if (d->fault.code || !call.n || !backward_may(&call, t, x, row_squares))
		return;
	gather_x(&call, t, x);
	call.dy = lora_gather(c, t, SCRATCH_TOKENS_Y, l->dy, call.rows, call.rows, true);
	void *compact = lora_gather(c, t, SCRATCH_TOKENS_DX, dx, call.cols, call.cols, accumulate);
	weight_gradient(&call);
	if (call.ranks)
		adapter_gradients(&call, t, dx, row_squares);
	if (call.ranks && l->adapter_dx) {
		void *own = lora_gather(c, t, SCRATCH_TOKENS_ADAPTER, l->adapter_dx, call.cols, call.cols, false);
		adapter_input_gradient(&call, own, false);
		lora_scatter(c, t, own, l->adapter_dx, call.cols);
	}
	if (dx) {
		input_gradient(&call, compact, accumulate);
		lora_scatter(c, t, compact, dx, call.cols);
	}
	cuda_fp8_forget(c, l->dy);
}

void cuda_lora_gradient_a(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code)
		return;
	struct lora_call call = call_begin(c, t, l);
	if (call.ranks && !l->ds)
		cuda_fail(c, SAKIORI_EINVAL, "the gradient of A is wanted, but no backward left its ds");
	if (d->fault.code || !call.n || !call.ranks)
		return;
	gather_x(&call, t, x);
	call.ds = lora_gather(c, t, SCRATCH_LORA_DS, l->ds, call.ranks, call.ranks, true);
	all_gradients_a(&call);
}
