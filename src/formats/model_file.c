/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path: open checks that every tensor is there in its size; rows are read in steps of at most 1 MiB, hashed as
 * stored, decoded. Failure modes: a shape that does not hold together, a file shortened or changed while it is read,
 * values that are not finite. */
#include "formats/model_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "formats/model_file_private.h"

#define BLOCK_BYTES ((size_t)1 << 20)
/* Far above any model of today; they keep every product of two sizes within 64 bits. */
#define SIZE_LIMIT 1048576
#define VOCABULARY_LIMIT 16777216
#define HEAD_LIMIT 4096

static int check_range(const char *what, uint32_t v, uint32_t high, struct fault *f)
{
	if (v >= 1 && v <= high)
		return 0;
	return fault_set(f, SAKIORI_EFORMAT, "%s is %" PRIu32 ", expected 1 to %" PRIu32, what, v, high);
}

static int check_shape(const struct model_shape *s, struct fault *f)
{
	const struct {
		const char *what;
		uint32_t value, high;
	} ranges[] = {
		{"the hidden size", s->hidden, SIZE_LIMIT},
		{"the intermediate size", s->intermediate, SIZE_LIMIT},
		{"the number of layers", s->layers, MODEL_LAYERS_MAX},
		{"the number of heads", s->heads, HEAD_LIMIT},
		{"the number of key and value heads", s->kv_heads, HEAD_LIMIT},
		{"the head size", s->head_size, MODEL_HEAD_SIZE_MAX},
		{"the vocabulary", s->vocabulary, VOCABULARY_LIMIT},
		{"the context length", s->context, INT32_MAX},
	};
	for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
		int rc = check_range(ranges[i].what, ranges[i].value, ranges[i].high, f);
		if (rc != 0)
			return rc;
	}
	if (s->heads % s->kv_heads != 0)
		return fault_set(f, SAKIORI_EFORMAT,
			"%" PRIu32 " heads cannot share %" PRIu32 " key and value heads evenly", s->heads, s->kv_heads);
	if (s->head_size % 2 != 0)
		return fault_set(f, SAKIORI_EFORMAT,
			"the head size is %" PRIu32 ", but rotary positions need an even one", s->head_size);
	if (!(s->norm_epsilon > 0 && s->norm_epsilon < 1))
		return fault_set(f, SAKIORI_EFORMAT, "the norm epsilon is %g, expected above 0 and below 1",
			(double)s->norm_epsilon);
	if (!(s->rope_theta >= 1 && isfinite(s->rope_theta)))
		return fault_set(f, SAKIORI_EFORMAT, "the rope base is %g, expected a number of at least 1",
			(double)s->rope_theta);
	if (!(s->query_scalar > 0 && s->query_scalar <= 1e6f))
		return fault_set(
			f, SAKIORI_EFORMAT, "the query scalar is %g, expected above 0", (double)s->query_scalar);
	if (!(s->score_softcap >= 0 && s->score_softcap <= 1e6f && s->logit_softcap >= 0 && s->logit_softcap <= 1e6f))
		return fault_set(f, SAKIORI_EFORMAT, "the softcaps are %g and %g, expected at least 0",
			(double)s->score_softcap, (double)s->logit_softcap);
	for (size_t i = 0; i < s->head_size / 2; i++)
		if (!(s->rope_factors[i] >= 1e-3f && s->rope_factors[i] <= 1e6f))
			return fault_set(f, SAKIORI_EFORMAT, "rope factor %zu is %g, expected 0.001 to 1000000", i,
				(double)s->rope_factors[i]);
	return 0;
}

void model_file_follow(struct model_shape *s, const struct architecture *a)
{
	snprintf(s->architecture, sizeof s->architecture, "%s", a->name);
	s->qkv_bias = a->qkv_bias;
	s->head_norms = a->head_norms;
	s->post_norms = a->post_norms;
	s->geglu = a->geglu;
	s->scaled_embedding = a->scaled_embedding;
}

