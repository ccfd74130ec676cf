/* SPDX-License-Identifier: Apache-2.0 */
/* Statements: what is written, loops, assignments, macros. */
#include <string.h>

#include "text/jinja_private.h"

struct jinja_binding {
	struct jinja_binding *next;
	const char *name;
	struct jinja_value value;
};

/* How a statement ended. */
enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

struct jinja_scope *jinja_scope_new(struct jinja_state *s, struct jinja_scope *outer)
{
	struct jinja_scope *scope = jinja_alloc(s, sizeof *scope);
	scope->outer = outer;
	return scope;
}

void jinja_bind(struct jinja_state *s, struct jinja_scope *scope, const char *name, struct jinja_value v)
{
	for (struct jinja_binding *b = scope->first; b != NULL; b = b->next) {
		jinja_charge(s, 1);
		if (strcmp(b->name, name) != 0)
			continue;
		b->value = v;
		return;
	}
	struct jinja_binding *b = jinja_alloc(s, sizeof *b);
	*b = (struct jinja_binding){scope->first, name, v};
	scope->first = b;
}

struct jinja_value jinja_lookup(struct jinja_state *s, const struct jinja_scope *scope, const char *name)
{
	size_t seen = 0;
	for (; scope != NULL; scope = scope->outer)
		for (const struct jinja_binding *b = scope->first; b != NULL; b = b->next, seen++)
			if (strcmp(b->name, name) == 0)
				return b->value;
	jinja_charge(s, seen / 8);
	const struct jinja_function *f = jinja_global(name);
	if (f != NULL)
		return (struct jinja_value){.type = JINJA_FUNCTION, .function = f};
	return jinja_undefined(name);
}

static enum flow run_body(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *body);

/* What a body writes, apart. */
static enum flow capture(
	struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *body, struct jinja_value *out)
{
	struct jinja_builder b = {0}, *outer = s->out;
	s->out = &b;
	enum flow flow = run_body(s, scope, body);
	s->out = outer;
	*out = jinja_built(s, &b);
	return flow;
}

static void write_value(struct jinja_state *s, struct jinja_value v)
{
	struct jinja_builder *out = s->out;
	size_t begin = out->size;
	jinja_put_value(s, out, v);
	if (out->size > s->max_output)
		jinja_fail(s, SAKIORI_ELIMIT, "more than %zu bytes of output", s->max_output);
	if (s->generated == 0 || out->size == begin)
		return;
	if (out->marks == NULL && begin == 0) {
		out->mark |= s->generated;
		return;
	}
	/* the marks of what was just written are its own from here on */
	if (out->marks == NULL) {
		if ((out->mark & s->generated) == s->generated)
			return;
		out->marks = jinja_alloc(s, out->capacity);
		memset(out->marks, out->mark, out->size);
	}
	for (size_t i = begin; i < out->size; i++)
		out->marks[i] |= s->generated;
}

static void assign(
	struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *target, struct jinja_value v)
{
	if (target->kind == JINJA_NAME) {
		jinja_bind(s, scope, target->text, v);
		return;
	}
	if (target->kind == JINJA_MEMBER) {
		struct jinja_value of = jinja_lookup(s, scope, target->a->text);
		if (of.type != JINJA_NAMESPACE)
			jinja_fail(s, SAKIORI_EFORMAT, "'%.40s' is no namespace, so nothing in it can be set",
				target->a->text);
		jinja_dict_set(s, of.dict, jinja_literal(s, target->text), v);
		return;
	}
	const struct jinja_sequence *items = jinja_items(s, v);
	if (items->count != target->count)
		jinja_fail(s, SAKIORI_EFORMAT, "%zu values for %zu names", items->count, target->count);
	for (size_t i = 0; i < items->count; i++)
		assign(s, scope, target->list[i], items->items[i]);
}

/* The items that the loop's own condition lets through. */
static const struct jinja_sequence *walked(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	const struct jinja_sequence *all = jinja_items(s, jinja_evaluate(s, scope, n->b));
	if (n->c == NULL)
		return all;
	struct jinja_sequence *kept = jinja_sequence_new(s, JINJA_LIST, 0);
	for (size_t i = 0; i < all->count; i++) {
		struct jinja_scope *inner = jinja_scope_new(s, scope);
		assign(s, inner, n->a, all->items[i]);
		if (jinja_truth(jinja_evaluate(s, inner, n->c)))
			jinja_append(s, kept, all->items[i]);
	}
	return kept;
}

