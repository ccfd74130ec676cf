/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/admin_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "cli/cli.h"

#define DEFAULT_SOCKET "/run/sakiori/sakiori.sock"
#define REPLY_LIMIT (16u << 20)
#define ASK_TIMEOUT_MS 30000

struct admin_client {
	int fd;
	char *path;
	struct writer input;
};

int admin_client_open(struct admin_client **out, const char *socket_option, struct fault *f)
{
	*out = NULL;
	const char *path = socket_option != NULL && socket_option[0] != '\0' ? socket_option : getenv("SAKIORI_SOCKET");
	if (path == NULL || path[0] == '\0')
		path = DEFAULT_SOCKET;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address.sun_path)
		return fault_set(f, SAKIORI_EUSAGE, "socket %s: the path has %zu bytes, a Unix socket at most %zu",
			path, strlen(path), sizeof address.sun_path - 1);
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fault_errno(f, "socket");
	if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
		int saved = errno;
		close(fd);
		if (saved == EACCES || saved == EPERM)
			return fault_set(f, SAKIORI_EDENIED,
				"%s: permission denied: become a member of group sakiori (to change things, of "
				"sakiori-admin as well), or "
				"use sudo",
				path);
		return fault_set(f, SAKIORI_EUNREACHABLE,
			"no daemon answers on %s (%s): start it with `systemctl start sakiorid`, or name its socket "
			"with --socket or "
			"SAKIORI_SOCKET",
			path, strerror(saved));
	}
	struct admin_client *c = must_calloc(1, sizeof *c);
	c->fd = fd;
	c->path = must_strdup(path);
	writer_init(&c->input);
	*out = c;
	return 0;
}

void admin_client_close(struct admin_client *c)
{
	if (c == NULL)
		return;
	close(c->fd);
	writer_fini(&c->input);
	free(c->path);
	free(c);
}

