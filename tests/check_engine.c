/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon's engine does when the device has no room, or is not there. */
#include "daemon/engine.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHADOWED 1 /* the sanitizer needs more address space than any limit leaves */
#else
#define SHADOWED 0
#endif

static char rows[] = "/tmp/check_engine.XXXXXX";
static char said[4000];

static void keep_log(void *self, enum log_level level, const char *line)
{
	(void)self;
	(void)level;
	strncat(said, line, sizeof said - strlen(said) - 2);
	strcat(said, "\n");
}

static void write_rows(void)
{
	FILE *out = fdopen(mkstemp(rows), "w");
	for (int i = 0; i < 4; i++) {
		fputs("{\"text\": \"", out);
		for (int word = 0; word < 100; word++)
			fprintf(out, "thread %d ", i * word);
		fputs("\"}\n", out);
	}
	fclose(out);
}

static void configure(struct config *c, const char *model_keys, const char *data_keys)
{
	char text[2000];
	struct fault f = {0};
	snprintf(text, sizeof text,
		"model: { path = \"%s/tests/golden/tiny.gguf\"; base_dtype = \"f32\"; threads = 1; %s };\n"
		"data: { train = \"%s\"; max_seq = 64; %s };\n",
		getenv("SRCDIR") != NULL ? getenv("SRCDIR") : ".", model_keys, rows, data_keys);
	ck_assert_msg(config_parse(text, strlen(text), "/tmp/none.conf", c, &f) == 0, "%s", f.text);
}

START_TEST(without_room_fewer_tokens_are_taken_at_once_and_it_is_said)
{
	struct config c;
	struct engine *e;
	struct worker_progress progress = {0};
	struct fault f = {0};
	configure(&c, "", "batch_rows = 20000; micro_tokens = 1048576;");
	ck_assert_int_eq(engine_new(&e, &c, &f), 0);
	const struct rlimit limit = {1ull << 30, 1ull << 30};
	setrlimit(RLIMIT_AS, &limit);
	log_set_sink(keep_log, NULL);
	const struct worker_engine functions = engine_functions(e);
	ck_assert_msg(functions.open(functions.self, &progress, &f) == 0, "%s", f.text);
	ck_assert_msg(strstr(said, "smaller_micro_batch") != NULL, "%s", said);
	ck_assert_msg(strstr(said, "tokens=524288 before=1048576 configured=1048576") != NULL, "%s", said);
	ck_assert_uint_lt(engine_micro_tokens(e), 1048576);
	ck_assert_uint_ge(engine_micro_tokens(e), 64);
	ck_assert(!engine_device_lost(e));
	functions.close(functions.self);
	engine_free(e);
	config_fini(&c);
}
END_TEST

START_TEST(a_device_that_is_not_there_is_an_error_that_names_it)
{
	struct config c;
	struct engine *e;
	struct worker_progress progress = {0};
	struct fault f = {0};
	char state[64] = "/tmp/check_engine_state.XXXXXX", keys[200];
	ck_assert_ptr_nonnull(mkdtemp(state));
	snprintf(keys, sizeof keys, "device = \"cuda:9\"; }; site: { state_directory = \"%s\";", state);
	configure(&c, keys, "");
	log_set_sink(keep_log, NULL);
	ck_assert_int_eq(engine_new(&e, &c, &f), 0);
	const struct worker_engine functions = engine_functions(e);
	ck_assert_int_eq(functions.open(functions.self, &progress, &f), SAKIORI_EDEVICE);
	ck_assert_msg(strstr(f.text, "device cuda:9") != NULL, "%s", f.text);
	ck_assert_str_eq(said, "");
	functions.close(functions.self);
	engine_free(e);
	config_fini(&c);
	snprintf(keys, sizeof keys, "%s/cache", state);
	ck_assert_int_eq(rmdir(keys), 0); /* it was made for the device's measurements */
	rmdir(state);
}
END_TEST

int main(void)
{
	write_rows();
	Suite *s = suite_create("engine");
	TCase *t = tcase_create("engine");
	tcase_set_timeout(t, 60);
	if (!SHADOWED)
		tcase_add_test(t, without_room_fewer_tokens_are_taken_at_once_and_it_is_said);
	tcase_add_test(t, a_device_that_is_not_there_is_an_error_that_names_it);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	unlink(rows);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
