/* SPDX-License-Identifier: Apache-2.0 */
/* The model against PyTorch in float64: golden/train_golden.safetensors, made by golden/make_train_golden.py from
 * golden/tiny.gguf. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/compute.h"
#include "formats/model_file.h"
#include "formats/safetensors.h"
#include "train/model.h"
#include "train/optim.h"

enum { STEPS = 10, BATCHES = 3, DROPOUT_SEED = 1234 };

/* What the golden file says. */
struct golden {
	struct safetensors *file;
	double losses[STEPS];
	struct lora_layout layout;
	float *adapter, *gradient, *adapter_after;
	struct batch batches[BATCHES];
};

struct fixture {
	struct device *device;
	struct weights weights;
	struct model model;
	struct golden golden;
	float *adapter; /* device */
	struct optim optim;
};

static struct fault fault;

static void must(int rc)
{
	ck_assert_msg(rc == 0, "%d: %s", rc, fault.text);
}

static const char *source_path(const char *name)
{
	static char path[4096];
	const char *root = getenv("SRCDIR");
	snprintf(path, sizeof path, "%s/tests/golden/%s", root ? root : ".", name);
	return path;
}

static void *tensor(const struct golden *g, const char *name, size_t *count)
{
	const struct safetensors_tensor *t = safetensors_find(g->file, name);
	ck_assert_msg(t != NULL, "%s is missing", name);
	void *data = malloc(t->bytes);
	must(safetensors_read(g->file, t, 0, t->bytes, data, &fault));
	*count = t->bytes / 4;
	return data;
}

static void open_golden(struct golden *g, const struct model_shape *shape)
{
	struct lora_widths widths;
	size_t n;
	must(safetensors_open(source_path("train_golden.safetensors"), &g->file, &fault));
	char *text = strdup(safetensors_note(g->file, "losses")), *at = text;
	for (int i = 0; i < STEPS; i++)
		g->losses[i] = strtod(at, &at);
	free(text);
	weights_widths(shape, &widths);
	struct lora_settings settings = {.rank = strtoul(safetensors_note(g->file, "rank"), NULL, 10),
		.alpha = strtof(safetensors_note(g->file, "alpha"), NULL),
		.targets = LORA_ALL};
	must(lora_layout_init(&g->layout, &widths, &settings, &fault));
	g->adapter = tensor(g, "adapter", &n);
	ck_assert_uint_eq(n, g->layout.size);
	g->gradient = tensor(g, "gradient", &n);
	ck_assert_uint_eq(n, g->layout.size);
	g->adapter_after = tensor(g, "adapter_after", &n);
	for (int i = 0; i < BATCHES; i++) {
		struct batch *batch = &g->batches[i];
		char name[32];
		snprintf(name, sizeof name, "ids.%d", i);
		batch->ids = tensor(g, name, &batch->tokens);
		snprintf(name, sizeof name, "labels.%d", i);
		batch->labels = tensor(g, name, &n);
		snprintf(name, sizeof name, "offsets.%d", i);
		batch->row_offsets = tensor(g, name, &n);
		batch->rows = n - 1;
	}
}

static void close_golden(struct golden *g)
{
	for (int i = 0; i < BATCHES; i++) {
		free(g->batches[i].ids);
		free(g->batches[i].labels);
		free(g->batches[i].row_offsets);
	}
	free(g->adapter);
	free(g->gradient);
	free(g->adapter_after);
	lora_layout_fini(&g->layout);
	safetensors_close(g->file);
}

/* A processor without bf16 instructions has no such device. */
static bool has_bf16(void)
{
	struct device_config config = {.name = "cpu", .threads = 1, .act = DTYPE_BF16};
	struct device *device;
	int rc = device_open(&config, &device, NULL);
	if (!rc)
		device_close(device);
	return rc != SAKIORI_EUNSUPPORTED;
}

