/* SPDX-License-Identifier: Apache-2.0 */
#include "text/flat.h"

#include <stdint.h>
#include <string.h>

#include "text/utf8.h"

struct cursor {
	const char *at, *end;
	char *out; /* where the next string goes: there is room for as many bytes as the line has */
};

static void skip_blanks(struct cursor *c)
{
	while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r' || *c->at == '\n'))
		c->at++;
}

/* Takes this character, after blanks. */
static bool take(struct cursor *c, char wanted)
{
	skip_blanks(c);
	if (c->at == c->end || *c->at != wanted)
		return false;
	c->at++;
	return true;
}

/* The next byte at or after p that is a quote, a backslash, a control character or not ASCII, or end. */
static const char *find_unusual(const char *p, const char *end)
{
	const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
	for (; end - p >= 8; p += 8) {
		uint64_t x;
		memcpy(&x, p, sizeof x);
		uint64_t quote = x ^ (ones * '"'), slash = x ^ (ones * '\\');
		/* a byte below n borrows into its high bit; of bytes with that bit set the first is found below all the same */
		if ((((x - ones * 0x20) | (quote - ones) | (slash - ones) | x) & high) != 0)
			break;
	}
	while (p < end && (uint8_t)*p >= 0x20 && (uint8_t)*p < 0x80 && *p != '"' && *p != '\\')
		p++;
	return p;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* \uXXXX but for NUL and surrogates, as UTF-8. */
static bool take_code(struct cursor *c)
{
	unsigned code = 0;
	if (c->end - c->at < 4)
		return false;
	for (int i = 0; i < 4; i++) {
		int digit = hex_digit(*c->at++);
		if (digit < 0)
			return false;
		code = code << 4 | (unsigned)digit;
	}
	if (code == 0 || (code >= 0xd800 && code < 0xe000))
		return false;
	char character[4];
	size_t size = utf8_encode((int32_t)code, character);
	memcpy(c->out, character, size);
	c->out += size;
	return true;
}

static bool take_escape(struct cursor *c)
{
	static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
	if (c->at == c->end)
		return false;
	char letter = *c->at++;
	if (letter == 'u')
		return take_code(c);
	const char *known = letter != '\0' ? strchr(escapes, letter) : NULL;
	if (known == NULL)
		return false;
	*c->out++ = meanings[known - escapes];
	return true;
}

/* The string behind its opening quote, the closing one included. */
static bool take_string(struct cursor *c, struct text_span *string)
{
	char *begin = c->out;
	bool ascii = true;
	for (;;) {
		const char *run = c->at;
		c->at = find_unusual(run, c->end);
		memcpy(c->out, run, (size_t)(c->at - run));
		c->out += c->at - run;
		if (c->at == c->end)
			return false;
		char found = *c->at++;
		if (found == '"')
			break;
		if ((uint8_t)found >= 0x80) {
			ascii = false;
			*c->out++ = found;
			while (c->at < c->end && (uint8_t)*c->at >= 0x80)
				*c->out++ = *c->at++;
		} else if (found != '\\' || !take_escape(c)) {
			return false;
		}
	}
	*string = (struct text_span){begin, (size_t)(c->out - begin)};
	return ascii || utf8_valid_prefix(string->data, string->size) == string->size;
}

static bool is(struct text_span key, const char *name)
{
	return key.size == strlen(name) && memcmp(key.data, name, key.size) == 0;
}

static bool take_pair(struct cursor *c, struct text_span *key, struct text_span *value)
{
	return take(c, '"') && take_string(c, key) && take(c, ':') && take(c, '"') && take_string(c, value);
}

bool flat_row_read(struct flat_row *out, struct text_span line, struct writer *memory)
{
	struct text_span keys[2] = {{0}}, values[2];
	memory->size = 0;
	if (line.size == 0)
		return false;
	struct cursor c = {line.data, line.data + line.size, (char *)write_space(memory, line.size)};
	if (!take(&c, '{') || !take_pair(&c, &keys[0], &values[0]))
		return false;
	if (take(&c, ',') && !take_pair(&c, &keys[1], &values[1]))
		return false;
	if (!take(&c, '}'))
		return false;
	skip_blanks(&c);
	if (c.at != c.end)
		return false;
	if (keys[1].data == NULL) {
		*out = (struct flat_row){.learned = values[0]};
		return is(keys[0], "text");
	}
	int prompt = is(keys[1], "prompt");
	*out = (struct flat_row){.prompt = values[prompt], .learned = values[1 - prompt]};
	return is(keys[prompt], "prompt") && is(keys[1 - prompt], "completion");
}
