/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights: elements in blocks along a row, so that element i of the matrix belongs to scale i / block, whatever its row. */
#include <float.h>

#include "gpu/gpu.cuh"

#define UNPACK_THREADS 256
#define UNPACK_GROUPS 4 /* groups of 8 elements that a thread has in flight */

/* The 16 values of 4-bit NormalFloat: QLoRA (Dettmers et al. 2023), appendix E. */
__constant__ float normal_float[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
	-0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f,
	0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
	0.7229568362236023f, 1.0f};

enum packing { PACKING_NF4, PACKING_Q4_0, PACKING_Q4_1, PACKING_Q8_0 };

static enum packing packing_of(const struct weight *w)
{
	if (w->storage == WEIGHT_NF4)
		return PACKING_NF4;
	return w->blocks == WEIGHT_BLOCKS_Q4_0   ? PACKING_Q4_0
	       : w->blocks == WEIGHT_BLOCKS_Q4_1 ? PACKING_Q4_1
						 : PACKING_Q8_0;
}

size_t cuda_weight_block_bytes(enum weight_blocks blocks)
{
	return blocks == WEIGHT_BLOCKS_Q4_0 ? 18 : blocks == WEIGHT_BLOCKS_Q4_1 ? 20 : 34;
}

template <typename T> __device__ __forceinline__ void store_eight(T *out, const float (&x)[8])
{
	using vector = act_vector<T>;
#pragma unroll
	for (int i = 0; i < 8; i += vector::count) {
		vector v;
#pragma unroll
		for (int j = 0; j < vector::count; j++)
			v.at[j] = act_store<T>(x[i + j]);
		*(vector *)(out + i) = v;
	}
}

/* q - offset, exactly, without the slow conversion of an integer: q becomes the low bits of 2^23. */
__device__ __forceinline__ float small_integer(uint32_t q, float offset)
{
	return __uint_as_float(0x4b000000u | q) - (8388608.0f + offset);
}

/* Packed elements of a group of 8. */
template <enum packing packing> struct group_bits {
	uint32_t word;
};
template <> struct group_bits<PACKING_Q8_0> {
	uint2 word;
};

template <enum packing packing>
__device__ __forceinline__ void unpack_eight(
	float (&x)[8], group_bits<packing> bits, float scale, float least, const float *normal_float_values)
{
#pragma unroll
	for (int i = 0; i < 8; i++) {
		if constexpr (packing == PACKING_Q8_0) {
			uint32_t q = ((i < 4 ? bits.word.x : bits.word.y) >> 8 * (i % 4) & 255) ^ 128;
			x[i] = scale * small_integer(q, 128);
		} else {
			uint32_t q = bits.word >> 4 * i & 15;
			if constexpr (packing == PACKING_NF4)
				x[i] = scale * normal_float_values[q];
			else if constexpr (packing == PACKING_Q4_0)
				x[i] = scale * small_integer(q, 8);
			else
				x[i] = scale * small_integer(q, 0) + least;
		}
	}
}

/* Reads 4 or 8 bytes and writes 16 or 32 a group, neighbouring threads neighbouring groups. */
template <typename T, enum packing packing>
__global__ void __launch_bounds__(UNPACK_THREADS)
	unpack_kernel(T *out, const void *data, const __half *scale, const __half *least, size_t groups)
{
	constexpr int groups_a_scale = packing == PACKING_NF4 ? 8 : 4;
	__shared__ float values[16];
	if constexpr (packing == PACKING_NF4) {
		if (threadIdx.x < 16)
			values[threadIdx.x] = normal_float[threadIdx.x];
		__syncthreads();
	}
	const group_bits<packing> *in = (const group_bits<packing> *)data;
	size_t first = (size_t)blockIdx.x * (UNPACK_THREADS * UNPACK_GROUPS) + threadIdx.x;
	group_bits<packing> bits[UNPACK_GROUPS];
	float d[UNPACK_GROUPS], m[UNPACK_GROUPS];
#pragma unroll
	for (int i = 0; i < UNPACK_GROUPS; i++) {
		size_t group = first + i * UNPACK_THREADS;
		if (group < groups) {
			bits[i] = in[group];
			d[i] = __half2float(scale[group / groups_a_scale]);
			m[i] = packing == PACKING_Q4_1 ? __half2float(least[group / groups_a_scale]) : 0.0f;
		}
	}
#pragma unroll
	for (int i = 0; i < UNPACK_GROUPS; i++) {
		size_t group = first + i * UNPACK_THREADS;
		float x[8];
		if (group < groups) {
			unpack_eight<packing>(x, bits[i], d[i], m[i], values);
			store_eight(out + group * 8, x);
		}
	}
}

