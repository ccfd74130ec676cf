/* SPDX-License-Identifier: Apache-2.0 */
/* `sakiori export`: an adapter, or a model with the adapter merged into it, in the forms that other programs load. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/export_lines.h"
#include "formats/export.h"
#include "formats/json.h"
#include "formats/merge.h"
#include "text/hugging_face.h"

struct export_options {
	const char *adapter, *model, *format, *out, *type, *base_name;
	bool json;
};

/* What a run finds out. */
struct exported {
	enum export_form form;
	enum stored_type type;
	struct model_file *model;
	struct peft_adapter *adapter;
	const char *base_name; /* NULL: none */
	bool quantized;
	bool matches_known, matches; /* whether the base is the one the adapter was trained on, byte for byte */
};

static int read_format(const struct export_options *o, enum export_form *form, struct fault *f)
{
	size_t n = strlen(o->out);
	if (strcmp(o->format, "peft") == 0)
		*form = EXPORT_PEFT;
	else if (strcmp(o->format, "gguf") == 0)
		*form = EXPORT_GGUF_ADAPTER;
	else if (strcmp(o->format, "merged") == 0)
		*form = n > 5 && strcmp(o->out + n - 5, ".gguf") == 0 ? EXPORT_GGUF_MODEL : EXPORT_FOLDER;
	else
		return fault_set(
			f, SAKIORI_EUSAGE, "--format: expected peft, gguf or merged, found '%.40s'", o->format);
	return 0;
}

static int read_type(const struct export_options *o, enum export_form form, enum stored_type *type, struct fault *f)
{
	static const enum stored_type initial[] = {[EXPORT_PEFT] = STORED_F32,
		[EXPORT_GGUF_ADAPTER] = STORED_F32,
		[EXPORT_FOLDER] = STORED_BF16,
		[EXPORT_GGUF_MODEL] = STORED_F16};
	static const struct {
		const char *word;
		enum stored_type type;
	} words[] = {{"f32", STORED_F32}, {"f16", STORED_F16}, {"bf16", STORED_BF16}, {"q8_0", STORED_Q8_0}};
	*type = initial[form];
	if (o->type == NULL)
		return 0;
	size_t i = 0;
	while (i < sizeof words / sizeof *words && strcmp(o->type, words[i].word) != 0)
		i++;
	if (i == sizeof words / sizeof *words)
		return fault_set(f, SAKIORI_EUSAGE, "--type: expected f16, bf16, f32 or q8_0, found '%.40s'", o->type);
	*type = words[i].type;
	if (form == EXPORT_PEFT && *type != STORED_F32)
		return fault_set(f, SAKIORI_EUSAGE, "--type: a PEFT folder is written in f32");
	if (form == EXPORT_FOLDER && *type == STORED_Q8_0)
		return fault_set(f, SAKIORI_EUSAGE, "--type: q8_0 is for GGUF; name an --out that ends in .gguf");
	return 0;
}

static int read_options(int argc, char **argv, struct export_options *o)
{
	const struct cli_option table[] = {
		{"adapter", CLI_TEXT, &o->adapter, "DIR", "PEFT folder of the adapter"},
		{"model", CLI_TEXT, &o->model, "FILE", "the base model it was trained on"},
		{"format", CLI_TEXT, &o->format, "WORD",
			"peft, gguf (an adapter for llama.cpp), or merged (a whole model)"},
		{"out", CLI_TEXT, &o->out, "PATH", "what to write; merged: a GGUF if it ends in .gguf, else a folder"},
		{"type", CLI_TEXT, &o->type, "TYPE",
			"f16, bf16, f32, q8_0; default: f32 for adapters, bf16 for a folder, f16 for a GGUF"},
		{"base-name", CLI_TEXT, &o->base_name, "NAME",
			"what the base model is called where it is loaded; default: as in the adapter"},
		{"json", CLI_FLAG, &o->json, NULL, "print one JSON object"},
		{0},
	};
	int code = cli_parse(argc, argv, "--adapter DIR --model FILE --format peft|gguf|merged --out PATH [OPTION]...",
		table, 0, NULL);
	if (code != CLI_CONTINUE)
		return code;
	for (size_t i = 0; i < 4; i++)
		if (*(const char **)table[i].value == NULL)
			return cli_usage(argv[0], "--%s is missing", table[i].name);
	return CLI_CONTINUE;
}

