/* SPDX-License-Identifier: Apache-2.0 */
#include "config/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "config/keys.h"
#include "config/units.h"

static int refuse_at(const struct config *c, unsigned line, struct fault *f, const char *format, va_list arguments)
{
	char sentence[sizeof f->text];
	vsnprintf(sentence, sizeof sentence, format, arguments);
	if (line == 0)
		return fault_set(f, SAKIORI_ECONFIG, "%s: %s", c->file, sentence);
	return fault_set(f, SAKIORI_ECONFIG, "%s:%u: %s", c->file, line, sentence);
}

/* Refuses with the line where the file gives this key. */
static int refuse_key(const struct config *c, const char *path, struct fault *f, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
static int refuse_key(const struct config *c, const char *path, struct fault *f, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	const struct config_key *k = config_key_find(path);
	int rc = refuse_at(c, k != NULL ? c->key_line[k - config_keys] : 0, f, format, arguments);
	va_end(arguments);
	return rc;
}

static int refuse_peer(const struct config *c, const struct config_peer *peer, struct fault *f, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
static int refuse_peer(const struct config *c, const struct config_peer *peer, struct fault *f, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int rc = refuse_at(c, peer->line, f, format, arguments);
	va_end(arguments);
	return rc;
}

static bool is_name(const char *text)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	return text[0] != 0 && text[strspn(text, allowed)] == 0;
}

/* "ADDRESS:PORT" with a port from 1 to 65535; an IPv6 address stands in [ ]. */
static bool is_address(const char *text)
{
	const char *colon = strrchr(text, ':');
	if (colon == NULL || colon == text)
		return false;
	if (memchr(text, ':', (size_t)(colon - text)) != NULL && (text[0] != '[' || colon[-1] != ']'))
		return false;
	size_t digits = strspn(colon + 1, "0123456789");
	long port = digits >= 1 && digits <= 5 ? strtol(colon + 1, NULL, 10) : 0;
	return colon[1 + digits] == 0 && port >= 1 && port <= 65535;
}

/* Why this is no URL of a peer, or NULL. */
static const char *url_trouble(const char *url)
{
	if (strncmp(url, "tcp://", 6) == 0)
		return is_address(url + 6) ? NULL : "expected tcp://ADDRESS:PORT with a port from 1 to 65535";
	if (strncmp(url, "ipc://", 6) == 0) {
		if (url[6] != '/')
			return "expected ipc:// and an absolute path";
		return strlen(url + 6) <= CONFIG_MAX_SOCKET_PATH ? NULL : "expected a socket path of at most 107 bytes";
	}
	return "expected a URL that begins with tcp:// or ipc://";
}

static int check_site(struct config *c, struct fault *f)
{
	if (c->site.name[0] == 0) {
		char host[65] = "";
		gethostname(host, sizeof host - 1);
		host[strcspn(host, ".")] = 0;
		free(c->site.name);
		c->site.name = must_strdup(is_name(host) ? host : "site");
	}
	if (!is_name(c->site.name))
		return refuse_key(c, "site.name", f, "site.name is \"%s\"; expected letters, digits and . _ - only",
			c->site.name);
	if (!is_name(c->run.name))
		return refuse_key(
			c, "run.name", f, "run.name is \"%s\"; expected letters, digits and . _ - only", c->run.name);
	return 0;
}

static int check_listen(const struct config *c, struct fault *f)
{
	for (size_t i = 0; i < c->listen.peer.count; i++) {
		const char *url = c->listen.peer.items[i], *trouble = url_trouble(url);
		if (trouble != NULL)
			return refuse_key(c, "listen.peer", f, "listen.peer has \"%.120s\"; %s", url, trouble);
	}
	if (c->listen.http[0] != 0 && !is_address(c->listen.http))
		return refuse_key(c, "listen.http", f,
			"listen.http is \"%.120s\"; expected ADDRESS:PORT, e.g. 127.0.0.1:9411", c->listen.http);
	size_t length = strlen(c->listen.admin_socket);
	if (length > CONFIG_MAX_SOCKET_PATH)
		return refuse_key(c, "listen.admin_socket", f,
			"listen.admin_socket is a path of %zu bytes; expected at most %d, the longest a Unix socket "
			"may have",
			length, CONFIG_MAX_SOCKET_PATH);
	return 0;
}

/* "all", or linear layers of the list, each once. */
static bool are_targets(const char *text)
{
	static const char *const layers[] = {"q", "k", "v", "o", "gate", "up", "down"};
	if (strcmp(text, "all") == 0)
		return true;
	unsigned seen = 0;
	for (const char *at = text;; at++) {
		size_t length = strcspn(at, ","), i = 0;
		while (i < 7 && (strlen(layers[i]) != length || strncmp(at, layers[i], length) != 0))
			i++;
		if (i == 7 || (seen & 1u << i))
			return false;
		seen |= 1u << i;
		at += length;
		if (*at == 0)
			return true;
	}
}

static bool is_device(const char *text)
{
	if (strcmp(text, "cpu") == 0 || strcmp(text, "cuda") == 0)
		return true;
	return strncmp(text, "cuda:", 5) == 0 && text[5] != 0 && strlen(text) <= 8 &&
	       text[5 + strspn(text + 5, "0123456789")] == 0;
}

static int check_training(struct config *c, struct fault *f)
{
	if (c->adapter.alpha == 0)
		c->adapter.alpha = 2.0 * (double)c->adapter.rank;
	if (c->model.path[0] == 0)
		return refuse_key(c, "model.path", f,
			"model.path is missing; expected the base model, e.g. path = \"model.gguf\" in model: { }");
	if (c->data.train[0] == 0)
		return refuse_key(c, "data.train", f,
			"data.train is missing; expected this site's rows, e.g. train = \"train.jsonl\" in data: { }");
	if (!is_device(c->model.device))
		return refuse_key(
			c, "model.device", f, "model.device is \"%s\"; expected cpu, cuda or cuda:N", c->model.device);
	if (!are_targets(c->adapter.targets))
		return refuse_key(c, "adapter.targets", f,
			"adapter.targets is \"%s\"; expected all, or some of q,k,v,o,gate,up,down, each once, with "
			"commas",
			c->adapter.targets);
	if (c->data.micro_tokens < c->data.max_seq)
		return refuse_key(c, "data.micro_tokens", f,
			"data.micro_tokens is %" PRId64 ", less than data.max_seq; expected at least %" PRId64
			", so that a row fits",
			c->data.micro_tokens, c->data.max_seq);
	if (c->run.min_deadline > c->run.deadline) {
		char deadline[UNITS_TEXT_SIZE];
		units_format_duration(c->run.deadline, deadline);
		return refuse_key(c, "run.min_deadline", f,
			"run.min_deadline is longer than run.deadline; expected at most \"%s\"", deadline);
	}
	return 0;
}

static int check_peer(const struct config *c, size_t index, struct fault *f)
{
	const struct config_peer *p = &c->peers[index];
	if (!is_name(p->name))
		return refuse_peer(c, p, f,
			"peer %zu has the name \"%s\"; expected name = letters, digits and . _ - only", index + 1,
			p->name);
	if (p->id[0] == 0)
		return refuse_peer(c, p, f,
			"peer %s has no id; expected the string that `sakiori id` prints at that site", p->name);
	for (const char *byte = p->id; *byte != 0; byte++)
		if (*byte <= ' ' || *byte > '~')
			return refuse_peer(c, p, f,
				"the id of peer %s has a blank or an unprintable byte; expected the string that "
				"`sakiori id` prints",
				p->name);
	for (size_t i = 0; i < index; i++) {
		if (strcmp(c->peers[i].name, p->name) == 0)
			return refuse_peer(c, p, f,
				"a second peer is called %s; expected a name of its own (the first is in line %u)",
				p->name, c->peers[i].line);
		if (strcmp(c->peers[i].id, p->id) == 0)
			return refuse_peer(c, p, f, "peer %s has the id of peer %s; expected each site once", p->name,
				c->peers[i].name);
	}
	for (size_t i = 0; i < p->url.count; i++) {
		const char *trouble = url_trouble(p->url.items[i]);
		if (trouble != NULL)
			return refuse_peer(
				c, p, f, "peer %s has the url \"%.120s\"; %s", p->name, p->url.items[i], trouble);
	}
	if (p->dial && p->url.count == 0)
		return refuse_peer(
			c, p, f, "peer %s has no url; expected url = \"tcp://ADDRESS:PORT\", or dial = false", p->name);
	return 0;
}

int config_check_whole(struct config *c, struct fault *f)
{
	int rc = check_site(c, f);
	if (rc == 0)
		rc = check_listen(c, f);
	if (rc == 0)
		rc = check_training(c, f);
	for (size_t i = 0; i < c->peer_count && rc == 0; i++)
		rc = check_peer(c, i, f);
	if (rc == 0 && c->peer_count > 0 && c->identity.network_secret[0] == 0)
		rc = refuse_key(c, "identity.network_secret", f,
			"there are peers, but identity.network_secret is missing; expected the file of the secret that "
			"all sites share, "
			"made once with `sakiori keygen --network --out FILE`");
	return rc;
}

int config_check_own_id(const struct config *c, const char *own_id, struct fault *f)
{
	for (size_t i = 0; i < c->peer_count; i++)
		if (strcmp(c->peers[i].id, own_id) == 0)
			return refuse_peer(c, &c->peers[i], f,
				"peer %s has the id of this site itself; expected another site's", c->peers[i].name);
	return 0;
}

static int check_file(const struct config *c, const char *key, const char *path, bool folder_allowed, const char *cure,
	struct stat *s, struct fault *f)
{
	if (stat(path, s) != 0)
		return refuse_key(c, key, f, "%s: %s: %s; %s", key, path, strerror(errno), cure);
	if (!S_ISREG(s->st_mode) && !(folder_allowed && S_ISDIR(s->st_mode)))
		return refuse_key(c, key, f, "%s: %s is no regular file; %s", key, path, cure);
	if (access(path, R_OK) != 0)
		return refuse_key(c, key, f, "%s: %s: %s; expected a file that the daemon's user may read", key, path,
			strerror(errno));
	return 0;
}

static int check_data_file(const struct config *c, const char *key, const char *path, struct fault *f)
{
	struct stat s;
	int rc = check_file(c, key, path, false, "expected a file of rows, one JSON object a line", &s, f);
	if (rc == 0 && (uint64_t)s.st_size > c->data.max_file)
		rc = refuse_key(c, key, f,
			"%s: %s has %lld bytes; expected at most %" PRIu64 ", the value of data.max_file", key, path,
			(long long)s.st_size, c->data.max_file);
	return rc;
}

bool config_makes_own_key(const struct config *c)
{
	return c->peer_count == 0 && c->identity.network_secret[0] == 0 && access(c->identity.key, F_OK) != 0 &&
	       errno == ENOENT;
}

int config_check_files(const struct config *c, struct fault *f)
{
	struct stat s;
	int rc = config_makes_own_key(c) ? 0
					 : check_file(c, "identity.key", c->identity.key, false,
						   "make one with `sakiori keygen --out FILE`", &s, f);
	if (rc == 0 && c->identity.network_secret[0] != 0)
		rc = check_file(c, "identity.network_secret", c->identity.network_secret, false,
			"make one with `sakiori keygen --network --out FILE`, or carry it here from another site", &s,
			f);
	if (rc == 0 && strncmp(c->model.path, "shape:", 6) != 0)
		rc = check_file(c, "model.path", c->model.path, true, "expected the base model", &s, f);
	if (rc == 0)
		rc = check_data_file(c, "data.train", c->data.train, f);
	if (rc == 0 && c->data.eval[0] != 0)
		rc = check_data_file(c, "data.eval", c->data.eval, f);
	return rc;
}
