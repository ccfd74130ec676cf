/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori train: fine-tunes an adapter on one site, without a daemon. */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "cli/cli.h"
#include "cli/engine.h"
#include "formats/peft.h"
#include "train/resume.h"
#include "train/trainer.h"

/* All of the command line, as it was read. */
struct train_options {
	const char *model, *data, *eval, *out, *device, *targets, *schedule, *base_dtype, *over_long, *init_adapter;
	const char *memory, *variants;
	uint64_t steps, batch, seq, rank, seed, micro_tokens, threads, warmup, eval_every, eval_rows, save_every;
	double alpha, lr, weight_decay, clip;
	bool resume, deterministic, no_shuffle, json;
};

struct run {
	const struct train_options *options;
	struct trainer *trainer;
	char *checkpoint; /* path */
	uint64_t tokens;
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

static int read_options(int argc, char **argv, struct train_options *o)
{
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o->model, "FILE", "GGUF file of the base model"},
		{"data", CLI_TEXT, &o->data, "FILE", "training rows, JSONL"},
		{"eval", CLI_TEXT, &o->eval, "FILE", "evaluation rows, JSONL"},
		{"out", CLI_TEXT, &o->out, "DIR", "the adapter, a PEFT folder; the run's checkpoint lies beside it"},
		{"device", CLI_TEXT, &o->device, "NAME", "cpu (default) or cuda[:N]"},
		{"steps", CLI_COUNT, &o->steps, "N", "optimizer steps; default: one pass over the rows"},
		{"batch", CLI_COUNT, &o->batch, "N", "rows a step (4)"},
		{"seq", CLI_COUNT, &o->seq, "N", "tokens a row at most (512)"},
		{"rank", CLI_COUNT, &o->rank, "R", "rank of the adapter (16)"},
		{"alpha", CLI_NUMBER, &o->alpha, "A", "the adapter counts alpha / rank times; default: twice the rank"},
		{"targets", CLI_TEXT, &o->targets, "LIST", "all (default), or some of q,k,v,o,gate,up,down"},
		{"lr", CLI_NUMBER, &o->lr, "X", "peak learning rate (2e-4)"},
		{"schedule", CLI_TEXT, &o->schedule, "NAME", "constant, linear (default) or cosine"},
		{"warmup", CLI_COUNT, &o->warmup, "N", "steps of linear warm-up (0)"},
		{"weight-decay", CLI_NUMBER, &o->weight_decay, "X", "decoupled decay (0)"},
		{"clip", CLI_NUMBER, &o->clip, "X", "greatest gradient norm; 0 = any (1)"},
		{"seed", CLI_COUNT, &o->seed, "S", "of the first adapter values and the order of the rows (0)"},
		{"no-shuffle", CLI_FLAG, &o->no_shuffle, NULL, "take the rows in the order of the file"},
		{"over-long", CLI_TEXT, &o->over_long, "WORD", "rows above --seq: truncate (default) or refuse"},
		{"base-dtype", CLI_TEXT, &o->base_dtype, "TYPE",
			"bf16 (default), f32, q4, as-stored; on a GPU also fp8"},
		{"memory", CLI_TEXT, &o->memory, "MODE",
			"kept for the backward pass: auto (default), keep, selective, offload, blocks, blocks-offload"},
		{"variants", CLI_TEXT, &o->variants, "WORD",
			"order of the adapter's products: cost (default), fixed, timed or timed-merged"},
		{"micro-tokens", CLI_COUNT, &o->micro_tokens, "N",
			"tokens computed at once; sets memory (default: 2048, or --seq)"},
		{"threads", CLI_COUNT, &o->threads, "N", "default: one a core"},
		{"init-adapter", CLI_TEXT, &o->init_adapter, "DIR", "begin with this PEFT adapter"},
		{"eval-every", CLI_COUNT, &o->eval_every, "N", "evaluate every N steps; default: at the end"},
		{"eval-rows", CLI_COUNT, &o->eval_rows, "N", "evaluate on the first N rows; default: all"},
		{"save-every", CLI_COUNT, &o->save_every, "N",
			"write the checkpoint every N steps; default: at the end"},
		{"resume", CLI_FLAG, &o->resume, NULL, "go on from the checkpoint beside --out"},
		{"deterministic", CLI_FLAG, &o->deterministic, NULL,
			"the same bits on the same CUDA device, slower; the CPU always is"},
		{"json", CLI_FLAG, &o->json, NULL, "one JSON object a line: start, step, eval, done"},
		{0},
	};
	int code = cli_parse(argc, argv, "--model FILE --data FILE --out DIR [OPTION]...", table, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (!o->model || !o->data || !o->out)
		return cli_usage(argv[0], "%s is missing", !o->model ? "--model" : !o->data ? "--data" : "--out");
	if (o->resume && o->init_adapter)
		return cli_usage(argv[0], "--resume goes on with its own adapter; leave out --init-adapter");
	return CLI_CONTINUE;
}

