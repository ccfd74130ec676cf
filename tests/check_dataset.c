/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "formats/gguf.h"
#include "text/batch.h"
#include "text/dataset.h"

static struct tokenizer *tiny;
static struct chat *chat;

static void open_tiny(void)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/tests/golden/tiny.gguf", getenv("SRCDIR"));
	struct gguf *g;
	struct fault f = {0};
	ck_assert_msg(gguf_open(path, &g, &f) == 0, "%s", f.text);
	ck_assert_msg(tokenizer_from_gguf(&tiny, g, &f) == 0, "%s", f.text);
	gguf_close(g);
	ck_assert_msg(chat_new(&chat, tiny, &f) == 0, "%s", f.text);
}

static void close_tiny(void)
{
	chat_free(chat);
	tokenizer_free(tiny);
}

static struct dataset *parse(const char *rows, const struct dataset_options *options)
{
	struct dataset *d;
	struct fault f = {0};
	int rc = dataset_parse(&d, "rows", rows, strlen(rows), tiny, chat, options, &f);
	ck_assert_msg(rc == 0, "%s", f.text);
	return d;
}

/* The row as text, with what is learned in square brackets. The caller frees. */
static char *show_row(const struct dataset *d, size_t row)
{
	size_t n = dataset_row_size(d, row), size;
	uint32_t ids[4096];
	uint8_t labelled[4096];
	ck_assert_uint_le(n, 4096);
	dataset_row(d, row, ids, labelled);
	char *shown = calloc(64 * n + 1, 1);
	for (size_t i = 0; i < n; i++) {
		const int32_t id = (int32_t)ids[i];
		char *text;
		ck_assert_int_eq(tokenizer_decode(tiny, &id, 1, TOKENIZER_SPECIAL, &text, &size, NULL), 0);
		if (labelled[i] && (i == 0 || !labelled[i - 1]))
			strcat(shown, "[");
		strcat(shown, text);
		if (labelled[i] && (i + 1 == n || !labelled[i + 1]))
			strcat(shown, "]");
		free(text);
	}
	return shown;
}

static void assert_row(const char *json, const char *expected)
{
	struct dataset *d = parse(json, &(struct dataset_options){0});
	char *shown = show_row(d, 0);
	ck_assert_str_eq(shown, expected);
	free(shown);
	dataset_free(d);
}

#define SYSTEM "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"

START_TEST(every_kind_of_row_is_learned_where_it_should_be)
{
	assert_row("{\"text\": \"old cloth\"}", "[old cloth<|im_end|>]");
	assert_row("{\"prompt\": \"Name: \", \"completion\": \" rose\"}", "Name: [ rose<|im_end|>]");
	assert_row("{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": "
		   "\"Yes\"}, {\"role\": \"tool\", \"content\": \"4\"}, {\"role\": \"assistant\", \"content\": "
		   "\"Four\"}]}",
		SYSTEM "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yes<|im_end|>]\n<|im_start|>tool\n4"
		       "<|im_end|>\n<|im_start|>assistant\n[Four<|im_end|>]\n");
	assert_row("{\"messages\": [{\"role\": \"system\", \"content\": [{\"type\": \"text\", \"text\": \"Be \"}, "
		   "{\"type\": \"text\", \"text\": \"brief\"}]}, {\"role\": \"assistant\", \"content\": \"\"}]}",
		"<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>assistant\n[<|im_end|>]\n");
	assert_row("{\"instruction\": \"Add\", \"input\": \"1 2\", \"output\": \"3\", \"system\": \"S\", \"history\": "
		   "[[\"a\", \"b\"]]}",
		"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
		"<|im_start|>user\nAdd\n1 2<|im_end|>\n<|im_start|>assistant\n[3<|im_end|>]\n");
	assert_row("{\"instruction\": \"Add\", \"input\": \"\", \"output\": \"3\"}",
		SYSTEM "<|im_start|>user\nAdd<|im_end|>\n<|im_start|>assistant\n[3<|im_end|>]\n");
	assert_row(
		"{\"conversations\": [{\"from\": \"human\", \"value\": \"Q\"}, {\"from\": \"gpt\", \"value\": \"A\"}]}",
		SYSTEM "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n[A<|im_end|>]\n");
	assert_row("{\"prompt\": [{\"role\": \"assistant\", \"content\": \"P\"}], \"completion\": [{\"role\": "
		   "\"assistant\", \"content\": \"C\"}]}",
		SYSTEM "<|im_start|>assistant\nP<|im_end|>\n<|im_start|>assistant\n[C<|im_end|>]\n");
}
END_TEST

