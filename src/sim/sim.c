/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "gossip/topology.h"
#include "net/noise.h"
#include "sim/world.h"

#define SCRIPT_MS 100
/* Ends a simulation that gets nowhere: a year. */
#define VIRTUAL_MAX_MS (UINT64_C(365) * 86400 * 1000)

void sim_settings_default(struct sim_settings *settings)
{
	*settings = (struct sim_settings){.seed = 1,
		.sites = 3,
		.topology = "ring",
		.rounds = 20,
		.local_steps = 10,
		.size = 512,
		.gamma = 1,
		.latency_ms = 20,
		.bytes_per_second = 1250000,
		.deadline_ms = 30000,
		.deadline_min_ms = 500};
}

bool world_chance(struct world *w, double p)
{
	return p > 0 && !w->calm && rng_uniform(&w->rng) < (float)p;
}

uint64_t world_between(struct world *w, uint64_t low, uint64_t high)
{
	return low + rng_below(&w->rng, high - low + 1);
}

void world_broken(struct world *w, size_t member, const char *what)
{
	if (!w->out->broken[0])
		snprintf(w->out->broken, sizeof(w->out->broken), "site %zu at %llu ms: %s", member,
			(unsigned long long)w->now, what);
}

void world_trace(struct world *w, uint64_t value)
{
	w->out->trace = (w->out->trace ^ value) * UINT64_C(0x100000001b3);
}

static int check(const struct sim_settings *set, struct fault *f)
{
	if (set->sites < 2 || set->sites > SIM_SITES_MAX)
		return fault_set(f, SAKIORI_EINVAL, "%zu sites, expected 2 to %d", set->sites, SIM_SITES_MAX);
	if (!set->size || !set->rounds || !set->local_steps || !set->bytes_per_second || !set->deadline_ms)
		return fault_set(
			f, SAKIORI_EINVAL, "rounds, steps, parameters, bandwidth and deadline must be at least 1");
	if (!(set->loss >= 0 && set->loss < 1 && set->crash >= 0 && set->crash < 1 && set->freeze >= 0 &&
		    set->freeze < 1))
		return fault_set(f, SAKIORI_EINVAL, "loss, crash and freeze are probabilities: at least 0 and below 1");
	if (!(set->gamma > 0 && set->gamma <= 1))
		return fault_set(f, SAKIORI_EINVAL, "gamma is %g, must be above 0 and at most 1", (double)set->gamma);
	return 0;
}

static int build(struct world *w, struct fault *f)
{
	struct topology t = {0};
	struct rng values;
	int rc = topology_init(&t, w->set.topology, w->set.sites, f);

	w->site_count = w->set.sites;
	w->edges = must_calloc(w->site_count * w->site_count, sizeof(*w->edges));
	w->initial = must_calloc(w->set.size, sizeof(*w->initial));
	w->sum = must_calloc(w->set.size, sizeof(*w->sum));
	for (size_t i = 0; i < t.edge_count; i++) {
		w->edges[t.edges[i].low * w->site_count + t.edges[i].high] = true;
		w->edges[t.edges[i].high * w->site_count + t.edges[i].low] = true;
	}
	topology_fini(&t);
	if (rc)
		return rc;
	rng_init(&w->rng, w->set.seed, 1);
	rng_init(&values, w->set.seed, 2);
	for (size_t i = 0; i < w->set.size; i++)
		w->initial[i] = 0.1f * rng_normal(&values);
	memset(w->secret, 7, sizeof(w->secret));
	for (size_t i = 0; i < w->site_count; i++)
		member_init(w, i);
	return 0;
}

/* The site it belongs to is dead, or stands still until later. True: there is nothing more to do about it. */
static bool void_or_delayed(struct world *w, struct sim_event *e)
{
	struct member *m = &w->members[e->member];

	if (e->life != m->life) {
		free(e->bytes);
		return true;
	}
	if (e->kind != SIM_RESTART && m->frozen_until > w->now) {
		e->at = m->frozen_until;
		sim_events_add(&w->events, *e);
		return true;
	}
	return false;
}

static void step(struct world *w, struct sim_event *e)
{
	struct member *m = &w->members[e->member];

	if (void_or_delayed(w, e))
		return;
	w->out->events++;
	world_trace(w, w->now * 64 + (uint64_t)e->kind * 8 + e->member);
	world_trace(w, e->size);
	if (e->kind == SIM_RESTART)
		member_start(m);
	else if (m->site)
		member_on_event(m, e);
	free(e->bytes);
	if (w->out->events % 1024 == 0)
		link_sweep(w);
}

/* The script's turns before `until`. */
static void run_script(struct world *w, uint64_t until)
{
	struct site *sites[SIM_SITES_MAX];

	while (w->set.script && w->script_at <= until) {
		w->now = w->script_at;
		w->script_at += SCRIPT_MS;
		for (size_t i = 0; i < w->site_count; i++)
			sites[i] = w->members[i].site;
		w->set.script(w->set.self, sites, w->now);
		for (size_t i = 0; i < w->site_count; i++)
			if (w->members[i].doomed)
				member_crash(&w->members[i]);
	}
}

int sim_run(const struct sim_settings *settings, struct sim_result *result, struct fault *f)
{
	struct world *w;
	struct sim_event e;
	uint64_t calm_at = 0;
	int rc = check(settings, f);

	*result = (struct sim_result){.trace = UINT64_C(0xcbf29ce484222325)};
	if (!rc)
		rc = noise_start();
	if (rc)
		return rc;
	w = must_calloc(1, sizeof(*w));
	w->set = *settings;
	w->out = result;
	rc = build(w, f);
	for (size_t i = 0; i < w->site_count && !rc; i++)
		member_start(&w->members[i]);
	while (!rc && !result->broken[0] && sim_events_take(&w->events, &e)) {
		run_script(w, e.at);
		w->now = e.at;
		step(w, &e);
		if (!w->calm && check_finished(w)) {
			w->calm = true;
			calm_at = w->now;
		}
		/* Time enough for every thaw, reconnection, snapshot and late word after the last fault. */
		if (w->calm && w->now > calm_at + 10 * w->set.deadline_ms + 120000)
			break;
		if (w->now > VIRTUAL_MAX_MS)
			world_broken(w, 0, "the sites never finished");
	}
	if (!rc && !result->broken[0])
		check_end(w);
	result->virtual_ms = w->calm ? calm_at : w->now;
	for (size_t i = 0; i < w->site_count; i++)
		member_fini(&w->members[i]);
	sim_events_fini(&w->events);
	link_fini(w);
	free(w->edges);
	free(w->initial);
	free(w->sum);
	free(w);
	return rc;
}
