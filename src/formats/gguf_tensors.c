/* SPDX-License-Identifier: Apache-2.0 */
/* The tensor table of a GGUF file: what each tensor claims, and that together they tile the data section. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_private.h"

#define TENSORS_LIMIT 65536
#define TENSOR_BYTES_LEAST (8 + 1 + 4 + 8 + 4 + 8)

/* ggml's numbers for its tensor types; NULL where a number was never used or was given up. */
static const char *const ggml_types[] = {"F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1",
	"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
	"IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8",
	"TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4", "NVFP4", "Q1_0", "Q2_0"};

uint32_t gguf_type_number(enum stored_type type)
{
	uint32_t number = 0;
	while (ggml_types[number] == NULL || strcmp(ggml_types[number], stored_type_name(type)) != 0)
		number++;
	return number;
}

static int set_type(struct gguf_tensor *t, uint32_t number, struct fault *f)
{
	const char *name = number < sizeof ggml_types / sizeof *ggml_types ? ggml_types[number] : NULL;
	for (unsigned i = 0; name != NULL && i < STORED_TYPES; i++) {
		if (strcmp(name, stored_type_name((enum stored_type)i)) == 0) {
			t->type = (enum stored_type)i;
			return 0;
		}
	}
	if (name == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"tensor %s is stored as type number %" PRIu32 ", which is unknown here; "
			"use a file in " STORED_TYPE_NAMES,
			t->name, number);
	return fault_set(f, SAKIORI_EUNSUPPORTED,
		"tensor %s is stored as %s, which is not supported; use a file in " STORED_TYPE_NAMES
		" (llama-quantize writes them)",
		t->name, name);
}

int gguf_set_bytes(struct gguf_tensor *t, struct fault *f)
{
	uint64_t values = 1;
	for (unsigned i = 0; i < t->dimensions; i++) {
		if (t->shape[i] == 0)
			return fault_set(f, SAKIORI_EFORMAT, "tensor %s: dimension %u is 0", t->name, i);
		if (__builtin_mul_overflow(values, t->shape[i], &values))
			return fault_set(f, SAKIORI_EFORMAT,
				"tensor %s: the product of its dimensions does not fit 64 bits", t->name);
	}
	size_t block = stored_type_block(t->type);
	if (t->shape[0] % block != 0)
		return fault_set(f, SAKIORI_EFORMAT,
			"tensor %s: rows of %" PRIu64 " values are not whole %s blocks of %zu", t->name, t->shape[0],
			stored_type_name(t->type), block);
	if (__builtin_mul_overflow(values / block, stored_type_block_bytes(t->type), &t->bytes))
		return fault_set(f, SAKIORI_EFORMAT, "tensor %s: its size does not fit 64 bits", t->name);
	return 0;
}

/* Reads as much of the table into front as is well-formed, so that front no longer moves; what is not, take_tensor meets again and names. */
static int load_table(struct cursor *c, uint64_t count)
{
	size_t begin = c->at;
	for (uint64_t i = 0; i < count && c->rc == 0; i++) {
		uint64_t size = gguf_take_u64(c, "a tensor name");
		if (size >= TENSOR_NAME_SIZE)
			break;
		gguf_take(c, size, "a tensor name");
		uint32_t dimensions = gguf_take_u32(c, "a tensor's dimension count");
		if (dimensions > 4)
			break;
		gguf_take(c, dimensions * 8 + 4 + 8, "a tensor's shape, type and offset");
	}
	c->at = begin;
	return c->rc;
}

static void take_tensor(struct cursor *c, struct gguf_tensor *t)
{
	uint32_t at, size;
	if (!gguf_take_name(c, TENSOR_NAME_SIZE - 1, "a tensor name", &at, &size))
		return;
	t->dimensions = gguf_take_u32(c, "a tensor's dimension count");
	if (c->rc != 0)
		return;
	/* the NUL takes the place of a byte of the dimension count, which has been read */
	c->g->front[at + size] = '\0';
	t->name = (const char *)c->g->front + at;
	if (t->dimensions < 1 || t->dimensions > 4)
		c->rc = fault_set(
			c->f, SAKIORI_EFORMAT, "tensor %s has %u dimensions, expected 1 to 4", t->name, t->dimensions);
	for (unsigned i = 0; i < 4; i++)
		t->shape[i] = c->rc == 0 && i < t->dimensions ? gguf_take_u64(c, "a tensor's dimension") : 1;
	uint32_t type = gguf_take_u32(c, "a tensor's type");
	t->offset = gguf_take_u64(c, "a tensor's offset");
	if (c->rc == 0)
		c->rc = set_type(t, type, c->f);
	if (c->rc == 0)
		c->rc = gguf_set_bytes(t, c->f);
}

static int by_name(const void *a, const void *b, void *self)
{
	const struct gguf *g = self;
	return strcmp(g->tensors[*(const uint32_t *)a].name, g->tensors[*(const uint32_t *)b].name);
}

