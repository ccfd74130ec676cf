/* SPDX-License-Identifier: Apache-2.0 */
#include "text/row.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "formats/json.h"

/* The messages of one row. Texts that had to be put together are owned here, the others stay in the JSON. */
struct conversation {
	struct chat_message *messages;
	const json_t **fields; /* (count) the message's object, or NULL */
	size_t count, capacity;
	json_t *variables; /* what the template may read beside; NULL: nothing */
	char **owned;
	size_t owned_count;
};

static void conversation_fini(struct conversation *c)
{
	for (size_t i = 0; i < c->owned_count; i++)
		free(c->owned[i]);
	free(c->owned);
	free(c->messages);
	free(c->fields);
	json_decref(c->variables);
}

static void add_message(struct conversation *c, const char *role, struct text_span content, bool labelled)
{
	if (c->count == c->capacity) {
		c->capacity = c->capacity == 0 ? 8 : 2 * c->capacity;
		c->messages = must_realloc(c->messages, c->capacity * sizeof *c->messages);
		c->fields = must_realloc(c->fields, c->capacity * sizeof *c->fields);
	}
	c->fields[c->count] = NULL;
	c->messages[c->count++] = (struct chat_message){{role, strlen(role)}, content, labelled};
}

static struct text_span own_text(struct conversation *c, struct writer *take_text)
{
	c->owned = must_realloc(c->owned, (c->owned_count + 1) * sizeof *c->owned);
	c->owned[c->owned_count++] = (char *)take_text->data;
	return (struct text_span){(const char *)take_text->data, take_text->size};
}

static struct text_span span_of(const json_t *string)
{
	return (struct text_span){json_string_value(string), json_string_length(string)};
}

static int want_span(const json_t *object, const char *key, struct text_span *out, struct fault *f)
{
	const char *text;
	*out = (struct text_span){NULL, 0};
	int rc = json_want_text(object, key, &text, f);
	if (rc == 0)
		*out = span_of(json_object_get(object, key));
	return rc;
}

/* The names that data sets give to the three speakers, and to a tool's answer. */
static const char *known_role(struct text_span name)
{
	static const struct {
		const char *name, *role;
	} roles[] = {{"system", "system"}, {"user", "user"}, {"human", "user"}, {"assistant", "assistant"},
		{"gpt", "assistant"}, {"function_call", "assistant"}, {"tool", "tool"}, {"observation", "tool"}};
	for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
		if (name.size == strlen(roles[i].name) && memcmp(name.data, roles[i].name, name.size) == 0)
			return roles[i].role;
	return NULL;
}

/* A message's content: a string, or a list of {"type": "text", "text": ...} parts, which are joined. A turn that calls
 * tools may have none. */
static int read_content(
	struct conversation *c, const json_t *message, const char *key, struct text_span *out, struct fault *f)
{
	const json_t *content = json_object_get(message, key), *part;
	if (!json_is_set(message, key) && json_is_array(json_object_get(message, "tool_calls")))
		return 0;
	if (!json_is_array(content))
		return want_span(message, key, out, f);
	struct writer text;
	writer_init(&text);
	size_t i;
	json_array_foreach(content, i, part)
	{
		struct text_span piece = {NULL, 0};
		int rc = json_is_object(part) ? want_span(part, "text", &piece, f)
					      : fault_set(f, SAKIORI_EFORMAT,
							"part %zu of \"%s\" is %s, expected an object with \"text\"",
							i + 1, key, json_kind(part));
		if (rc != 0) {
			writer_fini(&text);
			return rc;
		}
		if (piece.size > 0)
			write_bytes(&text, piece.data, piece.size);
	}
	*out = own_text(c, &text);
	if (out->data == NULL) /* no part, but content all the same */
		out->data = "";
	return 0;
}

