/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "net/noise.h"
#include "net/peer.h"

enum { FRAMES_MAX = 64, PEERS_MAX = 4 };

struct frame {
	uint8_t *data;
	size_t size;
};

/* One site with one session; what the session sends waits in `frames` until the test moves it. */
struct site {
	struct identity *identity;
	struct peer_settings settings;
	struct identity_public pins[PEERS_MAX];
	int pin_count;
	struct peer_session *session;
	struct frame frames[FRAMES_MAX];
	int frame_count;
	int ups, messages, updates, updates_sent;
	struct wire_message last_message;
	struct wire_update last_update;
	uint8_t *payload;
	size_t payload_size;
	bool answer_ping;
};

static uint8_t secret[NETWORK_SECRET_SIZE];
static struct site a, b;

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

static const struct peer_events events = {send_frame, find_peer, on_up, on_message, on_update, on_update_sent};

static void drop_frames(struct site *site)
{
	for (int i = 0; i < site->frame_count; i++)
		free(site->frames[i].data);
	site->frame_count = 0;
}

static void site_init(struct site *site, uint8_t number, uint32_t generation)
{
	uint8_t seed[32] = {number};
	memset(site, 0, sizeof *site);
	ck_assert_int_eq(identity_from_seed(seed, generation, &site->identity, NULL), 0);
	site->settings.identity = site->identity;
	site->settings.network_secret = secret;
	peer_network_hash("test", site->settings.network_hash);
}

static void site_fini(struct site *site)
{
	peer_session_free(site->session);
	drop_frames(site);
	free(site->payload);
	identity_free(site->identity);
	memset(site, 0, sizeof *site);
}

static void pin(struct site *site, const struct site *other)
{
	site->pins[site->pin_count++] = *identity_public(other->identity);
}

/* a dials b; both know each other. */
static void setup(void)
{
	memset(secret, 0x5a, sizeof secret);
	site_init(&a, 1, 1);
	site_init(&b, 2, 1);
	pin(&a, &b);
	pin(&b, &a);
}

static void teardown(void)
{
	site_fini(&a);
	site_fini(&b);
}

static void restart(void)
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

/* Moves the oldest frame of `from` into `to`'s session. */
static int deliver_one(struct site *from, struct site *to)
{
	ck_assert_int_gt(from->frame_count, 0);
	struct frame f = from->frames[0];
	memmove(from->frames, from->frames + 1, sizeof f * (size_t)--from->frame_count);
	int rc = peer_session_on_frame(to->session, f.data, f.size, 1001);
	free(f.data);
	return rc;
}

/* Moves frames both ways until none is left or one is refused. */
static int deliver_all(void)
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

static void connect_both(void)
{
	restart();
	ck_assert_int_eq(deliver_all(), 0);
	ck_assert(peer_session_is_up(a.session) && peer_session_is_up(b.session));
}

/* b refuses what it gets, for this reason, says nothing and has parsed nothing. */
static void check_refused(struct site *site, int rc, enum peer_failure reason, uint64_t decodes_before)
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

START_TEST(two_sites_that_pin_each_other_come_up_and_talk)
{
	restart();
	ck_assert_int_eq(a.frame_count, 1);
	ck_assert_int_eq(b.frame_count, 0);
	ck_assert_uint_eq(a.frames[0].size, PEER_FIRST_SIZE);
	ck_assert_int_eq(deliver_one(&a, &b), 0);
	ck_assert_uint_eq(b.frames[0].size, PEER_SECOND_SIZE);
	ck_assert_int_eq(b.ups, 0); /* the first message alone proves nothing: it can be a replay */
	ck_assert_int_eq(deliver_one(&b, &a), 0);
	ck_assert_int_eq(a.ups, 0);
	ck_assert_int_eq(deliver_one(&a, &b), 0);
	ck_assert_int_eq(b.ups, 1);
	ck_assert_int_eq(deliver_one(&b, &a), 0);
	ck_assert_int_eq(a.ups, 1);
	b.answer_ping = true;
	struct wire_message ping = {.kind = WIRE_PING, .ping = {.nonce = 42, .unix_time_ms = 7}};
	ck_assert_int_eq(peer_session_send(a.session, &ping), 0);
	ck_assert_int_eq(deliver_all(), 0);
	ck_assert_int_eq(a.last_message.kind, WIRE_PONG);
	ck_assert_uint_eq(a.last_message.pong.nonce, 42);
	ck_assert_int_eq(peer_session_peer(b.session), 0);
	ck_assert(peer_session_is_initiator(a.session) && !peer_session_is_initiator(b.session));
}
END_TEST

