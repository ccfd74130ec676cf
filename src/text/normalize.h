/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer's normalizers: what it makes of a text before it is cut. The door to utf8proc, whose 2.8 (Debian 12) knows
 * Unicode 15. Hugging Face's tokenizers decompose and compose by Unicode 9, which normalize.c makes good; their lower
 * case is of Unicode 17, which differs for letters that are newer than utf8proc.
 *
 * The steps never change once they are added, so threads may share them; a normalize_scratch belongs to one thread. */
#pragma once
#include "base/bytes.h"
#include "base/err.h"
#include "text/regex.h"
#include "text/tokenizer.h"

/* Most steps, here and of what cuts. */
#define PIPELINE_STEPS 32
/* The most that a text may become, in bytes: NFKD makes eleven of one at the worst, and a prefix is short. */
#define NORMALIZED_MAX_TEXT (4 * TOKENIZER_MAX_TEXT)
size_t normalized_limit(size_t size);

enum normalizer_kind {
	NORMALIZE_NFC,
	NORMALIZE_NFD,
	NORMALIZE_NFKC,
	NORMALIZE_NFKD,
	NORMALIZE_LOWERCASE,
	NORMALIZE_STRIP,   /* white space at the ends that `left` and `right` name */
	NORMALIZE_PREPEND, /* content, before a text that is not empty */
	NORMALIZE_REPLACE, /* every match of pattern by content */
};

struct normalizer {
	enum normalizer_kind kind;
	bool left, right;
	struct regex *pattern;
	char *content;
	size_t content_size;
};

struct normalizers {
	struct normalizer steps[PIPELINE_STEPS];
	size_t count;
};

/* Appends a step, copying content. pattern is taken, even on failure; SAKIORI_ELIMIT for too many steps. */
int normalizers_add(struct normalizers *n, enum normalizer_kind kind, struct regex *pattern, const char *content,
	size_t content_size, struct fault *f);
int normalizers_add_strip(struct normalizers *n, bool left, bool right, struct fault *f);
void normalizers_fini(struct normalizers *n);

struct normalize_scratch;
struct normalize_scratch *normalize_scratch_new(void);
void normalize_scratch_free(struct normalize_scratch *s);

/* Turns *text, which is valid UTF-8, into what it becomes: itself, or bytes in the scratch that live until its next use.
 * SAKIORI_ELIMIT for more than normalized_limit or a pattern that gives up. */
int normalize(const struct normalizers *n, struct normalize_scratch *s, struct regex_scratch *regex,
	struct text_span *text, struct fault *f);
/* Appends `text` with every match replaced; at most `limit` bytes. */
int normalize_replace(struct writer *out, const struct normalizer *step, struct regex_scratch *regex,
	struct text_span text, size_t limit, struct fault *f);
