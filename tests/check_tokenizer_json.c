/* SPDX-License-Identifier: Apache-2.0 */
/* Every family of tokenizers against Hugging Face's, from a tokenizer.json and from GGUF's metadata; folders; refusals. */
#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text/tokenizer_private.h"

static json_t *families;

static void open_families(void)
{
	char path[4096];
	json_error_t error;
	snprintf(path, sizeof path, "%s/tests/golden/tokenizer_families.json", getenv("SRCDIR"));
	families = json_load_file(path, 0, &error);
	ck_assert_msg(families != NULL, "%s: %s", path, error.text);
}

static void close_families(void)
{
	json_decref(families);
}

static void assert_ids(
	const struct tokenizer *t, struct tokenizer_scratch *s, const json_t *row, bool special, const char *family)
{
	const json_t *text = json_array_get(row, 0), *expected = json_array_get(row, special ? 1 : 2);
	struct token_list list = {0};
	struct fault f = {0};
	if (tokenizer_bos(t) >= 0)
		token_list_add(&list, tokenizer_bos(t));
	ck_assert_msg(tokenizer_encode(t, s, json_string_value(text), json_string_length(text),
			      special ? TOKENIZER_SPECIAL : 0, &list, &f) == 0,
		"%s: %s", family, f.text);
	if (tokenizer_added_eos(t) >= 0)
		token_list_add(&list, tokenizer_added_eos(t));
	bool same = list.count == json_array_size(expected);
	for (size_t i = 0; same && i < list.count; i++)
		same = list.ids[i] == json_integer_value(json_array_get(expected, i));
	ck_assert_msg(same, "%s: other ids than Hugging Face's for: %s", family, json_string_value(text));

	char *back;
	size_t size;
	ck_assert_int_eq(tokenizer_decode(t, list.ids, list.count,
				 TOKENIZER_REPLACE | (special ? TOKENIZER_SPECIAL : 0), &back, &size, NULL),
		0);
	ck_assert_msg(strcmp(back, json_string_value(json_array_get(row, special ? 3 : 4))) == 0,
		"%s: decoded to '%s', not as Hugging Face does: %s", family, back, json_string_value(text));
	free(back);
	token_list_fini(&list);
}

static void assert_family(struct tokenizer *t, const json_t *family)
{
	const char *name = json_string_value(json_object_get(family, "name"));
	struct tokenizer_scratch *s = tokenizer_scratch_new(t);
	const json_t *row;
	size_t i;
	json_array_foreach(json_object_get(family, "rows"), i, row)
	{
		assert_ids(t, s, row, true, name);
		assert_ids(t, s, row, false, name);
	}
	ck_assert_uint_eq(i, 60);
	tokenizer_scratch_free(s);
	tokenizer_free(t);
}

START_TEST(every_family_is_tokenized_as_hugging_face_does_from_its_tokenizer_json)
{
	const json_t *family;
	size_t i;
	json_array_foreach(families, i, family)
	{
		struct tokenizer *t;
		struct fault f = {0};
		ck_assert_msg(tokenizer_from_json(&t, json_object_get(family, "tokenizer"), NULL, &f) == 0, "%s: %s",
			json_string_value(json_object_get(family, "name")), f.text);
		assert_family(t, family);
	}
	ck_assert_uint_eq(i, 9);
}
END_TEST

/* The metadata that a GGUF file of this tokenizer.json has: tokens, types, merges or scores. */
struct metadata {
	struct gguf_text tokens[1024], merges[1024];
	int32_t types[1024];
	float scores[1024];
	char text[1 << 16];
	struct tokenizer_source source;
};

