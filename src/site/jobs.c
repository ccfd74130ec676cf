/* SPDX-License-Identifier: Apache-2.0 */
/* The vectors. Each job has a `run_` half that works on the lane and an `answer_` half that tells the loop. The happy path of
 * a round: lend, (train), commit trained, updates applied, commit mixed, words applied. A transaction that fails leaves memory
 * ahead of the disk, so nothing may leave the site: the round stays busy and the transaction is tried again, not the vectors. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "gossip/codec.h"
#include "gossip/mix.h"
#include "site/private.h"

struct payload *payload_new(uint64_t version, size_t size)
{
	struct payload *p = must_alloc(sizeof(*p) + size);

	p->references = 1;
	p->version = version;
	p->size = size;
	return p;
}

struct payload *payload_hold(struct payload *p)
{
	p->references++;
	return p;
}

void payload_drop(struct payload *p)
{
	if (p && !--p->references)
		free(p);
}

static void seal(struct payload *p)
{
	hash_bytes(WIRE_PAYLOAD_PURPOSE, p->bytes, p->size, p->hash);
}

/* ---- Starting and ending a job ---- */

static struct lane_job *job_new(struct site *s, enum lane_kind kind)
{
	struct lane_job *j = must_calloc(1, sizeof(*j));

	j->base.site = s;
	j->kind = kind;
	j->next = s->jobs;
	if (j->next)
		j->next->previous = j;
	s->jobs = j;
	return j;
}

static void job_free(struct site *s, struct lane_job *j)
{
	*(j->previous ? &j->previous->next : &s->jobs) = j->next;
	if (j->next)
		j->next->previous = j->previous;
	payload_drop(j->delta);
	payload_drop(j->snapshot);
	free(j->edges);
	free(j->pins);
	free(j->image.edges);
	free(j);
}

void jobs_free(struct site *s)
{
	while (s->jobs)
		job_free(s, s->jobs);
}

static void job_go(struct site *s, struct lane_job *j, void (*run)(struct site_job *))
{
	j->base.run = run;
	j->began_ms = site_now(s);
	s->io.work(s->io.self, &j->base);
}

void jobs_forget_connection(struct site *s, struct site_connection *c)
{
	for (struct lane_job *j = s->jobs; j; j = j->next)
		if (j->connection == c) {
			j->connection = NULL;
			atomic_store(&j->forgotten, true);
		}
}

/* ---- Load ---- */

static void run_load(struct site_job *job)
{
	struct lane_job *j = (struct lane_job *)job;
	struct site *s = job->site;
	size_t n = s->settings.size;

	j->delta = payload_new(0, codec_payload_bytes(n));
	j->image = (struct site_image){
		.size = n, .x = s->x, .m = s->m, .v = s->v, .self = s->self, .payload = j->delta->bytes};
	j->error = s->store.load(s->store.self, &j->image, &j->fault);
	if (j->error == SAKIORI_ENOTFOUND) {
		j->error = 0;
		j->image = (struct site_image){0};
		memcpy(s->x, s->settings.initial, n * sizeof(*s->x));
		memcpy(s->self, s->settings.initial, n * sizeof(*s->self));
		memset(s->m, 0, n * sizeof(*s->m));
		memset(s->v, 0, n * sizeof(*s->v));
		return;
	}
	if (j->error)
		return;
	s->self_version = j->delta->version = j->image.row.sequence;
	memcpy(j->delta->hash, j->image.payload_hash, HASH_SIZE);
	if (memcmp(j->image.run_id, s->settings.hello.run_id, HASH_SIZE) ||
		memcmp(j->image.layout_hash, s->settings.hello.adapter_layout_hash, HASH_SIZE))
		j->error = fault_set(&j->fault, SAKIORI_EMISMATCH,
			"the state directory holds another run or adapter than the one configured (\"%s\"); restore "
			"the old "
			"settings, or give this run a state directory of its own",
			s->settings.hello.run_name);
}

/* The stored half of a neighbour: its numbers into the round, its replica into memory. */
static void adopt_edge(struct site *s, struct neighbour *n, struct site_image *image)
{
	struct site_edge_row *row = NULL;

	for (size_t i = 0; i < image->edge_count; i++)
		if (!memcmp(image->edges[i].id, n->id.node_id, IDENTITY_KEY_SIZE))
			row = &image->edges[i];
	round_add_edge(s->round, n->lower, row ? &row->numbers : NULL);
	if (row) {
		n->replica = row->replica;
		row->replica = NULL;
	}
}