START_TEST(every_flipped_bit_of_the_first_message_is_refused_in_silence)
{
	uint64_t decodes = wire_decode_calls();
	for (size_t bit = 0; bit < 8 * PEER_FIRST_SIZE; bit++) {
		restart();
		a.frames[0].data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int rc = deliver_one(&a, &b);
		enum peer_failure expected = bit < 8    ? PEER_FAILURE_VERSION
					     : bit < 32 ? PEER_FAILURE_MALFORMED_FRAME
							: PEER_FAILURE_BAD_MAC;
		check_refused(&b, rc, expected, decodes);
		ck_assert_int_eq(b.frame_count, 0);
	}
}
END_TEST

/* A frame whose mac1 is right again after a change, as somebody who knows the network secret could make it. */
static void mend_mac(struct frame *f)
{
	size_t covered = PEER_FIRST_SIZE - NOISE_MAC1_SIZE;
	noise_mac1(identity_public(b.identity)->x25519, secret, f->data, covered, f->data + covered);
}

START_TEST(a_right_mac_over_a_wrong_handshake_is_refused_too)
{
	uint64_t decodes = wire_decode_calls();
	for (size_t byte = 4; byte < PEER_FIRST_SIZE - NOISE_MAC1_SIZE; byte++) {
		restart();
		a.frames[0].data[byte] ^= 0x10;
		mend_mac(&a.frames[0]);
		check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_DECRYPT, decodes);
		ck_assert_int_eq(b.frame_count, 0);
	}
	restart();
	memset(a.frames[0].data + 4, 0, 32); /* an ephemeral key of small order */
	mend_mac(&a.frames[0]);
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_DECRYPT, decodes);
}
END_TEST

START_TEST(every_flipped_bit_of_the_later_handshake_frames_is_refused)
{
	uint64_t decodes = wire_decode_calls();
	for (size_t bit = 0; bit < 8 * PEER_SECOND_SIZE; bit++) {
		restart();
		ck_assert_int_eq(deliver_one(&a, &b), 0);
		b.frames[0].data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int rc = deliver_one(&b, &a);
		enum peer_failure expected = bit < 8    ? PEER_FAILURE_VERSION
					     : bit < 32 ? PEER_FAILURE_MALFORMED_FRAME
							: PEER_FAILURE_DECRYPT;
		check_refused(&a, rc, expected, decodes);
	}
	for (int third = 0; third < 2; third++) {
		struct site *from = third ? &b : &a, *to = third ? &a : &b;
		for (size_t byte = 0; byte < 157; byte++) {
			restart();
			ck_assert_int_eq(deliver_one(&a, &b), 0);
			ck_assert_int_eq(deliver_one(&b, &a), 0);
			if (third)
				ck_assert_int_eq(deliver_one(&a, &b), 0);
			ck_assert_uint_eq(from->frames[0].size, 157);
			from->frames[0].data[byte] ^= 1;
			int rc = deliver_one(from, to);
			check_refused(to, rc, byte == 0 ? PEER_FAILURE_MALFORMED_FRAME : PEER_FAILURE_DECRYPT, decodes);
		}
	}
}
END_TEST

START_TEST(frames_of_any_other_size_are_refused_in_every_state)
{
	uint64_t decodes = wire_decode_calls();
	static uint8_t big[PEER_FRAME_MAX + 1];
	for (int step = 0; step < 4; step++) {
		struct site *from = step % 2 == 0 ? &a : &b, *to = step % 2 == 0 ? &b : &a;
		for (size_t n = 0; n <= 400; n++) {
			restart();
			for (int i = 0; i < step; i++)
				ck_assert_int_eq(deliver_one(i % 2 == 0 ? &a : &b, i % 2 == 0 ? &b : &a), 0);
			if (n == from->frames[0].size)
				continue;
			memset(big, 0, sizeof big);
			memcpy(big, from->frames[0].data, n < from->frames[0].size ? n : from->frames[0].size);
			int rc = peer_session_on_frame(to->session, big, n == 400 ? sizeof big : n, 1001);
			check_refused(to, rc, PEER_FAILURE_MALFORMED_FRAME, decodes);
		}
	}
}
END_TEST

