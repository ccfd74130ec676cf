/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece's BPE, whose tokens have scores instead of merges: the merges that Hugging Face makes of them. */
#pragma once
#include "text/vocabulary.h"

struct spm_merge {
	int32_t left, right, result;
};

/* Every way to put a normal, user-defined or unused token together from two such tokens; those of the best score first,
 * and of equal ones those with the longest left part. The caller frees *merges. SAKIORI_EFORMAT, SAKIORI_ELIMIT or
 * SAKIORI_ENOMEM. */
int spm_merges(const struct gguf_text *tokens, const float *scores, const int32_t *types, size_t count,
	const struct vocabulary_index *index, struct spm_merge **merges, size_t *merge_count, struct fault *f);
