/* SPDX-License-Identifier: Apache-2.0 */
/* What is done with whole configurations besides reading them: defaults, freeing, comparing, writing. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "config/config.h"
#include "config/keys.h"

void config_defaults(struct config *c)
{
	*c = (struct config){.file = must_strdup("")};
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (!config_key_of_peer(k))
			config_key_set_initial(k, c);
}

static void free_peer(struct config_peer *peer)
{
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (config_key_of_peer(k))
			config_key_clear(k, peer);
}

void config_fini(struct config *c)
{
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (!config_key_of_peer(k))
			config_key_clear(k, c);
	for (size_t i = 0; i < c->peer_count; i++)
		free_peer(&c->peers[i]);
	free(c->peers);
	free(c->file);
	*c = (struct config){0};
}

static const struct config_peer *find_peer(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->peer_count; i++)
		if (strcmp(c->peers[i].name, name) == 0)
			return &c->peers[i];
	return NULL;
}

static bool peers_equal(const struct config_peer *a, const struct config_peer *b)
{
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (config_key_of_peer(k) && !config_key_equal(k, a, b))
			return false;
	return true;
}

size_t config_diff(const struct config *before, const struct config *after, struct config_change **changes)
{
	struct config_change *list =
		must_calloc(config_key_count() + before->peer_count + after->peer_count, sizeof *list);
	size_t count = 0;
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (!config_key_of_peer(k) && !config_key_equal(k, before, after)) {
			list[count].needs_restart = k->needs_restart;
			snprintf(list[count++].path, sizeof list->path, "%s", k->path);
		}
	for (size_t i = 0; i < after->peer_count; i++) {
		const struct config_peer *old = find_peer(before, after->peers[i].name);
		if (old == NULL || !peers_equal(old, &after->peers[i]))
			snprintf(list[count++].path, sizeof list->path, "peers.%s", after->peers[i].name);
	}
	for (size_t i = 0; i < before->peer_count; i++)
		if (find_peer(after, before->peers[i].name) == NULL)
			snprintf(list[count++].path, sizeof list->path, "peers.%s", before->peers[i].name);
	*changes = list;
	return count;
}

static void write_help(const struct config_key *k, FILE *stream)
{
	fputs("\t# ", stream);
	for (const char *c = k->help; *c != 0; c++)
		if (*c == '\n')
			fputs("\n\t# ", stream);
		else
			putc(*c, stream);
	if (k->words != NULL) {
		fputs(" One of:", stream);
		for (const char *const *word = k->words; *word != NULL; word++)
			fprintf(stream, " %s", *word);
		putc('.', stream);
	}
	if (k->initial == NULL)
		fputs(" Required.", stream);
	putc('\n', stream);
}

/* A line that shows how the key could be given, commented out. */
static void write_example(const struct config_key *k, const void *initial, FILE *stream)
{
	fprintf(stream, "\t#%s%s = ", config_key_of_peer(k) ? "\t" : "", strchr(k->path, '.') + 1);
	if (k->example != NULL)
		fprintf(stream, "\"%s\"", k->example);
	else
		config_key_print(k, initial, stream);
	fputs(";\n", stream);
}

static void write_peers(FILE *stream, const struct config *values)
{
	struct config_peer initial = {0};
	fputs("\n# The neighbours: sites that this one exchanges updates with, each once.\npeers = (\n", stream);
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (config_key_of_peer(k)) {
			config_key_set_initial(k, &initial);
			write_help(k, stream);
		}
	if (values->peer_count == 0) {
		fputs("\t#{\n", stream);
		for (const struct config_key *k = config_keys; k->path != NULL; k++)
			if (config_key_of_peer(k))
				write_example(k, &initial, stream);
		fputs("\t#}\n", stream);
	}
	for (size_t i = 0; i < values->peer_count; i++) {
		fputs("\t{\n", stream);
		for (const struct config_key *k = config_keys; k->path != NULL; k++)
			if (config_key_of_peer(k) && !config_key_equal(k, &values->peers[i], &initial)) {
				fprintf(stream, "\t\t%s = ", strchr(k->path, '.') + 1);
				config_key_print(k, &values->peers[i], stream);
				fputs(";\n", stream);
			}
		fputs(i + 1 < values->peer_count ? "\t},\n" : "\t}\n", stream);
	}
	fputs(");\n", stream);
	free_peer(&initial);
}

int config_write_commented(FILE *stream, const struct config *values)
{
	struct config initial;
	config_defaults(&initial);
	fputs("# Configuration of sakiorid, one site of a network that trains together. All keys: sakiorid.conf(5).\n"
	      "# What is commented out is at its default. Relative paths count from the folder of this file.\n",
		stream);
	const char *group = "";
	size_t length = 0;
	for (const struct config_key *k = config_keys; k->path != NULL && !config_key_of_peer(k); k++) {
		if (strncmp(k->path, group, length) != 0 || length == 0) {
			fputs(length > 0 ? "};\n\n" : "\n", stream);
			group = k->path;
			length = (size_t)(strchr(group, '.') - group) + 1;
			fprintf(stream, "%.*s: {\n", (int)length - 1, group);
		}
		write_help(k, stream);
		if (config_key_equal(k, values, &initial)) {
			write_example(k, &initial, stream);
			continue;
		}
		fprintf(stream, "\t%s = ", strchr(k->path, '.') + 1);
		config_key_print(k, values, stream);
		fputs(";\n", stream);
	}
	fputs("};\n", stream);
	write_peers(stream, values);
	config_fini(&initial);
	return fflush(stream) == 0 && !ferror(stream) ? 0 : SAKIORI_EIO;
}
