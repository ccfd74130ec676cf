/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path: the loop thread starts an NNG operation, NNG's thread finishes it and appends it to link->finished,
 * on_wake takes the list on the loop thread and goes on. A connection has at most one receive and one send outstanding,
 * and is freed only when neither is, so that no callback can find it gone.
 *
 * Failure modes: the other side may hang up, stall, announce a frame of 4 GiB or connect a thousand times; the first
 * ends the connection, the second fills its send queue (link_send refuses), the third ends it before anything is
 * allocated, the fourth is hung up on at accept. Running out of files or memory in accept is tried again after
 * RETRY_MS. */
#include "net/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "net/link_private.h"

#define RETRY_MS 50
#define GATHER_MAX 8 /* buffers of one send; NNG's limit */
/* Read ahead for a known peer: a few whole frames a wake-up. */
#define READ_AHEAD (4 * (LINK_PREFIX_SIZE + LINK_FRAME_MAX))

/* ---- the crossing ---- */

/* NNG's thread. */
static void operation_finished(void *arg)
{
	struct operation *op = arg;
	struct link *link = op->link;
	uv_mutex_lock(&link->mutex);
	op->next = NULL;
	*link->finished_last = op;
	link->finished_last = &op->next;
	uv_async_send(&link->wake);
	uv_mutex_unlock(&link->mutex);
}

static void maybe_freed(struct link *link);

static void on_wake(uv_async_t *handle)
{
	struct link *link = handle->data;
	uv_mutex_lock(&link->mutex);
	struct operation *op = link->finished;
	link->finished = NULL;
	link->finished_last = &link->finished;
	uv_mutex_unlock(&link->mutex);
	while (op != NULL) {
		struct operation *next = op->next;
		op->outstanding = false;
		op->on_done(op->subject);
		op = next;
	}
	maybe_freed(link);
}

int link_operation_init(struct operation *op, struct link *link, void (*on_done)(void *), void *subject)
{
	op->link = link;
	op->on_done = on_done;
	op->subject = subject;
	return nng_aio_alloc(&op->aio, operation_finished, op);
}

void link_operation_fini(struct operation *op)
{
	nng_aio_free(op->aio);
	op->aio = NULL;
}

/* ---- connections ---- */

static void connection_finish(struct link_connection *c)
{
	struct link *link = c->link;
	if (!c->closing || c->receive.outstanding || c->send.outstanding)
		return;
	link->events.on_closed(link->owner, c, c->end);
	if (c->previous != NULL)
		c->previous->next = c->next;
	else
		link->connections = c->next;
	if (c->next != NULL)
		c->next->previous = c->previous;
	if (c->accepted) {
		link->accepted--;
		link->unauthenticated -= !c->authenticated;
	}
	link_operation_fini(&c->receive);
	link_operation_fini(&c->send);
	nng_stream_free(c->stream);
	while (c->first != NULL) {
		struct outgoing *next = c->first->next;
		free(c->first);
		c->first = next;
	}
	free(c->in);
	free(c);
}

static void connection_end(struct link_connection *c, enum link_end end)
{
	if (c->closing)
		return;
	c->closing = true;
	c->end = end;
	nng_stream_close(c->stream);
}

static enum link_end end_of(int rc)
{
	return rc == NNG_ECONNSHUT || rc == NNG_ECLOSED ? LINK_END_REMOTE : LINK_END_ERROR;
}

static size_t frame_cap(const struct link_connection *c)
{
	return c->authenticated ? LINK_FRAME_MAX : c->link->limits.frame_max_unauthenticated;
}

static void receive_start(struct link_connection *c)
{
	size_t want = c->authenticated ? READ_AHEAD : LINK_PREFIX_SIZE + frame_cap(c);
	if (c->in_capacity < want) {
		c->in = must_realloc(c->in, want);
		c->in_capacity = want;
	}
	nng_iov iov = {.iov_buf = c->in + c->in_size, .iov_len = c->in_capacity - c->in_size};
	nng_aio_set_iov(c->receive.aio, 1, &iov);
	c->receive.outstanding = true;
	nng_stream_recv(c->stream, c->receive.aio);
}

