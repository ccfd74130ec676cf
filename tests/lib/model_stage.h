/* SPDX-License-Identifier: Apache-2.0 */
/* A model folder in /tmp for one test: links to the files of a folder in tests/golden/architectures, and a configuration of
 * choice. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Makes the folder of architectures/NAME with its file CONFIG as config.json; the path is valid until the next call. Any folder
 * made before is gone. */
const char *stage_model(const char *name, const char *config);
/* Puts bytes in the place of one of its files. */
void stage_file(const char *name, const void *data, size_t size);
void stage_text(const char *name, const char *text);
/* Takes one away. */
void stage_remove(const char *name);
/* Removes the folder; safe when there is none. */
void stage_clear(void);
/* tests/golden/NAME in the source tree; valid until the next call. */
const char *stage_golden(const char *name);
