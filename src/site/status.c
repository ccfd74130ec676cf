/* SPDX-License-Identifier: Apache-2.0 */
/* What people and programs ask about a site. */
#include <string.h>

#include "site/private.h"

void site_status(const struct site *s, struct site_status *out)
{
	uint64_t deadline;

	*out = (struct site_status){.fault = s->fault,
		.rounds = s->settings.round.rounds,
		.step = s->step,
		.last = s->last,
		.bytes_sent = s->bytes_sent,
		.bytes_received = s->bytes_received,
		.strangers_refused = s->strangers_refused};
	for (size_t i = 0; i < s->neighbour_count; i++) {
		out->peers += !s->neighbours[i]->removed;
		out->peers_up += s->neighbours[i]->greeted;
	}
	out->state = s->failed ? "failed" : "loading";
	if (!s->round)
		return;
	round_status(s->round, &out->round);
	if (!s->failed)
		out->state = round_state_label(out->round.state);
	deadline = round_deadline(s->round);
	if (deadline != UINT64_MAX && deadline > site_now(s))
		out->deadline_left_ms = deadline - site_now(s);
}

const char *site_peer_state_label(enum site_peer_state state)
{
	static const char *const labels[] = {
#define X(name, label) [SITE_PEER_##name] = label,
		SITE_PEER_STATES(X)
#undef X
	};

	return (size_t)state < sizeof(labels) / sizeof(*labels) ? labels[state] : "unknown";
}

size_t site_peer_count(const struct site *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->neighbour_count; i++)
		n += !s->neighbours[i]->removed;
	return n;
}

size_t site_peer_slot(const struct site *s, size_t index)
{
	for (size_t i = 0; i < s->neighbour_count; i++)
		if (!s->neighbours[i]->removed && !index--)
			return i;
	return SIZE_MAX;
}

static enum site_peer_state state_of(const struct neighbour *n, const struct round_edge_status *e)
{
	if (!n->greeted)
		return n->in_trouble ? SITE_PEER_TROUBLE : SITE_PEER_CONNECTING;
	if (e->finished)
		return SITE_PEER_FINISHED;
	return e->behind ? SITE_PEER_BEHIND : SITE_PEER_UP;
}

void site_peer_status(const struct site *s, size_t index, struct site_peer_status *out)
{
	size_t slot = site_peer_slot(s, index);
	const struct neighbour *n;
	struct round_status round = {0};

	memset(out, 0, sizeof(*out));
	if (slot == SIZE_MAX)
		return;
	n = s->neighbours[slot];
	if (s->round) {
		round_status(s->round, &round);
		round_edge_status(s->round, slot, &out->edge);
	}
	memcpy(out->name, n->name, sizeof(out->name));
	identity_short(&n->id, out->id);
	out->state = state_of(n, &out->edge);
	memcpy(out->trouble, n->trouble, sizeof(out->trouble));
	memcpy(out->cure, n->cure, sizeof(out->cure));
	memcpy(out->warning, n->warning, sizeof(out->warning));
	out->dialled = n->current && n->current->dialled;
	out->sequence = out->edge.have;
	if (out->edge.have && round.durable.round > out->edge.peer_round)
		out->staleness = round.durable.round - out->edge.peer_round;
	out->bytes_sent = n->bytes_sent;
	out->bytes_received = n->bytes_received;
	out->updates_sent = n->updates_sent;
	out->updates_received = n->updates_received;
	out->snapshots_sent = n->snapshots_sent;
	out->snapshots_received = n->snapshots_received;
	out->rtt_ms = n->rtt_ms;
	out->clock_skew_ms = n->skew_ms;
	out->last_seen_ms = n->last_seen ? site_now(s) - n->last_seen : UINT64_MAX;
	out->sessions = n->sessions;
}
