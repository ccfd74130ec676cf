/* SPDX-License-Identifier: Apache-2.0 */
#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* A file with more is refused: each is compared at every place where its first byte stands. */
enum { SPECIAL_LIMIT = 4096 };

/* GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onwards, in order. */
static bool stands_for_itself(unsigned byte)
{
	return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

enum { ALPHABET_END = 256 + 68 };

/* alphabet[code point] = byte, -1 for what is no letter of it */
static void fill_alphabet(int16_t alphabet[static ALPHABET_END])
{
	for (int c = 0; c < ALPHABET_END; c++)
		alphabet[c] = -1;
	int next = 256;
	for (int byte = 0; byte < 256; byte++)
		alphabet[stands_for_itself((unsigned)byte) ? byte : next++] = (int16_t)byte;
}

/* Writes the token's bytes to out, which has room for text.size. A text with a letter outside the alphabet stays as it
 * is, as Hugging Face's decoder leaves it. */
static size_t token_bytes(const int16_t alphabet[static ALPHABET_END], struct gguf_text text, char *out)
{
	size_t n = 0;
	for (size_t i = 0; i < text.size;) {
		/* the alphabet ends below U+0800: at most two bytes of UTF-8 a letter */
		unsigned c = (uint8_t)text.data[i++];
		if (c >= 0xc0 && c < 0xe0 && i < text.size && ((uint8_t)text.data[i] & 0xc0) == 0x80)
			c = (c & 0x1f) << 6 | ((uint8_t)text.data[i++] & 0x3f);
		else if (c >= 0x80)
			c = ALPHABET_END;
		if (c >= ALPHABET_END || alphabet[c] < 0) {
			if (text.size > 0)
				memcpy(out, text.data, text.size);
			return text.size;
		}
		out[n++] = (char)alphabet[c];
	}
	return n;
}

static bool is_special(uint8_t type)
{
	return type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED;
}

static int compare_specials(const void *a, const void *b, void *vocabulary)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
	size_t size_x = vocabulary_token(vocabulary, x).size, size_y = vocabulary_token(vocabulary, y).size;
	if (size_x != size_y)
		return size_x > size_y ? -1 : 1;
	return x < y ? -1 : x > y;
}

static int collect_specials(struct vocabulary *v, struct fault *f)
{
	for (size_t i = 0; i < v->count; i++)
		v->special_count += is_special(v->types[i]) && v->starts[i + 1] > v->starts[i];
	if (v->special_count > SPECIAL_LIMIT)
		return fault_set(f, SAKIORI_ELIMIT, "%zu control and user-defined tokens; at most %d are supported",
			v->special_count, SPECIAL_LIMIT);
	v->specials = must_calloc(v->special_count + 1, sizeof *v->specials);
	size_t n = 0;
	for (size_t i = 0; i < v->count; i++) {
		if (!is_special(v->types[i]) || v->starts[i + 1] == v->starts[i])
			continue;
		v->specials[n++] = (int32_t)i;
		v->special_start[(uint8_t)v->bytes[v->starts[i]]] = true;
	}
	qsort_r(v->specials, n, sizeof *v->specials, compare_specials, v);
	return 0;
}

int vocabulary_init(struct vocabulary *v, const struct tokenizer_source *source, struct fault *f)
{
	*v = (struct vocabulary){.count = source->token_count};
	size_t total = 0;
	for (size_t i = 0; i < v->count; i++)
		if (!size_add(total, source->tokens[i].size, &total) || total > UINT32_MAX)
			return fault_set(f, SAKIORI_ELIMIT, "the tokens' texts are over 4 GiB");
	v->bytes = malloc(total + 1);
	if (v->bytes == NULL)
		return fault_set(f, SAKIORI_ENOMEM, "out of memory for %zu bytes of tokens", total);
	v->starts = must_calloc(v->count + 1, sizeof *v->starts);
	v->types = must_calloc(v->count, sizeof *v->types);
	int16_t alphabet[ALPHABET_END];
	fill_alphabet(alphabet);
	for (size_t i = 0; i < v->count; i++) {
		int32_t type = source->token_types != NULL ? source->token_types[i] : TOKEN_NORMAL;
		if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
			return fault_set(f, SAKIORI_EFORMAT, "token %zu is of type %d; expected 1 to 6", i, type);
		v->types[i] = (uint8_t)type;
		struct gguf_text text = source->tokens[i];
		char *at = v->bytes + v->starts[i];
		size_t n = text.size;
		if (type == TOKEN_NORMAL)
			n = token_bytes(alphabet, text, at);
		else if (n > 0)
			memcpy(at, text.data, n);
		v->starts[i + 1] = v->starts[i] + (uint32_t)n;
	}
	return collect_specials(v, f);
}

static size_t hash_text(const char *data, size_t size)
{
	uint64_t hash = 0xcbf29ce484222325u;
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ (uint8_t)data[i]) * 0x100000001b3u;
	return (size_t)(hash ^ (hash >> 32));
}

/* The slot of the token of these bytes, or the empty one where it belongs. */
static int32_t *word_slot(const struct vocabulary *v, const char *word, size_t size)
{
	size_t i = hash_text(word, size) & v->word_mask;
	for (; v->words[i] >= 0; i = (i + 1) & v->word_mask) {
		struct text_span held = vocabulary_token(v, v->words[i]);
		if (held.size == size && memcmp(held.data, word, size) == 0)
			break;
	}
	return &v->words[i];
}

