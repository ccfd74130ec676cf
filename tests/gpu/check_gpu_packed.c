/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights: what they keep of their values, and that they multiply as what is read from them. */
#include "gpu/pair.h"

enum kind { FP8, NF4, Q4_0, Q4_1, Q8_0, KINDS };

/* Against what is read from the weight. FP8: activations are rounded to E4M3 too (3 bits after the point, 2.6% in the mean), and the
 * backward multiplies a copy with other scales. The others are unpacked to the type of activations. */
static const struct packed_kind {
	const char *name;
	enum weight_storage storage;
	enum weight_blocks blocks;
	double kept; /* |read - original| / |original| of uniform values */
	struct pair_limit forward, backward;
	double bytes; /* an element at most, WEIGHT_FORWARD | WEIGHT_BACKWARD */
} kinds[KINDS] = {
	[FP8] = {"FP8", WEIGHT_FP8, WEIGHT_BLOCKS_NONE, 0.03, {0.04, 0.04}, {0.07, 0.07}, 2.5},
	[NF4] = {"NF4", WEIGHT_NF4, WEIGHT_BLOCKS_NONE, 0.12, {1e-5, 1e-2}, {1e-5, 1e-2}, 0.6},
	[Q4_0] = {"Q4_0", WEIGHT_STORED, WEIGHT_BLOCKS_Q4_0, 0, {1e-5, 1e-2}, {1e-5, 1e-2}, 0.6},
	[Q4_1] = {"Q4_1", WEIGHT_STORED, WEIGHT_BLOCKS_Q4_1, 0, {1e-5, 1e-2}, {1e-5, 1e-2}, 0.66},
	[Q8_0] = {"Q8_0", WEIGHT_STORED, WEIGHT_BLOCKS_Q8_0, 0, {1e-5, 1e-2}, {1e-5, 1e-2}, 1.1},
};

static const unsigned USES = WEIGHT_FORWARD | WEIGHT_BACKWARD;

/* A file's tensor: values, and for stored kinds the blocks that they come from. */
struct tensor {
	size_t rows, cols;
	size_t row_bytes;
	float *values;
	unsigned char *blocks;
};

