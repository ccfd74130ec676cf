/* SPDX-License-Identifier: Apache-2.0 */
/* cuDNN's fused attention, through the header-only cudnn-frontend: the only file that knows either. libcudnn.so.9 is opened when the first
 * attention runs; where there is none the own kernels serve. A plan is made for each shape when it comes first, never while a sequence is
 * being captured, and is kept until the device closes, since recordings point into it.
 *
 * Rows that are all full (rows * longest == count) are an ordinary (rows, heads, longest, head_dim) tensor with strides. Others are ragged:
 * offsets and lengths are written on the device before each call, so that a recording is right for other lengths; their number and the
 * longest are rounded up to few values. The frontend needs C++'s library and exceptions; neither leaves this file. */
#ifndef __CUDA_ARCH__ /* host code only: saves every card's pass over the headers */
#include "gpu/attention.cuh"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* The frontend looks up CUDA's functions in a libcudart.so; this module has them inside. */
static void *const own_runtime = (void *)"libcudart";

static void *runtime_open(const char *name, int flags)
{
	char own[32];
	snprintf(own, sizeof own, "libcudart.so.%d", CUDART_VERSION / 1000);
	if (!strcmp(name, own))
		return own_runtime;
	return strncmp(name, "libcudart", strlen("libcudart")) ? dlopen(name, flags) : NULL;
}

static void *runtime_symbol(void *library, const char *name)
{
	static const struct {
		const char *name;
		void *function;
	} own[] = {
		{"cudaRuntimeGetVersion", (void *)cudaRuntimeGetVersion},
		{"cudaGetDevice", (void *)cudaGetDevice},
		{"cudaDeviceGetAttribute", (void *)cudaDeviceGetAttribute},
		{"cudaMemcpyAsync", (void *)cudaMemcpyAsync},
		{"cudaMemsetAsync", (void *)cudaMemsetAsync},
		{"cudaGetErrorString", (void *)cudaGetErrorString},
		{"cudaGetLastError", (void *)cudaGetLastError},
		{"cudaStreamIsCapturing", (void *)cudaStreamIsCapturing},
	};
	if (library != own_runtime)
		return dlsym(library, name);
	for (const auto &f : own)
		if (!strcmp(name, f.name))
			return f.function;
	return NULL;
}

#define dlopen runtime_open
#define dlsym runtime_symbol
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cstring>

#pragma nv_diagnostic push
#pragma nv_diag_suppress 128 /* loops of its macros that run once */
#include <cudnn_frontend.h>
#pragma nv_diagnostic pop
#undef dlopen
#undef dlsym

namespace cudnn_frontend
{
void *cudnn_dlhandle;
}
namespace fe = cudnn_frontend;

/* Wider heads' backward gave wrong gradients on an H200, the same every time: (2 query, 1 key/value) heads of 256 in ragged rows. */
#define BACKWARD_HEAD_MAX 128
#define PLANS 192   /* more than there are recordings: a shape without a plan takes the own kernels */
#define SHORTEST 64 /* rows: shorter ones are not worth a plan */
/* A plan takes 0.1 to 1 s to make. Where the tensor cores' own kernels serve, it is made only for calls that it can shorten by tens of
 * microseconds: tokens * longest * features from here on. */
#define LARGE ((size_t)1 << 30)
/* A plan may take this much working space: twice what sums of dQ and whole-head dK and dV need, and something for small shapes. */
#define SPACE_EACH 16 /* bytes a feature of a query */
#define SPACE_LEAST ((int64_t)32 << 20)

enum tensor_id {
	ID_Q = 1,
	ID_K,
	ID_V,
	ID_OUT,
	ID_STATS,
	ID_D_OUT,
	ID_DQ,
	ID_DK,
	ID_DV,
	ID_Q_AT,
	ID_KV_AT,
	ID_OUT_AT,
	ID_STATS_AT,
	ID_LENGTHS
};

