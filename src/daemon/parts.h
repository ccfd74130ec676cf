/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that make up the daemon share: its one struct. Loop thread only; parts that a pool thread touches say so. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <uv.h>

#include "config/config.h"
#include "daemon/admin.h"
#include "daemon/admin_socket.h"
#include "daemon/engine.h"
#include "daemon/gpu_meter.h"
#include "daemon/http.h"
#include "daemon/lane.h"
#include "daemon/log_ring.h"
#include "daemon/metrics.h"
#include "daemon/store.h"
#include "daemon/worker.h"
#include "net/link.h"
#include "site/site.h"

/* The state directory's own check and what the site starts from: made on the lane, before there is a site. */
struct preparation {
	int rc;
	struct fault fault;
	uint64_t seed; /* of the initial adapter */
	uint8_t fingerprint[HASH_SIZE];
	uint8_t initial_hash[HASH_SIZE];
	struct site_record *records; /* (ADMIN_ROUNDS_MAX,) */
	size_t record_count;
};

/* The published adapter: read from the store and written as a PEFT folder on the lane. */
struct publication {
	/* The lane's while `running`. */
	float *x, *vector; /* (layout size,) */
	uint64_t round;
	int rc;
	struct fault fault;
	/* The loop's. */
	char *parent, *folder;
	bool running, again, done_once;
	char trouble[450]; /* why the last one failed; "" */
};

/* The adapters of the rounds that were the best so far, each a folder of its own; the one waiting is given up for a better one alone. */
struct best {
	/* The lane's while `running`. */
	float *vector; /* (layout size,) what is being published; NULL: nothing */
	uint64_t round;
	double loss; /* on the evaluation rows */
	int rc;
	struct fault fault;
	/* The loop's. */
	float *next; /* likewise what waits for its turn */
	uint64_t next_round;
	double next_loss;
	double lowest; /* loss of the best round known, published or not; infinity before the first */
	bool running;
	char trouble[450]; /* why the last one failed; "" */
};

struct daemon {
	struct config config;
	uv_loop_t loop;
	uint64_t started_ms;
	struct log_ring *log;
	uv_async_t wake;
	struct identity *identity;
	uint8_t *network_secret;
	char id[IDENTITY_SHORT_SIZE];
	struct store *store;
	struct lane *lane;
	struct link *link;
	struct http *http;
	struct admin *admin;
	struct admin_socket *admin_socket;
	struct metrics *metrics;
	struct gpu_meter *gpu_meter; /* NULL: training is on the CPU */
	struct engine *engine;
	struct worker *worker;
	bool worker_opened, worker_stopped, store_verified;

	/* From the opened trainer; the lane reads layout and fills initial. */
	struct lora_layout layout;
	char *model_name;
	float *initial; /* (layout size,) */
	char fingerprint[HASH_HEX_SIZE];
	struct preparation preparation;

	struct site *site; /* NULL until everything above stands, and again when stopping */
	uv_timer_t site_timer;
	unsigned *next_url; /* per configured peer: which of its URLs is dialled next */
	size_t next_url_count;
	struct publication publication;
	struct best best;
	struct site_record *records; /* the last ones, oldest first, at most ADMIN_ROUNDS_MAX */
	size_t record_count;
	uint64_t round_began_ms;
	_Atomic uint64_t commit_failures; /* the lane's */

	uv_signal_t term, interrupt, hangup;
	uv_timer_t second; /* once a second */
	uv_timer_t watchdog;
	uv_timer_t patience; /* how long stopping may take */
	uv_prepare_t turn;
	uint64_t turn_start_ns, idle_ns;
	double longest_turn;
	bool ready_said;
	char said[200]; /* last STATUS= */
	bool stopping;
	uint64_t stop_began_ms;
	int exit_code;
	size_t connections;
	struct reload *reload;
	struct site_peer_status *peer_status; /* (CONFIG_MAX_PEERS,) answers of the admin socket point into it */
	struct site_status status;            /* likewise */
	char trouble[600];
};

/* daemon.c */
/* Begins the orderly stop; the first code counts. */
void daemon_stop(struct daemon *d, int exit_code);

/* site_effects.c: site_io over link, lane and worker; the site's birth. */
/* Called when the trainer is open and the state directory verified: prepares on the lane, then makes and starts the site. */
void daemon_prepare_site(struct daemon *d);
extern const struct link_events daemon_link_events;
void daemon_on_trained(void *self, const struct site_trained *result);
void daemon_on_evaluated(void *self, const struct site_evaluated *result);
/* The configured peers as the site wants them. The array is fresh memory for free(); strings are borrowed from the config. */
int daemon_neighbours(const struct config *config, struct site_neighbour **out, struct fault *f);

/* publish.c */
/* Writes the newest committed adapter to STATE/adapters/latest, soon. */
void daemon_publish(struct daemon *d);
void publication_fini(struct publication *p);
/* What adapters that are published call their base model. */
const char *daemon_base_model(const struct daemon *d);

/* publish_best.c */
/* On the lane: the lowest loss that was published before. */
int best_load(struct daemon *d, struct fault *f);
/* A round is done: publishes the adapter that was evaluated last, soon, if its loss is the lowest so far; or one that could not be published before. */
void daemon_publish_best(struct daemon *d, const struct site_record *record);
void best_fini(struct best *b);

/* answers.c: what the admin socket and the web server say. */
struct admin_backend daemon_admin_backend(struct daemon *d);
struct http_pages daemon_http_pages(struct daemon *d);
/* One line for systemctl status. */
void daemon_describe(struct daemon *d, char *out, size_t size);
bool daemon_is_ready(struct daemon *d, char *why, size_t size);

/* reload.c */
int daemon_reload(struct daemon *d, struct fault *f);
