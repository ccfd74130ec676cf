/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu/gpu.cuh"

/* The header has taken the symbol's name for its type. */
extern "C" __attribute__((visibility("default"))) sakiori_backend cuda_open __asm__("sakiori_backend");
extern "C" int cuda_open(uint32_t abi, const struct device_config *config, struct device **out, struct fault *f)
{
	(void)abi;
	(void)config;
	*out = NULL;
	f->code = SAKIORI_EUNSUPPORTED;
	return f->code;
}
