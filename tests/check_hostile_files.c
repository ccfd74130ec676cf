/* SPDX-License-Identifier: Apache-2.0 */
/* Model files that lie, each with the sentence that names file and fault, and with every allocation counted: none is above twice the file. */
#include <check.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/gguf.h"
#include "formats/model_file.h"
#include "formats/safetensors.h"
#include "tests/lib/counted_malloc.h"
#include "tests/lib/gguf_build.h"

/* ---- GGUF ---- */

static struct writer w;

static void setup(void)
{
	writer_init(&w);
	json_set_alloc_funcs(counted_malloc, counted_free);
}

static void teardown(void)
{
	writer_fini(&w);
}

static int open_gguf(struct gguf **g, struct fault *f)
{
	int fd = build_file(w.data, w.size);
	counted_reset();
	int rc = gguf_open_fd(fd, "built.gguf", g, f);
	size_t left = counted_live();
	ck_assert_msg(rc == 0 || left == 0, "%zu bytes are left of a refused file", left);
	counted_assert(w.size, 4);
	return rc;
}

static void gguf_refused(int code, const char *sentence)
{
	struct gguf *g;
	struct fault f = {0};
	int rc = open_gguf(&g, &f);
	ck_assert_msg(rc == code && strstr(f.text, sentence) != NULL, "expected %d \"%s\", got %d \"%s\"", code,
		sentence, rc, f.text);
	ck_assert(strncmp(f.text, "built.gguf: ", 12) == 0);
	ck_assert_ptr_null(g);
	w.size = 0;
}

/* Three letters that no other number below 94^3 has. */
static void write_name(uint32_t number)
{
	write_u64(&w, 3);
	for (int i = 0; i < 3; i++, number /= 94)
		write_u8(&w, (uint8_t)(0x21 + number % 94));
}

START_TEST(as_many_keys_and_tensors_as_a_file_can_hold_take_no_more_than_twice_its_size)
{
	struct gguf *g;
	struct fault f = {0};
	build_header(&w, 3, 0, 4096);
	for (uint32_t i = 0; i < 4096; i++) {
		write_name(i);
		write_u32(&w, BUILD_U8);
		write_u8(&w, 1);
	}
	ck_assert_msg(open_gguf(&g, &f) == 0, "%s", f.text);
	gguf_close(g);
	w.size = 0;
	build_header(&w, 3, 0, 4097);
	memset(write_space(&w, 1 << 20), 0, 1 << 20);
	gguf_refused(SAKIORI_EFORMAT, "the header promises 4097 metadata keys, more than the limit of 4096");
	/* whole, and without the data that it promises */
	for (int whole = 1; whole >= 0; whole--) {
		build_header(&w, 3, 65536, 1);
		build_key_u32(&w, "general.alignment", 8);
		for (uint32_t i = 0; i < 65536; i++) {
			write_name(i);
			write_u32(&w, 1);
			write_u64(&w, 1);
			write_u32(&w, 1);
			write_u64(&w, 8 * i);
		}
		if (!whole) {
			gguf_refused(SAKIORI_EFORMAT, "the file is truncated or damaged");
			break;
		}
		build_pad(&w, 8);
		memset(write_space(&w, 8 * 65536), 0, 8 * 65536);
		ck_assert_msg(open_gguf(&g, &f) == 0, "%s", f.text);
		const struct gguf_tensor *t = gguf_tensor_find(g, "\"#!");
		ck_assert(t != NULL && t->bytes == 2);
		ck_assert_str_eq(t->name, "\"#!");
		gguf_close(g);
		w.size = 0;
	}
}
END_TEST

