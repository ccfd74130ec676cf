/* SPDX-License-Identifier: Apache-2.0 */
#include "text/token_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "text/rows.h"
#include "text/token_cache_folder.h"

/* Layout: the header, padded to TOKENS_AT; tokens (u32); padding to 8; starts (u64). All in the machine's own order, which `order` tells. */
enum { TOKENS_AT = 4096, CACHE_VERSION = 1, READ_BYTES = 1 << 20 };
static const uint64_t order = 0x0102030405060708;

struct header {
	char magic[8];
	uint64_t order, version;
	uint8_t key[HASH_SIZE];
	uint64_t rows, tokens, labelled_tokens, truncated_rows, skipped_rows, longest_row;
	uint8_t fingerprint[HASH_SIZE]; /* of tokens and starts: dataset_fingerprint */
	uint8_t seal[HASH_SIZE];        /* of all above */
};
static const char magic[8] = "sakitok";

static void seal_header(const struct header *h, uint8_t out[static HASH_SIZE])
{
	hash_bytes("sakiori-tokens", h, offsetof(struct header, seal), out);
}

static void make_key(
	const struct token_cache_settings *s, const uint8_t content[static HASH_SIZE], uint8_t key[static HASH_SIZE])
{
	struct hash h;
	hash_init(&h, "sakiori-tok-key");
	hash_update(&h, s->digest, sizeof s->digest);
	hash_update(&h, content, HASH_SIZE);
	hash_final(&h, key);
}

static uint64_t starts_at(uint64_t tokens)
{
	return (TOKENS_AT + tokens * sizeof(uint32_t) + 7) / 8 * 8;
}

/* ---- verifying ---- */

/* Reads exactly n bytes; a short file is corrupt. */
static int read_at(int fd, void *out, size_t n, uint64_t at, struct fault *f)
{
	for (size_t got = 0; got < n;) {
		ssize_t more = pread(fd, (char *)out + got, n - got, (off_t)(at + got));
		if (more < 0 && errno == EINTR)
			continue;
		if (more < 0)
			return fault_errno(f, "cannot read");
		if (more == 0)
			return fault_set(f, SAKIORI_ECORRUPT, "it ends at byte %llu", (unsigned long long)(at + got));
		got += (size_t)more;
	}
	return 0;
}

/* Reads one of the two arrays in pieces. */
struct stream {
	int fd;
	uint64_t at, end; /* bytes of the file */
	char *piece;
	size_t have, used;
};

/* At least one more item: how many bytes, with *data at them. The caller says how many it used. */
static int stream_fill(struct stream *s, size_t *bytes, const void **data, struct fault *f)
{
	if (s->used == s->have) {
		s->have = s->end - s->at < READ_BYTES ? (size_t)(s->end - s->at) : READ_BYTES;
		s->used = 0;
		int rc = read_at(s->fd, s->piece, s->have, s->at, f);
		if (rc != 0)
			return rc;
		s->at += s->have;
	}
	*bytes = s->have - s->used;
	*data = s->piece + s->used;
	return 0;
}

static bool all_below(const uint32_t *tokens, size_t n, uint32_t limit)
{
	uint32_t most = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t id = tokens[i] & ~ROWS_LABELLED;
		most = id > most ? id : most;
	}
	return most < limit;
}

static int verify_row(struct stream *tokens, uint64_t n, size_t vocabulary, struct hash *digest, struct fault *f)
{
	hash_update(digest, &n, sizeof n);
	for (uint64_t left = n * sizeof(uint32_t); left > 0;) {
		size_t bytes;
		const void *data;
		int rc = stream_fill(tokens, &bytes, &data, f);
		if (rc != 0)
			return rc;
		bytes = bytes < left ? bytes : (size_t)left;
		if (!all_below(data, bytes / sizeof(uint32_t), (uint32_t)vocabulary))
			return fault_set(f, SAKIORI_ECORRUPT, "it holds a token outside the vocabulary");
		hash_update(digest, data, bytes);
		tokens->used += bytes;
		left -= bytes;
	}
	return 0;
}

