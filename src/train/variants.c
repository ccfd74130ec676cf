/* SPDX-License-Identifier: Apache-2.0 */
#include "train/variants.h"

#include <stdio.h>
#include <string.h>

static const char *const mode_names[] = {
	[VARIANTS_COST] = "cost",
	[VARIANTS_FIXED] = "fixed",
	[VARIANTS_TIMED] = "timed",
	[VARIANTS_TIMED_MERGED] = "timed-merged",
};

static const struct {
	const char *name;
	enum lora_target first;
	size_t parts;
} groups[VARIANTS_GROUPS] = {
	[VARIANTS_QKV] = {"qkv", LORA_Q, 3},
	[VARIANTS_O] = {"o", LORA_O, 1},
	[VARIANTS_GATE_UP] = {"gate_up", LORA_GATE, 2},
	[VARIANTS_DOWN] = {"down", LORA_DOWN, 1},
};

int variants_mode_parse(const char *word, enum variants_mode *out, struct fault *f)
{
	for (size_t i = 0; i < sizeof mode_names / sizeof *mode_names; i++)
		if (!strcmp(word, mode_names[i])) {
			*out = (enum variants_mode)i;
			return 0;
		}
	return fault_set(
		f, SAKIORI_EINVAL, "variants: expected fixed, cost, timed or timed-merged, found '%.40s'", word);
}

const char *variants_mode_name(enum variants_mode mode)
{
	return mode_names[mode];
}

const char *variants_group_name(enum variants_group group)
{
	return groups[group].name;
}

size_t variants_targets(enum variants_group group, enum lora_target *first)
{
	*first = groups[group].first;
	return groups[group].parts;
}

size_t variants_ranks(const struct lora_layout *layout, enum variants_group group)
{
	size_t sum = 0;
	for (size_t i = 0; i < groups[group].parts; i++)
		sum += layout->ranks[groups[group].first + i];
	return sum;
}

size_t variants_room(const size_t *ranks, size_t adapters)
{
	enum { LINE = 64 }; /* bf16 elements */
	size_t sum = 0;
	bool joins = true;
	/* What gpu/lora_skinny.cu takes. */
	for (size_t i = 0; i < adapters; i++) {
		joins = joins && ranks[i] % 8 == 0 && ranks[i] <= 32;
		sum += ranks[i];
	}
	return joins && sum <= 96 ? (sum + LINE - 1) / LINE * LINE : 0;
}

size_t variants_group_room(const struct lora_layout *layout, enum variants_group group)
{
	bool joins = group != VARIANTS_O; /* attention puts its output out dense */
	return layout && joins ? variants_room(layout->ranks + groups[group].first, groups[group].parts) : 0;
}

void variants_shape_of(const struct lora_widths *widths, const size_t ranks[static LORA_TARGETS],
	enum variants_group group, size_t tokens, bool dx, struct variants_shape *out)
{
	*out = (struct variants_shape){
		.tokens = tokens, .parts = groups[group].parts, .dx = dx, .later_x = group == VARIANTS_DOWN};
	for (size_t i = 0; i < out->parts; i++) {
		enum lora_target target = groups[group].first + (enum lora_target)i;
		out->part[i].rows = lora_rows(widths, target);
		out->part[i].rank = ranks[target];
		out->rows += out->part[i].rows;
		out->cols = lora_cols(widths, target);
	}
}

/* ---- the products of each order ---- */

struct product {
	uint64_t flops;
	double bytes;
	enum { ACTIVATIONS, BASE, MERGE } kind; /* BASE multiplies the weight as it is stored */
};

/* At most: the weight's, and of each of four parts, merging, ds, grad_b, its G and both products with G; s, grad_a, dx. */
#define PRODUCTS_MAX 32

struct products {
	const struct variants_shape *v;
	const struct variants_rates *r;
	struct product at[PRODUCTS_MAX];
	size_t count;
};

/* (m, n) = (m, k) (k, n), their elements having a, b and c bytes; c counts once when it is written, twice when it is added to. */
static void multiply(struct products *p, size_t m, size_t n, size_t k, double a, double b, double c)
{
	double rows = (double)m, cols = (double)n, depth = (double)k;
	p->at[p->count++] = (struct product){
		.flops = 2 * (uint64_t)m * n * k,
		.bytes = rows * depth * a + depth * cols * b + rows * cols * c,
	};
}

static size_t ranks(const struct variants_shape *v)
{
	size_t sum = 0;
	for (size_t i = 0; i < v->parts; i++)
		sum += v->part[i].rank;
	return sum;
}

