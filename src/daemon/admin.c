/* SPDX-License-Identifier: Apache-2.0 */
/* A session answers its calls in order. A call that streams or waits (Rounds and Log with `more`, Wait, Reload) holds
 * the session: what the client sends meanwhile stays in the bounded input buffer. Nobody may hold the loop either: a long list is
 * put together BATCH items a turn, and of calls that arrive together each turn answers one. */
#include "daemon/admin.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INTERFACE "org.sakiori.Admin"
#define SERVICE "org.varlink.service"
#define BATCH 50
#define WAIT_MAX_MS (7 * 24 * 3600 * 1000LL)

enum activity { IDLE, LISTING_ROUNDS, LISTING_LOG, FOLLOWING_ROUNDS, FOLLOWING_LOG, WAITING, RELOADING };

struct admin_session {
	struct admin *admin;
	struct admin_session *next, **link;
	enum admin_access access;
	void (*send)(void *self, const char *data, size_t n);
	void *send_self;
	struct writer input;
	enum activity activity;
	bool broken;        /* what it sent is no Varlink call */
	bool pending;       /* a whole call waits in input */
	bool oneway;        /* of the call that is being handled */
	bool follows;       /* listing: whether the session follows when the list is sent */
	uint64_t after;     /* listing, following: number of the last round or line that was taken */
	uint64_t until;     /* listing: number of the last one that belongs to the list */
	struct writer list; /* listing: the reply as far as it is written */
	uint64_t wait_round;
	uint64_t wait_peers;
	uint64_t deadline_ms;
};

struct admin {
	struct admin_backend backend;
	struct admin_session *sessions;
	uint64_t denied;
};

/* One call. Takes the parameters as an object (never NULL). */
struct call {
	const json_t *parameters;
	bool more;
	uint64_t now_ms;
};

static json_t *number_or_null(double v)
{
	return isfinite(v) ? json_real(v) : json_null();
}

/* Text of ours or of a file name: what is not UTF-8 must not make the reply fail. */
static json_t *text_or_empty(const char *text)
{
	json_t *value = json_string(text != NULL ? text : "");
	return value != NULL ? value : json_string("(not UTF-8)");
}

