/* SPDX-License-Identifier: Apache-2.0 */
/* A training run's state on disk: adapter, both moments, step number, and the settings that a continued run must share.
 * One safetensors file, replaced atomically, with a hash over all of it. Blocking file work: any thread but the loop's.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct checkpoint_setting {
	const char *name; /* "rank", ...; no two alike */
	char value[160];
};

struct checkpoint {
	uint64_t step;
	size_t size;    /* floats of each vector */
	float *adapter; /* borrowed by checkpoint_write; filled by checkpoint_read */
	float *first;
	float *second;
	struct checkpoint_setting *state; /* what goes on and need not be the same: written; read back by name */
	size_t state_count;
};

/* On failure the file that was there before is untouched. */
int checkpoint_write(const char *path, const struct checkpoint *c, const struct checkpoint_setting *settings,
	size_t count, struct fault *f);

/* Fills the three vectors (c->size floats each, the caller's), the state's values and the step. SAKIORI_ENOTFOUND without a file,
 * SAKIORI_ECORRUPT when its hash or shape is wrong, SAKIORI_EMISMATCH naming the first setting that differs. On failure
 * the vectors' contents are undefined. */
int checkpoint_read(const char *path, struct checkpoint *c, const struct checkpoint_setting *settings, size_t count,
	struct fault *f);
