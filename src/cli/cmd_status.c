/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori status */
#include <stdio.h>

#include "cli/admin_client.h"
#include "cli/cli.h"
#include "cli/human.h"

static void print_last(const json_t *last)
{
	char a[HUMAN_SIZE], b[HUMAN_SIZE], c[HUMAN_SIZE];
	printf("last round   loss %s, evaluation %s (%s before mixing)", human_number(last, "loss", "%.4f", a),
		human_number(last, "eval_loss", "%.4f", b), human_number(last, "eval_loss_before", "%.4f", c));
	if (json_is_number(json_object_get(last, "accuracy")))
		printf(", accuracy %s", human_number(last, "accuracy", "%.3f", a));
	printf("\n             mixed with %lld neighbours; trained %s s, waited %s s; distance to them %s\n",
		human_integer(last, "neighbours_fresh"), human_number(last, "train_seconds", "%.1f", a),
		human_number(last, "gather_seconds", "%.1f", b), human_number(last, "consensus_distance", "%.4g", c));
}

static void print_status(const json_t *status)
{
	char a[HUMAN_SIZE], b[HUMAN_SIZE];
	printf("site         %s (%s), sakiorid %s, up %s\n", human_text(status, "site"), human_text(status, "id"),
		human_text(status, "version"),
		human_seconds(json_number_value(json_object_get(status, "uptime_seconds")), a));
	printf("run          %s: round %lld of %lld, %s\n", human_text(status, "run"), human_integer(status, "round"),
		human_integer(status, "rounds"), human_text(status, "state"));
	printf("model        %s on %s, %lld threads\n", human_text(status, "model"), human_text(status, "device"),
		human_integer(status, "threads"));
	printf("trained      %lld steps, %lld tokens since the start, %s tokens/s\n", human_integer(status, "step"),
		human_integer(status, "tokens"), human_number(status, "tokens_per_second", "%.0f", a));
	printf("peers        %lld of %lld up; %s sent, %s received\n", human_integer(status, "peers_up"),
		human_integer(status, "peers"), human_bytes((double)human_integer(status, "bytes_sent"), a),
		human_bytes((double)human_integer(status, "bytes_received"), b));
	if (json_is_object(json_object_get(status, "last")))
		print_last(json_object_get(status, "last"));
	if (human_text(status, "adapter")[0] != '\0')
		printf("adapter      %s\n", human_text(status, "adapter"));
	if (human_text(status, "trouble")[0] != '\0')
		printf("trouble      %s\n", human_text(status, "trouble"));
}

int cmd_status(int argc, char **argv)
{
	const char *socket = NULL;
	bool json = false;
	const struct cli_option options[] = {{"socket", CLI_TEXT, &socket, "PATH", "the daemon's admin socket"},
		{"json", CLI_FLAG, &json, NULL, "one JSON object"}, {0}};
	int code = cli_parse(argc, argv, "[--socket PATH] [--json]", options, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	struct fault f;
	json_t *reply;
	if (admin_client_ask(socket, "Status", NULL, &reply, &f) != 0)
		return cli_fail(&f);
	json_t *status = json_object_get(reply, "status");
	if (json)
		cli_print_json(json_incref(status));
	else
		print_status(status);
	json_decref(reply);
	return EXIT_CODE_OK;
}
