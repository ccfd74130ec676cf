/* SPDX-License-Identifier: Apache-2.0 */
/* `sakiori init`: a commented configuration and the keys it names. */
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "cli/cli.h"
#include "config/config.h"
#include "net/identity.h"

struct init {
	const char *folder, *name, *model, *data, *eval, *listen, *network_secret;
	bool force, json, example;
	char *config, *key, *secret; /* paths of the files that are written */
	bool made_key, made_secret;
	char id[IDENTITY_STRING_SIZE];
};

static char *joined(const char *folder, const char *name)
{
	size_t size = strlen(folder) + strlen(name) + 2;
	char *path = must_alloc(size);
	snprintf(path, size, "%s%s%s", folder, folder[strlen(folder) - 1] == '/' ? "" : "/", name);
	return path;
}

/* What the command was given counts from the current folder, what stands in the file from the file's: so it is made absolute. */
static void set_path(char **value, const char *given)
{
	if (given == NULL)
		return;
	free(*value);
	char *here = NULL;
	if (given[0] == '/' || strncmp(given, "shape:", 6) == 0 || (here = getcwd(NULL, 0)) == NULL)
		*value = must_strdup(given);
	else
		*value = joined(here, given);
	free(here);
}

static void set_text(char **value, const char *given)
{
	if (given == NULL)
		return;
	free(*value);
	*value = must_strdup(given);
}

static bool is_system(const struct init *init)
{
	return strcmp(init->folder, "/etc/sakiori") == 0 || strcmp(init->folder, "/etc/sakiori/") == 0;
}

/* Fills in what this configuration says other than the defaults. */
static void choose(const struct init *init, struct config *c)
{
	set_text(&c->site.name, init->name);
	set_path(&c->model.path, init->model);
	set_path(&c->data.train, init->data);
	set_path(&c->data.eval, init->eval);
	if (init->listen != NULL)
		set_text(&c->listen.peer.items[0], init->listen);
	if (init->network_secret != NULL)
		set_path(&c->identity.network_secret, init->network_secret);
	else
		set_text(&c->identity.network_secret, "network.key");
	/* the system's own configuration uses the system's folders; any other keeps everything beside itself */
	if (!is_system(init)) {
		set_text(&c->site.state_directory, "state");
		set_text(&c->listen.admin_socket, "sakiori.sock");
	}
}

static int write_config(const struct init *init, struct fault *f)
{
	struct config c;
	config_defaults(&c);
	choose(init, &c);
	char *text = NULL;
	size_t size = 0;
	FILE *stream = open_memstream(&text, &size);
	int rc = stream != NULL ? config_write_commented(stream, &c) : SAKIORI_ENOMEM;
	if (stream != NULL)
		fclose(stream);
	if (rc != 0)
		fault_set(f, rc, "%s: no memory to write it", init->config);
	else
		rc = file_replace(init->config, text, size, 0644, f);
	free(text);
	config_fini(&c);
	return rc;
}

/* Under systemd the daemon runs as user sakiori, whoever made its keys. */
static int give_to_daemon(const struct init *init, const char *path, struct fault *f)
{
	const struct passwd *user = is_system(init) && geteuid() == 0 ? getpwnam("sakiori") : NULL;
	if (user != NULL && chown(path, user->pw_uid, user->pw_gid) != 0)
		return fault_errno(f, "%s: cannot give it to user sakiori", path);
	return 0;
}

/* Makes the keys that are not there; one that is stays as it is. */
static int make_keys(struct init *init, struct fault *f)
{
	struct identity *identity = NULL;
	int rc;
	if (access(init->key, F_OK) == 0) {
		rc = identity_load(init->key, &identity, f);
	} else {
		rc = identity_generate(&identity, f);
		if (rc == 0)
			rc = identity_save(identity, init->key, false, f);
		init->made_key = rc == 0;
		if (rc == 0)
			rc = give_to_daemon(init, init->key, f);
	}
	if (rc == 0)
		identity_id_string(identity_public(identity), init->id);
	identity_free(identity);
	if (rc == 0 && init->network_secret == NULL && access(init->secret, F_OK) != 0) {
		rc = network_secret_generate(init->secret, f);
		init->made_secret = rc == 0;
		if (rc == 0)
			rc = give_to_daemon(init, init->secret, f);
	}
	return rc;
}

