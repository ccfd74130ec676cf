/* SPDX-License-Identifier: Apache-2.0 */
/* Counting, choosing and remembering the order of an adapter's products. All eight backward graphs of RunLoRA are counted here, to show
 * that the three that are implemented are enough. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "train/variants.h"

enum { SHAPES = 200 };

/* Tokens, inputs and, part by part, outputs and rank in the letters of the paper. */
struct sums {
	uint64_t b, io, ir, ro, w; /* b*i*o, b*i*r, b*r*o, i*r*o */
};

static struct sums sums_of(const struct variants_shape *v)
{
	struct sums s = {.b = v->tokens};
	s.io = s.b * v->cols * v->rows;
	for (size_t p = 0; p < v->parts; p++) {
		s.ir += s.b * v->cols * v->part[p].rank;
		s.ro += s.b * v->part[p].rank * v->part[p].rows;
		s.w += v->cols * v->part[p].rank * v->part[p].rows;
	}
	return s;
}

static uint64_t forward_formula(const struct variants_shape *v, int number)
{
	struct sums s = sums_of(v);
	return number == 1 || number == 3 ? 2 * (s.io + s.ir + s.ro) : 2 * (s.w + s.io);
}

/* algorithms.md 2.1; without dx its terms are dropped. */
static uint64_t backward_formula(const struct variants_shape *v, int number)
{
	struct sums s = sums_of(v);
	const uint64_t all[] = {
		s.io + 3 * s.ir + 2 * s.ro,
		2 * s.io + 2 * s.ir + s.ro + s.w,
		2 * s.io + s.ir + s.ro + 2 * s.w,
		2 * s.io + 3 * s.w,
		s.io + 2 * s.ir + 2 * s.ro + s.w,
		2 * s.io + 2 * s.ir + 2 * s.ro + s.w,
		2 * s.io + s.ir + s.ro + 2 * s.w,
		2 * s.io + s.ir + s.ro + 2 * s.w,
	};
	const uint64_t without[] = {
		2 * s.ir + 2 * s.ro,
		s.io + s.ir + s.ro + s.w,
		s.io + 2 * s.w,
		s.io + 2 * s.w,
		2 * s.ir + 2 * s.ro,
		s.io + s.ir + s.ro + s.w,
		s.io + s.ir + s.ro + s.w,
		s.io + s.ir + s.ro + s.w,
	};
	return 2 * (v->dx ? all[number - 1] : without[number - 1]);
}

static size_t pick(struct rng *r, size_t low, size_t high)
{
	return low + (size_t)(rng_uniform(r) * (float)(high - low + 1));
}

/* Sizes over several powers of two. */
static size_t pick_size(struct rng *r, unsigned low, unsigned high)
{
	size_t base = (size_t)1 << pick(r, low, high);
	return base + pick(r, 0, base);
}

static struct variants_shape random_shape(struct rng *r, size_t parts)
{
	struct variants_shape v = {.tokens = pick_size(r, 0, 13), .cols = pick_size(r, 4, 13), .parts = parts};
	for (size_t p = 0; p < parts; p++) {
		v.part[p].rows = pick_size(r, 4, 13);
		/* No more than either width: of ranks above them the second graph wins some. */
		size_t rank = pick_size(r, 0, 8), width = v.part[p].rows < v.cols ? v.part[p].rows : v.cols;
		v.part[p].rank = rank < width ? rank : width;
		v.rows += v.part[p].rows;
	}
	v.dx = pick(r, 0, 3) > 0;
	return v;
}

/* A device on which only FLOPs count. */
static const struct variants_rates flops_only = {
	.flops = 1, .base_flops = 1, .merge_flops = 1, .bytes = 1e300, .act_bytes = 4, .weight_bytes = 4};

