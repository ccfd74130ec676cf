/* SPDX-License-Identifier: Apache-2.0 */
#include "text/dataset.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/rng.h"
#include "text/jsonl.h"
#include "text/rows.h"
#include "text/token_cache.h"

struct dataset {
	const uint32_t *tokens; /* all rows, one after the other; ROWS_LABELLED where learned */
	const uint64_t *starts; /* (rows + 1) */
	struct dataset_counts counts;
	uint32_t *token_memory; /* where they are held in memory, these are they */
	uint64_t *start_memory;
	size_t token_capacity, row_capacity;
	struct token_cache cache; /* else this is open */
	atomic_size_t touched;    /* bytes of the mapping that may have become resident */
};

/* So much of the mapping stays resident; the rest is the kernel's cache of the file, which costs nobody memory. */
enum { RESIDENT_BYTES = 32 << 20, FAULT_BYTES = 64 << 10 };

static struct dataset *new_dataset(void)
{
	struct dataset *d = must_calloc(1, sizeof *d);
	d->cache.fd = -1;
	return d;
}

/* Doubles *array until it holds `needed` items. */
static bool reserve(void **array, size_t *capacity, size_t needed, size_t each)
{
	size_t wanted = *capacity == 0 ? 1024 : *capacity, bytes;
	while (wanted < needed)
		if (!size_mul(wanted, 2, &wanted))
			return false;
	if (wanted == *capacity)
		return true;
	void *bigger = size_mul(wanted, each, &bytes) ? realloc(*array, bytes) : NULL;
	if (bigger == NULL)
		return false;
	*array = bigger;
	*capacity = wanted;
	return true;
}

/* Appends rows in memory; `sizes` are theirs. */
static int keep_rows(struct dataset *d, const uint32_t *tokens, const uint32_t *sizes, size_t rows, struct fault *f)
{
	void *token_memory = d->token_memory, *start_memory = d->start_memory;
	size_t at = d->start_memory != NULL ? d->start_memory[d->counts.rows] : 0, n = 0;
	for (size_t i = 0; i < rows; i++)
		n += sizes[i];
	bool fits = reserve(&token_memory, &d->token_capacity, at + n, sizeof *d->token_memory);
	d->tokens = d->token_memory = token_memory;
	fits = fits && reserve(&start_memory, &d->row_capacity, d->counts.rows + rows + 1, sizeof *d->start_memory);
	d->starts = d->start_memory = start_memory;
	if (!fits)
		return fault_set(f, SAKIORI_ENOMEM, "out of memory after %llu rows and %zu tokens",
			(unsigned long long)d->counts.rows, at);
	if (n > 0)
		memcpy(d->token_memory + at, tokens, n * sizeof *tokens);
	d->start_memory[d->counts.rows] = at;
	for (size_t i = 0; i < rows; i++)
		d->start_memory[d->counts.rows + i + 1] = at += sizes[i];
	return 0;
}

/* Where the rows of a file go. */
struct target {
	struct dataset *d;
	const struct dataset_options *options;
	const char *name;
	uint64_t total, reported;         /* bytes */
	struct token_cache_writer *cache; /* NULL: into memory */
	uint32_t *sizes;                  /* of the block's rows that are kept */
	size_t size_capacity;
};

static void count_row(struct dataset_counts *c, const struct rows_row *row)
{
	if (row->learned == 0) {
		c->skipped_rows++;
		return;
	}
	c->rows++;
	c->tokens += row->size;
	c->labelled_tokens += row->learned;
	c->truncated_rows += row->truncated;
	if (row->size > c->longest_row)
		c->longest_row = row->size;
}

static bool is_full(const struct target *t, const struct dataset_counts *c)
{
	return t->options->max_rows > 0 && c->rows == t->options->max_rows;
}

static void report(struct target *t, uint64_t done)
{
	/* a report now and then, whatever the lines' length */
	const uint64_t report_bytes = 1 << 20;
	if (t->options->progress == NULL || (done - t->reported < report_bytes && done != t->total))
		return;
	t->reported = done;
	t->options->progress(t->options->progress_self, done, t->total);
}

static int take_block(void *self, const struct rows_block *block, struct fault *f)
{
	struct target *t = self;
	struct dataset_counts counts = t->d->counts;
	size_t rows = 0;
	if (t->size_capacity < block->count) {
		t->size_capacity = block->count;
		t->sizes = must_realloc(t->sizes, t->size_capacity * sizeof *t->sizes);
	}
	for (size_t i = 0; i < block->count && !is_full(t, &counts); i++) {
		count_row(&counts, &block->rows[i]);
		if (block->rows[i].learned > 0)
			t->sizes[rows++] = block->rows[i].size;
	}
	if (counts.rows >= UINT32_MAX)
		return fault_set(f, SAKIORI_ELIMIT, "%s: more rows than %u", t->name, UINT32_MAX - 1);
	int rc = t->cache != NULL ? token_cache_write(t->cache, block->tokens, t->sizes, rows, f)
				  : keep_rows(t->d, block->tokens, t->sizes, rows, f);
	if (rc != 0)
		return rc;
	t->d->counts = counts;
	report(t, block->done);
	return is_full(t, &counts);
}

