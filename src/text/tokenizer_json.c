/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer.json -> a tokenizer. The document is walked once a part: vocabulary, added tokens, steps, merges, what
 * stands around a text. Everything in it is bounded before memory is taken for it: the file by its reader, ids by
 * VOCABULARY_LIMIT, steps by PIPELINE_STEPS, patterns by REGEX_MAX_PATTERN, names by ADDED_MAX_NAME. */
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "text/tokenizer_private.h"

/* What is gathered before the tokenizer is built; the texts are the document's. */
struct draft {
	const json_t *root, *model;
	struct gguf_text *tokens; /* (count); an id that nothing has: no text */
	int32_t *types;           /* (count) */
	size_t count;
	struct vocabulary_index index;
	struct tokenizer_model options;
};

static int optional_flag(const json_t *object, const char *key, bool *out, struct fault *f)
{
	*out = false;
	return json_is_set(object, key) ? json_want_boolean(object, key, out, f) : 0;
}

/* Refuses what the model may say and this code does not do. */
static int check_model(const json_t *model, struct fault *f)
{
	const char *type = json_string_value(json_object_get(model, "type"));
	if (type != NULL && strcmp(type, "BPE") != 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED, "model '%.40s' is not supported; BPE is", type);
	if (type == NULL && !json_is_set(model, "merges")) /* older files leave BPE unnamed */
		return fault_set(f, SAKIORI_EFORMAT, "the model has neither a \"type\" nor \"merges\"");
	const json_t *dropout = json_object_get(model, "dropout");
	if (json_is_number(dropout) && json_number_value(dropout) > 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"dropout is not supported: a text would not always give the "
			"same tokens");
	static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	for (size_t i = 0; i < 2; i++) {
		const json_t *affix = json_object_get(model, affixes[i]);
		if (affix != NULL && !json_is_null(affix) && (!json_is_string(affix) || json_string_length(affix) > 0))
			return fault_set(f, SAKIORI_EUNSUPPORTED, "\"%s\" is not supported", affixes[i]);
	}
	return 0;
}

/* An id of the file, below the limit. */
static int read_id(const json_t *value, const char *name, int32_t *out, struct fault *f)
{
	if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= VOCABULARY_LIMIT)
		return fault_set(f, SAKIORI_EFORMAT, "the id of token '%.60s' is not an integer from 0 to %d", name,
			VOCABULARY_LIMIT - 1);
	*out = (int32_t)json_integer_value(value);
	return 0;
}

/* How many ids there are: one more than the highest. */
static int count_ids(struct draft *d, const json_t *vocabulary, const json_t *added, struct fault *f)
{
	const char *text;
	json_t *value;
	size_t i;
	int32_t id;
	json_object_foreach((json_t *)vocabulary, text, value)
	{
		int rc = read_id(value, text, &id, f);
		if (rc != 0)
			return rc;
		d->count = (size_t)id >= d->count ? (size_t)id + 1 : d->count;
	}
	json_array_foreach(added, i, value)
	{
		int rc = json_want_text(value, "content", &text, f);
		if (rc == 0)
			rc = read_id(json_object_get(value, "id"), text, &id, f);
		if (rc != 0)
			return fault_wrap(f, "added token %zu", i);
		d->count = (size_t)id >= d->count ? (size_t)id + 1 : d->count;
	}
	return d->count > 0 ? 0 : fault_set(f, SAKIORI_EFORMAT, "the vocabulary is empty");
}

static int place(struct draft *d, int32_t id, const char *text, struct fault *f)
{
	if (d->tokens[id].data != NULL)
		return fault_set(f, SAKIORI_EFORMAT, "tokens '%.60s' and '%.60s' both have the id %d",
			d->tokens[id].data, text, id);
	d->tokens[id] = (struct gguf_text){text, strlen(text)};
	return 0;
}

