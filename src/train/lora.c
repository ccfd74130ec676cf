/* SPDX-License-Identifier: Apache-2.0 */
#include "train/lora.h"

#include <math.h>
#include <stdio.h>
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

size_t lora_rank_of(const struct lora_settings *s, enum lora_target target)
{
	return s->rank_pattern[target] ? s->rank_pattern[target] : s->rank;
}

float lora_scale_of(const struct lora_settings *s, enum lora_target target)
{
	float alpha = s->alpha_pattern[target] > 0 ? s->alpha_pattern[target] : s->alpha;
	float rank = (float)lora_rank_of(s, target);
	return alpha / (s->rslora ? sqrtf(rank) : rank);
}

bool lora_uniform(const struct lora_settings *s)
{
	bool uniform = !s->rslora;
	for (enum lora_target target = 0; target < LORA_TARGETS; target++)
		uniform = uniform && (!s->rank_pattern[target] || s->rank_pattern[target] == s->rank) &&
			  (!(s->alpha_pattern[target] > 0) || s->alpha_pattern[target] == s->alpha);
	return uniform;
}

void lora_ranks(size_t rank, unsigned targets, size_t out[static LORA_TARGETS])
{
	for (enum lora_target target = 0; target < LORA_TARGETS; target++)
		out[target] = targets & 1u << target ? rank : 0;
}

