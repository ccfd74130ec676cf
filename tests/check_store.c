/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/store.h"
#include "daemon/store_image.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "gossip/codec.h"

#define N 1000

static char folder[64];
static struct store *store;
static struct fault f;

static void open_store(void)
{
	ck_assert_msg(store_open(&store, folder, &f) == 0, "%s", f.text);
}

static void setup(void)
{
	strcpy(folder, "/tmp/sakiori-store-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	open_store();
}

static void teardown(void)
{
	char command[100];
	store_close(store);
	snprintf(command, sizeof command, "rm -r '%s'", folder);
	ck_assert_int_eq(system(command), 0);
}

/* A site whose every number is a function of its round. */
struct example {
	struct site_image image;
	float x[N], m[N], v[N], self[N], replica[N];
	uint8_t payload[2 * N];
	uint64_t pins[2];
	struct site_edge_row edge;
	struct site_record record;
};

static float value(uint64_t round, int which, size_t i)
{
	return (float)(round * 10 + (uint64_t)which) + (float)i / N;
}

static struct example *example(uint64_t round)
{
	struct example *e = must_calloc(1, sizeof *e);
	for (size_t i = 0; i < N; i++) {
		e->x[i] = value(round, 1, i);
		e->m[i] = value(round, 2, i);
		e->v[i] = value(round, 3, i);
		e->self[i] = value(round, 4, i);
		e->replica[i] = value(round, 5, i);
	}
	memset(e->payload, (int)(round & 0xff), sizeof e->payload);
	memset(e->edge.id, 0xab, sizeof e->edge.id);
	e->edge.numbers = (struct round_edge_row){.have = round + 1,
		.seen = round,
		.acknowledged = 1,
		.applied = 2,
		.word = {.number = 7, .a = round, .b = 3, .round = round, .weight = 1.0f / 3},
		.held = {1, round},
		.held_count = 2};
	e->edge.replica = e->replica;
	e->edge.replica_changed = true;
	e->pins[0] = round > 0 ? round - 1 : 0;
	e->pins[1] = round;
	e->record = (struct site_record){
		.round = round, .loss = 1.5, .eval_loss_mixed = NAN, .tokens = round * 100, .unix_ms = 1750000000123};
	e->image = (struct site_image){.run_id = {1},
		.layout_hash = {2},
		.size = N,
		.row = {.round = round, .sequence = round, .point = ROUND_MIXED},
		.step = round * 5,
		.x = e->x,
		.m = e->m,
		.v = e->v,
		.moments_changed = true,
		.self = e->self,
		.self_changed = true,
		.payload = e->payload,
		.payload_hash = {3},
		.pins = e->pins,
		.pin_count = 2,
		.edges = &e->edge,
		.edge_count = 1,
		.records = {&e->record, NULL}};
	return e;
}

static int commit(uint64_t round)
{
	struct example *e = example(round);
	int rc = store_image_commit(store, &e->image, &f);
	free(e);
	return rc;
}

static int load(struct example *e)
{
	*e = (struct example){0};
	e->image =
		(struct site_image){.size = N, .x = e->x, .m = e->m, .v = e->v, .self = e->self, .payload = e->payload};
	return store_image_load(store, &e->image, &f);
}

static void release(struct example *e)
{
	for (size_t i = 0; i < e->image.edge_count; i++)
		free(e->image.edges[i].replica);
	free(e->image.edges);
}

/* Loads and compares everything with example(round). */
static void expect_round(uint64_t round)
{
	static struct example e;
	struct example *expected = example(round);
	ck_assert_msg(load(&e) == 0, "%s", f.text);
	ck_assert_uint_eq(e.image.row.round, round);
	ck_assert_uint_eq(e.image.row.sequence, round);
	ck_assert_uint_eq(e.image.step, round * 5);
	ck_assert_mem_eq(e.x, expected->x, sizeof e.x);
	ck_assert_mem_eq(e.m, expected->m, sizeof e.m);
	ck_assert_mem_eq(e.v, expected->v, sizeof e.v);
	ck_assert_mem_eq(e.self, expected->self, sizeof e.self);
	ck_assert_mem_eq(e.image.payload_hash, expected->image.payload_hash, HASH_SIZE);
	if (round > 0)
		ck_assert_mem_eq(e.payload, expected->payload, codec_payload_bytes(N));
	ck_assert_uint_eq(e.image.edge_count, 1);
	ck_assert_mem_eq(e.image.edges[0].id, expected->edge.id, IDENTITY_KEY_SIZE);
	ck_assert_mem_eq(e.image.edges[0].replica, expected->replica, sizeof expected->replica);
	const struct round_edge_row *got = &e.image.edges[0].numbers, *want = &expected->edge.numbers;
	ck_assert(got->have == want->have && got->seen == want->seen && got->acknowledged == want->acknowledged &&
		  got->applied == want->applied && got->word.number == want->word.number &&
		  got->word.a == want->word.a && got->word.b == want->word.b && got->word.round == want->word.round &&
		  got->word.weight == want->word.weight && got->held_count == 2 && got->held[0] == want->held[0] &&
		  got->held[1] == want->held[1]);
	release(&e);
	free(expected);
}

static size_t object_files(void)
{
	char path[100];
	snprintf(path, sizeof path, "%s/objects", folder);
	DIR *d = opendir(path);
	size_t n = 0;
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;)
		n += entry->d_name[0] != '.';
	closedir(d);
	return n;
}