START_TEST(a_turn_may_say_whether_it_is_learned)
{
	assert_row("{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\", \"train\": false}, {\"role\": "
		   "\"assistant\", "
		   "\"content\": \"Yes\", \"train\": false}, {\"role\": \"assistant\", \"content\": \"Four\", "
		   "\"train\": true}]}",
		SYSTEM "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>assistant\n"
		       "[Four<|im_end|>]\n");
	assert_row("{\"prompt\": [{\"role\": \"assistant\", \"content\": \"P\", \"train\": true}], \"completion\": "
		   "[{\"role\": "
		   "\"assistant\", \"content\": \"C\"}]}",
		SYSTEM "<|im_start|>assistant\n[P<|im_end|>]\n<|im_start|>assistant\n[C<|im_end|>]\n");
}
END_TEST

START_TEST(tokens_of_others_are_taken_as_they_are)
{
	char json[256];
	struct dataset *text = parse("{\"text\": \"old cloth\"}", &(struct dataset_options){0});
	uint32_t ids[64];
	size_t n = dataset_row_size(text, 0);
	ck_assert_uint_ge(n, 3);
	dataset_row(text, 0, ids, NULL);
	snprintf(json, sizeof json, "{\"input_ids\": [%u, %u, %u]}", ids[0], ids[1], ids[n - 1]);
	struct dataset *all = parse(json, &(struct dataset_options){0});
	ck_assert_uint_eq(dataset_row_size(all, 0), 3);
	snprintf(json, sizeof json,
		"{\"input_ids\": [%u, %u, %u], \"labels\": [-100, %u, -100], \"attention_mask\": [1, 1, 1]}", ids[0],
		ids[1], ids[n - 1], ids[1]);
	struct dataset *one = parse(json, &(struct dataset_options){0});
	char *shown_all = show_row(all, 0), *shown_one = show_row(one, 0);
	ck_assert(shown_all[0] == '[' && strstr(shown_all, "<|im_end|>]") != NULL);
	ck_assert(shown_one[0] != '[' && strchr(shown_one, '[') != NULL && strstr(shown_one, "]<|im_end|>") != NULL);
	free(shown_all);
	free(shown_one);
	dataset_free(text);
	dataset_free(all);
	dataset_free(one);
}
END_TEST

START_TEST(a_row_cannot_write_control_tokens)
{
	struct dataset *d = parse("{\"text\": \"<|im_start|>x<|im_end|>\"}", &(struct dataset_options){0});
	uint32_t ids[64];
	size_t n = dataset_row_size(d, 0), control = 0;
	ck_assert_uint_le(n, 64);
	dataset_row(d, 0, ids, NULL);
	for (size_t i = 0; i < n; i++)
		control += tokenizer_is_control(tiny, (int32_t)ids[i]);
	ck_assert_uint_eq(control, 1);
	ck_assert_int_eq((int32_t)ids[n - 1], tokenizer_eos(tiny));
	dataset_free(d);
}
END_TEST

START_TEST(prompt_and_completion_are_tokenized_apart)
{
	struct dataset *joined = parse("{\"text\": \"the cloth\"}", &(struct dataset_options){0});
	struct dataset *apart =
		parse("{\"prompt\": \"the cl\", \"completion\": \"oth\"}", &(struct dataset_options){0});
	ck_assert_uint_gt(dataset_row_size(apart, 0), dataset_row_size(joined, 0));
	dataset_free(joined);
	dataset_free(apart);
}
END_TEST

