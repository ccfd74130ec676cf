/* SPDX-License-Identifier: Apache-2.0 */
/* One site: where training, gossip and network meet. It turns the numbers of gossip/round.c into vectors, messages and
 * durable state. Loop thread only, and it has no thread, socket, file or clock of its own: everything outside is an
 * effect (struct site_io, struct site_store) and comes back as an event (site_on_...), so that src/sim can run the same
 * code under a virtual clock with faults.
 *
 * Effects may be carried out at once or later, but their answers never come from inside the effect's call.
 *
 * The usual life: site_new, site_start (loads what is stored, then runs by itself), events, site_free. A site may be
 * freed at any moment: nothing beyond the last commit is needed. Before that the trainer must have answered or stopped,
 * and the lane must be empty, because both borrow the site's vectors. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"
#include "gossip/round.h"
#include "net/peer.h"

struct site;

/* ---- What a site is told ---- */

/* One neighbour of the configuration. Strings are copied. */
struct site_neighbour {
	const char *name; /* for people, logs and metrics: [A-Za-z0-9_.-]{1,64}, unique */
	struct identity_public id;
	const char *url; /* where to dial; NULL: it dials us */
};

struct site_settings {
	struct peer_settings session; /* identity, secret and network hash: borrowed for the site's life */
	/* What every Hello says: software, site, run_name_hash, run_id, base_fingerprint, adapter_layout_hash,
	 * initial_adapter_hash and the three texts. The numbers are filled in by the site. */
	struct wire_hello hello;
	size_t size;          /* n, floats of the shared vector */
	const float *initial; /* (n,) version 0 of every replica; borrowed for the site's life */
	uint64_t codec_seed;  /* of this site's stochastic rounding; the same after a restart */
	uint32_t local_steps; /* H, optimizer steps a round */
	struct round_settings round;
	const struct site_neighbour *neighbours; /* borrowed during site_new */
	size_t neighbour_count;
};

/* ---- Effects: the machine ---- */

/* A round's local steps, or an evaluation. The vectors (n,) are the trainer's from the call until its answer. */
struct site_training {
	uint64_t round;
	uint64_t step;  /* optimizer steps done before */
	uint32_t steps; /* to do now */
	float *x;       /* adapter: in and out */
	float *m, *v;   /* AdamW moments: in and out */
};

/* What the trainer says. When it failed or was cancelled x, m and v are as they were. */
struct site_trained {
	int error; /* 0, SAKIORI_ECANCELLED (is tried again when the site goes on) or another negative code (halts the
		      site) */
	char text[200];   /* what to do about an error */
	uint64_t steps;   /* done */
	uint64_t tokens;  /* in these steps */
	double loss;      /* nats a token, mean over the steps */
	double grad_norm; /* of the last step */
	double lr;        /* of the last step */
	double seconds;
};

struct site_evaluated {
	int error;
	double loss; /* nats a token */
	double accuracy;
	uint64_t tokens;
	double seconds;
};

/* Work on vectors, for the lane: jobs run one after another, in the order given, off the loop. A job and what it points
 * at belong to the lane until site_on_worked. */
struct site_job {
	void (*run)(struct site_job *job);
	struct site *site; /* only for site_on_worked */
};

struct site_io {
	void *self;
	uint64_t (*now_ms)(void *self);  /* monotonic */
	uint64_t (*unix_ms)(void *self); /* wall clock: never an input to safety, only said and compared */
	uint64_t (*random)(void *self);  /* for jitter */
	/* One timer: call site_on_timer at or after `at_ms` (monotonic). Replaces the one set before; UINT64_MAX unsets
	 * it. */
	void (*timer)(void *self, uint64_t at_ms);
	/* Answer: site_on_trained. One at a time, never together with evaluate. */
	void (*train)(void *self, const struct site_training *training);
	/* The adapter x (n,), borrowed for reading, on the evaluation rows. Answer: site_on_evaluated. */
	void (*evaluate)(void *self, const float *x);
	/* Answer: site_on_worked after job->run(job) has run on the lane. */
	void (*work)(void *self, struct site_job *job);
	/* One attempt to connect. Answer: site_on_opened or site_on_dial_failed with this tag. 0, or negative when the
	 * URL is bad, and then there is no answer. */
	int (*dial)(void *self, const char *url, int tag);
	/* The rest speak of a connection that site_on_opened brought and site_on_closed has not taken. `connection` is
	 * the io's own (in the daemon struct link_connection *). */
	void (*send)(void *self, void *connection, const uint8_t *frame, size_t n);
	size_t (*bulk_room)(void *self, void *connection);   /* frame bytes that bulk data should add now */
	void (*authenticated)(void *self, void *connection); /* it is a neighbour: no stranger's limits any more */
	/* Hangs up; `flush`: what is queued should leave first (within a second). Answer: site_on_closed. */
	void (*close)(void *self, void *connection, bool flush);
};

