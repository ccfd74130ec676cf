/* SPDX-License-Identifier: Apache-2.0 */
/* Training rows: any bytes either become a data set whose batches hold together, or are refused with a sentence. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/batch.h"
#include "text/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TEMPLATE                                                                                                       \
	"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "  \
	"+ "                                                                                                           \
	"'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

static struct tokenizer *tokenizer;
static struct chat *chat;

static void must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

/* Printable ASCII, three merges and ChatML's control tokens; other bytes vanish. */
static void make_tokenizer(void)
{
	enum { FIRST = 33, LETTERS = 94, TOKENS = LETTERS + 6 };
	static char letters[LETTERS];
	struct gguf_text tokens[TOKENS];
	int32_t types[TOKENS];
	for (int i = 0; i < LETTERS; i++) {
		letters[i] = (char)(FIRST + i);
		tokens[i] = (struct gguf_text){&letters[i], 1};
		types[i] = TOKEN_NORMAL;
	}
	static const struct gguf_text more[] = {
		{"th", 2}, {"the", 3}, {"aa", 2}, {"<|im_start|>", 12}, {"<|im_end|>", 10}, {"<tag>", 5}};
	static const int32_t more_types[] = {1, 1, 1, TOKEN_CONTROL, TOKEN_CONTROL, TOKEN_USER_DEFINED};
	memcpy(tokens + LETTERS, more, sizeof more);
	memcpy(types + LETTERS, more_types, sizeof more_types);
	static const struct gguf_text merges[] = {{"t h", 3}, {"th e", 4}, {"a a", 3}};
	const struct tokenizer_source source = {.model = {"gpt2", 4},
		.pre = {"smollm", 6},
		.tokens = tokens,
		.token_types = types,
		.token_count = TOKENS,
		.merges = merges,
		.merge_count = 3,
		.bos = LETTERS + 3,
		.eos = LETTERS + 4,
		.unknown = -1,
		.padding = -1,
		.add_bos = true,
		.chat_template = {TEMPLATE, strlen(TEMPLATE)}};
	must(tokenizer_new(&tokenizer, &source, NULL) == 0, "no tokenizer");
	must(chat_new(&chat, tokenizer, NULL) == 0, "no chat");
}

static void check_batches(const struct dataset *d)
{
	const struct dataset_counts *counts = dataset_counts(d);
	const struct sampler_options options = {
		.seed = 1, .batch_rows = 3, .micro_tokens = counts->longest_row, .shuffle = true};
	struct sampler *s;
	must(sampler_new(&s, d, &options, NULL) == 0, "no sampler");
	uint64_t tokens = 0, labelled = 0;
	for (uint64_t part = 0; part < sampler_parts(s); part++) {
		struct batch_list list;
		sampler_part(s, part, &list);
		tokens += list.tokens;
		labelled += list.labelled;
		for (size_t b = 0; b < list.count; b++)
			for (size_t i = 0; i < list.batches[b].tokens; i++)
				must(list.batches[b].ids[i] < tokenizer_size(tokenizer),
					"an id outside the vocabulary");
	}
	must(tokens == counts->tokens, "tokens were lost");
	must(labelled == counts->labelled_tokens, "labels were lost");
	must(labelled > 0, "nothing to learn");
	sampler_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (tokenizer == NULL)
		make_tokenizer();
	const struct dataset_options options = {.max_row_tokens = 64, .max_line_bytes = 1 << 14};
	struct dataset *d;
	struct fault f = {0};
	int rc = dataset_parse(&d, "rows", data, size, tokenizer, chat, &options, &f);
	if (rc != 0) {
		must(d == NULL && f.text[0] != '\0' && strncmp(f.text, "rows:", 5) == 0, "refused without a sentence");
		return 0;
	}
	check_batches(d);
	dataset_free(d);
	return 0;
}
