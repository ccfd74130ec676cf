/* SPDX-License-Identifier: Apache-2.0 */
#include "gossip/edge.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"

struct round_action *action_add(struct action_queue *queue, enum round_action_kind kind, size_t edge)
{
	struct round_action *action;

	if (queue->count == queue->capacity) {
		queue->capacity = queue->capacity ? 2 * queue->capacity : 16;
		queue->actions = must_realloc(queue->actions, queue->capacity * sizeof(*queue->actions));
	}
	action = &queue->actions[queue->count++];
	*action = (struct round_action){.kind = kind, .edge = edge};
	return action;
}

void edge_init(struct edge *e, size_t index, bool lower, const struct round_edge_row *row)
{
	*e = (struct edge){.index = index, .lower = lower};
	if (!row)
		return;
	e->have = e->have_durable = row->have;
	e->peer_round = row->have; /* one update a round */
	e->seen = row->seen;
	e->word = row->word;
	e->acknowledged = row->acknowledged;
	e->applied = e->applied_durable = row->applied;
	e->held_count = row->held_count < ROUND_HELD_MAX ? row->held_count : ROUND_HELD_MAX;
	memcpy(e->held, row->held, sizeof(e->held));
}

/* ---- What is kept ---- */

bool edge_word_outstanding(const struct edge *e)
{
	return e->lower && e->word.number > e->acknowledged;
}

bool edge_holds(const struct edge *e, uint64_t version)
{
	for (uint32_t i = 0; i < e->held_count; i++)
		if (e->held[i] == version)
			return true;
	return false;
}

void edge_keep_held(struct edge *e, uint64_t from)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < e->held_count; i++)
		if (e->held[i] >= from)
			e->held[kept++] = e->held[i];
	e->held_count = kept;
}

bool edge_will_offer(const struct edge *e, uint64_t sequence)
{
	return !e->lower && e->presence == ROUND_UP && !e->owed && sequence && !edge_holds(e, sequence) &&
	       e->held_count < ROUND_HELD_MAX;
}

void edge_row(const struct edge *e, bool mixing, uint64_t sequence, struct round_edge_row *row)
{
	*row = (struct round_edge_row){.have = e->have,
		.seen = mixing ? e->have : e->seen,
		.word = e->decided ? e->decision : e->word,
		.acknowledged = e->acknowledged,
		.applied = e->applied,
		.held_count = e->held_count};
	memcpy(row->held, e->held, sizeof(row->held));
	if (edge_will_offer(e, sequence))
		row->held[row->held_count++] = sequence;
}

void edge_committed(struct edge *e, bool mixing, uint64_t sequence)
{
	e->have_durable = e->have;
	e->applied_durable = e->applied;
	e->offer = edge_will_offer(e, sequence) ? sequence : 0;
	if (mixing) {
		e->fresh = e->have > e->seen;
		e->seen = e->have;
	}
	if (e->decided) {
		e->word = e->decision;
		e->word_sent = false;
		e->decided = false;
	}
}

/* ---- What is sent ---- */

uint64_t edge_tellable(const struct edge *e)
{
	uint64_t have = e->have_durable;

	if (edge_word_outstanding(e) && !e->word_sent && e->word.b < have)
		have = e->word.b;
	return have > e->told_have ? have : e->told_have;
}

/* The acknowledgement that rides on `action`. */
static void acknowledge(struct edge *e, struct round_action *action)
{
	action->have = e->told_have = edge_tellable(e);
	action->applied = e->told_applied = e->applied_durable;
}

void edge_tell(struct edge *e, struct action_queue *out)
{
	if (e->presence != ROUND_UP || (edge_tellable(e) <= e->told_have && e->applied_durable <= e->told_applied))
		return;
	acknowledge(e, action_add(out, ROUND_SEND_ACK, e->index));
}

