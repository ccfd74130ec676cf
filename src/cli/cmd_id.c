/* SPDX-License-Identifier: Apache-2.0 */
/* `sakiori id`: the public string by which neighbours pin this site. */
#include <stdio.h>

#include "base/hash.h"
#include "cli/cli.h"
#include "net/identity.h"

int cmd_id(int argc, char **argv)
{
	const char *key = "/etc/sakiori/identity.key";
	bool json = false;
	const struct cli_option options[] = {
		{"key", CLI_TEXT, &key, "FILE", "the identity key (default: /etc/sakiori/identity.key)"},
		{"json", CLI_FLAG, &json, NULL, "print one JSON object"},
		{0},
	};
	int words;
	int code = cli_parse(argc, argv, "[--key FILE]", options, 0, &words);
	if (code != CLI_CONTINUE)
		return code;
	struct identity *identity;
	struct fault f = {0};
	if (identity_load(key, &identity, &f) != 0) {
		if (f.code == SAKIORI_ENOTFOUND)
			fault_set(&f, SAKIORI_ENOTFOUND,
				"%s: there is no key: name another with --key, or make one with `sakiori init` or "
				"`sakiori keygen --out %s`",
				key, key);
		return cli_fail(&f);
	}
	const struct identity_public *public = identity_public(identity);
	char id[IDENTITY_STRING_SIZE], node[2 * IDENTITY_KEY_SIZE + 1];
	identity_id_string(public, id);
	hex_encode(public->node_id, sizeof public->node_id, node);
	if (json)
		cli_print_json(json_pack(
			"{s:s, s:s, s:I}", "id", id, "node_id", node, "generation", (json_int_t) public->generation));
	else
		puts(id);
	identity_free(identity);
	return EXIT_CODE_OK;
}
