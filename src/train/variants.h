/* SPDX-License-Identifier: Apache-2.0 */
/* In which order the products of an adapted linear are computed: RunLoRA (arXiv 2312.03415), chosen for each group of linears that read the
 * same input, by their shape, the tokens of a micro-batch and the rank. All orders give the same numbers up to rounding; which is fastest
 * depends on the shape. Merged forms (LORA_F2, LORA_B4 and LORA_B5 with dx) round W + scale B A to the activation type, and in bf16 that
 * loses a small adapter, so on bf16 they are never chosen unless asked for by name (doc/adr/0007).
 * Counting and choosing by cost are pure functions: any thread. Measuring: the thread that owns the device. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "compute/compute.h"
#include "train/lora.h"

enum variants_mode {
	VARIANTS_COST,         /* by a model of FLOPs and bytes; the same choice on every run */
	VARIANTS_FIXED,        /* LORA_F1, and LORA_B1 with s kept */
	VARIANTS_TIMED,        /* measured on the device with the real shapes */
	VARIANTS_TIMED_MERGED, /* the same, merged forms included where they round to bf16 */
};

/* Linears that read the same input are one: one choice for each of these, in every layer. */
enum variants_group { VARIANTS_QKV, VARIANTS_O, VARIANTS_GATE_UP, VARIANTS_DOWN, VARIANTS_GROUPS };

/* A group of `rows` outputs and `cols` inputs that multiplies `tokens` tokens at once. */
struct variants_shape {
	size_t tokens, rows, cols;
	size_t parts;
	struct {
		size_t rows, rank; /* rank 0: no adapter */
	} part[LORA_PARTS_MAX];
	bool dx;      /* the gradient goes on to the layers below */
	bool later_x; /* x is made again only after dx: s is kept, and LORA_B4 is no choice */
};

struct variants_choice {
	enum lora_forward_order forward;
	enum lora_backward_order backward;
	bool s; /* x A^T is kept from the forward to the backward (needs LORA_F1), else computed again where it is needed */
};

/* What a device does in a second. Only the proportions matter to the choice. */
struct variants_rates {
	double flops;        /* of products in the activation type */
	double base_flops;   /* of products with the weight as it is stored */
	double merge_flops;  /* of making W + scale B A */
	double bytes;        /* to and from its memory */
	double latency;      /* seconds that a product costs however small it is */
	double act_bytes;    /* of an activation */
	double weight_bytes; /* of an element of the weight as it is stored */
};

/* "fixed", "cost", "timed", "timed-merged"; SAKIORI_EINVAL for another word. */
int variants_mode_parse(const char *word, enum variants_mode *out, struct fault *f);
const char *variants_mode_name(enum variants_mode mode);
/* "qkv", "o", "gate_up", "down". */
const char *variants_group_name(enum variants_group group);

/* The linears of a group: `count` targets from *first on. */
size_t variants_targets(enum variants_group group, enum lora_target *first);
/* Sum of the ranks of a group's adapters. */
size_t variants_ranks(const struct lora_layout *layout, enum variants_group group);
/* Elements kept free behind each token of an input and each row of its weight on a device that joins (struct lora_linear, x_stride), for
 * `adapters` side by side: their ranks, rounded up so that rows of the usual widths stay on whole lines of 128 bytes. 0: ranks that no device
 * joins. */
size_t variants_room(const size_t *ranks, size_t adapters);
/* The same of a group: 0 too for those whose input has no room. layout NULL: no adapter. */
size_t variants_group_room(const struct lora_layout *layout, enum variants_group group);

/* The group of a model with an adapter of these ranks (0: not adapted). */
void variants_shape_of(const struct lora_widths *widths, const size_t ranks[static LORA_TARGETS],
	enum variants_group group, size_t tokens, bool dx, struct variants_shape *out);

/* Exact FLOPs, a multiplication with its addition being two (algorithms.md 2.1). forward: s asks for x A^T beside the output, which only costs
 * something in LORA_F2. backward: s says that it is there. */
uint64_t variants_flops_forward(const struct variants_shape *v, enum lora_forward_order order, bool s);
uint64_t variants_flops_backward(const struct variants_shape *v, enum lora_backward_order order, bool s);

