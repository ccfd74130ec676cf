/* SPDX-License-Identifier: Apache-2.0 */
/* What a training run writes down as it goes: a log in JSON lines with Hugging Face's names, TensorBoard's event files, and sample texts, which go to
 * their own file and nowhere else. Main thread only. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/append.h"
#include "base/err.h"

struct train_log {
	struct append_file log, events, samples; /* each only where it was asked for */
	char events_name[80];                    /* in the folder */
};

/* NULL: not wanted. */
struct train_log_places {
	const char *log;         /* file */
	const char *tensorboard; /* folder */
	const char *samples;     /* file */
};

/* Where the files end, for a checkpoint. */
struct train_log_marks {
	char log[160], samples[160];
	char events[160]; /* the file's name, a blank, and its mark */
};

struct train_log_step {
	uint64_t step, tokens; /* tokens: of all steps */
	double epoch, loss, grad_norm, lr;
};

struct train_log_eval {
	uint64_t step;
	double epoch, loss, perplexity, accuracy;
};

/* marks NULL: of a run that begins. A file that is taken by something else is refused. Safe to close after a failure. */
int train_log_open(struct train_log *l, const struct train_log_places *places, const struct train_log_marks *marks,
	struct fault *f);
/* Safe on a zeroed log and twice. */
void train_log_close(struct train_log *l);

/* Each is in the files when it returns. */
int train_log_step(struct train_log *l, const struct train_log_step *s, struct fault *f);
int train_log_eval(struct train_log *l, const struct train_log_eval *e, struct fault *f);
/* text: UTF-8. */
int train_log_sample(
	struct train_log *l, uint64_t step, const char *prompt, const char *text, size_t size, struct fault *f);
/* Syncs all. */
int train_log_mark(const struct train_log *l, struct train_log_marks *marks, struct fault *f);
