/* SPDX-License-Identifier: Apache-2.0 */
/* The protocol on bytes alone, then the socket with a loop in a thread of its own and plain blocking clients. */
#include "daemon/admin.h"
#include "daemon/admin_socket.h"

#include <check.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A site that is nothing but numbers. */
static struct {
	uint64_t round;
	unsigned peers_up;
	const char *state;
	int reload_rc;
	int changes;
} site;

static void fake_status(void *self, struct admin_status *out)
{
	(void)self;
	out->version = "0.1.0";
	out->site = "bremen";
	out->state = site.state;
	out->round = site.round;
	out->peers_up = site.peers_up;
	static const struct site_record last = {.round = 3, .loss = 2.5, .eval_loss_mixed = NAN};
	out->last = &last;
}

static size_t fake_peers(void *self, struct admin_peer *out, size_t max)
{
	(void)self;
	ck_assert_uint_ge(max, 2);
	out[0] = (struct admin_peer){.name = "kiel", .state = "up", .rtt_seconds = 0.5, .last_seen = 1e9};
	out[1] = (struct admin_peer){.name = "k\xff",
		.state = "waiting",
		.trouble = "no route",
		.cure = "check the address",
		.rtt_seconds = NAN,
		.last_seen = NAN};
	return 2;
}

static size_t fake_rounds(void *self, uint64_t after, struct site_record *out, size_t max)
{
	(void)self;
	size_t n = 0;
	for (uint64_t r = after + 1; r <= site.round && n < max; r++)
		out[n++] = (struct site_record){.round = r, .loss = 1.0 / (double)r, .eval_loss_trained = NAN};
	return n;
}

static int fake_pause(void *self, struct fault *f)
{
	(void)self;
	site.changes++;
	if (strcmp(site.state, "finished") == 0)
		return fault_set(f, SAKIORI_EINVAL, "the run is finished");
	site.state = "paused";
	return 0;
}

static int fake_resume(void *self, struct fault *f)
{
	(void)self;
	(void)f;
	site.changes++;
	site.state = "training";
	return 0;
}

static int fake_reload(void *self, struct fault *f)
{
	(void)self;
	site.changes++;
	return site.reload_rc == 0 ? 0 : fault_set(f, site.reload_rc, "a reload is running");
}

static struct log_ring *ring;

static struct admin *make_admin(void)
{
	site.round = 3;
	site.peers_up = 1;
	site.state = "training";
	site.reload_rc = 0;
	site.changes = 0;
	ring = log_ring_new(NULL, NULL);
	struct admin_backend backend = {.status = fake_status,
		.peers = fake_peers,
		.rounds = fake_rounds,
		.pause = fake_pause,
		.resume = fake_resume,
		.drain = fake_pause,
		.reload = fake_reload,
		.log = ring};
	return admin_new(&backend);
}

/* What a session sent, one NUL-ended reply after the other. */
static struct writer sent;
static size_t taken;

static void collect(void *self, const char *data, size_t n)
{
	(void)self;
	ck_assert_int_eq(data[n - 1], 0);
	write_bytes(&sent, data, n);
}

static json_t *take_reply(void)
{
	if (taken >= sent.size)
		return NULL;
	const char *text = (const char *)sent.data + taken;
	taken += strlen(text) + 1;
	json_t *reply = json_loads(text, 0, NULL);
	ck_assert_msg(reply != NULL, "no JSON: %s", text);
	return reply;
}

static struct admin *admin;

static void setup(void)
{
	admin = make_admin();
	writer_init(&sent);
	taken = 0;
}

static void teardown(void)
{
	admin_free(admin);
	log_ring_free(ring);
	writer_fini(&sent);
}

static int call(struct admin_session *s, const char *text)
{
	return admin_session_feed(s, text, strlen(text) + 1, 0);
}

static void expect_error(const char *error)
{
	json_t *reply = take_reply();
	ck_assert_ptr_nonnull(reply);
	ck_assert_str_eq(json_string_value(json_object_get(reply, "error")), error);
	json_decref(reply);
}

static json_t *parameters(json_t *reply)
{
	ck_assert_ptr_nonnull(reply);
	ck_assert_msg(json_object_get(reply, "error") == NULL, "%s", json_dumps(reply, 0));
	return json_object_get(reply, "parameters");
}

