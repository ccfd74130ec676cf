/* SPDX-License-Identifier: Apache-2.0 */
/* What arrives from neighbours, in the order in which it arrived. The round takes one message at a time and none while the lane
 * works for it; until then a message waits here as a letter. An honest neighbour has few on their way at once, because updates and
 * words are both acknowledged before the next; who sends more is hung up on. What a lost session left here is thrown away: its
 * author will say it again. */
#include <stdlib.h>
#include <string.h>

#include "gossip/codec.h"
#include "site/private.h"

void letters_clear(struct neighbour *n)
{
	for (size_t i = 0; i < n->inbox_count; i++)
		free(n->inbox[i].bytes);
	n->inbox_count = 0;
}

static void drop_first(struct neighbour *n)
{
	memmove(n->inbox, n->inbox + 1, --n->inbox_count * sizeof(*n->inbox));
}

void letters_put(struct site *s, size_t peer, const struct letter *letter)
{
	struct neighbour *n = s->neighbours[peer];
	struct letter *last = n->inbox_count ? &n->inbox[n->inbox_count - 1] : NULL;
	size_t updates = 0;

	/* Acknowledgements only grow: of two in a row the second says it all. */
	if (letter->kind == WIRE_ACK && last && last->kind == WIRE_ACK) {
		*last = *letter;
		return;
	}
	/* An update is as large as the model. The next one comes when the last is acknowledged; but what is acknowledged may be the copy
	 * that an earlier session brought, while the one of this session still waits here. */
	for (size_t i = 0; i < n->inbox_count; i++)
		updates += n->inbox[i].kind == WIRE_UPDATE;
	if (n->inbox_count == INBOX_MAX || (letter->kind == WIRE_UPDATE && updates == UPDATES_MAX)) {
		free(letter->bytes);
		site_reject(s, (int)peer, "flood");
		connection_end(n->current, false);
		return;
	}
	n->inbox[n->inbox_count++] = *letter;
}

/* ---- The greeting ---- */

static void hex8(const uint8_t *hash, char out[static 17])
{
	hex_encode(hash, 8, out);
}

/* Whether the neighbour works on the same thing. If not: what differs, both values, and the cure. */
static const char *mismatch(struct site *s, struct neighbour *n, const struct wire_hello *h)
{
	const struct wire_hello *own = &s->settings.hello;
	char ours[17], theirs[17];

	if (h->protocol != WIRE_PROTOCOL_VERSION) {
		neighbour_trouble(n, "upgrade the older of the two daemons", "%s speaks protocol %u (%s), this site %u",
			n->name, h->protocol, h->software, WIRE_PROTOCOL_VERSION);
		return "protocol_version";
	}
	if (memcmp(h->base_fingerprint, own->base_fingerprint, HASH_SIZE)) {
		hex8(own->base_fingerprint, ours);
		hex8(h->base_fingerprint, theirs);
		neighbour_trouble(n,
			"use the same base model at both sites: compare the files, and `model` in both configurations",
			"%s has base model %s (%s), this site %s (%s)", n->name, theirs, h->base_name, ours,
			own->base_name);
		return "incompatible_base";
	}
	if (memcmp(h->adapter_layout_hash, own->adapter_layout_hash, HASH_SIZE)) {
		neighbour_trouble(n, "set rank, alpha and targets to the same values at both sites",
			"%s trains adapter %s, this site %s", n->name, h->adapter_text, own->adapter_text);
		return "incompatible_adapter";
	}
	hex8(own->run_id, ours);
	hex8(h->run_id, theirs);
	if (memcmp(h->run_name_hash, own->run_name_hash, HASH_SIZE) || memcmp(h->run_id, own->run_id, HASH_SIZE)) {
		neighbour_trouble(n, "set the run's name and its shared settings to the same values at both sites",
			"%s takes part in run \"%s\" (%s), this site in \"%s\" (%s)", n->name, h->run_name, theirs,
			own->run_name, ours);
		return "incompatible_run";
	}
	if (memcmp(h->initial_adapter_hash, own->initial_adapter_hash, HASH_SIZE)) {
		hex8(own->initial_adapter_hash, ours);
		hex8(h->initial_adapter_hash, theirs);
		neighbour_trouble(n, "give both sites the same run name, seed and software version",
			"%s started from adapter %s, this site from %s", n->name, theirs, ours);
		return "incompatible_initial";
	}
	return NULL;
}

