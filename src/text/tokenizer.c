/* SPDX-License-Identifier: Apache-2.0 */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"
#include "text/utf8.h"

struct tokenizer_scratch {
	struct regex_scratch *regex;
	struct normalize_scratch *normalize;
	struct split_scratch *split;
	struct bpe_scratch *bpe;
};

void token_list_add(struct token_list *list, int32_t id)
{
	if (list->count == list->capacity) {
		list->capacity = list->capacity == 0 ? 64 : 2 * list->capacity;
		list->ids = must_realloc(list->ids, list->capacity * sizeof *list->ids);
	}
	list->ids[list->count++] = id;
}

void token_list_fini(struct token_list *list)
{
	free(list->ids);
	*list = (struct token_list){0};
}

struct tokenizer_scratch *tokenizer_scratch_new(const struct tokenizer *t)
{
	(void)t;
	struct tokenizer_scratch *s = must_calloc(1, sizeof *s);
	s->regex = regex_scratch_new();
	s->normalize = normalize_scratch_new();
	s->split = split_scratch_new();
	s->bpe = bpe_scratch_new();
	return s;
}

void tokenizer_scratch_free(struct tokenizer_scratch *s)
{
	if (s == NULL)
		return;
	regex_scratch_free(s->regex);
	normalize_scratch_free(s->normalize);
	split_scratch_free(s->split);
	bpe_scratch_free(s->bpe);
	free(s);
}

/* One call of tokenizer_encode. */
struct encoding {
	const struct tokenizer *tokenizer;
	struct tokenizer_scratch *scratch;
	bool special;
	struct token_list *out;
};

static int encode_word(void *context, const char *word, size_t size, struct fault *f)
{
	const struct encoding *e = context;
	if (bpe_encode(&e->tokenizer->bpe, e->scratch->bpe, word, size, e->out) != 0)
		return fault_set(f, SAKIORI_ENOMEM, "out of memory over a word of %zu bytes", size);
	return 0;
}

/* A stretch of text between added tokens; `first`: nothing stands before it. */
typedef int encode_stretch(struct encoding *e, struct text_span text, bool first, struct fault *f);

/* Takes these added tokens out, and hands what lies between them on. */
static int encode_between(struct encoding *e, const struct added *added, struct text_span text, bool first,
	encode_stretch *next, struct fault *f)
{
	struct added_match m = {0};
	int rc = 0;
	size_t at = 0;
	while (rc == 0 && added_next(added, e->scratch->regex, text.data, text.size, e->special, &m)) {
		if (m.begin > at)
			rc = next(e, (struct text_span){text.data + at, m.begin - at}, first && at == 0, f);
		token_list_add(e->out, m.id);
		at = m.end;
	}
	if (rc == 0 && at < text.size)
		rc = next(e, (struct text_span){text.data + at, text.size - at}, first && at == 0, f);
	return rc;
}

static int encode_words(struct encoding *e, struct text_span text, bool first, struct fault *f)
{
	return split_words(&e->tokenizer->splits, e->scratch->split, e->scratch->regex, text, first, encode_word, e, f);
}

static int encode_raw(struct encoding *e, struct text_span text, bool first, struct fault *f)
{
	int rc = normalize(&e->tokenizer->normalizers, e->scratch->normalize, e->scratch->regex, &text, f);
	return rc == 0 ? encode_between(e, &e->tokenizer->normalized, text, first, encode_words, f) : rc;
}

int tokenizer_encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, size_t size,
	unsigned flags, struct token_list *out, struct fault *f)
{
	if (size > TOKENIZER_MAX_TEXT)
		return fault_set(f, SAKIORI_ELIMIT,
			"a text of %zu bytes; at most %zu are tokenized at once, cut it into parts", size,
			TOKENIZER_MAX_TEXT);
	size_t valid = utf8_valid_prefix(text, size);
	if (valid != size)
		return fault_set(f, SAKIORI_EFORMAT, "byte %zu of the text is not UTF-8", valid);
	size_t before = out->count;
	struct encoding e = {t, s, (flags & TOKENIZER_SPECIAL) != 0, out};
	int rc = encode_between(&e, &t->raw, (struct text_span){text, size}, true, encode_raw, f);
	if (rc != 0)
		out->count = before;
	return rc;
}

struct text_span tokenizer_token(const struct tokenizer *t, int32_t id)
{
	return vocabulary_token(&t->vocabulary, id);
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
	return tokenizer_token(t, id).data != NULL && vocabulary_is_control(&t->vocabulary, id);
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count, unsigned flags, char **text,
	size_t *size, struct fault *f)
{
	*text = NULL;
	for (size_t i = 0; i < count; i++)
		if (tokenizer_token(t, ids[i]).data == NULL)
			return fault_set(f, SAKIORI_EINVAL, "token %d is outside the vocabulary of %zu tokens", ids[i],
				tokenizer_size(t));
	struct writer w;
	writer_init(&w);
	decoder_join(&t->decoder, &t->vocabulary, ids, count, flags, &w);
	*size = w.size;
	write_u8(&w, 0);
	*text = (char *)w.data;
	return 0;
}

size_t tokenizer_size(const struct tokenizer *t)
{
	return t->vocabulary.count;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
	return t->bos;
}

void tokenizer_identity(const struct tokenizer *t, uint8_t out[static HASH_SIZE])
{
	memcpy(out, t->identity, HASH_SIZE);
}

int32_t tokenizer_bos_name(const struct tokenizer *t)
{
	return t->bos_name;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
	return t->eos;
}

int32_t tokenizer_find_special(
	const struct tokenizer *t, const char *text, size_t size, size_t at, size_t *begin, size_t *end)
{
	return added_locate(&t->names, text, size, at, begin, end);
}

int32_t tokenizer_added_eos(const struct tokenizer *t)
{
	return t->added_eos;
}

int32_t tokenizer_special(const struct tokenizer *t, const char *name)
{
	return added_find(&t->names, name, strlen(name));
}

const char *tokenizer_chat_template(const struct tokenizer *t)
{
	return t->chat_template;
}