static void open_fixture(struct fixture *x, enum dtype act, enum activations_use use)
{
	struct device_config device = {.name = "cpu", .threads = 2, .act = act};
	struct weights_config load = {
		.storage = act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32, .backward = use == ACTIVATIONS_TRAIN};
	struct model_file *file;
	memset(x, 0, sizeof *x);
	must(device_open(&device, &x->device, &fault));
	must(model_file_open(source_path("tiny.gguf"), &file, &fault));
	must(weights_load(&x->weights, x->device, file, &load, &fault));
	model_file_close(file);
	open_golden(&x->golden, &x->weights.shape);
	struct model_options options = {.use = use, .micro_tokens = 64, .positions = 64};
	must(model_open(&x->model, x->device, &x->weights, &x->golden.layout, &options, &fault));
	struct optim_config config = {.lr = 1e-3,
		.schedule = SCHEDULE_LINEAR,
		.warmup = 2,
		.total_steps = 20,
		.beta1 = 0.9,
		.beta2 = 0.999,
		.epsilon = 1e-8,
		.weight_decay = 0.01,
		.clip = 1};
	size_t size = x->golden.layout.size;
	must(optim_init(&x->optim, x->device, &config, size, &fault));
	x->adapter = x->device->ops->alloc(x->device, size * sizeof(float));
	x->device->ops->upload(x->device, x->adapter, x->golden.adapter, size * sizeof(float));
}

static void close_fixture(struct fixture *x)
{
	x->device->ops->release(x->device, x->adapter);
	optim_fini(&x->optim);
	model_close(&x->model);
	close_golden(&x->golden);
	weights_free(&x->weights);
	device_close(x->device);
}

/* The model of another layout, with dropout. */
static void open_again(struct fixture *x, const struct lora_layout *layout, double dropout)
{
	struct model_options options = {.use = ACTIVATIONS_TRAIN,
		.micro_tokens = 64,
		.positions = 64,
		.dropout = dropout,
		.dropout_seed = dropout > 0 ? DROPOUT_SEED : 0};
	model_close(&x->model);
	must(model_open(&x->model, x->device, &x->weights, layout, &options, &fault));
}

static size_t labelled(const struct batch *batch)
{
	size_t n = 0;
	for (size_t t = 0; t < batch->tokens; t++)
		n += batch->labels[t] >= 0;
	return n;
}

/* One step's loss and gradient, in as many micro-batches as asked for (1, or one a row). */
static double differentiate(struct fixture *x, const struct batch *batch, bool row_by_row)
{
	double sum;
	size_t n = labelled(batch);
	optim_begin(&x->optim);
	model_begin_step(&x->model, x->optim.step);
	model_reset_loss(&x->model);
	for (size_t row = 0; row < (row_by_row ? batch->rows : 1); row++) {
		uint32_t start = batch->row_offsets[row], length = batch->row_offsets[row + 1] - start;
		uint32_t offsets[2] = {0, length};
		struct batch one = {.tokens = length,
			.rows = 1,
			.ids = batch->ids + start,
			.labels = batch->labels + start,
			.row_offsets = offsets};
		model_differentiate(
			&x->model, row_by_row ? &one : batch, x->adapter, x->optim.gradient, 1.0f / (float)n);
	}
	must(model_read_loss(&x->model, &sum, &fault));
	return sum / (double)n;
}

/* ||x - y|| / ||y|| of n floats. */
static double distance(const float *x, const float *y, size_t n)
{
	double difference = 0, norm = 0;
	for (size_t i = 0; i < n; i++) {
		difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
		norm += (double)y[i] * (double)y[i];
	}
	return sqrt(difference / norm);
}

/* The largest distance of any one factor. */
static double worst_factor(const struct lora_layout *layout, const float *x, const float *y)
{
	double worst = 0;
	for (size_t i = 0; i < layout->count; i++) {
		const struct lora_entry *e = &layout->entries[i];
		worst = fmax(worst, distance(x + e->a, y + e->a, e->rank * e->in));
		worst = fmax(worst, distance(x + e->b, y + e->b, e->rank * e->out));
	}
	return worst;
}

