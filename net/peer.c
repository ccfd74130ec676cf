/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path, initiator left, responder right; every arrow is one frame:
 *
 *	WAIT_SECOND	-- first: e, s ------------------------>	WAIT_FIRST
 *	WAIT_SECOND	<- second: e ---------------------------	WAIT_CONFIRM
 *	WAIT_CONFIRM	-- transport 0: certificate ----------->	UP
 *	UP		<- transport 0: certificate ------------	UP
 *	UP		<- transport 1, 2, ...: messages ------>	UP
 *
 * The first message can be recorded and sent again by anybody. It gets an answer and nothing else: only who owns its
 * ephemeral key can seal the certificate that makes the responder UP. Each side compares the other's certificate with
 *the pinned one byte for byte, so that both agree on Ed25519 key and generation, not only on the X25519 key that Noise
 *proves. Failure: the keys are wiped, the state is FAILED for good, and the reason is kept for the owner to count.
 *Nothing is ever answered to a stranger. */
#include "net/peer.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "net/noise.h"

#define PROTOCOL_VERSION 1 /* first byte of both handshake frames */
#define TYPE_FIRST 1       /* their second byte */
#define TYPE_SECOND 2
#define TYPE_TRANSPORT 0x10 /* first byte of every later frame */
#define HANDSHAKE_HEADER 4  /* version, type, length of the rest (2 bytes, little-endian) */
#define CONFIRM_SIZE (PEER_FRAME_HEADER + IDENTITY_CERTIFICATE_SIZE + NOISE_TAG_SIZE)
/* Most that an Update frame, or a Chunk frame beside its data, takes: fields, envelope, header and tag. */
#define UPDATE_FRAME_BOUND 256
#define CHUNK_FRAME_BOUND 96
#define COUNTER_END (UINT64_C(1) << 60)

_Static_assert(PEER_FIRST_SIZE == HANDSHAKE_HEADER + NOISE_FIRST_OVERHEAD + NOISE_MAC1_SIZE, "first message");
_Static_assert(PEER_SECOND_SIZE == HANDSHAKE_HEADER + NOISE_SECOND_OVERHEAD, "second message");
_Static_assert(CONFIRM_SIZE <= PEER_FRAME_MAX_BEFORE_UP, "the link lets the whole handshake through");
_Static_assert(WIRE_MESSAGE_MAX + NOISE_TAG_SIZE == NOISE_MESSAGE_MAX, "a message fits a Noise message");
_Static_assert(NETWORK_SECRET_SIZE == NOISE_KEY_SIZE, "the network secret is psk2");

enum state {
	STATE_NEW, /* initiator before peer_session_start */
	STATE_WAIT_FIRST,
	STATE_WAIT_SECOND,
	STATE_WAIT_CONFIRM,
	STATE_UP,
	STATE_FAILED,
};

/* An update whose chunks are arriving. */
struct joining {
	struct hash hash;
	struct wire_update update;
	uint8_t *payload;
	size_t received;
};

/* An update whose chunks are leaving. */
struct cutting {
	struct wire_update update;
	const uint8_t *payload;
	size_t sent;
	bool announced;
};

struct keys {
	struct noise_handshake handshake;
	struct noise_transport transport;
};

struct peer_session {
	const struct peer_settings *settings;
	struct peer_events events;
	void *owner;
	enum state state;
	enum peer_failure failure;
	bool initiator;
	int peer;
	struct identity_public remote; /* pinned; the responder knows it after the first message */
	uint64_t started_ms;           /* handshake; then when the session came up */
	struct keys *keys;             /* guarded memory, from the first Diffie-Hellman until the end */
	uint64_t frames;               /* both directions */
	uint64_t bytes;
	uint64_t accept_payload_bytes;
	struct joining *joining;
	struct cutting *cutting;
	struct writer outgoing; /* one frame being built */
	uint8_t *incoming;      /* one message being opened, WIRE_MESSAGE_MAX bytes */
};
/* What a stranger's connection may cost before and after its mac1 is found good. */
_Static_assert(sizeof(struct peer_session) + sizeof(struct keys) <= 1024, "a session without an update");