static int make_config(const struct train_options *o, struct trainer_config *c, struct fault *f)
{
	trainer_config_default(c);
	c->model = o->model;
	c->data = o->data;
	c->eval = o->eval;
	c->eval_rows = o->eval_rows;
	c->batch_rows = o->batch;
	c->max_seq = o->seq;
	c->micro_tokens = o->micro_tokens;
	c->adapter.rank = o->rank;
	c->adapter.alpha = (float)o->alpha;
	c->lr = o->lr;
	c->warmup = o->warmup;
	c->total_steps = o->steps;
	c->weight_decay = o->weight_decay;
	c->clip = o->clip;
	c->seed = o->seed;
	c->threads = o->threads > 4096 ? 4096 : (unsigned)o->threads;
	c->device = o->device;
	c->cache = engine_cache();
	c->shuffle = !o->no_shuffle;
	c->deterministic = o->deterministic;
	c->progress = engine_show_loading;
	int rc = engine_read_targets(o->targets, &c->adapter.targets, f);
	if (!rc)
		rc = engine_read_schedule(o->schedule, &c->schedule, f);
	if (!rc)
		rc = engine_read_dtype(o->base_dtype, &c->base_dtype, f);
	if (!rc)
		rc = engine_read_memory(o->memory, &c->memory, f);
	if (!rc)
		rc = engine_read_variants(o->variants, &c->variants, f);
	if (!rc)
		rc = engine_read_overlong(o->over_long, &c->overlong, f);
	return rc ? rc : engine_check(c, f);
}

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

static void show_step(struct run *r, const struct step_stats *s)
{
	double speed = (double)s->tokens / s->seconds;
	r->tokens += s->tokens;
	r->seconds += s->seconds;
	r->last_loss = s->loss;
	if (r->options->json)
		cli_print_json(json_pack("{s:s, s:I, s:f, s:f, s:f, s:I, s:f, s:I}", "event", "step", "step",
			(json_int_t)s->step, "loss", s->loss, "grad_norm", s->grad_norm, "lr", s->lr, "tokens",
			(json_int_t)s->tokens, "tokens_per_second", speed, "memory_bytes",
			(json_int_t)trainer_memory_bytes(r->trainer)));
	else
		cli_progress("step %" PRIu64 "/%" PRIu64 "  loss %.4f  gradient %.3f  lr %.2e  %.0f tokens/s", s->step,
			trainer_config(r->trainer)->total_steps, s->loss, s->grad_norm, s->lr, speed);
}

static int evaluate(struct run *r, struct fault *f)
{
	struct eval_stats e;
	int rc = trainer_evaluate(r->trainer, &e, f);
	if (rc)
		return rc;
	if (r->options->json) {
		cli_print_json(json_pack("{s:s, s:I, s:f, s:I, s:f, s:I}", "event", "eval", "step",
			(json_int_t)trainer_step_number(r->trainer), "loss", e.loss, "tokens", (json_int_t)e.tokens,
			"accuracy", e.accuracy, "rows", (json_int_t)e.rows));
		return 0;
	}
	cli_progress_end();
	printf("step %" PRIu64 ": eval loss %.4f, accuracy %.4f on %" PRIu64 " rows\n", trainer_step_number(r->trainer),
		e.loss, e.accuracy, e.rows);
	fflush(stdout);
	return 0;
}

