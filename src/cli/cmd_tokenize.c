/* SPDX-License-Identifier: Apache-2.0 */
/* `sakiori tokenize`: what a model's tokenizer makes of a text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "formats/json.h"
#include "text/jsonl.h"
#include "text/tokenizer.h"

struct tokenize {
	struct tokenizer *tokenizer;
	struct tokenizer_scratch *scratch;
	unsigned flags;
	bool json;
	struct token_list list;
};

static int load_tokenizer(struct tokenize *c, const char *model, struct fault *f)
{
	int rc = tokenizer_of_path(&c->tokenizer, model, f);
	if (rc == 0)
		c->scratch = tokenizer_scratch_new(c->tokenizer);
	return rc;
}

/* A token as a JSON string, which also shows line breaks and blanks; bytes that are no whole character as \xNN. */
static void print_token(int32_t id, struct text_span token)
{
	printf("%d\t", id);
	json_t *string = json_stringn(token.data, token.size);
	if (string != NULL) {
		char *text = json_dumps(string, JSON_ENCODE_ANY);
		puts(text);
		free(text);
		json_decref(string);
		return;
	}
	putchar('"');
	for (size_t i = 0; i < token.size; i++)
		printf((uint8_t)token.data[i] >= 0x80 ? "\\x%02x" : "%c", (uint8_t)token.data[i]);
	puts("\"");
}

static int tokenize(struct tokenize *c, const char *text, size_t size, struct fault *f)
{
	c->list.count = 0;
	if (tokenizer_bos(c->tokenizer) >= 0)
		token_list_add(&c->list, tokenizer_bos(c->tokenizer));
	int rc = tokenizer_encode(c->tokenizer, c->scratch, text, size, c->flags, &c->list, f);
	if (rc != 0)
		return rc;
	if (!c->json) {
		for (size_t i = 0; i < c->list.count; i++)
			print_token(c->list.ids[i], tokenizer_token(c->tokenizer, c->list.ids[i]));
		return 0;
	}
	json_t *ids = json_array();
	for (size_t i = 0; i < c->list.count; i++)
		json_array_append_new(ids, json_integer(c->list.ids[i]));
	cli_print_json(json_pack("{s:o, s:I}", "ids", ids, "tokens", (json_int_t)c->list.count));
	return 0;
}

static int tokenize_rows(struct tokenize *c, const char *path, struct fault *f)
{
	struct jsonl rows;
	json_t *row;
	int rc = jsonl_open(&rows, path, 0, f);
	while (rc == 0 && (rc = jsonl_next(&rows, &row, f)) > 0) {
		const char *text;
		rc = json_want_text(row, "text", &text, f);
		if (rc == 0)
			rc = tokenize(c, text, json_string_length(json_object_get(row, "text")), f);
		json_decref(row);
		if (rc != 0)
			fault_wrap(f, "%s:%zu", path, rows.line_number);
	}
	jsonl_close(&rows);
	return rc;
}

static int tokenize_file(struct tokenize *c, const char *path, struct fault *f)
{
	uint8_t *text;
	size_t size;
	int rc = file_read(path, TOKENIZER_MAX_TEXT, &text, &size, f);
	if (rc != 0)
		return rc;
	rc = tokenize(c, (const char *)text, size, f);
	free(text);
	if (rc != 0)
		fault_wrap(f, "%s", path);
	return rc;
}

int cmd_tokenize(int argc, char **argv)
{
	const char *model = NULL, *text = NULL, *file = NULL, *rows = NULL;
	bool plain = false;
	struct tokenize c = {0};
	const struct cli_option options[] = {
		{"model", CLI_TEXT, &model, "FILE", "GGUF model whose tokenizer is used"},
		{"text", CLI_TEXT, &text, "TEXT", "the text itself"},
		{"file", CLI_TEXT, &file, "FILE", "a whole file as one text"},
		{"rows", CLI_TEXT, &rows, "FILE", "JSON Lines of {\"text\": ...}, each a text of its own"},
		{"plain", CLI_FLAG, &plain, NULL, "control tokens' names are ordinary text, as in training rows"},
		{"json", CLI_FLAG, &c.json, NULL, "one object {\"ids\", \"tokens\"} a text"},
		{0},
	};
	int end = cli_parse(argc, argv, "--model FILE (--text TEXT | --file FILE | --rows FILE) [--plain] [--json]",
		options, 0, NULL);
	if (end != CLI_CONTINUE)
		return end;
	if (model == NULL)
		return cli_usage(argv[0], "--model is missing");
	if ((text != NULL) + (file != NULL) + (rows != NULL) != 1)
		return cli_usage(argv[0], "expected exactly one of --text, --file and --rows");
	c.flags = plain ? 0 : TOKENIZER_SPECIAL;
	struct fault f = {0};
	int rc = load_tokenizer(&c, model, &f);
	if (rc == 0 && text != NULL)
		rc = tokenize(&c, text, strlen(text), &f);
	else if (rc == 0)
		rc = file != NULL ? tokenize_file(&c, file, &f) : tokenize_rows(&c, rows, &f);
	token_list_fini(&c.list);
	tokenizer_scratch_free(c.scratch);
	tokenizer_free(c.tokenizer);
	return rc != 0 ? cli_fail(&f) : EXIT_CODE_OK;
}
