/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu.cuh"

void *cuda_memory_new(struct cuda_device *c, size_t bytes, const char *what)
{
	void *p = NULL;
	if (c->base.fault.code)
		return NULL;
	if (c->capturing) {
		cuda_fail(c, SAKIORI_EDEVICE,
			"%s: %zu bytes were wanted while recording; run the sequence once more first", what, bytes);
		return NULL;
	}
	cudaError_t e = cudaMalloc(&p, bytes ? bytes : 256);
	if (e == cudaErrorMemoryAllocation && c->recordings) { /* their graphs take memory too, and can be made again */
		cudaGetLastError();
		cuda_recordings_drop(c);
		e = cudaMalloc(&p, bytes ? bytes : 256);
	}
	if (e == cudaErrorMemoryAllocation) {
		size_t free = 0, total = 0;
		cudaGetLastError();
		cudaMemGetInfo(&free, &total);
		cuda_fail(c, SAKIORI_ENOMEM,
			"out of memory on %s: %zu bytes wanted for %s, %zu of %zu are free; use smaller batches, a "
			"smaller model or "
			"another memory mode",
			c->name, bytes, what, free, total);
		return NULL;
	}
	if (!cuda_well(c, e, what))
		return NULL;
	c->used += bytes;
	c->peak = c->used > c->peak ? c->used : c->peak;
	return p;
}

/* Nothing issued may still use what is freed. */
static void wait_for_streams(struct cuda_device *c)
{
	cuda_well(c, cudaStreamSynchronize(c->copies), "waiting for the copies");
	cuda_well(c, cudaStreamSynchronize(c->stream), "waiting for the card");
}

void cuda_memory_free(struct cuda_device *c, void *p, size_t bytes)
{
	if (!p)
		return;
	wait_for_streams(c);
	cuda_well(c, cudaFree(p), "freeing memory");
	c->used -= bytes;
}

void *cuda_scratch(struct cuda_device *c, enum cuda_scratch_slot slot, size_t bytes)
{
	if (c->base.fault.code)
		return NULL;
	if (c->scratch[slot] && c->scratch_bytes[slot] >= bytes)
		return c->scratch[slot];
	size_t rounded = (bytes + 255) / 256 * 256;
	rounded = rounded ? rounded : 256;
	if (!c->capturing) {
		cuda_recordings_drop(c);
		cuda_memory_free(c, c->scratch[slot], c->scratch_bytes[slot]);
		c->scratch[slot] = NULL;
		c->scratch_bytes[slot] = 0;
	}
	void *p = cuda_memory_new(c, rounded, "working space");
	if (p) {
		c->scratch[slot] = p;
		c->scratch_bytes[slot] = rounded;
	}
	return p;
}

void *cuda_alloc(struct device *d, size_t bytes)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code || !bytes)
		return NULL;
	if (c->allocation_count == c->allocation_capacity) {
		size_t capacity = c->allocation_capacity ? 2 * c->allocation_capacity : 64;
		void *grown = realloc(c->allocations, capacity * sizeof *c->allocations);
		if (!grown) {
			cuda_fail(c, SAKIORI_ENOMEM, "out of memory");
			return NULL;
		}
		c->allocations = (struct allocation *)grown;
		c->allocation_capacity = capacity;
	}
	void *p = cuda_memory_new(c, bytes, "buffers");
	if (!p)
		return NULL;
	c->allocations[c->allocation_count++] = (struct allocation){p, bytes};
	cuda_zero(d, p, bytes);
	return p;
}

void cuda_release(struct device *d, void *p)
{
	struct cuda_device *c = cuda_device(d);
	for (size_t i = 0; p && i < c->allocation_count; i++)
		if (c->allocations[i].p == p) {
			/* Another activation may get the place, and is not what a form was made of. */
			c->fp8_wanted = c->fp8_ready = (struct fp8_form){};
			cuda_memory_free(c, p, c->allocations[i].bytes);
			c->allocations[i] = c->allocations[--c->allocation_count];
			return;
		}
}

void cuda_upload(struct device *d, void *to, const void *host, size_t bytes)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code || !bytes)
		return;
	const char *what = "copying to the card";
	if (bytes > UPLOAD_PIECE_BYTES) {
		if (cuda_well(c, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, c->stream), what))
			cuda_well(c, cudaStreamSynchronize(c->stream), what);
		return;
	}
	unsigned piece = c->upload_next;
	c->upload_next = (piece + 1) % UPLOAD_PIECES;
	char *staged = (char *)c->upload_ring + piece * UPLOAD_PIECE_BYTES;
	if (!cuda_well(c, cudaEventSynchronize(c->uploaded[piece]), what))
		return;
	memcpy(staged, host, bytes);
	if (cuda_well(c, cudaMemcpyAsync(to, staged, bytes, cudaMemcpyHostToDevice, c->stream), what))
		cuda_well(c, cudaEventRecord(c->uploaded[piece], c->stream), what);
}

