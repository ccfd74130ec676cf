/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path: the front of the file is read in growing steps while it is parsed, and stays as the metadata; getters
 * decode out of it. Failure modes: a field that lies (refused before anything of its size is allocated), a file that
 * ends early (named as such), a file shortened between open and gguf_read (pread comes back short; with a mapping it
 * would be SIGBUS). */
#include "formats/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/gguf_private.h"

#define METADATA_LIMIT ((size_t)64 << 20)
#define KEY_LIMIT 65535 /* of ggml's specification */
#define KEYS_LIMIT 4096
#define ENTRY_BYTES_LEAST (8 + 1 + 4 + 1)
#define ALIGNMENT_LIMIT 65536

static const struct {
	const char *name;
	size_t bytes; /* 0: of variable length */
} kinds[] = {
	[KIND_U8] = {"u8", 1},
	[KIND_I8] = {"i8", 1},
	[KIND_U16] = {"u16", 2},
	[KIND_I16] = {"i16", 2},
	[KIND_U32] = {"u32", 4},
	[KIND_I32] = {"i32", 4},
	[KIND_F32] = {"f32", 4},
	[KIND_BOOL] = {"bool", 1},
	[KIND_TEXT] = {"string", 0},
	[KIND_ARRAY] = {"array", 0},
	[KIND_U64] = {"u64", 8},
	[KIND_I64] = {"i64", 8},
	[KIND_F64] = {"f64", 8},
};

