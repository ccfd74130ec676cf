/* SPDX-License-Identifier: Apache-2.0 */
/* Where a model's tokenizer comes from: the one place that knows of containers. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "text/tokenizer.h"

static int none(const char *path, struct fault *f)
{
	return fault_set(f, SAKIORI_ENOTFOUND,
		"%s brings no tokenizer: use a GGUF file, a folder with a tokenizer.json, or rows of \"input_ids\"",
		path);
}

static bool in_gguf(const struct gguf *metadata)
{
	return metadata != NULL && gguf_has(metadata, "tokenizer.ggml.model");
}

static bool in_folder(const char *path)
{
	char name[4096];
	struct stat st;
	return snprintf(name, sizeof name, "%s/tokenizer.json", path) < (int)sizeof name && stat(name, &st) == 0;
}

bool tokenizer_in_model(const struct model_file *mf)
{
	return in_gguf(model_file_metadata(mf)) || in_folder(model_file_path(mf));
}

int tokenizer_of_model(struct tokenizer **out, const struct model_file *mf, struct fault *f)
{
	*out = NULL;
	if (in_gguf(model_file_metadata(mf)))
		return tokenizer_from_gguf(out, model_file_metadata(mf), f);
	return in_folder(model_file_path(mf)) ? tokenizer_from_folder(out, model_file_path(mf), f)
					      : none(model_file_path(mf), f);
}

int tokenizer_of_path(struct tokenizer **out, const char *path, struct fault *f)
{
	*out = NULL;
	struct stat st;
	if (in_folder(path))
		return tokenizer_from_folder(out, path, f);
	if (strncmp(path, "shape:", 6) == 0 || (stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
		return none(path, f);
	struct gguf *gguf = NULL;
	int rc = gguf_open(path, &gguf, f);
	if (rc == 0)
		rc = in_gguf(gguf) ? tokenizer_from_gguf(out, gguf, f) : none(path, f);
	gguf_close(gguf);
	return rc;
}
