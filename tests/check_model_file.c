/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/rng.h"
#include "formats/model_file.h"
#include "tests/lib/gguf_build.h"

/* From tests/golden/make_fingerprint.py, which knows only the Hugging Face weights. */
#define TINY_FINGERPRINT "c5fbc2b9b68d901086bf2952da3fd50a03a0e7eba5be2997b659262dc99a39b1"

static char path[] = "/tmp/check_model_file.XXXXXX";
static const char *tiny;

/* What a built model says or lacks; the default is a valid Llama of one layer: hidden 8, 2 heads of 4, 1 kv head, MLP 12, vocabulary 5. */
struct options {
	const char *architecture, *type;
	uint32_t heads, kv_heads, layers, context, split;
	float epsilon;
	uint32_t rope_dimension; /* 0: no key */
	const char *scaling;     /* NULL: no key */
	float scaling_factor;    /* 0: no key */
	float rope_base;         /* 0: no key */
	uint32_t experts;        /* 0: no key */
	const char *without;     /* leaves this tensor out */
	const char *extra;       /* adds this tensor of extra_size floats (0: 8), all extra_value */
	uint32_t extra_size;
	float extra_value;
	const char *wrong; /* gives this tensor a row more */
	bool reversed;     /* writes the tensors from last to first */
	uint32_t alignment;
	float bad_value; /* when not 0: the first value of output_norm */
};
#define VALID                                                                                                          \
	(struct options)                                                                                               \
	{                                                                                                              \
		.architecture = "llama", .type = "model", .heads = 2, .kv_heads = 1, .layers = 1, .context = 16,       \
		.split = 1, .epsilon = 1e-5f, .alignment = 32                                                          \
	}

static const struct {
	const char *name;
	uint32_t rows, cols;
} built[] = {{"token_embd.weight", 5, 8}, {"blk.0.attn_norm.weight", 0, 8}, {"blk.0.attn_q.weight", 8, 8},
	{"blk.0.attn_k.weight", 4, 8}, {"blk.0.attn_v.weight", 4, 8}, {"blk.0.attn_output.weight", 8, 8},
	{"blk.0.ffn_norm.weight", 0, 8}, {"blk.0.ffn_gate.weight", 12, 8}, {"blk.0.ffn_up.weight", 12, 8},
	{"blk.0.ffn_down.weight", 8, 12}, {"output_norm.weight", 0, 8}};
enum { BUILT = sizeof built / sizeof *built };

static uint64_t tensor_bytes(int i, const struct options *o)
{
	uint64_t rows = built[i].rows == 0 ? 1 : built[i].rows;
	if (o->wrong != NULL && strcmp(o->wrong, built[i].name) == 0)
		rows++;
	return 4 * rows * built[i].cols;
}

static bool left_out(int i, const struct options *o)
{
	return o->without != NULL && strcmp(o->without, built[i].name) == 0;
}

/* Writes the keys and counts them. */
static uint64_t write_keys(struct writer *w, const struct options *o)
{
	uint64_t keys = 12;
	build_key_text(w, "general.architecture", o->architecture);
	build_key_text(w, "general.type", o->type);
	build_key_u32(w, "general.alignment", o->alignment);
	build_key_u32(w, "split.count", o->split);
	build_key_u32(w, "llama.block_count", o->layers);
	build_key_u32(w, "llama.context_length", o->context);
	build_key_u32(w, "llama.embedding_length", 8);
	build_key_u32(w, "llama.feed_forward_length", 12);
	build_key_u32(w, "llama.attention.head_count", o->heads);
	build_key_u32(w, "llama.attention.head_count_kv", o->kv_heads);
	build_key_u32(w, "llama.vocab_size", 5);
	build_key_f32(w, "llama.attention.layer_norm_rms_epsilon", o->epsilon);
	if (o->rope_dimension != 0)
		build_key_u32(w, "llama.rope.dimension_count", o->rope_dimension), keys++;
	if (o->scaling != NULL)
		build_key_text(w, "llama.rope.scaling.type", o->scaling), keys++;
	if (o->scaling_factor != 0)
		build_key_f32(w, "llama.rope.scaling.factor", o->scaling_factor), keys++;
	if (o->rope_base != 0)
		build_key_f32(w, "llama.rope.freq_base", o->rope_base), keys++;
	if (o->experts != 0)
		build_key_u32(w, "llama.expert_count", o->experts), keys++;
	return keys;
}

