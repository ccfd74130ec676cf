/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/round_world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "sim/round_world_private.h"

bool chance(struct world *w, double p)
{
	return !w->calm && rng_uniform(&w->rng) < (float)p;
}

uint64_t between(struct world *w, uint64_t low, uint64_t high)
{
	return low + rng_below(&w->rng, high - low + 1);
}

void broken(struct world *w, const char *what, unsigned site)
{
	if (!w->out->broken) {
		w->out->broken = what;
		w->out->site = site;
	}
}

void trace(struct world *w, uint64_t value)
{
	w->out->trace = (w->out->trace ^ value) * UINT64_C(0x100000001b3);
}

/* ---- Events: a binary heap ordered by time, then by order of birth ---- */

static bool before(const struct event *a, const struct event *b)
{
	return a->at < b->at || (a->at == b->at && a->order < b->order);
}

void schedule(struct world *w, struct event e)
{
	size_t i = w->heap_count++;

	if (!e.order)
		e.order = ++w->order;
	if (w->heap_count > w->heap_capacity) {
		w->heap_capacity = 2 * w->heap_count;
		w->heap = must_realloc(w->heap, w->heap_capacity * sizeof(*w->heap));
	}
	for (; i && before(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
		w->heap[i] = w->heap[(i - 1) / 2];
	w->heap[i] = e;
}

static struct event take(struct world *w)
{
	struct event first = w->heap[0], last = w->heap[--w->heap_count];
	size_t i = 0;

	while (2 * i + 1 < w->heap_count) {
		size_t child = 2 * i + 1;

		if (child + 1 < w->heap_count && before(&w->heap[child + 1], &w->heap[child]))
			child++;
		if (!before(&w->heap[child], &last))
			break;
		w->heap[i] = w->heap[child];
		i = child;
	}
	w->heap[i] = last;
	return first;
}

/* ---- The world between the sites ---- */

struct pair *pair_of(struct world *w, unsigned a, unsigned b)
{
	return a < b ? &w->pairs[a][b] : &w->pairs[b][a];
}

static void connect_later(struct world *w, unsigned a, unsigned b)
{
	schedule(w, (struct event){.at = w->now + between(w, 20, 900), .kind = CONNECT, .site = a, .from = b});
}

void break_pair(struct world *w, unsigned a, unsigned b)
{
	struct pair *p = pair_of(w, a, b);

	if (!p->up)
		return;
	p->up = false;
	for (int end = 0; end < 2; end++) {
		unsigned at = end ? a : b, from = end ? b : a;

		schedule(w, (struct event){.at = w->now + between(w, 0, 500),
				    .kind = DOWN,
				    .site = at,
				    .from = from,
				    .session = p->session,
				    .life = w->members[at].life});
	}
	connect_later(w, a, b);
}

void world_send(struct world *w, unsigned from, unsigned to, struct message m)
{
	struct pair *p = pair_of(w, from, to);
	uint64_t *last = &p->last[from > to], at = w->now + between(w, 1, 60);

	if (!p->up || p->session != w->members[from].halves[to].session)
		return;
	if (chance(w, w->set.loss)) {
		break_pair(w, from, to);
		return;
	}
	if (chance(w, w->set.freeze))
		at += between(w, 100, 3 * DEADLINE);
	*last = at > *last ? at : *last;
	schedule(w, (struct event){.at = *last,
			    .kind = MESSAGE,
			    .site = to,
			    .from = from,
			    .session = p->session,
			    .life = w->members[to].life,
			    .message = m});
}

/* ---- What must always hold ---- */

int64_t term(const struct round_word *word, int64_t low, int64_t high)
{
	return llround((double)word->weight * (double)(high - low));
}

/* Sum of all durable models = sum of all committed local steps + terms that one end has counted and the other has not.
 */
void check_sum(struct world *w)
{
	int64_t sum = 0;

	for (unsigned i = 0; i < w->set.sites; i++) {
		const struct disk *d = &w->members[i].disk;

		sum += d->x - d->displacement;
		for (unsigned j = i + 1; j < w->set.sites; j++) {
			const struct disk *other = &w->members[j].disk;
			const struct round_word *word = &d->edges[j].row.word;

			if (!w->pairs[i][j].exists || word->number <= other->edges[i].row.applied)
				continue;
			if (word->number != other->edges[i].row.applied + 1)
				broken(w, "two words are outstanding on an edge", i);
			else if (!d->kept[word->a] || !other->kept[word->b])
				broken(w, "a version that a word names was thrown away", i);
			sum -= term(word, d->own[word->a], other->own[word->b]);
		}
	}
	if (sum != 0)
		broken(w, "the sum of all models moved", 0);
}

int64_t own_version(struct world *w, unsigned site, uint64_t version)
{
	const struct disk *d = &w->members[site].disk;

	if (!version)
		return 0;
	if (version >= VERSIONS || !d->kept[version]) {
		broken(w, "a site needs a version of itself that it did not keep", site);
		return 0;
	}
	return d->own[version];
}

static void on_connect(struct world *w, unsigned a, unsigned b)
{
	struct pair *p = pair_of(w, a, b);

	if (p->up || !w->members[a].alive || !w->members[b].alive) {
		if (!p->up)
			connect_later(w, a, b);
		return;
	}
	p->up = true;
	p->session++;
	p->last[0] = p->last[1] = 0;
	w->out->sessions++;
	for (int end = 0; end < 2; end++) {
		unsigned at = end ? a : b, to = end ? b : a;
		struct half *h = &w->members[at].halves[to];
		struct message hello = {.kind = HELLO};

		/* Perhaps it has not noticed yet that the last session is over. */
		round_on_down(w->members[at].round, h->edge, w->now);
		h->inbox_count = 0;
		h->session = p->session;
		round_greet(w->members[at].round, h->edge, &hello.greeting);
		world_send(w, at, to, hello);
	}
	for (int end = 0; end < 2; end++)
		if (w->members[end ? a : b].alive)
			member_perform(w, end ? a : b);
}

static void on_event(struct world *w, struct event *e)
{
	struct member *m = &w->members[e->site];
	struct half *h = &m->halves[e->from];

	if (e->kind == CONNECT) {
		on_connect(w, e->site, e->from);
		return;
	}
	if (e->life != m->life)
		return;
	if (e->kind == RESTART) {
		member_start(w, e->site);
		return;
	}
	if (m->frozen_until > w->now) {
		e->at = m->frozen_until;
		schedule(w, *e);
		return;
	}
	switch (e->kind) {
	case MESSAGE:
		if (h->session != e->session)
			return;
		h->inbox = must_realloc(h->inbox, (h->inbox_count + 1) * sizeof(*h->inbox));
		h->inbox[h->inbox_count++] = e->message;
		break;
	case DOWN:
		if (h->session != e->session)
			return;
		h->session = 0;
		h->inbox_count = 0;
		round_on_down(m->round, h->edge, w->now);
		break;
	case WORKED:
		member_on_worked(w, e->site);
		break;
	case TRAINED:
		m->moved = (int64_t)between(w, 0, 2000) - 1000 + (int64_t)e->site * 300;
		m->x += m->moved;
		round_on_trained(m->round, w->now, true);
		break;
	case EVALUATED:
		round_on_evaluated(m->round, w->now);
		break;
	case TIMER:
		round_on_timer(m->round, w->now);
		break;
	default:
		break;
	}
	if (m->alive)
		member_perform(w, e->site);
	if (m->alive)
		member_deliver(w, e->site);
}

static bool finished(const struct world *w)
{
	for (unsigned i = 0; i < w->set.sites; i++) {
		const struct member *m = &w->members[i];

		if (!m->alive || m->disk.row.round < w->set.rounds || m->disk.row.point != ROUND_MIXED)
			return false;
	}
	return true;
}

static void check_end(struct world *w)
{
	check_sum(w);
	for (unsigned i = 0; i < w->set.sites; i++) {
		const struct disk *d = &w->members[i].disk;

		if (d->trained != w->set.rounds || d->row.round != w->set.rounds || d->row.sequence != w->set.rounds)
			broken(w, "a round was not counted exactly once", i);
		for (unsigned j = 0; j < w->set.sites; j++) {
			const struct disk *o = &w->members[j].disk;

			if (i == j || !pair_of(w, i, j)->exists)
				continue;
			if (d->edges[j].row.have != o->row.sequence || d->edges[j].replica != o->self)
				broken(w, "a replica is not its author's at rest", i);
			if (i < j && d->edges[j].row.word.number != o->edges[i].row.applied)
				broken(w, "a word was never applied", i);
		}
	}
}

void world_run(const struct world_settings *settings, struct world_result *result)
{
	struct world *w = must_calloc(1, sizeof(*w));
	uint64_t calm_at = 0;

	*result = (struct world_result){.trace = UINT64_C(0xcbf29ce484222325)};
	w->set = *settings;
	w->out = result;
	rng_init(&w->rng, settings->seed, 1);
	for (unsigned i = 0; i < settings->sites; i++)
		for (unsigned j = i + 1; j < settings->sites; j++) {
			w->pairs[i][j].exists = settings->full || j == i + 1 || (i == 0 && j == settings->sites - 1);
			if (w->pairs[i][j].exists)
				connect_later(w, i, j);
		}
	for (unsigned i = 0; i < settings->sites; i++)
		member_start(w, i);
	while (w->heap_count && !result->broken) {
		struct event e = take(w);

		w->now = e.at;
		on_event(w, &e);
		if (!w->calm && finished(w)) {
			w->calm = true;
			calm_at = w->now;
		}
		/* Time enough for every reconnection, snapshot and late word after the last fault. */
		if (w->calm && w->now > calm_at + 20 * DEADLINE)
			break;
		if (w->now > UINT64_C(100000000))
			broken(w, "the sites never finished", 0);
	}
	if (!result->broken)
		check_end(w);
	result->virtual_ms = w->now;
	for (unsigned i = 0; i < settings->sites; i++) {
		round_free(w->members[i].round);
		for (unsigned j = 0; j < settings->sites; j++)
			free(w->members[i].halves[j].inbox);
	}
	free(w->heap);
	free(w);
}
