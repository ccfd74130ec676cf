/* SPDX-License-Identifier: Apache-2.0 */
#include "text/hugging_face.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/json.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json_write.h"

static int put(const char *folder, const char *name, const void *data, size_t size, struct fault *f)
{
	size_t n = strlen(folder) + strlen(name) + 2;
	char *path = must_alloc(n);
	snprintf(path, n, "%s/%s", folder, name);
	int rc = file_replace(path, data, size, 0644, f);
	free(path);
	return rc;
}

/* Takes the object. */
static int put_json(const char *folder, const char *name, json_t *object, struct fault *f)
{
	char *text = object != NULL ? json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
	json_decref(object);
	if (text == NULL)
		return fault_set(f, SAKIORI_EFORMAT, "%s: a name in the model's metadata is not valid UTF-8", name);
	size_t n = strlen(text);
	text[n] = '\n'; /* in the place of the NUL: a text file ends so */
	int rc = put(folder, name, text, n + 1, f);
	free(text);
	return rc;
}

/* The number that a person wrote: 1e-5, not 9.99999974e-06. */
static json_t *shortest(float v)
{
	char text[32];
	for (int digits = 1; digits <= 9; digits++) {
		snprintf(text, sizeof text, "%.*g", digits, (double)v);
		if (strtof(text, NULL) == v)
			break;
	}
	return json_real(strtod(text, NULL));
}

static json_t *id_or_null(int32_t id)
{
	return id >= 0 ? json_integer(id) : json_null();
}

/* How much slower pair i turns under scaling of kind llama3, as transformers computes it. */
static double llama3_factor(const struct model_shape *s, size_t i, double factor, double original)
{
	const double low = 1, high = 4; /* what every Llama 3 has */
	double wavelength = 2 * M_PI * pow((double)s->rope_theta, 2.0 * (double)i / (double)s->head_size);
	if (wavelength < original / high)
		return 1;
	if (wavelength > original / low)
		return factor;
	double smooth = (original / wavelength - low) / (high - low);
	return 1 / ((1 - smooth) / factor + smooth);
}

static bool is_llama3(const struct model_shape *s, double factor, double original)
{
	for (size_t i = 0; i < s->head_size / 2; i++) {
		double expected = llama3_factor(s, i, factor, original);
		if (!(fabs((double)s->rope_factors[i] - expected) <= 1e-4 * expected))
			return false;
	}
	return true;
}

/* The settings behind the factors, which are all that a GGUF keeps of them: the slowest pair turns by the whole factor, and the original
 * context is a power of two. */
static int rope_scaling(const struct model_shape *s, json_t **out, struct fault *f)
{
	size_t pairs = s->head_size / 2;
	bool same = true;
	double factor = (double)s->rope_factors[pairs - 1];
	for (size_t i = 0; i < pairs; i++)
		same = same && s->rope_factors[i] == s->rope_factors[0];
	if (same) {
		*out = factor == 1 ? json_null()
				   : json_pack("{s:s, s:o}", "rope_type", "linear", "factor", shortest((float)factor));
		return 0;
	}
	for (json_int_t original = 1024; original <= 1 << 20; original *= 2) {
		if (is_llama3(s, factor, (double)original)) {
			*out = json_pack("{s:s, s:o, s:f, s:f, s:I}", "rope_type", "llama3", "factor",
				shortest((float)factor), "low_freq_factor", 1.0, "high_freq_factor", 4.0,
				"original_max_position_embeddings", original);
			return 0;
		}
	}
	return fault_set(f, SAKIORI_EUNSUPPORTED,
		"the model's rope factors are of no kind that config.json can name (linear and llama3); write a GGUF");
}

