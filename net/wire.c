/* SPDX-License-Identifier: Apache-2.0 */
/* One `put_` and one `get_` a message, next to each other; check_message holds every limit and guards both directions.
 */
#include "net/wire.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "proto/peer.pb-c.h"

typedef Sakiori__Peer__Envelope envelope;

static _Atomic uint64_t decode_calls;

/* ---- limits ---- */

static bool is_text(const char *text, size_t capacity)
{
	for (size_t i = 0; i < capacity; i++) {
		if (text[i] == '\0')
			return true;
		if (text[i] < 0x20 || text[i] > 0x7e)
			return false;
	}
	return false;
}

static bool is_counter(uint64_t v)
{
	return v <= WIRE_COUNTER_MAX;
}

#define REFUSE_UNLESS(condition)                                                                                       \
	if (!(condition))                                                                                              \
	return #condition

/* Each returns NULL, or the rule that is broken, for the sentence. */
static const char *check_hello(const struct wire_hello *m)
{
	REFUSE_UNLESS(m->protocol >= 1);
	REFUSE_UNLESS(is_text(m->software, sizeof m->software));
	REFUSE_UNLESS(is_text(m->site, sizeof m->site) && m->site[0] != '\0');
	REFUSE_UNLESS(is_text(m->run_name, sizeof m->run_name));
	REFUSE_UNLESS(is_text(m->base_name, sizeof m->base_name));
	REFUSE_UNLESS(is_text(m->adapter_text, sizeof m->adapter_text));
	REFUSE_UNLESS(m->degree <= WIRE_DEGREE_MAX);
	REFUSE_UNLESS(is_counter(m->my_sequence) && is_counter(m->have_sequence));
	REFUSE_UNLESS(is_counter(m->word_sent) && is_counter(m->word_applied));
	REFUSE_UNLESS(is_counter(m->round) && is_counter(m->unix_time_ms));
	return NULL;
}

static const char *check_update(const struct wire_update *m)
{
	REFUSE_UNLESS(m->kind == WIRE_UPDATE_DELTA || m->kind == WIRE_UPDATE_SNAPSHOT);
	REFUSE_UNLESS(m->sequence >= 1 && is_counter(m->sequence));
	REFUSE_UNLESS(m->kind != WIRE_UPDATE_DELTA || m->base_sequence < m->sequence);
	REFUSE_UNLESS(m->kind != WIRE_UPDATE_SNAPSHOT || m->base_sequence == 0);
	REFUSE_UNLESS(is_counter(m->round) && is_counter(m->have_sequence) && is_counter(m->word_applied));
	REFUSE_UNLESS(m->degree <= WIRE_DEGREE_MAX);
	REFUSE_UNLESS(m->payload_bytes >= 1 && m->payload_bytes <= WIRE_PAYLOAD_MAX);
	return NULL;
}

static const char *check_chunk(const struct wire_chunk *m)
{
	REFUSE_UNLESS(m->sequence >= 1 && is_counter(m->sequence));
	REFUSE_UNLESS(m->size >= 1 && m->size <= WIRE_CHUNK_MAX);
	REFUSE_UNLESS(m->offset <= WIRE_PAYLOAD_MAX - m->size);
	return NULL;
}

static const char *check_word(const struct wire_word *m)
{
	REFUSE_UNLESS(m->number >= 1 && is_counter(m->number));
	REFUSE_UNLESS(is_counter(m->round) && is_counter(m->lower_sequence) && is_counter(m->higher_sequence));
	REFUSE_UNLESS(m->weight >= 0.0f && m->weight <= 1.0f); /* false for NaN too */
	return NULL;
}

static const char *check_ack(const struct wire_ack *m)
{
	REFUSE_UNLESS(is_counter(m->have_sequence) && is_counter(m->word_applied));
	return NULL;
}

static const char *check_ping(const struct wire_ping *m)
{
	REFUSE_UNLESS(is_counter(m->unix_time_ms));
	return NULL;
}

