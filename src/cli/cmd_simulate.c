/* SPDX-License-Identifier: Apache-2.0 */
/* `sakiori simulate`: sites that train together in virtual time, over links that break. Nothing it prints depends on the clock of the
 * machine: the same options give the same output. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/log.h"
#include "cli/cli.h"
#include "sim/sim.h"

/* What the sites reported of one round, added up. */
struct round_sum {
	uint64_t sites;
	double loss, consensus, waited;
	uint64_t words, bytes;
};

struct simulate {
	struct sim_settings settings;
	bool json;
	struct round_sum *rounds; /* (settings.rounds,) */
};

static void print_round(const struct simulate *c, uint64_t round, const struct round_sum *sum)
{
	double n = (double)sum->sites;

	if (c->json)
		cli_print_json(
			json_pack("{s:s, s:I, s:f, s:f, s:f, s:I, s:I}", "event", "round", "round", (json_int_t)round,
				"loss", sum->loss / n, "consensus_distance", sum->consensus / n, "gather_seconds",
				sum->waited / n, "words", (json_int_t)sum->words, "bytes", (json_int_t)sum->bytes));
	else
		printf("%6" PRIu64 "  %9.5f  %9.4f  %8.3f  %5" PRIu64 "  %10" PRIu64 "\n", round, sum->loss / n,
			sum->consensus / n, sum->waited / n, sum->words, sum->bytes);
}

/* The line of a round is printed when the last site has done it. */
static void on_round(void *self, size_t site, const struct site_record *record)
{
	struct simulate *c = self;
	struct round_sum *sum = &c->rounds[record->round - 1];

	(void)site;
	if (sum->sites == c->settings.sites)
		return; /* done before a crash, and once more after it, from where it was durable */
	sum->sites++;
	sum->loss += isfinite(record->loss) ? record->loss : 0;
	sum->consensus += isfinite(record->consensus_distance) ? record->consensus_distance : 0;
	sum->waited += record->gather_seconds;
	sum->words += record->words;
	sum->bytes += record->bytes_sent;
	if (sum->sites == c->settings.sites)
		print_round(c, record->round, sum);
}

static int print_result(const struct simulate *c, const struct sim_result *r)
{
	const struct sim_settings *s = &c->settings;
	bool ok = !r->broken[0];

	if (c->json) {
		cli_print_json(json_pack(
			"{s:s, s:b, s:s, s:I, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I}",
			"event", "end", "ok", ok, "broken", r->broken, "sites", (json_int_t)s->sites, "topology",
			s->topology, "rounds", (json_int_t)s->rounds, "virtual_seconds", (double)r->virtual_ms / 1000,
			"distance", r->distance, "alone_distance", r->alone_distance, "mean_error", r->mean_error,
			"sum_error", r->worst_sum, "words", (json_int_t)r->words, "bytes", (json_int_t)r->bytes,
			"connections", (json_int_t)r->connections, "broken_connections", (json_int_t)r->breaks,
			"crashes", (json_int_t)r->crashes, "freezes", (json_int_t)r->freezes));
	} else if (ok) {
		printf("\n%zu sites (%s), %" PRIu64 " rounds in %.1f virtual seconds; %" PRIu64 " words, %" PRIu64
		       " bytes, %" PRIu64 " broken connections, %" PRIu64 " crashes, %" PRIu64 " freezes\n"
		       "distance between the sites %.4f (each alone %.4f), from the common optimum %.4f; sum of all "
		       "models kept within "
		       "%.1e\n",
			s->sites, s->topology, s->rounds, (double)r->virtual_ms / 1000, r->words, r->bytes, r->breaks,
			r->crashes, r->freezes, r->distance, r->alone_distance, r->mean_error, r->worst_sum);
	}
	if (!ok)
		fprintf(stderr, "sakiori simulate: a promise was broken: %s; the same options show it again\n",
			r->broken);
	return ok ? EXIT_CODE_OK : EXIT_CODE_FAILURE;
}

int cmd_simulate(int argc, char **argv)
{
	struct simulate c = {0};
	struct sim_settings *s = &c.settings;
	struct sim_result result;
	struct fault f = {0};
	uint64_t sites, size, steps;
	double gamma = 1, latency, deadline;
	bool toy = false;
	int words, code, rc;

	sim_settings_default(s);
	sites = s->sites;
	size = s->size;
	steps = s->local_steps;
	latency = (double)s->latency_ms / 1000;
	deadline = (double)s->deadline_ms / 1000;
	const struct cli_option options[] = {
		{"toy", CLI_FLAG, &toy, NULL, "a quadratic instead of a model (the only kind so far, and the default)"},
		{"sites", CLI_COUNT, &sites, "N", "how many sites (3)"},
		{"topology", CLI_TEXT, &s->topology, "T", "ring, line, full, or edges such as 0-1,1-2 (ring)"},
		{"rounds", CLI_COUNT, &s->rounds, "N", "rounds (20)"},
		{"steps", CLI_COUNT, &steps, "N", "local steps a round (10)"},
		{"parameters", CLI_COUNT, &size, "N", "size of the shared vector (512)"},
		{"gamma", CLI_NUMBER, &gamma, "X", "step of the mixing, above 0 and at most 1 (1)"},
		{"loss", CLI_NUMBER, &s->loss, "P", "probability that a frame is lost, and its connection with it (0)"},
		{"crash", CLI_NUMBER, &s->crash, "P", "probability that a site dies at one of its effects (0)"},
		{"freeze", CLI_NUMBER, &s->freeze, "P",
			"probability that a site or a link stands still for a while (0)"},
		{"latency", CLI_SECONDS, &latency, "TIME", "one way (20ms)"},
		{"bandwidth", CLI_BYTES, &s->bytes_per_second, "SIZE", "bytes a second of a link (1250kB)"},
		{"deadline", CLI_SECONDS, &deadline, "TIME", "the longest a round waits for neighbours (30s)"},
		{"seed", CLI_COUNT, &s->seed, "N", "of everything that is random (1)"},
		{"json", CLI_FLAG, &c.json, NULL, "one JSON object a line"},
		{0},
	};
	code = cli_parse(argc, argv, "[OPTION]...", options, 0, &words);
	if (code != CLI_CONTINUE)
		return code;
	if (s->rounds > 1000000 || size > 1000000 || steps > 1000000 || sites > SIM_SITES_MAX)
		return cli_usage(
			"simulate", "at most %d sites and a million rounds, steps and parameters", SIM_SITES_MAX);
	s->sites = (size_t)sites;
	s->size = (size_t)size;
	s->local_steps = (uint32_t)steps;
	s->gamma = (float)gamma;
	s->latency_ms = (uint64_t)(latency * 1000);
	s->deadline_ms = (uint64_t)(deadline * 1000);
	s->on_round = on_round;
	s->self = &c;
	c.rounds = must_calloc(s->rounds + 1, sizeof(*c.rounds));
	log_set_level(LOG_LEVEL_ERROR);
	if (!c.json)
		printf("%6s  %9s  %9s  %8s  %5s  %10s\n", "round", "loss", "distance", "waited", "words", "bytes");
	rc = sim_run(s, &result, &f);
	code = rc ? cli_fail(&f) : print_result(&c, &result);
	free(c.rounds);
	return code;
}
