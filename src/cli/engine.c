/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"

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