static uint16_t little(const unsigned char *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static float block_value(enum kind kind, const unsigned char *block, size_t i)
{
	float d = f16_to_f32(little(block));
	if (kind == Q8_0)
		return d * (float)(int8_t)block[2 + i];
	const unsigned char *nibbles = block + (kind == Q4_1 ? 4 : 2);
	int q = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
	return kind == Q4_0 ? d * (float)(q - 8) : d * (float)q + f16_to_f32(little(block + 2));
}

static void make_blocks(struct tensor *t, enum kind kind)
{
	size_t block = kind == Q4_0 ? 18 : kind == Q4_1 ? 20 : 34, count = t->rows * t->cols / 32;
	float *random = pair_random(9, count * block);
	t->row_bytes = t->cols / 32 * block;
	t->blocks = must_calloc(count, block);
	for (size_t i = 0; i < count; i++) {
		unsigned char *at = t->blocks + i * block;
		for (size_t j = 0; j < block; j++)
			at[j] = (unsigned char)((random[i * block + j] + 1) * 128);
		float size = (1.5f + random[i * block]) / (kind == Q8_0 ? 100.0f : 8.0f);
		uint16_t d = f32_to_f16(i % 7 == 3 ? -size : size),
			 m = f32_to_f16(-size * 8 + random[i * block + 1] * 0.1f);
		at[0] = (unsigned char)d;
		at[1] = (unsigned char)(d >> 8);
		if (kind == Q4_1) {
			at[2] = (unsigned char)m;
			at[3] = (unsigned char)(m >> 8);
		}
		for (size_t j = 0; j < 32; j++)
			t->values[i * 32 + j] = block_value(kind, at, j);
	}
	free(random);
}

static void make_tensor(struct tensor *t, enum kind kind, size_t rows, size_t cols)
{
	*t = (struct tensor){.rows = rows, .cols = cols, .values = pair_random(1, rows * cols)};
	/* rows, and blocks within them, of different sizes */
	for (size_t i = 0; i < rows * cols; i++)
		t->values[i] *= (float)(1 + i / cols % 5) * (float)(1 + i % cols / 64 % 3) * sqrtf(0.3f / (float)cols);
	if (kinds[kind].storage == WEIGHT_STORED)
		make_blocks(t, kind);
}

static void tensor_fini(struct tensor *t)
{
	free(t->values);
	free(t->blocks);
}

static int fill(void *self, size_t first, size_t count, float *out)
{
	const struct tensor *t = self;
	memcpy(out, t->values + first * t->cols, count * t->cols * sizeof *out);
	return 0;
}

static int fill_stored(void *self, size_t first, size_t count, void *out)
{
	const struct tensor *t = self;
	memcpy(out, t->blocks + first * t->row_bytes, count * t->row_bytes);
	return 0;
}

/* The packed weight under test and, on the CPU, a plain one of what is read from it. */
static struct both_weights pack(struct pair *p, enum kind kind, struct tensor *t, float **read)
{
	struct device *d = p->device[PAIR_GPU];
	struct both_weights w = {.rows = t->rows, .cols = t->cols};
	struct weight_source source = {
		.fill = fill, .fill_stored = t->blocks ? fill_stored : NULL, .blocks = kinds[kind].blocks, .self = t};
	w.at[PAIR_GPU] = d->ops->weight_new(d, t->rows, t->cols, kinds[kind].storage, USES, 0, &source);
	pair_take_weight(p, PAIR_GPU, w.at[PAIR_GPU]);
	*read = must_calloc(t->rows * t->cols, sizeof **read);
	if (w.at[PAIR_GPU])
		d->ops->weight_read(d, w.at[PAIR_GPU], 0, t->rows, *read);
	w.at[PAIR_CPU] = pair_weight_on(p, PAIR_CPU, *read, t->rows, t->cols, WEIGHT_F32, USES);
	return w;
}

/* The 16 levels of NF4 (Dettmers et al. 2023, QLoRA, appendix E). */
static const float levels[16] = {-1, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f,
	0, 0.0795803f, 0.1609302f, 0.24611230f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1};

/* Every value is as near as the kind allows, and stays near the original. */
static void check_kept(struct pair *p, enum kind kind, const struct tensor *t, const float *read)
{
	size_t n = t->rows * t->cols, wrong = 0;
	size_t each = kind == FP8 ? t->cols : 64; /* elements of one scale */
	double difference = 0, norm = 0, most = 0;
	for (size_t i = 0; i < n; i++) {
		double value = (double)t->values[i], off = fabs((double)read[i] - value), may = 0;
		if (i % each == 0) {
			most = 0;
			for (size_t j = i; j < n && j < i + each; j++)
				most = fmax(most, fabs((double)t->values[j]));
		}
		if (kind == FP8) {
			may = fmax(fabs(value) * 0x1p-4, most / 448 * 0x1p-9) * 1.01;
		} else if (kind == NF4) {
			double best = INFINITY;
			for (int j = 0; j < 16; j++)
				best = fmin(best, fabs((double)levels[j] * most - value));
			may = best + most * 2e-3;
		}
		if (p->act == DTYPE_BF16)
			may += fabs(value) * 0x1p-8;
		if (!(off <= may) && !wrong++)
			pair_wrong(p, "element %zu is kept as %g, was %g", i, (double)read[i], value);
		difference += off * off;
		norm += value * value;
	}
	if (wrong > 1)
		pair_wrong(p, "%zu of %zu elements in all", wrong, n);
	if (!(sqrt(difference / norm) <= kinds[kind].kept + (p->act == DTYPE_BF16 ? 4e-3 : 0)))
		pair_wrong(p, "the weight as kept is off by %.3g", sqrt(difference / norm));
}

static const size_t shapes[][2] = {
	{64, 64}, {48, 128}, {192, 576}, {576, 192}, {40, 64}, {23, 128}, {320, 1536}, {64, 2560}, {4160, 64}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Runs body on every kind. The CPU refuses FP8 with SAKIORI_EUNSUPPORTED, which needs multiples of 16 elsewhere. */
typedef void each_kind(struct pair *p, enum kind kind, struct tensor *t, struct both_weights w, const float *read);
static void for_each_kind(enum dtype act, int shape_count, each_kind *body)
{
	struct pair p;
	pair_open(&p, act);
	for (int kind = 0; kind < KINDS; kind++)
		for (int i = 0; i < shape_count; i++) {
			struct tensor t;
			float *read;
			make_tensor(&t, (enum kind)kind, shapes[i][0], shapes[i][1]);
			pair_case(&p, "%s (%zu, %zu)", kinds[kind].name, t.rows, t.cols);
			struct both_weights w = pack(&p, (enum kind)kind, &t, &read);
			if (kind == FP8 && (!p.cuda || t.rows % 16 || t.cols % 16))
				pair_refused(&p, SAKIORI_EUNSUPPORTED, "packed weights");
			else if (w.at[PAIR_GPU])
				body(&p, (enum kind)kind, &t, w, read);
			free(read);
			tensor_fini(&t);
		}
	pair_close(&p);
}

static void kept_body(struct pair *p, enum kind kind, struct tensor *t, struct both_weights w, const float *read)
{
	struct device *d = p->device[PAIR_GPU];
	check_kept(p, kind, t, read);
	size_t bytes = d->ops->weight_bytes(w.at[PAIR_GPU]);
	if (t->rows >= 64 && (double)bytes > kinds[kind].bytes * (double)(t->rows * t->cols))
		pair_wrong(p, "takes %zu bytes", bytes);
	/* read again from the middle */
	float *part = must_calloc(t->cols * 7, sizeof *part);
	d->ops->weight_read(d, w.at[PAIR_GPU], t->rows - 9, 7, part);
	pair_same_bytes(p, part, read + (t->rows - 9) * t->cols, t->cols * 7 * sizeof *part, "rows read alone");
	free(part);
}

START_TEST(values_are_kept_as_near_as_the_kind_allows)
{
	for_each_kind(pair_types[_i], SHAPES, kept_body);
}
END_TEST

static void check_products(struct pair *p, enum kind kind, const struct tensor *t, struct both_weights w, size_t n)
{
	struct both x = pair_values(p, PAIR_ACT, 2, n * t->cols, 1), dy = pair_values(p, PAIR_ACT, 3, n * t->rows, 1),
		    y = pair_output(p, PAIR_ACT, n * t->rows), dx = pair_output(p, PAIR_ACT, n * t->cols),
		    more = pair_values(p, PAIR_ACT, 4, n * t->cols, 1), bias = pair_values(p, PAIR_F32, 5, t->rows, 1),
		    z = pair_output(p, PAIR_F32, n * t->rows);
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		d->ops->matmul(d, n, x.at[side], w.at[side], bias.at[side], y.at[side]);
		d->ops->matmul_backward(d, n, dy.at[side], w.at[side], dx.at[side], false);
		d->ops->matmul_backward(d, n, dy.at[side], w.at[side], more.at[side], true);
		d->ops->head_logits(d, n, x.at[side], w.at[side], z.at[side]);
	}
	char what[64];
	snprintf(what, sizeof what, "y of %s, %zu tokens", kinds[kind].name, n);
	pair_near(p, y, kinds[kind].forward, what);
	snprintf(what, sizeof what, "logits of %s, %zu tokens", kinds[kind].name, n);
	pair_near(p, z, kinds[kind].forward, what);
	snprintf(what, sizeof what, "dx of %s, %zu tokens", kinds[kind].name, n);
	pair_near(p, dx, kinds[kind].backward, what);
	pair_near(p, more, kinds[kind].backward, what);
}

static void product_body(struct pair *p, enum kind kind, struct tensor *t, struct both_weights w, const float *read)
{
	static const size_t counts[] = {0, 1, 3, 17, 64, 200};
	(void)read;
	/* the CPU's kernels know no other tiles than one of many tokens */
	for (int j = 0; j < (p->cuda ? 6 : 4); j++)
		check_products(p, kind, t, w, counts[j]);
}

START_TEST(products_are_those_of_what_is_read)
{
	for_each_kind(pair_types[_i], SHAPES, product_body);
}
END_TEST

/* 8 MiB are on their way to the card at a time (gpu/weight.cu), and these are a few rows more. */
START_TEST(weights_of_several_pieces_are_kept)
{
	enum { PIECE = 8 << 20, COLS = 576 };
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int kind = 0; kind < KINDS; kind++) {
		struct tensor t;
		float *read;
		make_tensor(&t, (enum kind)kind, 16, COLS);
		size_t row_bytes = t.blocks ? t.row_bytes : COLS * sizeof(float), rows = PIECE / row_bytes + 86;
		tensor_fini(&t);
		make_tensor(&t, (enum kind)kind, rows / 16 * 16, COLS);
		pair_case(&p, "%s (%zu, %zu)", kinds[kind].name, t.rows, t.cols);
		struct both_weights w = pack(&p, (enum kind)kind, &t, &read);
		if (!p.cuda && kind == FP8)
			pair_refused(&p, SAKIORI_EUNSUPPORTED, "packed weights");
		else if (w.at[PAIR_GPU])
			kept_body(&p, (enum kind)kind, &t, w, read);
		/* the backward of FP8 reads a copy of its own */
		if (w.at[PAIR_GPU] && !t.blocks)
			check_products(&p, (enum kind)kind, &t, w, 3);
		free(read);
		tensor_fini(&t);
	}
	pair_close(&p);
}
END_TEST