START_TEST(what_was_committed_is_there_after_a_restart)
{
	static struct example e;
	ck_assert_int_eq(load(&e), SAKIORI_ENOTFOUND);
	for (uint64_t round = 0; round < 4; round++)
		ck_assert_msg(commit(round) == 0, "%s", f.text);
	store_close(store);
	open_store();
	ck_assert_int_eq(store_verify(store, &f), 0);
	expect_round(3);
	struct site_record records[10];
	ck_assert_int_eq(store_last_records(store, records, 10, &f), 4);
	ck_assert_uint_eq(records[3].round, 3);
	ck_assert_uint_eq(records[3].tokens, 300);
	ck_assert_uint_eq(records[3].unix_ms, 1750000000123);
	ck_assert(isnan(records[3].eval_loss_mixed));
	ck_assert_int_eq(store_last_records(store, records, 2, &f), 2);
	ck_assert_uint_eq(records[0].round, 2);
}
END_TEST

START_TEST(pinned_versions_stay_and_others_go)
{
	static float own[N];
	for (uint64_t round = 0; round < 4; round++)
		ck_assert_int_eq(commit(round), 0);
	ck_assert_int_eq(store_image_load_own(store, 2, own, N, &f), 0);
	ck_assert_float_eq(own[0], value(2, 4, 0));
	ck_assert_int_ne(store_image_load_own(store, 1, own, N, &f), 0);
	/* model, moments, update, replica, and the own replica twice: nothing of the rounds before */
	ck_assert_uint_eq(object_files(), 6);
}
END_TEST

START_TEST(unchanged_vectors_keep_their_files_and_forgotten_edges_lose_theirs)
{
	ck_assert_int_eq(commit(2), 0);
	struct example *e = example(2);
	e->image.moments_changed = e->image.self_changed = e->edge.replica_changed = false;
	e->x[0] = -1;
	memset(e->m, 0, sizeof e->m);
	ck_assert_int_eq(store_image_commit(store, &e->image, &f), 0);
	static struct example loaded;
	ck_assert_int_eq(load(&loaded), 0);
	ck_assert_float_eq(loaded.x[0], -1);
	ck_assert_float_eq(loaded.m[0], value(2, 2, 0));
	ck_assert_float_eq(loaded.image.edges[0].replica[0], value(2, 5, 0));
	release(&loaded);
	e->image.edge_count = 0;
	size_t before = object_files();
	ck_assert_int_eq(store_image_commit(store, &e->image, &f), 0);
	ck_assert_uint_eq(object_files(), before - 1);
	ck_assert_int_eq(load(&loaded), 0);
	ck_assert_uint_eq(loaded.image.edge_count, 0);
	release(&loaded);
	free(e);
}
END_TEST

START_TEST(a_second_daemon_is_refused_by_the_name_of_the_first)
{
	struct store *second;
	char pid[32];
	snprintf(pid, sizeof pid, "process id %ld:", (long)getpid());
	ck_assert_int_eq(store_open(&second, folder, &f), SAKIORI_EBUSY);
	ck_assert_msg(strstr(f.text, pid) != NULL, "%s", f.text);
}
END_TEST

