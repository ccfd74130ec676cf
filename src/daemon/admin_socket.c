/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel says who calls (SO_PEERCRED, SO_PEERGROUPS), once, when the connection is accepted. File descriptors that
 * a client sends along are never received: plain reads drop them. */
#include "daemon/admin_socket.h"

#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#define GROUPS_MAX 1024
#define TICK_MS 200
#define SOON_MS 1 /* the next turn; a timer of 0 ms that a timer sets would run in this one */

struct client {
	uv_pipe_t pipe;
	struct admin_socket *socket;
	struct client *next, **link;
	struct admin_session *session;
	uint64_t last_call_ms;
	char buffer[4096];
};

struct admin_socket {
	uv_loop_t *loop;
	uv_pipe_t pipe;
	uv_timer_t timer;
	unsigned handles;
	bool closing;
	char *path;
	struct admin *admin;
	struct client *clients;
	unsigned client_count;
	struct admin_socket_limits limits;
	uid_t own_uid;
	gid_t read_gid, change_gid;
	void (*done)(void *self);
	void *done_self;
};

enum admin_access admin_access_of(
	uid_t uid, gid_t gid, const gid_t *groups, size_t count, uid_t own_uid, gid_t read_gid, gid_t change_gid)
{
	if (uid == 0 || uid == own_uid)
		return ADMIN_CHANGE;
	enum admin_access access = ADMIN_DENIED;
	for (size_t i = 0; i <= count; i++) { /* the primary group, then the others */
		gid_t one = i < count ? groups[i] : gid;
		if (one == (gid_t)-1)
			continue;
		if (one == change_gid)
			return ADMIN_CHANGE;
		if (one == read_gid)
			access = ADMIN_READ;
	}
	return access;
}

static enum admin_access access_of_client(const struct admin_socket *s, int fd)
{
	struct ucred who;
	gid_t groups[GROUPS_MAX];
	socklen_t size = sizeof who, groups_size = sizeof groups;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0)
		return ADMIN_DENIED;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &groups_size) != 0)
		groups_size = 0;
	return admin_access_of(
		who.uid, who.gid, groups, groups_size / sizeof groups[0], s->own_uid, s->read_gid, s->change_gid);
}

static void socket_free(struct admin_socket *s)
{
	void (*done)(void *self) = s->done;
	void *self = s->done_self;
	free(s->path);
	free(s);
	if (done != NULL)
		done(self);
}

static void on_client_closed(uv_handle_t *handle)
{
	struct client *c = handle->data;
	struct admin_socket *s = c->socket;
	free(c);
	if (--s->handles == 0)
		socket_free(s);
}

static void hang_up(struct client *c)
{
	if (uv_is_closing((uv_handle_t *)&c->pipe))
		return;
	admin_session_free(c->session);
	c->session = NULL;
	*c->link = c->next;
	if (c->next != NULL)
		c->next->link = c->link;
	c->socket->client_count--;
	uv_close((uv_handle_t *)&c->pipe, on_client_closed);
}

struct write {
	uv_write_t request;
	char data[];
};

static void on_written(uv_write_t *request, int status)
{
	(void)status;
	free(request->data);
}

/* Hanging up inside a session's call would free it under its own feet: a client over its limit goes at the next tick.
 */
static void send_to_client(void *self, const char *data, size_t n)
{
	struct client *c = self;
	if (uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) > c->socket->limits.queue_bytes)
		return;
	struct write *w = must_alloc(sizeof *w + n);
	memcpy(w->data, data, n);
	w->request.data = w;
	uv_buf_t buffer = uv_buf_init(w->data, (unsigned)n);
	if (uv_write(&w->request, (uv_stream_t *)&c->pipe, &buffer, 1, on_written) != 0)
		free(w);
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	(void)suggested;
	struct client *c = handle->data;
	*buffer = uv_buf_init(c->buffer, sizeof c->buffer);
}