static float *download(struct fixture *x, const float *vector)
{
	size_t bytes = x->golden.layout.size * sizeof(float);
	float *host = malloc(bytes);
	x->device->ops->download(x->device, host, vector, bytes);
	must(device_sync(x->device, &fault));
	return host;
}

START_TEST(loss_and_every_gradient_are_those_of_pytorch_in_double)
{
	struct fixture x;
	open_fixture(&x, DTYPE_F32, ACTIVATIONS_TRAIN);
	ck_assert_double_eq_tol(
		differentiate(&x, &x.golden.batches[0], false), x.golden.losses[0], 1e-5 * x.golden.losses[0]);
	float *gradient = download(&x, x.optim.gradient);
	double worst = worst_factor(&x.golden.layout, gradient, x.golden.gradient);
	ck_assert_msg(worst < 1e-5, "the worst gradient is off by %g", worst);
	free(gradient);
	close_fixture(&x);
}
END_TEST

START_TEST(micro_batches_add_up_to_the_same_gradient)
{
	struct fixture x;
	open_fixture(&x, DTYPE_F32, ACTIVATIONS_TRAIN);
	ck_assert_double_eq_tol(
		differentiate(&x, &x.golden.batches[0], true), x.golden.losses[0], 1e-5 * x.golden.losses[0]);
	float *gradient = download(&x, x.optim.gradient);
	double worst = worst_factor(&x.golden.layout, gradient, x.golden.gradient);
	ck_assert_msg(worst < 1e-5, "the worst gradient is off by %g", worst);
	free(gradient);
	close_fixture(&x);
}
END_TEST

START_TEST(ten_optimizer_steps_end_where_pytorch_ends)
{
	struct fixture x;
	open_fixture(&x, DTYPE_F32, ACTIVATIONS_TRAIN);
	for (int step = 0; step < STEPS; step++) {
		double loss = differentiate(&x, &x.golden.batches[step % BATCHES], false), norm, rate;
		ck_assert_double_eq_tol(loss, x.golden.losses[step], 1e-5 * loss);
		must(optim_update(&x.optim, x.adapter, &norm, &rate, &fault));
	}
	float *adapter = download(&x, x.adapter);
	double worst = worst_factor(&x.golden.layout, adapter, x.golden.adapter_after);
	ck_assert_msg(worst < 1e-4, "the worst factor is off by %g", worst);
	ck_assert_double_gt(worst_factor(&x.golden.layout, adapter, x.golden.adapter), 1e-3);
	free(adapter);
	close_fixture(&x);
}
END_TEST

START_TEST(bf16_stays_near_double)
{
	struct fixture x;
	if (!has_bf16())
		return;
	open_fixture(&x, DTYPE_BF16, ACTIVATIONS_TRAIN);
	ck_assert_double_eq_tol(
		differentiate(&x, &x.golden.batches[0], false), x.golden.losses[0], 1e-2 * x.golden.losses[0]);
	float *gradient = download(&x, x.optim.gradient);
	ck_assert_double_lt(distance(gradient, x.golden.gradient, x.golden.layout.size), 3e-2);
	free(gradient);
	close_fixture(&x);
}
END_TEST

START_TEST(the_first_values_are_those_the_golden_started_from)
{
	struct fixture x;
	open_fixture(&x, DTYPE_F32, ACTIVATIONS_EVALUATE);
	const struct lora_layout *layout = &x.golden.layout;
	float *own = malloc(layout->size * sizeof *own);
	lora_initialise(layout, strtoull(safetensors_note(x.golden.file, "seed"), NULL, 10), own);
	for (size_t i = 0; i < layout->count; i++) {
		const struct lora_entry *e = &layout->entries[i];
		ck_assert_mem_eq(own + e->a, x.golden.adapter + e->a, e->rank * e->in * sizeof *own);
	}
	free(own);
	close_fixture(&x);
}
END_TEST

