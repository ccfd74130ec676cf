/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli, RFC 3720): against accidents, never against people. Pure; any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *data, size_t size);