/* A block unpacks a row, 16 elements a thread. */
template <typename T> __global__ void unpack_e4m3_kernel(T *out, const void *data, const float *row_scale, size_t cols)
{
	size_t row = blockIdx.x;
	float scale = row_scale[row];
	const uint4 *in = (const uint4 *)((const char *)data + row * cols);
	for (size_t i = threadIdx.x; i < cols / 16; i += blockDim.x) {
		uint4 bits = in[i];
		const __nv_fp8_e4m3 *q = (const __nv_fp8_e4m3 *)&bits;
		float x[2][8];
#pragma unroll
		for (int j = 0; j < 16; j++)
			x[j / 8][j % 8] = (float)q[j] * scale;
		store_eight(out + row * cols + i * 16, x[0]);
		store_eight(out + row * cols + i * 16 + 8, x[1]);
	}
}

template <typename T>
static void unpack(struct cuda_device *c, const struct weight *w, size_t first, size_t count, T *out)
{
	if (c->base.fault.code || !count)
		return;
	size_t groups = count * w->cols / 8, begin = first * w->cols;
	if (w->storage == WEIGHT_FP8) {
		unpack_e4m3_kernel<<<(unsigned)count, 128, 0, c->stream>>>(
			out, (const char *)w->data + begin, w->row_scale + first, w->cols);
		cuda_launched(c, "unpacking a weight");
		return;
	}
	const __half *scale = w->scale + begin / w->block, *least = w->least ? w->least + begin / w->block : NULL;
	unsigned blocks = (unsigned)((groups + UNPACK_THREADS * UNPACK_GROUPS - 1) / (UNPACK_THREADS * UNPACK_GROUPS));
	const char *data = (const char *)w->data + (packing_of(w) == PACKING_Q8_0 ? begin : begin / 2);
	switch (packing_of(w)) {
	case PACKING_NF4:
		unpack_kernel<T, PACKING_NF4>
			<<<blocks, UNPACK_THREADS, 0, c->stream>>>(out, data, scale, least, groups);
		break;
	case PACKING_Q4_0:
		unpack_kernel<T, PACKING_Q4_0>
			<<<blocks, UNPACK_THREADS, 0, c->stream>>>(out, data, scale, least, groups);
		break;
	case PACKING_Q4_1:
		unpack_kernel<T, PACKING_Q4_1>
			<<<blocks, UNPACK_THREADS, 0, c->stream>>>(out, data, scale, least, groups);
		break;
	case PACKING_Q8_0:
		unpack_kernel<T, PACKING_Q8_0>
			<<<blocks, UNPACK_THREADS, 0, c->stream>>>(out, data, scale, least, groups);
		break;
	}
	cuda_launched(c, "unpacking a weight");
}

void cuda_weight_unpack(struct cuda_device *c, const struct weight *w, size_t first, size_t count, void *out)
{
	if (c->base.act == DTYPE_BF16)
		unpack(c, w, first, count, (__nv_bfloat16 *)out);
	else
		unpack(c, w, first, count, (float *)out);
}

static bool is_packed(const struct weight *w)
{
	return w->storage != WEIGHT_F32 && w->storage != WEIGHT_BF16;
}

/* out (count, cols) f32 = rows that are `row` elements apart; a block each. */
template <typename T> __global__ void read_rows_kernel(float *out, const T *in, size_t row, size_t cols)
{
	for (size_t i = threadIdx.x; i < cols; i += blockDim.x)
		out[blockIdx.x * cols + i] = act_load(in[blockIdx.x * row + i]);
}

