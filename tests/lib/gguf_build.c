/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/gguf_build.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void build_header(struct writer *w, uint32_t version, uint64_t tensors, uint64_t keys)
{
	write_bytes(w, "GGUF", 4);
	write_u32(w, version);
	write_u64(w, tensors);
	write_u64(w, keys);
}

void build_text(struct writer *w, const char *text)
{
	write_u64(w, strlen(text));
	write_bytes(w, text, strlen(text));
}

void build_key(struct writer *w, const char *key, uint32_t type)
{
	build_text(w, key);
	write_u32(w, type);
}

void build_key_u32(struct writer *w, const char *key, uint32_t value)
{
	build_key(w, key, BUILD_U32);
	write_u32(w, value);
}

void build_key_f32(struct writer *w, const char *key, float value)
{
	build_key(w, key, BUILD_F32);
	write_f32(w, value);
}

void build_key_text(struct writer *w, const char *key, const char *value)
{
	build_key(w, key, BUILD_TEXT);
	build_text(w, value);
}

void build_tensor(struct writer *w, const char *name, uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset)
{
	build_text(w, name);
	write_u32(w, rows == 0 ? 1 : 2);
	write_u64(w, cols);
	if (rows != 0)
		write_u64(w, rows);
	write_u32(w, type);
	write_u64(w, offset);
}

void build_pad(struct writer *w, size_t alignment)
{
	while (w->size % alignment != 0)
		write_u8(w, 0);
}

int build_file(const void *data, size_t size)
{
	int fd = memfd_create("built", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	return fd;
}
