/* SPDX-License-Identifier: Apache-2.0 */
/* Products, and linear layers with adapters, in every order and with every option. */
#include "gpu/pair.h"

/* f32: sums of up to 4,096 f32 products. bf16: one rounding of the inputs of each product (2^-9), of which there are up to three. */
static const struct pair_limit product = {1e-5, 1e-2};
/* Sums are kept in f32 whatever the type. */
static const struct pair_limit logits = {1e-5, 1e-5};
/* Squares double what is off. */
static const struct pair_limit squares = {2e-5, 2e-2};

struct lora_case {
	size_t n, cols, parts;
	size_t rows[LORA_PARTS_MAX], rank[LORA_PARTS_MAX];
	enum lora_forward_order forward;
	enum lora_backward_order backward;
	bool no_s;   /* backward computes x A^T again */
	bool no_ds;  /* ds is not kept */
	bool no_dx;  /* the first layer */
	bool late_a; /* x NULL, then lora_gradient_a */
	bool accumulate, no_bias, no_grad_a, no_grad_b;
	enum weight_gradient_kind hook;
	const uint32_t *index;
	size_t index_count;
	const uint32_t *offsets; /* asks for the rows' squares */
	size_t packed_rows;
	size_t shift;
	size_t gap;  /* elements between the tokens of x */
	size_t room; /* behind the weight's rows */
};

struct lora_buffers {
	struct both x, dy, y, s, ds, dx, bias, a[LORA_PARTS_MAX], b[LORA_PARTS_MAX], grad_a[LORA_PARTS_MAX],
		grad_b[LORA_PARTS_MAX], hook_out, omega, indices, index, offsets, row_squares;
	struct both_weights w;
	struct weight_gradient hook[PAIR_SIDES];
	size_t rows, ranks;
};

enum { HOOK_K = 5 };

static void make_hook(struct pair *p, const struct lora_case *c, struct lora_buffers *m)
{
	size_t all = m->rows * c->cols;
	uint64_t indices[HOOK_K] = {0, all - 1, all / 2, all / 3, all / 7};
	m->indices = pair_bytes(p, indices, sizeof indices);
	m->omega = pair_values(p, PAIR_F32, 30, c->cols * HOOK_K, 1);
	m->hook_out = pair_values(p, PAIR_F32, 31,
		c->hook == WEIGHT_GRADIENT_DENSE      ? all
		: c->hook == WEIGHT_GRADIENT_SKETCHED ? m->rows * HOOK_K
						      : HOOK_K,
		1);
	for (int side = 0; side < PAIR_SIDES; side++)
		m->hook[side] = (struct weight_gradient){.kind = c->hook,
			.out = m->hook_out.at[side],
			.omega = m->omega.at[side],
			.indices = m->indices.at[side],
			.k = HOOK_K};
}

static void make_lora(struct pair *p, const struct lora_case *c, struct lora_buffers *m)
{
	memset(m, 0, sizeof *m);
	for (size_t i = 0; i < c->parts; i++) {
		m->rows += c->rows[i];
		m->ranks += c->rank[i];
	}
	if (!c->parts)
		m->rows = c->rows[0];
	p->room = c->room;
	m->w = pair_weight(p, 1, m->rows, c->cols, WEIGHT_FORWARD | WEIGHT_BACKWARD);
	p->room = 0;
	p->shift = c->shift;
	m->x = pair_values(p, PAIR_ACT, 2, c->n * (c->cols + c->gap), 1);
	m->dy = pair_values(p, PAIR_ACT, 3, c->n * m->rows, 1);
	m->bias = pair_values(p, PAIR_F32, 4, m->rows, 1);
	for (size_t i = 0; i < c->parts; i++) {
		if (!c->rank[i])
			continue;
		m->a[i] = pair_values(p, PAIR_F32, 10 + i, c->rank[i] * c->cols, sqrtf(3.0f / (float)c->cols));
		m->b[i] = pair_values(p, PAIR_F32, 14 + i, c->rows[i] * c->rank[i], 1);
		m->grad_a[i] = pair_values(p, PAIR_F32, 18 + i, c->rank[i] * c->cols, 1);
		m->grad_b[i] = pair_values(p, PAIR_F32, 22 + i, c->rows[i] * c->rank[i], 1);
	}
	m->y = pair_output(p, PAIR_ACT, c->n * m->rows);
	m->s = pair_output(p, PAIR_ACT, c->n * m->ranks);
	m->ds = pair_output(p, PAIR_ACT, c->n * m->ranks);
	m->dx = c->accumulate ? pair_values(p, PAIR_ACT, 5, c->n * c->cols, 1)
			      : pair_output(p, PAIR_ACT, c->n * c->cols);
	if (c->hook)
		make_hook(p, c, m);
	if (c->index)
		m->index = pair_bytes(p, c->index, c->index_count * sizeof *c->index);
	if (c->offsets) {
		m->offsets = pair_bytes(p, c->offsets, (c->packed_rows + 1) * sizeof *c->offsets);
		m->row_squares = pair_values(p, PAIR_F64, 32, c->packed_rows, 1);
	}
}

