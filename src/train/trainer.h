/* SPDX-License-Identifier: Apache-2.0 */
/* Fine-tuning of one adapter on one device: model, data, optimizer and schedule behind one handle. The command line and
 * the daemon's worker use it alike. A trainer belongs to the thread that opened it (it runs for minutes and owns the
 * device); trainer_cancel alone may be called from any thread, and the trainer_config is only read while opening. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"
#include "compute/compute.h"
#include "formats/model_file.h"
#include "train/lora.h"
#include "train/memory.h"
#include "train/optim.h"
#include "train/variants.h"

/* How the frozen base weights are held. Activations are f32 with f32 weights and bf16 with all others; a device that does not hold a kind
 * refuses it. Embedding and output head are bf16 under the packed kinds, and so is what the file stores in a way that nobody unpacks. */
enum trainer_dtype {
	TRAINER_BF16,
	TRAINER_F32,
	TRAINER_FP8,    /* E4M3, scaled by row and column */
	TRAINER_Q4,     /* 4-bit NormalFloat blocks, made at load */
	TRAINER_STORED, /* the blocks of the file, unpacked when they are multiplied */
};
enum trainer_overlong { TRAINER_TRUNCATE, TRAINER_REFUSE };

/* What to train, on what, and how. Start from trainer_config_default. Strings are borrowed until trainer_open returns.
 */
struct trainer_config {
	const char *model; /* GGUF file, or "shape:NAME" for random weights of a real shape */
	const char *data;  /* training rows (JSONL); NULL: only evaluate or generate */
	uint64_t
		random_rows; /* in the place of data: so many rows of max_seq random tokens, all learned; for benches */
	const char *eval;    /* evaluation rows (JSONL); NULL: trainer_evaluate refuses */
	size_t eval_rows;    /* at most this many, the first ones; 0 = all */
	size_t text_tokens;  /* of the longest text of trainer_write_on, prompt and all; 0: none is written */
	size_t batch_rows;   /* rows a step */
	size_t max_seq;      /* tokens a row at most */
	size_t micro_tokens; /* tokens of one forward and backward pass at most; 0 = max(max_seq, 2048). Sets memory, not
				the result */
	struct lora_settings adapter; /* alpha 0 = 2 * rank */
	double dropout;               /* share of the adapter's inputs that a training step leaves out */
	double lr;                    /* peak learning rate */
	double lora_plus;             /* the learning rate of B is so many times A's (LoRA+, arXiv 2402.12354) */
	enum schedule schedule;
	double decay;         /* SCHEDULE_WSD: share of the steps in which the rate falls */
	uint64_t warmup;      /* steps of linear warm-up */
	uint64_t total_steps; /* length of the schedule; 0 = one pass over the rows. In the daemon: rounds * local steps
			       */
	double beta1, beta2, epsilon;
	double weight_decay; /* decoupled, on every adapter parameter */
	double clip;         /* greatest global gradient norm; 0 = no clipping */
	uint64_t seed;       /* first adapter values, order of the rows, dropout */
	enum trainer_dtype base_dtype;
	unsigned threads;            /* 0 = one a core */
	const char *device;          /* "cpu" or "cuda[:N]" */
	enum memory_mode memory;     /* MEMORY_MODES: the first that fits the device */
	enum variants_mode variants; /* orders of the adapter's products */
	const char *
		cache; /* folder where what was measured of a device, and large data tokenized (text/dataset.h), is kept
			   from run to run; NULL: nothing is kept */
	bool no_token_cache; /* tokens are held in memory, whatever the data's size */
	bool shuffle;        /* another order of the rows each epoch; false: file order */
	enum trainer_overlong overlong;
	bool deterministic;
	/* Called while opening, on the opening thread: `what` is "model" or "data", done of total in bytes. May be
	 * NULL. */
	void (*progress)(void *self, const char *what, size_t done, size_t total);
	void *progress_self;
};

/* rank 16, alpha 32, all targets, no dropout, lr 2e-4 linear, 4 rows x 512 tokens, AdamW (0.9, 0.999, 1e-8, 0), clip 1, bf16, cpu.
 */
void trainer_config_default(struct trainer_config *config);
/* Fills in the defaults of zeros (but total_steps, which takes the rows) and refuses senseless settings with
 * SAKIORI_EINVAL, as trainer_open does, before anything is read. */
int trainer_config_check(struct trainer_config *config, struct fault *f);

/* "bf16", "f32", "fp8", "q4", "as-stored"; SAKIORI_EINVAL for another word. */
int trainer_dtype_parse(const char *word, enum trainer_dtype *out, struct fault *f);
const char *trainer_dtype_name(enum trainer_dtype type);
/* "auto" (MEMORY_MODES), or the name of a mode; SAKIORI_EINVAL for another word. */
int trainer_memory_parse(const char *word, enum memory_mode *out, struct fault *f);
/* How the orders of the products are chosen: as asked for, but an adapter that reads a dropped input has only one. */
enum variants_mode trainer_orders(const struct trainer_config *config);
/* What it means to a device. */
enum dtype trainer_act(enum trainer_dtype type);
enum weight_storage trainer_storage(enum trainer_dtype type);

