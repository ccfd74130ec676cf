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

enum { READ_AT_ONCE = 64 << 10 };

static size_t line_limit(size_t max_line)
{
	return max_line == 0 || max_line > JSONL_MAX_LINE ? JSONL_MAX_LINE : max_line;
}

int jsonl_open(struct jsonl *j, const char *path, size_t max_line, struct fault *f)
{
	*j = (struct jsonl){.name = path, .fd = -1, .max_line = line_limit(max_line)};
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
	j->fd = fd;
	return 0;
}

int jsonl_open_memory(
	struct jsonl *j, const char *name, const void *data, size_t size, size_t max_line, struct fault *f)
{
	(void)f;
	*j = (struct jsonl){.name = name,
		.fd = -1,
		.memory = data,
		.memory_size = size,
		.max_line = line_limit(max_line),
		.total = size};
	return 0;
}

void jsonl_block_fini(struct jsonl_block *b)
{
	free(b->data);
	*b = (struct jsonl_block){0};
}

void jsonl_close(struct jsonl *j)
{
	if (j->fd >= 0)
		close(j->fd);
	free(j->rest);
	jsonl_block_fini(&j->block);
	*j = (struct jsonl){.fd = -1};
}

static int no_memory(const struct jsonl *j, struct fault *f)
{
	return fault_set(f, SAKIORI_ENOMEM, "%s:%zu: out of memory over a line", j->name, j->lines + 1);
}

/* Up to `bytes` more at the block's end: how many, 0 at the end of the file. */
static ssize_t read_more(struct jsonl *j, struct jsonl_block *b, size_t bytes, struct fault *f)
{
	if (b->capacity - b->size < bytes) {
		char *data = realloc(b->data, b->size + bytes);
		if (data == NULL)
			return no_memory(j, f);
		b->data = data;
		b->capacity = b->size + bytes;
	}
	ssize_t n;
	if (j->fd >= 0) {
		do
			n = read(j->fd, b->data + b->size, bytes);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return fault_errno(f, "%s:%zu: cannot read on", j->name, j->lines + 1);
	} else {
		n = (ssize_t)(bytes < j->memory_size ? bytes : j->memory_size);
		if (n > 0)
			memcpy(b->data + b->size, j->memory, (size_t)n);
		j->memory += n;
		j->memory_size -= (size_t)n;
	}
	if (j->hash != NULL && n > 0)
		hash_update(j->hash, b->data + b->size, (size_t)n);
	b->size += (size_t)n;
	return n;
}

/* Takes what follows the block's last line end off it, for the next block. */
static int keep_rest(struct jsonl *j, struct jsonl_block *b, size_t end, struct fault *f)
{
	size_t n = b->size - end;
	char *rest = realloc(j->rest, n + 1);
	if (rest == NULL)
		return no_memory(j, f);
	memcpy(rest, b->data + end, n);
	j->rest = rest;
	j->rest_size = n;
	b->size = end;
	return 0;
}

static size_t count_lines(const char *p, size_t size)
{
	size_t lines = 0;
	for (const char *end = p + size; p < end; lines++) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		p = newline != NULL ? newline + 1 : end;
	}
	return lines;
}

int jsonl_read(struct jsonl *j, struct jsonl_block *b, size_t bytes, struct fault *f)
{
	b->size = b->at = 0;
	b->line_number = j->lines;
	b->skip_mark = j->lines == 0;
	if (b->capacity < j->rest_size + bytes) {
		free(b->data);
		b->data = malloc(j->rest_size + bytes);
		b->capacity = b->data != NULL ? j->rest_size + bytes : 0;
		if (b->data == NULL)
			return no_memory(j, f);
	}
	if (j->rest_size > 0)
		memcpy(b->data, j->rest, j->rest_size);
	b->size = j->rest_size;
	j->rest_size = 0;
	for (;;) {
		size_t before = b->size;
		ssize_t n = read_more(j, b, bytes, f);
		if (n < 0)
			return (int)n;
		const char *newline = n > 0 ? memrchr(b->data + before, '\n', (size_t)n) : NULL;
		if (newline != NULL) {
			int rc = keep_rest(j, b, (size_t)(newline - b->data) + 1, f);
			if (rc != 0)
				return rc;
		}
		if (newline != NULL || n == 0 || b->size > j->max_line + 1)
			break;
	}
	j->lines += count_lines(b->data, b->size);
	j->done += b->size;
	return b->size > 0;
}

static bool is_blank(const char *line, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
			return false;
	return true;
}

int jsonl_line(const struct jsonl *j, struct jsonl_block *b, struct text_span *line, struct fault *f)
{
	static const char mark[] = "\xef\xbb\xbf"; /* a byte order mark, which some editors put first */
	while (b->at < b->size) {
		const char *begin = b->data + b->at;
		const char *newline = memchr(begin, '\n', b->size - b->at);
		size_t size = newline != NULL ? (size_t)(newline - begin) : b->size - b->at;
		b->at += size + (newline != NULL);
		b->line_number++;
		if (size > j->max_line)
			return fault_set(f, SAKIORI_ELIMIT,
				"%s:%zu: expected at most %zu bytes a line, found more; split the row", j->name,
				b->line_number, j->max_line);
		size_t at = b->skip_mark && size >= 3 && memcmp(begin, mark, 3) == 0 ? 3 : 0;
		b->skip_mark = false;
		*line = (struct text_span){begin + at, size - at};
		if (!is_blank(line->data, line->size))
			return 1;
	}
	return 0;
}

/* jansson ends its sentences with "near" and a piece of the row, which must not get into a log. */
static void forget_quote(struct fault *f, size_t prefix)
{
	char *quote = f != NULL && strlen(f->text) > prefix ? strstr(f->text + prefix, " near ") : NULL;
	if (quote != NULL)
		*quote = '\0';
}

int jsonl_parse(const struct jsonl *j, size_t number, struct text_span line, json_t **row, struct fault *f)
{
	int rc = json_parse(j->name, number, line.data, line.size, row, f);
	if (rc != 0) {
		forget_quote(f, strlen(j->name));
		return rc;
	}
	if (json_is_object(*row))
		return 0;
	rc = fault_set(f, SAKIORI_EFORMAT, "%s:%zu: expected an object, found %s", j->name, number, json_kind(*row));
	json_decref(*row);
	*row = NULL;
	return rc;
}

int jsonl_next(struct jsonl *j, json_t **row, struct fault *f)
{
	struct text_span line;
	int rc;
	*row = NULL;
	while ((rc = jsonl_line(j, &j->block, &line, f)) == 0)
		if ((rc = jsonl_read(j, &j->block, READ_AT_ONCE, f)) <= 0)
			return rc;
	if (rc < 0)
		return rc;
	j->line_number = j->block.line_number;
	rc = jsonl_parse(j, j->line_number, line, row, f);
	return rc != 0 ? rc : 1;
}
