/* SPDX-License-Identifier: Apache-2.0 */
/* config.json and model.safetensors.index.json of a Hugging Face folder. transformers 4 writes rope_theta and rope_scaling,
 * 5 writes rope_parameters; a key that is null counts as absent. What would change the arithmetic and is not known is refused by
 * name; what only concerns transformers is not looked at. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "formats/model_file_private.h"

/* No model of today comes near; each is an open file. */
#define FILES_LIMIT 512

static int want_u32(const json_t *config, const char *key, uint32_t *out, struct fault *f)
{
	int64_t v = 0;
	int rc = json_want_integer(config, key, 1, UINT32_MAX, &v, f);
	*out = (uint32_t)v;
	return rc;
}

static int optional_u32(const json_t *config, const char *key, uint32_t *out, struct fault *f)
{
	return json_is_set(config, key) ? want_u32(config, key, out, f) : 0;
}

static int want_f32(const json_t *object, const char *key, float *out, struct fault *f)
{
	double v = 0;
	int rc = json_want_number(object, key, &v, f);
	*out = (float)v;
	return rc;
}

static int optional_boolean(const json_t *config, const char *key, bool *out, struct fault *f)
{
	return json_is_set(config, key) ? json_want_boolean(config, key, out, f) : 0;
}

/* A word of the file for a sentence: whatever could upset a terminal becomes '?'. */
static void copy_printable(const char *word, char out[static 48])
{
	snprintf(out, 48, "%s", word);
	for (char *p = out; *p != '\0'; p++)
		if (*p < 0x20 || *p > 0x7e)
			*p = '?';
}

static int refuse_word(const char *what, const char *word, const char *expected, struct fault *f)
{
	char shown[48];
	copy_printable(word, shown);
	return fault_set(f, SAKIORI_EUNSUPPORTED, "%s %s is not supported; %s", what, shown, expected);
}

static int read_architecture(const json_t *config, const struct architecture **out, struct fault *f)
{
	const char *word;
	int rc = json_want_text(config, "model_type", &word, f);
	if (rc != 0)
		return rc;
	*out = architecture_of_model_type(word);
	if (*out == NULL) {
		char shown[48];
		copy_printable(word, shown);
		return architecture_refuse(shown, f);
	}
	if (!json_is_set(config, "architectures"))
		return 0;
	const json_t *classes;
	rc = json_want_array(config, "architectures", &classes, f);
	if (rc != 0)
		return rc;
	word = json_string_value(json_array_get(classes, 0));
	if (word == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "\"architectures\" does not begin with a string");
	char expected[48];
	snprintf(expected, sizeof expected, "%s is", (*out)->class_name);
	return strcmp(word, (*out)->class_name) == 0 ? 0 : refuse_word("model class", word, expected, f);
}

/* The MLP's gate: Gemma 2's goes by either key. */
static int check_activation(const json_t *config, const struct architecture *a, struct fault *f)
{
	static const char *const keys[] = {"hidden_act", "hidden_activation"};
	for (size_t i = 0; i < (a->geglu ? 2 : 1); i++) {
		const char *word, *expected = a->geglu ? "gelu_pytorch_tanh" : "silu";
		int rc = json_is_set(config, keys[i]) ? json_want_text(config, keys[i], &word, f) : 0;
		if (rc != 0)
			return rc;
		if (json_is_set(config, keys[i]) && strcmp(word, expected) != 0)
			return refuse_word(keys[i], word, a->geglu ? "gelu_pytorch_tanh is" : "silu is", f);
	}
	return 0;
}

/* Features that change the arithmetic and that the model code does not have. */
static int check_features(const json_t *config, const struct architecture *a, struct fault *f)
{
	static const char *const quantized[] = {"quantization_config", "compression_config"};
	static const char *const flags[] = {
		"attention_bias", "mlp_bias", "use_mrope", "use_bidirectional_attention", "add_cross_attention"};
	for (size_t i = 0; i < sizeof quantized / sizeof *quantized; i++) {
		const json_t *q = json_object_get(config, quantized[i]);
		const char *method = json_string_value(json_object_get(q, "quant_method"));
		char shown[48];
		copy_printable(method != NULL ? method : "of a kind it does not name", shown);
		if (json_is_set(config, quantized[i]))
			return fault_set(f, SAKIORI_EUNSUPPORTED,
				"%s: weights quantized by %s are not read; use the model in BF16, F16 or F32, or a "
				"GGUF file",
				quantized[i], shown);
	}
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
		bool on = false;
		int rc = optional_boolean(config, flags[i], &on, f);
		if (rc != 0 || on)
			return rc != 0 ? rc : fault_set(f, SAKIORI_EUNSUPPORTED, "%s is not supported", flags[i]);
	}
	return check_activation(config, a, f);
}

