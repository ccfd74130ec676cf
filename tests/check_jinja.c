/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja.h"

enum { VARIABLES = 32 };

/* The clock of make_templates.py: Saturday, 28 November 2026, 15:04:05. */
static const struct tm now = {.tm_year = 126,
	.tm_mon = 10,
	.tm_mday = 28,
	.tm_hour = 15,
	.tm_min = 4,
	.tm_sec = 5,
	.tm_wday = 6,
	.tm_yday = 331};

static size_t variables_of(const json_t *context, struct jinja_variable *out)
{
	size_t n = 0;
	const char *name;
	json_t *value;
	json_object_foreach((json_t *)context, name, value)
	{
		ck_assert_uint_lt(n, VARIABLES);
		out[n++] = (struct jinja_variable){.name = name, .value = value, .mark = 1};
	}
	return n;
}

/* Compiles and renders with these variables. */
static int run(const char *template, size_t size, const json_t *context, const struct jinja_limits *limits,
	struct jinja_output *out, struct fault *f)
{
	struct jinja *t;
	*out = (struct jinja_output){0};
	int rc = jinja_compile(&t, template, size, f);
	if (rc != 0)
		return rc;
	struct jinja_variable variables[VARIABLES];
	size_t count = variables_of(context, variables);
	rc = jinja_render(t, variables, count, &now, limits, out, f);
	jinja_free(t);
	return rc;
}

static void assert_spans(const struct jinja_output *out, const json_t *spans, const char *template)
{
	ck_assert_msg(out->span_count == json_array_size(spans), "%zu spans: %s", out->span_count, template);
	size_t i;
	const json_t *span;
	json_array_foreach(spans, i, span)
	{
		ck_assert_uint_eq(out->spans[i].begin, (size_t)json_integer_value(json_array_get(span, 0)));
		ck_assert_uint_eq(out->spans[i].end, (size_t)json_integer_value(json_array_get(span, 1)));
	}
}

static void assert_case(const json_t *item, const json_t *contexts, size_t *refused)
{
	const json_t *source = json_array_get(item, 0), *text = json_array_get(item, 2),
		     *spans = json_array_get(item, 3);
	const json_t *context = json_array_get(contexts, (size_t)json_integer_value(json_array_get(item, 1)));
	const char *template = json_string_value(source);
	struct jinja_output out;
	struct fault f = {0};
	int rc = run(template, json_string_length(source), context, NULL, &out, &f);
	if (rc != 0) {
		ck_assert_msg(strncmp(f.text, "chat template, line ", 20) == 0, "%s", f.text);
		ck_assert_msg(!json_is_string(text) || rc == SAKIORI_EUNSUPPORTED, "%s: %s", template, f.text);
		*refused += json_is_string(text);
		return;
	}
	ck_assert_msg(json_is_string(text), "not refused: %s", template);
	ck_assert_msg(out.size == json_string_length(text) && memcmp(out.text, json_string_value(text), out.size) == 0,
		"%s\nexpected: %s\nfound:    %s", template, json_string_value(text), out.text);
	if (json_is_array(spans))
		assert_spans(&out, spans, template);
	jinja_output_fini(&out);
}

START_TEST(templates_become_what_jinja2_makes_of_them)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/tests/golden/template_golden.json", getenv("SRCDIR"));
	json_t *golden = json_load_file(path, 0, NULL);
	ck_assert_ptr_nonnull(golden);
	const json_t *contexts = json_object_get(golden, "contexts"), *item;
	size_t i, refused = 0;
	json_array_foreach(json_object_get(golden, "cases"), i, item)
	{
		assert_case(item, contexts, &refused);
	}
	ck_assert_uint_gt(i, 2600);
	/* what jinja2 renders and this engine says it does not: ranges and iterators that are written */
	ck_assert_uint_lt(refused, 10);
	json_decref(golden);
}
END_TEST