static struct lora_linear linear_of(const struct lora_case *c, const struct lora_buffers *m, int side)
{
	struct lora_linear l = {.weight = m->w.at[side],
		.bias = c->no_bias ? NULL : m->bias.at[side],
		.scale = 0.75f,
		.parts = c->parts,
		.forward = c->forward,
		.backward = c->backward,
		.x_stride = c->gap ? c->cols + c->gap : 0,
		.y = m->y.at[side],
		.s = c->no_s ? NULL : m->s.at[side],
		.dy = m->dy.at[side],
		.ds = c->no_ds ? NULL : m->ds.at[side],
		.gradient = c->hook ? &m->hook[side] : NULL};
	for (size_t i = 0; i < c->parts; i++)
		l.part[i] = (struct lora_part){.rows = c->rows[i],
			.rank = c->rank[i],
			.scale = i == 1 ? 1.25f : 0, /* the others have the linear's */
			.a = m->a[i].at[side],
			.b = m->b[i].at[side],
			.grad_a = c->no_grad_a ? NULL : m->grad_a[i].at[side],
			.grad_b = c->no_grad_b ? NULL : m->grad_b[i].at[side]};
	return l;
}

static void call_lora(struct pair *p, const struct lora_case *c, const struct lora_buffers *m, int side)
{
	struct device *d = p->device[side];
	const struct lora_linear l = linear_of(c, m, side);
	struct tokens t = {.count = c->n,
		.index = m->index.at[side],
		.index_count = c->index_count,
		.row_offsets = m->offsets.at[side],
		.rows = c->packed_rows};
	const void *x = m->x.at[side];
	d->ops->lora_forward(d, &t, x, &l);
	d->ops->lora_backward(d, &t, c->late_a ? NULL : x, &l, c->no_dx ? NULL : m->dx.at[side], c->accumulate,
		m->row_squares.at[side]);
	if (c->late_a)
		d->ops->lora_gradient_a(d, &t, x, &l);
}

static void check_lora(struct pair *p, const struct lora_case *c)
{
	struct lora_buffers m;
	pair_case(p,
		"n %zu cols %zu parts %zu rows %zu %zu %zu ranks %zu %zu %zu F%d B%c%s%s%s%s%s%s%s%s%s hook %d listed "
		"%zu "
		"packed %zu shift %zu gap %zu room %zu",
		c->n, c->cols, c->parts, c->rows[0], c->rows[1], c->rows[2], c->rank[0], c->rank[1], c->rank[2],
		c->forward == LORA_F1 ? 1 : 2, "145"[c->backward], c -> no_s ? " no_s" : "", c->no_ds ? " no_ds" : "",
		c->no_dx ? " no_dx" : "", c->late_a ? " late_a" : "", c->accumulate ? " accumulate" : "",
		c->no_bias ? " no_bias" : "", c->no_grad_a ? " no_grad_a" : "", c->no_grad_b ? " no_grad_b" : "",
		c->index ? " index" : "", (int)c->hook, c->index_count, c->packed_rows, c->shift, c->gap, c->room);
	make_lora(p, c, &m);
	for (int side = 0; side < PAIR_SIDES; side++)
		call_lora(p, c, &m, side);
	pair_near(p, m.y, product, "y");
	if (c->forward == LORA_F1 && !c->no_s)
		pair_near(p, m.s, product, "s");
	if (!c->no_dx)
		pair_near(p, m.dx, product, "dx");
	if (c->backward != LORA_B4 && !c->no_ds)
		pair_near(p, m.ds, product, "ds");
	for (size_t i = 0; i < c->parts; i++)
		if (c->rank[i]) {
			pair_near(p, m.grad_a[i], product, "grad_a");
			pair_near(p, m.grad_b[i], product, "grad_b");
		}
	if (c->hook)
		pair_near(p, m.hook_out, product, "the gradient of the weight");
	if (c->offsets)
		pair_near(p, m.row_squares, squares, "squares of the rows");
}

