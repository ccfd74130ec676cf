/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a round, shared by round.c and round_rows.c; on round.c's thread. */
#pragma once
#include "gossip/edge.h"
#include "gossip/round.h"

/* Rounds whose waiting time sets the adaptive deadline. */
#define HISTORY 8

enum task { TASK_NONE, TASK_COMMIT, TASK_UPDATE, TASK_WORD };
enum hold { HOLD_NONE, HOLD_PAUSE, HOLD_DRAIN };

struct round {
	struct round_settings settings;
	struct round_row durable;
	struct edge *edges;
	size_t edge_count;

	enum round_state state; /* never COMMITTING: that is `task` */
	uint64_t number;        /* of the round under way, or the last complete one */
	enum hold hold;
	bool trained; /* the model came back and waits for its commit */
	bool away;    /* the model is lent */
	bool evaluating;
	bool reconsider; /* somebody changed `hold` while the site rested */
	bool dirty;      /* an edge was forgotten, or the owner has news, and that is not durable yet */

	enum task task; /* on the lane */
	enum round_action_kind commit;
	size_t task_edge;
	struct round_update task_update;
	struct round_word task_word;

	uint64_t train_from, train_ms, evaluate_from, evaluate_ms; /* of the last ones */
	uint64_t wait_from, wait_until, settle_from;
	bool expired;  /* the deadline of this round has passed */
	bool gathered; /* the updates are in, or nobody waits for them any more */
	uint64_t history[HISTORY];
	size_t history_count;
	uint64_t gather_ms;

	struct action_queue actions;
};

/* Our own number of neighbours; forgotten ones do not count. */
uint32_t round_degree(const struct round *r);
