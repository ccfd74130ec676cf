/* SPDX-License-Identifier: Apache-2.0 */
/* What peft_write.c and peft_read.c share: the folder's file names and PEFT's tensor names; nobody else includes it. */
#pragma once
#include <jansson.h>

#include "formats/peft.h"

#define PEFT_CONFIG "adapter_config.json"
#define PEFT_TENSORS "adapter_model.safetensors"
#define PEFT_CARD "README.md"
#define PEFT_NAME_SIZE 96

/* "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"; half is 'A' or 'B'. */
void peft_tensor_name(uint32_t layer, enum peft_target target, char half, char out[static PEFT_NAME_SIZE]);
/* The inverse; false for any name that peft_tensor_name does not write. */
bool peft_tensor_parse(const char *name, uint32_t *layer, enum peft_target *target, char *half);
/* "model.layers.3.self_attn.q_proj": what the keys of a pattern are matched with. */
void peft_module_name(uint32_t layer, enum peft_target target, char out[static PEFT_NAME_SIZE]);

/* rank_pattern or alpha_pattern of a configuration. */
struct peft_pattern {
	struct peft_pattern_key {
		char *module;
		bool whole; /* not only its last parts */
		double value;
	} * keys; /* in the order of the file */
	size_t count;
};
/* A key that is a regular expression is SAKIORI_EUNSUPPORTED. peft_pattern_fini frees *out, after a failure too. */
int peft_pattern_parse(const json_t *config, const char *name, struct peft_pattern *out, struct fault *f);
void peft_pattern_fini(struct peft_pattern *p);
/* The value of the first key that matches, or `other`. */
double peft_pattern_value(const struct peft_pattern *p, const char *module, double other);
