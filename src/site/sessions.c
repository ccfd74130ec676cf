/* SPDX-License-Identifier: Apache-2.0 */
/* Connections. The happy path: dial or be dialled, handshake, on_up, our Hello and theirs; then letters in both directions, a ping
 * now and then, a new session when the keys are old. Failures: whoever does not finish a handshake in time, breaks a rule or falls
 * silent is counted by reason and hung up on; a neighbour is dialled again after a pause that doubles up to half a minute.
 * Both ends may dial at once: then the session that the lower NodeID dialled survives.
 *
 * A connection is ended here and freed in site_on_closed; in between it has no link and no session and hears nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "gossip/codec.h"
#include "site/private.h"

static void retry_later(struct site *s, struct neighbour *n)
{
	uint64_t half = n->backoff_ms / 2;

	n->dialling = false;
	n->retry_at = site_now(s) + half + s->io.random(s->io.self) % (half + 1);
	n->backoff_ms = 2 * n->backoff_ms < BACKOFF_MAX_MS ? 2 * n->backoff_ms : BACKOFF_MAX_MS;
}

static struct neighbour *neighbour_at(const struct site_connection *c)
{
	return c->peer < 0 ? NULL : c->site->neighbours[c->peer];
}

/* ---- Ending ---- */

static void drop_outgoing(struct site_connection *c)
{
	payload_drop(c->sending);
	c->sending = NULL;
	for (size_t i = 0; i < c->queue_count; i++)
		payload_drop(c->queue[i].payload);
	c->queue_count = 0;
	jobs_forget_connection(c->site, c);
}

/* The neighbour is on its own from here. */
static void detach(struct site_connection *c)
{
	struct site *s = c->site;
	struct neighbour *n = neighbour_at(c);

	drop_outgoing(c);
	if (!n)
		return;
	if (n->current == c) {
		n->current = NULL;
		n->greeted = false;
		letters_clear(n);
		if (site_now(s) - c->up_at >= SETTLED_MS)
			n->backoff_ms = BACKOFF_MIN_MS;
		if (s->round && !n->removed)
			round_on_down(s->round, (size_t)c->peer, site_now(s));
		retry_later(s, n);
		s->changed = true;
	} else if (c->dialled && !c->up_at) {
		if (s->round && !n->removed && !n->current)
			round_on_down(s->round, (size_t)c->peer, site_now(s));
		retry_later(s, n);
	}
}

void connection_end(struct site_connection *c, bool flush)
{
	struct site *s = c->site;

	if (!c->link)
		return;
	detach(c);
	s->io.close(s->io.self, c->link, flush);
	c->link = NULL;
	if (!c->inside) {
		peer_session_free(c->session);
		c->session = NULL;
	}
}

void connection_free(struct site_connection *c)
{
	drop_outgoing(c);
	peer_session_free(c->session);
	*(c->previous ? &c->previous->next : &c->site->connections) = c->next;
	if (c->next)
		c->next->previous = c->previous;
	free(c->queue);
	free(c);
}

void sessions_goodbye(struct site_connection *c, enum wire_goodbye_reason reason, const char *text)
{
	struct wire_message message = {.kind = WIRE_GOODBYE, .goodbye = {.reason = reason}};

	wire_text(message.goodbye.text, sizeof(message.goodbye.text), text);
	if (c->session && peer_session_is_up(c->session))
		peer_session_send(c->session, &message);
	connection_end(c, true);
}

/* ---- Sending ---- */

static void send_frame(void *owner, struct peer_session *session, const uint8_t *frame, size_t n)
{
	struct site_connection *c = owner;
	struct neighbour *neighbour = neighbour_at(c);

	(void)session;
	if (!c->link)
		return;
	c->site->bytes_sent += n;
	if (neighbour)
		neighbour->bytes_sent += n;
	c->site->io.send(c->site->io.self, c->link, frame, n);
}

static void send_now(struct site_connection *c, const struct wire_message *message)
{
	if (c->session && peer_session_send(c->session, message))
		connection_end(c, false);
}

