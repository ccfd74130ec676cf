/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/recorder.h"

#include <check.h>
#include <math.h>
#include <string.h>

struct recorder recorder;
size_t recorder_late_most;

static void issue(struct device *d, const struct call *c)
{
	if (recorder.open) {
		size_t at = recorder.keys - 1;
		ck_assert_uint_lt(recorder.count[at], CALLS_MAX);
		recorder.call[at][recorder.count[at]++] = *c;
	}
	c->run(d, c);
}

static void run_zero(struct device *d, const struct call *c)
{
	recorder.real->zero(d, c->out[0], c->size[0]);
}
static void keep_zero(struct device *d, void *p, size_t bytes)
{
	issue(d, &(struct call){.run = run_zero, .out = {p}, .size = {bytes}});
}

/* Copies beside the operations are made as late as they may be: when somebody waits for them. Until then a fetch has left nothing but
 * NaN, and what a send reads must still be there. */
static struct late_copy {
	unsigned slot;
	void *to;
	const void *from;
	size_t bytes;
} late[DEVICE_COPY_SLOTS];
static size_t lates;

static void put_off(unsigned slot, void *to, const void *from, size_t bytes)
{
	ck_assert_uint_lt(slot, DEVICE_COPY_SLOTS);
	ck_assert_uint_lt(lates, DEVICE_COPY_SLOTS);
	late[lates++] = (struct late_copy){slot, to, from, bytes};
	recorder_late_most = lates > recorder_late_most ? lates : recorder_late_most;
}

/* One after the other, as far as the slot's latest; slot DEVICE_COPY_SLOTS: all. */
static void make_up(unsigned slot)
{
	size_t count = slot == DEVICE_COPY_SLOTS ? lates : 0;
	for (size_t i = 0; i < lates; i++)
		if (late[i].slot == slot)
			count = i + 1;
	for (size_t i = 0; i < count; i++)
		memcpy(late[i].to, late[i].from, late[i].bytes);
	lates -= count;
	memmove(late, late + count, lates * sizeof *late);
}

static void run_send(struct device *d, const struct call *c)
{
	(void)d;
	put_off((unsigned)c->kind, c->out[0], c->in[0], c->size[0]);
}
static void keep_send(struct device *d, unsigned slot, void *host, const void *from, size_t bytes)
{
	issue(d, &(struct call){.run = run_send, .kind = (int)slot, .in = {from}, .out = {host}, .size = {bytes}});
}

static void run_fetch(struct device *d, const struct call *c)
{
	(void)d;
	/* the one stream of copies: a send out of this memory comes first */
	make_up((unsigned)c->kind);
	memset(c->out[0], 0xff, c->size[0]);
	put_off((unsigned)c->kind, c->out[0], c->in[0], c->size[0]);
}
static void keep_fetch(struct device *d, unsigned slot, void *to, const void *host, size_t bytes)
{
	issue(d, &(struct call){.run = run_fetch, .kind = (int)slot, .in = {host}, .out = {to}, .size = {bytes}});
}

static void run_copy_wait(struct device *d, const struct call *c)
{
	(void)d;
	make_up((unsigned)c->kind);
}
static void keep_copy_wait(struct device *d, unsigned slot)
{
	issue(d, &(struct call){.run = run_copy_wait, .kind = (int)slot});
}

static void run_embedding(struct device *d, const struct call *c)
{
	recorder.real->embedding(d, c->size[0], c->in[0], c->in[1], c->out[0]);
}
static void keep_embedding(struct device *d, size_t n, const uint32_t *ids, const struct weight *w, void *out)
{
	issue(d, &(struct call){.run = run_embedding, .in = {ids, w}, .out = {out}, .size = {n}});
}

static void run_lora_forward(struct device *d, const struct call *c)
{
	recorder.real->lora_forward(d, &c->tokens, c->in[0], &c->u.linear);
}
static void keep_lora_forward(struct device *d, const struct tokens *t, const void *x, const struct lora_linear *linear)
{
	issue(d, &(struct call){.run = run_lora_forward, .tokens = *t, .u.linear = *linear, .in = {x}});
}

