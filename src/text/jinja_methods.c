/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of strings, lists, dicts and loops. What Python has beyond these is refused, not taken for undefined. */
#include <string.h>

#include "text/jinja_private.h"
#include "text/utf8.h"

#define METHOD(name) JINJA_FUNCTION_NAMED(name)

const struct jinja_string *jinja_want_string(struct jinja_state *s, struct jinja_value v, const char *what)
{
	if (v.type != JINJA_STRING)
		jinja_fail(s, SAKIORI_EFORMAT, "expected %s to be a string, found %s", what, jinja_type_name(v));
	return v.string;
}

int64_t jinja_want_integer(struct jinja_state *s, struct jinja_value v, const char *what)
{
	if (v.type != JINJA_INTEGER && v.type != JINJA_BOOLEAN)
		jinja_fail(s, SAKIORI_EFORMAT, "expected %s to be an integer, found %s", what, jinja_type_name(v));
	return v.type == JINJA_BOOLEAN ? v.boolean : v.integer;
}

static const struct jinja_string *string_or_null(struct jinja_state *s, struct jinja_value v, const char *what)
{
	return v.type == JINJA_ABSENT || v.type == JINJA_NONE ? NULL : jinja_want_string(s, v, what);
}

static int64_t integer_or(struct jinja_state *s, struct jinja_value v, int64_t otherwise, const char *what)
{
	return v.type == JINJA_ABSENT ? otherwise : jinja_want_integer(s, v, what);
}

METHOD(strip)
{
	return jinja_strip(s, self.string, string_or_null(s, given[0], "what strip takes away"), true, true);
}

METHOD(lstrip)
{
	return jinja_strip(s, self.string, string_or_null(s, given[0], "what lstrip takes away"), true, false);
}

METHOD(rstrip)
{
	return jinja_strip(s, self.string, string_or_null(s, given[0], "what rstrip takes away"), false, true);
}

METHOD(split)
{
	return jinja_split(s, self.string, string_or_null(s, given[0], "the separator"),
		integer_or(s, given[1], -1, "maxsplit"), false);
}

METHOD(rsplit)
{
	return jinja_split(s, self.string, string_or_null(s, given[0], "the separator"),
		integer_or(s, given[1], -1, "maxsplit"), true);
}

METHOD(splitlines)
{
	return jinja_split_lines(s, self.string);
}

/* before, separator, after; where there is none, the whole text and two empty ones. */
static struct jinja_value cut(struct jinja_state *s, const struct jinja_string *t, size_t at, size_t size, bool right)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_TUPLE, 3);
	struct jinja_value empty = jinja_literal(s, ""), whole = jinja_string_value(t);
	bool found = at != SIZE_MAX;
	jinja_append(s, q, found ? jinja_slice(s, t, 0, at) : right ? empty : whole);
	jinja_append(s, q, found ? jinja_slice(s, t, at, at + size) : empty);
	jinja_append(s, q, found ? jinja_slice(s, t, at + size, t->size) : right ? whole : empty);
	return jinja_sequence_value(q);
}

static const struct jinja_string *separator(struct jinja_state *s, struct jinja_value v)
{
	const struct jinja_string *t = jinja_want_string(s, v, "the separator");
	if (t->size == 0)
		jinja_fail(s, SAKIORI_EFORMAT, "the separator is empty");
	return t;
}

METHOD(partition)
{
	const struct jinja_string *what = separator(s, given[0]);
	return cut(s, self.string, jinja_find(s, self.string, what, 0), what->size, false);
}

METHOD(rpartition)
{
	const struct jinja_string *what = separator(s, given[0]);
	return cut(s, self.string, jinja_find_last(s, self.string, what, self.string->size), what->size, true);
}

static bool is_affix(const struct jinja_string *t, const struct jinja_string *affix, bool end)
{
	return affix->size <= t->size &&
	       memcmp(t->data + (end ? t->size - affix->size : 0), affix->data, affix->size) == 0;
}

