/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "config/config.h"
#include "config/keys.h"
#include "config/units.h"

/* The least that a configuration must say. */
#define LEAST "model: { path = \"m.gguf\"; }; data: { train = \"t.jsonl\"; };\n"

static const char everything[] =
	"site: { name = \"north-1\"; state_directory = \"state\"; log_level = \"debug\"; };\n"
	"listen: { peer = [\"tcp://[::]:7412\", \"ipc:///run/p.sock\"]; http = \"[::1]:80\"; admin_socket = "
	"\"/run/a.sock\"; };\n"
	"identity: { key = \"/etc/k\"; network_secret = \"../n.key\"; };\n"
	"model: { path = \"shape:tiny\"; base_dtype = \"f32\"; device = \"cuda:1\"; memory = \"blocks\"; variants = "
	"\"timed\"; threads = 3; };\n"
	"data: { train = \"a \\\"b\\\" \\\\.jsonl\"; eval = \"e.jsonl\"; max_file = \"1.5 KiB\"; eval_rows = 0; "
	"max_seq = 64;\n"
	"  over_long = \"refuse\"; token_cache = false; batch_rows = 2; micro_tokens = 64; };\n"
	"adapter: { rank = 4; alpha = 0.1; targets = \"q,down\"; rslora = true; rank_pattern = \"q=8\"; alpha_pattern "
	"= "
	"\"down=3\"; dropout = 0.1; };\n"
	"optimizer: { lr = 1e-3; lora_plus = 4; schedule = \"wsd\"; decay_share = 0.5; warmup_steps = 7; weight_decay "
	"= 0.01; clip = 0; };\n"
	"run: { name = \"r.1\"; rounds = 3; local_steps = 2; seed = 5000000000L; gamma = 0.5; deadline = \"1.5min\";\n"
	"  min_deadline = \"250ms\"; eval_every = 0; start = \"paused\"; };\n"
	"publish: { directory = \"pub\"; base_model = \"someone/base\"; keep = 2; };\n"
	"peers = (\n"
	"  { name = \"south\"; id = \"sakiori1-abc\"; url = \"tcp://south.example:7411\"; },\n"
	"  { name = \"west\"; id = \"sakiori1-def\"; url = [\"ipc:///run/w.sock\", \"tcp://10.0.0.1:1\"]; dial = "
	"false; }\n"
	");\n";

static int parse(const char *text, struct config *c, struct fault *f)
{
	return config_parse(text, strlen(text), "/etc/sakiori/sakiorid.conf", c, f);
}

START_TEST(the_least_configuration_has_every_default)
{
	struct config c, initial;
	config_defaults(&initial);
	ck_assert_int_eq(parse(LEAST, &c, NULL), 0);
	ck_assert_str_eq(c.model.path, "/etc/sakiori/m.gguf");
	ck_assert_str_eq(c.data.train, "/etc/sakiori/t.jsonl");
	ck_assert_str_eq(c.identity.key, "/etc/sakiori/identity.key");
	ck_assert_str_eq(c.identity.network_secret, "");
	ck_assert_str_eq(c.data.eval, "");
	ck_assert_str_ne(c.site.name, "");
	ck_assert_uint_eq(c.listen.peer.count, 1);
	ck_assert_str_eq(c.listen.peer.items[0], "tcp://0.0.0.0:7411");
	ck_assert_str_eq(c.listen.http, "127.0.0.1:9411");
	ck_assert_str_eq(c.listen.admin_socket, "/run/sakiori/sakiori.sock");
	ck_assert_str_eq(c.site.state_directory, "/var/lib/sakiori");
	ck_assert_uint_eq(c.run.deadline, 60000);
	ck_assert_uint_eq(c.run.min_deadline, 1000);
	ck_assert_uint_eq(c.data.max_file, (uint64_t)4 << 30);
	ck_assert_double_eq(c.optimizer.lr, 2e-4);
	ck_assert_str_eq(c.run.start, "auto");
	ck_assert_double_eq(c.adapter.alpha, 32);
	ck_assert_uint_eq(c.peer_count, 0);
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (k->type != KEY_PATH && !config_key_of_peer(k) && k->offset != offsetof(struct config, site.name) &&
			k->offset != offsetof(struct config, adapter.alpha))
			ck_assert_msg(config_key_equal(k, &c, &initial), "%s", k->path);
	config_fini(&c);
	config_fini(&c);
	config_fini(&initial);
}
END_TEST