/* What a plan was made for; compared as bytes, so zeroed first. */
struct plan_key {
	int64_t rows, longest;
	int64_t count; /* backward of ragged rows: sizes the working space; else 0 */
	int64_t heads, kv_heads, head_dim, q_stride, kv_stride;
	int64_t window; /* 0: none */
	float scale;
	bool causal, ragged, training;
};

struct plan {
	struct plan_key key;
	fe::graph::Graph *forward, *backward; /* NULL: refused */
	int64_t forward_space, backward_space;
};

struct attention_cudnn {
	cudnnHandle_t handle; /* NULL: no cuDNN */
	struct plan plans[PLANS];
	size_t count;
	char state[512]; /* cuDNN's version and what it refused last and why, or why there is none */
};

/* Keeps the leading `bits` bits of n, rounding up. */
static int64_t rounded(int64_t n, int bits)
{
	int64_t unit = 1;
	while (n / unit >= (int64_t)1 << bits)
		unit *= 2;
	return (n + unit - 1) / unit * unit;
}

static void state_set(struct attention_cudnn *n, const char *what, const char *why)
{
	snprintf(n->state, sizeof n->state, "cuDNN %zu: %s: %s", n->handle ? fe::detail::get_backend_version() : 0,
		what, why);
}

static struct attention_cudnn *cudnn_of(struct cuda_device *c)
{
	if (c->attention->cudnn)
		return c->attention->cudnn;
	struct attention_cudnn *n = (struct attention_cudnn *)calloc(1, sizeof *n);
	c->attention->cudnn = n;
	if (!n)
		return NULL;
	static void *const library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
	fe::cudnn_dlhandle = library;
	if (!library) {
		snprintf(n->state, sizeof n->state, "there is no cuDNN: libcudnn.so.9 cannot be opened");
		return n;
	}
	try {
		if (fe::detail::create_handle(&n->handle) != CUDNN_STATUS_SUCCESS)
			n->handle = NULL;
		else if (fe::detail::set_stream(n->handle, c->stream) != CUDNN_STATUS_SUCCESS)
			n->handle = NULL;
		state_set(n, n->handle ? "ready" : "not usable", n->handle ? "nothing refused" : "it gives no handle");
	} catch (const std::exception &e) {
		n->handle = NULL;
		state_set(n, "not usable", e.what());
	}
	return n;
}

void attention_cudnn_free(struct cuda_device *c)
{
	struct attention_cudnn *n = c->attention->cudnn;
	if (!n)
		return;
	for (size_t i = 0; i < n->count; i++) {
		delete n->plans[i].forward;
		delete n->plans[i].backward;
	}
	if (n->handle)
		fe::detail::destroy_handle(n->handle);
	free(n);
}

typedef std::shared_ptr<fe::graph::Tensor_attributes> tensor;

/* The tensors of a plan. (rows, heads, longest, head_dim) over tokens `stride` elements apart. */
struct plan_maker {
	const struct plan_key *key;
	fe::graph::Graph *graph;
	tensor q_at, kv_at, out_at, stats_at, lengths;

	tensor numbers(enum tensor_id id, int64_t n, const char *name)
	{
		return graph->tensor(fe::graph::Tensor_attributes()
					     .set_name(name)
					     .set_uid(id)
					     .set_dim({n, 1, 1, 1})
					     .set_stride({1, 1, 1, 1})
					     .set_data_type(fe::DataType_t::INT32));
	}

	void begin()
	{
		graph->set_io_data_type(fe::DataType_t::BFLOAT16)
			.set_intermediate_data_type(fe::DataType_t::FLOAT)
			.set_compute_data_type(fe::DataType_t::FLOAT)
			.set_cuda_graph_retention(fe::CudaGraphRetention_t::NONE);
		if (!key->ragged)
			return;
		q_at = numbers(ID_Q_AT, key->rows + 1, "q_at");
		kv_at = numbers(ID_KV_AT, key->rows + 1, "kv_at");
		out_at = numbers(ID_OUT_AT, key->rows + 1, "out_at");
		stats_at = numbers(ID_STATS_AT, key->rows + 1, "stats_at");
		lengths = numbers(ID_LENGTHS, key->rows, "lengths");
	}

