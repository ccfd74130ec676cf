/* SPDX-License-Identifier: Apache-2.0 */
/* A trainer's state to a checkpoint file and back, so that an interrupted run goes on with the same bits. The trainer's
 * thread. */
#pragma once
#include "base/err.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

/* What the caller adds of its own: settings that a continued run must share, and a state that it takes up again. */
struct resume_run {
	const struct checkpoint_setting *settings;
	size_t setting_count;
	struct checkpoint_setting *state; /* resume_load fills in the values */
	size_t state_count;
};

/* Adapter, moments, step, and every setting that the numbers depend on except micro_tokens, threads and device, which
 * only change rounding; `run` may be NULL. Replaces the file atomically. */
int resume_save(struct trainer *t, const char *path, const struct resume_run *run, struct fault *f);
/* Errors as checkpoint_read's; on failure the trainer is as before. */
int resume_load(struct trainer *t, const char *path, const struct resume_run *run, struct fault *f);
