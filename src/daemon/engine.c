/* SPDX-License-Identifier: Apache-2.0 */
/* A training job is: adapter, moments and step number into the trainer, the local steps, and both out again, only when
 * all steps were done. So a job that was cancelled or failed has changed nothing that is durable. */
#include "daemon/engine.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/log.h"

struct engine {
	struct trainer_config config;
	char *model, *train, *eval, *device, *cache; /* what config points at */
	size_t micro_tokens;                         /* configured; config.micro_tokens are those that found room */
	_Atomic(struct trainer *) trainer;
	atomic_bool cancelled;   /* for a job that has not reached the trainer yet */
	atomic_bool device_lost; /* no job can succeed in this process any more */
	float *vector;           /* (layout size,) whole adapter, the trainer thread's */
	float *evaluated; /* likewise, the one last evaluated; the trainer thread's while a job runs; NULL: none, or taken */
	struct worker_progress *progress;
};

static void on_progress(void *self, const char *what, size_t done, size_t total)
{
	(void)what;
	struct engine *e = self;
	atomic_store(&e->progress->load_total, total);
	atomic_store(&e->progress->load_done, done);
}

/* A GPU without room for the micro-batch gets half of it, and so on down to one row; results only differ by rounding. */
static int open_trainer(struct engine *e, struct trainer **t, struct fault *f)
{
	struct trainer_config *c = &e->config;
	int rc = trainer_open(c, t, f);
	while (rc == SAKIORI_ENOMEM && c->micro_tokens > c->max_seq) {
		size_t before = c->micro_tokens;
		c->micro_tokens = before / 2 > c->max_seq ? before / 2 : c->max_seq;
		log_warn("smaller_micro_batch", "tokens=%zu before=%zu configured=%zu why=\"%s\"", c->micro_tokens,
			before, e->micro_tokens, f->text);
		rc = trainer_open(c, t, f);
	}
	return rc;
}

static int engine_open(void *self, struct worker_progress *progress, struct fault *f)
{
	struct engine *e = self;
	struct trainer *t;
	e->progress = progress;
	int rc = file_make_directories(e->cache, 0700, f);
	if (rc == 0)
		rc = open_trainer(e, &t, f);
	if (rc != 0)
		return rc;
	const struct lora_layout *layout = trainer_layout(t);
	if (lora_shared_size(layout) != layout->size) {
		trainer_close(t);
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"this adapter shares only a part of itself, which sites cannot do yet");
	}
	char orders[VARIANTS_TEXT];
	log_info("training_planned", "device=%s memory=%s tokens_at_once=%zu orders=\"%s\"", e->device,
		memory_mode_name(trainer_config(t)->memory), trainer_pass_tokens(t),
		variants_describe(trainer_variants(t), trainer_pass_tokens(t), orders));
	e->vector = must_alloc(layout->size * sizeof(float));
	atomic_store(&e->trainer, t);
	return 0;
}

static int set_adapter(struct engine *e, struct trainer *t, const float *x, struct fault *f)
{
	lora_adopt(trainer_layout(t), x, e->vector);
	return trainer_set_adapter(t, e->vector, f);
}

/* The local steps; sums into *out. */
static int train_steps(struct engine *e, struct trainer *t, const struct site_training *job,
	struct worker_progress *progress, struct site_trained *out, struct fault *f)
{
	double loss = 0;
	for (uint32_t i = 0; i < job->steps; i++) {
		struct step_stats stats;
		if (atomic_load(&e->cancelled))
			return SAKIORI_ECANCELLED;
		int rc = trainer_step(t, &stats, f);
		if (rc != 0)
			return rc;
		loss += stats.loss;
		out->steps++;
		out->tokens += stats.tokens;
		out->grad_norm = stats.grad_norm;
		out->lr = stats.lr;
		out->seconds += stats.seconds;
		atomic_fetch_add(&progress->steps, 1);
		atomic_fetch_add(&progress->tokens, stats.tokens);
		atomic_store(&progress->loss, stats.loss);
		atomic_store(&progress->grad_norm, stats.grad_norm);
		atomic_store(&progress->lr, stats.lr);
		atomic_store(
			&progress->tokens_per_second, stats.seconds > 0 ? (double)stats.tokens / stats.seconds : NAN);
	}
	out->loss = loss / job->steps;
	return 0;
}

