/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens -> expressions, loosest first: choice, or, and, not, comparison, + -, ~, * / // %, **, sign, subscripts and
 * calls, filters and tests. */
#include <string.h>

#include "text/jinja_private.h"

struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_kind kind)
{
	struct jinja_node *n = jinja_alloc(p->s, sizeof *n);
	n->kind = kind;
	n->line = p->at->line;
	return n;
}

/* Arrays grow at powers of two, so that no capacity is kept. */
static void *room_for_one(struct jinja_parser *p, void *array, size_t count, size_t each)
{
	if ((count & (count - 1)) != 0)
		return array;
	void *larger = jinja_alloc_array(p->s, count == 0 ? 1 : 2 * count, each);
	if (count > 0)
		memcpy(larger, array, count * each);
	return larger;
}

void jinja_add(struct jinja_parser *p, struct jinja_node *to, struct jinja_node *item)
{
	to->list = room_for_one(p, to->list, to->count, sizeof *to->list);
	to->list[to->count++] = item;
}

static noreturn void unexpected(struct jinja_parser *p, const char *wanted)
{
	static const char *const types[] = {[JINJA_TOKEN_END] = "the end of the template",
		[JINJA_TOKEN_DATA] = "text",
		[JINJA_TOKEN_PRINT_BEGIN] = "'{{'",
		[JINJA_TOKEN_PRINT_END] = "'}}'",
		[JINJA_TOKEN_BLOCK_BEGIN] = "'{%'",
		[JINJA_TOKEN_BLOCK_END] = "'%}'",
		[JINJA_TOKEN_CONSTANT] = "a constant"};
	p->s->line = p->at->line;
	if (p->at->text != NULL)
		jinja_fail(p->s, SAKIORI_EFORMAT, "expected %s, found '%.40s'", wanted, p->at->text);
	jinja_fail(p->s, SAKIORI_EFORMAT, "expected %s, found %s", wanted, types[p->at->type]);
}

bool jinja_at(const struct jinja_parser *p, enum jinja_token_type type, const char *text)
{
	return p->at->type == type && (text == NULL || strcmp(p->at->text, text) == 0);
}

bool jinja_accept(struct jinja_parser *p, enum jinja_token_type type, const char *text)
{
	if (!jinja_at(p, type, text))
		return false;
	p->at++;
	return true;
}

void jinja_expect(struct jinja_parser *p, enum jinja_token_type type, const char *text)
{
	if (!jinja_accept(p, type, text))
		unexpected(p, text != NULL ? text : type == JINJA_TOKEN_BLOCK_END ? "'%}'" : "'}}'");
}

const char *jinja_expect_name(struct jinja_parser *p)
{
	if (p->at->type != JINJA_TOKEN_NAME)
		unexpected(p, "a name");
	return p->at++->text;
}

void jinja_enter(struct jinja_parser *p)
{
	if (++p->s->depth <= JINJA_PARSE_DEPTH)
		return;
	p->s->line = p->at->line;
	jinja_fail(p->s, SAKIORI_ELIMIT, "nested deeper than %d", JINJA_PARSE_DEPTH);
}

static bool at_operator(const struct jinja_parser *p, const char *text)
{
	return jinja_at(p, JINJA_TOKEN_OPERATOR, text);
}

static bool accept_operator(struct jinja_parser *p, const char *text)
{
	return jinja_accept(p, JINJA_TOKEN_OPERATOR, text);
}

static bool at_word(const struct jinja_parser *p, const char *text)
{
	return jinja_at(p, JINJA_TOKEN_NAME, text);
}

static struct jinja_node *constant(struct jinja_parser *p, struct jinja_value v)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_CONSTANT);
	n->value = v;
	return n;
}

static struct jinja_node *parse_strings(struct jinja_parser *p)
{
	struct jinja_node *n = constant(p, p->at++->value);
	if (n->value.type != JINJA_STRING || p->at->type != JINJA_TOKEN_CONSTANT || p->at->value.type != JINJA_STRING)
		return n;
	struct jinja_builder b = {0};
	jinja_put_string(p->s, &b, n->value.string);
	for (; p->at->type == JINJA_TOKEN_CONSTANT && p->at->value.type == JINJA_STRING; p->at++)
		jinja_put_string(p->s, &b, p->at->value.string);
	n->value = jinja_built(p->s, &b);
	return n;
}

