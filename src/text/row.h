/* SPDX-License-Identifier: Apache-2.0 */
/* One row of training data, as JSON, to tokens with their labels. Only rows.c uses this. Any thread, with a scratch
 * of its own. */
#pragma once
#include <jansson.h>

#include "base/err.h"
#include "text/chat.h"
#include "text/flat.h"
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
/* The same of a row without a tree. */
int row_encode_flat(
	const struct row_encoder *e, const struct flat_row *row, struct labelled_tokens *out, struct fault *f);
