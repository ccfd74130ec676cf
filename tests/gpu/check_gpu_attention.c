/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over packed rows: every mask, grouped heads, caches, strides. */
#include "gpu/pair.h"

/* f32: exponentials and sums of up to 1,000 f32 terms. bf16: probabilities are rounded to bf16 before they meet v, and in the backward
 * differences of them are. */
static const struct pair_limit forward = {1e-5, 1e-2};
static const struct pair_limit backward = {2e-5, 2e-2};
static const struct pair_limit sums = {1e-5, 3e-3};

/* f32 knows one way only, the general one. */
static bool faster_way;

static bool known(enum dtype act)
{
	return act == DTYPE_BF16 || !faster_way;
}

struct attention_case {
	size_t heads, kv_heads, head_dim;
	enum mask_kind mask;
	size_t window;
	float softcap, scale; /* scale 0: 1 / sqrt(head_dim) */
	const uint32_t *offsets, *kv_offsets;
	size_t rows;
	bool longest_unknown;
	bool apart;   /* q, k and v in buffers of their own, not side by side in one */
	size_t spare; /* elements between a token's end and the next token */
	bool no_backward, no_sums;
};

/* q, k, v of a token side by side, as one product gives them; their gradients likewise. */
struct attention_buffers {
	struct both q, k, v, dq, dk, dv, all, d_all, out, d_out, sums, offsets, kv_offsets;
	size_t q_stride, kv_stride;
};

static void make_attention(struct pair *p, const struct attention_case *c, struct attention_buffers *m)
{
	size_t n = c->offsets[c->rows], keys = c->kv_offsets ? c->kv_offsets[c->rows] : n;
	size_t query = c->heads * c->head_dim, key = c->kv_heads * c->head_dim, all = query + 2 * key + c->spare;
	memset(m, 0, sizeof *m);
	m->offsets = pair_bytes(p, c->offsets, (c->rows + 1) * sizeof *c->offsets);
	if (c->kv_offsets)
		m->kv_offsets = pair_bytes(p, c->kv_offsets, (c->rows + 1) * sizeof *c->kv_offsets);
	m->out = pair_output(p, PAIR_ACT, n * query);
	m->d_out = pair_values(p, PAIR_ACT, 4, n * query, 1);
	m->sums = pair_output(p, PAIR_F32, n * c->heads);
	if (c->apart || c->kv_offsets) {
		m->q_stride = query + c->spare;
		m->kv_stride = key + c->spare;
		m->q = pair_values(p, PAIR_ACT, 1, n * m->q_stride, 1);
		m->k = pair_values(p, PAIR_ACT, 2, keys * m->kv_stride, 1);
		m->v = pair_values(p, PAIR_ACT, 3, keys * m->kv_stride, 1);
		m->dq = pair_output(p, PAIR_ACT, n * m->q_stride);
		m->dk = pair_output(p, PAIR_ACT, keys * m->kv_stride);
		m->dv = pair_output(p, PAIR_ACT, keys * m->kv_stride);
		return;
	}
	m->q_stride = m->kv_stride = all;
	m->all = pair_values(p, PAIR_ACT, 1, n * all, 1);
	m->d_all = pair_output(p, PAIR_ACT, n * all);
	m->q = m->all;
	m->k = pair_part(p, m->all, query, 0);
	m->v = pair_part(p, m->all, query + key, 0);
	m->dq = m->d_all;
	m->dk = pair_part(p, m->d_all, query, 0);
	m->dv = pair_part(p, m->d_all, query + key, 0);
}

static size_t longest_row(const struct attention_case *c)
{
	size_t longest = 0;
	for (size_t i = 0; i < c->rows; i++)
		if (c->offsets[i + 1] - c->offsets[i] > longest)
			longest = c->offsets[i + 1] - c->offsets[i];
	return longest;
}

static void call_attention(
	struct pair *p, const struct attention_case *c, const struct attention_buffers *m, int side, bool both_ways)
{
	struct device *d = p->device[side];
	struct attention a = {.heads = c->heads,
		.kv_heads = c->kv_heads,
		.head_dim = c->head_dim,
		.mask = c->mask,
		.window = c->window,
		.softcap = c->softcap,
		.scale = c->scale > 0 ? c->scale : 1 / sqrtf((float)c->head_dim),
		.q_stride = m->q_stride,
		.kv_stride = m->kv_stride,
		.kv_offsets = m->kv_offsets.at[side]};
	struct tokens t = {.count = c->offsets[c->rows],
		.row_offsets = m->offsets.at[side],
		.rows = c->rows,
		.longest = c->longest_unknown ? 0 : longest_row(c)};
	d->ops->attention_forward(d, &a, &t, m->q.at[side], m->k.at[side], m->v.at[side], m->out.at[side],
		c->no_sums ? NULL : m->sums.at[side]);
	if (both_ways)
		d->ops->attention_backward(d, &a, &t, m->q.at[side], m->k.at[side], m->v.at[side], m->out.at[side],
			m->sums.at[side], m->d_out.at[side], m->dq.at[side], m->dk.at[side], m->dv.at[side]);
}

