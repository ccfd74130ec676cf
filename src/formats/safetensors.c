/* SPDX-License-Identifier: Apache-2.0 */
/* Reading. Happy path: u64 header length, JSON header, then data that the tensors tile exactly.
 * Failure modes: a header that lies or is ambiguous, a file that ends early or is shortened while in use. The writer is
 * in safetensors_writer.c. */
#include "formats/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/json.h"

#define HEADER_LIMIT ((size_t)16 << 20)
#define NAME_SHOWN 100
/* Of any list, and of an object in a header too short for more: what is built of one then stays below twice the header, as tables go. A tensor
 * is described in 51 bytes at least, a note in 8. */
#define LIST_LIMIT 64
#define MEMBER_BYTES_LEAST 16
#define MEMBERS_ALWAYS 64
#define TENSOR_BYTES_LEAST 52

static const struct {
	const char *name;
	size_t size;
} types[] = {
	[SAFETENSORS_F32] = {"F32", 4},
	[SAFETENSORS_F16] = {"F16", 2},
	[SAFETENSORS_BF16] = {"BF16", 2},
	[SAFETENSORS_I64] = {"I64", 8},
	[SAFETENSORS_I32] = {"I32", 4},
	[SAFETENSORS_I8] = {"I8", 1},
	[SAFETENSORS_U8] = {"U8", 1},
};

struct safetensors {
	int fd;
	char *name;
	uint64_t file_size;
	json_t *header;                     /* keeps names and notes alive */
	struct safetensors_tensor *tensors; /* by offset */
	size_t count;
	struct safetensors_note *notes;
	size_t note_count;
};

const char *safetensors_type_name(enum safetensors_type type)
{
	return types[type].name;
}

size_t safetensors_type_size(enum safetensors_type type)
{
	return types[type].size;
}