static void show_progress(void *self, size_t done, size_t total)
{
	(void)self;
	cli_progress("writing: %3.0f %%", 100.0 * (double)done / (double)total);
}

/* The Hub's model card: YAML front matter, then what this is and where it comes from. */
static int write_card(const struct exported *e, const char *folder, struct fault *f)
{
	char *text = NULL, path[4096];
	size_t size;
	FILE *card = open_memstream(&text, &size);
	json_t *base = e->base_name != NULL ? json_string(e->base_name) : NULL;
	char *quoted = base != NULL ? json_dumps(base, JSON_ENCODE_ANY) : NULL;
	fputs("---\nlibrary_name: transformers\n", card);
	if (quoted != NULL)
		fprintf(card, "base_model: %s\n", quoted);
	fputs("---\n# Merged model\n\nA causal language model with a LoRA adapter merged into its weights, written by "
	      "Sakiori.\n",
		card);
	if (e->quantized)
		fputs("\nThe base was quantized: the adapter was merged into its dequantized weights, so that this "
		      "model is not the\n"
		      "unquantized original with the adapter.\n",
			card);
	fprintf(card, "\n| | |\n|---|---|\n| weights | %s |\n| adapter's rank | %" PRIu32 " |\n| pairs | %zu |\n",
		stored_type_name(e->type), e->adapter->matrices[0].rank, e->adapter->count);
	for (size_t i = 0; i < e->adapter->note_count; i++)
		fprintf(card, "| %s | %s |\n", e->adapter->notes[i].key, e->adapter->notes[i].value);
	fclose(card);
	snprintf(path, sizeof path, "%s/README.md", folder);
	int rc = file_replace(path, text, size, 0644, f);
	free(text);
	free(quoted);
	json_decref(base);
	return rc;
}

static int write_folder(const struct exported *e, const struct export *job, const char *out, struct fault *f)
{
	struct folder_writer folder;
	int rc = folder_writer_begin(&folder, out, f);
	if (rc != 0)
		return rc;
	char path[4096];
	if (snprintf(path, sizeof path, "%s/model.safetensors", folder.temporary) >= (int)sizeof path)
		rc = fault_set(f, SAKIORI_EINVAL, "the path is too long: %.60s...", out);
	/* The small files first: what cannot be described is not worth hours of merging. */
	if (rc == 0)
		rc = hugging_face_describe(e->model, e->type, folder.temporary, f);
	if (rc == 0)
		rc = write_card(e, folder.temporary, f);
	if (rc == 0)
		rc = export_safetensors_merged(job, path, f);
	if (rc == 0)
		return folder_writer_commit(&folder, f);
	folder_writer_abort(&folder);
	return rc;
}

/* Every byte of the base has passed: is it the one that the adapter names? */
static int compare_base(struct exported *e, struct fault *f)
{
	uint8_t fingerprint[HASH_SIZE];
	char ours[HASH_HEX_SIZE];
	int rc = model_file_fingerprint(e->model, fingerprint, f);
	hex_encode(fingerprint, HASH_SIZE, ours);
	for (size_t i = 0; rc == 0 && i < e->adapter->note_count; i++) {
		if (strcmp(e->adapter->notes[i].key, "sakiori.base_fingerprint") == 0) {
			e->matches_known = true;
			e->matches = strcmp(e->adapter->notes[i].value, ours) == 0;
		}
	}
	return rc;
}

static int write_out(const struct export_options *o, struct exported *e, struct fault *f)
{
	const struct export job = {
		.model = e->model, .adapter = e->adapter, .type = e->type, .progress = show_progress};
	int rc = 0;
	switch (e->form) {
	case EXPORT_PEFT:
		return peft_write(o->out, e->adapter, f);
	case EXPORT_GGUF_ADAPTER:
		return export_gguf_adapter(&job, o->out, f);
	case EXPORT_GGUF_MODEL:
		rc = export_gguf_merged(&job, o->out, f);
		break;
	case EXPORT_FOLDER:
		rc = write_folder(e, &job, o->out, f);
		break;
	}
	return rc == 0 ? compare_base(e, f) : rc;
}

