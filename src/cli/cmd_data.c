/* SPDX-License-Identifier: Apache-2.0 */
/* `sakiori data`: what training makes of a file of rows, before any training: each token with its label, or figures over all. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cli/cli.h"
#include "cli/engine.h"
#include "text/chat.h"
#include "text/dataset.h"
#include "text/tokenizer.h"

struct data_options {
	const char *model, *data;
	uint64_t first, rows, seq, threads;
	bool no_token_cache, json;
};

/* The rows, and what is needed to show them. */
struct data {
	struct tokenizer *tokenizer;
	struct chat *chat; /* one that refuses, where the model has no template that works */
	struct dataset *rows;
};

static void on_progress(void *self, size_t done, size_t total)
{
	(void)self;
	cli_progress("reading rows %3.0f%%", total > 0 ? 100 * (double)done / (double)total : 100.0);
}

static int open_data(struct data *d, const struct data_options *o, uint64_t most, struct fault *f)
{
	int rc = tokenizer_of_path(&d->tokenizer, o->model, f);
	if (rc != 0)
		return rc;
	/* as training: without a template only rows that need one are refused */
	struct fault why = {0};
	if (chat_new(&d->chat, d->tokenizer, &why) != 0)
		d->chat = chat_refusing(&why);
	struct dataset_options options = {.max_row_tokens = (size_t)o->seq,
		.max_rows = most,
		.progress = on_progress,
		.threads = (unsigned)o->threads,
		.cache = o->no_token_cache ? NULL : engine_cache()};
	rc = dataset_load(&d->rows, o->data, d->tokenizer, d->chat, &options, f);
	cli_progress_end();
	return rc;
}

static void close_data(struct data *d)
{
	dataset_free(d->rows);
	chat_free(d->chat);
	tokenizer_free(d->tokenizer);
}

/* ---- inspect ---- */

/* The token as text: what is no whole character alone becomes U+FFFD. */
static json_t *token_text(const struct data *d, uint32_t id)
{
	char *text;
	size_t size;
	int32_t one = (int32_t)id;
	if (tokenizer_decode(d->tokenizer, &one, 1, TOKENIZER_SPECIAL | TOKENIZER_REPLACE, &text, &size, NULL) != 0)
		return json_string("");
	json_t *string = json_stringn(text, size);
	free(text);
	return string != NULL ? string : json_string("");
}

static void print_row(const struct data *d, size_t row, const uint32_t *ids, const uint8_t *labelled, size_t n)
{
	size_t learned = 0;
	for (size_t i = 0; i < n; i++)
		learned += labelled[i];
	printf("row %zu: %zu tokens, %zu of them learned (+)\n", row + 1, n, learned);
	for (size_t i = 0; i < n; i++) {
		json_t *text = token_text(d, ids[i]);
		char *quoted = json_dumps(text, JSON_ENCODE_ANY);
		printf("%c %6" PRIu32 "  %s\n", labelled[i] ? '+' : ' ', ids[i], quoted);
		free(quoted);
		json_decref(text);
	}
}

static void print_row_json(const struct data *d, size_t row, const uint32_t *ids, const uint8_t *labelled, size_t n)
{
	json_t *numbers = json_array(), *labels = json_array(), *texts = json_array();
	for (size_t i = 0; i < n; i++) {
		json_array_append_new(numbers, json_integer(ids[i]));
		json_array_append_new(labels, json_integer(labelled[i] ? (json_int_t)ids[i] : -100));
		json_array_append_new(texts, token_text(d, ids[i]));
	}
	cli_print_json(json_pack("{s:s, s:I, s:o, s:o, s:o}", "event", "row", "row", (json_int_t)row + 1, "input_ids",
		numbers, "labels", labels, "tokens", texts));
}