static int read_all(struct dataset *d, struct jsonl *j, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *o, struct token_cache_writer *cache, struct fault *f)
{
	struct target target = {.d = d, .options = o, .name = j->name, .total = j->total, .cache = cache};
	d->counts = (struct dataset_counts){0};
	int rc = rows_read(j, t, chat, o, take_block, &target, f);
	free(target.sizes);
	if (rc == 0 && target.reported != j->total)
		report(&target, j->total);
	if (rc == 0 && d->counts.rows == 0)
		rc = fault_set(f, SAKIORI_EFORMAT,
			"%s: expected at least one row with a token to learn, found none (%llu skipped)", j->name,
			(unsigned long long)d->counts.skipped_rows);
	return rc;
}

/* ---- through the cache ---- */

/* Raise it whenever the same rows, tokenizer and template come to give other tokens. */
enum { TOKENS_VERSION = 1 };

static struct token_cache_settings cache_settings(
	const struct jsonl *j, const struct tokenizer *t, const struct chat *chat, const struct dataset_options *o)
{
	struct token_cache_settings s = {.vocabulary = tokenizer_size(t)};
	uint8_t identity[HASH_SIZE];
	const uint64_t numbers[] = {
		TOKENS_VERSION, j->total, chat != NULL, o->max_row_tokens, o->refuse_long_rows, j->max_line};
	struct hash h;
	hash_init(&h, "sakiori-tok-set");
	hash_update(&h, numbers, sizeof numbers);
	tokenizer_identity(t, identity);
	hash_update(&h, identity, sizeof identity);
	if (chat != NULL) {
		chat_identity(chat, identity);
		hash_update(&h, identity, sizeof identity);
	}
	hash_final(&h, s.digest);
	return s;
}

/* Tokenizes into a cache file; *unusable: it failed because there cannot be one. */
static int make_cache(struct dataset *d, struct jsonl *j, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *o, const char *folder, const struct token_cache_settings *settings,
	bool *unusable, struct fault *f)
{
	struct token_cache_writer w;
	struct hash content;
	uint8_t digest[HASH_SIZE];
	*unusable = true;
	int rc = token_cache_begin(&w, folder, settings, f);
	if (rc != 0)
		return rc;
	hash_init(&content, "sakiori-rows");
	j->hash = &content;
	rc = read_all(d, j, t, chat, o, &w, f);
	j->hash = NULL;
	if (rc != 0) {
		*unusable = w.failed;
		token_cache_abort(&w);
		return rc;
	}
	hash_final(&content, digest);
	uint64_t limit = o->cache_limit > 0 ? o->cache_limit : DATASET_CACHE_LIMIT;
	return token_cache_commit(&w, &d->counts, digest, limit, &d->cache, f);
}

/* From the cache, or into it: 1, 0 where it cannot be used, or an error of the rows. */
static int load_cached(struct dataset *d, struct jsonl *j, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *o, struct fault *f)
{
	struct token_cache_settings settings = cache_settings(j, t, chat, o);
	struct fault why = {0};
	bool unusable = false;
	size_t size = strlen(o->cache) + sizeof "/tokens";
	char *folder = must_alloc(size);
	snprintf(folder, size, "%s/tokens", o->cache);
	int rc = token_cache_find(&d->cache, folder, &settings, j->fd, j->name, &why);
	if (rc == 0) {
		rc = make_cache(d, j, t, chat, o, folder, &settings, &unusable, &why);
		rc = rc == 0 ? 1 : rc;
	}
	free(folder);
	if (rc < 0 && unusable) {
		log_warn("token_cache_unusable", "why=\"%s\"", why.text);
		return 0;
	}
	if (rc < 0)
		return fault_set(f, rc, "%s", why.text);
	d->counts = d->cache.counts;
	d->tokens = d->cache.tokens;
	d->starts = d->cache.starts;
	return 1;
}

