/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/architecture.h"

#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const struct architecture architectures[] = {
	{
		.name = "llama",
		.gguf = "llama",
		.model_type = "llama",
		.class_name = "LlamaForCausalLM",
		.models = "Llama 2 and 3, SmolLM2",
		.permutes = true,
	},
	{
		.name = "llama",
		.model_type = "mistral",
		.class_name = "MistralForCausalLM",
		.models = "Mistral 7B",
		.windows = WINDOWS_ALL,
		.window = 4096,
	},
	{
		.name = "qwen2",
		.gguf = "qwen2",
		.model_type = "qwen2",
		.class_name = "Qwen2ForCausalLM",
		.models = "Qwen2, Qwen2.5",
		.qkv_bias = true,
		.windows = WINDOWS_LATE,
		.window = 4096,
	},
	{
		.name = "qwen3",
		.gguf = "qwen3",
		.model_type = "qwen3",
		.class_name = "Qwen3ForCausalLM",
		.models = "Qwen3",
		.head_norms = true,
		.windows = WINDOWS_LATE,
		.window = 4096,
		.head_size = 128,
	},
	{
		.name = "gemma2",
		.gguf = "gemma2",
		.model_type = "gemma2",
		.class_name = "Gemma2ForCausalLM",
		.models = "Gemma 2",
		.post_norms = true,
		.shifted_norms = true,
		.scaled_embedding = true,
		.softcaps = true,
		.geglu = true,
		.windows = WINDOWS_EVEN,
		.tied = true,
		.window = 4096,
		.head_size = 256,
	},
};

static const struct architecture_tensor layer_tensors[] = {
	{"input_layernorm.weight", "attn_norm.weight", EXTENT_VECTOR, EXTENT_HIDDEN, WHEN_ALWAYS},
	{"self_attn.q_proj.weight", "attn_q.weight", EXTENT_QUERY, EXTENT_HIDDEN, WHEN_ALWAYS},
	{"self_attn.k_proj.weight", "attn_k.weight", EXTENT_KEY, EXTENT_HIDDEN, WHEN_ALWAYS},
	{"self_attn.v_proj.weight", "attn_v.weight", EXTENT_KEY, EXTENT_HIDDEN, WHEN_ALWAYS},
	{"self_attn.q_proj.bias", "attn_q.bias", EXTENT_VECTOR, EXTENT_QUERY, WHEN_QKV_BIAS},
	{"self_attn.k_proj.bias", "attn_k.bias", EXTENT_VECTOR, EXTENT_KEY, WHEN_QKV_BIAS},
	{"self_attn.v_proj.bias", "attn_v.bias", EXTENT_VECTOR, EXTENT_KEY, WHEN_QKV_BIAS},
	{"self_attn.q_norm.weight", "attn_q_norm.weight", EXTENT_VECTOR, EXTENT_HEAD, WHEN_HEAD_NORMS},
	{"self_attn.k_norm.weight", "attn_k_norm.weight", EXTENT_VECTOR, EXTENT_HEAD, WHEN_HEAD_NORMS},
	{"self_attn.o_proj.weight", "attn_output.weight", EXTENT_HIDDEN, EXTENT_QUERY, WHEN_ALWAYS},
	{"post_attention_layernorm.weight", "ffn_norm.weight", EXTENT_VECTOR, EXTENT_HIDDEN, WHEN_NO_POST_NORMS},
	{"post_attention_layernorm.weight", "post_attention_norm.weight", EXTENT_VECTOR, EXTENT_HIDDEN,
		WHEN_POST_NORMS},
	{"pre_feedforward_layernorm.weight", "ffn_norm.weight", EXTENT_VECTOR, EXTENT_HIDDEN, WHEN_POST_NORMS},
	{"post_feedforward_layernorm.weight", "post_ffw_norm.weight", EXTENT_VECTOR, EXTENT_HIDDEN, WHEN_POST_NORMS},
	{"mlp.gate_proj.weight", "ffn_gate.weight", EXTENT_INTERMEDIATE, EXTENT_HIDDEN, WHEN_ALWAYS},
	{"mlp.up_proj.weight", "ffn_up.weight", EXTENT_INTERMEDIATE, EXTENT_HIDDEN, WHEN_ALWAYS},
	{"mlp.down_proj.weight", "ffn_down.weight", EXTENT_HIDDEN, EXTENT_INTERMEDIATE, WHEN_ALWAYS},
};

static const struct architecture_tensor outer_tensors[] = {
	{"model.embed_tokens.weight", "token_embd.weight", EXTENT_VOCABULARY, EXTENT_HIDDEN, WHEN_ALWAYS},
	{"model.norm.weight", "output_norm.weight", EXTENT_VECTOR, EXTENT_HIDDEN, WHEN_ALWAYS},
	{"lm_head.weight", "output.weight", EXTENT_VOCABULARY, EXTENT_HIDDEN, WHEN_UNTIED},
};

const struct architecture *architecture_of_gguf(const char *name)
{
	for (size_t i = 0; i < COUNT(architectures); i++)
		if (architectures[i].gguf != NULL && strcmp(name, architectures[i].gguf) == 0)
			return &architectures[i];
	return NULL;
}

const struct architecture *architecture_of_model_type(const char *name)
{
	for (size_t i = 0; i < COUNT(architectures); i++)
		if (strcmp(name, architectures[i].model_type) == 0)
			return &architectures[i];
	return NULL;
}

int architecture_refuse(const char *name, struct fault *f)
{
	char known[240] = "";
	for (size_t i = 0; i < COUNT(architectures); i++) {
		size_t n = strlen(known);
		snprintf(known + n, sizeof known - n, "%s%s (%s)", i > 0 ? ", " : "", architectures[i].model_type,
			architectures[i].models);
	}
	return fault_set(f, SAKIORI_EUNSUPPORTED, "architecture %.40s is not supported; there are %s", name, known);
}

const struct architecture_tensor *architecture_layer_tensors(size_t *count)
{
	*count = COUNT(layer_tensors);
	return layer_tensors;
}

const struct architecture_tensor *architecture_outer_tensors(size_t *count)
{
	*count = COUNT(outer_tensors);
	return outer_tensors;
}
