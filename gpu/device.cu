/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu.cuh"

#define OLDEST_ARCHITECTURE 80

static void set_fault(struct fault *f, int code, const char *format, va_list arguments)
{
	vsnprintf(f->text, sizeof f->text, format, arguments);
	f->code = code;
}

void cuda_fail(struct cuda_device *c, int code, const char *format, ...)
{
	if (c->base.fault.code)
		return;
	va_list arguments;
	va_start(arguments, format);
	set_fault(&c->base.fault, code, format, arguments);
	va_end(arguments);
}

/* After these nothing works any more in this process: every later call gives the same error. */
static bool is_lost(cudaError_t e)
{
	switch (e) {
	case cudaErrorIllegalAddress:
	case cudaErrorMisalignedAddress:
	case cudaErrorInvalidAddressSpace:
	case cudaErrorInvalidPc:
	case cudaErrorIllegalInstruction:
	case cudaErrorHardwareStackError:
	case cudaErrorLaunchFailure:
	case cudaErrorLaunchTimeout:
	case cudaErrorECCUncorrectable:
	case cudaErrorNvlinkUncorrectable:
	case cudaErrorAssert:
	case cudaErrorDevicesUnavailable:
	case cudaErrorUnknown:
		return true;
	default:
		return false;
	}
}

bool cuda_well(struct cuda_device *c, cudaError_t e, const char *what)
{
	if (e == cudaSuccess)
		return !c->base.fault.code;
	cudaGetLastError(); /* or the next launch would be blamed for it */
	if (e == cudaErrorMemoryAllocation)
		cuda_fail(c, SAKIORI_ENOMEM, "%s: out of memory on %s; use smaller batches or a smaller model", what,
			c->name);
	else if (is_lost(e))
		cuda_fail(c, SAKIORI_EDEVICE,
			"%s: the device is lost: %s (%s); start the program again, and if it happens again look for "
			"Xid lines in the "
			"kernel's log and at nvidia-smi -q",
			what, cudaGetErrorString(e), c->name);
	else
		cuda_fail(c, SAKIORI_EDEVICE,
			"%s: CUDA error %d: %s; start the program again, and if it happens again look at nvidia-smi",
			what, (int)e, cudaGetErrorString(e));
	return false;
}

unsigned cuda_blocks(const struct cuda_device *c, size_t n, size_t each)
{
	size_t blocks = (n + each - 1) / each, most = (size_t)c->multiprocessors * 16;
	blocks = blocks < most ? blocks : most;
	return blocks ? (unsigned)blocks : 1;
}

bool cuda_finish(struct cuda_device *c)
{
	const char *what = "waiting for the card";
	cuda_copies_join(c);
	cuda_well(c, cudaStreamSynchronize(c->stream), what);
	if (((volatile uint32_t *)c->trouble)[TROUBLE_ID])
		cuda_fail(c, SAKIORI_EINVAL,
			"a token id is not among the rows of the embedding; do tokenizer and model belong together?");
	if (((volatile uint32_t *)c->trouble)[TROUBLE_LABEL])
		cuda_fail(c, SAKIORI_EINVAL,
			"a label is not among the rows of the head; do tokenizer and model belong together?");
	return !c->base.fault.code;
}

static void cuda_sync(struct device *d)
{
	cuda_finish(cuda_device(d));
}

static void cuda_close(struct device *d)
{
	struct cuda_device *c = cuda_device(d);
	if (c->stream && c->trouble) /* both, unless opening failed half-way */
		cuda_finish(c);
	cuda_recordings_free(c);
	cuda_weight_staging_free(c);
	cuda_gemm_plans_free(c);
	cuda_attention_plans_free(c);
	for (int i = 0; i < SCRATCH_COUNT; i++)
		cudaFree(c->scratch[i]);
	if (c->lt)
		cublasLtDestroy(c->lt);
	for (int i = 0; i < UPLOAD_PIECES; i++)
		if (c->uploaded[i])
			cudaEventDestroy(c->uploaded[i]);
	for (int i = 0; i < DEVICE_COPY_SLOTS; i++)
		if (c->copied[i])
			cudaEventDestroy(c->copied[i]);
	if (c->issued)
		cudaEventDestroy(c->issued);
	if (c->copies)
		cudaStreamDestroy(c->copies);
	if (c->stream)
		cudaStreamDestroy(c->stream);
	cudaFreeHost(c->upload_ring);
	cudaFreeHost(c->trouble);
	free(c->allocations);
	free(c);
}

/* CUDA's current device belongs to the thread, and a device may be handed from one thread to another: every entry binds it. */
static cudaError_t bind(const struct cuda_device *c)
{
	static thread_local int bound = -1;
	if (bound == c->ordinal)
		return cudaSuccess;
	cudaError_t e = cudaSetDevice(c->ordinal);
	bound = e == cudaSuccess ? c->ordinal : -1;
	return e;
}

