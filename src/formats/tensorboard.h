/* SPDX-License-Identifier: Apache-2.0 */
/* Event files of TensorBoard: TFRecords, each of which holds one Event of tensorflow/core/util/event.proto. Only writing, only scalars. Pure;
 * any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct tensorboard_scalar {
	const char *tag; /* "train/loss" */
	double value;
};

/* Appends the record that a file begins with. wall_time: seconds since 1970. */
void tensorboard_encode_begin(struct writer *w, double wall_time);
/* Appends a record of scalars at a step. */
void tensorboard_encode(
	struct writer *w, double wall_time, int64_t step, const struct tensorboard_scalar *scalars, size_t count);