static int read_at(const struct safetensors *s, uint64_t offset, size_t n, void *out, struct fault *f)
{
	uint8_t *p = out;
	while (n > 0) {
		ssize_t got = pread(s->fd, p, n, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return fault_errno(f, "reading at byte %" PRIu64, offset);
		if (got == 0)
			return fault_set(f, SAKIORI_ECORRUPT,
				"the file ended at byte %" PRIu64 " of %" PRIu64
				": it was shortened while it was in use",
				offset, s->file_size);
		p += got;
		offset += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

/* Names go into error sentences and logs, so they hold nothing that could upset a terminal. */
static int check_name(const char *what, const char *name, struct fault *f)
{
	for (const char *p = name; *p != '\0'; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return fault_set(
				f, SAKIORI_EFORMAT, "%s holds the control character 0x%02x", what, (unsigned char)*p);
	return *name != '\0' ? 0 : fault_set(f, SAKIORI_EFORMAT, "%s is empty", what);
}

static int parse_type(const json_t *value, enum safetensors_type *out, struct fault *f)
{
	const char *word;
	int rc = json_want_text(value, "dtype", &word, f);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		if (strcmp(word, types[i].name) == 0) {
			*out = (enum safetensors_type)i;
			return 0;
		}
	}
	return fault_set(
		f, SAKIORI_EUNSUPPORTED, "dtype %.20s is not supported; F32, F16, BF16, I64, I32, I8 and U8 are", word);
}

/* A non-negative integer out of an array. */
static bool element(const json_t *array, size_t i, uint64_t *out)
{
	const json_t *v = json_array_get(array, i);
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return false;
	*out = (uint64_t)json_integer_value(v);
	return true;
}

static int parse_shape(const json_t *value, struct safetensors_tensor *t, struct fault *f)
{
	const json_t *shape;
	int rc = json_want_array(value, "shape", &shape, f);
	if (rc != 0)
		return rc;
	size_t n = json_array_size(shape);
	if (n > SAFETENSORS_DIMENSIONS)
		return fault_set(f, SAKIORI_EFORMAT, "%zu dimensions, expected at most %d", n, SAFETENSORS_DIMENSIONS);
	t->dimensions = (unsigned)n;
	t->bytes = types[t->type].size;
	for (size_t i = 0; i < n; i++) {
		if (!element(shape, i, &t->shape[i]))
			return fault_set(f, SAKIORI_EFORMAT, "dimension %zu is not a whole number of at least 0", i);
		if (__builtin_mul_overflow(t->bytes, t->shape[i], &t->bytes))
			return fault_set(f, SAKIORI_EFORMAT, "the product of its dimensions does not fit 64 bits");
	}
	return 0;
}

static int parse_tensor(const json_t *value, struct safetensors_tensor *t, uint64_t data_bytes, struct fault *f)
{
	if (!json_is_object(value))
		return fault_set(f, SAKIORI_EFORMAT, "%s, expected an object", json_kind(value));
	int rc = parse_type(value, &t->type, f);
	if (rc == 0)
		rc = parse_shape(value, t, f);
	const json_t *offsets = NULL;
	if (rc == 0)
		rc = json_want_array(value, "data_offsets", &offsets, f);
	if (rc != 0)
		return rc;
	uint64_t begin, end;
	if (json_array_size(offsets) != 2 || !element(offsets, 0, &begin) || !element(offsets, 1, &end) || begin > end)
		return fault_set(f, SAKIORI_EFORMAT, "data_offsets are not two whole numbers in order");
	if (end > data_bytes)
		return fault_set(f, SAKIORI_EFORMAT,
			"data_offsets end at %" PRIu64 ", but there are %" PRIu64
			" bytes of data: the file is truncated or damaged",
			end, data_bytes);
	if (end - begin != t->bytes)
		return fault_set(f, SAKIORI_EFORMAT,
			"data_offsets hold %" PRIu64 " bytes, but dtype and shape need %" PRIu64, end - begin,
			t->bytes);
	t->offset = begin;
	return 0;
}

/* Counts the members of each list and object before a tree is made of them; leaves every other fault to the parser. */
static int check_members(const char *p, size_t size, struct fault *f)
{
	size_t members[JSON_DEPTH_LIMIT + 1] = {0}, limits[JSON_DEPTH_LIMIT + 1] = {LIST_LIMIT}, depth = 0;
	bool in_string = false;
	for (size_t i = 0; i < size; i++) {
		char c = p[i];
		if (in_string) {
			i += c == '\\';
			in_string = c != '"';
		} else if (c == '"') {
			in_string = true;
		} else if (c == '[' || c == '{') {
			if (depth == JSON_DEPTH_LIMIT)
				return 0;
			members[++depth] = 1;
			limits[depth] = c == '[' ? LIST_LIMIT : size / MEMBER_BYTES_LEAST + MEMBERS_ALWAYS;
		} else if ((c == ']' || c == '}') && depth > 0) {
			depth--;
		} else if (c == ',' && ++members[depth] > limits[depth]) {
			return fault_set(f, SAKIORI_ELIMIT,
				"header byte %zu: more than %zu members in one list or object, which no description of "
				"tensors needs in %zu bytes",
				i, limits[depth], size);
		}
	}
	return 0;
}

static int parse_notes(struct safetensors *s, const json_t *object, struct fault *f)
{
	if (!json_is_object(object))
		return fault_set(f, SAKIORI_EFORMAT, "__metadata__ is %s, expected an object", json_kind(object));
	s->notes = calloc(json_object_size(object) + 1, sizeof *s->notes);
	if (s->notes == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for __metadata__");
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)object, key, value)
	{
		int rc = check_name("a key of __metadata__", key, f);
		if (rc != 0)
			return rc;
		if (!json_is_string(value))
			return fault_set(f, SAKIORI_EFORMAT, "__metadata__: \"%.*s\" is %s, expected a string",
				NAME_SHOWN, key, json_kind(value));
		s->notes[s->note_count++] = (struct safetensors_note){.key = key, .value = json_string_value(value)};
	}
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct safetensors_tensor *left = a, *right = b;
	if (left->offset != right->offset)
		return left->offset < right->offset ? -1 : 1;
	return (left->bytes > right->bytes) - (left->bytes < right->bytes); /* empty ones first */
}

/* Tensors must follow one another without a byte between or after them; `data` is where the first begins in the file.
 */
static int check_tiling(struct safetensors *s, uint64_t data, uint64_t data_bytes, struct fault *f)
{
	if (s->count > 0)
		qsort(s->tensors, s->count, sizeof *s->tensors, by_place);
	uint64_t end = 0;
	for (size_t i = 0; i < s->count; i++) {
		struct safetensors_tensor *t = &s->tensors[i];
		if (t->offset < end)
			return fault_set(f, SAKIORI_EFORMAT, "tensors %.*s and %.*s overlap", NAME_SHOWN,
				s->tensors[i - 1].name, NAME_SHOWN, t->name);
		if (t->offset > end)
			return fault_set(f, SAKIORI_EFORMAT, "%" PRIu64 " bytes before tensor %.*s belong to no tensor",
				t->offset - end, NAME_SHOWN, t->name);
		end = t->offset + t->bytes;
		t->offset += data;
	}
	if (end != data_bytes)
		return fault_set(f, SAKIORI_EFORMAT, "%" PRIu64 " bytes after the last tensor belong to no tensor",
			data_bytes - end);
	return 0;
}

static int parse_header(struct safetensors *s, uint64_t data, struct fault *f)
{
	if (!json_is_object(s->header))
		return fault_set(f, SAKIORI_EFORMAT, "the header is %s, expected an object", json_kind(s->header));
	uint64_t data_bytes = s->file_size - data;
	if (json_object_size(s->header) > data / TENSOR_BYTES_LEAST + MEMBERS_ALWAYS)
		return fault_set(f, SAKIORI_EFORMAT,
			"%zu entries in a header of %" PRIu64 " bytes cannot describe tensors",
			json_object_size(s->header), data - 8);
	s->tensors = calloc(json_object_size(s->header) + 1, sizeof *s->tensors);
	if (s->tensors == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for the tensor table");
	const char *key;
	json_t *value;
	json_object_foreach(s->header, key, value)
	{
		int rc;
		if (strcmp(key, "__metadata__") == 0) {
			rc = parse_notes(s, value, f);
			if (rc != 0)
				return rc;
			continue;
		}
		rc = check_name("a tensor name", key, f);
		if (rc != 0)
			return rc;
		struct safetensors_tensor *t = &s->tensors[s->count++];
		t->name = key;
		rc = parse_tensor(value, t, data_bytes, f);
		if (rc != 0) {
			fault_wrap(f, "tensor %.*s", NAME_SHOWN, key);
			return rc;
		}
	}
	return check_tiling(s, data, data_bytes, f);
}

static int read_header(struct safetensors *s, struct fault *f)
{
	if (s->file_size < 8)
		return fault_set(
			f, SAKIORI_EFORMAT, "%" PRIu64 " bytes are too few for a safetensors file", s->file_size);
	uint8_t length[8];
	int rc = read_at(s, 0, sizeof length, length, f);
	if (rc != 0)
		return rc;
	struct reader r;
	reader_init(&r, length, sizeof length);
	uint64_t n = read_u64(&r);
	if (n > s->file_size - 8)
		return fault_set(f, SAKIORI_EFORMAT,
			"not a safetensors file, or a truncated one: it promises a header of %" PRIu64
			" bytes and has %" PRIu64,
			n, s->file_size - 8);
	if (n > HEADER_LIMIT)
		return fault_set(f, SAKIORI_ELIMIT, "a header of %" PRIu64 " bytes, but at most %zu MiB are read", n,
			HEADER_LIMIT >> 20);
	char *text = malloc((size_t)n + 1);
	if (text == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for a header of %" PRIu64 " bytes", n);
	rc = read_at(s, 8, (size_t)n, text, f);
	if (rc == 0)
		rc = check_members(text, (size_t)n, f);
	if (rc == 0)
		rc = json_parse("header", 1, text, (size_t)n, &s->header, f);
	free(text);
	return rc != 0 ? rc : parse_header(s, 8 + n, f);
}

int safetensors_open_fd(int fd, const char *name, struct safetensors **out, struct fault *f)
{
	*out = NULL;
	struct safetensors *s = must_calloc(1, sizeof *s);
	s->fd = fd;
	s->name = must_strdup(name);
	int rc = file_regular_size(fd, name, &s->file_size, f);
	if (rc == 0) {
		rc = read_header(s, f);
		if (rc != 0)
			fault_wrap(f, "%s", name);
	}
	if (rc != 0) {
		safetensors_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

int safetensors_open(const char *path, struct safetensors **out, struct fault *f)
{
	*out = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fault_errno(f, "%s", path);
	return safetensors_open_fd(fd, path, out, f);
}

void safetensors_close(struct safetensors *s)
{
	if (s == NULL)
		return;
	close(s->fd);
	json_decref(s->header);
	free(s->tensors);
	free(s->notes);
	free(s->name);
	free(s);
}

size_t safetensors_count(const struct safetensors *s)
{
	return s->count;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i)
{
	return &s->tensors[i];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name)
{
	for (size_t i = 0; i < s->count; i++)
		if (strcmp(s->tensors[i].name, name) == 0)
			return &s->tensors[i];
	return NULL;
}

const char *safetensors_note(const struct safetensors *s, const char *key)
{
	for (size_t i = 0; i < s->note_count; i++)
		if (strcmp(s->notes[i].key, key) == 0)
			return s->notes[i].value;
	return NULL;
}

size_t safetensors_note_count(const struct safetensors *s)
{
	return s->note_count;
}

struct safetensors_note safetensors_note_at(const struct safetensors *s, size_t i)
{
	return s->notes[i];
}

int safetensors_read(const struct safetensors *s, const struct safetensors_tensor *t, uint64_t offset, size_t n,
	void *out, struct fault *f)
{
	if (offset > t->bytes || n > t->bytes - offset)
		return fault_set(f, SAKIORI_EINVAL,
			"%s: tensor %.*s has %" PRIu64 " bytes; %zu at %" PRIu64 " were asked for", s->name, NAME_SHOWN,
			t->name, t->bytes, n, offset);
	int rc = read_at(s, t->offset + offset, n, out, f);
	if (rc != 0)
		fault_wrap(f, "%s: tensor %.*s", s->name, NAME_SHOWN, t->name);
	return rc;
}
