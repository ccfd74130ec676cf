/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/events.h"

#include <stdlib.h>

#include "base/bytes.h"

/* A binary heap. */
static bool before(const struct sim_event *a, const struct sim_event *b)
{
	return a->at < b->at || (a->at == b->at && a->order < b->order);
}

void sim_events_add(struct sim_events *events, struct sim_event event)
{
	size_t i = events->count++;

	if (!event.order)
		event.order = ++events->order;
	if (events->count > events->capacity) {
		events->capacity = 2 * events->count;
		events->heap = must_realloc(events->heap, events->capacity * sizeof(*events->heap));
	}
	for (; i && before(&event, &events->heap[(i - 1) / 2]); i = (i - 1) / 2)
		events->heap[i] = events->heap[(i - 1) / 2];
	events->heap[i] = event;
}

bool sim_events_take(struct sim_events *events, struct sim_event *out)
{
	struct sim_event last;
	size_t i = 0;

	if (!events->count)
		return false;
	*out = events->heap[0];
	last = events->heap[--events->count];
	while (2 * i + 1 < events->count) {
		size_t child = 2 * i + 1;

		if (child + 1 < events->count && before(&events->heap[child + 1], &events->heap[child]))
			child++;
		if (!before(&events->heap[child], &last))
			break;
		events->heap[i] = events->heap[child];
		i = child;
	}
	events->heap[i] = last;
	return true;
}

void sim_events_fini(struct sim_events *events)
{
	for (size_t i = 0; i < events->count; i++)
		free(events->heap[i].bytes);
	free(events->heap);
}
