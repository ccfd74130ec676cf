/* SPDX-License-Identifier: Apache-2.0 */
#include "text/token_cache_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"

#define ENDING ".tokens"
enum { SETTINGS_BYTES = 8, KEY_BYTES = 16, ABANDONED_SECONDS = 24 * 60 * 60 };

char *token_cache_path(
	const char *folder, const uint8_t settings[static HASH_SIZE], const uint8_t key[static HASH_SIZE])
{
	char first[2 * SETTINGS_BYTES + 1], second[2 * KEY_BYTES + 1];
	hex_encode(settings, SETTINGS_BYTES, first);
	hex_encode(key, KEY_BYTES, second);
	size_t size = strlen(folder) + sizeof first + sizeof second + sizeof ENDING + 2;
	char *path = must_alloc(size);
	snprintf(path, size, "%s/%s-%s" ENDING, folder, first, second);
	return path;
}

static bool ends_well(const char *name)
{
	size_t n = strlen(name);
	return n > strlen(ENDING) && strcmp(name + n - strlen(ENDING), ENDING) == 0;
}

bool token_cache_has(const char *folder, const uint8_t settings[static HASH_SIZE])
{
	char prefix[2 * SETTINGS_BYTES + 1];
	hex_encode(settings, SETTINGS_BYTES, prefix);
	DIR *directory = opendir(folder);
	bool found = false;
	for (struct dirent *e; directory != NULL && !found && (e = readdir(directory)) != NULL;)
		found = strncmp(e->d_name, prefix, strlen(prefix)) == 0 && ends_well(e->d_name);
	if (directory != NULL)
		closedir(directory);
	return found;
}

int token_cache_make_folder(const char *folder, struct fault *f)
{
	struct stat st;
	int rc = file_make_directories(folder, 0700, f);
	if (rc != 0)
		return rc;
	if (stat(folder, &st) != 0)
		return fault_errno(f, "%s", folder);
	if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return fault_set(f, SAKIORI_EDENIED, "%s: expected a folder that this user alone may write to", folder);
	return 0;
}

void token_cache_touch(int fd)
{
	futimens(fd, (const struct timespec[2]){{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}});
}

struct entry {
	char name[256];
	struct timespec used;
	uint64_t bytes;
};

static int by_use(const void *a, const void *b)
{
	const struct timespec *x = &((const struct entry *)a)->used, *y = &((const struct entry *)b)->used;
	if (x->tv_sec != y->tv_sec)
		return x->tv_sec < y->tv_sec ? -1 : 1;
	return x->tv_nsec < y->tv_nsec ? -1 : x->tv_nsec > y->tv_nsec;
}

/* The cache files but `keep`, oldest use first; their bytes and keep's in *total. What was abandoned on its way is removed. */
static struct entry *list_files(DIR *directory, ino_t keep, size_t *count, uint64_t *total)
{
	struct entry *list = NULL;
	time_t now = time(NULL);
	*count = 0;
	*total = 0;
	for (struct dirent *e; (e = readdir(directory)) != NULL;) {
		struct stat st;
		if (fstatat(dirfd(directory), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
			continue;
		if (!ends_well(e->d_name)) {
			if (strstr(e->d_name, ENDING ".") != NULL && now - st.st_mtime > ABANDONED_SECONDS)
				unlinkat(dirfd(directory), e->d_name, 0);
			continue;
		}
		*total += (uint64_t)st.st_size;
		if (st.st_ino == keep)
			continue;
		list = must_realloc(list, (*count + 1) * sizeof *list);
		list[*count] = (struct entry){.used = st.st_atim, .bytes = (uint64_t)st.st_size};
		snprintf(list[*count].name, sizeof list->name, "%s", e->d_name);
		++*count;
	}
	if (*count > 0)
		qsort(list, *count, sizeof *list, by_use);
	return list;
}

void token_cache_trim(const char *folder, ino_t keep, uint64_t limit)
{
	DIR *directory = opendir(folder);
	if (directory == NULL)
		return;
	size_t count;
	uint64_t total;
	struct entry *list = list_files(directory, keep, &count, &total);
	for (size_t i = 0; i < count && total > limit; i++) {
		unlinkat(dirfd(directory), list[i].name, 0);
		total -= list[i].bytes;
	}
	free(list);
	closedir(directory);
}