static size_t extent(const struct model_shape *s, enum architecture_extent e)
{
	switch (e) {
	case EXTENT_VECTOR:
		break;
	case EXTENT_HIDDEN:
		return s->hidden;
	case EXTENT_QUERY:
		return (size_t)s->heads * s->head_size;
	case EXTENT_KEY:
		return (size_t)s->kv_heads * s->head_size;
	case EXTENT_HEAD:
		return s->head_size;
	case EXTENT_INTERMEDIATE:
		return s->intermediate;
	case EXTENT_VOCABULARY:
		return s->vocabulary;
	}
	return 1;
}

static bool wanted(const struct model_shape *s, enum architecture_when when)
{
	switch (when) {
	case WHEN_ALWAYS:
		break;
	case WHEN_QKV_BIAS:
		return s->qkv_bias;
	case WHEN_HEAD_NORMS:
		return s->head_norms;
	case WHEN_POST_NORMS:
		return s->post_norms;
	case WHEN_NO_POST_NORMS:
		return !s->post_norms;
	case WHEN_UNTIED:
		return !s->tied;
	}
	return true;
}

static void expect(struct model_file *mf, const struct architecture_tensor *kind, const char *before, unsigned layer)
{
	if (!wanted(&mf->shape, kind->when))
		return;
	struct model_entry *e = &mf->entries[mf->count++];
	snprintf(e->name, sizeof e->name, "%s%s", before, kind->hugging_face);
	e->kind = kind;
	e->layer = layer;
	e->public.rows = extent(&mf->shape, kind->rows);
	e->public.cols = extent(&mf->shape, kind->cols);
	e->public.vector = kind->rows == EXTENT_VECTOR;
}

static int by_name(const void *a, const void *b)
{
	const struct model_entry *left = a, *right = b;
	return strcmp(left->name, right->name);
}

int model_file_expect(struct model_file *mf, struct fault *f)
{
	struct model_shape *s = &mf->shape;
	if (s->query_scalar == 0)
		s->query_scalar = (float)s->head_size;
	int rc = check_shape(s, f);
	if (rc != 0)
		return rc;
	size_t inner, outer;
	const struct architecture_tensor *in_layer = architecture_layer_tensors(&inner),
					 *outside = architecture_outer_tensors(&outer);
	mf->entries = calloc(inner * s->layers + outer, sizeof *mf->entries);
	if (mf->entries == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for the tensors of %" PRIu32 " layers", s->layers);
	for (size_t i = 0; i < outer; i++)
		expect(mf, &outside[i], "", 0);
	for (unsigned n = 0; n < s->layers; n++) {
		char before[32];
		snprintf(before, sizeof before, "model.layers.%u.", n);
		for (size_t i = 0; i < inner; i++)
			expect(mf, &in_layer[i], before, n);
	}
	qsort(mf->entries, mf->count, sizeof *mf->entries, by_name);
	for (size_t i = 0; i < mf->count; i++)
		mf->entries[i].public.name = mf->entries[i].name; /* only now do they stay where they are */
	return 0;
}

int model_file_open(const char *path, struct model_file **out, struct fault *f)
{
	*out = NULL;
	struct model_file *mf = must_calloc(1, sizeof *mf);
	mf->path = must_strdup(path);
	int rc;
	struct stat st;
	if (strncmp(path, "shape:", 6) == 0) {
		rc = model_random_open(mf, path + 6, f);
	} else if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
		rc = model_folder_open(mf, f);
	} else {
		rc = gguf_open(path, &mf->gguf, f);
		if (rc == 0) {
			rc = model_gguf_open(mf, f);
			if (rc != 0)
				fault_wrap(f, "%s", path);
		}
	}
	if (rc != 0) {
		model_file_close(mf);
		return rc;
	}
	*out = mf;
	return 0;
}

void model_file_close(struct model_file *mf)
{
	if (mf == NULL)
		return;
	gguf_close(mf->gguf);
	for (size_t i = 0; i < mf->shard_count; i++)
		safetensors_close(mf->shards[i]);
	free(mf->shards);
	free(mf->normals);
	free(mf->entries);
	free(mf->block);
	free(mf->raw);
	free(mf->path);
	free(mf);
}

const struct model_shape *model_file_shape(const struct model_file *mf)
{
	return &mf->shape;
}

const struct gguf *model_file_metadata(const struct model_file *mf)
{
	return mf->gguf;
}

const char *model_file_path(const struct model_file *mf)
{
	return mf->path;
}

