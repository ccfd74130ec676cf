/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as an adapter's folder: the configuration, a NUL, and the tensors behind it. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/peft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[] = "/tmp/sakiori-fuzz-XXXXXX";

static void remove_all(void)
{
	static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors"};
	char path[96];
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		unlink(path);
	}
	rmdir(folder);
}

static void put(const char *name, const uint8_t *data, size_t size)
{
	char path[96];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size || close(fd) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool made;
	if (!made && (!mkdtemp(folder) || atexit(remove_all) != 0))
		abort();
	made = true;
	const uint8_t *nul = memchr(data, 0, size);
	size_t config = nul ? (size_t)(nul - data) : size, rest = nul ? size - config - 1 : 0;
	put("adapter_config.json", data, config);
	put("adapter_model.safetensors", nul ? nul + 1 : data, rest);
	struct peft_adapter *a;
	struct fault f;
	if (peft_read(folder, &a, &f) != 0)
		return 0;
	float sum = 0;
	for (size_t i = 0; i < a->count; i++) {
		const struct peft_matrix *m = &a->matrices[i];
		if (m->rank != a->matrices[0].rank || m->rank == 0)
			abort(); /* one rank for all, whatever the patterns say */
		for (size_t k = 0; k < (size_t)m->rank * m->in; k++)
			sum += m->a[k];
		for (size_t k = 0; k < (size_t)m->rank * m->out; k++)
			sum += m->b[k];
	}
	volatile float read = sum;
	(void)read;
	peft_free(a);
	return 0;
}
