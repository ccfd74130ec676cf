/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the template engine share: jinja_lexer -> jinja_parser, jinja_expression -> jinja_run, jinja_evaluate ->
 * jinja_filters, jinja_tests, jinja_methods, jinja_functions; below them jinja_value, jinja_string, jinja_write.
 *
 * All memory of a compilation or a rendering lies in one arena, and the first failure leaves by longjmp to the one
 * place that frees it: nothing in between holds anything else. */
#pragma once
#include <setjmp.h>
#include <stdbool.h>
#include <stdnoreturn.h>

#include "text/jinja.h"

/* ---- one compilation or rendering ---- */

enum {
	JINJA_PARSE_DEPTH = 100,   /* expressions and blocks within each other */
	JINJA_RUN_DEPTH = 400,     /* nodes run within each other, macros included */
	JINJA_VALUE_DEPTH = 100,   /* lists and dicts within each other */
	JINJA_RANGE_LIMIT = 100000 /* numbers of one range(), as jinja2's sandbox has it */
};

struct jinja_block;
struct jinja_scope;
struct jinja_builder;

struct jinja_state {
	struct jinja_block *blocks; /* the arena */
	size_t memory, max_memory;
	uint64_t steps, max_steps;
	size_t max_output;
	size_t line;  /* of what is read or run now */
	size_t depth; /* of nodes parsed or run */
	struct fault *fault;
	int code;
	jmp_buf escape;
	struct jinja_builder *out; /* what is written goes here */
	/* The bits that bytes written now get: inside {% generation %} or 0. While parsing: not 0 once one was seen. */
	uint8_t generated;
	bool second; /* neighbouring {% generation %} blocks differ in a bit */
	const struct tm *now;
};

/* Bits of a byte's mark beside its origin: written in {% generation %}, and which of two neighbours. */
#define JINJA_GENERATED 0x80
#define JINJA_SECOND 0x40

