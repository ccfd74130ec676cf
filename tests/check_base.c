/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/append.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/rng.h"

START_TEST(every_error_has_a_text_and_an_exit_code)
{
	ck_assert_str_eq(err_text(0), "ok");
	for (int code = -20; code < 0; code++)
		ck_assert_str_ne(err_text(code), "unknown error");
	ck_assert_int_eq(err_exit_code(SAKIORI_ECONFIG), 6);
	ck_assert_int_eq(err_exit_code(SAKIORI_EIO), 1);
}
END_TEST

START_TEST(a_wrapped_fault_reads_from_the_outside_in)
{
	struct fault f = {0};
	ck_assert_int_eq(fault_set(&f, SAKIORI_EFORMAT, "offset %d", 7), SAKIORI_EFORMAT);
	ck_assert_int_eq(fault_wrap(&f, "%s", "model.gguf"), SAKIORI_EFORMAT);
	ck_assert_str_eq(f.text, "model.gguf: offset 7");
}
END_TEST

START_TEST(reading_past_the_end_fails_and_stays_failed)
{
	const uint8_t data[] = {1, 2, 3, 4, 5};
	struct reader r;
	reader_init(&r, data, sizeof data);
	ck_assert_uint_eq(read_u32(&r), 0x04030201);
	ck_assert_uint_eq(read_u16(&r), 0);
	ck_assert(r.failed);
	ck_assert_uint_eq(read_u8(&r), 0);
	ck_assert_ptr_null(read_span(&r, SIZE_MAX));
}
END_TEST

START_TEST(what_is_written_is_read_back)
{
	struct writer w;
	writer_init(&w);
	write_u8(&w, 7);
	write_u16(&w, 65535);
	write_u64(&w, 0x0123456789abcdefULL);
	write_f32(&w, -1.5f);
	struct reader r;
	reader_init(&r, w.data, w.size);
	ck_assert_uint_eq(read_u8(&r), 7);
	ck_assert_uint_eq(read_u16(&r), 65535);
	ck_assert_uint_eq(read_u64(&r), 0x0123456789abcdefULL);
	ck_assert(read_f32(&r) == -1.5f);
	ck_assert(!r.failed && reader_left(&r) == 0);
	writer_fini(&w);
}
END_TEST

START_TEST(products_that_overflow_are_refused)
{
	size_t out = 1;
	ck_assert(!size_mul(SIZE_MAX / 2, 3, &out));
	ck_assert(!size_add(SIZE_MAX, 1, &out));
	ck_assert_uint_eq(out, 1);
	ck_assert(size_mul(6, 7, &out) && out == 42);
}
END_TEST

START_TEST(every_half_float_survives_a_round_trip)
{
	for (uint32_t h = 0; h < 65536; h++) {
		float f = f16_to_f32((uint16_t)h);
		if (isnan(f))
			ck_assert(isnan(f16_to_f32(f32_to_f16(f))));
		else
			ck_assert_uint_eq(f32_to_f16(f), h);
		float b = bf16_to_f32((uint16_t)h);
		if (!isnan(b))
			ck_assert_uint_eq(f32_to_bf16(b), h);
	}
	ck_assert_uint_eq(f32_to_f16(65520.0f), 0x7c00); /* ties up to infinity */
	ck_assert_uint_eq(f32_to_f16(65519.0f), 0x7bff);
}
END_TEST

START_TEST(philox_gives_the_published_vector)
{
	/* Random123 kat_vectors: philox4x32-10, all-zero and all-ones input */
	uint32_t out[4];
	rng_block(0, 0, 0, out);
	ck_assert_uint_eq(out[0], 0x6627e8d5);
	ck_assert_uint_eq(out[3], 0x9b00dbd8);
	rng_block(UINT64_MAX, UINT64_MAX, UINT64_MAX, out);
	ck_assert_uint_eq(out[0], 0x408f276d);
	ck_assert_uint_eq(out[3], 0x6d5451fd);
}
END_TEST

