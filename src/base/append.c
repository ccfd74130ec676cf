/* SPDX-License-Identifier: Apache-2.0 */
#include "base/append.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/file.h"

/* Bytes before a mark by which a file is known again. */
enum { TAIL = 4096 };

/* Size of a regular file; 0 for a FIFO or a device. */
static int size_of(const struct append_file *a, uint64_t *size, bool *regular, struct fault *f)
{
	struct stat st;
	if (fstat(a->fd, &st) != 0)
		return fault_errno(f, "%s", a->path);
	*regular = S_ISREG(st.st_mode);
	*size = *regular ? (uint64_t)st.st_size : 0;
	return 0;
}

static int open_at(struct append_file *a, const char *path, unsigned mode, struct fault *f)
{
	a->fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, mode);
	a->path = must_strdup(path);
	return a->fd < 0 ? fault_errno(f, "%s", path) : 0;
}

int append_open(struct append_file *a, const char *path, unsigned mode, struct fault *f)
{
	uint64_t size;
	bool regular;
	int rc = open_at(a, path, mode, f);
	if (rc == 0)
		rc = size_of(a, &size, &regular, f);
	if (rc == 0 && size > 0)
		rc = fault_set(f, SAKIORI_EINVAL, "%s is there already: choose another name, or remove it", path);
	if (rc == 0 && regular)
		rc = file_sync_directory(path, f);
	if (rc != 0)
		append_close(a);
	return rc;
}

/* The sum over the last bytes before `end`. */
static int sum_tail(const struct append_file *a, uint64_t end, uint32_t *sum, struct fault *f)
{
	uint8_t tail[TAIL];
	size_t n = end < TAIL ? (size_t)end : TAIL;
	ssize_t got = pread(a->fd, tail, n, (off_t)(end - n));
	if (got != (ssize_t)n)
		return got < 0 ? fault_errno(f, "%s", a->path)
			       : fault_set(f, SAKIORI_EIO, "%s became shorter while it was read", a->path);
	*sum = crc32c(tail, n);
	return 0;
}

static int cut(const struct append_file *a, const char *mark, struct fault *f)
{
	uint64_t size, end;
	uint32_t expected, found = 0;
	bool regular;
	int rc = size_of(a, &size, &regular, f);
	if (rc != 0 || (size == 0 && regular))
		return rc;
	if (sscanf(mark, "%" SCNu64 ":%" SCNx32, &end, &expected) != 2)
		return fault_set(f, SAKIORI_ECORRUPT, "\"%.40s\" is no place in a file", mark);
	if (size >= end)
		rc = sum_tail(a, end, &found, f);
	if (rc != 0)
		return rc;
	if (size < end || found != expected)
		return fault_set(f, SAKIORI_EMISMATCH,
			"%s is not the file that this run was writing when its checkpoint was made: restore that, or "
			"choose "
			"a name that is not taken",
			a->path);
	return ftruncate(a->fd, (off_t)end) == 0 ? 0 : fault_errno(f, "%s", a->path);
}

int append_reopen(struct append_file *a, const char *path, unsigned mode, const char *mark, struct fault *f)
{
	if (*mark == '\0')
		return append_open(a, path, mode, f);
	int rc = open_at(a, path, mode, f);
	if (rc == 0)
		rc = cut(a, mark, f);
	if (rc != 0)
		append_close(a);
	return rc;
}

void append_close(struct append_file *a)
{
	if (a->path != NULL && a->fd >= 0)
		close(a->fd);
	free(a->path);
	*a = (struct append_file){.fd = -1};
}

int append_write(struct append_file *a, const void *data, size_t size, struct fault *f)
{
	for (const char *at = data; size > 0;) {
		ssize_t n = write(a->fd, at, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fault_errno(f, "%s", a->path);
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

int append_mark(const struct append_file *a, char out[static APPEND_MARK], struct fault *f)
{
	uint64_t size;
	uint32_t sum;
	bool regular;
	*out = '\0';
	int rc = size_of(a, &size, &regular, f);
	if (rc != 0 || !regular)
		return rc;
	if (fsync(a->fd) != 0)
		return fault_errno(f, "%s", a->path);
	rc = sum_tail(a, size, &sum, f);
	if (rc == 0)
		snprintf(out, APPEND_MARK, "%" PRIu64 ":%08" PRIx32, size, sum);
	return rc;
}
