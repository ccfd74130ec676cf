/* SPDX-License-Identifier: Apache-2.0 */
/* What people and monitoring are told: numbers that the loop owns, gathered at the moment they are asked for. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/parts.h"
#include "src/daemon/commit.h" /* of the build tree */

static double unix_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* What goes on before there is a site. */
static void describe_loading(const struct daemon *d, char *out, size_t size)
{
	const struct worker_progress *p = worker_progress(d->worker);
	uint64_t total = atomic_load(&p->load_total), done = atomic_load(&p->load_done);
	if (!d->worker_opened && total > 0)
		snprintf(out, size, "loading %s: %" PRIu64 " %%", d->config.model.path, done * 100 / total);
	else if (!d->worker_opened)
		snprintf(out, size, "loading %s", d->config.model.path);
	else
		snprintf(out, size, "checking the state directory");
}

bool daemon_is_ready(struct daemon *d, char *why, size_t size)
{
	if (d->stopping) {
		snprintf(why, size, "stopping");
		return false;
	}
	if (d->site == NULL) {
		describe_loading(d, why, size);
		return false;
	}
	site_status(d->site, &d->status);
	bool halted = strcmp(d->status.state, "halted") == 0 && d->status.fault.code != 0;
	if (!halted && strcmp(d->status.state, "loading") != 0 && strcmp(d->status.state, "failed") != 0)
		return true;
	snprintf(why, size, "%s %s", d->status.state, d->status.fault.text);
	return false;
}

void daemon_describe(struct daemon *d, char *out, size_t size)
{
	char why[200];
	if (!daemon_is_ready(d, why, sizeof why)) {
		snprintf(out, size, "%s", why);
		return;
	}
	const struct site_status *s = &d->status;
	snprintf(out, size, "round %" PRIu64 " of %" PRIu64 ", %s, %zu of %zu peers up", s->round.durable.round,
		s->rounds, s->state, s->peers_up, s->peers);
}

/* Rounds that are wholly over: one that is trained but not mixed does not count. */
static uint64_t rounds_done(const struct site_status *s)
{
	const struct round_row *row = &s->round.durable;
	return row->point == ROUND_TRAINED && row->round > 0 ? row->round - 1 : row->round;
}

static void fill_site(struct daemon *d, struct admin_status *out)
{
	const struct site_status *s = &d->status;
	out->state = s->state;
	out->round = rounds_done(s);
	out->rounds = s->rounds;
	out->step = s->step;
	out->peers_up = (unsigned)s->peers_up;
	out->peers = (unsigned)s->peers;
	out->bytes_sent = s->bytes_sent;
	out->bytes_received = s->bytes_received;
	if (d->record_count > 0)
		out->last = &d->records[d->record_count - 1];
	if (s->fault.code != 0)
		snprintf(d->trouble, sizeof d->trouble, "%s", s->fault.text);
}

static void get_status(void *self, struct admin_status *out)
{
	struct daemon *d = self;
	d->trouble[0] = '\0';
	out->version = PACKAGE_VERSION;
	out->commit = SAKIORI_COMMIT;
	out->site = d->config.site.name;
	out->id = d->id;
	out->run = d->config.run.name;
	out->state = d->stopping ? "stopping" : "loading";
	out->ready = daemon_is_ready(d, d->trouble, sizeof d->trouble);
	if (out->ready)
		d->trouble[0] = '\0';
	out->model = d->config.model.path;
	out->fingerprint = d->fingerprint;
	out->device = d->config.model.device;
	out->threads = (unsigned)d->config.model.threads;
	out->adapter = d->publication.done_once ? d->publication.folder : "";
	out->rounds = (uint64_t)d->config.run.rounds;
	out->peers = (unsigned)d->config.peer_count;
	out->uptime_seconds = (double)(uv_hrtime() / 1000000 - d->started_ms) / 1e3;
	out->tokens = atomic_load(&worker_progress(d->worker)->tokens);
	out->tokens_per_second = atomic_load(&worker_progress(d->worker)->tokens_per_second);
	if (d->site != NULL && !d->stopping)
		fill_site(d, out);
	if (d->trouble[0] == '\0')
		snprintf(d->trouble, sizeof d->trouble, "%s",
			d->publication.trouble[0] != '\0' ? d->publication.trouble : d->best.trouble);
	if (d->trouble[0] == '\0' && d->worker_opened &&
		engine_micro_tokens(d->engine) < (size_t)d->config.data.micro_tokens)
		snprintf(d->trouble, sizeof d->trouble,
			"not enough memory on %s for %" PRId64 " tokens at once: %zu are computed at once, which is "
			"slower; set data.micro_tokens to that, or model.memory to a mode that keeps less",
			d->config.model.device, d->config.data.micro_tokens, engine_micro_tokens(d->engine));
	out->trouble = d->trouble;
}