START_TEST(a_stranger_without_the_network_secret_gets_no_diffie_hellman)
{
	uint64_t decodes = wire_decode_calls();
	uint8_t other[NETWORK_SECRET_SIZE] = {9};
	a.settings.network_secret = other;
	restart();
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_BAD_MAC, decodes);
	/* even with the right mac1 the handshake itself needs the secret */
	restart();
	mend_mac(&a.frames[0]);
	ck_assert_int_eq(deliver_one(&a, &b), 0);
	check_refused(&a, deliver_one(&b, &a), PEER_FAILURE_DECRYPT, decodes);
}
END_TEST

START_TEST(another_network_name_does_not_match)
{
	uint64_t decodes = wire_decode_calls();
	peer_network_hash("other", a.settings.network_hash);
	restart();
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_DECRYPT, decodes);
}
END_TEST

START_TEST(an_unpinned_key_is_refused_even_with_the_network_secret)
{
	uint64_t decodes = wire_decode_calls();
	b.pin_count = 0;
	restart();
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_UNKNOWN_KEY, decodes);
	ck_assert_int_eq(b.frame_count, 0);
	ck_assert_int_eq(peer_session_peer(b.session), -1);
}
END_TEST

START_TEST(a_dialler_that_wants_another_site_is_refused)
{
	struct site c;
	uint64_t decodes = wire_decode_calls();
	site_init(&c, 3, 1);
	a.pins[0] = *identity_public(c.identity);
	restart();
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_BAD_MAC, decodes);
	site_fini(&c);
}
END_TEST

/* The same keys under another generation: Noise alone would let them through. */
static void rename_generation(struct site *site, uint8_t number, uint32_t generation)
{
	uint8_t seed[32] = {number};
	identity_free(site->identity);
	ck_assert_int_eq(identity_from_seed(seed, generation, &site->identity, NULL), 0);
	site->settings.identity = site->identity;
}

START_TEST(another_generation_than_the_pinned_one_is_refused_at_both_ends)
{
	uint64_t decodes = wire_decode_calls();
	rename_generation(&a, 1, 2);
	restart();
	ck_assert_int_eq(deliver_one(&a, &b), 0);
	ck_assert_int_eq(deliver_one(&b, &a), 0);
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_CERTIFICATE, decodes);
	ck_assert_int_eq(b.ups, 0);

	rename_generation(&a, 1, 1);
	rename_generation(&b, 2, 7);
	restart();
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(deliver_one(i % 2 == 0 ? &a : &b, i % 2 == 0 ? &b : &a), 0);
	check_refused(&a, deliver_one(&b, &a), PEER_FAILURE_CERTIFICATE, decodes);
	ck_assert_int_eq(a.ups, 0);
}
END_TEST

/* Keeps copies of everything a sends in one honest session. */
static int record(struct frame *tape)
{
	int n = 0;
	restart();
	struct wire_message ack = {.kind = WIRE_ACK, .ack = {.have_sequence = 5}};
	for (int i = 0; i < 4; i++) {
		struct site *from = i % 2 == 0 ? &a : &b, *to = i % 2 == 0 ? &b : &a;
		if (from == &a) {
			tape[n].size = a.frames[0].size;
			tape[n].data = malloc(a.frames[0].size);
			memcpy(tape[n++].data, a.frames[0].data, a.frames[0].size);
		}
		ck_assert_int_eq(deliver_one(from, to), 0);
	}
	ck_assert_int_eq(peer_session_send(a.session, &ack), 0);
	tape[n].size = a.frames[0].size;
	tape[n].data = malloc(a.frames[0].size);
	memcpy(tape[n++].data, a.frames[0].data, a.frames[0].size);
	return n;
}

