/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "text/jinja_private.h"
#include "text/utf8.h"

struct jinja_block {
	struct jinja_block *next;
	size_t used, size;
	_Alignas(16) char data[];
};

enum { BLOCK = 16 << 10, ALIGNMENT = 16, BYTES_PER_STEP = 64 };

noreturn void jinja_fail(struct jinja_state *s, int code, const char *format, ...)
{
	char text[300];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	s->code = fault_set(s->fault, code, "chat template, line %zu: %s", s->line, text);
	longjmp(s->escape, 1);
}

void jinja_charge(struct jinja_state *s, size_t steps)
{
	if (s->max_steps - s->steps < steps)
		jinja_fail(s, SAKIORI_ELIMIT, "more than %llu steps", (unsigned long long)s->max_steps);
	s->steps += steps;
}

void *jinja_alloc(struct jinja_state *s, size_t bytes)
{
	if (bytes > s->max_memory - s->memory)
		jinja_fail(s, SAKIORI_ELIMIT, "more than %zu bytes of memory", s->max_memory);
	size_t size = bytes + (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT;
	struct jinja_block *block = s->blocks;
	if (block == NULL || block->size - block->used < size) {
		size_t room = size > BLOCK / 4 ? size : BLOCK;
		block = malloc(sizeof *block + room);
		if (block == NULL)
			jinja_fail(s, SAKIORI_ENOMEM, "out of memory over %zu bytes", room);
		block->used = 0;
		block->size = room;
		/* a block of one large thing goes behind the one that still has room */
		if (s->blocks != NULL && room != BLOCK) {
			block->next = s->blocks->next;
			s->blocks->next = block;
		} else {
			block->next = s->blocks;
			s->blocks = block;
		}
	}
	char *memory = block->data + block->used;
	block->used += size;
	s->memory += bytes;
	jinja_charge(s, bytes / BYTES_PER_STEP);
	return memset(memory, 0, size);
}

void *jinja_alloc_array(struct jinja_state *s, size_t count, size_t each)
{
	size_t bytes;
	if (!size_mul(count, each, &bytes))
		jinja_fail(s, SAKIORI_ELIMIT, "more than %zu bytes of memory", s->max_memory);
	return jinja_alloc(s, bytes);
}

void jinja_release(struct jinja_state *s)
{
	for (struct jinja_block *block = s->blocks, *next; block != NULL; block = next) {
		next = block->next;
		free(block);
	}
	s->blocks = NULL;
}

const char *jinja_type_name(struct jinja_value v)
{
	static const char *const names[] = {[JINJA_ABSENT] = "nothing",
		[JINJA_UNDEFINED] = "undefined",
		[JINJA_NONE] = "none",
		[JINJA_BOOLEAN] = "bool",
		[JINJA_INTEGER] = "int",
		[JINJA_FLOAT] = "float",
		[JINJA_STRING] = "str",
		[JINJA_DICT] = "dict",
		[JINJA_NAMESPACE] = "namespace",
		[JINJA_LOOP] = "loop",
		[JINJA_MACRO] = "macro",
		[JINJA_METHOD] = "method",
		[JINJA_FUNCTION] = "function"};
	static const char *const sequences[] = {[JINJA_LIST] = "list",
		[JINJA_TUPLE] = "tuple",
		[JINJA_RANGE] = "range",
		[JINJA_VIEW] = "dict view",
		[JINJA_ITERATOR] = "iterator"};
	return v.type == JINJA_SEQUENCE ? sequences[v.sequence->kind] : names[v.type];
}

bool jinja_truth(struct jinja_value v)
{
	switch (v.type) {
	case JINJA_ABSENT:
	case JINJA_UNDEFINED:
	case JINJA_NONE:
		return false;
	case JINJA_BOOLEAN:
		return v.boolean;
	case JINJA_INTEGER:
		return v.integer != 0;
	case JINJA_FLOAT:
		return v.number != 0;
	case JINJA_STRING:
		return v.string->size > 0;
	case JINJA_SEQUENCE:
		return v.sequence->kind == JINJA_ITERATOR || v.sequence->count > 0;
	case JINJA_DICT:
		return v.dict->count > 0;
	default:
		return true;
	}
}

bool jinja_is_number(struct jinja_value v)
{
	return v.type == JINJA_BOOLEAN || v.type == JINJA_INTEGER || v.type == JINJA_FLOAT;
}

static int64_t whole(struct jinja_value v)
{
	return v.type == JINJA_BOOLEAN ? v.boolean : v.integer;
}

/* Exact, also where an integer has more bits than a double; NaN has no order: 2. */
static int compare_numbers(struct jinja_value a, struct jinja_value b)
{
	if (a.type != JINJA_FLOAT && b.type != JINJA_FLOAT)
		return (whole(a) > whole(b)) - (whole(a) < whole(b));
	if (a.type == JINJA_FLOAT && b.type == JINJA_FLOAT)
		return a.number != a.number || b.number != b.number ? 2 : (a.number > b.number) - (a.number < b.number);
	if (a.type == JINJA_FLOAT) {
		int order = compare_numbers(b, a);
		return order == 2 ? 2 : -order;
	}
	long double left = (long double)whole(a), right = b.number;
	return right != right ? 2 : (left > right) - (left < right);
}

static int compare_strings(struct jinja_state *s, const struct jinja_string *a, const struct jinja_string *b)
{
	size_t least = a->size < b->size ? a->size : b->size;
	jinja_charge(s, least / BYTES_PER_STEP);
	int order = least > 0 ? memcmp(a->data, b->data, least) : 0;
	return order != 0 ? (order > 0) - (order < 0) : (a->size > b->size) - (a->size < b->size);
}

static void go_deeper(struct jinja_state *s)
{
	if (++s->depth > JINJA_RUN_DEPTH)
		jinja_fail(s, SAKIORI_ELIMIT, "nested deeper than %d", JINJA_RUN_DEPTH);
	jinja_charge(s, 1);
}

static bool equal_dicts(struct jinja_state *s, const struct jinja_dict *a, const struct jinja_dict *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		struct jinja_value *other = jinja_dict_find(s, b, a->entries[i].key);
		if (other == NULL || !jinja_equal(s, a->entries[i].value, *other))
			return false;
	}
	return true;
}