START_TEST(every_key_can_be_given_and_is_stored)
{
	struct config c;
	struct fault f = {0};
	ck_assert_msg(parse(everything, &c, &f) == 0, "%s", f.text);
	struct config initial;
	config_defaults(&initial);
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (!config_key_of_peer(k)) {
			ck_assert_msg(c.key_line[k - config_keys] > 0, "%s is not in this test", k->path);
			ck_assert_msg(!config_key_equal(k, &c, &initial), "%s is at its default", k->path);
		}
	config_fini(&initial);
	ck_assert_str_eq(c.site.name, "north-1");
	ck_assert_str_eq(c.site.state_directory, "/etc/sakiori/state");
	ck_assert_uint_eq(c.listen.peer.count, 2);
	ck_assert_str_eq(c.listen.peer.items[1], "ipc:///run/p.sock");
	ck_assert_str_eq(c.identity.network_secret, "/etc/sakiori/../n.key");
	ck_assert_str_eq(c.model.path, "shape:tiny");
	ck_assert_str_eq(c.data.train, "/etc/sakiori/a \"b\" \\.jsonl");
	ck_assert_uint_eq(c.data.max_file, 1536);
	ck_assert_int_eq(c.run.seed, 5000000000);
	ck_assert_uint_eq(c.run.deadline, 90000);
	ck_assert_uint_eq(c.run.min_deadline, 250);
	ck_assert_double_eq(c.optimizer.clip, 0);
	ck_assert_uint_eq(c.peer_count, 2);
	ck_assert_str_eq(c.peers[0].url.items[0], "tcp://south.example:7411");
	ck_assert(c.peers[0].dial);
	ck_assert(!c.peers[1].dial);
	ck_assert_uint_eq(c.peers[1].url.count, 2);
	ck_assert_uint_eq(c.peers[1].line, 14);
	config_fini(&c);
}
END_TEST

