/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/lane.h"

#include <stdlib.h>

#include "base/bytes.h"

struct job {
	struct job *next;
	void (*run)(void *data);
	void (*done)(void *data);
	void *data;
};

struct lane {
	uv_loop_t *loop;
	uv_work_t work;
	struct job *first; /* the running one, when there is any */
	struct job **last;
};

static void on_run(uv_work_t *work)
{
	struct lane *lane = work->data;
	lane->first->run(lane->first->data);
}

static void on_done(uv_work_t *work, int status);

static void start(struct lane *lane)
{
	uv_queue_work(lane->loop, &lane->work, on_run, on_done);
}

static void on_done(uv_work_t *work, int status)
{
	(void)status; /* never cancelled */
	struct lane *lane = work->data;
	struct job *job = lane->first;
	lane->first = job->next;
	if (lane->first == NULL)
		lane->last = &lane->first;
	else
		start(lane);
	job->done(job->data);
	free(job);
}

struct lane *lane_new(uv_loop_t *loop)
{
	struct lane *lane = must_calloc(1, sizeof *lane);
	lane->loop = loop;
	lane->work.data = lane;
	lane->last = &lane->first;
	return lane;
}

void lane_free(struct lane *lane)
{
	free(lane);
}

void lane_push(struct lane *lane, void (*run)(void *data), void (*done)(void *data), void *data)
{
	bool idle = lane->first == NULL;
	struct job *job = must_calloc(1, sizeof *job);
	*job = (struct job){.run = run, .done = done, .data = data};
	*lane->last = job;
	lane->last = &job->next;
	if (idle)
		start(lane);
}

bool lane_is_empty(const struct lane *lane)
{
	return lane->first == NULL;
}
