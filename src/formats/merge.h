/* SPDX-License-Identifier: Apache-2.0 */
/* An adapter added into the model that it was made for: W + scale B A, in float32, rounded once. One thread at a time.
 * Blocking, so never on the loop. */
#pragma once
#include <stddef.h>

#include "formats/model_file.h"
#include "formats/peft.h"

/* Whether the adapter fits: every pair has a weight of its sizes. SAKIORI_EMISMATCH names the first that has none. */
int merge_check(const struct model_file *model, const struct peft_adapter *adapter, struct fault *f);

/* Takes `n` bytes of what is written; a fault ends the walk. */
typedef int merge_append(void *to, const void *data, size_t n, struct fault *f);

struct merge {
	struct model_file *model;
	const struct peft_adapter *adapter;
	merge_append *append;
	void *to;
	void (*progress)(void *self, size_t done, size_t total); /* values of the whole model; may be NULL */
	void *progress_self;
	size_t done;
};

/* Reads one tensor of the model, adds the adapter's product where there is one, and appends its rows as `type`
 * (one that stored_type_encode knows). permuted_heads: the rows leave in llama.cpp's order for q and k of so many heads; 0: in
 * Hugging Face's. Memory: some MiB. SAKIORI_EUNSUPPORTED where a sum does not fit the type. */
int merge_tensor(
	struct merge *m, const struct model_tensor *t, enum stored_type type, size_t permuted_heads, struct fault *f);

/* Where row `row` of a head of `head_rows` rows lies in llama.cpp's order: the halves are interleaved. */
size_t merge_permuted_row(size_t row, size_t head_rows);
