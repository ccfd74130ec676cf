/* SPDX-License-Identifier: Apache-2.0 */
/* Plain weights: what is put in is what is read, sliced, written, merged and multiplied; and what is refused. */
#include "gpu/pair.h"

enum { ROWS = 70, COLS = 45 };
static const struct pair_limit rounded_once = {2e-7, 4e-3};

static float stored(enum weight_storage storage, float value)
{
	return storage == WEIGHT_BF16 ? bf16_to_f32(f32_to_bf16(value)) : value;
}

/* y of the unit matrix is the weight itself: sums of one product and zeros are exact. */
static void check_product(
	struct pair *p, const struct weight *w, const double *wanted, size_t rows, size_t cols, bool backward)
{
	struct device *d = p->device[PAIR_GPU];
	size_t n = backward ? rows : cols, other = backward ? cols : rows;
	float *unit = must_calloc(n * n, sizeof *unit);
	for (size_t i = 0; i < n; i++)
		unit[i * n + i] = 1;
	struct both x = pair_host(p, PAIR_ACT, unit, n * n), y = pair_output(p, PAIR_ACT, n * other);
	if (backward)
		d->ops->matmul_backward(d, n, x.at[PAIR_GPU], w, y.at[PAIR_GPU], false);
	else
		d->ops->matmul(d, n, x.at[PAIR_GPU], w, NULL, y.at[PAIR_GPU]);
	double *found = pair_read(p, y, PAIR_GPU), *expected = must_calloc(rows * cols, sizeof *expected);
	for (size_t row = 0; row < rows; row++)
		for (size_t col = 0; col < cols; col++) {
			float value = (float)wanted[row * cols + col];
			expected[backward ? row * cols + col : col * rows + row] =
				(double)stored(p->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32, value);
		}
	pair_near_doubles(p, found, expected, rows * cols, 0, backward ? "W by a product" : "W^T by a product");
	free(unit);
	free(found);
	free(expected);
}

/* The weight holds `wanted` (rows, cols), seen by reading, by embedding and by both products. */
static void check_holds(struct pair *p, const struct weight *w, const float *wanted, enum weight_storage storage,
	size_t rows, size_t cols, unsigned uses)
{
	struct device *d = p->device[PAIR_GPU];
	if (!w)
		return;
	float *read = must_calloc(rows * cols, sizeof *read);
	double *found = must_calloc(rows * cols, sizeof *found), *expected = must_calloc(rows * cols, sizeof *expected);
	d->ops->weight_read(d, w, 0, rows / 2, read);
	d->ops->weight_read(d, w, rows / 2, rows - rows / 2, read + rows / 2 * cols);
	for (size_t i = 0; i < rows * cols; i++) {
		found[i] = (double)read[i];
		expected[i] = (double)stored(storage, wanted[i]);
	}
	pair_near_doubles(p, found, expected, rows * cols, 0, "the weight as read");
	if (!d->ops->weight_bytes(w))
		pair_wrong(p, "the weight takes no bytes");
	if (uses & WEIGHT_FORWARD)
		check_product(p, w, expected, rows, cols, false);
	if (uses & WEIGHT_BACKWARD)
		check_product(p, w, expected, rows, cols, true);
	if (uses & (WEIGHT_ROWS | WEIGHT_FORWARD)) {
		const uint32_t list[] = {(uint32_t)rows - 1, 0, 0, (uint32_t)rows / 2};
		struct both ids = pair_bytes(p, list, sizeof list), out = pair_output(p, PAIR_ACT, 4 * cols);
		d->ops->embedding(d, 4, ids.at[PAIR_GPU], w, out.at[PAIR_GPU]);
		d->ops->embedding(d, 0, ids.at[PAIR_GPU], w, out.at[PAIR_GPU]);
		double *rows_found = pair_read(p, out, PAIR_GPU), *rows_wanted = must_calloc(4 * cols, sizeof(double));
		for (size_t i = 0; i < 4 * cols; i++)
			rows_wanted[i] = (double)stored(p->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32,
				(float)expected[list[i / cols] * cols + i % cols]);
		pair_near_doubles(p, rows_found, rows_wanted, 4 * cols, 0, "rows by embedding");
		free(rows_found);
		free(rows_wanted);
	}
	free(read);
	free(found);
	free(expected);
}