static struct jinja_value has_affix(
	struct jinja_state *s, const struct jinja_string *t, const struct jinja_value *given, bool end)
{
	if (given[1].type != JINJA_ABSENT)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "startswith and endswith with a range are not supported");
	if (given[0].type != JINJA_SEQUENCE || given[0].sequence->kind != JINJA_TUPLE)
		return jinja_boolean(is_affix(t, jinja_want_string(s, given[0], "what it starts or ends with"), end));
	for (size_t i = 0; i < given[0].sequence->count; i++)
		if (is_affix(t, jinja_want_string(s, given[0].sequence->items[i], "what it starts or ends with"), end))
			return jinja_boolean(true);
	return jinja_boolean(false);
}

METHOD(startswith)
{
	return has_affix(s, self.string, given, false);
}

METHOD(endswith)
{
	return has_affix(s, self.string, given, true);
}

METHOD(removeprefix)
{
	const struct jinja_string *affix = jinja_want_string(s, given[0], "the prefix"), *t = self.string;
	return jinja_slice(s, t, is_affix(t, affix, false) ? affix->size : 0, t->size);
}

METHOD(removesuffix)
{
	const struct jinja_string *affix = jinja_want_string(s, given[0], "the suffix"), *t = self.string;
	return jinja_slice(s, t, 0, t->size - (is_affix(t, affix, true) ? affix->size : 0));
}

METHOD(upper)
{
	return jinja_recase(s, self.string, JINJA_UPPER);
}

METHOD(lower)
{
	return jinja_recase(s, self.string, JINJA_LOWER);
}

METHOD(capitalize)
{
	return jinja_recase(s, self.string, JINJA_CAPITALIZED);
}

METHOD(title)
{
	return jinja_recase(s, self.string, JINJA_LETTERS);
}

METHOD(has_upper)
{
	return jinja_boolean(jinja_is_case(self.string, true));
}

METHOD(has_lower)
{
	return jinja_boolean(jinja_is_case(self.string, false));
}

METHOD(is_space)
{
	const struct jinja_string *t = self.string;
	bool space = t->size > 0;
	for (size_t at = 0, bytes; at < t->size && space; at += bytes)
		space = jinja_is_space((uint32_t)utf8_decode(t->data + at, &bytes));
	return jinja_boolean(space);
}

METHOD(is_digits)
{
	const struct jinja_string *t = self.string;
	bool digits = t->size > 0;
	for (size_t i = 0; i < t->size; i++) {
		if ((uint8_t)t->data[i] >= 0x80)
			jinja_fail(s, SAKIORI_EUNSUPPORTED, "isdigit of more than ASCII is not supported");
		digits &= t->data[i] >= '0' && t->data[i] <= '9';
	}
	return jinja_boolean(digits);
}

METHOD(replace)
{
	return jinja_replace(s, self.string, jinja_want_string(s, given[0], "what is replaced"),
		jinja_want_string(s, given[1], "what replaces it"), integer_or(s, given[2], -1, "the count"));
}

/* A byte offset as a number of characters; SIZE_MAX: -1. */
static struct jinja_value character_at(struct jinja_state *s, const struct jinja_string *t, size_t at)
{
	if (at == SIZE_MAX)
		return jinja_integer(-1);
	struct jinja_string before = {t->data, NULL, at, 0};
	jinja_charge(s, at / 64);
	return jinja_integer((int64_t)jinja_characters(&before));
}

METHOD(find)
{
	int64_t from = integer_or(s, given[1], 0, "where to begin");
	if (from < 0 || given[2].type != JINJA_ABSENT)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "find from a negative place or up to one is not supported");
	if ((size_t)from > jinja_characters(self.string))
		return jinja_integer(-1);
	size_t at = jinja_find(s, self.string, jinja_want_string(s, given[0], "what is looked for"),
		jinja_offset(self.string, (size_t)from));
	return character_at(s, self.string, at);
}

METHOD(rfind)
{
	size_t at = jinja_find_last(
		s, self.string, jinja_want_string(s, given[0], "what is looked for"), self.string->size);
	return character_at(s, self.string, at);
}

METHOD(count)
{
	const struct jinja_string *what = jinja_want_string(s, given[0], "what is counted");
	if (what->size == 0)
		return jinja_integer((int64_t)jinja_characters(self.string) + 1);
	int64_t n = 0;
	for (size_t at = 0; (at = jinja_find(s, self.string, what, at)) != SIZE_MAX; at += what->size)
		n++;
	return jinja_integer(n);
}

