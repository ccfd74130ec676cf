/* SPDX-License-Identifier: Apache-2.0 */
/* What holds for sequences of operations: recordings replay the same bits, copies run beside the computation and wait where they are told
 * to, the same calls give the same bits, and after a failure nothing runs. */
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gpu/layer.h"

/* One step, recorded under a key when the device records. Returns whether it was a replay. */
static bool recorded_step(struct layer *l, uint64_t key)
{
	struct device *d = l->device;
	if (d->ops->replay(d, key))
		return true;
	d->ops->record(d, key);
	layer_step(l);
	d->ops->record_end(d);
	return false;
}

static void check_replays(struct pair *p, bool deterministic)
{
	enum { ROUNDS = 6 };
	struct layer eager, recorded;
	pair_case(p, "recordings%s", deterministic ? ", deterministic" : "");
	struct device *d = p->device[PAIR_GPU];
	unsigned char *expected = must_calloc(1, LAYER_RESULT), *found = must_calloc(1, LAYER_RESULT);
	layer_open(&eager, d);
	layer_open(&recorded, d);
	int replayed = 0;
	for (uint64_t round = 0; round < ROUNDS; round++) {
		layer_upload(&eager, round);
		layer_upload(&recorded, round);
		layer_step(&eager);
		replayed += recorded_step(&recorded, 7);
		layer_download(&eager, expected);
		layer_download(&recorded, found);
		pair_same_bytes(p, found, expected, LAYER_RESULT, "a recorded step");
	}
	if (d->records && replayed < ROUNDS - 2)
		pair_wrong(p, "%d of %d steps were replayed", replayed, ROUNDS);
	if (!d->records && replayed)
		pair_wrong(p, "the device says that it does not record");
	if (p->cuda && !d->records)
		pair_wrong(p, "a CUDA device does not record");
	/* the same values as a step on the CPU, at least roughly: a recording of nothing would be equal too */
	struct layer exact;
	layer_open(&exact, p->device[PAIR_CPU]);
	for (uint64_t round = 0; round < ROUNDS; round++) {
		layer_upload(&exact, round);
		layer_step(&exact);
	}
	double *one = must_calloc(LAYER_ADAPTER, sizeof *one), *other = must_calloc(LAYER_ADAPTER, sizeof *other);
	float *host = must_calloc(LAYER_ADAPTER, sizeof *host);
	d->ops->download(d, host, recorded.gradient, LAYER_ADAPTER * sizeof *host);
	for (int i = 0; i < LAYER_ADAPTER; i++) {
		one[i] = (double)host[i];
		other[i] = (double)exact.gradient[i];
	}
	pair_near_doubles(
		p, one, other, LAYER_ADAPTER, p->act == DTYPE_BF16 ? 6e-2 : 1e-2, "the gradient after six steps");
	layer_close(&exact);
	layer_close(&eager);
	layer_close(&recorded);
	free(one);
	free(other);
	free(host);
	free(expected);
	free(found);
}

START_TEST(a_replay_gives_the_bits_of_the_operations)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	check_replays(&p, false);
	pair_close(&p);
	pair_open_deterministic(&p, pair_types[_i]);
	check_replays(&p, true);
	pair_close(&p);
}
END_TEST

