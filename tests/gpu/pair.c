/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu/pair.h"

#include <unistd.h>

#define GUARD 256 /* bytes before and behind a buffer; keeps its alignment */
#define GUARD_BYTE 0xA5
#define NAMES_MAX 256

struct pair_memory {
	unsigned char *base;
	size_t before, bytes; /* the buffer begins at base + before */
	enum pair_side side;
};

static struct device *exact;      /* the CPU in f64 */
static struct device *kept[2][2]; /* under test: bf16?, deterministic? */
static bool verbose;

/* How near each kind of comparison came, for those who set limits. */
static struct nearness {
	char what[64];
	double worst, limit;
} nearest[NAMES_MAX];
static size_t nearest_count;

const char *pair_device_name(void)
{
	const char *name = getenv("SAKIORI_TEST_DEVICE");
	return name ? name : "cuda";
}

static int open_under_test(enum dtype act, bool deterministic, struct device **out, struct fault *f)
{
	struct device_config config = {.name = pair_device_name(), .act = act, .deterministic = deterministic};
	return device_open(&config, out, f);
}

static struct device *under_test(enum dtype act, bool deterministic)
{
	struct device **d = &kept[act == DTYPE_BF16][deterministic];
	struct fault f = {0};
	if (!*d && open_under_test(act, deterministic, d, &f)) {
		printf("FAIL: the device cannot be opened any more, what was left is not run: %s\n", f.text);
		exit(EXIT_FAILURE);
	}
	return *d;
}

static void open_pair(struct pair *p, enum dtype act, bool deterministic)
{
	memset(p, 0, sizeof *p);
	p->act = act;
	p->deterministic = deterministic;
	p->cuda = !strncmp(pair_device_name(), "cuda", 4);
	p->device[PAIR_CPU] = exact;
	p->device[PAIR_GPU] = under_test(act, deterministic);
	snprintf(p->label, sizeof p->label, "first case");
}

void pair_open(struct pair *p, enum dtype act)
{
	open_pair(p, act, false);
}

void pair_open_deterministic(struct pair *p, enum dtype act)
{
	open_pair(p, act, true);
}