START_TEST(a_weight_reads_back_and_multiplies_as_what_was_put_in)
{
	static const size_t shapes[][2] = {{ROWS, COLS}, {1, 1}, {1, 130}, {130, 1}, {64, 32}, {65, 33}, {300, 300}};
	static const unsigned uses[] = {WEIGHT_FORWARD | WEIGHT_BACKWARD | WEIGHT_ROWS, WEIGHT_FORWARD, WEIGHT_BACKWARD,
		WEIGHT_ROWS, WEIGHT_FORWARD | WEIGHT_BACKWARD};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int i = 0; i < 14; i++)
		for (int k = 0; k < 5; k++)
			for (int storage = WEIGHT_F32; storage <= WEIGHT_BF16; storage++) {
				size_t rows = shapes[i % 7][0], cols = shapes[i % 7][1];
				p.room = i < 7 ? 0 : 24;
				if (storage == WEIGHT_F32 && p.act == DTYPE_BF16)
					continue;
				pair_case(&p, "weight (%zu, %zu), room %zu, storage %d, uses %u", rows, cols, p.room,
					storage, uses[k]);
				float *values = pair_random(3, rows * cols);
				struct weight *w = pair_weight_on(
					&p, PAIR_GPU, values, rows, cols, (enum weight_storage)storage, uses[k]);
				check_holds(&p, w, values, (enum weight_storage)storage, rows, cols, uses[k]);
				free(values);
			}
	pair_close(&p);
}
END_TEST

static const unsigned ALL_USES = WEIGHT_FORWARD | WEIGHT_BACKWARD | WEIGHT_ROWS;

START_TEST(rows_and_columns_are_sliced_in_the_lists_order)
{
	static const uint32_t list[] = {44, 0, 7, 7, 13};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	p.room = 24;
	struct device *d = p.device[PAIR_GPU];
	float *values = pair_random(4, ROWS * COLS), *expected = must_calloc(5 * ROWS, sizeof *expected);
	struct weight *w = pair_weight_on(&p, PAIR_GPU, values, ROWS, COLS, pair_storage(&p), ALL_USES);
	for (size_t i = 0; i < 5; i++)
		memcpy(expected + i * COLS, values + list[i] * COLS, COLS * sizeof *values);
	struct weight *slice = d->ops->weight_slice(d, w, WEIGHT_AXIS_ROWS, list, 5);
	pair_take_weight(&p, PAIR_GPU, slice);
	check_holds(&p, slice, expected, pair_storage(&p), 5, COLS, ALL_USES);
	for (size_t row = 0; row < ROWS; row++)
		for (size_t i = 0; i < 5; i++)
			expected[row * 5 + i] = values[row * COLS + list[i]];
	slice = d->ops->weight_slice(d, w, WEIGHT_AXIS_COLS, list, 5);
	pair_take_weight(&p, PAIR_GPU, slice);
	check_holds(&p, slice, expected, pair_storage(&p), ROWS, 5, ALL_USES);
	free(values);
	free(expected);
	pair_close(&p);
}
END_TEST

START_TEST(written_elements_show_in_every_layout)
{
	static const uint64_t indices[] = {0, ROWS * COLS - 1, 17 * COLS + 40, 64 * COLS + 33};
	static const float news[] = {5, -6, 7.5f, 0.1f};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	p.room = 24;
	struct device *d = p.device[PAIR_GPU];
	float *values = pair_random(5, ROWS * COLS);
	struct weight *w = pair_weight_on(&p, PAIR_GPU, values, ROWS, COLS, pair_storage(&p), ALL_USES);
	if (w) {
		d->ops->weight_write(d, w, indices, news, 4);
		d->ops->weight_write(d, w, indices, news, 0);
		d->ops->weight_repack(d, w);
	}
	for (int i = 0; i < 4; i++)
		values[indices[i]] = news[i];
	check_holds(&p, w, values, pair_storage(&p), ROWS, COLS, ALL_USES);
	free(values);
	pair_close(&p);
}
END_TEST

