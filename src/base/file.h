/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files in bounded memory, and replacement that survives power loss. Any thread; blocking, so never on the loop. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* The size of an open regular file; a directory, FIFO or device is refused by `name`. */
int file_regular_size(int fd, const char *name, uint64_t *size, struct fault *f);

/* Reads a regular file of at most `limit` bytes into fresh memory with a NUL after it (not counted in *size).
 * The caller frees *data. A directory, FIFO or device is refused by name. */
int file_read(const char *path, size_t limit, uint8_t **data, size_t *size, struct fault *f);

/* Replaces `path` by these bytes: temporary file beside it, write, fsync, rename, fsync of the directory.
 * On failure the old file is untouched and the temporary one removed. mode e.g. 0600. */
int file_replace(const char *path, const void *data, size_t size, unsigned mode, struct fault *f);

/* As file_replace for contents that do not fit memory: begin, write (any number of times), then commit or abort.
 * commit also hands the file to `path`; abort and a failed commit remove the temporary file. */
struct file_writer {
	int fd;
	char *path;
	char *temporary;
};
int file_writer_begin(struct file_writer *w, const char *path, unsigned mode, struct fault *f);
int file_writer_write(struct file_writer *w, const void *data, size_t n, struct fault *f);
int file_writer_commit(struct file_writer *w, struct fault *f);
void file_writer_abort(struct file_writer *w);

/* A folder that appears whole or not at all. begin makes an empty one beside `path` and the folders above it; the caller writes files (synced ones, no
 * folders) into `temporary`; commit hands it to `path`, where nothing may stand but an empty folder. abort and a failed commit remove it. */
struct folder_writer {
	char *path;
	char *temporary;
};
int folder_writer_begin(struct folder_writer *w, const char *path, struct fault *f);
int folder_writer_commit(struct folder_writer *w, struct fault *f);
void folder_writer_abort(struct folder_writer *w);

/* Whether something new may get the name `path`, asked before hours of work: makes the folders above it. Where something stands already it is
 * SAKIORI_EINVAL, but for an empty folder where `folder` is set. */
int file_prepare_place(const char *path, bool folder, struct fault *f);

/* Removes a folder and the files in it, as far as that goes; folders in it stay, and so does it then. */
void file_remove_folder(const char *path);

/* fsync of the directory that holds `path`. */
int file_sync_directory(const char *path, struct fault *f);
/* mkdir -p, durable; existing directories are fine. */
int file_make_directories(const char *path, unsigned mode, struct fault *f);