static void adapter_body(struct pair *p, enum kind kind, struct tensor *t, struct both_weights w, const float *read)
{
	enum { N = 21, RANK = 8 };
	(void)read;
	for (int order = 0; order < 4; order++) {
		struct both x = pair_values(p, PAIR_ACT, 2, N * t->cols, 1),
			    dy = pair_values(p, PAIR_ACT, 3, N * t->rows, 1), y = pair_output(p, PAIR_ACT, N * t->rows),
			    dx = pair_values(p, PAIR_ACT, 4, N * t->cols, 1), s = pair_output(p, PAIR_ACT, N * RANK),
			    ds = pair_output(p, PAIR_ACT, N * RANK),
			    a = pair_values(p, PAIR_F32, 5, RANK * t->cols, sqrtf(3.0f / (float)t->cols)),
			    b = pair_values(p, PAIR_F32, 6, t->rows * RANK, 1),
			    grad_a = pair_values(p, PAIR_F32, 7, RANK * t->cols, 1),
			    grad_b = pair_values(p, PAIR_F32, 8, t->rows * RANK, 1);
		for (int side = 0; side < PAIR_SIDES; side++) {
			struct device *d = p->device[side];
			struct tokens tokens = {.count = N};
			struct lora_linear l = {.weight = w.at[side],
				.scale = 0.5f,
				.parts = 1,
				.part = {{.rows = t->rows,
					.rank = RANK,
					.a = a.at[side],
					.b = b.at[side],
					.grad_a = grad_a.at[side],
					.grad_b = grad_b.at[side]}},
				.forward = order == 3 ? LORA_F2 : LORA_F1,
				.backward = order == 1   ? LORA_B4
					    : order == 2 ? LORA_B5
							 : LORA_B1,
				.y = y.at[side],
				.s = s.at[side],
				.dy = dy.at[side],
				.ds = ds.at[side]};
			d->ops->lora_forward(d, &tokens, x.at[side], &l);
			d->ops->lora_backward(d, &tokens, x.at[side], &l, dx.at[side], true, NULL);
		}
		char what[64];
		static const struct pair_limit product = {1e-5, 1e-2};
		snprintf(what, sizeof what, "y of an adapted %s, order %d", kinds[kind].name, order);
		pair_near(p, y, kinds[kind].forward, what);
		snprintf(what, sizeof what, "dx of an adapted %s, order %d", kinds[kind].name, order);
		pair_near(p, dx, kinds[kind].backward, what);
		/* the adapter's own products stay in the type of activations */
		pair_near(p, grad_a, product, "grad_a beside a packed weight");
		pair_near(p, grad_b, product, "grad_b beside a packed weight");
	}
}

