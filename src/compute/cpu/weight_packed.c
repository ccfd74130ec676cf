/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/weight_packed.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "compute/cpu/cpu.h"
#include "compute/cpu/gemm.h"
#include "compute/cpu/simd.h"

#define BLOCK_MOST 64
#define PIECE 1024                  /* elements of a row unpacked at once; a multiple of BLOCK_MOST */
#define PANEL_ELEMENTS (256 * 1024) /* of a weight unpacked at once: in bf16 half of a core's L2 cache */
#define PANEL_STEP BLOCK_MOST       /* panels are multiples of it wide, as blocks and oneDNN's layouts are */
#define FILL_ELEMENTS (256 * 1024)  /* buffer between a source and the blocks */
#define F16_MOST 65504.0f

/* The 16 values of 4-bit NormalFloat: QLoRA (Dettmers et al. 2023), appendix E. */
static const float normal_float[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
	-0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f,
	0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
	0.7229568362236023f, 1.0f};

static size_t block_size(enum weight_packing p)
{
	return p == PACKING_NF4 ? 64 : 32;
}

static size_t block_bytes(enum weight_packing p)
{
	return p == PACKING_Q4_0 ? 18 : p == PACKING_Q4_1 ? 20 : 34;
}

enum weight_packing weight_packing_of(
	struct device *d, enum weight_storage storage, enum weight_blocks blocks, size_t cols)
{
	static const enum weight_packing stored[] = {
		[WEIGHT_BLOCKS_NONE] = PACKING_NONE,
		[WEIGHT_BLOCKS_Q4_0] = PACKING_Q4_0,
		[WEIGHT_BLOCKS_Q4_1] = PACKING_Q4_1,
		[WEIGHT_BLOCKS_Q8_0] = PACKING_Q8_0,
	};
	enum weight_packing p = storage == WEIGHT_NF4 ? PACKING_NF4 : stored[blocks];
	if (p == PACKING_NONE)
		device_fail(d, SAKIORI_EUNSUPPORTED,
			"the model's file does not keep this weight in blocks of one kind (Q4_0, Q4_1 or Q8_0); use "
			"bf16 or q4");
	else if (cols % block_size(p))
		device_fail(d, SAKIORI_EUNSUPPORTED,
			"blocks of %zu elements do not fit into rows of %zu columns; use bf16", block_size(p), cols);
	return d->fault.code ? PACKING_NONE : p;
}

/* ---- one block ---- */

static inline uint16_t little(const unsigned char *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static inline void unpack_block(enum weight_packing packing, const unsigned char *block, float *out)
{
	const float d = f16_to_f32(little(block));
	const unsigned char *q = block + 2;
	if (packing == PACKING_NF4) {
		for (int i = 0; i < 32; i++) {
			out[2 * i] = d * normal_float[q[i] & 15];
			out[2 * i + 1] = d * normal_float[q[i] >> 4];
		}
	} else if (packing == PACKING_Q8_0) {
		for (int i = 0; i < 32; i++)
			out[i] = d * (float)(int8_t)q[i];
	} else {
		/* d * q is exact in f32, so that one rounding is left, fused or not. */
		const float least = packing == PACKING_Q4_1 ? f16_to_f32(little(q)) : -8 * d;
		q += packing == PACKING_Q4_1 ? 2 : 0;
		for (int i = 0; i < 16; i++) {
			out[i] = d * (float)(q[i] & 15) + least;
			out[i + 16] = d * (float)(q[i] >> 4) + least;
		}
	}
}

/* Index of the nearest of the 16 values; the lower one where two are as near. */
static unsigned char nearest_normal_float(float x)
{
	unsigned char q = 0;
	for (int i = 0; i < 15; i++)
		q = (unsigned char)(q + (x > 0.5f * (normal_float[i] + normal_float[i + 1])));
	return q;
}

/* The scale is rounded first, so that packing what was unpacked changes nothing. */
static void pack_nf4(const float *x, unsigned char *block)
{
	float most = 0;
	for (int i = 0; i < 64; i++) {
		float size = x[i] < 0 ? -x[i] : x[i];
		most = size > most ? size : most;
	}
	uint16_t d = f32_to_f16(most < F16_MOST ? most : F16_MOST);
	float rounded = f16_to_f32(d), inverse = rounded > 0 ? 1.0f / rounded : 0.0f;
	block[0] = (unsigned char)d;
	block[1] = (unsigned char)(d >> 8);
	for (int i = 0; i < 32; i++)
		block[2 + i] = (unsigned char)(nearest_normal_float(x[2 * i] * inverse) |
					       nearest_normal_float(x[2 * i + 1] * inverse) << 4);
}

void weight_packed_row(const struct packed_rows *p, size_t row, size_t first, size_t count, float *out)
{
	const size_t size = block_size(p->packing), bytes = block_bytes(p->packing);
	const unsigned char *block = p->data + row * p->row_bytes + first / size * bytes;
	for (size_t i = 0; i < count; i += size, block += bytes)
		unpack_block(p->packing, block, out + i);
}

/* ---- filling ---- */

struct pack_args {
	const struct packed_rows *to;
	const float *values;
	size_t first, cols;
};

static void pack_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct pack_args *a = args;
	(void)thread;
	for (size_t row = begin; row < end; row++)
		for (size_t col = 0; col < a->cols; col += 64)
			pack_nf4(a->values + row * a->cols + col,
				a->to->data + (a->first + row) * a->to->row_bytes + col / 64 * 34);
}

