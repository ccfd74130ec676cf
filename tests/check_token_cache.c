/* SPDX-License-Identifier: Apache-2.0 */
/* Rows on several threads, and through a cache file: always the same rows, whatever happened to the file. */
#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "formats/gguf.h"
#include "text/dataset.h"
#include "text/token_cache.h"
#include "text/token_cache_folder.h"

static struct tokenizer *tiny;
static struct chat *chat;
static char folder[64], data_path[96], tokens_folder[96];
static unsigned refused, unusable;

static void count_refusals(void *self, enum log_level level, const char *line)
{
	(void)self;
	(void)level;
	refused += strstr(line, "token_cache_refused") != NULL;
	unusable += strstr(line, "token_cache_unusable") != NULL;
}

static void set_up(void)
{
	char path[4096];
	struct gguf *g;
	struct fault f = {0};
	snprintf(path, sizeof path, "%s/tests/golden/tiny.gguf", getenv("SRCDIR"));
	ck_assert_msg(gguf_open(path, &g, &f) == 0, "%s", f.text);
	ck_assert_msg(tokenizer_from_gguf(&tiny, g, &f) == 0, "%s", f.text);
	gguf_close(g);
	ck_assert_msg(chat_new(&chat, tiny, &f) == 0, "%s", f.text);
	strcpy(folder, "/tmp/check_token_cache.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(data_path, sizeof data_path, "%s/rows.jsonl", folder);
	snprintf(tokens_folder, sizeof tokens_folder, "%s/tokens", folder);
	refused = unusable = 0;
	log_set_sink(count_refusals, NULL);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)kind;
	(void)at;
	return remove(path);
}

static void tear_down(void)
{
	nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	chat_free(chat);
	tokenizer_free(tiny);
}

/* About `bytes` of rows of every kind; the same seed gives the same rows. A faulty line number is 0 for none. */
static void write_rows(size_t bytes, uint64_t seed, size_t faulty)
{
	FILE *out = fopen(data_path, "w");
	struct rng r;
	ck_assert_ptr_nonnull(out);
	rng_init(&r, seed, 0);
	for (size_t line = 1; (size_t)ftell(out) < bytes; line++) {
		char text[400];
		size_t n = 1 + rng_below(&r, sizeof text - 2);
		for (size_t i = 0; i < n; i++)
			text[i] = rng_below(&r, 6) == 0 ? ' ' : (char)('a' + rng_below(&r, 26));
		text[n] = '\0';
		if (line == faulty)
			fprintf(out, "{\"text\": 7, \"note\": \"%s\"}\n", text);
		else if (rng_below(&r, 4) == 0)
			fprintf(out,
				"{\"messages\": [{\"role\": \"user\", \"content\": \"%s\"}, "
				"{\"role\": \"assistant\", \"content\": \"yes\"}]}\n",
				text);
		else if (rng_below(&r, 4) == 0)
			fprintf(out, "\n{\"completion\": \"caf\\u00e9 %s\", \"prompt\": \"\"}\n", text);
		else
			fprintf(out, "{\"text\": \"%s\\n\"}\n", text);
	}
	fclose(out);
}

static int load(struct dataset **d, const struct dataset_options *o, struct fault *f)
{
	return dataset_load(d, data_path, tiny, chat, o, f);
}

/* Loads and returns the digest; the rows come out one by one too. */
static void digest_of(const struct dataset_options *o, uint8_t out[static HASH_SIZE])
{
	struct dataset *d;
	struct fault f = {0};
	ck_assert_msg(load(&d, o, &f) == 0, "%s", f.text);
	const struct dataset_counts *c = dataset_counts(d);
	uint32_t *ids = must_alloc(c->longest_row * sizeof *ids);
	uint8_t *labelled = must_alloc(c->longest_row);
	uint64_t tokens = 0, learned = 0;
	struct hash h;
	ck_assert_int_eq(dataset_check(d, &f), 0);
	hash_init(&h, "sakiori-dataset");
	for (size_t row = 0; row < c->rows; row++) {
		uint64_t n = dataset_row_size(d, row);
		dataset_row(d, row, ids, labelled);
		for (size_t i = 0; i < n; i++) {
			learned += i > 0 && labelled[i];
			ids[i] |= (uint32_t)labelled[i] << 31;
		}
		hash_update(&h, &n, sizeof n);
		hash_update(&h, ids, n * sizeof *ids);
		tokens += n;
	}
	ck_assert_uint_eq(tokens, c->tokens);
	ck_assert_uint_eq(learned, c->labelled_tokens);
	hash_final(&h, out);
	uint8_t claimed[HASH_SIZE];
	dataset_fingerprint(d, claimed);
	ck_assert_mem_eq(out, claimed, HASH_SIZE);
	free(ids);
	free(labelled);
	dataset_free(d);
}

