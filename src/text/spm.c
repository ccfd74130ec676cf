/* SPDX-License-Identifier: Apache-2.0 */
#include "text/spm.h"

#include <math.h>
#include <stdlib.h>

#include "text/utf8.h"

/* A longer token has too many ways; the longest in use are runs of blanks, 48 bytes. */
enum { LONGEST_TOKEN = 512, MERGES_LIMIT = 1 << 23 };

/* A merge with what it is sorted by. */
struct ranked {
	float score;
	uint32_t left_length, right_length; /* characters */
	struct spm_merge merge;
};

static int compare(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	if (x->left_length != y->left_length)
		return x->left_length > y->left_length ? -1 : 1;
	if (x->right_length != y->right_length)
		return x->right_length > y->right_length ? -1 : 1;
	/* Hugging Face sorts by nothing else, and lists the tokens by their ids */
	if (x->merge.result != y->merge.result)
		return x->merge.result < y->merge.result ? -1 : 1;
	return x->merge.left < y->merge.left ? -1 : x->merge.left > y->merge.left;
}

/* Control, unknown and byte tokens are no text. */
static bool is_text(const int32_t *types, int32_t id)
{
	return id >= 0 && (types == NULL || types[id] == TOKEN_NORMAL || types[id] == TOKEN_USER_DEFINED ||
				  types[id] == TOKEN_UNUSED);
}

struct ranking {
	struct ranked *list;
	size_t count, capacity;
};

/* The ways to cut token `id` in two. */
static void add_token(struct ranking *r, const struct gguf_text *tokens, const int32_t *types, float score, int32_t id,
	const struct vocabulary_index *index)
{
	struct gguf_text text = tokens[id];
	uint32_t length = 0, left = 0;
	size_t n;
	for (size_t at = 0; at < text.size; at += n, length++)
		utf8_decode(text.data + at, &n);
	for (size_t at = 0; at < text.size; at += n, left++) {
		int32_t a = at > 0 ? vocabulary_index_find(index, text.data, at) : -1, b = -1;
		if (is_text(types, a))
			b = vocabulary_index_find(index, text.data + at, text.size - at);
		utf8_decode(text.data + at, &n);
		if (!is_text(types, b))
			continue;
		if (r->count == r->capacity) {
			r->capacity = r->capacity == 0 ? 1024 : 2 * r->capacity;
			r->list = must_realloc(r->list, r->capacity * sizeof *r->list);
		}
		r->list[r->count++] = (struct ranked){score, left, length - left, {a, b, id}};
	}
}

int spm_merges(const struct gguf_text *tokens, const float *scores, const int32_t *types, size_t count,
	const struct vocabulary_index *index, struct spm_merge **merges, size_t *merge_count, struct fault *f)
{
	struct ranking r = {0};
	int rc = 0;
	*merges = NULL;
	for (size_t i = 0; i < count && rc == 0; i++) {
		struct gguf_text text = tokens[i];
		if (!is_text(types, (int32_t)i) || text.size == 0)
			continue;
		if (text.size > LONGEST_TOKEN || r.count > MERGES_LIMIT)
			rc = fault_set(f, SAKIORI_ELIMIT,
				"token %zu has %zu bytes, or there are over %d merges; at most %d "
				"bytes are supported",
				i, text.size, MERGES_LIMIT, LONGEST_TOKEN);
		else if (utf8_valid_prefix(text.data, text.size) != text.size || !isfinite(scores[i]))
			rc = fault_set(f, SAKIORI_EFORMAT, "token %zu is not UTF-8, or its score is no number", i);
		else if (vocabulary_index_find(index, text.data, text.size) == (int32_t)i)
			add_token(&r, tokens, types, scores[i], (int32_t)i, index);
	}
	if (rc == 0 && r.count > 0)
		qsort(r.list, r.count, sizeof *r.list, compare);
	if (rc == 0) {
		*merges = must_calloc(r.count + 1, sizeof **merges);
		for (size_t i = 0; i < r.count; i++)
			(*merges)[i] = r.list[i].merge;
		*merge_count = r.count;
	}
	free(r.list);
	return rc;
}