START_TEST(products_match_for_every_shape)
{
	static const size_t shapes[][2] = {{1, 1}, {3, 5}, {17, 23}, {64, 32}, {192, 576}, {576, 1536}, {1000, 576},
		{2048, 513}, {512, 2048}, {1024, 4096}, {4096, 1031}};
	static const size_t counts[] = {0, 1, 3, 37, 130};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
		for (size_t j = 0; j < 5; j++) {
			size_t rows = shapes[k][0], cols = shapes[k][1], n = counts[j];
			if (n > 3 && rows * cols > 1000000)
				continue;
			pair_case(&p, "product of %zu tokens with (%zu, %zu)", n, rows, cols);
			struct both_weights w = pair_weight(&p, 1, rows, cols, WEIGHT_FORWARD | WEIGHT_BACKWARD);
			p.shift = j == 2;
			struct both x = pair_values(&p, PAIR_ACT, 2, n * cols, 1),
				    dy = pair_values(&p, PAIR_ACT, 3, n * rows, 1);
			struct both y = pair_output(&p, PAIR_ACT, n * rows),
				    plain = pair_output(&p, PAIR_ACT, n * rows);
			struct both dx = pair_output(&p, PAIR_ACT, n * cols),
				    more = pair_values(&p, PAIR_ACT, 4, n * cols, 1),
				    bias = pair_values(&p, PAIR_F32, 5, rows, 1),
				    z = pair_output(&p, PAIR_F32, n * rows);
			for (int side = 0; side < PAIR_SIDES; side++) {
				struct device *d = p.device[side];
				d->ops->matmul(d, n, x.at[side], w.at[side], bias.at[side], y.at[side]);
				d->ops->matmul(d, n, x.at[side], w.at[side], NULL, plain.at[side]);
				d->ops->matmul_backward(d, n, dy.at[side], w.at[side], dx.at[side], false);
				d->ops->matmul_backward(d, n, dy.at[side], w.at[side], more.at[side], true);
				d->ops->head_logits(d, n, x.at[side], w.at[side], z.at[side]);
			}
			pair_near(&p, y, product, "y with bias");
			pair_near(&p, plain, product, "y");
			pair_near(&p, dx, product, "dx of a product");
			pair_near(&p, more, product, "dx of a product, added");
			pair_near(&p, z, logits, "logits");
		}
	pair_close(&p);
}
END_TEST

/* Every order with every way of keeping s and ds, listed tokens or all, dx written or added to. */
START_TEST(every_order_gives_the_same_layer)
{
	static const uint32_t listed[] = {0, 3, 4, 11};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (unsigned bits = 0; bits < 1u << 5; bits++)
		for (int forward = LORA_F1; forward <= LORA_F2; forward++)
			for (int backward = LORA_B1; backward <= LORA_B5; backward++) {
				struct lora_case c = {.n = 12,
					.cols = 23,
					.parts = 3,
					.rows = {17, 8, 8},
					.rank = {3, 5, 1},
					.forward = (enum lora_forward_order)forward,
					.backward = (enum lora_backward_order)backward,
					.no_s = bits & 1,
					.no_ds = bits & 2,
					.accumulate = bits & 4,
					.no_bias = bits & 16};
				if (bits & 8) {
					c.index = listed;
					c.index_count = 4;
				}
				check_lora(&p, &c);
			}
	pair_close(&p);
}
END_TEST