static const char *check_goodbye(const struct wire_goodbye *m)
{
	REFUSE_UNLESS(m->reason >= WIRE_GOODBYE_SHUTDOWN && m->reason <= WIRE_GOODBYE_OVERLOADED);
	REFUSE_UNLESS(is_text(m->text, sizeof m->text));
	return NULL;
}

static const char *check_message(const struct wire_message *message)
{
	switch (message->kind) {
	case WIRE_HELLO:
		return check_hello(&message->hello);
	case WIRE_UPDATE:
		return check_update(&message->update);
	case WIRE_CHUNK:
		return check_chunk(&message->chunk);
	case WIRE_WORD:
		return check_word(&message->word);
	case WIRE_ACK:
		return check_ack(&message->ack);
	case WIRE_PING:
		return check_ping(&message->ping);
	case WIRE_PONG:
		return check_ping(&message->pong);
	case WIRE_GOODBYE:
		return check_goodbye(&message->goodbye);
	}
	return "message kind is known";
}

/* ---- fields ---- */

/* A hash of zeros travels as an empty field. */
static ProtobufCBinaryData put_hash(const uint8_t hash[static WIRE_HASH_SIZE])
{
	static const uint8_t zero[WIRE_HASH_SIZE];
	bool known = memcmp(hash, zero, sizeof zero) != 0;
	return (ProtobufCBinaryData){.len = known ? WIRE_HASH_SIZE : 0, .data = (uint8_t *)hash};
}

static bool get_hash(ProtobufCBinaryData from, uint8_t out[static WIRE_HASH_SIZE])
{
	if (from.len != 0 && from.len != WIRE_HASH_SIZE)
		return false;
	if (from.len != 0)
		memcpy(out, from.data, WIRE_HASH_SIZE);
	return true;
}

static bool get_text(const char *from, char *out, size_t capacity)
{
	size_t n = strnlen(from, capacity);
	if (n == capacity)
		return false;
	memcpy(out, from, n + 1);
	return true;
}

static float finite_or_nan(float v)
{
	return isfinite(v) ? v : NAN;
}

/* ---- messages ---- */

/* protobuf-c takes char * for text it only reads. */
#define TEXT(field) ((char *)(uintptr_t)(field))

static Sakiori__Peer__Hello put_hello(const struct wire_hello *m)
{
	Sakiori__Peer__Hello p = SAKIORI__PEER__HELLO__INIT;
	p.protocol = m->protocol;
	p.software = TEXT(m->software);
	p.site = TEXT(m->site);
	p.run_name_hash = put_hash(m->run_name_hash);
	p.run_id = put_hash(m->run_id);
	p.base_fingerprint = put_hash(m->base_fingerprint);
	p.adapter_layout_hash = put_hash(m->adapter_layout_hash);
	p.initial_adapter_hash = put_hash(m->initial_adapter_hash);
	p.degree = m->degree;
	p.my_sequence = m->my_sequence;
	p.have_sequence = m->have_sequence;
	p.word_sent = m->word_sent;
	p.word_applied = m->word_applied;
	p.round = m->round;
	p.unix_time_ms = m->unix_time_ms;
	p.finished = m->finished;
	p.run_name = TEXT(m->run_name);
	p.base_name = TEXT(m->base_name);
	p.adapter_text = TEXT(m->adapter_text);
	return p;
}

static bool get_hello(const Sakiori__Peer__Hello *p, struct wire_hello *m)
{
	m->protocol = p->protocol;
	m->degree = p->degree;
	m->my_sequence = p->my_sequence;
	m->have_sequence = p->have_sequence;
	m->word_sent = p->word_sent;
	m->word_applied = p->word_applied;
	m->round = p->round;
	m->unix_time_ms = p->unix_time_ms;
	m->finished = p->finished != 0;
	return get_text(p->software, m->software, sizeof m->software) && get_text(p->site, m->site, sizeof m->site) &&
	       get_hash(p->run_name_hash, m->run_name_hash) && get_hash(p->run_id, m->run_id) &&
	       get_hash(p->base_fingerprint, m->base_fingerprint) &&
	       get_hash(p->adapter_layout_hash, m->adapter_layout_hash) &&
	       get_hash(p->initial_adapter_hash, m->initial_adapter_hash) &&
	       get_text(p->run_name, m->run_name, sizeof m->run_name) &&
	       get_text(p->base_name, m->base_name, sizeof m->base_name) &&
	       get_text(p->adapter_text, m->adapter_text, sizeof m->adapter_text);
}