const char *peer_failure_label(enum peer_failure failure)
{
	static const char *const labels[] = {
#define X(name, label, code) [PEER_FAILURE_##name] = label,
		PEER_FAILURES(X)
#undef X
	};
	return failure >= 0 && failure < PEER_FAILURE_COUNT ? labels[failure] : "unknown";
}

static int failure_code(enum peer_failure failure)
{
	static const int codes[] = {
#define X(name, label, code) [PEER_FAILURE_##name] = code,
		PEER_FAILURES(X)
#undef X
	};
	return codes[failure];
}

static void drop_updates(struct peer_session *s)
{
	if (s->joining != NULL)
		free(s->joining->payload);
	free(s->joining);
	free(s->cutting);
	s->joining = NULL;
	s->cutting = NULL;
}

static void drop_keys(struct peer_session *s)
{
	noise_secret_free(s->keys);
	s->keys = NULL;
}

static int fail(struct peer_session *s, enum peer_failure failure)
{
	if (s->state != STATE_FAILED) {
		s->state = STATE_FAILED;
		s->failure = failure;
		drop_keys(s);
		drop_updates(s);
	}
	return failure_code(s->failure);
}

/* ---- life ---- */

void peer_network_hash(const char *network_name, uint8_t out[static WIRE_HASH_SIZE])
{
	hash_bytes("sakiori-network", network_name, strlen(network_name), out);
}

static struct peer_session *session_new(
	const struct peer_settings *settings, const struct peer_events *events, void *owner, uint64_t now_ms)
{
	struct peer_session *s = must_calloc(1, sizeof *s);
	s->settings = settings;
	s->events = *events;
	s->owner = owner;
	s->peer = -1;
	s->started_ms = now_ms;
	writer_init(&s->outgoing);
	return s;
}

struct peer_session *peer_session_dial(const struct peer_settings *settings, const struct peer_events *events,
	void *owner, const struct identity_public *id, int peer, uint64_t now_ms)
{
	struct peer_session *s = session_new(settings, events, owner, now_ms);
	s->initiator = true;
	s->state = STATE_NEW;
	s->remote = *id;
	s->peer = peer;
	return s;
}

struct peer_session *peer_session_accept(
	const struct peer_settings *settings, const struct peer_events *events, void *owner, uint64_t now_ms)
{
	struct peer_session *s = session_new(settings, events, owner, now_ms);
	s->state = STATE_WAIT_FIRST;
	return s;
}

void peer_session_free(struct peer_session *s)
{
	if (s == NULL)
		return;
	drop_updates(s);
	writer_fini(&s->outgoing);
	free(s->incoming);
	drop_keys(s);
	free(s);
}

/* ---- handshake ---- */

static int handshake_begin(struct peer_session *s)
{
	static const char head[] = "sakiori/1" NOISE_SUITE;
	uint8_t prologue[sizeof head - 1 + WIRE_HASH_SIZE], ephemeral[NOISE_KEY_SIZE];
	memcpy(prologue, head, sizeof head - 1);
	memcpy(prologue + sizeof head - 1, s->settings->network_hash, WIRE_HASH_SIZE);
	if (s->settings->random != NULL)
		s->settings->random(s->settings->random_self, ephemeral, sizeof ephemeral);
	else
		noise_random(ephemeral, sizeof ephemeral);
	s->keys = noise_secret_alloc(sizeof *s->keys);
	int rc = noise_handshake_init(&s->keys->handshake, s->initiator, prologue, sizeof prologue,
		identity_x25519_secret(s->settings->identity), s->initiator ? s->remote.x25519 : NULL,
		s->settings->network_secret, ephemeral);
	noise_wipe(ephemeral, sizeof ephemeral);
	return rc;
}

static void put_handshake_header(uint8_t *frame, uint8_t type, size_t size)
{
	frame[0] = PROTOCOL_VERSION;
	frame[1] = type;
	frame[2] = (uint8_t)(size - HANDSHAKE_HEADER);
	frame[3] = (uint8_t)((size - HANDSHAKE_HEADER) >> 8);
}