START_TEST(adapters_sit_on_packed_weights)
{
	for_each_kind(pair_types[_i], SHAPES, adapter_body);
}
END_TEST

/* Every operation that may make the form that the weight wants, then the product; a second product after x has changed, untold. */
static void told_body(struct pair *p, enum kind kind, struct tensor *t, struct both_weights w, const float *read)
{
	enum { N = 37, TOLD = 2 };
	(void)kind, (void)read;
	size_t rows = t->rows, cols = t->cols;
	struct device *d = p->device[PAIR_GPU];
	struct both weight = pair_values(p, PAIR_F32, 20, cols > rows ? cols : rows, 1), y[TOLD][5], dx[TOLD][3];
	for (int told = 0; told < TOLD; told++) {
		struct both x = pair_values(p, PAIR_ACT, 21, N * cols, 1), normed = pair_output(p, PAIR_ACT, N * cols),
			    inverse = pair_output(p, PAIR_F32, N),
			    gate_up = pair_values(p, PAIR_ACT, 22, N * 2 * cols, 2),
			    other = pair_values(p, PAIR_ACT, 28, N * 2 * cols, 2),
			    h = pair_output(p, PAIR_ACT, N * (cols + 8)),
			    dy = pair_values(p, PAIR_ACT, 23, N * rows, 1),
			    z = pair_values(p, PAIR_ACT, 24, N * rows, 1),
			    stream = pair_values(p, PAIR_ACT, 25, N * rows, 1),
			    halves = pair_values(p, PAIR_ACT, 26, N * rows, 2),
			    dh = pair_values(p, PAIR_ACT, 27, N * rows / 2, 1);
		for (int i = 0; i < 5; i++)
			y[told][i] = pair_output(p, PAIR_ACT, N * rows);
		for (int i = 0; i < 3; i++)
			dx[told][i] = pair_output(p, PAIR_ACT, N * cols);
		const float *norm = weight.at[PAIR_GPU];
		struct tokens tokens = {.count = N};
		struct lora_linear l = {.weight = w.at[PAIR_GPU], .x_stride = cols + 8, .y = y[told][2].at[PAIR_GPU]};
		if (told)
			d->ops->next_reader(d, normed.at[PAIR_GPU], w.at[PAIR_GPU], WEIGHT_FORWARD);
		d->ops->norm_forward(d, NORM_RMS, N, cols, x.at[PAIR_GPU], NULL, NULL, norm, 1e-5f, normed.at[PAIR_GPU],
			0, inverse.at[PAIR_GPU]);
		d->ops->matmul(d, N, normed.at[PAIR_GPU], w.at[PAIR_GPU], NULL, y[told][0].at[PAIR_GPU]);
		/* told, and never read: what is written there next, untold, counts */
		if (told)
			d->ops->next_reader(d, normed.at[PAIR_GPU], w.at[PAIR_GPU], WEIGHT_FORWARD);
		d->ops->norm_forward(d, NORM_RMS, N, cols, x.at[PAIR_GPU], NULL, NULL, norm, 1e-5f, normed.at[PAIR_GPU],
			0, inverse.at[PAIR_GPU]);
		d->ops->norm_forward(d, NORM_RMS, N, cols, x.at[PAIR_GPU], NULL, NULL, norm, 10, normed.at[PAIR_GPU], 0,
			inverse.at[PAIR_GPU]);
		d->ops->matmul(d, N, normed.at[PAIR_GPU], w.at[PAIR_GPU], NULL, y[told][1].at[PAIR_GPU]);
		if (told)
			d->ops->next_reader(d, h.at[PAIR_GPU], w.at[PAIR_GPU], WEIGHT_FORWARD);
		d->ops->activation_forward(
			d, ACTIVATION_SWIGLU, N, cols, gate_up.at[PAIR_GPU], h.at[PAIR_GPU], cols + 8);
		d->ops->lora_forward(d, &tokens, h.at[PAIR_GPU], &l);
		/* the form was used up, and x has changed since */
		d->ops->activation_forward(d, ACTIVATION_SWIGLU, N, cols, other.at[PAIR_GPU], h.at[PAIR_GPU], cols + 8);
		l.y = y[told][3].at[PAIR_GPU];
		d->ops->lora_forward(d, &tokens, h.at[PAIR_GPU], &l);
		if (told)
			d->ops->next_reader(d, stream.at[PAIR_GPU], w.at[PAIR_GPU], WEIGHT_BACKWARD);
		d->ops->norm_backward(d, NORM_RMS, N, rows, dy.at[PAIR_GPU], z.at[PAIR_GPU], norm, inverse.at[PAIR_GPU],
			stream.at[PAIR_GPU]);
		d->ops->matmul_backward(d, N, stream.at[PAIR_GPU], w.at[PAIR_GPU], dx[told][0].at[PAIR_GPU], false);
		if (told)
			d->ops->next_reader(d, halves.at[PAIR_GPU], w.at[PAIR_GPU], WEIGHT_BACKWARD);
		d->ops->activation_backward(
			d, ACTIVATION_SWIGLU, N, rows / 2, dh.at[PAIR_GPU], halves.at[PAIR_GPU], dh.at[PAIR_GPU]);
		d->ops->matmul_backward(d, N, halves.at[PAIR_GPU], w.at[PAIR_GPU], dx[told][1].at[PAIR_GPU], false);
		/* told of one tensor, and another is read first */
		if (told)
			d->ops->next_reader(d, normed.at[PAIR_GPU], w.at[PAIR_GPU], WEIGHT_FORWARD);
		d->ops->norm_forward(d, NORM_RMS, N, cols, x.at[PAIR_GPU], NULL, NULL, norm, 1e-5f, normed.at[PAIR_GPU],
			0, inverse.at[PAIR_GPU]);
		d->ops->matmul_backward(d, N, dy.at[PAIR_GPU], w.at[PAIR_GPU], dx[told][2].at[PAIR_GPU], false);
		d->ops->matmul(d, N, normed.at[PAIR_GPU], w.at[PAIR_GPU], NULL, y[told][4].at[PAIR_GPU]);
	}
	for (int i = 0; i < 5; i++)
		pair_same_again(p, y[1][i], y[0][i], "y");
	for (int i = 0; i < 3; i++)
		pair_same_again(p, dx[1][i], dx[0][i], "dx");
}

