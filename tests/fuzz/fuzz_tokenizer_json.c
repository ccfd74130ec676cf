/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a tokenizer.json, and after a NUL as the tokenizer_config.json beside it: refused with a sentence, or a
 * tokenizer whose tokens of a few texts lie in its vocabulary and decode. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "text/tokenizer_private.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static void try_text(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, unsigned flags)
{
	struct token_list list = {0};
	struct fault f = {0};
	if (tokenizer_encode(t, s, text, strlen(text), flags, &list, &f) != 0) {
		must(list.count == 0 && f.text[0] != '\0', "refused without a sentence");
		token_list_fini(&list);
		return;
	}
	for (size_t i = 0; i < list.count; i++)
		must(list.ids[i] >= 0 && (size_t)list.ids[i] < tokenizer_size(t), "an id outside the vocabulary");
	char *back;
	size_t size;
	must(tokenizer_decode(t, list.ids, list.count, flags | TOKENIZER_REPLACE, &back, &size, &f) == 0,
		"own tokens are not decoded");
	must(utf8_valid_prefix(back, size) == size, "decoded to what is not UTF-8");
	free(back);
	token_list_fini(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const texts[] = {"", "a", " ab  the\r\n\r\n<s>abab <|im_end|> x</s>",
		"e\xcc\x81\xcc\xa3 \xef\xac\x81 I'll 12345", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
		"\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9\xea\xb0\x80\xe1\x84\x80\xe1\x85\xa1"};
	const uint8_t *end = memchr(data, '\0', size);
	size_t first = end != NULL ? (size_t)(end - data) : size;
	json_t *root, *config = NULL;
	struct fault f = {0};
	if (json_parse("tokenizer.json", 1, data, first, &root, &f) != 0)
		return 0;
	if (end != NULL && json_parse("tokenizer_config.json", 1, end + 1, size - first - 1, &config, &f) != 0)
		config = NULL;
	struct tokenizer *t;
	int rc = tokenizer_from_json(&t, root, config, &f);
	json_decref(root);
	json_decref(config);
	if (rc != 0) {
		must(t == NULL && f.text[0] != '\0', "refused without a sentence");
		return 0;
	}
	struct tokenizer_scratch *s = tokenizer_scratch_new(t);
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		try_text(t, s, texts[i], 0);
		try_text(t, s, texts[i], TOKENIZER_SPECIAL);
	}
	tokenizer_scratch_free(s);
	tokenizer_free(t);
	return 0;
}
