/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "formats/gguf.h"
#include "tests/lib/gguf_build.h"

static struct writer w;

static void setup(void)
{
	writer_init(&w);
}

static void teardown(void)
{
	writer_fini(&w);
}

/* Opens what w holds. */
static int open_built(struct gguf **g, struct fault *f)
{
	return gguf_open_fd(build_file(w.data, w.size), "built.gguf", g, f);
}

static void refused(int code, const char *sentence)
{
	struct gguf *g;
	struct fault f = {0};
	int rc = open_built(&g, &f);
	ck_assert_msg(rc == code && strstr(f.text, sentence) != NULL, "expected %d \"%s\", got %d \"%s\"", code,
		sentence, rc, f.text);
	ck_assert(strncmp(f.text, "built.gguf: ", 12) == 0);
	ck_assert_ptr_null(g);
}

static void opens(void)
{
	struct gguf *g;
	struct fault f = {0};
	ck_assert_msg(open_built(&g, &f) == 0, "%s", f.text);
	gguf_close(g);
}

/* Two F32 tensors of (2, 4) and a valid file around them. */
static void build_valid(uint32_t version)
{
	build_header(&w, version, 2, 2);
	build_key_text(&w, "general.architecture", "llama");
	build_key_u32(&w, "general.alignment", 32);
	build_tensor(&w, "one", 2, 4, BUILD_TYPE_F32, 0);
	build_tensor(&w, "two", 2, 4, BUILD_TYPE_F32, 32);
	build_pad(&w, 32);
	for (int i = 0; i < 16; i++)
		write_f32(&w, (float)i);
}

/* A file of one tensor with these fields and `data` bytes of data. */
static void build_one(uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset, size_t data)
{
	build_header(&w, 3, 1, 0);
	build_tensor(&w, "blk.0.attn_q.weight", rows, cols, type, offset);
	build_pad(&w, 32);
	memset(write_space(&w, data), 0, data);
}

/* A file of two tensors of 32 bytes at these offsets. */
static void build_two(uint64_t first, uint64_t second, size_t data)
{
	build_header(&w, 3, 2, 0);
	build_tensor(&w, "one", 2, 4, BUILD_TYPE_F32, first);
	build_tensor(&w, "two", 2, 4, BUILD_TYPE_F32, second);
	build_pad(&w, 32);
	memset(write_space(&w, data), 0, data);
}

START_TEST(versions_two_and_three_open_and_give_their_tensors)
{
	for (uint32_t version = 2; version <= 3; version++) {
		w.size = 0;
		build_valid(version);
		struct gguf *g;
		struct fault f = {0};
		ck_assert_int_eq(open_built(&g, &f), 0);
		ck_assert_uint_eq(gguf_tensor_count(g), 2);
		const struct gguf_tensor *t = gguf_tensor_find(g, "two");
		ck_assert_ptr_eq(t, gguf_tensor_at(g, 1));
		ck_assert_uint_eq(t->shape[0], 4);
		ck_assert_uint_eq(t->shape[1], 2);
		ck_assert_uint_eq(t->bytes, 32);
		float v[8];
		ck_assert_int_eq(gguf_read(g, t, 0, sizeof v, v, &f), 0);
		ck_assert(v[0] == 8 && v[7] == 15);
		ck_assert_int_eq(gguf_read(g, t, 4, 32, v, &f), SAKIORI_EINVAL);
		ck_assert_int_eq(gguf_read(g, t, UINT64_MAX, 1, v, &f), SAKIORI_EINVAL);
		ck_assert_ptr_null(gguf_tensor_find(g, "three"));
		gguf_close(g);
	}
}
END_TEST

