/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "net/wire.h"

static struct wire_hello sample_hello(void)
{
	struct wire_hello h = {.protocol = WIRE_PROTOCOL_VERSION,
		.degree = 3,
		.my_sequence = 41,
		.have_sequence = 40,
		.word_sent = 12,
		.word_applied = 11,
		.round = 42,
		.unix_time_ms = 1795000000000,
		.finished = true};
	strcpy(h.software, "sakiorid 0.1.0");
	strcpy(h.site, "osaka-2");
	strcpy(h.run_name, "topics");
	strcpy(h.base_name, "SmolLM2-135M-Instruct.Q4_1.gguf");
	strcpy(h.adapter_text, "rank 16, alpha 32, targets all");
	memset(h.run_name_hash, 1, 32);
	memset(h.run_id, 2, 32);
	memset(h.base_fingerprint, 3, 32);
	memset(h.adapter_layout_hash, 4, 32);
	memset(h.initial_adapter_hash, 5, 32);
	return h;
}

static struct wire_update sample_update(void)
{
	struct wire_update u = {.kind = WIRE_UPDATE_DELTA,
		.sequence = 41,
		.base_sequence = 40,
		.round = 42,
		.degree = 2,
		.payload_bytes = 5308416,
		.have_sequence = 39,
		.word_applied = 38,
		.train_loss = 1.25f,
		.finished = true};
	memset(u.payload_hash, 7, 32);
	return u;
}

/* One message of each kind. */
static struct wire_message sample(enum wire_kind kind)
{
	static uint8_t data[WIRE_CHUNK_MAX];
	struct wire_message m;
	memset(&m, 0, sizeof m);
	m.kind = kind;
	switch (kind) {
	case WIRE_HELLO:
		m.hello = sample_hello();
		break;
	case WIRE_UPDATE:
		m.update = sample_update();
		break;
	case WIRE_CHUNK:
		memset(data, 0xa5, sizeof data);
		m.chunk = (struct wire_chunk){.sequence = 41, .offset = 120000, .data = data, .size = sizeof data};
		break;
	case WIRE_WORD:
		m.word = (struct wire_word){
			.number = 9, .round = 42, .lower_sequence = 41, .higher_sequence = 40, .weight = 0.25f};
		break;
	case WIRE_ACK:
		m.ack = (struct wire_ack){.have_sequence = 41, .word_applied = 9};
		break;
	case WIRE_PING:
		m.ping = (struct wire_ping){.nonce = UINT64_MAX, .unix_time_ms = 1795000000000};
		break;
	case WIRE_PONG:
		m.pong = (struct wire_ping){.nonce = 77, .unix_time_ms = 1795000000001};
		break;
	case WIRE_GOODBYE:
		m.goodbye.reason = WIRE_GOODBYE_INCOMPATIBLE;
		strcpy(m.goodbye.text, "base model differs: 0123 here, 4567 there");
		break;
	}
	return m;
}

/* Equal but for where a chunk's bytes lie. */
static void check_equal(const struct wire_message *a, const struct wire_message *b)
{
	ck_assert_int_eq(a->kind, b->kind);
	if (a->kind == WIRE_CHUNK) {
		ck_assert_uint_eq(a->chunk.sequence, b->chunk.sequence);
		ck_assert_uint_eq(a->chunk.offset, b->chunk.offset);
		ck_assert_uint_eq(a->chunk.size, b->chunk.size);
		ck_assert_mem_eq(a->chunk.data, b->chunk.data, a->chunk.size);
	} else {
		ck_assert_mem_eq(a, b, sizeof *a);
	}
}

