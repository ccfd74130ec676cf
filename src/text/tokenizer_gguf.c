/* SPDX-License-Identifier: Apache-2.0 */
/* A GGUF file's tokenizer metadata -> a tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

/* An optional text: left {NULL, 0} when the file lacks it. */
static int optional_text(const struct gguf *g, const char *key, struct gguf_text *out, struct fault *f)
{
	return gguf_has(g, key) ? gguf_get_text(g, key, out, f) : 0;
}

/* An optional token id: -1 when the file lacks it. */
static int optional_id(const struct gguf *g, const char *key, int32_t *out, struct fault *f)
{
	*out = -1;
	if (!gguf_has(g, key))
		return 0;
	uint32_t id;
	int rc = gguf_get_u32(g, key, &id, f);
	if (rc == 0 && id > INT32_MAX)
		rc = fault_set(f, SAKIORI_EFORMAT, "%s is %u, which is no token", key, id);
	if (rc == 0)
		*out = (int32_t)id;
	return rc;
}

static int read_scalars(const struct gguf *g, struct tokenizer_source *s, struct fault *f)
{
	int rc = gguf_get_text(g, "tokenizer.ggml.model", &s->model, f);
	if (rc == 0)
		rc = optional_text(g, "tokenizer.ggml.pre", &s->pre, f);
	if (rc == 0)
		rc = optional_text(g, "tokenizer.chat_template", &s->chat_template, f);
	if (rc == 0)
		rc = optional_id(g, "tokenizer.ggml.bos_token_id", &s->bos, f);
	if (rc == 0)
		rc = optional_id(g, "tokenizer.ggml.eos_token_id", &s->eos, f);
	if (rc == 0)
		rc = optional_id(g, "tokenizer.ggml.unknown_token_id", &s->unknown, f);
	if (rc == 0)
		rc = optional_id(g, "tokenizer.ggml.padding_token_id", &s->padding, f);
	/* Llama 3's own tokenizer begins with BOS, and converters leave the key out where that goes without saying. */
	s->add_bos = rc == 0 && s->bos >= 0 && s->pre.size == 9 && !memcmp(s->pre.data, "llama-bpe", 9);
	if (rc == 0 && gguf_has(g, "tokenizer.ggml.add_bos_token"))
		rc = gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &s->add_bos, f);
	return rc;
}

int tokenizer_source_read(struct tokenizer_source *s, const struct gguf *gguf, struct fault *f)
{
	struct gguf_text *tokens = NULL, *merges = NULL;
	int32_t *types = NULL;
	size_t type_count = 0;
	*s = (struct tokenizer_source){0};
	int rc = read_scalars(gguf, s, f);
	if (rc == 0)
		rc = gguf_get_texts(gguf, "tokenizer.ggml.tokens", &tokens, &s->token_count, f);
	/* a tokenizer of another model has no merges: let its name be the complaint */
	if (rc == 0 && gguf_has(gguf, "tokenizer.ggml.merges"))
		rc = gguf_get_texts(gguf, "tokenizer.ggml.merges", &merges, &s->merge_count, f);
	if (rc == 0 && gguf_has(gguf, "tokenizer.ggml.token_type"))
		rc = gguf_get_i32s(gguf, "tokenizer.ggml.token_type", &types, &type_count, f);
	if (rc == 0 && types != NULL && type_count != s->token_count)
		rc = fault_set(f, SAKIORI_EFORMAT, "%zu tokens but %zu token types", s->token_count, type_count);
	s->tokens = tokens;
	s->merges = merges;
	s->token_types = types;
	return rc;
}

void tokenizer_source_fini(struct tokenizer_source *s)
{
	free((void *)s->tokens);
	free((void *)s->merges);
	free((void *)s->token_types);
	*s = (struct tokenizer_source){0};
}

int tokenizer_from_gguf(struct tokenizer **out, const struct gguf *gguf, struct fault *f)
{
	*out = NULL;
	struct tokenizer_source s;
	int rc = tokenizer_source_read(&s, gguf, f);
	if (rc == 0)
		rc = tokenizer_new(out, &s, f);
	tokenizer_source_fini(&s);
	if (rc != 0)
		fault_wrap(f, "%s", gguf_name(gguf));
	return rc;
}
