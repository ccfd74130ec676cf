/* SPDX-License-Identifier: Apache-2.0 */
#include "train/memory.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "train/memory_backend.h"

static const char *const mode_names[MEMORY_MODES] = {
	[MEMORY_KEEP] = "keep",
	[MEMORY_SELECTIVE] = "selective",
	[MEMORY_OFFLOAD] = "offload",
	[MEMORY_BLOCKS] = "blocks",
	[MEMORY_BLOCKS_OFFLOAD] = "blocks-offload",
};

const char *memory_mode_name(enum memory_mode mode)
{
	return mode_names[mode];
}

bool memory_mode_exists(const char *device, enum memory_mode mode)
{
	return !memory_mode_offloads(mode) || strcmp(device, "cpu") != 0;
}

static bool allowed(const struct memory_request *r, enum memory_mode mode)
{
	return memory_mode_exists(r->device, mode) && (r->mode == MEMORY_MODES || r->mode == mode);
}

static void count_weights(const struct memory_request *r, struct memory_breakdown *out)
{
	const struct model_shape *shape = model_file_shape(r->file);
	for (size_t i = 0; i < model_file_tensor_count(r->file); i++) {
		const struct model_tensor *t = model_file_tensor_at(r->file, i);
		unsigned linear = WEIGHT_FORWARD | WEIGHT_BACKWARD;
		if (t->vector)
			out->norms += t->cols * sizeof(float);
		else if (!strcmp(t->name, "model.embed_tokens.weight"))
			out->embedding += memory_weight(r, t, WEIGHT_ROWS | (shape->tied ? linear : 0));
		else if (!strcmp(t->name, "lm_head.weight"))
			out->head += memory_weight(r, t, WEIGHT_ROWS | linear); /* plain, as the embedding */
		else if (strstr(t->name, ".self_attn."))
			out->attention_weights += memory_weight(r, t, linear);
		else
			out->mlp_weights += memory_weight(r, t, linear);
	}
}

static void count_vectors(const struct memory_request *r, struct memory_breakdown *out)
{
	out->adapter = out->gradient = r->layout->size * sizeof(float);
	out->moments = 2 * out->adapter;
}

void memory_count(const struct memory_request *r, enum memory_mode mode, struct memory_breakdown *out)
{
	*out = (struct memory_breakdown){0};
	count_weights(r, out);
	count_vectors(r, out);
	memory_activations(r, mode, out);
	memory_working_space(r, out);
	out->device = out->attention_weights + out->mlp_weights + out->embedding + out->head + out->norms +
		      out->adapter + out->gradient + out->moments + out->kept + out->shared + out->logits + out->lora +
		      out->attention + out->products + out->other;
	out->host = out->offloaded;
}

size_t memory_host_limit(void)
{
	return available_memory() / 2;
}

size_t memory_device_limit(const struct device_memory *memory)
{
	/* Recordings, kernels that the driver loads when they are first used, the process itself: nobody counts them. */
	const size_t reserve = (size_t)384 << 20;
	return memory->free > 2 * reserve ? memory->free - reserve : memory->free / 2;
}

bool memory_fits(const struct memory_breakdown *b, size_t limit, size_t host_limit)
{
	return (!limit || b->device <= limit) && (!host_limit || b->host <= host_limit);
}

size_t memory_most_rows(const struct memory_request *r, enum memory_mode mode, size_t limit, size_t host_limit)
{
	struct memory_request each = *r;
	struct memory_breakdown b;
	/* Every part of it grows with the rows, so the largest is found by halving. */
	size_t low = 0, high = MEMORY_TOKENS_MAX / r->longest + 1;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		each.tokens = middle * r->longest;
		memory_count(&each, mode, &b);
		*(memory_fits(&b, limit, host_limit) ? &low : &high) = middle;
	}
	return low;
}

/* The sentence for a mode that was asked for and keeps more on the host than may be kept there. */
static int refuse_host(const struct memory_request *r, size_t host_limit, size_t needed, struct fault *f)
{
	return fault_set(f, SAKIORI_ENOMEM,
		"memory mode %s keeps %.0f MiB of %zu tokens in host memory, of which %.0f MiB may be used: use fewer "
		"tokens "
		"at once (--micro-tokens), or mode selective or blocks",
		memory_mode_name(r->mode), (double)needed / 0x1p20, r->tokens, (double)host_limit / 0x1p20);
}

/* The longest row that fits in some mode, found by halving; 0: none. */
static size_t fitting_row(const struct memory_request *r, size_t limit, size_t host_limit)
{
	struct memory_request half = *r;
	struct memory_breakdown b;
	while (half.longest > 2) {
		half.longest /= 2;
		half.tokens = half.longest;
		for (enum memory_mode m = 0; m < MEMORY_MODES; m++) {
			if (!allowed(r, m))
				continue;
			memory_count(&half, m, &b);
			if (memory_fits(&b, limit, host_limit))
				return half.longest;
		}
	}
	return 0;
}

/* The sentence for what does not fit in any mode. */
static int refuse(const struct memory_request *r, size_t limit, size_t host_limit, struct fault *f)
{
	size_t best = 0, least = SIZE_MAX;
	enum memory_mode mode = MEMORY_KEEP;
	struct memory_request smallest = *r;
	struct memory_breakdown b;
	const double mebi = 0x1p20;
	if (r->mode < MEMORY_MODES && !memory_mode_exists(r->device, r->mode))
		return fault_set(f, SAKIORI_EUNSUPPORTED, "a %s has no memory mode %s; use keep, selective or blocks",
			r->device, memory_mode_name(r->mode));
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++) {
		if (!allowed(r, m))
			continue;
		size_t rows = memory_most_rows(r, m, limit, host_limit);
		memory_count(r, m, &b);
		bool host = memory_fits(&b, 0, host_limit);
		if (!host && r->mode == m)
			return refuse_host(r, host_limit, b.host, f);
		least = host && b.device < least ? b.device : least;
		if (rows > best) {
			best = rows;
			mode = m;
		}
	}
	if (best)
		return fault_set(f, SAKIORI_ENOMEM,
			"%zu tokens at once take at least %.0f MiB of %.0f MiB; %zu rows of %zu tokens would fit (mode "
			"%s): use --micro-tokens %zu (data.micro_tokens)",
			r->tokens, (double)least / mebi, (double)limit / mebi, best, r->longest, memory_mode_name(mode),
			best * r->longest);
	best = fitting_row(r, limit, host_limit);
	if (best)
		return fault_set(f, SAKIORI_ENOMEM,
			"not even one row of %zu tokens fits into %.0f MiB; rows of %zu tokens would: use --seq %zu "
			"(data.max_seq)",
			r->longest, (double)limit / mebi, best, best);
	smallest.tokens = smallest.longest = 2;
	memory_count(&smallest, r->mode == MEMORY_MODES ? MEMORY_BLOCKS : r->mode, &b);
	return fault_set(f, SAKIORI_ENOMEM,
		"the model alone takes %.0f MiB of %.0f MiB: use a smaller --base-dtype, model or --rank",
		(double)b.device / mebi, (double)limit / mebi);
}

int memory_choose(const struct memory_request *r, size_t limit, size_t host_limit, enum memory_mode *mode,
	struct memory_breakdown *out, struct fault *f)
{
	for (*mode = 0; *mode < MEMORY_MODES; ++*mode) {
		memory_count(r, *mode, out);
		if (allowed(r, *mode) && memory_fits(out, limit, host_limit))
			return 0;
	}
	return refuse(r, limit, host_limit, f);
}
