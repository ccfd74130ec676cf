/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/train_log.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/tensorboard.h"

static double wall_time(void)
{
	struct timespec at;
	clock_gettime(CLOCK_REALTIME, &at);
	return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

static int append_json(struct append_file *a, json_t *take_object, struct fault *f)
{
	char *line = json_dumps(take_object, JSON_COMPACT | JSON_REAL_PRECISION(9));
	json_decref(take_object);
	if (!line)
		return fault_set(f, SAKIORI_EINVAL, "%s: a value that JSON has no way to write", a->path);
	size_t n = strlen(line);
	line[n++] = '\n'; /* in the place of the NUL: one write a line */
	int rc = append_write(a, line, n, f);
	free(line);
	return rc;
}

static int append_scalars(
	struct train_log *l, uint64_t step, const struct tensorboard_scalar *scalars, size_t count, struct fault *f)
{
	struct writer record;
	writer_init(&record);
	tensorboard_encode(&record, wall_time(), (int64_t)step, scalars, count);
	int rc = append_write(&l->events, record.data, record.size, f);
	writer_fini(&record);
	return rc;
}

/* TensorBoard looks for files with "tfevents" in their name. */
static void name_events(char name[static 80])
{
	char host[37] = "";
	if (gethostname(host, sizeof host - 1) != 0 || strpbrk(host, " /"))
		strcpy(host, "host");
	snprintf(name, 80, "events.out.tfevents.%010lld.%s.%d", (long long)time(NULL), host, (int)getpid());
}

static char *join(const char *folder, const char *name)
{
	size_t n = strlen(folder) + strlen(name) + 2;
	char *path = must_alloc(n);
	snprintf(path, n, "%s/%s", folder, name);
	return path;
}

static int begin_events(struct train_log *l, const char *folder, struct fault *f)
{
	struct writer record;
	name_events(l->events_name);
	char *path = join(folder, l->events_name);
	int rc = append_open(&l->events, path, 0644, f);
	free(path);
	if (rc)
		return rc;
	writer_init(&record);
	tensorboard_encode_begin(&record, wall_time());
	rc = append_write(&l->events, record.data, record.size, f);
	writer_fini(&record);
	return rc;
}

/* The file of the run so far goes on where it is still there. */
static int open_events(struct train_log *l, const char *folder, const char *mark, struct fault *f)
{
	int rc = file_make_directories(folder, 0755, f);
	const char *place = mark ? strchr(mark, ' ') : NULL;
	if (rc)
		return rc;
	if (!place || (size_t)(place - mark) >= sizeof l->events_name)
		return begin_events(l, folder, f);
	memcpy(l->events_name, mark, (size_t)(place - mark));
	char *path = join(folder, l->events_name);
	bool there = access(path, F_OK) == 0;
	rc = there ? append_reopen(&l->events, path, 0644, place + 1, f) : begin_events(l, folder, f);
	free(path);
	return rc;
}

int train_log_open(struct train_log *l, const struct train_log_places *places, const struct train_log_marks *marks,
	struct fault *f)
{
	int rc = 0;
	*l = (struct train_log){0};
	if (places->log)
		rc = append_reopen(&l->log, places->log, 0644, marks ? marks->log : "", f);
	if (!rc && places->samples)
		rc = append_reopen(&l->samples, places->samples, 0600, marks ? marks->samples : "", f);
	if (!rc && places->tensorboard)
		rc = open_events(l, places->tensorboard, marks ? marks->events : NULL, f);
	return rc;
}

void train_log_close(struct train_log *l)
{
	append_close(&l->log);
	append_close(&l->events);
	append_close(&l->samples);
}

int train_log_step(struct train_log *l, const struct train_log_step *s, struct fault *f)
{
	const struct tensorboard_scalar scalars[] = {{"train/loss", s->loss}, {"train/grad_norm", s->grad_norm},
		{"train/learning_rate", s->lr}, {"train/epoch", s->epoch}, {"train/num_tokens", (double)s->tokens}};
	int rc = 0;
	if (l->log.path)
		rc = append_json(&l->log,
			json_pack("{s:f, s:f, s:f, s:I, s:f, s:I}", "loss", s->loss, "grad_norm", s->grad_norm,
				"learning_rate", s->lr, "num_tokens", (json_int_t)s->tokens, "epoch", s->epoch,
				"global_step", (json_int_t)s->step),
			f);
	if (!rc && l->events.path)
		rc = append_scalars(l, s->step, scalars, sizeof scalars / sizeof *scalars, f);
	return rc;
}

int train_log_eval(struct train_log *l, const struct train_log_eval *e, struct fault *f)
{
	const struct tensorboard_scalar scalars[] = {
		{"eval/loss", e->loss}, {"eval/perplexity", e->perplexity}, {"eval/accuracy", e->accuracy}};
	int rc = 0;
	if (l->log.path)
		rc = append_json(&l->log,
			json_pack("{s:f, s:f, s:f, s:f, s:I}", "eval_loss", e->loss, "eval_perplexity", e->perplexity,
				"eval_accuracy", e->accuracy, "epoch", e->epoch, "global_step", (json_int_t)e->step),
			f);
	if (!rc && l->events.path)
		rc = append_scalars(l, e->step, scalars, sizeof scalars / sizeof *scalars, f);
	return rc;
}

int train_log_sample(
	struct train_log *l, uint64_t step, const char *prompt, const char *text, size_t size, struct fault *f)
{
	return append_json(&l->samples,
		json_pack("{s:I, s:s, s:s%}", "step", (json_int_t)step, "prompt", prompt, "text", text, size), f);
}

int train_log_mark(const struct train_log *l, struct train_log_marks *marks, struct fault *f)
{
	char place[APPEND_MARK];
	int rc = 0;
	*marks = (struct train_log_marks){0};
	if (l->log.path)
		rc = append_mark(&l->log, marks->log, f);
	if (!rc && l->samples.path)
		rc = append_mark(&l->samples, marks->samples, f);
	if (!rc && l->events.path) {
		rc = append_mark(&l->events, place, f);
		snprintf(marks->events, sizeof marks->events, "%s %s", l->events_name, place);
	}
	return rc;
}