int dataset_load(struct dataset **out, const char *path, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *options, struct fault *f)
{
	*out = NULL;
	struct dataset *d = new_dataset();
	struct jsonl j;
	int rc = jsonl_open(&j, path, options->max_line_bytes, f), cached = 0;
	if (rc == 0 && t != NULL && options->cache != NULL && options->max_rows == 0 && j.total >= DATASET_CACHE_FROM) {
		cached = load_cached(d, &j, t, chat, options, f);
		jsonl_close(&j);
		/* from the beginning once more, into memory */
		rc = cached < 0 ? cached : jsonl_open(&j, path, options->max_line_bytes, f);
	}
	if (rc == 0 && cached == 0)
		rc = read_all(d, &j, t, chat, options, NULL, f);
	jsonl_close(&j);
	if (rc == 0)
		*out = d;
	else
		dataset_free(d);
	return rc;
}

int dataset_parse(struct dataset **out, const char *name, const void *data, size_t size, const struct tokenizer *t,
	const struct chat *chat, const struct dataset_options *options, struct fault *f)
{
	*out = NULL;
	struct dataset *d = new_dataset();
	struct jsonl j;
	int rc = jsonl_open_memory(&j, name, data, size, options->max_line_bytes, f);
	if (rc == 0)
		rc = read_all(d, &j, t, chat, options, NULL, f);
	jsonl_close(&j);
	if (rc == 0)
		*out = d;
	else
		dataset_free(d);
	return rc;
}

int dataset_random(
	struct dataset **out, uint64_t rows, size_t tokens, uint32_t vocabulary, uint64_t seed, struct fault *f)
{
	*out = NULL;
	if (rows < 1 || tokens < 2 || vocabulary < 1)
		return fault_set(f, SAKIORI_EINVAL, "%llu random rows of %zu tokens: expected at least 1 row of 2",
			(unsigned long long)rows, tokens);
	struct dataset *d = new_dataset();
	uint32_t *row = must_calloc(tokens, sizeof *row), size = (uint32_t)tokens;
	int rc = 0;
	for (uint64_t i = 0; i < rows && rc == 0; i++) {
		struct rng r;
		rng_init(&r, seed, i);
		for (size_t k = 0; k < tokens; k++)
			row[k] = (uint32_t)rng_below(&r, vocabulary) | ROWS_LABELLED;
		rc = keep_rows(d, row, &size, 1, f);
		if (rc == 0)
			count_row(&d->counts, &(struct rows_row){size, size - 1, false});
	}
	free(row);
	if (rc != 0) {
		dataset_free(d);
		return rc;
	}
	*out = d;
	return 0;
}

void dataset_free(struct dataset *d)
{
	if (d == NULL)
		return;
	token_cache_close(&d->cache);
	free(d->token_memory);
	free(d->start_memory);
	free(d);
}

const struct dataset_counts *dataset_counts(const struct dataset *d)
{
	return &d->counts;
}

int dataset_check(const struct dataset *d, struct fault *f)
{
	return d->cache.map != NULL ? token_cache_check(&d->cache, f) : 0;
}

size_t dataset_row_size(const struct dataset *d, size_t row)
{
	return (size_t)(d->starts[row + 1] - d->starts[row]);
}

/* Lets go of the mapping's pages now and then; they come back from the kernel's cache when they are read again. */
static void count_touched(const struct dataset *d, size_t bytes)
{
	atomic_size_t *touched = &((struct dataset *)(uintptr_t)d)->touched;
	if (atomic_fetch_add_explicit(touched, bytes + FAULT_BYTES, memory_order_relaxed) < RESIDENT_BYTES)
		return;
	atomic_store_explicit(touched, 0, memory_order_relaxed);
	madvise(d->cache.map, d->cache.size, MADV_DONTNEED);
}

void dataset_row(const struct dataset *d, size_t row, uint32_t *ids, uint8_t *labelled)
{
	const uint32_t *tokens = d->tokens + d->starts[row];
	size_t n = dataset_row_size(d, row);
	if (d->cache.map != NULL)
		count_touched(d, n * sizeof *tokens);
	for (size_t i = 0; i < n; i++) {
		ids[i] = tokens[i] & ~ROWS_LABELLED;
		if (labelled != NULL)
			labelled[i] = (tokens[i] & ROWS_LABELLED) != 0;
	}
}

void dataset_fingerprint(const struct dataset *d, uint8_t out[static HASH_SIZE])
{
	if (d->cache.map != NULL) {
		memcpy(out, d->cache.fingerprint, HASH_SIZE);
		return;
	}
	struct hash h;
	hash_init(&h, "sakiori-dataset");
	for (size_t row = 0; row < d->counts.rows; row++) {
		uint64_t n = dataset_row_size(d, row);
		hash_update(&h, &n, sizeof n);
		hash_update(&h, d->tokens + d->starts[row], n * sizeof *d->tokens);
	}
	hash_final(&h, out);
}
