/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori peers */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/admin_client.h"
#include "cli/cli.h"
#include "cli/human.h"

static void print_peers(const json_t *peers)
{
	int width = 4;
	size_t i;
	const json_t *peer;
	json_array_foreach(peers, i, peer)
	{
		int n = (int)strlen(human_text(peer, "name"));
		width = n > width ? n : width;
	}
	printf("%-*s  %-8s  %-11s %6s %6s  %9s  %9s  %9s  %s\n", width, "NAME", "ID", "STATE", "ROUND", "STALE", "RTT",
		"SENT", "RECEIVED", "LAST SEEN");
	json_array_foreach(peers, i, peer)
	{
		char rtt[HUMAN_SIZE] = "-", seen[HUMAN_SIZE] = "never", sent[HUMAN_SIZE], received[HUMAN_SIZE];
		if (json_is_number(json_object_get(peer, "rtt_seconds")))
			human_seconds(json_number_value(json_object_get(peer, "rtt_seconds")), rtt);
		if (json_is_number(json_object_get(peer, "last_seen")))
			human_seconds((double)time(NULL) - json_number_value(json_object_get(peer, "last_seen")), seen);
		printf("%-*s  %-8s  %-11s %6lld %6lld  %9s  %9s  %9s  %s%s\n", width, human_text(peer, "name"),
			human_text(peer, "id"), human_text(peer, "state"), human_integer(peer, "round"),
			human_integer(peer, "staleness_rounds"), rtt,
			human_bytes((double)human_integer(peer, "bytes_sent"), sent),
			human_bytes((double)human_integer(peer, "bytes_received"), received), seen,
			strcmp(seen, "never") == 0 ? "" : " ago");
	}
	json_array_foreach(peers, i, peer)
	{
		if (human_text(peer, "trouble")[0] != '\0')
			printf("\n%s: %s\n", human_text(peer, "name"), human_text(peer, "trouble"));
		if (human_text(peer, "cure")[0] != '\0')
			printf("  what to do: %s\n", human_text(peer, "cure"));
	}
	if (json_array_size(peers) == 0)
		puts("no peers are configured: this site trains alone");
}

int cmd_peers(int argc, char **argv)
{
	const char *socket = NULL;
	bool json = false;
	const struct cli_option options[] = {{"socket", CLI_TEXT, &socket, "PATH", "the daemon's admin socket"},
		{"json", CLI_FLAG, &json, NULL, "one JSON object a line"}, {0}};
	int code = cli_parse(argc, argv, "[--socket PATH] [--json]", options, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	struct fault f;
	json_t *reply;
	if (admin_client_ask(socket, "Peers", NULL, &reply, &f) != 0)
		return cli_fail(&f);
	const json_t *peers = json_object_get(reply, "peers");
	size_t i;
	json_t *peer;
	if (!json)
		print_peers(peers);
	else
		json_array_foreach(peers, i, peer) cli_print_json(json_incref(peer));
	json_decref(reply);
	return EXIT_CODE_OK;
}