void pair_wrong(struct pair *p, const char *format, ...)
{
	char text[600];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	printf("WRONG %s, %s: %s\n", dtype_name(p->act), p->label, text);
	fflush(stdout);
	p->failures++;
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

static size_t element_size(const struct pair *p, enum pair_side side, enum pair_kind kind)
{
	return kind == PAIR_ACT   ? p->device[side]->act_size
	       : kind == PAIR_F32 ? sizeof(float)
	       : kind == PAIR_F64 ? sizeof(double)
				  : 1;
}

/* Guarded memory with these bytes in it; NULL: every byte 0xff, which is NaN in every type. */
static void *memory_new(struct pair *p, enum pair_side side, size_t shift, const void *content, size_t bytes)
{
	struct device *d = p->device[side];
	size_t before = GUARD + shift, all = before + bytes + GUARD;
	unsigned char *host = must_calloc(all, 1);
	memset(host, GUARD_BYTE, all);
	if (content && bytes)
		memcpy(host + before, content, bytes);
	else
		memset(host + before, 0xff, bytes);
	unsigned char *base = d->ops->alloc(d, all);
	if (base)
		d->ops->upload(d, base, host, all);
	free(host);
	if (!base)
		return NULL;
	if (p->memories == p->memories_room) {
		p->memories_room = p->memories_room ? 2 * p->memories_room : 64;
		p->memory = realloc(p->memory, p->memories_room * sizeof *p->memory);
		ck_assert_ptr_nonnull(p->memory);
	}
	p->memory[p->memories++] = (struct pair_memory){base, before, bytes, side};
	return base + before;
}

static void check_guards(struct pair *p, const struct pair_memory *m)
{
	struct device *d = p->device[m->side];
	size_t all = m->before + m->bytes + GUARD, wrong = 0, first = 0;
	unsigned char *host = must_calloc(all, 1);
	d->ops->download(d, host, m->base, all);
	for (size_t i = 0; i < all; i++)
		if ((i < m->before || i >= m->before + m->bytes) && host[i] != GUARD_BYTE) {
			first = wrong++ ? first : i;
		}
	if (wrong && !d->fault.code)
		pair_wrong(p, "%zu bytes written out of bounds of a %s buffer of %zu bytes, the first %s at %td", wrong,
			m->side == PAIR_GPU ? "device" : "CPU", m->bytes, first < m->before ? "before" : "behind",
			(ptrdiff_t)first - (ptrdiff_t)(first < m->before ? m->before : m->before + m->bytes));
	free(host);
}

static void free_case(struct pair *p)
{
	for (size_t i = 0; i < p->memories; i++) {
		struct device *d = p->device[p->memory[i].side];
		d->ops->release(d, p->memory[i].base);
	}
	p->memories = 0;
	for (size_t i = 0; i < p->weights_count; i++)
		for (int side = 0; side < PAIR_SIDES; side++) {
			struct device *d = p->device[side];
			d->ops->weight_free(d, p->weights[i].at[side]);
		}
	p->weights_count = 0;
	p->shift = 0;
}

static void replace_device(struct pair *p)
{
	device_close(p->device[PAIR_GPU]);
	kept[p->act == DTYPE_BF16][p->deterministic] = NULL;
	p->device[PAIR_GPU] = under_test(p->act, p->deterministic);
}

static void end_case(struct pair *p)
{
	struct fault f = {0};
	if (device_sync(p->device[PAIR_CPU], &f)) {
		pair_wrong(p, "the CPU device failed: %s", f.text);
		free_case(p);
		device_close(exact);
		struct device_config config = {.name = "cpu", .act = DTYPE_F64};
		ck_assert_int_eq(device_open(&config, &exact, NULL), 0);
		p->device[PAIR_CPU] = exact;
	}
	bool failed = device_sync(p->device[PAIR_GPU], &f) != 0;
	if (failed)
		pair_wrong(p, "the device failed: %s", f.text);
	for (size_t i = 0; i < p->memories && !failed; i++)
		check_guards(p, &p->memory[i]);
	free_case(p);
	if (failed)
		replace_device(p);
}

void pair_case(struct pair *p, const char *format, ...)
{
	end_case(p);
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(p->label, sizeof p->label, format, arguments);
	va_end(arguments);
}

void pair_close(struct pair *p)
{
	end_case(p);
	free(p->memory);
	ck_assert_msg(!p->failures, "%u things were wrong; they are listed above", p->failures);
}

void pair_refused(struct pair *p, int code, const char *what)
{
	struct fault f = {0};
	int rc = device_sync(p->device[PAIR_GPU], &f);
	if (rc != code)
		pair_wrong(p, "%s: expected \"%s\", found \"%s\" (%s)", what, err_text(code), err_text(rc), f.text);
	else if (rc && !f.text[0])
		pair_wrong(p, "%s: the failure has no sentence", what);
	free_case(p);
	if (rc)
		replace_device(p);
}

/* ---- values --------------------------------------------------------------------------------------------------------- */

/* SplitMix64 of Steele, Lea and Flood: cheaper than Philox, and nobody replays a test's values. */
static float random_value(uint64_t seed, uint64_t i)
{
	uint64_t z = (seed * 0x632be59bd9b4e019 + i + 1) * 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	z ^= z >> 31;
	return (float)((double)(z >> 40) * 0x1p-23 - 1);
}

float *pair_random(uint64_t seed, size_t n)
{
	float *values = must_calloc(n + 1, sizeof *values);
	for (size_t i = 0; i < n; i++)
		values[i] = random_value(seed, i);
	return values;
}

static void *memory_of_values(struct pair *p, enum pair_side side, enum pair_kind kind, const float *values, size_t n)
{
	size_t size = element_size(p, side, kind);
	void *host = must_calloc(n + 1, size);
	for (size_t i = 0; i < n; i++) {
		float value =
			kind == PAIR_ACT && p->act == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(values[i])) : values[i];
		if (size == 8)
			((double *)host)[i] = (double)value;
		else if (size == 4)
			((float *)host)[i] = value;
		else
			((uint16_t *)host)[i] = f32_to_bf16(value);
	}
	void *at = memory_new(p, side, p->shift * size, host, n * size);
	free(host);
	return at;
}

struct both pair_host(struct pair *p, enum pair_kind kind, const float *values, size_t n)
{
	struct both b = {.kind = kind, .n = n};
	for (int side = 0; side < PAIR_SIDES; side++)
		b.at[side] = memory_of_values(p, side, kind, values, n);
	return b;
}

struct both pair_values(struct pair *p, enum pair_kind kind, uint64_t seed, size_t n, float factor)
{
	float *values = pair_random(seed, n);
	for (size_t i = 0; i < n; i++)
		values[i] = factor != 0 ? values[i] * factor : 0;
	struct both b = pair_host(p, kind, values, n);
	free(values);
	return b;
}