START_TEST(status_and_peers_have_stable_keys_and_null_for_the_unknown)
{
	struct admin_session *s = admin_session_new(admin, ADMIN_READ, collect, NULL);
	ck_assert_int_eq(call(s, "{\"method\":\"org.sakiori.Admin.Status\"}"), 0);
	json_t *reply = take_reply();
	json_t *status = json_object_get(parameters(reply), "status");
	ck_assert_int_eq(json_integer_value(json_object_get(status, "round")), 3);
	ck_assert_str_eq(json_string_value(json_object_get(status, "site")), "bremen");
	json_t *last = json_object_get(status, "last");
	ck_assert(json_is_null(json_object_get(last, "eval_loss")));
	ck_assert_double_eq(json_real_value(json_object_get(last, "loss")), 2.5);
	json_decref(reply);
	ck_assert_int_eq(call(s, "{\"method\":\"org.sakiori.Admin.Peers\",\"parameters\":{}}"), 0);
	reply = take_reply();
	json_t *peers = json_object_get(parameters(reply), "peers");
	ck_assert_uint_eq(json_array_size(peers), 2);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(peers, 1), "cure")), "check the address");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(peers, 1), "name")), "(not UTF-8)");
	json_decref(reply);
	admin_session_free(s);
}
END_TEST

START_TEST(readers_cannot_change_and_strangers_cannot_read)
{
	struct admin_session *reader = admin_session_new(admin, ADMIN_READ, collect, NULL);
	static const char *const changing[] = {"Pause", "Resume", "Drain", "Reload"};
	for (size_t i = 0; i < 4; i++) {
		char text[80];
		snprintf(text, sizeof text, "{\"method\":\"org.sakiori.Admin.%s\"}", changing[i]);
		ck_assert_int_eq(call(reader, text), 0);
		expect_error("org.sakiori.Admin.Denied");
	}
	admin_session_free(reader);
	struct admin_session *stranger = admin_session_new(admin, ADMIN_DENIED, collect, NULL);
	ck_assert_int_eq(call(stranger, "{\"method\":\"org.sakiori.Admin.Status\"}"), 0);
	expect_error("org.sakiori.Admin.Denied");
	ck_assert_int_eq(call(stranger, "{\"method\":\"org.varlink.service.GetInfo\"}"), 0);
	expect_error("org.sakiori.Admin.Denied");
	admin_session_free(stranger);
	ck_assert_int_eq(site.changes, 0);
	ck_assert_uint_eq(admin_denied(admin), 6);
}
END_TEST

START_TEST(changes_answer_with_the_new_state_or_the_reason)
{
	struct admin_session *s = admin_session_new(admin, ADMIN_CHANGE, collect, NULL);
	ck_assert_int_eq(call(s, "{\"method\":\"org.sakiori.Admin.Pause\"}"), 0);
	json_t *reply = take_reply();
	ck_assert_str_eq(json_string_value(json_object_get(parameters(reply), "state")), "paused");
	json_decref(reply);
	site.state = "finished";
	ck_assert_int_eq(call(s, "{\"method\":\"org.sakiori.Admin.Pause\"}"), 0);
	expect_error("org.sakiori.Admin.Failed");
	admin_session_free(s);
}
END_TEST

START_TEST(rounds_are_followed_as_they_are_committed)
{
	struct admin_session *s = admin_session_new(admin, ADMIN_READ, collect, NULL);
	call(s, "{\"method\":\"org.sakiori.Admin.Rounds\",\"parameters\":{\"count\":2},\"more\":true}");
	json_t *reply = take_reply();
	json_t *rounds = json_object_get(parameters(reply), "rounds");
	ck_assert_uint_eq(json_array_size(rounds), 2);
	ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(rounds, 0), "round")), 2);
	ck_assert(json_is_true(json_object_get(reply, "continues")));
	json_decref(reply);
	admin_poke(admin, 1);
	ck_assert_ptr_null(take_reply());
	site.round = 70;
	admin_poke(admin, 2);
	admin_poke(admin, 3);
	uint64_t seen = 3;
	while ((reply = take_reply()) != NULL) {
		rounds = json_object_get(parameters(reply), "rounds");
		for (size_t i = 0; i < json_array_size(rounds); i++)
			ck_assert_int_eq(
				json_integer_value(json_object_get(json_array_get(rounds, i), "round")), ++seen);
		json_decref(reply);
	}
	ck_assert_uint_eq(seen, 70);
	ck_assert(admin_session_is_busy(s));
	admin_session_free(s);
}
END_TEST