static void check_attention(struct pair *p, const struct attention_case *c)
{
	struct attention_buffers m;
	bool both_ways = !c->no_backward && !c->kv_offsets && !c->no_sums;
	pair_case(p,
		"heads %zu/%zu of %zu, mask %d window %zu softcap %g, %zu rows, %u tokens, longest %zu%s%s%s spare %zu",
		c->heads, c->kv_heads, c->head_dim, (int)c->mask, c->window, (double)c->softcap, c->rows,
		(unsigned)c->offsets[c->rows], longest_row(c), c->longest_unknown ? " (not told)" : "",
		c->apart ? " apart" : "", c->kv_offsets ? " with a cache" : "", c->spare);
	make_attention(p, c, &m);
	for (int side = 0; side < PAIR_SIDES; side++)
		call_attention(p, c, &m, side, both_ways);
	pair_near(p, m.out, forward, "out");
	if (!c->no_sums)
		pair_near_sorted(p, m.sums, sums, "log-sum-exp");
	if (!both_ways)
		return;
	if (m.d_all.n) {
		pair_near(p, m.d_all, backward, "dq, dk, dv side by side");
		return;
	}
	pair_near(p, m.dq, backward, "dq");
	pair_near(p, m.dk, backward, "dk");
	pair_near(p, m.dv, backward, "dv");
}

static const uint32_t one[] = {0, 1};
static const uint32_t packed[] = {0, 1, 8, 72, 137};
static const uint32_t with_empty[] = {0, 0, 5, 5, 5, 14, 14};
static const uint32_t tiles[] = {0, 128, 257, 384};
static const uint32_t longer[] = {0, 1000, 1003};
static const uint32_t nothing[] = {0, 0, 0};

START_TEST(grouped_heads_of_every_size_match)
{
	static const size_t shapes[][3] = {{9, 3, 64}, {32, 8, 128}, {4, 4, 80}, {4, 1, 128}, {3, 3, 64}, {6, 2, 80},
		{2, 2, 32}, {4, 2, 16}, {4, 2, 8}, {2, 1, 96}, {3, 1, 5}, {2, 1, 256}};
	struct pair p;
	if (!known(pair_types[_i]))
		return;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
		struct attention_case c = {.heads = shapes[k][0],
			.kv_heads = shapes[k][1],
			.head_dim = shapes[k][2],
			.offsets = packed,
			.rows = 4};
		check_attention(&p, &c);
		c.apart = true;
		check_attention(&p, &c);
	}
	pair_close(&p);
}
END_TEST

START_TEST(rows_of_every_length_match)
{
	static const struct {
		const uint32_t *offsets;
		size_t rows;
	} lengths[] = {{one, 1}, {packed, 4}, {with_empty, 6}, {tiles, 3}, {nothing, 2}, {longer, 2}};
	static const size_t shapes[][3] = {{9, 3, 64}, {8, 2, 128}, {2, 1, 80}};
	struct pair p;
	if (!known(pair_types[_i]))
		return;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 3; k++)
		for (int j = 0; j < 6; j++)
			for (int told = j >= 4; told < 2; told++) {
				struct attention_case c = {.heads = j == 5 ? shapes[k][0] / shapes[k][1] : shapes[k][0],
					.kv_heads = j == 5 ? 1 : shapes[k][1],
					.head_dim = shapes[k][2],
					.offsets = lengths[j].offsets,
					.rows = lengths[j].rows,
					.longest_unknown = !told};
				check_attention(&p, &c);
			}
	pair_close(&p);
}
END_TEST

/* Rows that are all as long, by whole tiles of 64: cuDNN takes them as an ordinary tensor, without offsets and lengths, and keeps
 * log-sum-exp in an order of its own. */
