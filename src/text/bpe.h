/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair merging of one word. A struct bpe never changes once it is filled, so threads may share it; a bpe_scratch
 * belongs to one thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "text/tokenizer.h"

#define BPE_NO_PAIR UINT64_MAX

struct bpe_merge {
	uint64_t pair; /* left id << 32 | right id; BPE_NO_PAIR: an empty slot */
	uint32_t rank; /* lower merges first */
	int32_t result;
};

struct bpe_character {
	int32_t character; /* -1: an empty slot */
	int32_t id;
};

struct bpe_word {
	uint32_t begin, size; /* in word_bytes; size 0: an empty slot */
	int32_t id;
};

struct bpe {
	bool bytes;            /* a word starts as its bytes (byte-level), not as its characters */
	int32_t byte_ids[256]; /* the token of a byte, or -1. Of characters without a token: what their bytes become */
	/* What a byte or character without any token becomes; -1: nothing, it is dropped as Hugging Face does */
	int32_t unknown;
	bool fuse_unknown;       /* several in a row are one */
	struct bpe_merge *slots; /* open addressing, at most half full, as are the next two */
	size_t slot_mask;
	struct bpe_character *characters; /* grows */
	size_t character_mask, character_count;
	uint64_t *neighbours; /* (character << 32 | the next one) + 1, of all tokens; 0: an empty slot; grows */
	size_t neighbour_mask, neighbour_count;
	struct bpe_word *words; /* words that are tokens whatever the merges say; NULL: there are none */
	size_t word_mask;
	struct writer word_bytes;
};

/* Room for `merges` merges; no bytes or characters known yet. */
void bpe_init(struct bpe *b, size_t merges);
void bpe_fini(struct bpe *b);
/* A pair that is there already gets the new rank. At most as many pairs as bpe_init was told. */
void bpe_add(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t result);
void bpe_add_character(struct bpe *b, int32_t character, int32_t id);
/* Tells that some token holds these two characters side by side. Characters that none does are never merged, so a word
 * is cut between them. */
void bpe_add_neighbours(struct bpe *b, int32_t left, int32_t right);
/* Words are only added after bpe_reserve_words, which is told how many there may be; of equal ones the last counts. */
void bpe_reserve_words(struct bpe *b, size_t words);
void bpe_add_word(struct bpe *b, const char *word, size_t size, int32_t id);

struct bpe_scratch;
struct bpe_scratch *bpe_scratch_new(void);
void bpe_scratch_free(struct bpe_scratch *s);

/* Appends the word's tokens to *out. SAKIORI_ENOMEM (only long words allocate) leaves *out as it was. A scratch must
 * not change from one bpe to another: it remembers words. */
int bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t size, struct token_list *out);
