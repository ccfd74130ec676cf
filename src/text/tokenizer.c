/* SPDX-License-Identifier: Apache-2.0 */
#include "text/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "text/bpe.h"
#include "text/vocabulary.h"

/* What Hugging Face's \s means; PCRE2's own has U+180E too. */
#define SPACES "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* How a text is cut into words before merging, by the file's `tokenizer.ggml.pre`. */
static const struct pattern {
	const char *pre;
	const char *pattern;
	bool whole_words; /* a word that is a token is that token, whatever the merges say (tokenizer.json: ignore_merges) */
} patterns[] = {
	{"gpt-2",
		"'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^" SPACES "\\p{L}\\p{N}]+|[" SPACES "]+(?![^" SPACES
		"])|[" SPACES "]+",
		false},
	{"llama-bpe",
		"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" SPACES
		"\\p{L}\\p{N}]+[\\r\\n]*|[" SPACES "]*[\\r\\n]+|[" SPACES "]+(?![^" SPACES "])|[" SPACES "]+",
		true},
	/* Digits one by one, then GPT-2's pattern on what lies between them; for that a run of blanks before a digit
	 * ends its piece, which the lookahead says here. */
	{"smollm",
		"\\p{N}|'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?[^" SPACES "\\p{L}\\p{N}]+|[" SPACES "]+(?![^" SPACES
		"\\p{N}])|[" SPACES "]+",
		false},
};

struct tokenizer {
	struct vocabulary vocabulary;
	struct bpe bpe;
	pcre2_code *pattern;
	bool whole_words;
	int32_t bos, eos;
	bool add_bos;
	char *chat_template;
};

struct tokenizer_scratch {
	pcre2_match_data *match;
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

static bool text_is(struct gguf_text t, const char *word)
{
	return t.size == strlen(word) && memcmp(t.data, word, t.size) == 0;
}

static int compile_pattern(struct tokenizer *t, struct gguf_text pre, struct fault *f)
{
	const struct pattern *known = NULL;
	for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
		if (text_is(pre, patterns[i].pre))
			known = &patterns[i];
	if (known == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"pre-tokenizer '%.*s' is not supported; gpt-2, llama-bpe and smollm are (tokenizer.ggml.pre)",
			(int)(pre.size < 40 ? pre.size : 40), pre.size > 0 ? pre.data : "");
	int error;
	PCRE2_SIZE at;
	t->pattern = pcre2_compile(
		(PCRE2_SPTR)known->pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
	if (t->pattern == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"PCRE2 refuses the pattern of this pre-tokenizer (error %d); it needs Unicode support", error);
	/* without executable memory this fails, and matching is interpreted: slower, the same result */
	pcre2_jit_compile(t->pattern, PCRE2_JIT_COMPLETE);
	t->whole_words = known->whole_words;
	if (t->whole_words)
		vocabulary_index_words(&t->vocabulary);
	return 0;
}

static int check_id(const char *name, int32_t id, size_t count, struct fault *f)
{
	if (id < -1 || (id >= 0 && (size_t)id >= count))
		return fault_set(f, SAKIORI_EFORMAT, "the %s token is number %d, but the vocabulary has %zu tokens",
			name, id, count);
	return 0;
}

static int add_merges(struct tokenizer *t, const struct tokenizer_source *source, struct fault *f)
{
	struct vocabulary_index index;
	vocabulary_index_init(&index, source);
	vocabulary_index_bytes(&index, t->bpe.byte_ids);
	int rc = 0;
	for (size_t i = 0; i < source->merge_count && rc == 0; i++) {
		int32_t left, right, result;
		rc = vocabulary_index_merge(&index, source->merges[i], &left, &right, &result);
		if (rc != 0)
			fault_set(f, rc, "merge %zu is not two known tokens whose union is a known token", i);
		else
			bpe_add(&t->bpe, left, right, (uint32_t)i, result);
	}
	vocabulary_index_fini(&index);
	return rc;
}

static int check_source(const struct tokenizer_source *source, struct fault *f)
{
	if (!text_is(source->model, "gpt2"))
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"tokenizer model '%.*s' is not supported; expected 'gpt2', byte-level BPE "
			"(tokenizer.ggml.model)",
			(int)(source->model.size < 40 ? source->model.size : 40),
			source->model.size > 0 ? source->model.data : "");
	if (source->token_count == 0 || source->token_count > VOCABULARY_LIMIT ||
		source->merge_count > VOCABULARY_LIMIT)
		return fault_set(f, SAKIORI_EFORMAT,
			"%zu tokens and %zu merges; expected 1 to %d tokens, at most %d merges", source->token_count,
			source->merge_count, VOCABULARY_LIMIT, VOCABULARY_LIMIT);
	const struct {
		const char *name;
		int32_t id;
	} named[] = {
		{"BOS", source->bos}, {"EOS", source->eos}, {"unknown", source->unknown}, {"padding", source->padding}};
	for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
		int rc = check_id(named[i].name, named[i].id, source->token_count, f);
		if (rc != 0)
			return rc;
	}
	if (source->add_bos && source->bos < 0)
		return fault_set(f, SAKIORI_EFORMAT, "tokenizer.ggml.add_bos_token is true, but no BOS token is named");
	return 0;
}

