/* SPDX-License-Identifier: Apache-2.0 */
/* The small files of a Hugging Face model folder, made of what a GGUF says about itself. Any thread. Blocking, so never on the loop. */
#pragma once
#include "base/err.h"
#include "formats/model_file.h"

/* Writes config.json (weights of `type`: F32, F16 or BF16), generation_config.json, tokenizer.json, tokenizer_config.json and, where the model has a chat
 * template, chat_template.jinja into an existing folder. SAKIORI_EUNSUPPORTED for a model that is no GGUF, for a tokenizer that is not known here and for
 * rope scaling that config.json has no words for. */
int hugging_face_describe(const struct model_file *model, enum stored_type type, const char *folder, struct fault *f);