START_TEST(flops_equal_the_formulas)
{
	struct rng r;
	rng_init(&r, 1, 0);
	for (int i = 0; i < SHAPES; i++) {
		/* Parts of one rank each: the formulas hold for the sum over parts, but B4's G is of adapted rows alone. */
		struct variants_shape v = random_shape(&r, 1 + (size_t)i % LORA_PARTS_MAX);
		struct sums s = sums_of(&v);
		ck_assert_uint_eq(variants_flops_forward(&v, LORA_F1, false), forward_formula(&v, 1));
		ck_assert_uint_eq(variants_flops_forward(&v, LORA_F1, true), forward_formula(&v, 1));
		ck_assert_uint_eq(variants_flops_forward(&v, LORA_F2, false), forward_formula(&v, 2));
		ck_assert_uint_eq(variants_flops_forward(&v, LORA_F2, true), forward_formula(&v, 2) + 2 * s.ir);
		ck_assert_uint_eq(variants_flops_backward(&v, LORA_B1, false), backward_formula(&v, 1));
		ck_assert_uint_eq(variants_flops_backward(&v, LORA_B4, false), backward_formula(&v, 4));
		ck_assert_uint_eq(variants_flops_backward(&v, LORA_B5, false), backward_formula(&v, 5));
		ck_assert_uint_eq(variants_flops_backward(&v, LORA_B1, true), backward_formula(&v, 1) - 2 * s.ir);
		ck_assert_uint_eq(variants_flops_backward(&v, LORA_B5, true), backward_formula(&v, 5) - 2 * s.ir);
	}
}
END_TEST

START_TEST(the_choice_is_the_least_of_all_orders)
{
	struct rng r;
	int wins[9] = {0};
	rng_init(&r, 2, 0);
	for (int i = 0; i < SHAPES; i++) {
		struct variants_shape v = random_shape(&r, 1 + (size_t)i % LORA_PARTS_MAX);
		/* Those that are implemented first, so that another one wins only by being less. */
		static const int order[] = {1, 5, 4, 2, 3, 6, 7, 8};
		int forward = 1, backward = 1;
		for (int number = 2; number <= 4; number++)
			if (forward_formula(&v, number) < forward_formula(&v, forward))
				forward = number;
		for (int k = 1; k < 8; k++)
			if (backward_formula(&v, order[k]) < backward_formula(&v, backward))
				backward = order[k];
		wins[backward]++;
		struct variants_choice c = variants_by_cost(&v, &flops_only, false, true);
		ck_assert_int_eq(c.forward, forward == 1 ? LORA_F1 : LORA_F2);
		ck_assert_int_eq(c.backward, backward == 1 ? LORA_B1 : backward == 4 ? LORA_B4 : LORA_B5);
		ck_assert(!c.s);
	}
	/* The others never win, and each of these does sometimes. */
	ck_assert_int_eq(wins[2] + wins[3] + wins[6] + wins[7] + wins[8], 0);
	ck_assert_int_gt(wins[1], 0);
	ck_assert_int_gt(wins[4], 0);
	ck_assert_int_gt(wins[5], 0);
}
END_TEST

START_TEST(the_choice_is_the_least_of_the_model)
{
	struct rng r;
	rng_init(&r, 3, 0);
	for (int i = 0; i < SHAPES; i++) {
		struct variants_shape v = random_shape(&r, 1 + (size_t)i % LORA_PARTS_MAX);
		struct variants_rates rates = variants_rates_of(
			i % 2 ? "cuda:1" : "cpu", i % 3 ? DTYPE_F32 : DTYPE_BF16, i % 5 ? WEIGHT_BF16 : WEIGHT_NF4, 2);
		bool keep_s = i % 4 > 0;
		double least = 1e300;
		for (int forward = 0; forward < 2; forward++)
			for (int backward = 0; backward < 3; backward++)
				for (int s = 0; s <= (keep_s && forward == LORA_F1); s++) {
					double each = variants_seconds_forward(&v, forward, s, &rates) +
						      variants_seconds_backward(&v, backward, s, &rates);
					least = each < least ? each : least;
				}
		struct variants_choice c = variants_by_cost(&v, &rates, keep_s, true);
		double chosen = variants_seconds_forward(&v, c.forward, c.s, &rates) +
				variants_seconds_backward(&v, c.backward, c.s, &rates);
		ck_assert_double_le(chosen, least * (1 + 1e-12));
		c = variants_by_cost(&v, &rates, keep_s, false);
		ck_assert(!variants_merges(&v, &c));
		ck_assert(!c.s || keep_s);
	}
}
END_TEST