static void assert_refused(
	const char *template, const char *context, const struct jinja_limits *limits, int code, const char *sentence)
{
	json_t *variables = json_loads(context, 0, NULL);
	ck_assert_ptr_nonnull(variables);
	struct jinja_output out;
	struct fault f = {0};
	int rc = run(template, strlen(template), variables, limits, &out, &f);
	ck_assert_msg(rc == code, "%.80s: %d, %s", template, rc, f.text);
	ck_assert_msg(strstr(f.text, sentence) != NULL, "%.80s: %s", template, f.text);
	json_t *utf8 = json_string(f.text);
	ck_assert_ptr_nonnull(utf8);
	json_decref(utf8);
	ck_assert_ptr_null(out.text);
	json_decref(variables);
}

/* `before`, `count` times `middle`, `after`; the caller frees. */
static char *repeated(const char *before, const char *middle, size_t count, const char *after)
{
	size_t size = strlen(before) + count * strlen(middle) + strlen(after) + 1;
	char *text = malloc(size), *at = text;
	ck_assert_ptr_nonnull(text);
	at = stpcpy(at, before);
	for (size_t i = 0; i < count; i++)
		at = stpcpy(at, middle);
	stpcpy(at, after);
	return text;
}

START_TEST(a_failure_names_the_line_and_what_is_wrong)
{
	assert_refused("a\n{% if x %}\n\n{% endfor %}", "{}", NULL, SAKIORI_EFORMAT, "line 4: 'endfor' ends nothing");
	assert_refused("a\n{% if x %}\n\n", "{}", NULL, SAKIORI_EFORMAT, "line 2: what begins here has no 'endif'");
	assert_refused("\n\n{{ x.y }}", "{}", NULL, SAKIORI_EFORMAT, "line 3: 'x' is undefined");
	assert_refused("{{ 1 }}\n{{ m.a.b }}", "{\"m\": {}}", NULL, SAKIORI_EFORMAT, "line 2: 'dict.a' is undefined");
	assert_refused("\n{{ 'a' + 1 }}", "{}", NULL, SAKIORI_EFORMAT, "line 2: '+' does not work between str and int");
	assert_refused("{% set a = 1 %}\n{{ 'abc }}", "{}", NULL, SAKIORI_EFORMAT, "line 2: a string without its end");
	assert_refused("\n{% include 'x' %}", "{}", NULL, SAKIORI_EUNSUPPORTED, "line 2: the statement 'include'");
	assert_refused("\n\n{{ x | nosuch }}", "{}", NULL, SAKIORI_EUNSUPPORTED, "line 3: the filter 'nosuch'");
	assert_refused("{{ x is nosuch }}", "{}", NULL, SAKIORI_EUNSUPPORTED, "the test 'nosuch'");
	assert_refused("{{ 'a'.encode() }}", "{}", NULL, SAKIORI_EUNSUPPORTED, "'encode' of str is not supported");
	assert_refused(
		"{{ xs.append(1) }}", "{\"xs\": []}", NULL, SAKIORI_EFORMAT, "append, which the sandbox forbids");
	assert_refused("{{ 9223372036854775807 + 1 }}", "{}", NULL, SAKIORI_EUNSUPPORTED, "more than 64 bits");
	assert_refused("{{ cycler('a') }}", "{}", NULL, SAKIORI_EUNSUPPORTED, "cycler");
	char *long_name = repeated("{{ {}['x", "\u00e9", 100, "'].a }}");
	assert_refused(long_name, "{}", NULL, SAKIORI_EFORMAT, "\u00e9' is undefined");
	free(long_name);
	long_name = repeated("{{ raise_exception('x", "\u00e9", 500, "') }}");
	assert_refused(long_name, "{}", NULL, SAKIORI_EFORMAT, "x\u00e9");
	free(long_name);
	assert_refused("ab\xff", "{}", NULL, SAKIORI_EFORMAT, "byte 2 is not UTF-8");
}
END_TEST

START_TEST(a_failure_says_nothing_of_the_row)
{
	assert_refused("\n{{ raise_exception('role ' ~ role ~ ' after ' ~ role) }}", "{\"role\": \"secret\"}", NULL,
		SAKIORI_EFORMAT, "line 2: the template refuses: role ... after ...");
	assert_refused(
		"{{ {}[role].x }}", "{\"role\": \"secret\"}", NULL, SAKIORI_EFORMAT, "'dict.[...]' is undefined");
}
END_TEST

