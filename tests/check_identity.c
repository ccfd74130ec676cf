/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "net/identity.h"

static char directory[] = "/tmp/check_identity.XXXXXX";
static char path[64];

static void setup(void)
{
	strcpy(directory, "/tmp/check_identity.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/key", directory);
}

static void teardown(void)
{
	unlink(path);
	rmdir(directory);
}

static void write_file(const char *text, size_t n, unsigned mode)
{
	ck_assert_int_eq(file_replace(path, text, n, mode, NULL), 0);
}

START_TEST(an_identity_survives_its_file)
{
	struct identity *a = NULL, *b = NULL;
	struct fault f = {0};
	struct stat st;
	ck_assert_int_eq(identity_generate(&a, &f), 0);
	ck_assert_int_eq(identity_save(a, path, false, &f), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_int_eq(identity_load(path, &b, &f), 0);
	ck_assert_mem_eq(identity_public(a), identity_public(b), sizeof *identity_public(a));
	ck_assert_mem_eq(identity_x25519_secret(a), identity_x25519_secret(b), 32);
	identity_free(a);
	identity_free(b);
}
END_TEST

START_TEST(a_key_is_never_overwritten_by_accident)
{
	struct identity *a = NULL;
	struct fault f = {0};
	write_file("precious", 8, 0600);
	ck_assert_int_eq(identity_generate(&a, &f), 0);
	ck_assert_int_eq(identity_save(a, path, false, &f), SAKIORI_EBUSY);
	ck_assert_int_eq(network_secret_generate(path, &f), SAKIORI_EBUSY);
	ck_assert_int_eq(identity_save(a, path, true, &f), 0);
	identity_free(a);
}
END_TEST

START_TEST(a_file_that_others_can_read_is_refused_with_the_chmod_to_run)
{
	static const unsigned modes[] = {0640, 0604, 0620, 0602, 0644, 0610, 0601};
	struct identity *a = NULL, *b = NULL;
	struct fault f = {0};
	ck_assert_int_eq(identity_generate(&a, &f), 0);
	ck_assert_int_eq(identity_save(a, path, false, &f), 0);
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		ck_assert_int_eq(chmod(path, modes[i]), 0);
		ck_assert_int_eq(identity_load(path, &b, &f), SAKIORI_EDENIED);
		ck_assert_ptr_nonnull(strstr(f.text, "chmod 600"));
		ck_assert_ptr_nonnull(strstr(f.text, path));
	}
	ck_assert_int_eq(chmod(path, 0400), 0);
	ck_assert_int_eq(identity_load(path, &b, &f), 0);
	identity_free(a);
	identity_free(b);
}
END_TEST

START_TEST(a_file_of_another_user_is_refused)
{
	struct identity *a = NULL, *b = NULL;
	struct fault f = {0};
	if (geteuid() != 0)
		return; /* only root can give a file away */
	ck_assert_int_eq(identity_generate(&a, &f), 0);
	ck_assert_int_eq(identity_save(a, path, false, &f), 0);
	ck_assert_int_eq(chown(path, 12345, (gid_t)-1), 0);
	ck_assert_int_eq(identity_load(path, &b, &f), SAKIORI_EDENIED);
	ck_assert_ptr_nonnull(strstr(f.text, "12345"));
	identity_free(a);
}
END_TEST