/* NONE, or what is wrong with the plain bytes of a handshake frame. */
static enum peer_failure check_handshake_header(const uint8_t *frame, size_t n, uint8_t type, size_t size)
{
	if (n < HANDSHAKE_HEADER)
		return PEER_FAILURE_MALFORMED_FRAME;
	if (frame[0] != PROTOCOL_VERSION)
		return PEER_FAILURE_VERSION;
	uint8_t expected[HANDSHAKE_HEADER];
	put_handshake_header(expected, type, size);
	if (n != size || memcmp(frame, expected, sizeof expected) != 0)
		return PEER_FAILURE_MALFORMED_FRAME;
	return PEER_FAILURE_NONE;
}

int peer_session_start(struct peer_session *s, uint64_t now_ms)
{
	if (s->state != STATE_NEW)
		return s->state == STATE_FAILED ? failure_code(s->failure) : 0;
	uint8_t frame[PEER_FIRST_SIZE];
	s->started_ms = now_ms;
	if (handshake_begin(s) != 0 || noise_write_first(&s->keys->handshake, NULL, 0, frame + HANDSHAKE_HEADER) != 0)
		return fail(s, PEER_FAILURE_DECRYPT);
	put_handshake_header(frame, TYPE_FIRST, sizeof frame);
	size_t covered = sizeof frame - NOISE_MAC1_SIZE;
	noise_mac1(s->remote.x25519, s->settings->network_secret, frame, covered, frame + covered);
	s->state = STATE_WAIT_SECOND;
	s->events.send_frame(s->owner, s, frame, sizeof frame);
	return 0;
}

static int on_first(struct peer_session *s, const uint8_t *frame, size_t n)
{
	enum peer_failure wrong = check_handshake_header(frame, n, TYPE_FIRST, PEER_FIRST_SIZE);
	if (wrong != PEER_FAILURE_NONE)
		return fail(s, wrong);
	uint8_t mac[NOISE_MAC1_SIZE], answer[PEER_SECOND_SIZE];
	size_t covered = PEER_FIRST_SIZE - NOISE_MAC1_SIZE;
	noise_mac1(identity_public(s->settings->identity)->x25519, s->settings->network_secret, frame, covered, mac);
	if (!noise_equal(mac, frame + covered, sizeof mac))
		return fail(s, PEER_FAILURE_BAD_MAC);
	if (handshake_begin(s) != 0 ||
		noise_read_first(&s->keys->handshake, frame + HANDSHAKE_HEADER, NOISE_FIRST_OVERHEAD, NULL) != 0)
		return fail(s, PEER_FAILURE_DECRYPT);
	const struct identity_public *pinned =
		s->events.find_peer(s->owner, s->keys->handshake.remote_static, &s->peer);
	if (pinned == NULL) {
		s->peer = -1;
		return fail(s, PEER_FAILURE_UNKNOWN_KEY);
	}
	s->remote = *pinned;
	if (noise_write_second(&s->keys->handshake, NULL, 0, answer + HANDSHAKE_HEADER) != 0 ||
		noise_split(&s->keys->handshake, &s->keys->transport) != 0)
		return fail(s, PEER_FAILURE_DECRYPT);
	put_handshake_header(answer, TYPE_SECOND, sizeof answer);
	s->state = STATE_WAIT_CONFIRM;
	s->events.send_frame(s->owner, s, answer, sizeof answer);
	return 0;
}

/* ---- transport frames, sealing beside opening ---- */

/* Room for a frame's header; the message is appended to s->outgoing after it. */
static struct writer *frame_begin(struct peer_session *s)
{
	s->outgoing.size = 0;
	write_u8(&s->outgoing, TYPE_TRANSPORT);
	write_u64(&s->outgoing, s->keys->transport.send_counter);
	return &s->outgoing;
}

