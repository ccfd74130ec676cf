/* SPDX-License-Identifier: Apache-2.0 */
/* Filters of one value. Those of lists are in jinja_filters_list.c. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_private.h"

#define FILTER(name) JINJA_FUNCTION_NAMED(name)

static const struct jinja_string *text_of(struct jinja_state *s, struct jinja_value v)
{
	return jinja_to_string(s, v).string;
}

FILTER(trim)
{
	const struct jinja_string *chars = given[0].type == JINJA_ABSENT || given[0].type == JINJA_NONE
						   ? NULL
						   : jinja_want_string(s, given[0], "chars");
	return jinja_strip(s, text_of(s, self), chars, true, true);
}

FILTER(upper)
{
	return jinja_recase(s, text_of(s, self), JINJA_UPPER);
}

FILTER(lower)
{
	return jinja_recase(s, text_of(s, self), JINJA_LOWER);
}

FILTER(capitalize)
{
	return jinja_recase(s, text_of(s, self), JINJA_CAPITALIZED);
}

FILTER(title)
{
	return jinja_recase(s, text_of(s, self), JINJA_TITLE);
}

FILTER(string)
{
	return jinja_to_string(s, self);
}

FILTER(safe)
{
	return jinja_to_string(s, self);
}

FILTER(replace)
{
	int64_t count = given[2].type == JINJA_ABSENT || given[2].type == JINJA_NONE
				? -1
				: jinja_want_integer(s, given[2], "the count");
	return jinja_replace(s, text_of(s, self), text_of(s, given[0]), text_of(s, given[1]), count);
}

FILTER(fall_back)
{
	bool missing = self.type == JINJA_UNDEFINED || (jinja_truth(given[1]) && !jinja_truth(self));
	return !missing ? self : given[0].type != JINJA_ABSENT ? given[0] : jinja_literal(s, "");
}

FILTER(length)
{
	return jinja_integer((int64_t)jinja_length(s, self));
}

/* Lines put together again, all but empty ones behind the indention. */
FILTER(indent)
{
	struct jinja_builder blank = {0}, b = {0};
	if (given[0].type == JINJA_STRING) {
		jinja_put_string(s, &blank, given[0].string);
	} else {
		int64_t width = given[0].type == JINJA_ABSENT ? 4 : jinja_want_integer(s, given[0], "the width");
		for (; width > 0; width--)
			jinja_put_literal(s, &blank, " ");
	}
	const struct jinja_string *indention = jinja_built(s, &blank).string;
	jinja_put_string(s, &b, jinja_want_string(s, self, "what is indented"));
	jinja_put_literal(s, &b, "\n"); /* so that a line break at the end stays */
	const struct jinja_sequence *lines = jinja_split_lines(s, jinja_built(s, &b).string).sequence;
	struct jinja_builder out = {0};
	if (jinja_truth(given[1]))
		jinja_put_string(s, &out, indention);
	for (size_t i = 0; i < lines->count; i++) {
		if (i > 0)
			jinja_put_literal(s, &out, "\n");
		if (i > 0 && (lines->items[i].string->size > 0 || jinja_truth(given[2])))
			jinja_put_string(s, &out, indention);
		jinja_put_string(s, &out, lines->items[i].string);
	}
	return jinja_built(s, &out);
}

/* The number that the text is, with white space around it and '_' between digits, as Python reads it. */
static bool read_number(struct jinja_state *s, const struct jinja_string *t, double *real, int64_t *whole, int base)
{
	const struct jinja_string *bare = jinja_strip(s, t, NULL, true, true).string;
	char *text = jinja_alloc(s, bare->size + 1), *out = text, *end;
	for (size_t i = 0; i < bare->size; i++) {
		char c = bare->data[i];
		bool between =
			c == '_' && i > 0 && i + 1 < bare->size && bare->data[i - 1] != '_' && bare->data[i + 1] != '_';
		if (c == '\0' || (c == '_' && !between))
			return false;
		if (c != '_')
			*out++ = c;
	}
	if (text[0] == '\0' || (whole == NULL && strpbrk(text, "xXpP(") != NULL))
		return false;
	errno = 0;
	if (whole != NULL)
		*whole = strtoll(text, &end, base);
	else
		*real = strtod(text, &end);
	if (*end == '\0' && whole != NULL && errno == ERANGE)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "an integer of more than 64 bits");
	return *end == '\0';
}

static struct jinja_value cut_off(struct jinja_state *s, double d)
{
	if (fabs(d) >= 9.2e18)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "an integer of more than 64 bits");
	return jinja_integer((int64_t)d);
}

static void want_defined(struct jinja_state *s, struct jinja_value v)
{
	if (v.type == JINJA_UNDEFINED)
		jinja_fail(s, SAKIORI_EFORMAT, "'%.80s' is undefined", v.hint);
}