/* Hands out every whole frame in c->in and keeps the rest at its start. */
static void take_frames(struct link_connection *c)
{
	size_t at = 0;
	while (!c->closing && c->in_size - at >= LINK_PREFIX_SIZE) {
		struct reader r;
		reader_init(&r, c->in + at, LINK_PREFIX_SIZE);
		size_t n = read_u32(&r);
		if (n == 0 || n > frame_cap(c)) {
			c->link->statistics.oversize++;
			connection_end(c, LINK_END_OVERSIZE);
			return;
		}
		if (c->in_size - at - LINK_PREFIX_SIZE < n)
			break;
		const uint8_t *frame = c->in + at + LINK_PREFIX_SIZE;
		at += LINK_PREFIX_SIZE + n;
		c->link->events.on_frame(c->link->owner, c, frame, n);
	}
	c->in_size -= at;
	memmove(c->in, c->in + at, c->in_size);
}

static void on_received(void *subject)
{
	struct link_connection *c = subject;
	int rc = nng_aio_result(c->receive.aio);
	if (rc != 0) {
		connection_end(c, end_of(rc));
	} else if (!c->closing) {
		size_t n = nng_aio_count(c->receive.aio);
		c->in_size += n;
		c->link->statistics.bytes_received += n;
		take_frames(c);
	}
	if (!c->closing)
		receive_start(c);
	connection_finish(c);
}

static void send_start(struct link_connection *c)
{
	nng_iov iov[GATHER_MAX];
	unsigned n = 0;
	size_t skip = c->first_sent;
	for (struct outgoing *o = c->first; o != NULL && n < GATHER_MAX; o = o->next) {
		iov[n++] = (nng_iov){.iov_buf = o->data + skip, .iov_len = o->size - skip};
		skip = 0;
	}
	nng_aio_set_iov(c->send.aio, n, iov);
	c->send.outstanding = true;
	nng_stream_send(c->stream, c->send.aio);
}

/* The kernel took `n` bytes, perhaps less than a frame, perhaps several. */
static void take_sent(struct link_connection *c, size_t n)
{
	c->link->statistics.bytes_sent += n;
	c->queued -= n;
	while (n > 0) {
		struct outgoing *o = c->first;
		size_t left = o->size - c->first_sent;
		if (n < left) {
			c->first_sent += n;
			return;
		}
		n -= left;
		c->first_sent = 0;
		c->first = o->next;
		if (c->first == NULL)
			c->last = &c->first;
		free(o);
	}
}

static void on_sent(void *subject)
{
	struct link_connection *c = subject;
	int rc = nng_aio_result(c->send.aio);
	if (rc != 0)
		connection_end(c, end_of(rc));
	if (!c->closing) {
		take_sent(c, nng_aio_count(c->send.aio));
		if (c->first != NULL)
			send_start(c);
		else if (c->close_when_sent)
			connection_end(c, LINK_END_CLOSED);
	}
	if (!c->closing && c->link->events.on_drained != NULL && link_bulk_room(c) > 0)
		c->link->events.on_drained(c->link->owner, c);
	connection_finish(c);
}

/* Fills c->remote and c->source from the stream's other end. */
static void name_remote(struct link_connection *c)
{
	nng_sockaddr address;
	char text[64];
	snprintf(c->remote, sizeof c->remote, "ipc");
	if (nng_stream_get_addr(c->stream, NNG_OPT_REMADDR, &address) != 0)
		return;
	c->source[0] = (uint8_t)address.s_family;
	if (address.s_family == NNG_AF_INET) {
		memcpy(c->source + 1, &address.s_in.sa_addr, 4);
		if (uv_inet_ntop(AF_INET, &address.s_in.sa_addr, text, sizeof text) == 0)
			snprintf(c->remote, sizeof c->remote, "%s:%u", text, (unsigned)ntohs(address.s_in.sa_port));
	} else if (address.s_family == NNG_AF_INET6) {
		memcpy(c->source + 1, address.s_in6.sa_addr, 16);
		if (uv_inet_ntop(AF_INET6, address.s_in6.sa_addr, text, sizeof text) == 0)
			snprintf(c->remote, sizeof c->remote, "[%s]:%u", text, (unsigned)ntohs(address.s_in6.sa_port));
	} else {
		c->source[0] = 0;
	}
}

