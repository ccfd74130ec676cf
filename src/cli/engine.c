/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "text/chat.h"

int engine_read_dtype(const char *word, enum trainer_dtype *out, struct fault *f)
{
	int rc = trainer_dtype_parse(word, out, f);
	if (rc) {
		fault_wrap(f, "--base-dtype");
		rc = f->code = SAKIORI_EUSAGE;
	}
	return rc;
}

int engine_read_memory(const char *word, enum memory_mode *out, struct fault *f)
{
	int rc = trainer_memory_parse(word, out, f);
	if (rc) {
		fault_wrap(f, "--memory");
		rc = f->code = SAKIORI_EUSAGE;
	}
	return rc;
}

int engine_read_variants(const char *word, enum variants_mode *out, struct fault *f)
{
	int rc = variants_mode_parse(word, out, f);
	if (rc) {
		fault_wrap(f, "--variants");
		rc = f->code = SAKIORI_EUSAGE;
	}
	return rc;
}

const char *engine_cache(void)
{
	static char path[4096];
	const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	/* The specification of XDG_CACHE_HOME: a relative path counts as none. */
	if (base && *base == '/')
		snprintf(path, sizeof path, "%s/sakiori", base);
	else if (home && *home == '/')
		snprintf(path, sizeof path, "%s/.cache/sakiori", home);
	else
		return NULL;
	/* Without it everything is measured again, which costs seconds and nothing else. */
	return file_make_directories(path, 0700, NULL) ? NULL : path;
}

json_t *engine_orders(const struct variants *v, size_t tokens)
{
	json_t *orders = json_object();
	for (enum variants_group group = 0; group < VARIANTS_GROUPS; group++) {
		char word[VARIANTS_WORD];
		struct variants_choice c = variants_at(v, group, tokens, true);
		json_object_set_new(orders, variants_group_name(group), json_string(variants_format(&c, word)));
	}
	return orders;
}

int engine_read_overlong(const char *word, enum trainer_overlong *out, struct fault *f)
{
	if (strcmp(word, "truncate") == 0)
		*out = TRAINER_TRUNCATE;
	else if (strcmp(word, "refuse") == 0)
		*out = TRAINER_REFUSE;
	else
		return fault_set(f, SAKIORI_EUSAGE, "--over-long: expected truncate or refuse, found '%.40s'", word);
	return 0;
}

int engine_read_schedule(const char *word, enum schedule *out, struct fault *f)
{
	int rc = schedule_parse(word, out, f);
	if (rc) {
		fault_wrap(f, "--schedule");
		rc = f->code = SAKIORI_EUSAGE;
	}
	return rc;
}

int engine_read_targets(const char *word, unsigned *out, struct fault *f)
{
	int rc = lora_targets_parse(word, out, f);
	if (rc)
		rc = f->code = SAKIORI_EUSAGE;
	return rc;
}

int engine_check(struct trainer_config *config, struct fault *f)
{
	int rc = trainer_config_check(config, f);
	if (rc == SAKIORI_EINVAL)
		rc = f->code = SAKIORI_EUSAGE;
	return rc;
}

void engine_show_loading(void *unused, const char *what, size_t done, size_t total)
{
	(void)unused;
	cli_progress("reading the %s: %3.0f %%", what, total ? 100.0 * (double)done / (double)total : 100.0);
}

static int read_pattern(const char *option, const char *word, double values[static LORA_TARGETS], struct fault *f)
{
	memset(values, 0, LORA_TARGETS * sizeof *values);
	int rc = word ? lora_pattern_parse(word, values, f) : 0;
	if (rc) {
		fault_wrap(f, "%s", option);
		rc = f->code = SAKIORI_EUSAGE;
	}
	return rc;
}

int engine_read_rank_pattern(const char *word, size_t out[static LORA_TARGETS], struct fault *f)
{
	double values[LORA_TARGETS];
	int rc = read_pattern("--rank-pattern", word, values, f);
	for (enum lora_target target = 0; target < LORA_TARGETS && !rc; target++) {
		if (values[target] != floor(values[target]) || values[target] > LORA_MAX_RANK)
			return fault_set(f, SAKIORI_EUSAGE, "--rank-pattern: rank %g: expected 1 to %d", values[target],
				LORA_MAX_RANK);
		out[target] = (size_t)values[target];
	}
	return rc;
}

int engine_read_alpha_pattern(const char *word, float out[static LORA_TARGETS], struct fault *f)
{
	double values[LORA_TARGETS];
	int rc = read_pattern("--alpha-pattern", word, values, f);
	for (enum lora_target target = 0; target < LORA_TARGETS && !rc; target++)
		out[target] = (float)values[target];
	return rc;
}

static int encode_chat(const struct tokenizer *t, struct tokenizer_scratch *scratch, const char *prompt,
	struct token_list *out, struct fault *f)
{
	struct chat_message turn = {.role = {"user", 4}, .content = {prompt, strlen(prompt)}};
	struct labelled_tokens list = {0};
	struct chat *chat;
	int rc = chat_new(&chat, t, f);
	if (rc)
		return rc;
	rc = chat_encode(chat, scratch, &turn, 1, true, &list, f);
	for (size_t i = 0; i < list.tokens.count && !rc; i++)
		token_list_add(out, list.tokens.ids[i]);
	labelled_tokens_fini(&list);
	chat_free(chat);
	return rc;
}

int engine_encode_prompt(
	const struct tokenizer *t, const char *prompt, bool chat, struct token_list *out, struct fault *f)
{
	struct tokenizer_scratch *scratch = tokenizer_scratch_new(t);
	int rc;
	if (chat) {
		rc = encode_chat(t, scratch, prompt, out, f);
	} else {
		if (tokenizer_bos(t) >= 0)
			token_list_add(out, tokenizer_bos(t));
		rc = tokenizer_encode(t, scratch, prompt, strlen(prompt), 0, out, f);
	}
	tokenizer_scratch_free(scratch);
	if (!rc && !out->count)
		rc = fault_set(f, SAKIORI_EINVAL, "the prompt is empty: there is nothing to go on from");
	return rc;
}
