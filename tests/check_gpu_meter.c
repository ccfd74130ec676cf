/* SPDX-License-Identifier: Apache-2.0 */
/* The gauges of a GPU, told by tests/lib/fake_nvml.c. */
#include "daemon/gpu_meter.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static struct {
	uv_loop_t loop;
	uv_timer_t timer;
	struct metrics *metrics;
	struct gpu_meter *meter;
	_Atomic uint64_t tokens;
	char library[512], log[1000];
	int ticks;
} at;

static void keep_log(void *self, enum log_level level, const char *line)
{
	(void)self;
	(void)level;
	strncat(at.log, line, sizeof at.log - strlen(at.log) - 1);
}

/* Trains 10 tokens a turn, until there were 20 turns. */
static void on_tick(uv_timer_t *timer)
{
	atomic_fetch_add(&at.tokens, 10);
	if (++at.ticks < 20)
		return;
	gpu_meter_stop(at.meter);
	uv_close((uv_handle_t *)timer, NULL);
}

/* The page after some readings of `device`; caller frees. */
static char *watch(const char *device, const char *library)
{
	const struct gpu_meter_options options = {.library = library, .interval_ms = 5};
	struct writer out;
	at.ticks = 0;
	at.log[0] = '\0';
	at.metrics = metrics_new();
	log_set_sink(keep_log, NULL);
	uv_loop_init(&at.loop);
	uv_timer_init(&at.loop, &at.timer);
	uv_timer_start(&at.timer, on_tick, 10, 10);
	at.meter = gpu_meter_start(&at.loop, device, &at.tokens, at.metrics, &options);
	uv_run(&at.loop, UV_RUN_DEFAULT);
	ck_assert_int_eq(uv_loop_close(&at.loop), 0);
	log_set_sink(NULL, NULL);
	writer_init(&out);
	metrics_write(at.metrics, &out);
	write_u8(&out, 0);
	metrics_free(at.metrics);
	return (char *)out.data;
}

static void expect(const char *page, const char *line)
{
	ck_assert_msg(strstr(page, line) != NULL, "no line %s in\n%s", line, page);
}

START_TEST(what_the_driver_says_reaches_the_page)
{
	char *page = watch("cuda:1", at.library);
	expect(page, "sakiori_gpu_memory_used_bytes{gpu=\"1\"} 21474836480\n");
	expect(page, "sakiori_gpu_memory_total_bytes{gpu=\"1\"} 85899345920\n");
	expect(page, "sakiori_gpu_utilization_ratio{gpu=\"1\"} 0.75\n");
	expect(page, "sakiori_gpu_power_watts{gpu=\"1\"} 350.5\n");
	expect(page, "sakiori_train_joules_per_token{gpu=\"1\"} ");
	double joules = strtod(strstr(page, "per_token{gpu=\"1\"} ") + strlen("per_token{gpu=\"1\"} "), NULL);
	/* 5 J a reading; between two readings that differ are at least 10 tokens. */
	ck_assert(joules > 0 && joules <= 20);
	ck_assert_ptr_null(strstr(page, "sakiori_gpu_temperature_celsius"));
	ck_assert_str_eq(at.log, "");
	free(page);
}
END_TEST

START_TEST(cuda_n_counts_within_what_is_visible)
{
	setenv("CUDA_VISIBLE_DEVICES", "1,0", 1);
	char *page = watch("cuda", at.library);
	expect(page, "sakiori_gpu_power_watts{gpu=\"0\"} 350.5\n");
	free(page);
	setenv("CUDA_VISIBLE_DEVICES", "0,GPU-one", 1);
	page = watch("cuda:1", at.library);
	expect(page, "sakiori_gpu_power_watts{gpu=\"1\"} 350.5\n");
	free(page);
	/* A part of a GPU that the driver does not know by this name is not GPU 0. */
	setenv("CUDA_VISIBLE_DEVICES", "MIG-two", 1);
	page = watch("cuda", at.library);
	ck_assert_ptr_null(strstr(page, "sakiori_gpu"));
	ck_assert_ptr_nonnull(strstr(at.log, "no such GPU"));
	free(page);
	unsetenv("CUDA_VISIBLE_DEVICES");
}
END_TEST

START_TEST(without_the_library_or_the_gpu_there_is_one_log_line_and_no_gauge)
{
	const struct {
		const char *device, *library, *why;
	} cases[] = {
		{"cuda", "/nowhere/libnvidia-ml.so.1", "/nowhere/libnvidia-ml.so.1"},
		{"cuda:7", at.library, "no such GPU"},
		{"cuda", "libc.so.6", "the driver is too old"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char *page = watch(cases[i].device, cases[i].library);
		ck_assert_ptr_null(strstr(page, "sakiori_gpu"));
		ck_assert_ptr_null(strstr(page, "joules"));
		ck_assert_msg(strstr(at.log, cases[i].why) != NULL, "%s", at.log);
		ck_assert_ptr_eq(strstr(at.log, "no_gpu_metrics"), at.log);
		ck_assert_ptr_null(strstr(at.log + 1, "no_gpu_metrics"));
		free(page);
	}
}
END_TEST

int main(void)
{
	const char *build = getenv("BUILDDIR");
	snprintf(at.library, sizeof at.library, "%s/tests/lib/fake_nvml.so", build != NULL ? build : ".");
	unsetenv("CUDA_VISIBLE_DEVICES");
	Suite *s = suite_create("gpu_meter");
	TCase *t = tcase_create("gpu_meter");
	tcase_add_test(t, what_the_driver_says_reaches_the_page);
	tcase_add_test(t, cuda_n_counts_within_what_is_visible);
	tcase_add_test(t, without_the_library_or_the_gpu_there_is_one_log_line_and_no_gauge);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
