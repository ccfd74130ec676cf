/* SPDX-License-Identifier: Apache-2.0 */
/* Conversations -> text and tokens, the way the model's own chat template writes them, with an exact mask of what the
 * assistant said. The template is recognized, not interpreted; one that is not known is refused. Any thread. */
#pragma once
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

/* Recognizes the tokenizer's template; the chat borrows t and must go first. SAKIORI_EUNSUPPORTED where the model has
 * no template, or one that is not known. On success the caller owns *out. */
int chat_new(struct chat **out, const struct tokenizer *t, struct fault *f);
void chat_free(struct chat *c);

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

/* Appends the conversation. With `answer` set the assistant's header follows, ready for the model to go on. Roles and
 * contents never turn into control tokens. A labelled content is tokenized apart from the header before it, as it comes
 * out when the model generates it, so that no token belongs half to the mask. *out is undefined after a failure. */
int chat_encode(const struct chat *c, struct tokenizer_scratch *s, const struct chat_message *messages, size_t count,
	bool answer, struct labelled_tokens *out, struct fault *f);

/* The same as text, what Hugging Face's template would render; the caller frees *text (NUL-terminated). */
void chat_render(const struct chat *c, const struct chat_message *messages, size_t count, bool answer, char **text,
	size_t *size);