static void write_hash(struct lora_layout *layout)
{
	const struct lora_widths *w = &layout->widths;
	const struct lora_settings *s = &layout->settings;
	struct writer text;
	writer_init(&text);
	write_u64(&text, s->rank);
	write_f32(&text, s->alpha);
	write_u64(&text, s->targets);
	write_u64(&text, w->layers);
	write_u64(&text, w->hidden);
	write_u64(&text, w->query);
	write_u64(&text, w->key);
	write_u64(&text, w->ffn);
	for (enum lora_target target = 0; target < LORA_TARGETS && !lora_uniform(s); target++) {
		write_u64(&text, layout->ranks[target]);
		write_f32(&text, layout->ranks[target] ? lora_scale_of(s, target) : 0);
	}
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

static int check_values(const char *whose, size_t rank, float alpha, struct fault *f)
{
	if (rank < 1 || rank > LORA_MAX_RANK)
		return fault_set(f, SAKIORI_EINVAL, "rank %zu%s: expected 1 to %d", rank, whose, LORA_MAX_RANK);
	if (!(alpha > 0) || !isfinite(alpha))
		return fault_set(f, SAKIORI_EINVAL, "alpha %g%s: expected a positive number", (double)alpha, whose);
	return 0;
}

int lora_check(const struct lora_settings *s, struct fault *f)
{
	int rc = check_values("", s->rank, s->alpha, f);
	if (!rc && (!s->targets || s->targets & ~LORA_ALL))
		rc = fault_set(f, SAKIORI_EINVAL, "no layers to adapt: name at least one of q,k,v,o,gate,up,down");
	for (enum lora_target target = 0; target < LORA_TARGETS && !rc; target++) {
		char whose[16];
		if (!s->rank_pattern[target] && s->alpha_pattern[target] == 0)
			continue;
		if (!(s->targets & 1u << target))
			return fault_set(f, SAKIORI_EINVAL, "a pattern for %s, which is not among the targets",
				target_names[target]);
		snprintf(whose, sizeof whose, " of %s", target_names[target]);
		rc = check_values(whose, lora_rank_of(s, target),
			s->alpha_pattern[target] == 0 ? s->alpha : s->alpha_pattern[target], f);
	}
	return rc;
}

static void add_entry(struct lora_layout *layout, size_t layer, enum lora_target target)
{
	layout->entries[layout->count++] = (struct lora_entry){
		.layer = (uint32_t)layer,
		.target = target,
		.rank = layout->ranks[target],
		.in = lora_cols(&layout->widths, target),
		.out = lora_rows(&layout->widths, target),
		.scale = lora_scale_of(&layout->settings, target),
	};
}

int lora_layout_init(
	struct lora_layout *layout, const struct lora_widths *widths, const struct lora_settings *s, struct fault *f)
{
	memset(layout, 0, sizeof *layout);
	int rc = lora_check(s, f);
	if (rc)
		return rc;
	layout->widths = *widths;
	layout->settings = *s;
	for (enum lora_target target = 0; target < LORA_TARGETS; target++) {
		size_t rank = s->targets & 1u << target ? lora_rank_of(s, target) : 0;
		layout->ranks[target] = rank;
		layout->rank = rank > layout->rank ? rank : layout->rank;
	}
	layout->entries = must_calloc(widths->layers * LORA_TARGETS, sizeof *layout->entries);
	for (size_t layer = 0; layer < widths->layers; layer++) {
		size_t first = layout->count;
		for (enum lora_target target = 0; target < LORA_TARGETS; target++)
			if (layout->ranks[target])
				add_entry(layout, layer, target);
		if (!place_block(layout, first, false) || !place_block(layout, first, true)) {
			lora_layout_fini(layout);
			return fault_set(
				f, SAKIORI_ELIMIT, "an adapter of rank %zu for this model is too large", s->rank);
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
	unsigned targets = layout->settings.targets;
	if (!(targets & 1u << target) || layer >= layout->widths.layers)
		return NULL;
	size_t each = (size_t)__builtin_popcount(targets);
	size_t before = (size_t)__builtin_popcount(targets & ((1u << target) - 1));
	return &layout->entries[layer * each + before];
}

/* The target of that name, with or without PEFT's _proj; LORA_TARGETS: none. */
static enum lora_target target_named(const char *name, size_t n)
{
	static const char suffix[] = "_proj";
	if (n > sizeof suffix - 1 && !memcmp(name + n - (sizeof suffix - 1), suffix, sizeof suffix - 1))
		n -= sizeof suffix - 1;
	enum lora_target target = 0;
	while (target < LORA_TARGETS && (strlen(target_names[target]) != n || memcmp(target_names[target], name, n)))
		target++;
	return target;
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
		enum lora_target target = target_named(at, n);
		unsigned bit = target < LORA_TARGETS ? 1u << target : 0;
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

int lora_pattern_parse(const char *text, double values[static LORA_TARGETS], struct fault *f)
{
	memset(values, 0, LORA_TARGETS * sizeof *values);
	for (const char *at = text;; at++) {
		size_t n = strcspn(at, "=,");
		enum lora_target target = target_named(at, n);
		if (target == LORA_TARGETS || at[n] != '=' || values[target] > 0)
			return fault_set(f, SAKIORI_EINVAL,
				"pattern \"%.80s\": %s at \"%.*s\"; expected TARGET=NUMBER,... with "
				"q,k,v,o,gate,up,down",
				text, target < LORA_TARGETS && at[n] == '=' ? "repeated" : "no target",
				n > 20 ? 20 : (int)n, at);
		char *end;
		const char *number = at + n + 1;
		values[target] = strtod(number, &end);
		if (end == number || (*end && *end != ',') || !(values[target] > 0) || !isfinite(values[target]))
			return fault_set(f, SAKIORI_EINVAL, "pattern \"%.80s\": %s wants a positive number", text,
				target_names[target]);
		at = end;
		if (!*at)
			return 0;
	}
}

char *lora_pattern_format(const double values[static LORA_TARGETS], char out[static LORA_PATTERN_TEXT])
{
	size_t n = 0;
	*out = 0;
	for (enum lora_target target = 0; target < LORA_TARGETS; target++)
		if (values[target] > 0)
			n += (size_t)snprintf(out + n, LORA_PATTERN_TEXT - n, "%s%s=%.9g", n ? "," : "",
				target_names[target], values[target]);
	return out;
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
