/* SPDX-License-Identifier: Apache-2.0 */
/* Norm, rotary embedding and activation. */
#include "gpu/pair.h"

/* f32: a sum of squares over up to 4,096 features, and device functions good to 2 units of the last place. bf16: one rounding of what is
 * written, two where a sum is stored before it is normed. */
static const struct pair_limit rounding = {3e-6, 5e-3};
/* A gradient that is added to what lies there loses a little more, since the sum of both is rounded. */
static const struct pair_limit gradient = {5e-6, 1e-2};
static const struct pair_limit statistic = {1e-6, 5e-3};

static const float EPSILON = 1e-5f;
static const size_t token_counts[] = {0, 1, 3, 37, 300};
static const size_t widths[] = {1, 7, 23, 64, 576, 1000, 2048, 4096, 5120};

static void check_norm(struct pair *p, size_t n, size_t c, size_t shift)
{
	size_t size = n * c;
	pair_case(p, "norm of (%zu, %zu), shift %zu", n, c, shift);
	struct both weight = pair_values(p, PAIR_F32, 1, c, 2);
	p->shift = shift;
	struct both x = pair_values(p, PAIR_ACT, 2, size, 1), delta = pair_values(p, PAIR_ACT, 3, size, 1),
		    dy = pair_values(p, PAIR_ACT, 4, size, 1), dx = pair_values(p, PAIR_ACT, 5, size, 1),
		    in_place = pair_values(p, PAIR_ACT, 2, size, 1);
	struct both sum = pair_output(p, PAIR_ACT, size), copied = pair_output(p, PAIR_ACT, size), y[5], inverse[5];
	for (int i = 0; i < 5; i++) {
		y[i] = pair_output(p, PAIR_ACT, size);
		inverse[i] = pair_output(p, PAIR_F32, n);
	}
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		const float *w = weight.at[side];
		d->ops->norm_forward(
			d, NORM_RMS, n, c, x.at[side], NULL, NULL, w, EPSILON, y[0].at[side], 0, inverse[0].at[side]);
		d->ops->norm_forward(d, NORM_RMS, n, c, x.at[side], delta.at[side], sum.at[side], w, EPSILON,
			y[1].at[side], 0, inverse[1].at[side]);
		/* the backward at a sum that both devices hold alike */
		d->ops->norm_backward(d, NORM_RMS, n, c, dy.at[side], x.at[side], w, inverse[0].at[side], dx.at[side]);
		d->ops->norm_forward(d, NORM_RMS, n, c, in_place.at[side], delta.at[side], in_place.at[side], w,
			EPSILON, y[2].at[side], 0, inverse[2].at[side]);
		d->ops->norm_forward(d, NORM_RMS, n, c, x.at[side], NULL, copied.at[side], w, EPSILON, y[3].at[side], 0,
			inverse[3].at[side]);
		d->ops->norm_forward(
			d, NORM_RMS, n, c, sum.at[side], NULL, NULL, w, EPSILON, y[4].at[side], 0, inverse[4].at[side]);
	}
	static const char *const names[] = {"y alone", "y", "y in place", "y beside a copy", "y again"};
	for (int i = 0; i < 5; i++) {
		pair_near(p, y[i], rounding, names[i]);
		pair_near(p, inverse[i], statistic, "inverse rms");
	}
	pair_near(p, sum, rounding, "sum");
	pair_near(p, in_place, rounding, "sum in place");
	pair_near(p, copied, rounding, "sum copied");
	pair_near(p, dx, gradient, "dx of the norm");
	/* without a place for the statistic */
	struct both quiet = pair_output(p, PAIR_ACT, size);
	for (int side = 0; side < PAIR_SIDES; side++)
		p->device[side]->ops->norm_forward(p->device[side], NORM_RMS, n, c, x.at[side], NULL, NULL,
			weight.at[side], EPSILON, quiet.at[side], 0, NULL);
	pair_near(p, quiet, rounding, "y without statistic");
	/* tokens apart: what lies between them stays */
	static const size_t gaps[] = {8, 3};
	for (int i = 0; i < 2; i++) {
		struct both wide = pair_values(p, PAIR_ACT, 6, n * (c + gaps[i]), 1);
		for (int side = 0; side < PAIR_SIDES; side++)
			p->device[side]->ops->norm_forward(p->device[side], NORM_RMS, n, c, x.at[side], delta.at[side],
				sum.at[side], weight.at[side], EPSILON, wide.at[side], c + gaps[i], NULL);
		pair_near(p, wide, rounding, "y with tokens apart");
	}
}

START_TEST(norms_of_every_width_match)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof widths / sizeof *widths; k++)
		for (size_t j = 0; j < 5; j++)
			if (token_counts[j] * widths[k] < 400000)
				check_norm(&p, token_counts[j], widths[k], 0);
	check_norm(&p, 5, 576, 1);
	check_norm(&p, 5, 64, 3);
	pair_close(&p);
}
END_TEST

