/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/export_lines.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* In fresh memory: as the shell reads it back. */
static char *shell_word(const char *text)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=@+-";
	if (text[0] != '\0' && text[strspn(text, plain)] == '\0')
		return must_strdup(text);
	char *out = must_alloc(4 * strlen(text) + 3), *p = out;
	*p++ = '\'';
	for (; *text != '\0'; text++) {
		if (*text == '\'') {
			memcpy(p, "'\\''", 4);
			p += 4;
		} else {
			*p++ = *text;
		}
	}
	memcpy(p, "'", 2);
	return out;
}

/* In fresh memory: as Python reads it back, which for these is as JSON is written. */
static char *python_string(const char *text)
{
	json_t *string = json_string(text);
	char *out = string != NULL ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
	json_decref(string);
	return out != NULL ? out : must_strdup("\"...\""); /* a path that is not UTF-8 */
}

/* A string of JSON; null where a path in it is not UTF-8. */
static json_t *line(const char *format, ...) __attribute__((format(printf, 1, 2)));
static json_t *line(const char *format, ...)
{
	char *text;
	va_list arguments;
	va_start(arguments, format);
	int n = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (n < 0)
		abort();
	json_t *string = json_string(text);
	free(text);
	return string != NULL ? string : json_null();
}

/* vLLM knows these alone. */
static unsigned vllm_rank(uint32_t rank)
{
	static const unsigned known[] = {8, 16, 32, 64, 128, 256, 320, 512};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (rank <= known[i])
			return known[i];
	return rank;
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

/* AutoModelForCausalLM.from_pretrained(...) of a file or folder, in fresh memory. */
static char *python_model(const char *path, bool gguf)
{
	char *out;
	size_t folder_size = gguf ? (size_t)(last_part(path) - path) : strlen(path);
	char *folder = strndup(path, folder_size);
	char *quoted = python_string(folder), *file = python_string(last_part(path));
	int n = gguf ? asprintf(&out, "AutoModelForCausalLM.from_pretrained(%s, gguf_file=%s)", quoted, file)
		     : asprintf(&out, "AutoModelForCausalLM.from_pretrained(%s)", quoted);
	free(folder);
	free(quoted);
	free(file);
	if (n < 0)
		abort();
	return out;
}

static json_t *transformers_line(const struct export_lines *l)
{
	json_t *result = NULL;
	if (l->form == EXPORT_PEFT) {
		char *model = python_model(l->model, l->model_is_gguf), *out = python_string(l->out);
		result = line("PeftModel.from_pretrained(%s, %s)", model, out);
		free(model);
		free(out);
	} else if (l->form != EXPORT_GGUF_ADAPTER) {
		char *model = python_model(l->out, l->form == EXPORT_GGUF_MODEL);
		result = line("%s", model);
		free(model);
	}
	return result;
}

static json_t *vllm_line(const struct export_lines *l, const char *out)
{
	json_t *result = NULL;
	char *base = shell_word(l->base_name != NULL && l->base_name[0] != '\0' ? l->base_name : "BASE");
	char *name = shell_word(last_part(l->out));
	if (l->form == EXPORT_PEFT)
		result = line("vllm serve %s --enable-lora --max-lora-rank %u --lora-modules %s=%s", base,
			vllm_rank(l->rank), name, out);
	else if (l->form == EXPORT_FOLDER)
		result = line("vllm serve %s", out);
	else if (l->form == EXPORT_GGUF_MODEL)
		result = line("vllm serve %s --tokenizer %s", out, base);
	free(base);
	free(name);
	return result;
}

static json_t *llama_cpp_line(const struct export_lines *l, const char *out, const char *model)
{
	if (l->form == EXPORT_GGUF_ADAPTER)
		return line("llama-cli -m %s --lora %s", l->model_is_gguf ? model : "BASE.gguf", out);
	return l->form == EXPORT_GGUF_MODEL ? line("llama-cli -m %s", out) : NULL;
}

static json_t *ollama_line(const struct export_lines *l, const char *out, const char *model)
{
	bool adapter = l->form == EXPORT_PEFT || l->form == EXPORT_GGUF_ADAPTER;
	return adapter ? line("printf 'FROM %%s\\nADAPTER %%s\\n' %s %s >Modelfile && ollama create sakiori -f "
			      "Modelfile",
				 model, out)
		       : line("printf 'FROM %%s\\n' %s >Modelfile && ollama create sakiori -f Modelfile", out);
}

json_t *export_lines(const struct export_lines *l)
{
	char *out = shell_word(l->out), *model = shell_word(l->model);
	json_t *lines = json_pack("{s:o?, s:o?, s:o?, s:o?}", "transformers", transformers_line(l), "vllm",
		vllm_line(l, out), "llama_cpp", llama_cpp_line(l, out, model), "ollama", ollama_line(l, out, model));
	free(out);
	free(model);
	return lines;
}
