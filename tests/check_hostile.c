/* SPDX-License-Identifier: Apache-2.0 */
/* One site and somebody who holds the other end of its connections in his hands: a pinned neighbour that breaks what honest
 * software would not, and a stranger with a recording. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "net/noise.h"
#include "site/site.h"

enum { SIZE = 128, FRAMES_MAX = 256, JOBS_MAX = 64 };

struct frame {
	uint8_t *data;
	size_t size;
};

struct line {
	struct frame frames[FRAMES_MAX];
	size_t count;
};

static struct identity *ours, *theirs;
static struct peer_settings their_settings;
static uint8_t secret[NETWORK_SECRET_SIZE];
static float initial[SIZE];
static struct site *site;
static struct site_connection *connection;
static struct peer_session *session; /* the other end's */
static struct line to_them, to_us;
static struct site_job *jobs[JOBS_MAX];
static size_t job_count, room;
static const struct site_training *training;
static uint64_t now, rounds;
static bool hung_up, dialled;
static int rejected_peer;
static char rejected[64];

static void push(struct line *l, const uint8_t *frame, size_t n)
{
	ck_assert_uint_lt(l->count, FRAMES_MAX);
	l->frames[l->count].data = malloc(n);
	memcpy(l->frames[l->count].data, frame, n);
	l->frames[l->count++].size = n;
}

static struct frame pop(struct line *l)
{
	struct frame f = l->frames[0];

	memmove(l->frames, l->frames + 1, --l->count * sizeof(f));
	return f;
}

static void drop_all(struct line *l)
{
	while (l->count)
		free(pop(l).data);
}

/* ---- The site's effects ---- */

static uint64_t now_ms(void *self)
{
	(void)self;
	return now;
}

static uint64_t random_number(void *self)
{
	(void)self;
	return 7;
}

static void timer(void *self, uint64_t at)
{
	(void)self;
	(void)at;
}

static void train(void *self, const struct site_training *t)
{
	(void)self;
	training = t;
}

static void evaluate(void *self, const float *x)
{
	(void)self;
	(void)x;
}

static void work(void *self, struct site_job *job)
{
	(void)self;
	ck_assert_uint_lt(job_count, JOBS_MAX);
	jobs[job_count++] = job;
}

static int dial(void *self, const char *url, int tag)
{
	(void)self;
	(void)url;
	(void)tag;
	dialled = true;
	return 0;
}

static void send_frame(void *self, void *link, const uint8_t *frame, size_t n)
{
	(void)self;
	if (link == &session)
		push(&to_them, frame, n);
}

static size_t bulk_room(void *self, void *link)
{
	(void)self;
	(void)link;
	return room;
}

static void authenticated(void *self, void *link)
{
	(void)self;
	(void)link;
}

static void hang_up(void *self, void *link, bool flush)
{
	(void)self;
	(void)link;
	(void)flush;
	hung_up = true;
}

static int load(void *self, struct site_image *image, struct fault *f)
{
	(void)self;
	(void)image;
	(void)f;
	return SAKIORI_ENOTFOUND;
}

static int commit(void *self, const struct site_image *image, struct fault *f)
{
	(void)self;
	(void)image;
	(void)f;
	return 0;
}

static int load_own(void *self, uint64_t version, float *out, size_t n, struct fault *f)
{
	(void)self;
	(void)version;
	(void)f;
	memset(out, 0, n * sizeof(*out));
	return 0;
}

static void on_round(void *self, const struct site_record *record)
{
	(void)self;
	rounds = record->round;
}

static void on_rejected(void *self, int peer, const char *reason)
{
	(void)self;
	rejected_peer = peer;
	snprintf(rejected, sizeof(rejected), "%s", reason);
}

/* ---- The other end ---- */

static void they_send(void *owner, struct peer_session *s, const uint8_t *frame, size_t n)
{
	(void)owner;
	(void)s;
	push(&to_us, frame, n);
}

