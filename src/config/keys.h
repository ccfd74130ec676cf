/* SPDX-License-Identifier: Apache-2.0 */
/* The table of configuration keys, and what can be done with a value whatever its type. Reading the file, writing the
 * example, comparing two configurations and the tests of the manual all walk this one table. Any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "config/config.h"

enum key_type {
	KEY_BOOL,     /* bool */
	KEY_INT,      /* int64_t */
	KEY_FLOAT,    /* double */
	KEY_STRING,   /* char * */
	KEY_PATH,     /* char *; relative ones count from the file's folder */
	KEY_LIST,     /* struct config_list; the file may also give a single string */
	KEY_DURATION, /* uint64_t, ms */
	KEY_SIZE,     /* uint64_t, bytes */
	KEY_WORD,     /* const char *, one of `words` */
};

struct config_key {
	const char *path; /* "group.key"; "peers.key" are those of each entry of peers */
	enum key_type type;
	size_t offset;            /* in struct config; for peers.* in struct config_peer */
	const char *initial;      /* the default as text, without quotes; NULL: required */
	double min, max;          /* numbers; durations in ms; strings and paths: length in bytes */
	const char *const *words; /* KEY_WORD: those allowed, then NULL */
	const char *unit;         /* what a number counts, "" for none */
	const char *example;      /* shown where there is no useful default; NULL: the default */
	bool needs_restart;       /* a reload cannot apply it */
	const char *help;         /* sentences; lines are broken where they are written */
};

/* Ends with a key whose path is NULL. Keys of a group stand together; peers.* last. */
extern const struct config_key config_keys[];
/* Number of keys, that one not counted. */
size_t config_key_count(void);
/* The key with this path, or NULL. */
const struct config_key *config_key_find(const char *path);
/* The key a person probably meant: one of the same last name, else the nearest by edit distance. Never NULL. */
const struct config_key *config_key_nearest(const char *path);
bool config_key_of_peer(const struct config_key *k);

/* In these, `base` is the struct config or struct config_peer that holds the value. */
static inline void *config_key_value(const struct config_key *k, const void *base)
{
	return (char *)base + k->offset;
}
/* Frees what the value owns and leaves it zeroed. */
void config_key_clear(const struct config_key *k, void *base);
/* Sets a cleared value to its default ("" or empty when required). */
void config_key_set_initial(const struct config_key *k, void *base);
bool config_key_equal(const struct config_key *k, const void *a, const void *b);
/* Writes the value as the file has it: quoted, with its unit. */
void config_key_print(const struct config_key *k, const void *base, FILE *stream);
/* Writes what is expected of a value, e.g. "an integer from 1 to 1000000", into out; always terminated. */
void config_key_expected(const struct config_key *k, char *out, size_t size);
/* The allowed word of this spelling, in static memory, or NULL. */
const char *config_key_word(const struct config_key *k, const char *text);
