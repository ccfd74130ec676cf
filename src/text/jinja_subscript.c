/* SPDX-License-Identifier: Apache-2.0 */
/* a[b], a.b, a[b:c:d]: what jinja2's sandbox gives for them. */
#include <stdlib.h>
#include <string.h>

#include "text/jinja_private.h"
#include "text/utf8.h"

static bool is_whole(struct jinja_value v)
{
	return v.type == JINJA_INTEGER || v.type == JINJA_BOOLEAN;
}

static int64_t whole(struct jinja_value v)
{
	return v.type == JINJA_BOOLEAN ? v.boolean : v.integer;
}

static struct jinja_value hint_of(struct jinja_state *s, struct jinja_value of, const char *name, size_t size)
{
	enum { LONGEST = 60 };
	const char *type = jinja_type_name(of);
	for (size = size < LONGEST ? size : LONGEST; ((uint8_t)name[size] & 0xc0) == 0x80;) /* whole characters */
		size--;
	char *hint = jinja_alloc(s, strlen(type) + size + 2);
	strcpy(hint, type);
	strcat(hint, ".");
	strncat(hint, name, size);
	return jinja_undefined(hint);
}

/* Item `at` of a sequence or string, counted from the end where it is negative; ABSENT where there is none. */
static struct jinja_value item_at(struct jinja_state *s, struct jinja_value of, int64_t at)
{
	int64_t count = (int64_t)jinja_length(s, of);
	at = at < 0 ? at + count : at;
	if (at < 0 || at >= count)
		return (struct jinja_value){0};
	if (of.type == JINJA_SEQUENCE)
		return of.sequence->items[at];
	jinja_charge(s, of.string->size / 64);
	size_t begin = jinja_offset(of.string, (size_t)at), bytes;
	utf8_decode(of.string->data + begin, &bytes);
	return jinja_slice(s, of.string, begin, begin + bytes);
}

/* of[key] as Python has it; ABSENT where that would raise. */
static struct jinja_value item(struct jinja_state *s, struct jinja_value of, struct jinja_value key)
{
	if (of.type == JINJA_DICT) {
		bool hashable =
			key.type != JINJA_DICT && (key.type != JINJA_SEQUENCE || key.sequence->kind == JINJA_TUPLE);
		struct jinja_value *found = hashable ? jinja_dict_find(s, of.dict, key) : NULL;
		return found != NULL ? *found : (struct jinja_value){0};
	}
	bool indexed = of.type == JINJA_STRING || (of.type == JINJA_SEQUENCE && of.sequence->kind <= JINJA_RANGE);
	return indexed && is_whole(key) ? item_at(s, of, whole(key)) : (struct jinja_value){0};
}

static struct jinja_value loop_attribute(struct jinja_state *s, const struct jinja_loop *loop, const char *name)
{
	size_t left = loop->count - loop->index;
	const struct {
		const char *name;
		int64_t value;
	} numbers[] = {{"index", (int64_t)loop->index + 1}, {"index0", (int64_t)loop->index},
		{"revindex", (int64_t)left}, {"revindex0", (int64_t)left - 1}, {"length", (int64_t)loop->count},
		{"depth", 1}, {"depth0", 0}};
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		if (strcmp(name, numbers[i].name) == 0)
			return jinja_integer(numbers[i].value);
	if (strcmp(name, "first") == 0)
		return jinja_boolean(loop->index == 0);
	if (strcmp(name, "last") == 0)
		return jinja_boolean(left == 1);
	if (strcmp(name, "previtem") == 0)
		return loop->index > 0 ? loop->items[loop->index - 1] : jinja_undefined("loop.previtem of the first");
	if (strcmp(name, "nextitem") == 0)
		return left > 1 ? loop->items[loop->index + 1] : jinja_undefined("loop.nextitem of the last");
	(void)s;
	return (struct jinja_value){0};
}

/* Python's getattr: methods, a namespace's names, a loop's numbers; ABSENT where there is none. */
static struct jinja_value attribute(struct jinja_state *s, struct jinja_value of, const char *name)
{
	if (of.type == JINJA_NAMESPACE) {
		struct jinja_value *found = jinja_dict_find_name(s, of.dict, name);
		return found != NULL ? *found : (struct jinja_value){0};
	}
	if (of.type == JINJA_LOOP) {
		struct jinja_value v = loop_attribute(s, of.loop, name);
		if (v.type != JINJA_ABSENT)
			return v;
	}
	if (of.type == JINJA_MACRO && strcmp(name, "name") == 0)
		return jinja_literal(s, of.macro->node->text);
	const struct jinja_function *f = jinja_find_method(s, of, name);
	if (f == NULL)
		return (struct jinja_value){0};
	if (f->call == NULL) /* undefined until it is called */
		return jinja_undefined(
			strcat(strcpy(jinja_alloc(s, strlen(name) + 40), name), ", which the sandbox forbids,"));
	struct jinja_method *m = jinja_alloc(s, sizeof *m);
	*m = (struct jinja_method){of, f};
	return (struct jinja_value){.type = JINJA_METHOD, .method = m};
}

static void want_defined(struct jinja_state *s, struct jinja_value of)
{
	if (of.type == JINJA_UNDEFINED)
		jinja_fail(s, SAKIORI_EFORMAT, "'%.80s' is undefined, so it has no items", of.hint);
}

