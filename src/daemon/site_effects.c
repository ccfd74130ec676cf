/* SPDX-License-Identifier: Apache-2.0 */
/* The site's effects: connections over net/link, training over the worker, vectors over the lane, time over libuv. Once the daemon is
 * stopping the site hears nothing any more: it needs nothing beyond its last commit. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "daemon/parts.h"
#include "daemon/store_image.h"
#include "net/identity.h"

#define FLUSH_MS 1000

static uint64_t io_now_ms(void *self)
{
	(void)self;
	return uv_hrtime() / 1000000;
}

static uint64_t io_unix_ms(void *self)
{
	(void)self;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t io_random(void *self)
{
	uint64_t value;
	if (getrandom(&value, sizeof value, GRND_NONBLOCK) != sizeof value)
		value = uv_hrtime() ^ (uintptr_t)self; /* only jitter */
	return value;
}

static void on_site_timer(uv_timer_t *timer)
{
	struct daemon *d = timer->data;
	if (d->site != NULL && !d->stopping)
		site_on_timer(d->site);
}

static void io_timer(void *self, uint64_t at_ms)
{
	struct daemon *d = self;
	if (at_ms == UINT64_MAX) {
		uv_timer_stop(&d->site_timer);
		return;
	}
	uv_update_time(&d->loop); /* libuv's clock stands still during a turn */
	uint64_t now = uv_hrtime() / 1000000;
	uv_timer_start(&d->site_timer, on_site_timer, at_ms > now ? at_ms - now : 0, 0);
}

static void io_train(void *self, const struct site_training *training)
{
	struct daemon *d = self;
	d->round_began_ms = io_now_ms(d);
	if (!d->stopping)
		worker_train(d->worker, training);
}

static void io_evaluate(void *self, const float *x)
{
	struct daemon *d = self;
	if (!d->stopping)
		worker_evaluate(d->worker, x);
}

void daemon_on_trained(void *self, const struct site_trained *result)
{
	struct daemon *d = self;
	if (d->site != NULL && !d->stopping)
		site_on_trained(d->site, result);
	/* The last commit stands, and whoever starts the daemon again finds the device as it is then. */
	if (engine_device_lost(d->engine) && !d->stopping) {
		log_error("device_lost", "device=%s error=\"%s\"", d->config.model.device, result->text);
		daemon_stop(d, EXIT_CODE_FAILURE);
	}
}

void daemon_on_evaluated(void *self, const struct site_evaluated *result)
{
	struct daemon *d = self;
	if (d->site != NULL && !d->stopping)
		site_on_evaluated(d->site, result);
}

/* One lane job of the site. */
struct site_work {
	struct daemon *daemon;
	struct site_job *job;
};

static void run_site_job(void *data)
{
	struct site_work *work = data;
	work->job->run(work->job);
}

static void on_site_job_done(void *data)
{
	struct site_work *work = data;
	struct daemon *d = work->daemon;
	if (d->site != NULL && !d->stopping)
		site_on_worked(d->site, work->job);
	free(work);
}

static void io_work(void *self, struct site_job *job)
{
	struct daemon *d = self;
	struct site_work *work = must_calloc(1, sizeof *work);
	*work = (struct site_work){.daemon = d, .job = job};
	lane_push(d->lane, run_site_job, on_site_job_done, work);
}

/* The site knows one URL a neighbour; where the configuration lists several they take turns. */
static const char *next_url(struct daemon *d, const char *url)
{
	for (size_t i = 0; i < d->config.peer_count && i < d->next_url_count; i++) {
		const struct config_list *urls = &d->config.peers[i].url;
		if (urls->count > 1 && strcmp(urls->items[0], url) == 0)
			return urls->items[d->next_url[i]++ % urls->count];
	}
	return url;
}

static int io_dial(void *self, const char *url, int tag)
{
	struct daemon *d = self;
	struct fault f;
	int rc = link_dial(d->link, next_url(d, url), tag, &f);
	if (rc != 0)
		log_warn("dial", "error=\"%s\"", f.text);
	return rc;
}

