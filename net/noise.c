/* SPDX-License-Identifier: Apache-2.0 */
/* The names mix_hash, mix_key, split and the order of calls follow section 5 of the Noise specification, revision 34.
 */
#include "net/noise.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(NOISE_HASH_SIZE == crypto_hash_sha512_BYTES, "SHA-512");
_Static_assert(NOISE_KEY_SIZE == crypto_scalarmult_BYTES, "X25519");
_Static_assert(NOISE_KEY_SIZE == crypto_aead_chacha20poly1305_ietf_KEYBYTES, "ChaCha20");
_Static_assert(NOISE_TAG_SIZE == crypto_aead_chacha20poly1305_ietf_ABYTES, "Poly1305");

int noise_start(void)
{
	return sodium_init() < 0 ? SAKIORI_ECRYPTO : 0;
}

/* nonce: 32 zero bits, then the counter, little-endian (section 12.3) */
static void nonce_bytes(uint64_t counter, uint8_t out[static 12])
{
	memset(out, 0, 4);
	for (int i = 0; i < 8; i++)
		out[4 + i] = (uint8_t)(counter >> (8 * i));
}

static void aead_seal(const uint8_t *key, uint64_t counter, const void *header, size_t header_size,
	const uint8_t *plain, size_t n, uint8_t *out)
{
	uint8_t nonce[12];
	nonce_bytes(counter, nonce);
	crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, plain, n, header, header_size, NULL, nonce, key);
}

static int aead_open(const uint8_t *key, uint64_t counter, const void *header, size_t header_size,
	const uint8_t *sealed, size_t n, uint8_t *out)
{
	uint8_t nonce[12];
	nonce_bytes(counter, nonce);
	int rc = crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, sealed, n, header, header_size, nonce, key);
	return rc == 0 ? 0 : SAKIORI_ECRYPTO;
}

static void hmac(const uint8_t key[static NOISE_HASH_SIZE], const void *a, size_t an, const void *b, size_t bn,
	uint8_t out[static NOISE_HASH_SIZE])
{
	crypto_auth_hmacsha512_state state;
	crypto_auth_hmacsha512_init(&state, key, NOISE_HASH_SIZE);
	crypto_auth_hmacsha512_update(&state, a, an);
	crypto_auth_hmacsha512_update(&state, b, bn);
	crypto_auth_hmacsha512_final(&state, out);
	sodium_memzero(&state, sizeof state);
}

/* HKDF of section 4.3; `third` may be NULL. */
static void hkdf(const uint8_t chain[static NOISE_HASH_SIZE], const uint8_t *input, size_t n, uint8_t *first,
	uint8_t *second, uint8_t *third)
{
	uint8_t temporary[NOISE_HASH_SIZE];
	hmac(chain, input, n, NULL, 0, temporary);
	hmac(temporary, (const uint8_t[]){1}, 1, NULL, 0, first);
	hmac(temporary, first, NOISE_HASH_SIZE, (const uint8_t[]){2}, 1, second);
	if (third != NULL)
		hmac(temporary, second, NOISE_HASH_SIZE, (const uint8_t[]){3}, 1, third);
	sodium_memzero(temporary, sizeof temporary);
}

static void mix_hash(struct noise_handshake *h, const void *data, size_t n)
{
	crypto_hash_sha512_state state;
	crypto_hash_sha512_init(&state);
	crypto_hash_sha512_update(&state, h->hash, sizeof h->hash);
	crypto_hash_sha512_update(&state, data, n);
	crypto_hash_sha512_final(&state, h->hash);
	sodium_memzero(&state, sizeof state); /* may hold what was derived from the network secret */
}

static void set_key(struct noise_handshake *h, const uint8_t derived[static NOISE_HASH_SIZE])
{
	memcpy(h->key, derived, sizeof h->key);
	h->nonce = 0;
	h->has_key = true;
}

static void mix_key(struct noise_handshake *h, const uint8_t *input, size_t n)
{
	uint8_t chain[NOISE_HASH_SIZE], derived[NOISE_HASH_SIZE];
	hkdf(h->chain, input, n, chain, derived, NULL);
	memcpy(h->chain, chain, sizeof chain);
	set_key(h, derived);
	sodium_memzero(chain, sizeof chain);
	sodium_memzero(derived, sizeof derived);
}

static void mix_psk(struct noise_handshake *h)
{
	uint8_t chain[NOISE_HASH_SIZE], hash[NOISE_HASH_SIZE], derived[NOISE_HASH_SIZE];
	hkdf(h->chain, h->psk, sizeof h->psk, chain, hash, derived);
	memcpy(h->chain, chain, sizeof chain);
	mix_hash(h, hash, sizeof hash);
	set_key(h, derived);
	sodium_memzero(chain, sizeof chain);
	sodium_memzero(hash, sizeof hash);
	sodium_memzero(derived, sizeof derived);
}

/* Every key in this pattern is mixed before the first sealed field, so has_key always holds here. */
static void seal_and_hash(struct noise_handshake *h, const uint8_t *plain, size_t n, uint8_t *out)
{
	aead_seal(h->key, h->nonce++, h->hash, sizeof h->hash, plain, n, out);
	mix_hash(h, out, n + NOISE_TAG_SIZE);
}