static void pump(struct site_connection *c)
{
	bool inside = c->inside;

	if (!c->session || !c->link)
		return;
	c->inside = true;
	peer_session_pump(c->session, c->site->io.bulk_room(c->site->io.self, c->link));
	c->inside = inside;
	if (!c->link && !inside) {
		peer_session_free(c->session);
		c->session = NULL;
	}
}

/* Takes the payload's reference. */
static void start_update(struct site_connection *c, struct wire_update *update, struct payload *p)
{
	struct neighbour *n = neighbour_at(c);

	update->payload_bytes = p->size;
	memcpy(update->payload_hash, p->hash, HASH_SIZE);
	c->sending = p;
	if (!c->session || peer_session_send_update(c->session, update, p->bytes)) {
		connection_end(c, false);
		return;
	}
	if (update->kind == WIRE_UPDATE_DELTA)
		n->updates_sent++;
	else
		n->snapshots_sent++;
	pump(c);
}

/* Sends what may leave, from the front. */
static void drain(struct site_connection *c)
{
	while (c->queue_count && !c->sending && c->link) {
		struct outgoing first = c->queue[0];

		if (first.message.kind == WIRE_UPDATE && !first.payload)
			return;
		memmove(c->queue, c->queue + 1, --c->queue_count * sizeof(*c->queue));
		if (first.message.kind == WIRE_UPDATE)
			start_update(c, &first.message.update, first.payload);
		else
			send_now(c, &first.message);
	}
}

void sessions_send(struct site_connection *c, const struct wire_message *message, struct payload *take_payload)
{
	bool ordered = message->kind == WIRE_WORD || message->kind == WIRE_UPDATE;

	if (!ordered && !c->queue_count) {
		send_now(c, message);
		return;
	}
	/* Of two acknowledgements in a row the second says it all. */
	if (message->kind == WIRE_ACK && c->queue[c->queue_count - 1].message.kind == WIRE_ACK)
		c->queue_count--;
	/* Stop-and-wait keeps the queue of an honest neighbour short. Who acknowledges what it does not read does not fill ours. */
	if (c->queue_count == OUTGOING_MAX) {
		payload_drop(take_payload);
		site_reject(c->site, c->peer, "unread");
		connection_end(c, false);
		return;
	}
	if (!c->queue)
		c->queue = must_calloc(OUTGOING_MAX, sizeof(*c->queue));
	c->queue[c->queue_count++] = (struct outgoing){*message, take_payload};
	drain(c);
}

void sessions_snapshot_made(struct site_connection *c, uint64_t version, struct payload *take_payload)
{
	for (size_t i = 0; i < c->queue_count; i++) {
		struct outgoing *o = &c->queue[i];

		if (o->message.kind == WIRE_UPDATE && !o->payload && o->message.update.sequence == version) {
			o->payload = take_payload;
			drain(c);
			return;
		}
	}
	payload_drop(take_payload);
}

static void on_update_sent(void *owner, struct peer_session *session, const struct wire_update *update)
{
	struct site_connection *c = owner;

	(void)session;
	(void)update;
	payload_drop(c->sending);
	c->sending = NULL;
	drain(c);
}

/* ---- What a session tells us ---- */

static const struct identity_public *find_peer(void *owner, const uint8_t x25519[static IDENTITY_KEY_SIZE], int *peer)
{
	struct site *s = ((struct site_connection *)owner)->site;

	for (size_t i = 0; i < s->neighbour_count; i++)
		if (!s->neighbours[i]->removed && !memcmp(s->neighbours[i]->id.x25519, x25519, IDENTITY_KEY_SIZE)) {
			*peer = (int)i;
			return &s->neighbours[i]->id;
		}
	return NULL;
}

/* Of two sessions with one neighbour, whether the newcomer stays. Nobody dials who has a session: a connection opened while
 * the old session was up means that the neighbour has lost that one. Two that were opened side by side are judged by who dialled,
 * the same at both ends. */
