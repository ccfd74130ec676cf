/* SPDX-License-Identifier: Apache-2.0 */
/* JSON Lines from a file, one object a line, in bounded memory. A reader belongs to one thread. Blocking, so never on
 * the loop. */
#pragma once
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* The longest line there may be. */
#define JSONL_MAX_LINE ((size_t)8 << 20)

struct jsonl {
	const char *name; /* borrowed; for errors */
	FILE *file;       /* NULL: nothing to read */
	char *line;
	size_t capacity;
	size_t max_line;
	size_t line_number;   /* of the row last read, from 1 */
	uint64_t done, total; /* bytes */
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
