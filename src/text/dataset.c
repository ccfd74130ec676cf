/* SPDX-License-Identifier: Apache-2.0 */
#include "text/dataset.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "text/jsonl.h"
#include "text/row.h"

/* Ids are below VOCABULARY_LIMIT: the top bit is free to say that the token is learned. */
#define LABELLED (1u << 31)

struct dataset {
	uint32_t *tokens; /* all rows, one after the other */
	size_t token_count, token_capacity;
	size_t *starts; /* (rows + 1) */
	size_t row_capacity;
	struct dataset_counts counts;
};

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

/* Keeps the first n tokens of the list as a row, unless there is nothing in them to learn: the first token has none
 * before it that could predict it. */
static int add_row(struct dataset *d, const struct labelled_tokens *list, size_t n, bool truncated, struct fault *f)
{
	size_t labelled = 0, rows = d->counts.rows;
	for (size_t i = 1; i < n; i++)
		labelled += list->labelled[i];
	if (labelled == 0) {
		d->counts.skipped_rows++;
		return 0;
	}
	void *tokens = d->tokens, *starts = d->starts;
	bool fits =
		rows < UINT32_MAX - 1 && reserve(&tokens, &d->token_capacity, d->token_count + n, sizeof *d->tokens);
	d->tokens = tokens;
	fits = fits && reserve(&starts, &d->row_capacity, rows + 2, sizeof *d->starts);
	d->starts = starts;
	if (!fits)
		return fault_set(
			f, SAKIORI_ENOMEM, "out of memory after %zu rows and %zu tokens", rows, d->token_count);
	for (size_t i = 0; i < n; i++)
		d->tokens[d->token_count + i] = (uint32_t)list->tokens.ids[i] | (list->labelled[i] ? LABELLED : 0);
	d->starts[rows] = d->token_count;
	d->token_count += n;
	d->starts[rows + 1] = d->token_count;
	d->counts.rows++;
	d->counts.tokens += n;
	d->counts.labelled_tokens += labelled;
	d->counts.truncated_rows += truncated;
	if (n > d->counts.longest_row)
		d->counts.longest_row = n;
	return 0;
}

static int read_rows(struct dataset *d, struct jsonl *j, const struct row_encoder *e, const struct dataset_options *o,
	struct labelled_tokens *list, struct fault *f)
{
	/* a report now and then, whatever the lines' length */
	const uint64_t report_bytes = 1 << 20;
	uint64_t reported = 0;
	json_t *row;
	int rc;
	while ((o->max_rows == 0 || d->counts.rows < o->max_rows) && (rc = jsonl_next(j, &row, f)) != 0) {
		if (rc < 0)
			return rc;
		labelled_tokens_clear(list);
		rc = row_encode(e, row, list, f);
		json_decref(row);
		size_t n = list->tokens.count;
		bool truncated = o->max_row_tokens > 0 && n > o->max_row_tokens;
		if (rc == 0 && truncated && o->refuse_long_rows)
			rc = fault_set(f, SAKIORI_ELIMIT, "expected at most %zu tokens a row, found %zu",
				o->max_row_tokens, n);
		if (rc == 0)
			rc = add_row(d, list, truncated ? o->max_row_tokens : n, truncated, f);
		if (rc != 0) {
			fault_wrap(f, "%s:%zu", j->name, j->line_number);
			return rc;
		}
		if (o->progress != NULL && j->done - reported >= report_bytes) {
			reported = j->done;
			o->progress(o->progress_self, j->done, j->total);
		}
	}
	if (o->progress != NULL)
		o->progress(o->progress_self, j->total, j->total);
	if (d->counts.rows == 0)
		return fault_set(f, SAKIORI_EFORMAT,
			"%s: expected at least one row with a token to learn, found none (%llu skipped)", j->name,
			(unsigned long long)d->counts.skipped_rows);
	return 0;
}

static int load(struct dataset **out, struct jsonl *j, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *options, struct fault *f)
{
	struct dataset *d = must_calloc(1, sizeof *d);
	struct labelled_tokens list = {0};
	struct row_encoder e = {
		.tokenizer = t,
		.chat = chat,
		.scratch = t != NULL ? tokenizer_scratch_new(t) : NULL,
		.vocabulary = t != NULL ? tokenizer_size(t) : options->vocabulary,
	};
	int rc = read_rows(d, j, &e, options, &list, f);
	labelled_tokens_fini(&list);
	tokenizer_scratch_free(e.scratch);
	if (rc != 0) {
		dataset_free(d);
		return rc;
	}
	*out = d;
	return 0;
}

int dataset_load(struct dataset **out, const char *path, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *options, struct fault *f)
{
	*out = NULL;
	struct jsonl j;
	int rc = jsonl_open(&j, path, options->max_line_bytes, f);
	if (rc == 0)
		rc = load(out, &j, t, chat, options, f);
	jsonl_close(&j);
	return rc;
}

int dataset_parse(struct dataset **out, const char *name, const void *data, size_t size, const struct tokenizer *t,
	const struct chat *chat, const struct dataset_options *options, struct fault *f)
{
	*out = NULL;
	struct jsonl j;
	int rc = jsonl_open_memory(&j, name, data, size, options->max_line_bytes, f);
	if (rc == 0)
		rc = load(out, &j, t, chat, options, f);
	jsonl_close(&j);
	return rc;
}

int dataset_random(
	struct dataset **out, uint64_t rows, size_t tokens, uint32_t vocabulary, uint64_t seed, struct fault *f)
{
	*out = NULL;
	if (rows < 1 || tokens < 2 || vocabulary < 1)
		return fault_set(f, SAKIORI_EINVAL, "%llu random rows of %zu tokens: expected at least 1 row of 2",
			(unsigned long long)rows, tokens);
	struct dataset *d = must_calloc(1, sizeof *d);
	struct labelled_tokens list = {0};
	int rc = 0;
	for (uint64_t row = 0; row < rows && rc == 0; row++) {
		struct rng r;
		rng_init(&r, seed, row);
		labelled_tokens_clear(&list);
		for (size_t i = 0; i < tokens; i++)
			token_list_add(&list.tokens, (int32_t)rng_below(&r, vocabulary));
		labelled_tokens_mark(&list, true);
		rc = add_row(d, &list, tokens, false, f);
	}
	labelled_tokens_fini(&list);
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
	free(d->tokens);
	free(d->starts);
	free(d);
}

const struct dataset_counts *dataset_counts(const struct dataset *d)
{
	return &d->counts;
}

size_t dataset_row_size(const struct dataset *d, size_t row)
{
	return d->starts[row + 1] - d->starts[row];
}

void dataset_row(const struct dataset *d, size_t row, uint32_t *ids, uint8_t *labelled)
{
	const uint32_t *tokens = d->tokens + d->starts[row];
	size_t n = dataset_row_size(d, row);
	for (size_t i = 0; i < n; i++) {
		ids[i] = tokens[i] & ~LABELLED;
		if (labelled != NULL)
			labelled[i] = (tokens[i] & LABELLED) != 0;
	}
}

void dataset_fingerprint(const struct dataset *d, uint8_t out[static HASH_SIZE])
{
	struct hash h;
	hash_init(&h, "sakiori-dataset");
	for (size_t row = 0; row < d->counts.rows; row++) {
		uint64_t n = dataset_row_size(d, row);
		hash_update(&h, &n, sizeof n);
		hash_update(&h, d->tokens + d->starts[row], n * sizeof *d->tokens);
	}
	hash_final(&h, out);
}
