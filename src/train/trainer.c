/* SPDX-License-Identifier: Apache-2.0 */
/* Opening reads the cheap and error-prone parts first (shape, rows), then the weights. A step gathers the gradient of
 * all its micro-batches before it touches the adapter, so whatever fails or cancels it leaves nothing behind. */
#include "train/trainer_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "formats/model_file.h"
#include "text/batch.h"
#include "text/chat.h"
#include "text/dataset.h"
#include "text/tokenizer.h"
#include "train/model.h"
#include "train/weights.h"

/* Rows that one round of evaluation hands to the packer; only a bound on its memory. */
enum { EVAL_ROWS_AT_ONCE = 256 };

static void data_progress(void *self, size_t done, size_t total)
{
	const struct trainer_config *c = self;
	c->progress(c->progress_self, "data", done, total);
}

/* Tokens of the largest micro-batch that `rows` rows of the dataset can make. */
static size_t pass_of(const struct trainer *t, const struct dataset *data, size_t rows)
{
	size_t tokens;
	if (!size_mul(rows, dataset_counts(data)->longest_row, &tokens) || tokens > t->config.micro_tokens)
		tokens = t->config.micro_tokens;
	return tokens ? tokens : 1;
}

/* Tokens of the largest micro-batch that can come: no need to plan memory for more. Beside training an evaluation makes do with what that takes,
 * or with its longest row. */
static size_t largest_pass(const struct trainer *t)
{
	size_t eval = t->eval ? dataset_counts(t->eval)->longest_row : 1;
	if (!t->data)
		return t->eval ? pass_of(t, t->eval, EVAL_ROWS_AT_ONCE) : 1;
	size_t train = pass_of(t, t->data, t->config.batch_rows);
	return train > eval ? train : eval;
}

static int make_sampler(
	const struct trainer *t, const struct dataset *data, size_t batch_rows, struct sampler **out, struct fault *f)
{
	struct sampler_options order = {
		.seed = t->config.seed,
		.batch_rows = batch_rows,
		.micro_tokens = largest_pass(t),
		.shuffle = t->config.shuffle,
	};
	return sampler_new(out, data, &order, f);
}

/* One file of rows and the sampler over it. */
static int load_rows(struct trainer *t, const struct model_file *mf, const char *path, uint64_t most, size_t batch_rows,
	const struct tokenizer *tokenizer, const struct chat *chat, struct dataset **data, struct sampler **sampler,
	struct fault *f)
{
	struct dataset_options options = {
		.max_row_tokens = t->config.max_seq,
		.vocabulary = model_file_shape(mf)->vocabulary,
		.refuse_long_rows = t->config.overlong == TRAINER_REFUSE,
		.max_rows = most,
		.progress = t->config.progress ? data_progress : NULL,
		.progress_self = &t->config,
		.threads = t->config.threads,
		.cache = t->config.no_token_cache ? NULL : t->config.cache,
	};
	int rc = dataset_load(data, path, tokenizer, chat, &options, f);
	return rc ? rc : make_sampler(t, *data, batch_rows, sampler, f);
}

static int make_random_rows(struct trainer *t, const struct model_file *mf, struct fault *f)
{
	const struct trainer_config *c = &t->config;
	int rc = dataset_random(&t->data, c->random_rows, c->max_seq, model_file_shape(mf)->vocabulary, c->seed, f);
	return rc ? rc : make_sampler(t, t->data, c->batch_rows, &t->sampler, f);
}

static int load_all_rows(struct trainer *t, const struct model_file *mf, struct fault *f)
{
	const struct trainer_config *c = &t->config;
	struct tokenizer *tokenizer = NULL;
	struct chat *chat = NULL;
	int rc = 0;
	if (!c->data && !c->eval)
		return 0;
	/* A model without a tokenizer or a known template trains on rows that need none; the dataset says so when one does. */
	if (tokenizer_in_model(mf))
		rc = tokenizer_of_model(&tokenizer, mf, f);
	struct fault why = {0};
	if (tokenizer && chat_new(&chat, tokenizer, &why) != 0)
		chat = chat_refusing(&why);
	if (!rc && c->data)
		rc = load_rows(t, mf, c->data, 0, c->batch_rows, tokenizer, chat, &t->data, &t->sampler, f);
	if (!rc && c->eval)
		rc = load_rows(t, mf, c->eval, c->eval_rows, EVAL_ROWS_AT_ONCE, tokenizer, chat, &t->eval,
			&t->eval_sampler, f);
	chat_free(chat);
	tokenizer_free(tokenizer);
	return rc;
}

