/* SPDX-License-Identifier: Apache-2.0 */
/* Values as text: Python's str() and repr(), and json.dumps. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_private.h"
#include "text/utf8.h"

static uint8_t mark_of(const struct jinja_string *t, size_t at)
{
	return t->marks != NULL ? t->marks[at] : t->mark;
}

static void put_integer(struct jinja_state *s, struct jinja_builder *b, int64_t i)
{
	char text[32];
	snprintf(text, sizeof text, "%" PRId64, i);
	jinja_put_literal(s, b, text);
}

/* The fewest digits that read back as the same number, as repr() has it. */
void jinja_put_float(struct jinja_state *s, struct jinja_builder *b, double d)
{
	if (!isfinite(d)) {
		jinja_put_literal(s, b, isnan(d) ? "nan" : d > 0 ? "inf" : "-inf");
		return;
	}
	char digits[40], text[64];
	int precision = 0;
	do
		snprintf(digits, sizeof digits, "%.*e", precision, d);
	while (strtod(digits, NULL) != d && precision++ < 17);
	int exponent = atoi(strchr(digits, 'e') + 1);
	if (exponent < -4 || exponent >= 16) {
		*strchr(digits, 'e') = '\0';
		snprintf(text, sizeof text, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
	} else {
		snprintf(text, sizeof text, "%.*f", precision > exponent ? precision - exponent : 1, d);
	}
	jinja_put_literal(s, b, text);
}

static void put_escape(struct jinja_state *s, struct jinja_builder *b, uint32_t c, uint8_t mark)
{
	char text[16];
	int size = c == '\n'     ? snprintf(text, sizeof text, "\\n")
		   : c == '\r'   ? snprintf(text, sizeof text, "\\r")
		   : c == '\t'   ? snprintf(text, sizeof text, "\\t")
		   : c < 0x100   ? snprintf(text, sizeof text, "\\x%02x", (unsigned)c)
		   : c < 0x10000 ? snprintf(text, sizeof text, "\\u%04x", (unsigned)c)
				 : snprintf(text, sizeof text, "\\U%08x", (unsigned)c);
	jinja_put(s, b, text, (size_t)size, mark);
}

static void put_repr(struct jinja_state *s, struct jinja_builder *b, const struct jinja_string *t)
{
	bool single = t->size > 0 && memchr(t->data, '\'', t->size) != NULL;
	bool two = t->size > 0 && memchr(t->data, '"', t->size) != NULL;
	char quote = single && !two ? '"' : '\'';
	jinja_put(s, b, &quote, 1, JINJA_TEMPLATE);
	for (size_t at = 0, bytes; at < t->size; at += bytes) {
		uint32_t c = (uint32_t)utf8_decode(t->data + at, &bytes);
		if (c == (uint32_t)quote || c == '\\')
			jinja_put(s, b, "\\", 1, mark_of(t, at));
		if (jinja_is_printable(c))
			jinja_put_slice(s, b, t, at, at + bytes);
		else
			put_escape(s, b, c, mark_of(t, at));
	}
	jinja_put(s, b, &quote, 1, JINJA_TEMPLATE);
}

static void put_item(struct jinja_state *s, struct jinja_builder *b, struct jinja_value v);

static void put_items(struct jinja_state *s, struct jinja_builder *b, const struct jinja_sequence *q)
{
	if (q->kind > JINJA_TUPLE)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "writing %s is not supported; make a list of it",
			jinja_type_name(jinja_sequence_value((struct jinja_sequence *)q)));
	jinja_put_literal(s, b, q->kind == JINJA_LIST ? "[" : "(");
	for (size_t i = 0; i < q->count; i++) {
		if (i > 0)
			jinja_put_literal(s, b, ", ");
		put_item(s, b, q->items[i]);
	}
	jinja_put_literal(s, b, q->kind == JINJA_LIST ? "]" : q->count == 1 ? ",)" : ")");
}

static void put_entries(struct jinja_state *s, struct jinja_builder *b, const struct jinja_dict *d)
{
	jinja_put_literal(s, b, "{");
	for (size_t i = 0; i < d->count; i++) {
		if (i > 0)
			jinja_put_literal(s, b, ", ");
		put_item(s, b, d->entries[i].key);
		jinja_put_literal(s, b, ": ");
		put_item(s, b, d->entries[i].value);
	}
	jinja_put_literal(s, b, "}");
}