/* Seals what was appended since frame_begin and hands the frame out. */
static int frame_end(struct peer_session *s)
{
	size_t plain = s->outgoing.size - PEER_FRAME_HEADER;
	write_space(&s->outgoing, NOISE_TAG_SIZE);
	uint8_t *frame = s->outgoing.data;
	if (s->keys->transport.send_counter >= COUNTER_END ||
		noise_seal(&s->keys->transport, frame, PEER_FRAME_HEADER, frame + PEER_FRAME_HEADER, plain,
			frame + PEER_FRAME_HEADER) != 0)
		return fail(s, PEER_FAILURE_EXPIRED);
	s->frames++;
	s->bytes += s->outgoing.size;
	s->events.send_frame(s->owner, s, frame, s->outgoing.size);
	return 0;
}

/* Opens a transport frame into s->incoming; *size gets the message's bytes. */
static int frame_open(struct peer_session *s, const uint8_t *frame, size_t n, size_t *size)
{
	if (n < PEER_FRAME_HEADER + NOISE_TAG_SIZE || n > PEER_FRAME_MAX || frame[0] != TYPE_TRANSPORT)
		return fail(s, PEER_FAILURE_MALFORMED_FRAME);
	struct reader r;
	reader_init(&r, frame + 1, 8);
	uint64_t counter = read_u64(&r);
	if (counter < s->keys->transport.receive_counter)
		return fail(s, PEER_FAILURE_REPLAY);
	if (s->incoming == NULL)
		s->incoming = must_alloc(s->state == STATE_UP ? WIRE_MESSAGE_MAX : IDENTITY_CERTIFICATE_SIZE);
	if (noise_open(&s->keys->transport, counter, frame, PEER_FRAME_HEADER, frame + PEER_FRAME_HEADER,
		    n - PEER_FRAME_HEADER, s->incoming) != 0)
		return fail(s, PEER_FAILURE_DECRYPT);
	s->frames++;
	s->bytes += n;
	*size = n - PEER_FRAME_HEADER - NOISE_TAG_SIZE;
	return 0;
}

static int send_certificate(struct peer_session *s)
{
	uint8_t *certificate = write_space(frame_begin(s), IDENTITY_CERTIFICATE_SIZE);
	identity_certificate(identity_public(s->settings->identity), certificate);
	return frame_end(s);
}

static int on_second(struct peer_session *s, const uint8_t *frame, size_t n)
{
	enum peer_failure wrong = check_handshake_header(frame, n, TYPE_SECOND, PEER_SECOND_SIZE);
	if (wrong != PEER_FAILURE_NONE)
		return fail(s, wrong);
	if (noise_read_second(&s->keys->handshake, frame + HANDSHAKE_HEADER, NOISE_SECOND_OVERHEAD, NULL) != 0 ||
		noise_split(&s->keys->handshake, &s->keys->transport) != 0)
		return fail(s, PEER_FAILURE_DECRYPT);
	s->state = STATE_WAIT_CONFIRM;
	return send_certificate(s);
}

static int on_confirm(struct peer_session *s, const uint8_t *frame, size_t n, uint64_t now_ms)
{
	if (n != CONFIRM_SIZE)
		return fail(s, PEER_FAILURE_MALFORMED_FRAME);
	size_t size = 0;
	int rc = frame_open(s, frame, n, &size);
	if (rc != 0)
		return rc;
	uint8_t pinned[IDENTITY_CERTIFICATE_SIZE];
	identity_certificate(&s->remote, pinned);
	if (!noise_equal(s->incoming, pinned, sizeof pinned))
		return fail(s, PEER_FAILURE_CERTIFICATE);
	free(s->incoming);
	s->incoming = NULL;
	if (!s->initiator)
		rc = send_certificate(s);
	if (rc != 0)
		return rc;
	s->state = STATE_UP;
	s->started_ms = now_ms;
	s->events.on_up(s->owner, s, s->peer);
	return s->state == STATE_FAILED ? failure_code(s->failure) : 0;
}

/* ---- messages and updates ---- */

static int send_message(struct peer_session *s, const struct wire_message *message)
{
	int rc = wire_encode(message, frame_begin(s), NULL);
	return rc != 0 ? rc : frame_end(s);
}

int peer_session_send(struct peer_session *s, const struct wire_message *message)
{
	if (s->state != STATE_UP)
		return SAKIORI_EPROTO;
	if (message->kind == WIRE_UPDATE || message->kind == WIRE_CHUNK)
		return SAKIORI_EINVAL;
	return send_message(s, message);
}

