/* SPDX-License-Identifier: Apache-2.0 */
/* A byte-level BPE as Hugging Face's tokenizer.json. Pure function; any thread. */
#pragma once
#include "base/bytes.h"
#include "base/err.h"
#include "text/tokenizer.h"

/* Appends the file to an empty writer: of a source that tokenizer_new accepts, a tokenizer that encodes and decodes as that one does. SAKIORI_EFORMAT where
 * a token is not UTF-8 or stands there twice. */
int tokenizer_json_write(const struct tokenizer_source *source, struct writer *out, struct fault *f);
