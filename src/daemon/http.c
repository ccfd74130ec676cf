/* SPDX-License-Identifier: Apache-2.0 */
/* One request is answered within one call: every page is built in memory, from numbers that the loop owns. Slow readers
 * keep only their own response; each connection has a fixed lifetime, so that dripping bytes holds no place for long.
 */
#include "daemon/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

#define CONNECTIONS_LIMIT 64

struct http {
	uv_loop_t *loop;
	uv_poll_t poll;
	uv_timer_t timer;
	int open_handles;
	bool closing;
	struct MHD_Daemon *server;
	struct http_pages pages;
	char **hosts;
	unsigned port;
	unsigned connections;
	uint64_t lifetime_ms;
	unsigned open_count;
	struct {
		struct MHD_Connection *connection;
		uint64_t since;
	} open[CONNECTIONS_LIMIT];
};

/* The name in a Host header without its port: "localhost:9411" -> "localhost", "[::1]:9411" -> "[::1]". */
static bool host_is(const char *header, const char *name)
{
	size_t n = strlen(name);
	if (strncasecmp(header, name, n) != 0)
		return false;
	return header[n] == '\0' ||
	       (header[n] == ':' && strspn(header + n + 1, "0123456789") == strlen(header + n + 1));
}

/* A page of another origin that resolves its own name to 127.0.0.1 must not read us (DNS rebinding). */
static bool host_allowed(const struct http *h, const char *header)
{
	static const char *const loopback[] = {"localhost", "127.0.0.1", "[::1]"};
	if (header == NULL)
		return false;
	for (size_t i = 0; i < sizeof loopback / sizeof loopback[0]; i++)
		if (host_is(header, loopback[i]))
			return true;
	for (char **name = h->hosts; name != NULL && *name != NULL; name++)
		if (host_is(header, *name))
			return true;
	return false;
}

static enum MHD_Result answer(
	struct MHD_Connection *connection, unsigned status, const char *type, const void *body, size_t size)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(size, (void *)body, MHD_RESPMEM_MUST_COPY);
	if (response == NULL)
		return MHD_NO;
	MHD_add_response_header(response, "Content-Type", type);
	MHD_add_response_header(response, "Cache-Control", "no-store");
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	MHD_add_response_header(response, "Content-Security-Policy", "default-src 'none'");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, "Allow", "GET, HEAD");
	MHD_add_response_header(response, "Connection", "close");
	enum MHD_Result queued = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return queued;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
	return answer(connection, status, "text/plain; charset=utf-8", text, strlen(text));
}

static enum MHD_Result answer_page(struct http *h, struct MHD_Connection *connection, const char *type,
	void (*page)(void *self, struct writer *out))
{
	struct writer out;
	writer_init(&out);
	page(h->pages.self, &out);
	enum MHD_Result queued = answer(connection, MHD_HTTP_OK, type, out.data, out.size);
	writer_fini(&out);
	return queued;
}

static enum MHD_Result on_request(void *self, struct MHD_Connection *connection, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_size, void **state)
{
	(void)version;
	(void)upload;
	static int seen;
	struct http *h = self;
	if (*state == NULL) { /* first call, headers only: refusing here reads no body */
		*state = &seen;
		if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
			return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
				"only GET and HEAD: changes go through the sakiori command\n");
		return MHD_YES;
	}
	if (*upload_size != 0) { /* a GET with a body: dropped unread */
		*upload_size = 0;
		return MHD_YES;
	}
	if (!host_allowed(h, MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host")))
		return answer_text(connection, MHD_HTTP_MISDIRECTED_REQUEST,
			"this Host is neither loopback nor the address of listen.http in sakiorid.conf\n");
	if (strcmp(url, "/metrics") == 0)
		return answer_page(h, connection, "text/plain; version=0.0.4; charset=utf-8", h->pages.metrics);
	if (strcmp(url, "/api/v1/status") == 0)
		return answer_page(h, connection, "application/json", h->pages.status);
	if (strcmp(url, "/healthz") == 0)
		return answer_text(connection, MHD_HTTP_OK, "ok\n");
	if (strcmp(url, "/readyz") == 0) {
		char why[200] = "";
		if (h->pages.ready(h->pages.self, why, sizeof why - 1))
			return answer_text(connection, MHD_HTTP_OK, "ready\n");
		why[strlen(why)] = '\n';
		return answer_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, why);
	}
	return answer_text(connection, MHD_HTTP_NOT_FOUND, "pages: /metrics /healthz /readyz /api/v1/status\n");
}

static void on_connection(
	void *self, struct MHD_Connection *connection, void **state, enum MHD_ConnectionNotificationCode code)
{
	(void)state;
	struct http *h = self;
	for (size_t i = 0; i < CONNECTIONS_LIMIT; i++) {
		if (code == MHD_CONNECTION_NOTIFY_STARTED && h->open[i].connection == NULL) {
			h->open[i].connection = connection;
			h->open[i].since = uv_now(h->loop);
			h->open_count++;
			return;
		}
		if (code == MHD_CONNECTION_NOTIFY_CLOSED && h->open[i].connection == connection) {
			h->open[i].connection = NULL;
			h->open_count--;
			return;
		}
	}
}

static void on_timer(uv_timer_t *timer);