struct both pair_output(struct pair *p, enum pair_kind kind, size_t n)
{
	struct both b = {.kind = kind, .n = n};
	for (int side = 0; side < PAIR_SIDES; side++) {
		size_t size = element_size(p, side, kind);
		b.at[side] = memory_new(p, side, p->shift * size, NULL, n * size);
	}
	return b;
}

struct both pair_bytes(struct pair *p, const void *data, size_t bytes)
{
	struct both b = {.kind = PAIR_BYTES, .n = bytes};
	for (int side = 0; side < PAIR_SIDES; side++)
		b.at[side] = memory_new(p, side, 0, data, bytes);
	return b;
}

struct both pair_part(const struct pair *p, struct both whole, size_t first, size_t n)
{
	for (int side = 0; side < PAIR_SIDES; side++)
		whole.at[side] = (char *)whole.at[side] + first * element_size(p, side, whole.kind);
	whole.n = n;
	return whole;
}

size_t pair_size(const struct pair *p, struct both b)
{
	return b.n * element_size(p, PAIR_GPU, b.kind);
}

static void *download(struct pair *p, struct both b, enum pair_side side)
{
	struct device *d = p->device[side];
	size_t bytes = b.n * element_size(p, side, b.kind);
	void *host = must_calloc(bytes + 8, 1);
	d->ops->download(d, host, b.at[side], bytes);
	return host;
}

void *pair_download(struct pair *p, struct both b)
{
	return download(p, b, PAIR_GPU);
}

double *pair_read(struct pair *p, struct both b, enum pair_side side)
{
	size_t size = element_size(p, side, b.kind);
	void *host = download(p, b, side);
	double *out = must_calloc(b.n + 1, sizeof *out);
	for (size_t i = 0; i < b.n; i++)
		out[i] = size == 8   ? ((double *)host)[i]
			 : size == 4 ? (double)((float *)host)[i]
			 : size == 2 ? (double)bf16_to_f32(((uint16_t *)host)[i])
				     : ((unsigned char *)host)[i];
	free(host);
	return out;
}

/* ---- weights -------------------------------------------------------------------------------------------------------- */

struct filler {
	const float *values;
	size_t cols;
};

static int fill_rows(void *self, size_t first, size_t count, float *out)
{
	const struct filler *s = self;
	memcpy(out, s->values + first * s->cols, count * s->cols * sizeof *out);
	return 0;
}

void pair_take_weight(struct pair *p, enum pair_side side, struct weight *w)
{
	ck_assert_uint_lt(p->weights_count, sizeof p->weights / sizeof *p->weights);
	p->weights[p->weights_count] = (struct both_weights){0};
	p->weights[p->weights_count++].at[side] = w;
}

struct weight *pair_weight_on(struct pair *p, enum pair_side side, const float *values, size_t rows, size_t cols,
	enum weight_storage storage, unsigned uses)
{
	struct device *d = p->device[side];
	struct filler s = {values, cols};
	struct weight_source source = {.fill = fill_rows, .self = &s};
	struct weight *w = d->ops->weight_new(d, rows, cols, storage, uses, p->room, &source);
	pair_take_weight(p, side, w);
	return w;
}

struct both_weights pair_weight_from(
	struct pair *p, const float *values, size_t rows, size_t cols, enum weight_storage storage, unsigned uses)
{
	struct both_weights w = {.rows = rows, .cols = cols};
	for (int side = 0; side < PAIR_SIDES; side++)
		w.at[side] = pair_weight_on(p, side, values, rows, cols, storage, uses);
	return w;
}

enum weight_storage pair_storage(const struct pair *p)
{
	return p->act == DTYPE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
}

struct both_weights pair_weight(struct pair *p, uint64_t seed, size_t rows, size_t cols, unsigned uses)
{
	float *values = pair_random(seed, rows * cols), factor = sqrtf(3.0f / (float)cols);
	for (size_t i = 0; i < rows * cols; i++)
		values[i] *= factor;
	struct both_weights w = pair_weight_from(p, values, rows, cols, pair_storage(p), uses);
	free(values);
	return w;
}

int pair_drawn_rows(void *self, size_t first, size_t count, float *out)
{
	const struct pair_drawn *s = self;
	for (size_t i = 0; i < count * s->cols; i++) {
		uint64_t e = (uint64_t)first * s->cols + i;
		uint32_t block[4];
		rng_block(s->seed, s->stream, e / 8, block);
		out[i] = bf16_to_f32(s->normals[block[e % 8 / 2] >> (e % 2 * 16) & 0xffff]);
	}
	return 0;
}

