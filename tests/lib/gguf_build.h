/* SPDX-License-Identifier: Apache-2.0 */
/* Writes GGUF piece by piece for tests, honest or not: nothing here checks anything. */
#pragma once
#include <stdint.h>

#include "base/bytes.h"

/* Numbers of ggml's metadata and tensor types that tests write. */
enum {
	BUILD_U8 = 0,
	BUILD_U32 = 4,
	BUILD_I32 = 5,
	BUILD_F32 = 6,
	BUILD_BOOL = 7,
	BUILD_TEXT = 8,
	BUILD_ARRAY = 9,
	BUILD_U64 = 10,
	BUILD_F64 = 12
};
enum { BUILD_TYPE_F32 = 0, BUILD_TYPE_Q4_0 = 2, BUILD_TYPE_Q8_0 = 8 };

void build_header(struct writer *w, uint32_t version, uint64_t tensors, uint64_t keys);
void build_text(struct writer *w, const char *text);
/* A key and its type; the value follows. */
void build_key(struct writer *w, const char *key, uint32_t type);
void build_key_u32(struct writer *w, const char *key, uint32_t value);
void build_key_f32(struct writer *w, const char *key, float value);
void build_key_text(struct writer *w, const char *key, const char *value);
/* Shape as (rows, cols), written cols first; rows 0 writes one dimension. */
void build_tensor(struct writer *w, const char *name, uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset);
/* Zeros up to a multiple of `alignment`. */
void build_pad(struct writer *w, size_t alignment);
/* An open file of these bytes, or the test program ends. */
int build_file(const void *data, size_t size);