static void fill_metadata(struct metadata *m, const json_t *family)
{
	const json_t *root = json_object_get(family, "tokenizer"), *model = json_object_get(root, "model"), *item;
	const char *pre = json_string_value(json_object_get(family, "pre")), *token;
	bool spm = strcmp(pre, "llama") == 0;
	m->source = (struct tokenizer_source){.model = {spm ? "llama" : "gpt2", spm ? 5 : 4},
		.pre = {pre, strlen(pre)},
		.tokens = m->tokens,
		.token_types = m->types,
		.merges = m->merges,
		.scores = spm ? m->scores : NULL,
		.bos = spm ? 1 : -1,
		.eos = -1,
		.unknown = -1,
		.padding = -1,
		.add_bos = spm,
		.add_space_prefix = spm};
	struct tokenizer_source *s = &m->source;
	json_object_foreach((json_t *)json_object_get(model, "vocab"), token, item)
	{
		size_t id = (size_t)json_integer_value(item);
		ck_assert_uint_lt(id, 1024);
		m->tokens[id] = (struct gguf_text){token, strlen(token)};
		m->types[id] = spm && id >= 3 && id < 259 ? TOKEN_BYTE : TOKEN_NORMAL;
		m->scores[id] = -(float)id;
		s->token_count = id + 1 > s->token_count ? id + 1 : s->token_count;
	}
	size_t i, at = 0;
	json_array_foreach(json_object_get(root, "added_tokens"), i, item)
	{
		size_t id = (size_t)json_integer_value(json_object_get(item, "id"));
		ck_assert_uint_lt(id, 1024);
		token = json_string_value(json_object_get(item, "content"));
		m->tokens[id] = (struct gguf_text){token, strlen(token)};
		m->types[id] = json_is_true(json_object_get(item, "special")) ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
		if (spm && id == 0)
			m->types[id] = TOKEN_UNKNOWN;
		s->token_count = id + 1 > s->token_count ? id + 1 : s->token_count;
		if (strcmp(token, "<|begin_of_text|>") == 0) {
			s->bos = (int32_t)id;
			s->add_bos = true;
		}
	}
	json_array_foreach(spm ? NULL : json_object_get(model, "merges"), i, item)
	{
		int n = snprintf(m->text + at, sizeof m->text - at, "%s %s", json_string_value(json_array_get(item, 0)),
			json_string_value(json_array_get(item, 1)));
		ck_assert(i < 1024 && (size_t)n < sizeof m->text - at);
		m->merges[s->merge_count++] = (struct gguf_text){m->text + at, (size_t)n};
		at += (size_t)n;
	}
}

START_TEST(every_family_that_gguf_names_is_tokenized_the_same_from_its_metadata)
{
	struct metadata *m = calloc(1, sizeof *m);
	const json_t *family;
	size_t i, tried = 0;
	json_array_foreach(families, i, family)
	{
		if (json_is_null(json_object_get(family, "pre")))
			continue;
		struct tokenizer *t;
		struct fault f = {0};
		fill_metadata(m, family);
		ck_assert_msg(tokenizer_new(&t, &m->source, &f) == 0, "%s: %s",
			json_string_value(json_object_get(family, "pre")), f.text);
		assert_family(t, family);
		tried++;
	}
	ck_assert_uint_eq(tried, 5);
	free(m);
}
END_TEST

/* JSON with ' for ", which is easier to read in C */
static json_t *parse(const char *text)
{
	char quoted[1 << 13];
	snprintf(quoted, sizeof quoted, "%s", text);
	for (char *p = quoted; *p != '\0'; p++)
		*p = *p == '\'' ? '"' : *p;
	json_t *value = json_loads(quoted, JSON_DECODE_ANY, NULL);
	ck_assert_msg(value != NULL, "%s", quoted);
	return value;
}

