/* SPDX-License-Identifier: Apache-2.0 */
/* The rounds of a few sites against faults, thousands of times; SAKIORI_SIM_SEEDS sets how often, for check-sim. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "gossip/round.h"
#include "sim/liar.h"
#include "sim/round_world.h"

static uint64_t seeds(uint64_t usual)
{
	const char *more = getenv("SAKIORI_SIM_SEEDS");

	return more && *more ? strtoull(more, NULL, 10) : usual;
}

/* One of many worlds: size, shape and faults follow from the seed. */
static struct world_settings world_of(uint64_t seed)
{
	static const double loss[] = {0, 0.01, 0.05, 0.2}, crash[] = {0, 0.002, 0.01}, freeze[] = {0, 0.01};

	struct rng r;

	rng_init(&r, seed, 7);
	return (struct world_settings){.seed = seed,
		.sites = 2 + (unsigned)rng_below(&r, 5),
		.full = rng_below(&r, 2),
		.rounds = 8,
		.loss = loss[rng_below(&r, 4)],
		.crash = crash[rng_below(&r, 3)],
		.freeze = freeze[rng_below(&r, 2)]};
}

static void fail_with(const struct world_settings *set, const struct world_result *result)
{
	ck_abort_msg("seed %" PRIu64 " site %u at %" PRIu64 " ms: %s", set->seed, result->site, result->virtual_ms,
		result->broken);
}

START_TEST(sites_without_faults_count_every_edge_every_round)
{
	struct world_settings set = {.seed = 1, .sites = 4, .full = true, .rounds = 20};
	struct world_result result;

	world_run(&set, &result);
	if (result.broken)
		fail_with(&set, &result);
	/* Six edges; the first sessions may come up in the course of the first rounds. */
	ck_assert_uint_ge(result.words, 6 * 17);
	ck_assert_uint_le(result.words, 6 * 20);
	ck_assert_uint_le(result.snapshots, 6 * 4);
}
END_TEST

START_TEST(no_fault_moves_the_sum_or_loses_a_round)
{
	struct world_result total = {0};
	uint64_t n = seeds(2400);

	for (uint64_t seed = 1; seed <= n; seed++) {
		struct world_settings set = world_of(seed);
		struct world_result result;

		world_run(&set, &result);
		if (result.broken)
			fail_with(&set, &result);
		total.crashes += result.crashes;
		total.sessions += result.sessions;
		total.words += result.words;
		total.snapshots += result.snapshots;
		total.late_words += result.late_words;
		total.virtual_ms += result.virtual_ms;
	}
	printf("rounds: %" PRIu64 " worlds, %" PRIu64 " crashes, %" PRIu64 " sessions, %" PRIu64 " words (%" PRIu64
	       " while training), %" PRIu64 " snapshots, %.1f days\n",
		n, total.crashes, total.sessions, total.words, total.late_words, total.snapshots,
		(double)total.virtual_ms / 86.4e6);
	/* The faults did happen. */
	ck_assert_uint_gt(total.crashes, n / 10);
	ck_assert_uint_gt(total.late_words, n / 10);
	ck_assert_uint_gt(total.snapshots, n);
}
END_TEST

START_TEST(the_same_seed_is_the_same_run)
{
	for (uint64_t seed = 200; seed < 260; seed++) {
		struct world_settings set = world_of(seed);
		struct world_result first, again;

		world_run(&set, &first);
		world_run(&set, &again);
		ck_assert_uint_eq(first.trace, again.trace);
	}
}
END_TEST

START_TEST(a_planted_mistake_is_caught)
{
	for (enum plant plant = PLANT_NONE + 1; plant < PLANT_COUNT; plant++) {
		struct world_result result = {0};

		for (uint64_t seed = 1; seed <= 2400 && !result.broken; seed++) {
			struct world_settings set = world_of(seed);

			set.plant = plant;
			world_run(&set, &result);
		}
		if (!result.broken)
			ck_abort_msg("nobody noticed mistake %d", (int)plant);
		printf("mistake %d: %s\n", (int)plant, result.broken);
	}
}
END_TEST

