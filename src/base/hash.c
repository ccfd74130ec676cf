/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"

_Static_assert(sizeof(crypto_generichash_state) <= sizeof(struct hash), "struct hash holds libsodium's state");

void hash_init(struct hash *h, const char *purpose)
{
	unsigned char personal[crypto_generichash_blake2b_PERSONALBYTES] = {0};
	if (purpose != NULL) {
		size_t n = strlen(purpose);
		memcpy(personal, purpose, n < sizeof personal ? n : sizeof personal);
	}
	crypto_generichash_blake2b_init_salt_personal(
		(crypto_generichash_blake2b_state *)(void *)h->state, NULL, 0, HASH_SIZE, NULL, personal);
}

void hash_update(struct hash *h, const void *data, size_t n)
{
	crypto_generichash_blake2b_update((crypto_generichash_blake2b_state *)(void *)h->state, data, n);
}

void hash_final(struct hash *h, uint8_t out[static HASH_SIZE])
{
	crypto_generichash_blake2b_final((crypto_generichash_blake2b_state *)(void *)h->state, out, HASH_SIZE);
}

void hash_bytes(const char *purpose, const void *data, size_t n, uint8_t out[static HASH_SIZE])
{
	struct hash h;
	hash_init(&h, purpose);
	hash_update(&h, data, n);
	hash_final(&h, out);
}

int hash_file(const char *purpose, const char *path, uint8_t out[static HASH_SIZE], struct fault *f)
{
	enum { BLOCK = 1 << 20 };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return fault_errno(f, "%s", path);
	struct hash h;
	uint8_t *block = must_alloc(BLOCK);
	int rc = 0;
	hash_init(&h, purpose);
	for (;;) {
		ssize_t n = read(fd, block, BLOCK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = fault_errno(f, "%s", path);
		if (n <= 0)
			break;
		hash_update(&h, block, (size_t)n);
	}
	free(block);
	close(fd);
	if (rc == 0)
		hash_final(&h, out);
	return rc;
}

void hex_encode(const uint8_t *data, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[data[i] >> 4];
		out[2 * i + 1] = digits[data[i] & 15];
	}
	out[2 * n] = '\0';
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int hex_decode(const char *text, uint8_t *out, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int high = digit_value(text[2 * i]);
		int low = high < 0 ? -1 : digit_value(text[2 * i + 1]);
		if (low < 0)
			return SAKIORI_EFORMAT;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return text[2 * n] == '\0' ? 0 : SAKIORI_EFORMAT;
}