START_TEST(damaged_and_foreign_files_are_refused)
{
	struct identity *a = NULL, *b = NULL;
	struct fault f = {0};
	uint8_t *text;
	size_t n;
	ck_assert_int_eq(identity_load(path, &b, &f), SAKIORI_ENOTFOUND);
	ck_assert_int_eq(identity_load(directory, &b, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(identity_generate(&a, &f), 0);
	ck_assert_int_eq(identity_save(a, path, false, &f), 0);
	identity_free(a);
	ck_assert_int_eq(file_read(path, 4096, &text, &n, &f), 0);
	for (size_t cut = 0; cut < n; cut++) {
		write_file((char *)text, cut, 0600);
		ck_assert_int_eq(identity_load(path, &b, &f), SAKIORI_EFORMAT);
	}
	char longer[2048];
	memset(longer, 'x', sizeof longer);
	memcpy(longer, text, n);
	write_file(longer, n + 1, 0600);
	ck_assert_int_eq(identity_load(path, &b, &f), SAKIORI_EFORMAT);
	write_file(longer, sizeof longer, 0600);
	ck_assert_int_eq(identity_load(path, &b, &f), SAKIORI_EFORMAT);
	static const char *const generations[] = {"0", "01", "-1", "4294967296", "1 ", "x", ""};
	char *at = strstr((char *)text, "generation ") + strlen("generation ");
	for (size_t i = 0; i < sizeof generations / sizeof generations[0]; i++) {
		snprintf(longer, sizeof longer, "%.*s%s\n", (int)(at - (char *)text), (char *)text, generations[i]);
		write_file(longer, strlen(longer), 0600);
		ck_assert_int_eq(identity_load(path, &b, &f), SAKIORI_EFORMAT);
	}
	free(text);
}
END_TEST

START_TEST(the_id_string_is_one_word_and_reads_back_equal)
{
	struct identity *a = NULL;
	struct identity_public back;
	char text[IDENTITY_STRING_SIZE], again[IDENTITY_STRING_SIZE], name[IDENTITY_SHORT_SIZE];
	struct fault f = {0};
	ck_assert_int_eq(identity_generate(&a, &f), 0);
	identity_id_string(identity_public(a), text);
	ck_assert_uint_eq(strlen(text), IDENTITY_STRING_SIZE - 1);
	ck_assert_uint_eq(strspn(text + 9, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), 176);
	ck_assert_int_eq(identity_parse_id(text, &back, &f), 0);
	ck_assert_mem_eq(&back, identity_public(a), sizeof back);
	identity_id_string(&back, again);
	ck_assert_str_eq(text, again);
	identity_short(&back, name);
	ck_assert_uint_eq(strspn(name, "0123456789abcdef"), 8);
	identity_free(a);
}
END_TEST

START_TEST(no_character_of_the_id_string_can_be_changed)
{
	uint8_t seed[32] = {1};
	struct identity *a = NULL;
	struct identity_public out;
	char text[IDENTITY_STRING_SIZE + 1];
	struct fault f = {0};
	ck_assert_int_eq(identity_from_seed(seed, 3, &a, &f), 0);
	for (size_t i = 0; i < IDENTITY_STRING_SIZE - 1; i++) {
		identity_id_string(identity_public(a), text);
		text[i] = text[i] == 'A' ? 'B' : 'A';
		ck_assert_msg(identity_parse_id(text, &out, &f) < 0, "character %zu", i);
	}
	for (size_t cut = 0; cut < IDENTITY_STRING_SIZE - 1; cut++) {
		identity_id_string(identity_public(a), text);
		text[cut] = '\0';
		ck_assert_int_lt(identity_parse_id(text, &out, &f), 0);
	}
	identity_id_string(identity_public(a), text);
	strcat(text, "A");
	ck_assert_int_eq(identity_parse_id(text, &out, &f), SAKIORI_EFORMAT);
	identity_id_string(identity_public(a), text);
	text[7] = '2';
	ck_assert_int_eq(identity_parse_id(text, &out, &f), SAKIORI_EUNSUPPORTED);
	identity_free(a);
}
END_TEST

START_TEST(a_rotation_keeps_the_node_and_changes_the_pin)
{
	struct identity *a = NULL;
	struct fault f = {0};
	char text[IDENTITY_STRING_SIZE];
	ck_assert_int_eq(identity_generate(&a, &f), 0);
	struct identity_public before = *identity_public(a), after;
	ck_assert_int_eq(identity_rotate(a, &f), 0);
	after = *identity_public(a);
	ck_assert_uint_eq(after.generation, 2);
	ck_assert_int_eq(identity_compare(&before, &after), 0);
	ck_assert_mem_ne(before.x25519, after.x25519, 32);
	identity_id_string(&after, text);
	ck_assert_int_eq(identity_parse_id(text, &before, &f), 0);
	identity_free(a);
}
END_TEST

START_TEST(node_ids_have_a_total_order)
{
	uint8_t seed[32] = {0};
	struct identity *a = NULL, *b = NULL;
	uint8_t id[32];
	ck_assert_int_eq(identity_from_seed(seed, 1, &a, NULL), 0);
	seed[0] = 1;
	ck_assert_int_eq(identity_from_seed(seed, 1, &b, NULL), 0);
	int ab = identity_compare(identity_public(a), identity_public(b));
	int ba = identity_compare(identity_public(b), identity_public(a));
	ck_assert((ab < 0) != (ba < 0));
	ck_assert_int_eq(identity_compare(identity_public(a), identity_public(a)), 0);
	hash_bytes("sakiori-id", identity_public(a)->ed25519, 32, id);
	ck_assert_mem_eq(id, identity_public(a)->node_id, 32);
	ck_assert_int_eq(identity_from_seed(seed, 0, &a, NULL), SAKIORI_EINVAL);
	identity_free(a);
	identity_free(b);
}
END_TEST

START_TEST(a_network_secret_is_made_once_and_read_back)
{
	uint8_t *a = NULL, *b = NULL;
	struct fault f = {0};
	struct stat st;
	ck_assert_int_eq(network_secret_load(path, &a, &f), SAKIORI_ENOTFOUND);
	ck_assert_ptr_nonnull(strstr(f.text, "keygen --network"));
	ck_assert_int_eq(network_secret_generate(path, &f), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_int_eq(network_secret_load(path, &a, &f), 0);
	ck_assert_int_eq(network_secret_load(path, &b, &f), 0);
	ck_assert_mem_eq(a, b, NETWORK_SECRET_SIZE);
	ck_assert_int_eq(chmod(path, 0644), 0);
	network_secret_free(b);
	ck_assert_int_eq(network_secret_load(path, &b, &f), SAKIORI_EDENIED);
	network_secret_free(a);
}
END_TEST

START_TEST(zero_short_and_long_network_secrets_are_refused)
{
	static const struct {
		size_t digits;
		char digit;
		const char *tail;
		int code;
	} cases[] = {{64, '0', "\n", SAKIORI_EINVAL}, {64, '0', "", SAKIORI_EINVAL}, {63, 'a', "\n", SAKIORI_EFORMAT},
		{65, 'a', "\n", SAKIORI_EFORMAT}, {64, 'g', "\n", SAKIORI_EFORMAT}, {64, 'a', "\n\n", SAKIORI_EFORMAT},
		{64, 'a', "\nmore", SAKIORI_EFORMAT}, {0, 'a', "", SAKIORI_EFORMAT}};
	char text[128];
	uint8_t *secret = NULL;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		memset(text, cases[i].digit, cases[i].digits);
		strcpy(text + cases[i].digits, cases[i].tail);
		write_file(text, strlen(text), 0600);
		ck_assert_int_eq(network_secret_load(path, &secret, NULL), cases[i].code);
	}
	memset(text, 'a', 64);
	write_file(text, 64, 0600);
	ck_assert_int_eq(network_secret_load(path, &secret, NULL), 0);
	ck_assert_uint_eq(secret[31], 0xaa);
	network_secret_free(secret);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("identity");
	TCase *tests = tcase_create("identity");
	suite_add_tcase(suite, tests);
	tcase_set_timeout(tests, 60);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, an_identity_survives_its_file);
	tcase_add_test(tests, a_key_is_never_overwritten_by_accident);
	tcase_add_test(tests, a_file_that_others_can_read_is_refused_with_the_chmod_to_run);
	tcase_add_test(tests, a_file_of_another_user_is_refused);
	tcase_add_test(tests, damaged_and_foreign_files_are_refused);
	tcase_add_test(tests, the_id_string_is_one_word_and_reads_back_equal);
	tcase_add_test(tests, no_character_of_the_id_string_can_be_changed);
	tcase_add_test(tests, a_rotation_keeps_the_node_and_changes_the_pin);
	tcase_add_test(tests, node_ids_have_a_total_order);
	tcase_add_test(tests, a_network_secret_is_made_once_and_read_back);
	tcase_add_test(tests, zero_short_and_long_network_secrets_are_refused);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
