/* SPDX-License-Identifier: Apache-2.0 */
#include "ops/fixture.h"

enum { ROWS = 70, COLS = 45 };

static float stored(const struct device *d, float value)
{
	return d->act == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(value)) : value;
}

/* The weight holds `expected` (rows, cols), seen by reading, by embedding and by both products. */
static void check_holds(struct device *d, const struct weight *w, const float *expected, size_t rows, size_t cols)
{
	double *read = fixture_weight_values(d, w, rows, cols), *wanted = fixture_doubles(rows * cols);
	for (size_t i = 0; i < rows * cols; i++) {
		wanted[i] = (double)stored(d, expected[i]);
		ck_assert(read[i] == wanted[i]);
	}
	size_t widest = rows > cols ? rows : cols;
	double *unit = fixture_doubles(widest * widest);
	for (size_t i = 0; i < widest; i++)
		unit[i * widest + i] = 1;
	/* identity (cols, cols) W^T is W^T; identity (rows, rows) W is W */
	double *packed = fixture_doubles(widest * widest), *transposed = fixture_doubles(rows * cols);
	for (size_t i = 0; i < cols; i++)
		packed[i * cols + i] = 1;
	void *x = fixture_act_from(d, packed, cols * cols), *y = d->ops->alloc(d, cols * rows * d->act_size);
	d->ops->matmul(d, cols, x, w, NULL, y);
	double *found = fixture_read(d, y, cols * rows);
	for (size_t i = 0; i < rows * cols; i++)
		transposed[i % cols * rows + i / cols] = wanted[i];
	ck_assert_mem_eq(found, transposed, rows * cols * sizeof *found);
	free(found);
	memset(packed, 0, widest * widest * sizeof *packed);
	for (size_t i = 0; i < rows; i++)
		packed[i * rows + i] = 1;
	void *dy = fixture_act_from(d, packed, rows * rows), *dx = d->ops->alloc(d, (rows + 3) * cols * d->act_size);
	d->ops->matmul_backward(d, rows, dy, w, dx, false);
	found = fixture_read(d, dx, rows * cols);
	ck_assert_mem_eq(found, wanted, rows * cols * sizeof *found);
	free(found);
	const uint32_t ids[] = {(uint32_t)rows - 1, 0, 0};
	d->ops->embedding(d, 3, ids, w, dx);
	found = fixture_read(d, dx, 3 * cols);
	ck_assert_mem_eq(found, wanted + (rows - 1) * cols, cols * sizeof *found);
	ck_assert_mem_eq(found + 2 * cols, wanted, cols * sizeof *found);
	void *device[] = {x, y, dy, dx};
	for (int i = 0; i < 4; i++)
		d->ops->release(d, device[i]);
	double *host[] = {found, read, wanted, unit, packed, transposed};
	for (int i = 0; i < 6; i++)
		free(host[i]);
}

START_TEST(a_weight_reads_back_and_multiplies_as_what_was_put_in)
{
	static const size_t shapes[][2] = {{ROWS, COLS}, {1, 1}, {1, 130}, {130, 1}, {64, 32}, {65, 33}};
	for (int i = 0; i < 6; i++) {
		struct device *d = fixture_open(fixture_types[_i], 0);
		size_t rows = shapes[i][0], cols = shapes[i][1];
		float *values = fixture_values(3, rows * cols);
		struct weight *w = fixture_weight(d, values, rows, cols);
		check_holds(d, w, values, rows, cols);
		ck_assert_uint_ge(d->ops->weight_bytes(w),
			rows * cols * (d->act == DTYPE_BF16 ? 4 : 8) / (d->act == DTYPE_F64 ? 2 : 1));
		d->ops->weight_free(d, w);
		free(values);
		fixture_close(d);
	}
}
END_TEST

