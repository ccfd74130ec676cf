/* SPDX-License-Identifier: Apache-2.0 */
/* The head and the cross-entropy over it. */
#include "gpu/pair.h"

/* f32: sums over the vocabulary in f32. bf16: logits and their gradient may be kept in bf16 between the products. */
static const struct pair_limit losses = {1e-5, 1e-2};
/* Sums are kept in f32 whatever the type. */
static const struct pair_limit head_sums = {1e-5, 1e-5};
static const struct pair_limit total = {1e-5, 5e-3};
static const struct pair_limit gradient = {2e-5, 2e-2};
/* A logit's own rounding: where the two best are nearer than this, either may be called the best. */
static const struct pair_limit undecided = {1e-4, 0.15};

struct loss_case {
	size_t n, c, v;
	const int32_t *labels; /* NULL: random ones, every fourth ignored */
	const uint32_t *index;
	size_t listed;
	bool weighted, large;
	float softcap;
};

struct loss_buffers {
	struct both hidden, d_hidden, labels, weights, scale, sum, losses, correct, index;
	struct both_weights head;
};

static int32_t *make_labels(const struct loss_case *c)
{
	int32_t *labels = must_calloc(c->n + 1, sizeof *labels);
	float *draw = pair_random(50, c->n);
	for (size_t t = 0; t < c->n; t++)
		labels[t] = c->labels    ? c->labels[t]
			    : t % 4 == 3 ? -1
					 : (int32_t)((draw[t] + 1) / 2 * (float)(c->v - 1));
	if (!c->labels && c->n)
		labels[0] = (int32_t)c->v - 1;
	free(draw);
	return labels;
}

static void make_loss(struct pair *p, const struct loss_case *c, struct loss_buffers *m)
{
	memset(m, 0, sizeof *m);
	float *head = pair_random(1, c->v * c->c), factor = 4 * sqrtf(3.0f / (float)c->c);
	for (size_t i = 0; i < c->v * c->c; i++)
		head[i] *= factor;
	m->head = pair_weight_from(p, head, c->v, c->c, pair_storage(p), WEIGHT_FORWARD | WEIGHT_BACKWARD);
	free(head);
	int32_t *labels = make_labels(c);
	m->labels = pair_bytes(p, labels, c->n * sizeof *labels);
	free(labels);
	float *weights = pair_random(3, c->n);
	for (size_t t = 0; t < c->n; t++)
		weights[t] = weights[t] < -0.5f ? 0 : weights[t] + 0.5f;
	if (c->weighted)
		m->weights = pair_host(p, PAIR_F32, weights, c->n);
	free(weights);
	m->scale = pair_host(p, PAIR_F32, &(float){0.375f}, 1);
	m->sum = pair_host(p, PAIR_F64, &(float){10}, 1);
	m->losses = pair_output(p, PAIR_F32, c->n);
	m->correct = pair_output(p, PAIR_BYTES, c->n);
	m->hidden = pair_values(p, PAIR_ACT, 2, c->n * c->c, 1);
	m->d_hidden = pair_output(p, PAIR_ACT, c->n * c->c);
	if (c->index)
		m->index = pair_bytes(p, c->index, c->listed * sizeof *c->index);
}

static void call_loss(struct pair *p, const struct loss_case *c, const struct loss_buffers *m, int side, bool quiet,
	struct both d_hidden)
{
	struct device *d = p->device[side];
	struct cross_entropy e = {.labels = m->labels.at[side],
		.weights = m->weights.at[side],
		.gradient_scale = m->scale.at[side],
		.softcap = c->softcap,
		.sum = quiet ? NULL : m->sum.at[side],
		.losses = quiet ? NULL : m->losses.at[side],
		.correct = quiet ? NULL : m->correct.at[side]};
	struct tokens t = {.count = c->n, .index = m->index.at[side], .index_count = c->listed};
	d->ops->cross_entropy(d, &e, &t, m->hidden.at[side], m->head.at[side], d_hidden.at[side]);
}

