/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json's normalizer, pre_tokenizer and decoder -> steps. */
#include <string.h>

#include "formats/json.h"
#include "text/tokenizer_private.h"
#include "text/utf8.h"

/* A kind of step: its name in the file, and what reads it. */
struct kind {
	const char *name;
	int (*read)(struct tokenizer *t, const json_t *step, void *state, struct fault *f);
};

/* Calls the reader of a step by its "type", in a Sequence of each of its parts; they may lie inside one another, no
 * deeper than json_parse allows. */
static int read_step(struct tokenizer *t, const json_t *step, const struct kind *kinds, const char *parts,
	const char *what, void *state, struct fault *f)
{
	const char *type;
	if (step == NULL || json_is_null(step))
		return 0;
	int rc = json_want_text(step, "type", &type, f);
	if (rc != 0)
		return fault_wrap(f, "%s", what);
	if (strcmp(type, "Sequence") == 0) {
		const json_t *list, *part;
		size_t i;
		rc = json_want_array(step, parts, &list, f);
		if (rc != 0)
			return fault_wrap(f, "%s Sequence", what);
		json_array_foreach(list, i, part)
		{
			rc = read_step(t, part, kinds, parts, what, state, f);
			if (rc != 0)
				return rc;
		}
		return 0;
	}
	for (const struct kind *k = kinds; k->name != NULL; k++) {
		if (strcmp(type, k->name) != 0)
			continue;
		rc = k->read(t, step, state, f);
		return rc != 0 ? fault_wrap(f, "%s %s", what, type) : 0;
	}
	return fault_set(f, SAKIORI_EUNSUPPORTED, "%s '%.40s' is not supported", what, type);
}

/* A boolean that may be left out. */
static int optional_boolean(const json_t *object, const char *key, bool *out, struct fault *f)
{
	return json_is_set(object, key) ? json_want_boolean(object, key, out, f) : 0;
}

/* "pattern": {"String": "..."} or {"Regex": "..."} */
static int read_pattern(const json_t *step, struct regex **out, struct fault *f)
{
	const json_t *pattern;
	int rc = json_want_object(step, "pattern", &pattern, f);
	if (rc != 0)
		return rc;
	bool literal = json_is_set(pattern, "String");
	const char *text;
	rc = json_want_text(pattern, literal ? "String" : "Regex", &text, f);
	return rc == 0 ? regex_new(out, text, strlen(text), literal, f) : fault_wrap(f, "\"pattern\"");
}

static int read_replace(struct normalizers *n, const json_t *step, struct fault *f)
{
	const char *content;
	struct regex *pattern;
	int rc = json_want_text(step, "content", &content, f);
	if (rc == 0)
		rc = read_pattern(step, &pattern, f);
	return rc == 0 ? normalizers_add(n, NORMALIZE_REPLACE, pattern, content, strlen(content), f) : rc;
}

static int normalizer_simple(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	(void)state;
	static const struct {
		const char *name;
		enum normalizer_kind kind;
	} kinds[] = {{"NFC", NORMALIZE_NFC}, {"NFD", NORMALIZE_NFD}, {"NFKC", NORMALIZE_NFKC}, {"NFKD", NORMALIZE_NFKD},
		{"Lowercase", NORMALIZE_LOWERCASE}};
	const char *type = json_string_value(json_object_get(step, "type"));
	size_t i = 0;
	while (strcmp(kinds[i].name, type) != 0)
		i++; /* the caller's table has no other names */
	return normalizers_add(&t->normalizers, kinds[i].kind, NULL, NULL, 0, f);
}

static int normalizer_strip(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	(void)state;
	bool left = true, right = true;
	int rc = optional_boolean(step, "strip_left", &left, f);
	if (rc == 0)
		rc = optional_boolean(step, "strip_right", &right, f);
	return rc == 0 ? normalizers_add_strip(&t->normalizers, left, right, f) : rc;
}

static int normalizer_prepend(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	(void)state;
	const char *prepend;
	int rc = json_want_text(step, "prepend", &prepend, f);
	return rc == 0 ? normalizers_add(&t->normalizers, NORMALIZE_PREPEND, NULL, prepend, strlen(prepend), f) : rc;
}

static int normalizer_replace(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	(void)state;
	return read_replace(&t->normalizers, step, f);
}

int pipeline_read_normalizer(struct tokenizer *t, const json_t *normalizer, struct fault *f)
{
	static const struct kind kinds[] = {{"NFC", normalizer_simple}, {"NFD", normalizer_simple},
		{"NFKC", normalizer_simple}, {"NFKD", normalizer_simple}, {"Lowercase", normalizer_simple},
		{"Strip", normalizer_strip}, {"Prepend", normalizer_prepend}, {"Replace", normalizer_replace}, {0}};
	return read_step(t, normalizer, kinds, "normalizers", "normalizer", NULL, f);
}

