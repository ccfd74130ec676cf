/* SPDX-License-Identifier: Apache-2.0 */
/* Who a site is: a long-lived Ed25519 key that certifies a separate X25519 key for the handshake, and the secret all
 * sites of one network share. Blocking file access, so never on the loop; everything else: any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define IDENTITY_KEY_SIZE 32
#define IDENTITY_SIGNATURE_SIZE 64
/* Ed25519 key 32, X25519 key 32, generation 4 (little-endian), signature 64. */
#define IDENTITY_CERTIFICATE_SIZE 132
/* "sakiori1:", 176 characters of base64url without padding, NUL. */
#define IDENTITY_STRING_SIZE 186
#define IDENTITY_SHORT_SIZE 9
#define NETWORK_SECRET_SIZE 32

/* The public half: what `sakiori id` prints and a peer entry pins. Filled by identity_parse_id or identity_public only,
 * so a value that exists has a verified signature and a usable X25519 key. */
struct identity_public {
	uint8_t ed25519[IDENTITY_KEY_SIZE];
	uint8_t x25519[IDENTITY_KEY_SIZE];
	uint32_t generation; /* of the X25519 key, from 1; a rotation adds one */
	uint8_t signature[IDENTITY_SIGNATURE_SIZE];
	uint8_t node_id[IDENTITY_KEY_SIZE]; /* BLAKE2b-256, personal "sakiori-id", of ed25519 */
};

/* Both halves; the secrets lie in guarded memory that is wiped when freed. */
struct identity;

/* A fresh identity of generation 1; 0 or SAKIORI_ENOMEM. The caller frees it. */
int identity_generate(struct identity **out, struct fault *f);
/* The same 32 bytes give the same identity: for tests and simulation, never for a real site. generation >= 1. */
int identity_from_seed(const uint8_t seed[static 32], uint32_t generation, struct identity **out, struct fault *f);
/* Replaces the X25519 key by a fresh one and adds one to the generation; the Ed25519 key, and so the NodeID, stays.
 * SAKIORI_ELIMIT after 2^32 - 1 rotations. Every peer must pin the new string. */
int identity_rotate(struct identity *identity, struct fault *f);
/* Writes a text file of mode 0600, replaced atomically. An existing file is refused (SAKIORI_EBUSY) unless `replace`.
 */
int identity_save(const struct identity *identity, const char *path, bool replace, struct fault *f);
/* Refuses a file that group or others may read or write, or that neither this user nor root owns; the sentence names
 * the chmod or chown to run. The caller frees *out. */
int identity_load(const char *path, struct identity **out, struct fault *f);
/* Wipes and frees; NULL is fine. */
void identity_free(struct identity *identity);

/* Borrowed until identity_free (identity_rotate changes it in place). */
const struct identity_public *identity_public(const struct identity *identity);
/* The X25519 secret, for net/peer.c alone; borrowed like identity_public. */
const uint8_t *identity_x25519_secret(const struct identity *identity);

/* The one string that pins this site: version, Ed25519 key, X25519 key, generation and the signature over them. */
void identity_id_string(const struct identity_public *id, char out[static IDENTITY_STRING_SIZE]);
/* The exact inverse, with the signature verified. SAKIORI_EUNSUPPORTED for another version, SAKIORI_EFORMAT for a
 * string cut or mistyped, SAKIORI_ECRYPTO where the signature or a key is bad. */
int identity_parse_id(const char *text, struct identity_public *out, struct fault *f);
/* The 132 bytes inside that string; two pins are the same exactly when these are. */
void identity_certificate(const struct identity_public *id, uint8_t out[static IDENTITY_CERTIFICATE_SIZE]);
/* First 8 hex digits of the NodeID, for logs and metrics. */
void identity_short(const struct identity_public *id, char out[static IDENTITY_SHORT_SIZE]);
/* Order of NodeIDs as big-endian numbers: negative when a is the lower key. */
int identity_compare(const struct identity_public *a, const struct identity_public *b);

/* Writes 32 fresh random bytes as 64 hex digits to a new file of mode 0600; an existing file is refused
 * (SAKIORI_EBUSY). */
int network_secret_generate(const char *path, struct fault *f);
/* Reads it into guarded memory (NETWORK_SECRET_SIZE bytes), with the file checks of identity_load. An absent file
 * (SAKIORI_ENOTFOUND) and an all-zero secret (SAKIORI_EINVAL) are refused: there is no network without a secret. */
int network_secret_load(const char *path, uint8_t **out, struct fault *f);
/* Wipes and frees; NULL is fine. */
void network_secret_free(uint8_t *secret);