noreturn void jinja_fail(struct jinja_state *s, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Zeroed, aligned memory that lives as long as the state. */
void *jinja_alloc(struct jinja_state *s, size_t bytes);
void *jinja_alloc_array(struct jinja_state *s, size_t count, size_t each);
void jinja_release(struct jinja_state *s);
/* Counts work. */
void jinja_charge(struct jinja_state *s, size_t steps);

/* ---- values ---- */

enum jinja_type {
	JINJA_ABSENT, /* no value: an argument that was not given, a part of a slice left out */
	JINJA_UNDEFINED,
	JINJA_NONE,
	JINJA_BOOLEAN,
	JINJA_INTEGER,
	JINJA_FLOAT,
	JINJA_STRING,
	JINJA_SEQUENCE,
	JINJA_DICT,
	JINJA_NAMESPACE,
	JINJA_LOOP,
	JINJA_MACRO,
	JINJA_METHOD,
	JINJA_FUNCTION,
};

/* Bytes never change once they are a string, so slices share them. */
struct jinja_string {
	const char *data;
	const uint8_t *marks; /* (size), or NULL: every byte's is `mark` */
	size_t size;
	uint8_t mark;
};

struct jinja_value {
	enum jinja_type type;
	union {
		bool boolean;
		int64_t integer;
		double number;
		const char *hint; /* of an undefined value: what was looked for */
		const struct jinja_string *string;
		struct jinja_sequence *sequence;
		struct jinja_dict *dict; /* of a namespace too */
		struct jinja_loop *loop;
		const struct jinja_macro *macro;
		const struct jinja_method *method;
		const struct jinja_function *function;
	};
};

/* Arguments of a call as they come. */
struct jinja_arguments {
	struct jinja_value *values;
	size_t count;
	struct jinja_dict *named; /* string keys */
};

enum { JINJA_PARAMETERS = 5 };

/* What Python has for it. An iterator gives every item once. */
enum jinja_sequence_kind { JINJA_LIST, JINJA_TUPLE, JINJA_RANGE, JINJA_VIEW, JINJA_ITERATOR };

struct jinja_sequence {
	enum jinja_sequence_kind kind;
	struct jinja_value *items;
	size_t count, capacity;
	size_t taken;             /* of an iterator */
	struct jinja_lazy *later; /* an iterator whose items are not made yet, so that nobody sees their faults */
};

/* A filter that gives an iterator works when the first item is asked for. */
struct jinja_lazy {
	struct jinja_value self;
	struct jinja_value given[JINJA_PARAMETERS];
	struct jinja_arguments all;
	struct jinja_sequence *(*make)(struct jinja_state *s, const struct jinja_lazy *l);
};

struct jinja_entry {
	struct jinja_value key, value;
};

struct jinja_dict {
	struct jinja_entry *entries; /* in the order of their coming */
	size_t count, capacity;
};

struct jinja_loop {
	const struct jinja_value *items;
	size_t count, index;         /* from 0 */
	struct jinja_value *changed; /* what loop.changed() saw last, a tuple; NULL: not called */
};

struct jinja_function {
	const char *name;
	/* Parameters in order, separated by blanks, at most JINJA_PARAMETERS; NULL: `call` reads the arguments itself. */
	const char *parameters;
	size_t required;
	/* given: (JINJA_PARAMETERS) ABSENT where not given, when there are parameters. self: the object of a method, the
	 * input of a filter or test. */
	struct jinja_value (*call)(struct jinja_state *s, struct jinja_value self, const struct jinja_value *given,
		const struct jinja_arguments *all);
};
/* The head of a function of a table. */
#define JINJA_FUNCTION_NAMED(name)                                                                                     \
	static struct jinja_value name(struct jinja_state *s __attribute__((unused)),                                  \
		struct jinja_value self __attribute__((unused)),                                                       \
		const struct jinja_value *given __attribute__((unused)),                                               \
		const struct jinja_arguments *all __attribute__((unused)))

struct jinja_method {
	struct jinja_value self;
	const struct jinja_function *function;
};

struct jinja_macro {
	const struct jinja_node *node;
	struct jinja_scope *scope; /* where it was defined */
};

static inline struct jinja_value jinja_none(void)
{
	return (struct jinja_value){.type = JINJA_NONE};
}

static inline struct jinja_value jinja_boolean(bool b)
{
	return (struct jinja_value){.type = JINJA_BOOLEAN, .boolean = b};
}

static inline struct jinja_value jinja_integer(int64_t i)
{
	return (struct jinja_value){.type = JINJA_INTEGER, .integer = i};
}

static inline struct jinja_value jinja_number(double d)
{
	return (struct jinja_value){.type = JINJA_FLOAT, .number = d};
}

static inline struct jinja_value jinja_undefined(const char *hint)
{
	return (struct jinja_value){.type = JINJA_UNDEFINED, .hint = hint};
}

static inline struct jinja_value jinja_string_value(const struct jinja_string *string)
{
	return (struct jinja_value){.type = JINJA_STRING, .string = string};
}

static inline struct jinja_value jinja_sequence_value(struct jinja_sequence *q)
{
	return (struct jinja_value){.type = JINJA_SEQUENCE, .sequence = q};
}

static inline struct jinja_value jinja_dict_value(struct jinja_dict *d)
{
	return (struct jinja_value){.type = JINJA_DICT, .dict = d};
}

/* "str", "list", ...: Python's name of the type. */
const char *jinja_type_name(struct jinja_value v);
bool jinja_truth(struct jinja_value v);
/* True for boolean, integer and float. */
bool jinja_is_number(struct jinja_value v);
/* Python's == and ordering; an order that Python has not is a failure. */
bool jinja_equal(struct jinja_state *s, struct jinja_value a, struct jinja_value b);
/* -1, 0, 1; 2 where one is NaN. */
int jinja_compare(struct jinja_state *s, struct jinja_value a, struct jinja_value b);
bool jinja_contains(struct jinja_state *s, struct jinja_value in, struct jinja_value item);

struct jinja_sequence *jinja_sequence_new(struct jinja_state *s, enum jinja_sequence_kind kind, size_t room);
void jinja_append(struct jinja_state *s, struct jinja_sequence *q, struct jinja_value v);
/* Makes the items of an iterator, if that is still to be done. */
void jinja_make_items(struct jinja_state *s, struct jinja_sequence *q);
/* The items of anything that can be walked, taken from an iterator: characters, keys. Fails for what cannot. */
struct jinja_sequence *jinja_items(struct jinja_state *s, struct jinja_value v);
size_t jinja_length(struct jinja_state *s, struct jinja_value v);

struct jinja_dict *jinja_dict_new(struct jinja_state *s, size_t room);
/* NULL where there is none; unhashable keys are a failure. */
struct jinja_value *jinja_dict_find(struct jinja_state *s, const struct jinja_dict *d, struct jinja_value key);
struct jinja_value *jinja_dict_find_name(struct jinja_state *s, const struct jinja_dict *d, const char *name);
void jinja_dict_set(struct jinja_state *s, struct jinja_dict *d, struct jinja_value key, struct jinja_value value);
/* A view of [key, value] tuples, of keys, of values. */
struct jinja_value jinja_dict_items(struct jinja_state *s, const struct jinja_dict *d);
struct jinja_value jinja_dict_keys(struct jinja_state *s, const struct jinja_dict *d);
struct jinja_value jinja_dict_values(struct jinja_state *s, const struct jinja_dict *d);

/* A variable of the context; its strings stay where they are. */
struct jinja_value jinja_from_json(struct jinja_state *s, const struct jinja_variable *variable);

/* ---- strings ---- */

struct jinja_value jinja_text(struct jinja_state *s, const char *data, size_t size, uint8_t mark); /* borrowed */
struct jinja_value jinja_literal(struct jinja_state *s, const char *text);
struct jinja_value jinja_slice(
	struct jinja_state *s, const struct jinja_string *t, size_t begin, size_t end); /* bytes */
bool jinja_is_text(struct jinja_value v, const char *text);
/* Characters; byte offset of character n, at most the size. */
size_t jinja_characters(const struct jinja_string *t);
size_t jinja_offset(const struct jinja_string *t, size_t n);
/* First place of `what` at or after `from`, or SIZE_MAX; and the last that ends at or before `to`. */
size_t jinja_find(struct jinja_state *s, const struct jinja_string *in, const struct jinja_string *what, size_t from);
size_t jinja_find_last(
	struct jinja_state *s, const struct jinja_string *in, const struct jinja_string *what, size_t to);
bool jinja_is_space(uint32_t c); /* as Python's str.isspace */
bool jinja_is_printable(uint32_t c);
/* Without the characters of `chars` (NULL: white space) at its ends. */
struct jinja_value jinja_strip(
	struct jinja_state *s, const struct jinja_string *t, const struct jinja_string *chars, bool left, bool right);
struct jinja_value jinja_replace(struct jinja_state *s, const struct jinja_string *t, const struct jinja_string *from,
	const struct jinja_string *to, int64_t count);
/* At most `limit` cuts (negative: all), from the right or the left; separator NULL: runs of white space. */
struct jinja_value jinja_split(struct jinja_state *s, const struct jinja_string *t,
	const struct jinja_string *separator, int64_t limit, bool from_right);
struct jinja_value jinja_split_lines(struct jinja_state *s, const struct jinja_string *t);
/* CAPITALIZED: the first character. TITLE: the filter's, every word after blanks, '-' or an opening bracket. LETTERS:
 * str.title's, every run of letters. */
enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_CAPITALIZED, JINJA_TITLE, JINJA_LETTERS };
struct jinja_value jinja_recase(struct jinja_state *s, const struct jinja_string *t, enum jinja_case to);
size_t jinja_upper(uint32_t c, uint32_t out[static 3]); /* -> characters */
uint32_t jinja_lower(uint32_t c);
/* Some letter, and none of the other case. */
bool jinja_is_case(const struct jinja_string *t, bool upper);

