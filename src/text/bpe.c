/* SPDX-License-Identifier: Apache-2.0 */
#include "text/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* A word's symbols form a list inside an array: merging takes out the right one of two. */
struct symbol {
	int32_t id;             /* -1: taken out */
	int32_t previous, next; /* -1: none */
};

/* A merge that was possible when it was put on the heap; it may have become stale since. */
struct candidate {
	uint32_t rank;
	int32_t at; /* the left symbol */
	int32_t result;
};

/* Words are few and come again: a direct-mapped table of those already merged. */
enum { CACHE_SLOTS = 1 << 14, CACHED_BYTES = 24, CACHED_TOKENS = 8 };
struct cached_word {
	uint8_t size; /* bytes; 0: empty */
	uint8_t count;
	char bytes[CACHED_BYTES];
	int32_t ids[CACHED_TOKENS];
};

struct bpe_scratch {
	struct symbol *symbols;
	struct candidate *heap;
	size_t capacity; /* symbols; the heap holds twice as many */
	size_t heap_size;
	struct cached_word *cache;
};

/* Memory that a long word took is given back above this many symbols. */
enum { SYMBOLS_KEPT = 1 << 16 };

static size_t mix(uint64_t x)
{
	x *= 0x9e3779b97f4a7c15u;
	return (size_t)(x ^ (x >> 32));
}

void bpe_init(struct bpe *b, size_t merges)
{
	size_t slots = 16;
	while (slots < 2 * merges)
		slots *= 2;
	b->slots = must_calloc(slots, sizeof *b->slots);
	b->slot_mask = slots - 1;
	for (size_t i = 0; i < slots; i++)
		b->slots[i].pair = BPE_NO_PAIR;
	for (int i = 0; i < 256; i++)
		b->byte_ids[i] = -1;
}

void bpe_fini(struct bpe *b)
{
	free(b->slots);
	b->slots = NULL;
}

static struct bpe_merge *slot_of(const struct bpe *b, int32_t left, int32_t right)
{
	uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
	size_t i = mix(pair) & b->slot_mask;
	while (b->slots[i].pair != pair && b->slots[i].pair != BPE_NO_PAIR)
		i = (i + 1) & b->slot_mask;
	return &b->slots[i];
}

void bpe_add(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t result)
{
	*slot_of(b, left, right) = (struct bpe_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, result};
}

struct bpe_scratch *bpe_scratch_new(void)
{
	struct bpe_scratch *s = must_calloc(1, sizeof *s);
	s->cache = must_calloc(CACHE_SLOTS, sizeof *s->cache);
	return s;
}

static void release_word(struct bpe_scratch *s)
{
	free(s->symbols);
	free(s->heap);
	s->symbols = NULL;
	s->heap = NULL;
	s->capacity = 0;
}

void bpe_scratch_free(struct bpe_scratch *s)
{
	if (s == NULL)
		return;
	release_word(s);
	free(s->cache);
	free(s);
}

/* The heap starts with at most n - 1 candidates. Each of at most n - 1 merges takes one off and adds at most two. */
static int reserve(struct bpe_scratch *s, size_t n)
{
	if (n <= s->capacity)
		return 0;
	release_word(s);
	size_t capacity = n < 64 ? 64 : n;
	s->symbols = malloc(capacity * sizeof *s->symbols);
	s->heap = malloc(2 * capacity * sizeof *s->heap);
	if (s->symbols == NULL || s->heap == NULL) {
		release_word(s);
		return SAKIORI_ENOMEM;
	}
	s->capacity = capacity;
	return 0;
}

static bool before(struct candidate a, struct candidate b)
{
	return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void push(struct bpe_scratch *s, struct candidate c)
{
	size_t i = s->heap_size++;
	while (i > 0 && before(c, s->heap[(i - 1) / 2])) {
		s->heap[i] = s->heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	s->heap[i] = c;
}

static struct candidate pop(struct bpe_scratch *s)
{
	struct candidate first = s->heap[0], last = s->heap[--s->heap_size];
	size_t i = 0;
	for (size_t child; (child = 2 * i + 1) < s->heap_size; i = child) {
		if (child + 1 < s->heap_size && before(s->heap[child + 1], s->heap[child]))
			child++;
		if (!before(s->heap[child], last))
			break;
		s->heap[i] = s->heap[child];
	}
	s->heap[i] = last;
	return first;
}

/* Puts the merge of symbol `at` with the one after it on the heap, if there is one. */
static void offer(const struct bpe *b, struct bpe_scratch *s, int32_t at)
{
	if (at < 0 || s->symbols[at].next < 0)
		return;
	const struct bpe_merge *m = slot_of(b, s->symbols[at].id, s->symbols[s->symbols[at].next].id);
	if (m->pair != BPE_NO_PAIR)
		push(s, (struct candidate){m->rank, at, m->result});
}

static void merge(const struct bpe *b, struct bpe_scratch *s)
{
	while (s->heap_size > 0) {
		struct candidate c = pop(s);
		struct symbol *left = &s->symbols[c.at];
		if (left->id < 0 || left->next < 0)
			continue;
		struct symbol *right = &s->symbols[left->next];
		const struct bpe_merge *m = slot_of(b, left->id, right->id);
		if (m->pair == BPE_NO_PAIR || m->result != c.result)
			continue;
		left->id = c.result;
		left->next = right->next;
		right->id = -1;
		if (left->next >= 0)
			s->symbols[left->next].previous = c.at;
		offer(b, s, left->previous);
		offer(b, s, c.at);
	}
}

static int encode_anew(
	const struct bpe *b, struct bpe_scratch *s, const char *word, size_t size, struct token_list *out)
{
	if (reserve(s, size) != 0)
		return SAKIORI_ENOMEM;
	int32_t n = 0;
	for (size_t i = 0; i < size; i++) {
		int32_t id = b->byte_ids[(uint8_t)word[i]];
		if (id < 0)
			continue;
		s->symbols[n] = (struct symbol){id, n - 1, n + 1};
		n++;
	}
	if (n > 0)
		s->symbols[n - 1].next = -1;
	s->heap_size = 0;
	for (int32_t i = 0; i + 1 < n; i++)
		offer(b, s, i);
	merge(b, s);
	for (int32_t i = 0; n > 0 && i >= 0; i = s->symbols[i].next)
		token_list_add(out, s->symbols[i].id);
	if (s->capacity > SYMBOLS_KEPT)
		release_word(s);
	return 0;
}

int bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t size, struct token_list *out)
{
	if (size == 0 || size > CACHED_BYTES)
		return encode_anew(b, s, word, size, out);
	uint64_t hash = size;
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ (uint8_t)word[i]) * 0x100000001b3u;
	struct cached_word *c = &s->cache[mix(hash) % CACHE_SLOTS];
	if (c->size == size && memcmp(c->bytes, word, size) == 0) {
		for (size_t i = 0; i < c->count; i++)
			token_list_add(out, c->ids[i]);
		return 0;
	}
	size_t first = out->count;
	int rc = encode_anew(b, s, word, size, out);
	size_t count = out->count - first;
	if (rc == 0 && count <= CACHED_TOKENS) {
		c->size = (uint8_t)size;
		c->count = (uint8_t)count;
		memcpy(c->bytes, word, size);
		if (count > 0)
			memcpy(c->ids, out->ids + first, count * sizeof *c->ids);
	}
	return rc;
}
