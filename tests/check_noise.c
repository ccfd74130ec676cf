/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "net/noise.h"

enum { MESSAGES_MAX = 8, BYTES_MAX = 1024 };

struct span {
	uint8_t data[BYTES_MAX];
	size_t size;
};

/* One block of tests/golden/noise_*.txt. */
struct session {
	struct span prologue, psk, init_static, init_ephemeral, resp_static, resp_ephemeral, handshake_hash;
	struct span payload[MESSAGES_MAX], sealed[MESSAGES_MAX];
	unsigned messages;
};

static void span_parse(const char *hex, struct span *out)
{
	if (strcmp(hex, "-") == 0)
		hex = "";
	out->size = strlen(hex) / 2;
	ck_assert_uint_le(out->size, sizeof out->data);
	ck_assert_int_eq(hex_decode(hex, out->data, out->size), 0);
}

static bool session_read(FILE *file, struct session *s)
{
	char line[2 * 2 * BYTES_MAX + 64], key[32], first[2 * BYTES_MAX + 1], second[2 * BYTES_MAX + 1];
	memset(s, 0, sizeof *s);
	while (fgets(line, sizeof line, file) != NULL) {
		int n = sscanf(line, "%31s %2048s %2048s", key, first, second);
		if (n == 1 && strcmp(key, "end") == 0)
			return true;
		const struct {
			const char *key;
			struct span *span;
		} fields[] = {{"prologue", &s->prologue}, {"psk", &s->psk}, {"init_static", &s->init_static},
			{"init_ephemeral", &s->init_ephemeral}, {"resp_static", &s->resp_static},
			{"resp_ephemeral", &s->resp_ephemeral}, {"handshake_hash", &s->handshake_hash}};
		for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
			if (strcmp(key, fields[i].key) == 0)
				span_parse(first, fields[i].span);
		if (strcmp(key, "message") == 0) {
			ck_assert_int_eq(n, 3);
			ck_assert_uint_lt(s->messages, MESSAGES_MAX);
			span_parse(first, &s->payload[s->messages]);
			span_parse(second, &s->sealed[s->messages++]);
		}
	}
	return false;
}

struct ends {
	struct noise_handshake initiator, responder;
	struct noise_transport from_initiator, from_responder;
};

static void begin(struct ends *e, const struct session *s)
{
	uint8_t public[32];
	noise_public_key(s->resp_static.data, public);
	ck_assert_int_eq(noise_handshake_init(&e->initiator, true, s->prologue.data, s->prologue.size,
				 s->init_static.data, public, s->psk.data, s->init_ephemeral.data),
		0);
	ck_assert_int_eq(noise_handshake_init(&e->responder, false, s->prologue.data, s->prologue.size,
				 s->resp_static.data, NULL, s->psk.data, s->resp_ephemeral.data),
		0);
}

static void check_message(const uint8_t *got, const struct span *expected)
{
	ck_assert_mem_eq(got, expected->data, expected->size);
}

static void replay_session(const struct session *s)
{
	struct ends e;
	uint8_t out[BYTES_MAX], plain[BYTES_MAX];
	begin(&e, s);
	ck_assert_int_eq(noise_write_first(&e.initiator, s->payload[0].data, s->payload[0].size, out), 0);
	ck_assert_uint_eq(s->payload[0].size + NOISE_FIRST_OVERHEAD, s->sealed[0].size);
	check_message(out, &s->sealed[0]);
	ck_assert_int_eq(noise_read_first(&e.responder, out, s->sealed[0].size, plain), 0);
	check_message(plain, &s->payload[0]);
	ck_assert_mem_eq(e.responder.remote_static, e.initiator.static_public, 32);
	ck_assert_int_eq(noise_write_second(&e.responder, s->payload[1].data, s->payload[1].size, out), 0);
	ck_assert_uint_eq(s->payload[1].size + NOISE_SECOND_OVERHEAD, s->sealed[1].size);
	check_message(out, &s->sealed[1]);
	ck_assert_int_eq(noise_read_second(&e.initiator, out, s->sealed[1].size, plain), 0);
	check_message(plain, &s->payload[1]);
	ck_assert_mem_eq(e.initiator.hash, s->handshake_hash.data, NOISE_HASH_SIZE);
	ck_assert_mem_eq(e.responder.hash, s->handshake_hash.data, NOISE_HASH_SIZE);
	ck_assert_int_eq(noise_split(&e.initiator, &e.from_initiator), 0);
	ck_assert_int_eq(noise_split(&e.responder, &e.from_responder), 0);
	for (unsigned i = 2; i < s->messages; i++) {
		struct noise_transport *writer = i % 2 == 0 ? &e.from_initiator : &e.from_responder;
		struct noise_transport *reader = i % 2 == 0 ? &e.from_responder : &e.from_initiator;
		uint64_t counter = writer->send_counter;
		ck_assert_int_eq(noise_seal(writer, NULL, 0, s->payload[i].data, s->payload[i].size, out), 0);
		check_message(out, &s->sealed[i]);
		ck_assert_int_eq(noise_open(reader, counter, NULL, 0, out, s->sealed[i].size, plain), 0);
		check_message(plain, &s->payload[i]);
	}
}

