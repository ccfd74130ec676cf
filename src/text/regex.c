/* SPDX-License-Identifier: Apache-2.0 */
#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "text/utf8.h"

/* Oniguruma's \s, \S and \w as what stands inside brackets. */
#define SPACES "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES                                                                                                     \
	"\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-"      \
	"\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

/* Steps of one search from one place, and memory for them: far above what the patterns in use need, below a second. */
enum { MATCH_LIMIT = 1000000, HEAP_LIMIT_KIB = 64 << 10 };

struct regex {
	pcre2_code *code; /* NULL: literal */
	bool jit;
	char *literal;
	size_t literal_size;
};

struct regex_scratch {
	pcre2_match_data *match;
	pcre2_match_context *limits;
};

/* A pattern on its way from Oniguruma's syntax to PCRE2's. */
struct translation {
	const char *in;
	size_t size;
	size_t at;
	size_t depth; /* of brackets */
	struct writer out;
	struct fault *f;
};

static int refuse(const struct translation *t, const char *what)
{
	return fault_set(t->f, SAKIORI_EUNSUPPORTED, "pattern '%.*s': %s at byte %zu is not supported",
		(int)(t->size < 120 ? t->size : 120), t->in, what, t->at);
}

static void put(struct translation *t, const char *text)
{
	write_bytes(&t->out, text, strlen(text));
}

static char peek(const struct translation *t, size_t ahead)
{
	return t->at + ahead < t->size ? t->in[t->at + ahead] : '\0';
}

static void copy(struct translation *t, size_t bytes)
{
	for (; bytes > 0 && t->at < t->size; bytes--)
		write_u8(&t->out, (uint8_t)t->in[t->at++]);
}

/* A class such as \s at the current place, two bytes long. */
static void put_class(struct translation *t, const char *set)
{
	t->at += 2;
	if (t->depth == 0)
		put(t, "[");
	put(t, set);
	if (t->depth == 0) {
		put(t, "]");
	} else if (peek(t, 0) == '-') {
		put(t, "\\-"); /* after a class it is no range */
		t->at++;
	}
}

static int put_outside(struct translation *t, const char *text, const char *name)
{
	if (t->depth > 0)
		return refuse(t, name);
	t->at += 2;
	put(t, text);
	return 0;
}

