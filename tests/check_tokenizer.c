/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"
#include "text/tokenizer.h"

static struct tokenizer *tiny;
static struct tokenizer_scratch *scratch;
static json_t *golden;

static void open_tiny(void)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/tests/golden/tiny.gguf", getenv("SRCDIR"));
	struct gguf *g;
	struct fault f = {0};
	ck_assert_msg(gguf_open(path, &g, &f) == 0, "%s", f.text);
	ck_assert_msg(tokenizer_from_gguf(&tiny, g, &f) == 0, "%s", f.text);
	gguf_close(g);
	scratch = tokenizer_scratch_new(tiny);
	snprintf(path, sizeof path, "%s/tests/golden/tokenizer_golden.json", getenv("SRCDIR"));
	golden = json_load_file(path, 0, NULL);
	ck_assert_ptr_nonnull(golden);
}

static void close_tiny(void)
{
	json_decref(golden);
	tokenizer_scratch_free(scratch);
	tokenizer_free(tiny);
}

static void encode(const char *text, size_t size, unsigned flags, struct token_list *out)
{
	struct fault f = {0};
	out->count = 0;
	ck_assert_msg(tokenizer_encode(tiny, scratch, text, size, flags, out, &f) == 0, "%s", f.text);
}

static void assert_ids(const struct token_list *found, const json_t *expected, const char *text)
{
	bool same = found->count == json_array_size(expected);
	for (size_t i = 0; same && i < found->count; i++)
		same = found->ids[i] == json_integer_value(json_array_get(expected, i));
	ck_assert_msg(same, "other ids than Hugging Face's for: %s", text);
}

START_TEST(strings_are_tokenized_as_hugging_face_does)
{
	struct token_list list = {0};
	const json_t *row;
	size_t i;
	json_array_foreach(json_object_get(golden, "strings"), i, row)
	{
		const json_t *text = json_array_get(row, 0), *plain = json_array_get(row, 1);
		const json_t *special = json_array_size(row) > 2 ? json_array_get(row, 2) : plain;
		encode(json_string_value(text), json_string_length(text), 0, &list);
		assert_ids(&list, plain, json_string_value(text));
		encode(json_string_value(text), json_string_length(text), TOKENIZER_SPECIAL, &list);
		assert_ids(&list, special, json_string_value(text));
	}
	ck_assert_uint_eq(i, 200);
	token_list_fini(&list);
}
END_TEST

START_TEST(a_text_comes_back_from_its_tokens)
{
	struct token_list list = {0};
	const json_t *row;
	size_t i;
	json_array_foreach(json_object_get(golden, "strings"), i, row)
	{
		const json_t *text = json_array_get(row, 0);
		encode(json_string_value(text), json_string_length(text), i % 2 ? TOKENIZER_SPECIAL : 0, &list);
		char *back;
		size_t size;
		ck_assert_int_eq(
			tokenizer_decode(tiny, list.ids, list.count, TOKENIZER_SPECIAL, &back, &size, NULL), 0);
		ck_assert_uint_eq(size, json_string_length(text));
		ck_assert_int_eq(memcmp(back, json_string_value(text), size + 1), 0);
		free(back);
	}
	token_list_fini(&list);
}
END_TEST

START_TEST(the_name_of_a_control_token_in_a_row_is_ordinary_text)
{
	static const char text[] = "a<|im_end|>b";
	struct token_list list = {0};
	encode(text, strlen(text), 0, &list);
	ck_assert_uint_gt(list.count, 3);
	for (size_t i = 0; i < list.count; i++)
		ck_assert(!tokenizer_is_control(tiny, list.ids[i]));
	encode(text, strlen(text), TOKENIZER_SPECIAL, &list);
	ck_assert_uint_eq(list.count, 3);
	ck_assert_int_eq(list.ids[1], tokenizer_special(tiny, "<|im_end|>"));
	char *back;
	size_t size;
	ck_assert_int_eq(tokenizer_decode(tiny, list.ids, 3, 0, &back, &size, NULL), 0);
	ck_assert_str_eq(back, "ab");
	free(back);
	token_list_fini(&list);
}
END_TEST

