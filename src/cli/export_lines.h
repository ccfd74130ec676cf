/* SPDX-License-Identifier: Apache-2.0 */
/* What to type into other programs so that they load what `sakiori export` wrote. Main thread only. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum export_form { EXPORT_PEFT, EXPORT_GGUF_ADAPTER, EXPORT_FOLDER, EXPORT_GGUF_MODEL };

struct export_lines {
	enum export_form form;
	const char *out;   /* absolute */
	const char *model; /* the base's file or folder, absolute */
	bool model_is_gguf;
	const char *base_name; /* what the adapter calls its base; NULL: nothing */
	uint32_t rank;
};

/* A new object: transformers, vllm, llama_cpp, ollama, each a line, or null where the program cannot load this form. */
json_t *export_lines(const struct export_lines *l);
