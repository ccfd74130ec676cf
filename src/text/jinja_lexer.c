/* SPDX-License-Identifier: Apache-2.0 */
/* Template -> tokens: data with its white space already trimmed, and what stands between the delimiters. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_private.h"
#include "text/utf8.h"

enum { MAX_BRACKETS = 256 };

struct lexer {
	struct jinja_state *s;
	const char *at, *end;
	size_t lines; /* line breaks before `at`, counted up to `counted` */
	const char *counted;
	struct jinja_token *tokens;
	size_t count, capacity;
	char brackets[MAX_BRACKETS]; /* closing ones that are awaited */
	size_t open;
	bool at_line_start; /* nothing before the next data on its line */
};

static size_t line_of(struct lexer *l, const char *p)
{
	for (; l->counted < p; l->counted++)
		l->lines += *l->counted == '\n';
	return l->lines + 1;
}

static noreturn void fail(struct lexer *l, const char *what)
{
	l->s->line = line_of(l, l->at);
	jinja_fail(l->s, SAKIORI_EFORMAT, "%s", what);
}

static struct jinja_token *add(struct lexer *l, enum jinja_token_type type, const char *where)
{
	if (l->count == l->capacity) {
		size_t room = l->capacity == 0 ? 64 : 2 * l->capacity;
		struct jinja_token *tokens = jinja_alloc_array(l->s, room, sizeof *tokens);
		if (l->count > 0)
			memcpy(tokens, l->tokens, l->count * sizeof *tokens);
		l->tokens = tokens;
		l->capacity = room;
	}
	struct jinja_token *t = &l->tokens[l->count++];
	*t = (struct jinja_token){.type = type, .line = line_of(l, where)};
	return t;
}

static bool starts(const struct lexer *l, const char *p, const char *word)
{
	size_t size = strlen(word);
	return (size_t)(l->end - p) >= size && memcmp(p, word, size) == 0;
}

static const char *skip_space(const struct lexer *l, const char *p)
{
	while (p < l->end) {
		size_t bytes;
		if (!jinja_is_space((uint32_t)utf8_decode(p, &bytes)))
			break;
		p += bytes;
	}
	return p;
}

/* Data up to a tag; sign is what follows the tag's "{%", and decides what of the white space before it goes. */
static void add_data(struct lexer *l, const char *begin, const char *end, char sign, bool print)
{
	struct jinja_string all = {begin, NULL, (size_t)(end - begin), JINJA_TEMPLATE};
	if (sign == '-') {
		end = begin + jinja_strip(l->s, &all, NULL, false, true).string->size;
	} else if (sign != '+' && !print) {
		const char *line = memrchr(begin, '\n', all.size);
		line = line != NULL ? line + 1 : begin;
		if ((line > begin || l->at_line_start) && skip_space(l, line) >= end)
			end = line;
	}
	if (end > begin)
		add(l, JINJA_TOKEN_DATA, begin)->value = jinja_text(l->s, begin, (size_t)(end - begin), JINJA_TEMPLATE);
}

static char sign_at(const struct lexer *l, const char *p)
{
	return p < l->end && (*p == '-' || *p == '+') ? *p : '\0';
}

/* The end of a tag at p: "%}" with its sign and what it swallows, or NULL. newline: one line break goes too. */
static const char *tag_end(const struct lexer *l, const char *p, const char *close, bool plus, bool newline)
{
	char sign = sign_at(l, p);
	const char *rest = sign != '\0' ? p + 1 : p;
	if (!starts(l, rest, close) || (sign == '+' && !plus))
		return NULL;
	rest += strlen(close);
	if (sign == '-')
		return skip_space(l, rest);
	return newline && sign == '\0' && rest < l->end && *rest == '\n' ? rest + 1 : rest;
}

/* After a tag that ended here. */
static void continue_at(struct lexer *l, const char *p)
{
	l->at_line_start = p[-1] == '\n';
	l->at = p;
}

static void skip_comment(struct lexer *l)
{
	const char *p = l->at + 2;
	/* "{#-" has taken its sign, so that "{#-#}" is whole and "{#-}" is not */
	if (sign_at(l, p) != '\0')
		p++;
	for (; p < l->end; p++) {
		const char *end = tag_end(l, p, "#}", true, true);
		if (end == NULL)
			continue;
		continue_at(l, end);
		return;
	}
	fail(l, "a comment without its end, '#}'");
}

/* "{% word %}" at p: its end, or NULL; with *sign its first sign. */
static const char *match_tag(const struct lexer *l, const char *p, const char *word, char *sign, bool end)
{
	if (!starts(l, p, "{%"))
		return NULL;
	p += 2;
	*sign = sign_at(l, p);
	p = skip_space(l, *sign != '\0' ? p + 1 : p);
	if (!starts(l, p, word))
		return NULL;
	return tag_end(l, skip_space(l, p + strlen(word)), "%}", end, end);
}

