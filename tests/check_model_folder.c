/* SPDX-License-Identifier: Apache-2.0 */
/* Hugging Face folders: what config.json and the index may say, and what is refused by name. That the arithmetic is right is
 * check_architectures.c's matter. */
#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "formats/json.h"
#include "formats/model_file_private.h"
#include "formats/safetensors.h"
#include "lib/model_stage.h"

static const char *folder;

static void refused(int code, const char *sentence)
{
	struct model_file *mf;
	struct fault f = {0};
	int rc = model_file_open(folder, &mf, &f);
	ck_assert_msg(rc == code && strstr(f.text, sentence) != NULL, "expected %d \"%s\", got %d \"%s\"", code,
		sentence, rc, f.text);
	ck_assert_msg(strncmp(f.text, folder, strlen(folder)) == 0, "%s", f.text);
	for (const char *p = f.text; *p; p++)
		ck_assert_msg(*p >= 0x20 && *p <= 0x7e, "%s", f.text);
	ck_assert_ptr_null(mf);
}

static struct model_shape opens(void)
{
	struct model_file *mf;
	struct fault f = {0};
	ck_assert_msg(model_file_open(folder, &mf, &f) == 0, "%s", f.text);
	struct model_shape shape = *model_file_shape(mf);
	ck_assert_ptr_null(model_file_metadata(mf));
	model_file_close(mf);
	return shape;
}

/* A fresh folder of architectures/MODEL whose config.json has `value` (JSON) under `key`; NULL: no such key. */
static void stage_with(const char *model, const char *key, const char *value)
{
	char path[64];
	folder = stage_model(model, "config.json");
	snprintf(path, sizeof path, "%s/config.json", folder);
	json_t *config = json_load_file(path, 0, NULL);
	ck_assert_ptr_nonnull(config);
	json_object_del(config, key);
	if (value != NULL) {
		json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
		ck_assert_ptr_nonnull(v);
		json_object_set_new(config, key, v);
	}
	char *text = json_dumps(config, 0);
	stage_text("config.json", text);
	free(text);
	json_decref(config);
}

/* ---- weights ---- */

enum { TENSORS = 64 };

/* The tensors of a file, in memory. */
struct tensors {
	struct safetensors_tensor at[TENSORS];
	size_t count;
};

static void *must_read(struct safetensors *file, const struct safetensors_tensor *t)
{
	void *data = malloc(t->bytes);
	ck_assert_int_eq(safetensors_read(file, t, 0, t->bytes, data, NULL), 0);
	return data;
}

static void read_tensors(struct tensors *out, const char *name)
{
	char path[512];
	struct safetensors *file;
	snprintf(path, sizeof path, "%s/%s", folder, name);
	ck_assert_int_eq(safetensors_open(path, &file, NULL), 0);
	out->count = safetensors_count(file);
	for (size_t i = 0; i < out->count; i++) {
		out->at[i] = *safetensors_at(file, i);
		out->at[i].data = must_read(file, safetensors_at(file, i));
		out->at[i].name = strdup(out->at[i].name);
	}
	safetensors_close(file);
}

static struct safetensors_tensor *find(struct tensors *t, const char *name)
{
	for (size_t i = 0; i < t->count; i++)
		if (strcmp(t->at[i].name, name) == 0)
			return &t->at[i];
	ck_abort_msg("%s is missing", name);
}

static void rename_tensor(struct tensors *t, const char *from, const char *to)
{
	struct safetensors_tensor *at = find(t, from);
	free((void *)(uintptr_t)at->name);
	at->name = strdup(to);
}

static void add(struct tensors *t, const char *name, enum safetensors_type type, uint64_t rows, uint64_t cols)
{
	struct safetensors_tensor *new = &t->at[t->count++];
	*new = (struct safetensors_tensor){
		.name = strdup(name), .type = type, .dimensions = cols ? 2 : 1, .shape = {rows, cols}};
	new->data = calloc(rows * (cols ? cols : 1), 8);
}