START_TEST(rows_and_columns_are_sliced_in_the_lists_order)
{
	const uint32_t list[] = {44, 0, 7, 7, 13};
	struct device *d = fixture_open(fixture_types[_i], 0);
	float *values = fixture_values(4, ROWS * COLS), *expected = must_calloc(5 * ROWS, sizeof *expected);
	struct weight *w = fixture_weight(d, values, ROWS, COLS);
	for (size_t i = 0; i < 5; i++)
		memcpy(expected + i * COLS, values + list[i] * COLS, COLS * sizeof *values);
	struct weight *rows = d->ops->weight_slice(d, w, WEIGHT_AXIS_ROWS, list, 5);
	check_holds(d, rows, expected, 5, COLS);
	for (size_t row = 0; row < ROWS; row++)
		for (size_t i = 0; i < 5; i++)
			expected[row * 5 + i] = values[row * COLS + list[i]];
	struct weight *cols = d->ops->weight_slice(d, w, WEIGHT_AXIS_COLS, list, 5);
	check_holds(d, cols, expected, ROWS, 5);
	d->ops->weight_free(d, rows);
	d->ops->weight_free(d, cols);
	d->ops->weight_free(d, w);
	free(values);
	free(expected);
	fixture_close(d);
}
END_TEST

START_TEST(written_elements_show_in_every_layout)
{
	const uint64_t indices[] = {0, ROWS * COLS - 1, 17 * COLS + 40, 64 * COLS + 33};
	const float news[] = {5, -6, 7.5f, 0.1f};
	struct device *d = fixture_open(fixture_types[_i], 0);
	float *values = fixture_values(5, ROWS * COLS);
	struct weight *w = fixture_weight(d, values, ROWS, COLS);
	d->ops->weight_write(d, w, indices, news, 4);
	d->ops->weight_repack(d, w);
	for (int i = 0; i < 4; i++)
		values[indices[i]] = news[i];
	check_holds(d, w, values, ROWS, COLS);
	d->ops->weight_free(d, w);
	free(values);
	fixture_close(d);
}
END_TEST

START_TEST(an_adapter_is_merged_in_f32_and_rounded_once)
{
	enum { RANK = 3 };
	struct device *d = fixture_open(fixture_types[_i], 0);
	float *values = fixture_values(6, ROWS * COLS), *a = fixture_values(7, RANK * COLS),
	      *b = fixture_values(8, ROWS * RANK);
	struct weight *w = fixture_weight(d, values, ROWS, COLS);
	struct weight *merged = d->ops->weight_merged(d, w, a, b, RANK, 0.5f);
	double *found = fixture_weight_values(d, merged, ROWS, COLS),
	       *expected = fixture_weight_values(d, w, ROWS, COLS);
	for (size_t i = 0; i < ROWS * COLS; i++)
		for (size_t k = 0; k < RANK; k++)
			expected[i] += 0.5 * (double)b[i / COLS * RANK + k] * (double)a[k * COLS + i % COLS];
	for (size_t i = 0; i < ROWS * COLS; i++)
		ck_assert_double_le(
			fabs(found[i] - expected[i]), d->act == DTYPE_BF16 ? fabs(expected[i]) * 0x1p-8 : 1e-6);
	d->ops->weight_free(d, w);
	d->ops->weight_free(d, merged);
	float *host[] = {values, a, b};
	for (int i = 0; i < 3; i++)
		free(host[i]);
	free(found);
	free(expected);
	fixture_close(d);
}
END_TEST

static int counting_rows(void *self, size_t first, size_t count, float *out)
{
	size_t *next = self;
	ck_assert_uint_eq(first, *next);
	ck_assert_uint_le(count * 3000, 300 * 1024);
	*next += count;
	for (size_t i = 0; i < count * 3000; i++)
		out[i] = (float)(first + i / 3000);
	return 0;
}

START_TEST(rows_are_asked_for_in_pieces_and_in_order)
{
	struct device *d = fixture_open(fixture_types[_i], 0);
	size_t next = 0;
	enum weight_storage storage = d->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
	struct weight_source source = {.fill = counting_rows, .self = &next};
	struct weight *w = d->ops->weight_new(d, 250, 3000, storage, WEIGHT_ROWS, 0, &source);
	ck_assert_uint_eq(next, 250);
	float *row = must_calloc(3000, sizeof *row);
	d->ops->weight_read(d, w, 249, 1, row);
	ck_assert(row[2999] == 249);
	free(row);
	d->ops->weight_free(d, w);
	fixture_close(d);
}
END_TEST