/* Whether the label and the best other logit are too near for the device's rounding to tell them apart. */
static bool too_near(struct pair *p, const struct loss_case *c, const struct loss_buffers *m, size_t t, int32_t label)
{
	struct device *cpu = p->device[PAIR_CPU];
	float *logits = must_calloc(c->v, sizeof *logits), other = -INFINITY;
	cpu->ops->head_logits(cpu, 1, act_at(cpu, m->hidden.at[PAIR_CPU], t * c->c), m->head.at[PAIR_CPU], logits);
	for (size_t i = 0; i < c->v; i++)
		if ((int32_t)i != label)
			other = fmaxf(other, logits[i]);
	double apart = fabs((double)logits[label] - (double)other);
	free(logits);
	return apart <= pair_limit_of(p, undecided);
}

static void check_correct(struct pair *p, const struct loss_case *c, const struct loss_buffers *m)
{
	double *found = pair_read(p, m->correct, PAIR_GPU), *expected = pair_read(p, m->correct, PAIR_CPU);
	int32_t *labels = pair_download(p, m->labels);
	for (size_t t = 0; t < c->n; t++)
		if (found[t] != expected[t] && (found[t] > 1 || labels[t] < 0 || !too_near(p, c, m, t, labels[t])))
			pair_wrong(p, "correct of token %zu (label %d) is %g, should be %g", t, (int)labels[t],
				found[t], expected[t]);
	free(labels);
	free(found);
	free(expected);
}

static void check_loss(struct pair *p, const struct loss_case *c)
{
	static const struct both nowhere;
	struct loss_buffers m;
	pair_case(p, "%zu tokens of %zu, vocabulary %zu%s, softcap %g, %zu listed%s", c->n, c->c, c->v,
		c->weighted ? ", weighted" : "", (double)c->softcap, c->listed, c->labels ? ", labels given" : "");
	make_loss(p, c, &m);
	for (int side = 0; side < PAIR_SIDES; side++)
		call_loss(p, c, &m, side, false, m.d_hidden);
	pair_near(p, m.sum, total, "sum");
	pair_near(p, m.losses, losses, "losses");
	check_correct(p, c, &m);
	pair_near(p, m.d_hidden, gradient, "d_hidden");
	if (c->large)
		return;
	for (int side = 0; side < PAIR_SIDES; side++)
		call_loss(p, c, &m, side, false, nowhere);
	pair_near(p, m.sum, total, "sum, the loss alone added");
	pair_near(p, m.losses, losses, "losses, alone");
	check_correct(p, c, &m);
	for (int side = 0; side < PAIR_SIDES; side++) {
		call_loss(p, c, &m, side, true, nowhere);
		call_loss(p, c, &m, side, true, m.hidden);
	}
	pair_near(p, m.sum, total, "sum, left alone");
	pair_near(p, m.hidden, gradient, "d_hidden in place");
}

static void check_all(enum dtype act, const struct loss_case *cases, size_t count)
{
	struct pair p;
	pair_open(&p, act);
	for (size_t k = 0; k < count; k++)
		check_loss(&p, &cases[k]);
	pair_close(&p);
}

static const int32_t some[9] = {-1, 3, 0, -1, 36, 5, -1, -1, 7}, none[9] = {-1, -1, -1, -1, -1, -1, -1, -1, -1};

START_TEST(losses_and_gradients_match)
{
	static const struct loss_case cases[] = {
		{.n = 9, .c = 11, .v = 37, .labels = some},
		{.n = 9, .c = 11, .v = 37, .labels = some, .weighted = true},
		{.n = 0, .c = 11, .v = 37},
		{.n = 1, .c = 23, .v = 2},
		{.n = 3, .c = 64, .v = 1},
		{.n = 3, .c = 576, .v = 1000},
		{.n = 37, .c = 64, .v = 1003, .weighted = true},
		{.n = 9, .c = 11, .v = 37, .labels = some, .weighted = true, .softcap = 1.5f},
		{.n = 37, .c = 64, .v = 1003, .softcap = 30},
	};
	check_all(pair_types[_i], cases, sizeof cases / sizeof *cases);
}
END_TEST

