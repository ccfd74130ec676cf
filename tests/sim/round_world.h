/* SPDX-License-Identifier: Apache-2.0 */
/* A world of rounds under faults, without vectors: a model is one integer, so that the sum of all models can be checked
 * exactly. It drives gossip/round.c alone. Same seed, same run. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* Mistakes that an implementation could make; each must be caught. */
enum plant {
	PLANT_NONE,
	PLANT_WORD_TWICE,         /* a word's term is applied twice now and then */
	PLANT_ENCODE_AGAIN,       /* after a crash the update is encoded afresh instead of being sent again */
	PLANT_EARLY_ACK,          /* acknowledges what is only in memory */
	PLANT_WORD_LOST,          /* a restart forgets the words that were not acknowledged */
	PLANT_SEND_BEFORE_COMMIT, /* the model of a word is not in the transaction that records it */
	PLANT_PINS_LOST,          /* keeps only the newest version of its own replica */
	PLANT_COUNT
};

struct world_settings {
	uint64_t seed;
	unsigned sites;
	bool full; /* all pairs, else a ring (a line for two sites) */
	uint64_t rounds;
	double loss;   /* of a message, with its session */
	double crash;  /* at an effect */
	double freeze; /* of a site, or of one direction of an edge, at an effect */
	enum plant plant;
};

struct world_result {
	const char *broken; /* which invariant; NULL: none */
	unsigned site;      /* where */
	uint64_t trace;     /* hash of everything that happened, in order */
	uint64_t virtual_ms;
	uint64_t crashes, sessions, words, snapshots, late_words;
};

void world_run(const struct world_settings *settings, struct world_result *result);
