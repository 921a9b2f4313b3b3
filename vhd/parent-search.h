/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_PARENT_SEARCH_H
#define VHD_PARENT_SEARCH_H

/* Where a differencing disk's parent may be. Nothing is opened here but the locators in the child itself. */

#include "vhd/layer.h"

#define PARENT_CANDIDATES_MAX (VHD_LOCATORS + 1)

struct parent_candidates {
	unsigned count;
	char *paths[PARENT_CANDIDATES_MAX]; /* owned; absolute; in the order in which to try them, each once */
};

/*
 * W2ru, then W2ku, then MacX locators, then the header's name in `folder`, the child's, which relative paths start from
 * too. Locators that cannot be read are left out, and told to `warn` (NULL allowed) with a sentence. -ENOMEM.
 */
int parent_candidates_find(const struct layer *child, const char *folder, struct parent_candidates *ret,
                           void (*warn)(void *user, uint64_t offset, const char *sentence), void *user);

void parent_candidates_done(struct parent_candidates *candidates);

/* The folder of an absolute path; allocated, or NULL. */
char *path_folder(const char *path);

#endif