START_TEST(orders_change_places_where_the_closed_forms_say)
{
	/* algorithms.md 2.1: F2 from b > i*o/(i+o), B5 from b > o, B4 from r about i*o/(2(i+o)). */
	struct variants_shape v = {.cols = 4096, .rows = 1024, .parts = 1, .part = {{1024, 16}}, .dx = true};
	for (int more = 0; more < 2; more++) {
		v.tokens = 4096 * 1024 / (4096 + 1024) + (size_t)more;
		ck_assert_int_eq(variants_by_cost(&v, &flops_only, false, true).forward, more ? LORA_F2 : LORA_F1);
		v.tokens = 1024 + (size_t)more;
		ck_assert_int_eq(variants_by_cost(&v, &flops_only, false, true).backward, more ? LORA_B5 : LORA_B1);
	}
	v.tokens = 1 << 20;
	v.part[0].rank = 512;
	ck_assert_int_eq(variants_by_cost(&v, &flops_only, false, true).backward, LORA_B4);
}
END_TEST

START_TEST(groups_of_a_model_are_cut_as_its_layers_are)
{
	static const struct lora_widths widths = {.layers = 30, .hidden = 576, .query = 576, .key = 192, .ffn = 1536};
	struct variants_shape v;
	size_t ranks[LORA_TARGETS];
	lora_ranks(8, LORA_ALL & ~(1u << LORA_K), ranks);
	variants_shape_of(&widths, ranks, VARIANTS_QKV, 64, true, &v);
	ck_assert_uint_eq(v.parts, 3);
	ck_assert_uint_eq(v.rows, 960);
	ck_assert_uint_eq(v.cols, 576);
	ck_assert_uint_eq(v.part[1].rows, 192);
	ck_assert_uint_eq(v.part[1].rank, 0);
	ck_assert_uint_eq(v.part[2].rank, 8);
	variants_shape_of(&widths, ranks, VARIANTS_DOWN, 64, true, &v);
	ck_assert_uint_eq(v.parts, 1);
	ck_assert_uint_eq(v.rows, 576);
	ck_assert_uint_eq(v.cols, 1536);
}
END_TEST

START_TEST(bf16_is_merged_only_when_asked_for)
{
	struct variants_config c = {.mode = VARIANTS_COST,
		.widths = {.layers = 30, .hidden = 576, .query = 576, .key = 192, .ffn = 1536},
		.ranks = {256, 256, 256, 256, 256, 256, 256},
		.storage = WEIGHT_BF16,
		.tokens = 8192,
		.keep_s = true};
	struct variants v;
	for (int merged = 0; merged < 2; merged++) {
		c.mode = merged ? VARIANTS_TIMED_MERGED : VARIANTS_COST;
		variants_plan(&v, "cuda", DTYPE_BF16, 1, &c);
		struct variants_choice choice = variants_at(&v, VARIANTS_QKV, 8192, true);
		ck_assert_int_eq(choice.forward, merged ? LORA_F2 : LORA_F1);
		ck_assert_int_eq(choice.backward, merged ? LORA_B4 : LORA_B1);
		ck_assert_int_eq(choice.s, !merged);
		/* Nothing is merged where no gradient goes on. */
		ck_assert_int_eq(variants_at(&v, VARIANTS_QKV, 8192, false).backward, LORA_B4);
		ck_assert_int_eq(variants_at(&v, VARIANTS_QKV, 1, true).forward, LORA_F1);
	}
	c.mode = VARIANTS_FIXED;
	variants_plan(&v, "cpu", DTYPE_F32, 1, &c);
	struct variants_choice choice = variants_at(&v, VARIANTS_QKV, 8192, false);
	char word[VARIANTS_WORD];
	ck_assert_str_eq(variants_format(&choice, word), "F1 B1 with s");
	choice = variants_at(NULL, VARIANTS_QKV, 8192, false);
	ck_assert_str_eq(variants_format(&choice, word), "F1 B1 with s");
}
END_TEST

START_TEST(words_are_read_and_written)
{
	static const char *const words[] = {"fixed", "cost", "timed", "timed-merged"};
	enum variants_mode mode;
	struct fault f = {0};
	for (size_t i = 0; i < 4; i++) {
		ck_assert_int_eq(variants_mode_parse(words[i], &mode, &f), 0);
		ck_assert_str_eq(variants_mode_name(mode), words[i]);
	}
	ck_assert_int_eq(variants_mode_parse("fast", &mode, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "timed-merged"));
}
END_TEST

