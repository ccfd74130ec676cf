/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/counted_malloc.h"

#include <check.h>
#include <malloc.h>

/* Names, structs and the like take a little whatever the file's size. */
enum { ALWAYS = 4096 };

static size_t largest, live, peak;

/* The linker's names. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

static void *count(void *p, size_t n)
{
	if (p == NULL)
		return p;
	largest = n > largest ? n : largest;
	live += malloc_usable_size(p);
	peak = live > peak ? live : peak;
	return p;
}

void *__wrap_malloc(size_t n)
{
	return count(__real_malloc(n), n);
}

void *__wrap_calloc(size_t n, size_t each)
{
	return count(__real_calloc(n, each), n * each);
}

void *__wrap_realloc(void *p, size_t n)
{
	size_t before = p != NULL ? malloc_usable_size(p) : 0;
	void *moved = __real_realloc(p, n);
	if (moved != NULL)
		live -= before;
	return count(moved, n);
}

void __wrap_free(void *p)
{
	live -= p != NULL ? malloc_usable_size(p) : 0;
	__real_free(p);
}

void *counted_malloc(size_t n)
{
	return __wrap_malloc(n);
}

void counted_free(void *p)
{
	__wrap_free(p);
}

void counted_reset(void)
{
	largest = live = peak = 0;
}

size_t counted_live(void)
{
	return live;
}

void counted_assert(size_t file, size_t times)
{
	size_t most = largest, all = peak;
	ck_assert_msg(most <= 2 * file + ALWAYS, "%zu bytes at once for a file of %zu", most, file);
	ck_assert_msg(all <= times * file + 16 * ALWAYS, "%zu bytes in all for a file of %zu", all, file);
}
