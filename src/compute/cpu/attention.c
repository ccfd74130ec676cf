/* SPDX-License-Identifier: Apache-2.0 */
/* Attention in blocks with an online softmax: a thread takes one (row, key/value head) after another, stacks the query heads of the
 * group into one tile, and keeps only tiles: tile x keys scores, never (T, T). Products are oneDNN's on one thread: measured on a Zen 4
 * core, 192 x 64 x 128 tiles reach 200 of 215 GF/s with no packing of ours. */
#include "compute/cpu/cpu.h"
#include "compute/cpu/gemm.h"

#define TILE_ROWS 192 /* queries x heads of the group, about */
#define TILE_KEYS 128
#define LANES 32 /* sums and maxima kept side by side, so that they do not wait for one another */

struct attention_call {
	struct device *d;
	const struct attention *a;
	const struct tokens *t;
	const void *q, *k, *v;
	void *out;
	float *log_sum_exp;
	const void *d_out;
	void *dq, *dk, *dv;
	size_t group;                       /* query heads a key/value head */
	size_t queries;                     /* tokens of a tile */
	size_t rows;                        /* of a tile: queries * group */
	const struct gemm_plan *scores;     /* (rows, keys) = scale * (rows, head_dim) (keys, head_dim)^T */
	const struct gemm_plan *gather;     /* (rows, head_dim) += (rows, keys) (keys, head_dim) */
	const struct gemm_plan *transposed; /* (keys, head_dim) += (rows, keys)^T (rows, head_dim) */
	char *scratch;
	size_t scratch_each; /* bytes a thread */
	size_t keys_padded;  /* longest row, rounded up to whole tiles */
};

/* One (row, key/value head) and one tile of its queries. */
struct attention_place {
	size_t q_first, q_count;   /* tokens of the row */
	size_t kv_first, kv_count; /* its keys; the queries are the last of them */
	size_t head;               /* key/value head */
	size_t tile;               /* first query of the tile, within the row */
};

/* Keys [first, last) that the query may see. */
static void visible_keys(
	const struct attention *a, const struct attention_place *p, size_t query, size_t *first, size_t *last)
{
	size_t position = query + p->kv_count - p->q_count;
	*first = a->mask == MASK_WINDOW && position + 1 > a->window ? position + 1 - a->window : 0;
	*last = a->mask == MASK_BIDIRECTIONAL ? p->kv_count : position + 1;
}

/* The same for row `row` of a tile, within the block of keys that starts at `block`; empty for rows of padding. */
static void visible_columns(const struct attention_call *c, const struct attention_place *p, size_t row, size_t block,
	size_t *first, size_t *last)
{
	size_t query = p->tile + row % c->queries;
	*first = *last = 0;
	if (query >= p->q_count)
		return;
	size_t from, to;
	visible_keys(c->a, p, query, &from, &to);
	size_t end = block + TILE_KEYS;
	if (from >= end || to <= block)
		return;
	*first = from > block ? from - block : 0;
	*last = to < end ? to - block : TILE_KEYS;
}

/* The blocks of keys that some query of the tile sees: [first, last) in keys. */
static void visible_blocks(const struct attention_call *c, const struct attention_place *p, size_t *first, size_t *last)
{
	size_t unused, end = p->tile + c->queries;
	visible_keys(c->a, p, p->tile, first, &unused);
	visible_keys(c->a, p, (end < p->q_count ? end : p->q_count) - 1, &unused, last);
	*first -= *first % TILE_KEYS;
}

static struct attention_place place(const struct attention_call *c, size_t item)
{
	size_t row = item / c->a->kv_heads;
	const uint32_t *q = c->t->row_offsets, *kv = c->a->kv_offsets ? c->a->kv_offsets : q;
	return (struct attention_place){.q_first = q[row],
		.q_count = q[row + 1] - q[row],
		.kv_first = kv[row],
		.kv_count = kv[row + 1] - kv[row],
		.head = item % c->a->kv_heads};
}

