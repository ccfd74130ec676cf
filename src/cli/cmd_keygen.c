/* SPDX-License-Identifier: Apache-2.0 */
/* `sakiori keygen`: a site's identity key, or the secret that all sites of a network share. */
#include <stdio.h>

#include "cli/cli.h"
#include "net/identity.h"

static int make_identity(const char *path, bool json, struct fault *f)
{
	struct identity *identity;
	int rc = identity_generate(&identity, f);
	if (rc != 0)
		return rc;
	rc = identity_save(identity, path, false, f);
	if (rc == 0) {
		char id[IDENTITY_STRING_SIZE];
		identity_id_string(identity_public(identity), id);
		if (json)
			cli_print_json(json_pack("{s:s, s:s}", "file", path, "id", id));
		else
			printf("%s\nWritten to %s. The line above is public: give it to your neighbours, for their "
			       "`peers`.\n",
				id, path);
	}
	identity_free(identity);
	return rc;
}

static int make_network_secret(const char *path, bool json, struct fault *f)
{
	int rc = network_secret_generate(path, f);
	if (rc != 0)
		return rc;
	if (json)
		cli_print_json(json_pack("{s:s}", "file", path));
	else
		printf("Written to %s. Carry it, secretly, to every site of this network, and to nobody else.\n", path);
	return 0;
}

int cmd_keygen(int argc, char **argv)
{
	const char *out = NULL;
	bool network = false, json = false;
	const struct cli_option options[] = {
		{"out", CLI_TEXT, &out, "FILE", "where to write it; an existing file is refused"},
		{"network", CLI_FLAG, &network, NULL, "make a network secret instead of a site's identity key"},
		{"json", CLI_FLAG, &json, NULL, "print one JSON object"},
		{0},
	};
	int words;
	int code = cli_parse(argc, argv, "[--network] --out FILE", options, 0, &words);
	if (code != CLI_CONTINUE)
		return code;
	if (out == NULL)
		return cli_usage("keygen", "--out FILE is missing");
	struct fault f = {0};
	if ((network ? make_network_secret : make_identity)(out, json, &f) != 0)
		return cli_fail(&f);
	return EXIT_CODE_OK;
}
