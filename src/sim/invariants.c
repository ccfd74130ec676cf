/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold at every instant, and at rest. */
#include <math.h>
#include <string.h>

#include "sim/world.h"

/* Rounding: each addition to a model of values around 1 may be off by half a unit in the last place, and such errors add up
 * like steps in random directions. A term lost or counted twice is a thousand times that. */
static double sum_tolerance(const struct world *w)
{
	return 3e-6 * sqrt(fmax(1, (double)w->set.rounds / 40));
}

/* Takes the terms that the lower end of an edge has counted and the higher has not off the sum. */
static void take_off_undelivered(struct world *w, struct member *low, struct member *high, double *sum)
{
	const struct site_edge_row *given = sim_disk_edge(&low->disk, identity_public(high->identity)->node_id);
	const struct site_edge_row *taken = sim_disk_edge(&high->disk, identity_public(low->identity)->node_id);
	const struct round_word *word;
	const float *a, *b;

	if (!given)
		return;
	word = &given->numbers.word;
	if (word->number <= (taken ? taken->numbers.applied : 0))
		return;
	if (word->number != (taken ? taken->numbers.applied : 0) + 1)
		world_broken(w, low->index, "two words are outstanding on an edge");
	a = sim_disk_own(&low->disk, word->a);
	b = sim_disk_own(&high->disk, word->b);
	if (!a || !b) {
		world_broken(w, a ? high->index : low->index, "a version that an outstanding word names is not stored");
		return;
	}
	for (size_t i = 0; i < w->set.size; i++)
		sum[i] -= (double)(word->weight * (b[i] - a[i]));
}

/* Sum of all models = sites x initial + durable local steps + terms that one end has counted and the other has not. */
void check_commit(struct world *w)
{
	size_t n = w->set.size;
	double *sum = w->sum, worst = 0;

	memset(sum, 0, n * sizeof(*sum));
	for (size_t s = 0; s < w->site_count; s++) {
		struct member *m = &w->members[s];

		for (size_t i = 0; i < n; i++)
			sum[i] += (m->disk.written ? (double)m->disk.image.x[i] - (double)w->initial[i] : 0) -
				  m->displacement[i];
		for (size_t t = 0; t < w->site_count; t++)
			if (w->edges[s * w->site_count + t] && identity_compare(identity_public(m->identity),
								       identity_public(w->members[t].identity)) < 0)
				take_off_undelivered(w, m, &w->members[t], sum);
	}
	for (size_t i = 0; i < n; i++)
		worst = fmax(worst, fabs(sum[i]));
	w->out->worst_sum = fmax(worst, w->out->worst_sum);
	if (worst > sum_tolerance(w) && !w->set.apart)
		world_broken(w, 0, "the sum of all models moved");
}

bool check_finished(const struct world *w)
{
	for (size_t s = 0; s < w->site_count; s++) {
		const struct sim_disk *d = &w->members[s].disk;

		if (!w->members[s].site || !d->written || d->image.row.round < w->set.rounds ||
			d->image.row.point != ROUND_MIXED)
			return false;
	}
	return true;
}

static void check_edge(struct world *w, struct member *m, struct member *other)
{
	const struct site_edge_row *mine = sim_disk_edge(&m->disk, identity_public(other->identity)->node_id);
	const struct site_edge_row *theirs = sim_disk_edge(&other->disk, identity_public(m->identity)->node_id);

	if (!mine || !theirs || mine->numbers.have != other->disk.image.row.sequence)
		world_broken(w, m->index, "does not hold its neighbour's last update at rest");
	else if (memcmp(mine->replica, other->disk.image.self, w->set.size * sizeof(float)))
		world_broken(w, m->index, "holds another replica than its neighbour published");
	else if (mine->numbers.word.number && mine->numbers.word.number != theirs->numbers.applied)
		world_broken(w, m->index, "gave a word that was never applied");
}

static void measure(struct world *w)
{
	size_t n = w->set.size, sites = w->site_count;
	double distance = 0, alone = 0, error = 0;

	for (size_t i = 0; i < n; i++) {
		double mean = 0, target = 0;

		for (size_t s = 0; s < sites; s++) {
			mean += (double)w->members[s].disk.image.x[i] / (double)sites;
			target += (double)w->members[s].target[i] / (double)sites;
		}
		for (size_t s = 0; s < sites; s++) {
			distance += pow((double)w->members[s].disk.image.x[i] - mean, 2);
			alone += pow((double)w->members[s].target[i] - target, 2);
		}
		error += pow(mean - target, 2);
	}
	w->out->distance = sqrt(distance / (double)(n * sites));
	w->out->alone_distance = sqrt(alone / (double)(n * sites));
	w->out->mean_error = sqrt(error / (double)n);
}

void check_end(struct world *w)
{
	check_commit(w);
	for (size_t s = 0; s < w->site_count; s++) {
		struct member *m = &w->members[s];

		if (m->trained != w->set.rounds || m->disk.image.row.sequence != w->set.rounds)
			world_broken(w, s, "a round was not counted exactly once");
		if (m->disk.image.step != w->set.rounds * w->set.local_steps)
			world_broken(w, s, "a local step was not counted exactly once");
		for (size_t t = 0; t < w->site_count; t++)
			if (w->edges[s * w->site_count + t] && !w->set.apart)
				check_edge(w, m, &w->members[t]);
	}
	measure(w);
}