START_TEST(counts_say_what_became_of_the_rows)
{
	static const char rows[] = "\xef\xbb\xbf{\"text\": \"12345\"}\r\n"
				   "\n"
				   "  \t\r\n"
				   "{\"text\": \"\"}\n"
				   "{\"text\": \"1234567890\", \"id\": 7}\n"
				   "{\"prompt\": \"1234567890\", \"completion\": \"1\"}\n"
				   "{\"text\": \"12\"}";
	struct dataset *d = parse(rows, &(struct dataset_options){.max_row_tokens = 8});
	const struct dataset_counts *counts = dataset_counts(d);
	ck_assert_uint_eq(counts->rows, 3);
	ck_assert_uint_eq(counts->tokens, 6 + 8 + 3);
	ck_assert_uint_eq(counts->labelled_tokens, 5 + 7 + 2);
	ck_assert_uint_eq(counts->truncated_rows, 1);
	ck_assert_uint_eq(counts->skipped_rows, 2); /* the empty one, and the one whose completion was cut off */
	ck_assert_uint_eq(counts->longest_row, 8);
	dataset_free(d);

	d = parse(rows, &(struct dataset_options){.max_rows = 1});
	ck_assert_uint_eq(dataset_counts(d)->rows, 1);
	dataset_free(d);
}
END_TEST

static void assert_refused_with(const char *rows, const struct dataset_options *options, int code, const char *sentence)
{
	struct dataset *d;
	struct fault f = {0};
	ck_assert_int_eq(dataset_parse(&d, "f.jsonl", rows, strlen(rows), tiny, chat, options, &f), code);
	ck_assert_ptr_null(d);
	ck_assert_msg(strstr(f.text, sentence) != NULL, "'%s' lacks '%s'", f.text, sentence);
	ck_assert_msg(strstr(f.text, "secret") == NULL, "'%s' quotes the row", f.text);
}

static void assert_refused(const char *row, const char *sentence)
{
	char rows[512];
	snprintf(rows, sizeof rows, "{\"text\": \"fine\"}\n\n%s\n", row);
	assert_refused_with(rows, &(struct dataset_options){0}, SAKIORI_EFORMAT, "f.jsonl:3:");
	assert_refused_with(rows, &(struct dataset_options){0}, SAKIORI_EFORMAT, sentence);
}

START_TEST(broken_rows_name_file_and_line_and_quote_nothing)
{
	assert_refused("{\"text\": \"secret", "");
	assert_refused("{\"text\": secret}", "");
	assert_refused("{\"text\": \"secret\", \"text\": \"secret\"}", "duplicate");
	assert_refused("{\"text\": \"secret \xff\"}", "");
	assert_refused("{\"text\": \"secret\"} secret", "");
	assert_refused("[\"secret\"]", "expected an object, found an array");
	assert_refused("{\"words\": \"secret\"}", "found none of them");
	assert_refused("{\"text\": 5}", "\"text\" is an integer, expected a string");
	assert_refused("{\"prompt\": \"secret\"}", "found a string and missing");
	assert_refused("{\"prompt\": \"secret\", \"completion\": [\"secret\"]}", "found a string and an array");
	assert_refused("{\"messages\": \"secret\"}", "expected an array");
	assert_refused("{\"messages\": []}", "expected at least one message");
	assert_refused("{\"messages\": [\"secret\"]}", "message 1 is a string");
	assert_refused("{\"messages\": [{\"role\": \"secret\", \"content\": \"x\"}]}", "found another");
	assert_refused("{\"messages\": [{\"role\": \"user\", \"content\": null}]}", "message 1: \"content\" is null");
	assert_refused("{\"messages\": [{\"role\": \"user\", \"content\": [\"secret\"]}]}", "part 1 of \"content\"");
	assert_refused("{\"instruction\": \"secret\"}", "\"output\" is missing");
	assert_refused("{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"secret\"]]}", "item 1 of");
	assert_refused("{\"conversations\": [{\"from\": \"human\"}]}", "\"value\" is missing");
	assert_refused("{\"messages\": [{\"role\": \"assistant\", \"content\": \"secret\", \"train\": 1}]}",
		"message 1: \"train\" is an integer");
	assert_refused("{\"messages\": [{\"role\": \"user\", \"content\": \"secret\", \"train\": true}]}",
		"only an assistant's words");
	assert_refused("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"tools\": \"secret\"}",
		"\"tools\" is a string, expected an array");
	assert_refused(
		"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"chat_template_kwargs\": [\"secret\"]}",
		"\"chat_template_kwargs\" is an array, expected an object");
	/* SmolLM2's template needs a content, though a turn that calls tools may have none */
	assert_refused("{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"name\": \"secret\"}]}]}",
		"chat template, line 4: 'dict.content' is undefined");
	assert_refused("{\"input_ids\": []}", "\"input_ids\" is empty");
	assert_refused("{\"input_ids\": \"secret\"}", "expected an array");
	assert_refused("{\"input_ids\": [1, -1]}", "item 2 of \"input_ids\" is no token");
	assert_refused("{\"input_ids\": [1, 99999999999]}", "item 2 of \"input_ids\" is no token");
	assert_refused("{\"input_ids\": [1, \"secret\"]}", "item 2 of \"input_ids\" is no token");
	assert_refused("{\"input_ids\": [1, 2], \"labels\": [1]}", "1 \"labels\" for 2 \"input_ids\"");
	assert_refused("{\"input_ids\": [1, 2], \"labels\": [1, 3]}", "item 2 of \"labels\" is neither");
}
END_TEST

