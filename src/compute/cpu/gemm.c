/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/gemm.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "compute/cpu/cpu.h"
#include "compute/cpu/simd.h"

#define PLANS_MAX 4096             /* about 14 shapes, 12 powers of two, and room */
#define PLAN_SLOTS (4 * PLANS_MAX) /* of the hash table */
#define LARGEST_PIECE 2048         /* tokens in one product */

/* oneDNN's objects for one thread's execution of a plan: handles are set at each run. */
struct gemm_lane {
	dnnl_memory_t a, b, c, bias, scratchpad;
};

struct gemm_plan {
	struct gemm_shape shape;
	dnnl_primitive_t primitive; /* NULL: the plain loops */
	size_t scratch_bytes;
	unsigned lanes;
	struct gemm_lane *lane;
};

struct gemm_engine {
	dnnl_engine_t engine;
	dnnl_stream_t *stream; /* one a thread */
	unsigned threads;
	void **solo_scratch; /* one a thread */
	size_t solo_scratch_bytes;
	size_t plans;
	struct gemm_plan *slot[PLAN_SLOTS];
};

static dnnl_data_type_t data_type(uint32_t type)
{
	return type == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
}

static void set_threads(unsigned n)
{
#ifdef _OPENMP
	/* A smaller team than the primitive was made for would leave work undone. */
	omp_set_dynamic(0);
	omp_set_num_threads((int)n);
#else
	(void)n;
#endif
}

static void fail(struct device *d, dnnl_status_t status, const char *what)
{
	device_fail(d, status == dnnl_out_of_memory ? SAKIORI_ENOMEM : SAKIORI_EDEVICE, "oneDNN: %s: status %d", what,
		(int)status);
}

static struct gemm_engine *engine_get(struct device *d)
{
	struct cpu_device *c = cpu_device(d);
	if (c->gemm)
		return c->gemm;
	struct gemm_engine *e = calloc(1, sizeof *e);
	if (!e) {
		device_fail(d, SAKIORI_ENOMEM, "out of memory");
		return NULL;
	}
	c->gemm = e;
	e->threads = d->threads;
	e->stream = calloc(e->threads, sizeof *e->stream);
	e->solo_scratch = calloc(e->threads, sizeof *e->solo_scratch);
	dnnl_status_t status =
		e->stream && e->solo_scratch ? dnnl_engine_create(&e->engine, dnnl_cpu, 0) : dnnl_out_of_memory;
	for (unsigned i = 0; i < e->threads && status == dnnl_success; i++)
		status = dnnl_stream_create(&e->stream[i], e->engine, dnnl_stream_default_flags);
	if (status == dnnl_success)
		return e;
	gemm_engine_free(d, e);
	c->gemm = NULL;
	fail(d, status, "cannot start");
	return NULL;
}

static void plan_free(struct gemm_plan *p)
{
	if (!p)
		return;
	for (unsigned i = 0; p->lane && i < p->lanes; i++) {
		dnnl_memory_destroy(p->lane[i].a);
		dnnl_memory_destroy(p->lane[i].b);
		dnnl_memory_destroy(p->lane[i].c);
		dnnl_memory_destroy(p->lane[i].bias);
		dnnl_memory_destroy(p->lane[i].scratchpad);
	}
	free(p->lane);
	dnnl_primitive_destroy(p->primitive);
	free(p);
}

static void plans_drop(struct gemm_engine *e)
{
	for (size_t i = 0; i < PLAN_SLOTS; i++) {
		plan_free(e->slot[i]);
		e->slot[i] = NULL;
	}
	e->plans = 0;
}

void gemm_engine_free(struct device *d, struct gemm_engine *e)
{
	if (!e)
		return;
	plans_drop(e);
	for (unsigned i = 0; i < e->threads; i++) {
		if (e->stream)
			dnnl_stream_destroy(e->stream[i]);
		if (e->solo_scratch)
			cpu_memory_free(d, e->solo_scratch[i]);
	}
	free(e->stream);
	free(e->solo_scratch);
	dnnl_engine_destroy(e->engine);
	free(e);
}

bool gemm_has_bf16(void)
{
	return ((unsigned)dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
}

static dnnl_status_t matrix_desc(
	dnnl_memory_desc_t *out, uint64_t rows, uint64_t cols, uint32_t type, uint64_t row, uint64_t col)
{
	dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)cols};
	dnnl_dims_t strides = {(dnnl_dim_t)row, (dnnl_dim_t)col};
	return dnnl_memory_desc_init_by_strides(out, 2, dims, data_type(type), strides);
}