void cuda_download(struct device *d, void *host, const void *from, size_t bytes)
{
	struct cuda_device *c = cuda_device(d);
	if (!bytes)
		return;
	if (!d->fault.code)
		cuda_well(c, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, c->stream),
			"copying from the card");
	if (!cuda_finish(c))
		memset(host, 0, bytes);
}

void cuda_zero(struct device *d, void *p, size_t bytes)
{
	struct cuda_device *c = cuda_device(d);
	if (!d->fault.code && bytes)
		cuda_well(c, cudaMemsetAsync(p, 0, bytes, c->stream), "zeroing memory");
}

void cuda_copy(struct device *d, void *to, const void *from, size_t bytes)
{
	struct cuda_device *c = cuda_device(d);
	if (!d->fault.code && bytes)
		cuda_well(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, c->stream), "copying memory");
}

void cuda_memory(struct device *d, struct device_memory *out)
{
	struct cuda_device *c = cuda_device(d);
	*out = (struct device_memory){.used = c->used, .peak = c->peak};
	if (!d->fault.code)
		cuda_well(c, cudaMemGetInfo(&out->free, &out->total), "asking for the free memory");
}

void *cuda_host_alloc(struct device *d, size_t bytes)
{
	struct cuda_device *c = cuda_device(d);
	void *p = NULL;
	if (d->fault.code || !bytes)
		return NULL;
	cudaError_t e = cudaHostAlloc(&p, bytes, cudaHostAllocPortable);
	if (e == cudaErrorMemoryAllocation) {
		cudaGetLastError();
		cuda_fail(c, SAKIORI_ENOMEM,
			"out of host memory that can be page-locked: %zu bytes wanted; offload less or use smaller "
			"batches",
			bytes);
		return NULL;
	}
	return cuda_well(c, e, "page-locking host memory") ? p : NULL;
}

void cuda_host_release(struct device *d, void *p)
{
	struct cuda_device *c = cuda_device(d);
	if (!p)
		return;
	wait_for_streams(c);
	cuda_well(c, cudaFreeHost(p), "freeing host memory");
}

/* ---- copies beside the computation: they fork off `stream` and join it again, in a capture too ---- */

static void copy_beside(
	struct cuda_device *c, unsigned slot, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
	const char *what = "copying beside the computation";
	if (c->base.fault.code || !bytes)
		return;
	if (slot >= DEVICE_COPY_SLOTS) {
		cuda_fail(c, SAKIORI_EINVAL, "copy slot %u of %d", slot, DEVICE_COPY_SLOTS);
		return;
	}
	if (cuda_well(c, cudaEventRecord(c->issued, c->stream), what) &&
		cuda_well(c, cudaStreamWaitEvent(c->copies, c->issued, 0), what) &&
		cuda_well(c, cudaMemcpyAsync(to, from, bytes, kind, c->copies), what) &&
		cuda_well(c, cudaEventRecord(c->copied[slot], c->copies), what))
		c->copies_pending |= 1u << slot;
}

void cuda_send(struct device *d, unsigned slot, void *host, const void *from, size_t bytes)
{
	copy_beside(cuda_device(d), slot, host, from, bytes, cudaMemcpyDeviceToHost);
}

void cuda_fetch(struct device *d, unsigned slot, void *to, const void *host, size_t bytes)
{
	copy_beside(cuda_device(d), slot, to, host, bytes, cudaMemcpyHostToDevice);
}

/* A slot that is not pending was joined already, perhaps by the end of a recording, whose events nobody outside may wait for. */
void cuda_copy_wait(struct device *d, unsigned slot)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code || slot >= DEVICE_COPY_SLOTS || !(c->copies_pending >> slot & 1))
		return;
	if (cuda_well(c, cudaStreamWaitEvent(c->stream, c->copied[slot], 0), "waiting for a copy"))
		c->copies_pending &= ~(1u << slot);
}

void cuda_copies_join(struct cuda_device *c)
{
	const char *what = "waiting for the copies";
	if (!c->copies_pending)
		return;
	c->copies_pending = 0;
	if (cuda_well(c, cudaEventRecord(c->issued, c->copies), what))
		cuda_well(c, cudaStreamWaitEvent(c->stream, c->issued, 0), what);
}