/* Returns how many sessions the file has. */
static unsigned replay_file(const char *name)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/tests/golden/%s", getenv("SRCDIR"), name);
	FILE *file = fopen(path, "r");
	ck_assert_ptr_nonnull(file);
	static struct session s;
	unsigned done = 0;
	while (session_read(file, &s)) {
		ck_assert_uint_ge(s.messages, 6);
		replay_session(&s);
		done++;
	}
	fclose(file);
	return done;
}

START_TEST(the_published_vector_is_met_to_the_last_byte)
{
	ck_assert_uint_eq(replay_file("noise_cacophony.txt"), 1);
}
END_TEST

START_TEST(transcripts_of_an_independent_implementation_are_met)
{
	ck_assert_uint_eq(replay_file("noise_python.txt"), 24);
}
END_TEST

/* A pair of ends with random keys and an empty prologue. */
static void random_session(struct session *s)
{
	memset(s, 0, sizeof *s);
	struct span *const keys[] = {&s->psk, &s->init_static, &s->init_ephemeral, &s->resp_static, &s->resp_ephemeral};
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		noise_random(keys[i]->data, 32);
}

START_TEST(every_flipped_bit_of_either_message_is_refused)
{
	static struct session s;
	struct ends e;
	uint8_t first[NOISE_FIRST_OVERHEAD], second[NOISE_SECOND_OVERHEAD];
	random_session(&s);
	for (size_t bit = 0; bit < 8 * sizeof first; bit++) {
		begin(&e, &s);
		ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
		first[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int rc = noise_read_first(&e.responder, first, sizeof first, NULL);
		ck_assert_msg(rc == SAKIORI_ECRYPTO, "bit %zu of the first message: %d", bit, rc);
	}
	for (size_t bit = 0; bit < 8 * sizeof second; bit++) {
		begin(&e, &s);
		ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
		ck_assert_int_eq(noise_read_first(&e.responder, first, sizeof first, NULL), 0);
		ck_assert_int_eq(noise_write_second(&e.responder, NULL, 0, second), 0);
		second[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int rc = noise_read_second(&e.initiator, second, sizeof second, NULL);
		ck_assert_msg(rc == SAKIORI_ECRYPTO, "bit %zu of the second message: %d", bit, rc);
	}
}
END_TEST

START_TEST(every_shorter_message_is_refused)
{
	static struct session s;
	struct ends e;
	uint8_t first[NOISE_FIRST_OVERHEAD];
	random_session(&s);
	for (size_t n = 0; n < sizeof first; n++) {
		begin(&e, &s);
		ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
		ck_assert_int_eq(noise_read_first(&e.responder, first, n, NULL), SAKIORI_ECRYPTO);
	}
}
END_TEST

START_TEST(another_psk_or_prologue_does_not_get_through)
{
	static struct session s;
	struct ends e;
	uint8_t first[NOISE_FIRST_OVERHEAD], second[NOISE_SECOND_OVERHEAD];
	random_session(&s);
	begin(&e, &s);
	e.responder.psk[31] ^= 1;
	ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
	ck_assert_int_eq(noise_read_first(&e.responder, first, sizeof first, NULL), 0); /* psk2 comes with the second */
	ck_assert_int_eq(noise_write_second(&e.responder, NULL, 0, second), 0);
	ck_assert_int_eq(noise_read_second(&e.initiator, second, sizeof second, NULL), SAKIORI_ECRYPTO);

	begin(&e, &s);
	ck_assert_int_eq(
		noise_handshake_init(&e.responder, false, "x", 1, s.resp_static.data, NULL, s.psk.data, NULL), 0);
	ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
	ck_assert_int_eq(noise_read_first(&e.responder, first, sizeof first, NULL), SAKIORI_ECRYPTO);
}
END_TEST

START_TEST(small_order_points_are_refused_by_both_ends)
{
	/* the points of order 1, 2, 4 and 8 and their non-canonical forms, RFC 7748 section 6.1 and libsodium's list */
	static const char *const points[] = {"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"};
	static struct session s;
	struct ends e;
	uint8_t first[NOISE_FIRST_OVERHEAD], second[NOISE_SECOND_OVERHEAD], point[32];
	random_session(&s);
	for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
		ck_assert_int_eq(hex_decode(points[i], point, 32), 0);
		begin(&e, &s); /* as the responder's static key */
		memcpy(e.initiator.remote_static, point, 32);
		ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), SAKIORI_ECRYPTO);

		begin(&e, &s); /* as the initiator's ephemeral key */
		ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
		memcpy(first, point, 32);
		ck_assert_int_eq(noise_read_first(&e.responder, first, sizeof first, NULL), SAKIORI_ECRYPTO);

		begin(&e,
			&s); /* as the initiator's static key, properly sealed: only its owner's own ends are harmed */
		memcpy(e.initiator.static_public, point, 32);
		ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
		ck_assert_int_eq(noise_read_first(&e.responder, first, sizeof first, NULL), SAKIORI_ECRYPTO);

		begin(&e, &s); /* as the responder's ephemeral key */
		ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
		ck_assert_int_eq(noise_read_first(&e.responder, first, sizeof first, NULL), 0);
		ck_assert_int_eq(noise_write_second(&e.responder, NULL, 0, second), 0);
		memcpy(second, point, 32);
		ck_assert_int_eq(noise_read_second(&e.initiator, second, sizeof second, NULL), SAKIORI_ECRYPTO);
	}
}
END_TEST