/* By name: after a reload the site's order need not be the configuration's. */
static const char *address_of(const struct daemon *d, const char *name)
{
	for (size_t i = 0; i < d->config.peer_count; i++)
		if (strcmp(d->config.peers[i].name, name) == 0 && d->config.peers[i].url.count > 0)
			return d->config.peers[i].url.items[0];
	return "";
}

static size_t get_peers(void *self, struct admin_peer *out, size_t max)
{
	struct daemon *d = self;
	size_t n = d->site != NULL && !d->stopping ? site_peer_count(d->site) : d->config.peer_count;
	n = n < max ? n : max;
	n = n < CONFIG_MAX_PEERS ? n : CONFIG_MAX_PEERS;
	for (size_t i = 0; i < n; i++) {
		if (d->site == NULL || d->stopping) {
			out[i] = (struct admin_peer){.name = d->config.peers[i].name,
				.state = "waiting",
				.address = address_of(d, d->config.peers[i].name),
				.rtt_seconds = NAN,
				.last_seen = NAN};
			continue;
		}
		struct site_peer_status *p = &d->peer_status[i];
		site_peer_status(d->site, i, p);
		out[i] = (struct admin_peer){.name = p->name,
			.id = p->id,
			.state = site_peer_state_label(p->state),
			.trouble = p->trouble[0] != '\0' ? p->trouble : p->warning,
			.cure = p->cure,
			.address = address_of(d, p->name),
			.bytes_sent = p->bytes_sent,
			.bytes_received = p->bytes_received,
			.staleness = p->staleness,
			.round = p->edge.peer_round,
			.finished = p->edge.finished,
			.rtt_seconds = p->rtt_ms / 1e3,
			.last_seen = p->last_seen_ms == UINT64_MAX ? NAN : unix_now() - (double)p->last_seen_ms / 1e3};
	}
	return n;
}

static size_t get_rounds(void *self, uint64_t after, struct site_record *out, size_t max)
{
	const struct daemon *d = self;
	size_t n = 0;
	for (size_t i = 0; i < d->record_count && n < max; i++)
		if (d->records[i].round > after)
			out[n++] = d->records[i];
	return n;
}

static int need_site(const struct daemon *d, struct fault *f)
{
	return d->site != NULL && !d->stopping
		       ? 0
		       : fault_set(f, SAKIORI_EBUSY,
				 "the site is not running yet: wait until `sakiori status` shows more than loading");
}

static int do_pause(void *self, struct fault *f)
{
	struct daemon *d = self;
	int rc = need_site(d, f);
	if (rc == 0)
		site_pause(d->site);
	return rc;
}

static int do_resume(void *self, struct fault *f)
{
	struct daemon *d = self;
	int rc = need_site(d, f);
	if (rc == 0)
		site_resume(d->site);
	return rc;
}

static int do_drain(void *self, struct fault *f)
{
	struct daemon *d = self;
	int rc = need_site(d, f);
	if (rc == 0)
		site_drain(d->site);
	return rc;
}

static int do_reload(void *self, struct fault *f)
{
	return daemon_reload(self, f);
}

