/* SPDX-License-Identifier: Apache-2.0 */
/* Weights are made row by row: the source fills one page-locked buffer while the other's rows are on their way to the card, where
 * they are rounded, packed or split into their storage. */
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu.cuh"
#include "gpu/philox.cuh"

#define STAGING_BYTES ((size_t)8 << 20)

struct weight_staging {
	void *host[2];
	cudaEvent_t copied[2]; /* the host buffer may be filled again */
	void *rows;            /* the same on the card; used in the order of the stream, so one is enough */
	uint16_t *normals;     /* (65536), of a source of random values */
	size_t bytes;          /* of each buffer */
	size_t device_bytes;
};

void cuda_weight_staging_free(struct cuda_device *c)
{
	struct weight_staging *s = c->staging;
	if (!s)
		return;
	cuda_memory_free(c, s->rows, s->device_bytes);
	for (int i = 0; i < 2; i++) {
		cudaFreeHost(s->host[i]);
		if (s->copied[i])
			cudaEventDestroy(s->copied[i]);
	}
	free(s);
	c->staging = NULL;
}

/* Buffers of at least `row` bytes; NULL after recording a failure. */
static struct weight_staging *staging(struct cuda_device *c, size_t row)
{
	const char *what = "staging weights";
	if (c->staging && c->staging->bytes >= row)
		return c->staging;
	cuda_weight_staging_free(c);
	struct weight_staging *s = (struct weight_staging *)calloc(1, sizeof *s);
	if (!s) {
		cuda_fail(c, SAKIORI_ENOMEM, "out of memory");
		return NULL;
	}
	c->staging = s;
	s->bytes = (row > STAGING_BYTES ? row : STAGING_BYTES) + 255;
	s->bytes -= s->bytes % 256;
	s->device_bytes = s->bytes + 65536 * sizeof(uint16_t);
	for (int i = 0; i < 2; i++) {
		cuda_well(c, cudaHostAlloc(&s->host[i], s->bytes, cudaHostAllocPortable), what);
		cuda_well(c, cudaEventCreateWithFlags(&s->copied[i], cudaEventDisableTiming | cudaEventBlockingSync),
			what);
	}
	s->rows = cuda_memory_new(c, s->device_bytes, what);
	s->normals = (uint16_t *)((char *)s->rows + s->bytes);
	return c->base.fault.code ? NULL : s;
}

/* ---- an empty weight ---- */

static size_t place(size_t *total, size_t bytes)
{
	size_t at = *total;
	*total += (bytes + 255) / 256 * 256;
	return at;
}

static void *at(const struct weight *w, size_t offset)
{
	return (char *)w->data + offset;
}

static bool allocate(struct cuda_device *c, struct weight *w)
{
	size_t n = w->rows * w->cols, total = 0;
	bool packed = w->storage == WEIGHT_NF4 || w->storage == WEIGHT_STORED;
	bool turned = w->storage == WEIGHT_FP8 && w->uses & WEIGHT_BACKWARD;
	bool halves = w->storage == WEIGHT_NF4 || w->blocks == WEIGHT_BLOCKS_Q4_0 || w->blocks == WEIGHT_BLOCKS_Q4_1;
	size_t plain = w->rows * w->row * c->base.act_size;
	place(&total, packed ? (halves ? n / 2 : n) : w->storage == WEIGHT_FP8 ? n : plain);
	size_t row_scale = place(&total, w->storage == WEIGHT_FP8 ? w->rows * sizeof(float) : 0);
	size_t transposed = place(&total, turned ? n : 0);
	size_t col_scale = place(&total, turned ? w->cols * sizeof(float) : 0);
	size_t scale = place(&total, packed ? n / w->block * sizeof(__half) : 0);
	size_t least = place(&total, w->blocks == WEIGHT_BLOCKS_Q4_1 ? n / w->block * sizeof(__half) : 0);
	w->data = cuda_memory_new(c, total, "weights");
	if (!w->data)
		return false;
	w->bytes = total;
	w->row_scale = w->storage == WEIGHT_FP8 ? (float *)at(w, row_scale) : NULL;
	w->transposed = turned ? at(w, transposed) : NULL;
	w->col_scale = turned ? (float *)at(w, col_scale) : NULL;
	w->scale = packed ? (__half *)at(w, scale) : NULL;
	w->least = w->blocks == WEIGHT_BLOCKS_Q4_1 ? (__half *)at(w, least) : NULL;
	return true;
}

