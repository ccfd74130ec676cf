/* SPDX-License-Identifier: Apache-2.0 */
/* Counts what a test program allocates: for one linked with --wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free. Shared libraries are not seen,
 * but jansson takes the two functions. One thread. */
#pragma once
#include <stddef.h>

void *counted_malloc(size_t n);
void counted_free(void *p);

void counted_reset(void);
/* Bytes allocated since and not given back. */
size_t counted_live(void);
/* Fails the test if since the reset one allocation was above twice the file, or all together were at one time above `times` times the file; a
 * few names and structs are free. */
void counted_assert(size_t file, size_t times);