START_TEST(limits_are_errors_that_say_the_limit)
{
	struct dataset_options options = {.max_line_bytes = 20};
	assert_refused_with("{\"text\": \"1\"}\n{\"text\": \"secret secret\"}\n", &options, SAKIORI_ELIMIT,
		"f.jsonl:2: expected at most 20 bytes a line");
	options = (struct dataset_options){.max_row_tokens = 4, .refuse_long_rows = true};
	assert_refused_with("{\"text\": \"1\"}\n{\"text\": \"123456\"}\n", &options, SAKIORI_ELIMIT,
		"f.jsonl:2: expected at most 4 tokens a row, found 7");
	assert_refused_with("", &options, SAKIORI_EFORMAT, "expected at least one row");
	assert_refused_with("\n{\"text\": \"\"}\n", &options, SAKIORI_EFORMAT, "(1 skipped)");
	char deep[512] = "{\"text\": ";
	memset(deep + strlen(deep), '[', 200);
	assert_refused_with(deep, &options, SAKIORI_ELIMIT, "f.jsonl:1:");
}
END_TEST

START_TEST(rows_of_messages_without_a_chat_template_say_what_to_do)
{
	static const char row[] = "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}";
	struct dataset *d;
	struct fault f = {0};
	ck_assert_int_eq(dataset_parse(&d, "f", row, strlen(row), tiny, NULL, &(struct dataset_options){0}, &f),
		SAKIORI_EUNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(f.text, "f:1: "));
	ck_assert_ptr_nonnull(strstr(f.text, "use prompt and completion"));
}
END_TEST

START_TEST(a_file_is_read_and_what_is_none_is_refused)
{
	char path[] = "/tmp/check_dataset.XXXXXX";
	int fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	static const char rows[] = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
	ck_assert_int_eq(write(fd, rows, strlen(rows)), (ssize_t)strlen(rows));
	close(fd);
	struct dataset *d, *same = parse(rows, &(struct dataset_options){0});
	struct fault f = {0};
	ck_assert_int_eq(dataset_load(&d, path, tiny, chat, &(struct dataset_options){0}, &f), 0);
	uint8_t a[HASH_SIZE], b[HASH_SIZE];
	dataset_fingerprint(d, a);
	dataset_fingerprint(same, b);
	ck_assert_int_eq(memcmp(a, b, HASH_SIZE), 0);
	dataset_free(d);
	dataset_free(same);
	unlink(path);
	ck_assert_int_eq(dataset_load(&d, path, tiny, chat, &(struct dataset_options){0}, &f), SAKIORI_ENOTFOUND);
	ck_assert_int_eq(dataset_load(&d, "/dev/zero", tiny, chat, &(struct dataset_options){0}, &f), SAKIORI_EINVAL);
	ck_assert_int_eq(dataset_load(&d, "/tmp", tiny, chat, &(struct dataset_options){0}, &f), SAKIORI_EINVAL);
}
END_TEST