static enum flow run_for(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	const struct jinja_sequence *items = walked(s, scope, n);
	bool ended = false; /* some iteration, without break or continue: as jinja2 has it, otherwise 'else' is run */
	struct jinja_loop *loop = jinja_alloc(s, sizeof *loop);
	loop->items = items->items;
	loop->count = items->count;
	for (; loop->index < loop->count; loop->index++) {
		struct jinja_scope *inner = jinja_scope_new(s, scope);
		jinja_bind(s, inner, "loop", (struct jinja_value){.type = JINJA_LOOP, .loop = loop});
		assign(s, inner, n->a, loop->items[loop->index]);
		enum flow flow = run_body(s, inner, n->body);
		if (flow == FLOW_BREAK)
			break;
		ended |= flow == FLOW_ON;
	}
	return ended || n->otherwise == NULL ? FLOW_ON : run_body(s, jinja_scope_new(s, scope), n->otherwise);
}

static enum flow run_if(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	for (size_t i = 0; i + 1 < n->count; i += 2)
		if (jinja_truth(jinja_evaluate(s, scope, n->list[i])))
			return run_body(s, scope, n->list[i + 1]);
	return n->otherwise != NULL ? run_body(s, scope, n->otherwise) : FLOW_ON;
}

static enum flow run_set_block(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_value text;
	enum flow flow = capture(s, jinja_scope_new(s, scope), n->body, &text);
	if (flow != FLOW_ON)
		return flow;
	assign(s, scope, n->a, n->b != NULL ? jinja_evaluate_filter(s, scope, n->b, text) : text);
	return FLOW_ON;
}

static enum flow run_filter_block(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_value text;
	struct jinja_scope *inner = jinja_scope_new(s, scope);
	enum flow flow = capture(s, inner, n->body, &text);
	if (flow == FLOW_ON)
		write_value(s, jinja_string_value(jinja_want_string(
				       s, jinja_evaluate_filter(s, inner, n->a, text), "what a filter block gives")));
	return flow;
}

static enum flow run_with(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_scope *inner = jinja_scope_new(s, scope);
	for (size_t i = 0; i + 1 < n->count; i += 2)
		jinja_bind(s, inner, n->list[i]->text, jinja_evaluate(s, scope, n->list[i + 1]));
	return run_body(s, inner, n->body);
}

static struct jinja_value macro_value(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_macro *m = jinja_alloc(s, sizeof *m);
	*m = (struct jinja_macro){n, scope};
	return (struct jinja_value){.type = JINJA_MACRO, .macro = m};
}

static void run_call_block(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	struct jinja_arguments arguments;
	struct jinja_value callee = jinja_evaluate(s, scope, n->a->a);
	jinja_arguments(s, scope, n->a, &arguments);
	if (arguments.named == NULL)
		arguments.named = jinja_dict_new(s, 1);
	jinja_dict_set(s, arguments.named, jinja_literal(s, "caller"), macro_value(s, scope, n));
	write_value(s, jinja_call(s, callee, &arguments));
}

static void run_generation(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	uint8_t outer = s->generated;
	s->generated = JINJA_GENERATED | (s->second ? JINJA_SECOND : 0);
	s->second = !s->second;
	run_body(s, jinja_scope_new(s, scope), n->body);
	s->generated = outer;
}

static void print(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	for (size_t i = 0; i < n->count; i++) {
		s->line = n->list[i]->line;
		write_value(s, jinja_evaluate(s, scope, n->list[i]));
	}
}

static enum flow run_statement(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n)
{
	switch (n->kind) {
	case JINJA_PRINT:
		print(s, scope, n);
		return FLOW_ON;
	case JINJA_FOR:
		return run_for(s, scope, n);
	case JINJA_IF:
		return run_if(s, scope, n);
	case JINJA_SET:
		assign(s, scope, n->a, jinja_evaluate(s, scope, n->b));
		return FLOW_ON;
	case JINJA_SET_BLOCK:
		return run_set_block(s, scope, n);
	case JINJA_DEFINE:
		jinja_bind(s, scope, n->text, macro_value(s, scope, n));
		return FLOW_ON;
	case JINJA_CALL_BLOCK:
		run_call_block(s, scope, n);
		return FLOW_ON;
	case JINJA_FILTER_BLOCK:
		return run_filter_block(s, scope, n);
	case JINJA_WITH:
		return run_with(s, scope, n);
	case JINJA_GENERATION:
		run_generation(s, scope, n);
		return FLOW_ON;
	case JINJA_BREAK:
		return FLOW_BREAK;
	default:
		return FLOW_CONTINUE;
	}
}

