/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "text/jinja_private.h"
#include "text/utf8.h"

enum { BYTES_PER_STEP = 64 };

struct jinja_value jinja_text(struct jinja_state *s, const char *data, size_t size, uint8_t mark)
{
	struct jinja_string *t = jinja_alloc(s, sizeof *t);
	*t = (struct jinja_string){data, NULL, size, mark};
	return jinja_string_value(t);
}

struct jinja_value jinja_literal(struct jinja_state *s, const char *text)
{
	return jinja_text(s, text, strlen(text), JINJA_TEMPLATE);
}

struct jinja_value jinja_slice(struct jinja_state *s, const struct jinja_string *t, size_t begin, size_t end)
{
	if (begin == 0 && end == t->size)
		return jinja_string_value(t);
	struct jinja_string *part = jinja_alloc(s, sizeof *part);
	*part = (struct jinja_string){
		t->data + begin, t->marks != NULL ? t->marks + begin : NULL, end - begin, t->mark};
	return jinja_string_value(part);
}

bool jinja_is_text(struct jinja_value v, const char *text)
{
	return v.type == JINJA_STRING && v.string->size == strlen(text) &&
	       memcmp(v.string->data, text, v.string->size) == 0;
}

static bool is_continuation(char c)
{
	return ((uint8_t)c & 0xc0) == 0x80;
}

size_t jinja_characters(const struct jinja_string *t)
{
	size_t n = 0;
	for (size_t i = 0; i < t->size; i++)
		n += !is_continuation(t->data[i]);
	return n;
}

size_t jinja_offset(const struct jinja_string *t, size_t n)
{
	size_t at = 0, bytes;
	for (; n > 0 && at < t->size; n--, at += bytes)
		utf8_decode(t->data + at, &bytes);
	return at;
}

size_t jinja_find(struct jinja_state *s, const struct jinja_string *in, const struct jinja_string *what, size_t from)
{
	if (from > in->size || what->size > in->size - from)
		return SIZE_MAX;
	if (what->size == 0)
		return from;
	const char *found = memmem(in->data + from, in->size - from, what->data, what->size);
	size_t at = found != NULL ? (size_t)(found - in->data) : SIZE_MAX;
	jinja_charge(s, 1 + ((found != NULL ? at : in->size) - from) / BYTES_PER_STEP);
	return at;
}

size_t jinja_find_last(struct jinja_state *s, const struct jinja_string *in, const struct jinja_string *what, size_t to)
{
	if (what->size > to)
		return SIZE_MAX;
	for (size_t at = to - what->size;; at--) {
		if (what->size == 0 || memcmp(in->data + at, what->data, what->size) == 0) {
			jinja_charge(s, 1 + (to - at) / BYTES_PER_STEP);
			return at;
		}
		if (at == 0)
			break;
	}
	jinja_charge(s, 1 + to / BYTES_PER_STEP);
	return SIZE_MAX;
}

bool jinja_is_space(uint32_t c)
{
	return utf8_is_space((int32_t)c) || (c >= 0x1c && c <= 0x1f);
}

/* Is the character at t[at] one that is stripped? */
static bool stripped(const struct jinja_string *t, size_t at, const struct jinja_string *chars)
{
	size_t bytes;
	uint32_t c = (uint32_t)utf8_decode(t->data + at, &bytes);
	if (chars == NULL)
		return jinja_is_space(c);
	return memmem(chars->data, chars->size, t->data + at, bytes) != NULL;
}

struct jinja_value jinja_strip(
	struct jinja_state *s, const struct jinja_string *t, const struct jinja_string *chars, bool left, bool right)
{
	size_t begin = 0, end = t->size, bytes;
	if (chars != NULL && chars->size == 0)
		return jinja_string_value(t);
	while (left && begin < end && stripped(t, begin, chars)) {
		utf8_decode(t->data + begin, &bytes);
		begin += bytes;
	}
	while (right && end > begin) {
		size_t at = end - 1;
		while (is_continuation(t->data[at]))
			at--;
		if (!stripped(t, at, chars))
			break;
		end = at;
	}
	jinja_charge(s, (begin + t->size - end) * (1 + (chars != NULL ? chars->size / 16 : 0)) / BYTES_PER_STEP);
	return jinja_slice(s, t, begin, end);
}

