/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori log */
#include <stdio.h>
#include <time.h>

#include "cli/admin_client.h"
#include "cli/cli.h"
#include "cli/human.h"

static void print_line(const json_t *line)
{
	time_t second = (time_t)json_number_value(json_object_get(line, "time"));
	struct tm local;
	char stamp[32] = "";
	if (localtime_r(&second, &local) != NULL)
		strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &local);
	printf("%s %-5s %s\n", stamp, human_text(line, "level"), human_text(line, "text"));
	fflush(stdout);
}

int cmd_log(int argc, char **argv)
{
	const char *socket = NULL;
	bool json = false, more = false;
	uint64_t count = 20;
	const struct cli_option options[] = {{"follow", CLI_FLAG, &more, NULL, "go on with each further line"},
		{"count", CLI_COUNT, &count, "N", "how many of the last lines (20, at most 1000)"},
		{"socket", CLI_TEXT, &socket, "PATH", "the daemon's admin socket"},
		{"json", CLI_FLAG, &json, NULL, "one JSON object a line"}, {0}};
	int code = cli_parse(argc, argv, "[--follow] [--count N] [--socket PATH] [--json]", options, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (count > 1000)
		return cli_usage("log", "--count: at most 1000 lines are kept; older ones are in the journal");
	struct fault f;
	int rc = admin_client_list(socket, "Log", "lines", count, more, json ? NULL : print_line, &f);
	return rc == 0 ? EXIT_CODE_OK : cli_fail(&f);
}