METHOD(join)
{
	const struct jinja_sequence *items = jinja_items(s, given[0]);
	struct jinja_builder b = {0};
	for (size_t i = 0; i < items->count; i++) {
		if (i > 0)
			jinja_put_string(s, &b, self.string);
		jinja_put_string(s, &b, jinja_want_string(s, items->items[i], "what is joined"));
	}
	return jinja_built(s, &b);
}

METHOD(list_count)
{
	int64_t n = 0;
	for (size_t i = 0; i < self.sequence->count; i++)
		n += jinja_equal(s, self.sequence->items[i], given[0]);
	return jinja_integer(n);
}

METHOD(list_index)
{
	for (size_t i = 0; i < self.sequence->count; i++)
		if (jinja_equal(s, self.sequence->items[i], given[0]))
			return jinja_integer((int64_t)i);
	jinja_fail(s, SAKIORI_EFORMAT, "the list has no such item");
}

METHOD(list_copy)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_LIST, self.sequence->count);
	for (size_t i = 0; i < self.sequence->count; i++)
		jinja_append(s, q, self.sequence->items[i]);
	return jinja_sequence_value(q);
}

METHOD(items)
{
	return jinja_dict_items(s, self.dict);
}

METHOD(keys)
{
	return jinja_dict_keys(s, self.dict);
}

METHOD(values)
{
	return jinja_dict_values(s, self.dict);
}

METHOD(get)
{
	const struct jinja_value *found = jinja_dict_find(s, self.dict, given[0]);
	return found != NULL ? *found : given[1].type != JINJA_ABSENT ? given[1] : jinja_none();
}

METHOD(dict_copy)
{
	struct jinja_dict *d = jinja_dict_new(s, self.dict->count);
	for (size_t i = 0; i < self.dict->count; i++)
		d->entries[d->count++] = self.dict->entries[i];
	return jinja_dict_value(d);
}

METHOD(cycle)
{
	if (all->count == 0 || all->named != NULL)
		jinja_fail(s, SAKIORI_EFORMAT, "loop.cycle needs something to go through");
	return all->values[self.loop->index % all->count];
}

METHOD(changed)
{
	struct jinja_sequence *now = jinja_sequence_new(s, JINJA_TUPLE, all->count);
	for (size_t i = 0; i < all->count; i++)
		jinja_append(s, now, all->values[i]);
	struct jinja_value v = jinja_sequence_value(now);
	if (self.loop->changed != NULL && jinja_equal(s, *self.loop->changed, v))
		return jinja_boolean(false);
	self.loop->changed = jinja_alloc(s, sizeof v);
	*self.loop->changed = v;
	return jinja_boolean(true);
}

static const struct jinja_function string_methods[] = {{"strip", "chars", 0, strip}, {"lstrip", "chars", 0, lstrip},
	{"rstrip", "chars", 0, rstrip}, {"split", "sep maxsplit", 0, split}, {"rsplit", "sep maxsplit", 0, rsplit},
	{"splitlines", "", 0, splitlines}, {"partition", "sep", 1, partition}, {"rpartition", "sep", 1, rpartition},
	{"startswith", "prefix start end", 1, startswith}, {"endswith", "suffix start end", 1, endswith},
	{"removeprefix", "prefix", 1, removeprefix}, {"removesuffix", "suffix", 1, removesuffix},
	{"upper", "", 0, upper}, {"lower", "", 0, lower}, {"capitalize", "", 0, capitalize}, {"title", "", 0, title},
	{"isupper", "", 0, has_upper}, {"islower", "", 0, has_lower}, {"isspace", "", 0, is_space},
	{"isdigit", "", 0, is_digits}, {"replace", "old new count", 2, replace}, {"find", "sub start end", 1, find},
	{"rfind", "sub", 1, rfind}, {"count", "sub", 1, count}, {"join", "iterable", 1, join}, {NULL, NULL, 0, NULL}};