static Sakiori__Peer__Update put_update(const struct wire_update *m)
{
	Sakiori__Peer__Update p = SAKIORI__PEER__UPDATE__INIT;
	p.kind = m->kind == WIRE_UPDATE_DELTA ? SAKIORI__PEER__UPDATE_KIND__UPDATE_DELTA
					      : SAKIORI__PEER__UPDATE_KIND__UPDATE_SNAPSHOT;
	p.sequence = m->sequence;
	p.base_sequence = m->base_sequence;
	p.round = m->round;
	p.degree = m->degree;
	p.payload_bytes = m->payload_bytes;
	p.payload_hash = put_hash(m->payload_hash);
	p.have_sequence = m->have_sequence;
	p.word_applied = m->word_applied;
	p.train_loss = finite_or_nan(m->train_loss);
	p.finished = m->finished;
	return p;
}

static bool get_update(const Sakiori__Peer__Update *p, struct wire_update *m)
{
	m->kind = (enum wire_update_kind)p->kind;
	m->sequence = p->sequence;
	m->base_sequence = p->base_sequence;
	m->round = p->round;
	m->degree = p->degree;
	m->payload_bytes = p->payload_bytes;
	m->have_sequence = p->have_sequence;
	m->word_applied = p->word_applied;
	m->train_loss = finite_or_nan(p->train_loss);
	m->finished = p->finished != 0;
	return get_hash(p->payload_hash, m->payload_hash);
}

static Sakiori__Peer__Chunk put_chunk(const struct wire_chunk *m)
{
	Sakiori__Peer__Chunk p = SAKIORI__PEER__CHUNK__INIT;
	p.sequence = m->sequence;
	p.offset = m->offset;
	p.data = (ProtobufCBinaryData){.len = m->size, .data = m->data};
	return p;
}

/* Its bytes are copied last, once everything else was found good. */
static void get_chunk(const Sakiori__Peer__Chunk *p, struct wire_chunk *m)
{
	m->sequence = p->sequence;
	m->offset = p->offset;
	m->size = p->data.len;
}

static Sakiori__Peer__Word put_word(const struct wire_word *m)
{
	Sakiori__Peer__Word p = SAKIORI__PEER__WORD__INIT;
	p.number = m->number;
	p.round = m->round;
	p.lower_sequence = m->lower_sequence;
	p.higher_sequence = m->higher_sequence;
	p.weight = m->weight;
	return p;
}

static void get_word(const Sakiori__Peer__Word *p, struct wire_word *m)
{
	m->number = p->number;
	m->round = p->round;
	m->lower_sequence = p->lower_sequence;
	m->higher_sequence = p->higher_sequence;
	m->weight = p->weight;
}

static Sakiori__Peer__Ack put_ack(const struct wire_ack *m)
{
	Sakiori__Peer__Ack p = SAKIORI__PEER__ACK__INIT;
	p.have_sequence = m->have_sequence;
	p.word_applied = m->word_applied;
	return p;
}

static void get_ack(const Sakiori__Peer__Ack *p, struct wire_ack *m)
{
	m->have_sequence = p->have_sequence;
	m->word_applied = p->word_applied;
}

static Sakiori__Peer__Ping put_ping(const struct wire_ping *m)
{
	Sakiori__Peer__Ping p = SAKIORI__PEER__PING__INIT;
	p.nonce = m->nonce;
	p.unix_time_ms = m->unix_time_ms;
	return p;
}

static void get_ping(const Sakiori__Peer__Ping *p, struct wire_ping *m)
{
	m->nonce = p->nonce;
	m->unix_time_ms = p->unix_time_ms;
}

