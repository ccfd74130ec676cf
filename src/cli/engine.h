/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands that load a model share: reading their words, and showing how far loading is. Main thread only. */
#pragma once
#include <jansson.h>
#include <stddef.h>

#include "base/err.h"
#include "text/tokenizer.h"
#include "train/trainer.h"

/* Each reads one option's word; a word it does not know is SAKIORI_EUSAGE with a sentence. */
int engine_read_dtype(const char *word, enum trainer_dtype *out, struct fault *f);
int engine_read_memory(const char *word, enum memory_mode *out, struct fault *f);
int engine_read_variants(const char *word, enum variants_mode *out, struct fault *f);
int engine_read_overlong(const char *word, enum trainer_overlong *out, struct fault *f);
int engine_read_schedule(const char *word, enum schedule *out, struct fault *f);
int engine_read_targets(const char *word, unsigned *out, struct fault *f);
/* NULL: no pattern. */
int engine_read_rank_pattern(const char *word, size_t out[static LORA_TARGETS], struct fault *f);
int engine_read_alpha_pattern(const char *word, float out[static LORA_TARGETS], struct fault *f);

/* The tokens that a model goes on from, appended to *out: the text as it is, or as a user's turn in the model's chat template. */
int engine_encode_prompt(
	const struct tokenizer *t, const char *prompt, bool chat, struct token_list *out, struct fault *f);
/* trainer_config_check for settings that come from the command line: a senseless one is SAKIORI_EUSAGE. */
int engine_check(struct trainer_config *config, struct fault *f);

/* Where measurements of a device are kept from run to run: $XDG_CACHE_HOME/sakiori, else ~/.cache/sakiori; NULL without a home. */
const char *engine_cache(void);

/* The order of the adapter's products, group by group, for micro-batches of so many tokens: a new object. */
json_t *engine_orders(const struct variants *v, size_t tokens);

/* For `progress` of trainer_config and generator_config. */
void engine_show_loading(void *unused, const char *what, size_t done, size_t total);