struct admin_backend daemon_admin_backend(struct daemon *d)
{
	return (struct admin_backend){.self = d,
		.status = get_status,
		.peers = get_peers,
		.rounds = get_rounds,
		.pause = do_pause,
		.resume = do_resume,
		.drain = do_drain,
		.reload = do_reload,
		.log = d->log};
}

static void measure_training(struct daemon *d)
{
	const struct worker_progress *p = worker_progress(d->worker);
	metrics_set(d->metrics, METRIC_TRAIN_STEPS, NULL, NULL, (double)atomic_load(&p->steps));
	metrics_set(d->metrics, METRIC_TRAIN_TOKENS, NULL, NULL, (double)atomic_load(&p->tokens));
	if (isnan(atomic_load(&p->loss)))
		return;
	metrics_set(d->metrics, METRIC_TOKENS_PER_SECOND, NULL, NULL, atomic_load(&p->tokens_per_second));
	metrics_set(d->metrics, METRIC_LEARNING_RATE, NULL, NULL, atomic_load(&p->lr));
	metrics_set(d->metrics, METRIC_GRADIENT_NORM, NULL, NULL, atomic_load(&p->grad_norm));
}

static void measure_peers(struct daemon *d)
{
#define X(name, label) metrics_set(d->metrics, METRIC_PEERS, label, NULL, 0);
	SITE_PEER_STATES(X)
#undef X
	size_t n = site_peer_count(d->site);
	for (size_t i = 0; i < n && i < CONFIG_MAX_PEERS; i++) {
		struct site_peer_status *p = &d->peer_status[i];
		site_peer_status(d->site, i, p);
		metrics_add(d->metrics, METRIC_PEERS, site_peer_state_label(p->state), NULL, 1);
		metrics_set(d->metrics, METRIC_PEER_BYTES, p->name, "sent", (double)p->bytes_sent);
		metrics_set(d->metrics, METRIC_PEER_BYTES, p->name, "received", (double)p->bytes_received);
		metrics_set(d->metrics, METRIC_PEER_STALENESS, p->name, NULL, (double)p->staleness);
		if (isfinite(p->rtt_ms))
			metrics_set(d->metrics, METRIC_PEER_RTT, p->name, NULL, p->rtt_ms / 1e3);
		if (p->last_seen_ms != UINT64_MAX)
			metrics_set(d->metrics, METRIC_PEER_LAST_SEEN, p->name, NULL,
				unix_now() - (double)p->last_seen_ms / 1e3);
	}
}

static void write_metrics(void *self, struct writer *out)
{
	struct daemon *d = self;
	struct metrics *m = d->metrics;
	metrics_set(m, METRIC_BUILD_INFO, PACKAGE_VERSION, SAKIORI_COMMIT, 1);
	measure_training(d);
	if (d->site != NULL && !d->stopping) {
		site_status(d->site, &d->status);
		metrics_set(m, METRIC_ROUND, NULL, NULL, (double)rounds_done(&d->status));
		measure_peers(d);
	}
	const struct link_statistics *link = link_statistics(d->link);
	metrics_set(m, METRIC_CONNECTIONS_REJECTED, "too_many", NULL, (double)link->refused_total);
	metrics_set(m, METRIC_CONNECTIONS_REJECTED, "too_many_from_source", NULL, (double)link->refused_source);
	metrics_set(m, METRIC_CHECKPOINT_FAILURES, NULL, NULL, (double)atomic_load(&d->commit_failures));
	metrics_set(m, METRIC_ADMIN_DENIED, NULL, NULL, (double)admin_denied(d->admin));
	metrics_set(m, METRIC_LOOP_LAG, NULL, NULL, d->longest_turn);
	d->longest_turn = 0;
	metrics_read_process(m);
	metrics_write(m, out);
}

static void write_status(void *self, struct writer *out)
{
	struct daemon *d = self;
	admin_write_status(d->admin, out);
}

static bool page_ready(void *self, char *why, size_t size)
{
	return daemon_is_ready(self, why, size);
}

struct http_pages daemon_http_pages(struct daemon *d)
{
	return (struct http_pages){.self = d, .metrics = write_metrics, .status = write_status, .ready = page_ready};
}
