/* SPDX-License-Identifier: Apache-2.0 */
/* What is exported, read back: by our own readers, against arithmetic done here in double. */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "formats/export.h"
#include "formats/gguf_writer.h"
#include "formats/json.h"
#include "formats/merge.h"
#include "formats/safetensors.h"
#include "text/hugging_face.h"

enum { RANK = 3, LAYERS = 2 };
static const float alpha = 7; /* a scale that is no power of two */

static char home[] = "/tmp/check_export.XXXXXX";
static char tiny[4096];
static struct peft_matrix pairs[LAYERS * PEFT_TARGETS];
static float factors[LAYERS * PEFT_TARGETS][2][RANK * 64];

static const char *inside(const char *name)
{
	static char paths[4][128];
	static int next;
	char *path = paths[next++ % 4];
	snprintf(path, sizeof paths[0], "%s/%s", home, name);
	return path;
}

static size_t entries_of(const char *path)
{
	DIR *d = opendir(path);
	size_t n = 0;
	for (const struct dirent *e; (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* Random pairs for all but the second layer's gate; values of the size that training gives. */
static struct peft_adapter make_adapter(const struct model_file *model)
{
	struct rng r;
	rng_init(&r, 1, 0);
	size_t count = 0;
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		for (int target = 0; target < PEFT_TARGETS; target++) {
			char name[PEFT_BASE_NAME_SIZE];
			peft_base_name(layer, (enum peft_target)target, name);
			const struct model_tensor *t = model_file_tensor(model, name);
			if (layer == 1 && target == PEFT_GATE)
				continue;
			float(*f)[RANK * 64] = factors[count];
			for (int i = 0; i < RANK * 64; i++)
				for (int half = 0; half < 2; half++)
					f[half][i] = 0.1f * rng_normal(&r);
			pairs[count++] = (struct peft_matrix){layer, (enum peft_target)target, RANK, (uint32_t)t->cols,
				(uint32_t)t->rows, f[0], f[1]};
		}
	}
	return (struct peft_adapter){
		.matrices = pairs, .count = count, .alpha = (double)alpha, .base_model = "someone/base"};
}

static struct model_file *open_model(const char *path)
{
	struct model_file *model;
	struct fault f = {0};
	ck_assert_msg(model_file_open(path, &model, &f) == 0, "%s", f.text);
	return model;
}

static float *read_tensor(struct model_file *model, const char *name)
{
	const struct model_tensor *t = model_file_tensor(model, name);
	struct fault f = {0};
	float *values = malloc(t->rows * t->cols * sizeof *values);
	ck_assert_msg(model_file_read(model, t, 0, t->rows, values, &f) == 0, "%s", f.text);
	return values;
}

/* W + alpha / rank * B A in double. */
static double expected(
	const struct peft_adapter *a, const char *name, const struct model_tensor *t, const float *base, size_t i)
{
	double v = (double)base[i];
	for (size_t k = 0; k < a->count; k++) {
		const struct peft_matrix *m = &a->matrices[k];
		char own[PEFT_BASE_NAME_SIZE];
		peft_base_name(m->layer, m->target, own);
		for (size_t r = 0; strcmp(own, name) == 0 && r < RANK; r++)
			v += (double)alpha / RANK * (double)m->b[i / t->cols * RANK + r] *
			     (double)m->a[r * t->cols + i % t->cols];
	}
	return v;
}

/* Every tensor of both files, which have the same names; error relative to the largest value near 1. */
static double worst_error(const char *path, const struct peft_adapter *a)
{
	struct model_file *base = open_model(tiny), *merged = open_model(path);
	double worst = 0;
	ck_assert_uint_eq(model_file_tensor_count(base), model_file_tensor_count(merged));
	for (size_t i = 0; i < model_file_tensor_count(base); i++) {
		const struct model_tensor *t = model_file_tensor_at(base, i);
		float *w = read_tensor(base, t->name), *m = read_tensor(merged, t->name);
		for (size_t k = 0; k < t->rows * t->cols; k++)
			worst = fmax(worst, fabs((double)m[k] - expected(a, t->name, t, w, k)));
		free(w);
		free(m);
	}
	model_file_close(base);
	model_file_close(merged);
	return worst;
}

static void setup(void)
{
	strcpy(home + strlen(home) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(home));
	snprintf(tiny, sizeof tiny, "%s/tests/golden/tiny.gguf", getenv("SRCDIR"));
}

static void teardown(void)
{
	char command[128];
	snprintf(command, sizeof command, "rm -rf '%s'", home);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(what_the_writer_writes_the_reader_reads)
{
	struct gguf_keys keys = {0};
	struct gguf_tensor tensors[] = {{.name = "odd", .type = STORED_F16, .dimensions = 1, .shape = {3, 1, 1, 1}},
		{.name = "blocks", .type = STORED_Q8_0, .dimensions = 2, .shape = {32, 2, 1, 1}}};
	uint8_t data[6 + 68];
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (uint8_t)(i + 1);
	struct gguf_writer *w;
	struct fault f = {0};
	gguf_keys_text(&keys, "general.architecture", "llama");
	gguf_keys_u32(&keys, "some.number", 4000000000u);
	gguf_keys_f32(&keys, "some.fraction", 0.1f);
	ck_assert_int_eq(gguf_writer_begin(&w, inside("a.gguf"), 0644, &keys, tensors, 2, &f), 0);
	ck_assert_int_eq(access(inside("a.gguf"), F_OK), -1);
	ck_assert_int_eq(gguf_writer_append(w, data, 2, &f), 0);
	ck_assert_int_eq(gguf_writer_append(w, data + 2, 4, &f), 0);
	ck_assert_int_eq(gguf_writer_append(w, data + 6, 68, &f), 0);
	ck_assert_msg(gguf_writer_commit(w, &f) == 0, "%s", f.text);
	struct gguf *g;
	ck_assert_msg(gguf_open(inside("a.gguf"), &g, &f) == 0, "%s", f.text);
	uint32_t number;
	float fraction;
	uint8_t back[68];
	ck_assert_int_eq(gguf_get_u32(g, "some.number", &number, &f), 0);
	ck_assert_int_eq(gguf_get_f32(g, "some.fraction", &fraction, &f), 0);
	ck_assert(number == 4000000000u && fraction == 0.1f);
	ck_assert_uint_eq(gguf_tensor_count(g), 2);
	const struct gguf_tensor *t = gguf_tensor_find(g, "blocks");
	ck_assert(t->type == STORED_Q8_0 && t->shape[0] == 32 && t->shape[1] == 2 && t->offset == tensors[1].offset);
	ck_assert_int_eq(gguf_read(g, t, 0, 68, back, &f), 0);
	ck_assert_mem_eq(back, data + 6, 68);
	/* its metadata, copied but for some, are the same again */
	struct gguf_keys copy = {0};
	gguf_keys_copy(&copy, g, (const char *const[]){"some.frac", NULL});
	ck_assert_uint_eq(copy.count, 3);
	ck_assert_uint_eq(copy.bytes.size, keys.bytes.size);
	ck_assert_mem_eq(copy.bytes.data, keys.bytes.data, keys.bytes.size);
	gguf_keys_fini(&copy);
	gguf_keys_copy(&copy, g, (const char *const[]){"some.", NULL});
	ck_assert_uint_eq(copy.count, 1);
	gguf_keys_fini(&copy);
	gguf_keys_fini(&keys);
	gguf_close(g);
}
END_TEST

START_TEST(a_writer_that_is_used_wrongly_leaves_nothing)
{
	struct gguf_keys keys = {0};
	struct gguf_tensor t = {.name = "t", .type = STORED_F32, .dimensions = 1, .shape = {2, 1, 1, 1}};
	const float data[3] = {0};
	struct gguf_writer *w;
	struct fault f = {0};
	ck_assert_int_eq(gguf_writer_begin(&w, inside("a.gguf"), 0644, &keys, &t, 1, &f), 0);
	ck_assert_int_eq(gguf_writer_append(w, data, 12, &f), SAKIORI_EINVAL);
	gguf_writer_abort(w);
	ck_assert_int_eq(gguf_writer_begin(&w, inside("a.gguf"), 0644, &keys, &t, 1, &f), 0);
	ck_assert_int_eq(gguf_writer_append(w, data, 4, &f), 0);
	ck_assert_int_eq(gguf_writer_commit(w, &f), SAKIORI_EINVAL);
	ck_assert(strstr(f.text, "data of tensor t are missing") != NULL);
	t.type = STORED_Q8_0;
	ck_assert_int_eq(gguf_writer_begin(&w, inside("a.gguf"), 0644, &keys, &t, 1, &f), SAKIORI_EINVAL);
	ck_assert_ptr_null(w);
	t.type = STORED_F32;
	t.name = "a name of more than sixty-four letters, which no reader of the format would take";
	ck_assert_int_eq(gguf_writer_begin(&w, inside("a.gguf"), 0644, &keys, &t, 1, &f), SAKIORI_EINVAL);
	ck_assert_uint_eq(entries_of(home), 0);
}
END_TEST

START_TEST(a_merged_gguf_is_base_plus_product)
{
	/* Half a unit of the last place below 4, where the largest values lie; F32 has a few roundings on the way. */
	static const struct {
		enum stored_type type;
		double most;
	} cases[] = {
		{STORED_F32, 2e-6}, {STORED_F16, 0x1p-10}, {STORED_BF16, 0x1p-7}, {STORED_Q8_0, 4.0 / 254 + 0x1p-10}};
	struct model_file *model = open_model(tiny);
	struct peft_adapter a = make_adapter(model);
	struct fault f = {0};
	ck_assert_int_eq(merge_check(model, &a, &f), 0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		const struct export job = {.model = model, .adapter = &a, .type = cases[i].type};
		ck_assert_msg(export_gguf_merged(&job, inside("m.gguf"), &f) == 0, "%s", f.text);
		double worst = worst_error(inside("m.gguf"), &a);
		ck_assert_msg(worst <= cases[i].most, "%s: %g", stored_type_name(cases[i].type), worst);
	}
	model_file_close(model);
}
END_TEST

START_TEST(a_merged_gguf_keeps_tokenizer_and_norms)
{
	struct model_file *model = open_model(tiny);
	struct peft_adapter a = make_adapter(model);
	struct fault f = {0};
	const struct export job = {.model = model, .adapter = &a, .type = STORED_F16};
	ck_assert_int_eq(export_gguf_merged(&job, inside("m.gguf"), &f), 0);
	struct gguf *g;
	ck_assert_int_eq(gguf_open(inside("m.gguf"), &g, &f), 0);
	struct gguf_text *tokens;
	size_t count;
	uint32_t v;
	ck_assert_int_eq(gguf_get_texts(g, "tokenizer.ggml.tokens", &tokens, &count, &f), 0);
	ck_assert_uint_eq(count, 512);
	free(tokens);
	ck_assert(gguf_has(g, "tokenizer.chat_template") && gguf_has(g, "llama.rope.freq_base"));
	ck_assert(gguf_get_u32(g, "general.file_type", &v, &f) == 0 && v == 1);
	ck_assert(!gguf_has(g, "general.quantization_version"));
	ck_assert_int_eq(gguf_tensor_find(g, "blk.1.attn_norm.weight")->type, STORED_F32);
	ck_assert_int_eq(gguf_tensor_find(g, "blk.1.attn_q.weight")->type, STORED_F16);
	ck_assert_ptr_null(gguf_tensor_find(g, "output.weight"));
	gguf_close(g);
	model_file_close(model);
}
END_TEST

/* The order that llama.cpp's converter gives q and k: w.reshape(heads, 2, rows / heads / 2).swapaxes(1, 2). */
static size_t converters_row(size_t stored, size_t heads, size_t rows)
{
	size_t head = rows / heads, in_head = stored % head;
	return stored / head * head + in_head % 2 * (head / 2) + in_head / 2;
}

START_TEST(a_gguf_adapter_has_its_rows_where_llama_cpp_has_the_weights)
{
	struct model_file *model = open_model(tiny);
	const struct model_shape *s = model_file_shape(model);
	struct peft_adapter a = make_adapter(model);
	a.alpha = RANK; /* folded, as far as the writer knows */
	struct fault f = {0};
	const struct export job = {.model = model, .adapter = &a, .type = STORED_F32};
	ck_assert_msg(export_gguf_adapter(&job, inside("a.gguf"), &f) == 0, "%s", f.text);
	struct gguf *g;
	ck_assert_int_eq(gguf_open(inside("a.gguf"), &g, &f), 0);
	struct gguf_text text;
	float loaded_alpha;
	ck_assert(gguf_get_text(g, "general.type", &text, &f) == 0 && memcmp(text.data, "adapter", 7) == 0);
	ck_assert(gguf_get_text(g, "adapter.type", &text, &f) == 0 && memcmp(text.data, "lora", 4) == 0);
	ck_assert(gguf_get_f32(g, "adapter.lora.alpha", &loaded_alpha, &f) == 0 && loaded_alpha == RANK);
	ck_assert_uint_eq(gguf_tensor_count(g), 2 * a.count);
	for (size_t i = 0; i < a.count; i++) {
		static const char *const names[] = {
			"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
		const struct peft_matrix *m = &a.matrices[i];
		size_t heads = m->target == PEFT_Q ? s->heads : m->target == PEFT_K ? s->kv_heads : 0;
		char name[64];
		float values[RANK * 64];
		snprintf(name, sizeof name, "blk.%u.%s.weight.lora_a", m->layer, names[m->target]);
		const struct gguf_tensor *t = gguf_tensor_find(g, name);
		ck_assert_msg(t != NULL && t->shape[0] == m->in && t->shape[1] == RANK, "%s", name);
		ck_assert_int_eq(gguf_read(g, t, 0, (size_t)t->bytes, values, &f), 0);
		ck_assert_mem_eq(values, m->a, t->bytes);
		name[strlen(name) - 1] = 'b';
		t = gguf_tensor_find(g, name);
		ck_assert_msg(t != NULL && t->shape[0] == RANK && t->shape[1] == m->out, "%s", name);
		ck_assert_int_eq(gguf_read(g, t, 0, (size_t)t->bytes, values, &f), 0);
		for (size_t row = 0; row < m->out; row++) {
			size_t from = heads != 0 ? converters_row(row, heads, m->out) : row;
			ck_assert_mem_eq(values + row * RANK, m->b + from * RANK, RANK * sizeof(float));
		}
	}
	gguf_close(g);
	model_file_close(model);
}
END_TEST

START_TEST(rows_that_are_no_whole_blocks_are_f16)
{
	struct model_file *model = open_model(tiny);
	struct peft_adapter a = make_adapter(model);
	struct fault f = {0};
	const struct export job = {.model = model, .adapter = &a, .type = STORED_Q8_0};
	ck_assert_int_eq(export_gguf_adapter(&job, inside("a.gguf"), &f), 0);
	struct gguf *g;
	ck_assert_int_eq(gguf_open(inside("a.gguf"), &g, &f), 0);
	ck_assert_int_eq(gguf_tensor_find(g, "blk.0.attn_q.weight.lora_a")->type, STORED_Q8_0);
	ck_assert_int_eq(gguf_tensor_find(g, "blk.0.attn_q.weight.lora_b")->type, STORED_F16);
	gguf_close(g);
	model_file_close(model);
}
END_TEST

START_TEST(merged_safetensors_have_hugging_face_names_and_rows)
{
	struct model_file *model = open_model(tiny);
	struct peft_adapter a = make_adapter(model);
	struct fault f = {0};
	const struct export job = {.model = model, .adapter = &a, .type = STORED_F32};
	ck_assert_msg(export_safetensors_merged(&job, inside("m.safetensors"), &f) == 0, "%s", f.text);
	struct safetensors *s;
	ck_assert_int_eq(safetensors_open(inside("m.safetensors"), &s, &f), 0);
	ck_assert_uint_eq(safetensors_count(s), model_file_tensor_count(model));
	ck_assert_ptr_null(safetensors_find(s, "lm_head.weight")); /* tied */
	static const char *const names[] = {
		"model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight", "model.norm.weight"};
	for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
		const struct safetensors_tensor *t = safetensors_find(s, names[k]);
		const struct model_tensor *base = model_file_tensor(model, names[k]);
		float *w = read_tensor(model, names[k]), values[64 * 64];
		ck_assert_uint_eq(t->dimensions, base->vector ? 1 : 2);
		ck_assert_int_eq(safetensors_read(s, t, 0, (size_t)t->bytes, values, &f), 0);
		for (size_t i = 0; i < base->rows * base->cols; i++)
			ck_assert(fabs((double)values[i] - expected(&a, names[k], base, w, i)) < 2e-6);
		free(w);
	}
	safetensors_close(s);
	model_file_close(model);
}
END_TEST

START_TEST(sums_that_the_type_cannot_hold_are_refused)
{
	struct model_file *model = open_model(tiny);
	struct peft_adapter a = make_adapter(model);
	factors[0][0][0] = 1e6f;
	struct fault f = {0};
	const struct export job = {.model = model, .adapter = &a, .type = STORED_F16};
	ck_assert_int_eq(export_gguf_merged(&job, inside("m.gguf"), &f), SAKIORI_EUNSUPPORTED);
	ck_assert_msg(strstr(f.text, "self_attn.q_proj") != NULL && strstr(f.text, "take f32") != NULL, "%s", f.text);
	ck_assert_int_eq(export_gguf_adapter(&job, inside("a.gguf"), &f), SAKIORI_EUNSUPPORTED);
	ck_assert_uint_eq(entries_of(home), 0);
	model_file_close(model);
}
END_TEST

START_TEST(an_adapter_of_another_model_is_refused_by_name)
{
	struct model_file *model = open_model(tiny);
	struct peft_adapter a = make_adapter(model);
	struct fault f = {0};
	pairs[3].in++;
	ck_assert_int_eq(merge_check(model, &a, &f), SAKIORI_EMISMATCH);
	ck_assert_msg(strstr(f.text, "model.layers.0.self_attn.o_proj.weight is 33 to 32") != NULL, "%s", f.text);
	pairs[3].in--;
	pairs[3].layer = 2;
	ck_assert_int_eq(merge_check(model, &a, &f), SAKIORI_EMISMATCH);
	ck_assert(strstr(f.text, "layers.2") != NULL);
	model_file_close(model);
}
END_TEST

START_TEST(a_folded_adapter_has_scale_one_and_the_same_product)
{
	struct model_file *model = open_model(tiny);
	struct peft_adapter a = make_adapter(model), *folded;
	struct fault f = {0};
	a.rslora = true;
	ck_assert_int_eq(peft_write(inside("adapter"), &a, &f), 0);
	ck_assert_int_eq(peft_read(inside("adapter"), &folded, &f), 0);
	peft_fold(folded);
	ck_assert(folded->alpha == RANK && !folded->rslora && peft_scale(folded) == 1);
	for (size_t i = 0; i < a.count; i++)
		for (size_t k = 0; k < (size_t)pairs[i].out * RANK; k++)
			ck_assert(folded->matrices[i].b[k] ==
				  (float)((double)alpha / sqrt(RANK) * (double)pairs[i].b[k]));
	peft_free(folded);
	model_file_close(model);
}
END_TEST

/* The tiny model with a table of rope factors. */
static void write_scaled(const char *path, const float *table)
{
	struct gguf *g;
	struct fault f = {0};
	struct gguf_keys keys = {0};
	struct gguf_writer *w;
	ck_assert_int_eq(gguf_open(tiny, &g, &f), 0);
	size_t count = gguf_tensor_count(g);
	struct gguf_tensor *tensors = calloc(count + 1, sizeof *tensors), *sources = calloc(count, sizeof *sources);
	for (size_t i = 0; i < count; i++)
		tensors[i] = sources[i] = *gguf_tensor_at(g, i);
	tensors[count] = (struct gguf_tensor){
		.name = "rope_freqs.weight", .type = STORED_F32, .dimensions = 1, .shape = {4, 1, 1, 1}};
	gguf_keys_copy(&keys, g, (const char *const[]){NULL});
	ck_assert_int_eq(gguf_writer_begin(&w, path, 0644, &keys, tensors, count + 1, &f), 0);
	for (size_t i = 0; i < count; i++) {
		uint8_t *data = malloc((size_t)sources[i].bytes);
		ck_assert_int_eq(gguf_read(g, &sources[i], 0, (size_t)sources[i].bytes, data, &f), 0);
		ck_assert_int_eq(gguf_writer_append(w, data, (size_t)sources[i].bytes, &f), 0);
		free(data);
	}
	ck_assert_int_eq(gguf_writer_append(w, table, 16, &f), 0);
	ck_assert_msg(gguf_writer_commit(w, &f) == 0, "%s", f.text);
	gguf_keys_fini(&keys);
	free(tensors);
	free(sources);
	gguf_close(g);
}

/* rope_scaling of the config.json that is written for the tiny model with this table; NULL: refused. */
static json_t *scaling_of(const float table[static 4])
{
	struct fault f = {0};
	write_scaled(inside("scaled.gguf"), table);
	struct model_file *model = open_model(inside("scaled.gguf"));
	int rc = hugging_face_describe(model, STORED_BF16, home, &f);
	if (rc == 0) { /* the table passes into a merged GGUF as it is */
		struct peft_adapter a = make_adapter(model);
		const struct export job = {.model = model, .adapter = &a, .type = STORED_F16};
		ck_assert_int_eq(export_gguf_merged(&job, inside("m.gguf"), &f), 0);
		struct model_file *merged = open_model(inside("m.gguf"));
		ck_assert_mem_eq(model_file_shape(merged)->rope_factors, table, 16);
		model_file_close(merged);
	}
	model_file_close(model);
	if (rc != 0) {
		ck_assert_int_eq(rc, SAKIORI_EUNSUPPORTED);
		ck_assert_msg(strstr(f.text, "rope factors") != NULL, "%s", f.text);
		return NULL;
	}
	json_t *config;
	ck_assert_int_eq(json_parse_file(inside("config.json"), 1 << 20, &config, &f), 0);
	json_t *scaling = json_incref(json_object_get(config, "rope_scaling"));
	json_decref(config);
	return scaling;
}

START_TEST(rope_factors_become_the_settings_they_were_made_from)
{
	/* Llama 3.1's settings with base 100000 and a head of 8: wavelengths 2 pi base^(i/4) of 6.28, 111.7, 1987 and
	 * 35333; above 8192 the factor, below 2048 none. */
	const float llama3[4] = {1, 1, 1, 8};
	/* An original context of 2048: 1987 lies between 512 and 2048. */
	double smooth = (2048 / (2 * M_PI * sqrt(1e5)) - 1) / 3;
	const float between[4] = {1, 1, (float)(1 / ((1 - smooth) / 32 + smooth)), 32};
	const float linear[4] = {2.5f, 2.5f, 2.5f, 2.5f}, nothing[4] = {1, 1, 1, 1}, strange[4] = {1, 3, 1, 8};
	json_t *s = scaling_of(llama3);
	ck_assert_str_eq(json_string_value(json_object_get(s, "rope_type")), "llama3");
	ck_assert(json_number_value(json_object_get(s, "factor")) == 8);
	json_decref(s);
	s = scaling_of(between);
	ck_assert(json_number_value(json_object_get(s, "factor")) == 32);
	ck_assert_int_eq(json_integer_value(json_object_get(s, "original_max_position_embeddings")), 2048);
	json_decref(s);
	s = scaling_of(linear);
	ck_assert_str_eq(json_string_value(json_object_get(s, "rope_type")), "linear");
	ck_assert(json_number_value(json_object_get(s, "factor")) == 2.5);
	json_decref(s);
	s = scaling_of(nothing);
	ck_assert(json_is_null(s));
	ck_assert_ptr_null(scaling_of(strange));
}
END_TEST

START_TEST(a_folder_appears_whole_or_not_at_all)
{
	struct folder_writer w;
	struct fault f = {0};
	char file[160];
	for (int commit = 0; commit < 2; commit++) {
		ck_assert_msg(folder_writer_begin(&w, inside("new/out/"), &f) == 0, "%s", f.text);
		snprintf(file, sizeof file, "%s/file", w.temporary);
		ck_assert_int_eq(file_replace(file, "x", 1, 0644, &f), 0);
		ck_assert_int_eq(access(inside("new/out"), F_OK), -1);
		if (commit)
			ck_assert_msg(folder_writer_commit(&w, &f) == 0, "%s", f.text);
		else
			folder_writer_abort(&w);
		ck_assert_uint_eq(entries_of(inside("new")), commit ? 1 : 0);
	}
	ck_assert_int_eq(folder_writer_begin(&w, inside("new/out"), &f), SAKIORI_EINVAL);
	ck_assert(strstr(f.text, "exists already") != NULL);
	ck_assert_int_eq(mkdir(inside("empty"), 0700), 0);
	ck_assert_int_eq(folder_writer_begin(&w, inside("empty"), &f), 0);
	ck_assert_int_eq(folder_writer_commit(&w, &f), 0);
	ck_assert_int_eq(file_prepare_place(inside("empty"), false, &f), SAKIORI_EINVAL);
	/* something took the name meanwhile */
	ck_assert_int_eq(folder_writer_begin(&w, inside("taken"), &f), 0);
	ck_assert_int_eq(file_replace(inside("taken"), "x", 1, 0644, &f), 0);
	ck_assert_int_lt(folder_writer_commit(&w, &f), 0);
	ck_assert_uint_eq(entries_of(home), 3);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("export");
	TCase *t = tcase_create("export");
	suite_add_tcase(suite, t);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, what_the_writer_writes_the_reader_reads);
	tcase_add_test(t, a_writer_that_is_used_wrongly_leaves_nothing);
	tcase_add_test(t, a_merged_gguf_is_base_plus_product);
	tcase_add_test(t, a_merged_gguf_keeps_tokenizer_and_norms);
	tcase_add_test(t, a_gguf_adapter_has_its_rows_where_llama_cpp_has_the_weights);
	tcase_add_test(t, rows_that_are_no_whole_blocks_are_f16);
	tcase_add_test(t, merged_safetensors_have_hugging_face_names_and_rows);
	tcase_add_test(t, sums_that_the_type_cannot_hold_are_refused);
	tcase_add_test(t, an_adapter_of_another_model_is_refused_by_name);
	tcase_add_test(t, a_folded_adapter_has_scale_one_and_the_same_product);
	tcase_add_test(t, rope_factors_become_the_settings_they_were_made_from);
	tcase_add_test(t, a_folder_appears_whole_or_not_at_all);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