static size_t longest_row(const struct trainer *t)
{
	size_t train = t->data ? dataset_counts(t->data)->longest_row : 0;
	size_t eval = t->eval ? dataset_counts(t->eval)->longest_row : 0;
	return train > eval ? train : eval;
}

static struct variants_config variants_wanted(const struct trainer *t)
{
	const struct trainer_config *c = &t->config;
	struct variants_config v = {
		.mode = trainer_orders(c),
		.widths = t->layout.widths,
		.storage = trainer_storage(c->base_dtype),
		.tokens = largest_pass(t),
		.keep_s = true,
		.cache = c->cache,
	};
	memcpy(v.ranks, t->layout.ranks, sizeof v.ranks);
	return v;
}

/* Decides what is kept for the backward, by what is free on the device; the mode in use is then config.memory. */
static int choose_memory(struct trainer *t, const struct model_file *mf, struct fault *f)
{
	struct trainer_config *c = &t->config;
	struct variants_config orders = variants_wanted(t);
	struct device_memory memory;
	struct memory_breakdown breakdown;
	struct memory_request request = {
		.file = mf,
		.layout = &t->layout,
		.device = c->device,
		.act = trainer_act(c->base_dtype),
		.storage = trainer_storage(c->base_dtype),
		.tokens = largest_pass(t),
		.longest = longest_row(t) ? longest_row(t) : 1,
		.text_tokens = c->text_tokens,
		.mode = c->memory,
		.dropout = c->dropout > 0,
		.merged = variants_may_merge(c->device, t->device->act, t->device->threads, &orders),
	};
	t->device->ops->memory(t->device, &memory);
	return memory_choose(&request, memory_device_limit(&memory), memory_host_limit(), &c->memory, &breakdown, f);
}

static int open_activations(struct trainer *t, struct fault *f)
{
	const struct trainer_config *c = &t->config;
	struct model_options options = {
		.use = t->data ? ACTIVATIONS_TRAIN : ACTIVATIONS_EVALUATE,
		.memory = c->memory,
		.micro_tokens = largest_pass(t),
		.positions = longest_row(t) ? longest_row(t) : 1,
		.variants = t->data ? &t->variants : NULL,
		.dropout = t->data ? c->dropout : 0,
		.dropout_seed = c->seed,
	};
	int rc = model_open(&t->model, t->device, &t->weights, &t->layout, &options, f);
	if (rc || !t->data)
		return rc;
	struct variants_config orders = variants_wanted(t);
	/* Up to what a batch brings nothing lies there yet that is needed. */
	orders.scratch = t->model.activations.memory;
	orders.scratch_bytes = (size_t)((char *)t->model.activations.ids - (char *)t->model.activations.memory);
	for (size_t group = 0; group < VARIANTS_GROUPS; group++)
		orders.weight[group] = t->weights.blocks[0].linear[group];
	return variants_choose(&t->variants, t->device, &orders, f);
}

/* For LoRA+: all A of a layer, then all B. */
static struct optim_piece *rate_pieces(const struct lora_layout *layout, double ratio, size_t *count)
{
	struct optim_piece *pieces = must_calloc(2 * layout->widths.layers, sizeof *pieces);
	for (size_t i = 0; i < layout->count; i++) {
		const struct lora_entry *e = &layout->entries[i];
		pieces[2 * e->layer].count += e->rank * e->in;
		pieces[2 * e->layer + 1].count += e->rank * e->out;
	}
	*count = 2 * layout->widths.layers;
	for (size_t i = 0; i < *count; i++)
		pieces[i].factor = i % 2 ? ratio : 1;
	return pieces;
}

