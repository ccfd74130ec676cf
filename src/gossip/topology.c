/* SPDX-License-Identifier: Apache-2.0 */
#include "gossip/topology.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

float topology_weight(float gamma, uint32_t degree, uint32_t other_degree)
{
	uint32_t larger = degree > other_degree ? degree : other_degree;
	return gamma / (1.0f + (float)larger);
}

static void add_edge(struct topology *t, size_t a, size_t b)
{
	t->edges[t->edge_count++] = a < b ? (struct topology_edge){(uint32_t)a, (uint32_t)b}
					  : (struct topology_edge){(uint32_t)b, (uint32_t)a};
}

static int compare_edges(const void *a, const void *b)
{
	const struct topology_edge *x = a, *y = b;
	if (x->low != y->low)
		return x->low < y->low ? -1 : 1;
	return x->high < y->high ? -1 : x->high > y->high;
}

/* Reads a site number at *at and moves on; false if there is none below `sites`. */
static bool parse_site(const char **at, size_t sites, uint32_t *site)
{
	if (**at < '0' || **at > '9')
		return false;
	char *end;
	unsigned long value = strtoul(*at, &end, 10);
	*at = end;
	*site = (uint32_t)value;
	return value < sites;
}

static int parse_edges(struct topology *t, const char *text, struct fault *f)
{
	const char *at = text;
	do {
		uint32_t a, b;
		bool valid = parse_site(&at, t->sites, &a) && *at == '-';
		at += valid;
		if (!valid || !parse_site(&at, t->sites, &b) || (*at != ',' && *at != 0))
			return fault_set(f, SAKIORI_EINVAL,
				"topology: edge %zu of the list is malformed or names a site above %zu; expected ring, "
				"line, full or edges as in \"0-1,1-2\"",
				t->edge_count + 1, t->sites - 1);
		if (a == b)
			return fault_set(f, SAKIORI_EINVAL, "topology: an edge joins site %u to itself", (unsigned)a);
		t->edges = must_realloc(t->edges, (t->edge_count + 1) * sizeof *t->edges);
		add_edge(t, a, b);
	} while (*at++ == ',');
	qsort(t->edges, t->edge_count, sizeof *t->edges, compare_edges);
	for (size_t e = 1; e < t->edge_count; e++)
		if (compare_edges(&t->edges[e - 1], &t->edges[e]) == 0)
			return fault_set(f, SAKIORI_EINVAL, "topology: edge %u-%u is given twice",
				(unsigned)t->edges[e].low, (unsigned)t->edges[e].high);
	return 0;
}

int topology_init(struct topology *t, const char *text, size_t sites, struct fault *f)
{
	*t = (struct topology){.sites = sites};
	if (sites == 0 || sites > TOPOLOGY_MAX_SITES)
		return fault_set(f, SAKIORI_EINVAL, "topology: %zu sites, expected 1 to %d", sites, TOPOLOGY_MAX_SITES);
	bool line = strcmp(text, "line") == 0, ring = strcmp(text, "ring") == 0;
	if (line || ring) {
		t->edges = must_calloc(sites, sizeof *t->edges);
		for (size_t a = 0; a + 1 < sites; a++)
			add_edge(t, a, a + 1);
		if (ring && sites > 2)
			add_edge(t, 0, sites - 1);
		qsort(t->edges, t->edge_count, sizeof *t->edges, compare_edges);
		return 0;
	}
	if (strcmp(text, "full") == 0) {
		t->edges = must_calloc(sites * (sites - 1) / 2 + 1, sizeof *t->edges);
		for (size_t a = 0; a < sites; a++)
			for (size_t b = a + 1; b < sites; b++)
				add_edge(t, a, b);
		return 0;
	}
	return parse_edges(t, text, f);
}

void topology_fini(struct topology *t)
{
	free(t->edges);
	*t = (struct topology){0};
}

uint32_t topology_degree(const struct topology *t, uint32_t site)
{
	uint32_t degree = 0;
	for (size_t e = 0; e < t->edge_count; e++)
		degree += t->edges[e].low == site || t->edges[e].high == site;
	return degree;
}

bool topology_has_edge(const struct topology *t, uint32_t a, uint32_t b)
{
	struct topology_edge wanted = {a < b ? a : b, a < b ? b : a};
	return t->edge_count > 0 && bsearch(&wanted, t->edges, t->edge_count, sizeof *t->edges, compare_edges) != NULL;
}

bool topology_connected(const struct topology *t)
{
	bool *reached = must_calloc(t->sites, sizeof *reached);
	size_t count = 1;
	reached[0] = true;
	for (bool grew = true; grew;) {
		grew = false;
		for (size_t e = 0; e < t->edge_count; e++) {
			uint32_t a = t->edges[e].low, b = t->edges[e].high;
			if (reached[a] != reached[b]) {
				reached[a] = reached[b] = true;
				count++;
				grew = true;
			}
		}
	}
	free(reached);
	return count == t->sites;
}