/* An assistant's turn may say itself whether it is learned: "train": true or false. */
static int read_train(const json_t *message, bool assistant, bool *labelled, struct fault *f)
{
	const json_t *train = json_object_get(message, "train");
	if (train == NULL || json_is_null(train))
		return 0;
	if (!json_is_boolean(train))
		return fault_set(f, SAKIORI_EFORMAT, "\"train\" is %s, expected true or false", json_kind(train));
	if (json_is_true(train) && !assistant)
		return fault_set(f, SAKIORI_EFORMAT, "\"train\" is true, but only an assistant's words are learned");
	*labelled = json_is_true(train);
	return 0;
}

/* Appends a list of messages; assistant turns are labelled where `labelled` says so, or they themselves. */
static int add_messages(struct conversation *c, const json_t *list, const char *role_key, const char *content_key,
	bool labelled, struct fault *f)
{
	size_t i;
	const json_t *message;
	json_array_foreach(list, i, message)
	{
		if (!json_is_object(message))
			return fault_set(
				f, SAKIORI_EFORMAT, "message %zu is %s, expected an object", i + 1, json_kind(message));
		struct text_span name, content = {NULL, 0};
		int rc = want_span(message, role_key, &name, f);
		if (rc == 0)
			rc = read_content(c, message, content_key, &content, f);
		if (rc != 0) {
			fault_wrap(f, "message %zu", i + 1);
			return rc;
		}
		const char *role = known_role(name);
		if (role == NULL)
			return fault_set(f, SAKIORI_EFORMAT,
				"message %zu: expected \"%s\" to be system, user, assistant or tool (or ShareGPT's "
				"human, gpt, "
				"function_call, observation), found another",
				i + 1, role_key);
		bool assistant = strcmp(role, "assistant") == 0, learned = labelled && assistant;
		rc = read_train(message, assistant, &learned, f);
		if (rc != 0) {
			fault_wrap(f, "message %zu", i + 1);
			return rc;
		}
		add_message(c, role, content, learned);
		c->fields[c->count - 1] = message;
	}
	return 0;
}

/* "tools", "documents", and all of "chat_template_kwargs", are the template's. */
static int read_variables(struct conversation *c, const json_t *row, struct fault *f)
{
	static const char *const lists[] = {"tools", "documents"};
	c->variables = json_object();
	if (json_is_set(row, "chat_template_kwargs")) {
		const json_t *more;
		int rc = json_want_object(row, "chat_template_kwargs", &more, f);
		if (rc != 0)
			return rc;
		json_object_update(c->variables, (json_t *)more);
	}
	for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
		const json_t *list;
		if (!json_is_set(row, lists[i]))
			continue;
		int rc = json_want_array(row, lists[i], &list, f);
		if (rc != 0)
			return rc;
		json_object_set(c->variables, lists[i], (json_t *)list);
	}
	return 0;
}

static int encode_conversation(
	const struct row_encoder *e, const struct conversation *c, struct labelled_tokens *out, struct fault *f)
{
	if (e->chat == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"a row of messages needs a chat template, and the model has none, or one that is not "
			"supported; use "
			"prompt and completion");
	if (c->count == 0)
		return fault_set(f, SAKIORI_EFORMAT, "expected at least one message, found none");
	const struct chat_conversation of = {
		.messages = c->messages, .count = c->count, .fields = c->fields, .variables = c->variables};
	return chat_encode_conversation(e->chat, e->scratch, &of, out, f);
}

static int encode_messages(const struct row_encoder *e, const json_t *row, const char *key, const char *role_key,
	const char *content_key, struct labelled_tokens *out, struct fault *f)
{
	const json_t *list;
	int rc = json_want_array(row, key, &list, f);
	if (rc != 0)
		return rc;
	struct conversation c = {0};
	rc = add_messages(&c, list, role_key, content_key, true, f);
	if (rc == 0)
		rc = read_variables(&c, row, f);
	if (rc == 0)
		rc = encode_conversation(e, &c, out, f);
	conversation_fini(&c);
	return rc;
}

static struct text_span join_lines(struct conversation *c, struct text_span first, struct text_span second)
{
	struct writer text;
	writer_init(&text);
	write_bytes(&text, first.data, first.size);
	write_u8(&text, '\n');
	write_bytes(&text, second.data, second.size);
	return own_text(c, &text);
}

