/* SPDX-License-Identifier: Apache-2.0 */
/* NVML (libnvidia-ml.so.1) comes with the driver, so it is loaded when it is there and its few functions are declared here. One
 * reading is in work at a time; between readings the struct is the loop's, during one the pool's. */
#include "daemon/gpu_meter.h"

#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"

#define INTERVAL_MS 5000
#define NVML_SUCCESS 0
#define NVML_TEMPERATURE_GPU 0

/* As in nvml.h. */
struct nvml_memory {
	unsigned long long total, free, used; /* bytes */
};
struct nvml_utilization {
	unsigned gpu, memory; /* percent of the time */
};

/* X(member, symbol, parameters); all return an error number. */
#define NVML_FUNCTIONS(X)                                                                                              \
	X(init, "nvmlInit_v2", (void))                                                                                 \
	X(shutdown, "nvmlShutdown", (void))                                                                            \
	X(by_index, "nvmlDeviceGetHandleByIndex_v2", (unsigned, void **))                                              \
	X(by_uuid, "nvmlDeviceGetHandleByUUID", (const char *, void **))                                               \
	X(memory, "nvmlDeviceGetMemoryInfo", (void *, struct nvml_memory *))                                           \
	X(utilization, "nvmlDeviceGetUtilizationRates", (void *, struct nvml_utilization *))                           \
	X(temperature, "nvmlDeviceGetTemperature", (void *, int, unsigned *))                                          \
	X(power, "nvmlDeviceGetPowerUsage", (void *, unsigned *))                        /* mW */                      \
	X(energy, "nvmlDeviceGetTotalEnergyConsumption", (void *, unsigned long long *)) /* mJ since the driver came */

struct nvml {
#define X(member, symbol, parameters) int(*member) parameters;
	NVML_FUNCTIONS(X)
#undef X
};

/* NAN: the driver does not say. */
struct reading {
	double used, total; /* bytes */
	double utilization; /* of 1 */
	double temperature; /* degrees Celsius */
	double power;       /* W */
	double energy;      /* J, since some moment */
	uint64_t tokens;    /* counted just before the energy */
};

struct gpu_meter {
	struct metrics *metrics;
	const _Atomic uint64_t *tokens;
	char *device, *library_name;
	uv_timer_t timer;
	uv_work_t work;
	bool reading, stopped;
	/* The pool's while `reading`. */
	void *library; /* NULL: not loaded yet */
	struct nvml nvml;
	void *handle;
	char label[24]; /* N of cuda:N */
	struct reading now;
	int rc;
	struct fault fault;
	/* The loop's. */
	double energy_before; /* at the last change of the tokens; NAN: no reading yet */
	uint64_t tokens_before;
};

static int load(struct gpu_meter *g, struct fault *f)
{
	g->library = dlopen(g->library_name, RTLD_NOW | RTLD_LOCAL);
	if (g->library == NULL)
		return fault_set(f, SAKIORI_ENOTFOUND, "%s", dlerror());
	void *found;
#define X(member, symbol, parameters)                                                                                  \
	found = dlsym(g->library, symbol);                                                                             \
	if (found == NULL)                                                                                             \
		return fault_set(                                                                                      \
			f, SAKIORI_EMISMATCH, "%s has no %s: the driver is too old", g->library_name, symbol);         \
	memcpy(&g->nvml.member, &found, sizeof found);
	NVML_FUNCTIONS(X)
#undef X
	int code = g->nvml.init();
	if (code != NVML_SUCCESS)
		return fault_set(f, SAKIORI_EDEVICE, "the driver cannot be asked (NVML error %d)", code);
	return 0;
}

/* Entry `index` of CUDA_VISIBLE_DEVICES, or "" where everything is visible in its own order. */
static void visible(unsigned long index, char *out, size_t size)
{
	const char *list = getenv("CUDA_VISIBLE_DEVICES");
	out[0] = '\0';
	for (; list != NULL && *list != '\0' && index > 0; index--) {
		list += strcspn(list, ",");
		list += *list == ',';
	}
	if (list != NULL)
		snprintf(out, size, "%.*s", (int)strcspn(list, ","), list);
}

static int find_device(struct gpu_meter *g, struct fault *f)
{
	unsigned long index = g->device[4] == ':' ? strtoul(g->device + 5, NULL, 10) : 0;
	char entry[96];
	visible(index, entry, sizeof entry);
	snprintf(g->label, sizeof g->label, "%lu", index);
	int code;
	/* GPU-..., or MIG-... for a part of one */
	if (entry[0] != '\0' && strspn(entry, " 0123456789") != strlen(entry))
		code = g->nvml.by_uuid(entry, &g->handle);
	else
		code = g->nvml.by_index((unsigned)(entry[0] != '\0' ? strtoul(entry, NULL, 10) : index), &g->handle);
	return code == NVML_SUCCESS ? 0 : fault_set(f, SAKIORI_ENOTFOUND, "no such GPU (NVML error %d)", code);
}

