/* SPDX-License-Identifier: Apache-2.0 */
/* A folder as Hugging Face's libraries write it -> a tokenizer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "formats/json.h"
#include "text/tokenizer_private.h"

/* Of tokenizer.json (the largest in use have 35 MiB; parsed it takes six times that), and of each other file. */
enum { TOKENIZER_LIMIT = 64 << 20, OTHER_LIMIT = 16 << 20 };

struct folder {
	const char *path;
	char name[4096]; /* of the file at hand */
};

/* Sets f->name; whether such a file is there. */
static bool has(struct folder *folder, const char *file)
{
	return snprintf(folder->name, sizeof folder->name, "%s/%s", folder->path, file) < (int)sizeof folder->name &&
	       access(folder->name, F_OK) == 0;
}

static int read_optional(struct folder *folder, const char *file, json_t **out, struct fault *f)
{
	*out = NULL;
	return has(folder, file) ? json_parse_file(folder->name, OTHER_LIMIT, out, f) : 0;
}

/* tokenizer_config.json's "chat_template": a text, or a list of {"name", "template"} of which "default" counts. */
static int read_config_template(struct tokenizer *t, const json_t *config, struct fault *f)
{
	const json_t *value = json_object_get(config, "chat_template"), *entry;
	size_t i;
	if (json_is_array(value)) {
		const json_t *chosen = NULL;
		json_array_foreach(value, i, entry)
		{
			const char *name = json_string_value(json_object_get(entry, "name"));
			if (name != NULL && strcmp(name, "default") == 0)
				chosen = json_object_get(entry, "template");
		}
		value = chosen;
	}
	if (value == NULL || json_is_null(value))
		return 0;
	if (!json_is_string(value))
		return fault_set(
			f, SAKIORI_EFORMAT, "\"chat_template\" is %s, expected a string or a list", json_kind(value));
	tokenizer_set_template(t, json_string_value(value), json_string_length(value));
	return 0;
}

static int read_template(struct folder *folder, struct tokenizer *t, const json_t *config, struct fault *f)
{
	if (!has(folder, "chat_template.jinja"))
		return read_config_template(t, config, f);
	uint8_t *text;
	size_t size;
	int rc = file_read(folder->name, OTHER_LIMIT, &text, &size, f);
	if (rc == 0) {
		tokenizer_set_template(t, (const char *)text, size);
		free(text);
	}
	return rc;
}

/* eos_token_id, an integer or a list whose first one counts, where no eos_token is named. */
static int read_eos(struct folder *folder, struct tokenizer *t, const char *file, struct fault *f)
{
	if (t->eos >= 0)
		return 0;
	json_t *config;
	int rc = read_optional(folder, file, &config, f);
	if (rc != 0)
		return rc;
	const json_t *id = json_object_get(config, "eos_token_id");
	if (json_is_array(id))
		id = json_array_get(id, 0);
	if (id != NULL && !json_is_null(id)) {
		if (!json_is_integer(id) || json_integer_value(id) < 0 ||
			(uint64_t)json_integer_value(id) >= tokenizer_size(t))
			rc = fault_set(f, SAKIORI_EFORMAT,
				"%s: \"eos_token_id\" is no token of the vocabulary, which has %zu", folder->name,
				tokenizer_size(t));
		else
			t->eos = (int32_t)json_integer_value(id);
	}
	json_decref(config);
	return rc;
}

static int hash_part(struct folder *folder, const char *file, size_t limit, struct hash *h, struct fault *f)
{
	uint8_t *data = NULL;
	size_t size = 0;
	int rc = has(folder, file) ? file_read(folder->name, limit, &data, &size, f) : 0;
	const uint64_t bytes = size;
	hash_update(h, &bytes, sizeof bytes);
	if (rc == 0 && size > 0)
		hash_update(h, data, size);
	free(data);
	return rc;
}

/* What was read of the two files, and what came out of the others. */
static int set_identity(struct folder *folder, struct tokenizer *t, struct fault *f)
{
	const int32_t named[] = {t->bos, t->bos_name, t->eos, t->added_eos};
	struct hash h;
	hash_init(&h, "sakiori-tokenize");
	int rc = hash_part(folder, "tokenizer.json", TOKENIZER_LIMIT, &h, f);
	if (rc == 0)
		rc = hash_part(folder, "tokenizer_config.json", OTHER_LIMIT, &h, f);
	hash_update(&h, named, sizeof named);
	hash_final(&h, t->identity);
	return rc;
}

int tokenizer_from_folder(struct tokenizer **out, const char *directory, struct fault *f)
{
	*out = NULL;
	struct folder folder = {.path = directory};
	json_t *root, *config = NULL;
	if (!has(&folder, "tokenizer.json"))
		return fault_set(f, SAKIORI_ENOTFOUND,
			"%s has no tokenizer.json; transformers writes one with AutoTokenizer.save_pretrained",
			directory);
	int rc = json_parse_file(folder.name, TOKENIZER_LIMIT, &root, f);
	if (rc != 0)
		return rc;
	rc = read_optional(&folder, "tokenizer_config.json", &config, f);
	struct tokenizer *t = NULL;
	if (rc == 0) {
		rc = tokenizer_from_json(&t, root, config, f);
		if (rc != 0)
			fault_wrap(f, "%s/tokenizer.json", directory);
	}
	json_decref(root);
	if (rc == 0)
		rc = read_template(&folder, t, config, f);
	if (rc == 0)
		rc = read_eos(&folder, t, "generation_config.json", f);
	if (rc == 0)
		rc = read_eos(&folder, t, "config.json", f);
	if (rc == 0)
		rc = set_identity(&folder, t, f);
	json_decref(config);
	if (rc != 0)
		tokenizer_free(t);
	else
		*out = t;
	return rc;
}
