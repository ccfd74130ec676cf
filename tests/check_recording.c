/* SPDX-License-Identifier: Apache-2.0 */
/* Padded micro-batches and recordings, on the CPU: replay equals eager, padded equals unpadded. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/compute.h"
#include "formats/model_file.h"
#include "lib/recorder.h"
#include "train/model.h"

static struct fault fault;

static void must(int rc)
{
	ck_assert_msg(rc == 0, "%d: %s", rc, fault.text);
}

/* ---- batches ---- */

enum { MOST_TOKENS = 96, POSITIONS = 24 };

/* Rows of the given lengths, 0 ends them; data by the seed. */
static struct batch make_batch(const uint32_t *lengths, uint32_t seed, size_t vocabulary)
{
	struct batch b = {
		.ids = malloc(MOST_TOKENS * 4), .labels = malloc(MOST_TOKENS * 4), .row_offsets = calloc(16, 4)};
	for (; lengths[b.rows]; b.rows++)
		b.row_offsets[b.rows + 1] = b.row_offsets[b.rows] + lengths[b.rows];
	b.tokens = b.row_offsets[b.rows];
	for (uint32_t t = 0; t < b.tokens; t++) {
		b.ids[t] = (t * 37 + seed * 101) % (uint32_t)vocabulary;
		b.labels[t] = (t + seed) % 3 ? (int32_t)((t * 5 + seed) % vocabulary) : -1;
	}
	return b;
}

static void free_batch(struct batch *b)
{
	free(b->ids);
	free(b->labels);
	free(b->row_offsets);
}

START_TEST(batches_are_padded_little_and_to_few_sizes)
{
	static int32_t labels[8192];
	struct input_size seen[256];
	size_t count = 0;
	for (uint32_t tokens = 1024; tokens < 2048; tokens++) {
		uint32_t offsets[] = {0, tokens / 3, tokens};
		struct batch b = {.tokens = tokens, .rows = 2, .labels = labels, .row_offsets = offsets};
		for (size_t t = 0; t < tokens; t++)
			labels[t] = t % 2 ? 1 : -1;
		struct input_size size = input_padded(&b, 4096, 2048);
		ck_assert(size.tokens >= tokens && size.tokens <= tokens + tokens / 16);
		ck_assert(size.labelled >= tokens / 2 && size.labelled <= tokens * 3 / 4);
		ck_assert(size.longest >= tokens - tokens / 3 && size.longest <= 2048);
		/* what is added fits into rows that are not longer than the longest */
		ck_assert(size.rows >= 2 && (size.rows - 2) * size.longest >= size.tokens - tokens);
		if (count == 0 || memcmp(&seen[count - 1], &size, sizeof size))
			seen[count++] = size;
		ck_assert_uint_lt(count, 64);
	}
	/* never more than there is memory for */
	uint32_t offsets[] = {0, 1000, 2000, 3001};
	struct batch b = {.tokens = 3001, .rows = 3, .labels = labels, .row_offsets = offsets};
	struct input_size size = input_padded(&b, 3003, 1001);
	ck_assert(size.tokens == 3003 && size.longest == 1001 && size.labelled <= 3003);
}
END_TEST

START_TEST(full_rows_are_padded_by_nothing)
{
	static int32_t labels[5000];
	uint32_t offsets[] = {0, 1000, 2000, 3000, 4000, 5000};
	for (size_t rows = 1; rows <= 5; rows++) {
		struct batch b = {.tokens = rows * 1000, .rows = rows, .labels = labels, .row_offsets = offsets};
		struct input_size size = input_padded(&b, 5000, 1000);
		ck_assert(size.tokens == b.tokens && size.rows == rows && size.longest == 1000);
		ck_assert_uint_eq(size.labelled, b.tokens);
	}
}
END_TEST

/* ---- gradients ---- */

struct fixture {
	struct device *device;
	struct weights weights;
	struct lora_layout layout;
	float *adapter, *gradient;
	size_t bytes;
};