static json_t *integer(uint64_t v)
{
	return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

/* Takes `message` and sends it with its NUL. */
static void send_message(struct admin_session *s, json_t *message)
{
	char *text = s->oneway ? NULL : json_dumps(message, JSON_COMPACT);
	if (text != NULL)
		s->send(s->send_self, text, strlen(text) + 1);
	free(text);
	json_decref(message);
}

/* Takes `parameters`. */
static void reply(struct admin_session *s, json_t *parameters, bool continues)
{
	json_t *message = json_object();
	json_object_set_new(message, "parameters", parameters);
	if (continues)
		json_object_set_new(message, "continues", json_true());
	send_message(s, message);
}

static void reply_error(struct admin_session *s, const char *name, const char *key, const char *value)
{
	json_t *message = json_object();
	json_object_set_new(message, "error", json_string(name));
	json_object_set_new(message, "parameters", json_pack("{s:o}", key, text_or_empty(value)));
	send_message(s, message);
}

/* An optional whole number within [low, high]; `fallback` when absent or null. false: the error was sent. */
static bool take_integer(struct admin_session *s, const struct call *call, const char *key, int64_t low, int64_t high,
	int64_t fallback, uint64_t *out)
{
	const json_t *value = json_object_get(call->parameters, key);
	json_int_t v = fallback;
	if (value != NULL && !json_is_null(value)) {
		v = json_is_integer(value) ? json_integer_value(value) : low - 1;
		if (v < low || v > high) {
			reply_error(s, SERVICE ".InvalidParameter", "parameter", key);
			return false;
		}
	}
	*out = (uint64_t)v;
	return true;
}

static json_t *peer_object(const struct admin_peer *p)
{
	json_t *o = json_object();
	json_object_set_new(o, "name", text_or_empty(p->name));
	json_object_set_new(o, "id", text_or_empty(p->id));
	json_object_set_new(o, "state", text_or_empty(p->state));
	json_object_set_new(o, "address", text_or_empty(p->address));
	json_object_set_new(o, "trouble", text_or_empty(p->trouble));
	json_object_set_new(o, "cure", text_or_empty(p->cure));
	json_object_set_new(o, "round", integer(p->round));
	json_object_set_new(o, "staleness_rounds", integer(p->staleness));
	json_object_set_new(o, "finished", json_boolean(p->finished));
	json_object_set_new(o, "bytes_sent", integer(p->bytes_sent));
	json_object_set_new(o, "bytes_received", integer(p->bytes_received));
	json_object_set_new(o, "rtt_seconds", number_or_null(p->rtt_seconds));
	json_object_set_new(o, "last_seen", number_or_null(p->last_seen));
	return o;
}

static json_t *round_object(const struct site_record *r)
{
	json_t *o = json_object();
	json_object_set_new(o, "round", integer(r->round));
	json_object_set_new(o, "step", integer(r->step));
	json_object_set_new(o, "tokens", integer(r->tokens));
	json_object_set_new(o, "loss", number_or_null(r->loss));
	json_object_set_new(o, "grad_norm", number_or_null(r->grad_norm));
	json_object_set_new(o, "lr", number_or_null(r->lr));
	json_object_set_new(o, "train_seconds", number_or_null(r->train_seconds));
	json_object_set_new(o, "gather_seconds", number_or_null(r->gather_seconds));
	json_object_set_new(o, "eval_loss_before", number_or_null(r->eval_loss_trained));
	json_object_set_new(o, "eval_loss", number_or_null(r->eval_loss_mixed));
	json_object_set_new(o, "accuracy_before", number_or_null(r->eval_accuracy_trained));
	json_object_set_new(o, "accuracy", number_or_null(r->eval_accuracy_mixed));
	json_object_set_new(o, "displacement", number_or_null(r->displacement));
	json_object_set_new(o, "consensus_distance", number_or_null(r->consensus_distance));
	json_object_set_new(o, "neighbours_fresh", integer(r->neighbours_fresh));
	json_object_set_new(o, "words", integer(r->words));
	json_object_set_new(o, "bytes_sent", integer(r->bytes_sent));
	json_object_set_new(o, "bytes_received", integer(r->bytes_received));
	json_object_set_new(o, "ended", json_real((double)r->unix_ms / 1e3));
	return o;
}

static json_t *status_object(const struct admin *a)
{
	struct admin_status st = {.tokens_per_second = NAN};
	a->backend.status(a->backend.self, &st);
	json_t *o = json_object();
	json_object_set_new(o, "schema", json_integer(1));
	json_object_set_new(o, "version", text_or_empty(st.version));
	json_object_set_new(o, "commit", text_or_empty(st.commit));
	json_object_set_new(o, "site", text_or_empty(st.site));
	json_object_set_new(o, "id", text_or_empty(st.id));
	json_object_set_new(o, "run", text_or_empty(st.run));
	json_object_set_new(o, "state", text_or_empty(st.state));
	json_object_set_new(o, "ready", json_boolean(st.ready));
	json_object_set_new(o, "trouble", text_or_empty(st.trouble));
	json_object_set_new(o, "model", text_or_empty(st.model));
	json_object_set_new(o, "fingerprint", text_or_empty(st.fingerprint));
	json_object_set_new(o, "device", text_or_empty(st.device));
	json_object_set_new(o, "threads", integer(st.threads));
	json_object_set_new(o, "adapter", text_or_empty(st.adapter));
	json_object_set_new(o, "round", integer(st.round));
	json_object_set_new(o, "rounds", integer(st.rounds));
	json_object_set_new(o, "step", integer(st.step));
	json_object_set_new(o, "tokens", integer(st.tokens));
	json_object_set_new(o, "peers_up", integer(st.peers_up));
	json_object_set_new(o, "peers", integer(st.peers));
	json_object_set_new(o, "uptime_seconds", json_real(st.uptime_seconds));
	json_object_set_new(o, "tokens_per_second", number_or_null(st.tokens_per_second));
	json_object_set_new(o, "bytes_sent", integer(st.bytes_sent));
	json_object_set_new(o, "bytes_received", integer(st.bytes_received));
	json_object_set_new(o, "last", st.last != NULL ? round_object(st.last) : json_null());
	return o;
}

static void on_status(struct admin_session *s, const struct call *call)
{
	(void)call;
	reply(s, json_pack("{s:o}", "status", status_object(s->admin)), false);
}

static void on_peers(struct admin_session *s, const struct call *call)
{
	(void)call;
	struct admin_peer *peers = must_calloc(ADMIN_PEERS_MAX, sizeof *peers);
	size_t n = s->admin->backend.peers(s->admin->backend.self, peers, ADMIN_PEERS_MAX);
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, peer_object(&peers[i]));
	free(peers);
	reply(s, json_pack("{s:o}", "peers", list), false);
}