START_TEST(getters_give_what_stands_there_and_name_what_does_not)
{
	build_header(&w, 3, 0, 9);
	build_key_u32(&w, "a.u32", 4000000000u);
	build_key(&w, "a.negative", BUILD_I32);
	write_u32(&w, (uint32_t)-7);
	build_key(&w, "a.u64", BUILD_U64);
	write_u64(&w, 1ull << 40);
	build_key_f32(&w, "a.f32", 1.5f);
	build_key(&w, "a.bool", BUILD_BOOL);
	write_u8(&w, 1);
	build_key_text(&w, "a.text", "indigo");
	build_key(&w, "a.texts", BUILD_ARRAY);
	write_u32(&w, BUILD_TEXT);
	write_u64(&w, 2);
	build_text(&w, "warp");
	build_text(&w, "");
	build_key(&w, "a.f32s", BUILD_ARRAY);
	write_u32(&w, BUILD_F32);
	write_u64(&w, 1);
	write_f32(&w, -2.5f);
	build_key(&w, "a.i32s", BUILD_ARRAY);
	write_u32(&w, BUILD_I32);
	write_u64(&w, 2);
	write_u32(&w, (uint32_t)INT32_MIN);
	write_u32(&w, 3);

	struct gguf *g;
	struct fault f = {0};
	ck_assert_msg(open_built(&g, &f) == 0, "%s", f.text);
	uint32_t u32;
	uint64_t u64;
	float f32, *f32s;
	bool yes;
	struct gguf_text text, *texts;
	int32_t *i32s;
	size_t n;
	ck_assert(gguf_get_u32(g, "a.u32", &u32, &f) == 0 && u32 == 4000000000u);
	ck_assert(gguf_get_u64(g, "a.u64", &u64, &f) == 0 && u64 == 1ull << 40);
	ck_assert(gguf_get_f32(g, "a.f32", &f32, &f) == 0 && f32 == 1.5f);
	ck_assert(gguf_get_bool(g, "a.bool", &yes, &f) == 0 && yes);
	ck_assert(gguf_get_text(g, "a.text", &text, &f) == 0 && text.size == 6 && memcmp(text.data, "indigo", 6) == 0);
	ck_assert(gguf_get_texts(g, "a.texts", &texts, &n, &f) == 0 && n == 2 && texts[0].size == 4 &&
		  texts[1].size == 0);
	free(texts);
	ck_assert(gguf_get_f32s(g, "a.f32s", &f32s, &n, &f) == 0 && n == 1 && f32s[0] == -2.5f);
	free(f32s);
	ck_assert(gguf_get_i32s(g, "a.i32s", &i32s, &n, &f) == 0 && n == 2 && i32s[0] == INT32_MIN && i32s[1] == 3);
	free(i32s);

	ck_assert_int_eq(gguf_get_u32(g, "a.u64", &u32, &f), SAKIORI_EFORMAT);
	ck_assert_int_eq(gguf_get_u32(g, "a.negative", &u32, &f), SAKIORI_EFORMAT);
	ck_assert_ptr_nonnull(strstr(f.text, "a.negative is -7"));
	ck_assert_int_eq(gguf_get_u32(g, "a.text", &u32, &f), SAKIORI_EFORMAT);
	ck_assert_str_eq(f.text, "metadata key a.text is string, expected an integer");
	ck_assert_int_eq(gguf_get_texts(g, "a.i32s", &texts, &n, &f), SAKIORI_EFORMAT);
	ck_assert_ptr_null(texts);
	ck_assert_int_eq(gguf_get_i32s(g, "a.texts", &i32s, &n, &f), SAKIORI_EFORMAT);
	ck_assert_int_eq(gguf_get_f32s(g, "a.f32", &f32s, &n, &f), SAKIORI_EFORMAT);
	ck_assert_int_eq(gguf_get_text(g, "a.missing", &text, &f), SAKIORI_ENOTFOUND);
	ck_assert_str_eq(f.text, "metadata key a.missing is missing");
	gguf_close(g);
}
END_TEST

START_TEST(every_decoded_value_is_that_of_the_gguf_package)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/tests/golden/dequantize.gguf", getenv("SRCDIR"));
	struct gguf *g;
	struct fault f = {0};
	ck_assert_msg(gguf_open(path, &g, &f) == 0, "%s", f.text);
	for (int type = 0; type < STORED_TYPES; type++) {
		char name[64];
		snprintf(name, sizeof name, "stored.%s", stored_type_name((enum stored_type)type));
		const struct gguf_tensor *stored = gguf_tensor_find(g, name);
		snprintf(name, sizeof name, "expected.%s", stored_type_name((enum stored_type)type));
		const struct gguf_tensor *expected = gguf_tensor_find(g, name);
		ck_assert(stored != NULL && expected != NULL && (int)stored->type == type);
		enum { VALUES = 3 * 256 };
		uint8_t raw[4 * VALUES];
		float want[VALUES], got[VALUES];
		ck_assert_int_eq(gguf_read(g, stored, 0, (size_t)stored->bytes, raw, &f), 0);
		ck_assert_int_eq(gguf_read(g, expected, 0, sizeof want, want, &f), 0);
		stored_type_decode((enum stored_type)type, raw, VALUES, got);
		for (int i = 0; i < VALUES; i++)
			ck_assert_msg(got[i] == want[i], "%s value %d: %g, expected %g", name, i, (double)got[i],
				(double)want[i]);
	}
	gguf_close(g);
}
END_TEST

