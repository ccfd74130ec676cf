/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cpu/weight.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "compute/cpu/cpu.h"
#include "compute/cpu/simd.h"

#define FILL_ELEMENTS (256 * 1024) /* f32 buffer between the source and the packed copies */
#define ROW_PIECE 1024             /* elements of a row read at once */

static float packed_get(const struct weight *w, const struct packed *p, size_t row, size_t col)
{
	size_t at = p->row_offset[row] + p->col_offset[col];
	return w->element == DTYPE_BF16 ? simd_load_bf16(((const uint16_t *)p->data)[at])
					: ((const float *)p->data)[at];
}

static void packed_set(const struct weight *w, const struct packed *p, size_t row, size_t col, float value)
{
	size_t at = p->row_offset[row] + p->col_offset[col];
	if (w->element == DTYPE_BF16)
		((uint16_t *)p->data)[at] = simd_store_bf16(value);
	else
		((float *)p->data)[at] = w->round ? simd_load_bf16(simd_store_bf16(value)) : value;
}

void weight_row(const struct weight *w, size_t row, size_t first, size_t count, float *out)
{
	if (w->packed.packing) {
		weight_packed_row(&w->packed, row, first, count, out);
		return;
	}
	const struct packed *p = weight_any(w);
	for (size_t i = 0; i < count; i++)
		out[i] = packed_get(w, p, row, first + i);
}

static void packed_free(struct device *d, struct packed *p)
{
	cpu_memory_free(d, p->data);
	free(p->row_offset);
	free(p->col_offset);
}

static bool packed_data(struct device *d, struct packed *p)
{
	p->data = cpu_memory_new(d, p->bytes);
	if (!p->data)
		device_fail(d, SAKIORI_ENOMEM, "out of memory: %zu bytes of weights; use a smaller model", p->bytes);
	return p->data != NULL;
}

/* backward: b is W itself; forward: b is its transpose. */
static bool packed_layout(struct device *d, const struct weight *w, bool backward, struct packed *p)
{
	struct gemm_layout l;
	bool good = gemm_layout(d, backward ? w->rows : w->cols, backward ? w->cols : w->rows, w->element, &l);
	p->bytes = l.bytes;
	p->row_offset = backward ? l.k_offset : l.n_offset;
	p->col_offset = backward ? l.n_offset : l.k_offset;
	return good && packed_data(d, p);
}

static bool plain_layout(struct device *d, const struct weight *w, struct packed *p)
{
	p->bytes = w->rows * w->cols * dtype_size(w->element);
	p->row_offset = calloc(w->rows, sizeof(size_t));
	p->col_offset = calloc(w->cols, sizeof(size_t));
	if (!p->row_offset || !p->col_offset) {
		device_fail(d, SAKIORI_ENOMEM, "out of memory");
		return false;
	}
	for (size_t i = 0; i < w->rows; i++)
		p->row_offset[i] = i * w->cols;
	for (size_t i = 0; i < w->cols; i++)
		p->col_offset[i] = i;
	return packed_data(d, p);
}

struct fill_args {
	const struct weight *w;
	const float *values;
	size_t first;
};

static void fill_body(void *args, size_t begin, size_t end, unsigned thread)
{
	const struct fill_args *a = args;
	const struct weight *w = a->w;
	const struct packed *copies[] = {&w->forward, &w->backward, &w->plain};
	(void)thread;
	for (int i = 0; i < 3; i++)
		for (size_t row = begin; copies[i]->data && row < end; row++)
			for (size_t col = 0; col < w->cols; col++)
				packed_set(w, copies[i], a->first + row, col, a->values[row * w->cols + col]);
}

/* Fetches the rows in pieces and puts them into every copy. */
static bool fill_copies(struct device *d, struct weight *w, const struct weight_source *source)
{
	size_t step = FILL_ELEMENTS / w->cols;
	step = step ? step : 1;
	float *values = malloc(step * w->cols * sizeof *values);
	if (!values)
		device_fail(d, SAKIORI_ENOMEM, "out of memory");
	for (size_t first = 0; first < w->rows && !d->fault.code; first += step) {
		size_t count = w->rows - first < step ? w->rows - first : step;
		int rc = source->fill(source->self, first, count, values);
		if (rc) {
			device_fail(d, rc, "reading a weight failed: %s", err_text(rc));
			break;
		}
		struct fill_args args = {.w = w, .values = values, .first = first};
		cpu_run(d, count, 16, fill_body, &args);
	}
	free(values);
	return !d->fault.code;
}

