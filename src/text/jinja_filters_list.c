/* SPDX-License-Identifier: Apache-2.0 */
/* Filters of lists. */
#include <string.h>

#include "text/jinja_private.h"

#define FILTER(name) JINJA_FUNCTION_NAMED(name)

static struct jinja_value attribute_of(struct jinja_state *s, struct jinja_value item, struct jinja_value attribute)
{
	bool none = attribute.type == JINJA_ABSENT || attribute.type == JINJA_NONE;
	return none ? item : jinja_path(s, item, attribute);
}

FILTER(join)
{
	const struct jinja_sequence *items = jinja_items(s, self);
	struct jinja_builder b = {0};
	for (size_t i = 0; i < items->count; i++) {
		if (i > 0 && given[0].type != JINJA_ABSENT)
			jinja_put_value(s, &b, given[0]);
		jinja_put_value(s, &b, attribute_of(s, items->items[i], given[1]));
	}
	return jinja_built(s, &b);
}

FILTER(first)
{
	if (self.type == JINJA_SEQUENCE && self.sequence->kind == JINJA_ITERATOR) {
		struct jinja_sequence *q = self.sequence;
		jinja_make_items(s, q);
		return q->taken < q->count ? q->items[q->taken++] : jinja_undefined("the first of nothing");
	}
	const struct jinja_sequence *items = jinja_items(s, self);
	return items->count > 0 ? items->items[0] : jinja_undefined("the first of nothing");
}

FILTER(last)
{
	if (self.type == JINJA_SEQUENCE && self.sequence->kind == JINJA_ITERATOR)
		jinja_fail(s, SAKIORI_EFORMAT, "an iterator has no last item; make a list of it");
	const struct jinja_sequence *items = jinja_items(s, self);
	return items->count > 0 ? items->items[items->count - 1] : jinja_undefined("the last of nothing");
}

static struct jinja_sequence *copy(struct jinja_state *s, struct jinja_value v, enum jinja_sequence_kind kind)
{
	const struct jinja_sequence *items = jinja_items(s, v);
	struct jinja_sequence *q = jinja_sequence_new(s, kind, items->count);
	for (size_t i = 0; i < items->count; i++)
		jinja_append(s, q, items->items[i]);
	return q;
}

FILTER(list)
{
	return jinja_sequence_value(copy(s, self, JINJA_LIST));
}

/* An iterator whose items `make` makes when they are asked for. */
static struct jinja_value lazily(struct jinja_state *s, struct jinja_value self, const struct jinja_value *given,
	const struct jinja_arguments *all,
	struct jinja_sequence *(*make)(struct jinja_state *s, const struct jinja_lazy *l))
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_ITERATOR, 0);
	q->later = jinja_alloc(s, sizeof *q->later);
	q->later->self = self;
	memcpy(q->later->given, given, sizeof q->later->given);
	q->later->all = *all;
	q->later->make = make;
	return jinja_sequence_value(q);
}

static struct jinja_sequence *make_pairs(struct jinja_state *s, const struct jinja_lazy *l)
{
	if (l->self.type == JINJA_UNDEFINED)
		return jinja_sequence_new(s, JINJA_ITERATOR, 0);
	if (l->self.type != JINJA_DICT)
		jinja_fail(s, SAKIORI_EFORMAT, "items needs a dict, found %s", jinja_type_name(l->self));
	return jinja_dict_items(s, l->self.dict).sequence;
}

FILTER(items)
{
	return lazily(s, self, given, all, make_pairs);
}

static void turn_round(struct jinja_sequence *q)
{
	for (size_t i = 0; i < q->count / 2; i++) {
		struct jinja_value v = q->items[i];
		q->items[i] = q->items[q->count - 1 - i];
		q->items[q->count - 1 - i] = v;
	}
}

FILTER(reverse)
{
	if (self.type == JINJA_STRING) {
		struct jinja_sequence *q = copy(s, self, JINJA_LIST);
		struct jinja_builder b = {0};
		for (size_t i = q->count; i > 0; i--)
			jinja_put_string(s, &b, q->items[i - 1].string);
		return jinja_built(s, &b);
	}
	/* what Python can only reverse by listing it becomes a list */
	bool listed = self.type == JINJA_SEQUENCE && self.sequence->kind == JINJA_ITERATOR;
	struct jinja_sequence *q = copy(s, self, listed ? JINJA_LIST : JINJA_ITERATOR);
	turn_round(q);
	return jinja_sequence_value(q);
}

