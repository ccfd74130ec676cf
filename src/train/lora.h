/* SPDX-License-Identifier: Apache-2.0 */
/* The adapter: where each factor lies in one flat vector of floats, its first values, its identity, and what of it is
 * shared. For a linear layer y = W x the adapted layer is y = W x + scale B A x, with A (rank, in) and B (out, rank),
 * row-major, and scale alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732). Parameters, gradients and both moments are vectors of this one layout. Pure functions on memory:
 * any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"

/* The seven linear layers of a block, in the order in which a block uses them. */
enum lora_target {
	LORA_Q,
	LORA_K,
	LORA_V,
	LORA_O,
	LORA_GATE,
	LORA_UP,
	LORA_DOWN,
	LORA_TARGETS,
};
#define LORA_ALL ((1u << LORA_TARGETS) - 1)
#define LORA_MAX_RANK 1024

/* Widths of the model's linear layers, in features. */
struct lora_widths {
	size_t layers;
	size_t hidden;
	size_t query; /* heads * head size */
	size_t key;   /* key/value heads * head size */
	size_t ffn;
};

/* What an adapter is asked to be. The patterns hold for the layers of one target; 0: as all others. */
struct lora_settings {
	size_t rank;
	float alpha;
	unsigned targets; /* bit 1 << enum lora_target */
	bool rslora;
	size_t rank_pattern[LORA_TARGETS];
	float alpha_pattern[LORA_TARGETS];
};

/* One adapted linear layer. `a` and `b` are offsets into the flat vector, in floats. */
struct lora_entry {
	uint32_t layer;
	enum lora_target target;
	size_t rank, in, out;
	float scale;
	size_t a; /* A (rank, in) */
	size_t b; /* B (out, rank) */
};

/* The table of all adapted layers. Within a block all A come first, in target order, then all B: so the A of q, k and v
 * (and of gate and up), which read the same input, are one matrix (sum of the ranks, in). */
struct lora_layout {
	struct lora_widths widths;
	struct lora_settings settings;
	size_t ranks[LORA_TARGETS]; /* of a target's layers; 0: not adapted */
	size_t rank;                /* the largest of them */
	size_t count;               /* entries */
	struct lora_entry *entries;
	size_t size; /* floats of the flat vector */
	/* BLAKE2b over rank, alpha, targets and widths, and over all ranks and scales where they differ from alpha / rank: sites with another hash
	 * cannot mix. */
	uint8_t hash[HASH_SIZE];
};

/* Outputs and inputs of a layer. */
size_t lora_rows(const struct lora_widths *w, enum lora_target target);
size_t lora_cols(const struct lora_widths *w, enum lora_target target);

/* SAKIORI_EINVAL for a rank outside 1..LORA_MAX_RANK, no target, alpha <= 0, or a pattern for a target that is not adapted. */
int lora_check(const struct lora_settings *s, struct fault *f);
/* Fills *layout; lora_layout_fini frees it. SAKIORI_EINVAL as lora_check. */
int lora_layout_init(
	struct lora_layout *layout, const struct lora_widths *widths, const struct lora_settings *s, struct fault *f);
/* Safe on a zeroed layout and twice. */
void lora_layout_fini(struct lora_layout *layout);
/* NULL when that layer's target is not adapted. */
const struct lora_entry *lora_find(const struct lora_layout *layout, size_t layer, enum lora_target target);
/* What a target's layers have: the pattern's, else the common one. */
size_t lora_rank_of(const struct lora_settings *s, enum lora_target target);
float lora_scale_of(const struct lora_settings *s, enum lora_target target);
/* Whether all layers have one rank and the scale alpha / rank. */
bool lora_uniform(const struct lora_settings *s);
/* rank for the targets of the mask, 0 for the others. */
void lora_ranks(size_t rank, unsigned targets, size_t out[static LORA_TARGETS]);

/* "all" or a comma-separated list of target names -> mask; a repeated or unknown name is SAKIORI_EINVAL. */
int lora_targets_parse(const char *text, unsigned *mask, struct fault *f);
/* The inverse, for messages and settings: "q,k,v"; "all" for every target. out has at least 32 bytes. */
void lora_targets_format(unsigned mask, char *out);
/* "q=8,down=32" -> values by target, 0 for those not named; a repeated or unknown name, or a value that is no positive number, is SAKIORI_EINVAL.
 * PEFT's names of modules (q_proj) are understood too. */
int lora_pattern_parse(const char *text, double values[static LORA_TARGETS], struct fault *f);
/* The inverse: "" for no pattern. */
#define LORA_PATTERN_TEXT 160
char *lora_pattern_format(const double values[static LORA_TARGETS], char out[static LORA_PATTERN_TEXT]);

/* The first values: A uniform in [-1/sqrt(in), 1/sqrt(in)) (Kaiming-uniform with a = sqrt 5, as PEFT), B = 0.
 * Element e of entry i is number e of Philox(seed, stream i): the same on every machine. vector has layout->size
 * floats. */
void lora_initialise(const struct lora_layout *layout, uint64_t seed, float *vector);
/* BLAKE2b of the layout hash and the vector's bytes (little-endian floats). */
void lora_hash(const struct lora_layout *layout, const float *vector, uint8_t out[static HASH_SIZE]);

/* What of an adapter travels is this module's answer alone: for now the whole flat vector. The shared vector has
 * lora_shared_size(layout) floats. */
size_t lora_shared_size(const struct lora_layout *layout);
void lora_share(const struct lora_layout *layout, const float *vector, float *shared);
/* The inverse: puts a shared vector back; parts that are not shared stay as they are. */
void lora_adopt(const struct lora_layout *layout, const float *shared, float *vector);