uint16_t *pair_normals(void)
{
	uint16_t *normals = must_calloc(65536, sizeof *normals);
	for (int i = 0; i < 65536; i++)
		normals[i] = f32_to_bf16((float)(i - 32768) * 1e-4f);
	return normals;
}

/* ---- comparisons ---------------------------------------------------------------------------------------------------- */

double pair_limit_of(const struct pair *p, struct pair_limit limit)
{
	return p->act == DTYPE_BF16 ? limit.bf16 : limit.f32;
}

static void note_nearness(const struct pair *p, const char *what, double ratio, double limit)
{
	char name[64];
	snprintf(name, sizeof name, "%s %s", dtype_name(p->act), what);
	size_t i = 0;
	while (i < nearest_count && strcmp(nearest[i].what, name))
		i++;
	if (i == nearest_count && i < NAMES_MAX) {
		memcpy(nearest[i].what, name, sizeof name);
		nearest_count++;
	}
	if (i < nearest_count && ratio >= nearest[i].worst) {
		nearest[i].worst = ratio;
		nearest[i].limit = limit;
	}
}

void pair_near_doubles(
	struct pair *p, const double *found, const double *expected, size_t n, double limit, const char *what)
{
	double difference = 0, norm = 0;
	size_t missing = 0, first_missing = 0;
	for (size_t i = 0; i < n; i++) {
		if (isnan(found[i]) != isnan(expected[i])) {
			first_missing = missing++ ? first_missing : i;
			continue;
		}
		double each = isnan(found[i]) || found[i] == expected[i] ? 0 : found[i] - expected[i];
		difference += each * each;
		norm += isfinite(expected[i]) ? expected[i] * expected[i] : 0;
	}
	if (missing) {
		pair_wrong(p, "%s: %zu of %zu elements are NaN or were not written, the first is number %zu", what,
			missing, n, first_missing);
		return;
	}
	double ratio = difference > 0 ? sqrt(difference / norm) : 0, mean = n ? sqrt(norm / (double)n) : 0;
	if (!(sqrt(difference) <= limit * sqrt(norm) + 1e-12 * (double)n)) {
		pair_wrong(p, "%s: off by %.3g of the norm %.3g (limit %.3g), %zu elements", what, ratio, sqrt(norm),
			limit, n);
		return;
	}
	note_nearness(p, what, ratio, limit);
	for (size_t i = 0; i < n; i++) {
		double each = fabs(found[i] - expected[i]);
		if (!isnan(found[i]) && found[i] != expected[i] &&
			!(each <= 16 * limit * fmax(mean, fabs(expected[i])) + 1e-12)) {
			pair_wrong(p, "%s: element %zu of %zu is %.7g, should be %.7g; the mean size is %.3g", what, i,
				n, found[i], expected[i], mean);
			return;
		}
	}
}

void pair_near(struct pair *p, struct both b, struct pair_limit limit, const char *what)
{
	double *found = pair_read(p, b, PAIR_GPU), *expected = pair_read(p, b, PAIR_CPU);
	if (!p->device[PAIR_GPU]->fault.code)
		pair_near_doubles(p, found, expected, b.n, pair_limit_of(p, limit), what);
	free(found);
	free(expected);
}

static int compare_doubles(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;
	return a < b ? -1 : a > b;
}

void pair_near_sorted(struct pair *p, struct both b, struct pair_limit limit, const char *what)
{
	double *found = pair_read(p, b, PAIR_GPU), *expected = pair_read(p, b, PAIR_CPU);
	qsort(found, b.n, sizeof *found, compare_doubles);
	qsort(expected, b.n, sizeof *expected, compare_doubles);
	if (!p->device[PAIR_GPU]->fault.code)
		pair_near_doubles(p, found, expected, b.n, pair_limit_of(p, limit), what);
	free(found);
	free(expected);
}

void pair_same_bytes(struct pair *p, const void *found, const void *expected, size_t bytes, const char *what)
{
	const unsigned char *x = found, *y = expected;
	size_t wrong = 0, first = 0;
	for (size_t i = 0; i < bytes; i++)
		if (x[i] != y[i])
			first = wrong++ ? first : i;
	if (wrong)
		pair_wrong(p, "%s: %zu of %zu bytes differ, the first is number %zu: 0x%02x, should be 0x%02x", what,
			wrong, bytes, first, x[first], y[first]);
}