/* golden/train_features.safetensors; as a batch, or row by row, which drops the same elements. */
START_TEST(patterns_dropout_lora_plus_and_wsd_are_those_of_peft)
{
	const struct lora_settings settings = {.rank = 4,
		.alpha = 8,
		.targets = LORA_ALL,
		.rslora = true,
		.rank_pattern = {[LORA_Q] = 8, [LORA_DOWN] = 2},
		.alpha_pattern = {[LORA_V] = 16, [LORA_DOWN] = 3}};
	struct fixture x;
	struct golden g = {0};
	struct optim_piece pieces[64];
	struct optim_config config;
	size_t n;
	open_fixture(&x, DTYPE_F32, ACTIVATIONS_TRAIN);
	must(lora_layout_init(&g.layout, &x.golden.layout.widths, &settings, &fault));
	must(safetensors_open(source_path("train_features.safetensors"), &g.file, &fault));
	g.adapter = tensor(&g, "adapter", &n);
	ck_assert_uint_eq(n, g.layout.size);
	g.gradient = tensor(&g, "gradient", &n);
	g.adapter_after = tensor(&g, "adapter_after", &n);
	open_again(&x, &g.layout, 0.25);
	config = x.optim.config;
	config.schedule = SCHEDULE_WSD;
	config.total_steps = 8;
	config.decay = 0.5;
	config.pieces = pieces;
	config.piece_count = 2 * g.layout.widths.layers;
	memset(pieces, 0, sizeof pieces);
	for (size_t i = 0; i < g.layout.count; i++) {
		const struct lora_entry *e = &g.layout.entries[i];
		pieces[2 * e->layer] = (struct optim_piece){pieces[2 * e->layer].count + e->rank * e->in, 1};
		pieces[2 * e->layer + 1] = (struct optim_piece){pieces[2 * e->layer + 1].count + e->rank * e->out, 4};
	}
	optim_fini(&x.optim);
	must(optim_init(&x.optim, x.device, &config, n, &fault));
	x.device->ops->release(x.device, x.adapter);
	x.adapter = x.device->ops->alloc(x.device, n * sizeof(float));
	x.device->ops->upload(x.device, x.adapter, g.adapter, n * sizeof(float));
	const char *losses = safetensors_note(g.file, "losses"), *rates = safetensors_note(g.file, "rates");
	float *host = malloc(n * sizeof *host);
	for (int step = 0; step < 6; step++) {
		double loss = differentiate(&x, &x.golden.batches[step % BATCHES], _i), norm, rate;
		ck_assert_double_eq_tol(loss, strtod(losses, (char **)&losses), 1e-5 * loss);
		x.device->ops->download(x.device, host, x.optim.gradient, n * sizeof *host);
		double off = step ? 0 : worst_factor(&g.layout, host, g.gradient);
		ck_assert_msg(off < 1e-5, "the worst gradient is off by %g", off);
		must(optim_update(&x.optim, x.adapter, &norm, &rate, &fault));
		ck_assert_double_eq_tol(rate, strtod(rates, (char **)&rates), 1e-12);
	}
	x.device->ops->download(x.device, host, x.adapter, n * sizeof *host);
	double worst = worst_factor(&g.layout, host, g.adapter_after);
	ck_assert_msg(worst < 1e-4, "the worst factor is off by %g", worst);
	ck_assert_double_gt(worst_factor(&g.layout, host, g.adapter), 1e-3);
	free(host);
	model_close(&x.model);
	close_golden(&g);
	close_fixture(&x);
}
END_TEST

/* Shares of dropout for a looped test. */
static const double shares[] = {0, 0.25};

