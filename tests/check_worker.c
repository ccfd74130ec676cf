/* SPDX-License-Identifier: Apache-2.0 */
/* The mailbox with an engine that only counts, and the lane. */
#include "daemon/worker.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/lane.h"

static struct {
	uv_loop_t loop;
	struct worker *worker;
	pthread_t loop_thread;
	int open_rc;
	atomic_bool cancelled;
	atomic_int closed;
	int opened, trained, evaluated, stopped, last_error;
	int rounds_wanted;
	bool stop_while_training;
	uv_timer_t timer;
	float x[4];
} at;

static int fake_open(void *self, struct worker_progress *progress, struct fault *f)
{
	(void)self;
	ck_assert(!pthread_equal(pthread_self(), at.loop_thread));
	atomic_store(&progress->load_total, 100);
	return at.open_rc == 0 ? 0 : fault_set(f, at.open_rc, "no such model");
}

static void fake_train(
	void *self, const struct site_training *job, struct worker_progress *progress, struct site_trained *out)
{
	(void)self;
	ck_assert(!pthread_equal(pthread_self(), at.loop_thread));
	*out = (struct site_trained){0};
	for (uint32_t i = 0; i < job->steps; i++) {
		if (at.stop_while_training)
			usleep(20000);
		if (atomic_load(&at.cancelled)) {
			out->error = SAKIORI_ECANCELLED;
			return;
		}
		atomic_fetch_add(&progress->steps, 1);
		out->steps++;
	}
	job->x[0] += 1;
}

static void fake_evaluate(void *self, const float *x, struct site_evaluated *out)
{
	(void)self;
	*out = (struct site_evaluated){.loss = x[0]};
}

static void fake_cancel(void *self)
{
	(void)self;
	atomic_store(&at.cancelled, true);
}

static void fake_close(void *self)
{
	(void)self;
	atomic_fetch_add(&at.closed, 1);
}

static void train_once(void)
{
	struct site_training job = {.x = at.x, .steps = at.stop_while_training ? 1000000 : 3};
	worker_train(at.worker, &job);
}

static void on_stop_timer(uv_timer_t *timer)
{
	uv_close((uv_handle_t *)timer, NULL);
	worker_stop(at.worker);
}

static void on_opened(void *self, int rc, const struct fault *f)
{
	(void)self;
	ck_assert(pthread_equal(pthread_self(), at.loop_thread));
	at.opened++;
	at.last_error = rc;
	if (rc != 0) {
		ck_assert_str_eq(f->text, "no such model");
		worker_stop(at.worker);
		return;
	}
	train_once();
	if (at.stop_while_training) {
		uv_timer_init(&at.loop, &at.timer);
		uv_timer_start(&at.timer, on_stop_timer, 100, 0);
	}
}

static void on_trained(void *self, const struct site_trained *result)
{
	(void)self;
	ck_assert(pthread_equal(pthread_self(), at.loop_thread));
	at.last_error = result->error;
	if (result->error != 0)
		return;
	ck_assert_uint_eq(result->steps, 3);
	at.trained++;
	worker_evaluate(at.worker, at.x);
}

static void on_evaluated(void *self, const struct site_evaluated *result)
{
	(void)self;
	at.evaluated++;
	ck_assert_double_eq(result->loss, at.trained);
	if (at.trained < at.rounds_wanted)
		train_once();
	else
		worker_stop(at.worker);
}

static void on_stopped(void *self)
{
	(void)self;
	at.stopped++;
}

static void run(void)
{
	struct worker_engine engine = {.open = fake_open,
		.train = fake_train,
		.evaluate = fake_evaluate,
		.cancel = fake_cancel,
		.close = fake_close};
	struct worker_events events = {.on_opened = on_opened,
		.on_trained = on_trained,
		.on_evaluated = on_evaluated,
		.on_stopped = on_stopped};
	struct fault f;
	at.loop_thread = pthread_self();
	uv_loop_init(&at.loop);
	ck_assert_int_eq(worker_start(&at.worker, &at.loop, &engine, &events, &f), 0);
	uv_run(&at.loop, UV_RUN_DEFAULT);
	ck_assert_int_eq(uv_loop_close(&at.loop), 0);
	ck_assert_int_eq(at.stopped, 1);
	ck_assert_int_eq(atomic_load(&at.closed), 1);
	worker_free(at.worker);
}

static void setup(void)
{
	at.open_rc = at.opened = at.trained = at.evaluated = at.stopped = at.last_error = 0;
	atomic_store(&at.cancelled, false);
	atomic_store(&at.closed, 0);
	at.rounds_wanted = 1;
	at.stop_while_training = false;
	at.x[0] = 0;
}

START_TEST(jobs_run_on_the_thread_and_answer_on_the_loop)
{
	at.rounds_wanted = 500;
	run();
	ck_assert_int_eq(at.opened, 1);
	ck_assert_int_eq(at.trained, 500);
	ck_assert_int_eq(at.evaluated, 500);
	ck_assert_float_eq(at.x[0], 500);
}
END_TEST

START_TEST(a_stop_cancels_training_and_changes_nothing)
{
	at.stop_while_training = true;
	run();
	ck_assert_int_eq(at.last_error, SAKIORI_ECANCELLED);
	ck_assert_float_eq(at.x[0], 0);
}
END_TEST

START_TEST(a_failed_open_is_reported_and_closed)
{
	at.open_rc = SAKIORI_ENOTFOUND;
	run();
	ck_assert_int_eq(at.last_error, SAKIORI_ENOTFOUND);
	ck_assert_int_eq(at.trained, 0);
}
END_TEST

/* The lane. */
static struct lane *lane;
static int order[100];
static int ran;
static int answered;

static void job_run(void *data)
{
	int *number = data;
	if (*number % 7 == 0)
		usleep(2000);
	order[ran++] = *number; /* no lock: the lane itself is the promise that jobs do not overlap */
}

static void job_done(void *data)
{
	static int more = 99;
	int *number = data;
	ck_assert_int_eq(*number, answered++);
	if (*number == 50)
		lane_push(lane, job_run, job_done, &more);
}

START_TEST(lane_jobs_keep_their_order_and_never_overlap)
{
	static int numbers[99];
	uv_loop_t loop;
	uv_loop_init(&loop);
	lane = lane_new(&loop);
	ran = answered = 0;
	for (int i = 0; i < 99; i++) {
		numbers[i] = i;
		lane_push(lane, job_run, job_done, &numbers[i]);
	}
	ck_assert(!lane_is_empty(lane));
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert(lane_is_empty(lane));
	ck_assert_int_eq(answered, 100);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(order[i], i);
	lane_free(lane);
	uv_loop_close(&loop);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("worker");
	TCase *tests = tcase_create("worker");
	tcase_set_timeout(tests, 30);
	tcase_add_checked_fixture(tests, setup, NULL);
	tcase_add_test(tests, jobs_run_on_the_thread_and_answer_on_the_loop);
	tcase_add_test(tests, a_stop_cancels_training_and_changes_nothing);
	tcase_add_test(tests, a_failed_open_is_reported_and_closed);
	tcase_add_test(tests, lane_jobs_keep_their_order_and_never_overlap);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