void vocabulary_index_words(struct vocabulary *v)
{
	size_t slots = 16;
	while (slots < 2 * v->count)
		slots *= 2;
	v->word_mask = slots - 1;
	v->words = must_alloc(slots * sizeof *v->words);
	for (size_t i = 0; i < slots; i++)
		v->words[i] = -1;
	for (size_t i = 0; i < v->count; i++) {
		struct text_span token = vocabulary_token(v, (int32_t)i);
		if (v->types[i] == TOKEN_NORMAL && token.size > 0)
			*word_slot(v, token.data, token.size) = (int32_t)i;
	}
}

int32_t vocabulary_word(const struct vocabulary *v, const char *word, size_t size)
{
	return size > 0 ? *word_slot(v, word, size) : -1;
}

void vocabulary_fini(struct vocabulary *v)
{
	free(v->bytes);
	free(v->starts);
	free(v->types);
	free(v->specials);
	free(v->words);
	*v = (struct vocabulary){0};
}

struct text_span vocabulary_token(const struct vocabulary *v, int32_t id)
{
	if (id < 0 || (size_t)id >= v->count)
		return (struct text_span){NULL, 0};
	return (struct text_span){v->bytes + v->starts[id], v->starts[id + 1] - v->starts[id]};
}

enum tokenizer_token_type vocabulary_type(const struct vocabulary *v, int32_t id)
{
	return id < 0 || (size_t)id >= v->count ? TOKEN_UNKNOWN : (enum tokenizer_token_type)v->types[id];
}

int32_t vocabulary_special(const struct vocabulary *v, const char *name)
{
	size_t size = strlen(name);
	for (size_t i = 0; i < v->special_count; i++) {
		struct text_span token = vocabulary_token(v, v->specials[i]);
		if (token.size == size && memcmp(token.data, name, size) == 0)
			return v->specials[i];
	}
	return -1;
}

int32_t vocabulary_find_special(
	const struct vocabulary *v, const char *text, size_t size, size_t at, bool control, size_t *begin, size_t *end)
{
	for (; at < size; at++) {
		if (!v->special_start[(uint8_t)text[at]])
			continue;
		for (size_t i = 0; i < v->special_count; i++) {
			int32_t id = v->specials[i];
			struct text_span token = vocabulary_token(v, id);
			if ((v->types[id] == TOKEN_CONTROL && !control) || token.size > size - at ||
				memcmp(token.data, text + at, token.size) != 0)
				continue;
			*begin = at;
			*end = at + token.size;
			return id;
		}
	}
	return -1;
}

/* The slot that holds this text's token, or the empty one where it belongs. */
static int32_t *slot_of(const struct vocabulary_index *index, const char *data, size_t size)
{
	size_t i = hash_text(data, size) & index->slot_mask;
	for (; index->slots[i] >= 0; i = (i + 1) & index->slot_mask) {
		struct gguf_text held = index->source->tokens[index->slots[i]];
		if (held.size == size && memcmp(held.data, data, size) == 0)
			break;
	}
	return &index->slots[i];
}

void vocabulary_index_init(struct vocabulary_index *index, const struct tokenizer_source *source)
{
	size_t slots = 16, longest = 0;
	while (slots < 2 * source->token_count)
		slots *= 2;
	*index = (struct vocabulary_index){.source = source, .slot_mask = slots - 1};
	index->slots = must_alloc(slots * sizeof *index->slots);
	for (size_t i = 0; i < slots; i++)
		index->slots[i] = -1;
	for (size_t i = 0; i < source->token_count; i++)
		if (source->tokens[i].size > 0)
			*slot_of(index, source->tokens[i].data, source->tokens[i].size) = (int32_t)i;
	for (size_t i = 0; i < source->merge_count; i++)
		longest = source->merges[i].size > longest ? source->merges[i].size : longest;
	index->joined = must_alloc(longest + 1);
}

void vocabulary_index_fini(struct vocabulary_index *index)
{
	free(index->slots);
	free(index->joined);
}

int vocabulary_index_merge(
	const struct vocabulary_index *index, struct gguf_text merge, int32_t *left, int32_t *right, int32_t *result)
{
	const char *space = merge.size > 0 ? memchr(merge.data, ' ', merge.size) : NULL;
	if (space == NULL)
		return SAKIORI_EFORMAT;
	size_t before = (size_t)(space - merge.data), after = merge.size - before - 1;
	memcpy(index->joined, merge.data, before);
	memcpy(index->joined + before, space + 1, after);
	*left = *slot_of(index, merge.data, before);
	*right = *slot_of(index, space + 1, after);
	*result = *slot_of(index, index->joined, before + after);
	return *left < 0 || *right < 0 || *result < 0 ? SAKIORI_EFORMAT : 0;
}

void vocabulary_index_bytes(const struct vocabulary_index *index, int32_t ids[static 256])
{
	int16_t alphabet[ALPHABET_END];
	fill_alphabet(alphabet);
	for (unsigned c = 0; c < ALPHABET_END; c++) {
		if (alphabet[c] < 0)
			continue;
		char letter[2] = {(char)c};
		size_t size = 1;
		if (c >= 0x80) {
			letter[0] = (char)(0xc0 | c >> 6);
			letter[1] = (char)(0x80 | (c & 0x3f));
			size = 2;
		}
		ids[alphabet[c]] = *slot_of(index, letter, size);
	}
}