static struct jinja_node *parse_name(struct jinja_parser *p)
{
	static const struct {
		const char *name;
		struct jinja_value value;
	} constants[] = {{"true", {JINJA_BOOLEAN, {.boolean = true}}}, {"True", {JINJA_BOOLEAN, {.boolean = true}}},
		{"false", {JINJA_BOOLEAN, {.boolean = false}}}, {"False", {JINJA_BOOLEAN, {.boolean = false}}},
		{"none", {JINJA_NONE, {0}}}, {"None", {JINJA_NONE, {0}}}};
	struct jinja_node *n = jinja_node_new(p, JINJA_NAME);
	n->text = jinja_expect_name(p);
	for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
		if (strcmp(n->text, constants[i].name) != 0)
			continue;
		n->kind = JINJA_CONSTANT;
		n->value = constants[i].value;
	}
	if (p->macro != NULL) {
		p->macro->takes_rest |= strcmp(n->text, "varargs") == 0;
		p->macro->takes_named_rest |= strcmp(n->text, "kwargs") == 0;
		p->macro->takes_caller |= strcmp(n->text, "caller") == 0;
	}
	return n;
}

static struct jinja_node *parse_list(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_MAKE_LIST);
	p->at++;
	while (!at_operator(p, "]")) {
		if (n->count > 0)
			jinja_expect(p, JINJA_TOKEN_OPERATOR, ",");
		if (at_operator(p, "]"))
			break;
		jinja_add(p, n, jinja_parse_expression(p, true));
	}
	p->at++;
	return n;
}

static struct jinja_node *parse_dict(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_MAKE_DICT);
	p->at++;
	while (!at_operator(p, "}")) {
		if (n->count > 0)
			jinja_expect(p, JINJA_TOKEN_OPERATOR, ",");
		if (at_operator(p, "}"))
			break;
		jinja_add(p, n, jinja_parse_expression(p, true));
		jinja_expect(p, JINJA_TOKEN_OPERATOR, ":");
		jinja_add(p, n, jinja_parse_expression(p, true));
	}
	p->at++;
	return n;
}

static struct jinja_node *parse_primary(struct jinja_parser *p)
{
	if (p->at->type == JINJA_TOKEN_NAME)
		return parse_name(p);
	if (p->at->type == JINJA_TOKEN_CONSTANT)
		return parse_strings(p);
	if (at_operator(p, "["))
		return parse_list(p);
	if (at_operator(p, "{"))
		return parse_dict(p);
	if (!at_operator(p, "("))
		unexpected(p, "an expression");
	p->at++;
	struct jinja_node *n;
	if (at_operator(p, ")"))
		n = jinja_node_new(p, JINJA_MAKE_TUPLE);
	else
		n = jinja_parse_tuple(p, true);
	jinja_expect(p, JINJA_TOKEN_OPERATOR, ")");
	return n;
}

static struct jinja_node *slice_part(struct jinja_parser *p)
{
	return at_operator(p, ":") || at_operator(p, "]") ? NULL : jinja_parse_expression(p, true);
}

static struct jinja_node *parse_subscript(struct jinja_parser *p, struct jinja_node *of)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_SUBSCRIPT);
	n->a = of;
	p->at++;
	struct jinja_node *slice = jinja_node_new(p, JINJA_SLICE);
	slice->a = at_operator(p, ":") ? NULL : jinja_parse_expression(p, true);
	n->b = slice->a;
	if (accept_operator(p, ":")) {
		n->b = slice;
		slice->b = slice_part(p);
		if (accept_operator(p, ":"))
			slice->c = slice_part(p);
	}
	jinja_expect(p, JINJA_TOKEN_OPERATOR, "]");
	return n;
}

