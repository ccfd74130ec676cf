/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens -> statements. */
#include <string.h>

#include "text/jinja_private.h"

static bool at_word(const struct jinja_parser *p, const char *word)
{
	return jinja_at(p, JINJA_TOKEN_NAME, word);
}

static bool accept_word(struct jinja_parser *p, const char *word)
{
	return jinja_accept(p, JINJA_TOKEN_NAME, word);
}

static void end_tag(struct jinja_parser *p)
{
	jinja_expect(p, JINJA_TOKEN_BLOCK_END, NULL);
}

static struct jinja_node *parse_body(struct jinja_parser *p, const char *ends);

/* After a tag's inside: its end, then statements up to the tag that is one of `ends` ("elif else endif"); that name is
 * the next token. */
static struct jinja_node *parse_block(struct jinja_parser *p, const char *ends)
{
	jinja_accept(p, JINJA_TOKEN_OPERATOR, ":");
	end_tag(p);
	return parse_body(p, ends);
}

static struct jinja_node *parse_for(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_FOR;
	n->a = jinja_parse_target(p, false);
	jinja_expect(p, JINJA_TOKEN_NAME, "in");
	n->b = jinja_parse_tuple(p, false);
	if (accept_word(p, "if"))
		n->c = jinja_parse_expression(p, true);
	if (at_word(p, "recursive"))
		jinja_fail(p->s, SAKIORI_EUNSUPPORTED, "'recursive' is not supported");
	p->loops++;
	n->body = parse_block(p, "else endfor");
	p->loops--;
	if (accept_word(p, "else"))
		n->otherwise = parse_block(p, "endfor");
	p->at++;
	return n;
}

static struct jinja_node *parse_if(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_IF;
	do {
		jinja_add(p, n, jinja_parse_tuple(p, false));
		jinja_add(p, n, parse_block(p, "elif else endif"));
	} while (accept_word(p, "elif"));
	if (accept_word(p, "else"))
		n->otherwise = parse_block(p, "endif");
	p->at++;
	return n;
}

static struct jinja_node *parse_set(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_SET;
	n->a = jinja_parse_target(p, true);
	if (jinja_accept(p, JINJA_TOKEN_OPERATOR, "=")) {
		n->b = jinja_parse_tuple(p, true);
		return n;
	}
	n->kind = JINJA_SET_BLOCK;
	n->b = jinja_parse_filters(p, NULL, false);
	n->body = parse_block(p, "endset");
	p->at++;
	return n;
}

static void parse_parameters(struct jinja_parser *p, struct jinja_node *n)
{
	jinja_expect(p, JINJA_TOKEN_OPERATOR, "(");
	bool defaults = false;
	while (!jinja_accept(p, JINJA_TOKEN_OPERATOR, ")")) {
		if (n->count > 0)
			jinja_expect(p, JINJA_TOKEN_OPERATOR, ",");
		struct jinja_node *parameter = jinja_node_new(p, JINJA_NAME);
		parameter->text = jinja_expect_name(p);
		if (jinja_accept(p, JINJA_TOKEN_OPERATOR, "="))
			parameter->b = jinja_parse_expression(p, true);
		else if (defaults)
			jinja_fail(p->s, SAKIORI_EFORMAT, "'%.40s' needs a default, as those before it have one",
				parameter->text);
		defaults = parameter->b != NULL;
		jinja_add(p, n, parameter);
	}
}

/* The body of a macro or of what is called like one. */
static void parse_macro_body(struct jinja_parser *p, struct jinja_node *n, const char *end)
{
	struct jinja_node *outer = p->macro;
	size_t loops = p->loops;
	p->macro = n;
	p->loops = 0;
	n->body = parse_block(p, end);
	p->macro = outer;
	p->loops = loops;
	/* what an inner body uses of ours is ours to know */
	if (outer != NULL && n->takes_caller)
		outer->takes_caller = true;
	p->at++;
}

static struct jinja_node *parse_macro(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_DEFINE;
	n->text = jinja_expect_name(p);
	parse_parameters(p, n);
	parse_macro_body(p, n, "endmacro");
	return n;
}

static struct jinja_node *parse_call_block(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_CALL_BLOCK;
	n->text = "caller";
	if (jinja_at(p, JINJA_TOKEN_OPERATOR, "("))
		parse_parameters(p, n);
	n->a = jinja_parse_expression(p, true);
	if (n->a->kind != JINJA_CALL)
		jinja_fail(p->s, SAKIORI_EFORMAT, "'call' needs the call of a macro");
	parse_macro_body(p, n, "endcall");
	return n;
}

static struct jinja_node *parse_filter_block(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_FILTER_BLOCK;
	n->a = jinja_parse_filters(p, NULL, true);
	n->body = parse_block(p, "endfilter");
	p->at++;
	return n;
}

static struct jinja_node *parse_with(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_WITH;
	while (!jinja_at(p, JINJA_TOKEN_BLOCK_END, NULL)) {
		if (n->count > 0)
			jinja_expect(p, JINJA_TOKEN_OPERATOR, ",");
		struct jinja_node *target = jinja_node_new(p, JINJA_NAME);
		target->text = jinja_expect_name(p);
		jinja_add(p, n, target);
		jinja_expect(p, JINJA_TOKEN_OPERATOR, "=");
		jinja_add(p, n, jinja_parse_expression(p, true));
	}
	n->body = parse_block(p, "endwith");
	p->at++;
	return n;
}

