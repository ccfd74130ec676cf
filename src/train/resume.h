/* SPDX-License-Identifier: Apache-2.0 */
/* A trainer's state to a checkpoint file and back, so that an interrupted run goes on with the same bits. The trainer's
 * thread. */
#pragma once
#include "base/err.h"
#include "train/trainer.h"

/* Adapter, moments, step, and every setting that the numbers depend on except micro_tokens, threads and device, which
 * only change rounding. Replaces the file atomically. */
int resume_save(struct trainer *t, const char *path, struct fault *f);
/* Errors as checkpoint_read's; on failure the trainer is as before. */
int resume_load(struct trainer *t, const char *path, struct fault *f);
