/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a world of rounds, shared by round_world.c and round_member.c. */
#pragma once
#include "base/rng.h"
#include "gossip/round.h"
#include "sim/round_world.h"

#define SITES_MAX 8
#define DEADLINE 4000
#define WORK_MAX 60
#define VERSIONS 4096

enum event_kind { MESSAGE, DOWN, CONNECT, WORKED, TRAINED, EVALUATED, TIMER, RESTART };
enum message_kind { HELLO, UPDATE, WORD, ACK };

struct message {
	enum message_kind kind;
	struct round_greeting greeting;
	struct round_update update;
	int64_t value; /* delta or snapshot */
	struct round_word word;
	uint64_t have, applied;
};

struct event {
	uint64_t at, order;
	enum event_kind kind;
	unsigned site, from;
	uint64_t life;    /* of the site; an older one's events are void */
	uint64_t session; /* of the pair */
	struct message message;
};

/* One side of an edge in memory. */
struct half {
	size_t edge; /* index in the round */
	int64_t replica;
	uint64_t session; /* 0: down */
	struct message *inbox;
	size_t inbox_count;
	struct message applying;
};

struct disk_edge {
	struct round_edge_row row;
	int64_t replica;
};

struct disk {
	struct round_row row;
	int64_t x, self, q;
	int64_t own[VERSIONS]; /* own replica by version; kept[] says whether it may be read */
	bool kept[VERSIONS];
	struct disk_edge edges[SITES_MAX];
	int64_t displacement; /* sum of all committed local steps */
	uint64_t trained;     /* transactions of COMMIT_TRAINED */
};

struct member {
	bool alive;
	uint64_t life;
	struct round *round;
	int64_t x, self, q, pending, moved;
	struct round_action commit;
	struct half halves[SITES_MAX];
	struct disk disk;
	uint64_t frozen_until, frozen_total;
};

struct pair {
	bool exists, up;
	uint64_t session;
	uint64_t last[2]; /* delivery time of the last message, by direction: a session never reorders */
};

struct world {
	struct world_settings set;
	struct world_result *out;
	struct rng rng;
	uint64_t now, order;
	struct event *heap;
	size_t heap_count, heap_capacity;
	struct member members[SITES_MAX];
	struct pair pairs[SITES_MAX][SITES_MAX]; /* low, high */
	bool calm;                               /* the faults are over */
};

bool chance(struct world *w, double p);
uint64_t between(struct world *w, uint64_t low, uint64_t high);
void broken(struct world *w, const char *what, unsigned site);
void trace(struct world *w, uint64_t value);
void schedule(struct world *w, struct event e);
struct pair *pair_of(struct world *w, unsigned a, unsigned b);
void break_pair(struct world *w, unsigned a, unsigned b);
/* To the other end of a session, unless it is lost with it. */
void world_send(struct world *w, unsigned from, unsigned to, struct message m);
void check_sum(struct world *w);
/* A word's term; both ends compute it from the same two integers. */
int64_t term(const struct round_word *word, int64_t low, int64_t high);
/* A site's own replica at a version that it has to have kept. */
int64_t own_version(struct world *w, unsigned site, uint64_t version);

/* round_member.c */
void member_start(struct world *w, unsigned site);
void member_crash(struct world *w, unsigned site);
/* Carries out what the round wants. Any effect may be the site's last. */
void member_perform(struct world *w, unsigned site);
/* Gives the round the messages that wait. */
void member_deliver(struct world *w, unsigned site);
void member_on_worked(struct world *w, unsigned site);
