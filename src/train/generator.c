/* SPDX-License-Identifier: Apache-2.0 */
#include "train/generator.h"

#include <math.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "formats/model_file.h"
#include "train/lora_peft.h"
#include "train/model.h"
#include "train/weights.h"

struct generator {
	double temperature;
	struct rng rng;
	struct device *device;
	struct tokenizer *tokenizer;
	struct weights weights;
	struct lora_layout layout;
	float *adapter; /* device; NULL: none */
	struct model model;
	float *logits; /* (V) of what comes next */
};

static int load_adapter(struct generator *g, const char *directory, struct fault *f)
{
	struct lora_widths widths;
	struct lora_settings settings;
	weights_widths(&g->weights.shape, &widths);
	int rc = lora_peft_settings(directory, &settings, f);
	if (!rc)
		rc = lora_layout_init(&g->layout, &widths, &settings, f);
	if (rc)
		return rc;
	size_t bytes = g->layout.size * sizeof(float);
	float *host = must_alloc(bytes);
	rc = lora_peft_read(directory, &g->layout, host, f);
	if (!rc) {
		g->adapter = g->device->ops->alloc(g->device, bytes);
		g->device->ops->upload(g->device, g->adapter, host, bytes);
		rc = device_sync(g->device, f);
	}
	free(host);
	return rc;
}

static int open_all(struct generator *g, const struct generator_config *c, struct fault *f)
{
	struct device_config device = {
		.name = c->device, .threads = c->threads, .act = trainer_act(c->base_dtype), .cache = c->cache};
	struct weights_config weights = {
		.storage = trainer_storage(c->base_dtype), .progress = c->progress, .progress_self = c->progress_self};
	struct model_file *mf;
	int rc = model_file_open(c->model, &mf, f);
	if (rc)
		return rc;
	rc = tokenizer_of_model(&g->tokenizer, mf, f);
	if (!rc)
		rc = device_open(&device, &g->device, f);
	if (!rc)
		rc = weights_load(&g->weights, g->device, mf, &weights, f);
	if (!rc && c->adapter)
		rc = load_adapter(g, c->adapter, f);
	model_file_close(mf);
	return rc;
}

int generator_open(const struct generator_config *config, struct generator **out, struct fault *f)
{
	struct generator *g = must_calloc(1, sizeof *g);
	g->temperature = config->temperature;
	rng_init(&g->rng, config->seed, 0);
	int rc = open_all(g, config, f);
	if (!rc)
		g->logits = must_calloc(g->weights.shape.vocabulary, sizeof *g->logits);
	if (rc) {
		generator_close(g);
		g = NULL;
	}
	*out = g;
	return rc;
}

void generator_close(struct generator *g)
{
	if (!g)
		return;
	model_close(&g->model);
	if (g->device)
		g->device->ops->release(g->device, g->adapter);
	weights_free(&g->weights);
	device_close(g->device);
	tokenizer_free(g->tokenizer);
	lora_layout_fini(&g->layout);
	free(g->logits);
	free(g);
}

const struct tokenizer *generator_tokenizer(const struct generator *g)
{
	return g->tokenizer;
}

int generator_start(struct generator *g, const int32_t *ids, size_t n, size_t more, struct fault *f)
{
	size_t context = g->weights.shape.context;
	if (n > context || more > context - n)
		return fault_set(f, SAKIORI_ELIMIT,
			"%zu tokens of prompt and %zu more exceed the model's %zu: shorten one of them", n, more,
			context);
	model_close(&g->model);
	struct model_options options = {
		.use = ACTIVATIONS_GENERATE,
		.micro_tokens = n < MEMORY_TEXT_PASS ? n : MEMORY_TEXT_PASS,
		.positions = n + more,
	};
	int rc = model_open(&g->model, g->device, &g->weights, g->adapter ? &g->layout : NULL, &options, f);
	/* The ids come out of this model's own tokenizer: none is negative. */
	return rc ? rc : model_continue(&g->model, (const uint32_t *)ids, n, g->adapter, g->logits, f);
}

/* Softmax at the temperature, by the inverse of its distribution function. */
static uint32_t draw(struct generator *g)
{
	size_t n = g->weights.shape.vocabulary;
	uint32_t best = 0;
	for (uint32_t i = 1; i < n; i++)
		if (g->logits[i] > g->logits[best])
			best = i;
	if (g->temperature <= 0)
		return best;
	double total = 0, top = (double)g->logits[best];
	for (size_t i = 0; i < n; i++)
		total += exp(((double)g->logits[i] - top) / g->temperature);
	double left = (double)rng_uniform(&g->rng) * total;
	for (uint32_t i = 0; i < n; i++) {
		left -= exp(((double)g->logits[i] - top) / g->temperature);
		if (left < 0)
			return i;
	}
	return best;
}

int generator_next(struct generator *g, int32_t *id, struct fault *f)
{
	uint32_t next = draw(g);
	*id = (int32_t)next;
	/* The last token that fits needs no successor. */
	if (g->model.cached == g->model.activations.positions)
		return 0;
	return model_continue(&g->model, &next, 1, g->adapter, g->logits, f);
}