/* Alpaca's earlier turns: [[question, answer], ...]. They are context, so nothing in them is labelled. */
static int add_history(struct conversation *c, const json_t *row, struct fault *f)
{
	if (!json_is_set(row, "history"))
		return 0;
	const json_t *history, *pair;
	int rc = json_want_array(row, "history", &history, f);
	if (rc != 0)
		return rc;
	size_t i;
	json_array_foreach(history, i, pair)
	{
		const json_t *question = json_array_get(pair, 0), *answer = json_array_get(pair, 1);
		if (json_array_size(pair) != 2 || !json_is_string(question) || !json_is_string(answer))
			return fault_set(
				f, SAKIORI_EFORMAT, "item %zu of \"history\" is not a list of two strings", i + 1);
		add_message(c, "user", span_of(question), false);
		add_message(c, "assistant", span_of(answer), false);
	}
	return 0;
}

static int add_alpaca(struct conversation *c, const json_t *row, struct fault *f)
{
	struct text_span system = {0}, instruction, input = {0}, output;
	int rc = want_span(row, "instruction", &instruction, f);
	if (rc == 0)
		rc = want_span(row, "output", &output, f);
	if (rc == 0 && json_is_set(row, "input"))
		rc = want_span(row, "input", &input, f);
	if (rc == 0 && json_is_set(row, "system"))
		rc = want_span(row, "system", &system, f);
	if (rc != 0)
		return rc;
	if (system.size > 0)
		add_message(c, "system", system, false);
	rc = add_history(c, row, f);
	if (rc != 0)
		return rc;
	if (input.size > 0)
		instruction = join_lines(c, instruction, input);
	add_message(c, "user", instruction, false);
	add_message(c, "assistant", output, true);
	return 0;
}

static int encode_alpaca(const struct row_encoder *e, const json_t *row, struct labelled_tokens *out, struct fault *f)
{
	struct conversation c = {0};
	int rc = add_alpaca(&c, row, f);
	if (rc == 0)
		rc = encode_conversation(e, &c, out, f);
	conversation_fini(&c);
	return rc;
}

static int add_text(const struct row_encoder *e, struct text_span text, struct labelled_tokens *out, struct fault *f)
{
	return tokenizer_encode(e->tokenizer, e->scratch, text.data, text.size, 0, &out->tokens, f);
}

/* BOS where the tokenizer asks for it, context, what is learned, EOS. */
static int encode_parts(const struct row_encoder *e, struct text_span context, struct text_span learned,
	struct labelled_tokens *out, struct fault *f)
{
	if (tokenizer_eos(e->tokenizer) < 0)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"the model names no end-of-sequence token, so a row's end cannot be learned; use messages");
	if (tokenizer_bos(e->tokenizer) >= 0)
		token_list_add(&out->tokens, tokenizer_bos(e->tokenizer));
	int rc = add_text(e, context, out, f);
	labelled_tokens_mark(out, false);
	if (rc == 0)
		rc = add_text(e, learned, out, f);
	token_list_add(&out->tokens, tokenizer_eos(e->tokenizer));
	labelled_tokens_mark(out, true);
	return rc;
}

static int encode_completion(
	const struct row_encoder *e, const json_t *row, struct labelled_tokens *out, struct fault *f)
{
	const json_t *prompt = json_object_get(row, "prompt"), *completion = json_object_get(row, "completion");
	if (json_is_array(prompt) && json_is_array(completion)) {
		struct conversation c = {0};
		int rc = add_messages(&c, prompt, "role", "content", false, f);
		if (rc == 0)
			rc = add_messages(&c, completion, "role", "content", true, f);
		if (rc == 0)
			rc = read_variables(&c, row, f);
		if (rc == 0)
			rc = encode_conversation(e, &c, out, f);
		conversation_fini(&c);
		return rc;
	}
	if (!json_is_string(prompt) || !json_is_string(completion))
		return fault_set(f, SAKIORI_EFORMAT,
			"expected \"prompt\" and \"completion\" to be two strings or two lists of messages, found %s "
			"and %s",
			json_kind(prompt), json_kind(completion));
	return encode_parts(e, span_of(prompt), span_of(completion), out, f);
}

