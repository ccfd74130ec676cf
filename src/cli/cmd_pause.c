/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori pause | resume | drain */
#include <stdio.h>
#include <string.h>

#include "cli/admin_client.h"
#include "cli/cli.h"
#include "cli/human.h"

static int change(int argc, char **argv, const char *method)
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
	if (admin_client_ask(socket, method, NULL, &reply, &f) != 0)
		return cli_fail(&f);
	if (json)
		cli_print_json(json_incref(reply));
	else
		printf("%sstate now: %s\n", strcmp(method, "Resume") == 0 ? "" : "after the running round; ",
			human_text(reply, "state"));
	json_decref(reply);
	return EXIT_CODE_OK;
}

int cmd_pause(int argc, char **argv)
{
	return change(argc, argv, "Pause");
}

int cmd_resume(int argc, char **argv)
{
	return change(argc, argv, "Resume");
}

int cmd_drain(int argc, char **argv)
{
	return change(argc, argv, "Drain");
}