static Sakiori__Peer__Goodbye put_goodbye(const struct wire_goodbye *m)
{
	Sakiori__Peer__Goodbye p = SAKIORI__PEER__GOODBYE__INIT;
	p.reason = (Sakiori__Peer__GoodbyeReason)m->reason; /* the numbers are the same, see the assertions below */
	p.text = TEXT(m->text);
	return p;
}
_Static_assert((int)WIRE_GOODBYE_SHUTDOWN == (int)SAKIORI__PEER__GOODBYE_REASON__GOODBYE_SHUTDOWN, "first reason");
_Static_assert((int)WIRE_GOODBYE_OVERLOADED == (int)SAKIORI__PEER__GOODBYE_REASON__GOODBYE_OVERLOADED, "last reason");
_Static_assert((int)WIRE_UPDATE_DELTA == (int)SAKIORI__PEER__UPDATE_KIND__UPDATE_DELTA, "delta");
_Static_assert((int)WIRE_UPDATE_SNAPSHOT == (int)SAKIORI__PEER__UPDATE_KIND__UPDATE_SNAPSHOT, "snapshot");

static bool get_goodbye(const Sakiori__Peer__Goodbye *p, struct wire_goodbye *m)
{
	m->reason = (enum wire_goodbye_reason)p->reason;
	return get_text(p->text, m->text, sizeof m->text);
}

/* ---- envelope ---- */

static void pack(const envelope *e, struct writer *out)
{
	size_t n = sakiori__peer__envelope__get_packed_size(e);
	sakiori__peer__envelope__pack(e, write_space(out, n));
}

/* Puts the message into an envelope on this stack frame and packs it. */
#define PACK_AS(CASE, field, put)                                                                                      \
	{                                                                                                              \
		__typeof__(put(&message->field)) body = put(&message->field);                                          \
		e.body_case = SAKIORI__PEER__ENVELOPE__BODY_##CASE;                                                    \
		e.field = &body;                                                                                       \
		pack(&e, out);                                                                                         \
	}

int wire_encode(const struct wire_message *message, struct writer *out, struct fault *f)
{
	const char *broken = check_message(message);
	if (broken != NULL)
		return fault_set(f, SAKIORI_EINVAL, "a %s message may not be sent: %s does not hold",
			wire_kind_name(message->kind), broken);
	envelope e = SAKIORI__PEER__ENVELOPE__INIT;
	switch (message->kind) {
	case WIRE_HELLO:
		PACK_AS(HELLO, hello, put_hello)
		break;
	case WIRE_UPDATE:
		PACK_AS(UPDATE, update, put_update)
		break;
	case WIRE_CHUNK:
		PACK_AS(CHUNK, chunk, put_chunk)
		break;
	case WIRE_WORD:
		PACK_AS(WORD, word, put_word)
		break;
	case WIRE_ACK:
		PACK_AS(ACK, ack, put_ack)
		break;
	case WIRE_PING:
		PACK_AS(PING, ping, put_ping)
		break;
	case WIRE_PONG:
		PACK_AS(PONG, pong, put_ping)
		break;
	case WIRE_GOODBYE:
		PACK_AS(GOODBYE, goodbye, put_goodbye)
		break;
	}
	return 0;
}

/* Takes the fields over; false when a field's length is wrong. */
static bool get_message(const envelope *e, struct wire_message *m)
{
	switch (m->kind) {
	case WIRE_HELLO:
		return get_hello(e->hello, &m->hello);
	case WIRE_UPDATE:
		return get_update(e->update, &m->update);
	case WIRE_CHUNK:
		get_chunk(e->chunk, &m->chunk);
		return true;
	case WIRE_WORD:
		get_word(e->word, &m->word);
		return true;
	case WIRE_ACK:
		get_ack(e->ack, &m->ack);
		return true;
	case WIRE_PING:
		get_ping(e->ping, &m->ping);
		return true;
	case WIRE_PONG:
		get_ping(e->pong, &m->pong);
		return true;
	case WIRE_GOODBYE:
		return get_goodbye(e->goodbye, &m->goodbye);
	}
	return false;
}
_Static_assert((int)WIRE_HELLO == (int)SAKIORI__PEER__ENVELOPE__BODY_HELLO, "first kind");
_Static_assert((int)WIRE_GOODBYE == (int)SAKIORI__PEER__ENVELOPE__BODY_GOODBYE, "last kind");

