/* SPDX-License-Identifier: Apache-2.0 */
/* Flat rows against jansson: what flat_row_read takes, jansson must take as the same strings under the same keys and no others. And a row that
 * jansson takes as such must have been taken, but for what is left out on purpose: a surrogate pair as \u escapes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/flat.h"
#include "text/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static bool holds(const json_t *row, const char *key, struct text_span text)
{
	const json_t *value = json_object_get(row, key);
	return json_is_string(value) && json_string_length(value) == text.size &&
	       memcmp(json_string_value(value), text.data, text.size) == 0;
}

/* \uD800 to \uDFFF may be in it. */
static bool has_surrogate(const char *line, size_t size)
{
	for (size_t i = 0; i + 3 < size; i++)
		if (line[i] == '\\' && line[i + 1] == 'u' && (line[i + 2] | 0x20) == 'd')
			return true;
	return false;
}

static bool is_flat(const json_t *row)
{
	if (json_object_size(row) == 1)
		return json_is_string(json_object_get(row, "text"));
	return json_object_size(row) == 2 && json_is_string(json_object_get(row, "prompt")) &&
	       json_is_string(json_object_get(row, "completion"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct jsonl j = {.name = "rows"};
	const struct text_span line = {(const char *)data, size};
	struct flat_row flat;
	struct writer memory;
	json_t *row = NULL;
	writer_init(&memory);
	bool taken = flat_row_read(&flat, line, &memory);
	int rc = jsonl_parse(&j, 1, line, &row, NULL);
	if (taken) {
		must(rc == 0, "jansson refuses a row that was taken");
		must(json_object_size(row) == (flat.prompt.data != NULL ? 2 : 1), "another number of keys");
		must(holds(row, flat.prompt.data != NULL ? "completion" : "text", flat.learned), "another text");
		must(flat.prompt.data == NULL || holds(row, "prompt", flat.prompt), "another prompt");
	} else if (rc == 0) {
		must(!is_flat(row) || has_surrogate(line.data, size), "a flat row was not taken");
	}
	json_decref(row);
	writer_fini(&memory);
	return 0;
}