static bool equal_sequences(struct jinja_state *s, const struct jinja_sequence *a, const struct jinja_sequence *b)
{
	if (a == b)
		return true;
	if (a->kind != b->kind || a->kind == JINJA_ITERATOR || a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (!jinja_equal(s, a->items[i], b->items[i]))
			return false;
	return true;
}

bool jinja_equal(struct jinja_state *s, struct jinja_value a, struct jinja_value b)
{
	if (jinja_is_number(a) && jinja_is_number(b))
		return compare_numbers(a, b) == 0;
	if (a.type != b.type)
		return false;
	go_deeper(s);
	bool equal;
	switch (a.type) {
	case JINJA_ABSENT:
	case JINJA_UNDEFINED:
	case JINJA_NONE:
		equal = true;
		break;
	case JINJA_STRING:
		equal = a.string->size == b.string->size && compare_strings(s, a.string, b.string) == 0;
		break;
	case JINJA_SEQUENCE:
		equal = equal_sequences(s, a.sequence, b.sequence);
		break;
	case JINJA_DICT:
		equal = equal_dicts(s, a.dict, b.dict);
		break;
	default: /* identity */
		equal = a.dict == b.dict;
	}
	s->depth--;
	return equal;
}

static int compare_sequences(struct jinja_state *s, const struct jinja_sequence *a, const struct jinja_sequence *b)
{
	size_t least = a->count < b->count ? a->count : b->count;
	for (size_t i = 0; i < least; i++)
		if (!jinja_equal(s, a->items[i], b->items[i]))
			return jinja_compare(s, a->items[i], b->items[i]);
	return (a->count > b->count) - (a->count < b->count);
}

int jinja_compare(struct jinja_state *s, struct jinja_value a, struct jinja_value b)
{
	if (jinja_is_number(a) && jinja_is_number(b))
		return compare_numbers(a, b);
	if (a.type == JINJA_STRING && b.type == JINJA_STRING)
		return compare_strings(s, a.string, b.string);
	if (a.type != JINJA_SEQUENCE || b.type != JINJA_SEQUENCE || a.sequence->kind != b.sequence->kind ||
		a.sequence->kind > JINJA_TUPLE)
		jinja_fail(s, SAKIORI_EFORMAT, "%s and %s have no order", jinja_type_name(a), jinja_type_name(b));
	go_deeper(s);
	int order = compare_sequences(s, a.sequence, b.sequence);
	s->depth--;
	return order;
}

bool jinja_contains(struct jinja_state *s, struct jinja_value in, struct jinja_value item)
{
	if (in.type == JINJA_STRING) {
		if (item.type != JINJA_STRING)
			jinja_fail(s, SAKIORI_EFORMAT, "'in' a string needs a string, found %s", jinja_type_name(item));
		return jinja_find(s, in.string, item.string, 0) != SIZE_MAX;
	}
	if (in.type == JINJA_DICT)
		return jinja_dict_find(s, in.dict, item) != NULL;
	if (in.type != JINJA_SEQUENCE && in.type != JINJA_UNDEFINED)
		jinja_fail(s, SAKIORI_EFORMAT, "'in' needs a string, list or dict, found %s", jinja_type_name(in));
	const struct jinja_sequence *items = jinja_items(s, in);
	for (size_t i = 0; i < items->count; i++)
		if (jinja_equal(s, items->items[i], item))
			return true;
	return false;
}

struct jinja_sequence *jinja_sequence_new(struct jinja_state *s, enum jinja_sequence_kind kind, size_t room)
{
	struct jinja_sequence *q = jinja_alloc(s, sizeof *q);
	*q = (struct jinja_sequence){.kind = kind, .capacity = room};
	if (room > 0)
		q->items = jinja_alloc_array(s, room, sizeof *q->items);
	return q;
}

void jinja_append(struct jinja_state *s, struct jinja_sequence *q, struct jinja_value v)
{
	if (q->count == q->capacity) {
		size_t room = q->capacity == 0 ? 8 : 2 * q->capacity;
		struct jinja_value *items = jinja_alloc_array(s, room, sizeof *items);
		if (q->count > 0)
			memcpy(items, q->items, q->count * sizeof *items);
		q->items = items;
		q->capacity = room;
	}
	q->items[q->count++] = v;
}

static struct jinja_sequence *split_characters(struct jinja_state *s, const struct jinja_string *t)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, jinja_characters(t));
	for (size_t at = 0, bytes; at < t->size; at += bytes) {
		utf8_decode(t->data + at, &bytes);
		jinja_append(s, q, jinja_slice(s, t, at, at + bytes));
	}
	return q;
}

