/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"

int file_regular_size(int fd, const char *name, uint64_t *size, struct fault *f)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return fault_errno(f, "%s", name);
	if (!S_ISREG(st.st_mode))
		return fault_set(f, SAKIORI_EINVAL, "%s: not a regular file", name);
	*size = (uint64_t)st.st_size;
	return 0;
}

int file_read(const char *path, size_t limit, uint8_t **data, size_t *size, struct fault *f)
{
	*data = NULL;
	*size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fault_errno(f, "%s", path);
	uint8_t *buffer = NULL;
	uint64_t bytes = 0;
	int rc = file_regular_size(fd, path, &bytes, f);
	if (rc != 0)
		goto out;
	if (bytes > limit) {
		rc = fault_set(f, SAKIORI_ELIMIT, "%s: %llu bytes, but at most %zu are read here", path,
			(unsigned long long)bytes, limit);
		goto out;
	}
	size_t want = (size_t)bytes, got = 0;
	buffer = malloc(want + 1);
	if (buffer == NULL) {
		rc = fault_set(f, SAKIORI_ENOMEM, "%s: no memory for %zu bytes", path, want);
		goto out;
	}
	while (got < want) {
		ssize_t n = read(fd, buffer + got, want - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = fault_errno(f, "%s", path);
			goto out;
		}
		if (n == 0)
			break; /* shrank while read: the shorter content is what there is */
		got += (size_t)n;
	}
	buffer[got] = 0;
	*data = buffer;
	*size = got;
	buffer = NULL;
out:
	free(buffer);
	close(fd);
	return rc;
}

int file_sync_directory(const char *path, struct fault *f)
{
	char *copy = must_strdup(path);
	char *slash = strrchr(copy, '/');
	const char *directory = ".";
	if (slash == copy) {
		directory = "/";
	} else if (slash != NULL) {
		*slash = '\0';
		directory = copy;
	}
	int rc = 0;
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) != 0)
		rc = fault_errno(f, "%s", directory);
	if (fd >= 0)
		close(fd);
	free(copy);
	return rc;
}

int file_writer_begin(struct file_writer *w, const char *path, unsigned mode, struct fault *f)
{
	size_t n = strlen(path) + 16;
	w->path = must_strdup(path);
	w->temporary = must_alloc(n);
	snprintf(w->temporary, n, "%s.XXXXXX", path);
	w->fd = mkostemp(w->temporary, O_CLOEXEC);
	if (w->fd < 0 || fchmod(w->fd, (mode_t)mode) != 0) {
		int rc = fault_errno(f, "%s", path);
		file_writer_abort(w);
		return rc;
	}
	return 0;
}

int file_writer_write(struct file_writer *w, const void *data, size_t n, struct fault *f)
{
	const uint8_t *p = data;
	while (n > 0) {
		ssize_t done = write(w->fd, p, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return fault_errno(f, "%s", w->path);
		p += done;
		n -= (size_t)done;
	}
	return 0;
}

int file_writer_commit(struct file_writer *w, struct fault *f)
{
	int rc = 0;
	if (fsync(w->fd) != 0 || rename(w->temporary, w->path) != 0)
		rc = fault_errno(f, "%s", w->path);
	else {
		free(w->temporary); /* it has its final name: abort must not remove it */
		w->temporary = NULL;
		rc = file_sync_directory(w->path, f);
	}
	file_writer_abort(w);
	return rc;
}

void file_writer_abort(struct file_writer *w)
{
	if (w->fd >= 0)
		close(w->fd);
	if (w->temporary != NULL)
		unlink(w->temporary);
	free(w->temporary);
	free(w->path);
	*w = (struct file_writer){.fd = -1};
}

int file_replace(const char *path, const void *data, size_t size, unsigned mode, struct fault *f)
{
	struct file_writer w;
	int rc = file_writer_begin(&w, path, mode, f);
	if (rc != 0)
		return rc;
	rc = file_writer_write(&w, data, size, f);
	if (rc != 0) {
		file_writer_abort(&w);
		return rc;
	}
	return file_writer_commit(&w, f);
}

int folder_writer_begin(struct folder_writer *w, const char *path, struct fault *f)
{
	*w = (struct folder_writer){0};
	int rc = file_prepare_place(path, true, f);
	if (rc != 0)
		return rc;
	w->path = must_strdup(path);
	for (size_t n = strlen(w->path); n > 1 && w->path[n - 1] == '/'; n--)
		w->path[n - 1] = '\0';
	size_t n = strlen(w->path) + 16;
	char *temporary = must_alloc(n);
	snprintf(temporary, n, "%s.XXXXXX", w->path);
	if (mkdtemp(temporary) == NULL) {
		rc = fault_errno(f, "%s", path);
		free(temporary);
		folder_writer_abort(w);
		return rc;
	}
	w->temporary = temporary;
	return 0;
}

int folder_writer_commit(struct folder_writer *w, struct fault *f)
{
	int rc = 0;
	int fd = open(w->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* rename takes the place of an empty folder and of nothing else */
	if (fd < 0 || fchmod(fd, 0755) != 0 || fsync(fd) != 0 || rename(w->temporary, w->path) != 0) {
		rc = fault_errno(f, "%s", w->path);
	} else {
		free(w->temporary);
		w->temporary = NULL;
		rc = file_sync_directory(w->path, f);
	}
	if (fd >= 0)
		close(fd);
	folder_writer_abort(w);
	return rc;
}

void file_remove_folder(const char *path)
{
	DIR *d = opendir(path);
	for (const struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
		unlinkat(dirfd(d), e->d_name, 0);
	if (d != NULL)
		closedir(d);
	rmdir(path);
}

void folder_writer_abort(struct folder_writer *w)
{
	if (w->temporary != NULL)
		file_remove_folder(w->temporary);
	free(w->temporary);
	free(w->path);
	*w = (struct folder_writer){0};
}

static bool is_empty_folder(const char *path)
{
	DIR *d = opendir(path);
	bool empty = d != NULL;
	for (const struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
		empty = empty && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0);
	if (d != NULL)
		closedir(d);
	return empty;
}

int file_prepare_place(const char *path, bool folder, struct fault *f)
{
	struct stat st;
	if (lstat(path, &st) == 0 && !(folder && is_empty_folder(path)))
		return fault_set(
			f, SAKIORI_EINVAL, "%s: exists already; choose another path, or remove it first", path);
	char *above = must_strdup(path);
	for (size_t n = strlen(above); n > 1 && above[n - 1] == '/'; n--)
		above[n - 1] = '\0';
	char *slash = strrchr(above, '/');
	int rc = 0;
	if (slash != NULL && slash != above) {
		*slash = '\0';
		rc = file_make_directories(above, 0755, f);
	}
	free(above);
	return rc;
}

int file_make_directories(const char *path, unsigned mode, struct fault *f)
{
	char *copy = must_strdup(path);
	int rc = 0;
	for (char *p = copy + 1;; p++) {
		if (*p != '/' && *p != '\0')
			continue;
		char end = *p;
		*p = '\0';
		bool made = mkdir(copy, (mode_t)mode) == 0;
		if (!made && errno != EEXIST)
			rc = fault_errno(f, "%s", copy);
		else if (made) /* else a folder could lose its name with all that was synced inside it */
			rc = file_sync_directory(copy, f);
		if (rc != 0)
			break;
		*p = end;
		if (end == '\0')
			break;
	}
	free(copy);
	return rc;
}