static int index_names(struct gguf *g, struct fault *f)
{
	g->by_name = calloc(g->tensor_count + 1, sizeof *g->by_name);
	if (g->by_name == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for %zu tensors", g->tensor_count);
	for (size_t i = 0; i < g->tensor_count; i++)
		g->by_name[i] = (uint32_t)i;
	qsort_r(g->by_name, g->tensor_count, sizeof *g->by_name, by_name, g);
	for (size_t i = 1; i < g->tensor_count; i++)
		if (by_name(&g->by_name[i - 1], &g->by_name[i], g) == 0)
			return fault_set(
				f, SAKIORI_EFORMAT, "tensor %s stands there twice", g->tensors[g->by_name[i]].name);
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct gguf_tensor *left = *(const struct gguf_tensor *const *)a,
				 *right = *(const struct gguf_tensor *const *)b;
	return (left->offset > right->offset) - (left->offset < right->offset);
}

static uint64_t align(uint64_t v, uint64_t alignment)
{
	return (v + alignment - 1) / alignment * alignment;
}

/* One tensor against the one before it; `end` is where that one's padding ends, counted from the data's start. */
static int check_place(const struct gguf *g, const struct gguf_tensor *t, const struct gguf_tensor *before,
	uint64_t end, uint64_t data_bytes, struct fault *f)
{
	if (t->offset % g->alignment != 0)
		return fault_set(f, SAKIORI_EFORMAT,
			"tensor %s begins at offset %" PRIu64 ", not a multiple of the alignment %" PRIu32, t->name,
			t->offset, g->alignment);
	if (before != NULL && t->offset < before->offset + before->bytes)
		return fault_set(f, SAKIORI_EFORMAT, "tensors %s and %s overlap at offset %" PRIu64, before->name,
			t->name, t->offset);
	if (t->offset > data_bytes || t->bytes > data_bytes - t->offset)
		return fault_set(f, SAKIORI_EFORMAT,
			"tensor %s takes %" PRIu64 " bytes at offset %" PRIu64 " of %" PRIu64
			": the file is truncated or damaged; copy or download it again",
			t->name, t->bytes, t->offset, data_bytes);
	if (t->offset != end)
		return fault_set(f, SAKIORI_EFORMAT, "%" PRIu64 " bytes before tensor %s belong to no tensor",
			t->offset - end, t->name);
	return 0;
}

/* Sorted by offset, the tensors must follow one another with nothing but alignment between them, from the data's start
 * to the file's end. */
static int check_tiling(const struct gguf *g, uint64_t data, const struct gguf_tensor **sorted, struct fault *f)
{
	uint64_t data_bytes = g->file_size > data ? g->file_size - data : 0, end = 0;
	qsort(sorted, g->tensor_count, sizeof *sorted, by_offset);
	for (size_t i = 0; i < g->tensor_count; i++) {
		int rc = check_place(g, sorted[i], i > 0 ? sorted[i - 1] : NULL, end, data_bytes, f);
		if (rc != 0)
			return rc;
		end = align(sorted[i]->offset + sorted[i]->bytes, g->alignment);
	}
	if (data_bytes > end)
		return fault_set(f, SAKIORI_EFORMAT, "%" PRIu64 " bytes after the last tensor belong to no tensor",
			data_bytes - end);
	return 0;
}

int gguf_take_tensors(struct cursor *c, uint64_t count)
{
	struct gguf *g = c->g;
	if (count > TENSORS_LIMIT || count > (g->file_size - c->at) / TENSOR_BYTES_LEAST)
		return fault_set(c->f, SAKIORI_EFORMAT,
			"the header promises %" PRIu64 " tensors, more than %s; the file is damaged", count,
			count > TENSORS_LIMIT ? "the limit of 65536" : "its size can hold");
	if (load_table(c, count) != 0)
		return c->rc;
	_Static_assert(sizeof *g->tensors < 2 * TENSOR_BYTES_LEAST, "the table stays below twice its size in the file");
	g->tensors = calloc((size_t)count + 1, sizeof *g->tensors);
	if (g->tensors == NULL)
		return fault_set(c->f, SAKIORI_ENOMEM, "no memory for %" PRIu64 " tensors", count);
	for (uint64_t i = 0; i < count && c->rc == 0; i++)
		take_tensor(c, &g->tensors[i]);
	if (c->rc != 0)
		return c->rc;
	g->tensor_count = (size_t)count;
	int rc = index_names(g, c->f);
	if (rc != 0)
		return rc;
	const struct gguf_tensor **sorted = calloc(g->tensor_count + 1, sizeof *sorted);
	if (sorted == NULL)
		return fault_set(c->f, SAKIORI_ENOMEM, "no memory for %zu tensors", g->tensor_count);
	for (size_t i = 0; i < g->tensor_count; i++)
		sorted[i] = &g->tensors[i];
	uint64_t data = align(c->at, g->alignment);
	rc = check_tiling(g, data, sorted, c->f);
	free(sorted);
	for (size_t i = 0; rc == 0 && i < g->tensor_count; i++)
		g->tensors[i].offset += data;
	return rc;
}

size_t gguf_tensor_count(const struct gguf *g)
{
	return g->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
	return &g->tensors[i];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
	size_t low = 0, high = g->tensor_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct gguf_tensor *t = &g->tensors[g->by_name[middle]];
		int order = strcmp(t->name, name);
		if (order == 0)
			return t;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}
