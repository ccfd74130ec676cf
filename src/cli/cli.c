/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct unit {
	const char *name;
	double factor;
};

static const struct unit seconds_units[] = {{"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {0}};
static const struct unit bytes_units[] = {
	{"B", 1}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {0}};

static bool read_number(const char *text, double *out, const char **rest)
{
	const char *digits = text + (*text == '-');
	/* strtod would also take blanks, "inf", "nan" and hexadecimal */
	if ((!isdigit((unsigned char)*digits) && *digits != '.') || (digits[0] == '0' && (digits[1] | 32) == 'x'))
		return false;
	char *end;
	errno = 0;
	double value = strtod(text, &end);
	if (end == text || errno != 0 || !isfinite(value))
		return false;
	*out = value;
	*rest = end;
	return true;
}

static bool read_with_unit(const char *text, const struct unit *units, double *out)
{
	double value;
	const char *rest;
	if (!read_number(text, &value, &rest) || value < 0)
		return false;
	for (; units->name != NULL; units++) {
		if (strcmp(rest, units->name) == 0) {
			*out = value * units->factor;
			return true;
		}
	}
	return false;
}

bool cli_read_seconds(const char *text, double *out)
{
	return read_with_unit(text, seconds_units, out);
}

bool cli_read_bytes(const char *text, uint64_t *out)
{
	double bytes;
	/* below 2^53 a double still counts single bytes */
	if (!read_with_unit(text, bytes_units, &bytes) || bytes > 9007199254740992.0 || bytes != floor(bytes))
		return false;
	*out = (uint64_t)bytes;
	return true;
}

static bool read_count(const char *text, uint64_t *out)
{
	if (!isdigit((unsigned char)*text))
		return false;
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (*end != '\0' || errno != 0)
		return false;
	*out = value;
	return true;
}

static bool read_real(const char *text, double *out)
{
	double value;
	const char *rest;
	if (!read_number(text, &value, &rest) || *rest != '\0')
		return false;
	*out = value;
	return true;
}

static const char *expected(enum cli_kind kind)
{
	switch (kind) {
	case CLI_COUNT:
		return "a whole number, 0 or more";
	case CLI_NUMBER:
		return "a number";
	case CLI_SECONDS:
		return "a duration with its unit, like 250ms, 90s, 5m, 2h or 1d";
	case CLI_BYTES:
		return "a size with its unit, like 64KiB, 8MiB, 1GiB or 500MB";
	case CLI_TEXTS:
		return "at most 64 of it";
	case CLI_FLAG:
	case CLI_TEXT:
		break;
	}
	return "text";
}

static bool store_text(struct cli_texts *texts, const char *text)
{
	if (texts->count == CLI_TEXTS_MAX)
		return false;
	texts->at[texts->count++] = text;
	return true;
}

static bool store(const struct cli_option *o, const char *text)
{
	switch (o->kind) {
	case CLI_FLAG:
		*(bool *)o->value = true;
		return true;
	case CLI_TEXT:
		*(const char **)o->value = text;
		return true;
	case CLI_TEXTS:
		return store_text(o->value, text);
	case CLI_COUNT:
		return read_count(text, o->value);
	case CLI_NUMBER:
		return read_real(text, o->value);
	case CLI_SECONDS:
		return cli_read_seconds(text, o->value);
	case CLI_BYTES:
		return cli_read_bytes(text, o->value);
	}
	return false;
}

static void print_help(const char *command, const char *synopsis, const struct cli_option *options)
{
	printf("usage: sakiori %s %s\n", command, synopsis);
	for (const struct cli_option *o = options; o->name != NULL; o++) {
		char left[64];
		snprintf(left, sizeof left, "--%s%s%s", o->name, o->argument != NULL ? " " : "",
			o->argument != NULL ? o->argument : "");
		printf("  %-26s %s\n", left, o->help);
	}
	printf("  %-26s %s\n", "--help", "this text");
}

static const char *next_option(const void *table, size_t i)
{
	return ((const struct cli_option *)table)[i].name;
}

static int unknown_option(const char *command, const char *word, const struct cli_option *options)
{
	char name[64];
	snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
	const char *near = strncmp(name, "--", 2) == 0 ? cli_nearest(name + 2, next_option, options) : NULL;
	if (near != NULL)
		return cli_usage(command, "unknown option '%s'; the nearest known one is --%s", name, near);
	return cli_usage(command, "unknown option '%s'", name);
}

enum { OPTIONS_LIMIT = 64, LONG_OPTION = 256 };

int cli_parse(int argc, char **argv, const char *synopsis, const struct cli_option *options, int most_words, int *words)
{
	const char *command = argv[0];
	struct option longs[OPTIONS_LIMIT + 2] = {0};
	int count = 0;
	for (; options[count].name != NULL && count < OPTIONS_LIMIT; count++)
		longs[count] = (struct option){options[count].name,
			options[count].kind == CLI_FLAG ? no_argument : required_argument, NULL, LONG_OPTION + count};
	longs[count] = (struct option){"help", no_argument, NULL, 'h'};

	optind = 0; /* glibc: start over */
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, ":h", longs, NULL)) != -1;) {
		if (c == 'h') {
			print_help(command, synopsis, options);
			return EXIT_CODE_OK;
		}
		if (c == ':')
			return cli_usage(command, "%s needs an argument", argv[optind - 1]);
		if (c == '?') {
			if (optopt >= LONG_OPTION)
				return cli_usage(command, "--%s takes no argument", options[optopt - LONG_OPTION].name);
			return unknown_option(command, argv[optind - 1], options);
		}
		const struct cli_option *o = &options[c - LONG_OPTION];
		if (!store(o, optarg))
			return cli_usage(
				command, "--%s: expected %s, found '%.60s'", o->name, expected(o->kind), optarg);
	}
	if (argc - optind > most_words)
		return cli_usage(command, "unexpected word '%.60s'", argv[optind + most_words]);
	for (int i = optind; i < argc; i++)
		argv[1 + i - optind] = argv[i];
	if (words != NULL)
		*words = argc - optind;
	return CLI_CONTINUE;
}