/* The only file in the cache folder, whose path the caller frees. */
static char *the_file(void)
{
	char command[200], *path = must_calloc(1, 512);
	snprintf(command, sizeof command, "ls %s/*.tokens", tokens_folder);
	FILE *list = popen(command, "r");
	ck_assert_ptr_nonnull(fgets(path, 512, list));
	path[strcspn(path, "\n")] = '\0';
	char more[512];
	ck_assert_ptr_null(fgets(more, sizeof more, list));
	pclose(list);
	return path;
}

static ino_t inode_of(const char *path)
{
	struct stat st;
	ck_assert_int_eq(stat(path, &st), 0);
	return st.st_ino;
}

START_TEST(the_number_of_threads_changes_nothing)
{
	uint8_t one[HASH_SIZE], many[HASH_SIZE];
	write_rows(3 << 20, 1, 0);
	digest_of(&(struct dataset_options){.threads = 1, .max_row_tokens = 50}, one);
	for (unsigned threads = 2; threads < 8; threads += 3) {
		digest_of(&(struct dataset_options){.threads = threads, .max_row_tokens = 50}, many);
		ck_assert_mem_eq(one, many, HASH_SIZE);
	}
}
END_TEST

START_TEST(the_first_faulty_line_is_named_whoever_meets_it)
{
	write_rows(3 << 20, 2, 9000);
	for (unsigned threads = 1; threads < 8; threads += 3) {
		struct dataset *d;
		struct fault f = {0};
		struct dataset_options o = {.threads = threads, .cache = folder};
		ck_assert_int_eq(load(&d, &o, &f), SAKIORI_EFORMAT);
		ck_assert_ptr_null(d);
		ck_assert_ptr_nonnull(strstr(f.text, "rows.jsonl:"));
		ck_assert_ptr_nonnull(strstr(f.text, "\"text\" is an integer, expected a string"));
		/* what is wanted ends before it */
		o.max_rows = 2000;
		ck_assert_msg(load(&d, &o, &f) == 0, "%s", f.text);
		ck_assert_uint_eq(dataset_counts(d)->rows, 2000);
		dataset_free(d);
	}
}
END_TEST