/* Whether this device keeps such a weight. */
static bool storage_possible(struct cuda_device *c, const struct weight *w)
{
	bool plain = w->storage == WEIGHT_F32 || w->storage == WEIGHT_BF16;
	if (c->base.act == DTYPE_BF16 && w->storage == WEIGHT_F32)
		cuda_fail(c, SAKIORI_EUNSUPPORTED,
			"weights stored as f32 cannot be multiplied with bf16 activations; use bf16 for both, or f32 "
			"activations");
	else if (!plain && w->uses & WEIGHT_ROWS)
		cuda_fail(c, SAKIORI_EUNSUPPORTED, "an embedding is kept as bf16 or f32, never packed");
	else if (w->storage == WEIGHT_FP8 && c->architecture < 89)
		cuda_fail(c, SAKIORI_EUNSUPPORTED,
			"FP8 weights need compute capability 8.9 (Ada, Hopper or newer), and %s has %d.%d; use bf16 or "
			"q4",
			c->name, c->architecture / 10, c->architecture % 10);
	else if (w->storage == WEIGHT_FP8 && (w->rows % 16 || w->cols % 16))
		cuda_fail(c, SAKIORI_EUNSUPPORTED,
			"FP8 weights need rows and columns in multiples of 16, and this one has %zu by %zu; use bf16",
			w->rows, w->cols);
	else if (w->storage == WEIGHT_STORED && w->blocks == WEIGHT_BLOCKS_NONE)
		cuda_fail(c, SAKIORI_EUNSUPPORTED,
			"the model's file does not keep this weight in blocks of one kind (Q4_0, Q4_1 or Q8_0); use "
			"bf16 or q4");
	else if (!plain && w->storage != WEIGHT_FP8 && w->cols % w->block)
		cuda_fail(c, SAKIORI_EUNSUPPORTED,
			"blocks of %zu elements do not fit into rows of %zu columns; use bf16", w->block, w->cols);
	return !c->base.fault.code;
}

/* Elements from row to row: rows with room begin where 16-byte accesses reach them. */
static size_t row_with_room(const struct cuda_device *c, size_t cols, enum weight_storage storage, size_t room)
{
	bool joins = c->base.joins && storage == WEIGHT_BF16 && room && room <= SIZE_MAX - 8 - cols;
	return joins ? (cols + room + 7) / 8 * 8 : cols;
}

static struct weight *weight_empty(struct cuda_device *c, size_t rows, size_t cols, enum weight_storage storage,
	unsigned uses, size_t room, enum weight_blocks blocks)
{
	if (c->base.fault.code)
		return NULL;
	size_t row = row_with_room(c, cols, storage, room);
	if (!rows || !cols || rows > SIZE_MAX / 8 / row) {
		cuda_fail(c, SAKIORI_EINVAL, "a weight of %zu rows and %zu columns", rows, cols);
		return NULL;
	}
	struct weight *w = (struct weight *)calloc(1, sizeof *w);
	if (!w) {
		cuda_fail(c, SAKIORI_ENOMEM, "out of memory");
		return NULL;
	}
	w->rows = rows;
	w->cols = cols;
	w->row = row;
	w->storage = storage;
	w->uses = uses;
	w->blocks = storage == WEIGHT_STORED ? blocks : WEIGHT_BLOCKS_NONE;
	w->block = storage == WEIGHT_NF4 ? 64 : storage == WEIGHT_STORED ? 32 : 1;
	if (storage_possible(c, w) && allocate(c, w))
		return w;
	free(w);
	return NULL;
}

void cuda_weight_free(struct device *d, struct weight *w)
{
	if (!w)
		return;
	cuda_memory_free(cuda_device(d), w->data, w->bytes);
	free(w);
}

bool cuda_weight_may(struct cuda_device *c, const struct weight *w, enum weight_use use)
{
	if (!c->base.fault.code && !(w->uses & use))
		cuda_fail(c, SAKIORI_EINVAL, "a weight is multiplied %s, but was not made for it",
			use == WEIGHT_FORWARD ? "forward" : "backward");
	return !c->base.fault.code;
}

/* ---- putting rows in ---- */

__global__ void round_to_bf16_kernel(float *out, const float *x, size_t n)
{
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
		out[i] = __bfloat162float(__float2bfloat16_rn(x[i]));
}

/* A weight that is being made. */
struct making {
	struct cuda_device *c;
	struct weight *w;
	void *plain; /* FP8 with a transposed copy: (rows, cols) in the activation type, of which columns are scaled at the end */
};

