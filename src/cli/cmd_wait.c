/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori wait */
#include <stdio.h>

#include "cli/admin_client.h"
#include "cli/cli.h"
#include "cli/human.h"

int cmd_wait(int argc, char **argv)
{
	const char *socket = NULL;
	bool json = false;
	uint64_t round = 0, peers = 0;
	double timeout = 60;
	const struct cli_option options[] = {{"round", CLI_COUNT, &round, "N", "until round N is committed"},
		{"peers", CLI_COUNT, &peers, "N", "until N peers are up"},
		{"timeout", CLI_SECONDS, &timeout, "T", "give up after this long (60s), with exit code 5"},
		{"socket", CLI_TEXT, &socket, "PATH", "the daemon's admin socket"},
		{"json", CLI_FLAG, &json, NULL, "one JSON object"}, {0}};
	int code = cli_parse(
		argc, argv, "[--round N] [--peers N] [--timeout T] [--socket PATH] [--json]", options, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (round == 0 && peers == 0)
		return cli_usage("wait", "say what to wait for: --round N, --peers N or both");
	if (timeout > 7 * 86400.0 || peers > 256 || round > INT64_MAX)
		return cli_usage("wait", "at most 7 days, 256 peers and 2^63 rounds can be waited for");
	int timeout_ms = (int)(timeout * 1000);
	struct fault f;
	struct admin_client *c;
	json_t *reply = NULL;
	int rc = admin_client_open(&c, socket, &f);
	if (rc == 0)
		rc = admin_client_call(c, "Wait",
			json_pack("{s:I, s:I, s:i}", "round", (json_int_t)round, "peers", (json_int_t)peers,
				"timeout_ms", timeout_ms),
			false, &f);
	if (rc == 0)
		rc = admin_client_reply(c, timeout_ms + 10000, &reply, NULL, &f);
	admin_client_close(c);
	if (rc != 0)
		return cli_fail(&f);
	bool reached = json_is_true(json_object_get(reply, "reached"));
	long long round_now = human_integer(reply, "round"), peers_now = human_integer(reply, "peers_up");
	if (json)
		cli_print_json(json_incref(reply));
	else if (reached)
		printf("reached: round %lld, %lld peers up\n", round_now, peers_now);
	else
		fprintf(stderr,
			"sakiori: not reached: round %lld, %lld peers up; see `sakiori status` and `sakiori peers`\n",
			round_now, peers_now);
	json_decref(reply);
	return reached ? EXIT_CODE_OK : EXIT_CODE_NOT_REACHED;
}
