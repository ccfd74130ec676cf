/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a site, shared by the files of src/site and nobody else. Loop thread only, but for what is marked "lane". */
#pragma once
#include <stdatomic.h>

#include "base/log.h"
#include "gossip/round.h"
#include "site/site.h"

#define INBOX_MAX 8
#define UPDATES_MAX 2 /* of them */
#define OUTGOING_MAX 8
#define PING_MS 10000
#define SILENCE_MS 45000
#define SETTLED_MS 10000 /* a session that lasted is dialled again at once */
#define BACKOFF_MIN_MS 250
#define BACKOFF_MAX_MS 30000
#define COMMIT_RETRY_MS 3000
#define STRANGER_LOG_MS 1000
#define CLOCK_SKEW_MS (5 * 60 * 1000)

/* An update's bytes, shared by the sessions that send them. */
struct payload {
	unsigned references;
	uint64_t version;
	size_t size;
	uint8_t hash[HASH_SIZE];
	uint8_t bytes[];
};
struct payload *payload_new(uint64_t version, size_t size);
struct payload *payload_hold(struct payload *p);
/* NULL is fine. */
void payload_drop(struct payload *p);

/* One message for the round, waiting until it may have it. */
struct letter {
	enum wire_kind kind;
	struct wire_hello hello;
	struct wire_update update;
	uint8_t *bytes; /* of the update; owned */
	size_t size;
	struct wire_word word;
	uint64_t have, word_applied;
	bool acknowledged; /* these two were given to the round */
};

/* A neighbour. Its index in site.neighbours is its edge's in the round and its peer number in net/peer; never used again. */
struct neighbour {
	char name[WIRE_NAME_MAX + 1];
	struct identity_public id;
	char *url;
	bool removed;
	bool lower; /* we are the lower end */

	/* Lane. NULL: version 0. */
	float *replica;
	bool replica_changed; /* loop: since the last commit */

	/* The session. */
	struct site_connection *current; /* up */
	bool greeted;                    /* its Hello came and was believed: the round has the edge up */
	bool dialling;
	uint64_t retry_at, backoff_ms;
	struct letter inbox[INBOX_MAX];
	size_t inbox_count;
	struct letter applying; /* the update under way on the lane */

	char trouble[400], cure[300], warning[200];
	bool in_trouble; /* not merely out of reach */
	bool suspected;  /* the last greeting had impossible numbers */
	uint64_t bytes_sent, bytes_received;
	uint64_t updates_sent, updates_received, snapshots_sent, snapshots_received;
	double rtt_ms, skew_ms;
	uint64_t last_seen; /* 0: never */
	uint64_t sessions;
};

/* What has to leave in order: updates one after another, and behind them words and whatever follows a word. */
struct outgoing {
	struct wire_message message;
	struct payload *payload; /* of an update; NULL while the lane makes the snapshot */
};

struct site_connection {
	struct site *site;
	void *link;                   /* the io's; NULL once it is hung up */
	struct peer_session *session; /* NULL once it is over */
	struct site_connection *previous, *next;
	int peer; /* -1: a stranger so far */
	bool dialled;
	bool inside;        /* a callback of the session is running: it must not be freed */
	bool ending, flush; /* hang up when that is over */
	uint64_t opened_at, up_at, last_received, ping_at;
	bool hello_came;
	bool redialled; /* keys are old, a successor is being dialled */

	struct payload *sending;
	struct outgoing *queue;
	size_t queue_count;
};

enum lane_kind { LANE_LOAD, LANE_LEND, LANE_COMMIT, LANE_UPDATE, LANE_WORD, LANE_SNAPSHOT };

/* A job: numbers in, numbers out; the vectors are the site's and the lane's alone while it runs. */
struct lane_job {
	struct site_job base;
	struct lane_job *previous, *next; /* loop */
	enum lane_kind kind;
	int error;
	struct fault fault;
	uint64_t began_ms;

	/* LOAD, COMMIT */
	struct site_image image;
	struct site_record records[2];
	enum round_action_kind commit;
	struct commit_edge *edges;
	size_t edge_count;
	uint64_t *pins;
	bool mixed;            /* the vectors are done: only the transaction is tried again */
	struct payload *delta; /* TRAINED: made here */
	double displacement, consensus_distance;
	uint32_t words, fresh;