static void report(const struct init *init)
{
	struct config c;
	struct fault missing = {0};
	bool complete = config_load(init->config, &c, &missing) == 0 && config_check_files(&c, &missing) == 0;
	config_fini(&c);
	if (init->json) {
		json_t *object = json_pack("{s:s, s:s, s:b, s:b, s:s, s:b}", "config", init->config, "identity_key",
			init->key, "made_identity_key", init->made_key, "made_network_secret", init->made_secret, "id",
			init->id, "complete", complete);
		if (!complete)
			json_object_set_new(object, "missing", json_string(missing.text));
		cli_print_json(object);
		return;
	}
	printf("%s is written.\n", init->config);
	printf("%s %s. This site's id, for its neighbours' `peers`:\n%s\n", init->key,
		init->made_key ? "is new" : "stays as it was", init->id);
	if (init->made_secret)
		printf("%s is new. All sites of a network share one secret: carry it, secretly, to the others,\n"
		       "or replace it by theirs.\n",
			init->secret);
	if (!complete)
		printf("Still missing: %s\n", missing.text);
	printf("Next: add the neighbours to `peers`, then sakiorid -c %s\n", init->config);
}

static int run(struct init *init, struct fault *f)
{
	if (!init->force && access(init->config, F_OK) == 0)
		return fault_set(f, SAKIORI_EBUSY, "%s exists already; use --force to replace it (keys always stay)",
			init->config);
	int rc = file_make_directories(init->folder, 0755, f);
	if (rc == 0)
		rc = make_keys(init, f);
	if (rc == 0)
		rc = write_config(init, f);
	if (rc == 0)
		report(init);
	return rc;
}

static int print_example(void)
{
	struct config c;
	config_defaults(&c);
	int rc = config_write_commented(stdout, &c);
	config_fini(&c);
	return rc == 0 ? EXIT_CODE_OK : EXIT_CODE_FAILURE;
}

int cmd_init(int argc, char **argv)
{
	struct init init = {.folder = "."};
	const struct cli_option options[] = {
		{"dir", CLI_TEXT, &init.folder, "DIR",
			"where sakiorid.conf and the keys go (default: the current folder)"},
		{"name", CLI_TEXT, &init.name, "NAME", "what this site is called (default: the host's name)"},
		{"model", CLI_TEXT, &init.model, "FILE", "the base model"},
		{"data", CLI_TEXT, &init.data, "FILE", "this site's training rows, JSONL"},
		{"eval", CLI_TEXT, &init.eval, "FILE", "rows to evaluate on, JSONL"},
		{"listen", CLI_TEXT, &init.listen, "URL", "where neighbours may connect (default: tcp://0.0.0.0:7411)"},
		{"network-secret", CLI_TEXT, &init.network_secret, "FILE",
			"the network's secret, if there is one already"},
		{"force", CLI_FLAG, &init.force, NULL, "replace an existing sakiorid.conf"},
		{"example", CLI_FLAG, &init.example, NULL,
			"print a configuration with every key at its default, and write nothing"},
		{"json", CLI_FLAG, &init.json, NULL, "print one JSON object"},
		{0},
	};
	int words;
	int code = cli_parse(argc, argv, "[--dir DIR] [--model FILE] [--data FILE]", options, 0, &words);
	if (code != CLI_CONTINUE)
		return code;
	if (init.example)
		return print_example();
	if (init.folder[0] == 0)
		return cli_usage("init", "--dir is empty");
	init.config = joined(init.folder, "sakiorid.conf");
	init.key = joined(init.folder, "identity.key");
	init.secret = joined(init.folder, "network.key");
	struct fault f = {0};
	code = run(&init, &f) == 0 ? EXIT_CODE_OK : cli_fail(&f);
	free(init.config);
	free(init.key);
	free(init.secret);
	return code;
}
