/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/metrics.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char *page(const struct metrics *m)
{
	struct writer out;
	writer_init(&out);
	metrics_write(m, &out);
	write_u8(&out, 0);
	return (char *)out.data;
}

/* A registry in which every family has a sample. */
static struct metrics *full(void)
{
	struct metrics *m = metrics_new();
	metrics_set(m, METRIC_BUILD_INFO, "0.1.0", "abc", 1);
	metrics_set(m, METRIC_EVAL_LOSS, "before_mixing", NULL, 2.5);
	metrics_set(m, METRIC_EVAL_LOSS, "after_mixing", NULL, 2.25);
	metrics_set(m, METRIC_EVAL_ACCURACY, "after_mixing", NULL, 0.5);
	metrics_set(m, METRIC_PEERS, "up", NULL, 2);
	metrics_add(m, METRIC_PEER_BYTES, "bremen", "in", 100);
	metrics_add(m, METRIC_PEER_BYTES, "bremen", "out", 200);
	metrics_set(m, METRIC_PEER_RTT, "bremen", NULL, 0.05);
	metrics_set(m, METRIC_PEER_LAST_SEEN, "bremen", NULL, 1.75e9);
	metrics_set(m, METRIC_PEER_STALENESS, "bremen", NULL, 0);
	metrics_add(m, METRIC_UPDATES_REJECTED, "gap", NULL, 1);
	metrics_add(m, METRIC_CONNECTIONS_REJECTED, "unknown_key", NULL, 1);
	static const enum metric plain[] = {METRIC_TRAIN_LOSS, METRIC_ROUND, METRIC_TRAIN_TOKENS, METRIC_TRAIN_STEPS,
		METRIC_TOKENS_PER_SECOND, METRIC_LEARNING_RATE, METRIC_GRADIENT_NORM, METRIC_CONSENSUS_DISTANCE,
		METRIC_CHECKPOINT_DURATION, METRIC_CHECKPOINT_SUCCESS, METRIC_CHECKPOINT_FAILURES, METRIC_LOOP_LAG,
		METRIC_ADMIN_DENIED};
	for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
		metrics_set(m, plain[i], NULL, NULL, 1);
	for (enum metric gpu = METRIC_GPU_MEMORY_USED; gpu <= METRIC_JOULES_PER_TOKEN; gpu++)
		metrics_set(m, gpu, "0", NULL, 1);
	metrics_observe(m, METRIC_ROUND_DURATION, 3);
	metrics_read_process(m);
	return m;
}

START_TEST(samples_appear_with_their_labels_and_shortest_numbers)
{
	struct metrics *m = metrics_new();
	metrics_set(m, METRIC_TRAIN_LOSS, NULL, NULL, 0.1);
	metrics_set(m, METRIC_EVAL_LOSS, "after_mixing", NULL, NAN);
	metrics_add(m, METRIC_PEER_BYTES, "a\"b\\c\nd", "in", 3);
	metrics_add(m, METRIC_PEER_BYTES, "a\"b\\c\nd", "in", 4);
	char *text = page(m);
	ck_assert_ptr_nonnull(strstr(text, "# TYPE sakiori_train_loss gauge\nsakiori_train_loss 0.1\n"));
	ck_assert_ptr_nonnull(strstr(text, "sakiori_eval_loss{phase=\"after_mixing\"} NaN\n"));
	ck_assert_ptr_nonnull(strstr(text, "sakiori_peer_bytes_total{peer=\"a\\\"b\\\\c\\nd\",direction=\"in\"} 7\n"));
	ck_assert_ptr_null(strstr(text, "sakiori_learning_rate"));
	free(text);
	metrics_free(m);
}
END_TEST

