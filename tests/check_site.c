/* SPDX-License-Identifier: Apache-2.0 */
/* Whole sites under faults: src/site with the real sessions, codec and mixing; SAKIORI_SIM_SEEDS sets how often, for check-sim. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/rng.h"
#include "sim/sim.h"

static uint64_t seeds(uint64_t usual)
{
	const char *more = getenv("SAKIORI_SIM_SEEDS");

	return more && *more ? strtoull(more, NULL, 10) : usual;
}

/* One of many worlds: size, shape and faults follow from the seed. */
static struct sim_settings world_of(uint64_t seed)
{
	static const char *const topologies[] = {"ring", "full", "line"};
	static const double loss[] = {0, 0.005, 0.02, 0.08}, crash[] = {0, 0.002, 0.01}, freeze[] = {0, 0.03};
	struct sim_settings set;
	struct rng r;

	sim_settings_default(&set);
	rng_init(&r, seed, 7);
	set.seed = seed;
	set.sites = 3 + rng_below(&r, 4);
	set.topology = topologies[rng_below(&r, 3)];
	set.rounds = 6;
	set.local_steps = 5;
	set.size = 100 + rng_below(&r, 3) * 128;
	set.loss = loss[rng_below(&r, 4)];
	set.crash = crash[rng_below(&r, 3)];
	set.freeze = freeze[rng_below(&r, 2)];
	set.deadline_ms = 5000;
	return set;
}

static void run(const struct sim_settings *set, struct sim_result *result)
{
	struct fault f;

	if (sim_run(set, result, &f))
		ck_abort_msg("%s", f.text);
}

START_TEST(sites_without_faults_reach_the_mean_of_their_targets)
{
	struct sim_settings set;
	struct sim_result result;

	sim_settings_default(&set);
	set.sites = 4;
	set.topology = "full";
	set.rounds = 40;
	run(&set, &result);
	ck_assert_str_eq(result.broken, "");
	/* Six edges, two ends each count; the first rounds may begin before the first session. */
	ck_assert_uint_ge(result.words, 2 * 6 * 38);
	ck_assert_uint_eq(result.breaks, 0);
	ck_assert_double_lt(result.mean_error, 0.05);
	ck_assert_double_lt(result.distance, 0.25 * result.alone_distance);
}
END_TEST

START_TEST(no_fault_moves_the_sum_loses_a_round_or_makes_anybody_wait)
{
	struct sim_result total = {0};
	uint64_t n = seeds(200);

	for (uint64_t seed = 1; seed <= n; seed++) {
		struct sim_settings set = world_of(seed);
		struct sim_result result;

		run(&set, &result);
		if (result.broken[0])
			ck_abort_msg("seed %" PRIu64 ": %s", seed, result.broken);
		/* Together is better than alone, whatever happened. */
		if (!(result.distance < result.alone_distance))
			ck_abort_msg("seed %" PRIu64 ": no consensus, %g", seed, result.distance);
		total.events += result.events;
		total.crashes += result.crashes;
		total.breaks += result.breaks;
		total.freezes += result.freezes;
		total.words += result.words;
		total.commits += result.commits;
		total.virtual_ms += result.virtual_ms;
		if (result.worst_sum > total.worst_sum)
			total.worst_sum = result.worst_sum;
	}
	printf("sites: %" PRIu64 " worlds, %" PRIu64 " events, %" PRIu64 " commits, %" PRIu64 " crashes, %" PRIu64
	       " broken connections, %" PRIu64 " freezes, %" PRIu64 " words, sum within %.1e, %.2f days\n",
		n, total.events, total.commits, total.crashes, total.breaks, total.freezes, total.words,
		total.worst_sum, (double)total.virtual_ms / 86.4e6);
	ck_assert_uint_gt(total.crashes, n / 10);
	ck_assert_uint_gt(total.breaks, n);
	ck_assert_uint_gt(total.freezes, n / 10);
}
END_TEST

static void count_waits(void *self, size_t site, const struct site_record *record)
{
	uint64_t *waits = self;

	(void)site;
	*waits += record->gather_seconds >= 4.9;
}

START_TEST(a_lost_connection_rarely_costs_a_deadline)
{
	uint64_t waits = 0, breaks = 0;

	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct sim_settings set;
		struct sim_result result;

		sim_settings_default(&set);
		set.seed = seed;
		set.sites = 4;
		set.topology = "full";
		set.rounds = 60;
		set.size = 64;
		set.loss = 0.01;
		set.deadline_min_ms = 5000;
		set.self = &waits;
		set.on_round = count_waits;
		run(&set, &result);
		ck_assert_str_eq(result.broken, "");
		breaks += result.breaks;
	}
	/* Neighbours that wait for each other in a circle would cost several for each. */
	ck_assert_uint_gt(breaks, 200);
	ck_assert_uint_lt(waits, breaks / 20);
}
END_TEST

START_TEST(the_same_seed_is_the_same_run)
{
	for (uint64_t seed = 190; seed < 200; seed++) {
		struct sim_settings set = world_of(seed);
		struct sim_result first, again;

		run(&set, &first);
		run(&set, &again);
		ck_assert_uint_eq(first.trace, again.trace);
		ck_assert_uint_eq(first.events, again.events);
	}
}
END_TEST

START_TEST(a_planted_mistake_is_caught)
{
	for (enum sim_plant plant = SIM_PLANT_NONE + 1; plant < SIM_PLANT_COUNT; plant++) {
		struct sim_result result = {0};

		for (uint64_t seed = 96; seed <= 1000 && !result.broken[0]; seed++) {
			struct sim_settings set = world_of(seed);

			set.crash = 0.003;
			set.plant = plant;
			run(&set, &result);
		}
		if (!result.broken[0])
			ck_abort_msg("nobody noticed mistake %d", (int)plant);
		printf("mistake %d: %s\n", (int)plant, result.broken);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("site");
	TCase *tcase = tcase_create("site");
	SRunner *runner;
	int failed;

	log_set_level(getenv("SAKIORI_SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR - 1);
	tcase_set_timeout(tcase, 0);
	tcase_add_test(tcase, sites_without_faults_reach_the_mean_of_their_targets);
	tcase_add_test(tcase, no_fault_moves_the_sum_loses_a_round_or_makes_anybody_wait);
	tcase_add_test(tcase, a_lost_connection_rarely_costs_a_deadline);
	tcase_add_test(tcase, the_same_seed_is_the_same_run);
	tcase_add_test(tcase, a_planted_mistake_is_caught);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