void cuda_weight_values(struct cuda_device *c, const struct weight *w, size_t first, size_t count, float *out)
{
	if (is_packed(w))
		unpack(c, w, first, count, out);
	else if (w->row == w->cols)
		cuda_from_act(&c->base, out, act_at(&c->base, w->data, first * w->cols), count * w->cols);
	else if (!c->base.fault.code && count) {
		read_rows_kernel<<<(unsigned)count, 256, 0, c->stream>>>(
			out, (const __nv_bfloat16 *)w->data + first * w->row, w->row, w->cols);
		cuda_launched(c, "reading a weight");
	}
}

const void *cuda_weight_plain(struct cuda_device *c, const struct weight *w)
{
	if (!is_packed(w))
		return w->data;
	void *out = cuda_scratch(c, SCRATCH_LARGE, w->rows * w->cols * c->base.act_size);
	if (out)
		cuda_weight_unpack(c, w, 0, w->rows, out);
	return out;
}

/* ---- with an adapter ---- */

/* The factors of one part in the activation type, at `place`, which moves on. */
static const void *factor(struct cuda_device *c, const float *x, size_t n, char **place)
{
	if (c->base.act == DTYPE_F32)
		return x;
	void *out = *place;
	cuda_to_act(&c->base, out, x, n);
	*place += (n * c->base.act_size + 255) / 256 * 256;
	return out;
}

const void *cuda_weight_with_adapter(struct cuda_device *c, const struct lora_linear *l)
{
	const struct weight *w = l->weight;
	struct device *d = &c->base;
	enum gemm_type type = gemm_act(c);
	size_t factors = 0;
	for (size_t i = 0; i < l->parts; i++)
		factors += (w->cols + l->part[i].rows) * l->part[i].rank * d->act_size + 512;
	char *place = (char *)cuda_scratch(c, SCRATCH_MERGE, factors);
	void *out = cuda_scratch(c, SCRATCH_LARGE, w->rows * w->row * d->act_size);
	if (!place || !out)
		return NULL;
	if (is_packed(w))
		cuda_weight_unpack(c, w, 0, w->rows, out);
	for (size_t i = 0, row = 0; i < l->parts; row += l->part[i++].rows) {
		const struct lora_part *p = &l->part[i];
		void *rows = act_at(d, out, row * w->row);
		const void *base = is_packed(w) ? rows : act_at(d, w->data, row * w->row);
		if (p->rank) {
			const void *a = factor(c, p->a, p->rank * w->cols, &place),
				   *b = factor(c, p->b, p->rows * p->rank, &place);
			struct gemm g = {.m = p->rows,
				.n = w->cols,
				.k = p->rank,
				.a_row = p->rank,
				.b_row = w->cols,
				.out_row = w->row,
				.a_type = type,
				.b_type = type,
				.out_type = type,
				.alpha = lora_part_scale(l, i),
				.beta = 1,
				.add = base};
			cuda_gemm(c, &g, b, a, rows);
		} else if (base != rows) {
			cuda_copy(d, rows, base, p->rows * w->row * d->act_size);
		}
	}
	return d->fault.code ? NULL : out;
}

/* ---- packing ---- */

/* Index of the nearest of the 16 values; the lower one where two are as near. */
__device__ __forceinline__ uint32_t nearest_normal_float(float x)
{
	uint32_t q = 0;
#pragma unroll
	for (int i = 0; i < 15; i++)
		q += x > 0.5f * (normal_float[i] + normal_float[i + 1]);
	return q;
}

/* Eight threads pack a block of 64 elements. The scale is rounded first, so that packing what was unpacked changes nothing. */
__global__ void pack_nf4_kernel(uint32_t *out, __half *scale, const float *x, size_t groups)
{
	size_t group = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	bool there = group < groups;
	float4 low = {}, high = {};
	if (there) {
		low = ((const float4 *)x)[2 * group];
		high = ((const float4 *)x)[2 * group + 1];
	}
	const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
	float most = 0;
#pragma unroll
	for (int i = 0; i < 8; i++)
		most = fmaxf(most, fabsf(v[i]));
#pragma unroll
	for (int lanes = 4; lanes; lanes /= 2)
		most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
	__half rounded = __float2half_rn(fminf(most, 65504.0f));
	float inverse = __half2float(rounded) > 0 ? 1.0f / __half2float(rounded) : 0.0f;
	uint32_t word = 0;
#pragma unroll
	for (int i = 0; i < 8; i++)
		word |= nearest_normal_float(v[i] * inverse) << 4 * i;
	if (there) {
		out[group] = word;
		if (group % 8 == 0)
			scale[group / 8] = rounded;
	}
}

