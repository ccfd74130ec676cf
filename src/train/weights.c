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

/* One load in progress; also what the backend's fill callback sees. */
struct loading {
	struct model_file *file;
	const struct weights_config *config;
	const struct model_tensor *tensor;
	size_t done, total; /* stored bytes */
	struct fault *fault;
};

static size_t stored_bytes(const struct model_tensor *t)
{
	return t->rows * stored_type_bytes(t->type, t->cols);
}

static int read_rows(void *self, size_t first, size_t count, float *out)
{
	struct loading *l = self;
	int rc = model_file_read(l->file, l->tensor, first, count, out, l->fault);
	if (rc)
		return rc;
	l->done += count * stored_type_bytes(l->tensor->type, l->tensor->cols);
	if (l->config->progress)
		l->config->progress(l->config->progress_self, "model", l->done, l->total);
	return 0;
}

static int find(struct loading *l, const char *name)
{
	l->tensor = model_file_tensor(l->file, name);
	if (!l->tensor)
		return fault_set(l->fault, SAKIORI_EFORMAT, "the model has no tensor %s", name);
	return 0;
}

static int load_matrix(struct weights *w, struct loading *l, const char *name, unsigned uses, struct weight **out)
{
	int rc = find(l, name);
	if (rc)
		return rc;
	const struct device_ops *ops = w->device->ops;
	*out = ops->weight_new(w->device, l->tensor->rows, l->tensor->cols, l->config->storage, uses, read_rows, l);
	if (!*out) {
		struct fault sticky = {0};
		rc = device_sync(w->device, &sticky);
		/* The file's own sentence says more than the device's, where there is one. */
		return l->fault && l->fault->code
			       ? l->fault->code
			       : fault_set(l->fault, rc ? rc : SAKIORI_EDEVICE, "%s: %s", name, sticky.text);
	}
	w->bytes += ops->weight_bytes(*out);
	return 0;
}

static int load_vector(struct weights *w, struct loading *l, const char *name, float **out)
{
	int rc = find(l, name);
	if (rc)
		return rc;
	size_t bytes = l->tensor->cols * sizeof(float);
	float *host = must_alloc(bytes);
	rc = read_rows(l, 0, 1, host);
	if (!rc) {
		*out = w->device->ops->alloc(w->device, bytes);
		w->device->ops->upload(w->device, *out, host, bytes);
		w->bytes += bytes;
		rc = device_sync(w->device, l->fault);
	}
	free(host);
	return rc;
}

static int load_block(struct weights *w, struct loading *l, size_t layer)
{
	struct block_weights *block = &w->blocks[layer];
	unsigned uses = WEIGHT_FORWARD | (l->config->backward ? WEIGHT_BACKWARD : 0);
	char name[128];
	snprintf(name, sizeof name, "model.layers.%zu.input_layernorm.weight", layer);
	int rc = load_vector(w, l, name, &block->input_norm);
	snprintf(name, sizeof name, "model.layers.%zu.post_attention_layernorm.weight", layer);
	if (!rc)
		rc = load_vector(w, l, name, &block->attention_norm);
	for (size_t i = 0; i < LORA_TARGETS && !rc; i++) {
		snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, linear_names[i]);
		rc = load_matrix(w, l, name, uses, &block->linear[i]);
	}
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
	if (!rc)
		rc = load_vector(w, &l, "model.norm.weight", &w->final_norm);
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
		for (size_t i = 0; i < LORA_TARGETS; i++)
			ops->weight_free(w->device, block->linear[i]);
		ops->release(w->device, block->input_norm);
		ops->release(w->device, block->attention_norm);
	}
	free(w->blocks);
	if (w->head != w->embedding)
		ops->weight_free(w->device, w->head);
	ops->weight_free(w->device, w->embedding);
	ops->release(w->device, w->final_norm);
	memset(w, 0, sizeof *w);
}
