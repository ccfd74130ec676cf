/* SPDX-License-Identifier: Apache-2.0 */
/* The tokens of a vocabulary as the bytes that they stand for, and, while one is built, their texts as the file has
 * them. Never changes once it is filled, so threads may share it. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "text/decoder.h"
#include "text/tokenizer.h"

/* Most tokens, and most merges; the largest vocabularies in use are a quarter of it. */
#define VOCABULARY_LIMIT (1 << 20)

struct vocabulary {
	size_t count;
	struct writer bytes; /* all tokens' bytes in a row */
	uint32_t *starts;    /* (count + 1) */
	uint8_t *types;      /* (count) enum tokenizer_token_type */
};

/* Decodes and checks the tokens; types may be NULL for all normal. SAKIORI_EFORMAT or SAKIORI_ELIMIT. */
int vocabulary_init(struct vocabulary *v, const struct decoder *d, const struct gguf_text *tokens, const int32_t *types,
	size_t count, struct fault *f);
void vocabulary_fini(struct vocabulary *v);

/* {NULL, 0} outside the vocabulary. */
struct text_span vocabulary_token(const struct vocabulary *v, int32_t id);
/* TOKEN_UNKNOWN outside the vocabulary. */
enum tokenizer_token_type vocabulary_type(const struct vocabulary *v, int32_t id);
/* Control and unknown tokens: no text is written with them. */
bool vocabulary_is_control(const struct vocabulary *v, int32_t id);

/* A file's token texts -> ids; borrows the texts. */
struct vocabulary_index {
	const struct gguf_text *tokens;
	int32_t *slots; /* open addressing, at most half full; -1: empty */
	size_t slot_mask;
	struct writer joined; /* of vocabulary_index_pair */
};
/* Empty texts are no tokens; of equal ones the last counts. */
void vocabulary_index_init(struct vocabulary_index *index, const struct gguf_text *tokens, size_t count);
void vocabulary_index_fini(struct vocabulary_index *index);
/* The token of this text, or -1. */
int32_t vocabulary_index_find(const struct vocabulary_index *index, const char *text, size_t size);
/* The token of two texts put together, or -1. */
int32_t vocabulary_index_pair(struct vocabulary_index *index, struct text_span left, struct text_span right);

/* A hash of bytes, for tables of texts. */
size_t vocabulary_hash(const char *data, size_t size);
