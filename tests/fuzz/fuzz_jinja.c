/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates: any bytes are either refused with a sentence, or render in bounds to UTF-8 whose bytes all say where
 * they came from. */
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CONTEXT                                                                                                        \
	"{\"messages\": [{\"role\": \"user\", \"content\": \" H\\u00e9llo\\n\"}, {\"role\": \"assistant\", "           \
	"\"content\": \"<b> 'x' \\\"y\\\"\", \"tool_calls\": [{\"name\": \"f\", \"arguments\": {\"a\": [1, -2.5, "     \
	"null, true]}}]}], \"tools\": null, \"d\": {\"b\": 2, \"a\": 1, \"keys\": \"own\"}, \"xs\": [3, 1, 2], "       \
	"\"s\": "                                                                                                      \
	"\"abc d\\u00e9f\", \"n\": null, \"f\": 1.5, \"i\": 7, \"bos_token\": \"<s>\"}"

static void must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static void check_output(const struct jinja_output *out)
{
	json_t *text = json_stringn(out->text, out->size);
	must(text != NULL, "not UTF-8");
	json_decref(text);
	for (size_t i = 0; i < out->size; i++)
		must(out->marks[i] <= 1, "a mark that nobody gave");
	size_t end = 0;
	for (size_t i = 0; i < out->span_count; i++) {
		must(out->spans[i].begin >= end && out->spans[i].end > out->spans[i].begin, "spans out of order");
		end = out->spans[i].end;
	}
	must(end <= out->size, "a span beyond the text");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static json_t *context;
	if (context == NULL)
		context = json_loads(CONTEXT, 0, NULL);
	must(context != NULL, "no context");
	struct jinja *t;
	struct fault f = {0};
	if (jinja_compile(&t, (const char *)data, size, &f) != 0) {
		must(t == NULL && strncmp(f.text, "chat template, line ", 20) == 0, "refused without a sentence");
		return 0;
	}
	struct jinja_variable variables[16];
	size_t n = 0;
	const char *name;
	json_t *value;
	json_object_foreach(context, name, value)
	{
		variables[n++] = (struct jinja_variable){.name = name, .value = value, .mark = 1};
	}
	static const struct tm now = {.tm_year = 126, .tm_mon = 10, .tm_mday = 28};
	static const struct jinja_limits limits = {.steps = 200000, .output = 1 << 16, .memory = 4 << 20};
	struct jinja_output out;
	int rc = jinja_render(t, variables, n, &now, &limits, &out, &f);
	if (rc == 0)
		check_output(&out);
	else
		must(strncmp(f.text, "chat template, line ", 20) == 0, "failed without a sentence");
	jinja_output_fini(&out);
	jinja_free(t);
	return 0;
}