START_TEST(layers_of_real_shapes_match)
{
	static const struct lora_case cases[] = {
		{.n = 37, .cols = 576, .parts = 3, .rows = {576, 192, 192}, .rank = {16, 16, 16}},
		{.n = 3, .cols = 576, .parts = 3, .rows = {576, 192, 192}, .rank = {8, 16, 33}},
		{.n = 130, .cols = 576, .parts = 2, .rows = {1536, 1536}, .rank = {16, 16}},
		{.n = 37, .cols = 1536, .parts = 1, .rows = {576}, .rank = {16}},
		{.n = 37, .cols = 1536, .parts = 1, .rows = {576}, .rank = {256}},
		{.n = 5, .cols = 2048, .parts = 3, .rows = {2048, 512, 512}, .rank = {16, 16, 16}},
		{.n = 1, .cols = 4096, .parts = 3, .rows = {1024, 256, 256}, .rank = {16, 16, 16}},
		{.n = 3, .cols = 4096, .parts = 2, .rows = {1400, 1400}, .rank = {7, 64}},
		{.n = 37, .cols = 576, .parts = 2, .rows = {64, 96}, .rank = {32, 32}, .accumulate = true},
		{.n = 130, .cols = 576, .parts = 2, .rows = {96, 64}, .rank = {32, 24}},
	};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
		for (int order = 0; order < 4; order++) {
			struct lora_case c = cases[k];
			c.forward = order == 3 ? LORA_F2 : LORA_F1;
			c.backward = order == 1 ? LORA_B4 : order == 2 ? LORA_B5 : LORA_B1;
			check_lora(&p, &c);
		}
	pair_close(&p);
}
END_TEST

START_TEST(few_tokens_odd_widths_and_missing_adapters_match)
{
	static const struct lora_case cases[] = {
		{.n = 0, .cols = 23, .parts = 2, .rows = {9, 4}, .rank = {3, 2}},
		{.n = 1, .cols = 23, .parts = 2, .rows = {9, 4}, .rank = {3, 2}},
		{.n = 3, .cols = 1, .parts = 2, .rows = {1, 1}, .rank = {1, 1}},
		{.n = 5, .cols = 23, .parts = 3, .rows = {9, 4, 6}, .rank = {3, 0, 2}},
		{.n = 5, .cols = 23, .parts = 3, .rows = {9, 4, 6}, .rank = {0, 0, 7}},
		{.n = 5, .cols = 23, .parts = 3, .rows = {9, 4, 6}, .rank = {0, 0, 0}},
		{.n = 5, .cols = 23, .parts = 4, .rows = {9, 4, 6, 11}, .rank = {1, 2, 3, 4}},
		{.n = 7, .cols = 23, .parts = 0, .rows = {9}},
		{.n = 7, .cols = 23, .rows = {9}, .late_a = true, .no_s = true, .no_ds = true},
		{.n = 7, .cols = 64, .rows = {40}, .late_a = true, .no_s = true, .no_ds = true, .accumulate = true},
		{.n = 5, .cols = 23, .parts = 2, .rows = {9, 4}, .late_a = true, .no_s = true, .no_ds = true},
		{.n = 7, .cols = 64, .parts = 1, .rows = {40}, .rank = {9}, .shift = 1},
		{.n = 7, .cols = 64, .parts = 2, .rows = {40, 24}, .rank = {8, 8}, .shift = 3},
		{.n = 65, .cols = 40, .parts = 2, .rows = {24, 48}, .rank = {4, 4}, .shift = 0},
	};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
		for (int order = 0; order < 4; order++) {
			struct lora_case c = cases[k];
			c.forward = order == 3 ? LORA_F2 : LORA_F1;
			c.backward = order == 1 ? LORA_B4 : order == 2 ? LORA_B5 : LORA_B1;
			check_lora(&p, &c);
		}
	pair_close(&p);
}
END_TEST