static int open_optim(struct trainer *t, struct fault *f)
{
	const struct trainer_config *c = &t->config;
	size_t count = 0;
	struct optim_piece *pieces = c->lora_plus == 1 ? NULL : rate_pieces(&t->layout, c->lora_plus, &count);
	struct optim_config optim = {
		.lr = c->lr,
		.schedule = c->schedule,
		.warmup = c->warmup,
		.total_steps = c->total_steps,
		.decay = c->decay,
		.beta1 = c->beta1,
		.beta2 = c->beta2,
		.epsilon = c->epsilon,
		.weight_decay = c->weight_decay,
		.clip = c->clip,
		.pieces = pieces,
		.piece_count = count,
	};
	int rc = optim_init(&t->optim, t->device, &optim, t->layout.size, f);
	free(pieces);
	return rc;
}

static int open_model(struct trainer *t, struct model_file *mf, struct fault *f)
{
	const struct trainer_config *c = &t->config;
	struct device_config device = {.name = c->device,
		.threads = c->threads,
		.act = trainer_act(c->base_dtype),
		.deterministic = c->deterministic,
		.cache = c->cache};
	struct weights_config weights = {.storage = trainer_storage(c->base_dtype),
		.backward = t->data,
		.layout = &t->layout,
		.progress = c->progress,
		.progress_self = c->progress_self};
	struct lora_widths widths;
	weights_widths(model_file_shape(mf), &widths);
	int rc = lora_layout_init(&t->layout, &widths, &c->adapter, f);
	if (!rc)
		rc = device_open(&device, &t->device, f);
	if (!rc && t->data)
		rc = choose_memory(t, mf, f);
	if (!rc)
		rc = weights_load(&t->weights, t->device, mf, &weights, f);
	if (!rc)
		rc = open_activations(t, f);
	if (!rc && t->data)
		rc = open_optim(t, f);
	if (!rc) {
		t->adapter = t->device->ops->alloc(t->device, t->layout.size * sizeof(float));
		t->correct = must_alloc(largest_pass(t));
		rc = device_sync(t->device, f);
	}
	return rc;
}

/* What the adapter's folder calls its base: the model's own name, else the file's, never the path. */
static void name_base(struct trainer *t, const struct model_file *mf)
{
	const char *slash = strrchr(t->config.model, '/');
	const char *name = model_file_shape(mf)->name;
	snprintf(t->base_name, sizeof t->base_name, "%s", *name ? name : slash ? slash + 1 : t->config.model);
}

static int open_all(struct trainer *t, struct fault *f)
{
	struct model_file *mf = NULL;
	int rc = trainer_config_check(&t->config, f);
	if (!rc)
		rc = model_file_open(t->config.model, &mf, f);
	if (!rc && t->config.max_seq > model_file_shape(mf)->context)
		rc = fault_set(f, SAKIORI_EINVAL, "%zu tokens a row, but the model was made for at most %u: set --seq",
			t->config.max_seq, model_file_shape(mf)->context);
	if (!rc && t->config.random_rows)
		rc = make_random_rows(t, mf, f);
	if (!rc)
		rc = load_all_rows(t, mf, f);
	if (!rc && !t->config.total_steps)
		t->config.total_steps = (trainer_rows(t) + t->config.batch_rows - 1) / t->config.batch_rows;
	if (!rc)
		rc = open_model(t, mf, f);
	if (!rc) {
		name_base(t, mf);
		float *first = must_alloc(t->layout.size * sizeof *first);
		lora_initialise(&t->layout, t->config.seed, first);
		rc = trainer_set_adapter(t, first, f);
		free(first);
	}
	model_file_close(mf);
	return rc;
}

int trainer_open(const struct trainer_config *config, struct trainer **out, struct fault *f)
{
	struct trainer *t = must_calloc(1, sizeof *t);
	t->config = *config;
	int rc = open_all(t, f);
	t->config.model = t->config.data = t->config.eval = t->config.device = t->config.cache = NULL;
	t->config.progress = NULL;
	if (rc) {
		trainer_close(t);
		t = NULL;
	}
	*out = t;
	return rc;
}