void jinja_make_items(struct jinja_state *s, struct jinja_sequence *q)
{
	const struct jinja_lazy *later = q->later;
	if (later == NULL)
		return;
	q->later = NULL;
	const struct jinja_sequence *made = later->make(s, later);
	q->items = made->items;
	q->count = q->capacity = made->count;
}

struct jinja_sequence *jinja_items(struct jinja_state *s, struct jinja_value v)
{
	switch (v.type) {
	case JINJA_UNDEFINED:
		return jinja_sequence_new(s, JINJA_LIST, 0);
	case JINJA_STRING:
		return split_characters(s, v.string);
	case JINJA_DICT:
		return jinja_dict_keys(s, v.dict).sequence;
	case JINJA_SEQUENCE:
		break;
	default:
		jinja_fail(s, SAKIORI_EFORMAT, "expected something to walk through, found %s", jinja_type_name(v));
	}
	if (v.sequence->kind != JINJA_ITERATOR)
		return v.sequence;
	jinja_make_items(s, v.sequence);
	struct jinja_sequence *rest = jinja_alloc(s, sizeof *rest);
	*rest = *v.sequence;
	rest->kind = JINJA_LIST;
	if (rest->items != NULL)
		rest->items += rest->taken;
	rest->count -= rest->taken;
	rest->capacity = rest->count;
	v.sequence->taken = v.sequence->count;
	return rest;
}

size_t jinja_length(struct jinja_state *s, struct jinja_value v)
{
	if (v.type == JINJA_STRING)
		return jinja_characters(v.string);
	if (v.type == JINJA_SEQUENCE && v.sequence->kind != JINJA_ITERATOR)
		return v.sequence->count;
	if (v.type == JINJA_DICT)
		return v.dict->count;
	if (v.type == JINJA_LOOP)
		return v.loop->count;
	if (v.type != JINJA_UNDEFINED)
		jinja_fail(s, SAKIORI_EFORMAT, "%s has no length", jinja_type_name(v));
	return 0;
}

struct jinja_dict *jinja_dict_new(struct jinja_state *s, size_t room)
{
	struct jinja_dict *d = jinja_alloc(s, sizeof *d);
	d->capacity = room;
	if (room > 0)
		d->entries = jinja_alloc_array(s, room, sizeof *d->entries);
	return d;
}

static void want_hashable(struct jinja_state *s, struct jinja_value key)
{
	if (key.type == JINJA_DICT ||
		(key.type == JINJA_SEQUENCE && (key.sequence->kind == JINJA_LIST || key.sequence->kind == JINJA_VIEW)))
		jinja_fail(s, SAKIORI_EFORMAT, "%s cannot be the key of a dict", jinja_type_name(key));
}

struct jinja_value *jinja_dict_find(struct jinja_state *s, const struct jinja_dict *d, struct jinja_value key)
{
	want_hashable(s, key);
	jinja_charge(s, 1 + d->count / 8);
	for (size_t i = 0; i < d->count; i++)
		if (jinja_equal(s, d->entries[i].key, key))
			return &d->entries[i].value;
	return NULL;
}

