/* SPDX-License-Identifier: Apache-2.0 */
/* Who said a byte of the rendered text is known by its mark, so control tokens are looked for in the template's own bytes
 * alone, and what is learned is found by rendering ever longer parts of the conversation. */
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "text/jinja.h"

struct chat {
	const struct tokenizer *tokenizer;
	struct jinja *template;
	struct tm now;
	json_t *bos, *eos; /* the tokens' names; NULL: the model names none */
	struct fault why;  /* where there is no template */
};

/* Marks of the rendered bytes: what the template wrote, what it took from a message that is learned, and from others. */
enum { LEARNED = 1, OTHER = 2 };

/* Steps for all renderings of one conversation. */
#define MAX_STEPS ((uint64_t)200000000)

/* The name of a token as a JSON string; NULL where there is none. */
static json_t *token_name(const struct tokenizer *t, int32_t id)
{
	struct text_span name = tokenizer_token(t, id);
	return name.data != NULL ? json_stringn(name.data, name.size) : NULL;
}

int chat_new(struct chat **out, const struct tokenizer *t, struct fault *f)
{
	*out = NULL;
	const char *source = tokenizer_chat_template(t);
	if (source == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"the model carries no chat template; use prompt and completion rows, or an instruction-tuned "
			"model");
	struct jinja *template;
	int rc = jinja_compile(&template, source, strlen(source), f);
	if (rc != 0)
		return rc;
	*out = must_calloc(1, sizeof **out);
	**out = (struct chat){.tokenizer = t,
		.template = template,
		.bos = token_name(t, tokenizer_bos_name(t)),
		.eos = token_name(t, tokenizer_eos(t))};
	time_t now = time(NULL);
	localtime_r(&now, &(*out)->now);
	return 0;
}

struct chat *chat_refusing(const struct fault *why)
{
	struct chat *c = must_calloc(1, sizeof *c);
	c->why = *why;
	return c;
}

void chat_free(struct chat *c)
{
	if (c == NULL)
		return;
	jinja_free(c->template);
	json_decref(c->bos);
	json_decref(c->eos);
	free(c);
}

void chat_identity(const struct chat *c, uint8_t out[static HASH_SIZE])
{
	struct hash h;
	hash_init(&h, "sakiori-chat");
	const char *source = c->template != NULL ? tokenizer_chat_template(c->tokenizer) : "";
	hash_update(&h, source, strlen(source) + 1);
	for (int i = 0; i < 2; i++) {
		const char *name = json_string_value(i ? c->eos : c->bos);
		hash_update(&h, name != NULL ? name : "", name != NULL ? strlen(name) + 1 : 1);
	}
	/* another day, another text: templates print dates */
	const int day[] = {c->now.tm_year, c->now.tm_yday};
	if (strstr(source, "strftime_now") != NULL)
		hash_update(&h, day, sizeof day);
	hash_final(&h, out);
}

void labelled_tokens_mark(struct labelled_tokens *list, bool labelled)
{
	if (list->capacity < list->tokens.capacity) {
		list->capacity = list->tokens.capacity;
		list->labelled = must_realloc(list->labelled, list->capacity);
	}
	if (list->marked < list->tokens.count)
		memset(list->labelled + list->marked, labelled, list->tokens.count - list->marked);
	list->marked = list->tokens.count;
}

void labelled_tokens_clear(struct labelled_tokens *list)
{
	list->tokens.count = 0;
	list->marked = 0;
}

void labelled_tokens_fini(struct labelled_tokens *list)
{
	token_list_fini(&list->tokens);
	free(list->labelled);
	*list = (struct labelled_tokens){0};
}

static bool span_is(struct text_span text, const char *word)
{
	return text.size == strlen(word) && memcmp(text.data, word, text.size) == 0;
}

/* ---- rendering ---- */

/* One conversation, being rendered in parts. */
struct rendering {
	const struct chat *chat;
	const struct chat_conversation *of;
	json_t *messages; /* as the template reads them */
	uint64_t steps;   /* left */
	struct fault *fault;
};

/* A role out of the template's own vocabulary is no danger, and templates build control tokens of it. */
static bool is_known_role(struct text_span role)
{
	return span_is(role, "system") || span_is(role, "user") || span_is(role, "assistant") || span_is(role, "tool");
}

static uint8_t mark_of(const void *self, size_t index, const char *key)
{
	const struct rendering *r = self;
	const struct chat_message *m = &r->of->messages[index];
	if (strcmp(key, "role") == 0)
		return is_known_role(m->role) ? JINJA_TEMPLATE : OTHER;
	return m->labelled ? LEARNED : OTHER;
}

