/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori bench train: the trainer's own step, optimizer included, on rows of random tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/engine.h"
#include "train/trainer.h"

struct options {
	const char *model, *device, *targets, *base_dtype, *memory, *variants;
	uint64_t batch, seq, rank, steps, warmup, micro_tokens, threads, seed;
	bool deterministic, no_ceiling, json;
};

struct result {
	double seconds;  /* median of a step */
	double loss;     /* of the last step */
	uint64_t tokens; /* of a step */
	double flops;    /* model FLOPs a token */
	double ceiling;  /* FLOP/s; 0: not measured */
	struct device_memory memory;
	struct trainer_bytes bytes;
	enum memory_mode mode; /* in use */
};

static int read_options(int argc, char **argv, struct options *o)
{
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o->model, "FILE",
			"GGUF file, folder, or shape:NAME for random weights of a known shape"},
		{"device", CLI_TEXT, &o->device, "NAME", "cpu (default) or cuda[:N]"},
		{"batch", CLI_COUNT, &o->batch, "N", "rows a step (2)"},
		{"seq", CLI_COUNT, &o->seq, "N", "tokens of every row (2048)"},
		{"rank", CLI_COUNT, &o->rank, "R", "rank of the adapter (16)"},
		{"targets", CLI_TEXT, &o->targets, "LIST", "all (default), or some of q,k,v,o,gate,up,down"},
		{"steps", CLI_COUNT, &o->steps, "N", "steps that are measured (10)"},
		{"warmup", CLI_COUNT, &o->warmup, "N", "steps before them (3)"},
		{"base-dtype", CLI_TEXT, &o->base_dtype, "TYPE",
			"bf16 (default), f32, q4, as-stored; on a GPU also fp8"},
		{"memory", CLI_TEXT, &o->memory, "MODE",
			"kept for the backward pass: auto (default), keep, selective, offload, blocks, blocks-offload"},
		{"variants", CLI_TEXT, &o->variants, "WORD",
			"order of the adapter's products: cost (default), fixed, timed or timed-merged"},
		{"micro-tokens", CLI_COUNT, &o->micro_tokens, "N", "tokens computed at once; default: the whole batch"},
		{"threads", CLI_COUNT, &o->threads, "N", "default: one a core"},
		{"seed", CLI_COUNT, &o->seed, "S", "of the adapter and the rows (0)"},
		{"deterministic", CLI_FLAG, &o->deterministic, NULL, "the same bits on the same CUDA device"},
		{"no-ceiling", CLI_FLAG, &o->no_ceiling, NULL, "do not measure the rate of a plain product"},
		{"json", CLI_FLAG, &o->json, NULL, "print one JSON object"},
		{0},
	};
	int code = cli_parse(argc, argv, "--model FILE [OPTION]...", table, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (!o->model)
		return cli_usage(argv[0], "--model is missing");
	if (o->steps < 1 || o->steps > 100000 || o->warmup > 100000)
		return cli_usage(argv[0], "expected 1 to 100000 steps, at most 100000 before them");
	return CLI_CONTINUE;
}

static int make_config(const struct options *o, struct trainer_config *c, struct fault *f)
{
	uint64_t tokens;
	trainer_config_default(c);
	if (__builtin_mul_overflow(o->batch, o->seq, &tokens) || tokens > 1 << 20)
		return fault_set(f, SAKIORI_EUSAGE, "--batch times --seq: expected at most %d tokens", 1 << 20);
	c->model = o->model;
	c->random_rows = o->batch;
	c->batch_rows = o->batch;
	c->max_seq = o->seq;
	c->micro_tokens = o->micro_tokens ? o->micro_tokens : tokens;
	c->adapter.rank = o->rank;
	c->total_steps = o->warmup + o->steps;
	c->seed = o->seed;
	c->threads = o->threads > 4096 ? 4096 : (unsigned)o->threads;
	c->device = o->device;
	c->cache = engine_cache();
	c->shuffle = false;
	c->deterministic = o->deterministic;
	c->progress = engine_show_loading;
	int rc = engine_read_targets(o->targets, &c->adapter.targets, f);
	if (!rc)
		rc = engine_read_dtype(o->base_dtype, &c->base_dtype, f);
	if (!rc)
		rc = engine_read_memory(o->memory, &c->memory, f);
	if (!rc)
		rc = engine_read_variants(o->variants, &c->variants, f);
	return rc ? rc : engine_check(c, f);
}

/* Model FLOPs a token of the step: what the mathematics asks for. Attention counts the half of the scores that the causal mask leaves,
 * the backward pass of a frozen matrix its dx alone, the output head the labelled tokens; nothing that is computed twice counts twice. */
