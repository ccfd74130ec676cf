/* SPDX-License-Identifier: Apache-2.0 */
/* The head and the cross-entropy, TOKENS_CHUNK labelled tokens at a time: gather, logits, softmax, gradient of the logits, gradient of
 * the hidden states. The chunk's logits are all of (tokens, V) that ever exists. */
#include "compute/cpu/cpu.h"
#include "compute/cpu/weight.h"

#define TOKENS_CHUNK 128

struct loss_call {
	struct device *d;
	const struct cross_entropy *c;
	const struct weight *head;
	const void *hidden;
	void *d_hidden;
	const uint32_t *list; /* tokens that count */
	size_t listed;
	size_t first;   /* of the list: the chunk's first */
	size_t count;   /* of the chunk */
	void *compact;  /* (chunk, C): hidden, then its gradient */
	void *logits;   /* (chunk, V), f32 or f64 */
	void *d_logits; /* (chunk, V) act; NULL: loss alone */
	double *losses; /* (chunk) */
};

#define ACT_TEMPLATE "compute/cpu/loss.inc"
#include "compute/cpu/each_act.h"

/* The tokens that are labelled (and listed), ascending. */
static bool list_tokens(struct loss_call *l, const struct tokens *t, size_t *listed)
{
	size_t most = t->index ? t->index_count : t->count;
	uint32_t *list = cpu_scratch(l->d, SCRATCH_INDEX, most * sizeof *list);
	if (!list)
		return false;
	*listed = 0;
	for (size_t i = 0; i < most; i++) {
		uint32_t token = t->index ? t->index[i] : (uint32_t)i;
		int32_t label = token == UINT32_MAX ? -1 : l->c->labels[token];
		if (label >= 0 && (size_t)label >= l->head->rows) {
			device_fail(l->d, SAKIORI_EINVAL,
				"label %d, but the head has %zu rows; do tokenizer and model belong together?",
				(int)label, l->head->rows);
			return false;
		}
		if (label >= 0)
			list[(*listed)++] = token;
	}
	l->list = list;
	return true;
}

static void chunk(struct loss_call *l)
{
	struct device *d = l->d;
	size_t c = l->head->cols, v = l->head->rows;
	for (size_t i = 0; i < l->count; i++)
		memcpy(act_at(d, l->compact, i * c), act_at(d, l->hidden, l->list[l->first + i] * c), c * d->act_size);
	struct gemm_shape s = {.m = l->count,
		.n = v,
		.k = c,
		.a_row = c,
		.a_col = 1,
		.c_row = v,
		.a_type = d->act,
		.c_type = d->act == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32,
		.scale = 1};
	weight_product(d, l->head, false, &s, l->compact, NULL, l->logits);
	if (d->fault.code)
		return;
	cpu_run(d, l->count, 4, CPU_PICK(d, loss_body), l);
	for (size_t i = 0; i < l->count; i++) {
		uint32_t token = l->list[l->first + i];
		double weight = l->c->weights ? (double)l->c->weights[token] : 1;
		if (l->c->sum)
			*l->c->sum += weight * l->losses[i];
		if (l->c->losses)
			l->c->losses[token] = (float)l->losses[i];
	}
	if (!l->d_hidden)
		return;
	cpu_matmul_backward(d, l->count, l->d_logits, l->head, l->compact, false);
	for (size_t i = 0; i < l->count; i++)
		memcpy(act_at(d, l->d_hidden, l->list[l->first + i] * c), act_at(d, l->compact, i * c),
			c * d->act_size);
}

static void zero_others(struct loss_call *l, size_t tokens)
{
	size_t next = 0, bytes = l->head->cols * l->d->act_size;
	for (size_t t = 0; t < tokens; t++) {
		if (next < l->listed && l->list[next] == t)
			next++;
		else
			memset((char *)l->d_hidden + t * bytes, 0, bytes);
	}
}

void cpu_cross_entropy(struct device *d, const struct cross_entropy *c, const struct tokens *t, const void *hidden,
	const struct weight *head, void *d_hidden)
{
	struct loss_call l = {.d = d, .c = c, .head = head, .hidden = hidden, .d_hidden = d_hidden};
	if (!weight_may(d, head, WEIGHT_FORWARD) || (d_hidden && !weight_may(d, head, WEIGHT_BACKWARD)))
		return;
	gemm_plans_trim(d);
	if (c->losses)
		memset(c->losses, 0, t->count * sizeof *c->losses);
	if (c->correct)
		memset(c->correct, 1, t->count);
	size_t real = d->act == DTYPE_F64 ? 8 : 4;
	if (!list_tokens(&l, t, &l.listed))
		return;
	if (l.listed) {
		l.compact = cpu_scratch(d, SCRATCH_HIDDEN, TOKENS_CHUNK * head->cols * d->act_size);
		l.logits = cpu_scratch(d, SCRATCH_LOGITS, TOKENS_CHUNK * head->rows * real);
		l.losses = cpu_scratch(d, SCRATCH_PARTIAL, TOKENS_CHUNK * sizeof(double));
		/* bf16 gradients need a place of their own; others overwrite the logits */
		if (d_hidden)
			l.d_logits = d->act_size == real ? l.logits
							 : cpu_scratch(d, SCRATCH_LOGITS_GRADIENT,
								   TOKENS_CHUNK * head->rows * d->act_size);
	}
	for (; l.first < l.listed && !d->fault.code; l.first += l.count) {
		l.count = l.listed - l.first < TOKENS_CHUNK ? l.listed - l.first : TOKENS_CHUNK;
		chunk(&l);
	}
	if (d_hidden && !d->fault.code)
		zero_others(&l, t->count);
}
