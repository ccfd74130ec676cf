/* SPDX-License-Identifier: Apache-2.0 */
/* Expressions: values out of nodes, arithmetic, calls. Subscripts are in jinja_subscript.c. */
#include <math.h>
#include <string.h>

#include "text/jinja_private.h"

static int64_t whole(struct jinja_value v)
{
	return v.type == JINJA_BOOLEAN ? v.boolean : v.integer;
}

static double real(struct jinja_value v)
{
	return v.type == JINJA_FLOAT ? v.number : (double)whole(v);
}

static noreturn void overflow(struct jinja_state *s)
{
	jinja_fail(s, SAKIORI_EUNSUPPORTED, "an integer of more than 64 bits");
}

/* Python's: towards minus infinity, the remainder with the divisor's sign. */
static struct jinja_value divide_whole(struct jinja_state *s, int64_t a, int64_t b, bool remainder)
{
	if (b == -1) {
		if (!remainder && a == INT64_MIN)
			overflow(s);
		return jinja_integer(remainder ? 0 : -a);
	}
	int64_t quotient = a / b, rest = a % b;
	if (rest != 0 && (rest < 0) != (b < 0)) {
		quotient--;
		rest += b;
	}
	return jinja_integer(remainder ? rest : quotient);
}

static struct jinja_value divide_real(double a, double b, bool remainder)
{
	double rest = fmod(a, b);
	double quotient = (a - rest) / b;
	if (rest != 0) {
		if ((b < 0) != (rest < 0)) {
			rest += b;
			quotient -= 1;
		}
	} else {
		rest = copysign(0, b);
	}
	if (remainder)
		return jinja_number(rest);
	if (quotient == 0)
		return jinja_number(copysign(0, a / b));
	double down = floor(quotient);
	return jinja_number(quotient - down > 0.5 ? down + 1 : down);
}

static struct jinja_value power(struct jinja_state *s, struct jinja_value a, struct jinja_value b)
{
	if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT || whole(b) < 0) {
		if (real(a) == 0 && real(b) < 0)
			jinja_fail(s, SAKIORI_EFORMAT, "zero to a negative power");
		double result = pow(real(a), real(b));
		if (isnan(result) && !isnan(real(a)) && !isnan(real(b)))
			jinja_fail(s, SAKIORI_EUNSUPPORTED, "a complex number");
		if (isinf(result) && !isinf(real(a)) && !isinf(real(b)))
			jinja_fail(s, SAKIORI_EFORMAT, "a number that is too large");
		return jinja_number(result);
	}
	int64_t base = whole(a), exponent = whole(b), result = 1;
	if (base == 0 || base == 1 || base == -1)
		return jinja_integer(exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base);
	for (; exponent > 0; exponent--)
		if (__builtin_mul_overflow(result, base, &result))
			overflow(s);
	return jinja_integer(result);
}

static struct jinja_value calculate_whole(struct jinja_state *s, char op, int64_t a, int64_t b)
{
	int64_t result = 0;
	bool too_large = op == '+'   ? __builtin_add_overflow(a, b, &result)
			 : op == '-' ? __builtin_sub_overflow(a, b, &result)
				     : __builtin_mul_overflow(a, b, &result);
	if (too_large)
		overflow(s);
	return jinja_integer(result);
}

static struct jinja_value calculate(struct jinja_state *s, const char *op, struct jinja_value a, struct jinja_value b)
{
	bool is_real = a.type == JINJA_FLOAT || b.type == JINJA_FLOAT;
	bool two = op[1] != '\0';
	if (op[0] == '*' && two)
		return power(s, a, b);
	if (op[0] == '/' || op[0] == '%') {
		if (real(b) == 0)
			jinja_fail(s, SAKIORI_EFORMAT, "a division by zero");
		if (op[0] == '/' && !two)
			return jinja_number(real(a) / real(b));
		return is_real ? divide_real(real(a), real(b), op[0] == '%')
			       : divide_whole(s, whole(a), whole(b), op[0] == '%');
	}
	if (!is_real)
		return calculate_whole(s, op[0], whole(a), whole(b));
	return jinja_number(op[0] == '+' ? real(a) + real(b) : op[0] == '-' ? real(a) - real(b) : real(a) * real(b));
}

static struct jinja_value repeat(struct jinja_state *s, struct jinja_value what, int64_t times)
{
	if (what.type == JINJA_STRING) {
		struct jinja_builder b = {0};
		for (; times > 0 && what.string->size > 0; times--)
			jinja_put_string(s, &b, what.string);
		return jinja_built(s, &b);
	}
	struct jinja_sequence *q = jinja_sequence_new(s, what.sequence->kind, 0);
	for (; times > 0 && what.sequence->count > 0; times--)
		for (size_t i = 0; i < what.sequence->count; i++)
			jinja_append(s, q, what.sequence->items[i]);
	return jinja_sequence_value(q);
}

