/* SPDX-License-Identifier: Apache-2.0 */
#include "text/utf8.h"

#include <string.h>

size_t utf8_size(const char *text, size_t left, bool *whole)
{
	const uint8_t *p = (const uint8_t *)text;
	*whole = p[0] < 0x80;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 1;
	size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2, got = 1;
	uint8_t low = 0x80, high = 0xbf;
	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f;
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	for (; got < n && got < left && p[got] >= low && p[got] <= high; got++) {
		low = 0x80;
		high = 0xbf;
	}
	*whole = got == n;
	return got;
}

bool utf8_is_ascii8(const char *p)
{
	uint64_t bytes;
	memcpy(&bytes, p, sizeof bytes);
	return (bytes & 0x8080808080808080u) == 0;
}

size_t utf8_valid_prefix(const char *text, size_t size)
{
	size_t at = 0;
	while (at < size) {
		bool whole;
		if (size - at >= 8 && utf8_is_ascii8(text + at)) {
			at += 8;
			continue;
		}
		size_t n = utf8_size(text + at, size - at, &whole);
		if (!whole)
			break;
		at += n;
	}
	return at;
}

int32_t utf8_decode(const char *text, size_t *size)
{
	const uint8_t *p = (const uint8_t *)text;
	if (p[0] < 0x80) {
		*size = 1;
		return p[0];
	}
	if (p[0] < 0xe0) {
		*size = 2;
		return (p[0] & 0x1f) << 6 | (p[1] & 0x3f);
	}
	if (p[0] < 0xf0) {
		*size = 3;
		return (p[0] & 0x0f) << 12 | (p[1] & 0x3f) << 6 | (p[2] & 0x3f);
	}
	*size = 4;
	return (p[0] & 0x07) << 18 | (p[1] & 0x3f) << 12 | (p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}

size_t utf8_previous(const char *text, size_t end)
{
	do
		end--;
	while (end > 0 && ((uint8_t)text[end] & 0xc0) == 0x80);
	return end;
}

size_t utf8_encode(int32_t c, char out[static 4])
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
	for (size_t i = n - 1; i > 0; i--, c >>= 6)
		out[i] = (char)(0x80 | (c & 0x3f));
	out[0] = (char)(0xf00 >> n | c);
	return n;
}

bool utf8_is_space(int32_t c)
{
	return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}