static void send_update(struct edge *e, uint64_t version, uint64_t sequence, struct action_queue *out)
{
	struct round_action *action = action_add(out, ROUND_SEND_UPDATE, e->index);

	action->version = version;
	action->update_kind = version == sequence && e->acked + 1 == version ? ROUND_DELTA : ROUND_SNAPSHOT;
	e->sent = version;
	acknowledge(e, action);
	if (!e->lower && !edge_holds(e, version)) {
		assert(e->offer == version && e->held_count < ROUND_HELD_MAX);
		e->held[e->held_count++] = version;
	}
}

/* The version to bring the neighbour to, once no word stands in the way; 0: nothing that may be sent. */
static uint64_t target(const struct edge *e, uint64_t sequence)
{
	if (e->lower || e->offer == sequence || edge_holds(e, sequence))
		return sequence;
	return e->held_count == ROUND_HELD_MAX ? e->held[e->held_count - 1] : 0;
}

void edge_push(struct edge *e, uint64_t sequence, struct action_queue *out)
{
	if (e->presence != ROUND_UP)
		return;
	if (edge_word_outstanding(e) && !e->word_sent) {
		if (e->sent != e->word.a) {
			if (e->sent != e->acked)
				return;
			send_update(e, e->word.a, sequence, out);
		}
		action_add(out, ROUND_SEND_WORD, e->index)->word = e->word;
		e->word_sent = true;
	}
	if (!e->owed && e->sent == e->acked && e->acked < target(e, sequence))
		send_update(e, target(e, sequence), sequence, out);
}

void edge_hang_up(struct edge *e, enum round_trouble trouble, struct action_queue *out)
{
	if (e->presence == ROUND_UP)
		action_add(out, ROUND_HANG_UP, e->index)->trouble = trouble;
	e->presence = ROUND_DOWN;
}

/* ---- What is believed ---- */

enum round_trouble edge_judge_greeting(const struct edge *e, const struct round_greeting *g, uint64_t sequence)
{
	if (g->have > sequence)
		return ROUND_TROUBLE_OWN_ROLLED_BACK;
	/* What is only in memory here was durable there before it left. */
	if (g->sequence < e->have)
		return ROUND_TROUBLE_PEER_ROLLED_BACK;
	if (e->lower) {
		if (g->word_applied > e->word.number)
			return ROUND_TROUBLE_OWN_ROLLED_BACK;
		if (g->word_applied < e->acknowledged || (g->word_applied < e->word.number && g->have > e->word.a))
			return ROUND_TROUBLE_PEER_ROLLED_BACK;
	} else {
		if (g->word_sent < e->applied)
			return ROUND_TROUBLE_PEER_ROLLED_BACK;
		if (g->word_sent > e->applied + 1)
			return ROUND_TROUBLE_OWN_ROLLED_BACK;
	}
	return ROUND_TROUBLE_NONE;
}

enum round_trouble edge_judge_acknowledgement(
	const struct edge *e, uint64_t have, uint64_t word_applied, uint64_t sequence)
{
	if (have > sequence || (e->lower && word_applied > e->word.number))
		return ROUND_TROUBLE_SEQUENCE_AHEAD;
	if (e->lower && word_applied < e->word.number && e->acknowledged < e->word.number && have > e->word.a)
		return ROUND_TROUBLE_OUT_OF_STEP;
	return ROUND_TROUBLE_NONE;
}

enum round_trouble edge_judge_word(const struct edge *e, const struct round_word *w)
{
	if (e->lower)
		return ROUND_TROUBLE_WORD_DIRECTION;
	if (w->number > e->applied + 1)
		return ROUND_TROUBLE_WORD_GAP;
	if (!(w->weight > 0 && w->weight <= 0.5f))
		return ROUND_TROUBLE_WORD_WEIGHT;
	if (!w->a || w->a != e->have || !edge_holds(e, w->b))
		return ROUND_TROUBLE_OUT_OF_STEP;
	return ROUND_TROUBLE_NONE;
}