static const struct {
	const char *text;
	const char *says;
} bad[] = {
	{"run: {\n ruonds = 5;\n};", ":2: unknown key run.ruonds; the nearest known key is run.rounds"},
	{"run: {\n lr = 5;\n};", ":2: unknown key run.lr; the nearest known key is optimizer.lr"},
	{"\nlr = 5;", ":2: unknown key lr; the nearest known key is optimizer.lr"},
	{"\nrnu: { rounds = 1; };", ":2: unknown key rnu; "},
	{"peers = (\n{\nnam = \"x\"; });", ":3: unknown key peers.nam; the nearest known key is peers.name"},
	{"run: {\n rounds = 5;\n rounds = 6;\n};", ":3: duplicate setting name"},
	{"run: { rounds = 5; };\nrun: { seed = 6; };", ":2: duplicate setting name"},
	{"run: {\n rounds = 5;\n", ":3: syntax error"},
	{"run: { rounds = 5; \n};\n}", ":3: syntax error"},
	{"run: { rounds = \"many\"; };",
		":1: run.rounds is the string \"many\"; expected an integer from 1 to 1000000000"},
	{"run: { rounds = 3.0; };", ":1: run.rounds is the number 3; expected an integer"},
	{"run: { rounds = 0; };", ":1: run.rounds is the integer 0; expected an integer from 1"},
	{"run: { rounds = true; };", ":1: run.rounds is true; expected an integer"},
	{"run: { rounds = 5000000000; };", ":1: the integer 5000000000 is too large"},
	{"run: { rounds = 0xffffffff; };", ":1: the integer 0xffffffff is too large"},
	{"run: { rounds = 5000000000L; };", ":1: run.rounds is the integer 5000000000; expected an integer from 1"},
	{"/* \n */ run: { rounds = 99999999999999999999L; };", ":2: the integer 99999999999999999999L is too large"},
	{"run: { gamma = 1.5; };", ":1: run.gamma is the number 1.5; expected a number from 0.001 to 1"},
	{"optimizer: { lr = 1e999; };", ":1: optimizer.lr is the number inf; expected a number"},
	{"run: { deadline = 30; };", "run.deadline is the integer 30; expected a duration with its unit"},
	{"run: { deadline = \"30\"; };", "run.deadline is the string \"30\"; expected a duration"},
	{"run: { deadline = \"2d\"; };", "from \"100ms\" to \"1d\""},
	{"data: { max_file = \"64MB\"; };", "expected a size with its unit (B, KiB"},
	{"run: { start = \"now\"; };", "expected one of the words \"auto\" \"paused\""},
	{"site: { name = { }; };", "site.name is a group { }; expected a string"},
	{"site: { name = \"a b\"; };", "letters, digits"},
	{"site: { name = \"a\\x01\\nb\" \"2345678901234567890123456789012345678901234567890123456789012345\"; };",
		"\"a??b2345"},
	{"listen: { peer = [1, 2]; };", "expected a string in quotes, or a list"},
	{"listen: { peer = \"udp://x:1\"; };", ":1: listen.peer has \"udp://x:1\"; expected a URL that begins with"},
	{"listen: { peer = \"tcp://x:70000\"; };", "port from 1 to 65535"},
	{"listen: { peer = \"tcp://::1:7411\"; };", "tcp://ADDRESS:PORT"},
	{"listen: { peer = \"ipc://p.sock\"; };", "absolute path"},
	{"listen: { http = \"9411\"; };", "listen.http is \"9411\"; expected ADDRESS:PORT"},
	{"run = 5;", ":1: run is no group"},
	{"peers = (\n5);", "entry 1 of peers is no group"},
	{"peers = 5;", "peers is no list"},
	{"\n@include \"other.conf\"", ":2: @include"},
	{"run: {\n name = \"abc;\n};\n", ":2: a string begins here and never ends"},
	{"run: { name = \"abc\\\"", ":1: a string begins here"},
	{"a = \"", ":1: a string begins here"},
	{"run: {\n name = 5 \"abc\";\n};\n", ":2: a string stands where no value can"},
	{"peers = (),\n\"abc\";\n", ":2: a string stands"},
	{"\n((((((((((((((((((", ":2: brackets within brackets"},
	{LEAST "model: 3", ":2: duplicate setting name"},
	{"", "model.path is missing"},
	{"model: { path = \"m\"; };", "data.train is missing"},
	{LEAST "adapter: {\n targets = \"q,x\"; };", ":3: adapter.targets is \"q,x\""},
	{LEAST "adapter: { targets = \"q,q\"; };", "each once"},
	{LEAST "adapter: { targets = \"q,\"; };", "adapter.targets is"},
	{"model: { path = \"m\"; device = \"gpu\"; }; data: { train = \"t\"; };",
		":1: model.device is \"gpu\"; expected cpu, cuda"},
	{"model: { path = \"m\"; device = \"cuda:\"; }; data: { train = \"t\"; };", "model.device"},
	{"model: { path = \"m\"; }; data: { train = \"t\"; micro_tokens = 256; };", "expected at least 512"},
	{LEAST "run: { deadline = \"2s\"; min_deadline = \"3s\"; };",
		":2: run.min_deadline is longer than run.deadline; expected at most \"2s\""},
	{LEAST "run: { name = \"a/b\"; };", "run.name"},
#define SECRET "identity: { network_secret = \"n\"; };\n"
#define PEER(name, id, url) "{ name = \"" name "\"; id = \"" id "\"; url = \"" url "\"; }"
	{LEAST "peers = (" PEER("a", "x", "tcp://a:1") ");", "identity.network_secret is missing"},
	{LEAST SECRET "peers = (" PEER("a", "x", "tcp://a:1") ",\n" PEER("a", "y", "tcp://b:1") ");",
		":4: a second peer is called a"},
	{LEAST SECRET "peers = (" PEER("a", "x", "tcp://a:1") ",\n" PEER("b", "x", "tcp://b:1") ");",
		":4: peer b has the id of peer a"},
	{LEAST SECRET "peers = (" PEER("a b", "x", "tcp://a:1") ");", ":3: peer 1 has the name \"a b\""},
	{LEAST SECRET "peers = (" PEER("a", "x y", "tcp://a:1") ");", "blank"},
	{LEAST SECRET "peers = (" PEER("a", "x", "http://a:1") ");",
		"peer a has the url \"http://a:1\"; expected a URL"},
	{LEAST SECRET "peers = ({ name = \"a\"; url = \"tcp://a:1\"; });", "peer a has no id"},
	{LEAST SECRET "peers = ({ name = \"a\"; id = \"x\"; });", "peer a has no url"},
};

