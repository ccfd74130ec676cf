/* SPDX-License-Identifier: Apache-2.0 */
/* Every supported architecture against transformers: tests/golden/architectures and architectures.safetensors, made by
 * tests/golden/make_architectures.py. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/compute.h"
#include "formats/model_file.h"
#include "formats/safetensors.h"
#include "lib/model_stage.h"
#include "train/model.h"

/* A configuration of a model, and where it has a GGUF file. */
static const struct subject {
	const char *model, *config, *older, *golden;
	bool gguf;
} subjects[] = {
	{"llama", "config.json", "config.4.json", "llama", true},
	{"smollm2", "config.json", "config.4.json", "smollm2", true},
	{"mistral", "config.json", "config.4.json", "mistral", false},
	{"mistral", "config.full.json", "config.full4.json", "mistral.full", true},
	{"qwen2", "config.json", "config.4.json", "qwen2", true},
	{"qwen2", "config.late.json", "config.late4.json", "qwen2.late", false},
	{"qwen3", "config.json", "config.4.json", "qwen3", true},
	{"gemma2", "config.json", "config.4.json", "gemma2", true},
	{"gemma2", "config.scalar.json", "config.scalar4.json", "gemma2.scalar", false},
	{"gemma2", "config.plain.json", "config.plain4.json", "gemma2.plain", false},
};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

static struct fault fault;

static void must(int rc)
{
	ck_assert_msg(rc == 0, "%d: %s", rc, fault.text);
}

/* ---- what transformers says ---- */

struct golden {
	struct safetensors *file;
	struct batch batch;
	float *logits, *adapter, *gradient, loss;
	size_t rank, vector;
	float alpha;
};

static void *tensor(struct safetensors *file, const char *before, const char *name, size_t *count)
{
	char full[64];
	snprintf(full, sizeof full, "%s%s", before, name);
	const struct safetensors_tensor *t = safetensors_find(file, full);
	ck_assert_msg(t != NULL, "%s is missing", full);
	void *data = malloc(t->bytes);
	must(safetensors_read(file, t, 0, t->bytes, data, &fault));
	*count = t->bytes / 4;
	return data;
}

static void open_golden(struct golden *g, const struct subject *s)
{
	char before[32];
	size_t n;
	memset(g, 0, sizeof *g);
	must(safetensors_open(stage_golden("architectures.safetensors"), &g->file, &fault));
	g->rank = strtoul(safetensors_note(g->file, "rank"), NULL, 10);
	g->alpha = strtof(safetensors_note(g->file, "alpha"), NULL);
	g->batch.ids = tensor(g->file, "", "ids", &g->batch.tokens);
	g->batch.labels = tensor(g->file, "", "labels", &n);
	g->batch.row_offsets = tensor(g->file, "", "offsets", &n);
	g->batch.rows = n - 1;
	snprintf(before, sizeof before, "%s.", s->golden);
	g->logits = tensor(g->file, before, "logits", &n);
	g->adapter = tensor(g->file, before, "adapter", &g->vector);
	g->gradient = tensor(g->file, before, "gradient", &n);
	float *loss = tensor(g->file, before, "loss", &n);
	g->loss = *loss;
	free(loss);
}

static void close_golden(struct golden *g)
{
	free(g->batch.ids);
	free(g->batch.labels);
	free(g->batch.row_offsets);
	free(g->logits);
	free(g->adapter);
	free(g->gradient);
	safetensors_close(g->file);
}

/* ---- a model on the CPU ---- */

struct loaded {
	struct device *device;
	struct weights weights;
};

static void load(struct loaded *l, const char *path, enum dtype act)
{
	struct device_config device = {.name = "cpu", .threads = 2, .act = act};
	struct weights_config config = {.storage = act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32, .backward = true};
	struct model_file *file;
	must(device_open(&device, &l->device, &fault));
	must(model_file_open(path, &file, &fault));
	must(weights_load(&l->weights, l->device, file, &config, &fault));
	model_file_close(file);
}

static void unload(struct loaded *l)
{
	weights_free(&l->weights);
	device_close(l->device);
}

static void near_to(const float *found, const float *expected, size_t n, double tolerance, const char *what)
{
	double worst = 0;
	for (size_t i = 0; i < n; i++) {
		double off = fabs((double)found[i] - (double)expected[i]);
		worst = off > worst || isnan(off) ? off : worst;
	}
	ck_assert_msg(worst <= tolerance, "%s: off by %g, %g allowed", what, worst, tolerance);
}

static double largest(const float *x, size_t n)
{
	double most = 0;
	for (size_t i = 0; i < n; i++)
		most = fmax(most, fabs((double)x[i]));
	return most;
}