/* Whether this device keeps weights in that way; records a failure if not. */
static bool storage_may(struct device *d, enum weight_storage storage, unsigned uses)
{
	static const char *const names[] = {
		[WEIGHT_F32] = "f32",
		[WEIGHT_BF16] = "bf16",
		[WEIGHT_FP8] = "fp8",
		[WEIGHT_NF4] = "4-bit normal-float",
		[WEIGHT_STORED] = "the file's own blocks",
	};
	bool blocks = storage == WEIGHT_NF4 || storage == WEIGHT_STORED;
	if (storage == WEIGHT_FP8 || (blocks && d->act == DTYPE_F64))
		device_fail(d, SAKIORI_EUNSUPPORTED, "the CPU keeps no weights as %s%s: use bf16, f32, q4 or as-stored",
			names[storage], blocks ? " for doubles" : "");
	else if (blocks && uses & WEIGHT_ROWS)
		device_fail(d, SAKIORI_EUNSUPPORTED, "an embedding is kept as bf16 or f32, never packed");
	else if (d->act == DTYPE_BF16 && storage == WEIGHT_F32)
		device_fail(d, SAKIORI_EUNSUPPORTED,
			"weights kept as %s cannot be multiplied with bf16 activations; use bf16 for both, or f32 "
			"activations",
			names[storage]);
	return !d->fault.code;
}

struct weight *cpu_weight_new(struct device *d, size_t rows, size_t cols, enum weight_storage storage, unsigned uses,
	size_t room, const struct weight_source *source)
{
	size_t elements, bytes;
	(void)room;
	if (d->fault.code)
		return NULL;
	if (!rows || !cols || !size_mul(rows, cols, &elements) || !size_mul(elements, 8, &bytes)) {
		device_fail(d, SAKIORI_EINVAL, "a weight of %zu rows and %zu columns", rows, cols);
		return NULL;
	}
	if (!storage_may(d, storage, uses))
		return NULL;
	struct weight *w = calloc(1, sizeof *w);
	if (!w) {
		device_fail(d, SAKIORI_ENOMEM, "out of memory");
		return NULL;
	}
	w->rows = rows;
	w->cols = cols;
	w->uses = uses;
	w->element = d->act == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
	w->round = storage == WEIGHT_BF16;
	bool good = true;
	if (storage == WEIGHT_NF4 || storage == WEIGHT_STORED) {
		enum weight_packing packing = weight_packing_of(d, storage, source->blocks, cols);
		if (packing && weight_packed_new(d, rows, cols, packing, source, &w->packed))
			return w;
		cpu_weight_free(d, w);
		return NULL;
	}
	if (d->act == DTYPE_F64 || !(uses & (WEIGHT_FORWARD | WEIGHT_BACKWARD)))
		good = plain_layout(d, w, &w->plain);
	if (d->act != DTYPE_F64 && good && uses & WEIGHT_FORWARD)
		good = packed_layout(d, w, false, &w->forward);
	if (d->act != DTYPE_F64 && good && uses & WEIGHT_BACKWARD)
		good = packed_layout(d, w, true, &w->backward);
	if (good && fill_copies(d, w, source))
		return w;
	cpu_weight_free(d, w);
	return NULL;
}

void cpu_weight_free(struct device *d, struct weight *w)
{
	if (!w)
		return;
	packed_free(d, &w->forward);
	packed_free(d, &w->backward);
	packed_free(d, &w->plain);
	weight_packed_free(d, &w->packed);
	free(w);
}

/* A weight made out of another one. */
struct derive_args {
	const struct weight *w;
	const uint32_t *rows, *cols; /* NULL: all, in order */
	size_t cols_count;
	const float *a, *b;
	size_t rank;
	float scale;
};

static int derive_rows(void *self, size_t first, size_t count, float *out)
{
	const struct derive_args *s = self;
	const struct packed *p = s->cols ? weight_any(s->w) : NULL;
	for (size_t i = 0; i < count; i++) {
		size_t row = s->rows ? s->rows[first + i] : first + i;
		if (!p)
			weight_row(s->w, row, 0, s->cols_count, out + i * s->cols_count);
		for (size_t j = 0; p && j < s->cols_count; j++)
			out[i * s->cols_count + j] = packed_get(s->w, p, row, s->cols[j]);
		for (size_t k = 0; k < s->rank; k++) {
			float factor = s->scale * s->b[row * s->rank + k];
			for (size_t j = 0; j < s->cols_count; j++)
				out[i * s->cols_count + j] += factor * s->a[k * s->cols_count + j];
		}
	}
	return 0;
}

/* How a weight made out of w is kept: a packed one plus an adapter is no longer packed. */
static enum weight_storage stored_as(const struct weight *w)
{
	return w->round || w->element == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
}