static int put_config(const struct model_shape *s, const struct tokenizer_source *t, enum stored_type type,
	const char *folder, struct fault *f)
{
	static const char *const names[STORED_TYPES] = {
		[STORED_F32] = "float32", [STORED_F16] = "float16", [STORED_BF16] = "bfloat16"};
	json_t *scaling = NULL;
	int rc = rope_scaling(s, &scaling, f);
	if (rc != 0)
		return rc;
	return put_json(folder, "config.json",
		json_pack(
			"{s:[s], s:s, s:b, s:f, s:b, s:o, s:o, s:I, s:s, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:o, s:o, "
			"s:o, s:o, s:b, s:s, s:s, s:b, s:I}",
			"architectures", "LlamaForCausalLM", "model_type", "llama", "attention_bias", 0,
			"attention_dropout", 0.0, "mlp_bias", 0, "bos_token_id", id_or_null(t->bos), "eos_token_id",
			id_or_null(t->eos), "head_dim", (json_int_t)s->head_size, "hidden_act", "silu", "hidden_size",
			(json_int_t)s->hidden, "initializer_range", 0.02, "intermediate_size",
			(json_int_t)s->intermediate, "max_position_embeddings", (json_int_t)s->context,
			"num_attention_heads", (json_int_t)s->heads, "num_hidden_layers", (json_int_t)s->layers,
			"num_key_value_heads", (json_int_t)s->kv_heads, "pad_token_id", id_or_null(t->padding),
			"rms_norm_eps", shortest(s->norm_epsilon), "rope_scaling", scaling, "rope_theta",
			shortest(s->rope_theta), "tie_word_embeddings", (int)s->tied, "dtype", names[type],
			"torch_dtype", names[type], "use_cache", 1, "vocab_size", (json_int_t)s->vocabulary),
		f);
}

/* A chat model may end its turn with another token than a text; generation stops at both. */
static int put_generation_config(
	const struct gguf *g, const struct tokenizer_source *t, const char *folder, struct fault *f)
{
	uint32_t turn = 0;
	json_t *end = id_or_null(t->eos);
	bool other = t->eos >= 0 && gguf_has(g, "tokenizer.ggml.eot_token_id") &&
		     gguf_get_u32(g, "tokenizer.ggml.eot_token_id", &turn, NULL) == 0 && turn != (uint32_t)t->eos &&
		     turn < t->token_count;
	if (other)
		end = json_pack("[o, I]", end, (json_int_t)turn);
	return put_json(folder, "generation_config.json",
		json_pack("{s:b, s:o, s:o, s:o}", "_from_model_config", 1, "bos_token_id", id_or_null(t->bos),
			"eos_token_id", end, "pad_token_id", id_or_null(t->padding)),
		f);
}

static void set_token(json_t *config, const char *key, const struct tokenizer_source *t, int32_t id)
{
	if (id >= 0)
		json_object_set_new(config, key, json_stringn(t->tokens[id].data, t->tokens[id].size));
}

static int put_tokenizer(
	const struct model_shape *s, const struct tokenizer_source *t, const char *folder, struct fault *f)
{
	struct writer text;
	writer_init(&text);
	int rc = tokenizer_json_write(t, &text, f);
	if (rc == 0)
		rc = put(folder, "tokenizer.json", text.data, text.size, f);
	writer_fini(&text);
	/* The class that takes tokenizer.json at its word. */
	json_t *config = json_pack("{s:b, s:I, s:s}", "clean_up_tokenization_spaces", 0, "model_max_length",
		(json_int_t)s->context, "tokenizer_class", "PreTrainedTokenizerFast");
	set_token(config, "bos_token", t, t->bos);
	set_token(config, "eos_token", t, t->eos);
	set_token(config, "unk_token", t, t->unknown);
	set_token(config, "pad_token", t, t->padding);
	if (rc == 0)
		rc = put_json(folder, "tokenizer_config.json", json_incref(config), f);
	json_decref(config);
	if (rc == 0 && t->chat_template.data != NULL)
		rc = put(folder, "chat_template.jinja", t->chat_template.data, t->chat_template.size, f);
	return rc;
}

int hugging_face_describe(const struct model_file *model, enum stored_type type, const char *folder, struct fault *f)
{
	const struct gguf *g = model_file_metadata(model);
	const struct model_shape *s = model_file_shape(model);
	if (g == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"%s is no GGUF file, and a merged model is made from one: merge the adapter with peft, or "
			"write it alone",
			model_file_path(model));
	if (strcmp(s->architecture, "llama") != 0 || s->window != 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"a folder is described for Llama models without a window, and this is %s: write a GGUF, or the "
			"adapter alone",
			s->architecture);
	struct tokenizer_source source;
	struct tokenizer *tokenizer = NULL; /* made for its checks alone */
	int rc = tokenizer_source_read(&source, g, f);
	if (rc == 0)
		rc = tokenizer_new(&tokenizer, &source, f);
	tokenizer_free(tokenizer);
	if (rc != 0)
		fault_wrap(f, "%s", gguf_name(g));
	if (rc == 0)
		rc = put_config(s, &source, type, folder, f);
	if (rc == 0)
		rc = put_generation_config(g, &source, folder, f);
	if (rc == 0)
		rc = put_tokenizer(s, &source, folder, f);
	tokenizer_source_fini(&source);
	return rc;
}
