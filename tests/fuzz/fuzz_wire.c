/* SPDX-License-Identifier: Apache-2.0 */
/* What decodes must encode again, and to something that decodes equal. */
#include <stdlib.h>
#include <string.h>

#include "net/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Encodes twice, because a message that came in may have spelled its fields in another order. */
static void check_again(const struct wire_message *message)
{
	struct writer first, second;
	struct wire_message back;
	writer_init(&first);
	writer_init(&second);
	if (wire_encode(message, &first, NULL) != 0 || first.size > WIRE_MESSAGE_MAX)
		abort();
	if (wire_decode(first.data, first.size, &back, NULL) != 0 || wire_encode(&back, &second, NULL) != 0)
		abort();
	if (first.size != second.size || memcmp(first.data, second.data, first.size) != 0)
		abort();
	wire_message_free(&back);
	writer_fini(&first);
	writer_fini(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_message message;
	struct fault f;
	if (wire_decode(data, size, &message, &f) == 0) {
		check_again(&message);
		wire_message_free(&message);
	}
	return 0;
}