static int take_results(struct engine *e, struct trainer *t, const struct site_training *job, struct fault *f)
{
	int rc = trainer_get_adapter(t, e->vector, f);
	if (rc == 0)
		rc = trainer_get_moments(t, job->m, job->v, f);
	if (rc == 0)
		lora_share(trainer_layout(t), e->vector, job->x);
	return rc;
}

static void engine_train(
	void *self, const struct site_training *job, struct worker_progress *progress, struct site_trained *out)
{
	struct engine *e = self;
	struct trainer *t = atomic_load(&e->trainer);
	struct fault f = {0};
	*out = (struct site_trained){0};
	int rc = set_adapter(e, t, job->x, &f);
	if (rc == 0)
		rc = trainer_set_moments(t, job->m, job->v, &f);
	if (rc == 0) {
		trainer_set_step_number(t, job->step);
		rc = train_steps(e, t, job, progress, out, &f);
	}
	if (rc == 0)
		rc = take_results(e, t, job, &f);
	out->error = rc;
	snprintf(out->text, sizeof out->text, "%.*s", (int)sizeof out->text - 1, f.text);
	if (rc != 0 && trainer_device_check(t, NULL) != 0)
		atomic_store(&e->device_lost, true);
}

static void engine_evaluate(void *self, const float *x, struct site_evaluated *out)
{
	struct engine *e = self;
	struct trainer *t = atomic_load(&e->trainer);
	struct eval_stats stats = {0};
	*out = (struct site_evaluated){.loss = NAN, .accuracy = NAN};
	out->error = atomic_load(&e->cancelled) ? SAKIORI_ECANCELLED : set_adapter(e, t, x, NULL);
	if (out->error == 0)
		out->error = trainer_evaluate(t, &stats, NULL);
	if (out->error != 0)
		return;
	out->loss = stats.loss;
	out->accuracy = stats.accuracy;
	out->tokens = stats.tokens;
	size_t bytes = trainer_layout(t)->size * sizeof *e->evaluated;
	if (e->evaluated == NULL)
		e->evaluated = must_alloc(bytes);
	memcpy(e->evaluated, e->vector, bytes);
}

static void engine_cancel(void *self)
{
	struct engine *e = self;
	atomic_store(&e->cancelled, true);
	struct trainer *t = atomic_load(&e->trainer);
	if (t != NULL)
		trainer_cancel(t);
}

static void engine_close(void *self)
{
	struct engine *e = self;
	trainer_close(atomic_load(&e->trainer));
	e->trainer = NULL;
	free(e->vector);
	e->vector = NULL;
}

static int read_patterns(struct trainer_config *t, const struct config *c, struct fault *f)
{
	double ranks[LORA_TARGETS] = {0}, alphas[LORA_TARGETS] = {0};
	int rc = c->adapter.rank_pattern[0] ? lora_pattern_parse(c->adapter.rank_pattern, ranks, f) : 0;
	if (rc == 0 && c->adapter.alpha_pattern[0])
		rc = lora_pattern_parse(c->adapter.alpha_pattern, alphas, f);
	for (int i = 0; i < LORA_TARGETS && rc == 0; i++) {
		t->adapter.rank_pattern[i] = (size_t)ranks[i];
		t->adapter.alpha_pattern[i] = (float)alphas[i];
		if (ranks[i] != (double)t->adapter.rank_pattern[i])
			rc = fault_set(f, SAKIORI_ECONFIG, "adapter.rank_pattern: a rank is a whole number, found %g",
				ranks[i]);
	}
	return rc;
}

