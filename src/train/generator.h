/* SPDX-License-Identifier: Apache-2.0 */
/* A model, perhaps with an adapter, that writes on: one text, token by token, keys and values cached. The thread that
 * opened it. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"
#include "train/trainer.h"

struct generator_config {
	const char *model;
	const char *adapter; /* PEFT folder; NULL: the base model alone */
	enum trainer_dtype base_dtype;
	const char *cache; /* as in trainer_config */
	unsigned threads;  /* 0 = one a core */
	const char *device;
	double temperature;                                                        /* 0: always the likeliest token */
	uint64_t seed;                                                             /* of the draws */
	void (*progress)(void *self, const char *what, size_t done, size_t total); /* while opening; may be NULL */
	void *progress_self;
};

struct generator;

/* Strings are borrowed until it returns. On failure *out is NULL. */
int generator_open(const struct generator_config *config, struct generator **out, struct fault *f);
/* NULL is fine. */
void generator_close(struct generator *g);
/* The model's own; lives as long as the generator. */
const struct tokenizer *generator_tokenizer(const struct generator *g);
/* Begins a text with n >= 1 tokens, to which at most `more` can be added. SAKIORI_ELIMIT beyond the model's context. */
int generator_start(struct generator *g, const int32_t *ids, size_t n, size_t more, struct fault *f);
/* Draws the next token and appends it. */
int generator_next(struct generator *g, int32_t *id, struct fault *f);
