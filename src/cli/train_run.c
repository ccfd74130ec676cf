/* SPDX-License-Identifier: Apache-2.0 */
/* Order of things at a step: update, log, evaluation (log, best adapter, samples), checkpoint. So whatever a checkpoint counts as done is in the
 * files, and what the files have beyond it is cut off when the run goes on. */
#include "cli/train_run.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "cli/engine.h"
#include "cli/train_log.h"
#include "cli/train_samples.h"
#include "formats/peft.h"
#include "train/resume.h"

/* What a continued run takes up, beside the trainer's own state. */
struct progress {
	uint64_t tokens;    /* of all steps */
	uint64_t evaluated; /* the last step that was evaluated; 0: none */
	double best_loss;   /* of all evaluations; NAN: none yet */
	uint64_t best_step;
	double patience_loss; /* below which patience begins anew; NAN: none yet */
	uint64_t impatience;  /* evaluations since */
};

struct run {
	const struct train_options *options;
	struct trainer *trainer;
	struct train_log log;
	struct train_samples samples;
	struct progress progress;
	char *checkpoint, *best; /* paths */
	uint64_t tokens;         /* of this process's steps */
	double seconds;
	double last_loss; /* NAN: no step yet */
};

static volatile sig_atomic_t stop_asked;

static void on_signal(int number)
{
	/* The step in progress is finished; a second signal ends at once. */
	stop_asked = number;
	signal(number, SIG_DFL);
}

/* ---- the checkpoint ---- */

enum state {
	STATE_TOKENS,
	STATE_EVALUATED,
	STATE_BEST_LOSS,
	STATE_BEST_STEP,
	STATE_PATIENCE_LOSS,
	STATE_IMPATIENCE,
	STATE_LOG,
	STATE_EVENTS,
	STATE_SAMPLES,
	STATES,
};

static const char *const state_names[STATES] = {"tokens-so-far", "evaluated-step", "best-loss", "best-step",
	"patience-loss", "impatience", "log-end", "tensorboard-end", "samples-end"};

enum { SETTINGS = 4 };

/* Named as the options that set them. */
static void gather_settings(const struct run *r, struct checkpoint_setting out[static SETTINGS])
{
	const struct train_options *o = r->options;
	uint8_t hash[HASH_SIZE];
	char hex[HASH_HEX_SIZE];
	trainer_eval_fingerprint(r->trainer, hash);
	hex_encode(hash, HASH_SIZE, hex);
	out[0].name = "eval";
	snprintf(out[0].value, sizeof out[0].value, "%s", o->eval ? hex : "none");
	out[1].name = "eval-every";
	snprintf(out[1].value, sizeof out[1].value, "%" PRIu64, o->eval_every);
	out[2].name = "patience";
	snprintf(out[2].value, sizeof out[2].value, "%" PRIu64, o->patience);
	out[3].name = "min-delta";
	snprintf(out[3].value, sizeof out[3].value, "%.17g", o->min_delta);
}

static void name_states(struct checkpoint_setting state[static STATES])
{
	memset(state, 0, STATES * sizeof *state);
	for (int i = 0; i < STATES; i++)
		state[i].name = state_names[i];
}

static int save(struct run *r, struct fault *f)
{
	const struct progress *p = &r->progress;
	struct checkpoint_setting settings[SETTINGS], state[STATES];
	struct train_log_marks marks;
	struct resume_run run = {settings, SETTINGS, state, STATES};
	const size_t size = sizeof state->value;
	int rc = train_log_mark(&r->log, &marks, f);
	if (rc)
		return rc;
	gather_settings(r, settings);
	name_states(state);
	snprintf(state[STATE_TOKENS].value, size, "%" PRIu64, p->tokens);
	snprintf(state[STATE_EVALUATED].value, size, "%" PRIu64, p->evaluated);
	snprintf(state[STATE_BEST_LOSS].value, size, "%.17g", p->best_loss);
	snprintf(state[STATE_BEST_STEP].value, size, "%" PRIu64, p->best_step);
	snprintf(state[STATE_PATIENCE_LOSS].value, size, "%.17g", p->patience_loss);
	snprintf(state[STATE_IMPATIENCE].value, size, "%" PRIu64, p->impatience);
	snprintf(state[STATE_LOG].value, size, "%s", marks.log);
	snprintf(state[STATE_EVENTS].value, size, "%s", marks.events);
	snprintf(state[STATE_SAMPLES].value, size, "%s", marks.samples);
	return resume_save(r->trainer, r->checkpoint, &run, f);
}

