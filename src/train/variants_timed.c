/* SPDX-License-Identifier: Apache-2.0 */
/* The orders measured on the device, with its own operations and the run's own weights and shapes, and the file that remembers the result: a
 * line a shape, replaced whole. A file of another version, a torn line or a word that is not known is as if it were not there. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/rng.h"
#include "train/variants.h"

/* ---- measuring ---- */

enum { REPETITIONS = 5, FEW = 3, MOST_CALLS = 64 };

/* Shorter samples are of several calls; of longer ones than this there are few. */
static const double sample_seconds = 1e-3, long_seconds = 20e-3;

/* Of one group; act unless float. */
struct bench {
	struct device *device;
	void *own;                  /* what had to be allocated */
	void *x;                    /* (N, cols), with room where the device joins */
	void *y;                    /* (N, rows), and dy */
	void *dx;                   /* (N, cols) */
	void *s;                    /* (N, ranks) */
	float *factors, *gradients; /* A and B of all parts */
	struct tokens tokens;
	struct lora_linear linear;
};

/* A CPU device of one thread computes on the caller's, whose own time other work on the machine disturbs less. */
static double now(const struct device *d)
{
	struct timespec at;
	bool own = d->threads == 1 && !strcmp(d->ops->name, "cpu");
	clock_gettime(own ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

static size_t aligned(size_t bytes)
{
	return (bytes + 255) / 256 * 256;
}

/* Elements from token to token of x, as the model has them; a weight without room makes no use of it. */
static size_t x_stride(const struct device *d, const struct variants_shape *v)
{
	size_t ranks[LORA_PARTS_MAX];
	for (size_t i = 0; i < v->parts; i++)
		ranks[i] = v->part[i].rank;
	return v->cols + (d->joins ? variants_room(ranks, v->parts) : 0);
}

static size_t cut(const struct device *d, const struct variants_shape *v, size_t ranks, char *at, struct bench *b)
{
	size_t n = v->tokens, act = d->act_size;
	size_t x = aligned(n * x_stride(d, v) * act), y = aligned(n * v->rows * act), s = aligned(n * ranks * act);
	if (at) {
		b->x = at;
		b->dx = at + x;
		b->y = at + 2 * x;
		b->s = at + 2 * x + y;
	}
	return 2 * x + y + s;
}

/* Numbers of the size that training meets: zeros would be multiplied with less power, and faster. */
static void fill(struct device *d, void *act, size_t n)
{
	enum { PERIOD = 4096 };
	float values[PERIOD];
	struct rng rng;
	rng_init(&rng, 1, 1);
	for (size_t i = 0; i < PERIOD; i++)
		values[i] = rng_normal(&rng);
	size_t first = n < PERIOD ? n : PERIOD;
	float *p = d->ops->alloc(d, first * sizeof *p);
	d->ops->upload(d, p, values, first * sizeof *p);
	d->ops->to_act(d, act, p, first);
	for (size_t done = first; done < n; done *= 2)
		d->ops->copy(d, act_at(d, act, done), act, (n - done < done ? n - done : done) * d->act_size);
	device_sync(d, NULL);
	d->ops->release(d, p);
}

static void describe(struct bench *b, const struct weight *w, const struct variants_shape *v)
{
	size_t at = 0;
	b->tokens = (struct tokens){.count = v->tokens};
	b->linear = (struct lora_linear){.weight = w, .scale = 0.01f, .parts = v->parts, .y = b->y, .dy = b->y};
	for (size_t i = 0; i < v->parts; i++) {
		size_t rank = v->part[i].rank;
		struct lora_part *part = &b->linear.part[i];
		*part = (struct lora_part){.rows = v->part[i].rows, .rank = rank};
		if (!rank)
			continue;
		part->a = b->factors + at;
		part->grad_a = b->gradients + at;
		at += rank * v->cols;
		part->b = b->factors + at;
		part->grad_b = b->gradients + at;
		at += rank * part->rows;
	}
}

static void bench_free(struct bench *b)
{
	b->device->ops->release(b->device, b->own);
	b->device->ops->release(b->device, b->factors);
	b->device->ops->release(b->device, b->gradients);
}

static int bench_new(struct bench *b, struct device *d, const struct weight *w, const struct variants_shape *v,
	void *scratch, size_t scratch_bytes, struct fault *f)
{
	size_t ranks = 0, floats = 0;
	*b = (struct bench){.device = d};
	for (size_t i = 0; i < v->parts; i++) {
		ranks += v->part[i].rank;
		floats += v->part[i].rank * (v->cols + v->part[i].rows);
	}
	size_t bytes = cut(d, v, ranks, NULL, b);
	if (bytes > scratch_bytes)
		scratch = b->own = d->ops->alloc(d, bytes);
	b->factors = d->ops->alloc(d, floats * sizeof(float));
	b->gradients = d->ops->alloc(d, floats * sizeof(float));
	int rc = device_sync(d, f);
	if (rc) {
		bench_free(b);
		return rc;
	}
	cut(d, v, ranks, scratch, b);
	fill(d, b->x, v->tokens * x_stride(d, v));
	describe(b, w, v);
	b->linear.x_stride = x_stride(d, v);
	return 0;
}

static void run_forward(struct bench *b, bool dx)
{
	(void)dx;
	b->device->ops->lora_forward(b->device, &b->tokens, b->x, &b->linear);
}

static void run_backward(struct bench *b, bool dx)
{
	b->device->ops->lora_backward(b->device, &b->tokens, b->x, &b->linear, dx ? b->dx : NULL, false, NULL);
}

static int ascending(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static double sample(struct bench *b, void (*run)(struct bench *, bool), bool dx, int calls)
{
	device_sync(b->device, NULL);
	double start = now(b->device);
	for (int i = 0; i < calls; i++)
		run(b, dx);
	device_sync(b->device, NULL);
	return (now(b->device) - start) / calls;
}

/* The first call makes plans and grows the device's working space. */
static double median(struct bench *b, void (*run)(struct bench *, bool), bool dx)
{
	double seconds[REPETITIONS];
	sample(b, run, dx, 1);
	double once = sample(b, run, dx, 1);
	int calls = once * MOST_CALLS < sample_seconds ? MOST_CALLS : (int)(sample_seconds / once) + 1;
	int repetitions = once > long_seconds ? FEW : REPETITIONS;
	for (int i = 0; i < repetitions; i++)
		seconds[i] = sample(b, run, dx, calls);
	qsort(seconds, (size_t)repetitions, sizeof *seconds, ascending);
	return seconds[repetitions / 2];
}

static double measure_forward(struct bench *b, const struct variants_choice *c)
{
	b->linear.forward = c->forward;
	b->linear.s = c->s ? b->s : NULL;
	return median(b, run_forward, false);
}

/* The output of a forward, or what lay there before, is as good a gradient as any. */
static double measure_backward(struct bench *b, const struct variants_shape *v, const struct variants_choice *c)
{
	b->linear.backward = c->backward;
	b->linear.s = c->s ? b->s : NULL;
	return median(b, run_backward, v->dx);
}

int variants_measure(struct device *d, const struct weight *w, const struct variants_shape *v,
	const struct variants_choice *c, void *scratch, size_t scratch_bytes, double *forward, double *backward,
	struct fault *f)
{
	struct bench b;
	int rc = bench_new(&b, d, w, v, scratch, scratch_bytes, f);
	if (rc)
		return rc;
	*forward = measure_forward(&b, c);
	*backward = measure_backward(&b, v, c);
	bench_free(&b);
	return device_sync(d, f);
}

/* Forward and backward cost independently but for s, so each is measured once with it and once without. */
static int fastest(struct device *d, const struct weight *w, const struct variants_shape *v,
	const struct variants_config *c, bool merged, struct variants_choice *out, struct fault *f)
{
	struct variants_choice all[VARIANTS_CANDIDATES];
	double forward[2][2] = {{0}}, backward[3][2] = {{0}}, least = 0; /* [order][s]; 0: not measured */
	size_t count = variants_candidates(v, c->keep_s, merged, all);
	struct bench b;
	int rc = bench_new(&b, d, w, v, c->scratch, c->scratch_bytes, f);
	if (rc)
		return rc;
	measure_forward(&b, &all[0]); /* fills y */
	for (size_t i = 0; i < count && count > 1; i++) {
		double *each = &forward[all[i].forward][all[i].s], *other = &backward[all[i].backward][all[i].s];
		if (*each == 0)
			*each = measure_forward(&b, &all[i]);
		if (*other == 0)
			*other = measure_backward(&b, v, &all[i]);
		if (i == 0 || *each + *other < least) {
			*out = all[i];
			least = *each + *other;
		}
	}
	bench_free(&b);
	return device_sync(d, f);
}

/* ---- the file ---- */

#define CACHE_HEADER "sakiori variants 2 " PACKAGE_VERSION "\n"
#define CACHE_LIMIT ((size_t)1 << 20)

/* What a measurement depends on. No card's name is known here; cards that differ differ in their memory, down to the byte. */
static void cache_key(struct device *d, const struct variants_shape *v, const struct variants_config *c, bool merged,
	char *out, size_t size)
{
	static const char *const storages[] = {[WEIGHT_F32] = "f32",
		[WEIGHT_BF16] = "bf16",
		[WEIGHT_FP8] = "fp8",
		[WEIGHT_NF4] = "nf4",
		[WEIGHT_STORED] = "stored"};
	struct device_memory memory = {0};
	d->ops->memory(d, &memory);
	int n = snprintf(out, size,
		"%s total=%zu threads=%u act=%s weight=%s s=%d merged=%d dx=%d tokens=%zu cols=%zu parts=",
		d->ops->name, memory.total, d->threads, dtype_name(d->act), storages[c->storage], c->keep_s, merged,
		v->dx, v->tokens, v->cols);
	for (size_t i = 0; i < v->parts; i++)
		n += snprintf(out + n, size - (size_t)n, "%s%zu:%zu", i ? "," : "", v->part[i].rows, v->part[i].rank);
	snprintf(out + n, size - (size_t)n, " is ");
}

static void cache_path(const char *folder, char *out, size_t size)
{
	snprintf(out, size, "%s/variants", folder);
}

/* The file's lines after its header, "" for a file that is not ours. The caller frees *memory. */
static const char *cache_read(const char *folder, char **memory)
{
	char path[4096];
	size_t size = 0;
	uint8_t *data = NULL;
	cache_path(folder, path, sizeof path);
	*memory = NULL;
	if (file_read(path, CACHE_LIMIT, &data, &size, NULL))
		return "";
	*memory = (char *)data;
	bool ours = !strncmp(*memory, CACHE_HEADER, strlen(CACHE_HEADER)) && (*memory)[size - 1] == '\n' &&
		    strlen(*memory) == size;
	return ours ? *memory + strlen(CACHE_HEADER) : "";
}

/* Finds the word of a candidate behind the key. */
static bool cache_find(const char *folder, const char *key, const struct variants_choice *all, size_t count,
	struct variants_choice *out)
{
	char *memory;
	bool found = false;
	size_t n = strlen(key);
	for (const char *line = cache_read(folder, &memory); *line && !found; line = strchr(line, '\n') + 1) {
		if (strncmp(line, key, n))
			continue;
		for (size_t i = 0; i < count && !found; i++) {
			char word[VARIANTS_WORD];
			size_t length = strlen(variants_format(&all[i], word));
			found = !strncmp(line + n, word, length) && line[n + length] == '\n';
			if (found)
				*out = all[i];
		}
	}
	free(memory);
	return found;
}

static void cache_add(const char *folder, const char *key, const struct variants_choice *choice)
{
	char path[4096], word[VARIANTS_WORD], *memory;
	struct writer text;
	const char *lines = cache_read(folder, &memory);
	if (strlen(lines) + strlen(key) + 256 > CACHE_LIMIT)
		lines = "";
	writer_init(&text);
	write_bytes(&text, CACHE_HEADER, strlen(CACHE_HEADER));
	write_bytes(&text, lines, strlen(lines));
	write_bytes(&text, key, strlen(key));
	variants_format(choice, word);
	write_bytes(&text, word, strlen(word));
	write_u8(&text, '\n');
	cache_path(folder, path, sizeof path);
	file_make_directories(folder, 0700, NULL);
	file_replace(path, text.data, text.size, 0600, NULL);
	writer_fini(&text);
	free(memory);
}

int variants_by_time(struct device *d, const struct weight *w, const struct variants_shape *v,
	const struct variants_config *c, bool merged, struct variants_choice *out, struct fault *f)
{
	struct variants_choice all[VARIANTS_CANDIDATES];
	char key[512];
	size_t count = variants_candidates(v, c->keep_s, merged, all);
	*out = all[0];
	if (count == 1)
		return 0;
	cache_key(d, v, c, merged, key, sizeof key);
	if (c->cache && cache_find(c->cache, key, all, count, out))
		return 0;
	int rc = fastest(d, w, v, c, merged, out, f);
	if (!rc && c->cache)
		cache_add(c->cache, key, out);
	return rc;
}
