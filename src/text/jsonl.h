/* SPDX-License-Identifier: Apache-2.0 */
/* JSON Lines from a file, one object a line, in bounded memory. A reader belongs to one thread; jsonl_line and jsonl_parse only read its
 * name and limit, so blocks may be taken apart by others. Blocking, so never on the loop. */
#pragma once
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"
#include "text/tokenizer.h"

/* The longest line there may be. */
#define JSONL_MAX_LINE ((size_t)8 << 20)

/* Whole lines that were read at once. Zero it before the first use; jsonl_block_fini frees it. */
struct jsonl_block {
	char *data;
	size_t size, capacity;
	size_t at;          /* where the next line begins */
	size_t line_number; /* of the line last taken, from 1 */
	bool skip_mark;     /* it begins the file, perhaps with a byte order mark */
};
void jsonl_block_fini(struct jsonl_block *b);

struct jsonl {
	const char *name;   /* borrowed; for errors */
	int fd;             /* -1: memory is read */
	const char *memory; /* what is left of it */
	size_t memory_size;
	size_t max_line;
	size_t line_number;   /* of the row that jsonl_next gave */
	uint64_t done, total; /* bytes */
	struct hash *hash;    /* takes in every byte that is read; NULL: none */
	size_t lines;         /* in the blocks so far */
	char *rest;           /* the beginning of a line whose end has not been read */
	size_t rest_size;
	struct jsonl_block block; /* of jsonl_next */
};

/* Opens a regular file. max_line 0 or above JSONL_MAX_LINE means JSONL_MAX_LINE. jsonl_close afterwards, also on
 * failure. */
int jsonl_open(struct jsonl *j, const char *path, size_t max_line, struct fault *f);
/* The same over borrowed memory. */
int jsonl_open_memory(
	struct jsonl *j, const char *name, const void *data, size_t size, size_t max_line, struct fault *f);
void jsonl_close(struct jsonl *j);

/* The next row, skipping blank lines: 1 with a new reference in *row, 0 at the end, or a negative error whose sentence
 * is "file:line: ..." and quotes nothing of the row. */
int jsonl_next(struct jsonl *j, json_t **row, struct fault *f);

/* What jsonl_next is made of. The next lines, about `bytes` of them and at least one: 1, 0 at the end, or an error. A line over the limit ends
 * its block, and jsonl_line says so. */
int jsonl_read(struct jsonl *j, struct jsonl_block *b, size_t bytes, struct fault *f);
/* The block's next line that is not blank, without its end: 1, 0 after the last, or the error of a line over the limit. */
int jsonl_line(const struct jsonl *j, struct jsonl_block *b, struct text_span *line, struct fault *f);
/* The object in line number `number`. */
int jsonl_parse(const struct jsonl *j, size_t number, struct text_span line, json_t **row, struct fault *f);
