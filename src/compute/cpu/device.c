/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/bytes.h"
#include "compute/cpu/cpu.h"
#include "compute/cpu/gemm.h"

/* In front of what is handed out lies its size, alone in a cache line. */
#define MEMORY_HEAD 64

void *cpu_memory_new(struct device *d, size_t bytes)
{
	struct cpu_device *c = cpu_device(d);
	size_t padded;
	if (!bytes || !size_add(bytes, MEMORY_HEAD + 63, &padded))
		return NULL;
	char *p = aligned_alloc(64, padded / 64 * 64);
	if (!p)
		return NULL;
	memcpy(p, &bytes, sizeof bytes);
	c->used += bytes;
	c->peak = c->used > c->peak ? c->used : c->peak;
	return memset(p + MEMORY_HEAD, 0, bytes);
}

void cpu_memory_free(struct device *d, void *p)
{
	size_t bytes;
	if (!p)
		return;
	char *head = (char *)p - MEMORY_HEAD;
	memcpy(&bytes, head, sizeof bytes);
	cpu_device(d)->used -= bytes;
	free(head);
}

void *cpu_scratch(struct device *d, enum cpu_scratch_slot slot, size_t bytes)
{
	struct cpu_device *c = cpu_device(d);
	if (c->scratch_bytes[slot] >= bytes && c->scratch[slot])
		return c->scratch[slot];
	cpu_memory_free(d, c->scratch[slot]);
	c->scratch_bytes[slot] = bytes ? bytes : 64;
	c->scratch[slot] = cpu_memory_new(d, c->scratch_bytes[slot]);
	if (!c->scratch[slot]) {
		c->scratch_bytes[slot] = 0;
		device_fail(d, SAKIORI_ENOMEM, "out of memory: %zu bytes of working space; use smaller batches", bytes);
	}
	return c->scratch[slot];
}

void cpu_run(struct device *d, size_t n, size_t grain, cpu_body *body, void *args)
{
	if (!n)
		return;
	size_t parts = (n + grain - 1) / grain;
	if (parts > d->threads)
		parts = d->threads;
	if (parts <= 1) {
		body(args, 0, n, 0);
		return;
	}
	/* Each part is worked off whatever number of threads the run time really gives. */
#pragma omp parallel for schedule(static, 1) num_threads((int)parts)
	for (size_t part = 0; part < parts; part++)
		body(args, n * part / parts, n * (part + 1) / parts, (unsigned)part);
}

static void close_device(struct device *d)
{
	struct cpu_device *c = cpu_device(d);
	gemm_engine_free(d, c->gemm);
	for (int i = 0; i < SCRATCH_COUNT; i++)
		cpu_memory_free(d, c->scratch[i]);
	free(c);
}

static void sync_device(struct device *d)
{
	(void)d;
}

static void *alloc_memory(struct device *d, size_t bytes)
{
	if (d->fault.code || !bytes)
		return NULL;
	void *p = cpu_memory_new(d, bytes);
	if (!p)
		device_fail(
			d, SAKIORI_ENOMEM, "out of memory: %zu bytes; use smaller batches or a smaller model", bytes);
	return p;
}

static void release_memory(struct device *d, void *p)
{
	cpu_memory_free(d, p);
}

void cpu_copy(struct device *d, void *to, const void *from, size_t bytes)
{
	if (!d->fault.code && bytes)
		memcpy(to, from, bytes);
}

static void download_memory(struct device *d, void *host, const void *from, size_t bytes)
{
	if (!bytes)
		return;
	if (d->fault.code)
		memset(host, 0, bytes);
	else
		memcpy(host, from, bytes);
}

void cpu_zero(struct device *d, void *p, size_t bytes)
{
	if (!d->fault.code && bytes)
		memset(p, 0, bytes);
}

static void count_memory(struct device *d, struct device_memory *out)
{
	const struct cpu_device *c = cpu_device(d);
	long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	*out = (struct device_memory){.used = c->used, .peak = c->peak, .free = available_memory()};
	out->total = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0;
}

/* Host memory is the device's own: what is sent is there at once. It is not counted as the device's. */
static void *host_alloc(struct device *d, size_t bytes)
{
	if (d->fault.code || !bytes)
		return NULL;
	void *p = calloc(1, bytes);
	if (!p)
		device_fail(d, SAKIORI_ENOMEM, "out of memory: %zu bytes of host memory; use smaller batches", bytes);
	return p;
}

static void host_release(struct device *d, void *p)
{
	(void)d;
	free(p);
}

static void send_copy(struct device *d, unsigned slot, void *host, const void *from, size_t bytes)
{
	(void)slot;
	cpu_copy(d, host, from, bytes);
}