/* Gemma 2's; transformers' own values where a key is missing, none where it is null. */
static int read_scores(const json_t *config, struct model_shape *s, struct fault *f)
{
	const struct {
		const char *key;
		float *to, missing;
	} numbers[] = {
		{"query_pre_attn_scalar", &s->query_scalar, 256},
		{"attn_logit_softcapping", &s->score_softcap, 50},
		{"final_logit_softcapping", &s->logit_softcap, 30},
	};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		if (json_object_get(config, numbers[i].key) == NULL)
			*numbers[i].to = numbers[i].missing;
		else if (json_is_set(config, numbers[i].key)) {
			int rc = want_f32(config, numbers[i].key, numbers[i].to, f);
			if (rc != 0)
				return rc;
		}
	}
	return 0;
}

static int read_sizes(const json_t *config, const struct architecture *a, struct model_shape *s, struct fault *f)
{
	const struct {
		const char *key;
		uint32_t *to;
	} sizes[] = {
		{"hidden_size", &s->hidden},
		{"intermediate_size", &s->intermediate},
		{"num_hidden_layers", &s->layers},
		{"num_attention_heads", &s->heads},
		{"vocab_size", &s->vocabulary},
		{"max_position_embeddings", &s->context},
	};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		int rc = want_u32(config, sizes[i].key, sizes[i].to, f);
		if (rc != 0)
			return rc;
	}
	s->kv_heads = s->heads;
	s->head_size = a->head_size;
	int rc = optional_u32(config, "num_key_value_heads", &s->kv_heads, f);
	if (rc == 0)
		rc = optional_u32(config, "head_dim", &s->head_size, f);
	if (rc == 0 && s->head_size == 0 && s->hidden % s->heads != 0)
		return fault_set(f, SAKIORI_EFORMAT, "hidden_size %" PRIu32 " is not a multiple of %" PRIu32 " heads",
			s->hidden, s->heads);
	if (s->head_size == 0)
		s->head_size = s->hidden / s->heads;
	return rc != 0 ? rc : want_f32(config, "rms_norm_eps", &s->norm_epsilon, f);
}

/* Llama 3's scaling: pairs that turn slowly get the factor, fast ones none, and between them it is blended. In the very
 * roundings of llama.cpp's converter, whose factors are part of a GGUF file: of Llama 3.1 to 3.3 they are the same bits. */
static void llama3_factors(struct model_shape *s, float factor, float low, float high, float trained)
{
	float longest = (float)((double)trained / (double)low), shortest = (float)((double)trained / (double)high);
	for (uint32_t i = 0; i < s->head_size / 2; i++) {
		float exponent = (float)(2 * i) / (float)s->head_size;
		float frequency = 1 / (float)pow((double)s->rope_theta, (double)exponent);
		float wavelength = (float)(2 * M_PI) / frequency;
		float smooth = (trained / wavelength - low) / (high - low);
		if (wavelength < shortest)
			s->rope_factors[i] = 1;
		else if (wavelength > longest)
			s->rope_factors[i] = factor;
		else
			s->rope_factors[i] = 1 / ((1 - smooth) / factor + smooth);
	}
}

static int read_llama3(const json_t *rope, struct model_shape *s, struct fault *f)
{
	float factor, low, high, trained;
	int rc = want_f32(rope, "factor", &factor, f);
	if (rc == 0)
		rc = want_f32(rope, "low_freq_factor", &low, f);
	if (rc == 0)
		rc = want_f32(rope, "high_freq_factor", &high, f);
	if (rc == 0)
		rc = want_f32(rope, "original_max_position_embeddings", &trained, f);
	if (rc != 0)
		return rc;
	if (!(factor > 0 && low > 0 && high > low && trained > 0))
		return fault_set(f, SAKIORI_EFORMAT,
			"rope scaling llama3 has factor %g, low_freq_factor %g, high_freq_factor %g and %g original "
			"positions; "
			"all must be positive, and the high factor above the low one",
			(double)factor, (double)low, (double)high, (double)trained);
	llama3_factors(s, factor, low, high, trained);
	return 0;
}

