/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 one character at a time. Any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the UTF-8 character at p, of `left` > 0 bytes, and whether it is whole. Where it is none (overlong, a
 * surrogate, beyond U+10FFFF, cut short) these are the bytes that a decoder replaces at once: as many as could have
 * begun a character, at least one. */
size_t utf8_size(const char *p, size_t left, bool *whole);
/* True when all of the 8 bytes at p are ASCII. */
bool utf8_is_ascii8(const char *p);
/* Offset of the first byte that is not UTF-8, or size. */
size_t utf8_valid_prefix(const char *text, size_t size);

/* The next three expect valid UTF-8. The character at p, and its bytes. */
int32_t utf8_decode(const char *p, size_t *size);
/* Offset of the character that ends at `end` > 0. */
size_t utf8_previous(const char *text, size_t end);
/* Writes at most 4 bytes of a code point up to U+10FFFF; how many. */
size_t utf8_encode(int32_t character, char out[static 4]);

/* Unicode's White_Space: what Hugging Face strips. */
bool utf8_is_space(int32_t character);
