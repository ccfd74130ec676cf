/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/trainer_run.h"
#include "train/generator.h"
#include "train/lora_peft.h"
#include "train/resume.h"
#include "train/trainer.h"

START_TEST(ten_steps_are_five_and_five_resumed_bit_for_bit)
{
	struct trainer_config c = make_config();
	c.weight_decay = 0.01;
	c.warmup = 2;
	struct trainer *whole = open_trainer(&c), *half = open_trainer(&c);
	run(whole, 10);
	run(half, 5);
	must(resume_save(half, in_directory("run.checkpoint"), NULL, &fault));
	trainer_close(half);
	/* what is kept for the backward is no part of a run: it may change, and no bit with it */
	c.memory = MEMORY_BLOCKS;
	half = open_trainer(&c);
	ck_assert_int_eq(trainer_config(half)->memory, MEMORY_BLOCKS);
	must(resume_load(half, in_directory("run.checkpoint"), NULL, &fault));
	ck_assert_uint_eq(trainer_step_number(half), 5);
	run(half, 5);
	float *x = adapter_of(whole), *y = adapter_of(half);
	ck_assert_mem_eq(x, y, trainer_layout(whole)->size * sizeof *x);
	free(x);
	free(y);
	trainer_close(whole);
	trainer_close(half);
}
END_TEST

START_TEST(a_checkpoint_of_other_settings_or_rows_is_refused_and_changes_nothing)
{
	struct trainer_config c = make_config();
	struct trainer *t = open_trainer(&c);
	run(t, 1);
	must(resume_save(t, in_directory("run.checkpoint"), NULL, &fault));
	trainer_close(t);
	c.lr = 1e-3;
	t = open_trainer(&c);
	float *before = adapter_of(t);
	ck_assert_int_eq(resume_load(t, in_directory("run.checkpoint"), NULL, &fault), SAKIORI_EMISMATCH);
	ck_assert_ptr_nonnull(strstr(fault.text, "lr"));
	float *after = adapter_of(t);
	ck_assert_mem_eq(before, after, trainer_layout(t)->size * sizeof *before);
	ck_assert_uint_eq(trainer_step_number(t), 0);
	free(before);
	free(after);
	trainer_close(t);
	write_rows("train.jsonl", 1, 23);
	c = make_config();
	t = open_trainer(&c);
	ck_assert_int_eq(resume_load(t, in_directory("run.checkpoint"), NULL, &fault), SAKIORI_EMISMATCH);
	ck_assert_ptr_nonnull(strstr(fault.text, "data"));
	trainer_close(t);
}
END_TEST

START_TEST(the_same_seed_gives_the_same_bits_and_another_does_not)
{
	struct trainer_config c = make_config();
	float *x[3];
	struct trainer *t = NULL;
	for (int i = 0; i < 3; i++) {
		c.seed = i < 2 ? 11 : 12;
		trainer_close(t);
		t = open_trainer(&c);
		run(t, 3);
		x[i] = adapter_of(t);
	}
	size_t bytes = trainer_layout(t)->size * sizeof(float);
	ck_assert_mem_eq(x[0], x[1], bytes);
	ck_assert_mem_ne(x[0], x[2], bytes);
	for (int i = 0; i < 3; i++)
		free(x[i]);
	trainer_close(t);
}
END_TEST

START_TEST(micro_batches_set_memory_and_not_the_result)
{
	struct trainer_config c = make_config();
	struct trainer *small = open_trainer(&c);
	c.micro_tokens = 1024;
	c.batch_rows = 4;
	struct trainer *large = open_trainer(&c);
	ck_assert_uint_lt(trainer_memory_bytes(small), trainer_memory_bytes(large));
	ck_assert_double_eq_tol(run(small, 5), run(large, 5), 1e-4);
	float *x = adapter_of(small), *y = adapter_of(large);
	ck_assert_double_lt(distance(x, y, trainer_layout(small)->size), 1e-3);
	free(x);
	free(y);
	trainer_close(small);
	trainer_close(large);
}
END_TEST