static const struct identity_public *they_find(void *owner, const uint8_t x25519[static IDENTITY_KEY_SIZE], int *peer)
{
	(void)owner;
	(void)x25519;
	*peer = 0;
	return identity_public(ours);
}

static void they_are_up(void *owner, struct peer_session *s, int peer)
{
	(void)owner;
	(void)s;
	(void)peer;
}

static void they_hear(void *owner, struct peer_session *s, const struct wire_message *message)
{
	(void)owner;
	(void)s;
	(void)message;
}

static void they_get(void *owner, struct peer_session *s, const struct wire_update *u, uint8_t *payload, size_t n)
{
	(void)owner;
	(void)s;
	(void)u;
	(void)n;
	free(payload);
}

static const struct peer_events their_events = {they_send, they_find, they_are_up, they_hear, they_get, NULL};

/* ---- The world between ---- */

static void settle(void)
{
	while (job_count || to_us.count || to_them.count) {
		if (job_count) {
			struct site_job *job = jobs[0];

			memmove(jobs, jobs + 1, --job_count * sizeof(struct site_job *));
			job->run(job);
			site_on_worked(site, job);
		}
		if (to_us.count) {
			struct frame f = pop(&to_us);

			if (connection && !hung_up)
				site_on_frame(site, connection, f.data, f.size);
			free(f.data);
		}
		if (to_them.count) {
			struct frame f = pop(&to_them);

			if (session)
				peer_session_on_frame(session, f.data, f.size, now);
			free(f.data);
		}
	}
}

/* Up to the end of the local steps and of what follows them at once. */
static void train_once(void)
{
	struct site_trained result = {.steps = 1, .tokens = 1, .loss = 1};

	settle();
	ck_assert_ptr_nonnull(training);
	training->x[0] += 0.01f;
	training = NULL;
	site_on_trained(site, &result);
	settle();
	now += 50;
	site_on_timer(site);
	settle();
}

static void they_say(const struct wire_message *message)
{
	ck_assert_int_eq(peer_session_send(session, message), 0);
	settle();
}

static void they_greet(void)
{
	struct wire_message hello = {
		.kind = WIRE_HELLO, .hello = {.protocol = WIRE_PROTOCOL_VERSION, .site = "hostile", .degree = 1}};

	settle();
	ck_assert(peer_session_is_up(session));
	peer_session_accept_payload_bytes(session, sizeof(initial));
	they_say(&hello);
}

static void they_connect(void)
{
	connection = site_on_opened(site, &session, -1);
	session = peer_session_dial(&their_settings, &their_events, NULL, identity_public(ours), 0, now);
	ck_assert_int_eq(peer_session_start(session, now), 0);
	they_greet();
}

/* And are gone at once. */
static void they_answer(void)
{
	dialled = false;
	session = peer_session_accept(&their_settings, &their_events, NULL, now);
	connection = site_on_opened(site, &session, 0);
	they_greet();
	ck_assert(!hung_up);
	site_on_closed(site, connection);
	connection = NULL;
	peer_session_free(session);
	session = NULL;
	settle();
}

static void setup(void)
{
	uint8_t one[32] = {1}, two[32] = {2};
	struct site_neighbour neighbour = {.name = "hostile"};
	const struct site_io io = {NULL, now_ms, now_ms, random_number, timer, train, evaluate, work, dial, send_frame,
		bulk_room, authenticated, hang_up};
	const struct site_store store = {NULL, load, commit, load_own};
	const struct site_observer observer = {.on_round = on_round, .on_rejected = on_rejected};
	struct site_settings settings = {.size = SIZE,
		.initial = initial,
		.local_steps = 1,
		.round = {.rounds = 1000, .gamma = 1, .deadline_ms = 20, .deadline_min_ms = 10},
		.neighbours = &neighbour,
		.neighbour_count = 1};
	struct fault f;

	memset(secret, 3, sizeof(secret));
	ck_assert_int_eq(identity_from_seed(one, 1, &ours, NULL), 0);
	ck_assert_int_eq(identity_from_seed(two, 1, &theirs, NULL), 0);
	neighbour.id = *identity_public(theirs);
	settings.session.identity = ours;
	settings.session.network_secret = secret;
	their_settings.identity = theirs;
	their_settings.network_secret = secret;
	snprintf(settings.hello.site, sizeof(settings.hello.site), "site");
	now = 1000;
	room = 1 << 20;
	rejected_peer = -2;
	if (site_new(&settings, &io, &store, &observer, &site, &f))
		ck_abort_msg("%s", f.text);
	site_start(site);
	settle();
}

