/* SPDX-License-Identifier: Apache-2.0 */
/* One site of a world of rounds: its lane, its disk, its messages, its death and return. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "sim/round_world_private.h"

void member_crash(struct world *w, unsigned site)
{
	struct member *m = &w->members[site];

	m->alive = false;
	m->life++;
	w->out->crashes++;
	round_free(m->round);
	m->round = NULL;
	for (unsigned j = 0; j < w->set.sites; j++) {
		struct half *h = &m->halves[j];

		free(h->inbox);
		*h = (struct half){.edge = h->edge};
		if (j != site && pair_of(w, site, j)->exists)
			break_pair(w, site, j);
	}
	schedule(w,
		(struct event){
			.at = w->now + between(w, 10, 2 * DEADLINE), .kind = RESTART, .site = site, .life = m->life});
}

void member_start(struct world *w, unsigned site)
{
	static const struct round_settings settings = {
		.gamma = 1, .deadline_ms = DEADLINE, .deadline_min_ms = 200, .evaluate_every = 3};
	struct round_settings set = settings;
	struct member *m = &w->members[site];
	struct disk *d = &m->disk;

	set.rounds = w->set.rounds;
	m->alive = true;
	m->x = d->x;
	m->self = d->self;
	m->q = d->q;
	m->pending = 0;
	if (w->set.plant == PLANT_ENCODE_AGAIN && d->row.point == ROUND_TRAINED)
		m->q++;
	m->round = round_new(&set, &d->row);
	for (unsigned j = 0; j < w->set.sites; j++) {
		if (j == site || !pair_of(w, site, j)->exists)
			continue;
		if (w->set.plant == PLANT_WORD_LOST && d->edges[j].row.word.number > d->edges[j].row.acknowledged)
			d->edges[j].row.word.number--;
		m->halves[j].edge = round_add_edge(m->round, site < j, &d->edges[j].row);
		m->halves[j].replica = d->edges[j].replica;
	}
	round_start(m->round, w->now);
	member_perform(w, site);
}

static unsigned neighbour_of(const struct world *w, unsigned site, size_t edge)
{
	for (unsigned j = 0; j < w->set.sites; j++)
		if (j != site && (site < j ? w->pairs[site][j] : w->pairs[j][site]).exists &&
			w->members[site].halves[j].edge == edge)
			return j;
	abort();
}

/* What the lane does for a commit, up to and without its answer. */
static void commit_work(struct world *w, unsigned site)
{
	struct member *m = &w->members[site];
	struct disk *d = &m->disk;
	uint64_t pins[64];
	size_t pin_count;

	m->x += m->pending;
	m->pending = 0;
	if (m->commit.kind == ROUND_COMMIT_TRAINED) {
		/* A coarse quantizer: what is left over waits for the next round. */
		m->q = (m->x - m->self) / 8 * 8;
		m->self += m->q;
		d->displacement += m->moved;
		d->trained++;
	}
	d->x = m->x;
	for (unsigned j = 0; j < w->set.sites; j++) {
		struct round_word word;

		if (j == site || !pair_of(w, site, j)->exists)
			continue;
		if (m->commit.kind == ROUND_COMMIT_MIXED && round_decision(m->round, m->halves[j].edge, &word)) {
			if (own_version(w, site, word.a) != m->self)
				broken(w, "a word names a version that is not the present one", site);
			m->x += term(&word, m->self, m->halves[j].replica);
			w->out->words++;
		}
		round_edge_row(m->round, m->halves[j].edge, &d->edges[j].row);
		d->edges[j].replica = m->halves[j].replica;
	}
	if (w->set.plant != PLANT_SEND_BEFORE_COMMIT)
		d->x = m->x;
	round_row(m->round, &d->row);
	d->self = m->self;
	d->q = m->q;
	if (d->row.sequence >= VERSIONS)
		abort();
	d->own[d->row.sequence] = m->self;
	pin_count = round_pins(m->round, pins, 64);
	memset(d->kept, 0, sizeof(d->kept));
	for (size_t i = 0; i < pin_count; i++)
		d->kept[pins[i]] = w->set.plant != PLANT_PINS_LOST || pins[i] == d->row.sequence;
	trace(w, d->row.round * 4 + d->row.point);
	trace(w, (uint64_t)d->x);
	check_sum(w);
}

static void apply_update(struct world *w, unsigned site, unsigned from)
{
	struct half *h = &w->members[site].halves[from];
	const struct message *m = &h->applying;
	const struct disk *author = &w->members[from].disk;

	h->replica = m->update.kind == ROUND_DELTA ? h->replica + m->value : m->value;
	if (author->kept[m->update.sequence] && author->own[m->update.sequence] != h->replica)
		broken(w, "a replica is not what its author published", site);
}

static void apply_word(struct world *w, unsigned site, unsigned from)
{
	struct member *m = &w->members[site];
	struct half *h = &m->halves[from];
	const struct round_word *word = &h->applying.word;
	int64_t t = term(word, h->replica, own_version(w, site, word->b));

	if (w->set.plant == PLANT_WORD_TWICE && chance(w, 0.05))
		t *= 2;
	if (m->commit.away) {
		m->pending -= t;
		w->out->late_words++;
	} else {
		m->x -= t;
	}
}

static void send_numbers(struct world *w, unsigned site, unsigned to, const struct round_action *a, struct message m)
{
	struct round_edge_status e;

	round_edge_status(w->members[site].round, w->members[site].halves[to].edge, &e);
	m.have = w->set.plant == PLANT_EARLY_ACK ? e.have : a->have;
	m.applied = w->set.plant == PLANT_EARLY_ACK ? e.applied : a->applied;
	world_send(w, site, to, m);
}