static bool newcomer_stays(
	const struct site_connection *old, const struct site_connection *c, const struct neighbour *n)
{
	if (c->opened_at >= old->up_at)
		return true;
	if (old->dialled == c->dialled)
		return c->opened_at >= old->opened_at;
	return peer_session_survives(identity_public(c->site->settings.session.identity), &n->id, c->dialled);
}

static void on_up(void *owner, struct peer_session *session, int peer)
{
	struct site_connection *c = owner, *old;
	struct site *s = c->site;
	struct neighbour *n = s->neighbours[peer];
	uint64_t now = site_now(s);

	(void)session;
	c->peer = peer;
	c->up_at = now ? now : 1;
	c->last_received = now;
	c->ping_at = now + 1000;
	if (c->dialled)
		n->dialling = false;
	s->io.authenticated(s->io.self, c->link);
	old = n->current;
	if (old && !newcomer_stays(old, c, n)) {
		sessions_goodbye(c, WIRE_GOODBYE_DUPLICATE, "another session came first");
		return;
	}
	n->current = c;
	if (old) {
		/* Not current any more, so the neighbour is not taken as gone; but the edge starts again with a Hello. */
		if (n->greeted)
			round_on_down(s->round, (size_t)peer, now);
		n->greeted = false;
		letters_clear(n);
		sessions_goodbye(old, WIRE_GOODBYE_DUPLICATE, "a newer session replaces this one");
	}
	n->sessions++;
	s->changed = true;
	letters_greet(s, c);
}

static void on_goodbye(struct site_connection *c, const struct wire_goodbye *g)
{
	struct neighbour *n = neighbour_at(c);

	log_info("peer_goodbye", "peer=%s reason=\"%s\"", n->name, g->text);
	if (g->reason == WIRE_GOODBYE_REMOVED)
		neighbour_trouble(n, "ask its operator to pin this site's `sakiori id` again, or take it out here too",
			"%s no longer lists this site", n->name);
	else if (g->reason == WIRE_GOODBYE_INCOMPATIBLE && !n->in_trouble)
		neighbour_trouble(n, "compare both configurations", "%s refuses: %s", n->name, g->text);
	connection_end(c, false);
}

static void on_pong(struct site_connection *c, const struct wire_ping *pong)
{
	struct site *s = c->site;
	struct neighbour *n = neighbour_at(c);
	double rtt = (double)(site_now(s) - pong->nonce);

	if (pong->nonce > site_now(s) || rtt > SILENCE_MS)
		return;
	n->rtt_ms = isnan(n->rtt_ms) ? rtt : 0.75 * n->rtt_ms + 0.25 * rtt;
	neighbour_clock(n, (double)pong->unix_time_ms + rtt / 2 - (double)s->io.unix_ms(s->io.self));
}

static void refuse(struct site_connection *c, const char *reason)
{
	site_reject(c->site, c->peer, reason);
	connection_end(c, false);
}

static void on_message(void *owner, struct peer_session *session, const struct wire_message *message)
{
	struct site_connection *c = owner;
	const struct site_settings *settings = &c->site->settings;
	struct letter letter = {.kind = message->kind};
	struct wire_message pong = {.kind = WIRE_PONG};

	if (!c->link || c->site->neighbours[c->peer]->current != c)
		return;
	switch (message->kind) {
	case WIRE_PING:
		pong.pong = (struct wire_ping){message->ping.nonce, c->site->io.unix_ms(c->site->io.self)};
		send_now(c, &pong);
		return;
	case WIRE_PONG:
		on_pong(c, &message->pong);
		return;
	case WIRE_GOODBYE:
		on_goodbye(c, &message->goodbye);
		return;
	case WIRE_HELLO:
		letter.hello = message->hello;
		c->hello_came = true;
		/* Only an adapter like ours has room for updates. */
		if (!memcmp(message->hello.adapter_layout_hash, settings->hello.adapter_layout_hash, HASH_SIZE))
			peer_session_accept_payload_bytes(session, codec_snapshot_bytes(settings->size));
		break;
	case WIRE_WORD:
		letter.word = message->word;
		break;
	default:
		letter.have = message->ack.have_sequence;
		letter.word_applied = message->ack.word_applied;
		break;
	}
	if (c->hello_came)
		letters_put(c->site, (size_t)c->peer, &letter);
	else
		refuse(c, "order");
}

