/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path: open, check owner and mode of what was opened (not of its name), read at most 1 KiB into guarded memory,
 * parse. Failure modes: wrong mode or owner, another or damaged format, a key that libsodium refuses; nothing is logged
 * and nothing secret is in a sentence. */
#include "net/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"

#define ID_PREFIX "sakiori1:"
#define SIGN_CONTEXT "sakiori-id-v1" /* with its NUL before the signed bytes */
#define SECRET_FILE_MAX 1024

struct identity {
	struct identity_public public;
	uint8_t ed25519_seed[crypto_sign_SEEDBYTES];
	uint8_t ed25519_secret[crypto_sign_SECRETKEYBYTES];
	uint8_t x25519_secret[IDENTITY_KEY_SIZE];
};

static void put_u32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

/* What the signature covers: context with its NUL, both keys, generation. */
#define SIGNED_SIZE (sizeof SIGN_CONTEXT + 68)
static void signed_bytes(const struct identity_public *id, uint8_t out[static SIGNED_SIZE])
{
	memcpy(out, SIGN_CONTEXT, sizeof SIGN_CONTEXT);
	memcpy(out + sizeof SIGN_CONTEXT, id->ed25519, 32);
	memcpy(out + sizeof SIGN_CONTEXT + 32, id->x25519, 32);
	put_u32(out + sizeof SIGN_CONTEXT + 64, id->generation);
}

/* Derives all public fields from the two secrets and the generation. */
static int complete(struct identity *identity, struct fault *f)
{
	struct identity_public *public = &identity->public;
	uint8_t covered[SIGNED_SIZE];
	if (sodium_init() < 0 ||
		crypto_sign_seed_keypair(public->ed25519, identity->ed25519_secret, identity->ed25519_seed) != 0 ||
		crypto_scalarmult_base(public->x25519, identity->x25519_secret) != 0)
		return fault_set(f, SAKIORI_ECRYPTO, "libsodium refused to make a key");
	signed_bytes(public, covered);
	crypto_sign_detached(public->signature, NULL, covered, sizeof covered, identity->ed25519_secret);
	hash_bytes("sakiori-id", public->ed25519, sizeof public->ed25519, public->node_id);
	return 0;
}

static struct identity *identity_alloc(struct fault *f)
{
	struct identity *identity = sodium_init() < 0 ? NULL : sodium_malloc((sizeof *identity + 63) & ~(size_t)63);
	if (identity == NULL)
		fault_set(f, SAKIORI_ENOMEM, "no memory for an identity");
	return identity;
}

static int finish_new(struct identity *identity, struct identity **out, struct fault *f)
{
	int rc = complete(identity, f);
	if (rc != 0) {
		identity_free(identity);
		return rc;
	}
	*out = identity;
	return 0;
}

int identity_generate(struct identity **out, struct fault *f)
{
	struct identity *identity = identity_alloc(f);
	if (identity == NULL)
		return SAKIORI_ENOMEM;
	randombytes_buf(identity->ed25519_seed, sizeof identity->ed25519_seed);
	randombytes_buf(identity->x25519_secret, sizeof identity->x25519_secret);
	identity->public.generation = 1;
	return finish_new(identity, out, f);
}

int identity_from_seed(const uint8_t seed[static 32], uint32_t generation, struct identity **out, struct fault *f)
{
	if (generation == 0)
		return fault_set(f, SAKIORI_EINVAL, "an identity's generation starts at 1");
	struct identity *identity = identity_alloc(f);
	if (identity == NULL)
		return SAKIORI_ENOMEM;
	hash_bytes("sakiori-seed-ed", seed, 32, identity->ed25519_seed);
	hash_bytes("sakiori-seed-x", seed, 32, identity->x25519_secret);
	identity->public.generation = generation;
	return finish_new(identity, out, f);
}

int identity_rotate(struct identity *identity, struct fault *f)
{
	if (identity->public.generation == UINT32_MAX)
		return fault_set(f, SAKIORI_ELIMIT,
			"this identity was rotated 2^32 - 1 times: make a new one with `sakiori keygen`");
	randombytes_buf(identity->x25519_secret, sizeof identity->x25519_secret);
	identity->public.generation++;
	return complete(identity, f);
}