/* Writes the model to `path`. Value k of tensor i is the same whatever the order and alignment. */
static void build_model(struct options o)
{
	struct writer keys, w;
	writer_init(&keys);
	writer_init(&w);
	uint64_t key_count = write_keys(&keys, &o), offset = 0;
	build_header(&w, 3, (uint64_t)BUILT - (o.without != NULL) + (o.extra != NULL), key_count);
	write_bytes(&w, keys.data, keys.size);
	for (int n = 0; n < BUILT; n++) {
		int i = o.reversed ? BUILT - 1 - n : n;
		if (left_out(i, &o))
			continue;
		uint64_t bytes = tensor_bytes(i, &o);
		build_tensor(&w, built[i].name, built[i].rows == 0 ? 0 : bytes / 4 / built[i].cols, built[i].cols,
			BUILD_TYPE_F32, offset);
		offset = (offset + bytes + o.alignment - 1) / o.alignment * o.alignment;
	}
	if (o.extra != NULL)
		build_tensor(&w, o.extra, 0, o.extra_size ? o.extra_size : 8, BUILD_TYPE_F32, offset);
	for (int n = 0; n < BUILT; n++) {
		int i = o.reversed ? BUILT - 1 - n : n;
		if (left_out(i, &o))
			continue;
		build_pad(&w, o.alignment);
		for (uint64_t k = 0; k < tensor_bytes(i, &o) / 4; k++)
			write_f32(&w, o.bad_value != 0 && i == BUILT - 1 && k == 0 ? o.bad_value
										   : (float)(1000 * i) + (float)k);
	}
	build_pad(&w, o.alignment);
	for (uint32_t k = 0; o.extra != NULL && k < (o.extra_size ? o.extra_size : 8); k++)
		write_f32(&w, o.extra_value);
	struct fault f = {0};
	ck_assert_msg(file_replace(path, w.data, w.size, 0600, &f) == 0, "%s", f.text);
	writer_fini(&keys);
	writer_fini(&w);
}

static void refused(struct options o, int code, const char *sentence)
{
	build_model(o);
	struct model_file *mf;
	struct fault f = {0};
	int rc = model_file_open(path, &mf, &f);
	ck_assert_msg(rc == code && strstr(f.text, sentence) != NULL, "expected %d \"%s\", got %d \"%s\"", code,
		sentence, rc, f.text);
	ck_assert(strncmp(f.text, path, strlen(path)) == 0);
	ck_assert_ptr_null(mf);
}

static struct model_file *open_model(const char *file)
{
	struct model_file *mf;
	struct fault f = {0};
	ck_assert_msg(model_file_open(file, &mf, &f) == 0, "%s", f.text);
	return mf;
}

/* Reads every tensor `step` rows at a time. */
static void read_all(struct model_file *mf, size_t step)
{
	struct fault f = {0};
	for (size_t i = 0; i < model_file_tensor_count(mf); i++) {
		const struct model_tensor *t = model_file_tensor_at(mf, i);
		float *rows = malloc(step * t->cols * sizeof *rows);
		for (size_t r = 0; r < t->rows; r += step)
			ck_assert_msg(model_file_read(mf, t, r, step < t->rows - r ? step : t->rows - r, rows, &f) == 0,
				"%s", f.text);
		free(rows);
	}
}

static void fingerprint(const char *file, size_t step, char hex[static HASH_HEX_SIZE])
{
	struct model_file *mf = open_model(file);
	read_all(mf, step);
	uint8_t out[HASH_SIZE];
	struct fault f = {0};
	ck_assert_msg(model_file_fingerprint(mf, out, &f) == 0, "%s", f.text);
	hex_encode(out, sizeof out, hex);
	model_file_close(mf);
}

