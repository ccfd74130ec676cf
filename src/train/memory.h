/* SPDX-License-Identifier: Apache-2.0 */
/* What a training step takes of memory, counted before anything is allocated; which of the memory modes fits. Everything here is arithmetic on
 * shapes: any thread. The counts of activations come from the very walk that later cuts them up (activations.c); those of a backend's working
 * space are formulas that stand beside each other here and are held against measured peaks (bench/plan_accuracy.sh). */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "compute/compute.h"
#include "formats/model_file.h"
#include "train/lora.h"

/* What is kept of a micro-batch from the forward to the backward pass, most memory first. */
enum memory_mode {
	MEMORY_KEEP,      /* all that the backward reads */
	MEMORY_SELECTIVE, /* all but gate and up, which are multiplied again */
	MEMORY_OFFLOAD,   /* the same, but in host memory from a layer's forward until shortly before its backward */
	MEMORY_BLOCKS,    /* what enters each layer; the layer's forward is computed again */
	MEMORY_BLOCKS_OFFLOAD, /* the same, in host memory */
	MEMORY_MODES,
};

/* Most tokens of a text that pass at once when a model writes. */
#define MEMORY_TEXT_PASS 512

/* No micro-batch has more. */
#define MEMORY_TOKENS_MAX ((size_t)1 << 20)

/* "keep", "selective", "offload", "blocks", "blocks-offload". */
const char *memory_mode_name(enum memory_mode mode);
/* Whether layers take turns on the device and wait in host memory. */
static inline bool memory_mode_offloads(enum memory_mode mode)
{
	return mode == MEMORY_OFFLOAD || mode == MEMORY_BLOCKS_OFFLOAD;
}
/* Whether of a layer only what enters it is kept. */
static inline bool memory_mode_blocks(enum memory_mode mode)
{
	return mode == MEMORY_BLOCKS || mode == MEMORY_BLOCKS_OFFLOAD;
}

/* What is going to be trained. */
struct memory_request {
	const struct model_file *file; /* shapes and stored types; no weight is read */
	const struct lora_layout *layout;
	const char *device; /* "cpu", "cuda", "cuda:N" */
	enum dtype act;
	enum weight_storage storage;
	size_t tokens;         /* of a micro-batch, at most */
	size_t longest;        /* tokens of its longest row */
	size_t text_tokens;    /* of the longest text that the model writes between steps; 0: none */
	enum memory_mode mode; /* no other may be chosen; MEMORY_MODES: any */
	bool dropout;          /* of the adapter's inputs */
	bool merged;           /* orders that make W + scale B A may be chosen (train/variants.h) */
};

/* Bytes; `device` and `host` are the sums of what stands above them. */
struct memory_breakdown {
	size_t attention_weights, mlp_weights, embedding, head,
		norms; /* head 0: it is the embedding; norms and biases */
	size_t adapter, gradient, moments;
	size_t layer;  /* kept of one layer */
	size_t kept;   /* of all layers, on the device */
	size_t shared; /* buffers that all layers take turns with, tables and the micro-batch itself */
	size_t logits, lora, attention, products, other; /* working space of the backend */
	size_t device;
	size_t offloaded; /* kept in page-locked host memory */
	size_t host;
};

/* Whether a device knows the mode: the host's memory is a CPU's own, so nothing is offloaded there. */
bool memory_mode_exists(const char *device, enum memory_mode mode);
void memory_count(const struct memory_request *r, enum memory_mode mode, struct memory_breakdown *out);
/* Whether it fits into so many bytes of the device and of the host; 0: not known. */
bool memory_fits(const struct memory_breakdown *b, size_t limit, size_t host_limit);
/* The first mode, of those that r->mode allows, that fits into `limit` bytes of the device (host_limit of the host; 0: not known). SAKIORI_ENOMEM, with what would fit in the
 * sentence, when none does. */
int memory_choose(const struct memory_request *r, size_t limit, size_t host_limit, enum memory_mode *mode,
	struct memory_breakdown *out, struct fault *f);
/* Bytes of the host that may well be page-locked: half of what is available now. 0: not known. The one function here that asks the machine. */
size_t memory_host_limit(void);
/* Bytes that may be planned for on a device: what is free, less a reserve for what is not counted. 0: not known. */
size_t memory_device_limit(const struct device_memory *memory);
/* The most rows of r->longest tokens that fit at once in this mode; 0: not one. */
size_t memory_most_rows(const struct memory_request *r, enum memory_mode mode, size_t limit, size_t host_limit);
