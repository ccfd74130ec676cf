/* SPDX-License-Identifier: Apache-2.0 */
/* Noise_IKpsk2_25519_ChaChaPoly_SHA512 (Noise revision 34) on libsodium, exact, so that published vectors check it:
 *     <- s
 *     ...
 *     -> e, es, s, ss
 *     <- e, ee, se, psk
 * Only primitives and the pattern; frames, limits and peers are net/peer's. No allocation but noise_secret_alloc.
 * Any thread, one object by one thread at a time. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define NOISE_SUITE "Noise_IKpsk2_25519_ChaChaPoly_SHA512"
#define NOISE_KEY_SIZE 32
#define NOISE_HASH_SIZE 64
#define NOISE_TAG_SIZE 16
#define NOISE_MESSAGE_MAX 65535
#define NOISE_FIRST_OVERHEAD 96  /* e 32, sealed s 48, tag 16 */
#define NOISE_SECOND_OVERHEAD 48 /* e 32, tag 16 */
#define NOISE_MAC1_SIZE 16

/* A handshake in progress. Holds secrets: noise_handshake_wipe ends every path that noise_split does not. */
struct noise_handshake {
	bool initiator;
	bool has_key;
	uint8_t step; /* handshake messages done: 0, 1, 2 */
	uint64_t nonce;
	uint8_t key[NOISE_KEY_SIZE];
	uint8_t chain[NOISE_HASH_SIZE];
	uint8_t hash[NOISE_HASH_SIZE];
	uint8_t static_secret[NOISE_KEY_SIZE];
	uint8_t static_public[NOISE_KEY_SIZE];
	uint8_t ephemeral_secret[NOISE_KEY_SIZE];
	uint8_t ephemeral_public[NOISE_KEY_SIZE];
	uint8_t remote_static[NOISE_KEY_SIZE]; /* the responder's: set after noise_read_first */
	uint8_t remote_ephemeral[NOISE_KEY_SIZE];
	uint8_t psk[NOISE_KEY_SIZE];
};

/* Both directions after the handshake. Counters start at 0 and never repeat under a key. */
struct noise_transport {
	uint8_t send_key[NOISE_KEY_SIZE];
	uint8_t receive_key[NOISE_KEY_SIZE];
	uint64_t send_counter;    /* the next frame's */
	uint64_t receive_counter; /* the lowest that is still accepted */
};

/* libsodium's own start; call it once before anything else here. 0 or SAKIORI_ECRYPTO. */
int noise_start(void);

/* `remote_static` is the responder's key for the initiator and NULL for the responder. `ephemeral_secret` is NULL for a
 * fresh random one (only test vectors give one). Keys are copied. 0 or SAKIORI_ECRYPTO. */
int noise_handshake_init(struct noise_handshake *h, bool initiator, const void *prologue, size_t prologue_size,
	const uint8_t static_secret[static NOISE_KEY_SIZE], const uint8_t *remote_static,
	const uint8_t psk[static NOISE_KEY_SIZE], const uint8_t *ephemeral_secret);
void noise_handshake_wipe(struct noise_handshake *h);

/* The two messages, each writer beside its reader. `out` of a writer has n + overhead bytes; `out` of a reader has
 * n - overhead bytes (NULL when that is 0). A reader refuses what does not authenticate, and any all-zero
 * Diffie-Hellman result, with SAKIORI_ECRYPTO; a call out of order is SAKIORI_EPROTO. After a failure only
 * noise_handshake_wipe is allowed. */
int noise_write_first(struct noise_handshake *h, const uint8_t *payload, size_t n, uint8_t *out);
int noise_read_first(struct noise_handshake *h, const uint8_t *message, size_t n, uint8_t *out);
int noise_write_second(struct noise_handshake *h, const uint8_t *payload, size_t n, uint8_t *out);
int noise_read_second(struct noise_handshake *h, const uint8_t *message, size_t n, uint8_t *out);
/* After both messages: the transport keys; `h` is wiped. */
int noise_split(struct noise_handshake *h, struct noise_transport *out);

/* Seals n bytes under the next counter into n + NOISE_TAG_SIZE bytes at `out` (may be `plain` itself) and counts on.
 * SAKIORI_ELIMIT when the counter is used up. */
int noise_seal(struct noise_transport *t, const void *header, size_t header_size, const uint8_t *plain, size_t n,
	uint8_t *out);
/* The inverse. `counter` must be at least receive_counter (gaps allowed, no reorder), else SAKIORI_EPROTO; what does
 * not authenticate is SAKIORI_ECRYPTO and moves nothing. `out` has n - NOISE_TAG_SIZE bytes and may be `sealed` itself.
 */
int noise_open(struct noise_transport *t, uint64_t counter, const void *header, size_t header_size,
	const uint8_t *sealed, size_t n, uint8_t *out);
void noise_transport_wipe(struct noise_transport *t);

/* The cheap check before any Diffie-Hellman: BLAKE2b-128 keyed with BLAKE2b("sakiori-mac1" || responder static || psk).
 */
void noise_mac1(const uint8_t responder_static[static NOISE_KEY_SIZE], const uint8_t psk[static NOISE_KEY_SIZE],
	const void *data, size_t n, uint8_t out[static NOISE_MAC1_SIZE]);
/* Compares in constant time. */
bool noise_equal(const void *a, const void *b, size_t n);
/* X25519 public key of a secret. */
void noise_public_key(const uint8_t secret[static NOISE_KEY_SIZE], uint8_t out[static NOISE_KEY_SIZE]);
/* Random bytes from the kernel's generator: keys and nonces. */
void noise_random(void *out, size_t n);
/* Guarded, locked, zeroed memory for secrets that live long; ends the process when there is none. noise_secret_free
 * wipes it; NULL is fine. */
void *noise_secret_alloc(size_t n);
void noise_secret_free(void *p);
void noise_wipe(void *p, size_t n);
