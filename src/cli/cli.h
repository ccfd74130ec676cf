/* SPDX-License-Identifier: Apache-2.0 */
/* What all subcommands share: the table of commands, option parsing, JSON lines, the progress line and how a command
 * fails. Main thread only. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* A new command is one line here, one file cmd_NAME.c with `int cmd_NAME(int argc, char **argv)` returning the exit
 * code (argv[0] is the command's name), and one line in local.mk. */
#define CLI_CORE_COMMANDS(X)                                                                                           \
	X(plan, "what training would take of memory, time and the network")                                            \
	X(train, "fine-tune an adapter on this machine's rows")                                                        \
	X(eval, "loss and accuracy of a model, perhaps with an adapter, on rows")                                      \
	X(generate, "let a model, perhaps with an adapter, write on from a prompt")                                    \
	X(export, "an adapter, or a model with it merged, in the forms that other programs load")                      \
	X(data, "what training makes of rows: each token with its label, or figures")                                  \
	X(tokenize, "show what the model's tokenizer makes of a text")                                                 \
	X(bench, "how fast this machine trains, and where a step's time goes")

/* Those that need the daemon's libraries; left out by --disable-daemon. */
#define CLI_DAEMON_COMMANDS(X)                                                                                         \
	X(init, "write a commented configuration and make this site's keys")                                           \
	X(keygen, "make an identity key or a network secret")                                                          \
	X(id, "print the string by which neighbours pin this site")                                                    \
	X(status, "state, round, losses and trouble of the site")                                                      \
	X(peers, "the neighbours, and what to do about trouble")                                                       \
	X(rounds, "the last rounds, or each as it comes")                                                              \
	X(pause, "stop training after the running round")                                                              \
	X(resume, "go on training")                                                                                    \
	X(drain, "stop training until it is safe to stop the daemon")                                                  \
	X(wait, "wait for a round or for peers")                                                                       \
	X(log, "the daemon's last log lines")                                                                          \
	X(reload, "read the configuration again")                                                                      \
	X(simulate, "sites that train together in virtual time, over links that break")

struct cli_command {
	const char *name; /* NULL ends a table */
	int (*run)(int argc, char **argv);
	const char *help; /* one line */
};

#define X(name, help) int cmd_##name(int argc, char **argv);
CLI_CORE_COMMANDS(X)
CLI_DAEMON_COMMANDS(X)
#undef X
#define CLI_TABLE_ENTRY(name, help) {#name, cmd_##name, help},

/* Of this build: daemon_commands.c, or no_daemon_commands.c where there is no daemon. */
extern const struct cli_command cli_daemon_commands[];

enum cli_kind {
	CLI_FLAG,    /* bool: takes no argument */
	CLI_TEXT,    /* const char *, borrowed from argv */
	CLI_TEXTS,   /* struct cli_texts: may be given again and again */
	CLI_COUNT,   /* uint64_t: 0, 1, 2, ... */
	CLI_NUMBER,  /* double, finite */
	CLI_SECONDS, /* double: 250ms, 90s, 5m, 2h, 1d */
	CLI_BYTES,   /* uint64_t: 4096B, 64KiB, 8MiB, 1GiB, also kB, MB, GB */
};

#define CLI_TEXTS_MAX 64
struct cli_texts {
	const char *at[CLI_TEXTS_MAX]; /* borrowed from argv */
	size_t count;
};

struct cli_option {
	const char *name; /* without the dashes; NULL ends a table */
	enum cli_kind kind;
	void *value;          /* of the kind's type; holds the default before, untouched when the option is not given */
	const char *argument; /* what the help calls the argument; NULL for flags */
	const char *help;     /* one line */
};

/* Reads the options (anywhere among the words) and moves the remaining words to the front of argv[1]...; *words is
 * their number. Prints the help for --help, and a sentence with the nearest known option for a mistake. Returns
 * CLI_CONTINUE, or the exit code to end with. `synopsis` follows "sakiori COMMAND "; more than most_words words is a
 * mistake. */
#define CLI_CONTINUE (-1)
int cli_parse(
	int argc, char **argv, const char *synopsis, const struct cli_option *options, int most_words, int *words);

/* The same readings for a single argument; false when it is malformed or out of range. */
bool cli_read_seconds(const char *text, double *out);
bool cli_read_bytes(const char *text, uint64_t *out);

/* The word of the table nearest to a mistyped one, or NULL when none is near. next(i) gives the i-th word, NULL at the
 * end. */
const char *cli_nearest(const char *word, const char *(*next)(const void *table, size_t i), const void *table);

/* Prints the sentence to stderr and returns the exit code that belongs to it. */
int cli_fail(const struct fault *f);
/* The same for a mistake in how the command was called; points at --help. Returns EXIT_CODE_USAGE. */
int cli_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints one object as one line on stdout, at once; takes the reference. */
void cli_print_json(json_t *take_object);

/* Rewrites one line on stderr, where that is a terminal; else nothing. cli_progress_end leaves the last one standing.
 */
void cli_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_progress_end(void);
