/* SPDX-License-Identifier: Apache-2.0 */
/* `sakiori tokenize`: what a model's tokenizer makes of a text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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
	if (tokenizer_added_eos(c->tokenizer) >= 0)
		token_list_add(&c->list, tokenizer_added_eos(c->tokenizer));
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

static int tokenize_row(struct tokenize *c, const json_t *row, struct fault *f)
{
	const char *text;
	int rc = json_want_text(row, "text", &text, f);
	return rc == 0 ? tokenize(c, text, json_string_length(json_object_get(row, "text")), f) : rc;
}

static int decode_row(struct tokenize *c, const json_t *row, struct fault *f)
{
	const json_t *ids, *id;
	size_t i, size;
	char *text;
	int rc = json_want_array(row, "ids", &ids, f);
	c->list.count = 0;
	json_array_foreach(rc == 0 ? ids : NULL, i, id)
	{
		if (!json_is_integer(id) || json_integer_value(id) != (int32_t)json_integer_value(id))
			return fault_set(f, SAKIORI_EFORMAT, "\"ids\" holds %s, expected token ids", json_kind(id));
		token_list_add(&c->list, (int32_t)json_integer_value(id));
	}
	if (rc == 0)
		rc = tokenizer_decode(
			c->tokenizer, c->list.ids, c->list.count, c->flags | TOKENIZER_REPLACE, &text, &size, f);
	if (rc != 0)
		return rc;
	if (c->json) {
		cli_print_json(json_pack("{s:o}", "text", json_stringn(text, size)));
	} else {
		fwrite(text, 1, size, stdout);
		putchar('\n');
	}
	free(text);
	return 0;
}

typedef int row_function(struct tokenize *c, const json_t *row, struct fault *f);

static int read_rows(struct tokenize *c, const char *path, row_function *on_row, struct fault *f)
{
	struct jsonl rows;
	json_t *row;
	int rc = jsonl_open(&rows, path, 0, f);
	while (rc == 0 && (rc = jsonl_next(&rows, &row, f)) > 0) {
		rc = on_row(c, row, f);
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
	const char *model = NULL, *text = NULL, *file = NULL, *rows = NULL, *decode = NULL;
	bool plain = false;
	struct tokenize c = {0};
	const struct cli_option options[] = {
		{"model", CLI_TEXT, &model, "MODEL", "GGUF file, or folder with a tokenizer.json"},
		{"text", CLI_TEXT, &text, "TEXT", "the text itself"},
		{"file", CLI_TEXT, &file, "FILE", "a whole file as one text"},
		{"rows", CLI_TEXT, &rows, "FILE", "JSON Lines of {\"text\": ...}, each a text of its own"},
		{"decode", CLI_TEXT, &decode, "FILE", "JSON Lines of {\"ids\": [...]}: the text of each"},
		{"plain", CLI_FLAG, &plain, NULL, "control tokens' names are ordinary text, as in training rows"},
		{"json", CLI_FLAG, &c.json, NULL, "one object {\"ids\", \"tokens\"} a text, {\"text\"} a row of ids"},
		{0},
	};
	int end = cli_parse(argc, argv,
		"--model MODEL (--text TEXT | --file FILE | --rows FILE | --decode FILE) [--plain] [--json]", options,
		0, NULL);
	if (end != CLI_CONTINUE)
		return end;
	if (model == NULL)
		return cli_usage(argv[0], "--model is missing");
	if ((text != NULL) + (file != NULL) + (rows != NULL) + (decode != NULL) != 1)
		return cli_usage(argv[0], "expected exactly one of --text, --file, --rows and --decode");
	c.flags = plain ? 0 : TOKENIZER_SPECIAL;
	struct fault f = {0};
	int rc = load_tokenizer(&c, model, &f);
	if (rc == 0 && text != NULL)
		rc = tokenize(&c, text, strlen(text), &f);
	else if (rc == 0)
		rc = file != NULL   ? tokenize_file(&c, file, &f)
		     : rows != NULL ? read_rows(&c, rows, tokenize_row, &f)
				    : read_rows(&c, decode, decode_row, &f);
	token_list_fini(&c.list);
	tokenizer_scratch_free(c.scratch);
	tokenizer_free(c.tokenizer);
	return rc != 0 ? cli_fail(&f) : EXIT_CODE_OK;
}