START_TEST(a_large_file_is_tokenized_once)
{
	uint8_t memory[HASH_SIZE], cached[HASH_SIZE];
	struct dataset_options o = {.threads = 2};
	struct stat st;
	write_rows(DATASET_CACHE_FROM, 3, 0);
	digest_of(&o, memory);
	o.cache = folder;
	digest_of(&o, cached);
	ck_assert_mem_eq(memory, cached, HASH_SIZE);
	char *path = the_file();
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	ck_assert_int_eq(stat(tokens_folder, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0700);
	ino_t first = inode_of(path);
	digest_of(&o, cached);
	ck_assert_mem_eq(memory, cached, HASH_SIZE);
	ck_assert_uint_eq(inode_of(path), first);
	/* not a byte of a row's text */
	char command[600];
	snprintf(command, sizeof command, "grep -c -a caf %s >/dev/null", path);
	ck_assert_int_ne(system(command), 0);
	free(path);
}
END_TEST

START_TEST(other_rows_of_the_same_size_and_time_are_other_rows)
{
	uint8_t before[HASH_SIZE], after[HASH_SIZE], expected[HASH_SIZE];
	struct dataset_options o = {.threads = 2, .cache = folder};
	struct stat st;
	write_rows(DATASET_CACHE_FROM, 4, 0);
	ck_assert_int_eq(stat(data_path, &st), 0);
	digest_of(&o, before);
	/* more letters in a row than any key has are a row's own */
	uint8_t *bytes;
	size_t size, run = 0, at = 0;
	ck_assert_int_eq(file_read(data_path, 1 << 23, &bytes, &size, NULL), 0);
	for (; run < 14; at++)
		run = bytes[at] >= 'a' && bytes[at] <= 'z' ? run + 1 : 0;
	int fd = open(data_path, O_RDWR);
	ck_assert_int_eq(pwrite(fd, bytes[at - 7] == 'z' ? "y" : "z", 1, (off_t)at - 7), 1);
	free(bytes);
	futimens(fd, (const struct timespec[2]){st.st_atim, st.st_mtim});
	close(fd);
	digest_of(&o, after);
	o.cache = NULL;
	digest_of(&o, expected);
	ck_assert_mem_eq(after, expected, HASH_SIZE);
	ck_assert_mem_ne(after, before, HASH_SIZE);
}
END_TEST

START_TEST(a_folder_that_cannot_be_used_costs_only_memory)
{
	uint8_t memory[HASH_SIZE], tried[HASH_SIZE];
	char nowhere[128];
	struct dataset_options o = {.threads = 2};
	write_rows(DATASET_CACHE_FROM, 5, 0);
	digest_of(&o, memory);
	snprintf(nowhere, sizeof nowhere, "%s/below", data_path);
	o.cache = nowhere;
	digest_of(&o, tried);
	ck_assert_mem_eq(memory, tried, HASH_SIZE);
	/* others could write there */
	ck_assert_int_eq(mkdir(tokens_folder, 0700), 0);
	ck_assert_int_eq(chmod(tokens_folder, 0777), 0);
	o.cache = folder;
	digest_of(&o, tried);
	ck_assert_mem_eq(memory, tried, HASH_SIZE);
	ck_assert_uint_eq(unusable, 2);
}
END_TEST

START_TEST(several_processes_make_one_file)
{
	enum { PROCESSES = 3 };
	uint8_t digest[HASH_SIZE], expected[HASH_SIZE];
	struct dataset_options o = {.threads = 2, .cache = folder};
	write_rows(DATASET_CACHE_FROM, 6, 0);
	pid_t pids[PROCESSES];
	for (int i = 0; i < PROCESSES; i++)
		if ((pids[i] = fork()) == 0) {
			struct dataset *d;
			_exit(load(&d, &o, NULL) != 0 || dataset_check(d, NULL) != 0);
		}
	for (int i = 0; i < PROCESSES; i++) {
		int status;
		ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
		ck_assert_int_eq(status, 0);
	}
	free(the_file());
	digest_of(&o, digest);
	o.cache = NULL;
	digest_of(&o, expected);
	ck_assert_mem_eq(digest, expected, HASH_SIZE);
	ck_assert_uint_eq(refused, 0);
}
END_TEST

/* ---- one small cache file, at close range ---- */

static const uint32_t small_tokens[] = {5, 1u << 31 | 6, 7, 1u << 31 | 8, 9};
static const uint32_t small_sizes[] = {2, 3};
static struct token_cache_settings small_settings;
static int source;

/* Makes the file that belongs to the bytes of `content` in data_path. */
static void make_small(const char *content, uint64_t limit)
{
	struct token_cache_writer w;
	struct token_cache c;
	struct fault f = {0};
	uint8_t digest[HASH_SIZE];
	const struct dataset_counts counts = {.rows = 2, .tokens = 5, .labelled_tokens = 2, .longest_row = 3};
	ck_assert_int_eq(file_replace(data_path, content, strlen(content), 0600, NULL), 0);
	source = open(data_path, O_RDONLY);
	small_settings = (struct token_cache_settings){.digest = {1, 2, 3}, .vocabulary = 10};
	hash_bytes("sakiori-rows", content, strlen(content), digest);
	ck_assert_msg(token_cache_begin(&w, tokens_folder, &small_settings, &f) == 0, "%s", f.text);
	ck_assert_msg(token_cache_write(&w, small_tokens, small_sizes, 2, &f) == 0, "%s", f.text);
	ck_assert_msg(token_cache_commit(&w, &counts, digest, limit, &c, &f) == 0, "%s", f.text);
	ck_assert_mem_eq(c.tokens, small_tokens, sizeof small_tokens);
	ck_assert_uint_eq(c.starts[2], 5);
	token_cache_close(&c);
}

static int find_small(struct token_cache *c)
{
	struct fault f = {0};
	int rc = token_cache_find(c, tokens_folder, &small_settings, source, data_path, &f);
	ck_assert_msg(rc >= 0, "%s", f.text);
	return rc;
}

/* The cache must be refused, and be gone then. */
static void assert_refused(const char *path)
{
	struct token_cache c;
	unsigned before = refused;
	ck_assert_int_eq(find_small(&c), 0);
	ck_assert_int_eq(c.fd, -1);
	ck_assert_uint_eq(refused, before + 1);
	ck_assert_int_ne(access(path, F_OK), 0);
}

START_TEST(a_damaged_file_is_refused_wherever_it_is_damaged)
{
	make_small("rows", UINT64_MAX);
	char *path = the_file();
	uint8_t *good, *bad;
	size_t size;
	struct token_cache c;
	ck_assert_int_eq(file_read(path, 1 << 20, &good, &size, NULL), 0);
	ck_assert_int_eq(find_small(&c), 1);
	token_cache_close(&c);
	bad = malloc(size + 1);
	for (size_t at = 0; at < size; at++) {
		/* padding is nobody's */
		if ((at >= 168 && at < 4096) || (at >= 4096 + sizeof small_tokens && at < 4120))
			continue;
		memcpy(bad, good, size);
		bad[at] ^= (uint8_t)(1u << at % 8);
		ck_assert_int_eq(file_replace(path, bad, size, 0600, NULL), 0);
		assert_refused(path);
	}
	for (size_t cut = 0; cut <= size + 1; cut += cut < 200 || cut >= 4090 ? 1 : 100) {
		if (cut == size)
			continue;
		memcpy(bad, good, size);
		bad[size] = 0;
		ck_assert_int_eq(file_replace(path, bad, cut, 0600, NULL), 0);
		assert_refused(path);
	}
	ck_assert_int_eq(file_replace(path, good, size, 0600, NULL), 0);
	ck_assert_int_eq(find_small(&c), 1);
	token_cache_close(&c);
	/* a smaller vocabulary than it was made with cannot come under the same name, and would be seen */
	small_settings.vocabulary = 9;
	assert_refused(path);
	free(good);
	free(bad);
	free(path);
	close(source);
}
END_TEST

START_TEST(what_is_not_this_users_own_file_is_refused)
{
	char elsewhere[128];
	make_small("rows", UINT64_MAX);
	char *path = the_file();
	ck_assert_int_eq(chmod(path, 0666), 0);
	assert_refused(path);
	close(source);
	make_small("rows", UINT64_MAX);
	snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", folder);
	ck_assert_int_eq(rename(path, elsewhere), 0);
	ck_assert_int_eq(symlink(elsewhere, path), 0);
	assert_refused(path);
	ck_assert_int_eq(access(elsewhere, F_OK), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	assert_refused(path);
	if (geteuid() == 0) {
		ck_assert_int_eq(rename(elsewhere, path), 0);
		ck_assert_int_eq(chown(path, 12345, 12345), 0);
		assert_refused(path);
	}
	free(path);
	close(source);
}
END_TEST

START_TEST(a_file_that_changes_while_it_is_in_use_is_seen)
{
	struct token_cache c;
	struct fault f = {0};
	make_small("rows", UINT64_MAX);
	char *path = the_file();
	ck_assert_int_eq(find_small(&c), 1);
	ck_assert_int_eq(token_cache_check(&c, &f), 0);
	/* another process that uses it, and one that removes it, do no harm */
	struct token_cache other;
	ck_assert_int_eq(find_small(&other), 1);
	token_cache_close(&other);
	ck_assert_int_eq(token_cache_check(&c, &f), 0);
	ck_assert_int_eq(truncate(path, 4100), 0);
	ck_assert_int_eq(token_cache_check(&c, &f), SAKIORI_ECORRUPT);
	ck_assert_ptr_nonnull(strstr(f.text, "expected 4144 bytes, found 4100"));
	token_cache_close(&c);
	assert_refused(path);
	close(source);
	make_small("rows", UINT64_MAX);
	ck_assert_int_eq(find_small(&c), 1);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(token_cache_check(&c, &f), 0);
	ck_assert_mem_eq(c.tokens, small_tokens, sizeof small_tokens);
	token_cache_close(&c);
	close(source);
	make_small("rows", UINT64_MAX);
	ck_assert_int_eq(find_small(&c), 1);
	int fd = open(path, O_WRONLY);
	ck_assert_int_eq(pwrite(fd, "x", 1, 4100), 1);
	futimens(fd, (const struct timespec[2]){{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}});
	close(fd);
	ck_assert_int_eq(token_cache_check(&c, &f), SAKIORI_ECORRUPT);
	token_cache_close(&c);
	free(path);
	close(source);
}
END_TEST

static size_t count_files(void)
{
	char command[128], line[64] = "";
	snprintf(command, sizeof command, "ls -A %s | wc -l", tokens_folder);
	FILE *list = popen(command, "r");
	ck_assert_ptr_nonnull(fgets(line, sizeof line, list));
	pclose(list);
	return (size_t)atoi(line);
}

START_TEST(what_was_used_longest_ago_makes_room)
{
	struct token_cache c;
	char abandoned[160];
	snprintf(abandoned, sizeof abandoned, "%s/0000-0000.tokens.Ab3xyZ", tokens_folder);
	make_small("one", UINT64_MAX);
	close(source);
	make_small("two", UINT64_MAX);
	close(source);
	ck_assert_int_eq(file_replace(abandoned, "", 0, 0600, NULL), 0);
	make_small("three", UINT64_MAX);
	ck_assert_uint_eq(count_files(), 4);
	close(source);
	/* "one" is used again, so "two" goes, and what nobody has written to for a day */
	ck_assert_int_eq(file_replace(data_path, "one", 3, 0600, NULL), 0);
	source = open(data_path, O_RDONLY);
	ck_assert_int_eq(find_small(&c), 1);
	token_cache_close(&c);
	close(source);
	ck_assert_int_eq(
		utimensat(AT_FDCWD, abandoned, (const struct timespec[2]){{.tv_sec = 1}, {.tv_sec = 1}}, 0), 0);
	make_small("four", 3 * 4144);
	close(source);
	ck_assert_uint_eq(count_files(), 3);
	ck_assert_int_eq(file_replace(data_path, "two", 3, 0600, NULL), 0);
	source = open(data_path, O_RDONLY);
	ck_assert_int_eq(find_small(&c), 0);
	close(source);
	/* a file larger than the limit stays alone */
	make_small("five", 1);
	ck_assert_uint_eq(count_files(), 1);
	ck_assert_int_eq(find_small(&c), 1);
	token_cache_close(&c);
	close(source);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("token_cache");
	TCase *t = tcase_create("token_cache");
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_set_timeout(t, 300);
	tcase_add_test(t, the_number_of_threads_changes_nothing);
	tcase_add_test(t, the_first_faulty_line_is_named_whoever_meets_it);
	tcase_add_test(t, a_large_file_is_tokenized_once);
	tcase_add_test(t, other_rows_of_the_same_size_and_time_are_other_rows);
	tcase_add_test(t, a_folder_that_cannot_be_used_costs_only_memory);
	tcase_add_test(t, several_processes_make_one_file);
	tcase_add_test(t, a_damaged_file_is_refused_wherever_it_is_damaged);
	tcase_add_test(t, what_is_not_this_users_own_file_is_refused);
	tcase_add_test(t, a_file_that_changes_while_it_is_in_use_is_seen);
	tcase_add_test(t, what_was_used_longest_ago_makes_room);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed > 0;
}
