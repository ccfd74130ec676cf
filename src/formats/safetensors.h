/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors, both directions, streaming. Stricter than the reference reader: duplicate keys, holes, overlaps,
 * trailing bytes and headers above 16 MiB are refused. A handle belongs to one thread at a time. Blocking, so never on
 * the loop. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum safetensors_type {
	SAFETENSORS_F32,
	SAFETENSORS_F16,
	SAFETENSORS_BF16,
	SAFETENSORS_I64,
	SAFETENSORS_I32,
	SAFETENSORS_I8,
	SAFETENSORS_U8
};
#define SAFETENSORS_DIMENSIONS 8

struct safetensors_tensor {
	const char *name;
	enum safetensors_type type;
	unsigned dimensions;                    /* 0 is a scalar */
	uint64_t shape[SAFETENSORS_DIMENSIONS]; /* slowest first */
	const void *data;                       /* only for safetensors_write; NULL in what a reader gives */
	uint64_t offset; /* of the data, from the start of the file; filled by reader and writer */
	uint64_t bytes;  /* likewise */
};

/* One entry of __metadata__. */
struct safetensors_note {
	const char *key;
	const char *value;
};

/* "F32", ...; bytes of one value. */
const char *safetensors_type_name(enum safetensors_type type);
size_t safetensors_type_size(enum safetensors_type type);

struct safetensors;

/* Reads and checks the header. SAKIORI_EFORMAT, EUNSUPPORTED (a type), ELIMIT, ENOTFOUND, EIO. */
int safetensors_open(const char *path, struct safetensors **out, struct fault *f);
/* As safetensors_open on an open regular file, which it takes (closed also on failure). */
int safetensors_open_fd(int fd, const char *name, struct safetensors **out, struct fault *f);
void safetensors_close(struct safetensors *s);
/* Tensors in the order of their data, and by name (NULL when there is none); borrowed until close. */
size_t safetensors_count(const struct safetensors *s);
const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i);
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name);
/* A value of __metadata__, NULL when absent; and its entries. */
const char *safetensors_note(const struct safetensors *s, const char *key);
size_t safetensors_note_count(const struct safetensors *s);
struct safetensors_note safetensors_note_at(const struct safetensors *s, size_t i);
/* Reads n bytes from `offset` within the tensor's data. SAKIORI_EINVAL outside it; SAKIORI_ECORRUPT when the file was
 * shortened. */
int safetensors_read(const struct safetensors *s, const struct safetensors_tensor *t, uint64_t offset, size_t n,
	void *out, struct fault *f);

/* Writing: begin sorts `tensors` (value size descending, then name) into the order in which their data must be
 * appended, fills offset and bytes, and writes the header (`{"format":"pt"}` is added to the notes); append takes the
 * data in pieces of any size; commit refuses a wrong total and replaces `path` atomically. After any failure, abort; a
 * failed commit has aborted already. */
struct safetensors_writer;
int safetensors_writer_begin(struct safetensors_writer **out, const char *path, unsigned mode,
	struct safetensors_tensor *tensors, size_t count, const struct safetensors_note *notes, size_t note_count,
	struct fault *f);
int safetensors_writer_append(struct safetensors_writer *w, const void *data, size_t n, struct fault *f);
int safetensors_writer_commit(struct safetensors_writer *w, struct fault *f);
void safetensors_writer_abort(struct safetensors_writer *w);

/* All of it for tensors whose `data` is in memory; sorts `tensors`. */
int safetensors_write(const char *path, unsigned mode, struct safetensors_tensor *tensors, size_t count,
	const struct safetensors_note *notes, size_t note_count, struct fault *f);
