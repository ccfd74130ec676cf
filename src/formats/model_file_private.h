/* SPDX-License-Identifier: Apache-2.0 */
/* What model_file.c (reading, fingerprint) shares with its sources: model_gguf.c, model_folder.c with model_config.c, and
 * model_random.c. Nobody else includes it, but for the fuzz target of what is parsed. */
#pragma once
#include <jansson.h>

#include "formats/architecture.h"
#include "formats/model_file.h"
#include "formats/safetensors.h"

#define MODEL_NAME_SIZE                                                                                                \
	64 /* of a tensor, NUL included; the longest is model.layers.N.post_attention_layernorm.weight */

/* A tensor, where its bytes come from, and the hashing pass that is going over it. */
struct model_entry {
	struct model_tensor public; /* first, so that a pointer to it is one to this */
	char name[MODEL_NAME_SIZE];
	const struct architecture_tensor *kind;
	unsigned layer;                        /* of a layer's tensor */
	const struct gguf_tensor *gguf;        /* in a GGUF file */
	const struct safetensors *shard;       /* in a folder, and there: */
	const struct safetensors_tensor *part; /* all NULL: random */
	enum stored_type source_type;          /* as it lies there; vectors are handed out as F32 */
	bool shifted;                          /* a folder's norm whose weight is 1 more than what lies there */
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
	struct gguf *gguf;           /* of a GGUF file */
	struct safetensors **shards; /* of a folder */
	size_t shard_count;
	uint16_t *normals;           /* of random weights: 65536 values in bf16 */
	struct model_entry *entries; /* sorted by name */
	size_t count;
	uint8_t *block; /* for decoding */
	size_t block_size;
	uint8_t *raw; /* one head of a permuted tensor, or a vector as it lies in the file */
	size_t raw_size;
};

/* Checks mf->shape, names what is wrong, and lists the tensors that it asks for in mf->entries. */
int model_file_expect(struct model_file *mf, struct fault *f);
/* The shape's fields that follow from the architecture alone; a query scalar of 0 becomes the head size in model_file_expect. */
void model_file_follow(struct model_shape *s, const struct architecture *a);

/* Fill mf->shape, list the tensors and bind each to its source. */
int model_gguf_open(struct model_file *mf, struct fault *f);
int model_folder_open(struct model_file *mf, struct fault *f);
int model_random_open(struct model_file *mf, const char *name, struct fault *f);
/* model_config.c. config.json, of either spelling, to all of the shape but its name and `tied`, which *tied_by_config says
 * (-1: it is silent). */
int model_config_read(const json_t *config, struct model_shape *s, const struct architecture **architecture,
	int *tied_by_config, struct fault *f);
/* The files that model.safetensors.index.json names, each once, in fresh memory; the texts are the index's. */
int model_index_files(const json_t *index, const char ***files, size_t *count, struct fault *f);
/* Fills `rows` rows: bf16, or floats of a vector. */
void model_random_rows(
	const struct model_file *mf, const struct model_entry *e, size_t first_row, size_t rows, void *out);