/* The logits behind every token: each row read `step` tokens at a time, keys and values coming from the cache. */
static void check_logits(
	const struct loaded *l, const struct golden *g, size_t step, double tolerance, const char *what)
{
	struct model m;
	size_t vocabulary = l->weights.shape.vocabulary;
	struct model_options options = {.use = ACTIVATIONS_GENERATE, .micro_tokens = 8, .positions = 32};
	must(model_open(&m, l->device, &l->weights, NULL, &options, &fault));
	float *logits = malloc(vocabulary * sizeof *logits);
	for (size_t row = 0; row < g->batch.rows; row++) {
		size_t at = g->batch.row_offsets[row], end = g->batch.row_offsets[row + 1];
		for (model_forget(&m); at < end;) {
			size_t n = step < end - at ? step : end - at;
			must(model_continue(&m, g->batch.ids + at, n, NULL, logits, &fault));
			at += n;
			near_to(logits, g->logits + (at - 1) * vocabulary, vocabulary, tolerance, what);
		}
	}
	free(logits);
	model_close(&m);
}

/* Loss and adapter gradient, whatever is kept for the backward. */
static void check_gradient(const struct loaded *l, const struct golden *g, enum memory_mode mode, double tolerance)
{
	struct lora_widths widths;
	struct lora_layout layout;
	struct model m;
	const struct device_ops *ops = l->device->ops;
	weights_widths(&l->weights.shape, &widths);
	const struct lora_settings settings = {.rank = g->rank, .alpha = g->alpha, .targets = LORA_ALL};
	must(lora_layout_init(&layout, &widths, &settings, &fault));
	ck_assert_uint_eq(layout.size, g->vector);
	struct model_options options = {.use = ACTIVATIONS_TRAIN, .memory = mode, .micro_tokens = 64, .positions = 32};
	must(model_open(&m, l->device, &l->weights, &layout, &options, &fault));
	size_t bytes = g->vector * sizeof(float), labelled = 0;
	for (size_t t = 0; t < g->batch.tokens; t++)
		labelled += g->batch.labels[t] >= 0;
	float *adapter = ops->alloc(l->device, bytes), *gradient = ops->alloc(l->device, bytes), *found = malloc(bytes);
	ops->upload(l->device, adapter, g->adapter, bytes);
	double sum;
	model_reset_loss(&m);
	model_evaluate(&m, &g->batch, adapter, NULL);
	must(model_read_loss(&m, &sum, &fault));
	ck_assert_double_eq_tol(sum / (double)labelled, (double)g->loss, tolerance);
	model_reset_loss(&m);
	model_differentiate(&m, &g->batch, adapter, gradient, 1.0f / (float)labelled);
	must(model_read_loss(&m, &sum, &fault));
	ck_assert_double_eq_tol(sum / (double)labelled, (double)g->loss, tolerance);
	ops->download(l->device, found, gradient, bytes);
	must(device_sync(l->device, &fault));
	near_to(found, g->gradient, g->vector, tolerance * largest(g->gradient, g->vector), memory_mode_name(mode));
	free(found);
	ops->release(l->device, adapter);
	ops->release(l->device, gradient);
	model_close(&m);
	lora_layout_fini(&layout);
}

static const char *gguf_of(const struct subject *s)
{
	char name[64];
	snprintf(name, sizeof name, "architectures/%s.gguf", s->model);
	return stage_golden(name);
}

/* ---- tests ---- */

START_TEST(logits_are_those_of_transformers)
{
	const struct subject *s = &subjects[_i];
	struct golden g;
	struct loaded l;
	open_golden(&g, s);
	load(&l, stage_model(s->model, s->config), DTYPE_F32);
	check_logits(&l, &g, 1, 1e-4, s->golden);
	check_logits(&l, &g, 5, 1e-4, s->golden);
	check_logits(&l, &g, 32, 1e-4, s->golden);
	unload(&l);
	load(&l, stage_model(s->model, s->older), DTYPE_F32);
	check_logits(&l, &g, 32, 1e-4, s->older);
	unload(&l);
	if (s->gguf) {
		load(&l, gguf_of(s), DTYPE_F32);
		check_logits(&l, &g, 32, 1e-4, "GGUF");
		unload(&l);
	}
	close_golden(&g);
}
END_TEST

START_TEST(losses_and_adapter_gradients_are_those_of_peft)
{
	const struct subject *s = &subjects[_i];
	struct golden g;
	struct loaded l;
	open_golden(&g, s);
	load(&l, stage_model(s->model, s->config), DTYPE_F32);
	check_gradient(&l, &g, MEMORY_KEEP, 1e-4);
	check_gradient(&l, &g, MEMORY_SELECTIVE, 1e-4);
	check_gradient(&l, &g, MEMORY_BLOCKS, 1e-4);
	unload(&l);
	load(&l, stage_model(s->model, s->config), DTYPE_F64);
	check_gradient(&l, &g, MEMORY_KEEP, 1e-4);
	unload(&l);
	close_golden(&g);
}
END_TEST