/* Every start and every token, once. */
static int verify_rows(
	struct stream *tokens, struct stream *starts, const struct header *h, size_t vocabulary, struct fault *f)
{
	struct hash digest;
	uint8_t fingerprint[HASH_SIZE];
	uint64_t start = 0;
	hash_init(&digest, "sakiori-dataset");
	for (uint64_t i = 0; i <= h->rows; i++) {
		size_t bytes;
		const void *data;
		uint64_t next;
		int rc = stream_fill(starts, &bytes, &data, f);
		if (rc != 0)
			return rc;
		memcpy(&next, data, sizeof next);
		starts->used += sizeof next;
		if (i == 0 ? next != 0 : next <= start || next > h->tokens || next - start > h->longest_row)
			return fault_set(f, SAKIORI_ECORRUPT, "row %llu begins nowhere", (unsigned long long)i);
		if (i > 0 && (rc = verify_row(tokens, next - start, vocabulary, &digest, f)) != 0)
			return rc;
		start = next;
	}
	hash_final(&digest, fingerprint);
	if (start != h->tokens || memcmp(fingerprint, h->fingerprint, HASH_SIZE) != 0)
		return fault_set(f, SAKIORI_ECORRUPT, "its tokens do not have the digest that it names");
	return 0;
}

static int verify_contents(int fd, const struct header *h, size_t vocabulary, struct fault *f)
{
	struct stream tokens = {.fd = fd, .at = TOKENS_AT, .end = TOKENS_AT + h->tokens * sizeof(uint32_t)};
	struct stream starts = {.fd = fd, .at = starts_at(h->tokens), .end = starts_at(h->tokens) + (h->rows + 1) * 8};
	tokens.piece = must_alloc(READ_BYTES);
	starts.piece = must_alloc(READ_BYTES);
	int rc = verify_rows(&tokens, &starts, h, vocabulary, f);
	free(tokens.piece);
	free(starts.piece);
	return rc;
}

static int verify_header(const struct header *h, const uint8_t key[static HASH_SIZE], uint64_t size, struct fault *f)
{
	uint8_t seal[HASH_SIZE];
	seal_header(h, seal);
	if (memcmp(h->magic, magic, sizeof magic) != 0 || h->order != order || h->version != CACHE_VERSION)
		return fault_set(f, SAKIORI_ECORRUPT, "it is no token cache of this version");
	if (memcmp(h->seal, seal, sizeof seal) != 0 || memcmp(h->key, key, HASH_SIZE) != 0)
		return fault_set(f, SAKIORI_ECORRUPT, "its header is damaged or another file's");
	/* the bounds keep the next line from wrapping */
	if (h->rows == 0 || h->rows >= UINT32_MAX || h->tokens > size / sizeof(uint32_t) ||
		h->longest_row > h->tokens || starts_at(h->tokens) + (h->rows + 1) * sizeof(uint64_t) != size)
		return fault_set(f, SAKIORI_ECORRUPT, "%llu bytes do not hold %llu rows of %llu tokens",
			(unsigned long long)size, (unsigned long long)h->rows, (unsigned long long)h->tokens);
	return 0;
}

