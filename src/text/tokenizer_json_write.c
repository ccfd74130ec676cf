/* SPDX-License-Identifier: Apache-2.0 */
#include "text/tokenizer_json_write.h"

#include <stdlib.h>
#include <string.h>

#include "formats/json.h"

/* By `tokenizer.ggml.pre`: how a text is cut into words (the same as tokenizer.c's patterns, in the words of tokenizers). */
static const struct family {
	const char *pre, *cut;
	bool whole_words;
} families[] = {
	{"gpt-2", "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}",
		false},
	{"smollm",
		"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, "
		"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}]}",
		false},
	{"llama-bpe",
		"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
		"\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
		"?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": "
		"\"Isolated\", "
		"\"invert\": false}, "
		"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": "
		"false}]}",
		true},
};

static void put(struct writer *w, const char *text)
{
	write_bytes(w, text, strlen(text));
}

static void put_number(struct writer *w, size_t v)
{
	char text[24];
	write_bytes(w, text, (size_t)snprintf(text, sizeof text, "%zu", v));
}

static bool put_string(struct writer *w, struct gguf_text text)
{
	json_t *string = json_stringn(text.data, text.size);
	char *quoted = string != NULL ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
	json_decref(string);
	if (quoted != NULL)
		put(w, quoted);
	free(quoted);
	return quoted != NULL;
}

static int type_of(const struct tokenizer_source *s, size_t id)
{
	return s->token_types != NULL ? s->token_types[id] : TOKEN_NORMAL;
}

/* Those that are taken out of a text before it is cut. */
static void put_added_tokens(const struct tokenizer_source *s, struct writer *w)
{
	const char *between = "\n";
	put(w, "  \"added_tokens\": [");
	for (size_t id = 0; id < s->token_count; id++) {
		if (type_of(s, id) != TOKEN_CONTROL && type_of(s, id) != TOKEN_USER_DEFINED)
			continue;
		put(w, between);
		put(w, "    {\"id\": ");
		put_number(w, id);
		put(w, ", \"content\": ");
		put_string(w, s->tokens[id]); /* the vocabulary refuses what is not UTF-8 */
		put(w, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
		       "\"special\": ");
		put(w, type_of(s, id) == TOKEN_CONTROL ? "true}" : "false}");
		between = ",\n";
	}
	put(w, "\n  ],\n");
}

/* A BOS before each text, where the tokenizer says so; else nothing but offsets. */
static void put_post_processor(const struct tokenizer_source *s, struct writer *w)
{
	static const char byte_level[] =
		"{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": false, \"use_regex\": true}";
	put(w, "  \"post_processor\": ");
	if (!s->add_bos || s->bos < 0) {
		put(w, byte_level);
		put(w, ",\n");
		return;
	}
	put(w, "{\"type\": \"Sequence\", \"processors\": [");
	put(w, byte_level);
	put(w, ", {\"type\": \"TemplateProcessing\", \"single\": [");
	for (int sequence = 0; sequence < 3; sequence++) { /* alone; then both of a pair */
		put(w, sequence == 1 ? "], \"pair\": [" : sequence == 2 ? ", " : "");
		put(w, "{\"SpecialToken\": {\"id\": ");
		put_string(w, s->tokens[s->bos]);
		put(w, sequence < 2 ? ", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}"
				    : ", \"type_id\": 1}}, {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}");
	}
	put(w, "], \"special_tokens\": {");
	put_string(w, s->tokens[s->bos]);
	put(w, ": {\"id\": ");
	put_string(w, s->tokens[s->bos]);
	put(w, ", \"ids\": [");
	put_number(w, (size_t)s->bos);
	put(w, "], \"tokens\": [");
	put_string(w, s->tokens[s->bos]);
	put(w, "]}}}]},\n");
}

static int by_text(const void *a, const void *b)
{
	const struct gguf_text *left = a, *right = b;
	int order = memcmp(left->data, right->data, left->size < right->size ? left->size : right->size);
	return order != 0 ? order : (left->size > right->size) - (left->size < right->size);
}

/* A JSON object cannot have a token twice. */
static int check_once(const struct tokenizer_source *s, struct fault *f)
{
	struct gguf_text *sorted = must_calloc(s->token_count, sizeof *sorted);
	int rc = 0;
	memcpy(sorted, s->tokens, s->token_count * sizeof *sorted);
	qsort(sorted, s->token_count, sizeof *sorted, by_text);
	for (size_t i = 1; rc == 0 && i < s->token_count; i++)
		if (by_text(&sorted[i - 1], &sorted[i]) == 0)
			rc = fault_set(f, SAKIORI_EFORMAT, "the vocabulary has a token twice: %.*s",
				(int)(sorted[i].size < 40 ? sorted[i].size : 40), sorted[i].data);
	free(sorted);
	return rc;
}

static int put_model(const struct tokenizer_source *s, bool whole_words, struct writer *w, struct fault *f)
{
	put(w, "  \"model\": {\n    \"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
	       "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null,\n    \"fuse_unk\": false, "
	       "\"byte_fallback\": false, \"ignore_merges\": ");
	put(w, whole_words ? "true" : "false");
	put(w, ",\n    \"vocab\": {");
	for (size_t id = 0; id < s->token_count; id++) {
		put(w, id == 0 ? "\n      " : ",\n      ");
		if (!put_string(w, s->tokens[id]))
			return fault_set(f, SAKIORI_EFORMAT, "token %zu of the vocabulary is not valid UTF-8", id);
		put(w, ": ");
		put_number(w, id);
	}
	put(w, "\n    },\n    \"merges\": [");
	for (size_t i = 0; i < s->merge_count; i++) {
		put(w, i == 0 ? "\n      " : ",\n      ");
		if (!put_string(w, s->merges[i]))
			return fault_set(f, SAKIORI_EFORMAT, "merge %zu of the vocabulary is not valid UTF-8", i);
	}
	put(w, "\n    ]\n  }\n}\n");
	return 0;
}

int tokenizer_json_write(const struct tokenizer_source *s, struct writer *out, struct fault *f)
{
	const struct family *family = NULL;
	if (s->model.size != 4 || memcmp(s->model.data, "gpt2", 4) != 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"a tokenizer of kind '%.*s' cannot be written as tokenizer.json; byte-level BPE (gpt2) can",
			(int)(s->model.size < 40 ? s->model.size : 40), s->model.size > 0 ? s->model.data : "");
	for (size_t i = 0; i < sizeof families / sizeof *families; i++)
		if (strlen(families[i].pre) == s->pre.size && memcmp(s->pre.data, families[i].pre, s->pre.size) == 0)
			family = &families[i];
	if (family == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED, "pre-tokenizer '%.*s' cannot be written as tokenizer.json",
			(int)(s->pre.size < 40 ? s->pre.size : 40), s->pre.size > 0 ? s->pre.data : "");
	int rc = check_once(s, f);
	if (rc != 0)
		return rc;
	put(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
	put_added_tokens(s, out);
	put(out, "  \"normalizer\": null,\n  \"pre_tokenizer\": ");
	put(out, family->cut);
	put(out, ",\n");
	put_post_processor(s, out);
	put(out, "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
		 "\"use_regex\": true},\n");
	return put_model(s, family->whole_words, out, f);
}