START_TEST(random_rows_are_the_same_every_time_and_learned_whole)
{
	enum { ROWS = 3, TOKENS = 33, VOCABULARY = 7 };
	struct dataset *sets[2], *none;
	uint32_t ids[TOKENS], seen = 0;
	uint8_t labelled[TOKENS], a[HASH_SIZE], b[HASH_SIZE];
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(dataset_random(&sets[i], ROWS, TOKENS, VOCABULARY, 4, NULL), 0);
	dataset_fingerprint(sets[0], a);
	dataset_fingerprint(sets[1], b);
	ck_assert_mem_eq(a, b, sizeof a);
	const struct dataset_counts *counts = dataset_counts(sets[0]);
	ck_assert(counts->rows == ROWS && counts->tokens == ROWS * TOKENS && counts->longest_row == TOKENS);
	ck_assert_uint_eq(counts->labelled_tokens, ROWS * (TOKENS - 1));
	dataset_row(sets[0], ROWS - 1, ids, labelled);
	for (int i = 0; i < TOKENS; i++) {
		ck_assert(ids[i] < VOCABULARY && labelled[i] == 1);
		seen |= 1u << ids[i];
	}
	ck_assert_uint_eq(seen, (1u << VOCABULARY) - 1);
	dataset_free(sets[0]);
	dataset_free(sets[1]);
	ck_assert_int_eq(dataset_random(&none, 1, 1, VOCABULARY, 4, NULL), SAKIORI_EINVAL);
}
END_TEST

START_TEST(the_fingerprint_covers_ids_labels_and_row_bounds)
{
	static const char *const sets[] = {
		"{\"text\": \"1234\"}\n{\"text\": \"56\"}",
		"{\"text\": \"56\"}\n{\"text\": \"1234\"}",
		"{\"prompt\": \"1\", \"completion\": \"234\"}\n{\"text\": \"56\"}",
		"{\"prompt\": \"12\", \"completion\": \"34\"}\n{\"text\": \"56\"}",
		"{\"text\": \"1235\"}\n{\"text\": \"56\"}",
	};
	uint8_t digests[5][HASH_SIZE];
	for (size_t i = 0; i < 5; i++) {
		struct dataset *d = parse(sets[i], &(struct dataset_options){0});
		dataset_fingerprint(d, digests[i]);
		dataset_free(d);
		for (size_t j = 0; j < i; j++)
			ck_assert_msg(memcmp(digests[i], digests[j], HASH_SIZE) != 0, "%zu and %zu", i, j);
	}
}
END_TEST

/* Rows of 2 to 41 tokens: digits are tokens of their own. Half of them have a prompt. */
static struct dataset *random_rows(size_t count)
{
	char *rows = malloc(count * 128), *at = rows;
	struct rng rng;
	rng_init(&rng, 3, 0);
	for (size_t i = 0; i < count; i++) {
		char digits[64] = "";
		size_t n = 1 + rng_below(&rng, 40);
		for (size_t k = 0; k < n; k++)
			digits[k] = (char)('0' + rng_below(&rng, 10));
		size_t prompt = i % 2 ? rng_below(&rng, n) : 0;
		if (i % 2)
			at += sprintf(at, "{\"prompt\": \"%.*s\", \"completion\": \"%s\"}\n", (int)prompt, digits,
				digits + prompt);
		else
			at += sprintf(at, "{\"text\": \"%s\"}\n", digits);
	}
	struct dataset *d = parse(rows, &(struct dataset_options){0});
	ck_assert_uint_eq(dataset_counts(d)->rows, count);
	free(rows);
	return d;
}

static struct sampler *sampler(const struct dataset *d, struct sampler_options options)
{
	struct sampler *s;
	struct fault f = {0};
	int rc = sampler_new(&s, d, &options, &f);
	ck_assert_msg(rc == 0, "%s", f.text);
	return s;
}

