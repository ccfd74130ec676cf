/* SPDX-License-Identifier: Apache-2.0 */
/* Memory, conversions, sums and the optimizer. */
#include "gpu/pair.h"

/* Element by element: f32 rounds once, bf16 rounds what is written. */
static const struct pair_limit once = {2e-7, 4e-3};
/* A square root, a division and powers in f32, and moments that are kept in f32. */
static const struct pair_limit optimizer = {2e-6, 2e-6};
static const struct pair_limit in_double = {1e-12, 1e-12};

static const size_t sizes[] = {0, 1, 3, 31, 64, 257, 1000, 40003, 1000000};
enum { SIZES = sizeof sizes / sizeof *sizes };

START_TEST(conversions_round_to_nearest_even_and_keep_what_is_not_finite)
{
	enum { N = 70001 };
	struct pair p;
	pair_open(&p, pair_types[_i]);
	float *x = must_calloc(N, sizeof *x);
	struct rng r;
	rng_init(&r, 1, 2);
	for (int i = 0; i < N; i++) {
		uint32_t bits = rng_u32(&r);
		memcpy(&x[i], &bits, sizeof bits);
	}
	static const float special[] = {
		INFINITY, -INFINITY, -0.0f, 3.3961775e38f, 1.00390625f, 1.01171875f, 1e-45f, NAN};
	memcpy(x, special, sizeof special);
	for (size_t shift = 0; shift < 2; shift++) {
		pair_case(&p, "conversions, shift %zu", shift);
		p.shift = shift;
		struct both from = pair_host(&p, PAIR_F32, x, N), act = pair_output(&p, PAIR_ACT, N),
			    back = pair_output(&p, PAIR_F32, N);
		struct device *d = p.device[PAIR_GPU];
		d->ops->to_act(d, act.at[PAIR_GPU], from.at[PAIR_GPU], N);
		d->ops->from_act(d, back.at[PAIR_GPU], act.at[PAIR_GPU], N);
		float *found = pair_download(&p, back);
		size_t wrong = 0;
		for (int i = 0; i < N; i++) {
			float expected = p.act == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(x[i])) : x[i];
			if (isnan(expected) ? !isnan(found[i]) : memcmp(&expected, &found[i], sizeof expected) != 0)
				if (!wrong++)
					pair_wrong(&p, "element %d: %a became %a, should be %a", i, (double)x[i],
						(double)found[i], (double)expected);
		}
		if (wrong > 1)
			pair_wrong(&p, "%zu conversions in all", wrong);
		free(found);
	}
	free(x);
	pair_close(&p);
}
END_TEST

START_TEST(sums_and_factors_are_applied_to_every_element)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < SIZES; k++)
		for (size_t shift = 0; shift < 4; shift += 3) {
			size_t n = sizes[k];
			pair_case(&p, "vectors of %zu, shift %zu", n, shift);
			p.shift = shift;
			struct both x = pair_values(&p, PAIR_F32, 1, n, 1), y = pair_values(&p, PAIR_F32, 2, n, 1),
				    z = pair_values(&p, PAIR_F32, 3, n, 1), a = pair_values(&p, PAIR_ACT, 4, n, 1),
				    b = pair_values(&p, PAIR_ACT, 5, n, 1);
			for (int side = 0; side < PAIR_SIDES; side++) {
				struct device *d = p.device[side];
				d->ops->axpy(d, y.at[side], 0.37f, x.at[side], n);
				d->ops->scale(d, z.at[side], -1.7f, n);
				d->ops->reduce(d, x.at[side], n);
				d->ops->add(d, a.at[side], b.at[side], n);
			}
			pair_near(&p, y, once, "axpy");
			pair_near(&p, z, once, "scale");
			pair_near(&p, x, once, "reduce of one device");
			pair_near(&p, a, once, "add");
		}
	pair_close(&p);
}
END_TEST

START_TEST(the_sum_of_squares_is_exact_and_the_same_every_time)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < SIZES; k++)
		for (size_t shift = 0; shift < 2; shift++) {
			size_t n = sizes[k];
			pair_case(&p, "the sum of squares of %zu, shift %zu", n, shift);
			p.shift = shift;
			struct both x = pair_values(&p, PAIR_F32, 1, n, 1);
			p.shift = 0;
			struct both sum = pair_output(&p, PAIR_F64, 1), again = pair_output(&p, PAIR_F64, 1);
			for (int side = 0; side < PAIR_SIDES; side++) {
				struct device *d = p.device[side];
				d->ops->sum_squares(d, x.at[side], n, sum.at[side]);
				d->ops->sum_squares(d, x.at[side], n, again.at[side]);
			}
			pair_near(&p, sum, in_double, "sum of squares");
			void *first = pair_download(&p, sum), *second = pair_download(&p, again);
			pair_same_bytes(&p, second, first, sizeof(double), "the sum of squares again");
			free(first);
			free(second);
		}
	pair_close(&p);
}
END_TEST

