/* SPDX-License-Identifier: Apache-2.0 */
#include "ops/fixture.h"

struct problem {
	size_t n, c, v;
	double *hidden, *head;
	const int32_t *labels;
	const float *weights;
	double softcap;
};

static double token_loss(const struct problem *p, size_t t, bool *correct)
{
	double sum = 0, own = 0, most = -INFINITY;
	for (size_t o = 0; o < p->v; o++) {
		double z = 0;
		for (size_t i = 0; i < p->c; i++)
			z += p->hidden[t * p->c + i] * p->head[o * p->c + i];
		if (p->softcap > 0)
			z = p->softcap * tanh(z / p->softcap);
		sum += exp(z);
		if ((int32_t)o == p->labels[t])
			own = z;
		most = z > most ? z : most;
	}
	*correct = own >= most;
	return log(sum) - own;
}

static double loss(void *self)
{
	const struct problem *p = self;
	double sum = 0;
	bool correct;
	for (size_t t = 0; t < p->n; t++)
		if (p->labels[t] >= 0)
			sum += token_loss(p, t, &correct) * (p->weights ? (double)p->weights[t] : 1);
	return sum;
}

static void near_act(struct device *d, const void *act, const double *expected, size_t n, const char *what)
{
	double *found = fixture_read(d, act, n);
	fixture_near(found, expected, n, fixture_limit(d), what);
	free(found);
}

static void check_case(enum dtype act, size_t n, size_t v, const int32_t *labels, bool weighted, float softcap,
	const uint32_t *index, size_t listed)
{
	enum { C = 11 };
	struct device *d = fixture_open(act, 0);
	float *values = fixture_values(1, v * C), *weights = fixture_values(2, n),
	      *losses = must_calloc(n, sizeof *losses);
	for (size_t t = 0; t < n; t++)
		weights[t] = weights[t] < 0 ? 0 : weights[t];
	for (size_t i = 0; i < v * C; i++)
		values[i] *= 2;
	uint8_t *correct = must_calloc(n, 1);
	struct weight *head = fixture_weight(d, values, v, C);
	int32_t *counted = must_calloc(n, sizeof *counted);
	for (size_t t = 0; t < n; t++)
		counted[t] = index ? -1 : labels[t];
	for (size_t i = 0; i < listed; i++)
		counted[index[i]] = labels[index[i]];
	struct problem p = {.n = n,
		.c = C,
		.v = v,
		.labels = counted,
		.weights = weighted ? weights : NULL,
		.softcap = (double)softcap,
		.hidden = fixture_doubles(n * C),
		.head = fixture_weight_values(d, head, v, C)};
	void *hidden = fixture_act(d, 3, n * C, p.hidden);
	double sum = 10, *gradient = fixture_doubles(n * C), *gradient_half = fixture_doubles(n * C);
	const float half = 0.5f;
	struct cross_entropy c = {.labels = labels,
		.weights = p.weights,
		.gradient_scale = &half,
		.softcap = softcap,
		.sum = &sum,
		.losses = losses,
		.correct = correct};
	uint32_t padded[64];
	memset(padded, 0xff, sizeof padded);
	memcpy(padded, index ? index : padded, listed * sizeof *padded);
	/* places behind the list are empty */
	struct tokens t = {.count = n, .index = index ? padded : NULL, .index_count = listed ? listed + 3 : 0};
	d->ops->cross_entropy(d, &c, &t, hidden, head, NULL);
	double limit = act == DTYPE_F64 ? 1e-9 : 1e-6;
	ck_assert_double_le(fabs(sum - 10 - loss(&p)), limit * (1 + loss(&p)));
	for (size_t i = 0; i < n; i++) {
		bool right = true;
		double expected = counted[i] >= 0 ? token_loss(&p, i, &right) : 0;
		ck_assert_double_le(fabs((double)losses[i] - expected), 1e-5);
		ck_assert_uint_eq(correct[i], right);
	}
	fixture_differences(loss, &p, p.hidden, n * C, gradient);
	for (size_t i = 0; i < n * C; i++)
		gradient_half[i] = gradient[i] * 0.5;
	void *d_hidden = fixture_act(d, 4, n * C, NULL);
	d->ops->cross_entropy(d, &c, &t, hidden, head, d_hidden);
	near_act(d, d_hidden, gradient_half, n * C, "d_hidden");
	d->ops->cross_entropy(d, &c, &t, hidden, head, hidden);
	near_act(d, hidden, gradient_half, n * C, "d_hidden in place");
	ck_assert_double_le(fabs(sum - 10 - 3 * loss(&p)), 3 * limit * (1 + loss(&p)));
	d->ops->release(d, hidden);
	d->ops->release(d, d_hidden);
	d->ops->weight_free(d, head);
	void *host[] = {values, weights, losses, correct, counted, p.hidden, p.head, gradient, gradient_half};
	for (int i = 0; i < 9; i++)
		free(host[i]);
	fixture_close(d);
}