START_TEST(text_that_is_not_utf8_is_refused_with_its_offset)
{
	static const struct {
		const char *text;
		size_t size;
		const char *offset;
	} wrong[] = {
		{"ab\xff", 3, "byte 2 "},
		{"\xc0\x80", 2, "byte 0 "},
		{"a\xed\xa0\x80", 4, "byte 1 "},
		{"\xf4\x90\x80\x80", 4, "byte 0 "},
		{"abc\xe2\x82", 5, "byte 3 "},
		{"\xe0\x80\x80", 3, "byte 0 "},
		{"\x80", 1, "byte 0 "},
		{"\xf0\x8f\xbf\xbf", 4, "byte 0 "},
		{"\xc3(", 2, "byte 0 "},
	};
	struct token_list list = {0};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct fault f = {0};
		ck_assert_int_eq(
			tokenizer_encode(tiny, scratch, wrong[i].text, wrong[i].size, 0, &list, &f), SAKIORI_EFORMAT);
		ck_assert_ptr_nonnull(strstr(f.text, wrong[i].offset));
		ck_assert_uint_eq(list.count, 0);
	}
	encode("a\0b", 3, 0, &list);
	ck_assert_uint_eq(list.count, 3);
	token_list_fini(&list);
}
END_TEST

START_TEST(one_word_of_millions_of_letters_is_merged_in_bounded_time_and_memory)
{
	static const char *const units[] = {"a", " ", "the", "\n ", "7", "-", "\xe6\xbc\xa2"};
	struct token_list list = {0};
	for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
		size_t unit = strlen(units[u]), size = unit * (3000000 / unit);
		char *text = malloc(size);
		for (size_t i = 0; i < size; i++)
			text[i] = units[u][i % unit];
		encode(text, size, 0, &list);
		char *back;
		size_t back_size;
		ck_assert_int_eq(tokenizer_decode(tiny, list.ids, list.count, 0, &back, &back_size, NULL), 0);
		ck_assert_uint_eq(back_size, size);
		ck_assert_int_eq(memcmp(back, text, size), 0);
		free(back);
		free(text);
	}
	token_list_fini(&list);
}
END_TEST

START_TEST(a_text_above_the_limit_is_refused)
{
	struct token_list list = {0};
	struct fault f = {0};
	char *text = calloc(TOKENIZER_MAX_TEXT + 1, 1);
	ck_assert_int_eq(tokenizer_encode(tiny, scratch, text, TOKENIZER_MAX_TEXT + 1, 0, &list, &f), SAKIORI_ELIMIT);
	free(text);
	token_list_fini(&list);
}
END_TEST

/* The token that stands for one byte. */
static int32_t byte_token(char byte)
{
	for (int32_t id = 0; (size_t)id < tokenizer_size(tiny); id++) {
		struct text_span token = tokenizer_token(tiny, id);
		if (token.size == 1 && token.data[0] == byte)
			return id;
	}
	ck_abort_msg("no token for byte %02x", (unsigned char)byte);
}

