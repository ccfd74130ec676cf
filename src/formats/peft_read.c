/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path: the config names rank and alpha, the tensors come in pairs of exactly those shapes.
 * Failure modes: a kind of adapter that this project would apply wrongly (refused by name), halves without their other
 * half, sizes that do not fit, values that are not finite. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "formats/json.h"
#include "formats/peft_private.h"

#define CONFIG_LIMIT ((size_t)1 << 20)
#define RANK_LIMIT 65536
#define LAYER_LIMIT 1024
#define NAME_SHOWN 100

/* Padding to the largest rank may take so many times what is stored. */
#define PADDING_LIMIT 64

/* What peft_free finds behind the public struct. */
struct loaded {
	struct peft_adapter public; /* first */
	uint32_t rank;              /* of the pairs that no pattern names */
	struct peft_pattern ranks, alphas;
	float *values;
	char *base_model;
	struct safetensors *file; /* keeps the notes alive */
	struct safetensors_note *notes;
};

/* null, false, "", [], {} and 0 all say that a feature is off. */
static bool is_off(const json_t *v)
{
	if (v == NULL || json_is_null(v) || json_is_false(v))
		return true;
	if (json_is_array(v))
		return json_array_size(v) == 0;
	if (json_is_object(v))
		return json_object_size(v) == 0;
	return (json_is_string(v) && json_string_length(v) == 0) || (json_is_integer(v) && json_integer_value(v) == 0);
}

static int refuse_features(const json_t *config, struct fault *f)
{
	static const char *const must_be_off[] = {"use_dora", "use_qalora", "lora_bias", "fan_in_fan_out",
		"modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters",
		"alora_invocation_tokens", "megatron_config", "arrow_config"};
	const char *word;
	int rc = json_want_text(config, "peft_type", &word, f);
	if (rc != 0)
		return rc;
	if (strcmp(word, "LORA") != 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED, "\"peft_type\" is not LORA, and no other kind is supported");
	for (size_t i = 0; i < sizeof must_be_off / sizeof *must_be_off; i++)
		if (!is_off(json_object_get(config, must_be_off[i])))
			return fault_set(
				f, SAKIORI_EUNSUPPORTED, "\"%s\" is set, which is not supported", must_be_off[i]);
	const json_t *bias = json_object_get(config, "bias");
	if (!is_off(bias) && (!json_is_string(bias) || strcmp(json_string_value(bias), "none") != 0))
		return fault_set(f, SAKIORI_EUNSUPPORTED, "\"bias\" is not \"none\"; trained biases are not supported");
	return 0;
}

static int parse_config(struct loaded *l, const json_t *config, struct fault *f)
{
	if (!json_is_object(config))
		return fault_set(f, SAKIORI_EFORMAT, "%s, expected an object", json_kind(config));
	int rc = refuse_features(config, f);
	int64_t r;
	if (rc == 0)
		rc = json_want_integer(config, "r", 1, RANK_LIMIT, &r, f);
	if (rc == 0)
		rc = json_want_number(config, "lora_alpha", &l->public.alpha, f);
	if (rc == 0 && json_is_set(config, "use_rslora"))
		rc = json_want_boolean(config, "use_rslora", &l->public.rslora, f);
	const char *base;
	if (rc == 0 && json_is_set(config, "base_model_name_or_path")) {
		rc = json_want_text(config, "base_model_name_or_path", &base, f);
		if (rc == 0)
			l->public.base_model = l->base_model = must_strdup(base);
	}
	if (rc == 0)
		rc = peft_pattern_parse(config, "rank_pattern", &l->ranks, f);
	if (rc == 0)
		rc = peft_pattern_parse(config, "alpha_pattern", &l->alphas, f);
	if (rc == 0)
		l->rank = (uint32_t)r;
	return rc;
}

static int by_place(const void *a, const void *b)
{
	const struct peft_matrix *left = a, *right = b;
	if (left->layer != right->layer)
		return left->layer < right->layer ? -1 : 1;
	return (left->target > right->target) - (left->target < right->target);
}

static int check_half(const struct safetensors_tensor *t, uint32_t rank, char half, struct fault *f)
{
	uint64_t ranked = t->shape[half == 'A' ? 0 : 1], other = t->shape[half == 'A' ? 1 : 0];
	if (t->dimensions != 2 || rank == 0 || ranked != rank || other == 0 || other > UINT32_MAX)
		return fault_set(f, SAKIORI_EFORMAT, "its shape is not %s for rank %" PRIu32,
			half == 'A' ? "(rank, in)" : "(out, rank)", rank);
	if (t->type != SAFETENSORS_F32 && t->type != SAFETENSORS_F16 && t->type != SAFETENSORS_BF16)
		return fault_set(f, SAKIORI_EUNSUPPORTED, "stored as %s; adapters are read in F32, F16 and BF16",
			safetensors_type_name(t->type));
	return 0;
}

