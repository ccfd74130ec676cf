/* SPDX-License-Identifier: Apache-2.0 */
/* Names and numbers that both directions share; peft_write.c and peft_read.c do the rest. */
#include "formats/peft.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/peft_private.h"

static const struct {
	const char *name, *module;
} targets[PEFT_TARGETS] = {
	[PEFT_Q] = {"q_proj", "self_attn.q_proj"},
	[PEFT_K] = {"k_proj", "self_attn.k_proj"},
	[PEFT_V] = {"v_proj", "self_attn.v_proj"},
	[PEFT_O] = {"o_proj", "self_attn.o_proj"},
	[PEFT_GATE] = {"gate_proj", "mlp.gate_proj"},
	[PEFT_UP] = {"up_proj", "mlp.up_proj"},
	[PEFT_DOWN] = {"down_proj", "mlp.down_proj"},
};

const char *peft_target_name(enum peft_target target)
{
	return targets[target].name;
}

double peft_scale(const struct peft_adapter *a)
{
	if (a->count == 0)
		return 0;
	double rank = a->matrices[0].rank;
	return a->alpha / (a->rslora ? sqrt(rank) : rank);
}

void peft_base_name(uint32_t layer, enum peft_target target, char out[static PEFT_BASE_NAME_SIZE])
{
	snprintf(out, PEFT_BASE_NAME_SIZE, "model.layers.%" PRIu32 ".%s.weight", layer, targets[target].module);
}

void peft_tensor_name(uint32_t layer, enum peft_target target, char half, char out[static PEFT_NAME_SIZE])
{
	snprintf(out, PEFT_NAME_SIZE, "base_model.model.model.layers.%" PRIu32 ".%s.lora_%c.weight", layer,
		targets[target].module, half);
}

void peft_module_name(uint32_t layer, enum peft_target target, char out[static PEFT_NAME_SIZE])
{
	snprintf(out, PEFT_NAME_SIZE, "model.layers.%" PRIu32 ".%s", layer, targets[target].module);
}

bool peft_tensor_parse(const char *name, uint32_t *layer, enum peft_target *target, char *half)
{
	if (sscanf(name, "base_model.model.model.layers.%" SCNu32 ".", layer) != 1)
		return false;
	for (unsigned t = 0; t < PEFT_TARGETS; t++) {
		for (const char *h = "AB"; *h != '\0'; h++) {
			char again[PEFT_NAME_SIZE];
			peft_tensor_name(*layer, (enum peft_target)t, *h, again);
			if (strcmp(again, name) == 0) {
				*target = (enum peft_target)t;
				*half = *h;
				return true;
			}
		}
	}
	return false;
}
