/* SPDX-License-Identifier: Apache-2.0 */
/* Start, in this order: configuration, keys, state directory (with its lock), loop, link, web and admin servers, trainer thread; then,
 * when the model is loaded and the state verified, the site. Stop in reverse; after STOP_PATIENCE_MS whatever still runs is left
 * behind, because nothing that matters lives outside the last commit. */
#include "daemon/daemon.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/file.h"
#include "base/log.h"
#include "daemon/parts.h"
#include "net/address.h"
#include "net/identity.h"

#define STOP_PATIENCE_MS 8000
#define GOODBYE_MS 500

static void notify(const char *state)
{
#ifdef HAVE_LIBSYSTEMD
	sd_notify(0, state);
#else
	(void)state;
#endif
}

/* Half of what systemd grants, 0 without a watchdog; ms. */
static uint64_t watchdog_interval(void)
{
	uint64_t microseconds = 0;
#ifdef HAVE_LIBSYSTEMD
	if (sd_watchdog_enabled(0, &microseconds) <= 0)
		return 0;
#endif
	return microseconds / 2000;
}

/* The key of a site that nobody has to know; kept only when `keep`. */
static int make_own_key(const struct config *c, bool keep, struct identity **identity, struct fault *f)
{
	char *folder = must_strdup(c->identity.key);
	char *slash = strrchr(folder, '/');
	int rc = identity_generate(identity, f);
	if (slash != NULL)
		*slash = '\0';
	if (rc == 0 && keep && slash != NULL && slash != folder)
		rc = file_make_directories(folder, 0700, f);
	if (rc == 0 && keep)
		rc = identity_save(*identity, c->identity.key, false, f);
	free(folder);
	return rc;
}

/* Everything that can be known without starting anything. */
static int read_all(const char *path, bool keep_key, struct config *c, struct identity **identity, uint8_t **secret,
	struct fault *f)
{
	char own_id[IDENTITY_STRING_SIZE];
	struct site_neighbour *neighbours = NULL;
	int rc = config_load(path, c, f);
	if (rc == 0)
		rc = config_check_files(c, f);
	if (rc == 0)
		rc = config_makes_own_key(c) ? make_own_key(c, keep_key, identity, f)
					     : identity_load(c->identity.key, identity, f);
	if (rc == 0 && c->identity.network_secret[0] != '\0')
		rc = network_secret_load(c->identity.network_secret, secret, f);
	if (rc == 0) {
		identity_id_string(identity_public(*identity), own_id);
		rc = config_check_own_id(c, own_id, f);
	}
	if (rc == 0)
		rc = daemon_neighbours(c, &neighbours, f);
	free(neighbours);
	for (size_t i = 0; rc == 0 && i < c->listen.peer.count; i++)
		rc = address_check(c->listen.peer.items[i], f);
	return rc;
}

int daemon_check(const char *config_path)
{
	struct config config = {0};
	struct identity *identity = NULL;
	uint8_t *secret = NULL;
	struct fault f;
	int rc = read_all(config_path, false, &config, &identity, &secret, &f);
	if (rc != 0)
		fprintf(stderr, "sakiorid: %s\n", f.text);
	else
		printf("%s: valid, %zu peers\n", config_path, config.peer_count);
	network_secret_free(secret);
	identity_free(identity);
	config_fini(&config);
	return rc == 0 ? EXIT_CODE_OK : EXIT_CODE_CONFIG;
}

/* ---- While it runs ---- */

static void say_ready(struct daemon *d)
{
	char why[200];
	if (d->ready_said || d->stopping || !daemon_is_ready(d, why, sizeof why))
		return;
	d->ready_said = true;
	log_info("ready", "site=%s id=%s", d->config.site.name, d->id);
	notify("READY=1");
}

static void on_second(uv_timer_t *timer)
{
	struct daemon *d = timer->data;
	char text[200], state[300];
	daemon_describe(d, text, sizeof text);
	if (strcmp(text, d->said) != 0) {
		snprintf(d->said, sizeof d->said, "%s", text);
		snprintf(state, sizeof state, "STATUS=%s", text);
		notify(state);
	}
	say_ready(d);
	if (!d->ready_said) /* a large model takes longer to load than systemd waits by default */
		notify("EXTEND_TIMEOUT_USEC=60000000");
	if (d->site == NULL || d->stopping)
		return;
	site_status(d->site, &d->status);
	if (strcmp(d->status.state, "failed") == 0) {
		log_error("start_failed", "error=\"%s\"", d->status.fault.text);
		daemon_stop(d, err_exit_code(d->status.fault.code));
	}
}