/* On the pool. */
static void read_device(uv_work_t *work)
{
	struct gpu_meter *g = work->data;
	g->rc = 0;
	if (g->library == NULL)
		g->rc = load(g, &g->fault);
	if (g->rc == 0 && g->handle == NULL)
		g->rc = find_device(g, &g->fault);
	if (g->rc != 0)
		return;
	struct nvml_memory memory;
	struct nvml_utilization utilization;
	unsigned temperature, power;
	unsigned long long energy;
	g->now = (struct reading){NAN, NAN, NAN, NAN, NAN, NAN, atomic_load(g->tokens)};
	if (g->nvml.energy(g->handle, &energy) == NVML_SUCCESS)
		g->now.energy = (double)energy / 1e3;
	if (g->nvml.memory(g->handle, &memory) == NVML_SUCCESS) {
		g->now.used = (double)memory.used;
		g->now.total = (double)memory.total;
	}
	if (g->nvml.utilization(g->handle, &utilization) == NVML_SUCCESS)
		g->now.utilization = utilization.gpu / 100.0;
	if (g->nvml.temperature(g->handle, NVML_TEMPERATURE_GPU, &temperature) == NVML_SUCCESS)
		g->now.temperature = temperature;
	if (g->nvml.power(g->handle, &power) == NVML_SUCCESS)
		g->now.power = power / 1e3;
}

static void set(struct gpu_meter *g, enum metric which, double value)
{
	/* What the driver never told has no gauge; what it no longer tells must not stay as it was. */
	if (!isnan(value) || !isnan(metrics_get(g->metrics, which, g->label, NULL)))
		metrics_set(g->metrics, which, g->label, NULL, value);
}

static void on_closed(uv_handle_t *timer)
{
	struct gpu_meter *g = timer->data;
	if (g->library != NULL && g->nvml.shutdown != NULL)
		g->nvml.shutdown();
	if (g->library != NULL)
		dlclose(g->library);
	free(g->device);
	free(g->library_name);
	free(g);
}

static void on_read(uv_work_t *work, int cancelled)
{
	struct gpu_meter *g = work->data;
	const struct reading *now = &g->now;
	g->reading = false;
	if (g->stopped) {
		uv_close((uv_handle_t *)&g->timer, on_closed);
		return;
	}
	if (cancelled != 0)
		return;
	if (g->rc != 0) {
		log_info("no_gpu_metrics", "device=%s why=\"%s\"", g->device, g->fault.text);
		uv_timer_stop(&g->timer);
		return;
	}
	set(g, METRIC_GPU_MEMORY_USED, now->used);
	set(g, METRIC_GPU_MEMORY_TOTAL, now->total);
	set(g, METRIC_GPU_UTILIZATION, now->utilization);
	set(g, METRIC_GPU_TEMPERATURE, now->temperature);
	set(g, METRIC_GPU_POWER, now->power);
	if (isnan(now->energy) || (now->tokens == g->tokens_before && !isnan(g->energy_before)))
		return;
	if (!isnan(g->energy_before))
		set(g, METRIC_JOULES_PER_TOKEN,
			(now->energy - g->energy_before) / (double)(now->tokens - g->tokens_before));
	g->energy_before = now->energy;
	g->tokens_before = now->tokens;
}

static void on_timer(uv_timer_t *timer)
{
	struct gpu_meter *g = timer->data;
	if (g->reading)
		return;
	g->reading = uv_queue_work(timer->loop, &g->work, read_device, on_read) == 0;
}

struct gpu_meter *gpu_meter_start(uv_loop_t *loop, const char *device, const _Atomic uint64_t *tokens,
	struct metrics *m, const struct gpu_meter_options *options)
{
	struct gpu_meter *g = must_calloc(1, sizeof *g);
	g->metrics = m;
	g->tokens = tokens;
	g->device = must_strdup(device);
	g->library_name =
		must_strdup(options != NULL && options->library != NULL ? options->library : "libnvidia-ml.so.1");
	uint64_t interval = options != NULL && options->interval_ms > 0 ? options->interval_ms : INTERVAL_MS;
	g->energy_before = NAN;
	uv_timer_init(loop, &g->timer);
	g->timer.data = g->work.data = g;
	uv_timer_start(&g->timer, on_timer, 0, interval);
	return g;
}

void gpu_meter_stop(struct gpu_meter *g)
{
	if (g == NULL)
		return;
	g->stopped = true;
	uv_timer_stop(&g->timer);
	if (!g->reading)
		uv_close((uv_handle_t *)&g->timer, on_closed);
}