START_TEST(calls_that_arrive_together_are_answered_one_a_turn_and_in_order)
{
	static const char three[] = "{\"method\":\"org.sakiori.Admin.Rounds\",\"parameters\":{\"count\":1000}}\0"
				    "{\"method\":\"org.sakiori.Admin.Rounds\",\"parameters\":{\"count\":0}}\0"
				    "{\"method\":\"org.sakiori.Admin.Status\"}";
	struct admin_session *s = admin_session_new(admin, ADMIN_READ, collect, NULL);
	site.round = 130;
	ck_assert_int_eq(admin_session_feed(s, three, sizeof three, 0), 0);
	ck_assert_ptr_null(take_reply());
	ck_assert(admin_is_pending(admin));
	admin_poke(admin, 1);
	ck_assert_ptr_null(take_reply());
	site.round = 140; /* committed meanwhile: not part of the list */
	admin_poke(admin, 2);
	json_t *reply = take_reply();
	ck_assert_uint_eq(json_array_size(json_object_get(parameters(reply), "rounds")), 130);
	json_decref(reply);
	for (int i = 0; i < 2 && admin_is_pending(admin); i++)
		admin_poke(admin, 3);
	reply = take_reply();
	ck_assert_uint_eq(json_array_size(json_object_get(parameters(reply), "rounds")), 0);
	json_decref(reply);
	reply = take_reply();
	ck_assert_ptr_nonnull(json_object_get(parameters(reply), "status"));
	json_decref(reply);
	ck_assert(!admin_is_pending(admin));
	admin_session_free(s);
}
END_TEST

START_TEST(the_log_starts_with_its_last_lines_and_follows)
{
	for (int i = 0; i < 1200; i++) {
		char line[20];
		snprintf(line, sizeof line, "line %d", i);
		log_ring_sink(ring, LOG_LEVEL_INFO, line);
	}
	struct admin_session *s = admin_session_new(admin, ADMIN_READ, collect, NULL);
	call(s, "{\"method\":\"org.sakiori.Admin.Log\",\"parameters\":{\"count\":3},\"more\":true}");
	log_ring_sink(ring, LOG_LEVEL_WARN, "one more");
	admin_poke(admin, 1);
	json_t *first = take_reply(), *second = take_reply();
	json_t *lines = json_object_get(parameters(first), "lines");
	ck_assert_uint_eq(json_array_size(lines), 3);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(lines, 0), "text")), "line 1197");
	lines = json_object_get(parameters(second), "lines");
	ck_assert_uint_eq(json_array_size(lines), 1);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(lines, 0), "level")), "warn");
	json_decref(first);
	json_decref(second);
	admin_session_free(s);
	s = admin_session_new(admin, ADMIN_READ, collect, NULL);
	call(s, "{\"method\":\"org.sakiori.Admin.Log\",\"parameters\":{\"count\":1000}}");
	ck_assert_ptr_null(take_reply()); /* a long list takes many turns of the loop */
	int turns = 0;
	for (; admin_is_pending(admin) && turns < 100; turns++)
		admin_poke(admin, 1);
	ck_assert_int_ge(turns, 10);
	first = take_reply();
	ck_assert_uint_eq(json_array_size(json_object_get(parameters(first), "lines")), 1000);
	json_decref(first);
	admin_session_free(s);
}
END_TEST

START_TEST(wait_answers_when_reached_and_when_time_is_up)
{
	struct admin_session *s = admin_session_new(admin, ADMIN_READ, collect, NULL);
	call(s, "{\"method\":\"org.sakiori.Admin.Wait\",\"parameters\":{\"round\":5,\"peers\":1,\"timeout_ms\":1000}}");
	call(s, "{\"method\":\"org.sakiori.Admin.GetNothing\"}"); /* pipelined behind the wait */
	admin_poke(admin, 500);
	ck_assert_ptr_null(take_reply());
	site.round = 5;
	admin_poke(admin, 600);
	json_t *reply = take_reply();
	ck_assert(json_is_true(json_object_get(parameters(reply), "reached")));
	json_decref(reply);
	expect_error("org.varlink.service.MethodNotFound");
	call(s, "{\"method\":\"org.sakiori.Admin.Wait\",\"parameters\":{\"peers\":2,\"timeout_ms\":1000}}");
	admin_poke(admin, 999);
	ck_assert_ptr_null(take_reply());
	admin_poke(admin, 1000);
	reply = take_reply();
	ck_assert(json_is_false(json_object_get(parameters(reply), "reached")));
	ck_assert_int_eq(json_integer_value(json_object_get(parameters(reply), "peers_up")), 1);
	json_decref(reply);
	admin_session_free(s);
}
END_TEST

