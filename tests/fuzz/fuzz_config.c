/* SPDX-License-Identifier: Apache-2.0 */
/* A configuration file, read, checked, written and read back. libconfig keeps what it refuses to itself: nothing is
 * printed. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > CONFIG_MAX_BYTES)
		return 0;
	char *text = must_alloc(size + 1);
	if (size > 0)
		memcpy(text, data, size);
	text[size] = 0;
	struct config c;
	struct fault f = {0};
	int rc = config_parse(text, size, "/etc/sakiori/sakiorid.conf", &c, &f);
	free(text);
	if (rc != 0 && (rc != SAKIORI_ECONFIG || strncmp(f.text, "/etc/sakiori/sakiorid.conf:", 27) != 0))
		abort();
	if (rc == 0) {
		char *written = NULL;
		size_t written_size;
		FILE *stream = open_memstream(&written, &written_size);
		if (stream == NULL || config_write_commented(stream, &c) != 0)
			abort();
		fclose(stream);
		struct config back;
		struct config_change *changes = NULL;
		if (config_parse(written, written_size, "/etc/sakiori/sakiorid.conf", &back, &f) != 0 ||
			config_diff(&c, &back, &changes) != 0)
			abort();
		free(changes);
		config_fini(&back);
		free(written);
	}
	config_fini(&c);
	return 0;
}