static const int32_t some[9] = {-1, 3, 0, -1, 36, 5, -1, -1, 7};

START_TEST(loss_and_gradient_match_finite_differences)
{
	check_case(fixture_types[_i], 9, 37, some, false, 0, NULL, 0);
	check_case(fixture_types[_i], 9, 37, some, true, 0, NULL, 0);
	check_case(fixture_types[_i], 2, 37, some, false, 0, NULL, 0);
}
END_TEST

START_TEST(logits_are_capped_softly)
{
	check_case(fixture_types[_i], 9, 37, some, true, 1.5f, NULL, 0);
}
END_TEST

START_TEST(only_listed_tokens_count)
{
	const uint32_t index[] = {0, 2, 5, 8};
	check_case(fixture_types[_i], 9, 37, some, false, 0, index, 4);
}
END_TEST

START_TEST(no_labelled_token_gives_no_loss_and_no_gradient)
{
	const int32_t none[3] = {-1, -1, -1};
	check_case(fixture_types[_i], 3, 37, none, false, 0, NULL, 0);
	check_case(fixture_types[_i], 1, 37, none, false, 0, NULL, 0);
}
END_TEST

START_TEST(more_tokens_than_a_chunk_match)
{
	int32_t labels[300];
	for (int t = 0; t < 300; t++)
		labels[t] = t % 7 == 3 ? -1 : t % 19;
	check_case(fixture_types[_i], 300, 19, labels, true, 0, NULL, 0);
}
END_TEST

START_TEST(the_best_label_is_told)
{
	struct device *d = fixture_open(fixture_types[_i], 0);
	const float head[3] = {1, 2, -1};
	struct weight *w = fixture_weight(d, head, 3, 1);
	const double hidden[4] = {1, 1, -1, 1};
	void *x = fixture_act_from(d, hidden, 4);
	const int32_t labels[4] = {1, 0, 2, -1};
	uint8_t correct[4];
	struct cross_entropy c = {.labels = labels, .correct = correct};
	struct tokens t = {.count = 4};
	d->ops->cross_entropy(d, &c, &t, x, w, NULL);
	ck_assert(correct[0] == 1 && correct[1] == 0 && correct[2] == 1 && correct[3] == 1);
	d->ops->release(d, x);
	d->ops->weight_free(d, w);
	fixture_close(d);
}
END_TEST

START_TEST(a_label_outside_the_head_is_refused)
{
	struct device *d = fixture_open(fixture_types[_i], 0);
	const float head[3] = {1, 2, -1};
	struct weight *w = fixture_weight(d, head, 3, 1);
	double hidden[1] = {0};
	const int32_t label = 3;
	struct cross_entropy c = {.labels = &label};
	struct tokens t = {.count = 1};
	d->ops->cross_entropy(d, &c, &t, hidden, w, NULL);
	ck_assert_int_eq(device_sync(d, NULL), SAKIORI_EINVAL);
	d->ops->weight_free(d, w);
	device_close(d);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		loss_and_gradient_match_finite_differences,
		logits_are_capped_softly,
		only_listed_tokens_count,
		no_labelled_token_gives_no_loss_and_no_gradient,
		more_tokens_than_a_chunk_match,
		the_best_label_is_told,
		a_label_outside_the_head_is_refused,
	};
	return fixture_run("loss", tests, sizeof tests / sizeof *tests, 3);
}