	/* UPDATE, WORD, SNAPSHOT */
	size_t peer;
	enum round_update_kind update_kind;
	const uint8_t *bytes;
	size_t size;
	struct round_word word;
	bool away;
	uint64_t version;
	struct payload *snapshot;
	struct site_connection *connection; /* loop: who wants it; NULL when it is gone */
	atomic_bool forgotten;              /* it is gone: nothing to do */
};

/* What a commit needs of an edge. */
struct commit_edge {
	struct neighbour *neighbour;
	bool decided;
	struct round_word word;
};

struct site {
	struct site_settings settings; /* `neighbours` is not kept */
	struct site_io io;
	struct site_store store;
	struct site_observer observer;
	struct round *round; /* NULL until loaded */
	bool failed;
	struct fault fault;
	bool running;

	struct neighbour **neighbours;
	size_t neighbour_count;
	size_t letters_turn;           /* whose letter is looked at first */
	struct site_neighbour *wanted; /* a new list that waits for the commit under way */
	size_t wanted_count;
	bool rewanted;
	struct site_connection *connections;

	/* Lane. All (n,). `self` is our replica at self_version; `anchor` is x as it was lent to the trainer. */
	float *x, *m, *v, *self, *pending, *anchor;
	uint64_t self_version;
	bool pending_used;
	struct lane_job *jobs; /* loop: all that are out */

	struct payload *delta; /* the newest update; NULL before the first */
	struct site_training training;
	enum round_action_kind evaluating;
	uint64_t step;
	bool stored;            /* at least one commit succeeded: unchanged vectors need not be written */
	struct lane_job *retry; /* a commit that failed */
	uint64_t retry_at;

	struct site_record record, last; /* of the round under way, of the last complete one */
	bool last_unstored;
	uint64_t round_sent, round_received; /* totals when the round began */
	uint64_t bytes_sent, bytes_received, strangers_refused, stranger_logged_at;
	uint64_t timer_at;
	bool changed;
};

/* site.c */
/* Carries out what the round wants and gives it what waits, until neither is left. Call after every event. */
void site_run(struct site *s);
void site_reject(struct site *s, int peer, const char *reason);
uint64_t site_now(const struct site *s);

/* jobs.c: the vectors */
void jobs_load(struct site *s);
void jobs_lend(struct site *s);
void jobs_commit(struct site *s, const struct round_action *a);
void jobs_commit_again(struct site *s);
void jobs_update(struct site *s, size_t peer);
void jobs_word(struct site *s, const struct round_action *a);
void jobs_snapshot(struct site *s, struct site_connection *c, uint64_t version);
void jobs_forget_connection(struct site *s, struct site_connection *c);
void jobs_free(struct site *s);

/* sessions.c: connections and what travels on them */
/* Hangs up. `flush`: what was sent last should leave first. */
void connection_end(struct site_connection *c, bool flush);
void connection_free(struct site_connection *c);
void sessions_dial(struct site *s, uint64_t now);
void sessions_tick(struct site *s, uint64_t now);
uint64_t sessions_deadline(const struct site *s);
void sessions_goodbye(struct site_connection *c, enum wire_goodbye_reason reason, const char *text);
/* Sends `message` after everything it must not overtake. Takes the payload of an update; NULL: jobs_snapshot was asked for it. */
void sessions_send(struct site_connection *c, const struct wire_message *message, struct payload *take_payload);
/* The snapshot of `version` is ready. Takes the payload. */
void sessions_snapshot_made(struct site_connection *c, uint64_t version, struct payload *take_payload);

/* letters.c: what arrives, in order */
void letters_clear(struct neighbour *n);
/* Takes letter->bytes. */
void letters_put(struct site *s, size_t peer, const struct letter *letter);
/* Gives the round one letter of somebody; false when there is none or it may not have one now. */
bool letters_deliver(struct site *s);
/* Our Hello, the first message of a session. */
void letters_greet(struct site *s, struct site_connection *c);
/* The neighbour's wall clock against ours. */
void neighbour_clock(struct neighbour *n, double skew_ms);

/* neighbours.c */
int neighbours_check(const struct site *s, const struct site_neighbour *list, size_t count, struct fault *f);
void neighbours_apply(struct site *s, const struct site_neighbour *list, size_t count);
void neighbours_free(struct site *s);
void neighbour_trouble(struct neighbour *n, const char *cure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void neighbour_well(struct neighbour *n);