/* Added tokens come into the vocabulary where the model does not have them, under the same id where it does. */
static int place_added(struct draft *d, const json_t *vocabulary, const json_t *added, struct fault *f)
{
	const json_t *token;
	size_t i;
	json_array_foreach(added, i, token)
	{
		const char *text = json_string_value(json_object_get(token, "content"));
		int32_t id = (int32_t)json_integer_value(json_object_get(token, "id"));
		const json_t *known = json_object_get(vocabulary, text);
		bool special;
		int rc = optional_flag(token, "special", &special, f);
		if (rc == 0 && known != NULL && json_integer_value(known) != id)
			rc = fault_set(f, SAKIORI_EFORMAT, "it has the id %d, but %lld in the vocabulary", id,
				(long long)json_integer_value(known));
		if (rc == 0 && known == NULL)
			rc = place(d, id, text, f);
		if (rc != 0)
			return fault_wrap(f, "added token '%.60s'", text);
		d->types[id] = special ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
	}
	return 0;
}

static int read_vocabulary(struct draft *d, const json_t *added, struct fault *f)
{
	const json_t *vocabulary;
	int rc = json_want_object(d->model, "vocab", &vocabulary, f);
	if (rc == 0)
		rc = count_ids(d, vocabulary, added, f);
	if (rc != 0)
		return rc;
	d->tokens = must_calloc(d->count, sizeof *d->tokens);
	d->types = must_calloc(d->count, sizeof *d->types);
	const char *text;
	json_t *value;
	json_object_foreach((json_t *)vocabulary, text, value)
	{
		uint8_t byte;
		int32_t id = (int32_t)json_integer_value(value);
		rc = place(d, id, text, f);
		if (rc != 0)
			return rc;
		d->types[id] = decoder_byte(text, strlen(text), &byte) ? TOKEN_BYTE : TOKEN_NORMAL;
	}
	rc = place_added(d, vocabulary, added, f);
	for (size_t i = 0; i < d->count; i++)
		if (d->types[i] == 0)
			d->types[i] = TOKEN_UNUSED;
	return rc;
}

static int read_options(struct draft *d, struct fault *f)
{
	struct tokenizer_model *o = &d->options;
	o->unknown = -1;
	int rc = optional_flag(d->model, "byte_fallback", &o->byte_fallback, f);
	if (rc == 0)
		rc = optional_flag(d->model, "ignore_merges", &o->whole_words, f);
	if (rc == 0)
		rc = optional_flag(d->model, "fuse_unk", &o->fuse_unknown, f);
	const char *unknown;
	if (rc != 0 || !json_is_set(d->model, "unk_token"))
		return rc;
	rc = json_want_text(d->model, "unk_token", &unknown, f);
	if (rc == 0 && *unknown != '\0') {
		o->unknown = vocabulary_index_find(&d->index, unknown, strlen(unknown));
		if (o->unknown < 0)
			rc = fault_set(
				f, SAKIORI_EFORMAT, "the unknown token '%.60s' is not in the vocabulary", unknown);
	}
	return rc;
}

/* "left right" or ["left", "right"]; false for anything else. */
static bool cut_merge(const json_t *merge, struct text_span *left, struct text_span *right)
{
	const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
	if (json_is_string(a) && json_is_string(b) && json_array_size(merge) == 2) {
		*left = (struct text_span){json_string_value(a), json_string_length(a)};
		*right = (struct text_span){json_string_value(b), json_string_length(b)};
		return true;
	}
	const char *text = json_string_value(merge), *space = text != NULL ? strchr(text, ' ') : NULL;
	if (space == NULL || strchr(space + 1, ' ') != NULL)
		return false;
	*left = (struct text_span){text, (size_t)(space - text)};
	*right = (struct text_span){space + 1, strlen(space + 1)};
	return true;
}

static int read_merges(struct draft *d, struct tokenizer *t, const json_t *merges, struct fault *f)
{
	const json_t *merge;
	size_t i;
	json_array_foreach(merges, i, merge)
	{
		struct text_span left, right;
		if (!cut_merge(merge, &left, &right) ||
			tokenizer_add_merge(t, &d->index, left, right, (uint32_t)i) != 0)
			return fault_set(f, SAKIORI_EFORMAT,
				"merge %zu is not two known tokens whose union is a known token", i);
	}
	return 0;
}

