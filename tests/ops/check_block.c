/* SPDX-License-Identifier: Apache-2.0 */
/* Norm, rotary embedding and activation. */
#include "ops/fixture.h"

struct problem {
	size_t n, c;
	double *x, *delta, *dy;
	const float *weight;
};

static const double EPSILON = 0x1p-10;

static void naive_norm(const struct problem *p, double *y)
{
	for (size_t t = 0; t < p->n; t++) {
		double squares = 0;
		for (size_t i = 0; i < p->c; i++)
			squares += p->x[t * p->c + i] * p->x[t * p->c + i];
		for (size_t i = 0; i < p->c; i++)
			y[t * p->c + i] =
				p->x[t * p->c + i] / sqrt(squares / (double)p->c + EPSILON) * (double)p->weight[i];
	}
}

static double norm_loss(void *self)
{
	const struct problem *p = self;
	double *y = fixture_doubles(p->n * p->c), sum = 0;
	naive_norm(p, y);
	for (size_t i = 0; i < p->n * p->c; i++)
		sum += y[i] * p->dy[i];
	free(y);
	return sum;
}

static void near_act(struct device *d, const void *act, const double *expected, size_t n, const char *what)
{
	double *found = fixture_read(d, act, n);
	fixture_near(found, expected, n, fixture_limit(d), what);
	free(found);
}

START_TEST(norms_match_finite_differences_and_add_the_residual)
{
	static const size_t shapes[][2] = {{1, 1}, {5, 33}, {40, 64}};
	for (int k = 0; k < 3; k++) {
		struct device *d = fixture_open(fixture_types[_i], 0);
		size_t n = shapes[k][0], c = shapes[k][1], size = n * c;
		float *weight = fixture_values(1, c), *inverse = must_calloc(n, sizeof *inverse);
		struct problem p = {.n = n,
			.c = c,
			.weight = weight,
			.x = fixture_doubles(size),
			.delta = fixture_doubles(size),
			.dy = fixture_doubles(size)};
		void *x = fixture_act(d, 2, size, p.x), *delta = fixture_act(d, 3, size, p.delta),
		     *dy = fixture_act(d, 4, size, p.dy);
		void *sum = d->ops->alloc(d, size * d->act_size), *y = d->ops->alloc(d, size * d->act_size);
		double *expected = fixture_doubles(size), *before = fixture_doubles(size);
		naive_norm(&p, expected);
		d->ops->norm_forward(d, NORM_RMS, n, c, x, NULL, NULL, weight, (float)EPSILON, y, 0, NULL);
		near_act(d, y, expected, size, "y alone");
		d->ops->norm_forward(d, NORM_RMS, n, c, x, delta, sum, weight, (float)EPSILON, y, 0, inverse);
		for (size_t i = 0; i < size; i++)
			p.x[i] += p.delta[i];
		near_act(d, sum, p.x, size, "sum");
		/* the backward differentiates at the sum as it was stored */
		double *stored = fixture_read(d, sum, size);
		memcpy(p.x, stored, size * sizeof *stored);
		free(stored);
		naive_norm(&p, expected);
		near_act(d, y, expected, size, "y");
		void *dx = fixture_act(d, 5, size, before);
		d->ops->norm_backward(d, NORM_RMS, n, c, dy, sum, weight, inverse, dx);
		fixture_differences(norm_loss, &p, p.x, size, expected);
		for (size_t i = 0; i < size; i++)
			expected[i] += before[i];
		near_act(d, dx, expected, size, "dx");
		/* in place, and copying when there is no delta */
		d->ops->norm_forward(d, NORM_RMS, n, c, x, delta, x, weight, (float)EPSILON, y, 0, inverse);
		near_act(d, x, p.x, size, "sum in place");
		d->ops->norm_forward(d, NORM_RMS, n, c, sum, NULL, dx, weight, (float)EPSILON, y, 0, inverse);
		near_act(d, dx, p.x, size, "sum copied");
		/* tokens apart: what lies between them stays */
		double *apart = fixture_doubles(n * (c + 3));
		void *wide = fixture_act(d, 6, n * (c + 3), apart);
		d->ops->norm_forward(d, NORM_RMS, n, c, sum, NULL, NULL, weight, (float)EPSILON, wide, c + 3, inverse);
		naive_norm(&p, expected);
		for (size_t i = 0; i < size; i++)
			apart[i / c * (c + 3) + i % c] = expected[i];
		near_act(d, wide, apart, n * (c + 3), "y with tokens apart");
		free(apart);
		void *device[] = {x, delta, dy, sum, y, dx, wide};
		for (int i = 0; i < 7; i++)
			d->ops->release(d, device[i]);
		double *host[] = {p.x, p.delta, p.dy, expected, before};
		for (int i = 0; i < 5; i++)
			free(host[i]);
		free(weight);
		free(inverse);
		fixture_close(d);
	}
}
END_TEST

