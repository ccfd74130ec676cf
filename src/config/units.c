/* SPDX-License-Identifier: Apache-2.0 */
#include "config/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

struct unit {
	const char *name;
	uint64_t factor;
};

/* Smallest first; each is a multiple of the one before. */
static const struct unit durations[] = {
	{"ms", 1}, {"s", 1000}, {"m", 60000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}, {0}};
static const struct unit sizes[] = {{"B", 1}, {"KiB", UINT64_C(1) << 10}, {"MiB", UINT64_C(1) << 20},
	{"GiB", UINT64_C(1) << 30}, {"TiB", UINT64_C(1) << 40}, {0}};

static int parse(const char *text, const struct unit *units, uint64_t *out)
{
	/* strtod alone would also take "nan", "0x1p3", "-1" and leading blanks */
	size_t digits = strspn(text, "0123456789.");
	char *end;
	double number = strtod(text, &end);
	if (digits == 0 || end != text + digits)
		return SAKIORI_EFORMAT;
	end += *end == ' ';
	for (const struct unit *u = units; u->name != NULL; u++)
		if (strcmp(end, u->name) == 0) {
			double value = number * (double)u->factor;
			if (!(value <= 0x1p53))
				return SAKIORI_EFORMAT;
			*out = (uint64_t)(value + 0.5);
			return 0;
		}
	return SAKIORI_EFORMAT;
}

static void format(uint64_t value, const struct unit *units, char out[static UNITS_TEXT_SIZE])
{
	const struct unit *best = units;
	for (const struct unit *u = units; u->name != NULL && value > 0; u++)
		if (value % u->factor == 0)
			best = u;
	snprintf(out, UNITS_TEXT_SIZE, "%" PRIu64 "%s", value / best->factor, best->name);
}

int units_parse_duration(const char *text, uint64_t *milliseconds)
{
	return parse(text, durations, milliseconds);
}

int units_parse_size(const char *text, uint64_t *bytes)
{
	return parse(text, sizes, bytes);
}

void units_format_duration(uint64_t milliseconds, char out[static UNITS_TEXT_SIZE])
{
	format(milliseconds, durations, out);
}

void units_format_size(uint64_t bytes, char out[static UNITS_TEXT_SIZE])
{
	format(bytes, sizes, out);
}
