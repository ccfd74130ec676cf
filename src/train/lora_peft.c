/* SPDX-License-Identifier: Apache-2.0 */
#include "train/lora_peft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "formats/peft.h"

_Static_assert((int)PEFT_Q == LORA_Q && (int)PEFT_DOWN == LORA_DOWN && PEFT_TARGETS == LORA_TARGETS,
	"the same seven, in the same order");

int lora_peft_settings(const char *directory, struct lora_settings *out, struct fault *f)
{
	struct peft_adapter *adapter;
	int rc = peft_read(directory, &adapter, f);
	if (rc)
		return rc;
	/* By layer, then target: so a layer's matrices follow one another. */
	unsigned mask = 0;
	memset(out, 0, sizeof *out);
	for (size_t i = 0; i < adapter->count && !rc; i++) {
		const struct peft_matrix *m = &adapter->matrices[i];
		mask |= 1u << m->target;
		if (i + 1 < adapter->count && adapter->matrices[i + 1].layer == m->layer)
			continue;
		if (out->targets && out->targets != mask)
			rc = fault_set(f, SAKIORI_EUNSUPPORTED,
				"%s adapts other targets in layer %u than before; only uniform adapters are supported",
				directory, m->layer);
		out->targets = mask;
		mask = 0;
	}
	if (!rc) {
		out->rank = adapter->matrices[0].rank;
		out->alpha = (float)(peft_scale(adapter) * (double)out->rank);
	}
	peft_free(adapter);
	return rc;
}

/* Whether ranks from `rank` on add nothing. */
static bool zero_beyond(const struct peft_matrix *m, size_t rank)
{
	for (size_t r = rank; r < m->rank; r++) {
		bool a = true, b = true;
		for (size_t i = 0; i < m->in; i++)
			a = a && m->a[r * m->in + i] == 0;
		for (size_t i = 0; i < m->out; i++)
			b = b && m->b[i * m->rank + r] == 0;
		if (!a && !b)
			return false;
	}
	return true;
}

static int read_matrix(const char *directory, const struct peft_matrix *m, double scale,
	const struct lora_layout *layout, float *vector, struct fault *f)
{
	const struct lora_entry *e = lora_find(layout, m->layer, (enum lora_target)m->target);
	if (!e)
		return fault_set(f, SAKIORI_EMISMATCH,
			"%s adapts %s of layer %u, this run does not: set --targets alike", directory,
			peft_target_name(m->target), m->layer);
	if (m->rank < e->rank || !zero_beyond(m, e->rank))
		return fault_set(f, SAKIORI_EMISMATCH, "%s has rank %u, this run has %zu for %s: set --rank %u",
			directory, m->rank, e->rank, peft_target_name(m->target), m->rank);
	if (m->in != e->in || m->out != e->out)
		return fault_set(f, SAKIORI_EMISMATCH,
			"%s: %s of layer %u is %u to %u, in this model it is %zu to %zu: an adapter of another model",
			directory, peft_target_name(m->target), m->layer, m->in, m->out, e->in, e->out);
	memcpy(vector + e->a, m->a, e->rank * e->in * sizeof *vector);
	double factor = scale / (double)e->scale;
	for (size_t i = 0; i < e->out; i++)
		for (size_t r = 0; r < e->rank; r++)
			vector[e->b + i * e->rank + r] = (float)(factor * (double)m->b[i * m->rank + r]);
	return 0;
}

int lora_peft_read(const char *directory, const struct lora_layout *layout, float *vector, struct fault *f)
{
	struct peft_adapter *adapter;
	int rc = peft_read(directory, &adapter, f);
	if (rc)
		return rc;
	double scale = peft_scale(adapter);
	if (adapter->count != layout->count) {
		char targets[32];
		lora_targets_format(layout->settings.targets, targets);
		rc = fault_set(f, SAKIORI_EMISMATCH,
			"%s adapts %zu layers, this run %zu (targets %s): set --targets alike", directory,
			adapter->count, layout->count, targets);
	}
	for (size_t i = 0; i < adapter->count && !rc; i++)
		rc = read_matrix(directory, &adapter->matrices[i], scale, layout, vector, f);
	peft_free(adapter);
	return rc;
}

/* A (rank, in) and behind it scale * B (out, rank), zeros being there already. */
static void fill_matrix(const struct lora_entry *e, size_t rank, const float *vector, float *out)
{
	memcpy(out, vector + e->a, e->rank * e->in * sizeof *out);
	float *b = out + rank * e->in;
	for (size_t i = 0; i < e->out; i++)
		for (size_t r = 0; r < e->rank; r++)
			b[i * rank + r] = e->scale * vector[e->b + i * e->rank + r];
}

int lora_peft_write(const char *directory, const struct lora_layout *layout, const float *vector,
	const char *base_model, const struct safetensors_note *notes, size_t note_count, struct fault *f)
{
	struct peft_matrix *matrices = must_calloc(layout->count, sizeof *matrices);
	size_t rank = layout->rank, floats = 0;
	for (size_t i = 0; i < layout->count; i++)
		floats += rank * (layout->entries[i].in + layout->entries[i].out);
	float *values = must_calloc(floats, sizeof *values), *at = values;
	for (size_t i = 0; i < layout->count; i++) {
		const struct lora_entry *e = &layout->entries[i];
		matrices[i] = (struct peft_matrix){
			.layer = e->layer,
			.target = (enum peft_target)e->target,
			.rank = (uint32_t)rank,
			.in = (uint32_t)e->in,
			.out = (uint32_t)e->out,
			.a = at,
			.b = at + rank * e->in,
		};
		fill_matrix(e, rank, vector, at);
		at += rank * (e->in + e->out);
	}
	struct peft_adapter adapter = {
		.matrices = matrices,
		.count = layout->count,
		.alpha = (double)rank,
		.base_model = base_model,
		.notes = notes,
		.note_count = note_count,
	};
	int rc = peft_write(directory, &adapter, f);
	free(values);
	free(matrices);
	return rc;
}