struct jinja_value jinja_subscript(struct jinja_state *s, struct jinja_value of, struct jinja_value key)
{
	want_defined(s, of);
	struct jinja_value v = item(s, of, key);
	if (v.type != JINJA_ABSENT)
		return v;
	if (key.type != JINJA_STRING)
		return hint_of(s, of, "[...]", 5);
	char *name = jinja_alloc(s, key.string->size + 1);
	memcpy(name, key.string->data, key.string->size);
	v = attribute(s, of, name);
	if (v.type != JINJA_ABSENT)
		return v;
	/* faults quote nothing of a row */
	bool own = key.string->marks == NULL && key.string->mark == JINJA_TEMPLATE;
	return own ? hint_of(s, of, name, key.string->size) : hint_of(s, of, "[...]", 5);
}

struct jinja_value jinja_member(struct jinja_state *s, struct jinja_value of, const char *name)
{
	want_defined(s, of);
	struct jinja_value v = attribute(s, of, name);
	if (v.type == JINJA_ABSENT && of.type == JINJA_DICT)
		v = item(s, of, jinja_literal(s, name));
	return v.type != JINJA_ABSENT ? v : hint_of(s, of, name, strlen(name));
}

/* A part of a path: digits are an index. */
static struct jinja_value part_of_path(struct jinja_state *s, struct jinja_value of, struct jinja_value part)
{
	const struct jinja_string *t = part.string;
	bool number = t->size > 0 && t->size < 10;
	int64_t at = 0;
	for (size_t i = 0; i < t->size && number; i++) {
		number = t->data[i] >= '0' && t->data[i] <= '9';
		at = at * 10 + (t->data[i] - '0');
	}
	return jinja_subscript(s, of, number ? jinja_integer(at) : part);
}

struct jinja_value jinja_path_or(
	struct jinja_state *s, struct jinja_value of, struct jinja_value path, struct jinja_value otherwise)
{
	struct jinja_string dot = {".", NULL, 1, JINJA_TEMPLATE};
	if (path.type == JINJA_INTEGER) {
		of = jinja_subscript(s, of, path);
		return of.type == JINJA_UNDEFINED && otherwise.type != JINJA_ABSENT ? otherwise : of;
	}
	const struct jinja_string *t = jinja_want_string(s, path, "an attribute");
	const struct jinja_sequence *parts = jinja_split(s, t, &dot, -1, false).sequence;
	for (size_t i = 0; i < parts->count; i++) {
		of = part_of_path(s, of, parts->items[i]);
		if (of.type == JINJA_UNDEFINED && otherwise.type != JINJA_ABSENT)
			of = otherwise;
	}
	return of;
}

struct jinja_value jinja_path(struct jinja_state *s, struct jinja_value of, struct jinja_value path)
{
	return jinja_path_or(s, of, path, (struct jinja_value){0});
}

/* One end of a slice as an index from 0 to count, or for a negative step from -1 to count - 1. */
static int64_t clamp(int64_t at, int64_t count, bool backwards)
{
	at = at < 0 ? at + count : at;
	if (at < 0)
		return backwards ? -1 : 0;
	return at < count ? at : backwards ? count - 1 : count;
}

struct jinja_value jinja_slice_of(
	struct jinja_state *s, struct jinja_value of, const struct jinja_value parts[static 3])
{
	want_defined(s, of);
	if (of.type != JINJA_STRING && (of.type != JINJA_SEQUENCE || of.sequence->kind > JINJA_RANGE))
		jinja_fail(s, SAKIORI_EFORMAT, "%s has no slices", jinja_type_name(of));
	for (size_t i = 0; i < 3; i++)
		if (parts[i].type != JINJA_ABSENT && parts[i].type != JINJA_NONE && !is_whole(parts[i]))
			jinja_fail(s, SAKIORI_EFORMAT, "a slice needs integers, found %s", jinja_type_name(parts[i]));
	int64_t step = is_whole(parts[2]) ? whole(parts[2]) : 1;
	if (step == 0)
		jinja_fail(s, SAKIORI_EFORMAT, "the step of a slice is 0");
	int64_t count = (int64_t)jinja_length(s, of);
	int64_t begin = is_whole(parts[0]) ? clamp(whole(parts[0]), count, step < 0) : step < 0 ? count - 1 : 0;
	int64_t end = is_whole(parts[1]) ? clamp(whole(parts[1]), count, step < 0) : step < 0 ? -1 : count;
	if (of.type == JINJA_STRING && step == 1) {
		size_t first = jinja_offset(of.string, (size_t)begin);
		jinja_charge(s, of.string->size / 64);
		return begin < end ? jinja_slice(s, of.string, first, jinja_offset(of.string, (size_t)end))
				   : jinja_literal(s, "");
	}
	const struct jinja_sequence *items = jinja_items(s, of);
	struct jinja_sequence *q = jinja_sequence_new(s, of.type == JINJA_SEQUENCE ? of.sequence->kind : JINJA_LIST, 0);
	struct jinja_builder b = {0};
	for (int64_t i = begin; step > 0 ? i < end : i > end;) {
		if (of.type == JINJA_STRING)
			jinja_put_string(s, &b, items->items[i].string);
		else
			jinja_append(s, q, items->items[i]);
		if (step > 0 ? step >= end - i : step <= end - i)
			break;
		i += step;
	}
	return of.type == JINJA_STRING ? jinja_built(s, &b) : jinja_sequence_value(q);
}