static void on_tick(uv_timer_t *timer);

static void come_back_soon(struct admin_socket *s)
{
	if (!s->closing && admin_is_pending(s->admin))
		uv_timer_start(&s->timer, on_tick, SOON_MS, TICK_MS);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
	struct client *c = stream->data;
	if (n == 0)
		return;
	if (n < 0) {
		hang_up(c);
		return;
	}
	c->last_call_ms = uv_now(c->socket->loop);
	if (admin_session_feed(c->session, buffer->base, (size_t)n, uv_now(c->socket->loop)) != 0)
		hang_up(c);
	come_back_soon(c->socket);
}

static struct client *longest_idle(const struct admin_socket *s)
{
	struct client *found = NULL;
	for (struct client *c = s->clients; c != NULL; c = c->next)
		if (!admin_session_is_busy(c->session) && (found == NULL || c->last_call_ms < found->last_call_ms))
			found = c;
	return found;
}

static void on_connection(uv_stream_t *stream, int status)
{
	struct admin_socket *s = stream->data;
	if (status != 0)
		return;
	struct client *c = must_calloc(1, sizeof *c);
	c->socket = s;
	uv_pipe_init(s->loop, &c->pipe, 0);
	c->pipe.data = c;
	s->handles++;
	int fd;
	if (uv_accept(stream, (uv_stream_t *)&c->pipe) != 0 || uv_fileno((uv_handle_t *)&c->pipe, &fd) != 0) {
		uv_close((uv_handle_t *)&c->pipe, on_client_closed);
		return;
	}
	if (s->client_count >= s->limits.clients) {
		struct client *victim = longest_idle(s);
		if (victim == NULL) { /* all are busy following or waiting */
			log_warn("admin_refused", "reason=clients limit=%u", s->limits.clients);
			uv_close((uv_handle_t *)&c->pipe, on_client_closed);
			return;
		}
		hang_up(victim);
	}
	c->session = admin_session_new(s->admin, access_of_client(s, fd), send_to_client, c);
	c->last_call_ms = uv_now(s->loop);
	c->next = s->clients;
	c->link = &s->clients;
	if (c->next != NULL)
		c->next->link = &c->next;
	s->clients = c;
	s->client_count++;
	uv_read_start((uv_stream_t *)&c->pipe, on_allocate, on_read);
}

void admin_socket_poke(struct admin_socket *s)
{
	if (s == NULL || s->closing)
		return;
	admin_poke(s->admin, uv_now(s->loop));
	uint64_t now = uv_now(s->loop);
	for (struct client *c = s->clients, *next; c != NULL; c = next) {
		next = c->next;
		bool idle = !admin_session_is_busy(c->session) && now - c->last_call_ms > s->limits.idle_ms;
		bool slow = uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) > s->limits.queue_bytes;
		if (idle || slow || admin_session_is_broken(c->session))
			hang_up(c);
	}
	come_back_soon(s);
}

static void on_tick(uv_timer_t *timer)
{
	admin_socket_poke(timer->data);
}

