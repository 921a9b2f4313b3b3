/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_STAGED_H
#define VHD_STAGED_H

/*
 * A file that appears under its name complete, or not at all: it is made under another name beside it, and renamed.
 */

#include <stdbool.h>

#include "common/err.h"

struct staged {
	char *path;      /* owned: the name in the end, symlinks resolved when it exists */
	char *temporary; /* owned: where to make it; nothing is there after staged_begin */
	int replaced_fd; /* what is to be replaced, locked against users; -1: nothing */
};

/*
 * -EEXIST: `path` exists and `overwrite` is false. -EINVAL: it is no regular file. VHD_E_IN_USE: somebody has it
 * open. Ended by staged_commit or staged_abort, which are both safe on a struct that this left as it was.
 */
int staged_begin(const char *path, bool overwrite, struct staged *ret, struct err *err);

/* Makes the temporary file durable and gives it its name. On failure it is gone. */
int staged_commit(struct staged *file, struct err *err);

void staged_abort(struct staged *file);

#endif
