/* SPDX-License-Identifier: Apache-2.0 */
/* A model in GGUF: its shape out of the metadata, llama.cpp's tensor names and row order, and what must be refused. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/model_file_private.h"

#define ROPE_FACTORS "rope_freqs.weight"

/* One file on its way in. */
struct reading {
	const struct gguf *g;
	const struct architecture *architecture;
	struct model_shape *shape;
	char key[80];
};

/* The architecture's own key of that name; valid until the next call. */
static const char *key(struct reading *r, const char *name)
{
	snprintf(r->key, sizeof r->key, "%s.%s", r->architecture->gguf, name);
	return r->key;
}

void model_file_gguf_name(const struct model_tensor *t, char out[static MODEL_GGUF_NAME_SIZE])
{
	const struct model_entry *e = (const struct model_entry *)(const void *)t;
	if (strncmp(e->name, "model.layers.", 13) == 0)
		snprintf(out, MODEL_GGUF_NAME_SIZE, "blk.%u.%s", e->layer, e->kind->gguf);
	else
		snprintf(out, MODEL_GGUF_NAME_SIZE, "%s", e->kind->gguf);
}

static bool text_is(struct gguf_text t, const char *word)
{
	return t.size == strlen(word) && memcmp(t.data, word, t.size) == 0;
}

/* At most size - 1 bytes, with '?' for whatever could upset a terminal or a log line. */
static void copy_printable(struct gguf_text t, char *out, size_t size)
{
	size_t n = t.size < size - 1 ? t.size : size - 1;
	for (size_t i = 0; i < n; i++)
		out[i] = t.data[i] >= 0x20 && t.data[i] <= 0x7e ? t.data[i] : '?';
	out[n] = '\0';
}

/* A key of the architecture that must be there, or may be absent, which leaves *out as it is. */
static int want_u32(struct reading *r, const char *name, uint32_t *out, struct fault *f)
{
	return gguf_get_u32(r->g, key(r, name), out, f);
}

static int optional_u32(struct reading *r, const char *name, uint32_t *out, struct fault *f)
{
	return gguf_has(r->g, key(r, name)) ? gguf_get_u32(r->g, r->key, out, f) : 0;
}

static int optional_f32(struct reading *r, const char *name, float *out, struct fault *f)
{
	return gguf_has(r->g, key(r, name)) ? gguf_get_f32(r->g, r->key, out, f) : 0;
}

static int check_kind_of_file(struct reading *r, struct fault *f)
{
	struct gguf_text text;
	int rc = gguf_get_text(r->g, "general.architecture", &text, f);
	if (rc != 0)
		return rc;
	char word[32];
	copy_printable(text, word, sizeof word);
	r->architecture = text.size < sizeof word ? architecture_of_gguf(word) : NULL;
	if (r->architecture == NULL)
		return architecture_refuse(word, f);
	if (gguf_has(r->g, "general.type")) {
		rc = gguf_get_text(r->g, "general.type", &text, f);
		if (rc != 0)
			return rc;
		copy_printable(text, word, sizeof word);
		if (!text_is(text, "model"))
			return fault_set(f, SAKIORI_EUNSUPPORTED, "the file holds %s %s, expected a model",
				strchr("aeiou", word[0]) ? "an" : "a", word);
	}
	uint32_t parts = 1;
	if (gguf_has(r->g, "split.count"))
		rc = gguf_get_u32(r->g, "split.count", &parts, f);
	if (rc == 0 && parts > 1)
		rc = fault_set(f, SAKIORI_EUNSUPPORTED,
			"the model is split over %" PRIu32 " files; join them with llama-gguf-split --merge", parts);
	return rc;
}

