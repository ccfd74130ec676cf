/* SPDX-License-Identifier: Apache-2.0 */
#include "text/alphabet.h"

#include <string.h>

#include "text/utf8.h"

enum { MOVED = 0x100 }; /* the first letter of those bytes that do not stand for themselves */

static bool stands_for_itself(unsigned byte)
{
	return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* The bytes that do not: 0 to 32, 127 to 160, 173. */
static int byte_of(unsigned letter)
{
	if (letter < MOVED)
		return stands_for_itself(letter) ? (int)letter : -1;
	letter -= MOVED;
	return letter < 33 ? (int)letter : letter < 67 ? (int)letter - 33 + 127 : letter == 67 ? 173 : -1;
}

size_t alphabet_letter(uint8_t byte, char out[static 2])
{
	unsigned letter = byte;
	if (!stands_for_itself(byte))
		letter = MOVED + (byte < 33 ? byte : byte < 161 ? byte - 127u + 33 : 67);
	char bytes[4];
	size_t size = utf8_encode((int32_t)letter, bytes);
	memcpy(out, bytes, size);
	return size;
}

bool alphabet_decode(const char *text, size_t size, char *out, size_t *bytes)
{
	size_t n = 0;
	for (size_t i = 0; i < size;) {
		/* the alphabet ends below U+0800: at most two bytes of UTF-8 a letter */
		unsigned c = (uint8_t)text[i++];
		if (c >= 0xc2 && c < 0xe0 && i < size && ((uint8_t)text[i] & 0xc0) == 0x80)
			c = (c & 0x1f) << 6 | ((uint8_t)text[i++] & 0x3f);
		else if (c >= 0x80)
			return false;
		int byte = byte_of(c);
		if (byte < 0)
			return false;
		out[n++] = (char)byte;
	}
	*bytes = n;
	return true;
}
