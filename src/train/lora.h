/* SPDX-License-Identifier: Apache-2.0 */
/* The adapter: where each factor lies in one flat vector of floats, its first values, its identity, and what of it is
 * shared. For a linear layer y = W x the adapted layer is y = W x + (alpha / rank) B A x, with A (rank, in) and B (out,
 * rank), row-major. Parameters, gradients and both moments are vectors of this one layout. Pure functions on memory:
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

/* One adapted linear layer. `a` and `b` are offsets into the flat vector, in floats. */
struct lora_entry {
	uint32_t layer;
	enum lora_target target;
	size_t rank, in, out;
	size_t a; /* A (rank, in) */
	size_t b; /* B (out, rank) */
};

/* The table of all adapted layers. Within a block all A come first, in target order, then all B: so the A of q, k and v
 * (and of gate and up), which read the same input, are one matrix (n * rank, in). */
struct lora_layout {
	struct lora_widths widths;
	size_t rank;
	float alpha;
	unsigned targets; /* bit 1 << enum lora_target */
	size_t count;     /* entries */
	struct lora_entry *entries;
	size_t size; /* floats of the flat vector */
	/* BLAKE2b over rank, alpha, targets and widths: sites with another hash cannot mix. */
	uint8_t hash[HASH_SIZE];
};

/* Outputs and inputs of a layer. */
size_t lora_rows(const struct lora_widths *w, enum lora_target target);
size_t lora_cols(const struct lora_widths *w, enum lora_target target);

/* SAKIORI_EINVAL for a rank outside 1..LORA_MAX_RANK, no target, or alpha <= 0. */
int lora_check(size_t rank, float alpha, unsigned targets, struct fault *f);
/* Fills *layout; lora_layout_fini frees it. SAKIORI_EINVAL as lora_check. */
int lora_layout_init(struct lora_layout *layout, const struct lora_widths *widths, size_t rank, float alpha,
	unsigned targets, struct fault *f);
/* Safe on a zeroed layout and twice. */
void lora_layout_fini(struct lora_layout *layout);
/* NULL when that layer's target is not adapted. */
const struct lora_entry *lora_find(const struct lora_layout *layout, size_t layer, enum lora_target target);
/* alpha / rank. */
float lora_scale(const struct lora_layout *layout);

/* "all" or a comma-separated list of target names -> mask; a repeated or unknown name is SAKIORI_EINVAL. */
int lora_targets_parse(const char *text, unsigned *mask, struct fault *f);
/* The inverse, for messages and settings: "q,k,v"; "all" for every target. out has at least 32 bytes. */
void lora_targets_format(unsigned mask, char *out);

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
