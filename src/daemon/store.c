/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path of a commit: write_object (safetensors under a temporary name, fsync, hash, rename) for each new tensor file; begin, with
 * the fsync of their directory; rows and their seal; commit (SQLite syncs its WAL); collect garbage. When the disk is full or fails
 * before the commit has returned, the database still names the old files, and these are still there. */
#include "daemon/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/log.h"
#include "formats/safetensors.h"

/* "skrs", so that file(1) and a puzzled administrator can tell whose database this is. */
#define APPLICATION_ID 0x736b7273
#define OBJECT_PURPOSE "sakiori-object"
#define SUFFIX ".safetensors"
#define OBJECT_TENSORS 8
#define RESTORE "restore the state directory from a backup, or move it away to begin again as a new site"

struct store {
	sqlite3 *db;
	char *directory;
	char *objects;
	int lock;
};

static const char *const schema =
	"BEGIN IMMEDIATE; CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
	"CREATE TABLE objects(kind TEXT NOT NULL, peer TEXT NOT NULL, version INTEGER NOT NULL, hash TEXT NOT NULL,"
	"  why TEXT NOT NULL, PRIMARY KEY(kind, peer, version)) WITHOUT ROWID;"
	"CREATE INDEX objects_hash ON objects(hash);"
	"CREATE TABLE edges(peer TEXT PRIMARY KEY, have INTEGER NOT NULL, seen INTEGER NOT NULL, word INTEGER NOT NULL,"
	"  word_a INTEGER NOT NULL, word_b INTEGER NOT NULL, word_round INTEGER NOT NULL, word_weight REAL NOT NULL,"
	"  acknowledged INTEGER NOT NULL, applied INTEGER NOT NULL, held TEXT NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE rounds(round INTEGER PRIMARY KEY, step INTEGER, tokens INTEGER, loss REAL, grad_norm REAL,"
	"  lr REAL, train_seconds REAL, eval_loss_trained REAL, eval_accuracy_trained REAL, eval_loss_mixed REAL,"
	"  eval_accuracy_mixed REAL, displacement REAL, consensus_distance REAL, gather_seconds REAL,"
	"  neighbours_fresh INTEGER, words INTEGER, bytes_sent INTEGER, bytes_received INTEGER, unix_ms INTEGER);";

static int db_fault(struct store *s, struct fault *f, const char *doing)
{
	int code = s->db != NULL ? sqlite3_extended_errcode(s->db) : SQLITE_NOMEM;
	const char *text = s->db != NULL ? sqlite3_errmsg(s->db) : "out of memory";
	switch (code & 0xff) {
	case SQLITE_FULL:
		return fault_set(
			f, SAKIORI_ENOSPC, "%s/state.sqlite: %s: %s: free some space there", s->directory, doing, text);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return fault_set(f, SAKIORI_ECORRUPT, "%s/state.sqlite is damaged (%s): " RESTORE, s->directory, text);
	case SQLITE_PERM:
	case SQLITE_READONLY:
	case SQLITE_CANTOPEN:
		return fault_set(f, SAKIORI_EDENIED,
			"%s/state.sqlite: %s: %s: the daemon's user must own the directory", s->directory, doing, text);
	default:
		return fault_set(f, SAKIORI_EIO, "%s/state.sqlite: %s: %s", s->directory, doing, text);
	}
}