static struct jinja_node *parse_member(struct jinja_parser *p, struct jinja_node *of)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_MEMBER);
	n->a = of;
	p->at++;
	if (p->at->type == JINJA_TOKEN_CONSTANT && p->at->value.type == JINJA_INTEGER) {
		n->kind = JINJA_SUBSCRIPT;
		n->b = parse_strings(p);
	} else {
		n->text = jinja_expect_name(p);
	}
	return n;
}

static bool at_keyword(const struct jinja_parser *p)
{
	return p->at->type == JINJA_TOKEN_NAME && p->at[1].type == JINJA_TOKEN_OPERATOR &&
	       strcmp(p->at[1].text, "=") == 0;
}

static void add_keyword(struct jinja_parser *p, struct jinja_node *call)
{
	call->names = room_for_one(p, call->names, call->named_count, sizeof *call->names);
	call->named = room_for_one(p, call->named, call->named_count, sizeof *call->named);
	const char *name = jinja_expect_name(p);
	p->at++;
	for (size_t i = 0; i < call->named_count; i++)
		if (strcmp(call->names[i], name) == 0)
			jinja_fail(p->s, SAKIORI_EFORMAT, "the argument '%.40s' is given twice", name);
	call->names[call->named_count] = name;
	call->named[call->named_count++] = jinja_parse_expression(p, true);
}

/* "(...)" into the node. */
static void parse_arguments(struct jinja_parser *p, struct jinja_node *call)
{
	jinja_expect(p, JINJA_TOKEN_OPERATOR, "(");
	for (bool first = true; !at_operator(p, ")"); first = false) {
		if (!first)
			jinja_expect(p, JINJA_TOKEN_OPERATOR, ",");
		if (at_operator(p, ")"))
			break;
		p->s->line = p->at->line;
		if (call->named_rest != NULL || (call->rest != NULL && !at_operator(p, "**") && !at_keyword(p)) ||
			(call->named_count > 0 && !at_operator(p, "*") && !at_operator(p, "**") && !at_keyword(p)))
			jinja_fail(p->s, SAKIORI_EFORMAT, "an argument after one that must come last");
		if (accept_operator(p, "*"))
			call->rest = jinja_parse_expression(p, true);
		else if (accept_operator(p, "**"))
			call->named_rest = jinja_parse_expression(p, true);
		else if (at_keyword(p))
			add_keyword(p, call);
		else
			jinja_add(p, call, jinja_parse_expression(p, true));
	}
	p->at++;
}

static struct jinja_node *parse_call(struct jinja_parser *p, struct jinja_node *callee)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_CALL);
	n->a = callee;
	parse_arguments(p, n);
	return n;
}

static struct jinja_node *parse_postfix(struct jinja_parser *p, struct jinja_node *n)
{
	for (;;) {
		if (at_operator(p, "."))
			n = parse_member(p, n);
		else if (at_operator(p, "["))
			n = parse_subscript(p, n);
		else if (at_operator(p, "("))
			n = parse_call(p, n);
		else
			return n;
	}
}

static struct jinja_node *parse_filter(struct jinja_parser *p, struct jinja_node *input)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_FILTER);
	n->text = jinja_expect_name(p);
	n->a = input;
	n->function = jinja_filter(n->text);
	if (n->function == NULL) {
		p->s->line = n->line;
		jinja_fail(p->s, SAKIORI_EUNSUPPORTED, "the filter '%.40s' is not supported", n->text);
	}
	if (at_operator(p, "("))
		parse_arguments(p, n);
	return n;
}

struct jinja_node *jinja_parse_filters(struct jinja_parser *p, struct jinja_node *input, bool begun)
{
	while (begun || accept_operator(p, "|")) {
		begun = false;
		input = parse_filter(p, input != NULL ? input : jinja_node_new(p, JINJA_CAPTURED));
	}
	return input;
}

/* Something that a test's argument without parentheses may begin with. */
static bool at_argument(const struct jinja_parser *p)
{
	return p->at->type == JINJA_TOKEN_CONSTANT || at_operator(p, "(") || at_operator(p, "[") ||
	       at_operator(p, "{") ||
	       (p->at->type == JINJA_TOKEN_NAME && !at_word(p, "else") && !at_word(p, "or") && !at_word(p, "and"));
}