/* The layout that oneDNN prefers for b (k, n), asked with a middling number of tokens: the answer was found the same for 1 to 2048. */
static dnnl_status_t packed_desc(struct gemm_engine *e, uint64_t k, uint64_t n, uint32_t type, dnnl_memory_desc_t *out)
{
	dnnl_memory_desc_t a, b, c;
	dnnl_dims_t dims = {(dnnl_dim_t)k, (dnnl_dim_t)n};
	dnnl_status_t status = matrix_desc(&a, 256, k, type, k, 1);
	if (status == dnnl_success)
		status = matrix_desc(&c, 256, n, type, n, 1);
	if (status == dnnl_success)
		status = dnnl_memory_desc_init_by_tag(&b, 2, dims, data_type(type), dnnl_format_tag_any);
	dnnl_matmul_desc_t product;
	if (status == dnnl_success)
		status = dnnl_matmul_desc_init(&product, &a, &b, NULL, &c);
	dnnl_primitive_desc_t description = NULL;
	if (status == dnnl_success)
		status = dnnl_primitive_desc_create(&description, &product, NULL, e->engine, NULL);
	if (status != dnnl_success)
		return status;
	*out = *dnnl_primitive_desc_query_md(description, dnnl_query_weights_md, 0);
	dnnl_primitive_desc_destroy(description);
	/* A layout that cannot be read back element by element is not used. */
	if (out->format_kind != dnnl_blocked || out->extra.flags != dnnl_memory_extra_flag_none)
		return matrix_desc(out, k, n, type, n, 1);
	return dnnl_success;
}

/* Contribution of index i of dimension `dim` to the element's offset: inner blocks from the innermost outwards, then the stride. */
static size_t blocked_offset(const dnnl_memory_desc_t *m, int dim, size_t i)
{
	const dnnl_blocking_desc_t *b = &m->format_desc.blocking;
	size_t offset = 0, inner = 1;
	for (int block = b->inner_nblks - 1; block >= 0; block--) {
		size_t size = (size_t)b->inner_blks[block];
		if (b->inner_idxs[block] == dim) {
			offset += i % size * inner;
			i /= size;
		}
		inner *= size;
	}
	return offset + i * (size_t)b->strides[dim];
}

bool gemm_layout(struct device *d, size_t k, size_t n, enum dtype type, struct gemm_layout *out)
{
	*out = (struct gemm_layout){.k_offset = calloc(k, sizeof(size_t)), .n_offset = calloc(n, sizeof(size_t))};
	if (!out->k_offset || !out->n_offset) {
		device_fail(d, SAKIORI_ENOMEM, "out of memory");
		return false;
	}
	struct gemm_engine *e = engine_get(d);
	if (!e)
		return false;
	set_threads(d->threads);
	dnnl_memory_desc_t m;
	dnnl_status_t status = packed_desc(e, k, n, type, &m);
	if (status != dnnl_success) {
		fail(d, status, "no layout for a weight");
		return false;
	}
	out->bytes = dnnl_memory_desc_get_size(&m);
	for (size_t i = 0; i < k; i++)
		out->k_offset[i] = blocked_offset(&m, 0, i);
	for (size_t i = 0; i < n; i++)
		out->n_offset[i] = blocked_offset(&m, 1, i);
	return true;
}

static dnnl_status_t make_memory(dnnl_memory_t *out, const dnnl_memory_desc_t *m, dnnl_engine_t e)
{
	return dnnl_memory_create(out, m, e, DNNL_MEMORY_NONE);
}

static dnnl_status_t make_lane(
	struct gemm_lane *lane, const dnnl_memory_desc_t md[static 5], bool bias, dnnl_engine_t e)
{
	dnnl_status_t status = make_memory(&lane->a, &md[0], e);
	if (status == dnnl_success)
		status = make_memory(&lane->b, &md[1], e);
	if (status == dnnl_success)
		status = make_memory(&lane->c, &md[2], e);
	if (status == dnnl_success && bias)
		status = make_memory(&lane->bias, &md[3], e);
	if (status == dnnl_success)
		status = make_memory(&lane->scratchpad, &md[4], e);
	return status;
}

static dnnl_status_t make_attributes(const struct gemm_shape *s, dnnl_primitive_attr_t *out)
{
	dnnl_status_t status = dnnl_primitive_attr_create(out);
	if (status == dnnl_success)
		status = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
	if (status == dnnl_success && s->scale != 1.0f)
		status = dnnl_primitive_attr_set_output_scales(*out, 1, 0, &s->scale);
	if (status == dnnl_success && s->flags & GEMM_ACCUMULATE) {
		dnnl_post_ops_t after = NULL;
		status = dnnl_post_ops_create(&after);
		if (status == dnnl_success)
			status = dnnl_post_ops_append_sum(after, 1.0f);
		if (status == dnnl_success)
			status = dnnl_primitive_attr_set_post_ops(*out, after);
		dnnl_post_ops_destroy(after);
	}
	return status;
}