START_TEST(reload_answers_when_the_configuration_was_read)
{
	struct admin_session *s = admin_session_new(admin, ADMIN_CHANGE, collect, NULL);
	call(s, "{\"method\":\"org.sakiori.Admin.Reload\"}");
	ck_assert_ptr_null(take_reply());
	const char *applied[] = {"peers.kiel"}, *later[] = {"run.rounds", "model.path"};
	admin_reload_done(admin, 0, NULL, applied, 1, later, 2);
	json_t *reply = take_reply();
	ck_assert_uint_eq(json_array_size(json_object_get(parameters(reply), "applied")), 1);
	ck_assert_uint_eq(json_array_size(json_object_get(parameters(reply), "needs_restart")), 2);
	json_decref(reply);
	call(s, "{\"method\":\"org.sakiori.Admin.Reload\"}");
	struct fault f;
	fault_set(&f, SAKIORI_ECONFIG, "sakiorid.conf:3: unknown key");
	admin_reload_done(admin, f.code, &f, NULL, 0, NULL, 0);
	expect_error("org.sakiori.Admin.InvalidConfig");
	site.reload_rc = SAKIORI_EBUSY;
	call(s, "{\"method\":\"org.sakiori.Admin.Reload\"}");
	expect_error("org.sakiori.Admin.Busy");
	admin_session_free(s);
}
END_TEST

START_TEST(bad_calls_get_the_errors_that_varlink_names)
{
	struct admin_session *s = admin_session_new(admin, ADMIN_CHANGE, collect, NULL);
	call(s, "{\"method\":\"org.sakiori.Admin.Nothing\"}");
	expect_error("org.varlink.service.MethodNotFound");
	call(s, "{\"method\":\"org.other.Thing\"}");
	expect_error("org.varlink.service.InterfaceNotFound");
	call(s, "{\"method\":\"nodots\"}");
	expect_error("org.varlink.service.InterfaceNotFound");
	call(s, "{\"method\":\"org.sakiori.Admin.Rounds\",\"parameters\":{\"count\":-1}}");
	expect_error("org.varlink.service.InvalidParameter");
	call(s, "{\"method\":\"org.sakiori.Admin.Wait\",\"parameters\":{\"round\":\"7\"}}");
	expect_error("org.varlink.service.InvalidParameter");
	call(s, "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"a.b\"}}");
	expect_error("org.varlink.service.InterfaceNotFound");
	call(s, "{\"method\":\"org.sakiori.Admin.Resume\",\"oneway\":true}");
	ck_assert_ptr_null(take_reply());
	ck_assert_int_eq(site.changes, 1);
	admin_session_free(s);
}
END_TEST

START_TEST(what_is_no_call_ends_the_session)
{
	static const char *const bad[] = {"", "null", "[]", "{}", "{\"method\":1}",
		"{\"method\":\"a.b\",\"parameters\":[]}", "{\"method\":\"a.b\",\"method\":\"a.b\"}", "{\"method\":"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct admin_session *s = admin_session_new(admin, ADMIN_CHANGE, collect, NULL);
		ck_assert_int_lt(call(s, bad[i]), 0);
		ck_assert(admin_session_is_broken(s));
		admin_session_free(s);
	}
	struct admin_session *s = admin_session_new(admin, ADMIN_CHANGE, collect, NULL);
	char *flood = malloc(ADMIN_REQUEST_MAX + 1);
	memset(flood, ' ', ADMIN_REQUEST_MAX + 1);
	ck_assert_int_eq(admin_session_feed(s, flood, ADMIN_REQUEST_MAX, 0), 0);
	ck_assert_int_eq(admin_session_feed(s, flood, 1, 0), SAKIORI_ELIMIT);
	free(flood);
	admin_session_free(s);
	ck_assert_ptr_null(take_reply());
}
END_TEST