static void assert_limited(
	const char *before, const char *middle, size_t count, const char *after, const char *sentence)
{
	char *template = repeated(before, middle, count, after);
	assert_refused(template, "{}", NULL, SAKIORI_ELIMIT, sentence);
	free(template);
}

START_TEST(nesting_is_bounded_when_parsed_and_when_run)
{
	char *closed = repeated("1", ")", 200, " }}");
	assert_limited("{{ ", "(", 200, closed, "nested deeper than 100");
	free(closed);
	assert_limited("{{ ", "not ", 200, "1 }}", "nested deeper than 100");
	assert_limited("{{ ", "-", 200, "1 }}", "nested deeper than 100");
	assert_limited("", "{% if 1 %}", 200, "", "nested deeper than 100");
	closed = repeated("a", ")", 200, " = 1 %}");
	assert_limited("{% set ", "(", 200, closed, "nested deeper than 100");
	free(closed);
	assert_limited("{{ 1", " + 1", 1000, " }}", "nested deeper than 400");
	assert_limited("{{ x", "|trim", 1000, " }}", "nested deeper than 400");
	assert_limited("{% filter trim", "|trim", 1000, " %}{% endfilter %}", "nested deeper than 400");
	assert_refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{}", NULL, SAKIORI_ELIMIT, "nested deeper");
	assert_refused(
		"{% set n = namespace(x=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
		"{}", NULL, SAKIORI_ELIMIT, "nested deeper");
	assert_refused("{% set n = namespace(x=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor %}"
		       "{{ n.x|tojson }}",
		"{}", NULL, SAKIORI_ELIMIT, "nested deeper");
	assert_refused("{% set n = namespace(x=[],y=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}"
		       "{% set n.y = [n.y] %}{% endfor %}{{ n.x == n.y }}",
		"{}", NULL, SAKIORI_ELIMIT, "nested deeper");
	char *deep = repeated("{\"x\": ", "[", 150, "");
	char *context = repeated(deep, "]", 150, "}");
	assert_refused("{{ 1 }}", context, NULL, SAKIORI_ELIMIT, "'x' is nested deeper than 100");
	free(context);
	free(deep);
}
END_TEST

START_TEST(source_steps_output_and_memory_are_bounded)
{
	assert_limited("", "0123456789abcdef", JINJA_MAX_SOURCE / 16, "x", "at most 1048576 are read");
	assert_refused("{% for i in range(10) %}{% for i in range(100000) %}{% endfor %}{% endfor %}", "{}",
		&(struct jinja_limits){.steps = 1000}, SAKIORI_ELIMIT, "more than 1000 steps");
	assert_refused("{% for i in range(100000) %}{% for i in range(100000) %}{% endfor %}{% endfor %}", "{}", NULL,
		SAKIORI_ELIMIT, "more than");
	assert_refused("{% for i in range(100) %}0123456789{% endfor %}", "{}", &(struct jinja_limits){.output = 500},
		SAKIORI_ELIMIT, "more than 500 bytes of output");
	assert_refused("{{ 'x' * 100000 }}", "{}", &(struct jinja_limits){.memory = 50000}, SAKIORI_ELIMIT,
		"more than 50000 bytes of memory");
	assert_refused("{{ 'x' * 9000000000000000000 }}", "{}", NULL, SAKIORI_ELIMIT, "more than");
	assert_refused("{{ [1] * 9000000000000000000 }}", "{}", NULL, SAKIORI_ELIMIT, "more than");
	assert_refused("{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
		"{}", NULL, SAKIORI_ELIMIT, "more than");
	assert_refused("{{ range(100001) }}", "{}", NULL, SAKIORI_ELIMIT, "more than 100000 numbers");
	assert_refused("{{ 1|tojson(indent=99999999999) }}", "{}", NULL, SAKIORI_ELIMIT, "more than");
}
END_TEST