/* A tokenizer.json with `text` in place of one part; vocabulary a, b, ab, <0x41>, <s>. */
static int load(const char *part, const char *text, const char *config, struct tokenizer **t, struct fault *f)
{
	static const char whole[] = "{'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2,'<0x41>':3},'merges':['a b']},"
				    "'added_tokens':[{'id':4,'content':'<s>','special':true}],"
				    "'decoder':{'type':'ByteLevel'}}";
	json_t *root = parse(whole);
	if (part != NULL) {
		bool of_model = strncmp(part, "model.", 6) == 0;
		json_object_set_new(
			of_model ? json_object_get(root, "model") : root, part + (of_model ? 6 : 0), parse(text));
	}
	json_t *settings = config != NULL ? json_loads(config, 0, NULL) : NULL;
	int rc = tokenizer_from_json(t, root, settings, f);
	json_decref(settings);
	json_decref(root);
	return rc;
}

START_TEST(what_is_not_supported_or_wrong_is_refused_by_name)
{
	static const struct {
		const char *part, *text;
		int code;
		const char *named;
	} wrong[] = {
		{"model", "{'type':'WordPiece','vocab':{},'merges':[]}", SAKIORI_EUNSUPPORTED, "WordPiece"},
		{"model", "{'type':'Unigram','vocab':[]}", SAKIORI_EUNSUPPORTED, "Unigram"},
		{"model", "{'type':'WordLevel','vocab':{}}", SAKIORI_EUNSUPPORTED, "WordLevel"},
		{"model", "{'vocab':{}}", SAKIORI_EFORMAT, "merges"},
		{"model", "[]", SAKIORI_EFORMAT, "model"},
		{"model.dropout", "0.1", SAKIORI_EUNSUPPORTED, "dropout"},
		{"model.continuing_subword_prefix", "'##'", SAKIORI_EUNSUPPORTED, "continuing_subword_prefix"},
		{"model.end_of_word_suffix", "'</w>'", SAKIORI_EUNSUPPORTED, "end_of_word_suffix"},
		{"model.unk_token", "'<unk>'", SAKIORI_EFORMAT, "<unk>"},
		{"model.byte_fallback", "1", SAKIORI_EFORMAT, "byte_fallback"},
		{"model.merges", "['a c']", SAKIORI_EFORMAT, "merge 0"},
		{"model.merges", "['a b','b a']", SAKIORI_EFORMAT, "merge 1"},
		{"model.merges", "['a  b']", SAKIORI_EFORMAT, "merge 0"},
		{"model.merges", "['ab']", SAKIORI_EFORMAT, "merge 0"},
		{"model.merges", "[['a','b','ab']]", SAKIORI_EFORMAT, "merge 0"},
		{"model.merges", "[['a',1]]", SAKIORI_EFORMAT, "merge 0"},
		{"model.merges", "{}", SAKIORI_EFORMAT, "merges"},
		{"model.vocab", "{'a':0,'b':0,'ab':1}", SAKIORI_EFORMAT, "both"},
		{"model.vocab", "{'a':0,'b':2147483648,'ab':1}", SAKIORI_EFORMAT, "'b'"},
		{"model.vocab", "{'a':0,'b':-1,'ab':1}", SAKIORI_EFORMAT, "'b'"},
		{"model.vocab", "{'a':0,'b':'1','ab':1}", SAKIORI_EFORMAT, "'b'"},
		{"model.vocab", "{}", SAKIORI_EFORMAT, "merge 0"},
		{"added_tokens", "[{'id':0,'content':'<s>'}]", SAKIORI_EFORMAT, "<s>"},
		{"added_tokens", "[{'id':7,'content':'a'}]", SAKIORI_EFORMAT, "'a'"},
		{"added_tokens", "[{'id':7,'content':'x'},{'id':7,'content':'y'}]", SAKIORI_EFORMAT, "both"},
		{"added_tokens", "[{'id':1048576,'content':'x'}]", SAKIORI_EFORMAT, "'x'"},
		{"added_tokens", "[{'content':'x'}]", SAKIORI_EFORMAT, "'x'"},
		{"added_tokens", "[{'id':7}]", SAKIORI_EFORMAT, "content"},
		{"normalizer", "{'type':'BertNormalizer'}", SAKIORI_EUNSUPPORTED, "BertNormalizer"},
		{"normalizer", "{'type':'Precompiled'}", SAKIORI_EUNSUPPORTED, "Precompiled"},
		{"normalizer", "{'type':'Prepend'}", SAKIORI_EFORMAT, "prepend"},
		{"normalizer", "{'type':'Replace','pattern':{},'content':''}", SAKIORI_EFORMAT, "Regex"},
		{"normalizer", "{'type':'Sequence','normalizers':{}}", SAKIORI_EFORMAT, "normalizers"},
		{"normalizer", "'NFC'", SAKIORI_EFORMAT, "type"},
		{"pre_tokenizer", "{'type':'Whitespace'}", SAKIORI_EUNSUPPORTED, "Whitespace"},
		{"pre_tokenizer", "{'type':'Split','pattern':{'Regex':'(a'},'behavior':'Isolated'}",
			SAKIORI_EUNSUPPORTED, "(a"},
		{"pre_tokenizer", "{'type':'Split','pattern':{'Regex':'a'},'behavior':'Torn'}", SAKIORI_EUNSUPPORTED,
			"Torn"},
		{"pre_tokenizer", "{'type':'Sequence','pretokenizers':[{'type':'ByteLevel'},{'type':'Digits'}]}",
			SAKIORI_EUNSUPPORTED, "after ByteLevel"},
		{"pre_tokenizer", "{'type':'Metaspace','replacement':'__'}", SAKIORI_EFORMAT, "replacement"},
		{"decoder", "{'type':'CTC'}", SAKIORI_EUNSUPPORTED, "CTC"},
		{"decoder", "{'type':'Strip','content':' ','start':1,'stop':0}", SAKIORI_EUNSUPPORTED, "after Fuse"},
		{"decoder", "{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'ByteFallback'}]}",
			SAKIORI_EUNSUPPORTED, "order"},
		{"post_processor", "{'type':'RobertaProcessing'}", SAKIORI_EUNSUPPORTED, "RobertaProcessing"},
		{"post_processor",
			"{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>'}},{'SpecialToken':{'id':'<"
			"s>'}}],"
			"'special_tokens':{'<s>':{'ids':[4]}}}",
			SAKIORI_EUNSUPPORTED, "more than one"},
		{"post_processor",
			"{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>'}}],'special_tokens':{'<s>':"
			"{'ids':[99]}}}",
			SAKIORI_EFORMAT, "99"},
	};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct tokenizer *t;
		struct fault f = {0};
		int rc = load(wrong[i].part, wrong[i].text, NULL, &t, &f);
		ck_assert_msg(rc == wrong[i].code, "%s %s: %d, %s", wrong[i].part, wrong[i].text, rc, f.text);
		ck_assert_ptr_null(t);
		ck_assert_msg(
			strstr(f.text, wrong[i].named) != NULL, "'%s' does not name '%s'", f.text, wrong[i].named);
	}
}
END_TEST

