/* SPDX-License-Identifier: Apache-2.0 */
/* A file that only grows, a line or a record at a time, and that is cut back to where a checkpoint saw it end, so that a continued run leaves
 * neither gap nor repetition in it. Any thread; blocking. */
#pragma once
#include "base/err.h"

struct append_file {
	int fd; /* -1: closed */
	char *path;
};

/* What a checkpoint keeps of a file: its size and a sum over its last bytes. "" for none. */
#define APPEND_MARK 40

/* A new file; one that is there already must be empty (SAKIORI_EINVAL). FIFOs and devices will do. mode e.g. 0600. */
int append_open(struct append_file *a, const char *path, unsigned mode, struct fault *f);
/* The file as it was at the mark: what was appended since is cut off. SAKIORI_EMISMATCH for another file. One that is gone begins anew; mark "":
 * as append_open. */
int append_reopen(struct append_file *a, const char *path, unsigned mode, const char *mark, struct fault *f);
/* NULL and never opened are fine, safe twice. */
void append_close(struct append_file *a);
/* All of it, at once. */
int append_write(struct append_file *a, const void *data, size_t size, struct fault *f);
/* Syncs the file and says where it ends. */
int append_mark(const struct append_file *a, char out[static APPEND_MARK], struct fault *f);