START_TEST(every_encoded_value_is_that_of_the_gguf_package)
{
	enum { VALUES = 3 * 256 };
	static const enum stored_type kinds[] = {STORED_F32, STORED_F16, STORED_BF16, STORED_Q8_0};
	char path[4096];
	snprintf(path, sizeof path, "%s/tests/golden/dequantize.gguf", getenv("SRCDIR"));
	struct gguf *g;
	struct fault f = {0};
	float values[VALUES];
	ck_assert_msg(gguf_open(path, &g, &f) == 0, "%s", f.text);
	ck_assert_int_eq(gguf_read(g, gguf_tensor_find(g, "plain"), 0, sizeof values, values, &f), 0);
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		char name[64];
		uint8_t want[4 * VALUES], got[4 * VALUES];
		snprintf(name, sizeof name, "quantized.%s", stored_type_name(kinds[k]));
		const struct gguf_tensor *t = gguf_tensor_find(g, name);
		ck_assert_uint_eq(t->bytes, stored_type_bytes(kinds[k], VALUES));
		ck_assert_int_eq(gguf_read(g, t, 0, (size_t)t->bytes, want, &f), 0);
		ck_assert(stored_type_encode(kinds[k], values, VALUES, got));
		ck_assert_msg(memcmp(got, want, (size_t)t->bytes) == 0, "%s differs", name);
	}
	gguf_close(g);
}
END_TEST

START_TEST(what_a_type_cannot_hold_is_not_encoded)
{
	uint8_t out[4 * 32];
	float values[32] = {[7] = 65519.0f};
	ck_assert(stored_type_encode(STORED_F16, values, 32, out));
	values[7] = -65520.0f;
	ck_assert(!stored_type_encode(STORED_F16, values, 32, out));
	ck_assert(stored_type_encode(STORED_BF16, values, 32, out) && stored_type_encode(STORED_Q8_0, values, 32, out));
	values[7] = 9e6f;
	ck_assert(!stored_type_encode(STORED_Q8_0, values, 32, out));
	values[7] = 3.4e38f;
	ck_assert(!stored_type_encode(STORED_BF16, values, 32, out) && stored_type_encode(STORED_F32, values, 32, out));
	values[7] = -INFINITY;
	ck_assert(!stored_type_encode(STORED_F32, values, 32, out));
	values[7] = NAN;
	ck_assert(!stored_type_encode(STORED_F32, values, 32, out));
	values[7] = 1e-44f; /* its inverse scale is infinite */
	ck_assert(stored_type_encode(STORED_Q8_0, values, 32, out));
	for (int i = 0; i < 34; i++)
		ck_assert_uint_eq(out[i], 0);
}
END_TEST

START_TEST(every_truncation_of_a_valid_file_is_refused)
{
	build_valid(3);
	opens();
	size_t whole = w.size;
	for (size_t n = 0; n < whole; n++) {
		struct gguf *g;
		struct fault f = {0};
		ck_assert_int_ne(gguf_open_fd(build_file(w.data, n), "cut.gguf", &g, &f), 0);
		ck_assert_str_ne(f.text, "");
	}
}
END_TEST

START_TEST(something_else_than_gguf_is_refused)
{
	write_bytes(&w, "GGJT and then some more bytes", 29);
	refused(SAKIORI_EFORMAT, "does not begin with the letters GGUF");
}
END_TEST

START_TEST(other_versions_and_byte_orders_are_refused_by_name)
{
	const struct {
		uint32_t version;
		const char *sentence;
	} cases[] = {{1, "GGUF version 1"}, {4, "GGUF version 4"}, {0x03000000, "big-endian"}};
	for (size_t i = 0; i < 3; i++) {
		w.size = 0;
		build_valid(cases[i].version);
		refused(SAKIORI_EUNSUPPORTED, cases[i].sentence);
	}
}
END_TEST

START_TEST(counts_beyond_the_file_or_the_limit_are_refused)
{
	build_header(&w, 3, 1ull << 60, 0);
	refused(SAKIORI_EFORMAT, "promises 1152921504606846976 tensors");
	w.size = 0;
	build_header(&w, 3, 0, UINT64_MAX);
	refused(SAKIORI_EFORMAT, "promises 18446744073709551615 metadata keys");
	w.size = 0;
	build_header(&w, 3, 2, 0);
	refused(SAKIORI_EFORMAT, "its size can hold");
}
END_TEST