/* The rounds after s->after, to a follower; nothing where there is none. */
static void send_rounds(struct admin_session *s)
{
	struct site_record rounds[BATCH];
	size_t n = s->admin->backend.rounds(s->admin->backend.self, s->after, rounds, BATCH);
	if (n == 0)
		return;
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, round_object(&rounds[i]));
	s->after = rounds[n - 1].round;
	reply(s, json_pack("{s:o}", "rounds", list), true);
}

/* At most `max` lines after s->after, which goes on with them. */
static json_t *lines_after(struct admin_session *s, size_t max)
{
	struct log_ring_line *lines = must_calloc(max + 1, sizeof *lines);
	size_t n = log_ring_read(s->admin->backend.log, s->after, lines, max);
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++) {
		json_t *line = json_pack("{s:f, s:s, s:o}", "time", lines[i].time, "level",
			log_level_name(lines[i].level), "text", text_or_empty(lines[i].text));
		json_array_append_new(list, line);
		s->after = lines[i].number;
	}
	free(lines);
	return list;
}

/* Appends one item to the list; takes it. */
static void append_item(struct admin_session *s, json_t *item)
{
	char *text = json_dumps(item, JSON_COMPACT);
	if (s->list.data[s->list.size - 1] != '[')
		write_bytes(&s->list, ",", 1);
	write_bytes(&s->list, text != NULL ? text : "null", text != NULL ? strlen(text) : 4);
	free(text);
	json_decref(item);
}

/* Both append at most BATCH items and return whether the list is whole. */
static bool append_rounds(struct admin_session *s)
{
	struct site_record rounds[BATCH];
	size_t n = s->admin->backend.rounds(s->admin->backend.self, s->after, rounds, BATCH);
	for (size_t i = 0; i < n && rounds[i].round <= s->until; i++) {
		append_item(s, round_object(&rounds[i]));
		s->after = rounds[i].round;
	}
	return n < BATCH || s->after >= s->until;
}

static bool append_lines(struct admin_session *s)
{
	size_t left = (size_t)(s->until - s->after), i;
	json_t *lines = lines_after(s, left < BATCH ? left : BATCH), *line;
	json_array_foreach(lines, i, line) append_item(s, json_incref(line));
	json_decref(lines);
	return i == 0 || s->after >= s->until;
}

/* Goes on with the list, and sends it when it is whole. */
static void continue_list(struct admin_session *s)
{
	bool rounds = s->activity == LISTING_ROUNDS;
	if (s->after < s->until && !(rounds ? append_rounds(s) : append_lines(s)))
		return;
	const char *end = s->follows ? "]},\"continues\":true}" : "]}}";
	write_bytes(&s->list, end, strlen(end) + 1);
	if (!s->oneway)
		s->send(s->send_self, (const char *)s->list.data, s->list.size);
	writer_fini(&s->list);
	s->activity = !s->follows ? IDLE : rounds ? FOLLOWING_ROUNDS : FOLLOWING_LOG;
}

/* The items with numbers above `after`, up to `until`. */
static void begin_list(struct admin_session *s, enum activity which, uint64_t after, uint64_t until, bool more)
{
	const char *begin = which == LISTING_ROUNDS ? "{\"parameters\":{\"rounds\":[" : "{\"parameters\":{\"lines\":[";
	s->activity = which;
	s->after = after;
	s->until = until;
	s->follows = more;
	writer_init(&s->list);
	write_bytes(&s->list, begin, strlen(begin));
	continue_list(s);
}

