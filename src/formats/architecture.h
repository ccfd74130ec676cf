/* SPDX-License-Identifier: Apache-2.0 */
/* What tells the supported architectures apart: one table of them and one of their tensors (architecture.c). What reads a
 * model file follows these; what runs a model follows the fields of struct model_shape that come out of it. Pure; any
 * thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Which layers a sliding window holds for, where config.json has no layer_types. */
enum architecture_windows {
	WINDOWS_NONE, /* the key is not looked at */
	WINDOWS_ALL,
	WINDOWS_LATE, /* from max_window_layers on, and only under use_sliding_window */
	WINDOWS_EVEN, /* the first, the third and so on */
};

struct architecture {
	const char *name;       /* in the base fingerprint: what has the same maths has the same name */
	const char *gguf;       /* general.architecture; NULL: llama.cpp files it under another one */
	const char *model_type; /* of config.json */
	const char *class_name; /* architectures[0] of config.json */
	const char *models;     /* as people call them, for sentences */
	bool permutes;          /* llama.cpp's q and k rows lie in an order of their own */
	bool qkv_bias;          /* q, k and v have biases */
	bool head_norms;        /* each head of q and k is normalized before it turns */
	bool post_norms;        /* what attention and the MLP put out is normalized, too */
	bool shifted_norms;     /* a folder has a norm's weight less 1 */
	bool scaled_embedding;  /* by the square root of the hidden size */
	bool softcaps;          /* of scores and logits; and the scores' scale has a key of its own */
	bool geglu;             /* the MLP's gate is gelu_pytorch_tanh rather than silu */
	enum architecture_windows windows;
	/* What transformers takes where config.json is silent. */
	bool tied;
	uint32_t window;
	uint32_t head_size; /* 0: hidden / heads */
};

/* By general.architecture of a GGUF file, or by model_type of config.json; NULL: not supported. */
const struct architecture *architecture_of_gguf(const char *name);
const struct architecture *architecture_of_model_type(const char *name);
/* SAKIORI_EUNSUPPORTED, with what is supported; name is printable. */
int architecture_refuse(const char *name, struct fault *f);

/* How many rows or columns a tensor has. */
enum architecture_extent {
	EXTENT_VECTOR, /* as rows: a tensor of one dimension */
	EXTENT_HIDDEN,
	EXTENT_QUERY, /* heads * head size */
	EXTENT_KEY,   /* key and value heads * head size */
	EXTENT_HEAD,  /* head size */
	EXTENT_INTERMEDIATE,
	EXTENT_VOCABULARY,
};

/* What a tensor depends on. */
enum architecture_when {
	WHEN_ALWAYS,
	WHEN_QKV_BIAS,
	WHEN_HEAD_NORMS,
	WHEN_POST_NORMS,
	WHEN_NO_POST_NORMS,
	WHEN_UNTIED,
};

struct architecture_tensor {
	const char *hugging_face; /* within the layer, or whole */
	const char *gguf;         /* likewise */
	enum architecture_extent rows, cols;
	enum architecture_when when;
};

/* Of each layer, after "model.layers.N." or "blk.N."; and those outside the layers. */
const struct architecture_tensor *architecture_layer_tensors(size_t *count);
const struct architecture_tensor *architecture_outer_tensors(size_t *count);
