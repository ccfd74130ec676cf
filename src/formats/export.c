/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "formats/architecture.h"
#include "formats/gguf_writer.h"
#include "formats/merge.h"
#include "formats/safetensors.h"

#define QUANTIZATION_VERSION 2 /* of ggml's blocks */

bool export_is_quantized(const struct model_file *model)
{
	for (size_t i = 0; i < model_file_tensor_count(model); i++)
		if (stored_type_block(model_file_tensor_at(model, i)->type) > 1)
			return true;
	return false;
}

/* As llama.cpp's converters do: F16 where a row is no whole blocks. */
static enum stored_type type_of_rows(enum stored_type type, size_t cols)
{
	return cols % stored_type_block(type) == 0 ? type : STORED_F16;
}

/* How many heads a tensor's rows are permuted in for llama.cpp; 0: not at all. */
static size_t permuted_heads(const struct model_shape *s, const char *name)
{
	const struct architecture *a = architecture_of_gguf(s->architecture);
	if (a == NULL || !a->permutes)
		return 0;
	if (strstr(name, ".q_proj.") != NULL)
		return s->heads;
	return strstr(name, ".k_proj.") != NULL ? s->kv_heads : 0;
}

/* ggml's number for what most of a file's tensors are. */
static void add_file_type(struct gguf_keys *keys, enum stored_type type)
{
	static const uint32_t numbers[STORED_TYPES] = {
		[STORED_F32] = 0, [STORED_F16] = 1, [STORED_Q8_0] = 7, [STORED_BF16] = 32};
	gguf_keys_u32(keys, "general.file_type", numbers[type]);
	if (type == STORED_Q8_0)
		gguf_keys_u32(keys, "general.quantization_version", QUANTIZATION_VERSION);
}

static const char *base_name(const struct export *e)
{
	const char *name = model_file_shape(e->model)->name;
	if (name[0] != '\0')
		return name;
	return e->adapter->base_model != NULL ? e->adapter->base_model : "";
}

static void add_origin(struct gguf_keys *keys, const struct export *e)
{
	if (base_name(e)[0] != '\0') {
		gguf_keys_u32(keys, "general.base_model.count", 1);
		gguf_keys_text(keys, "general.base_model.0.name", base_name(e));
	}
	for (size_t i = 0; i < e->adapter->note_count; i++) {
		const struct safetensors_note *note = &e->adapter->notes[i];
		if (strncmp(note->key, "sakiori.", 8) == 0)
			gguf_keys_text(keys, note->key, note->value);
	}
}

/* ---- the adapter ---- */

#define FACTOR_NAME_SIZE (MODEL_GGUF_NAME_SIZE + 8)

static void name_factor(
	const struct export *e, const struct peft_matrix *m, char half, char out[static FACTOR_NAME_SIZE])
{
	char name[PEFT_BASE_NAME_SIZE], weight[MODEL_GGUF_NAME_SIZE];
	peft_base_name(m->layer, m->target, name);
	model_file_gguf_name(model_file_tensor(e->model, name), weight);
	snprintf(out, FACTOR_NAME_SIZE, "%s.lora_%c", weight, half);
}

/* Appends `rows` rows of a factor; heads != 0 puts them in llama.cpp's order. */
static int append_factor(
	struct gguf_writer *w, const struct gguf_tensor *t, const float *values, size_t heads, struct fault *f)
{
	size_t cols = (size_t)t->shape[0], rows = (size_t)t->shape[1], row_bytes = stored_type_bytes(t->type, cols);
	size_t head_rows = heads != 0 ? rows / heads : 0;
	uint8_t *encoded = malloc((size_t)t->bytes);
	if (encoded == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for tensor %s", t->name);
	bool fit = true;
	for (size_t row = 0; row < rows; row++) {
		size_t place =
			heads == 0 ? row : row / head_rows * head_rows + merge_permuted_row(row % head_rows, head_rows);
		fit &= stored_type_encode(t->type, values + row * cols, cols, encoded + place * row_bytes);
	}
	int rc = fit ? gguf_writer_append(w, encoded, (size_t)t->bytes, f)
		     : fault_set(f, SAKIORI_EUNSUPPORTED, "tensor %s has a value that %s cannot hold; take f32",
			       t->name, stored_type_name(t->type));
	free(encoded);
	return rc;
}

static int append_pairs(
	const struct export *e, struct gguf_writer *w, const struct gguf_tensor *tensors, struct fault *f)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < e->adapter->count; i++) {
		const struct peft_matrix *m = &e->adapter->matrices[i];
		char name[PEFT_BASE_NAME_SIZE];
		peft_base_name(m->layer, m->target, name);
		rc = append_factor(w, &tensors[2 * i], m->a, 0, f);
		if (rc == 0)
			rc = append_factor(
				w, &tensors[2 * i + 1], m->b, permuted_heads(model_file_shape(e->model), name), f);
		if (e->progress != NULL)
			e->progress(e->progress_self, i + 1, e->adapter->count);
	}
	return rc;
}