static int inspect(const struct data_options *o, struct fault *f)
{
	struct data d = {0};
	int rc = open_data(&d, o, o->first + o->rows - 1, f);
	if (rc == 0 && dataset_counts(d.rows)->rows < o->first)
		rc = fault_set(f, SAKIORI_EINVAL,
			"%s has %" PRIu64 " rows to learn from; --first %" PRIu64 " is beyond", o->data,
			dataset_counts(d.rows)->rows, o->first);
	for (size_t row = (size_t)o->first - 1; rc == 0 && row < dataset_counts(d.rows)->rows; row++) {
		size_t n = dataset_row_size(d.rows, row);
		uint32_t *ids = must_alloc(n * sizeof *ids);
		uint8_t *labelled = must_alloc(n);
		dataset_row(d.rows, row, ids, labelled);
		(o->json ? print_row_json : print_row)(&d, row, ids, labelled, n);
		free(ids);
		free(labelled);
	}
	close_data(&d);
	return rc;
}

/* ---- stats ---- */

static int by_hash(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static uint64_t hash_row(const uint32_t *ids, const uint8_t *labelled, size_t n)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (size_t i = 0; i < n; i++) {
		h = (h ^ (2 * (uint64_t)ids[i] + labelled[i])) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	return h;
}

/* Hashes, each once. */
struct hash_set {
	uint64_t *hashes;
	size_t count, capacity;
	uint64_t duplicates; /* that came and went */
};

static void forget_duplicates(struct hash_set *s)
{
	size_t kept = 0;
	if (s->count > 0)
		qsort(s->hashes, s->count, sizeof *s->hashes, by_hash);
	for (size_t i = 0; i < s->count; i++)
		if (kept == 0 || s->hashes[i] != s->hashes[kept - 1])
			s->hashes[kept++] = s->hashes[i];
	s->duplicates += s->count - kept;
	s->count = kept;
}

static void add_hash(struct hash_set *s, uint64_t hash)
{
	if (s->count == s->capacity)
		forget_duplicates(s);
	if (2 * s->count >= s->capacity) {
		s->capacity = 2 * s->capacity + 1024;
		s->hashes = must_realloc(s->hashes, s->capacity * sizeof *s->hashes);
	}
	s->hashes[s->count++] = hash;
}

/* So many rows are compared at a time, so that memory does not grow with them. */
enum { ROWS_COMPARED = 4 << 20 };

/* Rows that are the same as an earlier one, tokens and labels; of_size[n] becomes the number of rows of n tokens. */
static uint64_t measure_rows(const struct dataset *d, uint64_t *of_size)
{
	const struct dataset_counts *c = dataset_counts(d);
	uint64_t parts = c->rows / ROWS_COMPARED + 1;
	uint32_t *ids = must_alloc(c->longest_row * sizeof *ids);
	uint8_t *labelled = must_alloc(c->longest_row);
	struct hash_set set = {0};
	for (uint64_t part = 0; part < parts; part++) {
		for (size_t row = 0; row < c->rows; row++) {
			size_t n = dataset_row_size(d, row);
			dataset_row(d, row, ids, labelled);
			uint64_t hash = hash_row(ids, labelled, n);
			of_size[n] += part == 0;
			if ((hash >> 32) * parts >> 32 == part)
				add_hash(&set, hash);
		}
		forget_duplicates(&set);
		set.count = 0;
	}
	free(set.hashes);
	free(ids);
	free(labelled);
	return set.duplicates;
}

/* The size that `share` of the rows do not exceed, share 0 the shortest. */
static uint64_t quantile(const uint64_t *of_size, uint64_t rows, double share)
{
	uint64_t wanted = (uint64_t)ceil(share * (double)rows), seen = 0;
	for (uint64_t size = 0;; size++)
		if ((seen += of_size[size]) >= (wanted > 0 ? wanted : 1))
			return size;
}

static int stats(const struct data_options *o, struct fault *f)
{
	struct data d = {0};
	int rc = open_data(&d, o, 0, f);
	if (rc != 0) {
		close_data(&d);
		return rc;
	}
	const struct dataset_counts *c = dataset_counts(d.rows);
	uint64_t *of_size = must_calloc(c->longest_row + 1, sizeof *of_size);
	uint64_t duplicates = measure_rows(d.rows, of_size);
	uint64_t shortest = quantile(of_size, c->rows, 0), median = quantile(of_size, c->rows, 0.5),
		 p90 = quantile(of_size, c->rows, 0.9), p99 = quantile(of_size, c->rows, 0.99);
	free(of_size);
	double share = (double)c->labelled_tokens / (double)c->tokens;
	if (o->json)
		cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "event",
			"stats", "rows", (json_int_t)c->rows, "tokens", (json_int_t)c->tokens, "learned_tokens",
			(json_int_t)c->labelled_tokens, "learned_share", share, "shortest", (json_int_t)shortest,
			"median", (json_int_t)median, "p90", (json_int_t)p90, "p99", (json_int_t)p99, "longest",
			(json_int_t)c->longest_row, "truncated_rows", (json_int_t)c->truncated_rows, "skipped_rows",
			(json_int_t)c->skipped_rows, "duplicate_rows", (json_int_t)duplicates));
	else
		printf("%" PRIu64 " rows, %" PRIu64 " tokens, %" PRIu64 " of them learned (%.1f %%)\n"
		       "tokens a row: shortest %" PRIu64 ", half at most %" PRIu64 ", 90 %% at most %" PRIu64
		       ", 99 %% at most %" PRIu64 ", longest %zu\n"
		       "%" PRIu64 " cut at --seq, %" PRIu64 " skipped with nothing to learn, %" PRIu64
		       " the same as an earlier one\n",
			c->rows, c->tokens, c->labelled_tokens, 100 * share, shortest, median, p90, p99, c->longest_row,
			c->truncated_rows, c->skipped_rows, duplicates);
	close_data(&d);
	return 0;
}

