/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/peft.h"

static char home[] = "/tmp/check_peft.XXXXXX";
static char folder[64];

enum { RANK = 2, IN = 4, OUT = 6 };
static float a_values[2][RANK * IN], b_values[2][OUT * RANK];

/* Two pairs whose values all are `value`. */
static struct peft_adapter adapter(float value, struct peft_matrix m[static 2])
{
	for (int i = 0; i < 2; i++) {
		for (int k = 0; k < RANK * IN; k++)
			a_values[i][k] = value;
		for (int k = 0; k < OUT * RANK; k++)
			b_values[i][k] = value;
	}
	m[0] = (struct peft_matrix){.layer = 1,
		.target = PEFT_DOWN,
		.rank = RANK,
		.in = IN,
		.out = OUT,
		.a = a_values[0],
		.b = b_values[0]};
	m[1] = (struct peft_matrix){
		.layer = 0, .target = PEFT_Q, .rank = RANK, .in = IN, .out = OUT, .a = a_values[1], .b = b_values[1]};
	return (struct peft_adapter){.matrices = m, .count = 2, .alpha = 4, .base_model = "someone/base"};
}

static void write_value(float value)
{
	struct peft_matrix m[2];
	struct peft_adapter a = adapter(value, m);
	struct fault f = {0};
	ck_assert_msg(peft_write(folder, &a, &f) == 0, "%s", f.text);
}

/* The value that every factor of the folder has; fails when they differ. */
static float read_value(void)
{
	struct peft_adapter *a;
	struct fault f = {0};
	ck_assert_msg(peft_read(folder, &a, &f) == 0, "%s", f.text);
	ck_assert_uint_eq(a->count, 2);
	float value = a->matrices[0].a[0];
	for (size_t i = 0; i < a->count; i++) {
		for (int k = 0; k < RANK * IN; k++)
			ck_assert(a->matrices[i].a[k] == value);
		for (int k = 0; k < OUT * RANK; k++)
			ck_assert(a->matrices[i].b[k] == value);
	}
	peft_free(a);
	return value;
}