/* After ByteLevel words are no longer text: nothing may cut them further. */
static int check_text(const bool *byte_level, struct fault *f)
{
	return *byte_level ? fault_set(f, SAKIORI_EUNSUPPORTED, "a step after ByteLevel is not supported") : 0;
}

static int split_pattern(struct tokenizer *t, const json_t *step, void *byte_level, struct fault *f)
{
	static const char *const behaviors[] = {
		[SPLIT_ISOLATED] = "Isolated",
		[SPLIT_REMOVED] = "Removed",
		[SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
		[SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
		[SPLIT_CONTIGUOUS] = "Contiguous",
	};
	enum { COUNT = sizeof behaviors / sizeof behaviors[0] };
	const char *name;
	bool invert = false;
	struct regex *pattern;
	int rc = check_text(byte_level, f);
	if (rc == 0)
		rc = json_want_text(step, "behavior", &name, f);
	if (rc == 0)
		rc = optional_boolean(step, "invert", &invert, f);
	size_t behavior = 0;
	while (rc == 0 && behavior < COUNT && strcmp(behaviors[behavior], name) != 0)
		behavior++;
	if (rc == 0 && behavior == COUNT)
		rc = fault_set(f, SAKIORI_EUNSUPPORTED, "behavior '%.40s' is not known", name);
	if (rc == 0)
		rc = read_pattern(step, &pattern, f);
	return rc == 0 ? splits_add_pattern(&t->splits, pattern, (enum split_behavior)behavior, invert, f) : rc;
}

static int split_digits(struct tokenizer *t, const json_t *step, void *byte_level, struct fault *f)
{
	bool individual = false;
	int rc = check_text(byte_level, f);
	if (rc == 0)
		rc = optional_boolean(step, "individual_digits", &individual, f);
	if (rc != 0)
		return rc;
	return tokenizer_split(t, "\\p{N}", 5, false, individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false, f);
}

static int split_byte_level(struct tokenizer *t, const json_t *step, void *byte_level, struct fault *f)
{
	bool prefix = true, pattern = true;
	int rc = check_text(byte_level, f);
	if (rc == 0)
		rc = optional_boolean(step, "add_prefix_space", &prefix, f);
	if (rc == 0)
		rc = optional_boolean(step, "use_regex", &pattern, f);
	if (rc == 0 && prefix)
		rc = splits_add_prefix(&t->splits, false, " ", f);
	if (rc == 0 && pattern)
		rc = tokenizer_split(
			t, TOKENIZER_GPT2_PATTERN, strlen(TOKENIZER_GPT2_PATTERN), false, SPLIT_ISOLATED, false, f);
	*(bool *)byte_level = true;
	return rc;
}

/* Metaspace, which is a pre-tokenizer and a decoder: its one character, and "always", "first" or "never" a prefix. */
static int read_metaspace(const json_t *step, const char **replacement, const char **scheme, struct fault *f)
{
	bool prefix = true;
	*scheme = NULL;
	int rc = json_want_text(step, "replacement", replacement, f);
	if (rc == 0)
		rc = optional_boolean(step, "add_prefix_space", &prefix, f); /* what older files say */
	if (rc == 0 && json_is_set(step, "prepend_scheme"))
		rc = json_want_text(step, "prepend_scheme", scheme, f);
	if (rc != 0)
		return rc;
	if (*scheme == NULL)
		*scheme = prefix ? "always" : "never";
	if (strcmp(*scheme, "always") != 0 && strcmp(*scheme, "first") != 0 && strcmp(*scheme, "never") != 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED, "prepend_scheme '%.40s' is not known", *scheme);
	size_t n = 0;
	if (**replacement != '\0')
		utf8_decode(*replacement, &n);
	if (n == 0 || n != strlen(*replacement))
		return fault_set(f, SAKIORI_EFORMAT, "\"replacement\" is not one character");
	return 0;
}

static int split_metaspace(struct tokenizer *t, const json_t *step, void *byte_level, struct fault *f)
{
	const char *replacement, *scheme;
	bool split = true;
	struct regex *blank;
	int rc = check_text(byte_level, f);
	if (rc == 0)
		rc = read_metaspace(step, &replacement, &scheme, f);
	if (rc == 0)
		rc = optional_boolean(step, "split", &split, f);
	if (rc == 0)
		rc = regex_new(&blank, " ", 1, true, f);
	if (rc == 0)
		rc = splits_add_replace(&t->splits, blank, replacement, f);
	if (rc == 0 && strcmp(scheme, "never") != 0)
		rc = splits_add_prefix(&t->splits, strcmp(scheme, "first") == 0, replacement, f);
	if (rc == 0 && split)
		rc = tokenizer_split(t, replacement, strlen(replacement), true, SPLIT_MERGED_WITH_NEXT, false, f);
	return rc;
}

int pipeline_read_pre_tokenizer(struct tokenizer *t, const json_t *pre_tokenizer, bool *byte_level, struct fault *f)
{
	static const struct kind kinds[] = {{"Split", split_pattern}, {"Digits", split_digits},
		{"ByteLevel", split_byte_level}, {"Metaspace", split_metaspace}, {0}};
	return read_step(t, pre_tokenizer, kinds, "pretokenizers", "pre-tokenizer", byte_level, f);
}

/* The steps of a decoder that may follow one another: each begins at its own stage and moves on to it. */
enum decoder_stage { STAGE_REPLACE, STAGE_BYTES, STAGE_FUSED, STAGE_STRIPPED, STAGE_ALONE };

static int enter_stage(void *state, enum decoder_stage last_allowed, enum decoder_stage next, struct fault *f)
{
	enum decoder_stage *stage = state;
	if (*stage > last_allowed)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"in this place of the Sequence it is not supported; the order is "
			"Replace, ByteFallback, Fuse, Strip");
	*stage = next;
	return 0;
}

static int decoder_byte_level(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	(void)step;
	t->decoder.byte_level = true;
	return enter_stage(state, STAGE_REPLACE, STAGE_ALONE, f);
}

static int decoder_replace(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	int rc = enter_stage(state, STAGE_REPLACE, STAGE_REPLACE, f);
	return rc == 0 ? read_replace(&t->decoder.changes, step, f) : rc;
}

static int decoder_byte_fallback(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	(void)step;
	t->decoder.byte_fallback = true;
	return enter_stage(state, STAGE_REPLACE, STAGE_BYTES, f);
}

static int decoder_fuse(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	(void)t;
	(void)step;
	return enter_stage(state, STAGE_BYTES, STAGE_FUSED, f);
}

static int decoder_strip(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	struct decoder *d = &t->decoder;
	const char *content = "";
	int64_t left = 0, right = 0;
	int rc = *(enum decoder_stage *)state == STAGE_FUSED
			 ? enter_stage(state, STAGE_FUSED, STAGE_STRIPPED, f)
			 : fault_set(f, SAKIORI_EUNSUPPORTED, "it is only supported after Fuse");
	if (rc == 0)
		rc = json_want_text(step, "content", &content, f);
	if (rc == 0)
		rc = json_want_integer(step, "start", 0, TOKENIZER_MAX_TEXT, &left, f);
	if (rc == 0)
		rc = json_want_integer(step, "stop", 0, TOKENIZER_MAX_TEXT, &right, f);
	if (rc == 0 && *content != '\0')
		utf8_decode(content, &d->strip_size);
	if (rc == 0 && (*content == '\0' || strlen(content) != d->strip_size))
		rc = fault_set(f, SAKIORI_EFORMAT, "\"content\" is not one character");
	if (rc == 0) {
		memcpy(d->strip, content, d->strip_size);
		d->strip_left = (size_t)left;
		d->strip_right = (size_t)right;
	}
	return rc;
}

static int decoder_metaspace(struct tokenizer *t, const json_t *step, void *state, struct fault *f)
{
	const char *replacement, *scheme;
	struct regex *pattern;
	int rc = enter_stage(state, STAGE_REPLACE, STAGE_ALONE, f);
	if (rc == 0)
		rc = read_metaspace(step, &replacement, &scheme, f);
	if (rc == 0)
		rc = regex_new(&pattern, replacement, strlen(replacement), true, f);
	if (rc == 0)
		rc = normalizers_add(&t->decoder.changes, NORMALIZE_REPLACE, pattern, " ", 1, f);
	t->decoder.drop_first_spaces = rc == 0 && strcmp(scheme, "never") != 0;
	return rc;
}

int pipeline_read_decoder(struct tokenizer *t, const json_t *decoder, struct fault *f)
{
	static const struct kind kinds[] = {{"ByteLevel", decoder_byte_level}, {"Replace", decoder_replace},
		{"ByteFallback", decoder_byte_fallback}, {"Fuse", decoder_fuse}, {"Strip", decoder_strip},
		{"Metaspace", decoder_metaspace}, {0}};
	enum decoder_stage stage = STAGE_REPLACE;
	t->decoder.spaced = decoder == NULL || json_is_null(decoder);
	return read_step(t, decoder, kinds, "decoders", "decoder", &stage, f);
}