static void on_rounds(struct admin_session *s, const struct call *call)
{
	uint64_t count;
	if (!take_integer(s, call, "count", 0, ADMIN_ROUNDS_MAX, 20, &count))
		return;
	struct site_record *all = must_calloc(ADMIN_ROUNDS_MAX, sizeof *all);
	size_t n = s->admin->backend.rounds(s->admin->backend.self, 0, all, ADMIN_ROUNDS_MAX);
	size_t first = count < n ? n - (size_t)count : 0;
	uint64_t after = first > 0 ? all[first - 1].round : 0, until = n > 0 ? all[n - 1].round : 0;
	free(all);
	begin_list(s, LISTING_ROUNDS, after, until, call->more);
}

static void on_log(struct admin_session *s, const struct call *call)
{
	uint64_t count;
	if (!take_integer(s, call, "count", 0, LOG_RING_LINES, 20, &count))
		return;
	uint64_t newest = log_ring_newest(s->admin->backend.log);
	begin_list(s, LISTING_LOG, newest > count ? newest - count : 0, newest, call->more);
}

/* Answers a Wait whose condition holds or whose time is up. */
static void check_wait(struct admin_session *s, uint64_t now_ms)
{
	struct admin_status st = {0};
	s->admin->backend.status(s->admin->backend.self, &st);
	bool reached = st.round >= s->wait_round && st.peers_up >= s->wait_peers;
	if (!reached && now_ms < s->deadline_ms)
		return;
	s->activity = IDLE;
	reply(s,
		json_pack("{s:b, s:o, s:o}", "reached", reached, "round", integer(st.round), "peers_up",
			integer(st.peers_up)),
		false);
}

static void on_wait(struct admin_session *s, const struct call *call)
{
	uint64_t timeout;
	if (!take_integer(s, call, "round", 0, INT64_MAX, 0, &s->wait_round) ||
		!take_integer(s, call, "peers", 0, ADMIN_PEERS_MAX, 0, &s->wait_peers) ||
		!take_integer(s, call, "timeout_ms", 0, WAIT_MAX_MS, 60000, &timeout))
		return;
	s->deadline_ms = call->now_ms + timeout;
	s->activity = WAITING;
	check_wait(s, call->now_ms);
}

static void reply_fault(struct admin_session *s, int rc, const struct fault *f)
{
	const char *name = rc == SAKIORI_EBUSY     ? INTERFACE ".Busy"
			   : rc == SAKIORI_ECONFIG ? INTERFACE ".InvalidConfig"
						   : INTERFACE ".Failed";
	reply_error(s, name, "message", f->text);
}

static void change_state(struct admin_session *s, int (*change)(void *self, struct fault *f))
{
	struct fault f = {.text = "it could not be done"};
	int rc = change(s->admin->backend.self, &f);
	if (rc != 0) {
		reply_fault(s, rc, &f);
		return;
	}
	struct admin_status st = {0};
	s->admin->backend.status(s->admin->backend.self, &st);
	reply(s, json_pack("{s:o}", "state", text_or_empty(st.state)), false);
}

static void on_pause(struct admin_session *s, const struct call *call)
{
	(void)call;
	change_state(s, s->admin->backend.pause);
}

static void on_resume(struct admin_session *s, const struct call *call)
{
	(void)call;
	change_state(s, s->admin->backend.resume);
}

static void on_drain(struct admin_session *s, const struct call *call)
{
	(void)call;
	change_state(s, s->admin->backend.drain);
}

static void on_reload(struct admin_session *s, const struct call *call)
{
	(void)call;
	struct fault f = {.text = "it could not be done"};
	s->activity = RELOADING; /* before the call: it may answer at once */
	int rc = s->admin->backend.reload(s->admin->backend.self, &f);
	if (rc != 0 && s->activity == RELOADING) {
		s->activity = IDLE;
		reply_fault(s, rc, &f);
	}
}

static void on_get_info(struct admin_session *s, const struct call *call)
{
	(void)call;
	struct admin_status st = {0};
	s->admin->backend.status(s->admin->backend.self, &st);
	reply(s,
		json_pack("{s:s, s:s, s:o, s:s, s:[s, s]}", "vendor", "Sakiori", "product", "sakiorid", "version",
			text_or_empty(st.version), "url", "", "interfaces", SERVICE, INTERFACE),
		false);
}