static bool may_change(struct device *d, const struct weight *w, const char *what)
{
	if (!d->fault.code && w->packed.packing)
		device_fail(d, SAKIORI_EUNSUPPORTED, "a packed weight cannot be %s; load it as bf16", what);
	return !d->fault.code;
}

struct weight *cpu_weight_slice(
	struct device *d, const struct weight *w, enum weight_axis axis, const uint32_t *indices, size_t n)
{
	size_t bound = axis == WEIGHT_AXIS_ROWS ? w->rows : w->cols;
	if (!may_change(d, w, "sliced"))
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (indices[i] >= bound) {
			device_fail(d, SAKIORI_EINVAL, "a slice asks for index %u of %zu", (unsigned)indices[i], bound);
			return NULL;
		}
	bool by_rows = axis == WEIGHT_AXIS_ROWS;
	struct derive_args s = {.w = w,
		.rows = by_rows ? indices : NULL,
		.cols = by_rows ? NULL : indices,
		.cols_count = by_rows ? w->cols : n};
	struct weight_source source = {.fill = derive_rows, .self = &s};
	return cpu_weight_new(d, by_rows ? n : w->rows, s.cols_count, stored_as(w), w->uses, 0, &source);
}

struct weight *cpu_weight_merged(
	struct device *d, const struct weight *w, const float *a, const float *b, size_t rank, float scale)
{
	struct derive_args s = {.w = w, .cols_count = w->cols, .a = a, .b = b, .rank = rank, .scale = scale};
	struct weight_source source = {.fill = derive_rows, .self = &s};
	return cpu_weight_new(d, w->rows, w->cols, stored_as(w), w->uses, 0, &source);
}

void cpu_weight_write(struct device *d, struct weight *w, const uint64_t *indices, const float *values, size_t n)
{
	if (!may_change(d, w, "written to"))
		return;
	for (size_t i = 0; i < n; i++) {
		if (indices[i] / w->cols >= w->rows) {
			device_fail(d, SAKIORI_EINVAL, "a write to element %llu of a weight of %zu by %zu",
				(unsigned long long)indices[i], w->rows, w->cols);
			return;
		}
		const struct packed *copies[] = {&w->forward, &w->backward, &w->plain};
		for (int k = 0; k < 3; k++)
			if (copies[k]->data)
				packed_set(w, copies[k], (size_t)(indices[i] / w->cols), (size_t)(indices[i] % w->cols),
					values[i]);
	}
}

/* cpu_weight_write keeps every copy up to date. */
void cpu_weight_repack(struct device *d, struct weight *w)
{
	(void)d;
	(void)w;
}

void cpu_weight_read(struct device *d, const struct weight *w, size_t first, size_t count, float *out)
{
	if (!d->fault.code && (first > w->rows || count > w->rows - first))
		device_fail(d, SAKIORI_EINVAL, "reading rows %zu to %zu of a weight of %zu rows", first, first + count,
			w->rows);
	if (d->fault.code) {
		memset(out, 0, count * w->cols * sizeof *out);
		return;
	}
	for (size_t i = 0; i < count; i++)
		weight_row(w, first + i, 0, w->cols, out + i * w->cols);
}

size_t cpu_weight_bytes(const struct weight *w)
{
	size_t tables = (w->rows + w->cols) * sizeof(size_t);
	size_t total = w->packed.packing ? w->rows * w->packed.row_bytes : 0;
	const struct packed *copies[] = {&w->forward, &w->backward, &w->plain};
	for (int k = 0; k < 3; k++)
		total += copies[k]->data ? copies[k]->bytes + tables : 0;
	return total;
}

struct merge_args {
	const struct lora_linear *l;
	void *out;
};

struct embedding_args {
	const struct weight *w;
	const uint32_t *ids;
	void *out;
};

#define ACT_TEMPLATE "compute/cpu/weight.inc"
#include "compute/cpu/each_act.h"

void cpu_embedding(struct device *d, size_t n, const uint32_t *ids, const struct weight *w, void *out)
{
	if (d->fault.code)
		return;
	for (size_t t = 0; t < n; t++)
		if (ids[t] >= w->rows) {
			device_fail(d, SAKIORI_EINVAL,
				"token id %u, but the embedding has %zu rows; do tokenizer and model belong together?",
				(unsigned)ids[t], w->rows);
			return;
		}
	struct embedding_args args = {.w = w, .ids = ids, .out = out};
	cpu_run(d, n, 64, CPU_PICK(d, embedding_body), &args);
}

void weight_with_adapter(struct device *d, const struct lora_linear *l, void *out)
{
	struct merge_args args = {.l = l, .out = out};
	cpu_run(d, l->weight->rows, 16, CPU_PICK(d, merge_body), &args);
}