START_TEST(calls_cut_anywhere_are_joined)
{
	static const char two[] = "{\"method\":\"org.sakiori.Admin.Status\"}\0{\"method\":\"org.sakiori.Admin.Peers\"}";
	struct admin_session *s = admin_session_new(admin, ADMIN_READ, collect, NULL);
	for (size_t i = 0; i < sizeof two; i++)
		ck_assert_int_eq(admin_session_feed(s, two + i, 1, 0), 0);
	for (int i = 0; i < 2; i++) {
		json_t *reply = take_reply();
		parameters(reply);
		json_decref(reply);
	}
	ck_assert_ptr_null(take_reply());
	admin_session_free(s);
}
END_TEST

START_TEST(groups_decide_who_may_do_what)
{
	const gid_t groups[] = {5, 20, 30};
	ck_assert_int_eq(admin_access_of(0, 0, NULL, 0, 900, 20, 30), ADMIN_CHANGE);
	ck_assert_int_eq(admin_access_of(900, 1, NULL, 0, 900, 20, 30), ADMIN_CHANGE);
	ck_assert_int_eq(admin_access_of(7, 1, groups, 3, 900, 20, 30), ADMIN_CHANGE);
	ck_assert_int_eq(admin_access_of(7, 1, groups, 2, 900, 20, 30), ADMIN_READ);
	ck_assert_int_eq(admin_access_of(7, 30, NULL, 0, 900, 20, 30), ADMIN_CHANGE);
	ck_assert_int_eq(admin_access_of(7, 20, NULL, 0, 900, 20, 30), ADMIN_READ);
	ck_assert_int_eq(admin_access_of(7, 1, groups, 1, 900, 20, 30), ADMIN_DENIED);
	ck_assert_int_eq(admin_access_of(7, (gid_t)-1, NULL, 0, 900, (gid_t)-1, (gid_t)-1), ADMIN_DENIED);
}
END_TEST

/* The socket. */

static uv_loop_t loop;
static uv_async_t stop;
static struct admin_socket *server;
static pthread_t thread;
static char folder[64], path[100];

static void on_stop(uv_async_t *async)
{
	admin_socket_close(server, NULL, NULL);
	uv_close((uv_handle_t *)async, NULL);
}

static void *serve(void *unused)
{
	(void)unused;
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	return NULL;
}

static void start(const struct admin_socket_limits *limits)
{
	struct fault f;
	strcpy(folder, "/tmp/sakiori-admin-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/run/s.sock", folder);
	uv_loop_init(&loop);
	uv_async_init(&loop, &stop, on_stop);
	ck_assert_msg(admin_socket_open(&server, &loop, path, admin, limits, &f) == 0, "%s", f.text);
	pthread_create(&thread, NULL, serve, NULL);
}

static void finish(void)
{
	uv_async_send(&stop);
	pthread_join(thread, NULL);
	ck_assert_int_ne(access(path, F_OK), 0);
	char run[80];
	snprintf(run, sizeof run, "%s/run", folder);
	rmdir(run);
	rmdir(folder);
}

static int dial(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 10};
	snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
	return fd;
}

/* Whether a Status call on this connection is answered. */
static bool answers(int fd)
{
	static const char text[] = "{\"method\":\"org.sakiori.Admin.Status\"}";
	char reply[4096];
	if (send(fd, text, sizeof text, MSG_NOSIGNAL) != sizeof text)
		return false;
	ssize_t n = recv(fd, reply, sizeof reply - 1, 0);
	if (n <= 0)
		return false;
	reply[n] = '\0';
	return strstr(reply, "\"round\":3") != NULL;
}

START_TEST(the_socket_answers_its_own_user_and_has_mode_0660)
{
	start(NULL);
	struct stat st;
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 0777, 0660);
	int fd = dial();
	ck_assert(answers(fd));
	ck_assert(answers(fd));
	close(fd);
	finish();
}
END_TEST

