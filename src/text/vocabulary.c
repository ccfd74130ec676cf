/* SPDX-License-Identifier: Apache-2.0 */
#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

/* All tokens' bytes together; no vocabulary in use has a fiftieth of it. */
enum { BYTES_LIMIT = 256 << 20 };

int vocabulary_init(struct vocabulary *v, const struct decoder *d, const struct gguf_text *tokens, const int32_t *types,
	size_t count, struct fault *f)
{
	*v = (struct vocabulary){.count = count};
	v->starts = must_calloc(count + 1, sizeof *v->starts);
	v->types = must_calloc(count, sizeof *v->types);
	struct regex_scratch *regex = regex_scratch_new();
	int rc = 0;
	for (size_t i = 0; i < count && rc == 0; i++) {
		int32_t type = types != NULL ? types[i] : TOKEN_NORMAL;
		if (type < TOKEN_NORMAL || type > TOKEN_BYTE) {
			rc = fault_set(f, SAKIORI_EFORMAT, "token %zu is of type %d; expected 1 to 6", i, type);
			break;
		}
		v->types[i] = (uint8_t)type;
		struct text_span text = {tokens[i].data, tokens[i].size};
		if (text.size > BYTES_LIMIT)
			rc = SAKIORI_ELIMIT;
		else
			rc = decoder_token(d, regex, text, type, &v->bytes, f);
		if (rc != 0 || v->bytes.size > BYTES_LIMIT)
			rc = fault_set(f, SAKIORI_ELIMIT, "the tokens' texts, up to number %zu, are over %d MiB", i,
				BYTES_LIMIT >> 20);
		else
			v->starts[i + 1] = (uint32_t)v->bytes.size;
	}
	write_u8(&v->bytes, 0); /* an empty vocabulary has an address too */
	regex_scratch_free(regex);
	return rc;
}

void vocabulary_fini(struct vocabulary *v)
{
	writer_fini(&v->bytes);
	free(v->starts);
	free(v->types);
	*v = (struct vocabulary){0};
}

struct text_span vocabulary_token(const struct vocabulary *v, int32_t id)
{
	if (id < 0 || (size_t)id >= v->count)
		return (struct text_span){NULL, 0};
	return (struct text_span){(const char *)v->bytes.data + v->starts[id], v->starts[id + 1] - v->starts[id]};
}

enum tokenizer_token_type vocabulary_type(const struct vocabulary *v, int32_t id)
{
	return id < 0 || (size_t)id >= v->count ? TOKEN_UNKNOWN : (enum tokenizer_token_type)v->types[id];
}

bool vocabulary_is_control(const struct vocabulary *v, int32_t id)
{
	enum tokenizer_token_type type = vocabulary_type(v, id);
	return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN;
}

size_t vocabulary_hash(const char *data, size_t size)
{
	uint64_t hash = 0xcbf29ce484222325u;
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ (uint8_t)data[i]) * 0x100000001b3u;
	return (size_t)(hash ^ (hash >> 32));
}

/* The slot that holds this text's token, or the empty one where it belongs. */
static int32_t *slot_of(const struct vocabulary_index *index, const char *data, size_t size)
{
	size_t i = vocabulary_hash(data, size) & index->slot_mask;
	for (; index->slots[i] >= 0; i = (i + 1) & index->slot_mask) {
		struct gguf_text held = index->tokens[index->slots[i]];
		if (held.size == size && memcmp(held.data, data, size) == 0)
			break;
	}
	return &index->slots[i];
}

void vocabulary_index_init(struct vocabulary_index *index, const struct gguf_text *tokens, size_t count)
{
	size_t slots = 16;
	while (slots < 2 * count)
		slots *= 2;
	*index = (struct vocabulary_index){.tokens = tokens, .slot_mask = slots - 1};
	index->slots = must_alloc(slots * sizeof *index->slots);
	for (size_t i = 0; i < slots; i++)
		index->slots[i] = -1;
	for (size_t i = 0; i < count; i++)
		if (tokens[i].size > 0)
			*slot_of(index, tokens[i].data, tokens[i].size) = (int32_t)i;
}

void vocabulary_index_fini(struct vocabulary_index *index)
{
	free(index->slots);
	writer_fini(&index->joined);
}

int32_t vocabulary_index_find(const struct vocabulary_index *index, const char *text, size_t size)
{
	return size > 0 ? *slot_of(index, text, size) : -1;
}

int32_t vocabulary_index_pair(struct vocabulary_index *index, struct text_span left, struct text_span right)
{
	index->joined.size = 0;
	write_bytes(&index->joined, left.data, left.size);
	write_bytes(&index->joined, right.data, right.size);
	return vocabulary_index_find(index, (const char *)index->joined.data, index->joined.size);
}
