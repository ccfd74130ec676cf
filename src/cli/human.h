/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of JSON replies as people read them. Any thread; `out` is returned, so that calls fit into a printf. */
#pragma once
#include <jansson.h>
#include <stddef.h>

#define HUMAN_SIZE 24

/* "1.5 MB", decimal units. */
char *human_bytes(double bytes, char out[static HUMAN_SIZE]);
/* "850 ms", "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h". */
char *human_seconds(double seconds, char out[static HUMAN_SIZE]);
/* The key's number in this printf format ("%.4f"), "-" where it is null or missing. */
char *human_number(const json_t *object, const char *key, const char *format, char out[static HUMAN_SIZE]);
/* The key's whole number, 0 where missing; its text, "" where missing. */
long long human_integer(const json_t *object, const char *key);
const char *human_text(const json_t *object, const char *key);
