/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/liar.h"

#include <stdbool.h>
#include <stddef.h>

#include "base/rng.h"
#include "gossip/round.h"

#define EDGES 4
#define TURNS 600
#define PINS_MAX (EDGES * 5 + 1)

struct honest {
	struct rng rng;
	struct round *round;
	uint64_t now;
	uint64_t pins[PINS_MAX + 8]; /* of the last commit */
	size_t pin_count;
	bool training, evaluating, lane, lane_is_commit;
	uint64_t *applied;
	const char *wrong;
};

static uint64_t small(struct honest *h)
{
	/* Mostly near the truth, so that lies get far. */
	struct round_status status;
	uint64_t around;

	round_status(h->round, &status);
	around = status.durable.sequence + rng_below(&h->rng, 4);
	if (rng_below(&h->rng, 10) == 0)
		return rng_u64(&h->rng);
	return around > 2 ? around - 2 : around;
}

static bool pinned(const struct honest *h, uint64_t version)
{
	for (size_t i = 0; i < h->pin_count; i++)
		if (h->pins[i] == version)
			return true;
	return false;
}

static void perform(struct honest *h)
{
	struct round_action a;

	while (round_next(h->round, &a)) {
		switch (a.kind) {
		case ROUND_TRAIN:
			h->training = true;
			break;
		case ROUND_EVALUATE_TRAINED:
		case ROUND_EVALUATE_MIXED:
			h->evaluating = true;
			break;
		case ROUND_COMMIT_TRAINED:
		case ROUND_COMMIT_MIXED:
		case ROUND_COMMIT_IDLE:
			h->lane = h->lane_is_commit = true;
			h->pin_count = round_pins(h->round, h->pins, PINS_MAX + 8);
			if (h->pin_count > PINS_MAX)
				h->wrong = "a liar made the site keep ever more versions";
			break;
		case ROUND_APPLY_WORD:
			++*h->applied;
			if (!pinned(h, a.word.b) || !(a.word.weight > 0 && a.word.weight <= 0.5f))
				h->wrong = "believed a word that it cannot mirror";
			h->lane = true;
			break;
		case ROUND_APPLY_UPDATE:
			h->lane = true;
			break;
		case ROUND_SEND_UPDATE:
			if (!pinned(h, a.version))
				h->wrong = "sends a version that is not kept";
			break;
		default:
			break;
		}
	}
}

static void lie(struct honest *h, size_t edge)
{
	struct round_greeting g = {small(h), small(h), small(h), small(h), small(h), (uint32_t)rng_below(&h->rng, 5),
		rng_below(&h->rng, 9) == 0};
	struct round_update u = {
		rng_below(&h->rng, 2), small(h), small(h), small(h), (uint32_t)rng_below(&h->rng, 5), false};
	struct round_word w = {small(h), small(h), small(h), small(h), rng_uniform(&h->rng)};
	struct round_edge_status e;

	round_edge_status(h->round, edge, &e);
	if (rng_below(&h->rng, 2))
		w = (struct round_word){e.applied + 1, e.have, rng_below(&h->rng, 2) ? e.sent : small(h), 1, 0.25f};
	if (rng_below(&h->rng, 2))
		u.base = e.have;
	if (rng_below(&h->rng, 2))
		g = (struct round_greeting){e.have + 1, small(h), e.lower ? 0 : e.applied + rng_below(&h->rng, 2),
			e.word.number, 1, 1, false};
	switch (rng_below(&h->rng, 6)) {
	case 0:
		round_greet(h->round, edge, &(struct round_greeting){0});
		round_on_up(h->round, edge, &g, h->now);
		break;
	case 1:
		round_on_down(h->round, edge, h->now);
		break;
	case 2:
		round_on_update(h->round, edge, &u, h->now);
		break;
	case 3:
		round_on_word(h->round, edge, &w, h->now);
		break;
	default:
		round_on_acknowledged(h->round, edge, rng_below(&h->rng, 2) ? e.sent : small(h),
			rng_below(&h->rng, 2) ? e.word.number : small(h), h->now);
		break;
	}
}

static void turn(struct honest *h)
{
	uint64_t what = rng_below(&h->rng, 8);

	h->now += rng_below(&h->rng, 300);
	if (h->lane && what < 4) {
		h->lane = false;
		if (h->lane_is_commit)
			round_on_committed(h->round, h->now);
		else
			round_on_applied(h->round, h->now, rng_below(&h->rng, 20) != 0);
		h->lane_is_commit = false;
	} else if (h->training && what == 4) {
		h->training = false;
		round_on_trained(h->round, h->now, rng_below(&h->rng, 20) != 0);
	} else if (h->evaluating && what == 5) {
		h->evaluating = false;
		round_on_evaluated(h->round, h->now);
	} else if (what == 6) {
		round_on_timer(h->round, h->now);
		if (rng_below(&h->rng, 4) == 0)
			round_resume(h->round, h->now);
	} else if (!round_busy(h->round)) {
		lie(h, rng_below(&h->rng, EDGES));
	}
	perform(h);
}

const char *liar_run(uint64_t seed, uint64_t *applied)
{
	struct round_settings settings = {
		.rounds = 40, .gamma = 1, .deadline_ms = 1000, .deadline_min_ms = 10, .evaluate_every = 2};
	struct honest h = {.applied = applied};

	rng_init(&h.rng, seed, 3);
	h.round = round_new(&settings, &(struct round_row){0});
	for (size_t i = 0; i < EDGES; i++)
		round_add_edge(h.round, i % 2, NULL);
	round_start(h.round, 0);
	perform(&h);
	for (int i = 0; i < TURNS && !h.wrong; i++)
		turn(&h);
	round_free(h.round);
	return h.wrong;
}
