/* SPDX-License-Identifier: Apache-2.0 */
#include "train/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static const char *const linear_names[LORA_TARGETS] = {
	"self_attn.q_proj",
	"self_attn.k_proj",
	"self_attn.v_proj",
	"self_attn.o_proj",
	"mlp.gate_proj",
	"mlp.up_proj",
	"mlp.down_proj",
};

/* One load in progress. */
struct loading {
	struct model_file *file;
	const struct weights_config *config;
	size_t done, total; /* stored bytes */
	struct fault *fault;
};

/* Tensors of equal width, one above the other; what the backend's callbacks see. */
struct stack {
	struct loading *loading;
	const struct model_tensor *tensors[LORA_PARTS_MAX];
	size_t count, rows, cols;
};

static size_t stored_bytes(const struct model_tensor *t)
{
	return t->rows * stored_type_bytes(t->type, t->cols);
}

static void advance(struct loading *l, size_t bytes)
{
	l->done += bytes;
	if (l->config->progress)
		l->config->progress(l->config->progress_self, "model", l->done, l->total);
}

/* Rows first .. first+count-1 of the stack, decoded or as they are stored. */
static int read_stack(struct stack *s, size_t first, size_t count, void *out, bool stored)
{
	struct loading *l = s->loading;
	char *to = out;
	for (size_t i = 0; i < s->count && count; i++) {
		const struct model_tensor *t = s->tensors[i];
		if (first >= t->rows) {
			first -= t->rows;
			continue;
		}
		size_t rows = t->rows - first < count ? t->rows - first : count;
		size_t row_bytes = stored_type_bytes(t->type, t->cols);
		int rc = stored ? model_file_read_stored(l->file, t, first, rows, to, l->fault)
				: model_file_read(l->file, t, first, rows, (float *)to, l->fault);
		if (rc)
			return rc;
		advance(l, rows * row_bytes);
		to += rows * (stored ? row_bytes : t->cols * sizeof(float));
		count -= rows;
		first = 0;
	}
	return 0;
}

static int read_rows(void *self, size_t first, size_t count, float *out)
{
	return read_stack(self, first, count, out, false);
}

static int read_stored(void *self, size_t first, size_t count, void *out)
{
	return read_stack(self, first, count, out, true);
}

static int find(struct loading *l, const char *name, const struct model_tensor **out)
{
	*out = model_file_tensor(l->file, name);
	return *out ? 0 : fault_set(l->fault, SAKIORI_EFORMAT, "the model has no tensor %s", name);
}

/* The kind of blocks that all tensors of the stack share, if a device unpacks it. */
static enum weight_blocks blocks_of(const struct stack *s)
{
	for (size_t i = 1; i < s->count; i++)
		if (s->tensors[i]->type != s->tensors[0]->type)
			return WEIGHT_BLOCKS_NONE;
	switch (s->tensors[0]->type) {
	case STORED_Q4_0:
		return WEIGHT_BLOCKS_Q4_0;
	case STORED_Q4_1:
		return WEIGHT_BLOCKS_Q4_1;
	case STORED_Q8_0:
		return WEIGHT_BLOCKS_Q8_0;
	default:
		return WEIGHT_BLOCKS_NONE;
	}
}

/* Values that the device makes by their rule are never read: what the progress lacks is made up for. */
static int load_stack(struct weights *w, struct stack *s, enum weight_storage storage, unsigned uses, size_t room,
	struct weight **out)
{
	struct loading *l = s->loading;
	struct weight_source source = {.fill = read_rows, .fill_stored = read_stored, .self = s};
	struct model_random random;
	const struct device_ops *ops = w->device->ops;
	size_t done = l->done;
	source.blocks = blocks_of(s);
	if (storage == WEIGHT_STORED && source.blocks == WEIGHT_BLOCKS_NONE)
		storage = WEIGHT_BF16;
	if (model_file_random(l->file, s->tensors[0], &random) && random.first_element == 0) {
		source.normals = random.normals;
		source.seed = random.seed;
		source.stream = random.stream;
	}
	*out = ops->weight_new(w->device, s->rows, s->cols, storage, uses, room, &source);
	if (!*out) {
		struct fault sticky = {0};
		int rc = device_sync(w->device, &sticky);
		/* The file's own sentence says more than the device's, where there is one. */
		return l->fault && l->fault->code ? l->fault->code
						  : fault_set(l->fault, rc ? rc : SAKIORI_EDEVICE, "%s: %s",
							    s->tensors[0]->name, sticky.text);
	}
	for (size_t i = 0; i < s->count; i++)
		done += stored_bytes(s->tensors[i]);
	advance(l, done - l->done);
	w->bytes += ops->weight_bytes(*out);
	return 0;
}