FILTER(to_integer)
{
	struct jinja_value otherwise = given[0].type != JINJA_ABSENT ? given[0] : jinja_integer(0);
	int64_t whole, base = given[1].type == JINJA_ABSENT ? 10 : jinja_want_integer(s, given[1], "the base");
	double real;
	if (self.type == JINJA_INTEGER)
		return self;
	if (self.type == JINJA_BOOLEAN)
		return jinja_integer(self.boolean);
	if (self.type == JINJA_FLOAT)
		return isfinite(self.number) ? cut_off(s, self.number) : otherwise;
	want_defined(s, self);
	if (self.type != JINJA_STRING)
		return otherwise;
	if (base != 10)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "int with another base than 10 is not supported");
	if (read_number(s, self.string, NULL, &whole, (int)base))
		return jinja_integer(whole);
	return read_number(s, self.string, &real, NULL, 0) && isfinite(real) ? cut_off(s, real) : otherwise;
}

FILTER(to_float)
{
	double real;
	if (self.type == JINJA_FLOAT)
		return self;
	if (self.type == JINJA_INTEGER || self.type == JINJA_BOOLEAN)
		return jinja_number(self.type == JINJA_BOOLEAN ? self.boolean : (double)self.integer);
	want_defined(s, self);
	if (self.type == JINJA_STRING && read_number(s, self.string, &real, NULL, 0))
		return jinja_number(real);
	return given[0].type != JINJA_ABSENT ? given[0] : jinja_number(0);
}

FILTER(absolute)
{
	if (self.type == JINJA_FLOAT)
		return jinja_number(fabs(self.number));
	int64_t i = jinja_want_integer(s, self, "what abs is given");
	if (i == INT64_MIN)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "an integer of more than 64 bits");
	return jinja_integer(i < 0 ? -i : i);
}

FILTER(rounded)
{
	int64_t digits = given[0].type == JINJA_ABSENT ? 0 : jinja_want_integer(s, given[0], "the precision");
	bool common = given[1].type == JINJA_ABSENT || jinja_is_text(given[1], "common");
	bool up = jinja_is_text(given[1], "ceil");
	if (!common && !up && !jinja_is_text(given[1], "floor"))
		jinja_fail(s, SAKIORI_EFORMAT, "round has the methods common, ceil and floor");
	if (digits < 0 || digits > 100)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "round to %lld digits is not supported", (long long)digits);
	if (self.type != JINJA_FLOAT) {
		int64_t i = jinja_want_integer(s, self, "what is rounded");
		/* round(7) is 7, but ceil and floor divide by a power of ten */
		if (common)
			return jinja_integer(i);
		return jinja_number((double)i);
	}
	double d = self.number;
	if (!common) {
		double scale = pow(10, (double)digits);
		return jinja_number((up ? ceil(d * scale) : floor(d * scale)) / scale);
	}
	if (!isfinite(d))
		return self;
	char text[512];
	snprintf(text, sizeof text, "%.*f", (int)digits, d); /* exact, halves to even, as Python rounds */
	return jinja_number(strtod(text, NULL));
}

/* As Hugging Face replaces Jinja's: json.dumps, without the escapes of HTML. */
FILTER(to_json)
{
	struct jinja_json_style style = {.ascii = jinja_truth(given[0]), .sort_keys = jinja_truth(given[3])};
	struct jinja_value indent = given[1];
	if (indent.type == JINJA_STRING) {
		style.indent = indent.string;
	} else if (indent.type != JINJA_ABSENT && indent.type != JINJA_NONE) {
		struct jinja_builder b = {0};
		for (int64_t width = jinja_want_integer(s, indent, "the indent"); width > 0; width--)
			jinja_put_literal(s, &b, " ");
		style.indent = jinja_built(s, &b).string;
	}
	style.item = jinja_literal(s, style.indent != NULL ? "," : ", ").string;
	style.key = jinja_literal(s, ": ").string;
	if (given[2].type != JINJA_ABSENT && given[2].type != JINJA_NONE) {
		const struct jinja_sequence *separators = jinja_items(s, given[2]);
		if (separators->count != 2)
			jinja_fail(s, SAKIORI_EFORMAT, "expected two separators, found %zu", separators->count);
		style.item = jinja_want_string(s, separators->items[0], "a separator");
		style.key = jinja_want_string(s, separators->items[1], "a separator");
	}
	struct jinja_builder b = {0};
	jinja_put_json(s, &b, self, &style);
	return jinja_built(s, &b);
}

static const struct jinja_function filters[] = {{"trim", "chars", 0, trim}, {"upper", "", 0, upper},
	{"lower", "", 0, lower}, {"capitalize", "", 0, capitalize}, {"title", "", 0, title}, {"string", "", 0, string},
	{"safe", "", 0, safe}, {"replace", "old new count", 2, replace},
	{"default", "default_value boolean", 0, fall_back}, {"d", "default_value boolean", 0, fall_back},
	{"length", "", 0, length}, {"count", "", 0, length}, {"indent", "width first blank", 0, indent},
	{"int", "default base", 0, to_integer}, {"float", "default", 0, to_float}, {"abs", "", 0, absolute},
	{"round", "precision method", 0, rounded}, {"tojson", "ensure_ascii indent separators sort_keys", 0, to_json},
	{NULL, NULL, 0, NULL}};

const struct jinja_function *jinja_filter(const char *name)
{
	const struct jinja_function *f = jinja_find_function(filters, name);
	return f != NULL ? f : jinja_list_filter(name);
}
