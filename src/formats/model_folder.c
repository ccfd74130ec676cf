/* SPDX-License-Identifier: Apache-2.0 */
/* A Hugging Face folder. Happy path: config.json gives the shape, the tensors lie in model.safetensors or in the files that
 * model.safetensors.index.json names. Failure modes: an index that lies about its files, tensors that are missing, there
 * twice, of other sizes or types, or of no use. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "formats/json.h"
#include "formats/model_file_private.h"

#define CONFIG_LIMIT ((size_t)1 << 20)
#define INDEX_LIMIT ((size_t)16 << 20)
#define HEADERS_LIMIT ((uint64_t)64 << 20) /* of all files together, since they stay in memory */
#define SHOWN 100                          /* of a tensor's name */

/* A tensor of some file. */
struct place {
	const struct safetensors_tensor *tensor;
	const struct safetensors *shard;
	const char *file; /* its name, for sentences */
	bool used;
};

/* All that the files hold, by name. */
struct places {
	struct place *at;
	size_t count;
};

static char *join(const char *directory, const char *name)
{
	size_t size = strlen(directory) + strlen(name) + 2;
	char *path = must_alloc(size);
	snprintf(path, size, "%s/%s", directory, name);
	return path;
}

static bool exists(const struct model_file *mf, const char *name)
{
	char *path = join(mf->path, name);
	bool there = access(path, F_OK) == 0;
	free(path);
	return there;
}

static int read_json(const struct model_file *mf, const char *name, size_t limit, json_t **out, struct fault *f)
{
	char *path = join(mf->path, name);
	int rc = json_parse_file(path, limit, out, f);
	free(path);
	return rc;
}

/* ---- files ---- */

/* *headers: bytes of the headers so far. */
static int open_shard(struct model_file *mf, const char *name, uint64_t *headers, struct fault *f)
{
	char *path = join(mf->path, name);
	struct safetensors **s = &mf->shards[mf->shard_count];
	int rc = safetensors_open(path, s, f);
	mf->shard_count += rc == 0;
	if (rc == 0 && safetensors_count(*s) == 0)
		rc = fault_set(f, SAKIORI_EFORMAT, "%s holds no tensor", path);
	if (rc == 0)
		*headers += safetensors_at(*s, 0)->offset;
	if (rc == 0 && *headers > HEADERS_LIMIT)
		rc = fault_set(f, SAKIORI_ELIMIT,
			"%s: the headers up to this file have %" PRIu64 " bytes; at most %" PRIu64 " are read", path,
			*headers, HEADERS_LIMIT);
	free(path);
	return rc;
}

static int by_name(const void *a, const void *b)
{
	const struct place *left = a, *right = b;
	return strcmp(left->tensor->name, right->tensor->name);
}

