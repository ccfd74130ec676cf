/* SPDX-License-Identifier: Apache-2.0 */
/* One site of the simulation: its effects, its toy trainer, its death and return. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "gossip/codec.h"
#include "sim/world.h"

#define LEARNING_RATE 0.02f
#define STEP_MS 30
#define WORK_MS 40

bool member_effect(struct member *m)
{
	struct world *w = m->world;

	if (m->doomed)
		return false;
	if (world_chance(w, w->set.crash))
		m->doomed = true;
	if (world_chance(w, w->set.freeze / 8)) {
		uint64_t ms = world_between(w, 10, 2 * w->set.deadline_ms);

		/* Never shorter: what it already delayed would be overtaken. */
		if (m->frozen_until < w->now + ms)
			m->frozen_until = w->now + ms;
		m->frozen_ms += ms;
		w->out->freezes++;
	}
	return !m->doomed;
}

/* ---- Effects ---- */

static uint64_t now_ms(void *self)
{
	return ((struct member *)self)->world->now;
}

static uint64_t unix_ms(void *self)
{
	struct member *m = self;

	return UINT64_C(1700000000000) + m->world->now + (uint64_t)m->clock_offset_ms;
}

static uint64_t random_number(void *self)
{
	return rng_u64(&((struct member *)self)->rng);
}

static void random_bytes(void *self, void *out, size_t n)
{
	struct member *m = self;

	for (size_t i = 0; i < n; i++)
		((uint8_t *)out)[i] = (uint8_t)rng_u32(&m->rng);
}

static void later(struct member *m, enum sim_event_kind kind, uint64_t at, void *subject)
{
	sim_events_add(&m->world->events,
		(struct sim_event){
			.at = at, .kind = kind, .member = m->index, .life = m->life, .subject = subject, .number = at});
}

static void timer(void *self, uint64_t at)
{
	struct member *m = self;

	m->timer_at = at;
	if (at != UINT64_MAX)
		later(m, SIM_TIMER, at > m->world->now ? at : m->world->now, NULL);
}

static void train(void *self, const struct site_training *training)
{
	struct member *m = self;

	m->training = training;
	if (member_effect(m))
		later(m, SIM_TRAINED,
			m->world->now + world_between(m->world, STEP_MS / 2, STEP_MS * 3 / 2) * training->steps, NULL);
}

static void evaluate(void *self, const float *x)
{
	struct member *m = self;

	m->evaluating = x;
	if (member_effect(m))
		later(m, SIM_EVALUATED, m->world->now + STEP_MS, NULL);
}

static void work(void *self, struct site_job *job)
{
	struct member *m = self;
	uint64_t start = m->lane_free > m->world->now ? m->lane_free : m->world->now;

	if (!member_effect(m))
		return;
	m->lane_free = start + world_between(m->world, 1, WORK_MS);
	later(m, SIM_WORKED, m->lane_free, job);
}

/* ---- The store ---- */

static int load(void *self, struct site_image *image, struct fault *f)
{
	struct member *m = self;
	struct world *w = m->world;
	bool old = m->backup.written && m->disk.image.row.round > m->backup.image.row.round + 2;
	int rc;

	if (old) {
		sim_disk_fini(&m->disk);
		m->disk = m->backup;
		m->backup = (struct sim_disk){0};
	}
	rc = sim_disk_load(&m->disk, image, codec_payload_bytes(w->set.size));

	if (rc)
		return fault_set(f, rc, "nothing stored");
	if (w->set.plant == SIM_PLANT_ENCODE_AGAIN && image->row.point == ROUND_TRAINED)
		image->self[0] += 0.5f;
	for (size_t i = 0; i < image->edge_count && w->set.plant == SIM_PLANT_WORD_AGAIN; i++)
		if (image->edges[i].numbers.applied)
			image->edges[i].numbers.applied--;
	return 0;
}