START_TEST(an_adapter_is_merged_in_f32_and_rounded_once)
{
	static const size_t shapes[][3] = {{ROWS, COLS, 3}, {64, 128, 16}, {1, 1, 1}, {33, 64, 0}};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	p.room = 24;
	struct device *d = p.device[PAIR_GPU];
	for (int k = 0; k < 4; k++) {
		size_t rows = shapes[k][0], cols = shapes[k][1], rank = shapes[k][2];
		pair_case(&p, "merging (%zu, %zu) of rank %zu", rows, cols, rank);
		float *values = pair_random(6, rows * cols), *a = pair_random(7, rank * cols),
		      *b = pair_random(8, rows * rank), *read = must_calloc(rows * cols, sizeof *read);
		struct weight *w = pair_weight_on(&p, PAIR_GPU, values, rows, cols, pair_storage(&p), ALL_USES);
		struct both left = pair_host(&p, PAIR_F32, a, rank * cols),
			    right = pair_host(&p, PAIR_F32, b, rows * rank);
		struct weight *merged =
			!w ? NULL : d->ops->weight_merged(d, w, left.at[PAIR_GPU], right.at[PAIR_GPU], rank, 0.5f);
		pair_take_weight(&p, PAIR_GPU, merged);
		if (merged)
			d->ops->weight_read(d, merged, 0, rows, read);
		double *found = must_calloc(rows * cols, sizeof *found),
		       *expected = must_calloc(rows * cols, sizeof *found);
		for (size_t i = 0; i < rows * cols; i++) {
			found[i] = (double)read[i];
			expected[i] = (double)stored(pair_storage(&p), values[i]);
			for (size_t j = 0; j < rank; j++)
				expected[i] += 0.5 * (double)b[i / cols * rank + j] * (double)a[j * cols + i % cols];
		}
		pair_near_doubles(&p, found, expected, rows * cols, pair_limit_of(&p, rounded_once), "merged");
		if (merged)
			check_holds(&p, merged, read, pair_storage(&p), rows, cols, ALL_USES);
		if (w)
			check_holds(&p, w, values, pair_storage(&p), rows, cols, ALL_USES);
		free(values);
		free(a);
		free(b);
		free(read);
		free(found);
		free(expected);
	}
	pair_close(&p);
}
END_TEST

/* 8 MiB are on their way to the card at a time (gpu/weight.cu): 69 of these rows. */
enum { WIDE = 30000, TALL = 250 };

struct counted {
	size_t next;
	unsigned calls;
};

static int counting_rows(void *self, size_t first, size_t count, float *out)
{
	struct counted *s = self;
	if (first != s->next)
		return SAKIORI_EPROTO;
	s->next += count;
	s->calls++;
	for (size_t i = 0; i < count * WIDE; i++)
		out[i] = (float)(first + i / WIDE);
	return 0;
}

START_TEST(rows_are_asked_for_in_order)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	p.room = 24;
	struct device *d = p.device[PAIR_GPU];
	struct counted asked = {0};
	struct weight_source source = {.fill = counting_rows, .self = &asked};
	struct weight *w = d->ops->weight_new(d, TALL, WIDE, pair_storage(&p), ALL_USES, 0, &source);
	pair_take_weight(&p, PAIR_GPU, w);
	if (asked.next != TALL)
		pair_wrong(&p, "%zu rows were asked for, not %d", asked.next, TALL);
	if (p.cuda && asked.calls < 2)
		pair_wrong(&p, "all rows were asked for at once: this tests one piece alone");
	float *read = must_calloc((size_t)TALL * WIDE, sizeof *read);
	size_t wrong = 0, first = 0;
	if (w)
		d->ops->weight_read(d, w, 0, TALL, read);
	for (size_t i = 0; w && i < (size_t)TALL * WIDE; i++)
		if (read[i] != (float)(i / WIDE))
			first = wrong++ ? first : i;
	if (wrong)
		pair_wrong(&p, "%zu elements are wrong, the first in row %zu: %g", wrong, first / WIDE,
			(double)read[first]);
	free(read);
	pair_close(&p);
}
END_TEST

START_TEST(random_values_are_the_same_wherever_they_are_drawn)
{
	/* the last one in two pieces, the second of which begins within a block of eight values */
	static const size_t shapes[][2] = {{33, 17}, {200, 576}, {1, 1}, {40, 1000}, {8200, 259}};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	p.room = 24;
	struct device *d = p.device[PAIR_GPU];
	uint16_t *normals = pair_normals();
	for (int k = 0; k < 5; k++) {
		size_t rows = shapes[k][0], cols = shapes[k][1];
		struct pair_drawn s = {.normals = normals, .seed = 77, .stream = 1ull << 33 | 5, .cols = cols};
		pair_case(&p, "random values of (%zu, %zu)", rows, cols);
		struct weight_source source = {
			.fill = pair_drawn_rows, .self = &s, .normals = normals, .seed = s.seed, .stream = s.stream};
		float *values = must_calloc(rows * cols, sizeof *values);
		pair_drawn_rows(&s, 0, rows, values);
		struct weight *w = d->ops->weight_new(d, rows, cols, pair_storage(&p), ALL_USES, 0, &source);
		pair_take_weight(&p, PAIR_GPU, w);
		/* products with a unit matrix only where that is small */
		check_holds(&p, w, values, pair_storage(&p), rows, cols, rows < 1000 ? ALL_USES : 0);
		free(values);
	}
	free(normals);
	pair_close(&p);
}
END_TEST

