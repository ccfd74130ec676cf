/* SPDX-License-Identifier: Apache-2.0 */
/* The story of a round.
 *
 * Every site holds a model x and publishes a replica x^ of it, which its neighbours copy. A round is:
 *
 *   train    the trainer has x for H steps; what arrives meanwhile waits in a pending vector
 *   commit   q = Q(x - x^) moves x^ one version on; x, x^ and q become durable, and only then does q leave
 *   gather   until every neighbour that can be expected to has sent its new version, or the deadline
 *   commit   on each edge whose lower end we are, a *word*: "my version a against your version b counts, with this
 *            weight". x moves by weight (x^_j@b - x^_i@a); x and the word become durable, and only then does the word
 * leave settle   until the words of the lower neighbours are in, or the deadline; each moves x by the mirror of its
 * term
 *
 * Nothing here waits beyond the deadline, and nothing is lost by not waiting: an update or a word that comes late
 * counts late. What must never happen is that one end counts an edge and the other does not, for then the mean of all
 * models drifts. So exactly one end decides, the lower one; it decides durably; and it repeats its word after every
 * reconnection until the other end says, durably too, that it has applied it. Words are numbered, so that a repetition
 * is seen as one.
 *
 * A word can only be mirrored by somebody who has both versions it names, bit for bit. Three rules see to that:
 *
 *   - Updates to a neighbour are stop-and-wait. The next one leaves when the last is durable over there: as a delta if
 * the neighbour is exactly one version back, else as a snapshot.
 *   - The lower end brings the higher to version a before it sends the word, and nothing newer before the word. Until
 * the word is acknowledged it keeps its own version a.
 *   - The higher end keeps each own version that a word may still name: every one sent, from the last that the lower
 * end acknowledged. A version is on record (`held`) *before* it is first sent, and goes when a word or an
 * acknowledgement passes it. Two cases would let an acknowledgement overtake a word; both are closed: while a Hello
 * says that a word is still owed, the higher end neither forgets nor sends anything; and while a word waits to be sent,
 * the lower end acknowledges nothing newer than the word's b. Where sessions break so often that the record is full,
 * the newest version on it is sent again instead of a newer one.
 *
 * Everything may be lost with a session. The Hellos of the next one say what is durable at each end, and both go on
 * from there. Numbers in a Hello that cannot be, such as a neighbour that holds an update we never made, mean that
 * somebody's disk went back in time; then the edge stays out until a person has looked. */
#include "gossip/round.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "gossip/round_private.h"
#include "gossip/topology.h"

bool round_next(struct round *r, struct round_action *action)
{
	if (r->actions.head == r->actions.count) {
		r->actions.head = r->actions.count = 0;
		return false;
	}
	*action = r->actions.actions[r->actions.head++];
	return true;
}

bool round_pending(const struct round *r)
{
	return r->actions.head < r->actions.count;
}

bool round_busy(const struct round *r)
{
	return r->task != TASK_NONE;
}

/* ---- Waiting ---- */

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Three times the median wait of the last rounds plus the time of our own training and evaluations, within the configured bounds. */
static uint64_t patience(const struct round *r)
{
	uint64_t sorted[HISTORY], ms = r->settings.deadline_ms;

	if (r->history_count) {
		size_t n = r->history_count < HISTORY ? r->history_count : HISTORY;

		memcpy(sorted, r->history, n * sizeof(*sorted));
		qsort(sorted, n, sizeof(*sorted), compare_u64);
		ms = 3 * sorted[n / 2] + r->train_ms + 2 * r->evaluate_ms;
	}
	if (ms < r->settings.deadline_min_ms)
		ms = r->settings.deadline_min_ms;
	return ms < r->settings.deadline_ms ? ms : r->settings.deadline_ms;
}

static bool awaited(const struct round *r, const struct edge *e)
{
	(void)r;
	return !e->removed && e->presence != ROUND_DOWN && !e->finished && !e->behind && e->have <= e->seen;
}

