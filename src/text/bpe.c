/* SPDX-License-Identifier: Apache-2.0 */
#include "text/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "text/utf8.h"
#include "text/vocabulary.h"

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

/* Words are few and come again: a table of those already merged, two for each hash, each in a line of the processor's cache. */
enum { CACHE_SLOTS = 1 << 18, CACHED_BYTES = 24, CACHED_TOKENS = 8, KEY_WORDS = CACHED_BYTES / 8, LINE_BYTES = 64 };
struct cached_word {
	uint64_t key[KEY_WORDS]; /* the word's bytes, and zeros */
	int32_t ids[CACHED_TOKENS];
	uint8_t size; /* bytes; 0: empty */
	uint8_t count;
};

struct bpe_scratch {
	struct symbol *symbols;
	struct candidate *heap;
	size_t capacity; /* symbols; the heap holds twice as many */
	size_t heap_size;
	struct cached_word *cache; /* within cache_memory, at a multiple of LINE_BYTES */
	char *cache_memory;
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
	b->unknown = -1;
}

void bpe_fini(struct bpe *b)
{
	free(b->slots);
	free(b->characters);
	free(b->neighbours);
	free(b->words);
	writer_fini(&b->word_bytes);
	*b = (struct bpe){0};
}

/* The slot of a character, or the empty one where it belongs. */
static struct bpe_character *character_slot(const struct bpe *b, int32_t character)
{
	size_t i = mix((uint64_t)character) & b->character_mask;
	while (b->characters[i].character != character && b->characters[i].character >= 0)
		i = (i + 1) & b->character_mask;
	return &b->characters[i];
}

void bpe_add_character(struct bpe *b, int32_t character, int32_t id)
{
	if (b->characters == NULL || 2 * (b->character_count + 1) > b->character_mask + 1) {
		struct bpe_character *old = b->characters;
		size_t count = old != NULL ? b->character_mask + 1 : 0, slots = old != NULL ? 2 * count : 1024;
		b->characters = must_alloc(slots * sizeof *b->characters);
		b->character_mask = slots - 1;
		for (size_t i = 0; i < slots; i++)
			b->characters[i].character = -1;
		for (size_t i = 0; i < count; i++)
			if (old[i].character >= 0)
				*character_slot(b, old[i].character) = old[i];
		free(old);
	}
	struct bpe_character *slot = character_slot(b, character);
	b->character_count += slot->character < 0;
	*slot = (struct bpe_character){character, id};
}

static uint64_t neighbour_key(int32_t left, int32_t right)
{
	return ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
}

/* The slot of two characters, or the empty one where they belong. */
static uint64_t *neighbour_slot(const struct bpe *b, uint64_t pair)
{
	size_t i = mix(pair) & b->neighbour_mask;
	while (b->neighbours[i] != pair && b->neighbours[i] != 0)
		i = (i + 1) & b->neighbour_mask;
	return &b->neighbours[i];
}

void bpe_add_neighbours(struct bpe *b, int32_t left, int32_t right)
{
	if (b->neighbours == NULL || 2 * (b->neighbour_count + 1) > b->neighbour_mask + 1) {
		uint64_t *old = b->neighbours;
		size_t count = old != NULL ? b->neighbour_mask + 1 : 0, slots = old != NULL ? 2 * count : 1024;
		b->neighbours = must_calloc(slots, sizeof *b->neighbours);
		b->neighbour_mask = slots - 1;
		for (size_t i = 0; i < count; i++)
			if (old[i] != 0)
				*neighbour_slot(b, old[i]) = old[i];
		free(old);
	}
	uint64_t pair = neighbour_key(left, right), *slot = neighbour_slot(b, pair);
	b->neighbour_count += *slot == 0;
	*slot = pair;
}

/* The slot of the word of these bytes, or the empty one where it belongs. */
static struct bpe_word *word_slot(const struct bpe *b, const char *word, size_t size)
{
	size_t i = vocabulary_hash(word, size) & b->word_mask;
	for (; b->words[i].size > 0; i = (i + 1) & b->word_mask)
		if (b->words[i].size == size && memcmp(b->word_bytes.data + b->words[i].begin, word, size) == 0)
			break;
	return &b->words[i];
}

void bpe_reserve_words(struct bpe *b, size_t words)
{
	size_t slots = 16;
	while (slots < 2 * words)
		slots *= 2;
	b->words = must_calloc(slots, sizeof *b->words);
	b->word_mask = slots - 1;
}