START_TEST(no_labelled_token_gives_no_loss_and_no_gradient)
{
	static const struct loss_case cases[] = {
		{.n = 9, .c = 16, .v = 37, .labels = none},
		{.n = 1, .c = 16, .v = 37, .labels = none, .weighted = true},
	};
	check_all(pair_types[_i], cases, 2);
}
END_TEST

START_TEST(only_listed_tokens_count)
{
	static const uint32_t listed[] = {0, 2, 5, 8}, padded[] = {1, 2, 4, 8, UINT32_MAX, UINT32_MAX, UINT32_MAX},
			      holes[] = {UINT32_MAX, 1, UINT32_MAX, 4, 8}, empty[] = {UINT32_MAX, UINT32_MAX};
	static const struct loss_case cases[] = {
		{.n = 9, .c = 16, .v = 37, .labels = some, .index = listed, .listed = 4},
		{.n = 9, .c = 16, .v = 37, .labels = some, .index = padded, .listed = 7, .weighted = true},
		{.n = 9, .c = 16, .v = 37, .labels = some, .index = holes, .listed = 5},
		{.n = 9, .c = 16, .v = 37, .labels = some, .index = empty, .listed = 2},
		{.n = 9, .c = 16, .v = 37, .labels = some, .index = empty, .listed = 0},
	};
	check_all(pair_types[_i], cases, 5);
}
END_TEST

/* The last two: logits of 590 MB in bf16, more than a device likes to have at once, of which the last part is smaller than those before it; of
 * the listed ones, every place is another token than the place's number. Two labels in nine keep the CPU's time down. */
START_TEST(many_tokens_go_through_in_chunks)
{
	enum { MANY = 2300, LISTED = 2200, LOGITS = 128256 };
	static int32_t labels[MANY];
	static uint32_t index[LISTED];
	for (size_t t = 0; t < MANY; t++)
		labels[t] = t % 9 == 1 || t % 9 == 5 ? (int32_t)(t * 7919 % LOGITS) : -1;
	for (size_t i = 0; i < LISTED; i++)
		index[i] = i % 50 == 49 ? UINT32_MAX : (uint32_t)(i + MANY - LISTED);
	const struct loss_case cases[] = {
		{.n = 300, .c = 16, .v = 517, .weighted = true},
		{.n = 4500, .c = 16, .v = 130},
		{.n = MANY, .c = 16, .v = LOGITS, .labels = labels, .weighted = true},
		{.n = MANY, .c = 16, .v = LOGITS, .labels = labels, .index = index, .listed = LISTED},
	};
	check_all(pair_types[_i], cases, sizeof cases / sizeof *cases);
}
END_TEST

START_TEST(large_vocabularies_match)
{
	static const struct loss_case cases[] = {
		{.n = 5, .c = 576, .v = 49152, .large = true},
		{.n = 3, .c = 128, .v = 128256, .large = true, .weighted = true},
		{.n = 3, .c = 64, .v = 128256, .large = true, .softcap = 20},
	};
	check_all(pair_types[_i], cases, 3);
}
END_TEST

START_TEST(logits_of_large_vocabularies_match)
{
	static const size_t heads[][2] = {{49152, 576}, {128256, 128}};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 2; k++) {
		size_t v = heads[k][0], c = heads[k][1], n = 2;
		pair_case(&p, "logits of a vocabulary of %zu", v);
		struct both_weights w = pair_weight(&p, 1, v, c, WEIGHT_FORWARD);
		struct both x = pair_values(&p, PAIR_ACT, 2, n * c, 1), z = pair_output(&p, PAIR_F32, n * v);
		for (int side = 0; side < PAIR_SIDES; side++)
			p.device[side]->ops->head_logits(p.device[side], n, x.at[side], w.at[side], z.at[side]);
		pair_near(&p, z, head_sums, "logits");
	}
	pair_close(&p);
}
END_TEST

