/* SPDX-License-Identifier: Apache-2.0 */
/* A GGUF file's tokenizer metadata -> a tokenizer: its names filled in as the steps that a tokenizer.json spells out. */
#include <stdlib.h>
#include <string.h>

#include "text/spm.h"
#include "text/tokenizer_private.h"

/* What stands for a blank in SentencePiece's vocabularies. */
#define BLANK "\xe2\x96\x81"

/* How a text is cut into words before merging, by the file's `tokenizer.ggml.pre`. */
static const struct family {
	const char *pre;
	const char *pattern;
	bool digits; /* each is a word of its own, before the pattern cuts */
	bool nfc;
	bool whole_words; /* ignore_merges */
} families[] = {
	{"gpt-2", TOKENIZER_GPT2_PATTERN, false, false, false},
	{"llama-bpe",
		"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
		"\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
		false, false, true},
	{"smollm", TOKENIZER_GPT2_PATTERN, true, false, false},
	{"qwen2",
		"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
		"\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
		false, true, false},
};

static bool text_is(struct gguf_text t, const char *word)
{
	return t.size == strlen(word) && memcmp(t.data, word, t.size) == 0;
}

static int refuse(const char *what, struct gguf_text name, const char *expected, struct fault *f)
{
	return fault_set(f, SAKIORI_EUNSUPPORTED, "%s '%.*s' is not supported; %s", what,
		(int)(name.size < 40 ? name.size : 40), name.size > 0 ? name.data : "", expected);
}

/* Byte-level BPE: the steps of the file's family. */
static int set_family(
	struct tokenizer *t, const struct tokenizer_source *source, struct tokenizer_model *model, struct fault *f)
{
	const struct family *known = NULL;
	for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
		if (text_is(source->pre, families[i].pre))
			known = &families[i];
	if (known == NULL)
		return refuse(
			"pre-tokenizer", source->pre, "gpt-2, llama-bpe, qwen2 and smollm are (tokenizer.ggml.pre)", f);
	int rc = 0;
	if (known->nfc)
		rc = normalizers_add(&t->normalizers, NORMALIZE_NFC, NULL, NULL, 0, f);
	if (rc == 0 && known->digits)
		rc = tokenizer_split(t, "\\p{N}", 5, false, SPLIT_ISOLATED, false, f);
	if (rc == 0)
		rc = tokenizer_split(t, known->pattern, strlen(known->pattern), false, SPLIT_ISOLATED, false, f);
	t->decoder.byte_level = true;
	*model = (struct tokenizer_model){.byte_level = true, .whole_words = known->whole_words, .unknown = -1};
	return rc;
}

static int add_replace(struct normalizers *n, const char *from, const char *to, struct fault *f)
{
	struct regex *blank;
	int rc = regex_new(&blank, from, strlen(from), true, f);
	return rc == 0 ? normalizers_add(n, NORMALIZE_REPLACE, blank, to, strlen(to), f) : rc;
}

/* SentencePiece, as Hugging Face converts it: blanks become U+2581, one stands before each text. */
static int set_spm(
	struct tokenizer *t, const struct tokenizer_source *source, struct tokenizer_model *model, struct fault *f)
{
	int rc = 0;
	if (source->add_space_prefix)
		rc = normalizers_add(&t->normalizers, NORMALIZE_PREPEND, NULL, BLANK, strlen(BLANK), f);
	if (rc == 0)
		rc = add_replace(&t->normalizers, " ", BLANK, f);
	if (rc == 0)
		rc = add_replace(&t->decoder.changes, BLANK, " ", f);
	t->decoder.byte_fallback = true;
	t->decoder.strip[0] = ' ';
	t->decoder.strip_size = 1;
	t->decoder.strip_left = source->add_space_prefix ? 1 : 0;
	*model = (struct tokenizer_model){.byte_fallback = true, .unknown = source->unknown, .fuse_unknown = true};
	for (size_t i = 0; i < source->token_count && model->unknown < 0 && source->token_types != NULL; i++)
		if (source->token_types[i] == TOKEN_UNKNOWN)
			model->unknown = (int32_t)i;
	return rc;
}