/* ---- a device that is as fast as it is told ---- */

struct slow_device {
	struct device base;
	enum lora_forward_order forward;   /* takes no time, the others 200 us */
	enum lora_backward_order backward; /* the same */
	int calls;
	size_t allocated;
};

static void *slow_alloc(struct device *d, size_t bytes)
{
	((struct slow_device *)d)->allocated += bytes;
	return bytes ? calloc(1, bytes) : NULL;
}

static void slow_release(struct device *d, void *p)
{
	(void)d;
	free(p);
}

static void slow_upload(struct device *d, void *to, const void *host, size_t bytes)
{
	(void)d;
	memcpy(to, host, bytes);
}

static void slow_to_act(struct device *d, void *act, const float *x, size_t n)
{
	(void)d;
	memcpy(act, x, n * sizeof *x);
}

static void slow_memory(struct device *d, struct device_memory *out)
{
	(void)d;
	*out = (struct device_memory){.total = 12345};
}

static void slow_sync(struct device *d)
{
	(void)d;
}

static void work(struct device *d, bool fast)
{
	struct timespec start, at;
	((struct slow_device *)d)->calls++;
	if (fast)
		return;
	clock_gettime(CLOCK_MONOTONIC, &start);
	do
		clock_gettime(CLOCK_MONOTONIC, &at);
	while ((at.tv_sec - start.tv_sec) * 1000000000L + at.tv_nsec - start.tv_nsec < 200000);
}

static void slow_forward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l)
{
	(void)t;
	(void)x;
	ck_assert(!l->s || l->forward == LORA_F1);
	work(d, l->forward == ((struct slow_device *)d)->forward);
}

static void slow_backward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *l,
	void *dx, bool accumulate, double *row_squares)
{
	(void)t;
	(void)x;
	(void)accumulate;
	(void)row_squares;
	ck_assert_ptr_null(l->ds); /* an order that does not need it must not make it */
	for (size_t i = 0; i < l->parts; i++)
		ck_assert((l->part[i].rank > 0) == (l->part[i].grad_a && l->part[i].grad_b));
	ck_assert(dx || l->backward != LORA_B5);
	work(d, l->backward == ((struct slow_device *)d)->backward);
}

static const struct device_ops slow_ops = {
	.name = "slow",
	.sync = slow_sync,
	.alloc = slow_alloc,
	.release = slow_release,
	.upload = slow_upload,
	.copy = slow_upload,
	.to_act = slow_to_act,
	.memory = slow_memory,
	.lora_forward = slow_forward,
	.lora_backward = slow_backward,
};

static const struct slow_device slow = {
	.base = {.ops = &slow_ops, .act = DTYPE_F32, .act_size = 4}, .forward = LORA_F2, .backward = LORA_B4};

static struct variants_config slow_config(const char *cache)
{
	const struct weight *any = (const struct weight *)&slow; /* nobody looks into it */
	return (struct variants_config){.mode = VARIANTS_TIMED,
		.widths = {.layers = 2, .hidden = 16, .query = 16, .key = 8, .ffn = 24},
		.ranks = {[LORA_K] = 4, [LORA_DOWN] = 4},
		.storage = WEIGHT_F32,
		.tokens = 100,
		.keep_s = true,
		.cache = cache,
		.weight = {any, any, any, any}};
}

static void expect(const struct variants *v, size_t tokens, bool dx, const char *word)
{
	char found[VARIANTS_WORD];
	struct variants_choice c = variants_at(v, VARIANTS_QKV, tokens, dx);
	ck_assert_str_eq(variants_format(&c, found), word);
}

/* With this in the cache the device is asked, which now answers with the plain order; and what it said is kept. */
static void check_measured_again(
	const char *path, const void *text, size_t size, const struct variants_config *c, struct slow_device *d)
{
	struct variants v;
	FILE *file = fopen(path, "w");
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(text, 1, size, file), size);
	ck_assert_int_eq(fclose(file), 0);
	int calls = d->calls;
	ck_assert_int_eq(variants_choose(&v, &d->base, c, NULL), 0);
	expect(&v, 100, true, "F1 B1 with s");
	ck_assert_int_gt(d->calls, calls);
	calls = d->calls;
	ck_assert_int_eq(variants_choose(&v, &d->base, c, NULL), 0);
	expect(&v, 100, true, "F1 B1 with s");
	ck_assert_int_eq(d->calls, calls);
}