START_TEST(rows_that_are_all_full_match)
{
	static const uint32_t two[] = {0, 128, 256}, odd[] = {0, 64, 128, 192}, single[] = {0, 512};
	static const struct {
		const uint32_t *offsets;
		size_t rows;
	} full[] = {{two, 2}, {odd, 3}, {single, 1}};
	static const struct attention_case masks[] = {
		{.mask = MASK_CAUSAL}, {.mask = MASK_WINDOW, .window = 50}, {.mask = MASK_BIDIRECTIONAL}};
	static const size_t shapes[][3] = {{4, 2, 64}, {2, 1, 128}};
	struct pair p;
	if (!known(pair_types[_i]))
		return;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 2; k++)
		for (int j = 0; j < 3; j++)
			for (int mask = 0; mask < 3; mask++)
				for (int apart = 0; apart < 2; apart++) {
					struct attention_case c = masks[mask];
					c.heads = shapes[k][0];
					c.kv_heads = shapes[k][1];
					c.head_dim = shapes[k][2];
					c.offsets = full[j].offsets;
					c.rows = full[j].rows;
					c.apart = apart;
					check_attention(&p, &c);
				}
	pair_close(&p);
}
END_TEST

START_TEST(every_mask_matches)
{
	static const struct attention_case masks[] = {
		{.mask = MASK_WINDOW, .window = 1},
		{.mask = MASK_WINDOW, .window = 17},
		{.mask = MASK_WINDOW, .window = 64},
		{.mask = MASK_WINDOW, .window = 1000},
		{.mask = MASK_BIDIRECTIONAL},
		{.softcap = 5},
		{.softcap = 1, .scale = 1},
		{.mask = MASK_WINDOW, .window = 20, .softcap = 5},
		{.mask = MASK_BIDIRECTIONAL, .softcap = 5},
		{.scale = 0.5f},
	};
	static const size_t shapes[][3] = {{6, 2, 64}, {4, 1, 128}, {2, 2, 80}};
	struct pair p;
	if (!known(pair_types[_i]))
		return;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof masks / sizeof *masks; k++)
		for (int j = 0; j < 3; j++)
			for (int long_rows = 0; long_rows < 2; long_rows++) {
				struct attention_case c = masks[k];
				c.heads = shapes[j][0];
				c.kv_heads = shapes[j][1];
				c.head_dim = shapes[j][2];
				c.offsets = long_rows ? tiles : packed;
				c.rows = long_rows ? 3 : 4;
				check_attention(&p, &c);
			}
	pair_close(&p);
}
END_TEST

START_TEST(strides_may_leave_room_between_tokens)
{
	struct pair p;
	if (!known(pair_types[_i]))
		return;
	pair_open(&p, pair_types[_i]);
	for (size_t spare = 1; spare <= 16; spare *= 2)
		for (int apart = 0; apart < 2; apart++) {
			struct attention_case c = {.heads = 3,
				.kv_heads = 1,
				.head_dim = 64,
				.offsets = packed,
				.rows = 4,
				.spare = spare,
				.apart = apart};
			check_attention(&p, &c);
		}
	pair_close(&p);
}
END_TEST

START_TEST(queries_at_the_end_of_a_cache_see_all_of_it)
{
	static const uint32_t queries[] = {0, 1, 4}, keys[] = {0, 200, 207}, single[] = {0, 1}, cached[] = {0, 700},
			      many[] = {0, 65, 65, 70}, more[] = {0, 65, 65, 200};
	static const size_t shapes[][3] = {{9, 3, 64}, {32, 8, 128}, {2, 1, 80}};
	struct pair p;
	if (!known(pair_types[_i]))
		return;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 3; k++)
		for (int j = 0; j < 4; j++) {
			struct attention_case c = {.heads = shapes[k][0],
				.kv_heads = shapes[k][1],
				.head_dim = shapes[k][2],
				.offsets = j == 1   ? single
					   : j == 2 ? many
						    : queries,
				.kv_offsets = j == 1   ? cached
					      : j == 2 ? more
						       : keys,
				.rows = j == 1   ? 1
					: j == 2 ? 3
						 : 2,
				.no_sums = j != 2,
				.mask = j == 3 ? MASK_WINDOW : MASK_CAUSAL,
				.window = 50};
			check_attention(&p, &c);
		}
	pair_close(&p);
}
END_TEST

/* Scores of hundreds: exponentials must not overflow. */
START_TEST(large_scores_stay_finite)
{
	struct pair p;
	if (!known(pair_types[_i]))
		return;
	pair_open(&p, pair_types[_i]);
	struct attention_case c = {.heads = 2,
		.kv_heads = 1,
		.head_dim = 64,
		.offsets = packed,
		.rows = 4,
		.scale = 40,
		.no_backward = true};
	check_attention(&p, &c);
	c.scale = 1e-3f;
	c.no_backward = false;
	check_attention(&p, &c);
	pair_close(&p);
}
END_TEST

struct difference {
	const struct attention_case *c;
	const struct attention_buffers *m;
};

static double attention_loss(struct pair *p, void *self)
{
	const struct difference *s = self;
	call_attention(p, s->c, s->m, PAIR_GPU, false);
	return pair_dot(p, s->m->out, s->m->d_out);
}