/* Bytes [offset, offset + n) of the file, or a fault. */
static int read_at(const struct gguf *g, uint64_t offset, size_t n, void *out, struct fault *f)
{
	uint8_t *p = out;
	while (n > 0) {
		ssize_t got = pread(g->fd, p, n, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return fault_errno(f, "reading at byte %" PRIu64, offset);
		if (got == 0)
			return fault_set(f, SAKIORI_ECORRUPT,
				"the file ended at byte %" PRIu64 " of %" PRIu64
				": it was shortened while it was in use; put the whole file back",
				offset, g->file_size);
		p += got;
		offset += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

const uint8_t *gguf_take(struct cursor *c, uint64_t n, const char *what)
{
	struct gguf *g = c->g;
	if (c->rc != 0)
		return NULL;
	if (n > g->file_size - c->at) {
		c->rc = fault_set(c->f, SAKIORI_EFORMAT,
			"%s needs %" PRIu64 " bytes at byte %zu, but the file has %" PRIu64
			": it is truncated or damaged; copy or download it again",
			what, n, c->at, g->file_size);
		return NULL;
	}
	if (n > METADATA_LIMIT - c->at) {
		c->rc = fault_set(c->f, SAKIORI_ELIMIT, "%s at byte %zu takes the metadata over %zu MiB", what, c->at,
			METADATA_LIMIT >> 20);
		return NULL;
	}
	size_t end = c->at + (size_t)n;
	if (end > g->front_size) {
		size_t want = g->front_size < 65536 ? 65536 : 2 * g->front_size;
		want = want < end ? end : want;
		want = want > METADATA_LIMIT ? METADATA_LIMIT : want;
		want = want > g->file_size ? (size_t)g->file_size : want;
		uint8_t *front = realloc(g->front, want);
		if (front == NULL) {
			c->rc = fault_set(c->f, SAKIORI_ENOMEM, "no memory for %zu bytes of metadata", want);
			return NULL;
		}
		g->front = front;
		c->rc = read_at(g, g->front_size, want - g->front_size, front + g->front_size, c->f);
		if (c->rc != 0)
			return NULL;
		g->front_size = want;
	}
	const uint8_t *p = g->front + c->at;
	c->at = end;
	return p;
}

static uint64_t load(const uint8_t *p, size_t bytes)
{
	uint64_t v = 0;
	for (size_t i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

uint32_t gguf_take_u32(struct cursor *c, const char *what)
{
	const uint8_t *p = gguf_take(c, 4, what);
	return p == NULL ? 0 : (uint32_t)load(p, 4);
}

uint64_t gguf_take_u64(struct cursor *c, const char *what)
{
	const uint8_t *p = gguf_take(c, 8, what);
	return p == NULL ? 0 : load(p, 8);
}

bool gguf_take_name(struct cursor *c, size_t limit, const char *what, uint32_t *at, uint32_t *size)
{
	uint64_t n = gguf_take_u64(c, what);
	if (c->rc == 0 && (n == 0 || n > limit))
		c->rc = fault_set(c->f, SAKIORI_EFORMAT, "%s at byte %zu has %" PRIu64 " bytes, expected 1 to %zu",
			what, c->at - 8, n, limit);
	*at = (uint32_t)c->at;
	*size = (uint32_t)n;
	const uint8_t *p = gguf_take(c, n, what);
	for (size_t i = 0; p != NULL && i < n; i++) {
		if (p[i] < 0x21 || p[i] > 0x7e) {
			c->rc = fault_set(c->f, SAKIORI_EFORMAT,
				"%s at byte %zu holds the byte 0x%02x, expected printable letters", what, (size_t)*at,
				p[i]);
			break;
		}
	}
	return c->rc == 0;
}

static void take_text(struct cursor *c, const char *what)
{
	uint64_t n = gguf_take_u64(c, what);
	gguf_take(c, n, what);
}

static void take_array(struct cursor *c, struct entry *e)
{
	const struct gguf *g = c->g;
	uint32_t kind = gguf_take_u32(c, "an array's element type");
	uint64_t count = gguf_take_u64(c, "an array's length");
	if (c->rc != 0)
		return;
	const char *key = (const char *)g->front + e->key_at;
	int shown = e->key_size > 100 ? 100 : (int)e->key_size;
	if (kind == KIND_ARRAY || kind > KIND_F64) {
		c->rc = fault_set(c->f, kind == KIND_ARRAY ? SAKIORI_EUNSUPPORTED : SAKIORI_EFORMAT,
			kind == KIND_ARRAY ? "key %.*s: arrays of arrays are not supported"
					   : "key %.*s: unknown array element type %" PRIu32,
			shown, key, kind);
		return;
	}
	size_t each = kind == KIND_TEXT ? 8 : kinds[kind].bytes;
	uint64_t left = g->file_size - c->at;
	if (count > left / each) {
		c->rc = fault_set(c->f, SAKIORI_EFORMAT,
			"key %.*s: an array of %" PRIu64 " elements cannot fit the %" PRIu64
			" bytes that are left: the file is truncated or damaged",
			shown, key, count, left);
		return;
	}
	e->element = (enum kind)kind;
	e->at = (uint32_t)c->at;
	if (kind == KIND_TEXT)
		for (uint64_t i = 0; i < count && c->rc == 0; i++)
			take_text(c, "a string of an array");
	else
		gguf_take(c, count * each, "an array");
	/* it lies below METADATA_LIMIT now */
	e->count = c->rc == 0 ? (uint32_t)count : 0;
}

static void take_entry(struct cursor *c, struct entry *e)
{
	if (!gguf_take_name(c, KEY_LIMIT, "a metadata key", &e->key_at, &e->key_size))
		return;
	uint32_t kind = gguf_take_u32(c, "a metadata type");
	if (c->rc != 0)
		return;
	if (kind > KIND_F64) {
		c->rc = fault_set(c->f, SAKIORI_EFORMAT, "key %.*s: unknown type %" PRIu32,
			e->key_size > 100 ? 100 : (int)e->key_size, (const char *)c->g->front + e->key_at, kind);
		return;
	}
	e->kind = (enum kind)kind;
	e->at = (uint32_t)c->at;
	if (kind == KIND_ARRAY)
		take_array(c, e);
	else if (kind == KIND_TEXT)
		take_text(c, "a metadata string");
	else
		gguf_take(c, kinds[kind].bytes, "a metadata value");
	e->end = c->at;
}

static int compare_keys(const struct gguf *g, const struct entry *e, const char *key, size_t size)
{
	size_t n = e->key_size < size ? e->key_size : size;
	int order = memcmp(g->front + e->key_at, key, n);
	return order != 0 ? order : (e->key_size > size) - (e->key_size < size);
}

static int by_key(const void *a, const void *b, void *self)
{
	const struct gguf *g = self;
	const struct entry *right = b;
	return compare_keys(g, a, (const char *)g->front + right->key_at, right->key_size);
}

static int take_entries(struct cursor *c, uint64_t count)
{
	struct gguf *g = c->g;
	if (count > KEYS_LIMIT || count > (g->file_size - c->at) / ENTRY_BYTES_LEAST)
		return fault_set(c->f, SAKIORI_EFORMAT,
			"the header promises %" PRIu64 " metadata keys, more than %s; the file is damaged", count,
			count > KEYS_LIMIT ? "the limit of 4096" : "its size can hold");
	g->entries = calloc((size_t)count + 1, sizeof *g->entries);
	if (g->entries == NULL)
		return fault_set(c->f, SAKIORI_ENOMEM, "no memory for %" PRIu64 " metadata keys", count);
	for (uint64_t i = 0; i < count && c->rc == 0; i++)
		take_entry(c, &g->entries[i]);
	if (c->rc != 0)
		return c->rc;
	g->entry_count = (size_t)count;
	qsort_r(g->entries, g->entry_count, sizeof *g->entries, by_key, g);
	for (size_t i = 1; i < g->entry_count; i++)
		if (by_key(&g->entries[i - 1], &g->entries[i], g) == 0)
			return fault_set(c->f, SAKIORI_EFORMAT, "key %.*s stands there twice",
				g->entries[i].key_size > 100 ? 100 : (int)g->entries[i].key_size,
				(const char *)g->front + g->entries[i].key_at);
	return 0;
}

static int read_alignment(struct gguf *g, struct fault *f)
{
	g->alignment = 32;
	if (!gguf_has(g, "general.alignment"))
		return 0;
	int rc = gguf_get_u32(g, "general.alignment", &g->alignment, f);
	if (rc != 0)
		return rc;
	if (g->alignment < 8 || g->alignment > ALIGNMENT_LIMIT || (g->alignment & (g->alignment - 1)) != 0)
		return fault_set(f, SAKIORI_EFORMAT,
			"general.alignment is %" PRIu32 ", expected a power of two from 8 to %d", g->alignment,
			ALIGNMENT_LIMIT);
	return 0;
}

static int parse(struct gguf *g, struct fault *f)
{
	struct cursor c = {.g = g, .f = f};
	if (g->file_size < 24)
		return fault_set(f, SAKIORI_EFORMAT, "%" PRIu64 " bytes are too few for a GGUF file", g->file_size);
	const uint8_t *magic = gguf_take(&c, 4, "the magic");
	if (magic == NULL)
		return c.rc;
	if (memcmp(magic, "GGUF", 4) != 0)
		return fault_set(f, SAKIORI_EFORMAT, "not a GGUF file: it does not begin with the letters GGUF");
	uint32_t version = gguf_take_u32(&c, "the version");
	if (version == 0x02000000 || version == 0x03000000)
		return fault_set(f, SAKIORI_EUNSUPPORTED, "a big-endian GGUF file; convert the model to little-endian");
	if (version != 2 && version != 3)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"GGUF version %" PRIu32 ", but versions 2 and 3 are read here; "
			"convert the model again with a current llama.cpp",
			version);
	uint64_t tensors = gguf_take_u64(&c, "the tensor count");
	uint64_t entries = gguf_take_u64(&c, "the metadata count");
	int rc = take_entries(&c, entries);
	if (rc == 0)
		rc = read_alignment(g, f);
	if (rc == 0)
		rc = gguf_take_tensors(&c, tensors);
	return rc;
}

int gguf_open_fd(int fd, const char *name, struct gguf **out, struct fault *f)
{
	*out = NULL;
	struct gguf *g = must_calloc(1, sizeof *g);
	g->fd = fd;
	g->name = must_strdup(name);
	int rc = file_regular_size(fd, name, &g->file_size, f);
	if (rc == 0) {
		rc = parse(g, f);
		if (rc != 0)
			fault_wrap(f, "%s", name);
	}
	if (rc != 0) {
		gguf_close(g);
		return rc;
	}
	*out = g;
	return 0;
}

int gguf_open(const char *path, struct gguf **out, struct fault *f)
{
	*out = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fault_errno(f, "%s", path);
	return gguf_open_fd(fd, path, out, f);
}

void gguf_close(struct gguf *g)
{
	if (g == NULL)
		return;
	close(g->fd);
	free(g->front);
	free(g->entries);
	free(g->tensors);
	free(g->by_name);
	free(g->name);
	free(g);
}

const char *gguf_name(const struct gguf *g)
{
	return g->name;
}

int gguf_read(const struct gguf *g, const struct gguf_tensor *t, uint64_t offset, size_t n, void *out, struct fault *f)
{
	if (offset > t->bytes || n > t->bytes - offset)
		return fault_set(f, SAKIORI_EINVAL,
			"%s: tensor %s has %" PRIu64 " bytes; %zu at %" PRIu64 " were asked for", g->name, t->name,
			t->bytes, n, offset);
	int rc = read_at(g, t->offset + offset, n, out, f);
	if (rc != 0)
		fault_wrap(f, "%s: tensor %s", g->name, t->name);
	return rc;
}

static const struct entry *find(const struct gguf *g, const char *key)
{
	size_t low = 0, high = g->entry_count, size = strlen(key);
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = compare_keys(g, &g->entries[middle], key, size);
		if (order == 0)
			return &g->entries[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

bool gguf_has(const struct gguf *g, const char *key)
{
	return find(g, key) != NULL;
}

static int want(const struct gguf *g, const char *key, const struct entry **e, struct fault *f)
{
	*e = find(g, key);
	return *e != NULL ? 0 : fault_set(f, SAKIORI_ENOTFOUND, "metadata key %s is missing", key);
}

static int wrong_kind(const char *key, const struct entry *e, const char *expected, struct fault *f)
{
	return fault_set(f, SAKIORI_EFORMAT, "metadata key %s is %s%s, expected %s", key,
		e->kind == KIND_ARRAY ? "an array of " : "", kinds[e->kind == KIND_ARRAY ? e->element : e->kind].name,
		expected);
}

/* An integer of any width as sign and magnitude; false for other kinds. */
static bool integer_at(const struct gguf *g, enum kind kind, size_t at, bool *negative, uint64_t *magnitude)
{
	bool is_signed = kind == KIND_I8 || kind == KIND_I16 || kind == KIND_I32 || kind == KIND_I64;
	if (!is_signed && kind != KIND_U8 && kind != KIND_U16 && kind != KIND_U32 && kind != KIND_U64)
		return false;
	size_t bits = 8 * kinds[kind].bytes;
	uint64_t v = load(g->front + at, kinds[kind].bytes);
	*negative = is_signed && (v >> (bits - 1)) != 0;
	if (*negative && bits < 64)
		v |= UINT64_MAX << bits;
	*magnitude = *negative ? -v : v;
	return true;
}

static int get_unsigned(const struct gguf *g, const char *key, uint64_t high, uint64_t *out, struct fault *f)
{
	const struct entry *e;
	int rc = want(g, key, &e, f);
	if (rc != 0)
		return rc;
	bool negative;
	uint64_t v;
	if (!integer_at(g, e->kind, e->at, &negative, &v))
		return wrong_kind(key, e, "an integer", f);
	if ((negative && v != 0) || v > high)
		return fault_set(f, SAKIORI_EFORMAT, "metadata key %s is %s%" PRIu64 ", expected 0 to %" PRIu64, key,
			negative ? "-" : "", v, high);
	*out = v;
	return 0;
}

int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out, struct fault *f)
{
	return get_unsigned(g, key, UINT64_MAX, out, f);
}

int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out, struct fault *f)
{
	uint64_t v;
	int rc = get_unsigned(g, key, UINT32_MAX, &v, f);
	if (rc == 0)
		*out = (uint32_t)v;
	return rc;
}

static bool real_at(const struct gguf *g, enum kind kind, size_t at, float *out)
{
	struct reader r;
	reader_init(&r, g->front + at, g->front_size - at);
	if (kind == KIND_F32)
		*out = read_f32(&r);
	else if (kind == KIND_F64)
		*out = (float)read_f64(&r);
	return kind == KIND_F32 || kind == KIND_F64;
}

int gguf_get_f32(const struct gguf *g, const char *key, float *out, struct fault *f)
{
	const struct entry *e;
	int rc = want(g, key, &e, f);
	if (rc == 0 && !real_at(g, e->kind, e->at, out))
		rc = wrong_kind(key, e, "f32", f);
	return rc;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct fault *f)
{
	const struct entry *e;
	int rc = want(g, key, &e, f);
	if (rc != 0)
		return rc;
	if (e->kind != KIND_BOOL)
		return wrong_kind(key, e, "bool", f);
	uint8_t v = g->front[e->at];
	if (v > 1)
		return fault_set(f, SAKIORI_EFORMAT, "metadata key %s is a bool of value %u", key, v);
	*out = v == 1;
	return 0;
}

/* A string at `*at`, which moves behind it; its length was checked when the file was opened. */
static struct gguf_text text_at(const struct gguf *g, size_t *at)
{
	size_t n = (size_t)load(g->front + *at, 8);
	struct gguf_text t = {.data = (const char *)g->front + *at + 8, .size = n};
	*at += 8 + n;
	return t;
}

int gguf_get_text(const struct gguf *g, const char *key, struct gguf_text *out, struct fault *f)
{
	const struct entry *e;
	int rc = want(g, key, &e, f);
	if (rc != 0)
		return rc;
	if (e->kind != KIND_TEXT)
		return wrong_kind(key, e, "string", f);
	size_t at = e->at;
	*out = text_at(g, &at);
	return 0;
}

static bool is_text(enum kind element)
{
	return element == KIND_TEXT;
}

static bool is_real(enum kind element)
{
	return element == KIND_F32 || element == KIND_F64;
}

static bool is_wide_integer(enum kind element)
{
	return element == KIND_U16 || element == KIND_I16 || element == KIND_U32 || element == KIND_I32 ||
	       element == KIND_U64 || element == KIND_I64;
}

/* The entry of an array of elements that fit, called `expected`, and fresh memory of `each` bytes an element. */
static int get_array(const struct gguf *g, const char *key, size_t each, bool (*fits)(enum kind), const char *expected,
	const struct entry **e, void **out, size_t *count, struct fault *f)
{
	*out = NULL;
	*count = 0;
	int rc = want(g, key, e, f);
	if (rc != 0)
		return rc;
	if ((*e)->kind != KIND_ARRAY)
		return wrong_kind(key, *e, "an array", f);
	if (!fits((*e)->element))
		return wrong_kind(key, *e, expected, f);
	if ((*e)->count == 0)
		return 0;
	*out = calloc((size_t)(*e)->count, each);
	if (*out == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for metadata key %s", key);
	*count = (size_t)(*e)->count;
	return 0;
}

int gguf_get_texts(const struct gguf *g, const char *key, struct gguf_text **out, size_t *count, struct fault *f)
{
	const struct entry *e;
	void *array;
	int rc = get_array(g, key, sizeof **out, is_text, "an array of strings", &e, &array, count, f);
	*out = array;
	size_t at = rc == 0 ? e->at : 0;
	for (size_t i = 0; i < *count; i++)
		(*out)[i] = text_at(g, &at);
	return rc;
}

int gguf_get_f32s(const struct gguf *g, const char *key, float **out, size_t *count, struct fault *f)
{
	const struct entry *e;
	void *array;
	int rc = get_array(g, key, sizeof **out, is_real, "an array of f32", &e, &array, count, f);
	*out = array;
	for (size_t i = 0; i < *count; i++)
		real_at(g, e->element, e->at + i * kinds[e->element].bytes, &(*out)[i]);
	return rc;
}

int gguf_get_i32s(const struct gguf *g, const char *key, int32_t **out, size_t *count, struct fault *f)
{
	const struct entry *e;
	void *array;
	int rc = get_array(
		g, key, sizeof **out, is_wide_integer, "an array of integers of 16 bits or more", &e, &array, count, f);
	*out = array;
	for (size_t i = 0; rc == 0 && i < *count; i++) {
		bool negative = false;
		uint64_t v = 0;
		integer_at(g, e->element, e->at + i * kinds[e->element].bytes, &negative, &v);
		if (v > (uint64_t)INT32_MAX + negative)
			rc = fault_set(f, SAKIORI_EFORMAT, "metadata key %s: element %zu does not fit 32 bits", key, i);
		else
			(*out)[i] = negative ? (int32_t)(-(int64_t)v) : (int32_t)v;
	}
	if (rc != 0) {
		free(*out);
		*out = NULL;
		*count = 0;
	}
	return rc;
}
