/* SPDX-License-Identifier: Apache-2.0 */
/* What of a round is stored, said to neighbours and shown to people. */
#include <string.h>

#include "gossip/round_private.h"

const char *round_trouble_label(enum round_trouble trouble)
{
	static const char *const labels[] = {
#define X(name, label) label,
		ROUND_TROUBLES(X)
#undef X
	};

	return trouble < ROUND_TROUBLE_COUNT ? labels[trouble] : "unknown";
}

const char *round_state_label(enum round_state state)
{
	static const char *const labels[] = {"idle", "training", "committing", "evaluating", "gathering", "settling",
		"paused", "drained", "finished", "halted"};

	return state <= ROUND_STATE_HALTED ? labels[state] : "unknown";
}

uint32_t round_degree(const struct round *r)
{
	uint32_t degree = 0;

	for (size_t i = 0; i < r->edge_count; i++)
		degree += !r->edges[i].removed;
	return degree;
}

void round_row(const struct round *r, struct round_row *row)
{
	*row = r->durable;
	if (r->task != TASK_COMMIT)
		return;
	if (r->commit == ROUND_COMMIT_TRAINED)
		*row = (struct round_row){
			.round = r->number, .sequence = r->durable.sequence + 1, .point = ROUND_TRAINED};
	else if (r->commit == ROUND_COMMIT_MIXED)
		row->point = ROUND_MIXED;
}

void round_edge_row(const struct round *r, size_t edge, struct round_edge_row *row)
{
	struct round_row site;

	round_row(r, &site);
	edge_row(&r->edges[edge], r->task == TASK_COMMIT && r->commit == ROUND_COMMIT_MIXED, site.sequence, row);
}

bool round_decision(const struct round *r, size_t edge, struct round_word *word)
{
	*word = r->edges[edge].decision;
	return r->task == TASK_COMMIT && r->edges[edge].decided;
}

/* Into an ascending list without duplicates and without 0; the new length. */
static size_t insert(uint64_t *sorted, size_t n, size_t max, uint64_t value)
{
	size_t i = 0;

	while (i < n && sorted[i] < value)
		i++;
	if (!value || n == max || (i < n && sorted[i] == value))
		return n;
	memmove(&sorted[i + 1], &sorted[i], (n - i) * sizeof(*sorted));
	sorted[i] = value;
	return n + 1;
}

size_t round_pins(const struct round *r, uint64_t *versions, size_t max)
{
	struct round_edge_row row;
	struct round_row site;
	size_t n;

	round_row(r, &site);
	n = insert(versions, 0, max, site.sequence);
	for (size_t i = 0; i < r->edge_count; i++) {
		if (r->edges[i].removed)
			continue;
		round_edge_row(r, i, &row);
		if (row.word.number > row.acknowledged)
			n = insert(versions, n, max, row.word.a);
		for (uint32_t k = 0; k < row.held_count; k++)
			n = insert(versions, n, max, row.held[k]);
	}
	return n;
}

void round_greet(struct round *r, size_t edge, struct round_greeting *out)
{
	struct edge *e = &r->edges[edge];

	*out = (struct round_greeting){.sequence = r->durable.sequence,
		.have = e->have_durable,
		.word_sent = e->word.number,
		.word_applied = e->applied_durable,
		.round = r->durable.round,
		.degree = round_degree(r),
		.finished = r->durable.round >= r->settings.rounds};
	e->told_have = e->have_durable;
	e->told_applied = e->applied_durable;
}

size_t round_edge_count(const struct round *r)
{
	return r->edge_count;
}

void round_status(const struct round *r, struct round_status *out)
{
	*out = (struct round_status){.state = r->task == TASK_COMMIT ? ROUND_STATE_COMMITTING : r->state,
		.durable = r->durable,
		.round = r->number,
		.degree = round_degree(r),
		.finished = r->durable.round >= r->settings.rounds,
		.gather_ms = r->gather_ms};
}

void round_edge_status(const struct round *r, size_t edge, struct round_edge_status *out)
{
	const struct edge *e = &r->edges[edge];

	*out = (struct round_edge_status){.lower = e->lower,
		.presence = e->presence,
		.behind = e->behind,
		.fresh = e->fresh,
		.finished = e->finished,
		.removed = e->removed,
		.have = e->have,
		.have_durable = e->have_durable,
		.applied = e->applied,
		.applied_durable = e->applied_durable,
		.acknowledged = e->acked,
		.sent = e->sent,
		.word = e->word,
		.word_acknowledged = e->acknowledged,
		.peer_round = e->peer_round,
		.degree = e->degree};
}
