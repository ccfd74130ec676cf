/* SPDX-License-Identifier: Apache-2.0 */
/* The handshake: who comes up, and who does not. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/two_sites.h"
#include "net/noise.h"

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
	add_tests_of_a_session_that_is_up(tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
