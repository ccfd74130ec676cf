/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path: the files are written and synced in PATH.XXXXXX, which is then exchanged with PATH, and the old folder
 * removed. Failure modes: at any moment before the exchange PATH is untouched and the temporary folder is removed; a
 * crash leaves at most a temporary folder beside a whole PATH. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "formats/json.h"
#include "formats/peft_private.h"

enum { TEMPORARY_SIZE = 4096 };

/* directory/name in fresh memory. */
static char *join(const char *directory, const char *name)
{
	size_t n = strlen(directory) + strlen(name) + 2;
	char *path = must_alloc(n);
	snprintf(path, n, "%s/%s", directory, name);
	return path;
}

static int check_matrices(const struct peft_adapter *a, struct fault *f)
{
	if (a->count == 0)
		return fault_set(f, SAKIORI_EINVAL, "an adapter without matrices cannot be written");
	for (size_t i = 0; i < a->count; i++) {
		const struct peft_matrix *m = &a->matrices[i];
		if (m->rank != a->matrices[0].rank || m->rank == 0)
			return fault_set(f, SAKIORI_EINVAL,
				"layer %" PRIu32 " %s has rank %" PRIu32 ", but all must have one rank (%" PRIu32
				" here); pad it with zero rows",
				m->layer, peft_target_name(m->target), m->rank, a->matrices[0].rank);
	}
	return 0;
}

static json_t *target_names(const struct peft_adapter *a)
{
	bool used[PEFT_TARGETS] = {false};
	for (size_t i = 0; i < a->count; i++)
		used[a->matrices[i].target] = true;
	json_t *names = json_array();
	for (unsigned t = 0; t < PEFT_TARGETS; t++)
		if (used[t])
			json_array_append_new(names, json_string(peft_target_name((enum peft_target)t)));
	return names;
}

/* Every key that PEFT 0.21 writes, so that no reader falls back to a default of its own. */
static json_t *build_config(const struct peft_adapter *a)
{
	json_t *alpha = a->alpha == floor(a->alpha) && fabs(a->alpha) < 1e15 ? json_integer((json_int_t)a->alpha)
									     : json_real(a->alpha);
	return json_pack("{s:s, s:s, s:n, s:s?, s:n, s:b, s:I, s:o, s:f, s:o, s:n, s:s, s:b, s:b, s:b, s:b, s:b, s:n, "
			 "s:{}, s:{}, s:n, s:n, "
			 "s:n, s:n, s:s, s:{}, s:n, s:n}",
		"peft_type", "LORA", "task_type", "CAUSAL_LM", "auto_mapping", "base_model_name_or_path", a->base_model,
		"revision", "inference_mode", 1, "r", (json_int_t)a->matrices[0].rank, "lora_alpha", alpha,
		"lora_dropout", 0.0, "target_modules", target_names(a), "exclude_modules", "bias", "none",
		"fan_in_fan_out", 0, "init_lora_weights", 1, "use_rslora", (int)a->rslora, "use_dora", 0, "lora_bias",
		0, "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern",
		"layer_replication", "megatron_config", "megatron_core", "megatron.core", "loftq_config",
		"trainable_token_indices", "target_parameters");
}

static int write_config(const char *directory, const struct peft_adapter *a, struct fault *f)
{
	json_t *config = build_config(a);
	char *text = config == NULL ? NULL : json_dumps(config, JSON_INDENT(2));
	json_decref(config);
	if (text == NULL)
		return fault_set(f, SAKIORI_EINVAL, "the base model's name is not valid UTF-8");
	char *path = join(directory, PEFT_CONFIG);
	int rc = file_replace(path, text, strlen(text), 0644, f);
	free(path);
	free(text);
	return rc;
}

static int write_tensors(const char *directory, const struct peft_adapter *a, struct fault *f)
{
	struct safetensors_tensor *tensors = must_calloc(2 * a->count, sizeof *tensors);
	char(*names)[PEFT_NAME_SIZE] = must_calloc(2 * a->count, sizeof *names);
	for (size_t i = 0; i < a->count; i++) {
		const struct peft_matrix *m = &a->matrices[i];
		peft_tensor_name(m->layer, m->target, 'A', names[2 * i]);
		peft_tensor_name(m->layer, m->target, 'B', names[2 * i + 1]);
		tensors[2 * i] = (struct safetensors_tensor){.name = names[2 * i],
			.type = SAFETENSORS_F32,
			.dimensions = 2,
			.shape = {m->rank, m->in},
			.data = m->a};
		tensors[2 * i + 1] = (struct safetensors_tensor){.name = names[2 * i + 1],
			.type = SAFETENSORS_F32,
			.dimensions = 2,
			.shape = {m->out, m->rank},
			.data = m->b};
	}
	char *path = join(directory, PEFT_TENSORS);
	int rc = safetensors_write(path, 0644, tensors, 2 * a->count, a->notes, a->note_count, f);
	free(path);
	free(names);
	free(tensors);
	return rc;
}

