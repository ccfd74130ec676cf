/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/two_sites.h"

#include <stdlib.h>
#include <string.h>

uint8_t secret[NETWORK_SECRET_SIZE];
struct site a, b;

static void send_frame(void *owner, struct peer_session *session, const uint8_t *frame, size_t n)
{
	struct site *site = owner;
	(void)session;
	ck_assert_uint_le(n, PEER_FRAME_MAX);
	ck_assert_int_lt(site->frame_count, FRAMES_MAX);
	struct frame *f = &site->frames[site->frame_count++];
	f->data = malloc(n);
	f->size = n;
	memcpy(f->data, frame, n);
}

static const struct identity_public *find_peer(void *owner, const uint8_t x25519[static IDENTITY_KEY_SIZE], int *peer)
{
	struct site *site = owner;
	for (int i = 0; i < site->pin_count; i++)
		if (memcmp(site->pins[i].x25519, x25519, IDENTITY_KEY_SIZE) == 0) {
			*peer = i;
			return &site->pins[i];
		}
	return NULL;
}

static void on_up(void *owner, struct peer_session *session, int peer)
{
	struct site *site = owner;
	site->ups++;
	ck_assert(peer_session_is_up(session));
	ck_assert_int_eq(peer, peer_session_peer(session));
}

static void on_message(void *owner, struct peer_session *session, const struct wire_message *message)
{
	struct site *site = owner;
	site->messages++;
	site->last_message = *message;
	if (site->answer_ping && message->kind == WIRE_PING)
		ck_assert_int_eq(
			peer_session_send(session, &(struct wire_message){.kind = WIRE_PONG, .pong = message->ping}),
			0);
}

static void on_update(
	void *owner, struct peer_session *session, const struct wire_update *update, uint8_t *payload, size_t size)
{
	struct site *site = owner;
	(void)session;
	site->updates++;
	site->last_update = *update;
	free(site->payload);
	site->payload = payload;
	site->payload_size = size;
}

static void on_update_sent(void *owner, struct peer_session *session, const struct wire_update *update)
{
	struct site *site = owner;
	(void)update;
	site->updates_sent++;
	ck_assert(!peer_session_is_sending(session));
}

const struct peer_events events = {send_frame, find_peer, on_up, on_message, on_update, on_update_sent};

void drop_frames(struct site *site)
{
	for (int i = 0; i < site->frame_count; i++)
		free(site->frames[i].data);
	site->frame_count = 0;
}

void site_init(struct site *site, uint8_t number, uint32_t generation)
{
	uint8_t seed[32] = {number};
	memset(site, 0, sizeof *site);
	ck_assert_int_eq(identity_from_seed(seed, generation, &site->identity, NULL), 0);
	site->settings.identity = site->identity;
	site->settings.network_secret = secret;
	peer_network_hash("test", site->settings.network_hash);
}

void site_fini(struct site *site)
{
	peer_session_free(site->session);
	drop_frames(site);
	free(site->payload);
	identity_free(site->identity);
	memset(site, 0, sizeof *site);
}

void pin(struct site *site, const struct site *other)
{
	site->pins[site->pin_count++] = *identity_public(other->identity);
}

void setup(void)
{
	memset(secret, 0x5a, sizeof secret);
	site_init(&a, 1, 1);
	site_init(&b, 2, 1);
	pin(&a, &b);
	pin(&b, &a);
}

void teardown(void)
{
	site_fini(&a);
	site_fini(&b);
}

void restart(void)
{
	peer_session_free(a.session);
	peer_session_free(b.session);
	drop_frames(&a);
	drop_frames(&b);
	a.session = peer_session_dial(&a.settings, &events, &a, &a.pins[0], 0, 1000);
	b.session = peer_session_accept(&b.settings, &events, &b, 1000);
	ck_assert_int_eq(peer_session_start(a.session, 1000), 0);
	ck_assert_int_eq(peer_session_start(b.session, 1000), 0);
}

int deliver_one(struct site *from, struct site *to)
{
	ck_assert_int_gt(from->frame_count, 0);
	struct frame f = from->frames[0];
	memmove(from->frames, from->frames + 1, sizeof f * (size_t)--from->frame_count);
	int rc = peer_session_on_frame(to->session, f.data, f.size, 1001);
	free(f.data);
	return rc;
}

int deliver_all(void)
{
	int rc = 0;
	while (rc == 0 && (a.frame_count > 0 || b.frame_count > 0)) {
		if (a.frame_count > 0)
			rc = deliver_one(&a, &b);
		if (rc == 0 && b.frame_count > 0)
			rc = deliver_one(&b, &a);
	}
	return rc;
}

void connect_both(void)
{
	restart();
	ck_assert_int_eq(deliver_all(), 0);
	ck_assert(peer_session_is_up(a.session) && peer_session_is_up(b.session));
}

void check_refused(struct site *site, int rc, enum peer_failure reason, uint64_t decodes_before)
{
	ck_assert_int_lt(rc, 0);
	ck_assert_str_eq(peer_failure_label(peer_session_failure(site->session)), peer_failure_label(reason));
	ck_assert(!peer_session_is_up(site->session));
	ck_assert_uint_eq(wire_decode_calls(), decodes_before);
	int frames = site->frame_count;
	uint8_t more[PEER_FIRST_SIZE] = {0};
	ck_assert_int_eq(peer_session_on_frame(site->session, more, sizeof more, 1002), rc);
	ck_assert_int_eq(peer_session_tick(site->session, 99999999), rc);
	ck_assert_int_eq(peer_session_send(site->session, &(struct wire_message){.kind = WIRE_ACK}), SAKIORI_EPROTO);
	ck_assert_int_eq(site->frame_count, frames);
}