/* More recordings than a device keeps, and working space that grows under them. */
START_TEST(recordings_that_were_dropped_are_made_again)
{
	enum { LAYERS = 3, KEYS = 140 };
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct device *d = p.device[PAIR_GPU];
	struct layer layers[LAYERS], eager;
	unsigned char *expected = must_calloc(1, LAYER_RESULT), *found = must_calloc(1, LAYER_RESULT);
	layer_open(&eager, d);
	layer_step(&eager);
	layer_download(&eager, expected);
	for (int i = 0; i < LAYERS; i++)
		layer_open(&layers[i], d);
	for (int round = 0; round < 4; round++) {
		for (uint64_t key = 0; key < (round == 2 ? KEYS : LAYERS); key++) {
			layer_reset(&layers[key % LAYERS]);
			/* a recording belongs to its layer: keys beyond the layers are other numbers for the same */
			recorded_step(&layers[key % LAYERS], 100 + key);
			layer_download(&layers[key % LAYERS], found);
			pair_same_bytes(&p, found, expected, LAYER_RESULT, "a step among many recordings");
		}
		/* a product larger than any before: working space moves */
		size_t n = 300u << round;
		struct both_weights w = pair_weight(&p, 1, 700, 300, WEIGHT_FORWARD | WEIGHT_BACKWARD);
		struct both x = pair_values(&p, PAIR_ACT, 2, n * 300, 1),
			    scale = pair_host(&p, PAIR_F32, &(float){1}, 1),
			    labels = pair_bytes(&p, (int32_t[300 << 3]){0}, n * sizeof(int32_t));
		struct cross_entropy c = {.labels = labels.at[PAIR_GPU], .gradient_scale = scale.at[PAIR_GPU]};
		struct tokens t = {.count = n};
		d->ops->cross_entropy(d, &c, &t, x.at[PAIR_GPU], w.at[PAIR_GPU], x.at[PAIR_GPU]);
		pair_case(&p, "after round %d", round);
	}
	for (int i = 0; i < LAYERS; i++)
		layer_close(&layers[i]);
	layer_close(&eager);
	free(expected);
	free(found);
	pair_close(&p);
}
END_TEST

START_TEST(the_same_calls_give_the_same_bits)
{
	unsigned char *expected = must_calloc(1, LAYER_RESULT), *found = must_calloc(1, LAYER_RESULT);
	struct pair p;
	pair_open_deterministic(&p, pair_types[_i]);
	for (int time = 0; time < 3; time++) {
		/* the third time on a device of its own */
		struct device_config config = {.name = pair_device_name(), .act = p.act, .deterministic = true};
		struct device *own = NULL;
		if (time == 2)
			ck_assert_int_eq(device_open(&config, &own, NULL), 0);
		struct layer l;
		layer_open(&l, own ? own : p.device[PAIR_GPU]);
		for (uint64_t step = 0; step < 3; step++) {
			layer_upload(&l, step);
			layer_step(&l);
		}
		layer_download(&l, time ? found : expected);
		if (time)
			pair_same_bytes(&p, found, expected, LAYER_RESULT, time == 1 ? "again" : "on another device");
		layer_close(&l);
		device_close(own);
	}
	free(expected);
	free(found);
	pair_close(&p);
}
END_TEST

/* Copies beside the computation: out to the host, over with something else, and back in. */
static void copies(struct pair *p, bool record)
{
	enum { N = 1 << 20, ROUNDS = 5 };
	pair_case(p, "copies%s", record ? " within a recording" : "");
	struct device *d = p->device[PAIR_GPU];
	struct both x = pair_values(p, PAIR_F32, 1, N, 1), y = pair_values(p, PAIR_F32, 2, N, 1),
		    back = pair_output(p, PAIR_F32, N);
	float *host = d->ops->host_alloc(d, N * sizeof *host), *start = pair_random(1, N), *found;
	if (!host) {
		pair_wrong(p, "no host memory");
		free(start);
		return;
	}
	for (int round = 0; round < ROUNDS; round++) {
		unsigned slot = (unsigned)round % DEVICE_COPY_SLOTS;
		d->ops->upload(d, x.at[PAIR_GPU], start, N * sizeof *start);
		if (record)
			slot = DEVICE_COPY_SLOTS - 1;
		if (!record || !d->ops->replay(d, 900)) {
			if (record)
				d->ops->record(d, 900);
			/* the copy begins when x is doubled, and x is touched again only after it is out */
			d->ops->scale(d, x.at[PAIR_GPU], 2, N);
			d->ops->send(d, slot, host, x.at[PAIR_GPU], N * sizeof *host);
			d->ops->scale(d, y.at[PAIR_GPU], 1, N);
			d->ops->copy_wait(d, slot);
			d->ops->scale(d, x.at[PAIR_GPU], 0.25f, N);
			d->ops->zero(d, back.at[PAIR_GPU], N * sizeof(float));
			d->ops->fetch(d, slot, back.at[PAIR_GPU], host, N * sizeof *host);
			d->ops->copy_wait(d, slot);
			d->ops->axpy(d, back.at[PAIR_GPU], 1, x.at[PAIR_GPU], N);
			if (record)
				d->ops->record_end(d);
		}
		device_sync(d, NULL);
		size_t wrong = 0;
		for (size_t i = 0; i < N; i++)
			wrong += host[i] != 2 * start[i];
		if (wrong)
			pair_wrong(p, "%zu elements on the host are not those that were sent, round %d", wrong, round);
		found = pair_download(p, back);
		for (size_t i = wrong = 0; i < N; i++)
			wrong += found[i] != 2 * start[i] + 0.5f * start[i];
		if (wrong)
			pair_wrong(p, "%zu elements are not those that came back, round %d", wrong, round);
		free(found);
	}
	d->ops->host_release(d, host);
	d->ops->host_release(d, NULL);
	free(start);
}