static void answer_load(struct site *s, struct lane_job *j)
{
	if (j->error) {
		s->failed = true;
		s->fault = j->fault;
		s->fault.code = j->error;
	} else {
		s->round = round_new(&s->settings.round, &j->image.row);
		s->stored = j->image.size > 0;
		s->step = j->image.step;
		for (size_t i = 0; i < s->neighbour_count; i++)
			adopt_edge(s, s->neighbours[i], &j->image);
		if (s->stored && j->image.row.sequence)
			s->delta = payload_hold(j->delta);
		round_start(s->round, site_now(s));
	}
	for (size_t i = 0; i < j->image.edge_count; i++)
		free(j->image.edges[i].replica);
	s->changed = true;
}

void jobs_load(struct site *s)
{
	job_go(s, job_new(s, LANE_LOAD), run_load);
}

/* ---- Lend: remember where the local steps begin ---- */

static void run_lend(struct site_job *job)
{
	struct site *s = job->site;

	memcpy(s->anchor, s->x, s->settings.size * sizeof(*s->x));
}

static void answer_lend(struct site *s)
{
	struct round_status status;

	round_status(s->round, &status);
	s->training = (struct site_training){.round = status.round,
		.step = s->step,
		.steps = s->settings.local_steps,
		.x = s->x,
		.m = s->m,
		.v = s->v};
	s->io.train(s->io.self, &s->training);
}

void jobs_lend(struct site *s)
{
	job_go(s, job_new(s, LANE_LEND), run_lend);
}

/* ---- Commit ---- */

static int encode(struct site *s, struct lane_job *j)
{
	size_t n = s->settings.size;
	int rc;

	j->displacement = mix_distance(s->x, s->anchor, n);
	if (s->pending_used)
		mix_merge(s->x, s->pending, n);
	s->pending_used = false;
	j->delta = payload_new(j->version, codec_payload_bytes(n));
	rc = codec_encode(s->x, s->self, n, s->settings.codec_seed, j->version, j->delta->bytes, &j->fault);
	if (rc)
		return rc;
	seal(j->delta);
	s->self_version = j->version;
	return 0;
}

static void mix(struct site *s, struct lane_job *j)
{
	size_t n = s->settings.size, heard = 0;
	double sum = 0;

	if (s->pending_used)
		mix_merge(s->x, s->pending, n);
	s->pending_used = false;
	for (size_t i = 0; i < j->edge_count; i++) {
		const struct commit_edge *e = &j->edges[i];

		if (e->neighbour->replica) {
			double distance = mix_distance(e->neighbour->replica, s->self, n);

			sum += distance * distance;
			heard++;
		}
		if (e->decided)
			mix_edge(s->x, s->self, e->neighbour->replica, e->word.weight, MIX_LOW, n);
	}
	j->consensus_distance = heard ? sqrt(sum / (double)heard) : NAN;
}

static void run_commit(struct site_job *job)
{
	struct lane_job *j = (struct lane_job *)job;
	struct site *s = job->site;

	if (!j->mixed) {
		if (j->commit == ROUND_COMMIT_TRAINED) {
			j->error = encode(s, j);
			if (j->error)
				return;
		} else {
			mix(s, j);
		}
		j->mixed = true;
		if (j->delta) {
			j->image.payload = j->delta->bytes;
			memcpy(j->image.payload_hash, j->delta->hash, HASH_SIZE);
		}
		if (j->commit == ROUND_COMMIT_MIXED)
			j->records[0].consensus_distance = j->consensus_distance;
	}
	j->error = s->store.commit(s->store.self, &j->image, &j->fault);
}

static void describe_edges(struct site *s, struct lane_job *j)
{
	j->edges = must_calloc(s->neighbour_count + 1, sizeof(*j->edges));
	j->image.edges = must_calloc(s->neighbour_count + 1, sizeof(*j->image.edges));
	for (size_t i = 0; i < s->neighbour_count; i++) {
		struct neighbour *n = s->neighbours[i];
		struct site_edge_row *row = &j->image.edges[j->edge_count];
		struct commit_edge *e = &j->edges[j->edge_count];

		if (n->removed)
			continue;
		j->edge_count++;
		round_edge_row(s->round, i, &row->numbers);
		memcpy(row->id, n->id.node_id, IDENTITY_KEY_SIZE);
		row->replica = n->replica;
		row->replica_changed = n->replica_changed || (!s->stored && n->replica);
		e->neighbour = n;
		e->decided = j->commit == ROUND_COMMIT_MIXED && round_decision(s->round, i, &e->word);
		j->words += e->decided;
	}
	j->image.edge_count = j->edge_count;
}

