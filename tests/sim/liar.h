/* SPDX-License-Identifier: Apache-2.0 */
/* One round among neighbours that say whatever they like. */
#pragma once
#include <stdint.h>

/* NULL, or what went wrong at the honest site. *applied counts the words that it believed. */
const char *liar_run(uint64_t seed, uint64_t *applied);
