/* SPDX-License-Identifier: Apache-2.0 */
/* Dropout, and linears whose adapters read what it left. */
#include "gpu/pair.h"

/* One rounding of what is written; where it is added, of the sum. */
static const struct pair_limit rounding = {1e-6, 5e-3};
static const struct pair_limit product = {1e-5, 2e-2};

static const uint64_t STREAM = (uint64_t)1 << 63 | 7;

static struct dropout make(struct pair *p, uint32_t keep, uint64_t step, uint64_t first, struct both *at)
{
	const uint64_t values[] = {step << 16, first};
	*at = pair_bytes(p, values, sizeof values);
	return (struct dropout){.keep = keep, .seed = 0xfedcba9876543210, .stream = STREAM};
}

static void check_dropout(struct pair *p, size_t n, size_t c, size_t gap, size_t shift, uint64_t first)
{
	pair_case(p, "dropout of (%zu, %zu), gap %zu, shift %zu, from token %llu", n, c, gap, shift,
		(unsigned long long)first);
	p->shift = shift;
	struct both at, x = pair_values(p, PAIR_ACT, 1, n * (c + gap), 1), dy = pair_values(p, PAIR_ACT, 2, n * c, 1),
			dx = pair_values(p, PAIR_ACT, 3, n * c, 1), y = pair_output(p, PAIR_ACT, n * c);
	p->shift = 0;
	struct dropout r = make(p, 50000, 12345, first, &at);
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		r.at = at.at[side];
		d->ops->dropout_forward(d, &r, n, c, x.at[side], gap ? c + gap : 0, y.at[side]);
		d->ops->dropout_backward(d, &r, n, c, dy.at[side], dx.at[side]);
	}
	pair_near(p, y, rounding, "dropped");
	pair_near(p, dx, rounding, "added");
	double *exact = pair_read(p, y, PAIR_CPU), *found = pair_read(p, y, PAIR_GPU);
	for (size_t i = 0; i < n * c; i++)
		if ((exact[i] == 0) != (found[i] == 0)) {
			pair_wrong(p, "element %zu is dropped on one device alone", i);
			break;
		}
	free(exact);
	free(found);
}

START_TEST(the_same_elements_are_dropped)
{
	static const size_t widths[] = {1, 7, 8, 23, 64, 576, 1000, 2048, 5120, 14336};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
		check_dropout(&p, 37, widths[k], 0, 0, 3);
		check_dropout(&p, 3, widths[k], 64, 0, (uint64_t)1 << 33);
	}
	check_dropout(&p, 0, 64, 0, 0, 0);
	check_dropout(&p, 5, 64, 3, 0, 1);
	check_dropout(&p, 5, 64, 0, 1, 1);
	check_dropout(&p, 70000, 8, 0, 0, 0); /* more tokens than a grid has rows */
	pair_close(&p);
}
END_TEST

START_TEST(nothing_kept_is_refused)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	pair_case(&p, "nothing kept");
	struct both x = pair_values(&p, PAIR_ACT, 1, 8, 1);
	struct dropout r = {.keep = 0};
	struct device *d = p.device[PAIR_GPU];
	d->ops->dropout_forward(d, &r, 1, 8, x.at[PAIR_GPU], 0, x.at[PAIR_GPU]);
	pair_refused(&p, SAKIORI_EINVAL, "dropout that keeps nothing");
	pair_close(&p);
}
END_TEST

/* ---- linears ---- */

enum { PARTS = 3 };

struct layer_case {
	size_t n, cols, rows[PARTS], rank[PARTS], gap, room;
	const uint32_t *index;
	size_t index_count;
};