static void io_send(void *self, void *connection, const uint8_t *frame, size_t n)
{
	(void)self;
	int rc = link_send(connection, frame, n);
	if (rc == SAKIORI_ELIMIT) { /* it does not read: waiting would only let the queue grow */
		log_warn("send_queue_full", "remote=%s", link_remote(connection));
		link_close(connection);
	}
}

static size_t io_bulk_room(void *self, void *connection)
{
	(void)self;
	return link_bulk_room(connection);
}

static void io_authenticated(void *self, void *connection)
{
	(void)self;
	link_authenticated(connection);
}

static void io_close(void *self, void *connection, bool flush)
{
	(void)self;
	if (flush)
		link_close_after_send(connection, FLUSH_MS);
	else
		link_close(connection);
}

static void on_opened(void *owner, struct link_connection *c, int tag, const char *remote)
{
	(void)remote;
	struct daemon *d = owner;
	d->connections++;
	if (d->site == NULL || d->stopping) { /* the model is still loading: they will dial again */
		link_close(c);
		return;
	}
	link_set_data(c, site_on_opened(d->site, c, tag));
}

static void on_frame(void *owner, struct link_connection *c, const uint8_t *frame, size_t n)
{
	struct daemon *d = owner;
	if (d->site != NULL && !d->stopping && link_data(c) != NULL)
		site_on_frame(d->site, link_data(c), frame, n);
}

static void on_drained(void *owner, struct link_connection *c)
{
	struct daemon *d = owner;
	if (d->site != NULL && !d->stopping && link_data(c) != NULL)
		site_on_drained(d->site, link_data(c));
}

static void on_closed(void *owner, struct link_connection *c, enum link_end end)
{
	struct daemon *d = owner;
	d->connections--;
	if (end == LINK_END_OVERSIZE)
		metrics_add(d->metrics, METRIC_CONNECTIONS_REJECTED, link_end_label(end), NULL, 1);
	if (d->site != NULL && !d->stopping && link_data(c) != NULL)
		site_on_closed(d->site, link_data(c));
}

static void on_dial_failed(void *owner, int tag, const char *why)
{
	struct daemon *d = owner;
	if (d->site != NULL && !d->stopping)
		site_on_dial_failed(d->site, tag, why);
}

const struct link_events daemon_link_events = {.on_opened = on_opened,
	.on_frame = on_frame,
	.on_drained = on_drained,
	.on_closed = on_closed,
	.on_dial_failed = on_dial_failed};

/* ---- Observers ---- */

static void keep_record(struct daemon *d, const struct site_record *record)
{
	while (d->record_count > 0 && d->records[d->record_count - 1].round >= record->round)
		d->record_count--; /* a round that is told again after a restart */
	if (d->record_count == ADMIN_ROUNDS_MAX)
		memmove(d->records, d->records + 1, --d->record_count * sizeof *d->records);
	d->records[d->record_count++] = *record;
}

static void on_round(void *self, const struct site_record *r)
{
	struct daemon *d = self;
	struct metrics *m = d->metrics;
	keep_record(d, r);
	metrics_set(m, METRIC_TRAIN_LOSS, NULL, NULL, r->loss);
	if (isfinite(r->eval_loss_trained)) {
		metrics_set(m, METRIC_EVAL_LOSS, "before_mixing", NULL, r->eval_loss_trained);
		metrics_set(m, METRIC_EVAL_ACCURACY, "before_mixing", NULL, r->eval_accuracy_trained);
	}
	if (isfinite(r->eval_loss_mixed)) {
		metrics_set(m, METRIC_EVAL_LOSS, "after_mixing", NULL, r->eval_loss_mixed);
		metrics_set(m, METRIC_EVAL_ACCURACY, "after_mixing", NULL, r->eval_accuracy_mixed);
	}
	if (isfinite(r->consensus_distance) && r->displacement > 0)
		metrics_set(m, METRIC_CONSENSUS_DISTANCE, NULL, NULL, r->consensus_distance / r->displacement);
	if (d->round_began_ms != 0) /* the first round of a daemon may have been trained by the one before */
		metrics_observe(m, METRIC_ROUND_DURATION, (double)(io_now_ms(d) - d->round_began_ms) / 1e3);
	daemon_publish(d);
	daemon_publish_best(d, r);
	admin_socket_poke(d->admin_socket);
}

