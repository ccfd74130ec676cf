/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori plan: what training would take of memory, time and the network, before anything is allocated. Of a model file only the header is
 * read; a device is opened only to ask how much memory it has. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/engine.h"
#include "formats/model_file.h"
#include "gossip/codec.h"
#include "train/lora.h"
#include "train/memory.h"
#include "train/trainer.h"
#include "train/variants.h"
#include "train/weights.h"

struct plan_options {
	const char *model, *device, *targets, *rank_pattern, *base_dtype, *variants, *memory;
	uint64_t memory_limit, batch, seq, rank, micro_tokens, threads;
	double dropout;
	bool json;
};

struct plan {
	const struct plan_options *options;
	struct trainer_config config;
	struct model_file *file;
	const struct model_shape *shape;
	struct lora_layout layout;
	struct memory_request request;
	size_t limit;      /* bytes of the device; 0: not known */
	size_t host_limit; /* the same of the host; only asked for when the device is */
	struct memory_breakdown modes[MEMORY_MODES];
	size_t most_rows[MEMORY_MODES];
	enum memory_mode mode;
	bool fits;
	struct variants variants;
	double flops;                     /* a token, of the model */
	double flops_again[MEMORY_MODES]; /* a token, of what is computed a second time */
};

static int read_options(int argc, char **argv, struct plan_options *o)
{
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o->model, "FILE", "the base model: GGUF file, Hugging Face folder, or shape:NAME"},
		{"device", CLI_TEXT, &o->device, "NAME", "cpu (default) or cuda[:N]"},
		{"memory-limit", CLI_BYTES, &o->memory_limit, "SIZE",
			"plan for a device of this memory, which need not be there"},
		{"batch", CLI_COUNT, &o->batch, "N", "rows a step (4)"},
		{"seq", CLI_COUNT, &o->seq, "N", "tokens a row at most (512)"},
		{"micro-tokens", CLI_COUNT, &o->micro_tokens, "N", "tokens computed at once (default: 2048, or --seq)"},
		{"rank", CLI_COUNT, &o->rank, "R", "rank of the adapter (16)"},
		{"rank-pattern", CLI_TEXT, &o->rank_pattern, "LIST", "ranks of some targets: q=8,down=32"},
		{"dropout", CLI_NUMBER, &o->dropout, "P", "share of the adapter's inputs left out of a step (0)"},
		{"targets", CLI_TEXT, &o->targets, "LIST", "all (default), or some of q,k,v,o,gate,up,down"},
		{"base-dtype", CLI_TEXT, &o->base_dtype, "TYPE",
			"bf16 (default), f32, q4, as-stored; on a GPU also fp8"},
		{"memory", CLI_TEXT, &o->memory, "MODE",
			"auto (default: the first that fits), keep, selective, offload, blocks or blocks-offload"},
		{"variants", CLI_TEXT, &o->variants, "WORD",
			"orders of the adapter's products: cost (default), fixed, timed or timed-merged"},
		{"threads", CLI_COUNT, &o->threads, "N", "default: one a core"},
		{"json", CLI_FLAG, &o->json, NULL, "print one JSON object"},
		{0},
	};
	int code = cli_parse(argc, argv, "--model FILE [OPTION]...", table, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (!o->model)
		return cli_usage(argv[0], "--model is missing");
	return CLI_CONTINUE;
}

static int make_config(struct plan *p, struct fault *f)
{
	const struct plan_options *o = p->options;
	struct trainer_config *c = &p->config;
	trainer_config_default(c);
	c->model = o->model;
	c->device = o->device;
	c->batch_rows = o->batch;
	c->max_seq = o->seq;
	c->micro_tokens = o->micro_tokens;
	c->adapter.rank = o->rank;
	c->dropout = o->dropout;
	c->threads = o->threads > 4096 ? 4096 : (unsigned)o->threads;
	int rc = engine_read_targets(o->targets, &c->adapter.targets, f);
	if (!rc)
		rc = engine_read_rank_pattern(o->rank_pattern, c->adapter.rank_pattern, f);
	if (!rc)
		rc = engine_read_dtype(o->base_dtype, &c->base_dtype, f);
	if (!rc)
		rc = engine_read_memory(o->memory, &c->memory, f);
	if (!rc)
		rc = engine_read_variants(o->variants, &c->variants, f);
	return rc ? rc : engine_check(c, f);
}