START_TEST(histogram_buckets_are_cumulative)
{
	struct metrics *m = metrics_new();
	metrics_observe(m, METRIC_ROUND_DURATION, 0.5);
	metrics_observe(m, METRIC_ROUND_DURATION, 0.7);
	metrics_observe(m, METRIC_ROUND_DURATION, 1e6);
	char *text = page(m);
	ck_assert_ptr_nonnull(strstr(text, "_bucket{le=\"0.1\"} 0\n"));
	ck_assert_ptr_nonnull(strstr(text, "_bucket{le=\"0.5\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text, "_bucket{le=\"1\"} 2\n"));
	ck_assert_ptr_nonnull(strstr(text, "_bucket{le=\"7200\"} 2\n"));
	ck_assert_ptr_nonnull(strstr(text, "_bucket{le=\"+Inf\"} 3\n"));
	ck_assert_ptr_nonnull(strstr(text, "_count 3\n"));
	free(text);
	metrics_free(m);
}
END_TEST

START_TEST(a_family_stops_growing_at_its_limit)
{
	struct metrics *m = metrics_new();
	for (int i = 0; i < METRICS_SAMPLES_LIMIT + 50; i++) {
		char name[20];
		snprintf(name, sizeof name, "p%d", i);
		metrics_set(m, METRIC_PEER_RTT, name, NULL, 1);
	}
	ck_assert(!isnan(metrics_get(m, METRIC_PEER_RTT, "p1023", NULL)));
	ck_assert(isnan(metrics_get(m, METRIC_PEER_RTT, "p1024", NULL)));
	metrics_free(m);
}
END_TEST

START_TEST(a_forgotten_peer_leaves_no_sample_behind)
{
	struct metrics *m = full();
	metrics_set(m, METRIC_PEER_RTT, "kiel", NULL, 0.1);
	metrics_forget_peer(m, "bremen");
	char *text = page(m);
	ck_assert_ptr_null(strstr(text, "bremen"));
	ck_assert_ptr_nonnull(strstr(text, "sakiori_peer_rtt_seconds{peer=\"kiel\"} 0.1\n"));
	ck_assert_ptr_nonnull(strstr(text, "sakiori_peers{state=\"up\"} 2\n"));
	free(text);
	metrics_free(m);
}
END_TEST

START_TEST(process_values_are_plausible)
{
	struct metrics *m = full();
	ck_assert_double_gt(metrics_get(m, METRIC_PROCESS_RSS, NULL, NULL), 100e3);
	ck_assert_double_ge(metrics_get(m, METRIC_PROCESS_OPEN_FDS, NULL, NULL), 3);
	double age = (double)time(NULL) - metrics_get(m, METRIC_PROCESS_START, NULL, NULL);
	ck_assert_double_gt(age, -2);
	ck_assert_double_lt(age, 600);
	metrics_free(m);
}
END_TEST

START_TEST(the_manual_lists_the_same_metrics)
{
	static const char *const names[] = {
#define X(identifier, name, type, labels, help) name,
		METRICS(X)
#undef X
	};
	char path[4096], line[1024];
	snprintf(path, sizeof path, "%s/doc/man/sakiorid.8", getenv("SRCDIR") != NULL ? getenv("SRCDIR") : ".");
	FILE *page_file = fopen(path, "r");
	ck_assert_msg(page_file != NULL, "%s", path);
	size_t next = 0;
	while (fgets(line, sizeof line, page_file) != NULL) {
		if (strncmp(line, ".It Ic ", 7) != 0)
			continue;
		line[strcspn(line, "\n")] = '\0';
		line[7 + strcspn(line + 7, " ")] = '\0';
		ck_assert_uint_lt(next, METRIC_COUNT);
		ck_assert_str_eq(line + 7, names[next++]);
	}
	fclose(page_file);
	ck_assert_uint_eq(next, METRIC_COUNT);
}
END_TEST

START_TEST(promtool_finds_nothing_to_complain_about)
{
	struct metrics *m = full();
	char *text = page(m);
	/* promtool is optional, and then the rest of this program still counts. */
	if (system("command -v promtool >/dev/null") == 0) {
		FILE *tool = popen("promtool check metrics", "w");
		ck_assert_ptr_nonnull(tool);
		fputs(text, tool);
		ck_assert_int_eq(pclose(tool), 0);
	}
	free(text);
	metrics_free(m);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("metrics");
	TCase *tests = tcase_create("metrics");
	tcase_set_timeout(tests, 30);
	tcase_add_test(tests, samples_appear_with_their_labels_and_shortest_numbers);
	tcase_add_test(tests, histogram_buckets_are_cumulative);
	tcase_add_test(tests, a_family_stops_growing_at_its_limit);
	tcase_add_test(tests, a_forgotten_peer_leaves_no_sample_behind);
	tcase_add_test(tests, process_values_are_plausible);
	tcase_add_test(tests, the_manual_lists_the_same_metrics);
	tcase_add_test(tests, promtool_finds_nothing_to_complain_about);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