START_TEST(what_is_wrong_is_said_with_its_line)
{
	struct config c;
	struct fault f = {0};
	ck_assert_int_eq(parse(bad[_i].text, &c, &f), SAKIORI_ECONFIG);
	ck_assert_msg(strstr(f.text, bad[_i].says) != NULL, "%s\nsays: %s", bad[_i].text, f.text);
	ck_assert_msg(strncmp(f.text, "/etc/sakiori/sakiorid.conf:", 27) == 0, "%s", f.text);
	config_fini(&c);
}
END_TEST

START_TEST(what_only_looks_wrong_is_taken)
{
	static const char *const good[] = {
		LEAST "# 99999999999 @include\n",
		LEAST "/* 99999999999\n@include \"x\" */",
		LEAST "// 99999999999\n",
		LEAST "optimizer: { lr = .0099999999999; };",
		LEAST "optimizer: { lr = 99999999999.5e-11; };",
		LEAST "run: { name = \"99999999999\"; seed = 2147483647; };",
		LEAST "run: { seed = 0xffL; };",
		LEAST "run: { gamma = 1; };",
		LEAST "listen: { peer = []; http = \"\"; };",
		LEAST "peers = ();",
		LEAST "peers = [];",
		LEAST "listen: { peer = (\"tcp://a:1\", \"tcp://b:2\"); };",
		LEAST SECRET "peers = ({ name = \"a\"; id = \"x\"; dial = false; });",
	};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct config c;
		struct fault f = {0};
		ck_assert_msg(parse(good[i], &c, &f) == 0, "%s: %s", good[i], f.text);
		config_fini(&c);
	}
}
END_TEST

START_TEST(a_nul_byte_does_not_hide_the_rest)
{
	static const char text[] = LEAST "\0run: { rounds = 1; };";
	struct config c;
	struct fault f = {0};
	ck_assert_int_eq(config_parse(text, sizeof text - 1, "x.conf", &c, &f), SAKIORI_ECONFIG);
	ck_assert_str_eq(f.text, "x.conf:2: a NUL byte; expected text");
	config_fini(&c);
}
END_TEST

START_TEST(a_socket_path_has_room_for_107_bytes)
{
	for (int length = 107; length <= 108; length++) {
		char text[512], path[128] = "/";
		memset(path + 1, 's', (size_t)length - 1);
		path[length] = 0;
		snprintf(text, sizeof text, LEAST "listen: { admin_socket = \"%s\"; };", path);
		struct config c;
		struct fault f = {0};
		ck_assert_int_eq(parse(text, &c, &f), length == 107 ? 0 : SAKIORI_ECONFIG);
		ck_assert(length == 107 || strstr(f.text, "a path of 108 bytes; expected at most 107") != NULL);
		config_fini(&c);
	}
}
END_TEST

START_TEST(relative_paths_count_from_the_folder_of_the_file)
{
	char folder[] = "/tmp/sakiori-config-XXXXXX", path[64], here[PATH_MAX];
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/one.conf", folder);
	ck_assert_int_eq(file_replace(path, LEAST, strlen(LEAST), 0600, NULL), 0);
	ck_assert_ptr_nonnull(getcwd(here, sizeof here));
	struct config c;
	ck_assert_int_eq(config_load(path, &c, NULL), 0);
	char expected[96];
	snprintf(expected, sizeof expected, "%s/m.gguf", folder);
	ck_assert_str_eq(c.model.path, expected);
	config_fini(&c);
	ck_assert_int_eq(chdir(folder), 0);
	ck_assert_int_eq(config_load("one.conf", &c, NULL), 0);
	ck_assert_str_eq(c.model.path, expected);
	config_fini(&c);
	ck_assert_int_eq(chdir(here), 0);
	unlink(path);
	struct fault f = {0};
	ck_assert_int_eq(config_load(path, &c, &f), SAKIORI_ECONFIG);
	ck_assert_int_eq(f.code, SAKIORI_ECONFIG);
	ck_assert_msg(strstr(f.text, path) != NULL, "%s", f.text);
	config_fini(&c);
	rmdir(folder);
}
END_TEST