static struct jinja_node *parse_test(struct jinja_parser *p, struct jinja_node *input)
{
	p->at++;
	bool negated = jinja_accept(p, JINJA_TOKEN_NAME, "not");
	struct jinja_node *n = jinja_node_new(p, JINJA_TEST);
	n->text = jinja_expect_name(p);
	n->a = input;
	n->function = jinja_test(n->text);
	p->s->line = n->line;
	if (n->function == NULL)
		jinja_fail(p->s, SAKIORI_EUNSUPPORTED, "the test '%.40s' is not supported", n->text);
	if (at_word(p, "is"))
		jinja_fail(p->s, SAKIORI_EFORMAT, "tests cannot be chained");
	if (at_operator(p, "("))
		parse_arguments(p, n);
	else if (at_argument(p))
		jinja_add(p, n, parse_postfix(p, parse_primary(p)));
	if (!negated)
		return n;
	struct jinja_node *not = jinja_node_new(p, JINJA_NOT);
	not ->a = n;
	return not ;
}

static struct jinja_node *parse_filters_and_tests(struct jinja_parser *p, struct jinja_node *n)
{
	for (;;) {
		if (at_operator(p, "|"))
			n = jinja_parse_filters(p, n, false);
		else if (at_word(p, "is"))
			n = parse_test(p, n);
		else if (at_operator(p, "("))
			n = parse_call(p, n);
		else
			return n;
	}
}

static struct jinja_node *parse_unary(struct jinja_parser *p, bool with_filters)
{
	jinja_enter(p);
	struct jinja_node *n;
	if (at_operator(p, "-") || at_operator(p, "+")) {
		n = jinja_node_new(p, at_operator(p, "-") ? JINJA_NEGATE : JINJA_POSITIVE);
		p->at++;
		n->a = parse_unary(p, false);
	} else {
		n = parse_primary(p);
	}
	n = parse_postfix(p, n);
	if (with_filters)
		n = parse_filters_and_tests(p, n);
	p->s->depth--;
	return n;
}

static struct jinja_node *binary(struct jinja_parser *p, enum jinja_kind kind, struct jinja_node *left)
{
	struct jinja_node *n = jinja_node_new(p, kind);
	n->a = left;
	n->text = p->at++->text;
	return n;
}

static struct jinja_node *parse_power(struct jinja_parser *p)
{
	struct jinja_node *left = parse_unary(p, true);
	while (at_operator(p, "**")) {
		left = binary(p, JINJA_BINARY, left);
		left->b = parse_unary(p, true);
	}
	return left;
}

static struct jinja_node *parse_product(struct jinja_parser *p)
{
	struct jinja_node *left = parse_power(p);
	while (at_operator(p, "*") || at_operator(p, "/") || at_operator(p, "//") || at_operator(p, "%")) {
		left = binary(p, JINJA_BINARY, left);
		left->b = parse_power(p);
	}
	return left;
}

static struct jinja_node *parse_concat(struct jinja_parser *p)
{
	struct jinja_node *first = parse_product(p);
	if (!at_operator(p, "~"))
		return first;
	struct jinja_node *n = jinja_node_new(p, JINJA_CONCAT);
	jinja_add(p, n, first);
	while (accept_operator(p, "~"))
		jinja_add(p, n, parse_product(p));
	return n;
}

static struct jinja_node *parse_sum(struct jinja_parser *p)
{
	struct jinja_node *left = parse_concat(p);
	while (at_operator(p, "+") || at_operator(p, "-")) {
		left = binary(p, JINJA_BINARY, left);
		left->b = parse_concat(p);
	}
	return left;
}

/* The comparison that stands here, taken; NULL: none. */
static const char *take_comparison(struct jinja_parser *p)
{
	static const char *const operators[] = {"==", "!=", "<", "<=", ">", ">="};
	for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++)
		if (accept_operator(p, operators[i]))
			return operators[i];
	if (jinja_accept(p, JINJA_TOKEN_NAME, "in"))
		return "in";
	if (!at_word(p, "not") || p->at[1].type != JINJA_TOKEN_NAME || strcmp(p->at[1].text, "in") != 0)
		return NULL;
	p->at += 2;
	return "not in";
}

