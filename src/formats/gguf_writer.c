/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/gguf_writer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "formats/gguf_private.h"

#define ALIGNMENT 32 /* what a file without general.alignment has */

struct gguf_writer {
	struct file_writer file;
	char *path;
	const struct gguf_tensor *tensors;
	size_t count;
	size_t current;   /* the tensor whose data come next */
	uint64_t written; /* of it */
};

void gguf_keys_fini(struct gguf_keys *k)
{
	writer_fini(&k->bytes);
	k->count = 0;
}

static void write_text(struct writer *w, const char *text)
{
	write_u64(w, strlen(text));
	write_bytes(w, text, strlen(text));
}

static void add_key(struct gguf_keys *k, const char *key, enum kind kind)
{
	write_text(&k->bytes, key);
	write_u32(&k->bytes, kind);
	k->count++;
}

void gguf_keys_text(struct gguf_keys *k, const char *key, const char *value)
{
	add_key(k, key, KIND_TEXT);
	write_text(&k->bytes, value);
}

void gguf_keys_u32(struct gguf_keys *k, const char *key, uint32_t value)
{
	add_key(k, key, KIND_U32);
	write_u32(&k->bytes, value);
}

void gguf_keys_f32(struct gguf_keys *k, const char *key, float value)
{
	add_key(k, key, KIND_F32);
	write_f32(&k->bytes, value);
}

static bool is_excepted(const struct gguf *g, const struct entry *e, const char *const *except)
{
	for (; *except != NULL; except++) {
		size_t n = strlen(*except);
		bool whole = (*except)[n - 1] != '.';
		if (e->key_size >= n && memcmp(g->front + e->key_at, *except, n) == 0 && (!whole || e->key_size == n))
			return true;
	}
	return false;
}

static int by_place(const void *a, const void *b)
{
	const struct entry *left = a, *right = b;
	return (left->key_at > right->key_at) - (left->key_at < right->key_at);
}

void gguf_keys_copy(struct gguf_keys *k, const struct gguf *g, const char *const *except)
{
	struct entry *entries = must_calloc(g->entry_count + 1, sizeof *entries);
	if (g->entry_count > 0)
		memcpy(entries, g->entries, g->entry_count * sizeof *entries);
	qsort(entries, g->entry_count, sizeof *entries, by_place);
	for (size_t i = 0; i < g->entry_count; i++) {
		const struct entry *e = &entries[i];
		if (is_excepted(g, e, except))
			continue;
		write_u64(&k->bytes, e->key_size);
		write_bytes(&k->bytes, g->front + e->key_at, e->end - e->key_at);
		k->count++;
	}
	free(entries);
}

static uint64_t padding_after(uint64_t bytes)
{
	return (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT;
}

/* Sizes, and offsets from the start of the data. */
static int place_tensors(struct gguf_tensor *tensors, size_t count, struct fault *f)
{
	uint64_t at = 0;
	for (size_t i = 0; i < count; i++) {
		struct gguf_tensor *t = &tensors[i];
		size_t n = strlen(t->name);
		if (n == 0 || n >= TENSOR_NAME_SIZE || t->dimensions < 1 || t->dimensions > 4)
			return fault_set(
				f, SAKIORI_EINVAL, "tensor %.100s: name or dimensions do not fit GGUF", t->name);
		if (gguf_set_bytes(t, f) != 0)
			return SAKIORI_EINVAL;
		t->offset = at;
		if (__builtin_add_overflow(at, t->bytes, &at) || at > INT64_MAX - ALIGNMENT)
			return fault_set(f, SAKIORI_EINVAL, "tensor %s: its end does not fit 63 bits", t->name);
		at += padding_after(at);
	}
	return 0;
}

static int write_front(
	struct gguf_writer *w, const struct gguf_keys *keys, struct gguf_tensor *tensors, struct fault *f)
{
	struct writer front;
	writer_init(&front);
	write_bytes(&front, "GGUF", 4);
	write_u32(&front, 3);
	write_u64(&front, w->count);
	write_u64(&front, keys->count);
	write_bytes(&front, keys->bytes.data, keys->bytes.size);
	for (size_t i = 0; i < w->count; i++) {
		const struct gguf_tensor *t = &tensors[i];
		write_text(&front, t->name);
		write_u32(&front, t->dimensions);
		for (unsigned k = 0; k < t->dimensions; k++)
			write_u64(&front, t->shape[k]);
		write_u32(&front, gguf_type_number(t->type));
		write_u64(&front, t->offset);
	}
	size_t padding = (size_t)padding_after(front.size);
	memset(write_space(&front, padding), 0, padding);
	int rc = file_writer_write(&w->file, front.data, front.size, f);
	for (size_t i = 0; i < w->count; i++)
		tensors[i].offset += front.size;
	writer_fini(&front);
	return rc;
}

int gguf_writer_begin(struct gguf_writer **out, const char *path, unsigned mode, const struct gguf_keys *keys,
	struct gguf_tensor *tensors, size_t count, struct fault *f)
{
	*out = NULL;
	int rc = place_tensors(tensors, count, f);
	if (rc != 0) {
		fault_wrap(f, "%s", path);
		return rc;
	}
	struct gguf_writer *w = must_calloc(1, sizeof *w);
	rc = file_writer_begin(&w->file, path, mode, f);
	if (rc != 0) {
		free(w);
		return rc;
	}
	w->path = must_strdup(path);
	w->tensors = tensors;
	w->count = count;
	rc = write_front(w, keys, tensors, f);
	if (rc != 0) {
		gguf_writer_abort(w);
		return rc;
	}
	*out = w;
	return 0;
}

int gguf_writer_append(struct gguf_writer *w, const void *data, size_t n, struct fault *f)
{
	static const uint8_t zeros[ALIGNMENT];
	if (n == 0)
		return 0;
	if (w->current == w->count || n > w->tensors[w->current].bytes - w->written)
		return fault_set(f, SAKIORI_EINVAL, "%s: more data than %s has", w->path,
			w->current == w->count ? "all tensors" : w->tensors[w->current].name);
	int rc = file_writer_write(&w->file, data, n, f);
	w->written += n;
	if (rc != 0 || w->written < w->tensors[w->current].bytes)
		return rc;
	w->written = 0;
	return file_writer_write(&w->file, zeros, (size_t)padding_after(w->tensors[w->current++].bytes), f);
}

int gguf_writer_commit(struct gguf_writer *w, struct fault *f)
{
	int rc;
	if (w->current != w->count) {
		rc = fault_set(
			f, SAKIORI_EINVAL, "%s: data of tensor %s are missing", w->path, w->tensors[w->current].name);
		file_writer_abort(&w->file);
	} else {
		rc = file_writer_commit(&w->file, f);
	}
	free(w->path);
	free(w);
	return rc;
}

void gguf_writer_abort(struct gguf_writer *w)
{
	if (w == NULL)
		return;
	file_writer_abort(&w->file);
	free(w->path);
	free(w);
}