static void describe_records(struct site *s, struct lane_job *j)
{
	size_t k = 0;

	if (j->commit == ROUND_COMMIT_MIXED) {
		s->record.words += j->words;
		s->record.unix_ms = s->io.unix_ms(s->io.self);
		j->records[k] = s->record;
		j->image.records[k] = &j->records[k];
		k++;
	}
	if (s->last_unstored) {
		j->records[k] = s->last;
		j->image.records[k] = &j->records[k];
	}
}

void jobs_commit(struct site *s, const struct round_action *a)
{
	struct lane_job *j = job_new(s, LANE_COMMIT);
	size_t pins_max = s->neighbour_count * (ROUND_HELD_MAX + 2) + 1;
	bool trained = a->kind == ROUND_COMMIT_TRAINED;

	j->commit = a->kind;
	j->version = a->version;
	j->image = (struct site_image){.size = s->settings.size,
		.step = s->step,
		.x = s->x,
		.m = s->m,
		.v = s->v,
		.moments_changed = trained || !s->stored,
		.self = s->self,
		.self_changed = trained || !s->stored,
		.payload = s->delta ? s->delta->bytes : NULL};
	memcpy(j->image.run_id, s->settings.hello.run_id, HASH_SIZE);
	memcpy(j->image.layout_hash, s->settings.hello.adapter_layout_hash, HASH_SIZE);
	if (s->delta)
		memcpy(j->image.payload_hash, s->delta->hash, HASH_SIZE);
	round_row(s->round, &j->image.row);
	j->pins = must_calloc(pins_max, sizeof(*j->pins));
	j->image.pins = j->pins;
	j->image.pin_count = round_pins(s->round, j->pins, pins_max);
	describe_edges(s, j);
	describe_records(s, j);
	job_go(s, j, run_commit);
}

void jobs_commit_again(struct site *s)
{
	struct lane_job *j = s->retry;

	s->retry = NULL;
	j->fault = (struct fault){0};
	job_go(s, j, run_commit);
}

/* Whether the job is done with; a transaction that failed stays, to be tried again. */
static bool answer_commit(struct site *s, struct lane_job *j)
{
	s->changed = true;
	if (j->error) {
		s->fault = j->fault;
		s->fault.code = j->error;
		if (!j->mixed) {
			s->failed = true;
			return true;
		}
		log_error("commit_failed", "retry_seconds=%d reason=\"%s\"", COMMIT_RETRY_MS / 1000, j->fault.text);
		s->retry = j;
		s->retry_at = site_now(s) + COMMIT_RETRY_MS;
		return false;
	}
	s->fault = (struct fault){0};
	s->stored = true;
	if (j->image.records[j->commit == ROUND_COMMIT_MIXED])
		s->last_unstored = false;
	for (size_t i = 0; i < j->edge_count; i++)
		j->edges[i].neighbour->replica_changed = false;
	if (j->commit == ROUND_COMMIT_TRAINED) {
		payload_drop(s->delta);
		s->delta = payload_hold(j->delta);
		s->record.displacement = j->displacement;
	} else if (j->commit == ROUND_COMMIT_MIXED) {
		s->record.consensus_distance = j->consensus_distance;
	}
	if (s->observer.on_commit)
		s->observer.on_commit(s->observer.self, (double)(site_now(s) - j->began_ms) / 1000);
	round_on_committed(s->round, site_now(s));
	return true;
}

/* ---- Updates and words of neighbours ---- */

static void run_update(struct site_job *job)
{
	struct lane_job *j = (struct lane_job *)job;
	struct site *s = job->site;
	struct neighbour *n = s->neighbours[j->peer];
	size_t size = s->settings.size;

	if (!n->replica) {
		n->replica = must_alloc(size * sizeof(*n->replica));
		memcpy(n->replica, s->settings.initial, size * sizeof(*n->replica));
	}
	if (j->update_kind == ROUND_DELTA)
		j->error = codec_apply(j->bytes, j->size, n->replica, size, &j->fault);
	else
		j->error = codec_snapshot_apply(j->bytes, j->size, n->replica, size, &j->fault);
}