START_TEST(copies_run_beside_the_computation_and_are_waited_for)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	copies(&p, false);
	copies(&p, true);
	pair_close(&p);
}
END_TEST

START_TEST(after_a_failure_nothing_runs)
{
	struct pair p;
	pair_open(&p, pair_types[_i]);
	struct device *d = p.device[PAIR_GPU];
	struct layer l;
	layer_open(&l, d);
	layer_step(&l);
	struct both x = pair_values(&p, PAIR_F32, 1, 8, 1);
	device_sync(d, NULL);
	d->ops->activation_forward(d, ACTIVATION_GEGLU, 1, 4, l.gate_up, l.h, 0);
	d->ops->norm_forward(d, (enum norm_kind)9, 1, 4, l.h, NULL, NULL, l.norm, 1, l.h, 0, NULL);
	/* none of this may crash, whatever it is given */
	layer_step(&l);
	recorded_step(&l, 5);
	recorded_step(&l, 5);
	layer_upload(&l, 3);
	if (d->ops->alloc(d, 8))
		pair_wrong(&p, "memory was given after a failure");
	if (d->ops->host_alloc(d, 8))
		pair_wrong(&p, "host memory was given after a failure");
	if (d->ops->weight_slice(d, l.qkv, WEIGHT_AXIS_ROWS, (uint32_t[]){1}, 1))
		pair_wrong(&p, "a weight was given after a failure");
	unsigned char result[32];
	memset(result, 0xff, sizeof result);
	d->ops->download(d, result, x.at[PAIR_GPU], sizeof result);
	for (size_t i = 0; i < sizeof result; i++)
		if (result[i]) {
			pair_wrong(&p, "a download after a failure is not zero");
			break;
		}
	struct fault f = {0};
	if (device_sync(d, &f) != SAKIORI_EUNSUPPORTED || device_sync(d, &f) != SAKIORI_EUNSUPPORTED)
		pair_wrong(&p, "the first failure is not kept: %s", f.text);
	layer_close(&l);
	pair_refused(&p, SAKIORI_EUNSUPPORTED, "geglu");
	pair_close(&p);
}
END_TEST

/* The file of kept plans: this head, then entries of a 64-byte key, cuBLASLt's algorithm in 64 bytes, and what it took (gpu/gemm_kept.cu). */
struct kept_head {
	char magic[8];
	uint32_t version, entry_bytes;
	uint64_t count, checksum; /* FNV-1a of the entries */
};
enum { KEPT_ALGO = 64, KEPT_ALGO_BYTES = 64 };

static uint64_t kept_checksum(const unsigned char *entries, size_t bytes)
{
	uint64_t h = 0xcbf29ce484222325;
	for (size_t i = 0; i < bytes; i++)
		h = (h ^ entries[i]) * 0x100000001b3;
	return h;
}