START_TEST(a_neighbour_that_lies_can_neither_trip_nor_fill_a_site)
{
	uint64_t applied = 0;

	for (uint64_t seed = 1; seed <= seeds(2000); seed++) {
		const char *wrong = liar_run(seed, &applied);

		if (wrong)
			ck_abort_msg("seed %" PRIu64 ": %s", seed, wrong);
	}
	/* Some lies are plausible: the test gets that far. */
	ck_assert_uint_gt(applied, 100);
}
END_TEST

/* One round without a world: what it asks for is answered at once, and each commit and training takes no time. */
static void answer_all(struct round *r, uint64_t now)
{
	struct round_action a;

	while (round_next(r, &a)) {
		if (a.kind == ROUND_COMMIT_TRAINED || a.kind == ROUND_COMMIT_MIXED || a.kind == ROUND_COMMIT_IDLE)
			round_on_committed(r, now);
		else if (a.kind == ROUND_APPLY_UPDATE || a.kind == ROUND_APPLY_WORD)
			round_on_applied(r, now, true);
	}
}

static uint64_t round_number(const struct round *r)
{
	struct round_status status;

	round_status(r, &status);
	return status.round;
}

START_TEST(a_silent_neighbour_costs_one_deadline_and_then_nothing)
{
	struct round_settings settings = {.rounds = 100, .gamma = 1, .deadline_ms = 1000, .deadline_min_ms = 100};
	struct round_greeting hello = {.degree = 1};
	struct round_update update = {.kind = ROUND_SNAPSHOT, .sequence = 7, .round = 7, .degree = 1};
	struct round_edge_status e;
	struct round *r = round_new(&settings, &(struct round_row){0});
	size_t edge = round_add_edge(r, true, NULL);

	round_start(r, 0);
	round_on_up(r, edge, &hello, 0);
	round_on_trained(r, 10, true);
	answer_all(r, 10);
	ck_assert_uint_eq(round_deadline(r), 1010);
	round_on_timer(r, 1009);
	answer_all(r, 1009);
	ck_assert_uint_eq(round_number(r), 1);
	round_on_timer(r, 1010);
	answer_all(r, 1010);
	ck_assert_uint_eq(round_number(r), 2);
	round_edge_status(r, edge, &e);
	ck_assert(e.behind);
	/* Behind: not waited for at all, until it says something. */
	round_on_trained(r, 1020, true);
	answer_all(r, 1020);
	ck_assert_uint_eq(round_number(r), 3);
	ck_assert_int_eq(round_on_update(r, edge, &update, 1025), ROUND_ACCEPTED);
	answer_all(r, 1025);
	round_on_trained(r, 1030, true);
	answer_all(r, 1030);
	round_edge_status(r, edge, &e);
	ck_assert(!e.behind);
	ck_assert_uint_eq(e.word.b, 7);
	ck_assert_uint_eq(e.word.a, 3);
	ck_assert_uint_eq(round_number(r), 4);
	round_free(r);
}
END_TEST

