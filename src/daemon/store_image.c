/* SPDX-License-Identifier: Apache-2.0 */
/* Objects by kind: model (x), moments (m, v), own (our public replica; one row for each version still pinned), update
 * (the encoded bytes of the newest version) and replica (a neighbour's; peer = its NodeID, version = have). A commit writes only the
 * vectors that changed. */
#include "daemon/store_image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "gossip/codec.h"

/* Objects written but not yet named. */
struct hashes {
	char model[HASH_HEX_SIZE], moments[HASH_HEX_SIZE], own[HASH_HEX_SIZE], update[HASH_HEX_SIZE];
	char (*replicas)[HASH_HEX_SIZE]; /* one an edge, "" where unchanged */
};

/* Whether a vector needs no file now. One that was never named is written even if nothing changed it. */
static bool is_stored(struct store *s, const char *kind, const char *peer, uint64_t version, bool changed)
{
	char hash[HASH_HEX_SIZE];
	return !changed && store_find_object(s, kind, peer, version, hash, NULL) == 0;
}

static int write_replicas(struct store *s, const struct site_image *image, struct hashes *h, struct fault *f)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < image->edge_count; i++) {
		const struct site_edge_row *edge = &image->edges[i];
		char peer[HASH_HEX_SIZE];
		hex_encode(edge->id, IDENTITY_KEY_SIZE, peer);
		if (edge->replica == NULL || edge->numbers.have == 0 ||
			is_stored(s, "replica", peer, edge->numbers.have, edge->replica_changed))
			continue;
		struct store_tensor replica = {"replica", STORE_F32, edge->replica, image->size};
		rc = store_write_object(s, &replica, 1, h->replicas[i], f);
	}
	return rc;
}

static int write_objects(struct store *s, const struct site_image *image, struct hashes *h, struct fault *f)
{
	struct store_tensor model = {"x", STORE_F32, image->x, image->size};
	struct store_tensor moments[] = {
		{"m", STORE_F32, image->m, image->size}, {"v", STORE_F32, image->v, image->size}};
	struct store_tensor own = {"replica", STORE_F32, image->self, image->size};
	struct store_tensor update = {"payload", STORE_BYTES, image->payload, codec_payload_bytes(image->size)};
	int rc = store_write_object(s, &model, 1, h->model, f);
	if (rc == 0 && !is_stored(s, "moments", "", 0, image->moments_changed))
		rc = store_write_object(s, moments, 2, h->moments, f);
	if (rc == 0 && !is_stored(s, "own", "", image->row.sequence, image->self_changed))
		rc = store_write_object(s, &own, 1, h->own, f);
	if (rc == 0 && image->row.sequence > 0 && !is_stored(s, "update", "", 0, image->self_changed))
		rc = store_write_object(s, &update, 1, h->update, f);
	return rc == 0 ? write_replicas(s, image, h, f) : rc;
}

static int put_hash(struct store *s, const char *key, const uint8_t hash[static HASH_SIZE], struct fault *f)
{
	char hex[HASH_HEX_SIZE];
	hex_encode(hash, HASH_SIZE, hex);
	return store_set_text(s, key, hex, f);
}

static int put_numbers(struct store *s, const struct site_image *image, struct fault *f)
{
	int rc = put_hash(s, "run_id", image->run_id, f);
	if (rc == 0)
		rc = put_hash(s, "layout_hash", image->layout_hash, f);
	if (rc == 0)
		rc = put_hash(s, "payload_hash", image->payload_hash, f);
	if (rc == 0)
		rc = store_set_number(s, "size", image->size, f);
	if (rc == 0)
		rc = store_set_number(s, "round", image->row.round, f);
	if (rc == 0)
		rc = store_set_number(s, "sequence", image->row.sequence, f);
	if (rc == 0)
		rc = store_set_number(s, "point", (uint64_t)image->row.point, f);
	if (rc == 0)
		rc = store_set_number(s, "step", image->step, f);
	return rc;
}

/* Own versions that are in the store. */
struct versions {
	uint64_t *items;
	size_t count;
};

static void add_version(void *self, const char *peer, uint64_t version, const char *hash)
{
	(void)peer;
	(void)hash;
	struct versions *v = self;
	v->items = must_realloc(v->items, (v->count + 1) * sizeof *v->items);
	v->items[v->count++] = version;
}

static bool is_pinned(const struct site_image *image, uint64_t version)
{
	for (size_t i = 0; i < image->pin_count; i++)
		if (image->pins[i] == version)
			return true;
	return version == image->row.sequence;
}

