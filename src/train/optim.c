/* SPDX-License-Identifier: Apache-2.0 */
#include "train/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static const char *const schedule_names[SCHEDULES] = {
	[SCHEDULE_CONSTANT] = "constant",
	[SCHEDULE_LINEAR] = "linear",
	[SCHEDULE_COSINE] = "cosine",
	[SCHEDULE_WSD] = "wsd",
};

const char *schedule_name(enum schedule schedule)
{
	return schedule_names[schedule];
}

int schedule_parse(const char *word, enum schedule *out, struct fault *f)
{
	for (int i = 0; i < SCHEDULES; i++)
		if (strcmp(word, schedule_names[i]) == 0) {
			*out = (enum schedule)i;
			return 0;
		}
	return fault_set(f, SAKIORI_EINVAL, "expected constant, linear, cosine or wsd, found '%.40s'", word);
}

/* From level down half a cosine, over the last decay * total_steps steps after the warm-up. */
static double wsd_rate(const struct optim_config *c, uint64_t step)
{
	uint64_t decay = (uint64_t)llround(c->decay * (double)c->total_steps), most = c->total_steps - c->warmup;
	decay = decay > most ? most : decay;
	uint64_t stable_end = c->total_steps - decay;
	if (step < stable_end)
		return c->lr;
	return c->lr * 0.5 * (1 + cos(M_PI * (double)(step - stable_end) / (double)decay));
}

double optim_rate(const struct optim_config *c, uint64_t step)
{
	if (step < c->warmup)
		return c->lr * (double)step / (double)c->warmup;
	if (c->schedule == SCHEDULE_CONSTANT)
		return c->lr;
	if (step >= c->total_steps)
		return 0;
	if (c->schedule == SCHEDULE_WSD)
		return wsd_rate(c, step);
	double gone = (double)(step - c->warmup) / (double)(c->total_steps - c->warmup);
	return c->schedule == SCHEDULE_LINEAR ? c->lr * (1 - gone) : c->lr * 0.5 * (1 + cos(M_PI * gone));
}

int optim_init(struct optim *o, struct device *d, const struct optim_config *c, size_t size, struct fault *f)
{
	*o = (struct optim){.device = d, .config = *c, .size = size};
	o->gradient = d->ops->alloc(d, size * sizeof(float));
	o->first = d->ops->alloc(d, size * sizeof(float));
	o->second = d->ops->alloc(d, size * sizeof(float));
	o->squares = d->ops->alloc(d, sizeof(double));
	if (c->pieces) {
		o->pieces = must_alloc(c->piece_count * sizeof *o->pieces);
		memcpy(o->pieces, c->pieces, c->piece_count * sizeof *o->pieces);
		o->config.pieces = o->pieces;
	}
	int rc = device_sync(d, f);
	if (rc)
		optim_fini(o);
	return rc;
}

void optim_fini(struct optim *o)
{
	if (!o->device)
		return;
	const struct device_ops *ops = o->device->ops;
	ops->release(o->device, o->gradient);
	ops->release(o->device, o->first);
	ops->release(o->device, o->second);
	ops->release(o->device, o->squares);
	free(o->pieces);
	memset(o, 0, sizeof *o);
}

void optim_begin(struct optim *o)
{
	o->device->ops->zero(o->device, o->gradient, o->size * sizeof(float));
}

/* The update with all its rates. */
static void update_pieces(struct optim *o, const struct adamw *update, double rate, float *parameters)
{
	const struct device_ops *ops = o->device->ops;
	if (!o->pieces) {
		ops->adamw(o->device, update, parameters, o->gradient, o->first, o->second, o->size);
		return;
	}
	for (size_t i = 0, at = 0; i < o->config.piece_count; at += o->pieces[i++].count) {
		struct adamw own = *update;
		own.lr = (float)(rate * o->pieces[i].factor);
		ops->adamw(o->device, &own, parameters + at, o->gradient + at, o->first + at, o->second + at,
			o->pieces[i].count);
	}
}

int optim_update(struct optim *o, float *parameters, double *norm, double *rate, struct fault *f)
{
	const struct device_ops *ops = o->device->ops;
	const struct optim_config *c = &o->config;
	double squares = 0;
	ops->reduce(o->device, o->gradient, o->size);
	ops->sum_squares(o->device, o->gradient, o->size, o->squares);
	ops->download(o->device, &squares, o->squares, sizeof squares);
	int rc = device_sync(o->device, f);
	if (rc)
		return rc;
	*norm = sqrt(squares);
	*rate = optim_rate(c, o->step);
	if (!isfinite(*norm))
		return fault_set(f, SAKIORI_EDEVICE,
			"step %llu: the gradient is not finite; lower the learning rate, or check the base model",
			(unsigned long long)o->step + 1);
	/* The small number is that of torch.nn.utils.clip_grad_norm_. */
	double factor = c->clip > 0 ? c->clip / (*norm + 1e-6) : 1;
	struct adamw update = {
		.lr = (float)*rate,
		.beta1 = (float)c->beta1,
		.beta2 = (float)c->beta2,
		.epsilon = (float)c->epsilon,
		.weight_decay = (float)c->weight_decay,
		.step = o->step + 1,
		.gradient_scale = factor < 1 ? (float)factor : 1.0f,
	};
	update_pieces(o, &update, *rate, parameters);
	rc = device_sync(o->device, f);
	if (!rc)
		o->step++;
	return rc;
}
