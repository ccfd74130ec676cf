/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer's decoder: ids -> text. What it does to each token by itself is done once, when the vocabulary is made
 * (decoder_token); what is left is to join. Never changes once it is filled, so threads may share it. */
#pragma once
#include "text/normalize.h"

struct vocabulary;

struct decoder {
	bool byte_level;            /* tokens are written in the byte-level alphabet */
	bool byte_fallback;         /* "<0x0A>" is a byte */
	struct normalizers changes; /* NORMALIZE_REPLACE in every token */
	bool drop_first_spaces;     /* the first token loses its blanks (Metaspace) */
	bool spaced;                /* a blank between tokens: no decoder at all */
	char strip[4];              /* the character that is taken off the text's ends, in UTF-8 */
	size_t strip_size;
	size_t strip_left, strip_right; /* at most so often */
};

void decoder_fini(struct decoder *d);

/* True for the texts "<0x00>" to "<0xFF>", with the byte. */
bool decoder_byte(const char *text, size_t size, uint8_t *byte);
/* Appends what a token stands for. Tokens of other kinds than normal stand for their text, whatever their letters, and a
 * text that is not all of the alphabet stays as it is. SAKIORI_ELIMIT when a pattern gives up. */
int decoder_token(const struct decoder *d, struct regex_scratch *regex, struct text_span text, int32_t type,
	struct writer *out, struct fault *f);

/* Appends the text of these ids, all inside the vocabulary; flags as tokenizer_decode's. */
void decoder_join(const struct decoder *d, const struct vocabulary *v, const int32_t *ids, size_t count, unsigned flags,
	struct writer *out);