static int load_matrix(struct weights *w, struct loading *l, const char *name, unsigned uses, struct weight **out)
{
	struct stack s = {.loading = l, .count = 1};
	int rc = find(l, name, &s.tensors[0]);
	if (rc)
		return rc;
	s.rows = s.tensors[0]->rows;
	s.cols = s.tensors[0]->cols;
	return load_stack(w, &s, l->config->storage == WEIGHT_F32 ? WEIGHT_F32 : WEIGHT_BF16, uses, 0, out);
}

static int load_group(struct weights *w, struct loading *l, size_t layer, enum variants_group group, unsigned uses,
	struct weight **out)
{
	enum lora_target first;
	struct stack s = {.loading = l, .count = variants_targets(group, &first)};
	for (size_t i = 0; i < s.count; i++) {
		char name[128];
		snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, linear_names[first + i]);
		int rc = find(l, name, &s.tensors[i]);
		if (rc)
			return rc;
		s.rows += s.tensors[i]->rows;
		s.cols = s.tensors[i]->cols;
	}
	size_t room = w->device->joins ? variants_group_room(l->config->layout, group) : 0;
	return load_stack(w, &s, l->config->storage, uses, room, out);
}

/* Vectors one behind the other, as floats. */
static int load_vectors(struct weights *w, struct loading *l, const char *const *names, size_t count, float **out)
{
	struct stack s = {.loading = l, .count = count};
	size_t floats = 0;
	for (size_t i = 0; i < count; i++) {
		int rc = find(l, names[i], &s.tensors[i]);
		if (rc)
			return rc;
		floats += s.tensors[i]->cols;
	}
	float *host = must_alloc(floats * sizeof *host);
	int rc = read_rows(&s, 0, count, host);
	if (!rc) {
		*out = w->device->ops->alloc(w->device, floats * sizeof *host);
		w->device->ops->upload(w->device, *out, host, floats * sizeof *host);
		w->bytes += floats * sizeof *host;
		rc = device_sync(w->device, l->fault);
	}
	free(host);
	return rc;
}

static int load_layer_vector(struct weights *w, struct loading *l, size_t layer, const char *inner, float **out)
{
	char text[128];
	const char *name = text;
	snprintf(text, sizeof text, "model.layers.%zu.%s", layer, inner);
	return load_vectors(w, l, &name, 1, out);
}

static int load_qkv_bias(struct weights *w, struct loading *l, size_t layer, float **out)
{
	enum { PARTS = 3 };
	char text[PARTS][128];
	const char *names[PARTS];
	for (size_t i = 0; i < PARTS; i++) {
		snprintf(text[i], sizeof text[i], "model.layers.%zu.%s.bias", layer, linear_names[LORA_Q + i]);
		names[i] = text[i];
	}
	return load_vectors(w, l, names, PARTS, out);
}