static int load(struct run *r, struct train_log_marks *marks, struct fault *f)
{
	struct progress *p = &r->progress;
	struct checkpoint_setting settings[SETTINGS], state[STATES];
	struct resume_run run = {settings, SETTINGS, state, STATES};
	gather_settings(r, settings);
	name_states(state);
	int rc = resume_load(r->trainer, r->checkpoint, &run, f);
	if (rc)
		return rc;
	p->tokens = strtoull(state[STATE_TOKENS].value, NULL, 10);
	p->evaluated = strtoull(state[STATE_EVALUATED].value, NULL, 10);
	p->best_loss = strtod(state[STATE_BEST_LOSS].value, NULL);
	p->best_step = strtoull(state[STATE_BEST_STEP].value, NULL, 10);
	p->patience_loss = strtod(state[STATE_PATIENCE_LOSS].value, NULL);
	p->impatience = strtoull(state[STATE_IMPATIENCE].value, NULL, 10);
	snprintf(marks->log, sizeof marks->log, "%s", state[STATE_LOG].value);
	snprintf(marks->events, sizeof marks->events, "%s", state[STATE_EVENTS].value);
	snprintf(marks->samples, sizeof marks->samples, "%s", state[STATE_SAMPLES].value);
	return 0;
}

/* ---- what is shown ---- */

static void show_start(const struct run *r)
{
	const struct trainer *t = r->trainer;
	const struct lora_layout *layout = trainer_layout(t);
	uint8_t hash[HASH_SIZE];
	char fingerprint[HASH_HEX_SIZE], orders[VARIANTS_TEXT];
	trainer_fingerprint(t, hash);
	hex_encode(hash, HASH_SIZE, fingerprint);
	if (r->options->json) {
		cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:o}", "event", "start",
			"step", (json_int_t)trainer_step_number(t), "steps", (json_int_t)trainer_config(t)->total_steps,
			"rows", (json_int_t)trainer_rows(t), "eval_rows", (json_int_t)trainer_eval_rows(t),
			"truncated_rows", (json_int_t)trainer_truncated_rows(t), "parameters", (json_int_t)layout->size,
			"memory_bytes", (json_int_t)trainer_memory_bytes(t), "base_fingerprint", fingerprint, "memory",
			memory_mode_name(trainer_config(t)->memory), "orders",
			engine_orders(trainer_variants(t), trainer_pass_tokens(t))));
		return;
	}
	cli_progress_end();
	printf("model %.16s, %" PRIu64 " rows (%" PRIu64 " truncated), %zu adapter parameters, %.2f GiB\n", fingerprint,
		trainer_rows(t), trainer_truncated_rows(t), layout->size, (double)trainer_memory_bytes(t) / 0x1p30);
	printf("memory mode %s; order of the adapter's products: %s\n", memory_mode_name(trainer_config(t)->memory),
		variants_describe(trainer_variants(t), trainer_pass_tokens(t), orders));
	if (trainer_step_number(t))
		printf("resuming after step %" PRIu64 "\n", trainer_step_number(t));
	fflush(stdout);
}

static double epoch(const struct run *r, uint64_t step)
{
	return (double)step * (double)trainer_config(r->trainer)->batch_rows / (double)trainer_rows(r->trainer);
}

static int show_step(struct run *r, const struct step_stats *s, struct fault *f)
{
	double speed = (double)s->tokens / s->seconds;
	struct train_log_step log = {.step = s->step, .loss = s->loss, .grad_norm = s->grad_norm, .lr = s->lr};
	r->tokens += s->tokens;
	r->progress.tokens += s->tokens;
	r->seconds += s->seconds;
	r->last_loss = s->loss;
	log.tokens = r->progress.tokens;
	log.epoch = epoch(r, s->step);
	if (r->options->json)
		cli_print_json(json_pack("{s:s, s:I, s:f, s:f, s:f, s:I, s:f, s:I}", "event", "step", "step",
			(json_int_t)s->step, "loss", s->loss, "grad_norm", s->grad_norm, "lr", s->lr, "tokens",
			(json_int_t)s->tokens, "tokens_per_second", speed, "memory_bytes",
			(json_int_t)trainer_memory_bytes(r->trainer)));
	else
		cli_progress("step %" PRIu64 "/%" PRIu64 "  loss %.4f  gradient %.3f  lr %.2e  %.0f tokens/s", s->step,
			trainer_config(r->trainer)->total_steps, s->loss, s->grad_norm, s->lr, speed);
	return train_log_step(&r->log, &log, f);
}