static void teardown(void)
{
	site_free(site);
	peer_session_free(session);
	drop_all(&to_us);
	drop_all(&to_them);
	identity_free(ours);
	identity_free(theirs);
}

START_TEST(who_acknowledges_what_it_never_reads_does_not_fill_the_site)
{
	struct site_peer_status status;

	they_connect();
	site_peer_status(site, 0, &status);
	ck_assert_int_eq(status.state, SITE_PEER_UP);
	room = 0;
	for (uint64_t i = 1; i <= 30 && !hung_up; i++) {
		struct wire_message ack = {.kind = WIRE_ACK, .ack = {.have_sequence = i}};

		train_once();
		if (!hung_up)
			they_say(&ack);
	}
	ck_assert(hung_up);
	ck_assert_str_eq(rejected, "unread");
	ck_assert_int_eq(rejected_peer, 0);
	/* And nobody waits for it. */
	site_on_closed(site, connection);
	connection = NULL;
	train_once();
	ck_assert_uint_gt(rounds, 8);
}
END_TEST

START_TEST(an_honest_pace_is_not_taken_for_not_reading)
{
	they_connect();
	for (uint64_t i = 1; i <= 30; i++) {
		struct wire_message ack = {.kind = WIRE_ACK, .ack = {.have_sequence = i}};

		train_once();
		they_say(&ack);
	}
	ck_assert(!hung_up);
	ck_assert_str_eq(rejected, "");
	ck_assert_uint_ge(rounds, 29);
}
END_TEST

START_TEST(a_strangers_recording_of_a_neighbour_is_a_strangers)
{
	struct site_peer_status status;
	struct site_status all;
	uint8_t junk[157] = {0x10};
	struct frame first;

	session = peer_session_dial(&their_settings, &their_events, NULL, identity_public(ours), 0, now);
	ck_assert_int_eq(peer_session_start(session, now), 0);
	first = pop(&to_us);
	connection = site_on_opened(site, &session, -1);
	site_on_frame(site, connection, first.data, first.size);
	ck_assert_uint_eq(to_them.count, 1);
	site_on_frame(site, connection, junk, sizeof(junk));
	ck_assert(hung_up);
	ck_assert_str_eq(rejected, "decrypt");
	ck_assert_int_eq(rejected_peer, -1);
	site_peer_status(site, 0, &status);
	ck_assert_str_eq(status.trouble, "");
	site_status(site, &all);
	ck_assert_uint_eq(all.strangers_refused, 1);
	free(first.data);
}
END_TEST

/* A snapshot of theirs, frame by frame, without anything else happening in between. */
static void flood(struct site_connection *c, struct peer_session *flooder, uint64_t sequence)
{
	struct wire_update update = {.kind = WIRE_UPDATE_SNAPSHOT,
		.sequence = sequence,
		.round = sequence,
		.degree = 1,
		.payload_bytes = sizeof(initial)};

	hash_bytes(WIRE_PAYLOAD_PURPOSE, initial, sizeof(initial), update.payload_hash);
	ck_assert_int_eq(peer_session_send_update(flooder, &update, (const uint8_t *)initial), 0);
	peer_session_pump(flooder, 1 << 20);
	while (to_us.count) {
		struct frame f = pop(&to_us);

		site_on_frame(site, c, f.data, f.size);
		free(f.data);
	}
}

