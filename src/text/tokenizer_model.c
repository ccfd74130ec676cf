/* SPDX-License-Identifier: Apache-2.0 */
/* Where a model's tokenizer comes from: the one place that knows of containers. */
#include <string.h>
#include <sys/stat.h>

#include "text/tokenizer.h"

static int none(const char *path, struct fault *f)
{
	return fault_set(f, SAKIORI_ENOTFOUND,
		"%s brings no tokenizer that is read: use a GGUF file, or rows of \"input_ids\"", path);
}

static bool in_gguf(const struct gguf *metadata)
{
	return metadata != NULL && gguf_has(metadata, "tokenizer.ggml.model");
}

bool tokenizer_in_model(const struct model_file *mf)
{
	return in_gguf(model_file_metadata(mf));
}

int tokenizer_of_model(struct tokenizer **out, const struct model_file *mf, struct fault *f)
{
	*out = NULL;
	return tokenizer_in_model(mf) ? tokenizer_from_gguf(out, model_file_metadata(mf), f)
				      : none(model_file_path(mf), f);
}

int tokenizer_of_path(struct tokenizer **out, const char *path, struct fault *f)
{
	*out = NULL;
	struct stat st;
	if (strncmp(path, "shape:", 6) == 0 || (stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
		return none(path, f);
	struct gguf *gguf = NULL;
	int rc = gguf_open(path, &gguf, f);
	if (rc == 0)
		rc = in_gguf(gguf) ? tokenizer_from_gguf(out, gguf, f) : none(path, f);
	gguf_close(gguf);
	return rc;
}