size_t model_file_tensor_count(const struct model_file *mf)
{
	return mf->count;
}

const struct model_tensor *model_file_tensor_at(const struct model_file *mf, size_t i)
{
	return &mf->entries[i].public;
}

const struct model_tensor *model_file_tensor(const struct model_file *mf, const char *name)
{
	struct model_entry key;
	if (snprintf(key.name, sizeof key.name, "%s", name) >= (int)sizeof key.name)
		return NULL;
	const struct model_entry *e = bsearch(&key, mf->entries, mf->count, sizeof *mf->entries, by_name);
	return e == NULL ? NULL : &e->public;
}

/* A buffer of at least n bytes that is kept for the next call. */
static int reserve(uint8_t **buffer, size_t *size, size_t n, struct fault *f)
{
	if (*size >= n)
		return 0;
	free(*buffer);
	*buffer = malloc(n);
	*size = *buffer == NULL ? 0 : n;
	return *buffer != NULL ? 0 : fault_set(f, SAKIORI_ENOMEM, "no memory for %zu bytes of weights", n);
}

/* Bytes of the tensor as they lie in the file. */
static int read_source(
	struct model_file *mf, const struct model_entry *e, uint64_t offset, size_t n, void *out, struct fault *f)
{
	return e->gguf != NULL ? gguf_read(mf->gguf, e->gguf, offset, n, out, f)
			       : safetensors_read(e->shard, e->part, offset, n, out, f);
}

/* llama.cpp stores the rows of each head as w.reshape(2, d/2, in).swapaxes(0, 1): Hugging Face's row half * d/2 + j is
 * its row 2 * j + half. A head is read whole, so that the file is still read forwards. */
static int read_permuted(struct model_file *mf, const struct model_entry *e, size_t first_row, size_t rows,
	uint8_t *out, struct fault *f)
{
	size_t row_bytes = stored_type_bytes(e->public.type, e->public.cols);
	size_t head_rows = e->public.rows / e->permuted_heads, half = head_rows / 2, head_bytes = head_rows * row_bytes;
	int rc = reserve(&mf->raw, &mf->raw_size, head_bytes, f);
	size_t loaded = SIZE_MAX;
	for (size_t row = first_row; rc == 0 && row < first_row + rows; row++) {
		size_t head = row / head_rows, in_head = row % head_rows;
		if (head != loaded)
			rc = read_source(mf, e, (uint64_t)head * head_bytes, head_bytes, mf->raw, f);
		loaded = head;
		size_t stored = 2 * (in_head % half) + in_head / half;
		if (rc == 0)
			memcpy(out + (row - first_row) * row_bytes, mf->raw + stored * row_bytes, row_bytes);
	}
	return rc;
}

/* A vector is what the device will hold, floats: converters to GGUF widen norms and biases to them (and add the 1), folders have
 * them in the type of the matrices. */
static int read_vector(struct model_file *mf, const struct model_entry *e, void *out, struct fault *f)
{
	size_t bytes = stored_type_bytes(e->source_type, e->public.cols);
	int rc = reserve(&mf->raw, &mf->raw_size, bytes, f);
	if (rc == 0)
		rc = read_source(mf, e, 0, bytes, mf->raw, f);
	if (rc == 0)
		stored_type_decode(e->source_type, mf->raw, e->public.cols, out);
	float *values = out;
	for (size_t i = 0; rc == 0 && e->shifted && i < e->public.cols; i++)
		values[i] += 1;
	return rc;
}