static size_t aligned(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

#define ACT_TEMPLATE "compute/cpu/attention.inc"
#include "compute/cpu/each_act.h"

static bool call_check(struct attention_call *c)
{
	const struct attention *a = c->a;
	struct device *d = c->d;
	if (d->fault.code)
		return false;
	if (!a->kv_heads || a->heads % a->kv_heads || !a->head_dim || a->q_stride < a->heads * a->head_dim ||
		a->kv_stride < a->kv_heads * a->head_dim || (a->mask == MASK_WINDOW && !a->window) ||
		!c->t->row_offsets) {
		device_fail(d, SAKIORI_EINVAL, "attention with %zu heads, %zu key/value heads of %zu features",
			a->heads, a->kv_heads, a->head_dim);
		return false;
	}
	const uint32_t *kv = a->kv_offsets ? a->kv_offsets : c->t->row_offsets;
	size_t longest = 1, most_queries = 1;
	for (size_t row = 0; row < c->t->rows; row++) {
		size_t count = kv[row + 1] - kv[row], queries = c->t->row_offsets[row + 1] - c->t->row_offsets[row];
		longest = count > longest ? count : longest;
		most_queries = queries > most_queries ? queries : most_queries;
		if (count < queries)
			device_fail(d, SAKIORI_EINVAL, "row %zu has more queries than keys", row);
	}
	c->keys_padded = (longest + TILE_KEYS - 1) / TILE_KEYS * TILE_KEYS;
	c->group = a->heads / a->kv_heads;
	c->queries = TILE_ROWS / c->group ? TILE_ROWS / c->group : 1;
	/* Generating asks for one query a row; halving keeps the number of plans small. */
	while (c->queries / 2 >= most_queries)
		c->queries /= 2;
	c->rows = c->queries * c->group;
	return !d->fault.code;
}

static bool call_plans(struct attention_call *c, bool backward)
{
	struct device *d = c->d;
	gemm_plans_trim(d);
	size_t width = c->a->head_dim;
	uint32_t real = d->act == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
	struct gemm_shape s = {.m = c->rows,
		.n = TILE_KEYS,
		.k = width,
		.a_row = width,
		.a_col = 1,
		.b_row = 1,
		.b_col = width,
		.c_row = TILE_KEYS,
		.a_type = d->act,
		.b_type = d->act,
		.c_type = real,
		.flags = GEMM_SOLO,
		.scale = c->a->scale};
	c->scores = gemm_plan(d, &s);
	s = (struct gemm_shape){.m = c->rows,
		.n = width,
		.k = TILE_KEYS,
		.a_row = TILE_KEYS,
		.a_col = 1,
		.b_row = width,
		.b_col = 1,
		.c_row = width,
		.a_type = d->act,
		.b_type = d->act,
		.c_type = real,
		.flags = GEMM_SOLO | GEMM_ACCUMULATE,
		.scale = 1};
	c->gather = gemm_plan(d, &s);
	s = (struct gemm_shape){.m = TILE_KEYS,
		.n = width,
		.k = c->rows,
		.a_row = 1,
		.a_col = TILE_KEYS,
		.b_row = width,
		.b_col = 1,
		.c_row = width,
		.a_type = d->act,
		.b_type = d->act,
		.c_type = real,
		.flags = GEMM_SOLO | GEMM_ACCUMULATE,
		.scale = 1};
	if (backward)
		c->transposed = gemm_plan(d, &s);
	c->scratch = cpu_scratch(d, SCRATCH_ATTENTION, c->scratch_each * d->threads);
	return !d->fault.code;
}

void cpu_attention_forward(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
	const void *k, const void *v, void *out, float *log_sum_exp)
{
	struct attention_call c = {
		.d = d, .a = a, .t = t, .q = q, .k = k, .v = v, .out = out, .log_sum_exp = log_sum_exp};
	if (!call_check(&c))
		return;
	c.scratch_each = CPU_PICK(d, forward_bytes)(&c);
	if (call_plans(&c, false))
		cpu_run(d, d->threads, 1, CPU_PICK(d, attention_forward_body), &c);
}

void cpu_attention_backward(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
	const void *k, const void *v, const void *out, const float *log_sum_exp, const void *d_out, void *dq, void *dk,
	void *dv)
{
	struct attention_call c = {.d = d,
		.a = a,
		.t = t,
		.q = q,
		.k = k,
		.v = v,
		.out = (void *)(uintptr_t)out,
		.log_sum_exp = (float *)(uintptr_t)log_sum_exp,
		.d_out = d_out,
		.dq = dq,
		.dk = dk,
		.dv = dv};
	if (!call_check(&c))
		return;
	if (a->kv_offsets) {
		device_fail(d, SAKIORI_EUNSUPPORTED, "attention over a cache has no backward");
		return;
	}
	c.scratch_each = CPU_PICK(d, backward_bytes)(&c);
	if (call_plans(&c, true))
		cpu_run(d, d->threads, 1, CPU_PICK(d, attention_backward_body), &c);
}