/* The step's rows in order, each as one batch of its own would hold it. */
static void flatten(
	const struct batch_list *list, struct token_list *ids, struct token_list *labels, struct token_list *sizes)
{
	ids->count = labels->count = sizes->count = 0;
	size_t rows = 0, tokens = 0, labelled = 0;
	for (size_t b = 0; b < list->count; b++) {
		const struct batch *batch = &list->batches[b];
		size_t longest = 0, here = 0;
		ck_assert_uint_gt(batch->rows, 0);
		ck_assert_uint_eq(batch->row_offsets[0], 0);
		ck_assert_uint_eq(batch->row_offsets[batch->rows], batch->tokens);
		for (size_t r = 0; r < batch->rows; r++) {
			size_t from = batch->row_offsets[r], to = batch->row_offsets[r + 1];
			ck_assert_uint_lt(from, to);
			/* the last token of a row predicts nothing: no label crosses it */
			ck_assert_int_eq(batch->labels[to - 1], -1);
			for (size_t i = from; i < to; i++) {
				token_list_add(ids, (int32_t)batch->ids[i]);
				token_list_add(labels, batch->labels[i]);
				here += batch->labels[i] >= 0;
				if (batch->labels[i] >= 0)
					ck_assert_int_eq(batch->labels[i], (int32_t)batch->ids[i + 1]);
			}
			token_list_add(sizes, (int32_t)(to - from));
			longest = to - from > longest ? to - from : longest;
		}
		ck_assert_uint_eq(batch->labelled, here);
		ck_assert_uint_eq(batch->longest_row, longest);
		rows += batch->rows;
		tokens += batch->tokens;
		labelled += batch->labelled;
	}
	ck_assert_uint_eq(list->rows, rows);
	ck_assert_uint_eq(list->tokens, tokens);
	ck_assert_uint_eq(list->labelled, labelled);
}

static bool same_list(const struct token_list *a, const struct token_list *b)
{
	return a->count == b->count && memcmp(a->ids, b->ids, a->count * sizeof *a->ids) == 0;
}

START_TEST(micro_batches_laid_end_to_end_are_the_rows_whatever_their_size)
{
	struct dataset *d = random_rows(53);
	size_t longest = dataset_counts(d)->longest_row;
	const size_t micro[] = {0, longest, longest + 1, 64, 100, 1000};
	struct token_list ids[2] = {0}, labels[2] = {0}, sizes[2] = {0};
	struct sampler *alone = sampler(d, (struct sampler_options){9, 7, 0, true});
	for (size_t m = 0; m < sizeof micro / sizeof micro[0]; m++) {
		struct sampler *s = sampler(d, (struct sampler_options){9, 7, micro[m], true});
		for (uint64_t step = 0; step < 20; step++) {
			struct batch_list whole, parts;
			sampler_step(alone, step, &whole);
			sampler_step(s, step, &parts);
			ck_assert_uint_eq(whole.count, 1);
			flatten(&whole, &ids[0], &labels[0], &sizes[0]);
			flatten(&parts, &ids[1], &labels[1], &sizes[1]);
			ck_assert(same_list(&ids[0], &ids[1]));
			ck_assert(same_list(&labels[0], &labels[1]));
			ck_assert(same_list(&sizes[0], &sizes[1]));
			for (size_t b = 0; b < parts.count; b++) {
				ck_assert(micro[m] == 0 || parts.batches[b].tokens <= micro[m]);
				/* and no batch was closed too early */
				if (b + 1 < parts.count)
					ck_assert_uint_gt(parts.batches[b].tokens + parts.batches[b + 1].row_offsets[1],
						micro[m]);
			}
		}
		sampler_free(s);
	}
	sampler_free(alone);
	for (size_t i = 0; i < 2; i++) {
		token_list_fini(&ids[i]);
		token_list_fini(&labels[i]);
		token_list_fini(&sizes[i]);
	}
	dataset_free(d);
}
END_TEST

