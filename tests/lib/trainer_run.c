/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/trainer_run.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char directory[] = "/tmp/sakiori-trainer-XXXXXX";
struct fault fault;

void must(int rc)
{
	ck_assert_msg(rc == 0, "%d: %s", rc, fault.text);
}

/* Two that can be used at a time. */
const char *in_directory(const char *name)
{
	static char paths[2][128];
	static int turn;
	turn = !turn;
	snprintf(paths[turn], sizeof paths[turn], "%s/%s", directory, name);
	return paths[turn];
}

const char *model_path(void)
{
	static char path[4096];
	const char *root = getenv("SRCDIR");
	snprintf(path, sizeof path, "%s/tests/golden/tiny.gguf", root ? root : ".");
	return path;
}

void write_rows(const char *name, int first, int count)
{
	static const char *const words[] = {"cloth", "river", "indigo", "winter", "thread", "harbour", "sleeve"};
	FILE *file = fopen(in_directory(name), "w");
	for (int i = first; i < first + count; i++)
		fprintf(file, "{\"prompt\": \"The %s and the %s have %d:\", \"completion\": \" %s\"}\n", words[i % 7],
			words[i / 7 % 7], i, words[(i * i + 3) % 7]);
	fclose(file);
}

void make_directory(void)
{
	strcpy(directory + strlen(directory) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	write_rows("train.jsonl", 0, 23);
	write_rows("eval.jsonl", 100, 9);
}

void remove_directory(void)
{
	char command[256];
	snprintf(command, sizeof command, "rm -rf '%s'", directory);
	ck_assert_int_eq(system(command), 0);
}

struct trainer_config make_config(void)
{
	static char data[128], eval[128];
	struct trainer_config c;
	snprintf(data, sizeof data, "%s/train.jsonl", directory);
	snprintf(eval, sizeof eval, "%s/eval.jsonl", directory);
	trainer_config_default(&c);
	c.model = model_path();
	c.data = data;
	c.eval = eval;
	c.max_seq = 64;
	c.micro_tokens = 64;
	c.adapter.rank = 4;
	c.base_dtype = TRAINER_F32;
	c.threads = 2;
	c.lr = 3e-3;
	c.total_steps = 10;
	c.seed = 11;
	return c;
}

struct trainer *open_trainer(const struct trainer_config *c)
{
	struct trainer *t;
	must(trainer_open(c, &t, &fault));
	return t;
}

double run(struct trainer *t, int steps)
{
	struct step_stats stats = {0};
	for (int i = 0; i < steps; i++)
		must(trainer_step(t, &stats, &fault));
	return stats.loss;
}

float *adapter_of(struct trainer *t)
{
	float *x = malloc(trainer_layout(t)->size * sizeof *x);
	must(trainer_get_adapter(t, x, &fault));
	return x;
}

double distance(const float *x, const float *y, size_t n)
{
	double difference = 0, norm = 0;
	for (size_t i = 0; i < n; i++) {
		difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
		norm += (double)y[i] * (double)y[i];
	}
	return sqrt(difference / norm);
}
