/* SPDX-License-Identifier: Apache-2.0 */
/* What model_file.c (reading, fingerprint) shares with its two sources, model_gguf.c and model_random.c; nobody else
 * includes it. */
#pragma once
#include "formats/model_file.h"

#define MODEL_NAME_SIZE                                                                                                \
	64 /* of a tensor, NUL included; the longest is model.layers.N.post_attention_layernorm.weight */

/* A tensor, where its bytes come from, and the hashing pass that is going over it. */
struct model_entry {
	struct model_tensor public; /* first, so that a pointer to it is one to this */
	char name[MODEL_NAME_SIZE];
	const struct gguf_tensor *source; /* NULL: random */
	size_t permuted_heads;          /* rows lie in llama.cpp's q/k order, in so many heads; 0: in Hugging Face's */
	uint64_t stream, first_element; /* random: the tensor's elements are those of the stream from this one on */
	struct hash hash;
	size_t next_row; /* where the open pass goes on */
	bool open;       /* a pass began and has not ended */
	bool complete;   /* leaf is set */
	uint8_t leaf[HASH_SIZE];
};

struct model_file {
	char *path;
	struct model_shape shape;
	struct gguf *gguf;           /* NULL: random weights */
	uint16_t *normals;           /* of random weights: 65536 values in bf16 */
	struct model_entry *entries; /* sorted by name */
	size_t count;
	uint8_t *block; /* for decoding */
	size_t block_size;
	uint8_t *head; /* one head of a permuted tensor */
	size_t head_bytes;
};

/* Checks mf->shape, names what is wrong, and lists the tensors that it asks for in mf->entries. */
int model_file_expect(struct model_file *mf, struct fault *f);

/* Fill mf->shape, list the tensors and bind each to its source. */
int model_gguf_open(struct model_file *mf, struct fault *f);
int model_random_open(struct model_file *mf, const char *name, struct fault *f);
/* Fills `rows` rows of bf16. */
void model_random_rows(
	const struct model_file *mf, const struct model_entry *e, size_t first_row, size_t rows, void *out);
