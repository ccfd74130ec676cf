/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

struct values {
	bool flag;
	const char *text;
	uint64_t count, bytes;
	double number, seconds;
	struct cli_texts texts;
};

enum { WORDS_LIMIT = 16 };

/* Parses the words (NULL ends them), which come back in argv as cli_parse leaves them. */
static int parse(struct values *v, int most_words, const char *const *given, char *argv[static WORDS_LIMIT], int *words)
{
	const struct cli_option options[] = {
		{"flag", CLI_FLAG, &v->flag, NULL, "a flag"},
		{"text", CLI_TEXT, &v->text, "TEXT", "a text"},
		{"each", CLI_TEXTS, &v->texts, "TEXT", "a text, more than once"},
		{"count", CLI_COUNT, &v->count, "N", "a count"},
		{"number", CLI_NUMBER, &v->number, "X", "a number"},
		{"seconds", CLI_SECONDS, &v->seconds, "TIME", "a duration"},
		{"bytes", CLI_BYTES, &v->bytes, "SIZE", "a size"},
		{0},
	};
	int argc = 0;
	for (; given[argc] != NULL; argc++)
		argv[argc] = (char *)(uintptr_t)given[argc];
	argv[argc] = NULL;
	return cli_parse(argc, argv, "[OPTION]...", options, most_words, words);
}

static void silence(void)
{
	ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr));
	ck_assert_ptr_nonnull(freopen("/dev/null", "w", stdout));
}

#define WORDS(...) ((const char *const[]){"try", __VA_ARGS__, NULL})

START_TEST(options_of_every_kind_are_read_and_words_moved_to_the_front)
{
	struct values v = {.count = 7};
	char *argv[WORDS_LIMIT];
	int words;
	const char *const *given = WORDS(
		"one", "--flag", "--text=a b", "--number", "-1.5e-3", "two", "--seconds", "90s", "--bytes", "8MiB");
	ck_assert_int_eq(parse(&v, 2, given, argv, &words), CLI_CONTINUE);
	ck_assert(v.flag);
	ck_assert_str_eq(v.text, "a b");
	ck_assert_uint_eq(v.count, 7);
	ck_assert_double_eq(v.number, -1.5e-3);
	ck_assert_double_eq(v.seconds, 90);
	ck_assert_uint_eq(v.bytes, 8 << 20);
	ck_assert_int_eq(words, 2);
	ck_assert_str_eq(argv[1], "one");
	ck_assert_str_eq(argv[2], "two");
}
END_TEST

START_TEST(mistakes_end_with_the_exit_code_of_wrong_usage)
{
	silence();
	struct values v = {0};
	char *argv[WORDS_LIMIT];
	static const char *const wrong[][2] = {{"--flga", NULL}, {"-x", NULL}, {"--text", NULL}, {"--flag=yes", NULL},
		{"--count", "-1"}, {"--count", "1.5"}, {"--count", "18446744073709551616"}, {"--count", ""},
		{"--number", "nan"}, {"--number", "inf"}, {"--number", "0x10"}, {"--number", "1 "},
		{"--number", "1e999"}, {"--seconds", "90"}, {"--seconds", "-1s"}, {"--seconds", "5 m"},
		{"--bytes", "8"}, {"--bytes", "0.5B"}, {"--bytes", "99999999GiB"}, {"word", NULL}};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		ck_assert_msg(parse(&v, 0, WORDS(wrong[i][0], wrong[i][1]), argv, NULL) == EXIT_CODE_USAGE, "%s %s",
			wrong[i][0], wrong[i][1] != NULL ? wrong[i][1] : "");
	ck_assert_int_eq(parse(&v, 0, WORDS("--help"), argv, NULL), EXIT_CODE_OK);
}
END_TEST

START_TEST(durations_and_sizes_take_units)
{
	double s;
	uint64_t b;
	ck_assert(cli_read_seconds("250ms", &s) && s == 0.25);
	ck_assert(cli_read_seconds("1.5h", &s) && s == 5400);
	ck_assert(cli_read_seconds("2d", &s) && s == 172800);
	ck_assert(cli_read_bytes("1.5KiB", &b) && b == 1536);
	ck_assert(cli_read_bytes("500MB", &b) && b == 500000000);
	ck_assert(!cli_read_bytes("", &b) && !cli_read_bytes("MiB", &b) && !cli_read_bytes("1mib", &b));
}
END_TEST

static const char *next_word(const void *table, size_t i)
{
	return ((const char *const *)table)[i];
}

START_TEST(a_text_may_be_given_again_and_again_but_not_for_ever)
{
	struct values v = {0};
	char *argv[WORDS_LIMIT];
	int words;
	silence();
	ck_assert_int_eq(parse(&v, 0, WORDS("--each", "a b", "--flag", "--each="), argv, &words), CLI_CONTINUE);
	ck_assert_uint_eq(v.texts.count, 2);
	ck_assert_str_eq(v.texts.at[0], "a b");
	ck_assert_str_eq(v.texts.at[1], "");
	v.texts.count = CLI_TEXTS_MAX;
	ck_assert_int_eq(parse(&v, 0, WORDS("--each", "one too many"), argv, &words), EXIT_CODE_USAGE);
}
END_TEST

START_TEST(the_nearest_word_is_found_when_one_is_near)
{
	static const char *const table[] = {"status", "peers", "rounds", "resume", NULL};
	ck_assert_str_eq(cli_nearest("statsu", next_word, table), "status");
	ck_assert_str_eq(cli_nearest("peer", next_word, table), "peers");
	ck_assert_str_eq(cli_nearest("reusme", next_word, table), "resume");
	ck_assert_ptr_null(cli_nearest("xyzzy", next_word, table));
	ck_assert_ptr_null(cli_nearest("", next_word, table));
}
END_TEST

START_TEST(a_fault_never_ends_with_success)
{
	silence();
	ck_assert_int_eq(cli_fail(&(struct fault){.code = 0}), EXIT_CODE_FAILURE);
	ck_assert_int_eq(cli_fail(&(struct fault){.code = SAKIORI_EUNREACHABLE}), EXIT_CODE_UNREACHABLE);
	ck_assert_int_eq(cli_fail(&(struct fault){.code = SAKIORI_ECONFIG, .text = "x"}), EXIT_CODE_CONFIG);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cli");
	TCase *c = tcase_create("options");
	tcase_add_test(c, options_of_every_kind_are_read_and_words_moved_to_the_front);
	tcase_add_test(c, mistakes_end_with_the_exit_code_of_wrong_usage);
	tcase_add_test(c, durations_and_sizes_take_units);
	tcase_add_test(c, a_text_may_be_given_again_and_again_but_not_for_ever);
	tcase_add_test(c, the_nearest_word_is_found_when_one_is_near);
	tcase_add_test(c, a_fault_never_ends_with_success);
	suite_add_tcase(suite, c);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