struct jinja_value *jinja_dict_find_name(struct jinja_state *s, const struct jinja_dict *d, const char *name)
{
	jinja_charge(s, 1 + d->count / 8);
	for (size_t i = 0; i < d->count; i++)
		if (jinja_is_text(d->entries[i].key, name))
			return &d->entries[i].value;
	return NULL;
}

static void dict_add(struct jinja_state *s, struct jinja_dict *d, struct jinja_value key, struct jinja_value value)
{
	if (d->count == d->capacity) {
		size_t room = d->capacity == 0 ? 4 : 2 * d->capacity;
		struct jinja_entry *entries = jinja_alloc_array(s, room, sizeof *entries);
		if (d->count > 0)
			memcpy(entries, d->entries, d->count * sizeof *entries);
		d->entries = entries;
		d->capacity = room;
	}
	d->entries[d->count++] = (struct jinja_entry){key, value};
}

void jinja_dict_set(struct jinja_state *s, struct jinja_dict *d, struct jinja_value key, struct jinja_value value)
{
	struct jinja_value *found = jinja_dict_find(s, d, key);
	if (found != NULL)
		*found = value;
	else
		dict_add(s, d, key, value);
}

struct jinja_value jinja_dict_items(struct jinja_state *s, const struct jinja_dict *d)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_VIEW, d->count);
	for (size_t i = 0; i < d->count; i++) {
		struct jinja_sequence *pair = jinja_sequence_new(s, JINJA_TUPLE, 2);
		jinja_append(s, pair, d->entries[i].key);
		jinja_append(s, pair, d->entries[i].value);
		jinja_append(s, q, jinja_sequence_value(pair));
	}
	return jinja_sequence_value(q);
}

struct jinja_value jinja_dict_keys(struct jinja_state *s, const struct jinja_dict *d)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_VIEW, d->count);
	for (size_t i = 0; i < d->count; i++)
		jinja_append(s, q, d->entries[i].key);
	return jinja_sequence_value(q);
}

struct jinja_value jinja_dict_values(struct jinja_state *s, const struct jinja_dict *d)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_VIEW, d->count);
	for (size_t i = 0; i < d->count; i++)
		jinja_append(s, q, d->entries[i].value);
	return jinja_sequence_value(q);
}

/* Where in the variable a string stands decides its mark. */
struct place {
	const struct jinja_variable *variable;
	size_t depth, index;
	const char *key;
};

static uint8_t mark_at(const struct place *p)
{
	const struct jinja_variable *v = p->variable;
	return v->mark_of != NULL && p->key != NULL ? v->mark_of(v->self, p->index, p->key) : v->mark;
}

static struct jinja_value from_json(struct jinja_state *s, const json_t *j, struct place p);

static struct jinja_value from_object(struct jinja_state *s, const json_t *j, struct place p)
{
	struct jinja_dict *d = jinja_dict_new(s, json_object_size(j));
	const char *key;
	json_t *item;
	json_object_foreach((json_t *)j, key, item)
	{
		if (p.depth == 2)
			p.key = key;
		/* the keys of one object differ already, so they are not looked for */
		struct jinja_value name = jinja_text(s, key, strlen(key), mark_at(&p));
		dict_add(s, d, name, from_json(s, item, p));
	}
	return jinja_dict_value(d);
}

static struct jinja_value from_json(struct jinja_state *s, const json_t *j, struct place p)
{
	if (++p.depth > JINJA_VALUE_DEPTH)
		jinja_fail(s, SAKIORI_ELIMIT, "'%s' is nested deeper than %d", p.variable->name, JINJA_VALUE_DEPTH);
	jinja_charge(s, 1);
	switch (json_typeof(j)) {
	case JSON_STRING:
		return jinja_text(s, json_string_value(j), json_string_length(j), mark_at(&p));
	case JSON_INTEGER:
		return jinja_integer(json_integer_value(j));
	case JSON_REAL:
		return jinja_number(json_real_value(j));
	case JSON_TRUE:
	case JSON_FALSE:
		return jinja_boolean(json_is_true(j));
	case JSON_OBJECT:
		return from_object(s, j, p);
	case JSON_ARRAY:
		break;
	default:
		return jinja_none();
	}
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, json_array_size(j));
	size_t i;
	json_t *item;
	json_array_foreach(j, i, item)
	{
		if (p.depth == 1)
			p.index = i;
		jinja_append(s, q, from_json(s, item, p));
	}
	return jinja_sequence_value(q);
}

struct jinja_value jinja_from_json(struct jinja_state *s, const struct jinja_variable *variable)
{
	return from_json(s, variable->value, (struct place){.variable = variable});
}
