/* SPDX-License-Identifier: Apache-2.0 */
/* A libnvidia-ml.so.1 with two GPUs, for check_gpu_meter: GPU n draws 100 n + 250.5 W and uses 5 J more each time it is asked. */
#include <string.h>

static int devices[2];
static unsigned long long asked;

int nvmlInit_v2(void);
int nvmlInit_v2(void)
{
	return 0;
}

int nvmlShutdown(void);
int nvmlShutdown(void)
{
	return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out)
{
	if (index > 1)
		return 2; /* NVML_ERROR_INVALID_ARGUMENT */
	devices[1] = 1;
	*out = &devices[index];
	return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **out);
int nvmlDeviceGetHandleByUUID(const char *uuid, void **out)
{
	return strcmp(uuid, "GPU-one") == 0 ? nvmlDeviceGetHandleByIndex_v2(1, out) : 6; /* NVML_ERROR_NOT_FOUND */
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *out);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *out)
{
	(void)device;
	out[0] = 80ull << 30;
	out[1] = 60ull << 30;
	out[2] = 20ull << 30;
	return 0;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *out);
int nvmlDeviceGetUtilizationRates(void *device, unsigned *out)
{
	(void)device;
	out[0] = 75;
	out[1] = 50;
	return 0;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out);
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out)
{
	(void)device;
	(void)sensor;
	(void)out;
	return 3; /* NVML_ERROR_NOT_SUPPORTED */
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *out);
int nvmlDeviceGetPowerUsage(void *device, unsigned *out)
{
	*out = 250500 + 100000 * (unsigned)*(int *)device;
	return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out);
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out)
{
	(void)device;
	*out = 5000 * ++asked;
	return 0;
}