static json_t *string_of(struct text_span text)
{
	return json_stringn(text.data != NULL ? text.data : "", text.size);
}

static int add_message(json_t *list, const struct chat_message *m, const json_t *fields, size_t index, struct fault *f)
{
	json_t *message = fields != NULL ? json_copy((json_t *)fields) : json_object();
	json_array_append_new(list, message);
	if (json_object_set_new(message, "role", string_of(m->role)) != 0)
		return fault_set(f, SAKIORI_EFORMAT, "the role of message %zu is not UTF-8", index + 1);
	bool given = m->content.data != NULL || fields == NULL;
	if (given && json_object_set_new(message, "content", string_of(m->content)) != 0)
		return fault_set(f, SAKIORI_EFORMAT, "the content of message %zu is not UTF-8", index + 1);
	return 0;
}

static int rendering_init(
	struct rendering *r, const struct chat *c, const struct chat_conversation *of, struct fault *f)
{
	*r = (struct rendering){.chat = c, .of = of, .messages = json_array(), .steps = MAX_STEPS, .fault = f};
	if (c->template == NULL)
		return fault_set(f, c->why.code, "messages need a chat template: %s", c->why.text);
	int rc = 0;
	for (size_t i = 0; i < of->count && rc == 0; i++)
		rc = add_message(r->messages, &of->messages[i], of->fields != NULL ? of->fields[i] : NULL, i, f);
	return rc;
}

static void rendering_fini(struct rendering *r)
{
	json_decref(r->messages);
}

static void set_variable(json_t *variables, const char *name, json_t *take_value)
{
	json_object_set_new(variables, name, take_value);
}

/* The first `count` messages. On success the caller ends *out. */
static int render(struct rendering *r, size_t count, bool answer, struct jinja_output *out, struct fault *f)
{
	const struct chat *c = r->chat;
	json_t *messages = json_array(), *values = json_object();
	for (size_t i = 0; i < count; i++)
		json_array_append(messages, json_array_get(r->messages, i));
	/* Hugging Face gives these two always */
	set_variable(values, "tools", json_null());
	set_variable(values, "documents", json_null());
	json_object_update(values, (json_t *)r->of->variables);
	size_t foreign = json_object_size(values), room = foreign + 4, n = 0;
	set_variable(values, "messages", messages);
	set_variable(values, "add_generation_prompt", json_boolean(answer));
	if (c->bos != NULL)
		set_variable(values, "bos_token", json_incref(c->bos));
	if (c->eos != NULL)
		set_variable(values, "eos_token", json_incref(c->eos));
	struct jinja_variable *variables = must_calloc(room, sizeof *variables);
	const char *name;
	json_t *value;
	json_object_foreach(values, name, value)
	{
		bool own = value == c->bos || value == c->eos;
		variables[n++] = (struct jinja_variable){.name = name,
			.value = value,
			.mark = own ? JINJA_TEMPLATE : OTHER,
			.mark_of = value == messages ? mark_of : NULL,
			.self = r};
	}
	const struct jinja_limits limits = {.steps = r->steps};
	int rc = jinja_render(c->template, variables, n, &c->now, &limits, out, f);
	if (rc == 0)
		r->steps -= out->steps < r->steps ? out->steps : r->steps - 1;
	free(variables);
	json_decref(values);
	return rc;
}

int chat_render(const struct chat *c, const struct chat_message *messages, size_t count, bool answer, char **text,
	size_t *size, struct fault *f)
{
	const struct chat_conversation of = {.messages = messages, .count = count, .answer = answer};
	struct rendering r;
	struct jinja_output out = {0};
	*text = NULL;
	int rc = rendering_init(&r, c, &of, f);
	if (rc == 0)
		rc = render(&r, count, answer, &out, f);
	if (rc == 0) {
		*text = out.text;
		*size = out.size;
		out.text = NULL;
		jinja_output_fini(&out);
	}
	rendering_fini(&r);
	return rc;
}

/* ---- what is learned ---- */

/* The first control token at or after `at` that the template itself wrote; -1: none. */
static int32_t find_control(
	const struct chat *c, const struct jinja_output *text, size_t at, size_t end, size_t *begin, size_t *after)
{
	while (at < end) {
		int32_t id = tokenizer_find_special(c->tokenizer, text->text, end, at, begin, after);
		if (id < 0)
			break;
		bool own = true;
		for (size_t i = *begin; i < *after; i++)
			own &= text->marks[i] == JINJA_TEMPLATE;
		if (own && tokenizer_is_control(c->tokenizer, id))
			return id;
		/* one that the tokenizer takes out of any text, or no token at all */
		at = tokenizer_is_control(c->tokenizer, id) ? *begin + 1 : *after;
	}
	return -1;
}