/* What config_write_commented writes, as fresh text. */
static char *written(const struct config *c)
{
	char *text = NULL;
	size_t size;
	FILE *stream = open_memstream(&text, &size);
	ck_assert_int_eq(config_write_commented(stream, c), 0);
	fclose(stream);
	return text;
}

START_TEST(what_is_written_reads_back_as_the_same)
{
	struct config c, back;
	ck_assert_int_eq(parse(everything, &c, NULL), 0);
	char *text = written(&c);
	struct fault f = {0};
	ck_assert_msg(parse(text, &back, &f) == 0, "%s", f.text);
	struct config_change *changes;
	ck_assert_uint_eq(config_diff(&c, &back, &changes), 0);
	free(changes);
	free(text);
	config_fini(&back);
	config_fini(&c);
}
END_TEST

/* A file of the source tree as text. */
static char *source_file(const char *name)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s", getenv("SRCDIR") != NULL ? getenv("SRCDIR") : ".", name);
	uint8_t *text;
	size_t size;
	struct fault f = {0};
	ck_assert_msg(file_read(path, 1 << 20, &text, &size, &f) == 0, "%s", f.text);
	return (char *)text;
}

START_TEST(the_example_file_is_what_the_table_says)
{
	struct config initial;
	config_defaults(&initial);
	char *expected = written(&initial), *found = source_file("etc/sakiorid.conf");
	/* after a change to the table: sakiori init --example >etc/sakiorid.conf */
	ck_assert_str_eq(expected, found);
	/* with every key taken out of its comment it is a configuration */
	char *out = found;
	for (const char *in = found; *in != 0; in++)
		if (!(*in == '#' && in[1] != ' '))
			*out++ = *in;
	*out = 0;
	char *blank = strstr(found, "what `sakiori id` prints there");
	ck_assert_ptr_nonnull(blank);
	for (; *blank != '"'; blank++)
		*blank = 'x';
	struct config c;
	struct fault f = {0};
	ck_assert_msg(parse(found, &c, &f) == 0, "%s", f.text);
	for (const struct config_key *k = config_keys; k->path != NULL; k++)
		if (!config_key_of_peer(k))
			ck_assert_msg(c.key_line[k - config_keys] > 0, "%s", k->path);
	ck_assert_uint_eq(c.peer_count, 1);
	config_fini(&c);
	free(found);
	free(expected);
	config_fini(&initial);
}
END_TEST

/* Takes the text; fresh text with each quote as \\(dq. */
static char *quotes_for_troff(char *text)
{
	char *out = must_calloc(4 * strlen(text) + 1, 1), *at = out;
	for (const char *c = text; *c != 0; c++)
		if (*c == '"')
			at = stpcpy(at, "\\(dq");
		else
			*at++ = *c;
	free(text);
	return out;
}