static struct jinja_node *parse_generation(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_GENERATION;
	p->s->generated = JINJA_GENERATED;
	parse_macro_body(p, n, "endgeneration");
	return n;
}

static struct jinja_node *parse_print_tag(struct jinja_parser *p, struct jinja_node *n)
{
	n->kind = JINJA_PRINT;
	while (!jinja_at(p, JINJA_TOKEN_BLOCK_END, NULL)) {
		if (n->count > 0)
			jinja_expect(p, JINJA_TOKEN_OPERATOR, ",");
		jinja_add(p, n, jinja_parse_expression(p, true));
	}
	return n;
}

static struct jinja_node *leave_loop(struct jinja_parser *p, struct jinja_node *n, enum jinja_kind kind)
{
	if (p->loops == 0)
		jinja_fail(p->s, SAKIORI_EFORMAT, "'break' or 'continue' outside a loop");
	n->kind = kind;
	return n;
}

static struct jinja_node *parse_break(struct jinja_parser *p, struct jinja_node *n)
{
	return leave_loop(p, n, JINJA_BREAK);
}

static struct jinja_node *parse_continue(struct jinja_parser *p, struct jinja_node *n)
{
	return leave_loop(p, n, JINJA_CONTINUE);
}

static struct jinja_node *parse_statement(struct jinja_parser *p)
{
	static const struct {
		const char *word;
		struct jinja_node *(*parse)(struct jinja_parser *p, struct jinja_node *n);
	} statements[] = {{"for", parse_for}, {"if", parse_if}, {"set", parse_set}, {"macro", parse_macro},
		{"call", parse_call_block}, {"filter", parse_filter_block}, {"with", parse_with},
		{"generation", parse_generation}, {"print", parse_print_tag}, {"break", parse_break},
		{"continue", parse_continue}};
	struct jinja_node *n = jinja_node_new(p, JINJA_BODY);
	const char *word = jinja_expect_name(p);
	p->s->line = n->line;
	for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
		if (strcmp(word, statements[i].word) == 0)
			return statements[i].parse(p, n);
	if (strncmp(word, "end", 3) == 0 || strcmp(word, "else") == 0 || strcmp(word, "elif") == 0)
		jinja_fail(p->s, SAKIORI_EFORMAT, "'%.40s' ends nothing that is open here", word);
	jinja_fail(p->s, SAKIORI_EUNSUPPORTED, "the statement '%.40s' is not supported", word);
}

/* True when the name here is one of the words. */
static bool at_one_of(const struct jinja_parser *p, const char *words)
{
	if (p->at->type != JINJA_TOKEN_NAME)
		return false;
	size_t size = strlen(p->at->text);
	for (const char *word = words, *end; *word != '\0'; word = *end == ' ' ? end + 1 : end) {
		end = strchrnul(word, ' ');
		if ((size_t)(end - word) == size && memcmp(word, p->at->text, size) == 0)
			return true;
	}
	return false;
}

/* Text and {{ }} in a row are one PRINT. */
static void add_print(struct jinja_parser *p, struct jinja_node *body, struct jinja_node *item)
{
	struct jinja_node *last = body->count > 0 ? body->list[body->count - 1] : NULL;
	if (last == NULL || last->kind != JINJA_PRINT) {
		last = jinja_node_new(p, JINJA_PRINT);
		jinja_add(p, body, last);
	}
	jinja_add(p, last, item);
}

static struct jinja_node *parse_body(struct jinja_parser *p, const char *ends)
{
	jinja_enter(p);
	struct jinja_node *body = jinja_node_new(p, JINJA_BODY);
	if (ends != NULL)
		body->line = p->at[-1].line; /* of the tag before it */
	for (; p->at->type != JINJA_TOKEN_END;) {
		if (p->at->type == JINJA_TOKEN_DATA) {
			struct jinja_node *data = jinja_node_new(p, JINJA_CONSTANT);
			data->value = p->at++->value;
			add_print(p, body, data);
		} else if (jinja_accept(p, JINJA_TOKEN_PRINT_BEGIN, NULL)) {
			add_print(p, body, jinja_parse_tuple(p, true));
			jinja_expect(p, JINJA_TOKEN_PRINT_END, NULL);
		} else {
			p->at++;
			if (ends != NULL && at_one_of(p, ends)) {
				p->s->depth--;
				return body;
			}
			jinja_add(p, body, parse_statement(p));
			end_tag(p);
		}
	}
	if (ends != NULL) {
		const char *last = strrchr(ends, ' ');
		p->s->line = body->line;
		jinja_fail(p->s, SAKIORI_EFORMAT, "what begins here has no '%s'", last != NULL ? last + 1 : ends);
	}
	p->s->depth--;
	return body;
}

struct jinja_node *jinja_parse(struct jinja_state *s, const char *source, size_t size)
{
	struct jinja_parser p = {.s = s, .at = jinja_lex(s, source, size)};
	return parse_body(&p, NULL);
}
