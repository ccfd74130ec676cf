/* SPDX-License-Identifier: Apache-2.0 */
/* The rounds of ONE site and the bookkeeping of its edges: numbers only. No vector, thread, socket, file or clock:
 * events come in with the time (monotonic milliseconds), actions come out in order, and whoever owns the round carries
 * them out. One thread at a time; in the daemon the loop thread. The story is told in round.c.
 *
 * Words used here. A site's *sequence* counts the updates it encoded; version v of its public replica is that replica
 * after update v, and version 0 is the initial adapter. *have* is the version of the neighbour's replica that is held
 * here. On an edge the site with the lower NodeID gives *words*: "word k counts my version a against your version b".
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Versions of our own replica that a lower neighbour's next word may name, at most. */
#define ROUND_HELD_MAX 4

struct round_word {
	uint64_t number; /* consecutive on the edge from 1; 0: none yet */
	uint64_t a;      /* version of the lower end's replica */
	uint64_t b;      /* version of the higher end's replica */
	uint64_t round;  /* of the lower end when it decided */
	float weight;    /* in (0, 0.5] */
};

/* Where a restart goes on. */
enum round_point {
	ROUND_MIXED,   /* `round` is complete: the next one trains */
	ROUND_TRAINED, /* `round` is trained and encoded, not mixed: its update is sent (again), then gathering */
};

/* What of a site is durable. All zero is a site before its first round. */
struct round_row {
	uint64_t round;
	uint64_t sequence;
	enum round_point point;
};

/* What of an edge is durable, besides the neighbour's replica at version `have`. All zero is an edge without history.
 */
struct round_edge_row {
	uint64_t have;
	uint64_t seen;                 /* `have` at the last mixing */
	struct round_word word;        /* lower end: the last word given */
	uint64_t acknowledged;         /* lower end: number of the last word that the other end applied durably */
	uint64_t applied;              /* higher end: number of the last word applied */
	uint64_t held[ROUND_HELD_MAX]; /* higher end: own versions that a word may still name, ascending */
	uint32_t held_count;
};

/* The numbers of a neighbour's Hello. */
struct round_greeting {
	uint64_t sequence;     /* its newest durable update */
	uint64_t have;         /* version of our replica that it holds durably */
	uint64_t word_sent;    /* last word it gave, when it is the lower end */
	uint64_t word_applied; /* last word of ours it applied durably, when it is the higher end */
	uint64_t round;
	uint32_t degree;
	bool finished;
};

enum round_update_kind { ROUND_DELTA, ROUND_SNAPSHOT };

/* The numbers of an update. */
struct round_update {
	enum round_update_kind kind;
	uint64_t sequence;
	uint64_t base; /* delta: the version it adds to */
	uint64_t round;
	uint32_t degree;
	bool finished; /* the author's last one */
};

struct round_settings {
	uint64_t rounds;          /* then finished */
	float gamma;              /* step of the mixing, in (0, 1] */
	uint64_t deadline_ms;     /* the longest a round ever waits for neighbours */
	uint64_t deadline_min_ms; /* the adaptive deadline is never below this (and never above deadline_ms) */
	uint32_t
		evaluate_every; /* rounds between evaluations; 0: never. The last round is always evaluated, unless 0 */
};

/* Why an edge stays out, or its session was ended. X(NAME, label): the label is stable, for metrics and logs. */
#define ROUND_TROUBLES(X)                                                                                              \
	X(NONE, "none")                                                                                                \
	X(OWN_ROLLED_BACK, "own_rolled_back")   /* the neighbour knows more of our past than we do: restored backup */ \
	X(PEER_ROLLED_BACK, "peer_rolled_back") /* we know more of its past than it does */                            \
	X(OUT_OF_STEP, "out_of_step")           /* a delta for another base, a word for versions that do not stand */  \
	X(WORD_GAP, "word_gap")                 /* a word that skips a number */                                       \
	X(WORD_WEIGHT, "word_weight")           /* a weight outside (0, 0.5] */                                        \
	X(WORD_DIRECTION, "word_direction")     /* a word from the higher end */                                       \
	X(SEQUENCE_AHEAD, "sequence_ahead")     /* acknowledges an update that was never sent */                       \
	X(BAD_VALUES, "bad_values")             /* an update that could not be applied */
