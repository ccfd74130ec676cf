/* SPDX-License-Identifier: Apache-2.0 */
/* Happy path: read the file, let libconfig parse it, walk the tree and store each value by the table, then check the
 * whole. The first thing wrong ends it, with the line where it stands. */
#include "config/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <libconfig.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "config/check.h"
#include "config/keys.h"
#include "config/scan.h"
#include "config/units.h"

/* What is shown of a value in a message. */
#define SHOWN_SIZE 64

struct walk {
	struct config *config;
	const char *path; /* of the file, for messages */
	struct fault *fault;
};

static int refuse(const struct walk *w, const config_setting_t *at, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static int refuse(const struct walk *w, const config_setting_t *at, const char *format, ...)
{
	char sentence[sizeof w->fault->text];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(sentence, sizeof sentence, format, arguments);
	va_end(arguments);
	return fault_set(w->fault, SAKIORI_ECONFIG, "%s:%u: %s", w->path, config_setting_source_line(at), sentence);
}

/* What a value is, for "found ..., expected ...". */
static void describe(const config_setting_t *setting, char out[static SHOWN_SIZE])
{
	switch (config_setting_type(setting)) {
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		snprintf(out, SHOWN_SIZE, "the integer %lld", config_setting_get_int64(setting));
		break;
	case CONFIG_TYPE_FLOAT:
		snprintf(out, SHOWN_SIZE, "the number %g", config_setting_get_float(setting));
		break;
	case CONFIG_TYPE_BOOL:
		snprintf(out, SHOWN_SIZE, "%s", config_setting_get_bool(setting) ? "true" : "false");
		break;
	case CONFIG_TYPE_STRING: {
		const char *text = config_setting_get_string(setting);
		snprintf(out, SHOWN_SIZE, strlen(text) > 40 ? "the string \"%.40s...\"" : "the string \"%.40s\"", text);
		for (char *c = out; *c != 0; c++)
			if (!isprint((unsigned char)*c))
				*c = '?';
		break;
	}
	case CONFIG_TYPE_GROUP:
		snprintf(out, SHOWN_SIZE, "a group { }");
		break;
	default:
		snprintf(out, SHOWN_SIZE, "a list");
		break;
	}
}

static int refuse_value(const struct walk *w, const struct config_key *k, const config_setting_t *setting)
{
	char found[SHOWN_SIZE], expected[160];
	describe(setting, found);
	config_key_expected(k, expected, sizeof expected);
	return refuse(w, setting, "%s is %s; expected %s", k->path, found, expected);
}

/* The text of a string setting of a length the key allows, else NULL. */
static const char *text_of(const struct config_key *k, const config_setting_t *setting)
{
	if (config_setting_type(setting) != CONFIG_TYPE_STRING)
		return NULL;
	const char *text = config_setting_get_string(setting);
	size_t length = strlen(text);
	return (double)length >= k->min && (double)length <= k->max ? text : NULL;
}

static bool is_integer(const config_setting_t *setting)
{
	int type = config_setting_type(setting);
	return type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
}

/* The file's folder, absolute, with a slash at its end; fresh memory. */
static char *folder_of(const char *path)
{
	char here[4096] = "";
	if (path[0] != '/' && getcwd(here, sizeof here) == NULL)
		here[0] = 0;
	const char *slash = strrchr(path, '/');
	size_t directory = slash != NULL ? (size_t)(slash - path) + 1 : 0, before = strlen(here);
	char *folder = must_alloc(before + 1 + directory + 1);
	memcpy(folder, here, before);
	if (path[0] != '/')
		folder[before++] = '/';
	memcpy(folder + before, path, directory);
	folder[before + directory] = 0;
	return folder;
}

/* Makes a relative path of a value absolute. "shape:NAME" is a model, but no path; "" means that there is none. */
static void resolve(const struct config_key *k, struct config *c)
{
	char **path = config_key_value(k, c);
	if ((*path)[0] == 0 || (*path)[0] == '/' || strncmp(*path, "shape:", 6) == 0)
		return;
	char *folder = folder_of(c->file);
	size_t before = strlen(folder), length = strlen(*path);
	folder = must_realloc(folder, before + length + 1);
	memcpy(folder + before, *path, length + 1);
	free(*path);
	*path = folder;
}

static bool set_list(const struct config_key *k, struct config_list *list, const config_setting_t *setting)
{
	int type = config_setting_type(setting);
	bool single = type == CONFIG_TYPE_STRING;
	if (!single && type != CONFIG_TYPE_ARRAY && type != CONFIG_TYPE_LIST)
		return false;
	int count = single ? 1 : config_setting_length(setting);
	list->items = must_calloc((size_t)count, sizeof *list->items);
	for (int i = 0; i < count; i++) {
		const char *text = text_of(k, single ? setting : config_setting_get_elem(setting, (unsigned)i));
		if (text == NULL || text[0] == 0)
			return false;
		list->items[list->count++] = must_strdup(text);
	}
	return true;
}

/* Stores a setting in the (cleared) value; false when it is of another type or out of range. */
static bool set_value(const struct config_key *k, void *value, const config_setting_t *setting)
{
	const char *text = text_of(k, setting);
	uint64_t amount;
	switch (k->type) {
	case KEY_BOOL:
		*(bool *)value = config_setting_get_bool(setting);
		return config_setting_type(setting) == CONFIG_TYPE_BOOL;
	case KEY_INT:
		*(int64_t *)value = config_setting_get_int64(setting);
		return is_integer(setting) && (double)*(int64_t *)value >= k->min &&
		       (double)*(int64_t *)value <= k->max;
	case KEY_FLOAT: {
		double number = is_integer(setting) ? (double)config_setting_get_int64(setting)
						    : config_setting_get_float(setting);
		*(double *)value = number;
		return (is_integer(setting) || config_setting_type(setting) == CONFIG_TYPE_FLOAT) && number >= k->min &&
		       number <= k->max;
	}
	case KEY_STRING:
	case KEY_PATH:
		*(char **)value = must_strdup(text != NULL ? text : "");
		return text != NULL;
	case KEY_LIST:
		return set_list(k, value, setting);
	case KEY_DURATION:
	case KEY_SIZE:
		if (config_setting_type(setting) != CONFIG_TYPE_STRING)
			return false;
		text = config_setting_get_string(setting);
		if ((k->type == KEY_DURATION ? units_parse_duration : units_parse_size)(text, &amount) != 0)
			return false;
		*(uint64_t *)value = amount;
		return (double)amount >= k->min && (double)amount <= k->max;
	case KEY_WORD:
		if (config_setting_type(setting) != CONFIG_TYPE_STRING)
			return false;
		text = config_key_word(k, config_setting_get_string(setting));
		if (text == NULL)
			return false;
		*(const char **)value = text;
		return true;
	}
	return false;
}

static int refuse_unknown(const struct walk *w, const config_setting_t *setting, const char *path)
{
	char shown[SHOWN_SIZE];
	snprintf(shown, sizeof shown, "%.60s", path);
	return refuse(w, setting, "unknown key %s; the nearest known key is %s", shown, config_key_nearest(path)->path);
}

/* One setting of a group, or of an entry of peers. */
static int read_key(const struct walk *w, const char *group, const config_setting_t *setting, void *base)
{
	char path[128];
	snprintf(path, sizeof path, "%s.%s", group, config_setting_name(setting));
	const struct config_key *k = config_key_find(path);
	if (k == NULL)
		return refuse_unknown(w, setting, path);
	config_key_clear(k, base);
	if (!set_value(k, config_key_value(k, base), setting)) {
		/* the value may be half set: it must still be one that can be freed and read */
		config_key_clear(k, base);
		config_key_set_initial(k, base);
		return refuse_value(w, k, setting);
	}
	if (!config_key_of_peer(k))
		w->config->key_line[k - config_keys] = config_setting_source_line(setting);
	return 0;
}

static int read_group(const struct walk *w, const char *group, const config_setting_t *setting, void *base)
{
	if (config_setting_type(setting) != CONFIG_TYPE_GROUP)
		return refuse(w, setting, "%s is no group; expected %s: { key = value; ... };", group, group);
	int rc = 0;
	for (int i = 0; i < config_setting_length(setting) && rc == 0; i++)
		rc = read_key(w, group, config_setting_get_elem(setting, (unsigned)i), base);
	return rc;
}

static int read_peers(const struct walk *w, const config_setting_t *setting)
{
	struct config *c = w->config;
	int type = config_setting_type(setting), count = config_setting_length(setting);
	if (type != CONFIG_TYPE_LIST && !(type == CONFIG_TYPE_ARRAY && count == 0))
		return refuse(w, setting,
			"peers is no list of groups; expected peers = ( { name = ...; id = ...; url = ...; }, ... );");
	if (count > CONFIG_MAX_PEERS)
		return refuse(w, setting, "%d peers; expected at most %d", count, CONFIG_MAX_PEERS);
	c->peers = must_calloc((size_t)count, sizeof *c->peers);
	for (int i = 0; i < count; i++) {
		const config_setting_t *entry = config_setting_get_elem(setting, (unsigned)i);
		struct config_peer *peer = &c->peers[c->peer_count++];
		for (const struct config_key *k = config_keys; k->path != NULL; k++)
			if (config_key_of_peer(k))
				config_key_set_initial(k, peer);
		peer->line = config_setting_source_line(entry);
		if (config_setting_type(entry) != CONFIG_TYPE_GROUP)
			return refuse(w, entry,
				"entry %d of peers is no group; expected { name = ...; id = ...; url = ...; }", i + 1);
		int rc = read_group(w, "peers", entry, peer);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static bool is_group(const char *name)
{
	size_t length = strlen(name);
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (strncmp(k->path, name, length) == 0 && k->path[length] == '.')
			return true;
	return false;
}

static int read_tree(const struct walk *w, const config_setting_t *root)
{
	int rc = 0;
	for (int i = 0; i < config_setting_length(root) && rc == 0; i++) {
		const config_setting_t *setting = config_setting_get_elem(root, (unsigned)i);
		const char *name = config_setting_name(setting);
		if (strcmp(name, "peers") == 0)
			rc = read_peers(w, setting);
		else if (is_group(name))
			rc = read_group(w, name, setting, w->config);
		else
			rc = refuse_unknown(w, setting, name);
	}
	return rc;
}

int config_parse(const char *text, size_t size, const char *path, struct config *c, struct fault *f)
{
	config_defaults(c);
	free(c->file);
	c->file = must_strdup(path);
	int rc = scan_text(text, size, path, f);
	if (rc != 0)
		return rc;
	config_t tree;
	config_init(&tree);
	struct walk w = {.config = c, .path = path, .fault = f};
	if (config_read_string(&tree, text) != CONFIG_TRUE)
		rc = fault_set(f, SAKIORI_ECONFIG,
			"%s:%d: %s; expected name: { key = value; ... }; with every key once", path,
			config_error_line(&tree),
			config_error_text(&tree) != NULL ? config_error_text(&tree) : "unreadable");
	else
		rc = read_tree(&w, config_root_setting(&tree));
	config_destroy(&tree);
	if (rc == 0) {
		for (const struct config_key *k = config_keys; k->path != NULL; k++)
			if (k->type == KEY_PATH)
				resolve(k, c);
		rc = config_check_whole(c, f);
	}
	return rc;
}

int config_load(const char *path, struct config *c, struct fault *f)
{
	*c = (struct config){0};
	uint8_t *text;
	size_t size;
	if (file_read(path, CONFIG_MAX_BYTES, &text, &size, f) != 0) {
		if (f != NULL)
			f->code = SAKIORI_ECONFIG;
		return SAKIORI_ECONFIG;
	}
	int rc = config_parse((const char *)text, size, path, c, f);
	free(text);
	return rc;
}
