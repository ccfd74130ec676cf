/* SPDX-License-Identifier: Apache-2.0 */
/* Runs with rsLoRA, patterns, dropout, LoRA+ and WSD, interrupted and not; their adapters in and out; texts between steps. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/trainer_run.h"
#include "train/generator.h"
#include "train/lora_peft.h"
#include "train/resume.h"

/* Everything that a run's numbers may depend on. */
static struct trainer_config make_full_config(void)
{
	struct trainer_config c = make_config();
	c.adapter.rslora = true;
	c.adapter.rank_pattern[LORA_Q] = 8;
	c.adapter.rank_pattern[LORA_DOWN] = 2;
	c.adapter.alpha_pattern[LORA_V] = 3;
	c.dropout = 0.2;
	c.lora_plus = 4;
	c.schedule = SCHEDULE_WSD;
	c.decay = 0.5;
	c.warmup = 1;
	c.weight_decay = 0.01;
	return c;
}

START_TEST(six_steps_of_everything_are_three_and_three_resumed_bit_for_bit)
{
	struct trainer_config c = make_full_config();
	struct checkpoint_setting setting = {"patience", "2"}, state = {"best-loss", "1.25"};
	struct resume_run extra = {&setting, 1, &state, 1};
	struct trainer *whole = open_trainer(&c), *half = open_trainer(&c);
	run(whole, 6);
	run(half, 3);
	must(resume_save(half, in_directory("run.checkpoint"), &extra, &fault));
	trainer_close(half);
	c.memory = MEMORY_BLOCKS;
	half = open_trainer(&c);
	strcpy(state.value, "");
	must(resume_load(half, in_directory("run.checkpoint"), &extra, &fault));
	ck_assert_str_eq(state.value, "1.25");
	run(half, 3);
	float *x = adapter_of(whole), *y = adapter_of(half);
	ck_assert_mem_eq(x, y, trainer_layout(whole)->size * sizeof *x);
	free(x);
	free(y);
	trainer_close(whole);
	trainer_close(half);
	/* whatever of it is another is named */
	static const char *const names[] = {"rslora", "rank-pattern", "alpha-pattern", "dropout", "lora-plus",
		"schedule", "decay-share", "patience"};
	for (int i = 0; i < 8; i++) {
		c = make_full_config();
		c.adapter.rslora = i != 0;
		c.adapter.rank_pattern[LORA_Q] = i == 1 ? 2 : 8;
		c.adapter.rank_pattern[LORA_K] = i == 1 ? 20 : 0; /* as many parameters, or the size is named first */
		c.adapter.alpha_pattern[LORA_V] = i == 2 ? 4 : 3;
		c.dropout = i == 3 ? 0.1 : 0.2;
		c.lora_plus = i == 4 ? 1 : 4;
		c.schedule = i == 5 ? SCHEDULE_COSINE : SCHEDULE_WSD;
		c.decay = i == 6 ? 0.25 : 0.5;
		strcpy(setting.value, i == 7 ? "3" : "2");
		half = open_trainer(&c);
		int rc = resume_load(half, in_directory("run.checkpoint"), &extra, &fault);
		ck_assert_msg(rc == SAKIORI_EMISMATCH && (i == 1 || strstr(fault.text, names[i])), "%s: %d %s",
			names[i], rc, fault.text);
		trainer_close(half);
	}
}
END_TEST

/* Dropout goes by a token's place in the step. */
START_TEST(dropout_is_the_same_however_a_step_is_cut)
{
	struct trainer_config c = make_full_config();
	c.decay = 1;
	struct trainer *small = open_trainer(&c);
	c.micro_tokens = 1024;
	c.threads = 1;
	struct trainer *large = open_trainer(&c);
	ck_assert_double_eq_tol(run(small, 5), run(large, 5), 1e-4);
	float *x = adapter_of(small), *y = adapter_of(large);
	ck_assert_double_lt(distance(x, y, trainer_layout(small)->size), 1e-3);
	trainer_close(small);
	c.dropout = 0;
	small = open_trainer(&c);
	ck_assert_uint_lt(trainer_memory_bytes(small), trainer_memory_bytes(large));
	run(small, 5);
	free(x);
	x = adapter_of(small);
	ck_assert_double_gt(distance(x, y, trainer_layout(small)->size), 1e-2);
	free(x);
	free(y);
	trainer_close(small);
	trainer_close(large);
}
END_TEST

