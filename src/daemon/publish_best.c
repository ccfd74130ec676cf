/* SPDX-License-Identifier: Apache-2.0 */
/* Each round that evaluates better than all before it leaves its adapter in a folder of its own, so that a server which keeps what it has loaded by
 * name sees a new name. What was published, and how good it was, stands in the store: a folder that is not of this state is never removed. A crash
 * before the folder is whole loses it, and a later round takes its place. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "daemon/parts.h"
#include "train/lora_peft.h"

/* In the store: rounds whose folders stand, oldest first, with a blank between them; the loss of the last one. */
#define ROUNDS "best_rounds"
#define LOSS "best_loss"

int best_load(struct daemon *d, struct fault *f)
{
	char *text = NULL;
	d->best.lowest = INFINITY;
	int rc = store_get_text(d->store, LOSS, &text, f);
	if (rc == 0)
		d->best.lowest = strtod(text, NULL);
	free(text);
	return rc == SAKIORI_ENOTFOUND ? 0 : rc;
}

/* The folder that holds the folders, in fresh memory. */
static char *directory_of(const struct daemon *d)
{
	char *path;
	bool own = d->config.publish.directory[0] == '\0';
	int n = own ? asprintf(&path, "%s/adapters", d->config.site.state_directory)
		    : asprintf(&path, "%s", d->config.publish.directory);
	if (n < 0)
		abort();
	return path;
}

#define NAME_SIZE 128 /* a run's name has at most 64 letters */

static void name_of(const struct daemon *d, uint64_t round, char out[static NAME_SIZE])
{
	snprintf(out, NAME_SIZE, "%s-round-%" PRIu64, d->config.run.name, round);
}

/* Its path, in fresh memory. */
static char *place(const struct daemon *d, const char *name)
{
	char *directory = directory_of(d), *path;
	if (asprintf(&path, "%s/%s", directory, name) < 0)
		abort();
	free(directory);
	return path;
}

static char *folder_of(const struct daemon *d, uint64_t round)
{
	char name[NAME_SIZE];
	name_of(d, round, name);
	return place(d, name);
}

/* The daemon's umask is for its state; what is served is for others to read. */
static int make_directory(const struct daemon *d, struct fault *f)
{
	char *path = directory_of(d);
	bool own = d->config.publish.directory[0] == '\0', there = access(path, F_OK) == 0;
	int rc = there ? 0 : file_make_directories(path, 0755, f);
	if (rc == 0 && !there && !own && chmod(path, 0755) != 0)
		rc = fault_errno(f, "%s", path);
	free(path);
	return rc;
}

/* RUN-best, at one stroke. */
static int point_to(const struct daemon *d, uint64_t round, struct fault *f)
{
	char name[NAME_SIZE], alias[NAME_SIZE];
	snprintf(alias, sizeof alias, "%s-best", d->config.run.name);
	char *link = place(d, alias);
	snprintf(alias, sizeof alias, "%s-best.new", d->config.run.name);
	char *temporary = place(d, alias);
	name_of(d, round, name);
	int rc = 0;
	unlink(temporary);
	if (symlink(name, temporary) != 0 || rename(temporary, link) != 0) {
		rc = fault_errno(f, "%s", link);
		unlink(temporary);
	} else {
		rc = file_sync_directory(link, f);
	}
	free(link);
	free(temporary);
	return rc;
}

static int write_folder(const struct daemon *d, const struct best *b, const char *folder, struct fault *f)
{
	char round[24], loss[32];
	snprintf(round, sizeof round, "%" PRIu64, b->round);
	snprintf(loss, sizeof loss, "%.6f", b->loss);
	const struct safetensors_note notes[] = {{"sakiori.base_fingerprint", d->fingerprint},
		{"sakiori.run", d->config.run.name}, {"sakiori.round", round}, {"sakiori.eval_loss", loss}};
	return lora_peft_write(
		folder, &d->layout, b->vector, daemon_base_model(d), notes, sizeof notes / sizeof *notes, f);
}

