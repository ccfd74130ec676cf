/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori rounds */
#include <stdio.h>

#include "cli/admin_client.h"
#include "cli/cli.h"
#include "cli/human.h"

static void print_heading(void)
{
	printf("%6s  %8s  %9s  %9s  %8s  %8s  %8s  %5s  %9s  %9s  %10s\n", "ROUND", "LOSS", "EVAL", "BEFORE",
		"ACCURACY", "TRAIN S", "WAIT S", "FRESH", "SENT", "RECEIVED", "DISTANCE");
}

static void print_round(const json_t *r)
{
	char loss[HUMAN_SIZE], eval[HUMAN_SIZE], before[HUMAN_SIZE], accuracy[HUMAN_SIZE], train[HUMAN_SIZE],
		wait[HUMAN_SIZE];
	static bool headed;
	if (!headed)
		print_heading();
	headed = true;
	char sent[HUMAN_SIZE], received[HUMAN_SIZE], distance[HUMAN_SIZE];
	printf("%6lld  %8s  %9s  %9s  %8s  %8s  %8s  %5lld  %9s  %9s  %10s\n", human_integer(r, "round"),
		human_number(r, "loss", "%.4f", loss), human_number(r, "eval_loss", "%.4f", eval),
		human_number(r, "eval_loss_before", "%.4f", before), human_number(r, "accuracy", "%.3f", accuracy),
		human_number(r, "train_seconds", "%.1f", train), human_number(r, "gather_seconds", "%.1f", wait),
		human_integer(r, "neighbours_fresh"), human_bytes((double)human_integer(r, "bytes_sent"), sent),
		human_bytes((double)human_integer(r, "bytes_received"), received),
		human_number(r, "consensus_distance", "%.4g", distance));
	fflush(stdout);
}

int cmd_rounds(int argc, char **argv)
{
	const char *socket = NULL;
	bool json = false, more = false;
	uint64_t count = 20;
	const struct cli_option options[] = {{"follow", CLI_FLAG, &more, NULL, "go on with each further round"},
		{"count", CLI_COUNT, &count, "N", "how many of the last rounds (20, at most 1000)"},
		{"socket", CLI_TEXT, &socket, "PATH", "the daemon's admin socket"},
		{"json", CLI_FLAG, &json, NULL, "one JSON object a line"}, {0}};
	int code = cli_parse(argc, argv, "[--follow] [--count N] [--socket PATH] [--json]", options, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (count > 1000)
		return cli_usage("rounds", "--count: at most 1000 rounds are kept in memory");
	struct fault f;
	int rc = admin_client_list(socket, "Rounds", "rounds", count, more, json ? NULL : print_round, &f);
	return rc == 0 ? EXIT_CODE_OK : cli_fail(&f);
}
