/* SPDX-License-Identifier: Apache-2.0 */
#include "text/normalize.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/utf8.h"

/* What Unicode 10 to 15 brought that decomposes, composes or is ordered. Hugging Face's normalizers have the tables of
 * Unicode 9, and models were trained on what they give: to them these characters are letters like any other. */
static const struct {
	int32_t first, last;
} unicode_10[] = {{0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe}, {0xc3c, 0xc3c}, {0xd3b, 0xd3c},
	{0xeba, 0xeba}, {0x1715, 0x1715}, {0x1abf, 0x1ace}, {0x1df6, 0x1dfa}, {0x32ff, 0x32ff}, {0xa7f2, 0xa7f4},
	{0xa82c, 0xa82c}, {0xab69, 0xab69}, {0x10781, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba},
	{0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
	{0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930},
	{0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0},
	{0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45},
	{0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f},
	{0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c},
	{0x1fbf0, 0x1fbf9}};

static bool is_inert(int32_t c)
{
	size_t low = 0, high = sizeof unicode_10 / sizeof unicode_10[0];
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (c > unicode_10[middle].last)
			low = middle + 1;
		else
			high = middle;
	}
	return low < sizeof unicode_10 / sizeof unicode_10[0] && c >= unicode_10[low].first;
}

struct normalize_scratch {
	struct writer texts[2]; /* a step reads one and writes the other */
	int32_t *characters;
	size_t capacity;
	int32_t *sorted; /* (capacity) */
};

int normalizers_add(struct normalizers *n, enum normalizer_kind kind, struct regex *pattern, const char *content,
	size_t content_size, struct fault *f)
{
	if (n->count == PIPELINE_STEPS) {
		regex_free(pattern);
		return fault_set(f, SAKIORI_ELIMIT, "more than %d normalizers", PIPELINE_STEPS);
	}
	struct normalizer *step = &n->steps[n->count++];
	*step = (struct normalizer){.kind = kind, .pattern = pattern, .content_size = content_size};
	step->content = must_alloc(content_size + 1);
	if (content_size > 0)
		memcpy(step->content, content, content_size);
	return 0;
}

int normalizers_add_strip(struct normalizers *n, bool left, bool right, struct fault *f)
{
	int rc = normalizers_add(n, NORMALIZE_STRIP, NULL, NULL, 0, f);
	if (rc == 0) {
		n->steps[n->count - 1].left = left;
		n->steps[n->count - 1].right = right;
	}
	return rc;
}

void normalizers_fini(struct normalizers *n)
{
	for (size_t i = 0; i < n->count; i++) {
		regex_free(n->steps[i].pattern);
		free(n->steps[i].content);
	}
	n->count = 0;
}

struct normalize_scratch *normalize_scratch_new(void)
{
	return must_calloc(1, sizeof(struct normalize_scratch));
}

void normalize_scratch_free(struct normalize_scratch *s)
{
	if (s == NULL)
		return;
	writer_fini(&s->texts[0]);
	writer_fini(&s->texts[1]);
	free(s->characters);
	free(s->sorted);
	free(s);
}

static void write_character(struct writer *out, int32_t c)
{
	char bytes[4];
	write_bytes(out, bytes, utf8_encode(c, bytes));
}

static void reserve(struct normalize_scratch *s, size_t characters)
{
	if (characters <= s->capacity)
		return;
	s->capacity = 2 * characters;
	s->characters = must_realloc(s->characters, s->capacity * sizeof *s->characters);
	s->sorted = must_realloc(s->sorted, s->capacity * sizeof *s->sorted);
}

static int combining_class(int32_t c)
{
	int class = utf8proc_get_property(c)->combining_class;
	return class != 0 && is_inert(c) ? 0 : class;
}

/* Canonical order: each run of combining marks sorted by class, equal ones as they stand. By counting, because a row
 * may hold millions of marks and utf8proc's own sort is quadratic. */
