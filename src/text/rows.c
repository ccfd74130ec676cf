/* SPDX-License-Identifier: Apache-2.0 */
#include "text/rows.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "text/flat.h"
#include "text/row.h"

enum {
	BLOCK_BYTES = 256 << 10,
	THREADS_MOST = 64,
	SLOTS_A_THREAD = 4,
	/* What one thread does as fast as it could hand it out. */
	ALONE_BYTES = 2 * BLOCK_BYTES,
	/* Memory of a block that is kept for the next one: tokens, where a row is not one giant. */
	TOKENS_KEPT = 1 << 20,
};

/* A block on its way. */
struct slot {
	struct jsonl_block lines;
	struct rows_block rows;
	int rc; /* the error of the line after rows, or 0 */
	struct fault fault;
	bool encoded;
};

/* Blocks head to next are being encoded or are ready, next to tail wait. Numbers only grow; slot i % slots is block i's. */
struct ring {
	struct jsonl *j;
	const struct tokenizer *tokenizer;
	const struct chat *chat;
	const struct dataset_options *options;
	struct slot *slots;
	size_t slot_count;
	pthread_mutex_t lock; /* over next, tail, stop and every slot's encoded */
	pthread_cond_t waiting, encoded;
	uint64_t head, next, tail;
	bool stop;
	size_t in_flight; /* bytes of lines in the ring, the reading thread's */
};

/* What each thread brings. */
struct encoder {
	struct row_encoder row;
	struct labelled_tokens list;
	struct writer strings;
};

static void encoder_init(struct encoder *e, const struct ring *r)
{
	const struct tokenizer *t = r->tokenizer;
	*e = (struct encoder){.row = {.tokenizer = t,
				      .chat = r->chat,
				      .scratch = t != NULL ? tokenizer_scratch_new(t) : NULL,
				      .vocabulary = t != NULL ? tokenizer_size(t) : r->options->vocabulary}};
	writer_init(&e->strings);
}

static void encoder_fini(struct encoder *e)
{
	tokenizer_scratch_free(e->row.scratch);
	labelled_tokens_fini(&e->list);
	writer_fini(&e->strings);
}

/* ---- one block ---- */

static int reserve(struct rows_block *b, size_t tokens, struct fault *f)
{
	if (b->token_capacity - b->token_count < tokens) {
		size_t wanted = 2 * b->token_capacity + tokens + 1024;
		uint32_t *bigger = realloc(b->tokens, wanted * sizeof *bigger);
		if (bigger == NULL)
			return fault_set(f, SAKIORI_ENOMEM, "out of memory over a row of %zu tokens", tokens);
		b->tokens = bigger;
		b->token_capacity = wanted;
	}
	if (b->count == b->capacity) {
		size_t wanted = b->capacity == 0 ? 256 : 2 * b->capacity;
		b->rows = must_realloc(b->rows, wanted * sizeof *b->rows);
		b->capacity = wanted;
	}
	return 0;
}

/* Appends the first n tokens of the list as a row, unless there is nothing in them to learn. */
static int add_row(struct rows_block *b, const struct labelled_tokens *list, size_t n, bool truncated, struct fault *f)
{
	size_t learned = 0;
	for (size_t i = 1; i < n; i++)
		learned += list->labelled[i];
	size_t kept = learned > 0 ? n : 0;
	int rc = reserve(b, kept, f);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < kept; i++)
		b->tokens[b->token_count + i] = (uint32_t)list->tokens.ids[i] | (uint32_t)list->labelled[i] << 31;
	b->rows[b->count++] = (struct rows_row){(uint32_t)kept, (uint32_t)learned, truncated};
	b->token_count += kept;
	return 0;
}

static int encode_line(struct encoder *e, const struct ring *r, struct slot *s, struct text_span line, struct fault *f)
{
	size_t number = s->lines.line_number, most = r->options->max_row_tokens;
	struct flat_row flat;
	json_t *row;
	int rc;
	labelled_tokens_clear(&e->list);
	if (r->tokenizer != NULL && flat_row_read(&flat, line, &e->strings)) {
		rc = row_encode_flat(&e->row, &flat, &e->list, f);
	} else {
		rc = jsonl_parse(r->j, number, line, &row, f);
		if (rc != 0)
			return rc;
		rc = row_encode(&e->row, row, &e->list, f);
		json_decref(row);
	}
	size_t n = e->list.tokens.count;
	bool truncated = most > 0 && n > most;
	if (rc == 0 && truncated && r->options->refuse_long_rows)
		rc = fault_set(f, SAKIORI_ELIMIT, "expected at most %zu tokens a row, found %zu", most, n);
	if (rc == 0)
		rc = add_row(&s->rows, &e->list, truncated ? most : n, truncated, f);
	return rc != 0 ? fault_wrap(f, "%s:%zu", r->j->name, number) : 0;
}

static void encode_block(struct encoder *e, const struct ring *r, struct slot *s)
{
	struct text_span line;
	int rc;
	s->rows.token_count = s->rows.count = 0;
	while ((rc = jsonl_line(r->j, &s->lines, &line, &s->fault)) > 0)
		if ((rc = encode_line(e, r, s, line, &s->fault)) != 0)
			break;
	s->rc = rc;
}

/* ---- the ring ---- */

