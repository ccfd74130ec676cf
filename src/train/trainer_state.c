/* SPDX-License-Identifier: Apache-2.0 */
/* What a trainer is asked about, and its adapter and moments in and out. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "train/lora_peft.h"
#include "train/trainer_private.h"

const struct trainer_config *trainer_config(const struct trainer *t)
{
	return &t->config;
}

const struct lora_layout *trainer_layout(const struct trainer *t)
{
	return &t->layout;
}

static bool all_finite(const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(x[i]))
			return false;
	return true;
}

static int get(struct trainer *t, const float *from, float *host, struct fault *f)
{
	t->device->ops->download(t->device, host, from, t->layout.size * sizeof *host);
	return device_sync(t->device, f);
}

static int set(struct trainer *t, float *to, const float *host, struct fault *f)
{
	if (!all_finite(host, t->layout.size))
		return fault_set(f, SAKIORI_EINVAL, "the adapter or its moments hold a value that is not finite");
	t->device->ops->upload(t->device, to, host, t->layout.size * sizeof *host);
	return device_sync(t->device, f);
}

int trainer_get_adapter(struct trainer *t, float *vector, struct fault *f)
{
	return get(t, t->adapter, vector, f);
}

int trainer_set_adapter(struct trainer *t, const float *vector, struct fault *f)
{
	return set(t, t->adapter, vector, f);
}

int trainer_get_moments(struct trainer *t, float *m, float *v, struct fault *f)
{
	if (!t->data)
		return fault_set(f, SAKIORI_EINVAL, "opened without training rows: there are no moments");
	int rc = get(t, t->optim.first, m, f);
	return rc ? rc : get(t, t->optim.second, v, f);
}

int trainer_set_moments(struct trainer *t, const float *m, const float *v, struct fault *f)
{
	if (!t->data)
		return fault_set(f, SAKIORI_EINVAL, "opened without training rows: there are no moments");
	if (!all_finite(m, t->layout.size))
		return fault_set(f, SAKIORI_EINVAL, "the moments hold a value that is not finite");
	int rc = set(t, t->optim.second, v, f);
	return rc ? rc : set(t, t->optim.first, m, f);
}

uint64_t trainer_step_number(const struct trainer *t)
{
	return t->optim.step;
}

void trainer_set_step_number(struct trainer *t, uint64_t step)
{
	t->optim.step = step;
}

void trainer_fingerprint(const struct trainer *t, uint8_t out[static HASH_SIZE])
{
	memcpy(out, t->weights.fingerprint, HASH_SIZE);
}

void trainer_data_fingerprint(const struct trainer *t, uint8_t out[static HASH_SIZE])
{
	memset(out, 0, HASH_SIZE);
	if (t->data)
		dataset_fingerprint(t->data, out);
}

void trainer_eval_fingerprint(const struct trainer *t, uint8_t out[static HASH_SIZE])
{
	memset(out, 0, HASH_SIZE);
	if (t->eval)
		dataset_fingerprint(t->eval, out);
}

uint64_t trainer_rows(const struct trainer *t)
{
	return t->data ? dataset_counts(t->data)->rows : 0;
}

uint64_t trainer_eval_rows(const struct trainer *t)
{
	return t->eval ? dataset_counts(t->eval)->rows : 0;
}

uint64_t trainer_truncated_rows(const struct trainer *t)
{
	return (t->data ? dataset_counts(t->data)->truncated_rows : 0) +
	       (t->eval ? dataset_counts(t->eval)->truncated_rows : 0);
}

void trainer_bytes(const struct trainer *t, struct trainer_bytes *out)
{
	/* The adapter, and in training its gradient and two moments. */
	size_t vectors = t->data ? 4 : 1;
	*out = (struct trainer_bytes){.weights = t->weights.bytes,
		.adapter = vectors * t->layout.size * sizeof(float),
		.activations = t->model.activations.bytes};
}

size_t trainer_memory_bytes(const struct trainer *t)
{
	struct trainer_bytes bytes;
	trainer_bytes(t, &bytes);
	return bytes.weights + bytes.adapter + bytes.activations;
}

int trainer_device_check(struct trainer *t, struct fault *f)
{
	return device_sync(t->device, f);
}

void trainer_device_memory(struct trainer *t, struct device_memory *out)
{
	t->device->ops->memory(t->device, out);
}

const struct variants *trainer_variants(const struct trainer *t)
{
	return &t->variants;
}

size_t trainer_pass_tokens(const struct trainer *t)
{
	return t->model.activations.tokens;
}

const struct model_shape *trainer_shape(const struct trainer *t)
{
	return &t->weights.shape;
}

int trainer_save_peft(struct trainer *t, const char *directory, struct fault *f)
{
	float *vector = must_alloc(t->layout.size * sizeof *vector);
	char fingerprint[HASH_HEX_SIZE], step[24];
	hex_encode(t->weights.fingerprint, HASH_SIZE, fingerprint);
	snprintf(step, sizeof step, "%" PRIu64, t->optim.step);
	const struct safetensors_note notes[] = {{"sakiori.base_fingerprint", fingerprint}, {"sakiori.steps", step}};
	int rc = trainer_get_adapter(t, vector, f);
	if (!rc)
		rc = lora_peft_write(directory, &t->layout, vector, t->base_name, notes, 2, f);
	free(vector);
	return rc;
}

int trainer_load_peft(struct trainer *t, const char *directory, struct fault *f)
{
	float *vector = must_alloc(t->layout.size * sizeof *vector);
	int rc = lora_peft_read(directory, &t->layout, vector, f);
	if (!rc)
		rc = trainer_set_adapter(t, vector, f);
	free(vector);
	return rc;
}
