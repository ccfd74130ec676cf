/* SPDX-License-Identifier: Apache-2.0 */
/* What may stand behind `is`. */
#include <string.h>

#include "text/jinja_private.h"

#define TEST(name) JINJA_FUNCTION_NAMED(name)

TEST(is_defined)
{
	return jinja_boolean(self.type != JINJA_UNDEFINED);
}

TEST(is_undefined)
{
	return jinja_boolean(self.type == JINJA_UNDEFINED);
}

TEST(is_none)
{
	return jinja_boolean(self.type == JINJA_NONE);
}

TEST(is_boolean)
{
	return jinja_boolean(self.type == JINJA_BOOLEAN);
}

TEST(is_true)
{
	return jinja_boolean(self.type == JINJA_BOOLEAN && self.boolean);
}

TEST(is_false)
{
	return jinja_boolean(self.type == JINJA_BOOLEAN && !self.boolean);
}

TEST(is_integer)
{
	return jinja_boolean(self.type == JINJA_INTEGER);
}

TEST(is_float)
{
	return jinja_boolean(self.type == JINJA_FLOAT);
}

TEST(is_number)
{
	return jinja_boolean(jinja_is_number(self));
}

TEST(is_string)
{
	return jinja_boolean(self.type == JINJA_STRING);
}

TEST(is_mapping)
{
	return jinja_boolean(self.type == JINJA_DICT);
}

/* Undefined has a length and items, though none. */
TEST(is_sequence)
{
	return jinja_boolean(self.type == JINJA_STRING || self.type == JINJA_DICT || self.type == JINJA_UNDEFINED ||
			     (self.type == JINJA_SEQUENCE && self.sequence->kind <= JINJA_RANGE));
}

TEST(is_iterable)
{
	return jinja_boolean(self.type == JINJA_STRING || self.type == JINJA_DICT || self.type == JINJA_UNDEFINED ||
			     self.type == JINJA_SEQUENCE || self.type == JINJA_LOOP);
}

TEST(is_callable)
{
	return jinja_boolean(self.type >= JINJA_LOOP || self.type == JINJA_UNDEFINED);
}

static struct jinja_value divides(struct jinja_state *s, struct jinja_value v, int64_t by, int64_t rest)
{
	return jinja_boolean(jinja_equal(s, jinja_binary(s, "%", v, jinja_integer(by)), jinja_integer(rest)));
}

TEST(is_even)
{
	return divides(s, self, 2, 0);
}

TEST(is_odd)
{
	return divides(s, self, 2, 1);
}

TEST(is_divisible)
{
	return jinja_boolean(jinja_equal(s, jinja_binary(s, "%", self, given[0]), jinja_integer(0)));
}

TEST(is_equal)
{
	return jinja_boolean(jinja_equal(s, self, given[0]));
}

TEST(is_unequal)
{
	return jinja_boolean(!jinja_equal(s, self, given[0]));
}

TEST(is_less)
{
	return jinja_boolean(jinja_holds(s, "<", self, given[0]));
}

TEST(is_at_most)
{
	return jinja_boolean(jinja_holds(s, "<=", self, given[0]));
}

TEST(is_greater)
{
	return jinja_boolean(jinja_holds(s, ">", self, given[0]));
}

TEST(is_at_least)
{
	return jinja_boolean(jinja_holds(s, ">=", self, given[0]));
}

TEST(is_in)
{
	return jinja_boolean(jinja_contains(s, given[0], self));
}

/* Identity, where it can be told without Python's caches. */
TEST(is_same)
{
	if (self.type != given[0].type)
		return jinja_boolean(false);
	if (self.type == JINJA_NONE)
		return jinja_boolean(true);
	if (self.type == JINJA_BOOLEAN)
		return jinja_boolean(self.boolean == given[0].boolean);
	if (self.type <= JINJA_STRING)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "'sameas' of %s is not supported", jinja_type_name(self));
	return jinja_boolean(self.dict == given[0].dict);
}

TEST(is_upper)
{
	return jinja_boolean(jinja_is_case(jinja_to_string(s, self).string, true));
}

TEST(is_lower)
{
	return jinja_boolean(jinja_is_case(jinja_to_string(s, self).string, false));
}

TEST(is_filter)
{
	const struct jinja_string *t = jinja_want_string(s, self, "a filter's name");
	char *name = jinja_alloc(s, t->size + 1);
	memcpy(name, t->data, t->size);
	return jinja_boolean(jinja_filter(name) != NULL);
}

static const struct jinja_function tests[] = {{"defined", "", 0, is_defined}, {"undefined", "", 0, is_undefined},
	{"none", "", 0, is_none}, {"boolean", "", 0, is_boolean}, {"true", "", 0, is_true}, {"false", "", 0, is_false},
	{"integer", "", 0, is_integer}, {"float", "", 0, is_float}, {"number", "", 0, is_number},
	{"string", "", 0, is_string}, {"mapping", "", 0, is_mapping}, {"sequence", "", 0, is_sequence},
	{"iterable", "", 0, is_iterable}, {"callable", "", 0, is_callable}, {"even", "", 0, is_even},
	{"odd", "", 0, is_odd}, {"divisibleby", "num", 1, is_divisible}, {"eq", "other", 1, is_equal},
	{"equalto", "other", 1, is_equal}, {"==", "other", 1, is_equal}, {"ne", "other", 1, is_unequal},
	{"!=", "other", 1, is_unequal}, {"lt", "other", 1, is_less}, {"lessthan", "other", 1, is_less},
	{"<", "other", 1, is_less}, {"le", "other", 1, is_at_most}, {"<=", "other", 1, is_at_most},
	{"gt", "other", 1, is_greater}, {"greaterthan", "other", 1, is_greater}, {">", "other", 1, is_greater},
	{"ge", "other", 1, is_at_least}, {">=", "other", 1, is_at_least}, {"in", "seq", 1, is_in},
	{"sameas", "other", 1, is_same}, {"upper", "", 0, is_upper}, {"lower", "", 0, is_lower},
	{"filter", "", 0, is_filter}, {NULL, NULL, 0, NULL}};

const struct jinja_function *jinja_test(const char *name)
{
	return jinja_find_function(tests, name);
}