/* Only some layers adapted: the same numbers where both have them, whatever is skipped below the lowest adapter. */
START_TEST(fewer_targets_give_the_same_gradients_for_those)
{
	struct fixture x;
	open_fixture(&x, DTYPE_F32, ACTIVATIONS_TRAIN);
	open_again(&x, &x.golden.layout, shares[_i]);
	static const unsigned masks[] = {
		1u << LORA_V, 1u << LORA_O, 1u << LORA_UP, 1u << LORA_DOWN, 1u << LORA_Q | 1u << LORA_DOWN};
	const struct lora_layout *full = &x.golden.layout;
	struct device *d = x.device;
	/* B = 0 everywhere, so that leaving a layer out changes nothing but what has a gradient. */
	float *start = malloc(full->size * sizeof *start);
	lora_initialise(full, 5, start);
	d->ops->upload(d, x.adapter, start, full->size * sizeof *start);
	double expected = differentiate(&x, &x.golden.batches[0], false);
	float *all = download(&x, x.optim.gradient);
	for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
		struct lora_layout part;
		struct model model;
		double sum;
		struct lora_settings some_targets = full->settings;
		some_targets.targets = masks[i];
		must(lora_layout_init(&part, &full->widths, &some_targets, &fault));
		struct model_options options = {.use = ACTIVATIONS_TRAIN,
			.micro_tokens = 64,
			.positions = 64,
			.dropout = shares[_i],
			.dropout_seed = DROPOUT_SEED};
		must(model_open(&model, d, &x.weights, &part, &options, &fault));
		model_begin_step(&model, 0);
		float *some = malloc(part.size * sizeof *some);
		for (size_t n = 0; n < part.count; n++) {
			const struct lora_entry *e = &part.entries[n], *whole = lora_find(full, e->layer, e->target);
			memcpy(some + e->a, start + whole->a, e->rank * e->in * sizeof *some);
			memset(some + e->b, 0, e->rank * e->out * sizeof *some);
		}
		float *adapter = d->ops->alloc(d, part.size * sizeof *some),
		      *gradient = d->ops->alloc(d, part.size * sizeof *some);
		d->ops->upload(d, adapter, some, part.size * sizeof *some);
		model_reset_loss(&model);
		model_differentiate(
			&model, &x.golden.batches[0], adapter, gradient, 1.0f / (float)labelled(&x.golden.batches[0]));
		must(model_read_loss(&model, &sum, &fault));
		ck_assert_double_eq_tol(sum / (double)labelled(&x.golden.batches[0]), expected, 1e-6 * expected);
		d->ops->download(d, some, gradient, part.size * sizeof *some);
		for (size_t n = 0; n < part.count; n++) {
			const struct lora_entry *e = &part.entries[n], *whole = lora_find(full, e->layer, e->target);
			ck_assert_double_lt(distance(some + e->b, all + whole->b, e->rank * e->out), 1e-5);
		}
		d->ops->release(d, adapter);
		d->ops->release(d, gradient);
		free(some);
		model_close(&model);
		lora_layout_fini(&part);
	}
	free(all);
	free(start);
	close_fixture(&x);
}
END_TEST

/* Loss and gradient (layout->size, to be freed) of two batches in turn, the second's; what the first leaves in the
 * buffers is nothing to it. */