START_TEST(adamw_takes_the_same_steps)
{
	static const struct adamw settings[] = {
		{.lr = 0.01f,
			.beta1 = 0.9f,
			.beta2 = 0.999f,
			.epsilon = 1e-8f,
			.weight_decay = 0.1f,
			.gradient_scale = 0.25f},
		{.lr = 2e-4f, .beta1 = 0.8f, .beta2 = 0.95f, .epsilon = 1e-6f, .gradient_scale = 1},
	};
	static const size_t counts[] = {0, 1, 7, 1000, 70001};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 5; k++)
		for (int j = 0; j < 4; j++) {
			size_t n = counts[k];
			struct adamw a = settings[j % 2];
			pair_case(&p, "adamw of %zu, settings %d", n, j);
			p.shift = j > 1;
			struct both w = pair_values(&p, PAIR_F32, 1, n, 1), g[4],
				    m = pair_values(&p, PAIR_F32, 0, n, 0), v = pair_values(&p, PAIR_F32, 0, n, 0);
			for (int i = 0; i < 4; i++)
				g[i] = pair_values(&p, PAIR_F32, 10 + (uint64_t)i, n, 1);
			for (int side = 0; side < PAIR_SIDES; side++)
				for (a.step = 1; a.step <= 12; a.step++)
					p.device[side]->ops->adamw(p.device[side], &a, w.at[side],
						g[a.step % 4].at[side], m.at[side], v.at[side], n);
			pair_near(&p, w, optimizer, "parameters");
			pair_near(&p, m, optimizer, "first moments");
			pair_near(&p, v, optimizer, "second moments");
		}
	pair_close(&p);
}
END_TEST

START_TEST(what_goes_up_comes_down)
{
	static const size_t bytes[] = {1, 63, 4096, 1000003, 20000000};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct device *d = p.device[PAIR_GPU];
	for (int k = 0; k < 5; k++) {
		pair_case(&p, "%zu bytes up and down", bytes[k]);
		unsigned char *host = must_calloc(bytes[k], 1), *back = must_calloc(bytes[k], 1),
			      *zero = must_calloc(bytes[k], 1);
		for (size_t i = 0; i < bytes[k]; i++)
			host[i] = (unsigned char)(i * 7 + i / 251);
		unsigned char *x = d->ops->alloc(d, bytes[k]), *y = d->ops->alloc(d, bytes[k]);
		if ((uintptr_t)x % 64 || (uintptr_t)y % 64)
			pair_wrong(&p, "memory is not aligned to 64 bytes");
		d->ops->download(d, back, x, bytes[k]);
		pair_same_bytes(&p, back, zero, bytes[k], "new memory is zero");
		d->ops->upload(d, x, host, bytes[k]);
		memset(back, 1, bytes[k]);
		d->ops->copy(d, y, x, bytes[k]);
		d->ops->download(d, back, y, bytes[k]);
		pair_same_bytes(&p, back, host, bytes[k], "copied");
		d->ops->zero(d, y, bytes[k]);
		d->ops->download(d, back, y, bytes[k]);
		pair_same_bytes(&p, back, zero, bytes[k], "zeroed");
		d->ops->download(d, back, x, bytes[k]);
		pair_same_bytes(&p, back, host, bytes[k], "the original");
		d->ops->upload(d, x + 1, host, bytes[k] - 1);
		d->ops->download(d, back, x + 1, bytes[k] - 1);
		pair_same_bytes(&p, back, host, bytes[k] - 1, "off its alignment");
		d->ops->release(d, x);
		d->ops->release(d, y);
		d->ops->release(d, NULL);
		free(host);
		free(back);
		free(zero);
	}
	if (d->ops->alloc(d, 0))
		pair_wrong(&p, "0 bytes gave memory");
	pair_close(&p);
}
END_TEST

START_TEST(memory_is_counted)
{
	enum { BYTES = 64 << 20 };
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct device *d = p.device[PAIR_GPU];
	struct device_memory before, during, after;
	d->ops->memory(d, &before);
	void *x = d->ops->alloc(d, BYTES);
	d->ops->memory(d, &during);
	d->ops->release(d, x);
	d->ops->memory(d, &after);
	if (during.used < before.used + BYTES || after.used != before.used || after.peak < during.used ||
		during.peak < before.peak || (p.cuda && (!during.total || during.free > during.total)))
		pair_wrong(&p, "used %zu, %zu, %zu; peak %zu, %zu, %zu; free %zu of %zu", before.used, during.used,
			after.used, before.peak, during.peak, after.peak, during.free, during.total);
	pair_close(&p);
}
END_TEST

START_TEST(more_memory_than_there_is_is_refused)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct device *d = p.device[PAIR_GPU];
	if (d->ops->alloc(d, (size_t)1 << 46))
		pair_wrong(&p, "64 TiB were given");
	pair_refused(&p, SAKIORI_ENOMEM, "64 TiB");
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		conversions_round_to_nearest_even_and_keep_what_is_not_finite,
		sums_and_factors_are_applied_to_every_element,
		the_sum_of_squares_is_exact_and_the_same_every_time,
		adamw_takes_the_same_steps,
		what_goes_up_comes_down,
		memory_is_counted,
		more_memory_than_there_is_is_refused,
	};
	return pair_run("gpu_vector", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