/* protobuf-c's allocations during one decode. Each block is preceded by its size, so that freeing gives it back. */
struct budget {
	size_t left;
};
union block {
	size_t size;
	max_align_t alignment;
};

static void *budget_alloc(void *self, size_t size)
{
	struct budget *budget = self;
	size_t whole = 0;
	if (!size_add(size, sizeof(union block), &whole) || whole > budget->left)
		return NULL;
	union block *block = malloc(whole);
	if (block == NULL)
		return NULL;
	block->size = whole;
	budget->left -= whole;
	return block + 1;
}

static void budget_free(void *self, void *pointer)
{
	struct budget *budget = self;
	if (pointer == NULL)
		return;
	union block *block = (union block *)pointer - 1;
	budget->left += block->size;
	free(block);
}

int wire_decode(const uint8_t *bytes, size_t n, struct wire_message *out, struct fault *f)
{
	atomic_fetch_add_explicit(&decode_calls, 1, memory_order_relaxed);
	memset(out, 0, sizeof *out);
	if (n > WIRE_MESSAGE_MAX)
		return fault_set(
			f, SAKIORI_EFORMAT, "message of %zu bytes, at most %d are allowed", n, WIRE_MESSAGE_MAX);
	struct budget budget = {.left = WIRE_DECODE_BUDGET};
	ProtobufCAllocator allocator = {.alloc = budget_alloc, .free = budget_free, .allocator_data = &budget};
	envelope *e = sakiori__peer__envelope__unpack(&allocator, n, bytes);
	if (e == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "message of %zu bytes is not as proto/peer.proto says", n);

	int rc = 0;
	const char *broken = NULL;
	out->kind = (enum wire_kind)e->body_case;
	if (e->body_case == SAKIORI__PEER__ENVELOPE__BODY__NOT_SET)
		rc = fault_set(f, SAKIORI_EUNSUPPORTED, "message of a kind that this version does not know");
	else if (!get_message(e, out))
		rc = fault_set(
			f, SAKIORI_EFORMAT, "%s message with a field of wrong length", wire_kind_name(out->kind));
	else if ((broken = check_message(out)) != NULL)
		rc = fault_set(f, SAKIORI_EFORMAT, "%s message: %s does not hold", wire_kind_name(out->kind), broken);
	else if (out->kind == WIRE_CHUNK) {
		out->chunk.data = must_alloc(out->chunk.size);
		memcpy(out->chunk.data, e->chunk->data.data, out->chunk.size);
	}
	sakiori__peer__envelope__free_unpacked(e, &allocator);
	if (rc != 0)
		memset(out, 0, sizeof *out);
	return rc;
}

void wire_message_free(struct wire_message *message)
{
	if (message->kind == WIRE_CHUNK) {
		free(message->chunk.data);
		message->chunk.data = NULL;
		message->chunk.size = 0;
	}
}

uint64_t wire_decode_calls(void)
{
	return atomic_load_explicit(&decode_calls, memory_order_relaxed);
}

const char *wire_kind_name(enum wire_kind kind)
{
	static const char *const names[] = {[WIRE_HELLO] = "hello",
		[WIRE_UPDATE] = "update",
		[WIRE_CHUNK] = "chunk",
		[WIRE_WORD] = "word",
		[WIRE_ACK] = "ack",
		[WIRE_PING] = "ping",
		[WIRE_PONG] = "pong",
		[WIRE_GOODBYE] = "goodbye"};
	return kind >= WIRE_HELLO && kind <= WIRE_GOODBYE ? names[kind] : "unknown";
}

void wire_text(char *out, size_t capacity, const char *in)
{
	size_t n = 0;
	for (; n + 1 < capacity && in[n] != '\0'; n++)
		out[n] = in[n] >= 0x20 && in[n] <= 0x7e ? in[n] : '?';
	out[n] = '\0';
}
