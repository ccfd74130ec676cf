/* SPDX-License-Identifier: Apache-2.0 */
/* A device around the CPU's that keeps every call with its arguments between record and record_end, and makes it again when it is asked to
 * replay, with whatever lies in the device's memory by then. One at a time; the main thread. */
#pragma once
#include "compute/compute.h"

/* One call: its structs by value, everything else in order. */
struct call {
	void (*run)(struct device *d, const struct call *c);
	struct tokens tokens;
	union {
		struct lora_linear linear;
		struct rope rope;
		struct attention attention;
		struct cross_entropy loss;
		struct dropout dropout;
	} u;
	const void *in[8];
	void *out[3];
	size_t size[5];
	int kind;
	float number;
	bool flag;
};

enum { CALLS_MAX = 1024, KEYS_MAX = 8 };

struct recorder {
	const struct device_ops *real;
	struct device_ops ops;
	uint64_t key[KEYS_MAX];
	size_t keys, count[KEYS_MAX], replays;
	bool open;
	struct call call[KEYS_MAX][CALLS_MAX];
};
/* Of the device that make_recorder changed last. */
extern struct recorder recorder;

/* The most copies beside the operations that were ever put off at once. */
extern size_t recorder_late_most;

/* Puts the recorder in the place of the device's operations; recorder.real are those that were there. */
void make_recorder(struct device *d);