struct jinja_builder {
	char *data;
	uint8_t *marks; /* NULL while every byte's is `mark` */
	size_t size, capacity;
	uint8_t mark;
};
void jinja_put(struct jinja_state *s, struct jinja_builder *b, const char *data, size_t size, uint8_t mark);
void jinja_put_slice(
	struct jinja_state *s, struct jinja_builder *b, const struct jinja_string *t, size_t begin, size_t end);
void jinja_put_string(struct jinja_state *s, struct jinja_builder *b, const struct jinja_string *t);
void jinja_put_literal(struct jinja_state *s, struct jinja_builder *b, const char *text);
void jinja_put_character(struct jinja_state *s, struct jinja_builder *b, uint32_t c, uint8_t mark);
struct jinja_value jinja_built(struct jinja_state *s, struct jinja_builder *b);

/* ---- values as text ---- */

/* Python's str(): what {{ }} writes. */
void jinja_put_value(struct jinja_state *s, struct jinja_builder *b, struct jinja_value v);
struct jinja_value jinja_to_string(struct jinja_state *s, struct jinja_value v);
void jinja_put_float(struct jinja_state *s, struct jinja_builder *b, double d);
struct jinja_json_style {
	const struct jinja_string *indent;     /* NULL: on one line */
	const struct jinja_string *item, *key; /* separators */
	bool sort_keys, ascii;
};
void jinja_put_json(
	struct jinja_state *s, struct jinja_builder *b, struct jinja_value v, const struct jinja_json_style *style);