/* Prepares and binds: t = text, n = uint64_t, d = double (NaN becomes NULL). NULL after a fault. */
static sqlite3_stmt *prepare(struct store *s, struct fault *f, const char *sql, const char *types, va_list args)
{
	sqlite3_stmt *statement = NULL;
	int rc = sqlite3_prepare_v2(s->db, sql, -1, &statement, NULL);
	for (int i = 1; rc == SQLITE_OK && types[i - 1] != '\0'; i++) {
		if (types[i - 1] == 't')
			rc = sqlite3_bind_text(statement, i, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
		else if (types[i - 1] == 'n')
			rc = sqlite3_bind_int64(statement, i, (sqlite3_int64)va_arg(args, uint64_t));
		else
			rc = sqlite3_bind_double(statement, i, va_arg(args, double));
	}
	if (rc == SQLITE_OK)
		return statement;
	db_fault(s, f, "reading the schema");
	sqlite3_finalize(statement);
	return NULL;
}

/* A statement that returns no row. */
static int change(struct store *s, struct fault *f, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	sqlite3_stmt *statement = prepare(s, f, sql, types, args);
	va_end(args);
	if (statement == NULL)
		return SAKIORI_EIO;
	int rc = sqlite3_step(statement) == SQLITE_DONE ? 0 : db_fault(s, f, "writing");
	sqlite3_finalize(statement);
	return rc;
}

/* A statement whose rows the caller steps through with `next`. */
static sqlite3_stmt *query(struct store *s, struct fault *f, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	sqlite3_stmt *statement = prepare(s, f, sql, types, args);
	va_end(args);
	return statement;
}

/* 1: a row; 0: the end; negative: failed. After 0 and failure the statement is gone. */
static int next(struct store *s, sqlite3_stmt *statement, struct fault *f)
{
	if (statement == NULL)
		return SAKIORI_EIO;
	int rc = sqlite3_step(statement);
	if (rc == SQLITE_ROW)
		return 1;
	rc = rc == SQLITE_DONE ? 0 : db_fault(s, f, "reading");
	sqlite3_finalize(statement);
	return rc;
}

static const char *column_text(sqlite3_stmt *statement, int i)
{
	const char *text = (const char *)sqlite3_column_text(statement, i);
	return text != NULL ? text : "";
}

static uint64_t column_number(sqlite3_stmt *statement, int i)
{
	return (uint64_t)sqlite3_column_int64(statement, i);
}

static double column_double(sqlite3_stmt *statement, int i)
{
	return sqlite3_column_type(statement, i) == SQLITE_NULL ? NAN : sqlite3_column_double(statement, i);
}

static int execute(struct store *s, const char *sql, const char *doing, struct fault *f)
{
	return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_fault(s, f, doing);
}

static char *join(const char *directory, const char *name)
{
	size_t n = strlen(directory) + strlen(name) + 2;
	char *path = must_alloc(n);
	snprintf(path, n, "%s/%s", directory, name);
	return path;
}

/* The lock lives as long as the descriptor: a killed daemon leaves none behind. */
static int take_lock(struct store *s, struct fault *f)
{
	char *path = join(s->directory, "lock");
	char holder[32] = "";
	int rc = 0;
	s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock < 0) {
		rc = fault_errno(f, "%s", path);
	} else if (flock(s->lock, LOCK_EX | LOCK_NB) != 0) {
		ssize_t n = pread(s->lock, holder, sizeof holder - 1, 0);
		holder[n > 0 ? strcspn(holder, "\n") : 0] = '\0';
		rc = fault_set(f, SAKIORI_EBUSY,
			"state directory %s is in use by the daemon with process id %s: stop it, or use another",
			s->directory, holder[0] != '\0' ? holder : "(not yet written)");
	} else {
		int n = snprintf(holder, sizeof holder, "%ld\n", (long)getpid());
		if (ftruncate(s->lock, 0) != 0 || pwrite(s->lock, holder, (size_t)n, 0) != n)
			rc = fault_errno(f, "%s", path);
	}
	free(path);
	return rc;
}

static int single_number(struct store *s, const char *sql, uint64_t *out, struct fault *f)
{
	sqlite3_stmt *statement = query(s, f, sql, "");
	int rc = next(s, statement, f);
	if (rc <= 0)
		return rc < 0 ? rc : SAKIORI_ENOTFOUND;
	*out = column_number(statement, 0);
	sqlite3_finalize(statement);
	return 0;
}

static int open_database(struct store *s, struct fault *f)
{
	char *path = join(s->directory, "state.sqlite");
	int rc = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW, NULL);
	free(path);
	if (rc != SQLITE_OK)
		return db_fault(s, f, "opening");
	sqlite3_extended_result_codes(s->db, 1);
	sqlite3_busy_timeout(s->db, 2000); /* somebody looks into it with the sqlite3 command */
	uint64_t version = 0, application = 0;
	rc = single_number(s, "PRAGMA user_version", &version, f);
	if (rc == 0)
		rc = single_number(s, "PRAGMA application_id", &application, f);
	if (rc != 0)
		return rc;
	if (version > STORE_SCHEMA)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"%s/state.sqlite has schema %" PRIu64
			", not %d: install the newer sakiorid that wrote it again",
			s->directory, version, STORE_SCHEMA);
	if (version != 0 && application != APPLICATION_ID)
		return fault_set(f, SAKIORI_EFORMAT, "%s/state.sqlite is a database of another program", s->directory);
	rc = execute(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF", "opening", f);
	if (rc != 0 || version == STORE_SCHEMA)
		return rc;
	char stamp[120];
	snprintf(stamp, sizeof stamp, "PRAGMA application_id=%d; PRAGMA user_version=%d", APPLICATION_ID, STORE_SCHEMA);
	rc = execute(s, schema, "creating the tables", f);
	if (rc == 0)
		rc = execute(s, stamp, "creating the tables", f);
	if (rc == 0)
		return store_commit(s, f);
	store_rollback(s);
	return rc;
}

