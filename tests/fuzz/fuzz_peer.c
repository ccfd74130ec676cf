/* SPDX-License-Identifier: Apache-2.0 */
/* Frames into one session. Byte 0 of the input: bit 0, the session is the initiator; bit 1, the handshake is done for the
 * input, so that what follows reaches messages and chunks; bit 2, mac1 of a first message is put right. Then pieces: a
 * length (2 bytes, little-endian) whose top bit says that the piece goes in as it is, else it is sealed as a message first.
 * The session must never come up without the handshake, and never parse before it is up. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "net/noise.h"
#include "net/peer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ACCEPTED = 4096 };

/* The other end, played with bare Noise so that any plaintext can be sealed. */
struct other {
	struct noise_handshake handshake;
	struct noise_transport transport;
	uint8_t sent[PEER_FRAME_MAX]; /* the session's last frame */
	size_t sent_size;
};

static struct identity *ours, *theirs;
static uint8_t secret[NETWORK_SECRET_SIZE] = {1};
static struct peer_settings settings;
static bool up;

static void repeatable(void *self, void *out, size_t n)
{
	(void)self;
	memset(out, 0x42, n);
}

static void send_frame(void *owner, struct peer_session *session, const uint8_t *frame, size_t n)
{
	struct other *other = owner;
	(void)session;
	if (n > PEER_FRAME_MAX)
		abort();
	memcpy(other->sent, frame, n);
	other->sent_size = n;
}

static const struct identity_public *find_peer(void *owner, const uint8_t x25519[static IDENTITY_KEY_SIZE], int *peer)
{
	(void)owner;
	*peer = 0;
	return memcmp(identity_public(theirs)->x25519, x25519, 32) == 0 ? identity_public(theirs) : NULL;
}

static void on_up(void *owner, struct peer_session *session, int peer)
{
	(void)owner;
	(void)peer;
	up = true;
	peer_session_accept_payload_bytes(session, ACCEPTED);
}

static void on_message(void *owner, struct peer_session *session, const struct wire_message *message)
{
	(void)owner;
	if (message->kind == WIRE_PING)
		peer_session_send(session, &(struct wire_message){.kind = WIRE_PONG, .pong = message->ping});
}

static void on_update(
	void *owner, struct peer_session *session, const struct wire_update *update, uint8_t *payload, size_t size)
{
	(void)owner;
	(void)session;
	if (size > ACCEPTED || size != update->payload_bytes)
		abort();
	free(payload);
}

static const struct peer_events events = {send_frame, find_peer, on_up, on_message, on_update, NULL};

static void start_once(void)
{
	static const uint8_t seeds[2][32] = {{1}, {2}};
	if (ours != NULL)
		return;
	if (noise_start() != 0 || identity_from_seed(seeds[0], 1, &ours, NULL) != 0 ||
		identity_from_seed(seeds[1], 1, &theirs, NULL) != 0)
		abort();
	settings.identity = ours;
	settings.network_secret = secret;
	settings.random = repeatable;
	peer_network_hash("fuzz", settings.network_hash);
}

static void mend_mac(uint8_t *frame)
{
	size_t covered = PEER_FIRST_SIZE - NOISE_MAC1_SIZE;
	noise_mac1(identity_public(ours)->x25519, secret, frame, covered, frame + covered);
}

static int seal_and_give(struct peer_session *s, struct other *other, const uint8_t *plain, size_t n)
{
	static uint8_t frame[PEER_FRAME_MAX];
	if (n > WIRE_MESSAGE_MAX)
		n = WIRE_MESSAGE_MAX;
	frame[0] = 0x10;
	for (int i = 0; i < 8; i++)
		frame[1 + i] = (uint8_t)(other->transport.send_counter >> (8 * i));
	noise_seal(&other->transport, frame, PEER_FRAME_HEADER, plain, n, frame + PEER_FRAME_HEADER);
	return peer_session_on_frame(s, frame, PEER_FRAME_HEADER + n + NOISE_TAG_SIZE, 2);
}