START_TEST(arrays_become_at_most_twice_their_bytes)
{
	enum { COUNT = 1 << 20 };
	struct gguf *g;
	struct fault f = {0};
	struct gguf_text *texts;
	int32_t *numbers;
	float *reals;
	size_t n;
	build_header(&w, 3, 0, 1);
	build_key(&w, "a", BUILD_ARRAY);
	write_u32(&w, BUILD_U8);
	write_u64(&w, COUNT);
	memset(write_space(&w, COUNT), 0, COUNT);
	ck_assert_msg(open_gguf(&g, &f) == 0, "%s", f.text);
	ck_assert_int_eq(gguf_get_texts(g, "a", &texts, &n, &f), SAKIORI_EFORMAT);
	ck_assert_int_eq(gguf_get_f32s(g, "a", &reals, &n, &f), SAKIORI_EFORMAT);
	ck_assert_int_eq(gguf_get_i32s(g, "a", &numbers, &n, &f), SAKIORI_EFORMAT);
	ck_assert(texts == NULL && numbers == NULL && reals == NULL && n == 0);
	ck_assert_str_eq(f.text, "metadata key a is an array of u8, expected an array of integers of 16 bits or more");
	counted_assert(w.size, 4);
	gguf_close(g);
	w.size = 0;
	build_header(&w, 3, 0, 1);
	build_key(&w, "a", BUILD_ARRAY);
	write_u32(&w, BUILD_TEXT);
	write_u64(&w, COUNT);
	memset(write_space(&w, 8 * COUNT), 0, 8 * COUNT);
	ck_assert_msg(open_gguf(&g, &f) == 0, "%s", f.text);
	ck_assert_int_eq(gguf_get_texts(g, "a", &texts, &n, &f), 0);
	ck_assert_uint_eq(n, COUNT);
	counted_assert(w.size, 4);
	free(texts);
	gguf_close(g);
}
END_TEST

START_TEST(lengths_of_2_to_the_63_are_refused_everywhere)
{
	const uint64_t lengths[] = {1ull << 63, (1ull << 63) - 1, UINT64_MAX, UINT64_MAX - 8, 1ull << 32};
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		build_header(&w, 3, 0, 1);
		write_u64(&w, lengths[i]);
		write_u64(&w, 0);
		gguf_refused(SAKIORI_EFORMAT, "a metadata key at byte 24 has ");
		build_header(&w, 3, 0, 1);
		build_key(&w, "text", BUILD_TEXT);
		write_u64(&w, lengths[i]);
		gguf_refused(SAKIORI_EFORMAT, "a metadata string needs ");
		build_header(&w, 3, 0, 1);
		build_key(&w, "texts", BUILD_ARRAY);
		write_u32(&w, BUILD_TEXT);
		write_u64(&w, 1);
		write_u64(&w, lengths[i]);
		gguf_refused(SAKIORI_EFORMAT, "a string of an array needs ");
		for (uint32_t element = 0; element <= 12; element++) {
			if (element == BUILD_ARRAY)
				continue;
			build_header(&w, 3, 0, 1);
			build_key(&w, "list", BUILD_ARRAY);
			write_u32(&w, element);
			write_u64(&w, lengths[i]);
			write_u64(&w, 0);
			gguf_refused(SAKIORI_EFORMAT, "key list: an array of ");
		}
		build_header(&w, 3, 1, 0);
		write_u64(&w, lengths[i]);
		memset(write_space(&w, 64), 'a', 64);
		gguf_refused(SAKIORI_EFORMAT, "a tensor name at byte 24 has ");
		build_header(&w, 3, lengths[i], 0);
		memset(write_space(&w, 64), 0, 64);
		gguf_refused(SAKIORI_EFORMAT, "tensors, more than ");
		build_header(&w, 3, 0, lengths[i]);
		memset(write_space(&w, 64), 0, 64);
		gguf_refused(SAKIORI_EFORMAT, "metadata keys, more than ");
	}
}
END_TEST