static size_t plain_bytes(const struct making *m)
{
	return m->w->rows * m->w->cols * m->c->base.act_size;
}

static bool making_begin(struct making *m, struct cuda_device *c, struct weight *w)
{
	*m = (struct making){c, w, NULL};
	if (w && w->transposed)
		m->plain = cuda_memory_new(c, plain_bytes(m), "quantizing a weight");
	return w && (m->plain || !w->transposed);
}

/* Rows of a weight with room; a block each. */
__global__ void put_rows_kernel(__nv_bfloat16 *out, size_t out_row, const float *rows, size_t cols)
{
	for (size_t i = threadIdx.x; i < cols; i += blockDim.x)
		out[blockIdx.x * out_row + i] = __float2bfloat16_rn(rows[blockIdx.x * cols + i]);
}

/* f32 rows in device memory. */
static void making_put(struct making *m, size_t first, size_t count, const float *rows)
{
	struct cuda_device *c = m->c;
	struct weight *w = m->w;
	size_t n = count * w->cols, offset = first * w->cols;
	if (w->storage == WEIGHT_NF4 || w->storage == WEIGHT_FP8) {
		cuda_weight_pack(c, w, first, count, rows);
		if (m->plain)
			cuda_to_act(&c->base, act_at(&c->base, m->plain, offset), rows, n);
	} else if (w->storage == WEIGHT_BF16 && c->base.act == DTYPE_F32) {
		round_to_bf16_kernel<<<cuda_blocks(c, n, 256), 256, 0, c->stream>>>((float *)w->data + offset, rows, n);
		cuda_launched(c, "rounding a weight");
	} else if (w->row != w->cols) {
		put_rows_kernel<<<(unsigned)count, 256, 0, c->stream>>>(
			(__nv_bfloat16 *)w->data + first * w->row, w->row, rows, w->cols);
		cuda_launched(c, "rounding a weight");
	} else {
		cuda_to_act(&c->base, act_at(&c->base, w->data, offset), rows, n);
	}
}

/* The weight, or NULL after freeing it because something failed. */
static struct weight *making_end(struct making *m)
{
	if (m->plain && !m->c->base.fault.code)
		cuda_weight_pack_columns(m->c, m->w, m->plain);
	if (m->plain)
		cuda_memory_free(m->c, m->plain, plain_bytes(m));
	if (!m->c->base.fault.code)
		return m->w;
	cuda_weight_free(&m->c->base, m->w);
	return NULL;
}

/* ---- sources ---- */

static const char *error_text(int code)
{
	switch (code) {
#define X(name, value, text)                                                                                           \
	case -(value):                                                                                                 \
		return text;
		SAKIORI_ERRORS(X)
#undef X
	default:
		return "unknown error";
	}
}