static int read_added_tokens(struct draft *d, struct tokenizer *t, const json_t *added, struct fault *f)
{
	struct regex_scratch *regex = regex_scratch_new();
	const json_t *token;
	size_t i;
	int rc = 0;
	json_array_foreach(added, i, token)
	{
		const char *text = json_string_value(json_object_get(token, "content"));
		struct added_token a = {.id = (int32_t)json_integer_value(json_object_get(token, "id"))};
		bool normalized = false;
		a.special = d->types[a.id] == TOKEN_CONTROL;
		rc = optional_flag(token, "lstrip", &a.left, f);
		if (rc == 0)
			rc = optional_flag(token, "rstrip", &a.right, f);
		if (rc == 0)
			rc = optional_flag(token, "single_word", &a.single_word, f);
		if (rc == 0)
			rc = optional_flag(token, "normalized", &normalized, f);
		if (rc == 0 && *text != '\0') /* Hugging Face passes over an empty one too */
			rc = tokenizer_add_token(t, (struct text_span){text, strlen(text)}, a, normalized, regex, f);
		if (rc != 0) {
			fault_wrap(f, "added token '%.60s'", text);
			break;
		}
	}
	regex_scratch_free(regex);
	return rc;
}

/* TemplateProcessing: the tokens before and after a text alone. */
static int read_template(const json_t *processor, size_t count, int32_t *before, int32_t *after, struct fault *f)
{
	const json_t *single, *specials, *part;
	size_t i;
	bool text = false;
	int rc = json_want_array(processor, "single", &single, f);
	if (rc == 0)
		rc = json_want_object(processor, "special_tokens", &specials, f);
	if (rc != 0)
		return rc;
	json_array_foreach(single, i, part)
	{
		if (json_is_set(part, "Sequence")) {
			text = true;
			continue;
		}
		const char *name = json_string_value(json_object_get(json_object_get(part, "SpecialToken"), "id"));
		const json_t *ids = name != NULL ? json_object_get(json_object_get(specials, name), "ids") : NULL;
		int32_t *place_of = text ? after : before;
		if (json_array_size(ids) != 1 || *place_of >= 0)
			return fault_set(
				f, SAKIORI_EUNSUPPORTED, "more than one token before or after a text is not supported");
		rc = read_id(json_array_get(ids, 0), name, place_of, f);
		if (rc != 0)
			return rc;
		if ((size_t)*place_of >= count)
			return fault_set(f, SAKIORI_EFORMAT, "token '%.60s' has the id %d, but there are %zu tokens",
				name, *place_of, count);
	}
	return 0;
}

static int read_post_processor(const json_t *processor, size_t count, int32_t *before, int32_t *after, struct fault *f)
{
	const char *type;
	if (processor == NULL || json_is_null(processor))
		return 0;
	int rc = json_want_text(processor, "type", &type, f);
	if (rc != 0 || strcmp(type, "ByteLevel") == 0) /* it moves offsets alone */
		return rc;
	if (strcmp(type, "TemplateProcessing") == 0)
		return read_template(processor, count, before, after, f);
	if (strcmp(type, "Sequence") != 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED, "'%.40s' is not supported", type);
	const json_t *parts, *part;
	size_t i;
	rc = json_want_array(processor, "processors", &parts, f);
	json_array_foreach(rc == 0 ? parts : NULL, i, part)
	{
		rc = read_post_processor(part, count, before, after, f);
		if (rc != 0)
			break;
	}
	return rc;
}

/* A name of tokenizer_config.json, "..." or {"content": "..."}, as an id: -1 when it is not set. Padding may be a token
 * that is not there: no text is written with it. */
