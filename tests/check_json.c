/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"

static void refused(const char *text, int code, const char *sentence)
{
	json_t *v;
	struct fault f = {0};
	int rc = json_parse("rows.jsonl", 41, text, strlen(text), &v, &f);
	ck_assert_msg(rc == code && strstr(f.text, sentence) != NULL, "expected %d \"%s\", got %d \"%s\"", code,
		sentence, rc, f.text);
	ck_assert_ptr_null(v);
}

START_TEST(errors_say_file_line_and_column)
{
	refused("{\"text\": tru}", SAKIORI_EFORMAT, "rows.jsonl:41:12: invalid token near 'tru'");
	refused("{\n\n \"a\" 1}", SAKIORI_EFORMAT, "rows.jsonl:43:");
	refused("", SAKIORI_EFORMAT, "rows.jsonl:41:");
}
END_TEST

START_TEST(ambiguous_and_hostile_json_is_refused)
{
	refused("{\"a\":1,\"a\":2}", SAKIORI_EFORMAT, "duplicate object key");
	refused("{} {}", SAKIORI_EFORMAT, "end of file expected");
	refused("{\"a\":\"\\u0000\"}", SAKIORI_EFORMAT, "\\u0000");
	refused("{\"a\":\"\xff\"}", SAKIORI_EFORMAT, "unable to decode byte 0xff");
	refused("{\"a\": \033[2J}", SAKIORI_EFORMAT, "near '?'");
	refused("{\"a\":99999999999999999999}", SAKIORI_EFORMAT, "too big");
	refused("7", SAKIORI_EFORMAT, "'[' or '{' expected");
}
END_TEST

START_TEST(nesting_is_bounded)
{
	char text[2 * JSON_DEPTH_LIMIT + 8] = "";
	for (int i = 0; i < JSON_DEPTH_LIMIT; i++) {
		text[i] = '[';
		text[JSON_DEPTH_LIMIT + i] = ']';
	}
	json_t *v;
	struct fault f = {0};
	ck_assert_int_eq(json_parse("deep", 1, text, strlen(text), &v, &f), 0);
	json_decref(v);
	char deeper[sizeof text + 2] = "[";
	strcat(deeper, text);
	refused(deeper, SAKIORI_ELIMIT, "rows.jsonl:41:65: more than 64");
	/* brackets inside strings are text */
	const char *harmless = "[\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[\"]";
	ck_assert_int_eq(json_parse("text", 1, harmless, strlen(harmless), &v, &f), 0);
	json_decref(v);
}
END_TEST

START_TEST(getters_name_the_key_and_what_stands_there)
{
	const char *text = "{\"r\":\"16\",\"n\":null,\"alpha\":8,\"on\":true,\"list\":[],\"map\":{}}";
	json_t *v;
	struct fault f = {0};
	ck_assert_int_eq(json_parse("x", 1, text, strlen(text), &v, &f), 0);
	int64_t r;
	double alpha;
	bool on;
	const char *word;
	const json_t *part;
	ck_assert_int_eq(json_want_integer(v, "r", 1, 64, &r, &f), SAKIORI_EFORMAT);
	ck_assert_str_eq(f.text, "\"r\" is a string, expected an integer");
	ck_assert_int_eq(json_want_integer(v, "alpha", 9, 64, &r, &f), SAKIORI_EFORMAT);
	ck_assert_str_eq(f.text, "\"alpha\" is 8, expected 9 to 64");
	ck_assert_int_eq(json_want_text(v, "missing", &word, &f), SAKIORI_EFORMAT);
	ck_assert_str_eq(f.text, "\"missing\" is missing, expected a string");
	ck_assert(json_want_integer(v, "alpha", 0, 8, &r, &f) == 0 && r == 8);
	ck_assert(json_want_number(v, "alpha", &alpha, &f) == 0 && alpha == 8);
	ck_assert(json_want_boolean(v, "on", &on, &f) == 0 && on);
	ck_assert(json_want_text(v, "r", &word, &f) == 0 && strcmp(word, "16") == 0);
	ck_assert(json_want_array(v, "list", &part, &f) == 0 && json_want_object(v, "map", &part, &f) == 0);
	ck_assert_int_eq(json_want_object(v, "list", &part, &f), SAKIORI_EFORMAT);
	ck_assert(!json_is_set(v, "n") && !json_is_set(v, "missing") && json_is_set(v, "on"));
	json_decref(v);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("json");
	TCase *t = tcase_create("json");
	tcase_add_test(t, errors_say_file_line_and_column);
	tcase_add_test(t, ambiguous_and_hostile_json_is_refused);
	tcase_add_test(t, nesting_is_bounded);
	tcase_add_test(t, getters_name_the_key_and_what_stands_there);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
