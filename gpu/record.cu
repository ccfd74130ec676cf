/* SPDX-License-Identifier: Apache-2.0 */
/* Recordings are CUDA graphs. A sequence that comes for the first time runs as it is, so that working space grows and products are
 * measured; the second time it is captured and launched as a graph, from then on the graph is launched. */
#include <stdlib.h>

#include "gpu/gpu.cuh"

/* The one not used for longest makes room. Padded micro-batches of mixed rows come in about a hundred sizes. */
#define RECORDINGS_MAX 128

struct recording {
	uint64_t key;
	uint64_t used;         /* when it was last asked for; 0: an empty place */
	cudaGraphExec_t graph; /* NULL: ran once, to be captured next */
};

struct recordings {
	struct recording at[RECORDINGS_MAX];
	struct recording *open; /* between record and record_end */
	uint64_t clock;
};

static struct recording *find(struct recordings *r, uint64_t key)
{
	for (int i = 0; r && i < RECORDINGS_MAX; i++)
		if (r->at[i].used && r->at[i].key == key)
			return &r->at[i];
	return NULL;
}

static void forget(struct recording *r)
{
	if (r->graph)
		cudaGraphExecDestroy(r->graph);
	*r = (struct recording){};
}

static struct recording *make_room(struct cuda_device *c, uint64_t key)
{
	struct recordings *r = c->recordings;
	struct recording *oldest = &r->at[0];
	for (int i = 1; i < RECORDINGS_MAX; i++)
		if (r->at[i].used < oldest->used)
			oldest = &r->at[i];
	if (oldest->graph)
		cuda_well(c, cudaStreamSynchronize(c->stream), "waiting for a recording");
	forget(oldest);
	oldest->key = key;
	return oldest;
}

bool cuda_replay(struct device *d, uint64_t key)
{
	struct cuda_device *c = cuda_device(d);
	struct recording *r = d->fault.code ? NULL : find(c->recordings, key);
	if (!r || !r->graph)
		return false;
	c->fp8_ready = (struct fp8_form){}; /* the graph uses its place */
	r->used = ++c->recordings->clock;
	cuda_copies_join(c);
	cuda_well(c, cudaGraphLaunch(r->graph, c->stream), "replaying a recording");
	return true;
}

void cuda_record(struct device *d, uint64_t key)
{
	struct cuda_device *c = cuda_device(d);
	if (d->fault.code)
		return;
	c->fp8_ready = (struct fp8_form){}; /* a graph may rest on nothing that was made before it */
	cuda_weight_staging_free(c);        /* whoever records is done with loading */
	if (!c->recordings)
		c->recordings = (struct recordings *)calloc(1, sizeof *c->recordings);
	if (!c->recordings) {
		cuda_fail(c, SAKIORI_ENOMEM, "out of memory");
		return;
	}
	struct recording *r = find(c->recordings, key);
	bool ran = r && !r->graph;
	if (!r)
		r = make_room(c, key);
	r->used = ++c->recordings->clock;
	if (!ran)
		return;
	cuda_copies_join(c);
	c->capturing = cuda_well(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "recording");
	c->recordings->open = c->capturing ? r : NULL;
}

/* A graph that finds no memory beside the others gets theirs. */
static cudaGraphExec_t instantiate(struct cuda_device *c, cudaGraph_t graph)
{
	cudaGraphExec_t made = NULL;
	cudaError_t e = cudaGraphInstantiate(&made, graph, 0);
	if (e == cudaErrorMemoryAllocation) {
		cudaGetLastError();
		cuda_recordings_drop(c);
		e = cudaGraphInstantiate(&made, graph, 0);
	}
	return cuda_well(c, e, "making a recording") ? made : NULL;
}

void cuda_record_end(struct device *d)
{
	struct cuda_device *c = cuda_device(d);
	cudaGraph_t graph = NULL;
	if (!c->capturing)
		return;
	cuda_copies_join(c);
	c->capturing = false;
	if (cuda_well(c, cudaStreamEndCapture(c->stream, &graph), "recording")) {
		struct recording *r = c->recordings->open;
		uint64_t key = r->key, used = r->used;
		cudaGraphExec_t made = instantiate(c, graph);
		*r = (struct recording){key, used, made};
		if (made)
			cuda_well(c, cudaGraphLaunch(made, c->stream), "running a recording");
	}
	c->recordings->open = NULL;
	if (graph)
		cudaGraphDestroy(graph);
}

void cuda_recordings_drop(struct cuda_device *c)
{
	if (!c->recordings)
		return;
	cuda_well(c, cudaStreamSynchronize(c->stream), "waiting for recordings");
	for (int i = 0; i < RECORDINGS_MAX; i++)
		if (c->recordings->at[i].graph) {
			cudaGraphExecDestroy(c->recordings->at[i].graph);
			c->recordings->at[i].graph = NULL;
		}
}

void cuda_recordings_free(struct cuda_device *c)
{
	for (int i = 0; c->recordings && i < RECORDINGS_MAX; i++)
		forget(&c->recordings->at[i]);
	free(c->recordings);
	c->recordings = NULL;
}