static void on_watchdog(uv_timer_t *timer)
{
	(void)timer;
	notify("WATCHDOG=1");
}

/* From one wait for events to the next, less the time spent waiting. */
static void on_turn(uv_prepare_t *turn)
{
	struct daemon *d = turn->data;
	uint64_t now = uv_hrtime(), idle = uv_metrics_idle_time(&d->loop);
	double busy = d->turn_start_ns != 0 ? (double)(now - d->turn_start_ns - (idle - d->idle_ns)) / 1e9 : 0;
	if (busy > d->longest_turn)
		d->longest_turn = busy;
	d->turn_start_ns = now;
	d->idle_ns = idle;
}

/* Any thread. */
static void wake_for_log(void *self)
{
	struct daemon *d = self;
	uv_async_send(&d->wake);
}

/* A log line was written, or the site changed. */
static void on_wake(uv_async_t *async)
{
	struct daemon *d = async->data;
	admin_socket_poke(d->admin_socket);
	say_ready(d);
}

static void on_signal(uv_signal_t *signal, int number)
{
	struct daemon *d = signal->data;
	struct fault f;
	if (number != SIGHUP) {
		log_info("stopping", "signal=%s", number == SIGTERM ? "SIGTERM" : "SIGINT");
		daemon_stop(d, EXIT_CODE_OK);
	} else if (daemon_reload(d, &f) != 0) {
		log_warn("reload", "error=\"%s\"", f.text);
	}
}

/* ---- The trainer's answers that are not the site's ---- */

static void site_when_all_is_there(struct daemon *d)
{
	if (d->worker_opened && d->store_verified && !d->stopping)
		daemon_prepare_site(d);
}

static void on_worker_opened(void *self, int rc, const struct fault *f)
{
	struct daemon *d = self;
	if (d->stopping)
		return;
	if (rc != 0) {
		char state[sizeof f->text + 8];
		snprintf(state, sizeof state, "STATUS=%s", f->text);
		notify(state); /* the last word that systemctl status shows */
		log_error("start_failed", "error=\"%s\"", f->text);
		daemon_stop(d, err_exit_code(rc));
		return;
	}
	d->worker_opened = true;
	site_when_all_is_there(d);
}

/* On the lane. */
static void verify_store(void *data)
{
	struct daemon *d = data;
	d->preparation.rc = store_verify(d->store, &d->preparation.fault);
	if (d->preparation.rc == 0)
		store_collect(d->store);
}

static void on_store_verified(void *data)
{
	struct daemon *d = data;
	if (d->stopping)
		return;
	if (d->preparation.rc != 0) {
		log_error("start_failed", "error=\"%s\"", d->preparation.fault.text);
		daemon_stop(d, err_exit_code(d->preparation.rc));
		return;
	}
	d->store_verified = true;
	site_when_all_is_there(d);
}

/* ---- Stopping ---- */

static void on_worker_stopped(void *self)
{
	struct daemon *d = self;
	d->worker_stopped = true;
}

/* The loop ends by itself once every handle is closed. */
static void close_handles(struct daemon *d)
{
	site_free(d->site);
	d->site = NULL;
	if (d->link != NULL)
		link_free(d->link, NULL);
	d->link = NULL;
	http_close(d->http);
	admin_socket_close(d->admin_socket, NULL, NULL);
	d->admin_socket = NULL;
	gpu_meter_stop(d->gpu_meter);
	log_set_sink(NULL, NULL); /* no line may wake a closed handle */
	uv_handle_t *const handles[] = {(uv_handle_t *)&d->site_timer, (uv_handle_t *)&d->second,
		(uv_handle_t *)&d->watchdog, (uv_handle_t *)&d->patience, (uv_handle_t *)&d->turn,
		(uv_handle_t *)&d->wake, (uv_handle_t *)&d->term, (uv_handle_t *)&d->interrupt,
		(uv_handle_t *)&d->hangup};
	for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++)
		uv_close(handles[i], NULL);
}

