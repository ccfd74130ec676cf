/* SPDX-License-Identifier: Apache-2.0 */
/* sakiorid: the options, and the one thing that must happen before anything else. */
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "daemon/daemon.h"

static const char usage[] =
	"usage: sakiorid -c FILE [--check-config]\n"
	"       sakiorid --version\n"
	"\n"
	"  -c, --config FILE   the configuration (`sakiori init` writes one)\n"
	"      --check-config  check it and what it names, then stop; exit code 6 when it is not valid\n"
	"      --version       print the version\n";

/* Threads of OpenMP that wait actively would take the cores of the loop and of other daemons on this machine. The OpenMP library
 * reads this while it is loaded, before main, so the program starts itself again with it set. */
static void wait_passively(char **argv)
{
	char self[PATH_MAX];
	if (getenv("OMP_WAIT_POLICY") != NULL)
		return;
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n <= 0 || setenv("OMP_WAIT_POLICY", "passive", 1) != 0)
		return;
	self[n] = '\0';
	execv(self, argv); /* only returns where it failed, and then waiting actively is merely slower */
}

int main(int argc, char **argv)
{
	enum { OPTION_CHECK = 256, OPTION_VERSION };
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
		{"check-config", no_argument, NULL, OPTION_CHECK}, {"version", no_argument, NULL, OPTION_VERSION},
		{"help", no_argument, NULL, 'h'}, {0}};
	const char *config = NULL;
	int check = 0;
	for (int c; (c = getopt_long(argc, argv, "c:h", options, NULL)) != -1;) {
		switch (c) {
		case 'c':
			config = optarg;
			break;
		case OPTION_CHECK:
			check = 1;
			break;
		case OPTION_VERSION:
			puts("sakiorid " PACKAGE_VERSION);
			return EXIT_CODE_OK;
		case 'h':
			fputs(usage, stdout);
			return EXIT_CODE_OK;
		default:
			fputs(usage, stderr);
			return EXIT_CODE_USAGE;
		}
	}
	if (config == NULL || optind != argc) {
		fputs(usage, stderr);
		return EXIT_CODE_USAGE;
	}
	if (check)
		return daemon_check(config);
	wait_passively(argv);
	umask(0077);
	return daemon_run(config);
}
