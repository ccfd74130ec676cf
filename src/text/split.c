/* SPDX-License-Identifier: Apache-2.0 */
#include "text/split.h"

#include <stdlib.h>
#include <string.h>

struct split_scratch {
	struct writer texts[PIPELINE_STEPS]; /* of the steps that change the text */
};

/* One call of split_words. */
struct cut {
	const struct splits *splits;
	struct split_scratch *scratch;
	struct regex_scratch *regex;
	split_word *on_word;
	void *context;
	struct fault *f;
};

static struct split *add(struct splits *s, struct split step, const char *content, struct fault *f)
{
	if (s->count == PIPELINE_STEPS) {
		regex_free(step.change.pattern);
		fault_set(f, SAKIORI_ELIMIT, "more than %d steps of a pre-tokenizer", PIPELINE_STEPS);
		return NULL;
	}
	step.change.content = must_strdup(content);
	step.change.content_size = strlen(content);
	s->steps[s->count] = step;
	return &s->steps[s->count++];
}

int splits_add_pattern(
	struct splits *s, struct regex *pattern, enum split_behavior behavior, bool invert, struct fault *f)
{
	const struct split step = {SPLIT_PATTERN, behavior, invert, {.kind = NORMALIZE_REPLACE, .pattern = pattern}};
	return add(s, step, "", f) == NULL ? SAKIORI_ELIMIT : 0;
}

int splits_add_replace(struct splits *s, struct regex *pattern, const char *content, struct fault *f)
{
	const struct split step = {.kind = SPLIT_REPLACE, .change = {.kind = NORMALIZE_REPLACE, .pattern = pattern}};
	return add(s, step, content, f) == NULL ? SAKIORI_ELIMIT : 0;
}

int splits_add_prefix(struct splits *s, bool first, const char *content, struct fault *f)
{
	const struct split step = {.kind = first ? SPLIT_PREFIX_FIRST : SPLIT_PREFIX};
	return add(s, step, content, f) == NULL ? SAKIORI_ELIMIT : 0;
}

void splits_fini(struct splits *s)
{
	for (size_t i = 0; i < s->count; i++) {
		regex_free(s->steps[i].change.pattern);
		free(s->steps[i].change.content);
	}
	s->count = 0;
}

struct split_scratch *split_scratch_new(void)
{
	return must_calloc(1, sizeof(struct split_scratch));
}

void split_scratch_free(struct split_scratch *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < PIPELINE_STEPS; i++)
		writer_fini(&s->texts[i]);
	free(s);
}

static int cut_piece(const struct cut *c, size_t step, struct text_span piece, bool first);

/* A stretch of a piece that waits for what follows it. */
struct stretch {
	size_t begin, end;
	bool match;
	bool alone; /* a match that nothing was joined to */
};

/* What was waiting goes on to the next step. */
static int release(const struct cut *c, size_t step, struct text_span piece, bool first, const struct stretch *s)
{
	if (s->end == s->begin || (c->splits->steps[step].behavior == SPLIT_REMOVED && s->match))
		return 0;
	return cut_piece(
		c, step + 1, (struct text_span){piece.data + s->begin, s->end - s->begin}, first && s->begin == 0);
}

static bool joins(enum split_behavior behavior, const struct stretch *waiting, bool match)
{
	switch (behavior) {
	case SPLIT_MERGED_WITH_PREVIOUS:
		return match && !waiting->match;
	case SPLIT_MERGED_WITH_NEXT:
		return !match && waiting->alone;
	case SPLIT_CONTIGUOUS:
		return match == waiting->match;
	case SPLIT_ISOLATED:
	case SPLIT_REMOVED:
		break;
	}
	return false;
}

static int cut_by_pattern(const struct cut *c, size_t step, struct text_span piece, bool first)
{
	const struct split *split = &c->splits->steps[step];
	struct regex_match m = {0};
	struct stretch waiting = {0};
	size_t at = 0;
	bool any = false;
	int found = 1;
	while (found > 0) {
		found = regex_next(split->change.pattern, c->regex, piece.data, piece.size, &m, c->f);
		if (found < 0)
			return found;
		/* what lies before the match, then the match */
		const struct stretch next[2] = {
			{at, found ? m.begin : piece.size, split->invert, split->invert},
			{m.begin, m.end, !split->invert, !split->invert},
		};
		for (int i = next[0].end == at; i < 1 + found; i++) {
			if (any && joins(split->behavior, &waiting, next[i].match)) {
				waiting.end = next[i].end;
				waiting.match = next[i].match;
				waiting.alone = false;
				continue;
			}
			int rc = any ? release(c, step, piece, first, &waiting) : 0;
			if (rc != 0)
				return rc;
			waiting = next[i];
			any = true;
		}
		at = found ? m.end : piece.size;
	}
	return any ? release(c, step, piece, first, &waiting) : 0;
}

static int change_piece(const struct cut *c, size_t step, struct text_span piece, bool first)
{
	const struct split *split = &c->splits->steps[step];
	const struct normalizer *change = &split->change;
	struct writer *out = &c->scratch->texts[step];
	out->size = 0;
	if (split->kind == SPLIT_REPLACE) {
		int rc = normalize_replace(out, change, c->regex, piece, normalized_limit(piece.size), c->f);
		if (rc != 0)
			return rc;
	} else {
		if ((split->kind == SPLIT_PREFIX_FIRST && !first) ||
			(piece.size >= change->content_size &&
				memcmp(piece.data, change->content, change->content_size) == 0))
			return cut_piece(c, step + 1, piece, first);
		write_bytes(out, change->content, change->content_size);
		write_bytes(out, piece.data, piece.size);
	}
	return cut_piece(c, step + 1, (struct text_span){(const char *)out->data, out->size}, first);
}

static int cut_piece(const struct cut *c, size_t step, struct text_span piece, bool first)
{
	if (piece.size == 0)
		return 0;
	if (step == c->splits->count)
		return c->on_word(c->context, piece.data, piece.size, c->f);
	if (c->splits->steps[step].kind == SPLIT_PATTERN)
		return cut_by_pattern(c, step, piece, first);
	return change_piece(c, step, piece, first);
}

int split_words(const struct splits *s, struct split_scratch *scratch, struct regex_scratch *regex,
	struct text_span text, bool first, split_word *on_word, void *context, struct fault *f)
{
	const struct cut c = {s, scratch, regex, on_word, context, f};
	return cut_piece(&c, 0, text, first);
}