/* Only wakes those who wait: the site is in the middle of its own event. */
static void on_changed(void *self)
{
	struct daemon *d = self;
	uv_async_send(&d->wake);
}

static bool is_about_session(const char *reason)
{
	/* Before anything was parsed as a message. */
	for (enum peer_failure failure = PEER_FAILURE_MALFORMED_FRAME; failure <= PEER_FAILURE_REPLAY; failure++)
		if (strcmp(reason, peer_failure_label(failure)) == 0)
			return true;
	return strcmp(reason, "silent") == 0 || strcmp(reason, "unread") == 0 ||
	       strcmp(reason, peer_failure_label(PEER_FAILURE_TIMEOUT)) == 0 ||
	       strcmp(reason, peer_failure_label(PEER_FAILURE_EXPIRED)) == 0;
}

static void on_rejected(void *self, int peer, const char *reason)
{
	struct daemon *d = self;
	bool connection = peer < 0 || is_about_session(reason);
	metrics_add(d->metrics, connection ? METRIC_CONNECTIONS_REJECTED : METRIC_UPDATES_REJECTED, reason, NULL, 1);
}

static void on_commit(void *self, double seconds)
{
	struct daemon *d = self;
	metrics_set(d->metrics, METRIC_CHECKPOINT_DURATION, NULL, NULL, seconds);
	metrics_set(d->metrics, METRIC_CHECKPOINT_SUCCESS, NULL, NULL, (double)io_unix_ms(d) / 1e3);
}

/* ---- The store, with its failures counted; on the lane ---- */

static int store_load(void *self, struct site_image *image, struct fault *f)
{
	struct daemon *d = self;
	return store_image_load(d->store, image, f);
}

static int store_save(void *self, const struct site_image *image, struct fault *f)
{
	struct daemon *d = self;
	int rc = store_image_commit(d->store, image, f);
	if (rc != 0) {
		atomic_fetch_add(&d->commit_failures, 1);
		log_error("commit_failed", "error=\"%s\" note=\"nothing is lost; it is tried again\"", f->text);
	}
	return rc;
}

static int store_load_own(void *self, uint64_t version, float *out, size_t n, struct fault *f)
{
	struct daemon *d = self;
	return store_image_load_own(d->store, version, out, n, f);
}

/* ---- Birth ---- */

/* A number that all sites of a run agree on without asking: the first bytes of a hash. */
static uint64_t number_of(const uint8_t hash[static HASH_SIZE])
{
	uint64_t number;
	memcpy(&number, hash, sizeof number);
	return number;
}

/* The run's identity: its name and its seed. Model and adapter have hashes of their own, so that sites can say what differs. */
static void hash_run(const struct config *c, uint8_t out[static HASH_SIZE])
{
	struct hash h;
	uint8_t seed[8];
	for (int i = 0; i < 8; i++)
		seed[i] = (uint8_t)((uint64_t)c->run.seed >> (8 * i));
	hash_init(&h, "sakiori-run");
	hash_update(&h, c->run.name, strlen(c->run.name) + 1);
	hash_update(&h, seed, sizeof seed);
	hash_final(&h, out);
}

