/* SPDX-License-Identifier: Apache-2.0 */
/* A control for confidential.py: the messages that carry a payload, as they are before net/peer seals them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "net/wire.h"

int main(int argc, char **argv)
{
	struct fault f = {0};
	uint8_t *payload;
	size_t size;
	if (argc != 2 || file_read(argv[1], (size_t)1 << 30, &payload, &size, &f) != 0) {
		fprintf(stderr, "usage: unsealed PAYLOAD-FILE %s\n", f.text);
		return 2;
	}
	struct writer out;
	writer_init(&out);
	for (size_t at = 0; at < size; at += WIRE_CHUNK_MAX) {
		struct wire_message message = {.kind = WIRE_CHUNK};
		message.chunk.sequence = 1;
		message.chunk.offset = at;
		message.chunk.data = payload + at; /* borrowed */
		message.chunk.size = size - at < WIRE_CHUNK_MAX ? size - at : WIRE_CHUNK_MAX;
		if (wire_encode(&message, &out, &f) != 0) {
			fprintf(stderr, "unsealed: %s\n", f.text);
			return 1;
		}
	}
	fwrite(out.data, 1, out.size, stdout);
	writer_fini(&out);
	free(payload);
	return 0;
}