START_TEST(strings_longer_than_the_file_are_refused)
{
	build_header(&w, 3, 0, 1);
	build_key(&w, "general.name", BUILD_TEXT);
	write_u64(&w, UINT64_MAX - 7);
	refused(SAKIORI_EFORMAT, "a metadata string needs 18446744073709551608 bytes");
	w.size = 0;
	build_header(&w, 3, 0, 1);
	write_u64(&w, 1ull << 62);
	write_u64(&w, 0);
	refused(SAKIORI_EFORMAT, "a metadata key at byte 24 has 4611686018427387904 bytes");
}
END_TEST

START_TEST(arrays_longer_than_the_file_are_refused)
{
	const uint32_t elements[] = {BUILD_U8, BUILD_F64, BUILD_TEXT};
	for (int i = 0; i < 3; i++) {
		w.size = 0;
		build_header(&w, 3, 0, 1);
		build_key(&w, "tokens", BUILD_ARRAY);
		write_u32(&w, elements[i]);
		write_u64(&w, UINT64_MAX / 4);
		refused(SAKIORI_EFORMAT, "key tokens: an array of 4611686018427387903 elements cannot fit");
	}
	w.size = 0;
	build_header(&w, 3, 0, 1);
	build_key(&w, "tokens", BUILD_ARRAY);
	write_u32(&w, BUILD_TEXT);
	write_u64(&w, 2);
	build_text(&w, "one that is there");
	refused(SAKIORI_EFORMAT, "a string of an array needs 8 bytes");
}
END_TEST

START_TEST(arrays_of_arrays_and_unknown_types_are_refused)
{
	build_header(&w, 3, 0, 1);
	build_key(&w, "deep", BUILD_ARRAY);
	write_u32(&w, BUILD_ARRAY);
	write_u64(&w, 0);
	refused(SAKIORI_EUNSUPPORTED, "key deep: arrays of arrays");
	w.size = 0;
	build_header(&w, 3, 0, 1);
	build_key(&w, "strange", 13);
	write_u64(&w, 0);
	refused(SAKIORI_EFORMAT, "key strange: unknown type 13");
	w.size = 0;
	build_header(&w, 3, 0, 1);
	build_key(&w, "strange", BUILD_ARRAY);
	write_u32(&w, 99);
	write_u64(&w, 0);
	refused(SAKIORI_EFORMAT, "key strange: unknown array element type 99");
}
END_TEST

START_TEST(a_key_that_stands_there_twice_is_refused)
{
	build_header(&w, 3, 0, 3);
	build_key_u32(&w, "llama.block_count", 1);
	build_key_u32(&w, "llama.context_length", 1);
	build_key_u32(&w, "llama.block_count", 2);
	refused(SAKIORI_EFORMAT, "key llama.block_count stands there twice");
}
END_TEST

START_TEST(a_tensor_that_stands_there_twice_is_refused)
{
	build_header(&w, 3, 2, 0);
	build_tensor(&w, "one", 2, 4, BUILD_TYPE_F32, 0);
	build_tensor(&w, "one", 2, 4, BUILD_TYPE_F32, 32);
	build_pad(&w, 32);
	memset(write_space(&w, 64), 0, 64);
	refused(SAKIORI_EFORMAT, "tensor one stands there twice");
}
END_TEST

START_TEST(names_that_could_upset_a_terminal_are_refused)
{
	build_header(&w, 3, 0, 1);
	build_key_u32(&w, "evil\033[2J", 1);
	refused(SAKIORI_EFORMAT, "holds the byte 0x1b");
	w.size = 0;
	build_header(&w, 3, 1, 0);
	build_tensor(&w, "bad\nname", 0, 8, BUILD_TYPE_F32, 0);
	refused(SAKIORI_EFORMAT, "a tensor name at byte 32 holds the byte 0x0a");
	w.size = 0;
	build_header(&w, 3, 1, 0);
	build_tensor(&w, "a.name.of.sixty.four.letters.is.one.more.than.ggml.ever.accepts..", 0, 8, BUILD_TYPE_F32, 0);
	refused(SAKIORI_EFORMAT, "expected 1 to 63");
	w.size = 0;
	build_header(&w, 3, 1, 0);
	build_tensor(&w, "", 2, 8, BUILD_TYPE_F32, 0);
	refused(SAKIORI_EFORMAT, "a tensor name at byte 24 has 0 bytes");
}
END_TEST