/* ---- Effects: the store. Called only inside lane jobs, blocking. ---- */

/* One neighbour's part of the state. `id` is its NodeID. */
struct site_edge_row {
	uint8_t id[IDENTITY_KEY_SIZE];
	struct round_edge_row numbers;
	float *replica;       /* (n,) at numbers.have; NULL when that is 0 */
	bool replica_changed; /* commit: since the last successful commit of this process */
};

/* What a round was like. Values that are not known (not evaluated, no neighbour) are NaN. */
struct site_record {
	uint64_t round;
	uint64_t step;
	uint64_t tokens;
	double loss; /* training, nats a token */
	double grad_norm;
	double lr;
	double train_seconds;
	double eval_loss_trained; /* before mixing */
	double eval_accuracy_trained;
	double eval_loss_mixed; /* after */
	double eval_accuracy_mixed;
	double displacement;                 /* Euclidean norm of what the local steps changed */
	double consensus_distance;           /* root mean square of ||x^_j - x^_i|| over the neighbours heard of */
	double gather_seconds;               /* waiting for neighbours */
	uint32_t neighbours_fresh;           /* whose update of this round was in at mixing */
	uint32_t words;                      /* edges counted: given and applied */
	uint64_t bytes_sent, bytes_received; /* on all sessions during the round */
	uint64_t unix_ms;                    /* when it ended */
};

/* One transaction: after it returns 0 the whole image is durable, after a failure or a crash all of it or nothing.
 * In `load` the store fills it: x, m, v, self, payload into memory that the caller owns, edges with malloc. */
struct site_image {
	uint8_t run_id[HASH_SIZE];
	uint8_t layout_hash[HASH_SIZE];
	size_t size; /* n */
	struct round_row row;
	uint64_t step;        /* optimizer steps in x, m, v */
	float *x, *m, *v;     /* (n,) */
	bool moments_changed; /* commit: m and v differ from the last successful commit of this process */
	float *self;          /* (n,) own public replica at row.sequence */
	bool self_changed;
	uint8_t *payload;                /* the update row.sequence (codec_payload_bytes(n)); unused when that is 0 */
	uint8_t payload_hash[HASH_SIZE]; /* WIRE_PAYLOAD_PURPOSE */
	/* Commit: own versions that load_own must still find; `self` is pins[pin_count - 1]. Others may be deleted. */
	const uint64_t *pins;
	size_t pin_count;
	struct site_edge_row *edges; /* those not listed are forgotten */
	size_t edge_count;
	/* Commit: history to insert or replace by round number; either may be NULL. */
	const struct site_record *records[2];
};

struct site_store {
	void *self;
	/* SAKIORI_ENOTFOUND when nothing was ever committed. Anything else that is not 0 keeps the site from starting:
	 * corrupt state is never loaded, and never silently replaced. On success edges and their replicas are malloced
	 * and the caller's. */
	int (*load)(void *self, struct site_image *image, struct fault *f);
	/* A failure leaves the state before; the site tries again every few seconds and says so in its status. */
	int (*commit)(void *self, const struct site_image *image, struct fault *f);
	/* Own public replica at a pinned version, into out (n,). */
	int (*load_own)(void *self, uint64_t version, float *out, size_t n, struct fault *f);
};

/* ---- Observers: all on the loop, any may be NULL, none may call the site's events or controls ---- */

struct site_observer {
	void *self;
	/* A round is over. */
	void (*on_round)(void *self, const struct site_record *record);
	/* Something in site_status or site_peer_status changed that people wait for (state, round, a peer's state). */
	void (*on_changed)(void *self);
	/* A frame, message, update, word or session was refused; `peer` is a number of site_peer_slot or -1 for a stranger. Labels are
	 * stable: those of peer_failure_label and round_trouble_label, and SITE_REJECTIONS. */
	void (*on_rejected)(void *self, int peer, const char *reason);
	/* A transaction took this long and wrote these many vector bytes at most. */
	void (*on_commit)(void *self, double seconds);
};
/* Further labels of on_rejected. */
#define SITE_REJECTIONS                                                                                                \
	{                                                                                                              \
		"incompatible_run", "incompatible_base", "incompatible_adapter", "incompatible_initial",               \
			"protocol_version", "wrong_size", "order", "flood", "unread", "silent", NULL                   \
	}

/* ---- Life ---- */

/* Everything is copied but what is said to be borrowed. Refuses settings that cannot be (no rounds, n = 0, gamma
 * outside (0, 1], the same neighbour twice, oneself as neighbour). The caller frees *out. */
