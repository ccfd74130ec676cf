/* SPDX-License-Identifier: Apache-2.0 */
#include "config/scan.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Behind the comment, string, name, number or single byte at `at`. */
static const char *skip_token(const char *at)
{
	if (*at == '#' || (at[0] == '/' && at[1] == '/'))
		return at + strcspn(at, "\n");
	if (at[0] == '/' && at[1] == '*') {
		const char *end = strstr(at + 2, "*/");
		return end != NULL ? end + 2 : at + strlen(at);
	}
	if (*at == '"') {
		for (at++; *at != 0 && *at != '"'; at++)
			at += at[0] == '\\' && at[1] != 0;
		return at + (*at != 0);
	}
	if (isalpha((unsigned char)*at) || *at == '*')
		while (isalnum((unsigned char)*at) || *at == '-' || *at == '_' || *at == '*')
			at++;
	else if (isdigit((unsigned char)*at) || *at == '.')
		while (isalnum((unsigned char)*at) || *at == '.' ||
			((*at == '-' || *at == '+') && (at[-1] == 'e' || at[-1] == 'E')))
			at++;
	else
		at++;
	return at;
}

/* Whether the number from `at` to `end` is an integer that libconfig would wrap round. */
static bool wraps(const char *at, const char *end)
{
	bool hex = at[0] == '0' && (at[1] == 'x' || at[1] == 'X');
	char *rest;
	errno = 0;
	unsigned long long value = strtoull(at, &rest, hex ? 16 : 10);
	if (rest < end && *rest != 'L')
		return false; /* a fraction or an exponent */
	return errno == ERANGE || value > (rest < end ? (unsigned long long)INT64_MAX : (unsigned long long)INT32_MAX);
}

int scan_text(const char *text, size_t size, const char *path, struct fault *f)
{
	unsigned line = 1;
	const char *end;
	for (const char *at = text; *at != 0; at = end) {
		end = skip_token(at);
		if (isdigit((unsigned char)*at) && wraps(at, end))
			return fault_set(f, SAKIORI_ECONFIG,
				"%s:%u: the integer %.*s is too large; expected one below 2^31, or below 2^63 with an "
				"L behind it",
				path, line, (int)(end - at < 40 ? end - at : 40), at);
		if (strncmp(at, "@include", 8) == 0)
			return fault_set(f, SAKIORI_ECONFIG,
				"%s:%u: @include; expected the whole configuration in one file", path, line);
		for (; at < end; at++)
			line += *at == '\n';
	}
	if (strlen(text) != size)
		return fault_set(f, SAKIORI_ECONFIG, "%s:%u: a NUL byte; expected text", path, line);
	return 0;
}
