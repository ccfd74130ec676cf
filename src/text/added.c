/* SPDX-License-Identifier: Apache-2.0 */
#include "text/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "text/utf8.h"

void added_init(struct added *a)
{
	*a = (struct added){.node_count = 2, .node_capacity = 64, .edge_mask = 127};
	a->tokens = must_alloc(a->node_capacity * sizeof *a->tokens);
	a->tokens[1] = (struct added_token){.id = -1};
	a->edges = must_calloc(a->edge_mask + 1, sizeof *a->edges);
}

void added_fini(struct added *a)
{
	free(a->tokens);
	free(a->edges);
	regex_free(a->word);
	*a = (struct added){0};
}

/* The slot of the edge that leaves `node` with `byte`, or the empty one where it belongs. */
static struct added_edge *edge_of(const struct added *a, uint32_t node, char byte)
{
	uint64_t key = (uint64_t)node << 8 | (uint8_t)byte, hash = key * 0x9e3779b97f4a7c15u;
	size_t i = (size_t)(hash ^ (hash >> 32)) & a->edge_mask;
	while (a->edges[i].key != 0 && a->edges[i].key != key)
		i = (i + 1) & a->edge_mask;
	return &a->edges[i];
}

static void grow(struct added *a)
{
	struct added_edge *old = a->edges;
	size_t slots = a->edge_mask + 1;
	a->node_capacity *= 2;
	a->tokens = must_realloc(a->tokens, a->node_capacity * sizeof *a->tokens);
	a->edge_mask = 2 * slots - 1;
	a->edges = must_calloc(2 * slots, sizeof *a->edges);
	for (size_t i = 0; i < slots; i++)
		if (old[i].key != 0)
			*edge_of(a, (uint32_t)(old[i].key >> 8), (char)old[i].key) = old[i];
	free(old);
}

int added_add(struct added *a, const char *name, size_t size, struct added_token token, struct fault *f)
{
	if (size == 0 || size > ADDED_MAX_NAME)
		return fault_set(f, SAKIORI_ELIMIT, "token %d has a name of %zu bytes; 1 to %d are supported", token.id,
			size, ADDED_MAX_NAME);
	if (token.single_word && a->word == NULL) {
		/* these names are found by another library, to which joiners are letters of words too */
		static const char word[] = "\\A[\\w\\x{200c}\\x{200d}]\\z";
		int rc = regex_new(&a->word, word, strlen(word), false, f);
		if (rc != 0)
			return rc;
	}
	uint32_t node = 1;
	for (size_t i = 0; i < size; i++) {
		struct added_edge *edge = edge_of(a, node, name[i]);
		if (edge->key == 0) {
			if (a->node_count == a->node_capacity) {
				grow(a);
				edge = edge_of(a, node, name[i]);
			}
			*edge = (struct added_edge){(uint64_t)node << 8 | (uint8_t)name[i], (uint32_t)a->node_count};
			a->tokens[a->node_count++] = (struct added_token){.id = -1};
		}
		node = edge->node;
	}
	a->tokens[node] = token;
	a->starts[(uint8_t)name[0]] = true;
	return 0;
}

int32_t added_find(const struct added *a, const char *name, size_t size)
{
	uint32_t node = 1;
	for (size_t i = 0; i < size; i++) {
		node = edge_of(a, node, name[i])->node;
		if (node == 0)
			return -1;
	}
	return a->tokens[node].id;
}

/* The longest name that begins at text, of `left` bytes; its size, 0 for none. */
static size_t longest(const struct added *a, const char *text, size_t left, const struct added_token **token)
{
	size_t size = 0;
	uint32_t node = 1;
	for (size_t i = 0; i < left && (node = edge_of(a, node, text[i])->node) != 0; i++) {
		if (a->tokens[node].id >= 0) {
			*token = &a->tokens[node];
			size = i + 1;
		}
	}
	return size;
}

int32_t added_locate(const struct added *a, const char *text, size_t size, size_t at, size_t *begin, size_t *end)
{
	const struct added_token *token = NULL;
	for (; at < size; at++) {
		size_t found = a->starts[(uint8_t)text[at]] ? longest(a, text + at, size - at, &token) : 0;
		if (found == 0)
			continue;
		*begin = at;
		*end = at + found;
		return token->id;
	}
	return -1;
}

static bool is_word(const struct added *a, struct regex_scratch *regex, const char *character)
{
	size_t size;
	struct regex_match m = {0};
	utf8_decode(character, &size);
	return regex_next(a->word, regex, character, size, &m, NULL) > 0;
}

static bool stands_alone(
	const struct added *a, struct regex_scratch *regex, const char *text, size_t size, size_t begin, size_t end)
{
	return (begin == 0 || !is_word(a, regex, text + utf8_previous(text, begin))) &&
	       (end == size || !is_word(a, regex, text + end));
}

/* Widens the match by the white space beside it, to the left no further than `floor`. */
static void take_spaces(
	const struct added_token *token, const char *text, size_t size, size_t floor, struct added_match *m)
{
	size_t n;
	while (token->left && m->begin > floor) {
		size_t previous = utf8_previous(text, m->begin);
		if (!utf8_is_space(utf8_decode(text + previous, &n)))
			break;
		m->begin = previous;
	}
	while (token->right && m->end < size && utf8_is_space(utf8_decode(text + m->end, &n)))
		m->end += n;
}

bool added_next(const struct added *a, struct regex_scratch *regex, const char *text, size_t size, bool special,
	struct added_match *m)
{
	enum { EMPTY = 2 }; /* nodes */
	size_t floor = m->end;
	if (a->node_count == EMPTY)
		return false;
	for (size_t at = m->from; at < size; at++) {
		const struct added_token *token = NULL;
		size_t found = a->starts[(uint8_t)text[at]] ? longest(a, text + at, size - at, &token) : 0;
		if (found == 0)
			continue;
		m->from = at + found;
		if ((!token->special || special) &&
			(!token->single_word || stands_alone(a, regex, text, size, at, at + found))) {
			m->begin = at;
			m->end = at + found;
			m->id = token->id;
			take_spaces(token, text, size, floor, m);
			return true;
		}
		at += found - 1;
	}
	m->from = size;
	return false;
}
