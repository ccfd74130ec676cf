/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/metrics.h"

#include <dirent.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum type { COUNTER, GAUGE, HISTOGRAM };
static const char *const type_names[] = {"counter", "gauge", "histogram"};

static const struct family {
	const char *name;
	enum type type;
	const char *labels;
	const char *help;
} families[METRIC_COUNT] = {
#define X(identifier, name, type, labels, help) {name, type, labels, help},
	METRICS(X)
#undef X
};

/* Upper bounds in seconds: a round is seconds on a GPU with fast links and hours on a slow box. */
static const double bounds[] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200};
#define BOUNDS (sizeof bounds / sizeof bounds[0])

struct sample {
	char *labels[2];
	double value;
};

struct histogram {
	uint64_t buckets[BOUNDS + 1];
	double sum;
};

struct metrics {
	struct {
		struct sample *samples;
		size_t count;
	} families[METRIC_COUNT];
	struct histogram histograms[METRIC_COUNT];
	double start_time;
};

/* Unix time at which this process was started: boot time plus field 22 of /proc/self/stat, in clock ticks. */
static double process_start_time(void)
{
	struct timespec now, boot;
	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &boot);
	double unix_now = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
	double since_boot = (double)boot.tv_sec + (double)boot.tv_nsec / 1e9;
	char text[1024];
	FILE *file = fopen("/proc/self/stat", "re");
	size_t n = file != NULL ? fread(text, 1, sizeof text - 1, file) : 0;
	if (file != NULL)
		fclose(file);
	text[n] = '\0';
	char *after_name = strrchr(text, ')'); /* the name itself may hold blanks and brackets */
	unsigned long long ticks;
	if (after_name == NULL ||
		sscanf(after_name + 1,
			" %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
			&ticks) != 1)
		return unix_now;
	return unix_now - since_boot + (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

struct metrics *metrics_new(void)
{
	struct metrics *m = must_calloc(1, sizeof *m);
	m->start_time = process_start_time();
	return m;
}

static void sample_fini(struct sample *s)
{
	free(s->labels[0]);
	free(s->labels[1]);
}

void metrics_free(struct metrics *m)
{
	if (m == NULL)
		return;
	for (size_t i = 0; i < METRIC_COUNT; i++) {
		for (size_t k = 0; k < m->families[i].count; k++)
			sample_fini(&m->families[i].samples[k]);
		free(m->families[i].samples);
	}
	free(m);
}

static bool same(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static struct sample *find(const struct metrics *m, enum metric which, const char *label1, const char *label2)
{
	for (size_t i = 0; i < m->families[which].count; i++) {
		struct sample *s = &m->families[which].samples[i];
		if (same(s->labels[0], label1) && same(s->labels[1], label2))
			return s;
	}
	return NULL;
}

static struct sample *find_or_add(struct metrics *m, enum metric which, const char *label1, const char *label2)
{
	struct sample *s = find(m, which, label1, label2);
	if (s != NULL)
		return s;
	size_t n = m->families[which].count;
	if (n == METRICS_SAMPLES_LIMIT)
		return NULL;
	m->families[which].samples = must_realloc(m->families[which].samples, (n + 1) * sizeof *s);
	s = &m->families[which].samples[n];
	m->families[which].count = n + 1;
	*s = (struct sample){
		.labels = {label1 != NULL ? must_strdup(label1) : NULL, label2 != NULL ? must_strdup(label2) : NULL}};
	return s;
}

void metrics_set(struct metrics *m, enum metric which, const char *label1, const char *label2, double value)
{
	struct sample *s = find_or_add(m, which, label1, label2);
	if (s != NULL)
		s->value = value;
}

void metrics_add(struct metrics *m, enum metric which, const char *label1, const char *label2, double value)
{
	struct sample *s = find_or_add(m, which, label1, label2);
	if (s != NULL)
		s->value += value;
}

void metrics_observe(struct metrics *m, enum metric which, double value)
{
	struct histogram *h = &m->histograms[which];
	size_t i = 0;
	while (i < BOUNDS && value > bounds[i])
		i++;
	h->buckets[i]++;
	h->sum += value;
}

double metrics_get(const struct metrics *m, enum metric which, const char *label1, const char *label2)
{
	const struct sample *s = find(m, which, label1, label2);
	return s != NULL ? s->value : NAN;
}

void metrics_forget_peer(struct metrics *m, const char *peer)
{
	for (size_t i = 0; i < METRIC_COUNT; i++) {
		if (strncmp(families[i].labels, "peer", 4) != 0)
			continue;
		size_t kept = 0;
		for (size_t k = 0; k < m->families[i].count; k++) {
			struct sample *s = &m->families[i].samples[k];
			if (same(s->labels[0], peer))
				sample_fini(s);
			else
				m->families[i].samples[kept++] = *s;
		}
		m->families[i].count = kept;
	}
}

void metrics_read_process(struct metrics *m)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	metrics_set(m, METRIC_PROCESS_CPU, NULL, NULL,
		(double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
			(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
	unsigned long long pages, resident;
	FILE *file = fopen("/proc/self/statm", "re");
	if (file != NULL && fscanf(file, "%llu %llu", &pages, &resident) == 2) {
		double page = (double)sysconf(_SC_PAGESIZE);
		metrics_set(m, METRIC_PROCESS_VIRTUAL, NULL, NULL, (double)pages * page);
		metrics_set(m, METRIC_PROCESS_RSS, NULL, NULL, (double)resident * page);
	}
	if (file != NULL)
		fclose(file);
	DIR *directory = opendir("/proc/self/fd");
	if (directory != NULL) {
		int open_fds = -3; /* ".", ".." and the descriptor of this very listing */
		while (readdir(directory) != NULL)
			open_fds++;
		closedir(directory);
		metrics_set(m, METRIC_PROCESS_OPEN_FDS, NULL, NULL, open_fds);
	}
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
		metrics_set(m, METRIC_PROCESS_MAX_FDS, NULL, NULL, (double)limit.rlim_cur);
	metrics_set(m, METRIC_PROCESS_START, NULL, NULL, m->start_time);
}

static void put(struct writer *out, const char *text)
{
	write_bytes(out, text, strlen(text));
}

static void put_number(struct writer *out, double v)
{
	char text[40];
	if (isnan(v))
		put(out, "NaN");
	else if (isinf(v))
		put(out, v > 0 ? "+Inf" : "-Inf");
	else {
		bool exact = fabs(v) < 1e15 && v == trunc(v); /* 7200, not 7.2e+03 */
		snprintf(text, sizeof text, "%.0f", v);
		/* The shortest form that reads back the same: 0.1, not 0.10000000000000001. */
		for (int digits = 1; !exact && digits <= 17; digits++) {
			snprintf(text, sizeof text, "%.*g", digits, v);
			exact = strtod(text, NULL) == v;
		}
		put(out, text);
	}
}

static void put_label(struct writer *out, const char *value)
{
	for (; *value != '\0'; value++) {
		if (*value == '\\' || *value == '"')
			write_u8(out, '\\');
		if (*value == '\n')
			put(out, "\\n");
		else
			write_u8(out, (uint8_t)*value);
	}
}

static void put_sample(struct writer *out, const struct family *family, const struct sample *s)
{
	put(out, family->name);
	const char *name = family->labels;
	for (int i = 0; i < 2 && *name != '\0'; i++) {
		size_t n = strcspn(name, ",");
		put(out, i == 0 ? "{" : ",");
		write_bytes(out, name, n);
		put(out, "=\"");
		put_label(out, s->labels[i] != NULL ? s->labels[i] : "");
		put(out, "\"");
		name += n + (name[n] == ',');
	}
	put(out, family->labels[0] != '\0' ? "} " : " ");
	put_number(out, s->value);
	put(out, "\n");
}

static void put_histogram(struct writer *out, const char *name, const struct histogram *h)
{
	char line[160];
	uint64_t seen = 0;
	for (size_t i = 0; i <= BOUNDS; i++) {
		seen += h->buckets[i];
		snprintf(line, sizeof line, "%s_bucket{le=\"", name);
		put(out, line);
		put_number(out, i < BOUNDS ? bounds[i] : INFINITY);
		snprintf(line, sizeof line, "\"} %llu\n", (unsigned long long)seen);
		put(out, line);
	}
	put(out, name);
	put(out, "_sum ");
	put_number(out, h->sum);
	snprintf(line, sizeof line, "\n%s_count %llu\n", name, (unsigned long long)seen);
	put(out, line);
}

void metrics_write(const struct metrics *m, struct writer *out)
{
	for (size_t i = 0; i < METRIC_COUNT; i++) {
		const struct family *family = &families[i];
		if (m->families[i].count == 0 && family->type != HISTOGRAM)
			continue;
		put(out, "# HELP ");
		put(out, family->name);
		put(out, " ");
		put(out, family->help);
		put(out, "\n# TYPE ");
		put(out, family->name);
		put(out, " ");
		put(out, type_names[family->type]);
		put(out, "\n");
		if (family->type == HISTOGRAM)
			put_histogram(out, family->name, &m->histograms[i]);
		for (size_t k = 0; k < m->families[i].count; k++)
			put_sample(out, family, &m->families[i].samples[k]);
	}
}
