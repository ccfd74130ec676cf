/* SPDX-License-Identifier: Apache-2.0 */
/* The network: reliable and ordered while a connection lives, like TCP; everything on its way is lost when it does not. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "sim/world.h"

#define QUEUE_BYTES (1 << 20)

static struct sim_pipe *pipe_of(struct world *w, const struct sim_end *end)
{
	for (struct sim_pipe *p = w->pipes; p; p = p->next)
		if (end == &p->ends[0] || end == &p->ends[1])
			return p;
	abort();
}

static struct sim_end *other_end(struct world *w, struct sim_end *end)
{
	struct sim_pipe *p = pipe_of(w, end);

	return end == &p->ends[0] ? &p->ends[1] : &p->ends[0];
}

static void tell_closed(struct world *w, struct sim_end *end, uint64_t at)
{
	sim_events_add(&w->events,
		(struct sim_event){
			.at = at, .kind = SIM_CLOSED, .member = end->member->index, .life = end->life, .subject = end});
}

/* Lost in the middle: each end notices in its own time. */
static void break_pipe(struct world *w, struct sim_pipe *p)
{
	if (p->broken)
		return;
	p->broken = true;
	w->out->breaks++;
	if (!p->ending) {
		tell_closed(w, &p->ends[0], w->now + world_between(w, 0, 2000));
		tell_closed(w, &p->ends[1], w->now + world_between(w, 0, 2000));
	}
	p->ending = true;
}

static uint64_t latency(struct world *w)
{
	return world_between(w, w->set.latency_ms / 2, w->set.latency_ms * 3 / 2);
}

int link_effect_dial(void *self, const char *url, int tag)
{
	struct member *m = self;
	struct world *w = m->world;

	if (member_effect(m))
		sim_events_add(&w->events, (struct sim_event){.at = w->now + latency(w) + latency(w),
						   .kind = SIM_DIALLED,
						   .member = m->index,
						   .life = m->life,
						   .number = (uint64_t)tag,
						   .bytes = (uint8_t *)must_strdup(url)});
	return 0;
}

void link_on_dialled(struct world *w, struct sim_event *e)
{
	struct member *from = &w->members[e->member];
	struct member *to = &w->members[strtoul((const char *)e->bytes + strlen("sim:"), NULL, 10)];
	struct sim_pipe *p;

	if (!to->site || to->frozen_until > w->now) {
		site_on_dial_failed(from->site, (int)e->number, "nobody listens there");
		return;
	}
	w->out->connections++;
	p = must_calloc(1, sizeof(*p));
	p->next = w->pipes;
	w->pipes = p;
	p->ends[0] = (struct sim_end){.member = from, .life = from->life};
	p->ends[1] = (struct sim_end){.member = to, .life = to->life};
	p->ends[1].connection = site_on_opened(to->site, &p->ends[1], -1);
	if (to->doomed)
		member_crash(to);
	p->ends[0].connection = site_on_opened(from->site, &p->ends[0], (int)e->number);
}

void link_effect_send(void *self, void *connection, const uint8_t *frame, size_t n)
{
	struct member *m = self;
	struct world *w = m->world;
	struct sim_end *to = other_end(w, connection);
	struct sim_pipe *p = pipe_of(w, connection);
	uint64_t at = w->now + latency(w) + n * 1000 / w->set.bytes_per_second;
	struct sim_event e = {
		.kind = SIM_FRAME, .member = to->member->index, .life = to->life, .subject = to, .size = n};

	if (!member_effect(m) || p->broken)
		return;
	w->out->frames++;
	w->out->bytes += n;
	if (world_chance(w, w->set.loss)) {
		break_pipe(w, p);
		return;
	}
	if (world_chance(w, w->set.freeze / 4)) {
		at += world_between(w, 100, 2 * w->set.deadline_ms);
		w->out->freezes++;
	}
	to->last = at > to->last ? at : to->last;
	to->queued += n;
	e.at = to->last;
	e.bytes = must_alloc(n);
	memcpy(e.bytes, frame, n);
	sim_events_add(&w->events, e);
}

void link_on_frame(struct world *w, struct sim_event *e)
{
	struct sim_end *end = e->subject, *from = other_end(w, end);
	struct sim_pipe *p = pipe_of(w, end);

	end->queued -= e->size;
	if (p->broken)
		return;
	if (!end->closed && end->connection)
		site_on_frame(end->member->site, end->connection, e->bytes, e->size);
	/* The sender has room again. */
	if (!from->closed && from->connection && from->member->site && from->life == from->member->life &&
		!from->member->doomed && from->member->frozen_until <= w->now) {
		site_on_drained(from->member->site, from->connection);
		if (from->member->doomed && from->member != end->member)
			member_crash(from->member);
	}
}

size_t link_effect_room(void *self, void *connection)
{
	struct member *m = self;
	const struct sim_end *to = other_end(m->world, connection);

	return to->queued < QUEUE_BYTES ? QUEUE_BYTES - to->queued : 0;
}

void link_effect_authenticated(void *self, void *connection)
{
	(void)self;
	(void)connection;
}

void link_effect_close(void *self, void *connection, bool flush)
{
	struct member *m = self;
	struct world *w = m->world;
	struct sim_end *end = connection, *to = other_end(w, end);
	struct sim_pipe *p = pipe_of(w, end);
	uint64_t at = w->now + latency(w);

	(void)flush;
	if (!member_effect(m))
		return;
	end->closed = true;
	if (p->ending)
		return;
	p->ending = true;
	tell_closed(w, end, w->now);
	tell_closed(w, to, at > to->last ? at : to->last);
}

void link_on_closed(struct world *w, struct sim_event *e)
{
	struct sim_end *end = e->subject;
	struct site_connection *c = end->connection;

	(void)w;
	end->connection = NULL;
	end->closed = true;
	if (c)
		site_on_closed(end->member->site, c);
}

void link_drop_member(struct member *m)
{
	struct world *w = m->world;

	for (struct sim_pipe *p = w->pipes; p; p = p->next)
		for (int k = 0; k < 2; k++)
			if (p->ends[k].member == m && p->ends[k].life == m->life) {
				p->ends[k].connection = NULL;
				p->ends[k].closed = true;
				break_pipe(w, p);
			}
}

/* Frees pipes that nobody can hear of any more. */
void link_sweep(struct world *w)
{
	struct sim_pipe **at = &w->pipes;

	while (*at) {
		struct sim_pipe *p = *at;
		bool used = p->ends[0].connection || p->ends[1].connection;

		for (size_t i = 0; i < w->events.count && !used; i++)
			used = w->events.heap[i].subject == &p->ends[0] || w->events.heap[i].subject == &p->ends[1];
		if (used) {
			at = &p->next;
		} else {
			*at = p->next;
			free(p);
		}
	}
}

void link_fini(struct world *w)
{
	while (w->pipes) {
		struct sim_pipe *p = w->pipes;

		w->pipes = p->next;
		free(p);
	}
}