static dnnl_status_t plan_build(struct gemm_engine *e, struct gemm_plan *p)
{
	const struct gemm_shape *s = &p->shape;
	dnnl_memory_desc_t md[5];
	dnnl_dims_t bias_dims = {1, (dnnl_dim_t)s->n};
	bool bias = s->flags & GEMM_BIAS;
	dnnl_status_t status = matrix_desc(&md[0], s->m, s->k, s->a_type, s->a_row, s->a_col);
	if (status == dnnl_success)
		status = s->flags & GEMM_PACKED ? packed_desc(e, s->k, s->n, s->b_type, &md[1])
						: matrix_desc(&md[1], s->k, s->n, s->b_type, s->b_row, s->b_col);
	if (status == dnnl_success)
		status = matrix_desc(&md[2], s->m, s->n, s->c_type, s->c_row, 1);
	if (status == dnnl_success)
		status = dnnl_memory_desc_init_by_tag(&md[3], 2, bias_dims, dnnl_f32, dnnl_ab);
	dnnl_matmul_desc_t product;
	if (status == dnnl_success)
		status = dnnl_matmul_desc_init(&product, &md[0], &md[1], bias ? &md[3] : NULL, &md[2]);
	dnnl_primitive_attr_t attributes = NULL;
	if (status == dnnl_success)
		status = make_attributes(s, &attributes);
	dnnl_primitive_desc_t description = NULL;
	if (status == dnnl_success)
		status = dnnl_primitive_desc_create(&description, &product, attributes, e->engine, NULL);
	if (status == dnnl_success) {
		md[4] = *dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
		p->scratch_bytes = dnnl_memory_desc_get_size(&md[4]);
		status = dnnl_primitive_create(&p->primitive, description);
	}
	p->lanes = s->flags & GEMM_SOLO ? e->threads : 1;
	p->lane = calloc(p->lanes, sizeof *p->lane);
	if (!p->lane)
		status = dnnl_out_of_memory;
	for (unsigned i = 0; i < p->lanes && status == dnnl_success; i++)
		status = make_lane(&p->lane[i], md, bias, e->engine);
	dnnl_primitive_desc_destroy(description);
	dnnl_primitive_attr_destroy(attributes);
	return status;
}

/* Working space for a plan: shared by all team plans, one a thread for solo plans. */
static bool plan_scratch(struct device *d, struct gemm_engine *e, const struct gemm_plan *p)
{
	if (!(p->shape.flags & GEMM_SOLO))
		return cpu_scratch(d, SCRATCH_GEMM, p->scratch_bytes) != NULL;
	if (e->solo_scratch_bytes >= p->scratch_bytes && e->solo_scratch[0])
		return true;
	e->solo_scratch_bytes = p->scratch_bytes + 64;
	for (unsigned i = 0; i < e->threads; i++) {
		cpu_memory_free(d, e->solo_scratch[i]);
		e->solo_scratch[i] = cpu_memory_new(d, e->solo_scratch_bytes);
		if (!e->solo_scratch[i]) {
			e->solo_scratch_bytes = 0;
			device_fail(d, SAKIORI_ENOMEM, "out of memory");
			return false;
		}
	}
	return true;
}

static size_t shape_hash(const struct gemm_shape *s)
{
	const unsigned char *bytes = (const unsigned char *)s;
	uint64_t h = 14695981039346656037u; /* FNV-1a */
	for (size_t i = 0; i < sizeof *s; i++)
		h = (h ^ bytes[i]) * 1099511628211u;
	return (size_t)(h ^ h >> 32) % PLAN_SLOTS;
}

void gemm_plans_trim(struct device *d)
{
	struct gemm_engine *e = cpu_device(d)->gemm;
	if (e && e->plans > PLANS_MAX)
		plans_drop(e);
}

const struct gemm_plan *gemm_plan(struct device *d, const struct gemm_shape *shape)
{
	struct gemm_engine *e = d->fault.code ? NULL : engine_get(d);
	if (!e)
		return NULL;
	size_t at = shape_hash(shape);
	for (; e->slot[at]; at = (at + 1) % PLAN_SLOTS)
		if (!memcmp(&e->slot[at]->shape, shape, sizeof *shape))
			return e->slot[at];
	if (e->plans >= PLAN_SLOTS / 2) {
		device_fail(d, SAKIORI_ELIMIT, "more than %d shapes of products in one operation", PLAN_SLOTS / 2);
		return NULL;
	}
	struct gemm_plan *p = calloc(1, sizeof *p);
	if (!p) {
		device_fail(d, SAKIORI_ENOMEM, "out of memory");
		return NULL;
	}
	p->shape = *shape;
	if (shape->c_type != DTYPE_F64) {
		/* A primitive divides its work among the threads there are when it is made. */
		set_threads(shape->flags & GEMM_SOLO ? 1 : d->threads);
		dnnl_status_t status = plan_build(e, p);
		set_threads(d->threads);
		if (status != dnnl_success)
			fail(d, status, "cannot make a product");
		if (status != dnnl_success || !plan_scratch(d, e, p)) {
			plan_free(p);
			return NULL;
		}
	}
	e->slot[at] = p;
	e->plans++;
	return p;
}

