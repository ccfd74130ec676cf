/* SPDX-License-Identifier: Apache-2.0 */
/* ONE session with one peer, from the first handshake byte to the last chunk: a pure state machine. It has no socket,
 * thread, clock or file: frames come in through peer_session_on_frame and go out through a callback, and the time is an
 * argument (monotonic milliseconds). The owner moves frames, closes the link when a call fails, and reconnects.
 * One thread at a time; in the daemon the loop thread.
 *
 * The usual life: peer_session_dial or peer_session_accept, peer_session_start, peer_session_on_frame for each frame,
 * on_up, messages and updates in both directions, peer_session_free. Bytes are parsed as messages only after on_up's
 * conditions hold. Frames and states: doc/PROTOCOL.md. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/identity.h"
#include "net/wire.h"

/* type, counter (8 bytes, little-endian), sealed message */
#define PEER_FRAME_HEADER 9
#define PEER_FRAME_MAX (PEER_FRAME_HEADER + 65535)
#define PEER_FIRST_SIZE 116
#define PEER_SECOND_SIZE 52
/* No handshake frame is longer; a link may refuse longer ones until the session is up. */
#define PEER_FRAME_MAX_BEFORE_UP 256

#define PEER_HANDSHAKE_TIMEOUT_MS 10000
#define PEER_REKEY_MS (15 * 60 * 1000)
#define PEER_REKEY_FRAMES (UINT64_C(1) << 32)
#define PEER_REKEY_BYTES (UINT64_C(1) << 36)
/* A session that nobody replaced after wants_rehandshake ends here. */
#define PEER_EXPIRY_MS (60 * 60 * 1000)

/* Why a session ended; X(name, label, code): the label is stable, for metrics and logs; calls return the code. */
#define PEER_FAILURES(X)                                                                                               \
	X(NONE, "none", 0)                                                                                             \
	X(MALFORMED_FRAME, "malformed_frame", SAKIORI_EPROTO) /* wrong size, type or order of frames */                \
	X(VERSION, "version", SAKIORI_EUNSUPPORTED)           /* another protocol version in the first byte */         \
	X(BAD_MAC, "bad_mac", SAKIORI_ECRYPTO)                /* does not know our key and the network secret */       \
	X(UNKNOWN_KEY, "unknown_key", SAKIORI_EDENIED)        /* authenticated, but not pinned here */                 \
	X(CERTIFICATE, "certificate", SAKIORI_EDENIED)        /* pinned X25519 key, other Ed25519 key or generation */ \
	X(DECRYPT, "decrypt", SAKIORI_ECRYPTO)                /* did not authenticate */                               \
	X(REPLAY, "replay", SAKIORI_EPROTO)                   /* counter not above the last */                         \
	X(MALFORMED_MESSAGE, "malformed", SAKIORI_EFORMAT)    /* authenticated, but breaks peer.proto or a limit */    \
	X(OVERSIZE, "oversize", SAKIORI_ELIMIT)               /* larger payload than the owner accepts */              \
	X(OUT_OF_ORDER, "out_of_order", SAKIORI_EPROTO)       /* a chunk without its update, or not the next */        \
	X(PAYLOAD_HASH, "payload_hash", SAKIORI_ECORRUPT)     /* joined payload is not the announced one */            \
	X(NO_MEMORY, "no_memory", SAKIORI_ENOMEM)             /* none for an accepted payload */                       \
	X(TIMEOUT, "timeout", SAKIORI_ETIMEOUT)               /* handshake not done in time */                         \
	X(EXPIRED, "expired", SAKIORI_ETIMEOUT)               /* keys too old (PEER_EXPIRY_MS, 2^60 frames) */

enum peer_failure {
#define X(name, label, code) PEER_FAILURE_##name,
	PEER_FAILURES(X)
#undef X
		PEER_FAILURE_COUNT
};
const char *peer_failure_label(enum peer_failure failure);

struct peer_session;

/* What all sessions of a site share; must outlive them. Zero limits mean the defaults above. */
struct peer_settings {
	const struct identity *identity;
	const uint8_t *network_secret;        /* NETWORK_SECRET_SIZE bytes */
	uint8_t network_hash[WIRE_HASH_SIZE]; /* peer_network_hash of the network's name */
	uint64_t handshake_timeout_ms;
	uint64_t rekey_ms;
	uint64_t rekey_frames;
	uint64_t rekey_bytes;
	uint64_t expiry_ms;
	/* NULL: the kernel's random numbers. Tests and fuzzing make handshakes repeatable with it; nothing else may set
	 * it. */
	void (*random)(void *self, void *out, size_t n);
	void *random_self;
};
void peer_network_hash(const char *network_name, uint8_t out[static WIRE_HASH_SIZE]);

/* Callbacks; `owner` is what the constructor got. They may call any function here on this session except
 * peer_session_on_frame and peer_session_free. Frames, messages and headers are borrowed for the call. */