START_TEST(a_replayed_transcript_never_gets_up)
{
	struct frame tape[8];
	int n = record(tape);
	ck_assert_int_eq(n, 3);
	b.ups = b.messages = 0;
	restart();
	uint64_t decodes = wire_decode_calls();
	ck_assert_int_eq(peer_session_on_frame(b.session, tape[0].data, tape[0].size, 1001), 0); /* answered, no more */
	ck_assert_int_eq(b.ups, 0);
	check_refused(
		&b, peer_session_on_frame(b.session, tape[1].data, tape[1].size, 1001), PEER_FAILURE_DECRYPT, decodes);
	restart(); /* the message itself, spliced behind somebody's replayed first message */
	ck_assert_int_eq(peer_session_on_frame(b.session, tape[0].data, tape[0].size, 1001), 0);
	check_refused(&b, peer_session_on_frame(b.session, tape[2].data, tape[2].size, 1001),
		PEER_FAILURE_MALFORMED_FRAME, decodes);
	restart(); /* the first message twice */
	ck_assert_int_eq(peer_session_on_frame(b.session, tape[0].data, tape[0].size, 1001), 0);
	check_refused(&b, peer_session_on_frame(b.session, tape[0].data, tape[0].size, 1001),
		PEER_FAILURE_MALFORMED_FRAME, decodes);
	ck_assert_int_eq(b.ups + b.messages, 0);
	for (int i = 0; i < n; i++)
		free(tape[i].data);
}
END_TEST

START_TEST(a_replayed_first_message_times_out)
{
	struct frame tape[8];
	int n = record(tape);
	restart();
	ck_assert_int_eq(peer_session_on_frame(b.session, tape[0].data, tape[0].size, 1001), 0);
	ck_assert_uint_eq(peer_session_deadline(b.session), 11000);
	ck_assert_int_eq(peer_session_tick(b.session, 10999), 0);
	ck_assert_int_eq(peer_session_tick(b.session, 11000), SAKIORI_ETIMEOUT);
	ck_assert_str_eq(peer_failure_label(peer_session_failure(b.session)), "timeout");
	ck_assert_uint_eq(peer_session_deadline(b.session), UINT64_MAX);
	for (int i = 0; i < n; i++)
		free(tape[i].data);
}
END_TEST

START_TEST(reflected_messages_are_refused)
{
	uint64_t decodes = wire_decode_calls();
	restart();
	check_refused(&a, peer_session_on_frame(a.session, a.frames[0].data, a.frames[0].size, 1001),
		PEER_FAILURE_MALFORMED_FRAME, decodes);
	restart(); /* to the dialler's own listener: another responder key, so another mac1 */
	peer_session_free(b.session);
	b.session = peer_session_accept(&a.settings, &events, &b, 1000);
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_BAD_MAC, decodes);
	connect_both(); /* transport frames: the directions have different keys */
	decodes = wire_decode_calls();
	ck_assert_int_eq(peer_session_send(a.session, &(struct wire_message){.kind = WIRE_ACK}), 0);
	check_refused(&a, deliver_one(&a, &a), PEER_FAILURE_DECRYPT, decodes);
}
END_TEST

START_TEST(a_silent_connection_has_a_deadline_and_nothing_else)
{
	restart();
	ck_assert_uint_eq(peer_session_deadline(b.session), 1000 + PEER_HANDSHAKE_TIMEOUT_MS);
	ck_assert_int_eq(peer_session_tick(b.session, 1000 + PEER_HANDSHAKE_TIMEOUT_MS), SAKIORI_ETIMEOUT);
	ck_assert_int_eq(peer_session_tick(a.session, 1000 + PEER_HANDSHAKE_TIMEOUT_MS), SAKIORI_ETIMEOUT);
	ck_assert_int_eq(b.frame_count, 0);
}
END_TEST

/* a sends three acknowledgements, 1, 2 and 3. */
static void send_three(void)
{
	connect_both();
	b.messages = 0;
	for (uint64_t i = 1; i <= 3; i++)
		ck_assert_int_eq(peer_session_send(a.session,
					 &(struct wire_message){.kind = WIRE_ACK, .ack = {.have_sequence = i}}),
			0);
}