static size_t count_tokens(const struct tokenizer *t, const char *text, unsigned flags, int *rc, struct fault *f)
{
	struct tokenizer_scratch *s = tokenizer_scratch_new(t);
	struct token_list list = {0};
	*rc = tokenizer_encode(t, s, text, strlen(text), flags, &list, f);
	size_t count = list.count;
	token_list_fini(&list);
	tokenizer_scratch_free(s);
	return count;
}

START_TEST(a_pattern_that_takes_forever_is_given_up)
{
	struct tokenizer *t;
	struct fault f = {0};
	int rc;
	ck_assert_int_eq(
		load("pre_tokenizer", "{'type':'Split','pattern':{'Regex':'(a|aa|a*)+$'},'behavior':'Isolated'}", NULL,
			&t, &f),
		0);
	count_tokens(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", 0, &rc, &f);
	ck_assert_int_eq(rc, SAKIORI_ELIMIT);
	ck_assert_ptr_nonnull(strstr(f.text, "gave up"));
	tokenizer_free(t);
	ck_assert_int_eq(
		load("normalizer",
			"{'type':'Replace','pattern':{'String':'a'},'content':"
			"'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}",
			NULL, &t, &f),
		0);
	char *text = malloc((1 << 20) + 1);
	memset(text, 'a', 1 << 20);
	text[1 << 20] = '\0';
	count_tokens(t, text, 0, &rc, &f);
	ck_assert_int_eq(rc, SAKIORI_ELIMIT);
	ck_assert_ptr_nonnull(strstr(f.text, "normalized"));
	free(text);
	tokenizer_free(t);
}
END_TEST

START_TEST(no_merge_makes_a_control_token)
{
	struct tokenizer *t;
	struct fault f = {0};
	int rc;
	ck_assert_int_eq(load("added_tokens", "[{'id':2,'content':'ab','special':true}]", NULL, &t, &f), 0);
	ck_assert_uint_eq(count_tokens(t, "ab", 0, &rc, &f), 2);
	ck_assert_uint_eq(count_tokens(t, "ab", TOKENIZER_SPECIAL, &rc, &f), 1);
	tokenizer_free(t);
}
END_TEST

START_TEST(an_overlong_added_token_is_refused)
{
	char text[2048];
	struct tokenizer *t;
	struct fault f = {0};
	snprintf(text, sizeof text, "[{'id':4,'content':'%01100d'}]", 0);
	ck_assert_int_eq(load("added_tokens", text, NULL, &t, &f), SAKIORI_ELIMIT);
	snprintf(text, sizeof text, "[{'id':4,'content':''}]");
	ck_assert_int_eq(load("added_tokens", text, NULL, &t, &f), 0);
	tokenizer_free(t);
}
END_TEST

START_TEST(the_ends_come_from_the_template_and_the_configuration)
{
	static const char template[] =
		"{'type':'Sequence','processors':[{'type':'ByteLevel'},{'type':'TemplateProcessing',"
		"'single':[{'SpecialToken':{'id':'<s>'}},{'Sequence':{'id':'A'}},"
		"{'SpecialToken':{'id':'e'}}],"
		"'special_tokens':{'<s>':{'ids':[4]},'e':{'ids':[1]}}}]}";
	struct tokenizer *t;
	struct fault f = {0};
	static const struct {
		const char *part, *text, *config;
		int32_t bos, eos, added_eos;
	} cases[] = {
		{NULL, NULL, NULL, -1, -1, -1},
		{"post_processor", template, NULL, 4, -1, 1},
		{"post_processor", template, "{\"add_bos_token\":false,\"eos_token\":\"<s>\"}", -1, 4, -1},
		{"post_processor", template, "{\"add_eos_token\":true,\"eos_token\":\"<s>\"}", -1, 4, 4},
		{NULL, NULL, "{\"add_bos_token\":true,\"pad_token\":\"[PAD]\"}", -1, -1, -1},
		{NULL, NULL, "{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"ab\"}", 4, 2,
			-1},
		{NULL, NULL, "{\"bos_token\":\"<s>\",\"eos_token\":null}", -1, -1, -1},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		ck_assert_msg(load(cases[i].part, cases[i].text, cases[i].config, &t, &f) == 0, "%s", f.text);
		ck_assert_int_eq(tokenizer_bos(t), cases[i].bos);
		ck_assert_int_eq(tokenizer_eos(t), cases[i].eos);
		ck_assert_int_eq(tokenizer_added_eos(t), cases[i].added_eos);
		tokenizer_free(t);
	}
	ck_assert_int_eq(load(NULL, NULL, "{\"eos_token\":\"</s>\"}", &t, &f), SAKIORI_EFORMAT);
	ck_assert_ptr_nonnull(strstr(f.text, "</s>"));
	ck_assert_int_eq(load(NULL, NULL, "{\"add_bos_token\":1}", &t, &f), SAKIORI_EFORMAT);
	ck_assert_ptr_nonnull(strstr(f.text, "add_bos_token"));
}
END_TEST

static char folder[64];

static void put(const char *file, const char *text)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", folder, file);
	if (text == NULL) {
		unlink(path);
		return;
	}
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

START_TEST(a_folder_is_read_with_what_stands_beside_the_tokenizer)
{
	struct tokenizer *t;
	struct fault f = {0};
	snprintf(folder, sizeof folder, "/tmp/check_tokenizer_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	ck_assert_int_eq(tokenizer_from_folder(&t, folder, &f), SAKIORI_ENOTFOUND);
	ck_assert_ptr_nonnull(strstr(f.text, "tokenizer.json"));
	put("tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}");
	put("config.json", "{\"eos_token_id\":1}");
	put("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool\",\"template\":\"T\"},"
				     "{\"name\":\"default\",\"template\":\"D\"}]}");
	ck_assert_msg(tokenizer_from_folder(&t, folder, &f) == 0, "%s", f.text);
	ck_assert_int_eq(tokenizer_eos(t), 1);
	ck_assert_str_eq(tokenizer_chat_template(t), "D");
	tokenizer_free(t);
	put("generation_config.json", "{\"eos_token_id\":[0,1]}");
	put("chat_template.jinja", "J");
	ck_assert_msg(tokenizer_from_folder(&t, folder, &f) == 0, "%s", f.text);
	ck_assert_int_eq(tokenizer_eos(t), 0);
	ck_assert_str_eq(tokenizer_chat_template(t), "J");
	tokenizer_free(t);
	put("generation_config.json", "{\"eos_token_id\":2}");
	ck_assert_int_eq(tokenizer_from_folder(&t, folder, &f), SAKIORI_EFORMAT);
	ck_assert_ptr_null(t);
	put("generation_config.json", "{");
	ck_assert_int_eq(tokenizer_from_folder(&t, folder, &f), SAKIORI_EFORMAT);
	ck_assert_ptr_nonnull(strstr(f.text, "generation_config.json:1"));
	put("tokenizer.json", "{\"model\":{\"type\":\"Unigram\"}}");
	ck_assert_int_eq(tokenizer_from_folder(&t, folder, &f), SAKIORI_EUNSUPPORTED);
	static const char *const files[] = {"tokenizer.json", "config.json", "tokenizer_config.json",
		"generation_config.json", "chat_template.jinja"};
	for (size_t i = 0; i < 5; i++)
		put(files[i], NULL);
	ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

/* The matches of a pattern, as "begin-end begin-end"; "!" where it is refused. Expected is what Python's
 * tokenizers.pre_tokenizers.Split(Regex(...)) cuts out. */
START_TEST(patterns_mean_what_oniguruma_means)
{
	static const struct {
		const char *pattern, *text, *matches;
	} cases[] = {
		{"\\s+", "a \xe1\xa0\x8e\xc2\xa0\x62", "1-2 5-7"},
		{"[^\\s\\S]", "a b", ""},
		{"[\\S-]+", "a- b", "0-2 3-4"},
		{"\\w+", "a\xcc\x81_1\xe2\x80\xbf-b", "0-8 9-10"},
		{"\\W", "a-\xc3\xa9", "1-2"},
		{"\\bb", "a b bb", "2-3 4-5"},
		{"\\h+", "xffg", "1-3"},
		{"\\v", "a\x0b\n", "1-2"},
		{"\\u0041", "xA", "1-2"},
		{"^b$", "a\nb\nc", "2-3"},
		{"(?m:a.b)", "a\nb", "0-3"},
		{"a.b", "a\nb", ""},
		{"(?i)SS", "ss", "0-2"},
		{"[a[bc]d]+", "xabcd[", "1-5"},
		{"[^a[b]]", "ab[", "2-3"},
		{"x*", "axb", "0-0 1-2 3-3"},
		{"\\p{Han}", "\xe3\x80\x81\xe4\xb8\x80", "3-6"},
		{"\\p{^L}", "a1", "1-2"},
		{"[a&&b]", "", "!"},
		{"[a[^b]]", "", "!"},
		{"[[:alpha:]]", "", "!"},
		{"a{1,2}+", "", "!"},
		{"a{,2}", "", "!"},
		{"\\xff", "", "!"},
		{"[\\W]", "", "!"},
		{"(*UTF)a", "", "!"},
		{"(?R)", "", "!"},
		{"(?C1)a", "", "!"},
		{"\\C", "", "!"},
		{"\\K", "", "!"},
		{"(", "", "!"},
		{"\\", "", "!"},
		{"[", "", "!"},
		{"a\xff", "", "!"},
	};
	struct regex_scratch *s = regex_scratch_new();
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct regex *r;
		struct fault f = {0};
		char found[256] = "!";
		if (regex_new(&r, cases[i].pattern, strlen(cases[i].pattern), false, &f) == 0) {
			struct regex_match m = {0};
			size_t at = 0;
			found[0] = '\0';
			while (regex_next(r, s, cases[i].text, strlen(cases[i].text), &m, &f) > 0)
				at += (size_t)snprintf(
					found + at, sizeof found - at, "%s%zu-%zu", at > 0 ? " " : "", m.begin, m.end);
			regex_free(r);
		}
		ck_assert_msg(strcmp(found, cases[i].matches) == 0, "%s on '%s': %s, expected %s", cases[i].pattern,
			cases[i].text, found, cases[i].matches);
	}
	regex_scratch_free(s);
}
END_TEST

/* Millions of marks in the worst order, which a sort by exchanges would not finish; a long run of blanks and letters. */
START_TEST(long_runs_take_bounded_time)
{
	static const char *const units[] = {"\xcc\x81\xcc\xa3", " ", "a", "\xe1\x84\x80", "e\xcc\x81"};
	const json_t *family;
	size_t i;
	json_array_foreach(families, i, family)
	{
		struct tokenizer *t;
		struct fault f = {0};
		int rc;
		ck_assert_int_eq(tokenizer_from_json(&t, json_object_get(family, "tokenizer"), NULL, &f), 0);
		for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
			size_t unit = strlen(units[u]), size = unit * (400000 / unit);
			char *text = calloc(size + 1, 1);
			for (size_t k = 0; k < size; k++)
				text[k] = units[u][k % unit];
			count_tokens(t, text, 0, &rc, &f);
			ck_assert_msg(rc == 0, "%s", f.text);
			free(text);
		}
		tokenizer_free(t);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tokenizer_json");
	TCase *c = tcase_create("families");
	tcase_add_checked_fixture(c, open_families, close_families);
	tcase_set_timeout(c, 120);
	tcase_add_test(c, every_family_is_tokenized_as_hugging_face_does_from_its_tokenizer_json);
	tcase_add_test(c, every_family_that_gguf_names_is_tokenized_the_same_from_its_metadata);
	tcase_add_test(c, long_runs_take_bounded_time);
	suite_add_tcase(suite, c);
	c = tcase_create("made up");
	tcase_set_timeout(c, 60);
	tcase_add_test(c, what_is_not_supported_or_wrong_is_refused_by_name);
	tcase_add_test(c, a_pattern_that_takes_forever_is_given_up);
	tcase_add_test(c, no_merge_makes_a_control_token);
	tcase_add_test(c, an_overlong_added_token_is_refused);
	tcase_add_test(c, the_ends_come_from_the_template_and_the_configuration);
	tcase_add_test(c, a_folder_is_read_with_what_stands_beside_the_tokenizer);
	tcase_add_test(c, patterns_mean_what_oniguruma_means);
	suite_add_tcase(suite, c);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