static void describe_adapter(const struct export *e, struct gguf_keys *keys)
{
	char name[160];
	snprintf(name, sizeof name, "%s%sLoRA", base_name(e), base_name(e)[0] != '\0' ? " " : "");
	gguf_keys_text(keys, "general.architecture", model_file_shape(e->model)->architecture);
	gguf_keys_text(keys, "general.type", "adapter");
	gguf_keys_text(keys, "general.name", name);
	add_file_type(keys, e->type);
	gguf_keys_text(keys, "adapter.type", "lora");
	gguf_keys_f32(keys, "adapter.lora.alpha", (float)e->adapter->alpha);
	add_origin(keys, e);
}

int export_gguf_adapter(const struct export *e, const char *path, struct fault *f)
{
	size_t count = e->adapter->count;
	struct gguf_tensor *tensors = must_calloc(2 * count, sizeof *tensors);
	char(*names)[FACTOR_NAME_SIZE] = must_calloc(2 * count, sizeof *names);
	for (size_t i = 0; i < count; i++) {
		const struct peft_matrix *m = &e->adapter->matrices[i];
		name_factor(e, m, 'a', names[2 * i]);
		name_factor(e, m, 'b', names[2 * i + 1]);
		tensors[2 * i] = (struct gguf_tensor){.name = names[2 * i],
			.type = type_of_rows(e->type, m->in),
			.dimensions = 2,
			.shape = {m->in, m->rank, 1, 1}};
		tensors[2 * i + 1] = (struct gguf_tensor){.name = names[2 * i + 1],
			.type = type_of_rows(e->type, m->rank),
			.dimensions = 2,
			.shape = {m->rank, m->out, 1, 1}};
	}
	struct gguf_keys keys = {0};
	struct gguf_writer *w;
	describe_adapter(e, &keys);
	int rc = gguf_writer_begin(&w, path, 0644, &keys, tensors, 2 * count, f);
	if (rc == 0) {
		rc = append_pairs(e, w, tensors, f);
		if (rc == 0)
			rc = gguf_writer_commit(w, f);
		else
			gguf_writer_abort(w);
	}
	gguf_keys_fini(&keys);
	free(names);
	free(tensors);
	return rc;
}

/* ---- the model ---- */

static struct merge merge_into(const struct export *e, merge_append *append, void *to)
{
	return (struct merge){.model = e->model,
		.adapter = e->adapter,
		.append = append,
		.to = to,
		.progress = e->progress,
		.progress_self = e->progress_self};
}

static int append_gguf(void *to, const void *data, size_t n, struct fault *f)
{
	return gguf_writer_append(to, data, n, f);
}

static int append_safetensors(void *to, const void *data, size_t n, struct fault *f)
{
	return safetensors_writer_append(to, data, n, f);
}

static void describe_merged(const struct export *e, struct gguf_keys *keys)
{
	/* What is said anew, what was true of the base's bytes alone, and how they were split. */
	static const char *const except[] = {"general.architecture", "general.description", "general.file_type",
		"general.quantization_version", "general.quantized_by", "general.alignment", "general.base_model.",
		"quantize.", "split.", "sakiori.", NULL};
	gguf_keys_text(keys, "general.architecture", model_file_shape(e->model)->architecture);
	gguf_keys_copy(keys, model_file_metadata(e->model), except);
	gguf_keys_text(keys, "general.description",
		export_is_quantized(e->model)
			? "The base model's dequantized weights with a LoRA adapter merged into them"
			: "The base model with a LoRA adapter merged into it");
	add_file_type(keys, e->type);
	add_origin(keys, e);
}