static int give(struct site *to, const struct frame *f)
{
	return peer_session_on_frame(to->session, f->data, f->size, 1001);
}

START_TEST(a_replayed_frame_ends_the_session)
{
	send_three();
	ck_assert_int_eq(give(&b, &a.frames[0]), 0);
	uint64_t decodes = wire_decode_calls();
	check_refused(&b, give(&b, &a.frames[0]), PEER_FAILURE_REPLAY, decodes);
	ck_assert_int_eq(b.messages, 1);
}
END_TEST

START_TEST(a_reordered_frame_ends_the_session)
{
	send_three();
	ck_assert_int_eq(give(&b, &a.frames[1]), 0);
	check_refused(&b, give(&b, &a.frames[0]), PEER_FAILURE_REPLAY, wire_decode_calls());
}
END_TEST

START_TEST(a_dropped_frame_is_only_missing)
{
	send_three();
	ck_assert_int_eq(give(&b, &a.frames[0]), 0);
	ck_assert_int_eq(give(&b, &a.frames[2]), 0);
	ck_assert_int_eq(b.messages, 2);
	ck_assert_uint_eq(b.last_message.ack.have_sequence, 3);
}
END_TEST

START_TEST(one_changed_byte_of_a_frame_ends_the_session)
{
	send_three();
	size_t size = a.frames[0].size;
	for (size_t byte = 0; byte < size; byte++) {
		send_three();
		a.frames[0].data[byte] ^= 1;
		uint64_t decodes = wire_decode_calls();
		enum peer_failure expected = byte == 0   ? PEER_FAILURE_MALFORMED_FRAME
					     : byte == 1 ? PEER_FAILURE_REPLAY /* counter 1 becomes 0 */
							 : PEER_FAILURE_DECRYPT;
		check_refused(&b, give(&b, &a.frames[0]), expected, decodes);
	}
	for (size_t n = 0; n < size; n++) {
		send_three();
		a.frames[0].size = n;
		uint64_t decodes = wire_decode_calls();
		check_refused(&b, give(&b, &a.frames[0]),
			n < PEER_FRAME_HEADER + NOISE_TAG_SIZE ? PEER_FAILURE_MALFORMED_FRAME : PEER_FAILURE_DECRYPT,
			decodes);
	}
}
END_TEST

START_TEST(a_frame_of_another_session_is_refused)
{
	send_three();
	struct frame old = {.size = a.frames[0].size};
	old.data = malloc(old.size);
	memcpy(old.data, a.frames[0].data, old.size);
	connect_both();
	check_refused(&b, give(&b, &old), PEER_FAILURE_DECRYPT, wire_decode_calls());
	free(old.data);
}
END_TEST

START_TEST(nothing_can_be_sent_before_the_session_is_up)
{
	struct wire_message ack = {.kind = WIRE_ACK};
	struct wire_update update = {.kind = WIRE_UPDATE_DELTA, .sequence = 1, .payload_bytes = 1};
	restart();
	ck_assert_int_eq(peer_session_send(a.session, &ack), SAKIORI_EPROTO);
	ck_assert_int_eq(peer_session_send_update(a.session, &update, secret), SAKIORI_EPROTO);
	ck_assert_uint_eq(peer_session_pump(a.session, SIZE_MAX), 0);
	connect_both();
	ck_assert_int_eq(peer_session_send(a.session, &(struct wire_message){.kind = WIRE_CHUNK}), SAKIORI_EINVAL);
	ck_assert_int_eq(peer_session_send(a.session, &(struct wire_message){.kind = WIRE_GOODBYE}), SAKIORI_EINVAL);
	ck_assert_int_eq(a.frame_count, 0);
}
END_TEST

static uint8_t payload[5 * WIRE_CHUNK_MAX + 17];

static struct wire_update make_update(size_t size)
{
	struct wire_update u = {.kind = WIRE_UPDATE_DELTA,
		.sequence = 8,
		.base_sequence = 7,
		.round = 9,
		.degree = 1,
		.payload_bytes = size,
		.train_loss = 2.5f};
	for (size_t i = 0; i < sizeof payload; i++)
		payload[i] = (uint8_t)(i * 31 >> 3);
	hash_bytes(WIRE_PAYLOAD_PURPOSE, payload, size, u.payload_hash);
	return u;
}

