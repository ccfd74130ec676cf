/* SPDX-License-Identifier: Apache-2.0 */
/* Real sockets on loopback and in a temporary directory, in one loop; strangers are plain sockets. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "net/address.h"
#include "net/link.h"

enum { CONNECTIONS_MAX = 128, TEST_SECONDS = 20 };

/* One end: its link and what happened to it. */
struct end {
	struct link *link;
	struct link_connection *connections[CONNECTIONS_MAX]; /* open ones, oldest first */
	int open, opened, closed, frames, drained, dial_failures, last_tag;
	enum link_end last_end;
	char last_why[400], last_remote[LINK_REMOTE_SIZE];
	uint64_t bytes, checksum;
	bool authenticate, echo, close_in_opened, close_in_frame, free_in_frame, free_in_opened, freed;
};

static uv_loop_t loop;
static struct end server, client;
static char directory[64], url[128];
static uint16_t port;

static void on_freed(void *owner)
{
	struct end *end = owner;
	end->freed = true;
}

static void on_opened(void *owner, struct link_connection *c, int tag, const char *remote)
{
	struct end *end = owner;
	ck_assert_int_lt(end->open, CONNECTIONS_MAX);
	end->connections[end->open++] = c;
	end->opened++;
	end->last_tag = tag;
	snprintf(end->last_remote, sizeof end->last_remote, "%s", remote);
	ck_assert_str_eq(remote, link_remote(c));
	ck_assert_ptr_null(link_data(c));
	link_set_data(c, end);
	if (end->authenticate)
		link_authenticated(c);
	if (end->close_in_opened)
		link_close(c);
	if (end->free_in_opened)
		link_free(end->link, on_freed);
}

static void on_frame(void *owner, struct link_connection *c, const uint8_t *frame, size_t n)
{
	struct end *end = owner;
	ck_assert_ptr_eq(link_data(c), end);
	end->frames++;
	end->bytes += n;
	for (size_t i = 0; i < n; i++)
		end->checksum = end->checksum * 31 + frame[i];
	if (end->echo)
		ck_assert_int_eq(link_send(c, frame, n), 0);
	if (end->close_in_frame) {
		link_close(c);
		link_close(c);
		ck_assert_int_eq(link_send(c, frame, n), SAKIORI_ECANCELLED);
	}
	if (end->free_in_frame)
		link_free(end->link, on_freed);
}

static void on_drained(void *owner, struct link_connection *c)
{
	struct end *end = owner;
	ck_assert_uint_gt(link_bulk_room(c), 0);
	end->drained++;
}

static void on_closed(void *owner, struct link_connection *c, enum link_end why)
{
	struct end *end = owner;
	int i = 0;
	while (i < end->open && end->connections[i] != c)
		i++;
	ck_assert_int_lt(i, end->open);
	memmove(end->connections + i, end->connections + i + 1, sizeof c * (size_t)(--end->open - i));
	end->closed++;
	end->last_end = why;
	link_close(c); /* allowed, and nothing */
}

static void on_dial_failed(void *owner, int tag, const char *why)
{
	struct end *end = owner;
	end->dial_failures++;
	end->last_tag = tag;
	snprintf(end->last_why, sizeof end->last_why, "%s", why);
}

static const struct link_events events = {on_opened, on_frame, on_drained, on_closed, on_dial_failed};

static void end_init(struct end *end, const struct link_limits *limits)
{
	memset(end, 0, sizeof *end);
	ck_assert_int_eq(link_new(&loop, &events, end, limits, &end->link, NULL), 0);
}

static void on_tick(uv_timer_t *timer)
{
	(void)timer;
}