struct link_connection *link_connection_new(struct link *link, nng_stream *stream, int tag)
{
	struct link_connection *c = must_calloc(1, sizeof *c);
	c->link = link;
	c->stream = stream;
	c->tag = tag;
	c->last = &c->first;
	if (link_operation_init(&c->receive, link, on_received, c) != 0 ||
		link_operation_init(&c->send, link, on_sent, c) != 0) {
		nng_aio_free(c->receive.aio);
		nng_stream_free(stream);
		free(c);
		return NULL;
	}
	name_remote(c);
	return c;
}

void link_connection_open(struct link_connection *c)
{
	struct link *link = c->link;
	c->next = link->connections;
	if (c->next != NULL)
		c->next->previous = c;
	link->connections = c;
	link->events.on_opened(link->owner, c, c->tag, c->remote);
	if (!c->closing)
		receive_start(c);
	connection_finish(c);
}

/* ---- sending and closing ---- */

int link_send(struct link_connection *c, const uint8_t *frame, size_t n)
{
	if (n == 0 || n > LINK_FRAME_MAX)
		return SAKIORI_EINVAL;
	if (c->closing || c->close_when_sent)
		return SAKIORI_ECANCELLED;
	size_t whole = LINK_PREFIX_SIZE + n;
	if (whole > c->link->limits.send_queue_bytes - c->queued)
		return SAKIORI_ELIMIT;
	struct outgoing *o = must_alloc(sizeof *o + whole);
	o->next = NULL;
	o->size = whole;
	for (int i = 0; i < LINK_PREFIX_SIZE; i++)
		o->data[i] = (uint8_t)(n >> (8 * i));
	memcpy(o->data + LINK_PREFIX_SIZE, frame, n);
	*c->last = o;
	c->last = &o->next;
	c->queued += whole;
	if (!c->send.outstanding)
		send_start(c);
	return 0;
}

size_t link_queued_bytes(const struct link_connection *c)
{
	return c->queued;
}

size_t link_bulk_room(const struct link_connection *c)
{
	size_t bulk = c->link->limits.send_queue_bytes / 2;
	size_t used = c->queued + LINK_PREFIX_SIZE;
	return c->closing || used >= bulk ? 0 : bulk - used;
}

void link_authenticated(struct link_connection *c)
{
	if (c->accepted && !c->authenticated)
		c->link->unauthenticated--;
	c->authenticated = true;
}

void link_close(struct link_connection *c)
{
	connection_end(c, LINK_END_CLOSED);
}

void link_close_after_send(struct link_connection *c, unsigned timeout_ms)
{
	if (c->first == NULL) {
		connection_end(c, LINK_END_CLOSED);
	} else if (!c->close_when_sent) {
		c->close_when_sent = true;
		c->close_at = uv_now(c->link->loop) + timeout_ms;
		link_start_timer(c->link);
	}
}

void link_set_data(struct link_connection *c, void *data)
{
	c->data = data;
}

void *link_data(const struct link_connection *c)
{
	return c->data;
}

const char *link_remote(const struct link_connection *c)
{
	return c->remote;
}

const struct link_statistics *link_statistics(const struct link *link)
{
	return &link->statistics;
}

const char *link_end_label(enum link_end end)
{
	static const char *const labels[] = {[LINK_END_CLOSED] = "closed",
		[LINK_END_REMOTE] = "remote",
		[LINK_END_ERROR] = "error",
		[LINK_END_OVERSIZE] = "oversize"};
	return end >= LINK_END_CLOSED && end <= LINK_END_OVERSIZE ? labels[end] : "unknown";
}