/* Equal logits: the label is as good as the best. Values that bf16 holds exactly. */
START_TEST(the_best_label_is_told)
{
	static const float head[4] = {1, 2, -1, 2}, hidden[5] = {1, 1, -1, 1, 1};
	static const int32_t labels[5] = {1, 0, 2, -1, 3};
	static const unsigned char wanted[5] = {1, 0, 1, 1, 1};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct both_weights w = pair_weight_from(&p, head, 4, 1, pair_storage(&p), WEIGHT_FORWARD | WEIGHT_BACKWARD);
	struct both x = pair_host(&p, PAIR_ACT, hidden, 5), label = pair_bytes(&p, labels, sizeof labels),
		    scale = pair_host(&p, PAIR_F32, &(float){1}, 1), correct = pair_output(&p, PAIR_BYTES, 5);
	struct cross_entropy c = {
		.labels = label.at[PAIR_GPU], .gradient_scale = scale.at[PAIR_GPU], .correct = correct.at[PAIR_GPU]};
	struct tokens t = {.count = 5};
	struct device *d = p.device[PAIR_GPU];
	d->ops->cross_entropy(d, &c, &t, x.at[PAIR_GPU], w.at[PAIR_GPU], NULL);
	unsigned char *found = pair_download(&p, correct);
	pair_same_bytes(&p, found, wanted, 5, "correct");
	free(found);
	pair_close(&p);
}
END_TEST

START_TEST(a_label_outside_the_head_is_refused)
{
	static const int32_t labels[3] = {0, 3, -1};
	static const float head[3] = {1, 2, -1};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 2; k++) {
		struct weight *w =
			pair_weight_on(&p, PAIR_GPU, head, 3, 1, pair_storage(&p), WEIGHT_FORWARD | WEIGHT_BACKWARD);
		struct both x = pair_values(&p, PAIR_ACT, 1, 3, 1), label = pair_bytes(&p, labels, sizeof labels),
			    scale = pair_host(&p, PAIR_F32, &(float){1}, 1);
		struct cross_entropy c = {.labels = label.at[PAIR_GPU], .gradient_scale = scale.at[PAIR_GPU]};
		struct tokens t = {.count = 3};
		struct device *d = p.device[PAIR_GPU];
		d->ops->cross_entropy(d, &c, &t, x.at[PAIR_GPU], w, k ? x.at[PAIR_GPU] : NULL);
		pair_refused(&p, SAKIORI_EINVAL, "a label outside the head");
	}
	pair_close(&p);
}
END_TEST

struct difference {
	const struct loss_case *c;
	const struct loss_buffers *m;
};

static double loss_at(struct pair *p, void *self)
{
	static const struct both nowhere;
	const struct difference *s = self;
	struct device *d = p->device[PAIR_GPU];
	double sum = 0;
	d->ops->upload(d, s->m->sum.at[PAIR_GPU], &sum, sizeof sum);
	call_loss(p, s->c, s->m, PAIR_GPU, false, nowhere);
	d->ops->download(d, &sum, s->m->sum.at[PAIR_GPU], sizeof sum);
	return 0.375 * sum;
}

START_TEST(gradients_are_those_of_finite_differences)
{
	static const struct loss_case cases[] = {
		{.n = 5, .c = 7, .v = 13, .weighted = true}, {.n = 5, .c = 7, .v = 13, .softcap = 2}};
	struct pair p;
	if (pair_types[_i] != DTYPE_F32)
		return;
	pair_open(&p, DTYPE_F32);
	for (int k = 0; k < 2; k++) {
		struct loss_buffers m;
		struct difference s = {&cases[k], &m};
		pair_case(&p, "finite differences, softcap %g", (double)cases[k].softcap);
		make_loss(&p, &cases[k], &m);
		call_loss(&p, &cases[k], &m, PAIR_GPU, false, m.d_hidden);
		pair_differences(&p, loss_at, &s, m.hidden, m.d_hidden, 0x1p-7, 2e-3, "d_hidden by differences");
	}
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		losses_and_gradients_match,
		no_labelled_token_gives_no_loss_and_no_gradient,
		only_listed_tokens_count,
		many_tokens_go_through_in_chunks,
		large_vocabularies_match,
		logits_of_large_vocabularies_match,
		the_best_label_is_told,
		a_label_outside_the_head_is_refused,
		gradients_are_those_of_finite_differences,
	};
	return pair_run("gpu_loss", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