START_TEST(a_large_update_arrives_whole_under_backpressure_with_messages_between)
{
	connect_both();
	struct wire_update u = make_update(sizeof payload);
	peer_session_accept_payload_bytes(b.session, sizeof payload);
	b.answer_ping = true;
	ck_assert_int_eq(peer_session_send_update(a.session, &u, payload), 0);
	ck_assert_int_eq(peer_session_send_update(a.session, &u, payload), SAKIORI_EBUSY);
	ck_assert(peer_session_is_sending(a.session));
	ck_assert_int_eq(a.frame_count, 0);
	ck_assert_uint_eq(peer_session_pump(a.session, 100), 0); /* no room even for the head */
	size_t total = 0;
	for (size_t n; (n = peer_session_pump(a.session, PEER_FRAME_MAX)) > 0; total += n) {
		ck_assert_uint_le(n, PEER_FRAME_MAX);
		struct wire_message ping = {.kind = WIRE_PING, .ping = {.nonce = total}};
		ck_assert_int_eq(peer_session_send(a.session, &ping), 0);
		ck_assert_int_eq(deliver_all(), 0);
	}
	ck_assert_int_eq(a.updates_sent, 1);
	ck_assert_int_eq(b.updates, 1);
	ck_assert_uint_eq(b.payload_size, sizeof payload);
	ck_assert_mem_eq(b.payload, payload, sizeof payload);
	ck_assert_mem_eq(&b.last_update, &u, sizeof u);
	ck_assert_int_ge(b.messages, 5);
	ck_assert_uint_gt(total, sizeof payload);
	ck_assert_uint_lt(total, sizeof payload + 1000);
}
END_TEST

START_TEST(updates_of_every_awkward_size_arrive)
{
	const size_t sizes[] = {1, WIRE_CHUNK_MAX - 1, WIRE_CHUNK_MAX, WIRE_CHUNK_MAX + 1, 2 * WIRE_CHUNK_MAX};
	connect_both();
	peer_session_accept_payload_bytes(b.session, sizeof payload);
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct wire_update u = make_update(sizes[i]);
		ck_assert_int_eq(peer_session_send_update(a.session, &u, payload), 0);
		ck_assert_uint_gt(peer_session_pump(a.session, SIZE_MAX), sizes[i]);
		ck_assert_int_eq(deliver_all(), 0);
		ck_assert_int_eq(b.updates, (int)i + 1);
		ck_assert_uint_eq(b.payload_size, sizes[i]);
		ck_assert_mem_eq(b.payload, payload, sizes[i]);
	}
}
END_TEST

START_TEST(an_update_larger_than_accepted_is_refused_at_its_head)
{
	connect_both();
	struct wire_update u = make_update(1000);
	ck_assert_int_eq(peer_session_send_update(a.session, &u, payload), 0);
	ck_assert_uint_gt(peer_session_pump(a.session, SIZE_MAX), 1000);
	uint64_t decodes = wire_decode_calls();
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_OVERSIZE, decodes + 1); /* nothing was accepted at first */
	connect_both();
	peer_session_accept_payload_bytes(b.session, 999);
	ck_assert_int_eq(peer_session_send_update(a.session, &u, payload), 0);
	ck_assert_uint_gt(peer_session_pump(a.session, SIZE_MAX), 1000);
	decodes = wire_decode_calls();
	check_refused(&b, deliver_one(&a, &b), PEER_FAILURE_OVERSIZE, decodes + 1);
	ck_assert_int_eq(b.updates, 0);
}
END_TEST

START_TEST(a_payload_that_is_not_the_announced_one_is_refused)
{
	connect_both();
	struct wire_update u = make_update(100000);
	peer_session_accept_payload_bytes(b.session, sizeof payload);
	payload[70000] ^= 1;
	ck_assert_int_eq(peer_session_send_update(a.session, &u, payload), 0);
	ck_assert_uint_gt(peer_session_pump(a.session, SIZE_MAX), 100000);
	ck_assert_int_lt(deliver_all(), 0);
	ck_assert_str_eq(peer_failure_label(peer_session_failure(b.session)), "payload_hash");
	ck_assert_int_eq(b.updates, 0);
}
END_TEST