START_TEST(a_newer_schema_and_a_foreign_database_are_refused)
{
	char path[100];
	sqlite3 *db;
	snprintf(path, sizeof path, "%s/state.sqlite", folder);
	store_close(store);
	sqlite3_open(path, &db);
	sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL);
	sqlite3_close(db);
	ck_assert_int_eq(store_open(&store, folder, &f), SAKIORI_EUNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(f.text, "newer"));
	sqlite3_open(path, &db);
	sqlite3_exec(db, "PRAGMA user_version=1; PRAGMA application_id=5", NULL, NULL, NULL);
	sqlite3_close(db);
	ck_assert_int_eq(store_open(&store, folder, &f), SAKIORI_EFORMAT);
	FILE *file = fopen(path, "w");
	for (int i = 0; i < 5000; i++)
		fputs("no database", file);
	fclose(file);
	ck_assert_int_eq(store_open(&store, folder, &f), SAKIORI_ECORRUPT);
}
END_TEST

/* A disk that changes a bit inside a row: SQLite itself has no checksum of it. */
START_TEST(a_changed_value_in_the_database_is_never_loaded)
{
	static const char *const damage[] = {"UPDATE edges SET acknowledged = acknowledged + 1",
		"UPDATE edges SET word_weight = word_weight + 0.0625",
		"UPDATE meta SET value = 7 WHERE key = 'sequence'",
		"UPDATE objects SET version = version + 1 WHERE kind = 'own'", "DELETE FROM edges",
		"DELETE FROM meta WHERE key = 'seal'"};
	char path[512];
	snprintf(path, sizeof path, "%s/state.sqlite", folder);
	for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
		ck_assert_int_eq(commit(3 + i), 0);
		store_close(store);
		sqlite3 *db;
		sqlite3_open(path, &db);
		ck_assert_int_eq(sqlite3_exec(db, damage[i], NULL, NULL, NULL), SQLITE_OK);
		ck_assert_int_gt(sqlite3_changes(db), 0);
		sqlite3_close(db);
		ck_assert_msg(store_open(&store, folder, &f) == SAKIORI_ECORRUPT, "%s", damage[i]);
		ck_assert_msg(strstr(f.text, "seal") != NULL, "%s", f.text);
		char command[200];
		snprintf(command, sizeof command, "rm -rf %s/state.sqlite* %s/objects", folder, folder);
		ck_assert_int_eq(system(command), 0);
		open_store();
	}
}
END_TEST

/* Overwrites, cuts or removes one object at a time; each must be found by name. */
START_TEST(a_damaged_file_is_never_loaded)
{
	ck_assert_int_eq(commit(3), 0);
	char path[512], objects[100];
	snprintf(objects, sizeof objects, "%s/objects", folder);
	DIR *d = opendir(objects);
	size_t damaged = 0;
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", objects, entry->d_name);
		int fd = open(path, O_RDWR);
		struct stat st;
		fstat(fd, &st);
		for (off_t at = 0; at < st.st_size; at += st.st_size / 9) {
			uint8_t byte, flipped;
			ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
			flipped = byte ^ 0x10;
			ck_assert_int_eq(pwrite(fd, &flipped, 1, at), 1);
			ck_assert_int_eq(store_verify(store, &f), SAKIORI_ECORRUPT);
			ck_assert_msg(strstr(f.text, entry->d_name) != NULL, "%s", f.text);
			ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
			damaged++;
		}
		ck_assert_int_eq(store_verify(store, &f), 0);
		ck_assert_int_eq(ftruncate(fd, st.st_size + 1), 0);
		ck_assert_int_eq(store_verify(store, &f), SAKIORI_ECORRUPT);
		ck_assert_int_eq(ftruncate(fd, st.st_size), 0);
		close(fd);
	}
	closedir(d);
	ck_assert_uint_ge(damaged, 5 * 9);
	unlink(path);
	static struct example e;
	ck_assert_int_eq(load(&e), SAKIORI_ECORRUPT);
	ck_assert_ptr_nonnull(strstr(f.text, "backup"));
}
END_TEST

START_TEST(whose_state_it_is_comes_back_and_another_size_is_refused)
{
	static struct example e;
	ck_assert_int_eq(commit(1), 0);
	ck_assert_int_eq(load(&e), 0);
	ck_assert_int_eq(e.image.run_id[0], 1);
	ck_assert_int_eq(e.image.layout_hash[0], 2);
	release(&e);
	e.image.size = N - 1;
	ck_assert_int_eq(store_image_load(store, &e.image, &f), SAKIORI_EMISMATCH);
}
END_TEST