/* Heads from feature `first` on, in tokens `stride` apart; what lies beside them stays. */
static void check_head_norm(struct pair *p, size_t n, size_t heads, size_t head_dim, size_t stride, size_t first)
{
	pair_case(p, "norms of %zu tokens, %zu heads of %zu, stride %zu, from feature %zu", n, heads, head_dim, stride,
		first);
	struct both weight = pair_values(p, PAIR_F32, 1, head_dim, 2), x = pair_values(p, PAIR_ACT, 2, n * stride, 1),
		    in_place = pair_values(p, PAIR_ACT, 2, n * stride, 1),
		    y = pair_values(p, PAIR_ACT, 3, n * stride, 1), dx = pair_values(p, PAIR_ACT, 4, n * stride, 1),
		    inverse = pair_output(p, PAIR_F32, n * heads);
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		void *at = act_at(d, x.at[side], first);
		d->ops->head_norm_forward(d, NORM_RMS, n, heads, head_dim, at, stride, weight.at[side], EPSILON,
			act_at(d, y.at[side], first), stride, inverse.at[side]);
		d->ops->head_norm_backward(d, NORM_RMS, n, heads, head_dim, at, stride, weight.at[side],
			inverse.at[side], act_at(d, dx.at[side], first), stride);
		at = act_at(d, in_place.at[side], first);
		d->ops->head_norm_forward(
			d, NORM_RMS, n, heads, head_dim, at, stride, weight.at[side], EPSILON, at, stride, NULL);
	}
	pair_near(p, y, rounding, "heads, normed");
	pair_near(p, in_place, rounding, "heads, normed in place");
	pair_near(p, inverse, statistic, "inverse rms of heads");
	pair_near(p, dx, gradient, "dx of the heads' norm");
}

START_TEST(norms_of_heads_match)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t j = 0; j < 5; j++) {
		check_head_norm(&p, token_counts[j], 16, 128, 32 * 128, 0);
		check_head_norm(&p, token_counts[j], 3, 64, 5 * 64, 64);
		check_head_norm(&p, token_counts[j], 2, 7, 23, 3);
	}
	pair_close(&p);
}
END_TEST

static void check_rope(
	struct pair *p, size_t n, size_t heads, size_t head_dim, size_t half, size_t stride, size_t first)
{
	enum { POSITIONS = 500 };
	pair_case(p, "rope of %zu tokens, %zu heads of %zu, half %zu, stride %zu, from feature %zu", n, heads, head_dim,
		half, stride, first);
	float *cosine = must_calloc(POSITIONS * half, sizeof *cosine),
	      *sine = must_calloc(POSITIONS * half, sizeof *sine);
	uint32_t *positions = must_calloc(n + 1, sizeof *positions);
	for (size_t i = 0; i < POSITIONS * half; i++) {
		double angle = (double)(i / half) / pow(10000, (double)(i % half) / (double)half);
		cosine[i] = (float)cos(angle);
		sine[i] = (float)sin(angle);
	}
	for (size_t t = 0; t < n; t++)
		positions[t] = t == 3 ? POSITIONS - 1 : (uint32_t)(t % 100);
	struct both co = pair_host(p, PAIR_F32, cosine, POSITIONS * half),
		    si = pair_host(p, PAIR_F32, sine, POSITIONS * half),
		    at = pair_bytes(p, positions, n * sizeof *positions),
		    x = pair_values(p, PAIR_ACT, 1, n * stride, 1), dx = pair_values(p, PAIR_ACT, 2, n * stride, 1);
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		struct rope r = {.cosine = co.at[side], .sine = si.at[side], .half = half, .head_dim = head_dim};
		d->ops->rope_forward(d, &r, n, at.at[side], act_at(d, x.at[side], first), heads, stride);
		d->ops->rope_backward(d, &r, n, at.at[side], act_at(d, dx.at[side], first), heads, stride);
	}
	pair_near(p, x, rounding, "turned");
	pair_near(p, dx, rounding, "turned back");
	free(cosine);
	free(sine);
	free(positions);
}

START_TEST(rotations_match_and_leave_the_rest_alone)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t j = 0; j < 5; j++) {
		size_t n = token_counts[j];
		check_rope(&p, n, 9, 64, 32, 9 * 64, 0);
		check_rope(&p, n, 3, 64, 32, 15 * 64, 9 * 64);
		check_rope(&p, n, 32, 128, 64, 48 * 128, 0);
		check_rope(&p, n, 12, 64, 32, 15 * 64, 0);
		check_rope(&p, n, 3, 10, 3, 32, 0);
		check_rope(&p, n, 2, 80, 20, 161, 1);
		check_rope(&p, n, 1, 2, 1, 3, 1);
	}
	pair_close(&p);
}
END_TEST