static bool begins_with(const struct jinja_output *text, const struct jinja_output *prefix)
{
	return prefix->size <= text->size && memcmp(text->text, prefix->text, prefix->size) == 0;
}

/* Where the bytes that came out of a labelled message begin, at or after `from`; SIZE_MAX: nowhere. */
static size_t first_learned(const struct jinja_output *text, size_t from)
{
	const uint8_t *found = from < text->size ? memchr(text->marks + from, LEARNED, text->size - from) : NULL;
	return found != NULL ? (size_t)(found - text->marks) : SIZE_MAX;
}

/* Where the content of message i, which is empty, would stand: found by giving it one. */
static size_t find_empty(struct rendering *r, size_t i, size_t from, const struct jinja_output *with)
{
	json_t *message = json_copy(json_array_get(r->messages, i)), *was = json_incref(json_array_get(r->messages, i));
	struct jinja_output probe;
	json_object_set_new(message, "content", json_string("x"));
	json_array_set_new(r->messages, i, message);
	size_t at = SIZE_MAX;
	if (render(r, i + 1, false, &probe, NULL) == 0) {
		at = first_learned(&probe, from);
		if (at != SIZE_MAX && (at > with->size || memcmp(probe.text, with->text, at) != 0))
			at = SIZE_MAX;
		jinja_output_fini(&probe);
	}
	json_array_set_new(r->messages, i, was);
	return at;
}

/* Where message i begins in `with`, the text up to and with it: behind what stands there when the assistant is asked to
 * go on; where the template writes that differently, at the first byte out of the message. SIZE_MAX: cannot be told. */
static size_t find_begin(struct rendering *r, size_t i, const struct jinja_output *with)
{
	struct jinja_output before;
	size_t begin = SIZE_MAX;
	if (render(r, i, true, &before, NULL) == 0) {
		if (begins_with(with, &before))
			begin = before.size;
		jinja_output_fini(&before);
	}
	if (begin != SIZE_MAX)
		return begin;
	size_t from = SIZE_MAX;
	if (i == 0) { /* many templates do not like to be given no message at all */
		from = 0;
	} else if (render(r, i, false, &before, NULL) == 0) {
		if (begins_with(with, &before))
			from = before.size;
		jinja_output_fini(&before);
	}
	if (from == SIZE_MAX)
		return SIZE_MAX;
	begin = first_learned(with, from);
	return begin != SIZE_MAX ? begin : find_empty(r, i, from, with);
}

/* Behind the last control token of the turn; the whole turn where there is none. */
static size_t find_end(const struct chat *c, const struct jinja_output *with, size_t begin)
{
	size_t end = with->size, at = begin, token, after;
	while (find_control(c, with, at, with->size, &token, &after) >= 0)
		at = end = after;
	return end;
}

/* By the difference that message i makes; `with` is the text up to and with it. */
static int learn_difference(struct rendering *r, size_t i, const struct jinja_output *with,
	const struct jinja_output *whole, uint8_t *labels)
{
	size_t begin = begins_with(whole, with) ? find_begin(r, i, with) : SIZE_MAX;
	if (begin == SIZE_MAX)
		return fault_set(r->fault, SAKIORI_EUNSUPPORTED,
			"message %zu: the chat template writes it, or what stands before it, otherwise when messages "
			"follow, so "
			"what the assistant says there cannot be told; give a row for each of its turns (\"train\": "
			"false for the "
			"others), or a template with {%% generation %%}",
			i + 1);
	memset(labels + begin, 1, find_end(r->chat, with, begin) - begin);
	return 0;
}

static int learn_message(struct rendering *r, size_t i, const struct jinja_output *whole, uint8_t *labels)
{
	if (i + 1 == r->of->count && !r->of->answer)
		return learn_difference(r, i, whole, whole, labels);
	struct jinja_output with;
	int rc = render(r, i + 1, false, &with, r->fault);
	if (rc != 0) {
		fault_wrap(r->fault, "up to message %zu", i + 1);
		return rc;
	}
	rc = learn_difference(r, i, &with, whole, labels);
	jinja_output_fini(&with);
	return rc;
}

