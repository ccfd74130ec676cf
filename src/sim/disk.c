/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/disk.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static void *copy(const void *from, size_t size)
{
	void *to = must_alloc(size ? size : 1);

	if (size)
		memcpy(to, from, size);
	return to;
}

static void drop_own(struct sim_version *own, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(own[i].values);
	free(own);
}

static void drop_image(struct site_image *image)
{
	free(image->x);
	free(image->m);
	free(image->v);
	free(image->self);
	free(image->payload);
	for (size_t i = 0; i < image->edge_count; i++)
		free(image->edges[i].replica);
	free(image->edges);
}

void sim_disk_fini(struct sim_disk *disk)
{
	drop_own(disk->own, disk->own_count);
	if (disk->written)
		drop_image(&disk->image);
	*disk = (struct sim_disk){0};
}

/* Vectors that the site says not to have changed are taken from `before`, as a real store leaves their files alone. */
static struct site_edge_row *copy_edges(const struct site_image *image, const struct sim_disk *before)
{
	struct site_edge_row *edges = copy(image->edges, image->edge_count * sizeof(*edges));

	for (size_t i = 0; i < image->edge_count; i++) {
		const struct site_edge_row *old = before ? sim_disk_edge(before, edges[i].id) : NULL;
		const float *from = edges[i].replica;

		if (from && old && old->replica && !edges[i].replica_changed)
			from = old->replica;
		edges[i].replica = from ? copy(from, image->size * sizeof(float)) : NULL;
	}
	return edges;
}

int sim_disk_load(const struct sim_disk *disk, struct site_image *out, size_t payload_size)
{
	const struct site_image *from = &disk->image;
	size_t bytes = from->size * sizeof(float);

	if (!disk->written)
		return SAKIORI_ENOTFOUND;
	memcpy(out->x, from->x, bytes);
	memcpy(out->m, from->m, bytes);
	memcpy(out->v, from->v, bytes);
	memcpy(out->self, from->self, bytes);
	memcpy(out->payload, from->payload, payload_size);
	memcpy(out->run_id, from->run_id, HASH_SIZE);
	memcpy(out->layout_hash, from->layout_hash, HASH_SIZE);
	memcpy(out->payload_hash, from->payload_hash, HASH_SIZE);
	out->row = from->row;
	out->step = from->step;
	out->edges = copy_edges(from, NULL);
	out->edge_count = from->edge_count;
	return 0;
}

void sim_disk_commit(struct sim_disk *disk, const struct site_image *image, size_t payload_size)
{
	size_t bytes = image->size * sizeof(float), count = 0;
	struct sim_version *own = must_calloc(image->pin_count + 1, sizeof(*own));
	struct site_image fresh = *image;

	/* A pinned version that is neither the present one nor kept so far is a mistake of the site; it shows when it is asked for. */
	for (size_t i = 0; i < image->pin_count; i++) {
		const float *values =
			image->pins[i] == image->row.sequence ? image->self : sim_disk_own(disk, image->pins[i]);

		if (values)
			own[count++] = (struct sim_version){image->pins[i], copy(values, bytes)};
	}
	fresh.x = copy(image->x, bytes);
	fresh.m = copy(image->moments_changed ? image->m : disk->image.m, bytes);
	fresh.v = copy(image->moments_changed ? image->v : disk->image.v, bytes);
	fresh.self = copy(image->self_changed ? image->self : disk->image.self, bytes);
	fresh.payload = must_calloc(1, payload_size);
	if (image->payload)
		memcpy(fresh.payload, image->payload, payload_size);
	fresh.edges = copy_edges(image, disk);
	fresh.pins = NULL;
	fresh.records[0] = fresh.records[1] = NULL;
	drop_own(disk->own, disk->own_count);
	if (disk->written)
		drop_image(&disk->image);
	*disk = (struct sim_disk){.written = true, .image = fresh, .own = own, .own_count = count};
}

const float *sim_disk_own(const struct sim_disk *disk, uint64_t version)
{
	for (size_t i = 0; i < disk->own_count; i++)
		if (disk->own[i].version == version)
			return disk->own[i].values;
	return NULL;
}

const struct site_edge_row *sim_disk_edge(const struct sim_disk *disk, const uint8_t id[static IDENTITY_KEY_SIZE])
{
	for (size_t i = 0; i < disk->image.edge_count && disk->written; i++)
		if (!memcmp(disk->image.edges[i].id, id, IDENTITY_KEY_SIZE))
			return &disk->image.edges[i];
	return NULL;
}
