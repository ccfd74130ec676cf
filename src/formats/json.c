/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* jansson recurses up to 2048 levels; this keeps a hostile row from using that much stack. Counts brackets outside
 * strings and leaves every other fault to the parser. */
static int check_depth(const char *name, size_t first_line, const char *p, size_t size, struct fault *f)
{
	size_t depth = 0, line = first_line, line_start = 0;
	bool in_string = false;
	for (size_t i = 0; i < size; i++) {
		char c = p[i];
		if (c == '\n') {
			line++;
			line_start = i + 1;
		} else if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '[' || c == '{') {
			if (++depth > JSON_DEPTH_LIMIT)
				return fault_set(f, SAKIORI_ELIMIT,
					"%s:%zu:%zu: more than %d objects or arrays inside one another", name, line,
					i - line_start + 1, JSON_DEPTH_LIMIT);
		} else if ((c == ']' || c == '}') && depth > 0) {
			depth--;
		}
	}
	return 0;
}

int json_parse(const char *name, size_t first_line, const void *data, size_t size, json_t **out, struct fault *f)
{
	*out = NULL;
	int rc = check_depth(name, first_line, data, size, f);
	if (rc != 0)
		return rc;
	json_error_t error;
	*out = json_loadb(data, size, JSON_REJECT_DUPLICATES, &error);
	for (char *p = error.text; *out == NULL && *p != '\0'; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?'; /* it quotes the input, which must not reach a terminal raw */
	if (*out == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "%s:%zu:%d: %s", name,
			first_line + (error.line > 0 ? (size_t)error.line - 1 : 0), error.column, error.text);
	return 0;
}

int json_parse_file(const char *path, size_t limit, json_t **out, struct fault *f)
{
	*out = NULL;
	uint8_t *data;
	size_t size;
	int rc = file_read(path, limit, &data, &size, f);
	if (rc == 0)
		rc = json_parse(path, 1, data, size, out, f);
	free(data);
	return rc;
}

const char *json_kind(const json_t *value)
{
	if (value == NULL)
		return "missing";
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a number with a fraction";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		break;
	}
	return "null";
}

bool json_is_set(const json_t *object, const char *key)
{
	const json_t *v = json_object_get(object, key);
	return v != NULL && !json_is_null(v);
}

static int wrong_kind(const char *key, const json_t *value, const char *expected, struct fault *f)
{
	return fault_set(f, SAKIORI_EFORMAT, "\"%s\" is %s, expected %s", key, json_kind(value), expected);
}

int json_want_text(const json_t *object, const char *key, const char **out, struct fault *f)
{
	const json_t *v = json_object_get(object, key);
	if (!json_is_string(v))
		return wrong_kind(key, v, "a string", f);
	*out = json_string_value(v);
	return 0;
}

int json_want_integer(const json_t *object, const char *key, int64_t low, int64_t high, int64_t *out, struct fault *f)
{
	const json_t *v = json_object_get(object, key);
	if (!json_is_integer(v))
		return wrong_kind(key, v, "an integer", f);
	int64_t got = json_integer_value(v);
	if (got < low || got > high)
		return fault_set(f, SAKIORI_EFORMAT, "\"%s\" is %lld, expected %lld to %lld", key, (long long)got,
			(long long)low, (long long)high);
	*out = got;
	return 0;
}

int json_want_number(const json_t *object, const char *key, double *out, struct fault *f)
{
	const json_t *v = json_object_get(object, key);
	if (!json_is_number(v))
		return wrong_kind(key, v, "a number", f);
	double got = json_number_value(v);
	if (!isfinite(got))
		return fault_set(f, SAKIORI_EFORMAT, "\"%s\" is not a finite number", key);
	*out = got;
	return 0;
}

int json_want_boolean(const json_t *object, const char *key, bool *out, struct fault *f)
{
	const json_t *v = json_object_get(object, key);
	if (!json_is_boolean(v))
		return wrong_kind(key, v, "true or false", f);
	*out = json_is_true(v);
	return 0;
}

int json_want_object(const json_t *object, const char *key, const json_t **out, struct fault *f)
{
	const json_t *v = json_object_get(object, key);
	if (!json_is_object(v))
		return wrong_kind(key, v, "an object", f);
	*out = v;
	return 0;
}

int json_want_array(const json_t *object, const char *key, const json_t **out, struct fault *f)
{
	const json_t *v = json_object_get(object, key);
	if (!json_is_array(v))
		return wrong_kind(key, v, "an array", f);
	*out = v;
	return 0;
}