static void put_plain(struct jinja_state *s, struct jinja_builder *b, struct jinja_value v)
{
	switch (v.type) {
	case JINJA_NONE:
		jinja_put_literal(s, b, "None");
		break;
	case JINJA_BOOLEAN:
		jinja_put_literal(s, b, v.boolean ? "True" : "False");
		break;
	case JINJA_INTEGER:
		put_integer(s, b, v.integer);
		break;
	case JINJA_FLOAT:
		jinja_put_float(s, b, v.number);
		break;
	case JINJA_SEQUENCE:
		put_items(s, b, v.sequence);
		break;
	case JINJA_DICT:
		put_entries(s, b, v.dict);
		break;
	default:
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "writing a %s is not supported", jinja_type_name(v));
	}
}

static void go_deeper(struct jinja_state *s)
{
	if (++s->depth > JINJA_RUN_DEPTH)
		jinja_fail(s, SAKIORI_ELIMIT, "nested deeper than %d", JINJA_RUN_DEPTH);
	jinja_charge(s, 1);
}

/* repr() */
static void put_item(struct jinja_state *s, struct jinja_builder *b, struct jinja_value v)
{
	go_deeper(s);
	if (v.type == JINJA_STRING)
		put_repr(s, b, v.string);
	else if (v.type == JINJA_UNDEFINED)
		jinja_put_literal(s, b, "Undefined");
	else
		put_plain(s, b, v);
	s->depth--;
}

void jinja_put_value(struct jinja_state *s, struct jinja_builder *b, struct jinja_value v)
{
	if (v.type == JINJA_STRING)
		jinja_put_string(s, b, v.string);
	else if (v.type != JINJA_UNDEFINED)
		put_plain(s, b, v);
}

struct jinja_value jinja_to_string(struct jinja_state *s, struct jinja_value v)
{
	if (v.type == JINJA_STRING)
		return v;
	struct jinja_builder b = {0};
	jinja_put_value(s, &b, v);
	return jinja_built(s, &b);
}

/* ---- JSON ---- */

static void put_json_escape(struct jinja_state *s, struct jinja_builder *b, uint32_t c, uint8_t mark)
{
	static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
	char text[16];
	const char *simple = c < 0x80 && c != 0 ? strchr(from, (int)c) : NULL;
	int size;
	if (simple != NULL)
		size = snprintf(text, sizeof text, "\\%c", to[simple - from]);
	else if (c < 0x10000)
		size = snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
	else
		size = snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((c - 0x10000) >> 10)),
			(unsigned)(0xdc00 + ((c - 0x10000) & 0x3ff)));
	jinja_put(s, b, text, (size_t)size, mark);
}

static void put_json_string(struct jinja_state *s, struct jinja_builder *b, const struct jinja_string *t, bool ascii)
{
	jinja_put_literal(s, b, "\"");
	size_t plain = 0; /* begin of what needs no escape */
	for (size_t at = 0, bytes; at < t->size; at += bytes) {
		uint32_t c = (uint32_t)utf8_decode(t->data + at, &bytes);
		if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !ascii || c == 0x7f))
			continue;
		jinja_put_slice(s, b, t, plain, at);
		put_json_escape(s, b, c, mark_of(t, at));
		plain = at + bytes;
	}
	jinja_put_slice(s, b, t, plain, t->size);
	jinja_put_literal(s, b, "\"");
}

static void put_json_scalar(struct jinja_state *s, struct jinja_builder *b, struct jinja_value v)
{
	if (v.type == JINJA_NONE)
		jinja_put_literal(s, b, "null");
	else if (v.type == JINJA_BOOLEAN)
		jinja_put_literal(s, b, v.boolean ? "true" : "false");
	else if (v.type == JINJA_INTEGER)
		put_integer(s, b, v.integer);
	else if (v.type != JINJA_FLOAT)
		jinja_fail(s, SAKIORI_EFORMAT, "%s has no form in JSON", jinja_type_name(v));
	else if (isfinite(v.number))
		jinja_put_float(s, b, v.number);
	else
		jinja_put_literal(s, b, isnan(v.number) ? "NaN" : v.number > 0 ? "Infinity" : "-Infinity");
}

