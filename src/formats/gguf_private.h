/* SPDX-License-Identifier: Apache-2.0 */
/* What gguf.c (metadata), gguf_tensors.c (the tensor table) and gguf_writer.c share; nobody else includes it. */
#pragma once
#include "formats/gguf.h"

/* ggml's metadata value types, with their numbers in the file. */
enum kind {
	KIND_U8,
	KIND_I8,
	KIND_U16,
	KIND_I16,
	KIND_U32,
	KIND_I32,
	KIND_F32,
	KIND_BOOL,
	KIND_TEXT,
	KIND_ARRAY,
	KIND_U64,
	KIND_I64,
	KIND_F64
};

/* One metadata key; positions count from the start of the file. Small, because a file can have one for every 14 bytes. */
struct entry {
	uint32_t key_at, key_size;
	enum kind kind;
	enum kind element; /* of an array */
	uint32_t count;    /* of an array */
	uint32_t at;       /* the value, or an array's first element */
	uint32_t end;      /* behind all of it */
};

#define TENSOR_NAME_SIZE 64 /* ggml's GGML_MAX_NAME, NUL included */

struct gguf {
	int fd;
	char *name;
	uint64_t file_size;
	uint8_t *front; /* the file's first front_size bytes: header, metadata, tensor table, perhaps some data */
	size_t front_size;
	struct entry *entries; /* sorted by key */
	size_t entry_count;
	uint32_t alignment;
	struct gguf_tensor *tensors; /* in the file's order; their names lie in front */
	uint32_t *by_name;           /* places in it, sorted by name */
	size_t tensor_count;
};

/* Parsing position. The first failure sticks in rc, with its sentence in f; everything after it is a no-op. */
struct cursor {
	struct gguf *g;
	size_t at;
	int rc;
	struct fault *f;
};

/* The next n bytes, NULL on failure; valid until the next take. `what` names them in the sentence. */
const uint8_t *gguf_take(struct cursor *c, uint64_t n, const char *what);
uint32_t gguf_take_u32(struct cursor *c, const char *what);
uint64_t gguf_take_u64(struct cursor *c, const char *what);
/* A string of 1..limit printable ASCII letters, given by where it lies. */
bool gguf_take_name(struct cursor *c, size_t limit, const char *what, uint32_t *at, uint32_t *size);
/* The tensor table and the checks of where the data lies. */
int gguf_take_tensors(struct cursor *c, uint64_t count);

/* ggml's number of a type. */
uint32_t gguf_type_number(enum stored_type type);
/* Fills `bytes` from type and shape, without overflow. */
int gguf_set_bytes(struct gguf_tensor *t, struct fault *f);
