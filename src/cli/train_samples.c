/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/train_samples.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/file.h"
#include "cli/engine.h"
#include "formats/model_file.h"

/* Of a file of prompts. */
#define FILE_LIMIT ((size_t)1 << 20)

static void add(struct train_samples *s, const char *prompt, size_t size)
{
	s->prompts = must_realloc(s->prompts, (s->count + 1) * sizeof *s->prompts);
	char *copy = s->prompts[s->count++] = must_alloc(size + 1);
	memcpy(copy, prompt, size);
	copy[size] = '\0';
}

/* One a line; empty lines are none. */
static int add_lines(struct train_samples *s, const char *path, struct fault *f)
{
	uint8_t *data;
	size_t size;
	int rc = file_read(path, FILE_LIMIT, &data, &size, f);
	if (rc)
		return rc;
	if (memchr(data, 0, size))
		rc = fault_set(f, SAKIORI_EFORMAT, "%s: expected text, found a NUL", path);
	for (const char *line = (const char *)data; *line && !rc;) {
		size_t n = strcspn(line, "\n"), shown = n && line[n - 1] == '\r' ? n - 1 : n;
		if (shown && s->count == CLI_TEXTS_MAX)
			rc = fault_set(f, SAKIORI_ELIMIT, "%s: more than %d prompts in all", path, CLI_TEXTS_MAX);
		else if (shown)
			add(s, line, shown);
		line += n + (line[n] == '\n');
	}
	free(data);
	return rc;
}

static int encode_all(struct train_samples *s, const struct train_options *o, size_t *longest, struct fault *f)
{
	int rc = 0;
	s->tokens = must_calloc(s->count + 1, sizeof *s->tokens);
	for (size_t i = 0; i < s->count && !rc; i++) {
		rc = engine_encode_prompt(s->tokenizer, s->prompts[i], o->sample_chat, &s->tokens[i], f);
		if (rc)
			fault_wrap(f, "sample prompt %zu", i + 1);
		*longest = s->tokens[i].count > *longest ? s->tokens[i].count : *longest;
	}
	return rc;
}

int train_samples_open(struct train_samples *s, const struct train_options *o, size_t *text_tokens, struct fault *f)
{
	struct model_file *mf;
	size_t longest = 0;
	*s = (struct train_samples){.more = (size_t)o->sample_tokens};
	if (!o->samples)
		return 0;
	for (size_t i = 0; i < o->sample_prompt.count; i++)
		add(s, o->sample_prompt.at[i], strlen(o->sample_prompt.at[i]));
	int rc = o->sample_prompts ? add_lines(s, o->sample_prompts, f) : 0;
	if (!rc)
		rc = model_file_open(o->model, &mf, f);
	if (rc)
		return rc;
	size_t context = model_file_shape(mf)->context;
	rc = tokenizer_of_model(&s->tokenizer, mf, f);
	model_file_close(mf);
	if (!rc)
		rc = encode_all(s, o, &longest, f);
	if (!rc && (longest > context || s->more > context - longest))
		rc = fault_set(f, SAKIORI_ELIMIT,
			"a sample of %zu tokens of prompt and %zu more exceeds the model's %zu: lower --sample-tokens",
			longest, s->more, context);
	*text_tokens = longest + s->more;
	return rc;
}

void train_samples_close(struct train_samples *s)
{
	for (size_t i = 0; i < s->count; i++) {
		free(s->prompts[i]);
		if (s->tokens)
			token_list_fini(&s->tokens[i]);
	}
	free(s->prompts);
	free(s->tokens);
	tokenizer_free(s->tokenizer);
	*s = (struct train_samples){0};
}

static int write_one(const struct train_samples *s, size_t i, struct trainer *t, struct train_log *log, int32_t *ids,
	struct fault *f)
{
	struct trainer_prompt prompt = {.ids = s->tokens[i].ids,
		.count = s->tokens[i].count,
		.more = s->more,
		.end = tokenizer_eos(s->tokenizer)};
	size_t count, size;
	char *text;
	int rc = trainer_write_on(t, &prompt, ids, &count, f);
	if (!rc)
		rc = tokenizer_decode(s->tokenizer, ids, count, TOKENIZER_REPLACE, &text, &size, f);
	if (rc)
		return rc;
	rc = train_log_sample(log, trainer_step_number(t), s->prompts[i], text, size, f);
	free(text);
	return rc;
}

int train_samples_write(const struct train_samples *s, struct trainer *t, struct train_log *log, struct fault *f)
{
	int rc = 0;
	int32_t *ids = must_calloc(s->more + 1, sizeof *ids);
	for (size_t i = 0; i < s->count && !rc; i++)
		rc = write_one(s, i, t, log, ids, f);
	free(ids);
	return rc;
}