static struct jinja_node *parse_comparison(struct jinja_parser *p)
{
	struct jinja_node *first = parse_sum(p), *n = NULL;
	for (const char *op; (op = take_comparison(p)) != NULL;) {
		if (n == NULL) {
			n = jinja_node_new(p, JINJA_COMPARISON);
			n->a = first;
		}
		n->operators = room_for_one(p, n->operators, n->count, sizeof *n->operators);
		n->operators[n->count] = op;
		jinja_add(p, n, parse_sum(p));
	}
	return n != NULL ? n : first;
}

static struct jinja_node *parse_not(struct jinja_parser *p)
{
	if (!at_word(p, "not"))
		return parse_comparison(p);
	jinja_enter(p);
	struct jinja_node *n = jinja_node_new(p, JINJA_NOT);
	p->at++;
	n->a = parse_not(p);
	p->s->depth--;
	return n;
}

static struct jinja_node *parse_and(struct jinja_parser *p)
{
	struct jinja_node *left = parse_not(p);
	while (at_word(p, "and")) {
		left = binary(p, JINJA_AND, left);
		left->b = parse_not(p);
	}
	return left;
}

static struct jinja_node *parse_or(struct jinja_parser *p)
{
	struct jinja_node *left = parse_and(p);
	while (at_word(p, "or")) {
		left = binary(p, JINJA_OR, left);
		left->b = parse_and(p);
	}
	return left;
}

struct jinja_node *jinja_parse_expression(struct jinja_parser *p, bool with_choice)
{
	jinja_enter(p);
	struct jinja_node *n = parse_or(p);
	while (with_choice && jinja_at(p, JINJA_TOKEN_NAME, "if")) {
		struct jinja_node *choice = jinja_node_new(p, JINJA_CHOICE);
		p->at++;
		choice->a = n;
		choice->b = parse_or(p);
		if (jinja_accept(p, JINJA_TOKEN_NAME, "else"))
			choice->c = jinja_parse_expression(p, true);
		n = choice;
	}
	p->s->depth--;
	return n;
}

static bool at_tuple_end(const struct jinja_parser *p)
{
	return p->at->type == JINJA_TOKEN_PRINT_END || p->at->type == JINJA_TOKEN_BLOCK_END || at_operator(p, ")");
}

struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool with_choice)
{
	struct jinja_node *first = jinja_parse_expression(p, with_choice);
	if (!at_operator(p, ","))
		return first;
	struct jinja_node *n = jinja_node_new(p, JINJA_MAKE_TUPLE);
	jinja_add(p, n, first);
	while (accept_operator(p, ",") && !at_tuple_end(p))
		jinja_add(p, n, jinja_parse_expression(p, with_choice));
	return n;
}

static struct jinja_node *parse_target_name(struct jinja_parser *p, bool with_namespace)
{
	if (accept_operator(p, "(")) {
		jinja_enter(p);
		struct jinja_node *inner = jinja_parse_target(p, with_namespace);
		jinja_expect(p, JINJA_TOKEN_OPERATOR, ")");
		p->s->depth--;
		return inner;
	}
	struct jinja_node *n = parse_name(p);
	if (n->kind == JINJA_CONSTANT) {
		p->s->line = n->line;
		jinja_fail(p->s, SAKIORI_EFORMAT, "'%s' cannot be assigned to", n->text);
	}
	if (!with_namespace || !at_operator(p, "."))
		return n;
	struct jinja_node *member = jinja_node_new(p, JINJA_MEMBER);
	p->at++;
	member->a = n;
	member->text = jinja_expect_name(p);
	return member;
}

struct jinja_node *jinja_parse_target(struct jinja_parser *p, bool with_namespace)
{
	struct jinja_node *first = parse_target_name(p, with_namespace);
	if (!at_operator(p, ","))
		return first;
	struct jinja_node *n = jinja_node_new(p, JINJA_MAKE_TUPLE);
	jinja_add(p, n, first);
	while (accept_operator(p, ",") && !at_tuple_end(p) && !at_operator(p, "=") && !at_word(p, "in"))
		jinja_add(p, n, parse_target_name(p, with_namespace));
	return n;
}