START_TEST(impossible_greetings_are_told_apart_by_whose_past_is_missing)
{
	static const struct round_settings settings = {
		.rounds = 100, .gamma = 1, .deadline_ms = 1000, .deadline_min_ms = 100};
	struct round_row row = {.round = 10, .sequence = 10};
	struct round_edge_row lower = {
		.have = 8, .word = {.number = 5, .a = 9, .b = 8, .round = 9, .weight = 0.5f}, .acknowledged = 4};
	struct round_edge_row higher = {.have = 8, .applied = 5};
	const struct {
		bool lower;
		struct round_greeting hello;
		enum round_trouble expected;
	} cases[] = {
		{true, {.sequence = 8, .have = 9, .word_applied = 4}, ROUND_TROUBLE_NONE},
		{true, {.sequence = 8, .have = 10, .word_applied = 5}, ROUND_TROUBLE_NONE},
		{true, {.sequence = 8, .have = 11, .word_applied = 5}, ROUND_TROUBLE_OWN_ROLLED_BACK},
		{true, {.sequence = 8, .have = 9, .word_applied = 6}, ROUND_TROUBLE_OWN_ROLLED_BACK},
		{true, {.sequence = 7, .have = 9, .word_applied = 4}, ROUND_TROUBLE_PEER_ROLLED_BACK},
		{true, {.sequence = 8, .have = 9, .word_applied = 3}, ROUND_TROUBLE_PEER_ROLLED_BACK},
		{true, {.sequence = 8, .have = 10, .word_applied = 4}, ROUND_TROUBLE_PEER_ROLLED_BACK},
		{false, {.sequence = 8, .have = 0, .word_sent = 5}, ROUND_TROUBLE_NONE},
		{false, {.sequence = 8, .have = 0, .word_sent = 6}, ROUND_TROUBLE_NONE},
		{false, {.sequence = 8, .have = 0, .word_sent = 4}, ROUND_TROUBLE_PEER_ROLLED_BACK},
		{false, {.sequence = 8, .have = 0, .word_sent = 7}, ROUND_TROUBLE_OWN_ROLLED_BACK},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct round *r = round_new(&settings, &row);
		size_t edge = round_add_edge(r, cases[i].lower, cases[i].lower ? &lower : &higher);
		enum round_trouble trouble = ROUND_TROUBLE_NONE;
		struct round_action a;

		round_start(r, 0);
		round_on_up(r, edge, &cases[i].hello, 0);
		while (round_next(r, &a))
			if (a.kind == ROUND_HANG_UP)
				trouble = a.trouble;
		if (trouble != cases[i].expected)
			ck_abort_msg("case %zu: %s, expected %s", i, round_trouble_label(trouble),
				round_trouble_label(cases[i].expected));
		round_free(r);
	}
}
END_TEST

/* Held in memory only: the neighbour went back before its update was durable here. */
START_TEST(a_neighbour_that_went_back_behind_what_is_not_yet_durable_here_is_noticed)
{
	static const struct round_settings settings = {
		.rounds = 100, .gamma = 1, .deadline_ms = 1000, .deadline_min_ms = 100};
	struct round_row row = {.round = 10, .sequence = 10};
	struct round_edge_row stored = {.have = 8};
	const struct round_greeting hello = {.sequence = 9, .have = 10, .degree = 1};
	const struct round_greeting earlier = {.sequence = 8, .have = 10, .degree = 1};
	const struct round_update update = {.kind = ROUND_DELTA, .sequence = 9, .base = 8, .round = 9, .degree = 1};
	struct round *r = round_new(&settings, &row);
	size_t edge = round_add_edge(r, true, &stored);
	enum round_trouble trouble = ROUND_TROUBLE_NONE;
	struct round_edge_status e;
	struct round_action a;

	round_edge_status(r, edge, &e);
	ck_assert_uint_eq(e.peer_round, 8);
	round_start(r, 0);
	round_on_up(r, edge, &hello, 0);
	ck_assert_int_eq(round_on_update(r, edge, &update, 1), ROUND_ACCEPTED);
	while (round_next(r, &a))
		if (a.kind == ROUND_APPLY_UPDATE)
			round_on_applied(r, 2, true);
	round_edge_status(r, edge, &e);
	ck_assert_uint_eq(e.have, 9);
	ck_assert_uint_eq(e.have_durable, 8);
	ck_assert_uint_eq(e.peer_round, 9);
	round_on_down(r, edge, 3);
	round_on_up(r, edge, &earlier, 4);
	while (round_next(r, &a))
		if (a.kind == ROUND_HANG_UP)
			trouble = a.trouble;
	ck_assert_int_eq(trouble, ROUND_TROUBLE_PEER_ROLLED_BACK);
	round_free(r);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("round");
	TCase *tcase = tcase_create("round");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tcase, 0);
	tcase_add_test(tcase, a_silent_neighbour_costs_one_deadline_and_then_nothing);
	tcase_add_test(tcase, impossible_greetings_are_told_apart_by_whose_past_is_missing);
	tcase_add_test(tcase, a_neighbour_that_went_back_behind_what_is_not_yet_durable_here_is_noticed);
	tcase_add_test(tcase, sites_without_faults_count_every_edge_every_round);
	tcase_add_test(tcase, no_fault_moves_the_sum_or_loses_a_round);
	tcase_add_test(tcase, the_same_seed_is_the_same_run);
	tcase_add_test(tcase, a_planted_mistake_is_caught);
	tcase_add_test(tcase, a_neighbour_that_lies_can_neither_trip_nor_fill_a_site);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
