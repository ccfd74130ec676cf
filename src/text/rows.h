/* SPDX-License-Identifier: Apache-2.0 */
/* A file of rows to tokens, on several threads, in the order of the file and in bounded memory: blocks of lines wait in a ring until they are
 * tokenized and everything before them was taken. What comes out, the first error included, does not depend on the number of threads. Only
 * dataset.c uses this. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/chat.h"
#include "text/dataset.h"
#include "text/jsonl.h"
#include "text/tokenizer.h"

/* Ids are below VOCABULARY_LIMIT: the top bit is free to say that the token is learned. */
#define ROWS_LABELLED (1u << 31)

struct rows_row {
	uint32_t size;    /* tokens; of a row without learned ones none are kept */
	uint32_t learned; /* of them, the first of the row not counted: nothing before it could predict it */
	bool truncated;
};

/* The rows of one block. */
struct rows_block {
	uint32_t *tokens; /* one row after the other, ROWS_LABELLED where learned */
	size_t token_count, token_capacity;
	struct rows_row *rows;
	size_t count, capacity;
	uint64_t done; /* bytes of the file up to the block's end */
};

/* Takes the next block, on the thread that called rows_read: 0 to go on, 1 when no more rows are wanted, or an error. */
typedef int rows_take(void *self, const struct rows_block *block, struct fault *f);

/* Reads j to its end. Of the options threads, max_row_tokens and refuse_long_rows count. Rows before a faulty line are taken, then its error is
 * returned; SAKIORI_ENOMEM where a block's tokens do not fit. */
int rows_read(struct jsonl *j, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *options, rows_take *take, void *self, struct fault *f);