void jobs_update(struct site *s, size_t peer)
{
	struct lane_job *j = job_new(s, LANE_UPDATE);
	const struct letter *letter = &s->neighbours[peer]->applying;

	j->peer = peer;
	j->update_kind = letter->update.kind == WIRE_UPDATE_DELTA ? ROUND_DELTA : ROUND_SNAPSHOT;
	j->bytes = letter->bytes;
	j->size = letter->size;
	job_go(s, j, run_update);
}

static void answer_update(struct site *s, struct lane_job *j)
{
	struct neighbour *n = s->neighbours[j->peer];

	free(n->applying.bytes);
	n->applying = (struct letter){0};
	if (j->error) {
		log_warn("update_refused", "peer=%s reason=\"%s\"", n->name, j->fault.text);
	} else {
		n->replica_changed = true;
		/* Worth a quick reconnection: whoever only greets and breaks off again is dialled ever more rarely. */
		n->backoff_ms = BACKOFF_MIN_MS;
	}
	round_on_applied(s->round, site_now(s), !j->error);
}

static void run_word(struct site_job *job)
{
	struct lane_job *j = (struct lane_job *)job;
	struct site *s = job->site;
	size_t n = s->settings.size;
	const float *own = s->self;
	float *older = NULL;

	if (j->word.b != s->self_version) {
		own = older = must_alloc(n * sizeof(*older));
		j->error = s->store.load_own(s->store.self, j->word.b, older, n, &j->fault);
	}
	if (!j->error) {
		mix_edge(
			j->away ? s->pending : s->x, s->neighbours[j->peer]->replica, own, j->word.weight, MIX_HIGH, n);
		s->pending_used |= j->away;
	}
	free(older);
}

void jobs_word(struct site *s, const struct round_action *a)
{
	struct lane_job *j = job_new(s, LANE_WORD);

	j->peer = a->edge;
	j->word = a->word;
	j->away = a->away;
	job_go(s, j, run_word);
}

static void answer_word(struct site *s, struct lane_job *j)
{
	if (j->error)
		log_error("word_failed", "peer=%s reason=\"%s\"", s->neighbours[j->peer]->name, j->fault.text);
	else
		s->record.words++;
	round_on_applied(s->round, site_now(s), !j->error);
}

/* ---- Snapshots for neighbours ---- */

static void run_snapshot(struct site_job *job)
{
	struct lane_job *j = (struct lane_job *)job;
	struct site *s = job->site;
	size_t n = s->settings.size;
	const float *own = s->self;
	float *older = NULL;

	/* Who reconnects in haste must not keep the lane busy with snapshots for nobody. */
	if (atomic_load(&j->forgotten))
		return;
	if (j->version != s->self_version) {
		own = older = must_alloc(n * sizeof(*older));
		j->error = s->store.load_own(s->store.self, j->version, older, n, &j->fault);
	}
	if (!j->error) {
		j->snapshot = payload_new(j->version, codec_snapshot_bytes(n));
		codec_snapshot_encode(own, n, j->snapshot->bytes);
		seal(j->snapshot);
	}
	free(older);
}

void jobs_snapshot(struct site *s, struct site_connection *c, uint64_t version)
{
	struct lane_job *j = job_new(s, LANE_SNAPSHOT);

	j->connection = c;
	j->version = version;
	job_go(s, j, run_snapshot);
}

static void answer_snapshot(struct site *s, struct lane_job *j)
{
	struct site_connection *c = j->connection;

	if (!c)
		return;
	if (j->error) {
		log_error("snapshot_failed", "peer=%s reason=\"%s\"", s->neighbours[c->peer]->name, j->fault.text);
		connection_end(c, false);
	} else {
		sessions_snapshot_made(c, j->version, payload_hold(j->snapshot));
	}
}

void site_on_worked(struct site *s, struct site_job *job)
{
	struct lane_job *j = (struct lane_job *)job;
	bool done = true;

	switch (j->kind) {
	case LANE_LOAD:
		answer_load(s, j);
		break;
	case LANE_LEND:
		answer_lend(s);
		break;
	case LANE_COMMIT:
		done = answer_commit(s, j);
		break;
	case LANE_UPDATE:
		answer_update(s, j);
		break;
	case LANE_WORD:
		answer_word(s, j);
		break;
	case LANE_SNAPSHOT:
		answer_snapshot(s, j);
		break;
	}
	if (done)
		job_free(s, j);
	site_run(s);
}
