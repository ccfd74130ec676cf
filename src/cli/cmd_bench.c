/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori bench: how fast this machine trains, and where a step's time goes. */
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/cli.h"

static const struct cli_command benches[] = {
	{"train", bench_train, "train on random rows: tokens a second, memory, share of the machine's own rate"},
	{"ops", bench_ops, "the operations of a training step one by one"},
	{"variants", bench_variants, "a layer's linears in the orders that each --variants takes, over ranks"},
	{0},
};

static const char *next_bench(const void *unused, size_t i)
{
	(void)unused;
	return benches[i].name;
}

int cmd_bench(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		FILE *to = argc < 2 ? stderr : stdout;
		fputs("usage: sakiori bench BENCH [OPTION]...\n\n", to);
		for (const struct cli_command *b = benches; b->name != NULL; b++)
			fprintf(to, "  %-8s %s\n", b->name, b->help);
		fputs("\n`sakiori bench BENCH --help` says more.\n", to);
		return argc < 2 ? EXIT_CODE_USAGE : EXIT_CODE_OK;
	}
	for (const struct cli_command *b = benches; b->name != NULL; b++)
		if (strcmp(argv[1], b->name) == 0) {
			char name[32]; /* what its messages call it */
			snprintf(name, sizeof name, "bench %s", b->name);
			argv[1] = name;
			return b->run(argc - 1, argv + 1);
		}
	const char *near = cli_nearest(argv[1], next_bench, NULL);
	return cli_usage("bench", "unknown bench '%.60s'; %s%s", argv[1],
		near != NULL ? "the nearest known one is " : "there are train, ops and variants",
		near != NULL ? near : "");
}
