/* SPDX-License-Identifier: Apache-2.0 */
/* BLAKE2b-256 for everything of ours; SHA-256 only where the outside world names files by it. Any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define HASH_SIZE 32
#define HASH_HEX_SIZE (2 * HASH_SIZE + 1)

/* Streaming state; opaque, sized for libsodium's BLAKE2b state. */
struct hash {
	_Alignas(64) uint8_t state[384];
};

/* `purpose` separates domains ("sakiori-update", ...): at most 16 bytes, may be NULL. */
void hash_init(struct hash *h, const char *purpose);
void hash_update(struct hash *h, const void *data, size_t n);
void hash_final(struct hash *h, uint8_t out[static HASH_SIZE]);
void hash_bytes(const char *purpose, const void *data, size_t n, uint8_t out[static HASH_SIZE]);
/* Hashes a whole regular file in 1 MiB steps. */
int hash_file(const char *purpose, const char *path, uint8_t out[static HASH_SIZE], struct fault *f);

/* Lower-case hex with a NUL; out has 2n+1 bytes. */
void hex_encode(const uint8_t *data, size_t n, char *out);
/* Exactly 2n hex digits and a NUL; 0 or SAKIORI_EFORMAT. */
int hex_decode(const char *text, uint8_t *out, size_t n);
