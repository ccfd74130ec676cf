/* SPDX-License-Identifier: Apache-2.0 */
/* The door to PCRE2: the patterns of tokenizers, in the syntax of Oniguruma that Hugging Face reads, or literal texts.
 *
 * What Oniguruma means otherwise than PCRE2 is translated: \s (PCRE2's has U+180E too), \w and \b, \h, \v, \uHHHH,
 * scripts (PCRE2 takes Script_Extensions), (?m), lines at ^ and $, a class inside a class. What cannot be said in PCRE2
 * is refused by name: && in a class, a negated class inside a class, POSIX classes, an interval followed by +.
 * The properties are of Unicode 14 with PCRE2 10.42 (Debian 12); Hugging Face's tokenizers 0.23 know Unicode 16. Only
 * characters assigned in between are cut otherwise.
 *
 * A regex never changes, so threads may share it; a regex_scratch belongs to one thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* The longest pattern, in bytes. */
#define REGEX_MAX_PATTERN 8192

struct regex;
/* SAKIORI_EUNSUPPORTED or SAKIORI_ELIMIT with the pattern and the place. On success the caller owns *out. */
int regex_new(struct regex **out, const char *pattern, size_t size, bool literal, struct fault *f);
void regex_free(struct regex *r);

struct regex_scratch;
struct regex_scratch *regex_scratch_new(void);
void regex_scratch_free(struct regex_scratch *s);

/* Where a search through one text has come to; zero it first, then only set `begin` and `end` are of use. */
struct regex_match {
	size_t begin, end;
	size_t from; /* where the next search begins */
	bool any;    /* there was a match before */
};

/* The next match in a text of valid UTF-8: 1, 0 when there is none, SAKIORI_ELIMIT when the pattern needs more steps
 * than any sane one does. An empty match right after the last one is passed over, as Oniguruma's callers do. */
int regex_next(const struct regex *r, struct regex_scratch *s, const char *text, size_t size, struct regex_match *m,
	struct fault *f);
