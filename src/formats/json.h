/* SPDX-License-Identifier: Apache-2.0 */
/* The door to jansson: bounded JSON with duplicates refused and errors that say where. Any thread.
 * What is built or walked freely (arrays, new objects) uses jansson's own calls on the json_t that comes out of here.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Objects and arrays inside one another; deeper input is refused before anything is built. */
#define JSON_DEPTH_LIMIT 64

/* Parses one object or array. `name` and `first_line` only serve the error, "name:line:column: what"; first_line is 1
 * for a whole file and the row's line for JSON Lines. Refused: duplicate keys, bytes after the value, invalid UTF-8,
 * NUL in a string, more than JSON_DEPTH_LIMIT levels. The caller gives *out back with json_decref. SAKIORI_EFORMAT or
 * ELIMIT. */
int json_parse(const char *name, size_t first_line, const void *data, size_t size, json_t **out, struct fault *f);
/* As json_parse, for a regular file of at most `limit` bytes. */
int json_parse_file(const char *path, size_t limit, json_t **out, struct fault *f);

/* Getters of a required key; the sentence names the key and what stands there instead ("r" is a string, expected an
 * integer). What comes out is borrowed from `object`. SAKIORI_EFORMAT; callers put the file before it with fault_wrap.
 */
int json_want_text(const json_t *object, const char *key, const char **out, struct fault *f);
int json_want_integer(const json_t *object, const char *key, int64_t low, int64_t high, int64_t *out, struct fault *f);
/* An integer or a real, finite. */
int json_want_number(const json_t *object, const char *key, double *out, struct fault *f);
int json_want_boolean(const json_t *object, const char *key, bool *out, struct fault *f);
int json_want_object(const json_t *object, const char *key, const json_t **out, struct fault *f);
int json_want_array(const json_t *object, const char *key, const json_t **out, struct fault *f);
/* false when the key is absent or null, which most writers use for "not set". */
bool json_is_set(const json_t *object, const char *key);
/* "an object", "a string", ... for sentences. */
const char *json_kind(const json_t *value);