/* Heads side by side in tokens that lie `stride` apart, from feature `first` on. */
struct heads {
	size_t n, heads, dim, stride, first;
	double *x, *dy;
	const float *weight;
};

/* y, which holds x elsewhere. */
static void naive_heads(const struct heads *p, double *y)
{
	memcpy(y, p->x, p->n * p->stride * sizeof *y);
	for (size_t t = 0; t < p->n; t++)
		for (size_t head = 0; head < p->heads; head++) {
			double squares = 0, *at = y + t * p->stride + p->first + head * p->dim;
			for (size_t i = 0; i < p->dim; i++)
				squares += at[i] * at[i];
			for (size_t i = 0; i < p->dim; i++)
				at[i] *= (double)p->weight[i] / sqrt(squares / (double)p->dim + EPSILON);
		}
}

/* Of the heads alone. */
static double heads_loss(void *self)
{
	const struct heads *p = self;
	double *y = fixture_doubles(p->n * p->stride), sum = 0;
	naive_heads(p, y);
	for (size_t t = 0; t < p->n; t++)
		for (size_t i = 0; i < p->heads * p->dim; i++)
			sum += y[t * p->stride + p->first + i] * p->dy[t * p->stride + p->first + i];
	free(y);
	return sum;
}

START_TEST(norms_of_heads_match_finite_differences_and_leave_the_rest)
{
	static const struct heads shapes[] = {{.n = 1, .heads = 1, .dim = 4, .stride = 4},
		{.n = 7, .heads = 3, .dim = 10, .stride = 41, .first = 5},
		{.n = 33, .heads = 2, .dim = 64, .stride = 192, .first = 64}};
	for (int k = 0; k < 3; k++) {
		struct device *d = fixture_open(fixture_types[_i], 0);
		struct heads p = shapes[k];
		size_t size = p.n * p.stride, at = p.first;
		float *weight = fixture_values(1, p.dim), *inverse = must_calloc(p.n * p.heads, sizeof *inverse);
		p.weight = weight;
		p.x = fixture_doubles(size);
		p.dy = fixture_doubles(size);
		void *x = fixture_act(d, 2, size, p.x), *y = fixture_act(d, 2, size, NULL),
		     *dx = fixture_act(d, 3, size, p.dy);
		double *expected = fixture_doubles(size), *gradient = fixture_doubles(size);
		naive_heads(&p, expected);
		d->ops->head_norm_forward(d, NORM_RMS, p.n, p.heads, p.dim, act_at(d, x, at), p.stride, weight,
			(float)EPSILON, act_at(d, y, at), p.stride, inverse);
		near_act(d, y, expected, size, "y");
		d->ops->head_norm_backward(d, NORM_RMS, p.n, p.heads, p.dim, act_at(d, x, at), p.stride, weight,
			inverse, act_at(d, dx, at), p.stride);
		fixture_differences(heads_loss, &p, p.x, size, gradient);
		for (size_t i = 0; i < size; i++) {
			size_t feature = i % p.stride;
			bool outside = feature < p.first || feature >= p.first + p.heads * p.dim;
			gradient[i] = outside ? p.dy[i] : gradient[i];
		}
		near_act(d, dx, gradient, size, "dx");
		d->ops->head_norm_forward(d, NORM_RMS, p.n, p.heads, p.dim, act_at(d, x, at), p.stride, weight,
			(float)EPSILON, act_at(d, x, at), p.stride, NULL);
		near_act(d, x, expected, size, "y in place");
		void *device[] = {x, y, dx};
		for (int i = 0; i < 3; i++)
			d->ops->release(d, device[i]);
		double *host[] = {p.x, p.dy, expected, gradient};
		for (int i = 0; i < 4; i++)
			free(host[i]);
		free(weight);
		free(inverse);
		fixture_close(d);
	}
}
END_TEST