/* Runs the loop until the condition holds; the test fails after TEST_SECONDS. */
#define RUN_UNTIL(condition)                                                                                           \
	do {                                                                                                           \
		uint64_t until_ = uv_hrtime() + (uint64_t)TEST_SECONDS * 1000000000;                                   \
		while (!(condition)) {                                                                                 \
			uv_run(&loop, UV_RUN_ONCE);                                                                    \
			ck_assert_msg(uv_hrtime() < until_, "never: %s", #condition);                                  \
		}                                                                                                      \
	} while (0)

static uv_timer_t tick;

static void setup(void)
{
	ck_assert_int_eq(uv_loop_init(&loop), 0);
	uv_timer_init(&loop, &tick);
	uv_timer_start(&tick, on_tick, 5, 5); /* so that RUN_UNTIL looks at its condition */
	strcpy(directory, "/tmp/check_link.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(url, sizeof url, "ipc://%s/s", directory);
	end_init(&server, NULL);
	end_init(&client, NULL);
}

static void teardown(void)
{
	if (!server.freed)
		link_free(server.link, on_freed);
	if (!client.freed)
		link_free(client.link, on_freed);
	RUN_UNTIL(server.freed && client.freed);
	ck_assert_int_eq(server.open + client.open, 0);
	ck_assert_int_eq(server.opened, server.closed);
	ck_assert_int_eq(client.opened, client.closed);
	uv_close((uv_handle_t *)&tick, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert_int_eq(uv_loop_close(&loop), 0);
	rmdir(directory);
}

/* Replaces the server, made by setup, by one with these limits. */
static void limit_server(const struct link_limits *limits)
{
	link_free(server.link, on_freed);
	RUN_UNTIL(server.freed);
	end_init(&server, limits);
}

static void listen_tcp(void)
{
	ck_assert_int_eq(link_listen(server.link, "tcp://127.0.0.1:0", &port, NULL), 0);
	ck_assert_uint_gt(port, 0);
	snprintf(url, sizeof url, "tcp://127.0.0.1:%u", port);
}

static void connect_both(void)
{
	ck_assert_int_eq(link_dial(client.link, url, 7, NULL), 0);
	RUN_UNTIL(client.open == 1 && server.open == 1);
	ck_assert_int_eq(client.last_tag, 7);
	ck_assert_int_eq(server.last_tag, -1);
}

static int stranger(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	return fd;
}

static void say(int fd, const void *data, size_t n)
{
	ck_assert_int_eq(send(fd, data, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* True once the other side has hung up (or reset). */
static bool is_hung_up(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN);
}

/* Sends `count` frames of growing sizes to the echoing server and checks that they come back in order. */
static void check_echo(int count)
{
	static uint8_t frame[LINK_FRAME_MAX];
	uint64_t checksum = 0, bytes = 0;
	server.authenticate = client.authenticate = server.echo = true;
	connect_both();
	struct link_connection *c = client.connections[0];
	for (int i = 0; i < count; i++) {
		size_t n = i < 20       ? (size_t)i + 1
			   : i % 7 == 0 ? LINK_FRAME_MAX
					: (size_t)(i * 7919) % LINK_FRAME_MAX + 1;
		for (size_t k = 0; k < n; k++) {
			frame[k] = (uint8_t)(k * 13 + (size_t)i);
			checksum = checksum * 31 + frame[k];
		}
		RUN_UNTIL(link_queued_bytes(c) < 300000 && link_queued_bytes(server.connections[0]) < 300000);
		ck_assert_int_eq(link_send(c, frame, n), 0);
		bytes += n;
	}
	/* the echo may come back before the word that the last frame has left */
	RUN_UNTIL(client.frames == count && link_queued_bytes(c) == 0);
	ck_assert_int_eq(server.frames, count);
	ck_assert_uint_eq(server.checksum, checksum);
	ck_assert_uint_eq(client.checksum, checksum);
	ck_assert_uint_eq(client.bytes, bytes);
	ck_assert_int_gt(client.drained, 0);
	ck_assert_uint_eq(link_statistics(client.link)->bytes_sent, bytes + (uint64_t)count * LINK_PREFIX_SIZE);
	ck_assert_uint_eq(link_statistics(client.link)->bytes_received, bytes + (uint64_t)count * LINK_PREFIX_SIZE);
}

START_TEST(frames_of_all_sizes_keep_their_order_over_tcp)
{
	listen_tcp();
	check_echo(300);
	ck_assert_ptr_nonnull(strstr(client.last_remote, "127.0.0.1:"));
}
END_TEST

START_TEST(frames_of_all_sizes_keep_their_order_over_ipc)
{
	ck_assert_int_eq(link_listen(server.link, url, NULL, NULL), 0);
	check_echo(300);
	ck_assert_str_eq(server.last_remote, "ipc");
}
END_TEST

START_TEST(ipv6_works_where_the_machine_has_it)
{
	if (link_listen(server.link, "tcp://[::1]:0", &port, NULL) != 0)
		return;
	snprintf(url, sizeof url, "tcp://[::1]:%u", port);
	connect_both();
	ck_assert_ptr_nonnull(strstr(server.last_remote, "[::1]:"));
}
END_TEST

START_TEST(a_byte_at_a_time_is_still_a_frame)
{
	static const uint8_t bytes[] = {3, 0, 0, 0, 'a', 'b', 'c', 1, 0, 0, 0, 'd'};
	listen_tcp();
	int fd = stranger();
	RUN_UNTIL(server.open == 1);
	for (size_t i = 0; i < sizeof bytes; i++) {
		say(fd, bytes + i, 1);
		uv_run(&loop, UV_RUN_ONCE);
		uv_run(&loop, UV_RUN_ONCE);
	}
	RUN_UNTIL(server.frames == 2);
	ck_assert_uint_eq(server.bytes, 4);
	close(fd);
	RUN_UNTIL(server.open == 0);
	ck_assert_int_eq(server.last_end, LINK_END_REMOTE);
}
END_TEST

START_TEST(hostile_bytes_end_their_own_connection_only)
{
	/* what an NNG message socket of Debian 12 dies from, and lengths around every limit */
	static const uint8_t nng_packet[16] = {
		0, 'S', 'P', 0, 0, 16, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xe0};
	static const uint32_t lengths[] = {
		0, 257, 0xffff, LINK_FRAME_MAX, LINK_FRAME_MAX + 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffc};
	server.echo = true;
	listen_tcp();
	connect_both();
	int expected = 0;
	for (size_t i = 0; i <= sizeof lengths / sizeof lengths[0]; i++) {
		int fd = stranger();
		RUN_UNTIL(server.open == 2);
		if (i == 0)
			say(fd, nng_packet, sizeof nng_packet);
		else
			say(fd, &lengths[i - 1], 4);
		RUN_UNTIL(is_hung_up(fd) && server.open == 1);
		ck_assert_int_eq(server.last_end, LINK_END_OVERSIZE);
		ck_assert_uint_eq(link_statistics(server.link)->oversize, (uint64_t)++expected);
		close(fd);
	}
	ck_assert_int_eq(server.frames, 0);
	ck_assert_int_eq(link_send(client.connections[0], (const uint8_t *)"still here", 10), 0);
	RUN_UNTIL(client.frames == 1);
}
END_TEST

START_TEST(strangers_may_send_only_short_frames)
{
	static uint8_t frame[LINK_FRAME_MAX];
	server.echo = true;
	listen_tcp();
	connect_both();
	ck_assert_int_eq(link_send(client.connections[0], frame, 256), 0);
	RUN_UNTIL(client.frames == 1);
	link_authenticated(server.connections[0]);
	link_authenticated(client.connections[0]);
	link_authenticated(client.connections[0]);
	ck_assert_int_eq(link_send(client.connections[0], frame, sizeof frame), 0);
	RUN_UNTIL(client.frames == 2);
	ck_assert_int_eq(link_send(client.connections[0], frame, 0), SAKIORI_EINVAL);
	ck_assert_int_eq(link_send(client.connections[0], frame, LINK_FRAME_MAX + 1), SAKIORI_EINVAL);
}
END_TEST

START_TEST(a_silent_connection_is_closed_by_its_owner)
{
	listen_tcp();
	int fd = stranger();
	RUN_UNTIL(server.open == 1);
	say(fd, "\x10\0", 2); /* half a prefix */
	uv_run(&loop, UV_RUN_ONCE);
	link_close(server.connections[0]);
	link_close(server.connections[0]);
	RUN_UNTIL(is_hung_up(fd) && server.open == 0);
	ck_assert_int_eq(server.last_end, LINK_END_CLOSED);
	close(fd);
}
END_TEST

START_TEST(strangers_are_limited_per_source_and_known_peers_do_not_count)
{
	int fd[12];
	listen_tcp();
	for (int i = 0; i < 8; i++)
		fd[i] = stranger();
	RUN_UNTIL(server.open == 8);
	fd[8] = stranger();
	RUN_UNTIL(is_hung_up(fd[8]));
	ck_assert_int_eq(server.opened, 8);
	ck_assert_uint_eq(link_statistics(server.link)->refused_source, 1);
	link_authenticated(server.connections[3]);
	fd[9] = stranger();
	RUN_UNTIL(server.open == 9);
	close(fd[0]);
	RUN_UNTIL(server.open == 8);
	fd[10] = stranger();
	RUN_UNTIL(server.open == 9);
	fd[11] = stranger();
	RUN_UNTIL(is_hung_up(fd[11]));
	for (int i = 1; i < 12; i++)
		close(fd[i]);
	RUN_UNTIL(server.open == 0);
}
END_TEST

START_TEST(strangers_are_limited_in_total)
{
	int fd[70];
	limit_server(&(struct link_limits){.unauthenticated_per_source = 1000});
	listen_tcp();
	for (int i = 0; i < 70; i++)
		fd[i] = stranger();
	RUN_UNTIL(server.open == 64 && link_statistics(server.link)->refused_total == 6);
	for (int i = 0; i < 70; i++)
		close(fd[i]);
	RUN_UNTIL(server.open == 0);
	int again = stranger();
	RUN_UNTIL(server.open == 1);
	close(again);
}
END_TEST

START_TEST(a_peer_that_does_not_read_fills_its_own_queue_only)
{
	static uint8_t frame[LINK_FRAME_MAX];
	listen_tcp();
	int fd = stranger();
	RUN_UNTIL(server.open == 1);
	struct link_connection *c = server.connections[0];
	int sent = 0, rc;
	for (; (rc = link_send(c, frame, sizeof frame)) == 0 && sent < 100000; sent++)
		uv_run(&loop, UV_RUN_NOWAIT);
	ck_assert_int_eq(rc, SAKIORI_ELIMIT);
	ck_assert_uint_le(link_queued_bytes(c), 1 << 20);
	ck_assert_uint_gt(link_queued_bytes(c), (1 << 20) - 2 * LINK_FRAME_MAX);
	ck_assert_uint_eq(link_bulk_room(c), 0);
	link_close_after_send(c, 100);
	ck_assert_int_eq(link_send(c, frame, 1), SAKIORI_ECANCELLED);
	RUN_UNTIL(server.open == 0);
	close(fd);
}
END_TEST

START_TEST(a_last_message_arrives_before_the_end)
{
	static uint8_t frame[LINK_FRAME_MAX];
	server.authenticate = client.authenticate = true;
	listen_tcp();
	connect_both();
	for (int i = 0; i < 10; i++)
		ck_assert_int_eq(link_send(client.connections[0], frame, sizeof frame), 0);
	link_close_after_send(client.connections[0], 10000);
	RUN_UNTIL(client.open == 0 && server.open == 0);
	ck_assert_int_eq(server.frames, 10);
	ck_assert_int_eq(client.last_end, LINK_END_CLOSED);
	ck_assert_int_eq(server.last_end, LINK_END_REMOTE);
}
END_TEST

START_TEST(a_connection_can_be_closed_inside_its_own_callbacks)
{
	listen_tcp();
	server.close_in_opened = true;
	ck_assert_int_eq(link_dial(client.link, url, 1, NULL), 0);
	RUN_UNTIL(client.closed == 1 && server.closed == 1);
	server.close_in_opened = false;
	server.close_in_frame = true;
	connect_both();
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(link_send(client.connections[0], (const uint8_t *)"x", 1), 0);
	RUN_UNTIL(client.closed == 2 && server.closed == 2);
	ck_assert_int_eq(server.frames, 1); /* none after link_close */
}
END_TEST

START_TEST(a_link_can_be_freed_inside_its_callbacks)
{
	listen_tcp();
	connect_both();
	server.free_in_frame = true;
	ck_assert_int_eq(link_send(client.connections[0], (const uint8_t *)"x", 1), 0);
	RUN_UNTIL(server.freed && client.open == 0);
	end_init(&server, NULL);
	listen_tcp();
	server.free_in_opened = true;
	ck_assert_int_eq(link_dial(client.link, url, 1, NULL), 0);
	RUN_UNTIL(server.freed);
	RUN_UNTIL(client.opened == client.closed || client.dial_failures > 0);
}
END_TEST

START_TEST(a_link_is_freed_with_everything_in_progress)
{
	static uint8_t frame[LINK_FRAME_MAX];
	listen_tcp();
	ck_assert_int_eq(link_listen(server.link, "tcp://127.0.0.1:0", NULL, NULL), 0);
	connect_both();
	for (int i = 0; i < 5; i++)
		link_send(client.connections[0], frame, sizeof frame);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(link_dial(client.link, url, i, NULL), 0);
	link_free(client.link, on_freed);
	RUN_UNTIL(client.freed);
	ck_assert_int_eq(client.dial_failures + client.opened, 6);
}
END_TEST

START_TEST(a_dial_that_nobody_answers_fails_with_its_address)
{
	listen_tcp();
	link_free(server.link, on_freed);
	RUN_UNTIL(server.freed);
	ck_assert_int_eq(link_dial(client.link, url, 3, NULL), 0);
	ck_assert_int_eq(client.dial_failures, 0);
	RUN_UNTIL(client.dial_failures == 1);
	ck_assert_int_eq(client.last_tag, 3);
	ck_assert_ptr_nonnull(strstr(client.last_why, url));
	snprintf(url, sizeof url, "ipc://%s/nobody", directory);
	ck_assert_int_eq(link_dial(client.link, url, 4, NULL), 0);
	RUN_UNTIL(client.dial_failures == 2);
	ck_assert_ptr_nonnull(strstr(client.last_why, url));
}
END_TEST

START_TEST(what_cannot_be_listened_on_is_named_with_a_cure)
{
	struct fault f = {0};
	char text[256];
	listen_tcp();
	ck_assert_int_eq(link_listen(client.link, url, NULL, &f), SAKIORI_EBUSY);
	ck_assert_ptr_nonnull(strstr(f.text, url));
	ck_assert_ptr_nonnull(strstr(f.text, "in use"));
	snprintf(text, sizeof text, "ipc://%s/s", directory);
	ck_assert_int_eq(link_listen(server.link, text, NULL, &f), 0);
	ck_assert_int_eq(link_listen(client.link, text, NULL, &f), SAKIORI_EBUSY);
	snprintf(text, sizeof text, "ipc://%s/missing/s", directory);
	ck_assert_int_eq(link_listen(server.link, text, NULL, &f), SAKIORI_ENOTFOUND);
	ck_assert_int_eq(link_listen(server.link, "tcp://192.0.2.1:7411", NULL, &f), SAKIORI_EINVAL);
	snprintf(text, sizeof text, "ipc:///tmp/%0110d", 0);
	ck_assert_int_eq(link_listen(server.link, text, NULL, &f), SAKIORI_ELIMIT);
	ck_assert_ptr_nonnull(strstr(f.text, "107"));
}
END_TEST

START_TEST(addresses_are_checked_before_anything_is_touched)
{
	static const char *const bad[] = {"", "tcp://", "tcp://host", "tcp://host:", "tcp://:7411", "tcp://host:x",
		"tcp://host:70000", "tcp://host:-1", "tcp://host:1/path", "tcp://a b:1", "ipc://", "tls+tcp://a:1",
		"ws://a:1", "/run/x", "host:7411"};
	static const char *const good[] = {"tcp://host:7411", "tcp://192.0.2.1:1", "tcp://[::1]:7411",
		"tcp://0.0.0.0:0", "ipc:///run/sakiori/peer.ipc"};
	struct fault f = {0};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		ck_assert_msg(address_check(bad[i], &f) == SAKIORI_EINVAL, "%s", bad[i]);
		ck_assert_int_eq(link_dial(client.link, bad[i], 1, &f), SAKIORI_EINVAL);
		ck_assert_int_eq(link_listen(client.link, bad[i], NULL, &f), SAKIORI_EINVAL);
	}
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		ck_assert_msg(address_check(good[i], &f) == 0, "%s: %s", good[i], f.text);
	struct link *none = NULL;
	ck_assert_int_eq(link_new(&loop, &events, &client, &(struct link_limits){.send_queue_bytes = 1000}, &none, &f),
		SAKIORI_EINVAL);
}
END_TEST

START_TEST(connections_that_come_and_go_leave_nothing)
{
	const struct link_statistics *seen = link_statistics(server.link);
	listen_tcp();
	for (int i = 0; i < 200; i++) {
		int fd = stranger();
		if (i % 3 == 0)
			say(fd, "\xff\xff\xff\xff", 4);
		if (i % 3 == 1)
			say(fd, "\1\0\0\0x", 5);
		close(fd);
		uv_run(&loop, UV_RUN_NOWAIT);
		if (i % 8 == 7) /* not only those that were accepted so far: a full backlog would block connect() */
			RUN_UNTIL(seen->accepted + seen->refused_source == (uint64_t)i + 1 && server.open == 0);
	}
	RUN_UNTIL(server.open == 0);
	server.echo = true;
	connect_both();
	ck_assert_int_eq(link_send(client.connections[0], (const uint8_t *)"x", 1), 0);
	RUN_UNTIL(client.frames == 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("link");
	TCase *tests = tcase_create("link");
	suite_add_tcase(suite, tests);
	tcase_set_timeout(tests, 120);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, frames_of_all_sizes_keep_their_order_over_tcp);
	tcase_add_test(tests, frames_of_all_sizes_keep_their_order_over_ipc);
	tcase_add_test(tests, ipv6_works_where_the_machine_has_it);
	tcase_add_test(tests, a_byte_at_a_time_is_still_a_frame);
	tcase_add_test(tests, hostile_bytes_end_their_own_connection_only);
	tcase_add_test(tests, strangers_may_send_only_short_frames);
	tcase_add_test(tests, a_silent_connection_is_closed_by_its_owner);
	tcase_add_test(tests, strangers_are_limited_per_source_and_known_peers_do_not_count);
	tcase_add_test(tests, strangers_are_limited_in_total);
	tcase_add_test(tests, a_peer_that_does_not_read_fills_its_own_queue_only);
	tcase_add_test(tests, a_last_message_arrives_before_the_end);
	tcase_add_test(tests, a_connection_can_be_closed_inside_its_own_callbacks);
	tcase_add_test(tests, a_link_can_be_freed_inside_its_callbacks);
	tcase_add_test(tests, a_link_is_freed_with_everything_in_progress);
	tcase_add_test(tests, a_dial_that_nobody_answers_fails_with_its_address);
	tcase_add_test(tests, what_cannot_be_listened_on_is_named_with_a_cure);
	tcase_add_test(tests, addresses_are_checked_before_anything_is_touched);
	tcase_add_test(tests, connections_that_come_and_go_leave_nothing);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
