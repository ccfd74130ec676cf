/* SPDX-License-Identifier: Apache-2.0 */
/* The site's centre: what the round wants is carried out here, and everything that happens ends in site_run. Vectors are in
 * jobs.c, connections in sessions.c, what arrives on them in letters.c, the list of neighbours in neighbours.c, what people
 * ask in status.c. */
#include "site/site.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "gossip/codec.h"
#include "site/private.h"

uint64_t site_now(const struct site *s)
{
	return s->io.now_ms(s->io.self);
}

void site_reject(struct site *s, int peer, const char *reason)
{
	if (peer >= 0) {
		log_warn("refused", "peer=%s reason=%s", s->neighbours[peer]->name, reason);
	} else if (++s->strangers_refused == 1 || site_now(s) - s->stranger_logged_at >= STRANGER_LOG_MS) {
		/* Anybody can be refused a thousand times a second; the log is not theirs to fill. */
		s->stranger_logged_at = site_now(s);
		log_warn("refused", "peer=stranger reason=%s so_far=%llu", reason,
			(unsigned long long)s->strangers_refused);
	}
	if (s->observer.on_rejected)
		s->observer.on_rejected(s->observer.self, peer, reason);
}

/* ---- What the round wants ---- */

static void send_update(struct site *s, const struct round_action *a)
{
	struct site_connection *c = s->neighbours[a->edge]->current;
	struct round_status status;
	bool delta = a->update_kind == ROUND_DELTA;
	struct wire_message message = {.kind = WIRE_UPDATE,
		.update = {.kind = delta ? WIRE_UPDATE_DELTA : WIRE_UPDATE_SNAPSHOT,
			.sequence = a->version,
			.base_sequence = delta ? a->version - 1 : 0,
			.have_sequence = a->have,
			.word_applied = a->applied,
			.train_loss = (float)s->record.loss}};

	round_status(s->round, &status);
	message.update.round = status.durable.round;
	message.update.degree = status.degree;
	message.update.finished = status.finished;
	assert(!delta || (s->delta && s->delta->version == a->version));
	if (!delta)
		jobs_snapshot(s, c, a->version);
	sessions_send(c, &message, delta ? payload_hold(s->delta) : NULL);
}

static void send_word(struct site *s, const struct round_action *a)
{
	struct wire_message message = {.kind = WIRE_WORD,
		.word = {.number = a->word.number,
			.round = a->word.round,
			.lower_sequence = a->word.a,
			.higher_sequence = a->word.b,
			.weight = a->word.weight}};

	sessions_send(s->neighbours[a->edge]->current, &message, NULL);
}

static void send_ack(struct site *s, const struct round_action *a)
{
	struct wire_message message = {.kind = WIRE_ACK, .ack = {a->have, a->applied}};

	sessions_send(s->neighbours[a->edge]->current, &message, NULL);
}

static const char start_afresh[] = "make both ends start this edge afresh: take each other out of the configuration, "
				   "`sakiori reload`, put back, `sakiori "
				   "reload`; or bring back the newest state directory";

static void hang_up(struct site *s, const struct round_action *a)
{
	struct neighbour *n = s->neighbours[a->edge];
	bool own = a->trouble == ROUND_TROUBLE_OWN_ROLLED_BACK, peers = a->trouble == ROUND_TROUBLE_PEER_ROLLED_BACK;
	/* A Hello may be older than it looks when two sessions cross; the next one's is not. */
	bool believed = n->suspected || !(own || peers);

	n->suspected = own || peers;
	s->changed = true;
	if (believed) {
		if (own)
			neighbour_trouble(n, start_afresh,
				"%s knows updates or words of this site that are not in its state directory: "
				"an older state was restored here, or it was wiped",
				n->name);
		else if (peers)
			neighbour_trouble(n, start_afresh,
				"%s has lost updates or words that this site holds: an older state was restored "
				"there, or it was wiped",
				n->name);
		else
			neighbour_trouble(n, "if it stays, compare the software versions and read the log there",
				"%s broke the protocol: %s", n->name, round_trouble_label(a->trouble));
		site_reject(s, (int)a->edge, round_trouble_label(a->trouble));
	}
	if (n->current)
		connection_end(n->current, false);
}

static void begin_round(struct site *s, uint64_t round)
{
	s->record = (struct site_record){.round = round,
		.loss = NAN,
		.grad_norm = NAN,
		.lr = NAN,
		.eval_loss_trained = NAN,
		.eval_accuracy_trained = NAN,
		.eval_loss_mixed = NAN,
		.eval_accuracy_mixed = NAN,
		.displacement = NAN,
		.consensus_distance = NAN};
	s->round_sent = s->bytes_sent;
	s->round_received = s->bytes_received;
}