	void shape(fe::graph::Tensor_attributes &t, enum tensor_id id, int64_t heads, int64_t stride, const tensor &at)
	{
		t.set_uid(id)
			.set_dim({key->rows, heads, key->longest, key->head_dim})
			.set_stride({key->longest * stride, key->head_dim, stride, 1});
		if (key->ragged)
			t.set_ragged_offset(at);
	}

	tensor input(enum tensor_id id, int64_t heads, int64_t stride, const tensor &at)
	{
		fe::graph::Tensor_attributes t;
		shape(t, id, heads, stride, at);
		return graph->tensor(t);
	}

	void output(const tensor &t, enum tensor_id id, int64_t heads, int64_t stride, const tensor &at)
	{
		t->set_output(true);
		shape(*t, id, heads, stride, at);
	}

	/* log-sum-exp: as compute.h says, or (rows, heads, longest), which is what cuDNN's own backward reads. */
	void stats(fe::graph::Tensor_attributes &t, bool own)
	{
		bool tokens_first = key->ragged || !own;
		int64_t token = tokens_first ? key->heads : 1, head = tokens_first ? 1 : key->longest;
		t.set_uid(ID_STATS)
			.set_dim({key->rows, key->heads, key->longest, 1})
			.set_stride({key->heads * key->longest, head, token, 1})
			.set_data_type(fe::DataType_t::FLOAT);
		if (key->ragged)
			t.set_ragged_offset(stats_at);
	}

	template <typename ATTRIBUTES> void mask(ATTRIBUTES &a)
	{
		a.set_attn_scale(key->scale);
		if (key->causal)
			a.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
		if (key->window)
			a.set_diagonal_band_left_bound((int)key->window);
		if (key->ragged)
			a.set_padding_mask(true).set_seq_len_q(lengths).set_seq_len_kv(lengths);
	}
};

/* Builds the plans of m->graph and returns it, or NULL after freeing it. */
static fe::graph::Graph *built(struct attention_cudnn *n, struct plan_maker *m, const char *what, int64_t *space)
{
	const struct plan_key *key = m->key;
	int64_t most = SPACE_EACH * key->rows * key->longest * key->heads * key->head_dim + SPACE_LEAST;
	auto status = m->graph->build(n->handle, {fe::HeurMode_t::A});
	if (status.is_bad())
		state_set(n, what, status.get_message().c_str());
	else if (m->graph->get_workspace_size(*space).is_bad() || *space > most)
		state_set(n, what, "asks for too much working space");
	else
		return m->graph;
	delete m->graph;
	return NULL;
}

static fe::graph::Graph *forward_make(struct attention_cudnn *n, const struct plan_key *key, bool own, int64_t *space)
{
	struct plan_maker m = {.key = key, .graph = new fe::graph::Graph()};
	m.begin();
	auto attributes = fe::graph::SDPA_attributes().set_name("forward").set_generate_stats(key->training);
	m.mask(attributes);
	auto [out, stats] = m.graph->sdpa(m.input(ID_Q, key->heads, key->q_stride, m.q_at),
		m.input(ID_K, key->kv_heads, key->kv_stride, m.kv_at),
		m.input(ID_V, key->kv_heads, key->kv_stride, m.kv_at), attributes);
	m.output(out, ID_OUT, key->heads, key->heads * key->head_dim, m.out_at);
	if (key->training) {
		stats->set_output(true);
		m.stats(*stats, own);
	}
	return built(n, &m, "forward", space);
}