static double second_of_two(struct device *d, const struct weights *weights, const struct lora_layout *layout,
	enum memory_mode mode, double dropout, float **gradient)
{
	enum { TOKENS = 24 };
	static uint32_t offsets[2][4] = {{0, 9, 10, TOKENS}, {0, 1, 17, TOKENS}};
	struct model_options options = {.use = ACTIVATIONS_TRAIN,
		.memory = mode,
		.micro_tokens = TOKENS,
		.positions = TOKENS,
		.dropout = dropout};
	struct model model;
	size_t bytes = layout->size * sizeof **gradient;
	double sum = 0;
	must(model_open(&model, d, weights, layout, &options, &fault));
	float *adapter = d->ops->alloc(d, bytes), *on_device = d->ops->alloc(d, bytes);
	*gradient = malloc(bytes);
	lora_initialise(layout, 1, *gradient);
	for (size_t i = 0; i < layout->size; i++)
		(*gradient)[i] += 0.01f * (float)((int)(i % 7) - 3);
	d->ops->upload(d, adapter, *gradient, bytes);
	for (size_t i = 0; i < 2; i++) {
		uint32_t ids[TOKENS];
		int32_t labels[TOKENS];
		for (uint32_t t = 0; t < TOKENS; t++) {
			ids[t] = (uint32_t)((t * 37 + i * 11) % weights->shape.vocabulary);
			labels[t] = t % 3 ? (int32_t)(t * 5) : -1;
		}
		struct batch batch = {
			.tokens = TOKENS, .rows = 3, .ids = ids, .labels = labels, .row_offsets = offsets[i]};
		model_reset_loss(&model);
		d->ops->zero(d, on_device, bytes);
		model_differentiate(&model, &batch, adapter, on_device, 0.125f);
	}
	must(model_read_loss(&model, &sum, &fault));
	d->ops->download(d, *gradient, on_device, bytes);
	d->ops->release(d, adapter);
	d->ops->release(d, on_device);
	model_close(&model);
	return sum;
}

START_TEST(what_is_kept_for_the_backward_does_not_change_a_bit_of_the_gradient)
{
	struct device_config config = {.name = "cpu", .threads = 2, .act = DTYPE_F32};
	struct weights_config load = {.storage = WEIGHT_F32, .backward = true};
	struct lora_widths widths;
	struct device *d;
	struct weights weights;
	struct lora_layout layout;
	struct model_file *file;
	float *kept, *again;
	must(device_open(&config, &d, &fault));
	must(model_file_open("shape:tiny", &file, &fault));
	must(weights_load(&weights, d, file, &load, &fault));
	model_file_close(file);
	weights_widths(&weights.shape, &widths);
	must(lora_layout_init(
		&layout, &widths, &(struct lora_settings){.rank = 4, .alpha = 8, .targets = LORA_ALL}, &fault));
	double expected = second_of_two(d, &weights, &layout, MEMORY_KEEP, shares[_i], &kept);
	for (enum memory_mode mode = MEMORY_SELECTIVE; mode < MEMORY_MODES; mode++) {
		ck_assert_double_eq(second_of_two(d, &weights, &layout, mode, shares[_i], &again), expected);
		for (size_t i = 0; i < layout.size; i++)
			ck_assert_msg(again[i] == kept[i], "mode %s: value %zu of %zu is %a, not %a",
				memory_mode_name(mode), i, layout.size, (double)again[i], (double)kept[i]);
		free(again);
	}
	free(kept);
	lora_layout_fini(&layout);
	weights_free(&weights);
	device_close(d);
}
END_TEST

START_TEST(evaluation_and_training_agree_and_the_base_is_without_adapter)
{
	struct fixture x;
	open_fixture(&x, DTYPE_F32, ACTIVATIONS_EVALUATE);
	const struct batch *batch = &x.golden.batches[0];
	uint8_t *correct = malloc(batch->tokens);
	double with, without;
	model_reset_loss(&x.model);
	model_evaluate(&x.model, batch, x.adapter, correct);
	must(model_read_loss(&x.model, &with, &fault));
	ck_assert_double_eq_tol(with / (double)labelled(batch), x.golden.losses[0], 1e-5 * x.golden.losses[0]);
	for (size_t t = 0; t < batch->tokens; t++)
		ck_assert(batch->labels[t] >= 0 || correct[t] == 1);
	model_reset_loss(&x.model);
	model_evaluate(&x.model, batch, NULL, NULL);
	must(model_read_loss(&x.model, &without, &fault));
	ck_assert_double_gt(fabs(with - without), 1e-4 * with);
	free(correct);
	close_fixture(&x);
}
END_TEST