/* Features that change the arithmetic and that the model code does not have. */
static int check_features(struct reading *r, struct fault *f)
{
	static const char *const zero_keys[] = {"expert_count", "attention.clamp_kqv", "attention.sliding_window"};
	size_t keys = sizeof zero_keys / sizeof *zero_keys - (r->architecture->windows == WINDOWS_EVEN);
	for (size_t i = 0; i < keys; i++) {
		uint32_t v = 0;
		int rc = optional_u32(r, zero_keys[i], &v, f);
		if (rc == 0 && v != 0)
			rc = fault_set(f, SAKIORI_EUNSUPPORTED, "%s is %" PRIu32 ", which is not supported", r->key, v);
		if (rc != 0)
			return rc;
	}
	if (gguf_has(r->g, key(r, "attention.causal"))) {
		bool causal;
		int rc = gguf_get_bool(r->g, r->key, &causal, f);
		if (rc == 0 && !causal)
			rc = fault_set(f, SAKIORI_EUNSUPPORTED, "attention that is not causal is not supported");
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* The factor of all pairs alike; 1 without scaling. A bare factor is linear, as llama.cpp takes it. */
static int read_linear_scaling(struct reading *r, float *factor, struct fault *f)
{
	*factor = 1;
	if (gguf_has(r->g, key(r, "rope.scaling.type"))) {
		struct gguf_text text;
		char scaling[32];
		int rc = gguf_get_text(r->g, r->key, &text, f);
		if (rc != 0)
			return rc;
		copy_printable(text, scaling, sizeof scaling);
		if (strcmp(scaling, "none") == 0)
			return 0;
		if (!text_is(text, "linear"))
			return fault_set(f, SAKIORI_EUNSUPPORTED,
				"rope scaling %s is not supported; none, linear and llama3 are", scaling);
	}
	int rc = optional_f32(r, "rope.scaling.factor", factor, f);
	if (rc == 0)
		rc = optional_f32(r, "rope.scale_linear", factor, f);
	if (*factor == 0)
		*factor = 1;
	return rc;
}

/* Scaling of kind llama3 comes as its result, a factor for each pair, in a tensor of its own. */
static int read_rope_factors(struct reading *r, struct fault *f)
{
	struct model_shape *s = r->shape;
	const struct gguf_tensor *t = gguf_tensor_find(r->g, ROPE_FACTORS);
	size_t pairs = s->head_size / 2;
	float linear;
	int rc = read_linear_scaling(r, &linear, f);
	if (rc != 0 || pairs > MODEL_HEAD_SIZE_MAX / 2)
		return rc; /* the head size is refused later, with all that is out of range */
	for (size_t i = 0; i < pairs; i++)
		s->rope_factors[i] = 1;
	if (t != NULL && (t->type != STORED_F32 || t->shape[0] != pairs || t->bytes != pairs * sizeof(float)))
		return fault_set(f, SAKIORI_EFORMAT, "tensor %s is not one row of %zu numbers in F32", t->name, pairs);
	if (t != NULL)
		rc = gguf_read(r->g, t, 0, pairs * sizeof(float), s->rope_factors, f);
	for (size_t i = 0; i < pairs; i++)
		s->rope_factors[i] *= linear;
	return rc;
}

/* ARCHITECTURE.vocab_size, else the tokens of the vocabulary, else the rows of the embedding. */
static int read_vocabulary(struct reading *r, struct fault *f)
{
	if (gguf_has(r->g, key(r, "vocab_size")))
		return gguf_get_u32(r->g, r->key, &r->shape->vocabulary, f);
	if (gguf_has(r->g, "tokenizer.ggml.tokens")) {
		struct gguf_text *tokens;
		size_t count;
		int rc = gguf_get_texts(r->g, "tokenizer.ggml.tokens", &tokens, &count, f);
		free(tokens);
		r->shape->vocabulary = (uint32_t)count; /* the metadata's size bounds it far below 2^32 */
		return rc;
	}
	const struct gguf_tensor *t = gguf_tensor_find(r->g, "token_embd.weight");
	r->shape->vocabulary = t != NULL && t->shape[1] <= UINT32_MAX ? (uint32_t)t->shape[1] : 0;
	return 0;
}

static int read_heads(struct reading *r, struct fault *f)
{
	struct model_shape *s = r->shape;
	int rc = want_u32(r, "attention.head_count", &s->heads, f);
	if (rc != 0)
		return rc;
	s->kv_heads = s->heads;
	rc = optional_u32(r, "attention.head_count_kv", &s->kv_heads, f);
	if (rc != 0)
		return rc;
	if (s->heads == 0)
		return fault_set(f, SAKIORI_EFORMAT, "%s is 0", key(r, "attention.head_count"));
	if (!gguf_has(r->g, key(r, "attention.key_length")) && s->hidden % s->heads != 0)
		return fault_set(f, SAKIORI_EFORMAT, "hidden size %" PRIu32 " is not a multiple of %" PRIu32 " heads",
			s->hidden, s->heads);
	s->head_size = s->hidden / s->heads;
	rc = optional_u32(r, "attention.key_length", &s->head_size, f);
	static const char *const same_keys[] = {"attention.value_length", "rope.dimension_count"};
	for (size_t i = 0; rc == 0 && i < sizeof same_keys / sizeof *same_keys; i++) {
		uint32_t v = s->head_size;
		rc = optional_u32(r, same_keys[i], &v, f);
		if (rc == 0 && v != s->head_size)
			rc = fault_set(f, SAKIORI_EUNSUPPORTED,
				"%s is %" PRIu32 ", but heads are of size %" PRIu32 "; they must be the same", r->key,
				v, s->head_size);
	}
	return rc;
}

/* Gemma 2's, as llama.cpp has them: the scale of the scores follows from the size of the model. */
static int read_scores(struct reading *r, struct fault *f)
{
	enum { LAYERS_OF_27B = 46 };
	struct model_shape *s = r->shape;
	s->score_softcap = 50;
	s->logit_softcap = 30;
	s->window = r->architecture->window;
	s->query_scalar = (float)(s->layers == LAYERS_OF_27B ? s->hidden / s->heads : s->head_size);
	int rc = optional_f32(r, "attn_logit_softcapping", &s->score_softcap, f);
	if (rc == 0)
		rc = optional_f32(r, "final_logit_softcapping", &s->logit_softcap, f);
	if (rc == 0)
		rc = optional_u32(r, "attention.sliding_window", &s->window, f);
	for (uint32_t i = 0; i < s->layers && i < MODEL_LAYERS_MAX; i += 2)
		s->windowed[i] = s->window != 0;
	return rc;
}

static int read_shape(struct reading *r, struct fault *f)
{
	struct model_shape *s = r->shape;
	model_file_follow(s, r->architecture);
	struct gguf_text name;
	if (gguf_has(r->g, "general.name") && gguf_get_text(r->g, "general.name", &name, f) == 0)
		copy_printable(name, s->name, sizeof s->name);
	s->rope_theta = 10000.0f; /* llama.cpp's default */
	s->tied = gguf_tensor_find(r->g, "output.weight") == NULL;
	int rc = want_u32(r, "embedding_length", &s->hidden, f);
	if (rc == 0)
		rc = want_u32(r, "feed_forward_length", &s->intermediate, f);
	if (rc == 0)
		rc = want_u32(r, "block_count", &s->layers, f);
	if (rc == 0)
		rc = want_u32(r, "context_length", &s->context, f);
	if (rc == 0)
		rc = gguf_get_f32(r->g, key(r, "attention.layer_norm_rms_epsilon"), &s->norm_epsilon, f);
	if (rc == 0)
		rc = optional_f32(r, "rope.freq_base", &s->rope_theta, f);
	if (rc == 0)
		rc = read_vocabulary(r, f);
	if (rc == 0)
		rc = read_heads(r, f);
	if (rc == 0)
		rc = read_rope_factors(r, f);
	if (rc == 0 && r->architecture->softcaps)
		rc = read_scores(r, f);
	return rc;
}

static int bind(struct model_file *mf, const struct architecture *architecture, struct model_entry *e, struct fault *f)
{
	char name[MODEL_GGUF_NAME_SIZE];
	model_file_gguf_name(&e->public, name);
	const struct gguf_tensor *t = gguf_tensor_find(mf->gguf, name);
	if (t == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "tensor %s (%s) is missing", name, e->name);
	bool plain = t->shape[2] == 1 && t->shape[3] == 1;
	if (!plain || t->shape[0] != e->public.cols || t->shape[1] != e->public.rows)
		return fault_set(f, SAKIORI_EFORMAT,
			"tensor %s has %" PRIu64 " rows of %" PRIu64 "%s, but the metadata asks for %zu rows of %zu",
			name, t->shape[1], t->shape[0], plain ? "" : " and further dimensions", e->public.rows,
			e->public.cols);
	e->gguf = t;
	e->source_type = t->type;
	e->public.type = e->public.vector ? STORED_F32 : t->type;
	if (architecture->permutes && strcmp(e->kind->gguf, "attn_q.weight") == 0)
		e->permuted_heads = mf->shape.heads;
	else if (architecture->permutes && strcmp(e->kind->gguf, "attn_k.weight") == 0)
		e->permuted_heads = mf->shape.kv_heads;
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct gguf_tensor *left = *(const struct gguf_tensor *const *)a,
				 *right = *(const struct gguf_tensor *const *)b;
	return (left->offset > right->offset) - (left->offset < right->offset);
}

/* A tensor that nothing reads would be left out of the arithmetic in silence: a bias, an expert. */
static int refuse_the_rest(const struct model_file *mf, struct fault *f)
{
	size_t all = gguf_tensor_count(mf->gguf);
	if (all == mf->count + (gguf_tensor_find(mf->gguf, ROPE_FACTORS) != NULL))
		return 0; /* each entry has a tensor of its own */
	const struct gguf_tensor **used = calloc(mf->count, sizeof *used);
	if (used == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for %zu tensors", mf->count);
	for (size_t i = 0; i < mf->count; i++)
		used[i] = mf->entries[i].gguf;
	qsort(used, mf->count, sizeof *used, by_offset);
	int rc = 0;
	for (size_t i = 0; i < all && rc == 0; i++) {
		const struct gguf_tensor *t = gguf_tensor_at(mf->gguf, i);
		if (strcmp(t->name, ROPE_FACTORS) != 0 && bsearch(&t, used, mf->count, sizeof *used, by_offset) == NULL)
			rc = fault_set(f, SAKIORI_EUNSUPPORTED,
				"tensor %s has no place in a %s of this shape; it is not supported", t->name,
				mf->shape.architecture);
	}
	free(used);
	return rc;
}

int model_gguf_open(struct model_file *mf, struct fault *f)
{
	struct reading r = {.g = mf->gguf, .shape = &mf->shape};
	int rc = check_kind_of_file(&r, f);
	if (rc == 0)
		rc = check_features(&r, f);
	if (rc == 0)
		rc = read_shape(&r, f);
	if (rc == 0)
		rc = model_file_expect(mf, f);
	for (size_t i = 0; rc == 0 && i < mf->count; i++)
		rc = bind(mf, r.architecture, &mf->entries[i], f);
	if (rc == 0)
		rc = refuse_the_rest(mf, f);
	return rc;
}