static void on_get_description(struct admin_session *s, const struct call *call)
{
	const char *name = json_string_value(json_object_get(call->parameters, "interface"));
	if (name == NULL)
		reply_error(s, SERVICE ".InvalidParameter", "parameter", "interface");
	else if (strcmp(name, INTERFACE) == 0)
		reply(s, json_pack("{s:s}", "description", admin_interface_text), false);
	else if (strcmp(name, SERVICE) == 0)
		reply(s, json_pack("{s:s}", "description", admin_service_interface_text), false);
	else
		reply_error(s, SERVICE ".InterfaceNotFound", "interface", name);
}

static const struct method {
	const char *name;
	enum admin_access needs;
	bool streams;
	void (*handle)(struct admin_session *s, const struct call *call);
} methods[] = {
	{INTERFACE ".Status", ADMIN_READ, false, on_status},
	{INTERFACE ".Peers", ADMIN_READ, false, on_peers},
	{INTERFACE ".Rounds", ADMIN_READ, true, on_rounds},
	{INTERFACE ".Log", ADMIN_READ, true, on_log},
	{INTERFACE ".Wait", ADMIN_READ, false, on_wait},
	{INTERFACE ".Pause", ADMIN_CHANGE, false, on_pause},
	{INTERFACE ".Resume", ADMIN_CHANGE, false, on_resume},
	{INTERFACE ".Drain", ADMIN_CHANGE, false, on_drain},
	{INTERFACE ".Reload", ADMIN_CHANGE, false, on_reload},
	{SERVICE ".GetInfo", ADMIN_READ, false, on_get_info},
	{SERVICE ".GetInterfaceDescription", ADMIN_READ, false, on_get_description},
};

static void deny(struct admin_session *s, enum admin_access needs)
{
	s->admin->denied++;
	reply_error(s, INTERFACE ".Denied", "needs", needs == ADMIN_CHANGE ? "group sakiori-admin" : "group sakiori");
}

static void dispatch(struct admin_session *s, const char *name, const struct call *call)
{
	for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
		if (strcmp(methods[i].name, name) != 0)
			continue;
		if (s->access < methods[i].needs)
			deny(s, methods[i].needs);
		else if (s->oneway && methods[i].streams && call->more)
			reply_error(s, SERVICE ".InvalidParameter", "parameter", "oneway");
		else
			methods[i].handle(s, call);
		return;
	}
	const char *dot = strrchr(name, '.');
	size_t n = dot != NULL ? (size_t)(dot - name) : 0;
	bool known = (n == strlen(INTERFACE) && strncmp(name, INTERFACE, n) == 0) ||
		     (n == strlen(SERVICE) && strncmp(name, SERVICE, n) == 0);
	if (known) {
		reply_error(s, SERVICE ".MethodNotFound", "method", dot + 1);
	} else {
		char interface[200];
		snprintf(interface, sizeof interface, "%.*s",
			(int)(n < sizeof interface - 1 ? n : sizeof interface - 1), name);
		reply_error(s, SERVICE ".InterfaceNotFound", "interface", interface);
	}
}

/* One request without its NUL. Negative when it is no Varlink call at all. */
static int handle_request(struct admin_session *s, const char *text, size_t n, uint64_t now_ms)
{
	json_t *request = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
	const char *name = json_string_value(json_object_get(request, "method"));
	json_t *parameters = json_object_get(request, "parameters");
	if (name == NULL || (parameters != NULL && !json_is_object(parameters))) {
		json_decref(request);
		return SAKIORI_EPROTO;
	}
	json_t *none = json_object();
	struct call call = {.parameters = parameters != NULL ? parameters : none,
		.more = json_is_true(json_object_get(request, "more")),
		.now_ms = now_ms};
	s->oneway = json_is_true(json_object_get(request, "oneway"));
	dispatch(s, name, &call);
	json_decref(none);
	json_decref(request);
	return 0;
}

/* Handles the first whole request, unless one holds the session. */
static int handle_input(struct admin_session *s, uint64_t now_ms)
{
	const uint8_t *end = s->input.size > 0 ? memchr(s->input.data, 0, s->input.size) : NULL;
	int rc = 0;
	if (end != NULL && s->activity == IDLE) {
		size_t n = (size_t)(end - s->input.data);
		rc = handle_request(s, (const char *)s->input.data, n, now_ms);
		s->input.size -= n + 1;
		memmove(s->input.data, s->input.data + n + 1, s->input.size);
		end = s->input.size > 0 ? memchr(s->input.data, 0, s->input.size) : NULL;
	}
	s->pending = end != NULL;
	s->broken = s->broken || rc != 0;
	return rc;
}

