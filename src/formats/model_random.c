/* SPDX-License-Identifier: Apache-2.0 */
/* Random weights of real shapes, for benches: any row can be made on its own, at memory speed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "formats/model_file_private.h"

#define NORMALS 65536
#define SEED 1
#define DEVIATION 0.02f

/* From each model's config.json; but for the first, which is nobody's and runs anywhere in no time. */
static const struct random_shape {
	const char *architecture, *name;
	uint32_t hidden, intermediate, layers, heads, kv_heads, head_size, vocabulary, context;
	float norm_epsilon, rope_theta;
	bool tied;
} shapes[] = {
	{"llama", "tiny", 64, 128, 5, 4, 2, 16, 512, 2048, 1e-5f, 10000.0f, true},
	{"llama", "smollm2-135m", 576, 1536, 30, 9, 3, 64, 49152, 8192, 1e-5f, 100000.0f, true},
	{"llama", "smollm2-360m", 960, 2560, 32, 15, 5, 64, 49152, 8192, 1e-5f, 100000.0f, true},
	{"llama", "smollm2-1.7b", 2048, 8192, 24, 32, 32, 64, 49152, 8192, 1e-5f, 130000.0f, true},
	{"llama", "tinyllama-1.1b", 2048, 5632, 22, 32, 4, 64, 32000, 2048, 1e-5f, 10000.0f, false},
	{"llama", "llama-3.2-1b", 2048, 8192, 16, 32, 8, 64, 128256, 131072, 1e-5f, 500000.0f, true},
	{"llama", "llama-3.2-3b", 3072, 8192, 28, 24, 8, 128, 128256, 131072, 1e-5f, 500000.0f, true},
	{"llama", "llama-2-7b", 4096, 11008, 32, 32, 32, 128, 32000, 4096, 1e-5f, 10000.0f, false},
	{"llama", "llama-3-8b", 4096, 14336, 32, 32, 8, 128, 128256, 8192, 1e-5f, 500000.0f, false},
	{"llama", "llama-3-70b", 8192, 28672, 80, 64, 8, 128, 128256, 8192, 1e-5f, 500000.0f, false},
};

static void fill_shape(const struct random_shape *r, struct model_shape *s)
{
	*s = (struct model_shape){
		.hidden = r->hidden,
		.intermediate = r->intermediate,
		.layers = r->layers,
		.heads = r->heads,
		.kv_heads = r->kv_heads,
		.head_size = r->head_size,
		.vocabulary = r->vocabulary,
		.context = r->context,
		.norm_epsilon = r->norm_epsilon,
		.rope_theta = r->rope_theta,
		.tied = r->tied,
	};
	snprintf(s->name, sizeof s->name, "%s", r->name);
	model_file_follow(s, architecture_of_model_type(r->architecture));
	for (size_t i = 0; i < s->head_size / 2; i++)
		s->rope_factors[i] =
			1; /* as the models themselves, but for Llama 3.2's: work and memory are the same */
}

/* Layers that read the same input are one matrix to a device, the tensors one above the other: they are pieces of one stream. */
static void join(struct model_file *mf, unsigned layer, const char *const *tensors)
{
	const struct model_entry *first = NULL;
	uint64_t elements = 0;
	for (; *tensors != NULL; tensors++) {
		char name[MODEL_NAME_SIZE];
		snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, *tensors);
		const struct model_tensor *t = model_file_tensor(mf, name);
		struct model_entry *e = &mf->entries[(const struct model_entry *)(const void *)t - mf->entries];
		if (first == NULL)
			first = e;
		e->stream = first->stream;
		e->first_element = elements;
		elements += (uint64_t)t->rows * t->cols;
	}
}

int model_random_open(struct model_file *mf, const char *name, struct fault *f)
{
	char known[300] = "";
	const struct random_shape *shape = NULL;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		size_t n = strlen(known);
		snprintf(known + n, sizeof known - n, "%s%s", i > 0 ? ", " : "", shapes[i].name);
		if (strcmp(name, shapes[i].name) == 0)
			shape = &shapes[i];
	}
	if (shape == NULL)
		return fault_set(
			f, SAKIORI_ENOTFOUND, "no shape of the name %.40s is known; there are %s", name, known);
	fill_shape(shape, &mf->shape);
	int rc = model_file_expect(mf, f);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < mf->count; i++) {
		mf->entries[i].public.type = mf->entries[i].public.vector ? STORED_F32 : STORED_BF16;
		mf->entries[i].stream = i + 1; /* 0 made the table */
	}
	static const char *const attention[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", NULL};
	static const char *const mlp[] = {"mlp.gate_proj", "mlp.up_proj", NULL};
	for (unsigned layer = 0; layer < mf->shape.layers; layer++) {
		join(mf, layer, attention);
		join(mf, layer, mlp);
	}
	mf->normals = must_alloc(NORMALS * sizeof *mf->normals);
	struct rng r;
	rng_init(&r, SEED, 0);
	for (size_t i = 0; i < NORMALS; i++)
		mf->normals[i] = f32_to_bf16(DEVIATION * rng_normal(&r));
	return 0;
}

/* Norms are 1 and biases 0. Of matrices, each counter of Philox picks eight values of the table by sixteen bits; no row length of `shapes` is odd to eight. */
void model_random_rows(
	const struct model_file *mf, const struct model_entry *e, size_t first_row, size_t rows, void *out)
{
	size_t cols = e->public.cols, values = rows * cols;
	uint16_t *p = out;
	if (e->public.vector) {
		float *vector = out;
		for (size_t i = 0; i < values; i++)
			vector[i] = e->kind->when == WHEN_QKV_BIAS ? 0 : 1;
		return;
	}
	uint64_t counter = (e->first_element + first_row * cols) / 8;
	for (size_t i = 0; i < values; i += 8, counter++) {
		uint32_t random[4];
		rng_block(SEED, e->stream, counter, random);
		for (unsigned k = 0; k < 4; k++) {
			p[i + 2 * k] = mf->normals[random[k] & 0xffff];
			p[i + 2 * k + 1] = mf->normals[random[k] >> 16];
		}
	}
}

bool model_file_random(const struct model_file *mf, const struct model_tensor *t, struct model_random *out)
{
	const struct model_entry *e = (const void *)t;
	if (mf->normals == NULL || t->vector)
		return false;
	*out = (struct model_random){
		.normals = mf->normals, .seed = SEED, .stream = e->stream, .first_element = e->first_element};
	return true;
}