struct jinja_value jinja_replace(struct jinja_state *s, const struct jinja_string *t, const struct jinja_string *from,
	const struct jinja_string *to, int64_t count)
{
	struct jinja_builder b = {0};
	size_t at = 0;
	for (; count != 0; count -= count > 0) {
		size_t found = jinja_find(s, t, from, at);
		if (found == SIZE_MAX)
			break;
		jinja_put_slice(s, &b, t, at, found);
		jinja_put_string(s, &b, to);
		at = found + from->size;
		if (from->size > 0)
			continue;
		/* between all characters, and at both ends */
		if (at == t->size)
			break;
		size_t bytes;
		utf8_decode(t->data + at, &bytes);
		jinja_put_slice(s, &b, t, at, at + bytes);
		at += bytes;
	}
	jinja_put_slice(s, &b, t, at, t->size);
	return jinja_built(s, &b);
}

static void reverse(struct jinja_sequence *q)
{
	for (size_t i = 0; i < q->count / 2; i++) {
		struct jinja_value v = q->items[i];
		q->items[i] = q->items[q->count - 1 - i];
		q->items[q->count - 1 - i] = v;
	}
}

static struct jinja_sequence *split_at(
	struct jinja_state *s, const struct jinja_string *t, const struct jinja_string *separator, int64_t limit)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, 0);
	size_t at = 0;
	for (size_t found; limit != 0 && (found = jinja_find(s, t, separator, at)) != SIZE_MAX; limit -= limit > 0) {
		jinja_append(s, q, jinja_slice(s, t, at, found));
		at = found + separator->size;
	}
	jinja_append(s, q, jinja_slice(s, t, at, t->size));
	return q;
}

static struct jinja_sequence *split_at_from_right(
	struct jinja_state *s, const struct jinja_string *t, const struct jinja_string *separator, int64_t limit)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, 0);
	size_t to = t->size;
	for (size_t found; limit != 0 && (found = jinja_find_last(s, t, separator, to)) != SIZE_MAX;
		limit -= limit > 0) {
		jinja_append(s, q, jinja_slice(s, t, found + separator->size, to));
		to = found;
	}
	jinja_append(s, q, jinja_slice(s, t, 0, to));
	reverse(q);
	return q;
}

static size_t skip(const struct jinja_string *t, size_t at, bool spaces)
{
	while (at < t->size) {
		size_t bytes;
		if (jinja_is_space((uint32_t)utf8_decode(t->data + at, &bytes)) != spaces)
			break;
		at += bytes;
	}
	return at;
}

static struct jinja_sequence *split_words(struct jinja_state *s, const struct jinja_string *t, int64_t limit)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, 0);
	for (size_t at = skip(t, 0, true); at<t->size; limit -= limit> 0) {
		if (limit == 0) {
			jinja_append(s, q, jinja_slice(s, t, at, t->size));
			break;
		}
		size_t end = skip(t, at, false);
		jinja_append(s, q, jinja_slice(s, t, at, end));
		at = skip(t, end, true);
	}
	return q;
}

static size_t skip_back(const struct jinja_string *t, size_t at, bool spaces)
{
	while (at > 0) {
		size_t before = at - 1, bytes;
		while (is_continuation(t->data[before]))
			before--;
		if (jinja_is_space((uint32_t)utf8_decode(t->data + before, &bytes)) != spaces)
			break;
		at = before;
	}
	return at;
}

static struct jinja_sequence *split_words_from_right(struct jinja_state *s, const struct jinja_string *t, int64_t limit)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, 0);
	for (size_t at = skip_back(t, t->size, true); at > 0; limit -= limit > 0) {
		if (limit == 0) {
			jinja_append(s, q, jinja_slice(s, t, 0, at));
			break;
		}
		size_t begin = skip_back(t, at, false);
		jinja_append(s, q, jinja_slice(s, t, begin, at));
		at = skip_back(t, begin, true);
	}
	reverse(q);
	return q;
}

