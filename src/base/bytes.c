/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void reader_init(struct reader *r, const void *data, size_t size)
{
	*r = (struct reader){.data = data, .size = size};
}

size_t reader_left(const struct reader *r)
{
	return r->failed ? 0 : r->size - r->at;
}

const uint8_t *read_span(struct reader *r, size_t n)
{
	if (r->failed || n > r->size - r->at) {
		r->failed = true;
		return NULL;
	}
	const uint8_t *span = r->data + r->at;
	r->at += n;
	return span;
}

void read_bytes(struct reader *r, void *out, size_t n)
{
	const uint8_t *span = read_span(r, n);
	if (span != NULL && n > 0)
		memcpy(out, span, n);
	else if (n > 0)
		memset(out, 0, n);
}

static uint64_t read_le(struct reader *r, size_t n)
{
	const uint8_t *span = read_span(r, n);
	uint64_t value = 0;
	if (span != NULL)
		for (size_t i = n; i > 0; i--)
			value = value << 8 | span[i - 1];
	return value;
}

uint8_t read_u8(struct reader *r)
{
	return (uint8_t)read_le(r, 1);
}

uint16_t read_u16(struct reader *r)
{
	return (uint16_t)read_le(r, 2);
}

uint32_t read_u32(struct reader *r)
{
	return (uint32_t)read_le(r, 4);
}

uint64_t read_u64(struct reader *r)
{
	return read_le(r, 8);
}

float read_f32(struct reader *r)
{
	uint32_t bits = read_u32(r);
	float value;
	memcpy(&value, &bits, sizeof value);
	return value;
}

double read_f64(struct reader *r)
{
	uint64_t bits = read_u64(r);
	double value;
	memcpy(&value, &bits, sizeof value);
	return value;
}

void writer_init(struct writer *w)
{
	*w = (struct writer){0};
}

void writer_fini(struct writer *w)
{
	free(w->data);
	*w = (struct writer){0};
}

uint8_t *write_space(struct writer *w, size_t n)
{
	if (n > w->capacity - w->size) {
		size_t needed;
		if (!size_add(w->size, n, &needed))
			abort();
		size_t capacity = w->capacity < 64 ? 64 : w->capacity;
		while (capacity < needed)
			capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
		w->data = must_realloc(w->data, capacity);
		w->capacity = capacity;
	}
	uint8_t *space = w->data + w->size;
	w->size += n;
	return space;
}

void write_bytes(struct writer *w, const void *data, size_t n)
{
	if (n > 0)
		memcpy(write_space(w, n), data, n);
}

static void write_le(struct writer *w, uint64_t v, size_t n)
{
	uint8_t *out = write_space(w, n);
	for (size_t i = 0; i < n; i++)
		out[i] = (uint8_t)(v >> (8 * i));
}

void write_u8(struct writer *w, uint8_t v)
{
	write_le(w, v, 1);
}

void write_u16(struct writer *w, uint16_t v)
{
	write_le(w, v, 2);
}

void write_u32(struct writer *w, uint32_t v)
{
	write_le(w, v, 4);
}

void write_u64(struct writer *w, uint64_t v)
{
	write_le(w, v, 8);
}

void write_f32(struct writer *w, float v)
{
	uint32_t bits;
	memcpy(&bits, &v, sizeof bits);
	write_u32(w, bits);
}

bool size_mul(size_t a, size_t b, size_t *out)
{
	size_t product;
	if (__builtin_mul_overflow(a, b, &product))
		return false;
	*out = product;
	return true;
}

bool size_add(size_t a, size_t b, size_t *out)
{
	size_t sum;
	if (__builtin_add_overflow(a, b, &sum))
		return false;
	*out = sum;
	return true;
}

static void *or_die(void *p, size_t bytes)
{
	if (p == NULL && bytes > 0) {
		fprintf(stderr, "sakiori: out of memory (%zu bytes)\n", bytes);
		abort();
	}
	return p;
}

void *must_alloc(size_t bytes)
{
	return or_die(malloc(bytes), bytes);
}

void *must_calloc(size_t n, size_t each)
{
	return or_die(calloc(n, each), n > 0 ? each : 0);
}