/* ---- tokens and the tree ---- */

enum jinja_token_type {
	JINJA_TOKEN_END,
	JINJA_TOKEN_DATA,
	JINJA_TOKEN_PRINT_BEGIN, /* {{ */
	JINJA_TOKEN_PRINT_END,
	JINJA_TOKEN_BLOCK_BEGIN, /* {% */
	JINJA_TOKEN_BLOCK_END,
	JINJA_TOKEN_NAME,
	JINJA_TOKEN_CONSTANT, /* string, integer or float */
	JINJA_TOKEN_OPERATOR,
};

struct jinja_token {
	enum jinja_token_type type;
	size_t line;
	const char *text;         /* a name, or an operator as it is spelled; NUL-terminated */
	struct jinja_value value; /* of data and constants */
};

/* All tokens, the last one END. */
struct jinja_token *jinja_lex(struct jinja_state *s, const char *source, size_t size);

/* What the fields of a node hold is said here: a, b, c are nodes, list is a list of nodes. */
enum jinja_kind {
	/* statements */
	JINJA_BODY,         /* list */
	JINJA_PRINT,        /* list: expressions */
	JINJA_FOR,          /* a: target, b: what to walk, c: condition or NULL, body, otherwise */
	JINJA_IF,           /* list: condition, body, condition, body, ...; otherwise */
	JINJA_SET,          /* a: target, b: value */
	JINJA_SET_BLOCK,    /* a: target, b: filter of a JINJA_CAPTURED or NULL, body */
	JINJA_DEFINE,       /* macro: text: name, list: parameters (NAME; b: default or NULL), body */
	JINJA_CALL_BLOCK,   /* a: the call, list: parameters, body */
	JINJA_FILTER_BLOCK, /* a: filter of a JINJA_CAPTURED, body */
	JINJA_WITH,         /* list: target, value, ...; body */
	JINJA_GENERATION,   /* body */
	JINJA_BREAK,
	JINJA_CONTINUE,
	/* expressions */
	JINJA_CONSTANT,  /* value */
	JINJA_NAME,      /* text */
	JINJA_MEMBER,    /* a.text; as a target: namespace NAME a */
	JINJA_SUBSCRIPT, /* a[b] */
	JINJA_SLICE,     /* a:b:c, each or NULL; only as b of SUBSCRIPT */
	JINJA_MAKE_LIST, /* list */
	JINJA_MAKE_TUPLE,
	JINJA_MAKE_DICT, /* list: key, value, ... */
	JINJA_CALL,      /* a(arguments) */
	JINJA_FILTER,    /* a | text(arguments); function */
	JINJA_TEST,      /* a is text(arguments); function */
	JINJA_CAPTURED,  /* what a block wrote */
	JINJA_CHOICE,    /* a if b else c or NULL */
	JINJA_OR,        /* a or b */
	JINJA_AND,
	JINJA_NOT,        /* a */
	JINJA_COMPARISON, /* a, then list: b1, b2, ... with ops: text of each */
	JINJA_CONCAT,     /* list */
	JINJA_BINARY,     /* a text b */
	JINJA_NEGATE,
	JINJA_POSITIVE,
};

struct jinja_node {
	enum jinja_kind kind;
	size_t line;
	const char *text;
	struct jinja_value value;
	struct jinja_node *a, *b, *c;
	struct jinja_node **list;
	size_t count;
	struct jinja_node *body, *otherwise; /* BODY */
	const char **operators;              /* of a COMPARISON */
	const struct jinja_function *function;
	/* arguments of CALL, FILTER, TEST: list, and with names: */
	const char **names;
	struct jinja_node **named;
	size_t named_count;
	struct jinja_node *rest, *named_rest;            /* *rest, **named_rest, or NULL */
	bool takes_rest, takes_named_rest, takes_caller; /* of a macro: its body says varargs, kwargs, caller */
};

struct jinja_parser {
	struct jinja_state *s;
	const struct jinja_token *at;
	struct jinja_node *macro; /* whose body is read */
	size_t loops;             /* around the tag that is read, within the macro */
};