static void run_lora_backward(struct device *d, const struct call *c)
{
	recorder.real->lora_backward(d, &c->tokens, c->in[0], &c->u.linear, c->out[0], c->flag, NULL);
}
static void keep_lora_backward(struct device *d, const struct tokens *t, const void *x,
	const struct lora_linear *linear, void *dx, bool accumulate, double *row_squares)
{
	ck_assert_ptr_null(row_squares);
	issue(d, &(struct call){.run = run_lora_backward,
			 .tokens = *t,
			 .u.linear = *linear,
			 .in = {x},
			 .out = {dx},
			 .flag = accumulate});
}

static void run_lora_gradient_a(struct device *d, const struct call *c)
{
	recorder.real->lora_gradient_a(d, &c->tokens, c->in[0], &c->u.linear);
}
static void keep_lora_gradient_a(
	struct device *d, const struct tokens *t, const void *x, const struct lora_linear *linear)
{
	issue(d, &(struct call){.run = run_lora_gradient_a, .tokens = *t, .u.linear = *linear, .in = {x}});
}

static void run_dropout_forward(struct device *d, const struct call *c)
{
	recorder.real->dropout_forward(d, &c->u.dropout, c->size[0], c->size[1], c->in[0], c->size[2], c->out[0]);
}
static void keep_dropout_forward(
	struct device *d, const struct dropout *r, size_t n, size_t c, const void *x, size_t x_stride, void *y)
{
	issue(d, &(struct call){
			 .run = run_dropout_forward, .u.dropout = *r, .in = {x}, .out = {y}, .size = {n, c, x_stride}});
}

static void run_dropout_backward(struct device *d, const struct call *c)
{
	recorder.real->dropout_backward(d, &c->u.dropout, c->size[0], c->size[1], c->in[0], c->out[0]);
}
static void keep_dropout_backward(
	struct device *d, const struct dropout *r, size_t n, size_t c, const void *dy, void *dx)
{
	issue(d, &(struct call){.run = run_dropout_backward, .u.dropout = *r, .in = {dy}, .out = {dx}, .size = {n, c}});
}

static void run_next_reader(struct device *d, const struct call *c)
{
	recorder.real->next_reader(d, c->in[0], c->in[1], (enum weight_use)c->kind);
}
static void keep_next_reader(struct device *d, const void *x, const struct weight *w, enum weight_use use)
{
	issue(d, &(struct call){.run = run_next_reader, .kind = (int)use, .in = {x, w}});
}

static void run_norm_forward(struct device *d, const struct call *c)
{
	recorder.real->norm_forward(d, (enum norm_kind)c->kind, c->size[0], c->size[1], c->in[0], c->in[1], c->out[0],
		c->in[2], c->number, c->out[1], c->size[2], c->out[2]);
}
static void keep_norm_forward(struct device *d, enum norm_kind kind, size_t n, size_t width, const void *x,
	const void *delta, void *sum, const float *weight, float epsilon, void *y, size_t y_stride, float *inverse_rms)
{
	issue(d, &(struct call){.run = run_norm_forward,
			 .kind = (int)kind,
			 .size = {n, width, y_stride},
			 .in = {x, delta, weight},
			 .out = {sum, y, inverse_rms},
			 .number = epsilon});
}

static void run_norm_backward(struct device *d, const struct call *c)
{
	recorder.real->norm_backward(
		d, (enum norm_kind)c->kind, c->size[0], c->size[1], c->in[0], c->in[1], c->in[2], c->in[3], c->out[0]);
}
static void keep_norm_backward(struct device *d, enum norm_kind kind, size_t n, size_t width, const void *dy,
	const void *x, const float *weight, const float *inverse_rms, void *dx)
{
	issue(d, &(struct call){.run = run_norm_backward,
			 .kind = (int)kind,
			 .size = {n, width},
			 .in = {dy, x, weight, inverse_rms},
			 .out = {dx}});
}