static double load_any(const void *p, uint32_t type, size_t at)
{
	return type == DTYPE_F64   ? ((const double *)p)[at]
	       : type == DTYPE_F32 ? (double)((const float *)p)[at]
				   : (double)simd_load_bf16(((const uint16_t *)p)[at]);
}

static void plain_product(const struct gemm_shape *s, const void *a, const void *b, const float *bias, double *c)
{
	for (size_t i = 0; i < s->m; i++)
		for (size_t j = 0; j < s->n; j++) {
			double sum = 0;
			for (size_t l = 0; l < s->k; l++)
				sum += load_any(a, s->a_type, i * s->a_row + l * s->a_col) *
				       load_any(b, s->b_type, l * s->b_row + j * s->b_col);
			sum = sum * (double)s->scale + (s->flags & GEMM_BIAS ? (double)bias[j] : 0);
			c[i * s->c_row + j] = sum + (s->flags & GEMM_ACCUMULATE ? c[i * s->c_row + j] : 0);
		}
}

void gemm_run(struct device *d, const struct gemm_plan *plan, unsigned thread, const void *a, const void *b,
	const float *bias, void *c)
{
	if (!plan)
		return;
	if (!plan->primitive) {
		plain_product(&plan->shape, a, b, bias, c);
		return;
	}
	struct gemm_engine *e = cpu_device(d)->gemm;
	bool solo = plan->shape.flags & GEMM_SOLO;
	if (!solo)
		set_threads(d->threads);
	const struct gemm_lane *lane = &plan->lane[solo ? thread : 0];
	dnnl_memory_set_data_handle(lane->a, (void *)(uintptr_t)a);
	dnnl_memory_set_data_handle(lane->b, (void *)(uintptr_t)b);
	dnnl_memory_set_data_handle(lane->c, c);
	dnnl_memory_set_data_handle(
		lane->scratchpad, solo ? e->solo_scratch[thread] : cpu_device(d)->scratch[SCRATCH_GEMM]);
	dnnl_exec_arg_t arguments[5] = {
		{DNNL_ARG_SRC, lane->a},
		{DNNL_ARG_WEIGHTS, lane->b},
		{DNNL_ARG_DST, lane->c},
		{DNNL_ARG_SCRATCHPAD, lane->scratchpad},
		{DNNL_ARG_BIAS, lane->bias},
	};
	if (lane->bias)
		dnnl_memory_set_data_handle(lane->bias, (void *)(uintptr_t)bias);
	dnnl_status_t status =
		dnnl_primitive_execute(plan->primitive, e->stream[solo ? thread : 0], lane->bias ? 5 : 4, arguments);
	if (status != dnnl_success) {
#pragma omp critical(gemm_failure)
		fail(d, status, "a product failed");
	}
}

/* The largest power of two that is not above n nor above LARGEST_PIECE. */
static size_t piece(size_t n)
{
	size_t p = 1;
	while (p * 2 <= n && p < LARGEST_PIECE)
		p *= 2;
	return p;
}

void gemm_tokens(
	struct device *d, const struct gemm_shape *shape, const void *a, const void *b, const float *bias, void *c)
{
	struct gemm_shape s = *shape;
	for (size_t at = 0; at < shape->m; at += s.m) {
		s.m = piece(shape->m - at);
		const struct gemm_plan *plan = gemm_plan(d, &s);
		gemm_run(d, plan, 0, (const char *)a + at * s.a_row * dtype_size(s.a_type), b, bias,
			(char *)c + at * s.c_row * dtype_size(s.c_type));
	}
}

void gemm_over_tokens(struct device *d, const struct gemm_shape *shape, const void *a, const void *b, void *c)
{
	struct gemm_shape s = *shape;
	for (size_t at = 0; at < shape->k; at += s.k) {
		s.k = piece(shape->k - at);
		if (at)
			s.flags |= GEMM_ACCUMULATE;
		const struct gemm_plan *plan = gemm_plan(d, &s);
		gemm_run(d, plan, 0, (const char *)a + at * s.a_col * dtype_size(s.a_type),
			(const char *)b + at * s.b_row * dtype_size(s.b_type), NULL, c);
	}
}
