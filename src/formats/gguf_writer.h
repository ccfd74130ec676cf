/* SPDX-License-Identifier: Apache-2.0 */
/* Writer of GGUF v3, streaming: the front is known at the start, the tensors' data come as they are made, and the file
 * gets its name when all is there. A handle belongs to one thread at a time. Blocking, so never on the loop. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "formats/gguf.h"

/* Metadata in the order in which it is added; no key twice, which is the caller's care. Zero it before the first use. */
struct gguf_keys {
	struct writer bytes;
	uint64_t count;
};
void gguf_keys_fini(struct gguf_keys *k);
void gguf_keys_text(struct gguf_keys *k, const char *key, const char *value);
void gguf_keys_u32(struct gguf_keys *k, const char *key, uint32_t value);
void gguf_keys_f32(struct gguf_keys *k, const char *key, float value);
/* Adds what `g` has, as it stands there and in its order, but for the keys that `except` names; an entry of it that ends in a point
 * stands for all that begin so. NULL ends it. */
void gguf_keys_copy(struct gguf_keys *k, const struct gguf *g, const char *const *except);

struct gguf_writer;
/* Fills bytes and offset of `tensors`, which are used later on and stay as they are until then, and writes the front. `append` takes the data of the
 * tensors in their order in pieces of any size, none of which reaches beyond its tensor's end; the padding between them
 * is the writer's. commit refuses a wrong total and replaces `path` atomically. After any failure, abort; a failed commit has
 * aborted already. SAKIORI_EINVAL for a tensor that GGUF cannot hold (name, shape, a row that is no whole block). */
int gguf_writer_begin(struct gguf_writer **out, const char *path, unsigned mode, const struct gguf_keys *keys,
	struct gguf_tensor *tensors, size_t count, struct fault *f);
int gguf_writer_append(struct gguf_writer *w, const void *data, size_t n, struct fault *f);
int gguf_writer_commit(struct gguf_writer *w, struct fault *f);
void gguf_writer_abort(struct gguf_writer *w);