static void check_activation(struct pair *p, size_t n, size_t width, size_t shift, float range)
{
	size_t size = n * width;
	pair_case(p, "swiglu of (%zu, %zu), shift %zu, gates up to %g", n, width, shift, (double)range);
	p->shift = shift;
	struct both gate_up[4], dh[3], h = pair_output(p, PAIR_ACT, size), again = pair_output(p, PAIR_ACT, size),
				       apart = pair_values(p, PAIR_ACT, 3, n * (width + 8), 1);
	for (int i = 0; i < 4; i++)
		gate_up[i] = pair_values(p, PAIR_ACT, 1, 2 * size, range);
	for (int i = 0; i < 3; i++)
		dh[i] = pair_values(p, PAIR_ACT, 2, size, 1);
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct device *d = p->device[side];
		d->ops->activation_forward(d, ACTIVATION_SWIGLU, n, width, gate_up[3].at[side], h.at[side], 0);
		d->ops->activation_forward(
			d, ACTIVATION_SWIGLU, n, width, gate_up[3].at[side], apart.at[side], width + 8);
		d->ops->activation_backward(d, ACTIVATION_SWIGLU, n, width, dh[0].at[side], gate_up[0].at[side], NULL);
		d->ops->activation_backward(
			d, ACTIVATION_SWIGLU, n, width, dh[1].at[side], gate_up[1].at[side], dh[1].at[side]);
		d->ops->activation_backward(
			d, ACTIVATION_SWIGLU, n, width, dh[2].at[side], gate_up[2].at[side], again.at[side]);
	}
	pair_near(p, h, rounding, "h");
	pair_near(p, apart, rounding, "h, tokens apart");
	pair_near(p, gate_up[0], rounding, "d_gate and d_up");
	pair_near(p, gate_up[1], rounding, "d_gate and d_up, h over dh");
	pair_near(p, gate_up[2], rounding, "d_gate and d_up beside h");
	pair_near(p, dh[1], rounding, "h over dh");
	pair_near(p, again, rounding, "h again");
	pair_near(p, gate_up[3], rounding, "gate and up are left alone");
}

START_TEST(swiglu_of_every_width_matches)
{
	static const size_t each[] = {1, 7, 23, 64, 1536, 8192, 14336};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (size_t k = 0; k < sizeof each / sizeof *each; k++)
		for (size_t j = 0; j < 5; j++)
			if (token_counts[j] * each[k] < 600000)
				check_activation(&p, token_counts[j], each[k], 0, 4);
	check_activation(&p, 5, 64, 1, 4);
	check_activation(&p, 5, 24, 5, 4);
	/* exponentials of 1,000 and -1,000 */
	check_activation(&p, 5, 331, 0, 1000);
	pair_close(&p);
}
END_TEST

struct difference {
	struct both x, weight, y, dy, positions, cosine, sine;
	size_t n, c;
};

static double norm_loss(struct pair *p, void *self)
{
	const struct difference *s = self;
	struct device *d = p->device[PAIR_GPU];
	d->ops->norm_forward(d, NORM_RMS, s->n, s->c, s->x.at[PAIR_GPU], NULL, NULL, s->weight.at[PAIR_GPU], EPSILON,
		s->y.at[PAIR_GPU], 0, NULL);
	return pair_dot(p, s->y, s->dy);
}

static double activation_loss(struct pair *p, void *self)
{
	const struct difference *s = self;
	struct device *d = p->device[PAIR_GPU];
	d->ops->activation_forward(d, ACTIVATION_SWIGLU, s->n, s->c, s->x.at[PAIR_GPU], s->y.at[PAIR_GPU], 0);
	return pair_dot(p, s->y, s->dy);
}

static double rope_loss(struct pair *p, void *self)
{
	const struct difference *s = self;
	struct device *d = p->device[PAIR_GPU];
	struct rope r = {.cosine = s->cosine.at[PAIR_GPU], .sine = s->sine.at[PAIR_GPU], .half = 3, .head_dim = 8};
	d->ops->copy(d, s->y.at[PAIR_GPU], s->x.at[PAIR_GPU], s->x.n * sizeof(float));
	d->ops->rope_forward(d, &r, s->n, s->positions.at[PAIR_GPU], s->y.at[PAIR_GPU], 2, s->c);
	return pair_dot(p, s->y, s->dy);
}