static void on_update(
	void *owner, struct peer_session *session, const struct wire_update *u, uint8_t *payload, size_t size)
{
	struct site_connection *c = owner;
	size_t n = c->site->settings.size;
	bool delta = u->kind == WIRE_UPDATE_DELTA;
	struct letter letter = {.kind = WIRE_UPDATE,
		.update = *u,
		.bytes = payload,
		.size = size,
		.have = u->have_sequence,
		.word_applied = u->word_applied};

	(void)session;
	if (!c->link || c->site->neighbours[c->peer]->current != c) {
		free(payload);
	} else if (!c->hello_came || size != (delta ? codec_payload_bytes(n) : codec_snapshot_bytes(n))) {
		free(payload);
		refuse(c, c->hello_came ? "wrong_size" : "order");
	} else {
		letters_put(c->site, (size_t)c->peer, &letter);
	}
}

static const struct peer_events session_events = {
	.send_frame = send_frame,
	.find_peer = find_peer,
	.on_up = on_up,
	.on_message = on_message,
	.on_update = on_update,
	.on_update_sent = on_update_sent,
};

/* ---- What the link tells us ---- */

struct site_connection *site_on_opened(struct site *s, void *connection, int tag)
{
	struct site_connection *c = must_calloc(1, sizeof(*c));
	struct neighbour *n = tag >= 0 ? s->neighbours[tag] : NULL;
	uint64_t now = site_now(s);

	*c = (struct site_connection){
		.site = s, .link = connection, .peer = tag, .dialled = tag >= 0, .next = s->connections};
	if (c->next)
		c->next->previous = c;
	s->connections = c;
	c->opened_at = c->last_received = now;
	/* A neighbour that has dialled us meanwhile makes our own attempt superfluous, unless it is to renew the keys. */
	if (!s->round || s->failed || (n && (n->removed || (n->current && !n->current->redialled)))) {
		connection_end(c, false);
	} else if (n) {
		c->session = peer_session_dial(&s->settings.session, &session_events, c, &n->id, tag, now);
		if (peer_session_start(c->session, now))
			connection_end(c, false);
	} else {
		c->session = peer_session_accept(&s->settings.session, &session_events, c, now);
	}
	site_run(s);
	return c;
}

/* A handshake that failed on a connection whose other end we know. */
static void explain(struct site_connection *c, enum peer_failure failure)
{
	struct neighbour *n = neighbour_at(c);

	if (!n || c->up_at || n->current)
		return;
	if (failure == PEER_FAILURE_CERTIFICATE)
		neighbour_trouble(n, "put what `sakiori id` prints there now into this site's entry for it, and reload",
			"%s has another key or key generation than the one pinned here", n->name);
	else
		neighbour_trouble(n,
			"check at the peer that its entry for this site is what `sakiori id` prints here, and that "
			"both have the same network secret; restart sakiorid where the secret is changed",
			"%s did not complete the handshake (%s)", n->name,
			failure == PEER_FAILURE_NONE ? "it hung up" : peer_failure_label(failure));
	c->site->changed = true;
}

void site_on_frame(struct site *s, struct site_connection *c, const uint8_t *frame, size_t n)
{
	enum peer_failure failure;
	int rc;

	if (!c->link || !c->session)
		return;
	c->last_received = site_now(s);
	s->bytes_received += n;
	if (c->peer >= 0) {
		neighbour_at(c)->bytes_received += n;
		if (c->up_at)
			neighbour_at(c)->last_seen = c->last_received;
	}
	c->inside = true;
	rc = peer_session_on_frame(c->session, frame, n, c->last_received);
	c->inside = false;
	failure = peer_session_failure(c->session);
	if (!c->link) {
		peer_session_free(c->session);
		c->session = NULL;
	} else if (rc) {
		/* A first message can be recorded and sent again by anybody; only a certificate was sealed by its sender. */
		if (failure == PEER_FAILURE_CERTIFICATE)
			c->peer = peer_session_peer(c->session);
		explain(c, failure);
		refuse(c, peer_failure_label(failure));
	}
	site_run(s);
}

