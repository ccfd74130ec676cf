/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair merging of one word. A struct bpe never changes once it is filled, so threads may share it; a bpe_scratch
 * belongs to one thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"

#define BPE_NO_PAIR UINT64_MAX

struct bpe_merge {
	uint64_t pair; /* left id << 32 | right id; BPE_NO_PAIR: an empty slot */
	uint32_t rank; /* lower merges first */
	int32_t result;
};

struct bpe {
	int32_t byte_ids[256];   /* the token of a single byte, or -1: such a byte is dropped, as Hugging Face does */
	struct bpe_merge *slots; /* open addressing, at most half full */
	size_t slot_mask;
};

/* Room for `merges` merges; no bytes known yet. */
void bpe_init(struct bpe *b, size_t merges);
void bpe_fini(struct bpe *b);
/* A pair that is there already gets the new rank. At most as many pairs as bpe_init was told. */
void bpe_add(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t result);

struct bpe_scratch;
struct bpe_scratch *bpe_scratch_new(void);
void bpe_scratch_free(struct bpe_scratch *s);

/* Appends the word's tokens to *out. SAKIORI_ENOMEM (only long words allocate) leaves *out as it was. A scratch must
 * not change from one bpe to another: it remembers words. */
int bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t size, struct token_list *out);