#define IGNORED (-100) /* in "labels", as Hugging Face has it */

/* Tokens of somebody else's making, taken as they are: nothing is added, not even EOS. Without "labels" all are learned. */
static int encode_tokens(const struct row_encoder *e, const json_t *row, struct labelled_tokens *out, struct fault *f)
{
	const json_t *ids, *labels = NULL, *id;
	int rc = json_want_array(row, "input_ids", &ids, f);
	if (rc == 0 && json_is_set(row, "labels"))
		rc = json_want_array(row, "labels", &labels, f);
	if (rc != 0)
		return rc;
	if (json_array_size(ids) == 0)
		return fault_set(f, SAKIORI_EFORMAT, "\"input_ids\" is empty");
	if (labels != NULL && json_array_size(labels) != json_array_size(ids))
		return fault_set(f, SAKIORI_EFORMAT, "%zu \"labels\" for %zu \"input_ids\"", json_array_size(labels),
			json_array_size(ids));
	size_t i;
	json_array_foreach(ids, i, id)
	{
		const json_t *label = labels != NULL ? json_array_get(labels, i) : id;
		if (!json_is_integer(id) || json_integer_value(id) < 0 ||
			(uint64_t)json_integer_value(id) >= e->vocabulary)
			return fault_set(f, SAKIORI_EFORMAT,
				"item %zu of \"input_ids\" is no token of this model, which has %zu", i + 1,
				e->vocabulary);
		bool ignored = json_is_integer(label) && json_integer_value(label) == IGNORED;
		if (!ignored && !json_equal(label, id))
			return fault_set(f, SAKIORI_EFORMAT,
				"item %zu of \"labels\" is neither %d nor the token in its place (labels are not "
				"shifted)",
				i + 1, IGNORED);
		token_list_add(&out->tokens, (int32_t)json_integer_value(id));
		labelled_tokens_mark(out, !ignored);
	}
	return 0;
}

int row_encode(const struct row_encoder *e, const json_t *row, struct labelled_tokens *out, struct fault *f)
{
	if (e->tokenizer == NULL && json_object_get(row, "input_ids") == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"expected \"input_ids\", since the model brings no tokenizer (a folder needs a tokenizer.json "
			"for text)");
	if (e->tokenizer == NULL)
		return encode_tokens(e, row, out, f);
	if (json_object_get(row, "messages") != NULL)
		return encode_messages(e, row, "messages", "role", "content", out, f);
	if (json_object_get(row, "conversations") != NULL)
		return encode_messages(e, row, "conversations", "from", "value", out, f);
	if (json_object_get(row, "prompt") != NULL || json_object_get(row, "completion") != NULL)
		return encode_completion(e, row, out, f);
	if (json_object_get(row, "instruction") != NULL)
		return encode_alpaca(e, row, out, f);
	if (json_object_get(row, "input_ids") != NULL)
		return encode_tokens(e, row, out, f);
	if (json_object_get(row, "text") == NULL)
		return fault_set(f, SAKIORI_EFORMAT,
			"expected \"text\", \"prompt\" and \"completion\", \"messages\", \"conversations\", "
			"\"instruction\" and \"output\", or \"input_ids\", found none of them");
	struct text_span text;
	int rc = want_span(row, "text", &text, f);
	return rc != 0 ? rc : encode_parts(e, (struct text_span){"", 0}, text, out, f);
}

int row_encode_flat(
	const struct row_encoder *e, const struct flat_row *row, struct labelled_tokens *out, struct fault *f)
{
	const struct text_span none = {"", 0};
	return encode_parts(e, row->prompt.data != NULL ? row->prompt : none, row->learned, out, f);
}