START_TEST(names_that_are_no_text_are_refused)
{
	static const char *const names[] = {"\xff\xfe", "caf\xc3\xa9", "\xc3(", "\xed\xa0\x80", "a b", "\x7f"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		build_header(&w, 3, 0, 1);
		build_key_u32(&w, names[i], 1);
		gguf_refused(SAKIORI_EFORMAT, "a metadata key at byte 32 holds the byte 0x");
		build_header(&w, 3, 1, 0);
		build_tensor(&w, names[i], 0, 8, BUILD_TYPE_F32, 0);
		build_pad(&w, 32);
		memset(write_space(&w, 32), 0, 32);
		gguf_refused(SAKIORI_EFORMAT, "a tensor name at byte 32 holds the byte 0x");
	}
}
END_TEST

/* One tensor of these dimensions and type with 4096 bytes of data. */
static void build_shape(uint32_t dimensions, const uint64_t shape[static 4], uint32_t type)
{
	build_header(&w, 3, 1, 0);
	build_text(&w, "t");
	write_u32(&w, dimensions);
	for (uint32_t i = 0; i < dimensions && i < 4; i++)
		write_u64(&w, shape[i]);
	write_u32(&w, type);
	write_u64(&w, 0);
	build_pad(&w, 32);
	memset(write_space(&w, 4096), 0, 4096);
}

START_TEST(shapes_that_cannot_be_are_refused)
{
	for (uint32_t zero = 0; zero < 4; zero++) {
		uint64_t shape[4] = {32, 2, 2, 2};
		char sentence[64];
		shape[zero] = 0;
		snprintf(sentence, sizeof sentence, "tensor t: dimension %u is 0", zero);
		build_shape(4, shape, BUILD_TYPE_F32);
		gguf_refused(SAKIORI_EFORMAT, sentence);
	}
	const uint32_t counts[] = {0, 5, 8, 1u << 31, UINT32_MAX};
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		build_shape(counts[i], (uint64_t[4]){1, 1, 1, 1}, BUILD_TYPE_F32);
		gguf_refused(SAKIORI_EFORMAT, "dimensions, expected 1 to 4");
	}
	/* products that are small, or the file's size, modulo 2^64 */
	build_shape(4, (uint64_t[4]){1ull << 32, 1ull << 32, 1024, 1}, BUILD_TYPE_F32);
	gguf_refused(SAKIORI_EFORMAT, "the product of its dimensions does not fit 64 bits");
	build_shape(2, (uint64_t[4]){1ull << 62, 4}, BUILD_TYPE_F32);
	gguf_refused(SAKIORI_EFORMAT, "the product of its dimensions does not fit 64 bits");
	build_shape(3, (uint64_t[4]){1024, (1ull << 62) + 1, 1}, BUILD_TYPE_F32);
	gguf_refused(SAKIORI_EFORMAT, "the product of its dimensions does not fit 64 bits");
	build_shape(1, (uint64_t[4]){(1ull << 62) + 1024}, BUILD_TYPE_F32);
	gguf_refused(SAKIORI_EFORMAT, "its size does not fit 64 bits");
	/* negative ones, as a reader of signed numbers sees them */
	build_shape(2, (uint64_t[4]){(uint64_t)-32, (uint64_t)-32}, BUILD_TYPE_F32);
	gguf_refused(SAKIORI_EFORMAT, "tensor t: ");
	build_shape(1, (uint64_t[4]){1ull << 40}, BUILD_TYPE_F32);
	gguf_refused(SAKIORI_EFORMAT, "tensor t takes 4398046511104 bytes at offset 0 of 4096");
}
END_TEST

/* Every type that is read, by ggml's number, with the places of a block's f16 numbers. */
static const struct {
	const char *name;
	uint32_t number, block, bytes;
	int scale, minimum; /* -1: none */
} types[] = {{"F16", 1, 1, 2, 0, -1}, {"Q4_0", 2, 32, 18, 0, -1}, {"Q4_1", 3, 32, 20, 0, 2}, {"Q5_0", 6, 32, 22, 0, -1},
	{"Q5_1", 7, 32, 24, 0, 2}, {"Q8_0", 8, 32, 34, 0, -1}, {"Q4_K", 12, 256, 144, 0, 2},
	{"Q5_K", 13, 256, 176, 0, 2}, {"Q6_K", 14, 256, 210, 208, -1}};