/* Which rows a step takes: told apart by dataset rows that are all different. */
static void steps_rows(struct sampler *s, const struct dataset *d, uint64_t step, size_t *rows)
{
	struct batch_list list;
	sampler_step(s, step, &list);
	size_t n = 0, count = dataset_counts(d)->rows;
	for (size_t b = 0; b < list.count; b++) {
		for (size_t r = 0; r < list.batches[b].rows; r++, n++) {
			const uint32_t *ids = list.batches[b].ids + list.batches[b].row_offsets[r];
			size_t size = list.batches[b].row_offsets[r + 1] - list.batches[b].row_offsets[r];
			for (rows[n] = 0; rows[n] < count; rows[n]++) {
				uint32_t own[64];
				dataset_row(d, rows[n], own, NULL);
				if (dataset_row_size(d, rows[n]) == size && memcmp(own, ids, size * sizeof *ids) == 0)
					break;
			}
			ck_assert_uint_lt(rows[n], count);
		}
	}
}

static struct dataset *different_rows(size_t count)
{
	char rows[8192], *at = rows;
	for (size_t i = 0; i < count; i++)
		at += sprintf(at, "{\"text\": \"%zu\"}\n", 100 + i);
	return parse(rows, &(struct dataset_options){0});
}

START_TEST(every_epoch_takes_every_row_once_in_an_order_of_its_own)
{
	enum { ROWS = 23, BATCH = 5, EPOCHS = 4 };
	struct dataset *d = different_rows(ROWS);
	struct sampler *s = sampler(d, (struct sampler_options){1, BATCH, 0, true});
	size_t order[ROWS * EPOCHS + BATCH], n = 0;
	for (uint64_t step = 0; n < ROWS * EPOCHS; step++, n += BATCH)
		steps_rows(s, d, step, order + n);
	for (size_t epoch = 0; epoch < EPOCHS; epoch++) {
		unsigned seen[ROWS] = {0}, moved = 0;
		for (size_t i = 0; i < ROWS; i++) {
			seen[order[epoch * ROWS + i]]++;
			moved += epoch > 0 && order[epoch * ROWS + i] != order[i];
		}
		for (size_t i = 0; i < ROWS; i++)
			ck_assert_uint_eq(seen[i], 1);
		ck_assert(epoch == 0 || moved > ROWS / 2);
	}
	sampler_free(s);
	dataset_free(d);
}
END_TEST

START_TEST(a_step_depends_on_seed_and_number_alone)
{
	enum { BATCH = 6 };
	struct dataset *d = different_rows(40);
	struct sampler *forward = sampler(d, (struct sampler_options){5, BATCH, 0, true});
	struct sampler *resumed = sampler(d, (struct sampler_options){5, BATCH, 0, true});
	struct sampler *other = sampler(d, (struct sampler_options){6, BATCH, 0, true});
	size_t a[30][BATCH], b[BATCH], differ = 0;
	for (uint64_t step = 0; step < 30; step++)
		steps_rows(forward, d, step, a[step]);
	for (uint64_t step = 30; step-- > 0;) {
		steps_rows(resumed, d, step, b);
		ck_assert_int_eq(memcmp(a[step], b, sizeof b), 0);
		steps_rows(other, d, step, b);
		differ += memcmp(a[step], b, sizeof b) != 0;
	}
	ck_assert_uint_gt(differ, 25);
	/* the order is part of what a run promises: this is seed 5's */
	static const size_t first[BATCH] = {13, 18, 30, 25, 9, 35};
	ck_assert_int_eq(memcmp(a[0], first, sizeof first), 0);
	steps_rows(forward, d, UINT64_MAX, b); /* no step is too late */
	sampler_free(forward);
	sampler_free(resumed);
	sampler_free(other);
	dataset_free(d);
}
END_TEST

START_TEST(without_shuffling_rows_come_in_file_order_and_over_again)
{
	struct dataset *d = different_rows(7);
	struct sampler *s = sampler(d, (struct sampler_options){1, 10, 0, false});
	size_t rows[10];
	for (uint64_t step = 0; step < 5; step++) {
		steps_rows(s, d, step, rows);
		for (size_t i = 0; i < 10; i++)
			ck_assert_uint_eq(rows[i], (step * 10 + i) % 7);
	}
	sampler_free(s);
	dataset_free(d);
}
END_TEST