void identity_free(struct identity *identity)
{
	sodium_free(identity);
}

const struct identity_public *identity_public(const struct identity *identity)
{
	return &identity->public;
}

const uint8_t *identity_x25519_secret(const struct identity *identity)
{
	return identity->x25519_secret;
}

/* Writes a file only its owner can read; refuses to write over one unless told to. */
static int secret_file_write(const char *path, const char *text, size_t n, bool replace, struct fault *f)
{
	struct stat st;
	if (!replace && lstat(path, &st) == 0)
		return fault_set(f, SAKIORI_EBUSY,
			"%s already exists: a key is never overwritten; move it away first if it is really to be "
			"replaced",
			path);
	return file_replace(path, text, n, 0600, f);
}

static int secret_file_check(int fd, const char *path, struct fault *f)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return fault_errno(f, "%s", path);
	if (!S_ISREG(st.st_mode))
		return fault_set(f, SAKIORI_EINVAL, "%s: expected a regular file with a key", path);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return fault_set(f, SAKIORI_EDENIED,
			"%s belongs to user %u, but this process runs as user %u: run it as that user, or `chown %u "
			"%s`",
			path, (unsigned)st.st_uid, (unsigned)geteuid(), (unsigned)geteuid(), path);
	if ((st.st_mode & 077) != 0)
		return fault_set(f, SAKIORI_EDENIED,
			"%s has mode %04o, so others could use the key: run `chmod 600 %s`", path,
			(unsigned)(st.st_mode & 07777), path);
	if (st.st_size > SECRET_FILE_MAX)
		return fault_set(f, SAKIORI_EFORMAT, "%s: %lld bytes, a key file has at most %d", path,
			(long long)st.st_size, SECRET_FILE_MAX);
	return 0;
}