static int put_own(struct store *s, const struct site_image *image, const struct hashes *h, struct fault *f)
{
	struct versions stored = {0};
	int rc = 0;
	if (h->own[0] != '\0')
		rc = store_name_object(s, "own", "", image->row.sequence, h->own,
			"public replica: newest, or pinned by a neighbour", f);
	if (rc == 0)
		rc = store_each_object(s, "own", add_version, &stored, f);
	for (size_t i = 0; rc == 0 && i < stored.count; i++)
		if (!is_pinned(image, stored.items[i]))
			rc = store_unname_object(s, "own", "", stored.items[i], f);
	free(stored.items);
	return rc;
}

static int put_edges(struct store *s, const struct site_image *image, const struct hashes *h, struct fault *f)
{
	int rc = store_clear_edges(s, f);
	for (size_t i = 0; rc == 0 && i < image->edge_count; i++) {
		const struct site_edge_row *edge = &image->edges[i];
		char peer[HASH_HEX_SIZE];
		hex_encode(edge->id, IDENTITY_KEY_SIZE, peer);
		rc = store_put_edge(s, peer, &edge->numbers, f);
		if (rc == 0 && h->replicas[i][0] != '\0')
			rc = store_name_object(
				s, "replica", peer, edge->numbers.have, h->replicas[i], "neighbour's replica", f);
		if (rc == 0)
			rc = store_unname_others(s, "replica", peer, edge->numbers.have, f);
	}
	if (rc == 0)
		rc = store_unname_strangers(s, "replica", f);
	return rc;
}

static int put_rows(struct store *s, const struct site_image *image, const struct hashes *h, struct fault *f)
{
	int rc = put_numbers(s, image, f);
	if (rc == 0)
		rc = store_name_object(s, "model", "", 0, h->model, "adapter", f);
	if (rc == 0 && h->moments[0] != '\0')
		rc = store_name_object(s, "moments", "", 0, h->moments, "optimizer", f);
	if (rc == 0 && h->update[0] != '\0')
		rc = store_name_object(s, "update", "", 0, h->update, "newest update, as it is sent", f);
	if (rc == 0)
		rc = put_own(s, image, h, f);
	if (rc == 0)
		rc = put_edges(s, image, h, f);
	for (size_t i = 0; rc == 0 && i < 2; i++)
		if (image->records[i] != NULL)
			rc = store_put_record(s, image->records[i], f);
	return rc;
}

int store_image_commit(struct store *s, const struct site_image *image, struct fault *f)
{
	struct hashes h = {.replicas = must_calloc(image->edge_count + 1, HASH_HEX_SIZE)};
	int rc = write_objects(s, image, &h, f);
	if (rc == 0)
		rc = store_begin(s, f);
	if (rc == 0) {
		rc = put_rows(s, image, &h, f);
		if (rc == 0)
			rc = store_commit(s, f);
		else
			store_rollback(s);
	}
	free(h.replicas);
	/* Also after a failure: what was written for nothing must not keep a full disk full. */
	store_collect(s);
	return rc;
}

static int get_hash(struct store *s, const char *key, uint8_t out[static HASH_SIZE], struct fault *f)
{
	char *hex = NULL;
	int rc = store_get_text(s, key, &hex, f);
	if (rc == 0 && hex_decode(hex, out, HASH_SIZE) != 0)
		rc = SAKIORI_ENOTFOUND;
	free(hex);
	return rc;
}

static int load_numbers(struct store *s, struct site_image *image, struct fault *f)
{
	uint64_t size = 0, point = 0;
	int rc = store_get_number(s, "round", &image->row.round, f); /* ENOTFOUND: never committed */
	if (rc != 0)
		return rc;
	rc = get_hash(s, "run_id", image->run_id, f);
	if (rc == 0)
		rc = get_hash(s, "layout_hash", image->layout_hash, f);
	if (rc == 0)
		rc = store_get_number(s, "size", &size, f);
	if (rc == 0 && size != image->size)
		rc = fault_set(f, SAKIORI_EMISMATCH,
			"%s holds vectors of %llu floats, expected %zu: choose another site.state_directory",
			store_directory(s), (unsigned long long)size, image->size);
	if (rc == 0)
		rc = store_get_number(s, "sequence", &image->row.sequence, f);
	if (rc == 0)
		rc = store_get_number(s, "point", &point, f);
	if (rc == 0)
		rc = store_get_number(s, "step", &image->step, f);
	if (rc == 0)
		rc = get_hash(s, "payload_hash", image->payload_hash, f);
	if (rc == 0 && point > ROUND_TRAINED)
		rc = SAKIORI_ENOTFOUND;
	image->row.point = (enum round_point)point;
	/* A value that is missing beside others that are there is damage, not a site before its first commit. */
	if (rc == SAKIORI_ENOTFOUND)
		rc = fault_set(f, SAKIORI_ECORRUPT,
			"%s/state.sqlite lacks a value: restore the state directory from a backup", store_directory(s));
	return rc;
}