enum { TYPES = sizeof types / sizeof *types };

START_TEST(rows_that_are_no_whole_blocks_and_types_that_are_none_are_refused)
{
	for (int i = 0; i < TYPES; i++) {
		const uint64_t odd[] = {1, types[i].block - 1, types[i].block + 1, 3 * types[i].block / 2};
		for (int k = 0; k < 4 && types[i].block > 1; k++) {
			build_shape(2, (uint64_t[4]){odd[k], types[i].block}, types[i].number);
			gguf_refused(SAKIORI_EFORMAT, "are not whole");
		}
	}
	const uint32_t none[] = {4, 5, 31, 43, 255, 1u << 16, INT32_MAX, 1u << 31, UINT32_MAX};
	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		build_shape(1, (uint64_t[4]){256}, none[i]);
		gguf_refused(SAKIORI_EUNSUPPORTED, "tensor t is stored as ");
	}
}
END_TEST

/* ---- safetensors ---- */

static int open_safetensors(const char *header, size_t size, size_t data, struct safetensors **s, struct fault *f)
{
	w.size = 0;
	write_u64(&w, size);
	write_bytes(&w, header, size);
	memset(write_space(&w, data), 0, data);
	int fd = build_file(w.data, w.size);
	counted_reset();
	int rc = safetensors_open_fd(fd, "built.safetensors", s, f);
	size_t left = counted_live();
	ck_assert_msg(rc == 0 || left == 0, "%zu bytes are left of a refused file", left);
	/* a tree of JSON takes about twelve times its text */
	counted_assert(w.size, 16);
	return rc;
}

static void safetensors_refused(const char *header, size_t size, size_t data, int code, const char *sentence)
{
	struct safetensors *s;
	struct fault f = {0};
	int rc = open_safetensors(header, size, data, &s, &f);
	ck_assert_msg(rc == code && strstr(f.text, sentence) != NULL, "expected %d \"%s\", got %d \"%s\"", code,
		sentence, rc, f.text);
	ck_assert(strncmp(f.text, "built.safetensors: ", 19) == 0);
	ck_assert_ptr_null(s);
}

/* `begin`, `count` times `item` with its number for %u, `end`. */
static void refused_many(
	const char *begin, unsigned count, const char *item, const char *end, int code, const char *sentence)
{
	struct writer header;
	writer_init(&header);
	write_bytes(&header, begin, strlen(begin));
	for (unsigned i = 0; i < count; i++) {
		char text[128];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		int n = snprintf(text, sizeof text, item, i);
#pragma GCC diagnostic pop
		write_bytes(&header, text, (size_t)n);
	}
	write_bytes(&header, end, strlen(end));
	safetensors_refused((const char *)header.data, header.size, 0, code, sentence);
	writer_fini(&header);
}

START_TEST(headers_that_would_grow_are_refused_before_they_do)
{
	const unsigned many = 400000;
	refused_many("{\"a\":{\"shape\":[", many, "1,", "1]}}", SAKIORI_ELIMIT, "more than 64 members in one list");
	refused_many("{\"a\":", many, "[", "", SAKIORI_ELIMIT, "more than 64 objects or arrays");
	refused_many("{", many, "\"%x\":0,", "\"z\":0}", SAKIORI_ELIMIT, "members in one list or object");
	refused_many(
		"{\"__metadata__\":{", many, "\"%x\":\"\",", "\"z\":\"\"}}", SAKIORI_ELIMIT, "members in one list");
	refused_many("{", many / 8, "\"%x, and a few letters\":{},", "\"z\":{}}", SAKIORI_EFORMAT,
		"cannot describe tensors");
	refused_many("{\"a\":{\"dtype\":\"", many, "abcdefgh%x", "\"}}", SAKIORI_EUNSUPPORTED, "dtype abcdefgh");
	refused_many("{\"", many, "%x", "\":7}", SAKIORI_EFORMAT, "an integer, expected an object");
}
END_TEST