/* The list with this round behind it, less the first ones above `keep`, whose folders are gone. */
static char *renew_list(const struct daemon *d, const char *stored, uint64_t round)
{
	uint64_t rounds[1001];
	size_t count = 0;
	for (char *end; *stored != '\0' && count < 1000; stored = end) {
		uint64_t v = strtoull(stored, &end, 10);
		if (end == stored)
			break;
		if (v != round)
			rounds[count++] = v;
	}
	rounds[count++] = round;
	size_t keep = (size_t)d->config.publish.keep, first = count > keep ? count - keep : 0;
	for (size_t i = 0; i < first; i++) {
		char *folder = folder_of(d, rounds[i]);
		file_remove_folder(folder);
		free(folder);
	}
	char *text = must_calloc(count - first, 21);
	for (size_t i = first, at = 0; i < count; i++)
		at += (size_t)sprintf(text + at, "%s%" PRIu64, i > first ? " " : "", rounds[i]);
	return text;
}

static int note_published(const struct daemon *d, const struct best *b, struct fault *f)
{
	char *stored = NULL, loss[40];
	int rc = store_get_text(d->store, ROUNDS, &stored, f);
	if (rc != 0 && rc != SAKIORI_ENOTFOUND)
		return rc;
	char *list = renew_list(d, stored != NULL ? stored : "", b->round);
	snprintf(loss, sizeof loss, "%.17g", b->loss);
	rc = store_begin(d->store, f);
	if (rc == 0) {
		rc = store_set_text(d->store, ROUNDS, list, f);
		if (rc == 0)
			rc = store_set_text(d->store, LOSS, loss, f);
		if (rc == 0)
			rc = store_commit(d->store, f);
		else
			store_rollback(d->store);
	}
	free(stored);
	free(list);
	return rc;
}

/* On the lane. */
static void publish(void *data)
{
	struct daemon *d = data;
	struct best *b = &d->best;
	char *folder = folder_of(d, b->round);
	b->rc = make_directory(d, &b->fault);
	if (b->rc == 0)
		b->rc = write_folder(d, b, folder, &b->fault);
	if (b->rc == 0)
		b->rc = point_to(d, b->round, &b->fault);
	if (b->rc == 0)
		b->rc = note_published(d, b, &b->fault);
	free(folder);
}

static void on_published(void *data);

static void begin(struct daemon *d)
{
	struct best *b = &d->best;
	if (b->running || b->next == NULL || d->stopping)
		return;
	b->vector = b->next;
	b->round = b->next_round;
	b->loss = b->next_loss;
	b->next = NULL;
	b->running = true;
	lane_push(d->lane, publish, on_published, d);
}

static void on_published(void *data)
{
	struct daemon *d = data;
	struct best *b = &d->best;
	b->running = false;
	b->trouble[0] = '\0';
	if (b->rc == 0) {
		char *folder = folder_of(d, b->round);
		log_info("best_adapter_published", "round=%" PRIu64 " eval_loss=%.4f folder=%s", b->round, b->loss,
			folder);
		free(folder);
	} else {
		log_warn("best_adapter_not_published", "round=%" PRIu64 " error=\"%s\"", b->round, b->fault.text);
		snprintf(b->trouble, sizeof b->trouble, "the best adapter could not be published: %s", b->fault.text);
	}
	if (b->rc != 0 && b->next == NULL) { /* tried again when the next round is done */
		b->next = b->vector;
		b->next_round = b->round;
		b->next_loss = b->loss;
	} else {
		free(b->vector);
		begin(d);
	}
	b->vector = NULL;
}

void daemon_publish_best(struct daemon *d, const struct site_record *record)
{
	struct best *b = &d->best;
	if (isfinite(record->eval_loss_mixed) && record->eval_loss_mixed < b->lowest) {
		float *vector = engine_take_evaluated(d->engine);
		if (vector != NULL) {
			free(b->next);
			b->next = vector;
			b->next_round = record->round;
			b->next_loss = b->lowest = record->eval_loss_mixed;
		}
	}
	begin(d);
}

void best_fini(struct best *b)
{
	free(b->vector);
	free(b->next);
}