START_TEST(an_alignment_that_is_no_power_of_two_is_refused)
{
	const uint32_t wrong[] = {0, 1, 24, 33, 1u << 31};
	for (int i = 0; i < 5; i++) {
		w.size = 0;
		build_header(&w, 3, 0, 1);
		build_key_u32(&w, "general.alignment", wrong[i]);
		refused(SAKIORI_EFORMAT, "expected a power of two");
	}
	w.size = 0;
	build_header(&w, 3, 0, 1);
	build_key_text(&w, "general.alignment", "32");
	refused(SAKIORI_EFORMAT, "general.alignment is string");
}
END_TEST

START_TEST(dimension_counts_other_than_one_to_four_are_refused)
{
	const uint32_t wrong[] = {0, 5, UINT32_MAX};
	for (int i = 0; i < 3; i++) {
		w.size = 0;
		build_header(&w, 3, 1, 0);
		build_text(&w, "flat");
		write_u32(&w, wrong[i]);
		for (int k = 0; k < 8; k++)
			write_u64(&w, 1);
		refused(SAKIORI_EFORMAT, "expected 1 to 4");
	}
}
END_TEST

START_TEST(dimensions_of_zero_are_refused)
{
	build_one(3, 0, BUILD_TYPE_F32, 0, 64);
	refused(SAKIORI_EFORMAT, "dimension 0 is 0");
}
END_TEST

START_TEST(products_of_dimensions_that_overflow_are_refused)
{
	build_one(1ull << 33, 1ull << 33, BUILD_TYPE_F32, 0, 64);
	refused(SAKIORI_EFORMAT, "the product of its dimensions does not fit 64 bits");
	w.size = 0;
	build_one(1ull << 31, 1ull << 31, BUILD_TYPE_F32, 0, 64); /* 2^62 values of 4 bytes are 0 bytes mod 2^64 */
	refused(SAKIORI_EFORMAT, "its size does not fit 64 bits");
}
END_TEST

START_TEST(rows_that_are_no_whole_blocks_are_refused)
{
	build_one(2, 48, BUILD_TYPE_Q8_0, 0, 128);
	refused(SAKIORI_EFORMAT, "rows of 48 values are not whole Q8_0 blocks of 32");
}
END_TEST

START_TEST(other_tensor_types_are_refused_by_their_name)
{
	const struct {
		uint32_t type;
		const char *sentence;
	} cases[] = {{10, "tensor blk.0.attn_q.weight is stored as Q2_K"}, {15, "stored as Q8_K"},
		{39, "stored as MXFP4"}, {28, "stored as F64"}, {200, "type number 200"},
		{UINT32_MAX, "type number 4294967295"}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		w.size = 0;
		build_one(2, 32, cases[i].type, 0, 512);
		refused(SAKIORI_EUNSUPPORTED, cases[i].sentence);
	}
}
END_TEST

START_TEST(offsets_outside_the_file_are_refused)
{
	build_two(0, 1 << 20, 64);
	refused(SAKIORI_EFORMAT, "tensor two takes 32 bytes at offset 1048576 of 64");
	w.size = 0;
	build_two(0, UINT64_MAX - 31, 64);
	refused(SAKIORI_EFORMAT, "at offset 18446744073709551584 of 64");
	w.size = 0;
	build_two(0, 32, 63);
	refused(SAKIORI_EFORMAT, "tensor two takes 32 bytes at offset 32 of 63");
}
END_TEST

START_TEST(offsets_off_the_alignment_are_refused)
{
	build_two(0, 36, 96);
	refused(SAKIORI_EFORMAT, "tensor two begins at offset 36, not a multiple of the alignment 32");
}
END_TEST

START_TEST(tensors_that_overlap_are_refused)
{
	build_two(0, 0, 64);
	refused(SAKIORI_EFORMAT, "overlap at offset 0");
}
END_TEST

START_TEST(bytes_that_belong_to_no_tensor_are_refused)
{
	build_two(0, 64, 96);
	refused(SAKIORI_EFORMAT, "32 bytes before tensor two belong to no tensor");
	w.size = 0;
	build_two(32, 64, 96);
	refused(SAKIORI_EFORMAT, "32 bytes before tensor one belong to no tensor");
	w.size = 0;
	build_two(0, 32, 65);
	refused(SAKIORI_EFORMAT, "1 bytes after the last tensor belong to no tensor");
}
END_TEST

