/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const names[] = {"error", "warn", "info", "debug"};
static const int journald_priority[] = {3, 4, 6, 7};

static atomic_int threshold = LOG_LEVEL_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void log_to_stderr(void *self, enum log_level level, const char *line)
{
	(void)self;
	if (getenv("JOURNAL_STREAM") != NULL) {
		fprintf(stderr, "<%d>%s\n", journald_priority[level], line);
		return;
	}
	struct timespec now;
	struct tm utc;
	char stamp[32];
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
	fprintf(stderr, "%s.%03ldZ %s %s\n", stamp, now.tv_nsec / 1000000, names[level], line);
}

static log_sink *sink_function = log_to_stderr;
static void *sink_self;

void log_set_level(enum log_level level)
{
	atomic_store(&threshold, (int)level);
}

void log_set_sink(log_sink *sink, void *self)
{
	pthread_mutex_lock(&lock);
	sink_function = sink != NULL ? sink : log_to_stderr;
	sink_self = self;
	pthread_mutex_unlock(&lock);
}

const char *log_level_name(enum log_level level)
{
	return names[level];
}

int log_level_parse(const char *word)
{
	for (int i = 0; i < 4; i++)
		if (strcmp(word, names[i]) == 0)
			return i;
	return -1;
}

void log_line(enum log_level level, const char *event, const char *format, ...)
{
	if ((int)level > atomic_load(&threshold))
		return;
	char line[1024];
	int used = snprintf(line, sizeof line, "%s ", event);
	if (used < 0 || (size_t)used >= sizeof line)
		return;
	va_list args;
	va_start(args, format);
	vsnprintf(line + used, sizeof line - (size_t)used, format, args);
	va_end(args);
	/* A peer's or file's text may be quoted in a line: it must not start a second one. */
	for (char *c = line; *c != '\0'; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = ' ';
	pthread_mutex_lock(&lock);
	sink_function(sink_self, level, line);
	pthread_mutex_unlock(&lock);
}
