/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori bench variants: the linears of one layer, forward and backward, in the orders that each way of choosing takes, over ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/engine.h"
#include "train/variants.h"
#include "train/weights.h"

struct options {
	const char *model, *device, *base_dtype, *ranks;
	uint64_t tokens, threads;
	bool json;
};

struct run {
	const struct options *options;
	struct bench bench;
	struct lora_widths widths;
	enum dtype act;
	enum weight_storage storage;
	struct weight *weight[VARIANTS_GROUPS];
};

static int read_options(int argc, char **argv, struct options *o)
{
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o->model, "FILE",
			"whose shapes: GGUF file, folder or shape:NAME (shape:smollm2-135m)"},
		{"device", CLI_TEXT, &o->device, "NAME", "cpu (default) or cuda[:N]"},
		{"tokens", CLI_COUNT, &o->tokens, "N", "of a micro-batch (2048)"},
		{"ranks", CLI_TEXT, &o->ranks, "LIST", "8,16,32,64,128,256 by default"},
		{"base-dtype", CLI_TEXT, &o->base_dtype, "TYPE", "bf16 (default), f32, q4; on a GPU also fp8"},
		{"threads", CLI_COUNT, &o->threads, "N", "default: one a core"},
		{"json", CLI_FLAG, &o->json, NULL, "one JSON object a line"},
		{0},
	};
	int code = cli_parse(argc, argv, "[OPTION]...", table, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (o->tokens < 1 || o->tokens > 1 << 20)
		return cli_usage(argv[0], "--tokens: expected 1 to %d", 1 << 20);
	return CLI_CONTINUE;
}

static void close_weights(struct run *r)
{
	for (size_t g = 0; g < VARIANTS_GROUPS; g++) {
		r->bench.device->ops->weight_free(r->bench.device, r->weight[g]);
		r->weight[g] = NULL;
	}
}

/* The weights of a rank: where the device joins them with their adapters, with the room that training gives them (train/weights.c). */
static int open_weights(struct run *r, size_t rank, struct fault *f)
{
	struct lora_layout layout;
	const struct lora_settings settings = {.rank = rank, .alpha = 1, .targets = LORA_ALL};
	int rc = lora_layout_init(&layout, &r->widths, &settings, f);
	if (rc)
		return rc;
	close_weights(r);
	for (enum variants_group g = 0; g < VARIANTS_GROUPS; g++) {
		struct variants_shape shape;
		size_t room = r->bench.device->joins ? variants_group_room(&layout, g) : 0;
		variants_shape_of(&r->widths, layout.ranks, g, 1, true, &shape);
		r->weight[g] = bench_weight(
			&r->bench, shape.rows, shape.cols, r->storage, WEIGHT_FORWARD | WEIGHT_BACKWARD, room);
	}
	lora_layout_fini(&layout);
	return device_sync(r->bench.device, f);
}

static int open_run(struct run *r, struct fault *f)
{
	const struct options *o = r->options;
	struct model_file *file = NULL;
	enum trainer_dtype type;
	int rc = engine_read_dtype(o->base_dtype, &type, f);
	if (!rc && type == TRAINER_STORED)
		rc = fault_set(f, SAKIORI_EUSAGE, "--base-dtype: random weights are stored in no file");
	if (!rc)
		rc = model_file_open(o->model, &file, f);
	if (rc)
		return rc;
	weights_widths(model_file_shape(file), &r->widths);
	model_file_close(file);
	r->act = trainer_act(type);
	r->storage = trainer_storage(type);
	const struct device_config config = {.name = o->device,
		.threads = o->threads > 4096 ? 4096 : (unsigned)o->threads,
		.act = r->act,
		.cache = engine_cache()};
	return bench_open(&r->bench, &config, f);
}

static void close_run(struct run *r)
{
	if (r->bench.device)
		close_weights(r);
	bench_close(&r->bench);
}