static void fetch_copy(struct device *d, unsigned slot, void *to, const void *host, size_t bytes)
{
	(void)slot;
	cpu_copy(d, to, host, bytes);
}

static void next_reader(struct device *d, const void *x, const struct weight *w, enum weight_use use)
{
	(void)d, (void)x, (void)w, (void)use;
}

static void copy_wait(struct device *d, unsigned slot)
{
	(void)d;
	(void)slot;
}

/* Calls of this backend cost nothing that a recording would save. */
static bool no_replay(struct device *d, uint64_t key)
{
	(void)d;
	(void)key;
	return false;
}

static void no_record(struct device *d, uint64_t key)
{
	(void)d;
	(void)key;
}

static void no_record_end(struct device *d)
{
	(void)d;
}

static const struct device_ops cpu_ops = {
	.abi = DEVICE_ABI,
	.name = "cpu",
	.close = close_device,
	.sync = sync_device,
	.alloc = alloc_memory,
	.release = release_memory,
	.upload = cpu_copy,
	.download = download_memory,
	.zero = cpu_zero,
	.copy = cpu_copy,
	.memory = count_memory,
	.host_alloc = host_alloc,
	.host_release = host_release,
	.send = send_copy,
	.fetch = fetch_copy,
	.copy_wait = copy_wait,
	.replay = no_replay,
	.record = no_record,
	.record_end = no_record_end,
	.to_act = cpu_to_act,
	.from_act = cpu_from_act,
	.axpy = cpu_axpy,
	.scale = cpu_scale,
	.add = cpu_add,
	.weight_new = cpu_weight_new,
	.weight_free = cpu_weight_free,
	.weight_slice = cpu_weight_slice,
	.weight_write = cpu_weight_write,
	.weight_merged = cpu_weight_merged,
	.weight_repack = cpu_weight_repack,
	.weight_read = cpu_weight_read,
	.weight_bytes = cpu_weight_bytes,
	.matmul = cpu_matmul,
	.matmul_backward = cpu_matmul_backward,
	.lora_forward = cpu_lora_forward,
	.lora_backward = cpu_lora_backward,
	.lora_gradient_a = cpu_lora_gradient_a,
	.dropout_forward = cpu_dropout_forward,
	.dropout_backward = cpu_dropout_backward,
	.embedding = cpu_embedding,
	.norm_forward = cpu_norm_forward,
	.norm_backward = cpu_norm_backward,
	.head_norm_forward = cpu_head_norm_forward,
	.head_norm_backward = cpu_head_norm_backward,
	.rope_forward = cpu_rope_forward,
	.rope_backward = cpu_rope_backward,
	.attention_forward = cpu_attention_forward,
	.attention_backward = cpu_attention_backward,
	.next_reader = next_reader,
	.activation_forward = cpu_activation_forward,
	.activation_backward = cpu_activation_backward,
	.cross_entropy = cpu_cross_entropy,
	.head_logits = cpu_head_logits,
	.adamw = cpu_adamw,
	.sum_squares = cpu_sum_squares,
	.reduce = cpu_reduce,
	.quantize = cpu_quantize,
	.dequantize = cpu_dequantize,
};

/* As many as the run time would use, never more than it will give. One under ThreadSanitizer, which does not know libgomp's barriers. */
static unsigned choose_threads(unsigned wanted)
{
#if defined(_OPENMP) && !defined(__SANITIZE_THREAD__)
	unsigned most = (unsigned)omp_get_thread_limit();
	unsigned threads = wanted ? wanted : (unsigned)omp_get_max_threads();
	return threads < most ? threads : most;
#else
	(void)wanted;
	return 1;
#endif
}

int cpu_open(uint32_t abi, const struct device_config *config, struct device **out, struct fault *f)
{
	if (abi != DEVICE_ABI)
		return fault_set(
			f, SAKIORI_EMISMATCH, "the CPU backend has interface %d, not %u", DEVICE_ABI, (unsigned)abi);
	if (config->act != DTYPE_F32 && config->act != DTYPE_BF16 && config->act != DTYPE_F64)
		return fault_set(f, SAKIORI_EINVAL, "unknown activation type %d", (int)config->act);
	if (config->act == DTYPE_BF16 && !gemm_has_bf16())
		return fault_set(f, SAKIORI_EUNSUPPORTED, "this CPU has no AVX-512, which bf16 products need; use f32");
	struct cpu_device *c = calloc(1, sizeof *c);
	if (!c)
		return fault_set(f, SAKIORI_ENOMEM, "out of memory");
	c->base.ops = &cpu_ops;
	c->base.act = config->act;
	c->base.act_size = dtype_size(config->act);
	c->base.threads = choose_threads(config->threads);
	c->base.geglu = true;
	*out = &c->base;
	return 0;
}
