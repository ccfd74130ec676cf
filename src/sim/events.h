/* SPDX-License-Identifier: Apache-2.0 */
/* What is to happen, by virtual time. Two things of the same moment happen in the order in which they were scheduled. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_event {
	uint64_t at, order; /* ms; order 0: given when it is scheduled first */
	int kind;
	size_t member; /* whose */
	uint64_t life; /* of the member; another one's is void */
	void *subject; /* an end of a pipe, or a job */
	uint64_t number;
	uint8_t *bytes; /* owned */
	size_t size;
};

struct sim_events {
	struct sim_event *heap;
	size_t count, capacity;
	uint64_t order;
};

/* Takes event.bytes. */
void sim_events_add(struct sim_events *events, struct sim_event event);
/* The next one; its bytes are the caller's. False when there is none. */
bool sim_events_take(struct sim_events *events, struct sim_event *out);
void sim_events_fini(struct sim_events *events);