static bool is_list(struct jinja_value v)
{
	return v.type == JINJA_SEQUENCE && v.sequence->kind <= JINJA_TUPLE;
}

static struct jinja_value add(struct jinja_state *s, struct jinja_value a, struct jinja_value b)
{
	if (a.type == JINJA_STRING && b.type == JINJA_STRING) {
		struct jinja_builder text = {0};
		jinja_put_string(s, &text, a.string);
		jinja_put_string(s, &text, b.string);
		return jinja_built(s, &text);
	}
	struct jinja_sequence *q = jinja_sequence_new(s, a.sequence->kind, a.sequence->count + b.sequence->count);
	for (size_t i = 0; i < a.sequence->count; i++)
		jinja_append(s, q, a.sequence->items[i]);
	for (size_t i = 0; i < b.sequence->count; i++)
		jinja_append(s, q, b.sequence->items[i]);
	return jinja_sequence_value(q);
}

static void want_defined(struct jinja_state *s, struct jinja_value v)
{
	if (v.type == JINJA_UNDEFINED)
		jinja_fail(s, SAKIORI_EFORMAT, "'%.80s' is undefined", v.hint);
}

struct jinja_value jinja_binary(struct jinja_state *s, const char *op, struct jinja_value a, struct jinja_value b)
{
	if (a.type == JINJA_STRING && strcmp(op, "%") == 0)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "formatting with %% is not supported");
	want_defined(s, a);
	want_defined(s, b);
	if (jinja_is_number(a) && jinja_is_number(b))
		return calculate(s, op, a, b);
	bool texts = a.type == JINJA_STRING && b.type == JINJA_STRING;
	if (strcmp(op, "+") == 0 && (texts || (is_list(a) && is_list(b) && a.sequence->kind == b.sequence->kind)))
		return add(s, a, b);
	if (strcmp(op, "*") == 0) {
		if ((a.type == JINJA_STRING || is_list(a)) && jinja_is_number(b) && b.type != JINJA_FLOAT)
			return repeat(s, a, whole(b));
		if ((b.type == JINJA_STRING || is_list(b)) && jinja_is_number(a) && a.type != JINJA_FLOAT)
			return repeat(s, b, whole(a));
	}
	jinja_fail(
		s, SAKIORI_EFORMAT, "'%s' does not work between %s and %s", op, jinja_type_name(a), jinja_type_name(b));
}

static struct jinja_value sign(struct jinja_state *s, struct jinja_value v, bool negate)
{
	want_defined(s, v);
	if (!jinja_is_number(v))
		jinja_fail(s, SAKIORI_EFORMAT, "a sign before %s", jinja_type_name(v));
	if (v.type == JINJA_FLOAT)
		return jinja_number(negate ? -v.number : v.number);
	if (negate && whole(v) == INT64_MIN)
		overflow(s);
	return jinja_integer(negate ? -whole(v) : whole(v));
}

bool jinja_holds(struct jinja_state *s, const char *op, struct jinja_value a, struct jinja_value b)
{
	if (strcmp(op, "==") == 0)
		return jinja_equal(s, a, b);
	if (strcmp(op, "!=") == 0)
		return !jinja_equal(s, a, b);
	if (strcmp(op, "in") == 0)
		return jinja_contains(s, b, a);
	if (strcmp(op, "not in") == 0)
		return !jinja_contains(s, b, a);
	want_defined(s, a);
	want_defined(s, b);
	int order = jinja_compare(s, a, b);
	if (order == 2) /* NaN */
		return false;
	if (op[0] == '<')
		return order < 0 || (op[1] == '=' && order == 0);
	return order > 0 || (op[1] == '=' && order == 0);
}

static struct jinja_value compare(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_value left = jinja_evaluate(s, scope, n->a);
	for (size_t i = 0; i < n->count; i++) {
		struct jinja_value right = jinja_evaluate(s, scope, n->list[i]);
		if (!jinja_holds(s, n->operators[i], left, right))
			return jinja_boolean(false);
		left = right;
	}
	return jinja_boolean(true);
}

static struct jinja_value concat(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_builder b = {0};
	for (size_t i = 0; i < n->count; i++)
		jinja_put_value(s, &b, jinja_evaluate(s, scope, n->list[i]));
	return jinja_built(s, &b);
}