/* exp of what no training ends at is still a number. */
static double perplexity(double loss)
{
	return exp(fmin(loss, 700));
}

static void show_eval(const struct run *r, const struct eval_stats *e, bool best)
{
	uint64_t step = trainer_step_number(r->trainer);
	if (r->options->json) {
		cli_print_json(json_pack("{s:s, s:I, s:f, s:f, s:I, s:f, s:I, s:b}", "event", "eval", "step",
			(json_int_t)step, "loss", e->loss, "perplexity", perplexity(e->loss), "tokens",
			(json_int_t)e->tokens, "accuracy", e->accuracy, "rows", (json_int_t)e->rows, "best", best));
		return;
	}
	cli_progress_end();
	printf("step %" PRIu64 ": eval loss %.4f, perplexity %.3f, accuracy %.4f on %" PRIu64 " rows%s\n", step,
		e->loss, perplexity(e->loss), e->accuracy, e->rows, best ? ", the best so far" : "");
	fflush(stdout);
}

/* ---- evaluation ---- */

/* Whether the best adapter is kept. */
static bool keeps_best(const struct train_options *o)
{
	return o->eval && o->eval_every;
}

/* Takes an evaluation into account; true: the best so far. */
static bool judge(struct run *r, double loss)
{
	struct progress *p = &r->progress;
	bool best = isnan(p->best_loss) || loss < p->best_loss;
	if (best) {
		p->best_loss = loss;
		p->best_step = trainer_step_number(r->trainer);
	}
	if (isnan(p->patience_loss) || loss < p->patience_loss - r->options->min_delta) {
		p->patience_loss = loss;
		p->impatience = 0;
	} else {
		p->impatience++;
	}
	return best;
}

static int evaluate_rows(struct run *r, bool again, struct fault *f)
{
	uint64_t step = trainer_step_number(r->trainer);
	struct eval_stats e;
	int rc = trainer_evaluate(r->trainer, &e, f);
	if (rc)
		return rc;
	bool best = again ? r->progress.best_step == step : judge(r, e.loss);
	show_eval(r, &e, best);
	struct train_log_eval log = {.step = step,
		.epoch = epoch(r, step),
		.loss = e.loss,
		.perplexity = perplexity(e.loss),
		.accuracy = e.accuracy};
	if (!again)
		rc = train_log_eval(&r->log, &log, f);
	if (!rc && best && keeps_best(r->options))
		rc = trainer_save_peft(r->trainer, r->best, f);
	return rc;
}

/* A step that was evaluated before the run was interrupted is in the files already. */
static int evaluate(struct run *r, struct fault *f)
{
	uint64_t step = trainer_step_number(r->trainer);
	bool again = r->progress.evaluated >= step && step > 0;
	int rc = r->options->eval ? evaluate_rows(r, again, f) : 0;
	if (!rc && !again)
		rc = train_samples_write(&r->samples, r->trainer, &r->log, f);
	r->progress.evaluated = step;
	return rc;
}

static bool out_of_patience(const struct run *r)
{
	return r->options->patience && r->progress.impatience >= r->options->patience;
}

/* ---- the run ---- */

/* True every `period` steps; never when period is 0. */
static bool due(uint64_t period, uint64_t step)
{
	return period && step % period == 0;
}

static bool complete(const struct run *r)
{
	return trainer_step_number(r->trainer) >= trainer_config(r->trainer)->total_steps || out_of_patience(r);
}

static int train(struct run *r, struct fault *f)
{
	const struct train_options *o = r->options;
	uint64_t total = trainer_config(r->trainer)->total_steps;
	while (!complete(r) && !stop_asked) {
		struct step_stats stats;
		int rc = trainer_step(r->trainer, &stats, f);
		if (!rc)
			rc = show_step(r, &stats, f);
		if (!rc && due(o->eval_every, stats.step) && stats.step < total)
			rc = evaluate(r, f);
		if (!rc && due(o->save_every, stats.step) && stats.step < total)
			rc = save(r, f);
		if (rc)
			return rc;
	}
	return save(r, f);
}