/* The marks as digits. */
static void assert_marks(const char *template, const char *text, const char *marks)
{
	json_t *context = json_loads("{\"s\": \" Ab \", \"d\": {\"k\": \"v\"}, \"xs\": [\"p\", \"q\"]}", 0, NULL);
	struct jinja_output out;
	struct fault f = {0};
	ck_assert_msg(run(template, strlen(template), context, NULL, &out, &f) == 0, "%s", f.text);
	ck_assert_str_eq(out.text, text);
	char found[256] = "";
	ck_assert_uint_lt(out.size, sizeof found);
	for (size_t i = 0; i < out.size; i++)
		found[i] = (char)('0' + out.marks[i]);
	ck_assert_msg(strcmp(found, marks) == 0, "%s: %s, expected %s", template, found, marks);
	jinja_output_fini(&out);
	json_decref(context);
}

START_TEST(every_byte_says_where_it_came_from)
{
	assert_marks("a{{ s }}b", "a Ab b", "011110");
	assert_marks("{{ '<' + s.strip() ~ '>' }}", "<Ab>", "0110");
	assert_marks("{{ (s|trim|upper)[::-1] }}.", "BA.", "110");
	assert_marks("{{ ('<' ~ s ~ '>')[1:3] }}", " A", "11");
	assert_marks("{{ 'a-b'.replace('-', xs[0]) }}{{ xs[0].replace('p', '!') }}", "apb!", "0100");
	assert_marks("{{ xs|join(', ') }}", "p, q", "1001");
	assert_marks("{{ d|tojson }}", "{\"k\": \"v\"}", "0010000100");
	assert_marks("{{ d }}", "{'k': 'v'}", "0010000100");
	assert_marks("{% set x %}-{{ s }}{% endset %}{{ x|length }}{{ x }}", "5- Ab ", "001111");
	assert_marks("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(xs[1])|title }}", "[Q]", "010");
	assert_marks("{{ (s ~ '|x').split('|')|list|join('/') }}", " Ab /x", "111100");
	assert_marks("{% for c in s %}{{ c }},{% endfor %}", " ,A,b, ,", "10101010");
	assert_marks("{% generation %}{{ xs[0] }}!{% endgeneration %}", "p!", "10");
	assert_marks("{{ 'x\n' ~ xs[0] ~ '\ny'|indent(1) }}", "x\np\n y", "001000");
}
END_TEST

START_TEST(a_compiled_template_renders_again_and_again)
{
	struct jinja *t;
	static const char source[] =
		"{% set n = namespace(i=0) %}{% for x in xs %}{% set n.i = n.i + x %}{% endfor %}{{ n.i }}";
	ck_assert_int_eq(jinja_compile(&t, source, strlen(source), NULL), 0);
	ck_assert(!jinja_marks_generation(t));
	json_t *context = json_loads("{\"xs\": [1, 2, 3]}", 0, NULL);
	struct jinja_variable variables[VARIABLES];
	size_t count = variables_of(context, variables);
	for (int i = 0; i < 3; i++) {
		struct jinja_output out;
		ck_assert_int_eq(jinja_render(t, variables, count, NULL, NULL, &out, NULL), 0);
		ck_assert_str_eq(out.text, "6");
		jinja_output_fini(&out);
	}
	json_decref(context);
	jinja_free(t);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("jinja");
	TCase *c = tcase_create("templates");
	tcase_set_timeout(c, 60);
	tcase_add_test(c, templates_become_what_jinja2_makes_of_them);
	tcase_add_test(c, a_failure_names_the_line_and_what_is_wrong);
	tcase_add_test(c, a_failure_says_nothing_of_the_row);
	tcase_add_test(c, nesting_is_bounded_when_parsed_and_when_run);
	tcase_add_test(c, source_steps_output_and_memory_are_bounded);
	tcase_add_test(c, every_byte_says_where_it_came_from);
	tcase_add_test(c, a_compiled_template_renders_again_and_again);
	suite_add_tcase(suite, c);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
