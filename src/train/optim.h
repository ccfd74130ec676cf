/* SPDX-License-Identifier: Apache-2.0 */
/* AdamW with bias correction and decoupled decay over one flat vector, clipping by the global norm, and the learning
 * rate's schedule. The thread that owns the device; optim_rate is pure. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "compute/compute.h"

enum schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_WSD };
#define SCHEDULES 4

/* "constant", "linear", "cosine", "wsd". */
const char *schedule_name(enum schedule schedule);
/* SAKIORI_EINVAL for another word. */
int schedule_parse(const char *word, enum schedule *out, struct fault *f);

/* A piece of the vector with a learning rate of its own. */
struct optim_piece {
	size_t count;  /* floats, from the end of the piece before */
	double factor; /* of the schedule's rate */
};

struct optim_config {
	double lr; /* peak */
	enum schedule schedule;
	uint64_t warmup;      /* steps */
	uint64_t total_steps; /* where all but constant reach 0 */
	double decay;         /* SCHEDULE_WSD: share of total_steps in which the rate falls */
	double beta1, beta2, epsilon;
	double weight_decay;
	double clip;                      /* greatest global gradient norm; 0 = none */
	const struct optim_piece *pieces; /* of the whole vector, copied; NULL: one rate for all */
	size_t piece_count;
};

struct optim {
	struct device *device;
	struct optim_config config;
	size_t size;     /* floats of each vector */
	float *gradient; /* (size), device */
	float *first;    /* moment of the gradient */
	float *second;   /* moment of its square */
	double *squares; /* (1), device */
	struct optim_piece *pieces;
	uint64_t step; /* updates done */
};

/* The rate of the update after `step` updates, as Hugging Face's schedules: linear warm-up from 0, then level, down a
 * line to 0, or down half a cosine to 0; WSD (warm-up, stable, decay) is level and then goes down half a cosine in its last share of the steps,
 * which warm-up may shorten. 0 beyond the end. */
double optim_rate(const struct optim_config *c, uint64_t step);

/* On failure nothing is left to free. */
int optim_init(struct optim *o, struct device *d, const struct optim_config *c, size_t size, struct fault *f);
/* Before device_close. Safe on a zeroed struct and twice. */
void optim_fini(struct optim *o);

/* Zeroes the gradient; micro-batches then add to it. */
void optim_begin(struct optim *o);
/* Clips, updates `parameters` (device, size) by the gathered gradient and counts the step. *norm is the gradient's
 * before clipping, *rate the schedule's learning rate. A norm that is not finite changes nothing and is SAKIORI_EDEVICE. */
int optim_update(struct optim *o, float *parameters, double *norm, double *rate, struct fault *f);