START_TEST(a_cached_text_gives_the_logits_of_the_whole_text)
{
	struct fixture x;
	open_fixture(&x, DTYPE_F32, ACTIVATIONS_GENERATE);
	const uint32_t *ids = x.golden.batches[0].ids;
	size_t vocabulary = x.weights.shape.vocabulary;
	float *whole = malloc(vocabulary * sizeof *whole), *pieces = malloc(vocabulary * sizeof *pieces);
	must(model_continue(&x.model, ids, 30, x.adapter, whole, &fault));
	model_forget(&x.model);
	must(model_continue(&x.model, ids, 17, x.adapter, pieces, &fault));
	for (size_t t = 17; t < 30; t++)
		must(model_continue(&x.model, ids + t, 1, x.adapter, pieces, &fault));
	ck_assert_double_lt(distance(pieces, whole, vocabulary), 1e-5);
	ck_assert_int_eq(model_continue(&x.model, ids, 60, x.adapter, pieces, &fault), SAKIORI_ELIMIT);
	free(whole);
	free(pieces);
	close_fixture(&x);
}
END_TEST

/* A base of B turns pair i (B / b)^(2i / head size) times slower than a base of b. */
START_TEST(rope_factors_slow_the_rotations_down)
{
	enum { POSITIONS = 50 };
	struct model_file *file;
	struct device_config config = {.name = "cpu", .threads = 1, .act = DTYPE_F64};
	struct device *device;
	struct activations a[3];
	must(model_file_open(source_path("tiny.gguf"), &file, &fault));
	must(device_open(&config, &device, &fault));
	struct model_shape shape[3] = {*model_file_shape(file), *model_file_shape(file), *model_file_shape(file)};
	struct activations_plan plan = {.use = ACTIVATIONS_EVALUATE, .tokens = POSITIONS, .positions = POSITIONS};
	size_t half = shape[0].head_size / 2;
	shape[1].rope_theta *= 16;
	for (size_t i = 0; i < half; i++)
		shape[2].rope_factors[i] = (float)pow(16, (double)i / (double)half);
	for (int k = 0; k < 3; k++)
		must(activations_plan(&a[k], device, &shape[k], NULL, &plan, &fault));
	double off = 0, moved = 0;
	for (size_t i = 0; i < POSITIONS * half; i++) {
		off = fmax(off, fabs((double)a[1].cosine[i] - (double)a[2].cosine[i]));
		off = fmax(off, fabs((double)a[1].sine[i] - (double)a[2].sine[i]));
		moved = fmax(moved, fabs((double)a[0].sine[i] - (double)a[2].sine[i]));
	}
	ck_assert_double_lt(off, 1e-5); /* the factors are f32 */
	ck_assert_double_gt(moved, 0.1);
	for (int k = 0; k < 3; k++)
		activations_free(&a[k]);
	device_close(device);
	model_file_close(file);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("model");
	TCase *tests = tcase_create("model");
	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, loss_and_every_gradient_are_those_of_pytorch_in_double);
	tcase_add_test(tests, micro_batches_add_up_to_the_same_gradient);
	tcase_add_test(tests, ten_optimizer_steps_end_where_pytorch_ends);
	tcase_add_test(tests, bf16_stays_near_double);
	tcase_add_test(tests, the_first_values_are_those_the_golden_started_from);
	tcase_add_loop_test(tests, fewer_targets_give_the_same_gradients_for_those, 0, 2);
	tcase_add_loop_test(tests, what_is_kept_for_the_backward_does_not_change_a_bit_of_the_gradient, 0, 2);
	tcase_add_loop_test(tests, patterns_dropout_lora_plus_and_wsd_are_those_of_peft, 0, 2);
	tcase_add_test(tests, evaluation_and_training_agree_and_the_base_is_without_adapter);
	tcase_add_test(tests, a_cached_text_gives_the_logits_of_the_whole_text);
	tcase_add_test(tests, rope_factors_slow_the_rotations_down);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
