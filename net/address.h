/* SPDX-License-Identifier: Apache-2.0 */
/* What a peer's or our own address may look like. Any thread. */
#pragma once
#include "base/err.h"

/* Accepts tcp://HOST:PORT and ipc://PATH (a Unix socket's path, at most 107 bytes) without touching anything; the
 * sentence says what is expected. net/link checks what it is given with this; a configuration can before. */
int address_check(const char *url, struct fault *f);
