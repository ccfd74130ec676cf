/* SPDX-License-Identifier: Apache-2.0 */
/* The read-only web server: /metrics, /healthz, /readyz and /api/v1/status, on loopback unless configured otherwise.
 * libmicrohttpd runs on the libuv loop through its epoll descriptor. Loop thread only. */
#pragma once
#include <stdbool.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"

/* Where the pages come from. Called while a request is answered; each must return at once. */
struct http_pages {
	void *self;
	/* Appends the metrics page. */
	void (*metrics)(void *self, struct writer *out);
	/* Appends the status as one JSON object. */
	void (*status)(void *self, struct writer *out);
	/* true when training can go on; else `why` receives what it waits for. */
	bool (*ready)(void *self, char *why, size_t size);
};

struct http_options {
	const char *address; /* "127.0.0.1:9411", "[::1]:9411"; port 0 takes a free one */
	const char *const
		*hosts;       /* further names that the Host header may carry (without port); NULL-terminated or NULL */
	unsigned connections; /* at most so many at a time; 0 = 16 */
	unsigned lifetime_ms; /* a connection is hung up on after this long, whatever it does; 0 = 15000 */
};

struct http;

/* Listens; the pages' functions are kept. Fails with the address named when it is in use or not ours. */
int http_open(struct http **out, uv_loop_t *loop, const struct http_options *options, const struct http_pages *pages,
	struct fault *f);
/* The port that is listened on. */
unsigned http_port(const struct http *h);
/* Stops at once; the memory goes when the loop has closed the handles. NULL is fine. */
void http_close(struct http *h);