START_TEST(what_is_not_wanted_is_left_out)
{
	static const uint32_t listed[] = {1, 2, 9}, none[] = {0};
	static const struct lora_case bases[] = {
		{.n = 10, .cols = 40, .parts = 2, .rows = {24, 17}, .rank = {5, 8}},
		{.n = 10, .cols = 40, .parts = 2, .rows = {24, 16}, .rank = {8, 8}},
	};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int i = 0; i < 18; i++)
		for (int backward = LORA_B1; backward <= LORA_B5; backward++) {
			struct lora_case c = bases[i / 9];
			int k = i % 9;
			c.backward = (enum lora_backward_order)backward;
			c.no_dx = k == 0 || k == 8;
			c.no_grad_a = k == 1 || k == 3;
			c.no_grad_b = k == 2 || k == 3;
			c.late_a = k == 4 || k == 5;
			c.index = k == 5 || k == 6 ? listed : k == 7 ? none : NULL;
			c.index_count = k == 5 || k == 6 ? 3 : 0;
			c.no_s = k == 8;
			if (!c.late_a || backward != LORA_B4)
				check_lora(&p, &c);
		}
	pair_close(&p);
}
END_TEST

START_TEST(the_frozen_weights_gradient_comes_dense_sketched_or_at_indices)
{
	static const uint32_t listed[] = {1, 2, 9};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int kind = WEIGHT_GRADIENT_NONE; kind <= WEIGHT_GRADIENT_INDEXED; kind++)
		for (int backward = LORA_B1; backward <= LORA_B5; backward++)
			for (int k = 0; k < 3; k++) {
				struct lora_case c = {.n = 10,
					.cols = k ? 23 : 64,
					.parts = 2,
					.rows = {24, 17},
					.rank = {5, 8},
					.backward = (enum lora_backward_order)backward,
					.hook = (enum weight_gradient_kind)kind};
				if (k == 2) {
					c.index = listed;
					c.index_count = 3;
				}
				check_lora(&p, &c);
			}
	pair_close(&p);
}
END_TEST

START_TEST(each_rows_gradient_norm_is_told)
{
	static const uint32_t offsets[] = {0, 1, 6, 6, 13}, listed[] = {0, 1, 5, 6, 8, 12};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 2; k++)
		for (int backward = LORA_B1; backward <= LORA_B5; backward++) {
			struct lora_case c = {.n = 13,
				.cols = 23,
				.parts = 3,
				.rows = {17, 8, 9},
				.rank = {3, 0, 5},
				.backward = (enum lora_backward_order)backward,
				.offsets = offsets,
				.packed_rows = 4};
			if (k) {
				c.index = listed;
				c.index_count = 6;
			}
			check_lora(&p, &c);
		}
	pair_close(&p);
}
END_TEST

