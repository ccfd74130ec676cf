/* SPDX-License-Identifier: Apache-2.0 */
/* A LoRA adapter as the folder that PEFT, transformers and vLLM load: adapter_config.json, adapter_model.safetensors,
 * README.md. Any thread. Blocking, so never on the loop. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "formats/safetensors.h"

/* The linears of a Llama block, in the order in which they are used. */
enum peft_target { PEFT_Q, PEFT_K, PEFT_V, PEFT_O, PEFT_GATE, PEFT_UP, PEFT_DOWN };
#define PEFT_TARGETS 7

/* "q_proj". */
const char *peft_target_name(enum peft_target target);

/* The weight that a pair adapts, by its name in the base model: "model.layers.3.self_attn.q_proj.weight". */
#define PEFT_BASE_NAME_SIZE 64
void peft_base_name(uint32_t layer, enum peft_target target, char out[static PEFT_BASE_NAME_SIZE]);

/* One pair: the linear's output gains scale * B (A x). */
struct peft_matrix {
	uint32_t layer;
	enum peft_target target;
	uint32_t rank;
	uint32_t in, out;
	const float *a; /* (rank, in) */
	const float *b; /* (out, rank) */
};

struct peft_adapter {
	struct peft_matrix *matrices; /* peft_read: by layer, then target */
	size_t count;
	double alpha;
	bool rslora;            /* scale is alpha / sqrt(rank) instead of alpha / rank */
	const char *base_model; /* base_model_name_or_path; may be NULL */
	const struct safetensors_note
		*notes; /* provenance, in the safetensors' __metadata__ beside its "format"; never training text */
	size_t note_count;
};

/* alpha / rank, or alpha / sqrt(rank). */
double peft_scale(const struct peft_adapter *a);

/* Asks beforehand what peft_write would find at its end, after hours of work: makes the folders above `path`, and fails
 * as it would when the place cannot be written or is taken by something that is no adapter. */
int peft_prepare(const char *path, struct fault *f);
/* Writes the folder whole or not at all: built beside `path`, synced, then swapped in; what stood there before is
 * removed after. All matrices of one rank (SAKIORI_EINVAL otherwise), none twice. An existing `path` that is not an
 * adapter folder (non-empty, without adapter_config.json) is refused with SAKIORI_EINVAL rather than replaced. */
int peft_write(const char *path, const struct peft_adapter *a, struct fault *f);

/* Reads a folder back strictly: names, shapes, both halves of each pair, rank as configured, F32, F16 or BF16
 * (widened), finite values. Rank and alpha patterns (whose keys are names of modules) come out as one rank and one scale: smaller ranks are filled
 * up with zeros, and what a pair's scale differs in is in its B. DoRA, biases, modules_to_save and other PEFT methods are
 * refused by name with SAKIORI_EUNSUPPORTED. The caller gives it back with peft_free, which also frees what it points to. */
int peft_read(const char *path, struct peft_adapter **out, struct fault *f);
void peft_free(struct peft_adapter *a);
/* Multiplies the scale into B of what peft_read gave and makes alpha the rank: the form in which no reader can get the scale wrong. */
void peft_fold(struct peft_adapter *a);