/* ---- the command ---- */

int cmd_data(int argc, char **argv)
{
	struct data_options o = {.first = 1, .rows = 3, .seq = 512};
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o.model, "FILE", "GGUF model whose tokenizer and chat template are used"},
		{"data", CLI_TEXT, &o.data, "FILE", "JSON Lines of rows, as for training"},
		{"seq", CLI_COUNT, &o.seq, "N", "tokens a row at most; longer ones are cut (512; 0: no limit)"},
		{"first", CLI_COUNT, &o.first, "N", "inspect: the first row shown (1)"},
		{"rows", CLI_COUNT, &o.rows, "N", "inspect: rows shown (3)"},
		{"threads", CLI_COUNT, &o.threads, "N", "that tokenize; default: one a core"},
		{"no-token-cache", CLI_FLAG, &o.no_token_cache, NULL,
			"keep no tokens of large data on disk, hold them in memory"},
		{"json", CLI_FLAG, &o.json, NULL, "one object a row (input_ids, labels, tokens), or one of figures"},
		{0},
	};
	int words = 0;
	int code = cli_parse(argc, argv, "inspect|stats --model FILE --data FILE [OPTION]...", table, 1, &words);
	if (code != CLI_CONTINUE)
		return code;
	bool shows = words == 1 && strcmp(argv[1], "inspect") == 0;
	if (words != 1 || (!shows && strcmp(argv[1], "stats") != 0))
		return cli_usage(argv[0], "expected inspect or stats, found %.40s", words == 1 ? argv[1] : "neither");
	if (o.model == NULL || o.data == NULL)
		return cli_usage(argv[0], "%s is missing", o.model == NULL ? "--model" : "--data");
	if (o.first == 0 || o.rows == 0 || o.first > UINT32_MAX || o.rows > UINT32_MAX || o.seq > UINT32_MAX ||
		o.threads > UINT32_MAX)
		return cli_usage(
			argv[0], "--first and --rows count from 1, and no number is above %" PRIu32, UINT32_MAX);
	struct fault f = {0};
	return (shows ? inspect : stats)(&o, &f) != 0 ? cli_fail(&f) : EXIT_CODE_OK;
}
