/* SPDX-License-Identifier: Apache-2.0 */
/* Frames over NNG byte streams (tcp://HOST:PORT, ipc://PATH), the one crossing between NNG's threads and the loop:
 * NNG's callbacks only put their operation on a queue and wake the loop; everything below is called, and calls back, on
 * the loop thread. On the wire a frame is its length (4 bytes, little-endian) and that many bytes.
 *
 * The usual life: link_new, link_listen and link_dial, on_opened, on_frame and link_send, link_close, on_closed,
 * link_free. A stranger can only connect, send bytes and hang up; each costs at most a buffer of the frame cap, and
 * their number is limited until the owner calls link_authenticated. Who is silent is the owner's deadline's business.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct uv_loop_s;
struct link;
struct link_connection;

#define LINK_PREFIX_SIZE 4
#define LINK_FRAME_MAX (64 * 1024 + 16)
#define LINK_REMOTE_SIZE 128

/* 0 means the default in brackets. */
struct link_limits {
	unsigned unauthenticated_total;      /* connections accepted and not yet authenticated [64] */
	unsigned unauthenticated_per_source; /* the same from one IP address [8]; ipc has no address and only the total
					      */
	unsigned connections_total;          /* accepted connections of any kind [512] */
	size_t frame_max_unauthenticated;    /* longest frame before link_authenticated, bytes [256] */
	size_t send_queue_bytes;             /* per connection [1 MiB]; at least two frames */
	unsigned dial_timeout_ms;            /* [10000] */
};

/* Why a connection ended. */
enum link_end {
	LINK_END_CLOSED,   /* link_close or link_free */
	LINK_END_REMOTE,   /* the other side hung up */
	LINK_END_ERROR,    /* reset, unreachable, ... */
	LINK_END_OVERSIZE, /* announced a frame over the cap, or an empty one */
};
const char *link_end_label(enum link_end end);

/* `owner` is what link_new got. A callback may call any function here, link_close on its own connection included. */
struct link_events {
	/* A connection exists: `tag` is link_dial's, or -1 for an accepted one. `remote` ("192.0.2.1:7411", "ipc")
	 * lives as long as the connection. */
	void (*on_opened)(void *owner, struct link_connection *c, int tag, const char *remote);
	/* One whole frame, borrowed for the call, 1..LINK_FRAME_MAX bytes. Never after link_close. */
	void (*on_frame)(void *owner, struct link_connection *c, const uint8_t *frame, size_t n);
	/* Bytes left and the queue has bulk room again. May be NULL. */
	void (*on_drained)(void *owner, struct link_connection *c);
	/* Always once for each on_opened, never from inside a call of the owner; `c` is freed when it returns. */
	void (*on_closed)(void *owner, struct link_connection *c, enum link_end end);
	/* The one attempt of link_dial came to nothing (link_free ends it too); `why` is a sentence, borrowed for the
	 * call. Never from inside link_dial. */
	void (*on_dial_failed)(void *owner, int tag, const char *why);
};

/* Counted since link_new; for metrics. */
struct link_statistics {
	uint64_t accepted;
	uint64_t refused_total;  /* hung up on because of unauthenticated_total or connections_total */
	uint64_t refused_source; /* because of unauthenticated_per_source */
	uint64_t oversize;
	uint64_t accept_errors;
	uint64_t bytes_sent;
	uint64_t bytes_received;
};

/* `events` is copied. 0 or negative; the caller frees *out with link_free. */
int link_new(struct uv_loop_s *loop, const struct link_events *events, void *owner, const struct link_limits *limits,
	struct link **out, struct fault *f);
/* Closes listeners, dials and connections (each with its on_closed) and then everything; returns at once. `done` (may
 * be NULL) is called on the loop when nothing is left: keep the loop running until then. */
void link_free(struct link *link, void (*done)(void *owner));

/* Accepts on tcp://ADDRESS:PORT (port 0: any; *port gets the real one, 0 for ipc; port may be NULL) or ipc://PATH (at
 * most 107 bytes). May be called for several URLs. The sentence names the address and what to do: port in use, address
 * not here, path. */
int link_listen(struct link *link, const char *url, uint16_t *port, struct fault *f);
/* One attempt to connect; the answer is on_opened or on_dial_failed with `tag` (>= 0). A bad URL is refused at once and
 * has no callback. Trying again, with jitter, is the owner's. */
int link_dial(struct link *link, const char *url, int tag, struct fault *f);

/* Queues a copy of the frame. SAKIORI_ELIMIT when the queue is full (nothing is queued), SAKIORI_EINVAL for an empty or
 * too long frame, SAKIORI_ECANCELLED after the connection ended. */
int link_send(struct link_connection *c, const uint8_t *frame, size_t n);
/* Bytes queued and not yet taken by the kernel, length prefixes included. */
size_t link_queued_bytes(const struct link_connection *c);
/* Frame bytes that bulk data should add now: half of the queue is kept for control messages. */
size_t link_bulk_room(const struct link_connection *c);
/* The peer behind it is known: the limits on strangers no longer count it and full frames are read. */
void link_authenticated(struct link_connection *c);
/* Hangs up; what is queued may be lost. Returns at once, on_closed comes later; safe twice. */
void link_close(struct link_connection *c);
/* Hangs up once the queue is empty or `timeout` has passed (ms): for a last message. */
void link_close_after_send(struct link_connection *c, unsigned timeout_ms);

/* A pointer of the owner's for each connection. */
void link_set_data(struct link_connection *c, void *data);
void *link_data(const struct link_connection *c);
const char *link_remote(const struct link_connection *c);
const struct link_statistics *link_statistics(const struct link *link);