START_TEST(a_missing_chunk_or_a_second_head_is_out_of_order)
{
	struct wire_update u = make_update(3 * WIRE_CHUNK_MAX);
	for (int skip = 1; skip <= 3; skip++) {
		connect_both();
		peer_session_accept_payload_bytes(b.session, sizeof payload);
		ck_assert_int_eq(peer_session_send_update(a.session, &u, payload), 0);
		ck_assert_uint_gt(peer_session_pump(a.session, SIZE_MAX), u.payload_bytes);
		int rc = 0;
		for (int i = 0; i < 4 && rc == 0; i++)
			if (i != skip)
				rc = give(&b, &a.frames[i]);
		if (skip < 3)
			ck_assert_str_eq(peer_failure_label(peer_session_failure(b.session)), "out_of_order");
		ck_assert_int_eq(b.updates, 0);
	}
	connect_both(); /* chunks without any head */
	ck_assert_int_eq(peer_session_send_update(a.session, &u, payload), 0);
	peer_session_pump(a.session, SIZE_MAX);
	ck_assert_int_lt(give(&b, &a.frames[1]), 0);
	ck_assert_str_eq(peer_failure_label(peer_session_failure(b.session)), "out_of_order");
}
END_TEST

START_TEST(old_keys_ask_for_a_new_handshake_and_then_end)
{
	connect_both();
	ck_assert(!peer_session_wants_rehandshake(a.session, 1001 + PEER_REKEY_MS - 1));
	ck_assert(peer_session_wants_rehandshake(a.session, 1001 + PEER_REKEY_MS));
	ck_assert_uint_eq(peer_session_deadline(a.session), 1001 + PEER_EXPIRY_MS);
	ck_assert_int_eq(peer_session_tick(a.session, 1000 + PEER_EXPIRY_MS), 0);
	ck_assert_int_eq(peer_session_tick(a.session, 1001 + PEER_EXPIRY_MS), SAKIORI_ETIMEOUT);
	ck_assert_str_eq(peer_failure_label(peer_session_failure(a.session)), "expired");
	a.settings.rekey_frames = 12; /* two are the certificates */
	b.settings.rekey_bytes = 3000;
	connect_both();
	for (int i = 0; i < 10; i++) {
		ck_assert(!peer_session_wants_rehandshake(a.session, 1001));
		ck_assert_int_eq(peer_session_send(a.session, &(struct wire_message){.kind = WIRE_ACK}), 0);
		ck_assert_int_eq(deliver_all(), 0);
	}
	ck_assert(peer_session_wants_rehandshake(a.session, 1001));
	ck_assert(!peer_session_wants_rehandshake(b.session, 1001));
	struct wire_message goodbye = {.kind = WIRE_GOODBYE, .goodbye = {.reason = WIRE_GOODBYE_SHUTDOWN}};
	memset(goodbye.goodbye.text, 'x', WIRE_TEXT_MAX);
	for (int i = 0; i < 12; i++)
		ck_assert_int_eq(peer_session_send(b.session, &goodbye), 0);
	ck_assert(peer_session_wants_rehandshake(b.session, 1001));
}
END_TEST

START_TEST(both_ends_keep_the_same_one_of_two_sessions)
{
	const struct identity_public *x = identity_public(a.identity), *y = identity_public(b.identity);
	ck_assert(peer_session_survives(x, y, true) != peer_session_survives(x, y, false));
	/* the session that a dialled: a says we_dialled, b says not */
	ck_assert(peer_session_survives(x, y, true) == peer_session_survives(y, x, false));
	ck_assert(peer_session_survives(x, y, true) == (identity_compare(x, y) < 0));
}
END_TEST

static void repeatable(void *self, void *out, size_t n)
{
	memset(out, *(uint8_t *)self, n);
}

