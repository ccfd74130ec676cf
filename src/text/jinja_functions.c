/* SPDX-License-Identifier: Apache-2.0 */
/* The functions that every template has. */
#include <string.h>

#include "text/jinja_private.h"

#define GLOBAL(name) JINJA_FUNCTION_NAMED(name)

GLOBAL(range)
{
	int64_t bounds[3] = {0, 0, 1};
	if (all->named != NULL || all->count < 1 || all->count > 3)
		jinja_fail(s, SAKIORI_EFORMAT, "range takes one to three integers");
	for (size_t i = 0; i < all->count; i++)
		bounds[all->count == 1 ? 1 : i] = jinja_want_integer(s, all->values[i], "an end of range");
	int64_t begin = bounds[0], end = bounds[1], step = bounds[2];
	if (step == 0)
		jinja_fail(s, SAKIORI_EFORMAT, "the step of range is 0");
	uint64_t distance = 0, stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
	if (step > 0 ? begin < end : begin > end)
		distance = step > 0 ? (uint64_t)end - (uint64_t)begin : (uint64_t)begin - (uint64_t)end;
	uint64_t count = distance / stride + (distance % stride != 0);
	if (count > JINJA_RANGE_LIMIT)
		jinja_fail(s, SAKIORI_ELIMIT, "a range of more than %d numbers", JINJA_RANGE_LIMIT);
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_RANGE, count);
	for (uint64_t i = 0; i < count; i++)
		jinja_append(s, q, jinja_integer((int64_t)((uint64_t)begin + i * (uint64_t)step)));
	return jinja_sequence_value(q);
}

/* dict(mapping or pairs, name=value, ...), into *d. */
static void fill(struct jinja_state *s, struct jinja_dict *d, const struct jinja_arguments *all, const char *what)
{
	if (all->count > 1)
		jinja_fail(s, SAKIORI_EFORMAT, "%s takes one argument and names", what);
	if (all->count == 1 && all->values[0].type == JINJA_DICT) {
		const struct jinja_dict *from = all->values[0].dict;
		for (size_t i = 0; i < from->count; i++)
			jinja_dict_set(s, d, from->entries[i].key, from->entries[i].value);
	} else if (all->count == 1) {
		const struct jinja_sequence *pairs = jinja_items(s, all->values[0]);
		for (size_t i = 0; i < pairs->count; i++) {
			const struct jinja_sequence *pair = jinja_items(s, pairs->items[i]);
			if (pair->count != 2)
				jinja_fail(s, SAKIORI_EFORMAT, "%s needs pairs, found %zu values", what, pair->count);
			jinja_dict_set(s, d, pair->items[0], pair->items[1]);
		}
	}
	for (size_t i = 0; all->named != NULL && i < all->named->count; i++)
		jinja_dict_set(s, d, all->named->entries[i].key, all->named->entries[i].value);
}

GLOBAL(dict)
{
	struct jinja_dict *d = jinja_dict_new(s, 0);
	fill(s, d, all, "dict");
	return jinja_dict_value(d);
}

GLOBAL(namespace)
{
	struct jinja_dict *d = jinja_dict_new(s, 0);
	fill(s, d, all, "namespace");
	return (struct jinja_value){.type = JINJA_NAMESPACE, .dict = d};
}

/* The template's own sentence; of what came from a row only that something stood there. */
GLOBAL(raise_exception)
{
	enum { LONGEST = 200 };
	const struct jinja_string *t = jinja_to_string(s, given[0]).string;
	struct jinja_builder b = {0};
	bool hidden = false;
	for (size_t i = 0; i < t->size; i++) {
		bool begins = ((uint8_t)t->data[i] & 0xc0) != 0x80;
		if (begins && b.size >= LONGEST)
			break;
		bool foreign = (t->marks != NULL ? t->marks[i] : t->mark) != JINJA_TEMPLATE;
		if (!foreign)
			jinja_put(s, &b, t->data + i, 1, JINJA_TEMPLATE);
		else if (!hidden)
			jinja_put_literal(s, &b, "...");
		hidden = foreign;
	}
	const struct jinja_string *sentence = jinja_built(s, &b).string;
	jinja_fail(s, SAKIORI_EFORMAT, "the template refuses: %.*s", (int)sentence->size, sentence->data);
}

GLOBAL(strftime_now)
{
	const struct jinja_string *t = jinja_want_string(s, given[0], "a format");
	enum { LONGEST = 256 };
	char *format = jinja_alloc(s, t->size + 2), out[LONGEST];
	if (s->now == NULL)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "no clock is given to strftime_now");
	if (t->size > 0 && memchr(t->data, '\0', t->size) != NULL)
		jinja_fail(s, SAKIORI_EFORMAT, "a format with a NUL in it");
	/* one more character, so that an empty result is told from one that is too long */
	memcpy(format, t->data, t->size);
	format[t->size] = '.';
	size_t size = strftime(out, sizeof out, format, s->now);
	if (size == 0)
		jinja_fail(s, SAKIORI_ELIMIT, "a time of more than %d bytes", LONGEST);
	struct jinja_builder b = {0};
	jinja_put(s, &b, out, size - 1, JINJA_TEMPLATE);
	return jinja_built(s, &b);
}

GLOBAL(unsupported)
{
	jinja_fail(s, SAKIORI_EUNSUPPORTED, "lipsum, cycler and joiner are not supported");
}

static const struct jinja_function globals[] = {{"range", NULL, 0, range}, {"dict", NULL, 0, dict},
	{"namespace", NULL, 0, namespace}, {"raise_exception", "message", 1, raise_exception},
	{"strftime_now", "format", 1, strftime_now}, {"lipsum", NULL, 0, unsupported}, {"cycler", NULL, 0, unsupported},
	{"joiner", NULL, 0, unsupported}, {NULL, NULL, 0, NULL}};

const struct jinja_function *jinja_global(const char *name)
{
	return jinja_find_function(globals, name);
}
