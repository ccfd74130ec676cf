/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

const struct cli_command cli_daemon_commands[] = {CLI_DAEMON_COMMANDS(CLI_TABLE_ENTRY){0}};
