/* SPDX-License-Identifier: Apache-2.0 */
/* The list of neighbours: its first form, its changes while the site runs, and what is wrong with one of them. */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "site/private.h"

void neighbour_trouble(struct neighbour *n, const char *cure, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(n->trouble, sizeof(n->trouble), format, arguments);
	va_end(arguments);
	snprintf(n->cure, sizeof(n->cure), "%s", cure);
	n->in_trouble = true;
}

void neighbour_well(struct neighbour *n)
{
	n->trouble[0] = n->cure[0] = '\0';
	n->in_trouble = false;
}

void neighbour_clock(struct neighbour *n, double skew_ms)
{
	n->skew_ms = skew_ms;
	n->warning[0] = '\0';
	if (fabs(skew_ms) > CLOCK_SKEW_MS)
		snprintf(n->warning, sizeof(n->warning),
			"the clock of %s is %.0f seconds %s this site's; set both by NTP", n->name,
			fabs(skew_ms) / 1000, skew_ms > 0 ? "ahead of" : "behind");
}

static bool good_name(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("_.-", name[i]))
			return false;
	return n >= 1 && n <= WIRE_NAME_MAX;
}

int neighbours_check(const struct site *s, const struct site_neighbour *list, size_t count, struct fault *f)
{
	const struct identity_public *own = identity_public(s->settings.session.identity);

	if (count > WIRE_DEGREE_MAX)
		return fault_set(f, SAKIORI_ELIMIT, "%zu peers, at most %d", count, WIRE_DEGREE_MAX);
	for (size_t i = 0; i < count; i++) {
		if (!good_name(list[i].name))
			return fault_set(f, SAKIORI_EINVAL,
				"peer name \"%.70s\": expected 1 to %d of A-Z a-z 0-9 _ . -", list[i].name,
				WIRE_NAME_MAX);
		if (!identity_compare(&list[i].id, own) || !memcmp(list[i].id.x25519, own->x25519, IDENTITY_KEY_SIZE))
			return fault_set(f, SAKIORI_EINVAL,
				"peer %s has this site's own key; take it out, or pin the peer's `sakiori id`",
				list[i].name);
		for (size_t k = 0; k < i; k++) {
			if (!strcmp(list[i].name, list[k].name))
				return fault_set(f, SAKIORI_EINVAL, "two peers are called %s", list[i].name);
			if (!identity_compare(&list[i].id, &list[k].id))
				return fault_set(f, SAKIORI_EINVAL, "peers %s and %s have the same key", list[k].name,
					list[i].name);
			/* The handshake knows a neighbour by its X25519 key, and an id may claim anybody's. */
			if (!memcmp(list[i].id.x25519, list[k].id.x25519, IDENTITY_KEY_SIZE))
				return fault_set(f, SAKIORI_EINVAL,
					"peers %s and %s claim the same X25519 key, so one of them is not who it says; "
					"ask both operators for their `sakiori id` again",
					list[k].name, list[i].name);
		}
	}
	return 0;
}

static void add(struct site *s, const struct site_neighbour *from)
{
	struct neighbour *n = must_calloc(1, sizeof(*n));

	n->id = from->id;
	n->lower = identity_compare(identity_public(s->settings.session.identity), &from->id) < 0;
	n->backoff_ms = BACKOFF_MIN_MS;
	n->rtt_ms = n->skew_ms = NAN;
	n->url = from->url ? must_strdup(from->url) : NULL;
	snprintf(n->name, sizeof(n->name), "%s", from->name);
	s->neighbours = must_realloc(s->neighbours, (s->neighbour_count + 1) * sizeof(struct neighbour *));
	s->neighbours[s->neighbour_count++] = n;
	if (s->round)
		round_add_edge(s->round, n->lower, NULL);
}

/* Also those whose handshake is under way: they would come up as somebody who is not pinned any more. */
static void end_connections(struct site *s, size_t index)
{
	for (struct site_connection *c = s->connections; c; c = c->next)
		if (c->link && (c->peer == (int)index || (c->session && peer_session_peer(c->session) == (int)index)))
			connection_end(c, false);
}

static void update(struct site *s, size_t index, const struct site_neighbour *from)
{
	struct neighbour *n = s->neighbours[index];
	bool same_key =
		!memcmp(n->id.x25519, from->id.x25519, IDENTITY_KEY_SIZE) && n->id.generation == from->id.generation;

	snprintf(n->name, sizeof(n->name), "%s", from->name);
	n->id = from->id;
	free(n->url);
	n->url = from->url ? must_strdup(from->url) : NULL;
	if (!same_key)
		end_connections(s, index);
	n->retry_at = 0;
	n->backoff_ms = BACKOFF_MIN_MS;
}

static void remove_neighbour(struct site *s, size_t index)
{
	struct neighbour *n = s->neighbours[index];

	n->removed = true;
	log_info("peer_removed", "peer=%s", n->name);
	if (n->current)
		sessions_goodbye(n->current, WIRE_GOODBYE_REMOVED, "no longer configured here");
	end_connections(s, index);
	letters_clear(n);
	if (s->round)
		round_remove_edge(s->round, index, site_now(s));
	free(n->replica);
	n->replica = NULL;
}

/* Its index among the first `old`, or `old`. */
static size_t find(const struct site *s, size_t old, const struct identity_public *id)
{
	size_t k = 0;

	while (k < old && (s->neighbours[k]->removed || identity_compare(&s->neighbours[k]->id, id)))
		k++;
	return k;
}

void neighbours_apply(struct site *s, const struct site_neighbour *list, size_t count)
{
	size_t old = s->neighbour_count;
	bool *kept = must_calloc(old + 1, sizeof(*kept));

	/* First what is new: a changed key ends a session, and then the round may begin a commit. */
	for (size_t i = 0; i < count; i++)
		if (find(s, old, &list[i].id) == old)
			add(s, &list[i]);
	for (size_t i = 0; i < count; i++) {
		size_t k = find(s, old, &list[i].id);

		if (k == old)
			continue;
		kept[k] = true;
		update(s, k, &list[i]);
	}
	for (size_t k = 0; k < old; k++)
		/* Removing one may begin a commit, which has to be over before the next. */
		if (!kept[k] && !s->neighbours[k]->removed && !(s->round && round_busy(s->round)))
			remove_neighbour(s, k);
		else if (!kept[k] && !s->neighbours[k]->removed)
			s->rewanted = true;
	free(kept);
	s->changed = true;
}

void neighbours_free(struct site *s)
{
	for (size_t i = 0; i < s->neighbour_count; i++) {
		struct neighbour *n = s->neighbours[i];

		letters_clear(n);
		free(n->applying.bytes);
		free(n->replica);
		free(n->url);
		free(n);
	}
	free(s->neighbours);
}