/* \p{Name}: of a script, the characters of that script alone. */
static int put_property(struct translation *t)
{
	const char *end = peek(t, 2) == '{' ? memchr(t->in + t->at, '}', t->size - t->at) : NULL;
	if (end == NULL) {
		copy(t, 2);
		return 0;
	}
	const char *name = t->in + t->at + 3;
	bool negated = *name == '^';
	name += negated;
	int size = (int)(end - name);
	char probe[80];
	int error;
	PCRE2_SIZE offset;
	pcre2_code *script = NULL;
	if (size > 2 && snprintf(probe, sizeof probe, "\\p{sc:%.*s}", size, name) < (int)sizeof probe)
		script = pcre2_compile(
			(PCRE2_SPTR)probe, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
	copy(t, 3 + negated);
	if (script != NULL)
		put(t, "sc:");
	pcre2_code_free(script);
	copy(t, (size_t)size + 1);
	return 0;
}

static int put_hexadecimal(struct translation *t)
{
	char text[16];
	unsigned value = 0;
	size_t digits = t->in[t->at + 1] == 'u' ? 4 : 2;
	if (digits == 2 && peek(t, 2) == '{') {
		copy(t, 2);
		return 0;
	}
	for (size_t i = 0; i < digits; i++) {
		char c = peek(t, 2 + i);
		const char *digit = c != '\0' ? strchr("0123456789abcdef", c | 0x20) : NULL;
		if (digit == NULL)
			return refuse(t, "a code point in other than 4 (\\u) or 2 (\\x) digits");
		value = value << 4 | (unsigned)(strchr("0123456789abcdef", c | 0x20) - "0123456789abcdef");
	}
	if (digits == 2 && value >= 0x80)
		return refuse(t, "a single byte of a character");
	snprintf(text, sizeof text, "\\x{%x}", value);
	t->at += 2 + digits;
	put(t, text);
	return 0;
}

static int put_escape(struct translation *t)
{
	switch (peek(t, 1)) {
	case 's':
		put_class(t, SPACES);
		return 0;
	case 'S':
		put_class(t, NOT_SPACES);
		return 0;
	case 'w':
		put_class(t, WORD);
		return 0;
	case 'h':
		put_class(t, "0-9A-Fa-f");
		return 0;
	case 'v':
		t->at += 2;
		put(t, "\\x0b");
		return 0;
	case 'W':
		return put_outside(t, "[^" WORD "]", "\\W in a class");
	case 'H':
		return put_outside(t, "[^0-9A-Fa-f]", "\\H in a class");
	case 'O':
		return put_outside(t, "(?s:.)", "\\O in a class");
	case 'b':
		if (t->depth > 0)
			break; /* backspace */
		return put_outside(
			t, "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))", "\\b in a class");
	case 'B':
		return put_outside(
			t, "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))", "\\B in a class");
	case 'p':
	case 'P':
		return put_property(t);
	case 'u':
	case 'x':
		return put_hexadecimal(t);
	case 'C':
	case 'E':
	case 'K':
	case 'N':
	case 'Q':
	case 'R':
	case 'X':
	case 'g':
		return refuse(t, "this escape");
	default:
		break;
	}
	copy(t, 2);
	return 0;
}

static int put_in_class(struct translation *t)
{
	char c = peek(t, 0);
	if (c == '[' && peek(t, 1) == ':')
		return refuse(t, "a POSIX class");
	if (c == '[' && peek(t, 1) == '^')
		return refuse(t, "a negated class in a class");
	if (c == '&' && peek(t, 1) == '&')
		return refuse(t, "&& in a class");
	if (c == '[' || (c == ']' && t->depth > 1)) {
		/* the union of both classes is the class of all that stands in both */
		t->depth += c == '[' ? 1 : (size_t)-1;
		t->at++;
		return 0;
	}
	t->depth -= c == ']';
	copy(t, 1);
	return 0;
}

/* (?m) is what others call s; ^ and $ stand at lines anyway. */
static int put_group(struct translation *t)
{
	if (peek(t, 1) == '*')
		return refuse(t, "a verb");
	if (peek(t, 1) != '?' || peek(t, 2) == '\0' || strchr("imx-", peek(t, 2)) == NULL) {
		if (peek(t, 1) == '?' && (peek(t, 2) == '\0' || strchr(":=!<>#", peek(t, 2)) == NULL))
			return refuse(t, "this kind of group");
		copy(t, 1);
		return 0;
	}
	copy(t, 2);
	for (char c; (c = peek(t, 0)) != '\0' && strchr("imx-", c) != NULL;) {
		t->at++;
		write_u8(&t->out, c == 'm' ? 's' : (uint8_t)c);
	}
	return 0;
}

/* "{n,m}", or a brace that means itself */
static int put_interval(struct translation *t)
{
	size_t n = 1 + strspn(t->in + t->at + 1, "0123456789,");
	if (peek(t, 1) == ',')
		return refuse(t, "an interval without its lower end");
	if (n > 1 && peek(t, n) == '}' && peek(t, n + 1) == '+')
		return refuse(t, "+ after an interval");
	copy(t, n);
	return 0;
}

static int translate(struct translation *t)
{
	int rc = 0;
	while (rc == 0 && t->at < t->size) {
		char c = t->in[t->at];
		if (c == '\\') {
			rc = put_escape(t);
		} else if (t->depth > 0) {
			rc = put_in_class(t);
		} else if (c == '[') {
			t->depth = 1;
			copy(t, peek(t, 1) == '^' ? 2 : 1);
			if (peek(t, 0) == ']')
				copy(t, 1);
		} else if (c == '(') {
			rc = put_group(t);
		} else if (c == '{') {
			rc = put_interval(t);
		} else {
			copy(t, 1);
		}
	}
	write_u8(&t->out, 0);
	return rc;
}

static int compile(struct regex *r, const struct translation *t)
{
	pcre2_compile_context *context = pcre2_compile_context_create(NULL);
	if (context == NULL)
		abort(); /* a hundred bytes */
	pcre2_set_newline(context, PCRE2_NEWLINE_LF);
	int error;
	PCRE2_SIZE offset;
	r->code = pcre2_compile(t->out.data, PCRE2_ZERO_TERMINATED,
		PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
	pcre2_compile_context_free(context);
	if (r->code == NULL) {
		char why[120];
		pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
		return fault_set(t->f, SAKIORI_EUNSUPPORTED, "pattern '%.*s': %s", (int)(t->size < 120 ? t->size : 120),
			t->in, why);
	}
	/* without executable memory this fails, and matching is interpreted: slower, the same result */
	r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0;
	return 0;
}

int regex_new(struct regex **out, const char *pattern, size_t size, bool literal, struct fault *f)
{
	*out = NULL;
	if (size > REGEX_MAX_PATTERN)
		return fault_set(
			f, SAKIORI_ELIMIT, "a pattern of %zu bytes; at most %d are supported", size, REGEX_MAX_PATTERN);
	if (utf8_valid_prefix(pattern, size) != size || (size > 0 && memchr(pattern, '\0', size) != NULL))
		return fault_set(f, SAKIORI_EFORMAT, "a pattern is not UTF-8, or has a NUL");
	struct regex *r = must_calloc(1, sizeof *r);
	int rc = 0;
	if (literal && size > 0) {
		r->literal = must_alloc(size);
		memcpy(r->literal, pattern, size);
		r->literal_size = size;
	} else {
		char *in = must_calloc(size + 1, 1);
		if (size > 0)
			memcpy(in, pattern, size);
		struct translation t = {.in = in, .size = size, .f = f};
		writer_init(&t.out);
		rc = translate(&t);
		if (rc == 0)
			rc = compile(r, &t);
		writer_fini(&t.out);
		free(in);
	}
	if (rc != 0) {
		regex_free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void regex_free(struct regex *r)
{
	if (r == NULL)
		return;
	pcre2_code_free(r->code);
	free(r->literal);
	free(r);
}

struct regex_scratch *regex_scratch_new(void)
{
	struct regex_scratch *s = must_calloc(1, sizeof *s);
	s->match = pcre2_match_data_create(1, NULL);
	s->limits = pcre2_match_context_create(NULL);
	if (s->match == NULL || s->limits == NULL)
		abort(); /* a few hundred bytes */
	pcre2_set_match_limit(s->limits, MATCH_LIMIT);
	pcre2_set_heap_limit(s->limits, HEAP_LIMIT_KIB);
	return s;
}

void regex_scratch_free(struct regex_scratch *s)
{
	if (s == NULL)
		return;
	pcre2_match_data_free(s->match);
	pcre2_match_context_free(s->limits);
	free(s);
}

/* 1, 0 or an error of PCRE2 */
static int find(const struct regex *r, struct regex_scratch *s, const char *text, size_t size, struct regex_match *m)
{
	if (r->code == NULL) {
		const char *from = text + m->from;
		const char *found = r->literal_size == 1 ? memchr(from, r->literal[0], size - m->from)
							 : memmem(from, size - m->from, r->literal, r->literal_size);
		if (found == NULL)
			return 0;
		m->begin = (size_t)(found - text);
		m->end = m->begin + r->literal_size;
		return 1;
	}
	int rc = PCRE2_ERROR_JIT_STACKLIMIT;
	if (r->jit)
		rc = pcre2_jit_match(r->code, (PCRE2_SPTR)text, size, m->from, 0, s->match, s->limits);
	if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
		rc = pcre2_match(r->code, (PCRE2_SPTR)text, size, m->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match,
			s->limits);
	if (rc < 0)
		return rc == PCRE2_ERROR_NOMATCH ? 0 : rc;
	const PCRE2_SIZE *ovector = pcre2_get_ovector_pointer(s->match);
	m->begin = ovector[0];
	m->end = ovector[1];
	return 1;
}

int regex_next(const struct regex *r, struct regex_scratch *s, const char *text, size_t size, struct regex_match *m,
	struct fault *f)
{
	while (m->from <= size) {
		size_t last = m->end;
		int rc = find(r, s, text, size, m);
		if (rc < 0)
			return fault_set(f, SAKIORI_ELIMIT,
				"a pattern gave up on the text after byte %zu (PCRE2 error %d)", m->from, rc);
		if (rc == 0)
			break;
		if (m->end > m->begin || !m->any || m->end != last) {
			m->any = true;
			m->from = m->end;
			return 1;
		}
		size_t step = 1;
		if (m->from < size)
			utf8_decode(text + m->from, &step);
		m->from += step;
		m->end = last;
	}
	m->from = size + 1;
	return 0;
}
