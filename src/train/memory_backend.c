/* SPDX-License-Identifier: Apache-2.0 */
#include "train/memory_backend.h"

#include <stdio.h>
#include <string.h>

#include "train/activations.h"

static bool is_cuda(const struct memory_request *r)
{
	return !strncmp(r->device, "cuda", 4);
}

/* gpu/device.cu */
static bool joins(const struct memory_request *r)
{
	return is_cuda(r) && r->act == DTYPE_BF16;
}

static size_t larger(size_t a, size_t b)
{
	return a > b ? a : b;
}

static size_t round_up(size_t n, size_t step)
{
	return (n + step - 1) / step * step;
}

/* ---- weights ---- */

static bool has_blocks(const struct model_tensor *t)
{
	return t->type == STORED_Q4_0 || t->type == STORED_Q4_1 || t->type == STORED_Q8_0;
}

/* Whether the tensor's blocks are unpacked when multiplied: all that lie in one weight with it are of the same kind. */
static bool stays_stored(const struct memory_request *r, const struct model_tensor *t)
{
	static const char *const stacks[][3] = {{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj", "up_proj"}};
	bool same = has_blocks(t);
	for (size_t i = 0; i < 6 && same; i++) {
		const char *place = strstr(t->name, stacks[i / 3][i % 3]);
		for (size_t other = 0; other < 3 && place; other++) {
			char name[128];
			snprintf(name, sizeof name, "%.*s%s.weight", (int)(place - t->name), t->name,
				stacks[i / 3][other]);
			const struct model_tensor *beside = model_file_tensor(r->file, name);
			same = same && beside && beside->type == t->type;
		}
	}
	return same;
}

/* What a weight is really kept as (weights.h): embedding and head are plain, and only some blocks of files are unpacked. */
static enum weight_storage storage_of(const struct memory_request *r, const struct model_tensor *t, unsigned uses)
{
	if (r->storage == WEIGHT_F32)
		return WEIGHT_F32;
	bool plain = uses & WEIGHT_ROWS || !strcmp(t->name, "lm_head.weight");
	if (plain || (r->storage == WEIGHT_STORED && !stays_stored(r, t)))
		return WEIGHT_BF16;
	return r->storage;
}

/* Columns that a bf16 weight keeps free behind its rows (weights.c). */
static size_t room_of(const struct memory_request *r, const struct model_tensor *t)
{
	enum variants_group group = VARIANTS_GROUPS;
	if (strstr(t->name, "q_proj") || strstr(t->name, "k_proj") || strstr(t->name, "v_proj"))
		group = VARIANTS_QKV;
	else if (strstr(t->name, "gate_proj") || strstr(t->name, "up_proj"))
		group = VARIANTS_GATE_UP;
	else if (strstr(t->name, "down_proj"))
		group = VARIANTS_DOWN;
	return joins(r) && group < VARIANTS_GROUPS ? variants_group_room(r->layout, group) : 0;
}

/* gpu/weight.cu: one copy, but of FP8. */
static size_t cuda_weight(enum weight_storage storage, const struct model_tensor *t, unsigned uses, size_t room)
{
	size_t n = t->rows * t->cols;
	switch (storage) {
	case WEIGHT_F32:
		return n * 4;
	case WEIGHT_FP8:
		return n + t->rows * 4 + (uses & WEIGHT_BACKWARD ? n + t->cols * 4 : 0);
	case WEIGHT_NF4:
		return n / 2 + n / 64 * 2;
	case WEIGHT_STORED:
		return t->rows * stored_type_bytes(t->type, t->cols);
	case WEIGHT_BF16:
		break;
	}
	return t->rows * (t->cols + room) * 2;
}

/* src/compute/cpu/weight.c: blocks once (a scale in f16 before each); else a copy packed for oneDNN for each direction, and where its rows and
 * columns lie. */
static size_t cpu_weight(const struct memory_request *r, const struct model_tensor *t, unsigned uses)
{
	enum weight_storage storage = storage_of(r, t, uses);
	if (storage == WEIGHT_NF4)
		return t->rows * t->cols / 64 * 34;
	if (storage == WEIGHT_STORED)
		return t->rows * stored_type_bytes(t->type, t->cols);
	size_t each = t->rows * t->cols * (r->act == DTYPE_BF16 ? 2 : 4) + (t->rows + t->cols) * sizeof(size_t);
	size_t copies = (uses & WEIGHT_FORWARD ? 1 : 0) + (uses & WEIGHT_BACKWARD ? 1 : 0);
	return each * (copies ? copies : 1);
}

size_t memory_weight(const struct memory_request *r, const struct model_tensor *t, unsigned uses)
{
	return is_cuda(r) ? cuda_weight(storage_of(r, t, uses), t, uses, room_of(r, t)) : cpu_weight(r, t, uses);
}

/* ---- activations ---- */

void memory_activations(const struct memory_request *r, enum memory_mode mode, struct memory_breakdown *out)
{
	struct activations_bytes b;
	struct activations_plan plan = {.use = ACTIVATIONS_TRAIN,
		.mode = mode,
		.tokens = r->tokens,
		.positions = r->longest,
		.dropout = r->dropout};
	activations_count(model_file_shape(r->file), r->layout, dtype_size(r->act), joins(r), &plan, &b);
	out->layer = b.layer;
	out->kept = b.kept;
	out->shared = b.shared;
	out->offloaded = b.offloaded;
}

/* Beside all else: the text's keys and values, and one pass over them. */
static size_t text_space(const struct memory_request *r)
{
	struct activations_bytes b;
	struct activations_plan plan = {.use = ACTIVATIONS_GENERATE, .positions = r->text_tokens};
	plan.tokens = r->text_tokens < MEMORY_TEXT_PASS ? r->text_tokens : MEMORY_TEXT_PASS;
	activations_count(model_file_shape(r->file), r->layout, dtype_size(r->act), joins(r), &plan, &b);
	return r->text_tokens ? b.kept + b.shared : 0;
}

/* ---- working space ---- */

/* src/compute/cpu: CHUNK of loss.c, scratch of attention.c, factors and gradients of lora.c. */
static void cpu_working_space(const struct memory_request *r, struct memory_breakdown *out)
{
	const struct model_shape *shape = model_file_shape(r->file);
	const struct lora_widths *w = &r->layout->widths;
	size_t act = dtype_size(r->act), chunk = 128;
	size_t inputs = larger(larger(3 * w->hidden, w->query), larger(2 * w->hidden, w->ffn));
	size_t outputs = larger(larger(w->query, w->key), larger(w->hidden, w->ffn));
	/* f32 gradients of the logits overwrite them. */
	size_t logit = sizeof(float) + (r->act == DTYPE_BF16 ? act : 0);
	out->logits = chunk * (shape->vocabulary * logit + w->hidden * act) + r->tokens * sizeof(uint32_t);
	out->lora = r->layout->rank * (inputs * (act + 4) + outputs * act) + r->tokens * 3 * r->layout->rank * act;
	/* weight_packed.c: a panel, at least 64 wide. */
	if (r->storage == WEIGHT_NF4 || r->storage == WEIGHT_STORED)
		out->products =
			larger(256 * 1024, larger(inputs, larger(2 * w->ffn, w->query + 2 * w->key)) * 64) * act;
	if (r->merged)
		out->lora += larger(w->query + 2 * w->key, 2 * w->ffn) * w->hidden * act;
}

/* gpu/loss.cu, chunk_tokens: the tokens whose logits are there at once, 256 MiB of them or 128 tokens. row: bytes of a token's logits. */
static size_t cuda_chunk(const struct memory_request *r, size_t row)
{
	size_t most = larger(((size_t)256 << 20) / row / 128 * 128, 128);
	return r->tokens < most ? r->tokens : most;
}

/* Bytes of a chunk's logits; *chunk: its tokens. Training rounds them to the activation type, evaluation has them in f32. */
static size_t cuda_logits(const struct memory_request *r, size_t *chunk)
{
	size_t row = round_up(model_file_shape(r->file)->vocabulary, 8), act = dtype_size(r->act);
	*chunk = cuda_chunk(r, row * act);
	return larger(*chunk * row * act, cuda_chunk(r, row * sizeof(float)) * row * sizeof(float));
}

/* A whole weight in the activation type, where packed ones are unpacked or adapters merged. */
static size_t cuda_plain_weight(const struct memory_request *r)
{
	const struct lora_widths *w = &r->layout->widths;
	size_t room = joins(r) && r->storage == WEIGHT_BF16 ? larger(variants_group_room(r->layout, VARIANTS_QKV),
								      variants_group_room(r->layout, VARIANTS_GATE_UP))
							    : 0;
	size_t linears = larger(larger(w->query + 2 * w->key, 2 * w->ffn) * (w->hidden + room), w->query * w->hidden);
	bool unpacked = r->storage == WEIGHT_NF4 || r->storage == WEIGHT_STORED;
	size_t elements = unpacked || r->merged ? linears : 0;
	return elements * dtype_size(r->act);
}

static void cuda_working_space(const struct memory_request *r, struct memory_breakdown *out)
{
	const struct model_shape *shape = model_file_shape(r->file);
	const struct lora_widths *w = &r->layout->widths;
	size_t act = dtype_size(r->act), n = r->tokens, rank = r->layout->rank;
	size_t inputs = larger(larger(3 * w->hidden, w->query), larger(2 * w->hidden, w->ffn));
	size_t outputs = larger(larger(w->query + 2 * w->key, w->hidden), 2 * w->ffn);
	/* One buffer serves them all (gpu/gpu.cuh, SCRATCH_LARGE): each is counted with what it takes beyond those before it. */
	size_t chunk, logits = cuda_logits(r, &chunk), plain = cuda_plain_weight(r);
	/* gpu/attention_cudnn.cu, measured on an H100: sums of dq in f32, twice over, and something for keys and heads; without cuDNN
	 * (gpu/attention.cu) a number a head. */
	size_t attention = n * (r->act == DTYPE_BF16 ? 8 * w->query + 4 * w->key + 8 * shape->heads : 4 * shape->heads);
	/* The hidden states of a chunk, and a loss a token. */
	out->logits = logits + chunk * w->hidden * act + n * sizeof(double);
	out->attention = attention > logits ? attention - logits : 0;
	/* gpu/lora.cu: the factors in the activation type, and ds. */
	out->lora = rank * (inputs + outputs) * act + n * 3 * rank * act;
	/* gpu/gemm.cu: cuBLASLt's, and the trials' output; gpu/linear.cu: the widest activation in E4M3. */
	out->products =
		((size_t)40 << 20) + (plain > larger(logits, attention) ? plain - larger(logits, attention) : 0);
	if (r->storage == WEIGHT_FP8)
		out->products += n * (outputs + sizeof(float));
	/* gpu/weight.cu: a piece of a weight on its way, and the table of random values. */
	out->other = ((size_t)8 << 20) + 65536 * 2;
}

void memory_working_space(const struct memory_request *r, struct memory_breakdown *out)
{
	if (is_cuda(r))
		cuda_working_space(r, out);
	else
		cpu_working_space(r, out);
	out->other += text_space(r);
}