int admin_client_call(struct admin_client *c, const char *method, json_t *take_parameters, bool more, struct fault *f)
{
	json_t *call = json_object();
	json_object_set_new(call, "method", json_sprintf("org.sakiori.Admin.%s", method));
	if (take_parameters != NULL)
		json_object_set_new(call, "parameters", take_parameters);
	if (more)
		json_object_set_new(call, "more", json_true());
	char *text = json_dumps(call, JSON_COMPACT);
	json_decref(call);
	if (text == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "out of memory");
	int rc = 0;
	for (size_t at = 0, n = strlen(text) + 1; rc == 0 && at < n;) {
		ssize_t done = send(c->fd, text + at, n - at, MSG_NOSIGNAL);
		if (done >= 0)
			at += (size_t)done;
		else if (errno != EINTR)
			rc = fault_set(f, SAKIORI_EUNREACHABLE, "%s: the daemon hung up", c->path);
	}
	free(text);
	return rc;
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Reads until a whole reply is in the buffer; *size is its length without the NUL. */
static int read_reply(struct admin_client *c, int timeout_ms, size_t *size, struct fault *f)
{
	int64_t end = now_ms() + timeout_ms;
	size_t searched = 0;
	for (;;) {
		const uint8_t *nul =
			c->input.size > searched ? memchr(c->input.data + searched, 0, c->input.size - searched) : NULL;
		if (nul != NULL) {
			*size = (size_t)(nul - c->input.data);
			return 0;
		}
		searched = c->input.size;
		if (searched > REPLY_LIMIT)
			return fault_set(f, SAKIORI_ELIMIT, "%s: a reply of over %u bytes: is this a Sakiori daemon?",
				c->path, REPLY_LIMIT);
		struct pollfd poll_fd = {.fd = c->fd, .events = POLLIN};
		int64_t left = end - now_ms();
		int ready = poll(&poll_fd, 1, timeout_ms < 0 ? -1 : left > 0 ? (int)left : 0);
		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0)
			return fault_set(f, SAKIORI_EUNREACHABLE,
				"%s: the daemon did not answer in time: is it stopped or overloaded? Its log says more "
				"(`journalctl -u sakiorid`)",
				c->path);
		char block[16384];
		ssize_t n = recv(c->fd, block, sizeof block, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fault_set(f, SAKIORI_EUNREACHABLE, "%s: the daemon hung up", c->path);
		write_bytes(&c->input, block, (size_t)n);
	}
}

static int fault_of_error(const char *path, const char *error, const json_t *parameters, struct fault *f)
{
	if (strcmp(error, "org.sakiori.Admin.Denied") == 0) {
		const char *needs = json_string_value(json_object_get(parameters, "needs"));
		return fault_set(f, SAKIORI_EDENIED, "%s: denied: this needs %s, the daemon's own user or root", path,
			needs != NULL ? needs : "more rights");
	}
	const char *message = json_string_value(json_object_get(parameters, "message"));
	if (message != NULL && strcmp(error, "org.sakiori.Admin.Busy") == 0)
		return fault_set(f, SAKIORI_EBUSY, "%s", message);
	if (message != NULL && strcmp(error, "org.sakiori.Admin.InvalidConfig") == 0)
		return fault_set(f, SAKIORI_ECONFIG, "%s; the running configuration stays", message);
	if (message != NULL)
		return fault_set(f, SAKIORI_EINVAL, "%s", message);
	char *detail = parameters != NULL ? json_dumps(parameters, JSON_COMPACT) : NULL;
	int rc = fault_set(f, SAKIORI_EUNSUPPORTED, "%s: the daemon answered %s %s: is it of another version?", path,
		error, detail != NULL ? detail : "");
	free(detail);
	return rc;
}

int admin_client_reply(struct admin_client *c, int timeout_ms, json_t **parameters, bool *continues, struct fault *f)
{
	*parameters = NULL;
	size_t size;
	int rc = read_reply(c, timeout_ms, &size, f);
	if (rc != 0)
		return rc;
	json_t *reply = json_loadb((const char *)c->input.data, size, 0, NULL);
	memmove(c->input.data, c->input.data + size + 1, c->input.size - size - 1);
	c->input.size -= size + 1;
	const char *error = json_string_value(json_object_get(reply, "error"));
	json_t *found = json_object_get(reply, "parameters");
	if (error != NULL)
		rc = fault_of_error(c->path, error, found, f);
	else if (!json_is_object(found))
		rc = fault_set(f, SAKIORI_EPROTO, "%s: the reply is no Varlink: is this a Sakiori daemon?", c->path);
	else
		*parameters = json_incref(found);
	if (continues != NULL)
		*continues = json_is_true(json_object_get(reply, "continues"));
	json_decref(reply);
	return rc;
}

int admin_client_ask(
	const char *socket, const char *method, json_t *take_parameters, json_t **parameters, struct fault *f)
{
	struct admin_client *c;
	*parameters = NULL;
	int rc = admin_client_open(&c, socket, f);
	if (rc != 0) {
		json_decref(take_parameters);
		return rc;
	}
	rc = admin_client_call(c, method, take_parameters, false, f);
	if (rc == 0)
		rc = admin_client_reply(c, ASK_TIMEOUT_MS, parameters, NULL, f);
	admin_client_close(c);
	return rc;
}

int admin_client_list(const char *socket, const char *method, const char *key, uint64_t count, bool more,
	void (*print)(const json_t *item), struct fault *f)
{
	struct admin_client *c;
	bool continues = true;
	int rc = admin_client_open(&c, socket, f);
	if (rc == 0)
		rc = admin_client_call(c, method, json_pack("{s:I}", "count", (json_int_t)count), more, f);
	while (rc == 0 && continues) {
		json_t *reply, *item;
		size_t i;
		rc = admin_client_reply(c, more ? -1 : ASK_TIMEOUT_MS, &reply, &continues, f);
		json_array_foreach(json_object_get(reply, key), i, item)
		{
			if (print != NULL)
				print(item);
			else
				cli_print_json(json_incref(item));
		}

		json_decref(reply);
	}
	admin_client_close(c);
	return rc;
}