static void send_update(struct world *w, unsigned site, unsigned to, const struct round_action *a)
{
	struct member *m = &w->members[site];
	struct round_status status;
	struct message out = {.kind = UPDATE, .update = {.kind = a->update_kind, .sequence = a->version}};

	round_status(m->round, &status);
	out.update.round = status.durable.round;
	out.update.degree = status.degree;
	out.update.finished = status.finished;
	if (a->update_kind == ROUND_DELTA) {
		out.update.base = a->version - 1;
		out.value = m->q;
	} else {
		out.value = own_version(w, site, a->version);
		w->out->snapshots++;
	}
	send_numbers(w, site, to, a, out);
}

static void work(struct world *w, unsigned site, enum event_kind kind, uint64_t ms)
{
	schedule(w, (struct event){.at = w->now + ms, .kind = kind, .site = site, .life = w->members[site].life});
}

void member_perform(struct world *w, unsigned site)
{
	struct member *m = &w->members[site];
	struct round_action a;
	struct round_status status;

	while (round_next(m->round, &a)) {
		unsigned to = a.kind == ROUND_APPLY_UPDATE || a.kind == ROUND_APPLY_WORD || a.kind >= ROUND_SEND_UPDATE
				      ? neighbour_of(w, site, a.edge)
				      : 0;

		trace(w, site * 100 + a.kind);
		if (chance(w, w->set.crash)) {
			member_crash(w, site);
			return;
		}
		if (chance(w, w->set.freeze / 4)) {
			uint64_t ms = between(w, 10, 3 * DEADLINE);

			/* Never shorter: what it already delayed would be overtaken. */
			if (m->frozen_until < w->now + ms)
				m->frozen_until = w->now + ms;
			m->frozen_total += ms;
		}
		switch (a.kind) {
		case ROUND_TRAIN:
			work(w, site, TRAINED, between(w, 100, 400));
			break;
		case ROUND_EVALUATE_TRAINED:
		case ROUND_EVALUATE_MIXED:
			work(w, site, EVALUATED, between(w, 10, 100));
			break;
		case ROUND_COMMIT_TRAINED:
		case ROUND_COMMIT_MIXED:
		case ROUND_COMMIT_IDLE:
		case ROUND_APPLY_UPDATE:
		case ROUND_APPLY_WORD:
			m->commit = a;
			work(w, site, WORKED, between(w, 1, WORK_MAX));
			break;
		case ROUND_SEND_UPDATE:
			send_update(w, site, to, &a);
			break;
		case ROUND_SEND_WORD:
			world_send(w, site, to, (struct message){.kind = WORD, .word = a.word});
			break;
		case ROUND_SEND_ACK:
			send_numbers(w, site, to, &a, (struct message){.kind = ACK});
			break;
		case ROUND_HANG_UP:
			broken(w, round_trouble_label(a.trouble), site);
			break;
		case ROUND_DONE:
			round_status(m->round, &status);
			/* Evaluations and the lane are the site's own time, not waiting. */
			if (status.gather_ms > DEADLINE + 4 * WORK_MAX + 100 + m->frozen_total)
				broken(w, "a site waited beyond its deadline", site);
			m->frozen_total = 0;
			break;
		}
	}
	if (round_deadline(m->round) != UINT64_MAX)
		schedule(w,
			(struct event){.at = round_deadline(m->round), .kind = TIMER, .site = site, .life = m->life});
}

/* Gives the round a message, if it may have one now. */
static bool deliver_one(struct world *w, unsigned site, unsigned from)
{
	struct member *m = &w->members[site];
	struct half *h = &m->halves[from];
	struct message msg;

	if (!h->inbox_count || round_busy(m->round))
		return false;
	msg = h->inbox[0];
	memmove(h->inbox, h->inbox + 1, --h->inbox_count * sizeof(*h->inbox));
	trace(w, site * 1000 + from * 10 + msg.kind);
	h->applying = msg;
	switch (msg.kind) {
	case HELLO:
		round_on_up(m->round, h->edge, &msg.greeting, w->now);
		break;
	case UPDATE:
		round_on_acknowledged(m->round, h->edge, msg.have, msg.applied, w->now);
		/* The round may have begun a commit: then the update itself has to wait. */
		if (round_busy(m->round)) {
			h->inbox = must_realloc(h->inbox, (h->inbox_count + 1) * sizeof(*h->inbox));
			memmove(h->inbox + 1, h->inbox, h->inbox_count++ * sizeof(*h->inbox));
			h->inbox[0] = msg;
		} else {
			round_on_update(m->round, h->edge, &msg.update, w->now);
		}
		break;
	case WORD:
		round_on_word(m->round, h->edge, &msg.word, w->now);
		break;
	case ACK:
		round_on_acknowledged(m->round, h->edge, msg.have, msg.applied, w->now);
		break;
	}
	member_perform(w, site);
	return m->alive;
}

void member_deliver(struct world *w, unsigned site)
{
	for (unsigned j = 0; j < w->set.sites && w->members[site].alive; j++)
		while (deliver_one(w, site, j))
			;
}

void member_on_worked(struct world *w, unsigned site)
{
	struct member *m = &w->members[site];

	if (m->commit.kind == ROUND_APPLY_UPDATE || m->commit.kind == ROUND_APPLY_WORD) {
		unsigned from = neighbour_of(w, site, m->commit.edge);

		(m->commit.kind == ROUND_APPLY_UPDATE ? apply_update : apply_word)(w, site, from);
		round_on_applied(m->round, w->now, true);
		return;
	}
	commit_work(w, site);
	if (chance(w, w->set.crash)) /* durable, but nobody knows */
		member_crash(w, site);
	else
		round_on_committed(m->round, w->now);
}