static int commit(void *self, const struct site_image *image, struct fault *f)
{
	struct member *m = self;
	struct world *w = m->world;
	bool trained = image->row.point == ROUND_TRAINED && image->row.round != m->disk.image.row.round;
	size_t n = w->set.size;

	if (!member_effect(m)) {
		if (w->set.plant == SIM_PLANT_TORN_COMMIT && m->disk.written)
			memcpy(m->disk.image.x, image->x, n * sizeof(float));
		return fault_set(f, SAKIORI_EIO, "dead");
	}
	if (w->set.disk_full && w->set.disk_full(w->set.self, m->index, w->now))
		return fault_set(f, SAKIORI_ENOSPC, "no space left on the device of the state directory");
	w->out->commits++;
	if (w->set.plant == SIM_PLANT_LOST_COMMIT && m->disk.written && world_chance(w, 0.02)) {
		m->doomed = world_chance(w, 0.5);
		return 0;
	}
	sim_disk_commit(&m->disk, image, codec_payload_bytes(n));
	if (w->set.plant == SIM_PLANT_OLD_DISK && image->row.round <= 2)
		sim_disk_commit(&m->backup, image, codec_payload_bytes(n));
	if (trained) {
		for (size_t i = 0; i < n; i++)
			m->displacement[i] += m->moved[i];
		m->trained++;
	}
	world_trace(w, image->row.round * 2 + image->row.point);
	check_commit(w);
	if (world_chance(w, w->set.crash)) /* durable, and nobody knows */
		m->doomed = true;
	return 0;
}

static int load_own(void *self, uint64_t version, float *out, size_t n, struct fault *f)
{
	struct member *m = self;
	const float *own = sim_disk_own(&m->disk, version);

	if (!own) {
		world_broken(m->world, m->index, "a version of its own replica that was still needed is not stored");
		return fault_set(f, SAKIORI_ENOTFOUND, "version %llu", (unsigned long long)version);
	}
	memcpy(out, own, n * sizeof(*out));
	return 0;
}

/* ---- The trainer: H steps of gradient descent on |x - target|^2 / 2 ---- */

static double toy_loss(const struct member *m, const float *x)
{
	size_t n = m->world->set.size;
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += 0.5 * ((double)x[i] - (double)m->target[i]) * ((double)x[i] - (double)m->target[i]);
	return sum / (double)n;
}

static void trained(struct member *m)
{
	const struct site_training *t = m->training;
	struct site_trained result = {.steps = t->steps,
		.tokens = 100 * (uint64_t)t->steps,
		.lr = (double)LEARNING_RATE,
		.loss = toy_loss(m, t->x)};
	size_t n = m->world->set.size;

	if ((double)t->m[0] != (double)t->step || (double)t->v[0] != (double)t->step)
		world_broken(m->world, m->index, "the moments are not those of the step");
	for (size_t i = 0; i < n; i++) {
		float before = t->x[i], x = before;

		for (uint32_t k = 0; k < t->steps; k++)
			x -= LEARNING_RATE * (x - m->target[i]);
		t->x[i] = x;
		m->moved[i] = (double)x - (double)before;
	}
	t->m[0] = t->v[0] = (float)(t->step + t->steps);
	site_on_trained(m->site, &result);
}

static void evaluated(struct member *m)
{
	struct site_evaluated result = {.loss = toy_loss(m, m->evaluating), .accuracy = NAN};

	site_on_evaluated(m->site, &result);
}

/* ---- Life ---- */

static void on_round(void *self, const struct site_record *record)
{
	struct member *m = self;
	struct world *w = m->world;
	double wait = record->gather_seconds * 1000 - (double)m->frozen_ms;

	if (wait > w->out->worst_wait_ms)
		w->out->worst_wait_ms = wait;
	/* The evaluation and the transaction in between are the site's own time. */
	if (wait > (double)w->set.deadline_ms + 20 * WORK_MS + STEP_MS)
		world_broken(w, m->index, "waited for its neighbours beyond the deadline");
	m->frozen_ms = 0;
	w->out->words += record->words;
	world_trace(w, (uint64_t)(record->loss * 1e12));
	if (w->set.on_round)
		w->set.on_round(w->set.self, m->index, record);
}

static void on_rejected(void *self, int peer, const char *reason)
{
	struct member *m = self;
	/* What lost connections may lead to. Everything else breaks a promise: all sites are honest. */
	static const char *const harmless[] = {"timeout", "silent", "expired", NULL};

	(void)peer;
	for (size_t i = 0; harmless[i]; i++)
		if (!strcmp(reason, harmless[i]))
			return;
	if (!m->world->set.expects || !m->world->set.expects(m->world->set.self, m->index, reason))
		world_broken(m->world, m->index, reason);
}