START_TEST(turning_back_undoes_turning_and_keeps_the_rest)
{
	enum { N = 7, HEADS = 3, DIM = 10, HALF = 3, STRIDE = 32, POSITIONS = 50 };
	const uint32_t positions[N] = {0, 1, 2, 0, 49, 5, 6};
	float cosine[POSITIONS * HALF], sine[POSITIONS * HALF];
	for (int i = 0; i < POSITIONS * HALF; i++) {
		double angle = (double)(i / HALF) / pow(100, (double)(i % HALF) / HALF);
		cosine[i] = (float)cos(angle);
		sine[i] = (float)sin(angle);
	}
	struct device *d = fixture_open(fixture_types[_i], 0);
	struct rope r = {.cosine = cosine, .sine = sine, .half = HALF, .head_dim = DIM};
	double x[N * STRIDE], expected[N * STRIDE];
	void *act = fixture_act(d, 1, N * STRIDE, x);
	memcpy(expected, x, sizeof x);
	for (size_t t = 0; t < N; t++)
		for (size_t head = 0; head < HEADS; head++)
			for (size_t i = 0; i < HALF; i++) {
				size_t at = t * STRIDE + head * DIM + i;
				double co = (double)cosine[positions[t] * HALF + i],
				       si = (double)sine[positions[t] * HALF + i];
				expected[at] = x[at] * co - x[at + HALF] * si;
				expected[at + HALF] = x[at + HALF] * co + x[at] * si;
			}
	d->ops->rope_forward(d, &r, N, positions, act, HEADS, STRIDE);
	near_act(d, act, expected, N * STRIDE, "turned");
	/* a rotation's transpose is its inverse: that is the backward of the forward */
	d->ops->rope_backward(d, &r, N, positions, act, HEADS, STRIDE);
	near_act(d, act, x, N * STRIDE, "turned back");
	d->ops->release(d, act);
	fixture_close(d);
}
END_TEST

struct gated {
	enum activation_kind kind;
	size_t n;
	double *gate, *up, *dh;
};

static double naive_gate(enum activation_kind kind, double g)
{
	if (kind == ACTIVATION_GEGLU)
		return 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
	return g / (1 + exp(-g));
}

static double gated_loss(void *self)
{
	const struct gated *p = self;
	double sum = 0;
	for (size_t i = 0; i < p->n; i++)
		sum += naive_gate(p->kind, p->gate[i]) * p->up[i] * p->dh[i];
	return sum;
}

