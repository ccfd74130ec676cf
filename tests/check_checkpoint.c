/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "train/checkpoint.h"

enum { SIZE = 100 };

static char directory[] = "/tmp/sakiori-checkpoint-XXXXXX";
static char path[64];
static const struct checkpoint_setting settings[] = {{"rank", "16"}, {"lr", "0.0002"}};

static void make_directory(void)
{
	strcpy(directory + strlen(directory) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/run.checkpoint", directory);
}

static void remove_directory(void)
{
	unlink(path);
	rmdir(directory);
}

static struct checkpoint make(float first_value)
{
	static float vectors[3][SIZE];
	for (int i = 0; i < 3 * SIZE; i++)
		vectors[i / SIZE][i % SIZE] = first_value + (float)i;
	return (struct checkpoint){
		.step = 77, .size = SIZE, .adapter = vectors[0], .first = vectors[1], .second = vectors[2]};
}

/* Turns one bit of the file around, in place. */
static void flip(size_t offset, uint8_t bit)
{
	FILE *file = fopen(path, "r+b");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fseek(file, (long)offset, SEEK_SET), 0);
	int byte = fgetc(file);
	ck_assert_int_eq(fseek(file, (long)offset, SEEK_SET), 0);
	fputc(byte ^ bit, file);
	ck_assert_int_eq(fclose(file), 0);
}

static size_t file_size(void)
{
	struct stat status;
	ck_assert_int_eq(stat(path, &status), 0);
	return (size_t)status.st_size;
}

static int read_back(struct checkpoint *c, struct fault *f)
{
	static float vectors[3][SIZE];
	memset(vectors, 0, sizeof vectors);
	*c = (struct checkpoint){.size = SIZE, .adapter = vectors[0], .first = vectors[1], .second = vectors[2]};
	return checkpoint_read(path, c, settings, 2, f);
}

START_TEST(what_is_written_is_read_back)
{
	struct checkpoint out = make(0.5f), in;
	ck_assert_int_eq(checkpoint_write(path, &out, settings, 2, NULL), 0);
	ck_assert_int_eq(read_back(&in, NULL), 0);
	ck_assert_uint_eq(in.step, 77);
	ck_assert_mem_eq(in.adapter, out.adapter, SIZE * sizeof(float));
	ck_assert_mem_eq(in.first, out.first, SIZE * sizeof(float));
	ck_assert_mem_eq(in.second, out.second, SIZE * sizeof(float));
}
END_TEST

START_TEST(a_second_write_replaces_the_first)
{
	struct checkpoint out = make(1), in;
	ck_assert_int_eq(checkpoint_write(path, &out, settings, 2, NULL), 0);
	out = make(2);
	out.step = 78;
	ck_assert_int_eq(checkpoint_write(path, &out, settings, 2, NULL), 0);
	ck_assert_int_eq(read_back(&in, NULL), 0);
	ck_assert_uint_eq(in.step, 78);
	ck_assert_float_eq(in.adapter[0], 2);
}
END_TEST

/* Every single byte: whatever is hit, header, notes or values, nothing wrong is ever taken for right. */
START_TEST(no_flipped_byte_goes_unnoticed)
{
	struct checkpoint out = make(1), in;
	ck_assert_int_eq(checkpoint_write(path, &out, settings, 2, NULL), 0);
	for (size_t i = 0; i < file_size(); i++) {
		struct fault f = {0};
		flip(i, 4);
		int rc = read_back(&in, &f);
		flip(i, 4);
		/* A blank or an escape within the header may change without meaning anything else. */
		if (rc == 0) {
			ck_assert_mem_eq(in.adapter, out.adapter, SIZE * sizeof(float));
			ck_assert_mem_eq(in.second, out.second, SIZE * sizeof(float));
			ck_assert_uint_eq(in.step, 77);
			continue;
		}
		ck_assert_msg(strstr(f.text, path) != NULL, "byte %zu: the file is not named: %s", i, f.text);
	}
	ck_assert_int_eq(read_back(&in, NULL), 0);
}
END_TEST

START_TEST(a_damaged_value_is_called_damage)
{
	struct checkpoint out = make(1), in;
	struct fault f = {0};
	ck_assert_int_eq(checkpoint_write(path, &out, settings, 2, NULL), 0);
	flip(file_size() - 1, 1);
	ck_assert_int_eq(read_back(&in, &f), SAKIORI_ECORRUPT);
	ck_assert_ptr_nonnull(strstr(f.text, "damaged"));
	ck_assert_int_eq(truncate(path, (off_t)file_size() - 40), 0);
	ck_assert_int_eq(read_back(&in, &f), SAKIORI_ECORRUPT);
}
END_TEST

START_TEST(another_setting_is_named)
{
	struct checkpoint out = make(1), in;
	struct fault f = {0};
	const struct checkpoint_setting others[] = {{"rank", "16"}, {"lr", "0.001"}};
	ck_assert_int_eq(checkpoint_write(path, &out, others, 2, NULL), 0);
	ck_assert_int_eq(read_back(&in, &f), SAKIORI_EMISMATCH);
	ck_assert_ptr_nonnull(strstr(f.text, "lr 0.001"));
	ck_assert_ptr_nonnull(strstr(f.text, "0.0002"));
}
END_TEST

START_TEST(another_size_or_no_file_is_refused)
{
	struct checkpoint out = make(1), in;
	struct fault f = {0};
	ck_assert_int_eq(read_back(&in, &f), SAKIORI_ENOTFOUND);
	out.size = SIZE / 2;
	ck_assert_int_eq(checkpoint_write(path, &out, settings, 2, NULL), 0);
	ck_assert_int_eq(read_back(&in, &f), SAKIORI_EMISMATCH);
	ck_assert_ptr_nonnull(strstr(f.text, "50 parameters"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("checkpoint");
	TCase *tests = tcase_create("checkpoint");
	tcase_add_checked_fixture(tests, make_directory, remove_directory);
	tcase_add_test(tests, what_is_written_is_read_back);
	tcase_add_test(tests, a_second_write_replaces_the_first);
	tcase_add_test(tests, no_flipped_byte_goes_unnoticed);
	tcase_add_test(tests, a_damaged_value_is_called_damage);
	tcase_add_test(tests, another_setting_is_named);
	tcase_add_test(tests, another_size_or_no_file_is_refused);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
