/* SPDX-License-Identifier: Apache-2.0 */
#include "train/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"

static const char *const target_names[LORA_TARGETS] = {"q", "k", "v", "o", "gate", "up", "down"};

size_t lora_cols(const struct lora_widths *w, enum lora_target target)
{
	switch (target) {
	case LORA_O:
		return w->query;
	case LORA_DOWN:
		return w->ffn;
	default:
		return w->hidden;
	}
}

size_t lora_rows(const struct lora_widths *w, enum lora_target target)
{
	switch (target) {
	case LORA_Q:
		return w->query;
	case LORA_K:
	case LORA_V:
		return w->key;
	case LORA_GATE:
	case LORA_UP:
		return w->ffn;
	default:
		return w->hidden;
	}
}

static void write_hash(struct lora_layout *layout)
{
	const struct lora_widths *w = &layout->widths;
	struct writer text;
	writer_init(&text);
	write_u64(&text, layout->rank);
	write_f32(&text, layout->alpha);
	write_u64(&text, layout->targets);
	write_u64(&text, w->layers);
	write_u64(&text, w->hidden);
	write_u64(&text, w->query);
	write_u64(&text, w->key);
	write_u64(&text, w->ffn);
	hash_bytes("sakiori-layout", text.data, text.size, layout->hash);
	writer_fini(&text);
}

/* Appends the factors `A` (first pass) or `B` (second) of one block; false when the size does not fit. */
static bool place_block(struct lora_layout *layout, size_t first, bool second_factor)
{
	for (size_t i = first; i < layout->count; i++) {
		struct lora_entry *e = &layout->entries[i];
		size_t floats;
		if (!size_mul(e->rank, second_factor ? e->out : e->in, &floats))
			return false;
		*(second_factor ? &e->b : &e->a) = layout->size;
		if (!size_add(layout->size, floats, &layout->size))
			return false;
	}
	return true;
}

int lora_check(size_t rank, float alpha, unsigned targets, struct fault *f)
{
	if (rank < 1 || rank > LORA_MAX_RANK)
		return fault_set(f, SAKIORI_EINVAL, "rank %zu: expected 1 to %d", rank, LORA_MAX_RANK);
	if (!(alpha > 0) || !isfinite(alpha))
		return fault_set(f, SAKIORI_EINVAL, "alpha %g: expected a positive number", (double)alpha);
	if (!targets || targets & ~LORA_ALL)
		return fault_set(f, SAKIORI_EINVAL, "no layers to adapt: name at least one of q,k,v,o,gate,up,down");
	return 0;
}

int lora_layout_init(struct lora_layout *layout, const struct lora_widths *widths, size_t rank, float alpha,
	unsigned targets, struct fault *f)
{
	memset(layout, 0, sizeof *layout);
	int rc = lora_check(rank, alpha, targets, f);
	if (rc)
		return rc;
	layout->widths = *widths;
	layout->rank = rank;
	layout->alpha = alpha;
	layout->targets = targets;
	layout->entries = must_calloc(widths->layers * LORA_TARGETS, sizeof *layout->entries);
	for (size_t layer = 0; layer < widths->layers; layer++) {
		size_t first = layout->count;
		for (enum lora_target target = 0; target < LORA_TARGETS; target++)
			if (targets & 1u << target)
				layout->entries[layout->count++] = (struct lora_entry){
					.layer = (uint32_t)layer,
					.target = target,
					.rank = rank,
					.in = lora_cols(widths, target),
					.out = lora_rows(widths, target),
				};
		if (!place_block(layout, first, false) || !place_block(layout, first, true)) {
			lora_layout_fini(layout);
			return fault_set(f, SAKIORI_ELIMIT, "an adapter of rank %zu for this model is too large", rank);
		}
	}
	write_hash(layout);
	return 0;
}

void lora_layout_fini(struct lora_layout *layout)
{
	free(layout->entries);
	memset(layout, 0, sizeof *layout);
}

const struct lora_entry *lora_find(const struct lora_layout *layout, size_t layer, enum lora_target target)
{
	if (!(layout->targets & 1u << target) || layer >= layout->widths.layers)
		return NULL;
	size_t each = (size_t)__builtin_popcount(layout->targets);
	size_t before = (size_t)__builtin_popcount(layout->targets & ((1u << target) - 1));
	return &layout->entries[layer * each + before];
}

float lora_scale(const struct lora_layout *layout)
{
	return layout->alpha / (float)layout->rank;
}

int lora_targets_parse(const char *text, unsigned *mask, struct fault *f)
{
	if (!strcmp(text, "all")) {
		*mask = LORA_ALL;
		return 0;
	}
	unsigned found = 0;
	for (const char *at = text;; at++) {
		size_t n = strcspn(at, ",");
		unsigned bit = 0;
		for (enum lora_target target = 0; target < LORA_TARGETS; target++)
			if (strlen(target_names[target]) == n && !memcmp(target_names[target], at, n))
				bit = 1u << target;
		if (!bit || found & bit)
			return fault_set(f, SAKIORI_EINVAL,
				"targets \"%.80s\": %s \"%.*s\"; expected all, or some of q,k,v,o,gate,up,down", text,
				bit ? "repeated" : "unknown", n > 20 ? 20 : (int)n, at);
		found |= bit;
		at += n;
		if (!*at)
			break;
	}
	*mask = found;
	return 0;
}

void lora_targets_format(unsigned mask, char *out)
{
	*out = 0;
	if (mask == LORA_ALL) {
		strcpy(out, "all");
		return;
	}
	for (enum lora_target target = 0; target < LORA_TARGETS; target++)
		if (mask & 1u << target) {
			if (*out)
				strcat(out, ",");
			strcat(out, target_names[target]);
		}
}

void lora_initialise(const struct lora_layout *layout, uint64_t seed, float *vector)
{
	for (size_t i = 0; i < layout->count; i++) {
		const struct lora_entry *e = &layout->entries[i];
		float bound = 1.0f / sqrtf((float)e->in);
		struct rng rng;
		rng_init(&rng, seed, i);
		for (size_t n = 0; n < e->rank * e->in; n++)
			vector[e->a + n] = bound * (2.0f * rng_uniform(&rng) - 1.0f);
		memset(vector + e->b, 0, e->out * e->rank * sizeof *vector);
	}
}

void lora_hash(const struct lora_layout *layout, const float *vector, uint8_t out[static HASH_SIZE])
{
	struct hash h;
	hash_init(&h, "sakiori-adapter");
	hash_update(&h, layout->hash, HASH_SIZE);
	hash_update(&h, vector, layout->size * sizeof *vector);
	hash_final(&h, out);
}

size_t lora_shared_size(const struct lora_layout *layout)
{
	return layout->size;
}

void lora_share(const struct lora_layout *layout, const float *vector, float *shared)
{
	memcpy(shared, vector, layout->size * sizeof *vector);
}

void lora_adopt(const struct lora_layout *layout, const float *shared, float *vector)
{
	memcpy(vector, shared, layout->size * sizeof *vector);
}
