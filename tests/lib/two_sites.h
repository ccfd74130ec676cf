/* SPDX-License-Identifier: Apache-2.0 */
/* Two sites with one session each, and the frames between them in the test's hand. For check_peer.c and check_peer_up.c. */
#pragma once
#include <check.h>

#include "net/peer.h"

enum { FRAMES_MAX = 64, PEERS_MAX = 4 };

struct frame {
	uint8_t *data;
	size_t size;
};

/* One site with one session; what the session sends waits in `frames` until the test moves it. */
struct site {
	struct identity *identity;
	struct peer_settings settings;
	struct identity_public pins[PEERS_MAX];
	int pin_count;
	struct peer_session *session;
	struct frame frames[FRAMES_MAX];
	int frame_count;
	int ups, messages, updates, updates_sent;
	struct wire_message last_message;
	struct wire_update last_update;
	uint8_t *payload;
	size_t payload_size;
	bool answer_ping;
};

extern uint8_t secret[NETWORK_SECRET_SIZE];
extern struct site a, b;
extern const struct peer_events events;

void drop_frames(struct site *site);
void site_init(struct site *site, uint8_t number, uint32_t generation);
void site_fini(struct site *site);
void pin(struct site *site, const struct site *other);
/* a dials b; both know each other. */
void setup(void);
void teardown(void);
void restart(void);
/* Moves the oldest frame of `from` into `to`'s session. */
int deliver_one(struct site *from, struct site *to);
/* Moves frames both ways until none is left or one is refused. */
int deliver_all(void);
void connect_both(void);
/* b refuses what it gets, for this reason, says nothing and has parsed nothing. */
void check_refused(struct site *site, int rc, enum peer_failure reason, uint64_t decodes_before);

/* check_peer_up.c: what a session does once it is up. */
void add_tests_of_a_session_that_is_up(TCase *tests);