static int open_and_hash(struct noise_handshake *h, const uint8_t *sealed, size_t n, uint8_t *out)
{
	int rc = aead_open(h->key, h->nonce, h->hash, sizeof h->hash, sealed, n, out);
	if (rc != 0)
		return rc;
	h->nonce++;
	mix_hash(h, sealed, n);
	return 0;
}

/* crypto_scalarmult answers -1 for an all-zero result, which only a small-order point gives. */
static int mix_dh(struct noise_handshake *h, const uint8_t *secret, const uint8_t *public)
{
	uint8_t shared[NOISE_KEY_SIZE];
	int rc = crypto_scalarmult(shared, secret, public) == 0 ? 0 : SAKIORI_ECRYPTO;
	if (rc == 0)
		mix_key(h, shared, sizeof shared);
	sodium_memzero(shared, sizeof shared);
	return rc;
}

/* In a psk pattern every "e" is mixed into the key as well (section 9.2). */
static void mix_ephemeral(struct noise_handshake *h, const uint8_t *public)
{
	mix_hash(h, public, NOISE_KEY_SIZE);
	mix_key(h, public, NOISE_KEY_SIZE);
}

int noise_handshake_init(struct noise_handshake *h, bool initiator, const void *prologue, size_t prologue_size,
	const uint8_t static_secret[static NOISE_KEY_SIZE], const uint8_t *remote_static,
	const uint8_t psk[static NOISE_KEY_SIZE], const uint8_t *ephemeral_secret)
{
	static const char name[] = NOISE_SUITE;
	_Static_assert(sizeof name - 1 <= NOISE_HASH_SIZE, "a longer name would be hashed");

	memset(h, 0, sizeof *h);
	h->initiator = initiator;
	memcpy(h->static_secret, static_secret, sizeof h->static_secret);
	memcpy(h->psk, psk, sizeof h->psk);
	if (ephemeral_secret != NULL)
		memcpy(h->ephemeral_secret, ephemeral_secret, sizeof h->ephemeral_secret);
	else
		randombytes_buf(h->ephemeral_secret, sizeof h->ephemeral_secret);
	if (crypto_scalarmult_base(h->static_public, h->static_secret) != 0 ||
		crypto_scalarmult_base(h->ephemeral_public, h->ephemeral_secret) != 0) {
		noise_handshake_wipe(h);
		return SAKIORI_ECRYPTO;
	}
	if (initiator)
		memcpy(h->remote_static, remote_static, sizeof h->remote_static);

	memcpy(h->hash, name, sizeof name - 1);
	memcpy(h->chain, h->hash, sizeof h->chain);
	mix_hash(h, prologue, prologue_size);
	/* the pre-message "<- s" */
	mix_hash(h, initiator ? h->remote_static : h->static_public, NOISE_KEY_SIZE);
	return 0;
}

void noise_handshake_wipe(struct noise_handshake *h)
{
	sodium_memzero(h, sizeof *h);
}

/* -> e, es, s, ss */
int noise_write_first(struct noise_handshake *h, const uint8_t *payload, size_t n, uint8_t *out)
{
	if (!h->initiator || h->step != 0)
		return SAKIORI_EPROTO;
	memcpy(out, h->ephemeral_public, NOISE_KEY_SIZE);
	mix_ephemeral(h, h->ephemeral_public);
	int rc = mix_dh(h, h->ephemeral_secret, h->remote_static);
	if (rc != 0)
		return rc;
	seal_and_hash(h, h->static_public, NOISE_KEY_SIZE, out + 32);
	rc = mix_dh(h, h->static_secret, h->remote_static);
	if (rc != 0)
		return rc;
	seal_and_hash(h, payload, n, out + 80);
	h->step = 1;
	return 0;
}

int noise_read_first(struct noise_handshake *h, const uint8_t *message, size_t n, uint8_t *out)
{
	if (h->initiator || h->step != 0)
		return SAKIORI_EPROTO;
	if (n < NOISE_FIRST_OVERHEAD || n > NOISE_MESSAGE_MAX)
		return SAKIORI_ECRYPTO;
	memcpy(h->remote_ephemeral, message, NOISE_KEY_SIZE);
	mix_ephemeral(h, h->remote_ephemeral);
	int rc = mix_dh(h, h->static_secret, h->remote_ephemeral);
	if (rc == 0)
		rc = open_and_hash(h, message + 32, NOISE_KEY_SIZE + NOISE_TAG_SIZE, h->remote_static);
	if (rc == 0)
		rc = mix_dh(h, h->static_secret, h->remote_static);
	if (rc == 0)
		rc = open_and_hash(h, message + 80, n - 80, out);
	if (rc == 0)
		h->step = 1;
	return rc;
}

