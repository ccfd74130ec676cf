#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Packed weights on the CPU, by the test that the GPU's kernels pass.
SAKIORI_TEST_DEVICE=cpu exec "${BUILDDIR:-.}/tests/gpu/check_gpu_packed"
