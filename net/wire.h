/* SPDX-License-Identifier: Apache-2.0 */
/* The messages between sites: plain structs here, protobuf (proto/peer.proto) on the wire. Every limit on a message is
 * checked in wire.c and only there, in both directions: what wire_encode writes, wire_decode reads back equal.
 * Only bytes of an authenticated peer may reach wire_decode. Any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

#define WIRE_PROTOCOL_VERSION 1
/* Noise allows 65535 bytes a message; 16 are its tag. */
#define WIRE_MESSAGE_MAX 65519
#define WIRE_CHUNK_MAX 60000
#define WIRE_HASH_SIZE 32
#define WIRE_NAME_MAX 64
#define WIRE_TEXT_MAX 200
#define WIRE_DEGREE_MAX 4096
#define WIRE_PAYLOAD_MAX (UINT64_C(1) << 34)
/* No sequence, round, word number or time is larger, so that adding to one cannot wrap. */
#define WIRE_COUNTER_MAX (UINT64_C(1) << 62)
/* What one wire_decode may hold in memory. */
#define WIRE_DECODE_BUDGET (256 * 1024)

/* Texts are printable ASCII (0x20..0x7e) and end in a NUL. Hashes that are not known are all zero. */

/* First message after a session is up, in both directions; again whenever one of its heads changes out of turn. */
struct wire_hello {
	uint32_t protocol;                /* WIRE_PROTOCOL_VERSION; >= 1 */
	char software[WIRE_NAME_MAX + 1]; /* "sakiorid 0.1.0" */
	char site[WIRE_NAME_MAX + 1];     /* not empty */
	uint8_t run_name_hash[WIRE_HASH_SIZE];
	uint8_t run_id[WIRE_HASH_SIZE];
	uint8_t base_fingerprint[WIRE_HASH_SIZE];
	uint8_t adapter_layout_hash[WIRE_HASH_SIZE];  /* rank, alpha, targets, shapes */
	uint8_t initial_adapter_hash[WIRE_HASH_SIZE]; /* the bits every replica starts from */
	uint32_t degree;                              /* neighbours of the sender, <= WIRE_DEGREE_MAX */
	uint64_t my_sequence;                         /* of the sender's newest durable update */
	uint64_t have_sequence;                       /* version of the receiver's replica that the sender holds */
	uint64_t word_sent;                           /* edge words: last number given out by the sender */
	uint64_t word_applied; /* edge words: last number of the receiver that the sender applied */
	uint64_t round;
	uint64_t unix_time_ms;
	bool finished;                    /* the sender has done its last round */
	char run_name[WIRE_NAME_MAX + 1]; /* this and the next two only for sentences people read */
	char base_name[WIRE_TEXT_MAX + 1];
	char adapter_text[WIRE_TEXT_MAX + 1];
};

enum wire_update_kind { WIRE_UPDATE_DELTA = 1, WIRE_UPDATE_SNAPSHOT = 2 };

/* Announces a payload whose Chunks follow in order. */
struct wire_update {
	enum wire_update_kind kind;
	uint64_t sequence;      /* >= 1 */
	uint64_t base_sequence; /* delta: the replica it applies to, < sequence; snapshot: 0 */
	uint64_t round;
	uint32_t degree;                      /* the author's, for w = 1/(1 + max) */
	uint64_t payload_bytes;               /* 1..WIRE_PAYLOAD_MAX; what a receiver accepts is far less */
	uint8_t payload_hash[WIRE_HASH_SIZE]; /* hash_bytes(WIRE_PAYLOAD_PURPOSE, payload) */
	uint64_t have_sequence;               /* as in Hello: acknowledgements that ride along */
	uint64_t word_applied;
	float train_loss; /* nats per token; NaN where not known (every non-finite value arrives as NaN) */
	bool finished;
};
#define WIRE_PAYLOAD_PURPOSE "sakiori-payload"

/* One piece of an update's payload. net/peer cuts and joins; owners never see one. */
struct wire_chunk {
	uint64_t sequence;
	uint64_t offset;
	uint8_t *data; /* encode: borrowed; decode: owned by the message */
	size_t size;   /* 1..WIRE_CHUNK_MAX */
};

/* The lower key's word that an edge counts in a round, for this pair of sequence numbers. */
struct wire_word {
	uint64_t number; /* >= 1, consecutive on the edge */
	uint64_t round;
	uint64_t lower_sequence;
	uint64_t higher_sequence;
	float weight; /* gamma * w, finite, in [0, 1] */
};

struct wire_ack {
	uint64_t have_sequence;
	uint64_t word_applied;
};

struct wire_ping { /* and Pong: `nonce` comes back, the time is the answering site's */
	uint64_t nonce;
	uint64_t unix_time_ms;
};

enum wire_goodbye_reason {
	WIRE_GOODBYE_SHUTDOWN = 1,
	WIRE_GOODBYE_REHANDSHAKE = 2,  /* keys are old: a new session follows */
	WIRE_GOODBYE_DUPLICATE = 3,    /* another session with this peer survives */
	WIRE_GOODBYE_INCOMPATIBLE = 4, /* base model, run or adapter differ; `text` names both */
	WIRE_GOODBYE_REMOVED = 5,      /* no longer pinned here */
	WIRE_GOODBYE_OVERLOADED = 6,
};

struct wire_goodbye {
	enum wire_goodbye_reason reason;
	char text[WIRE_TEXT_MAX + 1];
};

enum wire_kind {
	WIRE_HELLO = 1,
	WIRE_UPDATE = 2,
	WIRE_CHUNK = 3,
	WIRE_WORD = 4,
	WIRE_ACK = 5,
	WIRE_PING = 6,
	WIRE_PONG = 7,
	WIRE_GOODBYE = 8,
};

struct wire_message {
	enum wire_kind kind;
	union {
		struct wire_hello hello;
		struct wire_update update;
		struct wire_chunk chunk;
		struct wire_word word;
		struct wire_ack ack;
		struct wire_ping ping;
		struct wire_ping pong;
		struct wire_goodbye goodbye;
	};
};

/* "hello", "update", ...: stable labels for logs and metrics; "unknown" otherwise. */
const char *wire_kind_name(enum wire_kind kind);
/* Copies at most capacity - 1 bytes of `in`, every unprintable one as '?', and a NUL: makes any file name sendable. */
void wire_text(char *out, size_t capacity, const char *in);
/* Appends the encoded message to `out`. A message that breaks a limit is SAKIORI_EINVAL and appends nothing. */
int wire_encode(const struct wire_message *message, struct writer *out, struct fault *f);
/* Allocates at most WIRE_DECODE_BUDGET whatever the bytes say. Unknown fields are skipped; an unknown message kind is
 * SAKIORI_EUNSUPPORTED, anything else wrong SAKIORI_EFORMAT. On success free with wire_message_free; on failure there
 * is nothing to free. */
int wire_decode(const uint8_t *bytes, size_t n, struct wire_message *out, struct fault *f);
/* Frees what wire_decode allocated inside; not the struct. Safe twice. */
void wire_message_free(struct wire_message *message);
/* Number of wire_decode calls by this process, so that tests can prove what never reached it. */
uint64_t wire_decode_calls(void);
