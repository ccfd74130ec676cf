/* SPDX-License-Identifier: Apache-2.0 */
/* A Llama in GGUF: its shape out of the metadata, llama.cpp's tensor names and row order, and what must be refused. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/model_file_private.h"

#define ROPE_FACTORS "rope_freqs.weight"

/* Both names of a block's tensors; the rows of q and k lie permuted. */
static const struct {
	const char *hugging_face, *ggml;
} block_names[] = {
	{"input_layernorm", "attn_norm"},
	{"self_attn.q_proj", "attn_q"},
	{"self_attn.k_proj", "attn_k"},
	{"self_attn.v_proj", "attn_v"},
	{"self_attn.o_proj", "attn_output"},
	{"post_attention_layernorm", "ffn_norm"},
	{"mlp.gate_proj", "ffn_gate"},
	{"mlp.up_proj", "ffn_up"},
	{"mlp.down_proj", "ffn_down"},
};

static const struct {
	const char *hugging_face, *ggml;
} outer_names[] = {
	{"model.embed_tokens.weight", "token_embd.weight"},
	{"model.norm.weight", "output_norm.weight"},
	{"lm_head.weight", "output.weight"},
};

void model_file_gguf_name(const char *hugging_face, char out[static MODEL_GGUF_NAME_SIZE])
{
	unsigned layer;
	int rest = 0;
	out[0] = '\0';
	for (size_t i = 0; i < sizeof outer_names / sizeof *outer_names; i++)
		if (strcmp(hugging_face, outer_names[i].hugging_face) == 0)
			snprintf(out, MODEL_GGUF_NAME_SIZE, "%s", outer_names[i].ggml);
	if (sscanf(hugging_face, "model.layers.%u.%n", &layer, &rest) != 1)
		return;
	size_t n = strlen(hugging_face + rest) - strlen(".weight");
	for (size_t i = 0; i < sizeof block_names / sizeof *block_names; i++)
		if (strlen(block_names[i].hugging_face) == n &&
			memcmp(hugging_face + rest, block_names[i].hugging_face, n) == 0)
			snprintf(out, MODEL_GGUF_NAME_SIZE, "blk.%u.%s.weight", layer, block_names[i].ggml);
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

/* A key that may be absent, which leaves *out as it is. */
static int optional_u32(const struct gguf *g, const char *key, uint32_t *out, struct fault *f)
{
	return gguf_has(g, key) ? gguf_get_u32(g, key, out, f) : 0;
}

static int optional_f32(const struct gguf *g, const char *key, float *out, struct fault *f)
{
	return gguf_has(g, key) ? gguf_get_f32(g, key, out, f) : 0;
}

static int check_kind_of_file(const struct gguf *g, struct fault *f)
{
	struct gguf_text text;
	int rc = gguf_get_text(g, "general.architecture", &text, f);
	if (rc != 0)
		return rc;
	char word[32];
	copy_printable(text, word, sizeof word);
	if (!text_is(text, "llama"))
		return fault_set(f, SAKIORI_EUNSUPPORTED, "architecture %s is not supported; llama is", word);
	if (gguf_has(g, "general.type")) {
		rc = gguf_get_text(g, "general.type", &text, f);
		if (rc != 0)
			return rc;
		copy_printable(text, word, sizeof word);
		if (!text_is(text, "model"))
			return fault_set(f, SAKIORI_EUNSUPPORTED, "the file holds %s %s, expected a model",
				strchr("aeiou", word[0]) ? "an" : "a", word);
	}
	uint32_t parts = 1;
	rc = optional_u32(g, "split.count", &parts, f);
	if (rc == 0 && parts > 1)
		rc = fault_set(f, SAKIORI_EUNSUPPORTED,
			"the model is split over %" PRIu32 " files; join them with llama-gguf-split --merge", parts);
	return rc;
}

/* Features that change the arithmetic and that the model code does not have. */
static int check_features(const struct gguf *g, struct fault *f)
{
	static const char *const zero_keys[] = {
		"llama.expert_count", "llama.attention.sliding_window", "llama.attention.clamp_kqv"};
	for (size_t i = 0; i < sizeof zero_keys / sizeof *zero_keys; i++) {
		uint32_t v = 0;
		int rc = optional_u32(g, zero_keys[i], &v, f);
		if (rc == 0 && v != 0)
			rc = fault_set(
				f, SAKIORI_EUNSUPPORTED, "%s is %" PRIu32 ", which is not supported", zero_keys[i], v);
		if (rc != 0)
			return rc;
	}
	if (gguf_has(g, "llama.attention.causal")) {
		bool causal;
		int rc = gguf_get_bool(g, "llama.attention.causal", &causal, f);
		if (rc == 0 && !causal)
			rc = fault_set(f, SAKIORI_EUNSUPPORTED, "attention that is not causal is not supported");
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* The factor of all pairs alike; 1 without scaling. A bare factor is linear, as llama.cpp takes it. */
static int read_linear_scaling(const struct gguf *g, float *factor, struct fault *f)
{
	*factor = 1;
	if (gguf_has(g, "llama.rope.scaling.type")) {
		struct gguf_text text;
		char scaling[32];
		int rc = gguf_get_text(g, "llama.rope.scaling.type", &text, f);
		if (rc != 0)
			return rc;
		copy_printable(text, scaling, sizeof scaling);
		if (strcmp(scaling, "none") == 0)
			return 0;
		if (!text_is(text, "linear"))
			return fault_set(f, SAKIORI_EUNSUPPORTED,
				"rope scaling %s is not supported; none, linear and llama3 are", scaling);
	}
	int rc = optional_f32(g, "llama.rope.scaling.factor", factor, f);
	if (rc == 0)
		rc = optional_f32(g, "llama.rope.scale_linear", factor, f);
	if (*factor == 0)
		*factor = 1;
	return rc;
}

/* Scaling of kind llama3 comes as its result, a factor for each pair, in a tensor of its own. */
static int read_rope_factors(const struct gguf *g, struct model_shape *s, struct fault *f)
{
	const struct gguf_tensor *t = gguf_tensor_find(g, ROPE_FACTORS);
	size_t pairs = s->head_size / 2;
	float linear;
	int rc = read_linear_scaling(g, &linear, f);
	if (rc != 0 || pairs > MODEL_HEAD_SIZE_MAX / 2)
		return rc; /* the head size is refused later, with all that is out of range */
	for (size_t i = 0; i < pairs; i++)
		s->rope_factors[i] = 1;
	if (t != NULL && (t->type != STORED_F32 || t->shape[0] != pairs || t->bytes != pairs * sizeof(float)))
		return fault_set(f, SAKIORI_EFORMAT, "tensor %s is not one row of %zu numbers in F32", t->name, pairs);
	if (t != NULL)
		rc = gguf_read(g, t, 0, pairs * sizeof(float), s->rope_factors, f);
	for (size_t i = 0; i < pairs; i++)
		s->rope_factors[i] *= linear;
	return rc;
}

/* llama.vocab_size, else the tokens of the vocabulary, else the rows of the embedding. */
static int read_vocabulary(const struct gguf *g, struct model_shape *s, struct fault *f)
{
	if (gguf_has(g, "llama.vocab_size"))
		return gguf_get_u32(g, "llama.vocab_size", &s->vocabulary, f);
	if (gguf_has(g, "tokenizer.ggml.tokens")) {
		struct gguf_text *tokens;
		size_t count;
		int rc = gguf_get_texts(g, "tokenizer.ggml.tokens", &tokens, &count, f);
		free(tokens);
		s->vocabulary = (uint32_t)count; /* the metadata's size bounds it far below 2^32 */
		return rc;
	}
	const struct gguf_tensor *t = gguf_tensor_find(g, "token_embd.weight");
	s->vocabulary = t != NULL && t->shape[1] <= UINT32_MAX ? (uint32_t)t->shape[1] : 0;
	return 0;
}

static int read_heads(const struct gguf *g, struct model_shape *s, struct fault *f)
{
	int rc = gguf_get_u32(g, "llama.attention.head_count", &s->heads, f);
	if (rc != 0)
		return rc;
	s->kv_heads = s->heads;
	rc = optional_u32(g, "llama.attention.head_count_kv", &s->kv_heads, f);
	if (rc != 0)
		return rc;
	if (s->heads == 0)
		return fault_set(f, SAKIORI_EFORMAT, "llama.attention.head_count is 0");
	if (!gguf_has(g, "llama.attention.key_length") && s->hidden % s->heads != 0)
		return fault_set(f, SAKIORI_EFORMAT, "hidden size %" PRIu32 " is not a multiple of %" PRIu32 " heads",
			s->hidden, s->heads);
	s->head_size = s->hidden / s->heads;
	rc = optional_u32(g, "llama.attention.key_length", &s->head_size, f);
	static const char *const same_keys[] = {"llama.attention.value_length", "llama.rope.dimension_count"};
	for (size_t i = 0; rc == 0 && i < sizeof same_keys / sizeof *same_keys; i++) {
		uint32_t v = s->head_size;
		rc = optional_u32(g, same_keys[i], &v, f);
		if (rc == 0 && v != s->head_size)
			rc = fault_set(f, SAKIORI_EUNSUPPORTED,
				"%s is %" PRIu32 ", but heads are of size %" PRIu32 "; they must be the same",
				same_keys[i], v, s->head_size);
	}
	return rc;
}

static int read_shape(const struct gguf *g, struct model_shape *s, struct fault *f)
{
	snprintf(s->architecture, sizeof s->architecture, "llama");
	struct gguf_text name;
	if (gguf_has(g, "general.name") && gguf_get_text(g, "general.name", &name, f) == 0)
		copy_printable(name, s->name, sizeof s->name);
	s->rope_theta = 10000.0f; /* llama.cpp's default */
	s->tied = gguf_tensor_find(g, "output.weight") == NULL;
	int rc = gguf_get_u32(g, "llama.embedding_length", &s->hidden, f);
	if (rc == 0)
		rc = gguf_get_u32(g, "llama.feed_forward_length", &s->intermediate, f);
	if (rc == 0)
		rc = gguf_get_u32(g, "llama.block_count", &s->layers, f);
	if (rc == 0)
		rc = gguf_get_u32(g, "llama.context_length", &s->context, f);
	if (rc == 0)
		rc = gguf_get_f32(g, "llama.attention.layer_norm_rms_epsilon", &s->norm_epsilon, f);
	if (rc == 0)
		rc = optional_f32(g, "llama.rope.freq_base", &s->rope_theta, f);
	if (rc == 0)
		rc = read_vocabulary(g, s, f);
	if (rc == 0)
		rc = read_heads(g, s, f);
	if (rc == 0)
		rc = read_rope_factors(g, s, f);
	return rc;
}

static int bind(struct model_file *mf, struct model_entry *e, struct fault *f)
{
	char name[MODEL_GGUF_NAME_SIZE];
	model_file_gguf_name(e->name, name);
	const struct gguf_tensor *t = gguf_tensor_find(mf->gguf, name);
	if (t == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "tensor %s (%s) is missing", name, e->name);
	bool plain = t->shape[2] == 1 && t->shape[3] == 1;
	if (!plain || t->shape[0] != e->public.cols || t->shape[1] != e->public.rows)
		return fault_set(f, SAKIORI_EFORMAT,
			"tensor %s has %" PRIu64 " rows of %" PRIu64 "%s, but the metadata asks for %zu rows of %zu",
			name, t->shape[1], t->shape[0], plain ? "" : " and further dimensions", e->public.rows,
			e->public.cols);
	e->source = t;
	e->public.type = t->type;
	if (strstr(e->name, "q_proj") != NULL)
		e->permuted_heads = mf->shape.heads;
	else if (strstr(e->name, "k_proj") != NULL)
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
		used[i] = mf->entries[i].source;
	qsort(used, mf->count, sizeof *used, by_offset);
	int rc = 0;
	for (size_t i = 0; i < all && rc == 0; i++) {
		const struct gguf_tensor *t = gguf_tensor_at(mf->gguf, i);
		if (strcmp(t->name, ROPE_FACTORS) != 0 && bsearch(&t, used, mf->count, sizeof *used, by_offset) == NULL)
			rc = fault_set(f, SAKIORI_EUNSUPPORTED,
				"tensor %s has no place in a Llama of this shape; it is not supported", t->name);
	}
	free(used);
	return rc;
}

int model_gguf_open(struct model_file *mf, struct fault *f)
{
	int rc = check_kind_of_file(mf->gguf, f);
	if (rc == 0)
		rc = check_features(mf->gguf, f);
	if (rc == 0)
		rc = read_shape(mf->gguf, &mf->shape, f);
	if (rc == 0)
		rc = model_file_expect(mf, f);
	for (size_t i = 0; rc == 0 && i < mf->count; i++)
		rc = bind(mf, &mf->entries[i], f);
	if (rc == 0)
		rc = refuse_the_rest(mf, f);
	return rc;
}