START_TEST(calls_out_of_order_are_refused)
{
	static struct session s;
	struct ends e;
	struct noise_transport t;
	uint8_t buffer[NOISE_FIRST_OVERHEAD] = {0};
	random_session(&s);
	begin(&e, &s);
	ck_assert_int_eq(noise_split(&e.initiator, &t), SAKIORI_EPROTO);
	ck_assert_int_eq(noise_write_first(&e.responder, NULL, 0, buffer), SAKIORI_EPROTO);
	ck_assert_int_eq(noise_write_second(&e.responder, NULL, 0, buffer), SAKIORI_EPROTO);
	ck_assert_int_eq(noise_read_first(&e.initiator, buffer, sizeof buffer, NULL), SAKIORI_EPROTO);
	ck_assert_int_eq(noise_read_second(&e.initiator, buffer, sizeof buffer, NULL), SAKIORI_EPROTO);
	ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, buffer), 0);
	ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, buffer), SAKIORI_EPROTO);
}
END_TEST

START_TEST(a_counter_is_never_used_or_accepted_twice)
{
	struct noise_transport a = {.send_counter = 5}, b = {.receive_counter = 5};
	uint8_t sealed[3 + NOISE_TAG_SIZE], plain[3];
	ck_assert_int_eq(noise_seal(&a, "h", 1, (const uint8_t *)"abc", 3, sealed), 0);
	ck_assert_uint_eq(a.send_counter, 6);
	ck_assert_int_eq(noise_open(&b, 4, "h", 1, sealed, sizeof sealed, plain), SAKIORI_EPROTO);
	ck_assert_int_eq(noise_open(&b, 6, "h", 1, sealed, sizeof sealed, plain), SAKIORI_ECRYPTO);
	ck_assert_int_eq(noise_open(&b, 5, "H", 1, sealed, sizeof sealed, plain), SAKIORI_ECRYPTO);
	ck_assert_uint_eq(b.receive_counter, 5);
	ck_assert_int_eq(noise_open(&b, 5, "h", 1, sealed, sizeof sealed, plain), 0);
	ck_assert_mem_eq(plain, "abc", 3);
	ck_assert_int_eq(noise_open(&b, 5, "h", 1, sealed, sizeof sealed, plain), SAKIORI_EPROTO);
	a.send_counter = UINT64_MAX;
	ck_assert_int_eq(noise_seal(&a, "h", 1, (const uint8_t *)"abc", 3, sealed), SAKIORI_ELIMIT);
	ck_assert_int_eq(noise_open(&b, UINT64_MAX, "h", 1, sealed, sizeof sealed, plain), SAKIORI_EPROTO);
}
END_TEST

START_TEST(splitting_and_wiping_leave_no_key_behind)
{
	static struct session s;
	static const struct noise_handshake zero;
	struct ends e;
	uint8_t first[NOISE_FIRST_OVERHEAD], second[NOISE_SECOND_OVERHEAD];
	random_session(&s);
	begin(&e, &s);
	ck_assert_int_eq(noise_write_first(&e.initiator, NULL, 0, first), 0);
	ck_assert_int_eq(noise_read_first(&e.responder, first, sizeof first, NULL), 0);
	ck_assert_int_eq(noise_write_second(&e.responder, NULL, 0, second), 0);
	ck_assert_int_eq(noise_split(&e.responder, &e.from_responder), 0);
	ck_assert_mem_eq(&e.responder, &zero, sizeof zero);
	noise_handshake_wipe(&e.initiator);
	ck_assert_mem_eq(&e.initiator, &zero, sizeof zero);
}
END_TEST

int main(void)
{
	if (noise_start() != 0)
		return EXIT_FAILURE;
	Suite *suite = suite_create("noise");
	TCase *tests = tcase_create("noise");
	suite_add_tcase(suite, tests);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, the_published_vector_is_met_to_the_last_byte);
	tcase_add_test(tests, transcripts_of_an_independent_implementation_are_met);
	tcase_add_test(tests, every_flipped_bit_of_either_message_is_refused);
	tcase_add_test(tests, every_shorter_message_is_refused);
	tcase_add_test(tests, another_psk_or_prologue_does_not_get_through);
	tcase_add_test(tests, small_order_points_are_refused_by_both_ends);
	tcase_add_test(tests, calls_out_of_order_are_refused);
	tcase_add_test(tests, a_counter_is_never_used_or_accepted_twice);
	tcase_add_test(tests, splitting_and_wiping_leave_no_key_behind);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