START_TEST(an_honest_file_of_many_small_tensors_opens)
{
	enum { MANY = 3000 };
	struct writer header;
	struct safetensors *s;
	struct fault f = {0};
	writer_init(&header);
	for (unsigned i = 0; i < MANY; i++) {
		char text[128];
		int n = snprintf(text, sizeof text, "%c\"%u\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[%u,%u]}",
			i == 0 ? '{' : ',', i, i, i + 1);
		write_bytes(&header, text, (size_t)n);
	}
	write_u8(&header, '}');
	ck_assert_msg(open_safetensors((const char *)header.data, header.size, MANY, &s, &f) == 0, "%s", f.text);
	ck_assert_uint_eq(safetensors_count(s), MANY);
	safetensors_close(s);
	writer_fini(&header);
}
END_TEST

#define TENSOR(name, shape, begin, end)                                                                                \
	"\"" name "\":{\"dtype\":\"U8\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"

START_TEST(safetensors_that_lie_are_refused)
{
#define REFUSED(header, data, code, sentence) safetensors_refused(header, sizeof(header) - 1, data, code, sentence)
	REFUSED("{" TENSOR("a", "1", "0", "1") "," TENSOR("a", "1", "1", "2") "}", 2, SAKIORI_EFORMAT,
		"duplicate object key");
	REFUSED("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, SAKIORI_EFORMAT,
		"duplicate object key");
	REFUSED("{\"__metadata__\":{},\"__metadata__\":{}}", 0, SAKIORI_EFORMAT, "duplicate object key");
	REFUSED("{" TENSOR("\xff\xfe", "1", "0", "1") "}", 1, SAKIORI_EFORMAT, "unable to decode byte 0xff");
	REFUSED("{" TENSOR("\\u0000", "1", "0", "1") "}", 1, SAKIORI_EFORMAT, "NUL byte");
	REFUSED("{" TENSOR("", "1", "0", "1") "}", 1, SAKIORI_EFORMAT, "a tensor name is empty");
	REFUSED("{" TENSOR("a", "9223372036854775807", "0", "9223372036854775807") "}", 1, SAKIORI_EFORMAT,
		"data_offsets end at 9223372036854775807, but there are 1 bytes");
	REFUSED("{" TENSOR("a", "9223372036854775808", "0", "1") "}", 1, SAKIORI_EFORMAT, "too big integer");
	REFUSED("{" TENSOR("a", "4294967296,4294967296,0", "0", "0") "}", 0, SAKIORI_EFORMAT,
		"the product of its dimensions does not fit 64 bits");
	REFUSED("{" TENSOR("a", "1", "1", "2") "}", 2, SAKIORI_EFORMAT, "1 bytes before tensor a belong to no tensor");
	REFUSED("{" TENSOR("a", "2", "0", "2") "," TENSOR("b", "2", "1", "3") "}", 3, SAKIORI_EFORMAT, "overlap");
	REFUSED("{" TENSOR("a", "1", "0", "1") "}", 2, SAKIORI_EFORMAT, "1 bytes after the last tensor");
	REFUSED("{" TENSOR("a", "1", "0", "1") "}", 0, SAKIORI_EFORMAT, "truncated or damaged");
	REFUSED("", 0, SAKIORI_EFORMAT, "header:1:");
	const uint64_t lengths[] = {1ull << 63, UINT64_MAX, UINT64_MAX - 7, 1ull << 32, 3};
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		struct safetensors *s;
		struct fault f = {0};
		w.size = 0;
		write_u64(&w, lengths[i]);
		write_bytes(&w, "{}", 2);
		int fd = build_file(w.data, w.size);
		counted_reset();
		int rc = safetensors_open_fd(fd, "built.safetensors", &s, &f);
		counted_assert(w.size, 1);
		ck_assert_int_eq(rc, SAKIORI_EFORMAT);
		ck_assert_ptr_nonnull(strstr(f.text, "it promises a header of "));
	}
}
END_TEST

