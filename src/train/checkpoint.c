/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path of a write: notes (settings, state, step, hash), then the three vectors, through the safetensors writer, which
 * renames into place after a sync. A read checks the header's shape, then the hash over notes and vectors, then the
 * settings: so a damaged file is called damaged and not misunderstood as one of other settings. */
#include "train/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "formats/safetensors.h"

#define CHECKPOINT_VERSION "2"
enum { VECTORS = 3 };
static const char *const vector_names[VECTORS] = {"adapter", "moment.first", "moment.second"};

static float *vector_of(const struct checkpoint *c, int i)
{
	return i == 0 ? c->adapter : i == 1 ? c->first : c->second;
}

static void hash_text(struct hash *h, const char *text)
{
	/* With the NUL, so that no two lists of texts hash alike. */
	hash_update(h, text, strlen(text) + 1);
}

/* Over the notes (all but the hash itself) and the vectors. */
static void digest(
	const struct checkpoint *c, const struct safetensors_note *notes, size_t count, char hex[static HASH_HEX_SIZE])
{
	struct hash h;
	uint8_t out[HASH_SIZE];
	hash_init(&h, "sakiori-resume");
	for (size_t i = 0; i < count; i++) {
		hash_text(&h, notes[i].key);
		hash_text(&h, notes[i].value);
	}
	for (int i = 0; i < VECTORS; i++)
		hash_update(&h, vector_of(c, i), c->size * sizeof(float));
	hash_final(&h, out);
	hex_encode(out, HASH_SIZE, hex);
}

int checkpoint_write(const char *path, const struct checkpoint *c, const struct checkpoint_setting *settings,
	size_t count, struct fault *f)
{
	size_t all = count + c->state_count + 2;
	struct safetensors_note *notes = must_calloc(all + 1, sizeof *notes);
	struct safetensors_tensor tensors[VECTORS];
	char step[24], hex[HASH_HEX_SIZE];
	snprintf(step, sizeof step, "%" PRIu64, c->step);
	notes[0] = (struct safetensors_note){"checkpoint", CHECKPOINT_VERSION};
	notes[1] = (struct safetensors_note){"step", step};
	for (size_t i = 0; i < count; i++)
		notes[i + 2] = (struct safetensors_note){settings[i].name, settings[i].value};
	for (size_t i = 0; i < c->state_count; i++)
		notes[count + i + 2] = (struct safetensors_note){c->state[i].name, c->state[i].value};
	digest(c, notes, all, hex);
	notes[all] = (struct safetensors_note){"hash", hex};
	for (int i = 0; i < VECTORS; i++)
		tensors[i] = (struct safetensors_tensor){
			.name = vector_names[i],
			.type = SAFETENSORS_F32,
			.dimensions = 1,
			.shape = {c->size},
			.data = vector_of(c, i),
		};
	int rc = safetensors_write(path, 0600, tensors, VECTORS, notes, all + 1, f);
	free(notes);
	return rc;
}

static int read_vectors(const struct safetensors *s, const char *path, struct checkpoint *c, struct fault *f)
{
	for (int i = 0; i < VECTORS; i++) {
		const struct safetensors_tensor *t = safetensors_find(s, vector_names[i]);
		if (!t || t->type != SAFETENSORS_F32 || t->dimensions != 1)
			return fault_set(f, SAKIORI_ECORRUPT, "%s is no checkpoint: it has no vector \"%s\" of floats",
				path, vector_names[i]);
		if (t->shape[0] != c->size)
			return fault_set(f, SAKIORI_EMISMATCH,
				"%s holds an adapter of %" PRIu64
				" parameters, this run has %zu: same --rank, --targets and --model?",
				path, t->shape[0], c->size);
		int rc = safetensors_read(s, t, 0, c->size * sizeof(float), vector_of(c, i), f);
		if (rc)
			return rc;
	}
	return 0;
}

/* The hash in the file is over the notes in the order in which they were written, and readers keep no order: so it is
 * taken over the settings' order, with the values that the file has. */
static int check_hash(const struct safetensors *s, const char *path, const struct checkpoint *c,
	const struct checkpoint_setting *settings, size_t count, struct fault *f)
{
	size_t all = count + c->state_count + 2;
	struct safetensors_note *notes = must_calloc(all, sizeof *notes);
	const char *stored = safetensors_note(s, "hash");
	char hex[HASH_HEX_SIZE];
	int rc = 0;
	notes[0].key = "checkpoint";
	notes[1].key = "step";
	for (size_t i = 0; i < count; i++)
		notes[i + 2].key = settings[i].name;
	for (size_t i = 0; i < c->state_count; i++)
		notes[count + i + 2].key = c->state[i].name;
	for (size_t i = 0; i < all && !rc; i++) {
		notes[i].value = safetensors_note(s, notes[i].key);
		if (!notes[i].value)
			rc = fault_set(f, SAKIORI_ECORRUPT, "%s is no checkpoint of this version: \"%s\" is missing",
				path, notes[i].key);
	}
	if (!rc) {
		digest(c, notes, all, hex);
		if (!stored || strcmp(stored, hex))
			rc = fault_set(f, SAKIORI_ECORRUPT,
				"%s is damaged: its hash does not match its contents; remove it and start over, or "
				"restore a copy",
				path);
	}
	free(notes);
	return rc;
}

static int check_version(const struct safetensors *s, const char *path, struct fault *f)
{
	const char *version = safetensors_note(s, "checkpoint");
	if (!version || strcmp(version, CHECKPOINT_VERSION) == 0)
		return 0; /* a missing one is found with the other notes */
	return fault_set(f, SAKIORI_EUNSUPPORTED,
		"%s is a checkpoint of version %.20s, this program reads " CHECKPOINT_VERSION
		": start over without --resume",
		path, version);
}

static int check_settings(const struct safetensors *s, const char *path, struct checkpoint *c,
	const struct checkpoint_setting *settings, size_t count, struct fault *f)
{
	for (size_t i = 0; i < count; i++) {
		const char *value = safetensors_note(s, settings[i].name);
		if (strcmp(value, settings[i].value))
			return fault_set(f, SAKIORI_EMISMATCH,
				"%s was made with %s %.80s, this run has %s: use the same, or start over without "
				"--resume",
				path, settings[i].name, value, settings[i].value);
	}
	for (size_t i = 0; i < c->state_count; i++)
		snprintf(c->state[i].value, sizeof c->state[i].value, "%s", safetensors_note(s, c->state[i].name));
	char *end;
	c->step = strtoull(safetensors_note(s, "step"), &end, 10);
	if (*end)
		return fault_set(f, SAKIORI_ECORRUPT, "%s: its step is no number", path);
	return 0;
}

int checkpoint_read(const char *path, struct checkpoint *c, const struct checkpoint_setting *settings, size_t count,
	struct fault *f)
{
	struct safetensors *s;
	struct fault own = {0};
	int rc = safetensors_open(path, &s, &own);
	if (rc == SAKIORI_EFORMAT)
		rc = SAKIORI_ECORRUPT;
	if (rc)
		return fault_set(f, rc, "%s", own.text);
	rc = read_vectors(s, path, c, f);
	if (!rc)
		rc = check_version(s, path, f);
	if (!rc)
		rc = check_hash(s, path, c, settings, count, f);
	if (!rc)
		rc = check_settings(s, path, c, settings, count, f);
	safetensors_close(s);
	return rc;
}