START_TEST(evaluation_takes_every_row_once_in_file_order)
{
	struct dataset *d = random_rows(23);
	struct sampler *s = sampler(d, (struct sampler_options){1, 5, 64, true});
	struct token_list ids = {0}, labels = {0}, sizes = {0};
	size_t row = 0;
	uint64_t labelled = 0;
	ck_assert_uint_eq(sampler_parts(s), 5);
	for (uint64_t part = 0; part < sampler_parts(s); part++) {
		struct batch_list list;
		sampler_part(s, part, &list);
		flatten(&list, &ids, &labels, &sizes);
		labelled += list.labelled;
		for (size_t i = 0, at = 0; i < sizes.count; at += (size_t)sizes.ids[i++], row++) {
			uint32_t own[64];
			ck_assert_uint_eq((size_t)sizes.ids[i], dataset_row_size(d, row));
			dataset_row(d, row, own, NULL);
			ck_assert_int_eq(memcmp(own, ids.ids + at, (size_t)sizes.ids[i] * sizeof *own), 0);
		}
	}
	ck_assert_uint_eq(row, 23);
	ck_assert_uint_eq(labelled, dataset_counts(d)->labelled_tokens);
	token_list_fini(&ids);
	token_list_fini(&labels);
	token_list_fini(&sizes);
	sampler_free(s);
	dataset_free(d);
}
END_TEST

START_TEST(a_row_that_fits_no_micro_batch_is_refused)
{
	struct dataset *d = parse("{\"text\": \"123456789\"}", &(struct dataset_options){0});
	struct sampler *s;
	struct fault f = {0};
	struct sampler_options options = {.batch_rows = 1, .micro_tokens = 9};
	ck_assert_int_eq(sampler_new(&s, d, &options, &f), SAKIORI_ELIMIT);
	ck_assert_ptr_null(s);
	ck_assert_ptr_nonnull(strstr(f.text, "10 tokens"));
	options = (struct sampler_options){.batch_rows = 0};
	ck_assert_int_eq(sampler_new(&s, d, &options, &f), SAKIORI_EINVAL);
	options = (struct sampler_options){.batch_rows = SIZE_MAX / 2};
	ck_assert_int_eq(sampler_new(&s, d, &options, &f), SAKIORI_ELIMIT);
	dataset_free(d);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dataset");
	TCase *c = tcase_create("rows");
	tcase_add_checked_fixture(c, open_tiny, close_tiny);
	tcase_add_test(c, every_kind_of_row_is_learned_where_it_should_be);
	tcase_add_test(c, a_turn_may_say_whether_it_is_learned);
	tcase_add_test(c, tokens_of_others_are_taken_as_they_are);
	tcase_add_test(c, a_row_cannot_write_control_tokens);
	tcase_add_test(c, prompt_and_completion_are_tokenized_apart);
	tcase_add_test(c, counts_say_what_became_of_the_rows);
	tcase_add_test(c, broken_rows_name_file_and_line_and_quote_nothing);
	tcase_add_test(c, limits_are_errors_that_say_the_limit);
	tcase_add_test(c, rows_of_messages_without_a_chat_template_say_what_to_do);
	tcase_add_test(c, a_file_is_read_and_what_is_none_is_refused);
	tcase_add_test(c, random_rows_are_the_same_every_time_and_learned_whole);
	tcase_add_test(c, the_fingerprint_covers_ids_labels_and_row_bounds);
	suite_add_tcase(suite, c);
	c = tcase_create("batches");
	tcase_add_checked_fixture(c, open_tiny, close_tiny);
	tcase_add_test(c, micro_batches_laid_end_to_end_are_the_rows_whatever_their_size);
	tcase_add_test(c, every_epoch_takes_every_row_once_in_an_order_of_its_own);
	tcase_add_test(c, a_step_depends_on_seed_and_number_alone);
	tcase_add_test(c, without_shuffling_rows_come_in_file_order_and_over_again);
	tcase_add_test(c, evaluation_takes_every_row_once_in_file_order);
	tcase_add_test(c, a_row_that_fits_no_micro_batch_is_refused);
	suite_add_tcase(suite, c);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