static void check_layer(struct pair *p, const struct layer_case *c)
{
	static const float scales[PARTS] = {0.5f, 0, 2};
	size_t rows = c->rows[0] + c->rows[1] + c->rows[2], ranks = c->rank[0] + c->rank[1] + c->rank[2];
	pair_case(p, "n %zu cols %zu rows %zu %zu %zu ranks %zu %zu %zu gap %zu room %zu listed %zu", c->n, c->cols,
		c->rows[0], c->rows[1], c->rows[2], c->rank[0], c->rank[1], c->rank[2], c->gap, c->room,
		c->index_count);
	p->room = c->room;
	struct both_weights w = pair_weight(p, 1, rows, c->cols, WEIGHT_FORWARD | WEIGHT_BACKWARD);
	p->room = 0;
	struct both at, x = pair_values(p, PAIR_ACT, 2, c->n * (c->cols + c->gap), 1),
			dy = pair_values(p, PAIR_ACT, 3, c->n * rows, 1);
	/* listed tokens alone are written */
	struct both y = c->index ? pair_values(p, PAIR_ACT, 4, c->n * rows, 0) : pair_output(p, PAIR_ACT, c->n * rows),
		    s = pair_values(p, PAIR_ACT, 5, c->n * ranks, 0), ds = pair_values(p, PAIR_ACT, 6, c->n * ranks, 0),
		    dropped = pair_values(p, PAIR_ACT, 7, c->n * c->cols, 0),
		    own = pair_values(p, PAIR_ACT, 8, c->n * c->cols, 0),
		    dx = pair_values(p, PAIR_ACT, 9, c->n * c->cols, 0), a[PARTS], b[PARTS], grad_a[PARTS],
		    grad_b[PARTS];
	struct both index = c->index ? pair_bytes(p, c->index, c->index_count * sizeof *c->index) : (struct both){0};
	for (size_t i = 0; i < PARTS; i++) {
		a[i] = pair_values(p, PAIR_F32, 10 + i, c->rank[i] * c->cols, 0.1f);
		b[i] = pair_values(p, PAIR_F32, 20 + i, c->rank[i] * c->rows[i], 0.1f);
		grad_a[i] = pair_values(p, PAIR_F32, 30 + i, c->rank[i] * c->cols, 1);
		grad_b[i] = pair_values(p, PAIR_F32, 40 + i, c->rank[i] * c->rows[i], 1);
	}
	struct dropout r = make(p, 50000, 3, 0, &at);
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		struct lora_linear l = {.weight = w.at[side],
			.scale = 0.75f,
			.parts = PARTS,
			.x_stride = c->gap ? c->cols + c->gap : 0,
			.adapter_x = dropped.at[side],
			.y = y.at[side],
			.s = s.at[side],
			.dy = dy.at[side],
			.ds = ds.at[side]};
		for (size_t i = 0; i < PARTS; i++)
			l.part[i] = (struct lora_part){.rows = c->rows[i],
				.rank = c->rank[i],
				.scale = scales[i],
				.a = a[i].at[side],
				.b = b[i].at[side],
				.grad_a = grad_a[i].at[side],
				.grad_b = grad_b[i].at[side]};
		struct tokens t = {.count = c->n, .index = index.at[side], .index_count = c->index_count};
		r.at = at.at[side];
		d->ops->dropout_forward(d, &r, c->n, c->cols, x.at[side], l.x_stride, dropped.at[side]);
		d->ops->lora_forward(d, &t, x.at[side], &l);
		l.adapter_x = NULL;
		l.adapter_dx = own.at[side];
		d->ops->lora_backward(d, &t, NULL, &l, dx.at[side], false, NULL);
		l.x_stride = 0;
		d->ops->lora_gradient_a(d, &t, dropped.at[side], &l);
	}
	pair_near(p, y, product, "y");
	pair_near(p, s, product, "s");
	pair_near(p, dx, product, "dx of the base");
	pair_near(p, own, product, "dx of the adapter");
	for (size_t i = 0; i < PARTS; i++)
		if (c->rank[i]) {
			pair_near(p, grad_a[i], product, "grad_a");
			pair_near(p, grad_b[i], product, "grad_b");
		}
}

START_TEST(adapters_of_a_dropped_input_match)
{
	static const uint32_t listed[] = {0, 3, 4, 11};
	static const struct layer_case cases[] = {
		/* with room for s, without, and with ranks that the small kernels do not take */
		{.n = 37, .cols = 576, .rows = {576, 192, 192}, .rank = {16, 16, 16}, .gap = 64, .room = 64},
		{.n = 37, .cols = 576, .rows = {576, 192, 192}, .rank = {8, 16, 32}, .gap = 64, .room = 64},
		{.n = 300, .cols = 2048, .rows = {2048, 512, 512}, .rank = {16, 0, 8}, .gap = 64, .room = 64},
		{.n = 37, .cols = 576, .rows = {576, 192, 192}, .rank = {16, 16, 16}},
		{.n = 37, .cols = 576, .rows = {576, 192, 192}, .rank = {8, 16, 33}},
		{.n = 5, .cols = 23, .rows = {9, 4, 6}, .rank = {3, 0, 2}},
		{.n = 37, .cols = 64, .rows = {24, 8, 16}, .rank = {64, 8, 40}},
		{.n = 12, .cols = 64, .rows = {24, 8, 16}, .rank = {8, 8, 8}, .index = listed, .index_count = 4},
	};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
		check_layer(&p, &cases[k]);
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		the_same_elements_are_dropped,
		nothing_kept_is_refused,
		adapters_of_a_dropped_input_match,
	};
	return pair_run("gpu dropout", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