static void open_fixture(struct fixture *x, enum dtype act)
{
	struct device_config config = {.name = "cpu", .threads = 2, .act = act};
	struct weights_config load = {.storage = WEIGHT_F32, .backward = true};
	struct lora_widths widths;
	struct model_file *file;
	must(device_open(&config, &x->device, &fault));
	must(model_file_open("shape:tiny", &file, &fault));
	must(weights_load(&x->weights, x->device, file, &load, &fault));
	model_file_close(file);
	weights_widths(&x->weights.shape, &widths);
	must(lora_layout_init(
		&x->layout, &widths, &(struct lora_settings){.rank = 4, .alpha = 8, .targets = LORA_ALL}, &fault));
	x->bytes = x->layout.size * sizeof(float);
	x->adapter = x->device->ops->alloc(x->device, x->bytes);
	x->gradient = x->device->ops->alloc(x->device, x->bytes);
}

static void close_fixture(struct fixture *x)
{
	x->device->ops->release(x->device, x->adapter);
	x->device->ops->release(x->device, x->gradient);
	lora_layout_fini(&x->layout);
	weights_free(&x->weights);
	device_close(x->device);
}

/* An adapter that differs from seed to seed, at the place where the model knows it. */
static void set_adapter(struct fixture *x, uint64_t seed)
{
	float *values = malloc(x->bytes);
	lora_initialise(&x->layout, seed, values);
	for (size_t i = 0; i < x->layout.size; i++)
		values[i] += 0.01f * (float)((int)(i % 7) - 3);
	x->device->ops->upload(x->device, x->adapter, values, x->bytes);
	free(values);
}

static float *differentiate(struct fixture *x, struct model *m, const struct batch *batch, uint64_t seed, double *loss)
{
	float *out = malloc(x->bytes);
	set_adapter(x, seed);
	model_begin_step(m, seed);
	model_reset_loss(m);
	x->device->ops->zero(x->device, x->gradient, x->bytes);
	model_differentiate(m, batch, x->adapter, x->gradient, 0.125f * (float)seed);
	must(model_read_loss(m, loss, &fault));
	x->device->ops->download(x->device, out, x->gradient, x->bytes);
	return out;
}

static double distance(const float *x, const float *y, size_t n)
{
	double difference = 0, norm = 0;
	for (size_t i = 0; i < n; i++) {
		difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
		norm += (double)y[i] * (double)y[i];
	}
	return sqrt(difference / norm);
}

/* Lengths that all are padded to 48 tokens, 30 of them labelled, 24 at most in a row, 4 rows. */
static const uint32_t lengths[][4] = {{17, 1, 23}, {17, 20, 2}, {20, 20}};

static void check_mode(enum memory_mode mode, enum dtype act, double dropout)
{
	struct fixture x;
	struct model plain, padded;
	struct model_options options = {.use = ACTIVATIONS_TRAIN,
		.memory = mode,
		.micro_tokens = MOST_TOKENS,
		.positions = POSITIONS,
		.dropout = dropout,
		.dropout_seed = 4};
	open_fixture(&x, act);
	must(model_open(&plain, x.device, &x.weights, &x.layout, &options, &fault));
	must(model_open(&padded, x.device, &x.weights, &x.layout, &options, &fault));
	const struct device_ops *real = x.device->ops;
	make_recorder(x.device);
	for (uint32_t i = 0; i < 3; i++) {
		struct batch b = make_batch(lengths[i], i + 1, x.weights.shape.vocabulary);
		double loss, same, eager;
		ck_assert_uint_eq(input_padded(&b, MOST_TOKENS, POSITIONS).tokens, 48);
		float *first = differentiate(&x, &padded, &b, i + 1, &loss);
		ck_assert_uint_eq(recorder.replays, i);
		/* the same, padded but not recorded */
		x.device->ops = real;
		float *again = differentiate(&x, &padded, &b, i + 1, &same);
		ck_assert(same == loss && !memcmp(first, again, x.bytes));
		/* and neither */
		x.device->records = false;
		float *expected = differentiate(&x, &plain, &b, i + 1, &eager);
		ck_assert_double_eq_tol(loss, eager, 1e-6 * eager);
		double off = distance(first, expected, x.layout.size);
		ck_assert_msg(
			off < (act == DTYPE_F64 ? 1e-7 : 1e-6), "mode %s: off by %g", memory_mode_name(mode), off);
		x.device->records = true;
		x.device->ops = &recorder.ops;
		free(first);
		free(again);
		free(expected);
		free_batch(&b);
	}
	ck_assert_uint_eq(recorder.keys, 1);
	/* copies were under way while a layer was computed */
	ck_assert((recorder_late_most > 0) == memory_mode_offloads(mode));
	x.device->ops = real;
	model_close(&plain);
	model_close(&padded);
	close_fixture(&x);
}