/* What is sorted, beside what it is sorted by. */
struct keyed {
	struct jinja_value key, value;
};

static struct jinja_value fold(struct jinja_state *s, struct jinja_value v, bool case_sensitive)
{
	return case_sensitive || v.type != JINJA_STRING ? v : jinja_recase(s, v.string, JINJA_LOWER);
}

/* Merges the sorted halves [0, middle) and [middle, count): stable, a reversed order keeps equals in theirs. */
static void merge(
	struct jinja_state *s, struct keyed *items, struct keyed *room, size_t middle, size_t count, bool reverse)
{
	size_t left = 0, right = middle;
	for (size_t i = 0; i < count; i++) {
		bool take_right = left == middle;
		if (!take_right && right < count) {
			int order = jinja_compare(s, items[right].key, items[left].key);
			take_right = order == (reverse ? 1 : -1);
		}
		room[i] = take_right ? items[right++] : items[left++];
	}
	memcpy(items, room, count * sizeof *items);
}

static void sort_keyed(struct jinja_state *s, struct keyed *items, struct keyed *room, size_t count, bool reverse)
{
	if (count < 2)
		return;
	jinja_charge(s, count);
	sort_keyed(s, items, room, count / 2, reverse);
	sort_keyed(s, items + count / 2, room, count - count / 2, reverse);
	merge(s, items, room, count / 2, count, reverse);
}

static struct jinja_value sort_by(struct jinja_state *s, struct keyed *items, size_t count, bool reverse)
{
	sort_keyed(s, items, jinja_alloc_array(s, count, sizeof *items), count, reverse);
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, count);
	for (size_t i = 0; i < count; i++)
		jinja_append(s, q, items[i].value);
	return jinja_sequence_value(q);
}

/* The item's key for unique, min and max. */
static struct jinja_value key_of(
	struct jinja_state *s, struct jinja_value item, struct jinja_value attribute, bool case_sensitive)
{
	return fold(s, attribute_of(s, item, attribute), case_sensitive);
}

/* The item's key for sort: a list of one or, with commas between them, several attributes. */
static struct jinja_value keys_of(
	struct jinja_state *s, struct jinja_value item, struct jinja_value attribute, bool case_sensitive)
{
	struct jinja_string comma = {",", NULL, 1, JINJA_TEMPLATE};
	struct jinja_sequence *key = jinja_sequence_new(s, JINJA_LIST, 1);
	if (attribute.type != JINJA_STRING) {
		jinja_append(s, key, key_of(s, item, attribute, case_sensitive));
		return jinja_sequence_value(key);
	}
	const struct jinja_sequence *parts = jinja_split(s, attribute.string, &comma, -1, false).sequence;
	for (size_t i = 0; i < parts->count; i++)
		jinja_append(s, key, key_of(s, item, parts->items[i], case_sensitive));
	return jinja_sequence_value(key);
}

FILTER(sort)
{
	const struct jinja_sequence *items = jinja_items(s, self);
	struct keyed *keyed = jinja_alloc_array(s, items->count, sizeof *keyed);
	for (size_t i = 0; i < items->count; i++)
		keyed[i] =
			(struct keyed){keys_of(s, items->items[i], given[2], jinja_truth(given[1])), items->items[i]};
	return sort_by(s, keyed, items->count, jinja_truth(given[0]));
}

FILTER(dictsort)
{
	if (self.type != JINJA_DICT)
		jinja_fail(s, SAKIORI_EFORMAT, "dictsort needs a dict, found %s", jinja_type_name(self));
	bool by_value = jinja_is_text(given[1], "value");
	if (!by_value && given[1].type != JINJA_ABSENT && !jinja_is_text(given[1], "key"))
		jinja_fail(s, SAKIORI_EFORMAT, "dictsort sorts by key or value");
	const struct jinja_sequence *pairs = jinja_dict_items(s, self.dict).sequence;
	struct keyed *keyed = jinja_alloc_array(s, pairs->count, sizeof *keyed);
	for (size_t i = 0; i < pairs->count; i++)
		keyed[i] = (struct keyed){
			fold(s, pairs->items[i].sequence->items[by_value], jinja_truth(given[0])), pairs->items[i]};
	return sort_by(s, keyed, pairs->count, jinja_truth(given[2]));
}