static double model_flops(const struct trainer *t, const struct step_stats *step, double seq)
{
	const struct model_shape *s = trainer_shape(t);
	const struct lora_layout *layout = trainer_layout(t);
	double hidden = s->hidden, query = (double)s->heads * s->head_size, key = (double)s->kv_heads * s->head_size;
	double linears = s->layers * (2 * hidden * query + 2 * hidden * key + 3 * hidden * s->intermediate);
	double head = hidden * s->vocabulary * (double)step->labelled / (double)step->tokens;
	double attention = 4 * (seq / 2) * query * s->layers;
	return 4 * linears + 4 * head + 6 * (double)layout->size + 3 * attention;
}

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static int run_steps(const struct options *o, struct trainer *t, struct result *r, struct fault *f)
{
	double *seconds = must_calloc(o->steps, sizeof *seconds);
	struct step_stats step = {0};
	int rc = 0;
	double before = bench_now();
	for (uint64_t i = 0; i < o->warmup + o->steps && !rc; i++) {
		rc = trainer_step(t, &step, f);
		/* From the end of one step to the end of the next: what a device still does when a step returns is in it. */
		double now = bench_now();
		if (i >= o->warmup)
			seconds[i - o->warmup] = now - before;
		before = now;
		cli_progress(
			"step %llu of %llu", (unsigned long long)(i + 1), (unsigned long long)(o->warmup + o->steps));
	}
	if (!rc) {
		qsort(seconds, o->steps, sizeof *seconds, by_size);
		r->seconds = seconds[o->steps / 2];
		r->loss = step.loss;
		r->tokens = step.tokens;
		r->flops = model_flops(t, &step, (double)o->seq);
		trainer_device_memory(t, &r->memory);
		trainer_bytes(t, &r->bytes);
		r->mode = trainer_config(t)->memory;
	}
	free(seconds);
	return rc;
}

/* After the trainer is gone, on the same warm device. */
static int measure_ceiling(const struct trainer_config *c, double *flops, struct fault *f)
{
	const struct device_config device = {
		.name = c->device, .threads = c->threads, .act = trainer_act(c->base_dtype), .cache = c->cache};
	struct bench b;
	int rc = bench_open(&b, &device, f);
	if (rc)
		return rc;
	rc = bench_ceiling(&b, flops, f);
	bench_close(&b);
	return rc;
}

static void show(const struct options *o, const struct result *r)
{
	double speed = (double)r->tokens / r->seconds, rate = speed * r->flops;
	if (o->json) {
		json_t *line = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:I, "
					 "s:I, s:f, s:f, s:f}",
			"event", "bench", "model", o->model, "device", o->device, "base_dtype", o->base_dtype, "memory",
			memory_mode_name(r->mode), "variants", o->variants, "batch", (json_int_t)o->batch, "seq",
			(json_int_t)o->seq, "rank", (json_int_t)o->rank, "steps", (json_int_t)o->steps,
			"tokens_per_second", speed, "step_ms", r->seconds * 1e3, "peak_bytes",
			(json_int_t)r->memory.peak, "weight_bytes", (json_int_t)r->bytes.weights, "adapter_bytes",
			(json_int_t)r->bytes.adapter, "activation_bytes", (json_int_t)r->bytes.activations,
			"flops_per_token", r->flops, "tflops", rate / 1e12, "loss", r->loss);
		if (r->ceiling > 0) {
			json_object_set_new(line, "ceiling_tflops", json_real(r->ceiling / 1e12));
			json_object_set_new(line, "share_of_ceiling", json_real(rate / r->ceiling));
		}
		cli_print_json(line);
		return;
	}
	cli_progress_end();
	printf("%s on %s, %s, %llux%llu, rank %llu\n", o->model, o->device, o->base_dtype, (unsigned long long)o->batch,
		(unsigned long long)o->seq, (unsigned long long)o->rank);
	printf("%.0f tokens/s, %.2f ms a step (median of %llu), loss %.4f\n", speed, r->seconds * 1e3,
		(unsigned long long)o->steps, r->loss);
	printf("memory mode %s, %.2f GiB at most: weights %.2f, adapter and optimizer %.2f, activations %.2f\n",
		memory_mode_name(r->mode), (double)r->memory.peak / 0x1p30, (double)r->bytes.weights / 0x1p30,
		(double)r->bytes.adapter / 0x1p30, (double)r->bytes.activations / 0x1p30);
	printf("%.3f GFLOP a token, %.3f TFLOP/s", r->flops / 1e9, rate / 1e12);
	if (r->ceiling > 0)
		printf(", %.3f of the %.3f TFLOP/s of a plain product", rate / r->ceiling, r->ceiling / 1e12);
	putchar('\n');
}

int bench_train(int argc, char **argv)
{
	struct options o = {.device = "cpu",
		.targets = "all",
		.base_dtype = "bf16",
		.memory = "auto",
		.variants = "cost",
		.batch = 2,
		.seq = 2048,
		.rank = 16,
		.steps = 10,
		.warmup = 3};
	struct trainer_config config;
	struct trainer *trainer = NULL;
	struct result r = {0};
	struct fault f = {0};
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	int rc = make_config(&o, &config, &f);
	if (!rc)
		rc = trainer_open(&config, &trainer, &f);
	if (!rc)
		rc = run_steps(&o, trainer, &r, &f);
	trainer_close(trainer);
	if (!rc && !o.no_ceiling)
		rc = measure_ceiling(&config, &r.ceiling, &f);
	if (rc)
		return cli_fail(&f);
	show(&o, &r);
	return EXIT_CODE_OK;
}
