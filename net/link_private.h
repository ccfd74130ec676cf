/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a link, shared by link.c (connections, the crossing, the link's own life) and link_open.c (listening and
 * dialling, where connections come from) and nobody else. Loop thread only, but for what says otherwise. */
#pragma once
#include <nng/nng.h>
#include <uv.h>

#include "net/link.h"

/* One NNG operation; all but `next` belong to the loop thread while it is not outstanding. */
struct operation {
	struct link *link;
	nng_aio *aio;
	void (*on_done)(void *subject);
	void *subject;
	bool outstanding;       /* loop thread: started, and its end not seen */
	struct operation *next; /* in link->finished, under its mutex */
};

struct outgoing {
	struct outgoing *next;
	size_t size; /* with the prefix */
	uint8_t data[];
};

struct link_connection {
	struct link *link;
	struct link_connection *next, *previous;
	nng_stream *stream;
	struct operation receive, send;
	int tag;
	bool accepted, authenticated, closing, close_when_sent;
	enum link_end end;
	uint64_t close_at;  /* loop time, for close_when_sent */
	uint8_t source[17]; /* address family and IP address of an accepted one; all zero for ipc */
	char remote[LINK_REMOTE_SIZE];
	void *data;
	uint8_t *in; /* bytes received and not yet taken as frames */
	size_t in_capacity, in_size;
	struct outgoing *first, **last;
	size_t first_sent; /* bytes of `first` that the kernel has */
	size_t queued;
};

struct listener {
	struct link *link;
	struct listener *next;
	nng_stream_listener *listener;
	struct operation accept;
	bool closing;
};

struct dial {
	struct link *link;
	struct dial *next;
	nng_stream_dialer *dialer;
	struct operation operation;
	int tag;
	char *url;
};

struct link {
	uv_loop_t *loop;
	uv_async_t wake;
	uv_timer_t timer; /* accepts to try again, closes that wait */
	unsigned handles; /* of those two, not yet closed */
	struct link_events events;
	void *owner;
	struct link_limits limits;
	struct link_statistics statistics;
	struct link_connection *connections;
	struct listener *listeners;
	struct dial *dials;
	unsigned accepted, unauthenticated;
	bool freeing;
	void (*done)(void *owner);
	uv_mutex_t mutex;
	struct operation *finished, **finished_last;
};

/* link.c */
/* An operation of `subject`, not started. 0 or an NNG error. */
int link_operation_init(struct operation *op, struct link *link, void (*on_done)(void *), void *subject);
/* Only when not outstanding. Waits for the callback's last instructions at most. */
void link_operation_fini(struct operation *op);
/* Takes the stream. NULL when there is no memory for its operations. */
struct link_connection *link_connection_new(struct link *link, nng_stream *stream, int tag);
/* Tells the owner and begins to read. May free it, and the link. */
void link_connection_open(struct link_connection *c);
/* Accepts to try again and closes that wait are looked at soon. */
void link_start_timer(struct link *link);

/* link_open.c */
void link_accept_start(struct listener *l);
/* Frees a listener that is closing and has no accept outstanding. */
void link_listener_finish(struct listener *l);
