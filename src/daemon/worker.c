/* SPDX-License-Identifier: Apache-2.0 */
/* The mailbox holds at most one job and one answer; its lock is held for the copy of a small struct, never while
 * training. */
#include "daemon/worker.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum task { TASK_NONE, TASK_OPEN, TASK_TRAIN, TASK_EVALUATE, TASK_STOP };

struct worker {
	struct worker_engine engine;
	struct worker_events events;
	struct worker_progress progress;
	pthread_t thread;
	uv_async_t wake;
	pthread_mutex_t lock;
	pthread_cond_t given;
	/* Under the lock. */
	enum task task; /* given and not yet taken */
	bool stopping;
	enum task answer; /* done and not yet seen by the loop */
	int open_rc;
	struct fault open_fault;
	struct site_training training;
	const float *evaluated_x;
	struct site_trained trained;
	struct site_evaluated evaluated;
};

static enum task wait_for_task(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->task == TASK_NONE && !w->stopping)
		pthread_cond_wait(&w->given, &w->lock);
	enum task task = w->stopping && w->task == TASK_NONE ? TASK_STOP : w->task;
	w->task = TASK_NONE;
	pthread_mutex_unlock(&w->lock);
	return task;
}

static void answer(struct worker *w, enum task task)
{
	pthread_mutex_lock(&w->lock);
	w->answer = task;
	pthread_mutex_unlock(&w->lock);
	uv_async_send(&w->wake);
}

/* Whether the loop has taken the last answer: a second one must not overwrite it. */
static void wait_for_empty_answer(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->answer != TASK_NONE)
		pthread_cond_wait(&w->given, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

static void *run(void *self)
{
	struct worker *w = self;
	for (;;) {
		enum task task = wait_for_task(w);
		switch (task) {
		case TASK_OPEN:
			w->open_rc = w->engine.open(w->engine.self, &w->progress, &w->open_fault);
			break;
		case TASK_TRAIN:
			w->engine.train(w->engine.self, &w->training, &w->progress, &w->trained);
			break;
		case TASK_EVALUATE:
			w->engine.evaluate(w->engine.self, w->evaluated_x, &w->evaluated);
			break;
		case TASK_STOP:
		case TASK_NONE:
			w->engine.close(w->engine.self);
			wait_for_empty_answer(w);
			answer(w, TASK_STOP);
			return NULL;
		}
		wait_for_empty_answer(w);
		answer(w, task);
	}
}

static void on_closed(uv_handle_t *handle)
{
	struct worker *w = handle->data;
	w->events.on_stopped(w->events.self);
}

static void on_wake(uv_async_t *async)
{
	struct worker *w = async->data;
	pthread_mutex_lock(&w->lock);
	enum task task = w->answer;
	w->answer = TASK_NONE;
	pthread_cond_signal(&w->given);
	pthread_mutex_unlock(&w->lock);
	if (task == TASK_OPEN)
		w->events.on_opened(w->events.self, w->open_rc, &w->open_fault);
	else if (task == TASK_TRAIN)
		w->events.on_trained(w->events.self, &w->trained);
	else if (task == TASK_EVALUATE)
		w->events.on_evaluated(w->events.self, &w->evaluated);
	else if (task == TASK_STOP) {
		pthread_join(w->thread, NULL);
		uv_close((uv_handle_t *)&w->wake, on_closed);
	}
}

static void give(struct worker *w, enum task task)
{
	pthread_mutex_lock(&w->lock);
	w->task = task;
	pthread_cond_signal(&w->given);
	pthread_mutex_unlock(&w->lock);
}

static void on_never_started(uv_handle_t *handle)
{
	worker_free(handle->data);
}

int worker_start(struct worker **out, uv_loop_t *loop, const struct worker_engine *engine,
	const struct worker_events *events, struct fault *f)
{
	*out = NULL;
	struct worker *w = must_calloc(1, sizeof *w);
	w->engine = *engine;
	w->events = *events;
	w->task = TASK_OPEN;
	atomic_store(&w->progress.loss, NAN);
	atomic_store(&w->progress.grad_norm, NAN);
	atomic_store(&w->progress.lr, NAN);
	atomic_store(&w->progress.tokens_per_second, NAN);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->given, NULL);
	uv_async_init(loop, &w->wake, on_wake);
	w->wake.data = w;
	int failed = pthread_create(&w->thread, NULL, run, w);
	if (failed != 0) {
		uv_close((uv_handle_t *)&w->wake, on_never_started);
		return fault_set(f, SAKIORI_ENOMEM, "the trainer thread could not be started: %s", strerror(failed));
	}
	*out = w;
	return 0;
}

void worker_train(struct worker *w, const struct site_training *job)
{
	w->training = *job;
	give(w, TASK_TRAIN);
}

void worker_evaluate(struct worker *w, const float *x)
{
	w->evaluated_x = x;
	give(w, TASK_EVALUATE);
}

void worker_stop(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->engine.cancel(w->engine.self); /* under the lock: the thread cannot have closed the engine yet */
	w->stopping = true;
	pthread_cond_signal(&w->given);
	pthread_mutex_unlock(&w->lock);
}

void worker_free(struct worker *w)
{
	if (w == NULL)
		return;
	pthread_cond_destroy(&w->given);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

const struct worker_progress *worker_progress(const struct worker *w)
{
	return &w->progress;
}
