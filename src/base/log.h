/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines of the form `event key=value ...`. Any thread. Never a row, a prompt, a key or sample text. */
#pragma once

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Receives one whole line without its newline; called under the log's own lock, so it must not log. */
typedef void log_sink(void *self, enum log_level level, const char *line);

/* Lines above `level` are dropped. Default: LOG_LEVEL_INFO. */
void log_set_level(enum log_level level);
/* NULL restores the default sink, log_to_stderr. */
void log_set_sink(log_sink *sink, void *self);
/* Writes to stderr, with journald's <N> prefix when JOURNAL_STREAM is set, else with the time. For sinks that keep lines as well. */
void log_to_stderr(void *self, enum log_level level, const char *line);
/* "error", "warn", "info" or "debug". */
const char *log_level_name(enum log_level level);
/* "error", "warn", "info" or "debug" -> level; -1 for another word. */
int log_level_parse(const char *word);

void log_line(enum log_level level, const char *event, const char *format, ...) __attribute__((format(printf, 3, 4)));
#define log_error(event, ...) log_line(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...) log_line(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_info(event, ...) log_line(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) log_line(LOG_LEVEL_DEBUG, event, __VA_ARGS__)
