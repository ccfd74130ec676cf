/* SPDX-License-Identifier: Apache-2.0 */
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* Today one family: ChatML, with or without a system message that is put in where the conversation brings none. */
struct chat {
	const struct tokenizer *tokenizer;
	int32_t start, end; /* <|im_start|>, <|im_end|> */
	char *system;       /* the default system message; NULL: none */
};

#define START "<|im_start|>"
#define END "<|im_end|>"

/* The templates, as their files have them; what stands between PREFIX and MIDDLE is the default system message. */
#define LOOP "{% for message in messages %}"
#define PREFIX LOOP "{% if loop.first and messages[0]['role'] != 'system' %}{{ '" START "system\n"
#define MIDDLE END "\n' }}{% endif %}"
#define TURNS                                                                                                          \
	"{{'" START "' + message['role'] + '\n' + message['content'] + '" END "' + '\n'}}{% endfor %}"                 \
	"{% if add_generation_prompt %}{{ '" START "assistant\n' }}{% endif %}"

/* Some writers keep the line breaks inside Jinja's string literals as \n. The caller frees. */
static char *with_line_breaks(const char *template)
{
	char *copy = must_strdup(template), *out = copy;
	for (const char *p = copy; *p != '\0'; p++) {
		if (p[0] == '\\' && p[1] == 'n') {
			*out++ = '\n';
			p++;
		} else {
			*out++ = *p;
		}
	}
	*out = '\0';
	return copy;
}

/* True for a known template; *system is then its default system message, or NULL. */
static bool recognize(const char *template, char **system)
{
	*system = NULL;
	if (strcmp(template, LOOP TURNS) == 0)
		return true;
	if (strncmp(template, PREFIX, strlen(PREFIX)) != 0)
		return false;
	const char *text = template + strlen(PREFIX);
	const char *rest = strstr(text, MIDDLE);
	if (rest == NULL || strcmp(rest + strlen(MIDDLE), TURNS) != 0)
		return false;
	size_t size = (size_t)(rest - text);
	/* an escape or the end of Jinja's literal: more than a constant */
	if (memchr(text, '\\', size) != NULL || memchr(text, '\'', size) != NULL)
		return false;
	*system = must_alloc(size + 1);
	memcpy(*system, text, size);
	(*system)[size] = '\0';
	return true;
}

int chat_new(struct chat **out, const struct tokenizer *t, struct fault *f)
{
	*out = NULL;
	const char *given = tokenizer_chat_template(t);
	if (given == NULL)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"the model carries no chat template; use prompt and completion rows, or an instruction-tuned "
			"model");
	char *template = with_line_breaks(given), *system;
	bool known = recognize(template, &system);
	free(template);
	if (!known)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"the model's chat template is not one that is known here (ChatML as in SmolLM2); use prompt "
			"and "
			"completion rows");
	int32_t start = tokenizer_special(t, START), end = tokenizer_special(t, END);
	if (start < 0 || end < 0) {
		free(system);
		return fault_set(f, SAKIORI_EFORMAT,
			"the chat template writes " START " and " END
			", but the vocabulary has no such control tokens");
	}
	*out = must_calloc(1, sizeof **out);
	**out = (struct chat){t, start, end, system};
	return 0;
}

void chat_free(struct chat *c)
{
	if (c == NULL)
		return;
	free(c->system);
	free(c);
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

/* The message that the template puts before the conversation; false when it puts none. */
static bool default_system(
	const struct chat *c, const struct chat_message *messages, size_t count, struct chat_message *out)
{
	static const char role[] = "system";
	if (c->system == NULL || count == 0 ||
		(messages[0].role.size == strlen(role) && memcmp(messages[0].role.data, role, strlen(role)) == 0))
		return false;
	*out = (struct chat_message){{role, strlen(role)}, {c->system, strlen(c->system)}, false};
	return true;
}

static void write_span(struct writer *w, struct text_span text)
{
	if (text.size > 0)
		write_bytes(w, text.data, text.size);
}

static int encode_message(const struct chat *c, struct tokenizer_scratch *s, const struct chat_message *m,
	struct writer *text, struct labelled_tokens *out, struct fault *f)
{
	text->size = 0;
	write_span(text, m->role);
	write_u8(text, '\n');
	if (!m->labelled)
		write_span(text, m->content);
	token_list_add(&out->tokens, c->start);
	int rc = tokenizer_encode(c->tokenizer, s, (const char *)text->data, text->size, 0, &out->tokens, f);
	labelled_tokens_mark(out, false);
	if (rc == 0 && m->labelled)
		rc = tokenizer_encode(c->tokenizer, s, m->content.data, m->content.size, 0, &out->tokens, f);
	if (rc != 0)
		return rc;
	token_list_add(&out->tokens, c->end);
	labelled_tokens_mark(out, m->labelled);
	rc = tokenizer_encode(c->tokenizer, s, "\n", 1, 0, &out->tokens, f);
	labelled_tokens_mark(out, false);
	return rc;
}

int chat_encode(const struct chat *c, struct tokenizer_scratch *s, const struct chat_message *messages, size_t count,
	bool answer, struct labelled_tokens *out, struct fault *f)
{
	struct writer text;
	writer_init(&text);
	struct chat_message first;
	int rc = 0;
	if (tokenizer_bos(c->tokenizer) >= 0)
		token_list_add(&out->tokens, tokenizer_bos(c->tokenizer));
	if (default_system(c, messages, count, &first))
		rc = encode_message(c, s, &first, &text, out, f);
	for (size_t i = 0; i < count && rc == 0; i++)
		rc = encode_message(c, s, &messages[i], &text, out, f);
	if (rc == 0 && answer) {
		static const char header[] = "assistant\n";
		token_list_add(&out->tokens, c->start);
		rc = tokenizer_encode(c->tokenizer, s, header, strlen(header), 0, &out->tokens, f);
	}
	labelled_tokens_mark(out, false);
	writer_fini(&text);
	return rc;
}

static void render_message(struct writer *w, const struct chat_message *m)
{
	write_bytes(w, START, strlen(START));
	write_span(w, m->role);
	write_u8(w, '\n');
	write_span(w, m->content);
	write_bytes(w, END "\n", strlen(END "\n"));
}

void chat_render(
	const struct chat *c, const struct chat_message *messages, size_t count, bool answer, char **text, size_t *size)
{
	struct writer w;
	writer_init(&w);
	struct chat_message first;
	if (default_system(c, messages, count, &first))
		render_message(&w, &first);
	for (size_t i = 0; i < count; i++)
		render_message(&w, &messages[i]);
	if (answer)
		write_bytes(&w, START "assistant\n", strlen(START "assistant\n"));
	*size = w.size;
	write_u8(&w, 0);
	*text = (char *)w.data;
}
