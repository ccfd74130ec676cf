/* SPDX-License-Identifier: Apache-2.0 */
/* What the trainer's tests share: a folder with a few rows, a small run on tests/golden/tiny.gguf. One test at a time. */
#pragma once
#include <stddef.h>

#include "base/err.h"
#include "train/trainer.h"

extern char directory[]; /* of this test */
extern struct fault fault;

void make_directory(void);
void remove_directory(void);
/* Fails the test with the fault's sentence. */
void must(int rc);
/* A path in the folder; two can be used at a time. */
const char *in_directory(const char *name);
const char *model_path(void);
/* Rows number first .. first+count-1. */
void write_rows(const char *name, int first, int count);
struct trainer_config make_config(void);
struct trainer *open_trainer(const struct trainer_config *c);
/* So many steps; the last one's loss. */
double run(struct trainer *t, int steps);
/* Free with free(). */
float *adapter_of(struct trainer *t);
/* |x - y| / |y| of n floats. */
double distance(const float *x, const float *y, size_t n);