/* Adapters, their gradients and dW are f32. */
static const double f32 = 4;

/* W + scale B A, part by part; those without an adapter are copied. */
static void merge(struct products *p)
{
	double moved = p->r->weight_bytes + p->r->act_bytes;
	for (size_t i = 0; i < p->v->parts; i++) {
		multiply(p, p->v->part[i].rows, p->v->cols, p->v->part[i].rank, f32, f32, moved);
		p->at[p->count - 1].kind = MERGE;
	}
}

/* s = x A^T of all parts. */
static void project(struct products *p)
{
	multiply(p, p->v->tokens, ranks(p->v), p->v->cols, p->r->act_bytes, f32, p->r->act_bytes);
}

static void forward_products(struct products *p, enum lora_forward_order order, bool s)
{
	const struct variants_shape *v = p->v;
	double act = p->r->act_bytes;
	if (order == LORA_F2 && ranks(v)) {
		merge(p);
		multiply(p, v->tokens, v->rows, v->cols, act, act, act);
		if (s)
			project(p);
		return;
	}
	if (ranks(v))
		project(p);
	for (size_t i = 0; i < v->parts; i++)
		if (v->part[i].rank)
			multiply(p, v->tokens, v->part[i].rows, v->part[i].rank, act, f32, act);
	multiply(p, v->tokens, v->rows, v->cols, act, p->r->weight_bytes, ranks(v) ? 2 * act : act);
	p->at[p->count - 1].kind = BASE;
}

/* Both gradients through G = dy^T x, which is one product for all parts. */
static void gradients_by_g(struct products *p)
{
	const struct variants_shape *v = p->v;
	double act = p->r->act_bytes;
	if (!ranks(v))
		return;
	multiply(p, v->rows, v->cols, v->tokens, act, act, f32);
	for (size_t i = 0; i < v->parts; i++) {
		size_t rows = v->part[i].rows, rank = v->part[i].rank;
		if (!rank)
			continue;
		multiply(p, rank, v->cols, rows, f32, f32, 2 * f32);
		multiply(p, rows, rank, v->cols, f32, f32, 2 * f32);
	}
}

/* Both gradients through s and ds. */
static void gradients_by_s(struct products *p, bool s)
{
	const struct variants_shape *v = p->v;
	double act = p->r->act_bytes;
	if (!ranks(v))
		return;
	if (!s)
		project(p);
	for (size_t i = 0; i < v->parts; i++) {
		size_t rows = v->part[i].rows, rank = v->part[i].rank;
		if (!rank)
			continue;
		multiply(p, v->tokens, rank, rows, act, f32, act);
		multiply(p, rows, rank, v->tokens, act, act, 2 * f32);
	}
	multiply(p, ranks(v), v->cols, v->tokens, act, act, 2 * f32);
}

static void backward_products(struct products *p, enum lora_backward_order order, bool s)
{
	const struct variants_shape *v = p->v;
	double act = p->r->act_bytes;
	if (order == LORA_B4)
		gradients_by_g(p);
	else
		gradients_by_s(p, s);
	if (!v->dx)
		return;
	if (order != LORA_B1 && ranks(v)) {
		merge(p);
		multiply(p, v->tokens, v->cols, v->rows, act, act, act);
		return;
	}
	multiply(p, v->tokens, v->cols, v->rows, act, p->r->weight_bytes, act);
	p->at[p->count - 1].kind = BASE;
	if (ranks(v))
		multiply(p, v->tokens, v->cols, ranks(v), act, f32, 2 * act);
}

static uint64_t flops(const struct products *p)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < p->count; i++)
		sum += p->at[i].flops;
	return sum;
}

static double seconds(const struct products *p)
{
	const double rates[] = {[ACTIVATIONS] = p->r->flops, [BASE] = p->r->base_flops, [MERGE] = p->r->merge_flops};
	double sum = 0;
	for (size_t i = 0; i < p->count; i++) {
		double computing = (double)p->at[i].flops / rates[p->at[i].kind];
		double moving = p->at[i].bytes / p->r->bytes;
		sum += p->r->latency + (computing > moving ? computing : moving);
	}
	return sum;
}

/* FLOPs do not depend on what a device does in a second. */
static const struct variants_rates no_rates;

uint64_t variants_flops_forward(const struct variants_shape *v, enum lora_forward_order order, bool s)
{
	struct products p = {.v = v, .r = &no_rates};
	forward_products(&p, order, s);
	return flops(&p);
}

