/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates: the part of Jinja that they use, in the sandbox that Hugging Face runs them in (trim_blocks,
 * lstrip_blocks, break and continue, {% generation %}, tojson without escapes, nothing that changes a list or dict).
 * What is not supported is refused by name, never rendered otherwise.
 *
 * A template is somebody else's program: source, nesting, steps, output and memory are bounded. A compiled template
 * never changes, so any number of threads may render it. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/err.h"

#define JINJA_MAX_SOURCE ((size_t)1 << 20)

/* Every byte of the output carries a mark that says where it came from. 0 is the template itself, and what it
 * computes; variables bring marks of their own, below JINJA_MARKS. Marks survive slices, filters and macros. */
#define JINJA_TEMPLATE 0
#define JINJA_MARKS 64

struct jinja;

/* Compiles the source. Faults begin with "chat template, line N: ". The caller owns *out. */
int jinja_compile(struct jinja **out, const char *source, size_t size, struct fault *f);
void jinja_free(struct jinja *t);
/* True when {% generation %} stands somewhere in it. */
bool jinja_marks_generation(const struct jinja *t);

/* One variable of the context, borrowed for the call. */
struct jinja_variable {
	const char *name;
	const json_t *value;
	uint8_t mark; /* of every string in it */
	/* Where the variable is a list of objects: the mark of the strings under list[index][key]. NULL: `mark`. */
	uint8_t (*mark_of)(const void *self, size_t index, const char *key);
	const void *self;
};

/* 0 means the default, which is also the most that may be asked for. */
struct jinja_limits {
	uint64_t steps; /* expressions and statements run, and every 64 bytes handled */
	size_t output;  /* bytes */
	size_t memory;  /* bytes of values */
};

struct jinja_span {
	size_t begin, end;
};

struct jinja_output {
	char *text; /* UTF-8, NUL-terminated */
	size_t size;
	uint8_t *marks;           /* (size) */
	struct jinja_span *spans; /* what was written inside {% generation %}, in order; none is empty */
	size_t span_count;
	uint64_t steps; /* taken */
};

/* Renders. `now` is what strftime_now sees. A message of raise_exception is passed on without the bytes that came from
 * marked variables. On success the caller ends *out with jinja_output_fini. */
int jinja_render(const struct jinja *t, const struct jinja_variable *variables, size_t count, const struct tm *now,
	const struct jinja_limits *limits, struct jinja_output *out, struct fault *f);
void jinja_output_fini(struct jinja_output *out);