void member_init(struct world *w, size_t index)
{
	struct member *m = &w->members[index];
	uint8_t seed[32] = {0};
	struct rng values;

	m->world = w;
	m->index = index;
	seed[0] = (uint8_t)index;
	memcpy(seed + 8, &w->set.seed, sizeof(w->set.seed));
	if (identity_from_seed(seed, 1, &m->identity, NULL))
		abort();
	m->target = must_calloc(w->set.size, sizeof(*m->target));
	m->moved = must_calloc(w->set.size, sizeof(*m->moved));
	m->displacement = must_calloc(w->set.size, sizeof(*m->displacement));
	rng_init(&values, w->set.seed, 1000 + index);
	for (size_t i = 0; i < w->set.size; i++)
		m->target[i] = rng_normal(&values);
}

static size_t neighbours_of(struct member *m, struct site_neighbour *out, char names[][32], char urls[][32])
{
	struct world *w = m->world;
	size_t n = 0;

	for (size_t j = 0; j < w->site_count; j++) {
		if (!w->edges[m->index * w->site_count + j])
			continue;
		snprintf(names[n], 32, "site-%zu", j);
		snprintf(urls[n], 32, "sim:%zu", j);
		out[n] = (struct site_neighbour){
			.name = names[n], .id = *identity_public(w->members[j].identity), .url = urls[n]};
		n++;
	}
	return n;
}

void member_start(struct member *m)
{
	struct world *w = m->world;
	struct site_neighbour neighbours[SIM_SITES_MAX];
	char names[SIM_SITES_MAX][32], urls[SIM_SITES_MAX][32];
	const struct site_io io = {m, now_ms, unix_ms, random_number, timer, train, evaluate, work, link_effect_dial,
		link_effect_send, link_effect_room, link_effect_authenticated, link_effect_close};
	const struct site_store store = {m, load, commit, load_own};
	const struct site_observer observer = {.self = m, .on_round = on_round, .on_rejected = on_rejected};
	struct site_settings settings = {.session = {.identity = m->identity,
						 .network_secret = w->secret,
						 .random = random_bytes,
						 .random_self = m},
		.size = w->set.size,
		.initial = w->initial,
		.codec_seed = w->set.seed * 100 + m->index,
		.local_steps = w->set.local_steps,
		.round = {.rounds = w->set.rounds,
			.gamma = w->set.gamma,
			.deadline_ms = w->set.deadline_ms,
			.deadline_min_ms = w->set.deadline_min_ms,
			.evaluate_every = 3},
		.neighbours = neighbours};
	struct fault f;

	rng_init(&m->rng, w->set.seed, 5000 + m->index * 100000 + m->life);
	snprintf(settings.hello.software, sizeof(settings.hello.software), "simulation");
	snprintf(settings.hello.site, sizeof(settings.hello.site), "site-%zu", m->index);
	settings.neighbour_count = neighbours_of(m, neighbours, names, urls);
	m->lane_free = m->frozen_until = 0;
	m->timer_at = UINT64_MAX;
	m->doomed = false;
	if (w->set.configure)
		w->set.configure(w->set.self, m->index, &settings, &m->clock_offset_ms);
	if (site_new(&settings, &io, &store, &observer, &m->site, &f)) {
		world_broken(w, m->index, f.text);
		return;
	}
	site_start(m->site);
}

void member_crash(struct member *m)
{
	struct world *w = m->world;

	w->out->crashes++;
	link_drop_member(m);
	site_free(m->site);
	m->site = NULL;
	m->doomed = false;
	m->life++;
	later(m, SIM_RESTART, w->now + world_between(w, 10, 2 * w->set.deadline_ms), NULL);
}

void member_fini(struct member *m)
{
	site_free(m->site);
	identity_free(m->identity);
	sim_disk_fini(&m->disk);
	sim_disk_fini(&m->backup);
	free(m->target);
	free(m->moved);
	free(m->displacement);
}

static void worked(struct member *m, struct site_job *job)
{
	job->run(job);
	if (!m->doomed)
		site_on_worked(m->site, job);
}

void member_on_event(struct member *m, struct sim_event *e)
{
	switch (e->kind) {
	case SIM_DIALLED:
		link_on_dialled(m->world, e);
		break;
	case SIM_FRAME:
		link_on_frame(m->world, e);
		break;
	case SIM_CLOSED:
		link_on_closed(m->world, e);
		break;
	case SIM_TIMER:
		if (e->number == m->timer_at || m->timer_at <= m->world->now) {
			m->timer_at = UINT64_MAX;
			site_on_timer(m->site);
		}
		break;
	case SIM_WORKED:
		worked(m, e->subject);
		break;
	case SIM_TRAINED:
		trained(m);
		break;
	case SIM_EVALUATED:
		evaluated(m);
		break;
	default:
		break;
	}
	if (m->doomed)
		member_crash(m);
}