/* jinja_expression.c */
struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_kind kind);
bool jinja_at(const struct jinja_parser *p, enum jinja_token_type type, const char *text);
bool jinja_accept(struct jinja_parser *p, enum jinja_token_type type, const char *text);
void jinja_expect(struct jinja_parser *p, enum jinja_token_type type, const char *text);
const char *jinja_expect_name(struct jinja_parser *p);
void jinja_enter(struct jinja_parser *p); /* one level deeper; p->s->depth-- leaves */
struct jinja_node *jinja_parse_expression(struct jinja_parser *p, bool with_choice);
/* "a, b": a tuple or one expression. */
struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool with_choice);
/* Names to assign to; with_namespace: also "ns.name". */
struct jinja_node *jinja_parse_target(struct jinja_parser *p, bool with_namespace);
/* "| f | g(...)" on `input`; begun: the first '|' is left out. NULL when there is none and input is NULL. */
struct jinja_node *jinja_parse_filters(struct jinja_parser *p, struct jinja_node *input, bool begun);
void jinja_add(struct jinja_parser *p, struct jinja_node *to, struct jinja_node *item);

/* jinja_parser.c */
struct jinja_node *jinja_parse(struct jinja_state *s, const char *source, size_t size);

/* ---- running ---- */

struct jinja_scope {
	struct jinja_scope *outer;
	struct jinja_binding *first;
};

struct jinja_scope *jinja_scope_new(struct jinja_state *s, struct jinja_scope *outer);
void jinja_bind(struct jinja_state *s, struct jinja_scope *scope, const char *name, struct jinja_value v);
/* The nearest binding; else a global; else undefined. */
struct jinja_value jinja_lookup(struct jinja_state *s, const struct jinja_scope *scope, const char *name);
/* jinja_run.c */
void jinja_run(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *body);
struct jinja_value jinja_call_macro(
	struct jinja_state *s, const struct jinja_macro *m, const struct jinja_arguments *arguments);
/* jinja_evaluate.c; `captured` is what JINJA_CAPTURED stands for. */
struct jinja_value jinja_evaluate(struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n);
struct jinja_value jinja_evaluate_filter(
	struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n, struct jinja_value captured);
void jinja_arguments(
	struct jinja_state *s, struct jinja_scope *scope, const struct jinja_node *n, struct jinja_arguments *out);
/* a + b and its like; a == b, a in b and their like. */
struct jinja_value jinja_binary(struct jinja_state *s, const char *op, struct jinja_value a, struct jinja_value b);
bool jinja_holds(struct jinja_state *s, const char *op, struct jinja_value a, struct jinja_value b);
struct jinja_value jinja_call(
	struct jinja_state *s, struct jinja_value callee, const struct jinja_arguments *arguments);
struct jinja_value jinja_call_function(struct jinja_state *s, const struct jinja_function *f, struct jinja_value self,
	const struct jinja_arguments *arguments);
/* jinja_subscript.c: a[b] and a.name, undefined where there is none. */
struct jinja_value jinja_subscript(struct jinja_state *s, struct jinja_value of, struct jinja_value key);
struct jinja_value jinja_member(struct jinja_state *s, struct jinja_value of, const char *name);
/* a[begin:end:step], each ABSENT where left out. */
struct jinja_value jinja_slice_of(
	struct jinja_state *s, struct jinja_value of, const struct jinja_value parts[static 3]);
/* "a.b.0" of an item, as map(attribute=...) and its like have it. */
struct jinja_value jinja_path(struct jinja_state *s, struct jinja_value of, struct jinja_value path);
/* The same; `otherwise` wherever on the way something is undefined. */
struct jinja_value jinja_path_or(
	struct jinja_state *s, struct jinja_value of, struct jinja_value path, struct jinja_value otherwise);

/* ---- the tables; NULL where the name is unknown ---- */

const struct jinja_function *jinja_filter(const char *name); /* jinja_filters.c, jinja_filters_list.c */
const struct jinja_function *jinja_list_filter(const char *name);
const struct jinja_function *jinja_test(const char *name);   /* jinja_tests.c */
const struct jinja_function *jinja_global(const char *name); /* jinja_functions.c */
/* A method of the value's type. Fails for one that Python has and this engine or its sandbox has not. */
const struct jinja_function *jinja_find_method(struct jinja_state *s, struct jinja_value self, const char *name);
/* The function of that name in a table that ends with {NULL}. */
const struct jinja_function *jinja_find_function(const struct jinja_function *table, const char *name);

/* Arguments of filters and methods; `what` names them in the fault. */
const struct jinja_string *jinja_want_string(struct jinja_state *s, struct jinja_value v, const char *what);
int64_t jinja_want_integer(struct jinja_state *s, struct jinja_value v, const char *what);