START_TEST(garbage_goes_and_foreign_files_stay)
{
	char path[300];
	ck_assert_int_eq(commit(1), 0);
	size_t before = object_files();
	static const char *const garbage[] = {"incoming.safetensors", "incoming.safetensors.a1b2c3",
		"00000000000000000000000000000000000000000000000000000000000000ff.safetensors"};
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/objects/%s", folder, garbage[i]);
		close(open(path, O_CREAT | O_WRONLY, 0600));
	}
	snprintf(path, sizeof path, "%s/objects/notes.txt", folder);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	store_collect(store);
	ck_assert_uint_eq(object_files(), before + 1);
	expect_round(1);
}
END_TEST

/* A file size limit stands in for a full disk: it needs no rights, and write(2) fails in the middle of a file just the
 * same. */
START_TEST(a_full_disk_loses_nothing_and_the_next_commit_goes_on)
{
	struct rlimit limit, before;
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(commit(1), 0);
	getrlimit(RLIMIT_FSIZE, &before);
	for (rlim_t bytes = 0; bytes < 5000; bytes += 500) {
		limit = before;
		limit.rlim_cur = bytes;
		setrlimit(RLIMIT_FSIZE, &limit);
		int rc = commit(2);
		setrlimit(RLIMIT_FSIZE, &before);
		ck_assert_int_lt(rc, 0);
		ck_assert_int_eq(store_verify(store, &f), 0);
		expect_round(1);
		ck_assert_uint_eq(object_files(), 5);
	}
	ck_assert_msg(commit(2) == 0, "%s", f.text);
	expect_round(2);
}
END_TEST

START_TEST(killed_at_any_moment_the_last_commit_is_whole)
{
	int report[2];
	ck_assert_int_eq(commit(0), 0);
	uint64_t durable = 0, kills_that_lost_time = 0;
	srand(7);
	for (int kill_number = 0; kill_number < 25; kill_number++) {
		store_close(store);
		ck_assert_int_eq(pipe(report), 0);
		pid_t child = fork();
		if (child == 0) {
			close(report[0]);
			if (store_open(&store, folder, &f) != 0)
				_exit(1);
			for (uint64_t round = durable + 1;; round++)
				if (commit(round) != 0 || write(report[1], &round, sizeof round) != sizeof round)
					_exit(2);
		}
		close(report[1]);
		usleep((useconds_t)(20000 + rand() % 400000));
		kill(child, SIGKILL);
		int status;
		waitpid(child, &status, 0);
		ck_assert(WIFSIGNALED(status));
		uint64_t said = durable;
		while (read(report[0], &said, sizeof said) == sizeof said)
			;
		close(report[0]);
		open_store();
		ck_assert_msg(store_verify(store, &f) == 0, "%s", f.text);
		static struct example e;
		ck_assert_msg(load(&e) == 0, "%s", f.text);
		uint64_t found = e.image.row.round;
		release(&e);
		/* every commit that was answered is there; at most the one under way is there besides */
		ck_assert_msg(found == said || found == said + 1, "found %d, answered %d", (int)found, (int)said);
		expect_round(found);
		kills_that_lost_time += found == durable;
		durable = found;
	}
	ck_assert_uint_gt(durable, 10);
	ck_assert_uint_lt(kills_that_lost_time, 25);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store");
	TCase *tests = tcase_create("store");
	tcase_set_timeout(tests, 120);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, what_was_committed_is_there_after_a_restart);
	tcase_add_test(tests, pinned_versions_stay_and_others_go);
	tcase_add_test(tests, unchanged_vectors_keep_their_files_and_forgotten_edges_lose_theirs);
	tcase_add_test(tests, a_second_daemon_is_refused_by_the_name_of_the_first);
	tcase_add_test(tests, a_newer_schema_and_a_foreign_database_are_refused);
	tcase_add_test(tests, a_changed_value_in_the_database_is_never_loaded);
	tcase_add_test(tests, a_damaged_file_is_never_loaded);
	tcase_add_test(tests, whose_state_it_is_comes_back_and_another_size_is_refused);
	tcase_add_test(tests, garbage_goes_and_foreign_files_stay);
	tcase_add_test(tests, a_full_disk_loses_nothing_and_the_next_commit_goes_on);
	tcase_add_test(tests, killed_at_any_moment_the_last_commit_is_whole);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
