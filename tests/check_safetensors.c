/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/safetensors.h"

static char path[] = "/tmp/check_safetensors.XXXXXX";

static int open_bytes(const void *data, size_t size, struct safetensors **s, struct fault *f)
{
	int fd = memfd_create("built", MFD_CLOEXEC);
	ck_assert(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	return safetensors_open_fd(fd, "built", s, f);
}

/* A file of this header and `data` bytes after it. */
static int open_header(const char *header, size_t data, struct safetensors **s, struct fault *f)
{
	struct writer w;
	writer_init(&w);
	write_u64(&w, strlen(header));
	write_bytes(&w, header, strlen(header));
	memset(write_space(&w, data), 0, data);
	int rc = open_bytes(w.data, w.size, s, f);
	writer_fini(&w);
	return rc;
}

static void refused(const char *header, size_t data, int code, const char *sentence)
{
	struct safetensors *s;
	struct fault f = {0};
	int rc = open_header(header, data, &s, &f);
	ck_assert_msg(rc == code && strstr(f.text, sentence) != NULL, "expected %d \"%s\", got %d \"%s\"", code,
		sentence, rc, f.text);
	ck_assert_ptr_null(s);
}

START_TEST(a_valid_file_gives_its_tensors_and_notes)
{
	struct safetensors *s;
	struct fault f = {0};
	ck_assert_msg(open_header("{\"__metadata__\":{\"round\":\"7\"},"
				  "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
				  "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[24,32]},"
				  "\"empty\":{\"dtype\":\"U8\",\"shape\":[0,5],\"data_offsets\":[32,32]},"
				  "\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[32,34]}}  ",
			      34, &s, &f) == 0,
		"%s", f.text);
	ck_assert_uint_eq(safetensors_count(s), 4);
	ck_assert_str_eq(safetensors_at(s, 0)->name, "b");
	const struct safetensors_tensor *t = safetensors_find(s, "b");
	ck_assert(t->type == SAFETENSORS_F32 && t->dimensions == 2 && t->shape[0] == 2 && t->shape[1] == 3 &&
		  t->bytes == 24);
	ck_assert(safetensors_find(s, "scalar")->dimensions == 0 && safetensors_find(s, "empty")->bytes == 0);
	ck_assert_ptr_null(safetensors_find(s, "c"));
	ck_assert_str_eq(safetensors_note(s, "round"), "7");
	ck_assert_ptr_null(safetensors_note(s, "nothing"));
	float v[6];
	ck_assert_int_eq(safetensors_read(s, t, 0, 24, v, &f), 0);
	ck_assert_int_eq(safetensors_read(s, t, 20, 8, v, &f), SAKIORI_EINVAL);
	safetensors_close(s);
}
END_TEST

START_TEST(headers_that_lie_about_their_length_are_refused)
{
	struct safetensors *s;
	struct fault f = {0};
	ck_assert_int_eq(open_bytes("abc", 3, &s, &f), SAKIORI_EFORMAT);
	ck_assert_int_eq(open_bytes("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, &s, &f), SAKIORI_EFORMAT);
	ck_assert_ptr_nonnull(strstr(f.text, "promises a header of 18446744073709551615 bytes and has 2"));
	ck_assert_int_eq(open_bytes("\x03\0\0\0\0\0\0\0{}", 10, &s, &f), SAKIORI_EFORMAT);
	size_t big = (16u << 20) + 1;
	uint8_t *data = calloc(1, big + 8);
	memcpy(data, (uint64_t[]){big}, 8);
	ck_assert_int_eq(open_bytes(data, big + 8, &s, &f), SAKIORI_ELIMIT);
	ck_assert_ptr_nonnull(strstr(f.text, "at most 16 MiB"));
	free(data);
}
END_TEST

START_TEST(a_header_that_is_no_object_or_no_json_is_refused)
{
	refused("[1]", 0, SAKIORI_EFORMAT, "the header is an array, expected an object");
	refused("{\"a\":", 0, SAKIORI_EFORMAT, "header:1:");
	refused("{} x", 0, SAKIORI_EFORMAT, "header:1:");
	refused("{\"a\":7}", 0, SAKIORI_EFORMAT, "tensor a: an integer, expected an object");
	refused("{\"__metadata__\":{\"a\":7}}", 0, SAKIORI_EFORMAT, "\"a\" is an integer, expected a string");
	refused("{\"__metadata__\":\"x\"}", 0, SAKIORI_EFORMAT, "__metadata__ is a string");
}
END_TEST

START_TEST(a_tensor_that_stands_there_twice_is_refused)
{
	refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
		"\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
		2, SAKIORI_EFORMAT, "duplicate object key near '\"a\"'");
}
END_TEST

START_TEST(holes_overlaps_and_trailing_bytes_are_refused)
{
	refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
		"\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[6,10]}}",
		10, SAKIORI_EFORMAT, "2 bytes before tensor b belong to no tensor");
	refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
		"\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
		7, SAKIORI_EFORMAT, "tensors a and b overlap");
	refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 5, SAKIORI_EFORMAT,
		"1 bytes after the last tensor belong to no tensor");
	refused("{}", 1, SAKIORI_EFORMAT, "1 bytes after the last tensor");
}
END_TEST

