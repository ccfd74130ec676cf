/* SPDX-License-Identifier: Apache-2.0 */
/* The server runs on a loop in a thread of its own; each test talks to it through a plain blocking socket. */
#include "daemon/http.h"

#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uv_loop_t loop;
static uv_async_t stop;
static struct http *server;
static pthread_t thread;
static bool is_ready;

static void metrics_page(void *self, struct writer *out)
{
	(void)self;
	write_bytes(out, "sakiori_round 3\n", 16);
}

static void status_page(void *self, struct writer *out)
{
	(void)self;
	write_bytes(out, "{\"round\":3}", 11);
}

static bool ready_page(void *self, char *why, size_t size)
{
	(void)self;
	if (!is_ready)
		snprintf(why, size, "loading the model");
	return is_ready;
}

static void on_stop(uv_async_t *async)
{
	http_close(server);
	uv_close((uv_handle_t *)async, NULL);
}

static void *serve(void *unused)
{
	(void)unused;
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	return NULL;
}

static void start(unsigned connections, unsigned lifetime_ms)
{
	static const char *const hosts[] = {"site.example", NULL};
	struct http_options options = {
		.address = "127.0.0.1:0", .hosts = hosts, .connections = connections, .lifetime_ms = lifetime_ms};
	struct http_pages pages = {.metrics = metrics_page, .status = status_page, .ready = ready_page};
	struct fault f;
	uv_loop_init(&loop);
	uv_async_init(&loop, &stop, on_stop);
	ck_assert_msg(http_open(&server, &loop, &options, &pages, &f) == 0, "%s", f.text);
	pthread_create(&thread, NULL, serve, NULL);
}

static void finish(void)
{
	uv_async_send(&stop);
	pthread_join(thread, NULL);
}

static int dial(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in to = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)http_port(server)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval patience = {.tv_sec = 8};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
	return fd;
}

/* Sends the request and returns everything up to the end of the connection; valid until the next call. */
static const char *ask(const char *request)
{
	static char answer[8192];
	size_t got = 0;
	int fd = dial();
	ck_assert_int_gt(send(fd, request, strlen(request), MSG_NOSIGNAL), 0);
	for (ssize_t n; got < sizeof answer - 1 && (n = recv(fd, answer + got, sizeof answer - 1 - got, 0)) > 0;)
		got += (size_t)n;
	answer[got] = '\0';
	close(fd);
	return answer;
}

static void expect(const char *request, const char *status, const char *body)
{
	const char *answer = ask(request);
	ck_assert_msg(strncmp(answer, "HTTP/1.1 ", 9) == 0 && strncmp(answer + 9, status, 3) == 0, "%s -> %s", request,
		answer);
	if (body != NULL)
		ck_assert_msg(strstr(answer, body) != NULL, "%s -> %s", request, answer);
}

START_TEST(pages_are_served_to_loopback_and_configured_names)
{
	start(0, 0);
	expect("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9411\r\n\r\n", "200", "\r\n\r\nsakiori_round 3\n");
	expect("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n", "200", "{\"round\":3}");
	expect("GET /healthz HTTP/1.1\r\nHost: [::1]:9411\r\n\r\n", "200", "ok\n");
	expect("GET /healthz HTTP/1.1\r\nHost: Site.Example:80\r\n\r\n", "200", "ok\n");
	expect("GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n", "404", NULL);
	finish();
}
END_TEST

START_TEST(readiness_says_what_it_waits_for)
{
	start(0, 0);
	is_ready = false;
	expect("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", "503", "loading the model\n");
	is_ready = true;
	expect("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", "200", "ready\n");
	finish();
}
END_TEST

START_TEST(other_hosts_are_misdirected)
{
	start(0, 0);
	expect("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421", NULL);
	expect("GET /metrics HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", "421", NULL);
	expect("GET /metrics HTTP/1.1\r\nHost: localhost:80@evil\r\n\r\n", "421", NULL);
	expect("GET /metrics HTTP/1.0\r\n\r\n", "421", NULL);
	finish();
}
END_TEST

START_TEST(methods_that_change_are_refused)
{
	start(0, 0);
	expect("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", "405", "Allow: GET, HEAD");
	expect("DELETE /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "405", NULL);
	const char *head = ask("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
	ck_assert_int_eq(strncmp(head, "HTTP/1.1 200", 12), 0);
	ck_assert_ptr_null(strstr(head, "sakiori_round"));
	finish();
}
END_TEST

START_TEST(an_overlong_request_is_refused)
{
	start(0, 0);
	char *request = malloc(70000);
	size_t n = (size_t)sprintf(request, "GET /");
	memset(request + n, 'a', 65000);
	sprintf(request + n + 65000, " HTTP/1.1\r\nHost: localhost\r\n\r\n");
	const char *answer = ask(request);
	ck_assert_ptr_null(strstr(answer, "200 OK"));
	free(request);
	expect("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "200", NULL);
	finish();
}
END_TEST

START_TEST(idle_and_dripping_clients_give_their_places_back)
{
	start(4, 1500);
	int fds[4];
	for (int i = 0; i < 4; i++)
		fds[i] = dial();
	time_t began = time(NULL);
	for (int tick = 0; tick < 40; tick++) { /* 1 byte each 100 ms would hold off an inactivity timeout for ever */
		for (int i = 0; i < 4; i++)
			(void)!send(fds[i], "G", 1, MSG_NOSIGNAL);
		usleep(100000);
	}
	expect("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "200", NULL);
	ck_assert_int_lt(time(NULL) - began, 8);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	finish();
}
END_TEST

START_TEST(an_address_in_use_is_named)
{
	start(0, 0);
	char address[40];
	struct http *second;
	struct fault f;
	snprintf(address, sizeof address, "127.0.0.1:%u", http_port(server));
	struct http_options options = {.address = address};
	struct http_pages pages = {.metrics = metrics_page, .status = status_page, .ready = ready_page};
	ck_assert_int_eq(http_open(&second, &loop, &options, &pages, &f), SAKIORI_EBUSY);
	ck_assert_ptr_nonnull(strstr(f.text, address));
	options.address = "nonsense";
	ck_assert_int_eq(http_open(&second, &loop, &options, &pages, &f), SAKIORI_ECONFIG);
	finish();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("http");
	TCase *tests = tcase_create("http");
	tcase_set_timeout(tests, 30);
	tcase_add_test(tests, pages_are_served_to_loopback_and_configured_names);
	tcase_add_test(tests, readiness_says_what_it_waits_for);
	tcase_add_test(tests, other_hosts_are_misdirected);
	tcase_add_test(tests, methods_that_change_are_refused);
	tcase_add_test(tests, an_overlong_request_is_refused);
	tcase_add_test(tests, idle_and_dripping_clients_give_their_places_back);
	tcase_add_test(tests, an_address_in_use_is_named);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