int tokenizer_new(struct tokenizer **out, const struct tokenizer_source *source, struct fault *f)
{
	*out = NULL;
	int rc = check_source(source, f);
	if (rc != 0)
		return rc;
	struct tokenizer *t = must_calloc(1, sizeof *t);
	bpe_init(&t->bpe, source->merge_count);
	rc = vocabulary_init(&t->vocabulary, source, f);
	if (rc == 0)
		rc = compile_pattern(t, source->pre, f);
	if (rc == 0)
		rc = add_merges(t, source, f);
	if (rc != 0) {
		tokenizer_free(t);
		return rc;
	}
	t->bos = source->bos;
	t->add_bos = source->add_bos;
	t->eos = source->eos;
	if (source->chat_template.data != NULL) {
		t->chat_template = must_alloc(source->chat_template.size + 1);
		memcpy(t->chat_template, source->chat_template.data, source->chat_template.size);
		t->chat_template[source->chat_template.size] = '\0';
	}
	*out = t;
	return 0;
}

void tokenizer_free(struct tokenizer *t)
{
	if (t == NULL)
		return;
	vocabulary_fini(&t->vocabulary);
	bpe_fini(&t->bpe);
	pcre2_code_free(t->pattern);
	free(t->chat_template);
	free(t);
}

struct tokenizer_scratch *tokenizer_scratch_new(const struct tokenizer *t)
{
	struct tokenizer_scratch *s = must_calloc(1, sizeof *s);
	s->match = pcre2_match_data_create_from_pattern(t->pattern, NULL);
	if (s->match == NULL)
		abort(); /* a few hundred bytes */
	s->bpe = bpe_scratch_new();
	return s;
}

void tokenizer_scratch_free(struct tokenizer_scratch *s)
{
	if (s == NULL)
		return;
	pcre2_match_data_free(s->match);
	bpe_scratch_free(s->bpe);
	free(s);
}

/* Bytes of the UTF-8 character at p, of `left` > 0 bytes, and whether it is whole. Where it is none (overlong, a
 * surrogate, beyond U+10FFFF, cut short) these are the bytes that a decoder replaces at once: as many as could have
 * begun a character, at least one. */
static size_t character_size(const uint8_t *p, size_t left, bool *whole)
{
	*whole = p[0] < 0x80;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 1;
	size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2, got = 1;
	uint8_t low = 0x80, high = 0xbf;
	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f;
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	for (; got < n && got < left && p[got] >= low && p[got] <= high; got++) {
		low = 0x80;
		high = 0xbf;
	}
	*whole = got == n;
	return got;
}

/* Offset of the first byte that is not UTF-8, or size. */
static size_t valid_prefix(const char *text, size_t size)
{
	size_t at = 0;
	while (at < size) {
		bool whole;
		size_t n = character_size((const uint8_t *)text + at, size - at, &whole);
		if (!whole)
			break;
		at += n;
	}
	return at;
}

