/* SPDX-License-Identifier: Apache-2.0 */
/* Durations and sizes as people write them: "30s", "1.5h", "64MiB". Any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Large enough for every formatted duration and size. */
#define UNITS_TEXT_SIZE 32

/* A decimal number, perhaps a space, and ms, s, min (or m), h or d -> milliseconds, rounded to the nearest.
 * SAKIORI_EFORMAT: no such text, a number without a unit, or more than 2^53 ms. */
int units_parse_duration(const char *text, uint64_t *milliseconds);
/* A decimal number, perhaps a space, and B, KiB, MiB, GiB or TiB -> bytes. SAKIORI_EFORMAT as above. */
int units_parse_size(const char *text, uint64_t *bytes);

/* The text that parses back to exactly this value, in the largest unit that needs no fraction. */
void units_format_duration(uint64_t milliseconds, char out[static UNITS_TEXT_SIZE]);
void units_format_size(uint64_t bytes, char out[static UNITS_TEXT_SIZE]);
