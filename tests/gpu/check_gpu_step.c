/* SPDX-License-Identifier: Apache-2.0 */
/* Whole training steps on CUDA against the same steps on the CPU in f32: a tiny model with real rows, and the shape of SmolLM2-135M with
 * random weights, in every memory mode and with every kind of base weights. */
#include "gpu/pair.h"
#include "train/generator.h"
#include "train/trainer.h"

enum { STEPS = 5 };

static char directory[] = "/tmp/sakiori-gpu-step-XXXXXX", rows_path[96];

static void must(int rc, const struct fault *f)
{
	ck_assert_msg(rc == 0, "%d: %s", rc, f->text);
}

static const char *tiny(void)
{
	static char path[4096];
	const char *root = getenv("SRCDIR");
	snprintf(path, sizeof path, "%s/tests/golden/tiny.gguf", root ? root : ".");
	return path;
}

/* Rows, and what was measured of the card. */
static void remove_directory(void)
{
	char command[96];
	snprintf(command, sizeof command, "rm -rf '%s'", directory);
	if (system(command))
		printf("%s is left behind\n", directory);
}

static void write_rows(void)
{
	static const char *const words[] = {"cloth", "river", "indigo", "winter", "thread", "harbour", "sleeve"};
	if (!mkdtemp(directory))
		exit(EXIT_FAILURE);
	snprintf(rows_path, sizeof rows_path, "%s/rows.jsonl", directory);
	FILE *file = fopen(rows_path, "w");
	if (!file)
		exit(EXIT_FAILURE);
	for (int i = 0; i < 23; i++)
		fprintf(file, "{\"prompt\": \"The %s and the %s have %d:\", \"completion\": \" %s\"}\n", words[i % 7],
			words[i / 7 % 7], i, words[(i * i + 3) % 7]);
	fclose(file);
}

/* Rows of a tiny model, in more than one micro-batch a step, so that recordings replay within one. */
static struct trainer_config tiny_config(void)
{
	struct trainer_config c;
	trainer_config_default(&c);
	c.model = tiny();
	c.data = c.eval = rows_path;
	c.max_seq = 64;
	c.micro_tokens = 64;
	c.adapter.rank = 4;
	c.lr = 1e-3;
	c.total_steps = 10;
	c.seed = 11;
	c.cache = directory;
	return c;
}

/* Real shapes: heads 9/3 of 64, a vocabulary of 49,152. */
static struct trainer_config random_config(void)
{
	struct trainer_config c;
	trainer_config_default(&c);
	c.model = "shape:smollm2-135m";
	c.random_rows = 6;
	c.batch_rows = 2;
	c.max_seq = 37;
	c.micro_tokens = 80;
	c.adapter.rank = 8;
	c.lr = 1e-3;
	c.total_steps = 10;
	c.seed = 3;
	c.cache = directory;
	return c;
}

/* What steps leave. */
struct run {
	size_t size;
	double loss[STEPS], norm[STEPS];
	float *gradient; /* of the first step, times what clipping made of it */
	float *adapter;  /* after the last */
};

static void run_free(struct run *r)
{
	free(r->gradient);
	free(r->adapter);
}

static void run_steps(struct run *r, const struct trainer_config *c, int steps)
{
	struct trainer *t;
	struct fault f = {0};
	memset(r, 0, sizeof *r);
	must(trainer_open(c, &t, &f), &f);
	r->size = trainer_layout(t)->size;
	r->gradient = must_calloc(r->size, sizeof *r->gradient);
	r->adapter = must_calloc(r->size, sizeof *r->adapter);
	float *second = must_calloc(r->size, sizeof *second);
	for (int i = 0; i < steps; i++) {
		struct step_stats stats = {0};
		must(trainer_step(t, &stats, &f), &f);
		r->loss[i] = stats.loss;
		r->norm[i] = stats.grad_norm;
		if (i == 0)
			must(trainer_get_moments(t, r->gradient, second, &f), &f);
	}
	must(trainer_get_adapter(t, r->adapter, &f), &f);
	free(second);
	trainer_close(t);
}