/* What happens to the file before a device opens. */
enum kept_harm {
	KEPT_AS_IS,
	KEPT_CUT,     /* the last byte is gone */
	KEPT_FLIPPED, /* a bit of a byte that nothing but the checksum covers */
	KEPT_FOREIGN, /* algorithms that cuBLASLt never offered, and a checksum that is right */
};

static void harm_kept(struct pair *p, const char *path, enum kept_harm harm)
{
	enum { MOST = 1 << 20 };
	unsigned char *content = must_calloc(MOST, 1), *entries = content + sizeof(struct kept_head);
	struct kept_head head = {.magic = ""};
	FILE *f = fopen(path, "rbe");
	size_t bytes = f ? fread(content, 1, MOST, f) : 0;
	if (f)
		fclose(f);
	if (bytes >= sizeof head)
		memcpy(&head, content, sizeof head);
	size_t rest = head.count * head.entry_bytes;
	if (!head.count || head.entry_bytes < KEPT_ALGO + KEPT_ALGO_BYTES + 8 || bytes != sizeof head + rest ||
		head.checksum != kept_checksum(entries, rest)) {
		pair_wrong(p, "the file of %zu bytes is not of the format that this test knows", bytes);
		free(content);
		return;
	}
	if (harm == KEPT_CUT)
		bytes--;
	if (harm == KEPT_FLIPPED)
		entries[rest - 1] ^= 1;
	for (size_t i = 0; harm == KEPT_FOREIGN && i < rest; i++) {
		size_t at = i % head.entry_bytes;
		entries[i] ^= at >= KEPT_ALGO && at < KEPT_ALGO + KEPT_ALGO_BYTES ? 0x5a : 0;
	}
	if (harm == KEPT_FOREIGN) {
		head.checksum = kept_checksum(entries, rest);
		memcpy(content, &head, sizeof head);
	}
	f = fopen(path, "wbe");
	if (!f || fwrite(content, 1, bytes, f) != bytes)
		pair_wrong(p, "%s cannot be written", path);
	if (f)
		fclose(f);
	free(content);
}

/* One step on a device of its own that keeps its plans in `folder`. Returns the adapter's gradient; free with free(). */
static double *step_with_kept(struct pair *p, const char *folder)
{
	struct device_config config = {.name = pair_device_name(), .act = p->act, .cache = folder};
	struct device *d = NULL;
	struct fault f = {0};
	struct layer l;
	ck_assert_int_eq(device_open(&config, &d, &f), 0);
	layer_open(&l, d);
	layer_step(&l);
	float *host = must_calloc(LAYER_ADAPTER, sizeof *host);
	double *gradient = must_calloc(LAYER_ADAPTER, sizeof *gradient);
	d->ops->download(d, host, l.gradient, LAYER_ADAPTER * sizeof *host);
	for (int i = 0; i < LAYER_ADAPTER; i++)
		gradient[i] = (double)host[i];
	free(host);
	if (device_sync(d, &f))
		pair_wrong(p, "%s", f.text);
	layer_close(&l);
	device_close(d);
	return gradient;
}

/* The folder's one file. Its path is empty if there is none or another beside it, as there is on a device that keeps nothing. */
struct kept_file {
	char path[512];
	struct stat is;
};

static void find_kept(struct pair *p, const char *folder, struct kept_file *found)
{
	char pattern[64];
	glob_t all;
	memset(found, 0, sizeof *found);
	snprintf(pattern, sizeof pattern, "%s/*", folder);
	if (glob(pattern, 0, NULL, &all))
		all.gl_pathc = 0;
	if (p->cuda && all.gl_pathc != 1)
		pair_wrong(p, "%zu files are in the folder of kept plans, not one", all.gl_pathc);
	if (all.gl_pathc == 1 && !stat(all.gl_pathv[0], &found->is))
		snprintf(found->path, sizeof found->path, "%s", all.gl_pathv[0]);
	if (all.gl_pathc)
		globfree(&all);
}