START_TEST(normals_have_mean_zero_and_variance_one)
{
	struct rng r;
	rng_init(&r, 1, 2);
	double sum = 0, square = 0;
	enum { N = 100000 };
	for (int i = 0; i < N; i++) {
		double v = (double)rng_normal(&r);
		sum += v;
		square += v * v;
	}
	ck_assert(fabs(sum / N) < 0.02);
	ck_assert(fabs(square / N - 1) < 0.03);
}
END_TEST

START_TEST(hashes_are_those_of_the_reference)
{
	uint8_t out[HASH_SIZE];
	char hex[HASH_HEX_SIZE];
	hash_bytes(NULL, "abc", 3, out); /* python: hashlib.blake2b(b"abc", digest_size=32) */
	hex_encode(out, sizeof out, hex);
	ck_assert_str_eq(hex, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
	uint8_t back[HASH_SIZE];
	ck_assert_int_eq(hex_decode(hex, back, sizeof back), 0);
	ck_assert_mem_eq(back, out, sizeof out);
	hex[3] = 'g';
	ck_assert_int_eq(hex_decode(hex, back, sizeof back), SAKIORI_EFORMAT);
	uint8_t other[HASH_SIZE];
	hash_bytes("purpose", "abc", 3, other);
	ck_assert_mem_ne(other, out, sizeof out);
}
END_TEST

START_TEST(a_replaced_file_is_whole_and_a_directory_is_refused)
{
	char dir[] = "/tmp/check_base.XXXXXX";
	ck_assert_ptr_nonnull(mkdtemp(dir));
	char path[64], deep[96];
	snprintf(path, sizeof path, "%s/file", dir);
	snprintf(deep, sizeof deep, "%s/a/b/c", dir);
	struct fault f = {0};
	ck_assert_int_eq(file_replace(path, "one", 3, 0600, &f), 0);
	ck_assert_int_eq(file_replace(path, "three", 5, 0600, &f), 0);
	uint8_t *data;
	size_t size;
	ck_assert_int_eq(file_read(path, 100, &data, &size, &f), 0);
	ck_assert_uint_eq(size, 5);
	ck_assert_str_eq((char *)data, "three");
	free(data);
	ck_assert_int_eq(file_read(path, 4, &data, &size, &f), SAKIORI_ELIMIT);
	ck_assert_int_eq(file_read(dir, 100, &data, &size, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(file_read("/nonexistent", 100, &data, &size, &f), SAKIORI_ENOTFOUND);
	ck_assert_int_eq(file_make_directories(deep, 0700, &f), 0);
	ck_assert_int_eq(access(deep, R_OK), 0);
	ck_assert_int_eq(file_replace("/nonexistent/x", "", 0, 0600, &f), SAKIORI_ENOTFOUND);
	for (; strcmp(deep, dir) != 0; *strrchr(deep, '/') = '\0')
		ck_assert_int_eq(rmdir(deep), 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(rmdir(dir), 0); /* no temporary file was left in it either */
}
END_TEST

static char caught[256];
static void catch_line(void *self, enum log_level level, const char *line)
{
	(void)self;
	(void)level;
	snprintf(caught, sizeof caught, "%s", line);
}

START_TEST(a_log_line_cannot_be_split_by_its_values)
{
	log_set_sink(catch_line, NULL);
	log_info("peer_connected", "peer=%s", "evil\nforged line");
	log_set_sink(NULL, NULL);
	ck_assert_str_eq(caught, "peer_connected peer=evil forged line");
}
END_TEST

START_TEST(available_memory_shrinks_with_what_is_taken_and_fits_the_machine)
{
	size_t taken = (size_t)192 << 20;
	size_t machine = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
	bool shrank = false;
	/* Others on the machine may give back more than we take, but not every time. */
	for (int turn = 0; turn < 20 && !shrank; turn++) {
		size_t before = available_memory();
		ck_assert_uint_gt(before, 0);
		ck_assert_uint_le(before, machine);
		char *p = must_alloc(taken);
		memset(p, 1, taken);
		shrank = available_memory() < before;
		free(p);
	}
	ck_assert(shrank);
}
END_TEST

START_TEST(crc32c_gives_the_published_values)
{
	uint8_t bytes[32];
	ck_assert_uint_eq(crc32c("", 0), 0);
	ck_assert_uint_eq(crc32c("123456789", 9), 0xe3069283);
	/* RFC 3720, B.4 */
	memset(bytes, 0, 32);
	ck_assert_uint_eq(crc32c(bytes, 32), 0x8a9136aa);
	memset(bytes, 0xff, 32);
	ck_assert_uint_eq(crc32c(bytes, 32), 0x62a8ab43);
}
END_TEST

START_TEST(an_appended_file_is_cut_back_to_its_mark)
{
	char folder[] = "/tmp/sakiori-append-XXXXXX", path[64], mark[APPEND_MARK];
	struct append_file a = {0};
	struct fault f = {0};
	uint8_t *data;
	size_t size;
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/log", folder);
	append_close(&a);
	ck_assert_int_eq(append_open(&a, path, 0600, &f), 0);
	ck_assert_int_eq(append_write(&a, "first\n", 6, &f), 0);
	ck_assert_int_eq(append_mark(&a, mark, &f), 0);
	ck_assert_int_eq(append_write(&a, "second\nthi", 10, &f), 0);
	append_close(&a);
	append_close(&a);
	/* a new run does not write into it */
	ck_assert_int_eq(append_open(&a, path, 0600, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, path));
	ck_assert_int_eq(append_reopen(&a, path, 0600, mark, &f), 0);
	ck_assert_int_eq(append_write(&a, "2nd\n", 4, &f), 0);
	append_close(&a);
	ck_assert_int_eq(file_read(path, 100, &data, &size, &f), 0);
	ck_assert_str_eq((char *)data, "first\n2nd\n");
	free(data);
	/* nor is another file cut, or one that is shorter; it stays as it is */
	static const char *const others[] = {"First\n2nd\n", "first", "anything else"};
	for (size_t i = 0; i < 3; i++) {
		ck_assert_int_eq(file_replace(path, others[i], strlen(others[i]), 0600, &f), 0);
		ck_assert_int_eq(append_reopen(&a, path, 0600, mark, &f), SAKIORI_EMISMATCH);
		ck_assert_int_eq(file_read(path, 100, &data, &size, &f), 0);
		ck_assert_str_eq((char *)data, others[i]);
		free(data);
	}
	ck_assert_int_eq(append_reopen(&a, path, 0600, "nonsense", &f), SAKIORI_ECORRUPT);
	/* what is gone begins anew; so does a file that the run had none of */
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(append_reopen(&a, path, 0600, mark, &f), 0);
	append_close(&a);
	ck_assert_int_eq(append_reopen(&a, path, 0600, "", &f), 0);
	append_close(&a);
	/* a device has no end to come back to */
	ck_assert_int_eq(append_open(&a, "/dev/null", 0600, &f), 0);
	ck_assert_int_eq(append_mark(&a, mark, &f), 0);
	ck_assert_str_eq(mark, "");
	append_close(&a);
	ck_assert_int_eq(append_open(&a, "/nowhere/log", 0600, &f), SAKIORI_ENOTFOUND);
	unlink(path);
	rmdir(folder);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("base");
	TCase *t = tcase_create("base");
	tcase_add_test(t, every_error_has_a_text_and_an_exit_code);
	tcase_add_test(t, a_wrapped_fault_reads_from_the_outside_in);
	tcase_add_test(t, reading_past_the_end_fails_and_stays_failed);
	tcase_add_test(t, what_is_written_is_read_back);
	tcase_add_test(t, products_that_overflow_are_refused);
	tcase_add_test(t, every_half_float_survives_a_round_trip);
	tcase_add_test(t, philox_gives_the_published_vector);
	tcase_add_test(t, normals_have_mean_zero_and_variance_one);
	tcase_add_test(t, hashes_are_those_of_the_reference);
	tcase_add_test(t, crc32c_gives_the_published_values);
	tcase_add_test(t, an_appended_file_is_cut_back_to_its_mark);
	tcase_add_test(t, a_replaced_file_is_whole_and_a_directory_is_refused);
	tcase_add_test(t, available_memory_shrinks_with_what_is_taken_and_fits_the_machine);
	tcase_add_test(t, a_log_line_cannot_be_split_by_its_values);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