enum round_trouble {
#define X(name, label) ROUND_TROUBLE_##name,
	ROUND_TROUBLES(X)
#undef X
		ROUND_TROUBLE_COUNT
};
const char *round_trouble_label(enum round_trouble trouble);

/* What the owner has to do. "Lane" actions touch vectors: at most one of them is under way at any time, and until it is
 * answered round_busy is true and no message may be given. */
enum round_action_kind {
	/* Lend the model to the trainer for one round's local steps. Answer: round_on_trained. */
	ROUND_TRAIN,
	/* Lend the model for reading, after the local steps / after mixing. Answer: round_on_evaluated. */
	ROUND_EVALUATE_TRAINED,
	ROUND_EVALUATE_MIXED,
	/* Lane. Each merges the pending vector into the model first and ends with one durable transaction of
	 * everything: TRAINED encodes the update `version` in between; MIXED applies the decided words of
	 * round_decision(); IDLE nothing. Answer: round_on_committed, only when durable. */
	ROUND_COMMIT_TRAINED,
	ROUND_COMMIT_MIXED,
	ROUND_COMMIT_IDLE,
	/* Lane: apply the update just accepted to the replica of `edge`. Answer: round_on_applied. */
	ROUND_APPLY_UPDATE,
	/* Lane: subtract `word`'s term from the model, or from the pending vector when `away`. Answer:
	   round_on_applied. */
	ROUND_APPLY_WORD,
	/* Send to `edge`: update `version` as `update_kind` (delta: against version - 1), with the acknowledgement
	 * `have` and `applied`; or `word`; or a bare Ack of `have` and `applied`. No answer. */
	ROUND_SEND_UPDATE,
	ROUND_SEND_WORD,
	ROUND_SEND_ACK,
	/* Hang up on `edge` because of `trouble`. The round has already taken it as down. */
	ROUND_HANG_UP,
	/* Round number `version` is over here: trained, mixed and, where due, evaluated. Informs only. */
	ROUND_DONE,
};

struct round_action {
	enum round_action_kind kind;
	size_t edge;
	uint64_t version;
	enum round_update_kind update_kind;
	uint64_t have, applied;
	struct round_word word;
	bool away;
	enum round_trouble trouble;
};

enum round_state {
	ROUND_STATE_IDLE, /* before round_start */
	ROUND_STATE_TRAINING,
	ROUND_STATE_COMMITTING,
	ROUND_STATE_EVALUATING,
	ROUND_STATE_GATHERING, /* waiting for the neighbours' updates */
	ROUND_STATE_SETTLING,  /* waiting for the lower neighbours' words */
	ROUND_STATE_PAUSED,
	ROUND_STATE_DRAINED,
	ROUND_STATE_FINISHED,
	ROUND_STATE_HALTED, /* training failed; round_resume tries again */
};
const char *round_state_label(enum round_state state);

enum round_presence {
	ROUND_UNKNOWN, /* nobody has tried yet: awaited, so that a restart does not race past its neighbours */
	ROUND_UP,
	ROUND_DOWN,
};

struct round_edge_status {
	bool lower; /* we are the lower end: we give the words */
	enum round_presence presence;
	bool behind; /* missed the last deadline and has sent nothing since */
	bool fresh;  /* the last mixing saw a new version of its replica */
	bool finished;
	bool removed;
	uint64_t have, have_durable;
	uint64_t applied, applied_durable;
	uint64_t acknowledged;  /* newest own version that the neighbour holds durably */
	uint64_t sent;          /* newest own version sent to it in this session */
	struct round_word word; /* last given */
	uint64_t word_acknowledged;
	uint64_t peer_round; /* in which it made the newest update held */
	uint32_t degree;     /* the neighbour's */
};

struct round_status {
	enum round_state state;
	struct round_row durable;
	uint64_t round;  /* the one that is under way, or the last complete one */
	uint32_t degree; /* own, removed edges not counted */
	bool finished;
	uint64_t gather_ms; /* how long the last round waited for updates and words */
};