/* Removes what is left of a daemon that was killed, and only that. */
static int remove_stale(const char *path, const struct sockaddr_un *address, struct fault *f)
{
	struct stat st;
	if (lstat(path, &st) != 0)
		return errno == ENOENT ? 0 : fault_errno(f, "admin socket %s", path);
	if (!S_ISSOCK(st.st_mode))
		return fault_set(
			f, SAKIORI_EBUSY, "admin socket %s: something that is no socket is there; move it away", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fault_errno(f, "admin socket %s", path);
	bool refused = connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 && errno == ECONNREFUSED;
	close(fd);
	if (!refused)
		return fault_set(f, SAKIORI_EBUSY,
			"admin socket %s: another daemon answers there; stop it, or give this one another "
			"listen.admin_socket",
			path);
	return unlink(path) == 0 ? 0 : fault_errno(f, "admin socket %s", path);
}

static gid_t group_id(const char *name)
{
	const struct group *group = getgrnam(name);
	return group != NULL ? group->gr_gid : (gid_t)-1;
}

/* A listening socket with its mode set before anybody can connect. */
static int bind_socket(struct admin_socket *s, struct fault *f)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(s->path) >= sizeof address.sun_path)
		return fault_set(f, SAKIORI_ECONFIG,
			"admin socket %s: the path has %zu bytes, a Unix socket at most %zu: choose a shorter "
			"listen.admin_socket",
			s->path, strlen(s->path), sizeof address.sun_path - 1);
	strcpy(address.sun_path, s->path);
	char *folder = must_strdup(s->path);
	char *slash = strrchr(folder, '/');
	int rc = 0;
	if (slash != NULL && slash != folder) {
		*slash = '\0';
		rc = file_make_directories(folder, 0750, f);
	}
	free(folder);
	if (rc == 0)
		rc = remove_stale(s->path, &address, f);
	if (rc != 0)
		return rc;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t before = umask(0117); /* bind makes it 0660 at once */
	bool bound = fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof address) == 0;
	umask(before);
	if (!bound) {
		rc = fault_errno(f, "admin socket %s", s->path);
		if (fd >= 0)
			close(fd);
		return rc;
	}
	if (s->read_gid != (gid_t)-1 && lchown(s->path, (uid_t)-1, s->read_gid) != 0)
		log_warn("admin_group", "path=%s group=sakiori error=\"%s\"", s->path, strerror(errno));
	return fd;
}

int admin_socket_open(struct admin_socket **out, uv_loop_t *loop, const char *path, struct admin *admin,
	const struct admin_socket_limits *limits, struct fault *f)
{
	*out = NULL;
	struct admin_socket *s = must_calloc(1, sizeof *s);
	s->loop = loop;
	s->path = must_strdup(path);
	s->admin = admin;
	s->limits = limits != NULL ? *limits : (struct admin_socket_limits){0};
	s->limits.clients = s->limits.clients != 0 ? s->limits.clients : 64;
	s->limits.idle_ms = s->limits.idle_ms != 0 ? s->limits.idle_ms : 300000;
	s->limits.queue_bytes = s->limits.queue_bytes != 0 ? s->limits.queue_bytes : 1 << 20;
	s->own_uid = geteuid();
	s->read_gid = group_id("sakiori");
	s->change_gid = group_id("sakiori-admin");
	int fd = bind_socket(s, f);
	if (fd < 0) {
		free(s->path);
		free(s);
		return fd;
	}
	uv_pipe_init(loop, &s->pipe, 0);
	uv_timer_init(loop, &s->timer);
	s->pipe.data = s->timer.data = s;
	s->handles = 2;
	int failed = uv_pipe_open(&s->pipe, fd);
	if (failed == 0)
		failed = uv_listen((uv_stream_t *)&s->pipe, 64, on_connection);
	if (failed != 0) {
		admin_socket_close(s, NULL, NULL);
		return fault_set(f, SAKIORI_EIO, "admin socket %s: %s", path, uv_strerror(failed));
	}
	uv_timer_start(&s->timer, on_tick, TICK_MS, TICK_MS);
	*out = s;
	return 0;
}

static void on_socket_closed(uv_handle_t *handle)
{
	struct admin_socket *s = handle->data;
	if (--s->handles == 0)
		socket_free(s);
}

void admin_socket_close(struct admin_socket *s, void (*done)(void *self), void *self)
{
	if (s == NULL || s->closing)
		return;
	s->closing = true;
	s->done = done;
	s->done_self = self;
	while (s->clients != NULL)
		hang_up(s->clients);
	unlink(s->path);
	uv_close((uv_handle_t *)&s->pipe, on_socket_closed);
	uv_close((uv_handle_t *)&s->timer, on_socket_closed);
}