static fe::graph::Graph *backward_make(
	struct attention_cudnn *n, const struct plan_key *key, bool deterministic, int64_t *space)
{
	struct plan_maker m = {.key = key, .graph = new fe::graph::Graph()};
	m.begin();
	int64_t dense = key->heads * key->head_dim;
	/* On Hopper a deterministic one keeps all dS: too much space unless rows are short. The own kernels then serve, which always are. */
	auto attributes =
		fe::graph::SDPA_backward_attributes().set_name("backward").set_deterministic_algorithm(deterministic);
	m.mask(attributes);
	/* Working space goes by the tokens at hand with the strides of q and k, or by rows * longest without gaps. */
	int64_t by_tokens = key->count * (2 * key->q_stride + 2 * key->kv_stride * (key->heads / key->kv_heads));
	if (key->ragged && by_tokens < key->rows * key->longest * dense * 4)
		attributes.set_max_total_seq_len_q(key->count).set_max_total_seq_len_kv(key->count);
	fe::graph::Tensor_attributes stats;
	m.stats(stats, true);
	auto [dq, dk, dv] = m.graph->sdpa_backward(m.input(ID_Q, key->heads, key->q_stride, m.q_at),
		m.input(ID_K, key->kv_heads, key->kv_stride, m.kv_at),
		m.input(ID_V, key->kv_heads, key->kv_stride, m.kv_at), m.input(ID_OUT, key->heads, dense, m.out_at),
		m.input(ID_D_OUT, key->heads, dense, m.out_at), m.graph->tensor(stats), attributes);
	m.output(dq, ID_DQ, key->heads, key->q_stride, m.q_at);
	m.output(dk, ID_DK, key->kv_heads, key->kv_stride, m.kv_at);
	m.output(dv, ID_DV, key->kv_heads, key->kv_stride, m.kv_at);
	return built(n, &m, "backward", space);
}

static bool key_make(const struct cuda_device *c, const struct attention_call *call, struct plan_key *key)
{
	const struct attention *a = call->a;
	const struct tokens *t = call->t;
	memset(key, 0, sizeof *key);
	if (c->base.act != DTYPE_BF16 || a->softcap > 0 || a->kv_offsets || t->longest < SHORTEST || a->head_dim % 8 ||
		a->q_stride % 8 || a->kv_stride % 8)
		return false;
	bool own = (a->head_dim == 64 || a->head_dim == 128) && a->scale > 0;
	if (own && !c->attention->cudnn_always && t->count * t->longest * a->heads * a->head_dim < LARGE)
		return false;
	size_t widest = a->q_stride > a->kv_stride ? a->q_stride : a->kv_stride;
	if (t->count * widest > INT32_MAX)
		return false;
	key->ragged = t->rows * t->longest != t->count || t->longest % SHORTEST;
	key->training = call->log_sum_exp != NULL;
	key->rows = key->ragged ? rounded((int64_t)t->rows, 3) : (int64_t)t->rows;
	key->longest = key->ragged ? rounded((int64_t)t->longest, 3) : (int64_t)t->longest;
	key->count = key->ragged && key->training ? (int64_t)t->count : 0;
	key->heads = (int64_t)a->heads;
	key->kv_heads = (int64_t)a->kv_heads;
	key->head_dim = (int64_t)a->head_dim;
	key->q_stride = (int64_t)a->q_stride;
	key->kv_stride = (int64_t)a->kv_stride;
	key->causal = a->mask != MASK_BIDIRECTIONAL;
	key->window = a->mask == MASK_WINDOW && a->window < t->longest ? (int64_t)a->window : 0;
	key->scale = a->scale;
	return true;
}

