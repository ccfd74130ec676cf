/* SPDX-License-Identifier: Apache-2.0 */
/* What a trainer is opened with: defaults, words, and what is refused. */
#include <string.h>

#include "train/model.h"
#include "train/trainer.h"

void trainer_config_default(struct trainer_config *config)
{
	*config = (struct trainer_config){
		.batch_rows = 4,
		.max_seq = 512,
		.adapter = {.rank = 16, .targets = LORA_ALL},
		.lr = 2e-4,
		.lora_plus = 1,
		.schedule = SCHEDULE_LINEAR,
		.decay = 0.2,
		.beta1 = 0.9,
		.beta2 = 0.999,
		.epsilon = 1e-8,
		.clip = 1,
		.device = "cpu",
		.memory = MEMORY_MODES,
		.shuffle = true,
	};
}

static const char *const dtype_words[] = {
	[TRAINER_BF16] = "bf16",
	[TRAINER_F32] = "f32",
	[TRAINER_FP8] = "fp8",
	[TRAINER_Q4] = "q4",
	[TRAINER_STORED] = "as-stored",
};

int trainer_dtype_parse(const char *word, enum trainer_dtype *out, struct fault *f)
{
	for (size_t i = 0; i < sizeof dtype_words / sizeof *dtype_words; i++)
		if (strcmp(word, dtype_words[i]) == 0) {
			*out = (enum trainer_dtype)i;
			return 0;
		}
	return fault_set(f, SAKIORI_EINVAL, "expected bf16, f32, fp8, q4 or as-stored, found '%.40s'", word);
}

const char *trainer_dtype_name(enum trainer_dtype type)
{
	return dtype_words[type];
}

int trainer_memory_parse(const char *word, enum memory_mode *out, struct fault *f)
{
	*out = MEMORY_MODES;
	if (strcmp(word, "auto") == 0)
		return 0;
	for (enum memory_mode mode = 0; mode < MEMORY_MODES; mode++)
		if (strcmp(word, memory_mode_name(mode)) == 0) {
			*out = mode;
			return 0;
		}
	return fault_set(f, SAKIORI_EINVAL,
		"expected auto, keep, selective, offload, blocks or blocks-offload, found '%.40s'", word);
}

enum variants_mode trainer_orders(const struct trainer_config *config)
{
	return config->dropout > 0 ? VARIANTS_FIXED : config->variants;
}

enum dtype trainer_act(enum trainer_dtype type)
{
	return type == TRAINER_F32 ? DTYPE_F32 : DTYPE_BF16;
}

enum weight_storage trainer_storage(enum trainer_dtype type)
{
	static const enum weight_storage storages[] = {
		[TRAINER_BF16] = WEIGHT_BF16,
		[TRAINER_F32] = WEIGHT_F32,
		[TRAINER_FP8] = WEIGHT_FP8,
		[TRAINER_Q4] = WEIGHT_NF4,
		[TRAINER_STORED] = WEIGHT_STORED,
	};
	return storages[type];
}

int trainer_config_check(struct trainer_config *c, struct fault *f)
{
	if (!c->model)
		return fault_set(f, SAKIORI_EINVAL, "no model: name a GGUF file");
	if (c->data && c->random_rows)
		return fault_set(f, SAKIORI_EINVAL, "rows of a file and random rows: expected one of both");
	if (c->max_seq < 2)
		return fault_set(f, SAKIORI_EINVAL, "%zu tokens a row: at least 2 are needed", c->max_seq);
	if (c->batch_rows < 1 || c->batch_rows > 1 << 20)
		return fault_set(f, SAKIORI_EINVAL, "%zu rows a step: expected 1 to %d", c->batch_rows, 1 << 20);
	if (!c->micro_tokens)
		c->micro_tokens = c->max_seq > 2048 ? c->max_seq : 2048;
	if (c->micro_tokens < c->max_seq || c->micro_tokens > MEMORY_TOKENS_MAX)
		return fault_set(f, SAKIORI_EINVAL,
			"%zu tokens a micro-batch: expected at least the %zu of a row, at most %d", c->micro_tokens,
			c->max_seq, 1 << 20);
	if (!(c->lr >= 0 && c->lr <= 1))
		return fault_set(f, SAKIORI_EINVAL, "learning rate %g: expected 0 to 1", c->lr);
	if (!(c->dropout >= 0 && c->dropout < 1) || (c->dropout > 0 && !model_dropout_keep(c->dropout)))
		return fault_set(f, SAKIORI_EINVAL, "dropout %g: expected 0 or more, and below 1", c->dropout);
	if (!(c->lora_plus > 0 && c->lora_plus * c->lr <= 1))
		return fault_set(f, SAKIORI_EINVAL,
			"LoRA+ ratio %g: expected above 0, and a learning rate of at most 1 for B", c->lora_plus);
	if (!(c->decay > 0 && c->decay <= 1))
		return fault_set(f, SAKIORI_EINVAL, "decay share %g: expected above 0, at most 1", c->decay);
	if (!(c->weight_decay >= 0 && c->weight_decay <= 1) || !(c->clip >= 0) || !(c->epsilon > 0))
		return fault_set(f, SAKIORI_EINVAL, "weight decay must be 0 to 1, clipping 0 or more, epsilon above 0");
	if (!(c->beta1 >= 0 && c->beta1 < 1) || !(c->beta2 >= 0 && c->beta2 < 1))
		return fault_set(f, SAKIORI_EINVAL, "the moments' decays must be 0 or more and below 1");
	if (c->deterministic && (c->variants == VARIANTS_TIMED || c->variants == VARIANTS_TIMED_MERGED))
		return fault_set(f, SAKIORI_EINVAL,
			"variants %s follow from a measurement, which differs from run to run: a deterministic run "
			"takes fixed "
			"or cost",
			variants_mode_name(c->variants));
	if (c->adapter.alpha == 0)
		c->adapter.alpha = 2 * (float)c->adapter.rank;
	return lora_check(&c->adapter, f);
}
