/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of token caches: names, and which files have to go. Only token_cache.c uses this. Any thread, and any number of processes at once. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/hash.h"

/* "FOLDER/SETTINGS-KEY.tokens", the first bytes of both in hexadecimal; the caller frees. */
char *token_cache_path(
	const char *folder, const uint8_t settings[static HASH_SIZE], const uint8_t key[static HASH_SIZE]);
/* Whether a file of these settings is there. */
bool token_cache_has(const char *folder, const uint8_t settings[static HASH_SIZE]);
/* Makes the folder, 0700. SAKIORI_EDENIED where it is somebody else's or others may write to it. */
int token_cache_make_folder(const char *folder, struct fault *f);
/* Marks the open file as used now, by its time of access; its time of modification stays. */
void token_cache_touch(int fd);
/* Removes the files used longest ago until all take at most `limit` bytes; inode `keep` stays. So do files on their way, unless they are a day old:
 * then nobody writes them any more. */
void token_cache_trim(const char *folder, ino_t keep, uint64_t limit);