START_TEST(in_bf16_they_are_near)
{
	const struct subject *s = &subjects[_i];
	struct device_config config = {.name = "cpu", .threads = 1, .act = DTYPE_BF16};
	struct device *device;
	int rc = device_open(&config, &device, NULL);
	if (rc == SAKIORI_EUNSUPPORTED)
		return; /* no bf16 instructions here */
	device_close(device);
	struct golden g;
	struct loaded l;
	open_golden(&g, s);
	load(&l, stage_model(s->model, s->config), DTYPE_BF16);
	check_logits(&l, &g, 32, 0.04 * largest(g.logits, g.batch.tokens * l.weights.shape.vocabulary), s->golden);
	check_gradient(&l, &g, MEMORY_KEEP, 0.08);
	unload(&l);
	close_golden(&g);
}
END_TEST

START_TEST(a_folder_of_either_spelling_and_a_gguf_file_are_one_base)
{
	uint8_t fingerprints[SUBJECTS][HASH_SIZE];
	struct loaded l;
	for (size_t i = 0; i < SUBJECTS; i++) {
		const struct subject *s = &subjects[i];
		load(&l, stage_model(s->model, s->config), DTYPE_F32);
		memcpy(fingerprints[i], l.weights.fingerprint, HASH_SIZE);
		unload(&l);
		load(&l, stage_model(s->model, s->older), DTYPE_F32);
		ck_assert_mem_eq(l.weights.fingerprint, fingerprints[i], HASH_SIZE);
		unload(&l);
		if (s->gguf) {
			load(&l, gguf_of(s), DTYPE_F32);
			ck_assert_mem_eq(l.weights.fingerprint, fingerprints[i], HASH_SIZE);
			unload(&l);
		}
		for (size_t k = 0; k < i; k++)
			ck_assert_mem_ne(fingerprints[k], fingerprints[i], HASH_SIZE);
	}
}
END_TEST

START_TEST(a_token_beyond_the_window_changes_nothing)
{
	struct loaded l;
	struct model m;
	load(&l, stage_model("mistral", "config.json"), DTYPE_F32);
	struct model_options options = {.use = ACTIVATIONS_GENERATE, .micro_tokens = 32, .positions = 32};
	must(model_open(&m, l.device, &l.weights, NULL, &options, &fault));
	enum { TOKENS = 20, VOCABULARY = 256 };
	uint32_t window = l.weights.shape.window, layers = l.weights.shape.layers, ids[TOKENS];
	ck_assert_uint_eq(window, 6);
	float before[VOCABULARY], after[VOCABULARY];
	for (uint32_t i = 0; i < TOKENS; i++)
		ids[i] = 10 + i;
	must(model_continue(&m, ids, TOKENS, NULL, before, &fault));
	/* through the layers a token reaches layers * (window - 1) places on */
	uint32_t reach = layers * (window - 1);
	ids[TOKENS - 2 - reach] = 99;
	model_forget(&m);
	must(model_continue(&m, ids, TOKENS, NULL, after, &fault));
	ck_assert_mem_eq(before, after, sizeof before);
	ids[TOKENS - 1 - reach] = 99;
	model_forget(&m);
	must(model_continue(&m, ids, TOKENS, NULL, after, &fault));
	ck_assert_mem_ne(before, after, sizeof before);
	model_close(&m);
	unload(&l);
}
END_TEST

START_TEST(a_device_that_lacks_an_operation_refuses_the_architecture_by_name)
{
	struct device_config config = {.name = "cpu", .threads = 1, .act = DTYPE_F32};
	struct weights_config load_config = {.storage = WEIGHT_F32};
	struct device *device;
	struct model_file *file;
	struct weights weights;
	must(device_open(&config, &device, &fault));
	device->geglu = false;
	must(model_file_open(gguf_of(&(struct subject){.model = "gemma2"}), &file, &fault));
	ck_assert_int_eq(weights_load(&weights, device, file, &load_config, &fault), SAKIORI_EUNSUPPORTED);
	ck_assert_str_eq(fault.text, "architecture gemma2 is not supported on a cpu device; use --device cpu");
	model_file_close(file);
	device_close(device);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("architectures");
	TCase *t = tcase_create("architectures");
	tcase_add_unchecked_fixture(t, NULL, stage_clear);
	tcase_add_checked_fixture(t, NULL, stage_clear);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, logits_are_those_of_transformers, 0, SUBJECTS);
	tcase_add_loop_test(t, losses_and_adapter_gradients_are_those_of_peft, 0, SUBJECTS);
	tcase_add_loop_test(t, in_bf16_they_are_near, 0, SUBJECTS);
	tcase_add_test(t, a_folder_of_either_spelling_and_a_gguf_file_are_one_base);
	tcase_add_test(t, a_token_beyond_the_window_changes_nothing);
	tcase_add_test(t, a_device_that_lacks_an_operation_refuses_the_architecture_by_name);
	suite_add_tcase(suite, t);
	SRunner *r = srunner_create(suite);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