/* A method without `call` changes its object, so the sandbox forbids it. */
static const struct jinja_function list_methods[] = {{"count", "value", 1, list_count},
	{"index", "value", 1, list_index}, {"copy", "", 0, list_copy}, {"append", NULL, 0, NULL},
	{"clear", NULL, 0, NULL}, {"extend", NULL, 0, NULL}, {"insert", NULL, 0, NULL}, {"pop", NULL, 0, NULL},
	{"remove", NULL, 0, NULL}, {"reverse", NULL, 0, NULL}, {"sort", NULL, 0, NULL}, {NULL, NULL, 0, NULL}};
static const struct jinja_function tuple_methods[] = {
	{"count", "value", 1, list_count}, {"index", "value", 1, list_index}, {NULL, NULL, 0, NULL}};

static const struct jinja_function dict_methods[] = {{"items", "", 0, items}, {"keys", "", 0, keys},
	{"values", "", 0, values}, {"get", "key default", 1, get}, {"copy", "", 0, dict_copy}, {"clear", NULL, 0, NULL},
	{"pop", NULL, 0, NULL}, {"popitem", NULL, 0, NULL}, {"setdefault", NULL, 0, NULL}, {"update", NULL, 0, NULL},
	{NULL, NULL, 0, NULL}};

static const struct jinja_function loop_methods[] = {
	{"cycle", NULL, 0, cycle}, {"changed", NULL, 0, changed}, {NULL, NULL, 0, NULL}};

/* What Python has beside them: for a template these names exist. */
static const char string_rest[] =
	" casefold center encode expandtabs format format_map index isalnum isalpha isascii isdecimal isidentifier "
	"isnumeric isprintable istitle ljust maketrans rindex rjust swapcase translate zfill ";
static const char number_rest[] = " as_integer_ratio bit_count bit_length conjugate denominator from_bytes fromhex hex "
				  "imag is_integer numerator real to_bytes ";
static const char dict_rest[] = " fromkeys ";
static const char range_rest[] = " count index start step stop ";
static const char view_rest[] = " isdisjoint mapping ";
static const char iterator_rest[] = " close gi_code gi_frame gi_running gi_suspended gi_yieldfrom send throw ";
static const char macro_rest[] = " arguments caller catch_kwargs catch_varargs explicit_caller ";

static bool is_word_of(const char *words, const char *name)
{
	size_t size = strlen(name);
	for (const char *p = words; size > 0 && (p = strstr(p, name)) != NULL; p++)
		if (p > words && p[-1] == ' ' && p[size] == ' ')
			return true;
	return false;
}

const struct jinja_function *jinja_find_function(const struct jinja_function *table, const char *name)
{
	for (; table->name != NULL; table++)
		if (strcmp(table->name, name) == 0)
			return table;
	return NULL;
}

static const char *rest_of(struct jinja_value self)
{
	static const char *const sequences[] = {[JINJA_LIST] = "",
		[JINJA_TUPLE] = "",
		[JINJA_RANGE] = range_rest,
		[JINJA_VIEW] = view_rest,
		[JINJA_ITERATOR] = iterator_rest};
	if (jinja_is_number(self))
		return number_rest;
	return self.type == JINJA_STRING     ? string_rest
	       : self.type == JINJA_DICT     ? dict_rest
	       : self.type == JINJA_SEQUENCE ? sequences[self.sequence->kind]
	       : self.type == JINJA_MACRO    ? macro_rest
					     : "";
}

const struct jinja_function *jinja_find_method(struct jinja_state *s, struct jinja_value self, const char *name)
{
	const struct jinja_function *f = NULL;
	if (self.type == JINJA_STRING)
		f = jinja_find_function(string_methods, name);
	else if (self.type == JINJA_DICT)
		f = jinja_find_function(dict_methods, name);
	else if (self.type == JINJA_LOOP)
		f = jinja_find_function(loop_methods, name);
	else if (self.type == JINJA_SEQUENCE && self.sequence->kind <= JINJA_TUPLE)
		f = jinja_find_function(self.sequence->kind == JINJA_LIST ? list_methods : tuple_methods, name);
	if (f == NULL && is_word_of(rest_of(self), name))
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "'%.40s' of %s is not supported", name, jinja_type_name(self));
	return f;
}