/* The table that scales rotary frequencies is no weight of the model's shape; it passes as it is. */
static const struct gguf_tensor *rope_table(const struct export *e)
{
	return gguf_tensor_find(model_file_metadata(e->model), "rope_freqs.weight");
}

static int append_rope_table(const struct export *e, struct gguf_writer *w, struct fault *f)
{
	const struct gguf_tensor *t = rope_table(e);
	if (t == NULL)
		return 0;
	uint8_t *bytes = must_alloc((size_t)t->bytes); /* head size / 2 floats: checked when the model was opened */
	int rc = gguf_read(model_file_metadata(e->model), t, 0, (size_t)t->bytes, bytes, f);
	if (rc == 0)
		rc = gguf_writer_append(w, bytes, (size_t)t->bytes, f);
	free(bytes);
	return rc;
}

static int append_model(
	const struct export *e, struct gguf_writer *w, const struct gguf_tensor *tensors, struct fault *f)
{
	struct merge m = merge_into(e, append_gguf, w);
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < model_file_tensor_count(e->model); i++) {
		const struct model_tensor *t = model_file_tensor_at(e->model, i);
		rc = merge_tensor(&m, t, tensors[i].type, permuted_heads(model_file_shape(e->model), t->name), f);
	}
	return rc == 0 ? append_rope_table(e, w, f) : rc;
}

int export_gguf_merged(const struct export *e, const char *path, struct fault *f)
{
	if (model_file_metadata(e->model) == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"a merged GGUF takes its tokenizer from the base's GGUF, and this base is none: merge the "
			"adapter with peft, or write it alone");
	size_t count = model_file_tensor_count(e->model);
	struct gguf_tensor *tensors = must_calloc(count + 1, sizeof *tensors);
	char(*names)[MODEL_GGUF_NAME_SIZE] = must_calloc(count, sizeof *names);
	for (size_t i = 0; i < count; i++) {
		const struct model_tensor *t = model_file_tensor_at(e->model, i);
		model_file_gguf_name(t, names[i]);
		tensors[i] = (struct gguf_tensor){.name = names[i],
			.type = t->vector ? STORED_F32 : type_of_rows(e->type, t->cols),
			.dimensions = t->vector ? 1 : 2,
			.shape = {t->cols, t->rows, 1, 1}};
	}
	if (rope_table(e) != NULL)
		tensors[count] = *rope_table(e);
	struct gguf_keys keys = {0};
	struct gguf_writer *w;
	describe_merged(e, &keys);
	int rc = gguf_writer_begin(&w, path, 0644, &keys, tensors, count + (rope_table(e) != NULL), f);
	gguf_keys_fini(&keys);
	if (rc == 0) {
		rc = append_model(e, w, tensors, f);
		if (rc == 0)
			rc = gguf_writer_commit(w, f);
		else
			gguf_writer_abort(w);
	}
	free(names);
	free(tensors);
	return rc;
}

int export_safetensors_merged(const struct export *e, const char *path, struct fault *f)
{
	static const enum safetensors_type types[STORED_TYPES] = {
		[STORED_F32] = SAFETENSORS_F32, [STORED_F16] = SAFETENSORS_F16, [STORED_BF16] = SAFETENSORS_BF16};
	size_t count = model_file_tensor_count(e->model);
	struct safetensors_tensor *tensors = must_calloc(count, sizeof *tensors);
	for (size_t i = 0; i < count; i++) {
		const struct model_tensor *t = model_file_tensor_at(e->model, i);
		tensors[i] = (struct safetensors_tensor){
			.name = t->name, .type = types[e->type], .dimensions = t->vector ? 1 : 2};
		tensors[i].shape[0] = t->vector ? t->cols : t->rows;
		tensors[i].shape[1] = t->cols;
	}
	struct safetensors_writer *w;
	int rc = safetensors_writer_begin(&w, path, 0644, tensors, count, e->adapter->notes, e->adapter->note_count, f);
	if (rc == 0) {
		struct merge m = merge_into(e, append_safetensors, w);
		for (size_t i = 0; rc == 0 && i < count; i++) /* in the order that begin gave them */
			rc = merge_tensor(&m, model_file_tensor(e->model, tensors[i].name), e->type, 0, f);
		if (rc == 0)
			rc = safetensors_writer_commit(w, f);
		else
			safetensors_writer_abort(w);
	}
	free(tensors);
	return rc;
}
