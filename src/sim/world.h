/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a simulation, shared by the files of src/sim and nobody else. */
#pragma once
#include "base/rng.h"
#include "sim/disk.h"
#include "sim/events.h"
#include "sim/sim.h"

enum sim_event_kind {
	SIM_DIALLED,
	SIM_FRAME,
	SIM_CLOSED,
	SIM_TIMER,
	SIM_WORKED,
	SIM_TRAINED,
	SIM_EVALUATED,
	SIM_RESTART
};

struct member;

/* One end of a connection. */
struct sim_end {
	struct member *member;
	uint64_t life;
	struct site_connection
		*connection; /* the site's handle; NULL before site_on_opened has returned and after site_on_closed */
	bool closed;         /* by the site: it hears nothing any more */
	uint64_t last;       /* when the newest frame towards this end arrives: a connection never reorders */
	size_t queued;       /* bytes on their way to this end */
};

struct sim_pipe {
	struct sim_pipe *next;
	struct sim_end ends[2];
	bool broken; /* what is on its way is lost */
	bool ending; /* both ends are told, or will be */
};

struct member {
	struct world *world;
	size_t index;
	struct identity *identity;
	struct sim_disk disk;
	struct sim_disk backup; /* of round 2, for SIM_PLANT_OLD_DISK */
	struct site *site;      /* NULL while it is down */
	uint64_t life;
	bool doomed; /* died at an effect: no further one happens, and it is taken down when the event is over */
	uint64_t frozen_until, frozen_ms;
	uint64_t timer_at, lane_free;
	float *target;
	const struct site_training *training;
	const float *evaluating;
	double *moved;        /* (n,) what the last local steps changed */
	double *displacement; /* (n,) sum of those that are durable */
	uint64_t trained;     /* transactions of trained rounds */
	struct rng rng;       /* of its sessions */
	int64_t clock_offset_ms;
};

struct world {
	struct sim_settings set;
	struct sim_result *out;
	struct sim_events events;
	struct rng rng;
	uint64_t now;
	size_t site_count;
	struct member members[SIM_SITES_MAX];
	struct sim_pipe *pipes;
	bool *edges; /* (sites, sites) */
	float *initial;
	uint64_t script_at;
	double *sum; /* (n,) of check_commit */
	uint8_t secret[NETWORK_SECRET_SIZE];
	bool calm; /* the faults are over */
};

bool world_chance(struct world *w, double p);
uint64_t world_between(struct world *w, uint64_t low, uint64_t high);
void world_broken(struct world *w, size_t member, const char *what);
void world_trace(struct world *w, uint64_t value);

/* link.c */
int link_effect_dial(void *self, const char *url, int tag);
void link_effect_send(void *self, void *connection, const uint8_t *frame, size_t n);
size_t link_effect_room(void *self, void *connection);
void link_effect_authenticated(void *self, void *connection);
void link_effect_close(void *self, void *connection, bool flush);
void link_on_dialled(struct world *w, struct sim_event *e);
void link_on_frame(struct world *w, struct sim_event *e);
void link_on_closed(struct world *w, struct sim_event *e);
void link_drop_member(struct member *m);
void link_sweep(struct world *w);
void link_fini(struct world *w);

/* member.c */
/* Something leaves the site now. False: it died before, or dies here. */
bool member_effect(struct member *m);
void member_init(struct world *w, size_t index);
void member_start(struct member *m);
void member_crash(struct member *m);
void member_fini(struct member *m);
void member_on_event(struct member *m, struct sim_event *e);

/* invariants.c */
void check_commit(struct world *w);
void check_end(struct world *w);
bool check_finished(const struct world *w);
