/* SPDX-License-Identifier: Apache-2.0 */
/* Writing: header first, so every shape is known at begin; then the data as it comes; the file gets its name at commit.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/json.h"
#include "formats/safetensors.h"

struct safetensors_writer {
	struct file_writer file;
	char *path;
	uint64_t expected, written; /* bytes of data */
};

/* The reference writer's order: wide values first, so that each tensor is aligned to its value size. */
static int by_size_and_name(const void *a, const void *b)
{
	const struct safetensors_tensor *left = a, *right = b;
	size_t l = safetensors_type_size(left->type), r = safetensors_type_size(right->type);
	return l != r ? (l < r ? 1 : -1) : strcmp(left->name, right->name);
}

/* A new reference to the header, with `bytes` set and offsets relative to the data. */
static int build_header(struct safetensors_tensor *tensors, size_t count, const struct safetensors_note *notes,
	size_t note_count, json_t **out, struct fault *f)
{
	json_t *header = json_object(), *metadata = json_object();
	int failed = json_object_set_new(header, "__metadata__", metadata);
	failed |= json_object_set_new(metadata, "format", json_string("pt"));
	for (size_t i = 0; i < note_count; i++)
		failed |= json_object_set_new(metadata, notes[i].key, json_string(notes[i].value));
	uint64_t at = 0;
	int rc = 0;
	for (size_t i = 0; i < count && rc == 0; i++) {
		struct safetensors_tensor *t = &tensors[i];
		t->bytes = safetensors_type_size(t->type);
		t->offset = at;
		json_t *shape = json_array();
		for (unsigned k = 0; k < t->dimensions; k++) {
			failed |= json_array_append_new(shape, json_integer((json_int_t)t->shape[k]));
			if (__builtin_mul_overflow(t->bytes, t->shape[k], &t->bytes))
				rc = SAKIORI_EINVAL;
		}
		if (__builtin_add_overflow(at, t->bytes, &at) || at > INT64_MAX)
			rc = SAKIORI_EINVAL;
		if (rc != 0)
			fault_set(f, rc, "tensor %s: its size does not fit 63 bits", t->name);
		else if (json_object_get(header, t->name) != NULL)
			rc = fault_set(f, SAKIORI_EINVAL, "tensor %s is given twice", t->name);
		failed |= json_object_set_new(header, t->name,
			json_pack("{s:s, s:o, s:[I,I]}", "dtype", safetensors_type_name(t->type), "shape", shape,
				"data_offsets", (json_int_t)t->offset, (json_int_t)at));
	}
	if (rc == 0 && failed != 0)
		rc = fault_set(f, SAKIORI_EINVAL, "a tensor name or a note is not valid UTF-8");
	if (rc != 0) {
		json_decref(header);
		return rc;
	}
	*out = header;
	return 0;
}

/* Length and header, the header padded with spaces so that the data begins at a multiple of 8. */
static int write_header(struct safetensors_writer *w, const json_t *header, uint64_t *data, struct fault *f)
{
	char *text = json_dumps(header, JSON_COMPACT);
	if (text == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for a safetensors header");
	struct writer head;
	writer_init(&head);
	size_t n = strlen(text), padded = (n + 7) / 8 * 8;
	write_u64(&head, padded);
	write_bytes(&head, text, n);
	memset(write_space(&head, padded - n), ' ', padded - n);
	free(text);
	int rc = file_writer_write(&w->file, head.data, head.size, f);
	*data = head.size;
	writer_fini(&head);
	return rc;
}

int safetensors_writer_begin(struct safetensors_writer **out, const char *path, unsigned mode,
	struct safetensors_tensor *tensors, size_t count, const struct safetensors_note *notes, size_t note_count,
	struct fault *f)
{
	*out = NULL;
	if (count > 0)
		qsort(tensors, count, sizeof *tensors, by_size_and_name);
	json_t *header;
	int rc = build_header(tensors, count, notes, note_count, &header, f);
	if (rc != 0) {
		fault_wrap(f, "%s", path);
		return rc;
	}
	struct safetensors_writer *w = must_calloc(1, sizeof *w);
	rc = file_writer_begin(&w->file, path, mode, f);
	if (rc != 0) {
		json_decref(header);
		free(w);
		return rc;
	}
	w->path = must_strdup(path);
	if (count > 0)
		w->expected = tensors[count - 1].offset + tensors[count - 1].bytes;
	uint64_t data = 0;
	rc = write_header(w, header, &data, f);
	json_decref(header);
	if (rc != 0) {
		safetensors_writer_abort(w);
		return rc;
	}
	for (size_t i = 0; i < count; i++)
		tensors[i].offset += data;
	*out = w;
	return 0;
}

int safetensors_writer_append(struct safetensors_writer *w, const void *data, size_t n, struct fault *f)
{
	if (n > w->expected - w->written)
		return fault_set(f, SAKIORI_EINVAL, "%s: more data than the header promised", w->path);
	w->written += n;
	return file_writer_write(&w->file, data, n, f);
}

int safetensors_writer_commit(struct safetensors_writer *w, struct fault *f)
{
	int rc;
	if (w->written != w->expected) {
		rc = fault_set(f, SAKIORI_EINVAL,
			"%s: %" PRIu64 " bytes of data were given, the header promises %" PRIu64, w->path, w->written,
			w->expected);
		file_writer_abort(&w->file);
	} else {
		rc = file_writer_commit(&w->file, f);
	}
	free(w->path);
	free(w);
	return rc;
}

void safetensors_writer_abort(struct safetensors_writer *w)
{
	if (w == NULL)
		return;
	file_writer_abort(&w->file);
	free(w->path);
	free(w);
}

int safetensors_write(const char *path, unsigned mode, struct safetensors_tensor *tensors, size_t count,
	const struct safetensors_note *notes, size_t note_count, struct fault *f)
{
	struct safetensors_writer *w;
	int rc = safetensors_writer_begin(&w, path, mode, tensors, count, notes, note_count, f);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < count && rc == 0; i++)
		rc = safetensors_writer_append(w, tensors[i].data, (size_t)tensors[i].bytes, f);
	if (rc != 0) {
		safetensors_writer_abort(w);
		return rc;
	}
	return safetensors_writer_commit(w, f);
}