/* A lower neighbour whose update of this round we mixed, and to whom ours left as soon as it was durable, waits for ours
 * before it mixes and will give its word for the pair; unless it has gone on without us, which its next update shows. If ours
 * left later, after a reconnection, it may have mixed without us, and who lets us wait in vain once is not waited for
 * until its next word. */
static bool word_expected(const struct round *r, const struct edge *e)
{
	return !e->removed && !e->lower && e->presence == ROUND_UP && e->fresh && e->have == e->seen &&
	       e->applied_a < e->seen && e->applied_b < r->durable.sequence && e->prompt && !e->tardy;
}

static bool any_edge(const struct round *r, bool (*which)(const struct round *r, const struct edge *e))
{
	for (size_t i = 0; i < r->edge_count; i++)
		if (which(r, &r->edges[i]))
			return true;
	return false;
}

/* A lower neighbour that lacks our newest version came up after the last transaction, which therefore does not let us send it. */
static bool unoffered(const struct round *r, const struct edge *e)
{
	return !e->removed && e->sent == e->acked && e->acked < r->durable.sequence &&
	       e->offer != r->durable.sequence && edge_will_offer(e, r->durable.sequence);
}

static bool undurable(const struct round *r, const struct edge *e)
{
	return !e->removed && (e->have > e->have_durable || e->applied > e->applied_durable || unoffered(r, e));
}

/* ---- The round ---- */

static void commit(struct round *r, enum round_action_kind kind)
{
	r->task = TASK_COMMIT;
	r->commit = kind;
	action_add(&r->actions, kind, 0)->version =
		kind == ROUND_COMMIT_TRAINED ? r->durable.sequence + 1 : r->durable.sequence;
}

static void train(struct round *r, uint64_t now)
{
	r->number = r->durable.round + 1;
	r->state = ROUND_STATE_TRAINING;
	r->away = true;
	r->train_from = now;
	action_add(&r->actions, ROUND_TRAIN, 0)->version = r->number;
}

static bool evaluate(struct round *r, enum round_action_kind kind, uint64_t now)
{
	uint32_t every = r->settings.evaluate_every;

	if (!every || (r->number % every && r->number < r->settings.rounds))
		return false;
	r->evaluating = r->away = true;
	r->evaluate_from = now;
	action_add(&r->actions, kind, 0)->version = r->number;
	return true;
}

static void gather(struct round *r, uint64_t now)
{
	r->state = ROUND_STATE_GATHERING;
	r->wait_from = now;
	r->wait_until = now + patience(r);
	r->expired = r->gathered = false;
	evaluate(r, ROUND_EVALUATE_TRAINED, now);
}

/* The updates are in, or it is too late for them. An evaluation that still runs is no waiting for neighbours. */
static void stop_gathering(struct round *r, uint64_t now)
{
	r->gathered = true;
	r->gather_ms = now - r->wait_from;
	if (!r->expired)
		r->history[r->history_count++ % HISTORY] = r->gather_ms;
}

/* Gives the words of this round and asks for the transaction that makes them true. */
static void mix(struct round *r)
{
	for (size_t i = 0; i < r->edge_count; i++) {
		struct edge *e = &r->edges[i];

		if (r->expired && awaited(r, e))
			e->behind = true;
		e->decided = !e->removed && e->lower && e->presence == ROUND_UP && !edge_word_outstanding(e) &&
			     e->have > e->word.b;
		if (e->decided)
			e->decision = (struct round_word){.number = e->word.number + 1,
				.a = r->durable.sequence,
				.b = e->have,
				.round = r->number,
				.weight =
					topology_weight(r->settings.gamma, round_degree(r), e->degree ? e->degree : 1)};
	}
	commit(r, ROUND_COMMIT_MIXED);
}

static void settle(struct round *r, uint64_t now)
{
	r->state = ROUND_STATE_SETTLING;
	r->settle_from = now;
}