static void hash_u64(struct hash *h, uint64_t v)
{
	uint8_t bytes[8];
	for (int i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(v >> (8 * i));
	hash_update(h, bytes, sizeof bytes);
}

static void hash_text(struct hash *h, const char *text)
{
	hash_u64(h, strlen(text));
	hash_update(h, text, strlen(text));
}

/* A leaf begins with what the bytes mean: name, stored type, shape. */
static void pass_begin(struct model_entry *e)
{
	hash_init(&e->hash, "sakiori-leaf");
	hash_text(&e->hash, e->name);
	hash_text(&e->hash, stored_type_name(e->public.type));
	hash_u64(&e->hash, e->public.vector ? 1 : 2);
	if (!e->public.vector)
		hash_u64(&e->hash, e->public.rows);
	hash_u64(&e->hash, e->public.cols);
	e->next_row = 0;
	e->open = true;
}

static int pass_end(const struct model_file *mf, struct model_entry *e, struct fault *f)
{
	uint8_t leaf[HASH_SIZE];
	hash_final(&e->hash, leaf);
	e->open = false;
	e->next_row = 0;
	bool changed = e->complete && memcmp(leaf, e->leaf, sizeof leaf) != 0;
	e->complete = !changed;
	memcpy(e->leaf, leaf, sizeof leaf);
	if (changed)
		return fault_set(f, SAKIORI_ECORRUPT,
			"%s: tensor %s is not what it was when it was first read: the file was "
			"changed while in use; start again",
			mf->path, e->name);
	return 0;
}

/* Checks where a read stands in the tensor's pass, and begins one at row 0. */
static int pass_step(const struct model_file *mf, struct model_entry *e, size_t first_row, size_t rows, struct fault *f)
{
	if (first_row > e->public.rows || rows > e->public.rows - first_row)
		return fault_set(f, SAKIORI_EINVAL, "%s: tensor %s has %zu rows; %zu from row %zu were asked for",
			mf->path, e->name, e->public.rows, rows, first_row);
	if (first_row != 0 && (!e->open || first_row != e->next_row))
		return fault_set(f, SAKIORI_EINVAL,
			"%s: tensor %s is read in order; row %zu was asked for and row %zu is next", mf->path, e->name,
			first_row, e->open ? e->next_row : 0);
	if (first_row == 0)
		pass_begin(e);
	return 0;
}

/* Rows as stored, hashed on their way; the pass was checked. A failed read leaves the pass open for good: only row 0
 * begins another. */
static int take_rows(
	struct model_file *mf, struct model_entry *e, size_t first_row, size_t rows, void *out, struct fault *f)
{
	size_t row_bytes = stored_type_bytes(e->public.type, e->public.cols);
	int rc = 0;
	if (mf->normals != NULL)
		model_random_rows(mf, e, first_row, rows, out);
	else if (e->public.vector && (e->source_type != STORED_F32 || e->shifted))
		rc = read_vector(mf, e, out, f);
	else if (e->permuted_heads != 0)
		rc = read_permuted(mf, e, first_row, rows, out, f);
	else
		rc = read_source(mf, e, (uint64_t)first_row * row_bytes, rows * row_bytes, out, f);
	if (rc != 0)
		return rc;
	if (mf->normals == NULL) /* random weights are told apart by their shape alone */
		hash_update(&e->hash, out, rows * row_bytes);
	e->next_row = first_row + rows;
	return e->next_row == e->public.rows ? pass_end(mf, e, f) : 0;
}

static struct model_entry *entry_of(struct model_file *mf, const struct model_tensor *t)
{
	return &mf->entries[(const struct model_entry *)(const void *)t - mf->entries];
}

static int not_finite(
	const struct model_file *mf, const struct model_tensor *t, size_t first_row, size_t rows, struct fault *f)
{
	return fault_set(f, SAKIORI_EFORMAT,
		"%s: tensor %s has a value among rows %zu to %zu that is not a finite number: the file is damaged; "
		"copy or download "
		"it again",
		mf->path, t->name, first_row, first_row + rows - 1);
}

int model_file_read_stored(
	struct model_file *mf, const struct model_tensor *t, size_t first_row, size_t rows, void *out, struct fault *f)
{
	struct model_entry *e = entry_of(mf, t);
	if (rows == 0)
		return 0;
	int rc = pass_step(mf, e, first_row, rows, f);
	if (rc == 0)
		rc = take_rows(mf, e, first_row, rows, out, f);
	if (rc == 0 && !stored_type_finite(t->type, out, rows * t->cols))
		rc = not_finite(mf, t, first_row, rows, f);
	return rc;
}

static bool all_finite(const float *p, size_t n)
{
	uint32_t largest = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t bits;
		memcpy(&bits, &p[i], sizeof bits);
		bits &= 0x7fffffff;
		largest = bits > largest ? bits : largest;
	}
	return largest < 0x7f800000; /* infinity; NaNs lie above it */
}