START_TEST(what_is_made_for_the_next_reader_has_the_same_bits)
{
	for_each_kind(pair_types[_i], SHAPES, told_body);
}
END_TEST

/* With an adapter it is a plain weight of the type of activations. */
static void merged_body(struct pair *p, enum kind kind, struct tensor *t, struct both_weights w, const float *read)
{
	enum { RANK = 3 };
	static const struct pair_limit rounded_once = {1e-6, 4e-3};
	struct device *d = p->device[PAIR_GPU];
	size_t n = t->rows * t->cols;
	float *a = pair_random(5, RANK * t->cols), *b = pair_random(6, t->rows * RANK),
	      *values = must_calloc(n, sizeof *values);
	struct both left = pair_host(p, PAIR_F32, a, RANK * t->cols), right = pair_host(p, PAIR_F32, b, t->rows * RANK);
	struct weight *merged =
		d->ops->weight_merged(d, w.at[PAIR_GPU], left.at[PAIR_GPU], right.at[PAIR_GPU], RANK, 0.05f);
	pair_take_weight(p, PAIR_GPU, merged);
	if (merged)
		d->ops->weight_read(d, merged, 0, t->rows, values);
	double *found = must_calloc(n, sizeof *found), *expected = must_calloc(n, sizeof *expected);
	for (size_t i = 0; i < n; i++) {
		found[i] = (double)values[i];
		expected[i] = (double)read[i];
		for (size_t k = 0; k < RANK; k++)
			expected[i] += 0.05 * (double)b[i / t->cols * RANK + k] * (double)a[k * t->cols + i % t->cols];
	}
	pair_near_doubles(p, found, expected, n, pair_limit_of(p, rounded_once), "merged");
	free(a);
	free(b);
	free(values);
	free(found);
	free(expected);
	(void)kind;
}