static int learn_by_difference(struct rendering *r, const struct jinja_output *whole, uint8_t *labels)
{
	int rc = 0;
	for (size_t i = 0; i < r->of->count && rc == 0; i++)
		if (r->of->messages[i].labelled)
			rc = learn_message(r, i, whole, labels);
	return rc;
}

/* Whether message number n among the assistant's is labelled. */
static bool is_turn_labelled(const struct chat_conversation *of, size_t n)
{
	for (size_t i = 0; i < of->count; i++)
		if (span_is(of->messages[i].role, "assistant") && n-- == 0)
			return of->messages[i].labelled;
	return false;
}

/* By {% generation %}: a span is its message's, which its bytes tell, or its number where every turn has one span. */
static int learn_by_spans(struct rendering *r, const struct jinja_output *whole, uint8_t *labels)
{
	size_t turns = 0, labelled = 0;
	for (size_t i = 0; i < r->of->count; i++) {
		turns += span_is(r->of->messages[i].role, "assistant");
		labelled += r->of->messages[i].labelled;
	}
	for (size_t n = 0; n < whole->span_count; n++) {
		const struct jinja_span *span = &whole->spans[n];
		bool learned = memchr(whole->marks + span->begin, LEARNED, span->end - span->begin) != NULL;
		bool other = memchr(whole->marks + span->begin, OTHER, span->end - span->begin) != NULL;
		if (labelled == 0 || (other && !learned))
			continue;
		if (learned ? other && labelled < turns : labelled < turns && whole->span_count != turns)
			return fault_set(r->fault, SAKIORI_EUNSUPPORTED,
				"part %zu of what the chat template says is generated belongs to no single message, so "
				"\"train\" "
				"cannot be heeded",
				n + 1);
		if (learned || labelled == turns || is_turn_labelled(r->of, n))
			memset(labels + span->begin, 1, span->end - span->begin);
	}
	return 0;
}

/* ---- tokens ---- */

/* Bytes [at, end), all with one label. */
static int encode_part(const struct chat *c, struct tokenizer_scratch *s, const struct jinja_output *text, size_t at,
	size_t end, struct token_list *out, struct fault *f)
{
	int rc = 0;
	while (at < end && rc == 0) {
		size_t begin = end, after = end;
		int32_t id = find_control(c, text, at, end, &begin, &after);
		if (id < 0)
			begin = after = end;
		rc = tokenizer_encode(c->tokenizer, s, text->text + at, begin - at, 0, out, f);
		if (id >= 0)
			token_list_add(out, id);
		at = after;
	}
	return rc;
}

static int encode_text(const struct chat *c, struct tokenizer_scratch *s, const struct jinja_output *text,
	const uint8_t *labels, struct labelled_tokens *out, struct fault *f)
{
	int32_t bos = tokenizer_bos(c->tokenizer);
	size_t begin, after;
	if (bos >= 0 && !(find_control(c, text, 0, text->size, &begin, &after) == bos && begin == 0))
		token_list_add(&out->tokens, bos);
	labelled_tokens_mark(out, false);
	int rc = 0;
	for (size_t at = 0, end; at < text->size && rc == 0; at = end) {
		for (end = at; end < text->size && labels[end] == labels[at];)
			end++;
		rc = encode_part(c, s, text, at, end, &out->tokens, f);
		labelled_tokens_mark(out, labels[at]);
	}
	return rc;
}

int chat_encode_conversation(const struct chat *c, struct tokenizer_scratch *s, const struct chat_conversation *of,
	struct labelled_tokens *out, struct fault *f)
{
	struct rendering r;
	struct jinja_output whole = {0};
	uint8_t *labels = NULL;
	int rc = rendering_init(&r, c, of, f);
	if (rc == 0)
		rc = render(&r, of->count, of->answer, &whole, f);
	if (rc == 0) {
		labels = must_calloc(whole.size + 1, 1);
		rc = jinja_marks_generation(c->template) ? learn_by_spans(&r, &whole, labels)
							 : learn_by_difference(&r, &whole, labels);
	}
	if (rc == 0)
		rc = encode_text(c, s, &whole, labels, out, f);
	free(labels);
	jinja_output_fini(&whole);
	rendering_fini(&r);
	return rc;
}

int chat_encode(const struct chat *c, struct tokenizer_scratch *s, const struct chat_message *messages, size_t count,
	bool answer, struct labelled_tokens *out, struct fault *f)
{
	const struct chat_conversation of = {.messages = messages, .count = count, .answer = answer};
	return chat_encode_conversation(c, s, &of, out, f);
}
