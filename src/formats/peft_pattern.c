/* SPDX-License-Identifier: Apache-2.0 */
/* PEFT takes the first key K of a pattern for which the regular expression "(.*\.)?(K)$" matches a module's name. Keys are nearly always names,
 * and those are understood here: the last parts of the module's name, or all of it behind a '^'. A '.' stands for itself. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "formats/json.h"
#include "formats/peft_private.h"

/* As many as there are layers with adapters. */
#define KEYS_LIMIT 8192

static int add_key(struct peft_pattern *p, const char *key, double value, struct fault *f)
{
	struct peft_pattern_key *k = &p->keys[p->count];
	char *to = k->module = must_strdup(key);
	p->count++;
	k->value = value;
	k->whole = *key == '^';
	for (const char *from = key + k->whole; *from; from++) {
		if (from[0] == '\\' && from[1] == '.')
			from++;
		else if (strchr("\\^$*+?()[]{}|", *from))
			return fault_set(f, SAKIORI_EUNSUPPORTED,
				"\"%.100s\" is a regular expression; only names of modules are supported", key);
		*to++ = *from;
	}
	*to = '\0';
	return 0;
}

int peft_pattern_parse(const json_t *config, const char *name, struct peft_pattern *out, struct fault *f)
{
	json_t *object = json_object_get(config, name), *value;
	const char *key;
	*out = (struct peft_pattern){0};
	if (object == NULL || json_is_null(object))
		return 0;
	if (!json_is_object(object) || json_object_size(object) > KEYS_LIMIT)
		return fault_set(f, SAKIORI_EFORMAT, "\"%s\": expected an object of at most %d keys, found %s", name,
			KEYS_LIMIT, json_kind(object));
	out->keys = must_calloc(json_object_size(object) + 1, sizeof *out->keys);
	json_object_foreach(object, key, value)
	{
		double number = json_number_value(value);
		int rc = number > 0 && number <= 1e9
				 ? add_key(out, key, number, f)
				 : fault_set(f, SAKIORI_EFORMAT, "\"%.100s\": expected a number above 0, at most 1e9",
					   key);
		if (rc != 0) {
			fault_wrap(f, "\"%s\"", name);
			return rc;
		}
	}
	return 0;
}

void peft_pattern_fini(struct peft_pattern *p)
{
	for (size_t i = 0; i < p->count; i++)
		free(p->keys[i].module);
	free(p->keys);
	*p = (struct peft_pattern){0};
}

double peft_pattern_value(const struct peft_pattern *p, const char *module, double other)
{
	size_t n = strlen(module);
	for (size_t i = 0; i < p->count; i++) {
		const struct peft_pattern_key *k = &p->keys[i];
		size_t size = strlen(k->module);
		bool ends = size <= n && strcmp(module + n - size, k->module) == 0;
		if (ends && (size == n || (!k->whole && module[n - size - 1] == '.')))
			return k->value;
	}
	return other;
}
