/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/human.h"

#include <stdio.h>

char *human_bytes(double bytes, char out[static HUMAN_SIZE])
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
	size_t unit = 0;
	for (; bytes >= 1000 && unit < 4; unit++)
		bytes /= 1000;
	snprintf(out, HUMAN_SIZE, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
	return out;
}

char *human_seconds(double seconds, char out[static HUMAN_SIZE])
{
	if (seconds < 0)
		seconds = 0;
	long long whole = seconds < 1e12 ? (long long)seconds : 1000000000000;
	if (seconds < 1)
		snprintf(out, HUMAN_SIZE, "%.0f ms", seconds * 1000);
	else if (whole < 60)
		snprintf(out, HUMAN_SIZE, "%lld s", whole);
	else if (whole < 3600)
		snprintf(out, HUMAN_SIZE, "%lld min %lld s", whole / 60, whole % 60);
	else if (whole < 86400)
		snprintf(out, HUMAN_SIZE, "%lld h %lld min", whole / 3600, whole / 60 % 60);
	else
		snprintf(out, HUMAN_SIZE, "%lld d %lld h", whole / 86400, whole / 3600 % 24);
	return out;
}

char *human_number(const json_t *object, const char *key, const char *format, char out[static HUMAN_SIZE])
{
	const json_t *value = json_object_get(object, key);
	if (json_is_number(value))
		snprintf(out, HUMAN_SIZE, format, json_number_value(value));
	else
		snprintf(out, HUMAN_SIZE, "-");
	return out;
}

long long human_integer(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

const char *human_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text != NULL ? text : "";
}