/* Between two rounds. */
static void rest(struct round *r, uint64_t now)
{
	if (r->durable.round >= r->settings.rounds)
		r->state = ROUND_STATE_FINISHED;
	else if (r->hold == HOLD_PAUSE)
		r->state = ROUND_STATE_PAUSED;
	else if (r->hold == HOLD_DRAIN)
		r->state = ROUND_STATE_DRAINED;
	else
		train(r, now);
}

static void finish_round(struct round *r, uint64_t now)
{
	action_add(&r->actions, ROUND_DONE, 0)->version = r->number;
	rest(r, now);
}

/* One step from the present state, if nothing has to be waited for. */
static void step(struct round *r, uint64_t now)
{
	switch (r->state) {
	case ROUND_STATE_TRAINING:
		if (r->trained) {
			r->trained = r->away = false;
			commit(r, ROUND_COMMIT_TRAINED);
		}
		break;
	case ROUND_STATE_GATHERING:
		if (!r->gathered && (r->expired || !any_edge(r, awaited)))
			stop_gathering(r, now);
		if (r->gathered && !r->evaluating)
			mix(r);
		else if (!r->evaluating && any_edge(r, unoffered))
			/* It may wait for exactly that version, as we wait for its next. */
			commit(r, ROUND_COMMIT_IDLE);
		break;
	case ROUND_STATE_SETTLING:
		if (!r->expired && any_edge(r, word_expected)) {
			if (any_edge(r, unoffered))
				commit(r, ROUND_COMMIT_IDLE);
			break;
		}
		for (size_t i = 0; i < r->edge_count; i++)
			if (word_expected(r, &r->edges[i]))
				r->edges[i].tardy = true;
		r->gather_ms += now - r->settle_from;
		if (evaluate(r, ROUND_EVALUATE_MIXED, now))
			r->state = ROUND_STATE_EVALUATING;
		else
			finish_round(r, now);
		break;
	case ROUND_STATE_EVALUATING:
		if (!r->evaluating)
			finish_round(r, now);
		break;
	case ROUND_STATE_PAUSED:
	case ROUND_STATE_DRAINED:
	case ROUND_STATE_FINISHED:
	case ROUND_STATE_HALTED:
		if (r->dirty || any_edge(r, undurable))
			commit(r, ROUND_COMMIT_IDLE);
		break;
	default:
		break;
	}
}

/* Goes on as far as it can. Called after every event. */
static void advance(struct round *r, uint64_t now)
{
	enum round_state before;

	do {
		before = r->state;
		if (r->task != TASK_NONE)
			return;
		if ((before == ROUND_STATE_GATHERING || before == ROUND_STATE_SETTLING) && now >= r->wait_until)
			r->expired = true;
		if (r->reconsider) {
			r->reconsider = false;
			rest(r, now);
		}
		step(r, now);
	} while (r->state != before);
}

struct round *round_new(const struct round_settings *settings, const struct round_row *row)
{
	struct round *r = must_calloc(1, sizeof(*r));

	r->settings = *settings;
	r->durable = *row;
	r->number = row->round;
	return r;
}

void round_free(struct round *r)
{
	if (!r)
		return;
	free(r->edges);
	free(r->actions.actions);
	free(r);
}

size_t round_add_edge(struct round *r, bool lower, const struct round_edge_row *row)
{
	assert(!round_busy(r));
	r->edges = must_realloc(r->edges, (r->edge_count + 1) * sizeof(*r->edges));
	edge_init(&r->edges[r->edge_count], r->edge_count, lower, row);
	return r->edge_count++;
}

void round_remove_edge(struct round *r, size_t edge, uint64_t now)
{
	struct edge *e = &r->edges[edge];

	assert(!round_busy(r));
	e->removed = true;
	e->presence = ROUND_DOWN;
	r->dirty = true;
	advance(r, now);
}

void round_start(struct round *r, uint64_t now)
{
	if (r->durable.point == ROUND_TRAINED)
		gather(r, now);
	else
		rest(r, now);
	advance(r, now);
}

