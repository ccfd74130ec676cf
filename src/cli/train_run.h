/* SPDX-License-Identifier: Apache-2.0 */
/* One run of sakiori train, from its options to its adapter. Main thread only. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"
#include "train/trainer.h"

/* All of the command line, as it was read. */
struct train_options {
	const char *model, *data, *eval, *out, *device, *targets, *schedule, *base_dtype, *over_long, *init_adapter;
	const char *memory, *variants, *rank_pattern, *alpha_pattern, *log, *tensorboard, *samples, *sample_prompts;
	struct cli_texts sample_prompt;
	uint64_t steps, batch, seq, rank, seed, micro_tokens, threads, warmup, eval_every, eval_rows, save_every;
	uint64_t patience, sample_tokens;
	double alpha, lr, weight_decay, clip, dropout, lora_plus, decay_share, min_delta;
	bool resume, deterministic, no_shuffle, no_token_cache, json, rslora, sample_chat;
};

/* Trains until the steps are done, patience is at its end, or a signal says stop. Returns the exit code; config is the options'. */
int train_run(const struct train_options *options, struct trainer_config *config);