/* Replaces the file and forgets the tensors. */
static void write_tensors(struct tensors *t, const char *name)
{
	char path[512];
	struct fault f = {0};
	snprintf(path, sizeof path, "%s/%s", folder, name);
	ck_assert_msg(safetensors_write(path, 0600, t->at, t->count, NULL, 0, &f) == 0, "%s", f.text);
	for (size_t i = 0; i < t->count; i++) {
		free((void *)(uintptr_t)t->at[i].name);
		free((void *)(uintptr_t)t->at[i].data);
	}
	t->count = 0;
}

/* ---- config.json ---- */

START_TEST(a_config_gives_the_shape)
{
	folder = stage_model("llama", "config.json");
	struct model_shape s = opens();
	ck_assert_str_eq(s.architecture, "llama");
	ck_assert_ptr_nonnull(strstr(s.name, "sakiori-model."));
	ck_assert(s.hidden == 32 && s.intermediate == 48 && s.layers == 3 && s.heads == 4 && s.kv_heads == 2);
	ck_assert(s.head_size == 8 && s.vocabulary == 256 && s.context == 512 && !s.tied && s.window == 0);
	ck_assert(s.norm_epsilon == 1e-5f && s.rope_theta == 500000.0f && s.rope_factors[3] == 8 &&
		  s.rope_factors[0] == 1);
	folder = stage_model("smollm2", "config.4.json");
	s = opens();
	ck_assert(s.heads == 2 && s.kv_heads == 2 && s.head_size == 16 && s.tied && s.rope_factors[7] == 2);
	folder = stage_model("qwen3", "config.4.json");
	s = opens();
	ck_assert(s.head_norms && !s.qkv_bias && s.head_size == 24);
	folder = stage_model("qwen2", "config.4.json");
	s = opens();
	ck_assert(s.qkv_bias && !s.head_norms && s.window == 0 && !s.windowed[2]);
	folder = stage_model("qwen2", "config.late4.json");
	s = opens();
	ck_assert(s.window == 5 && !s.windowed[0] && s.windowed[1] && s.windowed[2]);
}
END_TEST

START_TEST(what_transformers_takes_for_granted_is_taken_for_granted)
{
	stage_with("mistral", "sliding_window", NULL);
	ck_assert_uint_eq(opens().window, 4096);
	stage_with("mistral", "sliding_window", "null");
	ck_assert_uint_eq(opens().window, 0);
	stage_with("smollm2", "tie_word_embeddings", NULL); /* then the files say it */
	ck_assert(opens().tied);
	stage_with("llama", "tie_word_embeddings", NULL);
	ck_assert(!opens().tied);
	stage_with("smollm2", "num_key_value_heads", "null");
	ck_assert_uint_eq(opens().kv_heads, 2);
	stage_with("llama", "rope_parameters", NULL);
	ck_assert(opens().rope_theta == 10000.0f && opens().rope_factors[3] == 1);
	stage_with("llama", "architectures", NULL);
	opens();
	stage_with("llama", "hidden_act", NULL);
	opens();
	stage_with("llama", "sliding_window", "4"); /* a Llama has none, whatever is written */
	ck_assert_uint_eq(opens().window, 0);
	stage_with("gemma2", "query_pre_attn_scalar", NULL);
	ck_assert(opens().query_scalar == 256);
	stage_with("gemma2", "attn_logit_softcapping", NULL);
	ck_assert(opens().score_softcap == 50 && opens().logit_softcap == 8);
	stage_with("gemma2", "final_logit_softcapping", "null");
	ck_assert(opens().score_softcap == 3 && opens().logit_softcap == 0);
	stage_with("gemma2", "tie_word_embeddings", NULL);
	ck_assert(opens().tied);
	stage_with("gemma2", "layer_types", NULL);
	ck_assert(opens().windowed[0] && !opens().windowed[1] && opens().windowed[2]);
	stage_with("gemma2", "layer_types", "[\"full_attention\", \"full_attention\", \"full_attention\"]");
	ck_assert(!opens().windowed[0] && opens().window == 0);
}
END_TEST

