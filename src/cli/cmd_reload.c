/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori reload */
#include <stdio.h>

#include "cli/admin_client.h"
#include "cli/cli.h"

static void print_list(const json_t *list, const char *heading)
{
	size_t i;
	const json_t *item;
	json_array_foreach(list, i, item) printf("%s %s\n", heading, json_string_value(item));
}

int cmd_reload(int argc, char **argv)
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
	if (admin_client_ask(socket, "Reload", NULL, &reply, &f) != 0)
		return cli_fail(&f);
	const json_t *applied = json_object_get(reply, "applied"), *later = json_object_get(reply, "needs_restart");
	if (json) {
		cli_print_json(json_incref(reply));
	} else {
		print_list(applied, "applied      ");
		print_list(later, "needs restart");
		if (json_array_size(applied) + json_array_size(later) == 0)
			puts("nothing changed");
	}
	json_decref(reply);
	return EXIT_CODE_OK;
}