static struct jinja_sequence *make_unique(struct jinja_state *s, const struct jinja_lazy *l)
{
	const struct jinja_sequence *items = jinja_items(s, l->self);
	struct jinja_sequence *out = jinja_sequence_new(s, JINJA_ITERATOR, 0);
	struct jinja_dict *seen = jinja_dict_new(s, 0);
	for (size_t i = 0; i < items->count; i++) {
		struct jinja_value key = key_of(s, items->items[i], l->given[1], jinja_truth(l->given[0]));
		if (jinja_dict_find(s, seen, key) != NULL)
			continue;
		jinja_dict_set(s, seen, key, jinja_none());
		jinja_append(s, out, items->items[i]);
	}
	return out;
}

FILTER(unique)
{
	return lazily(s, self, given, all, make_unique);
}

static struct jinja_value extreme(
	struct jinja_state *s, struct jinja_value self, const struct jinja_value *given, bool greatest)
{
	const struct jinja_sequence *items = jinja_items(s, self);
	if (items->count == 0)
		return jinja_undefined("the least or greatest of nothing");
	size_t best = 0;
	struct jinja_value best_key = key_of(s, items->items[0], given[1], jinja_truth(given[0]));
	for (size_t i = 1; i < items->count; i++) {
		struct jinja_value key = key_of(s, items->items[i], given[1], jinja_truth(given[0]));
		int order = jinja_compare(s, key, best_key);
		if (order == 2 || (greatest ? order <= 0 : order >= 0))
			continue;
		best = i;
		best_key = key;
	}
	return items->items[best];
}

FILTER(least)
{
	return extreme(s, self, given, false);
}

FILTER(greatest)
{
	return extreme(s, self, given, true);
}

FILTER(sum)
{
	const struct jinja_sequence *items = jinja_items(s, self);
	struct jinja_value total = given[1].type != JINJA_ABSENT ? given[1] : jinja_integer(0);
	if (total.type == JINJA_STRING)
		jinja_fail(s, SAKIORI_EFORMAT, "sum does not join strings");
	for (size_t i = 0; i < items->count; i++)
		total = jinja_binary(s, "+", total, attribute_of(s, items->items[i], given[0]));
	return total;
}

/* The arguments from number `from` on. */
static struct jinja_arguments tail(const struct jinja_arguments *all, size_t from)
{
	return (struct jinja_arguments){all->values + from, all->count - from, all->named};
}

static const char *name_of(struct jinja_state *s, struct jinja_value v, const char *what)
{
	const struct jinja_string *t = jinja_want_string(s, v, what);
	char *name = jinja_alloc(s, t->size + 1);
	memcpy(name, t->data, t->size);
	return name;
}

/* map(attribute=..., default=...) */
static void take_attribute(struct jinja_state *s, const struct jinja_arguments *all, struct jinja_value *attribute,
	struct jinja_value *otherwise)
{
	const struct jinja_dict *named = all->named != NULL ? all->named : jinja_dict_new(s, 0);
	const struct jinja_value *found = jinja_dict_find_name(s, named, "attribute");
	const struct jinja_value *given = jinja_dict_find_name(s, named, "default");
	if (found == NULL || named->count != 1 + (size_t)(given != NULL))
		jinja_fail(s, SAKIORI_EFORMAT, "map needs a filter's name or attribute=");
	*attribute = *found;
	*otherwise = given != NULL && given->type != JINJA_NONE ? *given : (struct jinja_value){0};
}

