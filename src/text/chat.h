/* SPDX-License-Identifier: Apache-2.0 */
/* Conversations -> text and tokens, the way the model's own chat template writes them, with an exact mask of what the
 * assistant said. The template is run by text/jinja.h. Any thread. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"

struct chat_message {
	struct text_span role; /* "system", "user", "assistant", "tool" */
	struct text_span content;
	bool labelled; /* the loss counts this message's content and the token that ends the turn */
};

struct chat;

/* Compiles the tokenizer's template; the chat borrows t and must go first. strftime_now in a template gives the time of
 * this call. SAKIORI_EUNSUPPORTED where the model has no template, or one that says what is not supported;
 * SAKIORI_EFORMAT or SAKIORI_ELIMIT for one that is broken or too large. On success the caller owns *out. */
int chat_new(struct chat **out, const struct tokenizer *t, struct fault *f);
/* A chat that refuses every conversation for this reason, so that it is said where a row needs a template. */
struct chat *chat_refusing(const struct fault *why);
void chat_free(struct chat *c);
/* Digest of all that decides which tokens a conversation becomes, beside the tokenizer. */
void chat_identity(const struct chat *c, uint8_t out[static HASH_SIZE]);

/* Tokens with one flag each: 1 where the token itself is to be learned. Zero it before the first use. */
struct labelled_tokens {
	struct token_list tokens;
	uint8_t *labelled; /* (tokens.count), once marked */
	size_t marked;
	size_t capacity;
};
/* Gives every token that was appended to list->tokens since the last call this flag. */
void labelled_tokens_mark(struct labelled_tokens *list, bool labelled);
/* Empties the list and keeps its memory. */
void labelled_tokens_clear(struct labelled_tokens *list);
void labelled_tokens_fini(struct labelled_tokens *list);

/* A conversation as a template sees it; all borrowed. */
struct chat_conversation {
	const struct chat_message *messages;
	size_t count;
	bool answer; /* the assistant's header follows, ready for the model to go on */
	/* (count) what else a template may read of each message: objects with tool_calls, name, ..., or NULL; their role, and
	 * their content where the message brings one, are put in their place. NULL: nothing. */
	const json_t *const *fields;
	const json_t
		*variables; /* an object of what the template may read beside the messages: tools, ...; NULL: nothing */
};

/* Appends the conversation, BOS first where the tokenizer asks for it and the template does not write it. Roles (but
 * for the four above) and contents never turn into control tokens, wherever the template puts them.
 *
 * What is learned of a labelled message is what the template has inside {% generation %}; in a template without, what
 * the message adds to the text behind the header of its turn, up to the last control token. A template whose text
 * changes when more messages follow has no such difference and is refused (SAKIORI_EUNSUPPORTED). What is learned is
 * tokenized apart from what stands before it, as it comes out when the model generates it, so that no token belongs
 * half to the mask. *out is undefined after a failure. */
int chat_encode_conversation(const struct chat *c, struct tokenizer_scratch *s, const struct chat_conversation *of,
	struct labelled_tokens *out, struct fault *f);
/* The same of messages alone. */
int chat_encode(const struct chat *c, struct tokenizer_scratch *s, const struct chat_message *messages, size_t count,
	bool answer, struct labelled_tokens *out, struct fault *f);

/* The same as text, what Hugging Face's template would render; the caller frees *text (NUL-terminated). */
int chat_render(const struct chat *c, const struct chat_message *messages, size_t count, bool answer, char **text,
	size_t *size, struct fault *f);