static int round_trip(const struct wire_message *in)
{
	struct writer w;
	struct wire_message out;
	struct fault f = {0};
	writer_init(&w);
	int rc = wire_encode(in, &w, &f);
	if (rc == 0) {
		ck_assert_uint_le(w.size, WIRE_MESSAGE_MAX);
		rc = wire_decode(w.data, w.size, &out, &f);
		ck_assert_msg(rc == 0, "%s", f.text);
		check_equal(in, &out);
		wire_message_free(&out);
		wire_message_free(&out);
	} else {
		ck_assert_uint_eq(w.size, 0);
		ck_assert_ptr_nonnull(strstr(f.text, wire_kind_name(in->kind)));
	}
	writer_fini(&w);
	return rc;
}

START_TEST(every_message_reads_back_equal)
{
	for (enum wire_kind kind = WIRE_HELLO; kind <= WIRE_GOODBYE; kind++) {
		struct wire_message m = sample(kind);
		ck_assert_int_eq(round_trip(&m), 0);
	}
	struct wire_message m = sample(WIRE_HELLO);
	memset(&m.hello, 0, sizeof m.hello); /* everything that may be left out, left out */
	m.hello.protocol = 1;
	strcpy(m.hello.site, "a");
	ck_assert_int_eq(round_trip(&m), 0);
	m = sample(WIRE_UPDATE);
	m.update.kind = WIRE_UPDATE_SNAPSHOT;
	m.update.base_sequence = 0;
	ck_assert_int_eq(round_trip(&m), 0);
}
END_TEST

START_TEST(a_loss_that_is_not_finite_arrives_as_nan)
{
	const float losses[] = {NAN, INFINITY, -INFINITY};
	for (int i = 0; i < 3; i++) {
		struct wire_message m = sample(WIRE_UPDATE), out;
		struct writer w;
		m.update.train_loss = losses[i];
		writer_init(&w);
		ck_assert_int_eq(wire_encode(&m, &w, NULL), 0);
		ck_assert_int_eq(wire_decode(w.data, w.size, &out, NULL), 0);
		ck_assert(isnan(out.update.train_loss));
		writer_fini(&w);
	}
}
END_TEST