/* A step of 2^-6: what the third derivative adds and what f32 rounds away are both some 1e-4 of the gradient. */
START_TEST(gradients_are_those_of_finite_differences)
{
	static const uint32_t positions[] = {0, 3, 1, 0};
	static const float cosine[12] = {1, 1, 1, 0.6f, 0.8f, 0, -0.6f, 0.28f, 0, 0, 0.96f, 1},
			   sine[12] = {0, 0, 0, 0.8f, 0.6f, 1, 0.8f, -0.96f, 1, -1, 0.28f, 0};
	struct pair p;
	if (pair_types[_i] != DTYPE_F32)
		return;
	pair_open(&p, DTYPE_F32);
	struct device *d = p.device[PAIR_GPU];
	pair_case(&p, "finite differences of the norm");
	struct difference s = {.n = 4, .c = 23};
	struct both inverse = pair_output(&p, PAIR_F32, 4), dx = pair_values(&p, PAIR_F32, 0, 4 * 23, 0);
	s.x = pair_values(&p, PAIR_F32, 1, 4 * 23, 1);
	s.weight = pair_values(&p, PAIR_F32, 2, 23, 1);
	s.dy = pair_values(&p, PAIR_F32, 3, 4 * 23, 1);
	s.y = pair_output(&p, PAIR_F32, 4 * 23);
	d->ops->norm_forward(d, NORM_RMS, 4, 23, s.x.at[PAIR_GPU], NULL, NULL, s.weight.at[PAIR_GPU], EPSILON,
		s.y.at[PAIR_GPU], 0, inverse.at[PAIR_GPU]);
	d->ops->norm_backward(d, NORM_RMS, 4, 23, s.dy.at[PAIR_GPU], s.x.at[PAIR_GPU], s.weight.at[PAIR_GPU],
		inverse.at[PAIR_GPU], dx.at[PAIR_GPU]);
	pair_differences(&p, norm_loss, &s, s.x, dx, 0x1p-6, 1e-3, "dx of the norm by differences");

	pair_case(&p, "finite differences of swiglu");
	s.c = 11;
	s.x = pair_values(&p, PAIR_F32, 1, 4 * 22, 3);
	s.dy = pair_values(&p, PAIR_F32, 3, 4 * 11, 1);
	s.y = pair_output(&p, PAIR_F32, 4 * 11);
	struct both gate_up = pair_values(&p, PAIR_F32, 1, 4 * 22, 3);
	d->ops->activation_backward(d, ACTIVATION_SWIGLU, 4, 11, s.dy.at[PAIR_GPU], gate_up.at[PAIR_GPU], NULL);
	pair_differences(&p, activation_loss, &s, s.x, gate_up, 0x1p-6, 1e-3, "d_gate and d_up by differences");

	pair_case(&p, "finite differences of the rotation");
	s.c = 17;
	s.positions = pair_bytes(&p, positions, sizeof positions);
	s.cosine = pair_host(&p, PAIR_F32, cosine, 12);
	s.sine = pair_host(&p, PAIR_F32, sine, 12);
	s.x = pair_values(&p, PAIR_F32, 1, 4 * 17, 1);
	s.dy = pair_values(&p, PAIR_F32, 3, 4 * 17, 1);
	s.y = pair_output(&p, PAIR_F32, 4 * 17);
	struct both turned = pair_values(&p, PAIR_F32, 3, 4 * 17, 1);
	struct rope r = {.cosine = s.cosine.at[PAIR_GPU], .sine = s.sine.at[PAIR_GPU], .half = 3, .head_dim = 8};
	d->ops->rope_backward(d, &r, 4, s.positions.at[PAIR_GPU], turned.at[PAIR_GPU], 2, 17);
	pair_differences(&p, rope_loss, &s, s.x, turned, 0.5, 1e-5, "the rotation by differences");
	pair_close(&p);
}
END_TEST

START_TEST(kinds_that_are_not_there_yet_are_refused)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct both x = pair_values(&p, PAIR_ACT, 1, 8, 1), w = pair_values(&p, PAIR_F32, 1, 4, 1);
	struct device *d = p.device[PAIR_GPU];
	d->ops->activation_forward(d, ACTIVATION_GEGLU, 1, 4, x.at[PAIR_GPU], x.at[PAIR_GPU], 0);
	pair_refused(&p, SAKIORI_EUNSUPPORTED, "geglu");
	x = pair_values(&p, PAIR_ACT, 1, 8, 1);
	w = pair_values(&p, PAIR_F32, 1, 4, 1);
	d = p.device[PAIR_GPU];
	d->ops->norm_forward(
		d, (enum norm_kind)9, 1, 4, x.at[PAIR_GPU], NULL, NULL, w.at[PAIR_GPU], 1, x.at[PAIR_GPU], 0, NULL);
	pair_refused(&p, SAKIORI_EUNSUPPORTED, "an unknown norm");
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		norms_of_every_width_match,
		norms_of_heads_match,
		rotations_match_and_leave_the_rest_alone,
		swiglu_of_every_width_matches,
		gradients_are_those_of_finite_differences,
		kinds_that_are_not_there_yet_are_refused,
	};
	return pair_run("gpu_block", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