int peer_session_send_update(struct peer_session *s, const struct wire_update *update, const uint8_t *payload)
{
	if (s->state != STATE_UP)
		return SAKIORI_EPROTO;
	if (s->cutting != NULL)
		return SAKIORI_EBUSY;
	struct writer trial;
	writer_init(&trial);
	int rc = wire_encode(&(struct wire_message){.kind = WIRE_UPDATE, .update = *update}, &trial, NULL);
	writer_fini(&trial);
	if (rc != 0)
		return rc;
	s->cutting = must_calloc(1, sizeof *s->cutting);
	s->cutting->update = *update;
	s->cutting->payload = payload;
	return 0;
}

static int send_next_chunk(struct peer_session *s, size_t size)
{
	struct cutting *c = s->cutting;
	struct wire_message message = {.kind = WIRE_CHUNK};
	message.chunk.sequence = c->update.sequence;
	message.chunk.offset = c->sent;
	message.chunk.data = (uint8_t *)(uintptr_t)(c->payload + c->sent); /* only read */
	message.chunk.size = size;
	c->sent += size;
	return send_message(s, &message);
}

size_t peer_session_pump(struct peer_session *s, size_t max_bytes)
{
	size_t total = 0;
	while (s->state == STATE_UP && s->cutting != NULL) {
		struct cutting *c = s->cutting;
		size_t left = (size_t)c->update.payload_bytes - c->sent;
		size_t size = left < WIRE_CHUNK_MAX ? left : WIRE_CHUNK_MAX;
		size_t bound = c->announced ? size + CHUNK_FRAME_BOUND : UPDATE_FRAME_BOUND;
		if (bound > max_bytes - total)
			break;
		int rc = c->announced
				 ? send_next_chunk(s, size)
				 : send_message(s, &(struct wire_message){.kind = WIRE_UPDATE, .update = c->update});
		if (rc != 0)
			break;
		total += s->outgoing.size;
		c->announced = true;
		if (c->sent == c->update.payload_bytes) {
			s->cutting = NULL; /* first, so that the callback may start the next one */
			if (s->events.on_update_sent != NULL)
				s->events.on_update_sent(s->owner, s, &c->update);
			free(c);
		}
	}
	return total;
}

void peer_session_accept_payload_bytes(struct peer_session *s, uint64_t bytes)
{
	s->accept_payload_bytes = bytes;
}

static int on_update_head(struct peer_session *s, const struct wire_update *update)
{
	if (s->joining != NULL)
		return fail(s, PEER_FAILURE_OUT_OF_ORDER);
	if (update->payload_bytes > s->accept_payload_bytes || update->payload_bytes > SIZE_MAX)
		return fail(s, PEER_FAILURE_OVERSIZE);
	uint8_t *payload = malloc((size_t)update->payload_bytes);
	if (payload == NULL)
		return fail(s, PEER_FAILURE_NO_MEMORY);
	struct joining *j = aligned_alloc(_Alignof(struct joining), sizeof *j);
	if (j == NULL) {
		free(payload);
		return fail(s, PEER_FAILURE_NO_MEMORY);
	}
	j->update = *update;
	j->payload = payload;
	j->received = 0;
	hash_init(&j->hash, WIRE_PAYLOAD_PURPOSE);
	s->joining = j;
	return 0;
}

static int on_chunk(struct peer_session *s, const struct wire_chunk *chunk)
{
	struct joining *j = s->joining;
	if (j == NULL || chunk->sequence != j->update.sequence || chunk->offset != j->received ||
		chunk->size > j->update.payload_bytes - j->received)
		return fail(s, PEER_FAILURE_OUT_OF_ORDER);
	memcpy(j->payload + j->received, chunk->data, chunk->size);
	hash_update(&j->hash, chunk->data, chunk->size);
	j->received += chunk->size;
	if (j->received < j->update.payload_bytes)
		return 0;
	uint8_t hash[HASH_SIZE];
	hash_final(&j->hash, hash);
	if (!noise_equal(hash, j->update.payload_hash, sizeof hash))
		return fail(s, PEER_FAILURE_PAYLOAD_HASH);
	s->joining = NULL;
	s->events.on_update(s->owner, s, &j->update, j->payload, j->received);
	free(j);
	return 0;
}