static void run_head_norm_forward(struct device *d, const struct call *c)
{
	recorder.real->head_norm_forward(d, (enum norm_kind)c->kind, c->size[0], c->size[1], c->size[2], c->in[0],
		c->size[3], c->in[1], c->number, c->out[0], c->size[4], c->out[1]);
}
static void keep_head_norm_forward(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
	const void *x, size_t x_stride, const float *weight, float epsilon, void *y, size_t y_stride,
	float *inverse_rms)
{
	issue(d, &(struct call){.run = run_head_norm_forward,
			 .kind = (int)kind,
			 .size = {n, heads, head_dim, x_stride, y_stride},
			 .in = {x, weight},
			 .out = {y, inverse_rms},
			 .number = epsilon});
}

static void run_head_norm_backward(struct device *d, const struct call *c)
{
	recorder.real->head_norm_backward(d, (enum norm_kind)c->kind, c->size[0], c->size[1], c->size[2], c->in[0],
		c->size[3], c->in[1], c->in[2], c->out[0], c->size[4]);
}
static void keep_head_norm_backward(struct device *d, enum norm_kind kind, size_t n, size_t heads, size_t head_dim,
	const void *x, size_t x_stride, const float *weight, const float *inverse_rms, void *dx, size_t dx_stride)
{
	issue(d, &(struct call){.run = run_head_norm_backward,
			 .kind = (int)kind,
			 .size = {n, heads, head_dim, x_stride, dx_stride},
			 .in = {x, weight, inverse_rms},
			 .out = {dx}});
}

static void run_rope(struct device *d, const struct call *c)
{
	(c->flag ? recorder.real->rope_backward : recorder.real->rope_forward)(
		d, &c->u.rope, c->size[0], c->in[0], c->out[0], c->size[1], c->size[2]);
}
static void keep_rope_forward(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *x,
	size_t heads, size_t stride)
{
	issue(d, &(struct call){
			 .run = run_rope, .u.rope = *r, .in = {positions}, .out = {x}, .size = {n, heads, stride}});
}
static void keep_rope_backward(struct device *d, const struct rope *r, size_t n, const uint32_t *positions, void *dx,
	size_t heads, size_t stride)
{
	issue(d, &(struct call){.run = run_rope,
			 .u.rope = *r,
			 .in = {positions},
			 .out = {dx},
			 .size = {n, heads, stride},
			 .flag = true});
}

static void run_attention_forward(struct device *d, const struct call *c)
{
	recorder.real->attention_forward(
		d, &c->u.attention, &c->tokens, c->in[0], c->in[1], c->in[2], c->out[0], c->out[1]);
}
static void keep_attention_forward(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
	const void *k, const void *v, void *out, float *log_sum_exp)
{
	issue(d, &(struct call){.run = run_attention_forward,
			 .tokens = *t,
			 .u.attention = *a,
			 .in = {q, k, v},
			 .out = {out, log_sum_exp}});
}

static void run_attention_backward(struct device *d, const struct call *c)
{
	recorder.real->attention_backward(d, &c->u.attention, &c->tokens, c->in[0], c->in[1], c->in[2], c->in[3],
		c->in[4], c->in[5], c->out[0], c->out[1], c->out[2]);
}
static void keep_attention_backward(struct device *d, const struct attention *a, const struct tokens *t, const void *q,
	const void *k, const void *v, const void *out, const float *log_sum_exp, const void *d_out, void *dq, void *dk,
	void *dv)
{
	issue(d, &(struct call){.run = run_attention_backward,
			 .tokens = *t,
			 .u.attention = *a,
			 .in = {q, k, v, out, log_sum_exp, d_out},
			 .out = {dq, dk, dv}});
}