static int64_t time_written(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* ---- opening ---- */

static int map_file(struct token_cache *c, const struct header *h, struct fault *f)
{
	c->map = mmap(NULL, c->size, PROT_READ, MAP_SHARED, c->fd, 0);
	if (c->map == MAP_FAILED) {
		c->map = NULL;
		return fault_errno(f, "cannot map it");
	}
	/* rows come in random order: what is read ahead would not be used */
	madvise(c->map, c->size, MADV_RANDOM);
	c->tokens = (const uint32_t *)(const void *)((const char *)c->map + TOKENS_AT);
	c->starts = (const uint64_t *)(const void *)((const char *)c->map + starts_at(h->tokens));
	c->counts = (struct dataset_counts){.rows = h->rows,
		.tokens = h->tokens,
		.labelled_tokens = h->labelled_tokens,
		.truncated_rows = h->truncated_rows,
		.skipped_rows = h->skipped_rows,
		.longest_row = h->longest_row};
	memcpy(c->fingerprint, h->fingerprint, HASH_SIZE);
	return 0;
}

static int open_file(struct token_cache *c, const char *path, const uint8_t key[static HASH_SIZE], size_t vocabulary,
	struct fault *f)
{
	struct header h = {0};
	struct stat st;
	*c = (struct token_cache){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
	if (c->fd < 0 || fstat(c->fd, &st) != 0)
		return fault_errno(f, "cannot open");
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return fault_set(f, SAKIORI_EDENIED, "it is no file that this user alone may write");
	c->size = (size_t)st.st_size;
	c->written = time_written(&st);
	int rc = read_at(c->fd, &h, sizeof h, 0, f);
	if (rc == 0)
		rc = verify_header(&h, key, c->size, f);
	if (rc == 0)
		rc = verify_contents(c->fd, &h, vocabulary, f);
	return rc != 0 ? rc : map_file(c, &h, f);
}

static int hash_source(int source, const char *name, uint8_t content[static HASH_SIZE], struct fault *f)
{
	struct hash h;
	char *piece = must_alloc(READ_BYTES);
	ssize_t n;
	off_t at = 0;
	hash_init(&h, "sakiori-rows");
	while ((n = pread(source, piece, READ_BYTES, at)) > 0 || (n < 0 && errno == EINTR)) {
		hash_update(&h, piece, n > 0 ? (size_t)n : 0);
		at += n > 0 ? n : 0;
	}
	int rc = n < 0 ? fault_errno(f, "%s: cannot read on", name) : 0;
	free(piece);
	hash_final(&h, content);
	return rc;
}

int token_cache_find(struct token_cache *c, const char *folder, const struct token_cache_settings *settings, int source,
	const char *name, struct fault *f)
{
	uint8_t content[HASH_SIZE], key[HASH_SIZE];
	struct fault why = {0};
	*c = (struct token_cache){.fd = -1};
	if (!token_cache_has(folder, settings->digest))
		return 0;
	int rc = hash_source(source, name, content, f);
	if (rc != 0)
		return rc;
	make_key(settings, content, key);
	char *path = token_cache_path(folder, settings->digest, key);
	if (access(path, F_OK) == 0 && (rc = open_file(c, path, key, settings->vocabulary, &why)) != 0) {
		log_warn("token_cache_refused", "path=%s why=\"%s\"", path, why.text);
		unlink(path);
	}
	bool found = rc == 0 && c->fd >= 0;
	if (found)
		token_cache_touch(c->fd);
	else
		token_cache_close(c);
	free(path);
	return found;
}

void token_cache_close(struct token_cache *c)
{
	if (c->map != NULL)
		munmap(c->map, c->size);
	if (c->fd >= 0)
		close(c->fd);
	*c = (struct token_cache){.fd = -1};
}

int token_cache_check(const struct token_cache *c, struct fault *f)
{
	struct stat st;
	if (fstat(c->fd, &st) != 0)
		return fault_errno(f, "the token cache");
	if ((size_t)st.st_size != c->size || time_written(&st) != c->written)
		return fault_set(f, SAKIORI_ECORRUPT,
			"the file of tokenized rows was changed while it was in use: expected %zu bytes, found %lld%s; "
			"start again, "
			"and it is made anew",
			c->size, (long long)st.st_size, (size_t)st.st_size == c->size ? ", written to since" : "");
	return 0;
}

/* ---- writing ---- */

int token_cache_begin(
	struct token_cache_writer *w, const char *folder, const struct token_cache_settings *settings, struct fault *f)
{
	*w = (struct token_cache_writer){.folder = folder, .settings = *settings, .file = {.fd = -1}, .starts = -1};
	hash_init(&w->fingerprint, "sakiori-dataset");
	int rc = token_cache_make_folder(folder, f);
	if (rc != 0)
		return rc;
	char *path = token_cache_path(folder, settings->digest, settings->digest);
	char *starts = must_alloc(strlen(path) + 16);
	sprintf(starts, "%s.XXXXXX", path);
	rc = file_writer_begin(&w->file, path, 0600, f);
	w->starts = rc == 0 ? mkostemp(starts, O_CLOEXEC) : -1;
	if (w->starts >= 0)
		unlink(starts);
	else if (rc == 0)
		rc = fault_errno(f, "%s", starts);
	free(starts);
	free(path);
	const struct header none = {0};
	if (rc == 0)
		rc = file_writer_write(&w->file, &none, sizeof none, f);
	if (rc == 0 && lseek(w->file.fd, TOKENS_AT, SEEK_SET) < 0)
		rc = fault_errno(f, "%s", w->file.path);
	if (rc != 0)
		token_cache_abort(w);
	return rc;
}

static int write_all(int fd, const void *data, size_t n, struct fault *f)
{
	struct file_writer w = {.fd = fd, .path = (char *)(uintptr_t) "row starts"};
	return file_writer_write(&w, data, n, f);
}

int token_cache_write(
	struct token_cache_writer *w, const uint32_t *tokens, const uint32_t *sizes, size_t rows, struct fault *f)
{
	uint64_t *starts = must_alloc((rows + 1) * sizeof *starts);
	size_t at = 0;
	for (size_t i = 0; i < rows; i++) {
		uint64_t n = sizes[i];
		starts[i] = w->tokens + at;
		hash_update(&w->fingerprint, &n, sizeof n);
		hash_update(&w->fingerprint, tokens + at, n * sizeof *tokens);
		at += n;
	}
	w->tokens += at;
	int rc = file_writer_write(&w->file, tokens, at * sizeof *tokens, f);
	if (rc == 0)
		rc = write_all(w->starts, starts, rows * sizeof *starts, f);
	free(starts);
	w->failed = rc != 0;
	return rc;
}

static int append_starts(struct token_cache_writer *w, uint64_t rows, struct fault *f)
{
	char *piece = must_alloc(READ_BYTES);
	uint64_t bytes = rows * sizeof(uint64_t);
	int rc = lseek(w->file.fd, (off_t)starts_at(w->tokens), SEEK_SET) < 0 ? fault_errno(f, "%s", w->file.path) : 0;
	for (uint64_t at = 0; rc == 0 && at < bytes; at += READ_BYTES) {
		size_t n = bytes - at < READ_BYTES ? (size_t)(bytes - at) : READ_BYTES;
		rc = read_at(w->starts, piece, n, at, f);
		if (rc == 0)
			rc = file_writer_write(&w->file, piece, n, f);
	}
	free(piece);
	return rc != 0 ? rc : file_writer_write(&w->file, &w->tokens, sizeof w->tokens, f);
}

static int write_header(struct token_cache_writer *w, const struct dataset_counts *counts,
	const uint8_t key[static HASH_SIZE], struct header *h, struct fault *f)
{
	*h = (struct header){.order = order,
		.version = CACHE_VERSION,
		.rows = counts->rows,
		.tokens = counts->tokens,
		.labelled_tokens = counts->labelled_tokens,
		.truncated_rows = counts->truncated_rows,
		.skipped_rows = counts->skipped_rows,
		.longest_row = counts->longest_row};
	memcpy(h->magic, magic, sizeof magic);
	memcpy(h->key, key, HASH_SIZE);
	hash_final(&w->fingerprint, h->fingerprint);
	seal_header(h, h->seal);
	if (pwrite(w->file.fd, h, sizeof *h, 0) != (ssize_t)sizeof *h)
		return fault_errno(f, "%s", w->file.path);
	return 0;
}

int token_cache_commit(struct token_cache_writer *w, const struct dataset_counts *counts,
	const uint8_t content[static HASH_SIZE], uint64_t limit, struct token_cache *c, struct fault *f)
{
	uint8_t key[HASH_SIZE];
	struct header h;
	struct stat st;
	make_key(&w->settings, content, key);
	*c = (struct token_cache){.fd = -1};
	int rc = append_starts(w, counts->rows, f);
	if (rc == 0)
		rc = write_header(w, counts, key, &h, f);
	free(w->file.path);
	w->file.path = token_cache_path(w->folder, w->settings.digest, key);
	/* what was written here need not be verified: the descriptor is of the very file */
	if (rc == 0 && (c->fd = fcntl(w->file.fd, F_DUPFD_CLOEXEC, 0)) < 0)
		rc = fault_errno(f, "%s", w->file.path);
	if (rc == 0)
		rc = file_writer_commit(&w->file, f);
	if (rc == 0 && fstat(c->fd, &st) != 0)
		rc = fault_errno(f, "the token cache");
	if (rc == 0) {
		c->size = (size_t)st.st_size;
		c->written = time_written(&st);
		rc = map_file(c, &h, f);
	}
	if (rc == 0)
		token_cache_trim(w->folder, st.st_ino, limit);
	else
		token_cache_close(c);
	token_cache_abort(w);
	return rc;
}

void token_cache_abort(struct token_cache_writer *w)
{
	file_writer_abort(&w->file);
	if (w->starts >= 0)
		close(w->starts);
	w->starts = -1;
}