/* Elements first .. first+n-1 of a source of random values; a thread makes the eight of one block. */
__global__ void normals_kernel(
	float *out, const __nv_bfloat16 *normals, uint64_t seed, uint64_t stream, size_t first, size_t n)
{
	size_t block = first / 8 + (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (block * 8 >= first + n)
		return;
	uint32_t words[4];
	philox(seed, stream, block, words);
#pragma unroll
	for (int i = 0; i < 8; i++) {
		size_t element = block * 8 + i;
		if (element >= first && element < first + n)
			out[element - first] = __bfloat162float(normals[words[i / 2] >> 16 * (i % 2) & 0xffff]);
	}
}

static void make_normals(struct cuda_device *c, const struct weight_staging *s, const struct weight_source *source,
	size_t first, size_t n)
{
	size_t blocks = (first + n + 7) / 8 - first / 8;
	normals_kernel<<<(unsigned)((blocks + 255) / 256), 256, 0, c->stream>>>(
		(float *)s->rows, (const __nv_bfloat16 *)s->normals, source->seed, source->stream, first, n);
	cuda_launched(c, "making random weights");
}

/* Lets the source write rows to a free host buffer and sends them to s->rows. */
static void fill_rows(struct cuda_device *c, struct weight_staging *s, const struct weight_source *source, bool stored,
	unsigned piece, size_t first, size_t count, size_t row_bytes)
{
	const char *what = "filling a weight";
	void *host = s->host[piece % 2];
	cudaEvent_t copied = s->copied[piece % 2];
	if (!cuda_well(c, cudaEventSynchronize(copied), what))
		return;
	int rc = stored ? source->fill_stored(source->self, first, count, host)
			: source->fill(source->self, first, count, (float *)host);
	if (rc) {
		cuda_fail(c, rc, "reading a weight failed: %s", error_text(rc));
		return;
	}
	cuda_well(c, cudaMemcpyAsync(s->rows, host, count * row_bytes, cudaMemcpyHostToDevice, c->stream), what);
	cuda_well(c, cudaEventRecord(copied, c->stream), what);
}

static void read_source(struct making *m, const struct weight_source *source)
{
	struct cuda_device *c = m->c;
	struct weight *w = m->w;
	bool stored = w->storage == WEIGHT_STORED, random = !stored && source->normals;
	size_t row_bytes = stored ? w->cols / w->block * cuda_weight_block_bytes(w->blocks) : w->cols * sizeof(float);
	struct weight_staging *s = staging(c, row_bytes);
	if (!s)
		return;
	if (random)
		cuda_upload(&c->base, s->normals, source->normals, 65536 * sizeof *s->normals);
	size_t step = s->bytes / row_bytes;
	unsigned piece = 0;
	for (size_t first = 0; first < w->rows && !c->base.fault.code; first += step, piece++) {
		size_t count = w->rows - first < step ? w->rows - first : step;
		if (random)
			make_normals(c, s, source, first * w->cols, count * w->cols);
		else
			fill_rows(c, s, source, stored, piece, first, count, row_bytes);
		if (c->base.fault.code)
			return;
		if (stored)
			cuda_weight_split(c, w, first, count, s->rows);
		else
			making_put(m, first, count, (const float *)s->rows);
	}
}

struct weight *cuda_weight_new(struct device *d, size_t rows, size_t cols, enum weight_storage storage, unsigned uses,
	size_t room, const struct weight_source *source)
{
	struct cuda_device *c = cuda_device(d);
	struct making m;
	struct weight *w = weight_empty(
		c, rows, cols, storage, uses, room, source->fill_stored ? source->blocks : WEIGHT_BLOCKS_NONE);
	if (!w)
		return NULL;
	if (making_begin(&m, c, w))
		read_source(&m, source);
	return making_end(&m);
}

/* ---- weights out of weights ---- */

/* Rows first .. first+count-1 of a slice as f32 (count, cols). rows, cols: which of the source's, NULL: all in order. */
template <typename T>
__global__ void gather_kernel(float *out, const T *in, size_t in_row, const uint32_t *rows, const uint32_t *cols,
	size_t first, size_t count, size_t width)
{
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count * width;
		i += (size_t)gridDim.x * blockDim.x) {
		size_t row = first + i / width, col = i % width;
		out[i] = act_load(in[(rows ? rows[row] : row) * in_row + (cols ? cols[col] : col)]);
	}
}

static void gather(struct making *m, const struct weight *w, enum weight_axis axis, const uint32_t *list)
{
	struct cuda_device *c = m->c;
	const uint32_t *rows = axis == WEIGHT_AXIS_ROWS ? list : NULL, *cols = axis == WEIGHT_AXIS_ROWS ? NULL : list;
	size_t width = m->w->cols;
	struct weight_staging *s = staging(c, width * sizeof(float));
	if (!s)
		return;
	size_t step = s->bytes / (width * sizeof(float));
	for (size_t first = 0; first < m->w->rows && !c->base.fault.code; first += step) {
		size_t count = m->w->rows - first < step ? m->w->rows - first : step;
		unsigned blocks = cuda_blocks(c, count * width, 256);
		float *out = (float *)s->rows;
		if (c->base.act == DTYPE_BF16)
			gather_kernel<<<blocks, 256, 0, c->stream>>>(
				out, (const __nv_bfloat16 *)w->data, w->row, rows, cols, first, count, width);
		else
			gather_kernel<<<blocks, 256, 0, c->stream>>>(
				out, (const float *)w->data, w->row, rows, cols, first, count, width);
		if (cuda_launched(c, "slicing a weight"))
			making_put(m, first, count, out);
	}
}

static bool is_plain(struct cuda_device *c, const struct weight *w, const char *what)
{
	if (!c->base.fault.code && w->storage != WEIGHT_F32 && w->storage != WEIGHT_BF16)
		cuda_fail(c, SAKIORI_EUNSUPPORTED, "a packed weight cannot be %s; load it as bf16", what);
	return !c->base.fault.code;
}

