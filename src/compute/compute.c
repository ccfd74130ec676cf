/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/compute.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/cpu/cpu.h"

const char *dtype_name(enum dtype t)
{
	return t == DTYPE_F32 ? "f32" : t == DTYPE_BF16 ? "bf16" : "f64";
}

size_t dtype_size(enum dtype t)
{
	return t == DTYPE_F32 ? 4 : t == DTYPE_BF16 ? 2 : 8;
}

void device_fail(struct device *d, int code, const char *format, ...)
{
	if (d->fault.code)
		return;
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(d->fault.text, sizeof d->fault.text, format, arguments);
	va_end(arguments);
	d->fault.code = code;
}

/* The module of the build tree is tested through the environment. It stays loaded for the life of the process: its devices' code lies in it. */
static int open_module(const struct device_config *config, struct device **out, struct fault *f)
{
	const char *path = secure_getenv("SAKIORI_CUDA_MODULE");
	if (!path)
		path = PKGLIBDIR "/sakiori-cuda.so";
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!module)
		return fault_set(f, SAKIORI_EDEVICE,
			"device %s: cannot load the CUDA backend: %s; install it, or set device to \"cpu\"",
			config->name, dlerror());
	sakiori_backend *backend = NULL;
	void *symbol = dlsym(module, "sakiori_backend");
	memcpy(&backend, &symbol, sizeof backend);
	if (!backend)
		return fault_set(f, SAKIORI_EDEVICE, "device %s: %s has no symbol sakiori_backend; reinstall it",
			config->name, path);
	int rc = backend(DEVICE_ABI, config, out, f);
	if (rc)
		return fault_wrap(f, "device %s", config->name);
	if ((*out)->ops->abi != DEVICE_ABI) {
		unsigned found = (unsigned)(*out)->ops->abi;
		(*out)->ops->close(*out);
		*out = NULL;
		return fault_set(f, SAKIORI_EMISMATCH,
			"device %s: %s has interface %u, this program has %d; install both from one release",
			config->name, path, found, DEVICE_ABI);
	}
	return 0;
}

int device_open(const struct device_config *config, struct device **out, struct fault *f)
{
	*out = NULL;
	if (!strcmp(config->name, "cpu"))
		return cpu_open(DEVICE_ABI, config, out, f);
	if (!strncmp(config->name, "cuda", 4) && (!config->name[4] || config->name[4] == ':'))
		return open_module(config, out, f);
	return fault_set(f, SAKIORI_EINVAL, "device \"%s\": expected \"cpu\", \"cuda\" or \"cuda:N\"", config->name);
}

void device_close(struct device *d)
{
	if (d)
		d->ops->close(d);
}

int device_sync(struct device *d, struct fault *f)
{
	d->ops->sync(d);
	if (d->fault.code && f)
		*f = d->fault;
	return d->fault.code;
}