static struct plan *plan_of(struct cuda_device *c, struct attention_cudnn *n, const struct plan_key *key)
{
	for (size_t i = 0; i < n->count; i++)
		if (!memcmp(&n->plans[i].key, key, sizeof *key))
			return &n->plans[i];
	if (c->capturing)
		return NULL;
	if (n->count == PLANS) {
		state_set(n, "plan", "as many are kept as may be");
		return NULL;
	}
	struct plan *p = &n->plans[n->count++];
	memcpy(&p->key, key, sizeof *key); /* with what lies between the fields */
	try {
		if (key->training && key->head_dim <= BACKWARD_HEAD_MAX)
			p->backward = backward_make(n, key, c->deterministic, &p->backward_space);
		p->forward = forward_make(n, key, p->backward != NULL, &p->forward_space);
		if (p->forward)
			return p;
	} catch (const std::exception &e) {
		state_set(n, "plan", e.what());
	}
	delete p->backward;
	p->backward = NULL;
	return p;
}

static bool aligned(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

static void run(struct cuda_device *c, struct attention_cudnn *n, const struct attention_call *call, struct plan *p,
	bool backward)
{
	int64_t space = backward ? p->backward_space : p->forward_space;
	void *working = cuda_scratch(c, SCRATCH_LARGE, space ? (size_t)space : 1);
	struct attention_offsets at;
	if (!working || (p->key.ragged && !attention_offsets(c, call, (size_t)p->key.rows, &at)))
		return;
	try {
		std::unordered_map<int64_t, void *> pointers = {{ID_Q, (void *)call->q}, {ID_K, (void *)call->k},
			{ID_V, (void *)call->v}, {ID_OUT, (void *)call->out}};
		if (p->key.training)
			pointers[ID_STATS] = call->log_sum_exp;
		if (backward) {
			pointers[ID_D_OUT] = (void *)call->d_out;
			pointers[ID_DQ] = call->dq;
			pointers[ID_DK] = call->dk;
			pointers[ID_DV] = call->dv;
		}
		if (p->key.ragged) {
			pointers[ID_Q_AT] = at.q;
			pointers[ID_KV_AT] = at.kv;
			pointers[ID_OUT_AT] = at.out;
			pointers[ID_STATS_AT] = at.log_sum_exp;
			pointers[ID_LENGTHS] = at.lengths;
		}
		auto status = (backward ? p->backward : p->forward)->execute(n->handle, pointers, working);
		if (status.is_bad())
			cuda_fail(c, SAKIORI_EDEVICE, "attention: cuDNN: %s", status.get_message().c_str());
	} catch (const std::exception &e) {
		cuda_fail(c, SAKIORI_EDEVICE, "attention: cuDNN: %s", e.what());
	}
}

/* False, always: the own kernels serve the call. Where SAKIORI_CUDA_ATTENTION=cudnn asks for cuDNN they may not, or a test of cuDNN
 * would be one of them without anybody noticing. */
static bool refused(struct cuda_device *c, const struct attention_cudnn *n)
{
	if (c->attention->cudnn_always)
		cuda_fail(c, SAKIORI_EDEVICE, "attention, SAKIORI_CUDA_ATTENTION=cudnn: %s",
			n ? n->state : "out of memory");
	return false;
}

bool attention_cudnn(struct cuda_device *c, const struct attention_call *call, bool backward)
{
	struct plan_key key;
	struct attention_cudnn *n = cudnn_of(c);
	if (!n || !n->handle)
		return refused(c, n);
	if (!key_make(c, call, &key) || !aligned(call->q) || !aligned(call->k) || !aligned(call->v) ||
		!aligned(call->out) || (backward && key.head_dim > BACKWARD_HEAD_MAX))
		return false;
	struct plan *p = plan_of(c, n, &key);
	if (!p || (backward ? !p->backward : !p->forward))
		/* No plan is made while a sequence is captured, and a deterministic one may ask for too much space. */
		return c->capturing || c->deterministic ? false : refused(c, n);
	if (backward && !(aligned(call->d_out) && aligned(call->dq) && aligned(call->dk) && aligned(call->dv))) {
		cuda_fail(c, SAKIORI_EINVAL,
			"attention: gradients must begin at multiples of 16 bytes, as the inputs do");
		return false;
	}
	run(c, n, call, p, backward);
	return true;
}
#endif
