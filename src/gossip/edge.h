/* SPDX-License-Identifier: Apache-2.0 */
/* One edge of a site: what is known of the other end, what may be sent to it, what has to be kept for it. A part of
 * round.c, which tells the story and alone includes this; pure, and on round.c's thread. */
#pragma once
#include "gossip/round.h"

struct edge {
	size_t index;
	bool lower; /* we are the lower end */
	bool removed;
	enum round_presence presence;
	bool behind;
	bool finished;
	uint32_t degree;     /* the neighbour's; 0 before it said so */
	uint64_t peer_round; /* in which it made the newest update held */

	/* The neighbour's replica: here in memory, durable, at the last mixing, and as the neighbour knows. */
	uint64_t have, have_durable, seen, told_have;
	bool fresh; /* the last mixing saw a new version */

	/* Our replica over there: durable as far as we know, and the newest sent in this session. Equal: nothing is on
	 * its way. */
	uint64_t acked, sent;

	/* Lower end. */
	struct round_word word;
	uint64_t acknowledged;
	bool word_sent; /* in this session */
	bool decided;   /* `decision` belongs to the commit under way */
	struct round_word decision;

	/* Higher end. */
	uint64_t applied, applied_durable, told_applied;
	uint64_t applied_a, applied_b; /* versions in the last word applied in this process: each is named once */
	bool prompt;                   /* our newest version left as soon as it was durable */
	bool tardy;                    /* we have waited for a word in vain, and none came since */
	bool owed;                     /* the neighbour has given a word that is not applied here */
	uint64_t held[ROUND_HELD_MAX];
	uint32_t held_count;
	uint64_t offer; /* the last transaction put this version on record: it may be sent */
};

/* Actions in the order in which they have to be carried out. */
struct action_queue {
	struct round_action *actions;
	size_t head, count, capacity;
};
/* Appends one and returns it, to be filled in before the next call. */
struct round_action *action_add(struct action_queue *queue, enum round_action_kind kind, size_t edge);

void edge_init(struct edge *e, size_t index, bool lower, const struct round_edge_row *row);
/* Lower end: the last word given is not acknowledged. */
bool edge_word_outstanding(const struct edge *e);
/* Higher end: a word may name this version of ours. */
bool edge_holds(const struct edge *e, uint64_t version);
/* Higher end: forgets held versions before `from`. */
void edge_keep_held(struct edge *e, uint64_t from);
/* Higher end: whether the next transaction puts our version `sequence` on record, so that it may be sent. */
bool edge_will_offer(const struct edge *e, uint64_t sequence);
/* The version of the neighbour's replica that we may say to hold. */
uint64_t edge_tellable(const struct edge *e);

/* Sends the neighbour what it lacks of our versions up to `sequence`, as far as stop-and-wait and the word allow. Never
 * while a commit is under way. */
void edge_push(struct edge *e, uint64_t sequence, struct action_queue *out);
/* Sends an Ack when the neighbour does not know yet what is durable here. */
void edge_tell(struct edge *e, struct action_queue *out);
/* The session is over because of `trouble`. */
void edge_hang_up(struct edge *e, enum round_trouble trouble, struct action_queue *out);

/* What is wrong with a greeting: numbers that cannot be. `sequence` is our newest durable version. */
enum round_trouble edge_judge_greeting(const struct edge *e, const struct round_greeting *g, uint64_t sequence);
/* The same for numbers that come within a session. */
enum round_trouble edge_judge_acknowledgement(
	const struct edge *e, uint64_t have, uint64_t word_applied, uint64_t sequence);
/* The same for a word. */
enum round_trouble edge_judge_word(const struct edge *e, const struct round_word *w);
/* What a transaction has to record; `mixing`: that of ROUND_COMMIT_MIXED; `sequence`: our version after it. */
void edge_row(const struct edge *e, bool mixing, uint64_t sequence, struct round_edge_row *row);
/* It is durable. */
void edge_committed(struct edge *e, bool mixing, uint64_t sequence);