static bool same_file(const struct stat *x, const struct stat *y)
{
	return x->st_ino == y->st_ino && x->st_mtim.tv_sec == y->st_mtim.tv_sec &&
	       x->st_mtim.tv_nsec == y->st_mtim.tv_nsec;
}

/* A file is written if and only if something was measured. Whatever becomes of it, the step is the same. */
START_TEST(what_was_measured_is_kept_and_may_be_lost)
{
	static const struct {
		const char *what;
		enum kept_harm harm;
		bool written;
	} times[] = {
		{"plans that were kept", KEPT_AS_IS, false},
		{"a file cut short", KEPT_CUT, true},
		{"a file whose checksum is wrong", KEPT_FLIPPED, true},
		{"algorithms that are none", KEPT_FOREIGN, true},
		{"plans that were kept again", KEPT_AS_IS, false},
	};
	struct pair p;
	struct kept_file before, after;
	char folder[] = "/tmp/sakiori-gpu-kept-XXXXXX";
	pair_open(&p, pair_types[_i]);
	double limit = p.act == DTYPE_BF16 ? 3e-2 : 1e-5;
	ck_assert_ptr_nonnull(mkdtemp(folder));
	pair_case(&p, "no plans yet");
	double *first = step_with_kept(&p, folder), *again;
	find_kept(&p, folder, &after);
	for (size_t k = 0; k < sizeof times / sizeof *times; k++) {
		pair_case(&p, "%s", times[k].what);
		if (after.path[0] && times[k].harm)
			harm_kept(&p, after.path, times[k].harm);
		find_kept(&p, folder, &before);
		again = step_with_kept(&p, folder);
		find_kept(&p, folder, &after);
		if (before.path[0] && after.path[0] && same_file(&before.is, &after.is) == times[k].written)
			pair_wrong(&p, "the file was %s", times[k].written ? "not written anew" : "written anew");
		pair_near_doubles(&p, again, first, LAYER_ADAPTER, limit, "the gradient with kept plans");
		free(again);
	}
	pair_case(&p, "nowhere to keep plans");
	again = step_with_kept(&p, "/nowhere/at/all");
	pair_near_doubles(&p, again, first, LAYER_ADAPTER, limit, "the gradient with kept plans");
	free(again);
	free(first);
	if (after.path[0])
		unlink(after.path);
	rmdir(folder);
	pair_close(&p);
}
END_TEST

START_TEST(devices_that_are_not_there_are_refused)
{
	static const struct {
		const char *name;
		enum dtype act;
		int code;
	} refused[] = {{"cuda:99", DTYPE_F32, SAKIORI_EDEVICE}, {"cuda:x", DTYPE_F32, SAKIORI_EINVAL},
		{"cuda", DTYPE_F64, SAKIORI_EUNSUPPORTED}};
	struct pair p;
	pair_open(&p, pair_types[_i]);
	for (int k = 0; k < 3 && p.cuda; k++) {
		struct device_config config = {.name = refused[k].name, .act = refused[k].act};
		struct device *d = NULL;
		struct fault f = {0};
		int rc = device_open(&config, &d, &f);
		if (rc != refused[k].code || d || !strstr(f.text, refused[k].name))
			pair_wrong(&p, "%s with %s: %s (%s)", refused[k].name, dtype_name(refused[k].act), err_text(rc),
				f.text);
		device_close(d);
	}
	pair_close(&p);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_replay_gives_the_bits_of_the_operations,
		recordings_that_were_dropped_are_made_again,
		the_same_calls_give_the_same_bits,
		copies_run_beside_the_computation_and_are_waited_for,
		after_a_failure_nothing_runs,
		what_was_measured_is_kept_and_may_be_lost,
		devices_that_are_not_there_are_refused,
	};
	return pair_run("gpu_record", tests, sizeof tests / sizeof *tests, PAIR_TYPES);
}