START_TEST(alignment_padding_is_no_hole)
{
	build_header(&w, 3, 2, 0);
	build_tensor(&w, "one", 0, 3, BUILD_TYPE_F32, 0);
	build_tensor(&w, "two", 0, 3, BUILD_TYPE_F32, 32);
	build_pad(&w, 32);
	memset(write_space(&w, 64), 0, 64);
	opens();
	w.size -= 20; /* padding after the last tensor may be left out */
	opens();
}
END_TEST

START_TEST(a_file_shortened_while_in_use_is_named_and_kills_nobody)
{
	char path[] = "/tmp/check_gguf.XXXXXX";
	int fd = mkstemp(path);
	build_valid(3);
	ck_assert(write(fd, w.data, w.size) == (ssize_t)w.size);
	struct gguf *g;
	struct fault f = {0};
	ck_assert_int_eq(gguf_open(path, &g, &f), 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)w.size - 16), 0);
	float v[8];
	ck_assert_int_eq(gguf_read(g, gguf_tensor_find(g, "one"), 0, sizeof v, v, &f), 0);
	ck_assert_int_eq(gguf_read(g, gguf_tensor_find(g, "two"), 0, sizeof v, v, &f), SAKIORI_ECORRUPT);
	ck_assert_ptr_nonnull(strstr(f.text, "tensor two: the file ended at byte"));
	gguf_close(g);
	close(fd);
	unlink(path);
}
END_TEST

START_TEST(folders_pipes_and_missing_files_are_refused_without_waiting)
{
	char dir[] = "/tmp/check_gguf.XXXXXX", pipe_path[64];
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(pipe_path, sizeof pipe_path, "%s/pipe", dir);
	ck_assert_int_eq(mkfifo(pipe_path, 0600), 0);
	struct gguf *g;
	struct fault f = {0};
	ck_assert_int_eq(gguf_open(dir, &g, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(gguf_open(pipe_path, &g, &f), SAKIORI_EINVAL);
	ck_assert_ptr_nonnull(strstr(f.text, "not a regular file"));
	ck_assert_int_eq(gguf_open("/nonexistent.gguf", &g, &f), SAKIORI_ENOTFOUND);
	unlink(pipe_path);
	rmdir(dir);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gguf");
	TCase *t = tcase_create("gguf");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, versions_two_and_three_open_and_give_their_tensors);
	tcase_add_test(t, getters_give_what_stands_there_and_name_what_does_not);
	tcase_add_test(t, every_decoded_value_is_that_of_the_gguf_package);
	tcase_add_test(t, every_encoded_value_is_that_of_the_gguf_package);
	tcase_add_test(t, what_a_type_cannot_hold_is_not_encoded);
	tcase_add_test(t, every_truncation_of_a_valid_file_is_refused);
	tcase_add_test(t, something_else_than_gguf_is_refused);
	tcase_add_test(t, other_versions_and_byte_orders_are_refused_by_name);
	tcase_add_test(t, counts_beyond_the_file_or_the_limit_are_refused);
	tcase_add_test(t, strings_longer_than_the_file_are_refused);
	tcase_add_test(t, arrays_longer_than_the_file_are_refused);
	tcase_add_test(t, arrays_of_arrays_and_unknown_types_are_refused);
	tcase_add_test(t, a_key_that_stands_there_twice_is_refused);
	tcase_add_test(t, a_tensor_that_stands_there_twice_is_refused);
	tcase_add_test(t, names_that_could_upset_a_terminal_are_refused);
	tcase_add_test(t, an_alignment_that_is_no_power_of_two_is_refused);
	tcase_add_test(t, dimension_counts_other_than_one_to_four_are_refused);
	tcase_add_test(t, dimensions_of_zero_are_refused);
	tcase_add_test(t, products_of_dimensions_that_overflow_are_refused);
	tcase_add_test(t, rows_that_are_no_whole_blocks_are_refused);
	tcase_add_test(t, other_tensor_types_are_refused_by_their_name);
	tcase_add_test(t, offsets_outside_the_file_are_refused);
	tcase_add_test(t, offsets_off_the_alignment_are_refused);
	tcase_add_test(t, tensors_that_overlap_are_refused);
	tcase_add_test(t, bytes_that_belong_to_no_tensor_are_refused);
	tcase_add_test(t, alignment_padding_is_no_hole);
	tcase_add_test(t, a_file_shortened_while_in_use_is_named_and_kills_nobody);
	tcase_add_test(t, folders_pipes_and_missing_files_are_refused_without_waiting);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