/* A few pages only: a damaged page that a query would stumble over later is found now. */
static int check_database(struct store *s, struct fault *f)
{
	sqlite3_stmt *statement = query(s, f, "PRAGMA quick_check(1)", "");
	int rc = next(s, statement, f);
	if (rc <= 0)
		return rc;
	rc = strcmp(column_text(statement, 0), "ok");
	if (rc != 0)
		rc = fault_set(f, SAKIORI_ECORRUPT, "%s/state.sqlite is damaged (%.120s): " RESTORE, s->directory,
			column_text(statement, 0));
	sqlite3_finalize(statement);
	return rc;
}

/* SQLite keeps no checksum of what is in its pages. Whatever decides how the site goes on is hashed; the history of rounds is not. */
static int hash_rows(struct store *s, char hex[static HASH_HEX_SIZE], struct fault *f)
{
	static const char *const queries[] = {"SELECT key, value FROM meta WHERE key != 'seal' ORDER BY key",
		"SELECT kind, peer, version, hash FROM objects ORDER BY kind, peer, version",
		/* the weight is a float of at most 1 and at least 1/257, so that this is exact */
		"SELECT peer, have, seen, word, word_a, word_b, word_round, CAST(word_weight * (1 << 40) AS INTEGER),"
		"  acknowledged, applied, held FROM edges ORDER BY peer"};
	struct hash h;
	uint8_t digest[HASH_SIZE];
	int rc = 0;
	hash_init(&h, "sakiori-rows");
	for (size_t i = 0; rc == 0 && i < sizeof queries / sizeof queries[0]; i++) {
		sqlite3_stmt *rows = query(s, f, queries[i], "");
		while ((rc = next(s, rows, f)) > 0)
			for (int k = 0; k < sqlite3_column_count(rows); k++) {
				const char *text = column_text(rows, k);
				hash_update(&h, text, strlen(text) + 1);
			}
	}
	hash_final(&h, digest);
	hex_encode(digest, sizeof digest, hex);
	return rc;
}

static int check_rows(struct store *s, struct fault *f)
{
	char found[HASH_HEX_SIZE], *seal = NULL;
	int rc = hash_rows(s, found, f);
	if (rc == 0)
		rc = store_get_text(s, "seal", &seal, f);
	if (rc == SAKIORI_ENOTFOUND || (rc == 0 && strcmp(seal, found) != 0))
		rc = fault_set(f, SAKIORI_ECORRUPT, "%s/state.sqlite is damaged (its seal): " RESTORE, s->directory);
	free(seal);
	return rc;
}