/* Levenshtein, for words shorter than the limit. */
static size_t distance(const char *a, const char *b)
{
	enum { WORD_LIMIT = 64 };
	size_t row[WORD_LIMIT], n = strlen(b);
	if (strlen(a) >= WORD_LIMIT || n >= WORD_LIMIT)
		return WORD_LIMIT;
	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 1; a[i - 1] != '\0'; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[n];
}

const char *cli_nearest(const char *word, const char *(*next)(const void *table, size_t i), const void *table)
{
	const char *nearest = NULL, *candidate;
	size_t best = strlen(word) / 2 + 1;
	for (size_t i = 0; (candidate = next(table, i)) != NULL; i++) {
		size_t d = distance(word, candidate);
		if (d < best) {
			best = d;
			nearest = candidate;
		}
	}
	return nearest;
}

int cli_fail(const struct fault *f)
{
	cli_progress_end();
	fprintf(stderr, "sakiori: %s\n", f->text[0] != '\0' ? f->text : err_text(f->code));
	int code = err_exit_code(f->code);
	return code != EXIT_CODE_OK ? code : EXIT_CODE_FAILURE;
}

int cli_usage(const char *command, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fprintf(stderr, "sakiori %s: ", command);
	vfprintf(stderr, format, args);
	fprintf(stderr, " (see: sakiori %s --help)\n", command);
	va_end(args);
	return EXIT_CODE_USAGE;
}

void cli_print_json(json_t *take_object)
{
	char *line = json_dumps(take_object, JSON_COMPACT | JSON_REAL_PRECISION(9));
	json_decref(take_object);
	if (line == NULL)
		return;
	puts(line);
	fflush(stdout);
	free(line);
}

static bool progress_open;

void cli_progress(const char *format, ...)
{
	if (!isatty(STDERR_FILENO))
		return;
	va_list args;
	va_start(args, format);
	fputs("\r", stderr);
	vfprintf(stderr, format, args);
	fputs("\033[K", stderr);
	fflush(stderr);
	va_end(args);
	progress_open = true;
}

void cli_progress_end(void)
{
	if (progress_open)
		fputc('\n', stderr);
	progress_open = false;
}
