/* SPDX-License-Identifier: Apache-2.0 */
/* The last log lines, for `sakiori log`. Lines come from any thread; reading is the loop's. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"

#define LOG_RING_LINES 1000

struct log_ring;

struct log_ring_line {
	uint64_t number; /* from 1, without gaps */
	double time;     /* Unix time, seconds */
	enum log_level level;
	char text[512]; /* cut where longer */
};

/* `wake` is called after each line, on the thread that logged it; it may only poke the loop. May be NULL. */
struct log_ring *log_ring_new(void (*wake)(void *self), void *self);
void log_ring_free(struct log_ring *ring);
/* A log_sink: keeps the line and writes it to stderr as well. */
void log_ring_sink(void *ring, enum log_level level, const char *line);
/* Number of the newest line; 0 before the first. */
uint64_t log_ring_newest(struct log_ring *ring);
/* The oldest lines that are kept and have a number above `after`; returns how many of `max`. */
size_t log_ring_read(struct log_ring *ring, uint64_t after, struct log_ring_line *out, size_t max);