struct weight *cuda_weight_slice(
	struct device *d, const struct weight *w, enum weight_axis axis, const uint32_t *indices, size_t n)
{
	struct cuda_device *c = cuda_device(d);
	if (!is_plain(c, w, "sliced"))
		return NULL;
	size_t bound = axis == WEIGHT_AXIS_ROWS ? w->rows : w->cols;
	for (size_t i = 0; i < n; i++)
		if (indices[i] >= bound) {
			cuda_fail(c, SAKIORI_EINVAL, "a slice asks for index %u of %zu", (unsigned)indices[i], bound);
			return NULL;
		}
	bool by_rows = axis == WEIGHT_AXIS_ROWS;
	struct making m;
	struct weight *made = weight_empty(
		c, by_rows ? n : w->rows, by_rows ? w->cols : n, w->storage, w->uses, 0, WEIGHT_BLOCKS_NONE);
	if (!made)
		return NULL;
	if (making_begin(&m, c, made)) {
		uint32_t *list = (uint32_t *)cuda_memory_new(c, n * sizeof *list, "slicing a weight");
		if (list) {
			cuda_upload(d, list, indices, n * sizeof *list);
			gather(&m, w, axis, list);
			cuda_memory_free(c, list, n * sizeof *list);
		}
	}
	return making_end(&m);
}

/* rows (count, cols) += scale * B A, in f32. */
__global__ void add_product_kernel(
	float *rows, const float *a, const float *b, size_t rank, float scale, size_t first, size_t count, size_t cols)
{
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count * cols;
		i += (size_t)gridDim.x * blockDim.x) {
		size_t row = first + i / cols, col = i % cols;
		float sum = rows[i];
		for (size_t k = 0; k < rank; k++)
			sum += scale * b[row * rank + k] * a[k * cols + col];
		rows[i] = sum;
	}
}

/* A packed weight plus an adapter is no longer packed: its sum is kept in the activation type. */
struct weight *cuda_weight_merged(
	struct device *d, const struct weight *w, const float *a, const float *b, size_t rank, float scale)
{
	struct cuda_device *c = cuda_device(d);
	bool packed = w->storage != WEIGHT_F32 && w->storage != WEIGHT_BF16;
	enum weight_storage storage = !packed ? w->storage : d->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
	struct making m;
	struct weight *made = weight_empty(c, w->rows, w->cols, storage, w->uses, 0, WEIGHT_BLOCKS_NONE);
	if (!made)
		return NULL;
	making_begin(&m, c, made);
	struct weight_staging *s = staging(c, w->cols * sizeof(float));
	size_t step = s ? s->bytes / (w->cols * sizeof(float)) : 1;
	for (size_t first = 0; first < w->rows && !d->fault.code; first += step) {
		size_t count = w->rows - first < step ? w->rows - first : step;
		float *rows = (float *)s->rows;
		cuda_weight_values(c, w, first, count, rows);
		add_product_kernel<<<cuda_blocks(c, count * w->cols, 256), 256, 0, c->stream>>>(
			rows, a, b, rank, scale, first, count, w->cols);
		if (cuda_launched(c, "merging an adapter"))
			making_put(&m, first, count, rows);
	}
	return making_end(&m);
}

/* ---- single elements and rows ---- */

template <typename T>
__global__ void write_kernel(
	T *out, size_t cols, size_t row, const uint64_t *indices, const float *values, size_t n, bool round)
{
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i >= n || (i + 1 < n && indices[i + 1] == indices[i]))
		return;
	out[indices[i] / cols * row + indices[i] % cols] =
		act_store<T>(round ? __bfloat162float(__float2bfloat16_rn(values[i])) : values[i]);
}

struct written {
	uint64_t index;
	size_t order;
	float value;
};

static int compare_written(const void *x, const void *y)
{
	const struct written *a = (const struct written *)x, *b = (const struct written *)y;
	if (a->index != b->index)
		return a->index < b->index ? -1 : 1;
	return a->order < b->order ? -1 : a->order > b->order;
}

/* Sorted, so that of several values for one element the last one is written, as it would be one after another. */
static void *sort_written(const uint64_t *indices, const float *values, size_t n)
{
	struct written *list = (struct written *)malloc(n * sizeof *list);
	char *out = (char *)malloc(n * (sizeof *indices + sizeof *values));
	for (size_t i = 0; list && out && i < n; i++)
		list[i] = (struct written){indices[i], i, values[i]};
	if (list && out)
		qsort(list, n, sizeof *list, compare_written);
	for (size_t i = 0; list && out && i < n; i++) {
		((uint64_t *)out)[i] = list[i].index;
		((float *)(out + n * sizeof *indices))[i] = list[i].value;
	}
	if (!list) {
		free(out);
		out = NULL;
	}
	free(list);
	return out;
}

