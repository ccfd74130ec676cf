/* SPDX-License-Identifier: Apache-2.0 */
/* The command `sakiori`: finds the subcommand in the tables and runs it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static const struct cli_command core_commands[] = {CLI_CORE_COMMANDS(CLI_TABLE_ENTRY){0}};

static const struct cli_command *command_at(size_t i)
{
	size_t core = sizeof core_commands / sizeof core_commands[0] - 1;
	return i < core ? &core_commands[i] : &cli_daemon_commands[i - core];
}

static const char *next_command(const void *unused, size_t i)
{
	(void)unused;
	return command_at(i)->name;
}

static void print_usage(FILE *to)
{
	fputs("usage: sakiori COMMAND [OPTION]...\n\n", to);
	for (size_t i = 0; command_at(i)->name != NULL; i++)
		fprintf(to, "  %-12s %s\n", command_at(i)->name, command_at(i)->help);
	fputs("\n`sakiori COMMAND --help` says more; `sakiori --version` prints the version.\n", to);
}

static int run(int argc, char **argv)
{
	if (argc < 2) {
		print_usage(stderr);
		return EXIT_CODE_USAGE;
	}
	const char *word = argv[1];
	if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
		print_usage(stdout);
		return EXIT_CODE_OK;
	}
	if (strcmp(word, "--version") == 0) {
		puts(PACKAGE_STRING);
		return EXIT_CODE_OK;
	}
	for (size_t i = 0; command_at(i)->name != NULL; i++)
		if (strcmp(word, command_at(i)->name) == 0)
			return command_at(i)->run(argc - 1, argv + 1);
	const char *near = cli_nearest(word, next_command, NULL);
	if (near != NULL)
		fprintf(stderr, "sakiori: unknown command '%.60s'; the nearest known one is '%s'\n", word, near);
	else
		fprintf(stderr, "sakiori: unknown command '%.60s'; `sakiori --help` lists all\n", word);
	return EXIT_CODE_USAGE;
}

int main(int argc, char **argv)
{
	setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0); /* cuda:N and nvidia-smi's N are one GPU */
	int code = run(argc, argv);
	cli_progress_end();
	/* a full disk or a closed pipe must not pass for success */
	if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_CODE_OK) {
		fprintf(stderr, "sakiori: could not write the output: %s\n", strerror(errno));
		return EXIT_CODE_FAILURE;
	}
	return code;
}
