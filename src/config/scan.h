/* SPDX-License-Identifier: Apache-2.0 */
/* A look at the text before libconfig parses it, for what libconfig 1.5 takes without a word. Any thread. */
#pragma once
#include <stddef.h>

#include "base/err.h"

/* Refuses, as file:line with SAKIORI_ECONFIG: a NUL byte, behind which nothing would be read; @include; an integer that
 * would wrap round because it does not fit 32 bits (or 64 with an L); a string that never ends or stands where none
 * can, which would be leaked; deep nesting. text[size] must be 0. */
int scan_text(const char *text, size_t size, const char *path, struct fault *f);
