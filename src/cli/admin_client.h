/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of org.sakiori.Admin on the daemon's socket (Varlink: JSON objects, each ended by a NUL). Main thread only; blocking. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct admin_client;

/* Connects to `socket`, else to what SAKIORI_SOCKET names, else to /run/sakiori/sakiori.sock. SAKIORI_EUNREACHABLE when nobody
 * answers there, SAKIORI_EDENIED when we may not. The caller closes it. */
int admin_client_open(struct admin_client **out, const char *socket, struct fault *f);
/* NULL is fine. */
void admin_client_close(struct admin_client *c);

/* Sends one call ("Status"); takes `parameters` (may be NULL). With `more` several replies may follow. */
int admin_client_call(struct admin_client *c, const char *method, json_t *take_parameters, bool more, struct fault *f);
/* Waits at most this long (milliseconds, -1: for ever) for the next reply. *parameters is a new reference. *continues (may be NULL):
 * more replies follow. The daemon's own errors become faults: SAKIORI_EDENIED, SAKIORI_EBUSY or SAKIORI_EINVAL. */
int admin_client_reply(struct admin_client *c, int timeout_ms, json_t **parameters, bool *continues, struct fault *f);

/* All of it for one call and one reply. */
int admin_client_ask(
	const char *socket, const char *method, json_t *take_parameters, json_t **parameters, struct fault *f);
/* Rounds or Log: calls `print` with each item of the reply's list `key` (NULL: a JSON line each), and with `more` goes on until the daemon hangs up. */
int admin_client_list(const char *socket, const char *method, const char *key, uint64_t count, bool more,
	void (*print)(const json_t *item), struct fault *f);