static void check_gated(struct device *d, enum activation_kind kind)
{
	enum { TOKENS = 3, WIDTH = 111, N = TOKENS * WIDTH };
	struct gated p = {
		.kind = kind, .n = N, .gate = fixture_doubles(N), .up = fixture_doubles(N), .dh = fixture_doubles(N)};
	for (int i = 0; i < N; i++)
		p.gate[i] = (i - N / 2) * 0.0625;
	p.gate[0] = -1000;
	p.gate[N - 1] = 1000;
	/* three tokens' gates and ups, side by side */
	double *both = fixture_doubles(2 * N), *expected = fixture_doubles(2 * N), *h_expected = fixture_doubles(N);
	void *dh = fixture_act(d, 3, N, p.dh), *up = fixture_act(d, 2, N, p.up);
	for (int i = 0; i < N; i++) {
		both[i / WIDTH * 2 * WIDTH + i % WIDTH] = p.gate[i];
		both[i / WIDTH * 2 * WIDTH + WIDTH + i % WIDTH] = p.up[i];
	}
	void *gate_up = fixture_act_from(d, both, 2 * N), *again = fixture_act_from(d, both, 2 * N);
	double *read = fixture_read(d, gate_up, 2 * N);
	for (int i = 0; i < N; i++)
		p.gate[i] = read[i / WIDTH * 2 * WIDTH + i % WIDTH];
	free(read);
	for (int i = 0; i < N; i++)
		h_expected[i] = naive_gate(kind, p.gate[i]) * p.up[i];
	void *h = d->ops->alloc(d, N * d->act_size);
	d->ops->activation_forward(d, kind, TOKENS, WIDTH, gate_up, h, 0);
	near_act(d, h, h_expected, N, "h");
	/* tokens apart, what lies between left alone */
	enum { APART = WIDTH + 5 };
	double *wide = fixture_doubles(TOKENS * APART), *wide_expected = fixture_doubles(TOKENS * APART);
	for (int i = 0; i < TOKENS * APART; i++) {
		wide[i] = -7;
		wide_expected[i] = i % APART < WIDTH ? h_expected[i / APART * WIDTH + i % APART] : wide[i];
	}
	void *apart = fixture_act_from(d, wide, TOKENS * APART);
	d->ops->activation_forward(d, kind, TOKENS, WIDTH, gate_up, apart, APART);
	near_act(d, apart, wide_expected, TOKENS * APART, "h, tokens apart");
	d->ops->release(d, apart);
	free(wide);
	free(wide_expected);
	double d_gate[N], d_up[N];
	fixture_differences(gated_loss, &p, p.gate, N, d_gate);
	fixture_differences(gated_loss, &p, p.up, N, d_up);
	for (int i = 0; i < N; i++) {
		expected[i / WIDTH * 2 * WIDTH + i % WIDTH] = d_gate[i];
		expected[i / WIDTH * 2 * WIDTH + WIDTH + i % WIDTH] = d_up[i];
	}
	d->ops->activation_backward(d, kind, TOKENS, WIDTH, dh, gate_up, NULL);
	near_act(d, gate_up, expected, 2 * N, "d_gate and d_up");
	d->ops->activation_backward(d, kind, TOKENS, WIDTH, dh, again, dh);
	near_act(d, again, expected, 2 * N, "d_gate and d_up beside h");
	near_act(d, dh, h_expected, N, "h again");
	void *device[] = {gate_up, again, up, dh, h};
	for (int i = 0; i < 5; i++)
		d->ops->release(d, device[i]);
	double *host[] = {p.gate, p.up, p.dh, both, expected, h_expected};
	for (int i = 0; i < 6; i++)
		free(host[i]);
}

START_TEST(gates_match_finite_differences_small_and_huge)
{
	struct device *d = fixture_open(fixture_types[_i], 0);
	check_gated(d, ACTIVATION_SWIGLU);
	check_gated(d, ACTIVATION_GEGLU);
	fixture_close(d);
}
END_TEST

START_TEST(kinds_that_are_not_there_yet_are_refused)
{
	double zero[8] = {0};
	float weight[2] = {1, 1}, inverse[2];
	struct device *d = fixture_open(fixture_types[_i], 0);
	d->ops->activation_forward(d, (enum activation_kind)9, 1, 1, zero, zero, 0);
	ck_assert_int_eq(device_sync(d, NULL), SAKIORI_EUNSUPPORTED);
	device_close(d);
	d = fixture_open(fixture_types[_i], 0);
	d->ops->norm_forward(d, (enum norm_kind)9, 1, 2, zero, NULL, NULL, weight, 1, zero, 0, inverse);
	ck_assert_int_eq(device_sync(d, NULL), SAKIORI_EUNSUPPORTED);
	device_close(d);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		norms_match_finite_differences_and_add_the_residual,
		norms_of_heads_match_finite_differences_and_leave_the_rest,
		turning_back_undoes_turning_and_keeps_the_rest,
		gates_match_finite_differences_small_and_huge,
		kinds_that_are_not_there_yet_are_refused,
	};
	return fixture_run("block", tests, sizeof tests / sizeof *tests, 3);
}