uint64_t variants_flops_backward(const struct variants_shape *v, enum lora_backward_order order, bool s)
{
	struct products p = {.v = v, .r = &no_rates};
	backward_products(&p, order, s);
	return flops(&p);
}

double variants_seconds_forward(
	const struct variants_shape *v, enum lora_forward_order order, bool s, const struct variants_rates *r)
{
	struct products p = {.v = v, .r = r};
	forward_products(&p, order, s);
	return seconds(&p);
}

double variants_seconds_backward(
	const struct variants_shape *v, enum lora_backward_order order, bool s, const struct variants_rates *r)
{
	struct products p = {.v = v, .r = r};
	backward_products(&p, order, s);
	return seconds(&p);
}

/* ---- the choice ---- */

/* Bytes of an element that multiplying a weight moves. Packed blocks are read, unpacked to memory in bf16 and read again. */
static double stored_bytes(enum dtype act, enum weight_storage storage)
{
	double plain = (double)dtype_size(act);
	switch (storage) {
	case WEIGHT_FP8:
		return 1;
	case WEIGHT_NF4:
		return 0.53 + 2 * plain;
	case WEIGHT_STORED:
		return 0.6 + 2 * plain;
	case WEIGHT_F32:
	case WEIGHT_BF16:
		break;
	}
	return plain;
}

/* An H100's and a Zen 4 core's rates as bench/bench_ops measures them. FLOPs a byte are within a factor of two of these on all cards
 * from the A100 to the RTX 5090, and orders change places slowly. */
struct variants_rates variants_rates_of(
	const char *device, enum dtype act, enum weight_storage storage, unsigned threads)
{
	bool cuda = !strncmp(device, "cuda", 4);
	double cores = threads ? threads : 1;
	struct variants_rates r = {
		.flops = cuda ? (act == DTYPE_BF16 ? 700e12 : 45e12) : cores * (act == DTYPE_BF16 ? 210e9 : 105e9),
		.bytes = cuda ? 3e12 : cores * 10e9,
		.latency = cuda ? 3e-6 : 5e-6,
		.act_bytes = (double)dtype_size(act),
		.weight_bytes = stored_bytes(act, storage),
	};
	r.base_flops = cuda && storage == WEIGHT_FP8 ? 1300e12 : r.flops;
	/* A GPU multiplies B A like any other product, the CPU sums it up row by row. */
	r.merge_flops = cuda ? r.flops : cores * 7e9;
	return r;
}

bool variants_merges(const struct variants_shape *v, const struct variants_choice *c)
{
	return ranks(v) && (c->forward == LORA_F2 || (c->backward != LORA_B1 && v->dx));
}

size_t variants_candidates(const struct variants_shape *v, bool keep_s, bool merged,
	struct variants_choice out[static VARIANTS_CANDIDATES])
{
	static const enum lora_forward_order forwards[] = {LORA_F1, LORA_F2};
	static const enum lora_backward_order backwards[] = {LORA_B1, LORA_B5, LORA_B4};
	size_t count = 0;
	for (size_t i = 0; i < 2; i++)
		for (size_t j = 0; j < 3; j++) {
			struct variants_choice c = {.forward = forwards[i], .backward = backwards[j]};
			/* Only LORA_F1 has s to spare, and LORA_B4 does not read it. */
			c.s = (keep_s || v->later_x) && ranks(v) && c.forward == LORA_F1 && c.backward != LORA_B4;
			bool same = c.backward == LORA_B5 && !v->dx; /* then it is LORA_B1 */
			bool possible = !v->later_x || !ranks(v) || c.s;
			if (!same && possible && (merged || !variants_merges(v, &c)))
				out[count++] = c;
			if (!ranks(v))
				return count;
		}
	return count;
}

struct variants_choice variants_by_cost(
	const struct variants_shape *v, const struct variants_rates *r, bool keep_s, bool merged)
{
	struct variants_choice all[VARIANTS_CANDIDATES], best = {0};
	size_t count = variants_candidates(v, keep_s, merged, all);
	double least = 0;
	for (size_t i = 0; i < count; i++) {
		double each = variants_seconds_forward(v, all[i].forward, all[i].s, r) +
			      variants_seconds_backward(v, all[i].backward, all[i].s, r);
		if (i == 0 || each < least) {
			best = all[i];
			least = each;
		}
	}
	return best;
}

/* ---- choices of a run ---- */