template <auto operation> struct bound_to_device;
template <typename R, typename... A, R (*operation)(struct device *, A...)> struct bound_to_device<operation> {
	static R call(struct device *d, A... arguments)
	{
		cuda_well(cuda_device(d), bind(cuda_device(d)), "choosing the card");
		return operation(d, arguments...);
	}
};
#define OPERATION(name) .name = bound_to_device<cuda_##name>::call

static const struct device_ops cuda_ops = {
	.abi = DEVICE_ABI,
	.name = "cuda",
	OPERATION(close),
	OPERATION(sync),
	OPERATION(alloc),
	OPERATION(release),
	OPERATION(upload),
	OPERATION(download),
	OPERATION(zero),
	OPERATION(copy),
	OPERATION(memory),
	OPERATION(host_alloc),
	OPERATION(host_release),
	OPERATION(send),
	OPERATION(fetch),
	OPERATION(copy_wait),
	OPERATION(replay),
	OPERATION(record),
	OPERATION(record_end),
	OPERATION(to_act),
	OPERATION(from_act),
	OPERATION(axpy),
	OPERATION(scale),
	OPERATION(add),
	OPERATION(weight_new),
	OPERATION(weight_free),
	OPERATION(weight_slice),
	OPERATION(weight_write),
	OPERATION(weight_merged),
	OPERATION(weight_repack),
	OPERATION(weight_read),
	.weight_bytes = cuda_weight_bytes,
	OPERATION(matmul),
	OPERATION(matmul_backward),
	OPERATION(lora_forward),
	OPERATION(lora_backward),
	OPERATION(lora_gradient_a),
	OPERATION(dropout_forward),
	OPERATION(dropout_backward),
	OPERATION(next_reader),
	OPERATION(embedding),
	OPERATION(norm_forward),
	OPERATION(norm_backward),
	OPERATION(head_norm_forward),
	OPERATION(head_norm_backward),
	OPERATION(rope_forward),
	OPERATION(rope_backward),
	OPERATION(attention_forward),
	OPERATION(attention_backward),
	OPERATION(activation_forward),
	OPERATION(activation_backward),
	OPERATION(cross_entropy),
	OPERATION(head_logits),
	OPERATION(adamw),
	OPERATION(sum_squares),
	OPERATION(reduce),
	OPERATION(quantize),
	OPERATION(dequantize),
};

/* ---- opening ---- */

