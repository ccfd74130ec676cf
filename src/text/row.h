/* SPDX-License-Identifier: Apache-2.0 */
/* One row of training data, as JSON, to tokens with their labels. Only dataset.c uses this. Any thread, with a scratch
 * of its own. */
#pragma once
#include <jansson.h>

#include "base/err.h"
#include "text/chat.h"
#include "text/tokenizer.h"

struct row_encoder {
	const struct tokenizer *tokenizer; /* NULL: only rows of tokens */
	const struct chat *chat;           /* NULL: rows that need one are refused */
	struct tokenizer_scratch *scratch;
	size_t vocabulary; /* ids of rows of tokens are below it */
};

/* Appends the row. The sentence of a failure says what was expected and found, without the file and without a piece of
 * the row. *out is undefined then. */
int row_encode(const struct row_encoder *e, const json_t *row, struct labelled_tokens *out, struct fault *f);
