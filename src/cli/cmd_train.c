/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori train: fine-tunes an adapter on one site, without a daemon. The run itself is train_run.c. */
#include "cli/cli.h"
#include "cli/engine.h"
#include "cli/train_run.h"

/* What only means something together with something else. */
static int check_evaluation(const char *command, const struct train_options *o)
{
	bool prompts = o->sample_prompt.count || o->sample_prompts;
	if (o->patience && (!o->eval || !o->eval_every))
		return cli_usage(command, "--patience counts evaluations: add --eval FILE and --eval-every N");
	if (o->min_delta < 0)
		return cli_usage(command, "--min-delta: expected 0 or more");
	if (o->samples && !prompts)
		return cli_usage(command, "--samples: add --sample-prompt TEXT or --sample-prompts FILE");
	if (prompts && !o->samples)
		return cli_usage(command, "samples go to a file of their own: add --samples FILE");
	if (o->samples && !o->sample_tokens)
		return cli_usage(command, "--sample-tokens: expected 1 or more");
	return CLI_CONTINUE;
}

static int read_options(int argc, char **argv, struct train_options *o)
{
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o->model, "FILE", "the base model: GGUF file or Hugging Face folder"},
		{"data", CLI_TEXT, &o->data, "FILE", "training rows, JSONL"},
		{"eval", CLI_TEXT, &o->eval, "FILE", "evaluation rows, JSONL"},
		{"out", CLI_TEXT, &o->out, "DIR", "the adapter, a PEFT folder; the run's checkpoint lies beside it"},
		{"device", CLI_TEXT, &o->device, "NAME", "cpu (default) or cuda[:N]"},
		{"steps", CLI_COUNT, &o->steps, "N", "optimizer steps; default: one pass over the rows"},
		{"batch", CLI_COUNT, &o->batch, "N", "rows a step (4)"},
		{"seq", CLI_COUNT, &o->seq, "N", "tokens a row at most (512)"},
		{"rank", CLI_COUNT, &o->rank, "R", "rank of the adapter (16)"},
		{"alpha", CLI_NUMBER, &o->alpha, "A", "the adapter counts alpha / rank times; default: twice the rank"},
		{"rslora", CLI_FLAG, &o->rslora, NULL, "the adapter counts alpha / sqrt(rank) times"},
		{"rank-pattern", CLI_TEXT, &o->rank_pattern, "LIST", "ranks of some targets: q=8,down=32"},
		{"alpha-pattern", CLI_TEXT, &o->alpha_pattern, "LIST", "alphas of some targets: q=16,down=64"},
		{"dropout", CLI_NUMBER, &o->dropout, "P", "share of the adapter's inputs left out of a step (0)"},
		{"targets", CLI_TEXT, &o->targets, "LIST", "all (default), or some of q,k,v,o,gate,up,down"},
		{"lr", CLI_NUMBER, &o->lr, "X", "peak learning rate (2e-4)"},
		{"lora-plus", CLI_NUMBER, &o->lora_plus, "RATIO", "B learns so many times as fast as A (1)"},
		{"schedule", CLI_TEXT, &o->schedule, "NAME", "constant, linear (default), cosine or wsd"},
		{"decay-share", CLI_NUMBER, &o->decay_share, "X",
			"wsd: share of the steps in which the rate falls (0.2)"},
		{"warmup", CLI_COUNT, &o->warmup, "N", "steps of linear warm-up (0)"},
		{"weight-decay", CLI_NUMBER, &o->weight_decay, "X", "decoupled decay (0)"},
		{"clip", CLI_NUMBER, &o->clip, "X", "greatest gradient norm; 0 = any (1)"},
		{"seed", CLI_COUNT, &o->seed, "S",
			"of the first adapter values, the order of the rows and dropout (0)"},
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
		{"eval-every", CLI_COUNT, &o->eval_every, "N",
			"evaluate every N steps, and keep the best adapter in DIR.best; default: at the end"},
		{"eval-rows", CLI_COUNT, &o->eval_rows, "N", "evaluate on the first N rows; default: all"},
		{"patience", CLI_COUNT, &o->patience, "K", "stop after K evaluations in a row without a lower loss"},
		{"min-delta", CLI_NUMBER, &o->min_delta, "X", "what a lower loss is lower by, for --patience (0)"},
		{"log", CLI_TEXT, &o->log, "FILE", "a JSON object a step, with Hugging Face's names"},
		{"tensorboard", CLI_TEXT, &o->tensorboard, "DIR", "events for TensorBoard"},
		{"samples", CLI_TEXT, &o->samples, "FILE", "at each evaluation, what the model makes of the prompts"},
		{"sample-prompt", CLI_TEXTS, &o->sample_prompt, "TEXT", "a prompt; may be given again"},
		{"sample-prompts", CLI_TEXT, &o->sample_prompts, "FILE", "prompts, one a line"},
		{"sample-chat", CLI_FLAG, &o->sample_chat, NULL,
			"prompts are a user's turn in the model's chat template"},
		{"sample-tokens", CLI_COUNT, &o->sample_tokens, "N", "tokens a sample at most (64)"},
		{"save-every", CLI_COUNT, &o->save_every, "N",
			"write the checkpoint every N steps; default: at the end"},
		{"resume", CLI_FLAG, &o->resume, NULL, "go on from the checkpoint beside --out"},
		{"deterministic", CLI_FLAG, &o->deterministic, NULL,
			"the same bits on the same CUDA device, slower; the CPU always is"},
		{"no-token-cache", CLI_FLAG, &o->no_token_cache, NULL,
			"keep no tokens of large data on disk, hold them in memory"},
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
	return check_evaluation(argv[0], o);
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
	c->adapter.rslora = o->rslora;
	c->dropout = o->dropout;
	c->lora_plus = o->lora_plus;
	c->decay = o->decay_share;
	c->lr = o->lr;
	c->warmup = o->warmup;
	c->total_steps = o->steps;
	c->weight_decay = o->weight_decay;
	c->clip = o->clip;
	c->seed = o->seed;
	c->threads = o->threads > 4096 ? 4096 : (unsigned)o->threads;
	c->device = o->device;
	c->cache = engine_cache();
	c->no_token_cache = o->no_token_cache;
	c->shuffle = !o->no_shuffle;
	c->deterministic = o->deterministic;
	c->progress = engine_show_loading;
	int rc = engine_read_targets(o->targets, &c->adapter.targets, f);
	if (!rc)
		rc = engine_read_rank_pattern(o->rank_pattern, c->adapter.rank_pattern, f);
	if (!rc)
		rc = engine_read_alpha_pattern(o->alpha_pattern, c->adapter.alpha_pattern, f);
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
		.lora_plus = 1,
		.decay_share = 0.2,
		.sample_tokens = 64,
		.clip = 1};
	struct trainer_config config;
	struct fault f = {0};
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	if (make_config(&o, &config, &f))
		return cli_fail(&f);
	return train_run(&o, &config);
}
