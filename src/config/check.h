/* SPDX-License-Identifier: Apache-2.0 */
/* What no single key can say: rules over the whole configuration. Any thread. */
#pragma once
#include "config/config.h"

/* SAKIORI_ECONFIG with "file:line: what was found, what is expected"; c's paths are absolute already. A site.name that
 * is empty becomes the host's. */
int config_check_whole(struct config *c, struct fault *f);
