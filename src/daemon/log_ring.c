/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/log_ring.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/bytes.h"

struct log_ring {
	pthread_mutex_t lock; /* held for the copy of one batch of lines, never across I/O */
	uint64_t newest;
	void (*wake)(void *self);
	void *wake_self;
	struct log_ring_line lines[LOG_RING_LINES];
};

struct log_ring *log_ring_new(void (*wake)(void *self), void *self)
{
	struct log_ring *ring = must_calloc(1, sizeof *ring);
	pthread_mutex_init(&ring->lock, NULL);
	ring->wake = wake;
	ring->wake_self = self;
	return ring;
}

void log_ring_free(struct log_ring *ring)
{
	if (ring == NULL)
		return;
	pthread_mutex_destroy(&ring->lock);
	free(ring);
}

void log_ring_sink(void *self, enum log_level level, const char *line)
{
	struct log_ring *ring = self;
	struct timespec now;
	log_to_stderr(NULL, level, line);
	clock_gettime(CLOCK_REALTIME, &now);
	pthread_mutex_lock(&ring->lock);
	ring->newest++;
	struct log_ring_line *slot = &ring->lines[ring->newest % LOG_RING_LINES];
	slot->number = ring->newest;
	slot->time = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
	slot->level = level;
	snprintf(slot->text, sizeof slot->text, "%s", line);
	pthread_mutex_unlock(&ring->lock);
	if (ring->wake != NULL)
		ring->wake(ring->wake_self);
}

uint64_t log_ring_newest(struct log_ring *ring)
{
	pthread_mutex_lock(&ring->lock);
	uint64_t newest = ring->newest;
	pthread_mutex_unlock(&ring->lock);
	return newest;
}

size_t log_ring_read(struct log_ring *ring, uint64_t after, struct log_ring_line *out, size_t max)
{
	size_t n = 0;
	pthread_mutex_lock(&ring->lock);
	uint64_t oldest = ring->newest > LOG_RING_LINES ? ring->newest - LOG_RING_LINES + 1 : 1;
	for (uint64_t i = after + 1 > oldest ? after + 1 : oldest; i <= ring->newest && n < max; i++)
		out[n++] = ring->lines[i % LOG_RING_LINES];
	pthread_mutex_unlock(&ring->lock);
	return n;
}