START_TEST(a_stale_socket_is_replaced_and_anything_else_is_left_alone)
{
	start(NULL);
	struct fault f;
	struct admin_socket *second;
	ck_assert_int_eq(admin_socket_open(&second, &loop, path, admin, NULL, &f), SAKIORI_EBUSY);
	ck_assert_ptr_nonnull(strstr(f.text, path));
	int fd = dial();
	ck_assert(answers(fd));
	close(fd);
	finish();
	/* a regular file and a link to somebody's socket are not ours to delete */
	char file[80], run[80];
	snprintf(run, sizeof run, "%s/run", folder);
	ck_assert_int_eq(mkdir(folder, 0700) | mkdir(run, 0700), 0);
	snprintf(file, sizeof file, "%s/run/s.sock", folder);
	close(open(file, O_CREAT | O_WRONLY, 0600));
	ck_assert_int_eq(admin_socket_open(&second, &loop, file, admin, NULL, &f), SAKIORI_EBUSY);
	unlink(file);
	ck_assert_int_eq(symlink("elsewhere", file), 0);
	ck_assert_int_eq(admin_socket_open(&second, &loop, file, admin, NULL, &f), SAKIORI_EBUSY);
	unlink(file);
	/* what a killed daemon leaves */
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	snprintf(at.sun_path, sizeof at.sun_path, "%s", file);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	close(fd);
	uv_loop_init(&loop);
	ck_assert_int_eq(admin_socket_open(&second, &loop, file, admin, NULL, &f), 0);
	admin_socket_close(second, NULL, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	rmdir(run);
	rmdir(folder);
}
END_TEST

START_TEST(an_overlong_path_is_refused_by_name)
{
	char longest[200];
	struct fault f;
	struct admin_socket *s;
	memset(longest, 'a', sizeof longest);
	memcpy(longest, "/tmp/", 5);
	longest[108] = '\0';
	uv_loop_init(&loop);
	ck_assert_int_eq(admin_socket_open(&s, &loop, longest, admin, NULL, &f), SAKIORI_ECONFIG);
	ck_assert_ptr_nonnull(strstr(f.text, "108 bytes"));
	uv_loop_close(&loop);
}
END_TEST

START_TEST(idle_clients_give_way_and_busy_ones_do_not)
{
	struct admin_socket_limits limits = {.clients = 8};
	start(&limits);
	int fds[100];
	for (int i = 0; i < 100; i++)
		fds[i] = dial();
	int fd = dial();
	ck_assert(answers(fd));
	close(fd);
	for (int i = 0; i < 100; i++)
		close(fds[i]);
	finish();
}
END_TEST

START_TEST(a_client_that_reads_nothing_is_dropped_and_others_are_served)
{
	struct admin_socket_limits limits = {.queue_bytes = 20000};
	start(&limits);
	int fd = dial();
	struct timeval patience = {.tv_sec = 5};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	static const char text[] = "{\"method\":\"org.sakiori.Admin.Status\"}";
	bool dropped = false;
	for (int i = 0; i < 200000 && !dropped; i++)
		dropped = send(fd, text, sizeof text, MSG_NOSIGNAL) < 0;
	ck_assert(dropped);
	close(fd);
	fd = dial();
	ck_assert(answers(fd));
	close(fd);
	finish();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("admin");
	TCase *tests = tcase_create("protocol");
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, status_and_peers_have_stable_keys_and_null_for_the_unknown);
	tcase_add_test(tests, readers_cannot_change_and_strangers_cannot_read);
	tcase_add_test(tests, changes_answer_with_the_new_state_or_the_reason);
	tcase_add_test(tests, rounds_are_followed_as_they_are_committed);
	tcase_add_test(tests, calls_that_arrive_together_are_answered_one_a_turn_and_in_order);
	tcase_add_test(tests, the_log_starts_with_its_last_lines_and_follows);
	tcase_add_test(tests, wait_answers_when_reached_and_when_time_is_up);
	tcase_add_test(tests, reload_answers_when_the_configuration_was_read);
	tcase_add_test(tests, bad_calls_get_the_errors_that_varlink_names);
	tcase_add_test(tests, what_is_no_call_ends_the_session);
	tcase_add_test(tests, calls_cut_anywhere_are_joined);
	tcase_add_test(tests, groups_decide_who_may_do_what);
	suite_add_tcase(suite, tests);
	TCase *sockets = tcase_create("socket");
	tcase_set_timeout(sockets, 60);
	tcase_add_checked_fixture(sockets, setup, teardown);
	tcase_add_test(sockets, the_socket_answers_its_own_user_and_has_mode_0660);
	tcase_add_test(sockets, a_stale_socket_is_replaced_and_anything_else_is_left_alone);
	tcase_add_test(sockets, an_overlong_path_is_refused_by_name);
	tcase_add_test(sockets, idle_clients_give_way_and_busy_ones_do_not);
	tcase_add_test(sockets, a_client_that_reads_nothing_is_dropped_and_others_are_served);
	suite_add_tcase(suite, sockets);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