static int on_transport(struct peer_session *s, const uint8_t *frame, size_t n)
{
	size_t size = 0;
	struct wire_message message;
	int rc = frame_open(s, frame, n, &size);
	if (rc != 0)
		return rc;
	rc = wire_decode(s->incoming, size, &message, NULL);
	if (rc == SAKIORI_EUNSUPPORTED)
		return 0; /* a kind from a later version: skipped like an unknown field */
	if (rc != 0)
		return fail(s, PEER_FAILURE_MALFORMED_MESSAGE);
	if (message.kind == WIRE_UPDATE)
		rc = on_update_head(s, &message.update);
	else if (message.kind == WIRE_CHUNK)
		rc = on_chunk(s, &message.chunk);
	else
		s->events.on_message(s->owner, s, &message);
	wire_message_free(&message);
	return s->state == STATE_FAILED ? failure_code(s->failure) : rc;
}

int peer_session_on_frame(struct peer_session *s, const uint8_t *frame, size_t n, uint64_t now_ms)
{
	switch (s->state) {
	case STATE_NEW:
		return fail(s, PEER_FAILURE_MALFORMED_FRAME); /* an acceptor does not speak first */
	case STATE_WAIT_FIRST:
		return on_first(s, frame, n);
	case STATE_WAIT_SECOND:
		return on_second(s, frame, n);
	case STATE_WAIT_CONFIRM:
		return on_confirm(s, frame, n, now_ms);
	case STATE_UP:
		return on_transport(s, frame, n);
	case STATE_FAILED:
		break;
	}
	return failure_code(s->failure);
}

/* ---- time and questions ---- */

static uint64_t limit(uint64_t configured, uint64_t otherwise)
{
	return configured != 0 ? configured : otherwise;
}

uint64_t peer_session_deadline(const struct peer_session *s)
{
	if (s->state == STATE_FAILED)
		return UINT64_MAX;
	if (s->state == STATE_UP)
		return s->started_ms + limit(s->settings->expiry_ms, PEER_EXPIRY_MS);
	return s->started_ms + limit(s->settings->handshake_timeout_ms, PEER_HANDSHAKE_TIMEOUT_MS);
}

int peer_session_tick(struct peer_session *s, uint64_t now_ms)
{
	if (s->state == STATE_FAILED)
		return failure_code(s->failure);
	if (now_ms < peer_session_deadline(s))
		return 0;
	return fail(s, s->state == STATE_UP ? PEER_FAILURE_EXPIRED : PEER_FAILURE_TIMEOUT);
}

bool peer_session_wants_rehandshake(const struct peer_session *s, uint64_t now_ms)
{
	const struct peer_settings *settings = s->settings;
	return s->state == STATE_UP && (now_ms - s->started_ms >= limit(settings->rekey_ms, PEER_REKEY_MS) ||
					       s->frames >= limit(settings->rekey_frames, PEER_REKEY_FRAMES) ||
					       s->bytes >= limit(settings->rekey_bytes, PEER_REKEY_BYTES));
}

bool peer_session_is_up(const struct peer_session *s)
{
	return s->state == STATE_UP;
}

bool peer_session_is_initiator(const struct peer_session *s)
{
	return s->initiator;
}

bool peer_session_is_sending(const struct peer_session *s)
{
	return s->cutting != NULL;
}

bool peer_session_is_receiving(const struct peer_session *s)
{
	return s->joining != NULL;
}

int peer_session_peer(const struct peer_session *s)
{
	return s->peer;
}

enum peer_failure peer_session_failure(const struct peer_session *s)
{
	return s->failure;
}

bool peer_session_survives(const struct identity_public *self, const struct identity_public *other, bool we_dialled)
{
	bool we_are_lower = identity_compare(self, other) < 0;
	return we_dialled == we_are_lower;
}