/* 9 rows of evaluation beside steps of one row, and none: the same memory, but for a longer row. */
START_TEST(evaluation_takes_no_more_memory_than_training)
{
	struct trainer_config c = make_config();
	c.batch_rows = 1;
	c.micro_tokens = 1024;
	c.eval = c.data;
	struct trainer *with = open_trainer(&c);
	c.eval = NULL;
	struct trainer *without = open_trainer(&c);
	struct eval_stats stats;
	ck_assert_uint_eq(trainer_memory_bytes(with), trainer_memory_bytes(without));
	must(trainer_evaluate(with, &stats, &fault));
	ck_assert_uint_eq(stats.rows, 23);
	trainer_close(with);
	trainer_close(without);
}
END_TEST

START_TEST(training_lowers_the_loss_until_the_rows_are_known)
{
	struct trainer_config c = make_config();
	c.eval = c.data;
	c.total_steps = 400;
	c.lr = 1e-2;
	c.adapter.rank = 16;
	struct trainer *t = open_trainer(&c);
	struct eval_stats base, before, after;
	must(trainer_evaluate_base(t, &base, &fault));
	must(trainer_evaluate(t, &before, &fault));
	/* B = 0: the adapter has no effect yet. */
	ck_assert_double_eq_tol(base.loss, before.loss, 1e-9);
	ck_assert_uint_eq(before.rows, 23);
	ck_assert_double_lt(before.accuracy, 0.2);
	run(t, 400);
	must(trainer_evaluate(t, &after, &fault));
	ck_assert_double_lt(after.loss, 0.1);
	ck_assert_double_gt(after.accuracy, 0.95);
	trainer_close(t);
}
END_TEST

START_TEST(evaluation_changes_nothing_and_its_first_loss_is_the_step_s)
{
	struct trainer_config c = make_config();
	c.eval = c.data;
	c.batch_rows = 23;
	struct trainer *t = open_trainer(&c);
	struct eval_stats stats, again;
	struct step_stats step;
	run(t, 2);
	float *before = adapter_of(t);
	must(trainer_evaluate(t, &stats, &fault));
	must(trainer_evaluate(t, &again, &fault));
	ck_assert_double_eq(stats.loss, again.loss);
	float *after = adapter_of(t);
	ck_assert_mem_eq(before, after, trainer_layout(t)->size * sizeof *before);
	must(trainer_step(t, &step, &fault));
	ck_assert_double_eq_tol(step.loss, stats.loss, 1e-5);
	ck_assert_uint_eq(step.labelled, stats.tokens);
	free(before);
	free(after);
	trainer_close(t);
}
END_TEST

START_TEST(a_cancelled_step_leaves_everything_as_it_was)
{
	struct trainer_config c = make_config();
	struct trainer *t = open_trainer(&c);
	struct step_stats stats;
	struct eval_stats eval;
	run(t, 2);
	float *before = adapter_of(t);
	trainer_cancel(t);
	ck_assert_int_eq(trainer_step(t, &stats, &fault), SAKIORI_ECANCELLED);
	trainer_cancel(t);
	ck_assert_int_eq(trainer_evaluate(t, &eval, &fault), SAKIORI_ECANCELLED);
	float *after = adapter_of(t);
	ck_assert_mem_eq(before, after, trainer_layout(t)->size * sizeof *before);
	ck_assert_uint_eq(trainer_step_number(t), 2);
	/* One call cancels once; and the run then is the one it would have been. */
	run(t, 2);
	struct trainer *other = open_trainer(&c);
	run(other, 4);
	free(after);
	after = adapter_of(t);
	float *expected = adapter_of(other);
	ck_assert_mem_eq(after, expected, trainer_layout(t)->size * sizeof *after);
	free(before);
	free(after);
	free(expected);
	trainer_close(t);
	trainer_close(other);
}
END_TEST

START_TEST(vectors_go_in_and_out_unchanged_and_bad_ones_not_in)
{
	struct trainer_config c = make_config();
	struct trainer *t = open_trainer(&c);
	size_t n = trainer_layout(t)->size;
	float *x = malloc(n * sizeof *x), *m = malloc(n * sizeof *m), *v = malloc(n * sizeof *v);
	for (size_t i = 0; i < n; i++)
		x[i] = (float)i * 1e-6f;
	must(trainer_set_adapter(t, x, &fault));
	must(trainer_set_moments(t, x, x, &fault));
	must(trainer_get_moments(t, m, v, &fault));
	ck_assert_mem_eq(x, m, n * sizeof *x);
	ck_assert_mem_eq(x, v, n * sizeof *x);
	float *y = adapter_of(t);
	ck_assert_mem_eq(x, y, n * sizeof *x);
	x[n - 1] = INFINITY;
	ck_assert_int_eq(trainer_set_adapter(t, x, &fault), SAKIORI_EINVAL);
	ck_assert_int_eq(trainer_set_moments(t, x, y, &fault), SAKIORI_EINVAL);
	free(y);
	y = adapter_of(t);
	ck_assert_float_eq(y[n - 1], (float)(n - 1) * 1e-6f);
	free(x);
	free(y);
	free(m);
	free(v);
	trainer_close(t);
}
END_TEST

