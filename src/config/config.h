/* SPDX-License-Identifier: Apache-2.0 */
/* sakiorid.conf: read, checked as a whole, compared and written, all by the one table in config/keys.c.
 * Any thread; config_load and config_check_files block on files, so never on the loop after start. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* Largest configuration file that is read. */
#define CONFIG_MAX_BYTES (1u << 20)
#define CONFIG_MAX_PEERS 256
/* Longest path of a Unix socket: sun_path less its NUL. */
#define CONFIG_MAX_SOCKET_PATH 107

struct config_list {
	char **items;
	size_t count;
};

struct config_peer {
	char *name;             /* unique; the label in metrics and commands: A-Z a-z 0-9 . _ - */
	char *id;               /* what `sakiori id` printed at that site */
	struct config_list url; /* tried in turn; may be empty when dial is false */
	bool dial;
	unsigned line; /* where its entry begins in the file; 0 when not read from one */
};

/* More than the table has keys. */
#define CONFIG_MAX_KEYS 64

/* The values of every key. Strings are never NULL after config_defaults or config_load: an optional one that is absent
 * is "". Paths are absolute after config_load. Words (const char *) are one of those the key allows, in static memory.
 */
struct config {
	char *file; /* the file this was read from; "" for defaults */
	struct {
		char *name;
		char *state_directory;
		const char *log_level; /* error | warn | info | debug: for log_level_parse */
	} site;
	struct {
		struct config_list peer; /* URLs that neighbours may dial; empty: this site only dials */
		char *http;              /* "address:port"; "": no HTTP */
		char *admin_socket;
	} listen;
	struct {
		char *key;
		char *network_secret; /* "": none; required as soon as there is a peer */
	} identity;
	struct {
		char *path;             /* a file or folder, or "shape:NAME" */
		const char *base_dtype; /* bf16 | f32 | fp8 | q4 | as-stored */
		char *device;           /* cpu | cuda | cuda:N */
		const char *memory;     /* auto | keep | selective | offload | blocks | blocks-offload */
		const char *variants;   /* cost | fixed | timed */
		int64_t threads;        /* 0: as many as cores */
	} model;
	struct {
		char *train;
		char *eval;            /* "": no evaluation */
		uint64_t max_file;     /* bytes */
		int64_t eval_rows;     /* 0: all */
		int64_t max_seq;       /* tokens */
		int64_t batch_rows;    /* rows a step */
		int64_t micro_tokens;  /* tokens that go through the model at once */
		const char *over_long; /* truncate | refuse */
		bool token_cache;
	} data;
	struct {
		int64_t rank;
		double alpha;  /* after config_load never 0: twice the rank is filled in */
		char *targets; /* "all" or a comma list of q,k,v,o,gate,up,down */
		bool rslora;
		char *rank_pattern;  /* "q=8,down=32"; "": none */
		char *alpha_pattern; /* the same */
		double dropout;
	} adapter;
	struct {
		double lr;
		double lora_plus;     /* B's rate is so many times A's */
		const char *schedule; /* constant | linear | cosine | wsd */
		double decay_share;   /* of wsd */
		int64_t warmup_steps;
		double weight_decay;
		double clip; /* largest gradient norm; 0: no clipping */
	} optimizer;
	struct {
		char *name;
		int64_t rounds;
		int64_t local_steps;
		int64_t seed;
		double gamma;
		uint64_t deadline;     /* ms */
		uint64_t min_deadline; /* ms */
		int64_t eval_every;    /* rounds; 0: never */
		const char *start;     /* auto | paused */
	} run;
	struct {
		char *directory;  /* "": adapters in the state directory */
		char *base_model; /* "": the model file's name */
		int64_t keep;     /* folders */
	} publish;
	struct config_peer *peers;
	size_t peer_count;
	unsigned key_line[CONFIG_MAX_KEYS]; /* for messages: where the file gives each key of the table; 0: it does not
					     */
};

/* Every key at its default, no peers. Required keys (model.path, data.train) are "". */
void config_defaults(struct config *c);
/* Frees everything; safe twice, and on a zeroed struct. */
void config_fini(struct config *c);

/* Reads and checks a file. SAKIORI_ECONFIG with the sentence "file:line: what was found, what is expected" (with the
 * nearest known key for an unknown one), or why the file cannot be read. *c is to be freed with config_fini in every
 * case. */
int config_load(const char *path, struct config *c, struct fault *f);
/* The same from memory; `path` names it in messages and is what relative paths are relative to. text[size] must be 0.
 */
int config_parse(const char *text, size_t size, const char *path, struct config *c, struct fault *f);

/* Whether the files that it names are there and of a possible size: identity key, network secret (if there are peers),
 * model, data. Their contents are for those who read them. SAKIORI_ECONFIG names key, path and what to do. */
int config_check_files(const struct config *c, struct fault *f);
/* A site without peers and network secret needs no key that anybody knows: true when its file is not there and the daemon
 * is to make it. */
bool config_makes_own_key(const struct config *c);
/* Refuses a peer entry that pins this very site; own_id as `sakiori id` prints it. */
int config_check_own_id(const struct config *c, const char *own_id, struct fault *f);

/* One difference between two configurations. */
struct config_change {
	char path[96];      /* "run.rounds", or "peers.NAME" */
	bool needs_restart; /* false: a reload applies it */
};
/* Lists what differs, in the order of the table, peers last. *changes is fresh memory for free(); returns how many. */
size_t config_diff(const struct config *before, const struct config *after, struct config_change **changes);

/* Writes a configuration with the explanation of every key; what is at its default is written commented out.
 * 0 or SAKIORI_EIO. */
int config_write_commented(FILE *stream, const struct config *values);