/* Asks the device itself where no limit is given. */
static int find_limit(struct plan *p, struct fault *f)
{
	struct device_config config = {.name = p->config.device, .threads = p->config.threads, .act = p->request.act};
	struct device_memory memory = {0};
	struct device *d = NULL;
	const char *rest = !strncmp(config.name, "cuda", 4) ? config.name + 4 : NULL;
	p->limit = p->options->memory_limit;
	if (p->limit && (!strcmp(config.name, "cpu") || (rest && (!*rest || *rest == ':'))))
		return 0;
	int rc = device_open(&config, &d, f);
	if (!rc) {
		d->ops->memory(d, &memory);
		rc = device_sync(d, f);
	}
	p->limit = memory_device_limit(&memory);
	p->host_limit = memory_host_limit();
	device_close(d);
	return rc;
}

static int open_model(struct plan *p, struct fault *f)
{
	struct lora_widths widths;
	int rc = model_file_open(p->options->model, &p->file, f);
	if (rc)
		return rc;
	p->shape = model_file_shape(p->file);
	if (p->config.max_seq > p->shape->context)
		return fault_set(f, SAKIORI_EINVAL,
			"%zu tokens a row, but the model was made for at most %u: set --seq", p->config.max_seq,
			p->shape->context);
	weights_widths(p->shape, &widths);
	return lora_layout_init(&p->layout, &widths, &p->config.adapter, f);
}

static void make_request(struct plan *p)
{
	const struct trainer_config *c = &p->config;
	size_t batch = c->batch_rows * c->max_seq;
	p->request = (struct memory_request){
		.file = p->file,
		.layout = &p->layout,
		.device = c->device,
		.act = trainer_act(c->base_dtype),
		.storage = trainer_storage(c->base_dtype),
		.tokens = batch < c->micro_tokens ? batch : c->micro_tokens,
		.longest = c->max_seq,
		.mode = c->memory,
		.dropout = c->dropout > 0,
	};
}

static void plan_variants(struct plan *p)
{
	struct variants_config c = {
		.mode = trainer_orders(&p->config),
		.widths = p->layout.widths,
		.storage = p->request.storage,
		.tokens = p->request.tokens,
		.keep_s = true,
	};
	memcpy(c.ranks, p->layout.ranks, sizeof c.ranks);
	variants_plan(&p->variants, p->config.device, p->request.act, p->config.threads, &c);
	p->request.merged = variants_may_merge(p->config.device, p->request.act, p->config.threads, &c);
}

/* performance.md 7: causal attention counts half, its backward twice its forward, a frozen weight has no gradient; all tokens are learned. */
static void count_flops(struct plan *p)
{
	const struct lora_widths *w = &p->layout.widths;
	double layers = (double)w->layers, hidden = (double)w->hidden, query = (double)w->query, key = (double)w->key;
	double gate_up = 2 * hidden * (double)w->ffn;
	double linear = layers * (hidden * (2 * query + 2 * key) + 1.5 * gate_up);
	double attention = layers * 2 * (double)p->config.max_seq * query;
	double adapter = (double)p->layout.size;
	p->flops = 4 * linear + 4 * hidden * (double)p->shape->vocabulary + 6 * adapter + 3 * attention;
	p->flops_again[MEMORY_SELECTIVE] = p->flops_again[MEMORY_OFFLOAD] = 2 * layers * gate_up;
	/* All of a layer's forward but its last linear. */
	double last = layers * hidden * (double)w->ffn;
	adapter -= layers * (double)(p->layout.ranks[LORA_DOWN] * (w->hidden + w->ffn));
	p->flops_again[MEMORY_BLOCKS] = p->flops_again[MEMORY_BLOCKS_OFFLOAD] =
		2 * (linear - last) + 2 * adapter + attention;
}