/* "rope_type"; before that it was "type". */
static int read_rope_type(const json_t *rope, const char **out, struct fault *f)
{
	*out = "default";
	if (json_is_set(rope, "rope_type"))
		return json_want_text(rope, "rope_type", out, f);
	return json_is_set(rope, "type") ? json_want_text(rope, "type", out, f) : 0;
}

static int check_rotated_part(const json_t *object, struct fault *f)
{
	double part = 1;
	int rc = json_is_set(object, "partial_rotary_factor")
			 ? json_want_number(object, "partial_rotary_factor", &part, f)
			 : 0;
	if (rc == 0 && part != 1)
		rc = fault_set(f, SAKIORI_EUNSUPPORTED,
			"partial_rotary_factor is %g; only 1 is supported: heads that turn whole", part);
	return rc;
}

static int read_rope(const json_t *config, struct model_shape *s, struct fault *f)
{
	const char *key = json_is_set(config, "rope_parameters") ? "rope_parameters" : "rope_scaling", *type;
	const json_t *rope = NULL;
	float factor = 1;
	s->rope_theta = 10000;
	int rc = json_is_set(config, "rope_theta") ? want_f32(config, "rope_theta", &s->rope_theta, f) : 0;
	if (rc == 0)
		rc = check_rotated_part(config, f);
	if (rc == 0 && json_is_set(config, key))
		rc = json_want_object(config, key, &rope, f);
	if (rc == 0 && (json_is_set(rope, "full_attention") || json_is_set(rope, "sliding_attention")))
		rc = fault_set(f, SAKIORI_EUNSUPPORTED, "%s of each kind of layer are not supported", key);
	if (rc == 0)
		rc = check_rotated_part(rope, f);
	if (rc == 0 && json_is_set(rope, "rope_theta"))
		rc = want_f32(rope, "rope_theta", &s->rope_theta, f);
	if (rc == 0)
		rc = read_rope_type(rope, &type, f);
	if (rc != 0 || s->head_size > MODEL_HEAD_SIZE_MAX)
		return rc; /* the head size is refused later, with all that is out of range */
	if (strcmp(type, "llama3") == 0)
		return read_llama3(rope, s, f);
	if (strcmp(type, "linear") == 0)
		rc = want_f32(rope, "factor", &factor, f);
	else if (strcmp(type, "default") != 0)
		return refuse_word("rope scaling", type, "default, linear and llama3 are", f);
	for (uint32_t i = 0; i < s->head_size / 2; i++)
		s->rope_factors[i] = factor;
	return rc;
}

static int read_layer_types(const json_t *config, struct model_shape *s, struct fault *f)
{
	const json_t *types;
	int rc = json_want_array(config, "layer_types", &types, f);
	if (rc != 0)
		return rc;
	if (json_array_size(types) != s->layers)
		return fault_set(f, SAKIORI_EFORMAT, "\"layer_types\" has %zu entries for %" PRIu32 " layers",
			json_array_size(types), s->layers);
	for (uint32_t i = 0; i < s->layers; i++) {
		const char *type = json_string_value(json_array_get(types, i));
		if (type == NULL)
			return fault_set(f, SAKIORI_EFORMAT, "\"layer_types\" has an entry that is no string");
		s->windowed[i] = strcmp(type, "sliding_attention") == 0;
		if (!s->windowed[i] && strcmp(type, "full_attention") != 0)
			return refuse_word("layer type", type, "full_attention and sliding_attention are", f);
	}
	return 0;
}

