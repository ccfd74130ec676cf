/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over its stored corpus, so that `make check` replays it without libFuzzer: every file of
 * $CORPUS/NAME, where NAME is this program's name after "fuzz_". Fails when there is none. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_LIMIT = 16 << 20 };

static int replay(const char *directory, const char *name)
{
	char path[4096];
	if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
		return -1;
	uint8_t *data;
	size_t size;
	struct fault f = {0};
	if (file_read(path, INPUT_LIMIT, &data, &size, &f) != 0) {
		fprintf(stderr, "%s\n", f.text);
		return -1;
	}
	/* an exact allocation, so that the address sanitizer sees one byte too many; file_read's has a NUL after it */
	uint8_t *exact = malloc(size > 0 ? size : 1);
	if (exact == NULL)
		abort();
	memcpy(exact, data, size);
	free(data);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	return 0;
}

int main(int argc, char **argv)
{
	const char *corpus = getenv("CORPUS");
	const char *target = argc > 0 ? strstr(argv[0], "fuzz_") : NULL;
	for (const char *next = target; next != NULL; next = strstr(next + 1, "fuzz_"))
		target = next;
	if (corpus == NULL || target == NULL) {
		fprintf(stderr,
			"CORPUS must name the folder of all corpora, and this program must be called fuzz_NAME\n");
		return EXIT_FAILURE;
	}
	char directory[4096];
	snprintf(directory, sizeof directory, "%s/%s", corpus, target + strlen("fuzz_"));
	DIR *d = opendir(directory);
	if (d == NULL) {
		fprintf(stderr, "%s: %s\n", directory, strerror(errno));
		return EXIT_FAILURE;
	}
	size_t done = 0;
	int failed = 0;
	for (const struct dirent *e; (e = readdir(d)) != NULL;) {
		if (e->d_name[0] == '.')
			continue;
		failed |= replay(directory, e->d_name);
		done++;
	}
	closedir(d);
	printf("%zu inputs\n", done);
	if (done == 0)
		fprintf(stderr, "%s: no inputs\n", directory);
	return failed != 0 || done == 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
