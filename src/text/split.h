/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer's pre-tokenizer: how a normalized text is cut into the words that are merged each by itself. Each step
 * cuts what the one before it left.
 *
 * The steps never change once they are added, so threads may share them; a split_scratch belongs to one thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "text/normalize.h"

/* What becomes of the stretches that a pattern matches, by Hugging Face's names. */
enum split_behavior {
	SPLIT_ISOLATED,
	SPLIT_REMOVED,
	SPLIT_MERGED_WITH_PREVIOUS,
	SPLIT_MERGED_WITH_NEXT,
	SPLIT_CONTIGUOUS,
};

enum split_kind {
	SPLIT_PATTERN,      /* cut at the matches of a pattern */
	SPLIT_REPLACE,      /* every match of a pattern by a text */
	SPLIT_PREFIX,       /* a text before every piece that does not begin with it */
	SPLIT_PREFIX_FIRST, /* the same, before the piece that begins the whole text alone */
};

struct split {
	enum split_kind kind;
	enum split_behavior behavior;
	bool invert;              /* the matches are what lies between the pattern's */
	struct normalizer change; /* its pattern; what SPLIT_REPLACE and SPLIT_PREFIX put in as content */
};

struct splits {
	struct split steps[PIPELINE_STEPS];
	size_t count;
};

/* Append a step. pattern is taken, even on failure; SAKIORI_ELIMIT for too many steps. */
int splits_add_pattern(
	struct splits *s, struct regex *pattern, enum split_behavior behavior, bool invert, struct fault *f);
int splits_add_replace(struct splits *s, struct regex *pattern, const char *content, struct fault *f);
int splits_add_prefix(struct splits *s, bool first, const char *content, struct fault *f);
void splits_fini(struct splits *s);

struct split_scratch;
struct split_scratch *split_scratch_new(void);
void split_scratch_free(struct split_scratch *s);

/* Called with each word, which is not empty and lives until the call returns; a failure ends the cutting. */
typedef int split_word(void *context, const char *word, size_t size, struct fault *f);
/* Cuts a text of valid UTF-8. `first`: nothing stands before it. */
int split_words(const struct splits *s, struct split_scratch *scratch, struct regex_scratch *regex,
	struct text_span text, bool first, split_word *on_word, void *context, struct fault *f);