/* With room for the ranks behind tokens and rows, with too little of it, and with what the joined product does not take: all is the same. */
START_TEST(room_behind_tokens_and_rows_changes_nothing)
{
	static const uint32_t listed[] = {1, 2, 9}, offsets[] = {0, 1, 6, 6, 10};
	static const struct lora_case cases[] = {
		{.n = 37, .cols = 576, .parts = 3, .rows = {64, 32, 32}, .rank = {16, 16, 16}, .gap = 64, .room = 64},
		{.n = 140, .cols = 576, .parts = 3, .rows = {64, 32, 32}, .rank = {16, 16, 16}, .gap = 48, .room = 48},
		{.n = 130, .cols = 576, .parts = 2, .rows = {96, 96}, .rank = {16, 16}, .gap = 64, .room = 32},
		{.n = 1, .cols = 4096, .parts = 3, .rows = {64, 32, 32}, .rank = {16, 16, 16}, .gap = 64, .room = 64},
		{.n = 5, .cols = 2048, .parts = 3, .rows = {64, 32, 32}, .rank = {32, 32, 32}, .gap = 128, .room = 96},
		{.n = 200,
			.cols = 64,
			.parts = 4,
			.rows = {24, 8, 16, 40},
			.rank = {8, 0, 16, 8},
			.gap = 32,
			.room = 32},
		{.n = 37, .cols = 64, .parts = 3, .rows = {24, 8, 16}, .rank = {0, 0, 8}, .gap = 8, .room = 8},
		{.n = 37, .cols = 64, .parts = 3, .rows = {24, 8, 16}, .rank = {8, 8, 8}, .gap = 16, .room = 24},
		{.n = 37, .cols = 64, .parts = 3, .rows = {24, 8, 16}, .rank = {8, 8, 8}, .gap = 24, .room = 16},
		{.n = 37, .cols = 64, .parts = 3, .rows = {24, 8, 16}, .rank = {3, 5, 1}, .gap = 64, .room = 64},
		{.n = 7, .cols = 64, .parts = 2, .rows = {40, 24}, .rank = {8, 8}, .gap = 16, .room = 16, .shift = 3},
		{.n = 7, .cols = 23, .parts = 2, .rows = {17, 9}, .rank = {8, 8}, .gap = 19, .room = 16},
		{.n = 7, .cols = 40, .parts = 0, .rows = {9}, .gap = 8, .room = 8},
		{.n = 0, .cols = 64, .parts = 1, .rows = {24}, .rank = {8}, .gap = 8, .room = 8},
		{.n = 10, .cols = 64, .parts = 1, .rows = {24}, .rank = {8}, .gap = 8, .room = 8, .late_a = true},
		{.n = 10,
			.cols = 64,
			.parts = 2,
			.rows = {24, 16},
			.rank = {8, 8},
			.gap = 16,
			.room = 16,
			.index = listed,
			.index_count = 3},
		{.n = 10,
			.cols = 64,
			.parts = 2,
			.rows = {24, 16},
			.rank = {8, 8},
			.gap = 16,
			.room = 16,
			.offsets = offsets,
			.packed_rows = 4},
		{.n = 10,
			.cols = 64,
			.parts = 1,
			.rows = {24},
			.rank = {8},
			.gap = 8,
			.room = 8,
			.hook = WEIGHT_GRADIENT_DENSE},
		{.n = 10,
			.cols = 64,
			.parts = 1,
			.rows = {24},
			.rank = {8},
			.gap = 8,
			.room = 8,
			.hook = WEIGHT_GRADIENT_SKETCHED},
		{.n = 10,
			.cols = 64,
			.parts = 1,
			.rows = {24},
			.rank = {8},
			.gap = 8,
			.room = 8,
			.hook = WEIGHT_GRADIENT_INDEXED},
	};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
		for (unsigned bits = 0; bits < 3; bits++)
			for (int order = 0; order < 4; order++) {
				struct lora_case c = cases[k];
				c.no_bias = bits < 2;
				c.no_s = bits == 1 && !c.late_a;
				c.forward = order == 3 ? LORA_F2 : LORA_F1;
				c.backward = order == 1 && !c.late_a ? LORA_B4 : order == 2 ? LORA_B5 : LORA_B1;
				check_lora(&p, &c);
			}
	pair_close(&p);
}
END_TEST

/* An adapter early in training adds about a thousandth of what the base gives, less than half a last place of bf16. Rounded once, the
 * sum still holds it on the average over many elements; rounded before the addition, it would be gone everywhere. */