static void run_activation_forward(struct device *d, const struct call *c)
{
	recorder.real->activation_forward(
		d, (enum activation_kind)c->kind, c->size[0], c->size[1], c->in[0], c->out[0], c->size[2]);
}
static void keep_activation_forward(struct device *d, enum activation_kind kind, size_t n, size_t width,
	const void *gate_up, void *h, size_t h_stride)
{
	issue(d, &(struct call){.run = run_activation_forward,
			 .kind = (int)kind,
			 .size = {n, width, h_stride},
			 .in = {gate_up},
			 .out = {h}});
}

static void run_activation_backward(struct device *d, const struct call *c)
{
	recorder.real->activation_backward(
		d, (enum activation_kind)c->kind, c->size[0], c->size[1], c->in[0], c->out[0], c->out[1]);
}
static void keep_activation_backward(
	struct device *d, enum activation_kind kind, size_t n, size_t width, const void *dh, void *gate_up, void *h)
{
	issue(d, &(struct call){.run = run_activation_backward,
			 .kind = (int)kind,
			 .size = {n, width},
			 .in = {dh},
			 .out = {gate_up, h}});
}

static void run_cross_entropy(struct device *d, const struct call *c)
{
	recorder.real->cross_entropy(d, &c->u.loss, &c->tokens, c->in[0], c->in[1], c->out[0]);
}
static void keep_cross_entropy(struct device *d, const struct cross_entropy *c, const struct tokens *t,
	const void *hidden, const struct weight *head, void *d_hidden)
{
	issue(d,
		&(struct call){
			.run = run_cross_entropy, .tokens = *t, .u.loss = *c, .in = {hidden, head}, .out = {d_hidden}});
}

static bool replay(struct device *d, uint64_t key)
{
	ck_assert(!recorder.open);
	for (size_t at = 0; at < recorder.keys; at++) {
		if (recorder.key[at] != key)
			continue;
		for (size_t i = 0; i < recorder.count[at]; i++)
			recorder.call[at][i].run(d, &recorder.call[at][i]);
		recorder.replays++;
		return true;
	}
	return false;
}

static void record(struct device *d, uint64_t key)
{
	(void)d;
	ck_assert_uint_lt(recorder.keys, KEYS_MAX);
	recorder.key[recorder.keys++] = key;
	recorder.open = true;
}

static void record_end(struct device *d)
{
	(void)d;
	recorder.open = false;
}

/* What may not happen within a recording. */
static void no_upload(struct device *d, void *to, const void *host, size_t bytes)
{
	ck_assert(!recorder.open);
	recorder.real->upload(d, to, host, bytes);
}
static void no_sync(struct device *d)
{
	ck_assert(!recorder.open);
	make_up(DEVICE_COPY_SLOTS);
	recorder.real->sync(d);
}

void make_recorder(struct device *d)
{
	memset(&recorder, 0, sizeof recorder);
	recorder.real = d->ops;
	recorder.ops = *d->ops;
	struct device_ops *o = &recorder.ops;
	o->zero = keep_zero;
	o->send = keep_send;
	o->fetch = keep_fetch;
	o->copy_wait = keep_copy_wait;
	o->embedding = keep_embedding;
	o->lora_forward = keep_lora_forward;
	o->lora_backward = keep_lora_backward;
	o->lora_gradient_a = keep_lora_gradient_a;
	o->dropout_forward = keep_dropout_forward;
	o->dropout_backward = keep_dropout_backward;
	o->next_reader = keep_next_reader;
	o->norm_forward = keep_norm_forward;
	o->norm_backward = keep_norm_backward;
	o->head_norm_forward = keep_head_norm_forward;
	o->head_norm_backward = keep_head_norm_backward;
	o->rope_forward = keep_rope_forward;
	o->rope_backward = keep_rope_backward;
	o->attention_forward = keep_attention_forward;
	o->attention_backward = keep_attention_backward;
	o->activation_forward = keep_activation_forward;
	o->activation_backward = keep_activation_backward;
	o->cross_entropy = keep_cross_entropy;
	o->replay = replay;
	o->record = record;
	o->record_end = record_end;
	o->upload = no_upload;
	o->sync = no_sync;
	d->ops = o;
	d->records = true;
}