void round_on_timer(struct round *r, uint64_t now)
{
	advance(r, now);
}

uint64_t round_deadline(const struct round *r)
{
	bool waiting = r->state == ROUND_STATE_GATHERING || r->state == ROUND_STATE_SETTLING;

	return waiting && r->task == TASK_NONE && !r->expired ? r->wait_until : UINT64_MAX;
}

void round_on_trained(struct round *r, uint64_t now, bool ok)
{
	assert(r->state == ROUND_STATE_TRAINING && !r->trained);
	if (ok) {
		r->train_ms = now - r->train_from;
		r->trained = true;
	} else {
		r->away = false;
		r->state = ROUND_STATE_HALTED;
	}
	advance(r, now);
}

void round_on_evaluated(struct round *r, uint64_t now)
{
	assert(r->evaluating);
	r->evaluating = r->away = false;
	r->evaluate_ms = now - r->evaluate_from;
	advance(r, now);
}

void round_on_committed(struct round *r, uint64_t now)
{
	struct round_row row;

	assert(r->task == TASK_COMMIT);
	round_row(r, &row);
	r->durable = row;
	r->dirty = false;
	for (size_t i = 0; i < r->edge_count; i++)
		if (!r->edges[i].removed)
			edge_committed(&r->edges[i], r->commit == ROUND_COMMIT_MIXED, row.sequence);
	r->task = TASK_NONE;
	for (size_t i = 0; i < r->edge_count; i++) {
		edge_push(&r->edges[i], r->durable.sequence, &r->actions);
		if (r->commit == ROUND_COMMIT_TRAINED)
			r->edges[i].prompt =
				r->edges[i].presence == ROUND_UP && r->edges[i].sent == r->durable.sequence;
		edge_tell(&r->edges[i], &r->actions);
	}
	if (r->commit == ROUND_COMMIT_TRAINED)
		gather(r, now);
	else if (r->commit == ROUND_COMMIT_MIXED)
		settle(r, now);
	advance(r, now);
}

void round_on_applied(struct round *r, uint64_t now, bool ok)
{
	struct edge *e = &r->edges[r->task_edge];

	assert(r->task == TASK_UPDATE || r->task == TASK_WORD);
	if (!ok) {
		edge_hang_up(e, ROUND_TROUBLE_BAD_VALUES, &r->actions);
	} else if (r->task == TASK_UPDATE) {
		e->have = r->task_update.sequence;
		e->peer_round = r->task_update.round;
		e->degree = r->task_update.degree;
		e->finished = r->task_update.finished;
	} else {
		e->applied = r->task_word.number;
		e->applied_a = r->task_word.a;
		e->applied_b = r->task_word.b;
		e->owed = e->tardy = false;
		edge_keep_held(e, r->task_word.b > e->acked ? r->task_word.b : e->acked);
	}
	r->task = TASK_NONE;
	edge_push(e, r->durable.sequence, &r->actions);
	advance(r, now);
}

/* ---- Messages ---- */

void round_on_down(struct round *r, size_t edge, uint64_t now)
{
	r->edges[edge].presence = ROUND_DOWN;
	advance(r, now);
}

void round_on_up(struct round *r, size_t edge, const struct round_greeting *g, uint64_t now)
{
	struct edge *e = &r->edges[edge];
	enum round_trouble trouble = edge_judge_greeting(e, g, r->durable.sequence);

	assert(!round_busy(r) && !e->removed);
	e->presence = ROUND_UP;
	e->prompt = false;
	if (trouble) {
		edge_hang_up(e, trouble, &r->actions);
		advance(r, now);
		return;
	}
	e->finished = g->finished;
	e->degree = g->degree;
	e->behind = false;
	e->acked = e->sent = g->have;
	e->word_sent = false;
	if (e->lower && g->word_applied > e->acknowledged)
		e->acknowledged = g->word_applied;
	/* What it holds durably is the oldest that a new word may name; it may hold a newer one in memory. */
	e->owed = !e->lower && g->word_sent > e->applied;
	if (!e->owed)
		edge_keep_held(e, g->have);
	edge_push(e, r->durable.sequence, &r->actions);
	edge_tell(e, &r->actions);
	advance(r, now);
}