static int make_plan(struct plan *p, struct fault *f)
{
	int rc = make_config(p, f);
	if (!rc)
		rc = open_model(p, f);
	if (rc)
		return rc;
	make_request(p);
	plan_variants(p);
	rc = find_limit(p, f);
	if (rc)
		return rc;
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++) {
		memory_count(&p->request, m, &p->modes[m]);
		p->most_rows[m] = p->limit ? memory_most_rows(&p->request, m, p->limit, p->host_limit) : 0;
	}
	count_flops(p);
	struct memory_breakdown chosen;
	rc = memory_choose(&p->request, p->limit, p->host_limit, &p->mode, &chosen, f);
	p->fits = !rc;
	return 0;
}

/* ---- what is shown ---- */

/* The lines of the breakdown. */
static const struct {
	const char *key, *label;
	size_t at; /* offset of a size_t */
} lines[] = {
#define LINE(name, label)                                                                                              \
	{                                                                                                              \
#name, label, offsetof(struct memory_breakdown, name)                                                  \
	}
	LINE(attention_weights, "weights: attention"),
	LINE(mlp_weights, "weights: MLP"),
	LINE(embedding, "weights: embedding"),
	LINE(head, "weights: output head"),
	LINE(norms, "weights: norms"),
	LINE(adapter, "adapter"),
	LINE(gradient, "its gradient"),
	LINE(moments, "its moments"),
	LINE(kept, "activations kept"),
	LINE(shared, "activations in turn"),
	LINE(logits, "work: logits"),
	LINE(lora, "work: adapter"),
	LINE(attention, "work: attention"),
	LINE(products, "work: products"),
	LINE(other, "work: other"),
#undef LINE
};
enum { LINES = sizeof lines / sizeof *lines };

static size_t line_of(const struct memory_breakdown *b, size_t line)
{
	return *(const size_t *)((const char *)b + lines[line].at);
}

static bool shown(const struct plan *p, enum memory_mode mode)
{
	return memory_mode_exists(p->config.device, mode);
}

static const char *mode_reason(const struct plan *p)
{
	if (!p->fits)
		return "nothing fits";
	if (p->config.memory != MEMORY_MODES)
		return "as asked for";
	if (!p->limit)
		return "the device's memory is not known";
	return p->mode == MEMORY_KEEP ? "all that the backward reads fits" : "the first mode that fits";
}

static json_t *mode_json(const struct plan *p, enum memory_mode mode)
{
	const struct memory_breakdown *b = &p->modes[mode];
	json_t *bytes = json_object();
	for (size_t i = 0; i < LINES; i++)
		json_object_set_new(bytes, lines[i].key, json_integer((json_int_t)line_of(b, i)));
	return json_pack("{s:s, s:b, s:I, s:I, s:I, s:o?, s:f, s:o}", "mode", memory_mode_name(mode), "fits",
		memory_fits(b, p->limit, p->host_limit), "device_bytes", (json_int_t)b->device, "host_bytes",
		(json_int_t)b->host, "layer_bytes", (json_int_t)b->layer, "largest_batch",
		p->limit ? json_integer((json_int_t)p->most_rows[mode]) : NULL, "flops_again_per_token",
		p->flops_again[mode], "bytes", bytes);
}

static void print_json(const struct plan *p)
{
	json_t *modes = json_array();
	size_t shared = lora_shared_size(&p->layout);
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++)
		if (shown(p, m))
			json_array_append_new(modes, mode_json(p, m));
	char targets[32];
	lora_targets_format(p->layout.settings.targets, targets);
	json_t *line = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:I, s:o?}", "event", "plan", "model",
		p->options->model, "device", p->config.device, "base_dtype", trainer_dtype_name(p->config.base_dtype),
		"batch", (json_int_t)p->config.batch_rows, "seq", (json_int_t)p->config.max_seq, "tokens_at_once",
		(json_int_t)p->request.tokens, "rank", (json_int_t)p->layout.rank, "targets", targets, "parameters",
		(json_int_t)p->layout.size, "limit_bytes", p->limit ? json_integer((json_int_t)p->limit) : NULL);
	json_object_set_new(line, "mode", p->fits ? json_string(memory_mode_name(p->mode)) : json_null());
	json_object_set_new(line, "why", json_string(mode_reason(p)));
	json_object_set_new(
		line, "peak_bytes", p->fits ? json_integer((json_int_t)p->modes[p->mode].device) : json_null());
	json_object_set_new(line, "modes", modes);
	json_object_set_new(line, "orders", engine_orders(&p->variants, p->request.tokens));
	json_object_set_new(line, "update_bytes",
		json_pack("{s:I, s:I}", "int8", (json_int_t)codec_payload_bytes(shared), "f32",
			(json_int_t)codec_snapshot_bytes(shared)));
	json_object_set_new(line, "flops_per_token", json_real(p->flops));
	cli_print_json(line);
}

