/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/model_stage.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

const char *stage_golden(const char *name)
{
	static char path[4096];
	const char *root = getenv("SRCDIR");
	char *real = realpath(root ? root : ".", NULL);
	ck_assert_ptr_nonnull(real);
	snprintf(path, sizeof path, "%s/tests/golden/%s", real, name);
	free(real);
	return path;
}

static const char *inside(const char *name)
{
	static char path[512];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	return path;
}

void stage_clear(void)
{
	DIR *d = folder[0] ? opendir(folder) : NULL;
	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.')
			unlink(inside(e->d_name));
	if (d)
		closedir(d);
	if (folder[0])
		rmdir(folder);
	folder[0] = '\0';
}

static void link_to(const char *source, const char *file, const char *as)
{
	char target[8192];
	snprintf(target, sizeof target, "%s/%s", source, file);
	ck_assert_int_eq(symlink(target, inside(as)), 0);
}

const char *stage_model(const char *name, const char *config)
{
	char source[4096];
	stage_clear();
	strcpy(folder, "/tmp/sakiori-model.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(source, sizeof source, "%s/%s", stage_golden("architectures"), name);
	DIR *d = opendir(source);
	ck_assert_msg(d != NULL, "%s", source);
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.' && strncmp(e->d_name, "config.", 7) != 0)
			link_to(source, e->d_name, e->d_name);
	closedir(d);
	link_to(source, config, "config.json");
	return folder;
}

void stage_remove(const char *name)
{
	ck_assert_int_eq(unlink(inside(name)), 0);
}

void stage_file(const char *name, const void *data, size_t size)
{
	unlink(inside(name));
	FILE *f = fopen(inside(name), "wb");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(data, 1, size, f), size);
	ck_assert_int_eq(fclose(f), 0);
}

void stage_text(const char *name, const char *text)
{
	stage_file(name, text, strlen(text));
}