static void write_string(struct writer *w, const char *text)
{
	write_bytes(w, text, strlen(text));
}

/* The Hub's model card: YAML front matter (a JSON string is one of YAML's), then how to load it and where it comes
 * from. */
static int write_card(const char *directory, const struct peft_adapter *a, struct fault *f)
{
	struct writer w;
	writer_init(&w);
	write_string(&w, "---\nlibrary_name: peft\ntags:\n- lora\n");
	json_t *base = a->base_model == NULL ? NULL : json_string(a->base_model);
	char *quoted = base == NULL ? NULL : json_dumps(base, JSON_ENCODE_ANY);
	json_decref(base);
	if (quoted != NULL) {
		write_string(&w, "base_model: ");
		write_string(&w, quoted);
		write_string(&w, "\n");
	}
	write_string(&w, "---\n# LoRA adapter\n\nA low-rank adapter of a causal language model, written by Sakiori.\n\n"
			 "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
			 "model = AutoModelForCausalLM.from_pretrained(");
	write_string(&w, quoted != NULL ? quoted : "\"BASE\"");
	write_string(&w, ")\nmodel = PeftModel.from_pretrained(model, \"THIS FOLDER\")\n```\n\n");
	free(quoted);
	char line[160];
	snprintf(line, sizeof line,
		"| | |\n|---|---|\n| rank | %" PRIu32 " |\n| alpha | %g |\n| scale | %g |\n| pairs | %zu |\n",
		a->matrices[0].rank, a->alpha, peft_scale(a), a->count);
	write_string(&w, line);
	for (size_t i = 0; i < a->note_count; i++) {
		write_string(&w, "| ");
		write_string(&w, a->notes[i].key);
		write_string(&w, " | ");
		write_string(&w, a->notes[i].value);
		write_string(&w, " |\n");
	}
	char *path = join(directory, PEFT_CARD);
	int rc = file_replace(path, w.data, w.size, 0644, f);
	free(path);
	writer_fini(&w);
	return rc;
}

static bool is_ours(const char *name)
{
	return strcmp(name, PEFT_CONFIG) == 0 || strcmp(name, PEFT_TENSORS) == 0 || strcmp(name, PEFT_CARD) == 0;
}

typedef int entry_fn(int from, int to, const char *name, struct fault *f);

/* A file that others put into the folder (a tokenizer, a trainer's state) is in the new folder before that takes its
 * place. */
static int link_foreign(int from, int to, const char *name, struct fault *f)
{
	struct stat st;
	if (is_ours(name) || fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || S_ISDIR(st.st_mode))
		return 0;
	return linkat(from, name, to, name, 0) == 0 ? 0 : fault_errno(f, "keeping %s", name);
}

/* Folders cannot be linked: they move after the exchange. */
static int move_or_remove(int from, int to, const char *name, struct fault *f)
{
	struct stat st;
	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
		return 0;
	int failed = S_ISDIR(st.st_mode) ? renameat(from, name, to, name) : unlinkat(from, name, 0);
	return failed == 0 ? 0 : fault_errno(f, "clearing %s", name);
}

static int each_entry(const char *from, const char *to, entry_fn *act, struct fault *f)
{
	DIR *d = opendir(from);
	int target = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = d == NULL || target < 0 ? fault_errno(f, "%s", d == NULL ? from : to) : 0;
	for (const struct dirent *e; rc == 0 && (e = readdir(d)) != NULL;)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			rc = act(dirfd(d), target, e->d_name, f);
	if (d != NULL)
		closedir(d);
	if (target >= 0)
		close(target);
	return rc;
}

static void remove_folder(const char *path)
{
	each_entry(path, path, move_or_remove, NULL);
	rmdir(path);
}

