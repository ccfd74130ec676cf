/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onwards, in order. Any
 * thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The letter that stands for a byte, as 1 or 2 bytes of UTF-8; how many. */
size_t alphabet_letter(uint8_t byte, char out[static 2]);
/* Writes the bytes that a text of letters stands for to out, which has room for `size`, and how many to *bytes. false
 * when there is another character in the text. */
bool alphabet_decode(const char *text, size_t size, char *out, size_t *bytes);