int site_new(const struct site_settings *settings, const struct site_io *io, const struct site_store *store,
	const struct site_observer *observer, struct site **out, struct fault *f);
/* Loads and runs. The answer of loading is in site_status: state "loading", then another, or "failed" with its fault.
 */
void site_start(struct site *s);
/* Frees; connections still open are simply forgotten (the owner closes its link). NULL is fine. */
void site_free(struct site *s);

/* ---- Events ---- */

void site_on_timer(struct site *s);
void site_on_trained(struct site *s, const struct site_trained *result);
void site_on_evaluated(struct site *s, const struct site_evaluated *result);
void site_on_worked(struct site *s, struct site_job *job);
/* A connection exists: `tag` is that of dial, or -1 for an accepted one. Returns the site's handle for it, which the io
 * keeps beside the connection and gives to the events below; it ends with site_on_closed. */
struct site_connection *site_on_opened(struct site *s, void *connection, int tag);
/* `frame` is borrowed for the call. */
void site_on_frame(struct site *s, struct site_connection *c, const uint8_t *frame, size_t n);
void site_on_drained(struct site *s, struct site_connection *c);
void site_on_closed(struct site *s, struct site_connection *c);
void site_on_dial_failed(struct site *s, int tag, const char *why);

/* ---- Controls ---- */

void site_pause(struct site *s);  /* after the round under way */
void site_drain(struct site *s);  /* the same; the state says "drained" when it is safe to stop for long */
void site_resume(struct site *s); /* after pause, drain or a halt */
/* Replaces the list: new neighbours start with version 0, missing ones are told Goodbye and forgotten (their replica
 * and words too; to start an edge afresh, take the peer out at both sites, reload, put it back, reload). A changed URL
 * or key is applied; takes effect at once or, while a commit is under way, right after it. Refuses like site_new and
 * changes nothing then. */
int site_set_neighbours(struct site *s, const struct site_neighbour *neighbours, size_t count, struct fault *f);
/* Says Goodbye to every neighbour: before an orderly stop. */
void site_goodbye(struct site *s);

/* ---- Questions ---- */

struct site_status {
	const char *state;  /* "loading", "failed" or round_state_label */
	struct fault fault; /* failed, halted, or a commit that is being tried again; code 0: none */
	struct round_status round;
	uint64_t rounds;
	uint64_t step;
	size_t peers, peers_up;
	uint64_t deadline_left_ms; /* of the wait under way; 0: none */
	struct site_record last;   /* the last complete round; round 0: none */
	uint64_t bytes_sent, bytes_received;
	uint64_t strangers_refused;
};
void site_status(const struct site *s, struct site_status *out);

/* X(NAME, label) */
#define SITE_PEER_STATES(X)                                                                                            \
	X(CONNECTING, "connecting") /* no session; dialling, or waiting to be dialled */                               \
	X(UP, "up")                                                                                                    \
	X(BEHIND, "behind")     /* up, but missed the last deadline */                                                 \
	X(FINISHED, "finished") /* up, has done its last round */                                                      \
	X(TROUBLE, "trouble")   /* stays out until somebody does what `cure` says */
enum site_peer_state {
#define X(name, label) SITE_PEER_##name,
	SITE_PEER_STATES(X)
#undef X
};
const char *site_peer_state_label(enum site_peer_state state);

struct site_peer_status {
	char name[WIRE_NAME_MAX + 1];
	char id[IDENTITY_SHORT_SIZE];
	enum site_peer_state state;
	char trouble[400]; /* what is wrong, both values named; empty when nothing is */
	char cure[300];    /* what to do about it */
	char warning[200]; /* clock skew; the edge works all the same */
	bool dialled;      /* this end opened the session */
	struct round_edge_status edge;
	uint64_t sequence;                   /* of its newest update held */
	uint64_t staleness;                  /* own round - round of that update; 0 when it is ahead */
	uint64_t bytes_sent, bytes_received; /* frames, since the start of the process */
	uint64_t updates_sent, updates_received, snapshots_sent, snapshots_received;
	double rtt_ms;         /* smoothed; NaN: unknown */
	double clock_skew_ms;  /* its wall clock - ours; NaN: unknown */
	uint64_t last_seen_ms; /* ago; UINT64_MAX: never in this process */
	uint64_t sessions;     /* that came up since the start of the process */
};
/* Indices 0..site_peer_count - 1 are stable between calls of site_set_neighbours. */
size_t site_peer_count(const struct site *s);
/* The number by which observers call the peer at `index`; it stays the same as long as the process lives. SIZE_MAX: none. */
size_t site_peer_slot(const struct site *s, size_t index);
void site_peer_status(const struct site *s, size_t index, struct site_peer_status *out);