static int check_source(const struct tokenizer_source *source, bool spm, struct fault *f)
{
	if (source->token_count == 0 || source->token_count > VOCABULARY_LIMIT ||
		source->merge_count > VOCABULARY_LIMIT)
		return fault_set(f, SAKIORI_EFORMAT,
			"%zu tokens and %zu merges; expected 1 to %d tokens, at most %d merges", source->token_count,
			source->merge_count, VOCABULARY_LIMIT, VOCABULARY_LIMIT);
	if (spm && source->scores == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "there are no scores (tokenizer.ggml.scores)");
	const struct {
		const char *name;
		int32_t id;
	} named[] = {
		{"BOS", source->bos}, {"EOS", source->eos}, {"unknown", source->unknown}, {"padding", source->padding}};
	for (size_t i = 0; i < sizeof named / sizeof named[0]; i++)
		if (named[i].id < -1 || (named[i].id >= 0 && (size_t)named[i].id >= source->token_count))
			return fault_set(f, SAKIORI_EFORMAT,
				"the %s token is number %d, but the vocabulary has %zu tokens", named[i].name,
				named[i].id, source->token_count);
	if (source->add_bos && source->bos < 0)
		return fault_set(f, SAKIORI_EFORMAT, "tokenizer.ggml.add_bos_token is true, but no BOS token is named");
	if (source->add_eos && source->eos < 0)
		return fault_set(f, SAKIORI_EFORMAT, "tokenizer.ggml.add_eos_token is true, but no EOS token is named");
	return 0;
}

/* "left right" */
static int add_merges(
	struct tokenizer *t, const struct tokenizer_source *source, struct vocabulary_index *index, struct fault *f)
{
	for (size_t i = 0; i < source->merge_count; i++) {
		struct gguf_text merge = source->merges[i];
		const char *space = merge.size > 0 ? memchr(merge.data, ' ', merge.size) : NULL;
		size_t left = space != NULL ? (size_t)(space - merge.data) : 0;
		if (space == NULL || tokenizer_add_merge(t, index, (struct text_span){merge.data, left},
					     (struct text_span){space + 1, merge.size - left - 1}, (uint32_t)i) != 0)
			return fault_set(f, SAKIORI_EFORMAT,
				"merge %zu is not two known tokens whose union is a known token", i);
	}
	return 0;
}

