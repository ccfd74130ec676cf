/* SPDX-License-Identifier: Apache-2.0 */
/* The trainer thread and its mailbox: one of the two places where threads meet (the other is net/link.c). The loop
 * gives one job at a time and gets its answer as a call on the loop. Loop thread only, except where a comment says
 * otherwise. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "site/site.h"

struct worker;

/* What the thread is doing; written by the engine, read by the loop at any time. Each number is whole, together they
 * may be of two moments. */
struct worker_progress {
	_Atomic uint64_t load_done, load_total;                /* bytes while opening */
	_Atomic uint64_t steps, tokens;                        /* since the start of the process */
	_Atomic double loss, grad_norm, lr, tokens_per_second; /* of the last step; loss NaN before the first */
};

/* What the thread runs. Every function is called on the trainer thread, but cancel, which any thread may call. */
struct worker_engine {
	void *self;
	/* Takes seconds to minutes. */
	int (*open)(void *self, struct worker_progress *progress, struct fault *f);
	void (*train)(void *self, const struct site_training *job, struct worker_progress *progress,
		struct site_trained *out);
	void (*evaluate)(void *self, const float *x, struct site_evaluated *out);
	/* The running, else the next, train or evaluate ends soon with SAKIORI_ECANCELLED. */
	void (*cancel)(void *self);
	/* Also after an open that failed. */
	void (*close)(void *self);
};

/* Called on the loop. */
struct worker_events {
	void *self;
	void (*on_opened)(void *self, int rc, const struct fault *f);
	void (*on_trained)(void *self, const struct site_trained *result);
	void (*on_evaluated)(void *self, const struct site_evaluated *result);
	/* The thread has ended; after this worker_free is allowed. */
	void (*on_stopped)(void *self);
};

/* Starts the thread, which begins with engine->open. */
int worker_start(struct worker **out, uv_loop_t *loop, const struct worker_engine *engine,
	const struct worker_events *events, struct fault *f);
/* One job at a time, after on_opened said 0. The job's vectors are the thread's until the answer; the struct is copied.
 */
void worker_train(struct worker *w, const struct site_training *job);
void worker_evaluate(struct worker *w, const float *x);
/* Cancels what runs and ends the thread: first the answer of a job under way, then on_stopped. An open under way is not
 * interrupted. */
void worker_stop(struct worker *w);
/* Only after on_stopped. NULL is fine. */
void worker_free(struct worker *w);
const struct worker_progress *worker_progress(const struct worker *w);