static struct jinja_value make_sequence(
	struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n, enum jinja_sequence_kind kind)
{
	struct jinja_sequence *q = jinja_sequence_new(s, kind, n->count);
	for (size_t i = 0; i < n->count; i++)
		jinja_append(s, q, jinja_evaluate(s, scope, n->list[i]));
	return jinja_sequence_value(q);
}

static struct jinja_value make_dict(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_dict *d = jinja_dict_new(s, n->count / 2);
	for (size_t i = 0; i + 1 < n->count; i += 2) {
		struct jinja_value key = jinja_evaluate(s, scope, n->list[i]);
		jinja_dict_set(s, d, key, jinja_evaluate(s, scope, n->list[i + 1]));
	}
	return jinja_dict_value(d);
}

void jinja_arguments(
	struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n, struct jinja_arguments *out)
{
	struct jinja_sequence *q = jinja_sequence_new(s, JINJA_TUPLE, n->count);
	for (size_t i = 0; i < n->count; i++)
		jinja_append(s, q, jinja_evaluate(s, scope, n->list[i]));
	if (n->rest != NULL) {
		const struct jinja_sequence *rest = jinja_items(s, jinja_evaluate(s, scope, n->rest));
		for (size_t i = 0; i < rest->count; i++)
			jinja_append(s, q, rest->items[i]);
	}
	struct jinja_dict *named = n->named_count > 0 ? jinja_dict_new(s, n->named_count) : NULL;
	for (size_t i = 0; i < n->named_count; i++)
		jinja_dict_set(s, named, jinja_literal(s, n->names[i]), jinja_evaluate(s, scope, n->named[i]));
	if (n->named_rest != NULL) {
		struct jinja_value rest = jinja_evaluate(s, scope, n->named_rest);
		if (rest.type != JINJA_DICT)
			jinja_fail(s, SAKIORI_EFORMAT, "'**' needs a dict, found %s", jinja_type_name(rest));
		if (named == NULL)
			named = jinja_dict_new(s, rest.dict->count);
		for (size_t i = 0; i < rest.dict->count; i++) {
			if (rest.dict->entries[i].key.type != JINJA_STRING)
				jinja_fail(s, SAKIORI_EFORMAT, "'**' needs keys that are strings");
			if (jinja_dict_find(s, named, rest.dict->entries[i].key) != NULL)
				jinja_fail(s, SAKIORI_EFORMAT, "an argument is given twice");
			jinja_dict_set(s, named, rest.dict->entries[i].key, rest.dict->entries[i].value);
		}
	}
	*out = (struct jinja_arguments){q->items, q->count, named};
}

/* Puts the arguments in the order of the function's parameters. */
static void take_arguments(struct jinja_state *s, const struct jinja_function *f, const struct jinja_arguments *from,
	struct jinja_value given[static JINJA_PARAMETERS])
{
	size_t count = 0, taken = 0;
	for (const char *p = f->parameters, *end; *p != '\0'; p = *end == ' ' ? end + 1 : end, count++) {
		end = strchrnul(p, ' ');
		struct jinja_value name = jinja_text(s, p, (size_t)(end - p), JINJA_TEMPLATE);
		struct jinja_value *named = from->named != NULL ? jinja_dict_find(s, from->named, name) : NULL;
		if (named != NULL && count < from->count)
			jinja_fail(s, SAKIORI_EFORMAT, "an argument of '%s' is given twice", f->name);
		taken += named != NULL;
		if (count < from->count)
			given[count] = from->values[count];
		else if (named != NULL)
			given[count] = *named;
		else if (count < f->required)
			jinja_fail(s, SAKIORI_EFORMAT, "'%s' needs %zu arguments", f->name, f->required);
	}
	if (from->count > count)
		jinja_fail(
			s, SAKIORI_EFORMAT, "'%s' takes at most %zu arguments, found %zu", f->name, count, from->count);
	if (from->named != NULL && from->named->count > taken)
		jinja_fail(s, SAKIORI_EUNSUPPORTED, "'%s' got a keyword argument that is not known here", f->name);
}

struct jinja_value jinja_call_function(struct jinja_state *s, const struct jinja_function *f, struct jinja_value self,
	const struct jinja_arguments *arguments)
{
	struct jinja_value given[JINJA_PARAMETERS] = {0};
	jinja_charge(s, 1);
	if (f->parameters != NULL)
		take_arguments(s, f, arguments, given);
	return f->call(s, self, given, arguments);
}