void pair_same(struct pair *p, struct both b, const char *what)
{
	void *found = download(p, b, PAIR_GPU), *expected = download(p, b, PAIR_CPU);
	for (size_t i = 0; b.kind == PAIR_F32 && i < b.n; i++)
		if (isnan(((float *)found)[i]) && isnan(((float *)expected)[i]))
			((float *)found)[i] = ((float *)expected)[i] = 0;
	if (!p->device[PAIR_GPU]->fault.code)
		pair_same_bytes(p, found, expected, pair_size(p, b), what);
	free(found);
	free(expected);
}

void pair_same_again(struct pair *p, struct both again, struct both first, const char *what)
{
	void *found = pair_download(p, again), *expected = pair_download(p, first);
	pair_same_bytes(p, found, expected, pair_size(p, first), what);
	free(found);
	free(expected);
}

double pair_dot(struct pair *p, struct both x, struct both y)
{
	double *left = pair_read(p, x, PAIR_GPU), *right = pair_read(p, y, PAIR_GPU), sum = 0;
	for (size_t i = 0; i < x.n; i++)
		sum += left[i] * right[i];
	free(left);
	free(right);
	return sum;
}

void pair_differences(struct pair *p, pair_loss *loss, void *self, struct both values, struct both gradient,
	double step, double limit, const char *what)
{
	struct device *d = p->device[PAIR_GPU];
	double *expected = must_calloc(values.n + 1, sizeof *expected), *found = pair_read(p, gradient, PAIR_GPU);
	float *host = pair_download(p, values);
	for (size_t i = 0; i < values.n; i++) {
		float *at = (float *)values.at[PAIR_GPU] + i;
		volatile float above = host[i] + (float)step, below = host[i] - (float)step;
		float up = above, down = below;
		d->ops->upload(d, at, &up, sizeof up);
		double more = loss(p, self);
		d->ops->upload(d, at, &down, sizeof down);
		double less = loss(p, self);
		d->ops->upload(d, at, &host[i], sizeof host[i]);
		expected[i] = (more - less) / ((double)up - (double)down);
	}
	pair_near_doubles(p, found, expected, values.n, limit, what);
	free(host);
	free(expected);
	free(found);
}

/* ---- the program ---------------------------------------------------------------------------------------------------- */

/* The module of the build directory, when nobody names another. */
static void choose_module(void)
{
	const char *build = getenv("BUILDDIR");
	char path[4096];
	if (getenv("SAKIORI_CUDA_MODULE") || !build)
		return;
	snprintf(path, sizeof path, "%s/gpu/sakiori-cuda.so", build);
	if (!access(path, R_OK))
		setenv("SAKIORI_CUDA_MODULE", path, 1);
}

static void open_devices(const char *name)
{
	struct fault f = {0};
	struct device_config config = {.name = "cpu", .act = DTYPE_F64};
	choose_module();
	verbose = getenv("SAKIORI_GPU_VERBOSE") != NULL;
	int rc = open_under_test(DTYPE_F32, false, &kept[0][0], &f);
	if (rc == SAKIORI_EDEVICE && !getenv("SAKIORI_GPU_REQUIRED")) {
		printf("SKIP %s: %s\n", name, f.text);
		exit(PAIR_SKIPPED);
	}
	if (rc || device_open(&config, &exact, &f)) {
		printf("FAIL %s: %s\n", name, f.text);
		exit(EXIT_FAILURE);
	}
}

static void close_devices(void)
{
	for (int i = 0; i < 4; i++) {
		device_close(kept[i / 2][i % 2]);
		kept[i / 2][i % 2] = NULL;
	}
	device_close(exact);
	for (size_t i = 0; verbose && i < nearest_count; i++)
		printf("%-50s %8.2g of %8.2g\n", nearest[i].what, nearest[i].worst, nearest[i].limit);
	nearest_count = 0;
}

int pair_try(enum dtype act, void (*call)(struct device *d), struct fault *f)
{
	struct device *d;
	choose_module();
	if (open_under_test(act, false, &d, f))
		return 0;
	call(d);
	int rc = device_sync(d, f);
	device_close(d);
	return rc;
}

int pair_run(const char *name, const TTest *const *tests, size_t count, int loops)
{
	open_devices(name);
	Suite *suite = suite_create(name);
	/* A case each, so that CK_RUN_CASE runs one alone. */
	for (size_t i = 0; i < count; i++) {
		TCase *alone = tcase_create(tests[i]->name);
		tcase_add_loop_test(alone, tests[i], 0, loops);
		suite_add_tcase(suite, alone);
	}
	SRunner *runner = srunner_create(suite);
	/* A child of a process that holds a card cannot use it. */
	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	close_devices();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
