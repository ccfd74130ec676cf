/* SPDX-License-Identifier: Apache-2.0 */
/* What peft_write.c and peft_read.c share: the folder's file names and PEFT's tensor names; nobody else includes it. */
#pragma once
#include "formats/peft.h"

#define PEFT_CONFIG "adapter_config.json"
#define PEFT_TENSORS "adapter_model.safetensors"
#define PEFT_CARD "README.md"
#define PEFT_NAME_SIZE 96

/* "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"; half is 'A' or 'B'. */
void peft_tensor_name(uint32_t layer, enum peft_target target, char half, char out[static PEFT_NAME_SIZE]);
/* The inverse; false for any name that peft_tensor_name does not write. */
bool peft_tensor_parse(const char *name, uint32_t *layer, enum peft_target *target, char *half);