/* Takes "{% raw %} ... {% endraw %}" whole; its data are added. False when there is none here. */
static bool take_raw(struct lexer *l)
{
	char sign;
	const char *begin = match_tag(l, l->at, "raw", &sign, false);
	if (begin == NULL)
		return false;
	l->at_line_start = begin[-1] == '\n';
	for (const char *p = begin; p < l->end; p++) {
		const char *end = match_tag(l, p, "endraw", &sign, true);
		if (end == NULL)
			continue;
		add_data(l, begin, p, sign, false);
		continue_at(l, end);
		return true;
	}
	fail(l, "'raw' without its 'endraw'");
}

static char *copy(struct lexer *l, const char *begin, size_t size)
{
	char *text = jinja_alloc(l->s, size + 1);
	memcpy(text, begin, size);
	return text;
}

static uint32_t read_digits(struct lexer *l, const char **p, int base, size_t most, bool exactly)
{
	static const char digits[] = "0123456789abcdef";
	uint32_t c = 0;
	size_t n = 0;
	for (; n < most && *p < l->end && **p != '\0'; n++, (*p)++) {
		const char *digit = strchr(digits, **p | (**p >= 'A' ? 0x20 : 0));
		if (digit == NULL || digit - digits >= base)
			break;
		c = c * (uint32_t)base + (uint32_t)(digit - digits);
	}
	if (exactly && n < most)
		fail(l, "a cut-off escape in a string");
	return c;
}

/* What follows a backslash at p. */
static const char *add_escape(struct lexer *l, struct jinja_builder *b, const char *p)
{
	static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
	const char *simple = *p != '\0' ? strchr(from, *p) : NULL;
	if (*p == '\n')
		return p + 1;
	if (simple != NULL) {
		jinja_put(l->s, b, &to[simple - from], 1, JINJA_TEMPLATE);
		return p + 1;
	}
	uint32_t c;
	if (*p >= '0' && *p <= '7') {
		c = read_digits(l, &p, 8, 3, false);
	} else if (*p == 'x' || *p == 'u' || *p == 'U') {
		size_t count = *p == 'x' ? 2 : *p == 'u' ? 4 : 8;
		p++;
		c = read_digits(l, &p, 16, count, true);
	} else if (*p == 'N') {
		fail(l, "\\N{...} in a string is not supported");
	} else {
		jinja_put(l->s, b, "\\", 1, JINJA_TEMPLATE);
		return p;
	}
	if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		fail(l, "an escape in a string that is no character");
	jinja_put_character(l->s, b, c, JINJA_TEMPLATE);
	return p;
}

static void take_string(struct lexer *l)
{
	const char quote = *l->at, *p = l->at + 1;
	struct jinja_builder b = {0};
	while (p < l->end && *p != quote) {
		if (*p == '\\' && p + 1 < l->end) {
			p = add_escape(l, &b, p + 1);
			continue;
		}
		const char *run = p;
		while (p < l->end && *p != quote && *p != '\\')
			p++;
		if (p == run)
			break; /* a backslash at the very end */
		jinja_put(l->s, &b, run, (size_t)(p - run), JINJA_TEMPLATE);
	}
	if (p >= l->end || *p != quote)
		fail(l, "a string without its end");
	add(l, JINJA_TOKEN_CONSTANT, l->at)->value = jinja_built(l->s, &b);
	l->at = p + 1;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Digits with single '_' between them. */
static const char *skip_digits(const struct lexer *l, const char *p)
{
	while (p < l->end && (is_digit(*p) || (*p == '_' && p + 1 < l->end && is_digit(p[1]) && is_digit(p[-1]))))
		p++;
	return p;
}

/* The fraction and exponent after the digits that end at p; p itself when it is an integer. */
static const char *skip_fraction(const struct lexer *l, const char *p)
{
	const char *end = p;
	if (p + 1 < l->end && *p == '.' && is_digit(p[1]))
		end = p = skip_digits(l, p + 1);
	if (p < l->end && (*p == 'e' || *p == 'E')) {
		p++;
		p += p < l->end && (*p == '+' || *p == '-');
		if (p < l->end && is_digit(*p))
			end = skip_digits(l, p);
	}
	return end;
}

/* "0x1f", "0b1", "0o7": its end and base, or NULL. */
static const char *skip_based(const struct lexer *l, const char *p, int *base)
{
	if (p + 2 >= l->end || *p != '0')
		return NULL;
	char letter = p[1] | 0x20;
	*base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
	const char *digits = "0123456789abcdef";
	const char *begin = p += 2;
	while (*base != 0 && p < l->end && *p != '\0') {
		const char *digit = strchr(digits, *p | (*p >= 'A' ? 0x20 : 0));
		if (digit == NULL || digit - digits >= *base)
			break;
		p++;
	}
	return p > begin ? p : NULL;
}

static void take_number(struct lexer *l)
{
	int base = 10;
	const char *begin = l->at, *end = skip_based(l, begin, &base);
	bool whole = end != NULL;
	if (!whole) {
		const char *digits = skip_digits(l, begin);
		end = skip_fraction(l, digits);
		/* no fraction behind a dot: a.1.2 is two subscripts */
		if (l->count > 0 && l->tokens[l->count - 1].text != NULL &&
			strcmp(l->tokens[l->count - 1].text, ".") == 0)
			end = digits;
		whole = end == digits;
		base = 10;
	}
	char *text = copy(l, base == 10 ? begin : begin + 2, (size_t)(end - begin) - (base == 10 ? 0 : 2)), *out = text;
	for (const char *p = text; *p != '\0'; p++)
		if (*p != '_')
			*out++ = *p;
	*out = '\0';
	if (whole && base == 10 && text[0] == '0' && strspn(text, "0") != strlen(text))
		fail(l, "an integer that begins with 0");
	errno = 0;
	struct jinja_value v = whole ? jinja_integer(strtoll(text, NULL, base)) : jinja_number(strtod(text, NULL));
	if (whole && errno == ERANGE)
		fail(l, "an integer of more than 64 bits");
	add(l, JINJA_TOKEN_CONSTANT, begin)->value = v;
	l->at = end;
}

static bool is_name_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_';
}