static int load_block(struct weights *w, struct loading *l, size_t layer)
{
	struct block_weights *block = &w->blocks[layer];
	unsigned uses = WEIGHT_FORWARD | (l->config->backward ? WEIGHT_BACKWARD : 0);
	/* The name is that of the norm after attention, which in architectures without post norms is the one before the MLP. */
	bool post = w->shape.post_norms;
	int rc = load_layer_vector(w, l, layer, "input_layernorm.weight", &block->input_norm);
	if (!rc)
		rc = load_layer_vector(w, l, layer, "post_attention_layernorm.weight",
			post ? &block->post_attention_norm : &block->attention_norm);
	if (!rc && post)
		rc = load_layer_vector(w, l, layer, "pre_feedforward_layernorm.weight", &block->attention_norm);
	if (!rc && post)
		rc = load_layer_vector(w, l, layer, "post_feedforward_layernorm.weight", &block->post_mlp_norm);
	if (!rc && w->shape.qkv_bias)
		rc = load_qkv_bias(w, l, layer, &block->qkv_bias);
	if (!rc && w->shape.head_norms)
		rc = load_layer_vector(w, l, layer, "self_attn.q_norm.weight", &block->query_norm);
	if (!rc && w->shape.head_norms)
		rc = load_layer_vector(w, l, layer, "self_attn.k_norm.weight", &block->key_norm);
	for (enum variants_group group = 0; group < VARIANTS_GROUPS && !rc; group++)
		rc = load_group(w, l, layer, group, uses, &block->linear[group]);
	return rc;
}

void weights_widths(const struct model_shape *shape, struct lora_widths *out)
{
	*out = (struct lora_widths){
		.layers = shape->layers,
		.hidden = shape->hidden,
		.query = (size_t)shape->heads * shape->head_size,
		.key = (size_t)shape->kv_heads * shape->head_size,
		.ffn = shape->intermediate,
	};
}

int weights_load(struct weights *w, struct device *d, struct model_file *mf, const struct weights_config *config,
	struct fault *f)
{
	struct fault own = {0};
	struct loading l = {.file = mf, .config = config, .fault = &own};
	memset(w, 0, sizeof *w);
	if (model_file_shape(mf)->geglu && !d->geglu)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"architecture %s is not supported on a %s device; use --device cpu",
			model_file_shape(mf)->architecture, d->ops->name);
	w->device = d;
	w->shape = *model_file_shape(mf);
	w->blocks = must_calloc(w->shape.layers, sizeof *w->blocks);
	for (size_t i = 0; i < model_file_tensor_count(mf); i++)
		l.total += stored_bytes(model_file_tensor_at(mf, i));
	unsigned head_uses = WEIGHT_FORWARD | (config->backward ? WEIGHT_BACKWARD : 0);
	int rc = load_matrix(
		w, &l, "model.embed_tokens.weight", WEIGHT_ROWS | (w->shape.tied ? head_uses : 0), &w->embedding);
	for (size_t layer = 0; layer < w->shape.layers && !rc; layer++)
		rc = load_block(w, &l, layer);
	const char *final_norm = "model.norm.weight";
	if (!rc)
		rc = load_vectors(w, &l, &final_norm, 1, &w->final_norm);
	if (!rc && w->shape.tied)
		w->head = w->embedding;
	else if (!rc)
		rc = load_matrix(w, &l, "lm_head.weight", head_uses, &w->head);
	if (!rc)
		rc = model_file_fingerprint(mf, w->fingerprint, &own);
	if (rc) {
		weights_free(w);
		fault_set(f, rc, "%s", own.text);
	}
	return rc;
}

void weights_free(struct weights *w)
{
	if (!w->device)
		return;
	const struct device_ops *ops = w->device->ops;
	for (size_t layer = 0; layer < w->shape.layers; layer++) {
		struct block_weights *block = &w->blocks[layer];
		for (size_t i = 0; i < VARIANTS_GROUPS; i++)
			ops->weight_free(w->device, block->linear[i]);
		ops->release(w->device, block->input_norm);
		ops->release(w->device, block->attention_norm);
		ops->release(w->device, block->post_attention_norm);
		ops->release(w->device, block->post_mlp_norm);
		ops->release(w->device, block->qkv_bias);
		ops->release(w->device, block->query_norm);
		ops->release(w->device, block->key_norm);
	}
	free(w->blocks);
	if (w->head != w->embedding)
		ops->weight_free(w->device, w->head);
	ops->weight_free(w->device, w->embedding);
	ops->release(w->device, w->final_norm);
	memset(w, 0, sizeof *w);
}
