/* SPDX-License-Identifier: Apache-2.0 */
/* What a site must not forget: one SQLite database and, beside it, tensors in files that are named by their content.
 * Blocking: the pool's lane only (open, verify and close: any thread while nothing else uses the store).
 *
 * The state directory holds `lock`, `state.sqlite` (WAL, synchronous=FULL) and `objects/<BLAKE2b-256 in
 * hex>.safetensors`. A file is complete, synced and renamed before the transaction that names it commits; a file that
 * no row names is garbage and deleted. So whatever moment the power fails, the last commit is whole. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"
#include "site/site.h"

#define STORE_SCHEMA 1

struct store;

/* Creates the directory where there is none, takes its lock and opens or creates the database.
 * SAKIORI_EBUSY names the process that holds it; SAKIORI_EUNSUPPORTED a database of a newer program; SAKIORI_ECORRUPT a
 * damaged one, also where only a value was changed since the last commit, and what to do. */
int store_open(struct store **out, const char *directory, struct fault *f);
/* NULL is fine. */
void store_close(struct store *s);
const char *store_directory(const struct store *s);

/* Checks that every file a row names is there and hashes to its name; a transaction must not be open. SAKIORI_ECORRUPT
 * names the first that is not, and what to do. Reads everything: a second or so a gigabyte. */
int store_verify(struct store *s, struct fault *f);
/* Deletes the files that no row names, and what an interrupted write left. Failures are harmless and only logged. Never
 * inside a transaction. */
void store_collect(struct store *s);

/* One tensor of an object, a plain vector: f32 or bytes. Writing reads `data`, reading fills it. */
enum store_type { STORE_F32, STORE_BYTES };
struct store_tensor {
	const char *name;
	enum store_type type;
	void *data;
	size_t count;
};

/* Writes the tensors to a file named by its own hash: its bytes are durable when this returns, its name when the next
 * store_begin does. Does not touch the database. SAKIORI_ENOSPC or SAKIORI_EIO leaves nothing behind. */
int store_write_object(struct store *s, const struct store_tensor *tensors, size_t count,
	char hash[static HASH_HEX_SIZE], struct fault *f);
/* Fills the tensors from the file. The file's hash is checked first: SAKIORI_ECORRUPT. SAKIORI_EMISMATCH when a tensor
 * is missing or of another type or length. */
int store_read_object(
	struct store *s, const char *hash, const struct store_tensor *tensors, size_t count, struct fault *f);

/* All changes below belong to a transaction. After any failure only store_rollback is allowed; a commit that failed has
 * rolled back, and can be tried again from the beginning. */
int store_begin(struct store *s, struct fault *f);
int store_commit(struct store *s, struct fault *f);
void store_rollback(struct store *s);

/* Names: (kind, peer, version) -> object. `peer` is "" for what is ours alone; `why` says to people what keeps it. */
int store_name_object(struct store *s, const char *kind, const char *peer, uint64_t version, const char *hash,
	const char *why, struct fault *f);
/* Takes the name away; no error when there is none. */
int store_unname_object(struct store *s, const char *kind, const char *peer, uint64_t version, struct fault *f);
/* Takes away the names of this kind and peer but the one of version `keep`. */
int store_unname_others(struct store *s, const char *kind, const char *peer, uint64_t keep, struct fault *f);
/* Takes away the names of this kind whose peer is not the peer of any edge. */
int store_unname_strangers(struct store *s, const char *kind, struct fault *f);
/* SAKIORI_ENOTFOUND when there is none. */
int store_find_object(struct store *s, const char *kind, const char *peer, uint64_t version,
	char hash[static HASH_HEX_SIZE], struct fault *f);
/* Calls `each` for every name of this kind, by peer and version. */
int store_each_object(struct store *s, const char *kind,
	void (*each)(void *self, const char *peer, uint64_t version, const char *hash), void *self, struct fault *f);

/* Single values: settings' fingerprint, phase, counters. */
int store_set_number(struct store *s, const char *key, uint64_t value, struct fault *f);
int store_set_text(struct store *s, const char *key, const char *value, struct fault *f);
/* SAKIORI_ENOTFOUND when it was never set; *value is then untouched. */
int store_get_number(struct store *s, const char *key, uint64_t *value, struct fault *f);
/* The caller frees *value. */
int store_get_text(struct store *s, const char *key, char **value, struct fault *f);

/* History. store_put_record replaces the row of this round; store_last_records gives the newest, oldest first, and
 * returns how many of `max`, or negative. */
int store_put_record(struct store *s, const struct site_record *record, struct fault *f);
int store_last_records(struct store *s, struct site_record *out, size_t max, struct fault *f);

/* An edge's numbers; `peer` is the neighbour's NodeID in hex. */
int store_put_edge(struct store *s, const char *peer, const struct round_edge_row *row, struct fault *f);
/* Forgets edges: all of them, to be put again by the same transaction. */
int store_clear_edges(struct store *s, struct fault *f);
/* Calls `each` for every row; the arguments are borrowed for the call. */
int store_each_edge(struct store *s, void (*each)(void *self, const char *peer, const struct round_edge_row *row),
	void *self, struct fault *f);