static void show_done(const struct run *r)
{
	const struct progress *p = &r->progress;
	uint64_t steps = trainer_step_number(r->trainer);
	double speed = r->seconds > 0 ? (double)r->tokens / r->seconds : 0;
	bool best = keeps_best(r->options) && !isnan(p->best_loss);
	bool early = steps < trainer_config(r->trainer)->total_steps;
	if (r->options->json) {
		/* json_real gives NULL, here null, for a loss that there is not. */
		json_t *done = json_pack("{s:s, s:I, s:o?, s:I, s:f, s:f, s:s, s:b}", "event", "done", "steps",
			(json_int_t)steps, "loss", json_real(r->last_loss), "tokens", (json_int_t)r->tokens, "seconds",
			r->seconds, "tokens_per_second", speed, "adapter", r->options->out, "stopped_early", early);
		if (best)
			json_object_update_new(
				done, json_pack("{s:f, s:I, s:s}", "best_loss", p->best_loss, "best_step",
					      (json_int_t)p->best_step, "best_adapter", r->best));
		cli_print_json(done);
		return;
	}
	cli_progress_end();
	if (early)
		printf("stopped early: %" PRIu64 " evaluations without a lower loss\n", p->impatience);
	printf("%" PRIu64 " steps done", steps);
	if (r->seconds > 0)
		printf(", last loss %.4f, %.0f tokens/s", r->last_loss, speed);
	printf("; the adapter is in %s\n", r->options->out);
	if (best)
		printf("the best one, of step %" PRIu64 " with eval loss %.4f, is in %s\n", p->best_step, p->best_loss,
			r->best);
}

static int finish(struct run *r, struct fault *f)
{
	uint64_t before = r->progress.evaluated;
	int rc = trainer_save_peft(r->trainer, r->options->out, f);
	if (!rc && !out_of_patience(r))
		rc = evaluate(r, f);
	if (!rc && r->progress.evaluated != before)
		rc = save(r, f);
	if (!rc)
		show_done(r);
	return rc;
}

static int interrupted(const struct run *r)
{
	cli_progress_end();
	fprintf(stderr,
		"sakiori train: stopped after step %" PRIu64 " of %" PRIu64
		"; the same command with --resume goes on from %s\n",
		trainer_step_number(r->trainer), trainer_config(r->trainer)->total_steps, r->checkpoint);
	return EXIT_CODE_FAILURE;
}

/* DIR/ and DIR are one adapter: DIR.checkpoint and DIR.best lie beside it. */
static char *beside(const char *out, const char *suffix)
{
	size_t n = strlen(out);
	while (n > 1 && out[n - 1] == '/')
		n--;
	char *path = must_alloc(n + strlen(suffix) + 1);
	memcpy(path, out, n);
	strcpy(path + n, suffix);
	return path;
}

/* The places where the run will write are looked at before anything is loaded. */
static int prepare_places(const struct run *r, struct fault *f)
{
	const struct train_options *o = r->options;
	if (o->resume && access(r->checkpoint, F_OK) != 0)
		return fault_errno(f, "nothing to resume: %s", r->checkpoint);
	int rc = peft_prepare(o->out, f);
	return rc || !keeps_best(o) ? rc : peft_prepare(r->best, f);
}

static int prepare(struct run *r, struct trainer_config *config, struct fault *f)
{
	const struct train_options *o = r->options;
	struct train_log_places places = {.log = o->log, .tensorboard = o->tensorboard, .samples = o->samples};
	struct train_log_marks marks;
	int rc = prepare_places(r, f);
	if (!rc)
		rc = train_samples_open(&r->samples, o, &config->text_tokens, f);
	if (!rc && !o->resume)
		rc = train_log_open(&r->log, &places, NULL, f);
	if (!rc)
		rc = trainer_open(config, &r->trainer, f);
	if (!rc && o->init_adapter)
		rc = trainer_load_peft(r->trainer, o->init_adapter, f);
	if (!rc && o->resume)
		rc = load(r, &marks, f);
	if (!rc && o->resume)
		rc = train_log_open(&r->log, &places, &marks, f);
	return rc;
}

int train_run(const struct train_options *options, struct trainer_config *config)
{
	struct run r = {.options = options, .last_loss = NAN, .progress = {.best_loss = NAN, .patience_loss = NAN}};
	struct fault f = {0};
	r.checkpoint = beside(options->out, ".checkpoint");
	r.best = beside(options->out, ".best");
	/* sigaction without SA_RESTART would fail reads while loading. */
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	int rc = prepare(&r, config, &f);
	if (!rc) {
		show_start(&r);
		rc = train(&r, &f);
	}
	bool whole = !rc && complete(&r);
	if (whole)
		rc = finish(&r, &f);
	int code = rc ? cli_fail(&f) : whole ? EXIT_CODE_OK : interrupted(&r);
	trainer_close(r.trainer);
	train_samples_close(&r.samples);
	train_log_close(&r.log);
	free(r.checkpoint);
	free(r.best);
	return code;
}
