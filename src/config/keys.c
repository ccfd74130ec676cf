/* SPDX-License-Identifier: Apache-2.0 */
#include "config/keys.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "config/units.h"

#define AT(member) offsetof(struct config, member)
#define PEER(member) offsetof(struct config_peer, member)
/* ms */
#define SECOND 1000.0
#define DAY (24 * 3600 * SECOND)
#define MAX_TEXT 4095
#define WORDS(...)                                                                                                     \
	(const char *const[])                                                                                          \
	{                                                                                                              \
		__VA_ARGS__, NULL                                                                                      \
	}
#define RELOAD .needs_restart = false
#define RESTART .needs_restart = true

const struct config_key config_keys[] = {
	{"site.name", KEY_STRING, AT(site.name), "", 0, 64, .unit = "", .example = "north", RESTART,
		"Name of this site in status and logs. Empty: the host's name."},
	{"site.state_directory", KEY_PATH, AT(site.state_directory), "/var/lib/sakiori", 1, MAX_TEXT, .unit = "",
		RESTART, "Where rounds, adapters and their history are kept. One daemon a folder."},
	{"site.log_level", KEY_WORD, AT(site.log_level), "info", .words = WORDS("error", "warn", "info", "debug"),
		.unit = "", RELOAD, "How much is logged."},

	{"listen.peer", KEY_LIST, AT(listen.peer), "tcp://0.0.0.0:7411", 0, MAX_TEXT, .unit = "", RESTART,
		"Where neighbours may connect: tcp://ADDRESS:PORT or ipc:///PATH, one or a list.\n"
		"An empty list []: this site only dials."},
	{"listen.http", KEY_STRING, AT(listen.http), "127.0.0.1:9411", 0, 255, .unit = "", RESTART,
		"ADDRESS:PORT of /metrics, /healthz and /readyz. Empty: no HTTP."},
	{"listen.admin_socket", KEY_PATH, AT(listen.admin_socket), "/run/sakiori/sakiori.sock", 1, MAX_TEXT, .unit = "",
		RESTART, "Unix socket that the sakiori command talks to; a path of at most 107 bytes."},

	{"identity.key", KEY_PATH, AT(identity.key), "identity.key", 1, MAX_TEXT, .unit = "", RESTART,
		"This site's secret key, mode 0600, made by `sakiori keygen`."},
	{"identity.network_secret", KEY_PATH, AT(identity.network_secret), "", 0, MAX_TEXT, .unit = "",
		.example = "network.key", RESTART,
		"The secret that all sites of a network share, mode 0600, made once by\n"
		"`sakiori keygen --network` and carried to every site. Required as soon as there is a peer."},

	{"model.path", KEY_PATH, AT(model.path), NULL, 1, MAX_TEXT, .unit = "", .example = "model.gguf", RESTART,
		"The base model: a GGUF file, a Hugging Face folder, or shape:NAME for random weights.\n"
		"Every site of a run needs the same one."},
	{"model.base_dtype", KEY_WORD, AT(model.base_dtype), "bf16",
		.words = WORDS("bf16", "f32", "fp8", "q4", "as-stored"), .unit = "", RESTART,
		"How the frozen base weights are held in memory: q4 is 4-bit NormalFloat, as-stored the 4-bit\n"
		"and 8-bit blocks of the file; both are unpacked as they are multiplied. fp8 needs a GPU."},
	{"model.device", KEY_STRING, AT(model.device), "cpu", 1, 16, .unit = "", RESTART,
		"Where training runs: cpu, cuda or cuda:N. A device that is missing stops the daemon;\n"
		"there is no silent fallback."},
	{"model.memory", KEY_WORD, AT(model.memory), "auto",
		.words = WORDS("auto", "keep", "selective", "offload", "blocks", "blocks-offload"), .unit = "", RESTART,
		"What a GPU keeps from the forward to the backward pass: all that is needed (keep), all but the "
		"widest\n"
		"layers (selective), the same in the host's memory (offload), only what enters each block (blocks), "
		"that\n"
		"in the host's memory (blocks-offload); less memory takes more time.\n"
		"auto: the first of them that fits."},
	{"model.variants", KEY_WORD, AT(model.variants), "cost", .words = WORDS("cost", "fixed", "timed"), .unit = "",
		RESTART,
		"In which order the adapter's products are multiplied: chosen by counting, always the plain one, or "
		"the\n"
		"one that was fastest when it was tried at the first start."},
	{"model.threads", KEY_INT, AT(model.threads), "0", 0, 4096, .unit = "threads", RESTART,
		"CPU threads of the trainer. 0: one for every core. The bits of a run depend on it."},

	{"data.train", KEY_PATH, AT(data.train), NULL, 1, MAX_TEXT, .unit = "", .example = "train.jsonl", RESTART,
		"This site's training rows, one JSON object a line. They never leave this machine."},
	{"data.eval", KEY_PATH, AT(data.eval), "", 0, MAX_TEXT, .unit = "", .example = "eval.jsonl", RESTART,
		"Rows that are only measured on, before and after mixing. Empty: no evaluation."},
	{"data.max_file", KEY_SIZE, AT(data.max_file), "4GiB", 1, 0x1p50, .unit = "bytes", RESTART,
		"A data file larger than this is refused before it is read."},
	{"data.eval_rows", KEY_INT, AT(data.eval_rows), "64", 0, 1e9, .unit = "rows", RESTART,
		"How many rows of data.eval are used, the first ones. 0: all."},
	{"data.max_seq", KEY_INT, AT(data.max_seq), "512", 8, 1 << 20, .unit = "tokens", RESTART,
		"Longest row in tokens."},
	{"data.over_long", KEY_WORD, AT(data.over_long), "truncate", .words = WORDS("truncate", "refuse"), .unit = "",
		RESTART, "What happens to a longer row: it is cut, and counted, or the start is refused."},
	{"data.token_cache", KEY_BOOL, AT(data.token_cache), "true", .unit = "", RESTART,
		"Keep the tokens of data files from 4 MiB on in cache/tokens of site.state_directory, at most 8 GiB, "
		"so that\n"
		"later starts need not make them and memory does not hold them. They are the training data in another "
		"form."},
	{"data.batch_rows", KEY_INT, AT(data.batch_rows), "4", 1, 1 << 20, .unit = "rows", RESTART,
		"Rows in one optimizer step."},
	{"data.micro_tokens", KEY_INT, AT(data.micro_tokens), "2048", 8, 1 << 20, .unit = "tokens", RESTART,
		"Tokens that go through the model at once; more need more memory. At least data.max_seq."},

	{"adapter.rank", KEY_INT, AT(adapter.rank), "16", 1, 1024, .unit = "", RESTART,
		"Rank of the LoRA adapter. The same at every site of a run, as all of adapter and run."},
	{"adapter.alpha", KEY_FLOAT, AT(adapter.alpha), "0", 0, 1e6, .unit = "", RESTART,
		"The adapter's product is scaled by alpha / rank. 0: alpha is twice the rank."},
	{"adapter.targets", KEY_STRING, AT(adapter.targets), "all", 1, 64, .unit = "", RESTART,
		"Which linear layers get an adapter: all, or some of q,k,v,o,gate,up,down."},
	{"adapter.rslora", KEY_BOOL, AT(adapter.rslora), "false", .unit = "", RESTART,
		"Scale by alpha / sqrt(rank) instead."},
	{"adapter.rank_pattern", KEY_STRING, AT(adapter.rank_pattern), "", 0, 160, .unit = "", RESTART,
		"Ranks of some targets, as q=8,down=32. Empty: all have adapter.rank."},
	{"adapter.alpha_pattern", KEY_STRING, AT(adapter.alpha_pattern), "", 0, 160, .unit = "", RESTART,
		"Alphas of some targets, as q=16,down=64. Empty: all have adapter.alpha."},
	{"adapter.dropout", KEY_FLOAT, AT(adapter.dropout), "0", 0, 0.99, .unit = "", RESTART,
		"Share of what an adapter reads that a step leaves out. Sites may differ in it."},

	{"optimizer.lr", KEY_FLOAT, AT(optimizer.lr), "0.0002", 0, 10, .unit = "", RESTART, "Learning rate of AdamW."},
	{"optimizer.lora_plus", KEY_FLOAT, AT(optimizer.lora_plus), "1", 1e-3, 1e3, .unit = "", RESTART,
		"The learning rate of an adapter's second factor is so many times that of its first (LoRA+)."},
	{"optimizer.schedule", KEY_WORD, AT(optimizer.schedule), "linear",
		.words = WORDS("constant", "linear", "cosine", "wsd"), .unit = "", RESTART,
		"How the rate goes on after the warm-up: as it is, down to 0 over all steps of the run, or (wsd) only "
		"at their end."},
	{"optimizer.decay_share", KEY_FLOAT, AT(optimizer.decay_share), "0.2", 1e-6, 1, .unit = "", RESTART,
		"Share of all steps in which the schedule wsd goes down to 0."},
	{"optimizer.warmup_steps", KEY_INT, AT(optimizer.warmup_steps), "0", 0, 1e9, .unit = "steps", RESTART,
		"Steps over which the rate rises from 0."},
	{"optimizer.weight_decay", KEY_FLOAT, AT(optimizer.weight_decay), "0", 0, 10, .unit = "", RESTART,
		"Decoupled weight decay."},
	{"optimizer.clip", KEY_FLOAT, AT(optimizer.clip), "1", 0, 1e6, .unit = "", RESTART,
		"Gradients are scaled down to this norm. 0: never."},

	{"run.name", KEY_STRING, AT(run.name), "default", 1, 64, .unit = "", RESTART,
		"Name of the run. Sites only work together within one run."},
	{"run.rounds", KEY_INT, AT(run.rounds), "100", 1, 1e9, .unit = "rounds", RESTART,
		"Rounds until the run is finished."},
	{"run.local_steps", KEY_INT, AT(run.local_steps), "10", 1, 1e6, .unit = "steps", RESTART,
		"Optimizer steps in a round, between two exchanges."},
	{"run.seed", KEY_INT, AT(run.seed), "0", 0, 0x1p53, .unit = "", RESTART,
		"What the first adapter and the order of rows are drawn from."},
	{"run.gamma", KEY_FLOAT, AT(run.gamma), "1", 0.001, 1, .unit = "", RESTART,
		"Step size of mixing, from 0.001 to 1. Smaller is slower and more cautious."},
	{"run.deadline", KEY_DURATION, AT(run.deadline), "60s", 0.1 * SECOND, DAY, .unit = "time", RESTART,
		"Nobody ever waits longer than this for neighbours in a round."},
	{"run.min_deadline", KEY_DURATION, AT(run.min_deadline), "1s", 1, DAY, .unit = "time", RESTART,
		"The wait adapts to how fast neighbours were; it is never shorter than this."},
	{"run.eval_every", KEY_INT, AT(run.eval_every), "1", 0, 1e9, .unit = "rounds", RESTART,
		"Evaluate in every n-th round. 0: never."},
	{"run.start", KEY_WORD, AT(run.start), "auto", .words = WORDS("auto", "paused"), .unit = "", RESTART,
		"Whether training begins when the daemon does, or waits for `sakiori resume`."},

	{"publish.directory", KEY_PATH, AT(publish.directory), "", 0, MAX_TEXT, .unit = "", .example = "/srv/adapters",
		RESTART,
		"Where the adapter of each round that has the lowest loss on data.eval so far is put, as a PEFT "
		"folder\n"
		"RUN-round-N of its own, with RUN-best pointing to the newest: for vLLM its "
		"VLLM_LORA_RESOLVER_CACHE_DIR.\n"
		"Empty: adapters in the state directory."},
	{"publish.base_model", KEY_STRING, AT(publish.base_model), "", 0, 255, .unit = "", .example = "someone/model",
		RESTART,
		"The name under which the base model is served; published adapters call it so, and vLLM asks for "
		"that.\n"
		"Empty: the name of the model's file."},
	{"publish.keep", KEY_INT, AT(publish.keep), "3", 1, 1000, .unit = "folders", RESTART,
		"How many of these folders are kept, the newest ones."},

	{"peers.name", KEY_STRING, PEER(name), NULL, 1, 64, .unit = "", .example = "south", RELOAD,
		"What this neighbour is called here: letters, digits and . _ -; unique."},
	{"peers.id", KEY_STRING, PEER(id), NULL, 1, 1024, .unit = "", .example = "what `sakiori id` prints there",
		RELOAD, "The identity that is expected of it: the string that `sakiori id` prints at that site."},
	{"peers.url", KEY_LIST, PEER(url), "", 0, MAX_TEXT, .unit = "", .example = "tcp://south.example.org:7411",
		RELOAD, "Where it can be reached, one URL or a list that is tried in turn."},
	{"peers.dial", KEY_BOOL, PEER(dial), "true", .unit = "", RELOAD,
		"Whether this site connects, or waits to be connected to. Both ends may dial."},
	{0},
};

