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

static int follow(struct admin_client *c, bool json, struct fault *f)
{
	bool continues = true;
	if (!json)
		print_heading();
	while (continues) {
		json_t *reply, *round;
		size_t i;
		int rc = admin_client_reply(c, -1, &reply, &continues, f);
		if (rc != 0)
			return rc;
		json_array_foreach(json_object_get(reply, "rounds"), i, round)
		{
			if (json)
				cli_print_json(json_incref(round));
			else
				print_round(round);
		}
		json_decref(reply);
	}
	return 0;
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
	struct admin_client *c;
	int rc = admin_client_open(&c, socket, &f);
	if (rc == 0)
		rc = admin_client_call(c, "Rounds", json_pack("{s:I}", "count", (json_int_t)count), more, &f);
	if (rc == 0)
		rc = follow(c, json, &f);
	admin_client_close(c);
	return rc == 0 ? EXIT_CODE_OK : cli_fail(&f);
}
