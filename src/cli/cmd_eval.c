/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori eval: loss and accuracy of a model, perhaps with an adapter, on rows. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/engine.h"
#include "train/lora_peft.h"
#include "train/trainer.h"

struct eval_options {
	const char *model, *adapter, *data, *device, *base_dtype, *over_long;
	uint64_t seq, rows, micro_tokens, threads;
	bool no_token_cache, json;
};

static int read_options(int argc, char **argv, struct eval_options *o)
{
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o->model, "FILE", "the base model: GGUF file or Hugging Face folder"},
		{"adapter", CLI_TEXT, &o->adapter, "DIR", "PEFT folder; default: the base model alone"},
		{"data", CLI_TEXT, &o->data, "FILE", "rows, JSONL"},
		{"device", CLI_TEXT, &o->device, "NAME", "cpu (default) or cuda[:N]"},
		{"rows", CLI_COUNT, &o->rows, "N", "the first N rows; default: all"},
		{"seq", CLI_COUNT, &o->seq, "N", "tokens a row at most (512)"},
		{"over-long", CLI_TEXT, &o->over_long, "WORD", "rows above --seq: truncate (default) or refuse"},
		{"base-dtype", CLI_TEXT, &o->base_dtype, "TYPE",
			"bf16 (default), f32, q4, as-stored; on a GPU also fp8"},
		{"micro-tokens", CLI_COUNT, &o->micro_tokens, "N", "tokens computed at once; sets memory"},
		{"threads", CLI_COUNT, &o->threads, "N", "default: one a core"},
		{"no-token-cache", CLI_FLAG, &o->no_token_cache, NULL,
			"keep no tokens of large data on disk, hold them in memory"},
		{"json", CLI_FLAG, &o->json, NULL, "print one JSON object"},
		{0},
	};
	int code = cli_parse(argc, argv, "--model FILE [--adapter DIR] --data FILE [OPTION]...", table, 0, NULL);
	if (code == CLI_CONTINUE && (!o->model || !o->data))
		return cli_usage(argv[0], "%s is missing", !o->model ? "--model" : "--data");
	return code;
}

static int evaluate(const struct eval_options *o, struct eval_stats *stats, uint64_t *truncated, struct fault *f)
{
	struct trainer_config c;
	struct lora_settings settings;
	struct trainer *t = NULL;
	trainer_config_default(&c);
	c.model = o->model;
	c.eval = o->data;
	c.eval_rows = o->rows;
	c.max_seq = o->seq;
	c.micro_tokens = o->micro_tokens;
	c.threads = o->threads > 4096 ? 4096 : (unsigned)o->threads;
	c.device = o->device;
	c.cache = engine_cache();
	c.no_token_cache = o->no_token_cache;
	c.progress = engine_show_loading;
	int rc = engine_read_dtype(o->base_dtype, &c.base_dtype, f);
	if (!rc)
		rc = engine_read_overlong(o->over_long, &c.overlong, f);
	if (!rc && o->adapter) {
		rc = lora_peft_settings(o->adapter, &settings, f);
		if (!rc)
			c.adapter = settings;
	}
	if (!rc)
		rc = engine_check(&c, f);
	if (!rc)
		rc = trainer_open(&c, &t, f);
	if (!rc && o->adapter)
		rc = trainer_load_peft(t, o->adapter, f);
	if (!rc) {
		*truncated = trainer_truncated_rows(t);
		rc = o->adapter ? trainer_evaluate(t, stats, f) : trainer_evaluate_base(t, stats, f);
	}
	trainer_close(t);
	return rc;
}

int cmd_eval(int argc, char **argv)
{
	struct eval_options o = {.device = "cpu", .base_dtype = "bf16", .over_long = "truncate", .seq = 512};
	struct eval_stats stats;
	struct fault f = {0};
	uint64_t truncated = 0;
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	if (evaluate(&o, &stats, &truncated, &f))
		return cli_fail(&f);
	cli_progress_end();
	if (o.json)
		cli_print_json(json_pack("{s:f, s:I, s:f, s:I, s:I}", "loss", stats.loss, "tokens",
			(json_int_t)stats.tokens, "accuracy", stats.accuracy, "rows", (json_int_t)stats.rows,
			"truncated_rows", (json_int_t)truncated));
	else
		printf("loss %.4f nats a token over %" PRIu64 " tokens, accuracy %.4f over %" PRIu64 " rows (%" PRIu64
		       " truncated)\n",
			stats.loss, stats.tokens, stats.accuracy, stats.rows, truncated);
	return EXIT_CODE_OK;
}
