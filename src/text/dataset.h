/* SPDX-License-Identifier: Apache-2.0 */
/* JSONL rows -> tokens with a label mask, held in memory or, a large file's, in a cache file that is mapped. After loading a dataset never
 * changes: any thread may read it.
 *
 *   {"text": ...}                              every token counts, EOS included
 *   {"prompt": ..., "completion": ...}         the completion and EOS count; both strings, or both lists of messages
 *   {"messages": [{"role", "content"}, ...]}   the assistant's turns count
 *   {"instruction", "input"?, "output", "system"?, "history"?}   (Alpaca) the output counts
 *   {"conversations": [{"from", "value"}, ...]}                  (ShareGPT) the assistant's turns count
 *   {"input_ids": [...], "labels"?}            tokens as they are; labels are -100 or the token; nothing is added
 *
 * An assistant's message may say "train": true or false, and then counts or not. Messages are written by the model's
 * chat template, which also sees their other keys (tool_calls, name, ...), and "tools", "documents" and what is in
 * "chat_template_kwargs" of the row. Other keys are ignored. Blank lines are skipped. Errors name file:line and never quote a row. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"
#include "text/chat.h"
#include "text/tokenizer.h"

struct dataset_options {
	size_t max_row_tokens;                                   /* 0: no limit */
	bool refuse_long_rows;                                   /* else they are cut at max_row_tokens and counted */
	size_t max_line_bytes;                                   /* 0: 8 MiB, which is also the most it may be */
	size_t vocabulary;                                       /* where there is no tokenizer: ids are below it */
	uint64_t max_rows;                                       /* stop after this many rows kept; 0: read all */
	void (*progress)(void *self, size_t done, size_t total); /* bytes of the file, now and then; may be NULL */
	void *progress_self;
	unsigned threads; /* that tokenize; 0: one a core. The rows do not depend on it */
	/* Folder in whose subfolder "tokens" the tokens of files from DATASET_CACHE_FROM bytes on are kept from run to run, unless max_rows is set:
	 * memory then does not grow with the file. What is kept is the training data; it is this user's alone (0600 in 0700). A
	 * folder that cannot be used costs a line in the log, and memory. NULL: everything is held in memory. */
	const char *cache;
	uint64_t cache_limit; /* bytes of all that is kept there, but for the file in use; 0: DATASET_CACHE_LIMIT */
};

/* Below it a file is tokenized in a moment. */
#define DATASET_CACHE_FROM ((uint64_t)4 << 20)
/* A gigabyte of text makes about a gigabyte of tokens: eight such data sets, or settings of one. */
#define DATASET_CACHE_LIMIT ((uint64_t)8 << 30)

struct dataset_counts {
	uint64_t rows;            /* kept */
	uint64_t tokens;          /* of the rows kept */
	uint64_t labelled_tokens; /* positions with a next token to learn */
	uint64_t truncated_rows;  /* kept, but cut */
	uint64_t skipped_rows;    /* not kept: nothing in them to learn */
	size_t longest_row;       /* tokens */
};

struct dataset;

/* Reads the file, in blocks of lines that several threads tokenize. `chat` may be NULL; then a row that needs a chat template is an error that
 * says so; without a tokenizer every row but those of tokens is. A
 * file without one row to learn from is an error. tokenizer and chat are not needed afterwards. */
int dataset_load(struct dataset **out, const char *path, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *options, struct fault *f);
/* The same from memory; `name` stands for the file in errors. */
int dataset_parse(struct dataset **out, const char *name, const void *data, size_t size, const struct tokenizer *t,
	const struct chat *chat, const struct dataset_options *options, struct fault *f);
/* `rows` rows of `tokens` random ids below `vocabulary`, of which every token is learned: what a bench trains on, without
 * a file or a tokenizer. The same seed gives the same rows. SAKIORI_EINVAL for sizes of which nothing can be learned. */
int dataset_random(
	struct dataset **out, uint64_t rows, size_t tokens, uint32_t vocabulary, uint64_t seed, struct fault *f);
void dataset_free(struct dataset *d);

const struct dataset_counts *dataset_counts(const struct dataset *d);

/* Before rows are read: SAKIORI_ECORRUPT when the cache file that the dataset is mapped from was cut short or written to since. Reading a
 * row that was cut off ends the process. Costs a system call; 0 at once for a dataset in memory. */
int dataset_check(const struct dataset *d, struct fault *f);

/* Tokens of row `row` < counts.rows. */
size_t dataset_row_size(const struct dataset *d, size_t row);
/* Copies a row out: ids (n) and, where labelled is not NULL, one flag a token: 1 where the token itself is learned. */
void dataset_row(const struct dataset *d, size_t row, uint32_t *ids, uint8_t *labelled);

/* Digest of the rows kept, in file order: ids and label mask. Two sites with equal digests hold equal training data; it
 * is for this site's own books (resume checks it) and is not sent to anybody. Of a mapped dataset it is known already. */
void dataset_fingerprint(const struct dataset *d, uint8_t out[static HASH_SIZE]);