void site_on_drained(struct site *s, struct site_connection *c)
{
	pump(c);
	site_run(s);
}

void site_on_closed(struct site *s, struct site_connection *c)
{
	if (c->link) {
		explain(c, PEER_FAILURE_NONE);
		detach(c);
	}
	connection_free(c);
	site_run(s);
}

void site_on_dial_failed(struct site *s, int tag, const char *why)
{
	struct neighbour *n = s->neighbours[tag];

	if (n->removed)
		return;
	retry_later(s, n);
	if (!n->current) {
		neighbour_trouble(n, "check that its daemon runs, and the address and firewall in between",
			"cannot reach %s at %s: %s", n->name, n->url ? n->url : "its address", why);
		n->in_trouble = false;
		s->changed = true;
		if (s->round)
			round_on_down(s->round, (size_t)tag, site_now(s));
	}
	site_run(s);
}

/* ---- Time ---- */

static bool may_dial(const struct neighbour *n)
{
	return !n->removed && n->url && !n->dialling && (!n->current || n->current->redialled);
}

void sessions_dial(struct site *s, uint64_t now)
{
	for (size_t i = 0; i < s->neighbour_count; i++) {
		struct neighbour *n = s->neighbours[i];

		if (!may_dial(n) || n->retry_at > now)
			continue;
		n->dialling = true;
		if (s->io.dial(s->io.self, n->url, (int)i)) {
			retry_later(s, n);
			n->retry_at = now + BACKOFF_MAX_MS;
			neighbour_trouble(n, "correct `url` in this site's entry for it, and reload",
				"the address of %s is not usable: %s", n->name, n->url);
			round_on_down(s->round, i, now);
		}
	}
}

/* An update is on its way: a new session would make it start over, and on a slow link it would never end. */
static bool is_transferring(const struct site_connection *c)
{
	struct round_edge_status e;

	round_edge_status(c->site->round, (size_t)c->peer, &e);
	return peer_session_is_receiving(c->session) || e.sent > e.acknowledged;
}

static void ping(struct site_connection *c, uint64_t now)
{
	struct wire_message message = {.kind = WIRE_PING, .ping = {now, c->site->io.unix_ms(c->site->io.self)}};

	c->ping_at = now + PING_MS;
	send_now(c, &message);
	if (c->session && c->dialled && !c->redialled && peer_session_wants_rehandshake(c->session, now) &&
		!is_transferring(c)) {
		c->redialled = true;
		neighbour_at(c)->retry_at = now;
	}
}

void sessions_tick(struct site *s, uint64_t now)
{
	for (struct site_connection *c = s->connections; c; c = c->next) {
		if (!c->link || !c->session)
			continue;
		if (peer_session_deadline(c->session) <= now && peer_session_tick(c->session, now)) {
			explain(c, peer_session_failure(c->session));
			refuse(c, peer_failure_label(peer_session_failure(c->session)));
		} else if (c->up_at && now >= c->last_received + SILENCE_MS) {
			refuse(c, "silent");
		} else if (c->up_at && now >= c->ping_at) {
			ping(c, now);
		}
	}
}

uint64_t sessions_deadline(const struct site *s)
{
	uint64_t at = UINT64_MAX;

	for (size_t i = 0; i < s->neighbour_count; i++)
		if (may_dial(s->neighbours[i]) && s->neighbours[i]->retry_at < at)
			at = s->neighbours[i]->retry_at;
	for (const struct site_connection *c = s->connections; c; c = c->next) {
		uint64_t next;

		if (!c->link || !c->session)
			continue;
		next = peer_session_deadline(c->session);
		if (c->up_at && c->ping_at < next)
			next = c->ping_at;
		if (c->up_at && c->last_received + SILENCE_MS < next)
			next = c->last_received + SILENCE_MS;
		if (next < at)
			at = next;
	}
	return at;
}