static double distance(const float *x, const float *y, size_t n)
{
	double difference = 0, norm = 0;
	for (size_t i = 0; i < n; i++) {
		difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
		norm += (double)y[i] * (double)y[i];
	}
	return sqrt(difference / norm);
}

/* What is off, relative: losses, gradient of the first step, adapter after the last. */
struct tolerance {
	double loss, gradient, adapter;
};

static void compare(struct pair *p, const struct run *found, const struct run *exact, int steps, struct tolerance limit)
{
	for (int i = 0; i < steps; i++)
		if (!(fabs(found->loss[i] - exact->loss[i]) <= limit.loss * exact->loss[i]))
			pair_wrong(p, "the loss of step %d is %.7g, should be %.7g", i + 1, found->loss[i],
				exact->loss[i]);
	double gradient = distance(found->gradient, exact->gradient, exact->size),
	       adapter = distance(found->adapter, exact->adapter, exact->size);
	if (!(gradient <= limit.gradient))
		pair_wrong(p, "the first gradient is off by %.3g (limit %g); its norm is %.5g, should be %.5g",
			gradient, limit.gradient, found->norm[0], exact->norm[0]);
	if (!(adapter <= limit.adapter))
		pair_wrong(p, "the adapter after %d steps is off by %.3g (limit %g)", steps, adapter, limit.adapter);
	if (getenv("SAKIORI_GPU_VERBOSE"))
		printf("%s: loss off by %.2g, gradient by %.2g, adapter by %.2g\n", p->label,
			fabs(found->loss[steps - 1] / exact->loss[steps - 1] - 1), gradient, adapter);
}

static const enum trainer_dtype kinds[] = {TRAINER_F32, TRAINER_BF16};
/* AdamW's first steps are nearly the signs of the gradient: where that is almost zero, rounding decides, and the adapter shows it. bf16
 * rounds the base weights too. */
static const struct tolerance tiny_limits[] = {{2e-5, 2e-4, 1e-2}, {3e-3, 4e-2, 3e-2}};

START_TEST(steps_are_those_of_the_cpu_in_every_memory_mode)
{
	struct pair p;
	struct run exact, found;
	pair_open(&p, pair_types[_i]);
	struct trainer_config c = tiny_config();
	c.device = "cpu";
	c.base_dtype = TRAINER_F32;
	run_steps(&exact, &c, STEPS);
	c.device = pair_device_name();
	c.base_dtype = kinds[_i];
	for (int mode = 0; mode <= MEMORY_MODES; mode++)
		for (int variants = VARIANTS_COST; variants <= VARIANTS_FIXED; variants++) {
			if (mode < MEMORY_MODES && !memory_mode_exists(c.device, (enum memory_mode)mode))
				continue;
			pair_case(&p, "tiny, memory %s, variants %s",
				mode == MEMORY_MODES ? "auto" : memory_mode_name((enum memory_mode)mode),
				variants_mode_name((enum variants_mode)variants));
			c.memory = (enum memory_mode)mode;
			c.variants = (enum variants_mode)variants;
			run_steps(&found, &c, STEPS);
			compare(&p, &found, &exact, STEPS, tiny_limits[_i]);
			run_free(&found);
		}
	run_free(&exact);
	pair_close(&p);
}
END_TEST

START_TEST(deterministic_steps_have_the_same_bits)
{
	struct pair p;
	struct run first, second;
	pair_open(&p, pair_types[_i]);
	pair_case(&p, "tiny, deterministic");
	struct trainer_config c = tiny_config();
	c.device = pair_device_name();
	c.base_dtype = kinds[_i];
	c.deterministic = true;
	run_steps(&first, &c, STEPS);
	run_steps(&second, &c, STEPS);
	pair_same_bytes(&p, second.adapter, first.adapter, first.size * sizeof(float), "the adapter");
	if (memcmp(first.loss, second.loss, sizeof first.loss) != 0)
		pair_wrong(&p, "losses differ");
	run_free(&first);
	run_free(&second);
	pair_close(&p);
}
END_TEST

