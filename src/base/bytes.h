/* SPDX-License-Identifier: Apache-2.0 */
/* Bounds-checked little-endian reading and writing, and arithmetic that cannot wrap. Any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A cursor over borrowed bytes. The first read past the end sets `failed`; later reads return 0 and keep it set,
 * so a parser checks once after a group of reads. */
struct reader {
	const uint8_t *data;
	size_t size;
	size_t at;
	bool failed;
};

void reader_init(struct reader *r, const void *data, size_t size);
size_t reader_left(const struct reader *r);
uint8_t read_u8(struct reader *r);
uint16_t read_u16(struct reader *r);
uint32_t read_u32(struct reader *r);
uint64_t read_u64(struct reader *r);
float read_f32(struct reader *r);
double read_f64(struct reader *r);
/* Borrows n bytes of the input and moves on; NULL (and failed) when fewer are left. */
const uint8_t *read_span(struct reader *r, size_t n);
void read_bytes(struct reader *r, void *out, size_t n);

/* A growing buffer. Allocation failure ends the process (small, ours); anything sized by a peer or a file is bounded by the caller first. */
struct writer {
	uint8_t *data;
	size_t size;
	size_t capacity;
};

void writer_init(struct writer *w);
/* Frees the buffer; safe twice. */
void writer_fini(struct writer *w);
void write_u8(struct writer *w, uint8_t v);
void write_u16(struct writer *w, uint16_t v);
void write_u32(struct writer *w, uint32_t v);
void write_u64(struct writer *w, uint64_t v);
void write_f32(struct writer *w, float v);
void write_bytes(struct writer *w, const void *data, size_t n);
/* Appends n uninitialised bytes and returns where they start. */
uint8_t *write_space(struct writer *w, size_t n);

/* false when the exact result does not fit; *out is then untouched. */
bool size_mul(size_t a, size_t b, size_t *out);
bool size_add(size_t a, size_t b, size_t *out);

/* malloc family that ends the process instead of returning NULL; for small internal state only. */
void *must_alloc(size_t bytes);
void *must_calloc(size_t n, size_t each);
void *must_realloc(void *p, size_t bytes);
char *must_strdup(const char *s);

/* 16-bit floats; round to nearest even. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float f);

/* Bytes that this process may still allocate without swapping, by the kernel's estimate and the limit of its control group; physical memory where
 * /proc/meminfo is hidden; 0 if nothing is known. */
size_t available_memory(void);
