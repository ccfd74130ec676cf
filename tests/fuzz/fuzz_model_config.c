/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as config.json and, behind a NUL, model.safetensors.index.json. */
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "formats/model_file_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool well)
{
	if (!well)
		abort();
}

static void try_config(const uint8_t *data, size_t size)
{
	struct model_file mf = {0};
	struct fault f;
	json_t *config;
	const struct architecture *architecture;
	int tied = -1;
	if (json_parse("config.json", 1, data, size, &config, &f) != 0)
		return;
	int rc = model_config_read(config, &mf.shape, &architecture, &tied, &f);
	json_decref(config);
	mf.shape.tied = tied == 1;
	if (rc == 0 && model_file_expect(&mf, &f) == 0)
		for (size_t i = 0; i < mf.count; i++) {
			const struct model_tensor *t = &mf.entries[i].public;
			must(t->rows > 0 && t->cols > 0 && (i == 0 || strcmp(mf.entries[i - 1].name, t->name) < 0));
		}
	free(mf.entries);
}

static void try_index(const uint8_t *data, size_t size)
{
	struct fault f;
	json_t *index;
	const char **files;
	size_t count;
	if (json_parse("index", 1, data, size, &index, &f) != 0)
		return;
	if (model_index_files(index, &files, &count, &f) == 0)
		for (size_t i = 0; i < count; i++)
			must(strchr(files[i], '/') == NULL && files[i][0] != '.' &&
				(i == 0 || strcmp(files[i - 1], files[i]) < 0));
	free(files);
	json_decref(index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *end = size > 0 ? memchr(data, 0, size) : NULL;
	try_config(data, end != NULL ? (size_t)(end - data) : size);
	if (end != NULL)
		try_index(end + 1, size - (size_t)(end + 1 - data));
	return 0;
}