static struct jinja_sequence *make_map(struct jinja_state *s, const struct jinja_lazy *l)
{
	if (!jinja_truth(l->self))
		return jinja_sequence_new(s, JINJA_ITERATOR, 0);
	const struct jinja_sequence *items = jinja_items(s, l->self);
	struct jinja_sequence *out = jinja_sequence_new(s, JINJA_ITERATOR, items->count);
	if (l->all.count == 0) {
		struct jinja_value attribute, otherwise;
		take_attribute(s, &l->all, &attribute, &otherwise);
		for (size_t i = 0; i < items->count; i++)
			jinja_append(s, out, jinja_path_or(s, items->items[i], attribute, otherwise));
		return out;
	}
	const char *name = name_of(s, l->all.values[0], "a filter's name");
	const struct jinja_function *f = jinja_filter(name);
	if (f == NULL)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "the filter '%.40s' is not supported", name);
	struct jinja_arguments rest = tail(&l->all, 1);
	for (size_t i = 0; i < items->count; i++)
		jinja_append(s, out, jinja_call_function(s, f, items->items[i], &rest));
	return out;
}

FILTER(map)
{
	return lazily(s, self, given, all, make_map);
}

/* Keeps the items whose attribute (by_attribute) or they themselves pass the test, or do not. */
static struct jinja_sequence *choose(struct jinja_state *s, const struct jinja_lazy *l, bool by_attribute, bool keep)
{
	if (!jinja_truth(l->self))
		return jinja_sequence_new(s, JINJA_ITERATOR, 0);
	const struct jinja_arguments *all = &l->all;
	if (by_attribute && all->count == 0)
		jinja_fail(s, SAKIORI_EFORMAT, "selectattr and rejectattr need an attribute");
	const struct jinja_function *test = NULL;
	struct jinja_arguments rest = {0};
	if (all->count > by_attribute) {
		const char *name = name_of(s, all->values[by_attribute], "a test's name");
		test = jinja_test(name);
		if (test == NULL)
			jinja_fail(s, SAKIORI_EUNSUPPORTED, "the test '%.40s' is not supported", name);
		rest = tail(all, 1 + (size_t)by_attribute);
	}
	const struct jinja_sequence *items = jinja_items(s, l->self);
	struct jinja_sequence *out = jinja_sequence_new(s, JINJA_ITERATOR, 0);
	for (size_t i = 0; i < items->count; i++) {
		struct jinja_value v = by_attribute ? jinja_path(s, items->items[i], all->values[0]) : items->items[i];
		if (jinja_truth(test != NULL ? jinja_call_function(s, test, v, &rest) : v) == keep)
			jinja_append(s, out, items->items[i]);
	}
	return out;
}

static struct jinja_sequence *make_kept(struct jinja_state *s, const struct jinja_lazy *l)
{
	return choose(s, l, false, true);
}

static struct jinja_sequence *make_dropped(struct jinja_state *s, const struct jinja_lazy *l)
{
	return choose(s, l, false, false);
}

static struct jinja_sequence *make_kept_by_attribute(struct jinja_state *s, const struct jinja_lazy *l)
{
	return choose(s, l, true, true);
}

static struct jinja_sequence *make_dropped_by_attribute(struct jinja_state *s, const struct jinja_lazy *l)
{
	return choose(s, l, true, false);
}

FILTER(keep)
{
	return lazily(s, self, given, all, make_kept);
}

FILTER(drop)
{
	return lazily(s, self, given, all, make_dropped);
}

FILTER(keep_by_attribute)
{
	return lazily(s, self, given, all, make_kept_by_attribute);
}

FILTER(drop_by_attribute)
{
	return lazily(s, self, given, all, make_dropped_by_attribute);
}

static const struct jinja_function filters[] = {{"join", "d attribute", 0, join}, {"first", "", 0, first},
	{"last", "", 0, last}, {"list", "", 0, list}, {"items", "", 0, items}, {"reverse", "", 0, reverse},
	{"sort", "reverse case_sensitive attribute", 0, sort}, {"dictsort", "case_sensitive by reverse", 0, dictsort},
	{"unique", "case_sensitive attribute", 0, unique}, {"min", "case_sensitive attribute", 0, least},
	{"max", "case_sensitive attribute", 0, greatest}, {"sum", "attribute start", 0, sum}, {"map", NULL, 0, map},
	{"select", NULL, 0, keep}, {"reject", NULL, 0, drop}, {"selectattr", NULL, 0, keep_by_attribute},
	{"rejectattr", NULL, 0, drop_by_attribute}, {NULL, NULL, 0, NULL}};

const struct jinja_function *jinja_list_filter(const char *name)
{
	return jinja_find_function(filters, name);
}