struct peer_events {
	/* A frame for the link, at most PEER_FRAME_MAX bytes. Must only queue it: the one callback that may not call
	 * back. */
	void (*send_frame)(void *owner, struct peer_session *session, const uint8_t *frame, size_t n);
	/* Responder only: the pinned peer with this X25519 key and its index, or NULL. The result is borrowed for the
	 * call. */
	const struct identity_public *(*find_peer)(
		void *owner, const uint8_t x25519[static IDENTITY_KEY_SIZE], int *peer);
	/* Both ends are authenticated and confirmed; messages may be sent from here on. */
	void (*on_up)(void *owner, struct peer_session *session, int peer);
	/* Every kind but Update and Chunk. */
	void (*on_message)(void *owner, struct peer_session *session, const struct wire_message *message);
	/* A whole update whose hash was checked. The owner takes `payload` and frees it with free(). */
	void (*on_update)(void *owner, struct peer_session *session, const struct wire_update *update, uint8_t *payload,
		size_t size);
	/* The last chunk of peer_session_send_update was given to send_frame: the payload is no longer borrowed and the
	 * next update may be sent. May be NULL. */
	void (*on_update_sent)(void *owner, struct peer_session *session, const struct wire_update *update);
};

/* A session that will speak first to the pinned `id`; `peer` is the owner's index for it. Never NULL. */
struct peer_session *peer_session_dial(const struct peer_settings *settings, const struct peer_events *events,
	void *owner, const struct identity_public *id, int peer, uint64_t now_ms);
/* A session that waits for a stranger's first message. Never NULL. */
struct peer_session *peer_session_accept(
	const struct peer_settings *settings, const struct peer_events *events, void *owner, uint64_t now_ms);
/* Initiator: sends the first handshake message. Responder: nothing. 0 or negative like peer_session_on_frame. */
int peer_session_start(struct peer_session *s, uint64_t now_ms);
/* Wipes the keys and frees; borrowed payloads are let go, a half-joined one is dropped. NULL is fine. */
void peer_session_free(struct peer_session *s);

/* One whole frame from the link. 0, or negative when the session is over: the owner counts peer_session_failure and
 * closes the link without a word. Once failed it stays failed and every call returns the same error. */
int peer_session_on_frame(struct peer_session *s, const uint8_t *frame, size_t n, uint64_t now_ms);
/* Any kind but Update and Chunk (SAKIORI_EINVAL). SAKIORI_EPROTO before on_up or after a failure, SAKIORI_EINVAL for a
 * message over a limit. */
int peer_session_send(struct peer_session *s, const struct wire_message *message);
/* Starts an update; peer_session_pump sends it. `update->payload_bytes` and `payload_hash` must be those of `payload`
 * (the hash is the caller's, because a large one takes too long on the loop). `payload` is borrowed until
 * on_update_sent, a failure, or peer_session_free. SAKIORI_EBUSY while another is on its way; SAKIORI_EPROTO and
 * SAKIORI_EINVAL as peer_session_send. */
int peer_session_send_update(struct peer_session *s, const struct wire_update *update, const uint8_t *payload);
/* Gives send_frame the next frames of the update that fit `max_bytes` (the link's room) and returns their bytes; 0 when
 * there is nothing to send or no room for the next frame (PEER_FRAME_MAX bytes always have). */
size_t peer_session_pump(struct peer_session *s, size_t max_bytes);
/* The largest update payload that is received from now on; 0 (at first) refuses all. A larger one fails the session
 * before a byte is allocated. */
void peer_session_accept_payload_bytes(struct peer_session *s, uint64_t bytes);

/* Absolute time at which peer_session_tick has something to do; UINT64_MAX for never. */
uint64_t peer_session_deadline(const struct peer_session *s);
/* Fails the session when a deadline has passed: 0, or SAKIORI_ETIMEOUT. */
int peer_session_tick(struct peer_session *s, uint64_t now_ms);
/* True once the keys have done enough work: the initiator's owner should dial a new session and drop this one when that
 * is up. */
bool peer_session_wants_rehandshake(const struct peer_session *s, uint64_t now_ms);

bool peer_session_is_up(const struct peer_session *s);
bool peer_session_is_initiator(const struct peer_session *s);
/* True while an update given to peer_session_send_update is not fully handed to send_frame. */
bool peer_session_is_sending(const struct peer_session *s);
/* True while an update's chunks are arriving. */
bool peer_session_is_receiving(const struct peer_session *s);
/* The owner's index of the peer; -1 while a responder does not know it. */
int peer_session_peer(const struct peer_session *s);
enum peer_failure peer_session_failure(const struct peer_session *s);

/* Two sites dialled each other at once: whether the session that `we_dialled` (or they did) is the one to keep. Both
 * ends give the same answer for the same session: the one that the lower NodeID dialled survives. */
bool peer_session_survives(const struct identity_public *self, const struct identity_public *other, bool we_dialled);