/* The file as a string in guarded memory of SECRET_FILE_MAX + 1 bytes; sodium_free it. */
static int secret_file_read(const char *path, char **out, struct fault *f)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fault_errno(f, "%s", path);
	char *text = NULL;
	size_t n = 0;
	int rc = secret_file_check(fd, path, f);
	if (rc != 0)
		goto out;
	text = sodium_init() < 0 ? NULL : sodium_malloc(SECRET_FILE_MAX + 1);
	if (text == NULL) {
		rc = fault_set(f, SAKIORI_ENOMEM, "%s: no memory for a key", path);
		goto out;
	}
	while (n < SECRET_FILE_MAX) {
		ssize_t got = read(fd, text + n, SECRET_FILE_MAX - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			rc = fault_errno(f, "%s", path);
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	text[n] = '\0';
out:
	close(fd);
	if (rc != 0) {
		sodium_free(text);
		text = NULL;
	}
	*out = text;
	return rc;
}

#define IDENTITY_FILE_HEAD "sakiori-identity 1\n"

int identity_save(const struct identity *identity, const char *path, bool replace, struct fault *f)
{
	char *text = sodium_malloc(SECRET_FILE_MAX);
	if (text == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "%s: no memory for a key", path);
	char seed[65], secret[65];
	hex_encode(identity->ed25519_seed, 32, seed);
	hex_encode(identity->x25519_secret, 32, secret);
	int n = snprintf(text, SECRET_FILE_MAX, IDENTITY_FILE_HEAD "ed25519 %s\nx25519 %s\ngeneration %u\n", seed,
		secret, identity->public.generation);
	int rc = secret_file_write(path, text, (size_t)n, replace, f);
	sodium_memzero(seed, sizeof seed);
	sodium_memzero(secret, sizeof secret);
	sodium_free(text);
	return rc;
}

/* Takes `expected` off the front of *at. */
static bool take_text(char **at, const char *expected)
{
	size_t n = strlen(expected);
	if (strncmp(*at, expected, n) != 0)
		return false;
	*at += n;
	return true;
}

/* 64 hex digits and the end of their line; the newline is overwritten in our own copy. */
static bool take_key(char **at, uint8_t out[static 32])
{
	if (strnlen(*at, 65) < 65 || (*at)[64] != '\n')
		return false;
	(*at)[64] = '\0';
	bool ok = hex_decode(*at, out, 32) == 0;
	*at += 65;
	return ok;
}

/* 1..2^32-1 without sign or leading zero, a newline, and nothing after it. */
static bool take_generation(const char *at, uint32_t *out)
{
	uint64_t value = 0;
	if (*at < '1' || *at > '9')
		return false;
	for (; *at >= '0' && *at <= '9'; at++) {
		value = value * 10 + (uint64_t)(*at - '0');
		if (value > UINT32_MAX)
			return false;
	}
	*out = (uint32_t)value;
	return strcmp(at, "\n") == 0;
}

int identity_load(const char *path, struct identity **out, struct fault *f)
{
	char *text = NULL;
	int rc = secret_file_read(path, &text, f);
	if (rc != 0)
		return rc;
	struct identity *identity = identity_alloc(f);
	if (identity == NULL) {
		sodium_free(text);
		return SAKIORI_ENOMEM;
	}
	char *at = text;
	bool ok = take_text(&at, IDENTITY_FILE_HEAD) && take_text(&at, "ed25519 ") &&
		  take_key(&at, identity->ed25519_seed) && take_text(&at, "x25519 ") &&
		  take_key(&at, identity->x25519_secret) && take_text(&at, "generation ") &&
		  take_generation(at, &identity->public.generation);
	sodium_free(text);
	if (!ok) {
		identity_free(identity);
		return fault_set(f, SAKIORI_EFORMAT,
			"%s: not a sakiori identity, or damaged: restore it from a backup, or make a new one with "
			"`sakiori keygen`",
			path);
	}
	return finish_new(identity, out, f);
}

void identity_certificate(const struct identity_public *id, uint8_t out[static IDENTITY_CERTIFICATE_SIZE])
{
	memcpy(out, id->ed25519, 32);
	memcpy(out + 32, id->x25519, 32);
	put_u32(out + 64, id->generation);
	memcpy(out + 68, id->signature, IDENTITY_SIGNATURE_SIZE);
}

void identity_id_string(const struct identity_public *id, char out[static IDENTITY_STRING_SIZE])
{
	uint8_t certificate[IDENTITY_CERTIFICATE_SIZE];
	identity_certificate(id, certificate);
	memcpy(out, ID_PREFIX, sizeof ID_PREFIX - 1);
	sodium_bin2base64(out + sizeof ID_PREFIX - 1, IDENTITY_STRING_SIZE - (sizeof ID_PREFIX - 1), certificate,
		sizeof certificate, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

/* A small-order X25519 key gives an all-zero product with every scalar. */
static bool is_usable_x25519(const uint8_t public[static 32])
{
	static const uint8_t scalar[32] = {9};
	uint8_t product[32];
	return crypto_scalarmult(product, scalar, public) == 0;
}

static int id_decode(const char *text, uint8_t out[static IDENTITY_CERTIFICATE_SIZE], struct fault *f)
{
	size_t length = strnlen(text, IDENTITY_STRING_SIZE), used = 0;
	if (length >= 7 && strncmp(text, "sakiori", 7) == 0 && strncmp(text, ID_PREFIX, sizeof ID_PREFIX - 1) != 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"peer id of another version: expected it to start with \"" ID_PREFIX
			"\", as `sakiori id` of this version prints");
	if (strncmp(text, ID_PREFIX, sizeof ID_PREFIX - 1) != 0)
		return fault_set(f, SAKIORI_EFORMAT,
			"not a peer id: expected the string that `sakiori id` prints at that site, "
			"which starts with \"" ID_PREFIX "\"");
	if (length != IDENTITY_STRING_SIZE - 1)
		return fault_set(f, SAKIORI_EFORMAT,
			"peer id has %s characters, expected %d: copy the whole line that `sakiori id` prints at that "
			"site",
			length < IDENTITY_STRING_SIZE - 1 ? "too few" : "too many", IDENTITY_STRING_SIZE - 1);
	if (sodium_base642bin(out, IDENTITY_CERTIFICATE_SIZE, text + sizeof ID_PREFIX - 1,
		    length - (sizeof ID_PREFIX - 1), NULL, &used, NULL,
		    sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 ||
		used != IDENTITY_CERTIFICATE_SIZE)
		return fault_set(f, SAKIORI_EFORMAT,
			"peer id has a character that is none of A-Z a-z 0-9 - _: copy it again from `sakiori id` at "
			"that site");
	return 0;
}

int identity_parse_id(const char *text, struct identity_public *out, struct fault *f)
{
	uint8_t certificate[IDENTITY_CERTIFICATE_SIZE], covered[SIGNED_SIZE];
	struct identity_public id;
	struct reader r;
	if (sodium_init() < 0)
		return fault_set(f, SAKIORI_ECRYPTO, "libsodium does not start");
	int rc = id_decode(text, certificate, f);
	if (rc != 0)
		return rc;
	reader_init(&r, certificate, sizeof certificate);
	read_bytes(&r, id.ed25519, 32);
	read_bytes(&r, id.x25519, 32);
	id.generation = read_u32(&r);
	read_bytes(&r, id.signature, IDENTITY_SIGNATURE_SIZE);
	signed_bytes(&id, covered);
	if (id.generation == 0 || !is_usable_x25519(id.x25519) ||
		crypto_sign_verify_detached(id.signature, covered, sizeof covered, id.ed25519) != 0)
		return fault_set(f, SAKIORI_ECRYPTO,
			"peer id does not verify: it was changed on its way; copy it again from `sakiori id` at that "
			"site");
	hash_bytes("sakiori-id", id.ed25519, sizeof id.ed25519, id.node_id);
	*out = id;
	return 0;
}

void identity_short(const struct identity_public *id, char out[static IDENTITY_SHORT_SIZE])
{
	hex_encode(id->node_id, 4, out);
}

int identity_compare(const struct identity_public *a, const struct identity_public *b)
{
	return memcmp(a->node_id, b->node_id, sizeof a->node_id);
}

int network_secret_generate(const char *path, struct fault *f)
{
	uint8_t secret[NETWORK_SECRET_SIZE];
	char text[2 * NETWORK_SECRET_SIZE + 2];
	if (sodium_init() < 0)
		return fault_set(f, SAKIORI_ECRYPTO, "libsodium does not start");
	randombytes_buf(secret, sizeof secret);
	hex_encode(secret, sizeof secret, text);
	memcpy(text + 2 * NETWORK_SECRET_SIZE, "\n", 2);
	int rc = secret_file_write(path, text, sizeof text - 1, false, f);
	sodium_memzero(secret, sizeof secret);
	sodium_memzero(text, sizeof text);
	return rc;
}

int network_secret_load(const char *path, uint8_t **out, struct fault *f)
{
	char *text = NULL;
	int rc = secret_file_read(path, &text, f);
	if (rc == SAKIORI_ENOTFOUND)
		return fault_set(f, rc,
			"%s: no network secret: copy it from another site of the network, or make the first one with "
			"`sakiori keygen --network`",
			path);
	if (rc != 0)
		return rc;
	char *end = text + strcspn(text, "\n");
	if (strcmp(end, "\n") == 0)
		*end = '\0';
	uint8_t *secret = sodium_malloc(NETWORK_SECRET_SIZE);
	if (secret == NULL)
		rc = fault_set(f, SAKIORI_ENOMEM, "%s: no memory for the network secret", path);
	else if (hex_decode(text, secret, NETWORK_SECRET_SIZE) != 0)
		rc = fault_set(f, SAKIORI_EFORMAT,
			"%s: expected one line of 64 hex digits, as `sakiori keygen --network` writes", path);
	else if (sodium_is_zero(secret, NETWORK_SECRET_SIZE))
		rc = fault_set(f, SAKIORI_EINVAL,
			"%s: the secret is all zero, which protects nothing: make one with "
			"`sakiori keygen --network`",
			path);
	sodium_free(text);
	if (rc != 0) {
		sodium_free(secret);
		return rc;
	}
	*out = secret;
	return 0;
}

void network_secret_free(uint8_t *secret)
{
	sodium_free(secret);
}