static bool fill_stored(struct device *d, size_t rows, const struct weight_source *source, const struct packed_rows *p)
{
	size_t step = FILL_ELEMENTS / p->row_bytes + 1;
	for (size_t first = 0; first < rows; first += step) {
		size_t count = rows - first < step ? rows - first : step;
		int rc = source->fill_stored(source->self, first, count, p->data + first * p->row_bytes);
		if (rc) {
			device_fail(d, rc, "reading a weight failed: %s", err_text(rc));
			return false;
		}
	}
	return true;
}

static bool fill_packing(
	struct device *d, size_t rows, size_t cols, const struct weight_source *source, const struct packed_rows *p)
{
	size_t step = FILL_ELEMENTS / cols + 1;
	float *values = malloc(step * cols * sizeof *values);
	if (!values)
		device_fail(d, SAKIORI_ENOMEM, "out of memory");
	for (size_t first = 0; first < rows && !d->fault.code; first += step) {
		size_t count = rows - first < step ? rows - first : step;
		int rc = source->fill(source->self, first, count, values);
		struct pack_args args = {.to = p, .values = values, .first = first, .cols = cols};
		if (rc)
			device_fail(d, rc, "reading a weight failed: %s", err_text(rc));
		else
			cpu_run(d, count, 16, pack_body, &args);
	}
	free(values);
	return !d->fault.code;
}

bool weight_packed_new(struct device *d, size_t rows, size_t cols, enum weight_packing packing,
	const struct weight_source *source, struct packed_rows *out)
{
	*out = (struct packed_rows){.packing = packing, .row_bytes = cols / block_size(packing) * block_bytes(packing)};
	size_t bytes = rows * out->row_bytes;
	out->data = cpu_memory_new(d, bytes);
	if (!out->data) {
		device_fail(d, SAKIORI_ENOMEM, "out of memory: %zu bytes of weights; use a smaller model", bytes);
		return false;
	}
	return packing == PACKING_NF4 ? fill_packing(d, rows, cols, source, out) : fill_stored(d, rows, source, out);
}

void weight_packed_free(struct device *d, struct packed_rows *p)
{
	cpu_memory_free(d, p->data);
	p->data = NULL;
}

/* ---- panels ---- */

/* A panel of W in the type of activations: forward its rows first .. first+width-1, (width, cols); backward those columns of all rows, (rows,
 * width). */
struct panel {
	const struct packed_rows *from;
	size_t first, width, cols;
	bool backward;
	void *out;
};

/* Elements `col` to col+count of row `row` of the panel. */
static inline void unpack_piece(const struct panel *p, size_t row, size_t col, size_t count, float *out)
{
	if (p->backward)
		weight_packed_row(p->from, row, p->first + col, count, out);
	else
		weight_packed_row(p->from, p->first + row, col, count, out);
}

static SIMD_CLONES void unpack_bf16(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct panel *p = args;
	uint16_t *out = p->out;
	float x[PIECE];
	(void)thread;
	for (size_t row = begin; row < end; row++)
		for (size_t col = 0; col < p->cols; col += PIECE) {
			size_t count = p->cols - col < PIECE ? p->cols - col : PIECE;
			unpack_piece(p, row, col, count, x);
			for (size_t i = 0; i < count; i++)
				out[row * p->cols + col + i] = simd_store_bf16(x[i]);
		}
}

static SIMD_CLONES void unpack_f32(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct panel *p = args;
	float *out = p->out;
	(void)thread;
	for (size_t row = begin; row < end; row++)
		unpack_piece(p, row, 0, p->cols, out + row * p->cols);
}

void weight_packed_product(struct device *d, const struct packed_rows *from, bool backward, const struct gemm_shape *s,
	const void *a, const float *bias, void *c)
{
	struct gemm_shape shape = *s;
	size_t width = PANEL_ELEMENTS / s->k / PANEL_STEP * PANEL_STEP;
	width = width ? width : PANEL_STEP;
	shape.b_type = d->act;
	for (size_t first = 0; first < s->n && !d->fault.code; first += width) {
		shape.n = s->n - first < width ? s->n - first : width;
		shape.b_row = backward ? shape.n : 1;
		shape.b_col = backward ? 1 : s->k;
		struct panel p = {.from = from, .first = first, .width = shape.n, .backward = backward};
		p.cols = backward ? shape.n : s->k;
		p.out = cpu_scratch(d, SCRATCH_PANEL, shape.n * s->k * d->act_size);
		if (!p.out)
			return;
		cpu_run(d, backward ? s->k : shape.n, 16, d->act == DTYPE_BF16 ? unpack_bf16 : unpack_f32, &p);
		gemm_tokens(d, &shape, a, p.out, bias ? bias + first : NULL, (char *)c + first * dtype_size(s->c_type));
	}
}
