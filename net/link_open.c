/* SPDX-License-Identifier: Apache-2.0 */
/* Where connections come from. A listener always has one accept outstanding, except while it waits for files or memory;
 * a dial is one attempt and ends in on_opened or on_dial_failed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "net/address.h"
#include "net/link_private.h"

/* ---- listening ---- */

void link_accept_start(struct listener *l)
{
	l->accept.outstanding = true;
	nng_stream_listener_accept(l->listener, l->accept.aio);
}

/* False, counted, when a stranger more would be over a limit. */
static bool may_accept(struct link *link, const struct link_connection *c)
{
	static const uint8_t no_address[sizeof c->source];
	if (link->unauthenticated >= link->limits.unauthenticated_total ||
		link->accepted >= link->limits.connections_total) {
		link->statistics.refused_total++;
		return false;
	}
	if (memcmp(c->source, no_address, sizeof no_address) == 0)
		return true;
	unsigned same = 0;
	for (const struct link_connection *o = link->connections; o != NULL; o = o->next)
		same += o->accepted && !o->authenticated && memcmp(o->source, c->source, sizeof c->source) == 0;
	link->statistics.refused_source += same >= link->limits.unauthenticated_per_source;
	return same < link->limits.unauthenticated_per_source;
}

static void accept_stream(struct link *link, nng_stream *stream)
{
	struct link_connection *c = link_connection_new(link, stream, -1);
	if (c == NULL) {
		link->statistics.accept_errors++;
		return;
	}
	if (link->freeing || !may_accept(link, c)) {
		link_operation_fini(&c->receive);
		link_operation_fini(&c->send);
		nng_stream_close(stream);
		nng_stream_free(stream);
		free(c);
		return;
	}
	c->accepted = true;
	link->accepted++;
	link->unauthenticated++;
	link->statistics.accepted++;
	link_connection_open(c);
}

void link_listener_finish(struct listener *l)
{
	if (!l->closing || l->accept.outstanding)
		return;
	for (struct listener **at = &l->link->listeners; *at != NULL; at = &(*at)->next)
		if (*at == l) {
			*at = l->next;
			break;
		}
	link_operation_fini(&l->accept);
	nng_stream_listener_free(l->listener);
	free(l);
}

static void on_accepted(void *subject)
{
	struct listener *l = subject;
	struct link *link = l->link;
	int rc = nng_aio_result(l->accept.aio);
	nng_stream *stream = rc == 0 ? nng_aio_get_output(l->accept.aio, 0) : NULL;
	if (l->closing) {
		link_listener_finish(l);
	} else if (rc == 0) {
		link_accept_start(l);
	} else {
		link->statistics.accept_errors++; /* out of files or memory: the timer tries again */
		link_start_timer(link);
	}
	if (stream != NULL)
		accept_stream(link, stream); /* last: its on_opened may free the link, and with it an idle listener */
}

static int listen_fault(const char *url, int rc, struct fault *f)
{
	switch (rc) {
	case NNG_EADDRINUSE:
		return fault_set(f, SAKIORI_EBUSY,
			"cannot listen on %s: the address is in use; stop the process that has it (`ss -ltnpx` shows "
			"it) or configure another",
			url);
	case NNG_EADDRINVAL:
		return fault_set(f, SAKIORI_EINVAL,
			"cannot listen on %s: no such address on this machine; use one that `ip address` lists, or "
			"0.0.0.0 for all",
			url);
	case NNG_EPERM:
		return fault_set(f, SAKIORI_EDENIED,
			"cannot listen on %s: permission denied; use a port from 1024 on, or a directory this user may "
			"write",
			url);
	case NNG_ENOENT:
		return fault_set(f, SAKIORI_ENOTFOUND,
			"cannot listen on %s: its directory does not exist; create it first", url);
	default:
		return fault_set(f, SAKIORI_EIO, "cannot listen on %s: %s", url, nng_strerror(rc));
	}
}

int link_listen(struct link *link, const char *url, uint16_t *port, struct fault *f)
{
	int rc = address_check(url, f);
	if (rc != 0)
		return rc;
	struct listener *l = must_calloc(1, sizeof *l);
	l->link = link;
	int bound = 0;
	rc = nng_stream_listener_alloc(&l->listener, url);
	if (rc == 0) {
		/* not supported by ipc, and not needed there */
		nng_stream_listener_set_bool(l->listener, NNG_OPT_TCP_NODELAY, true);
		nng_stream_listener_set_bool(l->listener, NNG_OPT_TCP_KEEPALIVE, true);
		rc = link_operation_init(&l->accept, link, on_accepted, l);
	}
	if (rc == 0)
		rc = nng_stream_listener_listen(l->listener);
	if (rc != 0) {
		nng_aio_free(l->accept.aio);
		if (l->listener != NULL)
			nng_stream_listener_free(l->listener);
		free(l);
		return listen_fault(url, rc, f);
	}
	if (nng_stream_listener_get_int(l->listener, NNG_OPT_TCP_BOUND_PORT, &bound) != 0)
		bound = 0;
	if (port != NULL)
		*port = (uint16_t)bound;
	l->next = link->listeners;
	link->listeners = l;
	link_accept_start(l);
	return 0;
}

/* ---- dialling ---- */

static void on_dialled(void *subject)
{
	struct dial *d = subject;
	struct link *link = d->link;
	int rc = nng_aio_result(d->operation.aio);
	nng_stream *stream = rc == 0 ? nng_aio_get_output(d->operation.aio, 0) : NULL;
	for (struct dial **at = &link->dials; *at != NULL; at = &(*at)->next)
		if (*at == d) {
			*at = d->next;
			break;
		}
	struct link_connection *c = NULL;
	if (stream != NULL && link->freeing) {
		nng_stream_free(stream);
		rc = NNG_ECLOSED;
	} else if (stream != NULL) {
		c = link_connection_new(link, stream, d->tag);
	}
	if (c != NULL) {
		link_connection_open(c);
	} else {
		char why[400];
		snprintf(why, sizeof why, "cannot connect to %s: %s", d->url, nng_strerror(rc != 0 ? rc : NNG_ENOMEM));
		link->events.on_dial_failed(link->owner, d->tag, why);
	}
	link_operation_fini(&d->operation);
	nng_stream_dialer_free(d->dialer);
	free(d->url);
	free(d);
}

int link_dial(struct link *link, const char *url, int tag, struct fault *f)
{
	int rc = address_check(url, f);
	if (rc != 0)
		return rc;
	struct dial *d = must_calloc(1, sizeof *d);
	d->link = link;
	d->tag = tag;
	rc = nng_stream_dialer_alloc(&d->dialer, url);
	if (rc == 0)
		rc = link_operation_init(&d->operation, link, on_dialled, d);
	if (rc != 0) {
		if (d->dialer != NULL)
			nng_stream_dialer_free(d->dialer);
		free(d);
		return fault_set(f, rc == NNG_EADDRINVAL ? SAKIORI_EINVAL : SAKIORI_EIO, "cannot connect to %s: %s",
			url, nng_strerror(rc));
	}
	/* not supported by ipc, and not needed there */
	nng_stream_dialer_set_bool(d->dialer, NNG_OPT_TCP_NODELAY, true);
	nng_stream_dialer_set_bool(d->dialer, NNG_OPT_TCP_KEEPALIVE, true);
	d->url = must_strdup(url);
	d->next = link->dials;
	link->dials = d;
	nng_aio_set_timeout(d->operation.aio, (nng_duration)link->limits.dial_timeout_ms);
	d->operation.outstanding = true;
	nng_stream_dialer_dial(d->dialer, d->operation.aio);
	return 0;
}