static int failing_rows(void *self, size_t first, size_t count, float *out)
{
	(void)self;
	(void)count;
	(void)out;
	return first ? SAKIORI_EINVAL : SAKIORI_ECORRUPT;
}

/* Refused, one a device. */
static const struct refusal {
	const char *what;
	int code;
} refusals[] = {
	{"a source that fails", SAKIORI_ECORRUPT},
	{"a row that is not there", SAKIORI_EINVAL},
	{"a column that is not there", SAKIORI_EINVAL},
	{"an element that is not there", SAKIORI_EINVAL},
	{"a token id outside the matrix", SAKIORI_EINVAL},
	{"reading behind the end", SAKIORI_EINVAL},
	{"more elements than can be counted", SAKIORI_EINVAL},
	{"no rows", SAKIORI_EINVAL},
	{"a product that the weight was not made for", SAKIORI_EINVAL},
	{"a backward that the weight was not made for", SAKIORI_EINVAL},
};

static void provoke(struct pair *p, int k)
{
	static const uint32_t row = ROWS, col = COLS;
	static const uint64_t far = ROWS * COLS;
	struct device *d = p->device[PAIR_GPU];
	float *values = pair_random(5, ROWS * COLS), out[COLS] = {0};
	const struct weight_source bad = {.fill = failing_rows};
	struct weight *none = NULL, *w = pair_weight_on(p, PAIR_GPU, values, ROWS, COLS, pair_storage(p),
					    k == 8   ? WEIGHT_BACKWARD
					    : k == 9 ? WEIGHT_FORWARD
						     : ALL_USES);
	struct both ids = pair_bytes(p, &row, sizeof row), x = pair_values(p, PAIR_ACT, 1, ROWS, 1),
		    y = pair_output(p, PAIR_ACT, ROWS);
	if (k == 0)
		none = d->ops->weight_new(d, 3, 3, pair_storage(p), WEIGHT_FORWARD, 0, &bad);
	if (k == 1)
		none = d->ops->weight_slice(d, w, WEIGHT_AXIS_ROWS, &row, 1);
	if (k == 2)
		none = d->ops->weight_slice(d, w, WEIGHT_AXIS_COLS, &col, 1);
	if (k == 3)
		d->ops->weight_write(d, w, &far, values, 1);
	if (k == 4)
		d->ops->embedding(d, 1, ids.at[PAIR_GPU], w, y.at[PAIR_GPU]);
	if (k == 5)
		d->ops->weight_read(d, w, ROWS, 1, out);
	if (k == 6)
		none = d->ops->weight_new(d, SIZE_MAX / 2, 3, WEIGHT_BF16, WEIGHT_FORWARD, 0, &bad);
	if (k == 7)
		none = d->ops->weight_new(d, 0, 3, WEIGHT_BF16, WEIGHT_FORWARD, 0, &bad);
	if (k == 8)
		d->ops->matmul(d, 1, x.at[PAIR_GPU], w, NULL, y.at[PAIR_GPU]);
	if (k == 9)
		d->ops->matmul_backward(d, 1, x.at[PAIR_GPU], w, y.at[PAIR_GPU], false);
	if (none)
		pair_wrong(p, "%s gave a weight", refusals[k].what);
	free(values);
}

START_TEST(what_cannot_be_done_is_refused)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	p.room = 24;
	for (int k = 0; k < (int)(sizeof refusals / sizeof *refusals); k++) {
		pair_case(&p, "%s", refusals[k].what);
		provoke(&p, k);
		pair_refused(&p, refusals[k].code, refusals[k].what);
	}
	if (p.act == DTYPE_BF16) {
		const float one = 1;
		pair_case(&p, "f32 weights on a bf16 device");
		pair_weight_on(&p, PAIR_GPU, &one, 1, 1, WEIGHT_F32, WEIGHT_FORWARD);
		pair_refused(&p, SAKIORI_EUNSUPPORTED, "f32 weights on a bf16 device");
	}
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_weight_reads_back_and_multiplies_as_what_was_put_in,
		rows_and_columns_are_sliced_in_the_lists_order,
		written_elements_show_in_every_layout,
		an_adapter_is_merged_in_f32_and_rounded_once,
		rows_are_asked_for_in_order,
		random_values_are_the_same_wherever_they_are_drawn,
		what_cannot_be_done_is_refused,
	};
	return pair_run("gpu_weight", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