static int count_entries(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;
	for (const struct dirent *e; (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void inside(const char *name, char out[static 128])
{
	snprintf(out, 128, "%s/%s", folder, name);
}

static void put(const char *name, const char *text)
{
	char path[128];
	inside(name, path);
	struct fault f = {0};
	ck_assert_msg(file_replace(path, text, strlen(text), 0600, &f) == 0, "%s", f.text);
}

static void refused(int code, const char *sentence)
{
	struct peft_adapter *a;
	struct fault f = {0};
	int rc = peft_read(folder, &a, &f);
	ck_assert_msg(rc == code && strstr(f.text, sentence) != NULL, "expected %d \"%s\", got %d \"%s\"", code,
		sentence, rc, f.text);
	ck_assert_ptr_null(a);
}

static void setup(void)
{
	strcpy(home + strlen(home) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(home));
	snprintf(folder, sizeof folder, "%s/adapter", home);
}

static void teardown(void)
{
	char command[128];
	snprintf(command, sizeof command, "rm -rf '%s'", home);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(an_adapter_comes_back_as_it_was_written)
{
	struct peft_matrix m[2];
	struct peft_adapter a = adapter(0.5f, m);
	for (int k = 0; k < RANK * IN; k++)
		a_values[0][k] = (float)k;
	for (int k = 0; k < OUT * RANK; k++)
		b_values[0][k] = (float)-k;
	const struct safetensors_note notes[] = {{"base_fingerprint", "00ff"}};
	a.notes = notes;
	a.note_count = 1;
	a.rslora = true;
	struct fault f = {0};
	ck_assert_msg(peft_write(folder, &a, &f) == 0, "%s", f.text);
	struct peft_adapter *b;
	ck_assert_msg(peft_read(folder, &b, &f) == 0, "%s", f.text);
	ck_assert_uint_eq(b->count, 2);
	ck_assert(b->matrices[0].layer == 0 && b->matrices[0].target == PEFT_Q); /* sorted */
	const struct peft_matrix *down = &b->matrices[1];
	ck_assert(down->layer == 1 && down->target == PEFT_DOWN && down->rank == RANK && down->in == IN &&
		  down->out == OUT);
	ck_assert_mem_eq(down->a, a_values[0], sizeof a_values[0]);
	ck_assert_mem_eq(down->b, b_values[0], sizeof b_values[0]);
	ck_assert(b->alpha == 4 && b->rslora && fabs(peft_scale(b) - 4 / sqrt(2)) < 1e-12);
	ck_assert_str_eq(b->base_model, "someone/base");
	ck_assert_uint_eq(b->note_count, 1); /* "format" is the container's own */
	peft_free(b);
	a.rslora = false;
	ck_assert(peft_scale(&a) == 2);
}
END_TEST

/* A folder as PEFT writes it: q of rank 2 and alpha 3, down of rank 1 and alpha 4, rsLoRA. */
START_TEST(patterns_come_out_as_one_rank_and_one_scale)
{
	static const float qa[] = {1, 2, 3, 4, 5, 6}, qb[] = {1, 2, 3, 4}, da[] = {7, 8, 9}, db[] = {5, 6};
	struct safetensors_tensor t[] = {
		{.name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", .shape = {2, 3}, .data = qa},
		{.name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", .shape = {2, 2}, .data = qb},
		{.name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", .shape = {1, 3}, .data = da},
		{.name = "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight", .shape = {2, 1}, .data = db},
	};
	char path[128];
	struct fault f = {0};
	for (int i = 0; i < 4; i++) {
		t[i].type = SAFETENSORS_F32;
		t[i].dimensions = 2;
	}
	ck_assert_int_eq(mkdir(folder, 0700), 0);
	inside("adapter_model.safetensors", path);
	ck_assert_msg(safetensors_write(path, 0600, t, 4, NULL, 0, &f) == 0, "%s", f.text);
	put("adapter_config.json", "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":4,\"use_rslora\":true,"
				   "\"rank_pattern\":{\"layers\\\\.0.self_attn.q_proj\":2,\"^q_proj\":9},"
				   "\"alpha_pattern\":{\"j.q_proj\":9,\"q_proj\":3}}");
	struct peft_adapter *a;
	ck_assert_msg(peft_read(folder, &a, &f) == 0, "%s", f.text);
	ck_assert(peft_scale(a) == 1 && !a->rslora);
	const struct peft_matrix *q = &a->matrices[0], *down = &a->matrices[1];
	ck_assert(q->rank == 2 && down->rank == 2 && q->in == 3 && q->out == 2);
	static const float padded_a[] = {7, 8, 9, 0, 0, 0}, padded_b[] = {20, 0, 24, 0};
	ck_assert_mem_eq(q->a, qa, sizeof qa);
	ck_assert_mem_eq(down->a, padded_a, sizeof padded_a);
	ck_assert_mem_eq(down->b, padded_b, sizeof padded_b);
	for (int i = 0; i < 4; i++)
		ck_assert_float_eq_tol(q->b[i], qb[i] * 3 / sqrtf(2), 1e-6f);
	peft_free(a);
	/* patterns that come to the same for all leave B alone */
	put("adapter_config.json", "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":4,"
				   "\"rank_pattern\":{\"q_proj\":2},\"alpha_pattern\":{\"q_proj\":8}}");
	ck_assert_msg(peft_read(folder, &a, &f) == 0, "%s", f.text);
	ck_assert(peft_scale(a) == 4);
	ck_assert_mem_eq(a->matrices[0].b, qb, sizeof qb);
	peft_free(a);
	/* a rank beyond all proportion is not padded */
	put("adapter_config.json", "{\"peft_type\":\"LORA\",\"r\":65536,\"lora_alpha\":4}");
	refused(SAKIORI_EFORMAT, "for rank 65536");
}
END_TEST

START_TEST(the_tensors_have_the_names_and_shapes_of_peft)
{
	write_value(1);
	char path[128];
	inside("adapter_model.safetensors", path);
	struct safetensors *s;
	struct fault f = {0};
	ck_assert_int_eq(safetensors_open(path, &s, &f), 0);
	const struct safetensors_tensor *a =
		safetensors_find(s, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
	const struct safetensors_tensor *b =
		safetensors_find(s, "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
	ck_assert(a != NULL && a->type == SAFETENSORS_F32 && a->shape[0] == RANK && a->shape[1] == IN);
	ck_assert(b != NULL && b->shape[0] == OUT && b->shape[1] == RANK);
	ck_assert_str_eq(safetensors_note(s, "format"), "pt");
	safetensors_close(s);
}
END_TEST

START_TEST(a_new_adapter_takes_the_old_ones_place_and_leaves_nothing_behind)
{
	write_value(1);
	ck_assert_int_eq(chmod(folder, 0750), 0);
	write_value(2);
	ck_assert(read_value() == 2);
	ck_assert_int_eq(count_entries(home), 1);
	ck_assert_int_eq(count_entries(folder), 3);
	struct stat st;
	ck_assert_int_eq(stat(folder, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0750);
}
END_TEST

START_TEST(files_and_folders_of_others_survive_the_replacement)
{
	write_value(1);
	put("tokenizer.json", "theirs");
	char path[128];
	inside("runs", path);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	put("runs/log", "theirs too");
	write_value(2);
	ck_assert(read_value() == 2);
	ck_assert_int_eq(count_entries(folder), 5);
	inside("runs/log", path);
	ck_assert_int_eq(access(path, R_OK), 0);
	ck_assert_int_eq(count_entries(home), 1);
}
END_TEST

START_TEST(a_failed_write_leaves_the_old_adapter_alone)
{
	write_value(1);
	struct peft_matrix m[2];
	struct peft_adapter a = adapter(2, m);
	struct fault f = {0};
	m[1].rank = 3;
	ck_assert_int_eq(peft_write(folder, &a, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "layer 0 q_proj has rank 3"));
	a = adapter(2, m);
	m[1] = m[0];
	ck_assert_int_eq(peft_write(folder, &a, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "given twice"));
	a = adapter(2, m);
	a.base_model = "\xff";
	ck_assert_int_eq(peft_write(folder, &a, &f), SAKIORI_EINVAL);
	a.count = 0;
	ck_assert_int_eq(peft_write(folder, &a, &f), SAKIORI_EINVAL);
	ck_assert(read_value() == 1);
	ck_assert_int_eq(count_entries(home), 1);
}
END_TEST

START_TEST(something_that_is_no_adapter_is_never_replaced)
{
	struct peft_matrix m[2];
	struct peft_adapter a = adapter(1, m);
	struct fault f = {0};
	ck_assert_int_eq(file_replace(folder, "a file", 6, 0600, &f), 0);
	ck_assert_int_eq(peft_write(folder, &a, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(unlink(folder), 0);
	ck_assert_int_eq(mkdir(folder, 0700), 0);
	put("thesis.tex", "years of work");
	ck_assert_int_eq(peft_write(folder, &a, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "holds other files and no adapter_config.json"));
	ck_assert_int_eq(peft_prepare(folder, &f), SAKIORI_EINVAL);
	char path[128];
	inside("thesis.tex", path);
	ck_assert_int_eq(unlink(path), 0);
	write_value(3); /* an empty folder may be */
	ck_assert(read_value() == 3);
}
END_TEST

START_TEST(a_place_is_asked_for_beforehand_without_leaving_anything_there)
{
	char deep[96], above[64];
	snprintf(above, sizeof above, "%s/hours", home);
	snprintf(deep, sizeof deep, "%s/adapter/", above);
	struct fault f = {0};
	ck_assert_msg(peft_prepare(deep, &f) == 0, "%s", f.text);
	ck_assert_int_eq(rmdir(above), 0); /* it was made, and is empty */
	ck_assert_int_eq(file_replace(above, "a file", 6, 0600, &f), 0);
	ck_assert_int_ne(peft_prepare(deep, &f), 0);
	ck_assert_ptr_nonnull(strstr(f.text, "hours"));
	ck_assert_int_eq(peft_prepare(above, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(unlink(above), 0);
	write_value(3);
	ck_assert_msg(peft_prepare(folder, &f) == 0, "%s", f.text);
	ck_assert(read_value() == 3);
}
END_TEST

START_TEST(a_link_stays_a_link_and_missing_parents_are_made)
{
	char deep[80], link_path[80];
	snprintf(deep, sizeof deep, "%s/new/deep/adapter/", home);
	snprintf(link_path, sizeof link_path, "%s/latest", home);
	struct peft_matrix m[2];
	struct peft_adapter a = adapter(1, m);
	struct fault f = {0};
	ck_assert_msg(peft_write(deep, &a, &f) == 0, "%s", f.text);
	ck_assert_int_eq(symlink("new/deep/adapter", link_path), 0);
	a = adapter(7, m);
	ck_assert_msg(peft_write(link_path, &a, &f) == 0, "%s", f.text);
	struct stat st;
	ck_assert(lstat(link_path, &st) == 0 && S_ISLNK(st.st_mode));
	snprintf(folder, sizeof folder, "%s/new/deep/adapter", home);
	ck_assert(read_value() == 7);
}
END_TEST

START_TEST(a_writer_killed_at_any_moment_leaves_a_whole_adapter)
{
	write_value(1);
	for (int round = 0; round < 30; round++) {
		pid_t child = fork();
		ck_assert_int_ge(child, 0);
		if (child == 0) {
			for (int i = 0;; i++) {
				struct peft_matrix m[2];
				struct peft_adapter a = adapter((float)(i % 100), m);
				peft_write(folder, &a, NULL);
			}
		}
		nanosleep(&(struct timespec){.tv_nsec = 200000L * (round + 1) + 137000L * (round % 7)}, NULL);
		ck_assert_int_eq(kill(child, SIGKILL), 0);
		ck_assert_int_eq(waitpid(child, NULL, 0), child);
		read_value();
	}
}
END_TEST

START_TEST(features_that_would_be_applied_wrongly_are_refused_by_name)
{
	write_value(1);
	const struct {
		const char *config, *sentence;
		int code;
	} cases[] = {
		{"{\"peft_type\":\"LOHA\",\"r\":2,\"lora_alpha\":4}", "\"peft_type\" is not LORA",
			SAKIORI_EUNSUPPORTED},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"use_dora\":true}", "\"use_dora\" is set",
			SAKIORI_EUNSUPPORTED},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"rank_pattern\":{\"q_proj\":4}}", "for rank 4",
			SAKIORI_EFORMAT},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"rank_pattern\":{\".*q_proj\":4}}",
			"\"rank_pattern\": \".*q_proj\" is a regular expression", SAKIORI_EUNSUPPORTED},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"rank_pattern\":{\"q_proj\":2.5}}", "for rank 0",
			SAKIORI_EFORMAT},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"alpha_pattern\":{\"q_proj\":-4}}",
			"\"alpha_pattern\": \"q_proj\": expected a number above 0", SAKIORI_EFORMAT},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"alpha_pattern\":[4]}", "found an array",
			SAKIORI_EFORMAT},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"modules_to_save\":[\"lm_head\"]}",
			"\"modules_to_save\" is set", SAKIORI_EUNSUPPORTED},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"bias\":\"all\"}", "\"bias\" is not \"none\"",
			SAKIORI_EUNSUPPORTED},
		{"{\"peft_type\":\"LORA\",\"lora_alpha\":4}", "\"r\" is missing, expected an integer", SAKIORI_EFORMAT},
		{"{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":4}", "\"r\" is 0, expected 1 to", SAKIORI_EFORMAT},
		{"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":\"4\"}",
			"\"lora_alpha\" is a string, expected a number", SAKIORI_EFORMAT},
		{"{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":4}", "for rank 4", SAKIORI_EFORMAT},
		{"{\"peft_type\":", "adapter_config.json:1:", SAKIORI_EFORMAT},
		{"[]", "adapter_config.json: an array, expected an object", SAKIORI_EFORMAT},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		put("adapter_config.json", cases[i].config);
		refused(cases[i].code, cases[i].sentence);
	}
	put("adapter_config.json",
		"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4}"); /* the least that PEFT itself would load */
	ck_assert(read_value() == 1);
}
END_TEST

static void put_tensors(struct safetensors_tensor *tensors, size_t count)
{
	char path[128];
	inside("adapter_model.safetensors", path);
	struct fault f = {0};
	ck_assert_msg(safetensors_write(path, 0600, tensors, count, NULL, 0, &f) == 0, "%s", f.text);
}

START_TEST(tensors_that_do_not_pair_up_are_refused)
{
	write_value(1);
	static const float zeros[64];
	const struct safetensors_tensor a = {.name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
		.type = SAFETENSORS_F32,
		.dimensions = 2,
		.shape = {RANK, IN},
		.data = zeros};
	const struct safetensors_tensor b = {.name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
		.type = SAFETENSORS_F32,
		.dimensions = 2,
		.shape = {OUT, RANK},
		.data = zeros};
	struct safetensors_tensor both[3] = {a};
	put_tensors(both, 1);
	refused(SAKIORI_EFORMAT, "q_proj.lora_B.weight is missing");
	both[0] = b;
	put_tensors(both, 1);
	refused(SAKIORI_EFORMAT, "no LoRA factors");
	both[0] = a;
	both[1] = b;
	both[2] = b;
	both[2].name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
	put_tensors(both, 3);
	refused(SAKIORI_EFORMAT, "a lora_B without its lora_A");
	both[0] = a;
	both[1] = b;
	both[2] = b;
	both[2].name = "base_model.model.lm_head.lora_B.weight";
	put_tensors(both, 3);
	refused(SAKIORI_EUNSUPPORTED,
		"tensor base_model.model.lm_head.lora_B.weight is not a LoRA factor of a Llama block");
	both[0] = a;
	both[1] = b;
	both[1].shape[1] = RANK + 1;
	put_tensors(both, 2);
	refused(SAKIORI_EFORMAT, "its shape is not (out, rank) for rank 2");
	both[0] = a;
	both[1] = b;
	both[1].type = SAFETENSORS_I32;
	put_tensors(both, 2);
	refused(SAKIORI_EUNSUPPORTED, "stored as I32");
	put_tensors(both, 0);
	refused(SAKIORI_EFORMAT, "no LoRA factors");
}
END_TEST

START_TEST(half_floats_are_widened_and_infinities_refused)
{
	write_value(1);
	uint16_t halves[RANK * IN], brain[OUT * RANK];
	for (int i = 0; i < RANK * IN; i++)
		halves[i] = f32_to_f16((float)i / 8);
	for (int i = 0; i < OUT * RANK; i++)
		brain[i] = f32_to_bf16((float)-i);
	struct safetensors_tensor both[2] = {{.name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
						     .type = SAFETENSORS_F16,
						     .dimensions = 2,
						     .shape = {RANK, IN},
						     .data = halves},
		{.name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight",
			.type = SAFETENSORS_BF16,
			.dimensions = 2,
			.shape = {OUT, RANK},
			.data = brain}};
	put_tensors(both, 2);
	struct peft_adapter *a;
	struct fault f = {0};
	ck_assert_msg(peft_read(folder, &a, &f) == 0, "%s", f.text);
	for (int i = 0; i < RANK * IN; i++)
		ck_assert(a->matrices[0].a[i] == (float)i / 8);
	for (int i = 0; i < OUT * RANK; i++)
		ck_assert(a->matrices[0].b[i] == (float)-i);
	peft_free(a);
	halves[3] = 0x7c00;
	put_tensors(both, 2);
	refused(SAKIORI_EFORMAT, "not a finite number");
}
END_TEST

START_TEST(a_folder_without_an_adapter_is_named)
{
	refused(SAKIORI_ENOTFOUND, "adapter_config.json");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("peft");
	TCase *t = tcase_create("peft");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, an_adapter_comes_back_as_it_was_written);
	tcase_add_test(t, patterns_come_out_as_one_rank_and_one_scale);
	tcase_add_test(t, the_tensors_have_the_names_and_shapes_of_peft);
	tcase_add_test(t, a_new_adapter_takes_the_old_ones_place_and_leaves_nothing_behind);
	tcase_add_test(t, files_and_folders_of_others_survive_the_replacement);
	tcase_add_test(t, a_failed_write_leaves_the_old_adapter_alone);
	tcase_add_test(t, something_that_is_no_adapter_is_never_replaced);
	tcase_add_test(t, a_place_is_asked_for_beforehand_without_leaving_anything_there);
	tcase_add_test(t, a_link_stays_a_link_and_missing_parents_are_made);
	tcase_add_test(t, a_writer_killed_at_any_moment_leaves_a_whole_adapter);
	tcase_add_test(t, features_that_would_be_applied_wrongly_are_refused_by_name);
	tcase_add_test(t, tensors_that_do_not_pair_up_are_refused);
	tcase_add_test(t, half_floats_are_widened_and_infinities_refused);
	tcase_add_test(t, a_folder_without_an_adapter_is_named);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