/* <- e, ee, se, psk */
int noise_write_second(struct noise_handshake *h, const uint8_t *payload, size_t n, uint8_t *out)
{
	if (h->initiator || h->step != 1)
		return SAKIORI_EPROTO;
	memcpy(out, h->ephemeral_public, NOISE_KEY_SIZE);
	mix_ephemeral(h, h->ephemeral_public);
	int rc = mix_dh(h, h->ephemeral_secret, h->remote_ephemeral);
	if (rc == 0)
		rc = mix_dh(h, h->ephemeral_secret, h->remote_static);
	if (rc != 0)
		return rc;
	mix_psk(h);
	seal_and_hash(h, payload, n, out + 32);
	h->step = 2;
	return 0;
}

int noise_read_second(struct noise_handshake *h, const uint8_t *message, size_t n, uint8_t *out)
{
	if (!h->initiator || h->step != 1)
		return SAKIORI_EPROTO;
	if (n < NOISE_SECOND_OVERHEAD || n > NOISE_MESSAGE_MAX)
		return SAKIORI_ECRYPTO;
	memcpy(h->remote_ephemeral, message, NOISE_KEY_SIZE);
	mix_ephemeral(h, h->remote_ephemeral);
	int rc = mix_dh(h, h->ephemeral_secret, h->remote_ephemeral);
	if (rc == 0)
		rc = mix_dh(h, h->static_secret, h->remote_ephemeral);
	if (rc != 0)
		return rc;
	mix_psk(h);
	rc = open_and_hash(h, message + 32, n - 32, out);
	if (rc == 0)
		h->step = 2;
	return rc;
}

int noise_split(struct noise_handshake *h, struct noise_transport *out)
{
	if (h->step != 2)
		return SAKIORI_EPROTO;
	uint8_t to_responder[NOISE_HASH_SIZE], to_initiator[NOISE_HASH_SIZE];
	hkdf(h->chain, NULL, 0, to_responder, to_initiator, NULL);
	memcpy(out->send_key, h->initiator ? to_responder : to_initiator, NOISE_KEY_SIZE);
	memcpy(out->receive_key, h->initiator ? to_initiator : to_responder, NOISE_KEY_SIZE);
	out->send_counter = 0;
	out->receive_counter = 0;
	sodium_memzero(to_responder, sizeof to_responder);
	sodium_memzero(to_initiator, sizeof to_initiator);
	noise_handshake_wipe(h);
	return 0;
}

int noise_seal(
	struct noise_transport *t, const void *header, size_t header_size, const uint8_t *plain, size_t n, uint8_t *out)
{
	/* 2^64 - 1 is reserved by the specification */
	if (t->send_counter == UINT64_MAX)
		return SAKIORI_ELIMIT;
	aead_seal(t->send_key, t->send_counter++, header, header_size, plain, n, out);
	return 0;
}

int noise_open(struct noise_transport *t, uint64_t counter, const void *header, size_t header_size,
	const uint8_t *sealed, size_t n, uint8_t *out)
{
	if (counter < t->receive_counter || counter == UINT64_MAX)
		return SAKIORI_EPROTO;
	if (n < NOISE_TAG_SIZE)
		return SAKIORI_ECRYPTO;
	int rc = aead_open(t->receive_key, counter, header, header_size, sealed, n, out);
	if (rc == 0)
		t->receive_counter = counter + 1;
	return rc;
}

void noise_transport_wipe(struct noise_transport *t)
{
	sodium_memzero(t, sizeof *t);
}

void noise_mac1(const uint8_t responder_static[static NOISE_KEY_SIZE], const uint8_t psk[static NOISE_KEY_SIZE],
	const void *data, size_t n, uint8_t out[static NOISE_MAC1_SIZE])
{
	static const char label[] = "sakiori-mac1";
	uint8_t key[32];
	crypto_generichash_state state;
	crypto_generichash_init(&state, NULL, 0, sizeof key);
	crypto_generichash_update(&state, (const uint8_t *)label, sizeof label - 1);
	crypto_generichash_update(&state, responder_static, NOISE_KEY_SIZE);
	crypto_generichash_update(&state, psk, NOISE_KEY_SIZE);
	crypto_generichash_final(&state, key, sizeof key);
	crypto_generichash(out, NOISE_MAC1_SIZE, data, n, key, sizeof key);
	sodium_memzero(key, sizeof key);
	sodium_memzero(&state, sizeof state);
}

bool noise_equal(const void *a, const void *b, size_t n)
{
	return sodium_memcmp(a, b, n) == 0;
}

void noise_public_key(const uint8_t secret[static NOISE_KEY_SIZE], uint8_t out[static NOISE_KEY_SIZE])
{
	crypto_scalarmult_base(out, secret);
}

void noise_random(void *out, size_t n)
{
	randombytes_buf(out, n);
}

void *noise_secret_alloc(size_t n)
{
	/* libsodium puts the end of the block against a guard page, so the size decides the alignment of the start */
	size_t rounded = (n + 63) & ~(size_t)63;
	void *p = sodium_malloc(rounded);
	if (p == NULL) {
		fputs("out of memory for a key\n", stderr);
		abort();
	}
	memset(p, 0, rounded);
	return p;
}

void noise_secret_free(void *p)
{
	sodium_free(p);
}

void noise_wipe(void *p, size_t n)
{
	sodium_memzero(p, n);
}
