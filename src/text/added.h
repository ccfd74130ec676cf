/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that are taken out of a text before it is cut into words, such as "<|im_end|>": a trie of their names. Never
 * changes once it is filled, so threads may share it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/regex.h"

/* The longest name, in bytes: at every place of a text that many may be looked at. */
#define ADDED_MAX_NAME 1024

struct added_token {
	int32_t id;
	bool special;     /* a control token: never taken out of data rows */
	bool left, right; /* takes the white space beside it along */
	bool single_word; /* only where no letter, digit or mark stands beside it */
};

struct added_edge {
	uint64_t key; /* node << 8 | byte, 0: an empty slot */
	uint32_t node;
};

struct added {
	struct added_token *tokens; /* of the nodes; id -1: no name ends here. Node 0 is unused, 1 the root */
	size_t node_count, node_capacity;
	struct added_edge *edges; /* open addressing, at most half full */
	size_t edge_mask;
	bool starts[256];   /* bytes that some name starts with */
	struct regex *word; /* one character of a word; made with the first single_word token */
};

void added_init(struct added *a);
void added_fini(struct added *a);
/* A name that is there already gets the new token. SAKIORI_ELIMIT for an empty or overlong name. */
int added_add(struct added *a, const char *name, size_t size, struct added_token token, struct fault *f);

/* The token of exactly this name, or -1. */
int32_t added_find(const struct added *a, const char *name, size_t size);

/* The first place at or after `at` where a name stands, whatever is beside it, the longest where several begin: its token, or -1, and *begin
 * and *end then stay. */
int32_t added_locate(const struct added *a, const char *text, size_t size, size_t at, size_t *begin, size_t *end);

/* Where a search through one text has come to. Zero it first. */
struct added_match {
	size_t begin, end; /* of what is taken out, with its white space */
	int32_t id;
	size_t from; /* where the next search begins */
};
/* The next token in a text of valid UTF-8, the longest where several begin; false when there is none. What control tokens
 * are named stays text unless `special`, and no other token is looked for inside. */
bool added_next(const struct added *a, struct regex_scratch *regex, const char *text, size_t size, bool special,
	struct added_match *m);