/* What all open files hold. */
static int list_places(const struct model_file *mf, const char *const *files, struct places *out, struct fault *f)
{
	size_t total = 0;
	for (size_t i = 0; i < mf->shard_count; i++)
		total += safetensors_count(mf->shards[i]);
	out->at = calloc(total + 1, sizeof *out->at);
	if (out->at == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for %zu tensors", total);
	for (size_t i = 0; i < mf->shard_count; i++)
		for (size_t k = 0; k < safetensors_count(mf->shards[i]); k++)
			out->at[out->count++] = (struct place){
				.tensor = safetensors_at(mf->shards[i], k),
				.shard = mf->shards[i],
				.file = files[i],
			};
	qsort(out->at, out->count, sizeof *out->at, by_name);
	for (size_t i = 1; i < out->count; i++)
		if (by_name(&out->at[i - 1], &out->at[i]) == 0)
			return fault_set(f, SAKIORI_EFORMAT, "tensor %.*s is in %s and in %s", SHOWN,
				out->at[i].tensor->name, out->at[i - 1].file, out->at[i].file);
	return 0;
}

static struct place *find(const struct places *p, const char *name)
{
	struct safetensors_tensor tensor = {.name = name};
	struct place key = {.tensor = &tensor};
	return bsearch(&key, p->at, p->count, sizeof *p->at, by_name);
}

/* Every tensor lies where the index says, and the index knows of every tensor. */
static int check_index(const json_t *index, const struct places *p, struct fault *f)
{
	const json_t *map = json_object_get(index, "weight_map");
	const char *name;
	json_t *file;
	json_object_foreach((json_t *)map, name, file)
	{
		const struct place *place = find(p, name);
		char shown[SHOWN + 1]; /* unlike the files' own names, the index's are unchecked */
		if (place == NULL) {
			snprintf(shown, sizeof shown, "%s", name);
			for (char *c = shown; *c != '\0'; c++)
				if (*c < 0x20 || *c > 0x7e)
					*c = '?';
			return fault_set(f, SAKIORI_EFORMAT, "the index says that tensor %s is in %s; it is in no file",
				shown, json_string_value(file));
		}
		if (strcmp(place->file, json_string_value(file)) != 0)
			return fault_set(f, SAKIORI_EFORMAT, "the index says that tensor %.*s is in %s; it is in %s",
				SHOWN, place->tensor->name, json_string_value(file), place->file);
	}
	for (size_t i = 0; i < p->count; i++)
		if (json_object_get(map, p->at[i].tensor->name) == NULL)
			return fault_set(f, SAKIORI_EFORMAT, "tensor %.*s of %s is not in the index", SHOWN,
				p->at[i].tensor->name, p->at[i].file);
	return 0;
}

static int open_sharded(struct model_file *mf, struct places *out, struct fault *f)
{
	static const char name[] = "model.safetensors.index.json";
	json_t *index;
	const char **files;
	size_t count;
	uint64_t headers = 0;
	int rc = read_json(mf, name, INDEX_LIMIT, &index, f);
	if (rc != 0)
		return rc;
	rc = model_index_files(index, &files, &count, f);
	if (rc != 0)
		fault_wrap(f, "%s/%s", mf->path, name);
	mf->shards = rc == 0 ? must_calloc(count, sizeof(struct safetensors *)) : NULL;
	for (size_t i = 0; i < count && rc == 0; i++)
		rc = open_shard(mf, files[i], &headers, f);
	if (rc == 0) {
		rc = list_places(mf, files, out, f);
		if (rc == 0)
			rc = check_index(index, out, f);
		if (rc != 0)
			fault_wrap(f, "%s", mf->path);
	}
	for (size_t i = 0; i < out->count; i++)
		out->at[i].file = NULL; /* the index's own text */
	free(files);
	json_decref(index);
	return rc;
}

/* transformers, too, takes the one file where there is one. */
static int open_files(struct model_file *mf, struct places *out, struct fault *f)
{
	static const char *const single[] = {"model.safetensors"};
	if (exists(mf, single[0])) {
		mf->shards = must_calloc(1, sizeof(struct safetensors *));
		uint64_t headers = 0;
		int rc = open_shard(mf, single[0], &headers, f);
		return rc != 0 ? rc : list_places(mf, single, out, f);
	}
	if (exists(mf, "model.safetensors.index.json"))
		return open_sharded(mf, out, f);
	return fault_set(f, SAKIORI_ENOTFOUND,
		"%s holds neither model.safetensors nor model.safetensors.index.json; weights in any other form are "
		"not read",
		mf->path);
}

/* ---- tensors ---- */

static bool stored_as(enum safetensors_type type, enum stored_type *out)
{
	switch (type) {
	case SAFETENSORS_F32:
		*out = STORED_F32;
		return true;
	case SAFETENSORS_F16:
		*out = STORED_F16;
		return true;
	case SAFETENSORS_BF16:
		*out = STORED_BF16;
		return true;
	default:
		return false;
	}
}

/* "[5, 8]" */
static void print_shape(const struct safetensors_tensor *t, char out[static 200])
{
	size_t n = (size_t)snprintf(out, 200, "[");
	for (unsigned i = 0; i < t->dimensions; i++)
		n += (size_t)snprintf(out + n, 200 - n, "%s%" PRIu64, i > 0 ? ", " : "", t->shape[i]);
	snprintf(out + n, 200 - n, "]");
}

static int bind(const struct places *p, const struct architecture *a, struct model_entry *e, struct fault *f)
{
	struct place *place = find(p, e->name);
	if (place == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "tensor %s is missing", e->name);
	const struct safetensors_tensor *t = place->tensor;
	const struct model_tensor *want = &e->public;
	bool fits = want->vector ? t->dimensions == 1 && t->shape[0] == want->cols
				 : t->dimensions == 2 && t->shape[0] == want->rows && t->shape[1] == want->cols;
	if (!fits) {
		char found[200];
		print_shape(t, found);
		if (want->vector)
			return fault_set(f, SAKIORI_EFORMAT, "tensor %s has shape %s, but config.json asks for [%zu]",
				e->name, found, want->cols);
		return fault_set(f, SAKIORI_EFORMAT, "tensor %s has shape %s, but config.json asks for [%zu, %zu]",
			e->name, found, want->rows, want->cols);
	}
	if (!stored_as(t->type, &e->source_type))
		return fault_set(f, SAKIORI_EUNSUPPORTED, "tensor %s is of type %s; F32, F16 and BF16 are read",
			e->name, safetensors_type_name(t->type));
	e->public.type = want->vector ? STORED_F32 : e->source_type;
	e->shifted = a->shifted_norms && want->vector;
	e->shard = place->shard;
	e->part = t;
	place->used = true;
	return 0;
}

/* What transformers does not load either: the head of a model whose embedding is its head, and tables that older versions
 * wrote beside the weights. */
static bool ignored(const struct model_shape *s, const char *name)
{
	static const char table[] = ".self_attn.rotary_emb.inv_freq";
	size_t n = strlen(name), end = sizeof table - 1;
	return (s->tied && strcmp(name, "lm_head.weight") == 0) || (n > end && strcmp(name + n - end, table) == 0);
}

/* A tensor that nothing reads would be left out of the arithmetic in silence: a bias, an expert. */
static int refuse_the_rest(const struct model_file *mf, const struct places *p, struct fault *f)
{
	for (size_t i = 0; i < p->count; i++)
		if (!p->at[i].used && !ignored(&mf->shape, p->at[i].tensor->name))
			return fault_set(f, SAKIORI_EUNSUPPORTED,
				"tensor %.*s has no place in a %s of this shape; it is not supported", SHOWN,
				p->at[i].tensor->name, mf->shape.architecture);
	return 0;
}

/* ---- the folder ---- */

/* The folder's own name; "." and the like say nothing. */
static void name_model(struct model_file *mf)
{
	size_t end = strlen(mf->path);
	while (end > 0 && mf->path[end - 1] == '/')
		end--;
	size_t begin = end;
	while (begin > 0 && mf->path[begin - 1] != '/')
		begin--;
	size_t n = end - begin < sizeof mf->shape.name ? end - begin : sizeof mf->shape.name - 1;
	bool says = false;
	for (size_t i = 0; i < n; i++) {
		char c = mf->path[begin + i];
		mf->shape.name[i] = c >= 0x20 && c <= 0x7e ? c : '?';
		says |= c != '.';
	}
	mf->shape.name[says ? n : 0] = '\0';
}

static int read_config(struct model_file *mf, const struct architecture **a, int *tied_by_config, struct fault *f)
{
	json_t *config;
	if (!exists(mf, "config.json"))
		return fault_set(
			f, SAKIORI_ENOTFOUND, "%s is not the folder of a model: it holds no config.json", mf->path);
	int rc = read_json(mf, "config.json", CONFIG_LIMIT, &config, f);
	if (rc != 0)
		return rc;
	rc = model_config_read(config, &mf->shape, a, tied_by_config, f);
	if (rc != 0)
		fault_wrap(f, "%s/config.json", mf->path);
	json_decref(config);
	return rc;
}

int model_folder_open(struct model_file *mf, struct fault *f)
{
	int tied_by_config;
	const struct architecture *a;
	struct places places = {0};
	int rc = read_config(mf, &a, &tied_by_config, f);
	if (rc == 0)
		rc = open_files(mf, &places, f);
	if (rc != 0) {
		free(places.at);
		return rc;
	}
	name_model(mf);
	mf->shape.tied = tied_by_config >= 0 ? tied_by_config : a->tied || find(&places, "lm_head.weight") == NULL;
	rc = model_file_expect(mf, f);
	for (size_t i = 0; rc == 0 && i < mf->count; i++)
		rc = bind(&places, a, &mf->entries[i], f);
	if (rc == 0)
		rc = refuse_the_rest(mf, &places, f);
	if (rc != 0)
		fault_wrap(f, "%s", mf->path);
	free(places.at);
	return rc;
}