START_TEST(an_adapter_far_smaller_than_the_base_still_counts)
{
	static const size_t shapes[][6] = {{128, 32, 64, 2, 0, 0}, {256, 576, 576, 16, 0, 0},
		{256, 576, 576, 16, 64, 0}, {256, 576, 576, 16, 0, 1}, {256, 576, 576, 6, 0, 1}};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 5; k++) {
		size_t n = shapes[k][0], cols = shapes[k][1], rows = shapes[k][2], rank = shapes[k][3],
		       room = shapes[k][4];
		bool biased = shapes[k][5];
		pair_case(&p, "a small adapter, cols %zu, rank %zu, room %zu%s", cols, rank, room,
			biased ? ", with a bias" : "");
		p.room = room;
		struct both_weights w = pair_weight(&p, 1, rows, cols, WEIGHT_FORWARD);
		struct both x = pair_values(&p, PAIR_ACT, 2, n * (cols + room), 1),
			    y = pair_output(&p, PAIR_ACT, n * rows),
			    a = pair_values(&p, PAIR_F32, 3, rank * cols, sqrtf(3.0f / (float)cols)),
			    b = pair_values(&p, PAIR_F32, 4, rows * rank, sqrtf(3.0f / (float)rank));
		struct both bias = pair_values(&p, PAIR_F32, 5, rows, 1);
		struct device *d = p.device[PAIR_GPU], *cpu = p.device[PAIR_CPU];
		struct tokens t = {.count = n};
		struct lora_linear l = {.weight = w.at[PAIR_GPU],
			.bias = biased ? bias.at[PAIR_GPU] : NULL,
			.scale = 1e-3f,
			.x_stride = cols + room,
			.y = y.at[PAIR_GPU],
			.parts = 1};
		l.part[0] = (struct lora_part){.rows = rows};
		d->ops->lora_forward(d, &t, x.at[PAIR_GPU], &l);
		double *without = pair_read(&p, y, PAIR_GPU), along = 0, all = 0;
		l.part[0] = (struct lora_part){.rows = rows, .rank = rank, .a = a.at[PAIR_GPU], .b = b.at[PAIR_GPU]};
		d->ops->lora_forward(d, &t, x.at[PAIR_GPU], &l);
		double *with = pair_read(&p, y, PAIR_GPU);
		/* what the adapter alone adds, exactly: the layer less the base */
		l.weight = w.at[PAIR_CPU];
		l.bias = biased ? bias.at[PAIR_CPU] : NULL;
		l.y = y.at[PAIR_CPU];
		l.part[0] = (struct lora_part){.rows = rows, .rank = rank, .a = a.at[PAIR_CPU], .b = b.at[PAIR_CPU]};
		cpu->ops->lora_forward(cpu, &t, x.at[PAIR_CPU], &l);
		double *exact = pair_read(&p, y, PAIR_CPU);
		l.parts = 0;
		cpu->ops->lora_forward(cpu, &t, x.at[PAIR_CPU], &l);
		double *base = pair_read(&p, y, PAIR_CPU);
		for (size_t i = 0; i < n * rows; i++) {
			double adds = exact[i] - base[i];
			along += (with[i] - without[i]) * adds;
			all += adds * adds;
		}
		if (!(fabs(along / all - 1) < 0.15))
			pair_wrong(&p, "only %.3g of the adapter arrives", along / all);
		free(without);
		free(with);
		free(exact);
		free(base);
	}
	pair_close(&p);
}
END_TEST

START_TEST(a_deterministic_device_gives_the_same_bits_again)
{
	static const struct lora_case cases[] = {
		{.n = 300, .cols = 576, .parts = 2, .rows = {192, 96}, .rank = {16, 16}, .gap = 32, .room = 32},
		{.n = 300, .cols = 576, .parts = 2, .rows = {64, 96}, .rank = {32, 32}, .accumulate = true},
		{.n = 300, .cols = 200, .parts = 2, .rows = {65, 17}, .rank = {5, 33}, .accumulate = true},
	};
	struct pair p;
	pair_open_deterministic(&p, pair_types[_i]);
	for (int k = 0; k < 9; k++) {
		struct lora_case c = cases[k / 3];
		struct lora_buffers m[2];
		c.backward = (enum lora_backward_order)(LORA_B1 + k % 3);
		c.no_bias = c.room;
		pair_case(&p, "cols %zu ranks %zu %zu B%c again", c.cols, c.rank[0], c.rank[1], "145"[c.backward]);
		for (int i = 0; i < 2; i++) {
			make_lora(&p, &c, &m[i]);
			call_lora(&p, &c, &m[i], PAIR_GPU);
		}
		pair_same_again(&p, m[1].y, m[0].y, "y");
		pair_same_again(&p, m[1].s, m[0].s, "s");
		pair_same_again(&p, m[1].ds, m[0].ds, "ds");
		pair_same_again(&p, m[1].dx, m[0].dx, "dx");
		for (size_t i = 0; i < c.parts; i++) {
			pair_same_again(&p, m[1].grad_a[i], m[0].grad_a[i], "grad_a");
			pair_same_again(&p, m[1].grad_b[i], m[0].grad_b[i], "grad_b");
		}
	}
	pair_close(&p);
}
END_TEST