/* A state directory belongs to one base model: its adapter means nothing on another. */
static int pin_fingerprint(struct daemon *d, struct fault *f)
{
	char *stored = NULL;
	int rc = store_get_text(d->store, "base_fingerprint", &stored, f);
	if (rc == SAKIORI_ENOTFOUND) {
		rc = store_begin(d->store, f);
		if (rc == 0)
			rc = store_set_text(d->store, "base_fingerprint", d->fingerprint, f);
		if (rc == 0)
			return store_commit(d->store, f);
		store_rollback(d->store);
		return rc;
	}
	if (rc == 0 && strcmp(stored, d->fingerprint) != 0)
		rc = fault_set(f, SAKIORI_EMISMATCH,
			"%s was trained on the base model with fingerprint %.16s, %s has %.16s: put the old model "
			"back, or choose "
			"another site.state_directory",
			store_directory(d->store), stored, d->model_name, d->fingerprint);
	free(stored);
	return rc;
}

/* On the lane. */
static void prepare(void *data)
{
	struct daemon *d = data;
	struct preparation *p = &d->preparation;
	p->rc = pin_fingerprint(d, &p->fault);
	if (p->rc != 0)
		return;
	lora_initialise(&d->layout, p->seed, d->initial);
	lora_hash(&d->layout, d->initial, p->initial_hash);
	int n = store_last_records(d->store, p->records, ADMIN_ROUNDS_MAX, &p->fault);
	p->record_count = n > 0 ? (size_t)n : 0;
	p->rc = n < 0 ? n : best_load(d, &p->fault);
}

static void fill_hello(struct daemon *d, struct wire_hello *hello)
{
	const struct config *c = &d->config;
	char targets[32], adapter[WIRE_TEXT_MAX + 1];
	wire_text(hello->software, sizeof hello->software, "sakiorid " PACKAGE_VERSION);
	wire_text(hello->site, sizeof hello->site, c->site.name);
	hash_bytes("sakiori-name", c->run.name, strlen(c->run.name), hello->run_name_hash);
	hash_run(c, hello->run_id);
	memcpy(hello->base_fingerprint, d->preparation.fingerprint, HASH_SIZE);
	memcpy(hello->adapter_layout_hash, d->layout.hash, HASH_SIZE);
	memcpy(hello->initial_adapter_hash, d->preparation.initial_hash, HASH_SIZE);
	wire_text(hello->run_name, sizeof hello->run_name, c->run.name);
	wire_text(hello->base_name, sizeof hello->base_name, d->model_name);
	lora_targets_format(d->layout.settings.targets, targets);
	snprintf(adapter, sizeof adapter, "rank %zu, alpha %g, targets %s%s", d->layout.settings.rank,
		(double)d->layout.settings.alpha, targets,
		lora_uniform(&d->layout.settings) ? "" : ", with rsLoRA or patterns");
	wire_text(hello->adapter_text, sizeof hello->adapter_text, adapter);
}

int daemon_neighbours(const struct config *config, struct site_neighbour **out, struct fault *f)
{
	struct site_neighbour *list = must_calloc(config->peer_count + 1, sizeof *list);
	*out = NULL;
	for (size_t i = 0; i < config->peer_count; i++) {
		const struct config_peer *peer = &config->peers[i];
		list[i].name = peer->name;
		list[i].url = peer->dial && peer->url.count > 0 ? peer->url.items[0] : NULL;
		int rc = identity_parse_id(peer->id, &list[i].id, f);
		if (rc != 0) {
			fault_wrap(f, "%s:%u: peer %s", config->file, peer->line, peer->name);
			free(list);
			return SAKIORI_ECONFIG;
		}
	}
	*out = list;
	return 0;
}

