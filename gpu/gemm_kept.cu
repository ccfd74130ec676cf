/* SPDX-License-Identifier: Apache-2.0 */
/* Measured plans from run to run. Happy path: read once before the first product, written once when the device closes, through a temporary
 * file and a rename. Whatever is wrong with the file (absent, cut short, of another format, its checksum off), it is as good as none: what
 * it would have said is measured again and the file written anew. An algorithm from a file is used only if
 * cuBLASLt offers the same one now (gemm.cu). */
#include "gpu/gemm.cuh"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_VERSION 3
#define KEPT_MAX 4096 /* plans: 136 bytes each */

struct file_head {
	char magic[8];
	uint32_t version, entry_bytes;
	uint64_t count;
	uint64_t checksum; /* FNV-1a of the entries */
};

static const char file_magic[8] = {'S', 'K', 'G', 'E', 'M', 'M', 'P', 'L'};

static uint64_t checksum(const struct gemm_kept *at, size_t count)
{
	uint64_t h = 0xcbf29ce484222325u;
	const unsigned char *p = (const unsigned char *)at;
	for (size_t i = 0; i < count * sizeof *at; i++)
		h = (h ^ p[i]) * 0x100000001b3u;
	return h;
}

/* The algorithms mean something to one card model and one cuBLASLt alone, so both are in the name. */
static bool file_path(const struct cuda_device *c, char *out, size_t bytes)
{
	char card[sizeof c->name];
	size_t i = 0;
	for (; c->name[i]; i++)
		card[i] = isalnum((unsigned char)c->name[i]) ? c->name[i] : '-';
	card[i] = 0;
	int n = snprintf(out, bytes, "%s/gemm-%s-%zu.plans", c->cache, card, cublasLtGetVersion());
	return c->cache[0] && n > 0 && (size_t)n < bytes;
}

void gemm_kept_load(const struct cuda_device *c, struct gemm_kept_list *list)
{
	char path[sizeof c->cache + sizeof c->name + 64];
	struct file_head head;
	memset(list, 0, sizeof *list);
	FILE *f = file_path(c, path, sizeof path) ? fopen(path, "rbe") : NULL;
	if (!f)
		return;
	if (fread(&head, sizeof head, 1, f) == 1 && !memcmp(head.magic, file_magic, sizeof file_magic) &&
		head.version == FILE_VERSION && head.entry_bytes == sizeof *list->at && head.count &&
		head.count <= KEPT_MAX)
		list->at = (struct gemm_kept *)calloc(head.count, sizeof *list->at);
	if (list->at && fread(list->at, sizeof *list->at, head.count, f) == head.count &&
		checksum(list->at, head.count) == head.checksum)
		list->count = head.count;
	fclose(f);
	if (!list->count)
		gemm_kept_free(list);
}

void gemm_kept_save(const struct cuda_device *c, struct gemm_kept_list *list)
{
	char path[sizeof c->cache + sizeof c->name + 64], temporary[sizeof path + 32];
	if (!list->changed || !file_path(c, path, sizeof path))
		return;
	snprintf(temporary, sizeof temporary, "%s.%ld.%d.tmp", path, (long)getpid(), c->ordinal);
	struct file_head head = {};
	memcpy(head.magic, file_magic, sizeof file_magic);
	head.version = FILE_VERSION;
	head.entry_bytes = sizeof *list->at;
	head.count = list->count;
	head.checksum = checksum(list->at, list->count);
	FILE *f = fopen(temporary, "wbe");
	if (!f)
		return;
	bool written = fwrite(&head, sizeof head, 1, f) == 1 &&
		       fwrite(list->at, sizeof *list->at, list->count, f) == list->count;
	written = !fclose(f) && written;
	if (!written || rename(temporary, path))
		unlink(temporary);
	list->changed = false;
}

static const struct gemm_kept *find_exact(const struct gemm_kept_list *list, const struct gemm_key *key)
{
	for (size_t i = 0; i < list->count; i++)
		if (!memcmp(&list->at[i].key, key, sizeof *key))
			return &list->at[i];
	return NULL;
}

static bool within_an_eighth(uint64_t a, uint64_t b)
{
	return (a > b ? a - b : b - a) <= b / 8;
}

const struct gemm_kept *gemm_kept_find(const struct gemm_kept_list *list, const struct gemm_key *key, bool near)
{
	const struct gemm_kept *exact = find_exact(list, key);
	for (size_t i = 0; near && !exact && i < list->count; i++) {
		struct gemm_key k = list->at[i].key;
		if (!within_an_eighth(k.m, key->m) || !within_an_eighth(k.k, key->k))
			continue;
		k.m = key->m;
		k.k = key->k;
		if (!memcmp(&k, key, sizeof k))
			return &list->at[i];
	}
	return exact;
}

void gemm_kept_add(struct gemm_kept_list *list, const struct gemm_kept *plan)
{
	size_t i = 0;
	while (i < list->count && memcmp(&list->at[i].key, &plan->key, sizeof plan->key))
		i++;
	if (i == list->count) {
		struct gemm_kept *more =
			i < KEPT_MAX ? (struct gemm_kept *)realloc(list->at, (i + 1) * sizeof *more) : NULL;
		if (!more)
			return;
		list->at = more;
		list->count++;
	}
	list->at[i] = *plan;
	list->changed = true;
}

void gemm_kept_free(struct gemm_kept_list *list)
{
	free(list->at);
	memset(list, 0, sizeof *list);
}
