/* SPDX-License-Identifier: Apache-2.0 */
/* What no single key can say: rules over the whole configuration. Any thread. */
#pragma once
#include "config/config.h"

/* SAKIORI_ECONFIG with "file:line: what was found, what is expected"; c's paths are absolute already. Fills in a
 * site.name that is empty (the host's) and an alpha of 0 (twice the rank). */
int config_check_whole(struct config *c, struct fault *f);
