/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/merge.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BYTES ((size_t)4 << 20)

int merge_check(const struct model_file *model, const struct peft_adapter *adapter, struct fault *f)
{
	for (size_t i = 0; i < adapter->count; i++) {
		const struct peft_matrix *m = &adapter->matrices[i];
		char name[PEFT_BASE_NAME_SIZE];
		peft_base_name(m->layer, m->target, name);
		const struct model_tensor *t = model_file_tensor(model, name);
		if (t == NULL)
			return fault_set(f, SAKIORI_EMISMATCH,
				"the adapter has a pair for %s, which this model has not: it is an adapter of another "
				"model",
				name);
		if (t->cols != m->in || t->rows != m->out)
			return fault_set(f, SAKIORI_EMISMATCH,
				"the adapter's %s is %" PRIu32 " to %" PRIu32
				", in this model it is %zu to %zu: it is an adapter of another model",
				name, m->in, m->out, t->cols, t->rows);
	}
	return 0;
}

static const struct peft_matrix *find_pair(const struct peft_adapter *adapter, const char *tensor)
{
	for (size_t i = 0; i < adapter->count; i++) {
		char name[PEFT_BASE_NAME_SIZE];
		peft_base_name(adapter->matrices[i].layer, adapter->matrices[i].target, name);
		if (strcmp(name, tensor) == 0)
			return &adapter->matrices[i];
	}
	return NULL;
}

/* weights (in) += scale * b A, for the row of B that is `b`; `product` has room for a row. */
static void add_product(const struct peft_matrix *m, double scale, const float *b, float *product, float *weights)
{
	memset(product, 0, m->in * sizeof *product);
	for (uint32_t r = 0; r < m->rank; r++) {
		const float *a = m->a + (size_t)r * m->in;
		float factor = (float)(scale * (double)b[r]);
#pragma omp simd
		for (uint32_t i = 0; i < m->in; i++)
			product[i] += factor * a[i];
	}
#pragma omp simd
	for (uint32_t i = 0; i < m->in; i++)
		weights[i] += product[i];
}

size_t merge_permuted_row(size_t row, size_t head_rows)
{
	size_t half = head_rows / 2;
	return 2 * (row % half) + row / half;
}

/* A walk over one tensor. */
struct walk {
	const struct model_tensor *t;
	const struct peft_matrix *pair; /* NULL: not adapted */
	double scale;
	enum stored_type type;
	size_t head_rows; /* 0: rows stay in their order; else a step is one head */
	size_t row_bytes;
	float *values, *product;
	uint8_t *encoded;
};

static int merge_step(struct merge *m, struct walk *w, size_t first, size_t rows, struct fault *f)
{
	size_t cols = w->t->cols;
	int rc = model_file_read(m->model, w->t, first, rows, w->values, f);
	bool fit = true;
	for (size_t i = 0; rc == 0 && i < rows; i++) {
		float *row = w->values + i * cols;
		size_t place = w->head_rows != 0 ? merge_permuted_row(i, w->head_rows) : i;
		if (w->pair != NULL)
			add_product(w->pair, w->scale, w->pair->b + (first + i) * w->pair->rank, w->product, row);
		fit &= stored_type_encode(w->type, row, cols, w->encoded + place * w->row_bytes);
	}
	if (rc == 0 && !fit)
		rc = fault_set(f, SAKIORI_EUNSUPPORTED, "%s with the adapter has a value that %s cannot hold; take f32",
			w->t->name, stored_type_name(w->type));
	if (rc == 0)
		rc = m->append(m->to, w->encoded, rows * w->row_bytes, f);
	return rc;
}

/* Values of all tensors. */
static size_t total_of(const struct model_file *model)
{
	size_t total = 0;
	for (size_t i = 0; i < model_file_tensor_count(model); i++)
		total += model_file_tensor_at(model, i)->rows * model_file_tensor_at(model, i)->cols;
	return total;
}

int merge_tensor(
	struct merge *m, const struct model_tensor *t, enum stored_type type, size_t permuted_heads, struct fault *f)
{
	size_t head_rows = permuted_heads != 0 ? t->rows / permuted_heads : 0;
	size_t step = head_rows != 0 ? head_rows : STEP_BYTES / (t->cols * sizeof(float));
	step = step < 1 ? 1 : step > t->rows ? t->rows : step;
	struct walk w = {.t = t,
		.pair = find_pair(m->adapter, t->name),
		.scale = peft_scale(m->adapter),
		.type = type,
		.head_rows = head_rows,
		.row_bytes = stored_type_bytes(type, t->cols)};
	w.values = malloc(step * t->cols * sizeof *w.values);
	w.product = malloc(t->cols * sizeof *w.product);
	w.encoded = malloc(step * w.row_bytes);
	int rc = 0;
	if (w.values == NULL || w.product == NULL || w.encoded == NULL)
		rc = fault_set(f, SAKIORI_ENOMEM, "no memory for %zu rows of %s", step, t->name);
	size_t total = m->progress != NULL ? total_of(m->model) : 0;
	for (size_t first = 0; rc == 0 && first < t->rows; first += step) {
		size_t rows = step < t->rows - first ? step : t->rows - first;
		rc = merge_step(m, &w, first, rows, f);
		m->done += rows * t->cols;
		if (m->progress != NULL)
			m->progress(m->progress_self, m->done, total);
	}
	free(w.values);
	free(w.product);
	free(w.encoded);
	return rc;
}