START_TEST(an_adapter_folder_is_read_back_exactly_and_evaluates_alike)
{
	struct trainer_config c = make_config();
	struct lora_settings settings;
	struct trainer *t = open_trainer(&c);
	struct eval_stats stats, again;
	run(t, 3);
	must(trainer_evaluate(t, &stats, &fault));
	must(trainer_save_peft(t, in_directory("adapter"), &fault));
	float *x = adapter_of(t);
	trainer_close(t);
	must(lora_peft_settings(in_directory("adapter"), &settings, &fault));
	ck_assert_uint_eq(settings.rank, 4);
	ck_assert_float_eq(settings.alpha, 4); /* the scale is in B */
	ck_assert_uint_eq(settings.targets, LORA_ALL);
	c.data = NULL;
	t = open_trainer(&c);
	must(trainer_load_peft(t, in_directory("adapter"), &fault));
	must(trainer_evaluate(t, &again, &fault));
	ck_assert_double_eq(stats.loss, again.loss);
	float *y = adapter_of(t);
	ck_assert_mem_eq(x, y, trainer_layout(t)->size * sizeof *x);
	struct step_stats step;
	ck_assert_int_eq(trainer_step(t, &step, &fault), SAKIORI_EINVAL);
	trainer_close(t);
	c.adapter.rank = 8;
	t = open_trainer(&c);
	ck_assert_int_eq(trainer_load_peft(t, in_directory("adapter"), &fault), SAKIORI_EMISMATCH);
	ck_assert_ptr_nonnull(strstr(fault.text, "--rank 4"));
	trainer_close(t);
	free(x);
	free(y);
}
END_TEST

START_TEST(long_rows_are_cut_and_counted_or_refused)
{
	struct trainer_config c = make_config();
	FILE *file = fopen(in_directory("train.jsonl"), "w");
	fprintf(file, "{\"text\": \"short\"}\n{\"text\": \"a text that is longer than sixteen tokens, since every "
		      "token is a few letters\"}\n");
	fclose(file);
	c.eval = NULL;
	c.max_seq = 16;
	struct trainer *t = open_trainer(&c);
	ck_assert_uint_eq(trainer_truncated_rows(t), 1);
	ck_assert_uint_eq(trainer_rows(t), 2);
	trainer_close(t);
	c.overlong = TRAINER_REFUSE;
	ck_assert_int_ne(trainer_open(&c, &t, &fault), 0);
	ck_assert_ptr_null(t);
	ck_assert_ptr_nonnull(strstr(fault.text, "train.jsonl:2"));
}
END_TEST

START_TEST(senseless_settings_and_missing_files_are_refused)
{
	struct trainer *t;
	struct trainer_config c = make_config();
	c.model = "/nowhere/model.gguf";
	ck_assert_int_eq(trainer_open(&c, &t, &fault), SAKIORI_ENOTFOUND);
	ck_assert_ptr_nonnull(strstr(fault.text, "/nowhere/model.gguf"));
	c = make_config();
	c.data = "/nowhere/rows.jsonl";
	ck_assert_int_eq(trainer_open(&c, &t, &fault), SAKIORI_ENOTFOUND);
	c = make_config();
	c.max_seq = 100000;
	c.micro_tokens = 0;
	ck_assert_int_eq(trainer_open(&c, &t, &fault), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(fault.text, "2048"));
	c = make_config();
	c.micro_tokens = 10;
	ck_assert_int_eq(trainer_open(&c, &t, &fault), SAKIORI_EINVAL);
	c = make_config();
	c.batch_rows = 0;
	ck_assert_int_eq(trainer_open(&c, &t, &fault), SAKIORI_EINVAL);
	c = make_config();
	c.lr = NAN;
	ck_assert_int_eq(trainer_open(&c, &t, &fault), SAKIORI_EINVAL);
	c = make_config();
	c.device = "cuda:99";
	ck_assert_int_ne(trainer_open(&c, &t, &fault), 0);
	c.device = "abacus";
	ck_assert_int_ne(trainer_open(&c, &t, &fault), 0);
}
END_TEST

