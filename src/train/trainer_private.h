/* SPDX-License-Identifier: Apache-2.0 */
/* What a trainer holds, for trainer.c, which opens and runs it, trainer_state.c, which is asked about it, and trainer_text.c, which lets it write;
 * nobody else includes it. */
#pragma once
#include <stdatomic.h>

#include "text/batch.h"
#include "text/dataset.h"
#include "train/model.h"
#include "train/optim.h"
#include "train/trainer.h"
#include "train/weights.h"

struct trainer {
	struct trainer_config config; /* its strings are gone after opening */
	char base_name[160];
	struct device *device;
	struct dataset *data, *eval;
	struct sampler *sampler, *eval_sampler;
	struct weights weights;
	struct lora_layout layout;
	struct variants variants;
	struct model model;
	struct optim optim;
	float *adapter;   /* device, layout.size */
	uint8_t *correct; /* host, one a token of a micro-batch */
	atomic_bool cancelled;
};