START_TEST(adapters_are_merged_into_packed_weights)
{
	for_each_kind(pair_types[_i], SHAPES, merged_body);
}
END_TEST

static void unsliced_body(struct pair *p, enum kind kind, struct tensor *t, struct both_weights w, const float *read)
{
	static const uint32_t list[] = {5, 0};
	static const uint64_t index = 7;
	struct device *d = p->device[PAIR_GPU];
	if (kind % 2) {
		if (d->ops->weight_slice(d, w.at[PAIR_GPU], t->rows % 3 ? WEIGHT_AXIS_ROWS : WEIGHT_AXIS_COLS, list, 2))
			pair_wrong(p, "a packed weight was sliced");
	} else {
		d->ops->weight_write(d, w.at[PAIR_GPU], &index, read, 1);
	}
	pair_refused(p, SAKIORI_EUNSUPPORTED, "slicing or writing a packed weight");
}

START_TEST(packed_weights_are_neither_sliced_nor_written)
{
	for_each_kind(pair_types[_i], 2, unsliced_body);
}
END_TEST

/* A packed head: the loss over it is the loss over what is read from it. */
static void head_body(struct pair *p, enum kind kind, struct tensor *t, struct both_weights w, const float *read)
{
	enum { N = 9 };
	(void)read;
	static const struct pair_limit exact_losses = {1e-5, 1e-2}, exact_gradient = {2e-5, 2e-2}, fp8 = {0.1, 0.1};
	int32_t list[N];
	for (int i = 0; i < N; i++)
		list[i] = i % 3 == 2 ? -1 : (int32_t)(t->rows - 1 - (size_t)i);
	struct both labels = pair_bytes(p, list, sizeof list), scale = pair_host(p, PAIR_F32, &(float){0.5f}, 1),
		    hidden = pair_values(p, PAIR_ACT, 2, N * t->cols, 1), losses = pair_output(p, PAIR_F32, N);
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		struct cross_entropy c = {
			.labels = labels.at[side], .gradient_scale = scale.at[side], .losses = losses.at[side]};
		struct tokens tokens = {.count = N};
		d->ops->cross_entropy(d, &c, &tokens, hidden.at[side], w.at[side], hidden.at[side]);
	}
	pair_near(p, losses, kind == FP8 ? fp8 : exact_losses, "losses over a packed head");
	pair_near(p, hidden, kind == FP8 ? fp8 : exact_gradient, "d_hidden over a packed head");
}

