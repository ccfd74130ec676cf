/* SPDX-License-Identifier: Apache-2.0 */
/* How fast one core encodes a text: bench_tokenizer MODEL FILE [SECONDS]. MODEL is a GGUF file or a folder with a
 * tokenizer.json. Prints, in time of the processor, how long the tokenizer took to load and the memory it left behind, then megabytes and tokens
 * a second over whole passes through the file. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "formats/gguf.h"
#include "text/tokenizer.h"

/* Seconds that this process has run, so that a busy machine does not count. */
static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long peak_kib(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_maxrss;
}

static int load(const char *model, struct tokenizer **out, struct fault *f)
{
	struct stat status;
	if (stat(model, &status) == 0 && S_ISDIR(status.st_mode))
		return tokenizer_from_folder(out, model, f);
	struct gguf *gguf;
	int rc = gguf_open(model, &gguf, f);
	if (rc == 0) {
		rc = tokenizer_from_gguf(out, gguf, f);
		gguf_close(gguf);
	}
	return rc;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: bench_tokenizer MODEL FILE [SECONDS]\n");
		return EXIT_FAILURE;
	}
	struct tokenizer *t;
	struct fault f = {0};
	uint8_t *text;
	size_t size;
	double begin = now();
	long before = peak_kib();
	int rc = load(argv[1], &t, &f);
	if (rc == 0) {
		printf("loaded in %.3f s, %.1f MiB at most\n", now() - begin, (double)(peak_kib() - before) / 1024);
		rc = file_read(argv[2], TOKENIZER_MAX_TEXT, &text, &size, &f);
	}
	if (rc != 0) {
		fprintf(stderr, "%s\n", f.text);
		return EXIT_FAILURE;
	}
	double limit = argc > 3 ? atof(argv[3]) : 5;
	struct tokenizer_scratch *s = tokenizer_scratch_new(t);
	struct token_list list = {0};
	size_t passes = 0;
	for (begin = now(); rc == 0 && (passes == 0 || now() - begin < limit); passes++) {
		list.count = 0;
		rc = tokenizer_encode(t, s, (const char *)text, size, 0, &list, &f);
	}
	double seconds = now() - begin;
	if (rc == 0)
		printf("%zu bytes, %zu tokens: %.1f MB/s, %.2f million tokens/s\n", size, list.count,
			(double)size * (double)passes / seconds / 1e6,
			(double)list.count * (double)passes / seconds / 1e6);
	else
		fprintf(stderr, "%s\n", f.text);
	token_list_fini(&list);
	tokenizer_scratch_free(s);
	tokenizer_free(t);
	free(text);
	return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