/* The model: of each product the longer of its FLOPs and its bytes, plus the latency, added up. */
double variants_seconds_forward(
	const struct variants_shape *v, enum lora_forward_order order, bool s, const struct variants_rates *r);
double variants_seconds_backward(
	const struct variants_shape *v, enum lora_backward_order order, bool s, const struct variants_rates *r);

/* The proportions of a kind of device ("cpu", "cuda", "cuda:N"): typical ones, so that no choice depends on a measurement. threads: of a CPU. */
struct variants_rates variants_rates_of(
	const char *device, enum dtype act, enum weight_storage storage, unsigned threads);
/* Whether an order makes W + scale B A. */
bool variants_merges(const struct variants_shape *v, const struct variants_choice *c);
/* The orders among which one is chosen, the plainest first. keep_s: there is memory for s. merged: W + scale B A may be made. */
#define VARIANTS_CANDIDATES 6
size_t variants_candidates(const struct variants_shape *v, bool keep_s, bool merged,
	struct variants_choice out[static VARIANTS_CANDIDATES]);
/* The cheapest of them by the model; of equals the plainest. */
struct variants_choice variants_by_cost(
	const struct variants_shape *v, const struct variants_rates *r, bool keep_s, bool merged);

/* ---- choices of a run ---- */

/* Token counts for which a timed choice is measured: the largest, its half, its quarter; smaller ones take the quarter's. */
#define VARIANTS_SIZES 3

struct variants_config {
	enum variants_mode mode;
	struct lora_widths widths;
	size_t ranks[LORA_TARGETS]; /* 0: not adapted */
	enum weight_storage storage;
	size_t tokens;     /* most of a micro-batch */
	bool keep_s;       /* the memory plan has room for s */
	const char *cache; /* folder where measurements are kept from run to run; NULL: nowhere */
	/* For the timed modes. */
	const struct weight *weight[VARIANTS_GROUPS]; /* any layer's; NULL: not measured, chosen by cost */
	void *scratch;                                /* device memory that nobody needs meanwhile; may be NULL */
	size_t scratch_bytes;
};

struct variants {
	enum variants_mode mode;
	struct lora_widths widths;
	size_t ranks[LORA_TARGETS], tokens;
	bool keep_s, merged;
	struct variants_rates rates;
	struct variants_choice timed[VARIANTS_GROUPS][2][VARIANTS_SIZES]; /* [dx] */
};

/* Fills *v; the timed modes measure what the cache does not know (seconds, once) and keep it. A cache that cannot be read or written is
 * no failure. Fails when the device does. */
int variants_choose(struct variants *v, struct device *d, const struct variants_config *c, struct fault *f);
/* The same without a device, for what is planned: a timed mode is answered by cost. */
void variants_plan(
	struct variants *v, const char *device, enum dtype act, unsigned threads, const struct variants_config *c);
/* Whether W + scale B A may be made, which takes memory, in micro-batches of up to c->tokens. */
bool variants_may_merge(const char *device, enum dtype act, unsigned threads, const struct variants_config *c);
/* The choice for a micro-batch of so many tokens; dx false in the lowest adapted group, below which nothing is differentiated. v NULL: fixed. */
struct variants_choice variants_at(const struct variants *v, enum variants_group group, size_t tokens, bool dx);
/* "F1 B1 with s", ...: a choice as people read it, and as the cache keeps it. */
#define VARIANTS_WORD 24
char *variants_format(const struct variants_choice *c, char out[static VARIANTS_WORD]);

/* The choices for micro-batches of so many tokens: "qkv F1 B1 with s, o ..., by cost". */
#define VARIANTS_TEXT 160
char *variants_describe(const struct variants *v, size_t tokens, char out[static VARIANTS_TEXT]);

/* ---- measuring (variants_timed.c) ---- */

/* Median seconds of one forward and one backward of this group on the device. scratch as in variants_config; what it lacks is allocated and
 * released again. */
int variants_measure(struct device *d, const struct weight *w, const struct variants_shape *v,
	const struct variants_choice *c, void *scratch, size_t scratch_bytes, double *forward, double *backward,
	struct fault *f);
/* The fastest of the candidates: measured, or remembered from c->cache. Of c only storage, keep_s, cache and scratch are read. */
int variants_by_time(struct device *d, const struct weight *w, const struct variants_shape *v,
	const struct variants_config *c, bool merged, struct variants_choice *out, struct fault *f);