struct round;

/* `row` is what the store had, all zero for a new site. Never NULL; the caller frees it. */
struct round *round_new(const struct round_settings *settings, const struct round_row *row);
void round_free(struct round *r);
/* Adds an edge and returns its index; indices are never used again. `row` is NULL or what the store had. Not while
 * busy. */
size_t round_add_edge(struct round *r, bool lower, const struct round_edge_row *row);
/* Forgets an edge: it is down and in no row from now on. Not while busy. */
void round_remove_edge(struct round *r, size_t edge, uint64_t now_ms);
/* Begins, or goes on where the row says. */
void round_start(struct round *r, uint64_t now_ms);

/* Pops the next action; false when there is none. Call after every event until it is false. */
bool round_next(struct round *r, struct round_action *action);
/* Whether there is one. */
bool round_pending(const struct round *r);
/* When round_on_timer wants to be called; UINT64_MAX for never. */
uint64_t round_deadline(const struct round *r);
/* A lane action is under way: no greeting, update, word or acknowledgement may be given now; keep it, in order, for
 * later. */
bool round_busy(const struct round *r);

void round_on_timer(struct round *r, uint64_t now_ms);
/* The model is home again. Not ok: it is as it was lent, and the round stands in ROUND_STATE_HALTED. */
void round_on_trained(struct round *r, uint64_t now_ms, bool ok);
void round_on_evaluated(struct round *r, uint64_t now_ms);
void round_on_committed(struct round *r, uint64_t now_ms);
/* The answer to APPLY_*. Not ok: nothing was applied, and the edge is hung up on (BAD_VALUES). */
void round_on_applied(struct round *r, uint64_t now_ms, bool ok);

/* A session with the neighbour is up and its Hello came (the first of that session). May hang up at once. */
void round_on_up(struct round *r, size_t edge, const struct round_greeting *greeting, uint64_t now_ms);
/* The session ended, or an attempt to reach the neighbour failed. */
void round_on_down(struct round *r, size_t edge, uint64_t now_ms);
/* The numbers that ride on an Update, an Ack or a later Hello. Give them before the update they came with; older ones than
 * already known change nothing. */
void round_on_acknowledged(struct round *r, size_t edge, uint64_t have, uint64_t word_applied, uint64_t now_ms);

/* The owner has something of its own to store: it rides on the next transaction, or on an idle one when the site rests. */
void round_want_commit(struct round *r);

enum round_verdict {
	ROUND_ACCEPTED, /* an APPLY_* action follows */
	ROUND_IGNORED,  /* already known */
	ROUND_REFUSED,  /* a HANG_UP action follows */
};
enum round_verdict round_on_update(struct round *r, size_t edge, const struct round_update *update, uint64_t now_ms);
enum round_verdict round_on_word(struct round *r, size_t edge, const struct round_word *word, uint64_t now_ms);

/* Stop after the round that is under way, and go on. A paused or drained site still answers its neighbours. */
void round_pause(struct round *r, uint64_t now_ms);
void round_drain(struct round *r, uint64_t now_ms);
void round_resume(struct round *r, uint64_t now_ms);

/* While a commit is under way: the rows that it has to make durable (they are true only together with the lane's
 * vectors). */
void round_row(const struct round *r, struct round_row *row);
void round_edge_row(const struct round *r, size_t edge, struct round_edge_row *row);
/* During ROUND_COMMIT_MIXED: whether a word is decided on `edge`, and which. */
bool round_decision(const struct round *r, size_t edge, struct round_word *word);
/* Own versions that the commit under way must keep loadable, ascending, without duplicates and without 0; the newest
 * one is always among them. Writes at most `max` and returns how many there are. */
size_t round_pins(const struct round *r, uint64_t *versions, size_t max);
/* The numbers of our own Hello on this edge: durable ones only. */
void round_greet(struct round *r, size_t edge, struct round_greeting *out);

size_t round_edge_count(const struct round *r); /* indices ever given, removed ones included */
void round_status(const struct round *r, struct round_status *out);
void round_edge_status(const struct round *r, size_t edge, struct round_edge_status *out);