/* Encodes the block that waits longest; false when none waits. Called and left with the lock. */
static bool encode_next(struct ring *r, struct encoder *e)
{
	if (r->next == r->tail)
		return false;
	struct slot *s = &r->slots[r->next++ % r->slot_count];
	pthread_mutex_unlock(&r->lock);
	encode_block(e, r, s);
	pthread_mutex_lock(&r->lock);
	s->encoded = true;
	pthread_cond_signal(&r->encoded);
	return true;
}

static void *work(void *ring)
{
	struct ring *r = ring;
	struct encoder e;
	encoder_init(&e, r);
	pthread_mutex_lock(&r->lock);
	while (!r->stop)
		if (!encode_next(r, &e))
			pthread_cond_wait(&r->waiting, &r->lock);
	pthread_mutex_unlock(&r->lock);
	encoder_fini(&e);
	return NULL;
}

/* Reads one block into the ring: 1, 0 at the end of the file, or an error. */
static int read_block(struct ring *r, struct fault *f)
{
	struct slot *s = &r->slots[r->tail % r->slot_count];
	int rc = jsonl_read(r->j, &s->lines, BLOCK_BYTES, f);
	if (rc <= 0)
		return rc;
	r->in_flight += s->lines.size;
	s->rows.done = r->j->done;
	s->encoded = false;
	pthread_mutex_lock(&r->lock);
	r->tail++;
	pthread_cond_signal(&r->waiting);
	pthread_mutex_unlock(&r->lock);
	return 1;
}

/* Waits for the first block in the ring, and lends a hand meanwhile. */
static struct slot *first_block(struct ring *r, struct encoder *e)
{
	struct slot *s = &r->slots[r->head % r->slot_count];
	pthread_mutex_lock(&r->lock);
	while (!s->encoded)
		if (!encode_next(r, e))
			pthread_cond_wait(&r->encoded, &r->lock);
	pthread_mutex_unlock(&r->lock);
	return s;
}

static void release_block(struct ring *r, struct slot *s)
{
	r->in_flight -= s->lines.size;
	if (s->lines.capacity > 4 * BLOCK_BYTES)
		jsonl_block_fini(&s->lines);
	if (s->rows.token_capacity > TOKENS_KEPT) {
		free(s->rows.tokens);
		s->rows.tokens = NULL;
		s->rows.token_capacity = 0;
	}
	r->head++;
}

/* Every block in order. An error of reading waits until what was read before it is taken. */
static int pass_blocks(struct ring *r, struct encoder *e, rows_take *take, void *self, struct fault *f)
{
	struct fault reading = {0};
	int left = 1, rc = 0;
	while (rc == 0) {
		/* giant lines come few at a time */
		while (left > 0 && r->tail - r->head < r->slot_count &&
			(r->tail == r->head || r->in_flight < r->slot_count * BLOCK_BYTES))
			left = read_block(r, &reading);
		if (r->head == r->tail)
			break;
		struct slot *s = first_block(r, e);
		rc = take(self, &s->rows, f);
		if (rc == 0 && s->rc != 0)
			rc = fault_set(f, s->rc, "%s", s->fault.text);
		release_block(r, s);
	}
	if (rc == 0 && left < 0)
		rc = fault_set(f, left, "%s", reading.text);
	return rc < 0 ? rc : 0;
}

static unsigned thread_count(const struct jsonl *j, unsigned wanted)
{
	cpu_set_t cores;
	if (j->total <= ALONE_BYTES)
		return 1;
	if (wanted == 0)
		wanted = sched_getaffinity(0, sizeof cores, &cores) == 0 ? (unsigned)CPU_COUNT(&cores) : 1;
	return wanted < 1 ? 1 : wanted > THREADS_MOST ? THREADS_MOST : wanted;
}

int rows_read(struct jsonl *j, const struct tokenizer *t, const struct chat *chat,
	const struct dataset_options *options, rows_take *take, void *self, struct fault *f)
{
	unsigned threads = thread_count(j, options->threads), started = 0;
	struct ring r = {.j = j,
		.tokenizer = t,
		.chat = chat,
		.options = options,
		.slot_count = threads * SLOTS_A_THREAD,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.waiting = PTHREAD_COND_INITIALIZER,
		.encoded = PTHREAD_COND_INITIALIZER};
	pthread_t helpers[THREADS_MOST];
	struct encoder e;
	r.slots = must_calloc(r.slot_count, sizeof *r.slots);
	/* the calling thread is one of them, and does what helpers that do not start would have done */
	while (started + 1 < threads && pthread_create(&helpers[started], NULL, work, &r) == 0)
		started++;
	encoder_init(&e, &r);
	int rc = pass_blocks(&r, &e, take, self, f);
	encoder_fini(&e);
	pthread_mutex_lock(&r.lock);
	r.stop = true;
	pthread_cond_broadcast(&r.waiting);
	pthread_mutex_unlock(&r.lock);
	while (started > 0)
		pthread_join(helpers[--started], NULL);
	for (size_t i = 0; i < r.slot_count; i++) {
		jsonl_block_fini(&r.slots[i].lines);
		free(r.slots[i].rows.tokens);
		free(r.slots[i].rows.rows);
	}
	free(r.slots);
	return rc;
}