static int read_words(struct trainer_config *t, const struct config *c, struct fault *f)
{
	t->overlong = strcmp(c->data.over_long, "refuse") == 0 ? TRAINER_REFUSE : TRAINER_TRUNCATE;
	int rc = schedule_parse(c->optimizer.schedule, &t->schedule, f);
	if (rc == 0)
		rc = trainer_dtype_parse(c->model.base_dtype, &t->base_dtype, f);
	if (rc == 0)
		rc = trainer_memory_parse(c->model.memory, &t->memory, f);
	if (rc == 0)
		rc = variants_mode_parse(c->model.variants, &t->variants, f);
	if (rc == 0)
		rc = lora_targets_parse(c->adapter.targets, &t->adapter.targets, f);
	return rc == 0 ? read_patterns(t, c, f) : rc;
}

int engine_new(struct engine **out, const struct config *c, struct fault *f)
{
	*out = NULL;
	struct engine *e = must_calloc(1, sizeof *e);
	struct trainer_config *t = &e->config;
	trainer_config_default(t);
	int rc = read_words(t, c, f);
	if (rc != 0) {
		free(e);
		return rc;
	}
	t->model = e->model = must_strdup(c->model.path);
	t->data = e->train = must_strdup(c->data.train);
	e->eval = must_strdup(c->data.eval);
	t->eval = e->eval[0] != '\0' ? e->eval : NULL;
	t->device = e->device = must_strdup(c->model.device);
	size_t size = strlen(c->site.state_directory) + sizeof "/cache";
	t->cache = e->cache = must_alloc(size);
	snprintf(e->cache, size, "%s/cache", c->site.state_directory);
	t->no_token_cache = !c->data.token_cache;
	t->eval_rows = (size_t)c->data.eval_rows;
	t->batch_rows = (size_t)c->data.batch_rows;
	t->max_seq = (size_t)c->data.max_seq;
	t->micro_tokens = e->micro_tokens = (size_t)c->data.micro_tokens;
	t->adapter.rank = (size_t)c->adapter.rank;
	t->adapter.alpha = (float)c->adapter.alpha;
	t->adapter.rslora = c->adapter.rslora;
	t->dropout = c->adapter.dropout;
	t->lr = c->optimizer.lr;
	t->lora_plus = c->optimizer.lora_plus;
	t->decay = c->optimizer.decay_share;
	t->warmup = (uint64_t)c->optimizer.warmup_steps;
	t->total_steps = (uint64_t)c->run.rounds * (uint64_t)c->run.local_steps;
	t->weight_decay = c->optimizer.weight_decay;
	t->clip = c->optimizer.clip;
	t->seed = (uint64_t)c->run.seed;
	t->threads = (unsigned)c->model.threads;
	t->shuffle = true;
	t->progress = on_progress;
	t->progress_self = e;
	*out = e;
	return 0;
}

void engine_free(struct engine *e)
{
	if (e == NULL)
		return;
	free(e->model);
	free(e->train);
	free(e->eval);
	free(e->device);
	free(e->cache);
	free(e->evaluated);
	free(e);
}

struct worker_engine engine_functions(struct engine *e)
{
	return (struct worker_engine){.self = e,
		.open = engine_open,
		.train = engine_train,
		.evaluate = engine_evaluate,
		.cancel = engine_cancel,
		.close = engine_close};
}

float *engine_take_evaluated(struct engine *e)
{
	float *vector = e->evaluated;
	e->evaluated = NULL;
	return vector;
}

const struct lora_layout *engine_layout(const struct engine *e)
{
	return trainer_layout(atomic_load(&e->trainer));
}

void engine_fingerprint(const struct engine *e, uint8_t out[static HASH_SIZE])
{
	trainer_fingerprint(atomic_load(&e->trainer), out);
}

uint64_t engine_rows(const struct engine *e)
{
	return trainer_rows(atomic_load(&e->trainer));
}

uint64_t engine_eval_rows(const struct engine *e)
{
	return trainer_eval_rows(atomic_load(&e->trainer));
}

uint64_t engine_truncated_rows(const struct engine *e)
{
	return trainer_truncated_rows(atomic_load(&e->trainer));
}

size_t engine_memory_bytes(const struct engine *e)
{
	return trainer_memory_bytes(atomic_load(&e->trainer));
}

size_t engine_micro_tokens(const struct engine *e)
{
	return e->config.micro_tokens;
}

bool engine_device_lost(const struct engine *e)
{
	return atomic_load(&e->device_lost);
}