/* Looks often whether everything has let go of the site's vectors. */
static void on_patience(uv_timer_t *timer)
{
	struct daemon *d = timer->data;
	uint64_t waited = uv_now(&d->loop) - d->stop_began_ms;
	if (d->connections > 0 && waited < GOODBYE_MS)
		return;
	if (d->worker_stopped && lane_is_empty(d->lane) && d->reload == NULL) {
		close_handles(d);
		return;
	}
	if (waited < STOP_PATIENCE_MS)
		return;
	/* A model that is still being read, or a disk that hangs. The last commit stands. */
	log_warn("stopped_hard", "worker_stopped=%d lane_empty=%d", d->worker_stopped, lane_is_empty(d->lane));
	unlink(d->config.listen.admin_socket);
	_exit(d->exit_code);
}

void daemon_stop(struct daemon *d, int exit_code)
{
	if (d->stopping)
		return;
	d->stopping = true;
	d->exit_code = exit_code;
	d->stop_began_ms = uv_now(&d->loop);
	notify("STOPPING=1");
	uv_timer_stop(&d->site_timer);
	if (d->site != NULL)
		site_goodbye(d->site);
	if (d->worker != NULL)
		worker_stop(d->worker);
	uv_timer_start(&d->patience, on_patience, 0, 20);
}

/* ---- Starting ---- */

static void init_handles(struct daemon *d)
{
	uv_loop_init(&d->loop);
	uv_loop_configure(&d->loop, UV_METRICS_IDLE_TIME);
	uv_timer_init(&d->loop, &d->site_timer);
	uv_timer_init(&d->loop, &d->second);
	uv_timer_init(&d->loop, &d->watchdog);
	uv_timer_init(&d->loop, &d->patience);
	uv_prepare_init(&d->loop, &d->turn);
	uv_async_init(&d->loop, &d->wake, on_wake);
	uv_signal_init(&d->loop, &d->term);
	uv_signal_init(&d->loop, &d->interrupt);
	uv_signal_init(&d->loop, &d->hangup);
	d->site_timer.data = d->second.data = d->watchdog.data = d->patience.data = d->turn.data = d;
	d->wake.data = d->term.data = d->interrupt.data = d->hangup.data = d;
	d->started_ms = uv_hrtime() / 1000000;
	d->lane = lane_new(&d->loop);
	d->log = log_ring_new(wake_for_log, d);
	log_set_sink(log_ring_sink, d->log);
}

/* Zero before the first event, so that a rate over them is right from the start. */
static void init_metrics(struct daemon *d)
{
	d->metrics = metrics_new();
	for (int i = PEER_FAILURE_NONE + 1; i < PEER_FAILURE_COUNT; i++)
		metrics_set(d->metrics, METRIC_CONNECTIONS_REJECTED, peer_failure_label((enum peer_failure)i), NULL, 0);
	for (int i = ROUND_TROUBLE_NONE + 1; i < ROUND_TROUBLE_COUNT; i++)
		metrics_set(d->metrics, METRIC_UPDATES_REJECTED, round_trouble_label((enum round_trouble)i), NULL, 0);
}

/* Whoever opens the web server to an address may also call it by that address. */
static int start_http(struct daemon *d, struct fault *f)
{
	const struct http_pages pages = daemon_http_pages(d);
	const char *address = d->config.listen.http, *colon = strrchr(address, ':');
	char host[256] = "";
	const char *const hosts[] = {host, NULL};
	if (colon != NULL && (size_t)(colon - address) < sizeof host)
		memcpy(host, address, (size_t)(colon - address));
	const struct http_options options = {.address = address, .hosts = host[0] != '\0' ? hosts : NULL};
	return http_open(&d->http, &d->loop, &options, &pages, f);
}

static int start_servers(struct daemon *d, struct fault *f)
{
	const struct config *c = &d->config;
	const struct admin_backend backend = daemon_admin_backend(d);
	const struct link_limits limits = {0};
	int rc = link_new(&d->loop, &daemon_link_events, d, &limits, &d->link, f);
	for (size_t i = 0; rc == 0 && i < c->listen.peer.count; i++)
		rc = link_listen(d->link, c->listen.peer.items[i], NULL, f);
	d->admin = admin_new(&backend);
	if (rc == 0 && c->listen.http[0] != '\0')
		rc = start_http(d, f);
	if (rc == 0)
		rc = admin_socket_open(&d->admin_socket, &d->loop, c->listen.admin_socket, d->admin, NULL, f);
	return rc;
}

