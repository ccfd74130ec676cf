/* SPDX-License-Identifier: Apache-2.0 */
#include "config/scan.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Brackets within brackets; a configuration needs three. */
#define MAX_DEPTH 16

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

/* Whether the string token from `at` to `end` has its closing quote, and not one that is escaped or the first. */
static bool closed(const char *at, const char *end)
{
	unsigned backslashes = 0;
	while (end - 2 - backslashes > at && end[-2 - (int)backslashes] == '\\')
		backslashes++;
	return end - at >= 2 && end[-1] == '"' && backslashes % 2 == 0;
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

/* Follows the tokens: the last one that counted (its first byte) and the brackets that are open. */
struct place {
	char last;
	unsigned depth;
	char open[MAX_DEPTH];
};

/* Whether a string may come next: as a value, as a part of one, or in a list. Elsewhere libconfig leaks it. */
static bool takes_string(const struct place *p)
{
	if (p->last == '=' || p->last == ':' || p->last == '"')
		return true;
	bool in_list = p->depth > 0 && (p->open[p->depth - 1] == '[' || p->open[p->depth - 1] == '(');
	return in_list && (p->last == ',' || p->last == p->open[p->depth - 1]);
}

/* Goes on to the token that begins with this byte; false when it opens one bracket too many. */
static bool step(struct place *p, const char *at)
{
	bool comment = *at == '#' || (*at == '/' && (at[1] == '/' || at[1] == '*'));
	if (comment || isspace((unsigned char)*at))
		return true;
	p->last = *at;
	if (strchr("[({", *at) != NULL) {
		if (p->depth == MAX_DEPTH)
			return false;
		p->open[p->depth++] = *at;
	} else if (strchr("])}", *at) != NULL && p->depth > 0) {
		p->depth--;
	}
	return true;
}

int scan_text(const char *text, size_t size, const char *path, struct fault *f)
{
	unsigned line = 1;
	struct place place = {0};
	const char *end;
	for (const char *at = text; *at != 0; at = end) {
		end = skip_token(at);
		const char *trouble = NULL;
		if (isdigit((unsigned char)*at) && wraps(at, end))
			return fault_set(f, SAKIORI_ECONFIG,
				"%s:%u: the integer %.*s is too large; expected one below 2^31, or below 2^63 with an "
				"L behind it",
				path, line, (int)(end - at < 40 ? end - at : 40), at);
		if (*at == '"' && !closed(at, end))
			trouble = "a string begins here and never ends; expected a closing quote";
		else if (*at == '"' && !takes_string(&place))
			trouble = "a string stands where no value can; expected key = \"value\";";
		else if (strncmp(at, "@include", 8) == 0)
			trouble = "@include; expected the whole configuration in one file";
		else if (!step(&place, at))
			trouble = "brackets within brackets, too deep; expected name: { key = value; ... };";
		if (trouble != NULL)
			return fault_set(f, SAKIORI_ECONFIG, "%s:%u: %s", path, line, trouble);
		for (; at < end; at++)
			line += *at == '\n';
	}
	if (strlen(text) != size)
		return fault_set(f, SAKIORI_ECONFIG, "%s:%u: a NUL byte; expected text", path, line);
	return 0;
}