void cuda_weight_write(struct device *d, struct weight *w, const uint64_t *indices, const float *values, size_t n)
{
	struct cuda_device *c = cuda_device(d);
	const char *what = "writing to a weight";
	if (!n || !is_plain(c, w, "written to"))
		return;
	for (size_t i = 0; i < n; i++)
		if (indices[i] / w->cols >= w->rows) {
			cuda_fail(c, SAKIORI_EINVAL, "a write to element %llu of a weight of %zu by %zu",
				(unsigned long long)indices[i], w->rows, w->cols);
			return;
		}
	size_t bytes = n * (sizeof *indices + sizeof *values);
	void *host = sort_written(indices, values, n);
	if (!host) {
		cuda_fail(c, SAKIORI_ENOMEM, "out of memory");
		return;
	}
	uint64_t *list = (uint64_t *)cuda_memory_new(c, bytes, what);
	if (list) {
		cuda_upload(d, list, host, bytes);
		const float *news = (const float *)(list + n);
		unsigned blocks = (unsigned)((n + 255) / 256);
		if (d->act == DTYPE_BF16)
			write_kernel<<<blocks, 256, 0, c->stream>>>(
				(__nv_bfloat16 *)w->data, w->cols, w->row, list, news, n, false);
		else
			write_kernel<<<blocks, 256, 0, c->stream>>>(
				(float *)w->data, w->cols, w->row, list, news, n, w->storage == WEIGHT_BF16);
		cuda_launched(c, what);
		cuda_memory_free(c, list, bytes);
	}
	free(host);
}

/* There is one layout of what can be written to. */
void cuda_weight_repack(struct device *d, struct weight *w)
{
	(void)d;
	(void)w;
}

void cuda_weight_read(struct device *d, const struct weight *w, size_t first, size_t count, float *out)
{
	struct cuda_device *c = cuda_device(d);
	if (!d->fault.code && (first > w->rows || count > w->rows - first))
		cuda_fail(c, SAKIORI_EINVAL, "reading rows %zu to %zu of a weight of %zu rows", first, first + count,
			w->rows);
	struct weight_staging *s = d->fault.code ? NULL : staging(c, w->cols * sizeof(float));
	size_t step = s ? s->bytes / (w->cols * sizeof(float)) : count;
	for (size_t done = 0; done < count; done += step) {
		size_t rows = count - done < step ? count - done : step;
		if (s)
			cuda_weight_values(c, w, first + done, rows, (float *)s->rows);
		cuda_download(d, out + done * w->cols, s ? s->rows : NULL, rows * w->cols * sizeof(float));
	}
}

size_t cuda_weight_bytes(const struct weight *w)
{
	return w->bytes;
}

/* ---- embedding ---- */

/* A block copies a token's row, V at a time. */
template <typename V>
__global__ void embedding_kernel(
	V *out, const V *rows, const uint32_t *ids, size_t row_count, size_t width, size_t row, uint32_t *trouble)
{
	uint32_t id = ids[blockIdx.x];
	V *to = out + blockIdx.x * width;
	if (id >= row_count) {
		*trouble = 1;
		return;
	}
	const V *from = rows + id * row;
#pragma unroll 4
	for (size_t i = threadIdx.x; i < width; i += blockDim.x)
		to[i] = from[i];
}

void cuda_embedding(struct device *d, size_t n, const uint32_t *ids, const struct weight *w, void *out)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code || !n || !is_plain(c, w, "read row by row"))
		return;
	size_t bytes = w->cols * d->act_size, row_bytes = w->row * d->act_size;
	unsigned threads = bytes / 16 > 128 ? 256 : 64;
	uint32_t *trouble = &c->trouble[TROUBLE_ID];
	if (bytes % 16 == 0 && row_bytes % 16 == 0 && (uintptr_t)out % 16 == 0)
		embedding_kernel<<<(unsigned)n, threads, 0, c->stream>>>(
			(uint4 *)out, (const uint4 *)w->data, ids, w->rows, bytes / 16, row_bytes / 16, trouble);
	else
		embedding_kernel<<<(unsigned)n, threads, 0, c->stream>>>(
			(uint16_t *)out, (const uint16_t *)w->data, ids, w->rows, bytes / 2, row_bytes / 2, trouble);
	cuda_launched(c, "looking up embeddings");
}
