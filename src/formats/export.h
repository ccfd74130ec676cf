/* SPDX-License-Identifier: Apache-2.0 */
/* An adapter, or a model with an adapter merged into it, as files that other programs load. Tensors pass through memory a few rows at a time. One thread at a time.
 * Blocking, so never on the loop. */
#pragma once
#include <stdbool.h>

#include "formats/model_file.h"
#include "formats/peft.h"

struct export
{
	struct model_file *model;
	const struct peft_adapter *adapter;                      /* after merge_check and peft_fold */
	enum stored_type type;                                   /* F32, F16, BF16 or Q8_0 */
	void (*progress)(void *self, size_t done, size_t total); /* may be NULL */
	void *progress_self;
};

/* Whether some weight of the model lies in blocks of a few bits: what is merged then is the decoded weight. */
bool export_is_quantized(const struct model_file *model);

/* llama.cpp's LoRA adapter (general.type "adapter"): pairs as blk.N.attn_q.weight.lora_a and lora_b, alpha the rank. Rows that are no whole blocks of Q8_0
 * are F16. The file appears whole, in the place of one that stands there. */
int export_gguf_adapter(const struct export *e, const char *path, struct fault *f);
/* The model with the adapter merged into it, metadata and tokenizer from the base's GGUF (SAKIORI_EUNSUPPORTED for a base
 * that is none); norms F32. */
int export_gguf_merged(const struct export *e, const char *path, struct fault *f);
/* The same weights as safetensors with Hugging Face's names, all of one type (not Q8_0). */
int export_safetensors_merged(const struct export *e, const char *path, struct fault *f);