static int refuse(struct fault *f, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int refuse(struct fault *f, int code, const char *format, ...)
{
	if (f) {
		va_list arguments;
		va_start(arguments, format);
		set_fault(f, code, format, arguments);
		va_end(arguments);
	}
	return code;
}

/* "cuda" is 0, "cuda:N" is N; -1 for anything else. */
static int ordinal_of(const char *name)
{
	if (!strcmp(name, "cuda"))
		return 0;
	if (strncmp(name, "cuda:", 5) || !name[5])
		return -1;
	int n = 0;
	for (const char *p = name + 5; *p; p++) {
		if (*p < '0' || *p > '9' || n > 9999)
			return -1;
		n = 10 * n + (*p - '0');
	}
	return n;
}

static int refuse_driver(struct fault *f)
{
	int driver = 0, needed = 0;
	cudaDriverGetVersion(&driver);
	cudaRuntimeGetVersion(&needed);
	if (!driver)
		return refuse(f, SAKIORI_EDEVICE,
			"no NVIDIA driver is loaded; install one for CUDA %d.%d or newer, or set device to \"cpu\"",
			needed / 1000, needed % 1000 / 10);
	return refuse(f, SAKIORI_EDEVICE,
		"the NVIDIA driver is too old: it is made for CUDA %d.%d, and %d.%d is needed; update the driver, or "
		"set device to "
		"\"cpu\"",
		driver / 1000, driver % 1000 / 10, needed / 1000, needed % 1000 / 10);
}

/* What the card is. */
static int identify(struct cuda_device *c, struct fault *f)
{
	int count = 0;
	cudaError_t e = cudaGetDeviceCount(&count);
	cudaGetLastError();
	if (e == cudaErrorInsufficientDriver)
		return refuse_driver(f);
	if (e == cudaErrorNoDevice || (e == cudaSuccess && !count))
		return refuse(f, SAKIORI_EDEVICE,
			"no CUDA device is visible; look at nvidia-smi, CUDA_VISIBLE_DEVICES and the access rights of "
			"/dev/nvidia*, or "
			"set device to \"cpu\"");
	if (e != cudaSuccess)
		return refuse(f, SAKIORI_EDEVICE, "CUDA does not start: %s; look at nvidia-smi", cudaGetErrorString(e));
	if (c->ordinal >= count)
		return refuse(
			f, SAKIORI_EDEVICE, "there is no CUDA device %d; visible are 0 to %d", c->ordinal, count - 1);
	struct cudaDeviceProp p;
	e = cudaGetDeviceProperties(&p, c->ordinal);
	if (e != cudaSuccess)
		return refuse(f, SAKIORI_EDEVICE, "CUDA device %d does not answer: %s; look at nvidia-smi", c->ordinal,
			cudaGetErrorString(e));
	c->architecture = 10 * p.major + p.minor;
	c->multiprocessors = p.multiProcessorCount;
	c->l2_bytes = (size_t)p.l2CacheSize;
	snprintf(c->name, sizeof c->name, "%s", p.name);
	if (c->architecture < OLDEST_ARCHITECTURE)
		return refuse(f, SAKIORI_EUNSUPPORTED,
			"%s has compute capability %d.%d, and %d.%d is needed (Ampere or newer); set device to \"cpu\"",
			c->name, p.major, p.minor, OLDEST_ARCHITECTURE / 10, OLDEST_ARCHITECTURE % 10);
	return 0;
}

__global__ void empty_kernel() {}

/* Streams, events and the working space of fixed size. The first error stays in c->base.fault. */
static void equip(struct cuda_device *c)
{
	const char *what = "opening the card";
	struct cudaFuncAttributes attributes;
	/* The thread that waits sleeps: it is a daemon's, and its box has other work. */
	if (!cuda_well(
		    c, cudaInitDevice(c->ordinal, cudaDeviceScheduleBlockingSync, cudaInitDeviceFlagsAreValid), what) ||
		!cuda_well(c, bind(c), what))
		return;
	cudaError_t e = cudaFuncGetAttributes(&attributes, empty_kernel);
	if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction) {
		cudaGetLastError();
		cuda_fail(c, SAKIORI_EUNSUPPORTED,
			"this backend was compiled without code for %s (compute capability %d.%d)", c->name,
			c->architecture / 10, c->architecture % 10);
		return;
	}
	if (!cuda_well(c, e, what))
		return;
	cuda_well(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), what);
	cuda_well(c, cudaStreamCreateWithFlags(&c->copies, cudaStreamNonBlocking), what);
	cuda_well(c, cudaEventCreateWithFlags(&c->issued, cudaEventDisableTiming), what);
	for (int i = 0; i < DEVICE_COPY_SLOTS; i++)
		cuda_well(c, cudaEventCreateWithFlags(&c->copied[i], cudaEventDisableTiming), what);
	for (int i = 0; i < UPLOAD_PIECES; i++)
		cuda_well(c, cudaEventCreateWithFlags(&c->uploaded[i], cudaEventDisableTiming | cudaEventBlockingSync),
			what);
	cuda_well(c, cudaHostAlloc(&c->upload_ring, UPLOAD_PIECES * UPLOAD_PIECE_BYTES, cudaHostAllocPortable), what);
	cuda_well(c, cudaHostAlloc((void **)&c->trouble, TROUBLE_COUNT * sizeof *c->trouble, cudaHostAllocPortable),
		what);
	if (c->base.fault.code)
		return;
	memset(c->trouble, 0, TROUBLE_COUNT * sizeof *c->trouble);
	if (cublasLtCreate(&c->lt) != CUBLAS_STATUS_SUCCESS) {
		c->lt = NULL;
		cuda_fail(c, SAKIORI_EDEVICE,
			"cuBLASLt does not start on %s; is there memory left on the card (nvidia-smi)?", c->name);
	}
}

/* The module's one exported symbol; the header has taken its name for the function's type. */
extern "C" __attribute__((visibility("default"))) sakiori_backend cuda_open __asm__("sakiori_backend");
extern "C" int cuda_open(uint32_t abi, const struct device_config *config, struct device **out, struct fault *f)
{
	*out = NULL;
	if (abi != DEVICE_ABI)
		return refuse(f, SAKIORI_EMISMATCH,
			"the CUDA backend has interface %d, and the program wants %u; install both from one release",
			DEVICE_ABI, (unsigned)abi);
	int ordinal = ordinal_of(config->name);
	if (ordinal < 0)
		return refuse(f, SAKIORI_EINVAL, "expected \"cuda\" or \"cuda:N\", found \"%s\"", config->name);
	if (config->act != DTYPE_BF16 && config->act != DTYPE_F32)
		return refuse(f, SAKIORI_EUNSUPPORTED, "the CUDA backend computes in bf16 or f32; f64 is the CPU's");
	struct cuda_device *c = (struct cuda_device *)calloc(1, sizeof *c);
	if (!c)
		return refuse(f, SAKIORI_ENOMEM, "out of memory");
	c->base.ops = &cuda_ops;
	c->base.act = config->act;
	c->base.act_size = config->act == DTYPE_BF16 ? 2 : 4;
	c->base.threads = 1;
	c->base.records = true;
	c->base.joins = config->act == DTYPE_BF16;
	c->ordinal = ordinal;
	c->deterministic = config->deterministic;
	int rc = identify(c, f);
	if (rc) {
		free(c);
		return rc;
	}
	if (config->cache && strlen(config->cache) < sizeof c->cache)
		strcpy(c->cache, config->cache);
	equip(c);
	if (c->base.fault.code) {
		rc = refuse(f, c->base.fault.code, "%s", c->base.fault.text);
		cuda_ops.close(&c->base);
		return rc;
	}
	*out = &c->base;
	return 0;
}
