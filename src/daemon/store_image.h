/* SPDX-License-Identifier: Apache-2.0 */
/* A site's image (site/site.h) in the store: which vector is which object, and the one transaction of a commit.
 * Blocking: the pool's lane only. */
#pragma once
#include "daemon/store.h"
#include "site/site.h"

/* The effects that site_new wants; `store` must outlive the site. */
struct site_store store_image_effects(struct store *store);

/* What site.h says of site_store's functions. */
int store_image_load(struct store *s, struct site_image *image, struct fault *f);
int store_image_commit(struct store *s, const struct site_image *image, struct fault *f);
int store_image_load_own(struct store *s, uint64_t version, float *out, size_t n, struct fault *f);
