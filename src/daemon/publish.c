/* SPDX-License-Identifier: Apache-2.0 */
/* What is published is the model that the store committed, so a crash between the commit and this leaves an older, whole folder,
 * and the next start writes the newer one. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "daemon/parts.h"
#include "train/lora_peft.h"

static int read_model(struct daemon *d, struct publication *p, struct fault *f)
{
	char hash[HASH_HEX_SIZE];
	struct store_tensor model = {"x", STORE_F32, p->x, lora_shared_size(&d->layout)};
	int rc = store_find_object(d->store, "model", "", 0, hash, f);
	if (rc == 0)
		rc = store_get_number(d->store, "round", &p->round, f);
	return rc == 0 ? store_read_object(d->store, hash, &model, 1, f) : rc;
}

const char *daemon_base_model(const struct daemon *d)
{
	return d->config.publish.base_model[0] != '\0' ? d->config.publish.base_model : d->model_name;
}

/* On the lane. */
static void publish(void *data)
{
	struct daemon *d = data;
	struct publication *p = &d->publication;
	char round[24];
	p->rc = read_model(d, p, &p->fault);
	if (p->rc != 0)
		return;
	memcpy(p->vector, d->initial, d->layout.size * sizeof *p->vector);
	lora_adopt(&d->layout, p->x, p->vector);
	snprintf(round, sizeof round, "%" PRIu64, p->round);
	const struct safetensors_note notes[] = {
		{"sakiori.base_fingerprint", d->fingerprint}, {"sakiori.round", round}};
	p->rc = file_make_directories(p->parent, 0700, &p->fault);
	if (p->rc == 0)
		p->rc = lora_peft_write(p->folder, &d->layout, p->vector, daemon_base_model(d), notes, 2, &p->fault);
}

static void on_published(void *data)
{
	struct daemon *d = data;
	struct publication *p = &d->publication;
	p->running = false;
	p->trouble[0] = '\0';
	if (p->rc == 0) {
		p->done_once = true;
		log_debug("adapter_published", "round=%" PRIu64 " folder=%s", p->round, p->folder);
	} else if (p->rc != SAKIORI_ENOTFOUND) { /* not found: nothing was committed yet */
		log_warn("adapter_not_published", "error=\"%s\"", p->fault.text);
		snprintf(p->trouble, sizeof p->trouble, "the adapter could not be published: %s", p->fault.text);
	}
	if (p->again && !d->stopping) {
		p->again = false;
		daemon_publish(d);
	}
}

void daemon_publish(struct daemon *d)
{
	struct publication *p = &d->publication;
	if (p->running) {
		p->again = true;
		return;
	}
	if (p->folder == NULL) {
		size_t n = strlen(d->config.site.state_directory) + sizeof "/adapters/latest";
		p->parent = must_alloc(n);
		p->folder = must_alloc(n);
		snprintf(p->parent, n, "%s/adapters", d->config.site.state_directory);
		snprintf(p->folder, n, "%s/latest", p->parent);
		p->x = must_alloc(lora_shared_size(&d->layout) * sizeof *p->x);
		p->vector = must_alloc(d->layout.size * sizeof *p->vector);
	}
	p->running = true;
	lane_push(d->lane, publish, on_published, d);
}

void publication_fini(struct publication *p)
{
	free(p->parent);
	free(p->folder);
	free(p->x);
	free(p->vector);
}