static void take_name(struct lexer *l)
{
	const char *begin = l->at, *p = begin;
	while (p < l->end && is_name_byte(*p))
		p++;
	add(l, JINJA_TOKEN_NAME, begin)->text = copy(l, begin, (size_t)(p - begin));
	l->at = p;
}

static void balance(struct lexer *l, char c)
{
	const char *closing = c == '(' ? ")" : c == '[' ? "]" : c == '{' ? "}" : NULL;
	if (closing != NULL) {
		if (l->open == MAX_BRACKETS)
			fail(l, "too many open brackets");
		l->brackets[l->open++] = *closing;
	} else if (c == ')' || c == ']' || c == '}') {
		if (l->open == 0 || l->brackets[--l->open] != c)
			fail(l, "a closing bracket that does not match");
	}
}

static void take_operator(struct lexer *l)
{
	/* the longer first */
	static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
		"]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"};
	for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
		if (!starts(l, l->at, operators[i]))
			continue;
		balance(l, *operators[i]);
		add(l, JINJA_TOKEN_OPERATOR, l->at)->text = operators[i];
		l->at += strlen(operators[i]);
		return;
	}
	fail(l, "an unexpected character");
}

/* The inside of a tag, up to and with its end. */
static void take_tag(struct lexer *l, bool print)
{
	add(l, print ? JINJA_TOKEN_PRINT_BEGIN : JINJA_TOKEN_BLOCK_BEGIN, l->at);
	l->at += 2;
	l->at += sign_at(l, l->at) != '\0';
	for (;;) {
		const char *end = l->open == 0 ? tag_end(l, l->at, print ? "}}" : "%}", !print, !print) : NULL;
		if (end != NULL) {
			add(l, print ? JINJA_TOKEN_PRINT_END : JINJA_TOKEN_BLOCK_END, l->at);
			continue_at(l, end);
			return;
		}
		const char *next = skip_space(l, l->at);
		if (next != l->at) {
			l->at = next;
			continue;
		}
		if (l->at == l->end)
			fail(l, print ? "'{{' without its '}}'" : "'{%' without its '%}'");
		if (*l->at == '\'' || *l->at == '"')
			take_string(l);
		else if (is_digit(*l->at))
			take_number(l);
		else if (is_name_byte(*l->at))
			take_name(l);
		else
			take_operator(l);
	}
}

/* Line breaks become \n, and one at the very end goes, as jinja2 reads a source. */
static const char *normalize(struct jinja_state *s, const char *source, size_t size, size_t *out_size)
{
	char *text = jinja_alloc(s, size + 1), *out = text;
	for (size_t i = 0; i < size; i++) {
		if (source[i] == '\r' && i + 1 < size && source[i + 1] == '\n')
			continue;
		*out++ = source[i] == '\r' ? '\n' : source[i];
	}
	if (out > text && out[-1] == '\n')
		*--out = '\0';
	*out_size = (size_t)(out - text);
	return text;
}

struct jinja_token *jinja_lex(struct jinja_state *s, const char *source, size_t size)
{
	size_t valid = utf8_valid_prefix(source, size);
	if (valid != size)
		jinja_fail(s, SAKIORI_EFORMAT, "byte %zu is not UTF-8", valid);
	const char *text = normalize(s, source, size, &size);
	struct lexer l = {.s = s, .at = text, .end = text + size, .counted = text, .at_line_start = true};
	while (l.at < l.end) {
		const char *tag = l.at;
		while (tag < l.end &&
			!(tag[0] == '{' && tag + 1 < l.end && strchr("{%#", tag[1]) != NULL && tag[1] != '\0'))
			tag++;
		if (tag == l.end) {
			add(&l, JINJA_TOKEN_DATA, l.at)->value =
				jinja_text(s, l.at, (size_t)(l.end - l.at), JINJA_TEMPLATE);
			break;
		}
		add_data(&l, l.at, tag, sign_at(&l, tag + 2), tag[1] == '{');
		l.at = tag;
		if (tag[1] == '#')
			skip_comment(&l);
		else if (tag[1] == '{' || !take_raw(&l))
			take_tag(&l, tag[1] == '{');
	}
	add(&l, JINJA_TOKEN_END, l.end);
	return l.tokens;
}
