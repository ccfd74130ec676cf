/* SPDX-License-Identifier: Apache-2.0 */
/* A site's durable state in the simulation: what the last transaction left, and nothing else, survives a crash. */
#pragma once
#include "sim/sim.h"

struct sim_version {
	uint64_t version;
	float *values;
};

struct sim_disk {
	bool written;
	struct site_image image; /* own copies of all vectors; edges and their replicas malloced */
	struct sim_version *own; /* own replica at the pinned versions */
	size_t own_count;
};

void sim_disk_fini(struct sim_disk *disk);
int sim_disk_load(const struct sim_disk *disk, struct site_image *out, size_t payload_size);
void sim_disk_commit(struct sim_disk *disk, const struct site_image *image, size_t payload_size);
/* NULL when it is not kept. */
const float *sim_disk_own(const struct sim_disk *disk, uint64_t version);
const struct site_edge_row *sim_disk_edge(const struct sim_disk *disk, const uint8_t id[static IDENTITY_KEY_SIZE]);
