/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts that a training run goes on from at each evaluation. Main thread only. */
#pragma once
#include "cli/train_log.h"
#include "cli/train_run.h"
#include "text/tokenizer.h"

struct train_samples {
	struct tokenizer *tokenizer; /* NULL: no samples */
	char **prompts;
	struct token_list *tokens; /* of each prompt */
	size_t count;
	size_t more; /* tokens a sample at most */
};

/* Reads and tokenizes the prompts; *text_tokens: of the longest text. None where no samples were asked for. */
int train_samples_open(struct train_samples *s, const struct train_options *o, size_t *text_tokens, struct fault *f);
/* Safe on a zeroed struct and twice. */
void train_samples_close(struct train_samples *s);
/* What the adapter makes of each prompt now, to the log's file of samples. */
int train_samples_write(const struct train_samples *s, struct trainer *t, struct train_log *log, struct fault *f);