START_TEST(ranks_without_outputs_are_refused)
{
	static const struct lora_case c = {.n = 3, .cols = 40, .parts = 2, .rows = {24, 0}, .rank = {8, 8}};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int call = 0; call < 3; call++) {
		struct lora_buffers m;
		struct tokens t = {.count = c.n};
		pair_case(&p, "ranks without outputs, call %d", call);
		make_lora(&p, &c, &m);
		struct device *d = p.device[PAIR_GPU];
		const struct lora_linear l = linear_of(&c, &m, PAIR_GPU);
		if (call == 0)
			d->ops->lora_forward(d, &t, m.x.at[PAIR_GPU], &l);
		if (call == 1)
			d->ops->lora_backward(d, &t, m.x.at[PAIR_GPU], &l, m.dx.at[PAIR_GPU], false, NULL);
		if (call == 2)
			d->ops->lora_gradient_a(d, &t, m.x.at[PAIR_GPU], &l);
		pair_refused(&p, SAKIORI_EINVAL, "an adapter of no outputs");
	}
	pair_close(&p);
}
END_TEST

struct difference {
	const struct lora_case *c;
	const struct lora_buffers *m;
};

static double layer_loss(struct pair *p, void *self)
{
	const struct difference *s = self;
	struct device *d = p->device[PAIR_GPU];
	struct tokens t = {.count = s->c->n};
	const struct lora_linear l = linear_of(s->c, s->m, PAIR_GPU);
	d->ops->lora_forward(d, &t, s->m->x.at[PAIR_GPU], &l);
	return pair_dot(p, s->m->y, s->m->dy);
}

/* The loss is linear in each element, so a large step costs nothing and drowns the rounding of f32. */
START_TEST(gradients_are_those_of_finite_differences)
{
	struct pair p;
	if (pair_types[_i] != DTYPE_F32)
		return;
	pair_open(&p, DTYPE_F32);
	for (int backward = LORA_B1; backward <= LORA_B5; backward++) {
		struct lora_case c = {.n = 6,
			.cols = 11,
			.parts = 2,
			.rows = {9, 5},
			.rank = {3, 2},
			.backward = (enum lora_backward_order)backward};
		struct lora_buffers m;
		struct difference s = {&c, &m};
		pair_case(&p, "finite differences, B%c", "145"[backward]);
		make_lora(&p, &c, &m);
		for (size_t i = 0; i < c.parts; i++) {
			m.grad_a[i] = pair_values(&p, PAIR_F32, 0, m.grad_a[i].n, 0);
			m.grad_b[i] = pair_values(&p, PAIR_F32, 0, m.grad_b[i].n, 0);
		}
		call_lora(&p, &c, &m, PAIR_GPU);
		pair_differences(&p, layer_loss, &s, m.x, m.dx, 0.5, 2e-5, "dx by differences");
		for (size_t i = 0; i < c.parts; i++) {
			pair_differences(&p, layer_loss, &s, m.a[i], m.grad_a[i], 0.5, 2e-5, "grad_a by differences");
			pair_differences(&p, layer_loss, &s, m.b[i], m.grad_b[i], 0.5, 2e-5, "grad_b by differences");
		}
	}
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		products_match_for_every_shape,
		every_order_gives_the_same_layer,
		layers_of_real_shapes_match,
		few_tokens_odd_widths_and_missing_adapters_match,
		what_is_not_wanted_is_left_out,
		the_frozen_weights_gradient_comes_dense_sketched_or_at_indices,
		each_rows_gradient_norm_is_told,
		room_behind_tokens_and_rows_changes_nothing,
		an_adapter_far_smaller_than_the_base_still_counts,
		a_deterministic_device_gives_the_same_bits_again,
		ranks_without_outputs_are_refused,
		gradients_are_those_of_finite_differences,
	};
	return pair_run("gpu_linear", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