/* What is known when the round mixes; the bytes and the waiting still grow until it is over. */
static void measure(struct site *s)
{
	struct round_status status;
	uint32_t fresh = 0;

	round_status(s->round, &status);
	for (size_t i = 0; i < s->neighbour_count; i++) {
		struct round_edge_status e;

		round_edge_status(s->round, i, &e);
		fresh += !e.removed && e.fresh;
	}
	s->record.neighbours_fresh = fresh;
	s->record.gather_seconds = (double)status.gather_ms / 1000;
	s->record.bytes_sent = s->bytes_sent - s->round_sent;
	s->record.bytes_received = s->bytes_received - s->round_received;
	s->record.step = s->step;
	s->record.unix_ms = s->io.unix_ms(s->io.self);
}

static void end_round(struct site *s)
{
	measure(s);
	s->last = s->record;
	s->last_unstored = true;
	round_want_commit(s->round);
	log_info("round_done", "round=%llu loss=%.4f words=%u gather_seconds=%.3f", (unsigned long long)s->last.round,
		s->last.loss, s->last.words, s->last.gather_seconds);
	if (s->observer.on_round)
		s->observer.on_round(s->observer.self, &s->last);
	s->changed = true;
}

static void perform(struct site *s, const struct round_action *a)
{
	switch (a->kind) {
	case ROUND_TRAIN:
		begin_round(s, a->version);
		jobs_lend(s);
		s->changed = true;
		break;
	case ROUND_EVALUATE_TRAINED:
	case ROUND_EVALUATE_MIXED:
		s->evaluating = a->kind;
		s->io.evaluate(s->io.self, s->x);
		break;
	case ROUND_COMMIT_MIXED:
		if (s->record.round != a->version)
			begin_round(s, a->version);
		measure(s);
		jobs_commit(s, a);
		break;
	case ROUND_COMMIT_TRAINED:
	case ROUND_COMMIT_IDLE:
		jobs_commit(s, a);
		break;
	case ROUND_APPLY_UPDATE:
		jobs_update(s, a->edge);
		break;
	case ROUND_APPLY_WORD:
		jobs_word(s, a);
		break;
	case ROUND_SEND_UPDATE:
		if (s->neighbours[a->edge]->current)
			send_update(s, a);
		break;
	case ROUND_SEND_WORD:
		if (s->neighbours[a->edge]->current)
			send_word(s, a);
		break;
	case ROUND_SEND_ACK:
		if (s->neighbours[a->edge]->current)
			send_ack(s, a);
		break;
	case ROUND_HANG_UP:
		hang_up(s, a);
		break;
	case ROUND_DONE:
		end_round(s);
		break;
	}
}

static void set_timer(struct site *s)
{
	uint64_t at = sessions_deadline(s);

	if (round_deadline(s->round) < at)
		at = round_deadline(s->round);
	if (s->retry && s->retry_at < at)
		at = s->retry_at;
	if (at != s->timer_at)
		s->io.timer(s->io.self, at);
	s->timer_at = at;
}

static void apply_wanted(struct site *s)
{
	struct site_neighbour *list = s->wanted;
	size_t count = s->wanted_count;

	s->rewanted = false;
	s->wanted = NULL;
	neighbours_apply(s, list, count);
	if (s->rewanted) {
		s->wanted = list;
		return;
	}
	for (size_t i = 0; i < count; i++) {
		free((char *)list[i].name);
		free((char *)list[i].url);
	}
	free(list);
}

void site_run(struct site *s)
{
	struct round_action action;

	if (s->running || !s->round)
		return;
	s->running = true;
	do {
		while (round_next(s->round, &action))
			perform(s, &action);
		if (s->wanted && !round_busy(s->round))
			apply_wanted(s);
	} while (letters_deliver(s) || round_pending(s->round));
	sessions_dial(s, site_now(s));
	while (round_next(s->round, &action))
		perform(s, &action);
	set_timer(s);
	s->running = false;
	if (s->changed && s->observer.on_changed)
		s->observer.on_changed(s->observer.self);
	s->changed = false;
}

/* ---- Events of timer and trainer ---- */

void site_on_timer(struct site *s)
{
	uint64_t now = site_now(s);

	s->timer_at = UINT64_MAX;
	if (!s->round)
		return;
	sessions_tick(s, now);
	if (s->retry && s->retry_at <= now)
		jobs_commit_again(s);
	round_on_timer(s->round, now);
	site_run(s);
}

void site_on_trained(struct site *s, const struct site_trained *result)
{
	if (result->error) {
		s->fault.code = result->error;
		snprintf(s->fault.text, sizeof(s->fault.text), "training failed: %s",
			result->text[0] ? result->text : err_text(result->error));
		log_error("training_failed", "round=%llu reason=\"%s\"", (unsigned long long)s->training.round,
			s->fault.text);
	} else {
		s->step = s->training.step + result->steps;
		s->record.tokens = result->tokens;
		s->record.loss = result->loss;
		s->record.grad_norm = result->grad_norm;
		s->record.lr = result->lr;
		s->record.train_seconds = result->seconds;
	}
	s->changed = true;
	round_on_trained(s->round, site_now(s), !result->error);
	site_run(s);
}