static enum flow run_body(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *body)
{
	if (++s->depth > JINJA_RUN_DEPTH)
		jinja_fail(s, SAKIORI_ELIMIT, "nested deeper than %d", JINJA_RUN_DEPTH);
	enum flow flow = FLOW_ON;
	for (size_t i = 0; i < body->count && flow == FLOW_ON; i++) {
		s->line = body->list[i]->line;
		jinja_charge(s, 1);
		flow = run_statement(s, scope, body->list[i]);
	}
	jinja_charge(s, 1);
	s->depth--;
	return flow;
}

void jinja_run(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *body)
{
	run_body(s, scope, body);
}

/* The value of parameter i: what was given, the default, or undefined. */
static struct jinja_value parameter(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n,
	size_t i, const struct jinja_arguments *arguments, size_t *named_taken)
{
	const struct jinja_node *p = n->list[i];
	struct jinja_value *named =
		arguments->named != NULL ? jinja_dict_find_name(s, arguments->named, p->text) : NULL;
	if (named != NULL && i < arguments->count)
		jinja_fail(s, SAKIORI_EFORMAT, "'%.40s' is given twice to '%.40s'", p->text, n->text);
	*named_taken += named != NULL;
	if (i < arguments->count)
		return arguments->values[i];
	if (named != NULL)
		return *named;
	return p->b != NULL ? jinja_evaluate(s, scope, p->b) : jinja_undefined(p->text);
}

/* Arguments beyond the parameters, bound as varargs and kwargs where the body speaks of them. */
static void bind_rest(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n,
	const struct jinja_arguments *arguments, size_t named_taken)
{
	size_t named_count = arguments->named != NULL ? arguments->named->count : 0;
	struct jinja_value *caller =
		arguments->named != NULL ? jinja_dict_find_name(s, arguments->named, "caller") : NULL;
	if (n->takes_caller) {
		named_taken += caller != NULL;
		jinja_bind(s, scope, "caller", caller != NULL ? *caller : jinja_undefined("caller"));
	}
	if (arguments->count > n->count && !n->takes_rest)
		jinja_fail(s, SAKIORI_EFORMAT, "'%.40s' takes at most %zu arguments, found %zu", n->text, n->count,
			arguments->count);
	if (named_count > named_taken && !n->takes_named_rest)
		jinja_fail(s, SAKIORI_EFORMAT, "'%.40s' got a keyword argument that it does not know", n->text);
	if (n->takes_rest) {
		struct jinja_sequence *rest = jinja_sequence_new(s, JINJA_TUPLE, 0);
		for (size_t i = n->count; i < arguments->count; i++)
			jinja_append(s, rest, arguments->values[i]);
		jinja_bind(s, scope, "varargs", jinja_sequence_value(rest));
	}
	if (!n->takes_named_rest)
		return;
	struct jinja_dict *rest = jinja_dict_new(s, 0);
	for (size_t i = 0; i < named_count; i++) {
		const struct jinja_entry *e = &arguments->named->entries[i];
		bool known = n->takes_caller && jinja_is_text(e->key, "caller");
		for (size_t k = 0; k < n->count && !known; k++)
			known = jinja_is_text(e->key, n->list[k]->text);
		if (!known)
			jinja_dict_set(s, rest, e->key, e->value);
	}
	jinja_bind(s, scope, "kwargs", jinja_dict_value(rest));
}

struct jinja_value jinja_call_macro(
	struct jinja_state *s, const struct jinja_macro *m, const struct jinja_arguments *arguments)
{
	const struct jinja_node *n = m->node;
	struct jinja_scope *scope = jinja_scope_new(s, m->scope);
	size_t named_taken = 0;
	for (size_t i = 0; i < n->count; i++)
		jinja_bind(s, scope, n->list[i]->text, parameter(s, scope, n, i, arguments, &named_taken));
	bind_rest(s, scope, n, arguments, named_taken);
	uint8_t generated = s->generated;
	size_t line = s->line;
	s->generated = 0; /* marked where its text is written */
	struct jinja_value text;
	capture(s, scope, n->body, &text);
	s->generated = generated;
	s->line = line;
	return text;
}