/* Both messages and the certificate, as an honest peer would. */
static void shake_hands(struct peer_session *s, struct other *other)
{
	uint8_t prologue[9 + sizeof NOISE_SUITE - 1 + WIRE_HASH_SIZE], ephemeral[32],
		frame[PEER_FIRST_SIZE] = {1, 1, 112, 0};
	uint8_t certificate[IDENTITY_CERTIFICATE_SIZE];
	bool initiator = !peer_session_is_initiator(s);
	memcpy(prologue, "sakiori/1" NOISE_SUITE, 9 + sizeof NOISE_SUITE - 1);
	memcpy(prologue + 9 + sizeof NOISE_SUITE - 1, settings.network_hash, WIRE_HASH_SIZE);
	memset(ephemeral, 0x17, sizeof ephemeral);
	int rc = noise_handshake_init(&other->handshake, initiator, prologue, sizeof prologue,
		identity_x25519_secret(theirs), initiator ? identity_public(ours)->x25519 : NULL, secret, ephemeral);
	if (rc == 0 && initiator) {
		rc = noise_write_first(&other->handshake, NULL, 0, frame + 4);
		mend_mac(frame);
		rc = rc != 0 ? rc : peer_session_on_frame(s, frame, PEER_FIRST_SIZE, 1);
		rc = rc != 0 ? rc : noise_read_second(&other->handshake, other->sent + 4, NOISE_SECOND_OVERHEAD, NULL);
	} else if (rc == 0) {
		frame[1] = 2;
		frame[2] = NOISE_SECOND_OVERHEAD;
		rc = noise_read_first(&other->handshake, other->sent + 4, NOISE_FIRST_OVERHEAD, NULL);
		rc = rc != 0 ? rc : noise_write_second(&other->handshake, NULL, 0, frame + 4);
		rc = rc != 0 ? rc : peer_session_on_frame(s, frame, PEER_SECOND_SIZE, 1);
	}
	rc = rc != 0 ? rc : noise_split(&other->handshake, &other->transport);
	identity_certificate(identity_public(theirs), certificate);
	if (rc != 0 || seal_and_give(s, other, certificate, sizeof certificate) != 0 || !up)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct other other;
	start_once();
	if (size == 0)
		return 0;
	unsigned mode = data[0];
	struct reader r;
	reader_init(&r, data + 1, size - 1);
	up = false;
	memset(&other, 0, sizeof other);
	struct peer_session *s = (mode & 1) != 0
					 ? peer_session_dial(&settings, &events, &other, identity_public(theirs), 0, 0)
					 : peer_session_accept(&settings, &events, &other, 0);
	if (peer_session_start(s, 0) != 0)
		abort();
	if ((mode & 2) != 0)
		shake_hands(s, &other);
	uint64_t decodes = wire_decode_calls();
	int rc = 0;
	while (rc == 0 && reader_left(&r) > 0) {
		uint16_t head = read_u16(&r);
		size_t n = head & 0x7fff;
		if (n > reader_left(&r))
			n = reader_left(&r);
		const uint8_t *piece = read_span(&r, n);
		uint8_t *copy = malloc(n > 0 ? n : 1); /* exact, so that reading past the end is seen */
		if (copy == NULL || piece == NULL) {
			free(copy);
			break;
		}
		memcpy(copy, piece, n);
		if ((mode & 4) != 0 && n == PEER_FIRST_SIZE)
			mend_mac(copy);
		rc = (head & 0x8000) == 0 && up ? seal_and_give(s, &other, copy, n)
						: peer_session_on_frame(s, copy, n, 2);
		free(copy);
	}
	if ((mode & 2) == 0 && (up || wire_decode_calls() != decodes))
		abort();
	peer_session_free(s);
	return 0;
}