void letters_greet(struct site *s, struct site_connection *c)
{
	struct wire_message message = {.kind = WIRE_HELLO, .hello = s->settings.hello};
	struct round_greeting g;

	round_greet(s->round, (size_t)c->peer, &g);
	message.hello.protocol = WIRE_PROTOCOL_VERSION;
	message.hello.degree = g.degree;
	message.hello.my_sequence = g.sequence;
	message.hello.have_sequence = g.have;
	message.hello.word_sent = g.word_sent;
	message.hello.word_applied = g.word_applied;
	message.hello.round = g.round;
	message.hello.finished = g.finished;
	message.hello.unix_time_ms = s->io.unix_ms(s->io.self);
	sessions_send(c, &message, NULL);
}

static void on_hello(struct site *s, size_t peer, const struct wire_hello *h)
{
	struct neighbour *n = s->neighbours[peer];
	struct round_greeting g = {.sequence = h->my_sequence,
		.have = h->have_sequence,
		.word_sent = h->word_sent,
		.word_applied = h->word_applied,
		.round = h->round,
		.degree = h->degree,
		.finished = h->finished};
	struct round_edge_status e;
	const char *reason;

	neighbour_clock(n, (double)h->unix_time_ms - (double)s->io.unix_ms(s->io.self));
	s->changed = true;
	if (n->greeted) {
		round_on_acknowledged(s->round, peer, h->have_sequence, h->word_applied, site_now(s));
		return;
	}
	reason = mismatch(s, n, h);
	if (reason) {
		log_warn("peer_incompatible", "peer=%s reason=\"%s\"", n->name, n->trouble);
		site_reject(s, (int)peer, reason);
		sessions_goodbye(n->current, WIRE_GOODBYE_INCOMPATIBLE, n->trouble);
		return;
	}
	n->greeted = true;
	/* May find the numbers impossible, and hang up again. */
	round_on_up(s->round, peer, &g, site_now(s));
	round_edge_status(s->round, peer, &e);
	if (e.presence != ROUND_UP)
		return;
	n->suspected = false;
	neighbour_well(n);
	log_info("peer_up", "peer=%s round=%llu", n->name, (unsigned long long)h->round);
}

/* ---- Delivery ---- */

static void on_update(struct site *s, size_t peer, struct letter *letter)
{
	struct neighbour *n = s->neighbours[peer];
	const struct wire_update *u = &letter->update;
	struct round_update numbers = {.kind = u->kind == WIRE_UPDATE_DELTA ? ROUND_DELTA : ROUND_SNAPSHOT,
		.sequence = u->sequence,
		.base = u->base_sequence,
		.round = u->round,
		.degree = u->degree,
		.finished = u->finished};
	enum round_verdict verdict = round_on_update(s->round, peer, &numbers, site_now(s));

	if (verdict != ROUND_ACCEPTED) {
		free(letter->bytes);
		return;
	}
	if (u->kind == WIRE_UPDATE_DELTA)
		n->updates_received++;
	else
		n->snapshots_received++;
	n->applying = *letter;
}

/* The letter has left the inbox, and what it owns is ours. */
static void deliver(struct site *s, size_t peer, struct letter *letter)
{
	struct round_word word = {.number = letter->word.number,
		.a = letter->word.lower_sequence,
		.b = letter->word.higher_sequence,
		.round = letter->word.round,
		.weight = letter->word.weight};

	switch (letter->kind) {
	case WIRE_HELLO:
		on_hello(s, peer, &letter->hello);
		break;
	case WIRE_UPDATE:
		on_update(s, peer, letter);
		break;
	case WIRE_WORD:
		round_on_word(s->round, peer, &word, site_now(s));
		break;
	default:
		round_on_acknowledged(s->round, peer, letter->have, letter->word_applied, site_now(s));
		break;
	}
}

bool letters_deliver(struct site *s)
{
	if (round_busy(s->round) || s->failed)
		return false;
	/* In turn: who always has an update waiting must not keep the others' from the lane. */
	for (size_t k = 0; k < s->neighbour_count; k++) {
		size_t i = (s->letters_turn + k) % s->neighbour_count;
		struct neighbour *n = s->neighbours[i];
		struct letter letter;

		if (!n->inbox_count)
			continue;
		if (n->inbox[0].kind == WIRE_UPDATE && !n->inbox[0].acknowledged) {
			/* What rides on it comes first, and may make the round begin something: then the update waits on. */
			n->inbox[0].acknowledged = true;
			round_on_acknowledged(s->round, i, n->inbox[0].have, n->inbox[0].word_applied, site_now(s));
			return true;
		}
		letter = n->inbox[0];
		drop_first(n);
		s->letters_turn = i + 1;
		deliver(s, i, &letter);
		return true;
	}
	return false;
}
