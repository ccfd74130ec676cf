/* SPDX-License-Identifier: Apache-2.0 */
/* The tokens of a byte-level vocabulary as bytes, and the special ones found in a text. Never changes once it is
 * filled, so threads may share it. Only tokenizer.c uses this. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"

/* Most tokens, and most merges; the largest vocabularies in use are a quarter of it. */
#define VOCABULARY_LIMIT (1 << 20)

struct vocabulary {
	size_t count;
	char *bytes;       /* all tokens' bytes in a row */
	uint32_t *starts;  /* (count + 1) */
	uint8_t *types;    /* (count) enum tokenizer_token_type */
	int32_t *specials; /* control and user-defined tokens, longest first */
	size_t special_count;
	bool special_start[256]; /* bytes that some special token starts with */
	int32_t *words; /* of vocabulary_index_words: open addressing, at most half full; -1: empty; NULL: not made */
	size_t word_mask;
};

/* Copies and checks the tokens; SAKIORI_EFORMAT or SAKIORI_ELIMIT. */
int vocabulary_init(struct vocabulary *v, const struct tokenizer_source *source, struct fault *f);
void vocabulary_fini(struct vocabulary *v);

/* Makes vocabulary_word possible. */
void vocabulary_index_words(struct vocabulary *v);
/* The normal token of exactly these bytes, or -1. */
int32_t vocabulary_word(const struct vocabulary *v, const char *word, size_t size);

/* {NULL, 0} outside the vocabulary. */
struct text_span vocabulary_token(const struct vocabulary *v, int32_t id);
/* TOKEN_UNKNOWN outside the vocabulary. */
enum tokenizer_token_type vocabulary_type(const struct vocabulary *v, int32_t id);
/* The special token of this name, or -1. */
int32_t vocabulary_special(const struct vocabulary *v, const char *name);
/* The first special token at or after `at`, the longest where several begin; gives its place. -1 when there is none,
 * and begin and end then stay. Control tokens only where allowed. */
int32_t vocabulary_find_special(
	const struct vocabulary *v, const char *text, size_t size, size_t at, bool control, size_t *begin, size_t *end);

/* A file's token texts -> ids, for reading its merges; borrows the source. */
struct vocabulary_index {
	const struct tokenizer_source *source;
	int32_t *slots; /* open addressing, at most half full; -1: empty */
	size_t slot_mask;
	char *joined; /* room for the longest merge */
};
void vocabulary_index_init(struct vocabulary_index *index, const struct tokenizer_source *source);
void vocabulary_index_fini(struct vocabulary_index *index);
/* "left right" -> three ids; SAKIORI_EFORMAT when one of them is no token. */
int vocabulary_index_merge(
	const struct vocabulary_index *index, struct gguf_text merge, int32_t *left, int32_t *right, int32_t *result);
/* The token of each single byte, -1 where there is none. */
void vocabulary_index_bytes(const struct vocabulary_index *index, int32_t ids[static 256]);