/* The expected texts are Python's bytes.decode(errors="replace"), which is what Hugging Face's decoder gives. */
START_TEST(what_is_no_whole_character_is_decoded_as_the_replacement_character)
{
	static const struct {
		const char *bytes, *text;
	} cases[] = {
		{"whole \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80.", "whole \u00e9\u20ac\U0001f600."},
		{"cut \xf0\x9f\x98", "cut \ufffd"},
		{"\xe2(\xe2\x82(", "\ufffd(\ufffd("},
		{"\xff\xc0\x80\x80", "\ufffd\ufffd\ufffd\ufffd"},
		{"\xed\xa0\x80\xf4\x90", "\ufffd\ufffd\ufffd\ufffd\ufffd"},
		{"\xe0\x9f\xf0\x8f", "\ufffd\ufffd\ufffd\ufffd"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct token_list list = {0};
		char *text;
		size_t size;
		for (const char *p = cases[i].bytes; *p != '\0'; p++)
			token_list_add(&list, byte_token(*p));
		ck_assert_int_eq(
			tokenizer_decode(tiny, list.ids, list.count, TOKENIZER_REPLACE, &text, &size, NULL), 0);
		ck_assert_str_eq(text, cases[i].text);
		ck_assert_uint_eq(size, strlen(cases[i].text));
		free(text);
		token_list_fini(&list);
	}
}
END_TEST

START_TEST(an_id_outside_the_vocabulary_is_not_decoded)
{
	const int32_t wrong[] = {-1, 512, INT32_MAX, INT32_MIN};
	for (size_t i = 0; i < 4; i++) {
		char *text;
		size_t size;
		struct fault f = {0};
		ck_assert_int_eq(tokenizer_decode(tiny, &wrong[i], 1, 0, &text, &size, &f), SAKIORI_EINVAL);
		ck_assert_ptr_null(text);
		ck_assert_ptr_null(tokenizer_token(tiny, wrong[i]).data);
	}
}
END_TEST

/* A vocabulary of bytes a, b, c, their merge, and one token of each special kind. */
static const struct gguf_text small_tokens[] = {
	{"a", 1}, {"b", 1}, {"c", 1}, {"ab", 2}, {"abc", 3}, {"<end>", 5}, {"[tag]", 5}, {"bc", 2}};
static const int32_t small_types[] = {1, 1, 1, 1, 1, TOKEN_CONTROL, TOKEN_USER_DEFINED, 1};
static const struct gguf_text small_merges[] = {{"b c", 3}, {"a b", 3}, {"ab c", 4}, {"a bc", 4}};

static struct tokenizer_source small_source(void)
{
	return (struct tokenizer_source){
		.model = {"gpt2", 4},
		.pre = {"smollm", 6},
		.tokens = small_tokens,
		.token_types = small_types,
		.token_count = 8,
		.merges = small_merges,
		.merge_count = 4,
		.bos = -1,
		.eos = 5,
		.unknown = -1,
		.padding = -1,
	};
}

START_TEST(earlier_merges_go_first)
{
	struct tokenizer_source source = small_source();
	struct tokenizer *t;
	ck_assert_int_eq(tokenizer_new(&t, &source, NULL), 0);
	struct tokenizer_scratch *s = tokenizer_scratch_new(t);
	struct token_list list = {0};
	ck_assert_int_eq(tokenizer_encode(t, s, "abcab", 5, 0, &list, NULL), 0);
	/* b+c before a+b, then a+bc; what is left is a+b */
	ck_assert_uint_eq(list.count, 2);
	ck_assert_int_eq(list.ids[0], 4);
	ck_assert_int_eq(list.ids[1], 3);
	token_list_fini(&list);
	tokenizer_scratch_free(s);
	tokenizer_free(t);
}
END_TEST

static void assert_tokens(struct tokenizer_source source, const char *text, size_t count, const int32_t *expected)
{
	struct tokenizer *t;
	struct fault f = {0};
	ck_assert_msg(tokenizer_new(&t, &source, &f) == 0, "%s", f.text);
	struct tokenizer_scratch *s = tokenizer_scratch_new(t);
	struct token_list list = {0};
	ck_assert_int_eq(tokenizer_encode(t, s, text, strlen(text), 0, &list, NULL), 0);
	ck_assert_uint_eq(list.count, count);
	if (count > 0)
		ck_assert_mem_eq(list.ids, expected, count * sizeof *expected);
	token_list_fini(&list);
	tokenizer_scratch_free(s);
	tokenizer_free(t);
}

START_TEST(whole_words_come_before_merges_where_the_family_says_so)
{
	struct tokenizer_source source = small_source();
	source.merge_count = 0;
	static const int32_t letters[] = {0, 1, 2}, word[] = {4}, tagged[] = {3, 6, 7};
	source.pre = (struct gguf_text){"gpt-2", 5};
	assert_tokens(source, "abc", 3, letters);
	source.pre = (struct gguf_text){"llama-bpe", 9};
	assert_tokens(source, "abc", 1, word);
	assert_tokens(source, "ab[tag]bc", 3, tagged);
	/* a control token's text is no word */
	source.merge_count = 4;
	static const int32_t nothing[] = {-1};
	assert_tokens(source, "<end>", 0, nothing);
}
END_TEST

/* Words end where the family ends them: nothing is merged across. Tokens: digits 0 to 3, then all pairs and triples that these texts ask for. */
START_TEST(each_family_cuts_its_own_words)
{
	static const struct gguf_text tokens[] = {{"1", 1}, {"2", 1}, {"'", 1}, {"s", 1}, {"S", 1}, {"12", 2},
		{"121", 3}, {"1212", 4}, {"'s", 2}, {"'S", 2}};
	static const struct gguf_text merges[] = {{"1 2", 3}, {"12 1", 4}, {"12 12", 5}, {"' s", 3}, {"' S", 3}};
	static const int32_t one_by_one[] = {0, 1, 0, 1}, all[] = {7}, by_three[] = {6, 1};
	static const int32_t apart[] = {0, 2, 4}, together[] = {0, 9}, lower[] = {0, 8};
	struct tokenizer_source source = small_source();
	source.tokens = tokens;
	source.token_types = NULL;
	source.token_count = 10;
	source.merges = merges;
	source.merge_count = 5;
	assert_tokens(source, "1212", 4, one_by_one);
	assert_tokens(source, "1'S", 3, apart);
	assert_tokens(source, "1's", 2, lower);
	source.pre = (struct gguf_text){"gpt-2", 5};
	assert_tokens(source, "1212", 1, all);
	assert_tokens(source, "1'S", 3, apart);
	source.pre = (struct gguf_text){"llama-bpe", 9};
	assert_tokens(source, "1212", 2, by_three);
	assert_tokens(source, "1'S", 2, together);
}
END_TEST

START_TEST(user_defined_tokens_are_always_taken_out_and_unknown_bytes_vanish)
{
	struct tokenizer_source source = small_source();
	struct tokenizer *t;
	ck_assert_int_eq(tokenizer_new(&t, &source, NULL), 0);
	struct tokenizer_scratch *s = tokenizer_scratch_new(t);
	struct token_list list = {0};
	ck_assert_int_eq(tokenizer_encode(t, s, "xa[tag]<end>b", 13, 0, &list, NULL), 0);
	/* "<end>" holds none of a, b, c */
	ck_assert_uint_eq(list.count, 3);
	ck_assert_int_eq(list.ids[0], 0);
	ck_assert_int_eq(list.ids[1], 6);
	ck_assert_int_eq(list.ids[2], 1);
	token_list_fini(&list);
	tokenizer_scratch_free(s);
	tokenizer_free(t);
}
END_TEST

static void assert_refused(const struct tokenizer_source *source, int code, const char *named)
{
	struct tokenizer *t;
	struct fault f = {0};
	ck_assert_int_eq(tokenizer_new(&t, source, &f), code);
	ck_assert_ptr_null(t);
	ck_assert_msg(strstr(f.text, named) != NULL, "'%s' does not name '%s'", f.text, named);
}

START_TEST(what_is_not_supported_is_refused_by_name)
{
	struct tokenizer_source source = small_source();
	source.model = (struct gguf_text){"t5", 2};
	assert_refused(&source, SAKIORI_EUNSUPPORTED, "'t5'");
	source = small_source();
	source.pre = (struct gguf_text){"tekken", 6};
	assert_refused(&source, SAKIORI_EUNSUPPORTED, "'tekken'");
	source.pre = (struct gguf_text){NULL, 0};
	assert_refused(&source, SAKIORI_EUNSUPPORTED, "''");
}
END_TEST

START_TEST(a_lying_vocabulary_is_refused)
{
	struct tokenizer_source source = small_source();
	source.eos = 8;
	assert_refused(&source, SAKIORI_EFORMAT, "EOS");
	source.eos = -2;
	assert_refused(&source, SAKIORI_EFORMAT, "EOS");
	source = small_source();
	source.add_bos = true;
	assert_refused(&source, SAKIORI_EFORMAT, "BOS");
	source = small_source();
	source.token_count = 0;
	assert_refused(&source, SAKIORI_EFORMAT, "0 tokens");
	source = small_source();
	static const struct gguf_text unknown[] = {{"a c", 3}}, one_part[] = {{"ab", 2}}, empty[] = {{NULL, 0}};
	source.merge_count = 1;
	source.merges = unknown;
	assert_refused(&source, SAKIORI_EFORMAT, "merge 0");
	source.merges = one_part;
	assert_refused(&source, SAKIORI_EFORMAT, "merge 0");
	source.merges = empty;
	assert_refused(&source, SAKIORI_EFORMAT, "merge 0");
	source = small_source();
	const int32_t types[8] = {1, 1, 1, 7};
	source.token_types = types;
	assert_refused(&source, SAKIORI_EFORMAT, "type 7");
	source = small_source();
	source.model = (struct gguf_text){"llama", 5};
	assert_refused(&source, SAKIORI_EFORMAT, "scores");
	const float scores[8] = {0, 0, 0, 0, NAN};
	source.scores = scores;
	assert_refused(&source, SAKIORI_EFORMAT, "token 4");
	static const struct gguf_text broken[8] = {{"a\xff", 2}};
	source.tokens = broken;
	assert_refused(&source, SAKIORI_EFORMAT, "token 0");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tokenizer");
	TCase *c = tcase_create("tiny");
	tcase_add_checked_fixture(c, open_tiny, close_tiny);
	tcase_set_timeout(c, 120);
	tcase_add_test(c, strings_are_tokenized_as_hugging_face_does);
	tcase_add_test(c, a_text_comes_back_from_its_tokens);
	tcase_add_test(c, the_name_of_a_control_token_in_a_row_is_ordinary_text);
	tcase_add_test(c, text_that_is_not_utf8_is_refused_with_its_offset);
	tcase_add_test(c, one_word_of_millions_of_letters_is_merged_in_bounded_time_and_memory);
	tcase_add_test(c, a_text_above_the_limit_is_refused);
	tcase_add_test(c, what_is_no_whole_character_is_decoded_as_the_replacement_character);
	tcase_add_test(c, an_id_outside_the_vocabulary_is_not_decoded);
	suite_add_tcase(suite, c);
	c = tcase_create("made up");
	tcase_add_test(c, earlier_merges_go_first);
	tcase_add_test(c, whole_words_come_before_merges_where_the_family_says_so);
	tcase_add_test(c, each_family_cuts_its_own_words);
	tcase_add_test(c, user_defined_tokens_are_always_taken_out_and_unknown_bytes_vanish);
	tcase_add_test(c, what_is_not_supported_is_refused_by_name);
	tcase_add_test(c, a_lying_vocabulary_is_refused);
	suite_add_tcase(suite, c);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