START_TEST(evaluations_are_those_of_the_cpu)
{
	struct pair p;
	struct fault f = {0};
	struct eval_stats stats[2];
	pair_open(&p, pair_types[_i]);
	pair_case(&p, "tiny, evaluated");
	for (int side = 0; side < PAIR_SIDES; side++) {
		struct trainer_config c = tiny_config();
		struct trainer *t;
		c.data = NULL;
		c.device = side == PAIR_CPU ? "cpu" : pair_device_name();
		c.base_dtype = side == PAIR_CPU ? TRAINER_F32 : kinds[_i];
		must(trainer_open(&c, &t, &f), &f);
		must(trainer_evaluate_base(t, &stats[side], &f), &f);
		trainer_close(t);
	}
	if (stats[0].tokens != stats[1].tokens || stats[0].rows != stats[1].rows ||
		!(fabs(stats[1].loss / stats[0].loss - 1) < tiny_limits[_i].loss))
		pair_wrong(&p, "loss %.7g over %llu tokens, should be %.7g over %llu", stats[1].loss,
			(unsigned long long)stats[1].tokens, stats[0].loss, (unsigned long long)stats[0].tokens);
	pair_close(&p);
}
END_TEST

static void generate(const char *device, enum trainer_dtype kind, int32_t *out, int n)
{
	static const int32_t start[] = {40, 90, 300, 17, 260};
	struct generator_config c = {.model = tiny(), .base_dtype = kind, .device = device};
	struct generator *g;
	struct fault f = {0};
	must(generator_open(&c, &g, &f), &f);
	must(generator_start(g, start, 5, (size_t)n, &f), &f);
	for (int i = 0; i < n; i++)
		must(generator_next(g, &out[i], &f), &f);
	generator_close(g);
}

START_TEST(the_likeliest_text_is_that_of_the_cpu)
{
	enum { N = 40 };
	struct pair p;
	int32_t exact[N], found[N];
	if (pair_types[_i] != DTYPE_F32)
		return;
	pair_open(&p, DTYPE_F32);
	pair_case(&p, "tiny, generating");
	generate("cpu", TRAINER_F32, exact, N);
	generate(pair_device_name(), TRAINER_F32, found, N);
	pair_same_bytes(&p, found, exact, sizeof exact, "the text");
	pair_close(&p);
}
END_TEST

/* FP8 and 4 bits change the base weights themselves: the loss of random weights hardly moves, gradients do. */
START_TEST(steps_of_a_real_shape_are_those_of_the_cpu)
{
	enum { FEW = 3 };
	static const struct {
		enum trainer_dtype kind;
		struct tolerance limit;
	} each[] = {{TRAINER_F32, {1e-5, 1e-3, 2e-2}}, {TRAINER_BF16, {1e-3, 5e-2, 6e-2}},
		{TRAINER_FP8, {3e-3, 0.3, 0.12}}, {TRAINER_Q4, {3e-3, 0.7, 0.2}}};
	struct pair p;
	struct run exact, found;
	if (_i)
		return;
	pair_open(&p, DTYPE_F32);
	struct trainer_config c = random_config();
	c.device = "cpu";
	c.base_dtype = TRAINER_F32;
	run_steps(&exact, &c, FEW);
	c.device = pair_device_name();
	for (size_t k = 0; k < 4; k++) {
		if (!p.cuda && k > 1)
			continue;
		pair_case(&p, "SmolLM2's shape, %s", trainer_dtype_name(each[k].kind));
		c.base_dtype = each[k].kind;
		run_steps(&found, &c, FEW);
		compare(&p, &found, &exact, FEW, each[k].limit);
		run_free(&found);
	}
	run_free(&exact);
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		steps_are_those_of_the_cpu_in_every_memory_mode,
		deterministic_steps_have_the_same_bits,
		evaluations_are_those_of_the_cpu,
		the_likeliest_text_is_that_of_the_cpu,
		steps_of_a_real_shape_are_those_of_the_cpu,
	};
	write_rows();
	atexit(remove_directory); /* also where everything is skipped */
	return pair_run("gpu_step", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
