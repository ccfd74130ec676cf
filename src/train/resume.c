/* SPDX-License-Identifier: Apache-2.0 */
#include "train/resume.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum { OWN_SETTINGS = 32 };

struct settings {
	struct checkpoint_setting *list;
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

static void add_patterns(struct settings *s, const struct lora_settings *a)
{
	double ranks[LORA_TARGETS], alphas[LORA_TARGETS];
	char text[LORA_PATTERN_TEXT];
	for (enum lora_target target = 0; target < LORA_TARGETS; target++) {
		ranks[target] = (double)a->rank_pattern[target];
		alphas[target] = (double)a->alpha_pattern[target];
	}
	add(s, "rank-pattern", "%s", *lora_pattern_format(ranks, text) ? text : "none");
	add(s, "alpha-pattern", "%s", *lora_pattern_format(alphas, text) ? text : "none");
}

/* Named as the options that set them. %.17g: every double its own text. */
static void gather(const struct trainer *t, const struct resume_run *run, struct settings *s)
{
	const struct trainer_config *c = trainer_config(t);
	uint8_t hash[HASH_SIZE];
	char targets[32];
	size_t more = run ? run->setting_count : 0;
	s->list = must_calloc(OWN_SETTINGS + more, sizeof *s->list);
	s->count = 0;
	trainer_fingerprint(t, hash);
	add_hash(s, "model", hash);
	trainer_data_fingerprint(t, hash);
	add_hash(s, "data", hash);
	lora_targets_format(c->adapter.targets, targets);
	add(s, "targets", "%s", targets);
	add(s, "rank", "%zu", c->adapter.rank);
	add(s, "alpha", "%.9g", (double)c->adapter.alpha);
	add(s, "rslora", "%s", c->adapter.rslora ? "yes" : "no");
	add_patterns(s, &c->adapter);
	add(s, "dropout", "%.17g", c->dropout);
	add(s, "batch", "%zu", c->batch_rows);
	add(s, "seq", "%zu", c->max_seq);
	add(s, "seed", "%" PRIu64, c->seed);
	add(s, "shuffle", "%s", c->shuffle ? "yes" : "no");
	add(s, "base-dtype", "%s", trainer_dtype_name(c->base_dtype));
	add(s, "lr", "%.17g", c->lr);
	add(s, "schedule", "%s", schedule_name(c->schedule));
	add(s, "decay-share", "%.17g", c->schedule == SCHEDULE_WSD ? c->decay : 0);
	add(s, "lora-plus", "%.17g", c->lora_plus);
	add(s, "warmup", "%" PRIu64, c->warmup);
	/* A level schedule may go on for longer than was planned first. */
	add(s, "steps", "%" PRIu64, c->schedule == SCHEDULE_CONSTANT ? 0 : c->total_steps);
	add(s, "beta1", "%.17g", c->beta1);
	add(s, "beta2", "%.17g", c->beta2);
	add(s, "epsilon", "%.17g", c->epsilon);
	add(s, "weight-decay", "%.17g", c->weight_decay);
	add(s, "clip", "%.17g", c->clip);
	if (more)
		memcpy(s->list + s->count, run->settings, more * sizeof *s->list);
	s->count += more;
}

static void allocate(struct checkpoint *c, const struct trainer *t, const struct resume_run *run)
{
	*c = (struct checkpoint){.size = trainer_layout(t)->size, .step = trainer_step_number(t)};
	c->adapter = must_alloc(c->size * sizeof(float));
	c->first = must_alloc(c->size * sizeof(float));
	c->second = must_alloc(c->size * sizeof(float));
	c->state = run ? run->state : NULL;
	c->state_count = run ? run->state_count : 0;
}

static void release(struct checkpoint *c)
{
	free(c->adapter);
	free(c->first);
	free(c->second);
}

int resume_save(struct trainer *t, const char *path, const struct resume_run *run, struct fault *f)
{
	struct settings settings;
	struct checkpoint c;
	allocate(&c, t, run);
	gather(t, run, &settings);
	int rc = trainer_get_adapter(t, c.adapter, f);
	if (!rc)
		rc = trainer_get_moments(t, c.first, c.second, f);
	if (!rc)
		rc = checkpoint_write(path, &c, settings.list, settings.count, f);
	release(&c);
	free(settings.list);
	return rc;
}

int resume_load(struct trainer *t, const char *path, const struct resume_run *run, struct fault *f)
{
	struct settings settings;
	struct checkpoint c;
	allocate(&c, t, run);
	gather(t, run, &settings);
	int rc = checkpoint_read(path, &c, settings.list, settings.count, f);
	if (!rc)
		rc = trainer_set_moments(t, c.first, c.second, f);
	if (!rc)
		rc = trainer_set_adapter(t, c.adapter, f);
	if (!rc)
		trainer_set_step_number(t, c.step);
	release(&c);
	free(settings.list);
	return rc;
}