void variants_plan(
	struct variants *v, const char *device, enum dtype act, unsigned threads, const struct variants_config *c)
{
	*v = (struct variants){
		.mode = c->mode == VARIANTS_FIXED ? VARIANTS_FIXED : VARIANTS_COST,
		.widths = c->widths,
		.tokens = c->tokens,
		.keep_s = c->keep_s,
		.merged = act != DTYPE_BF16 || c->mode == VARIANTS_TIMED_MERGED,
		.rates = variants_rates_of(device, act, c->storage, threads),
	};
	memcpy(v->ranks, c->ranks, sizeof v->ranks);
}

/* The lowest group that has an adapter: in the first layer nothing below it is differentiated. */
static enum variants_group lowest(const size_t ranks[static LORA_TARGETS])
{
	for (size_t i = 0; i < VARIANTS_GROUPS; i++)
		for (size_t part = 0; part < groups[i].parts; part++)
			if (ranks[groups[i].first + part])
				return (enum variants_group)i;
	return VARIANTS_QKV;
}

int variants_choose(struct variants *v, struct device *d, const struct variants_config *c, struct fault *f)
{
	variants_plan(v, d->ops->name, d->act, d->threads, c);
	if (c->mode == VARIANTS_FIXED || c->mode == VARIANTS_COST)
		return 0;
	v->mode = c->mode;
	for (size_t group = 0; group < VARIANTS_GROUPS; group++)
		for (int dx = group != lowest(c->ranks); dx < 2; dx++)
			for (size_t size = 0; size < VARIANTS_SIZES; size++) {
				struct variants_shape shape;
				struct variants_choice *choice = &v->timed[group][dx][size];
				variants_shape_of(&c->widths, c->ranks, (enum variants_group)group,
					((c->tokens - 1) >> size) + 1, dx, &shape);
				*choice = variants_by_cost(&shape, &v->rates, c->keep_s, v->merged);
				int rc = c->weight[group] ? variants_by_time(d, c->weight[group], &shape, c, v->merged,
								    choice, f)
							  : 0;
				if (rc)
					return rc;
			}
	return 0;
}

struct variants_choice variants_at(const struct variants *v, enum variants_group group, size_t tokens, bool dx)
{
	struct variants_shape shape;
	if (!v || v->mode == VARIANTS_FIXED)
		return (struct variants_choice){
			.forward = LORA_F1, .backward = LORA_B1, .s = !v || v->keep_s || group == VARIANTS_DOWN};
	if (v->mode != VARIANTS_COST && (dx || group == lowest(v->ranks))) {
		/* The nearest of the sizes that were measured. */
		size_t size = 0;
		while (size < VARIANTS_SIZES - 1 && 4 * tokens <= 3 * (v->tokens >> size))
			size++;
		return v->timed[group][dx][size];
	}
	variants_shape_of(&v->widths, v->ranks, group, tokens, dx, &shape);
	return variants_by_cost(&shape, &v->rates, v->keep_s, v->merged);
}

bool variants_may_merge(const char *device, enum dtype act, unsigned threads, const struct variants_config *c)
{
	struct variants v;
	variants_plan(&v, device, act, threads, c);
	if (c->mode != VARIANTS_COST)
		return v.merged && c->mode != VARIANTS_FIXED; /* whatever is measured is made */
	for (enum variants_group group = 0; group < VARIANTS_GROUPS; group++) {
		struct variants_shape shape;
		struct variants_choice choice = variants_at(&v, group, c->tokens, true);
		variants_shape_of(&c->widths, c->ranks, group, c->tokens, true, &shape);
		if (variants_merges(&shape, &choice))
			return true;
	}
	return false;
}

char *variants_format(const struct variants_choice *c, char out[static VARIANTS_WORD])
{
	snprintf(out, VARIANTS_WORD, "%s %s%s", c->forward == LORA_F2 ? "F2" : "F1",
		c->backward == LORA_B4   ? "B4"
		: c->backward == LORA_B5 ? "B5"
					 : "B1",
		c->s ? " with s" : "");
	return out;
}

char *variants_describe(const struct variants *v, size_t tokens, char out[static VARIANTS_TEXT])
{
	size_t n = 0;
	for (enum variants_group group = 0; group < VARIANTS_GROUPS; group++) {
		char word[VARIANTS_WORD];
		struct variants_choice c = variants_at(v, group, tokens, true);
		n += (size_t)snprintf(
			out + n, VARIANTS_TEXT - n, "%s %s, ", groups[group].name, variants_format(&c, word));
	}
	snprintf(out + n, VARIANTS_TEXT - n, "%s%s", v->mode == VARIANTS_FIXED ? "" : "by ", mode_names[v->mode]);
	return out;
}