/* True every `period` steps; never when period is 0. */
static bool due(uint64_t period, uint64_t step)
{
	return period && step % period == 0;
}

static int train(struct run *r, struct fault *f)
{
	const struct train_options *o = r->options;
	uint64_t total = trainer_config(r->trainer)->total_steps;
	while (trainer_step_number(r->trainer) < total && !stop_asked) {
		struct step_stats stats;
		int rc = trainer_step(r->trainer, &stats, f);
		if (rc)
			return rc;
		show_step(r, &stats);
		if (due(o->save_every, stats.step) && stats.step < total)
			rc = resume_save(r->trainer, r->checkpoint, NULL, f);
		if (!rc && o->eval && due(o->eval_every, stats.step) && stats.step < total)
			rc = evaluate(r, f);
		if (rc)
			return rc;
	}
	return resume_save(r->trainer, r->checkpoint, NULL, f);
}

static int finish(struct run *r, struct fault *f)
{
	int rc = trainer_save_peft(r->trainer, r->options->out, f);
	if (!rc && r->options->eval)
		rc = evaluate(r, f);
	if (rc)
		return rc;
	uint64_t steps = trainer_step_number(r->trainer);
	double speed = r->seconds > 0 ? (double)r->tokens / r->seconds : 0;
	if (r->options->json) {
		/* json_real gives NULL, here null, for a loss that there is not. */
		cli_print_json(json_pack("{s:s, s:I, s:o?, s:I, s:f, s:f, s:s}", "event", "done", "steps",
			(json_int_t)steps, "loss", json_real(r->last_loss), "tokens", (json_int_t)r->tokens, "seconds",
			r->seconds, "tokens_per_second", speed, "adapter", r->options->out));
		return 0;
	}
	cli_progress_end();
	printf("%" PRIu64 " steps done", steps);
	if (r->seconds > 0)
		printf(", last loss %.4f, %.0f tokens/s", r->last_loss, speed);
	printf("; the adapter is in %s\n", r->options->out);
	return 0;
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

/* DIR/ and DIR are one adapter: DIR.checkpoint lies beside it. */
static char *checkpoint_path(const char *out)
{
	size_t n = strlen(out);
	while (n > 1 && out[n - 1] == '/')
		n--;
	char *path = must_alloc(n + sizeof ".checkpoint");
	memcpy(path, out, n);
	strcpy(path + n, ".checkpoint");
	return path;
}

static int prepare(struct run *r, const struct trainer_config *config, struct fault *f)
{
	const struct train_options *o = r->options;
	if (o->resume && access(r->checkpoint, F_OK) != 0)
		return fault_errno(f, "nothing to resume: %s", r->checkpoint);
	int rc = peft_prepare(o->out, f);
	if (!rc)
		rc = trainer_open(config, &r->trainer, f);
	if (!rc && o->init_adapter)
		rc = trainer_load_peft(r->trainer, o->init_adapter, f);
	if (!rc && o->resume)
		rc = resume_load(r->trainer, r->checkpoint, NULL, f);
	return rc;
}

int cmd_train(int argc, char **argv)
{
	struct train_options o = {.device = "cpu",
		.targets = "all",
		.schedule = "linear",
		.base_dtype = "bf16",
		.memory = "auto",
		.variants = "cost",
		.over_long = "truncate",
		.batch = 4,
		.seq = 512,
		.rank = 16,
		.lr = 2e-4,
		.clip = 1};
	struct run r = {.options = &o, .last_loss = NAN};
	struct trainer_config config;
	struct fault f = {0};
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	if (make_config(&o, &config, &f))
		return cli_fail(&f);
	r.checkpoint = checkpoint_path(o.out);
	/* sigaction without SA_RESTART would fail reads while loading. */
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	int rc = prepare(&r, &config, &f);
	if (!rc) {
		show_start(&r);
		rc = train(&r, &f);
	}
	bool complete = !rc && trainer_step_number(r.trainer) >= trainer_config(r.trainer)->total_steps;
	if (complete)
		rc = finish(&r, &f);
	code = rc ? cli_fail(&f) : complete ? EXIT_CODE_OK : interrupted(&r);
	trainer_close(r.trainer);
	free(r.checkpoint);
	return code;
}