void trainer_close(struct trainer *t)
{
	if (!t)
		return;
	sampler_free(t->sampler);
	sampler_free(t->eval_sampler);
	dataset_free(t->data);
	dataset_free(t->eval);
	optim_fini(&t->optim);
	model_close(&t->model);
	weights_free(&t->weights);
	if (t->device)
		t->device->ops->release(t->device, t->adapter);
	device_close(t->device);
	lora_layout_fini(&t->layout);
	free(t->correct);
	free(t);
}

void trainer_cancel(struct trainer *t)
{
	atomic_store(&t->cancelled, true);
}

static int check_cancelled(struct trainer *t, struct fault *f)
{
	return atomic_exchange(&t->cancelled, false) ? fault_set(f, SAKIORI_ECANCELLED, "cancelled") : 0;
}

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

int trainer_step(struct trainer *t, struct step_stats *stats, struct fault *f)
{
	struct batch_list list;
	double start = now(), sum;
	if (!t->data)
		return fault_set(f, SAKIORI_EINVAL, "opened without training rows");
	int rc = dataset_check(t->data, f);
	if (rc)
		return rc;
	sampler_step(t->sampler, t->optim.step, &list);
	optim_begin(&t->optim);
	model_begin_step(&t->model, t->optim.step);
	model_reset_loss(&t->model);
	for (size_t i = 0; i < list.count; i++) {
		rc = check_cancelled(t, f);
		if (rc)
			return rc;
		/* The mean over the step's labelled tokens, wherever the micro-batches are cut. */
		model_differentiate(
			&t->model, &list.batches[i], t->adapter, t->optim.gradient, 1.0f / (float)list.labelled);
	}
	rc = model_read_loss(&t->model, &sum, f);
	if (rc)
		return rc;
	*stats = (struct step_stats){
		.loss = sum / (double)list.labelled, .tokens = list.tokens, .labelled = list.labelled};
	if (!isfinite(stats->loss))
		return fault_set(f, SAKIORI_EDEVICE,
			"step %" PRIu64 ": the loss is not finite; lower the learning rate, or check the base model",
			t->optim.step + 1);
	rc = optim_update(&t->optim, t->adapter, &stats->grad_norm, &stats->lr, f);
	stats->step = t->optim.step;
	stats->seconds = now() - start;
	return rc;
}

/* Rows of a batch whose every label is the argmax. */
static uint64_t right_rows(const struct batch *batch, const uint8_t *correct)
{
	uint64_t right = 0;
	for (size_t row = 0; row < batch->rows; row++)
		right += !memchr(
			correct + batch->row_offsets[row], 0, batch->row_offsets[row + 1] - batch->row_offsets[row]);
	return right;
}

static int evaluate(struct trainer *t, const float *adapter, struct eval_stats *stats, struct fault *f)
{
	uint64_t right = 0;
	double sum;
	if (!t->eval)
		return fault_set(f, SAKIORI_EINVAL, "opened without evaluation rows");
	*stats = (struct eval_stats){0};
	model_reset_loss(&t->model);
	for (uint64_t part = 0; part < sampler_parts(t->eval_sampler); part++) {
		struct batch_list list;
		int rc = dataset_check(t->eval, f);
		if (rc)
			return rc;
		sampler_part(t->eval_sampler, part, &list);
		for (size_t i = 0; i < list.count; i++) {
			rc = check_cancelled(t, f);
			if (rc)
				return rc;
			model_evaluate(&t->model, &list.batches[i], adapter, t->correct);
			right += right_rows(&list.batches[i], t->correct);
		}
		stats->rows += list.rows;
		stats->tokens += list.labelled;
	}
	int rc = model_read_loss(&t->model, &sum, f);
	if (rc)
		return rc;
	stats->loss = sum / (double)stats->tokens;
	stats->accuracy = (double)right / (double)stats->rows;
	return isfinite(stats->loss)
		       ? 0
		       : fault_set(f, SAKIORI_EDEVICE,
				 "the evaluation loss is not finite; check the adapter and the base model");
}

int trainer_evaluate(struct trainer *t, struct eval_stats *stats, struct fault *f)
{
	return evaluate(t, t->adapter, stats, f);
}

int trainer_evaluate_base(struct trainer *t, struct eval_stats *stats, struct fault *f)
{
	return evaluate(t, NULL, stats, f);
}
