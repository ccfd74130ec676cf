/* SPDX-License-Identifier: Apache-2.0 */
/* The two commonest kinds of row, {"text"} and {"prompt", "completion"} with nothing else in them, read without building a JSON tree: five times as
 * fast. Whatever else a line may be, a faulty one above all, is left to jansson, which so words every error. Any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/bytes.h"
#include "text/tokenizer.h"

struct flat_row {
	struct text_span prompt;  /* data NULL: a row of one text */
	struct text_span learned; /* the completion, or the text */
};

/* Reads the line if it is such a row: strict JSON, the same strings that jansson would give. They point into *memory, which is emptied first.
 * false says nothing about the line. */
bool flat_row_read(struct flat_row *out, struct text_span line, struct writer *memory);