START_TEST(the_manual_has_every_key_with_its_default_and_no_other)
{
	char *manual = source_file("doc/man/sakiorid.conf.5");
	size_t entries = 0;
	struct config initial;
	struct config_peer peer = {0};
	config_defaults(&initial);
	for (const struct config_key *k = config_keys; k->path != NULL; k++) {
		char *line = NULL;
		size_t size;
		FILE *stream = open_memstream(&line, &size);
		fprintf(stream, "\n.It Va %s ", k->path);
		if (config_key_of_peer(k))
			config_key_set_initial(k, &peer);
		if (k->initial == NULL) {
			fprintf(stream, "Pq required\n");
		} else {
			fprintf(stream, "= ");
			config_key_print(
				k, config_key_of_peer(k) ? (const void *)&peer : (const void *)&initial, stream);
			putc('\n', stream);
		}
		fclose(stream);
		line = quotes_for_troff(line);
		const char *entry = strstr(manual, line);
		ck_assert_msg(entry != NULL, "the manual lacks%s", line);
		free(line);
		if (k->type != KEY_STRING && k->type != KEY_PATH && k->type != KEY_BOOL) {
			char expected[160];
			config_key_expected(k, expected, sizeof expected);
			/* less the first letter, which begins a sentence there */
			char *sentence = quotes_for_troff(must_strdup(expected + 1));
			const char *found = strstr(entry, sentence), *next = strstr(entry + 1, "\n.It Va ");
			ck_assert_msg(found != NULL && (next == NULL || found < next), "%s: the manual lacks %s",
				k->path, expected);
			free(sentence);
		}
		if (config_key_of_peer(k))
			config_key_clear(k, &peer);
	}
	for (const char *at = manual; (at = strstr(at, "\n.It Va ")) != NULL; at++)
		entries++;
	ck_assert_uint_eq(entries, config_key_count());
	config_fini(&initial);
	free(manual);
}
END_TEST

START_TEST(durations_and_sizes_have_units)
{
	uint64_t v;
	static const struct {
		const char *text;
		uint64_t value;
	} durations[] = {{"250ms", 250}, {"30s", 30000}, {"1.5 s", 1500}, {"5min", 300000}, {"5m", 300000},
		{"2h", 7200000}, {"1d", 86400000}, {"0s", 0}};
	for (size_t i = 0; i < sizeof durations / sizeof *durations; i++) {
		ck_assert_int_eq(units_parse_duration(durations[i].text, &v), 0);
		ck_assert_uint_eq(v, durations[i].value);
	}
	static const char *const wrong[] = {"", "s", "30", "-1s", "+1s", " 1s", "1s ", "1  s", "1M", "1sec", "nans",
		"0x1s", "1e3s", "1.2.3s", ".s", "99999999999999999d", "1MiB"};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		ck_assert_msg(units_parse_duration(wrong[i], &v) == SAKIORI_EFORMAT, "%s", wrong[i]);
	ck_assert_int_eq(units_parse_size("64MiB", &v), 0);
	ck_assert_uint_eq(v, 64 << 20);
	ck_assert_int_eq(units_parse_size("64MB", &v), SAKIORI_EFORMAT);
	ck_assert_int_eq(units_parse_size("1s", &v), SAKIORI_EFORMAT);
	char text[UNITS_TEXT_SIZE];
	const uint64_t values[] = {0, 1, 999, 1000, 61000, 120000, 86400000, (uint64_t)1 << 53};
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		units_format_duration(values[i], text);
		ck_assert_int_eq(units_parse_duration(text, &v), 0);
		ck_assert_uint_eq(v, values[i]);
		units_format_size(values[i], text);
		ck_assert_int_eq(units_parse_size(text, &v), 0);
		ck_assert_uint_eq(v, values[i]);
	}
	units_format_duration(120000, text);
	ck_assert_str_eq(text, "2min");
}
END_TEST

START_TEST(a_reload_knows_what_changed_and_what_needs_a_restart)
{
	struct config before, after;
	ck_assert_int_eq(
		parse(LEAST SECRET "peers = (" PEER("a", "x", "tcp://a:1") "," PEER("b", "y", "tcp://b:1") ");",
			&before, NULL),
		0);
	ck_assert_int_eq(
		parse(LEAST SECRET "site: { log_level = \"warn\"; }; run: { rounds = 7; };\n"
				   "peers = (" PEER("c", "z", "tcp://c:1") "," PEER("a", "x", "tcp://a:2") ");",
			&after, NULL),
		0);
	struct config_change *changes;
	size_t count = config_diff(&before, &after, &changes);
	static const struct config_change expected[] = {{"site.log_level", false}, {"run.rounds", true},
		{"peers.c", false}, {"peers.a", false}, {"peers.b", false}};
	ck_assert_uint_eq(count, 5);
	for (size_t i = 0; i < count; i++) {
		ck_assert_str_eq(changes[i].path, expected[i].path);
		ck_assert_int_eq(changes[i].needs_restart, expected[i].needs_restart);
	}
	free(changes);
	config_fini(&before);
	config_fini(&after);
}
END_TEST