_Static_assert(sizeof config_keys / sizeof *config_keys <= CONFIG_MAX_KEYS, "raise CONFIG_MAX_KEYS");

size_t config_key_count(void)
{
	return sizeof config_keys / sizeof *config_keys - 1;
}

const struct config_key *config_key_find(const char *path)
{
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (strcmp(k->path, path) == 0)
			return k;
	return NULL;
}

bool config_key_of_peer(const struct config_key *k)
{
	return strncmp(k->path, "peers.", 6) == 0;
}

/* Insertions, deletions, substitutions and swaps of neighbours that turn a into b, of at most 63 bytes each. */
static size_t edit_distance(const char *a, const char *b)
{
	size_t row[3][64], n = strnlen(a, 63), m = strnlen(b, 63);
	for (size_t j = 0; j <= m; j++)
		row[0][j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t *now = row[i % 3], *above = row[(i - 1) % 3], *before = row[(i + 1) % 3];
		now[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
			if (above[j] + 1 < best)
				best = above[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
	}
	return row[n % 3][m];
}

static const char *last_name(const char *path)
{
	const char *dot = strrchr(path, '.');
	return dot != NULL ? dot + 1 : path;
}

const struct config_key *config_key_nearest(const char *path)
{
	const struct config_key *best = NULL;
	size_t least = SIZE_MAX;
	for (const struct config_key *k = config_keys; k->path != NULL; k++) {
		size_t distance = edit_distance(path, k->path);
		/* the right name in the wrong group, or at the top, is nearer than anything misspelt in two places */
		if (strcmp(last_name(path), last_name(k->path)) == 0 && distance > 1)
			distance = 1;
		if (distance < least) {
			least = distance;
			best = k;
		}
	}
	return best;
}

void config_key_clear(const struct config_key *k, void *base)
{
	if (k->type == KEY_STRING || k->type == KEY_PATH) {
		char **text = config_key_value(k, base);
		free(*text);
		*text = NULL;
	} else if (k->type == KEY_LIST) {
		struct config_list *list = config_key_value(k, base);
		for (size_t i = 0; i < list->count; i++)
			free(list->items[i]);
		free(list->items);
		*list = (struct config_list){0};
	}
}

const char *config_key_word(const struct config_key *k, const char *text)
{
	for (const char *const *word = k->words; *word != NULL; word++)
		if (strcmp(*word, text) == 0)
			return *word;
	return NULL;
}

void config_key_set_initial(const struct config_key *k, void *base)
{
	void *value = config_key_value(k, base);
	const char *initial = k->initial != NULL ? k->initial : "";
	switch (k->type) {
	case KEY_BOOL:
		*(bool *)value = strcmp(initial, "true") == 0;
		break;
	case KEY_INT:
		*(int64_t *)value = strtoll(initial, NULL, 10);
		break;
	case KEY_FLOAT:
		*(double *)value = strtod(initial, NULL);
		break;
	case KEY_STRING:
	case KEY_PATH:
		*(char **)value = must_strdup(initial);
		break;
	case KEY_LIST: {
		struct config_list *list = value;
		if (initial[0] != 0) {
			list->items = must_alloc(sizeof *list->items);
			list->items[list->count++] = must_strdup(initial);
		}
		break;
	}
	case KEY_DURATION:
		units_parse_duration(initial, value);
		break;
	case KEY_SIZE:
		units_parse_size(initial, value);
		break;
	case KEY_WORD:
		*(const char **)value = config_key_word(k, initial);
		break;
	}
}

static bool lists_equal(const struct config_list *a, const struct config_list *b)
{
	for (size_t i = 0; i < a->count && i < b->count; i++)
		if (strcmp(a->items[i], b->items[i]) != 0)
			return false;
	return a->count == b->count;
}

bool config_key_equal(const struct config_key *k, const void *a, const void *b)
{
	const void *x = config_key_value(k, a), *y = config_key_value(k, b);
	switch (k->type) {
	case KEY_BOOL:
		return *(const bool *)x == *(const bool *)y;
	case KEY_INT:
		return *(const int64_t *)x == *(const int64_t *)y;
	case KEY_FLOAT:
		return *(const double *)x == *(const double *)y;
	case KEY_DURATION:
	case KEY_SIZE:
		return *(const uint64_t *)x == *(const uint64_t *)y;
	case KEY_LIST:
		return lists_equal(x, y);
	default:
		return strcmp(*(char *const *)x, *(char *const *)y) == 0;
	}
}

static void print_quoted(const char *text, FILE *stream)
{
	putc('"', stream);
	for (; *text != 0; text++) {
		unsigned char byte = (unsigned char)*text;
		if (byte == '"' || byte == '\\')
			fprintf(stream, "\\%c", byte);
		else if (byte < 0x20 || byte == 0x7f)
			fprintf(stream, "\\x%02x", byte);
		else
			putc(byte, stream);
	}
	putc('"', stream);
}

/* The shortest decimal that reads back as the same double, with a point or an exponent. */
static void print_float(double value, FILE *stream)
{
	char text[40];
	for (int precision = 1; precision <= 17; precision++) {
		snprintf(text, sizeof text, "%.*g", precision, value);
		if (strtod(text, NULL) == value)
			break;
	}
	fprintf(stream, "%s%s", text, strpbrk(text, ".e") != NULL ? "" : ".0");
}

void config_key_print(const struct config_key *k, const void *base, FILE *stream)
{
	const void *value = config_key_value(k, base);
	char text[UNITS_TEXT_SIZE];
	switch (k->type) {
	case KEY_BOOL:
		fputs(*(const bool *)value ? "true" : "false", stream);
		return;
	case KEY_INT: {
		int64_t number = *(const int64_t *)value;
		/* libconfig takes what does not fit 32 bits only with an L */
		fprintf(stream, "%" PRId64 "%s", number, number > INT32_MAX ? "L" : "");
		return;
	}
	case KEY_FLOAT:
		print_float(*(const double *)value, stream);
		return;
	case KEY_LIST: {
		const struct config_list *list = value;
		putc('[', stream);
		for (size_t i = 0; i < list->count; i++) {
			fputs(i > 0 ? ", " : "", stream);
			print_quoted(list->items[i], stream);
		}
		putc(']', stream);
		return;
	}
	case KEY_DURATION:
		units_format_duration(*(const uint64_t *)value, text);
		print_quoted(text, stream);
		return;
	case KEY_SIZE:
		units_format_size(*(const uint64_t *)value, text);
		print_quoted(text, stream);
		return;
	default:
		print_quoted(*(char *const *)value, stream);
		return;
	}
}

void config_key_expected(const struct config_key *k, char *out, size_t size)
{
	char low[UNITS_TEXT_SIZE], high[UNITS_TEXT_SIZE];
	switch (k->type) {
	case KEY_BOOL:
		snprintf(out, size, "true or false");
		return;
	case KEY_INT:
		snprintf(out, size, "an integer from %.0f to %.0f", k->min, k->max);
		return;
	case KEY_FLOAT:
		snprintf(out, size, "a number from %g to %g", k->min, k->max);
		return;
	case KEY_DURATION:
		units_format_duration((uint64_t)k->min, low);
		units_format_duration((uint64_t)k->max, high);
		snprintf(out, size, "a duration with its unit (ms, s, min, h, d) from \"%s\" to \"%s\"", low, high);
		return;
	case KEY_SIZE:
		units_format_size((uint64_t)k->min, low);
		units_format_size((uint64_t)k->max, high);
		snprintf(out, size, "a size with its unit (B, KiB, MiB, GiB, TiB) from \"%s\" to \"%s\"", low, high);
		return;
	case KEY_WORD: {
		int used = snprintf(out, size, "one of the words");
		for (const char *const *word = k->words; *word != NULL && used >= 0 && (size_t)used < size; word++)
			used += snprintf(out + used, size - (size_t)used, " \"%s\"", *word);
		return;
	}
	case KEY_LIST:
		snprintf(out, size, "a string in quotes, or a list of such strings in [ ]");
		return;
	default:
		snprintf(out, size, "a string in quotes of %.0f to %.0f bytes", k->min, k->max);
		return;
	}
}
