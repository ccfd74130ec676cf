/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/round_world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "gossip/round.h"

#define SITES_MAX 8
#define DEADLINE 4000
#define WORK_MAX 60
#define VERSIONS 4096

enum event_kind { MESSAGE, DOWN, CONNECT, WORKED, TRAINED, EVALUATED, TIMER, RESTART };
enum message_kind { HELLO, UPDATE, WORD, ACK };

struct message {
	enum message_kind kind;
	struct round_greeting greeting;
	struct round_update update;
	int64_t value; /* delta or snapshot */
	struct round_word word;
	uint64_t have, applied;
};

struct event {
	uint64_t at, order;
	enum event_kind kind;
	unsigned site, from;
	uint64_t life;    /* of the site; an older one's events are void */
	uint64_t session; /* of the pair */
	struct message message;
};

/* One side of an edge in memory. */
struct half {
	size_t edge; /* index in the round */
	int64_t replica;
	uint64_t session; /* 0: down */
	struct message *inbox;
	size_t inbox_count;
	struct message applying;
};

struct disk_edge {
	struct round_edge_row row;
	int64_t replica;
};

struct disk {
	struct round_row row;
	int64_t x, self, q;
	int64_t own[VERSIONS]; /* own replica by version; kept[] says whether it may be read */
	bool kept[VERSIONS];
	struct disk_edge edges[SITES_MAX];
	int64_t displacement; /* sum of all committed local steps */
	uint64_t trained;     /* transactions of COMMIT_TRAINED */
};

struct member {
	bool alive;
	uint64_t life;
	struct round *round;
	int64_t x, self, q, pending, moved;
	struct round_action commit;
	struct half halves[SITES_MAX];
	struct disk disk;
	uint64_t frozen_until, frozen_total;
};

struct pair {
	bool exists, up;
	uint64_t session;
	uint64_t last[2]; /* delivery time of the last message, by direction: a session never reorders */
};

struct world {
	struct world_settings set;
	struct world_result *out;
	struct rng rng;
	uint64_t now, order;
	struct event *heap;
	size_t heap_count, heap_capacity;
	struct member members[SITES_MAX];
	struct pair pairs[SITES_MAX][SITES_MAX]; /* low, high */
	bool calm;                               /* the faults are over */
};

static bool chance(struct world *w, double p)
{
	return !w->calm && rng_uniform(&w->rng) < (float)p;
}

static uint64_t between(struct world *w, uint64_t low, uint64_t high)
{
	return low + rng_below(&w->rng, high - low + 1);
}

static void broken(struct world *w, const char *what, unsigned site)
{
	if (!w->out->broken) {
		w->out->broken = what;
		w->out->site = site;
	}
}

static void trace(struct world *w, uint64_t value)
{
	w->out->trace = (w->out->trace ^ value) * UINT64_C(0x100000001b3);
}

/* ---- Events: a binary heap ordered by time, then by order of birth ---- */

static bool before(const struct event *a, const struct event *b)
{
	return a->at < b->at || (a->at == b->at && a->order < b->order);
}

static void schedule(struct world *w, struct event e)
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

static struct pair *pair_of(struct world *w, unsigned a, unsigned b)
{
	return a < b ? &w->pairs[a][b] : &w->pairs[b][a];
}

static void connect_later(struct world *w, unsigned a, unsigned b)
{
	schedule(w, (struct event){.at = w->now + between(w, 20, 900), .kind = CONNECT, .site = a, .from = b});
}

static void break_pair(struct world *w, unsigned a, unsigned b)
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

static void send(struct world *w, unsigned from, unsigned to, struct message m)
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

/* A word's term; both ends compute it from the same two integers. */
static int64_t term(const struct round_word *word, int64_t low, int64_t high)
{
	return llround((double)word->weight * (double)(high - low));
}

/* Sum of all durable models = sum of all committed local steps + terms that one end has counted and the other has not.
 */
static void check_sum(struct world *w)
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

static int64_t own_version(struct world *w, unsigned site, uint64_t version)
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

/* ---- One site ---- */

static void perform(struct world *w, unsigned site);

static void crash(struct world *w, unsigned site)
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

static void start(struct world *w, unsigned site)
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
	perform(w, site);
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
	send(w, site, to, m);
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

/* Carries out what the round wants. Any effect may be the site's last. */
static void perform(struct world *w, unsigned site)
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
			crash(w, site);
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
			send(w, site, to, (struct message){.kind = WORD, .word = a.word});
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
	perform(w, site);
	return m->alive;
}

static void deliver(struct world *w, unsigned site)
{
	for (unsigned j = 0; j < w->set.sites && w->members[site].alive; j++)
		while (deliver_one(w, site, j))
			;
}

static void on_worked(struct world *w, unsigned site)
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
		crash(w, site);
	else
		round_on_committed(m->round, w->now);
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
		send(w, at, to, hello);
	}
	for (int end = 0; end < 2; end++)
		if (w->members[end ? a : b].alive)
			perform(w, end ? a : b);
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
		start(w, e->site);
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
		on_worked(w, e->site);
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
		perform(w, e->site);
	if (m->alive)
		deliver(w, e->site);
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
		start(w, i);
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
