/* SPDX-License-Identifier: Apache-2.0 */
/* A trainer that writes on from a prompt with its adapter as it is: a second model over the same weights, opened for one text. */
#include <stdlib.h>

#include "base/bytes.h"
#include "train/trainer_private.h"

/* The likeliest token. */
static uint32_t best_of(const float *logits, size_t n)
{
	uint32_t best = 0;
	for (uint32_t i = 1; i < n; i++)
		if (logits[i] > logits[best])
			best = i;
	return best;
}

static int write_on(struct trainer *t, struct model *m, const struct trainer_prompt *p, float *logits, int32_t *out,
	size_t *count, struct fault *f)
{
	/* The ids come out of a tokenizer: none is negative. */
	int rc = model_continue(m, (const uint32_t *)p->ids, p->count, t->adapter, logits, f);
	while (!rc && *count < p->more) {
		uint32_t next = best_of(logits, t->weights.shape.vocabulary);
		if ((int32_t)next == p->end)
			break;
		out[(*count)++] = (int32_t)next;
		/* The last token that fits needs no successor. */
		if (*count < p->more)
			rc = model_continue(m, &next, 1, t->adapter, logits, f);
	}
	return rc;
}

int trainer_write_on(struct trainer *t, const struct trainer_prompt *p, int32_t *out, size_t *count, struct fault *f)
{
	struct model model;
	size_t longest = t->config.text_tokens;
	*count = 0;
	if (!p->count || p->count > longest || p->more > longest - p->count)
		return fault_set(f, SAKIORI_ELIMIT,
			"a text of %zu tokens and %zu more, but memory was planned for %zu in all", p->count, p->more,
			longest);
	struct model_options options = {
		.use = ACTIVATIONS_GENERATE,
		.micro_tokens = p->count < MEMORY_TEXT_PASS ? p->count : MEMORY_TEXT_PASS,
		.positions = p->count + p->more,
	};
	int rc = model_open(&model, t->device, &t->weights, &t->layout, &options, f);
	if (rc)
		return rc;
	float *logits = must_alloc(t->weights.shape.vocabulary * sizeof *logits);
	rc = write_on(t, &model, p, logits, out, count, f);
	free(logits);
	model_close(&model);
	return rc;
}