int model_file_read(
	struct model_file *mf, const struct model_tensor *t, size_t first_row, size_t rows, float *out, struct fault *f)
{
	struct model_entry *e = entry_of(mf, t);
	if (rows == 0)
		return 0;
	int rc = pass_step(mf, e, first_row, rows, f);
	if (rc != 0)
		return rc;
	size_t row_bytes = stored_type_bytes(t->type, t->cols), step = BLOCK_BYTES / row_bytes;
	step = step == 0 ? 1 : step;
	rc = reserve(&mf->block, &mf->block_size, step * row_bytes, f);
	for (size_t done = 0; rc == 0 && done < rows; done += step) {
		step = step < rows - done ? step : rows - done;
		rc = take_rows(mf, e, first_row + done, step, mf->block, f);
		if (rc != 0)
			break;
		float *values = out + done * t->cols;
		stored_type_decode(t->type, mf->block, step * t->cols, values);
		if (!all_finite(values, step * t->cols))
			rc = not_finite(mf, t, first_row + done, step, f);
	}
	return rc;
}

static void hash_f32(struct hash *h, float v)
{
	uint32_t bits;
	memcpy(&bits, &v, sizeof bits);
	hash_u64(h, bits);
}

/* What the tensors' bytes do not say, but every logit depends on. The architecture stands for its activation. */
static void scalars_leaf(const struct model_shape *s, uint8_t out[static HASH_SIZE])
{
	struct hash h;
	hash_init(&h, "sakiori-scalars");
	hash_text(&h, s->architecture);
	hash_u64(&h, s->heads);
	hash_u64(&h, s->kv_heads);
	hash_u64(&h, s->head_size);
	hash_f32(&h, s->norm_epsilon);
	hash_f32(&h, s->rope_theta);
	bool scaled = false;
	for (size_t i = 0; i < s->head_size / 2; i++)
		scaled |= s->rope_factors[i] != 1;
	for (size_t i = 0; scaled && i < s->head_size / 2; i++)
		hash_f32(&h, s->rope_factors[i]);
	if (s->query_scalar != (float)s->head_size || s->score_softcap != 0 || s->logit_softcap != 0) {
		hash_text(&h, "scores");
		hash_f32(&h, s->query_scalar);
		hash_f32(&h, s->score_softcap);
		hash_f32(&h, s->logit_softcap);
	}
	if (s->window != 0) {
		hash_text(&h, "window");
		hash_u64(&h, s->window);
		for (uint32_t i = 0; i < s->layers; i++)
			hash_u64(&h, s->windowed[i]);
	}
	hash_final(&h, out);
}

/* Random weights follow from the shape: a device makes them without a byte passing here. */
static void random_fingerprint(const struct model_shape *s, uint8_t out[static HASH_SIZE])
{
	struct hash h;
	uint8_t scalars[HASH_SIZE];
	hash_init(&h, "sakiori-shape");
	hash_text(&h, s->name);
	hash_u64(&h, s->hidden);
	hash_u64(&h, s->intermediate);
	hash_u64(&h, s->layers);
	hash_u64(&h, s->vocabulary);
	hash_u64(&h, s->tied);
	scalars_leaf(s, scalars);
	hash_update(&h, scalars, sizeof scalars);
	hash_final(&h, out);
}

int model_file_fingerprint(const struct model_file *mf, uint8_t out[static HASH_SIZE], struct fault *f)
{
	struct hash root;
	uint8_t scalars[HASH_SIZE];
	if (mf->normals != NULL) {
		random_fingerprint(&mf->shape, out);
		return 0;
	}
	hash_init(&root, "sakiori-base");
	hash_u64(&root, mf->count);
	for (size_t i = 0; i < mf->count; i++) {
		const struct model_entry *e = &mf->entries[i];
		if (!e->complete || e->open)
			return fault_set(f, SAKIORI_EINVAL,
				"%s: tensor %s was not read whole, so the base has no fingerprint yet", mf->path,
				e->name);
		hash_update(&root, e->leaf, sizeof e->leaf);
	}
	scalars_leaf(&mf->shape, scalars);
	hash_update(&root, scalars, sizeof scalars);
	hash_final(&root, out);
	return 0;
}