/* Reads one half into `out`, widened. */
static int read_half(const struct safetensors *s, const struct safetensors_tensor *t, float *out, struct fault *f)
{
	size_t n = (size_t)(t->bytes / safetensors_type_size(t->type));
	/* the stored values go to the end of their own widened place, so that widening forwards never overtakes them */
	uint8_t *stored = (uint8_t *)(out + n) - t->bytes;
	int rc = safetensors_read(s, t, 0, (size_t)t->bytes, stored, f);
	bool finite = true;
	for (size_t i = 0; rc == 0 && i < n; i++) {
		if (t->type != SAFETENSORS_F32) {
			uint16_t h = (uint16_t)(stored[2 * i] | stored[2 * i + 1] << 8);
			out[i] = t->type == SAFETENSORS_F16 ? f16_to_f32(h) : bf16_to_f32(h);
		}
		finite = finite && isfinite(out[i]);
	}
	if (rc == 0 && !finite)
		rc = fault_set(f, SAKIORI_EFORMAT, "tensor %s has a value that is not a finite number", t->name);
	return rc;
}

/* The rank that the configuration gives a pair; 0 where it is none. */
static uint32_t configured_rank(const struct loaded *l, uint32_t layer, enum peft_target target)
{
	char module[PEFT_NAME_SIZE];
	peft_module_name(layer, target, module);
	double rank = peft_pattern_value(&l->ranks, module, l->rank);
	return rank == floor(rank) && rank <= RANK_LIMIT ? (uint32_t)rank : 0;
}

/* The scale that the configuration gives a pair of this rank. */
static double configured_scale(const struct loaded *l, const struct peft_matrix *m)
{
	char module[PEFT_NAME_SIZE];
	peft_module_name(m->layer, m->target, module);
	double alpha = peft_pattern_value(&l->alphas, module, l->public.alpha), rank = m->rank;
	return alpha / (l->public.rslora ? sqrt(rank) : rank);
}

/* The pairs that the tensor names spell, sorted, without their values. *stored: values in the file. */
static int list_pairs(struct loaded *l, size_t *stored, struct fault *f)
{
	struct peft_adapter *a = &l->public;
	size_t n = safetensors_count(l->file);
	a->matrices = must_calloc(n + 1, sizeof *a->matrices);
	for (size_t i = 0; i < n; i++) {
		const struct safetensors_tensor *t = safetensors_at(l->file, i);
		struct peft_matrix m = {0};
		char half;
		if (!peft_tensor_parse(t->name, &m.layer, &m.target, &half) || m.layer >= LAYER_LIMIT)
			return fault_set(f, SAKIORI_EUNSUPPORTED, "tensor %.*s is not a LoRA factor of a Llama block",
				NAME_SHOWN, t->name);
		m.rank = configured_rank(l, m.layer, m.target);
		int rc = check_half(t, m.rank, half, f);
		if (rc != 0) {
			fault_wrap(f, "tensor %s", t->name);
			return rc;
		}
		*stored += (size_t)(t->bytes / safetensors_type_size(t->type));
		if (half == 'A')
			a->matrices[a->count++] = m;
	}
	if (a->count == 0)
		return fault_set(f, SAKIORI_EFORMAT, "no LoRA factors in it");
	qsort(a->matrices, a->count, sizeof *a->matrices, by_place);
	return 0;
}

/* Finds both halves' sizes; *values: of all pairs, each padded to `rank`. */
static int measure_pairs(struct loaded *l, uint32_t rank, size_t stored, size_t *values, struct fault *f)
{
	struct peft_adapter *a = &l->public;
	size_t found = 0;
	for (size_t i = 0; i < a->count; i++) {
		struct peft_matrix *m = &a->matrices[i];
		char name[PEFT_NAME_SIZE];
		peft_tensor_name(m->layer, m->target, 'A', name);
		const struct safetensors_tensor *ta = safetensors_find(l->file, name);
		peft_tensor_name(m->layer, m->target, 'B', name);
		const struct safetensors_tensor *tb = safetensors_find(l->file, name);
		if (tb == NULL)
			return fault_set(f, SAKIORI_EFORMAT, "tensor %s is missing", name);
		m->in = (uint32_t)ta->shape[1];
		m->out = (uint32_t)tb->shape[0];
		found += (size_t)m->rank * ((size_t)m->in + m->out);
		size_t padded;
		if (!size_mul(rank, (size_t)m->in + m->out, &padded) || !size_add(*values, padded, values))
			*values = SIZE_MAX;
	}
	if (found != stored)
		return fault_set(f, SAKIORI_EFORMAT, "a lora_B without its lora_A");
	if (*values / PADDING_LIMIT > stored)
		return fault_set(f, SAKIORI_ELIMIT,
			"ranks differ so much that one rank for all takes more than %d times the memory",
			PADDING_LIMIT);
	return 0;
}

/* (out, rank) becomes (out, wide), zeros behind each row, times factor. From the end, so that nothing is overwritten before it is read. */
static void spread(float *b, size_t out, size_t rank, size_t wide, double factor)
{
	for (size_t i = out; i-- > 0;)
		for (size_t r = wide; r-- > 0;)
			b[i * wide + r] = r < rank ? (float)(factor * (double)b[i * rank + r]) : 0;
}

