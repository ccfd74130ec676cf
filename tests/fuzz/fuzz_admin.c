/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of an admin client, first byte: its access; fed in pieces and with events between them. Every reply must be
 * whole JSON. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/admin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t round_now;

static void status(void *self, struct admin_status *out)
{
	(void)self;
	out->state = "training";
	out->round = round_now;
}

static size_t peers(void *self, struct admin_peer *out, size_t max)
{
	(void)self;
	(void)max;
	out[0] = (struct admin_peer){.name = "kiel", .rtt_seconds = NAN};
	return 1;
}

static size_t rounds(void *self, uint64_t after, struct site_record *out, size_t max)
{
	(void)self;
	size_t n = 0;
	for (uint64_t r = after + 1; r <= round_now && n < max; r++)
		out[n++] = (struct site_record){.round = r};
	return n;
}

static int change(void *self, struct fault *f)
{
	(void)self;
	return round_now % 2 == 0 ? 0 : fault_set(f, SAKIORI_EBUSY, "not now");
}

static void receive(void *self, const char *reply, size_t n)
{
	(void)self;
	json_t *parsed = strlen(reply) == n - 1 ? json_loads(reply, 0, NULL) : NULL;
	if (parsed == NULL)
		abort();
	json_decref(parsed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	struct log_ring *ring = log_ring_new(NULL, NULL);
	struct admin_backend backend = {.status = status,
		.peers = peers,
		.rounds = rounds,
		.pause = change,
		.resume = change,
		.drain = change,
		.reload = change,
		.log = ring};
	struct admin *admin = admin_new(&backend);
	struct admin_session *s = admin_session_new(admin, data[0] % 3, receive, NULL);
	size_t piece = 1 + data[0] / 3;
	round_now = 0;
	for (size_t at = 1; at < size; at += piece) {
		size_t n = size - at < piece ? size - at : piece;
		if (admin_session_feed(s, data + at, n, at) != 0)
			break;
		round_now++;
		admin_poke(admin, at + 30000);
		if (round_now % 3 == 0)
			admin_reload_done(admin, 0, NULL, NULL, 0, NULL, 0);
	}
	admin_session_free(s);
	admin_free(admin);
	log_ring_free(ring);
	return 0;
}