START_TEST(the_tiny_model_has_the_shape_its_script_gave_it)
{
	struct model_file *mf = open_model(tiny);
	const struct model_shape *s = model_file_shape(mf);
	ck_assert_str_eq(s->architecture, "llama");
	ck_assert_str_eq(s->name, "Tiny SmolLM2 for tests");
	ck_assert(s->hidden == 32 && s->intermediate == 64 && s->layers == 2 && s->heads == 4 && s->kv_heads == 2);
	ck_assert(s->head_size == 8 && s->vocabulary == 512 && s->context == 2048 && s->tied);
	ck_assert(s->norm_epsilon == 1e-5f && s->rope_theta == 100000.0f);
	ck_assert_uint_eq(model_file_tensor_count(mf), 20);
	const struct model_tensor *t = model_file_tensor(mf, "model.layers.1.mlp.down_proj.weight");
	ck_assert(t != NULL && t->rows == 32 && t->cols == 64 && !t->vector && t->type == STORED_F32);
	ck_assert(model_file_tensor(mf, "model.norm.weight")->vector);
	ck_assert_ptr_null(model_file_tensor(mf, "lm_head.weight"));
	ck_assert_ptr_null(model_file_tensor(mf, "model.layers.2.mlp.down_proj.weight"));
	ck_assert(gguf_has(model_file_metadata(mf), "tokenizer.ggml.merges"));
	model_file_close(mf);
}
END_TEST

START_TEST(the_fingerprint_is_that_of_the_hugging_face_weights)
{
	const size_t steps[] = {1, 3, 8, 1000};
	for (int i = 0; i < 4; i++) {
		char hex[HASH_HEX_SIZE];
		fingerprint(tiny, steps[i], hex);
		ck_assert_str_eq(hex, TINY_FINGERPRINT);
	}
}
END_TEST

START_TEST(permuted_rows_come_back_in_hugging_face_order)
{
	build_model(VALID);
	struct model_file *mf = open_model(path);
	struct fault f = {0};
	float q[8 * 8];
	/* heads of 4 rows: stored row 2j + half is row half * 2 + j; the stored row's first value tells which it was */
	const int stored[8] = {0, 2, 1, 3, 4, 6, 5, 7};
	ck_assert_int_eq(
		model_file_read(mf, model_file_tensor(mf, "model.layers.0.self_attn.q_proj.weight"), 0, 8, q, &f), 0);
	for (int r = 0; r < 8; r++)
		ck_assert(q[8 * r] == (float)(2000 + 8 * stored[r]));
	ck_assert_int_eq(
		model_file_read(mf, model_file_tensor(mf, "model.layers.0.self_attn.v_proj.weight"), 0, 4, q, &f), 0);
	for (int r = 0; r < 4; r++)
		ck_assert(q[8 * r] == (float)(4000 + 8 * r));
	model_file_close(mf);
}
END_TEST

START_TEST(the_fingerprint_does_not_depend_on_the_container)
{
	char one[HASH_HEX_SIZE], other[HASH_HEX_SIZE];
	struct options o = VALID;
	build_model(o);
	fingerprint(path, 1000, one);
	o.reversed = true;
	o.alignment = 256;
	build_model(o);
	fingerprint(path, 1000, other);
	ck_assert_str_eq(one, other);
}
END_TEST

START_TEST(the_same_tensors_with_other_scalars_are_another_base)
{
	enum { MODELS = 8 };
	struct options models[MODELS] = {VALID, VALID, VALID, VALID, VALID, VALID, VALID, VALID};
	char hex[MODELS][HASH_HEX_SIZE];
	models[1].rope_base = 10000; /* what a file without the key means: the same base */
	models[2].rope_base = 10001;
	models[3].epsilon = 1e-6f;
	models[4].heads = 4; /* of 2 features each; the key rows are the same 4 */
	models[4].kv_heads = 2;
	models[5].extra = models[6].extra = "rope_freqs.weight";
	models[5].extra_size = models[6].extra_size = 2;
	models[5].extra_value = 2;
	models[6].extra_value = 3;
	models[7].scaling_factor = 2; /* linear: the same turns as models[5] */
	for (int i = 0; i < MODELS; i++) {
		build_model(models[i]);
		fingerprint(path, 1000, hex[i]);
	}
	ck_assert_str_eq(hex[0], hex[1]);
	ck_assert_str_eq(hex[5], hex[7]);
	for (int i = 2; i < MODELS - 1; i++)
		for (int k = 1; k < i; k++)
			ck_assert_str_ne(hex[i], hex[k]);
}
END_TEST

