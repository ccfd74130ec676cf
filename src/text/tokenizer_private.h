/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer is a pipeline: added tokens taken out -> normalizers -> cut into words -> BPE; and a decoder for the way
 * back. A GGUF file's names and a tokenizer.json fill in the same steps, by the functions below, in this order: the
 * steps, the decoder's among them; tokenizer_set_tokens; tokenizer_set_symbols; merges; added tokens. Only
 * tokenizer*.c and tests use this. */
#pragma once
#include <jansson.h>

#include "text/added.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/split.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

/* How words are cut where ByteLevel's own pattern is asked for. */
#define TOKENIZER_GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

struct tokenizer {
	struct added raw;        /* tokens taken out of the text as it comes */
	struct added normalized; /* and of what the normalizers leave between those, by their normalized names */
	struct added names;      /* both, by their names */
	struct normalizers normalizers;
	struct splits splits;
	struct bpe bpe;
	struct decoder decoder;
	struct vocabulary vocabulary;
	int32_t bos, eos, added_eos; /* -1: none; bos: one that is added */
	int32_t bos_name;            /* what is named BOS, added or not */
	char *chat_template;
	uint8_t identity[HASH_SIZE];
};

/* What BPE starts from and falls back to. */
struct tokenizer_model {
	bool byte_level;    /* words are bytes, and tokens are in the byte-level alphabet */
	bool byte_fallback; /* characters without a token become "<0xXX>" */
	bool whole_words;   /* a word that is a token is that token, whatever the merges say */
	int32_t unknown;    /* the token of other characters, or -1 */
	bool fuse_unknown;
};

/* An empty tokenizer, for tokenizer_free. */
struct tokenizer *tokenizer_alloc(size_t merges);
/* A step that cuts at the matches of `pattern`. */
int tokenizer_split(struct tokenizer *t, const char *pattern, size_t size, bool literal, enum split_behavior behavior,
	bool invert, struct fault *f);
int tokenizer_set_tokens(
	struct tokenizer *t, const struct gguf_text *tokens, const int32_t *types, size_t count, struct fault *f);
void tokenizer_set_symbols(
	struct tokenizer *t, const struct tokenizer_model *model, const struct vocabulary_index *index);
/* SAKIORI_EFORMAT, without a sentence, where one of the three is no token. A merge into a control, unknown or byte token
 * is left out: no text may become one. */
int tokenizer_add_merge(struct tokenizer *t, struct vocabulary_index *index, struct text_span left,
	struct text_span right, uint32_t rank);
/* As tokenizer_add_merge, for ids that are known to be in the vocabulary. */
void tokenizer_add_merge_ids(struct tokenizer *t, int32_t left, int32_t right, int32_t result, uint32_t rank);
int tokenizer_add_token(struct tokenizer *t, struct text_span name, struct added_token token, bool normalized,
	struct regex_scratch *regex, struct fault *f);
void tokenizer_set_template(struct tokenizer *t, const char *text, size_t size);

/* The steps of a tokenizer.json: fill t's normalizers, splits and decoder. `byte_level` becomes true where words are
 * bytes from then on. */
int pipeline_read_normalizer(struct tokenizer *t, const json_t *normalizer, struct fault *f);
int pipeline_read_pre_tokenizer(struct tokenizer *t, const json_t *pre_tokenizer, bool *byte_level, struct fault *f);
int pipeline_read_decoder(struct tokenizer *t, const json_t *decoder, struct fault *f);

/* A tokenizer.json, and what stands beside it in tokenizer_config.json (NULL: nothing). */
int tokenizer_from_json(struct tokenizer **out, const json_t *tokenizer, const json_t *config, struct fault *f);