/* The largest magnitude of a row or column becomes E4M3's largest value; nothing but zeros keeps a scale that can be divided by. */
__device__ __forceinline__ float e4m3_scale(float most)
{
	return fmaxf(most / E4M3_MAX, FLT_MIN);
}

__device__ __forceinline__ __nv_fp8_storage_t e4m3(float x)
{
	return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

/* A block of 256 threads packs a row. */
__global__ void pack_e4m3_kernel(uint32_t *out, float *row_scale, const float *x, size_t cols)
{
	__shared__ float warps[8];
	const float4 *row = (const float4 *)(x + blockIdx.x * cols);
	float most = 0;
	for (size_t i = threadIdx.x; i < cols / 4; i += 256) {
		float4 v = row[i];
		most = fmaxf(fmaxf(fmaxf(most, fabsf(v.x)), fmaxf(fabsf(v.y), fabsf(v.z))), fabsf(v.w));
	}
#pragma unroll
	for (int lanes = 16; lanes; lanes /= 2)
		most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
	if (threadIdx.x % 32 == 0)
		warps[threadIdx.x / 32] = most;
	__syncthreads();
#pragma unroll
	for (int i = 0; i < 8; i++)
		most = fmaxf(most, warps[i]);
	float scale = e4m3_scale(most);
	for (size_t i = threadIdx.x; i < cols / 4; i += 256) {
		float4 v = row[i];
		out[blockIdx.x * (cols / 4) + i] = e4m3(v.x / scale) | e4m3(v.y / scale) << 8 |
						   e4m3(v.z / scale) << 16 | (uint32_t)e4m3(v.w / scale) << 24;
	}
	if (threadIdx.x == 0)
		row_scale[blockIdx.x] = scale;
}

void cuda_weight_pack(struct cuda_device *c, struct weight *w, size_t first, size_t count, const float *rows)
{
	if (c->base.fault.code || !count)
		return;
	size_t begin = first * w->cols, groups = count * w->cols / 8;
	if (w->storage == WEIGHT_FP8)
		pack_e4m3_kernel<<<(unsigned)count, 256, 0, c->stream>>>(
			(uint32_t *)((char *)w->data + begin), w->row_scale + first, rows, w->cols);
	else
		pack_nf4_kernel<<<(unsigned)((groups + 255) / 256), 256, 0, c->stream>>>(
			(uint32_t *)w->data + begin / 8, w->scale + begin / w->block, rows, groups);
	cuda_launched(c, "packing a weight");
}

/* ---- the transposed copy of FP8 ---- */

/* most (cols), zero at first: the bits of the largest magnitude, which compare like the numbers. Blocks of 32 by 8 threads; blockIdx.y
 * takes the rows in strips of 256. */
template <typename T> __global__ void columns_most_kernel(uint32_t *most, const T *x, size_t rows, size_t cols)
{
	size_t col = (size_t)blockIdx.x * 32 + threadIdx.x;
	float m = 0;
	for (size_t i = threadIdx.y; i < 256; i += 8) {
		size_t row = (size_t)blockIdx.y * 256 + i;
		if (row < rows && col < cols)
			m = fmaxf(m, fabsf(act_load(x[row * cols + col])));
	}
	if (col < cols)
		atomicMax(&most[col], __float_as_uint(m));
}

__global__ void columns_scale_kernel(float *scale, size_t cols)
{
	size_t col = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (col < cols)
		scale[col] = e4m3_scale(scale[col]);
}

/* Tiles of 64 by 64 through shared memory; blocks of 64 by 4 threads. rows and cols are multiples of 16. */
template <typename T>
__global__ void pack_columns_kernel(uint8_t *out, const float *scale, const T *x, size_t rows, size_t cols)
{
	__shared__ __align__(4) uint8_t tile[64][68];
	size_t col0 = (size_t)blockIdx.x * 64, row0 = (size_t)blockIdx.y * 64;
	size_t col = col0 + threadIdx.x;
	float s = col < cols ? scale[col] : 1.0f;
	for (int i = threadIdx.y; i < 64; i += 4)
		if (row0 + i < rows && col < cols)
			tile[threadIdx.x][i] = e4m3(act_load(x[(row0 + i) * cols + col]) / s);
	__syncthreads();
	int word = threadIdx.x % 16, line = threadIdx.y * 4 + threadIdx.x / 16;
	for (int i = line; i < 64; i += 16)
		if (col0 + i < cols && row0 + 4 * word < rows)
			*(uint32_t *)(out + (col0 + i) * rows + row0 + 4 * word) =
				*(const uint32_t *)&tile[i][4 * word];
}

template <typename T> static void pack_columns(struct cuda_device *c, struct weight *w, const T *plain)
{
	const char *what = "packing a weight's columns";
	dim3 strips((unsigned)((w->cols + 31) / 32), (unsigned)((w->rows + 255) / 256));
	dim3 tiles((unsigned)((w->cols + 63) / 64), (unsigned)((w->rows + 63) / 64));
	cuda_zero(&c->base, w->col_scale, w->cols * sizeof *w->col_scale);
	columns_most_kernel<<<strips, dim3(32, 8), 0, c->stream>>>((uint32_t *)w->col_scale, plain, w->rows, w->cols);
	cuda_launched(c, what);
	columns_scale_kernel<<<(unsigned)((w->cols + 255) / 256), 256, 0, c->stream>>>(w->col_scale, w->cols);
	cuda_launched(c, what);
	pack_columns_kernel<<<tiles, dim3(64, 4), 0, c->stream>>>(
		(uint8_t *)w->transposed, w->col_scale, plain, w->rows, w->cols);
	cuda_launched(c, what);
}

void cuda_weight_pack_columns(struct cuda_device *c, struct weight *w, const void *plain)
{
	if (c->base.act == DTYPE_BF16)
		pack_columns(c, w, (const __nv_bfloat16 *)plain);
	else
		pack_columns(c, w, (const float *)plain);
}

/* ---- blocks of a file ---- */

/* A thread splits a block. GGUF has element i of the first half in a byte's low nibble and i + 16 in its high one. */
__global__ void split_kernel(void *data, __half *scale, __half *least, const uint16_t *in, enum weight_blocks blocks,
	size_t block_bytes, size_t count)
{
	size_t block = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (block >= count)
		return;
	const uint16_t *from = in + block * (block_bytes / 2);
	scale[block] = __ushort_as_half(*from++);
	if (blocks == WEIGHT_BLOCKS_Q4_1)
		least[block] = __ushort_as_half(*from++);
	uint32_t words[8];
	if (blocks == WEIGHT_BLOCKS_Q8_0) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			words[i] = from[2 * i] | (uint32_t)from[2 * i + 1] << 16;
		uint4 *out = (uint4 *)data + 2 * block;
		out[0] = make_uint4(words[0], words[1], words[2], words[3]);
		out[1] = make_uint4(words[4], words[5], words[6], words[7]);
		return;
	}
	uint32_t low[2] = {}, high[2] = {};
#pragma unroll
	for (int i = 0; i < 16; i++) {
		uint32_t byte = from[i / 2] >> 8 * (i % 2) & 255;
		low[i / 8] |= (byte & 15) << 4 * (i % 8);
		high[i / 8] |= byte >> 4 << 4 * (i % 8);
	}
	((uint4 *)data)[block] = make_uint4(low[0], low[1], high[0], high[1]);
}

void cuda_weight_split(struct cuda_device *c, struct weight *w, size_t first, size_t count, const void *blocks)
{
	if (c->base.fault.code || !count)
		return;
	size_t begin = first * w->cols / w->block, n = count * w->cols / w->block;
	size_t bytes = w->blocks == WEIGHT_BLOCKS_Q8_0 ? 32 : 16;
	split_kernel<<<(unsigned)((n + 127) / 128), 128, 0, c->stream>>>((char *)w->data + begin * bytes,
		w->scale + begin, w->least ? w->least + begin : NULL, (const uint16_t *)blocks, w->blocks,
		cuda_weight_block_bytes(w->blocks), n);
	cuda_launched(c, "splitting a weight's blocks");
}