int store_open(struct store **out, const char *directory, struct fault *f)
{
	*out = NULL;
	struct store *s = must_calloc(1, sizeof *s);
	s->directory = must_strdup(directory);
	s->objects = join(directory, "objects");
	s->lock = -1;
	int rc = file_make_directories(s->objects, 0700, f);
	if (rc == 0)
		rc = take_lock(s, f);
	if (rc == 0)
		rc = open_database(s, f);
	if (rc == 0)
		rc = check_database(s, f);
	if (rc == 0)
		rc = check_rows(s, f);
	if (rc != 0) {
		store_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

void store_close(struct store *s)
{
	if (s == NULL)
		return;
	sqlite3_close(s->db);
	if (s->lock >= 0)
		close(s->lock);
	free(s->objects);
	free(s->directory);
	free(s);
}

const char *store_directory(const struct store *s)
{
	return s->directory;
}

static char *object_path(const struct store *s, const char *hash)
{
	char name[HASH_HEX_SIZE + sizeof SUFFIX];
	snprintf(name, sizeof name, "%.64s" SUFFIX, hash);
	return join(s->objects, name);
}

static int check_object(struct store *s, const char *hash, struct fault *f)
{
	uint8_t digest[HASH_SIZE];
	char found[HASH_HEX_SIZE];
	char *path = object_path(s, hash);
	struct fault why;
	int rc = hash_file(OBJECT_PURPOSE, path, digest, &why);
	if (rc == 0)
		hex_encode(digest, sizeof digest, found);
	if (rc != 0 || strcmp(found, hash) != 0)
		rc = fault_set(f, SAKIORI_ECORRUPT, "%s %s: " RESTORE, path,
			rc != 0 ? "cannot be read" : "does not hash to its name");
	free(path);
	return rc;
}

int store_verify(struct store *s, struct fault *f)
{
	sqlite3_stmt *statement = query(s, f, "SELECT DISTINCT hash FROM objects", "");
	int rc;
	while ((rc = next(s, statement, f)) > 0) {
		rc = check_object(s, column_text(statement, 0), f);
		if (rc != 0) {
			sqlite3_finalize(statement);
			break;
		}
	}
	return rc;
}

/* Whether a row names this hash; true also when the database cannot say, so that nothing is deleted then. */
static bool is_named(struct store *s, const char *hash)
{
	sqlite3_stmt *statement = query(s, NULL, "SELECT 1 FROM objects WHERE hash = ? LIMIT 1", "t", hash);
	int rc = next(s, statement, NULL);
	if (rc > 0)
		sqlite3_finalize(statement);
	return rc != 0;
}

void store_collect(struct store *s)
{
	DIR *directory = opendir(s->objects);
	if (directory == NULL) {
		log_warn("store_collect", "directory=%s error=\"%s\"", s->objects, strerror(errno));
		return;
	}
	for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
		char hash[HASH_HEX_SIZE] = "";
		uint8_t digest[HASH_SIZE];
		if (entry->d_name[0] == '.')
			continue;
		if (strlen(entry->d_name) == HASH_HEX_SIZE - 1 + strlen(SUFFIX))
			memcpy(hash, entry->d_name, HASH_HEX_SIZE - 1);
		bool ours = hex_decode(hash, digest, sizeof digest) == 0;
		if (!ours && strncmp(entry->d_name, "incoming" SUFFIX, strlen("incoming" SUFFIX)) != 0)
			continue; /* not a name that we give: not ours to delete */
		if (!(ours && is_named(s, hash)))
			unlinkat(dirfd(directory), entry->d_name, 0);
	}
	closedir(directory);
}

int store_write_object(struct store *s, const struct store_tensor *tensors, size_t count,
	char hash[static HASH_HEX_SIZE], struct fault *f)
{
	struct safetensors_tensor entries[OBJECT_TENSORS];
	if (count > OBJECT_TENSORS)
		return fault_set(f, SAKIORI_EINVAL, "an object has at most %d tensors", OBJECT_TENSORS);
	for (size_t i = 0; i < count; i++)
		entries[i] = (struct safetensors_tensor){.name = tensors[i].name,
			.type = tensors[i].type == STORE_F32 ? SAFETENSORS_F32 : SAFETENSORS_U8,
			.dimensions = 1,
			.shape = {tensors[i].count},
			.data = tensors[i].data};
	char *incoming = join(s->objects, "incoming" SUFFIX);
	char *final = NULL;
	uint8_t digest[HASH_SIZE];
	int rc = safetensors_write(incoming, 0600, entries, count, NULL, 0, f);
	if (rc == 0)
		rc = hash_file(OBJECT_PURPOSE, incoming, digest, f);
	if (rc == 0) {
		hex_encode(digest, sizeof digest, hash);
		final = object_path(s, hash);
		rc = rename(incoming, final) == 0 ? 0 : fault_errno(f, "%s", final);
	}
	if (rc != 0)
		unlink(incoming);
	free(final);
	free(incoming);
	return rc;
}

static int read_tensor(
	const struct safetensors *file, const struct store_tensor *want, const char *path, struct fault *f)
{
	const struct safetensors_tensor *found = safetensors_find(file, want->name);
	enum safetensors_type type = want->type == STORE_F32 ? SAFETENSORS_F32 : SAFETENSORS_U8;
	if (found == NULL || found->type != type || found->dimensions != 1 || found->shape[0] != want->count)
		return fault_set(f, SAKIORI_EMISMATCH,
			"%s: expected %s of %zu %s: the state directory belongs to another run, model or adapter size",
			path, want->name, want->count, safetensors_type_name(type));
	return safetensors_read(file, found, 0, (size_t)found->bytes, want->data, f);
}

int store_read_object(
	struct store *s, const char *hash, const struct store_tensor *tensors, size_t count, struct fault *f)
{
	struct safetensors *file = NULL;
	char *path = object_path(s, hash);
	int rc = check_object(s, hash, f);
	if (rc == 0)
		rc = safetensors_open(path, &file, f);
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = read_tensor(file, &tensors[i], path, f);
	if (file != NULL)
		safetensors_close(file);
	free(path);
	return rc;
}

int store_begin(struct store *s, struct fault *f)
{
	char *any = join(s->objects, "."); /* the new names of all objects written before, in one sync */
	int rc = file_sync_directory(any, f);
	free(any);
	return rc != 0 ? rc : execute(s, "BEGIN IMMEDIATE", "beginning a transaction", f);
}

int store_commit(struct store *s, struct fault *f)
{
	char seal[HASH_HEX_SIZE];
	int rc = hash_rows(s, seal, f);
	if (rc == 0)
		rc = store_set_text(s, "seal", seal, f);
	if (rc == 0)
		rc = execute(s, "COMMIT", "committing", f);
	if (rc != 0)
		store_rollback(s);
	return rc;
}

void store_rollback(struct store *s)
{
	if (!sqlite3_get_autocommit(s->db))
		sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
}

int store_name_object(struct store *s, const char *kind, const char *peer, uint64_t version, const char *hash,
	const char *why, struct fault *f)
{
	return change(s, f, "INSERT OR REPLACE INTO objects(kind, peer, version, hash, why) VALUES(?, ?, ?, ?, ?)",
		"ttntt", kind, peer, version, hash, why);
}

int store_unname_object(struct store *s, const char *kind, const char *peer, uint64_t version, struct fault *f)
{
	return change(
		s, f, "DELETE FROM objects WHERE kind = ? AND peer = ? AND version = ?", "ttn", kind, peer, version);
}

int store_unname_others(struct store *s, const char *kind, const char *peer, uint64_t keep, struct fault *f)
{
	return change(
		s, f, "DELETE FROM objects WHERE kind = ? AND peer = ? AND version != ?", "ttn", kind, peer, keep);
}

int store_unname_strangers(struct store *s, const char *kind, struct fault *f)
{
	return change(s, f, "DELETE FROM objects WHERE kind = ? AND peer NOT IN (SELECT peer FROM edges)", "t", kind);
}

int store_find_object(struct store *s, const char *kind, const char *peer, uint64_t version,
	char hash[static HASH_HEX_SIZE], struct fault *f)
{
	sqlite3_stmt *statement = query(s, f, "SELECT hash FROM objects WHERE kind = ? AND peer = ? AND version = ?",
		"ttn", kind, peer, version);
	int rc = next(s, statement, f);
	if (rc == 0)
		return fault_set(f, SAKIORI_ENOTFOUND, "%s: no %s of version %" PRIu64, s->directory, kind, version);
	if (rc < 0)
		return rc;
	snprintf(hash, HASH_HEX_SIZE, "%s", column_text(statement, 0));
	sqlite3_finalize(statement);
	return 0;
}

int store_each_object(struct store *s, const char *kind,
	void (*each)(void *self, const char *peer, uint64_t version, const char *hash), void *self, struct fault *f)
{
	sqlite3_stmt *statement =
		query(s, f, "SELECT peer, version, hash FROM objects WHERE kind = ? ORDER BY peer, version", "t", kind);
	int rc;
	while ((rc = next(s, statement, f)) > 0)
		each(self, column_text(statement, 0), column_number(statement, 1), column_text(statement, 2));
	return rc;
}

int store_set_number(struct store *s, const char *key, uint64_t value, struct fault *f)
{
	return change(s, f, "INSERT OR REPLACE INTO meta(key, value) VALUES(?, ?)", "tn", key, value);
}

int store_set_text(struct store *s, const char *key, const char *value, struct fault *f)
{
	return change(s, f, "INSERT OR REPLACE INTO meta(key, value) VALUES(?, ?)", "tt", key, value);
}

/* Steps to the one row of `key`; the caller reads column 0 and finalizes. */
static int find_meta(struct store *s, const char *key, sqlite3_stmt **statement, struct fault *f)
{
	*statement = query(s, f, "SELECT value FROM meta WHERE key = ?", "t", key);
	int rc = next(s, *statement, f);
	if (rc == 0)
		return fault_set(f, SAKIORI_ENOTFOUND, "%s: no value for %s", s->directory, key);
	return rc > 0 ? 0 : rc;
}

int store_get_number(struct store *s, const char *key, uint64_t *value, struct fault *f)
{
	sqlite3_stmt *statement;
	int rc = find_meta(s, key, &statement, f);
	if (rc != 0)
		return rc;
	*value = column_number(statement, 0);
	sqlite3_finalize(statement);
	return 0;
}

int store_get_text(struct store *s, const char *key, char **value, struct fault *f)
{
	sqlite3_stmt *statement;
	int rc = find_meta(s, key, &statement, f);
	if (rc != 0)
		return rc;
	*value = must_strdup(column_text(statement, 0));
	sqlite3_finalize(statement);
	return 0;
}

int store_put_record(struct store *s, const struct site_record *r, struct fault *f)
{
	return change(s, f,
		"INSERT OR REPLACE INTO rounds VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		"nnndddddddddddnnnnn", r->round, r->step, r->tokens, r->loss, r->grad_norm, r->lr, r->train_seconds,
		r->eval_loss_trained, r->eval_accuracy_trained, r->eval_loss_mixed, r->eval_accuracy_mixed,
		r->displacement, r->consensus_distance, r->gather_seconds, (uint64_t)r->neighbours_fresh,
		(uint64_t)r->words, r->bytes_sent, r->bytes_received, r->unix_ms);
}

int store_last_records(struct store *s, struct site_record *out, size_t max, struct fault *f)
{
	sqlite3_stmt *statement = query(s, f,
		"SELECT * FROM (SELECT * FROM rounds ORDER BY round DESC LIMIT ?) ORDER BY round", "n", (uint64_t)max);
	size_t n = 0;
	int rc;
	while ((rc = next(s, statement, f)) > 0)
		out[n++] = (struct site_record){.round = column_number(statement, 0),
			.step = column_number(statement, 1),
			.tokens = column_number(statement, 2),
			.loss = column_double(statement, 3),
			.grad_norm = column_double(statement, 4),
			.lr = column_double(statement, 5),
			.train_seconds = column_double(statement, 6),
			.eval_loss_trained = column_double(statement, 7),
			.eval_accuracy_trained = column_double(statement, 8),
			.eval_loss_mixed = column_double(statement, 9),
			.eval_accuracy_mixed = column_double(statement, 10),
			.displacement = column_double(statement, 11),
			.consensus_distance = column_double(statement, 12),
			.gather_seconds = column_double(statement, 13),
			.neighbours_fresh = (uint32_t)column_number(statement, 14),
			.words = (uint32_t)column_number(statement, 15),
			.bytes_sent = column_number(statement, 16),
			.bytes_received = column_number(statement, 17),
			.unix_ms = column_number(statement, 18)};
	return rc < 0 ? rc : (int)n;
}

int store_put_edge(struct store *s, const char *peer, const struct round_edge_row *row, struct fault *f)
{
	char held[ROUND_HELD_MAX * 21 + 1] = "";
	for (size_t i = 0, at = 0; i < row->held_count && i < ROUND_HELD_MAX; i++)
		at += (size_t)snprintf(held + at, sizeof held - at, "%s%" PRIu64, i > 0 ? " " : "", row->held[i]);
	return change(s, f, "INSERT OR REPLACE INTO edges VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", "tnnnnnndnnt", peer,
		row->have, row->seen, row->word.number, row->word.a, row->word.b, row->word.round,
		(double)row->word.weight, row->acknowledged, row->applied, held);
}

int store_clear_edges(struct store *s, struct fault *f)
{
	return change(s, f, "DELETE FROM edges", "");
}

int store_each_edge(struct store *s, void (*each)(void *self, const char *peer, const struct round_edge_row *row),
	void *self, struct fault *f)
{
	sqlite3_stmt *statement = query(s, f, "SELECT * FROM edges ORDER BY peer", "");
	int rc;
	while ((rc = next(s, statement, f)) > 0) {
		struct round_edge_row row = {.have = column_number(statement, 1),
			.seen = column_number(statement, 2),
			.word = {.number = column_number(statement, 3),
				.a = column_number(statement, 4),
				.b = column_number(statement, 5),
				.round = column_number(statement, 6),
				.weight = (float)column_double(statement, 7)},
			.acknowledged = column_number(statement, 8),
			.applied = column_number(statement, 9)};
		const char *held = column_text(statement, 10);
		char *end;
		for (; *held != '\0' && row.held_count < ROUND_HELD_MAX; held = *end == ' ' ? end + 1 : end) {
			row.held[row.held_count] = strtoull(held, &end, 10);
			if (end == held)
				break;
			row.held_count++;
		}
		each(self, column_text(statement, 0), &row);
	}
	return rc;
}
