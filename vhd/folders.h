/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_FOLDERS_H
#define VHD_FOLDERS_H

/* The folders that parents may be in. */

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct folders {
	size_t count;
	char **paths; /* owned; symlinks resolved */
};

/*
 * `leaf_folder` (resolved), the folder of `parent` (NULL: none) and `more` (NULL-terminated, or NULL). -errno: one of
 * `more` cannot be resolved.
 */
int folders_init(struct folders *folders, const char *leaf_folder, const char *parent, const char *const *more,
                 struct err *err);

void folders_done(struct folders *folders);

/* Whether `path` (absolute, symlinks resolved) lies in one of them, at any depth. */
bool folders_hold(const struct folders *folders, const char *path);

#endif
