/* SPDX-License-Identifier: Apache-2.0 */
/* The admin interface org.sakiori.Admin in Varlink (JSON objects, each ended by a NUL): bytes in, bytes out. It has no
 * socket, file or clock; daemon/admin_socket brings the bytes, daemon/daemon answers through struct admin_backend.
 * Loop thread only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "daemon/log_ring.h"
#include "site/site.h"

/* A longer request ends the connection. */
#define ADMIN_REQUEST_MAX 65536
/* Rounds that are kept in memory and so can be asked for. */
#define ADMIN_ROUNDS_MAX 1000
#define ADMIN_PEERS_MAX 256

enum admin_access { ADMIN_DENIED, ADMIN_READ, ADMIN_CHANGE };

/* Strings are borrowed until the next turn of the loop; numbers that are not known are NAN and become null. */
struct admin_status {
	const char *version, *commit;
	const char *site, *id; /* id: 8 hex digits of the NodeID */
	const char *run;
	const char *state;   /* one word: loading, training, gathering, paused, drained, finished, failed, ... */
	const char *trouble; /* a sentence with the cure, or "" */
	const char *model, *fingerprint, *device;
	const char *adapter; /* folder of the newest published adapter, "" before the first */
	unsigned threads;
	bool ready;
	uint64_t round, rounds, step, tokens;
	unsigned peers_up, peers;
	double uptime_seconds;
	double tokens_per_second;
	uint64_t bytes_sent, bytes_received;
	const struct site_record *last; /* the last complete round; NULL before the first */
};

struct admin_peer {
	const char *name, *id;
	const char *state;          /* up, connecting, waiting, incompatible, ... */
	const char *trouble, *cure; /* "" when all is well */
	const char *address;
	uint64_t bytes_sent, bytes_received;
	uint64_t staleness; /* rounds since its last fresh update */
	uint64_t round;
	bool finished;
	double rtt_seconds;
	double last_seen; /* Unix time */
};

/* What the methods read and change. Each returns at once. */
struct admin_backend {
	void *self;
	void (*status)(void *self, struct admin_status *out);
	size_t (*peers)(void *self, struct admin_peer *out, size_t max);
	/* Rounds with a number above `after`, oldest first; at most ADMIN_ROUNDS_MAX exist. */
	size_t (*rounds)(void *self, uint64_t after, struct site_record *out, size_t max);
	int (*pause)(void *self, struct fault *f);
	int (*resume)(void *self, struct fault *f);
	int (*drain)(void *self, struct fault *f);
	/* Starts reading the configuration again; admin_reload_done answers. SAKIORI_EBUSY while one is under way. */
	int (*reload)(void *self, struct fault *f);
	struct log_ring *log;
};

struct admin;
struct admin_session;

struct admin *admin_new(const struct admin_backend *backend);
/* All sessions must be gone. NULL is fine. */
void admin_free(struct admin *a);

/* `send` gets whole replies, the NUL included; it must not call back. */
struct admin_session *admin_session_new(
	struct admin *a, enum admin_access access, void (*send)(void *self, const char *data, size_t n), void *self);
void admin_session_free(struct admin_session *s);
/* Bytes from the client at monotonic `now_ms`; at most one call is handled, further ones by admin_poke. Negative: hang up (a request too long or that is no Varlink call). */
int admin_session_feed(struct admin_session *s, const void *data, size_t n, uint64_t now_ms);
/* true once a pipelined request turned out to be no Varlink call: hang up. */
bool admin_session_is_broken(const struct admin_session *s);
/* true while a call is unanswered or streaming, so that silence is no idleness. */
bool admin_session_is_busy(const struct admin_session *s);

/* Something may have changed (a round, a peer, a log line, the time): serves those who follow or wait. */
void admin_poke(struct admin *a, uint64_t now_ms);
/* true when a list or calls that arrived together are not answered yet: admin_poke should be called in the next turn. */
bool admin_is_pending(const struct admin *a);
/* Answers every Reload: `applied` and `needs_restart` are lists of settings; or the fault. */
void admin_reload_done(struct admin *a, int rc, const struct fault *f, const char *const *applied, size_t applied_count,
	const char *const *needs_restart, size_t restart_count);
/* Refused calls so far, for metrics. */
uint64_t admin_denied(const struct admin *a);

/* Appends the status as one JSON object, as the Status method gives it. */
void admin_write_status(const struct admin *a, struct writer *out);

/* The interfaces' definitions in Varlink's own language: ours, and the one that every service has. */
extern const char admin_interface_text[];
extern const char admin_service_interface_text[];
