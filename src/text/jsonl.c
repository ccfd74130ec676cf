/* SPDX-License-Identifier: Apache-2.0 */
#include "text/jsonl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/json.h"

int jsonl_open(struct jsonl *j, const char *path, size_t max_line, struct fault *f)
{
	*j = (struct jsonl){.name = path, .max_line = max_line};
	if (max_line == 0 || max_line > JSONL_MAX_LINE)
		j->max_line = JSONL_MAX_LINE;
	/* a FIFO must not block before it is refused */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return fault_errno(f, "cannot open %s", path);
	struct stat st;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return fault_set(f, SAKIORI_EINVAL, "%s: expected a regular file of JSON Lines", path);
	}
	j->total = (uint64_t)st.st_size;
	j->file = fdopen(fd, "r");
	if (j->file == NULL) {
		int rc = fault_errno(f, "cannot read %s", path);
		close(fd);
		return rc;
	}
	return 0;
}

int jsonl_open_memory(
	struct jsonl *j, const char *name, const void *data, size_t size, size_t max_line, struct fault *f)
{
	*j = (struct jsonl){.name = name, .max_line = max_line, .total = size};
	if (max_line == 0 || max_line > JSONL_MAX_LINE)
		j->max_line = JSONL_MAX_LINE;
	if (size == 0)
		return 0;
	/* opened for reading alone, so that the bytes stay what they are */
	j->file = fmemopen((void *)(uintptr_t)data, size, "r");
	return j->file != NULL ? 0 : fault_errno(f, "cannot read %s", name);
}

void jsonl_close(struct jsonl *j)
{
	if (j->file != NULL)
		fclose(j->file);
	free(j->line);
	*j = (struct jsonl){0};
}

static bool grow(struct jsonl *j)
{
	size_t capacity = j->capacity == 0 ? 4096 : 2 * j->capacity;
	char *line = realloc(j->line, capacity);
	if (line == NULL)
		return false;
	j->line = line;
	j->capacity = capacity;
	return true;
}

static int no_memory(const struct jsonl *j, struct fault *f)
{
	return fault_set(f, SAKIORI_ENOMEM, "%s:%zu: out of memory over a line", j->name, j->line_number + 1);
}

/* One line without its end: 1 with its size, 0 at the end of the file. */
static int read_line(struct jsonl *j, size_t *size, struct fault *f)
{
	size_t n = 0;
	int c = EOF;
	if (j->line == NULL && !grow(j))
		return no_memory(j, f);
	while (j->file != NULL && (c = getc_unlocked(j->file)) != EOF && c != '\n') {
		if (n == j->max_line)
			return fault_set(f, SAKIORI_ELIMIT,
				"%s:%zu: expected at most %zu bytes a line, found more; split the row", j->name,
				j->line_number + 1, j->max_line);
		if (n == j->capacity && !grow(j))
			return no_memory(j, f);
		j->line[n++] = (char)c;
	}
	if (c == EOF && j->file != NULL && ferror(j->file))
		return fault_errno(f, "%s:%zu: cannot read on", j->name, j->line_number + 1);
	if (c == EOF && n == 0)
		return 0;
	j->line_number++;
	j->done += n + (c == '\n');
	*size = n;
	return 1;
}

static bool is_blank(const char *line, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
			return false;
	return true;
}

/* jansson ends its sentences with "near" and a piece of the row, which must not get into a log. */
static void forget_quote(struct fault *f, size_t prefix)
{
	char *quote = f != NULL && strlen(f->text) > prefix ? strstr(f->text + prefix, " near ") : NULL;
	if (quote != NULL)
		*quote = '\0';
}

int jsonl_next(struct jsonl *j, json_t **row, struct fault *f)
{
	static const char mark[] = "\xef\xbb\xbf"; /* a byte order mark, which some editors put first */
	size_t size = 0, at;
	*row = NULL;
	do {
		int rc = read_line(j, &size, f);
		if (rc <= 0)
			return rc;
		at = j->line_number == 1 && size >= 3 && memcmp(j->line, mark, 3) == 0 ? 3 : 0;
	} while (is_blank(j->line + at, size - at));
	int rc = json_parse(j->name, j->line_number, j->line + at, size - at, row, f);
	if (rc != 0) {
		forget_quote(f, strlen(j->name));
		return rc;
	}
	if (!json_is_object(*row)) {
		rc = fault_set(f, SAKIORI_EFORMAT, "%s:%zu: expected an object, found %s", j->name, j->line_number,
			json_kind(*row));
		json_decref(*row);
		*row = NULL;
		return rc;
	}
	return 1;
}