START_TEST(one_flipped_byte_changes_the_fingerprint)
{
	uint8_t *data;
	size_t size;
	struct fault f = {0};
	ck_assert_int_eq(file_read(tiny, 1 << 20, &data, &size, &f), 0);
	const size_t places[] = {
		1, 20000, 100000}; /* from the end: the last norm's exponent, inside the layers, the embedding */
	for (int i = 0; i < 3; i++) {
		char hex[HASH_HEX_SIZE];
		data[size - 1 - places[i]] ^= 1;
		ck_assert_int_eq(file_replace(path, data, size, 0600, &f), 0);
		data[size - 1 - places[i]] ^= 1;
		fingerprint(path, 1000, hex);
		ck_assert_str_ne(hex, TINY_FINGERPRINT);
	}
	ck_assert_int_eq(file_replace(path, data, size, 0600, &f), 0);
	char hex[HASH_HEX_SIZE];
	fingerprint(path, 1000, hex);
	ck_assert_str_eq(hex, TINY_FINGERPRINT);
	free(data);
}
END_TEST

START_TEST(there_is_no_fingerprint_before_every_tensor_was_read_whole)
{
	build_model(VALID);
	struct model_file *mf = open_model(path);
	struct fault f = {0};
	uint8_t out[HASH_SIZE];
	ck_assert_int_eq(model_file_fingerprint(mf, out, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "was not read whole"));
	read_all(mf, 1000);
	ck_assert_int_eq(model_file_fingerprint(mf, out, &f), 0);
	const struct model_tensor *t = model_file_tensor(mf, "model.embed_tokens.weight");
	float row[8];
	ck_assert_int_eq(model_file_read(mf, t, 0, 1, row, &f), 0);
	ck_assert_int_eq(model_file_fingerprint(mf, out, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "model.embed_tokens.weight"));
	model_file_close(mf);
}
END_TEST