static void run(struct http *h)
{
	unsigned before = h->open_count;
	MHD_run(h->server);
	if (h->open_count <
		before) /* at its limit the server stops listening, and looks again only at the start of a run */
		MHD_run(h->server);
	uint64_t wait_ms = 1000; /* lifetimes are looked at once a second while anybody is connected */
	MHD_UNSIGNED_LONG_LONG timeout;
	if (MHD_get_timeout(h->server, &timeout) == MHD_YES && timeout < wait_ms)
		wait_ms = timeout;
	else if (h->open_count == 0) {
		uv_timer_stop(&h->timer);
		return;
	}
	uv_timer_start(&h->timer, on_timer, wait_ms, 0);
}

static void on_timer(uv_timer_t *timer)
{
	struct http *h = timer->data;
	uint64_t now = uv_now(h->loop);
	for (size_t i = 0; i < CONNECTIONS_LIMIT; i++) {
		if (h->open[i].connection == NULL || now - h->open[i].since < h->lifetime_ms)
			continue;
		const union MHD_ConnectionInfo *info =
			MHD_get_connection_info(h->open[i].connection, MHD_CONNECTION_INFO_CONNECTION_FD);
		if (info != NULL)
			shutdown(info->connect_fd, SHUT_RDWR);
	}
	run(h);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	run(poll->data);
}

static void on_log(void *self, const char *format, va_list args)
{
	(void)self;
	char line[200];
	vsnprintf(line, sizeof line, format, args);
	log_debug("http", "library=\"%s\"", line);
}

/* "HOST:PORT" or "[V6]:PORT" -> a listening socket. */
static int listen_on(const char *address, unsigned *port, struct fault *f)
{
	char host[256];
	const char *colon = strrchr(address, ':');
	size_t n = colon != NULL ? (size_t)(colon - address) : 0;
	if (colon == NULL || n >= sizeof host)
		return fault_set(
			f, SAKIORI_ECONFIG, "http address \"%s\": expected HOST:PORT, such as 127.0.0.1:9411", address);
	memcpy(host, address, n);
	host[n] = '\0';
	if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
		memmove(host, host + 1, n - 2);
		host[n - 2] = '\0';
	}
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
	int failed = getaddrinfo(host, colon + 1, &hints, &found);
	if (failed != 0)
		return fault_set(f, SAKIORI_ECONFIG, "http address \"%s\": %s", address, gai_strerror(failed));
	int one = 1, rc = 0;
	int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 64) != 0) {
		rc = errno == EADDRINUSE
			     ? fault_set(f, SAKIORI_EBUSY,
				       "http address %s is in use by another program: choose another listen.http",
				       address)
			     : fault_errno(f, "http address %s", address);
		if (fd >= 0)
			close(fd);
	} else {
		struct sockaddr_storage bound;
		socklen_t size = sizeof bound;
		getsockname(fd, (struct sockaddr *)&bound, &size);
		*port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
							  : ((struct sockaddr_in *)&bound)->sin_port);
	}
	freeaddrinfo(found);
	return rc != 0 ? rc : fd;
}

static char **copy_hosts(const char *const *hosts)
{
	size_t n = 0;
	while (hosts != NULL && hosts[n] != NULL)
		n++;
	char **copy = must_calloc(n + 1, sizeof *copy);
	for (size_t i = 0; i < n; i++)
		copy[i] = must_strdup(hosts[i]);
	return copy;
}

static void http_free(struct http *h)
{
	for (char **name = h->hosts; name != NULL && *name != NULL; name++)
		free(*name);
	free(h->hosts);
	free(h);
}

int http_open(struct http **out, uv_loop_t *loop, const struct http_options *options, const struct http_pages *pages,
	struct fault *f)
{
	*out = NULL;
	struct http *h = must_calloc(1, sizeof *h);
	h->loop = loop;
	h->pages = *pages;
	h->hosts = copy_hosts(options->hosts);
	h->connections = options->connections != 0 ? options->connections : 16;
	if (h->connections > CONNECTIONS_LIMIT)
		h->connections = CONNECTIONS_LIMIT;
	h->lifetime_ms = options->lifetime_ms != 0 ? options->lifetime_ms : 15000;
	int fd = listen_on(options->address, &h->port, f);
	if (fd < 0) {
		http_free(h);
		return fd;
	}
	h->server = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h,
		MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
		h->connections, MHD_OPTION_CONNECTION_TIMEOUT, 10u, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768,
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_END);
	const union MHD_DaemonInfo *info =
		h->server != NULL ? MHD_get_daemon_info(h->server, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (info == NULL) {
		if (h->server != NULL)
			MHD_stop_daemon(h->server);
		else
			close(fd);
		http_free(h);
		return fault_set(f, SAKIORI_EIO, "http: the server could not be started on %s", options->address);
	}
	uv_poll_init(loop, &h->poll, info->epoll_fd);
	uv_timer_init(loop, &h->timer);
	h->poll.data = h->timer.data = h;
	h->open_handles = 2;
	uv_poll_start(&h->poll, UV_READABLE, on_poll);
	*out = h;
	return 0;
}

unsigned http_port(const struct http *h)
{
	return h->port;
}

static void on_closed(uv_handle_t *handle)
{
	struct http *h = handle->data;
	if (--h->open_handles > 0)
		return;
	http_free(h);
}

void http_close(struct http *h)
{
	if (h == NULL || h->closing)
		return;
	h->closing = true;
	uv_poll_stop(&h->poll);
	MHD_stop_daemon(h->server);
	uv_close((uv_handle_t *)&h->poll, on_closed);
	uv_close((uv_handle_t *)&h->timer, on_closed);
}