static int make_site(struct daemon *d, struct fault *f)
{
	const struct config *c = &d->config;
	const struct identity_public *self = identity_public(d->identity);
	uint8_t hash[HASH_SIZE];
	static const uint8_t
		no_secret[NETWORK_SECRET_SIZE]; /* a site without peers has no network; nobody is pinned either */
	struct site_neighbour *neighbours;
	struct site_settings settings = {.size = lora_shared_size(&d->layout),
		.initial = d->initial,
		.local_steps = (uint32_t)c->run.local_steps,
		.round = {.rounds = (uint64_t)c->run.rounds,
			.gamma = (float)c->run.gamma,
			.deadline_ms = c->run.deadline,
			.deadline_min_ms = c->run.min_deadline,
			.evaluate_every = engine_eval_rows(d->engine) > 0 ? (uint32_t)c->run.eval_every : 0},
		.neighbour_count = c->peer_count};
	settings.session.identity = d->identity;
	settings.session.network_secret = d->network_secret != NULL ? d->network_secret : no_secret;
	peer_network_hash("sakiori", settings.session.network_hash);
	hash_bytes("sakiori-codec", self->node_id, sizeof self->node_id, hash);
	settings.codec_seed = number_of(hash);
	fill_hello(d, &settings.hello);
	int rc = daemon_neighbours(c, &neighbours, f);
	if (rc != 0)
		return rc;
	settings.neighbours = neighbours;
	const struct site_io io = {.self = d,
		.now_ms = io_now_ms,
		.unix_ms = io_unix_ms,
		.random = io_random,
		.timer = io_timer,
		.train = io_train,
		.evaluate = io_evaluate,
		.work = io_work,
		.dial = io_dial,
		.send = io_send,
		.bulk_room = io_bulk_room,
		.authenticated = io_authenticated,
		.close = io_close};
	const struct site_store store = {
		.self = d, .load = store_load, .commit = store_save, .load_own = store_load_own};
	const struct site_observer observer = {.self = d,
		.on_round = on_round,
		.on_changed = on_changed,
		.on_rejected = on_rejected,
		.on_commit = on_commit};
	rc = site_new(&settings, &io, &store, &observer, &d->site, f);
	free(neighbours);
	return rc;
}

static void on_prepared(void *data)
{
	struct daemon *d = data;
	struct fault f = d->preparation.fault;
	int rc = d->preparation.rc;
	if (d->stopping)
		return;
	free(d->records);
	d->records = d->preparation.records;
	d->record_count = d->preparation.record_count;
	d->preparation.records = NULL;
	if (rc == 0)
		rc = make_site(d, &f);
	if (rc != 0) {
		log_error("start_failed", "error=\"%s\"", f.text);
		daemon_stop(d, err_exit_code(rc));
		return;
	}
	site_start(d->site);
	if (strcmp(d->config.run.start, "paused") == 0)
		site_pause(d->site);
	daemon_publish(d);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

void daemon_prepare_site(struct daemon *d)
{
	const struct lora_layout *from = engine_layout(d->engine);
	struct fault f;
	uint8_t hash[HASH_SIZE];
	int rc = lora_layout_init(&d->layout, &from->widths, &from->settings, &f);
	if (rc != 0) {
		log_error("start_failed", "error=\"%s\"", f.text);
		daemon_stop(d, err_exit_code(rc));
		return;
	}
	hash_run(&d->config, hash);
	d->preparation.seed = number_of(hash);
	engine_fingerprint(d->engine, d->preparation.fingerprint);
	hex_encode(d->preparation.fingerprint, HASH_SIZE, d->fingerprint);
	d->model_name = must_strdup(base_name(d->config.model.path));
	d->initial = must_alloc(d->layout.size * sizeof *d->initial);
	d->preparation.records = must_calloc(ADMIN_ROUNDS_MAX, sizeof *d->preparation.records);
	log_info("model_loaded",
		"model=%s fingerprint=%.16s rows=%" PRIu64 " eval_rows=%" PRIu64 " truncated=%" PRIu64 " memory_mb=%zu",
		d->model_name, d->fingerprint, engine_rows(d->engine), engine_eval_rows(d->engine),
		engine_truncated_rows(d->engine), engine_memory_bytes(d->engine) >> 20);
	lane_push(d->lane, prepare, on_prepared, d);
}