/* Reads both halves to `at`, the pair becoming one of rank `wide`. */
static int read_pair(struct loaded *l, struct peft_matrix *m, uint32_t wide, double factor, float *at, struct fault *f)
{
	char name[PEFT_NAME_SIZE];
	float *b = at + (size_t)wide * m->in;
	peft_tensor_name(m->layer, m->target, 'A', name);
	int rc = read_half(l->file, safetensors_find(l->file, name), at, f);
	peft_tensor_name(m->layer, m->target, 'B', name);
	if (rc == 0)
		rc = read_half(l->file, safetensors_find(l->file, name), b, f);
	if (rc != 0)
		return rc;
	memset(at + (size_t)m->rank * m->in, 0, (size_t)(wide - m->rank) * m->in * sizeof *at);
	if (wide != m->rank || factor != 1)
		spread(b, m->out, m->rank, wide, factor);
	m->a = at;
	m->b = b;
	m->rank = wide;
	return 0;
}

/* One rank and one scale for all: those of the configuration, or what the patterns leave. */
static void unify(struct loaded *l, uint32_t *rank, double *scale)
{
	struct peft_adapter *a = &l->public;
	bool same = true;
	*rank = 0;
	*scale = configured_scale(l, &a->matrices[0]);
	for (size_t i = 0; i < a->count; i++) {
		*rank = a->matrices[i].rank > *rank ? a->matrices[i].rank : *rank;
		same = same && configured_scale(l, &a->matrices[i]) == *scale;
	}
	*scale = same ? *scale : 1;
}

static int read_tensors(struct loaded *l, struct fault *f)
{
	struct peft_adapter *a = &l->public;
	size_t stored = 0, values = 0;
	uint32_t rank;
	double scale;
	int rc = list_pairs(l, &stored, f);
	if (rc != 0)
		return rc;
	unify(l, &rank, &scale);
	rc = measure_pairs(l, rank, stored, &values, f);
	if (rc != 0)
		return rc;
	l->values = malloc(values * sizeof *l->values);
	if (l->values == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for an adapter of %zu values", values);
	float *at = l->values;
	for (size_t i = 0; i < a->count && rc == 0; i++) {
		struct peft_matrix *m = &a->matrices[i];
		double own = configured_scale(l, m);
		rc = read_pair(l, m, rank, own == scale ? 1 : own / scale, at, f);
		at += (size_t)rank * ((size_t)m->in + m->out);
	}
	if (l->ranks.count || l->alphas.count) {
		a->alpha = scale * rank;
		a->rslora = false;
	}
	return rc;
}

static void borrow_notes(struct loaded *l)
{
	size_t n = safetensors_note_count(l->file);
	l->notes = must_calloc(n + 1, sizeof *l->notes);
	for (size_t i = 0; i < n; i++)
		if (strcmp(safetensors_note_at(l->file, i).key, "format") != 0) /* the container's, not ours */
			l->notes[l->public.note_count++] = safetensors_note_at(l->file, i);
	l->public.notes = l->notes;
}

int peft_read(const char *path, struct peft_adapter **out, struct fault *f)
{
	*out = NULL;
	char file[4096];
	if (snprintf(file, sizeof file, "%s/" PEFT_CONFIG, path) >= (int)sizeof file - 32)
		return fault_set(f, SAKIORI_EINVAL, "the path is too long: %.60s...", path);
	json_t *config;
	int rc = json_parse_file(file, CONFIG_LIMIT, &config, f);
	if (rc != 0)
		return rc;
	struct loaded *l = must_calloc(1, sizeof *l);
	rc = parse_config(l, config, f);
	json_decref(config);
	if (rc != 0) {
		fault_wrap(f, "%s", file);
		peft_free(&l->public);
		return rc;
	}
	snprintf(file, sizeof file, "%s/" PEFT_TENSORS, path);
	rc = safetensors_open(file, &l->file, f);
	if (rc == 0) {
		borrow_notes(l);
		rc = read_tensors(l, f);
		if (rc != 0)
			fault_wrap(f, "%s", file);
	}
	if (rc != 0) {
		peft_free(&l->public);
		return rc;
	}
	*out = &l->public;
	return 0;
}

void peft_fold(struct peft_adapter *a)
{
	double scale = peft_scale(a);
	for (size_t i = 0; i < a->count; i++) {
		const struct peft_matrix *m = &a->matrices[i];
		float *b = (float *)m->b; /* within `values` */
		for (size_t k = 0; k < (size_t)m->out * m->rank; k++)
			b[k] = (float)(scale * (double)b[k]);
	}
	a->alpha = a->matrices[0].rank;
	a->rslora = false;
}

void peft_free(struct peft_adapter *a)
{
	struct loaded *l = (struct loaded *)(void *)a;
	if (l == NULL)
		return;
	free(l->public.matrices);
	free(l->values);
	free(l->base_model);
	free(l->notes);
	peft_pattern_fini(&l->ranks);
	peft_pattern_fini(&l->alphas);
	safetensors_close(l->file);
	free(l);
}