static int start_worker(struct daemon *d, struct fault *f)
{
	const struct worker_events events = {.self = d,
		.on_opened = on_worker_opened,
		.on_trained = daemon_on_trained,
		.on_evaluated = daemon_on_evaluated,
		.on_stopped = on_worker_stopped};
	int rc = engine_new(&d->engine, &d->config, f);
	if (rc != 0)
		return rc;
	const struct worker_engine functions = engine_functions(d->engine);
	rc = worker_start(&d->worker, &d->loop, &functions, &events, f);
	d->worker_stopped = rc != 0;
	return rc;
}

static int start(struct daemon *d, struct fault *f)
{
	d->peer_status = must_calloc(CONFIG_MAX_PEERS, sizeof *d->peer_status);
	d->next_url_count = d->config.peer_count;
	d->next_url = must_calloc(d->next_url_count + 1, sizeof *d->next_url);
	identity_short(identity_public(d->identity), d->id);
	int rc = store_open(&d->store, d->config.site.state_directory, f);
	if (rc == 0)
		rc = start_worker(d, f); /* before the servers, which ask it how far it is */
	if (rc == 0)
		rc = start_servers(d, f);
	if (rc != 0)
		return rc;
	if (strncmp(d->config.model.device, "cuda", 4) == 0)
		d->gpu_meter = gpu_meter_start(
			&d->loop, d->config.model.device, &worker_progress(d->worker)->tokens, d->metrics, NULL);
	lane_push(d->lane, verify_store, on_store_verified, d);
	uv_signal_start(&d->term, on_signal, SIGTERM);
	uv_signal_start(&d->interrupt, on_signal, SIGINT);
	uv_signal_start(&d->hangup, on_signal, SIGHUP);
	uv_prepare_start(&d->turn, on_turn);
	uv_timer_start(&d->second, on_second, 0, 1000);
	uint64_t interval = watchdog_interval();
	if (interval > 0)
		uv_timer_start(&d->watchdog, on_watchdog, 0, interval);
	return 0;
}

static void daemon_fini(struct daemon *d)
{
	worker_free(d->worker);
	engine_free(d->engine);
	lane_free(d->lane);
	admin_free(d->admin);
	store_close(d->store);
	publication_fini(&d->publication);
	best_fini(&d->best);
	lora_layout_fini(&d->layout);
	log_ring_free(d->log);
	metrics_free(d->metrics);
	free(d->initial);
	free(d->model_name);
	free(d->records);
	free(d->preparation.records);
	free(d->peer_status);
	free(d->next_url);
}

/* Failures before the loop, for a terminal and for the journal. */
static void complain(const struct fault *f)
{
	fprintf(stderr, "%ssakiorid: %s\n", getenv("JOURNAL_STREAM") != NULL ? "<3>" : "", f->text);
}

int daemon_run(const char *config_path)
{
	struct daemon *d = must_calloc(1, sizeof *d);
	struct fault f;
	const struct rlimit no_core = {0};
	setrlimit(RLIMIT_CORE, &no_core); /* a core file would hold the keys */
	signal(SIGPIPE, SIG_IGN);
	setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0); /* cuda:N and nvidia-smi's N are one GPU */
	d->worker_stopped = true;
	int code = EXIT_CODE_CONFIG;
	if (read_all(config_path, true, &d->config, &d->identity, &d->network_secret, &f) != 0) {
		complain(&f);
	} else {
		log_set_level((enum log_level)log_level_parse(d->config.site.log_level));
		init_handles(d);
		init_metrics(d);
		int rc = start(d, &f);
		if (rc != 0) {
			complain(&f);
			daemon_stop(d, err_exit_code(rc));
		} else {
			log_info("started", "version=%s site=%s id=%s peers=%zu", PACKAGE_VERSION, d->config.site.name,
				d->id, d->config.peer_count);
		}
		uv_run(&d->loop, UV_RUN_DEFAULT);
		uv_loop_close(&d->loop);
		code = d->exit_code;
		daemon_fini(d);
		log_info("stopped", "code=%d", code);
	}
	network_secret_free(d->network_secret);
	identity_free(d->identity);
	config_fini(&d->config);
	free(d);
	return code;
}