/* "15.05 GiB", "3.1 MiB", "-": as cards are sold. */
#define SIZE_WORD 24
static char *size_word(size_t bytes, char out[static SIZE_WORD])
{
	if (!bytes)
		return strcpy(out, "-");
	if (bytes < (size_t)1 << 30)
		snprintf(out, SIZE_WORD, "%.1f MiB", (double)bytes / 0x1p20);
	else
		snprintf(out, SIZE_WORD, "%.2f GiB", (double)bytes / 0x1p30);
	return out;
}

static void print_line(const char *label, const struct plan *p, size_t offset)
{
	printf("%-22s", label);
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++) {
		char word[SIZE_WORD];
		if (shown(p, m))
			printf(" %12s", size_word(*(const size_t *)((const char *)&p->modes[m] + offset), word));
	}
	printf("\n");
}

static void print_modes(const struct plan *p)
{
	printf("\n%-22s", "memory mode");
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++)
		if (shown(p, m))
			printf(" %12s", memory_mode_name(m));
	printf("\n");
	for (size_t i = 0; i < LINES; i++)
		print_line(lines[i].label, p, lines[i].at);
	print_line("on the device", p, offsetof(struct memory_breakdown, device));
	print_line("in host memory", p, offsetof(struct memory_breakdown, host));
	print_line("kept of a layer", p, offsetof(struct memory_breakdown, layer));
	if (p->limit) {
		printf("%-22s", "largest batch");
		for (enum memory_mode m = 0; m < MEMORY_MODES; m++)
			if (shown(p, m))
				printf(" %7zu rows", p->most_rows[m]);
		printf("\n");
	}
	printf("%-22s", "GFLOP a token");
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++)
		if (shown(p, m))
			printf(" %12.2f", (p->flops + p->flops_again[m]) / 1e9);
	printf("\n\n");
}

static void print_table(const struct plan *p)
{
	char targets[32], one[SIZE_WORD], other[SIZE_WORD], orders[VARIANTS_TEXT];
	size_t shared = lora_shared_size(&p->layout);
	lora_targets_format(p->layout.settings.targets, targets);
	printf("%s: %u layers, width %u, vocabulary %u, held as %s\n", p->options->model, p->shape->layers,
		p->shape->hidden, p->shape->vocabulary, trainer_dtype_name(p->config.base_dtype));
	printf("adapter of rank %zu on %s: %zu parameters; %zu rows of up to %zu tokens a step, %zu tokens at once\n",
		p->layout.rank, targets, p->layout.size, p->config.batch_rows, p->config.max_seq, p->request.tokens);
	printf("device %s: %s\n", p->config.device,
		p->limit ? size_word(p->limit, one) : "its memory is not known; --memory-limit sets it");
	print_modes(p);
	printf("%-22s %s: %s\n", "memory mode", p->fits ? memory_mode_name(p->mode) : "none", mode_reason(p));
	printf("%-22s %s\n", "order of the products", variants_describe(&p->variants, p->request.tokens, orders));
	printf("%-22s %s to each neighbour (int8); a whole snapshot is %s (f32)\n", "a round sends",
		size_word(codec_payload_bytes(shared), one), size_word(codec_snapshot_bytes(shared), other));
}

int cmd_plan(int argc, char **argv)
{
	struct plan_options o = {.device = "cpu",
		.targets = "all",
		.base_dtype = "bf16",
		.variants = "cost",
		.memory = "auto",
		.batch = 4,
		.seq = 512,
		.rank = 16};
	struct plan p = {.options = &o};
	struct fault f = {0};
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	int rc = make_plan(&p, &f);
	if (!rc && o.json)
		print_json(&p);
	else if (!rc)
		print_table(&p);
	code = rc || !p.fits ? cli_fail(&f) : EXIT_CODE_OK;
	lora_layout_fini(&p.layout);
	model_file_close(p.file);
	return code;
}
