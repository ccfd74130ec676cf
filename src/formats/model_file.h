/* SPDX-License-Identifier: Apache-2.0 */
/* A base model (formats/architecture.c says which), whatever holds it: a GGUF file or a Hugging Face folder. Hugging Face
 * names and row order, checked shapes, rows as floats, and the base fingerprint taken from the very bytes that were read.
 * One thread at a time. Blocking, so never on the loop. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"
#include "formats/gguf.h"
#include "formats/stored_type.h"

#define MODEL_HEAD_SIZE_MAX 1024
#define MODEL_LAYERS_MAX 1024

/* Everything is validated: all counts at least 1 and bounded, heads a multiple of kv_heads, head_size even. */
struct model_shape {
	char architecture[32]; /* "llama": struct architecture, name */
	char name[128];        /* what the file calls itself, printable; "" when it does not say */
	uint32_t hidden;       /* C */
	uint32_t intermediate; /* of the gated MLP */
	uint32_t layers;
	uint32_t heads;      /* query heads */
	uint32_t kv_heads;   /* key and value heads */
	uint32_t head_size;  /* q rows = heads * head_size, k and v rows = kv_heads * head_size */
	uint32_t vocabulary; /* V */
	uint32_t context;    /* tokens the model was trained for */
	float norm_epsilon;
	float rope_theta; /* base of the rotary frequencies; rotary dimension = head_size, Hugging Face's half-split
			     pairs */
	bool tied;        /* lm_head.weight is model.embed_tokens.weight; no tensor of that name then */
	/* (head_size / 2): pair i turns rope_factors[i] times slower than the base says (scaling of kinds linear and llama3); 1 without scaling */
	float rope_factors[MODEL_HEAD_SIZE_MAX / 2];
	bool qkv_bias;   /* q, k and v have biases */
	bool head_norms; /* each head of q and k is normalized, before it turns */
	bool post_norms; /* what attention and the MLP put out is normalized before it is added to the residual stream */
	bool geglu;      /* the MLP's gate is gelu (its tanh form) rather than silu */
	bool scaled_embedding; /* by sqrt(hidden) */
	float query_scalar; /* scores are divided by its square root; the head size where an architecture has no other */
	float score_softcap; /* scores become cap * tanh(score / cap); 0: they do not */
	float logit_softcap; /* likewise the logits */
	uint32_t window; /* in windowed layers a token sees so many last keys, its own included; 0: there are none */
	bool windowed[MODEL_LAYERS_MAX];
};

struct model_tensor {
	const char *name; /* "model.layers.3.self_attn.q_proj.weight" */
	size_t rows;      /* outputs; 1 for the vectors */
	size_t cols;      /* inputs */
	bool vector; /* norms and biases: of shape (cols) rather than (rows, cols); always F32, which they are used as */
	enum stored_type type;
};

struct model_file;

/* Opens a GGUF file, a folder of config.json and safetensors, or random weights of a real shape with `shape:NAME` (tiny, smollm2-135m, smollm2-360m, smollm2-1.7b,
 * tinyllama-1.1b, llama-3.2-1b, llama-3.2-3b, llama-2-7b, llama-3-8b, llama-3-70b: N(0, 0.02) in bf16, norms 1, for
 * benches; no tokenizer). All tensors the shape asks for
 * must be there in their sizes; any other tensor, other kinds of rope scaling than linear and llama3, and every feature that this
 * project would compute wrongly is refused by name. */
int model_file_open(const char *path, struct model_file **out, struct fault *f);
void model_file_close(struct model_file *mf);
const struct model_shape *model_file_shape(const struct model_file *mf);
/* The GGUF's metadata, for the tokenizer; NULL for a folder and shape:NAME. Borrowed. */
const struct gguf *model_file_metadata(const struct model_file *mf);
/* As it was opened. Borrowed. */
const char *model_file_path(const struct model_file *mf);

/* NULL when the model has no tensor of that name. Borrowed until model_file_close. */
const struct model_tensor *model_file_tensor(const struct model_file *mf, const char *name);
/* In name order (strcmp), which is also the fingerprint's. */
size_t model_file_tensor_count(const struct model_file *mf);
const struct model_tensor *model_file_tensor_at(const struct model_file *mf, size_t i);

/* llama.cpp's name of a tensor that such a model has: "blk.3.attn_q.weight". */
#define MODEL_GGUF_NAME_SIZE 64
void model_file_gguf_name(const struct model_tensor *t, char out[static MODEL_GGUF_NAME_SIZE]);

/* Reads rows [first_row, first_row + rows) in Hugging Face order: as floats (rows, cols), or as they are stored, each
 * row stored_type_bytes(type, cols). Rows are hashed as they pass, so one pass over a tensor goes from row 0 upwards
 * without gaps, in steps of any size (SAKIORI_EINVAL otherwise). Row 0 begins a new pass, which must end in the same
 * bytes as the one before, or the file was changed meanwhile: SAKIORI_ECORRUPT. A value that is not finite is
 * SAKIORI_EFORMAT. */
int model_file_read(struct model_file *mf, const struct model_tensor *t, size_t first_row, size_t rows, float *out,
	struct fault *f);
int model_file_read_stored(
	struct model_file *mf, const struct model_tensor *t, size_t first_row, size_t rows, void *out, struct fault *f);

/* Random weights as whoever knows their rule makes them without reading: element e of the tensor is element
 * first_element + e of the stream, and that is normals[h], h being the 16-bit piece number e % 8 (low half first) of
 * rng_block(seed, stream, e / 8). q, k and v of a layer follow each other in one stream, and so do gate and up. */
struct model_random {
	const uint16_t *normals; /* 65536 bf16, borrowed until model_file_close */
	uint64_t seed, stream, first_element;
};
/* False for a tensor that comes from a file, and for the norms. */
bool model_file_random(const struct model_file *mf, const struct model_tensor *t, struct model_random *out);

/* The base fingerprint: a hash over one leaf a tensor, in name order, and one of the scalars; a tensor's leaf covers
 * name, stored type, shape and the stored bytes in row order, the scalars' the architecture, heads, norm epsilon, rope
 * and windows (FORMATS.md). Succeeds only when every tensor was read whole and no pass is open; otherwise
 * SAKIORI_EINVAL names one. Of shape:NAME it covers the name and the shape, whether or not a row was read. */
int model_file_fingerprint(const struct model_file *mf, uint8_t out[static HASH_SIZE], struct fault *f);