static void order_marks(struct normalize_scratch *s, size_t count)
{
	for (size_t begin = 0, end; begin < count; begin = end) {
		bool ordered = true;
		int before = 0;
		for (end = begin; end < count; end++) {
			int class = combining_class(s->characters[end]);
			if (class == 0)
				break;
			ordered = ordered && before <= class;
			before = class;
		}
		if (!ordered) {
			size_t starts[257] = {0};
			for (size_t i = begin; i < end; i++)
				starts[combining_class(s->characters[i]) + 1]++;
			for (int class = 0; class < 256; class ++)
				starts[class + 1] += starts[class];
			for (size_t i = begin; i < end; i++)
				s->sorted[starts[combining_class(s->characters[i])]++] = s->characters[i];
			memcpy(s->characters + begin, s->sorted, (end - begin) * sizeof *s->sorted);
		}
		if (end == begin)
			end++;
	}
}

/* Composes in place, never with or across an inert character; how many are left. */
static size_t compose(int32_t *characters, size_t count)
{
	size_t out = 0;
	for (size_t begin = 0, end; begin < count; begin = end) {
		for (end = begin; end < count && !is_inert(characters[end]);)
			end++;
		size_t n = end - begin;
		if (n > 0)
			n = (size_t)utf8proc_normalize_utf32(
				characters + begin, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
		memmove(characters + out, characters + begin, n * sizeof *characters);
		out += n;
		if (end < count)
			characters[out++] = characters[end++];
	}
	return out;
}

/* A stretch that nothing around it acts upon. */
static int convert_stretch(struct normalize_scratch *s, enum normalizer_kind kind, const char *text, size_t size,
	struct writer *out, struct fault *f)
{
	utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
	if (kind == NORMALIZE_NFKC || kind == NORMALIZE_NFKD)
		options |= UTF8PROC_COMPAT;
	enum { LONGEST_DECOMPOSITION = 18 }; /* characters, of U+FDFA */
	size_t count = 0;
	for (size_t at = 0, n; at < size; at += n) {
		int boundary = 0;
		int32_t c = utf8_decode(text + at, &n);
		reserve(s, count + LONGEST_DECOMPOSITION);
		utf8proc_ssize_t got = 1;
		if (is_inert(c))
			s->characters[count] = c;
		else
			got = utf8proc_decompose_char(
				c, s->characters + count, (utf8proc_ssize_t)(s->capacity - count), options, &boundary);
		if (got < 0 || count + (size_t)got > s->capacity)
			return fault_set(f, SAKIORI_EFORMAT, "utf8proc refuses a character (error %d)", (int)got);
		count += (size_t)got;
		if (count > NORMALIZED_MAX_TEXT) /* characters, here */
			return fault_set(f, SAKIORI_ELIMIT, "a text is too long once it is normalized");
	}
	order_marks(s, count);
	if (kind == NORMALIZE_NFC || kind == NORMALIZE_NFKC)
		count = compose(s->characters, count);
	for (size_t i = 0; i < count; i++)
		write_character(out, s->characters[i]);
	return 0;
}

static bool is_ascii(struct text_span text)
{
	size_t i = 0;
	for (; i + 8 <= text.size; i += 8)
		if (!utf8_is_ascii8(text.data + i))
			return false;
	while (i < text.size && (uint8_t)text.data[i] < 0x80)
		i++;
	return i == text.size;
}

/* ASCII stays as it is, and only its last character before others may compose with them. */
static int convert(struct normalize_scratch *s, enum normalizer_kind kind, struct text_span text, struct writer *out,
	struct fault *f)
{
	int rc = 0;
	for (size_t at = 0; at < text.size && rc == 0;) {
		size_t begin = at;
		while (at < text.size && (uint8_t)text.data[at] < 0x80)
			at++;
		size_t stretch = at < text.size && at > begin ? at - 1 : at;
		write_bytes(out, text.data + begin, stretch - begin);
		while (at < text.size && (uint8_t)text.data[at] >= 0x80)
			at++;
		if (at > stretch)
			rc = convert_stretch(s, kind, text.data + stretch, at - stretch, out, f);
	}
	return rc;
}

static void lower(struct text_span text, struct writer *out)
{
	for (size_t at = 0, n; at < text.size; at += n) {
		int32_t c = utf8_decode(text.data + at, &n);
		if (c == 0x130)
			write_bytes(out, "i\xcc\x87", 3); /* the one letter that becomes two */
		else
			write_character(out, utf8proc_tolower(c));
	}
}

static struct text_span strip(const struct normalizer *step, struct text_span text)
{
	size_t begin = 0, end = text.size, n;
	while (step->left && begin < end && utf8_is_space(utf8_decode(text.data + begin, &n)))
		begin += n;
	while (step->right && end > begin && utf8_is_space(utf8_decode(text.data + utf8_previous(text.data, end), &n)))
		end -= n;
	return (struct text_span){text.data + begin, end - begin};
}

size_t normalized_limit(size_t size)
{
	size_t limit = 16 * size + (64 << 10);
	return limit < NORMALIZED_MAX_TEXT ? limit : NORMALIZED_MAX_TEXT;
}

static int check_growth(const struct writer *out, size_t limit, struct fault *f)
{
	return out->size <= limit
		       ? 0
		       : fault_set(f, SAKIORI_ELIMIT, "a text is over %zu bytes once it is normalized", limit);
}

int normalize_replace(struct writer *out, const struct normalizer *step, struct regex_scratch *regex,
	struct text_span text, size_t limit, struct fault *f)
{
	size_t begin = out->size;
	struct regex_match m = {0};
	size_t at = 0;
	int rc = 1;
	while (text.size > 0 && (rc = regex_next(step->pattern, regex, text.data, text.size, &m, f)) > 0) {
		write_bytes(out, text.data + at, m.begin - at);
		write_bytes(out, step->content, step->content_size);
		at = m.end;
		int grown = check_growth(out, begin + limit, f);
		if (grown != 0)
			return grown;
	}
	write_bytes(out, text.data + at, text.size - at);
	return rc < 0 ? rc : 0;
}

/* Writes what the step makes of the text to *out. */
static int apply(const struct normalizer *step, struct normalize_scratch *s, struct regex_scratch *regex,
	struct text_span text, size_t limit, struct writer *out, struct fault *f)
{
	switch (step->kind) {
	case NORMALIZE_NFC:
	case NORMALIZE_NFD:
	case NORMALIZE_NFKC:
	case NORMALIZE_NFKD:
		return convert(s, step->kind, text, out, f);
	case NORMALIZE_LOWERCASE:
		lower(text, out);
		return 0;
	case NORMALIZE_PREPEND:
		write_bytes(out, step->content, step->content_size);
		write_bytes(out, text.data, text.size);
		return 0;
	case NORMALIZE_REPLACE:
		return normalize_replace(out, step, regex, text, limit, f);
	case NORMALIZE_STRIP:
		break; /* needs no bytes of its own */
	}
	return 0;
}

int normalize(const struct normalizers *n, struct normalize_scratch *s, struct regex_scratch *regex,
	struct text_span *text, struct fault *f)
{
	size_t limit = normalized_limit(text->size);
	int turn = 0;
	for (size_t i = 0; i < n->count && text->size > 0; i++) {
		const struct normalizer *step = &n->steps[i];
		if (step->kind == NORMALIZE_STRIP) {
			*text = strip(step, *text);
			continue;
		}
		if (step->kind <= NORMALIZE_NFKD && is_ascii(*text))
			continue;
		struct writer *out = &s->texts[turn];
		out->size = 0;
		int rc = apply(step, s, regex, *text, limit, out, f);
		if (rc == 0)
			rc = check_growth(out, limit, f);
		if (rc != 0)
			return rc;
		*text = (struct text_span){(const char *)out->data, out->size};
		turn = !turn;
	}
	return 0;
}