static int read_windows(const json_t *config, const struct architecture *a, struct model_shape *s, struct fault *f)
{
	uint32_t first = 28; /* transformers' own, where max_window_layers is missing */
	bool use = a->windows != WINDOWS_LATE;
	int rc = 0;
	if (a->windows == WINDOWS_NONE || s->layers > MODEL_LAYERS_MAX)
		return 0;
	s->window = json_object_get(config, "sliding_window") == NULL ? a->window : 0;
	rc = optional_u32(config, "sliding_window", &s->window, f);
	if (rc == 0 && a->windows == WINDOWS_LATE)
		rc = optional_boolean(config, "use_sliding_window", &use, f);
	if (a->windows != WINDOWS_LATE)
		first = 0;
	else if (rc == 0 && json_is_set(config, "max_window_layers")) {
		int64_t layers = 0;
		rc = json_want_integer(config, "max_window_layers", 0, UINT32_MAX, &layers, f);
		first = (uint32_t)layers;
	}
	s->window = use ? s->window : 0;
	if (rc == 0 && a->windows != WINDOWS_ALL && json_is_set(config, "layer_types"))
		rc = read_layer_types(config, s, f);
	else
		for (uint32_t i = 0; i < s->layers; i++)
			s->windowed[i] = s->window != 0 && i >= first && (a->windows != WINDOWS_EVEN || i % 2 == 0);
	bool any = false;
	for (uint32_t i = 0; i < s->layers; i++)
		any |= s->windowed[i];
	if (rc == 0 && any && s->window == 0)
		rc = fault_set(
			f, SAKIORI_EFORMAT, "\"layer_types\" has sliding_attention, but no sliding_window is in use");
	s->window = any ? s->window : 0;
	return rc;
}

int model_config_read(const json_t *config, struct model_shape *s, const struct architecture **architecture,
	int *tied_by_config, struct fault *f)
{
	bool tied = false;
	if (!json_is_object(config))
		return fault_set(f, SAKIORI_EFORMAT, "%s, expected an object", json_kind(config));
	int rc = read_architecture(config, architecture, f);
	if (rc != 0)
		return rc;
	const struct architecture *a = *architecture;
	rc = check_features(config, a, f);
	if (rc != 0)
		return rc;
	model_file_follow(s, a);
	rc = read_sizes(config, a, s, f);
	if (rc == 0)
		rc = read_rope(config, s, f);
	if (rc == 0)
		rc = read_windows(config, a, s, f);
	if (rc == 0 && a->softcaps)
		rc = read_scores(config, s, f);
	if (rc == 0)
		rc = optional_boolean(config, "tie_word_embeddings", &tied, f);
	*tied_by_config = json_is_set(config, "tie_word_embeddings") ? tied : -1;
	return rc;
}

/* Only a name within the folder: what else it says must not choose what is opened. */
static int check_file_name(const char *name, struct fault *f)
{
	char shown[48];
	copy_printable(name, shown);
	size_t n = strlen(name);
	bool suffix = n > 12 && strcmp(name + n - 12, ".safetensors") == 0;
	if (!suffix || n > 255 || name[0] == '.' || strchr(name, '/') != NULL || strcmp(name, shown) != 0)
		return fault_set(f, SAKIORI_EFORMAT,
			"weight_map names the file %s; expected the plain name of a .safetensors file in the folder",
			shown);
	return 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int model_index_files(const json_t *index, const char ***files, size_t *count, struct fault *f)
{
	*files = NULL;
	*count = 0;
	const json_t *map;
	if (!json_is_object(index))
		return fault_set(f, SAKIORI_EFORMAT, "%s, expected an object", json_kind(index));
	int rc = json_want_object(index, "weight_map", &map, f);
	if (rc != 0)
		return rc;
	const char **all = calloc(json_object_size(map) + 1, sizeof *all);
	if (all == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "no memory for the names of %zu tensors", json_object_size(map));
	size_t n = 0, kept = 0;
	const char *tensor;
	json_t *value;
	json_object_foreach((json_t *)map, tensor, value)
	{
		all[n] = json_string_value(value);
		if (rc == 0 && all[n] == NULL)
			rc = fault_set(
				f, SAKIORI_EFORMAT, "weight_map has %s, expected the name of a file", json_kind(value));
		if (rc == 0)
			rc = check_file_name(all[n++], f);
	}
	if (rc == 0 && n == 0)
		rc = fault_set(f, SAKIORI_EFORMAT, "weight_map is empty");
	if (rc == 0)
		qsort(all, n, sizeof *all, by_text);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (i == 0 || strcmp(all[i], all[kept - 1]) != 0)
			all[kept++] = all[i];
	if (rc == 0 && kept > FILES_LIMIT)
		rc = fault_set(f, SAKIORI_ELIMIT, "weight_map names %zu files; at most %d are read", kept, FILES_LIMIT);
	if (rc != 0) {
		free(all);
		return rc;
	}
	*files = all;
	*count = kept;
	return 0;
}