START_TEST(padding_and_replaying_give_the_gradient_of_the_batch_as_it_is)
{
	check_mode((enum memory_mode)_i, DTYPE_F64, 0);
	check_mode((enum memory_mode)_i, DTYPE_F32, 0);
	check_mode((enum memory_mode)_i, DTYPE_F64, 0.3);
}
END_TEST

/* Bit by bit: whether s is kept, which gradient, which adapter; each once to record and once to replay. */
START_TEST(another_order_or_place_is_another_recording)
{
	struct fixture x;
	struct model m;
	struct variants orders = {.mode = VARIANTS_FIXED};
	struct model_options options = {
		.use = ACTIVATIONS_TRAIN, .micro_tokens = MOST_TOKENS, .positions = POSITIONS, .variants = &orders};
	open_fixture(&x, DTYPE_F64);
	must(model_open(&m, x.device, &x.weights, &x.layout, &options, &fault));
	float *own[] = {x.gradient, x.adapter}, *other = x.device->ops->alloc(x.device, 2 * x.bytes), *found[16];
	struct batch b = make_batch(lengths[0], 1, x.weights.shape.vocabulary);
	make_recorder(x.device);
	for (unsigned i = 0; i < 16; i++) {
		orders.keep_s = i & 2;
		x.gradient = ~i & 4 ? other : own[0];
		x.adapter = ~i & 8 ? other + x.layout.size : own[1];
		found[i] = differentiate(&x, &m, &b, 1, &(double){0});
		ck_assert(recorder.keys == i / 2 + 1 && recorder.replays == (i + 1) / 2);
		ck_assert_double_lt(distance(found[i], found[0], x.layout.size), 1e-7);
	}
	for (unsigned i = 0; i < 16; i++)
		free(found[i]);
	x.device->ops->release(x.device, other);
	free_batch(&b);
	model_close(&m);
	close_fixture(&x);
}
END_TEST

/* Of several micro-batches in a row the host prepares the next while the device is at work. */
START_TEST(many_batches_in_a_row_add_up)
{
	struct fixture x;
	struct model model;
	struct model_options options = {.use = ACTIVATIONS_TRAIN, .micro_tokens = MOST_TOKENS, .positions = POSITIONS};
	double sum, each = 0, all;
	open_fixture(&x, DTYPE_F64);
	must(model_open(&model, x.device, &x.weights, &x.layout, &options, &fault));
	x.device->records = true;
	float *expected = calloc(1, x.bytes), *found = malloc(x.bytes);
	struct batch batches[5];
	for (uint32_t i = 0; i < 5; i++) {
		batches[i] = make_batch(lengths[i % 3], i, x.weights.shape.vocabulary);
		float *one = differentiate(&x, &model, &batches[i], 1, &sum);
		each += sum;
		for (size_t k = 0; k < x.layout.size; k++)
			expected[k] += one[k];
		free(one);
	}
	model_reset_loss(&model);
	x.device->ops->zero(x.device, x.gradient, x.bytes);
	for (int i = 0; i < 5; i++)
		model_differentiate(&model, &batches[i], x.adapter, x.gradient, 0.125f);
	must(model_read_loss(&model, &all, &fault));
	x.device->ops->download(x.device, found, x.gradient, x.bytes);
	ck_assert_double_eq_tol(all, each, 1e-9 * each);
	ck_assert_double_lt(distance(found, expected, x.layout.size), 1e-6);
	for (int i = 0; i < 5; i++)
		free_batch(&batches[i]);
	free(expected);
	free(found);
	model_close(&model);
	close_fixture(&x);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("recording");
	TCase *tests = tcase_create("recording");
	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, batches_are_padded_little_and_to_few_sizes);
	tcase_add_test(tests, full_rows_are_padded_by_nothing);
	tcase_add_loop_test(tests, padding_and_replaying_give_the_gradient_of_the_batch_as_it_is, 0, (int)MEMORY_MODES);
	tcase_add_test(tests, another_order_or_place_is_another_recording);
	tcase_add_test(tests, many_batches_in_a_row_add_up);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