START_TEST(an_adapter_of_patterns_is_written_as_one_rank_and_read_back)
{
	struct trainer_config c = make_full_config();
	struct lora_settings settings;
	struct eval_stats stats, again;
	struct trainer *t = open_trainer(&c);
	run(t, 3);
	must(trainer_evaluate(t, &stats, &fault));
	must(trainer_save_peft(t, in_directory("adapter"), &fault));
	float *x = adapter_of(t);
	trainer_close(t);
	must(lora_peft_settings(in_directory("adapter"), &settings, &fault));
	ck_assert(settings.rank == 8 && settings.alpha == 8 && lora_uniform(&settings));
	/* in the layout of the file, and in the run's own */
	for (int own = 0; own < 2; own++) {
		struct trainer_config reading = make_config();
		reading.adapter = own ? make_full_config().adapter : settings;
		t = open_trainer(&reading);
		must(trainer_load_peft(t, in_directory("adapter"), &fault));
		must(trainer_evaluate(t, &again, &fault));
		ck_assert_double_eq_tol(again.loss, stats.loss, 1e-5);
		if (own) {
			float *y = adapter_of(t);
			ck_assert_double_lt(distance(y, x, trainer_layout(t)->size), 1e-6);
			free(y);
		}
		trainer_close(t);
	}
	/* but ranks that count for something are not cut off */
	c = make_config();
	c.adapter.rank_pattern[LORA_Q] = 4;
	t = open_trainer(&c);
	ck_assert_int_eq(trainer_load_peft(t, in_directory("adapter"), &fault), SAKIORI_EMISMATCH);
	ck_assert_ptr_nonnull(strstr(fault.text, "q_proj"));
	trainer_close(t);
	free(x);
}
END_TEST

START_TEST(a_trainer_writes_what_a_generator_would_and_goes_on_unchanged)
{
	enum { MORE = 12 };
	static const int32_t prompt[] = {5, 300, 7, 81};
	struct trainer_config c = make_config();
	int32_t out[MORE], next;
	size_t count;
	c.text_tokens = 4 + MORE;
	struct trainer *t = open_trainer(&c);
	run(t, 3);
	float *x = adapter_of(t);
	struct trainer_prompt p = {prompt, 4, MORE, -1};
	must(trainer_write_on(t, &p, out, &count, &fault));
	ck_assert_uint_eq(count, MORE);
	must(trainer_save_peft(t, in_directory("adapter"), &fault));
	struct generator_config g = {
		.model = c.model, .adapter = in_directory("adapter"), .base_dtype = TRAINER_F32, .device = "cpu"};
	struct generator *generator;
	must(generator_open(&g, &generator, &fault));
	must(generator_start(generator, prompt, 4, MORE, &fault));
	for (int i = 0; i < MORE; i++) {
		must(generator_next(generator, &next, &fault));
		ck_assert_int_eq(next, out[i]);
	}
	generator_close(generator);
	/* it ends at the end token, and is not longer than was planned for */
	p.end = out[3];
	size_t first = 0;
	while (out[first] != out[3])
		first++;
	must(trainer_write_on(t, &p, out, &count, &fault));
	ck_assert_uint_eq(count, first);
	p.more = MORE + 1;
	ck_assert_int_eq(trainer_write_on(t, &p, out, &count, &fault), SAKIORI_ELIMIT);
	float *y = adapter_of(t);
	ck_assert_mem_eq(x, y, trainer_layout(t)->size * sizeof *x);
	free(x);
	free(y);
	trainer_close(t);
}
END_TEST

START_TEST(settings_out_of_range_are_refused)
{
	struct trainer *t;
	for (int i = 0; i < 8; i++) {
		struct trainer_config c = make_config();
		c.dropout = i == 0 ? 1 : i == 1 ? -0.1 : i == 2 ? 0.999999 : 0;
		c.lora_plus = i == 3 ? 0 : i == 4 ? 1e6 : 1;
		c.decay = i == 5 ? 0 : i == 6 ? 1.5 : 0.2;
		c.adapter.rank_pattern[LORA_Q] = i == 7 ? 5000 : 0;
		ck_assert_int_eq(trainer_open(&c, &t, &fault), SAKIORI_EINVAL);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("trainer features");
	TCase *tests = tcase_create("trainer features");
	tcase_set_timeout(tests, 120);
	tcase_add_checked_fixture(tests, make_directory, remove_directory);
	tcase_add_test(tests, six_steps_of_everything_are_three_and_three_resumed_bit_for_bit);
	tcase_add_test(tests, dropout_is_the_same_however_a_step_is_cut);
	tcase_add_test(tests, an_adapter_of_patterns_is_written_as_one_rank_and_read_back);
	tcase_add_test(tests, a_trainer_writes_what_a_generator_would_and_goes_on_unchanged);
	tcase_add_test(tests, settings_out_of_range_are_refused);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