/* ---- life of a link ---- */

static void on_timer(uv_timer_t *timer)
{
	struct link *link = timer->data;
	bool again = false;
	for (struct listener *l = link->listeners; l != NULL; l = l->next)
		if (!l->closing && !l->accept.outstanding)
			link_accept_start(l);
	for (struct link_connection *c = link->connections; c != NULL; c = c->next) {
		if (!c->close_when_sent || c->closing)
			continue;
		if (uv_now(link->loop) >= c->close_at)
			connection_end(c, LINK_END_CLOSED); /* its receive is outstanding, so it is freed later */
		else
			again = true;
	}
	if (!again)
		uv_timer_stop(timer);
}

void link_start_timer(struct link *link)
{
	if (!link->freeing && !uv_is_active((uv_handle_t *)&link->timer))
		uv_timer_start(&link->timer, on_timer, RETRY_MS, RETRY_MS);
}

#define DEFAULT_LIMIT(field, value) link->limits.field = link->limits.field != 0 ? link->limits.field : (value)

int link_new(struct uv_loop_s *loop, const struct link_events *events, void *owner, const struct link_limits *limits,
	struct link **out, struct fault *f)
{
	struct link *link = must_calloc(1, sizeof *link);
	link->loop = loop;
	link->events = *events;
	link->owner = owner;
	if (limits != NULL)
		link->limits = *limits;
	DEFAULT_LIMIT(unauthenticated_total, 64);
	DEFAULT_LIMIT(unauthenticated_per_source, 8);
	DEFAULT_LIMIT(connections_total, 512);
	DEFAULT_LIMIT(frame_max_unauthenticated, 256);
	DEFAULT_LIMIT(send_queue_bytes, (size_t)1 << 20);
	DEFAULT_LIMIT(dial_timeout_ms, 10000);
	if (link->limits.frame_max_unauthenticated > LINK_FRAME_MAX ||
		link->limits.send_queue_bytes < 2 * (LINK_PREFIX_SIZE + LINK_FRAME_MAX)) {
		free(link);
		return fault_set(f, SAKIORI_EINVAL,
			"a link's send queue holds at least two frames of %d bytes, and no frame is longer",
			LINK_FRAME_MAX);
	}
	link->finished_last = &link->finished;
	if (uv_mutex_init(&link->mutex) != 0 || uv_async_init(loop, &link->wake, on_wake) != 0) {
		free(link);
		return fault_set(f, SAKIORI_ENOMEM, "no file descriptor left to wake the loop");
	}
	uv_timer_init(loop, &link->timer);
	link->wake.data = link;
	link->timer.data = link;
	link->handles = 2;
	*out = link;
	return 0;
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct link *link = handle->data;
	if (--link->handles > 0)
		return;
	void (*done)(void *) = link->done;
	void *owner = link->owner;
	uv_mutex_destroy(&link->mutex);
	free(link);
	if (done != NULL)
		done(owner);
}

static void maybe_freed(struct link *link)
{
	bool empty = link->connections == NULL && link->listeners == NULL && link->dials == NULL;
	if (!link->freeing || !empty || uv_is_closing((uv_handle_t *)&link->wake))
		return;
	uv_close((uv_handle_t *)&link->wake, on_handle_closed);
	uv_close((uv_handle_t *)&link->timer, on_handle_closed);
}

void link_free(struct link *link, void (*done)(void *owner))
{
	if (link == NULL || link->freeing)
		return;
	link->freeing = true;
	link->done = done;
	uv_timer_stop(&link->timer);
	for (struct listener *l = link->listeners, *next; l != NULL; l = next) {
		next = l->next;
		l->closing = true;
		nng_stream_listener_close(l->listener);
		link_listener_finish(l);
	}
	for (struct dial *d = link->dials; d != NULL; d = d->next)
		nng_stream_dialer_close(d->dialer);
	for (struct link_connection *c = link->connections; c != NULL; c = c->next)
		connection_end(c, LINK_END_CLOSED);
	maybe_freed(link);
}
