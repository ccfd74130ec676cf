/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a GGUF file: opened, every getter tried on a few keys, every tensor read. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_key(const struct gguf *g, const char *key)
{
	struct fault f;
	uint32_t u32;
	uint64_t u64;
	float f32, *f32s;
	bool yes;
	int32_t *i32s;
	size_t n, sum = 0;
	struct gguf_text text, *texts;
	gguf_get_u32(g, key, &u32, &f);
	gguf_get_u64(g, key, &u64, &f);
	gguf_get_f32(g, key, &f32, &f);
	gguf_get_bool(g, key, &yes, &f);
	if (gguf_get_text(g, key, &text, &f) == 0)
		for (size_t i = 0; i < text.size; i++)
			sum += (uint8_t)text.data[i];
	if (gguf_get_texts(g, key, &texts, &n, &f) == 0)
		for (size_t i = 0; i < n; i++)
			sum += texts[i].size > 0 ? (uint8_t)texts[i].data[texts[i].size - 1] : 0;
	free(texts);
	gguf_get_f32s(g, key, &f32s, &n, &f);
	free(f32s);
	gguf_get_i32s(g, key, &i32s, &n, &f);
	free(i32s);
	if (sum == SIZE_MAX)
		abort(); /* keeps the reads above */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	struct gguf *g;
	struct fault f;
	if (gguf_open_fd(fd, "fuzz", &g, &f) != 0)
		return 0;
	static const char *const keys[] = {
		"general.architecture", "general.alignment", "a", "b", "tokenizer.ggml.tokens"};
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		try_key(g, keys[i]);
	for (size_t i = 0; i < gguf_tensor_count(g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		if (t->bytes > size || gguf_tensor_find(g, t->name) != t)
			abort(); /* a tensor of a file that opened lies in it, under a name of its own */
		uint8_t *bytes = malloc((size_t)t->bytes);
		size_t values = (size_t)(t->bytes / stored_type_block_bytes(t->type) * stored_type_block(t->type));
		float *decoded = malloc(values * sizeof *decoded);
		if (bytes == NULL || decoded == NULL || gguf_read(g, t, 0, (size_t)t->bytes, bytes, &f) != 0)
			abort();
		stored_type_decode(t->type, bytes, values, decoded);
		free(decoded);
		free(bytes);
	}
	gguf_close(g);
	return 0;
}