START_TEST(a_run_without_a_length_is_one_pass_over_the_rows)
{
	struct trainer_config c = make_config();
	c.total_steps = 0;
	struct trainer *t = open_trainer(&c);
	ck_assert_uint_eq(trainer_config(t)->total_steps, 6);
	trainer_close(t);
}
END_TEST

START_TEST(random_rows_need_no_file_and_are_learned_whole)
{
	struct trainer_config c = make_config();
	struct step_stats stats;
	c.eval = NULL;
	c.random_rows = c.batch_rows;
	ck_assert_int_eq(trainer_open(&c, &(struct trainer *){NULL}, &fault), SAKIORI_EINVAL);
	c.data = NULL;
	c.total_steps = 30;
	c.lr = 0.02;
	struct trainer *t = open_trainer(&c);
	must(trainer_step(t, &stats, &fault));
	ck_assert_uint_eq(stats.tokens, 4 * 64);
	ck_assert_uint_eq(stats.labelled, 4 * 63);
	ck_assert_double_lt(run(t, 20), stats.loss);
	struct device_memory memory;
	struct trainer_bytes bytes;
	trainer_device_memory(t, &memory);
	trainer_bytes(t, &bytes);
	ck_assert_uint_eq(bytes.weights + bytes.adapter + bytes.activations, trainer_memory_bytes(t));
	ck_assert_uint_ge(memory.peak, trainer_memory_bytes(t));
	ck_assert_int_eq(trainer_device_check(t, NULL), 0);
	trainer_close(t);
}
END_TEST

START_TEST(a_generator_repeats_itself_under_a_seed)
{
	struct generator_config c = {.model = model_path(),
		.base_dtype = TRAINER_F32,
		.threads = 2,
		.device = "cpu",
		.temperature = 1,
		.seed = 5};
	int32_t prompt[] = {300, 301, 302}, ids[3][20];
	for (int i = 0; i < 3; i++) {
		struct generator *g;
		c.seed = i < 2 ? 5 : 6;
		must(generator_open(&c, &g, &fault));
		must(generator_start(g, prompt, 3, 20, &fault));
		for (int n = 0; n < 20; n++)
			must(generator_next(g, &ids[i][n], &fault));
		ck_assert_int_eq(generator_start(g, prompt, 3, 1 << 20, &fault), SAKIORI_ELIMIT);
		generator_close(g);
	}
	ck_assert_mem_eq(ids[0], ids[1], sizeof ids[0]);
	ck_assert_mem_ne(ids[0], ids[2], sizeof ids[0]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("trainer");
	TCase *tests = tcase_create("trainer");
	tcase_set_timeout(tests, 300);
	tcase_add_checked_fixture(tests, make_directory, remove_directory);
	tcase_add_test(tests, ten_steps_are_five_and_five_resumed_bit_for_bit);
	tcase_add_test(tests, a_checkpoint_of_other_settings_or_rows_is_refused_and_changes_nothing);
	tcase_add_test(tests, the_same_seed_gives_the_same_bits_and_another_does_not);
	tcase_add_test(tests, micro_batches_set_memory_and_not_the_result);
	tcase_add_test(tests, evaluation_takes_no_more_memory_than_training);
	tcase_add_test(tests, training_lowers_the_loss_until_the_rows_are_known);
	tcase_add_test(tests, evaluation_changes_nothing_and_its_first_loss_is_the_step_s);
	tcase_add_test(tests, a_cancelled_step_leaves_everything_as_it_was);
	tcase_add_test(tests, vectors_go_in_and_out_unchanged_and_bad_ones_not_in);
	tcase_add_test(tests, an_adapter_folder_is_read_back_exactly_and_evaluates_alike);
	tcase_add_test(tests, long_rows_are_cut_and_counted_or_refused);
	tcase_add_test(tests, senseless_settings_and_missing_files_are_refused);
	tcase_add_test(tests, a_run_without_a_length_is_one_pass_over_the_rows);
	tcase_add_test(tests, random_rows_need_no_file_and_are_learned_whole);
	tcase_add_test(tests, a_generator_repeats_itself_under_a_seed);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