START_TEST(the_fastest_is_measured_once_and_remembered)
{
	char folder[] = "/tmp/sakiori-variants-XXXXXX", path[64];
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/variants", folder);
	struct variants_config c = slow_config(folder);
	struct slow_device d = slow;
	struct variants v;
	char arena[1 << 16];
	c.scratch = arena;
	c.scratch_bytes = sizeof arena;
	ck_assert_int_eq(variants_choose(&v, &d.base, &c, NULL), 0);
	expect(&v, 100, true, "F2 B4");
	expect(&v, 20, true, "F2 B4");
	expect(&v, 100, false, "F2 B4");
	/* A group without an adapter has nothing to choose. */
	ck_assert_int_eq(variants_at(&v, VARIANTS_O, 100, true).forward, LORA_F1);
	ck_assert_int_gt(d.calls, 0);
	ck_assert_uint_lt(d.allocated, 1 << 20);
	int calls = d.calls;

	/* What is known is not measured again, though the device would now answer otherwise. */
	d.forward = LORA_F1;
	d.backward = LORA_B1;
	ck_assert_int_eq(variants_choose(&v, &d.base, &c, NULL), 0);
	expect(&v, 100, true, "F2 B4");
	ck_assert_int_eq(d.calls, calls);

	/* A word that no order has, a torn file, or one of another version: measured again. */
	size_t size = 0;
	uint8_t *text = NULL;
	ck_assert_int_eq(file_read(path, 1 << 16, &text, &size, NULL), 0);
	for (char *word = (char *)text; (word = strstr(word, "F2 B4")) != NULL;)
		word[1] = '9';
	check_measured_again(path, text, size, &c, &d);
	check_measured_again(path, text, size - 1, &c, &d);
	free(text);
	static const char *const broken[] = {"sakiori variants 1", "sakiori variants 9 x\n", "", "\n\n\n"};
	for (size_t i = 0; i < 4; i++)
		check_measured_again(path, broken[i], strlen(broken[i]), &c, &d);
	unlink(path);
	rmdir(folder);
}
END_TEST

START_TEST(a_cache_that_cannot_be_used_is_no_failure)
{
	struct variants_config c = slow_config("/proc/nobody/writes/here");
	struct slow_device d = slow;
	struct variants v;
	ck_assert_int_eq(variants_choose(&v, &d.base, &c, NULL), 0);
	expect(&v, 100, true, "F2 B4");
}
END_TEST

START_TEST(a_device_that_fails_is_a_failure)
{
	struct variants_config c = slow_config(NULL);
	struct slow_device d = slow;
	struct variants v;
	struct fault f = {0};
	device_fail(&d.base, SAKIORI_EDEVICE, "gone");
	ck_assert_int_eq(variants_choose(&v, &d.base, &c, &f), SAKIORI_EDEVICE);
	ck_assert_str_eq(f.text, "gone");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("variants");
	TCase *c = tcase_create("cost");
	tcase_add_test(c, flops_equal_the_formulas);
	tcase_add_test(c, the_choice_is_the_least_of_all_orders);
	tcase_add_test(c, the_choice_is_the_least_of_the_model);
	tcase_add_test(c, orders_change_places_where_the_closed_forms_say);
	tcase_add_test(c, groups_of_a_model_are_cut_as_its_layers_are);
	tcase_add_test(c, bf16_is_merged_only_when_asked_for);
	tcase_add_test(c, words_are_read_and_written);
	suite_add_tcase(suite, c);
	c = tcase_create("time");
	tcase_set_timeout(c, 60);
	tcase_add_test(c, the_fastest_is_measured_once_and_remembered);
	tcase_add_test(c, a_cache_that_cannot_be_used_is_no_failure);
	tcase_add_test(c, a_device_that_fails_is_a_failure);
	suite_add_tcase(suite, c);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
