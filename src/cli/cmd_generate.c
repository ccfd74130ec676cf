/* SPDX-License-Identifier: Apache-2.0 */
/* sakiori generate: lets a model, perhaps with an adapter, write on from a prompt. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/engine.h"
#include "train/generator.h"

struct generate_options {
	const char *model, *adapter, *prompt, *device, *base_dtype;
	uint64_t max_tokens, seed, threads;
	double temperature;
	bool chat, json;
};

static int read_options(int argc, char **argv, struct generate_options *o)
{
	const struct cli_option table[] = {
		{"model", CLI_TEXT, &o->model, "FILE", "the base model: GGUF file or Hugging Face folder"},
		{"adapter", CLI_TEXT, &o->adapter, "DIR", "PEFT folder; default: the base model alone"},
		{"prompt", CLI_TEXT, &o->prompt, "TEXT", "what to go on from"},
		{"chat", CLI_FLAG, &o->chat, NULL, "the prompt is a user's turn in the model's chat template"},
		{"max-tokens", CLI_COUNT, &o->max_tokens, "N", "tokens to write at most (128)"},
		{"temperature", CLI_NUMBER, &o->temperature, "T", "0 (default) takes the likeliest token each time"},
		{"seed", CLI_COUNT, &o->seed, "S", "of the draws (0)"},
		{"device", CLI_TEXT, &o->device, "NAME", "cpu (default) or cuda[:N]"},
		{"base-dtype", CLI_TEXT, &o->base_dtype, "TYPE",
			"bf16 (default), f32, q4, as-stored; on a GPU also fp8"},
		{"threads", CLI_COUNT, &o->threads, "N", "default: one a core"},
		{"json", CLI_FLAG, &o->json, NULL, "print one JSON object at the end"},
		{0},
	};
	int code = cli_parse(argc, argv, "--model FILE --prompt TEXT [OPTION]...", table, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	if (!o->model || !o->prompt)
		return cli_usage(argv[0], "%s is missing", !o->model ? "--model" : "--prompt");
	if (o->temperature < 0)
		return cli_usage(argv[0], "--temperature: expected 0 or more");
	return CLI_CONTINUE;
}

/* Writes until the end token; `written` gets the ids without it. */
static int write_on(const struct generate_options *o, struct generator *g, struct token_list *written, struct fault *f)
{
	const struct tokenizer *t = generator_tokenizer(g);
	while (written->count < o->max_tokens) {
		int32_t id;
		int rc = generator_next(g, &id, f);
		if (rc)
			return rc;
		if (id == tokenizer_eos(t))
			break;
		token_list_add(written, id);
		if (!o->json && !tokenizer_is_control(t, id)) {
			struct text_span piece = tokenizer_token(t, id);
			fwrite(piece.data, 1, piece.size, stdout);
			fflush(stdout);
		}
	}
	return 0;
}

static int print_json(const struct tokenizer *t, const struct token_list *written, struct fault *f)
{
	char *text;
	size_t size;
	int rc = tokenizer_decode(t, written->ids, written->count, TOKENIZER_REPLACE, &text, &size, f);
	if (rc)
		return rc;
	json_t *ids = json_array();
	for (size_t i = 0; i < written->count; i++)
		json_array_append_new(ids, json_integer(written->ids[i]));
	cli_print_json(json_pack(
		"{s:o, s:I, s:o}", "text", json_stringn(text, size), "tokens", (json_int_t)written->count, "ids", ids));
	free(text);
	return 0;
}

static int generate(const struct generate_options *o, struct fault *f)
{
	struct generator_config c = {
		.model = o->model,
		.adapter = o->adapter,
		.threads = o->threads > 4096 ? 4096 : (unsigned)o->threads,
		.device = o->device,
		.cache = engine_cache(),
		.temperature = o->temperature,
		.seed = o->seed,
		.progress = engine_show_loading,
	};
	struct generator *g = NULL;
	struct token_list prompt = {0}, written = {0};
	int rc = engine_read_dtype(o->base_dtype, &c.base_dtype, f);
	if (!rc)
		rc = generator_open(&c, &g, f);
	if (!rc)
		rc = engine_encode_prompt(generator_tokenizer(g), o->prompt, o->chat, &prompt, f);
	if (!rc)
		rc = generator_start(g, prompt.ids, prompt.count, o->max_tokens, f);
	cli_progress_end();
	if (!rc)
		rc = write_on(o, g, &written, f);
	if (!rc && o->json)
		rc = print_json(generator_tokenizer(g), &written, f);
	else if (!rc)
		putchar('\n');
	token_list_fini(&prompt);
	token_list_fini(&written);
	generator_close(g);
	return rc;
}

int cmd_generate(int argc, char **argv)
{
	struct generate_options o = {.device = "cpu", .base_dtype = "bf16", .max_tokens = 128};
	struct fault f = {0};
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	return generate(&o, &f) ? cli_fail(&f) : EXIT_CODE_OK;
}