void bpe_add_word(struct bpe *b, const char *word, size_t size, int32_t id)
{
	if (size == 0)
		return;
	struct bpe_word *slot = word_slot(b, word, size);
	if (slot->size == 0) {
		*slot = (struct bpe_word){(uint32_t)b->word_bytes.size, (uint32_t)size, id};
		write_bytes(&b->word_bytes, word, size);
	}
	slot->id = id;
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
	_Static_assert(sizeof(struct cached_word) == LINE_BYTES, "a word is a line");
	/* so much zeroed memory comes from the kernel page by page, as words come */
	s->cache_memory = must_calloc(CACHE_SLOTS + 1, LINE_BYTES);
	s->cache =
		(struct cached_word *)(void *)(s->cache_memory + LINE_BYTES - (uintptr_t)s->cache_memory % LINE_BYTES);
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
	free(s->cache_memory);
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

/* The symbols that a word starts as. */
struct start {
	const struct bpe *b;
	struct symbol *symbols;
	int32_t count;
	bool unknown; /* one waits, perhaps for more of its kind */
};

static void add_symbol(struct start *start, int32_t id)
{
	start->symbols[start->count] = (struct symbol){id, start->count - 1, start->count + 1};
	start->count++;
}

/* A byte or character that has a token, -1 for none. An unknown one waits until then, or until the next unknown. */
static void add_known(struct start *start, int32_t id)
{
	if (start->unknown && (id >= 0 || !start->b->fuse_unknown))
		add_symbol(start, start->b->unknown);
	start->unknown = id < 0;
	if (id >= 0)
		add_symbol(start, id);
}

/* The bytes of a character without a token become byte tokens where there is one for each. Hugging Face does not let
 * them release an unknown character that waits. */
static bool add_bytes(struct start *start, const char *character, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (start->b->byte_ids[(uint8_t)character[i]] < 0)
			return false;
	for (size_t i = 0; i < size; i++)
		add_symbol(start, start->b->byte_ids[(uint8_t)character[i]]);
	return true;
}

static int32_t find_character(const struct bpe *b, int32_t character)
{
	const struct bpe_character *slot = b->characters != NULL ? character_slot(b, character) : NULL;
	return slot != NULL && slot->character >= 0 ? slot->id : -1;
}

static int32_t start_word(const struct bpe *b, struct symbol *symbols, const char *word, size_t size)
{
	struct start start = {.b = b, .symbols = symbols};
	for (size_t i = 0, n = 1; i < size; i += n) {
		int32_t id = b->bytes ? b->byte_ids[(uint8_t)word[i]] : find_character(b, utf8_decode(word + i, &n));
		if (id < 0 && ((!b->bytes && add_bytes(&start, word + i, n)) || b->unknown < 0))
			continue;
		add_known(&start, id);
	}
	if (start.unknown)
		add_symbol(&start, b->unknown);
	if (start.count > 0)
		symbols[start.count - 1].next = -1;
	return start.count;
}

static int encode_anew(
	const struct bpe *b, struct bpe_scratch *s, const char *word, size_t size, struct token_list *out)
{
	const struct bpe_word *whole = b->words != NULL && size > 0 ? word_slot(b, word, size) : NULL;
	if (whole != NULL && whole->size > 0) {
		token_list_add(out, whole->id);
		return 0;
	}
	if (reserve(s, size) != 0)
		return SAKIORI_ENOMEM;
	int32_t n = start_word(b, s->symbols, word, size);
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

/* The place of a word in the cache: its own slot, or the second of its pair, where the last one of the pair that was not
 * asked for is overwritten. */
static struct cached_word *cached_slot(struct bpe_scratch *s, const uint64_t key[static KEY_WORDS], size_t size)
{
	uint64_t hash = size;
	for (size_t i = 0; i < KEY_WORDS; i++)
		hash = (hash ^ key[i]) * 0x9e3779b97f4a7c15u ^ hash >> 29;
	struct cached_word *pair = &s->cache[mix(hash) % (CACHE_SLOTS / 2) * 2];
	if (pair[0].size == size && memcmp(pair[0].key, key, sizeof pair->key) == 0)
		return &pair[0];
	struct cached_word second = pair[1];
	pair[1] = pair[0];
	pair[0] = second;
	return &pair[0];
}

static int encode_cached(
	const struct bpe *b, struct bpe_scratch *s, const char *word, size_t size, struct token_list *out)
{
	if (size == 0 || size > CACHED_BYTES)
		return encode_anew(b, s, word, size, out);
	uint64_t key[KEY_WORDS] = {0};
	memcpy(key, word, size);
	struct cached_word *c = cached_slot(s, key, size);
	if (c->size == size && memcmp(c->key, key, sizeof key) == 0) {
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
		memcpy(c->key, key, sizeof key);
		if (count > 0)
			memcpy(c->ids, out->ids + first, count * sizeof *c->ids);
	}
	return rc;
}

/* Bytes up to the first place that no merge crosses: between two characters that have tokens, and that no token holds
 * side by side. */
static size_t independent_prefix(const struct bpe *b, const char *word, size_t size)
{
	size_t n;
	int32_t left = utf8_decode(word, &n);
	bool known = find_character(b, left) >= 0;
	for (size_t at = n; at < size; at += n) {
		int32_t right = utf8_decode(word + at, &n);
		bool right_known = find_character(b, right) >= 0;
		if (known && right_known &&
			(b->neighbours == NULL || *neighbour_slot(b, neighbour_key(left, right)) == 0))
			return at;
		left = right;
		known = right_known;
	}
	return size;
}

int bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t size, struct token_list *out)
{
	if (b->bytes || b->words != NULL)
		return encode_cached(b, s, word, size, out);
	/* A tokenizer of characters may take a whole text for one word. */
	size_t before = out->count;
	int rc = 0;
	for (size_t at = 0, n; at < size && rc == 0; at += n) {
		n = independent_prefix(b, word + at, size - at);
		rc = encode_cached(b, s, word + at, n, out);
	}
	if (rc != 0)
		out->count = before;
	return rc;
}