static int load_object(struct store *s, const char *kind, const char *peer, uint64_t version,
	const struct store_tensor *tensors, size_t count, struct fault *f)
{
	char hash[HASH_HEX_SIZE];
	int rc = store_find_object(s, kind, peer, version, hash, f);
	if (rc == 0)
		rc = store_read_object(s, hash, tensors, count, f);
	if (rc == SAKIORI_ENOTFOUND)
		rc = fault_set(f, SAKIORI_ECORRUPT,
			"%s/state.sqlite names no %s of version %llu: restore the state directory from a backup",
			store_directory(s), kind, (unsigned long long)version);
	return rc;
}

static int load_vectors(struct store *s, struct site_image *image, struct fault *f)
{
	struct store_tensor model = {"x", STORE_F32, image->x, image->size};
	struct store_tensor moments[] = {
		{"m", STORE_F32, image->m, image->size}, {"v", STORE_F32, image->v, image->size}};
	struct store_tensor update = {"payload", STORE_BYTES, image->payload, codec_payload_bytes(image->size)};
	int rc = load_object(s, "model", "", 0, &model, 1, f);
	if (rc == 0)
		rc = load_object(s, "moments", "", 0, moments, 2, f);
	if (rc == 0)
		rc = store_image_load_own(s, image->row.sequence, image->self, image->size, f);
	if (rc == 0 && image->row.sequence > 0)
		rc = load_object(s, "update", "", 0, &update, 1, f);
	return rc;
}

static void add_edge(void *self, const char *peer, const struct round_edge_row *row)
{
	struct site_image *image = self;
	struct site_edge_row edge = {.numbers = *row};
	if (hex_decode(peer, edge.id, IDENTITY_KEY_SIZE) != 0)
		return;
	image->edges = must_realloc(image->edges, (image->edge_count + 1) * sizeof edge);
	image->edges[image->edge_count++] = edge;
}

static int load_edges(struct store *s, struct site_image *image, struct fault *f)
{
	image->edges = NULL;
	image->edge_count = 0;
	int rc = store_each_edge(s, add_edge, image, f);
	for (size_t i = 0; rc == 0 && i < image->edge_count; i++) {
		struct site_edge_row *edge = &image->edges[i];
		char peer[HASH_HEX_SIZE];
		if (edge->numbers.have == 0)
			continue;
		hex_encode(edge->id, IDENTITY_KEY_SIZE, peer);
		edge->replica = malloc(image->size * sizeof(float));
		if (edge->replica == NULL)
			rc = fault_set(f, SAKIORI_ENOMEM, "no memory for a replica of %zu floats", image->size);
		else
			rc = load_object(s, "replica", peer, edge->numbers.have,
				&(struct store_tensor){"replica", STORE_F32, edge->replica, image->size}, 1, f);
	}
	if (rc == 0)
		return 0;
	for (size_t i = 0; i < image->edge_count; i++)
		free(image->edges[i].replica);
	free(image->edges);
	image->edges = NULL;
	image->edge_count = 0;
	return rc;
}

int store_image_load(struct store *s, struct site_image *image, struct fault *f)
{
	int rc = load_numbers(s, image, f);
	if (rc == 0)
		rc = load_vectors(s, image, f);
	if (rc == 0)
		rc = load_edges(s, image, f);
	return rc;
}

int store_image_load_own(struct store *s, uint64_t version, float *out, size_t n, struct fault *f)
{
	struct store_tensor own = {"replica", STORE_F32, out, n};
	return load_object(s, "own", "", version, &own, 1, f);
}

static int effect_load(void *self, struct site_image *image, struct fault *f)
{
	return store_image_load(self, image, f);
}

static int effect_commit(void *self, const struct site_image *image, struct fault *f)
{
	return store_image_commit(self, image, f);
}

static int effect_load_own(void *self, uint64_t version, float *out, size_t n, struct fault *f)
{
	return store_image_load_own(self, version, out, n, f);
}

struct site_store store_image_effects(struct store *store)
{
	return (struct site_store){
		.self = store, .load = effect_load, .commit = effect_commit, .load_own = effect_load_own};
}