int admin_session_feed(struct admin_session *s, const void *data, size_t n, uint64_t now_ms)
{
	if (s->broken)
		return SAKIORI_EPROTO;
	if (n > ADMIN_REQUEST_MAX - s->input.size)
		return SAKIORI_ELIMIT;
	write_bytes(&s->input, data, n);
	return handle_input(s, now_ms);
}

bool admin_session_is_broken(const struct admin_session *s)
{
	return s->broken;
}

bool admin_session_is_busy(const struct admin_session *s)
{
	return s->activity != IDLE;
}

/* Serves one session; what it had pipelined behind a call that is now answered comes next. */
static void poke(struct admin_session *s, uint64_t now_ms)
{
	if (s->activity == LISTING_ROUNDS || s->activity == LISTING_LOG) {
		continue_list(s);
	} else if (s->activity == FOLLOWING_ROUNDS) {
		send_rounds(s);
	} else if (s->activity == FOLLOWING_LOG) {
		json_t *lines = lines_after(s, BATCH);
		if (json_array_size(lines) > 0)
			reply(s, json_pack("{s:o}", "lines", lines), true);
		else
			json_decref(lines);
	} else if (s->activity == WAITING) {
		check_wait(s, now_ms);
	}
	if (s->activity == IDLE && s->pending && !s->broken)
		handle_input(s, now_ms);
}

void admin_poke(struct admin *a, uint64_t now_ms)
{
	for (struct admin_session *s = a->sessions, *next; s != NULL; s = next) {
		next = s->next;
		poke(s, now_ms);
	}
}

bool admin_is_pending(const struct admin *a)
{
	for (const struct admin_session *s = a->sessions; s != NULL; s = s->next) {
		bool listing = s->activity == LISTING_ROUNDS || s->activity == LISTING_LOG;
		if (listing || (s->activity == IDLE && s->pending && !s->broken))
			return true;
	}
	return false;
}

static json_t *text_list(const char *const *items, size_t count)
{
	json_t *list = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, text_or_empty(items[i]));
	return list;
}

void admin_reload_done(struct admin *a, int rc, const struct fault *f, const char *const *applied, size_t applied_count,
	const char *const *needs_restart, size_t restart_count)
{
	for (struct admin_session *s = a->sessions; s != NULL; s = s->next) {
		if (s->activity != RELOADING)
			continue;
		s->activity = IDLE;
		if (rc != 0)
			reply_fault(s, rc, f);
		else
			reply(s,
				json_pack("{s:o, s:o}", "applied", text_list(applied, applied_count), "needs_restart",
					text_list(needs_restart, restart_count)),
				false);
	}
}

uint64_t admin_denied(const struct admin *a)
{
	return a->denied;
}

void admin_write_status(const struct admin *a, struct writer *out)
{
	json_t *status = status_object(a);
	char *text = json_dumps(status, JSON_COMPACT);
	if (text != NULL)
		write_bytes(out, text, strlen(text));
	free(text);
	json_decref(status);
}

struct admin *admin_new(const struct admin_backend *backend)
{
	struct admin *a = must_calloc(1, sizeof *a);
	a->backend = *backend;
	return a;
}

void admin_free(struct admin *a)
{
	free(a);
}

struct admin_session *admin_session_new(
	struct admin *a, enum admin_access access, void (*send)(void *self, const char *data, size_t n), void *self)
{
	struct admin_session *s = must_calloc(1, sizeof *s);
	s->admin = a;
	s->access = access;
	s->send = send;
	s->send_self = self;
	writer_init(&s->input);
	s->next = a->sessions;
	s->link = &a->sessions;
	if (s->next != NULL)
		s->next->link = &s->next;
	a->sessions = s;
	return s;
}

void admin_session_free(struct admin_session *s)
{
	if (s == NULL)
		return;
	*s->link = s->next;
	if (s->next != NULL)
		s->next->link = s->link;
	writer_fini(&s->input);
	writer_fini(&s->list);
	free(s);
}
