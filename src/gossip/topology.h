/* SPDX-License-Identifier: Apache-2.0 */
/* Who mixes with whom, and with what weight. Pure. Any thread.
 * A daemon knows only its own edges and uses topology_weight alone; the edge list is for simulation, which sees all
 * sites. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Most sites of one simulated graph. */
#define TOPOLOGY_MAX_SITES 4096

/* Metropolis-Hastings: gamma / (1 + max of the two degrees). Both ends use the degrees that the counted pair of updates
 * carried, in any order, so the mixing matrix stays symmetric and doubly stochastic, whichever edges drop out.
 * degrees >= 1, 0 < gamma <= 1: the result is in (0, 0.5]. */
float topology_weight(float gamma, uint32_t degree, uint32_t other_degree);

struct topology_edge {
	uint32_t low, high; /* site numbers, low < high */
};

/* Edges are sorted (low, then high) and unique. */
struct topology {
	size_t sites;
	struct topology_edge *edges;
	size_t edge_count;
};

/* `text`: "ring", "line", "full" or an explicit list of edges such as "0-1,1-2,0-2". 1 <= sites <= TOPOLOGY_MAX_SITES.
 * SAKIORI_EINVAL with a sentence: unknown word, malformed edge, site out of range, loop, edge given twice.
 * The caller frees with topology_fini, also after a failure. */
int topology_init(struct topology *t, const char *text, size_t sites, struct fault *f);
/* Safe twice. */
void topology_fini(struct topology *t);
/* Number of edges at `site`. */
uint32_t topology_degree(const struct topology *t, uint32_t site);
/* Whether an edge joins the two. */
bool topology_has_edge(const struct topology *t, uint32_t a, uint32_t b);
/* Whether every site can reach every other. */
bool topology_connected(const struct topology *t);
