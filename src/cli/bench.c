/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/rng.h"

/* Values that are made on the host and then repeated: what a product takes depends on them hardly, and on zeros it does. */
enum { SAMPLE = 1 << 18, MOST_CALLS = 1000 };

int bench_open(struct bench *b, const struct device_config *config, struct fault *f)
{
	*b = (struct bench){0};
	int rc = model_file_open("shape:smollm2-135m", &b->normals, f);
	if (!rc) {
		model_file_random(b->normals, model_file_tensor(b->normals, "model.embed_tokens.weight"), &b->random);
		rc = device_open(config, &b->device, f);
	}
	if (rc)
		bench_close(b);
	return rc;
}

void bench_close(struct bench *b)
{
	device_close(b->device);
	model_file_close(b->normals);
	*b = (struct bench){0};
}

struct filling {
	const struct model_random *random;
	uint64_t stream;
	size_t cols;
};

/* The rule of struct weight_source, on the host. */
static int fill(void *self, size_t first, size_t count, float *out)
{
	const struct filling *filling = self;
	uint32_t block[4];
	for (size_t i = 0, n = count * filling->cols; i < n; i++) {
		uint64_t e = (uint64_t)first * filling->cols + i;
		if (i == 0 || e % 8 == 0)
			rng_block(filling->random->seed, filling->stream, e / 8, block);
		uint16_t piece = (uint16_t)(block[e % 8 / 2] >> (16 * (e % 2)));
		out[i] = bf16_to_f32(filling->random->normals[piece]);
	}
	return 0;
}

struct weight *bench_weight(
	struct bench *b, size_t rows, size_t cols, enum weight_storage storage, unsigned uses, size_t room)
{
	/* Streams that no tensor of a shape has. */
	struct filling filling = {&b->random, 1ull << 32 | b->weights++, cols};
	const struct weight_source source = {
		.fill = fill,
		.self = &filling,
		.normals = b->random.normals,
		.seed = b->random.seed,
		.stream = filling.stream,
	};
	return b->device->ops->weight_new(b->device, rows, cols, storage, uses, room, &source);
}

static float *sample(float deviation)
{
	float *host = must_alloc(SAMPLE * sizeof *host);
	struct rng r;
	rng_init(&r, 1, 1ull << 33);
	for (size_t i = 0; i < SAMPLE; i++)
		host[i] = deviation * rng_normal(&r);
	return host;
}

float *bench_floats(struct bench *b, size_t n, float deviation)
{
	const struct device_ops *ops = b->device->ops;
	float *host = sample(deviation), *out = ops->alloc(b->device, n * sizeof *out);
	for (size_t done = 0; done < n && out != NULL; done += SAMPLE)
		ops->upload(b->device, out + done, host, (n - done < SAMPLE ? n - done : SAMPLE) * sizeof *host);
	free(host);
	return out;
}

void *bench_act(struct bench *b, size_t n)
{
	struct device *d = b->device;
	float *values = bench_floats(b, n < SAMPLE ? n : SAMPLE, 1);
	void *out = d->ops->alloc(d, n * d->act_size);
	for (size_t done = 0; done < n && out != NULL; done += SAMPLE)
		d->ops->to_act(d, act_at(d, out, done), values, n - done < SAMPLE ? n - done : SAMPLE);
	device_sync(d, NULL);
	d->ops->release(d, values);
	return out;
}

double bench_now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

int bench_time(struct device *d, void (*call)(void *self), void *self, double budget, double *seconds, struct fault *f)
{
	enum { PARTS = 5 };
	double times[PARTS];
	call(self);
	int rc = device_sync(d, f);
	double start = bench_now();
	call(self);
	if (!rc)
		rc = device_sync(d, f);
	double once = bench_now() - start;
	/* Many calls between two waits, so that a GPU's queue never runs dry. */
	size_t calls = once > 0 ? (size_t)(budget / PARTS / once) : MOST_CALLS;
	calls = calls < 1 ? 1 : calls > MOST_CALLS ? MOST_CALLS : calls;
	size_t parts = once > budget ? 3 : PARTS;
	for (size_t part = 0; part < parts && !rc; part++) {
		start = bench_now();
		for (size_t i = 0; i < calls; i++)
			call(self);
		rc = device_sync(d, f);
		times[part] = (bench_now() - start) / (double)calls;
	}
	if (rc)
		return rc;
	qsort(times, parts, sizeof *times, by_size);
	*seconds = times[parts / 2];
	return 0;
}

struct product {
	struct device *device;
	const struct weight *weight;
	const void *x;
	void *y;
	size_t n;
};

static void multiply(void *self)
{
	const struct product *p = self;
	p->device->ops->matmul(p->device, p->n, p->x, p->weight, NULL, p->y);
}

int bench_ceiling(struct bench *b, double *flops, struct fault *f)
{
	struct device *d = b->device;
	bool cpu = strcmp(d->ops->name, "cpu") == 0;
	size_t size = cpu ? 2048 : 8192, n = cpu ? 512 : size;
	double seconds = 0;
	struct weight *weight =
		bench_weight(b, size, size, d->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32, WEIGHT_FORWARD, 0);
	struct product p = {d, weight, bench_act(b, n * size), d->ops->alloc(d, n * size * d->act_size), n};
	int rc = device_sync(d, f);
	if (!rc)
		rc = bench_time(d, multiply, &p, 0.3, &seconds, f);
	if (!rc)
		*flops = 2.0 * (double)n * (double)size * (double)size / seconds;
	d->ops->release(d, (void *)p.x);
	d->ops->release(d, p.y);
	d->ops->weight_free(d, weight);
	return rc;
}