/* ---- what a path may lead to ---- */

static char folder[64];

static const char *in_folder(const char *name)
{
	static char paths[4][160];
	static unsigned turn;
	char *path = paths[turn++ % 4];
	snprintf(path, sizeof paths[0], "%s/%s", folder, name);
	return path;
}

static void refused_by_all(const char *path, const char *sentence)
{
	struct gguf *g;
	struct safetensors *s;
	struct model_file *mf;
	struct fault f = {0};
	ck_assert_int_ne(gguf_open(path, &g, &f), 0);
	ck_assert_msg(strstr(f.text, path) != NULL && strstr(f.text, sentence) != NULL, "%s", f.text);
	ck_assert_int_ne(safetensors_open(path, &s, &f), 0);
	ck_assert_msg(strstr(f.text, path) != NULL && strstr(f.text, sentence) != NULL, "%s", f.text);
	ck_assert_int_ne(model_file_open(path, &mf, &f), 0);
	ck_assert_msg(strstr(f.text, path) != NULL, "%s", f.text);
}

START_TEST(only_regular_files_are_opened_and_none_is_waited_for)
{
	strcpy(folder, "/tmp/check_hostile_files.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	static const char *const others[] = {"/dev/zero", "/dev/null", "/dev/tty", "/proc/self"};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(address.sun_path, sizeof address.sun_path, "%s", in_folder("socket"));
	ck_assert_int_eq(bind(sock, (struct sockaddr *)&address, sizeof address), 0);
	ck_assert_int_eq(mkfifo(in_folder("pipe"), 0600), 0);
	ck_assert_int_eq(symlink("pipe", in_folder("to-pipe")), 0);
	ck_assert_int_eq(symlink("/dev/zero", in_folder("to-zero")), 0);
	ck_assert_int_eq(symlink("loop", in_folder("loop")), 0);
	ck_assert_int_eq(symlink("nowhere", in_folder("to-nowhere")), 0);
	alarm(60);
	refused_by_all(folder, "not a regular file");
	refused_by_all(in_folder("pipe"), "not a regular file");
	refused_by_all(in_folder("to-pipe"), "not a regular file");
	refused_by_all(in_folder("to-zero"), "not a regular file");
	refused_by_all(in_folder("socket"), "");
	refused_by_all(in_folder("loop"), "");
	refused_by_all(in_folder("to-nowhere"), "No such file");
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		refused_by_all(others[i], "");
	/* a link to a file is the file: so do caches of models lie on disk */
	struct gguf *g;
	struct fault f = {0};
	build_shape(1, (uint64_t[4]){1024}, BUILD_TYPE_F32);
	ck_assert_int_eq(file_replace(in_folder("model"), w.data, w.size, 0600, NULL), 0);
	ck_assert_int_eq(symlink("model", in_folder("to-model")), 0);
	ck_assert_msg(gguf_open(in_folder("to-model"), &g, &f) == 0, "%s", f.text);
	gguf_close(g);
	close(sock);
	static const char *const names[] = {
		"socket", "pipe", "to-pipe", "to-zero", "loop", "to-nowhere", "model", "to-model"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		unlink(in_folder(names[i]));
	ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

/* ---- files that change while they are read ---- */

START_TEST(a_file_that_is_cut_and_filled_again_all_the_time_harms_nobody)
{
	char path[] = "/tmp/check_hostile_files.XXXXXX";
	int fd = mkstemp(path), status;
	build_header(&w, 3, 1, 2);
	build_key_text(&w, "general.architecture", "llama");
	build_key(&w, "list", BUILD_ARRAY);
	write_u32(&w, BUILD_TEXT);
	write_u64(&w, 20000);
	for (int i = 0; i < 20000; i++)
		build_text(&w, "cloth");
	build_tensor(&w, "t", 0, 1 << 16, BUILD_TYPE_F32, 0);
	build_pad(&w, 32);
	memset(write_space(&w, 4 << 16), 0, 4 << 16);
	pid_t pid = fork();
	if (pid == 0)
		for (unsigned turn = 0;; turn++)
			if (pwrite(fd, w.data, w.size, 0) < 0 || ftruncate(fd, (off_t)(turn * 7919 % w.size)) != 0 ||
				pwrite(fd, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, 24 + turn % 4096) < 0)
				_exit(1);
	for (int turn = 0; turn < 400; turn++) {
		struct gguf *g;
		struct gguf_text *texts = NULL;
		struct fault f = {0};
		size_t n;
		float values[16];
		if (gguf_open(path, &g, &f) != 0) {
			ck_assert_str_ne(f.text, "");
			continue;
		}
		if (gguf_has(g, "list") && gguf_get_texts(g, "list", &texts, &n, &f) == 0)
			for (size_t i = 0; i < n; i++)
				ck_assert_uint_le(texts[i].size, w.size);
		for (size_t i = 0; i < gguf_tensor_count(g); i++)
			if (gguf_tensor_at(g, i)->bytes >= sizeof values)
				gguf_read(g, gguf_tensor_at(g, i), gguf_tensor_at(g, i)->bytes - sizeof values,
					sizeof values, values, &f);
		free(texts);
		gguf_close(g);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	ck_assert(WIFSIGNALED(status));
	close(fd);
	unlink(path);
}
END_TEST

/* ---- scales that are no numbers ---- */

enum { HIDDEN = 256, VOCABULARY = 4 };
static const struct {
	const char *name;
	uint32_t rows, cols; /* rows 0: one dimension */
} tensors[] = {{"token_embd.weight", VOCABULARY, HIDDEN}, {"blk.0.attn_norm.weight", 0, HIDDEN},
	{"blk.0.attn_q.weight", HIDDEN, HIDDEN}, {"blk.0.attn_k.weight", HIDDEN / 2, HIDDEN},
	{"blk.0.attn_v.weight", HIDDEN / 2, HIDDEN}, {"blk.0.attn_output.weight", HIDDEN, HIDDEN},
	{"blk.0.ffn_norm.weight", 0, HIDDEN}, {"blk.0.ffn_up.weight", HIDDEN, HIDDEN},
	{"blk.0.ffn_down.weight", HIDDEN, HIDDEN}, {"output_norm.weight", 0, HIDDEN},
	/* last, so that its blocks end the file */
	{"blk.0.ffn_gate.weight", HIDDEN, HIDDEN}};
enum { TENSORS = sizeof tensors / sizeof *tensors };

static void build_model(uint32_t type, size_t gate_bytes)
{
	uint64_t offset = 0;
	w.size = 0;
	build_header(&w, 3, TENSORS, 8);
	build_key_text(&w, "general.architecture", "llama");
	build_key_u32(&w, "llama.block_count", 1);
	build_key_u32(&w, "llama.context_length", 16);
	build_key_u32(&w, "llama.embedding_length", HIDDEN);
	build_key_u32(&w, "llama.feed_forward_length", HIDDEN);
	build_key_u32(&w, "llama.attention.head_count", 2);
	build_key_u32(&w, "llama.attention.head_count_kv", 1);
	build_key_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	for (int i = 0; i < TENSORS; i++) {
		uint32_t rows = tensors[i].rows > 0 ? tensors[i].rows : 1;
		build_tensor(&w, tensors[i].name, tensors[i].rows, tensors[i].cols,
			i + 1 < TENSORS ? BUILD_TYPE_F32 : type, offset);
		offset += (uint64_t)4 * rows * tensors[i].cols;
	}
	build_pad(&w, 32);
	/* the gate's offset is where the others end */
	offset -= (uint64_t)4 * HIDDEN * HIDDEN;
	memset(write_space(&w, offset + gate_bytes), 0, offset + gate_bytes);
}

START_TEST(scales_that_are_not_finite_are_refused_in_every_type)
{
	static const uint16_t bad[] = {0x7e00, 0x7c01, 0xffff, 0x7c00, 0xfc00};
	char path[] = "/tmp/check_hostile_files.XXXXXX";
	int fd = mkstemp(path);
	static float values[HIDDEN * HIDDEN];
	for (int i = 0; i < TYPES; i++) {
		size_t bytes = (size_t)HIDDEN * HIDDEN / types[i].block * types[i].bytes;
		build_model(types[i].number, bytes);
		ck_assert_int_eq(ftruncate(fd, 0), 0);
		ck_assert_int_eq(pwrite(fd, w.data, w.size, 0), (ssize_t)w.size);
		for (int field = 0; field < 2; field++)
			for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
				int place = field == 0 ? types[i].scale : types[i].minimum;
				if (place < 0)
					continue;
				struct model_file *mf;
				struct fault f = {0};
				off_t at = (off_t)(w.size - types[i].bytes) + place;
				ck_assert_int_eq(pwrite(fd, &bad[k], 2, at), 2);
				ck_assert_msg(model_file_open(path, &mf, &f) == 0, "%s", f.text);
				const struct model_tensor *t =
					model_file_tensor(mf, "model.layers.0.mlp.gate_proj.weight");
				for (int stored = 0; stored < 2; stored++) {
					f.text[0] = '\0';
					int rc = stored ? model_file_read_stored(mf, t, 0, HIDDEN, values, &f)
							: model_file_read(mf, t, 0, HIDDEN, values, &f);
					ck_assert_msg(
						rc == SAKIORI_EFORMAT && strstr(f.text, path) != NULL &&
							strstr(f.text, "tensor model.layers.0.mlp.gate_proj.weight has "
								       "a value") != NULL,
						"%s, field %d, %04x, stored %d: %d \"%s\"", types[i].name, field,
						bad[k], stored, rc, f.text);
				}
				model_file_close(mf);
				ck_assert_int_eq(pwrite(fd, "\0", 2, at), 2);
			}
		struct model_file *mf;
		struct fault f = {0};
		ck_assert_int_eq(model_file_open(path, &mf, &f), 0);
		const struct model_tensor *t = model_file_tensor(mf, "model.layers.0.mlp.gate_proj.weight");
		ck_assert_msg(
			model_file_read_stored(mf, t, 0, HIDDEN, values, &f) == 0, "%s: %s", types[i].name, f.text);
		model_file_close(mf);
	}
	close(fd);
	unlink(path);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hostile_files");
	TCase *t = tcase_create("hostile_files");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, as_many_keys_and_tensors_as_a_file_can_hold_take_no_more_than_twice_its_size);
	tcase_add_test(t, arrays_become_at_most_twice_their_bytes);
	tcase_add_test(t, lengths_of_2_to_the_63_are_refused_everywhere);
	tcase_add_test(t, names_that_are_no_text_are_refused);
	tcase_add_test(t, shapes_that_cannot_be_are_refused);
	tcase_add_test(t, rows_that_are_no_whole_blocks_and_types_that_are_none_are_refused);
	tcase_add_test(t, headers_that_would_grow_are_refused_before_they_do);
	tcase_add_test(t, an_honest_file_of_many_small_tensors_opens);
	tcase_add_test(t, safetensors_that_lie_are_refused);
	tcase_add_test(t, only_regular_files_are_opened_and_none_is_waited_for);
	tcase_add_test(t, a_file_that_is_cut_and_filled_again_all_the_time_harms_nobody);
	tcase_add_test(t, scales_that_are_not_finite_are_refused_in_every_type);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