START_TEST(what_would_be_computed_wrongly_is_refused_by_name)
{
	static const struct {
		const char *model, *key, *value, *sentence;
	} cases[] = {
		{"llama", "model_type", "\"falcon\"",
			"config.json: architecture falcon is not supported; there are llama (Llama 2 and 3, SmolLM2), "
			"mistral (Mistral 7B), qwen2 (Qwen2, Qwen2.5), qwen3 (Qwen3)"},
		{"llama", "model_type", "\"x\\u001b[2J\"", "architecture x?[2J is not supported"},
		{"llama", "architectures", "[\"LlamaForSequenceClassification\"]",
			"model class LlamaForSequenceClassification is not supported; LlamaForCausalLM is"},
		{"llama", "quantization_config", "{\"quant_method\": \"bitsandbytes\"}",
			"quantization_config: weights quantized by bitsandbytes are not read"},
		{"llama", "quantization_config", "{}", "weights quantized by of a kind it does not name"},
		{"llama", "hidden_act", "\"gelu\"", "hidden_act gelu is not supported; silu is"},
		{"gemma2", "hidden_activation", "\"gelu\"",
			"hidden_activation gelu is not supported; gelu_pytorch_tanh is"},
		{"llama", "attention_bias", "true", "attention_bias is not supported"},
		{"llama", "mlp_bias", "true", "mlp_bias is not supported"},
		{"llama", "rope_parameters", "{\"rope_type\": \"yarn\", \"factor\": 4}",
			"rope scaling yarn is not supported; default, linear and llama3 are"},
		{"llama", "rope_scaling", "{\"type\": \"dynamic\", \"factor\": 4}",
			NULL}, /* rope_parameters is newer */
		{"smollm2", "partial_rotary_factor", "0.5", "partial_rotary_factor is 0.5"},
		{"llama", "rope_parameters", "{\"full_attention\": {}}", "rope_parameters of each kind of layer"},
		{"qwen2", "layer_types", "[\"full_attention\", \"linear_attention\", \"full_attention\"]",
			"layer type linear_attention is not supported"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		stage_with(cases[i].model, cases[i].key, cases[i].value);
		if (cases[i].sentence != NULL)
			refused(SAKIORI_EUNSUPPORTED, cases[i].sentence);
		else
			opens();
	}
}
END_TEST

START_TEST(what_does_not_hold_together_is_refused_with_what_was_expected)
{
	static const struct {
		const char *model, *key, *value, *sentence;
	} cases[] = {
		{"llama", "model_type", NULL, "\"model_type\" is missing, expected a string"},
		{"llama", "hidden_size", "\"32\"", "\"hidden_size\" is a string, expected an integer"},
		{"llama", "hidden_size", "0", "\"hidden_size\" is 0, expected 1 to 4294967295"},
		{"qwen2", "hidden_size", "34", "hidden_size 34 is not a multiple of 4 heads"},
		{"llama", "num_key_value_heads", "3", "4 heads cannot share 3 key and value heads"},
		{"llama", "num_hidden_layers", "4000000000", "the number of layers is 4000000000, expected 1 to 1024"},
		{"llama", "head_dim", "7", "the head size is 7, but rotary positions need an even one"},
		{"llama", "head_dim", "4096", "the head size is 4096, expected 1 to 1024"},
		{"llama", "rms_norm_eps", "null", "\"rms_norm_eps\" is null, expected a number"},
		{"llama", "rms_norm_eps", "2", "the norm epsilon is 2"},
		{"llama", "rope_parameters", "[]", "\"rope_parameters\" is an array, expected an object"},
		{"llama", "rope_parameters", "{\"rope_type\": \"llama3\"}", "\"factor\" is missing"},
		{"llama", "rope_parameters", "{\"rope_type\": \"linear\", \"factor\": 0}", "rope factor 0 is 0"},
		{"qwen2", "layer_types", "[\"full_attention\"]", "\"layer_types\" has 1 entries for 3 layers"},
		{"qwen2", "layer_types", "[\"sliding_attention\", \"full_attention\", \"full_attention\"]",
			"\"layer_types\" has sliding_attention, but no sliding_window is in use"},
		{"gemma2", "query_pre_attn_scalar", "-1", "the query scalar is -1, expected above 0"},
		{"gemma2", "attn_logit_softcapping", "-1", "the softcaps are -1 and 8, expected at least 0"},
		{"mistral", "sliding_window", "0", "\"sliding_window\" is 0, expected 1 to"},
		{"llama", "vocab_size", "255",
			"tensor lm_head.weight has shape [256, 32], but config.json asks for [255, 32]"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		stage_with(cases[i].model, cases[i].key, cases[i].value);
		refused(SAKIORI_EFORMAT, cases[i].sentence);
	}
	folder = stage_model("llama", "config.json");
	stage_text("config.json", "{\n\"model_type\": llama\n}");
	refused(SAKIORI_EFORMAT, "config.json:2:");
	stage_text("config.json", "[]");
	refused(SAKIORI_EFORMAT, "config.json: an array, expected an object");
	stage_remove("config.json");
	refused(SAKIORI_ENOTFOUND, "it holds no config.json");
}
END_TEST

/* A GGUF file has these factors, a folder what they follow from; both must be one base. */
START_TEST(rope_factors_of_the_real_llama_3_are_the_converters_bits)
{
	static const struct {
		const char *name;
		int head_size;
		double factor;
	} models[] = {
		{"rope.llama-3.1-8b", 128, 8},
		{"rope.llama-3.2-1b", 64, 32},
		{"rope.llama-3.2-3b", 128, 32},
	};
	struct safetensors *golden;
	ck_assert_int_eq(safetensors_open(stage_golden("architectures.safetensors"), &golden, NULL), 0);
	for (size_t i = 0; i < 3; i++) {
		json_t *config = json_pack(
			"{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:{s:s, s:f, s:f, s:f, s:f, s:i}}", "model_type",
			"llama", "hidden_size", 2048, "intermediate_size", 8192, "num_hidden_layers", 16,
			"num_attention_heads", 32, "head_dim", models[i].head_size, "vocab_size", 128256,
			"max_position_embeddings", 131072, "rms_norm_eps", 1e-5, "rope_parameters", "rope_type",
			"llama3", "rope_theta", 500000.0, "factor", models[i].factor, "low_freq_factor", 1.0,
			"high_freq_factor", 4.0, "original_max_position_embeddings", 8192);
		struct model_shape s = {0};
		const struct architecture *a;
		struct fault f = {0};
		int tied;
		ck_assert_msg(model_config_read(config, &s, &a, &tied, &f) == 0, "%s", f.text);
		const struct safetensors_tensor *t = safetensors_find(golden, models[i].name);
		ck_assert_uint_eq(t->bytes, (size_t)models[i].head_size / 2 * sizeof(float));
		float *expected = must_read(golden, t);
		ck_assert_mem_eq(s.rope_factors, expected, t->bytes);
		free(expected);
		json_decref(config);
	}
	safetensors_close(golden);
}
END_TEST

/* ---- tensors ---- */

START_TEST(tensors_that_are_missing_wrong_or_foreign_are_refused_by_name)
{
	struct tensors t;
	folder = stage_model("llama", "config.json");
	read_tensors(&t, "model.safetensors");
	rename_tensor(&t, "model.norm.weight", "model.other.weight");
	write_tensors(&t, "model.safetensors");
	refused(SAKIORI_EFORMAT, "tensor model.norm.weight is missing");

	folder = stage_model("llama", "config.json");
	read_tensors(&t, "model.safetensors");
	find(&t, "model.layers.1.self_attn.q_proj.weight")->shape[0] = 16;
	write_tensors(&t, "model.safetensors");
	refused(SAKIORI_EFORMAT,
		"tensor model.layers.1.self_attn.q_proj.weight has shape [16, 32], but config.json asks for [32, 32]");

	folder = stage_model("llama", "config.json");
	read_tensors(&t, "model.safetensors");
	find(&t, "model.norm.weight")->dimensions = 2;
	find(&t, "model.norm.weight")->shape[1] = 1;
	write_tensors(&t, "model.safetensors");
	refused(SAKIORI_EFORMAT, "tensor model.norm.weight has shape [32, 1], but config.json asks for [32]");

	folder = stage_model("llama", "config.json");
	read_tensors(&t, "model.safetensors");
	struct safetensors_tensor *k = find(&t, "model.layers.0.self_attn.k_proj.weight");
	k->type = SAFETENSORS_I8;
	write_tensors(&t, "model.safetensors");
	refused(SAKIORI_EUNSUPPORTED,
		"tensor model.layers.0.self_attn.k_proj.weight is of type I8; F32, F16 and BF16 are read");

	folder = stage_model("llama", "config.json");
	read_tensors(&t, "model.safetensors");
	add(&t, "model.layers.0.self_attn.o_proj.bias", SAFETENSORS_F32, 32, 0);
	write_tensors(&t, "model.safetensors");
	refused(SAKIORI_EUNSUPPORTED, "tensor model.layers.0.self_attn.o_proj.bias has no place in a llama");
}
END_TEST

START_TEST(what_transformers_does_not_load_either_is_left_alone)
{
	struct tensors t;
	folder = stage_model("smollm2", "config.json");
	read_tensors(&t, "model.safetensors");
	add(&t, "model.layers.0.self_attn.rotary_emb.inv_freq", SAFETENSORS_F32, 8, 0);
	add(&t, "lm_head.weight", SAFETENSORS_F16, 256, 32);
	write_tensors(&t, "model.safetensors");
	ck_assert(opens().tied);
}
END_TEST

START_TEST(a_folder_without_weights_of_this_form_says_so)
{
	folder = stage_model("llama", "config.json");
	stage_remove("model.safetensors");
	stage_text("pytorch_model.bin", "");
	refused(SAKIORI_ENOTFOUND, "holds neither model.safetensors nor model.safetensors.index.json");
	stage_text("model.safetensors", "short");
	refused(SAKIORI_EFORMAT, "too few for a safetensors file");
}
END_TEST

/* ---- the index ---- */

#define INDEX "model.safetensors.index.json"
#define NORM "model.norm.weight"

/* The index of a fresh folder, in which NORM is said to lie in `file` (JSON). */
static void index_says(const char *file)
{
	char path[256];
	folder = stage_model("qwen2", "config.json");
	snprintf(path, sizeof path, "%s/%s", folder, INDEX);
	json_t *index = json_load_file(path, 0, NULL);
	json_object_set_new(json_object_get(index, "weight_map"), NORM, json_loads(file, JSON_DECODE_ANY, NULL));
	char *text = json_dumps(index, 0);
	stage_text(INDEX, text);
	free(text);
	json_decref(index);
}

START_TEST(an_index_never_leads_out_of_its_folder)
{
	static const char *const names[] = {"\"../model.safetensors\"", "\"/etc/model.safetensors\"",
		"\"a/model.safetensors\"", "\".model.safetensors\"", "\"\"", "\".safetensors\"", "\"/etc/passwd\"",
		"\"pytorch_model.bin\"", "\"m\\u001b.safetensors\""};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		index_says(names[i]);
		refused(SAKIORI_EFORMAT, "expected the plain name of a .safetensors file in the folder");
	}
	index_says("7");
	refused(SAKIORI_EFORMAT, "weight_map has an integer, expected the name of a file");
	stage_text(INDEX, "{\"weight_map\": {}}");
	refused(SAKIORI_EFORMAT, "weight_map is empty");
	stage_text(INDEX, "{}");
	refused(SAKIORI_EFORMAT, "\"weight_map\" is missing, expected an object");
	stage_text(INDEX, "{\"weight_map\": {\"a\": \"b.safetensors\", \"a\": \"b.safetensors\"}}");
	refused(SAKIORI_EFORMAT, "duplicate");
}
END_TEST

START_TEST(an_index_that_does_not_tell_the_truth_is_refused)
{
	struct tensors t;
	index_says("\"model-00001-of-00006.safetensors\"");
	refused(SAKIORI_EFORMAT,
		"the index says that tensor model.norm.weight is in model-00001-of-00006.safetensors; it is in "
		"model-00006-of-00006.safetensors");
	index_says("\"absent.safetensors\"");
	refused(SAKIORI_ENOTFOUND, "absent.safetensors: No such file");

	folder = stage_model("qwen2", "config.json");
	stage_remove("model-00003-of-00006.safetensors");
	refused(SAKIORI_ENOTFOUND, "model-00003-of-00006.safetensors: No such file");

	folder = stage_model("qwen2", "config.json");
	t.count = 0;
	write_tensors(&t, "model-00003-of-00006.safetensors");
	refused(SAKIORI_EFORMAT, "model-00003-of-00006.safetensors holds no tensor");

	folder = stage_model("qwen2", "config.json");
	read_tensors(&t, "model-00006-of-00006.safetensors");
	add(&t, "model.layers.0.input_layernorm.weight", SAFETENSORS_BF16, 32, 0);
	write_tensors(&t, "model-00006-of-00006.safetensors");
	refused(SAKIORI_EFORMAT, "tensor model.layers.0.input_layernorm.weight is in model-0000");

	folder = stage_model("qwen2", "config.json");
	read_tensors(&t, "model-00006-of-00006.safetensors");
	add(&t, "model.extra.weight", SAFETENSORS_BF16, 32, 0);
	write_tensors(&t, "model-00006-of-00006.safetensors");
	refused(SAKIORI_EFORMAT, "tensor model.extra.weight of model-00006-of-00006.safetensors is not in the index");

	folder = stage_model("qwen2", "config.json");
	read_tensors(&t, "model-00006-of-00006.safetensors");
	rename_tensor(&t, NORM, "model.other.weight");
	write_tensors(&t, "model-00006-of-00006.safetensors");
	refused(SAKIORI_EFORMAT, "the index says that tensor model.norm.weight is in model-00006-of-00006.safetensors; "
				 "it is in no file");
}
END_TEST

START_TEST(weights_changed_between_two_passes_are_noticed)
{
	struct tensors t;
	struct fault f = {0};
	struct model_file *mf;
	float norm[32];
	folder = stage_model("llama", "config.json");
	read_tensors(&t, "model.safetensors");
	write_tensors(&t, "model.safetensors"); /* no link any more */
	ck_assert_int_eq(model_file_open(folder, &mf, &f), 0);
	const struct model_tensor *last = model_file_tensor(mf, NORM);
	ck_assert(last->vector && last->type == STORED_F32);
	ck_assert_int_eq(model_file_read(mf, last, 0, 1, norm, &f), 0);
	char path[256];
	snprintf(path, sizeof path, "%s/model.safetensors", folder);
	FILE *file = fopen(path, "r+");
	ck_assert_int_eq(fseek(file, -65, SEEK_END), 0);
	for (int i = 0; i < 65; i++)
		fputc(0x3f, file);
	fclose(file);
	ck_assert_int_eq(model_file_read(mf, last, 0, 1, norm, &f), SAKIORI_ECORRUPT);
	ck_assert_ptr_nonnull(strstr(f.text, "the file was changed while in use"));
	model_file_close(mf);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("model_folder");
	TCase *t = tcase_create("model_folder");
	tcase_add_checked_fixture(t, NULL, stage_clear);
	tcase_add_test(t, a_config_gives_the_shape);
	tcase_add_test(t, what_transformers_takes_for_granted_is_taken_for_granted);
	tcase_add_test(t, what_would_be_computed_wrongly_is_refused_by_name);
	tcase_add_test(t, what_does_not_hold_together_is_refused_with_what_was_expected);
	tcase_add_test(t, rope_factors_of_the_real_llama_3_are_the_converters_bits);
	tcase_add_test(t, tensors_that_are_missing_wrong_or_foreign_are_refused_by_name);
	tcase_add_test(t, what_transformers_does_not_load_either_is_left_alone);
	tcase_add_test(t, a_folder_without_weights_of_this_form_says_so);
	tcase_add_test(t, an_index_never_leads_out_of_its_folder);
	tcase_add_test(t, an_index_that_does_not_tell_the_truth_is_refused);
	tcase_add_test(t, weights_changed_between_two_passes_are_noticed);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