START_TEST(a_flood_of_updates_does_not_keep_the_others_out)
{
	uint8_t three[32] = {3};
	struct identity *third;
	struct site_neighbour list[2] = {{.name = "hostile", .id = *identity_public(theirs)}, {.name = "honest"}};
	struct site_connection *flooded;
	struct peer_session *flooder;
	struct site_peer_status status;
	uint64_t sequence = 1;

	ck_assert_int_eq(identity_from_seed(three, 1, &third, NULL), 0);
	list[1].id = *identity_public(third);
	ck_assert_int_eq(site_set_neighbours(site, list, 2, NULL), 0);
	/* From the first flooding update on, nobody reads what the site says. */
	connection = flooded = site_on_opened(site, &session, -1);
	flooder = session = peer_session_dial(&their_settings, &their_events, NULL, identity_public(ours), 0, now);
	ck_assert_int_eq(peer_session_start(session, now), 0);
	they_greet();
	their_settings.identity = third;
	session = NULL;
	they_connect();
	their_settings.identity = theirs;
	/* The lane is never idle: with each answer the next flooding update is here already. */
	flood(flooded, flooder, sequence++);
	flood(flooded, flooder, sequence++);
	ck_assert_uint_eq(job_count, 1);
	flood(connection, session, 1);
	for (int i = 0; i < 4 && job_count; i++) {
		struct site_job *job = jobs[--job_count];

		job->run(job);
		site_on_worked(site, job);
		if (!hung_up)
			flood(flooded, flooder, sequence++);
	}
	ck_assert(!hung_up);
	site_peer_status(site, 1, &status);
	ck_assert_str_eq(status.name, "honest");
	ck_assert_uint_eq(status.edge.have, 1);
	peer_session_free(flooder);
	identity_free(third);
}
END_TEST

static void count_lines(void *self, enum log_level level, const char *line)
{
	(void)level;
	if (strstr(line, "stranger"))
		++*(unsigned *)self;
}

START_TEST(strangers_are_all_counted_and_rarely_logged)
{
	const uint8_t junk[] = {1, 2, 3, 4, 5};
	struct site_status status;
	unsigned lines = 0;

	log_set_sink(count_lines, &lines);
	log_set_level(LOG_LEVEL_WARN);
	for (int i = 0; i < 1000; i++) {
		hung_up = false;
		connection = site_on_opened(site, &session, -1);
		site_on_frame(site, connection, junk, sizeof(junk));
		ck_assert(hung_up);
		site_on_closed(site, connection);
		now += 5;
	}
	connection = NULL;
	site_status(site, &status);
	ck_assert_uint_eq(status.strangers_refused, 1000);
	ck_assert_uint_ge(lines, 4);
	ck_assert_uint_le(lines, 6);
}
END_TEST

START_TEST(who_only_greets_and_breaks_off_is_dialled_ever_more_rarely)
{
	struct site_neighbour neighbour = {.name = "hostile", .id = *identity_public(theirs), .url = "somewhere"};
	unsigned sessions = 0;

	ck_assert_int_eq(site_set_neighbours(site, &neighbour, 1, NULL), 0);
	for (uint64_t end = now + 60000; now < end; now += 50) {
		if (dialled) {
			they_answer();
			sessions++;
		}
		site_on_timer(site);
		settle();
	}
	ck_assert_uint_ge(sessions, 5);
	ck_assert_uint_le(sessions, 15);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("hostile");
	TCase *tcase = tcase_create("hostile");
	SRunner *runner;
	int failed;

	if (noise_start())
		return EXIT_FAILURE;
	log_set_level(LOG_LEVEL_ERROR - 1);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, who_acknowledges_what_it_never_reads_does_not_fill_the_site);
	tcase_add_test(tcase, an_honest_pace_is_not_taken_for_not_reading);
	tcase_add_test(tcase, a_strangers_recording_of_a_neighbour_is_a_strangers);
	tcase_add_test(tcase, who_only_greets_and_breaks_off_is_dialled_ever_more_rarely);
	tcase_add_test(tcase, a_flood_of_updates_does_not_keep_the_others_out);
	tcase_add_test(tcase, strangers_are_all_counted_and_rarely_logged);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
