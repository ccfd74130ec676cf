/* SPDX-License-Identifier: Apache-2.0 */
/* What bench/template_parity.py compares with jinja2: reads {"template", "context"} a line, writes {"text"} or {"error",
 * "unsupported"} a line. The clock stands where make_templates.py has it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "formats/json.h"
#include "text/jinja.h"

static const struct tm now = {.tm_year = 126,
	.tm_mon = 10,
	.tm_mday = 28,
	.tm_hour = 15,
	.tm_min = 4,
	.tm_sec = 5,
	.tm_wday = 6,
	.tm_yday = 331};

static int render(const json_t *source, const json_t *context, struct jinja_output *out, struct fault *f)
{
	struct jinja *t;
	int rc = jinja_compile(&t, json_string_value(source), json_string_length(source), f);
	if (rc != 0)
		return rc;
	struct jinja_variable *variables = must_calloc(json_object_size(context) + 1, sizeof *variables);
	size_t n = 0;
	const char *name;
	json_t *value;
	json_object_foreach((json_t *)context, name, value)
	{
		variables[n++] = (struct jinja_variable){.name = name, .value = value};
	}
	rc = jinja_render(t, variables, n, &now, NULL, out, f);
	free(variables);
	jinja_free(t);
	return rc;
}

int main(void)
{
	char *line = NULL;
	size_t room = 0;
	for (ssize_t size; (size = getline(&line, &room, stdin)) > 0;) {
		json_t *given = json_loadb(line, (size_t)size, 0, NULL), *answer = json_object();
		struct jinja_output out = {0};
		struct fault f = {0};
		int rc = render(json_object_get(given, "template"), json_object_get(given, "context"), &out, &f);
		if (rc == 0) {
			json_object_set_new(answer, "text", json_stringn(out.text, out.size));
		} else {
			json_object_set_new(answer, "error", json_string(f.text));
			json_object_set_new(answer, "unsupported", json_boolean(rc == SAKIORI_EUNSUPPORTED));
		}
		json_dumpf(answer, stdout, JSON_COMPACT);
		putchar('\n');
		jinja_output_fini(&out);
		json_decref(answer);
		json_decref(given);
	}
	free(line);
	return EXIT_SUCCESS;
}