#define REFUSED(kind_, statement)                                                                                      \
	do {                                                                                                           \
		struct wire_message m = sample(kind_);                                                                 \
		statement;                                                                                             \
		ck_assert_msg(round_trip(&m) == SAKIORI_EINVAL, "sent: %s", #statement);                               \
	} while (0)
#define ALLOWED(kind_, statement)                                                                                      \
	do {                                                                                                           \
		struct wire_message m = sample(kind_);                                                                 \
		statement;                                                                                             \
		ck_assert_msg(round_trip(&m) == 0, "refused: %s", #statement);                                         \
	} while (0)

START_TEST(every_limit_of_hello_holds_when_sending)
{
	REFUSED(WIRE_HELLO, m.hello.protocol = 0);
	REFUSED(WIRE_HELLO, m.hello.site[0] = '\0');
	REFUSED(WIRE_HELLO, m.hello.site[2] = '\n');
	REFUSED(WIRE_HELLO, m.hello.site[2] = (char)0xc3);
	REFUSED(WIRE_HELLO, m.hello.site[2] = 0x7f);
	REFUSED(WIRE_HELLO, m.hello.software[0] = 0x1b);
	REFUSED(WIRE_HELLO, m.hello.run_name[0] = 0x1b);
	REFUSED(WIRE_HELLO, m.hello.base_name[0] = 0x1b);
	REFUSED(WIRE_HELLO, m.hello.adapter_text[0] = 0x1b);
	REFUSED(WIRE_HELLO, memset(m.hello.site, 'x', sizeof m.hello.site));
	REFUSED(WIRE_HELLO, memset(m.hello.base_name, 'x', sizeof m.hello.base_name));
	REFUSED(WIRE_HELLO, m.hello.degree = WIRE_DEGREE_MAX + 1);
	REFUSED(WIRE_HELLO, m.hello.my_sequence = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_HELLO, m.hello.have_sequence = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_HELLO, m.hello.word_sent = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_HELLO, m.hello.word_applied = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_HELLO, m.hello.round = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_HELLO, m.hello.unix_time_ms = WIRE_COUNTER_MAX + 1);
	ALLOWED(WIRE_HELLO, m.hello.degree = WIRE_DEGREE_MAX);
	ALLOWED(WIRE_HELLO, m.hello.my_sequence = WIRE_COUNTER_MAX);
	ALLOWED(WIRE_HELLO, wire_text(m.hello.site, sizeof m.hello.site,
				    "0123456789012345678901234567890123456789012345678901234567890123456789"));
}
END_TEST

START_TEST(every_limit_of_the_other_messages_holds_when_sending)
{
	REFUSED(WIRE_UPDATE, m.update.kind = 0);
	REFUSED(WIRE_UPDATE, m.update.kind = 3);
	REFUSED(WIRE_UPDATE, m.update.sequence = 0);
	REFUSED(WIRE_UPDATE, m.update.sequence = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_UPDATE, m.update.base_sequence = m.update.sequence);
	REFUSED(WIRE_UPDATE, m.update.kind = WIRE_UPDATE_SNAPSHOT);
	REFUSED(WIRE_UPDATE, m.update.round = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_UPDATE, m.update.have_sequence = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_UPDATE, m.update.word_applied = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_UPDATE, m.update.degree = WIRE_DEGREE_MAX + 1);
	REFUSED(WIRE_UPDATE, m.update.payload_bytes = 0);
	REFUSED(WIRE_UPDATE, m.update.payload_bytes = WIRE_PAYLOAD_MAX + 1);
	ALLOWED(WIRE_UPDATE, m.update.payload_bytes = WIRE_PAYLOAD_MAX);
	REFUSED(WIRE_CHUNK, m.chunk.sequence = 0);
	REFUSED(WIRE_CHUNK, m.chunk.size = 0);
	REFUSED(WIRE_CHUNK, m.chunk.size = WIRE_CHUNK_MAX + 1);
	REFUSED(WIRE_CHUNK, m.chunk.offset = WIRE_PAYLOAD_MAX - m.chunk.size + 1);
	REFUSED(WIRE_CHUNK, m.chunk.offset = UINT64_MAX);
	ALLOWED(WIRE_CHUNK, m.chunk.offset = WIRE_PAYLOAD_MAX - m.chunk.size);
	REFUSED(WIRE_WORD, m.word.number = 0);
	REFUSED(WIRE_WORD, m.word.lower_sequence = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_WORD, m.word.higher_sequence = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_WORD, m.word.round = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_WORD, m.word.weight = NAN);
	REFUSED(WIRE_WORD, m.word.weight = INFINITY);
	REFUSED(WIRE_WORD, m.word.weight = -0.5f);
	REFUSED(WIRE_WORD, m.word.weight = 1.0001f);
	ALLOWED(WIRE_WORD, m.word.weight = 1.0f);
	ALLOWED(WIRE_WORD, m.word.weight = 1e-45f);
	REFUSED(WIRE_ACK, m.ack.have_sequence = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_ACK, m.ack.word_applied = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_PING, m.ping.unix_time_ms = WIRE_COUNTER_MAX + 1);
	REFUSED(WIRE_PONG, m.pong.unix_time_ms = UINT64_MAX);
	REFUSED(WIRE_GOODBYE, m.goodbye.reason = 0);
	REFUSED(WIRE_GOODBYE, m.goodbye.reason = WIRE_GOODBYE_OVERLOADED + 1);
	REFUSED(WIRE_GOODBYE, m.goodbye.text[3] = '\t');
	REFUSED(WIRE_GOODBYE, memset(m.goodbye.text, 'x', sizeof m.goodbye.text));
	ALLOWED(WIRE_GOODBYE, memset(m.goodbye.text, 0, sizeof m.goodbye.text));
}
END_TEST

/* Protobuf by hand, for what wire_encode would never write. */
static void put_varint(struct writer *w, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		write_u8(w, (uint8_t)(v | 0x80));
	write_u8(w, (uint8_t)v);
}

static void put_field(struct writer *w, unsigned field, uint64_t v)
{
	put_varint(w, field << 3);
	put_varint(w, v);
}

static void put_bytes(struct writer *w, unsigned field, const void *data, size_t n)
{
	put_varint(w, field << 3 | 2);
	put_varint(w, n);
	write_bytes(w, data, n);
}

/* Decodes the body as field `kind` of the envelope. */
static int decode_body(enum wire_kind kind, struct writer *body, struct wire_message *out)
{
	struct writer w;
	writer_init(&w);
	put_bytes(&w, kind, body->data, body->size);
	int rc = wire_decode(w.data, w.size, out, NULL);
	writer_fini(&w);
	writer_fini(body);
	writer_init(body);
	return rc;
}

START_TEST(limits_hold_when_receiving_too)
{
	struct wire_message out;
	struct writer b;
	uint8_t hash[33] = {1};
	char text[300];
	memset(text, 'x', sizeof text);
	writer_init(&b);

	put_field(&b, 1, 1);
	put_bytes(&b, 3, "site", 4);
	ck_assert_int_eq(decode_body(WIRE_HELLO, &b, &out), 0);
	put_field(&b, 1, 1);
	put_bytes(&b, 3, text, WIRE_NAME_MAX + 1);
	ck_assert_int_eq(decode_body(WIRE_HELLO, &b, &out), SAKIORI_EFORMAT);
	put_field(&b, 1, 1);
	put_bytes(&b, 3, "si\x1bte", 5);
	ck_assert_int_eq(decode_body(WIRE_HELLO, &b, &out), SAKIORI_EFORMAT);
	for (size_t n = 1; n <= 33; n++) {
		put_field(&b, 1, 1);
		put_bytes(&b, 3, "site", 4);
		put_bytes(&b, 6, hash, n);
		ck_assert_int_eq(decode_body(WIRE_HELLO, &b, &out), n == 32 ? 0 : SAKIORI_EFORMAT);
	}
	put_field(&b, 1, 1);
	put_bytes(&b, 3, "site", 4);
	put_field(&b, 10, UINT64_MAX);
	ck_assert_int_eq(decode_body(WIRE_HELLO, &b, &out), SAKIORI_EFORMAT);

	put_field(&b, 1, 1); /* an update without a sequence */
	put_field(&b, 6, 10);
	ck_assert_int_eq(decode_body(WIRE_UPDATE, &b, &out), SAKIORI_EFORMAT);
	put_field(&b, 1, 99); /* of no known kind */
	put_field(&b, 2, 1);
	put_field(&b, 6, 10);
	ck_assert_int_eq(decode_body(WIRE_UPDATE, &b, &out), SAKIORI_EFORMAT);
	put_field(&b, 1, 5); /* a chunk without data */
	ck_assert_int_eq(decode_body(WIRE_CHUNK, &b, &out), SAKIORI_EFORMAT);
	static uint8_t chunk[WIRE_CHUNK_MAX + 1];
	put_field(&b, 1, 5);
	put_bytes(&b, 3, chunk, sizeof chunk);
	ck_assert_int_eq(decode_body(WIRE_CHUNK, &b, &out), SAKIORI_EFORMAT);
	put_field(&b, 1, 1); /* weight NaN */
	put_varint(&b, 5 << 3 | 5);
	write_u32(&b, 0x7fc00000);
	ck_assert_int_eq(decode_body(WIRE_WORD, &b, &out), SAKIORI_EFORMAT);
	put_field(&b, 1, 77);
	ck_assert_int_eq(decode_body(WIRE_GOODBYE, &b, &out), SAKIORI_EFORMAT);
	writer_fini(&b);
}
END_TEST

START_TEST(unknown_fields_are_skipped_and_unknown_kinds_named)
{
	struct wire_message out;
	struct writer b;
	writer_init(&b);
	put_field(&b, 1, 8);
	put_field(&b, 1000, 5);
	put_bytes(&b, 1001, "later", 5);
	ck_assert_int_eq(decode_body(WIRE_ACK, &b, &out), 0);
	ck_assert_uint_eq(out.ack.have_sequence, 8);
	put_field(&b, 1, 8);
	ck_assert_int_eq(decode_body((enum wire_kind)500, &b, &out), SAKIORI_EUNSUPPORTED);
	ck_assert_int_eq(wire_decode((const uint8_t *)"", 0, &out, NULL), SAKIORI_EUNSUPPORTED);
	writer_fini(&b);
}
END_TEST

START_TEST(truncated_messages_are_refused_or_shorter_ones)
{
	struct wire_message m = sample(WIRE_HELLO), out;
	struct writer w;
	writer_init(&w);
	ck_assert_int_eq(wire_encode(&m, &w, NULL), 0);
	for (size_t n = 1; n < w.size; n++)
		ck_assert_int_lt(wire_decode(w.data, n, &out, NULL), 0);
	writer_fini(&w);
}
END_TEST

START_TEST(memory_does_not_follow_amplifying_bytes)
{
	/* 2-byte unknown fields and empty bodies grow 44-fold inside protobuf-c; the budget must end that with an error
	 */
	struct wire_message out;
	struct writer w;
	writer_init(&w);
	while (w.size < WIRE_MESSAGE_MAX - 2) {
		write_u8(&w, 15 << 3);
		write_u8(&w, 0);
	}
	ck_assert_int_eq(wire_decode(w.data, w.size, &out, NULL), SAKIORI_EFORMAT);
	w.size = 0;
	while (w.size < WIRE_MESSAGE_MAX - 2) {
		write_u8(&w, WIRE_ACK << 3 | 2);
		write_u8(&w, 0);
	}
	int rc = wire_decode(w.data, w.size, &out, NULL);
	ck_assert(rc == 0 || rc == SAKIORI_EFORMAT);
	while (w.size <= WIRE_MESSAGE_MAX)
		write_u8(&w, 0);
	ck_assert_int_eq(wire_decode(w.data, w.size, &out, NULL), SAKIORI_EFORMAT);
	writer_fini(&w);
}
END_TEST

START_TEST(any_text_can_be_made_sendable)
{
	char out[9];
	wire_text(out, sizeof out, "caf\xc3\xa9\n");
	ck_assert_str_eq(out, "caf???");
	wire_text(out, sizeof out, "0123456789");
	ck_assert_str_eq(out, "01234567");
	wire_text(out, 1, "x");
	ck_assert_str_eq(out, "");
	ck_assert_str_eq(wire_kind_name(WIRE_GOODBYE), "goodbye");
	ck_assert_str_eq(wire_kind_name((enum wire_kind)9), "unknown");
	ck_assert_str_eq(wire_kind_name((enum wire_kind)0), "unknown");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("wire");
	TCase *tests = tcase_create("wire");
	suite_add_tcase(suite, tests);
	tcase_add_test(tests, every_message_reads_back_equal);
	tcase_add_test(tests, a_loss_that_is_not_finite_arrives_as_nan);
	tcase_add_test(tests, every_limit_of_hello_holds_when_sending);
	tcase_add_test(tests, every_limit_of_the_other_messages_holds_when_sending);
	tcase_add_test(tests, limits_hold_when_receiving_too);
	tcase_add_test(tests, unknown_fields_are_skipped_and_unknown_kinds_named);
	tcase_add_test(tests, truncated_messages_are_refused_or_shorter_ones);
	tcase_add_test(tests, memory_does_not_follow_amplifying_bytes);
	tcase_add_test(tests, any_text_can_be_made_sendable);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