/* With a step of 2^-5 the third derivative and the rounding of f32 are both about 1e-3 of the gradient. */
START_TEST(gradients_are_those_of_finite_differences)
{
	static const uint32_t rows[] = {0, 1, 6, 6, 9};
	static const struct attention_case cases[] = {{.mask = MASK_CAUSAL}, {.mask = MASK_WINDOW, .window = 3},
		{.mask = MASK_BIDIRECTIONAL}, {.softcap = 2}};
	struct pair p;
	if (pair_types[_i] != DTYPE_F32 || faster_way)
		return;
	pair_open(&p, DTYPE_F32);
	for (int k = 0; k < 4; k++) {
		struct attention_case c = cases[k];
		struct attention_buffers m;
		struct difference s = {&c, &m};
		c.heads = 2;
		c.kv_heads = 1;
		c.head_dim = 8;
		c.offsets = rows;
		c.rows = 4;
		c.apart = true;
		pair_case(&p, "finite differences, mask %d softcap %g", (int)c.mask, (double)c.softcap);
		make_attention(&p, &c, &m);
		call_attention(&p, &c, &m, PAIR_GPU, true);
		pair_differences(&p, attention_loss, &s, m.q, m.dq, 0x1p-5, 5e-3, "dq by differences");
		pair_differences(&p, attention_loss, &s, m.k, m.dk, 0x1p-5, 5e-3, "dk by differences");
		pair_differences(&p, attention_loss, &s, m.v, m.dv, 0x1p-5, 5e-3, "dv by differences");
	}
	pair_close(&p);
}
END_TEST

/* A call that is cuDNN's wherever there is one: bf16, a full row of 64 tokens, heads of 64. */
static void plain_call(struct device *d)
{
	enum { TOKENS = 64, WIDTH = 64 };
	static const uint32_t offsets[] = {0, TOKENS};
	const struct attention a = {
		.heads = 1, .kv_heads = 1, .head_dim = WIDTH, .scale = 1, .q_stride = WIDTH, .kv_stride = WIDTH};
	void *q = d->ops->alloc(d, (size_t)TOKENS * WIDTH * d->act_size),
	     *out = d->ops->alloc(d, (size_t)TOKENS * WIDTH * d->act_size), *rows = d->ops->alloc(d, sizeof offsets);
	float *log_sums = d->ops->alloc(d, TOKENS * sizeof *log_sums);
	const struct tokens t = {.count = TOKENS, .row_offsets = rows, .rows = 1, .longest = TOKENS};
	d->ops->upload(d, rows, offsets, sizeof offsets);
	d->ops->attention_forward(d, &a, &t, q, q, q, out, log_sums);
	device_sync(d, NULL);
	d->ops->release(d, q);
	d->ops->release(d, out);
	d->ops->release(d, rows);
	d->ops->release(d, log_sums);
}

/* Whether the way is not there on this machine, which is said; where a GPU is required so is cuDNN, and its suite fails. */
static bool missing(const char *way, const char *suite)
{
	struct fault f = {0};
	if (strcmp(way, "cudnn") != 0 || getenv("SAKIORI_GPU_REQUIRED") || !pair_try(DTYPE_BF16, plain_call, &f) ||
		!strstr(f.text, "there is no cuDNN"))
		return false;
	printf("SKIP %s: %s\n", suite, f.text);
	fflush(stdout);
	return true;
}

/* Three ways lead to the same: cuDNN, own kernels on tensor cores, own kernels for every shape. Arguments: only these ("": what the module chooses itself). */
int main(int argc, char **argv)
{
	const TTest *const tests[] = {
		grouped_heads_of_every_size_match,
		rows_of_every_length_match,
		rows_that_are_all_full_match,
		every_mask_matches,
		strides_may_leave_room_between_tokens,
		queries_at_the_end_of_a_cache_see_all_of_it,
		large_scores_stay_finite,
		gradients_are_those_of_finite_differences,
	};
	static char cudnn[] = "cudnn", own[] = "own", general[] = "general";
	char *all[] = {argv[0], cudnn, own, general};
	int failed = 0, run = 0;
	if (argc == 1) {
		argv = all;
		argc = 4;
	}
	for (int i = 1; i < argc; i++) {
		char name[40];
		snprintf(name, sizeof name, "gpu_attention %s", *argv[i] ? argv[i] : "as chosen");
		setenv("SAKIORI_CUDA_ATTENTION", argv[i], 1);
		faster_way = strcmp(argv[i], general) != 0;
		if (missing(argv[i], name))
			continue;
		failed |= pair_run(name, tests, sizeof tests / sizeof *tests, PAIR_TYPES);
		run++;
	}
	return run ? failed : PAIR_SKIPPED;
}
