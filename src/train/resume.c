/* SPDX-License-Identifier: Apache-2.0 */
#include "train/resume.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "train/checkpoint.h"

enum { MOST_SETTINGS = 24 };

struct settings {
	struct checkpoint_setting list[MOST_SETTINGS];
	size_t count;
};

__attribute__((format(printf, 3, 4))) static void add(struct settings *s, const char *name, const char *format, ...)
{
	struct checkpoint_setting *setting = &s->list[s->count++];
	va_list arguments;
	setting->name = name;
	va_start(arguments, format);
	vsnprintf(setting->value, sizeof setting->value, format, arguments);
	va_end(arguments);
}

static void add_hash(struct settings *s, const char *name, const uint8_t hash[static HASH_SIZE])
{
	char hex[HASH_HEX_SIZE];
	hex_encode(hash, HASH_SIZE, hex);
	add(s, name, "%s", hex);
}

/* Named as the options that set them. %.17g: every double its own text. */
static void gather(const struct trainer *t, struct settings *s)
{
	static const char *const schedules[] = {"constant", "linear", "cosine"};
	const struct trainer_config *c = trainer_config(t);
	uint8_t hash[HASH_SIZE];
	char targets[32];
	s->count = 0;
	trainer_fingerprint(t, hash);
	add_hash(s, "model", hash);
	trainer_data_fingerprint(t, hash);
	add_hash(s, "data", hash);
	lora_targets_format(c->targets, targets);
	add(s, "targets", "%s", targets);
	add(s, "rank", "%zu", c->rank);
	add(s, "alpha", "%.9g", (double)c->alpha);
	add(s, "batch", "%zu", c->batch_rows);
	add(s, "seq", "%zu", c->max_seq);
	add(s, "seed", "%" PRIu64, c->seed);
	add(s, "shuffle", "%s", c->shuffle ? "yes" : "no");
	add(s, "base-dtype", "%s", trainer_dtype_name(c->base_dtype));
	add(s, "lr", "%.17g", c->lr);
	add(s, "schedule", "%s", schedules[c->schedule]);
	add(s, "warmup", "%" PRIu64, c->warmup);
	/* A level schedule may go on for longer than was planned first. */
	add(s, "steps", "%" PRIu64, c->schedule == SCHEDULE_CONSTANT ? 0 : c->total_steps);
	add(s, "beta1", "%.17g", c->beta1);
	add(s, "beta2", "%.17g", c->beta2);
	add(s, "epsilon", "%.17g", c->epsilon);
	add(s, "weight-decay", "%.17g", c->weight_decay);
	add(s, "clip", "%.17g", c->clip);
}

static void allocate(struct checkpoint *c, const struct trainer *t)
{
	*c = (struct checkpoint){.size = trainer_layout(t)->size, .step = trainer_step_number(t)};
	c->adapter = must_alloc(c->size * sizeof(float));
	c->first = must_alloc(c->size * sizeof(float));
	c->second = must_alloc(c->size * sizeof(float));
}

static void release(struct checkpoint *c)
{
	free(c->adapter);
	free(c->first);
	free(c->second);
}

int resume_save(struct trainer *t, const char *path, struct fault *f)
{
	struct settings settings;
	struct checkpoint c;
	allocate(&c, t);
	gather(t, &settings);
	int rc = trainer_get_adapter(t, c.adapter, f);
	if (!rc)
		rc = trainer_get_moments(t, c.first, c.second, f);
	if (!rc)
		rc = checkpoint_write(path, &c, settings.list, settings.count, f);
	release(&c);
	return rc;
}

int resume_load(struct trainer *t, const char *path, struct fault *f)
{
	struct settings settings;
	struct checkpoint c;
	allocate(&c, t);
	gather(t, &settings);
	int rc = checkpoint_read(path, &c, settings.list, settings.count, f);
	if (!rc)
		rc = trainer_set_moments(t, c.first, c.second, f);
	if (!rc)
		rc = trainer_set_adapter(t, c.adapter, f);
	if (!rc)
		trainer_set_step_number(t, c.step);
	release(&c);
	return rc;
}