/* What stands at `path`: nothing (0), or a folder that may be replaced (1, with its mode), or a fault. */
static int check_target(const char *path, mode_t *mode, struct fault *f)
{
	struct stat st;
	if (stat(path, &st) != 0)
		return errno == ENOENT ? 0 : fault_errno(f, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return fault_set(
			f, SAKIORI_EINVAL, "%s: not a folder, and an adapter is one; choose another path", path);
	*mode = st.st_mode & 07777;
	char *config = join(path, PEFT_CONFIG);
	bool adapter = access(config, F_OK) == 0;
	free(config);
	if (adapter)
		return 1;
	DIR *d = opendir(path);
	if (d == NULL)
		return fault_errno(f, "%s", path);
	bool empty = true;
	for (const struct dirent *e; (e = readdir(d)) != NULL;)
		empty = empty && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0);
	closedir(d);
	return empty ? 1
		     : fault_set(f, SAKIORI_EINVAL,
			       "%s: holds other files and no " PEFT_CONFIG
			       "; it would be replaced, so choose another path or empty it",
			       path);
}

/* Fills the temporary folder. */
static int fill(const char *temporary, const char *old, const struct peft_adapter *a, mode_t mode, struct fault *f)
{
	int rc = write_tensors(temporary, a, f);
	if (rc == 0)
		rc = write_card(temporary, a, f);
	if (rc == 0)
		rc = write_config(temporary, a, f);
	if (rc == 0 && old != NULL)
		rc = each_entry(old, temporary, link_foreign, f);
	if (rc == 0 && chmod(temporary, mode) != 0)
		rc = fault_errno(f, "%s", temporary);
	if (rc == 0) {
		char *inside = join(temporary, PEFT_CONFIG);
		rc = file_sync_directory(inside, f);
		free(inside);
	}
	return rc;
}

static int swap_in(const char *temporary, const char *path, bool exists, struct fault *f)
{
	unsigned flags = exists ? RENAME_EXCHANGE : RENAME_NOREPLACE;
	if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, flags) == 0)
		return file_sync_directory(path, f);
	if (errno == EINVAL && exists)
		return fault_set(f, SAKIORI_EUNSUPPORTED,
			"%s: this file system cannot exchange folders; write to a path that does not exist yet", path);
	return fault_errno(f, "%s", path);
}

/* Makes an empty folder beside `path` and writes its name to `out`. */
static int make_temporary(const char *path, char out[static TEMPORARY_SIZE], struct fault *f)
{
	if (snprintf(out, TEMPORARY_SIZE, "%s.XXXXXX", path) > TEMPORARY_SIZE - 96)
		return fault_set(f, SAKIORI_EINVAL, "the path is too long: %.60s...", path);
	return mkdtemp(out) != NULL ? 0 : fault_errno(f, "%s", path);
}

static int write_at(const char *path, const struct peft_adapter *a, struct fault *f)
{
	mode_t mode = 0755;
	char temporary[TEMPORARY_SIZE];
	int exists = check_target(path, &mode, f);
	int rc = exists < 0 ? exists : make_temporary(path, temporary, f);
	if (rc != 0)
		return rc;
	rc = fill(temporary, exists == 1 ? path : NULL, a, mode, f);
	if (rc == 0)
		rc = swap_in(temporary, path, exists == 1, f);
	if (rc != 0) {
		remove_folder(temporary);
		return rc;
	}
	if (exists == 1) { /* the old folder bears the temporary name now */
		rc = each_entry(temporary, path, move_or_remove, f);
		if (rmdir(temporary) != 0 && rc == 0)
			rc = fault_errno(f, "%s", temporary);
	}
	return rc;
}

/* The folder itself, not a link to it, without slashes at the end; makes the folders above it. The caller frees *out,
 * which is set on failure too. */
static int find_place(const char *path, char **out, struct fault *f)
{
	int rc = 0;
	char *real = realpath(path, NULL);
	char *plain = *out = real != NULL ? real : must_strdup(path);
	for (size_t n = strlen(plain); n > 1 && plain[n - 1] == '/'; n--)
		plain[n - 1] = '\0';
	char *slash = strrchr(plain, '/');
	if (real == NULL && slash != NULL && slash != plain) {
		*slash = '\0';
		rc = file_make_directories(plain, 0755, f);
		*slash = '/';
	}
	return rc;
}

int peft_prepare(const char *path, struct fault *f)
{
	mode_t mode;
	char *place, temporary[TEMPORARY_SIZE];
	int rc = find_place(path, &place, f);
	if (rc == 0)
		rc = check_target(place, &mode, f);
	if (rc >= 0)
		rc = make_temporary(place, temporary, f);
	if (rc == 0)
		rmdir(temporary);
	free(place);
	return rc;
}

int peft_write(const char *path, const struct peft_adapter *a, struct fault *f)
{
	char *place;
	int rc = check_matrices(a, f);
	if (rc != 0)
		return rc;
	rc = find_place(path, &place, f);
	if (rc == 0)
		rc = write_at(place, a, f);
	free(place);
	return rc;
}
