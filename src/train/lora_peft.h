/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters as PEFT folders, and back. Blocking file work: any thread but the loop's. */
#pragma once
#include <stddef.h>

#include "base/err.h"
#include "formats/safetensors.h"
#include "train/lora.h"

/* What a folder holds, enough to make a layout for it: peft_read makes one rank and one scale of it. Every adapted layer must have the same targets (SAKIORI_EUNSUPPORTED names one that differs). */
int lora_peft_settings(const char *directory, struct lora_settings *out, struct fault *f);

/* Reads a folder into a vector of layout->size floats. Ranks, targets and shapes must be the layout's (SAKIORI_EMISMATCH
 * says which is not); a larger rank will do where what is beyond the layout's is zero, and another scale is allowed for, by scaling B. On failure the vector's contents are undefined. */
int lora_peft_read(const char *directory, const struct lora_layout *layout, float *vector, struct fault *f);

/* Writes, or replaces at one stroke, a folder that every reader understands alike: one rank, smaller ones filled up with zeros, lora_alpha the
 * same as it, the scale in B. base_model is what the adapter is for, a name rather than a path; notes
 * (provenance) may be NULL. */
int lora_peft_write(const char *directory, const struct lora_layout *layout, const float *vector,
	const char *base_model, const struct safetensors_note *notes, size_t note_count, struct fault *f);
