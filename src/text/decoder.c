/* SPDX-License-Identifier: Apache-2.0 */
#include "text/decoder.h"

#include <string.h>

#include "text/alphabet.h"
#include "text/utf8.h"
#include "text/vocabulary.h"

void decoder_fini(struct decoder *d)
{
	normalizers_fini(&d->changes);
}

static int hexadecimal(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

bool decoder_byte(const char *text, size_t size, uint8_t *byte)
{
	if (size != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>' || hexadecimal(text[3]) < 0 ||
		hexadecimal(text[4]) < 0)
		return false;
	*byte = (uint8_t)(hexadecimal(text[3]) << 4 | hexadecimal(text[4]));
	return true;
}

int decoder_token(const struct decoder *d, struct regex_scratch *regex, struct text_span text, int32_t type,
	struct writer *out, struct fault *f)
{
	uint8_t byte;
	if (d->byte_fallback && type == TOKEN_BYTE && decoder_byte(text.data, text.size, &byte)) {
		write_u8(out, byte);
		return 0;
	}
	if (d->byte_level && type == TOKEN_NORMAL) {
		size_t bytes;
		if (alphabet_decode(text.data, text.size, (char *)write_space(out, text.size), &bytes)) {
			out->size -= text.size - bytes;
			return 0;
		}
		out->size -= text.size;
	}
	struct writer changed[2] = {{0}};
	int rc = 0;
	for (size_t i = 0; i < d->changes.count && rc == 0; i++) {
		struct writer *to = &changed[i % 2];
		to->size = 0;
		rc = normalize_replace(to, &d->changes.steps[i], regex, text, normalized_limit(text.size), f);
		text = (struct text_span){(const char *)to->data, to->size};
	}
	if (rc == 0)
		write_bytes(out, text.data, text.size);
	writer_fini(&changed[0]);
	writer_fini(&changed[1]);
	return rc;
}

/* U+FFFD for whatever is not UTF-8, one for each piece that a character broke off after. */
static void replace_broken(struct writer *w, size_t begin)
{
	const char *text = (const char *)w->data;
	if (w->size == begin || begin + utf8_valid_prefix(text + begin, w->size - begin) == w->size)
		return;
	struct writer out;
	writer_init(&out);
	write_bytes(&out, text, begin);
	for (size_t at = begin, n; at < w->size; at += n) {
		bool whole;
		n = utf8_size(text + at, w->size - at, &whole);
		write_bytes(&out, whole ? text + at : "\xef\xbf\xbd", whole ? n : 3);
	}
	writer_fini(w);
	*w = out;
}

/* Byte tokens in a row are whole characters, or each of them is U+FFFD. */
static void close_bytes(struct writer *w, size_t begin)
{
	size_t bytes = w->size - begin;
	if (bytes == 0 || utf8_valid_prefix((const char *)w->data + begin, bytes) == bytes)
		return;
	w->size = begin;
	for (; bytes > 0; bytes--)
		write_bytes(w, "\xef\xbf\xbd", 3);
}

static void strip_ends(const struct decoder *d, struct writer *w, size_t begin)
{
	size_t from = begin;
	for (size_t i = 0; i < d->strip_left && w->size - from >= d->strip_size &&
			   memcmp(w->data + from, d->strip, d->strip_size) == 0;
		i++)
		from += d->strip_size;
	for (size_t i = 0; i < d->strip_right && w->size - from >= d->strip_size &&
			   memcmp(w->data + w->size - d->strip_size, d->strip, d->strip_size) == 0;
		i++)
		w->size -= d->strip_size;
	if (from > begin) {
		memmove(w->data + begin, w->data + from, w->size - from);
		w->size -= from - begin;
	}
}

static void write_token(const struct decoder *d, struct text_span token, bool first, struct writer *out)
{
	if (!first || !d->drop_first_spaces) {
		write_bytes(out, token.data, token.size);
		return;
	}
	for (size_t i = 0; i < token.size; i++)
		if (token.data[i] != ' ')
			write_u8(out, (uint8_t)token.data[i]);
}

void decoder_join(const struct decoder *d, const struct vocabulary *v, const int32_t *ids, size_t count, unsigned flags,
	struct writer *out)
{
	size_t begin = out->size, bytes_begin = begin;
	bool first = true;
	for (size_t i = 0; i < count; i++) {
		enum tokenizer_token_type type = vocabulary_type(v, ids[i]);
		if (vocabulary_is_control(v, ids[i]) && (flags & TOKENIZER_SPECIAL) == 0)
			continue;
		if (type != TOKEN_BYTE && (flags & TOKENIZER_REPLACE) != 0)
			close_bytes(out, bytes_begin);
		if (!first && d->spaced)
			write_u8(out, ' ');
		write_token(d, vocabulary_token(v, ids[i]), first && type == TOKEN_NORMAL, out);
		if (type != TOKEN_BYTE)
			bytes_begin = out->size;
		first = false;
	}
	if ((flags & TOKENIZER_REPLACE) != 0) {
		close_bytes(out, bytes_begin);
		replace_broken(out, begin);
	}
	strip_ends(d, out, begin);
}
