/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of GGUF v2 and v3 (ggml's model files). Nothing in the file is believed before it was bounded by the file's
 * own size. Metadata stays in memory (at most 64 MiB); tensor data is read with pread on demand, never mapped, never
 * kept. A struct gguf belongs to one thread at a time. Blocking, so never on the loop. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "formats/stored_type.h"

struct gguf;

/* Bytes of the file without a NUL after them; borrowed until gguf_close. */
struct gguf_text {
	const char *data;
	size_t size;
};

struct gguf_tensor {
	const char *name; /* printable ASCII, NUL-terminated */
	enum stored_type type;
	unsigned dimensions; /* 1..4 */
	uint64_t shape[4];   /* fastest first: shape[0] is a row's length; 1 where unused */
	uint64_t offset;     /* of the data, from the start of the file */
	uint64_t bytes;
};

/* Reads and checks everything but the tensor data. SAKIORI_EFORMAT (lies, truncation), EUNSUPPORTED (a tensor type or
 * version), ELIMIT, ENOTFOUND, EIO. A FIFO, device or directory is refused. */
int gguf_open(const char *path, struct gguf **out, struct fault *f);
/* As gguf_open on an open regular file, which it takes (closed also on failure); `name` is for sentences. */
int gguf_open_fd(int fd, const char *name, struct gguf **out, struct fault *f);
void gguf_close(struct gguf *g);
/* The path or name it was opened by. */
const char *gguf_name(const struct gguf *g);

/* Metadata. A missing key is SAKIORI_ENOTFOUND, a value of another kind or out of range SAKIORI_EFORMAT, each with the
 * key's name. Integers of any width and sign are accepted where the value fits; f32 takes an f64 too. */
bool gguf_has(const struct gguf *g, const char *key);
int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out, struct fault *f);
int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out, struct fault *f);
int gguf_get_f32(const struct gguf *g, const char *key, float *out, struct fault *f);
int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct fault *f);
int gguf_get_text(const struct gguf *g, const char *key, struct gguf_text *out, struct fault *f);
/* Arrays come in fresh memory that the caller frees; the texts in it stay borrowed. An empty array gives NULL and 0. */
int gguf_get_texts(const struct gguf *g, const char *key, struct gguf_text **out, size_t *count, struct fault *f);
int gguf_get_f32s(const struct gguf *g, const char *key, float **out, size_t *count, struct fault *f);
/* Integers of at least 16 bits: what comes out then never takes more than twice the bytes of the file. */
int gguf_get_i32s(const struct gguf *g, const char *key, int32_t **out, size_t *count, struct fault *f);

/* Tensors in the file's order, and by name (NULL when there is none). */
size_t gguf_tensor_count(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);
/* Reads n bytes from `offset` within the tensor's data. A range outside it is SAKIORI_EINVAL; a file that was shortened
 * since it was opened is SAKIORI_ECORRUPT. */
int gguf_read(const struct gguf *g, const struct gguf_tensor *t, uint64_t offset, size_t n, void *out, struct fault *f);