START_TEST(offsets_and_shapes_that_disagree_or_overflow_are_refused)
{
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, SAKIORI_EFORMAT,
		"data_offsets hold 4 bytes, but dtype and shape need 8");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
		SAKIORI_EFORMAT, "tensor a: the product of its dimensions does not fit 64 bits");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, SAKIORI_EFORMAT,
		"data_offsets end at 8, but there are 7 bytes");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, SAKIORI_EFORMAT,
		"two whole numbers in order");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, SAKIORI_EFORMAT,
		"two whole numbers in order");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, SAKIORI_EFORMAT,
		"dimension 0 is not a whole number");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, SAKIORI_EFORMAT,
		"dimension 0 is not a whole number");
	refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, SAKIORI_EFORMAT,
		"9 dimensions, expected at most 8");
	refused("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, SAKIORI_EFORMAT,
		"\"dtype\" is missing, expected a string");
}
END_TEST

START_TEST(other_dtypes_and_names_that_could_upset_a_terminal_are_refused)
{
	refused("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, SAKIORI_EUNSUPPORTED,
		"tensor a: dtype F8_E4M3 is not supported");
	refused("{\"a\\u001b[2J\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, SAKIORI_EFORMAT,
		"a tensor name holds the control character 0x1b");
}
END_TEST

static const float wide[4] = {1, 2, 3, 4};
static const uint16_t narrow[3] = {5, 6, 7};
static const uint8_t bytes[1] = {8};

static void give_tensors(struct safetensors_tensor out[static 3])
{
	out[0] = (struct safetensors_tensor){
		.name = "a.bytes", .type = SAFETENSORS_U8, .dimensions = 1, .shape = {1}, .data = bytes};
	out[1] = (struct safetensors_tensor){
		.name = "z.wide", .type = SAFETENSORS_F32, .dimensions = 2, .shape = {2, 2}, .data = wide};
	out[2] = (struct safetensors_tensor){
		.name = "m.narrow", .type = SAFETENSORS_F16, .dimensions = 1, .shape = {3}, .data = narrow};
}

START_TEST(what_is_written_is_read_back_sorted_and_aligned)
{
	struct safetensors_tensor tensors[3];
	give_tensors(tensors);
	const struct safetensors_note notes[] = {{"round", "12"}, {"quote", "\"x\""}};
	struct fault f = {0};
	ck_assert_msg(safetensors_write(path, 0600, tensors, 3, notes, 2, &f) == 0, "%s", f.text);
	struct safetensors *s;
	ck_assert_msg(safetensors_open(path, &s, &f) == 0, "%s", f.text);
	const char *const order[] = {"z.wide", "m.narrow", "a.bytes"};
	for (size_t i = 0; i < 3; i++) {
		const struct safetensors_tensor *t = safetensors_at(s, i);
		ck_assert_str_eq(t->name, order[i]);
		ck_assert_str_eq(tensors[i].name, order[i]);
		ck_assert_uint_eq(t->offset, tensors[i].offset);
		ck_assert_uint_eq(t->offset % safetensors_type_size(t->type), 0);
		uint8_t data[16];
		ck_assert_int_eq(safetensors_read(s, t, 0, (size_t)t->bytes, data, &f), 0);
		ck_assert_mem_eq(data, tensors[i].data, t->bytes);
	}
	ck_assert_uint_eq(safetensors_at(s, 0)->offset % 8, 0);
	ck_assert_str_eq(safetensors_note(s, "quote"), "\"x\"");
	ck_assert_str_eq(safetensors_note(s, "format"), "pt");
	ck_assert_uint_eq(safetensors_note_count(s), 3);
	safetensors_close(s);
}
END_TEST

