/* SPDX-License-Identifier: Apache-2.0 */
/* What the readers of GGUF files and of tokenizer.json have in common: filling in a pipeline. */
#include <stdlib.h>
#include <string.h>

#include "text/alphabet.h"
#include "text/tokenizer_private.h"
#include "text/utf8.h"

struct tokenizer *tokenizer_alloc(size_t merges)
{
	struct tokenizer *t = must_calloc(1, sizeof *t);
	added_init(&t->raw);
	added_init(&t->normalized);
	added_init(&t->names);
	bpe_init(&t->bpe, merges);
	t->bos = t->bos_name = t->eos = t->added_eos = -1;
	return t;
}

void tokenizer_free(struct tokenizer *t)
{
	if (t == NULL)
		return;
	added_fini(&t->raw);
	added_fini(&t->normalized);
	added_fini(&t->names);
	normalizers_fini(&t->normalizers);
	splits_fini(&t->splits);
	bpe_fini(&t->bpe);
	decoder_fini(&t->decoder);
	vocabulary_fini(&t->vocabulary);
	free(t->chat_template);
	free(t);
}

int tokenizer_split(struct tokenizer *t, const char *pattern, size_t size, bool literal, enum split_behavior behavior,
	bool invert, struct fault *f)
{
	struct regex *regex;
	int rc = regex_new(&regex, pattern, size, literal, f);
	return rc == 0 ? splits_add_pattern(&t->splits, regex, behavior, invert, f) : rc;
}

int tokenizer_set_tokens(
	struct tokenizer *t, const struct gguf_text *tokens, const int32_t *types, size_t count, struct fault *f)
{
	return vocabulary_init(&t->vocabulary, &t->decoder, tokens, types, count, f);
}

/* Control, unknown and byte tokens are no text. */
static bool is_text(const struct tokenizer *t, int32_t id)
{
	enum tokenizer_token_type type = vocabulary_type(&t->vocabulary, id);
	return type == TOKEN_NORMAL || type == TOKEN_USER_DEFINED || type == TOKEN_UNUSED;
}

static void add_byte_letters(struct bpe *b, const struct vocabulary_index *index)
{
	for (unsigned byte = 0; byte < 256; byte++) {
		char letter[2];
		b->byte_ids[byte] = vocabulary_index_find(index, letter, alphabet_letter((uint8_t)byte, letter));
	}
}

static void add_neighbours(struct bpe *b, struct gguf_text text)
{
	size_t n;
	for (size_t at = 0, next; at < text.size; at = next) {
		int32_t left = utf8_decode(text.data + at, &n);
		next = at + n;
		if (next < text.size)
			bpe_add_neighbours(b, left, utf8_decode(text.data + next, &n));
	}
}

static void add_characters(struct tokenizer *t, const struct vocabulary_index *index, bool byte_fallback)
{
	for (size_t i = 0; i < t->vocabulary.count; i++) {
		struct gguf_text text = index->tokens[i];
		bool whole = false;
		uint8_t byte;
		if (byte_fallback && decoder_byte(text.data, text.size, &byte))
			t->bpe.byte_ids[byte] = (int32_t)i;
		if (is_text(t, (int32_t)i))
			add_neighbours(&t->bpe, text);
		if (text.size == 0 || text.size > 4 || utf8_size(text.data, text.size, &whole) != text.size || !whole)
			continue;
		size_t n;
		bpe_add_character(&t->bpe, utf8_decode(text.data, &n), (int32_t)i);
	}
}

static void add_words(struct tokenizer *t, const struct vocabulary_index *index)
{
	struct writer word = {0};
	bpe_reserve_words(&t->bpe, t->vocabulary.count);
	for (size_t i = 0; i < t->vocabulary.count; i++) {
		struct gguf_text text = index->tokens[i];
		size_t size = text.size;
		if (vocabulary_type(&t->vocabulary, (int32_t)i) != TOKEN_NORMAL || size == 0)
			continue;
		word.size = 0;
		if (!t->bpe.bytes)
			write_bytes(&word, text.data, size);
		else if (!alphabet_decode(text.data, size, (char *)write_space(&word, size), &size))
			continue; /* no word is written so */
		bpe_add_word(&t->bpe, (const char *)word.data, size, (int32_t)i);
	}
	writer_fini(&word);
}

void tokenizer_set_symbols(
	struct tokenizer *t, const struct tokenizer_model *model, const struct vocabulary_index *index)
{
	t->bpe.bytes = model->byte_level;
	t->bpe.unknown = model->unknown;
	t->bpe.fuse_unknown = model->fuse_unknown;
	if (model->byte_level)
		add_byte_letters(&t->bpe, index);
	else
		add_characters(t, index, model->byte_fallback);
	if (model->whole_words)
		add_words(t, index);
}

void tokenizer_add_merge_ids(struct tokenizer *t, int32_t left, int32_t right, int32_t result, uint32_t rank)
{
	if (is_text(t, result))
		bpe_add(&t->bpe, left, right, rank, result);
}

int tokenizer_add_merge(struct tokenizer *t, struct vocabulary_index *index, struct text_span left,
	struct text_span right, uint32_t rank)
{
	int32_t a = vocabulary_index_find(index, left.data, left.size);
	int32_t b = vocabulary_index_find(index, right.data, right.size);
	int32_t result = vocabulary_index_pair(index, left, right);
	if (a < 0 || b < 0 || result < 0)
		return SAKIORI_EFORMAT;
	tokenizer_add_merge_ids(t, a, b, result, rank);
	return 0;
}

int tokenizer_add_token(struct tokenizer *t, struct text_span name, struct added_token token, bool normalized,
	struct regex_scratch *regex, struct fault *f)
{
	int rc = added_add(&t->names, name.data, name.size, token, f);
	if (rc != 0)
		return rc;
	if (!normalized)
		return added_add(&t->raw, name.data, name.size, token, f);
	struct normalize_scratch *scratch = normalize_scratch_new();
	rc = normalize(&t->normalizers, scratch, regex, &name, f);
	if (rc == 0 && name.size > 0)
		rc = added_add(&t->normalized, name.data, name.size, token, f);
	normalize_scratch_free(scratch);
	return rc;
}

void tokenizer_set_template(struct tokenizer *t, const char *text, size_t size)
{
	free(t->chat_template);
	t->chat_template = must_alloc(size + 1);
	if (size > 0)
		memcpy(t->chat_template, text, size);
	t->chat_template[size] = '\0';
}