START_TEST(rows_out_of_order_or_outside_are_refused)
{
	build_model(VALID);
	struct model_file *mf = open_model(path);
	struct fault f = {0};
	const struct model_tensor *t = model_file_tensor(mf, "model.embed_tokens.weight");
	float rows[5 * 8];
	ck_assert_int_eq(model_file_read(mf, t, 1, 1, rows, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(model_file_read(mf, t, 0, 2, rows, &f), 0);
	ck_assert_int_eq(model_file_read(mf, t, 3, 1, rows, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "row 3 was asked for and row 2 is next"));
	ck_assert_int_eq(model_file_read(mf, t, 2, 4, rows, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(model_file_read(mf, t, 2, SIZE_MAX, rows, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(model_file_read(mf, t, 2, 3, rows, &f), 0);
	ck_assert_int_eq(model_file_read(mf, t, 0, 5, rows, &f), 0);
	model_file_close(mf);
}
END_TEST

START_TEST(rows_as_stored_are_the_bytes_of_the_same_pass)
{
	build_model(VALID);
	struct model_file *mf = open_model(path);
	struct fault f = {0};
	const struct model_tensor *t = model_file_tensor(mf, "model.layers.0.self_attn.k_proj.weight");
	float stored[4 * 8], decoded[4 * 8];
	ck_assert_int_eq(model_file_read_stored(mf, t, 0, 1, stored, &f), 0);
	ck_assert_int_eq(model_file_read_stored(mf, t, 1, 3, stored + 8, &f), 0);
	ck_assert_int_eq(model_file_read(mf, t, 0, 4, decoded, &f), 0);
	ck_assert_mem_eq(stored, decoded, sizeof stored);
	model_file_close(mf);
}
END_TEST

START_TEST(a_file_changed_between_two_passes_is_noticed)
{
	build_model(VALID);
	struct model_file *mf = open_model(path);
	read_all(mf, 1000);
	FILE *file = fopen(path, "r+"); /* in place: a replaced file would still be the old one to us */
	ck_assert_int_eq(fseek(file, -20, SEEK_END), 0);
	ck_assert_int_ne(fputc('x', file), EOF);
	fclose(file);
	struct fault f = {0};
	float row[8];
	ck_assert_int_eq(
		model_file_read(mf, model_file_tensor(mf, "model.norm.weight"), 0, 1, row, &f), SAKIORI_ECORRUPT);
	ck_assert_ptr_nonnull(strstr(f.text, "tensor model.norm.weight is not what it was"));
	uint8_t out[HASH_SIZE];
	ck_assert_int_eq(model_file_fingerprint(mf, out, &f), SAKIORI_EINVAL);
	model_file_close(mf);
}
END_TEST

START_TEST(weights_that_are_not_finite_are_refused)
{
	const float bad[] = {INFINITY, -INFINITY, NAN};
	for (int i = 0; i < 3; i++) {
		struct options o = VALID;
		o.bad_value = bad[i];
		build_model(o);
		struct model_file *mf = open_model(path);
		struct fault f = {0};
		float row[8];
		ck_assert_int_eq(model_file_read(mf, model_file_tensor(mf, "model.norm.weight"), 0, 1, row, &f),
			SAKIORI_EFORMAT);
		ck_assert_ptr_nonnull(strstr(f.text, "tensor model.norm.weight has a value"));
		model_file_close(mf);
	}
}
END_TEST

START_TEST(other_architectures_and_kinds_of_file_are_refused_by_name)
{
	struct options o = VALID;
	o.architecture = "falcon";
	refused(o, SAKIORI_EUNSUPPORTED,
		"architecture falcon is not supported; there are llama (Llama 2 and 3, SmolLM2), mistral (Mistral 7B), "
		"qwen2");
	o = VALID;
	o.type = "adapter";
	refused(o, SAKIORI_EUNSUPPORTED, "the file holds an adapter, expected a model");
	o = VALID;
	o.split = 3;
	refused(o, SAKIORI_EUNSUPPORTED, "split over 3 files");
	o = VALID;
	o.experts = 8;
	refused(o, SAKIORI_EUNSUPPORTED, "llama.expert_count is 8");
}
END_TEST

/* The factors of a model that opens. */
static void scales(struct options o, float expected)
{
	struct model_file *mf;
	struct fault f = {0};
	build_model(o);
	ck_assert_msg(model_file_open(path, &mf, &f) == 0, "%s", f.text);
	ck_assert(
		model_file_shape(mf)->rope_factors[0] == expected && model_file_shape(mf)->rope_factors[1] == expected);
	model_file_close(mf);
}

START_TEST(rope_scaling_is_read_or_refused_by_name)
{
	struct options o = VALID;
	scales(o, 1);
	o.scaling = "yarn";
	refused(o, SAKIORI_EUNSUPPORTED, "rope scaling yarn is not supported; none, linear and llama3 are");
	o.scaling = NULL;
	o.scaling_factor = 4;
	scales(o, 4);
	o.scaling_factor = NAN;
	refused(o, SAKIORI_EFORMAT, "rope factor 0 is nan");
	o = VALID;
	o.extra = "rope_freqs.weight";
	refused(o, SAKIORI_EFORMAT, "tensor rope_freqs.weight is not one row of 2 numbers in F32");
	o.extra_size = 2;
	refused(o, SAKIORI_EFORMAT, "rope factor 0 is 0, expected");
	o.extra_value = 8;
	scales(o, 8);
	o.scaling = "linear";
	o.scaling_factor = 2;
	scales(o, 16);
	o = VALID;
	o.scaling = "none";
	o.scaling_factor = 4;
	build_model(o);
	model_file_close(open_model(path));
}
END_TEST

START_TEST(shapes_that_do_not_hold_together_are_refused)
{
	struct options o = VALID;
	o.heads = 0;
	refused(o, SAKIORI_EFORMAT, "head_count is 0");
	o = VALID;
	o.heads = 3;
	refused(o, SAKIORI_EFORMAT, "hidden size 8 is not a multiple of 3 heads");
	o = VALID;
	o.kv_heads = 3;
	refused(o, SAKIORI_EFORMAT, "2 heads cannot share 3 key and value heads");
	o = VALID;
	o.heads = o.kv_heads = 8;
	refused(o, SAKIORI_EFORMAT, "the head size is 1, but rotary positions need an even one");
	o = VALID;
	o.rope_dimension = 2;
	refused(o, SAKIORI_EUNSUPPORTED, "llama.rope.dimension_count is 2, but heads are of size 4");
	o = VALID;
	o.layers = 0;
	refused(o, SAKIORI_EFORMAT, "the number of layers is 0");
	o = VALID;
	o.layers = UINT32_MAX;
	refused(o, SAKIORI_EFORMAT, "the number of layers is 4294967295, expected 1 to 1024");
	o = VALID;
	o.context = 0;
	refused(o, SAKIORI_EFORMAT, "the context length is 0");
	o = VALID;
	o.epsilon = NAN;
	refused(o, SAKIORI_EFORMAT, "the norm epsilon is nan");
}
END_TEST

START_TEST(missing_wrong_and_foreign_tensors_are_refused_by_name)
{
	struct options o = VALID;
	o.without = "blk.0.ffn_up.weight";
	refused(o, SAKIORI_EFORMAT, "tensor blk.0.ffn_up.weight (model.layers.0.mlp.up_proj.weight) is missing");
	o = VALID;
	o.wrong = "blk.0.attn_k.weight";
	refused(o, SAKIORI_EFORMAT,
		"tensor blk.0.attn_k.weight has 5 rows of 8, but the metadata asks for 4 rows of 8");
	o = VALID;
	o.extra = "blk.0.attn_q.bias";
	refused(o, SAKIORI_EUNSUPPORTED, "tensor blk.0.attn_q.bias has no place");
	o = VALID;
	o.layers = 2;
	refused(o, SAKIORI_EFORMAT, "tensor blk.1.");
	o = VALID;
	o.extra = "output.weight";
	refused(o, SAKIORI_EFORMAT, "tensor output.weight has 1 rows of 8, but the metadata asks for 5 rows of 8");
}
END_TEST

START_TEST(random_weights_are_the_same_every_time_and_spread_as_promised)
{
	float *rows[2];
	enum { ROWS = 4096, COLS = 576 };
	for (int i = 0; i < 2; i++) {
		struct model_file *mf = open_model("shape:smollm2-135m");
		struct fault f = {0};
		ck_assert_ptr_null(model_file_metadata(mf));
		const struct model_tensor *t = model_file_tensor(mf, "model.embed_tokens.weight");
		ck_assert(t->rows == 49152 && t->cols == COLS);
		rows[i] = malloc(sizeof(float) * ROWS * COLS);
		size_t step = i == 0 ? ROWS : 512;
		for (size_t r = 0; r < ROWS; r += step)
			ck_assert_int_eq(model_file_read(mf, t, r, step, rows[i] + r * COLS, &f), 0);
		float norm[COLS];
		ck_assert_int_eq(model_file_read(mf, model_file_tensor(mf, "model.norm.weight"), 0, 1, norm, &f), 0);
		ck_assert(norm[0] == 1 && norm[COLS - 1] == 1);
		model_file_close(mf);
	}
	ck_assert_mem_eq(rows[0], rows[1], sizeof(float) * ROWS * COLS);
	double sum = 0, square = 0;
	for (size_t i = 0; i < (size_t)ROWS * COLS; i++) {
		sum += (double)rows[0][i];
		square += (double)rows[0][i] * (double)rows[0][i];
	}
	double n = (double)ROWS * COLS;
	ck_assert(fabs(sum / n) < 2e-4);
	ck_assert(fabs(sqrt(square / n) - 0.02) < 2e-4);
	free(rows[0]);
	free(rows[1]);
}
END_TEST

/* The rule that compute.h states for a device that makes the weights itself. */
START_TEST(random_rows_are_those_of_the_rule_a_device_follows)
{
	const struct {
		const char *name;
		uint64_t before; /* elements of the tensors above it */
	} tensors[] = {
		{"self_attn.q_proj", 0},
		{"self_attn.k_proj", 576 * 576},
		{"self_attn.v_proj", 576 * 576 + 192 * 576},
		{"self_attn.o_proj", 0},
		{"mlp.gate_proj", 0},
		{"mlp.up_proj", 1536 * 576},
		{"mlp.down_proj", 0},
	};
	struct model_file *mf = open_model("shape:smollm2-135m");
	struct model_random random, above = {0};
	for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
		char name[64];
		snprintf(name, sizeof name, "model.layers.7.%s.weight", tensors[i].name);
		const struct model_tensor *t = model_file_tensor(mf, name);
		float *row = malloc(sizeof *row * t->cols * 2);
		ck_assert_int_eq(model_file_read(mf, t, 0, 1, row, NULL), 0);
		ck_assert_int_eq(model_file_read(mf, t, 1, 1, row + t->cols, NULL), 0);
		ck_assert(model_file_random(mf, t, &random));
		ck_assert_uint_eq(random.first_element, tensors[i].before);
		ck_assert((random.stream == above.stream) == (tensors[i].before != 0));
		for (size_t at = 0; at < 2 * t->cols; at++) {
			uint64_t e = random.first_element + at;
			uint32_t block[4];
			rng_block(random.seed, random.stream, e / 8, block);
			uint16_t h = (uint16_t)(block[e % 8 / 2] >> (16 * (e % 2)));
			ck_assert_float_eq(row[at], bf16_to_f32(random.normals[h]));
		}
		above = random;
		free(row);
	}
	ck_assert(!model_file_random(mf, model_file_tensor(mf, "model.norm.weight"), &random));
	model_file_close(mf);
	mf = open_model(tiny);
	ck_assert(!model_file_random(mf, model_file_tensor(mf, "model.embed_tokens.weight"), &random));
	model_file_close(mf);
}
END_TEST

START_TEST(every_known_shape_opens_and_has_a_fingerprint_of_its_own_and_an_unknown_one_lists_them)
{
	const char *const known[] = {"shape:smollm2-135m", "shape:smollm2-360m", "shape:smollm2-1.7b",
		"shape:tinyllama-1.1b", "shape:llama-3.2-1b", "shape:llama-3.2-3b", "shape:llama-2-7b",
		"shape:llama-3-8b", "shape:llama-3-70b"};
	enum { KNOWN = sizeof known / sizeof *known };
	uint8_t fingerprints[KNOWN][HASH_SIZE];
	for (int i = 0; i < KNOWN; i++) {
		struct model_file *shape = open_model(known[i]);
		ck_assert_int_eq(model_file_fingerprint(shape, fingerprints[i], NULL), 0);
		for (int k = 0; k < i; k++)
			ck_assert_mem_ne(fingerprints[i], fingerprints[k], HASH_SIZE);
		model_file_close(shape);
	}
	struct model_file *mf;
	struct fault f = {0};
	ck_assert_int_eq(model_file_open("shape:gpt", &mf, &f), SAKIORI_ENOTFOUND);
	ck_assert_ptr_nonnull(strstr(f.text, "llama-3-8b"));
}
END_TEST

int main(void)
{
	char buffer[4096];
	snprintf(buffer, sizeof buffer, "%s/tests/golden/tiny.gguf", getenv("SRCDIR"));
	tiny = buffer;
	close(mkstemp(path));
	Suite *s = suite_create("model_file");
	TCase *t = tcase_create("model_file");
	tcase_add_test(t, the_tiny_model_has_the_shape_its_script_gave_it);
	tcase_add_test(t, the_fingerprint_is_that_of_the_hugging_face_weights);
	tcase_add_test(t, permuted_rows_come_back_in_hugging_face_order);
	tcase_add_test(t, the_fingerprint_does_not_depend_on_the_container);
	tcase_add_test(t, the_same_tensors_with_other_scalars_are_another_base);
	tcase_add_test(t, one_flipped_byte_changes_the_fingerprint);
	tcase_add_test(t, there_is_no_fingerprint_before_every_tensor_was_read_whole);
	tcase_add_test(t, rows_out_of_order_or_outside_are_refused);
	tcase_add_test(t, rows_as_stored_are_the_bytes_of_the_same_pass);
	tcase_add_test(t, a_file_changed_between_two_passes_is_noticed);
	tcase_add_test(t, weights_that_are_not_finite_are_refused);
	tcase_add_test(t, other_architectures_and_kinds_of_file_are_refused_by_name);
	tcase_add_test(t, rope_scaling_is_read_or_refused_by_name);
	tcase_add_test(t, shapes_that_do_not_hold_together_are_refused);
	tcase_add_test(t, missing_wrong_and_foreign_tensors_are_refused_by_name);
	tcase_add_test(t, random_weights_are_the_same_every_time_and_spread_as_promised);
	tcase_add_test(t, random_rows_are_those_of_the_rule_a_device_follows);
	tcase_add_test(t, every_known_shape_opens_and_has_a_fingerprint_of_its_own_and_an_unknown_one_lists_them);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	unlink(path);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
