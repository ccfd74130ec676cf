/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's engine over train/trainer: what a site calls training and evaluating, in the trainer's words.
 * engine_new and engine_free: loop thread, while no worker runs. The questions: loop thread, after on_opened said 0. */
#pragma once
#include "config/config.h"
#include "daemon/worker.h"
#include "train/trainer.h"

struct engine;

/* Copies what it needs of the configuration. Words of it that the trainer does not know are SAKIORI_ECONFIG. */
int engine_new(struct engine **out, const struct config *config, struct fault *f);
void engine_free(struct engine *e);
/* For worker_start; `e` must outlive the worker. */
struct worker_engine engine_functions(struct engine *e);

/* The whole adapter (layout size,) that was evaluated last, for the caller to free; NULL when there is none. Loop thread, while no job runs. */
float *engine_take_evaluated(struct engine *e);

const struct lora_layout *engine_layout(const struct engine *e);
void engine_fingerprint(const struct engine *e, uint8_t out[static HASH_SIZE]);
uint64_t engine_rows(const struct engine *e);
uint64_t engine_eval_rows(const struct engine *e);
uint64_t engine_truncated_rows(const struct engine *e);
size_t engine_memory_bytes(const struct engine *e);
/* Tokens that go through the model at once: fewer than configured where there was no room for more. */
size_t engine_micro_tokens(const struct engine *e);
/* A job failed because the device did: only a new process can train again. */
bool engine_device_lost(const struct engine *e);
