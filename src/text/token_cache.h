/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenized rows in a file, so that a large data set is tokenized once and trained on without being held in memory. Only dataset.c uses this.
 *
 * A cache file is named by what it was made from: its key is a BLAKE2b over the rows' bytes, the tokenizer, the chat template and the options. The
 * rows' bytes are hashed at every opening (about 1 GB/s, and only where a file of these settings and this size exists): sizes and times of
 * modification can stay the same when bytes change, and a model trained on yesterday's rows is worse than a second of waiting.
 *
 * Nothing of the file is believed before its digest over all tokens and row starts was computed again (another 1 GB/s), which is
 * also dataset_fingerprint; every id is checked against the vocabulary, every start against its neighbours. Files that belong to
 * somebody else or that others may write to are refused. A refused file is removed, with a line in the log, and made anew.
 *
 * The file is written beside its name, synced and renamed, so several processes may make, use and remove the same one at once. It is
 * verified by reading and used by mapping, the descriptor kept open: removal or replacement by name does not touch it. token_cache_check sees a file
 * that was cut short or written to in place. What remains: a cut between the check and the use, or a disk that cannot
 * read what it could read at opening, ends the process with SIGBUS, and the next start refuses the file and makes another. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/file.h"
#include "base/hash.h"
#include "text/dataset.h"

/* An opened cache file. Any thread may read it. */
struct token_cache {
	int fd;
	void *map;
	size_t size;
	const uint32_t *tokens; /* (counts.tokens) */
	const uint64_t *starts; /* (counts.rows + 1) */
	struct dataset_counts counts;
	uint8_t fingerprint[HASH_SIZE];
	int64_t written; /* time of the last modification, ns */
};

/* What all of a cache file but the rows' bytes depends on. */
struct token_cache_settings {
	uint8_t digest[HASH_SIZE];
	size_t vocabulary; /* every id is below */
};

/* Finds the tokens of the rows in the open file `source`, called `name` in sentences: 1 with an open cache, 0 where there is none that holds.
 * A negative error is one of reading the source. */
int token_cache_find(struct token_cache *c, const char *folder, const struct token_cache_settings *settings, int source,
	const char *name, struct fault *f);
void token_cache_close(struct token_cache *c);
/* SAKIORI_ECORRUPT when the file was cut short or written to after it was opened. */
int token_cache_check(const struct token_cache *c, struct fault *f);

/* A cache file on its way. */
struct token_cache_writer {
	const char *folder;
	struct token_cache_settings settings;
	struct file_writer file;
	int starts; /* a nameless file of row starts, put behind the tokens at the end */
	uint64_t tokens;
	struct hash fingerprint;
	bool failed; /* a write did */
};

/* Makes the folder and begins. SAKIORI_EDENIED where the folder belongs to somebody else or is open to others. Ends with commit or abort. */
int token_cache_begin(
	struct token_cache_writer *w, const char *folder, const struct token_cache_settings *settings, struct fault *f);
/* Rows one after the other: their tokens, and the size of each. */
int token_cache_write(
	struct token_cache_writer *w, const uint32_t *tokens, const uint32_t *sizes, size_t rows, struct fault *f);
/* Names the file after the digest of the rows' bytes and opens it; others are then dropped, those that were opened longest ago first, until all
 * together take at most `limit` bytes or this one is alone. */
int token_cache_commit(struct token_cache_writer *w, const struct dataset_counts *counts,
	const uint8_t content[static HASH_SIZE], uint64_t limit, struct token_cache *c, struct fault *f);
void token_cache_abort(struct token_cache_writer *w);