/* Control, unknown and user-defined tokens are taken out of the text as it comes. */
static int add_tokens(struct tokenizer *t, const struct tokenizer_source *source, struct fault *f)
{
	for (size_t i = 0; i < source->token_count; i++) {
		enum tokenizer_token_type type = vocabulary_type(&t->vocabulary, (int32_t)i);
		bool control = vocabulary_is_control(&t->vocabulary, (int32_t)i);
		struct text_span name = {source->tokens[i].data, source->tokens[i].size};
		if ((!control && type != TOKEN_USER_DEFINED) || name.size == 0)
			continue;
		int rc = tokenizer_add_token(
			t, name, (struct added_token){.id = (int32_t)i, .special = control}, false, NULL, f);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static void hash_text(struct hash *h, struct gguf_text text)
{
	const uint64_t size = text.data != NULL ? text.size : UINT64_MAX;
	hash_update(h, &size, sizeof size);
	if (text.data != NULL)
		hash_update(h, text.data, text.size);
}

static void hash_source(const struct tokenizer_source *s, uint8_t out[static HASH_SIZE])
{
	const uint64_t counts[] = {s->token_count, s->merge_count, s->token_types != NULL, s->scores != NULL,
		s->add_bos, s->add_eos, s->add_space_prefix};
	const int32_t named[] = {s->bos, s->eos, s->unknown, s->padding};
	struct hash h;
	hash_init(&h, "sakiori-tokenize");
	hash_update(&h, counts, sizeof counts);
	hash_update(&h, named, sizeof named);
	hash_text(&h, s->model);
	hash_text(&h, s->pre);
	hash_text(&h, s->chat_template);
	for (size_t i = 0; i < s->token_count; i++)
		hash_text(&h, s->tokens[i]);
	if (s->token_types != NULL)
		hash_update(&h, s->token_types, s->token_count * sizeof *s->token_types);
	if (s->scores != NULL)
		hash_update(&h, s->scores, s->token_count * sizeof *s->scores);
	for (size_t i = 0; i < s->merge_count; i++)
		hash_text(&h, s->merges[i]);
	hash_final(&h, out);
}

int tokenizer_new(struct tokenizer **out, const struct tokenizer_source *source, struct fault *f)
{
	*out = NULL;
	bool spm = text_is(source->model, "llama");
	if (!spm && !text_is(source->model, "gpt2"))
		return refuse("tokenizer model", source->model,
			"expected 'gpt2', byte-level BPE, or 'llama', SentencePiece's BPE (tokenizer.ggml.model)", f);
	int rc = check_source(source, spm, f);
	if (rc != 0)
		return rc;
	struct vocabulary_index index;
	struct spm_merge *spm_list = NULL;
	size_t spm_count = 0;
	vocabulary_index_init(&index, source->tokens, source->token_count);
	if (spm)
		rc = spm_merges(source->tokens, source->scores, source->token_types, source->token_count, &index,
			&spm_list, &spm_count, f);
	struct tokenizer *t = tokenizer_alloc(spm ? spm_count : source->merge_count);
	struct tokenizer_model model;
	if (rc == 0)
		rc = spm ? set_spm(t, source, &model, f) : set_family(t, source, &model, f);
	if (rc == 0)
		rc = tokenizer_set_tokens(t, source->tokens, source->token_types, source->token_count, f);
	if (rc == 0) {
		tokenizer_set_symbols(t, &model, &index);
		rc = spm ? 0 : add_merges(t, source, &index, f);
	}
	for (size_t i = 0; i < spm_count && rc == 0; i++)
		tokenizer_add_merge_ids(t, spm_list[i].left, spm_list[i].right, spm_list[i].result, (uint32_t)i);
	if (rc == 0)
		rc = add_tokens(t, source, f);
	free(spm_list);
	vocabulary_index_fini(&index);
	if (rc != 0) {
		tokenizer_free(t);
		return rc;
	}
	hash_source(source, t->identity);
	t->bos = source->add_bos ? source->bos : -1;
	t->bos_name = source->bos;
	t->eos = source->eos;
	t->added_eos = source->add_eos ? source->eos : -1;
	if (source->chat_template.data != NULL)
		tokenizer_set_template(t, source->chat_template.data, source->chat_template.size);
	*out = t;
	return 0;
}

/* An optional text: left {NULL, 0} when the file lacks it. */
static int optional_text(const struct gguf *g, const char *key, struct gguf_text *out, struct fault *f)
{
	return gguf_has(g, key) ? gguf_get_text(g, key, out, f) : 0;
}

/* An optional token id: -1 when the file lacks it. */
static int optional_id(const struct gguf *g, const char *key, int32_t *out, struct fault *f)
{
	*out = -1;
	if (!gguf_has(g, key))
		return 0;
	uint32_t id;
	int rc = gguf_get_u32(g, key, &id, f);
	if (rc == 0 && id > INT32_MAX)
		rc = fault_set(f, SAKIORI_EFORMAT, "%s is %u, which is no token", key, id);
	if (rc == 0)
		*out = (int32_t)id;
	return rc;
}

/* Left as it is when the file lacks it. */
static int optional_bool(const struct gguf *g, const char *key, bool *out, struct fault *f)
{
	return gguf_has(g, key) ? gguf_get_bool(g, key, out, f) : 0;
}

static int read_scalars(const struct gguf *g, struct tokenizer_source *s, struct fault *f)
{
	int rc = gguf_get_text(g, "tokenizer.ggml.model", &s->model, f);
	if (rc == 0)
		rc = optional_text(g, "tokenizer.ggml.pre", &s->pre, f);
	if (rc == 0)
		rc = optional_text(g, "tokenizer.chat_template", &s->chat_template, f);
	if (rc == 0)
		rc = optional_id(g, "tokenizer.ggml.bos_token_id", &s->bos, f);
	if (rc == 0)
		rc = optional_id(g, "tokenizer.ggml.eos_token_id", &s->eos, f);
	if (rc == 0)
		rc = optional_id(g, "tokenizer.ggml.unknown_token_id", &s->unknown, f);
	if (rc == 0)
		rc = optional_id(g, "tokenizer.ggml.padding_token_id", &s->padding, f);
	/* Llama's own tokenizers begin with BOS, and converters leave the key out where that goes without saying. */
	bool spm = rc == 0 && text_is(s->model, "llama");
	s->add_bos = rc == 0 && s->bos >= 0 && (spm || text_is(s->pre, "llama-bpe"));
	s->add_space_prefix = spm;
	if (rc == 0)
		rc = optional_bool(g, "tokenizer.ggml.add_bos_token", &s->add_bos, f);
	if (rc == 0)
		rc = optional_bool(g, "tokenizer.ggml.add_eos_token", &s->add_eos, f);
	if (rc == 0)
		rc = optional_bool(g, "tokenizer.ggml.add_space_prefix", &s->add_space_prefix, f);
	return rc;
}

int tokenizer_source_read(struct tokenizer_source *s, const struct gguf *gguf, struct fault *f)
{
	struct gguf_text *tokens = NULL, *merges = NULL;
	int32_t *types = NULL;
	float *scores = NULL;
	size_t type_count = 0, score_count = 0;
	*s = (struct tokenizer_source){0};
	int rc = read_scalars(gguf, s, f);
	if (rc == 0)
		rc = gguf_get_texts(gguf, "tokenizer.ggml.tokens", &tokens, &s->token_count, f);
	/* a tokenizer of another model has no merges: let its name be the complaint */
	if (rc == 0 && gguf_has(gguf, "tokenizer.ggml.merges"))
		rc = gguf_get_texts(gguf, "tokenizer.ggml.merges", &merges, &s->merge_count, f);
	if (rc == 0 && gguf_has(gguf, "tokenizer.ggml.token_type"))
		rc = gguf_get_i32s(gguf, "tokenizer.ggml.token_type", &types, &type_count, f);
	if (rc == 0 && types != NULL && type_count != s->token_count)
		rc = fault_set(f, SAKIORI_EFORMAT, "%zu tokens but %zu token types", s->token_count, type_count);
	if (rc == 0 && gguf_has(gguf, "tokenizer.ggml.scores"))
		rc = gguf_get_f32s(gguf, "tokenizer.ggml.scores", &scores, &score_count, f);
	if (rc == 0 && scores != NULL && score_count != s->token_count)
		rc = fault_set(f, SAKIORI_EFORMAT, "%zu tokens but %zu scores", s->token_count, score_count);
	s->scores = scores;
	s->tokens = tokens;
	s->merges = merges;
	s->token_types = types;
	return rc;
}

void tokenizer_source_fini(struct tokenizer_source *s)
{
	free((void *)s->tokens);
	free((void *)s->merges);
	free((void *)s->token_types);
	free((void *)s->scores);
	*s = (struct tokenizer_source){0};
}

int tokenizer_from_gguf(struct tokenizer **out, const struct gguf *gguf, struct fault *f)
{
	*out = NULL;
	struct tokenizer_source s;
	int rc = tokenizer_source_read(&s, gguf, f);
	if (rc == 0)
		rc = tokenizer_new(out, &s, f);
	tokenizer_source_fini(&s);
	if (rc != 0)
		fault_wrap(f, "%s", gguf_name(gguf));
	return rc;
}
