/* SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "text/jinja_private.h"

/* Defaults. A row has at most 8 MiB, and a template writes it a few times over. */
#define MAX_STEPS ((uint64_t)50000000)
#define MAX_OUTPUT ((size_t)64 << 20)
#define MAX_MEMORY ((size_t)256 << 20)
#define MAX_TREE ((size_t)256 << 20) /* of a compiled template: tokens and nodes are larger than their text */

struct jinja {
	struct jinja_state state; /* whose arena holds the tree */
	struct jinja_node *root;
};

static int compile(struct jinja *t, const char *source, size_t size)
{
	if (setjmp(t->state.escape) != 0)
		return t->state.code;
	if (size > JINJA_MAX_SOURCE)
		jinja_fail(&t->state, SAKIORI_ELIMIT, "%zu bytes; at most %zu are read", size, JINJA_MAX_SOURCE);
	t->root = jinja_parse(&t->state, source, size);
	return 0;
}

int jinja_compile(struct jinja **out, const char *source, size_t size, struct fault *f)
{
	*out = NULL;
	struct jinja *t = must_calloc(1, sizeof *t);
	t->state = (struct jinja_state){.max_memory = MAX_TREE, .max_steps = UINT64_MAX, .line = 1, .fault = f};
	int rc = compile(t, source, size);
	t->state.fault = NULL;
	if (rc == 0)
		*out = t;
	else
		jinja_free(t);
	return rc;
}

void jinja_free(struct jinja *t)
{
	if (t == NULL)
		return;
	jinja_release(&t->state);
	free(t);
}

bool jinja_marks_generation(const struct jinja *t)
{
	return t->state.generated != 0;
}

/* Lifts the spans out of the marks, whose bits for them are cleared. */
static void find_spans(struct jinja_output *out)
{
	size_t room = 0;
	for (size_t begin = 0, end; begin < out->size; begin = end) {
		uint8_t bits = out->marks[begin] & (JINJA_GENERATED | JINJA_SECOND);
		for (end = begin; end < out->size && (out->marks[end] & (JINJA_GENERATED | JINJA_SECOND)) == bits;
			end++)
			out->marks[end] &= JINJA_MARKS - 1;
		if (bits == 0)
			continue;
		if (out->span_count == room) {
			room = room == 0 ? 8 : 2 * room;
			out->spans = must_realloc(out->spans, room * sizeof *out->spans);
		}
		out->spans[out->span_count++] = (struct jinja_span){begin, end};
	}
}

static void hand_over(const struct jinja_builder *b, struct jinja_output *out)
{
	out->size = b->size;
	out->text = must_alloc(b->size + 1);
	out->marks = must_alloc(b->size + 1);
	if (b->size > 0)
		memcpy(out->text, b->data, b->size);
	out->text[b->size] = '\0';
	if (b->marks != NULL)
		memcpy(out->marks, b->marks, b->size);
	else
		memset(out->marks, b->mark, b->size);
	find_spans(out);
}

static int render(struct jinja_state *s, const struct jinja *t, const struct jinja_variable *variables, size_t count)
{
	if (setjmp(s->escape) != 0)
		return s->code;
	struct jinja_scope *context = jinja_scope_new(s, NULL);
	for (size_t i = 0; i < count; i++)
		jinja_bind(s, context, variables[i].name, jinja_from_json(s, &variables[i]));
	jinja_run(s, jinja_scope_new(s, context), t->root);
	return 0;
}

int jinja_render(const struct jinja *t, const struct jinja_variable *variables, size_t count, const struct tm *now,
	const struct jinja_limits *limits, struct jinja_output *out, struct fault *f)
{
	static const struct jinja_limits none;
	if (limits == NULL)
		limits = &none;
	*out = (struct jinja_output){0};
	struct jinja_builder b = {0};
	struct jinja_state *s = must_calloc(1, sizeof *s);
	*s = (struct jinja_state){
		.max_steps = limits->steps != 0 && limits->steps < MAX_STEPS ? limits->steps : MAX_STEPS,
		.max_output = limits->output != 0 && limits->output < MAX_OUTPUT ? limits->output : MAX_OUTPUT,
		.max_memory = limits->memory != 0 && limits->memory < MAX_MEMORY ? limits->memory : MAX_MEMORY,
		.line = 1,
		.fault = f,
		.out = &b,
		.now = now};
	int rc = render(s, t, variables, count);
	if (rc == 0) {
		out->steps = s->steps;
		hand_over(&b, out);
	}
	jinja_release(s);
	free(s);
	return rc;
}

void jinja_output_fini(struct jinja_output *out)
{
	free(out->text);
	free(out->marks);
	free(out->spans);
	*out = (struct jinja_output){0};
}