void round_on_acknowledged(struct round *r, size_t edge, uint64_t have, uint64_t word_applied, uint64_t now)
{
	struct edge *e = &r->edges[edge];
	enum round_trouble trouble = edge_judge_acknowledgement(e, have, word_applied, r->durable.sequence);

	assert(!round_busy(r));
	if (e->presence != ROUND_UP)
		return;
	if (trouble) {
		edge_hang_up(e, trouble, &r->actions);
		advance(r, now);
		return;
	}
	/* What rides on an update was written when the update began to leave, and a bare Ack may have overtaken it. */
	if (e->acked < have)
		e->acked = have;
	/* A copy that an earlier session brought may have become durable only now. */
	if (e->sent < have)
		e->sent = have;
	if (e->lower && e->acknowledged < word_applied)
		e->acknowledged = word_applied;
	if (!e->owed)
		edge_keep_held(e, e->acked);
	edge_push(e, r->durable.sequence, &r->actions);
	edge_tell(e, &r->actions);
	advance(r, now);
}

static enum round_verdict refuse(struct round *r, struct edge *e, enum round_trouble trouble, uint64_t now)
{
	edge_hang_up(e, trouble, &r->actions);
	advance(r, now);
	return ROUND_REFUSED;
}

enum round_verdict round_on_update(struct round *r, size_t edge, const struct round_update *u, uint64_t now)
{
	struct edge *e = &r->edges[edge];

	assert(!round_busy(r));
	if (e->presence != ROUND_UP)
		return ROUND_IGNORED;
	e->behind = false;
	if (u->sequence <= e->have)
		return ROUND_IGNORED;
	if (u->kind == ROUND_DELTA && (u->base != e->have || u->sequence != u->base + 1))
		return refuse(r, e, ROUND_TROUBLE_OUT_OF_STEP, now);
	r->task = TASK_UPDATE;
	r->task_edge = edge;
	r->task_update = *u;
	action_add(&r->actions, ROUND_APPLY_UPDATE, edge)->version = u->sequence;
	return ROUND_ACCEPTED;
}

enum round_verdict round_on_word(struct round *r, size_t edge, const struct round_word *w, uint64_t now)
{
	struct edge *e = &r->edges[edge];
	struct round_action *action;
	enum round_trouble trouble;

	assert(!round_busy(r));
	if (e->presence != ROUND_UP)
		return ROUND_IGNORED;
	if (!e->lower && w->number <= e->applied)
		return ROUND_IGNORED;
	trouble = edge_judge_word(e, w);
	if (trouble)
		return refuse(r, e, trouble, now);
	r->task = TASK_WORD;
	r->task_edge = edge;
	r->task_word = *w;
	action = action_add(&r->actions, ROUND_APPLY_WORD, edge);
	action->word = *w;
	action->away = r->away;
	return ROUND_ACCEPTED;
}

/* ---- Controls ---- */

void round_want_commit(struct round *r)
{
	r->dirty = true;
}

static void hold(struct round *r, enum hold how, uint64_t now)
{
	r->hold = how;
	r->reconsider =
		r->state == ROUND_STATE_PAUSED || r->state == ROUND_STATE_DRAINED || r->state == ROUND_STATE_HALTED;
	advance(r, now);
}

void round_pause(struct round *r, uint64_t now)
{
	hold(r, HOLD_PAUSE, now);
}

void round_drain(struct round *r, uint64_t now)
{
	hold(r, HOLD_DRAIN, now);
}

void round_resume(struct round *r, uint64_t now)
{
	hold(r, HOLD_NONE, now);
}