void *must_realloc(void *p, size_t bytes)
{
	return or_die(realloc(p, bytes), bytes);
}

char *must_strdup(const char *s)
{
	size_t n = strlen(s) + 1;
	return memcpy(must_alloc(n), s, n);
}

float f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16;
	uint32_t exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff;
	uint32_t bits;
	if (exponent == 0x1f) {
		bits = sign | 0x7f800000u | mantissa << 13;
	} else if (exponent != 0) {
		bits = sign | (exponent + 112) << 23 | mantissa << 13;
	} else { /* zero or subnormal: mantissa * 2^-24 is exact in f32 */
		float value = (float)mantissa * 0x1p-24f;
		memcpy(&bits, &value, sizeof bits);
		bits |= sign;
	}
	float out;
	memcpy(&out, &bits, sizeof out);
	return out;
}

uint16_t f32_to_f16(float f)
{
	uint32_t bits;
	memcpy(&bits, &f, sizeof bits);
	uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
	uint32_t magnitude = bits & 0x7fffffffu;
	if (magnitude >= 0x7f800000u)
		return sign | 0x7c00 | (magnitude > 0x7f800000u ? 0x200 : 0);
	if (magnitude >= 0x477ff000u) /* rounds to 65536 or above */
		return sign | 0x7c00;
	if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 lets the FPU round to a multiple of 2^-24 */
		float value;
		memcpy(&value, &magnitude, sizeof value);
		value += 0.5f;
		uint32_t rounded;
		memcpy(&rounded, &value, sizeof rounded);
		return sign | (uint16_t)(rounded - 0x3f000000u);
	}
	uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
	return sign | (uint16_t)((rounded - 0x38000000u) >> 13);
}

float bf16_to_f32(uint16_t h)
{
	uint32_t bits = (uint32_t)h << 16;
	float out;
	memcpy(&out, &bits, sizeof out);
	return out;
}

uint16_t f32_to_bf16(float f)
{
	uint32_t bits;
	memcpy(&bits, &f, sizeof bits);
	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- memory, as files of the kernel tell it ---- */

/* The number in the first line of a file that `format`, with one %llu, fits. False where there is none: no file, or another word ("max"). */
static bool number_in(const char *path, const char *format, unsigned long long *out)
{
	char line[128];
	bool found = false;
	FILE *file = fopen(path, "re");
	while (file && !found && fgets(line, sizeof line, file))
		found = sscanf(line, format, out) == 1;
	if (file)
		fclose(file);
	return found;
}

/* What the limit of one control group (version 2) leaves, files that are only cached counting as free; SIZE_MAX without a limit. */
static size_t folder_memory(const char *group)
{
	char path[600];
	unsigned long long most, current = 0, active = 0, inactive = 0;
	snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
	if (!number_in(path, "%llu", &most))
		return SIZE_MAX;
	snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", group);
	number_in(path, "%llu", &current);
	snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", group);
	number_in(path, "active_file %llu", &active);
	number_in(path, "inactive_file %llu", &inactive);
	unsigned long long cached = active + inactive, used = current > cached ? current - cached : 0;
	return most > used ? (size_t)(most - used) : 1;
}

/* The least of the process's control group and those above it. In a container the group's own name may lead nowhere, and the topmost counts. */
static size_t group_memory(void)
{
	char line[600], group[512] = "";
	size_t least = SIZE_MAX;
	FILE *file = fopen("/proc/self/cgroup", "re");
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "0::%511[^\n]", group) == 1)
			break;
	if (file)
		fclose(file);
	for (;;) {
		size_t left = folder_memory(group);
		least = left < least ? left : least;
		char *last = strrchr(group, '/');
		if (!last)
			return least;
		*last = '\0';
	}
}

size_t available_memory(void)
{
	unsigned long long kibibytes = 0;
	size_t group = group_memory(), host = 0;
	long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	if (number_in("/proc/meminfo", "MemAvailable: %llu", &kibibytes))
		host = (size_t)kibibytes * 1024;
	else if (pages > 0 && page > 0)
		host = (size_t)pages * (size_t)page;
	return host < group ? host : group;
}