void site_on_evaluated(struct site *s, const struct site_evaluated *result)
{
	bool mixed = s->evaluating == ROUND_EVALUATE_MIXED;

	if (result->error) {
		log_warn("evaluation_failed", "reason=\"%s\"", err_text(result->error));
	} else {
		*(mixed ? &s->record.eval_loss_mixed : &s->record.eval_loss_trained) = result->loss;
		*(mixed ? &s->record.eval_accuracy_mixed : &s->record.eval_accuracy_trained) = result->accuracy;
	}
	round_on_evaluated(s->round, site_now(s));
	site_run(s);
}

/* ---- Life ---- */

static int check(const struct site_settings *settings, struct fault *f)
{
	if (!settings->size || !codec_snapshot_bytes(settings->size))
		return fault_set(f, SAKIORI_EINVAL, "an adapter of %zu parameters", settings->size);
	if (!settings->round.rounds || !settings->local_steps)
		return fault_set(f, SAKIORI_EINVAL, "rounds and local steps must be at least 1");
	if (!(settings->round.gamma > 0 && settings->round.gamma <= 1))
		return fault_set(
			f, SAKIORI_EINVAL, "gamma is %g, must be above 0 and at most 1", (double)settings->round.gamma);
	if (!settings->round.deadline_ms)
		return fault_set(f, SAKIORI_EINVAL, "the deadline must be above 0");
	return 0;
}

int site_new(const struct site_settings *settings, const struct site_io *io, const struct site_store *store,
	const struct site_observer *observer, struct site **out, struct fault *f)
{
	struct site *s;
	size_t n = settings->size;
	float **vectors[6];
	int rc = check(settings, f);

	*out = NULL;
	if (rc)
		return rc;
	s = must_calloc(1, sizeof(*s));
	s->settings = *settings;
	s->settings.neighbours = NULL;
	s->io = *io;
	s->store = *store;
	if (observer)
		s->observer = *observer;
	s->timer_at = UINT64_MAX;
	memcpy(vectors, (float **[]){&s->x, &s->m, &s->v, &s->self, &s->pending, &s->anchor}, sizeof(vectors));
	for (size_t i = 0; i < 6; i++)
		*vectors[i] = must_calloc(n, sizeof(float));
	rc = neighbours_check(s, settings->neighbours, settings->neighbour_count, f);
	if (rc) {
		site_free(s);
		return rc;
	}
	neighbours_apply(s, settings->neighbours, settings->neighbour_count);
	*out = s;
	return 0;
}

void site_start(struct site *s)
{
	jobs_load(s);
}

static void free_wanted(struct site *s)
{
	for (size_t i = 0; i < s->wanted_count && s->wanted; i++) {
		free((char *)s->wanted[i].name);
		free((char *)s->wanted[i].url);
	}
	free(s->wanted);
	s->wanted = NULL;
}

void site_free(struct site *s)
{
	if (!s)
		return;
	s->running = true;
	jobs_free(s);
	while (s->connections)
		connection_free(s->connections);
	neighbours_free(s);
	free_wanted(s);
	payload_drop(s->delta);
	round_free(s->round);
	free(s->x);
	free(s->m);
	free(s->v);
	free(s->self);
	free(s->pending);
	free(s->anchor);
	free(s);
}

/* ---- Controls ---- */

void site_pause(struct site *s)
{
	if (s->round)
		round_pause(s->round, site_now(s));
	s->changed = true;
	site_run(s);
}

void site_drain(struct site *s)
{
	if (s->round)
		round_drain(s->round, site_now(s));
	s->changed = true;
	site_run(s);
}

void site_resume(struct site *s)
{
	if (s->round && !s->failed) {
		if (!s->retry)
			s->fault = (struct fault){0};
		round_resume(s->round, site_now(s));
	}
	s->changed = true;
	site_run(s);
}

int site_set_neighbours(struct site *s, const struct site_neighbour *neighbours, size_t count, struct fault *f)
{
	int rc = neighbours_check(s, neighbours, count, f);

	if (rc)
		return rc;
	free_wanted(s);
	s->wanted = must_calloc(count + 1, sizeof(*s->wanted));
	s->wanted_count = count;
	for (size_t i = 0; i < count; i++) {
		s->wanted[i] = neighbours[i];
		s->wanted[i].name = must_strdup(neighbours[i].name);
		s->wanted[i].url = neighbours[i].url ? must_strdup(neighbours[i].url) : NULL;
	}
	site_run(s);
	return 0;
}

void site_goodbye(struct site *s)
{
	for (struct site_connection *c = s->connections; c; c = c->next)
		if (c->link)
			sessions_goodbye(c, WIRE_GOODBYE_SHUTDOWN, "the daemon stops");
}