START_TEST(a_file_begun_with_too_little_data_never_takes_the_old_ones_place)
{
	struct fault f = {0};
	ck_assert_int_eq(file_replace(path, "old", 3, 0600, &f), 0);
	struct safetensors_tensor tensors[3];
	give_tensors(tensors);
	struct safetensors_writer *w;
	ck_assert_int_eq(safetensors_writer_begin(&w, path, 0600, tensors, 3, NULL, 0, &f), 0);
	ck_assert_int_eq(safetensors_writer_append(w, wide, sizeof wide, &f), 0);
	ck_assert_int_eq(safetensors_writer_commit(w, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "16 bytes of data were given, the header promises 23"));
	ck_assert_int_eq(safetensors_writer_begin(&w, path, 0600, tensors, 3, NULL, 0, &f), 0);
	uint8_t many[24] = {0};
	ck_assert_int_eq(safetensors_writer_append(w, many, sizeof many, &f), SAKIORI_EINVAL);
	safetensors_writer_abort(w);
	uint8_t *data;
	size_t size;
	ck_assert_int_eq(file_read(path, 100, &data, &size, &f), 0);
	ck_assert_str_eq((char *)data, "old");
	free(data);
}
END_TEST

START_TEST(two_tensors_of_one_name_are_not_written)
{
	struct safetensors_tensor tensors[3];
	give_tensors(tensors);
	tensors[0].name = "z.wide";
	struct fault f = {0};
	ck_assert_int_eq(safetensors_write(path, 0600, tensors, 3, NULL, 0, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "z.wide is given twice"));
	give_tensors(tensors);
	tensors[0].shape[0] = UINT64_MAX;
	ck_assert_int_eq(safetensors_write(path, 0600, tensors, 3, NULL, 0, &f), SAKIORI_EINVAL);
}
END_TEST

START_TEST(a_file_shortened_while_in_use_is_named)
{
	struct safetensors_tensor tensors[3];
	give_tensors(tensors);
	struct fault f = {0};
	ck_assert_int_eq(safetensors_write(path, 0600, tensors, 3, NULL, 0, &f), 0);
	struct safetensors *s;
	ck_assert_int_eq(safetensors_open(path, &s, &f), 0);
	ck_assert_int_eq(truncate(path, (off_t)safetensors_at(s, 2)->offset), 0);
	uint8_t v;
	ck_assert_int_eq(safetensors_read(s, safetensors_at(s, 2), 0, 1, &v, &f), SAKIORI_ECORRUPT);
	safetensors_close(s);
}
END_TEST

int main(void)
{
	close(mkstemp(path));
	Suite *s = suite_create("safetensors");
	TCase *t = tcase_create("safetensors");
	tcase_add_test(t, a_valid_file_gives_its_tensors_and_notes);
	tcase_add_test(t, headers_that_lie_about_their_length_are_refused);
	tcase_add_test(t, a_header_that_is_no_object_or_no_json_is_refused);
	tcase_add_test(t, a_tensor_that_stands_there_twice_is_refused);
	tcase_add_test(t, holes_overlaps_and_trailing_bytes_are_refused);
	tcase_add_test(t, offsets_and_shapes_that_disagree_or_overflow_are_refused);
	tcase_add_test(t, other_dtypes_and_names_that_could_upset_a_terminal_are_refused);
	tcase_add_test(t, what_is_written_is_read_back_sorted_and_aligned);
	tcase_add_test(t, a_file_begun_with_too_little_data_never_takes_the_old_ones_place);
	tcase_add_test(t, two_tensors_of_one_name_are_not_written);
	tcase_add_test(t, a_file_shortened_while_in_use_is_named);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	unlink(path);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