static void show(const struct run *r, size_t rank, enum variants_mode mode, double forward, double backward,
	double model, char words[VARIANTS_GROUPS][VARIANTS_WORD])
{
	if (r->options->json) {
		json_t *orders = json_object();
		for (enum variants_group g = 0; g < VARIANTS_GROUPS; g++)
			json_object_set_new(orders, variants_group_name(g), json_string(words[g]));
		cli_print_json(json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:o}", "event",
			"variants", "model", r->options->model, "device", r->options->device, "base_dtype",
			r->options->base_dtype, "tokens", (json_int_t)r->options->tokens, "rank", (json_int_t)rank,
			"variants", variants_mode_name(mode), "forward_ms", forward * 1e3, "backward_ms",
			backward * 1e3, "layer_ms", (forward + backward) * 1e3, "model_ms", model * 1e3, "orders",
			orders));
		return;
	}
	printf("%6zu  %-12s  %10.3f  %10.3f  %10.3f ", rank, variants_mode_name(mode), forward * 1e3, backward * 1e3,
		(forward + backward) * 1e3);
	for (size_t g = 0; g < VARIANTS_GROUPS; g++)
		printf(" %-13s", words[g]);
	printf("\n");
	fflush(stdout);
}

/* All the linears of a layer above the first, in the orders that this way of choosing takes. */
static int measure(struct run *r, size_t rank, enum variants_mode mode, struct fault *f)
{
	struct variants_config c = {
		.mode = mode, .widths = r->widths, .storage = r->storage, .tokens = r->options->tokens, .keep_s = true};
	struct variants v;
	double forward = 0, backward = 0, model = 0;
	char words[VARIANTS_GROUPS][VARIANTS_WORD];
	lora_ranks(rank, LORA_ALL, c.ranks);
	for (size_t g = 0; g < VARIANTS_GROUPS; g++)
		c.weight[g] = r->weight[g];
	int rc = variants_choose(&v, r->bench.device, &c, f);
	for (enum variants_group g = 0; g < VARIANTS_GROUPS && !rc; g++) {
		struct variants_shape shape;
		struct variants_choice choice = variants_at(&v, g, c.tokens, true);
		double there, back;
		variants_shape_of(&c.widths, c.ranks, g, c.tokens, true, &shape);
		rc = variants_measure(r->bench.device, r->weight[g], &shape, &choice, NULL, 0, &there, &back, f);
		forward += rc ? 0 : there;
		backward += rc ? 0 : back;
		model += variants_seconds_forward(&shape, choice.forward, choice.s, &v.rates) +
			 variants_seconds_backward(&shape, choice.backward, choice.s, &v.rates);
		variants_format(&choice, words[g]);
	}
	if (!rc)
		show(r, rank, mode, forward, backward, model, words);
	return rc;
}

static int measure_all(struct run *r, struct fault *f)
{
	static const enum variants_mode modes[] = {
		VARIANTS_FIXED, VARIANTS_COST, VARIANTS_TIMED, VARIANTS_TIMED_MERGED};
	int rc = 0;
	for (const char *at = r->options->ranks; *at && !rc;) {
		char *end;
		unsigned long rank = strtoul(at, &end, 10);
		if (end == at || (*end && *end != ',') || rank < 1 || rank > LORA_MAX_RANK)
			return fault_set(f, SAKIORI_EUSAGE, "--ranks: expected numbers from 1 to %d, found '%.20s'",
				LORA_MAX_RANK, at);
		rc = open_weights(r, rank, f);
		/* Where activations are f32 the two timed ways are one. */
		for (size_t i = 0; i < (r->act == DTYPE_BF16 ? 4 : 3) && !rc; i++)
			rc = measure(r, rank, modes[i], f);
		at = *end ? end + 1 : end;
	}
	return rc;
}

int bench_variants(int argc, char **argv)
{
	struct options o = {.model = "shape:smollm2-135m",
		.device = "cpu",
		.base_dtype = "bf16",
		.ranks = "8,16,32,64,128,256",
		.tokens = 2048};
	struct run r = {.options = &o};
	struct fault f = {0};
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	int rc = open_run(&r, &f);
	if (!rc && !o.json)
		printf("%6s  %-12s  %10s  %10s  %10s  %-13s %-13s %-13s %-13s\n", "rank", "chosen by", "forward ms",
			"backward ms", "layer ms", "qkv", "o", "gate_up", "down");
	if (!rc)
		rc = measure_all(&r, &f);
	close_run(&r);
	return rc ? cli_fail(&f) : EXIT_CODE_OK;
}