START_TEST(losses_over_packed_heads_match)
{
	for_each_kind(pair_types[_i], SHAPES, head_body);
}
END_TEST

START_TEST(values_that_the_device_draws_are_packed_as_those_it_is_given)
{
	static const size_t sizes[][2] = {{48, 192}, {3712, 576}}; /* the second in two pieces */
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct device *d = p.device[PAIR_GPU];
	uint16_t *normals = pair_normals();
	for (int k = 0; k < 4 && p.cuda; k++) {
		enum kind kind = k % 2 ? NF4 : FP8;
		size_t rows = sizes[k / 2][0], cols = sizes[k / 2][1];
		float *read[2];
		pair_case(&p, "%s of (%zu, %zu) drawn values", kinds[kind].name, rows, cols);
		for (int given = 0; given < 2; given++) {
			struct pair_drawn s = {.normals = normals, .seed = 3, .stream = 4, .cols = cols};
			struct weight_source source = {.fill = pair_drawn_rows,
				.self = &s,
				.normals = given ? NULL : normals,
				.seed = s.seed,
				.stream = s.stream};
			struct weight *w = d->ops->weight_new(d, rows, cols, kinds[kind].storage, USES, 0, &source);
			pair_take_weight(&p, PAIR_GPU, w);
			read[given] = must_calloc(rows * cols, sizeof(float));
			if (w)
				d->ops->weight_read(d, w, 0, rows, read[given]);
		}
		pair_same_bytes(&p, read[0], read[1], rows * cols * sizeof(float), "drawn values");
		free(read[0]);
		free(read[1]);
	}
	free(normals);
	pair_close(&p);
}
END_TEST

START_TEST(what_a_kind_cannot_hold_is_refused)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct tensor t;
	make_tensor(&t, Q4_0, 8, 64);
	struct weight_source no_blocks = {.fill = fill, .self = &t}, with_blocks = {.fill = fill,
									     .fill_stored = fill_stored,
									     .blocks = WEIGHT_BLOCKS_Q4_0,
									     .self = &t};
	pair_case(&p, "blocks that the file does not have");
	struct device *d = p.device[PAIR_GPU];
	if (d->ops->weight_new(d, 8, 64, WEIGHT_STORED, USES, 0, &no_blocks))
		pair_wrong(&p, "a weight was made");
	pair_refused(&p, SAKIORI_EUNSUPPORTED, "blocks that the file does not have");
	for (int storage = WEIGHT_FP8; storage <= WEIGHT_STORED; storage++) {
		pair_case(&p, "an embedding in storage %d", storage);
		d = p.device[PAIR_GPU];
		if (d->ops->weight_new(d, 8, 64, (enum weight_storage)storage, USES | WEIGHT_ROWS, 0, &with_blocks))
			pair_wrong(&p, "a weight was made");
		pair_refused(&p, SAKIORI_EUNSUPPORTED, "a packed embedding");
	}
	tensor_fini(&t);
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		values_are_kept_as_near_as_the_kind_allows,
		products_are_those_of_what_is_read,
		weights_of_several_pieces_are_kept,
		adapters_sit_on_packed_weights,
		what_is_made_for_the_next_reader_has_the_same_bits,
		adapters_are_merged_into_packed_weights,
		packed_weights_are_neither_sliced_nor_written,
		losses_over_packed_heads_match,
		values_that_the_device_draws_are_packed_as_those_it_is_given,
		what_a_kind_cannot_hold_is_refused,
	};
	return pair_run("gpu_packed", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
