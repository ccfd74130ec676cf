/* SPDX-License-Identifier: Apache-2.0 */
/* Several sites in one thread: the very same src/site/site.c, with the real Noise sessions, codec and mixing, under a virtual clock
 * with a simulated link, lane, store and trainer, and with faults. The same settings give the same run, event by event.
 *
 * Each site has a target of its own and its local steps go towards it (a quadratic), so that training alone pulls the sites apart
 * and only mixing brings them to the mean of all targets. Any thread, one simulation at a time each. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "site/site.h"

/* Mistakes that a store or an implementation could make; a test plants each and expects the simulation to notice. */
enum sim_plant {
	SIM_PLANT_NONE,
	SIM_PLANT_TORN_COMMIT,  /* a crash in a transaction leaves the new model with the old rows */
	SIM_PLANT_LOST_COMMIT,  /* a transaction that was said to be durable is gone after a crash */
	SIM_PLANT_ENCODE_AGAIN, /* after a crash the update is another one under the same number */
	SIM_PLANT_WORD_AGAIN,   /* a restart forgets that a word was applied */
	SIM_PLANT_OLD_DISK,     /* a site starts from the state of some rounds ago */
	SIM_PLANT_COUNT
};

struct sim_settings {
	uint64_t seed;
	size_t sites;         /* 2..SIM_SITES_MAX */
	const char *topology; /* as topology_init */
	uint64_t rounds;
	uint32_t local_steps;
	size_t size; /* parameters */
	float gamma;
	double loss;         /* probability that a frame is lost, and its connection with it */
	double crash;        /* that a site dies at an effect */
	double freeze;       /* that a site stands still for a while, or one direction of a connection does */
	uint64_t latency_ms; /* one way; the real one is between half of it and one and a half times */
	uint64_t bytes_per_second;
	uint64_t deadline_ms, deadline_min_ms;
	enum sim_plant plant;
	/* What a test wants different or wants to see; each may be NULL. */
	void *self;
	void (*on_round)(void *self, size_t site, const struct site_record *record);
	/* Before a site is made: the settings and the offset of its wall clock. */
	void (*configure)(void *self, size_t site, struct site_settings *settings, int64_t *clock_offset_ms);
	/* Every virtual 100 ms; a site that is down is NULL. */
	void (*script)(void *self, struct site *const *sites, uint64_t now_ms);
	/* Whether the site's transactions fail now. */
	bool (*disk_full)(void *self, size_t site, uint64_t now_ms);
	/* Something was refused; true when that was to be expected. */
	bool (*expects)(void *self, size_t site, const char *reason);
	/* Not all sites work together: at the end, edges are not compared and the sum is not checked. */
	bool apart;
};
#define SIM_SITES_MAX 64

/* 3 sites in a ring, 20 rounds of 10 steps, 512 parameters, gamma 1, no faults, 20 ms, 1.25 MB/s, deadline 0.5 to 30 s. */
void sim_settings_default(struct sim_settings *settings);

struct sim_result {
	char broken[300]; /* the first promise that was broken, and where; empty: none */
	uint64_t trace;   /* hash of all events */
	uint64_t virtual_ms;
	uint64_t events, frames, bytes;
	uint64_t crashes, freezes, breaks, connections;
	uint64_t words, commits;
	double worst_sum;      /* greatest distance of the sum of all models from what it has to be, per element */
	double worst_wait_ms;  /* longest gathering of any round, the site's own standing still taken off */
	double distance;       /* at the end: root mean square over sites and elements of x - mean */
	double alone_distance; /* the same, had every site reached its own target */
	double mean_error;     /* root mean square over elements of mean(x) - mean(targets) */
};

/* 0, also when a promise was broken; negative for settings that cannot be. */
int sim_run(const struct sim_settings *settings, struct sim_result *result, struct fault *f);