/* Text without special tokens: cut into words, each merged by itself. */
static int encode_words(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, size_t size,
	struct token_list *out, struct fault *f)
{
	for (size_t at = 0; at < size;) {
		/* anchored: the alternatives cover every character, so that each word begins where the last one ended
		 */
		int matched = pcre2_match(
			t->pattern, (PCRE2_SPTR)text, size, at, PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, s->match, NULL);
		if (matched < 0)
			return fault_set(f, matched == PCRE2_ERROR_NOMEMORY ? SAKIORI_ENOMEM : SAKIORI_ELIMIT,
				"the text cannot be cut into words at byte %zu (PCRE2 error %d)", at, matched);
		size_t end = pcre2_get_ovector_pointer(s->match)[1];
		int32_t whole = t->whole_words ? vocabulary_word(&t->vocabulary, text + at, end - at) : -1;
		if (whole >= 0)
			token_list_add(out, whole);
		else if (bpe_encode(&t->bpe, s->bpe, text + at, end - at, out) != 0)
			return fault_set(f, SAKIORI_ENOMEM, "out of memory over a word of %zu bytes", end - at);
		at = end;
	}
	return 0;
}

int tokenizer_encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, size_t size,
	unsigned flags, struct token_list *out, struct fault *f)
{
	if (size > TOKENIZER_MAX_TEXT)
		return fault_set(f, SAKIORI_ELIMIT,
			"a text of %zu bytes; at most %zu are tokenized at once, cut it into parts", size,
			TOKENIZER_MAX_TEXT);
	size_t valid = valid_prefix(text, size);
	if (valid != size)
		return fault_set(f, SAKIORI_EFORMAT, "byte %zu of the text is not UTF-8", valid);
	size_t before = out->count;
	for (size_t at = 0; at < size;) {
		size_t begin = size, end = size;
		int32_t id = vocabulary_find_special(
			&t->vocabulary, text, size, at, (flags & TOKENIZER_SPECIAL) != 0, &begin, &end);
		int rc = encode_words(t, s, text + at, begin - at, out, f);
		if (rc != 0) {
			out->count = before;
			return rc;
		}
		if (id >= 0)
			token_list_add(out, id);
		at = end;
	}
	return 0;
}

struct text_span tokenizer_token(const struct tokenizer *t, int32_t id)
{
	return vocabulary_token(&t->vocabulary, id);
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
	return vocabulary_type(&t->vocabulary, id) == TOKEN_CONTROL;
}

/* U+FFFD for whatever is not UTF-8, one for each piece that a character broke off after. */
static void replace_broken(struct writer *w)
{
	struct writer out;
	writer_init(&out);
	for (size_t at = 0, n; at < w->size; at += n) {
		bool whole;
		n = character_size(w->data + at, w->size - at, &whole);
		write_bytes(&out, whole ? (const char *)w->data + at : "\xef\xbf\xbd", whole ? n : 3);
	}
	writer_fini(w);
	*w = out;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count, unsigned flags, char **text,
	size_t *size, struct fault *f)
{
	struct writer w;
	writer_init(&w);
	*text = NULL;
	for (size_t i = 0; i < count; i++) {
		struct text_span token = tokenizer_token(t, ids[i]);
		if (token.data == NULL) {
			writer_fini(&w);
			return fault_set(f, SAKIORI_EINVAL, "token %d is outside the vocabulary of %zu tokens", ids[i],
				tokenizer_size(t));
		}
		if ((flags & TOKENIZER_SPECIAL) != 0 || !tokenizer_is_control(t, ids[i]))
			write_bytes(&w, token.data, token.size);
	}
	if ((flags & TOKENIZER_REPLACE) != 0)
		replace_broken(&w);
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
	return t->add_bos ? t->bos : -1;
}

int32_t tokenizer_bos_name(const struct tokenizer *t)
{
	return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
	return t->eos;
}

int32_t tokenizer_find_special(
	const struct tokenizer *t, const char *text, size_t size, size_t at, size_t *begin, size_t *end)
{
	return vocabulary_find_special(&t->vocabulary, text, size, at, true, begin, end);
}

int32_t tokenizer_special(const struct tokenizer *t, const char *name)
{
	return vocabulary_special(&t->vocabulary, name);
}

const char *tokenizer_chat_template(const struct tokenizer *t)
{
	return t->chat_template;
}