static void put_line(struct jinja_state *s, struct jinja_builder *b, const struct jinja_json_style *style, size_t level)
{
	if (style->indent == NULL)
		return;
	jinja_put_literal(s, b, "\n");
	for (size_t i = 0; i < level; i++)
		jinja_put_string(s, b, style->indent);
}

static int by_key(const void *left, const void *right)
{
	const struct jinja_string *a = ((const struct jinja_entry *)left)->key.string;
	const struct jinja_string *b = ((const struct jinja_entry *)right)->key.string;
	size_t least = a->size < b->size ? a->size : b->size;
	int order = least > 0 ? memcmp(a->data, b->data, least) : 0;
	return order != 0 ? order : (a->size > b->size) - (a->size < b->size);
}

static const struct jinja_entry *in_order(struct jinja_state *s, const struct jinja_dict *d, bool sorted)
{
	if (!sorted || d->count == 0)
		return d->entries;
	for (size_t i = 0; i < d->count; i++)
		if (d->entries[i].key.type != JINJA_STRING)
			jinja_fail(s, SAKIORI_EUNSUPPORTED, "sorting keys that are no strings");
	struct jinja_entry *entries = jinja_alloc_array(s, d->count, sizeof *entries);
	memcpy(entries, d->entries, d->count * sizeof *entries);
	qsort(entries, d->count, sizeof *entries, by_key);
	return entries;
}

static void put_json(struct jinja_state *s, struct jinja_builder *b, struct jinja_value v,
	const struct jinja_json_style *style, size_t level);

static void put_json_object(struct jinja_state *s, struct jinja_builder *b, const struct jinja_dict *d,
	const struct jinja_json_style *style, size_t level)
{
	jinja_put_literal(s, b, "{");
	const struct jinja_entry *entries = in_order(s, d, style->sort_keys);
	for (size_t i = 0; i < d->count; i++) {
		if (i > 0)
			jinja_put_string(s, b, style->item);
		put_line(s, b, style, level + 1);
		bool text = entries[i].key.type == JINJA_STRING;
		if (text) {
			put_json_string(s, b, entries[i].key.string, style->ascii);
		} else {
			jinja_put_literal(s, b, "\"");
			put_json_scalar(s, b, entries[i].key);
			jinja_put_literal(s, b, "\"");
		}
		jinja_put_string(s, b, style->key);
		put_json(s, b, entries[i].value, style, level + 1);
	}
	if (d->count > 0)
		put_line(s, b, style, level);
	jinja_put_literal(s, b, "}");
}

static void put_json_array(struct jinja_state *s, struct jinja_builder *b, const struct jinja_sequence *q,
	const struct jinja_json_style *style, size_t level)
{
	jinja_put_literal(s, b, "[");
	for (size_t i = 0; i < q->count; i++) {
		if (i > 0)
			jinja_put_string(s, b, style->item);
		put_line(s, b, style, level + 1);
		put_json(s, b, q->items[i], style, level + 1);
	}
	if (q->count > 0)
		put_line(s, b, style, level);
	jinja_put_literal(s, b, "]");
}

static void put_json(struct jinja_state *s, struct jinja_builder *b, struct jinja_value v,
	const struct jinja_json_style *style, size_t level)
{
	go_deeper(s);
	if (v.type == JINJA_STRING)
		put_json_string(s, b, v.string, style->ascii);
	else if (v.type == JINJA_DICT)
		put_json_object(s, b, v.dict, style, level);
	else if (v.type == JINJA_SEQUENCE && v.sequence->kind <= JINJA_TUPLE)
		put_json_array(s, b, v.sequence, style, level);
	else
		put_json_scalar(s, b, v);
	s->depth--;
}

void jinja_put_json(
	struct jinja_state *s, struct jinja_builder *b, struct jinja_value v, const struct jinja_json_style *style)
{
	put_json(s, b, v, style, 0);
}