struct step_stats {
	uint64_t step;     /* number of steps done, this one included */
	double loss;       /* nats, mean over the step's labelled tokens, before the update */
	double grad_norm;  /* before clipping */
	double lr;         /* used by this step */
	uint64_t tokens;   /* in this step, without padding */
	uint64_t labelled; /* of these */
	double seconds;
};

struct eval_stats {
	double loss;     /* nats, mean over labelled tokens */
	uint64_t tokens; /* labelled ones */
	double accuracy; /* share of rows whose every labelled token, the end token included, is the argmax */
	uint64_t rows;
};

struct trainer;

/* Loads the model (fingerprinting it), reads and tokenizes the rows, plans all memory, sets the adapter to its first
 * values. Takes seconds to minutes. On failure *out is NULL and the fault says what to do. The caller closes it. */
int trainer_open(const struct trainer_config *config, struct trainer **out, struct fault *f);
/* NULL is fine. */
void trainer_close(struct trainer *t);

/* The settings in use, with the defaults of zeros filled in; its strings are NULL. */
const struct trainer_config *trainer_config(const struct trainer *t);

/* One optimizer step on the next batch_rows rows: rows are a pure function of (seed, step number). On failure, or on
 * SAKIORI_ECANCELLED, the adapter, the moments and the step number are as before. A loss that is not finite is
 * SAKIORI_EDEVICE. */
int trainer_step(struct trainer *t, struct step_stats *stats, struct fault *f);
/* The current adapter on the evaluation rows; changes nothing. */
int trainer_evaluate(struct trainer *t, struct eval_stats *stats, struct fault *f);
/* The base model alone (no adapter) on the evaluation rows. */
int trainer_evaluate_base(struct trainer *t, struct eval_stats *stats, struct fault *f);
/* What a text begins with. */
struct trainer_prompt {
	const int32_t *ids;
	size_t count; /* at least 1 */
	size_t more;  /* tokens to write at most */
	int32_t end;  /* the token that ends a text; -1: none */
};
/* The likeliest tokens after the prompt, with the current adapter; without the end token. out has room for p->more. Changes nothing of the
 * training. */
int trainer_write_on(struct trainer *t, const struct trainer_prompt *p, int32_t *out, size_t *count, struct fault *f);
/* Any thread, also before or during a call: the running (else the next) step or evaluation returns SAKIORI_ECANCELLED
 * at the next micro-batch. One call cancels once. */
void trainer_cancel(struct trainer *t);

/* Adapter and moments as host vectors of trainer_layout(t)->size floats; copied. Getting returns an error only when the
 * device failed. */
const struct lora_layout *trainer_layout(const struct trainer *t);
int trainer_get_adapter(struct trainer *t, float *vector, struct fault *f);
/* Values that are not finite are refused (SAKIORI_EINVAL) and change nothing. */
int trainer_set_adapter(struct trainer *t, const float *vector, struct fault *f);
int trainer_get_moments(struct trainer *t, float *m, float *v, struct fault *f);
int trainer_set_moments(struct trainer *t, const float *m, const float *v, struct fault *f);
/* Number of steps done; it places the schedule, the bias correction and the row order. */
uint64_t trainer_step_number(const struct trainer *t);
void trainer_set_step_number(struct trainer *t, uint64_t step);

/* The base model's identity, which sites compare (design: base fingerprint). */
void trainer_fingerprint(const struct trainer *t, uint8_t out[static HASH_SIZE]);
/* BLAKE2b of the tokenized training rows in file order; zero without training data. */
void trainer_data_fingerprint(const struct trainer *t, uint8_t out[static HASH_SIZE]);
/* The same of the evaluation rows. */
void trainer_eval_fingerprint(const struct trainer *t, uint8_t out[static HASH_SIZE]);
/* Rows of training and of evaluation data; how many were cut at max_seq. */
uint64_t trainer_rows(const struct trainer *t);
uint64_t trainer_eval_rows(const struct trainer *t);
uint64_t trainer_truncated_rows(const struct trainer *t);
/* Bytes that weights, adapter, optimizer and the memory plan take on the device. */
size_t trainer_memory_bytes(const struct trainer *t);
/* The same in parts. */
struct trainer_bytes {
	size_t weights;
	size_t adapter; /* in training with its gradient and two moments */
	size_t activations;
};
void trainer_bytes(const struct trainer *t, struct trainer_bytes *out);
/* The device's first failure, or 0: after one nothing works on it any more, and a lost GPU stays lost until the process ends. */
int trainer_device_check(struct trainer *t, struct fault *f);
/* What the device itself counts, working space of the backend included. */
void trainer_device_memory(struct trainer *t, struct device_memory *out);
/* The orders of the adapter's products, for variants_at; of a trainer opened with training rows. */
const struct variants *trainer_variants(const struct trainer *t);
/* Tokens of the largest micro-batch that memory was planned for. */
size_t trainer_pass_tokens(const struct trainer *t);
/* Of the base model. */
const struct model_shape *trainer_shape(const struct trainer *t);

/* Writes, or replaces at one stroke, a PEFT adapter folder (adapter_config.json, adapter_model.safetensors). */
int trainer_save_peft(struct trainer *t, const char *directory, struct fault *f);
/* Reads a PEFT adapter folder of the same rank, targets and shapes into the adapter; moments and step number stay. */
int trainer_load_peft(struct trainer *t, const char *directory, struct fault *f);