static int read_named(
	const struct draft *d, const json_t *config, const char *key, bool padding, int32_t *out, struct fault *f)
{
	*out = -1;
	const json_t *value = json_object_get(config, key);
	if (value == NULL || json_is_null(value))
		return 0;
	const char *name = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
	if (name == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "\"%s\" is %s, expected a string", key, json_kind(value));
	*out = vocabulary_index_find(&d->index, name, strlen(name));
	/* transformers would add a token that the tokenizer lacks, beyond the model's embeddings */
	return *out >= 0 || padding ? 0
				    : fault_set(f, SAKIORI_EFORMAT,
					      "\"%s\" is '%.60s', which is no token of tokenizer.json", key, name);
}

static int read_ends(const struct draft *d, struct tokenizer *t, const json_t *config, struct fault *f)
{
	int32_t bos, unused;
	int rc = read_post_processor(json_object_get(d->root, "post_processor"), d->count, &t->bos, &t->added_eos, f);
	if (rc != 0)
		return fault_wrap(f, "post_processor");
	rc = read_named(d, config, "bos_token", false, &bos, f);
	t->bos_name = rc == 0 && bos >= 0 ? bos : t->bos;
	if (rc == 0)
		rc = read_named(d, config, "eos_token", false, &t->eos, f);
	if (rc == 0)
		rc = read_named(d, config, "pad_token", true, &unused, f);
	if (rc == 0)
		rc = read_named(d, config, "unk_token", false, &unused, f);
	/* transformers then makes a template of its own, which has no token that is not named */
	if (rc == 0 && (json_is_set(config, "add_bos_token") || json_is_set(config, "add_eos_token"))) {
		bool add_bos, add_eos = false;
		rc = optional_flag(config, "add_bos_token", &add_bos, f);
		if (rc == 0)
			rc = optional_flag(config, "add_eos_token", &add_eos, f);
		t->bos = add_bos ? bos : -1;
		t->added_eos = add_eos ? t->eos : -1;
	}
	return rc != 0 ? fault_wrap(f, "tokenizer_config.json") : 0;
}

static int build(struct draft *d, struct tokenizer *t, const json_t *merges, const json_t *added, struct fault *f)
{
	int rc = read_options(d, f);
	if (rc == 0)
		rc = pipeline_read_normalizer(t, json_object_get(d->root, "normalizer"), f);
	if (rc == 0)
		rc = pipeline_read_pre_tokenizer(
			t, json_object_get(d->root, "pre_tokenizer"), &d->options.byte_level, f);
	if (rc == 0)
		rc = pipeline_read_decoder(t, json_object_get(d->root, "decoder"), f);
	if (rc == 0)
		rc = tokenizer_set_tokens(t, d->tokens, d->types, d->count, f);
	if (rc != 0)
		return rc;
	tokenizer_set_symbols(t, &d->options, &d->index);
	rc = read_merges(d, t, merges, f);
	return rc == 0 ? read_added_tokens(d, t, added, f) : rc;
}

int tokenizer_from_json(struct tokenizer **out, const json_t *root, const json_t *config, struct fault *f)
{
	*out = NULL;
	struct draft d = {.root = root};
	const json_t *merges, *added = json_object_get(root, "added_tokens");
	int rc = json_want_object(root, "model", &d.model, f);
	if (rc == 0)
		rc = check_model(d.model, f);
	if (rc == 0)
		rc = json_want_array(d.model, "merges", &merges, f);
	if (rc == 0 && json_array_size(merges) > VOCABULARY_LIMIT)
		rc = fault_set(f, SAKIORI_ELIMIT, "%zu merges; at most %d are supported", json_array_size(merges),
			VOCABULARY_LIMIT);
	if (rc == 0)
		rc = read_vocabulary(&d, added, f);
	if (rc == 0) {
		struct tokenizer *t = tokenizer_alloc(json_array_size(merges));
		vocabulary_index_init(&d.index, d.tokens, d.count);
		rc = build(&d, t, merges, added, f);
		if (rc == 0)
			rc = read_ends(&d, t, config, f);
		vocabulary_index_fini(&d.index);
		if (rc == 0)
			*out = t;
		else
			tokenizer_free(t);
	}
	free(d.tokens);
	free(d.types);
	return rc;
}