static int failing_rows(void *self, size_t first, size_t count, float *out)
{
	(void)self;
	(void)first;
	(void)count;
	(void)out;
	return SAKIORI_ECORRUPT;
}

/* A failure sticks, its sentence comes from sync, and nothing runs after it. */
static void check_refused(struct device *d, int code)
{
	struct fault f = {0};
	float x = 1;
	ck_assert_int_eq(device_sync(d, &f), code);
	ck_assert(f.code == code && f.text[0]);
	d->ops->scale(d, &x, 2, 1);
	ck_assert(x == 1 && !d->ops->alloc(d, 8));
	device_close(d);
}

START_TEST(what_cannot_be_done_is_refused_and_sticks)
{
	float *values = fixture_values(5, ROWS * COLS);
	const uint32_t beyond = ROWS;
	const uint64_t far = ROWS * COLS;
	char out[COLS * 8];
	const struct weight_source failing = {.fill = failing_rows};
	for (int i = 0; i < 10; i++) {
		struct device *d = fixture_open(fixture_types[_i], 0);
		struct weight *w = fixture_weight(d, values, ROWS, COLS);
		struct weight *none = NULL;
		/* rows of three elements hold no blocks, and the source has none */
		static const enum weight_storage packed[] = {WEIGHT_FP8, WEIGHT_NF4, WEIGHT_STORED};
		if (i >= 7)
			none = d->ops->weight_new(d, 3, 3, packed[i - 7], WEIGHT_FORWARD, 0, &failing);
		if (i == 0)
			none = d->ops->weight_new(d, 0, 3, WEIGHT_BF16, WEIGHT_FORWARD, 0, &failing);
		if (i == 1)
			none = d->ops->weight_new(d, 3, 3, WEIGHT_BF16, WEIGHT_FORWARD, 0, &failing);
		if (i == 2)
			none = d->ops->weight_slice(d, w, WEIGHT_AXIS_ROWS, &beyond, 1);
		if (i == 3)
			d->ops->weight_write(d, w, &far, values, 1);
		if (i == 4)
			d->ops->embedding(d, 1, &beyond, w, out);
		if (i == 5)
			d->ops->weight_read(d, w, ROWS, 1, values);
		if (i == 6)
			none = d->ops->weight_new(d, SIZE_MAX / 2, 3, WEIGHT_BF16, WEIGHT_FORWARD, 0, &failing);
		ck_assert_ptr_null(none);
		d->ops->weight_free(d, w);
		check_refused(d, i >= 7 ? SAKIORI_EUNSUPPORTED : i == 1 ? SAKIORI_ECORRUPT : SAKIORI_EINVAL);
	}
	free(values);
}
END_TEST

START_TEST(an_unknown_device_is_refused_and_cuda_never_falls_back)
{
	static const char *const names[] = {"tpu", "cudax", "cuda", "cuda:3"};
	for (int i = 0; i < 4; i++) {
		struct device_config config = {.name = names[i], .threads = 1};
		struct device *d = NULL;
		struct fault f = {0};
		int rc = device_open(&config, &d, &f);
		if (i >= 2 && !rc) {
			/* a machine that has one */
			device_close(d);
			continue;
		}
		ck_assert_int_eq(rc, i < 2 ? SAKIORI_EINVAL : SAKIORI_EDEVICE);
		ck_assert_ptr_null(d);
		ck_assert_ptr_nonnull(strstr(f.text, names[i]));
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_weight_reads_back_and_multiplies_as_what_was_put_in,
		rows_and_columns_are_sliced_in_the_lists_order,
		written_elements_show_in_every_layout,
		an_adapter_is_merged_in_f32_and_rounded_once,
		rows_are_asked_for_in_pieces_and_in_order,
		what_cannot_be_done_is_refused_and_sticks,
		an_unknown_device_is_refused_and_cuda_never_falls_back,
	};
	return fixture_run("weight", tests, sizeof tests / sizeof *tests, 3);
}