struct jinja_value jinja_split(struct jinja_state *s, const struct jinja_string *t,
	const struct jinja_string *separator, int64_t limit, bool from_right)
{
	jinja_charge(s, t->size / BYTES_PER_STEP);
	if (separator != NULL && separator->size == 0)
		jinja_fail(s, SAKIORI_EFORMAT, "split needs a separator that is not empty");
	if (separator != NULL)
		return jinja_sequence_value(
			from_right ? split_at_from_right(s, t, separator, limit) : split_at(s, t, separator, limit));
	return jinja_sequence_value(from_right ? split_words_from_right(s, t, limit) : split_words(s, t, limit));
}

static bool ends_line(uint32_t c)
{
	return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

struct jinja_value jinja_split_lines(struct jinja_state *s, const struct jinja_string *t)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, 0);
	size_t line = 0;
	for (size_t at = 0, bytes; at < t->size; at += bytes) {
		if (!ends_line((uint32_t)utf8_decode(t->data + at, &bytes)))
			continue;
		jinja_append(s, q, jinja_slice(s, t, line, at));
		if (t->data[at] == '\r' && at + 1 < t->size && t->data[at + 1] == '\n')
			bytes = 2;
		line = at + bytes;
	}
	if (line < t->size)
		jinja_append(s, q, jinja_slice(s, t, line, t->size));
	return jinja_sequence_value(q);
}

/* Room for `more` bytes. */
static void grow(struct jinja_state *s, struct jinja_builder *b, size_t more)
{
	if (more <= b->capacity - b->size)
		return;
	if (more > s->max_memory)
		jinja_fail(s, SAKIORI_ELIMIT, "more than %zu bytes of memory", s->max_memory);
	size_t room = b->capacity * 2 > b->size + more ? b->capacity * 2 : b->size + more + 32;
	char *data = jinja_alloc(s, room);
	uint8_t *marks = b->marks != NULL ? jinja_alloc(s, room) : NULL;
	if (b->size > 0) {
		memcpy(data, b->data, b->size);
		if (marks != NULL)
			memcpy(marks, b->marks, b->size);
	}
	b->data = data;
	b->marks = marks;
	b->capacity = room;
}

/* From now on every byte has a mark of its own. */
static void mark_each(struct jinja_state *s, struct jinja_builder *b)
{
	if (b->marks != NULL)
		return;
	b->marks = jinja_alloc(s, b->capacity);
	memset(b->marks, b->mark, b->size);
}

void jinja_put(struct jinja_state *s, struct jinja_builder *b, const char *data, size_t size, uint8_t mark)
{
	if (size == 0)
		return;
	grow(s, b, size);
	if (b->size == 0 && b->marks == NULL)
		b->mark = mark;
	if (b->marks != NULL || mark != b->mark) {
		mark_each(s, b);
		memset(b->marks + b->size, mark, size);
	}
	memcpy(b->data + b->size, data, size);
	b->size += size;
}

void jinja_put_slice(
	struct jinja_state *s, struct jinja_builder *b, const struct jinja_string *t, size_t begin, size_t end)
{
	if (t->marks == NULL || begin == end) {
		jinja_put(s, b, t->data + begin, end - begin, t->mark);
		return;
	}
	grow(s, b, end - begin);
	mark_each(s, b);
	memcpy(b->data + b->size, t->data + begin, end - begin);
	memcpy(b->marks + b->size, t->marks + begin, end - begin);
	b->size += end - begin;
}

void jinja_put_string(struct jinja_state *s, struct jinja_builder *b, const struct jinja_string *t)
{
	jinja_put_slice(s, b, t, 0, t->size);
}

void jinja_put_literal(struct jinja_state *s, struct jinja_builder *b, const char *text)
{
	jinja_put(s, b, text, strlen(text), JINJA_TEMPLATE);
}

void jinja_put_character(struct jinja_state *s, struct jinja_builder *b, uint32_t c, uint8_t mark)
{
	char bytes[4];
	jinja_put(s, b, bytes, utf8_encode((int32_t)c, bytes), mark);
}

struct jinja_value jinja_built(struct jinja_state *s, struct jinja_builder *b)
{
	struct jinja_string *t = jinja_alloc(s, sizeof *t);
	*t = (struct jinja_string){b->data != NULL ? b->data : "", b->marks, b->size, b->mark};
	return jinja_string_value(t);
}
