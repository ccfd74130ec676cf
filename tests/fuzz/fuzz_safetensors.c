/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a safetensors file: opened, and every tensor read. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	struct safetensors *s;
	struct fault f;
	if (safetensors_open_fd(fd, "fuzz", &s, &f) != 0)
		return 0;
	uint64_t total = 0;
	for (size_t i = 0; i < safetensors_count(s); i++) {
		const struct safetensors_tensor *t = safetensors_at(s, i);
		total += t->bytes;
		if (total > size || safetensors_find(s, t->name) != t)
			abort(); /* tensors of a file that opened lie in it side by side, under names of their own */
		uint8_t *bytes = malloc((size_t)t->bytes + 1);
		if (bytes == NULL || safetensors_read(s, t, 0, (size_t)t->bytes, bytes, &f) != 0)
			abort();
		free(bytes);
	}
	for (size_t i = 0; i < safetensors_note_count(s); i++)
		if (strcmp(safetensors_note(s, safetensors_note_at(s, i).key), safetensors_note_at(s, i).value) != 0)
			abort();
	safetensors_close(s);
	return 0;
}