static int run(const struct export_options *o, struct exported *e, struct fault *f)
{
	int rc = read_format(o, &e->form, f);
	if (rc == 0)
		rc = read_type(o, e->form, &e->type, f);
	if (rc == 0)
		rc = file_prepare_place(o->out, e->form == EXPORT_PEFT || e->form == EXPORT_FOLDER, f);
	if (rc == 0)
		rc = peft_read(o->adapter, &e->adapter, f);
	if (rc == 0)
		rc = model_file_open(o->model, &e->model, f);
	if (rc == 0)
		rc = merge_check(e->model, e->adapter, f);
	if (rc != 0)
		return rc;
	peft_fold(e->adapter);
	if (o->base_name != NULL)
		e->adapter->base_model = o->base_name;
	e->base_name = e->adapter->base_model;
	e->quantized = export_is_quantized(e->model);
	rc = write_out(o, e, f);
	cli_progress_end();
	return rc;
}

static uint64_t bytes_of(const struct exported *e, const char *out)
{
	char path[4096];
	struct stat st;
	const char *inside = e->form == EXPORT_PEFT     ? "/adapter_model.safetensors"
			     : e->form == EXPORT_FOLDER ? "/model.safetensors"
							: "";
	snprintf(path, sizeof path, "%s%s", out, inside);
	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void print(const struct export_options *o, const struct exported *e)
{
	static const struct {
		const char *key, *name;
	} programs[] = {
		{"transformers", "transformers"}, {"vllm", "vLLM"}, {"llama_cpp", "llama.cpp"}, {"ollama", "Ollama"}};
	char *out = realpath(o->out, NULL), *model = realpath(o->model, NULL);
	bool merged = e->form == EXPORT_FOLDER || e->form == EXPORT_GGUF_MODEL;
	const struct export_lines about = {.form = e->form,
		.out = out != NULL ? out : o->out,
		.model = model != NULL ? model : o->model,
		.model_is_gguf = model_file_metadata(e->model) != NULL,
		.base_name = e->base_name,
		.rank = e->adapter->matrices[0].rank};
	json_t *lines = export_lines(&about);
	if (o->json) {
		cli_print_json(json_pack("{s:s, s:s, s:s, s:s?, s:I, s:I, s:I, s:b, s:o, s:o}", "format", o->format,
			"out", about.out, "type", stored_type_name(e->type), "base_model", e->base_name, "rank",
			(json_int_t)about.rank, "pairs", (json_int_t)e->adapter->count, "bytes",
			(json_int_t)bytes_of(e, about.out), "base_quantized", (int)e->quantized, "base_matches",
			e->matches_known ? json_boolean(e->matches) : json_null(), "load", lines));
	} else {
		double bytes = (double)bytes_of(e, about.out);
		printf("%s: %s, %s, %.1f %s\n", o->out, merged ? "a merged model" : "an adapter",
			stored_type_name(e->type), bytes < 1e6 ? bytes / 1e3 : bytes / 1e6, bytes < 1e6 ? "kB" : "MB");
		for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
			const json_t *line = json_object_get(lines, programs[i].key);
			if (json_is_string(line))
				printf("  %-12s  %s\n", programs[i].name, json_string_value(line));
		}
		json_decref(lines);
	}
	if (merged && e->quantized && !o->json)
		fputs("sakiori: the base is quantized: the adapter was merged into its dequantized weights\n", stderr);
	if (e->matches_known && !e->matches)
		fputs("sakiori: the adapter was trained on another file of this base than the one it was merged into "
		      "(their fingerprints "
		      "differ); "
		      "compare with `sakiori eval`\n",
			stderr);
	free(out);
	free(model);
}

int cmd_export(int argc, char **argv)
{
	struct export_options o = {0};
	struct exported e = {0};
	struct fault f = {0};
	int code = read_options(argc, argv, &o);
	if (code != CLI_CONTINUE)
		return code;
	int rc = run(&o, &e, &f);
	if (rc == 0)
		print(&o, &e);
	model_file_close(e.model);
	peft_free(e.adapter);
	return rc != 0 ? cli_fail(&f) : EXIT_CODE_OK;
}
