/* SPDX-License-Identifier: Apache-2.0 */
/* What a session does once it is up: frames, messages, updates, old keys. Part of the program check_peer. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "lib/two_sites.h"
#include "net/noise.h"

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

void add_tests_of_a_session_that_is_up(TCase *tests)
{
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
}
