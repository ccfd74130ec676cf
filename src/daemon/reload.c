/* SPDX-License-Identifier: Apache-2.0 */
/* The file is read on the pool; what it changes is applied on the loop: peers and the log level. Everything else is named, and stays
 * as it was until the next start. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/parts.h"

struct reload {
	struct daemon *daemon;
	uv_work_t work;
	struct config config;
	int rc;
	struct fault fault;
	char own_id[IDENTITY_STRING_SIZE];
	bool other_key, other_secret; /* the files hold something else than what was read at the start */
};

/* Their paths may be the same and their content new; both are only read at the start. What is running is never written meanwhile. */
static int compare_secrets(struct reload *r)
{
	const struct config *c = &r->config;
	struct identity *identity = NULL;
	uint8_t *secret = NULL;
	char id[IDENTITY_STRING_SIZE];
	int rc = config_makes_own_key(c) ? 0 : identity_load(c->identity.key, &identity, &r->fault);
	if (rc == 0 && identity != NULL) {
		identity_id_string(identity_public(identity), id);
		r->other_key = strcmp(id, r->own_id) != 0;
	}
	if (rc == 0 && c->identity.network_secret[0] != '\0')
		rc = network_secret_load(c->identity.network_secret, &secret, &r->fault);
	if (secret != NULL && r->daemon->network_secret != NULL)
		r->other_secret = memcmp(secret, r->daemon->network_secret, NETWORK_SECRET_SIZE) != 0;
	identity_free(identity);
	network_secret_free(secret);
	return rc == 0 ? 0 : SAKIORI_ECONFIG;
}

static void read_config(uv_work_t *work)
{
	struct reload *r = work->data;
	r->rc = config_load(r->daemon->config.file, &r->config, &r->fault);
	if (r->rc == 0)
		r->rc = config_check_files(&r->config, &r->fault);
	if (r->rc == 0)
		r->rc = config_check_own_id(&r->config, r->own_id, &r->fault);
	if (r->rc == 0)
		r->rc = compare_secrets(r);
}

/* Adds a key whose file changed, once. */
static size_t add_later(const char **later, size_t count, const char *key)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(later[i], key) == 0)
			return count;
	later[count] = key;
	return count + 1;
}

static bool has_peer(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->peer_count; i++)
		if (strcmp(c->peers[i].name, name) == 0)
			return true;
	return false;
}

/* Swaps the peers (and the log level) of the running configuration for the new ones. */
static int apply(struct daemon *d, struct config *new, struct fault *f)
{
	struct site_neighbour *neighbours = NULL;
	int rc = daemon_neighbours(new, &neighbours, f);
	if (rc == 0 && new->peer_count > 0 && d->network_secret == NULL)
		rc = fault_set(f, SAKIORI_ECONFIG,
			"the first peer needs identity.network_secret, which is read at the start: restart sakiorid");
	if (rc == 0 && d->site != NULL)
		rc = site_set_neighbours(d->site, neighbours, new->peer_count, f);
	free(neighbours);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < d->config.peer_count; i++)
		if (!has_peer(new, d->config.peers[i].name))
			metrics_forget_peer(d->metrics, d->config.peers[i].name);
	struct config_peer *peers = d->config.peers;
	size_t count = d->config.peer_count;
	d->config.peers = new->peers;
	d->config.peer_count = new->peer_count;
	new->peers = peers; /* freed with the rest of it */
	new->peer_count = count;
	d->next_url_count = d->config.peer_count;
	d->next_url = must_realloc(d->next_url, (d->next_url_count + 1) * sizeof *d->next_url);
	memset(d->next_url, 0, (d->next_url_count + 1) * sizeof *d->next_url);
	d->config.site.log_level = new->site.log_level; /* a word in static memory */
	log_set_level((enum log_level)log_level_parse(d->config.site.log_level));
	return 0;
}

static void finish(struct daemon *d, struct reload *r)
{
	struct config_change *changes = NULL;
	size_t n = r->rc == 0 ? config_diff(&d->config, &r->config, &changes) : 0;
	const char **applied = must_calloc(n + 1, sizeof *applied), **later = must_calloc(n + 2, sizeof *later);
	size_t applied_count = 0, later_count = 0;
	for (size_t i = 0; i < n; i++) {
		if (changes[i].needs_restart)
			later[later_count++] = changes[i].path;
		else
			applied[applied_count++] = changes[i].path;
	}
	if (r->other_key)
		later_count = add_later(later, later_count, "identity.key");
	if (r->other_secret)
		later_count = add_later(later, later_count, "identity.network_secret");
	if (r->rc == 0 && applied_count > 0)
		r->rc = apply(d, &r->config, &r->fault);
	if (r->rc != 0)
		log_error("reload_failed", "error=\"%s\" note=\"the running configuration stays\"", r->fault.text);
	else
		log_info("reloaded", "applied=%zu needs_restart=%zu", applied_count, later_count);
	for (size_t i = 0; r->rc == 0 && i < later_count; i++)
		log_warn("needs_restart", "key=%s", later[i]);
	admin_reload_done(d->admin, r->rc, &r->fault, applied, applied_count, later, later_count);
	free(applied);
	free(later);
	free(changes);
}

static void on_read(uv_work_t *work, int status)
{
	(void)status;
	struct reload *r = work->data;
	struct daemon *d = r->daemon;
	d->reload = NULL;
	if (!d->stopping)
		finish(d, r);
	config_fini(&r->config);
	free(r);
}

int daemon_reload(struct daemon *d, struct fault *f)
{
	if (d->reload != NULL || d->stopping)
		return fault_set(f, SAKIORI_EBUSY, "a reload is under way, or the daemon is stopping");
	struct reload *r = must_calloc(1, sizeof *r);
	r->daemon = d;
	r->work.data = r;
	identity_id_string(identity_public(d->identity), r->own_id);
	d->reload = r;
	uv_queue_work(&d->loop, &r->work, read_config, on_read);
	return 0;
}