struct jinja_value jinja_call(struct jinja_state *s, struct jinja_value callee, const struct jinja_arguments *arguments)
{
	want_defined(s, callee);
	if (callee.type == JINJA_MACRO)
		return jinja_call_macro(s, callee.macro, arguments);
	if (callee.type == JINJA_METHOD)
		return jinja_call_function(s, callee.method->function, callee.method->self, arguments);
	if (callee.type != JINJA_FUNCTION)
		jinja_fail(s, SAKIORI_EFORMAT, "%s cannot be called", jinja_type_name(callee));
	return jinja_call_function(s, callee.function, jinja_none(), arguments);
}

static struct jinja_value apply(
	struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n, struct jinja_value input)
{
	struct jinja_arguments arguments;
	jinja_arguments(s, scope, n, &arguments);
	return jinja_call_function(s, n->function, input, &arguments);
}

struct jinja_value jinja_evaluate_filter(
	struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n, struct jinja_value captured)
{
	if (n->kind == JINJA_CAPTURED)
		return captured;
	if (++s->depth > JINJA_RUN_DEPTH)
		jinja_fail(s, SAKIORI_ELIMIT, "nested deeper than %d", JINJA_RUN_DEPTH);
	struct jinja_value input = jinja_evaluate_filter(s, scope, n->a, captured);
	s->depth--;
	return apply(s, scope, n, input);
}

static struct jinja_value call(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_value callee = jinja_evaluate(s, scope, n->a);
	struct jinja_arguments arguments;
	jinja_arguments(s, scope, n, &arguments);
	s->line = n->line;
	return jinja_call(s, callee, &arguments);
}

static struct jinja_value slice(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_value of = jinja_evaluate(s, scope, n->a), parts[3] = {0};
	const struct jinja_node *const nodes[] = {n->b->a, n->b->b, n->b->c};
	for (size_t i = 0; i < 3; i++)
		if (nodes[i] != NULL)
			parts[i] = jinja_evaluate(s, scope, nodes[i]);
	return jinja_slice_of(s, of, parts);
}

static struct jinja_value evaluate(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_value v;
	switch (n->kind) {
	case JINJA_CONSTANT:
		return n->value;
	case JINJA_NAME:
		return jinja_lookup(s, scope, n->text);
	case JINJA_MEMBER:
		return jinja_member(s, jinja_evaluate(s, scope, n->a), n->text);
	case JINJA_SUBSCRIPT:
		if (n->b->kind == JINJA_SLICE)
			return slice(s, scope, n);
		v = jinja_evaluate(s, scope, n->a);
		return jinja_subscript(s, v, jinja_evaluate(s, scope, n->b));
	case JINJA_MAKE_LIST:
		return make_sequence(s, scope, n, JINJA_LIST);
	case JINJA_MAKE_TUPLE:
		return make_sequence(s, scope, n, JINJA_TUPLE);
	case JINJA_MAKE_DICT:
		return make_dict(s, scope, n);
	case JINJA_CALL:
		return call(s, scope, n);
	case JINJA_FILTER:
	case JINJA_TEST:
		return apply(s, scope, n, jinja_evaluate(s, scope, n->a));
	case JINJA_CHOICE:
		if (jinja_truth(jinja_evaluate(s, scope, n->b)))
			return jinja_evaluate(s, scope, n->a);
		return n->c != NULL ? jinja_evaluate(s, scope, n->c) : jinja_undefined("a choice without 'else'");
	case JINJA_OR:
		v = jinja_evaluate(s, scope, n->a);
		return jinja_truth(v) ? v : jinja_evaluate(s, scope, n->b);
	case JINJA_AND:
		v = jinja_evaluate(s, scope, n->a);
		return jinja_truth(v) ? jinja_evaluate(s, scope, n->b) : v;
	case JINJA_NOT:
		return jinja_boolean(!jinja_truth(jinja_evaluate(s, scope, n->a)));
	case JINJA_COMPARISON:
		return compare(s, scope, n);
	case JINJA_CONCAT:
		return concat(s, scope, n);
	case JINJA_BINARY:
		v = jinja_evaluate(s, scope, n->a);
		return jinja_binary(s, n->text, v, jinja_evaluate(s, scope, n->b));
	default:
		return sign(s, jinja_evaluate(s, scope, n->a), n->kind == JINJA_NEGATE);
	}
}

struct jinja_value jinja_evaluate(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	if (++s->depth > JINJA_RUN_DEPTH)
		jinja_fail(s, SAKIORI_ELIMIT, "nested deeper than %d", JINJA_RUN_DEPTH);
	jinja_charge(s, 1);
	struct jinja_value v = evaluate(s, scope, n);
	s->depth--;
	return v;
}
