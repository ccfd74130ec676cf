/* SPDX-License-Identifier: Apache-2.0 */
/* The tokens of an index list, gathered for a linear with adapters and scattered again. */
#include "gpu/lora.cuh"

/* A warp moves a token; `bytes` of each, in pieces of the type. */
template <typename Piece>
__global__ void move_tokens(
	size_t n, size_t pieces, const uint32_t *index, Piece *compact, Piece *full, size_t full_row, bool scatter)
{
	size_t warp = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / 32, warps = (size_t)gridDim.x * blockDim.x / 32;
	for (size_t i = warp; i < n; i += warps) {
		Piece *there = full + index[i] * full_row, *here = compact + i * pieces;
		for (size_t p = threadIdx.x % 32; p < pieces; p += 32)
			if (scatter)
				there[p] = here[p];
			else
				here[p] = there[p];
	}
}

static void move(struct cuda_device *c, const struct tokens *t, void *compact, void *full, size_t width,
	size_t full_row, bool scatter)
{
	size_t n = t->index_count, bytes = width * c->base.act_size, row_bytes = full_row * c->base.act_size;
	if (c->base.fault.code || !n || !bytes)
		return;
	unsigned blocks = cuda_blocks(c, n, 8);
	if (!((bytes | row_bytes) % 16) && !(((uintptr_t)compact | (uintptr_t)full) % 16))
		move_tokens<<<blocks, 256, 0, c->stream>>>(
			n, bytes / 16, t->index, (uint4 *)compact, (uint4 *)full, row_bytes / 16, scatter);
	else
		move_tokens<<<blocks, 256, 0, c->stream>>>(
			n, bytes / 2, t->index, (uint16_t *)compact, (uint16_t *)full, row_bytes / 2, scatter);
	cuda_launched(c, "moving tokens");
}

void *lora_gather(struct cuda_device *c, const struct tokens *t, enum cuda_scratch_slot slot, const void *full,
	size_t width, size_t full_row, bool read)
{
	if (!t->index || !full || !t->index_count)
		return (void *)full;
	void *compact = cuda_scratch(c, slot, t->index_count * width * c->base.act_size);
	if (compact && read)
		move(c, t, compact, (void *)full, width, full_row, false);
	return compact;
}

void lora_scatter(struct cuda_device *c, const struct tokens *t, void *compact, void *full, size_t width)
{
	if (t->index && full)
		move(c, t, compact, full, width, width, true);
}