START_TEST(nothing_of_a_message_shows_on_the_wire_and_equal_settings_repeat)
{
	uint8_t one = 1;
	struct wire_message goodbye = {.kind = WIRE_GOODBYE, .goodbye = {.reason = WIRE_GOODBYE_SHUTDOWN}};
	strcpy(goodbye.goodbye.text, "sixteen bytes of text that must not be seen");
	uint8_t first[2][PEER_FIRST_SIZE];
	a.settings.random = repeatable;
	a.settings.random_self = &one;
	for (int i = 0; i < 2; i++) {
		restart();
		memcpy(first[i], a.frames[0].data, PEER_FIRST_SIZE);
	}
	ck_assert_mem_eq(first[0], first[1], PEER_FIRST_SIZE);
	connect_both();
	ck_assert_int_eq(peer_session_send(a.session, &goodbye), 0);
	ck_assert_ptr_null(memmem(a.frames[0].data, a.frames[0].size, goodbye.goodbye.text, 16));
	struct writer w; /* the control: the search finds it where it is not sealed */
	writer_init(&w);
	ck_assert_int_eq(wire_encode(&goodbye, &w, NULL), 0);
	ck_assert_ptr_nonnull(memmem(w.data, w.size, goodbye.goodbye.text, 16));
	writer_fini(&w);
}
END_TEST

START_TEST(failures_have_distinct_labels)
{
	for (int i = 0; i < PEER_FAILURE_COUNT; i++)
		for (int j = 0; j < i; j++)
			ck_assert_str_ne(
				peer_failure_label((enum peer_failure)i), peer_failure_label((enum peer_failure)j));
	ck_assert_str_eq(peer_failure_label(PEER_FAILURE_COUNT), "unknown");
}
END_TEST

int main(void)
{
	if (noise_start() != 0)
		return EXIT_FAILURE;
	Suite *suite = suite_create("peer");
	TCase *tests = tcase_create("peer");
	suite_add_tcase(suite, tests);
	tcase_set_timeout(tests, 120);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, two_sites_that_pin_each_other_come_up_and_talk);
	tcase_add_test(tests, every_flipped_bit_of_the_first_message_is_refused_in_silence);
	tcase_add_test(tests, a_right_mac_over_a_wrong_handshake_is_refused_too);
	tcase_add_test(tests, every_flipped_bit_of_the_later_handshake_frames_is_refused);
	tcase_add_test(tests, frames_of_any_other_size_are_refused_in_every_state);
	tcase_add_test(tests, a_stranger_without_the_network_secret_gets_no_diffie_hellman);
	tcase_add_test(tests, another_network_name_does_not_match);
	tcase_add_test(tests, an_unpinned_key_is_refused_even_with_the_network_secret);
	tcase_add_test(tests, a_dialler_that_wants_another_site_is_refused);
	tcase_add_test(tests, another_generation_than_the_pinned_one_is_refused_at_both_ends);
	tcase_add_test(tests, a_replayed_transcript_never_gets_up);
	tcase_add_test(tests, a_replayed_first_message_times_out);
	tcase_add_test(tests, reflected_messages_are_refused);
	tcase_add_test(tests, a_silent_connection_has_a_deadline_and_nothing_else);
	tcase_add_test(tests, a_replayed_frame_ends_the_session);
	tcase_add_test(tests, a_reordered_frame_ends_the_session);
	tcase_add_test(tests, a_dropped_frame_is_only_missing);
	tcase_add_test(tests, one_changed_byte_of_a_frame_ends_the_session);
	tcase_add_test(tests, a_frame_of_another_session_is_refused);
	tcase_add_test(tests, nothing_can_be_sent_before_the_session_is_up);
	tcase_add_test(tests, a_large_update_arrives_whole_under_backpressure_with_messages_between);
	tcase_add_test(tests, updates_of_every_awkward_size_arrive);
	tcase_add_test(tests, an_update_larger_than_accepted_is_refused_at_its_head);
	tcase_add_test(tests, a_payload_that_is_not_the_announced_one_is_refused);
	tcase_add_test(tests, a_missing_chunk_or_a_second_head_is_out_of_order);
	tcase_add_test(tests, old_keys_ask_for_a_new_handshake_and_then_end);
	tcase_add_test(tests, both_ends_keep_the_same_one_of_two_sessions);
	tcase_add_test(tests, nothing_of_a_message_shows_on_the_wire_and_equal_settings_repeat);
	tcase_add_test(tests, failures_have_distinct_labels);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
