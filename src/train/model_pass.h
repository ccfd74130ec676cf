/* SPDX-License-Identifier: Apache-2.0 */
/* The maths of one run over some tokens (model.c), for what runs it over batches and texts (model_run.c). The thread that owns the
 * device. */
#pragma once
#include "train/model.h"

struct pass {
	struct tokens tokens;
	const float *adapter; /* NULL: base model alone */
	float *gradient;      /* NULL: nobody differentiates */
	size_t past;          /* generating: tokens before these, in the cache */
};

/* activations.ids -> normed = the final norm's output, residual_out before it. */
void pass_forward(struct model *m, const struct pass *p);
/* normed, holding the gradient of the final norm's output -> the adapter's gradient, added to. Behind a pass_forward of the same
 * pass. */
void pass_backward(struct model *m, const struct pass *p);