START_TEST(a_peer_with_our_own_id_is_refused)
{
	struct config c;
	struct fault f = {0};
	ck_assert_int_eq(parse(everything, &c, NULL), 0);
	ck_assert_int_eq(config_check_own_id(&c, "sakiori1-xyz", &f), 0);
	ck_assert_int_eq(config_check_own_id(&c, "sakiori1-def", &f), SAKIORI_ECONFIG);
	ck_assert_str_eq(f.text,
		"/etc/sakiori/sakiorid.conf:14: peer west has the id of this site itself; expected another site's");
	config_fini(&c);
}
END_TEST

START_TEST(files_that_are_named_must_be_there_and_not_too_large)
{
	char folder[] = "/tmp/sakiori-config-XXXXXX", path[64];
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/one.conf", folder);
	static const char text[] =
		"model: { path = \"m\"; };\ndata: { train = \"t\"; eval = \"e\"; max_file = \"5B\"; };\n" SECRET;
	struct config c;
	ck_assert_int_eq(config_parse(text, strlen(text), path, &c, NULL), 0);
	const struct {
		const char *name, *contents, *says;
	} steps[] = {{"identity.key", "k", "identity.key"}, {"n", "k", ":3: identity.network_secret"},
		{"m", "k", ":1: model.path"}, {"t", "12345", ":2: data.train"}, {"e", "123456", ":2: data.eval"}};
	for (size_t i = 0; i < 5; i++) {
		struct fault f = {0};
		ck_assert_int_eq(config_check_files(&c, &f), SAKIORI_ECONFIG);
		ck_assert_msg(
			strstr(f.text, steps[i].says) != NULL && strstr(f.text, "No such file") != NULL, "%s", f.text);
		snprintf(path, sizeof path, "%s/%s", folder, steps[i].name);
		ck_assert_int_eq(file_replace(path, steps[i].contents, strlen(steps[i].contents), 0600, NULL), 0);
	}
	struct fault f = {0};
	ck_assert_int_eq(config_check_files(&c, &f), SAKIORI_ECONFIG);
	ck_assert_msg(strstr(f.text, "has 6 bytes; expected at most 5") != NULL, "%s", f.text);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(config_check_files(&c, &f), SAKIORI_ECONFIG);
	ck_assert_msg(strstr(f.text, "no regular file") != NULL, "%s", f.text);
	rmdir(path);
	ck_assert_int_eq(file_replace(path, "12345", 5, 0600, NULL), 0);
	ck_assert_int_eq(config_check_files(&c, &f), 0);
	for (size_t i = 0; i < 5; i++) {
		snprintf(path, sizeof path, "%s/%s", folder, steps[i].name);
		unlink(path);
	}
	rmdir(folder);
	config_fini(&c);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("config");
	TCase *t = tcase_create("config");
	tcase_add_test(t, the_least_configuration_has_every_default);
	tcase_add_test(t, every_key_can_be_given_and_is_stored);
	tcase_add_loop_test(t, what_is_wrong_is_said_with_its_line, 0, (int)(sizeof bad / sizeof *bad));
	tcase_add_test(t, what_only_looks_wrong_is_taken);
	tcase_add_test(t, a_nul_byte_does_not_hide_the_rest);
	tcase_add_test(t, a_socket_path_has_room_for_107_bytes);
	tcase_add_test(t, relative_paths_count_from_the_folder_of_the_file);
	tcase_add_test(t, what_is_written_reads_back_as_the_same);
	tcase_add_test(t, the_example_file_is_what_the_table_says);
	tcase_add_test(t, the_manual_has_every_key_with_its_default_and_no_other);
	tcase_add_test(t, durations_and_sizes_have_units);
	tcase_add_test(t, a_reload_knows_what_changed_and_what_needs_a_restart);
	tcase_add_test(t, a_peer_with_our_own_id_is_refused);
	tcase_add_test(t, files_that_are_named_must_be_there_and_not_too_large);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
